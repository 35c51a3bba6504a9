"""Exact effects beside estimates: statistics against scipy and hand calculations, and the check end to end."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import demo
import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

import posneurons as pn
from posneurons import verification
from posneurons.agreement import missed_bound, pearson, recall, spearman
from posneurons.errors import PosNeuronsError
from posneurons.lesions import scored_words
from posneurons.records import Corpus, Ranking
from posneurons.singles import exact_effects
from posneurons.verification import verify

TAGS = ("NOUN", "VERB")


def few() -> Corpus:
    return demo.small().select(np.arange(demo.small().n_rows) % 8 == 0)


@cache
def truth() -> np.ndarray:
    """Exact effects of 90 neurons: every 51st of the model's 4,608, the rest unknown."""
    flat = np.arange(0, 4608, 51)[:90]
    known = exact_effects(demo.model(), few(), pn.NeuronSet.from_flat(flat, 768))
    scores = np.full((len(few().tags), 4608), np.nan)
    scores[:, flat] = known
    return scores.reshape(-1, 6, 768)


def ranking(scores: np.ndarray, **options: object) -> Ranking:
    fields: dict[str, Any] = {"method": "attribution:contrast=no", "count": scored_words(few())}
    return Ranking(at="predict", tags=few().tags, scores=scores, signed=True, **(fields | options))


def test_an_estimate_that_is_the_truth_is_found_to_be() -> None:
    given = {
        "truth": ranking(truth()),
        "backwards": ranking(-truth(), count=scored_words(few()) + 1),
        "monotone": ranking(np.arctan(1000 * truth()), method="correlation"),
    }
    found = verify(demo.model(), few(), given, listed=10, random=7, top=5, tags=TAGS)
    frame = found.to_frame().set_index(["estimate", "tag", "exact"])
    effect = frame.xs("effect", level="exact")
    np.testing.assert_allclose(effect.loc["truth", "pearson"], 1, atol=1e-6)
    np.testing.assert_allclose(effect.loc["backwards", "pearson"], -1, atol=1e-6)
    assert effect.loc["monotone", "pearson"].isna().all()
    np.testing.assert_allclose(effect.loc["truth", "spearman"], 1, atol=1e-6)
    np.testing.assert_allclose(effect.loc["monotone", "spearman"], 1, atol=1e-6)
    assert set(effect["same_words"].groupby("estimate").first().items()) == {
        ("truth", True), ("backwards", False), ("monotone", True)
    }  # fmt: skip
    assert found.in_nats == ("truth", "backwards")
    assert found.random.sum() == 7
    assert found.unlisted == 4608 - (len(found.neurons) - 7)
    for number, tag in enumerate(TAGS):
        exact = found.effects[number]
        row = effect.loc["truth", tag]
        mine = np.sort(exact[found.lists["truth"][number]])[::-1]
        assert row["threshold"] == mine[4]
        assert row["largest_unlisted"] == exact[-7:].max()
        assert row["above"] == (exact[-7:] > mine[4]).sum()
        best = np.argsort(-exact)[:5]
        assert row["recall"] == np.mean([found.lists["truth"][number][i] for i in best])
        assert row["words"] == scored_words(few())[few().tags.index(tag)]


def test_unlisted_neurons_are_drawn_from_those_that_nobody_lists() -> None:
    found = verify(demo.model(), few(), {"truth": ranking(truth())}, listed=6, random=5, top=2, tags=TAGS, seed=3)
    listed = found.lists["truth"]
    assert listed.sum(1).tolist() == [6, 6]
    assert not listed[:, found.random].any()
    assert listed.any(0)[~found.random].all()
    again = verify(demo.model(), few(), {"truth": ranking(truth())}, listed=6, random=5, top=2, tags=TAGS, seed=4)
    assert set(found.neurons.names[-5:]) != set(again.neurons.names[-5:])


def test_contrasts_are_against_all_other_words() -> None:
    """Two words of tag 0 that rise by 1 and 3, one of tag 1 that rises by 5, none of tag 2."""
    effects, count = np.array([[2.0], [5.0], [np.nan]]), np.array([2, 1, 0])
    np.testing.assert_allclose(verification.contrasts(effects, count), [[2 - 5], [5 - 2], [np.nan]])
    np.testing.assert_allclose(verification.contrasts(np.array([[2.0], [np.nan]]), np.array([4, 0])), [[np.nan]] * 2)
    np.testing.assert_allclose(  # the rest of tag 0 is one word that rises by 5 and two that rise by 2
        verification.contrasts(np.array([[1.0], [5.0], [2.0]]), np.array([7, 1, 2]))[0], 1 - (5 + 2 * 2) / 3
    )


@given(st.integers(1, 400), st.data())
def test_the_bound_on_what_is_missed_is_exact(drawn: int, data: st.DataObject) -> None:
    above = data.draw(st.integers(0, drawn))
    bound = missed_bound(above, drawn, 10_000)
    if above == 0:
        assert bound == min(1, 3 / drawn)
        assert drawn < 10 or (1 - bound) ** drawn == pytest.approx(0.05, abs=0.025)
    elif above < drawn:  # with such a share in the population, so few would be seen one time in twenty
        assert scipy.stats.binom.cdf(above, drawn, bound) == pytest.approx(0.05, abs=1e-6)
    else:
        assert bound == 1


def test_a_sample_of_everybody_needs_no_bound() -> None:
    assert missed_bound(0, 50, 50) == 0
    assert missed_bound(5, 50, 50) == 0.1
    assert missed_bound(0, 0, 0) == 0
    assert np.isnan(missed_bound(0, 0, 10))


@given(nps.arrays(float, (2, 12), elements=st.integers(-5, 5).map(float)))
def test_correlations_are_those_of_scipy(both: np.ndarray) -> None:
    x, y = both
    assume(np.ptp(x) > 0)
    assume(np.ptp(y) > 0)
    assert pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-9)
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-9)
    holed = np.append(x, np.nan), np.append(y, 3.0)
    assert spearman(*holed) == pytest.approx(spearman(x, y))
    assert pearson(*holed) == pytest.approx(pearson(x, y))


def test_undefined_is_nan() -> None:
    flat, some = np.zeros(5), np.arange(5.0)
    assert np.isnan([pearson(flat, some), spearman(some, flat), pearson(some[:2], some[:2])]).all()
    assert np.isnan(recall(np.ones(5, dtype=bool), np.array([1, np.nan, np.nan, np.nan, 2.0]), 3))
    assert recall(np.array([True, False, False, True, True]), np.array([1, np.nan, 9, 4, 2.0]), 2) == 0.5


def test_methods_are_computed_on_the_words_of_the_check() -> None:
    methods = ["attribution:contrast=no", "correlation", "mean_difference"]
    found = verify(demo.model(), demo.small(), methods, listed=4, random=20, top=3, tags=TAGS, words=250, seed=1)
    frame = found.to_frame()
    assert len(frame) == 3 * 2 * 2
    assert frame["same_words"].all()
    assert found.in_nats == ("attribution:contrast=no",)
    effect = frame[frame["exact"] == "effect"].set_index(["estimate", "tag"])
    assert (effect.loc["attribution:contrast=no", "pearson"] > 0.5).all()
    assert (effect.loc["attribution:contrast=no", "spearman"] > effect.loc["correlation", "spearman"]).all()
    whole = found.to_dict()
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    assert whole["measured"] == len(found.neurons)


def test_rows_are_drawn_until_there_are_words_enough() -> None:
    corpus = demo.small()
    assert verification.some_rows(corpus, None, 0) is corpus
    part = verification.some_rows(corpus, 300, 0)
    words = np.bincount(part.word_row[part.readable("predict")], minlength=part.n_rows)
    assert words.sum() >= 300 > words.sum() - words.max()
    assert len(verification.some_rows(corpus, 10**9, 0)) == len(corpus)
    assert not np.array_equal(part.tokens, verification.some_rows(corpus, 300, 1).tokens)


def test_errors_say_what_to_do() -> None:
    good = {"truth": ranking(truth())}
    with pytest.raises(PosNeuronsError, match="verify: top=20 and listed=5; expected 1 <= top <= listed"):
        verify(demo.model(), few(), good, listed=5)
    with pytest.raises(PosNeuronsError, match="verify: no estimates were given"):
        verify(demo.model(), few(), [])
    with pytest.raises(PosNeuronsError, match=r"verify: no scored words of tag 'NUMB' in .*; it has ADJ, "):
        verify(demo.model(), few(), good, tags=["NUMB"])
    with pytest.raises(
        PosNeuronsError, match="listed=91, but attribution:contrast=no has scores for 90 neurons of NOUN"
    ):
        verify(demo.model(), few(), good, listed=91, tags=TAGS)
    with pytest.raises(
        PosNeuronsError, match=r"the ranking 'other' has layers x neurons \(6, 767\), the model \(6, 768\)"
    ):
        verify(demo.model(), few(), {"other": ranking(truth()[:, :, 1:])}, listed=20)
    openers = replace(few(), word_first=np.ones_like(few().word_first))
    with pytest.raises(PosNeuronsError, match=r"verify: no scored words of any tag in .*; it has none"):
        verify(demo.model(), openers, good)


def test_estimates_of_another_ablation_have_no_correlation_in_nats() -> None:
    methods = ["attribution:contrast=no", "attribution:contrast=no,baseline=mean", "attribution:contrast=no,scope=all"]
    found = verify(demo.model(), few(), methods, listed=5, top=2, random=5, tags=["NOUN"])
    assert found.in_nats == ("attribution:contrast=no",)
