"""Run only the positions that matter: a residual stream that holds them one after the other, without padding.

Norms and MLPs look at one position at a time, so they need no rows. Inside attention alone queries, keys and values are
laid out as rows and positions, with zeros where nothing is run. Those places must not matter: what follows in a row,
which causal attention never reads, or, where every position is kept to itself (see `locality`), any.

Hooks are enough for that. Whether a model can be run so is seen by trying (`can_pack`). This module knows tensors and
hooks, and no words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from posneurons import models
from posneurons.models import Hook


def packed_hooks(
    model: Any, where: Int[Tensor, " place"], shape: tuple[int, int], *, start: int, inside: Sequence[Hook] = ()
) -> list[Hook]:
    """Hooks for a residual stream of chosen places only, one after the other [1 place d_model].

    Args:
        model: what `load_model` gives; see `can_pack`.
        where: index of each place into the flattened (batch, pos) axes, each once.
        shape: sizes of those axes.
        start: the first layer that is run.
        inside: hooks that work on queries, keys, values and scores as rows and positions.
    """

    def spread(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        full = value.new_zeros(shape[0] * shape[1], *value.shape[2:])
        return rearrange(full.index_copy(0, where, value[0]), "(batch pos) ... -> batch pos ...", batch=shape[0])

    def gather(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return value.flatten(0, 1)[where][None]

    layers = range(start, model.cfg.n_layers)
    return [
        *((f"blocks.{layer}.attn.hook_{name}", spread) for layer in layers for name in "qkv"),
        *inside,
        *((f"blocks.{layer}.attn.hook_z", gather) for layer in layers),
    ]


def narrow_hooks(model: Any, read: Int[Tensor, " read"]) -> list[Hook]:
    """Hooks that run the last MLP only at the places that are read afterwards: nothing else looks at what it writes.

    Args:
        model: what `load_model` gives; see `can_pack`.
        read: index of those places into the packed stream, each once.
    """
    block = f"blocks.{model.cfg.n_layers - 1}"
    size: dict[str, int] = {}

    def gather(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        size["places"] = value.shape[1]
        return value[:, read]

    def spread(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        full = value.new_zeros(1, size["places"], value.shape[2])
        return full.index_copy(1, read, value)

    return [(f"{block}.ln2.hook_normalized", gather), (f"{block}.hook_mlp_out", spread)]


@torch.no_grad()
def can_pack(model: Any) -> bool:
    """See on two short rows whether a packed run from the second layer gives what the plain one gives."""
    info = models.describe(model)
    if info.backend == "bridge" or info.n_layers < 2:
        return False
    tokens = torch.tensor([[0, 1, 2, 3], [0, 3, 1, 0]], device=info.device)
    where = torch.tensor([0, 1, 2, 3, 4, 5, 6], device=info.device)
    read = torch.tensor([1, 3, 6], device=info.device)
    before: list[Tensor] = []

    def keep(value: Tensor, hook: Any) -> None:  # noqa: ARG001
        before.append(value.flatten(0, 1)[where])

    try:
        plain = models.residual(model, tokens, [("blocks.1.hook_resid_pre", keep)]).flatten(0, 1)[where]
        hooks = [*packed_hooks(model, where, (2, 4), start=1), *narrow_hooks(model, read)]
        packed = models.residual(model, tokens.flatten()[where][None], hooks, start=(1, before[0][None]))[0]
    except (KeyError, AttributeError, RuntimeError, AssertionError, ValueError, TypeError):
        return False
    error, size = (packed[read] - plain[read]).float(), plain[read].float()
    tolerance = 1e-3 if plain.dtype in (torch.float32, torch.float64) else 0.05
    return bool(error.norm() <= tolerance * size.norm())
