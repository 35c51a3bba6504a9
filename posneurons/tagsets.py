"""What a word's tag is: a column or a feature of its row, several of them, or classes of a user's own.

This module does not know files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from posneurons.errors import TreebankError
from posneurons.sentences import UNTAGGED

_FEATURE = re.compile(r"[A-Z][A-Za-z0-9]*(?:\[[a-z0-9]+\])?")

TagOf = Callable[[Mapping[str, Any]], str]
"""From a row, with its columns under their names in CoNLL-U, to its tag."""


def tag_reader(tag: str) -> TagOf:
    """How to get the tag of a row: a column, a feature, or several of them joined by +.

    A column is "upos", "xpos", "lemma" or "form"; of the last two the tag is in small letters. A feature is "Number" or
    "Tense". Joined, "upos+Number" gives "NOUN+Plur"; a word that lacks a part is untagged.

    Raises:
        TreebankError: for other words.
    """
    parts = [_part_reader(part, tag) for part in tag.split("+")]
    if len(parts) == 1:
        return parts[0]

    def joined(token: Mapping[str, Any]) -> str:
        found = [part(token) for part in parts]
        return UNTAGGED if UNTAGGED in found else "+".join(found)

    return joined


def _part_reader(part: str, tag: str) -> TagOf:
    if part in ("upos", "xpos"):
        return lambda token: str(token[part])
    if part in ("lemma", "form"):
        return lambda token: str(token[part]).casefold()
    if not _FEATURE.fullmatch(part):
        raise TreebankError(
            f"tag={tag!r}: expected 'upos', 'xpos', 'lemma', 'form', the name of a feature such as 'Number', or "
            "several joined by +, as in 'upos+Number'"
        )
    return lambda token: pairs(token["feats"]).get(part) or UNTAGGED


def pairs(column: str) -> dict[str, str]:
    """`Number=Sing|Ref=a=b` to a dict; what follows the first = is the value."""
    return {key: value for key, _, value in (part.partition("=") for part in column.split("|"))}
