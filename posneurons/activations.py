"""MLP post-activations at word positions: streamed through a callback, or cached for interactive work.

Rows are sorted by length and cut into batches of at most so many tokens, right-padded, BOS at position 0. Hooks keep
the word positions of one layer at a time, and the unembedding is never computed, so memory is one batch whatever the
corpus. This module knows nothing of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from posneurons import distributed, models
from posneurons.display import Shown
from posneurons.errors import AlignmentError
from posneurons.memory import limit
from posneurons.neurons import NeuronSet
from posneurons.records import Activations, Corpus
from posneurons.statistics import pooled
from posneurons.words import At

BATCH_TOKENS = 2048
"""Tokens of a batch, padding included. On a CPU larger ones are slower: they leave the caches (experiments/LOG.md)."""

Consumer = Callable[[int, At, Int[Tensor, " word"], Float[Tensor, "word neuron"]], None]
"""Called as consumer(layer, at, words, values): `words` are numbers of words in the corpus, a row of `values` each."""


@dataclass(frozen=True)
class Batch:
    """Rows of a corpus side by side: `tokens` right-padded with BOS, and the rows' numbers and lengths (with BOS)."""

    rows: Int[ndarray, " batch"]
    lengths: Int[ndarray, " batch"]
    tokens: Int[Tensor, "batch pos"]

    def places(self, corpus: Corpus, position: Int[ndarray, " word"], words: ndarray) -> Int[Tensor, " place"]:
        """Index into the flattened (batch, pos) axes of each of `words`, all of whose rows are in this batch."""
        slot = np.searchsorted(self.rows, corpus.word_row[words])
        return torch.from_numpy(slot * self.tokens.shape[1] + position[words]).to(self.tokens.device)

    def token_places(self) -> Int[Tensor, " place"]:
        """Index into the flattened (batch, pos) axes of every real token after BOS."""
        pos = np.arange(self.tokens.shape[1])
        real = (pos >= 1) & (pos < self.lengths[:, None])
        return torch.from_numpy(np.flatnonzero(real)).to(self.tokens.device)


def batches(
    corpus: Corpus, device: torch.device | str, tokens: int = BATCH_TOKENS, *, limit: int | None = None
) -> Iterator[Batch]:
    """All rows of a corpus, sorted by length, in batches of at most `tokens` tokens (at least one row).

    In a call that processes share, those of this process. `limit` cuts them into smaller ones: the memory of processes
    may differ, and what they share must not.
    """
    lengths = np.diff(corpus.row_bounds) + 1
    for some in distributed.mine(_cut(lengths, np.argsort(lengths, kind="stable"), tokens)):
        for these in _cut(lengths, some, tokens if limit is None else min(limit, tokens)):
            rows = np.sort(these)
            padded = np.full((len(rows), lengths[rows].max()), corpus.bos, dtype=np.int64)
            for slot, row in enumerate(rows):
                padded[slot, 1 : lengths[row]] = corpus.tokens[corpus.row_bounds[row] : corpus.row_bounds[row + 1]]
            yield Batch(rows, lengths[rows], torch.from_numpy(padded).to(device))


def _cut(lengths: Int[ndarray, " row"], order: Int[ndarray, " some"], tokens: int) -> Iterator[Int[ndarray, " batch"]]:
    """Rows that come in order of their lengths, in stretches of at most `tokens` tokens (at least one row)."""
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and lengths[order[stop]] * (stop + 1 - start) <= tokens:
            stop += 1
        yield order[start:stop]
        start = stop


def sample_rows(corpus: Corpus, at: At, limit: int | None, rng: np.random.Generator) -> Corpus:
    """Rows drawn at random that hold at least `limit` readable words between them; all where there are fewer."""
    words = corpus.readable(at)
    if limit is None or len(words) <= limit:
        return corpus
    order = rng.permutation(corpus.n_rows)
    per_row = np.bincount(corpus.word_row[words], minlength=corpus.n_rows)
    enough = np.searchsorted(np.cumsum(per_row[order]), limit) + 1
    return corpus.select(np.isin(np.arange(corpus.n_rows), order[:enough]))


class WordIndex:
    """Which words can be read at a position, by row."""

    def __init__(self, corpus: Corpus, at: At) -> None:
        self.position = corpus.positions(at)
        words = corpus.readable(at)
        self._words = words[np.argsort(corpus.word_row[words], kind="stable")]
        self._bounds = np.searchsorted(corpus.word_row[self._words], np.arange(corpus.n_rows + 1))

    def of(self, rows: Int[ndarray, " batch"]) -> Int[ndarray, " word"]:
        """Numbers of the readable words in `rows`, row by row."""
        parts = [self._words[self._bounds[row] : self._bounds[row + 1]] for row in rows]
        return np.concatenate(parts) if parts else self._words[:0]


def check_fits(model: Any, corpus: Corpus) -> None:
    """Raise AlignmentError where a row is longer than the model's context, or a token outside its vocabulary."""
    info = models.describe(model)
    longest = int(np.diff(corpus.row_bounds).max(initial=0)) + 1
    if longest > info.n_ctx:
        raise AlignmentError(
            f"{corpus.name}: a row of {longest} tokens does not fit the model's context of {info.n_ctx}; "
            f"align with n_ctx={info.n_ctx}"
        )
    highest = max(int(corpus.tokens.max(initial=0)), corpus.bos)
    if highest >= info.d_vocab:
        raise AlignmentError(
            f"{corpus.name}: token {highest} is outside the model's vocabulary of {info.d_vocab}; "
            "align with this model's own tokenizer"
        )


def token_bar(corpus: Corpus, label: str, show: bool) -> Any:
    """A bar over the tokens of a corpus that this process will read; inside another bar it goes when it is done."""
    total = (len(corpus.tokens) + corpus.n_rows) // distributed.sharing()
    return tqdm(total=total, desc=label, unit="token", unit_scale=True, leave=None, disable=not show)


@torch.no_grad()
def stream(
    model: Any,
    corpus: Corpus,
    consume: Consumer,
    *,
    at: Sequence[At] = ("predict",),
    hook: Callable[[int], str] = models.post_name,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> None:
    """Run the model once over a corpus and hand every layer's activations at word positions to `consume`.

    Args:
        model: what `load_model` gives.
        corpus: aligned words. Words whose position is BOS are left out.
        consume: called once per batch, layer and position; values are in the model's dtype and may be kept.
        at: the positions to read, all in the same forward pass.
        hook: name of the hook to read in a layer, `models.pre_name` for the gates.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        AlignmentError: where the corpus does not fit the model.
    """
    check_fits(model, corpus)
    info = models.describe(model)
    index = {each: WordIndex(corpus, each) for each in at}
    with token_bar(corpus, "activations", progress) as bar:
        for batch in batches(corpus, info.device, tokens, limit=limit(model, "forward", corpus.row_bounds)):
            words = {each: index[each].of(batch.rows) for each in at}
            where = {each: batch.places(corpus, index[each].position, words[each]) for each in at}
            numbers = {each: torch.from_numpy(words[each]).to(batch.tokens.device) for each in at}

            def keep(value: Tensor, _: Any, layer: int, where: Any = where, numbers: Any = numbers) -> None:
                flat = value.flatten(0, 1)
                for each in at:
                    consume(layer, each, numbers[each], flat.index_select(0, where[each]))

            models.residual(model, batch.tokens, [(hook(la), _at_layer(keep, la)) for la in range(info.n_layers)])
            bar.update(int(batch.lengths.sum()))


def _at_layer(function: Callable[..., None], layer: int) -> Callable[[Tensor, Any], None]:
    """A hook that knows its layer (hook names are not to be parsed; see architecture of transformer_lens' Bridge)."""

    def hook_function(value: Tensor, hook: Any) -> None:
        function(value, hook, layer)

    return hook_function


@dataclass(frozen=True, repr=False)
class TokenStatistics(Shown):
    """What every neuron does over all tokens after BOS, words or not: float32 on the model's device.

    Attributes:
        count: how many tokens.
        mean: mean activation.
        mean_abs: mean of its absolute value.
        sd: population standard deviation.
        max_abs: largest absolute value.
    """

    count: int
    mean: Float[Tensor, "layer neuron"]
    mean_abs: Float[Tensor, "layer neuron"]
    sd: Float[Tensor, "layer neuron"]
    max_abs: Float[Tensor, "layer neuron"]


class _TokenMoments:
    """Running moments over tokens, layer by layer.

    A batch is centred on its own mean before it is squared, in float32; batches are merged in float64.
    """

    def __init__(self, n_layers: int, n_neurons: int, device: torch.device | str) -> None:
        # Apple's GPUs have no float64: there the state lives on the CPU.
        self._device = torch.device("cpu") if torch.device(device).type == "mps" else torch.device(device)
        self._count = torch.zeros(n_layers, 1, dtype=torch.float64, device=self._device)
        self._mean, self._m2, self._abs, self._max = torch.zeros(
            4, n_layers, n_neurons, dtype=torch.float64, device=self._device
        )

    def update(self, layer: int, values: Float[Tensor, "place neuron"]) -> None:
        plain = values.float()
        if not len(plain):
            return
        old, new = self._count[layer], torch.full_like(self._count[layer], len(plain))
        absolute = plain.abs()
        total, largest = self._exact(absolute.sum(0)), self._exact(absolute.amax(0))
        origin = plain.mean(0)
        centred = plain - origin
        rest = self._exact(centred.mean(0))  # what rounding left in the mean of the batch
        mean = self._exact(origin) + rest
        m2 = self._exact(centred.square_().sum(0)) - new * rest.square()
        self._mean[layer], self._m2[layer] = pooled(old, self._mean[layer], self._m2[layer], new, mean, m2)
        self._abs[layer] += total
        self._max[layer] = torch.maximum(self._max[layer], largest)
        self._count[layer] += new

    def _exact(self, values: Tensor) -> Tensor:
        return values.to(self._device).double()

    def merged(self, other: _TokenMoments) -> _TokenMoments:
        """The moments of the tokens of both."""
        both = copy(self)
        both._mean, both._m2 = pooled(self._count, self._mean, self._m2, other._count, other._mean, other._m2)
        both._count, both._abs = self._count + other._count, self._abs + other._abs
        both._max = torch.maximum(self._max, other._max)
        return both

    def finalise(self, device: torch.device | str) -> TokenStatistics:
        count = int(self._count[0])
        parts = self._mean, self._abs / count, (self._m2.clamp(min=0) / count).sqrt(), self._max
        return TokenStatistics(count, *(each.float().to(device) for each in parts))


def token_statistics(
    model: Any, corpus: Corpus, *, tokens: int = BATCH_TOKENS, progress: bool = False
) -> TokenStatistics:
    """Mean, mean absolute value, standard deviation and largest absolute value of every neuron, in one pass.

    Args:
        model: what `load_model` gives.
        corpus: aligned words; all its tokens after BOS are counted, those of words or not.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        AlignmentError: where the corpus does not fit the model, or has no token.
    """
    check_fits(model, corpus)
    if not len(corpus.tokens):
        raise AlignmentError(f"{corpus.name}: no tokens to take a mean over; give a corpus with sentences")
    return _token_moments(model, corpus, tokens=tokens, progress=progress).finalise(models.describe(model).device)


@distributed.shared(_TokenMoments.merged)
@torch.no_grad()
def _token_moments(model: Any, corpus: Corpus, *, tokens: int, progress: bool) -> _TokenMoments:
    info = models.describe(model)
    moments = _TokenMoments(info.n_layers, info.d_mlp, info.device)
    with token_bar(corpus, "token statistics", progress) as bar:
        for batch in batches(corpus, info.device, tokens, limit=limit(model, "forward", corpus.row_bounds)):
            places = batch.token_places()

            def add(value: Tensor, hook: Any, layer: int, places: Tensor = places) -> None:  # noqa: ARG001
                moments.update(layer, value.flatten(0, 1).index_select(0, places))

            models.residual(
                model, batch.tokens, [(models.post_name(la), _at_layer(add, la)) for la in range(info.n_layers)]
            )
            bar.update(int(batch.lengths.sum()))
    return moments


def token_means(
    model: Any, corpus: Corpus, *, tokens: int = BATCH_TOKENS, progress: bool = False
) -> Float[Tensor, "layer neuron"]:
    """Mean activation of every neuron over all tokens after BOS: the `mean` of `token_statistics`."""
    return token_statistics(model, corpus, tokens=tokens, progress=progress).mean


def _beside(a: Activations, b: Activations) -> Activations:
    """The activations at the words of both, which have none in common."""
    word = np.concatenate([a.word, b.word])
    order = np.argsort(word)
    return Activations(a.neurons, a.at, word[order], np.concatenate([a.values, b.values])[order])


@distributed.shared(_beside)
@torch.no_grad()
def cache_activations(
    model: Any,
    corpus: Corpus,
    neurons: NeuronSet,
    *,
    at: At = "predict",
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Activations:
    """Activations of chosen neurons at every readable word, by `run_with_cache`, float32.

    Args:
        model: what `load_model` gives.
        corpus: aligned words; give `corpus.split("test")` for one split.
        neurons: the columns of the result.
        at: where each word is read.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        NeuronError: where a neuron lies outside the model.
        AlignmentError: where the corpus does not fit the model.
    """
    check_fits(model, corpus)
    info = models.describe(model)
    neurons.check(info.n_layers, info.d_mlp)
    index = WordIndex(corpus, at)
    values, seen = np.zeros((len(corpus), len(neurons)), dtype=np.float32), np.zeros(len(corpus), dtype=bool)
    by_layer = neurons.by_layer()
    columns = {layer: np.flatnonzero(neurons.layers == layer) for layer in by_layer}
    with token_bar(corpus, "activations", progress) as bar:
        for batch in batches(corpus, info.device, tokens, limit=limit(model, "kept", corpus.row_bounds)):
            words = index.of(batch.rows)
            seen[words] = True
            where = batch.places(corpus, index.position, words)
            cache = models.run_with_cache(model, batch.tokens, [models.post_name(layer) for layer in by_layer])
            for layer, units in by_layer.items():
                acts, wanted = cache[models.post_name(layer)].flatten(0, 1)[where], torch.from_numpy(units)
                values[np.ix_(words, columns[layer])] = acts[:, wanted.to(where.device)].float().cpu().numpy()
            bar.update(int(batch.lengths.sum()))
    return Activations(neurons, at, np.flatnonzero(seen), values[seen])
