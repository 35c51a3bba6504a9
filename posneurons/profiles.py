"""What neurons do over the words of a corpus: a density for each tag, and the contexts where they are strongest.

One pass over all words keeps the chosen columns (words × neurons of float32: 80 MB for 200,000 words and 100 neurons;
of more neurons, some at a time); another, over the rows of the strongest words only, gives the activation at each token
around them. This module knows nothing of rankings and lesions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from posneurons import models
from posneurons.activations import BATCH_TOKENS, batches, cache_activations, check_fits
from posneurons.errors import AlignmentError, NeuronError
from posneurons.memory import limit
from posneurons.neuron_pages import Excerpt, Side
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.token_texts import TokenTexts
from posneurons.words import At
from posneurons.writing import keep

BINS = 36
"""Bins of a density."""

TAIL = 0.01
"""Share of a tag's words that may lie beyond either end of the bins; they are counted in the outermost."""

ENOUGH = 20
"""Words that a tag needs to have a say in the range of the bins, where some tag has as many."""

MATTERS = 0.1
"""Share of the largest absolute value that a side must reach to have contexts."""

BEFORE, AFTER = 27, 12
"""Tokens of a context before and after the one that is read: what a causal model has seen comes before."""

_VALUES = 2**26
"""Activations in memory at once: 256 MB."""


@dataclass(frozen=True)
class Profile:
    """What one neuron does over the words of a corpus; the attributes of `NeuronPage` of the same names."""

    words: tuple[int, ...]
    means: tuple[float, ...]
    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    contexts: tuple[Excerpt, ...]


@dataclass(frozen=True)
class _Strong:
    """A word at which a neuron is strong: the neuron's number in the set, and the word's in the corpus."""

    neuron: int
    side: Side
    word: int


def profiles(
    model: Any,
    corpus: Corpus,
    neurons: NeuronSet,
    *,
    at: At = "predict",
    contexts: int = 10,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> list[Profile]:
    """The profile of each neuron over all words of a corpus that can be read.

    Args:
        model: what `load_model` gives.
        corpus: aligned words.
        neurons: whose profiles.
        at: where each word is read.
        contexts: most contexts of each side.
        tokens: size of a batch.
        progress: show bars.

    Raises:
        NeuronError: where a neuron lies outside the model, or is not finite somewhere.
        AlignmentError: where the corpus does not fit the model, or has no word to read.
    """
    info = models.describe(model)
    check_fits(model, corpus)
    neurons.check(info.n_layers, info.d_mlp)
    words = corpus.readable(at)
    if not len(words):
        raise AlignmentError(f"{corpus.name}: no word to read at {at!r}; give longer sentences")
    texts = TokenTexts(model.tokenizer)
    found: list[Profile] = []
    for part in _blocks(neurons, max(1, _VALUES // len(words))):
        values = _values(model, corpus, part, at, tokens, progress)
        found += _described(model, corpus, part, words, values, at, contexts, texts, tokens)
    return found


def _blocks(neurons: NeuronSet, size: int) -> Iterator[NeuronSet]:
    for start in range(0, len(neurons), size):
        yield NeuronSet(neurons.layers[start : start + size], neurons.units[start : start + size])


def _values(
    model: Any, corpus: Corpus, neurons: NeuronSet, at: At, tokens: int, progress: bool
) -> Float[ndarray, "k word"]:
    """Activations at the words that are read, float32."""
    found = cache_activations(model, corpus, neurons, at=at, tokens=tokens, progress=progress)
    values = np.ascontiguousarray(found.values.T)
    for name, row in zip(neurons.names, values, strict=True):
        if not np.isfinite(row).all():
            raise NeuronError(
                f"neuron {name}: its activation is not finite at {np.count_nonzero(~np.isfinite(row))} words; expected "
                "a number at each; load the model in float32 or bfloat16"
            )
    return values


def _described(
    model: Any,
    corpus: Corpus,
    neurons: NeuronSet,
    words: Int[ndarray, " word"],
    values: Float[ndarray, "k word"],
    at: At,
    contexts: int,
    texts: TokenTexts,
    tokens: int,
) -> Iterator[Profile]:
    tags, n_tags = corpus.word_tag[words], len(corpus.tags)
    forms = np.array([str(form).casefold() for form in corpus.word_form[words]], dtype=object)
    _, types = np.unique(forms, return_inverse=True)
    strong = [
        _Strong(number, side, int(words[word]))
        for number, row in enumerate(values)
        for side, word in strongest(row, types, contexts)
    ]
    excerpts = _excerpts(model, corpus, neurons, strong, at, texts, tokens)
    count = np.bincount(tags, minlength=n_tags)
    for number, row in enumerate(values):
        edges, counts = density(row, tags, n_tags)
        with np.errstate(invalid="ignore"):
            means = np.bincount(tags, weights=row, minlength=n_tags) / count
        yield Profile(
            words=tuple(count.tolist()),
            means=tuple(rounded(mean) for mean in means),
            edges=tuple(edges.tolist()),
            counts=tuple(tuple(each) for each in counts.tolist()),
            contexts=tuple(each for each, where in zip(excerpts, strong, strict=True) if where.neuron == number),
        )


def rounded(value: float, digits: int = 4) -> float:
    """A number of so many significant digits, for files; NaN stays NaN.

    >>> rounded(123456.0), rounded(-0.00123456)
    (123500.0, -0.001235)
    """
    return float(f"{value:.{digits}g}") + 0.0


def density(
    values: Float[ndarray, " word"], tags: Int[ndarray, " word"], n_tags: int
) -> tuple[Float[ndarray, " bin_edge"], Int[ndarray, "tag bin"]]:
    """Edges of equally wide bins, and how many words of each tag fall between two of them.

    The bins reach from the lowest 1 % quantile of any tag to the highest 99 % quantile, so that rare tags are seen;
    what lies outside is counted in the outermost bins.
    """
    count = np.bincount(tags, minlength=n_tags)
    asked = np.flatnonzero(count >= min(ENOUGH, count.max()))
    ends = np.array([np.quantile(values[tags == tag], (TAIL, 1 - TAIL)) for tag in asked])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if not high > low:  # a constant: a range around it
        low, high = low - max(abs(low), 1.0) / 2, high + max(abs(high), 1.0) / 2
    step = (high - low) / BINS
    edges = np.round(np.linspace(low, high, BINS + 1), int(2 - np.floor(np.log10(step)))) + 0.0
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, BINS - 1)
    return edges, np.bincount(tags * BINS + bins, minlength=n_tags * BINS).reshape(n_tags, BINS)


def strongest(values: Float[ndarray, " word"], types: Int[ndarray, " word"], k: int) -> list[tuple[Side, int]]:
    """The words with the highest positive and with the lowest negative values, k of each, no word type twice in a side.

    A side whose largest value does not reach `MATTERS` of the other's is left out. Ties: the earlier word first.
    """
    found: list[tuple[Side, int]] = []
    largest = np.abs(values).max(initial=0)
    sides: tuple[tuple[Side, int], ...] = (("high", 1), ("low", -1))
    for side, sign in sides:
        heights = sign * values
        if heights.max(initial=0) <= 0 or heights.max() < MATTERS * largest:
            continue
        order = np.argsort(-heights, kind="stable")
        for head in (order[: 64 * k], order):  # the first of each type are mostly among the first of all
            _, first = np.unique(types[head], return_index=True)
            picked = head[np.sort(first)[:k]]
            if len(picked) == k:
                break
        found += [(side, int(word)) for word in picked[heights[picked] > 0]]
    return found


def _excerpts(
    model: Any,
    corpus: Corpus,
    neurons: NeuronSet,
    strong: Sequence[_Strong],
    at: At,
    texts: TokenTexts,
    tokens: int,
) -> list[Excerpt]:
    """What stands around each of the words; only the rows that hold them are run."""
    rows = np.zeros(corpus.n_rows, dtype=bool)
    rows[corpus.word_row[[each.word for each in strong]]] = True
    number, part = np.cumsum(rows) - 1, corpus.select(rows)
    waiting: dict[int, list[int]] = {}
    for place, each in enumerate(strong):
        waiting.setdefault(int(number[corpus.word_row[each.word]]), []).append(place)
    found: dict[int, Excerpt] = {}
    device = models.describe(model).device
    units = {layer: torch.from_numpy(each).to(device) for layer, each in neurons.by_layer().items()}
    column = {layer: {int(unit): i for i, unit in enumerate(each)} for layer, each in neurons.by_layer().items()}
    for batch in batches(part, device, tokens, limit=limit(model, "kept", part.row_bounds)):
        held: dict[int, Tensor] = {}
        with torch.no_grad():
            hooks = [(models.post_name(layer), keep(held, layer, each)) for layer, each in units.items()]
            models.residual(model, batch.tokens, hooks)
        values = {layer: each.float().cpu().numpy() for layer, each in held.items()}
        for slot, row in enumerate(batch.rows.tolist()):
            for place in waiting[row]:
                each = strong[place]
                layer, unit = int(neurons.layers[each.neuron]), int(neurons.units[each.neuron])
                acts = values[layer][slot, : batch.lengths[slot], column[layer][unit]]
                found[place] = _cut(corpus, each, part.row_tokens(row), acts, at, texts)
    return [found[place] for place in range(len(strong))]


def _cut(
    corpus: Corpus,
    strong: _Strong,
    row: Int[ndarray, " pos"],
    acts: Float[ndarray, " pos"],
    at: At,
    texts: TokenTexts,
) -> Excerpt:
    """The stretch of a row around the token at which a word is read, without BOS."""
    word, length = strong.word, len(row)
    read = int(corpus.positions(at)[word])
    size = BEFORE + 1 + AFTER
    start = max(1, min(read - BEFORE, length - size))
    stop = min(length, start + size)
    first, last = (int(np.clip(each[word], start, stop - 1)) for each in (corpus.word_first, corpus.word_last))
    return Excerpt(
        side=strong.side,
        tokens=texts.of(row[start:stop].tolist()),
        activations=tuple(rounded(value) for value in acts[start:stop].tolist()),
        read=read - start,
        word=(first - start, last - start),
        tag=corpus.tags[corpus.word_tag[word]],
        form=str(corpus.word_form[word]),
        sentence=int(corpus.word_sentence[word]),
        cut=(start > 1, stop < length),
    )
