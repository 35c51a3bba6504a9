"""Tokens as texts to be read one by one: with their leading spaces, and with no character cut in pieces.

A tokenizer's `decode` of one token drops the leading space of some tokenizers, and gives "�" for bytes that are a part
of a character only. This module knows tokenizers by their `decode`, and nothing else of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

BROKEN = "\ufffd"
"""What stands for bytes that are no whole character."""

_MOST_PIECES = 6
"""Most tokens that one character is made of; UTF-8 has at most four bytes, and a token at least one."""

_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(byte): byte for byte in _PRINTED} | {
    chr(0x100 + place): byte for place, byte in enumerate(byte for byte in range(0x100) if byte not in _PRINTED)
}
"""The byte that each character of a byte-level vocabulary stands for: itself where it is printed, else one of those
from U+0100 on, in order (Radford et al. 2019, GPT-2)."""


class TokenTexts:
    """Texts of tokens; each is decoded once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __len__(self) -> int:
        """Number of tokens that have a text."""
        return len(self._tokenizer)

    def one(self, token: int) -> str:
        """Text of a token by itself: of two of it, what the second adds, as the first may lose its leading space."""
        if token not in self._known:
            self._known[token] = self._decode([token, token])[len(self._decode([token])) :]
        return self._known[token]

    def name(self, token: int) -> str:
        """Text of a token by itself, or its bytes where they are no whole character, such as `<0xE2><0x82>`."""
        text = self.one(token)
        if BROKEN not in text:
            return text
        piece = str(self._tokenizer.convert_ids_to_tokens(token))
        raw = [_BYTES.get(character) for character in piece]
        return piece if None in raw else "".join(f"<0x{byte:02X}>" for byte in raw)

    def of(self, tokens: Iterable[int]) -> tuple[str, ...]:
        """Text of each token of a stretch: a character of several tokens is given to the first, "" to the others."""
        ids = [int(token) for token in tokens]
        texts = [self.one(token) for token in ids]
        place = 0
        while place < len(ids):
            size = self._pieces(ids, texts, place) if BROKEN in texts[place] else 1
            if size > 1:
                texts[place : place + size] = [self._decode(ids[place : place + size]), *[""] * (size - 1)]
            place += size
        return tuple(texts)

    def _pieces(self, ids: list[int], texts: list[str], place: int) -> int:
        """How many broken tokens from `place` on make up whole characters; 1 where they do not."""
        for size in range(2, min(_MOST_PIECES, len(ids) - place) + 1):
            if BROKEN not in texts[place + size - 1]:
                break
            if BROKEN not in self._decode(ids[place : place + size]):
                return size
        return 1

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))
