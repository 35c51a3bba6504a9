"""What a word's tag is: a column or a feature of its row, several of them, or classes of a user's own.

A tag set is nothing but the names in `Word.tag`; what comes after knows no other. So a coarser set, a contrast of two
values of a feature, and classes given by a list of words are all the same treebank with other names in that place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

from posneurons.errors import TreebankError
from posneurons.sentences import UNTAGGED, Treebank, Word, writable

CONTENT_FUNCTION: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "content": ("ADJ", "ADV", "INTJ", "NOUN", "PROPN", "VERB"),
        "function": ("ADP", "AUX", "CCONJ", "DET", "NUM", "PART", "PRON", "SCONJ"),
    }
)
"""The open and the closed classes of UPOS; PUNCT, SYM and X are neither.

Source: https://universaldependencies.org/u/pos/
"""

_UPOS = {"PUNCT", "SYM", "X", *CONTENT_FUNCTION["content"], *CONTENT_FUNCTION["function"]}

_LISTED = 20
"""Tags that an error lists at most."""

_SHAPE = '{"content": ["NOUN", "VERB"], "function": ["DET", "ADP"]}'

_KEYS: Mapping[str, Callable[[Word], str]] = MappingProxyType(
    {"tag": lambda word: word.tag, "form": lambda word: word.form.casefold()}
)
"""What of a word is looked up among the members of the classes."""

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


def retag(
    treebank: Treebank, classes: Mapping[str, Collection[str]], *, by: str = "tag", rest: str | None = None
) -> Treebank:
    """The same sentences with classes of your own for tags.

    Args:
        treebank: any treebank; classes of lemmas or of two columns are classes of the tags that `load_treebank` gives
            with tag="lemma" (in small letters) or tag="upos+Number".
        classes: the members of each class: tags, or words.
        by: "tag", or "form" for words as they are written, upper and lower case alike.
        rest: the class of every word that is in none, also of one that had no tag; None leaves such words untagged, so
            that the alignment leaves them out and counts them.

    Returns:
        A treebank whose `tagset` names the classes ("upos: content, function"). Its `sha256` is that of the source and
        of the classes.

    Raises:
        TreebankError: where a member stands in two classes, a class has no member or no word of this treebank, or a
            tag that is none of UPOS is no tag of this treebank (a typing error). Words need not be in it.

    >>> from posneurons.sentences import Sentence
    >>> words = Word("Go", "VERB", 0, 2), Word("on", "ADV", 3, 5), Word("!", "PUNCT", 5, 6)
    >>> bank = Treebank("one", "upos", (Sentence("1", "Go on!", words, "1", "train"),), "", False)
    >>> found = retag(bank, {"content": ["VERB", "ADV"]}, rest="other")
    >>> found.tagset, found.tag_counts()
    ('upos: content, other', Counter({'content': 2, 'other': 1}))
    """
    class_of = _class_of(classes, by, rest)
    key = _KEYS[by]
    _check_found(treebank, class_of, by)
    otherwise = UNTAGGED if rest is None else rest
    sentences = tuple(
        replace(s, words=tuple(replace(word, tag=class_of.get(key(word), otherwise)) for word in s.words))
        for s in treebank
    )
    names = dict.fromkeys((*classes, *(() if rest is None else (rest,))))
    source = treebank.tagset if by == "tag" else by
    said = json.dumps([treebank.sha256, by, rest, {name: sorted(classes[name]) for name in sorted(classes)}])
    digest = hashlib.sha256(said.encode()).hexdigest()
    return replace(treebank, tagset=f"{source}: {', '.join(names)}", sentences=sentences, sha256=digest)


def read_classes(path: str | PathLike[str]) -> dict[str, Any]:
    """The arguments of `retag`, from a JSON file.

    The file is `{"content": ["NOUN", "VERB"], "function": ["DET"]}`, or with the other arguments beside the classes:
    `{"by": "form", "rest": "other", "classes": {"negation": ["not", "n't", "never"]}}`.

    Returns:
        `classes`, `by` and `rest`: `retag(treebank, **read_classes(path))`.

    Raises:
        TreebankError: where the file is missing, is no JSON or holds something else; with the file.
    """
    try:
        return _arguments(json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_without_doubles))
    except OSError as error:
        raise TreebankError(f"{path}: the classes cannot be read: {error.strerror}; check the path") from None
    except (ValueError, RecursionError) as error:  # no JSON, not UTF-8, thousands of digits or of brackets
        raise TreebankError(f"{path}: no JSON ({error}); expected {_SHAPE}") from None
    except TreebankError as error:
        raise TreebankError(f"{path}: {error}") from None


def _arguments(content: Any) -> dict[str, Any]:
    """What a file of classes says, checked, with what it leaves to the defaults of `retag`."""
    named = isinstance(content, dict) and isinstance(content.get("classes"), dict)
    found = {"by": "tag", "rest": None, **(content if named else {"classes": content})}
    if unknown := sorted(set(found) - {"by", "rest", "classes"}):
        raise TreebankError(f"{unknown[0]!r:.40} beside the classes; expected 'by' and 'rest' at most")
    _class_of(found["classes"], found["by"], found["rest"])
    return found


def _without_doubles(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises TreebankError where a name stands in it twice, of which json would keep the last."""
    twice = [name for name, count in Counter(name for name, _ in items).items() if count > 1]
    if twice:
        raise TreebankError(f"{twice[0]!r:.40} stands there more than once; put all of a class into one list")
    return dict(items)


def _class_of(classes: Any, by: Any, rest: Any) -> dict[str, str]:
    """From member to class. Raises TreebankError where that is not clear, whatever the arguments are."""
    if by not in (*_KEYS,):
        raise TreebankError(f"by={by!r:.40}: expected 'tag' or 'form'")
    if not isinstance(classes, Mapping) or not classes:
        raise TreebankError(f"no classes, but {classes!r:.40}; expected {_SHAPE}")
    for name in [*classes, *([] if rest is None else [rest])]:
        if not isinstance(name, str) or not name.strip() or name == UNTAGGED or not writable(name):
            raise TreebankError(f"a class named {name!r:.40}; expected a name ({UNTAGGED} is for words without a tag)")
    found: dict[str, str] = {}
    for name, member in _members(classes, "tags" if by == "tag" else "words"):
        key = member if by == "tag" else member.casefold()
        if found.setdefault(key, name) != name:
            two = f"{found[key]!r:.40} and {name!r:.40}"
            raise TreebankError(f"{member!r:.40} stands in two classes, {two}; expected one")
    return found


def _members(classes: Mapping[str, Any], what: str) -> Iterator[tuple[str, str]]:
    """Classes and members. Raises TreebankError where these are not lists of strings."""
    for name, members in classes.items():
        if isinstance(members, str | Mapping) or not isinstance(members, Collection):
            raise TreebankError(f"class {name!r:.40}: found {members!r:.40}; expected a list of {what}")
        if not len(members):
            raise TreebankError(f"class {name!r:.40} is empty; expected at least one of the {what}")
        for member in members:
            if not isinstance(member, str) or not member.strip():
                raise TreebankError(f"class {name!r:.40}: found {member!r:.40} in it; expected {what}")
            yield name, member


def _check_found(treebank: Treebank, class_of: Mapping[str, str], by: str) -> None:
    """Raises TreebankError where a tag or a whole class is not in the treebank."""
    key = _KEYS[by]
    there = Counter(key(word) for sentence in treebank for word in sentence.words)
    for member, name in class_of.items():
        if by == "tag" and member not in there and member not in _UPOS:
            where = f"{treebank.name}: no word has the tag {member!r:.40} of class {name!r:.40}"
            raise TreebankError(f"{where}; {_near(member, there)}")
    found = {class_of[member] for member in class_of if member in there}
    for name in dict.fromkeys(class_of.values()):
        if name not in found:
            members = ", ".join([member for member in class_of if class_of[member] == name][:_LISTED])
            where = f"{treebank.name}: no word is in class {name!r:.40}, by {by} ({members:.400})"
            raise TreebankError(f"{where}; {_listed(there)}")


def _near(tag: str, there: Counter[str]) -> str:
    """The tags that may be meant, or those there are."""
    folded = {each.casefold(): each for each in there}
    near = get_close_matches(tag.casefold(), folded, n=3)
    return f"did you mean {' or '.join(folded[each] for each in near)}?" if near else _listed(there)


def _listed(there: Counter[str]) -> str:
    """What there is, the most frequent first."""
    names = [name for name, _ in there.most_common(_LISTED)]
    return f"there are {', '.join(names)}{', ...' if len(there) > _LISTED else ''}"
