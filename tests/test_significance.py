"""Intervals, p-values and their correction: slow loops, scipy, and simulations in which the truth is known."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray
from scipy import stats

from posneurons import significance
from posneurons.significance import (
    bootstrap_interval,
    cluster_counts,
    cluster_sums,
    effective_types,
    intersection_union,
    means_without_common_types,
    q_values,
    sign_flip_p,
    two_way_interval,
    type_means,
)

NAN = float("nan")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_cluster_sums_by_hand() -> None:
    # Words of cells 0 1 0 0 in clusters 0 0 0 2.
    found = cluster_sums(np.array([[1.0, 2, 4, 8]]), np.array([0, 1, 0, 0]), np.array([0, 0, 0, 2]), 2)
    assert found.tolist() == [[[5, 2]], [[0, 0]], [[8, 0]]]
    counts = cluster_counts(np.array([0, 1, 0, 0]), np.array([0, 0, 0, 2]), 2)
    np.testing.assert_array_equal(counts, [[2, 1], [0, 0], [1, 0]])


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
            counts = cluster_counts(cells, unit, 1)
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


def test_nan_in_one_cell_stays_in_it() -> None:
    sums = rng(1).normal(1, 1, (30, 1, 3))
    whole = sign_flip_p(sums, draws=500, rng=rng()), *bootstrap_interval(sums, np.ones((30, 3)), draws=500, rng=rng())
    sums[4, 0, 1] = NAN
    part = sign_flip_p(sums, draws=500, rng=rng()), *bootstrap_interval(sums, np.ones((30, 3)), draws=500, rng=rng())
    for before, after in zip(whole, part, strict=True):
        np.testing.assert_array_equal(np.isnan(after), [[False, True, False]])
        np.testing.assert_array_equal(after[0, [0, 2]], before[0, [0, 2]])


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


def test_q_values_under_any_dependence_by_hand() -> None:
    # Benjamini and Yekutieli: as above, times 1 + 1/2 + 1/3 + 1/4 = 25/12, at most 1.
    found = q_values(np.array([[0.03, NAN, 0.5], [0.02, 0.01, NAN]]), "by")
    np.testing.assert_allclose(found, [[1 / 12, NAN, 1], [1 / 12, 1 / 12, NAN]])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_q_values_against_the_definition_and_scipy(p: list[float]) -> None:
    found = q_values(np.array(p))
    np.testing.assert_allclose(found, stats.false_discovery_control(p))
    # Benjamini and Hochberg: the least over all p_j >= p_i of p_j * m / (number of p that are at most p_j).
    for mine, q in zip(p, found, strict=True):
        slow = min(other * len(p) / sum(each <= other for each in p) for other in p if other >= mine)
        assert q == pytest.approx(min(slow, 1))


def test_intersection_union_by_hand() -> None:
    found = intersection_union(np.array([0.1, 0.2, NAN, NAN]), np.array([0.3, 0.1, 0.4, NAN]), np.full(4, NAN))
    np.testing.assert_array_equal(found, [0.3, 0.2, 0.4, NAN])
    np.testing.assert_array_equal(intersection_union(np.array([[0.1], [NAN]])), [[0.1], [NAN]])


P_VALUES = st.lists(st.one_of(st.floats(0, 1), st.just(NAN)), min_size=4, max_size=4)


@given(st.lists(P_VALUES, min_size=1, max_size=4))
def test_a_joint_claim_is_never_surer_than_any_of_its_parts(parts: list[list[float]]) -> None:
    tests = [np.array(part) for part in parts]
    found = intersection_union(*tests)
    for part in tests:
        assert ((found >= part) | np.isnan(part)).all()
    np.testing.assert_array_equal(found, intersection_union(*tests[::-1]))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(tests).all(0))


# Cell 0: types 0 0 0 1 2 with values 3 6 9 1 5; cell 1: types 1 1 0; cell 2: no words.
CELLS = np.array([0, 0, 1, 0, 1, 0, 0, 1])
TYPES = np.array([0, 0, 1, 0, 1, 1, 2, 0])
VALUES = np.array([[3.0, 6, 10, 9, 20, 1, 5, 40], [0, 0, 0, 0, 0, 0, 0, 1]])


def test_type_means_by_hand() -> None:
    # Cell 0: types' means 6 1 5; cell 1: 40 15.
    np.testing.assert_allclose(type_means(VALUES, CELLS, TYPES, 3), [[4, 27.5, NAN], [0, 0.5, NAN]])


def test_means_without_common_types_by_hand() -> None:
    found = means_without_common_types(VALUES, CELLS, TYPES, 3, leave_out=1)
    np.testing.assert_allclose(found, [[3, 40, NAN], [0, 1, NAN]])
    # Of types 1 and 2, which cell 0 has once each, the one with the smaller number goes.
    found = means_without_common_types(VALUES, CELLS, TYPES, 3, leave_out=2)
    np.testing.assert_allclose(found, [[5, NAN, NAN], [0, NAN, NAN]])
    assert np.isnan(means_without_common_types(VALUES, CELLS, TYPES, 3)).all()  # nobody has more than five


def test_effective_types_by_hand() -> None:
    # Shares 3/5 1/5 1/5 and 2/3 1/3: the product of share ** -share.
    expected = [(5 / 3) ** 0.6 * 5**0.4, 1.5 ** (2 / 3) * 3 ** (1 / 3), NAN]
    np.testing.assert_allclose(effective_types(CELLS, TYPES, 3), expected)
    np.testing.assert_allclose(effective_types(np.zeros(12, dtype=int), np.arange(12) % 4, 1), [4])
    np.testing.assert_array_equal(effective_types(np.array([1, 1]), np.array([7, 7]), 2), [NAN, 1])


def words_of(seed: int, n: int) -> tuple[ndarray, ndarray, ndarray]:
    random = rng(seed)
    return random.normal(size=(2, n)), random.integers(0, 4, n), random.integers(0, 9, n)


@given(st.integers(0, 1000), st.integers(0, 60), st.integers(0, 3))
def test_means_by_type_against_loops(seed: int, n: int, leave_out: int) -> None:
    values, cells, types = words_of(seed, n)
    averaged, rest, diversity = np.full((2, 4), NAN), np.full((2, 4), NAN), np.full(4, NAN)
    for cell in range(4):
        own = types[cells == cell].tolist()
        ranked = sorted(set(own), key=lambda each: (-own.count(each), each))
        if own:
            diversity[cell] = np.exp(stats.entropy([own.count(each) for each in ranked]))
        for condition in range(2):
            of_type = {each: values[condition, (cells == cell) & (types == each)] for each in ranked}
            if own:
                averaged[condition, cell] = np.mean([np.mean(of_type[each]) for each in ranked])
            left = [value for each in ranked[leave_out:] for value in of_type[each]]
            if left:
                rest[condition, cell] = np.mean(left)
    np.testing.assert_allclose(type_means(values, cells, types, 4), averaged, atol=1e-12)
    np.testing.assert_allclose(means_without_common_types(values, cells, types, 4, leave_out), rest, atol=1e-12)
    np.testing.assert_allclose(effective_types(cells, types, 4), diversity, atol=1e-12)


@given(st.integers(0, 1000), st.integers(0, 60))
def test_the_order_of_words_does_not_matter(seed: int, n: int) -> None:
    values, cells, types = words_of(seed, n)
    clusters, order = rng(seed + 1).integers(0, 7, n), rng(seed + 2).permutation(n)
    moved = values[:, order], cells[order], types[order]
    np.testing.assert_allclose(type_means(*moved, 4), type_means(values, cells, types, 4), atol=1e-12)
    rest, moved_rest = (means_without_common_types(*each, 4, 2) for each in ((values, cells, types), moved))
    np.testing.assert_allclose(moved_rest, rest, atol=1e-12)
    np.testing.assert_allclose(effective_types(*moved[1:], 4), effective_types(cells, types, 4), atol=1e-12)
    ends = two_way_interval(values, cells, clusters, types, 4, draws=50, rng=rng())
    moved_ends = two_way_interval(moved[0], moved[1], clusters[order], moved[2], 4, draws=50, rng=rng())
    np.testing.assert_allclose(moved_ends, ends, atol=1e-12)


def crossed_words(seed: int, n_clusters: int = 60, n_types: int = 40, n: int = 400) -> tuple[ndarray, ndarray, ndarray]:
    """Clusters, types and values of words; the true mean is 1, clusters and types deviate from it."""
    random = rng(seed)
    clusters, types = random.integers(0, n_clusters, n), random.integers(0, n_types, n)
    shared = random.normal(0, 1, n_clusters)[clusters] + random.normal(0, 1, n_types)[types]
    return clusters, types, 1 + shared + random.normal(0, 0.5, n)


def slow_two_way(clusters: ndarray, types: ndarray, values: ndarray, draws: int) -> tuple[float, float]:
    """Draw clusters and types one by one; a word comes up once per pair of draws of its own."""
    random, means = rng(99), []
    n_clusters, n_types = clusters.max() + 1, types.max() + 1
    for _ in range(draws):
        chosen = random.integers(0, n_clusters, n_clusters).tolist(), random.integers(0, n_types, n_types).tolist()
        times = [chosen[0].count(c) * chosen[1].count(t) for c, t in zip(clusters, types, strict=True)]
        means.append(np.average(values, weights=times))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def test_two_way_interval_against_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters, types, values = crossed_words(3, 12, 8, 60)
    slow_low, slow_high = slow_two_way(clusters, types, values, 4000)
    width = slow_high - slow_low
    for weights in (significance._WEIGHTS, 60 * 300):  # all draws at once, and 300 at a time
        monkeypatch.setattr(significance, "_WEIGHTS", weights)
        cells = np.zeros(60, dtype=int)
        low, high = two_way_interval(values[None], cells, clusters, types, 1, draws=20_000, rng=rng())
        assert abs(low.item() - slow_low) < 0.05 * width
        assert abs(high.item() - slow_high) < 0.05 * width


def test_two_way_interval_with_one_type_or_one_cluster_is_the_one_way_interval() -> None:
    clusters, _, values = crossed_words(4)
    cells, one = rng(1).integers(0, 2, 400), np.zeros(400, dtype=int)
    sums = cluster_sums(values[None], cells, clusters, 2)
    counts = cluster_counts(cells, clusters, 2)
    expected = bootstrap_interval(sums, counts, draws=800, rng=rng())
    one_type = two_way_interval(values[None], cells, clusters, one, 2, draws=800, rng=rng())
    one_cluster = two_way_interval(values[None], cells, one, clusters, 2, draws=800, rng=rng())
    np.testing.assert_allclose(one_type, expected, rtol=1e-12)
    np.testing.assert_allclose(one_cluster, expected, rtol=1e-12)


def test_two_way_interval_of_nothing_and_of_nan() -> None:
    clusters, types, values = crossed_words(5, n=90)
    table = np.stack([values, values])
    table[1, 0] = NAN
    cells = np.r_[0, np.tile([0, 2], 45)[1:]]  # no words in cell 1
    low, high = two_way_interval(table, cells, clusters, types, 3, draws=200, rng=rng())
    for end in (low, high):
        np.testing.assert_array_equal(np.isnan(end), [[False, True, False], [True, True, False]])
        assert end[0, 2] == end[1, 2]
    none = np.zeros(0, dtype=int)
    low, high = two_way_interval(np.zeros((2, 0)), none, none, none, 3, draws=5, rng=rng())
    assert low.shape == high.shape == (2, 3)
    assert np.isnan([low, high]).all()


def test_the_two_way_interval_covers_the_truth_and_the_one_way_interval_does_not() -> None:
    covered = {"two": 0, "one": 0}
    cells = np.zeros(400, dtype=int)
    for seed in range(300):
        clusters, types, values = crossed_words(seed)
        low, high = two_way_interval(values[None], cells, clusters, types, 1, draws=300, rng=rng(seed))
        covered["two"] += int(low.item() <= 1 <= high.item())
        sums, counts = (cluster_sums(each[None], cells, clusters, 1) for each in (values, np.ones(400)))
        low, high = bootstrap_interval(sums, counts[:, 0], draws=300, rng=rng(seed))
        covered["one"] += int(low.item() <= 1 <= high.item())
    # 95 % nominal; the standard error over 300 simulations is 1.3 %.
    assert 0.91 <= covered["two"] / 300 <= 0.98
    assert covered["one"] / 300 < 0.85
