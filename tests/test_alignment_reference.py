"""The alignment against the definition read aloud, on random text, scripts and treebanks."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hand_made_text import Span, bank, sentence, words
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shared import llama3_tokenizer, treebank
from tokenizers_for_tests import byte_level_bpe

from posneurons import alignment
from posneurons.alignment import align, dropped_table
from posneurons.errors import AlignmentError
from posneurons.records import Corpus
from posneurons.sentences import Sentence, Treebank, Word


def same(one: Corpus, other: Corpus) -> bool:
    return all(np.array_equal(value, getattr(other, name)) for name, value in vars(one).items())


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
