"""Random models of eleven architectures on both backends: each method gives what it should, or says why it cannot."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import BACKENDS, NOT_HOOKED, VOCABULARY, WRITERS, hooked_only
from test_attribution import build_corpus
from test_forks import forked, plain, plain_local, values
from test_forks import some_tokens as some_rows
from test_locality import clean_run, edit, losses, one_by_one, run_with_acts

import posneurons as pn
from posneurons import models
from posneurons.errors import ModelError, PosNeuronsError
from posneurons.locality import can_be_local, local_hooks
from posneurons.methods import METHODS
from posneurons.packing import can_pack
from posneurons.writing import can_fork

KINDS = [(name, backend) for backend in BACKENDS for name in WRITERS if backend == "bridge" or name not in NOT_HOOKED]
POST_NORM = ("gemma2", "gemma3")
"""What the MLP gives goes through a norm, so that neurons do not write to the stream through W_out alone."""
LENS = ("logit_attribution", "dynamic_logit_attribution", "logprob_increase")
DOWN = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc2")
"""Ends of the names that Hugging Face gives to what reads the neurons."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name) / "checkpoint") for name, write in WRITERS.items()}


@cache
def loaded(folder: Path, backend: str) -> Any:
    return pn.load_model(folder, device="cpu", backend=backend)


def some_tokens(batch: int = 2, pos: int = 12) -> torch.Tensor:
    """Longer than the windows of 4 tokens that some of these models have."""
    tokens = torch.randint(2, VOCABULARY, (batch, pos), generator=torch.Generator().manual_seed(3))
    tokens[:, 0] = 0
    return tokens


@pytest.mark.parametrize(("name", "backend"), KINDS)
def test_logits_and_neurons_are_those_of_hugging_face(name: str, backend: str, folders: dict[str, Path]) -> None:
    source = transformers.AutoModelForCausalLM.from_pretrained(folders[name], attn_implementation="eager").eval()
    model, tokens, read = loaded(folders[name], backend), some_tokens(), []
    downs = [module for key, module in source.named_modules() if key.endswith(DOWN)]
    assert len(downs) == model.cfg.n_layers
    for module in downs:
        module.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    with torch.no_grad():
        expected = source(tokens).logits
        torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=0)
        rows = models.residual(model, tokens)
        torch.testing.assert_close(models.unembed(model, rows[0]), expected[0], atol=1e-4, rtol=0)
        names = [models.post_name(layer) for layer in range(model.cfg.n_layers)]
        cache = models.run_with_cache(model, tokens, names)
    for found, wanted in zip(cache.values(), read, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@hooked_only
@pytest.mark.parametrize("name", NOT_HOOKED)
def test_what_cannot_be_hooked_says_so_in_one_line(name: str, folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"cannot make a hooked model of \w+ \(.*\); try backend='bridge'$") as raised:
        loaded(folders[name], "hooked")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "backend"), KINDS)
def test_which_short_cuts_a_model_allows(name: str, backend: str, folders: dict[str, Path]) -> None:
    model = loaded(folders[name], backend)
    assert can_be_local(model)
    assert can_fork(model) == (name not in POST_NORM)
    assert can_pack(model) == (backend == "hooked")


@torch.no_grad()
@pytest.mark.parametrize(("name", "backend"), KINDS)
def test_the_local_scope_equals_a_loop_over_positions(name: str, backend: str, folders: dict[str, Path]) -> None:
    model, tokens = loaded(folders[name], backend), some_tokens()
    last = model.cfg.n_layers - 1
    clean, before = clean_run(model, tokens, last - 1)
    hooks = [edit(0, slice(None)), edit(last, slice(None)), *local_hooks(model, clean)]
    together = losses(model, models.residual(model, tokens, hooks), tokens)
    torch.testing.assert_close(together, one_by_one(model, tokens, (0, last)), atol=2e-5, rtol=1e-5)
    everywhere = losses(model, models.residual(model, tokens, hooks[:2]), tokens)
    assert (together - everywhere)[:, 1:].abs().max() > 1e-3
    resumed = [edit(last - 1, slice(None)), *local_hooks(model, clean, start=last - 1)]
    states = models.residual(model, tokens, resumed, start=(last - 1, before))
    torch.testing.assert_close(losses(model, states, tokens), one_by_one(model, tokens, (last - 1,)), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("name", "backend"), KINDS)
def test_local_derivatives_equal_a_loop_over_positions(name: str, backend: str, folders: dict[str, Path]) -> None:
    model, tokens = loaded(folders[name], backend), some_tokens(1)
    found, acts = run_with_acts(model, tokens, local_hooks(model))
    slopes = torch.autograd.grad(found.sum(), acts)
    plainly, acts = run_with_acts(model, tokens, [])
    for t in range(tokens.shape[1] - 1):
        alone = torch.autograd.grad(plainly[:, t].sum(), acts, retain_graph=True)
        for slope, expected in zip(slopes, alone, strict=True):
            torch.testing.assert_close(slope[:, t], expected[:, t], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("scope", ["all", "local"])
@pytest.mark.parametrize(("name", "backend"), KINDS)
def test_lesions_equal_plain_hooks(name: str, backend: str, scope: Any, folders: dict[str, Path]) -> None:
    model, tokens = loaded(folders[name], backend), some_rows(VOCABULARY, pos=10)
    last = model.cfg.n_layers - 1
    sets = [pn.NeuronSet.parse(names) for names in (["L0N3"], [], ["L0N1", f"L{last}N2"], [f"L{last}N5"])]
    fill = values(model) * 10
    intact, found = forked(model, tokens, sets, fill, scope=scope)
    by_hand = plain if scope == "all" else plain_local
    for neurons, each in zip(sets, found, strict=True):
        torch.testing.assert_close(each, by_hand(model, tokens, neurons, fill), atol=2e-5, rtol=0)
    assert (found[2] - intact).abs().max() > 1e-3


VARIANTS = [*METHODS, "attribution:scope=all", "integrated_gradients:path=joint", "relp:frozen_patterns=yes"]
REFUSED = {(name, method) for name in POST_NORM for method in LENS}


@pytest.mark.parametrize(
    "methods", [pytest.param(VARIANTS, marks=pytest.mark.slow, id="all"), pytest.param(["relp", *LENS], id="few")]
)
@pytest.mark.parametrize("name", WRITERS)
def test_every_method_gives_the_same_on_both_backends_or_says_why_not(
    name: str, methods: list[str], folders: dict[str, Path]
) -> None:
    corpus = build_corpus((6, 9, 4, 7, 12, 8, 10))
    found: dict[str, set[str]] = {}
    reasons: list[str] = []
    scores: dict[tuple[str, str], Any] = {}
    for backend in (each for kind, each in KINDS if kind == name):
        found[backend] = set()
        for method in methods:
            try:
                scores[backend, method] = pn.rank(loaded(folders[name], backend), corpus, method).scores
            except PosNeuronsError as error:
                reasons.append(str(error))
            else:
                found[backend].add(method)
                assert np.isfinite(scores[backend, method][:3]).any()
    for reason in reasons:
        assert re.fullmatch(r"[^\n]+: choose another method, such as attribution", reason)
    assert all(each == {method for method in methods if (name, method) not in REFUSED} for each in found.values())
    for method in methods if len(found) == 2 else ():
        if (name, method) not in REFUSED:
            hooked, bridge = (scores[backend, method] for backend in ("hooked", "bridge"))
            close(method, bridge, hooked)


def close(method: str, found: Any, expected: Any) -> None:
    """Equal but for rounding; what counts or ranks values may differ where two of them are nearly equal."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    off = np.abs(found - expected) > 1e-3 * np.nanmax(np.abs(expected))
    assert off.mean() <= (0.01 if method in ("gaussian", "key_neuron_rule", "elastic_net") else 0), method


@pytest.mark.parametrize("name", ["gpt2", "pythia", "qwen2", "gemma"])
@pytest.mark.parametrize("tokenizer", [{"bos": None}, {"prepends": False}, {}])
def test_a_text_begins_with_one_bos_whatever_the_tokenizer(
    name: str, tokenizer: dict[str, Any], tmp_path: Path
) -> None:
    """A tokenizer without a token that begins a text (Qwen's) is given its end of text, as TransformerLens does."""
    folder = WRITERS[name](tmp_path / "checkpoint", tokenizer=tokenizer)
    backend = "hooked" if "hooked" in BACKENDS and name not in NOT_HOOKED else "bridge"
    model = pn.load_model(folder, device="cpu", backend=backend)
    corpus = pn.align(pn.from_lists([["The", "boats", "lay"], ["flour"]], [["D", "N", "V"], ["N"]]), model.tokenizer)
    assert corpus.bos == (1 if tokenizer == {"bos": None} else 0)
    starts = corpus.row_bounds[:-1][np.diff(corpus.row_bounds) > 0]
    assert not np.isin(corpus.tokens[starts], (0, 1)).any()
