"""What chosen neurons encode: a linear classifier of the tag, beside what must be beaten.

Logistic regression on standardised activations, fitted on training words and judged once on the test words. Beside it:
the majority tag and the most frequent tag of each word form, both counted on all training words; as many random neurons
of the same layers (key neurons may be among them); and the control task of Hewitt and Liang 2019 (arXiv:1909.03368), in
which every type gets a random tag, so that only memory helps. The type is what the model has read: the word itself, or
at "predict" the token before it; there the control is also run on the forms of the words to come.
This module does not know how the neurons were chosen.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons import models
from posneurons.activations import BATCH_TOKENS, cache_activations
from posneurons.errors import AlignmentError, NeuronError
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.results import ProbeResult, Scores
from posneurons.words import At


def classify(
    train: Float[ndarray, "word neuron"],
    tags: Int[ndarray, " word"],
    test: Float[ndarray, "test neuron"],
    *,
    strength: float = 0.1,
    iterations: int = 300,
) -> Int[ndarray, " test"]:
    """Tags that a logistic regression fitted on `train` predicts for `test`.

    Both are standardised with the mean and deviation of `train`; neurons that do not vary there are ignored.

    Args:
        train: activations of the training words.
        tags: their tags, as numbers; one tag alone is predicted everywhere.
        test: activations to judge.
        strength: inverse of the L2 penalty (scikit-learn's C).
        iterations: most steps of L-BFGS.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(tags)) == 1:
        return np.full(len(test), tags[0])
    mean, deviation = train.mean(0), train.std(0)
    varies = deviation > 0
    scale = np.where(varies, deviation, 1)
    model = LogisticRegression(C=strength, max_iter=iterations, tol=1e-3)
    with warnings.catch_warnings():  # the last step of many is a good classifier; its test score is what is reported
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(((train - mean) / scale)[:, varies], tags)
    predicted: ndarray = model.predict(((test - mean) / scale)[:, varies])
    return predicted


def judge(true: Int[ndarray, " word"], predicted: Int[ndarray, " word"], tags: tuple[str, ...]) -> Scores:
    """Accuracy, F1 and confusion over `tags`.

    Macro-F1 is the mean over the tags that occur in `true`; a tag that does not has F1 NaN.
    """
    size = len(tags)
    confusion = np.bincount(true * size + predicted, minlength=size * size).reshape(size, size)
    hits, actual, claimed = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    f1 = np.where(actual > 0, 2 * hits / np.maximum(actual + claimed, 1), np.nan)
    return Scores(
        accuracy=float(hits.sum() / max(len(true), 1)),
        macro_f1=float(np.nanmean(f1)),
        per_tag_f1={tag: float(score) for tag, score in zip(tags, f1, strict=True)},
        confusion=confusion,
    )


def majority(tags: Int[ndarray, " word"], n_test: int) -> Int[ndarray, " test"]:
    """The most frequent training tag, for every test word."""
    return np.full(n_test, np.bincount(tags).argmax())


def most_frequent_tag(forms: ndarray, tags: Int[ndarray, " word"], test_forms: ndarray) -> Int[ndarray, " test"]:
    """For every test word the tag its form had most often in training; the majority tag for unseen forms."""
    counts: dict[str, Counter[int]] = {}
    for form, tag in zip(forms.tolist(), tags.tolist(), strict=True):
        counts.setdefault(form, Counter())[tag] += 1
    best = {form: min(each, key=lambda tag, each=each: (-each[tag], tag)) for form, each in counts.items()}  # type: ignore[misc]
    common = int(np.bincount(tags).argmax())
    return np.array([best.get(form, common) for form in test_forms.tolist()], dtype=np.int64)


def control_tags(
    forms: ndarray, tags: Int[ndarray, " word"], test_forms: ndarray, rng: np.random.Generator
) -> tuple[Int[ndarray, " word"], Int[ndarray, " test"]]:
    """A random tag for every type, drawn from the tags' distribution in training, the same in both splits."""
    distribution = np.bincount(tags) / len(tags)
    types = sorted(set(forms.tolist()) | set(test_forms.tolist()))
    drawn = dict(zip(types, rng.choice(len(distribution), size=len(types), p=distribution).tolist(), strict=True))
    return np.array([drawn[form] for form in forms.tolist()]), np.array([drawn[form] for form in test_forms.tolist()])


@dataclass(frozen=True)
class _Side:
    """The words of one split that a probe sees."""

    values: Float[ndarray, "word neuron"]
    tags: Int[ndarray, " word"]
    forms: ndarray
    read: ndarray  # what the model has read there: the form, or at "predict" the token before the word


def _side(
    model: Any, corpus: Corpus, neurons: NeuronSet, at: At, limit: int | None, rng: np.random.Generator, **how: Any
) -> _Side:
    """At most `limit` words of a corpus, from rows drawn at random, so that no more is computed than is used."""
    words = len(corpus.readable(at))
    if not words:
        raise AlignmentError(f"{corpus.name}: a split has no word to read at {at!r}; give longer sentences")
    if limit is not None and words > limit:
        order = rng.permutation(corpus.n_rows)
        per_row = np.bincount(corpus.word_row[corpus.readable(at)], minlength=corpus.n_rows)
        enough = np.searchsorted(np.cumsum(per_row[order]), limit) + 1
        corpus = corpus.select(np.isin(np.arange(corpus.n_rows), order[:enough]))
    acts = cache_activations(model, corpus, neurons, at=at, **how)
    kept = min(len(acts.word), limit or len(acts.word))
    chosen = np.sort(rng.choice(len(acts.word), kept, replace=False))
    word = acts.word[chosen]
    before = corpus.tokens[corpus.row_bounds[corpus.word_row[word]] + corpus.word_first[word] - 2]
    forms = corpus.word_form[word]
    return _Side(acts.values[chosen], corpus.word_tag[word], forms, before if at == "predict" else forms)


def fit_probe(
    model: Any,
    corpus: Corpus,
    keys: Mapping[str, NeuronSet],
    *,
    at: At = "predict",
    method: str = "",
    seed: int = 0,
    max_words: int | None = 30_000,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> ProbeResult:
    """Fit a probe on the union of the key neurons and judge it, and its baselines, on the test words.

    Args:
        model: what `load_model` gives.
        corpus: words with splits "train" and "test".
        keys: tag to key neurons, as `Ranking.top` gives.
        at: where the words are read; "predict" asks for the tag of a word the model has not read yet.
        method: a name for the tables.
        seed: of the random neurons, the control task, and the choice of training words.
        max_words: training words that are used, drawn at random where there are more (None: all).
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        NeuronError: where `keys` is empty or a neuron lies outside the model.
        AlignmentError: where a split is missing or empty, or the corpus does not fit the model.
    """
    if not keys:
        raise NeuronError("fit_probe: no key neurons were given; expected a mapping of tags to NeuronSets")
    first, *rest = keys.values()
    neurons = first.union(*rest)
    info = models.describe(model)
    rng = np.random.default_rng(seed)
    nothing = NeuronSet.from_pairs([])
    random = neurons.matched_random(1, rng, n_layers=info.n_layers, n_units=info.d_mlp, exclude=nothing)[0]
    both = neurons.union(random)
    place = {name: number for number, name in enumerate(both.names)}
    key, chance = ([place[name] for name in each.names] for each in (neurons, random))

    everything = corpus.split("train")
    how = {"tokens": tokens, "progress": progress}
    train = _side(model, everything, both, at, max_words, rng, **how)
    test = _side(model, corpus.split("test"), both, at, None, rng, **how)

    def probed(columns: list[int], tags: ndarray, true: ndarray) -> Scores:
        return judge(true, classify(train.values[:, columns], tags, test.values[:, columns]), corpus.tags)

    words = everything.readable(at)
    forms, tags = everything.word_form[words], everything.word_tag[words]
    baselines = {
        "random_neurons": probed(chance, train.tags, test.tags),
        "most_frequent_tag": judge(test.tags, most_frequent_tag(forms, tags, test.forms), corpus.tags),
        "majority": judge(test.tags, majority(tags, len(test.tags)), corpus.tags),
        "control_task": probed(key, *control_tags(train.read, train.tags, test.read, rng)),
    }
    if at == "predict":
        baselines["control_task_next_word"] = probed(key, *control_tags(train.forms, train.tags, test.forms, rng))
    return ProbeResult(
        method=method,
        at=at,
        neurons=neurons,
        classes=corpus.tags,
        train_words=len(train.tags),
        test_words=len(test.tags),
        scores=probed(key, train.tags, test.tags),
        baselines=baselines,
    )
