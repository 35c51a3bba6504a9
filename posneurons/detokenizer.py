"""English text from words that were taken apart the way of the Penn Treebank, and where each word stands in it.

A word stands one space after the word before, unless one of a few rules on the two says that they touch: marks that
close (`,` `.` `)` `%`) touch what is before them, marks that open (`(` `$` before a number) what is after, parts of a
contraction (`do` + `n't`, `gon` + `na`) each other. Straight quotes open and close in turn. The rules see words and not
their tags, and only the gaps are decided: the words themselves are written as they are.

What it does not know: spaces that a writer chose to put or to leave out ("well - known", "and/ or"), and which of two
single quotes in a sentence is an apostrophe.
Source: https://www.cis.upenn.edu/~treebank/tokenization.html (how the words were taken apart).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

APART, BESIDE, WITHIN = range(3)
"""What is between two words: a space; nothing; nothing, and they are parts of one contraction ("do" + "n't")."""

_CLOSING = re.compile(r"[.,:;?!%…]+|''|[)\]}”’]|-R[RCS]B-")
_OPENING = re.compile(r"``|[(\[{“]|-L[RCS]B-")
_CURRENCY = re.compile(r"[A-Z]*[$£€¥#]")
_NUMBER = re.compile(r"\.?[0-9]")
_PART = re.compile(r"['’](?:s|m|d|ll|re|ve)|n['’]?t", re.IGNORECASE)
_BETWEEN = frozenset("-/–")
_QUOTES = {'"': '"', "'": "'", "’": "'", "‘": "'", "`": "'"}
"""Which quotes belong together, of those that do not always say by themselves what they do."""

_STANDS, _OPENS, _CLOSES, _OWNS = range(4)
"""What a word does to its neighbours."""

_SECONDS = {
    "not": "can",
    "na": "gon wan",
    "ta": "got",
    "me": "gim lem",
    "ye": "d'",
    "'n": "more",
    "is": "'t",
    "was": "'t",
}
"""Second parts that are words of their own, and the first parts before which they are not."""


def detokenize(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    r"""The text that English words make, and the characters (half-open) of each.

    Between two words there is one space or nothing; every word is written as it is, whatever it is.

    Args:
        words: of one sentence, in Penn's way: "do", "n't", ",". Quotes may be straight, curved or Penn's own.

    >>> detokenize(["He", "said", ",", '"', "Do", "n't", "!", '"'])
    ('He said, "Don\'t!"', [(0, 2), (3, 7), (7, 8), (9, 10), (10, 12), (12, 15), (15, 16), (16, 17)])
    """
    return joined(words, gaps(words))


def joined(words: Sequence[str], between: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """Words written with these gaps (one fewer than words), and the characters of each."""
    pieces, spans, at = [], [], 0
    for word, gap in zip(words, [BESIDE, *between][: len(words)], strict=True):
        if gap == APART:
            pieces.append(" ")
            at += 1
        pieces.append(word)
        spans.append((at, at + len(word)))
        at += len(word)
    return "".join(pieces), spans


def gaps(words: Sequence[str], *, possessive: bool = True) -> list[int]:
    """What is between each word and the next: APART, BESIDE or WITHIN.

    Args:
        words: of one sentence, in Penn's way.
        possessive: whether a ' by itself after an s is that of "the boys' toys" and not a quote.

    >>> gaps(["Do", "n't", "go", "."])
    [2, 0, 1]
    """
    roles = _roles(words, possessive)
    found = [_gap(*pair) for pair in pairwise(zip(words, roles, strict=True))]
    if found and words[0] == "-":
        found[0] = APART
    if found and words[-1] == "-":
        found[-1] = APART
    return found


def _gap(left: tuple[str, int], right: tuple[str, int]) -> int:
    """What is between two words, given the role of each."""
    before, word = left[0], right[0]
    if right[1] == _OWNS or _PART.fullmatch(word) or before.lower() in _SECONDS.get(word.lower(), "").split():
        return WITHIN
    if left[1] == _OPENS or right[1] == _CLOSES or before in _BETWEEN or word in _BETWEEN:
        return BESIDE
    return BESIDE if _CURRENCY.fullmatch(before) and _NUMBER.match(word) else APART


def _roles(words: Sequence[str], possessive: bool) -> list[int]:
    """What each word does to its neighbours."""
    roles: list[int] = []
    opened: set[str] = set()
    for number, word in enumerate(words):
        if quote := _QUOTES.get(word):
            role = _role_of_quote(words, number, quote in opened, possessive)
            (opened.add if role == _OPENS else opened.discard)(quote)
        else:
            role = _CLOSES if _CLOSING.fullmatch(word) else _OPENS if _OPENING.fullmatch(word) else _STANDS
        roles.append(role)
    return roles


def _role_of_quote(words: Sequence[str], number: int, is_open: bool, possessive: bool) -> int:
    """What one of the quotes does: closes what is open, belongs to an owner, closes what ends here, or opens."""
    word = words[number]
    if word in ("`", "‘"):
        return _OPENS
    if is_open:
        return _CLOSES
    if possessive and word != '"' and number > 0 and words[number - 1].endswith(("s", "S")):
        return _OWNS
    ends = number > 0 and (number == len(words) - 1 or _CLOSING.fullmatch(words[number + 1]) is not None)
    return _CLOSES if ends or word == "’" else _OPENS
