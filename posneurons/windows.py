"""Rows for the model to read: stretches of a sentence or document that fit into its context.

What fits is one row. What is longer becomes several: each word is counted in one of them, and a row after the first
repeats at least `left` tokens from before its first counted word. Rows end where a sentence ends, else where a word
ends, else where there is no more room. This module knows token numbers only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy import ndarray


@dataclass(frozen=True, slots=True)
class Windows:
    """Rows over tokens that are numbered through: row r is first[r]..last[r] - 1, and counts words from new[r] on."""

    first: Int[ndarray, " row"]
    new: Int[ndarray, " row"]
    last: Int[ndarray, " row"]

    def row_of(self, token: Int[ndarray, " word"]) -> Int[ndarray, " word"]:
        """The row that counts the words which begin at these tokens."""
        return np.searchsorted(self.new, token, side="right") - 1


def windows(
    bounds: Int[ndarray, " passage_and_end"],
    sentence: Int[ndarray, " sentence"],
    low: Int[ndarray, " word"],
    high: Int[ndarray, " word"],
    room: int,
    left: int,
) -> Windows:
    """Rows of at most `room` tokens.

    Args:
        bounds: passage p is tokens bounds[p]..bounds[p + 1] - 1; none is in two rows' counted parts.
        sentence: tokens with which a sentence begins, in order.
        low: first token of each word.
        high: its last token, or one before `low` for a word without tokens.
        room: tokens of a row, without BOS.
        left: tokens before the first counted word of a row that is not the first of its passage; below `room`.

    Returns:
        The rows in order; a passage without tokens has none. A word of up to `room` - `left` tokens is in one row.
    """
    free = _between_words(int(bounds[-1]), low, high)
    lengths = np.diff(bounds)
    ends = np.intersect1d(sentence, free)
    short = np.flatnonzero((lengths > 0) & (lengths <= room))
    rows = [np.stack([bounds[short], bounds[short], bounds[short + 1]])]
    for passage in np.flatnonzero(lengths > room):
        first, last = int(bounds[passage]), int(bounds[passage + 1])
        rows.append(_cut(first, last, ends, free, room, left))
    first, new, last = np.concatenate(rows, axis=1)
    order = np.argsort(new)
    return Windows(first[order], new[order], last[order])


def _between_words(n_tokens: int, low: Int[ndarray, " word"], high: Int[ndarray, " word"]) -> Int[ndarray, " token"]:
    """Tokens that do not continue a word, the end among them."""
    inside = np.zeros(n_tokens + 2, dtype=np.int64)
    wide = high > low
    np.add.at(inside, low[wide] + 1, 1)
    np.add.at(inside, high[wide] + 1, -1)
    return np.flatnonzero(np.cumsum(inside)[:-1] == 0)


def _cut(
    first: int,
    last: int,
    sentence: Int[ndarray, " sentence"],
    free: Int[ndarray, " token"],
    room: int,
    left: int,
) -> Int[ndarray, "3 row"]:
    """first, new and last of the rows of one long passage."""
    rows = []
    begin = new = first
    while True:
        if begin + room < last and not _last(free, new, begin + room):
            begin = max(first, new - left)  # a long word comes, and needs all the room there is
        end = min(last, begin + room)
        if end < last:
            end = _last(sentence, new, end) or _last(free, new, end) or end
        rows.append((begin, new, end))
        if end == last:
            return np.array(rows, dtype=np.int64).T
        new = end
        most = new - left
        begin = max(first, _last(free, most - 1 - (room - left) // 2, most) or most)  # half the rest is for new tokens


def _last(places: Int[ndarray, " place"], above: int, most: int) -> int:
    """The last of the sorted places that is over `above` and at most `most`; 0 where there is none."""
    at = np.searchsorted(places, most, side="right") - 1
    return int(places[at]) if at >= 0 and places[at] > above else 0
