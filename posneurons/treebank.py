"""Treebanks: where their files are, and which split each file is.

What is in a file is read by `conll` or `penn`; what has a code is fetched by `registry`. This module knows neither
tokenizers nor tensors.
"""

from __future__ import annotations

import hashlib
import re
from os import PathLike
from pathlib import Path

from posneurons.conll import read_file
from posneurons.errors import TreebankError
from posneurons.registry import MAPPING, default_cache, fetch, fetch_file, find
from posneurons.sentences import UNTAGGED, Sentence, Treebank
from posneurons.tagsets import tag_reader

_SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
_PENN = ("ptb-sample", "brown")
_ORDER = ("train", "dev", "test", "all")


def load_treebank(
    source: str | PathLike[str] | None = None,
    *,
    tag: str = "upos",
    cache: str | PathLike[str] | None = None,
    progress: bool = False,
) -> Treebank:
    """Read a treebank, from this machine or by the name under which `registry` knows it.

    Args:
        source: None or "demo" for the embedded treebank; a .conllu file; a folder, of which every .conllu file is read,
            or, where it has none, every Penn Treebank file (.mrg) in it and below; or the code of a treebank such as
            "en_ewt", "ptb-sample" or "brown", which is fetched on first use. A file or folder of that name wins over a
            code. The split of a .conllu file is what its name says ("x-ud-train.conllu", "dev.conllu"), else "all".
        tag: "upos", "xpos", "lemma", "form", the name of a feature such as "Number", or several of these joined by +.
            A word without it has the tag "_".
        cache: folder of what was fetched; by default `registry.default_cache()`.
        progress: show a bar for every file that is fetched.

    Multiword tokens give their words spans of their own where the forms, put together, are the surface ("do" + "n't");
    otherwise each has the span of the whole and is marked as shared. Empty nodes are no words. Documents are those of
    `# newdoc`; a sentence outside of any is a document by itself.

    Raises:
        TreebankError: where there is nothing to read, a file is not what it should be (with file and line), or it
            cannot be fetched.

    >>> load_treebank().splits
    ('train', 'dev', 'test')
    """
    if source is None or str(source) == "demo":
        return _read_conllu("demo", _demo_files(), tag)
    path = Path(source)
    if not str(source).strip():
        raise TreebankError(f"{str(source)!r}: expected 'demo', a .conllu file, a folder, or the code of a treebank")
    try:
        is_folder, there = path.is_dir(), path.exists()
    except OSError as error:
        raise TreebankError(f"{str(source)[:80]}: cannot be read: {error.strerror}; check the path") from error
    if is_folder:
        return _read_folder(path, tag, cache, progress)
    if there:
        if path.suffix != ".conllu":
            raise TreebankError(f"{source}: expected a file in CoNLL-U, with a name that ends in .conllu")
        return _read_conllu(path.stem, [path], tag)
    if path.suffix or str(source) != path.name:
        raise TreebankError(f"{source}: no such file or folder; expected a .conllu file, or a folder with such files")
    return _read_code(str(source), tag, cache, progress)


def _read_conllu(name: str, paths: list[Path], tag: str) -> Treebank:
    """The files of a treebank in reading order, as one."""
    tag_of = tag_reader(tag)
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
        raise TreebankError(
            f"{name}: no word has a tag in {tag!r}; expected a column or feature that it has, such as 'upos'"
        )
    return Treebank(name, tag, tuple(sentences), digest.hexdigest(), marked)


def _read_code(code: str, tag: str, cache: str | PathLike[str] | None, progress: bool) -> Treebank:
    """A treebank of the registry."""
    paths = fetch(find(code), cache, progress=progress)
    if code not in _PENN:
        return _read_conllu(code, paths, tag)
    from posneurons import penn

    load = penn.load_brown if code == "brown" else penn.load_ptb
    return load(paths[0], name=code, tag=tag, universal=paths[1])


def _read_folder(folder: Path, tag: str, cache: str | PathLike[str] | None, progress: bool) -> Treebank:
    """The .conllu files of a folder, or the Penn Treebank files in it and below."""
    name = folder.name or folder.resolve().name
    paths = _conllu_files(folder)
    if paths:
        return _read_conllu(name, paths, tag)
    if next(folder.rglob("*.[mM][rR][gG]"), None) is None:
        raise TreebankError(
            f"{folder}: a folder without .conllu files, and no .mrg file in it or below; expected e.g. train.conllu, "
            "dev.conllu, or a Penn Treebank"
        )
    from posneurons import penn

    mapped = "upos" in tag.split("+")
    universal = fetch_file(MAPPING, Path(cache or default_cache()), progress=progress) if mapped else None
    return penn.load_ptb(folder, name=name, tag=tag, universal=universal)


def _demo_files() -> list[Path]:
    found = _conllu_files(Path(__file__).parent / "demo" / "treebank")
    if not found:
        raise TreebankError("demo: the embedded treebank is not there; install posneurons again")
    return found


def _conllu_files(folder: Path) -> list[Path]:
    """The .conllu files of a folder in reading order: train, dev, test, others; in each, by name."""
    return sorted(folder.glob("*.conllu"), key=lambda path: (_ORDER.index(_split_of(path)), path.name))


def _split_of(path: Path) -> str:
    """The last word of a file's name that says a split, or "all"."""
    known = [_SPLITS[part] for part in re.split(r"[-_.]", path.stem.lower()) if part in _SPLITS]
    return known[-1] if known else "all"
