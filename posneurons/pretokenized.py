"""Words and tags that are there already: lists, a pandas frame, a token-classification set of Hugging Face.

A model reads text, and such sources hold words. What stands between the words is therefore the caller's to say
(`join`); whatever it is, every word is then found in the text again, so that its span is right or an error is raised.
Words are taken as they are: this module does not know which of them were written as one ("do", "n't"), and holds no
rule of any language.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from posneurons.errors import TreebankError
from posneurons.sentences import UNTAGGED, Sentence, Treebank, Word, writable

if TYPE_CHECKING:
    import pandas as pd

Join = str | Callable[[Sequence[str]], str]
"""What makes a text of words: white space or nothing to put between them, "english", or a function."""

_SPLITS = {"validation": "dev", "valid": "dev"}
"""Other names of splits, and what they are called here."""

_KEPT = "expected the words as they are, with only white space between"


@dataclass(frozen=True, slots=True)
class _Given:
    """A sentence as it was given, not yet checked; `place` says where, and `row` the row of its first word, if any."""

    id: str
    document: Any
    split: Any
    words: Any
    tags: Any
    place: str
    row: int | None = None

    def at(self, word: int) -> str:
        return f"{self.place}, word {word + 1}" if self.row is None else f"row {self.row + word}"


def from_lists(
    words: Iterable[Iterable[Any]],
    tags: Iterable[Iterable[Any]],
    *,
    name: str = "lists",
    split: str | Iterable[str] = "all",
    documents: Iterable[str] | None = None,
    join: Join = " ",
    tagset: str = "given",
) -> Treebank:
    """A treebank from lists of words and lists of tags.

    Args:
        words: one list of strings for each sentence; a word has no white space at its ends.
        tags: as many lists, with a tag for each word; "_" for none.
        name: of the treebank.
        split: of all sentences, or of each. "validation" is called "dev".
        documents: the document of each sentence; None where they are not known, and each sentence stands for one.
        join: what stands between two words: white space, or "" for a language without spaces; "english" for English as
            it is written; or a function from the words of a sentence to its text, in which they stand in their order
            with nothing but white space between them.
        tagset: what the tags are.

    Returns:
        Sentences named by their numbers from 1. `sha256` is the digest of splits, documents, texts, words and tags.

    Raises:
        TreebankError: where the lengths differ, a word or tag is no string or empty, or the words are not in the text;
            with the sentence, counted from 1.

    >>> bank = from_lists([["Dogs", "bark"], ["Hi"]], [["NOUN", "VERB"], ["INTJ"]])
    >>> [(word.form, word.tag, word.start, word.end) for word in bank.sentences[0].words]
    [('Dogs', 'NOUN', 0, 4), ('bark', 'VERB', 5, 9)]
    """
    sentences, labels = _listed(name, "words", words), _listed(name, "tags", tags)
    splits = [split] * len(sentences) if isinstance(split, str) else _listed(name, "split", split)
    units = [str(n + 1) for n in range(len(sentences))] if documents is None else list(documents)
    for what, count in (("tags", len(labels)), ("split", len(splits)), ("documents", len(units))):
        if count != len(sentences):
            raise TreebankError(f"{name}: {len(sentences)} sentences in words, but {count} in {what}; expected as many")
    given = (
        _Given(str(n), document, part, forms, names, f"sentence {n}")
        for n, (forms, names, part, document) in enumerate(zip(sentences, labels, splits, units, strict=True), 1)
    )
    return _treebank(name, tagset, given, join, documents is not None)


def from_frame(
    frame: pd.DataFrame,
    *,
    word: str = "word",
    tag: str = "tag",
    sentence: str = "sentence",
    document: str | None = None,
    split: str | None = None,
    name: str = "frame",
    join: Join = " ",
) -> Treebank:
    """A treebank from a pandas frame with one row for each word, in the order of the text.

    Args:
        frame: the words.
        word: the column of words.
        tag: the column of tags, whose name is also that of the tag set.
        sentence: the column that says which sentence a word is of: a run of rows with one value is a sentence.
        document: the column of documents, if there is one; a new document begins a new sentence.
        split: the column of splits, if there is one; else all is "all". "validation" is called "dev".
        name: of the treebank.
        join: as in `from_lists`.

    Returns:
        Sentences named by what their column says.

    Raises:
        TreebankError: where a column or a value is missing, a word or tag is no string, a sentence is in two splits,
            or a sentence of a document comes back after another; with the row, counted from 0 as in `frame.iloc`.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"word": ["Dogs", "bark", "Hi"], "tag": ["NOUN", "VERB", "INTJ"], "sentence": [1, 1, 2]})
    >>> [found.text for found in from_frame(frame)]
    ['Dogs bark', 'Hi']
    """
    columns = {column: _column(frame, column, name) for column in (word, tag, sentence, document, split) if column}
    given = _runs(
        name,
        columns[word],
        columns[tag],
        columns[sentence],
        columns[document] if document else None,
        columns[split] if split else ["all"] * len(frame),
    )
    return _treebank(name, tag, given, join, document is not None)


def from_dataset(
    dataset: Any,
    *,
    words: str = "tokens",
    tags: str | None = None,
    document: str | None = None,
    name: str | None = None,
    join: Join = " ",
) -> Treebank:
    """A treebank from a token-classification set of Hugging Face `datasets`.

    Args:
        dataset: a `Dataset` with one row for each sentence, or a `DatasetDict`. Splits have the names they have there,
            but "validation" is called "dev"; a set without a name for its split is "all".
        words: the column with the list of words.
        tags: the column with the list of tags, whose name is also that of the tag set. Class labels become their
            names, strings are taken as they are. None takes the only column of class labels, or where there is none,
            the only other column of strings.
        document: the column of documents, if there is one.
        name: of the treebank; None for what the dataset says.
        join: as in `from_lists`.

    Returns:
        Sentences named by their numbers from 1, through all splits.

    Raises:
        TreebankError: where a column is missing, it is not clear which has the tags, or tags are numbers without
            names; else as in `from_lists`, with the split and the row, counted from 0 as in `dataset[0]`.

    >>> from datasets import ClassLabel, Dataset, Features, List, Value
    >>> kinds = Features({"tokens": List(Value("string")), "upos": List(ClassLabel(names=["NOUN", "VERB"]))})
    >>> bank = from_dataset(Dataset.from_dict({"tokens": [["Dogs", "bark"]], "upos": [[0, 1]]}, features=kinds))
    >>> bank.tagset, bank.tag_counts()
    ('upos', Counter({'NOUN': 1, 'VERB': 1}))
    """
    parts = _parts(dataset)
    some = next(iter(parts.values()))
    name = name or some.info.dataset_name or some.builder_name or "dataset"
    tags = tags or _tag_column(name, some, words)
    return _treebank(name, tags, _rows(name, parts, words, tags, document), join, document is not None)


def _column(frame: pd.DataFrame, column: str, name: str) -> list[Any]:
    """The values of a column. Raises TreebankError where it is not there, or a value is not."""
    if list(frame.columns).count(column) != 1:
        raise TreebankError(_no_column(name, column, frame.columns))
    missing = frame[column].isna().to_numpy()
    if missing.any():
        raise TreebankError(
            f"{name}: row {missing.argmax()}: no value in the column {column!r}; fill it, or where it is a word such "
            "as NA, read the file with keep_default_na=False"
        )
    return list(frame[column])


def _no_column(name: str, column: str, columns: Iterable[Any]) -> str:
    return f"{name}: expected one column {column!r}; found {', '.join(map(str, columns)) or 'none'}"


def _runs(
    name: str, words: list[Any], tags: list[Any], sentence: list[Any], document: list[Any] | None, split: list[Any]
) -> Iterator[_Given]:
    """The sentences of a frame. Raises TreebankError where the rows of one are not together, or not in one split."""
    key = list(zip(document or [None] * len(sentence), sentence, strict=True))
    seen: set[tuple[Any, Any]] = set()
    for number, (here, run) in enumerate(groupby(range(len(key)), key.__getitem__), 1):
        rows = list(run)
        first, end = rows[0], rows[-1] + 1
        splits = list(dict.fromkeys(split[first:end]))
        if len(splits) > 1:
            raise TreebankError(f"{name}: rows {first} to {end - 1}: one sentence in the splits {splits}; expected one")
        if document and here in seen:
            raise TreebankError(f"{name}: row {first}: sentence {here[1]!r} of {here[0]!r} begins again; sort the rows")
        seen.add(here)
        unit = str(here[0]) if document else str(number)
        yield _Given(str(here[1]), unit, str(splits[0]), words[first:end], tags[first:end], f"row {first}", first)


def _parts(dataset: Any) -> dict[str, Any]:
    """The sets of each split. Raises TreebankError where it is something else."""
    from datasets import Dataset

    if isinstance(dataset, Dataset):
        said = re.match(r"\w+(?=\[|$)", str(dataset.split or ""))
        return {said[0] if said else "all": dataset}
    if isinstance(dataset, Mapping) and dataset and all(isinstance(part, Dataset) for part in dataset.values()):
        return {str(split): part for split, part in dataset.items()}
    raise TreebankError(f"found {type(dataset).__name__}; expected a Dataset, or a DatasetDict with a Dataset in it")


def _tag_column(name: str, dataset: Any, words: str) -> str:
    """The column that can only be the tags. Raises TreebankError where there is none, or several."""
    kinds = {each: getattr(kind, "feature", None) for each, kind in dataset.features.items() if each != words}
    labels = [each for each, kind in kinds.items() if hasattr(kind, "names")]
    strings = [each for each, kind in kinds.items() if getattr(kind, "dtype", None) in ("string", "large_string")]
    found: list[str] = labels or strings
    if len(found) != 1:
        which = f"any of {', '.join(found)}" if found else f"none of {', '.join(dataset.features)}"
        raise TreebankError(f"{name}: the tags can be in {which}; say in which: tags=...")
    return found[0]


def _rows(name: str, parts: Mapping[str, Any], words: str, tags: str, document: str | None) -> Iterator[_Given]:
    """The rows of all splits, with the names of class labels. Raises TreebankError where a column is missing."""
    chosen = [column for column in (words, tags, document) if column]
    number = 0
    for split, dataset in parts.items():
        for column in chosen:
            if column not in dataset.features:
                raise TreebankError(_no_column(name, column, dataset.features))
        names = dict(enumerate(getattr(getattr(dataset.features[tags], "feature", None), "names", ())))
        for row, values in enumerate(dataset.select_columns(chosen).with_format(None)):
            number += 1
            unit = values[document] if document else number
            labels = values[tags]
            if names and labels:
                labels = [names.get(label, label) for label in labels]
            place = f"{split}, row {row}"
            yield _Given(str(number), None if unit is None else str(unit), split, values[words], labels, place)


def _treebank(name: str, tagset: str, given: Iterable[_Given], join: Join, marked: bool) -> Treebank:
    """The sentences, checked, and their digest."""
    text_of, after = _joiner(join)
    sentences = tuple(_sentence(name, each, text_of, after) for each in given)
    if not sentences:
        raise TreebankError(f"{name}: no sentence; expected at least one")
    digest = hashlib.sha256()
    for each in sentences:
        words = [(word.form, word.tag) for word in each.words]
        digest.update(json.dumps([each.split, each.document, each.text, each.after, words]).encode())
    return Treebank(name, tagset, sentences, digest.hexdigest(), marked)


def _listed(name: str, what: str, value: Any) -> list[Any]:
    """What was given for all sentences, as a list. Raises TreebankError where it is no list."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TreebankError(f"{name}: {value!r:.40} for {what}; expected a list with an entry for every sentence")
    return list(value)


def _joiner(join: Join) -> tuple[Callable[[Sequence[str]], str], str]:
    """From words to a text, and what stands between two texts."""
    if callable(join):
        return join, " "
    if not isinstance(join, str):
        raise TreebankError(f"join={join!r}: expected white space, '', 'english' or a function from words to a text")
    if join == "english":
        from posneurons.detokenizer import detokenize

        return lambda words: detokenize(words)[0], " "
    if join.strip():
        raise TreebankError(f"join={join!r}: expected white space, '', 'english' or a function from words to a text")
    return join.join, join


def _sentence(name: str, given: _Given, text_of: Callable[[Sequence[str]], str], after: str) -> Sentence:
    """One sentence. Raises TreebankError where something is wrong with it."""
    where = f"{name}: {given.place}"
    for what, value in (("split", given.split), ("document", given.document)):
        if not isinstance(value, str) or not value.strip():
            raise TreebankError(f"{where}: {what} {value!r}; expected a string")
    words, tags = _checked(name, given)
    text = text_of(words)
    if not isinstance(text, str):
        raise TreebankError(f"{where}: join gives {text!r:.40}; expected a string, the text of the words")
    text = text.strip()
    spans = _spans(where, words, text)
    found = (Word(str(word), str(tag), *span) for word, tag, span in zip(words, tags, spans, strict=True))
    return Sentence(given.id, text, tuple(found), given.document, _SPLITS.get(given.split, given.split), after=after)


def _checked(name: str, given: _Given) -> tuple[list[str], list[str]]:
    """The words of a sentence and their tags. Raises TreebankError where these are something else."""
    where = f"{name}: {given.place}"
    for what, value in (("words", given.words), ("tags", given.tags)):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TreebankError(f"{where}: {value!r:.40} for its {what}; expected a list of {what} for every sentence")
    words, tags = list(given.words), list(given.tags)
    if not words or len(words) != len(tags):
        raise TreebankError(
            f"{where}: {len(words)} words and {len(tags)} tags; expected a tag for every word, and a word"
        )
    for n, (word, tag) in enumerate(zip(words, tags, strict=True)):
        where = f"{name}: {given.at(n)}"
        if not isinstance(word, str) or not word or word != word.strip() or not writable(word):
            raise TreebankError(f"{where}: {word!r:.40}; expected a word, without white space at its ends")
        if not isinstance(tag, str) or not tag.strip() or not writable(tag):
            raise TreebankError(f"{where}: tag {tag!r:.40}; expected its name, {UNTAGGED!r} where there is none")
    return words, tags


def _spans(where: str, words: Sequence[str], text: str) -> Iterator[tuple[int, int]]:
    """Where each word is. Raises TreebankError where the text is not the words with white space between."""
    at = 0
    for number, word in enumerate(words, 1):
        while text[at : at + 1].isspace():
            at += 1
        if not text.startswith(word, at):
            there = repr(text[at : at + 20]) if at < len(text) else "at its end"
            raise TreebankError(f"{where}: the text that join gives is {there} at word {number}, {word!r}; {_KEPT}")
        yield at, at + len(word)
        at += len(word)
    if at < len(text):
        raise TreebankError(
            f"{where}: the text that join gives goes on after the last word: {text[at:]!r:.40}; {_KEPT}"
        )
