"""Forked losses against plain hooks, a loop over positions, and the check that decides between the two ways."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import demo
import numpy as np
import pytest
import torch
from checkpoints import hooked_only, write_gpt2, write_llama, write_neox
from hypothesis import given, settings
from hypothesis import strategies as st
from scarce import small

import posneurons as pn
from posneurons import forks, models, writing
from posneurons.errors import NeuronError, PosNeuronsError
from posneurons.fills import Condition, Donors, Fill
from posneurons.forks import Forks
from posneurons.reads import Reads

SETS = (
    ["L0N3", "L2N700", "L2N4", "L5N10"],
    [],
    ["L5N767"],
    [f"L4N{u}" for u in range(300)],
    ["L0N0"],
    ["L5N1", "L3N8"],
    ["L0N17", "L1N17"],
    ["L2N700", "L5N700"],
)


def some_tokens(vocabulary: int = 4096, batch: int = 2, pos: int = 9) -> torch.Tensor:
    tokens = torch.randint(2, vocabulary, (batch, pos), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    return tokens


def scored(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every place but BOS and the last of a row, and what follows it."""
    batch, pos = tokens.shape
    where = torch.tensor([row * pos + t for row in range(batch) for t in range(1, pos - 1)])
    return where, tokens.flatten()[where + 1]


@torch.no_grad()
def plain(
    model: Any,
    tokens: torch.Tensor,
    neurons: pn.NeuronSet,
    fill: torch.Tensor,
    positions: slice = slice(1, None),
) -> torch.Tensor:
    """What a user would write: hooks on a whole run, full logits, log-softmax; one loss per scored place."""

    def ablate(value: torch.Tensor, hook: Any, layer: int) -> torch.Tensor:  # noqa: ARG001
        value = value.clone()
        for unit in neurons.units[neurons.layers == layer]:
            value[:, positions, unit] = fill[layer, unit].to(value.dtype)
        return value

    hooks = [
        (f"blocks.{layer}.mlp.hook_post", lambda value, hook, layer=layer: ablate(value, hook, layer))
        for layer in set(neurons.layers.tolist())
    ]
    with model.hooks(fwd_hooks=hooks):
        logits = model(tokens, return_type="logits").float()
    losses = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    return losses[:, 1:].flatten()


def plain_local(model: Any, tokens: torch.Tensor, neurons: pn.NeuronSet, fill: torch.Tensor) -> torch.Tensor:
    """The same with one position ablated at a time, of which only its own loss is kept."""
    pos = tokens.shape[1]
    apart = [
        plain(model, tokens, neurons, fill, slice(t, t + 1)).reshape(-1, pos - 2)[:, t - 1] for t in range(1, pos - 1)
    ]
    return torch.stack(apart, dim=1).flatten()


def reads(text: torch.Tensor, where: torch.Tensor | None = None) -> Reads:
    where = scored(text)[0] if where is None else where
    ablated = torch.ones_like(text, dtype=torch.bool)
    ablated[:, 0] = False
    return Reads(text, where, text.flatten()[where + 1], None, ablated, torch.zeros_like(text))


def conditions(sets: list[pn.NeuronSet], fill: torch.Tensor, scope: Any = "all") -> list[Condition]:
    return [Condition(neurons, (Fill(fill),), scope) for neurons in sets]


def run(each: Forks, wanted: Reads, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    trunk = each.trunk(wanted)
    losses = torch.full((count, len(wanted.where)), torch.nan)
    for numbers, found in each.branches(trunk):
        assert losses[numbers].isnan().all()  # nobody comes twice
        losses[numbers] = found[0]
    return trunk.losses[0], losses


def forked(
    model: Any, text: torch.Tensor, sets: list[pn.NeuronSet], fill: torch.Tensor, *, scope: Any = "all", **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return run(Forks(model, conditions(sets, fill, scope), **options), reads(text), len(sets))


def values(model: Any, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(model.cfg.n_layers, model.cfg.d_mlp, generator=generator) * 0.3


@cache
def loaded(folder: Path, **options: Any) -> Any:
    return pn.load_model(folder, device="cpu", **options)


WAYS: dict[str, Callable[..., torch.Tensor]] = {"all": plain, "local": plain_local}


@pytest.mark.parametrize("scope", ["all", "local"])
def test_forks_equal_plain_hooks(scope: Any) -> None:
    model, tokens = demo.model(), some_tokens()
    sets, fill = [pn.NeuronSet.parse(names) for names in SETS], values(model)
    intact, losses = forked(model, tokens, sets, fill, scope=scope, tokens=40)
    torch.testing.assert_close(intact, plain(model, tokens, sets[1], fill), atol=1e-5, rtol=0)
    for neurons, found in zip(sets, losses, strict=True):
        torch.testing.assert_close(found, WAYS[scope](model, tokens, neurons, fill), atol=1e-5, rtol=0)
    assert torch.equal(losses[1], intact)
    assert ((losses - intact).abs().amax(1) > 1e-4).sum() >= 6  # there was something to see


@hooked_only
@pytest.mark.parametrize("lean", [True, False])
def test_no_layer_is_run_that_a_condition_does_not_change(lean: bool) -> None:
    """A set of the last layer runs nothing but the unembedding; one of layer 3 starts at layer 4."""
    model, tokens = demo.model(), some_tokens()
    sets = [pn.NeuronSet.parse([name]) for name in ("L5N1", "L3N8", "L3N9", "L0N1")]
    with patch.object(forks, "can_be_lean", return_value=lean):
        each = Forks(model, conditions(sets, values(model)))
    trunk = each.trunk(reads(tokens))
    with (
        patch.object(forks.models, "residual", wraps=models.residual) as hooked,
        patch.object(forks, "lean_residual", wraps=forks.lean_residual) as bare,
    ):
        assert len(list(each.branches(trunk))) == 3  # the two of layer 3 are stacked
    starts = [call.kwargs["start"] for call in bare.call_args_list]
    starts += [call.kwargs["start"][0] for call in hooked.call_args_list]
    places = [len(call.args[1]) for call in bare.call_args_list]
    places += [call.args[1].shape[1] for call in hooked.call_args_list]
    assert (bare.call_count, hooked.call_count) == ((2, 0) if lean else (0, 2))
    assert sorted(starts) == [1, 4]
    assert sorted(places) == [2 * 8, 2 * 2 * 8]  # the last of a row is not run


@settings(max_examples=8, deadline=None)
@given(tokens=st.integers(1, 200), order=st.permutations(range(len(SETS))))
def test_neither_the_stack_nor_the_order_of_conditions_matters(tokens: int, order: list[int]) -> None:
    model, text = demo.model(), some_tokens()
    sets, fill = [pn.NeuronSet.parse(names) for names in SETS], values(model)
    _, expected = forked(model, text, sets, fill)
    _, found = forked(model, text, [sets[number] for number in order], fill, tokens=tokens)
    torch.testing.assert_close(found, expected[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scope", ["all", "local"])
@pytest.mark.parametrize("write", [write_gpt2, write_neox, write_llama])
def test_other_architectures(write: Any, scope: Any, tmp_path: Path) -> None:
    model, tokens = loaded(write(tmp_path / "checkpoint")), some_tokens(400)
    assert writing.can_fork(model)
    sets = [pn.NeuronSet.parse(names) for names in (["L0N3"], ["L1N47"], ["L0N1", "L1N2", "L1N3"])]
    fill = values(model) * 10
    intact, losses = forked(model, tokens, sets, fill, scope=scope)
    for neurons, found in zip(sets, losses, strict=True):
        torch.testing.assert_close(found, WAYS[scope](model, tokens, neurons, fill), atol=1e-5, rtol=0)
    assert ((losses - intact).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("scope", ["all", "local"])
def test_the_bridge_forks_too(scope: Any, tmp_path: Path) -> None:
    where = write_llama(tmp_path / "checkpoint")
    bridge, tokens = loaded(where, backend="bridge"), some_tokens(400)
    assert writing.can_fork(bridge)
    sets = [pn.NeuronSet.parse(names) for names in (["L0N3"], [], ["L0N1", "L1N2"], ["L1N5"])]
    fill = values(bridge) * 10
    intact, losses = forked(bridge, tokens, sets, fill, scope=scope)
    expected_intact, expected = forked(loaded(where), tokens, sets, fill, scope=scope)
    torch.testing.assert_close(intact, expected_intact, atol=1e-5, rtol=0)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)
    assert (losses[2] - intact).abs().max() > 1e-3


def test_a_norm_after_the_mlp_is_noticed() -> None:
    """With the layer's output halved the identity is wrong; plain hooks are used, and are right."""
    model, tokens = demo.model(), some_tokens()
    sets, fill = [pn.NeuronSet.parse(["L1N4", "L3N5"]), pn.NeuronSet.parse(["L5N6"])], values(model) * 10
    halve = [("blocks.1.hook_mlp_out", lambda value, hook: value / 2)]  # noqa: ARG005
    assert writing.can_fork(model)
    with model.hooks(fwd_hooks=halve):
        assert not writing.can_fork(model)
        intact, losses = forked(model, tokens, sets, fill)
        for neurons, found in zip(sets, losses, strict=True):
            torch.testing.assert_close(found, plain(model, tokens, neurons, fill), atol=1e-5, rtol=0)
        with patch.object(forks, "can_fork", return_value=True):
            _, wrong = forked(model, tokens, sets, fill)
    assert (wrong[0] - losses[0]).abs().max() > 1e-3
    assert (losses - intact).abs().max() > 1e-2


def test_positions_one_by_one_where_attention_cannot_be_hooked() -> None:
    model, tokens = demo.model(), some_tokens()
    sets, fill = [pn.NeuronSet.parse(names) for names in SETS], values(model)
    _, expected = forked(model, tokens, sets, fill, scope="local")
    with patch.object(forks, "can_be_local", return_value=False):
        _, found = forked(model, tokens, sets, fill, scope="local")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scope", ["all", "local"])
def test_bfloat16_roughly(scope: Any) -> None:
    model, tokens = pn.load_model(device="cpu"), some_tokens()
    assert writing.can_fork(model)
    sets, fill = [pn.NeuronSet.parse(names) for names in SETS], values(model)
    _, losses = forked(model, tokens, sets, fill, scope=scope)
    for neurons, found in zip(sets, losses, strict=True):
        expected = WAYS[scope](demo.model(), tokens, neurons, fill)
        assert (found - expected).abs().mean() < 0.03


def test_errors_say_what_to_do() -> None:
    model = demo.model()
    with pytest.raises(NeuronError, match="neuron L6N0: the model has layers 0 to 5 and units 0 to 767"):
        Forks(model, [Condition(pn.NeuronSet.parse(["L6N0"]))])
    wide: Any = "wide"
    with pytest.raises(PosNeuronsError, match="scope 'wide': no such scope; expected one of local, all"):
        Forks(model, [Condition(pn.NeuronSet.parse(["L0N0"]), scope=wide)])
    with pytest.raises(PosNeuronsError, match=r"a condition without fills; expected at least one"):
        Forks(model, [Condition(pn.NeuronSet.parse(["L0N0"]), ())])


def test_a_batch_without_scored_places() -> None:
    each = Forks(demo.model(), [Condition(pn.NeuronSet.parse(["L2N0"]))])
    ((numbers, losses),) = each.branches(each.trunk(reads(some_tokens(), torch.tensor([], dtype=torch.int64))))
    assert numbers == [0]
    assert np.shape(losses) == (1, 1, 0)


def some_places() -> Reads:
    """Three places in rows of which the second is read early only and the third not at all."""
    text = some_tokens(batch=3)
    return reads(text, torch.tensor([9 + 3, 2, 5]))


@pytest.mark.parametrize("scope", ["all", "local"])
def test_only_places_that_matter_are_run_in_any_order(scope: Any) -> None:
    model, fill, wanted = demo.model(), values(demo.model()), some_places()
    sets = [pn.NeuronSet.parse(names) for names in SETS]
    _, losses = run(Forks(model, conditions(sets, fill, scope)), wanted, len(sets))
    for neurons, found in zip(sets, losses, strict=True):
        everywhere = WAYS[scope](model, wanted.tokens, neurons, fill).reshape(3, 7)
        expected = everywhere[torch.tensor([1, 0, 0]), torch.tensor([2, 1, 4])]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with patch.object(forks, "can_pack", return_value=False):
        _, padded = run(Forks(model, conditions(sets, fill, scope)), wanted, len(sets))
    torch.testing.assert_close(padded, losses, atol=1e-5, rtol=0)


def test_chosen_positions_alone_are_ablated() -> None:
    model, fill, text = demo.model(), values(demo.model()), some_tokens()
    sets = [pn.NeuronSet.parse(["L0N3", "L5N10"]), pn.NeuronSet.parse(["L5N767"])]
    only = torch.zeros_like(text, dtype=torch.bool)
    only[:, 4:6] = True
    _, losses = run(Forks(model, conditions(sets, fill)), replace(reads(text), ablated=only), 2)
    for neurons, found in zip(sets, losses, strict=True):
        torch.testing.assert_close(found, plain(model, text, neurons, fill, slice(4, 6)), atol=1e-5, rtol=0)


def test_scopes_and_fills_are_mixed_and_a_condition_is_the_mean_over_its_fills() -> None:
    model, text, neurons = demo.model(), some_tokens(), pn.NeuronSet.parse(["L2N700", "L2N4", "L5N10"])
    one, two = values(model), values(model, 2)
    mixed = [
        Condition(neurons, (Fill(one), Fill(two))),
        Condition(neurons, (Fill(two),), "local"),
        Condition(neurons, (Fill(scale=0.5),)),
        Condition(neurons, (Fill(one, scale=2.0),)),
    ]
    _, losses = run(Forks(model, mixed, tokens=60), reads(text), 4)
    both = (plain(model, text, neurons, one) + plain(model, text, neurons, two)) / 2
    torch.testing.assert_close(losses[0], both, atol=1e-5, rtol=0)
    torch.testing.assert_close(losses[1], plain_local(model, text, neurons, two), atol=1e-5, rtol=0)
    for found, scale, offset in ((losses[2], 0.5, 0 * one), (losses[3], 2.0, one)):
        hooks = []
        for layer, units in neurons.by_layer().items():

            def scaled(value: torch.Tensor, hook: Any, layer: int = layer, units: Any = units) -> torch.Tensor:  # noqa: ARG001
                value = value.clone()
                value[:, 1:, units] = scale * value[:, 1:, units] + offset[layer, units]  # noqa: B023
                return value

            hooks.append((models.post_name(layer), scaled))
        with model.hooks(fwd_hooks=hooks):
            expected = plain(model, text, pn.NeuronSet.parse([]), one)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_donors_give_their_values_to_the_whole_set() -> None:
    model, text = demo.model(), some_tokens()
    units = {2: torch.tensor([4, 9, 700]), 5: torch.tensor([10])}
    given_values = {2: torch.randn(3, 3), 5: torch.randn(3, 1)}
    choice = torch.arange(18) % 3
    donors = Donors(units, given_values, choice)
    neurons = pn.NeuronSet.parse(["L2N700", "L5N10", "L2N4"])
    wanted = replace(reads(text), number=torch.arange(18).reshape(2, 9))
    _, losses = run(Forks(model, [Condition(neurons, (Fill(donors=donors),))]), wanted, 1)

    def put(value: torch.Tensor, hook: Any, layer: int, unit: int, column: int) -> torch.Tensor:  # noqa: ARG001
        value = value.clone()
        value[:, 1:, unit] = given_values[layer][choice, column].reshape(2, 9)[:, 1:]
        return value

    hooks = [
        (models.post_name(layer), partial(put, layer=layer, unit=unit, column=column))
        for layer, unit, column in ((2, 4, 0), (2, 700, 2), (5, 10, 0))
    ]
    with model.hooks(fwd_hooks=hooks):
        expected = plain(model, text, pn.NeuronSet.parse([]), values(model))
    torch.testing.assert_close(losses[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("fits", [4, 9, 20])
def test_what_does_not_fit_is_halved_and_goes_on(fits: int, lean: bool) -> None:
    """Runs of more than so many tokens fail as if memory had run out."""
    model, text, sets = demo.model(), some_tokens(batch=4), [pn.NeuronSet.parse(names) for names in SETS]
    fill = values(model)
    _, expected = forked(model, text, sets, fill)
    with patch.object(forks, "can_be_lean", return_value=lean):
        each = Forks(model, conditions(sets, fill))
    trunk = each.trunk(reads(text))
    losses = torch.full_like(expected, torch.nan)
    with (
        patch.object(forks.models, "residual", small(models.residual, fits)),
        patch.object(forks, "lean_residual", small(forks.lean_residual, fits, axes=1)),
    ):
        if fits < 8:  # not even a row
            with pytest.raises(torch.OutOfMemoryError):
                list(each.branches(trunk))
            return
        for numbers, found in each.branches(trunk):
            losses[numbers] = found[0]
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)
    assert each.halved >= 3


def test_the_split_comes_from_the_same_run() -> None:
    """Against probabilities from full logits; a place that begins no word has no category."""
    model, text, fill = demo.model(), some_tokens(), values(demo.model())
    table = torch.rand(4096, 3, generator=torch.Generator().manual_seed(3))
    table /= table.sum(1, keepdim=True)
    tags = torch.arange(14) % 4 - 1
    neurons = pn.NeuronSet.parse(["L0N3", "L2N700"])
    each = Forks(model, conditions([neurons], fill), table=table)
    trunk = each.trunk(replace(reads(text), tags=tags))
    ((_, found),) = each.branches(trunk)
    for losses, chosen in ((trunk.losses, pn.NeuronSet.parse([])), (found[:, 0], neurons)):
        torch.testing.assert_close(losses[0], plain(model, text, chosen, fill), atol=1e-5, rtol=0)
    with torch.no_grad():
        share = model(text, return_type="logits").softmax(-1)[:, 1:-1].flatten(0, 1).double() @ table.double()
    for place, tag in enumerate(tags.tolist()):
        expected = -share[place, tag].log().item() if tag >= 0 else float("nan")
        np.testing.assert_allclose(trunk.losses[1, place].item(), expected, atol=1e-5)
