"""Intervals, p-values and their correction: slow loops, scipy, and simulations in which the truth is known."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

from posneurons.significance import bootstrap_interval, cluster_sums, q_values, sign_flip_p, within_tag_contrasts

NAN = float("nan")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_cluster_sums_by_hand() -> None:
    # Words of cells 0 1 0 0 in clusters 0 0 0 2.
    found = cluster_sums(np.array([[1.0, 2, 4, 8]]), np.array([0, 1, 0, 0]), np.array([0, 0, 0, 2]), 2)
    assert found.tolist() == [[[5, 2]], [[0, 0]], [[8, 0]]]


@given(st.integers(0, 1000), st.integers(0, 40), st.integers(1, 3))
def test_cluster_sums_against_a_loop(seed: int, n: int, n_conditions: int) -> None:
    values = rng(seed).normal(size=(n_conditions, n))
    cells, clusters = rng(seed).integers(0, 3, n), rng(seed + 1).integers(0, 5, n)
    expected = np.zeros((clusters.max(initial=-1) + 1, n_conditions, 3))
    for condition in range(n_conditions):
        for word in range(n):
            expected[clusters[word], condition, cells[word]] += values[condition, word]
    np.testing.assert_allclose(cluster_sums(values, cells, clusters, 3), expected, atol=1e-12)


def slow_interval(sums: ndarray, counts: ndarray, draws: int) -> tuple[float, float]:
    """Percentile bootstrap of one cell, cluster by cluster."""
    random, means = rng(99), []
    for _ in range(draws):
        chosen = [int(c) for c in random.integers(0, len(sums), len(sums))]
        means.append(sum(sums[c] for c in chosen) / sum(counts[c] for c in chosen))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def test_interval_against_a_slow_loop() -> None:
    counts = rng(1).integers(1, 8, 40).astype(float)
    sums = counts * rng(2).normal(0.3, 0.5, 40)
    low, high = bootstrap_interval(sums[:, None, None], counts[:, None], draws=20_000, rng=rng())
    slow_low, slow_high = slow_interval(sums, counts, 5000)
    width = slow_high - slow_low
    assert abs(low[0, 0] - slow_low) < 0.04 * width
    assert abs(high[0, 0] - slow_high) < 0.04 * width


def test_intervals_of_cells_that_are_the_same_are_the_same() -> None:
    """All conditions and cells see the same resamples, in whatever number of draws."""
    sums = np.broadcast_to(rng(1).normal(size=(30, 1, 1)), (30, 4, 3)).copy()
    low, high = bootstrap_interval(sums, np.ones((30, 3)), draws=1500, rng=rng())
    np.testing.assert_allclose(low, low[0, 0], rtol=1e-12)
    np.testing.assert_allclose(high, high[0, 0], rtol=1e-12)
    assert (low < high).all()
    again = bootstrap_interval(sums, np.ones((30, 3)), draws=1500, rng=rng())
    np.testing.assert_array_equal((low, high), again)


def test_interval_of_a_constant_and_of_nothing() -> None:
    counts = np.array([[1.0, 0, 0], [3, 0, 0], [2, 5, 0]])  # the second cell is in one cluster, the third in none
    low, high = bootstrap_interval((counts * 0.5)[:, None], counts, draws=500, rng=rng())
    np.testing.assert_array_equal(low, [[0.5, 0.5, NAN]])
    np.testing.assert_array_equal(high, [[0.5, 0.5, NAN]])


def test_narrower_intervals_at_a_lower_level() -> None:
    sums, counts = rng(1).normal(size=(50, 1, 1)), np.ones((50, 1))
    low, high = bootstrap_interval(sums, counts, draws=4000, rng=rng())
    low_half, high_half = bootstrap_interval(sums, counts, draws=4000, rng=rng(), level=0.5)
    # A normal variable: 1.96 standard errors for 95 %, 0.674 for 50 %.
    assert (high_half - low_half).item() / (high - low).item() == pytest.approx(0.674 / 1.96, rel=0.1)
    assert (high - low).item() == pytest.approx(2 * 1.96 * sums.std() / 50**0.5, rel=0.1)


def clustered_words(seed: int, n_clusters: int = 80) -> tuple[ndarray, ndarray]:
    """Words of true mean 1 in clusters of 1 to 12 that share a large part of their deviation."""
    random = rng(seed)
    clusters = np.repeat(np.arange(n_clusters), random.integers(1, 13, n_clusters))
    shared = random.normal(0, 1, n_clusters)[clusters]
    return clusters, 1 + shared + random.normal(0, 1, len(clusters))


def test_the_interval_covers_the_truth_and_one_over_words_would_not() -> None:
    covered = {"clusters": 0, "words": 0}
    for seed in range(300):
        by_cluster, values = clustered_words(seed)
        for name, unit in (("clusters", by_cluster), ("words", np.arange(len(values)))):
            cells = np.zeros(len(values), dtype=np.int64)
            sums = cluster_sums(values[None], cells, unit, 1)
            counts = cluster_sums(np.ones((1, len(values))), cells, unit, 1)[:, 0]
            low, high = bootstrap_interval(sums, counts, draws=250, rng=rng(seed))
            covered[name] += int(low.item() <= 1 <= high.item())
    # 95 % nominal; the standard error over 300 simulations is 1.3 %, and percentile intervals are a little narrow.
    assert 0.90 <= covered["clusters"] / 300 <= 0.98
    assert covered["words"] / 300 < 0.75


def exact_p(sums: ndarray, *, one_sided: bool) -> float:
    """Every assignment of signs."""
    observed, hits = sums.sum(), 0
    for signs in product([-1, 1], repeat=len(sums)):
        total = float(np.dot(signs, sums))
        hits += total >= observed - 1e-9 if one_sided else abs(total) >= abs(observed) - 1e-9
    return hits / 2 ** len(sums)


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sign_flips_against_every_assignment_and_scipy(seed: int, one_sided: bool) -> None:
    sums = rng(seed).normal(0.4 * seed, 1, 8)
    found = sign_flip_p(sums[:, None], draws=40_000, rng=rng(), one_sided=one_sided).item()
    exact = exact_p(sums, one_sided=one_sided)
    # The statistic of scipy's two-sided test is abs(sum), whose "greater" side are both ends.
    theirs = stats.permutation_test(
        (sums,),
        (lambda x, axis: x.sum(axis)) if one_sided else (lambda x, axis: np.abs(x.sum(axis))),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
        alternative="greater",
    ).pvalue
    assert exact == pytest.approx(theirs)
    assert found == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 40_000) ** 0.5 + 1e-4)


def test_sign_flips_by_hand() -> None:
    # Clusters 1 2 3, all up: of 8 sign vectors one reaches 6, and two reach 6 or -6. Ties count.
    cells = np.array([[1.0, -1, 1], [2, -2, 1], [3, -3, -2]])
    two_sided = sign_flip_p(cells, draws=20_000, rng=rng())
    np.testing.assert_allclose(two_sided, [2 / 8, 2 / 8, 1], atol=0.015)
    one_sided = sign_flip_p(cells, draws=20_000, rng=rng(), one_sided=True)
    # Of 1 1 -2 the sum is 0; the sums of the 8 vectors are 0 0 4 -4 2 -2 2 -2, of which 5 are at least 0.
    np.testing.assert_allclose(one_sided, [1 / 8, 1, 5 / 8], atol=0.015)


def test_the_smallest_p_and_the_undefined_one() -> None:
    cells = np.stack([np.ones(60), np.zeros(60)], axis=1)[:, None]
    found = sign_flip_p(cells, draws=2500, rng=rng())
    assert found.shape == (1, 2)
    assert found[0, 0] == 1 / 2501
    assert np.isnan(found[0, 1])


def test_p_values_are_uniform_without_an_effect() -> None:
    # 800 studies of 40 skewless clusters, side by side: their sign vectors are the same, their data are not.
    sums = rng(5).normal(size=(40, 800)) * rng(6).uniform(0.2, 3, (40, 1))
    for one_sided in (False, True):
        p = sign_flip_p(sums, draws=2000, rng=rng(), one_sided=one_sided)
        assert stats.kstest(p, "uniform").pvalue > 0.001
        assert 0.03 < (p <= 0.05).mean() < 0.075
    shifted = sign_flip_p(sums + 0.5, draws=2000, rng=rng())
    assert (shifted <= 0.05).mean() > 0.3


def test_q_values_by_hand() -> None:
    # p 0.01 0.02 0.03 0.5 times 4 / rank: 0.04 0.04 0.04 0.5; order and NaN stay where they are.
    found = q_values(np.array([[0.03, NAN, 0.5], [0.02, 0.01, NAN]]))
    np.testing.assert_allclose(found, [[0.04, NAN, 0.5], [0.04, 0.04, NAN]])
    assert np.isnan(q_values(np.full(3, NAN))).all()
    assert q_values(np.zeros(0)).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_q_values_against_the_definition_and_scipy(p: list[float]) -> None:
    found = q_values(np.array(p))
    np.testing.assert_allclose(found, stats.false_discovery_control(p))
    # Benjamini and Hochberg: the least over all p_j >= p_i of p_j * m / (number of p that are at most p_j).
    for mine, q in zip(p, found, strict=True):
        slow = min(other * len(p) / sum(each <= other for each in p) for other in p if other >= mine)
        assert q == pytest.approx(min(slow, 1))


def contrast_table() -> tuple[Float[ndarray, "cluster tag tag"], Float[ndarray, "cluster tag"]]:
    """20 clusters; rows are lesions. Tag 0 loses 3 per word under its own lesion, 1 and 2 under the others."""
    per_word = np.array([[3.0, 0.5, 0], [1, 0.25, 0], [2, 0.25, 0]])
    counts = np.tile([[1.0, 4, 2], [3, 4, 2]], (10, 1))
    return per_word * counts[:, None], counts


def test_contrasts_by_hand() -> None:
    sums, counts = contrast_table()
    found = within_tag_contrasts(sums, counts, draws=3000, rng=rng())
    # Tag 0: 3 - 1 and 3 - 2. Tag 1: 0.25 - 0.5 and 0.25 - 0.25. Tag 2: nothing differs.
    np.testing.assert_allclose(found.difference, [[NAN, 2, 1], [-0.25, NAN, 0], [0, 0, NAN]])
    assert found.p_value[0, 1] == found.p_value[0, 2] == 1 / 3001
    assert found.p_value[1, 0] > 0.99
    assert np.isnan(found.p_value[[0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 1, 2]]).all()


def test_contrasts_of_a_tag_without_words_are_undefined() -> None:
    sums, counts = contrast_table()
    sums[:, :, 2], counts[:, 2] = 0, 0
    found = within_tag_contrasts(sums, counts, draws=100, rng=rng())
    assert np.isnan(found.difference[2]).all()
    assert np.isnan(found.p_value[2]).all()
    assert found.difference[0, 2] == 1
