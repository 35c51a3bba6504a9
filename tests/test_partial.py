"""Partial correlation against residuals by least squares, on the embedded model and on activations made by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import demo
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from test_covariates import made

import posneurons as pn
from posneurons import partial
from posneurons.covariates import covariate_values
from posneurons.errors import PosNeuronsError
from posneurons.partial import partial_correlation
from posneurons.records import Corpus, Scored

NONE = {"frequency": False, "length": False, "position": False}


def slow(values: ndarray, given_: ndarray, mine: ndarray) -> ndarray:
    """Correlation of each neuron's residuals with the tag's, each from a regression of its own, in float64."""
    design = np.column_stack([np.ones(len(values)), given_])

    def left(target: ndarray) -> ndarray:
        return np.asarray(target - design @ np.linalg.lstsq(design, target, rcond=None)[0])

    tag = left(mine.astype(np.float64))
    each = left(values.astype(np.float64))
    return np.asarray(tag @ each / np.sqrt(np.square(tag).sum() * np.square(each).sum(0)))


def feed(monkeypatch: pytest.MonkeyPatch, values: ndarray, dtype: torch.dtype = torch.float32) -> None:
    """Activations [word neuron] of a single layer instead of the model's, in batches of `tokens` words."""

    def stream(_: Any, corpus: Corpus, consume: Callable[..., None], *, at: Any, tokens: int, progress: bool) -> None:
        assert not progress
        words = np.random.default_rng(0).permutation(corpus.readable(at[0]))
        for start in range(0, len(words), tokens):
            part = torch.from_numpy(words[start : start + tokens])
            consume(0, at[0], part, torch.from_numpy(values)[part].to(dtype))

    info = replace(pn.describe(demo.model()), n_layers=1, d_mlp=values.shape[1])
    monkeypatch.setattr(partial, "stream", stream)
    monkeypatch.setattr(partial.models, "describe", lambda _: info)


def scored(corpus: Corpus, tokens: int = 50, **options: bool) -> Scored:
    return partial_correlation(None, corpus, at="last", tokens=tokens, progress=False, **options)


def words(n: int, seed: int = 0, tags: Sequence[str] = ("NOUN", "VERB", "X")) -> Corpus:
    """Words of different frequency, length and position, with tags that hang together with all of them."""
    rng = np.random.default_rng(seed)
    frequent, length, place = rng.geometric(0.1, n), rng.integers(1, 9, n), rng.integers(2, 30, n)
    sources = np.log(frequent), length, place, rng.normal(size=n)
    merit = sum((each - each.mean()) / each.std() for each in sources)
    tag = np.argsort(np.argsort(merit)) * len(tags) // n
    corpus = made([("train", "w" * length[i], tags[int(tag[i])]) for i in range(n)])
    return replace(corpus, word_frequency=frequent, word_first=place, word_last=place)


@pytest.mark.parametrize("at", ["predict", "last"])
def test_the_embedded_model_against_least_squares(at: Any) -> None:
    """All neurons of two layers, and all tags."""
    train = demo.small().split("train")
    found = pn.rank(demo.model(), demo.small(), "partial_correlation", at=at)
    assert found.at == at
    assert not found.signed
    neurons = pn.NeuronSet.from_flat(np.arange(2 * 768), 768)
    cached = pn.cache_activations(demo.model(), train, neurons, at=at)
    given_ = covariate_values(train, ("frequency", "length", "position"), at)[cached.word]
    for number in range(len(train.tags)):
        expected = slow(cached.values, given_, train.word_tag[cached.word] == number)
        np.testing.assert_allclose(found.scores[number, :2].ravel(), expected, atol=1e-6)
    assert found.count.tolist() == np.bincount(train.word_tag[cached.word], minlength=len(train.tags)).tolist()


def test_without_covariates_it_is_the_correlation() -> None:
    found = pn.rank(demo.model(), demo.small(), "partial_correlation", at="last", **NONE)
    assert found.method == "partial_correlation:frequency=no,length=no,position=no"
    expected = pn.rank(demo.model(), demo.small(), "correlation", at="last")
    np.testing.assert_allclose(found.scores, expected.scores, atol=2e-6)
    assert found.count.tolist() == expected.count.tolist()


def test_batches_change_nothing() -> None:
    found, other = (pn.rank(demo.model(), demo.small(), "partial_correlation", tokens=size) for size in (2048, 300))
    np.testing.assert_allclose(found.scores, other.scores, atol=1e-5)


@pytest.mark.parametrize("name", ["frequency", "length", "position"])
def test_each_covariate_is_taken_away_by_its_own_option(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A neuron that follows a covariate and noise knows the tag until that covariate is given; a real one stays."""
    corpus = words(2000)
    rng = np.random.default_rng(1)
    follows = covariate_values(corpus, (name,), "last")[:, 0]
    values = np.column_stack(
        [follows + follows.std() * rng.normal(size=2000) / 9, corpus.word_tag + rng.normal(size=2000)]
    )
    feed(monkeypatch, values)
    plain, given_ = scored(corpus, **NONE), scored(corpus, **{**NONE, name: True})
    others = scored(corpus, **{name: False})
    assert np.abs(plain.scores[:, 0, 0]).max() > 0.2
    assert np.abs(others.scores[:, 0, 0]).max() > 0.1
    assert np.abs(given_.scores[:, 0, 0]).max() < 0.08
    assert np.abs(given_.scores[:, 0, 1]).max() > 0.4
    expected = [slow(values, follows[:, None], corpus.word_tag == tag) for tag in range(3)]
    np.testing.assert_allclose(given_.scores[:, 0], expected, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(30, 120), seed=st.integers(0, 999), tokens=st.integers(1, 130), offset=st.sampled_from([0, 1, 1e3])
)
def test_any_words_against_least_squares(n: int, seed: int, tokens: int, offset: float) -> None:
    corpus, rng = words(n, seed), np.random.default_rng(seed)
    values = (rng.normal(size=(n, 4)) + offset + covariate_values(corpus, ("position",), "last")).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        feed(patch, values)
        found = scored(corpus, tokens)
    given_ = covariate_values(corpus, ("frequency", "length", "position"), "last")
    for tag in range(len(corpus.tags)):
        expected = slow(values, given_, corpus.word_tag == tag)
        np.testing.assert_allclose(found.scores[tag, 0], expected, atol=1e-6)


def test_three_words_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths 1, 2, 3: what a line leaves of any three numbers is a multiple of (1, -2, 1), so that r is 1 or -1."""
    corpus = made([("train", "a", "A"), ("train", "bb", "B"), ("train", "ccc", "C")])
    feed(monkeypatch, np.array([[1.0, 0.0], [0.0, 5.0], [0.0, 0.0]]))
    found = scored(corpus, **{**NONE, "length": True})
    np.testing.assert_allclose(found.scores[:, 0], [[1, -1], [-1, 1], [1, -1]])
    # The tag A is (1, 0, 0): its variance about 1/3 is 2/3, and (1, -2, 1) / 6 has a square of 1/6; 3/4 is explained.
    assert found.notes == pytest.approx({"explained:A": 3 / 4, "explained:B": 0, "explained:C": 3 / 4}, abs=1e-12)
    assert scored(corpus, **NONE).notes == pytest.approx({f"explained:{tag}": 0 for tag in "ABC"}, abs=1e-12)


def test_a_neuron_that_the_covariates_explain_is_undefined(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = words(300)
    follows = covariate_values(corpus, ("length", "position"), "last") @ [0.5, 3.0]
    noise = np.random.default_rng(2).normal(size=300)
    flicker = 1 + 2.0**-23 * (np.arange(300) % 10 == 0)  # the last digit of float32
    explained = [follows, follows - follows.mean()]
    defined = [follows + 1e-3 * noise, 1e4 + noise, 4e6 + noise]
    feed(monkeypatch, np.column_stack([*explained, np.full(300, 0.1), flicker, *defined]))
    found, plain = (~np.isnan(scored(corpus, **options).scores[:, 0]) for options in ({}, NONE))
    assert found.tolist() == [[False] * 4 + [True] * 3] * 3
    assert plain.tolist() == [[True] * 2 + [False] * 2 + [True] * 3] * 3


def test_tags_that_are_undefined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag that is a word's length, one without words, and one that all words have."""
    feed(monkeypatch, np.random.default_rng(0).normal(size=(40, 3)))
    corpus = made([("train", "a" if n % 2 else "bb", "A" if n % 2 else "B") for n in range(40)])
    found = scored(replace(corpus, tags=("A", "B", "NONE")), frequency=False)
    assert np.isnan(found.scores).all()
    assert found.count.tolist() == [20, 20, 0]
    assert found.notes == pytest.approx({"explained:A": 1, "explained:B": 1})
    assert (~np.isnan(scored(corpus, **NONE).scores)).all()
    alone = scored(replace(corpus, word_tag=np.zeros(40, dtype=np.int64)), **NONE)
    assert np.isnan(alone.scores).all()
    assert alone.notes == {}


def test_covariates_that_say_the_same_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words that are as long as frequent, all at one position: only one of the three covariates says anything."""
    corpus, values = words(200), np.random.default_rng(0).normal(size=(200, 3))
    size = np.array([len(form) for form in corpus.word_form])
    corpus = replace(corpus, word_frequency=2**size, word_first=np.full(200, 3), word_last=np.full(200, 3))
    feed(monkeypatch, values)
    expected = [slow(values, size[:, None], corpus.word_tag == tag) for tag in range(3)]
    np.testing.assert_allclose(scored(corpus).scores[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the model's type, the sums are taken in float64."""
    corpus, values = words(500), np.random.default_rng(0).normal(size=(500, 3)) + 50
    feed(monkeypatch, values, dtype)
    rounded = torch.from_numpy(values).to(dtype).double().numpy()
    given_ = covariate_values(corpus, ("frequency", "length", "position"), "last")
    expected = [slow(rounded, given_, corpus.word_tag == tag) for tag in range(3)]
    np.testing.assert_allclose(scored(corpus).scores[:, 0], expected, atol=1e-6)


def test_no_words_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, np.zeros((1, 3)))
    corpus = made([("train", "a", "A")], first=1)
    found = partial_correlation(None, corpus, at="predict", tokens=9, progress=False)
    assert np.isnan(found.scores).all()
    assert found.count.tolist() == [0]


def test_a_covariate_is_given_or_not() -> None:
    with pytest.raises(PosNeuronsError, match=r"^method partial_correlation: length=some: expected yes or no$"):
        pn.rank(demo.model(), demo.small(), "partial_correlation:length=some")
    with pytest.raises(PosNeuronsError, match=r"no option 'tokens_'; it takes frequency, length, position$"):
        pn.rank(demo.model(), demo.small(), "partial_correlation:tokens_=yes")
