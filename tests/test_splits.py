"""Splits: nothing is lost, shares are met, and nothing stands in two splits that should not."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Literal

import demo
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from test_covariates import made

import posneurons as pn
from posneurons.errors import TreebankError
from posneurons.records import Corpus
from posneurons.sentences import Sentence, Treebank, Word
from posneurons.splits import OPEN_CLASSES, by_type, fold, folds, with_splits

BYS: tuple[Literal["auto", "document", "sentence"], ...] = ("auto", "document", "sentence")


def banks(documents: Sequence[int], words: int = 3) -> Treebank:
    """A treebank with as many sentences in each document as `documents` says."""
    each = tuple(Word("w", "X", 2 * n, 2 * n + 1) for n in range(words))
    pairs = [(document, number) for document, size in enumerate(documents) for number in range(size)]
    sentences = tuple(Sentence(f"{d}.{n}", " ".join("w" * words), each, str(d), "all") for d, n in pairs)
    return Treebank("bank", "upos", sentences, "", True)


def ids(bank: Treebank) -> list[str]:
    return [sentence.id for sentence in bank]


def leaked(bank: Treebank) -> set[str]:
    """Documents with sentences in two splits."""
    parts = [{sentence.document for sentence in bank.split(name)} for name in bank.splits]
    return set().union(*(a & b for a, b in combinations(parts, 2)))


# By document and by sentence.


@settings(max_examples=100, deadline=None)
@given(documents=st.lists(st.integers(1, 9), min_size=1, max_size=40), seed=st.integers(0, 99), by=st.sampled_from(BYS))
def test_new_splits_hold_every_sentence_once(documents: list[int], seed: int, by: Any) -> None:
    bank = banks(documents)
    if (len(documents) if by == "document" else len(bank)) < 3:
        with pytest.raises(TreebankError, match="are too few for train, dev, test"):
            with_splits(bank, seed=seed, by=by)
        return
    new = with_splits(bank, seed=seed, by=by)
    assert new.splits == ("train", "dev", "test")
    assert sorted(ids(new)) == sorted(ids(bank))
    assert new == with_splits(bank, seed=seed, by=by)
    assert all(ids(part) == sorted(ids(part), key=ids(bank).index) for part in map(new.split, new.splits))
    whole = by != "sentence" and len(documents) >= 3
    assert not (whole and leaked(new))
    unit = max(documents) if whole else 1
    for name, share in zip(new.splits, (0.5, 0.15, 0.35), strict=True):
        assert -2 * share * unit <= len(new.split(name)) - share * len(bank) <= unit


def test_new_splits_keep_documents_together() -> None:
    new = with_splits(banks([10] * 100), seed=1)
    assert len({(s.document, s.split) for s in new}) == 100
    assert [len(new.split(name)) for name in new.splits] == [500, 150, 350]
    assert new != with_splits(banks([10] * 100), seed=2)


def test_shares_are_of_words_and_not_of_sentences() -> None:
    """Fifty sentences of nine words and fifty of one, each a document by itself: 250 words on either side."""
    long, short = banks([1] * 50, words=9), banks([0] * 50 + [1] * 50, words=1)
    bank = replace(long, sentences=long.sentences + short.sentences)
    for seed in range(5):
        new = with_splits(bank, seed=seed, shares=(1, 1), names=("a", "b"))
        assert abs(new.split("a").size()["words"] - 250) <= 9


def test_two_documents_are_split_by_sentence_unless_documents_are_asked_for() -> None:
    bank = banks([100, 100])
    new = with_splits(bank, seed=1, shares=(8, 1, 1))
    assert [len(new.split(name)) for name in new.splits] == [160, 20, 20]
    with pytest.raises(TreebankError) as caught:
        with_splits(bank, seed=1, by="document")
    assert str(caught.value) == (
        "bank: 2 documents are too few for train, dev, test; give a larger treebank, or by='sentence'"
    )


def test_sentences_are_asked_for() -> None:
    new = with_splits(banks([10] * 100), seed=1, by="sentence")
    assert len(leaked(new)) > 50
    assert not leaked(with_splits(banks([10] * 100), seed=1, by="document"))


def test_new_splits_that_cannot_be() -> None:
    with pytest.raises(TreebankError, match="bank: 2 sentences are too few for train, dev, test; give a larger"):
        with_splits(banks([1, 1]), seed=0)
    with pytest.raises(TreebankError, match=re.escape("shares=(1, 0, 1): expected 3 positive numbers, for train,")):
        with_splits(banks([1, 1]), seed=0, shares=(1, 0, 1))


def test_the_first_split_is_not_always_the_first_documents() -> None:
    firsts = {next(s.split for s in with_splits(banks([1] * 9), seed=n) if s.id == "0.0") for n in range(20)}
    assert firsts == {"train", "dev", "test"}


# Folds.


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.integers(1, 6), min_size=5, max_size=30),
    k=st.integers(3, 5),
    seed=st.integers(0, 99),
    by=st.sampled_from(BYS),
    dev=st.booleans(),
)
def test_folds_test_every_sentence_once(documents: list[int], k: int, seed: int, by: Any, dev: bool) -> None:
    bank = banks(documents)
    found = folds(bank, k, seed=seed, by=by, dev=dev)
    assert len(found) == k
    assert sorted(name for each in found for name in ids(each.split("test"))) == sorted(ids(bank))
    unit = 1 if by == "sentence" else max(documents)
    for number, each in enumerate(found):
        assert each.splits == (("train", "dev", "test") if dev else ("train", "test"))
        assert sorted(ids(each)) == sorted(ids(bank))
        assert by == "sentence" or not leaked(each)
        assert abs(len(each.split("test")) - len(bank) / k) <= unit
        if dev:
            assert ids(each.split("dev")) == ids(found[(number + 1) % k].split("test"))
        assert each == fold(bank, number, k, seed=seed, by=by, dev=dev)
    assert found == folds(bank, k, seed=seed, by=by, dev=dev)


def test_another_seed_gives_other_folds() -> None:
    bank = banks([3] * 20)
    assert folds(bank, 4, seed=0) != folds(bank, 4, seed=1)
    assert {s.split for s in bank} == {"all"}


@pytest.mark.parametrize(
    ("number", "k", "options", "message"),
    [
        (0, 1, {}, "k=1: expected at least 2 folds"),
        (0, 2, {"dev": True}, "k=2: expected at least 3 folds, one of them for dev"),
        (5, 5, {}, "fold 5: no such fold; expected 0 to 4, as k=5"),
        (-1, 5, {}, "fold -1: no such fold; expected 0 to 4, as k=5"),
        (0, 4, {}, "bank: 3 sentences are too few for 4 folds; give a larger treebank"),
        (
            0,
            3,
            {"by": "document"},
            "bank: 2 documents are too few for 3 folds; give a larger treebank, or by='sentence'",
        ),
    ],
)
def test_folds_that_cannot_be(number: int, k: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TreebankError) as caught:
        fold(banks([1, 2]), number, k, seed=0, **options)
    assert str(caught.value) == message
    if k < 2:
        with pytest.raises(TreebankError, match=message):
            folds(banks([1, 2]), k, seed=0)


# By word type.


def folded(corpus: Corpus, split: str) -> set[str]:
    return {form.casefold() for form in corpus.split(split).word_form}


def split_of(corpus: Corpus) -> ndarray:
    return np.array(corpus.split_names)[corpus.row_split[corpus.word_row]]


@pytest.mark.parametrize("tags", [OPEN_CLASSES, ("NOUN", "DET"), None])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_form_stands_in_two_splits(tags: tuple[str, ...] | None, seed: int) -> None:
    corpus = demo.corpus()
    found = by_type(corpus, seed=seed, tags=tags)
    forms = [folded(found, split) for split in found.split_names]
    assert all(forms)
    assert not any(a & b for a, b in combinations(forms, 2))
    assert any(a & b for a, b in combinations([folded(corpus, split) for split in corpus.split_names], 2))
    with_words = {tag for tag, count in found.tag_counts().items() if count}
    assert with_words == set(corpus.tags if tags is None else tags)


def test_every_word_that_goes_is_counted_and_text_stays() -> None:
    corpus = demo.corpus()
    found = by_type(corpus, seed=3)
    assert found.tags == corpus.tags
    np.testing.assert_array_equal(found.tokens, corpus.tokens)
    np.testing.assert_array_equal(found.row_split, corpus.row_split)
    for split in corpus.split_names:
        before, after = corpus.split(split).tag_counts(), found.split(split).tag_counts()
        for tag in corpus.tags:
            why = "type of another split" if tag in OPEN_CLASSES else "closed class"
            new = {key: n - corpus.dropped.get(key, 0) for key, n in found.dropped.items() if key[:2] == (split, tag)}
            assert +Counter(new) == +Counter({(split, tag, why): before[tag] - after[tag]})
            assert after[tag] == 0 or tag in OPEN_CLASSES


def test_a_type_of_one_split_stays_whole_and_no_type_is_lost() -> None:
    corpus = demo.corpus()
    found = by_type(corpus, seed=0)
    mine = np.isin(np.array(corpus.tags)[corpus.word_tag], OPEN_CLASSES)
    words = Counter(
        (form.casefold(), split)
        for form, split, keep in zip(corpus.word_form, split_of(corpus), mine, strict=True)
        if keep
    )
    kept = Counter((form.casefold(), split) for form, split in zip(found.word_form, split_of(found), strict=True))
    assert all(words[key] == count for key, count in kept.items())
    assert {form for form, _ in kept} == {form for form, _ in words}


def two_splits(frequent: int) -> Corpus:
    """400 nouns that stand in train and test, the even ones `frequent` times in train; in order of the alphabet."""
    words = [("train", f"w{n:03}", "NOUN") for n in range(400) for _ in range(1 if n % 2 else frequent)]
    return made([*words, *(("test", f"W{n:03}", "NOUN") for n in range(400))])


def test_the_draw_follows_the_shares_and_nothing_else() -> None:
    """3 : 1 of 400 types: 300 in train, to within 4 standard errors; how frequent types are does not matter."""
    shares = {"train": 3, "test": 1}
    few, many = (by_type(two_splits(frequent), seed=5, shares=shares) for frequent in (1, 4))
    assert abs(len(folded(few, "train")) - 300) < 4 * (400 * 3 / 4 * 1 / 4) ** 0.5
    assert folded(few, "train") == folded(many, "train")
    assert folded(few, "train") != folded(by_type(two_splits(1), seed=6, shares=shares), "train")
    alphabet = sorted(folded(few, "train") | folded(few, "test"))
    assert len({form for form in alphabet[:200] if form in folded(few, "train")}) == pytest.approx(150, abs=25)


def test_types_by_hand() -> None:
    """ "Dog" stands in two splits as a noun; "like" is a verb in one only, and its preposition is of a closed class."""
    words = [("train", "Dog", "NOUN"), ("train", "cat", "NOUN"), ("train", "like", "ADP"), ("test", "dog", "NOUN"),
             ("test", "like", "VERB"), ("test", "DOG", "NOUN")]  # fmt: skip
    found = {tuple(by_type(made(words), seed=seed).word_form) for seed in range(20)}
    assert found == {("Dog", "cat", "like"), ("cat", "dog", "like", "DOG")}


def test_a_probe_never_meets_a_form_again() -> None:
    """A ranking of a split by type counts exactly the words that were kept."""
    corpus = by_type(demo.small(), seed=0)
    found = pn.rank(demo.model(), corpus)
    train = corpus.split("train")
    expected = np.bincount(train.word_tag[train.readable("predict")], minlength=len(corpus.tags))
    assert found.count.tolist() == expected.tolist()
    assert np.isnan(found.scores[corpus.tags.index("DET")]).all()
    assert not np.isnan(found.scores[corpus.tags.index("NOUN")]).all()


def alone() -> Corpus:
    return made([("all", "a", "NOUN")])


def penn() -> Corpus:
    return made([("train", "a", "NN"), ("test", "b", "NN")])


def single() -> Corpus:
    return made([("train", "a", "NOUN"), ("test", "A", "NOUN")])


@pytest.mark.parametrize(
    ("corpus", "options", "message"),
    [
        (demo.small, {"tags": ("NOUN", "NN")}, "demo: no tag NN; expected tags of open classes, of ADJ, ADP, ADV"),
        (demo.small, {"tags": ()}, "demo: no tag ; expected tags of open classes, of ADJ,"),
        (
            demo.small,
            {"shares": {"train": 1, "dev": 1}},
            "demo: the splits train, dev, test, and shares of word types for train",
        ),
        (alone, {}, "made: found the split all only; expected at least two: see with_splits"),
        (penn, {}, "made: no tag ADJ, ADV, INTJ, NOUN, PROPN, VERB; expected tags of open classes, of NN, or tags="),
        (single, {}, "made: no word type is left for the split "),
    ],
)
def test_types_that_cannot_be_split(corpus: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TreebankError) as caught:
        by_type(corpus(), seed=0, **options)
    assert str(caught.value).startswith(message)
