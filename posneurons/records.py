"""The frozen records between the steps, and the words for their axes.

Each record is what one step hands to the next: plain arrays with their ids and counts, never a bare dict. Axis words,
used in every annotation of the package: batch pos token word tag layer neuron vocab condition draw k. Records know
neither files nor formulas nor models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons.display import Shown
from posneurons.errors import AlignmentError, NeuronError
from posneurons.neurons import NeuronSet
from posneurons.views import ActivationsView, CorpusView, HistogramsView, MomentsView, RankingView
from posneurons.words import At, Context, Per, Units

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Corpus(CorpusView):
    """Words aligned with tokens.

    A row is what the model reads at once: BOS and the tokens of one sentence, or of a stretch of a document, or of a
    part of either where it is longer than the context. Positions count from BOS = 0, so the first token of a row stands
    at position 1. Only words whose boundaries are token boundaries are here; `dropped` counts the others by (split,
    tag, reason).

    Attributes:
        tags: the tag names; `word_tag` indexes them.
        tokens: token ids of all rows, end to end, without BOS.
        row_bounds: row r holds tokens[row_bounds[r]:row_bounds[r + 1]].
        row_document: index of the document a row comes from; of its sentence, where no documents are marked.
        row_split: index into `split_names`.
        word_row, word_first, word_last: a word's row and the positions of its first and last token in it.
        word_tag: index of its tag.
        word_form: its form, as written in the treebank.
        word_sentence: index of its sentence, the unit of clustering where documents are few.
        word_frequency: how often its form, in small letters, stands in the whole treebank.
        word_parts: how many words of the treebank it is: 1, or more where those that share a token are one unit.
        split_sentences: how many sentences (documents) were longer than the context and became several rows.
        context: what a row is a stretch of.
        left: tokens that the first word of a row has at least before it, where a sentence or document was cut.
        units: which words became one.
    """

    name: str
    tagset: str
    tags: tuple[str, ...]
    split_names: tuple[str, ...]
    bos: int
    tokens: Int[ndarray, " token"]
    row_bounds: Int[ndarray, " row_and_end"]
    row_document: Int[ndarray, " row"]
    row_split: Int[ndarray, " row"]
    word_row: Int[ndarray, " word"]
    word_first: Int[ndarray, " word"]
    word_last: Int[ndarray, " word"]
    word_tag: Int[ndarray, " word"]
    word_form: ndarray
    word_sentence: Int[ndarray, " word"]
    word_frequency: Int[ndarray, " word"]
    word_parts: Int[ndarray, " word"]
    dropped: dict[tuple[str, str, str], int]
    split_sentences: int
    marked_documents: bool
    context: Context = "sentence"
    left: int = 0
    units: Units = "word"

    def __len__(self) -> int:
        """Number of words."""
        return len(self.word_tag)

    @property
    def n_rows(self) -> int:
        """Number of rows the model reads."""
        return len(self.row_document)

    def row_tokens(self, row: int | np.integer) -> Int[ndarray, " pos"]:
        """BOS and the tokens of a row."""
        body = self.tokens[self.row_bounds[row] : self.row_bounds[row + 1]]
        return np.concatenate([[self.bos], body])

    def tokens_at(self, words: Int[ndarray, " k"], positions: Int[ndarray, " k"]) -> Int[ndarray, " k"]:
        """The token at a position, from 1 on, of the row of each of some words."""
        return np.asarray(self.tokens[self.row_bounds[self.word_row[words]] + positions - 1])

    def positions(self, at: At) -> Int[ndarray, " word"]:
        """Position at which each word is read; 0 (BOS, which is never counted) for `predict` of a row's first word.

        Raises AlignmentError where there is no such position, and so does `readable`.
        """
        if at not in get_args(At):
            raise AlignmentError(f"at={at!r}: no such position; expected one of {', '.join(get_args(At))}")
        return {"predict": self.word_first - 1, "first": self.word_first, "last": self.word_last}[at]

    def readable(self, at: At) -> Int[ndarray, " readable"]:
        """Numbers of the words that can be read: all but those whose position is BOS."""
        return np.flatnonzero(self.positions(at) > 0)

    def tag_counts(self) -> dict[str, int]:
        """Number of aligned words of each tag."""
        counts = np.bincount(self.word_tag, minlength=len(self.tags))
        return {tag: int(count) for tag, count in zip(self.tags, counts, strict=True)}

    def split(self, name: str) -> Corpus:
        """The rows and words of one split; `tags` stays as it is. Raises AlignmentError where the split is unknown."""
        if name not in self.split_names:
            raise AlignmentError(f"{self.name}: no split {name!r}; it has {', '.join(self.split_names) or 'none'}")
        return self.select(self.row_split == self.split_names.index(name), name)

    def select(self, keep: ndarray, split: str | None = None) -> Corpus:
        """The rows where the boolean array `keep` [row] is true; dropped words are those of `split`, where given."""
        number = np.cumsum(keep) - 1
        lengths = np.diff(self.row_bounds)
        words = keep[self.word_row]
        rows = replace(
            self,
            tokens=self.tokens[np.repeat(keep, lengths)],
            row_bounds=np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64),
            row_document=self.row_document[keep],
            row_split=self.row_split[keep],
            dropped={key: n for key, n in self.dropped.items() if split in (None, key[0])},
        )
        return rows._with_words(words, word_row=number[self.word_row[words]])

    def keep_words(self, keep: ndarray, reason: str | ndarray) -> Corpus:
        """The same rows with the words where the boolean array `keep` [word] is true.

        The others are counted in `dropped`, under `reason` or, where it is an array [word] of strings, each under its
        own.
        """
        dropped: Counter[tuple[str, str, str]] = Counter(self.dropped)
        reasons = np.broadcast_to(np.asarray(reason), keep.shape)
        for word in np.flatnonzero(~keep):
            split = self.split_names[self.row_split[self.word_row[word]]]
            dropped[split, self.tags[self.word_tag[word]], str(reasons[word])] += int(self.word_parts[word])
        return replace(self, dropped=dict(dropped))._with_words(keep)

    def _with_words(self, keep: ndarray, **changed: ndarray) -> Corpus:
        """The same with the words where `keep` is true, but for arrays that are given."""
        return replace(self, **{name: getattr(self, name)[keep] for name in _WORD_ARRAYS} | changed)

    def shuffled(self, seed: int) -> Corpus:
        """The same words with their tags permuted within each split: what is found there is found by chance."""
        rng, split, tags = np.random.default_rng(seed), self.row_split[self.word_row], self.word_tag.copy()
        for each in np.unique(split):
            tags[split == each] = rng.permutation(tags[split == each])
        return replace(self, word_tag=tags)

    def halves(self, seed: int) -> tuple[Corpus, Corpus]:
        """Two halves without a document in common (a sentence, where none are marked); each split is cut in two.

        Documents are drawn at random, and their number, not that of their words, is halved. `dropped` stays whole.
        """
        rng, unit = np.random.default_rng(seed), self.row_document
        first = np.zeros(self.n_rows, dtype=bool)
        for split in np.unique(self.row_split):
            units = rng.permutation(np.unique(unit[self.row_split == split]))
            first |= (self.row_split == split) & np.isin(unit, units[: (len(units) + 1) // 2])
        return self.select(first), self.select(~first)


_WORD_ARRAYS = tuple(each.name for each in fields(Corpus) if each.name.startswith("word_"))


@dataclass(frozen=True, repr=False)
class TagMoments(MomentsView):
    """Count, mean and centred sum of squares of every neuron for every tag.

    Counts are int64, moments float64. A tag without words has count 0, and its mean and m2 are 0 and mean nothing.
    """

    tags: tuple[str, ...]
    at: At
    count: Int[ndarray, " tag"]
    mean: Float[ndarray, "tag layer neuron"]
    m2: Float[ndarray, "tag layer neuron"]


@dataclass(frozen=True, repr=False)
class TagHistograms(HistogramsView):
    """How often each neuron's value fell between two edges, for every tag.

    Bin b holds edges[b - 1] <= value < edges[b]; the first bin is open below, the last above. Edges ascend and are
    each neuron's own.
    """

    tags: tuple[str, ...]
    at: At
    count: Int[ndarray, " tag"]
    edges: Float[ndarray, "layer neuron edge"]
    bins: Int[ndarray, "tag layer neuron bin"]


@dataclass(frozen=True, repr=False)
class Scored(Shown):
    """What a method that runs the model gives: scores, NaN where undefined, and the words of each tag behind them."""

    scores: Float[ndarray, "tag layer neuron"]
    count: Int[ndarray, " tag"]
    notes: Mapping[str, float | str] = field(default_factory=dict)

    def noting(self, **notes: float | str) -> Scored:
        """The same with further notes: what a method measured of itself, such as its error."""
        return replace(self, notes={**self.notes, **notes})


@dataclass(frozen=True, repr=False)
class Ranking(RankingView):
    """Scores of every neuron for every tag by one method; NaN where undefined.

    `signed` says whether neurons are ordered by the score or by its distance from `neutral`, what a neuron that has
    nothing to do with the tag scores. Ties are broken by layer, then by unit.
    """

    method: str
    at: At
    tags: tuple[str, ...]
    scores: Float[ndarray, "tag layer neuron"]
    count: Int[ndarray, " tag"]
    signed: bool = False
    neutral: float = 0.0
    notes: Mapping[str, float | str] = field(default_factory=dict)

    def merit(self, tag: str) -> Float[ndarray, "layer neuron"]:
        """What the neurons are ordered by for a tag, the largest first: the score, or its distance from `neutral`.

        NaN where undefined. Raises NeuronError where there is no such tag.
        """
        if tag not in self.tags:
            raise NeuronError(f"ranking: no tag {tag!r}; it has {', '.join(self.tags)}")
        scores = self.scores[self.tags.index(tag)]
        return np.asarray(scores if self.signed else np.abs(scores - self.neutral))

    def order(self, tag: str) -> Int[ndarray, " k"]:
        """Neurons with a defined score, best first, as layer * n_neurons + unit.

        Raises:
            NeuronError: where there is no such tag.
        """
        merit = self.merit(tag).ravel()
        return np.argsort(-merit, kind="stable")[: np.count_nonzero(~np.isnan(merit))]

    def first(self, tag: str, k: int) -> Int[ndarray, " k"]:
        """The k best neurons of a tag, as the beginning of `order`, without sorting the others; fewer where undefined.

        Raises:
            NeuronError: where there is no such tag.
        """
        keys = -self.merit(tag).ravel()
        known = np.flatnonzero(~np.isnan(keys))
        if len(known) > k:
            known = known[keys[known] <= np.partition(keys[known], k - 1)[k - 1]]
        return np.asarray(known[np.argsort(keys[known], kind="stable")][:k])

    def top(self, k: int, *, per: Per = "model", fewer: bool = False) -> dict[str, NeuronSet]:
        """The k best neurons of each tag, over the whole model or in each layer.

        Tags for which nothing is defined (no words) are left out. Raises NeuronError where fewer than k are defined,
        unless `fewer` says that those that are will do, or k is more than there are neurons.
        """
        if per not in get_args(Per):
            raise NeuronError(f"top: per={per!r}; expected one of {', '.join(get_args(Per))}")
        if k < 1:
            raise NeuronError(f"top: k={k}; expected at least 1 neuron")
        n_layers, n_units = self.scores.shape[1:]
        size = n_units if per == "layer" else n_layers * n_units
        if k > size:
            where = "a layer" if per == "layer" else "the model"
            raise NeuronError(f"top: k={k}, but {where} has {size} neurons; choose a smaller k")
        found = {}
        for tag in self.tags:
            order = self.order(tag)
            groups = [order] if per == "model" else [order[order // n_units == layer] for layer in range(n_layers)]
            if not len(order):
                continue
            if min(map(len, groups)) < k and not fewer:
                where = f"{tag}: {min(map(len, groups))} neurons have a score" + (
                    " in a layer" if per == "layer" else ""
                )
                raise NeuronError(f"top: k={k}, but for {where}; choose a smaller k")
            found[tag] = NeuronSet.from_flat(np.concatenate([group[:k] for group in groups]), n_units)
        return found

    def to_frame(
        self, k: int | None = None, *, last: int = 0, also: Mapping[str, NeuronSet] | None = None
    ) -> pd.DataFrame:
        """Columns method, at, tag, layer, neuron, score, rank (from 1).

        Args:
            k: keep so many of the best of each tag; all by default.
            last: and so many of the last.
            also: and these neurons of each tag, wherever they stand; those without a score are not there.
        """
        import pandas as pd

        n_units = self.scores.shape[2]
        frames = []
        for number, tag in enumerate(self.tags):
            order = self.order(tag)
            ranks = np.arange(1, len(order) + 1)
            kept = (ranks <= (len(order) if k is None else k)) | (ranks > len(order) - last)
            if also is not None and tag in also:
                kept |= np.isin(order, also[tag].flat(n_units))
            order, ranks = order[kept], ranks[kept]
            frames.append(
                pd.DataFrame(
                    {
                        "method": self.method,
                        "at": self.at,
                        "tag": tag,
                        "layer": order // n_units,
                        "neuron": order % n_units,
                        "score": self.scores[number].ravel()[order],
                        "rank": ranks,
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True, repr=False)
class Activations(ActivationsView):
    """Activations of chosen neurons at the words of a corpus; row i belongs to word `word[i]` of that corpus."""

    neurons: NeuronSet
    at: At
    word: Int[ndarray, " word"]
    values: Float[ndarray, "word neuron"]

    def to_frame(self) -> pd.DataFrame:
        """One row per word (index: its number in the corpus), one column per neuron name."""
        import pandas as pd

        return pd.DataFrame(self.values, index=pd.Index(self.word, name="word"), columns=list(self.neurons.names))
