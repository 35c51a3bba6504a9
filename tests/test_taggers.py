"""Taggers: words and their characters, what the small one learns, what Stanza's wrapper hands on."""

import math
import sys
from dataclasses import replace
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from shared import treebank as shared_treebank

from posneurons.errors import RunError, TreebankError
from posneurons.sentences import UNTAGGED, Sentence, Treebank, Word
from posneurons.taggers import (
    SimpleTagger,
    Tagger,
    accuracy,
    features,
    simple_tagger,
    spans,
    split_words,
    stanza_tagger,
)
from posneurons.treebank import load_treebank


@cache
def demo_tagger() -> SimpleTagger:
    """Trained on the train split, so that the test split is new to it."""
    return simple_tagger(load_treebank().split("train"))


def bank(*sentences: str, tags: str = "") -> Treebank:
    """Forms between blanks; tags by the form's first letter, or all the same."""
    made = []
    for text in sentences:
        words, at = [], 0
        for form in text.split(" "):
            words.append(Word(form, tags or form[0].upper(), at, at + len(form)))
            at += len(form) + 1
        made.append(Sentence("", text, tuple(words), "", "all"))
    return Treebank("small", "upos", tuple(made), "", False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Cannot, don't, DON’T!", ["Can", "not", ",", "do", "n't", ",", "DO", "N’T", "!"]),
        ("she'll it's we've I'm", ["she", "'ll", "it", "'s", "we", "'ve", "I", "'m"]),
        ("the dogs' o'clock 'tis", ["the", "dogs", "'", "o'clock", "'", "tis"]),
        ("1,234.5 at 10:30.", ["1,234.5", "at", "10:30", "."]),
        ("well-known -- yes...", ["well", "-", "known", "--", "yes", "..."]),
        ("Dr. No. a_b?!", ["Dr.", "No", ".", "a", "_", "b", "?", "!"]),
        ("naïve größe 中文", ["naïve", "größe", "中文"]),
        (" \n\t", []),
    ],
)
def test_words_are_split_by_the_stated_rule(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(st.text(max_size=40))
@example("can't’sn't")
def test_words_cover_all_but_white_space_in_order(text: str) -> None:
    words = split_words(text)
    assert "".join(words) == "".join(text.split())
    assert all(text[start:end] == word for (start, end), word in zip(spans(text, words), words, strict=True))


def test_a_word_that_is_not_in_the_text_has_an_empty_span() -> None:
    assert spans("an an", ["an", "an"]) == [(0, 2), (3, 5)]
    assert spans("im Haus", ["in", "dem", "Haus"]) == [(0, 0), (0, 0), (3, 7)]


def test_features_know_the_word_and_its_neighbours() -> None:
    found = features(["The", "U2s", "!"], 1)
    assert found == [
        "w=u2s", "shape=Xdx", "end=s", "end=2s", "end=u2s", "end=u2s", "first=False", "before=the", "after=!",
        "before-end=he", "after-end=!", "pair=the u2s",
    ]  # fmt: skip
    alone = features(["Go"], 0)
    assert {"before=^", "after=$", "first=True", "shape=Xx"} <= set(alone)


def test_the_embedded_treebank_teaches_tags() -> None:
    test = load_treebank().split("test")
    forms = [[word.form for word in sentence.words] for sentence in test]
    answers = demo_tagger().tag_sentences(forms)
    pairs = [(a, w.tag) for s, each in zip(test, answers, strict=True) for w, a in zip(s.words, each, strict=True)]
    share = sum(a == b for a, b in pairs) / len(pairs)
    assert 0.89 < share < 0.95  # 0.912; the most frequent tag of the form, with suffixes, had 0.864
    assert share - 0.02 < accuracy(demo_tagger(), test) <= share + 0.01  # raw text: 0.910


def test_a_tagger_tags_texts_by_sentence() -> None:
    tagger = demo_tagger()
    assert isinstance(tagger, Tagger)
    both = tagger.tag(["She asked. He doesn't!", "", "Run"])
    assert [word for word, _ in both[0]] == ["She", "asked", ".", "He", "does", "n't", "!"]
    assert [tag for _, tag in both[0]] == ["PRON", "VERB", "PUNCT", "PRON", "AUX", "PART", "PUNCT"]
    assert both[0] == tagger.tag(["She asked."])[0] + tagger.tag(["He doesn't!"])[0]
    assert both[1] == []
    assert len(both[2]) == 1
    assert tagger.tag([]) == []


def test_what_is_planted_is_learnt_and_neighbours_decide() -> None:
    # "x" is A after "a" and B after "b"; nothing but its neighbour tells.
    sentences = []
    for first in "ab":
        words = (Word(first, "F", 0, 1), Word("x", first.upper(), 2, 3))
        sentences += [Sentence("", f"{first} x", words, "", "all")] * 5
    tagger = simple_tagger(Treebank("small", "upos", tuple(sentences), "", False))
    assert tagger.tags == ("A", "B", "F")
    assert tagger.name == "simple (LinearSVC, small, 20 words)"
    assert tagger.tag(["a x", "b x"]) == [[("a", "F"), ("x", "A")], [("b", "F"), ("x", "B")]]


def test_words_without_a_tag_are_no_examples() -> None:
    given_bank = bank("ant bee", "bee ant")
    first = given_bank.sentences[0]
    without = replace(first, words=(replace(first.words[0], tag=UNTAGGED), first.words[1]))
    tagger = simple_tagger(replace(given_bank, sentences=(without, *given_bank.sentences[1:])))
    assert tagger.tags == ("A", "B")
    assert "3 words" in tagger.name


def test_training_is_the_same_every_time() -> None:
    texts = [sentence.text for sentence in load_treebank().split("dev")]
    assert simple_tagger(load_treebank().split("train")).tag(texts) == demo_tagger().tag(texts)


def test_accuracy_counts_characters_and_tags() -> None:
    class Fixed:
        name = "fixed"

        def tag(self, texts: Any) -> Any:
            return [[("ant", "A"), ("bee", "X")] if text == "ant bee" else [("cat-dog", "C")] for text in texts]

    # ant is right, bee has a wrong tag, "cat" and "dog" are not the words that were found: 1 of 4.
    split = Sentence("", "cat-dog", (Word("cat", "C", 0, 3), Word("dog", "D", 4, 7)), "", "all")
    both = replace(bank("ant bee"), sentences=(*bank("ant bee").sentences, split))
    assert accuracy(Fixed(), both) == 0.25
    assert math.isnan(accuracy(Fixed(), replace(both, sentences=())))


@pytest.mark.parametrize("sentences", [(), ("ant bee",)])
def test_too_few_tags_is_an_error(sentences: tuple[str, ...]) -> None:
    with pytest.raises(
        TreebankError,
        match=r"^small: \d tags in \d sentences are too few to train a tagger; expected at least 2: give a tagged",
    ):
        simple_tagger(bank(*sentences, tags="A"))


@pytest.mark.slow
def test_accuracy_on_ewt() -> None:
    test = shared_treebank("UD_English-EWT").split("test")
    assert 0.80 < accuracy(demo_tagger(), test) < 0.85  # 0.824


def test_without_stanza_s_models_there_is_one_clear_line(tmp_path: Any) -> None:
    (tmp_path / "resources.json").write_text("{}")
    with pytest.raises(RunError) as caught:
        stanza_tagger("en", folder=tmp_path)
    assert str(caught.value).startswith("Stanza's models for 'en' cannot be loaded (No processors to load")
    assert "stanza.download('en', model_dir=" in str(caught.value)
    assert str(caught.value).endswith(", or choose the simple tagger")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["resources.json"]


def test_stanza_s_words_are_handed_on_and_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Pipeline:
        def __init__(self, language: str, **options: Any) -> None:
            asked.update(options, language=language)

        def bulk_process(self, texts: list[str]) -> list[Any]:
            def words(text: str) -> list[Any]:
                return [SimpleNamespace(text=w, upos="NOUN" if w != "?" else None) for w in text.split()]

            return [SimpleNamespace(sentences=[SimpleNamespace(words=words(text))]) for text in texts]

    fake = ModuleType("stanza")
    fake.Pipeline, fake.__version__ = Pipeline, "0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stanza", fake)
    tagger = stanza_tagger("de")
    assert isinstance(tagger, Tagger)
    assert asked["language"] == "de"
    assert asked["download_method"] is None
    assert tagger.tag(["a ?", " ", "b"]) == [[("a", "NOUN"), ("?", UNTAGGED)], [], [("b", "NOUN")]]
    assert tagger.tag([""]) == [[]]
