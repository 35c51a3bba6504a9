"""Streaming against run_with_cache, against a plain loop, and against itself in other batches."""

from collections.abc import Callable
from dataclasses import replace
from inspect import unwrap

import demo
import numpy as np
import pytest
import torch

import posneurons as pn
from posneurons import activations, models
from posneurons.errors import AlignmentError, NeuronError
from posneurons.records import Corpus


def collect(corpus: Corpus, at: str, tokens: int = 4096) -> np.ndarray:
    """Streamed activations as [word layer neuron]; NaN for words that are not read."""
    info = models.describe(demo.model())
    out = np.full((len(corpus), info.n_layers, info.d_mlp), np.nan, dtype=np.float32)

    def keep(layer: int, where: str, words: torch.Tensor, values: torch.Tensor) -> None:
        assert where == at
        assert np.isnan(out[words.numpy(), layer]).all(), "a word came twice"
        out[words.numpy(), layer] = values.numpy()

    pn.stream(demo.model(), corpus, keep, at=(at,), tokens=tokens)
    return out


@torch.no_grad()
def loop(corpus: Corpus, at: str) -> np.ndarray:
    """The obvious way: one row at a time, everything cached."""
    info = models.describe(demo.model())
    out = np.full((len(corpus), info.n_layers, info.d_mlp), np.nan, dtype=np.float32)
    for row in range(corpus.n_rows):
        _, cache = demo.model().run_with_cache(torch.from_numpy(corpus.row_tokens(row))[None])
        for word in np.flatnonzero(corpus.word_row == row):
            position = {
                "predict": corpus.word_first[word] - 1,
                "first": corpus.word_first[word],
                "last": corpus.word_last[word],
            }[at]
            if position > 0:
                for layer in range(info.n_layers):
                    out[word, layer] = cache[f"blocks.{layer}.mlp.hook_post"][0, position].numpy()
    return out


@pytest.mark.parametrize("at", ["predict", "first", "last"])
def test_stream_equals_a_loop_over_rows(at: str) -> None:
    few = demo.small().select(np.arange(demo.small().n_rows) % 6 == 0)
    np.testing.assert_allclose(collect(few, at), loop(few, at), atol=2e-5, rtol=1e-4)


def test_stream_equals_run_with_cache() -> None:
    neurons = pn.NeuronSet.parse(["L0N5", "L5N767", "L3N1", "L3N0"])
    cached = pn.cache_activations(demo.model(), demo.small(), neurons, at="predict")
    streamed = collect(demo.small(), "predict")[cached.word][:, neurons.layers, neurons.units]
    np.testing.assert_array_equal(cached.values, streamed)
    assert list(cached.to_frame().columns) == ["L0N5", "L5N767", "L3N1", "L3N0"]


def test_batch_size_does_not_matter() -> None:
    a, b = collect(demo.small(), "last", tokens=64), collect(demo.small(), "last", tokens=100_000)
    np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)


def test_words_that_follow_bos_are_left_out_before_and_read_at() -> None:
    corpus = demo.small()
    opening = corpus.word_first == 1
    assert opening.sum() > 50
    assert np.isnan(collect(corpus, "predict")[opening]).all()
    assert not np.isnan(collect(corpus, "first")).any()


def test_batches_hold_every_row_once_within_the_budget() -> None:
    corpus = demo.corpus()
    seen = []
    for batch in activations.batches(corpus, "cpu", 512):
        seen += batch.rows.tolist()
        assert batch.tokens.numel() <= 512 or len(batch.rows) == 1
        for slot, row in enumerate(batch.rows):
            tokens = batch.tokens[slot].tolist()
            assert tokens[: batch.lengths[slot]] == corpus.row_tokens(row).tolist()
            assert set(tokens[batch.lengths[slot] :]) <= {corpus.bos}
    assert sorted(seen) == list(range(corpus.n_rows))


def every_token(corpus: Corpus) -> np.ndarray:
    """Activations at every token after BOS, one row of the corpus at a time: [token layer neuron], float64."""
    found = []
    with torch.no_grad():
        for row in range(corpus.n_rows):
            _, cache = demo.model().run_with_cache(torch.from_numpy(corpus.row_tokens(row))[None])
            found.append(torch.stack([cache[f"blocks.{la}.mlp.hook_post"][0, 1:].double() for la in range(6)], dim=1))
    return torch.cat(found).numpy()


@pytest.mark.parametrize("tokens", [60, 300, 100_000])
def test_token_statistics_are_over_all_tokens_after_bos(tokens: int) -> None:
    few = demo.small().select(np.arange(demo.small().n_rows) % 10 == 0)
    values = every_token(few)
    found = activations.token_statistics(demo.model(), few, tokens=tokens)
    assert found.count == len(values) == len(few.tokens)
    np.testing.assert_allclose(found.mean, values.mean(0), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found.mean_abs, np.abs(values).mean(0), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found.sd, values.std(0), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found.max_abs, np.abs(values).max(0), atol=1e-4, rtol=1e-4)
    assert (activations.token_means(demo.model(), few, tokens=tokens) == found.mean).all()


def scripted(monkeypatch: pytest.MonkeyPatch, value_of: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let every neuron of every layer be a function of the token ids, whatever the model."""

    def residual(_: object, tokens: torch.Tensor, hooks: list) -> None:
        for _name, hook in hooks:
            hook(value_of(tokens)[..., None].expand(*tokens.shape, 768).clone(), None)

    monkeypatch.setattr(models, "residual", residual)


def test_token_statistics_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two rows of two tokens, values 3, -1 | -5, 3: mean 0, |.| 3, squares 9 + 1 + 25 + 9 = 44, sd sqrt(11), max 5.
    corpus = demo.small().select(np.arange(demo.small().n_rows) < 2)
    corpus = replace(corpus, tokens=np.array([13, 9, 5, 13]), row_bounds=np.array([0, 2, 4]))
    scripted(monkeypatch, lambda tokens: (tokens - 10).float())
    for size in (1, 100):
        found = activations.token_statistics(demo.model(), corpus, tokens=size)
        assert found.count == 4
        torch.testing.assert_close(found.mean, torch.zeros(6, 768))
        torch.testing.assert_close(found.mean_abs, torch.full((6, 768), 3.0))
        torch.testing.assert_close(found.sd, torch.full((6, 768), 11**0.5))
        torch.testing.assert_close(found.max_abs, torch.full((6, 768), 5.0))


def test_a_large_mean_leaves_the_standard_deviation_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    # Values near 1000 that differ by thousandths: float32 sums of squares would have no digit left.
    corpus = demo.corpus()
    scripted(monkeypatch, lambda tokens: 1000 + (tokens % 16).float() / 1024)
    found = activations.token_statistics(demo.model(), corpus, tokens=500)
    expected = (corpus.tokens % 16 / 1024).std()
    torch.testing.assert_close(found.sd, torch.full((6, 768), float(expected)), rtol=1e-5, atol=0)


def test_moments_of_a_stream_equal_numpy() -> None:
    corpus = demo.small()
    moments = pn.tag_moments(demo.model(), corpus, at=("predict", "last"))
    for at, found in moments.items():
        values = collect(corpus, at)
        words = corpus.readable(at)
        for number in range(len(corpus.tags)):
            mine = values[words][corpus.word_tag[words] == number].astype(np.float64)
            assert found.count[number] == len(mine)
            if len(mine):
                np.testing.assert_allclose(found.mean[number], mine.mean(0), atol=1e-5)
                np.testing.assert_allclose(found.m2[number], mine.var(0) * len(mine), atol=1e-3, rtol=1e-4)


def test_a_neuron_that_overflows_at_bos_does_not_spoil_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(_: object, tokens: torch.Tensor, hooks: list) -> None:
        for layer, (_, hook) in enumerate(hooks):
            value = torch.full((*tokens.shape, 768), float(layer))
            value[:, 0, 5] = float("inf")
            hook(value, None)

    monkeypatch.setattr(models, "residual", overflow)
    found = activations.token_statistics(demo.model(), demo.small())
    torch.testing.assert_close(found.mean, torch.arange(6.0)[:, None].expand(6, 768))
    torch.testing.assert_close(found.sd, torch.zeros(6, 768))
    torch.testing.assert_close(found.max_abs, found.mean_abs)


def test_errors_say_what_to_do() -> None:
    corpus = demo.small()
    with pytest.raises(AlignmentError, match=r"at='middle': no such position; expected one of predict, first, last"):
        unwrap(Corpus.positions)(corpus, "middle")  # a user's Python has no type checks around it
    with pytest.raises(AlignmentError, match=r"token 5000 is outside the model's vocabulary of 4096; align with"):
        pn.tag_moments(demo.model(), replace(corpus, tokens=np.full_like(corpus.tokens, 5000)))
    with pytest.raises(NeuronError, match=r"neuron L6N0: the model has layers 0 to 5 and units 0 to 767"):
        pn.cache_activations(demo.model(), corpus, pn.NeuronSet.parse(["L6N0"]))
    nobody = corpus.select(np.zeros(corpus.n_rows, dtype=bool))
    with pytest.raises(AlignmentError, match="no tokens to take a mean over; give a corpus with sentences"):
        activations.token_statistics(demo.model(), nobody)
    long = replace(corpus, row_bounds=np.concatenate([[0], np.full(corpus.n_rows, len(corpus.tokens))]))
    with pytest.raises(
        AlignmentError, match=r"a row of \d+ tokens does not fit the model's context of 256; align with n_ctx=256"
    ):
        pn.tag_moments(demo.model(), long)
