"""Sentences whose words and tags are written in the test, and the words of a corpus in a row."""

from posneurons.records import Corpus
from posneurons.sentences import Sentence, Treebank, Word

Span = tuple[int, int]


def sentence(text: str, *words: str, split: str = "train", document: str = "d", number: int = 0) -> Sentence:
    """Words are written as form/TAG and found in the text in order; form//TAG shares the surface of the next."""
    found, at = [], 0
    for word in words:
        form, tag = word.split("/", 1)
        at = text.index(form, at)
        found.append(Word(form, tag.lstrip("/"), at, at + len(form), shared=tag.startswith("/")))
        at += 0 if tag.startswith("/") else len(form)
    return Sentence(str(number), text, tuple(found), document, split)


def bank(*sentences: Sentence) -> Treebank:
    return Treebank("bank", "upos", sentences, "", marked_documents=True)


def words(corpus: Corpus) -> list[tuple[str, str, int, int, int]]:
    """Form, tag, row, first and last position of every word."""
    tags = [corpus.tags[number] for number in corpus.word_tag]
    columns = (corpus.word_form, tags, corpus.word_row, corpus.word_first, corpus.word_last)
    return [(form, tag, int(row), int(a), int(b)) for form, tag, row, a, b in zip(*columns, strict=True)]
