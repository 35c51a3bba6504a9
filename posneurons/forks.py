"""Losses under many ablations, each computed only from where it begins to differ.

A batch is run once intact. A condition whose first ablated layer is l changes nothing before that layer's down
projection, and after it just this: resid_post' = resid_post + sum over its neurons i in l of (fill_i - a_i) w_i, with a
the activation and w the neuron's row of `W_out`. So a condition is forked there, layers l + 1 and on are run, several
conditions side by side on the batch axis, and logits are computed at scored positions only. This is no approximation:
it equals the plain hooks to rounding. A model for which the identity does not hold (a norm after the MLP), or that
cannot start in the middle, is run from its first layer with plain hooks.

In the scope `all` neurons are ablated at every position after BOS; in the scope `local` each loss is that of an
ablation at the one position it is read from (see `locality`). This module knows tensors and sets of neurons, and no
words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from posneurons import models
from posneurons.activations import BATCH_TOKENS
from posneurons.errors import PosNeuronsError
from posneurons.locality import can_be_local, local_hooks, record_keys_values
from posneurons.models import Hook
from posneurons.neurons import NeuronSet
from posneurons.words import Scope

AFTER_BOS = slice(1, None)
"""The positions at which the scope `all` ablates."""

STACK = 8
"""Batches' worth of tokens that conditions are stacked to where the model is not on a CPU, whose caches are small."""

CHECK_TOLERANCE = 0.05
"""Share of an effect by which the check of the identity may be off: above bf16 rounding, far below what a norm does."""

_BEFORE = -1
"""The layer after which conditions begin that are run with plain hooks from the first layer on."""


def _resid_post(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_post"


@dataclass(frozen=True)
class Trunk:
    """The intact run of a batch: losses at the scored places, and what the conditions fork from.

    Attributes:
        tokens: ids with BOS at position 0.
        where: index into the flattened (batch, pos) axes of each place whose next token is scored.
        targets: those next tokens.
        losses: nats per place.
        residuals, values: per layer at which a condition forks, the residual after it, and its ablated neurons.
        clean: keys and values of every layer; empty where they are not needed.
    """

    tokens: Int[Tensor, "batch pos"]
    where: Int[Tensor, " word"]
    targets: Int[Tensor, " word"]
    losses: Float[Tensor, " word"]
    residuals: Mapping[int, Tensor]
    values: Mapping[int, Tensor]
    clean: Mapping[int, tuple[Tensor, Tensor]]


class Forks:
    """Conditions, ready to be run on any batch.

    Args:
        model: what `load_model` gives.
        conditions: sets of neurons, ablated one set at a time.
        fill: the value each neuron is set to.
        scope: "all" positions after BOS, or "local".
        tokens: size of a batch; conditions are stacked up to as many (on a GPU, `STACK` times as many).

    Raises:
        NeuronError: where a neuron lies outside the model.
        PosNeuronsError: where the scope is unknown.
    """

    def __init__(
        self,
        model: Any,
        conditions: Sequence[NeuronSet],
        fill: Float[Tensor, "layer neuron"],
        *,
        scope: Scope = "all",
        tokens: int = BATCH_TOKENS,
    ) -> None:
        if scope not in get_args(Scope):
            raise PosNeuronsError(f"scope {scope!r}: no such scope; expected one of {', '.join(get_args(Scope))}")
        info = models.describe(model)
        for neurons in conditions:
            neurons.check(info.n_layers, info.d_mlp)
        self._model, self._n_layers = model, info.n_layers
        self._fill = fill.to(info.device)
        self._budget = tokens if torch.device(info.device).type == "cpu" else STACK * tokens
        self._parts = [
            {layer: torch.from_numpy(units).to(info.device) for layer, units in neurons.by_layer().items()}
            for neurons in conditions
        ]
        self._together = scope == "local" and can_be_local(model)
        self._apart = scope == "local" and not self._together
        self._groups = self._by_first_layer(can_fork(model))
        self._held = {first: self._units_at(first) for first in self._groups if first is not None and first != _BEFORE}

    def _by_first_layer(self, forking: bool) -> dict[int | None, list[int]]:
        """Numbers of the conditions by the layer they fork after; those without a neuron under None."""
        groups: dict[int | None, list[int]] = {}
        for number, part in enumerate(self._parts):
            first = min(part, default=None)
            groups.setdefault(first if first is None or forking else _BEFORE, []).append(number)
        return groups

    @torch.no_grad()
    def trunk(
        self, tokens: Int[Tensor, "batch pos"], where: Int[Tensor, " word"], targets: Int[Tensor, " word"]
    ) -> Trunk:
        """Run a batch intact and keep what the conditions fork from."""
        residuals: dict[int, Tensor] = {}
        values: dict[int, Tensor] = {}
        clean: dict[int, tuple[Tensor, Tensor]] = {}
        hooks = record_keys_values(self._model, clean) if self._together else []
        for first in self._groups:
            if first is not None and first != _BEFORE:
                hooks += [
                    (models.post_name(first), _keep(values, first, self._held[first])),
                    (_resid_post(first), _keep(residuals, first)),
                ]
        state = models.residual(self._model, tokens, hooks).flatten(0, 1)[where]
        losses = models.cross_entropy(self._model, state, targets)
        return Trunk(tokens, where, targets, losses, residuals, values, clean)

    def branches(self, trunk: Trunk) -> Iterator[tuple[list[int], Float[Tensor, "condition word"]]]:
        """Numbers of conditions and their losses at the scored places, in nats, until all have been given."""
        size = max(1, self._budget // max(1, trunk.tokens.numel()))
        for first, numbers in self._groups.items():
            for begin in range(0, len(numbers), size):
                chosen = numbers[begin : begin + size]
                if first is None or not len(trunk.where):
                    yield chosen, repeat(trunk.losses, "word -> condition word", condition=len(chosen))
                else:
                    yield chosen, self._losses(trunk, first, chosen)

    @torch.no_grad()
    def _losses(self, trunk: Trunk, first: int, chosen: list[int]) -> Float[Tensor, "condition word"]:
        if not self._apart:
            return self._at(trunk, first, chosen, AFTER_BOS, trunk.where, trunk.targets)
        losses = repeat(trunk.losses, "word -> condition word", condition=len(chosen)).clone()
        position = trunk.where % trunk.tokens.shape[1]
        for each in sorted(set(position[position > 0].tolist())):
            here = position == each
            only = slice(each, each + 1)
            losses[:, here] = self._at(trunk, first, chosen, only, trunk.where[here], trunk.targets[here])
        return losses

    def _at(
        self, trunk: Trunk, first: int, chosen: list[int], positions: slice, where: Tensor, targets: Tensor
    ) -> Float[Tensor, "condition word"]:
        """Losses at some of the places, with neurons ablated at some of the positions."""
        if first == self._n_layers - 1:
            rows = self._forked(trunk, first, chosen, positions, where)
        else:
            states = rearrange(self._states(trunk, first, chosen, positions), "c batch pos d -> c (batch pos) d")
            rows = states[:, where]
        losses = models.cross_entropy(self._model, rows.flatten(0, 1), targets.repeat(len(chosen)))
        return rearrange(losses, "(c word) -> c word", c=len(chosen))

    def _states(
        self, trunk: Trunk, first: int, chosen: list[int], positions: slice
    ) -> Float[Tensor, "condition batch pos d_model"]:
        """The residual after the last block under each of the chosen conditions, side by side."""
        tokens = trunk.tokens.repeat(len(chosen), 1)
        start = None
        if first != _BEFORE:
            everywhere = torch.arange(trunk.tokens.numel(), device=tokens.device)
            forked = self._forked(trunk, first, chosen, positions, everywhere)
            start = (first + 1, rearrange(forked, "c (batch pos) d -> (c batch) pos d", pos=tokens.shape[1]))
        hooks = ablation_hooks([self._parts[number] for number in chosen], self._fill, positions, after=first)
        if self._together:
            hooks += local_hooks(self._model, trunk.clean, start=first + 1)
        state = models.residual(self._model, tokens, hooks, start=start)
        return rearrange(state, "(c batch) pos d -> c batch pos d", c=len(chosen))

    def _forked(
        self, trunk: Trunk, first: int, chosen: list[int], positions: slice, places: Int[Tensor, " place"]
    ) -> Float[Tensor, "condition place d_model"]:
        """The residual after the first ablated layer, by the identity: one product per condition, no layer is run."""
        base = trunk.residuals[first].flatten(0, 1)[places]
        values = trunk.values[first].flatten(0, 1)[places]
        held, weights = self._held[first], self._model.blocks[first].mlp.W_out
        ablated = _are_at(places % trunk.tokens.shape[1], positions)[:, None]
        states = []
        for number in chosen:
            units = self._parts[number][first]
            fill = self._fill[first, units].to(values.dtype)
            change = (fill - values[:, torch.searchsorted(held, units)]).float() * ablated
            states.append((base.float() + change @ weights[units].float()).to(base.dtype))
        return torch.stack(states)

    def _units_at(self, first: int) -> Int[Tensor, " k"]:
        """The neurons of a layer that any condition which forks there ablates, ascending."""
        found: Tensor = torch.unique(torch.cat([self._parts[number][first] for number in self._groups[first]]))
        return found


def _are_at(position: Int[Tensor, " place"], positions: slice) -> Bool[Tensor, " place"]:
    inside: Tensor = position >= positions.start
    return inside if positions.stop is None else inside & (position < positions.stop)


def _keep(into: dict[int, Tensor], layer: int, units: Tensor | None = None) -> Any:
    """A hook that keeps a value, or some of its columns."""

    def hook_function(value: Tensor, hook: Any) -> None:  # noqa: ARG001
        into[layer] = value.clone() if units is None else value[..., units]

    return hook_function


def ablation_hooks(
    conditions: Sequence[Mapping[int, Int[Tensor, " _"]]],
    fill: Float[Tensor, "layer neuron"],
    positions: slice = AFTER_BOS,
    *,
    after: int = _BEFORE,
) -> list[Hook]:
    """Plain hooks that set neurons to their `fill`, for conditions that are stacked one after the other on the batch.

    Args:
        conditions: per condition the units of each layer.
        fill: the value each neuron is set to.
        positions: where.
        after: hooks are made for later layers than this.
    """
    hooks: list[Hook] = []
    for layer in sorted({layer for part in conditions for layer in part if layer > after}):
        units = [part.get(layer) for part in conditions]
        hooks.append((models.post_name(layer), _set_to(units, fill[layer], positions)))
    return hooks


def _set_to(units: Sequence[Tensor | None], fill: Float[Tensor, " neuron"], positions: slice) -> Any:
    def hook_function(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        rows = value.shape[0] // len(units)
        for slot, index in enumerate(units):
            if index is not None:
                value[slot * rows : (slot + 1) * rows, positions, index] = fill[index].to(value.dtype)
        return value

    return hook_function


@torch.no_grad()
def can_fork(model: Any) -> bool:
    """See on four tokens whether neurons change the residual after their layer through `W_out` and nothing else, in
    every layer, and whether a run can start in the middle. A TransformerBridge cannot.
    """
    info = models.describe(model)
    if info.backend == "bridge":
        return False
    tokens = torch.tensor([[0, 1, 2, 3]], device=info.device)
    values: dict[int, Tensor] = {}
    after: dict[int, Tensor] = {}
    try:
        recording = [hook for layer in range(info.n_layers) for hook in _recording(layer, values, after)]
        intact = models.residual(model, tokens, recording)
        off: list[Tensor] = []
        weights = [model.blocks[layer].mlp.W_out for layer in range(info.n_layers)]
        comparing = [
            hook for layer in range(info.n_layers) for hook in _comparing(layer, values, after, weights[layer], off)
        ]
        models.residual(model, tokens, comparing)
        again = models.residual(model, tokens, start=(1, after[0])) if info.n_layers > 1 else intact
    except (KeyError, AttributeError, RuntimeError, AssertionError, ValueError, TypeError):
        return False
    off.append(_relative(again - intact, intact))
    return bool((torch.stack(off) <= CHECK_TOLERANCE).all())


def _recording(layer: int, values: dict[int, Tensor], after: dict[int, Tensor]) -> list[Hook]:
    return [(models.post_name(layer), _keep(values, layer)), (_resid_post(layer), _keep(after, layer))]


def _comparing(
    layer: int, values: dict[int, Tensor], after: dict[int, Tensor], weights: Tensor, off: list[Tensor]
) -> list[Hook]:
    """Hooks that change a layer's neurons, note how far its output is from the identity, and undo the change."""
    change = 2 * values[layer] + 1

    def louder(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return value + change

    def compare(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        expected = change.float() @ weights.float()
        off.append(_relative(value.float() - after[layer].float() - expected, expected))
        return after[layer]

    return [(models.post_name(layer), louder), (_resid_post(layer), compare)]


def _relative(error: Tensor, to: Tensor) -> Float[Tensor, ""]:
    """Size of an error without the first position, whose residual is so large in some models that all else rounds."""
    share: Tensor = torch.linalg.vector_norm(error[:, 1:].float()) / torch.linalg.vector_norm(to[:, 1:].float())
    return share
