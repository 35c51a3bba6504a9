"""The arithmetic of densities and of the strongest words, and tokens as texts."""

import numpy as np
import pytest
from checkpoints import write_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from transformers import AutoTokenizer

from posneurons.profiles import BINS, density, rounded, strongest
from posneurons.token_texts import TokenTexts

INTS = np.int64


def test_bins_reach_to_the_tails_of_rare_tags():
    """A tag of 100 words at 0, one of 20 at 36, one of 3 at 1000: the last is too rare to stretch the bins."""
    values = np.repeat([0.0, 36.0, 1000.0], [100, 20, 3])
    tags = np.repeat([0, 1, 3], [100, 20, 3]).astype(INTS)
    edges, counts = density(values, tags, 4)
    assert edges.tolist() == list(range(37))
    assert (counts[0, 0], counts[1, -1], counts[3, -1]) == (100, 20, 3)
    assert counts.sum(1).tolist() == [100, 20, 0, 3]


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-9])
def test_a_constant_has_a_density_too(value):
    edges, counts = density(np.full(5, value), np.zeros(5, dtype=INTS), 1)
    assert edges[0] < value < edges[-1]
    assert counts.max() == 5


@given(arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)), st.integers(1, 4))
def test_every_word_is_in_a_bin_of_its_tag(values, n_tags):
    tags = np.arange(len(values), dtype=INTS) % n_tags
    edges, counts = density(values, tags, n_tags)
    assert counts.sum(1).tolist() == np.bincount(tags, minlength=n_tags).tolist()
    assert (np.diff(edges) > 0).all()
    assert counts.shape == (n_tags, BINS)


def test_strongest_words_by_hand():
    values = np.array([1.0, 5.0, 5.0, 4.0, -0.5, -0.6, 0.0], dtype=np.float32)
    types = np.array([0, 1, 1, 0, 2, 3, 4], dtype=INTS)
    assert strongest(values, types, 2) == [("high", 1), ("high", 3), ("low", 5), ("low", 4)]  # a tie: the earlier
    assert strongest(values, types, 9) == [("high", 1), ("high", 3), ("low", 5), ("low", 4)]  # 0 is on no side
    assert strongest(values[:4], types[:4], 1) == [("high", 1)]
    assert [side for side, _ in strongest(np.array([-10.0, 0.9], dtype=np.float32), types[:2], 3)] == ["low"]
    assert strongest(np.zeros(3, dtype=np.float32), types[:3], 3) == []


@given(st.integers(0, 100), st.integers(1, 5))
def test_strongest_words_against_a_loop(seed, k):
    rng = np.random.default_rng(seed)
    values, types = rng.integers(0, 9, 400).astype(np.float32), rng.integers(0, 6, 400)
    expected: list[int] = []
    for word in sorted(range(400), key=lambda word: (-values[word], word)):
        if values[word] > 0 and types[word] not in types[expected] and len(expected) < k:
            expected.append(word)
    assert strongest(values, types, k) == [("high", word) for word in expected]


def test_rounding():
    assert (rounded(0.123456), rounded(-1234567.0), rounded(-0.0)) == (0.1235, -1235000.0, 0.0)
    assert str(rounded(-0.0)) == "0.0"
    assert np.isnan(rounded(float("nan")))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_a_character_of_several_tokens_stands_at_the_first(tokenizer):
    ids = tokenizer("the €5 ☃", add_special_tokens=False)["input_ids"]
    texts = TokenTexts(tokenizer).of(ids)
    assert "".join(texts) == "the €5 ☃"
    place = next(i for i, text in enumerate(texts) if "€" in text)
    assert texts[place + 1 : place + 3] == ("", "")
    assert len(texts) == len(ids)


def test_half_a_character_is_named_by_its_bytes(tokenizer):
    texts = TokenTexts(tokenizer)
    first = tokenizer("☃", add_special_tokens=False)["input_ids"][0]
    assert texts.of([first]) == ("\ufffd",)
    assert texts.name(first) == "<0xE2>"
    assert texts.name(tokenizer.convert_tokens_to_ids("Ġ")) == " "
    assert texts.name(tokenizer.bos_token_id) == "<|begin_of_text|>"


def test_a_leading_space_is_kept_where_decoding_drops_it():
    class Pieces:
        def decode(self, ids, **_):
            return "".join(["▁the", "▁", "s"][i] for i in ids).replace("▁", " ").removeprefix(" ")

    assert TokenTexts(Pieces()).of([0, 2, 1, 0]) == (" the", "s", " ", " the")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_texts_of_tokens_make_up_the_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(TokenTexts(tokenizer).of(ids)) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
