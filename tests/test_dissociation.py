"""Tests against other sets of neurons: hand calculations, scipy, slow loops, and simulations of the null."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

from posneurons.dissociation import (
    against_controls,
    crawford_howell_p,
    equivalence_p,
    matrix_test,
    rank_p,
    within_tag_contrasts,
)
from posneurons.significance import sign_flip_p

NAN = float("nan")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_rank_by_hand() -> None:
    controls = np.array([[1.0, 1, NAN, 1], [2, 2, 2, 2], [3, 3, 3, 3]])
    # 3 is reached by one of three, 0 by all of them.
    np.testing.assert_array_equal(rank_p(np.array([3.0, 0, 5, NAN]), controls), [2 / 4, 1, NAN, NAN])
    assert rank_p(np.array([9.0]), controls[:, :1]) == 1 / 4
    assert np.isnan(rank_p(np.ones((2, 2)), np.ones((0, 2, 2)))).all()


def test_rank_is_uniform_without_an_effect() -> None:
    values = rng(1).normal(size=(20, 4000))
    found = rank_p(values[0], values[1:])
    assert stats.chisquare(np.unique(found, return_counts=True)[1]).pvalue > 0.01
    assert len(np.unique(found)) == 20


def test_crawford_howell_by_hand() -> None:
    # Controls 1 to 5: mean 3, variance 2.5. Of 7, t = 4 / sqrt(2.5 * 6 / 5) = 4 / sqrt(3), df 4, for which
    # P(T > t) = 1/2 - 3/8 u (1 - u^2 / 12) with u = t / sqrt(1 + t^2 / 4) = 4 / sqrt(7).
    controls = np.tile(np.arange(1.0, 6)[:, None], 3)
    u = 4 / 7**0.5
    upper = 0.5 - 0.375 * u * (1 - u**2 / 12)
    np.testing.assert_allclose(crawford_howell_p(np.array([7.0, -1, 3]), controls, "greater"), [upper, 1 - upper, 0.5])
    np.testing.assert_allclose(crawford_howell_p(np.array([7.0, -1, 3]), controls), [2 * upper, 2 * upper, 1])
    assert upper == pytest.approx(0.0410431, abs=1e-7)


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
@pytest.mark.parametrize("n_controls", [2, 3, 20])
def test_crawford_howell_is_the_t_test_of_a_sample_of_one(n_controls: int, alternative: str) -> None:
    value, controls = rng(1).normal(1, 1, (2, 3)), rng(2).normal(0, 1, (n_controls, 2, 3))
    expected = stats.ttest_ind(value[None], controls, alternative=alternative).pvalue
    np.testing.assert_allclose(crawford_howell_p(value, controls, alternative), expected)


def test_crawford_howell_is_at_the_level_at_the_end_of_the_prediction_interval() -> None:
    controls = rng(3).normal(2, 3, 12)
    reach = stats.t.ppf(0.975, 11) * np.sqrt(controls.var(ddof=1) + stats.sem(controls) ** 2)
    ends = controls.mean() + np.array([-1, 1]) * reach
    np.testing.assert_allclose(crawford_howell_p(ends, np.stack([controls, controls], axis=1)), [0.05, 0.05])


def test_crawford_howell_where_it_is_undefined() -> None:
    controls = np.array([[0.1, 1, NAN, 1], [0.1, 2, 2, 2], [0.1, 3, 3, 3]])
    found = crawford_howell_p(np.array([5.0, NAN, 5, 5]), controls)
    np.testing.assert_array_equal(np.isnan(found), [True, True, True, False])
    assert np.isnan(crawford_howell_p(np.ones(2), np.ones((1, 2)))).all()
    assert np.isnan(crawford_howell_p(np.ones(2), np.ones((0, 2)))).all()


def test_crawford_howell_is_uniform_without_an_effect_and_a_z_score_is_not() -> None:
    values = rng(5).normal(1, 2, (6, 4000))
    for alternative in ("two-sided", "greater"):
        assert stats.kstest(crawford_howell_p(values[0], values[1:], alternative), "uniform").pvalue > 0.01
    z = (values[0] - values[1:].mean(0)) / values[1:].std(0, ddof=1)
    assert (2 * stats.norm.sf(np.abs(z)) <= 0.05).mean() > 0.1


def test_a_value_against_its_controls_by_hand() -> None:
    """Controls 0, 1, 5: mean 2, SD sqrt((4 + 1 + 9) / 2); the second column's are equal, and the third's lack one."""
    controls = np.array([[0.0, 0.3, 1.0], [1.0, 0.3, np.nan], [5.0, 0.3, 2.0]])
    found = against_controls(np.array([4.0, 0.5, 3.0]), controls)
    np.testing.assert_allclose(found.mean, [2, 0.3, np.nan])
    np.testing.assert_allclose(found.sd, [np.sqrt(7), 0, np.nan])
    np.testing.assert_allclose(np.stack([found.low, found.high]), [[0, 0.3, np.nan], [5, 0.3, np.nan]])
    np.testing.assert_allclose(found.z, [2 / np.sqrt(7), np.nan, np.nan])
    np.testing.assert_allclose(found.p_rank, [2 / 4, 1 / 4, np.nan])
    expected = stats.t.sf(2 / np.sqrt(7 * 4 / 3), 2)
    np.testing.assert_allclose(found.p_controls, [expected, np.nan, np.nan])


def test_against_no_control_and_one() -> None:
    value = np.array([1.0, 2.0])
    assert np.isnan(np.stack(against_controls(value, np.empty((0, 2))))).all()
    one = against_controls(value, np.array([[3.0, 0.0]]))
    np.testing.assert_array_equal(np.stack([one.mean, one.low, one.high]), [[3, 0]] * 3)
    assert np.isnan(np.stack([one.sd, one.z, one.p_controls])).all()
    np.testing.assert_array_equal(one.p_rank, [1, 1 / 2])


def test_equivalence_by_hand() -> None:
    # Clusters 1 and 3 of one word: mean 2, standard error sqrt(2 / 1 * (1 + 1)) / 2 = 1. One degree of freedom is
    # Cauchy's distribution: P(T < -1) = 1/4. A third cluster without words changes nothing.
    sums, counts = np.array([[1.0, -1], [3, -3], [0, 0]]), np.array([[1.0, 1], [1, 1], [0, 0]])
    np.testing.assert_allclose(equivalence_p(sums, counts, 3.0), [0.25, 0.25])
    np.testing.assert_allclose(equivalence_p(sums, counts, 2.0), [0.5, 0.5])
    np.testing.assert_allclose(equivalence_p(sums, counts, 1.0), [0.75, 0.75])


@pytest.mark.parametrize("margin", [0.05, 0.3, 1.0])
def test_equivalence_of_single_words_against_scipy(margin: float) -> None:
    values = rng(1).normal([0.1, -0.3, 0], 0.7, (25, 3))
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    found = equivalence_p(values, np.ones((25, 3)), margin)
    np.testing.assert_allclose(found, np.maximum(above, below))
    np.testing.assert_allclose(equivalence_p(3 * values, np.full((25, 3), 3.0), margin), found)


def test_equivalence_against_a_loop() -> None:
    counts = rng(2).integers(0, 6, 30).astype(float)
    sums = counts * rng(3).normal(0.05, 0.2, 30)
    used = [(s, n) for s, n in zip(sums.tolist(), counts.tolist(), strict=True) if n]
    words = sum(n for _, n in used)
    mean = sum(s for s, _ in used) / words
    error = (len(used) / (len(used) - 1) * sum((s - mean * n) ** 2 for s, n in used)) ** 0.5 / words
    for margin in (0.02, 0.1, 0.3):
        expected = max(stats.t.sf((mean + margin) / error, len(used) - 1),
                       stats.t.cdf((mean - margin) / error, len(used) - 1))  # fmt: skip
        np.testing.assert_allclose(equivalence_p(sums[:, None], counts[:, None], margin), [expected])


def test_equivalence_where_nothing_varies_and_where_it_is_undefined() -> None:
    # No change at all; a steady change inside, at and outside the margin; one cluster with words; none; NaN.
    sums = np.array([[0.0, 0.25, 0.5, 1, 0.1, 0, NAN], [0, 0.5, 1, 2, 0, 0, 0.1]])
    counts = np.array([[1.0, 1, 1, 1, 1, 0, 1], [1, 2, 2, 2, 0, 0, 2]])
    np.testing.assert_array_equal(equivalence_p(sums, counts, 0.5), [0, 0, 1, 1, NAN, NAN, NAN])


def test_equivalence_holds_its_level_at_the_margin() -> None:
    counts = np.broadcast_to(rng(1).integers(1, 8, (40, 1)), (40, 4000)).astype(float)
    sums = counts * (0.5 + rng(2).normal(0, 0.3, (40, 4000)))
    found = equivalence_p(sums, counts, 0.5)
    assert 0.035 < (found <= 0.05).mean() < 0.075
    assert (equivalence_p(sums - 0.5 * counts, counts, 0.5) <= 0.05).mean() > 0.99


@given(st.integers(0, 1000), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_wider_margin_and_the_mirrored_sums(seed: int, margin: float, more: float) -> None:
    sums, counts = rng(seed).normal(0, 1, (8, 3)), rng(seed + 1).integers(1, 5, (8, 3)).astype(float)
    found = equivalence_p(sums, counts, margin)
    assert (equivalence_p(sums, counts, margin + more) <= found).all()
    np.testing.assert_allclose(equivalence_p(-sums, counts, margin), found)


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
    assert found.p_items[0, 1] == found.p_items[0, 2] == 1 / 3001
    assert found.p_items[1, 0] > 0.99
    assert np.isnan(found.p_items[[0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 1, 2]]).all()
    assert np.isnan(found.p_controls).all()
    assert np.isnan(found.p_others).all()  # there is one other set


def test_contrasts_against_controls_by_hand() -> None:
    sums, counts = contrast_table()
    # On tag 0, random sets of tag 0 raise the loss by 2 4 6 and those of tag 1 by 1 1 1: 1 3 5 with mean 3, sd 2.
    controls = np.zeros((3, 3, 3))
    controls[:, 0, 0], controls[:, 1, 0] = [2, 4, 6], 1
    controls[:, 2, 1] = 7  # the sets of tag 2 on tag 1: the contrast of 1 with 2 never varies
    found = within_tag_contrasts(sums, counts, draws=10, rng=rng(), controls=controls).p_controls
    # t = (2 - 3) / (2 sqrt(4 / 3)), df 2, for which P(T > t) = 1/2 - t / (2 sqrt(2 + t^2)).
    t = -1 / (2 * (4 / 3) ** 0.5)
    assert found[0, 1] == pytest.approx(0.5 - t / (2 * (2 + t**2) ** 0.5))
    assert np.isnan(found[[0, 1, 2], [0, 1, 2]]).all()
    assert np.isnan(found[1, 2])
    np.testing.assert_array_equal(np.isnan(found[0]), [True, False, False])


def test_contrasts_against_other_tags_by_hand() -> None:
    # On tag 0 the sets of tags 0 to 4 raise the loss by 9 3 1 2 3. Of 0 against 1: others 1 2 3, sd 1,
    # t = 6 / sqrt(2), df 2. Of 0 against 4: others 3 1 2, the same.
    sums = np.zeros((2, 5, 5))
    counts = np.ones((2, 5))
    sums[:, :, 0] = [9.0, 3, 1, 2, 3]
    found = within_tag_contrasts(sums, counts, draws=10, rng=rng()).p_others
    t = 6 / 2**0.5
    np.testing.assert_allclose(found[0, [1, 4]], 0.5 - t / (2 * (2 + t**2) ** 0.5))
    assert np.isnan(found[1:]).all()  # nothing varies on the other tags' words


def study(seed: int, n_tags: int) -> tuple[ndarray, ndarray, ndarray]:
    """Sums, counts and controls of a study in which all sets come from one population."""
    random = rng(seed)
    counts = random.integers(1, 5, (6, n_tags)).astype(float)
    rises = random.normal(0.2, 0.1, (n_tags, n_tags))
    sums = counts[:, None] * (rises + random.normal(0, 0.05, (6, n_tags, n_tags)))
    return sums, counts, random.normal(0.2, 0.1, (8, n_tags, n_tags))


def test_contrasts_against_loops_and_scipy() -> None:
    sums, counts, controls = study(1, 6)
    found = within_tag_contrasts(sums, counts, draws=400, rng=rng(), controls=controls)
    rises = sums.sum(0) / counts.sum(0)
    for a in range(6):
        for b in range(6):
            if a == b:
                assert np.isnan([part[a, a] for part in found]).all()
                continue
            gap = rises[a, a] - rises[b, a]
            assert found.difference[a, b] == pytest.approx(gap)
            null = controls[:, a, a] - controls[:, b, a]
            expected = stats.ttest_ind([gap], null, alternative="greater").pvalue
            assert found.p_controls[a, b] == pytest.approx(expected)
            others = [rises[c, a] for c in range(6) if c not in (a, b)]
            expected = stats.t.sf(gap / (2**0.5 * np.std(others, ddof=1)), 3)
            assert found.p_others[a, b] == pytest.approx(expected)
            items = sums[:, a, a] - sums[:, b, a]
            expected = sign_flip_p(items[:, None], draws=400, rng=rng(), one_sided=True).item()
            assert found.p_items[a, b] == expected


@given(st.integers(0, 1000), st.integers(1, 7), st.integers(0, 3))
def test_renaming_the_tags_moves_the_contrasts(seed: int, n_tags: int, n_controls: int) -> None:
    sums, counts, controls = study(seed, n_tags)
    controls = controls[:n_controls]
    order = rng(seed).permutation(n_tags)
    found = within_tag_contrasts(sums, counts, draws=50, rng=rng(), controls=controls)
    moved = within_tag_contrasts(
        sums[:, order][:, :, order], counts[:, order], draws=50, rng=rng(), controls=controls[:, order][:, :, order]
    )
    for before, after in zip(found, moved, strict=True):
        np.testing.assert_allclose(after, before[order][:, order], atol=1e-9)
    assert np.isnan(found.p_controls).all() == (n_tags < 2 or n_controls < 2)
    assert np.isnan(found.p_others).all() == (n_tags < 5)


def test_contrasts_of_a_tag_without_words_are_undefined() -> None:
    sums, counts, controls = study(2, 6)
    whole = within_tag_contrasts(sums, counts, draws=100, rng=rng(), controls=controls)
    sums[:, :, 2], counts[:, 2], controls[:, :, 2] = 0, 0, NAN
    found = within_tag_contrasts(sums, counts, draws=100, rng=rng(), controls=controls)
    for part, before in zip(found, whole, strict=True):
        assert np.isnan(part[2]).all()
        np.testing.assert_array_equal(part[[0, 1, 3, 4, 5]], before[[0, 1, 3, 4, 5]])


def test_contrasts_are_uniform_when_sets_are_exchangeable() -> None:
    """Against other sets that is so whatever the strength of the sets, against weaker random sets it is not."""
    p_others, p_controls, weak = [], [], []
    counts = np.ones((1, 6))
    for seed in range(2000):
        rises = rng(seed).normal(0.2, 0.1, (9, 6, 6))
        found = within_tag_contrasts(rises[:1], counts, draws=1, rng=rng(), controls=rises[1:])
        p_others.append(found.p_others[0, 1])
        p_controls.append(found.p_controls[0, 1])
        if seed < 500:
            strong = within_tag_contrasts(3 * rises[:1], counts, draws=1, rng=rng(), controls=rises[1:])
            weak.append(strong.p_controls[0, 1])
            assert strong.p_others[0, 1] == pytest.approx(found.p_others[0, 1])
    assert stats.kstest(p_others, "uniform").pvalue > 0.01
    assert stats.kstest(p_controls, "uniform").pvalue > 0.01
    assert np.mean(np.array(weak) <= 0.05) > 0.15


def test_matrix_by_hand() -> None:
    # Of the six orders of the rows only the observed one puts all ones on the diagonal.
    found = matrix_test(np.eye(3), draws=20_000, rng=rng())
    assert found.difference == 1
    assert found.p_value == pytest.approx(1 / 6, abs=0.012)
    assert matrix_test(1 - np.eye(3), draws=100, rng=rng()).p_value == 1
    assert matrix_test(np.array([[2.0, 1], [0, 4]]), draws=1, rng=rng()).difference == 3 - 0.5
    assert matrix_test(np.ones((4, 4)), draws=100, rng=rng()) == (0, 1)


def test_matrix_against_every_permutation_and_scipy() -> None:
    matrix = rng(2).normal(size=(5, 5)) + 0.5 * np.eye(5)
    columns = np.arange(5)
    exact = np.mean([matrix[list(rows), columns].sum() >= np.trace(matrix) - 1e-9 for rows in permutations(range(5))])
    theirs = stats.permutation_test(
        (columns,),
        lambda rows: matrix[rows, columns].sum(),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=np.inf,
    ).pvalue
    assert exact == pytest.approx(theirs)
    found = matrix_test(matrix, draws=40_000, rng=rng()).p_value
    assert found == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 40_000) ** 0.5 + 1e-4)


def test_matrix_where_it_is_undefined() -> None:
    hole = np.eye(3)
    hole[0, 1] = NAN
    for matrix in (hole, np.ones((1, 1)), np.ones((0, 0))):
        assert np.isnan(matrix_test(matrix, draws=10, rng=rng())).all()


@given(st.integers(0, 1000), st.integers(2, 7))
def test_strong_sets_and_frail_tags_do_not_count(seed: int, n_tags: int) -> None:
    """A set that harms all tags alike, and a tag that every set harms alike, change nothing."""
    random = rng(seed)
    matrix = random.normal(size=(n_tags, n_tags))
    shifted = matrix + random.normal(0, 3, (n_tags, 1)) + random.normal(0, 3, n_tags)
    found, same = (matrix_test(each, draws=99, rng=rng()) for each in (matrix, shifted))
    np.testing.assert_allclose(same, found, atol=1e-9)
