"""Treebanks: where their files are, and which split each file is.

What is in a file is read by `conll`. This module knows neither tokenizers nor tensors.
"""

from __future__ import annotations

import hashlib
import re
from os import PathLike
from pathlib import Path

from posneurons.conll import read_file
from posneurons.errors import TreebankError
from posneurons.sentences import UNTAGGED, Sentence, Treebank
from posneurons.tagsets import tag_reader

_SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
_ORDER = ("train", "dev", "test", "all")


def load_treebank(source: str | PathLike[str] | None = None, *, tag: str = "upos") -> Treebank:
    """Read a treebank in CoNLL-U.

    Args:
        source: None or "demo" for the embedded treebank; a .conllu file; or a folder, of which every .conllu file is
            read. The split is what the file's name says ("en_ewt-ud-train.conllu", "dev.conllu"), else "all".
        tag: "upos", "xpos", or the name of a feature such as "Number". A word without it has the tag "_".

    Multiword tokens give their words spans of their own where the forms, put together, are the surface ("do" + "n't");
    otherwise each has the span of the whole and is marked as shared. Empty nodes are no words. Documents are those of
    `# newdoc`; a sentence outside of any is a document by itself.

    Raises:
        TreebankError: where there is nothing to read, or a file is not what it should be (with file and line).

    >>> load_treebank().splits
    ('train', 'dev', 'test')
    """
    tag_of = tag_reader(tag)
    name, paths = _find(source)
    digest = hashlib.sha256()
    sentences: list[Sentence] = []
    marked = False
    for path in paths:
        before = len(sentences)
        for sentence, in_document in read_file(path, _split_of(path), tag_of, digest.update):
            sentences.append(sentence)
            marked |= in_document
        if len(sentences) == before:
            raise TreebankError(f"{path}: no sentence in this file; expected CoNLL-U, ten columns with tabs between")
    if all(word.tag == UNTAGGED for sentence in sentences for word in sentence.words):
        raise TreebankError(f"{name}: no word has a tag in {tag!r}; expected 'upos', 'xpos' or a feature that it has")
    return Treebank(name, tag, tuple(sentences), digest.hexdigest(), marked)


def _find(source: str | PathLike[str] | None) -> tuple[str, list[Path]]:
    """The name of a treebank and its files in reading order: train, dev, test, others."""
    if source is None or str(source) == "demo":
        folder = Path(__file__).parent / "demo" / "treebank"
        return "demo", _folder_files(folder, "the embedded treebank is not there; install posneurons again")
    path = Path(source)
    if path.is_dir():
        name = path.name or path.resolve().name
        return name, _folder_files(path, "a folder without .conllu files; expected e.g. train.conllu, dev.conllu")
    if not path.exists():
        raise TreebankError(
            f"{source}: no such treebank; expected 'demo', a .conllu file, or a folder with .conllu files"
        )
    if path.suffix != ".conllu":
        raise TreebankError(f"{source}: expected a file in CoNLL-U, with a name that ends in .conllu")
    return path.stem, [path]


def _folder_files(folder: Path, otherwise: str) -> list[Path]:
    """The .conllu files of a folder, by split and name; `otherwise` says what is wrong where there are none."""
    found = sorted(folder.glob("*.conllu"), key=lambda path: (_ORDER.index(_split_of(path)), path.name))
    if not found:
        raise TreebankError(f"{folder}: {otherwise}")
    return found


def _split_of(path: Path) -> str:
    """The last word of a file's name that says a split, or "all"."""
    known = [_SPLITS[part] for part in re.split(r"[-_.]", path.stem.lower()) if part in _SPLITS]
    return known[-1] if known else "all"
