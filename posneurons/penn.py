"""The Penn Treebank and the Brown corpus as nltk distributes them, or a Penn Treebank of the user's own.

Both keep words and no text; the text is written again by `detokenizer`, with brackets, quotes and slashes as in print
(`-LRB-` is "(", two grave accents are a quote). Empty elements of the Penn Treebank (`-NONE-`, traces) are no words.

Tags are the corpus's own, or universal ones by the table of Petrov, Das and McDonald (2012), which comes with nltk.
Three of its twelve have other names in Universal Dependencies and get them: "." is PUNCT, CONJ is CCONJ, PRT is PART.
The table knows no PROPN, AUX, SCONJ, INTJ or SYM (proper nouns are NOUN, modals VERB, conjunctions such as "that" ADP),
and PART holds more than there ("up" in "give up"). X are foreign words, list marks, and tags the table does not have.

nltk's own readers are not used. They open only files below folders that a global list allows, and they mend a tree with
a missing bracket without a word about where it is.
Source: https://arxiv.org/abs/1104.2086; https://catalog.ldc.upenn.edu/LDC99T42 (the Penn Treebank);
http://korpus.uib.no/icame/manuals/BROWN/INDEX.HTM (Brown's categories and tags).
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from lzma import LZMAError
from os import PathLike
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from posneurons.conll import PARAGRAPH
from posneurons.detokenizer import APART, WITHIN, gaps, joined
from posneurons.errors import TreebankError
from posneurons.sentences import Sentence, Treebank, Word
from posneurons.tagsets import tag_reader

Tagged = tuple[str, str]
"""A word as the corpus writes it, and its tag there."""

CATEGORIES = {
    "a": "news",
    "b": "editorial",
    "c": "reviews",
    "d": "religion",
    "e": "hobbies",
    "f": "lore",
    "g": "belles_lettres",
    "h": "government",
    "j": "learned",
    "k": "fiction",
    "l": "mystery",
    "m": "science_fiction",
    "n": "adventure",
    "p": "romance",
    "r": "humor",
}
"""Of Brown's files, by the second letter of their names."""

_SPLITS = (("train", range(19)), ("dev", range(19, 22)), ("test", range(22, 25)))
_UD = {".": "PUNCT", "CONJ": "CCONJ", "PRT": "PART"}
_PRINTED = {"-LRB-": "(", "-RRB-": ")", "-LCB-": "{", "-RCB-": "}", "-LSB-": "[", "-RSB-": "]", "``": '"', "''": '"'}
_TWICE = frozenset(";?!:(),")
_NO_WORD = "-NONE-"
_LARGEST = 1 << 28
_PIECE = re.compile(r"\(\s*([^\s()]+)\s+([^\s()]+)\s*\)|[()]|[^\s()]+")
_BANNER = re.compile(r"^\*x\*.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a corpus: its path for the person at the keyboard, its name without suffix, its text."""

    place: str
    stem: str
    text: str

    def fault(self, at: int, what: str) -> TreebankError:
        """What is wrong at a character."""
        return TreebankError(f"{self.place}:{self.text.count(chr(10), 0, at) + 1}: {what}")


@dataclass(slots=True)
class _Reading:
    """What becomes of a word of the corpus, remembered by word and tag; and what makes sentences of it."""

    tag_of: Callable[[dict[str, str]], str]
    universal: dict[str, str]
    possessive: bool
    known: dict[Tagged, Tagged] = field(default_factory=dict)

    def sentence(
        self, words: list[Tagged], again: Sequence[bool], *, name: str, document: str, split: str, after: str
    ) -> Sentence:
        """The sentence of these words; one that is there `again` is written with the word before, as `shared`."""
        forms = [self._printed(word) for word in words]
        once = [number for number, second in enumerate(again) if not second]
        between = gaps([words[number][0] for number in once], possessive=self.possessive)
        text, spans = joined([forms[number][0] for number in once], between)
        written = zip([APART, *between], spans, strict=True)
        start = end = 0
        made, inside = [], []
        for (form, tag), second in zip(forms, again, strict=True):
            gap = WITHIN
            if not second:
                gap, (start, end) = next(written)
            made.append(Word(form, tag, start, end, second))
            inside.append(gap == WITHIN)
        return Sentence(name, text, tuple(made), document, split, _runs(inside), after)

    def _printed(self, word: Tagged) -> Tagged:
        """A word as it is in print, and the tag asked for."""
        if word not in self.known:
            form = restored(word[0])
            upos = self.universal.get(word[1], "X")
            self.known[word] = form, self.tag_of({"form": form, "xpos": word[1], "upos": upos})
        return self.known[word]


def load_ptb(
    path: str | PathLike[str],
    *,
    name: str | None = None,
    tag: str = "upos",
    universal: str | PathLike[str] | None = None,
) -> Treebank:
    """Read a Penn Treebank in brackets (.mrg): nltk's sample, or a folder or zip of the user's own.

    A file is a document, and its name the document's. Where sections 00 to 24 of the Wall Street Journal are there, in
    files named as usual (wsj_2300.mrg), they are split as is customary for tagging: 00-18 train, 19-21 dev, 22-24 test.
    Where one of these three is missing, as in nltk's sample, every sentence is in "all"; so are those of other files.
    A full stop after an abbreviation's is not written again: it is a word without characters of its own (`shared`).

    Args:
        path: a zip or a folder; every .mrg file in it and below is read, in the order of their paths.
        name: of the treebank; by default the name of the file or folder.
        tag: "xpos" for Penn's tags, "upos" for universal ones (a tag that the table does not have is X), "form", or
            several joined by +.
        universal: nltk's universal_tagset.zip; needed for "upos".

    Raises:
        TreebankError: where there is nothing to read, or a file is not what it should be (with file and line).

    Source: https://aclanthology.org/W02-1001 (Collins 2002; the split).
    """
    reading = _reading(tag, universal, "en-ptb", possessive=True)
    files, digest = _files(Path(path), re.compile(r"(?i)([^/]+)\.mrg"), "Penn Treebank files, such as wsj_0001.mrg")
    _check_names(files)
    splits = _splits([file.stem for file in files])
    sentences = []
    for file, split in zip(files, splits, strict=True):
        trees = [[leaf for leaf in tree if leaf[1] != _NO_WORD] for tree in _trees(file)]
        made = [
            reading.sentence(words, _again(words), name=f"{file.stem}-{n}", document=file.stem, split=split, after=" ")
            for n, words in enumerate(trees, 1)
            if words
        ]
        if not made:
            raise TreebankError(f"{file.place}: no sentence in this file; expected trees such as (S (NN Rain) (. .))")
        sentences += made
    return Treebank(name or Path(path).resolve().stem, tag, tuple(sentences), digest, True)


def load_brown(
    path: str | PathLike[str],
    *,
    name: str | None = None,
    tag: str = "upos",
    universal: str | PathLike[str] | None = None,
) -> Treebank:
    """Read the Brown corpus: nltk's zip, or a folder with its 500 files.

    A file is a document, named with its category ("news/ca01"); all sentences are in the split "all". Marks that the
    corpus holds twice in a row (every ";", "?" and "!" and some ":", ",", "(" and ")") are written once: both are
    words, the second without characters of its own (`shared`); so is a full stop after an abbreviation's. Contractions
    are one word here ("don't").

    Args:
        path: a zip or a folder with files named ca01 to cr09.
        name: of the treebank; by default the name of the file or folder.
        tag: "xpos" for Brown's 472 tags, in capitals and with all that is attached to them ("NN-TL", "PPSS+BEM");
            "upos" for universal ones (84 of the tags, of 1,386 words, are X there: most are foreign), "form", or
            several joined by +.
        universal: nltk's universal_tagset.zip; needed for "upos".

    Raises:
        TreebankError: where there is nothing to read, or a file is not what it should be (with file and line).
    """
    reading = _reading(tag, universal, "en-brown", possessive=False)
    files, digest = _files(Path(path), re.compile(r"(c[a-hj-npr]\d\d)"), "Brown's files, such as ca01")
    _check_names(files)
    sentences: list[Sentence] = []
    for file in files:
        document = f"{CATEGORIES[file.stem[1]]}/{file.stem}"
        before = len(sentences)
        for number, (words, after) in enumerate(_lines(file), 1):
            again = _again(words, _TWICE)
            sentences.append(
                reading.sentence(words, again, name=f"{document}-{number}", document=document, split="all", after=after)
            )
        if len(sentences) == before:
            raise TreebankError(f"{file.place}: no sentence in this file; expected words such as Rain/nn")
    return Treebank(name or Path(path).resolve().stem, tag, tuple(sentences), digest, True)


def restored(word: str) -> str:
    r"""A word of the Penn Treebank as it is in print.

    >>> [restored(word) for word in ("-LRB-", "``", "1\\/2", "rain")]
    ['(', '"', '1/2', 'rain']
    """
    return _PRINTED.get(word) or word.replace("\\/", "/").replace("\\*", "*")


def _reading(tag: str, universal: str | PathLike[str] | None, table: str, *, possessive: bool) -> _Reading:
    """How to read words. Raises TreebankError for a tag that is not there, or where the table cannot be read."""
    parts = set(tag.split("+"))
    if not parts <= {"upos", "xpos", "form"}:
        raise TreebankError(
            f"tag={tag!r}: Penn Treebank and Brown have no lemmas and no features; expected 'xpos' (their own tags), "
            "'upos' (universal ones), 'form', or several joined by +"
        )
    return _Reading(tag_reader(tag), _universal_tags(universal, table) if "upos" in parts else {}, possessive)


def _universal_tags(path: str | PathLike[str] | None, table: str) -> dict[str, str]:
    """A table of nltk's universal_tagset.zip, with the names of Universal Dependencies where the class is the same."""
    if path is None:
        raise TreebankError("tag='upos': needs universal=, the path of nltk's universal_tagset.zip; or take tag='xpos'")
    (file, *_), _ = _files(Path(path), re.compile(rf"({table})\.map"), f"nltk's universal_tagset.zip with {table}.map")
    rows = [line.split("\t") for line in file.text.splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise TreebankError(f"{file.place}:{number}: {len(row)} columns; expected a tag, a tab, a universal tag")
    return {fine: _UD.get(coarse, coarse) for fine, coarse in rows}


def _files(path: Path, wanted: re.Pattern[str], expected: str) -> tuple[list[_File], str]:
    """The files of a folder or a zip whose name is as wanted, by path, and the digest of their bytes."""
    digest = hashlib.sha256()
    files = []
    try:
        for place, content in _contents(path, wanted):
            digest.update(content)
            match = wanted.fullmatch(place.rpartition("/")[2])
            files.append(_File(place, match[1] if match else place, content.decode("utf-8")))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise TreebankError(f"{place}:{line}: not UTF-8 ({error.reason}); expected plain text") from None
    except (BadZipFile, EOFError, LZMAError, zlib.error, RuntimeError, ValueError) as error:
        raise TreebankError(f"{path}: not a zip file, or a damaged one ({error}); fetch it again") from None
    except OSError as error:
        raise TreebankError(f"{path}: cannot be read ({error.strerror}); expected a folder or zip with it") from None
    if not files:
        raise TreebankError(f"{path}: nothing in it and below that is named as expected: {expected}")
    return files, digest.hexdigest()


def _contents(path: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of the files with such names."""
    if path.is_dir():
        for found in sorted(file for file in path.rglob("*") if wanted.fullmatch(file.name) and file.is_file()):
            yield found.as_posix(), found.read_bytes()
        return
    room = _LARGEST
    with ZipFile(path) as archive:
        for name in sorted(name for name in archive.namelist() if wanted.fullmatch(name.rpartition("/")[2])):
            with archive.open(name) as file:
                content = file.read(room + 1)
            if (room := room - len(content)) < 0:
                raise TreebankError(f"{path}: more than {_LARGEST >> 20} MiB are in it; unpack it and give the folder")
            yield f"{path.as_posix()}/{name}", content


def _check_names(files: Sequence[_File]) -> None:
    """Raises TreebankError where two files have one name: the same text twice would stand on both sides of a split."""
    first: dict[str, str] = {}
    for file in files:
        if (other := first.setdefault(file.stem, file.place)) != file.place:
            raise TreebankError(f"{file.place}: a second file of that name, after {other}; expected each once")


def _splits(stems: Sequence[str]) -> list[str]:
    """The split of each file by its section of the Wall Street Journal, or "all" where not all three are there."""
    found = []
    for stem in stems:
        match = re.fullmatch(r"(?i)wsj_(\d\d)\d\d", stem)
        section = int(match[1]) if match else -1
        found.append(next((name for name, sections in _SPLITS if section in sections), "all"))
    whole = {name for name, _ in _SPLITS} <= set(found)
    return found if whole else ["all"] * len(stems)


def _trees(file: _File) -> Iterator[list[Tagged]]:
    """The leaves of each tree. Raises TreebankError where brackets do not match or a word has no tag."""
    file = replace(file, text=_BANNER.sub("", file.text))
    leaves: list[Tagged] = []
    depth, first, before = 0, 0, ")"
    for piece in _PIECE.finditer(file.text):
        if piece[2]:
            leaves.append((piece[2], piece[1]))
            before = ")"
        elif piece[0] == "(":
            first = piece.start() if depth == 0 else first
            depth, before = depth + 1, "("
        elif piece[0] == ")":
            if depth == 0:
                raise file.fault(piece.start(), "a ) that nothing opened; expected as many ( as )")
            if before != ")":
                raise file.fault(piece.start(), "brackets around no word; expected a tag and a word, as in (NN rain)")
            depth -= 1
        elif before == "(":
            before = "label"
        else:
            raise file.fault(piece.start(), f"{piece[0][:40]!r} outside of its brackets; expected e.g. (NN rain)")
        if depth == 0:
            yield leaves
            leaves = []
    if depth:
        raise file.fault(first, f"the tree that begins here lacks {depth} ) by the end of the file")


def _lines(file: _File) -> Iterator[tuple[list[Tagged], str]]:
    """The words of each line, and what stands after it. Raises TreebankError where a word has no tag."""
    lines = file.text.rstrip().splitlines()
    for number, (line, following) in enumerate(pairwise([*lines, "."]), 1):
        words = [piece.rpartition("/") for piece in line.split()]
        for word, _, tag in words:
            if not word or not tag:
                where = f"{file.place}:{number}"
                raise TreebankError(f"{where}: {word + tag!r:.40}: expected a word, / and a tag, as Rain/nn")
        if words:
            yield [(word, tag.upper()) for word, _, tag in words], " " if following.strip() else PARAGRAPH


def _again(words: Sequence[Tagged], twice: frozenset[str] = frozenset()) -> list[bool]:
    """Which words are in print one with the word before: the stop after "U.S.", and a mark's second one of two."""
    found = [False]
    for left, right in pairwise(words):
        stop = right[0] == "." and left[0].endswith(".") and left[0].strip(".") != ""
        found.append(stop or (left == right and right[0] in twice and not found[-1]))
    return found


def _runs(inside: Sequence[bool]) -> tuple[tuple[int, int], ...]:
    """Ranges of words that are written together, from whether each goes on what is before it.

    >>> _runs([False, False, True, True, False])
    ((1, 4),)
    """
    starts = [n for n, goes_on in enumerate(inside) if not goes_on] + [len(inside)]
    return tuple((first, end) for first, end in pairwise(starts) if end - first > 1)
