"""Elastic-net weights and greedy Gaussians against scikit-learn and slow loops, and rankings on the embedded model."""

from dataclasses import replace

import demo
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm
from sklearn.linear_model import LogisticRegression

import posneurons as pn
from posneurons import probe_rankings, ranking
from posneurons.classifiers import FLOOR, posterior_scatter
from posneurons.errors import PosNeuronsError
from posneurons.probe_rankings import gaussian, greedy, net_weights, normal_scores


def build_words(n: int, width: int, n_tags: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised values of which neuron 0 rises with tag 0, neuron 1 with tag 1, and 2 is a noisy copy of 0."""
    rng = np.random.default_rng(seed)
    tags = np.concatenate([np.arange(n_tags), rng.integers(0, n_tags, n - n_tags)])
    values = rng.normal(size=(n, width))
    values[:, 0] += 1.5 * (tags == 0)
    values[:, 1] += 1.2 * (tags == 1)
    values[:, 2] = values[:, 0] + 0.5 * rng.normal(size=n)
    return (values - values.mean(0)) / values.std(0), tags


def test_net_weights_equal_sklearn() -> None:
    values, tags = build_words(300, 8, 3, 0)
    lasso, ridge = 0.02, 0.05
    # scikit-learn's objective is C * sum of losses + l1_ratio |W|_1 + (1 - l1_ratio) / 2 |W|^2, here times 1 / (300 C).
    slow = LogisticRegression(
        solver="saga",
        C=1 / ((lasso + ridge) * 300),
        l1_ratio=lasso / (lasso + ridge),
        penalty="elasticnet",
        max_iter=20_000,
        tol=1e-8,
    ).fit(values, tags)
    weights, steps = net_weights(
        torch.from_numpy(values), torch.from_numpy(tags), 3, lasso=lasso, ridge=ridge, iterations=5000, tolerance=1e-9
    )
    assert steps < 5000
    np.testing.assert_allclose(weights.T.numpy(), slow.coef_, atol=1e-4)
    np.testing.assert_array_equal(weights.T.numpy() == 0, np.abs(slow.coef_) < 1e-6)
    assert 0 < int((weights == 0).sum()) < weights.numel()


def test_net_weights_are_least_and_zero_where_the_penalty_is_too_dear() -> None:
    values, tags = (torch.from_numpy(each) for each in build_words(200, 6, 3, 1))
    weights, steps = net_weights(values, tags, 3, lasso=2.0)  # no gradient at 0 exceeds 1 nat per deviation
    assert not weights.any()
    assert steps <= 2
    small, _ = net_weights(values, tags, 3, lasso=0.01)
    assert small[0].argmax() == 0
    assert small[1].argmax() == 1


def slow_greedy(
    fit: np.ndarray, fit_mine: np.ndarray, held: np.ndarray, held_mine: np.ndarray, places: int
) -> tuple[list[int], list[float]]:
    """Every candidate refitted in every step with scipy's density; the information after each choice."""
    chosen: list[int] = []
    informations = [0.0]
    shares = np.array([(~fit_mine).mean(), fit_mine.mean()])
    prior = np.log(shares[held_mine.astype(int)]).mean()
    while len(chosen) < places:
        found = {}
        for candidate in set(range(fit.shape[1])) - set(chosen):
            columns = [*chosen, candidate]
            joint = []
            for side, share in zip((~fit_mine, fit_mine), shares, strict=True):
                mine = fit[side][:, columns]
                n, d = mine.shape
                covariance = np.atleast_2d(np.cov(mine.T, bias=True))
                scatter = n * covariance + np.diag(np.maximum(np.diag(covariance), FLOOR))
                density = multivariate_normal(mine.mean(0), scatter / (n + 2 * d + 4))
                joint.append(np.log(share) + density.logpdf(held[:, columns]))
            posterior = np.stack(joint) - np.logaddexp(*joint)
            found[candidate] = np.where(held_mine, posterior[1], posterior[0]).mean() - prior
        best = max(found, key=lambda each: found[each])
        if found[best] <= informations[-1]:
            break
        chosen.append(best)
        informations.append(found[best])
    return chosen, informations


@settings(max_examples=15, deadline=None)
@given(st.integers(20, 60), st.integers(3, 7), st.integers(0, 1000), st.integers(1, 5))
def test_greedy_selection_equals_refitting_everything(n: int, width: int, seed: int, places: int) -> None:
    values, tags = build_words(2 * n, width, 3, seed)
    mine = (tags == 0) | (np.arange(2 * n) % n < 2)  # at least two words of either class in either half
    mine[[2, 3, n + 2, n + 3]] = False
    chosen, information = greedy(values[:n], mine[:n], values[n:], mine[n:], min(places, width))
    slow, informations = slow_greedy(values[:n], mine[:n], values[n:], mine[n:], min(places, width))
    assert chosen.tolist() == slow
    assert information == pytest.approx(informations[-1], abs=1e-9)


def test_a_copy_is_passed_over_for_what_is_new() -> None:
    rng = np.random.default_rng(0)
    mine = np.arange(4000) % 2 == 0
    strong, weak = rng.normal(size=4000) + 2 * mine, rng.normal(size=4000) + mine
    values = np.stack([strong + 0.2 * rng.normal(size=4000), strong, weak], axis=1)
    chosen, _ = greedy(values[:2000], mine[:2000], values[2000:], mine[2000:], 2)
    assert chosen.tolist() == [1, 2]  # the copy tells the classes apart better than `weak`, but not beside its original


def test_nothing_is_chosen_where_nothing_is_gained() -> None:
    rng = np.random.default_rng(1)
    fit, held = rng.normal(size=(10, 3)), rng.normal(size=(4000, 3))  # ten words are too few: what they say is wrong
    mine = np.arange(4000) % 2 == 0
    chosen, information = greedy(fit, mine[:10], held, mine, 3)
    assert len(chosen) == 0
    assert information == 0


def test_posterior_scatter_by_hand() -> None:
    # Column 0: -1, 1 has scatter 2 and variance 1; column 1 is constant, so that its prior variance is the floor.
    found = posterior_scatter(np.array([[-1.0, 5.0], [1.0, 5.0]]))
    np.testing.assert_allclose(found, [[3, 0], [0, FLOOR]])


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=30))
def test_normal_scores_keep_the_order_and_nothing_else(column: list[int]) -> None:
    values = np.array(column, dtype=np.float64)[:, None]
    found = normal_scores(values)
    np.testing.assert_allclose(normal_scores(np.exp(3 * values)), found)
    np.testing.assert_allclose(normal_scores(-values), -found, atol=1e-12)
    order = np.argsort(values[:, 0], kind="stable")
    assert (np.diff(found[order, 0]) >= 0).all()


def test_normal_scores_by_hand() -> None:
    # Ranks 1, 2.5, 2.5, 4 of four words: quantiles at 1/8, 1/2, 1/2, 7/8.
    found = normal_scores(np.array([[-7.0], [0.0], [0.0], [1e6]]))
    np.testing.assert_allclose(found[:, 0], [norm.ppf(1 / 8), 0, 0, norm.ppf(7 / 8)])


@pytest.mark.parametrize("method", ["elastic_net", "gaussian"])
def test_ranking_of_the_embedded_model(method: str) -> None:
    found = pn.rank(demo.model(), demo.small(), method, at="last", shortlist=12)
    again = pn.rank(demo.model(), demo.small(), method, at="last", shortlist=12, tokens=700)
    np.testing.assert_allclose(found.scores, again.scores, atol=0.02)
    train = demo.small().split("train")
    assert dict(zip(found.tags, found.count.tolist(), strict=True)) == train.tag_counts()
    moments = pn.rank(demo.model(), demo.small(), at="last")
    own = {tag: set(each.names) for tag, each in moments.top(12).items()}
    tag = "PUNCT"
    scored = {f"L{la}N{unit}" for la, unit in np.argwhere(~np.isnan(found.scores[found.tags.index(tag)])).tolist()}
    assert scored == set().union(*own.values()) if method == "elastic_net" else scored <= own[tag]
    assert scored & own[tag]


def test_scores_of_the_gaussian_are_an_order() -> None:
    found = pn.rank(demo.model(), demo.small(), "gaussian", at="last", shortlist=12)
    for tag, scores in zip(found.tags, found.scores, strict=True):
        said = scores[~np.isnan(scores)]
        assert sorted(said.tolist()) == list(range(1, len(said) + 1))
        assert bool(len(said)) == (found.notes.get(f"information:{tag}", 0) > 0)
    assert found.notes["information:PUNCT"] > 0.1


def test_the_elastic_net_gives_a_planted_tag_to_its_neuron() -> None:
    """Tags that are a function of one neuron: its weight is the largest of all, and has the right sign."""
    train = demo.small().split("train")
    neuron = pn.NeuronSet.parse(["L3N100"])
    values = pn.cache_activations(demo.model(), train, neuron, at="last").values[:, 0]
    tags = np.zeros(len(train), dtype=np.int64)
    tags[train.readable("last")] = values < np.median(values)
    planted = replace(train, tags=("HIGH", "LOW"), word_tag=tags)
    weights = pn.rank(demo.model(), planted, "elastic_net", at="last", shortlist=50)
    assert weights.top(1)["HIGH"].names == ("L3N100",)
    assert weights.scores[0, 3, 100] > 0 > weights.scores[1, 3, 100]
    first = pn.rank(demo.model(), planted, "gaussian", at="last", shortlist=50).top(1)
    assert first["HIGH"].names == first["LOW"].names == ("L3N100",)


def test_a_tag_without_words_is_undefined() -> None:
    corpus = replace(demo.small(), tags=(*demo.small().tags, "NONE"))
    for method in ("elastic_net", "gaussian"):
        found = pn.rank(demo.model(), corpus, method, shortlist=3)
        assert np.isnan(found.scores[-1]).all()
        assert found.count[-1] == 0


def test_a_part_of_the_rows_is_drawn_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_rankings, "WORDS", 200)
    how = {"at": "last", "tokens": 2048, "progress": False, "shortlist": 5}
    found, other = (gaussian(demo.model(), demo.small(), seed=seed, **how) for seed in (0, 1))
    assert 200 <= found.count.sum() < 300
    assert found.count.tolist() != other.count.tolist()


def test_errors_say_what_to_do() -> None:
    with pytest.raises(PosNeuronsError, match=r"^method gaussian: shortlist=0; expected at least 1 candidate for each"):
        pn.rank(demo.model(), demo.small(), "gaussian", shortlist=0)
    one = replace(demo.small(), word_tag=np.zeros_like(demo.small().word_tag))
    with pytest.raises(PosNeuronsError, match=r"no neuron correlates with a tag at 'predict'; give words of two tags"):
        pn.rank(demo.model(), one, "elastic_net")
    assert np.isnan(ranking.correlation(pn.tag_moments(demo.model(), one)["predict"])).all()
