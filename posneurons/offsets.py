"""Texts to tokens with the characters that each covers, white space not counted; and which tokens a word touches.

This module knows no model and no treebank; it asks the tokenizer for offsets, for `bos_token_id` and, where nobody says
how much is read at once, for `model_max_length`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from posneurons.errors import AlignmentError

DEFAULT_CONTEXT = 2048
"""Positions of a row where neither the caller nor the tokenizer says how many the model reads."""

_SANE_CONTEXT = 1_000_000
"""What tokenizers say that have no limit is far beyond this."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of some texts, end to end; `start` and `end` count visible characters over all of them."""

    ids: Int[ndarray, " token"]
    start: Int[ndarray, " token"]
    end: Int[ndarray, " token"]
    bounds: Int[ndarray, " text_and_end"]


def bos_and_size(tokenizer: Any, n_ctx: int | None) -> tuple[int, int]:
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


def ends(lengths: Sequence[int] | Int[ndarray, " item"] | Bool[ndarray, " item"]) -> Int[ndarray, " item_and_end"]:
    """0 and the running sum: item i is from [i] to [i + 1]."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])


def is_space(text: str) -> Bool[ndarray, " char"]:
    """Which characters are white space."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    spaces = [code for code in np.unique(codes).tolist() if chr(code).isspace()]
    return np.isin(codes, spaces)


def tokenize(texts: list[str], visible: Int[ndarray, " char_and_end"], tokenizer: Any) -> Tokens:
    """All texts as tokens with their spans. Raises AlignmentError where spans are missing or out of order."""
    base = ends([len(text) for text in texts])
    encoded = tokenizer(
        texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    bounds = ends([len(ids) for ids in encoded["input_ids"]])
    ids = np.fromiter(chain.from_iterable(encoded["input_ids"]), dtype=np.int64, count=bounds[-1])
    flat = chain.from_iterable(chain.from_iterable(encoded["offset_mapping"]))
    spans = np.fromiter(flat, dtype=np.int64, count=2 * bounds[-1]) + np.repeat(base[:-1], 2 * np.diff(bounds))
    first, last = spans[0::2], spans[1::2]
    tokens = Tokens(ids, visible[first], visible[last], bounds)
    _check_spans(tokens, first == last, visible[base], texts)
    return tokens


def _check_spans(
    tokens: Tokens,
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


def touched(
    tokens: Tokens, start: Int[ndarray, " word"], end: Int[ndarray, " word"]
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
