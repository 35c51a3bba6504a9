"""Words and tokens brought together: a treebank and a tokenizer to a `Corpus`.

1. Every sentence, or every document with its sentences put together, is tokenized once, without special tokens; a fast
   tokenizer says which characters each token covers.
2. White space is not counted: characters are numbered without it, because a token of Llama 3 holds the space before
   it. Several tokens can have one identical span (an emoji cut into bytes).
3. A word touches the tokens that share a character with it. It counts where the first of them starts and the last of
   them ends exactly where the word does; every other word is left out and counted, by split, tag and reason. Before
   that, words that share a token can be made one (`units`).
4. What is longer than the model's context becomes several rows (`windows`).

All of 2 and 3 is numpy over many sentences at once: their texts are laid end to end, so that characters are numbered
through. This module knows no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from tqdm.auto import tqdm

from posneurons.errors import AlignmentError
from posneurons.offsets import bos_and_size, ends, is_space, tokenize, touched
from posneurons.records import Corpus
from posneurons.sentences import UNTAGGED, Sentence, Treebank, Word
from posneurons.units import runs, unit
from posneurons.windows import windows
from posneurons.words import Context, Units

if TYPE_CHECKING:
    import pandas as pd

REASONS = ("untagged", "shared surface", "no token", "cut by a token", "too long")
"""Why a word is left out; of several, the first."""

BATCH = 2048
"""Sentences that are tokenized and aligned at once; bounds memory, changes no result."""


@dataclass(frozen=True, slots=True)
class _Words:
    """Words of some sentences with their sentence, how many words of the treebank each is, and their characters."""

    words: list[Word]
    sentence: Int[ndarray, " word"]
    parts: Int[ndarray, " word"]
    start: Int[ndarray, " word"]
    end: Int[ndarray, " word"]


@dataclass(frozen=True, slots=True)
class _Part:
    """What one batch of sentences adds to a corpus: its rows, the words kept, and the words dropped."""

    tokens: Int[ndarray, " token"]
    row_bounds: Int[ndarray, " row_and_end"]
    row_sentence: Int[ndarray, " row"]
    kept: _Words
    word_row: Int[ndarray, " word"]
    word_first: Int[ndarray, " word"]
    word_last: Int[ndarray, " word"]
    dropped: Counter[tuple[str, str, str]]
    cut: int


@dataclass(frozen=True, slots=True)
class _How:
    """How a treebank is aligned: the tokenizer, tokens of a row, and the options of `align`."""

    tokenizer: Any
    room: int
    left: int
    context: Context
    units: Units


def align(
    treebank: Treebank,
    tokenizer: Any,
    *,
    n_ctx: int | None = None,
    context: Context = "sentence",
    left: int | None = None,
    units: Units = "word",
    progress: bool = False,
) -> Corpus:
    """Find the tokens of every word.

    Args:
        treebank: tagged sentences.
        tokenizer: a fast tokenizer of transformers with a BOS token.
        n_ctx: positions the model reads at once, BOS among them; by default what the tokenizer says
            (`model_max_length`), or 2,048 where it says nothing.
        context: what is read at once: each "sentence" by itself, or the consecutive sentences of a "document", as many
            as fit. Each word is counted once either way.
        left: tokens that the first counted word of a row has before it where a sentence or document is too long for one
            row; those tokens stand in two rows, and in means over tokens twice. By default a quarter of `n_ctx` for
            documents and 0 for sentences.
        units: "word" leaves out words that share a token or a surface with another. "contraction" makes them one unit
            if they have one tag, or if all or none have letters or digits: "don't" becomes one AUX+PART, as Llama 3
            cuts it inside "n't". "token" makes one unit of all, also of a word and the punctuation in its token.
        progress: show a bar.

    Returns:
        The words whose boundaries are token boundaries. `dropped` counts the others by (split, tag, reason):
        "untagged", "shared surface" (no characters of their own), "no token" (the tokenizer drops their characters),
        "cut by a token" (a token holds characters of the word and of what is beside it), "too long" (for a row).

    Raises:
        AlignmentError: where the tokenizer gives no usable offsets or no BOS, or where no word can be aligned.

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import PreTrainedTokenizerFast
    >>> inner = Tokenizer(models.WordLevel({"<s>": 0, "Go": 1, "away!": 2}))
    >>> inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    >>> words = Word("Go", "VERB", 0, 2), Word("away", "ADV", 3, 7), Word("!", "PUNCT", 7, 8)
    >>> bank = Treebank("one", "upos", (Sentence("1", "Go away!", words, "1", "train"),), "", False)
    >>> corpus = align(bank, PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>"))
    >>> corpus.tag_counts(), corpus.row_tokens(0).tolist()
    ({'ADV': 0, 'PUNCT': 0, 'VERB': 1}, [0, 1, 2])
    >>> corpus.dropped
    {('train', 'ADV', 'cut by a token'): 1, ('train', 'PUNCT', 'cut by a token'): 1}
    """
    bos, size = bos_and_size(tokenizer, n_ctx)
    how = _How(tokenizer, size - 1, _left(left, size, context), context, units)
    _check_words(context=(context, Context), units=(units, Units))
    sentences = treebank.sentences
    bounds = _batches(sentences, context)
    parts = []
    with tqdm(total=len(sentences), desc="alignment", unit="sentence", leave=None, disable=not progress) as bar:
        for first, last in pairwise(bounds):
            parts.append(_align_batch(sentences[first:last], how))
            bar.update(last - first)
    corpus = _assemble(treebank, parts, bounds, bos, how)
    if not len(corpus):
        reasons: Counter[str] = Counter()
        for (_, _, reason), count in corpus.dropped.items():
            reasons[reason] += count
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()) or "it has no words"
        raise AlignmentError(f"{treebank.name}: no word could be aligned with tokens ({why}); check the tokenizer")
    return corpus


def dropped_table(corpus: Corpus) -> pd.DataFrame:
    """Words left out, one row per (split, tag, reason), sorted.

    `words` counts them; `share` is their share of all words (left out or not) with that tag in that split.
    """
    import pandas as pd

    total: Counter[tuple[str, str]] = Counter()
    splits = corpus.row_split[corpus.word_row].tolist()
    for split, tag, count in zip(splits, corpus.word_tag.tolist(), corpus.word_parts.tolist(), strict=True):
        total[corpus.split_names[split], corpus.tags[tag]] += count
    for (split_name, tag_name, _), count in corpus.dropped.items():
        total[split_name, tag_name] += count
    rows = [
        (split, tag, reason, words, words / total[split, tag])
        for (split, tag, reason), words in sorted(corpus.dropped.items())
    ]
    return pd.DataFrame(rows, columns=["split", "tag", "reason", "words", "share"])


def _check_words(**given: tuple[str, Any]) -> None:
    """Raise AlignmentError where an option is none of its words."""
    for name, (value, words) in given.items():
        if value not in get_args(words):
            raise AlignmentError(f"{name}={value!r}; expected one of {', '.join(get_args(words))}")


def _left(left: int | None, size: int, context: Context) -> int:
    """Tokens before the first counted word of a row that is cut out of something longer."""
    if left is None:
        return size // 4 if context == "document" else 0
    if not 0 <= left < size - 1:
        raise AlignmentError(
            f"left={left}; expected 0 to {size - 2}, as {size} positions must have room for a new token"
        )
    return left


def _batches(sentences: Sequence[Sentence], context: Context) -> list[int]:
    """Bounds of runs of at least `BATCH` sentences; with documents, of whole documents."""
    bounds = [0]
    for number in range(1, len(sentences)):
        together = context == "document" and _passage(sentences[number]) == _passage(sentences[number - 1])
        if number - bounds[-1] >= BATCH and not together:
            bounds.append(number)
    return [*bounds, len(sentences)]


def _passage(sentence: Sentence) -> tuple[str, str]:
    """What consecutive sentences share that are read together."""
    return sentence.split, sentence.document


def _align_batch(sentences: Sequence[Sentence], how: _How) -> _Part:
    """The rows and words of some sentences; rows, sentences and tokens are numbered within the batch."""
    texts, first_sentence, base = _texts(sentences, how.context)
    visible = ends(~is_space("".join(texts)))
    tokens = tokenize(texts, visible, how.tokenizer)
    words = _words(sentences, base, visible)
    low, high, exact = touched(tokens, words.start, words.end)
    if how.units != "word":
        words = _united(words, sentences, low, high, how.units)
        low, high, exact = touched(tokens, words.start, words.end)
    begin = np.searchsorted(tokens.end, visible[base], side="right")
    rows = windows(tokens.bounds, begin, low, high, how.room, how.left)
    row = rows.row_of(low)
    reason = np.select(
        [
            np.array([word.tag == UNTAGGED for word in words.words], dtype=bool),
            np.array([word.shared for word in words.words], dtype=bool),
            low > high,
            ~exact,
            high >= rows.last[np.maximum(row, 0)] if len(rows.last) else low >= 0,
        ],
        range(len(REASONS)),
        len(REASONS),
    )
    kept = np.flatnonzero(reason == len(REASONS))
    lengths = rows.last - rows.first
    dropped: Counter[tuple[str, str, str]] = Counter()
    for number in np.flatnonzero(reason < len(REASONS)).tolist():
        split = sentences[words.sentence[number]].split
        dropped[split, words.words[number].tag, REASONS[reason[number]]] += int(words.parts[number])
    passages = np.searchsorted(tokens.bounds, rows.new, side="right") - 1
    return _Part(
        tokens=tokens.ids[np.repeat(rows.first - ends(lengths)[:-1], lengths) + np.arange(lengths.sum())],
        row_bounds=ends(lengths),
        row_sentence=first_sentence[passages],
        kept=_select(words, kept),
        word_row=row[kept],
        word_first=low[kept] - rows.first[row[kept]] + 1,
        word_last=high[kept] - rows.first[row[kept]] + 1,
        dropped=dropped,
        cut=int(np.count_nonzero(np.bincount(passages) > 1)),
    )


def _texts(
    sentences: Sequence[Sentence], context: Context
) -> tuple[list[str], Int[ndarray, " passage"], Int[ndarray, " sentence"]]:
    """What is tokenized at once, the first sentence of each, and where every sentence begins in all of it."""
    if context == "sentence":
        groups = [[sentence] for sentence in sentences]
    else:
        groups = [list(group) for _, group in groupby(sentences, key=_passage)]
    pieces = [[s.text + s.after for s in group[:-1]] + [group[-1].text] for group in groups]
    firsts = ends([len(group) for group in groups])[:-1]
    base = ends([len(piece) for piece in chain.from_iterable(pieces)])[:-1]
    return ["".join(each) for each in pieces], firsts, base


def _words(
    sentences: Sequence[Sentence], base: Int[ndarray, " sentence"], visible: Int[ndarray, " char_and_end"]
) -> _Words:
    """All words with the visible characters that they cover."""
    words = list(chain.from_iterable(sentence.words for sentence in sentences))
    sentence = np.repeat(np.arange(len(sentences)), [len(each.words) for each in sentences])
    start = visible[base[sentence] + _numbers([word.start for word in words])]
    end = visible[base[sentence] + _numbers([word.end for word in words])]
    return _Words(words, sentence, np.ones(len(words), dtype=np.int64), start, end)


def _united(
    words: _Words, sentences: Sequence[Sentence], low: Int[ndarray, " word"], high: Int[ndarray, " word"], units: Units
) -> _Words:
    """The same with words that share a token made one, where `units` says so."""
    made, gone = list(words.words), np.zeros(len(words.words), dtype=bool)
    parts, end = words.parts.copy(), words.end.copy()
    for first, last in runs(low, high, words.sentence):
        one = unit(words.words[first:last], sentences[words.sentence[first]].text, units)
        if one is not None:
            made[first], parts[first], end[first] = one, last - first, words.end[first:last].max()
            gone[first + 1 : last] = True
    return _select(_Words(made, words.sentence, parts, words.start, end), np.flatnonzero(~gone))


def _select(words: _Words, kept: Int[ndarray, " word"]) -> _Words:
    """Some of the words."""
    return _Words(
        [words.words[number] for number in kept],
        words.sentence[kept],
        words.parts[kept],
        words.start[kept],
        words.end[kept],
    )


def _assemble(treebank: Treebank, parts: Sequence[_Part], bounds: Sequence[int], bos: int, how: _How) -> Corpus:
    """The parts, of sentences between these bounds, as one corpus."""
    sentences = treebank.sentences
    words = list(chain.from_iterable(part.kept.words for part in parts))
    forms = Counter(word.form.casefold() for sentence in sentences for word in sentence.words)
    joined = _join([part.kept.parts for part in parts])
    forms.update(words[number].form.casefold() for number in np.flatnonzero(joined > 1))
    known = {word.tag for sentence in sentences for word in sentence.words} | {word.tag for word in words}
    tags = tuple(sorted(known - {UNTAGGED}))
    tag_number = {tag: number for number, tag in enumerate(tags)}
    documents = {name: n for n, name in enumerate(dict.fromkeys(sentence.document for sentence in sentences))}
    rows_before = ends([len(part.row_sentence) for part in parts])
    tokens_before = ends([len(part.tokens) for part in parts])
    row_sentence = _join([p.row_sentence + n for p, n in zip(parts, bounds, strict=False)])
    return Corpus(
        name=treebank.name,
        tagset=treebank.tagset,
        tags=tags,
        split_names=treebank.splits,
        bos=bos,
        tokens=_join([part.tokens for part in parts]),
        row_bounds=_join(
            [*(p.row_bounds[:-1] + n for p, n in zip(parts, tokens_before, strict=False)), tokens_before[-1:]]
        ),
        row_document=_numbers([documents[sentences[n].document] for n in row_sentence]),
        row_split=_numbers([treebank.splits.index(sentences[n].split) for n in row_sentence]),
        word_row=_join([p.word_row + n for p, n in zip(parts, rows_before, strict=False)]),
        word_first=_join([part.word_first for part in parts]),
        word_last=_join([part.word_last for part in parts]),
        word_tag=_numbers([tag_number[word.tag] for word in words]),
        word_form=np.array([word.form for word in words], dtype=object),
        word_sentence=_join([p.kept.sentence + n for p, n in zip(parts, bounds, strict=False)]),
        word_frequency=_numbers([forms[word.form.casefold()] for word in words]),
        word_parts=joined,
        dropped=dict(sum((part.dropped for part in parts), Counter())),
        split_sentences=sum(part.cut for part in parts),
        marked_documents=treebank.marked_documents,
        context=how.context,
        left=how.left,
        units=how.units,
    )


def _numbers(values: list[int]) -> Int[ndarray, " item"]:
    return np.array(values, dtype=np.int64)


def _join(arrays: Sequence[Int[ndarray, " _"]]) -> Int[ndarray, " item"]:
    """Arrays end to end, also none."""
    return np.concatenate([_numbers([]), *arrays])
