"""The classifier and its baselines, by hand and against scikit-learn, and one probe end to end."""

from inspect import unwrap

import demo
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn import metrics

import posneurons as pn
from posneurons import classifiers, probes
from posneurons.activations import sample_rows
from posneurons.errors import AlignmentError, NeuronError, PosNeuronsError
from posneurons.records import Ranking


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
    predicted = classifiers.classify(x[:600], tags[:600], x[600:])
    assert (predicted == tags[600:]).mean() > 0.97
    assert classifiers.classify(x[:5], np.full(5, 2), x[:3]).tolist() == [2, 2, 2]


def test_gaussian_classifier_equals_scipy() -> None:
    """Where words are many the prior is weightless, and the classifier is quadratic discriminant analysis."""
    rng = np.random.default_rng(0)
    tags = np.repeat([1, 4], [3000, 1000])
    spread = np.array([[1.0, 0.8], [0.8, 1.0]])
    x = np.where((tags == 1)[:, None], rng.normal(size=(4000, 2)), rng.normal(size=(4000, 2)) @ spread + [0.5, 0])
    test = rng.normal(size=(500, 2))
    exact = []
    for tag in (1, 4):
        mine = x[tags == tag]
        density = multivariate_normal(mine.mean(0), np.cov(mine.T, bias=True))
        exact.append(density.logpdf(test) + np.log((tags == tag).mean()))
    decided = np.abs(exact[0] - exact[1]) > 0.05
    assert decided.mean() > 0.9
    predicted = classifiers.gaussian_classify(x, tags, test)
    np.testing.assert_array_equal(predicted[decided], np.where(exact[0] > exact[1], 1, 4)[decided])
    assert set(predicted.tolist()) == {1, 4}
    np.testing.assert_array_equal(predicted, classifiers.gaussian_classify(x * [3, 500] + 7, tags, test * [3, 500] + 7))


def test_gaussian_classifier_by_hand() -> None:
    # One neuron: tag 0 has -1 and 1, tag 1 has -3 and 3. Standardising divides all by sqrt(5) and changes no decision.
    # Scatter + prior over n + 2 d + 4 = 8: variances (2 + 1) / 8 and (18 + 9) / 8, and both means are 0. The densities
    # are equal where x^2 (8/3 - 8/27) / 2 = ln 3, at |x| = 0.963.
    x, tags = np.array([[-1.0], [1.0], [-3.0], [3.0]]), np.array([0, 0, 1, 1])
    test = np.array([[0.0], [0.95], [-0.95], [0.98], [-0.98], [50.0]])
    assert classifiers.gaussian_classify(x, tags, test).tolist() == [0, 0, 0, 1, 1, 1]


def test_gaussian_classifier_of_rare_and_constant() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=50), np.full(50, 7.0)], axis=1)
    tags = np.array([3] * 49 + [5])  # a tag of one word
    x[-1, 0] = 40
    predicted = classifiers.gaussian_classify(x, tags, np.array([[0.0, 7.0], [40.0, 7.0], [39.99, 9.0]]))
    assert predicted.tolist() == [3, 5, 5]
    assert classifiers.gaussian_classify(x[:5], np.full(5, 2), x[:3]).tolist() == [2, 2, 2]


def build_ranking() -> Ranking:
    """Two tags, two layers of three; tag B has no score for three of them."""
    scores = np.array([[[9, -8, 7], [1, 2, 3.0]], [[5, 6, np.nan], [-7, np.nan, np.nan]]])
    return Ranking("by hand", "last", ("A", "B"), scores, np.array([1, 1]))


def test_pick_by_hand() -> None:
    # A: 0 1 2 5 4 3; B: 3 (its score is -7) 1 0. In turn: A0 B3 A1 (B1) A2 (B0) A5 A4 (A3).
    found = [probes.pick(build_ranking(), k).flat(3).tolist() for k in (1, 2, 3, 6)]
    assert found == [[0], [0, 3], [0, 3, 1], [0, 3, 1, 2, 5, 4]]
    # Backwards A: 3 4 5 2 1 0; B: 0 1 3. In turn: A3 B0 A4 B1.
    assert probes.pick(build_ranking(), 4, best=False).flat(3).tolist() == [3, 0, 4, 1]
    with pytest.raises(
        NeuronError, match=r"^by hand: 6 neurons have a score for some tag, but k=7; choose a smaller k$"
    ):
        probes.pick(build_ranking(), 7)


def test_every_ranking_by_every_probe() -> None:
    corpus = demo.small()
    rankings = [pn.rank(demo.model(), corpus, method, at="last") for method in ("correlation", "mean_difference")]
    frame = probes.cross(demo.model(), corpus, rankings, ks=(5, 30), at="last", seed=3)
    assert len(frame) == 2 * 2 * 3 * 2
    assert not frame.duplicated(["method", "k", "neurons", "probe"]).any()
    np.testing.assert_allclose(frame["selectivity"], frame["accuracy"] - frame["control_accuracy"])
    top = frame[(frame["method"] == "correlation") & (frame["k"] == 30)].set_index(["neurons", "probe"])["accuracy"]
    for probe in ("linear", "gaussian"):
        assert top["top", probe] > top["random", probe] > 0.1
        assert top["top", probe] > top["bottom", probe] + 0.1
    keys = {"all": probes.pick(rankings[0], 30)}
    alone = [pn.fit_probe(demo.model(), corpus, keys, at="last", probe=probe) for probe in ("linear", "gaussian")]
    assert [each.scores.accuracy for each in alone] == top["top"].tolist()
    assert [each.to_dict()["probe"] for each in alone] == ["linear", "gaussian"]
    assert frame.equals(probes.cross(demo.model(), corpus, rankings, ks=(5, 30), at="last", seed=3))


def test_rows_are_drawn_until_there_are_enough_words() -> None:
    corpus = demo.small()
    part = sample_rows(corpus, "predict", 100, np.random.default_rng(0))
    words = np.bincount(part.word_row[part.readable("predict")], minlength=part.n_rows)
    assert 100 <= words.sum() < 100 + words.max()
    assert sample_rows(corpus, "predict", None, np.random.default_rng(0)) is corpus


def test_probe_end_to_end() -> None:
    corpus = demo.corpus().select(np.arange(demo.corpus().n_rows) % 4 == 0)
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
    with pytest.raises(PosNeuronsError, match=r"^fit_probe: probe='deep'; expected one of linear, gaussian$"):
        unwrap(pn.fit_probe)(demo.model(), demo.small(), {"NOUN": pn.NeuronSet.parse(["L0N1"])}, probe="deep")
    with pytest.raises(NeuronError, match="cross: found no ranking or no k; expected at least one of each"):
        probes.cross(demo.model(), demo.small(), [])
    only_test = pn.align(pn.load_treebank().split("test"), demo.model().tokenizer)
    with pytest.raises(AlignmentError, match="no split 'train'; it has"):
        pn.fit_probe(demo.model(), only_test, {"NOUN": pn.NeuronSet.parse(["L0N1"])})
