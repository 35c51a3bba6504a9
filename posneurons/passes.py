"""One streamed pass of a model over a corpus, gathered into the statistics that rankings are made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from posneurons import models
from posneurons.activations import BATCH_TOKENS, stream
from posneurons.records import Corpus, TagMoments
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
