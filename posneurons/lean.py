"""The blocks of a Llama, computed by its formulas: what a lesion runs hundreds of times, without what hooks are for.

TransformerLens normalises a block's input three times, lays out scores and pattern whole and keeps every part of an MLP
apart, so that all can be hooked. Here only two hooks are known, a layer's neurons and the residual after it; positions
lie one after the other (see `packing`), and attention is PyTorch's own. Both sides of a comparison, the intact run and
the lesioned one, must be run so: in bfloat16 the two ways round differently. Whether a model is a Llama in this sense
is asked of its configuration and seen by trying (`can_be_lean`). This module knows tensors and hooks, and no words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from posneurons import models
from posneurons.forward import is_bridge, is_spread
from posneurons.models import Hook

UNKNOWN = (
    "clip_qkv", "load_in_4bit", "parallel_attn_mlp", "use_attention_sinks", "use_attn_in", "use_attn_result",
    "use_hook_mlp_in", "use_logn_attn", "use_normalization_before_and_after", "use_split_qkv_input",
)  # fmt: skip
"""Switches of a configuration for what is not computed here."""

CHECKED = 24
"""Positions of the row on which the two ways are compared."""


def after_post(layer: int) -> str:
    """Name of the hook where the residual after a layer is.

    >>> after_post(3)
    'blocks.3.hook_resid_post'
    """
    return f"blocks.{layer}.hook_resid_post"


def embedded(model: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "place d_model"]:
    """The residual before the first block at every place."""
    state: Tensor = model(tokens, stop_at_layer=0, padding_side="right")
    return state.flatten(0, 1)


def lean_residual(
    model: Any,
    state: Float[Tensor, "place d_model"],
    where: Int[Tensor, " place"],
    shape: tuple[int, int],
    hooks: Sequence[Hook] = (),
    *,
    start: int = 0,
    read: Int[Tensor, " read"] | None = None,
) -> Float[Tensor, "kept d_model"]:
    """The residual after the last block, of chosen places only.

    Args:
        model: what `load_model` gives; see `can_be_lean`.
        state: the residual before the first layer that is run.
        where: index of each place into the flattened (batch, pos) axes, each once; within a row all up to the last.
        shape: sizes of those axes.
        hooks: at `models.post_name` and `after_post` only; they see [1 place width] and change it in place.
        start: the first layer that is run.
        read: numbers of the places whose residual is wanted, each once; None for all. The last MLP is run there only.
    """
    at: dict[str, list[Any]] = {}
    for name, function in hooks:
        at.setdefault(name, []).append(function)
    last = model.cfg.n_layers - 1
    for layer in range(start, last + 1):
        block = model.blocks[layer]
        state = state + _attention(block, state, where, shape)
        if layer == last and read is not None:
            state = state[read]
        post = _neurons(block, state)
        for function in at.get(models.post_name(layer), ()):
            function(post[None], None)
        state = state + functional.linear(post, block.mlp.W_out.T, block.mlp.b_out)
        for function in at.get(after_post(layer), ()):
            function(state[None], None)
    return state


def _normed(norm: Any, state: Float[Tensor, "place d_model"]) -> Float[Tensor, "place d_model"]:
    """RMSNorm: in float32, and rounded before the weight is put on it."""
    exact = functional.rms_norm(state.float(), (state.shape[1],), eps=norm.eps)
    scaled: Tensor = exact.to(state.dtype) * norm.w
    return scaled


def _neurons(block: Any, state: Float[Tensor, "place d_model"]) -> Float[Tensor, "place d_mlp"]:
    """What enters the down projection: silu(gate) * up."""
    seen = _normed(block.ln2, state)
    gate = functional.silu(functional.linear(seen, block.mlp.W_gate.T), inplace=True)
    return gate.mul_(functional.linear(seen, block.mlp.W_in.T))


def _attention(
    block: Any, state: Float[Tensor, "place d_model"], where: Int[Tensor, " place"], shape: tuple[int, int]
) -> Float[Tensor, "place d_model"]:
    """What attention adds; queries, keys and values alone are laid out as rows, whose ends are 0 and never attended."""
    attention, seen = block.attn, _normed(block.ln1, state)[None]

    def spread(value: Tensor) -> Tensor:
        full = value.new_zeros(shape[0] * shape[1], *value.shape[2:]).index_copy_(0, where, value[0])
        return rearrange(full, "(batch pos) ... -> batch pos ...", batch=shape[0])

    queries, keys, values = (spread(each) for each in attention.calculate_qkv_matrices(seen, seen, seen))
    mixed = functional.scaled_dot_product_attention(
        rearrange(attention.apply_rotary(queries), "batch pos head d -> batch head pos d"),
        rearrange(attention.apply_rotary(keys), "batch pos head d -> batch head pos d"),
        rearrange(values, "batch pos head d -> batch head pos d"),
        is_causal=True,
        scale=1 / attention.attn_scale,
        enable_gqa=keys.shape[2] != queries.shape[2],
    )
    rows = rearrange(mixed, "batch head pos d -> (batch pos) (head d)")[where]
    return functional.linear(rows, rearrange(attention.W_O, "head d d_model -> d_model (head d)"), attention.b_O)


def can_be_lean(model: Any) -> bool:
    """See by a model's configuration, and on a row whose end is left out, whether its blocks are those of a Llama.

    Hooks that somebody else has put on the model are not run here, and a model with any is not.
    """
    cfg = model.cfg
    capped = (getattr(cfg, "attn_scores_soft_cap", None) or 0) > 0
    if is_bridge(model) or is_spread(model) or capped or any(getattr(cfg, name, None) for name in UNKNOWN):
        return False
    if (cfg.act_fn, cfg.positional_embedding_type, cfg.attention_dir) != ("silu", "rotary", "causal"):
        return False
    kinds = {(type(each.ln1).__name__, type(each.mlp).__name__, each.attn.attn_type) for each in model.blocks}
    hooked = any(point.fwd_hooks for point in model.hook_dict.values())
    return kinds == {("RMSNorm", "GatedMLP", "global")} and not hooked and _as_with_hooks(model)


@torch.no_grad()
def _as_with_hooks(model: Any) -> bool:
    if any(each.mlp.b_in.any() for each in model.blocks):
        return False
    pos = min(CHECKED, model.cfg.n_ctx)
    tokens = (torch.arange(2 * pos, device=models.home(model)) % model.cfg.d_vocab).view(2, pos)
    where = torch.arange(2 * pos - 3, device=tokens.device)
    plain = models.residual(model, tokens).flatten(0, 1)[where]
    lean = lean_residual(model, embedded(model, tokens)[where], where, (2, pos))
    tolerance = 1e-3 if plain.dtype in (torch.float32, torch.float64) else 0.05
    shares = (lean - plain).float().norm(dim=1) / plain.float().norm(dim=1)
    return bool(shares.mean() <= tolerance)  # by place: that of the first is so large in some models that it hides all
