"""What of "Spotting Key Neurons in Grammar Perception" (arXiv:2511.06519) holds, and what do its numbers mean?

Command:  python experiments/reproduce_2511_06519.py [--model demo] [--treebank demo] [--tags NOUN VERB ADJ ADV | all]
          [--k 100] [--at predict last] [--words 500] [--classified 2000] [--seed 0] [--out DIR]
          (what Llama-3-8B would take: experiments/cost_of_2511_06519.py)
Cost:     6 minutes of one core on the embedded model and treebank, half of it integrated gradients, half classifiers.
Outcome:  expected: sets of different tags overlap more than random ones; nearly all key neurons pass chi-squared; key
          neurons barely beat random neurons. Measured on the embedded model, per layer: (a) mean Jaccard of two of the
          four tags .12 before the word and .11 at it, where random sets have .07; with 100 neurons of the whole model
          .11 and .13, random sets .01. (b) The selective variant overlaps less than random sets (.02): its score sets
          tags against each other. (c) Few pass chi-squared on four tags with so few words: 0.5 % (before) and 1.7 %
          (at the word) of all neurons, 1.2 % and 4.1 % of key neurons. (d) Four tags in the last layer, logistic: .65
          before the word (random neurons .64, previous word .63), .82 at it (random .80, most frequent tag of the form
          .73, which a treebank of the size of EWT brings to .91). Key neurons are at most .04 above random ones in any
          layer.

The paper ranks FFN neurons of Llama-3-8B by integrated gradients for the next word, keeps the top 5 % of each sample
and takes the 100 most frequent for each of four tags (5,228 neurons, 1.1 % of all), filters by chi-squared, trains
classifiers (up to 0.91 in the last layer) and disrupts the neurons. It published no code, and neither its data nor its
read position is known, so that both positions are shown, and four tags as well as all of them. Attributions are signed.
The selective variant scores by the log odds ratio of membership on the tag against the other tags over its standard
error. Baselines count all training words; classifiers see about --classified of them. Disruption is the matter of
`posneurons lesion`. Words of a sentence are not independent, so that p-values of chi-squared are too small: they are
the paper's filter, not a test. k = 100 is 13 % of a layer of the embedded model, and 0.7 % of one of Llama-3-8B.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import posneurons as pn
from posneurons import models
from posneurons.classifiers import classify
from posneurons.key_neurons import log_odds
from posneurons.neurons import NeuronSet
from posneurons.probes import majority, most_frequent_tag
from posneurons.records import Corpus, Ranking
from posneurons.significance import q_values
from posneurons.words import ALPHA

START = "<s>"


@dataclass(frozen=True)
class Task:
    """Which tags are told apart."""

    name: str
    tags: tuple[str, ...]


# --- Words ---


def draw_rows(corpus: Corpus, split: str, words: int, rng: np.random.Generator) -> Corpus:
    """Rows of one split, drawn until they hold so many words."""
    mine = np.flatnonzero(corpus.row_split == corpus.split_names.index(split))
    order = rng.permutation(mine)
    held = np.cumsum(np.bincount(corpus.word_row, minlength=corpus.n_rows)[order])
    chosen = order[: int(np.searchsorted(held, words)) + 1]
    return corpus.select(np.isin(np.arange(corpus.n_rows), chosen), split)


def previous_forms(corpus: Corpus) -> np.ndarray:
    """The form of the word before each word in its row."""
    before = np.concatenate([[START], corpus.word_form[:-1]])
    first = np.concatenate([[True], corpus.word_row[1:] != corpus.word_row[:-1]])
    return np.where(first, START, before)


# --- Key neurons ---


def membership(model: Any, corpus: Corpus, at: str, per: str, args: argparse.Namespace) -> Ranking:
    """How often each neuron is among the best of a word, per tag."""
    how = {key: value for key in ("steps", "rule", "target") if (value := getattr(args, key)) is not None}
    return pn.rank(
        model, corpus, "key_neuron_rule", at=at, per=per, share=args.share, seed=args.seed, contrast=False, **how
    )


def only(ranking: Ranking, tags: Sequence[str]) -> Ranking:
    """The same frequencies for some tags."""
    chosen = [ranking.tags.index(tag) for tag in tags]
    return replace(ranking, tags=tuple(tags), scores=ranking.scores[chosen], count=ranking.count[chosen])


def hits_and_words(ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    """Words of a tag among whose best a neuron is [tag layer neuron], and words of the tag [tag 1 1]."""
    words = ranking.count[:, None, None].astype(float)
    return np.nan_to_num(ranking.scores) * words, words


def selective(ranking: Ranking) -> Ranking:
    """Log odds ratio of membership on a tag against the other tags here, over its standard error."""
    return replace(ranking, scores=log_odds(ranking.scores, ranking.count))


def chi_squared(ranking: Ranking) -> np.ndarray:
    """p of a neuron's membership being independent of the tag [layer neuron]; NaN where it is never or always one."""
    from scipy.stats import chi2

    hits, words = hits_and_words(ranking)
    share = hits.sum(0) / words.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = ((hits - words * share) ** 2 / (words * share * (1 - share)))[ranking.count > 0].sum(0)
    return np.asarray(chi2.sf(statistic, (ranking.count > 0).sum() - 1))


def overlap(keys: dict[str, NeuronSet]) -> pd.DataFrame:
    """Jaccard index of every two tags' sets."""
    return pd.DataFrame({a: {b: keys[a].jaccard(keys[b]) for b in keys} for a in keys})


def mean_off_diagonal(table: pd.DataFrame) -> float:
    values = table.to_numpy()
    return float(values[~np.eye(len(values), dtype=bool)].mean()) if len(values) > 1 else float("nan")


def of_layer(keys: dict[str, NeuronSet], layer: int) -> dict[str, NeuronSet]:
    """The part of every set that lies in a layer."""
    return {
        tag: NeuronSet(each.layers[each.layers == layer], each.units[each.layers == layer])
        for tag, each in keys.items()
    }


def union(keys: dict[str, NeuronSet]) -> NeuronSet:
    first, *rest = keys.values()
    return first.union(*rest)


def by_chance(k: int, n: int) -> float:
    """Jaccard index of two random sets of k out of n, about."""
    both = k * k / n
    return both / (2 * k - both)


@dataclass(frozen=True)
class Keys:
    """The key neurons of a task by one variant of the rule."""

    at: str
    task: Task
    variant: str
    per: str
    ranking: Ranking
    sets: dict[str, NeuronSet]


def find_keys(model: Any, corpus: Corpus, tasks: list[Task], args: argparse.Namespace) -> Iterator[Keys]:
    for at in args.at:
        for per in args.per:
            begin = time.perf_counter()
            found = membership(model, corpus, at, per, args)
            error = found.notes.get("completeness_error", float("nan"))
            seconds = time.perf_counter() - begin
            note(f"{at}, top {args.share:.0%} per {per}: {seconds:.0f} s, completeness error {error:.2%}")
            for task in tasks:
                mine = only(found, task.tags)
                for variant, ranking in (("most frequent", mine), ("selective", selective(mine))):
                    yield Keys(at, task, variant, per, mine, ranking.top(args.k, per=per))


def describe_keys(keys: Keys, k: int) -> tuple[dict[str, Any], pd.DataFrame]:
    """A line of the table of key neurons, and the overlap of tags in every layer."""
    n_layers, n_units = keys.ranking.scores.shape[1:]
    everyone, p = union(keys.sets), chi_squared(keys.ranking)
    tested = ~np.isnan(p)
    passed = np.zeros(p.shape, dtype=bool)
    passed[tested] = q_values(p[tested]) < ALPHA
    layers = [of_layer(keys.sets, layer) for layer in range(n_layers)]
    overlaps = [mean_off_diagonal(overlap(each)) for each in layers]
    sizes = [np.array([len(each) for each in layer.values()]) for layer in layers]
    by_layer = pd.DataFrame(
        {
            "at": keys.at,
            "task": keys.task.name,
            "per": keys.per,
            "variant": keys.variant,
            "layer": range(n_layers),
            "unique": [len(union(each)) for each in layers],
            "mean Jaccard": overlaps,
            "by chance": [by_chance(size.mean(), n_units) if size.mean() else np.nan for size in sizes],
        }
    )
    line = {
        "at": keys.at,
        "tags": keys.task.name,
        "top 5 % per": keys.per,
        "variant": keys.variant,
        "slots": sum(map(len, keys.sets.values())),
        "unique": len(everyone),
        "share of all": len(everyone) / (n_layers * n_units),
        "mean Jaccard": mean_off_diagonal(overlap(keys.sets)),
        "by chance": by_chance(k, n_units if keys.per == "layer" else n_layers * n_units),
        "chi-squared, all": passed.mean(),
        "chi-squared, key": passed[everyone.layers, everyone.units].mean(),
    }
    return line, by_layer


# --- Classifiers ---


def support_vectors(train: np.ndarray, tags: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """A linear support vector machine on standardised values."""
    from sklearn.svm import LinearSVC

    mean, deviation = train.mean(0), train.std(0)
    scale = np.where(deviation > 0, deviation, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = LinearSVC(C=0.01, random_state=seed, max_iter=500, tol=1e-3).fit((train - mean) / scale, tags)
    return np.asarray(fitted.predict((test - mean) / scale))


def forest(train: np.ndarray, tags: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """A random forest of 100 trees."""
    from sklearn.ensemble import RandomForestClassifier

    return np.asarray(RandomForestClassifier(100, random_state=seed, min_samples_leaf=2).fit(train, tags).predict(test))


def baselines(corpus: Corpus, tags: Sequence[str], test: Corpus, words: np.ndarray) -> dict[str, float]:
    """Accuracy on some test words of what knows no neurons, counted on all training words with these tags."""
    train = corpus.split("train")
    numbers = [corpus.tags.index(tag) for tag in tags]
    seen = np.isin(train.word_tag, numbers)
    true, known = test.word_tag[words], train.word_tag[seen]
    return {
        "majority": float((majority(known, len(true)) == true).mean()),
        "previous word": float(
            (most_frequent_tag(previous_forms(train)[seen], known, previous_forms(test)[words]) == true).mean()
        ),
        "word form": float((most_frequent_tag(train.word_form[seen], known, test.word_form[words]) == true).mean()),
    }


def classify_layers(
    model: Any, corpus: Corpus, part: Corpus, keys: Keys, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Per layer the accuracy of three classifiers of key neurons and of as many random ones, beside the baselines."""
    info, test = models.describe(model), corpus.split("test")
    numbers = [corpus.tags.index(tag) for tag in keys.task.tags]
    rng = np.random.default_rng(args.seed)
    chosen = union(keys.sets)
    nothing = NeuronSet.from_pairs([])
    random = chosen.matched_random(1, rng, n_layers=info.n_layers, n_units=info.d_mlp, exclude=nothing)[0]
    both = chosen.union(random)
    sides = []
    for each in (part, test):
        acts = pn.cache_activations(model, each, both, at=keys.at)
        mine = np.isin(each.word_tag[acts.word], numbers)
        sides.append((acts.values[mine], each.word_tag[acts.word[mine]], acts.word[mine]))
    (train_values, train_tags, _), (test_values, test_tags, test_words) = sides
    place = {name: number for number, name in enumerate(both.names)}
    rivals = baselines(corpus, keys.task.tags, test, test_words)
    for layer in range(info.n_layers):
        line: dict[str, Any] = {"at": keys.at, "tags": keys.task.name, "layer": layer}
        for label, neurons in (("key", chosen), ("random", random)):
            columns = [place[name] for name, where in zip(neurons.names, neurons.layers, strict=True) if where == layer]
            line["neurons"] = len(columns)
            if not columns:
                continue
            seen, unseen = train_values[:, columns], test_values[:, columns]
            line |= {
                f"logistic, {label}": float((classify(seen, train_tags, unseen) == test_tags).mean()),
                f"SVM, {label}": float((support_vectors(seen, train_tags, unseen, args.seed) == test_tags).mean()),
                f"forest, {label}": float((forest(seen, train_tags, unseen, args.seed) == test_tags).mean()),
            }
        yield line | rivals | {"test words": len(test_tags)}


# --- Tables ---


def note(text: str) -> None:
    sys.stderr.write(text + "\n")


def markdown(frame: pd.DataFrame, *, index: bool = False) -> str:
    """A Markdown table, shares with three digits."""
    table = frame.reset_index(names="") if index else frame

    def cell(value: Any) -> str:
        if isinstance(value, float | np.floating):
            return "" if np.isnan(value) else f"{value:.3f}"
        return f"{value:,}" if isinstance(value, int | np.integer) else str(value)

    rows = [[cell(value) for value in row] for row in table.itertuples(index=False)]
    right = [
        "---:" if isinstance(table.iloc[0, number], int | float | np.number) else "---"
        for number in range(table.shape[1])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(map(str, table.columns)), right, *rows])


def show(title: str, frame: pd.DataFrame, out: Path | None, *, index: bool = False) -> None:
    sys.stdout.write(f"### {title}\n\n{markdown(frame, index=index)}\n\n")
    save(title, frame, out, index=index)


def save(title: str, frame: pd.DataFrame, out: Path | None, *, index: bool = False) -> None:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        name = "".join(letter if letter.isalnum() else "_" for letter in title.lower())
        frame.to_csv(out / f"{name}.csv", index=index)


def tasks_of(args: argparse.Namespace, corpus: Corpus) -> list[Task]:
    """The tags asked for, and all that have words in training and test."""
    counts = [corpus.split(split).tag_counts() for split in ("train", "test")]
    everything = tuple(tag for tag in corpus.tags if all(each[tag] for each in counts))
    unknown = [tag for tag in args.tags if tag not in (*everything, "all")]
    if unknown:
        raise SystemExit(
            f"--tags {unknown[0]}: no such tag with words in training and test; there are {', '.join(everything)}"
        )
    whole = Task(f"all {len(everything)}", everything)
    return [whole] if "all" in args.tags else [Task(" ".join(args.tags), tuple(args.tags)), whole]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--treebank", default="demo")
    parser.add_argument("--tags", nargs="+", default=["NOUN", "VERB", "ADJ", "ADV"], help="tags, or all")
    parser.add_argument("--k", type=int, default=100, help="key neurons of a tag (in each layer)")
    parser.add_argument("--share", type=float, default=0.05, help="the part of the neurons that is best for a word")
    parser.add_argument("--per", nargs="+", default=["layer", "model"], choices=["layer", "model"])
    parser.add_argument("--at", nargs="+", default=["predict", "last"], choices=["predict", "first", "last"])
    parser.add_argument("--words", type=int, default=500, help="training words that are attributed, about")
    parser.add_argument("--classified", type=int, default=2000, help="training words that classifiers see, about")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rule")
    parser.add_argument("--target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    model = pn.load_model(
        args.model, device=args.device, dtype=args.dtype or ("float32" if args.model == "demo" else None)
    )
    bank = pn.load_treebank() if args.treebank == "demo" else pn.load_treebank(args.treebank)
    corpus = pn.align(bank, model.tokenizer, n_ctx=model.cfg.n_ctx)
    part, seen = (
        draw_rows(corpus, "train", words, np.random.default_rng(args.seed)) for words in (args.words, args.classified)
    )
    tasks = tasks_of(args, corpus)
    info = models.describe(model)
    train, test = (len(corpus.split(split)) for split in ("train", "test"))
    sys.stdout.write(
        f"{args.model} ({info.dtype}, {info.n_layers} x {info.d_mlp} neurons), {bank.name}: of {train:,} training "
        f"words {len(part):,} attributed and {len(seen):,} for classifiers, {test:,} test words, k = {args.k}\n\n"
    )
    lines, layers, accuracies = [], [], []
    for keys in find_keys(model, part, tasks, args):
        line, by_layer = describe_keys(keys, args.k)
        lines.append(line)
        layers.append(by_layer)
        title = f"Jaccard, {keys.at}, {keys.task.name}, per {keys.per}, {keys.variant}"
        (show if len(keys.task.tags) <= 6 and keys.per == "layer" else save)(
            title, overlap(keys.sets), args.out, index=True
        )
        if keys.per == "layer" and keys.variant == "most frequent":
            accuracies += classify_layers(model, corpus, seen, keys, args)
    show("Key neurons", pd.DataFrame(lines), args.out)
    save("Key neurons by layer", pd.concat(layers), args.out)
    if "layer" in args.per:
        show("Overlap by layer", pd.concat(layers).query("per == 'layer'").drop(columns="per"), None)
    if accuracies:
        show("Accuracy on test words by layer", pd.DataFrame(accuracies), args.out)


if __name__ == "__main__":
    main()
