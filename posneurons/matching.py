"""A sample of words in which tags differ in nothing but the tag, as far as some covariates say.

Coarsened exact matching: the words are put into cells by their covariates, and in each cell every tag keeps as many
words as the tag that has the fewest there. So the sample has as many words of each tag, and the same number of each tag
in every cell. Inside a cell tags can still differ; more bins make cells smaller and the sample as well.

Source: Iacus, King and Porro 2012, doi.org/10.1093/pan/mpr013.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from posneurons.covariates import covariate_values
from posneurons.errors import PosNeuronsError
from posneurons.records import Corpus
from posneurons.words import At


def matched_sample(
    corpus: Corpus,
    tags: Sequence[str] | None = None,
    *,
    on: Sequence[str] = ("frequency",),
    per_tag: int | None = None,
    bins: int = 10,
    at: At = "predict",
    seed: int = 0,
) -> Corpus:
    """Equally many words of each tag, with the same histogram of every covariate, in each split by itself.

    The rows stay whole, so that the model reads the same text; all other words (those of other tags, those that cannot
    be read at `at`, those without a match) are counted in `dropped` as "not in the matched sample". How far the tags
    are alike, `word_covariates(sample).groupby("tag").mean(numeric_only=True)` says.

    Args:
        corpus: aligned words.
        tags: those to match; None is every tag of which the corpus has a word to read. Few tags leave more words.
        on: covariates to match by, of frequency, length, tokens and position; () only makes numbers equal.
        per_tag: how many words a tag keeps at most in each split; None is all that match.
        bins: of each covariate, with about as many words of all `tags` in each; equal values are in the same bin.
        at: where words are read.
        seed: of the draw among the words of a cell.

    Raises:
        PosNeuronsError: where fewer than two tags are given, a tag has no word, a split has no cell with words of every
            tag, or a number or a covariate makes no sense.
    """
    on, tags = (on,) if isinstance(on, str) else on, (tags,) if isinstance(tags, str) else tags
    if seed < 0:
        raise PosNeuronsError(f"matched_sample: seed={seed}; expected at least 0")
    if bins < 1 or (per_tag is not None and per_tag < 1):
        raise PosNeuronsError(f"matched_sample: bins={bins}, per_tag={per_tag}; expected numbers of at least 1")
    readable = corpus.readable(at)
    number = _numbers(corpus, np.unique(corpus.word_tag[readable]), tags, at)
    words = readable[number[corpus.word_tag[readable]] >= 0]
    tag, cell = number[corpus.word_tag[words]], cells(covariate_values(corpus, on, at)[words], bins)
    split = corpus.row_split[corpus.word_row[words]]
    rng, keep = np.random.default_rng(seed), np.zeros(len(corpus), dtype=bool)
    for each in np.unique(split):
        here = np.flatnonzero(split == each)
        table = np.zeros((tag.max() + 1, cell.max() + 1), dtype=np.int64)
        np.add.at(table, (tag[here], cell[here]), 1)
        if not table.min(0).any():
            names = [corpus.tags[place] for place in np.flatnonzero(number >= 0)]
            where = f"in the split {corpus.split_names[each]!r} of {corpus.name}"
            raise PosNeuronsError(f"matched_sample: {_unmatched(names, table, on)} {where}; {_advice(names, table)}")
        keep[words[here[_draw(tag[here], cell[here], table.min(0), per_tag, rng)]]] = True
    return corpus.keep_words(keep, "not in the matched sample")


def _numbers(
    corpus: Corpus, present: Int[ndarray, " present"], tags: Sequence[str] | None, at: At
) -> Int[ndarray, " tag"]:
    """For each tag of the corpus its number among those to match, or -1; `present` are those with a word to read."""
    with_words = [corpus.tags[place] for place in present]
    chosen = with_words if tags is None else list(dict.fromkeys(tags))
    for tag in chosen:
        if tag not in with_words:
            raise PosNeuronsError(
                f"matched_sample: {corpus.name} has no word of {tag!r} to read at {at!r}; expected tags of "
                f"{', '.join(with_words)}"
            )
    if len(chosen) < 2:
        raise PosNeuronsError(f"matched_sample: tags={tuple(chosen)}; expected at least two tags")
    wanted = np.isin(np.array(corpus.tags), chosen)
    return np.where(wanted, np.cumsum(wanted) - 1, -1)


def cells(values: Float[ndarray, "word covariate"], bins: int) -> Int[ndarray, " word"]:
    """The cell of each word: which bin of each covariate it is in, bins being cut at quantiles of all the words.

    >>> cells(np.array([[1.0], [1.0], [1.0], [5.0], [9.0], [9.0]]), 3).tolist()
    [0, 0, 0, 1, 2, 2]
    """
    cell = np.zeros(len(values), dtype=np.int64)
    for column in values.T:
        edges = np.quantile(column, np.arange(1, bins) / bins, method="inverted_cdf")
        place = cell * bins + np.searchsorted(edges, column)
        cell = np.unique(place, return_inverse=True)[1].astype(np.int64)
    return cell


def _draw(
    tag: Int[ndarray, " word"],
    cell: Int[ndarray, " word"],
    room: Int[ndarray, " cell"],
    per_tag: int | None,
    rng: np.random.Generator,
) -> Bool[ndarray, " word"]:
    """Which words are kept: of each tag as many in a cell as there is room, of at most `per_tag` places in all."""
    if per_tag is not None and per_tag < room.sum():
        room = rng.multivariate_hypergeometric(room, per_tag)
    group = tag * len(room) + cell
    order = np.lexsort((rng.random(len(group)), group))
    rank = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    keep = np.zeros(len(group), dtype=bool)
    keep[order] = rank < room[cell[order]]
    return keep


def _unmatched(names: Sequence[str], table: Int[ndarray, "tag cell"], on: Sequence[str]) -> str:
    """What is wrong where no cell has words of all tags: a tag without words, two that share no cell, or all."""
    if not table.any(1).all():
        return f"no word of {names[int(table.any(1).argmin())]}"
    apart = [
        f"{names[a]} and {names[b]}" for a, b in combinations(range(len(names)), 2) if not table[[a, b]].min(0).any()
    ]
    which = apart[0] if apart else f"all {len(names)} tags"
    return f"no words of {which} are alike in {', '.join(on)}"


def _advice(names: Sequence[str], table: Int[ndarray, "tag cell"]) -> str:
    """The tag to leave out so that most words match, if one is enough."""
    left = [int(np.delete(table, number, 0).min(0).sum()) if len(names) > 2 else 0 for number in range(len(names))]
    best = int(np.argmax(left))
    fewer = f"leave out {names[best]} ({left[best]} of each other tag match)" if left[best] else "give other tags"
    return f"{fewer}, or give fewer bins"
