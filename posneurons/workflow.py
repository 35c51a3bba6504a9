"""Model and corpus to ranking: one streamed pass, then formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from posneurons import models
from posneurons.activations import BATCH_TOKENS, stream
from posneurons.ranking import check_method, rank_moments
from posneurons.records import Corpus, Ranking, TagMoments
from posneurons.statistics import MomentAccumulator
from posneurons.words import At


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


def rank(
    model: Any,
    corpus: Corpus,
    method: str = "correlation",
    *,
    at: At = "predict",
    signed: bool = False,
    split: str = "train",
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Ranking:
    """Rank all MLP neurons of a model for every tag.

    Args:
        model: what `load_model` gives.
        corpus: aligned words; only those of `split` are read.
        method: "correlation", "mean_difference" or "probeless".
        at: where each word is read: "predict" (just before it), "first" or "last" (its own tokens).
        signed: rank by the score itself instead of its absolute value.
        split: the split to rank on.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        PosNeuronsError: where the method is unknown.
        AlignmentError: where the split is missing or the corpus does not fit the model.
    """
    check_method(method)
    moments = tag_moments(model, corpus.split(split), at=(at,), tokens=tokens, progress=progress)
    return rank_moments(moments[at], method, signed=signed)
