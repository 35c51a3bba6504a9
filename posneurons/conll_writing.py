r"""Tagged sentences to one CoNLL-U file, which `conll` reads back as they were.

`# text` says what lies between the words of a sentence, and MISC of each token says it again for readers that do not
look there: nothing for a space, SpaceAfter=No for nothing, SpacesAfter=\n and the like for other white space. What
stands after a sentence is in MISC of its last token; a blank line between two sentences is `# newpar` as well. A text
with line breaks cannot stand in a comment, so it is left to MISC alone.

What is not written: splits, which a file has by its name; and `document` of sentences in no marked document, which they
get from the file they are read from.
Source: https://universaldependencies.org/format.html; https://ufal.mff.cuni.cz/udpipe/1/users-manual (SpacesAfter).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TextIO

from posneurons.conll import PARAGRAPH
from posneurons.errors import RunError, TreebankError
from posneurons.files import write_whole
from posneurons.sentences import UNTAGGED, Sentence, Treebank
from posneurons.tagsets import tag_reader

Columns = Mapping[str, str]
"""Columns of a word by name: lemma, upos, xpos, feats; those that are not there are empty (_)."""

_OWN = ("lemma", "upos", "xpos")
_ESCAPES = {" ": r"\s", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
_UNWRITABLE = re.compile(r"[\t\n\r\0]")


def write_conllu(treebank: Treebank, path: str | PathLike[str], *, comments: Mapping[str, str] | None = None) -> None:
    """Write a treebank to a file, whole or not at all.

    The tag goes where its name says: "upos", "xpos" and "lemma" into their columns, "Number" into FEATS as Number=Plur,
    "upos+Number" into both; "form" is in the file anyway. Tags of any other set stand in UPOS.

    Args:
        treebank: sentences of one split; write each split to a file of its own.
        path: the file; a name with "train", "dev" or "test" in it says the split.
        comments: what stands above the first sentence, as `# key = value`.

    Raises:
        TreebankError: where there is no sentence, more than one split, a word or a tag that no CoNLL-U file can hold,
            or where the file cannot be written.
    """
    if len(treebank.splits) > 1:
        raise TreebankError(
            f"{treebank.name}: {len(treebank.splits)} splits ({', '.join(treebank.splits)}) and one file; expected one "
            f"split: write each to its own, beginning with treebank.split({treebank.splits[0]!r})"
        )
    tagged = ((each, [tag_columns(treebank.tagset, word.tag) for word in each.words]) for each in treebank)
    write_sentences(tagged, path, documents=treebank.marked_documents, comments=comments)


def write_sentences(
    tagged: Iterable[tuple[Sentence, Sequence[Columns]]],
    path: str | PathLike[str],
    *,
    documents: bool,
    comments: Mapping[str, str] | None = None,
) -> None:
    """Write sentences with the columns of their words as they come, so that memory holds one; see `write_conllu`.

    Args:
        tagged: sentences, each with one entry per word.
        path: the file.
        documents: whether to mark documents.
        comments: what stands above the first sentence.
    """
    target = Path(path)

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            _write(tagged, file, target, documents, comments or {})

    try:
        write_whole(target, write)
    except RunError as error:
        raise TreebankError(str(error)) from None


def tag_columns(tagset: str, tag: str) -> dict[str, str]:
    """The columns that a tag of a tag set is read from.

    >>> tag_columns("upos+Number", "NOUN+Plur")
    {'upos': 'NOUN', 'feats': 'Number=Plur'}
    >>> tag_columns("upos: content, function", "content")
    {'upos': 'content'}

    Raises:
        TreebankError: where a tag has other parts than its tag set, or is "".
    """
    names = tagset.split("+")
    if tag == UNTAGGED:
        return {}
    if not all(map(_is_column, names)):
        return {"upos": tag}
    values = tag.split("+") if len(names) > 1 else [tag]
    if len(values) != len(names) or not all(values):
        raise TreebankError(
            f"tag {tag!r} of {tagset!r}: {len(values)} parts; expected {len(names)}, none of them empty"
        )
    found = dict(zip(names, values, strict=True))
    features = sorted((name for name in names if name not in (*_OWN, "form")), key=str.casefold)
    feats = {"feats": "|".join(f"{name}={found[name]}" for name in features)} if features else {}
    return {name: found[name] for name in _OWN if name in found} | feats


def _is_column(name: str) -> bool:
    try:
        tag_reader(name)
    except TreebankError:
        return False
    return True


def _write(
    tagged: Iterable[tuple[Sentence, Sequence[Columns]]],
    file: TextIO,
    path: Path,
    documents: bool,
    comments: Mapping[str, str],
) -> None:
    before: Sentence | None = None
    opening = [f"# {key} = {' '.join(value.split())}" for key, value in comments.items()]
    for sentence, columns in tagged:
        if documents and (before is None or before.document != sentence.document):
            opening.append(f"# newdoc id = {_checked(sentence.document, sentence)}")
        if before is not None and before.after == PARAGRAPH:
            opening.append("# newpar")
        file.write("\n".join([*opening, *_block(sentence, columns)]) + "\n\n")
        before, opening = sentence, []
    if before is None:
        raise TreebankError(f"{path}: no sentence to write; expected at least one")


def _block(sentence: Sentence, columns: Sequence[Columns]) -> Iterator[str]:
    """The lines of a sentence."""
    if sentence.id:
        yield f"# sent_id = {_checked(sentence.id, sentence)}"
    if not _UNWRITABLE.search(sentence.text):
        yield f"# text = {sentence.text}"
    fused = dict(sentence.multiword)
    for words, surface, after in _tokens(sentence):
        misc = _misc(after)
        if words.start in fused:
            yield _row(sentence, f"{words.start + 1}-{words.stop}", surface, {}, misc)
            misc = "_"
        elif (form := sentence.words[words.start].form) != surface:
            raise TreebankError(
                f"sentence {sentence.id}: word {form!r}, but the text is {surface!r} there; expected the same, or a "
                "range in `multiword`"
            )
        for word in words:
            yield _row(sentence, str(word + 1), sentence.words[word].form, columns[word], misc)


def _tokens(sentence: Sentence) -> Iterator[tuple[range, str, str]]:
    """The words behind each token, the characters it covers, and what stands after it."""
    text, words, ends = sentence.text, sentence.words, dict(sentence.multiword)
    first = 0
    while first < len(words):
        behind = range(first, ends.get(first, first + 1))
        start, end, first = words[first].start, words[behind[-1]].end, behind.stop
        after = text[end : words[first].start] if first < len(words) else sentence.after
        if after.strip():
            raise TreebankError(f"sentence {sentence.id}: {after!r} after a word; expected only white space")
        yield behind, text[start:end], after


def _row(sentence: Sentence, number: str, form: str, columns: Columns, misc: str) -> str:
    feats, values = columns.get("feats", UNTAGGED), [columns.get(name, UNTAGGED) for name in _OWN]
    for value in (form, *values, feats):
        if not value.strip():
            raise TreebankError(f"sentence {sentence.id}, word {number}: {value!r}; expected a form and a tag, or _")
        _checked(value, sentence)
    return "\t".join([number, form, *values, feats, "_", "_", "_", misc])


def _checked(value: str, sentence: Sentence) -> str:
    if _UNWRITABLE.search(value):
        raise TreebankError(f"sentence {sentence.id}: {value!r}; expected no tab, line break or NUL in CoNLL-U")
    return value


def _misc(after: str) -> str:
    r"""What MISC says of the white space after a token.

    >>> _misc(" "), _misc(""), _misc(" \n")
    ('_', 'SpaceAfter=No', 'SpacesAfter=\\s\\n')
    """
    if after == " ":
        return "_"
    escaped = "".join(_ESCAPES.get(character, f"\\u{ord(character):04x}") for character in after)
    return f"SpacesAfter={escaped}" if after else "SpaceAfter=No"
