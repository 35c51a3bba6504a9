"""Losses under many lesions, each computed only from where it begins to differ, and only where it is read.

A batch is run once intact. A condition whose first ablated layer is l changes nothing before that layer's down
projection, and after it just this: resid_post' = resid_post + sum over its neurons i in l of (new_i - a_i) w_i, with a
the activation and w the neuron's row of `W_out`. So a condition is forked there, layers l + 1 and on are run, several
conditions side by side, without padding and without what follows the last place that is read (see `packing`); the last
MLP and the logits are computed at read places only. This is no approximation: it equals the plain hooks to rounding. A
model for which the identity does not hold (a norm after the MLP), or that cannot start in the middle, is run from its
first layer with plain hooks.

In the scope `all` neurons are ablated at every position after BOS, or at those chosen; in the scope `local` each loss
is that of an ablation at the one position it is read from (see `locality`). A chunk of conditions, or of rows, that
does not fit the memory is halved. This module knows tensors and sets of neurons, and no words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from posneurons import models
from posneurons.activations import BATCH_TOKENS
from posneurons.errors import PosNeuronsError
from posneurons.fills import Condition, Fill
from posneurons.lean import after_post, can_be_lean, embedded, lean_residual
from posneurons.lexicon import split_losses
from posneurons.locality import can_be_local, local_hooks, record_keys_values
from posneurons.memory import ran_out, release
from posneurons.models import Hook
from posneurons.packing import can_pack, narrow_hooks, packed_hooks
from posneurons.reads import Reads, Trunk
from posneurons.weights import output_weights
from posneurons.words import Scope
from posneurons.writing import can_fork, keep

STACK = 8
"""Batches' worth of tokens that conditions are stacked to where the model is not on a CPU, whose caches are small."""

_BEFORE = -1
"""The layer after which conditions begin that are run with plain hooks from the first layer on."""

Units = Mapping[int, Int[Tensor, " _"]]


class _Variant(NamedTuple):
    """One way to run a condition: its number, its units per layer, one of its fills."""

    condition: int
    units: Units
    fill: Fill


class _Start(NamedTuple):
    """What conditions that are run together have in common; `first` is None where nothing is ablated."""

    scope: Scope
    first: int | None


class Forks:
    """Conditions, ready to be run on any batch.

    Args:
        model: what `load_model` gives.
        conditions: the lesions.
        table: P(tag | token), where losses are to be split.
        tokens: size of a batch; conditions are stacked up to as many (on a GPU, `STACK` times as many).

    Attributes:
        halved: how often a chunk had to be halved because memory ran out.

    Raises:
        NeuronError: where a neuron lies outside the model.
        PosNeuronsError: where a scope is unknown, or a condition says not what neurons are set to.
    """

    def __init__(
        self,
        model: Any,
        conditions: Sequence[Condition],
        *,
        table: Float[Tensor, "vocab tag"] | None = None,
        tokens: int = BATCH_TOKENS,
    ) -> None:
        info = models.describe(model)
        for each in conditions:
            if each.scope not in get_args(Scope):
                known = ", ".join(get_args(Scope))
                raise PosNeuronsError(f"scope {each.scope!r}: no such scope; expected one of {known}")
            if not each.fills:
                raise PosNeuronsError("a condition without fills; expected at least one, such as posneurons.Fill()")
            each.neurons.check(info.n_layers, info.d_mlp)
        self._model, self._last, self._device = model, info.n_layers - 1, info.device
        self._table = None if table is None else table.to(info.device)
        self.limit(tokens)
        self._fills = [len(each.fills) for each in conditions]
        local = any(each.scope == "local" for each in conditions)
        self._together, self._packs = local and can_be_local(model), can_pack(model)
        forking = can_fork(model)
        self._lean = forking and self._packs and not local and can_be_lean(model)
        self._groups = self._by_start(conditions, forking)
        self._held = {
            first: torch.unique(torch.cat([v.units[first] for v in variants]))
            for first, variants in self._by_layer().items()
        }
        self.halved = 0

    def _by_start(self, conditions: Sequence[Condition], forking: bool) -> dict[_Start, list[_Variant]]:
        groups: dict[_Start, list[_Variant]] = {}
        for number, (neurons, fills, scope) in enumerate(conditions):
            units = {layer: torch.from_numpy(units).to(self._device) for layer, units in neurons.by_layer().items()}
            first = min(units, default=None)
            start = _Start(scope, first if first is None or forking else _BEFORE)
            groups.setdefault(start, []).extend(_Variant(number, units, fill) for fill in fills)
        return dict(sorted(groups.items(), key=lambda item: (item[0].scope, item[0].first or 0)))

    def _by_layer(self) -> dict[int, list[_Variant]]:
        """The variants that fork after each layer, whatever their scope."""
        found: dict[int, list[_Variant]] = {}
        for (_, first), variants in self._groups.items():
            if first is not None and first != _BEFORE:
                found.setdefault(first, []).extend(variants)
        return found

    def limit(self, tokens: int) -> None:
        """Set the size of a batch anew."""
        self._budget = self.stack * tokens

    @property
    def stack(self) -> int:
        """Batches' worth of tokens that conditions are stacked to."""
        return 1 if torch.device(self._device).type == "cpu" else STACK

    @property
    def kept(self) -> int:
        """Numbers that a trunk keeps of every token, for the plan of the memory."""
        cfg, width = self._model.cfg, self._model.cfg.d_model
        heads = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
        clean = 2 * heads * cfg.d_head * cfg.n_layers if self._together else 0
        return int(sum(width + len(units) for units in self._held.values()) + clean)

    @torch.no_grad()
    def trunk(self, reads: Reads) -> Trunk:
        """Run a batch intact and keep what the conditions fork from."""
        residuals: dict[int, Tensor] = {}
        values: dict[int, Tensor] = {}
        clean: dict[int, tuple[Tensor, Tensor]] = {}
        hooks = record_keys_values(self._model, clean) if self._together else []
        for first, units in self._held.items():
            hooks += [
                (models.post_name(first), keep(values, first, units)),
                (after_post(first), keep(residuals, first)),
            ]
        state = self._intact(reads.tokens, hooks)[reads.where]
        losses = self._measured(state[None], reads)[:, 0]
        return Trunk(reads, losses, _in_rows(residuals, reads), _in_rows(values, reads), clean)

    def _intact(self, tokens: Int[Tensor, "batch pos"], hooks: list[Hook]) -> Float[Tensor, "place d_model"]:
        if not self._lean:
            return models.residual(self._model, tokens, hooks).flatten(0, 1)
        everywhere = torch.arange(tokens.numel(), device=tokens.device)
        return lean_residual(self._model, embedded(self._model, tokens), everywhere, (*tokens.shape,), hooks)

    def branches(self, trunk: Trunk) -> Iterator[tuple[list[int], Float[Tensor, "measure condition place"]]]:
        """Numbers of conditions and their losses at the read places, in nats, until all have been given."""
        sums: dict[int, Tensor] = {}
        left = dict(enumerate(self._fills))
        for start, variants in self._groups.items():
            if start.first is None or not len(trunk.reads.where):
                numbers = list(dict.fromkeys(variant.condition for variant in variants))
                yield numbers, repeat(trunk.losses, "measure place -> measure c place", c=len(numbers))
                continue
            begin = 0
            while begin < len(variants):
                size = max(1, self._budget // self._run_places(trunk.reads, start.scope))
                chosen = variants[begin : begin + size]
                found = self._halving(trunk, start, chosen)
                begin += len(chosen)
                done = []
                for variant, loss in zip(chosen, found.unbind(1), strict=True):
                    number = variant.condition
                    sums[number] = loss / self._fills[number] + sums.get(number, 0)
                    left[number] -= 1
                    done += [number] if not left[number] else []
                if done:
                    yield done, torch.stack([sums.pop(number) for number in done], dim=1)

    def _run_places(self, reads: Reads, scope: Scope) -> int:
        """Places of a batch that one condition runs."""
        return max(1, len(reads.where) if scope == "local" and self._packs else reads.tokens.numel())

    def _halving(self, trunk: Trunk, start: _Start, chosen: list[_Variant]) -> Float[Tensor, "measure condition place"]:
        """Losses of some variants; where memory runs out, of half of them, or of half of the rows, at a time."""
        try:
            return self._losses(trunk, start, chosen)
        except RuntimeError as error:
            if not ran_out(error) or (len(chosen) == 1 and len(trunk.reads.tokens) == 1):
                raise
        self.halved += 1
        release(self._device)
        if len(chosen) > 1:
            half = len(chosen) // 2
            self._budget = max(1, half * self._run_places(trunk.reads, start.scope))
            return torch.cat([self._halving(trunk, start, part) for part in (chosen[:half], chosen[half:])], dim=1)
        losses = repeat(trunk.losses, "measure place -> measure c place", c=1).clone()
        middle = len(trunk.reads.tokens) // 2
        for rows in (slice(0, middle), slice(middle, len(trunk.reads.tokens))):
            part, inside = trunk.rows(rows)
            if inside.any():
                losses[:, :, inside] = self._halving(part, start, chosen)
        return losses

    @torch.no_grad()
    def _losses(self, trunk: Trunk, start: _Start, chosen: list[_Variant]) -> Float[Tensor, "measure condition place"]:
        reads = trunk.reads
        if start.scope == "all" or self._together:
            return self._measured(self._states(trunk, start, chosen, reads), reads)
        losses = repeat(trunk.losses, "measure place -> measure c place", c=len(chosen)).clone()
        position = reads.where % reads.tokens.shape[1]
        for each in torch.unique(position[position > 0]).tolist():
            here = position == each
            only = torch.zeros_like(reads.ablated)
            only[:, each] = reads.ablated[:, each]
            part = replace(reads.at(here), ablated=only)
            losses[:, :, here] = self._measured(self._states(trunk, start, chosen, part), part)
        return losses

    def _measured(
        self, states: Float[Tensor, "condition place d_model"], reads: Reads
    ) -> Float[Tensor, "measure condition place"]:
        """Losses of the residual at the read places."""
        copies, rows = len(states), states.flatten(0, 1)
        targets = reads.targets.repeat(copies)
        if self._table is None or reads.tags is None:
            losses = models.cross_entropy(self._model, rows, targets)[None]
        else:
            losses = split_losses(self._model, rows, targets, reads.tags.repeat(copies), self._table)
        return rearrange(losses, "measure (c place) -> measure c place", c=copies)

    def _states(
        self, trunk: Trunk, start: _Start, chosen: list[_Variant], reads: Reads
    ) -> Float[Tensor, "condition place d_model"]:
        """The residual after the last block at the read places under each of the variants, side by side."""
        copies, first, (batch, pos) = len(chosen), start.first, reads.tokens.shape
        assert first is not None  # noqa: S101 (those conditions have been answered)
        ablated, everywhere = reads.ablated.flatten(), torch.arange(batch * pos, device=reads.where.device)
        if first == self._last:
            return self._forked(trunk, first, chosen, reads.where, ablated[reads.where])
        local = start.scope == "local" and self._together
        if first == _BEFORE or not self._packs:
            tokens, resume = reads.tokens.repeat(copies, 1), None
            if first != _BEFORE:
                forked = self._forked(trunk, first, chosen, everywhere, ablated)
                resume = (first + 1, rearrange(forked, "c (batch pos) d -> (c batch) pos d", pos=pos))
            hooks = self._ablations(chosen, first, reads, {None: everywhere})
            hooks += local_hooks(self._model, trunk.clean, start=first + 1) if local else []
            state = models.residual(self._model, tokens, hooks, start=resume)
            return rearrange(state, "(c batch) pos d -> c (batch pos) d", c=copies)[:, reads.where]
        places = reads.where.sort().values if local else reads.until_read()
        read = torch.searchsorted(places, reads.where)
        shift = torch.arange(copies, device=places.device)[:, None]
        hooks = self._ablations(chosen, first, reads, {None: places, self._last: reads.where})
        where = (shift * (batch * pos) + places).flatten()
        forked = self._forked(trunk, first, chosen, places, ablated[places])
        shape, each = (copies * batch, pos), (shift * len(places) + read).flatten()
        if self._lean:
            state = lean_residual(self._model, forked.flatten(0, 1), where, shape, hooks, start=first + 1, read=each)
            return rearrange(state, "(c place) d -> c place d", c=copies)
        inside = local_hooks(self._model, trunk.clean, start=first + 1) if local else []
        hooks += packed_hooks(self._model, where, shape, start=first + 1, inside=inside)
        hooks += narrow_hooks(self._model, each)
        tokens = reads.tokens.flatten()[places].repeat(copies)[None]
        state = models.residual(self._model, tokens, hooks, start=(first + 1, forked.flatten(0, 1)[None]))
        return rearrange(state[0], "(c place) d -> c place d", c=copies)[:, read]

    def _forked(
        self,
        trunk: Trunk,
        first: int,
        chosen: list[_Variant],
        places: Int[Tensor, " run"],
        ablated: Bool[Tensor, " run"],
    ) -> Float[Tensor, "condition run d_model"]:
        """The residual after the first ablated layer, by the identity: one product per condition, no layer is run."""
        base, values = (each[first].flatten(0, 1)[places] for each in (trunk.residuals, trunk.values))
        held, weights = self._held[first], output_weights(self._model, first)
        number = trunk.reads.number.flatten()[places]
        states = []
        for _, units, fill in chosen:
            live = values[:, torch.searchsorted(held, units[first])]
            new = fill.new(first, units[first], live, number)
            change = (new.float() - live.float()) * ablated[:, None]
            states.append((base.float() + change @ weights[units[first]].float()).to(base.dtype))
        return torch.stack(states)

    def _ablations(
        self, chosen: Sequence[_Variant], after: int, reads: Reads, places: Mapping[int | None, Int[Tensor, " _"]]
    ) -> list[Hook]:
        """Hooks that ablate in later layers than `after`; `places` are those that a layer runs (None: any other)."""
        hooks: list[Hook] = []
        for layer in sorted({layer for variant in chosen for layer in variant.units if layer > after}):
            run = places.get(layer, places[None])
            at = torch.nonzero(reads.ablated.flatten()[run])[:, 0]
            hooks.append((models.post_name(layer), _ablate(layer, chosen, at, reads.number.flatten()[run[at]])))
        return hooks


def _in_rows(kept: Mapping[int, Tensor], reads: Reads) -> dict[int, Float[Tensor, "batch pos width"]]:
    """What was kept of a batch, as its rows and positions, whichever way it was run."""
    return {layer: value.reshape(*reads.tokens.shape, value.shape[-1]) for layer, value in kept.items()}


def _ablate(layer: int, chosen: Sequence[_Variant], at: Int[Tensor, " _"], number: Int[Tensor, " _"]) -> Any:
    """A hook that ablates at some of the places of each variant, which lie one after the other."""

    def hook_function(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        flat = value.flatten(0, 1)
        places = len(flat) // len(chosen)
        for slot, (_, units, fill) in enumerate(chosen):
            if layer in units:
                rows = (slot * places + at)[:, None]
                flat[rows, units[layer]] = fill.new(layer, units[layer], flat[rows, units[layer]], number)
        return flat.view(value.shape)

    return hook_function
