"""Lesions: set neurons to a constant and measure the loss of every word.

Each batch is run once intact and once per condition from where the condition begins to differ (see `forks`), so one
pass per lesion gives the losses of all tags. Neurons are ablated at every position after BOS, or in the scope `local`
only where a word is predicted; logits are computed at scored positions only, in chunks, in float32. A word is scored by
the next-token loss of its first token, so the first word of a row, which is predicted from BOS, is left out. This
module does not know how a set was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from posneurons import models
from posneurons.activations import BATCH_TOKENS, WordIndex, batches, check_fits, token_means
from posneurons.errors import AlignmentError, NeuronError
from posneurons.forks import Forks, Trunk
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.results import LesionResult
from posneurons.words import Ablation, Scope


@torch.no_grad()
def word_losses(
    model: Any,
    corpus: Corpus,
    conditions: Sequence[NeuronSet],
    fill: Float[Tensor, "layer neuron"],
    *,
    scope: Scope = "all",
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> tuple[Int[ndarray, " word"], Float[ndarray, " word"], Float[ndarray, "condition word"]]:
    """Loss of every scored word, intact and under each condition.

    Args:
        model: what `load_model` gives.
        corpus: aligned words; those whose first token follows BOS directly are not scored.
        conditions: sets of neurons, ablated one set at a time.
        fill: the value each neuron is set to.
        scope: where neurons are ablated: "all" positions after BOS, or "local", only the position that predicts the
            word whose loss is read.
        tokens: size of a batch, and of several conditions stacked.
        progress: show a bar.

    Returns:
        Numbers of the scored words in the corpus, their loss in nats with all neurons intact, and under each condition.

    Raises:
        NeuronError: where a neuron lies outside the model.
        AlignmentError: where the corpus does not fit the model.
    """
    check_fits(model, corpus)
    forks = Forks(model, conditions, fill, scope=scope, tokens=tokens)
    losses = np.full((len(conditions) + 1, len(corpus)), np.nan, dtype=np.float32)
    total = (len(conditions) + 1) * len(corpus.tokens)
    with tqdm(total=total, desc="lesions", unit="token", unit_scale=True, disable=not progress) as bar:
        for words, size, trunk in _trunks(forks, corpus, models.describe(model).device, tokens):
            losses[0, words] = trunk.losses.cpu().numpy()
            bar.update(size)
            for numbers, found in forks.branches(trunk):
                losses[np.ix_(np.array(numbers) + 1, words)] = found.cpu().numpy()
                bar.update(size * len(numbers))
    words = corpus.readable("predict")
    return words, losses[0, words], losses[1:, words]


def _trunks(
    forks: Forks, corpus: Corpus, device: str, tokens: int
) -> Iterator[tuple[Int[ndarray, " word"], int, Trunk]]:
    """Per batch the numbers of its scored words, how many tokens after BOS it has, and its intact run."""
    index, first = WordIndex(corpus, "predict"), corpus.positions("first")
    for batch in batches(corpus, device, tokens):
        words = index.of(batch.rows)
        targets = batch.tokens.flatten()[batch.places(corpus, first, words)]
        trunk = forks.trunk(batch.tokens, batch.places(corpus, index.position, words), targets)
        yield words, int(batch.lengths.sum()) - len(batch.rows), trunk


def scored_words(corpus: Corpus) -> Int[ndarray, " tag"]:
    """Number of words of each tag that are scored: all but the first of their row."""
    return np.bincount(corpus.word_tag[corpus.readable("predict")], minlength=len(corpus.tags))


@torch.no_grad()
def exact_effects(
    model: Any,
    corpus: Corpus,
    neurons: NeuronSet,
    *,
    fill: Ablation | Float[Tensor, "layer neuron"] = "zero",
    scope: Scope = "local",
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Float[ndarray, "tag k"]:
    """Mean rise of the loss of each tag's words if one neuron alone is ablated, in nats per word.

    Only sums are kept, whatever the number of words.

    Args:
        model: what `load_model` gives.
        corpus: aligned words; those whose first token follows BOS directly are not scored.
        neurons: the columns of the result, each ablated by itself.
        fill: the value each neuron is set to, or "zero", or "mean" over the tokens of this corpus.
        scope: "local", only where the word is predicted, or "all" positions after BOS.
        tokens: size of a batch, and of several neurons stacked.
        progress: show a bar.

    Returns:
        The means; NaN for a tag without a scored word.

    Raises:
        NeuronError: where a neuron lies outside the model, or the ablation is unknown.
        AlignmentError: where the corpus does not fit the model.
    """
    check_fits(model, corpus)
    values = fill_values(model, corpus, fill, tokens=tokens, progress=progress) if isinstance(fill, str) else fill
    singles = [NeuronSet(neurons.layers[[i]], neurons.units[[i]]) for i in range(len(neurons))]
    forks = Forks(model, singles, values, scope=scope, tokens=tokens)
    device = models.describe(model).device
    tags = torch.nn.functional.one_hot(torch.from_numpy(corpus.word_tag), len(corpus.tags)).float().to(device)
    sums = np.zeros((len(corpus.tags), len(neurons)))
    total = len(neurons) * len(corpus.tokens)
    with tqdm(total=total, desc="exact effects", unit="token", unit_scale=True, disable=not progress) as bar:
        for words, size, trunk in _trunks(forks, corpus, device, tokens):
            of_tag = tags[torch.from_numpy(words).to(device)]
            for numbers, found in forks.branches(trunk):
                sums[:, numbers] += ((found - trunk.losses) @ of_tag).T.double().cpu().numpy()
                bar.update(size * len(numbers))
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / scored_words(corpus)[:, None])


def fill_values(
    model: Any, corpus: Corpus, ablation: Ablation, *, tokens: int = BATCH_TOKENS, progress: bool = False
) -> Float[Tensor, "layer neuron"]:
    """What each neuron is set to: zeros, or its mean over all tokens of `corpus` after BOS.

    Raises:
        NeuronError: where the ablation is unknown.
    """
    if ablation not in get_args(Ablation):
        raise NeuronError(f"ablation {ablation!r}: no such ablation; expected one of {', '.join(get_args(Ablation))}")
    if ablation == "mean":
        return token_means(model, corpus, tokens=tokens, progress=progress)
    info = models.describe(model)
    return torch.zeros(info.n_layers, info.d_mlp, device=info.device)


def _with_controls(
    keys: Mapping[str, NeuronSet], controls: int, seed: int, info: models.ModelInfo
) -> tuple[list[str], list[int], list[NeuronSet]]:
    """Per condition the tag, the draw (0: key neurons) and the set; no control holds any tag's key neuron."""
    rng = np.random.default_rng(seed)
    first, *rest = keys.values()
    everyone = first.union(*rest)
    names: list[str] = []
    numbers: list[int] = []
    sets: list[NeuronSet] = []
    for tag, neurons in keys.items():
        random = neurons.matched_random(controls, rng, n_layers=info.n_layers, n_units=info.d_mlp, exclude=everyone)
        names += [tag] * (controls + 1)
        numbers += range(controls + 1)
        sets += [neurons, *random]
    return names, numbers, sets


def lesion(
    model: Any,
    corpus: Corpus,
    keys: Mapping[str, NeuronSet],
    *,
    ablation: Ablation = "mean",
    scope: Scope = "all",
    controls: int = 20,
    seed: int = 0,
    method: str = "",
    draws: int = 10_000,
    cluster: str = "sentence",
    split: str = "test",
    fill: Float[Tensor, "layer neuron"] | None = None,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> LesionResult:
    """Ablate each tag's key neurons and matched random sets, and measure the loss of every tag.

    Args:
        model: what `load_model` gives.
        corpus: words with a split to measure on and, for mean ablation without `fill`, a split "train".
        keys: tag to key neurons, as `Ranking.top` gives; names that are no tags are allowed.
        ablation: "mean" or "zero".
        scope: "all" positions after BOS, or "local": only the position that predicts the word whose loss is read.
        controls: matched random sets per tag: as many neurons in each layer, none of any tag's key neurons.
        seed: of the control sets, the bootstrap and the sign flips.
        method: a name for the tables.
        draws: resamples of the bootstrap, and sign vectors.
        cluster: what is resampled, "sentence" or "document".
        split: where losses are measured.
        fill: values to set the neurons to, where they were computed before.
        tokens: size of a batch.
        progress: show a bar.

    Returns:
        Losses per word and condition, with their tables.

    Raises:
        NeuronError: where `keys` is empty, a neuron lies outside the model, or no matched sets are left.
        AlignmentError: where a split is missing or the corpus does not fit the model.
    """
    if not keys:
        raise NeuronError("lesion: no key neurons were given; expected a mapping of tags to NeuronSets")
    if cluster not in ("sentence", "document"):
        raise AlignmentError(f"cluster={cluster!r}: expected 'sentence' or 'document'")
    info = models.describe(model)
    names, numbers, sets = _with_controls(keys, controls, seed, info)
    test = corpus.split(split)
    if not len(test.readable("predict")):
        raise AlignmentError(
            f"{corpus.name}: the split {split!r} has no word to score (all {len(test)} are the first of their row); "
            "give longer sentences"
        )
    if fill is None:
        reference = corpus.split("train") if ablation == "mean" else corpus
        fill = fill_values(model, reference, ablation, tokens=tokens, progress=progress)
    words, intact, losses = word_losses(
        model, test, sets, fill.to(info.device), scope=scope, tokens=tokens, progress=progress
    )
    unit = test.row_sentence if cluster == "sentence" else test.row_document
    return LesionResult(
        method=method,
        ablation=ablation,
        scope=scope,
        tags=test.tags,
        word_tag=test.word_tag[words],
        word_cluster=np.unique(unit[test.word_row[words]], return_inverse=True)[1],
        lesion=tuple(names),
        draw=np.array(numbers),
        neurons=tuple(sets),
        loss_intact=intact,
        losses=losses,
        draws=draws,
        seed=seed,
    )
