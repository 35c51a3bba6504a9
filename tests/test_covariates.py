"""Covariates of words by hand, and matched samples against slow counts: equal numbers, equal histograms."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import demo
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray

import posneurons as pn
from posneurons.covariates import covariate_values, word_covariates
from posneurons.errors import PosNeuronsError
from posneurons.matching import cells, matched_sample
from posneurons.records import Corpus


def made(words: Sequence[tuple[str, str, str]], *, first: int = 2) -> Corpus:
    """Words (split, form, tag), each at position `first` of its own row of `first` tokens."""
    splits = tuple(dict.fromkeys(split for split, _, _ in words))
    tags = tuple(sorted({tag for _, _, tag in words}))
    forms = [form.casefold() for _, form, _ in words]
    each = np.arange(len(words))
    return Corpus(
        name="made",
        tagset="upos",
        tags=tags,
        split_names=splits,
        bos=0,
        tokens=np.ones(first * len(words), dtype=np.int64),
        row_bounds=first * np.arange(len(words) + 1),
        row_document=each,
        row_split=np.array([splits.index(split) for split, _, _ in words], dtype=np.int64),
        word_row=each,
        word_first=np.full(len(words), first),
        word_last=np.full(len(words), first),
        word_tag=np.array([tags.index(tag) for _, _, tag in words], dtype=np.int64),
        word_form=np.array([form for _, form, _ in words], dtype=object),
        word_sentence=each,
        word_frequency=np.array([forms.count(form) for form in forms], dtype=np.int64),
        word_parts=np.ones(len(words), dtype=np.int64),
        dropped={},
        split_sentences=0,
        marked_documents=False,
    )


def of_tag(corpus: Corpus, split: str, tag: str) -> ndarray:
    """Numbers of a split's words of one tag."""
    here = corpus.row_split[corpus.word_row] == corpus.split_names.index(split)
    return np.flatnonzero(here & (corpus.word_tag == corpus.tags.index(tag)))


def test_covariates_by_hand() -> None:
    corpus = made([("train", "The", "DET"), ("train", "the", "DET"), ("test", "straße", "NOUN"), ("test", "THE", "X")])
    frame = word_covariates(corpus)
    assert frame.index.name == "word"
    assert frame.to_dict("list") == {
        "split": ["train", "train", "test", "test"],
        "form": ["The", "the", "straße", "THE"],
        "tag": ["DET", "DET", "NOUN", "X"],
        "log_frequency": [np.log(3), np.log(3), 0, np.log(3)],
        "length": [3, 3, 6, 3],
        "tokens": [1, 1, 1, 1],
        "position": [1, 1, 1, 1],
    }
    assert word_covariates(corpus, "last")["position"].tolist() == [2, 2, 2, 2]


def test_covariates_of_the_embedded_treebank() -> None:
    """Frequencies are counted over the whole treebank, and splitting or cutting the corpus does not change them."""
    corpus = demo.corpus()
    count = Counter(word.form.casefold() for sentence in pn.load_treebank() for word in sentence.words)
    frame = word_covariates(corpus, "last")
    assert np.exp(frame["log_frequency"]).round().astype(int).tolist() == [count[f.casefold()] for f in frame["form"]]
    assert (frame["position"] == corpus.word_last).all()
    assert (frame["tokens"] == [b - a + 1 for a, b in zip(corpus.word_first, corpus.word_last, strict=True)]).all()
    test = word_covariates(corpus.split("test"), "last")
    expected = frame[frame["split"] == "test"]
    assert test.reset_index(drop=True).equals(expected.reset_index(drop=True))
    values = covariate_values(corpus, ("length", "frequency"), "last")
    np.testing.assert_array_equal(values, frame[["length", "log_frequency"]].to_numpy())


def test_no_such_covariate() -> None:
    with pytest.raises(
        PosNeuronsError, match=r"^covariate 'size': expected one of frequency, length, tokens, position$"
    ):
        covariate_values(demo.corpus(), ("size",))
    assert covariate_values(demo.corpus(), ()).shape == (len(demo.corpus()), 0)


@settings(max_examples=100, deadline=None)
@given(column=st.lists(st.integers(0, 9), min_size=1, max_size=40), bins=st.integers(1, 8))
def test_cells_are_cut_at_quantiles(column: list[int], bins: int) -> None:
    """A value's bin counts the quantiles below it, the p-quantile being the first value with a share p up to it."""
    ordered, n = sorted(column), len(column)
    quantiles = [next(v for v in ordered if sum(u <= v for u in column) * bins >= p * n) for p in range(1, bins)]
    bin_of = [sum(quantile < value for quantile in quantiles) for value in column]
    expected = np.unique(bin_of, return_inverse=True)[1]
    assert cells(np.array(column, dtype=np.float64)[:, None], bins).tolist() == expected.tolist()


def test_cells_of_two_covariates_are_their_pairs() -> None:
    values = np.random.default_rng(0).integers(0, 6, (200, 2)).astype(np.float64)
    one, other, both = cells(values[:, :1], 4), cells(values[:, 1:], 4), cells(values, 4)
    assert len(set(both.tolist())) == len(set(zip(one.tolist(), other.tolist(), strict=True))) == both.max() + 1 > 4
    assert len(set(zip(one.tolist(), other.tolist(), both.tolist(), strict=True))) == both.max() + 1


def test_a_matched_sample_by_hand() -> None:
    """Cells of frequency 1 and 3: nouns have 3 and 3 words there, verbs 2 and 6; so each tag keeps 2 and 3."""
    nouns = ["a", "b", "c", "run", "Run", "RUN"]
    verbs = ["d", "e", "go", "go", "go", "see", "see", "see"]
    corpus = made([("train", form, "NOUN") for form in nouns] + [("train", form, "VERB") for form in verbs])
    found = matched_sample(corpus, bins=3, seed=3)
    for tag in ("NOUN", "VERB"):
        assert Counter(found.word_frequency[of_tag(found, "train", tag)].tolist()) == {1: 2, 3: 3}
    assert found.dropped == {
        ("train", "NOUN", "not in the matched sample"): 1,
        ("train", "VERB", "not in the matched sample"): 3,
    }
    assert found.n_rows == corpus.n_rows


@pytest.mark.parametrize(
    ("tags", "on", "bins"),
    [
        (("VERB", "NOUN"), ("frequency",), 10),
        (("NOUN", "VERB", "ADJ", "ADV"), ("frequency", "length"), 5),
        (("NOUN", "VERB"), ("frequency", "length", "position"), 6),
        (("DET", "NOUN", "PUNCT"), (), 10),
    ],
)
def test_tags_have_equal_numbers_and_equal_histograms(tags: tuple[str, ...], on: tuple[str, ...], bins: int) -> None:
    corpus = demo.corpus()
    found = matched_sample(corpus, tags, on=on, bins=bins)
    words = np.array([w for w in corpus.readable("predict") if corpus.tags[corpus.word_tag[w]] in tags])
    cell = dict(zip(words.tolist(), cells(covariate_values(corpus, on)[words], bins).tolist(), strict=True))
    kept = {(r, f): w for w, (r, f) in enumerate(zip(corpus.word_row, corpus.word_first, strict=True))}
    for split in corpus.split_names:
        there = {tag: Counter(cell[w] for w in of_tag(corpus, split, tag) if w in cell) for tag in tags}
        expected = Counter({each: min(there[tag][each] for tag in tags) for each in set(cell.values())})
        for tag in tags:
            mine = [kept[found.word_row[w], found.word_first[w]] for w in of_tag(found, split, tag)]
            assert +Counter(cell[w] for w in mine) == +expected
    assert {found.tags[tag] for tag in found.word_tag} == set(tags)
    assert (found.positions("predict") > 0).all()
    left_out = sum(n for key, n in found.dropped.items() if key[2] == "not in the matched sample")
    assert len(found) + left_out == len(corpus)
    np.testing.assert_array_equal(found.tokens, corpus.tokens)


def test_matching_takes_the_difference_in_frequency_away() -> None:
    tags = ("NOUN", "VERB", "ADV")
    before, after = (
        word_covariates(corpus.split("train")).groupby("tag")["log_frequency"].mean()[list(tags)]
        for corpus in (demo.corpus(), matched_sample(demo.corpus(), tags))
    )
    assert before.max() - before.min() > 1
    assert after.max() - after.min() < 0.15


def same(a: Corpus, b: Corpus) -> bool:
    return np.array_equal(a.word_row, b.word_row) and np.array_equal(a.word_first, b.word_first)


def test_the_seed_decides_which_words_and_per_tag_how_many() -> None:
    tags = ("NOUN", "VERB")
    found = [matched_sample(demo.corpus(), tags, seed=seed) for seed in (0, 0, 1)]
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
    assert found[0].tag_counts() == found[2].tag_counts()
    few = matched_sample(demo.corpus(), tags, per_tag=100)
    for split in few.split_names:
        nouns, verbs = (np.log(few.word_frequency[of_tag(few, split, tag)]) for tag in tags)
        assert len(nouns) == len(verbs) == 100
        assert abs(nouns.mean() - verbs.mean()) < 0.15
        whole = np.log(found[0].word_frequency[of_tag(found[0], split, "NOUN")])
        assert abs(nouns.mean() - whole.mean()) < 4 * whole.std() / 10  # 100 words: 4 standard errors
    assert matched_sample(demo.corpus(), tags, per_tag=10**6).tag_counts() == found[0].tag_counts()


def test_a_fair_draw() -> None:
    """Of six nouns alike two are kept: over 300 seeds each should be kept 100 times, to within 4 standard errors."""
    corpus = made([("train", f"n{n}", "NOUN") for n in range(6)] + [("train", f"v{n}", "VERB") for n in range(2)])
    kept = Counter(form for seed in range(300) for form in matched_sample(corpus, seed=seed).word_form.tolist())
    assert kept.pop("v0") == kept.pop("v1") == 300
    assert sum(kept.values()) == 600
    assert max(abs(count - 100) for count in kept.values()) < 4 * (300 * 2 / 6 * 4 / 6) ** 0.5


def test_words_that_cannot_be_read_are_left_out() -> None:
    corpus = made([("train", "a", "NOUN"), ("train", "b", "VERB")], first=1)
    assert len(matched_sample(corpus, at="last")) == 2
    with pytest.raises(PosNeuronsError, match="has no word of 'NOUN' to read at 'predict'"):
        matched_sample(corpus, ("NOUN", "VERB"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tags": ("NOUN", "VERV")},
            "matched_sample: demo has no word of 'VERV' to read at 'predict'; expected tags of",
        ),
        ({"tags": ("NOUN", "NOUN")}, "matched_sample: tags=('NOUN',); expected at least two tags"),
        ({"bins": 0}, "matched_sample: bins=0, per_tag=None; expected numbers of at least 1"),
        ({"per_tag": 0}, "matched_sample: bins=10, per_tag=0; expected numbers of at least 1"),
        ({"on": ("size",)}, "covariate 'size': expected one of frequency, length, tokens, position"),
        (
            {"tags": ("PART", "X")},
            "matched_sample: no words of PART and X are alike in frequency in the split 'dev' of demo; give",
        ),
        (
            {"tags": ("NOUN", "VERB", "ADV", "ADJ"), "on": ("frequency", "length", "position"), "bins": 20},
            "matched_sample: no words of all 4 tags are alike in frequency, length, position in the split 'dev' of ",
        ),
    ],
)
def test_errors_say_what_to_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PosNeuronsError) as caught:
        matched_sample(demo.corpus(), **options)
    assert str(caught.value).startswith(message)


def test_the_tag_that_is_hardest_to_match_is_named() -> None:
    with pytest.raises(PosNeuronsError, match=r"; leave out ADV \(3 of each other tag match\), or give fewer bins$"):
        matched_sample(demo.corpus(), ("NOUN", "VERB", "ADV", "ADJ"), on=("frequency", "length", "position"), bins=20)


def test_a_split_that_lacks_a_tag() -> None:
    corpus = made([("train", "a", "NOUN"), ("train", "b", "VERB"), ("test", "c", "NOUN")])
    with pytest.raises(PosNeuronsError, match="no word of VERB in the split 'test' of made"):
        matched_sample(corpus)
