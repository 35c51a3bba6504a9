"""From per-tag statistics to scores: which neurons tell a tag from the rest.

Formulas and sources: Gurnee et al. 2023, arXiv:2305.01610 (mean difference), Gurnee et al. 2024, arXiv:2401.12181
(correlation with a binary feature), Antverg and Belinkov 2022, arXiv:2110.07483 (Probeless), Torroba Hennigen et al.
2020, arXiv:2010.02812 (Gaussian classes; the closed forms for one neuron are our own), Tang et al. 2024,
arXiv:2402.16438 (LAPE), Suau et al. 2020, arXiv:2005.07647 (average precision). A score that is undefined (a tag
without words, or that every word has; for most, a neuron that never varies) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from posneurons.errors import PosNeuronsError
from posneurons.methods import parse
from posneurons.neurons import NeuronSet
from posneurons.records import Ranking, TagHistograms, TagMoments

Scores = Float[ndarray, "tag layer neuron"]
Table = Float[ndarray, "tag neuron"]

LAPE_QUANTILE = 0.95
"""A tag's share must be above those of so many of all (neuron, tag) pairs; what Tang et al. 2024 chose."""

_ROUNDING = float(np.finfo(np.float32).eps) / 2


class _Side(NamedTuple):
    """Words of each tag, or all but those: how many [tag 1 1], their mean and centred squares [tag layer neuron]."""

    n: ndarray
    mean: ndarray
    m2: ndarray


def _pooled(moments: TagMoments) -> tuple[ndarray, ndarray, ndarray]:
    """Counts as a column [tag 1 1], and mean and variance over all words [layer neuron]."""
    n = moments.count[:, None, None].astype(np.float64)
    mean = (n * moments.mean).sum(0) / max(n.sum(), 1)
    m2 = moments.m2.sum(0) + (n * (moments.mean - mean) ** 2).sum(0)
    return n, mean, m2 / max(n.sum(), 1)


def _varies(variance: ndarray, mean: ndarray) -> ndarray:
    """Where a standard deviation is more than float32 can tell from the mean."""
    return np.asarray(variance > (_ROUNDING * mean) ** 2)


def _sides(moments: TagMoments) -> tuple[_Side, _Side]:
    """The tag, and the rest: summed over the other tags, as a difference from the whole would cancel."""
    n = moments.count[:, None, None].astype(np.float64)
    means, squares = np.zeros_like(moments.mean), np.zeros_like(moments.m2)
    for tag in range(len(n)):
        others = n * (np.arange(len(n)) != tag)[:, None, None]
        means[tag] = (others * moments.mean).sum(0) / max(others.sum(), 1)
        squares[tag] = ((others > 0) * moments.m2 + others * (moments.mean - means[tag]) ** 2).sum(0)
    return _Side(n, moments.mean, moments.m2), _Side(n.sum() - n, means, squares)


def _defined(moments: TagMoments, scores: ndarray, where: ndarray | bool = True) -> Scores:
    """Scores of neurons that vary, for tags that some words have and some have not, and only `where` asked."""
    n, mean, variance = _pooled(moments)
    return np.where((n > 0) & (n < n.sum()) & _varies(variance, mean) & where, scores, np.nan)


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
    return np.where(_varies(variance, mean), scores.clip(-1, 1), np.nan)


def eta_squared(moments: TagMoments) -> Scores:
    """Share of the variance that lies between all tags, in 0..1: the same for every tag that has words.

    What a neuron knows of the whole tag set. The share between one tag and the rest is the square of `correlation`.
    """
    n, mean, variance = _pooled(moments)
    between = (n * (moments.mean - mean) ** 2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = np.broadcast_to((between / (variance * n.sum())).clip(0, 1), moments.mean.shape)
    return _defined(moments, scores)


def cohens_d(moments: TagMoments) -> Scores:
    """Mean of the tag minus that of the rest, in units of the standard deviation within the two (unbiased, pooled).

    NaN also where no word differs from the mean of its side.
    """
    tag, rest = _sides(moments)
    freedom = tag.n + rest.n - 2
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (tag.m2 + rest.m2) / freedom
        scores = (tag.mean - rest.mean) / np.sqrt(variance)
    return _defined(moments, scores, (freedom > 0) & _varies(variance, _larger(tag, rest)))


def welch_t(moments: TagMoments) -> Scores:
    """Mean of the tag minus that of the rest, in standard errors of a difference between unequal variances.

    A score that weighs a difference by how surely it is seen, and no test: words of one sentence are not independent,
    so p-values from it would be far too small. NaN also for a tag with one word, or where no word differs from the mean
    of its side.
    """
    tag, rest = _sides(moments)
    with np.errstate(invalid="ignore", divide="ignore"):
        variances = tag.m2 / (tag.n - 1), rest.m2 / (rest.n - 1)
        scores = (tag.mean - rest.mean) / np.sqrt(variances[0] / tag.n + variances[1] / rest.n)
    enough = (tag.n > 1) & (rest.n > 1)
    return _defined(moments, scores, enough & _varies(variances[0] + variances[1], _larger(tag, rest)))


def _larger(tag: _Side, rest: _Side) -> ndarray:
    return np.asarray(np.maximum(np.abs(tag.mean), np.abs(rest.mean)))


def probeless(moments: TagMoments, *, scaled: bool = False) -> Scores:
    """Sum over the other tags of the absolute difference of means, in units of activation; never negative.

    Not free of scale, and rare tags weigh like frequent ones. Defined for constant neurons (0).

    Args:
        moments: per-tag moments.
        scaled: divide by the neuron's standard deviation over all words, so that loud neurons have no advantage; then
            NaN for neurons that never vary.
    """
    present = moments.count > 0
    if present.sum() < 2:
        return np.full_like(moments.mean, np.nan)
    means = np.where(present[:, None, None], moments.mean, np.nan)
    scores = np.stack([np.nansum(np.abs(means - mine), axis=0) + 0 * mine for mine in means])
    if not scaled:
        return scores
    _, mean, variance = _pooled(moments)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(_varies(variance, mean), scores / np.sqrt(variance), np.nan)


def lda(moments: TagMoments) -> Scores:
    """Log-likelihood ratio of a Gaussian for the tag and one for the rest against one for all words, in nats.

    Both have the same variance, so it is -n/2 ln(1 - r**2) with r the `correlation`. Never negative; a sum over all
    words, so it grows with them. NaN also where no word differs from the mean of its side: the ratio has no bound.
    """
    tag, rest = _sides(moments)
    n, within = tag.n + rest.n, tag.m2 + rest.m2
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = n / 2 * np.log((within + tag.n * rest.n / n * (tag.mean - rest.mean) ** 2) / within)
        return _defined(moments, scores, _varies(within / n, _larger(tag, rest)))


def qda(moments: TagMoments) -> Scores:
    """As `lda`, with variances of their own: (n ln s**2 - n_tag ln s_tag**2 - n_rest ln s_rest**2) / 2, nats.

    Never negative, never below `lda`: it also finds a neuron that varies more, or less, at the tag. NaN also
    where the words of one side do not vary, as with a tag of one word: the ratio has no bound.
    """
    tag, rest = _sides(moments)
    n, _, whole = _pooled(moments)
    with np.errstate(invalid="ignore", divide="ignore"):
        own, other = tag.m2 / tag.n, rest.m2 / rest.n
        scores = (n.sum() * np.log(whole) - tag.n * np.log(own) - rest.n * np.log(other)) / 2
    return _defined(moments, scores, _varies(own, tag.mean) & _varies(other, rest.mean))


MOMENT_METHODS: dict[str, Callable[..., Scores]] = {
    "correlation": correlation,
    "eta_squared": eta_squared,
    "cohens_d": cohens_d,
    "welch_t": welch_t,
    "mean_difference": mean_difference,
    "probeless": probeless,
    "lda": lda,
    "qda": qda,
}
"""Scores from `passes.tag_moments`."""


def lape(gates: TagMoments) -> Scores:
    """How far a neuron's being on is from equally frequent at all tags, in nats, for the tags at which it is often on.

    The shares of words at which the neuron is on are made to sum to 1 over the tags with words; the score is the
    entropy of equal shares minus theirs, in 0..ln(tags with words). NaN for the tags at which the neuron is on no more
    often than 95 % of all (neuron, tag) pairs, and where fewer than two tags have words.

    Args:
        gates: moments of 1 where the neuron is on and 0 where it is off, from `passes.gate_moments`.

    Source: language activation probability entropy of Tang et al. 2024, arXiv:2402.16438, with tags for languages.
    There the score is the entropy itself, lowest first.
    """
    present = gates.count > 0
    scores = np.full_like(gates.mean, np.nan)
    if present.sum() < 2:
        return scores
    on = gates.mean[present]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = on / on.sum(0)
        entropy = -np.where(shares > 0, shares * np.log(shares), 0).sum(0)
    threshold = np.quantile(on, LAPE_QUANTILE, method="inverted_cdf")
    scores[present] = np.where(on > threshold, (np.log(present.sum()) - entropy).clip(0), np.nan)
    return scores


def _by_layer(histograms: TagHistograms, score: Callable[[Float[ndarray, "tag neuron bin"]], Table]) -> Scores:
    """A score layer by layer, as float64 counts of all are much. NaN for neurons that stay in one bin, or had a NaN."""
    n_tags, n_layers, n_units, _ = histograms.bins.shape
    scores = np.full((n_tags, n_layers, n_units), np.nan)
    for layer in range(n_layers):
        bins = histograms.bins[:, layer].astype(np.float64)
        known = ~np.isnan(histograms.edges[layer]).any(-1) & ((bins.sum(0) > 0).sum(-1) > 1)
        n = bins.sum(-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            scores[:, layer] = np.where(known & (n > 0) & (n < n.sum(0)), score(bins), np.nan)
    return scores


def auroc(histograms: TagHistograms) -> Scores:
    """Probability that a word of the tag has a higher value than one of the rest, ties and one bin counting half, 0..1.

    The area under the ROC curve; 0.5 says nothing. It is off from that of the exact values by at most half the
    probability that a word of the tag and one of the rest share a bin.
    """
    return _by_layer(histograms, _auroc)


def _auroc(bins: Float[ndarray, "tag neuron bin"]) -> Table:
    rest = bins.sum(0) - bins
    below = rest.cumsum(-1) - rest / 2
    return np.asarray((bins * below).sum(-1) / (bins.sum(-1) * rest.sum(-1)))


def average_precision(histograms: TagHistograms) -> Scores:
    """Mean over the tag's words of the tag's share among the words with at least that value, in 0..1.

    The words of one bin count as tied. A neuron that says nothing scores about the tag's share of all words, so scores
    of different tags cannot be compared. High values only: a neuron that is low at the tag scores low.

    Source: Suau et al. 2020, arXiv:2005.07647, who rank the experts for a concept by it.
    """
    return _by_layer(histograms, _average_precision)


def _average_precision(bins: Float[ndarray, "tag neuron bin"]) -> Table:
    found = bins[..., ::-1].cumsum(-1)
    precision = np.nan_to_num(found / found.sum(0))  # no word so far: bins[..., ::-1] is 0 there too
    return np.asarray((bins[..., ::-1] * precision).sum(-1) / bins.sum(-1))


def mutual_information(histograms: TagHistograms) -> Scores:
    """Mutual information of the neuron's bin and "the word has the tag", in nats, 0..ln 2 up to its correction.

    Taken from n counts it comes out too high by about (c - b - 1) / 2n, where b bins have a word and c cells of bin and
    side (the tag, the rest); that is taken away, after Miller (1955) and Madow. Small negative values are left, so that
    a neuron that says nothing scores 0 on average. Sees any dependence, and not its direction.
    """
    return _by_layer(histograms, information)


def information(bins: Float[ndarray, "tag neuron bin"]) -> Table:
    """Miller-Madow mutual information, in nats, of bin and "has the tag", from counts."""
    whole, n = bins.sum(0), bins.sum((0, 2))
    total = np.zeros(bins.shape[:2])
    cells = np.zeros(bins.shape[:2])
    for side in (bins, whole - bins):
        expected = whole * (side.sum(-1, keepdims=True) / n[:, None])
        total += np.where(side > 0, side * np.log(side / expected), 0).sum(-1)
        cells += (side > 0).sum(-1)
    return np.asarray((total + ((whole > 0).sum(-1) + 1 - cells) / 2) / n)


HISTOGRAM_METHODS: dict[str, Callable[[TagHistograms], Scores]] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "mutual_information": mutual_information,
}
"""Scores from `passes.tag_histograms`."""


def shortlist(moments: TagMoments, n: int) -> NeuronSet:
    """The n neurons of the highest absolute correlation with each tag, each once; fewer where fewer are defined."""
    ranking = rank_moments(moments)
    n_units = moments.mean.shape[2]
    return NeuronSet.from_flat(np.empty(0, dtype=np.int64), n_units).union(
        *(NeuronSet.from_flat(ranking.first(tag, n), n_units) for tag in moments.tags)
    )


def rank_moments(moments: TagMoments, method: str = "correlation", *, signed: bool | None = None) -> Ranking:
    """Score every neuron for every tag.

    Args:
        moments: per-tag moments at one position.
        method: one of `MOMENT_METHODS`, also with options: "probeless:scaled=yes".
        signed: rank by the score itself, so that only neurons that rise with the tag come first (True), or by its
            absolute value (False); None is what suits the method.

    Raises:
        PosNeuronsError: where the method or an option is unknown, or the method needs more than moments.
    """
    spec = parse(method)
    if spec.name not in MOMENT_METHODS:
        raise PosNeuronsError(
            f"method {spec.name}: needs more than moments; expected one of {', '.join(MOMENT_METHODS)}, or use rank"
        )
    return Ranking(
        method=str(spec),
        at=moments.at,
        tags=moments.tags,
        scores=MOMENT_METHODS[spec.name](moments, **spec.options),
        count=moments.count,
        signed=spec.method.signed if signed is None else signed,
        neutral=spec.method.neutral,
    )
