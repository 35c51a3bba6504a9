"""Words that share a token, as one unit.

A treebank says "do" and "n't", Llama 3 reads "don" and "'t": neither word has tokens of its own, but "don't" has. A run
of words in which each shares a token (or a surface) with the next can be taken for one unit. It has their tag if they
have one, else their tags joined in order ("AUX+PART"), and the text from the first to the last for its form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from posneurons.sentences import UNTAGGED, Word
from posneurons.words import Units


def runs(
    low: Int[ndarray, " word"], high: Int[ndarray, " word"], sentence: Int[ndarray, " word"]
) -> Iterator[tuple[int, int]]:
    """Half-open ranges of two words or more in which each shares a token with the next, within a sentence.

    >>> low, high, sentence = np.array([0, 1, 2, 3]), np.array([0, 2, 2, 3]), np.array([0, 0, 0, 0])
    >>> list(runs(low, high, sentence))
    [(1, 3)]
    """
    some = low <= high
    joined = (low[1:] <= high[:-1]) & some[1:] & some[:-1] & (sentence[1:] == sentence[:-1])
    edge = np.flatnonzero(np.diff(np.concatenate([[False], joined, [False]]).astype(np.int8)))
    for first, last in edge.reshape(-1, 2).tolist():
        yield first, last + 1


def unit(words: Sequence[Word], text: str, units: Units) -> Word | None:
    """The unit of some neighbouring words of a sentence with this text, or None where they stay apart.

    By "contraction" words of one tag are joined, and words of several tags if all or none have a letter or a digit,
    so that punctuation is no part of a word. By "token" all are. None are joined where one has no tag.

    >>> unit([Word("do", "AUX", 0, 2), Word("n't", "PART", 2, 5)], "don't go", "contraction")
    Word(form="don't", tag='AUX+PART', start=0, end=5, shared=False)
    >>> unit([Word("(", "PUNCT", 0, 1), Word("the", "DET", 1, 4)], "(the", "contraction") is None
    True
    """
    tags = list(dict.fromkeys(word.tag for word in words))
    if UNTAGGED in tags:
        return None
    lettered = {any(map(str.isalnum, word.form)) for word in words}
    if units == "contraction" and len(tags) > 1 and len(lettered) > 1:
        return None
    start, end = words[0].start, max(word.end for word in words)
    return Word(text[start:end], "+".join(tags), start, end)
