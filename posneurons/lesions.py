"""Lesions: set neurons to a constant and measure the loss of every word.

Each batch is run once intact and once per condition, so one pass per lesion gives the losses of all tags. Neurons are
ablated at every position after BOS; logits are computed at scored positions only, in chunks, in float32. A word is
scored by the next-token loss of its first token, so the first word of a row, which is predicted from BOS, is left out.
This module does not know how a set was found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.results import LesionResult
from posneurons.words import Ablation

Hooks = list[tuple[str, Callable[[Tensor, Any], Tensor]]]


def ablation_hooks(neurons: NeuronSet, fill: Float[Tensor, "layer neuron"]) -> Hooks:
    """Hooks that set the neurons to their `fill` at every position after BOS."""
    hooks: Hooks = []
    for layer, units in neurons.by_layer().items():
        index = torch.from_numpy(units).to(fill.device)
        hooks.append((models.post_name(layer), _set_to(index, fill[layer, index])))
    return hooks


def _set_to(index: Int[Tensor, " k"], values: Float[Tensor, " k"]) -> Callable[[Tensor, Any], Tensor]:
    def hook_function(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        value[:, 1:, index] = values.to(value.dtype)
        return value

    return hook_function


@torch.no_grad()
def word_losses(
    model: Any,
    corpus: Corpus,
    conditions: Sequence[NeuronSet],
    fill: Float[Tensor, "layer neuron"],
    *,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> tuple[Int[ndarray, " word"], Float[ndarray, " word"], Float[ndarray, "condition word"]]:
    """Loss of every scored word, intact and under each condition.

    Args:
        model: what `load_model` gives.
        corpus: aligned words; those whose first token follows BOS directly are not scored.
        conditions: sets of neurons, ablated one set at a time.
        fill: the value each neuron is set to.
        tokens: size of a batch.
        progress: show a bar.

    Returns:
        Numbers of the scored words in the corpus, their loss in nats with all neurons intact, and under each condition.

    Raises:
        NeuronError: where a neuron lies outside the model.
        AlignmentError: where the corpus does not fit the model.
    """
    check_fits(model, corpus)
    info = models.describe(model)
    for neurons in conditions:
        neurons.check(info.n_layers, info.d_mlp)
    runs = [[], *(ablation_hooks(neurons, fill) for neurons in conditions)]
    losses = np.full((len(runs), len(corpus)), np.nan, dtype=np.float32)
    index = WordIndex(corpus, "predict")
    first = corpus.positions("first")
    with tqdm(
        total=len(runs) * len(corpus.tokens), desc="lesions", unit="token", unit_scale=True, disable=not progress
    ) as bar:
        for batch in batches(corpus, info.device, tokens):
            words = index.of(batch.rows)
            where = batch.places(corpus, index.position, words)
            targets = batch.tokens.flatten()[batch.places(corpus, first, words)]
            for number, hooks in enumerate(runs):
                states = models.residual(model, batch.tokens, hooks).flatten(0, 1)[where]
                losses[number, words] = models.cross_entropy(model, states, targets).cpu().numpy()
                bar.update(int(batch.lengths.sum()) - len(batch.rows))
    words = corpus.readable("predict")
    return words, losses[0, words], losses[1:, words]


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
    words, intact, losses = word_losses(model, test, sets, fill.to(info.device), tokens=tokens, progress=progress)
    unit = test.row_sentence if cluster == "sentence" else test.row_document
    return LesionResult(
        method=method,
        ablation=ablation,
        scope="all",
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
