"""How sure a difference of losses is: would other words of the same kind show it?  Intervals, p-values, corrections.

Words of one sentence are not independent, so the unit that is resampled or flipped is the cluster (a sentence or a
document). Everything starts from two tables: the summed loss difference of each cluster in each cell, and the number
of words behind it. One weight matrix serves all cells, which keeps them paired. Words of one type (a form) are not
independent either, and a tag such as CCONJ has hardly more than two of them: the two-way interval resamples both, and
the means over types and without common types show what a few frequent forms contribute. Whether other neurons would do
the same is the question of `dissociation`. This module knows no models. NaN in, NaN out.

What it does not know: intervals are percentile intervals and are too narrow where a cell has few clusters or types; of
a cell with a single type, no resampling tells how another type would do.

Sources: Efron and Tibshirani 1993 (cluster bootstrap of a ratio), Good 2005 (sign-flip permutation), Owen 2007
(doi.org/10.1214/07-AOAS122, bootstrap of two crossed factors), Hill 1973 (doi.org/10.2307/1934352, effective number of
types), Benjamini and Hochberg 1995, Benjamini and Yekutieli 2001, Berger 1982 (intersection-union test).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import stats

_CHUNK = 1000
_WEIGHTS = 2**21
"""How many weights of words the two-way bootstrap holds at a time (16 MB)."""


class _Groups(NamedTuple):
    """The distinct (cell, type) pairs of words, ordered by cell and then type."""

    cell: Int[ndarray, " k"]
    words: Int[ndarray, " k"]
    """How many words each has."""
    group: Int[ndarray, " word"]
    """The pair of each word."""


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


def cluster_counts(
    cells: Int[ndarray, " word"], clusters: Int[ndarray, " word"], n_cells: int
) -> Float[ndarray, "cluster cell"]:
    """Number of words of each (cluster, cell), float64; clusters numbered from 0."""
    return cluster_sums(np.ones((1, len(cells))), cells, clusters, n_cells)[:, 0]


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
        (1 + hits) / (draws + 1), NaN where no cluster differs from zero or a sum is NaN.
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
    defined = (flat != 0).any(0) & ~np.isnan(observed)
    return np.where(defined, p, np.nan).reshape(sums.shape[1:])


def two_way_interval(
    values: Float[ndarray, "condition word"],
    cells: Int[ndarray, " word"],
    clusters: Int[ndarray, " word"],
    types: Int[ndarray, " word"],
    n_cells: int,
    *,
    draws: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[Float[ndarray, "condition cell"], Float[ndarray, "condition cell"]]:
    """Percentile interval of the mean over words, clusters and word types both drawn with replacement.

    A word weighs how often its cluster was drawn times how often its type was (the pigeonhole bootstrap, Owen 2007).
    All cells and conditions see the same draws. It errs on the wide side, up to sqrt(3) times where neither clusters
    nor types deviate together and words differ by chance alone.

    Args:
        values: loss differences of words.
        cells: of each word, numbered from 0.
        clusters: of each word.
        types: of each word; a type may be in several cells.
        n_cells: number of cells.
        draws: resamples.
        rng: the source of randomness.
        level: coverage.

    Returns:
        Lower and upper ends; NaN for a cell without words.
    """
    order = np.argsort(cells, kind="stable")
    sorted_values = values[:, order].astype(np.float64)
    _, cluster = np.unique(clusters[order], return_inverse=True)
    _, word_type = np.unique(types[order], return_inverse=True)
    bounds = np.searchsorted(cells[order], np.arange(n_cells + 1))
    means = np.full((draws, len(values), n_cells), np.nan)
    for part in _chunks(draws, max(1, _WEIGHTS // max(1, len(cells)))):
        size = part.stop - part.start
        weights = _multiplicities(cluster, size, rng)
        weights *= _multiplicities(word_type, size, rng)
        for cell, (start, stop) in enumerate(itertools.pairwise(bounds)):
            within = weights[start:stop]
            with np.errstate(invalid="ignore", divide="ignore"):
                means[part, :, cell] = ((sorted_values[:, start:stop] @ within) / within.sum(0)).T
    tail = (1 - level) / 2
    return _quantiles(means, tail), _quantiles(means, 1 - tail)


def _multiplicities(group: Int[ndarray, " word"], draws: int, rng: np.random.Generator) -> Float[ndarray, "word draw"]:
    """How often each word's group comes up if as many groups as there are are drawn with replacement."""
    n_groups = int(group.max(initial=0)) + 1
    drawn = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws)
    by_group: Float[ndarray, "k draw"] = np.ascontiguousarray(drawn.T, dtype=np.float64)
    return np.take(by_group, group, axis=0)


def type_means(
    values: Float[ndarray, "condition word"], cells: Int[ndarray, " word"], types: Int[ndarray, " word"], n_cells: int
) -> Float[ndarray, "condition cell"]:
    """Mean over a cell's word types of the mean over the words of each, so that frequent forms weigh no more than rare.

    Args:
        values: loss differences of words.
        cells: of each word, numbered from 0.
        types: of each word, numbered from 0; a type may be in several cells.
        n_cells: number of cells.

    Returns:
        Nats per word type; NaN for a cell without words.
    """
    groups = _groups(cells, types)
    return cell_means(cell_means(values, groups.group, len(groups.words)), groups.cell, n_cells)


def means_without_common_types(
    values: Float[ndarray, "condition word"],
    cells: Int[ndarray, " word"],
    types: Int[ndarray, " word"],
    n_cells: int,
    leave_out: int = 5,
) -> Float[ndarray, "condition cell"]:
    """Mean over the words whose type is not among the most frequent ones of their cell.

    Args:
        values: loss differences of words.
        cells: of each word, numbered from 0.
        types: of each word, numbered from 0; a type may be in several cells.
        n_cells: number of cells.
        leave_out: how many types of each cell are left out; of equally frequent ones, those with the smaller numbers.

    Returns:
        Nats per word; NaN where no word is left.
    """
    groups = _groups(cells, types)
    order = np.lexsort((-groups.words, groups.cell))  # stable: of equal ones, the smaller type number comes first
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(groups.cell, groups.cell)  # groups are ordered by cell
    kept = (rank >= leave_out)[groups.group]
    return cell_means(values[:, kept], cells[kept], n_cells)


def effective_types(
    cells: Int[ndarray, " word"], types: Int[ndarray, " word"], n_cells: int
) -> Float[ndarray, " cell"]:
    """How many equally frequent word types would be as diverse as those of the cell: exp of their entropy (Hill 1973).

    Args:
        cells: of each word, numbered from 0.
        types: of each word, numbered from 0; a type may be in several cells.
        n_cells: number of cells.

    Returns:
        1 where all words are of one type; NaN for a cell without words.
    """
    groups = _groups(cells, types)
    words = np.bincount(cells, minlength=n_cells)
    shares = groups.words / words[groups.cell]
    entropy = np.bincount(groups.cell, weights=-shares * np.log(shares), minlength=n_cells)
    return np.where(words > 0, np.exp(entropy), np.nan)


def _groups(cells: Int[ndarray, " word"], types: Int[ndarray, " word"]) -> _Groups:
    n_types = int(types.max(initial=0)) + 1
    pairs, group, words = np.unique(cells * n_types + types, return_inverse=True, return_counts=True)
    return _Groups(pairs // n_types, words, group)


def cell_means(
    values: Float[ndarray, "condition word"], cells: Int[ndarray, " word"], n_cells: int
) -> Float[ndarray, "condition cell"]:
    """Mean of `values` over the words of each cell; NaN for a cell without words."""
    words = np.bincount(cells, minlength=n_cells)
    sums = [np.bincount(cells, weights=row, minlength=n_cells) for row in values]
    with np.errstate(invalid="ignore"):
        return np.reshape(sums, (len(values), n_cells)) / words


def q_values(p: Float[ndarray, "*cell"], method: Literal["bh", "by"] = "bh") -> Float[ndarray, "*cell"]:
    """P-values adjusted for the rate of false discoveries over all entries that are defined; NaN stays NaN.

    Args:
        p: the whole family of tests.
        method: "bh" (Benjamini and Hochberg; tests independent or positively dependent) or "by" (Benjamini and
            Yekutieli; any dependence).
    """
    q = np.full(p.shape, np.nan)
    defined = ~np.isnan(p)
    if defined.any():
        q[defined] = stats.false_discovery_control(p[defined], method=method)
    return q


def intersection_union(*p: Float[ndarray, "*cell"]) -> Float[ndarray, "*cell"]:
    """P-value of the claim that every one of several effects is there: the largest of those that are defined.

    Holds its level however the tests depend on each other (Berger 1982). A test that could not be made (NaN, such as
    one against controls that there are none of) is left out; NaN where none could be made.
    """
    largest: Float[ndarray, "*cell"] = np.fmax.reduce(np.stack(p))
    return largest


def _chunks(draws: int, size: int = _CHUNK) -> Iterator[slice]:
    for start in range(0, draws, size):
        yield slice(start, min(start + size, draws))
