"""Words that share a token, made one: by hand, against a slow loop, and on the real treebanks."""

import pytest
from hand_made_text import bank, sentence, words
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shared import llama3_tokenizer, treebank
from test_alignment import Given
from test_alignment_reference import treebanks
from tokenizers_for_tests import byte_level_bpe

from posneurons.alignment import align
from posneurons.errors import AlignmentError
from posneurons.sentences import Sentence, Treebank, Word
from posneurons.units import unit
from posneurons.words import Units


def test_contractions_by_hand() -> None:
    # tokens  "I| don|'t| go|).| (the
    made = sentence('"I don\'t go). (the', '"/PUNCT', "I/PRON", "do/AUX", "n't/PART", "go/VERB", ")/PUNCT", "./PUNCT",
                    "(/PUNCT", "the/DET")  # fmt: skip
    tokenizer = Given([(0, 1), (1, 2), (2, 6), (6, 8), (8, 11), (11, 13), (13, 18)])
    plain, contraction, token = (align(bank(made), tokenizer, units=each) for each in ("word", "contraction", "token"))
    assert [each[:2] for each in words(plain)] == [('"', "PUNCT"), ("I", "PRON"), ("go", "VERB")]
    assert words(contraction) == [
        ('"', "PUNCT", 0, 1, 1),
        ("I", "PRON", 0, 2, 2),
        ("don't", "AUX+PART", 0, 3, 4),
        ("go", "VERB", 0, 5, 5),
        (").", "PUNCT", 0, 6, 6),
    ]
    assert contraction.word_parts.tolist() == [1, 1, 2, 1, 2]
    assert contraction.tags == ("AUX", "AUX+PART", "DET", "PART", "PRON", "PUNCT", "VERB")
    assert contraction.dropped == {("train", "DET", "cut by a token"): 1, ("train", "PUNCT", "cut by a token"): 1}
    assert words(token)[-1] == ("(the", "PUNCT+DET", 0, 7, 7)
    assert token.dropped == {}
    assert (plain.units, contraction.units, token.units) == ("word", "contraction", "token")


def test_words_behind_one_surface_are_one_unit() -> None:
    words_ = Word("in", "ADP", 0, 2, True), Word("dem", "DET", 0, 2, True), Word("Haus", "NOUN", 3, 7)
    made = bank(Sentence("1", "im Haus", words_, "d", "train"))
    corpus = align(made, Given([(0, 2), (2, 7)]), units="contraction")
    assert words(corpus) == [("im", "ADP+DET", 0, 1, 1), ("Haus", "NOUN", 0, 2, 2)]
    assert corpus.word_parts.tolist() == [2, 1]


def test_a_unit_is_counted_among_the_forms() -> None:
    made = bank(*(sentence("don't", "do/AUX", "n't/PART", number=n) for n in range(3)), sentence("Do", "Do/AUX"))
    spans = [(0, 3), (3, 5)]
    corpus = align(made, Given(spans, spans, spans, [(0, 2)]), units="contraction")
    assert corpus.word_form.tolist() == ["don't"] * 3 + ["Do"]
    assert corpus.word_frequency.tolist() == [3, 3, 3, 4]  # "do" stands in the treebank four times, in small letters


def test_words_of_two_sentences_stay_apart() -> None:
    one, two = sentence("ab", "ab/X"), sentence("c d", "c/X", "d/X", number=1)
    one = Sentence("0", "ab", one.words, "d", "train", after="")
    corpus = align(bank(one, two), Given([(0, 1), (1, 3), (3, 5)]), units="token", context="document")
    assert corpus.word_form.tolist() == ["d"]
    assert corpus.dropped == {("train", "X", "cut by a token"): 2}


def test_untagged_words_join_nothing() -> None:
    corpus = align(bank(sentence("abc d", "a/X", "bc/_", "d/X")), Given([(0, 3), (3, 5)]), units="token")
    assert corpus.dropped == {("train", "X", "cut by a token"): 1, ("train", "_", "untagged"): 1}


def reference(made: Sentence, spans: list[tuple[int, int]], units: Units) -> list[tuple[str, str]]:
    """Forms and tags of the words and units of a sentence: neighbours that share a token, joined step by step."""
    visible = {n for n, char in enumerate(made.text) if not char.isspace()}
    tokens = [visible & set(range(*span)) for span in spans]
    own = [visible & set(range(word.start, word.end)) for word in made.words]
    touched = [{n for n, token in enumerate(tokens) if token & characters} for characters in own]
    groups: list[list[int]] = []
    for number in range(len(made.words)):
        if groups and touched[groups[-1][-1]] & touched[number]:
            groups[-1].append(number)
        else:
            groups.append([number])
    found = []
    for group in groups:
        one = unit([made.words[n] for n in group], made.text, units) if len(group) > 1 else None
        parts = [(one, set().union(*(own[n] for n in group)))] if one else [(made.words[n], own[n]) for n in group]
        for word, characters in parts:
            covering = [token for token in tokens if token & characters]
            if word.tag != "_" and not word.shared and covering and set().union(*covering) == characters:
                found.append((word.form, word.tag))
    return found


@settings(max_examples=120, deadline=None)
@given(made=treebanks(), units=st.sampled_from(["contraction", "token"]))
def test_random_text_like_the_reference(made: Treebank, units: Units) -> None:
    tokenizer = byte_level_bpe()
    try:
        corpus = align(made, tokenizer, units=units)
    except AlignmentError:
        assume(False)
    expected = []
    for each in made:
        spans = tokenizer(each.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        expected += reference(each, spans, units)
    assert [each[:2] for each in words(corpus)] == expected
    assert corpus.word_parts.sum() + sum(corpus.dropped.values()) == made.tag_counts().total()


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("UD_English-EWT", (0.0284, 0.0100, 0.0)),
        ("UD_German-GSD", (0.0575, 0.0111, 0.0)),
        ("UD_Spanish-GSD", (0.0474, 0.0005, 0.0)),
        ("UD_Chinese-GSDSimp", (0.1252, 0.0529, 0.0)),
        ("UD_Hindi-PUD", (0.1259, 0.1248, 0.0)),
    ],
)
def test_fewer_words_are_left_out(name: str, shares: tuple[float, float, float]) -> None:
    made = treebank(name)
    total = made.tag_counts().total()
    for units, most in zip(("word", "contraction", "token"), shares, strict=True):
        corpus = align(made, llama3_tokenizer(), units=units)  # type: ignore[arg-type]
        left_out = sum(corpus.dropped.values())
        assert most - 0.0002 < left_out / total <= most + 1e-9 or left_out == most == 0
        assert corpus.word_parts.sum() + left_out == total
