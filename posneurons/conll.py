"""One CoNLL-U file to tagged sentences, with the characters that each word covers.

Rows are read by the `conllu` package, a block (sentence) at a time, so that memory holds words and not rows. Two of its
habits are worked around here: it cuts `Ref=a=b` at the second `=` (so columns stay as they are written, and those in
use are taken apart by our own small functions) and it takes two spaces for a tab (so the spaces of a row are hidden
from it). Blocks are cut here and not by conllu, because every error names its line.

`# text` decides what lies between words; where a sentence has none, the text is the forms joined by what SpaceAfter=No
and SpacesAfter=... say. White space before the first and after the last word is not part of a sentence.

This module does not know where files come from.
Source: https://universaldependencies.org/format.html; https://ufal.mff.cuni.cz/udpipe/1/users-manual (SpacesAfter).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from operator import getitem
from pathlib import Path

from conllu import Token, TokenList, parse_token_and_metadata
from conllu.exceptions import ParseException
from conllu.parser import DEFAULT_FIELDS, parse_id_value

from posneurons.errors import TreebankError
from posneurons.sentences import Sentence, Word, spelled
from posneurons.tagsets import TagOf, pairs

LONGEST_LINE = 1 << 20
"""Bytes; a longer line is not CoNLL-U."""

PARAGRAPH = "\n\n"
"""What stands between two paragraphs of a document."""

_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)")
_ESCAPED = {"s": " ", "t": "\t", "n": "\n", "r": "\r", "p": "|", "\\": "\\"}
_HIDDEN_SPACE = "\0"
_DIGITS = 10


@dataclass(frozen=True, slots=True)
class _Block:
    """The lines of one sentence, `first` being the number of the first."""

    path: Path
    first: int
    lines: list[str]

    def place(self, number: int) -> str:
        return f"{self.path}:{number}"

    @property
    def rows(self) -> list[int]:
        """Numbers of the lines that are not comments."""
        return [number for number, line in enumerate(self.lines, self.first) if not line.startswith("#")]


@dataclass(frozen=True, slots=True)
class _Surface:
    """A stretch of the text and the words behind it: one, or those of a multiword token."""

    line: int
    form: str
    misc: str
    words: list[Token]
    fused: bool = False


def read_file(
    path: Path, split: str, tag_of: TagOf, digest: Callable[[bytes], None]
) -> Iterator[tuple[Sentence, bool]]:
    """The sentences of one file, each with whether it stands in a marked document; its bytes go to `digest`.

    Raises:
        TreebankError: where the file is not CoNLL-U or `# text` is not what the forms say; with file and line.
    """
    document, documents = None, 0
    held: tuple[Sentence, bool] | None = None
    for block in _blocks(path, _lines(path, digest)):
        tokens = _parse(block)
        comments = tokens.metadata
        if "newdoc" in comments or "newdoc id" in comments:
            documents += 1
            document = comments.get("newdoc id") or f"{path.name} document {documents}"
        if held is not None:
            paragraph = "newpar" in comments or "newpar id" in comments
            said = held[0].after.count("\n") > 1  # SpacesAfter says more than a blank line
            yield (replace(held[0], after=PARAGRAPH), held[1]) if paragraph and not said else held
        held = _sentence(block, tokens, tag_of, document, split), document is not None
    if held is not None:
        yield held


def _lines(path: Path, digest: Callable[[bytes], None]) -> Iterator[str]:
    """The lines of a file without their ends. Raises TreebankError where they are not those of a clean UTF-8 file."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise TreebankError(f"{path}: the file cannot be read: {error.strerror}") from error
    with file:
        for number, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
            digest(raw)
            try:
                line = raw.decode("utf-8").removesuffix("\n")
            except UnicodeDecodeError as error:
                raise TreebankError(f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start + 1})") from error
            if fault := _fault(line, number, len(raw)):
                raise TreebankError(f"{path}:{number}: {fault}")
            yield line


def _fault(line: str, number: int, size: int) -> str | None:
    """What is wrong with a line as such."""
    if number == 1 and line.startswith("\ufeff"):
        return "the file begins with a byte order mark; expected plain UTF-8: save it without BOM"
    if line.endswith("\r"):
        return "the line ends with CR LF; expected LF alone: convert the file, for example with dos2unix"
    if size == LONGEST_LINE:
        return f"the line has {LONGEST_LINE} bytes or more; expected CoNLL-U, one word per line"
    if _HIDDEN_SPACE in line:
        return "a NUL character; expected text: the file is damaged"
    return None


def _blocks(path: Path, lines: Iterable[str]) -> Iterator[_Block]:
    """Runs of lines between blank ones."""
    kept: list[str] = []
    number = 0
    for number, line in enumerate(lines, 1):
        if line and not line.isspace():
            kept.append(line)
        elif kept:
            yield _Block(path, number - len(kept), kept)
            kept = []
    if kept:
        yield _Block(path, number + 1 - len(kept), kept)


def _parse(block: _Block) -> TokenList:
    """The rows and comments of a block, by conllu; only ids are parsed, other columns stay as they are written."""
    rows = block.rows
    if not rows:
        raise TreebankError(f"{block.place(block.first)}: comments without a word; expected the rows of a sentence")
    for number in rows:
        line = block.lines[number - block.first]
        if line.count("\t") != 9:
            found = line.count("\t") + 1
            raise TreebankError(f"{block.place(number)}: {found} columns; expected 10 with single tabs between")
        if line[0].isspace() or line[-1].isspace():
            raise TreebankError(f"{block.place(number)}: the first or the last column is empty; expected _ for nothing")
    try:
        return _through_conllu(block.lines)
    except (ParseException, ValueError):  # of a number with thousands of digits
        raise TreebankError(_bad_id(block)) from None


def _through_conllu(lines: list[str]) -> TokenList:
    """What conllu makes of a block, double spaces hidden from it where there are any."""
    parsers = {**dict.fromkeys(DEFAULT_FIELDS, getitem), "id": lambda row, i: parse_id_value(row[i])}
    rows = "\n".join(line for line in lines if not line.startswith("#"))
    if "  " not in rows:
        return parse_token_and_metadata("\n".join(lines), DEFAULT_FIELDS, parsers)
    hidden = [line if line.startswith("#") else line.replace(" ", _HIDDEN_SPACE) for line in lines]
    tokens = parse_token_and_metadata("\n".join(hidden), DEFAULT_FIELDS, parsers)
    for token in tokens:
        token.update({key: value.replace(_HIDDEN_SPACE, " ") for key, value in token.items() if isinstance(value, str)})
    return tokens


def _bad_id(block: _Block) -> str:
    """The sentence for the first id of a block that conllu does not understand."""
    for number in block.rows:
        written = block.lines[number - block.first].split("\t")[0]
        try:
            parse_id_value(written)
        except (ParseException, ValueError):
            return f"{block.place(number)}: id {written!r:.40}; expected a number, a range (3-4) or an empty node (8.1)"
    return f"{block.place(block.first)}: rows that the conllu package does not understand"


def _surfaces(block: _Block, tokens: TokenList) -> list[_Surface]:
    """The rows of a sentence as stretches of text, empty nodes left out. Raises TreebankError where ids are wrong."""
    found: list[_Surface] = []
    word, range_end = 0, 0
    for line, token in zip(block.rows, tokens, strict=True):
        number = token["id"]
        if number == word + 1:
            word += 1
            if word > range_end:
                found.append(_Surface(line, token["form"], token.get("misc", ""), []))
            found[-1].words.append(token)
        elif isinstance(number, tuple) and number[1] == "-" and number[0] == word + 1 > range_end:
            range_end = number[2]
            found.append(_Surface(line, token["form"], token.get("misc", ""), [], fused=True))
        elif not (isinstance(number, tuple) and number[1] == "." and number[0] == word):
            written = "".join(map(str, number)) if isinstance(number, tuple) else number
            raise TreebankError(f"{block.place(line)}: id {written} out of order; expected {word + 1}")
    if not found:
        raise TreebankError(f"{block.place(block.rows[0])}: empty nodes and no word; expected the rows of a sentence")
    if range_end > word:
        raise TreebankError(f"{block.place(found[-1].line)}: a range up to {range_end}, but the last word is {word}")
    return found


def _sentence(block: _Block, tokens: TokenList, tag_of: TagOf, document: str | None, split: str) -> Sentence:
    """A parsed block as a sentence."""
    surfaces = _surfaces(block, tokens)
    _check_columns(block, tokens, tag_of)
    _check_heads(block, tokens)
    text = tokens.metadata.get("text") or _joined(surfaces)
    words: list[Word] = []
    multiword = []
    for surface, start in zip(surfaces, _starts(block, text, surfaces), strict=True):
        if surface.fused:
            multiword.append((len(words), len(words) + len(surface.words)))
        words.extend(_words(surface, start, tag_of))
    after = _space_after(surfaces[-1].misc)
    if after.strip():
        raise TreebankError(f"{block.place(surfaces[-1].line)}: SpacesAfter={after!r:.40}; expected white space")
    own = f"{block.path.name}:{block.first}"
    return Sentence(
        id=tokens.metadata.get("sent_id") or own,
        text=text,
        words=tuple(words),
        document=document or own,
        split=split,
        multiword=tuple(multiword),
        after=after,
    )


def _check_columns(block: _Block, tokens: TokenList, tag_of: TagOf) -> None:
    """Raises TreebankError where a form or a tag is missing."""
    for line, token in zip(block.rows, tokens, strict=True):
        form, is_word = token["form"], isinstance(token["id"], int)
        if not form.strip() or (form == "_" != token["lemma"] and is_word):
            raise TreebankError(f"{block.place(line)}: no form in column 2; expected the word as it is written")
        if is_word and not tag_of(token):
            raise TreebankError(f"{block.place(line)}: the column of the tag is empty; expected a tag, or _ for none")


def _check_heads(block: _Block, tokens: TokenList) -> None:
    """Raises TreebankError where a head is no word of the sentence, or heads run in a circle; _ stands for none."""
    lines = {token["id"]: line for line, token in zip(block.rows, tokens, strict=True) if isinstance(token["id"], int)}
    written = {token["id"]: token["head"] for token in tokens if isinstance(token["id"], int)}
    above = {0: 0}
    for word, head in written.items():
        above[word] = int(head) if head.isdecimal() and len(head) < _DIGITS else -1
        if head == "_":
            above[word] = 0
        elif above[word] != 0 and above[word] not in written:
            raise TreebankError(
                f"{block.place(lines[word])}: head {head!r:.20}; expected 0, _ or the id of a word, at most "
                f"{len(written)}"
            )
    rooted = {0}
    for word in written:
        path, at = set(), word
        while at not in rooted and at not in path:
            path.add(at)
            at = above[at]
        if at not in rooted:
            raise TreebankError(f"{block.place(lines[at])}: the heads of word {at} run in a circle; expected a tree")
        rooted |= path


def _joined(surfaces: list[_Surface]) -> str:
    """The text of a sentence that does not say it."""
    return "".join(surface.form + _space_after(surface.misc) for surface in surfaces).strip()


def _space_after(misc: str) -> str:
    r"""What stands between a word and the next: a space, nothing (SpaceAfter=No), or what SpacesAfter says.

    >>> _space_after("SpacesAfter=\\s\\n")
    ' \n'
    """
    said = pairs(misc)
    if "SpacesAfter" in said:
        return _ESCAPE.sub(_unescape, said["SpacesAfter"])
    return "" if said.get("SpaceAfter") == "No" else " "


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPED.get(code, match[0])


def _starts(block: _Block, text: str, surfaces: list[_Surface]) -> Iterator[int]:
    """Where each surface begins in the text. Raises TreebankError where they are not what the text says."""
    at = 0
    for surface in surfaces:
        while not text.startswith(surface.form, at) and text[at : at + 1].isspace():
            at += 1
        if not text.startswith(surface.form, at):
            there = repr(text[at : at + 20]) if at < len(text) else "at its end"
            raise TreebankError(f"{block.place(surface.line)}: form {surface.form!r:.40}, but `# text` is {there} here")
        yield at
        at += len(surface.form)
    if text[at:].strip():
        raise TreebankError(
            f"{block.place(block.first)}: `# text` goes on after the last word: {text[at:].strip()!r:.40}"
        )


def _words(surface: _Surface, start: int, tag_of: TagOf) -> Iterator[Word]:
    """The words behind a stretch of text, with spans of their own where their forms are the text."""
    forms = [token["form"] for token in surface.words]
    shared = not spelled(surface.form, forms)
    end = start + len(surface.form)
    for form, token in zip(forms, surface.words, strict=True):
        if not shared:
            end = start + len(form)
        yield Word(form, tag_of(token), start, end, shared)
        if not shared:
            start = end
