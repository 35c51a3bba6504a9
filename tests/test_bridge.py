"""Everything that is done with a model, on a TransformerBridge beside a HookedTransformer: equal but for rounding."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import demo
import numpy as np
import pandas as pd
import pytest
import torch
from checkpoints import BACKENDS, hooked_only, write_llama

import posneurons as pn
from posneurons import backends, hooked, models, study
from posneurons.config import Config
from posneurons.errors import ModelError
from posneurons.records import Corpus

TAGS = ("NOUN", "VERB", "ADP")
ABLATIONS = {
    "all": ("zero", "mean", "balanced_mean", "resample:draws=2", "clamp:value=2", "scale:factor=0.5"),
    "local": ("mean", "resample:draws=2", "scale:factor=0.5"),  # a value, a donor, a factor: the others are values too
}


@cache
def bridge() -> Any:
    return pn.load_model(device="cpu", dtype=torch.float32, backend="bridge")


@cache
def few() -> Corpus:
    """A few short rows of the embedded treebank, of both splits."""
    corpus = demo.corpus()
    short = (np.diff(corpus.row_bounds) > 3) & (np.diff(corpus.row_bounds) < 14)
    return corpus.select(short & (np.arange(corpus.n_rows) % 12 == 0))


@cache
def keys() -> dict[str, pn.NeuronSet]:
    return {tag: pn.NeuronSet.parse([f"L{layer}N{7 * number + layer}" for layer in range(6)]) for number, tag in
            enumerate(TAGS)}  # fmt: skip


def same(found: pd.DataFrame, expected: pd.DataFrame, atol: float = 1e-4) -> None:
    pd.testing.assert_frame_equal(found, expected, check_exact=False, atol=atol, rtol=1e-3)


@hooked_only
def test_activations_are_the_same() -> None:
    found, expected = (pn.cache_activations(each, few(), keys()["NOUN"]) for each in (bridge(), demo.model()))
    np.testing.assert_allclose(found.to_frame(), expected.to_frame(), atol=1e-4)


def test_run_with_cache_makes_no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = bridge(), torch.tensor([[0, 5, 6]])
    monkeypatch.setattr(type(model.unembed), "forward", lambda *_: pytest.fail("it made logits"))
    found = models.run_with_cache(model, tokens, [models.post_name(5)])
    assert found[models.post_name(5)].shape == (1, 3, 768)


def test_a_run_from_the_middle_runs_no_earlier_layer_and_leaves_nothing_behind() -> None:
    model, tokens, ran, before = bridge(), torch.tensor([[0, 5, 6]]), [], []
    hooks = [(models.post_name(layer), lambda *_, layer=layer, **__: ran.append(layer)) for layer in range(6)]
    keep = ("blocks.4.hook_resid_pre", lambda value, **_: before.append(value.clone()))
    with torch.no_grad():
        whole = models.residual(model, tokens, [keep])
        torch.testing.assert_close(models.residual(model, tokens, hooks, start=(4, before[0])), whole, atol=0, rtol=0)
        assert ran == [4, 5]
        with pytest.raises(RuntimeError):
            models.residual(model, tokens, start=(4, before[0][..., :3]))
        torch.testing.assert_close(models.residual(model, tokens, hooks), whole, atol=0, rtol=0)
    assert ran == [4, 5, 0, 1, 2, 3, 4, 5]


def test_layers_that_use_the_keys_of_earlier_ones_are_not_left_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, ran = bridge(), torch.tensor([[0, 5, 6]]), []
    monkeypatch.setattr(model.original_model.config, "num_kv_shared_layers", 2, raising=False)
    hook = (models.post_name(0), lambda *_, **__: ran.append(0))
    models.residual(model, tokens, [hook], start=(4, torch.zeros(1, 3, model.cfg.d_model)))
    assert ran == [0]


@hooked_only
@pytest.mark.parametrize("scope", ABLATIONS)
def test_every_ablation_is_the_same(scope: Any) -> None:
    for ablation in ABLATIONS[scope]:
        found, expected = (
            pn.lesion(each, few(), keys(), ablation=ablation, scope=scope, controls=2, draws=50).to_frame()
            for each in (bridge(), demo.model())
        )
        same(found[["lesion", "tag", "delta"]], expected[["lesion", "tag", "delta"]])


@hooked_only
def test_probes_are_the_same() -> None:
    found, expected = (pn.fit_probe(each, few(), keys()).to_frame() for each in (bridge(), demo.model()))
    same(found.select_dtypes("number"), expected.select_dtypes("number"), atol=0.02)


@hooked_only
def test_verification_is_the_same() -> None:
    found, expected = (
        pn.verify(
            each, few(), ["attribution:contrast=no"], words=30, listed=20, top=10, random=50, tags=TAGS
        ).to_frame()
        for each in (bridge(), demo.model())
    )
    same(found.select_dtypes("number"), expected.select_dtypes("number"), atol=1e-2)


@hooked_only
def test_a_whole_run_is_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "treebank"
    folder.mkdir()
    config = Config(
        treebank=str(demo.write_treebank(folder, 20)), device="cpu", dtype="float32", top=5, controls=1, draws=50,
        min_words=40, probe_at=("predict",), pages=1, ablations=("mean",), beside=(),
    )  # fmt: skip
    out = {each: study.run(replace(config, backend=each), tmp_path / each, progress=False) for each in BACKENDS}
    for name, folder in out.items():
        assert json.loads((folder / "manifest.json").read_text())["model"]["backend"] == name
        assert (folder / "report.html").stat().st_size > 100_000
    columns = ["method", "lesion", "draw", "tag", "delta"]
    found, expected = (
        pd.read_parquet(folder / "lesions.parquet").query("draw == 0")[columns].reset_index(drop=True)
        for folder in out.values()
    )
    same(found, expected)
    scores = [
        pd.read_parquet(folder / "ranking.parquet").set_index(["method", "at", "tag", "layer", "neuron"])["score"]
        for folder in out.values()
    ]
    together = pd.concat(scores, axis=1, join="inner")
    assert len(together) > 0.99 * len(scores[0])
    np.testing.assert_allclose(together.iloc[:, 0], together.iloc[:, 1], atol=1e-3, rtol=1e-3)


def test_without_hooked_transformer_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "checkpoint")
    if "hooked" in BACKENDS:
        import transformer_lens

        monkeypatch.delattr(transformer_lens, "HookedTransformer")
        monkeypatch.setattr(hooked, "version", lambda _: "4.3.0")
    sentence = (
        r"checkpoint: transformer-lens \d+\.\d+\.\d+ has no HookedTransformer; choose backend='bridge', or install "
        r"transformer-lens 3\.9$"
    )
    with pytest.raises(ModelError, match=sentence):
        pn.load_model(folder, device="cpu", backend="hooked")
    with pytest.raises(ModelError, match="has no HookedTransformer"):
        models.build_hooked({"model_name": "planted"}, {})


@pytest.mark.parametrize(("installed", "backend"), [("3.9.0", "hooked"), ("4.0.0", "bridge"), ("10.1", "bridge")])
def test_the_backend_that_is_taken_is_one_that_is_there(
    installed: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "version", lambda _: installed)
    assert backends.default_backend() == backend


def test_the_default_is_the_same_everywhere() -> None:
    assert models.describe(demo.model()).backend == BACKENDS[0] == Config().backend
