"""Scores of methods against hand counts and sklearn, and what methods of known merit get on planted models."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from numpy import ndarray
from sklearn.metrics import roc_auc_score

import posneurons as pn
from posneurons import lesions, models, passes
from posneurons.errors import PosNeuronsError
from posneurons.fills import Condition
from posneurons.neurons import NeuronSet
from posneurons.planted import Planted, markov_model
from posneurons.records import Corpus, Ranking
from posneurons.scoring import auroc, score_method


@cache
def planted() -> Planted:
    return markov_model(sentences=160, length=20)


def ranking_of(scores: Float[ndarray, "tag layer neuron"], **fields: Any) -> Ranking:
    return Ranking("given", "predict", planted().corpus.tags, scores, np.ones(6, dtype=np.int64), **fields)


def indicator(sets: dict[str, NeuronSet]) -> Float[ndarray, "tag layer neuron"]:
    scores = np.zeros((6, 3, 96))
    for number, tag in enumerate(planted().corpus.tags):
        scores[number, sets[tag].layers, sets[tag].units] = 1
    return scores


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auroc_equals_sklearn(pairs: list[tuple[int, bool]]) -> None:
    scores, wanted = np.array([float(s) for s, _ in pairs]), np.array([w for _, w in pairs])
    found = auroc(scores, wanted, ~wanted)
    if wanted.all() or not wanted.any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(wanted, scores))


def test_auroc_by_hand_with_undefined_scores_last() -> None:
    # 2 beats 1 and -inf, and ties with 2: (1 + 1 + 0.5) / 3.
    scores = np.array([2.0, 2.0, 1.0, -np.inf])
    assert auroc(scores, np.array([True, False, False, False]), np.array([False, True, True, True])) == 2.5 / 3


def test_an_oracle_gets_everything_right() -> None:
    score = score_method(lambda model, corpus: ranking_of(indicator(dict(planted().truth)), signed=True), planted())  # noqa: ARG005
    assert score.method == "given"
    assert score.tags == planted().corpus.tags
    for found in (score.auroc, score.precision, score.recall):
        np.testing.assert_array_equal(found, 1)
    for found in score.decoy_auroc.values():
        np.testing.assert_array_equal(found, 0.5)  # all at 0, like the ordinary ones
    assert score.passes > 0


def test_one_that_takes_copies_for_truth() -> None:
    score = score_method(lambda model, corpus: ranking_of(indicator(dict(planted().copies))), planted())  # noqa: ARG005
    np.testing.assert_array_equal(score.decoy_auroc["read_only"], 1)
    np.testing.assert_array_equal(score.decoy_auroc["bos"], 0.5)
    np.testing.assert_array_equal(score.precision, 0)
    assert (score.auroc < 0.5).all()


def test_signs_count_where_they_are_to_count() -> None:
    scores = -indicator(dict(planted().truth))
    assert (score_method(lambda m, c: ranking_of(scores), planted()).auroc == 1).all()  # noqa: ARG005
    assert (score_method(lambda m, c: ranking_of(scores, signed=True), planted()).auroc == 0).all()  # noqa: ARG005
    assert (score_method(lambda m, c: ranking_of(scores, neutral=-0.5), planted()).auroc == 0.5).all()  # noqa: ARG005


def test_undefined_scores_are_last_and_never_found() -> None:
    scores = indicator(dict(planted().truth))
    score = score_method(lambda m, c: ranking_of(np.where(scores > 0, np.nan, scores)), planted())  # noqa: ARG005
    for found in (score.auroc, score.precision, score.recall):
        np.testing.assert_array_equal(found, 0)
    nothing = score_method(lambda m, c: ranking_of(np.full_like(scores, np.nan)), planted())  # noqa: ARG005
    np.testing.assert_array_equal(nothing.auroc, 0.5)
    np.testing.assert_array_equal(nothing.recall, 0)


def test_k_is_how_many_are_looked_at() -> None:
    score = score_method(lambda m, c: ranking_of(indicator(dict(planted().truth)), signed=True), planted(), k=8)  # noqa: ARG005
    sizes = np.array([len(each) for each in planted().truth.values()])
    np.testing.assert_array_equal(score.precision, sizes / 8)


def test_ignored_neurons_are_neither_right_nor_wrong() -> None:
    tag = planted().corpus.tags[2]
    scores = indicator(dict(planted().truth))
    aside = NeuronSet.from_pairs([(0, unit) for unit in range(96)]).union(*planted().truth.values())
    aside = NeuronSet.parse(name for name in aside if not any(name in each.names for each in planted().truth.values()))
    scores[:, aside.layers, aside.units] = 2
    fooled = score_method(lambda m, c: ranking_of(scores), planted())  # noqa: ARG005
    spared = score_method(lambda m, c: ranking_of(scores), replace(planted(), ignored=aside))  # noqa: ARG005
    assert fooled.auroc[2] < 1
    assert spared.auroc[2] == spared.precision[2] == spared.recall[2] == 1
    assert tag in spared.tags


def test_correlation_finds_truth_and_is_taken_in_by_copies() -> None:
    score = score_method("correlation", planted())
    assert score.method == "correlation"
    assert (score.auroc > 0.9).all()
    assert (score.decoy_auroc["read_only"] > 0.95).all()
    assert set(score.decoy_auroc) == {"all", *planted().decoys}
    assert score.precision.mean() < 0.8  # copies are as good
    row = score.summary()
    assert row["auroc"] == pytest.approx(score.auroc.mean())
    assert row["decoys: read_only"] == pytest.approx(score.decoy_auroc["read_only"].mean())


def exact_effects(model: Any, corpus: Corpus) -> Ranking:
    """The rise of each tag's loss without each neuron, measured one by one."""
    info = models.describe(model)
    part = corpus.split("test")
    sets = [NeuronSet.from_flat(np.array([flat]), info.d_mlp) for flat in range(info.n_layers * info.d_mlp)]
    found = lesions.word_losses(model, part, [Condition(each) for each in sets], tokens=10**5)
    tag, rise = part.word_tag[found.words], found.rises()
    rises = np.stack([rise[:, tag == k].mean(1) for k in range(len(part.tags))])
    return ranking_of(rises.reshape(len(part.tags), info.n_layers, info.d_mlp), signed=True)


def test_exact_effects_ignore_copies_and_miss_what_has_a_backup() -> None:
    score = score_method(exact_effects, planted())
    assert (score.auroc[2:] > 0.95).all()
    for kind in ("read_only", "loud", "word", "bos"):
        np.testing.assert_array_equal(score.decoy_auroc[kind], 0.5)
    assert score.tags[1] == "T1"
    assert score.auroc[1] < 0.8  # one of the two, whose backup steps in, does nothing alone


def test_a_method_gets_the_corpus_and_chance_is_chance() -> None:
    def at_random(model: Any, corpus: Corpus) -> Ranking:
        moments = passes.tag_moments(model, corpus.split("train"))["predict"]
        return ranking_of(np.random.default_rng(0).random(moments.mean.shape))

    score = score_method(at_random, planted())
    assert abs(score.auroc.mean() - 0.5) < 0.15
    assert abs(score.decoy_auroc["all"].mean() - 0.5) < 0.1


def test_errors_say_what_to_do() -> None:
    with pytest.raises(PosNeuronsError, match="method 'magic': no such ranking"):
        score_method("magic", planted())
    short = replace(ranking_of(np.zeros((6, 3, 96))), tags=("NOUN",) * 6)
    with pytest.raises(PosNeuronsError, match="score_method: 'given' ranks nothing for 'T0'; expected T0, T1, T2"):
        score_method(lambda m, c: short, planted())  # noqa: ARG005
    with pytest.raises(PosNeuronsError, match="'given' ranks 2 layers of 96 neurons; expected the model's 3 of 96"):
        score_method(lambda m, c: ranking_of(np.zeros((6, 2, 96))), planted())  # noqa: ARG005


def test_named_methods_take_options() -> None:
    whole = score_method("attribution", planted(), contrast=False)
    assert whole.method == "attribution:contrast=no"
    assert whole.auroc[2:].mean() > 0.9
    assert pn.rank(planted().model, planted().corpus, "attribution", contrast=False).method == whole.method
