"""The local scope: what a neuron does for the very position where it fires, for all positions of a sentence at once.

Each position t shall see its own edit and nobody else's. So attention is given the keys and values of earlier positions
as they are without any edit, constants, and the live ones only where a position attends to itself: the diagonal of the
scores and of the mix. Then one forward pass makes an independent experiment of every position, and one backward pass of
the summed losses gives the derivative of every position's own loss.

Hooks are enough for that. Whether a model's attention can be hooked so is seen by trying (`can_be_local`); where it
cannot, callers take one position at a time, which is as exact and slower. This module knows tensors and hooks, and no
words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from posneurons import models
from posneurons.models import Hook

KeysValues = Mapping[int, tuple[Float[Tensor, "batch pos head d_head"], Float[Tensor, "batch pos head d_head"]]]
"""Per layer the keys, after rotation where there is one, and the values."""


def _names(model: Any, layer: int) -> tuple[str, str]:
    """Hooks of the queries and keys as the scores are made from them.

    A Bridge that splits a joint projection shows them before their rotation only. That is as good: of one position,
    both are turned by the same angle, and their product stays.
    """
    joint = "qkv" in getattr(model.blocks[layer].attn, "submodules", ())
    turned = "rot_" if model.cfg.positional_embedding_type == "rotary" and not joint else ""
    prefix = f"blocks.{layer}.attn.hook_{turned}"
    return f"{prefix}q", f"{prefix}k"


def _divisor(model: Any, layer: int) -> float:
    """What the product of a query and a key is divided by; the attention of Hugging Face holds its inverse."""
    attention = model.blocks[layer].attn
    own = getattr(attention, "attn_scale", None)
    return float(own) if own is not None else 1 / float(attention.original_component.scaling)


def record_keys_values(model: Any, into: dict[int, tuple[Tensor, Tensor]]) -> list[Hook]:
    """Hooks that keep every layer's keys and values of a run in `into`."""
    hooks: list[Hook] = []
    for layer in range(model.cfg.n_layers):
        kept: dict[str, Tensor] = {}

        def keep_keys(value: Tensor, hook: Any, kept: dict[str, Tensor] = kept) -> None:  # noqa: ARG001
            kept["keys"] = value.detach()

        def keep_values(value: Tensor, hook: Any, layer: int = layer, kept: dict[str, Tensor] = kept) -> None:  # noqa: ARG001
            kept["values"] = value.detach()

        def both(value: Tensor, hook: Any, layer: int = layer, kept: dict[str, Tensor] = kept) -> None:  # noqa: ARG001
            into[layer] = (kept["keys"], kept["values"])

        prefix = f"blocks.{layer}.attn."
        hooks += [
            (_names(model, layer)[1], keep_keys),
            (f"{prefix}hook_v", keep_values),
            (f"{prefix}hook_attn_scores", both),
        ]
    return hooks


def local_hooks(model: Any, clean: KeysValues | None = None, *, start: int = 0) -> list[Hook]:
    """Hooks that keep every edit, and every derivative, to its own position.

    Args:
        model: what `load_model` gives; see `can_be_local`.
        clean: keys and values of the run without edits, whose batch is that of the tokens or divides it (several
            conditions one after the other). None where nothing is edited and derivatives are wanted: then the live ones
            are taken, as constants.
        start: the first layer that is run; hooks go on it and all later ones.
    """
    return [
        hook
        for layer in range(start, model.cfg.n_layers)
        for hook in _local_attention(model, layer, None if clean is None else clean[layer])
    ]


def _local_attention(model: Any, layer: int, clean: tuple[Tensor, Tensor] | None) -> list[Hook]:
    live: dict[str, Tensor] = {}
    cap = getattr(model.cfg, "attn_scores_soft_cap", None) or 0.0
    scale = _divisor(model, layer)

    def swap(name: str, number: int) -> Callable[[Tensor, Any], Tensor]:
        def hook_function(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            constant = value.detach() if clean is None else _as_often(clean[number], value)
            live[name], live[f"{name} change"] = value, value - constant
            return constant

        return hook_function

    def keep(name: str) -> Callable[[Tensor, Any], None]:
        def hook_function(value: Tensor, hook: Any) -> None:  # noqa: ARG001
            live[name] = value

        return hook_function

    def self_score(keys: Tensor) -> Tensor:
        queries = live["queries"]
        dots = einsum(queries, _per_head(keys, queries), "batch pos head d, batch pos head d -> batch head pos") / scale
        return cap * torch.tanh(dots / cap) if cap > 0 else dots

    def scores(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        keys, change = live["keys"], live["keys change"]
        # Without a cap the scores are linear in the keys, and the small change is more exact than a difference.
        shift = self_score(keys) - self_score(keys - change) if cap > 0 else self_score(change)
        return value + torch.diag_embed(shift)

    def mix(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        own = rearrange(torch.diagonal(live["pattern"], dim1=-2, dim2=-1), "batch head pos -> batch pos head 1")
        return value + own * _per_head(live["values change"], value)

    queries, keys = _names(model, layer)
    prefix = f"blocks.{layer}.attn.hook_"
    return [
        (queries, keep("queries")),
        (keys, swap("keys", 0)),
        (f"{prefix}v", swap("values", 1)),
        (f"{prefix}attn_scores", scores),
        (f"{prefix}pattern", keep("pattern")),
        (f"{prefix}z", mix),
    ]


def _as_often(clean: Tensor, live: Tensor) -> Tensor:
    """The clean run, once for every condition that is stacked on the batch."""
    times = live.shape[0] // clean.shape[0]
    return clean if times == 1 else clean.repeat(times, 1, 1, 1)


def _per_head(values: Tensor, like: Tensor) -> Tensor:
    """Keys or values of grouped heads, once for every query head of the group."""
    groups = like.shape[2] // values.shape[2]
    return values if groups == 1 else values.repeat_interleave(groups, dim=2)


@torch.no_grad()
def can_be_local(model: Any) -> bool:
    """See on four tokens whether edits of all positions at once do what edits of one position at a time do.

    The first position attends to itself alone and cannot go wrong, but in many models its residual is so large that it
    would hide what goes wrong elsewhere; so it does not count.
    """
    tokens: Int[Tensor, "batch pos"] = torch.tensor([[0, 1, 2, 3]], device=models.describe(model).device)
    clean: dict[int, tuple[Tensor, Tensor]] = {}
    try:
        intact = models.residual(model, tokens, record_keys_values(model, clean))
        together = models.residual(model, tokens, [*_louder(slice(None)), *local_hooks(model, clean)])
    except (KeyError, AttributeError, RuntimeError, AssertionError, ValueError):
        return False
    apart = [models.residual(model, tokens, _louder(slice(t, t + 1)))[:, t] for t in range(tokens.shape[1])]
    alone = torch.stack(apart, dim=1)
    effect = (alone - intact)[:, 1:].float().norm()
    tolerance = 1e-3 if alone.dtype in (torch.float32, torch.float64) else 0.02
    return bool(torch.isfinite(effect) and (together - alone)[:, 1:].float().norm() <= tolerance * effect)


def _louder(positions: slice) -> list[Hook]:
    """An edit of the first layer's neurons that is large enough to be told from rounding."""

    def hook_function(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        value = value.clone()
        value[:, positions] = 3 * value[:, positions] + 1
        return value

    return [(models.post_name(0), hook_function)]
