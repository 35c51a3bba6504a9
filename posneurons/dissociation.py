"""Would other neurons do the same?  Tests of a lesion against other sets of neurons, and of dissociations.

Two doubts about a rise of the loss are separate. `significance` asks whether other words would show it; with enough
words, any two sets of neurons differ beyond that doubt. The tests here ask whether other sets of neurons would do it,
and a claim needs both. There are two nulls of this kind. Against matched random sets a set is extreme among what chance
picks; but sets that a ranking picks are often stronger than random ones whatever the tag. Against the sets of the other
tags, which the same ranking picked, a set is extreme on its own tag; this stays honest when the ranking has seen
shuffled tags. This module knows no models. NaN in, NaN out.

What it does not know: the t tests take effects of sets for normal, and skewed ones make single cells (not double
dissociations) too often significant, see experiments/false_positive_rate.py. Matched random sets of different tags are
paired by their number, and the other tags' sets are taken for independent draws, which they are not where they share
neurons.

Sources: Crawford and Howell 1998 (doi.org/10.1076/clin.12.4.482.7241, one case against few controls), Crawford,
Garthwaite and Gray 2003 (doi.org/10.1016/S0010-9452(08)70197-5, dissociations), Schuirmann 1987
(doi.org/10.1007/BF01068419, two one-sided tests), Phipson and Smyth 2010 (doi.org/10.2202/1544-6115.1585, rank p-values
are never 0), Cochran 1977 (ratio estimator).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

from posneurons.significance import sign_flip_p

MIN_OTHERS = 3
"""Of how many other tags' sets the spread is estimated at least."""


class Contrasts(NamedTuple):
    """Within-tag contrasts between lesions: entry [a, b] is about tag a under its own lesion against under lesion b.

    The p-values are one-sided: would other words, other random sets, or the sets of other tags show such a difference?
    """

    difference: Float[ndarray, "tag tag"]
    p_items: Float[ndarray, "tag tag"]
    p_controls: Float[ndarray, "tag tag"]
    p_others: Float[ndarray, "tag tag"]


class MatrixTest(NamedTuple):
    """Mean of the diagonal of a lesion matrix minus the mean off it, in its unit, and the one-sided p of that."""

    difference: float
    p_value: float


class AgainstControls(NamedTuple):
    """What a value is beside its controls: their mean, SD and range, and how far it is from them.

    NaN: mean and range without controls, the SD with fewer than two, and `z` also where all are equal. The p-values are
    those of `crawford_howell_p` (one-sided) and `rank_p`.
    """

    mean: Float[ndarray, " *cell"]
    sd: Float[ndarray, " *cell"]
    low: Float[ndarray, " *cell"]
    high: Float[ndarray, " *cell"]
    z: Float[ndarray, " *cell"]
    p_controls: Float[ndarray, " *cell"]
    p_rank: Float[ndarray, " *cell"]


def against_controls(value: Float[ndarray, " *cell"], controls: Float[ndarray, " draw *cell"]) -> AgainstControls:
    """A value held against its controls, as every table of lesions has it.

    Args:
        value: effect of the set in question.
        controls: the same of each control set.

    >>> found = against_controls(np.array(3.0), np.array([0.0, 1.0, 2.0]))
    >>> float(found.mean), float(found.sd), float(found.z), float(found.p_rank)
    (1.0, 1.0, 2.0, 0.25)
    """
    mean = sd = low = high = spread = np.full(value.shape, np.nan)
    if len(controls):
        mean, low, high = controls.mean(0), controls.min(0), controls.max(0)
    if len(controls) > 1:
        spread = _deviation(controls)
        sd = np.where((controls == controls[0]).all(0), 0.0, spread)
    z = (value - mean) / spread
    p_controls, p_rank = crawford_howell_p(value, controls, "greater"), rank_p(value, controls)
    return AgainstControls(mean, sd, low, high, z, p_controls, p_rank)


def rank_p(value: Float[ndarray, " *cell"], controls: Float[ndarray, " draw *cell"]) -> Float[ndarray, " *cell"]:
    """P-value of a value among its controls: (1 + controls that reach it) / (1 + controls), one-sided.

    Args:
        value: effect of the set in question.
        controls: the same of each control set.

    Returns:
        At least 1 / (controls + 1); NaN without controls and where a value or a control is NaN.
    """
    p = (1 + (controls >= value).sum(0)) / (len(controls) + 1)
    undefined = np.isnan(value) | np.isnan(controls).any(0) | (len(controls) == 0)
    return np.where(undefined, np.nan, p)


def crawford_howell_p(
    value: Float[ndarray, " *cell"],
    controls: Float[ndarray, " draw *cell"],
    alternative: Literal["two-sided", "greater"] = "two-sided",
) -> Float[ndarray, " *cell"]:
    """P-value that a value comes from the population of its controls, taken for normal.

    t = (value - mean) / (sd sqrt((R + 1) / R)) with R - 1 degrees of freedom, where R controls gave mean and sd. A z
    score, which takes both for known, would find too much with few controls.

    Args:
        value: effect of the set in question.
        controls: the same of each control set.
        alternative: "greater" counts only values above the controls.

    Returns:
        NaN with fewer than two controls, where all are equal, and where a value or a control is NaN.
    """
    n_controls = len(controls)
    if n_controls < 2:
        return np.full(value.shape, np.nan)
    t = (value - controls.mean(0)) / (_deviation(controls) * np.sqrt((n_controls + 1) / n_controls))
    return _t_tail(np.asarray(t), n_controls - 1, alternative)


def _deviation(values: Float[ndarray, " draw *cell"]) -> Float[ndarray, " *cell"]:
    """Sample standard deviation; NaN where all values are equal."""
    return np.where((values == values[0]).all(0), np.nan, values.std(0, ddof=1))


def _t_tail(
    t: Float[ndarray, " *cell"], df: int, alternative: Literal["two-sided", "greater"] = "greater"
) -> Float[ndarray, " *cell"]:
    p = stats.t.sf(t, df) if alternative == "greater" else 2 * stats.t.sf(np.abs(t), df)
    return np.asarray(p, dtype=np.float64)


def equivalence_p(
    sums: Float[ndarray, " cluster *cell"], counts: Float[ndarray, " cluster *cell"], margin: float
) -> Float[ndarray, " *cell"]:
    """P-value that the mean per word lies within -margin..margin: the larger of two one-sided t tests over clusters.

    The mean is sum over count; its standard error is that of a ratio, sqrt(G / (G - 1) sum of (sum_g - mean count_g)^2)
    / count over the G clusters that have words, with G - 1 degrees of freedom.

    Args:
        sums: loss differences summed within clusters.
        counts: words within clusters.
        margin: in nats per word, what counts as no difference.

    Returns:
        Small where the mean is shown to be within the margin. Where no cluster deviates from the mean at all, 0 inside
        the margin and 1 outside. NaN with fewer than two clusters.
    """
    n_clusters = (counts > 0).sum(0)
    words = counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.sum(0) / words
        variance = n_clusters / (n_clusters - 1) * np.square(sums - mean * counts).sum(0)
        error = np.sqrt(variance) / words
        t = (np.abs(mean) - margin) / error  # the larger p is that of the nearer end
    exact = np.where(np.abs(mean) < margin, 0.0, 1.0)
    p = np.where(error > 0, stats.t.cdf(t, n_clusters - 1), exact)
    return np.where((n_clusters < 2) | np.isnan(mean), np.nan, p)


def within_tag_contrasts(
    sums: Float[ndarray, "cluster tag tag"],
    counts: Float[ndarray, "cluster tag"],
    *,
    draws: int,
    rng: np.random.Generator,
    controls: Float[ndarray, "draw tag tag"] | None = None,
) -> Contrasts:
    """Does tag a suffer more under its own lesion than under that of tag b?  Same words, same baseline.

    Args:
        sums: [cluster, lesioned tag, measured tag] loss differences.
        counts: [cluster, measured tag] words.
        draws: random sign vectors.
        rng: the source of randomness.
        controls: [draw, lesioned tag, measured tag] rise of the loss per word under each matched random set of the
            lesioned tag.

    Returns:
        Differences in nats per word and one-sided p-values; the diagonal is NaN. `p_items` flips the signs of clusters.
        `p_controls` is Crawford and Howell's of the difference against that between the random sets of a and of b; NaN
        with fewer than two. `p_others` takes both sets for draws from one population, whose spread s on tag a's words
        is that of all other tags' sets: t = difference / (s sqrt(2)) with one degree of freedom less than there are
        other sets; NaN with fewer than three of them.
    """
    gaps = _gaps(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = gaps.sum(0) / counts.sum(0)[:, None]
        rises = sums.sum(0) / counts.sum(0)
    p_items = sign_flip_p(gaps, draws=draws, rng=rng, one_sided=True)
    p_controls = np.full(difference.shape, np.nan)
    if controls is not None:
        p_controls = crawford_howell_p(difference, _gaps(controls), "greater")
    p_others = _others_p(difference, rises)
    diagonal = np.eye(len(difference), dtype=bool)
    return Contrasts(*(np.where(diagonal, np.nan, part) for part in (difference, p_items, p_controls, p_others)))


def _gaps(table: Float[ndarray, "draw tag tag"]) -> Float[ndarray, "draw tag tag"]:
    """From [., lesioned, measured] to [., measured a, lesioned b]: own lesion minus that of b."""
    own = np.diagonal(table, axis1=1, axis2=2)[:, :, None]
    return np.asarray(own - table.transpose(0, 2, 1))


def _others_p(difference: Float[ndarray, "tag tag"], rises: Float[ndarray, "tag tag"]) -> Float[ndarray, "tag tag"]:
    """Differences on the words of a between the sets of a and b, against the spread of all other sets there."""
    n_tags = len(difference)
    n_others = n_tags - 2
    if n_others < MIN_OTHERS:
        return np.full(difference.shape, np.nan)
    a, b, c = np.indices((n_tags, n_tags, n_tags))
    # On the diagonal (which nobody reads) one more would be left; it is dropped, so that the table is square.
    other = (c != a) & (c != b) & ~((a == b) & (c == (a + 1) % n_tags))
    others = c[other].reshape(n_tags, n_tags, n_others)
    spread = _deviation(np.moveaxis(rises[others, a[:, :, :n_others]], -1, 0))
    return _t_tail(difference / (spread * np.sqrt(2)), n_others - 1)


def matrix_test(matrix: Float[ndarray, "tag tag"], *, draws: int, rng: np.random.Generator) -> MatrixTest:
    """Do sets harm their own tags more than other tags?  Permutation of the set labels, that is of the rows.

    Args:
        matrix: [lesioned tag, measured tag] rise of the loss.
        draws: random permutations; the smallest p is 1 / (draws + 1), or about one over the number of permutations.
        rng: the source of randomness.

    Returns:
        Difference and p; NaN for fewer than two tags and where an entry is NaN.
    """
    n_tags = len(matrix)
    if n_tags < 2 or np.isnan(matrix).any():
        return MatrixTest(float("nan"), float("nan"))
    rows = rng.permuted(np.tile(np.arange(n_tags), (draws, 1)), axis=1)
    null = matrix[rows, np.arange(n_tags)].sum(1)
    trace = np.trace(matrix)
    tolerance = 1e-12 * np.abs(matrix).sum()
    p = (1 + np.count_nonzero(null >= trace - tolerance)) / (draws + 1)
    difference = trace / n_tags - (matrix.sum() - trace) / (n_tags * (n_tags - 1))
    return MatrixTest(float(difference), float(p))
