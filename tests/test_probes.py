"""The classifier and its baselines, by hand and against scikit-learn, and one probe end to end."""

import demo
import numpy as np
import pytest
from sklearn import metrics

import posneurons as pn
from posneurons import probes
from posneurons.errors import AlignmentError, NeuronError


def test_judge_equals_sklearn() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    scores = probes.judge(true, predicted, ("A", "B", "C", "D"))
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(true, predicted))
    assert scores.macro_f1 == pytest.approx(metrics.f1_score(true, predicted, average="macro"))
    np.testing.assert_array_equal(scores.confusion, metrics.confusion_matrix(true, predicted))


def test_judge_by_hand() -> None:
    # A: 2 true, 1 hit, 2 claimed -> 2*1/(2+2) = 0.5;  B: 1 true, 0 hits -> 0;  C: absent -> NaN and not in the mean
    scores = probes.judge(np.array([0, 0, 1]), np.array([0, 1, 0]), ("A", "B", "C"))
    assert scores.per_tag_f1["A"] == 0.5
    assert scores.per_tag_f1["B"] == 0
    assert np.isnan(scores.per_tag_f1["C"])
    assert scores.macro_f1 == 0.25


def test_most_frequent_tag_by_hand() -> None:
    forms = np.array(["the", "run", "run", "run", "dog"], dtype=object)
    tags = np.array([0, 1, 2, 2, 1])
    # run: 2 twice against 1 once; the: 0; cat is unseen, and 1 and 2 are equally frequent, so the lower one
    test_forms = np.array(["run", "the", "cat"], dtype=object)
    assert probes.most_frequent_tag(forms, tags, test_forms).tolist() == [2, 0, 1]
    assert probes.majority(tags, 2).tolist() == [1, 1]


def test_control_tags_are_a_function_of_the_form() -> None:
    forms = np.array([f"w{i % 500}" for i in range(4000)], dtype=object)
    tags = np.repeat([0, 1], [3000, 1000])
    train, test = probes.control_tags(forms, tags, forms[:700], np.random.default_rng(0))
    np.testing.assert_array_equal(train[:700], test)
    assert all(len(set(train[forms == form])) == 1 for form in set(forms))
    assert np.mean(train == 0) == pytest.approx(0.75, abs=0.06)  # as frequent as the true tags


def test_classifier_learns_what_is_there_and_ignores_what_never_varies() -> None:
    rng = np.random.default_rng(0)
    tags = rng.integers(0, 3, 900)
    x = np.stack([tags * 100.0 + rng.normal(size=900), np.full(900, 7.0), rng.normal(size=900)], axis=1)
    predicted = probes.classify(x[:600], tags[:600], x[600:])
    assert (predicted == tags[600:]).mean() > 0.97
    assert probes.classify(x[:5], np.full(5, 2), x[:3]).tolist() == [2, 2, 2]


def test_probe_end_to_end() -> None:
    corpus = demo.corpus()
    keys = pn.rank(demo.model(), corpus, at="last").top(20)
    result = pn.fit_probe(demo.model(), corpus, keys, at="last", method="correlation", seed=1)
    assert result.test_words == len(corpus.split("test"))
    assert set(result.baselines) == {"majority", "most_frequent_tag", "random_neurons", "control_task"}
    assert result.scores.accuracy > result.baselines["majority"].accuracy + 0.2
    assert result.scores.confusion.sum() == result.test_words
    again = pn.fit_probe(demo.model(), corpus, keys, at="last", method="correlation", seed=1)
    assert again.to_dict() == result.to_dict()
    fewer = pn.fit_probe(demo.model(), corpus, keys, at="last", max_words=500)
    assert fewer.train_words == 500


def test_before_the_word_the_control_is_run_on_what_was_read_and_on_what_comes() -> None:
    corpus = demo.small()
    side = probes._side(demo.model(), corpus, pn.NeuronSet.parse(["L0N1"]), "predict", None, np.random.default_rng(0))
    words = corpus.readable("predict")
    for place, word in enumerate(words[:200]):
        assert side.read[place] == corpus.row_tokens(corpus.word_row[word])[corpus.word_first[word] - 1]
    np.testing.assert_array_equal(side.forms, corpus.word_form[words])
    result = pn.fit_probe(demo.model(), corpus, {"NOUN": pn.NeuronSet.parse(["L0N1", "L5N3"])}, at="predict")
    assert {"control_task", "control_task_next_word"} < set(result.baselines)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(NeuronError, match="fit_probe: no key neurons were given"):
        pn.fit_probe(demo.model(), demo.small(), {})
    only_test = pn.align(pn.load_treebank().split("test"), demo.model().tokenizer)
    with pytest.raises(AlignmentError, match="no split 'train'; it has"):
        pn.fit_probe(demo.model(), only_test, {"NOUN": pn.NeuronSet.parse(["L0N1"])})
