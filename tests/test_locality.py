"""Edits and derivatives of all positions at once against loops over positions, in several kinds of attention."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import demo
import pytest
import torch
from checkpoints import hooked_only, write_gpt2, write_llama, write_neox
from hypothesis import given, settings
from hypothesis import strategies as st

import posneurons as pn
from posneurons import models
from posneurons.locality import can_be_local, local_hooks, record_keys_values

WRITERS: dict[str, Callable[..., Path]] = {
    "gpt2": write_gpt2,
    "neox": write_neox,
    "llama": write_llama,
    "capped": write_llama,
}


@pytest.fixture(scope="module", params=["demo", "gpt2", "neox", "llama", pytest.param("capped", marks=hooked_only)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name = request.param
    if name == "demo":
        return demo.model()
    loaded = pn.load_model(WRITERS[name](tmp_path_factory.mktemp(name)), device="cpu")
    return capped(loaded) if name == "capped" else loaded


def capped(model: Any) -> Any:
    """The same model with a soft cap on its attention scores that is low enough to bend them."""
    model = copy.deepcopy(model)
    model.cfg.attn_scores_soft_cap = 0.7
    for block in model.blocks:
        block.attn.cfg.attn_scores_soft_cap = 0.7
    return model


def some_tokens(model: Any, batch: int = 2, pos: int = 7) -> torch.Tensor:
    tokens = torch.randint(2, models.describe(model).d_vocab, (batch, pos), generator=torch.Generator().manual_seed(3))
    tokens[:, 0] = models.bos_id(model)
    return tokens


def edit(layer: int, positions: slice, factor: float = 2.0) -> models.Hook:
    """Every neuron of a layer, at some positions, times a factor and a little more."""

    def hook_function(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        value = value.clone()
        value[:, positions] = factor * value[:, positions] + 0.2
        return value

    return models.post_name(layer), hook_function


def losses(model: Any, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """[batch pos], the last position left out."""
    rows, targets = states[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    return models.cross_entropy(model, rows, targets).unflatten(0, (len(tokens), -1))


@torch.no_grad()
def one_by_one(model: Any, tokens: torch.Tensor, layers: tuple[int, ...], factor: float = 2.0) -> torch.Tensor:
    """Losses with one position edited at a time, of which only its own loss is kept."""
    apart = []
    for t in range(tokens.shape[1] - 1):
        hooks = [edit(layer, slice(t, t + 1), factor) for layer in layers]
        apart.append(losses(model, models.residual(model, tokens, hooks), tokens)[:, t])
    return torch.stack(apart, dim=1)


def clean_run(model: Any, tokens: torch.Tensor, layer: int) -> tuple[dict[int, Any], torch.Tensor]:
    """Keys and values of a run without edits, and the residual before a layer of it."""
    clean: dict[int, Any] = {}
    before: list[torch.Tensor] = []
    keep = (f"blocks.{layer}.hook_resid_pre", lambda value, hook: before.append(value.clone()))  # noqa: ARG005
    models.residual(model, tokens, [*record_keys_values(model, clean), keep])
    return clean, before[0]


@torch.no_grad()
def test_edits_of_all_positions_at_once_equal_a_loop(model: Any) -> None:
    tokens, last = some_tokens(model), model.cfg.n_layers - 1
    clean, _ = clean_run(model, tokens, 0)
    hooks = [edit(0, slice(None)), edit(last, slice(None)), *local_hooks(model, clean)]
    together = losses(model, models.residual(model, tokens, hooks), tokens)
    torch.testing.assert_close(together, one_by_one(model, tokens, (0, last)), atol=1e-5, rtol=1e-5)
    everywhere = losses(model, models.residual(model, tokens, hooks[:2]), tokens)
    assert (together - everywhere)[:, 1:].abs().max() > 1e-3  # without the local hooks positions see each other


@torch.no_grad()
def test_a_resumed_run_equals_a_loop(model: Any) -> None:
    tokens, layer = some_tokens(model), model.cfg.n_layers // 2 - 1
    clean, before = clean_run(model, tokens, layer)
    expected = one_by_one(model, tokens, (layer,))
    for start in (layer, layer + 1):  # the attention before the edit has nothing to hold back
        hooks = [edit(layer, slice(None)), *local_hooks(model, clean, start=start)]
        states = models.residual(model, tokens, hooks, start=(layer, before))
        torch.testing.assert_close(losses(model, states, tokens), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_conditions_stacked_on_the_batch_share_one_clean_run(model: Any) -> None:
    tokens = some_tokens(model)
    clean, _ = clean_run(model, tokens, 0)

    def two_edits(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        first, second = value.chunk(2)
        return torch.cat([2.0 * first + 0.2, -1.0 * second + 0.2])

    hooks = [(models.post_name(0), two_edits), *local_hooks(model, clean)]
    found = losses(model, models.residual(model, tokens.repeat(2, 1), hooks), tokens.repeat(2, 1))
    expected = torch.cat([one_by_one(model, tokens, (0,), factor) for factor in (2.0, -1.0)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found[:2] - found[2:]).abs().max() > 1e-2


def run_with_acts(
    model: Any, tokens: torch.Tensor, hooks: list[models.Hook]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Losses with a graph that begins at the first layer's activations, and every layer's activations."""
    acts: list[torch.Tensor] = []

    def keep(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        acts.append(value if value.requires_grad else value.detach().requires_grad_())
        return acts[-1]

    layers = [(models.post_name(layer), keep) for layer in range(model.cfg.n_layers)]
    return losses(model, models.residual(model, tokens, [*layers, *hooks]), tokens), acts


def test_derivatives_of_the_summed_loss_equal_a_loop(model: Any) -> None:
    tokens = some_tokens(model)
    found, acts = run_with_acts(model, tokens, local_hooks(model))
    slopes = torch.autograd.grad(found.sum(), acts)
    plain, acts = run_with_acts(model, tokens, [])
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=0)  # nothing is edited, so values are as they were
    mixed = torch.autograd.grad(plain.sum(), acts, retain_graph=True)
    for t in range(tokens.shape[1] - 1):
        alone = torch.autograd.grad(plain[:, t].sum(), acts, retain_graph=True)
        for slope, expected in zip(slopes, alone, strict=True):
            here = expected[:, t]
            torch.testing.assert_close(slope[:, t], here, atol=1e-5 * float(here.abs().max()), rtol=1e-5)
    assert (mixed[0] - slopes[0]).abs().max() > 0.01 * slopes[0].abs().max()


@settings(max_examples=8, deadline=None)
@given(position=st.integers(0, 6), layer=st.integers(0, 5), factor=st.floats(-3, 3))
@torch.no_grad()
def test_an_edit_is_felt_nowhere_else(position: int, layer: int, factor: float) -> None:
    model = demo.model()
    tokens = some_tokens(model)
    clean, _ = clean_run(model, tokens, 0)
    hooks = [edit(layer, slice(position, position + 1), factor), *local_hooks(model, clean)]
    change = models.residual(model, tokens, hooks) - models.residual(model, tokens)
    elsewhere = [t for t in range(7) if t != position]
    assert change[:, elsewhere].abs().max() <= 1e-4
    assert change[:, position].abs().max() > 1e-2


@hooked_only
def test_the_cap_bends_the_scores(tmp_path: Path) -> None:
    """Else the exactness of the capped model would say nothing."""
    model = pn.load_model(write_llama(tmp_path / "checkpoint"), device="cpu")
    tokens = some_tokens(model)
    assert (models.residual(model, tokens) - models.residual(capped(model), tokens)).abs().max() > 1e-2


def test_which_models_can_be_hooked_so(model: Any) -> None:
    assert can_be_local(model)
    half = pn.load_model(device="cpu") if model is demo.model() else copy.deepcopy(model).to(torch.bfloat16)
    assert can_be_local(half)  # rounding is no reason to take positions one by one


def unknown_cap(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
    return torch.where(value > -1e4, 0.5 * torch.tanh(value), value)


def test_what_cannot_be_hooked_is_noticed(tmp_path: Path) -> None:
    where = write_llama(tmp_path / "checkpoint")
    bridge = pn.load_model(where, device="cpu", backend="bridge")
    assert can_be_local(bridge)
    bridge.blocks[1].attn.original_component.attn_logit_softcapping = 0.7  # which the hooks do not know of
    assert not can_be_local(bridge)
    model = pn.load_model(where, device="cpu")
    assert can_be_local(model)
    # An attention that does more to its scores than the hooks know gives another result, if not by much.
    for model_of_two in (model, demo.model()):
        with model_of_two.hooks(fwd_hooks=[("blocks.1.attn.hook_attn_scores", unknown_cap)]):
            assert not can_be_local(model_of_two)


@hooked_only
def test_a_huge_first_residual_hides_nothing(tmp_path: Path) -> None:
    """As in many language models, whose neurons do to the first position a hundred times what they do to the others."""
    model = pn.load_model(write_llama(tmp_path / "checkpoint"), device="cpu")

    def enlarge(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        return torch.cat([1e4 * value[:, :1], value[:, 1:]], dim=1)

    huge = ("blocks.1.hook_resid_post", enlarge)
    with model.hooks(fwd_hooks=[huge]):
        assert can_be_local(model)
    with model.hooks(fwd_hooks=[huge, ("blocks.1.attn.hook_attn_scores", unknown_cap)]):
        assert not can_be_local(model)


@hooked_only
def test_a_hook_that_is_not_there_is_noticed(tmp_path: Path) -> None:
    model = pn.load_model(write_llama(tmp_path / "checkpoint"), device="cpu")
    model.cfg.positional_embedding_type = "standard"  # so that keys are taken before their rotation, at no hook
    del model.hook_dict["blocks.0.attn.hook_k"]
    assert not can_be_local(model)
