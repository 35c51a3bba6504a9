"""Dissimilarities of tags, trees and Mantel tests: by hand, against scipy, and in simulations."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from numpy import ndarray
from scipy import stats
from scipy.cluster.hierarchy import average
from scipy.spatial.distance import pdist, squareform

from posneurons.errors import PosNeuronsError
from posneurons.records import TagMoments
from posneurons.similarity import (
    Dissimilarity,
    activation_profiles,
    cluster,
    compare,
    from_profiles,
    lesion_profiles,
)

NAN = float("nan")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def names(n: int) -> tuple[str, ...]:
    return tuple(f"T{number}" for number in range(n))


def random_one(n: int, seed: int, what: str = "drawn") -> Dissimilarity:
    return from_profiles(what, names(n), rng(seed).normal(size=(n, 6)))


def test_profiles_by_hand() -> None:
    # Up, the same times two, and down: r = 1 and -1; a constant has no r.
    found = from_profiles("x", ["A", "B", "C", "D"], np.array([[1.0, 2, 3], [2, 4, 6], [3, 2, 1], [5, 5, 5]]))
    np.testing.assert_allclose(
        found.values, [[0, 0, 2, NAN], [0, 0, 2, NAN], [2, 2, 0, NAN], [NAN, NAN, NAN, 0]], atol=1e-12
    )
    assert found.known() == ("A", "B", "C")
    assert found.to_frame().loc["A", "C"] == pytest.approx(2)


@given(st.integers(0, 1000), st.integers(2, 7), st.integers(3, 9))
@settings(deadline=None)
def test_profiles_against_scipy(seed: int, n: int, features: int) -> None:
    profiles = rng(seed).normal(size=(n, features))
    found = from_profiles("x", names(n), profiles).values
    np.testing.assert_allclose(found, squareform(pdist(profiles, "correlation")), atol=1e-9)
    np.testing.assert_array_equal(found, found.T)
    assert found.min() >= 0
    assert found.max() <= 2


def test_undefined_features_count_for_no_pair_that_lacks_them() -> None:
    profiles = rng().normal(size=(3, 6))
    profiles[0, 2] = NAN
    found = from_profiles("x", names(3), profiles).values
    kept = [0, 1, 3, 4, 5]
    assert found[0, 1] == pytest.approx(1 - np.corrcoef(profiles[0, kept], profiles[1, kept])[0, 1])
    assert found[1, 2] == pytest.approx(1 - np.corrcoef(profiles[1], profiles[2])[0, 1])
    assert np.isnan(from_profiles("x", names(2), profiles[:2, :3]).values[0, 1])  # two features have r = 1 or -1


def matrix() -> pd.DataFrame:
    """Lesions of A, B and C measured on four tags."""
    return pd.DataFrame(
        rng(3).normal(size=(3, 4)) + 3 * np.eye(3, 4), index=["A", "B", "C"], columns=["A", "B", "C", "D"]
    )


def test_lesions_by_row_and_by_column() -> None:
    table = matrix()
    by_row, by_column = lesion_profiles(table), lesion_profiles(table, by="measured")
    assert by_row.tags == ("A", "B", "C")
    assert by_column.tags == ("A", "B", "C", "D")
    assert by_row.values[0, 1] == pytest.approx(1 - stats.pearsonr(table.loc["A"], table.loc["B"])[0])
    assert by_column.values[0, 3] == pytest.approx(1 - stats.pearsonr(table["A"], table["D"])[0])
    assert by_row.what == "lesions, by lesion"
    with pytest.raises(PosNeuronsError, match=r"^lesion profiles: by='tag'; expected one of lesion, measured$"):
        lesion_profiles.__wrapped__(table, by="tag")  # a user's Python has no type checks around it


def test_own_cells_are_those_of_the_pair() -> None:
    table = pd.DataFrame(rng(4).normal(size=(5, 5)), index=list("ABCDE"), columns=list("EDCBA"))
    found = lesion_profiles(table, own=False)
    kept = ["C", "D", "E"]
    assert found.values[0, 1] == pytest.approx(1 - stats.pearsonr(table.loc["A", kept], table.loc["B", kept])[0])
    changed = table.copy()
    changed.loc["A", ["A", "B"]] = changed.loc["B", ["A", "B"]] = [50.0, -70.0]
    assert lesion_profiles(changed, own=False).values[0, 1] == found.values[0, 1]
    assert lesion_profiles(changed).values[0, 1] != lesion_profiles(table).values[0, 1]
    assert found.what == "lesions, by lesion, without own cells"


def test_centred_profiles_do_not_see_what_all_lesions_do() -> None:
    table = matrix()
    louder = table + np.array([100.0, -50, 0, 7])  # each measured tag suffers so much more from every lesion
    np.testing.assert_allclose(
        lesion_profiles(louder, centred=True).values, lesion_profiles(table, centred=True).values, atol=1e-9
    )
    assert np.abs(lesion_profiles(louder).values - lesion_profiles(table).values).max() > 0.1
    centred = table - table.mean()
    assert lesion_profiles(table, centred=True).values[0, 2] == pytest.approx(
        1 - stats.pearsonr(centred.loc["A"], centred.loc["C"])[0]
    )


def moments(tags: int = 4, seed: int = 0) -> TagMoments:
    count = rng(seed).integers(2, 30, tags)
    mean = rng(seed).normal(size=(tags, 2, 20)) * rng(seed + 1).lognormal(1, 2, size=(2, 20)) + 5
    return TagMoments(names(tags), "predict", count, mean, rng(seed).lognormal(size=mean.shape) * count[:, None, None])


def test_activations_against_a_loop() -> None:
    given_moments = moments()
    profiles: list[list[float]] = [[] for _ in range(4)]
    for layer in range(2):
        for unit in range(20):
            means = [float(given_moments.mean[tag, layer, unit]) for tag in range(4)]
            within = [given_moments.m2[tag, layer, unit] / given_moments.count[tag] for tag in range(4)]
            centre = sum(means) / 4
            variance = sum(within) / 4 + sum((each - centre) ** 2 for each in means) / 4
            for tag in range(4):
                profiles[tag].append((means[tag] - centre) / variance**0.5)
    expected = 1 - np.corrcoef(profiles)
    found = activation_profiles(given_moments)
    np.testing.assert_allclose(found.values, expected, atol=1e-9)
    assert found.what == "activations at predict"


def test_activations_do_not_depend_on_units_and_offsets_of_neurons() -> None:
    one = moments()
    scale = rng(9).lognormal(size=(2, 20))
    other = TagMoments(one.tags, one.at, one.count, one.mean * scale + 3, one.m2 * scale**2)
    np.testing.assert_allclose(activation_profiles(other).values, activation_profiles(one).values, atol=1e-9)


def test_activations_of_tags_without_words_and_of_silent_neurons() -> None:
    one = moments()
    silent = TagMoments(one.tags, one.at, one.count.copy(), one.mean.copy(), one.m2.copy())
    silent.count[1], silent.mean[1], silent.m2[1] = 0, 0, 0
    kept = [0, 2, 3]
    without = TagMoments(("T0", "T2", "T3"), one.at, one.count[kept], one.mean[kept], one.m2[kept])
    found = activation_profiles(silent)
    assert found.known() == ("T0", "T2", "T3")
    np.testing.assert_allclose(found.among(("T0", "T2", "T3")), activation_profiles(without).values, atol=1e-12)
    dead = TagMoments(
        one.tags,
        one.at,
        one.count,
        np.dstack([one.mean, one.mean[..., :1] * 0]),
        np.dstack([one.m2, one.m2[..., :1] * 0]),
    )
    np.testing.assert_allclose(activation_profiles(dead).values, activation_profiles(one).values, atol=1e-12)
    nobody = TagMoments(one.tags, one.at, one.count * 0, one.mean * 0, one.m2 * 0)
    assert activation_profiles(nobody).known() == ()


def test_unrelated_tags_are_at_the_distance_that_centring_gives() -> None:
    mean = rng().normal(size=(5, 1, 4000))
    found = activation_profiles(TagMoments(names(5), "last", np.full(5, 9), mean, np.ones_like(mean)))
    assert squareform(found.values).mean() == pytest.approx(1 + 1 / 4, abs=0.01)


def test_a_tree_by_hand() -> None:
    # A and B meet at 0.2, C and D at 0.3, the two at the mean of 1, 1.2, 0.8 and 1.
    values = np.array([[0, 0.2, 1, 1.2], [0.2, 0, 0.8, 1], [1, 0.8, 0, 0.3], [1.2, 1, 0.3, 0]])
    tree = cluster(Dissimilarity("x", ("A", "B", "C", "D"), values))
    assert tree.merges["height"].tolist() == pytest.approx([0.2, 0.3, 1.0])
    assert tree.merges["size"].tolist() == [2, 2, 4]
    assert {frozenset(pair) for pair in tree.merges[["left", "right"]].to_numpy()[:2].tolist()} == {
        frozenset("AB"),
        frozenset("CD"),
    }
    assert " ".join(tree.merges.iloc[2][["left", "right"]]) == " ".join(tree.leaves)
    # Of the two groups, those at 0.8 stand side by side.
    assert tree.leaves in {("A", "B", "C", "D"), ("D", "C", "B", "A")}
    assert tree.fit == pytest.approx(stats.pearsonr([0.2, 1, 1, 1, 1, 0.3], [0.2, 1, 1.2, 0.8, 1, 0.3])[0])


@given(st.integers(3, 8), st.integers(0, 500), st.randoms())
@settings(deadline=None, max_examples=40)
def test_trees_do_not_depend_on_the_order_of_tags(n: int, seed: int, random: Any) -> None:
    one = random_one(n, seed)
    order = list(range(n))
    random.shuffle(order)
    other = Dissimilarity("x", tuple(one.tags[place] for place in order), one.values[np.ix_(order, order)])
    mine, theirs = cluster(one), cluster(other)
    np.testing.assert_allclose(mine.merges["height"], theirs.merges["height"])
    np.testing.assert_allclose(mine.merges["height"], average(squareform(one.values, checks=False))[:, 2])
    groups = [
        {frozenset(f"{left} {right}".split()) for left, right in tree.merges[["left", "right"]].to_numpy().tolist()}
        for tree in (mine, theirs)
    ]
    assert groups[0] == groups[1]
    assert sorted(mine.leaves) == sorted(theirs.leaves) == sorted(one.tags)
    assert theirs.leaves in {mine.leaves, mine.leaves[::-1]}
    assert mine.fit == pytest.approx(theirs.fit)


def test_trees_leave_unknown_tags_out_and_need_two() -> None:
    one = from_profiles("x", ["A", "B", "C"], np.array([[1.0, 2, 4], [1, 1, 1], [3, 2, 1]]))
    assert set(cluster(one).leaves) == {"A", "C"}
    with pytest.raises(PosNeuronsError, match=r"^x: 0 tags have a dissimilarity to another; expected at least 2 to"):
        cluster(from_profiles("x", ["A", "B"], np.ones((2, 4))))


def test_what_is_undefined_between_known_tags_is_an_error_that_names_them() -> None:
    values = np.array([[0, 1, 1.0], [1, 0, NAN], [1, NAN, 0]])
    one = Dissimilarity("lesions", ("A", "B", "C"), values)
    with pytest.raises(
        PosNeuronsError, match=r"^lesions: the dissimilarity of B and C is undefined; leave one of them"
    ):
        cluster(one)
    with pytest.raises(PosNeuronsError, match=r"^lesions: no tag 'D'; expected one of A, B, C$"):
        one.among(("A", "D"))
    assert one.among(("B", "A")).tolist() == [[0, 1], [1, 0]]


def slow_mantel(x: Float[ndarray, "tag tag"], y: Float[ndarray, "tag tag"], draws: int) -> tuple[float, float]:
    pairs = [(a, b) for a in range(len(x)) for b in range(a)]
    mine = [x[a, b] for a, b in pairs]

    def agreement(order: list[int]) -> float:
        return float(stats.spearmanr(mine, [y[order[a], order[b]] for a, b in pairs])[0])

    observed = agreement(list(range(len(x))))
    null = [agreement(rng(draw).permutation(len(x)).tolist()) for draw in range(draws)]
    return observed, float(np.mean(np.array(null) >= observed - 1e-12))


def test_a_comparison_against_a_slow_loop() -> None:
    a, b = random_one(7, 0), random_one(7, 5)
    observed, p = slow_mantel(a.values, b.values, 2000)
    found = compare(a, b, draws=5000, rng=rng())
    assert found.spearman == pytest.approx(observed)
    assert found.p_value == pytest.approx(p, abs=0.03)
    assert (found.pairs, found.tags) == (21, names(7))


def test_a_thing_agrees_with_itself_as_far_as_permutations_can_tell() -> None:
    one = random_one(6, 1)
    found = compare(one, one, draws=2000, rng=rng())
    assert found.spearman == pytest.approx(1)
    assert found.p_value < 0.01  # 1 of 720 permutations is the same
    opposite = Dissimilarity("opposite", one.tags, (2 - one.values) * (1 - np.eye(6)))
    found = compare(one, opposite, draws=200, rng=rng())
    assert found.spearman == pytest.approx(-1)
    assert found.p_value == 1


def test_the_smallest_p_is_what_draws_allow_and_permutations_that_do_as_well_count() -> None:
    many, few = random_one(12, 1), random_one(3, 1)
    assert compare(many, many, draws=99, rng=rng()).p_value == pytest.approx(1 / 100)
    assert compare(few, few, draws=2999, rng=rng()).p_value == pytest.approx(1 / 6, abs=0.02)  # of 6 permutations one


def test_comparisons_match_tags_by_name() -> None:
    one = random_one(6, 1)
    order = [3, 0, 5, 1, 4]
    other = Dissimilarity("part", (*(one.tags[place] for place in order), "X"), np.full((6, 6), NAN))
    other.values[:5, :5] = one.values[np.ix_(order, order)]
    found = compare(other, one, draws=10, rng=rng())
    assert found.spearman == pytest.approx(1)
    assert found.tags == tuple(one.tags[place] for place in order)
    assert found.pairs == 10


def test_too_little_to_compare_is_nan() -> None:
    for one, other in ((random_one(2, 0), random_one(2, 1)), (random_one(5, 0), flat(5))):
        found = compare(one, other, draws=10, rng=rng())
        assert np.isnan(found.spearman)
        assert np.isnan(found.p_value)


def flat(n: int) -> Dissimilarity:
    return Dissimilarity("flat", names(n), 1 - np.eye(n))


def test_mantel_p_is_uniform_where_two_measurements_have_nothing_in_common() -> None:
    draws = 99
    p = [compare(random_one(8, 2 * n), random_one(8, 2 * n + 1), draws=draws, rng=rng(n)).p_value for n in range(300)]
    jittered = np.array(p) - rng(7).uniform(0, 1 / (draws + 1), len(p))  # p has steps of 1 / (draws + 1)
    assert stats.kstest(jittered, "uniform").pvalue > 0.05
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_mantel_finds_what_two_noisy_measurements_share() -> None:
    profiles = rng().normal(size=(10, 30))
    one, other = (from_profiles("x", names(10), profiles + rng(n).normal(0, 0.5, profiles.shape)) for n in (1, 2))
    assert compare(one, other, draws=999, rng=rng()).p_value < 0.01
