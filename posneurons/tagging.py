"""Raw text to a treebank with Stanza: sentences, words and tags, on the characters of the text as it is.

A text is cut at its blank lines, where Stanza ends a sentence in any case, so that memory holds a batch of paragraphs
and not a book; what Stanza finds is then placed in the whole text again. Sentences keep their characters, except that
white space which no line of CoNLL-U can hold (a line break, a tab) is a space inside a sentence, or nothing where the
language is written without spaces and Stanza reads over it. What stands between two sentences is kept as it is.

Stanza reads a paragraph of more than 1,000 characters in windows, and what it reads with it can move a boundary: there
the size of a batch may change a word.
Source: Qi et al. 2020, https://aclanthology.org/2020.acl-demos.14; https://stanfordnlp.github.io/stanza
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from posneurons import __version__
from posneurons.conll_writing import write_sentences
from posneurons.errors import TreebankError
from posneurons.sentences import UNTAGGED, Sentence, Treebank, Word, spelled
from posneurons.stanza_models import Models, describe_models, installed_languages, load_pipeline
from posneurons.tagsets import TagOf, tag_reader

__all__ = ["describe_models", "installed_languages", "load_pipeline", "run", "tag_text"]

BATCH = 50_000
"""Characters that Stanza reads at once; bounds memory."""

Tagged = tuple[Sentence, list[dict[str, str]]]
"""A sentence and the columns of each of its words (form, lemma, upos, xpos, feats)."""

_BLANK = re.compile(r"\n[\s\x80-\x9f]*\n")
"""Where Stanza ends a paragraph."""
_BREAK = re.compile(r"[\t-\r\x1c-\x1f\x80-\x9f\u2028\u2029]")
"""White space to Stanza that cannot stand in a line of CoNLL-U."""
_INK = re.compile(r"[^\s\x80-\x9f](?:.*[^\s\x80-\x9f])?", re.DOTALL)
_C1 = re.compile(r"[\x80-\x9f]")
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class _Piece:
    """What Stanza reads by itself, a paragraph or the words of a sentence: of which document, and where in it."""

    document: int
    start: int
    content: Any

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, str) else sum(map(len, self.content))


class _Line:
    """A sentence in the making."""

    def __init__(self, tag_of: TagOf) -> None:
        self.tag_of = tag_of
        self.text = ""
        self.words: list[Word] = []
        self.columns: list[dict[str, str]] = []
        self.multiword: list[tuple[int, int]] = []

    def add(self, before: str, surface: str, found: Sequence[Any]) -> None:
        """Add a token, what stands before it, and the words that Stanza found behind it."""
        self.text += before if self.words else ""
        start = at = len(self.text)
        self.text += surface
        forms = [surface]
        if len(found) > 1:
            forms = [word.text for word in found]
            self.multiword.append((len(self.words), len(self.words) + len(found)))
        shared = not spelled(surface, forms)
        for form, word in zip(forms, found, strict=True):
            end = len(self.text) if shared else at + len(form)
            columns = {key: getattr(word, key) or UNTAGGED for key in ("upos", "xpos", "feats")}
            self.columns.append({"form": form, "lemma": UNTAGGED} | columns)
            self.words.append(Word(form, self.tag_of(self.columns[-1]), start if shared else at, end, shared))
            at = end

    def done(self, number: int, document: str, after: str) -> Tagged:
        """The sentence with this number in its document."""
        words, multiword = tuple(self.words), tuple(self.multiword)
        own = f"{document}-{number}"
        return Sentence(own, self.text, words, document, "all", multiword, after), self.columns


def tag_text(
    texts: str | Sequence[Any],
    language: str = "en",
    *,
    tag: str = "upos",
    name: str = "text",
    documents: Sequence[str] | None = None,
    pretokenized: bool = False,
    join: str = " ",
    models: Models = None,
    device: str | None = None,
    batch: int = BATCH,
    progress: bool = False,
    download: bool = False,
) -> Treebank:
    """Split texts into sentences and words and tag them, with Stanza (tokenize, mwt where the language has it, pos).

    Args:
        texts: a text, or several, each one a document. Where `pretokenized`, a document is a list of sentences that are
            lists of words, or a text with a sentence on each line and white space between words.
        language: Stanza's code, such as "en", "de" or "zh-hans".
        tag: "upos", "xpos", "form", a feature such as "Number", or several joined by +.
        name: of the treebank.
        documents: a name for each document; by default the name of the treebank and a number.
        pretokenized: whether sentences and words are given; Stanza only tags them then.
        join: what stands between words that are given.
        models: where models are, as in `load_pipeline`; None for Stanza's own place.
        device: "cpu", "cuda"; by default Stanza chooses.
        batch: characters that Stanza reads at once, in whole paragraphs.
        progress: whether to show a bar.
        download: whether Stanza may fetch models that are not there.

    Returns:
        A treebank with the split "all". Words behind one surface ("im" for "in dem") share its characters unless their
        forms spell it. `sha256` is the digest of the texts and of the model files.

    Raises:
        TreebankError: where there is no text, a word or a text cannot be read, models are not there, or no word has a
            tag of that kind.
    """
    if "lemma" in tag.split("+"):
        raise TreebankError(f"tag={tag!r}: lemmas are not made here; expected upos, xpos, form or a feature")
    tag_of = tag_reader(tag)
    given = _given(texts, pretokenized)
    ids = list(documents or (f"{name}-{number}" for number in range(1, len(given) + 1)))
    if not len(ids) == len(set(ids)) == len(given):
        raise TreebankError(f"documents: {len(set(ids))} different names; expected {len(given)}, one for each text")
    pipeline = load_pipeline(language, models=models, pretokenized=pretokenized, device=device, download=download)
    about = describe_models(pipeline)
    sentences = tuple(sentence for sentence, _ in _tagged(given, ids, pipeline, tag_of, join, batch, progress))
    if all(word.tag == UNTAGGED for sentence in sentences for word in sentence.words):
        raise TreebankError(f"{name}: these models give no word a tag in {tag!r}; expected 'upos', or other models")
    digest = hashlib.sha256(json.dumps([given, ids, join if pretokenized else None, about]).encode()).hexdigest()
    return Treebank(name, tag, sentences, digest, marked_documents=True)


def run(
    files: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    language: str = "en",
    *,
    pretokenized: bool = False,
    models: Models = None,
    device: str | None = None,
    batch: int = BATCH,
    progress: bool = False,
    download: bool = False,
) -> Iterator[str]:
    """Tag text files into one CoNLL-U file, with UPOS, XPOS and FEATS; each file is a document.

    Args:
        files: text in UTF-8.
        out: the file to write; its name must end in .conllu.
        language: as in `tag_text`, like all that follows.
        pretokenized: whether each line is a sentence with white space between its words.
        models: where models are.
        device: what Stanza runs on.
        batch: characters that Stanza reads at once.
        progress: whether to show a bar.
        download: whether Stanza may fetch models.

    Yields:
        Lines to show: what is tagged with what, then what was written.

    Raises:
        TreebankError: where a file cannot be read or is empty, or as `tag_text` does.
    """
    target = Path(out)
    if target.suffix != ".conllu":
        raise TreebankError(f"{out}: expected a name that ends in .conllu, as a treebank in CoNLL-U has")
    paths = [Path(file) for file in files]
    given = _given([_read(path) for path in paths], pretokenized, [str(path) for path in paths])
    names = [path.name for path in paths]
    ids = names if len(set(names)) == len(names) else [path.as_posix() for path in paths]
    pipeline = load_pipeline(language, models=models, pretokenized=pretokenized, device=device, download=download)
    about = describe_models(pipeline)
    yield "tagging with " + ", ".join(f"{part} {which.split()[0]}" for part, which in about.items())
    counts: Counter[str] = Counter()
    tagged = _tagged(given, ids, pipeline, tag_reader("upos"), " ", batch, progress)
    comments = {"generator": f"posneurons {__version__}"} | about
    write_sentences(_counted(tagged, counts), target, documents=True, comments=comments)
    yield f"{target}: {counts['sentences']} sentences, {counts['words']} words; documents: {len(paths)}"


def _read(path: Path) -> str:
    """A text file. Raises TreebankError where it is not one."""
    try:
        return path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise TreebankError(f"{path}: the file cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TreebankError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start + 1}); expected text in UTF-8: convert it, for "
            "example with iconv -f latin1 -t utf-8"
        ) from error


def _given(texts: str | Sequence[Any], pretokenized: bool, places: Sequence[str] = ()) -> list[Any]:
    """The documents, checked: texts with line feeds as line ends, or lists of sentences that are lists of words.

    Raises:
        TreebankError: where one is empty or is not what it should be.
    """
    found: list[Any] = [texts] if isinstance(texts, str) else list(texts)
    if pretokenized:
        sentences = any(not isinstance(each, str) and any(isinstance(word, str) for word in each) for each in found)
        found = [list(map(list, texts))] if sentences else [_sentences(each) for each in found]
    if not found:
        raise TreebankError("no text to tag; expected at least one")
    for number, document in enumerate(found):
        place = places[number] if places else f"text {number + 1}"
        if pretokenized:
            _check_words(document, place)
        elif not isinstance(document, str):
            raise TreebankError(f"{place}: {type(document).__name__}; expected a string, or words as pretokenized")
        elif not _INK.search(document):
            raise TreebankError(f"{place}: no text in it; expected words")
        elif match := _NO_TEXT.search(document):
            raise TreebankError(f"{place}: character {match[0]!r} at {match.start() + 1}; expected text")
        else:
            found[number] = document.replace("\r\n", "\n").replace("\r", "\n")
    return found


def _sentences(document: Any) -> list[list[Any]]:
    """The words of each sentence; of a text, a line is a sentence."""
    if isinstance(document, str):
        return [line.split() for line in document.split("\n") if line.strip()]
    return [list(words) for words in document]


def _check_words(document: list[list[Any]], place: str) -> None:
    if not document:
        raise TreebankError(f"{place}: no sentence in it; expected words")
    for number, sentence in enumerate(document, 1):
        if not sentence:
            raise TreebankError(f"{place}, sentence {number}: no word in it; expected at least one")
        for word in sentence:
            if not isinstance(word, str) or not word.strip() or _BREAK.search(word) or _NO_TEXT.search(word):
                raise TreebankError(f"{place}, sentence {number}: word {word!r}; expected a string without line breaks")


def _tagged(
    given: Sequence[Any], ids: Sequence[str], pipeline: Any, tag_of: TagOf, join: str, batch: int, progress: bool
) -> Iterator[Tagged]:
    """The sentences of all documents, in order."""
    from tqdm.auto import tqdm

    raw = isinstance(given[0], str)
    pieces = list(_paragraphs(given)) if raw else [_Piece(n, 0, each) for n, one in enumerate(given) for each in one]
    with tqdm(total=sum(piece.size for piece in pieces), unit="char", unit_scale=True, disable=not progress) as bar:
        found = _found(pieces, pipeline, raw, batch, bar)
        lines = _from_text(found, given, pipeline, tag_of) if raw else _from_words(found, join, tag_of)
        numbers: Counter[int] = Counter()
        for document, line, after in lines:
            numbers[document] += 1
            yield line.done(numbers[document], ids[document], after)


def _paragraphs(given: Sequence[str]) -> Iterator[_Piece]:
    """What stands between blank lines."""
    for document, text in enumerate(given):
        start = 0
        for end, after in [*(match.span() for match in _BLANK.finditer(text)), (len(text), len(text))]:
            if ink := _INK.search(text, start, end):
                yield _Piece(document, ink.start(), ink[0])
            start = after


def _found(pieces: Sequence[_Piece], pipeline: Any, raw: bool, batch: int, bar: Any) -> Iterator[tuple[_Piece, Any]]:
    """The sentences that Stanza finds, each with its piece, some pieces at a time."""
    for some in _batches(pieces, batch):
        contents = [each.content for each in some]
        if raw:
            documents = pipeline.bulk_process(contents)
            yield from ((piece, one) for piece, read in zip(some, documents, strict=True) for one in read.sentences)
        else:
            yield from zip(some, pipeline.process(contents).sentences, strict=True)
        bar.update(sum(piece.size for piece in some))


def _batches(pieces: Sequence[_Piece], batch: int) -> Iterator[list[_Piece]]:
    """Pieces together until they have as many characters as a batch."""
    some: list[_Piece] = []
    size = 0
    for piece in pieces:
        some.append(piece)
        size += piece.size
        if size >= batch:
            yield some
            some, size = [], 0
    if some:
        yield some


def _from_text(
    found: Iterable[tuple[_Piece, Any]], given: Sequence[str], pipeline: Any, tag_of: TagOf
) -> Iterator[tuple[int, _Line, str]]:
    """Sentences in the characters of their document, with what stands between one and the next."""
    line_break = "" if pipeline.processors["tokenize"].config.get("skip_newline") else " "

    def one_line(text: str) -> str:
        return _BREAK.sub(" ", text.replace("\n", line_break))

    held: tuple[int, _Line, int] | None = None
    for piece, sentence in found:
        text, line = given[piece.document], _Line(tag_of)
        start = end = piece.start + sentence.tokens[0].start_char
        for token in sentence.tokens:
            first, last = piece.start + token.start_char, piece.start + token.end_char
            line.add(one_line(text[end:first]), one_line(text[first:last]), token.words)
            end = last
        if held is not None:
            same = held[0] == piece.document
            yield held[0], held[1], _C1.sub(" ", text[held[2] : start]) if same else " "
        held = piece.document, line, end
    if held is not None:
        yield held[0], held[1], " "


def _from_words(found: Iterable[tuple[_Piece, Any]], join: str, tag_of: TagOf) -> Iterator[tuple[int, _Line, str]]:
    for piece, sentence in found:
        line = _Line(tag_of)
        for word, token in zip(piece.content, sentence.tokens, strict=True):
            line.add(join, word, token.words)
        yield piece.document, line, join


def _counted(tagged: Iterable[Tagged], counts: Counter[str]) -> Iterator[Tagged]:
    for sentence, columns in tagged:
        counts["sentences"] += 1
        counts["words"] += len(columns)
        yield sentence, columns
