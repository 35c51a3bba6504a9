"""What chosen neurons encode: a classifier of the tag, beside what must be beaten.

Logistic regression, or one Gaussian per tag, on standardised activations, fitted on training words and judged once on
the test words. Which neurons are best may depend on the probe that judges them, so `cross` judges every ranking by
every probe (Antverg and Belinkov 2022, arXiv:2110.07483). Beside a probe:
the majority tag and the most frequent tag of each word form, both counted on all training words; as many random neurons
of the same layers (key neurons may be among them); and the control task of Hewitt and Liang 2019 (arXiv:1909.03368), in
which every type gets a random tag, so that only memory helps. The type is what the model has read: the word itself, or
at "predict" the token before it; there the control is also run on the forms of the words to come.
This module does not know how the neurons were chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from tqdm.auto import tqdm

from posneurons import models
from posneurons.activations import BATCH_TOKENS, cache_activations, sample_rows
from posneurons.classifiers import CLASSIFIERS, Probe
from posneurons.errors import AlignmentError, NeuronError, PosNeuronsError
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus, Ranking
from posneurons.results import ProbeResult, Scores
from posneurons.words import At

if TYPE_CHECKING:
    import pandas as pd


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
    if not len(corpus.readable(at)):
        raise AlignmentError(f"{corpus.name}: a split has no word to read at {at!r}; give longer sentences")
    corpus = sample_rows(corpus, at, limit, rng)
    acts = cache_activations(model, corpus, neurons, at=at, **how)
    kept = min(len(acts.word), limit or len(acts.word))
    chosen = np.sort(rng.choice(len(acts.word), kept, replace=False))
    word = acts.word[chosen]
    forms = corpus.word_form[word]
    read = corpus.tokens_at(word, corpus.word_first[word] - 1) if at == "predict" else forms
    return _Side(acts.values[chosen], corpus.word_tag[word], forms, read)


def _random_like(neurons: NeuronSet, model: Any, rng: np.random.Generator) -> NeuronSet:
    """As many random neurons of the same layers; those of the set may be among them."""
    info = models.describe(model)
    nothing = NeuronSet.from_pairs([])
    return neurons.matched_random(1, rng, n_layers=info.n_layers, n_units=info.d_mlp, exclude=nothing)[0]


def fit_probe(
    model: Any,
    corpus: Corpus,
    keys: Mapping[str, NeuronSet],
    *,
    at: At = "predict",
    probe: Probe = "linear",
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
        probe: "linear" or "gaussian"; the baselines that are probes too are of the same kind.
        method: a name for the tables.
        seed: of the random neurons, the control task, and the choice of training words.
        max_words: training words that are used, drawn at random where there are more (None: all).
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        NeuronError: where `keys` is empty or a neuron lies outside the model.
        PosNeuronsError: where there is no such probe.
        AlignmentError: where a split is missing or empty, or the corpus does not fit the model.
    """
    if not keys:
        raise NeuronError("fit_probe: no key neurons were given; expected a mapping of tags to NeuronSets")
    if probe not in CLASSIFIERS:
        raise PosNeuronsError(f"fit_probe: probe={probe!r}; expected one of {', '.join(CLASSIFIERS)}")
    first, *rest = keys.values()
    neurons, rng = first.union(*rest), np.random.default_rng(seed)
    random = _random_like(neurons, model, rng)
    both = neurons.union(random)
    place = {name: number for number, name in enumerate(both.names)}
    key, chance = ([place[name] for name in each.names] for each in (neurons, random))
    how = {"tokens": tokens, "progress": progress}
    everything = corpus.split("train")
    train = _side(model, everything, both, at, max_words, rng, **how)
    test = _side(model, corpus.split("test"), both, at, None, rng, **how)
    tasks = {
        "random_neurons": (chance, train.tags, test.tags),
        "control_task": (key, *control_tags(train.read, train.tags, test.read, rng)),
        "probe": (key, train.tags, test.tags),
    }
    if at == "predict":
        tasks["control_task_next_word"] = (key, *control_tags(train.forms, train.tags, test.forms, rng))
    found = {
        name: judge(true, CLASSIFIERS[probe](train.values[:, columns], tags, test.values[:, columns]), corpus.tags)
        for name, (columns, tags, true) in tqdm(
            tasks.items(), desc=f"{probe} probes", unit="probe", disable=not progress
        )
    }
    scores = found.pop("probe")
    words = everything.readable(at)
    forms, tags = everything.word_form[words], everything.word_tag[words]
    counted = {
        "most_frequent_tag": judge(test.tags, most_frequent_tag(forms, tags, test.forms), corpus.tags),
        "majority": judge(test.tags, majority(tags, len(test.tags)), corpus.tags),
    }
    return ProbeResult(
        method=method,
        at=at,
        neurons=neurons,
        classes=corpus.tags,
        train_words=len(train.tags),
        test_words=len(test.tags),
        scores=scores,
        baselines={"random_neurons": found.pop("random_neurons"), **counted, **found},
        probe=probe,
    )


def pick(ranking: Ranking, k: int, *, best: bool = True) -> NeuronSet:
    """Exactly k distinct neurons: the tags take turns, each giving its next best (or next worst) neuron.

    Raises:
        NeuronError: where fewer than k neurons have a score for any tag.
    """
    orders = [ranking.order(tag)[:: 1 if best else -1].tolist() for tag in ranking.tags]
    found: dict[int, None] = {}
    for place in range(max(map(len, orders))):
        for order in orders:
            found.update(dict.fromkeys(order[place : place + 1]))
            if len(found) == k:
                return NeuronSet.from_flat(np.array(list(found)), ranking.scores.shape[2])
    raise NeuronError(
        f"{ranking.method}: {len(found)} neurons have a score for some tag, but k={k}; choose a smaller k"
    )


def cross(
    model: Any,
    corpus: Corpus,
    rankings: Sequence[Ranking],
    *,
    ks: Sequence[int] = (10, 50),
    at: At = "predict",
    seed: int = 0,
    max_words: int | None = 10_000,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> pd.DataFrame:
    """Judge every ranking by every probe: its best neurons, its worst, and random ones of the same layers as the best.

    The neurons are those of `pick`, so that all sets of one k are equally large, for all tags together. The worst are
    the last with a score: of a signed ranking those that speak against a tag, of one that scores a shortlist only the
    shortlist's last. The control task has the same random tags everywhere (of the type that was read, as in
    `fit_probe`), so that rows can be compared. Activations are computed once.

    Args:
        model: what `load_model` gives.
        corpus: words with splits "train" and "test".
        rankings: made on the training split.
        ks: sizes of the sets.
        at: where the words are read, whatever the rankings' own position.
        seed: of the random neurons, the control task, and the choice of training words.
        max_words: training words that are used, drawn at random where there are more (None: all).
        tokens: size of a batch.
        progress: show a bar.

    Returns:
        Columns method, ranked_at, at, k, neurons ("top", "random", "bottom"), probe, accuracy, macro_f1,
        control_accuracy, selectivity (accuracy minus that of the control task), train_words, test_words.

    Raises:
        NeuronError: where no ranking is given, or a ranking has fewer than k neurons or more layers than the model.
        AlignmentError: where a split is missing or empty, or the corpus does not fit the model.

    Source: Antverg and Belinkov 2022, arXiv:2110.07483.
    """
    import pandas as pd

    if not rankings or not ks:
        raise NeuronError("cross: found no ranking or no k; expected at least one of each, such as ks=(10, 50)")
    rng = np.random.default_rng(seed)
    sets: list[tuple[Ranking, int, str, NeuronSet]] = []
    for ranking in rankings:
        for k in ks:
            top = pick(ranking, k)
            random = _random_like(top, model, rng)
            bottom = pick(ranking, k, best=False)
            sets += [(ranking, k, "top", top), (ranking, k, "random", random), (ranking, k, "bottom", bottom)]
    everyone = NeuronSet.from_pairs([]).union(*(neurons for *_, neurons in sets))
    train = _side(model, corpus.split("train"), everyone, at, max_words, rng, tokens=tokens, progress=progress)
    test = _side(model, corpus.split("test"), everyone, at, None, rng, tokens=tokens, progress=progress)
    control = control_tags(train.read, train.tags, test.read, rng)
    place = {name: number for number, name in enumerate(everyone.names)}
    rows = []
    for ranking, k, name, neurons in tqdm(sets, desc="probes", unit="set", disable=not progress):
        columns = [place[each] for each in neurons.names]
        said = {"method": ranking.method, "ranked_at": ranking.at, "at": at, "k": k, "neurons": name}
        sizes = {"train_words": len(train.tags), "test_words": len(test.tags)}
        rows += [said | scores | sizes for scores in _by_every_probe(train, test, columns, control, corpus.tags)]
    return pd.DataFrame(rows)


def _by_every_probe(
    train: _Side, test: _Side, columns: list[int], control: tuple[ndarray, ndarray], tags: tuple[str, ...]
) -> Iterator[dict[str, object]]:
    """What each kind of probe makes of some neurons: of the tags, and of the control's tags of both sides."""
    for probe, fitted in CLASSIFIERS.items():
        scores, chance = (
            judge(true, fitted(train.values[:, columns], given, test.values[:, columns]), tags)
            for given, true in ((train.tags, test.tags), control)
        )
        yield {
            "probe": probe,
            "accuracy": scores.accuracy,
            "macro_f1": scores.macro_f1,
            "control_accuracy": chance.accuracy,
            "selectivity": scores.accuracy - chance.accuracy,
        }
