"""One streamed pass of a model over a corpus, gathered into the statistics that rankings are made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray
from torch import Tensor

from posneurons import histograms, memory, models, statistics
from posneurons.activations import BATCH_TOKENS, stream
from posneurons.distributed import shared
from posneurons.errors import ModelError, PosNeuronsError
from posneurons.histograms import HistogramAccumulator, equal_mass_edges, size
from posneurons.records import Corpus, TagHistograms, TagMoments
from posneurons.statistics import MomentAccumulator
from posneurons.words import At

AllMoments = dict[At, TagMoments]


def _all_moments(a: AllMoments, b: AllMoments) -> AllMoments:
    return {at: statistics.merge(a[at], b[at]) for at in a}


@shared(_all_moments)
def tag_moments(
    model: Any, corpus: Corpus, *, at: Sequence[At] = ("predict",), tokens: int = BATCH_TOKENS, progress: bool = False
) -> dict[At, TagMoments]:
    """Moments of every neuron per tag, at one or more positions, in one pass over all of `corpus`.

    Args:
        model: what `load_model` gives.
        corpus: aligned words.
        at: the positions to read.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        AlignmentError: where the corpus does not fit the model.
    """
    info = models.describe(model)
    state = {each: MomentAccumulator(len(corpus.tags), info.n_layers, info.d_mlp, info.device) for each in at}
    tags = torch.from_numpy(corpus.word_tag).to(info.device)

    def consume(layer: int, where: At, words: Tensor, values: Tensor) -> None:
        state[where].update(layer, tags[words], values)

    stream(model, corpus, consume, at=at, tokens=tokens, progress=progress)
    return {each: accumulator.finalise(corpus.tags, each) for each, accumulator in state.items()}


@shared(_all_moments)
def gate_moments(
    model: Any, corpus: Corpus, *, at: Sequence[At] = ("predict",), tokens: int = BATCH_TOKENS, progress: bool = False
) -> dict[At, TagMoments]:
    """Moments of "the neuron is on", 1 where the value before the activation function is positive, else 0, per tag.

    The mean is the share of the tag's words at which the neuron is on. In a gated MLP that value is the gate; the
    sign of the activation itself says something else there, as it is that of a product.

    Args:
        model: what `load_model` gives.
        corpus: aligned words.
        at: the positions to read.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        ModelError: where the model does not show its neurons before the activation function.
        AlignmentError: where the corpus does not fit the model.
    """
    _check_gates(model)
    info = models.describe(model)
    state = {each: MomentAccumulator(len(corpus.tags), info.n_layers, info.d_mlp, info.device) for each in at}
    tags = torch.from_numpy(corpus.word_tag).to(info.device)

    def consume(layer: int, where: At, words: Tensor, values: Tensor) -> None:
        state[where].update(layer, tags[words], (values > 0).float())

    stream(model, corpus, consume, at=at, hook=models.pre_name, tokens=tokens, progress=progress)
    return {each: accumulator.finalise(corpus.tags, each) for each, accumulator in state.items()}


@torch.no_grad()
def _check_gates(model: Any) -> None:
    """See on two tokens that every layer has `d_mlp` neurons before the activation function."""
    info = models.describe(model)
    names = [models.pre_name(layer) for layer in range(info.n_layers)]
    try:
        found = models.run_with_cache(model, torch.tensor([[0, 1]], device=info.device), names)
    except ModelError as error:
        raise ModelError(
            f"{info.name}: no gates at hook_pre ({names[0]}) in {info.architecture}; expected an MLP that shows its "
            "neurons before the activation function: choose a method that reads hook_post, such as auroc"
        ) from error
    for name, value in found.items():
        if value.shape[-1] != info.d_mlp:
            raise ModelError(
                f"{info.name}: wrong width at {name}: found {value.shape[-1]}, expected d_mlp = {info.d_mlp}; choose "
                "a method that reads hook_post, such as auroc"
            )


def tag_histograms(
    model: Any,
    corpus: Corpus,
    *,
    at: Sequence[At] = ("predict",),
    bins: int = 64,
    pilot: int = 4000,
    seed: int = 0,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> dict[At, TagHistograms]:
    """Histograms of every neuron per tag, at one or more positions, in one pass over all of `corpus`.

    The first few rows, drawn at random, give each neuron its own edges, between bins of about equal mass. Their values
    are held until then, on the CPU, in the model's dtype: pilot x neurons of each position. The counts live on the
    model's device where they fit, else on the CPU.

    Args:
        model: what `load_model` gives.
        corpus: aligned words.
        at: the positions to read.
        bins: how many of each neuron, 2 to 256. The counts of a position take 4 bytes x tags x neurons x bins.
        pilot: words that the edges are taken from, in whole rows.
        seed: of that draw.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        PosNeuronsError: where `bins` or `pilot` is out of range, or a position has no word to read.
        AlignmentError: where the corpus does not fit the model.
    """
    first = _pilot_rows(corpus, at, pilot, seed)
    begun = _begin(model, corpus.select(first), at, bins, tokens=tokens, progress=progress)
    edges = {each: found.edges for each, found in begun.items()}
    counted = _counted(model, corpus.select(~first), edges, tokens=tokens, progress=progress)
    return {each: histograms.merge(begun.pop(each), counted.pop(each)) for each in at}  # gigabytes: one at a time


AllHistograms = dict[At, TagHistograms]


def _all_histograms(a: AllHistograms, b: AllHistograms) -> AllHistograms:
    return {at: histograms.merge(a[at], b[at]) for at in a}


@shared(_all_histograms)
def _counted(model: Any, corpus: Corpus, edges: dict[At, ndarray], *, tokens: int, progress: bool) -> AllHistograms:
    """Histograms of a corpus between given edges."""
    info, at = models.describe(model), tuple(edges)
    state = {}
    for each in at:
        home = _home(info, len(corpus.tags), edges[each].shape[2] + 1, 0)
        state[each] = HistogramAccumulator(len(corpus.tags), torch.from_numpy(edges[each]).to(home))
    tags = torch.from_numpy(corpus.word_tag).to(info.device)

    def consume(layer: int, where: At, words: Tensor, values: Tensor) -> None:
        state[where].update(layer, tags[words], values)

    stream(model, corpus, consume, at=at, tokens=tokens, progress=progress)
    return {each: accumulator.finalise(corpus.tags, each) for each, accumulator in state.items()}


def _pilot_rows(corpus: Corpus, at: Sequence[At], pilot: int, seed: int) -> Bool[ndarray, " row"]:
    """Which rows are drawn at random, until so many words can be read at each position, or all."""
    if pilot < 1:
        raise PosNeuronsError(f"histograms: pilot={pilot}; expected at least 1 word to take the edges from")
    order = np.random.default_rng(seed).permutation(corpus.n_rows)
    enough = 0
    for each in at:
        words = np.bincount(corpus.word_row[corpus.readable(each)], minlength=corpus.n_rows)[order]
        enough = max(enough, int(np.searchsorted(words.cumsum(), pilot)) + 1)
    return np.isin(np.arange(corpus.n_rows), order[:enough])


def _begin(model: Any, corpus: Corpus, at: Sequence[At], bins: int, *, tokens: int, progress: bool) -> AllHistograms:
    """Histograms of a small corpus, with edges from all its words."""
    info = models.describe(model)
    tags = torch.from_numpy(corpus.word_tag)
    none = tags[:0], torch.empty(0, info.d_mlp)
    kept: dict[At, list[list[tuple[Tensor, Tensor]]]] = {each: [[] for _ in range(info.n_layers)] for each in at}

    def keep(layer: int, where: At, words: Tensor, values: Tensor) -> None:
        kept[where][layer].append((tags[words.cpu()], values.cpu()))

    stream(model, corpus, keep, at=at, tokens=tokens, progress=progress)
    found = {}
    for each, layers in kept.items():
        home = _home(info, len(corpus.tags), bins, sum(len(words) for words, _ in layers[0]))
        values = (torch.cat([part for _, part in layer or [none]]) for layer in layers)
        edges = [equal_mass_edges(part.to(home), bins) for part in values]
        state = HistogramAccumulator(len(corpus.tags), torch.stack(edges))
        for number, layer in enumerate(layers):
            for part in layer:
                state.update(number, *part)
        found[each] = state.finalise(corpus.tags, each)
    return found


def _home(info: models.ModelInfo, n_tags: int, bins: int, words: int) -> str:
    """Where the counts of a position live: on the CPU where a device has no room, or, as Apple's, lacks what they need.

    Finding the edges of a layer from so many words takes 24 bytes for each of its values.
    """
    wanted = size(n_tags, info.n_layers * info.d_mlp, bins) + 24 * words * info.d_mlp
    room = memory.SHARE * memory.free_bytes(info.device)
    return "cpu" if torch.device(info.device).type == "mps" or wanted > room else info.device
