"""From per-tag moments to scores: which neurons tell a tag from the rest.

Formulas and sources: Gurnee et al. 2023, arXiv:2305.01610 (mean difference), Gurnee et al. 2024, arXiv:2401.12181
(correlation with a binary feature), Antverg and Belinkov 2022, arXiv:2110.07483 (Probeless). A score that is undefined
(a tag without words, or that every word has; for correlation, a neuron that never varies) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from posneurons.errors import PosNeuronsError
from posneurons.records import Ranking, TagMoments

Scores = Float[ndarray, "tag layer neuron"]

_ROUNDING = float(np.finfo(np.float32).eps) / 2


def _pooled(moments: TagMoments) -> tuple[ndarray, ndarray, ndarray]:
    """Counts as a column [tag 1 1], and mean and variance over all words [layer neuron]."""
    n = moments.count[:, None, None].astype(np.float64)
    mean = (n * moments.mean).sum(0) / max(n.sum(), 1)
    m2 = moments.m2.sum(0) + (n * (moments.mean - mean) ** 2).sum(0)
    return n, mean, m2 / max(n.sum(), 1)


def mean_difference(moments: TagMoments) -> Scores:
    """Mean over the tag's words minus mean over all others, in units of activation.

    Not free of scale: a loud neuron scores high. Defined for constant neurons (0).
    """
    n, mean, _ = _pooled(moments)
    rest = n.sum() - n
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = (moments.mean - mean) * n.sum() / rest
    return np.where((n > 0) & (rest > 0), scores, np.nan)


def correlation(moments: TagMoments) -> Scores:
    """Point-biserial correlation with "the word has the tag", in -1..1.

    NaN for neurons that never vary: whose standard deviation is below what float32 can tell from their mean.
    """
    n, mean, variance = _pooled(moments)
    total = max(n.sum(), 1)
    share = np.sqrt(n * (total - n)) / total
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = mean_difference(moments) / np.sqrt(variance) * share
    return np.where(variance > (_ROUNDING * mean) ** 2, scores.clip(-1, 1), np.nan)


def probeless(moments: TagMoments) -> Scores:
    """Sum over the other tags of the absolute difference of means, in units of activation; never negative.

    Not free of scale, and rare tags weigh like frequent ones.
    """
    present = moments.count > 0
    if present.sum() < 2:
        return np.full_like(moments.mean, np.nan)
    means = np.where(present[:, None, None], moments.mean, np.nan)
    return np.stack([np.nansum(np.abs(means - mine), axis=0) + 0 * mine for mine in means])


MOMENT_METHODS: dict[str, Callable[..., Scores]] = {
    "correlation": correlation,
    "mean_difference": mean_difference,
    "probeless": probeless,
}


def check_method(method: str) -> None:
    """Raise PosNeuronsError where there is no ranking of that name."""
    if method not in METHODS:
        raise PosNeuronsError(f"method {method!r}: no such ranking; expected one of {', '.join(METHODS)}")


def rank_moments(moments: TagMoments, method: str = "correlation", *, signed: bool = False) -> Ranking:
    """Score every neuron for every tag.

    Args:
        moments: per-tag moments at one position.
        method: one of `METHODS`.
        signed: rank by the score itself, so that only neurons that rise with the tag come first; otherwise by its
            absolute value.

    Raises:
        PosNeuronsError: where the method is unknown.
    """
    check_method(method)
    return Ranking(
        method=method,
        at=moments.at,
        tags=moments.tags,
        scores=METHODS[method](moments),
        count=moments.count,
        signed=signed,
    )
