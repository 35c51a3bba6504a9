"""The key neuron rule against plain counting, and what it says of a neuron that matters everywhere."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_llama
from hypothesis import given
from hypothesis import strategies as st
from test_attribution import build_corpus
from test_integrated import package, the_scene

import posneurons as pn
from posneurons import models
from posneurons.errors import PosNeuronsError
from posneurons.key_neurons import best, key_neuron_rule, log_odds
from posneurons.records import Corpus


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return pn.load_model(write_llama(tmp_path_factory.mktemp("llama")), device="cpu")


def loop(model: Any, corpus: Corpus, share: float, per: str) -> tuple[np.ndarray, np.ndarray]:
    """How many of a tag's words have a neuron among their best [tag layer neuron], and words per tag, by counting."""
    scene = the_scene(corpus)
    values, _ = package(model, scene, rule="gauss_legendre", steps=6)
    n_layers, n_units = values.shape[1:]
    hits, words = np.zeros((len(corpus.tags), n_layers, n_units)), np.zeros(len(corpus.tags), dtype=np.int64)
    for tag, table in zip(scene.tags.tolist(), values.numpy(), strict=True):
        words[tag] += 1
        pools = [[(la, u) for u in range(n_units)] for la in range(n_layers)]
        for pool in pools if per == "layer" else [[*pools[0], *pools[1]]]:
            kept = sorted(pool, key=lambda neuron: -table[neuron])[: max(1, round(share * len(pool)))]
            for layer, unit in kept:
                hits[tag, layer, unit] += 1
    return hits, words


def test_best_by_hand() -> None:
    values = torch.tensor([[0.1, -5.0, 3.0, 2.0, 0.0], [-1.0, -2.0, -3.0, -4.0, -0.5]])
    assert best(values, 0.4).tolist() == [[0, 0, 1, 1, 0], [1, 0, 0, 0, 1]]  # signed: -5 is not large
    assert best(values, 0.2).tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]
    assert best(values, 0.01).sum(1).tolist() == [1, 1]  # at least one


@given(st.integers(1, 40), st.floats(0.01, 0.99), st.integers(0, 99))
def test_best_are_the_largest(neurons: int, share: float, seed: int) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).permutation(neurons * 3).reshape(3, -1)).float()
    members = best(values, share)
    assert set(members.unique().tolist()) <= {0.0, 1.0}
    assert members.sum(1).tolist() == [max(1, round(share * neurons))] * 3
    for row, member in zip(values, members.bool(), strict=True):
        assert member.all() or row[member].min() > row[~member].max()


@pytest.mark.parametrize("per", ["layer", "model"])
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_frequencies_equal_counting(model: Any, per: Any, share: float) -> None:
    corpus = build_corpus()
    hits, words = loop(model, corpus, share, per)
    found = key_neuron_rule(model, corpus, share=share, per=per)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.scores, hits / words[:, None, None], atol=1e-7)
    np.testing.assert_array_equal(found.count, words)
    assert np.isnan(found.scores[3]).all()  # no words, no frequency
    pool = 48 if per == "layer" else 96
    kept = max(1, round(share * pool)) * (2 if per == "layer" else 1)
    np.testing.assert_allclose(found.scores[:3].sum((1, 2)), kept, rtol=1e-6)
    assert 0 < float(found.notes["completeness_error"]) <= 0.05


def test_the_selective_variant_equals_counting(model: Any) -> None:
    corpus = build_corpus()
    hits, words = loop(model, corpus, 0.3, "layer")
    found = key_neuron_rule(model, corpus, share=0.3, contrast=True).scores
    for tag in range(3):
        rest = [other for other in range(3) if other != tag]
        a, b = hits[tag] + 0.5, words[tag] - hits[tag] + 0.5
        c, d = hits[rest].sum(0) + 0.5, words[rest].sum() - hits[rest].sum(0) + 0.5
        np.testing.assert_allclose(
            found[tag], np.log(a * d / (b * c)) / np.sqrt(1 / a + 1 / b + 1 / c + 1 / d), rtol=1e-5
        )
    assert np.isnan(found[3]).all()


def test_batches_do_not_matter(model: Any) -> None:
    corpus = build_corpus()
    for per in ("layer", "model"):
        whole, parts = (
            key_neuron_rule(model, corpus, per=per, steps=12, tokens=tokens).scores for tokens in (2048, 12)
        )
        np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_log_odds_by_hand() -> None:
    # A neuron is best for 3 of 4 words of tag 0 and for 1 of 6 of tag 1: cells 3.5, 1.5, 1.5 and 5.5.
    rates = np.array([3 / 4, 1 / 6, np.nan]).reshape(3, 1, 1)
    expected = np.log(3.5 * 5.5 / (1.5 * 1.5)) / np.sqrt(1 / 3.5 + 1 / 1.5 + 1 / 1.5 + 1 / 5.5)
    found = log_odds(rates, np.array([4, 6, 0])).ravel()
    np.testing.assert_allclose(found, [expected, -expected, np.nan])
    assert np.isnan(log_odds(rates[:1], np.array([4]))).all()  # nothing to compare with


counted = st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@given(counted, counted)
def test_log_odds_of_two_tags_are_opposite_and_have_the_sign_of_the_odds(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    (n, hits), (m, others) = one, other
    found = log_odds(np.array([hits / n, others / m]).reshape(2, 1, 1), np.array([n, m])).ravel()
    np.testing.assert_allclose(found[0], -found[1], atol=1e-9)
    odds = (hits + 0.5) * (m - others + 0.5) - (n - hits + 0.5) * (others + 0.5)
    assert np.sign(found[0].round(9)) == np.sign(odds)


def two_next_tokens() -> Corpus:
    """Every word of tag "A" begins with token 11, every word of tag "B" with token 12."""
    corpus = build_corpus((9, 8, 9))
    tags, tokens = corpus.word_tag % 2, corpus.tokens.copy()
    tokens[corpus.row_bounds[corpus.word_row] + corpus.word_first - 1] = 11 + tags
    return replace(corpus, tokens=tokens, word_tag=tags)


def with_planted_neurons(model: Any) -> Any:
    """Unit 7 of the last layer raises tokens 11 and 12, unit 8 raises 11 at the cost of 12; the others do little."""
    model = copy.deepcopy(model)
    one, other = model.W_U[:, 11] / model.W_U[:, 11].norm(), model.W_U[:, 12] / model.W_U[:, 12].norm()
    writes = 0.01 * model.blocks[1].mlp.W_out.detach()
    writes[7], writes[8] = 2 * (one + other), one - other
    model.blocks[1].mlp.W_out = torch.nn.Parameter(writes, requires_grad=False)
    return model


def always_on(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
    value = value.clone()
    value[..., [7, 8]] = 1.0
    return value


def test_a_neuron_that_matters_everywhere_is_frequent_and_not_selective(model: Any) -> None:
    prepared, corpus = with_planted_neurons(model), two_next_tokens()
    with prepared.hooks(fwd_hooks=[(models.post_name(1), always_on)]):
        frequent = key_neuron_rule(prepared, corpus).scores
        selective = key_neuron_rule(prepared, corpus, contrast=True).scores
    np.testing.assert_array_equal(frequent[:2, 1, 7], [1, 1])
    np.testing.assert_array_equal(frequent[:2, 1, 8], [1, 0])
    assert np.abs(selective[:2, 1, 7]).max() < 0.5
    assert selective[0, 1, 8] == np.nanmax(selective[0]) > 2
    assert selective[1, 1, 8] == np.nanmin(selective[1]) < -2


def test_a_miss_is_an_error_here_too(model: Any) -> None:
    with pytest.raises(PosNeuronsError, match="attributions miss the difference they must add up to by "):
        key_neuron_rule(model, build_corpus(), rule="left", steps=1)
