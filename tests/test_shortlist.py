"""Exact scores of chosen neurons against sklearn, scipy and slow loops, and what they leave undefined."""

from typing import Any

import demo
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from numpy import ndarray
from scipy import stats
from sklearn.metrics import average_precision_score, mutual_info_score, roc_auc_score

import posneurons as pn
from posneurons import shortlist
from posneurons.errors import NeuronError, PosNeuronsError
from posneurons.records import Corpus

NAN = float("nan")


def few() -> Corpus:
    return demo.small().select(np.arange(demo.small().n_rows) % 6 == 0)


def build_values(n: int, seed: int) -> tuple[ndarray, Float[ndarray, "word neuron"]]:
    """Tags 0..2 and values with ties: normal, rounded to one digit, and mostly 0."""
    rng = np.random.default_rng(seed)
    tags = np.concatenate([[0, 1, 2], rng.integers(0, 3, n - 3)])
    normal = rng.normal(size=(n, 3)) + tags[:, None]
    values = np.stack([normal[:, 0], normal[:, 1].round(1), np.where(normal[:, 2] > 1, normal[:, 2], 0)], axis=1)
    values[0] = -5.0, 0.55, 9.0  # none of them is constant
    return tags, values.astype(np.float32)


def test_scores_by_hand() -> None:
    # ADJ: 5 and 2, NOUN: 2, 1 and 0. Of the 6 pairs ADJ is higher in 3 + 2 and ties in 1.
    values, tags = np.array([[5, 2, 2, 1, 0]], dtype=np.float32).T, np.array([0, 0, 1, 1, 1])
    assert shortlist.score_values("auroc", values, tags, 2)[:, 0].tolist() == pytest.approx([5.5 / 6, 0.5 / 6])
    # From the top, ADJ: 1 of 1, 2 of 3. NOUN: 1 of 3, 2 of 4, 3 of 5.
    found = shortlist.score_values("average_precision", values, tags, 2)[:, 0]
    assert found.tolist() == pytest.approx([(1 + 2 / 3) / 2, (1 / 3 + 2 / 4 + 3 / 5) / 3])
    # Of four values only one leaves open which side it is, for 2 of 5 words: the information is the entropy of the
    # sides less 2/5 ln 2. Four bins and five cells with a word correct it by nothing.
    plain = -2 / 5 * np.log(2 / 5) - 3 / 5 * np.log(3 / 5) - 2 / 5 * np.log(2)
    found = shortlist.score_values("mutual_information", values, tags, 2)[:, 0]
    assert found.tolist() == pytest.approx([plain] * 2)


@settings(max_examples=30)
@given(st.integers(5, 80), st.integers(0, 1000))
def test_scores_equal_those_of_sklearn(n: int, seed: int) -> None:
    tags, values = build_values(n, seed)
    found = {name: shortlist.score_values(name, values, tags, 4) for name in shortlist.EXACT_METHODS}
    for tag in range(3):
        mine = tags == tag
        for unit in range(3):
            column = values[:, unit]
            assert found["auroc"][tag, unit] == pytest.approx(roc_auc_score(mine, column))
            assert found["average_precision"][tag, unit] == pytest.approx(average_precision_score(mine, column))
    assert all(np.isnan(each[3]).all() for each in found.values())


def test_mutual_information_is_that_of_bins_of_equal_mass() -> None:
    tags, values = build_values(6400, 0)
    found = shortlist.score_values("mutual_information", values, tags, 3)
    bins = stats.rankdata(values[:, 0], method="ordinal").astype(int) - 1
    bins = bins * 64 // 6400
    assert (np.bincount(bins) == 100).all()
    for tag in range(3):
        mine = tags == tag
        joint = len(set(zip(mine, bins, strict=True)))
        expected = mutual_info_score(mine, bins) - (joint - 64 - 1) / 12800
        assert found[tag, 0] == pytest.approx(expected, abs=1e-12)
    zero = values[:, 2] == 0  # equal values are in one bin, so no more is known of them than that they are 0
    assert zero.mean() > 0.3
    assert found[0, 2] == pytest.approx(
        shortlist.score_values("mutual_information", np.where(zero, -9, values[:, 2])[:, None], tags, 3)[0, 0]
    )


@pytest.mark.parametrize("name", shortlist.EXACT_METHODS)
def test_neurons_that_say_nothing_and_tags_of_all_words_are_undefined(name: str) -> None:
    tags, values = build_values(60, 0)
    broken = np.column_stack([values, np.full(60, 3), np.where(np.arange(60) == 5, NAN, values[:, 0])])
    found = shortlist.score_values(name, broken.astype(np.float32), tags, 3)
    assert np.isnan(found).all(0).tolist() == [False, False, False, True, True]
    np.testing.assert_array_equal(found[:, :3], shortlist.score_values(name, values, tags, 3))
    assert np.isnan(shortlist.score_values(name, values, np.zeros(60, dtype=int), 3)).all()
    assert shortlist.score_values(name, values[:0], tags[:0], 3).shape == (3, 3)


@pytest.mark.parametrize("name", shortlist.EXACT_METHODS)
def test_neurons_are_scored_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tags, values = build_values(60, 1)
    whole = shortlist.score_values(name, values, tags, 3)
    monkeypatch.setattr(shortlist, "_BLOCK", 120)  # two neurons, then one
    np.testing.assert_allclose(shortlist.score_values(name, values, tags, 3), whole)


@pytest.mark.parametrize("at", ["predict", "last"])
def test_scores_of_a_model_s_neurons_are_in_their_places(at: Any) -> None:
    corpus, neurons = few(), pn.NeuronSet.parse(["L5N3", "L0N700", "L2N3"])
    found = shortlist.exact(demo.model(), corpus, "auroc", neurons, at=at)
    acts = pn.cache_activations(demo.model(), corpus, neurons, at=at)
    tags = corpus.word_tag[acts.word]
    np.testing.assert_array_equal(found.count, np.bincount(tags, minlength=len(corpus.tags)))
    assert found.scores.shape == (len(corpus.tags), 6, 768)
    noun = corpus.tags.index("NOUN")
    for column, (layer, unit) in enumerate([(5, 3), (0, 700), (2, 3)]):
        expected = roc_auc_score(tags == noun, acts.values[:, column])
        assert found.scores[noun, layer, unit] == pytest.approx(expected, abs=1e-9)
    assert np.count_nonzero(~np.isnan(found.scores[noun])) == 3


def test_a_ranking_by_a_shortlist_agrees_with_the_histograms_on_it() -> None:
    corpus = few()
    corpus = Corpus(**{**vars(corpus), "row_split": np.zeros(corpus.n_rows, dtype=np.int64)})
    exact, binned = (pn.rank(demo.model(), corpus, "auroc", shortlist=n) for n in (5, 0))
    assert exact.method == "auroc:shortlist=5"
    noun = corpus.tags.index("NOUN")
    scored = ~np.isnan(exact.scores[noun])
    assert 5 <= scored.sum() <= 5 * len(corpus.tags)
    assert np.abs(exact.scores[noun] - binned.scores[noun])[scored].max() < 0.005


def test_requests_that_make_no_sense_are_errors() -> None:
    neurons = pn.NeuronSet.parse(["L0N0"])
    sentence = (
        "^method lda: no exact scores of a shortlist; expected one of auroc, average_precision, mutual_information$"
    )
    with pytest.raises(PosNeuronsError, match=sentence):
        shortlist.exact(demo.model(), few(), "lda", neurons, at="predict")
    with pytest.raises(NeuronError, match="L9N0"):
        shortlist.exact(demo.model(), few(), "auroc", pn.NeuronSet.parse(["L9N0"]), at="predict")
