"""Words and tokens brought together: a treebank and a tokenizer to a `Corpus`.

1. Every sentence is tokenized once, without special tokens; a fast tokenizer says which characters each token covers.
2. White space is not counted: characters are numbered without it, because a token of Llama 3 holds the space before
   it. Several tokens can have one identical span (an emoji cut into bytes).
3. A word touches the tokens that share a character with it. It counts where the first of them starts and the last of
   them ends exactly where the word does; every other word is left out and counted, by split, tag and reason.
4. A sentence that is longer than the context becomes several rows, cut where no word is cut, with the tokens it has.

All of 2 and 3 is numpy over many sentences at once: their texts are laid end to end, so that characters are numbered
through. This module knows no model; it asks the tokenizer for offsets, for `bos_token_id` and for nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from posneurons.errors import AlignmentError
from posneurons.records import Corpus
from posneurons.sentences import UNTAGGED, Sentence, Treebank, Word

if TYPE_CHECKING:
    import pandas as pd

REASONS = ("untagged", "shared surface", "no token", "cut by a token", "too long")
"""Why a word is left out; of several, the first."""

DEFAULT_CONTEXT = 2048
"""Positions of a row where neither the caller nor the tokenizer says how many the model reads."""

BATCH = 2048
"""Sentences that are tokenized and aligned at once; bounds memory, changes no result."""

_SANE_CONTEXT = 1_000_000


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The tokens of some sentences, end to end; `start` and `end` count visible characters over all their texts."""

    ids: Int[ndarray, " token"]
    start: Int[ndarray, " token"]
    end: Int[ndarray, " token"]
    bounds: Int[ndarray, " sentence_and_end"]


@dataclass(frozen=True, slots=True)
class _Part:
    """What one batch of sentences adds to a corpus: its rows, the words kept, and the words dropped."""

    tokens: Int[ndarray, " token"]
    row_bounds: Int[ndarray, " row_and_end"]
    row_sentence: Int[ndarray, " row"]
    words: list[Word]
    word_row: Int[ndarray, " word"]
    word_first: Int[ndarray, " word"]
    word_last: Int[ndarray, " word"]
    dropped: Counter[tuple[str, str, str]]


def align(treebank: Treebank, tokenizer: Any, *, n_ctx: int | None = None) -> Corpus:
    """Find the tokens of every word.

    Args:
        treebank: tagged sentences.
        tokenizer: a fast tokenizer of transformers with a BOS token.
        n_ctx: positions the model reads at once, BOS among them; by default what the tokenizer says
            (`model_max_length`), or 2,048 where it says nothing.

    Returns:
        The words whose boundaries are token boundaries. `dropped` counts the others by (split, tag, reason):
        "untagged", "shared surface" (no characters of their own), "no token" (the tokenizer drops their characters),
        "cut by a token" (a token holds characters of the word and of what is beside it), "too long" (for the context).

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
    bos, size = _check(tokenizer, n_ctx)
    sentences = treebank.sentences
    firsts = range(0, len(sentences), BATCH)
    parts = [_align_batch(sentences[first : first + BATCH], tokenizer, size) for first in firsts]
    corpus = _assemble(treebank, parts, firsts, bos)
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
    codes, counts = np.unique(
        corpus.row_split[corpus.word_row] * len(corpus.tags) + corpus.word_tag, return_counts=True
    )
    for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
        split, tag = divmod(code, len(corpus.tags))
        total[corpus.split_names[split], corpus.tags[tag]] += count
    for (split_name, tag_name, _), count in corpus.dropped.items():
        total[split_name, tag_name] += count
    rows = [
        (split, tag, reason, words, words / total[split, tag])
        for (split, tag, reason), words in sorted(corpus.dropped.items())
    ]
    return pd.DataFrame(rows, columns=["split", "tag", "reason", "words", "share"])


def _check(tokenizer: Any, n_ctx: int | None) -> tuple[int, int]:
    """BOS and the size of the context. Raises AlignmentError where the tokenizer or the size cannot be used."""
    kind = type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise AlignmentError(
            f"{kind} gives no character offsets; expected a fast tokenizer of transformers (one with a tokenizer.json)"
        )
    if tokenizer.bos_token_id is None:
        raise AlignmentError(
            f"{kind} has no BOS token, with which every row begins; set tokenizer.bos_token, e.g. to its eos_token"
        )
    says = tokenizer.model_max_length
    size = n_ctx if n_ctx is not None else int(says) if says < _SANE_CONTEXT else DEFAULT_CONTEXT
    if size < 2:
        raise AlignmentError(f"n_ctx={size}; expected at least 2 positions, BOS and one token")
    return int(tokenizer.bos_token_id), size


def _align_batch(sentences: Sequence[Sentence], tokenizer: Any, context: int) -> _Part:
    """The rows and words of some sentences; rows, sentences and tokens are numbered within the batch."""
    texts = [sentence.text for sentence in sentences]
    base = _ends([len(text) for text in texts])
    visible = _ends(~_is_space("".join(texts)))
    tokens = _tokenize(texts, base, visible, tokenizer)
    words = list(chain.from_iterable(sentence.words for sentence in sentences))
    sentence = np.repeat(np.arange(len(sentences)), [len(each.words) for each in sentences])
    start = visible[base[sentence] + np.array([word.start for word in words], dtype=np.int64)]
    end = visible[base[sentence] + np.array([word.end for word in words], dtype=np.int64)]
    low, high, exact = _touched(tokens, start, end)
    row_bounds, row_sentence = _rows(tokens.bounds, low, high, context - 1)
    row = np.searchsorted(row_bounds, low, side="right") - 1
    reason = np.select(
        [
            np.array([word.tag == UNTAGGED for word in words], dtype=bool),
            np.array([word.shared for word in words], dtype=bool),
            low > high,
            ~exact,
            high >= row_bounds[np.minimum(row + 1, len(row_bounds) - 1)],
        ],
        range(len(REASONS)),
        len(REASONS),
    )
    kept = np.flatnonzero(reason == len(REASONS))
    begin = row_bounds[row[kept]] - 1
    return _Part(
        tokens=tokens.ids,
        row_bounds=row_bounds,
        row_sentence=row_sentence,
        words=[words[number] for number in kept],
        word_row=row[kept],
        word_first=low[kept] - begin,
        word_last=high[kept] - begin,
        dropped=Counter(
            (sentences[sentence[number]].split, words[number].tag, REASONS[reason[number]])
            for number in np.flatnonzero(reason < len(REASONS))
        ),
    )


def _ends(lengths: Sequence[int] | Bool[ndarray, " char"]) -> Int[ndarray, " item_and_end"]:
    """0 and the running sum: item i is from [i] to [i + 1]."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])


def _is_space(text: str) -> Bool[ndarray, " char"]:
    """Which characters are white space."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    spaces = [code for code in np.unique(codes).tolist() if chr(code).isspace()]
    return np.isin(codes, spaces)


def _tokenize(
    texts: list[str], base: Int[ndarray, " sentence_and_end"], visible: Int[ndarray, " char_and_end"], tokenizer: Any
) -> _Tokens:
    """All texts as tokens with their spans. Raises AlignmentError where spans are missing or out of order."""
    encoded = tokenizer(
        texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    bounds = _ends([len(ids) for ids in encoded["input_ids"]])
    ids = np.fromiter(chain.from_iterable(encoded["input_ids"]), dtype=np.int64, count=bounds[-1])
    flat = chain.from_iterable(chain.from_iterable(encoded["offset_mapping"]))
    spans = np.fromiter(flat, dtype=np.int64, count=2 * bounds[-1]) + np.repeat(base[:-1], 2 * np.diff(bounds))
    first, last = spans[0::2], spans[1::2]
    tokens = _Tokens(ids, visible[first], visible[last], bounds)
    _check_spans(tokens, first == last, visible[base], texts)
    return tokens


def _check_spans(
    tokens: _Tokens,
    empty: Bool[ndarray, " token"],
    base: Int[ndarray, " sentence_and_end"],
    texts: list[str],
) -> None:
    """Raises AlignmentError where a sentence has a token without characters and characters without a token."""
    if not empty.any():
        return
    depth = np.zeros(base[-1] + 1, dtype=np.int64)
    np.add.at(depth, tokens.start, 1)
    np.add.at(depth, tokens.end, -1)
    bare = np.searchsorted(base, np.flatnonzero(np.cumsum(depth)[:-1] == 0), side="right") - 1
    odd = np.intersect1d(bare, np.searchsorted(tokens.bounds, np.flatnonzero(empty), side="right") - 1)
    if len(odd):
        raise AlignmentError(
            f"the tokenizer's offsets are wrong: in {texts[odd[0]][:60]!r} a token covers no character and a character "
            "belongs to no token; expected a span for every token: use tokenizers 0.20 or later"
        )


def _touched(
    tokens: _Tokens, start: Int[ndarray, " word"], end: Int[ndarray, " word"]
) -> tuple[Int[ndarray, " word"], Int[ndarray, " word"], Bool[ndarray, " word"]]:
    """The first and last token with a character of each word, and whether together they are exactly the word.

    A word that touches no token has first 0 and last -1. Raises AlignmentError where spans are not in order.
    """
    if (np.diff(tokens.start) < 0).any() or (np.diff(tokens.end) < 0).any():
        raise AlignmentError("the tokenizer's offsets are not in the order of the text; expected a fast tokenizer")
    low = np.searchsorted(tokens.end, start, side="right")
    high = np.searchsorted(tokens.start, end, side="left") - 1
    some = np.flatnonzero((low <= high) & (start < end))
    first, last, exact = np.zeros_like(start), np.full_like(start, -1), np.zeros(len(start), dtype=bool)
    exact[some] = (tokens.start[low[some]] == start[some]) & (tokens.end[high[some]] == end[some])
    first[some], last[some] = low[some], high[some]
    return first, last, exact


def _rows(
    bounds: Int[ndarray, " sentence_and_end"], low: Int[ndarray, " word"], high: Int[ndarray, " word"], room: int
) -> tuple[Int[ndarray, " row_and_end"], Int[ndarray, " row"]]:
    """Bounds of rows of at most `room` tokens, and the sentence of each: cut where no word is cut, if possible."""
    inside = np.zeros(bounds[-1] + 2, dtype=np.int64)
    wide = high > low
    np.add.at(inside, low[wide] + 1, 1)
    np.add.at(inside, high[wide] + 1, -1)
    free = np.flatnonzero(np.cumsum(inside) == 0)
    lengths = np.diff(bounds)
    starts = [bounds[:-1][lengths > 0]]
    starts += [_cuts(int(bounds[n]), int(bounds[n + 1]), free, room) for n in np.flatnonzero(lengths > room)]
    row_starts = np.sort(np.concatenate(starts))
    return np.append(row_starts, bounds[-1]), np.searchsorted(bounds[:-1], row_starts, side="right") - 1


def _cuts(first: int, last: int, free: Int[ndarray, " free"], room: int) -> Int[ndarray, " cut"]:
    """Where the tokens first..last are cut into rows: at the last free place within reach, or at the end of the row."""
    cuts = [first]
    while last - cuts[-1] > room:
        best = int(free[np.searchsorted(free, cuts[-1] + room, side="right") - 1])
        cuts.append(best if best > cuts[-1] else cuts[-1] + room)
    return np.array(cuts[1:], dtype=np.int64)


def _assemble(treebank: Treebank, parts: Sequence[_Part], firsts: Sequence[int], bos: int) -> Corpus:
    """The parts, `firsts` being the number of the first sentence of each, as one corpus."""
    sentences = treebank.sentences
    words = list(chain.from_iterable(part.words for part in parts))
    tags = tuple(sorted({word.tag for sentence in sentences for word in sentence.words} - {UNTAGGED}))
    tag_number = {tag: number for number, tag in enumerate(tags)}
    documents = {name: n for n, name in enumerate(dict.fromkeys(sentence.document for sentence in sentences))}
    row_sentence = _join([part.row_sentence + first for part, first in zip(parts, firsts, strict=True)])
    rows_before = _ends([len(part.row_sentence) for part in parts])
    tokens_before = _ends([len(part.tokens) for part in parts])
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
        row_sentence=row_sentence,
        row_document=_numbers([documents[sentences[n].document] for n in row_sentence]),
        row_split=_numbers([treebank.splits.index(sentences[n].split) for n in row_sentence]),
        word_row=_join([p.word_row + n for p, n in zip(parts, rows_before, strict=False)]),
        word_first=_join([part.word_first for part in parts]),
        word_last=_join([part.word_last for part in parts]),
        word_tag=_numbers([tag_number[word.tag] for word in words]),
        word_form=np.array([word.form for word in words], dtype=object),
        dropped=dict(sum((part.dropped for part in parts), Counter())),
        split_sentences=int(np.count_nonzero(np.bincount(row_sentence) > 1)),
        marked_documents=treebank.marked_documents,
    )


def _numbers(values: list[int]) -> Int[ndarray, " item"]:
    return np.array(values, dtype=np.int64)


def _join(arrays: Sequence[Int[ndarray, " _"]]) -> Int[ndarray, " item"]:
    """Arrays end to end, also none."""
    return np.concatenate([_numbers([]), *arrays])
