"""Scores against scipy and slow loops, and the order they put neurons in."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

from posneurons import ranking
from posneurons.errors import PosNeuronsError
from posneurons.methods import METHODS
from posneurons.ranking import (
    MOMENT_METHODS,
    cohens_d,
    correlation,
    eta_squared,
    lape,
    lda,
    mean_difference,
    probeless,
    qda,
    rank_moments,
    shortlist,
    welch_t,
)
from posneurons.records import TagMoments
from posneurons.statistics import MomentAccumulator

TAGS = ("ADJ", "NOUN", "VERB", "X")  # X has no words
N_LAYERS, N_UNITS = 2, 3


def build_words(n: int = 60, seed: int = 0) -> tuple[ndarray, Float[ndarray, "word layer neuron"]]:
    """Tags 0..2, each at least once, and activations that depend on them."""
    rng = np.random.default_rng(seed)
    tags = np.concatenate([[0, 1, 2], rng.integers(0, 3, n - 3)])
    lift = rng.normal(size=(3, N_LAYERS, N_UNITS))
    return tags, rng.normal(size=(n, N_LAYERS, N_UNITS)) + lift[tags]


def moments_of(tags: ndarray, values: Float[ndarray, "word layer neuron"], names: tuple[str, ...] = TAGS) -> TagMoments:
    groups = [values[tags == number] for number in range(len(names))]
    zero = np.zeros(values.shape[1:])
    return TagMoments(
        tags=names,
        at="predict",
        count=np.array([len(group) for group in groups]),
        mean=np.stack([group.mean(0) if len(group) else zero for group in groups]),
        m2=np.stack([group.var(0) * len(group) if len(group) else zero for group in groups]),
    )


NAN = float("nan")


def test_scores_by_hand() -> None:
    # ADJ: 1, 3 (mean 2). NOUN: 4, 6, 8 (mean 6). VERB: 10 (mean 10). All: mean 32 / 6, squares 226 - 32**2 / 6.
    tags, values = np.array([0, 0, 1, 1, 1, 2]), np.array([1.0, 3, 4, 6, 8, 10]).reshape(6, 1, 1)
    moments = moments_of(tags, values, TAGS[:3])
    # Against the rest: 2 - (4+6+8+10)/4 = -5, 6 - (1+3+10)/3 = 4/3, 10 - (1+3+4+6+8)/5 = 5.6.
    np.testing.assert_allclose(mean_difference(moments).ravel(), [-5, 4 / 3, 5.6])
    # Times sqrt(n rest) / all over the standard deviation.
    sd = np.sqrt((226 - 32**2 / 6) / 6)
    np.testing.assert_allclose(correlation(moments).ravel(), np.array([-5 * 8**0.5, 4 / 3 * 3, 5.6 * 5**0.5]) / 6 / sd)
    # ADJ: |2-6| + |2-10|, NOUN: |6-2| + |6-10|, VERB: |10-2| + |10-6|.
    np.testing.assert_allclose(probeless(moments).ravel(), [12, 8, 12])
    np.testing.assert_allclose(probeless(moments, scaled=True).ravel(), np.array([12, 8, 12]) / sd)


def test_shares_of_variance_and_likelihoods_by_hand() -> None:
    # ADJ: 1, 3 (mean 2, squares 2). NOUN: 5, 7, 9 (mean 7, squares 8). All: mean 5, squares 16 + 4 + 0 + 4 + 16 = 40,
    # between 2 * 9 + 3 * 4 = 30, within 10.
    moments = moments_of(np.array([0, 0, 1, 1, 1]), np.array([1.0, 3, 5, 7, 9]).reshape(5, 1, 1), TAGS[:2])
    np.testing.assert_allclose(eta_squared(moments).ravel(), [0.75, 0.75])
    # Pooled variance 10 / 3; variances 2 and 4, so the squared standard error is 2/2 + 4/3 = 7/3.
    np.testing.assert_allclose(cohens_d(moments).ravel(), np.array([-5, 5]) / (10 / 3) ** 0.5)
    np.testing.assert_allclose(welch_t(moments).ravel(), np.array([-5, 5]) / (7 / 3) ** 0.5)
    # One variance: 40/5 before and 10/5 after. Two: 2/2 of two words and 8/3 of three.
    np.testing.assert_allclose(lda(moments).ravel(), [2.5 * np.log(4)] * 2)
    np.testing.assert_allclose(qda(moments).ravel(), [(5 * np.log(8) - 2 * np.log(1) - 3 * np.log(8 / 3)) / 2] * 2)


def test_lape_by_hand() -> None:
    # 20 neurons of 2 tags: 40 shares, of which the 38th lowest is the threshold. L0N0 is on at 0.9 of the ADJ and 0.3
    # of the NOUN, L0N1 at 0.8 of both and L0N2 at 0.3 and 0.9; all others at 0.1 or never. The highest are 0.9 (twice)
    # and 0.8 (twice), so that 0.8 is the threshold and only 0.9 passes; of 0.9 and 0.3 the shares are 3/4 and 1/4.
    share = np.full((2, 1, 20), 0.1)
    share[:, 0, :3] = [[0.9, 0.8, 0.3], [0.3, 0.8, 0.9]]
    share[:, 0, 3] = 0
    moments = TagMoments(TAGS[:2], "first", np.array([10, 10]), share, 10 * share * (1 - share))
    expected = np.full((2, 1, 20), NAN)
    expected[0, 0, 0] = expected[1, 0, 2] = np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25)
    np.testing.assert_allclose(lape(moments), expected)


@given(st.integers(5, 60), st.integers(0, 1000))
def test_scores_against_scipy_and_slow_loops(n: int, seed: int) -> None:
    tags, values = build_words(n, seed)
    moments = moments_of(tags, values)
    found = {name: method(moments) for name, method in MOMENT_METHODS.items()}
    scaled = probeless(moments, scaled=True)
    means = [values[tags == tag].mean(0) for tag in range(3)]
    for tag in range(3):
        mine = tags == tag
        for layer in range(N_LAYERS):
            for unit in range(N_UNITS):
                at, column = (tag, layer, unit), values[:, layer, unit]
                assert found["correlation"][at] == pytest.approx(stats.pointbiserialr(mine, column)[0], abs=1e-12)
                assert found["correlation"][at] == pytest.approx(np.corrcoef(mine, column)[0, 1], abs=1e-12)
                assert found["mean_difference"][at] == pytest.approx(column[mine].mean() - column[~mine].mean())
                # Antverg and Belinkov 2022, section 3: per tag, the distance of its mean to that of each other tag.
                distances = [abs(means[tag][layer, unit] - means[k][layer, unit]) for k in range(3) if k != tag]
                assert found["probeless"][at] == pytest.approx(sum(distances))
                assert scaled[at] == pytest.approx(sum(distances) / column.std())
                within = [column[tags == k] - column[tags == k].mean() for k in range(3)]
                explained = 1 - np.concatenate(within).var() / column.var()
                assert found["eta_squared"][at] == pytest.approx(explained, abs=1e-9)


def slow_likelihood(parts: list[Float[ndarray, " word"]], sds: list[float]) -> float:
    """Log-likelihood of words under a Gaussian for each part, word by word."""
    return sum(stats.norm.logpdf(part, part.mean(), sd).sum() for part, sd in zip(parts, sds, strict=True))


@given(st.integers(9, 60), st.integers(0, 1000))
def test_the_tag_against_the_rest_equals_slow_likelihoods_and_tests(n: int, seed: int) -> None:
    tags, values = build_words(n, seed)
    tags[:6] = [0, 0, 1, 1, 2, 2]
    moments = moments_of(tags, values)
    found = {name: method(moments) for name, method in MOMENT_METHODS.items()}
    for tag in range(3):
        for unit in range(N_UNITS):
            column, at = values[:, 1, unit], (tag, 1, unit)
            parts = [column[tags == tag], column[tags != tag]]
            pooled = stats.ttest_ind(*parts).statistic
            assert found["welch_t"][at] == pytest.approx(stats.ttest_ind(*parts, equal_var=False).statistic, rel=1e-9)
            assert found["cohens_d"][at] == pytest.approx(pooled * np.sqrt(sum(1 / len(part) for part in parts)))
            common = np.sqrt(sum(part.var() * len(part) for part in parts) / n)
            null = slow_likelihood([column], [float(column.std())])
            likelihood = slow_likelihood(parts, [common, common]) - null
            assert found["lda"][at] == pytest.approx(likelihood, abs=1e-8)
            assert found["lda"][at] == pytest.approx(-n / 2 * np.log(1 - found["correlation"][at] ** 2), abs=1e-8)
            own = slow_likelihood(parts, [float(part.std()) for part in parts]) - null
            assert found["qda"][at] == pytest.approx(own, abs=1e-8)
            assert -1e-9 < found["lda"][at] <= found["qda"][at] + 1e-9


def test_from_streamed_words_to_the_same_correlation() -> None:
    tags, values = build_words(400)
    accumulator = MomentAccumulator(len(TAGS), N_LAYERS, N_UNITS)
    for part in (slice(0, 100), slice(100, 400)):
        for layer in range(N_LAYERS):
            accumulator.update(layer, torch.from_numpy(tags[part]), torch.from_numpy(values[part, layer]).float())
    found = rank_moments(accumulator.finalise(TAGS, "predict")).scores
    np.testing.assert_allclose(found, correlation(moments_of(tags, values)), atol=1e-6)


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-100, 100))
def test_correlation_has_no_scale_and_the_differences_have_one(seed: int, scale: float, shift: float) -> None:
    tags, values = build_words(30, seed)
    before, after = moments_of(tags, values), moments_of(tags, values * scale + shift)
    np.testing.assert_allclose(correlation(after), correlation(before), atol=1e-7)
    np.testing.assert_allclose(mean_difference(after), scale * mean_difference(before), atol=1e-7)
    np.testing.assert_allclose(probeless(after), scale * probeless(before), atol=1e-7)
    for free in (eta_squared, cohens_d, welch_t, lda, qda):
        np.testing.assert_allclose(free(after), free(before), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(probeless(after, scaled=True), probeless(before, scaled=True), rtol=1e-5)


@pytest.mark.parametrize("name", MOMENT_METHODS)
def test_a_tag_without_words_is_undefined_and_changes_no_other(name: str) -> None:
    tags, values = build_words()
    found = MOMENT_METHODS[name](moments_of(tags, values))
    assert np.isnan(found[3]).all()
    assert not np.isnan(found[:3]).any()
    np.testing.assert_array_equal(found[:3], MOMENT_METHODS[name](moments_of(tags, values, TAGS[:3])))


@pytest.mark.parametrize("name", MOMENT_METHODS)
@pytest.mark.parametrize("n", [0, 10])
def test_a_tag_that_every_word_has_is_undefined(name: str, n: int) -> None:
    values = np.random.default_rng(0).normal(size=(n, N_LAYERS, N_UNITS))
    assert np.isnan(MOMENT_METHODS[name](moments_of(np.zeros(n, dtype=int), values))).all()


def test_a_neuron_that_never_varies_has_no_correlation_and_no_difference() -> None:
    tags, values = build_words()
    values[:, 0, 0], values[:, 1, 2] = 0, 0.1
    moments = moments_of(tags, values)
    undefined = np.isnan(correlation(moments)[:3])
    assert undefined.sum() == 6
    assert undefined[:, 0, 0].all()
    assert undefined[:, 1, 2].all()
    for free in (eta_squared, cohens_d, welch_t, lda, qda, lambda each: probeless(each, scaled=True)):
        np.testing.assert_array_equal(np.isnan(free(moments)[:3]), undefined)
    for method in (mean_difference, probeless):
        np.testing.assert_allclose(method(moments)[:3, [0, 1], [0, 2]], 0, atol=1e-15)


def test_rounding_is_not_taken_for_variation() -> None:
    rng = np.random.default_rng(0)
    constants = torch.from_numpy(rng.normal(size=300)).float()
    accumulator = MomentAccumulator(3, 1, 300)
    for n in (1, 5, 700, 333):
        accumulator.update(0, torch.from_numpy(rng.integers(0, 3, n)), constants.expand(n, 300))
    moments = accumulator.finalise(TAGS[:3], "predict")
    for free in (correlation, eta_squared, cohens_d, welch_t, lda, qda, lambda each: probeless(each, scaled=True)):
        assert np.isnan(free(moments)).all()


def test_a_side_without_spread_leaves_a_ratio_undefined_and_no_other_score() -> None:
    # NOUN is always 2; the other words differ. A tag of one word has no variance either.
    tags, values = np.array([0, 0, 1, 1, 2]), np.array([1.0, 4, 2, 2, 7]).reshape(5, 1, 1)
    moments = moments_of(tags, values, TAGS[:3])
    undefined = {name: np.isnan(method(moments)).ravel().tolist() for name, method in MOMENT_METHODS.items()}
    assert undefined.pop("qda") == [False, True, True]
    assert undefined.pop("welch_t") == [False, False, True]
    assert set(map(tuple, undefined.values())) == {(False, False, False)}
    # Nothing varies within ADJ or within the rest: these have no bound, and the correlation is 1.
    perfect = moments_of(np.array([0, 0, 1, 1]), np.array([3.0, 3, 5, 5]).reshape(4, 1, 1), TAGS[:2])
    for method in (cohens_d, welch_t, lda, qda):
        assert np.isnan(method(perfect)).all()
    np.testing.assert_allclose(correlation(perfect).ravel(), [-1, 1])
    np.testing.assert_allclose(eta_squared(perfect).ravel(), [1, 1])


def test_a_neuron_that_is_quiet_at_the_tag_is_found_by_qda_alone() -> None:
    rng = np.random.default_rng(0)
    tags = np.repeat([0, 1], 2000)
    values = rng.normal(size=(4000, 1, 2))
    values[tags == 0, 0, 1] *= 0.2
    moments = moments_of(tags, values, TAGS[:2])
    assert qda(moments)[0, 0, 1] > 100 * max(qda(moments)[0, 0, 0], lda(moments)[0, 0, 1])


def gates_of(tags: ndarray, on: ndarray) -> TagMoments:
    return moments_of(tags, on.astype(np.float64))


@given(st.integers(0, 1000))
def test_lape_equals_a_slow_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tags = np.concatenate([[0, 1, 2], rng.integers(0, 3, 57)])
    on = rng.random((60, 2, 15)) < rng.random((3, 2, 15))[tags] ** 2
    shares = np.array([[[on[tags == k, la, u].mean() for u in range(15)] for la in range(2)] for k in range(3)])
    threshold = sorted(shares.ravel())[int(np.ceil(0.95 * shares.size)) - 1]
    found = lape(gates_of(tags, on))
    assert np.isnan(found[3]).all()
    for tag in range(3):
        for layer in range(2):
            for unit in range(15):
                if shares[tag, layer, unit] > threshold:
                    expected = np.log(3) - stats.entropy(shares[:, layer, unit])
                    assert found[tag, layer, unit] == pytest.approx(expected, abs=1e-12)
                else:
                    assert np.isnan(found[tag, layer, unit])


def test_lape_is_largest_where_a_neuron_is_on_at_one_tag_only() -> None:
    tags = np.arange(300) % 3
    on = np.random.default_rng(0).random((300, 1, 40)) < 0.1
    on[:, 0, 7] = tags == 1
    found = lape(gates_of(tags, on))
    assert found[1, 0, 7] == pytest.approx(np.log(3))
    assert np.nanargmax(found) == np.ravel_multi_index((1, 0, 7), found.shape)
    assert np.isnan(found[[0, 2], 0, 7]).all()
    assert np.isnan(lape(gates_of(np.zeros(300, dtype=int), on))).all()


def test_the_shortlist_is_the_union_of_what_correlates_best() -> None:
    tags, values = build_words(200)
    values[:, 0, 0] = 1.0  # never varies
    moments = moments_of(tags, values)
    found = correlation(moments)
    expected = set()
    for tag in range(3):
        pairs = [(-abs(found[tag, la, u]), la, u) for la in range(2) for u in range(3) if (la, u) != (0, 0)]
        expected |= {f"L{la}N{u}" for _, la, u in sorted(pairs)[:2]}
    assert set(shortlist(moments, 2)) == expected
    assert set(shortlist(moments, 99)) == {"L0N1", "L0N2", "L1N0", "L1N1", "L1N2"}
    assert len(shortlist(moments, 0)) == 0


def test_a_neuron_that_is_the_tag_itself_correlates_perfectly() -> None:
    tags, values = build_words()
    values[:, 0, 0], values[:, 0, 1] = tags == 1, -7 * (tags == 1) + 1e3
    found = correlation(moments_of(tags, values))
    assert found[1, 0, 0] == pytest.approx(1)
    assert found[1, 0, 1] == pytest.approx(-1)
    assert np.nanmax(np.abs(found)) <= 1
    noise = np.random.default_rng(0).normal(size=(2, 1, 400))
    for tag in range(3):  # rounding does not lead past 1
        exact = correlation(moments_of(tags, noise[0] + noise[1] * (tags == tag)[:, None, None]))
        assert 1 - 1e-9 < np.abs(exact[tag]).min() <= np.abs(exact[tag]).max() <= 1


def test_the_method_names_are_those_of_the_table_of_methods() -> None:
    families = {
        family: tuple(name for name, method in METHODS.items() if method.family == family)
        for family in ("moments", "gates", "histograms")
    }
    assert tuple(MOMENT_METHODS) == families["moments"]
    assert families["gates"] == ("lape",)
    assert tuple(ranking.HISTOGRAM_METHODS) == families["histograms"]


def test_rank_moments_says_what_it_ranked() -> None:
    tags, values = build_words()
    moments = moments_of(tags, values)
    for name, method in MOMENT_METHODS.items():
        found = rank_moments(moments, name, signed=True)
        assert (found.method, found.at, found.tags, found.signed) == (name, "predict", TAGS, True)
        np.testing.assert_array_equal(found.scores, method(moments))
        np.testing.assert_array_equal(found.count, moments.count)
    assert rank_moments(moments).method == "correlation"
    assert not rank_moments(moments).signed
    scaled = rank_moments(moments, "probeless:scaled=yes")
    assert scaled.method == "probeless:scaled=yes"
    np.testing.assert_array_equal(scaled.scores, probeless(moments, scaled=True))
    with pytest.raises(PosNeuronsError, match=r"^method 'lda2': no such ranking; expected one of correlation, eta"):
        rank_moments(moments, "lda2")
    names = "correlation, eta_squared, cohens_d, welch_t, mean_difference, probeless, lda, qda"
    with pytest.raises(PosNeuronsError, match=f"^method auroc: needs more than moments; expected one of {names}, or"):
        rank_moments(moments, "auroc")
