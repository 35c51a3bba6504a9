"""Tallies: the losses of many lesions, summed by tag, in files that are never computed twice.

Conditions are cut into chunks and the corpus into shards of whole clusters (sentences or documents). The sums of each
(chunk, shard) are written to one file, whole, under a name that is a digest of all that they depend on; a stopped sweep
finds them again. Besides the losses, the sums are kept that a standard error over clusters needs, so that no loss of a
single word is ever kept. This module does not know how a set was found.

Source: Cochran 1977 (standard error of a ratio of sums over clusters).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from tqdm.auto import tqdm

from posneurons import distributed
from posneurons.activations import BATCH_TOKENS
from posneurons.digests import corpus_digest, digest, identity
from posneurons.files import damaged, write_whole
from posneurons.fills import Condition, Fill
from posneurons.lesion_study import MEASURES, Workbench
from posneurons.lesions import INTACT, stream_losses
from posneurons.lexicon import Lexicon
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.words import Scope

CHUNK = 32
"""Conditions of one file."""

SHARD_WORDS = 20_000
"""Scored words of one file, as near as whole clusters allow."""


@dataclass(frozen=True)
class Tally:
    """Sums of losses over the scored words of each tag, in nats, float64.

    Attributes:
        words: how many there are.
        clusters: how many clusters have any.
        squared_counts: sum over clusters of the squared number of words.
        intact: summed losses with all neurons at work, of `MEASURES`.
        lesioned: the same under each condition.
        squares: sum over clusters of the squared sum of rises of the first measure.
        products: sum over clusters of that sum times the number of words.
    """

    words: Int[ndarray, " tag"]
    clusters: Int[ndarray, " tag"]
    squared_counts: Float[ndarray, " tag"]
    intact: Float[ndarray, "measure tag"]
    lesioned: Float[ndarray, "measure condition tag"]
    squares: Float[ndarray, "condition tag"]
    products: Float[ndarray, "condition tag"]

    def __add__(self, other: Tally) -> Tally:
        """The same conditions over the words of both, which must share no cluster."""
        return Tally(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(Tally)})

    def beside(self, other: Tally) -> Tally:
        """The conditions of both, on the same words."""
        return replace(
            self,
            lesioned=np.concatenate([self.lesioned, other.lesioned], axis=1),
            squares=np.concatenate([self.squares, other.squares]),
            products=np.concatenate([self.products, other.products]),
        )

    def rises(self) -> Float[ndarray, "measure condition tag"]:
        """Mean rise of the loss per word; NaN for a tag without words."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((self.lesioned - self.intact[:, None]) / self.words)

    def standard_errors(self) -> Float[ndarray, "condition tag"]:
        """Standard error over clusters of the mean rise of the first measure; NaN with fewer than two clusters.

        That of a ratio: sqrt(G / (G - 1) sum over clusters of (d - mean n)^2) / words, G clusters with words.
        """
        mean = self.rises()[0]
        deviation = self.squares - 2 * mean * self.products + mean**2 * self.squared_counts
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = np.maximum(deviation, 0) * self.clusters / (self.clusters - 1)
            return np.where(self.clusters > 1, np.sqrt(variance) / self.words, np.nan)

    def to_frame(self) -> pd.DataFrame:
        """A row for each (condition, tag), with every sum that they have."""
        n_conditions, n_tags = self.squares.shape
        columns: dict[str, ndarray] = {
            "condition": np.repeat(np.arange(n_conditions), n_tags),
            "tag": np.tile(np.arange(n_tags), n_conditions),
        }
        for name in ("words", "clusters", "squared_counts"):
            columns[name] = np.tile(getattr(self, name), n_conditions)
        for number, measure in enumerate(MEASURES):
            columns[f"intact_{measure}"] = np.tile(self.intact[number], n_conditions)
            columns[f"lesioned_{measure}"] = self.lesioned[number].ravel()
        return pd.DataFrame(columns | {"squares": self.squares.ravel(), "products": self.products.ravel()})

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, n_conditions: int, n_tags: int) -> Tally:
        """Back from `to_frame`. Raises KeyError or ValueError where it is no such table."""
        shape = (n_conditions, n_tags)

        def table(name: str) -> ndarray:
            return frame[name].to_numpy().reshape(shape)

        return cls(
            words=table("words")[0],
            clusters=table("clusters")[0],
            squared_counts=table("squared_counts")[0],
            intact=np.stack([table(f"intact_{measure}")[0] for measure in MEASURES]),
            lesioned=np.stack([table(f"lesioned_{measure}") for measure in MEASURES]),
            squares=table("squares"),
            products=table("products"),
        )


def tally(
    model: Any,
    corpus: Corpus,
    cluster: Int[ndarray, " word"],
    conditions: Sequence[Condition],
    lexicon: Lexicon,
    *,
    tokens: int = BATCH_TOKENS,
) -> tuple[Tally, tuple[str, ...]]:
    """Losses under each condition, summed by tag.

    Args:
        model: what `load_model` gives.
        corpus: aligned words; those whose first token follows BOS directly are not scored.
        cluster: of each word.
        conditions: the lesions.
        lexicon: P(tag | token), for the category part.
        tokens: size of a batch.

    Returns:
        The sums, and notes on what had to be done for want of memory.
    """
    n_tags, unit = len(corpus.tags), np.unique(cluster, return_inverse=True)[1]
    n_cells = (int(unit.max(initial=-1)) + 1) * n_tags
    of_word = unit * n_tags + corpus.word_tag
    counts = np.bincount(of_word[corpus.readable("predict")], minlength=n_cells)
    sums = np.zeros((len(conditions), n_cells))
    intact = np.zeros((len(MEASURES), n_tags))
    lesioned = np.zeros((len(MEASURES), len(conditions), n_tags))
    latest: dict[str, ndarray] = {}

    def add(words: ndarray, numbers: list[int], losses: ndarray) -> None:
        values, rows = losses.astype(np.float64), np.array(numbers)[:, None]
        tags, by_tag = _sums(values, corpus.word_tag[words])
        if numbers == [INTACT]:
            latest["losses"] = values[0]
            intact[:, tags] += by_tag[:, 0]
            return
        lesioned[:, rows, tags] += by_tag
        cells, rises = _sums(values[0] - latest["losses"], of_word[words])
        sums[rows, cells] += rises

    notes = stream_losses(model, corpus, conditions, add, measures=MEASURES, lexicon=lexicon, tokens=tokens)
    by_cluster, count = sums.reshape(len(conditions), -1, n_tags), counts.reshape(-1, n_tags)
    found = Tally(
        words=count.sum(0),
        clusters=(count > 0).sum(0),
        squared_counts=np.square(count.astype(np.float64)).sum(0),
        intact=intact,
        lesioned=lesioned,
        squares=np.square(by_cluster).sum(1),
        products=np.einsum("kct,ct->kt", by_cluster, count),
    )
    return found, notes


def _sums(
    values: Float[ndarray, "*condition word"], group: Int[ndarray, " word"]
) -> tuple[Int[ndarray, " k"], Float[ndarray, "*condition k"]]:
    """The groups that occur, and the sum of each; what is infinite in one (a tag never seen) stays in it."""
    order = np.argsort(group, kind="stable")
    found, begins = np.unique(group[order], return_index=True)
    return found, np.add.reduceat(values[..., order], begins, axis=-1)


def shards(corpus: Corpus, cluster: Int[ndarray, " word"], words: int = SHARD_WORDS) -> list[Bool[ndarray, " row"]]:
    """The rows of each shard, with about so many scored words: whole clusters, or documents where a row has several."""
    _, place, row = np.unique(corpus.word_row, return_index=True, return_inverse=True)
    together = np.array(corpus.row_document)
    if len(place) == corpus.n_rows and (cluster[place][row] == cluster).all():
        together = cluster[place]
    _, first, unit = np.unique(together, return_index=True, return_inverse=True)
    scored = np.bincount(unit[corpus.word_row[corpus.readable("predict")]], minlength=len(first))
    order = np.argsort(first)
    number = np.empty(len(first), dtype=np.int64)
    number[order] = (np.cumsum(scored[order]) - scored[order]) // words
    return [number[unit] == each for each in np.unique(number)]


def tallied(
    bench: Workbench,
    folder: Path,
    sets: Sequence[NeuronSet],
    fills: tuple[Fill, ...],
    ablation: str,
    scope: Scope,
    *,
    cluster: str = "auto",
    tokens: int = BATCH_TOKENS,
    chunk: int = CHUNK,
    shard_words: int = SHARD_WORDS,
    progress: bool = False,
) -> Tally:
    """Tally of the test words under the lesion of each set; what `folder` holds already is read, not computed.

    Args:
        bench: the model and the corpus.
        folder: where the files are; it must exist.
        sets: what is ablated, one set at a time.
        fills: what all of them are set to.
        ablation: its label, which with the seed of `bench` stands for `fills`.
        scope: where.
        cluster: what must stay together: "document", "sentence" or "auto".
        tokens: size of a batch.
        chunk: conditions of one file.
        shard_words: about how many scored words one file covers.
        progress: show a bar over files.

    Raises:
        RunError: where a file is damaged.
    """
    kind, of_word = bench.clusters(cluster)
    base = [identity(bench.model), *map(corpus_digest, (bench.train, bench.test)), kind, ablation, bench.seed, scope]
    parts = [sets[start : start + chunk] for start in range(0, len(sets), chunk)]
    rows = shards(bench.test, of_word, shard_words)
    files = []
    for keep in rows:
        shard = np.packbits(keep).tobytes().hex()
        for part in parts:
            name = digest(*base, MEASURES, shard, [" ".join(each.names) for each in part])
            files.append(_File(folder / f"{name}.parquet", keep, part))
    missing, many = [each for each in files if not each.path.exists()], distributed.size()
    with tqdm(
        total=len(files), initial=len(files) - len(missing), desc=f"{ablation}, {scope}", unit="file",
        disable=not progress,
    ) as bar:  # fmt: skip
        for start in range(0, len(missing), many):
            some = missing[start : start + many]
            jobs = [_job(bench.test, of_word, each, fills, scope) for each in some]
            for number, new, notes in _tallies(bench.model, jobs, bench.lexicon, tokens=tokens):
                write_whole(some[number].path, partial(new.to_frame().to_parquet, index=False))
                for note in notes:
                    bench.note(note)
                bar.update()
    return _whole(files, len(parts), len(bench.test.tags))


class _File(NamedTuple):
    """The sums of some sets over some rows, and where they are or will be."""

    path: Path
    keep: Bool[ndarray, " row"]
    sets: Sequence[NeuronSet]


class _Job(NamedTuple):
    """What the sums of a file are made from."""

    corpus: Corpus
    cluster: Int[ndarray, " word"]
    conditions: Sequence[Condition]


def _job(test: Corpus, of_word: Int[ndarray, " word"], file: _File, fills: tuple[Fill, ...], scope: Scope) -> _Job:
    here = _of_rows(fills, test, file.keep)
    conditions = [Condition(each, here, scope) for each in file.sets]
    return _Job(test.select(file.keep), of_word[file.keep[test.word_row]], conditions)


Found = list[tuple[int, Tally, tuple[str, ...]]]


def _both(a: Found, b: Found) -> Found:
    return a + b


@distributed.shared(_both)
def _tallies(model: Any, jobs: Sequence[_Job], lexicon: Lexicon, *, tokens: int) -> Found:
    """The number of each job, its sums, and its notes: a job for each process."""
    return [
        (number, *tally(model, job.corpus, job.cluster, job.conditions, lexicon, tokens=tokens))
        for number, job in distributed.mine(enumerate(jobs))
    ]


def _whole(files: Sequence[_File], n_chunks: int, n_tags: int) -> Tally:
    """All files put together: those of a shard follow one another, and each shard has the same sets."""
    chunks: list[Tally | None] = [None] * n_chunks
    for number, file in enumerate(files):
        found, before = _read(file.path, len(file.sets), n_tags), chunks[number % n_chunks]
        chunks[number % n_chunks] = found if before is None else before + found
    whole, *others = [each for each in chunks if each is not None]
    for each in others:
        whole = whole.beside(each)
    return whole


def _read(path: Path, n_conditions: int, n_tags: int) -> Tally:
    try:
        return Tally.from_frame(pd.read_parquet(path), n_conditions, n_tags)
    except (OSError, ValueError, KeyError) as error:
        expected = f"the sums of {n_conditions} lesions over {n_tags} tags"
        raise damaged(str(path), f"damaged ({str(error).splitlines()[0]})", expected) from None


def _of_rows(fills: tuple[Fill, ...], corpus: Corpus, keep: Bool[ndarray, " row"]) -> tuple[Fill, ...]:
    """The fills for some rows of a corpus: each token keeps its donor."""
    kept = torch.from_numpy(np.repeat(keep, np.diff(corpus.row_bounds)))
    return tuple(
        fill
        if fill.donors is None
        else replace(fill, donors=replace(fill.donors, choice=fill.donors.choice[kept.to(fill.donors.choice.device)]))
        for fill in fills
    )
