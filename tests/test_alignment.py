"""Alignment: spans and rows by hand, a slow loop over sets of characters as the reference, random text, treebanks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hand_made_text import Span, bank, sentence, words

from posneurons.alignment import align, dropped_table
from posneurons.errors import AlignmentError
from posneurons.sentences import Sentence, Word


class Given:
    """A tokenizer whose spans are written in the test; ids count from 100 through all sentences."""

    is_fast = True
    bos_token_id: int | None = 7
    model_max_length = 10**30

    def __init__(self, *spans: Sequence[Span]) -> None:
        self.spans = spans

    def __call__(self, texts: Sequence[str], **options: Any) -> dict[str, list[Any]]:
        assert options["add_special_tokens"] is False
        ends = np.cumsum([0, *map(len, self.spans)])
        ids = [list(range(100 + a, 100 + b)) for a, b in pairwise(ends)]
        return {"input_ids": ids[: len(texts)], "offset_mapping": [list(each) for each in self.spans]}


# Golden: every number is counted by hand.


def test_words_by_hand() -> None:
    # tokens   Do n't| stop| !!| 😀 cut in two bytes|wa it| .          "wait." has "wait" in two tokens
    text = "Don't stop!! 😀wait ."
    tokenizer = Given([(0, 3), (3, 5), (5, 10), (10, 12), (12, 14), (13, 14), (14, 16), (16, 18), (18, 20)])
    made = sentence(text, "Do/AUX", "n't/PART", "stop/VERB", "!!/PUNCT", "😀/SYM", "wait/VERB", "./PUNCT")
    corpus = align(bank(made), tokenizer)
    assert words(corpus) == [
        ("stop", "VERB", 0, 3, 3),
        ("!!", "PUNCT", 0, 4, 4),
        ("😀", "SYM", 0, 5, 6),
        ("wait", "VERB", 0, 7, 8),
        (".", "PUNCT", 0, 9, 9),
    ]
    assert corpus.dropped == {("train", "AUX", "cut by a token"): 1, ("train", "PART", "cut by a token"): 1}
    assert corpus.row_tokens(0).tolist() == [7, 100, 101, 102, 103, 104, 105, 106, 107, 108]
    assert corpus.tags == ("AUX", "PART", "PUNCT", "SYM", "VERB")


def test_a_token_that_holds_a_word_and_half_of_the_next_cuts_both() -> None:
    """Token 0 is é and the first bytes of the emoji, token 1 the rest: é ends at no end, 😀 starts at no start."""
    corpus = align(bank(sentence("é😀x", "é/X", "😀/SYM", "x/X")), Given([(0, 2), (1, 2), (2, 3)]))
    assert words(corpus) == [("x", "X", 0, 3, 3)]
    assert sum(corpus.dropped.values()) == 2


def test_white_space_belongs_to_no_word() -> None:
    """Tokens of white space alone, and white space at either end of a token, change no boundary."""
    corpus = align(bank(sentence("a  b\n\nc", "a/X", "b/X", "c/X")), Given([(0, 1), (1, 2), (2, 5), (5, 6), (6, 7)]))
    assert words(corpus) == [("a", "X", 0, 1, 1), ("b", "X", 0, 3, 3), ("c", "X", 0, 5, 5)]


def test_a_word_may_hold_white_space() -> None:
    corpus = align(bank(sentence("10 000 km", "10 000/NUM", "km/NOUN")), Given([(0, 2), (2, 3), (3, 6), (6, 9)]))
    assert words(corpus) == [("10 000", "NUM", 0, 1, 3), ("km", "NOUN", 0, 4, 4)]


def test_every_reason_by_hand() -> None:
    text = "im ab * cdef g"
    made = sentence(text, "im//ADP", "im/DET", "a/X", "b/X", "*/SYM", "cdef/NOUN", "g/_")
    made = Sentence(made.id, text, (made.words[0], Word("im", "DET", 0, 2, True), *made.words[2:]), "d", "dev")
    tokenizer = Given([(0, 2), (2, 5), (7, 9), (9, 10), (10, 11), (11, 12), (12, 14)])
    with pytest.raises(AlignmentError, match="bank: no word could be aligned with tokens") as caught:
        align(bank(made), tokenizer, n_ctx=3)
    assert "(shared surface 2, cut by a token 2, no token 1, too long 1, untagged 1); check the" in str(caught.value)
    corpus = align(bank(made), tokenizer)
    assert words(corpus) == [("cdef", "NOUN", 0, 3, 6)]
    assert corpus.dropped == {
        ("dev", "ADP", "shared surface"): 1,
        ("dev", "DET", "shared surface"): 1,
        ("dev", "X", "cut by a token"): 2,
        ("dev", "SYM", "no token"): 1,
        ("dev", "_", "untagged"): 1,
    }
    assert corpus.tags == ("ADP", "DET", "NOUN", "SYM", "X")


def test_long_sentences_become_rows_cut_between_words() -> None:
    # tokens 0 1 | 2 | 3 4 5 | 6, words ab, c, def, g; 4 tokens fit: 012 (3 would cut "def"), then 3456
    made = sentence("ab c def g", "ab/X", "c/X", "def/X", "g/X")
    short = sentence("h", "h/X", document="e", split="test")
    tokenizer = Given([(0, 1), (1, 2), (2, 4), (4, 6), (6, 7), (7, 8), (8, 10)], [(0, 1)])
    corpus = align(bank(made, short), tokenizer, n_ctx=5)
    assert [each[2:] for each in words(corpus)] == [(0, 1, 2), (0, 3, 3), (1, 1, 3), (1, 4, 4), (2, 1, 1)]
    assert corpus.row_bounds.tolist() == [0, 3, 7, 8]
    assert corpus.word_sentence.tolist() == [0, 0, 0, 0, 1]
    assert corpus.row_document.tolist() == [0, 0, 1]
    assert [corpus.split_names[split] for split in corpus.row_split] == ["train", "train", "test"]
    assert corpus.split_sentences == 1
    assert corpus.dropped == {}


def test_a_word_longer_than_the_context_is_too_long() -> None:
    # 3 tokens fit: a | bcd (the word of 4 tokens begins a row of its own) | e f
    tokenizer = Given([(0, 1), (1, 3), (3, 4), (4, 5), (5, 6), (6, 8), (8, 10)])
    corpus = align(bank(sentence("a bcde f g", "a/X", "bcde/Y", "f/X", "g/X")), tokenizer, n_ctx=4)
    assert corpus.row_bounds.tolist() == [0, 1, 4, 7]
    assert words(corpus) == [("a", "X", 0, 1, 1), ("f", "X", 2, 2, 2), ("g", "X", 2, 3, 3)]
    assert corpus.dropped == {("train", "Y", "too long"): 1}


def test_no_row_is_cut_inside_words_that_share_a_token() -> None:
    """do|n't over the tokens don|'t: the cut between them would part n't, so both go to the next row."""
    tokenizer = Given([(0, 1), (1, 4), (4, 8), (8, 10), (10, 12)])
    corpus = align(bank(sentence("I so don't x", "I/X", "so/X", "do/X", "n't/X", "x/X")), tokenizer, n_ctx=4)
    assert corpus.row_bounds.tolist() == [0, 2, 5]


def test_sentences_without_tokens_have_no_row() -> None:
    empty = Sentence("0", " ", (), "a", "train")
    corpus = align(bank(empty, sentence("b", "b/X", document="b"), empty), Given([], [(0, 1)], []))
    assert corpus.row_document.tolist() == [1]
    assert words(corpus) == [("b", "X", 0, 1, 1)]


def test_the_table_of_dropped_words() -> None:
    one = sentence("a b cd", "a/X", "b/X", "c/X", "d/Y")
    two = sentence("cd", "c/X", "d/Y", split="dev")
    table = dropped_table(align(bank(one, two), Given([(0, 1), (1, 3), (3, 6)], [(0, 2)])))
    assert table.columns.tolist() == ["split", "tag", "reason", "words", "share"]
    assert table.to_numpy().tolist() == [
        ["dev", "X", "cut by a token", 1, 1.0],
        ["dev", "Y", "cut by a token", 1, 1.0],
        ["train", "X", "cut by a token", 1, 1 / 3],
        ["train", "Y", "cut by a token", 1, 1.0],
    ]
    assert dropped_table(align(bank(sentence("a", "a/X")), Given([(0, 1)]))).empty


# Errors.


def test_tokenizers_that_cannot_be_used() -> None:
    made = bank(sentence("a b", "a/X", "b/X"))
    slow, nobos = Given([(0, 1), (1, 3)]), Given([(0, 1), (1, 3)])
    slow.is_fast, nobos.bos_token_id = False, None
    with pytest.raises(
        AlignmentError, match="Given gives no character offsets; expected a fast tokenizer of transform"
    ):
        align(made, slow)
    with pytest.raises(
        AlignmentError, match=r"Given has no BOS token, .* set tokenizer.bos_token, e.g. to its eos_token"
    ):
        align(made, nobos)
    with pytest.raises(
        AlignmentError, match=r"wrong: in 'a b' a token covers no character and .*: use tokenizers 0\.20"
    ):
        align(made, Given([(0, 0), (1, 1)]))
    with pytest.raises(AlignmentError, match="the tokenizer's offsets are not in the order of the text"):
        align(made, Given([(1, 3), (0, 1)]))
    with pytest.raises(AlignmentError, match="n_ctx=1; expected at least 2 positions, BOS and one token"):
        align(made, Given([(0, 1), (1, 3)]), n_ctx=1)
    with pytest.raises(AlignmentError, match=r"bank: no word could be aligned with tokens \(it has no words\)"):
        align(bank(), Given())


def test_the_context_comes_from_the_tokenizer_where_it_says_one() -> None:
    tokenizer = Given([(n, n + 1) for n in range(4000)])
    made = bank(sentence("x" * 4000, *["x/X"] * 4000))
    assert align(made, tokenizer).n_rows == 2
    tokenizer.model_max_length = 1001
    assert align(made, tokenizer).n_rows == 4
    assert align(made, tokenizer, n_ctx=5000).n_rows == 1
