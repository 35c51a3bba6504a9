"""Alignment: spans and rows by hand, a slow loop over sets of characters as the reference, random text, treebanks."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shared import llama3_tokenizer, treebank
from tokenizers_for_tests import byte_level_bpe

from posneurons import alignment
from posneurons.alignment import align, dropped_table
from posneurons.errors import AlignmentError
from posneurons.records import Corpus
from posneurons.sentences import Sentence, Treebank, Word

Span = tuple[int, int]


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


def same(one: Corpus, other: Corpus) -> bool:
    return all(np.array_equal(value, getattr(other, name)) for name, value in vars(one).items())


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


# Reference: the definition, read aloud.


def reference(made: Sentence, tokenizer: Any) -> list[Span | str]:
    """For each word its first and last token (from 1), or why it is left out, by sets of visible characters."""
    offsets = tokenizer(made.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    visible = {n for n, char in enumerate(made.text) if not char.isspace()}
    tokens = [visible & set(range(*span)) for span in offsets]
    found: list[Span | str] = []
    for word in made.words:
        own = visible & set(range(word.start, word.end))
        touched = [n for n, token in enumerate(tokens, 1) if token & own]
        if word.tag == "_" or word.shared or not touched:
            found.append("untagged" if word.tag == "_" else "shared surface" if word.shared else "no token")
        elif set().union(*(tokens[n - 1] for n in touched)) != own:
            found.append("cut by a token")
        else:
            found.append((touched[0], touched[-1]))
    return found


def check_against_reference(made: Treebank, tokenizer: Any) -> None:
    expected, dropped = [], Counter[tuple[str, str, str]]()
    for number, each in enumerate(made):
        for word, found in zip(each.words, reference(each, tokenizer), strict=True):
            if isinstance(found, str):
                dropped[each.split, word.tag, found] += 1
            else:
                expected.append((word.form, word.tag, number, *found))
    if not expected:
        with pytest.raises(AlignmentError, match="no word could be aligned"):
            align(made, tokenizer)
        return
    corpus = align(made, tokenizer, n_ctx=10**6)
    numbers = corpus.word_sentence
    assert [(f, t, int(n), a, b) for (f, t, _, a, b), n in zip(words(corpus), numbers, strict=True)] == expected
    assert corpus.dropped == dropped


TEXTS = st.text(
    st.one_of(
        st.sampled_from("aeinst'’-.,!?0123456789()😀👩🏽‍🚀éß中あहि"),
        st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp")),
    ),
    min_size=1,
    max_size=5,
)
SPACES = st.sampled_from(["", "", " ", "  ", "\n", "\t", "\u00a0", "\u3000"])


@st.composite
def treebanks(draw: st.DrawFn, spaces: st.SearchStrategy[str] = SPACES) -> Treebank:
    """Random sentences, with words of random characters and random white space between them."""
    sentences = []
    for number in range(draw(st.integers(1, 3))):
        text, found = draw(spaces), []
        for form, space in draw(st.lists(st.tuples(TEXTS, spaces), min_size=1, max_size=8)):
            tag = draw(st.sampled_from(["NOUN", "VERB", "_"]))
            found.append(Word(form, tag, len(text), len(text) + len(form), draw(st.sampled_from([False] * 5 + [True]))))
            text += form + space
        sentences.append(
            Sentence(str(number), text, tuple(found), str(number), draw(st.sampled_from(["train", "test"])))
        )
    return bank(*sentences)


@settings(max_examples=150, deadline=None)
@given(made=treebanks())
def test_random_text_like_the_reference(made: Treebank) -> None:
    check_against_reference(made, byte_level_bpe())


@settings(max_examples=100, deadline=None)
@given(made=treebanks())
def test_random_text_like_the_reference_with_llama_3(made: Treebank) -> None:
    check_against_reference(made, llama3_tokenizer())


@settings(max_examples=50, deadline=None)
@given(made=treebanks())
def test_trimmed_offsets_give_the_same_words(made: Treebank) -> None:
    try:
        whole = align(made, byte_level_bpe())
    except AlignmentError:
        assume(False)
    assert same(whole, align(made, byte_level_bpe(trim_offsets=True)))


@settings(max_examples=50, deadline=None)
@given(made=treebanks(st.sampled_from(["", " ", "\n"])))
def test_the_tokens_of_a_word_spell_it(made: Treebank) -> None:
    tokenizer = byte_level_bpe()
    try:
        corpus = align(made, tokenizer)
    except AlignmentError:
        assume(False)
    for form, _, row, first, last in words(corpus):
        assert tokenizer.decode(corpus.row_tokens(row)[first : last + 1].tolist()).strip() == form


def test_the_number_of_sentences_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = ["The/DET", "cat/NOUN", "won/AUX", "'t/PART", "see/VERB", "😀/SYM"]
    made = bank(
        *(sentence("The cat won't see 😀", *forms[: n % 7], document=str(n // 3), split="ab"[n % 2]) for n in range(20))
    )
    whole = align(made, byte_level_bpe(), n_ctx=6)
    assert whole.split_sentences > 0
    for size in (1, 3, 19, 20):
        monkeypatch.setattr(alignment, "BATCH", size)
        assert same(whole, align(made, byte_level_bpe(), n_ctx=6))


# The context.


def check_rows(made: Treebank, tokenizer: Any, context: int) -> None:
    """Rows fit, hold the tokens of the whole, end at the last free place, and lose no word that fits into one."""
    whole = align(made, tokenizer, n_ctx=10**6)
    try:
        corpus = align(made, tokenizer, n_ctx=context)
    except AlignmentError:
        assert (whole.word_last - whole.word_first + 1 >= context).all()
        return
    lengths = np.diff(corpus.row_bounds)
    assert lengths.max() <= context - 1
    assert lengths.min() >= 1
    assert np.array_equal(corpus.tokens, whole.tokens)
    fits = whole.word_last - whole.word_first + 1 < context

    def tokens_of(c: Corpus) -> np.ndarray:
        base = c.row_bounds[c.word_row] - 1
        return np.stack([c.word_tag, base + c.word_first, base + c.word_last])

    assert np.array_equal(tokens_of(corpus), tokens_of(whole)[:, fits])
    too_long = sum(n for (_, _, reason), n in corpus.dropped.items() if reason == "too long")
    assert too_long == np.count_nonzero(~fits)
    assert corpus.split_sentences == np.count_nonzero(np.diff(whole.row_bounds) > context - 1)


@settings(max_examples=150, deadline=None)
@given(made=treebanks(), context=st.integers(2, 12))
def test_random_contexts(made: Treebank, context: int) -> None:
    try:
        align(made, byte_level_bpe())
    except AlignmentError:
        assume(False)
    check_rows(made, byte_level_bpe(), context)


# The real treebanks with the real Llama 3 tokenizer.


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        pytest.param("كَتَبَ الوَلَدُ الدَّرْسَ.", ["كَتَبَ", "الوَلَدُ", "الدَّرْسَ", "."], id="Arabic with vowel signs"),
        pytest.param("הילד כתב, ואז הלך.", ["הילד", "כתב", ",", "ואז", "הלך", "."], id="Hebrew"),
        pytest.param("猫は黒い。", ["猫", "は", "黒い", "。"], id="Japanese"),
        pytest.param("我们去北京。", ["我们", "去", "北京", "。"], id="Chinese"),
        pytest.param("แมวกินปลา", ["แมว", "กิน", "ปลา"], id="Thai"),
        pytest.param("राम घर गया ।", ["राम", "घर", "गया", "।"], id="Hindi"),
        pytest.param("cafe\u0301 nai\u0308f", ["cafe\u0301", "nai\u0308f"], id="combining marks"),
        pytest.param("co\u00adop er\u00ad", ["co\u00adop", "er\u00ad"], id="soft hyphens"),
        pytest.param("ok 👩🏽‍🚀👍 🇩🇪!", ["ok", "👩🏽‍🚀", "👍", "🇩🇪", "!"], id="emoji"),
        pytest.param("a\u200bb \ufeffc", ["a\u200bb", "\ufeffc"], id="characters without width"),
        pytest.param("\u202bשלום\u202c abc", ["\u202bשלום\u202c", "abc"], id="marks of direction"),
    ],
)
def test_scripts_like_the_reference(text: str, forms: list[str]) -> None:
    made = bank(sentence(text, *(f"{form}/X" for form in forms)))
    for tokenizer in (llama3_tokenizer(), byte_level_bpe()):
        check_against_reference(made, tokenizer)
    everything = align(made, llama3_tokenizer(), units="token")
    assert everything.word_parts.sum() == len(forms)
    assert "".join("".join(map(str, everything.word_form)).split()) == "".join(text.split())


TREEBANKS = ["UD_English-EWT", "UD_German-GSD", "UD_Spanish-GSD", "UD_Chinese-GSDSimp", "UD_Hindi-PUD"]


@pytest.mark.parametrize("name", TREEBANKS)
def test_a_sample_of_a_treebank_like_the_reference(name: str) -> None:
    made = treebank(name)
    sample = Treebank(name, "upos", made.sentences[:: len(made) // 150], "", marked_documents=False)
    check_against_reference(sample, llama3_tokenizer())
    check_against_reference(sample, byte_level_bpe())
    check_rows(sample, llama3_tokenizer(), 12)


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("UD_English-EWT", {"cut by a token": 7_224}),
        ("UD_German-GSD", {"cut by a token": 788, "shared surface": 876}),
        ("UD_Spanish-GSD", {"cut by a token": 686, "shared surface": 1_640}),
        ("UD_Chinese-GSDSimp", {"cut by a token": 3_089}),
        ("UD_Hindi-PUD", {"cut by a token": 2_998}),
    ],
)
def test_every_word_of_a_treebank_is_kept_or_counted(name: str, dropped: dict[str, int]) -> None:
    made = treebank(name)
    corpus = align(made, llama3_tokenizer())
    assert dropped_table(corpus).groupby("reason")["words"].sum().to_dict() == dropped
    counts = Counter(corpus.tag_counts())
    for (_, tag, _), count in corpus.dropped.items():
        counts[tag] += count
    assert counts == made.tag_counts()
    assert corpus.n_rows == len(made)
    assert corpus.tokens.max() < 128_000
