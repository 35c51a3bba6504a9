"""Splits: of a treebank by document or by sentence, in shares or in folds; of aligned words by word type.

What is found on one split and checked on another must not have been seen before, and how much that asks for differs:
no sentence in two splits, no document, or no word form. Identical sentences in different documents can stand in
different splits; only a split by word type sees to that. This module knows neither tokenizers nor tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy import ndarray

from posneurons.errors import TreebankError
from posneurons.records import Corpus
from posneurons.sentences import Treebank
from posneurons.tagsets import CONTENT_FUNCTION

By = Literal["auto", "document", "sentence"]
"""What stays together: documents, sentences, or documents where there are enough of them."""

NAMES = ("train", "dev", "test")
"""Names of the splits that `with_splits` makes."""

SHARES = (0.5, 0.15, 0.35)
"""Shares of the words that `with_splits` gives to train, dev and test."""

TYPE_SHARES: Mapping[str, int | float] = MappingProxyType(dict(zip(NAMES, SHARES, strict=True)))
"""Weights with which `by_type` draws the split of a word type."""

OPEN_CLASSES = CONTENT_FUNCTION["content"]
"""The open classes of UPOS."""


def with_splits(
    treebank: Treebank,
    *,
    seed: int,
    shares: Sequence[int | float] = SHARES,
    names: Sequence[str] = NAMES,
    by: By = "auto",
) -> Treebank:
    """The same sentences in new splits, drawn by document or by sentence.

    The old splits are forgotten; sentences come split by split, else in their order. Documents are taken in an order
    that `seed` decides, and each goes to the split that is furthest from its share of the words, so that shares are
    met to within about a document.

    Args:
        treebank: any treebank.
        seed: of the order.
        shares: of the words, one for each name; they are divided by their sum.
        names: of the splits.
        by: "document" keeps documents whole, "sentence" does not; "auto" does where there are as many documents as
            splits. A sentence outside of any marked document is a document by itself.

    Raises:
        TreebankError: where there are fewer documents or sentences than splits, or a share is not positive.

    >>> from posneurons.sentences import Sentence, Word
    >>> one = Sentence("", "Hi", (Word("Hi", "INTJ", 0, 2),), "", "all")
    >>> bank = Treebank("ten", "upos", (one,) * 10, "", False)
    >>> [len(with_splits(bank, seed=0).split(name)) for name in ("train", "dev", "test")]
    [5, 2, 3]
    """
    if len(shares) != len(names) or min(shares) <= 0:
        raise TreebankError(f"shares={tuple(shares)}: expected {len(names)} positive numbers, for {', '.join(names)}")
    return _renamed(treebank, _parts(treebank, seed, shares, by, ", ".join(names)), names)


def fold(treebank: Treebank, number: int, k: int, *, seed: int, by: By = "auto", dev: bool = False) -> Treebank:
    """One of k folds: a k-th of the words is "test" and the rest is "train".

    Args:
        treebank: any treebank; its splits are forgotten.
        number: which fold, from 0 to k - 1.
        k: how many there are.
        seed: of the draw; folds of one seed belong together.
        by: what stays together, as in `with_splits`.
        dev: whether the test part of the next fold (of the first, for the last) is "dev" and not in "train".

    Raises:
        TreebankError: where there are fewer documents or sentences than folds, too few folds, or no such fold.
    """
    least = 3 if dev else 2
    if k < least:
        raise TreebankError(f"k={k}: expected at least {least} folds{', one of them for dev' if dev else ''}")
    if not 0 <= number < k:
        raise TreebankError(f"fold {number}: no such fold; expected 0 to {k - 1}, as k={k}")
    part = _parts(treebank, seed, (1,) * k, by, f"{k} folds")
    held = {number: 2, (number + 1) % k: 1} if dev else {number: 2}
    return _renamed(treebank, [held.get(each, 0) for each in part], NAMES)


def folds(treebank: Treebank, k: int, *, seed: int, by: By = "auto", dev: bool = False) -> tuple[Treebank, ...]:
    """All k folds (see `fold`): every sentence is in "test" exactly once.

    >>> from posneurons.sentences import Sentence, Word
    >>> words = (Word("Hi", "INTJ", 0, 2),)
    >>> bank = Treebank("six", "upos", tuple(Sentence(str(n), "Hi", words, str(n), "all") for n in range(6)), "", True)
    >>> [[sentence.id for sentence in each.split("test")] for each in folds(bank, 3, seed=0)]
    [['3', '4'], ['0', '2'], ['1', '5']]
    """
    return tuple(fold(treebank, number, k, seed=seed, by=by, dev=dev) for number in range(max(1, k)))


def by_type(
    corpus: Corpus,
    *,
    seed: int,
    shares: Mapping[str, int | float] = TYPE_SHARES,
    tags: Sequence[str] | None = OPEN_CLASSES,
) -> Corpus:
    """The same rows in the same splits, with words of which no form stands in two splits.

    Every word type (a form, whatever its case) belongs to one split, drawn among those in which it stands with the
    weights of `shares`: a type that stands in one split only stays there, so that few words are lost, and of the others
    the draw does not know how frequent they are, what tag they have or what is computed of them. A split's words of a
    type that belongs to another are left out, as words to count; the model still reads them as context. They are in
    `dropped` as "type of another split", and words of other tags as "closed class".

    Frequent types lose more than rare ones, most of all in a small split: the words that are left are rarer than before
    and can differ in that between splits (`covariates` says how much).

    Args:
        corpus: aligned words in at least two splits.
        seed: of the draw.
        shares: the weight of each split by its name.
        tags: the open classes of the corpus's tag set: the words to keep; None is all tags.

    Raises:
        TreebankError: where there is one split only, a split without a weight or one that is left without words, or no
            word with such a tag.
    """
    names = corpus.split_names
    _check_types(corpus, shares, tags)
    wanted = corpus.tags if tags is None else tags
    split = corpus.row_split[corpus.word_row]
    mine = np.isin(np.array(corpus.tags)[corpus.word_tag], wanted)
    forms = [form.casefold() for form in corpus.word_form]
    place = {form: n for n, form in enumerate(sorted(set(forms)))}
    number = np.array([place[form] for form in forms], dtype=np.int64)
    keep = mine & (_homes(number, split, mine, [shares[name] for name in names], seed)[number] == split)
    words = np.bincount(split[keep], minlength=len(names))
    if not words.all():
        empty = names[int(words.argmin())]
        raise TreebankError(f"{corpus.name}: no word type is left for the split {empty!r}; give more text or shares")
    return corpus.keep_words(keep, np.where(mine, "type of another split", "closed class"))


def _check_types(corpus: Corpus, shares: Mapping[str, int | float], tags: Sequence[str] | None) -> None:
    names = corpus.split_names
    if len(names) < 2:
        raise TreebankError(
            f"{corpus.name}: found the split {', '.join(names)} only; expected at least two: see with_splits"
        )
    if any(not shares.get(name, 0) > 0 for name in names):
        said = ", ".join(f"{name} {share}" for name, share in shares.items())
        raise TreebankError(
            f"{corpus.name}: the splits {', '.join(names)}, and shares of word types for {said}; expected a positive "
            "one for each: name its files train, dev and test, or take others out"
        )
    unknown = [tag for tag in tags or () if tag not in (*corpus.tags, *OPEN_CLASSES)]
    if tags is not None and (unknown or not set(tags) & set(corpus.tags)):
        raise TreebankError(
            f"{corpus.name}: no tag {', '.join(unknown or tags)}; expected tags of open classes, of "
            f"{', '.join(corpus.tags)}, or tags=None for all"
        )


def _homes(number: ndarray, split: ndarray, mine: ndarray, shares: Sequence[int | float], seed: int) -> ndarray:
    """The split of every word type, drawn among those in which a word that is `mine` has that type's number."""
    weights = np.zeros((number.max(initial=-1) + 1, len(shares)))
    weights[number[mine], split[mine]] = np.array(shares)[split[mine]]
    upto = weights.cumsum(1)
    drawn = np.random.default_rng(seed).random(len(upto)) * upto[:, -1]
    return np.asarray((drawn[:, None] < upto).argmax(1))


def _renamed(treebank: Treebank, part: Sequence[int], names: Sequence[str]) -> Treebank:
    """The sentences with the splits `names[part]`, split by split and else in their order."""
    order = sorted(range(len(treebank)), key=part.__getitem__)
    return replace(treebank, sentences=tuple(replace(treebank.sentences[s], split=names[part[s]]) for s in order))


def _parts(treebank: Treebank, seed: int, shares: Sequence[int | float], by: By, what: str) -> list[int]:
    """The part of every sentence, none of them empty; `what` names the parts."""
    if by not in get_args(By):
        raise TreebankError(f"by={by!r}: expected one of {', '.join(get_args(By))}")
    words = [len(sentence.words) for sentence in treebank]
    documents: list[Any] = [sentence.document for sentence in treebank]
    enough = len(set(documents)) >= len(shares)
    if by == "document" and not enough:
        raise TreebankError(
            f"{treebank.name}: {len(set(documents))} documents are too few for {what}; give a larger treebank, or "
            "by='sentence'"
        )
    if len(treebank) < len(shares):
        raise TreebankError(
            f"{treebank.name}: {len(treebank)} sentences are too few for {what}; give a larger treebank"
        )
    whole = by == "document" or (by == "auto" and enough)
    return _draw(documents if whole else list(range(len(words))), words, seed, shares)


def _draw(units: list[Any], words: list[int], seed: int, shares: Sequence[int | float]) -> list[int]:
    """The part of every sentence, whole units together: one after the other to where words are furthest from the share.

    No part is empty where there are as many units as parts.
    """
    size: dict[Any, int] = dict.fromkeys(units, 0)
    for unit, count in zip(units, words, strict=True):
        size[unit] += max(1, count)
    keys = list(size)
    filled, number = [0.0] * len(shares), {}
    for place in np.random.default_rng(seed).permutation(len(keys)).tolist():
        part = filled.index(min(filled))
        number[keys[place]] = part
        filled[part] += size[keys[place]] / shares[part]
    return [number[unit] for unit in units]
