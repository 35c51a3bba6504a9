"""From a configuration to the words that a run reads: which treebank, which tags, which splits, in which context."""

from __future__ import annotations

from typing import Any, cast

from posneurons.alignment import align
from posneurons.config import Config, fold_of
from posneurons.records import Corpus
from posneurons.sentences import Treebank
from posneurons.splits import OPEN_CLASSES, by_type, fold, with_splits
from posneurons.tagsets import read_classes, retag
from posneurons.treebank import load_treebank
from posneurons.words import Context, Units


def read_tagged(source: str, tag: str, classes: str | None, cache: str | None, *, progress: bool = False) -> Treebank:
    """A treebank with tags, or classes made of them by a file of a user's."""
    bank = load_treebank(source, tag=tag, cache=cache, progress=progress)
    return bank if classes is None else retag(bank, **read_classes(classes))


def read_treebank(config: Config, *, progress: bool = False) -> tuple[Treebank, list[str]]:
    """The treebank with the tags and splits that were asked for, and what its reader should know of it.

    Raises:
        TreebankError: where the treebank or the file of classes cannot be had or read, or cannot be split so.
    """
    bank, notes = read_tagged(config.treebank, config.tag, config.classes, config.cache, progress=progress), []
    number = fold_of(config.split)
    if number is not None:
        bank = fold(bank, number[0] - 1, number[1], seed=config.seed, dev=number[1] > 2)
    elif config.split in ("document", "sentence"):
        bank = with_splits(bank, seed=config.seed, by=cast("Any", config.split))
        if config.split == "document" and not bank.marked_documents:
            notes.append(f"{bank.name} marks no documents, so it was split by sentence")
    elif not {"train", "test"} <= set(bank.splits):
        notes.append(f"{bank.name} has the splits {', '.join(bank.splits)}: it was split anew into train, dev and test")
        bank = with_splits(bank, seed=config.seed)
    shared = {s.document for s in bank.split("train")} & {s.document for s in bank.split("test")}
    if bank.marked_documents and shared:
        torn = "; what is read as a document has gaps" if config.context == "document" else ""
        notes.append(f"{len(shared)} documents have sentences in both train and test, such as {min(shared)}{torn}")
    return bank, notes


def read_corpus(config: Config, bank: Treebank, tokenizer: Any, n_ctx: int) -> tuple[Corpus, list[str]]:
    """The words aligned with a model's tokens, and what its reader should know of it.

    Raises:
        AlignmentError: where words and tokens cannot be brought together.
        TreebankError: where there are too few word types to be split.
    """
    corpus = align(
        bank,
        tokenizer,
        n_ctx=n_ctx,
        context=cast("Context", config.context),
        left=config.left,
        units=cast("Units", config.units),
    )
    notes = []
    if config.context == "document" and not bank.marked_documents:
        notes.append(f"{bank.name} marks no documents, so each sentence is read by itself")
    if corpus.split_sentences:
        notes.append(
            f"{corpus.split_sentences} {config.context}s were longer than the model's context and were split"
            + (f", each part with {corpus.left} tokens or more from before it" if corpus.left else "")
        )
    if config.split == "type":
        opened = bank.tagset == "upos"
        corpus = by_type(corpus, seed=config.seed, tags=OPEN_CLASSES if opened else None)
        which = "open classes" if opened else "all tags, as open classes are known for upos only"
        notes.append(f"words are split by type ({which}); those of a type that another split has are left out")
    return corpus, notes


def described(bank: Treebank, corpus: Corpus) -> dict[str, Any]:
    """What the manifest says of a treebank and of how it was read."""
    splits = {}
    for name in bank.splits:
        part, words = bank.split(name), corpus.split(name)
        splits[name] = {"sentences": len(part), "words": int(words.word_parts.sum()), "units": len(words)}
    how = {"context": corpus.context, "left": corpus.left, "units": corpus.units}
    return {"name": bank.name, "tagset": bank.tagset, "sha256": bank.sha256, "splits": splits, **how}
