"""Splits of a treebank: drawn by document or by sentence.

This module knows neither tokenizers nor tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from posneurons.errors import TreebankError
from posneurons.sentences import Treebank

SHARES = (0.5, 0.15, 0.35)
"""Shares of the words that `with_splits` gives to train, dev and test."""


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

    >>> from posneurons.sentences import Sentence, Word
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
