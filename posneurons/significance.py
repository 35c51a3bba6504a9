"""How sure a difference of losses is: bootstrap and sign flips over clusters, and corrected p-values.

Words of one sentence are not independent, so the unit that is resampled or flipped is the cluster (a sentence or a
document). Everything starts from two tables: the summed loss difference of each cluster in each cell, and the number
of words behind it. One weight matrix serves all cells, which keeps them paired. This module knows no models.

Sources: Efron and Tibshirani 1993 (cluster bootstrap of a ratio), Good 2005 (sign-flip permutation), Benjamini and
Hochberg 1995, Crawford, Garthwaite and Gray 2003 (dissociations), Berger 1982 (intersection-union test).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import stats

_CHUNK = 1000


class Contrasts(NamedTuple):
    """Within-tag contrasts between lesions: entry [a, b] is about tag a under its own lesion against under lesion b."""

    difference: Float[ndarray, "tag tag"]
    p_value: Float[ndarray, "tag tag"]


def cluster_sums(
    values: Float[ndarray, "condition word"],
    cells: Int[ndarray, " word"],
    clusters: Int[ndarray, " word"],
    n_cells: int,
) -> Float[ndarray, "cluster condition cell"]:
    """Sum of `values` over the words of each (cluster, cell), float64; clusters numbered from 0."""
    n_clusters = int(clusters.max(initial=-1)) + 1
    flat = clusters * n_cells + cells
    sums = [np.bincount(flat, weights=row, minlength=n_clusters * n_cells) for row in values]
    table = np.stack(sums).astype(np.float64)  # of no words, bincount makes integers
    return rearrange(table, "condition (cluster cell) -> cluster condition cell", cell=n_cells)


def bootstrap_interval(
    sums: Float[ndarray, "cluster condition cell"],
    counts: Float[ndarray, "cluster cell"],
    *,
    draws: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[Float[ndarray, "condition cell"], Float[ndarray, "condition cell"]]:
    """Percentile interval of sum over clusters / count over clusters, clusters drawn with replacement.

    Args:
        sums: loss differences summed within clusters.
        counts: words within clusters, the same for all conditions.
        draws: resamples.
        rng: the source of randomness.
        level: coverage.

    Returns:
        Lower and upper ends; NaN for a cell without words.
    """
    n_clusters, n_conditions, n_cells = sums.shape
    flat = sums.reshape(n_clusters, -1)
    means = np.empty((draws, n_conditions, n_cells))
    for part in _chunks(draws):
        size = part.stop - part.start
        weights = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=size).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            means[part] = (weights @ flat).reshape(size, n_conditions, n_cells) / (weights @ counts)[:, None]
    tail = (1 - level) / 2
    low, high = _quantiles(means, tail), _quantiles(means, 1 - tail)
    return low, high


def _quantiles(means: ndarray, q: float) -> ndarray:
    """Quantile over draws; draws in which a cell had no word do not count, cells that never had one are NaN."""
    flat = np.sort(means.reshape(len(means), -1), axis=0)  # NaN sorts last
    defined = np.count_nonzero(~np.isnan(flat), axis=0)
    place = np.clip(np.round(q * (defined - 1)).astype(int), 0, None)
    return np.take_along_axis(flat, place[None], axis=0).reshape(means.shape[1:])


def sign_flip_p(
    sums: Float[ndarray, " cluster *cell"], *, draws: int, rng: np.random.Generator, one_sided: bool = False
) -> Float[ndarray, "*cell"]:
    """P-value of a zero mean: how often randomly signed clusters reach the observed sum.

    Args:
        sums: loss differences summed within clusters.
        draws: random sign vectors; the smallest p is 1 / (draws + 1).
        rng: the source of randomness.
        one_sided: count only sums as high as the observed one; otherwise as far from zero, either way.

    Returns:
        (1 + hits) / (draws + 1), NaN where no cluster differs from zero.
    """
    flat = sums.reshape(len(sums), -1)
    observed = flat.sum(0)
    tolerance = 1e-12 * np.abs(flat).sum(0)
    hits = np.zeros(flat.shape[1], dtype=np.int64)
    for part in _chunks(draws):
        signs = rng.integers(0, 2, size=(part.stop - part.start, len(flat))) * 2.0 - 1.0
        null = signs @ flat
        reached = null >= observed - tolerance if one_sided else np.abs(null) >= np.abs(observed) - tolerance
        hits += reached.sum(0)
    p = (1 + hits) / (draws + 1)
    return np.where((flat != 0).any(0), p, np.nan).reshape(sums.shape[1:])


def q_values(p: Float[ndarray, "*cell"]) -> Float[ndarray, "*cell"]:
    """Benjamini-Hochberg adjusted p-values over all entries that are defined; NaN stays NaN."""
    q = np.full(p.shape, np.nan)
    defined = ~np.isnan(p)
    if defined.any():
        q[defined] = stats.false_discovery_control(p[defined])
    return q


def within_tag_contrasts(
    sums: Float[ndarray, "cluster tag tag"],
    counts: Float[ndarray, "cluster tag"],
    *,
    draws: int,
    rng: np.random.Generator,
) -> Contrasts:
    """Does tag a suffer more under its own lesion than under that of tag b?  Same words, same baseline.

    Args:
        sums: [cluster, lesioned tag, measured tag] loss differences.
        counts: [cluster, measured tag] words.
        draws: random sign vectors.
        rng: the source of randomness.

    Returns:
        Differences in nats per word and one-sided p-values; the diagonal is NaN.
    """
    own = np.einsum("ctt->ct", sums)[:, :, None]
    gaps = own - sums.transpose(0, 2, 1)  # [cluster, measured tag a, lesioned tag b]
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = gaps.sum(0) / counts.sum(0)[:, None]
    p = sign_flip_p(gaps, draws=draws, rng=rng, one_sided=True)
    diagonal = np.eye(len(difference), dtype=bool)
    return Contrasts(np.where(diagonal, np.nan, difference), np.where(diagonal, np.nan, p))


def _chunks(draws: int) -> Iterator[slice]:
    for start in range(0, draws, _CHUNK):
        yield slice(start, min(start + _CHUNK, draws))
