"""Passes over a model against the cached values of the same words, and what a model must have for them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import demo
import numpy as np
import pytest
import torch
from checkpoints import write_gpt2, write_llama
from numpy import ndarray

import posneurons as pn
from posneurons import models, passes
from posneurons.errors import ModelError, PosNeuronsError
from posneurons.ranking import MOMENT_METHODS, auroc, lape
from posneurons.records import Corpus
from posneurons.shortlist import score_values

WRITERS: dict[str, Callable[..., Path]] = {"llama": write_llama, "gpt2": write_gpt2}


def few() -> Corpus:
    return demo.small().select(np.arange(demo.small().n_rows) % 3 == 0)


@cache
def tiny(name: str, backend: str = "hooked") -> Any:
    with TemporaryDirectory() as folder:
        return pn.load_model(WRITERS[name](Path(folder) / "checkpoint"), backend=backend, device="cpu")


@cache
def text() -> Corpus:
    """Six rows of random tokens, each a word, with three tags of which one is on no word."""
    rng, length = np.random.default_rng(0), 9
    words = np.arange(6 * length)
    return Corpus(
        name="random",
        tagset="upos",
        tags=("A", "NONE", "C"),
        split_names=("train",),
        bos=0,
        tokens=rng.integers(2, 60, 6 * length),
        row_bounds=np.arange(7) * length,
        row_document=np.arange(6),
        row_split=np.zeros(6, dtype=np.int64),
        word_row=words // length,
        word_first=words % length + 1,
        word_last=words % length + 1,
        word_tag=2 * rng.integers(0, 2, 6 * length),
        word_form=np.array([f"w{number}" for number in words]),
        word_sentence=words // length,
        word_frequency=np.ones(len(words), dtype=np.int64),
        word_parts=np.ones(len(words), dtype=np.int64),
        dropped={},
        split_sentences=0,
        marked_documents=False,
    )


def everything(model: Any) -> pn.NeuronSet:
    info = models.describe(model)
    return pn.NeuronSet.from_flat(np.arange(info.n_layers * info.d_mlp), info.d_mlp)


def slow_shares(model: Any, corpus: Corpus, at: Any) -> ndarray:
    """Of each tag's words the share at which each gate is on, row by row with TransformerLens's own cache."""
    info, position = models.describe(model), corpus.positions(at)
    on = np.zeros((len(corpus.tags), info.n_layers, info.d_mlp))
    n = np.zeros(len(corpus.tags))
    for row in range(corpus.n_rows):
        _, cached = model.run_with_cache(torch.from_numpy(corpus.row_tokens(row))[None])
        for word in np.flatnonzero((corpus.word_row == row) & (position > 0)):
            n[corpus.word_tag[word]] += 1
            for layer in range(info.n_layers):
                gate = cached["pre", layer][0, position[word]]
                on[corpus.word_tag[word], layer] += (gate > 0).numpy()
    return on / np.maximum(n, 1)[:, None, None]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("at", ["predict", "last"])
def test_gates_that_are_on_equal_a_plain_loop(name: str, at: Any) -> None:
    expected = slow_shares(tiny(name), text(), at)
    for backend in ("hooked", "bridge"):
        found = passes.gate_moments(tiny(name, backend), text(), at=(at,), tokens=30)[at]
        np.testing.assert_allclose(found.mean, expected, atol=1e-6)
        n = found.count[:, None, None]
        np.testing.assert_allclose(found.m2, n * expected * (1 - expected), atol=1e-4)
    assert (found.at, found.tags) == (at, ("A", "NONE", "C"))


def test_a_gate_is_on_where_the_activation_function_s_input_is_positive_and_not_the_activation() -> None:
    info = models.describe(tiny("llama"))
    signs = np.zeros((len(text()), info.n_layers, info.d_mlp), dtype=bool)

    def keep(layer: int, at: str, words: torch.Tensor, values: torch.Tensor) -> None:  # noqa: ARG001
        signs[words.numpy(), layer] = values.numpy() > 0

    pn.stream(tiny("llama"), text(), keep, at=("first",))
    gates = passes.gate_moments(tiny("llama"), text(), at=("first",))["first"]
    assert np.abs(signs[text().word_tag == 0].mean(0) - gates.mean[0]).mean() > 0.1


def test_lape_of_a_model() -> None:
    gates = passes.gate_moments(demo.model(), few())["predict"]
    scores = lape(gates)
    present = gates.count > 0
    kept = ~np.isnan(scores[present])
    assert 0.02 < kept.mean() <= 0.05
    assert gates.mean[present][kept].min() > gates.mean[present][~kept].max()
    assert scores[present][kept].max() <= np.log(present.sum())


def test_a_model_without_gates_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "pre_name", lambda layer: f"blocks.{layer}.mlp.hook_gate")
    with pytest.raises(ModelError, match=r"no gates at hook_pre \(blocks.0.mlp.hook_gate\) in Llama.*such as auroc$"):
        passes.gate_moments(tiny("llama"), text())
    monkeypatch.setattr(models, "pre_name", lambda layer: f"blocks.{layer}.hook_mlp_out")
    with pytest.raises(ModelError, match=r"wrong width at blocks.0.hook_mlp_out: found 32, expected d_mlp = 48; ch"):
        passes.gate_moments(tiny("llama"), text())


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_histograms_are_those_of_the_cached_values(backend: str) -> None:
    model = tiny("llama", backend)
    found = passes.tag_histograms(model, text(), at=("predict", "first"), bins=8, pilot=20, tokens=30)
    for at, histograms in found.items():
        acts = pn.cache_activations(model, text(), everything(model), at=at, tokens=30)
        shape = histograms.edges.shape[:2]
        values = acts.values.reshape(-1, *shape)
        assert histograms.at == at
        np.testing.assert_array_equal(histograms.count, np.bincount(text().word_tag[acts.word], minlength=3))
        for layer, unit in [(0, 0), (0, 47), (1, 13)]:
            places = np.searchsorted(histograms.edges[layer, unit], values[:, layer, unit], side="right")
            expected = np.zeros((3, 8), dtype=int)
            np.add.at(expected, (text().word_tag[acts.word], places), 1)
            np.testing.assert_array_equal(histograms.bins[:, layer, unit], expected)


def test_the_area_under_the_curve_is_off_by_less_than_five_thousandths() -> None:
    corpus = few()
    found = auroc(passes.tag_histograms(demo.model(), corpus, pilot=1500)["predict"])
    neurons = pn.NeuronSet.from_flat(np.random.default_rng(0).choice(6 * 768, 200, replace=False), 768)
    acts = pn.cache_activations(demo.model(), corpus, neurons)
    exact = score_values("auroc", acts.values, corpus.word_tag[acts.word], len(corpus.tags))
    difference = np.abs(found[:, neurons.layers, neurons.units] - exact)
    many = np.bincount(corpus.word_tag[acts.word], minlength=len(corpus.tags)) >= 20
    assert np.nanmax(difference[many]) < 0.005
    np.testing.assert_array_equal(np.isnan(difference), np.isnan(exact))


def test_the_pilot_is_drawn_by_seed_and_reads_whole_rows_until_it_has_enough() -> None:
    corpus = demo.small()
    rows = passes._pilot_rows(corpus, ("predict", "last"), 100, 3)
    part = corpus.select(rows)
    assert min(len(part.readable("predict")), len(part.readable("last"))) >= 100
    assert part.n_rows < corpus.n_rows / 4
    assert len(part.readable("predict")) < 100 + np.bincount(corpus.word_row).max()
    np.testing.assert_array_equal(passes._pilot_rows(corpus, ("predict", "last"), 100, 3), rows)
    assert (passes._pilot_rows(corpus, ("predict", "last"), 100, 4) != rows).any()
    assert passes._pilot_rows(corpus, ("predict",), 10**9, 0).all()


def test_seeds_and_batches_and_bins() -> None:
    def edges_and_bins(**options: Any) -> tuple[ndarray, ndarray]:
        found = passes.tag_histograms(tiny("llama"), text(), **{"pilot": 15, "bins": 6} | options)["predict"]
        return found.edges, found.bins

    np.testing.assert_array_equal(edges_and_bins()[0], edges_and_bins()[0])
    assert (edges_and_bins()[0] != edges_and_bins(seed=1)[0]).any()
    np.testing.assert_allclose(edges_and_bins(tokens=10)[0], edges_and_bins()[0], atol=1e-5)
    assert edges_and_bins(bins=5)[1].shape[-1] == 5


def test_requests_that_make_no_sense_are_errors() -> None:
    with pytest.raises(
        PosNeuronsError, match=r"^histograms: pilot=0; expected at least 1 word to take the edges from$"
    ):
        passes.tag_histograms(tiny("llama"), text(), pilot=0)
    with pytest.raises(PosNeuronsError, match=r"^histograms: bins=1; expected 2 to 256$"):
        passes.tag_histograms(tiny("llama"), text(), bins=1)
    first_words = text().select(np.arange(6) == 0)
    lonely = Corpus(**{**vars(first_words), "word_first": np.ones(9, dtype=np.int64)})
    with pytest.raises(PosNeuronsError, match=r"^histograms: no word to take the edges from; give longer sentences$"):
        passes.tag_histograms(tiny("llama"), lonely)


def test_several_positions_are_read_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    stream = passes.stream

    def counting(*args: Any, **options: Any) -> None:
        calls.append((args[1].n_rows, options["at"]))
        stream(*args, **options)

    monkeypatch.setattr(passes, "stream", counting)
    positions: Any = ("predict", "first", "last")
    both = passes.tag_moments(tiny("llama"), text(), at=positions)
    passes.gate_moments(tiny("llama"), text(), at=positions)
    passes.tag_histograms(tiny("llama"), text(), at=positions, pilot=20)
    # Of the histograms, rows of 8, 9 and 9 readable words give the edges and are not read again.
    assert calls == [(6, positions), (6, positions), (3, positions), (3, positions)]
    alone = passes.tag_moments(tiny("llama"), text(), at=("last",))["last"]
    np.testing.assert_array_equal(both["last"].mean, alone.mean)


@pytest.mark.parametrize("method", MOMENT_METHODS)
def test_every_method_finds_a_neuron_that_knows_the_tag(method: str) -> None:
    # Token t has tag A where t is even. Of unit 7 in layer 0, silu(gate) * up, both parts read one direction that the
    # embedding of even tokens alone has, so it is the tag; no other neuron can be more of it.
    model, corpus = planted(), text()
    even = corpus.tokens % 2 == 0
    corpus = Corpus(**{**vars(corpus), "word_tag": np.where(even, 0, 2)})
    ranking = pn.rank(model, corpus, method, at="last")
    assert ranking.top(1)["A"].names == ("L0N7",)


@cache
def planted() -> Any:
    with TemporaryDirectory() as folder:
        model = pn.load_model(write_llama(Path(folder) / "checkpoint", seed=3), device="cpu")
    model.W_E.data[:, 0] = 0
    model.W_E.data[::2, 0] = 30
    for weight in (model.blocks[0].mlp.W_gate, model.blocks[0].mlp.W_in):
        weight.data[:, 7] = 0
        weight.data[0, 7] = 1
    return model
