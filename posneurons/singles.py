"""What each neuron does by itself: the rise of the loss where it alone is ablated, exactly, one lesion for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from posneurons import models
from posneurons.activations import BATCH_TOKENS
from posneurons.distributed import shared
from posneurons.fills import Condition, Fill, make_fills
from posneurons.lesions import INTACT, scored_words, stream_losses
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.words import Ablation, Scope


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
        fill: the value each neuron is set to, or the name of an ablation, whose means are taken over this corpus.
        scope: "local", only where the word is predicted, or "all" positions after BOS.
        tokens: size of a batch, and of several neurons stacked.
        progress: show a bar.

    Returns:
        The means; NaN for a tag without a scored word.

    Raises:
        NeuronError: where a neuron lies outside the model, or the ablation is unknown.
        AlignmentError: where the corpus does not fit the model.
    """
    how: dict[str, Any] = {"tokens": tokens, "progress": progress}
    fills = (
        make_fills(model, corpus, corpus, fill, neurons, **how)
        if isinstance(fill, str)
        else (Fill(fill.to(models.describe(model).device)),)
    )
    singles = [Condition(NeuronSet(neurons.layers[[i]], neurons.units[[i]]), fills, scope) for i in range(len(neurons))]
    sums = _rises(model, corpus, singles, **how)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / scored_words(corpus)[:, None])


@shared(np.add)
def _rises(
    model: Any, corpus: Corpus, singles: Sequence[Condition], *, tokens: int, progress: bool
) -> Float[ndarray, "tag k"]:
    """Rise of the loss under each condition, summed over the words of each tag."""
    sums = np.zeros((len(corpus.tags), len(singles)))
    intact: dict[str, ndarray] = {}

    def add(words: ndarray, numbers: list[int], losses: ndarray) -> None:
        if numbers == [INTACT]:
            intact["losses"] = losses[0].astype(np.float64)
        else:
            of_tag = np.eye(len(corpus.tags))[corpus.word_tag[words]]
            sums[:, numbers] += ((losses[0] - intact["losses"]) @ of_tag).T

    stream_losses(model, corpus, singles, add, tokens=tokens, progress=progress)
    return sums
