"""Exact scores of chosen neurons, from every value at every word: what histograms of all neurons only come close to.

Values of the chosen neurons are kept for all words (4 bytes x words x neurons), so this is for a shortlist, such as
that of `ranking.shortlist`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.stats import rankdata

from posneurons import models
from posneurons.activations import BATCH_TOKENS, cache_activations
from posneurons.errors import PosNeuronsError
from posneurons.neurons import NeuronSet
from posneurons.ranking import information
from posneurons.records import Corpus, Scored
from posneurons.words import At

BINS = 64
"""Bins of equal mass between which mutual information is taken."""

_BLOCK = 1 << 22  # values whose ranks are in memory at once

Values = Float[ndarray, "word neuron"]
Table = Float[ndarray, "tag neuron"]


def exact(
    model: Any,
    corpus: Corpus,
    name: str,
    neurons: NeuronSet,
    *,
    at: At,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Scored:
    """Scores of chosen neurons from their values, not from histograms; NaN for all other neurons.

    NaN also for tags without words, or that every word has, and for neurons that never vary or have a NaN.

    Args:
        model: what `load_model` gives.
        corpus: aligned words.
        name: "auroc" or "average_precision", as in `ranking` but with ties only between equal values; or
            "mutual_information", between 64 bins of equal mass, equal values in the same bin.
        neurons: those to score, for all tags.
        at: where each word is read.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        PosNeuronsError: where the method has no exact form.
        NeuronError: where a neuron lies outside the model.
        AlignmentError: where the corpus does not fit the model.
    """
    if name not in EXACT_METHODS:
        raise PosNeuronsError(
            f"method {name}: no exact scores of a shortlist; expected one of {', '.join(EXACT_METHODS)}"
        )
    info = models.describe(model)
    found = cache_activations(model, corpus, neurons, at=at, tokens=tokens, progress=progress)
    tags = corpus.word_tag[found.word]
    count = np.bincount(tags, minlength=len(corpus.tags)).astype(np.int64)
    scores = np.full((len(corpus.tags), info.n_layers, info.d_mlp), np.nan)
    scores[:, neurons.layers, neurons.units] = score_values(name, found.values, tags, len(corpus.tags))
    return Scored(scores, count)


def score_values(name: str, values: Values, tags: Int[ndarray, " word"], n_tags: int) -> Table:
    """Exact scores by one of `EXACT_METHODS` from values and tag numbers; NaN as in `exact`."""
    n = np.bincount(tags, minlength=n_tags)[:, None]
    known = (values != values[:1]).any(0) & ~np.isnan(values).any(0)
    scores = np.full((n_tags, values.shape[1]), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        for columns in _blocks(values):
            scores[:, columns] = EXACT_METHODS[name](values[:, columns], tags, n_tags)
    return np.where(known & (n > 0) & (n < len(tags)), scores, np.nan)


def _blocks(values: Values) -> Iterator[slice]:
    width = max(1, _BLOCK // max(1, len(values)))
    return (slice(start, start + width) for start in range(0, values.shape[1], width))


def _auroc(values: Values, tags: Int[ndarray, " word"], n_tags: int) -> Table:
    """From the sum of the tag's ranks (Mann and Whitney)."""
    mine = (tags == np.arange(n_tags)[:, None]).astype(np.float64)
    n = mine.sum(1, keepdims=True)
    ranks = mine @ rankdata(values, axis=0)
    return np.asarray((ranks - n * (n + 1) / 2) / (n * (len(tags) - n)))


def _average_precision(values: Values, tags: Int[ndarray, " word"], n_tags: int) -> Table:
    """Neuron by neuron: each word's place from the top, ties at the last, among all words and among its tag's."""
    scores = np.full((n_tags, values.shape[1]), np.nan)
    for column, value in enumerate(values.T):
        places = rankdata(-value, method="max").astype(np.int64)
        for tag in np.unique(tags):
            mine = np.sort(places[tags == tag])
            scores[tag, column] = (np.searchsorted(mine, mine, side="right") / mine).mean()
    return scores


def _mutual_information(values: Values, tags: Int[ndarray, " word"], n_tags: int) -> Table:
    place = (rankdata(values, method="min", axis=0).astype(np.int64) - 1) * BINS // len(values)
    n_units = values.shape[1]
    cell = (tags[:, None] * n_units + np.arange(n_units)) * BINS + place
    bins = np.bincount(cell.ravel(), minlength=n_tags * n_units * BINS).reshape(n_tags, n_units, BINS)
    return information(bins.astype(np.float64))


EXACT_METHODS: dict[str, Callable[[Values, Int[ndarray, " word"], int], Table]] = {
    "auroc": _auroc,
    "average_precision": _average_precision,
    "mutual_information": _mutual_information,
}
"""Exact scores from values, tag numbers and how many tags there are."""
