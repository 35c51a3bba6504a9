"""Treebanks: where their files are, which split each file is, and new splits for those that have none.

What is in a file is read by `conll`. This module knows neither tokenizers nor tensors.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from posneurons.conll import read_file, tag_reader
from posneurons.errors import TreebankError
from posneurons.records import UNTAGGED, Sentence, Treebank

SHARES = (0.5, 0.15, 0.35)
"""Shares of the words that `with_splits` gives to train, dev and test."""

_SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
_ORDER = ("train", "dev", "test", "all")


def load_treebank(source: str | PathLike[str] | None = None, *, tag: str = "upos") -> Treebank:
    """Read a treebank in CoNLL-U.

    Args:
        source: None or "demo" for the embedded treebank; a .conllu file; or a folder, of which every .conllu file is
            read. The split is what the file's name says ("en_ewt-ud-train.conllu", "dev.conllu"), else "all".
        tag: "upos", "xpos", or the name of a feature such as "Number". A word without it has the tag "_".

    Multiword tokens give their words spans of their own where the forms, put together, are the surface ("do" + "n't");
    otherwise each has the span of the whole and is marked as shared. Empty nodes are no words. Documents are those of
    `# newdoc`; a sentence outside of any is a document by itself.

    Raises:
        TreebankError: where there is nothing to read, or a file is not what it should be (with file and line).

    >>> load_treebank().splits
    ('train', 'dev', 'test')
    """
    tag_of = tag_reader(tag)
    name, paths = _find(source)
    digest = hashlib.sha256()
    sentences: list[Sentence] = []
    marked = False
    for path in paths:
        before = len(sentences)
        for sentence, in_document in read_file(path, _split_of(path), tag_of, digest.update):
            sentences.append(sentence)
            marked |= in_document
        if len(sentences) == before:
            raise TreebankError(f"{path}: no sentence in this file; expected CoNLL-U, ten columns with tabs between")
    if all(word.tag == UNTAGGED for sentence in sentences for word in sentence.words):
        raise TreebankError(f"{name}: no word has a tag in {tag!r}; expected 'upos', 'xpos' or a feature that it has")
    return Treebank(name, tag, tuple(sentences), digest.hexdigest(), marked)


def with_splits(
    treebank: Treebank,
    *,
    seed: int,
    shares: Sequence[int | float] = SHARES,
    names: Sequence[str] = ("train", "dev", "test"),
) -> Treebank:
    """The same sentences in new splits, drawn by document, or by sentence where there are too few documents.

    The old splits are forgotten; sentences come split by split, else in their order. Documents are taken in an order
    that `seed` decides, and go to one split after the other until each has its share of the words, to within a
    document.

    Args:
        treebank: any treebank.
        seed: of the order.
        shares: of the words, one for each name; they are divided by their sum.
        names: of the splits.

    Raises:
        TreebankError: where there are fewer sentences than splits, or a share is not positive.

    >>> from posneurons.records import Word
    >>> one = Sentence("", "Hi", (Word("Hi", "INTJ", 0, 2),), "", "all")
    >>> bank = Treebank("ten", "upos", (one,) * 10, "", False)
    >>> [len(with_splits(bank, seed=0).split(name)) for name in ("train", "dev", "test")]
    [5, 1, 4]
    """
    if len(shares) != len(names) or min(shares) <= 0:
        raise TreebankError(f"shares={tuple(shares)}: expected {len(names)} positive numbers, for {', '.join(names)}")
    for units in ([s.document for s in treebank], range(len(treebank))):
        number = _draw(list(units), [len(s.words) for s in treebank], seed, shares)
        if len(set(number)) == len(names):
            pairs = sorted(zip(number, range(len(treebank)), strict=True))
            sentences = tuple(replace(treebank.sentences[s], split=names[n]) for n, s in pairs)
            return replace(treebank, sentences=sentences)
    raise TreebankError(
        f"{treebank.name}: {len(treebank)} sentences are too few for {', '.join(names)}; give a larger treebank"
    )


def _draw(units: list[Any], words: list[int], seed: int, shares: Sequence[int | float]) -> list[int]:
    """The split number of every sentence, whole units together."""
    size: dict[Any, int] = dict.fromkeys(units, 0)
    for unit, count in zip(units, words, strict=True):
        size[unit] += count
    order = np.random.default_rng(seed).permutation(len(size))
    sizes = np.array(list(size.values()))[order]
    middle = (np.cumsum(sizes) - sizes / 2) / max(1, sizes.sum())
    split = np.searchsorted(np.cumsum(shares)[:-1] / sum(shares), middle, side="right")
    keys = list(size)
    number = {keys[unit]: int(at) for unit, at in zip(order, split, strict=True)}
    return [number[unit] for unit in units]


def _find(source: str | PathLike[str] | None) -> tuple[str, list[Path]]:
    """The name of a treebank and its files in reading order: train, dev, test, others."""
    if source is None or str(source) == "demo":
        folder = Path(__file__).parent / "demo" / "treebank"
        return "demo", _folder_files(folder, "the embedded treebank is not there; install posneurons again")
    path = Path(source)
    if path.is_dir():
        name = path.name or path.resolve().name
        return name, _folder_files(path, "a folder without .conllu files; expected e.g. train.conllu, dev.conllu")
    if not path.exists():
        raise TreebankError(
            f"{source}: no such treebank; expected 'demo', a .conllu file, or a folder with .conllu files"
        )
    if path.suffix != ".conllu":
        raise TreebankError(f"{source}: expected a file in CoNLL-U, with a name that ends in .conllu")
    return path.stem, [path]


def _folder_files(folder: Path, otherwise: str) -> list[Path]:
    """The .conllu files of a folder, by split and name; `otherwise` says what is wrong where there are none."""
    found = sorted(folder.glob("*.conllu"), key=lambda path: (_ORDER.index(_split_of(path)), path.name))
    if not found:
        raise TreebankError(f"{folder}: {otherwise}")
    return found


def _split_of(path: Path) -> str:
    """The last word of a file's name that says a split, or "all"."""
    known = [_SPLITS[part] for part in re.split(r"[-_.]", path.stem.lower()) if part in _SPLITS]
    return known[-1] if known else "all"
