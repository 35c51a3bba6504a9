"""Tags of a row, and classes of one's own: by hand, at random, every wrong file, and up to a ranking."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import demo
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_for_tests import byte_level_bpe

import posneurons as pn
from posneurons.errors import TreebankError
from posneurons.sentences import UNTAGGED, Sentence, Treebank, Word
from posneurons.tagsets import CONTENT_FUNCTION, read_classes, retag, tag_reader
from posneurons.treebank import load_treebank

ROW = {"form": "Dogs", "lemma": "Dog", "upos": "NOUN", "xpos": "NNS", "feats": "Number=Plur|Person[psor]=3"}


def build_bank(*pairs: str, tagset: str = "upos", split: str = "train") -> Treebank:
    """One sentence of words written `form/tag`, with a space after each."""
    words, at = [], 0
    for form, _, tag in (pair.rpartition("/") for pair in pairs):
        words.append(Word(form, tag, at, at + len(form)))
        at += len(form) + 1
    text = " ".join(word.form for word in words)
    return Treebank("b", tagset, (Sentence("1", text, tuple(words), "d", split),), "abc", True)


def tags(bank: Treebank) -> list[str]:
    return [word.tag for sentence in bank for word in sentence.words]


BANK = build_bank("The/DET", "dog/NOUN", "is/AUX", "not/PART", "Rex/PROPN", "NOT/PART", "?/PUNCT", "x/_")


# Tags of a row.


@pytest.mark.parametrize(
    ("spec", "tag"),
    [
        ("upos", "NOUN"),
        ("xpos", "NNS"),
        ("lemma", "dog"),
        ("form", "dogs"),
        ("Number", "Plur"),
        ("Person[psor]", "3"),
        ("Tense", UNTAGGED),
        ("upos+Number", "NOUN+Plur"),
        ("form+xpos", "dogs+NNS"),
        ("upos+Tense", UNTAGGED),
    ],
)
def test_the_tag_of_a_row(spec: str, tag: str) -> None:
    assert tag_reader(spec)(ROW) == tag


@pytest.mark.parametrize("spec", ["", "pos", "upos+", "number", "Number=Plur"])
def test_what_is_no_tag(spec: str) -> None:
    with pytest.raises(TreebankError, match="expected 'upos', 'xpos', 'lemma', 'form', the name of a feature"):
        tag_reader(spec)


# Classes, by hand.


def test_content_against_function() -> None:
    found = retag(BANK, CONTENT_FUNCTION)
    assert tags(found) == ["function", "content", "function", "function", "content", "function", "_", "_"]
    assert found.tagset == "upos: content, function"
    assert (found.name, found.marked_documents) == ("b", True)
    assert tags(BANK)[0] == "DET"  # the old one is as it was


def test_the_digest_tells_classes_apart() -> None:
    classes = {"a": ["NOUN"], "b": ["AUX", "DET"]}
    same = retag(BANK, {"b": ["DET", "AUX"], "a": ["NOUN"]})
    others = [
        BANK,
        retag(BANK, {"a": ["AUX", "DET"], "b": ["NOUN"]}),
        retag(BANK, classes, rest="c"),
        retag(BANK, {"a": ["NOUN"], "b": ["AUX"]}),
        retag(replace(BANK, sha256="other"), classes),
    ]
    assert retag(BANK, classes).sha256 == same.sha256
    assert len({same.sha256, *(each.sha256 for each in others)}) == 1 + len(others)


def test_content_and_function_are_the_open_and_closed_classes() -> None:
    assert [len(members) for members in CONTENT_FUNCTION.values()] == [6, 8]
    assert not set(CONTENT_FUNCTION["content"]) & set(CONTENT_FUNCTION["function"])
    with pytest.raises(TypeError):
        CONTENT_FUNCTION["other"] = ("X",)  # type: ignore[index]


def test_the_rest_can_have_a_class() -> None:
    found = retag(BANK, {"noun": ["NOUN", "PROPN"]}, rest="other")
    assert tags(found) == ["other", "noun", "other", "other", "noun", "other", "other", "other"]
    assert found.tagset == "upos: noun, other"
    assert retag(BANK, {"a": ["DET"], "b": ["NOUN"]}, rest="b").tagset == "upos: a, b"


def test_the_words_without_a_tag_can_be_a_member() -> None:
    assert tags(retag(BANK, {"none": ["_"], "noun": ["NOUN"]})) == ["_", "noun", "_", "_", "_", "_", "_", "none"]


def test_classes_of_words_know_no_case_and_no_tag() -> None:
    found = retag(BANK, {"negation": ["Not", "never"], "be": {"is"}}, by="form")
    assert tags(found) == ["_", "_", "be", "negation", "_", "negation", "_", "_"]
    assert found.tagset == "form: negation, be"
    assert tags(retag(build_bank("STRASSE/X"), {"street": ["Straße"]}, by="form")) == ["street"]


def test_plural_against_singular_and_lemmas(tmp_path: Path) -> None:
    rows = [("Dogs", "dog", "Number=Plur"), ("be", "Be", "_"), ("a", "a", "Number=Sing"), ("two", "two", "Number=Dual")]
    lines = [f"{n}\t{form}\t{lemma}\tX\t_\t{feats}\t_\t_\t_\t_\n" for n, (form, lemma, feats) in enumerate(rows, 1)]
    (tmp_path / "x.conllu").write_text("".join(lines))
    number = load_treebank(tmp_path / "x.conllu", tag="Number")
    found = retag(number, {"Plur": ["Plur"], "Sing": ["Sing"]})
    assert (tags(found), found.tagset) == (["Plur", "_", "Sing", "_"], "Number: Plur, Sing")
    assert tags(retag(number, {"many": ["Plur", "Dual"]}, rest="else")) == ["many", "else", "else", "many"]
    lemmas = load_treebank(tmp_path / "x.conllu", tag="lemma")
    assert tags(retag(lemmas, {"copula": ["be"], "animal": ["dog"]})) == ["animal", "copula", "_", "_"]


# Properties.

TAG = st.sampled_from(["A", "B", "C", "_"])


@given(st.lists(st.lists(st.tuples(st.text(min_size=1), TAG), min_size=1), min_size=1), st.sampled_from([None, "r"]))
def test_nothing_but_tags_changes(rows: list[list[tuple[str, str]]], rest: str | None) -> None:
    sentences = tuple(
        replace(build_bank(*(f"{form}/{tag}" for form, tag in row)).sentences[0], id=str(n))
        for n, row in enumerate([*rows, [("x", "A")]])
    )
    bank = replace(BANK, sentences=sentences)
    found = retag(bank, {"a": ["A"]}, rest=rest)
    assert tags(found) == ["a" if tag == "A" else rest or UNTAGGED for tag in tags(bank)]
    new = iter(tags(bank))
    undone = tuple(replace(s, words=tuple(replace(w, tag=next(new)) for w in s.words)) for s in found)
    assert replace(found, sentences=undone, tagset="upos", sha256=bank.sha256) == bank


# What is wrong with classes.


@pytest.mark.parametrize(
    ("classes", "options", "expected"),
    [
        ({}, {}, "no classes, but {}; expected {"),
        ({"a": []}, {}, "class 'a' is empty; expected at least one of the tags"),
        ({"a": "NOUN"}, {}, "class 'a': found 'NOUN'; expected a list of tags"),
        ({"_": ["NOUN"]}, {}, "a class named '_'; expected a name (_ is for words without a tag)"),
        ({" ": ["NOUN"]}, {}, "a class named ' '; expected a name"),
        ({"a": ["NOUN"]}, {"rest": "_"}, "a class named '_'; expected a name"),
        ({"a": ["NOUN"]}, {"by": "word"}, "by='word': expected 'tag' or 'form'"),
        ({"a": ["NOUN", ""]}, {}, "class 'a': found '' in it; expected tags"),
        ({"a": ["NOUN"], "b": ["DET", "NOUN"]}, {}, "'NOUN' stands in two classes, 'a' and 'b'; expected one"),
        ({"a": ["it"], "b": ["It"]}, {"by": "form"}, "'It' stands in two classes, 'a' and 'b'; expected one"),
        ({"a": ["NOUM"]}, {}, "b: no word has the tag 'NOUM' of class 'a'; did you mean NOUN?"),
        ({"a": ["noun"]}, {}, "b: no word has the tag 'noun' of class 'a'; did you mean NOUN"),
        ({"a": ["DET", "zzz"]}, {}, "b: no word has the tag 'zzz' of class 'a'; there are PART, DET, NOUN, AUX, PROPN"),
        ({"a": ["SCONJ", "X"]}, {}, "b: no word is in class 'a', by tag (SCONJ, X); there are PART, DET"),
        ({"a": ["cat"]}, {"by": "form"}, "b: no word is in class 'a', by form (cat); there are not, the, dog"),
    ],
)
def test_what_is_no_class(classes: dict[str, Any], options: dict[str, Any], expected: str) -> None:
    with pytest.raises(TreebankError) as caught:
        retag(BANK, classes, **options)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_an_error_lists_some_of_many_tags() -> None:
    many = build_bank(*(f"x/t{n:03}" for n in range(21)))
    with pytest.raises(TreebankError, match=r"t018, t019, \.\.\.$"):
        retag(many, {"a": ["@"]})
    with pytest.raises(TreebankError, match=r"t018, t019$"):
        retag(build_bank(*(f"x/t{n:03}" for n in range(20))), {"a": ["@"]})


# Files of classes.


def write(folder: Path, content: object) -> Path:
    path = folder / "classes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_file_of_classes(tmp_path: Path) -> None:
    plain = {"noun": ["NOUN", "PROPN"], "classes": ["DET"]}
    assert read_classes(write(tmp_path, plain)) == {"classes": plain, "by": "tag", "rest": None}
    full = {"by": "form", "rest": "else", "classes": {"negation": ["not", "n’t"]}}
    assert read_classes(str(write(tmp_path, full))) == full
    assert tags(retag(BANK, **read_classes(write(tmp_path, full)))).count("negation") == 2
    assert read_classes(write(tmp_path, {"classes": plain}))["by"] == "tag"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "no JSON (Expecting value: line 1 column 1 (char 0)); expected {"),
        ("[]", "no classes, but []; expected {"),
        ("{}", "no classes, but {}; expected {"),
        ("3", "no classes, but 3; expected {"),
        ({"a": 3}, "class 'a': found 3; expected a list of tags"),
        ({"a": {"b": ["c"]}}, "class 'a': found {'b': ['c']}; expected a list of tags"),
        ({"a": [1]}, "class 'a': found 1 in it; expected tags"),
        ({"by": "form", "classes": {"a": []}}, "class 'a' is empty; expected at least one of the words"),
        ({"by": ["form"], "classes": {"a": ["b"]}}, "by=['form']: expected 'tag' or 'form'"),
        ({"rest": 3, "classes": {"a": ["b"]}}, "a class named 3; expected a name"),
        ({"remainder": "x", "classes": {"a": ["b"]}}, "'remainder' beside the classes; expected 'by' and 'rest'"),
        ('{"a": ["b"], "a": ["c"]}', "'a' stands there more than once; put all of a class into one list"),
    ],
)
def test_what_is_no_file_of_classes(content: object, expected: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(TreebankError) as caught:
        read_classes(path)
    assert str(caught.value).startswith(f"{path}: {expected}")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TreebankError, match=r"no\.json: the classes cannot be read: No such file or directory; check"):
        read_classes(tmp_path / "no.json")
    with pytest.raises(TreebankError, match="the classes cannot be read: Is a directory"):
        read_classes(tmp_path)
    (tmp_path / "x.json").write_bytes(b'{"a": ["\xff"]}')
    with pytest.raises(TreebankError, match=r"x\.json: no JSON \('utf-8' codec can't decode byte 0xff"):
        read_classes(tmp_path / "x.json")


# With all that comes after.


def test_the_alignment_counts_what_is_in_no_class() -> None:
    corpus = pn.align(retag(BANK, CONTENT_FUNCTION), byte_level_bpe())
    assert (corpus.tags, corpus.tagset) == (("content", "function"), "upos: content, function")
    assert corpus.dropped == {("train", "_", "untagged"): 2}
    assert corpus.tag_counts() == {"content": 2, "function": 4}


def test_classes_are_ranked_like_tags() -> None:
    bank = pn.load_treebank().split("train")
    bank = replace(bank, sentences=bank.sentences[:80])
    corpus = pn.align(retag(bank, CONTENT_FUNCTION), demo.model().tokenizer)
    ranking = pn.rank(demo.model(), corpus, at="last")
    assert ranking.tags == ("content", "function")
    assert np.isfinite(ranking.scores).all()
    np.testing.assert_allclose(ranking.scores[0], -ranking.scores[1], atol=1e-5)  # of two classes, each is the rest
    assert {*ranking.top(5)} == {"content", "function"}


def test_a_feature_is_ranked_like_tags(tmp_path: Path) -> None:
    """Nouns of the embedded treebank that end in s are called plural."""
    lines = []
    for sentence in pn.load_treebank().split("train").sentences[:80]:
        for number, word in enumerate(sentence.words, 1):
            feats = "_" if word.tag != "NOUN" else "Number=Plur" if word.form.endswith("s") else "Number=Sing"
            lines.append(f"{number}\t{word.form}\t_\t{word.tag}\t_\t{feats}\t_\t_\t_\t_")
        lines.append("")
    (tmp_path / "train.conllu").write_text("\n".join(lines), encoding="utf-8")
    bank = load_treebank(tmp_path, tag="Number")
    corpus = pn.align(retag(bank, {"Plur": ["Plur"], "Sing": ["Sing"]}), demo.model().tokenizer)
    ranking = pn.rank(demo.model(), corpus, at="last")
    assert (ranking.tags, corpus.tagset) == (("Plur", "Sing"), "Number: Plur, Sing")
    assert ranking.count.tolist() == [corpus.tag_counts()["Plur"], corpus.tag_counts()["Sing"]]
    assert ranking.count.min() > 10
    assert np.isfinite(ranking.scores).all()
    plain = pn.rank(demo.model(), pn.align(bank, demo.model().tokenizer), at="last")
    np.testing.assert_array_equal(plain.scores, ranking.scores)


def test_a_class_has_as_many_words_as_its_tags() -> None:
    bank = pn.load_treebank()
    before, after = bank.tag_counts(), retag(bank, CONTENT_FUNCTION, rest="other").tag_counts()
    expected = {name: sum(before[tag] for tag in members) for name, members in CONTENT_FUNCTION.items()}
    assert after == Counter({**expected, "other": before.total() - sum(expected.values())})
