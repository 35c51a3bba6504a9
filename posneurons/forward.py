"""One pass of a model through its blocks: with hooks, from any layer on, without logits, over one device or several.

Of a model that lies on several devices every hook sees its value on the first, where accumulators and tokens are, and
what it gives goes back to the layer's own; so no caller needs to know. Nothing here switches gradients off. This module
knows no words and no tags.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Hook = tuple[str, Callable[..., Any]]
"""A hook's name, and a function of (value, hook) that gives a new value or None."""


class _StopError(Exception):
    """Carries the residual out of a model that would go on."""

    def __init__(self, state: Tensor) -> None:
        super().__init__("the residual after the last block is known")
        self.state = state


def is_bridge(model: Any) -> bool:
    """Whether a model is a TransformerBridge."""
    return hasattr(model, "original_model")


def home(model: Any) -> torch.device:
    """The device of the embedding, where tokens go and everything is gathered."""
    device: torch.device = next(model.parameters()).device
    return device


def is_spread(model: Any) -> bool:
    """Whether a model lies on several devices."""
    return (getattr(model.cfg, "n_devices", 1) or 1) > 1


def gathered(model: Any, hooks: Sequence[Hook]) -> list[Hook]:
    """The same hooks, which see values on the first device of a model that lies on several."""
    if not is_spread(model):
        return list(hooks)
    where = home(model)

    def moved(function: Callable[..., Any]) -> Callable[[Tensor, Any], Any]:
        def hook_function(value: Tensor, hook: Any) -> Any:
            found = function(value.to(where), hook)
            return found.to(value.device) if isinstance(found, Tensor) else found

        return hook_function

    return [(name, moved(function)) for name, function in hooks]


def residual(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    hooks: Sequence[Hook] = (),
    *,
    start: tuple[int, Float[Tensor, "batch pos d_model"]] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last block, with hooks at work; the unembedding is not computed.

    Attention is causal and nothing is masked as padding, whatever the tokenizer says: pad on the right with any token,
    and positions before the padding are as without it. Gradients flow where they are on.

    Args:
        model: what `load_model` gives.
        tokens: ids with BOS at position 0.
        hooks: called in order.
        start: (layer, the residual before that layer): earlier layers are taken as given and not run. Hooks must not
            be on the layers that are skipped.

    Raises:
        KeyError: where the model has no hook of a name.
    """
    wanted = gathered(model, hooks)
    if is_bridge(model):
        state = _bridge_residual(model, tokens, wanted, start)
    else:
        layer, value = (None, tokens) if start is None else start
        with model.hooks(fwd_hooks=wanted):
            state = model(value, start_at_layer=layer, stop_at_layer=model.cfg.n_layers, padding_side="right")
    return state.to(home(model))


def _bridge_residual(
    model: Any, tokens: Tensor, hooks: list[Hook], start: tuple[int, Tensor] | None
) -> Float[Tensor, "batch pos d_model"]:
    """The Bridge's own `stop_at_layer` runs the unembedding where it is the number of layers, so stop at the norm; its
    `start_at_layer`, where it has one, runs the earlier layers all the same, so keep them from running.
    """
    points = model.hook_dict
    for name, _ in hooks:
        if name not in points:
            raise KeyError(name)  # the Bridge of transformer-lens 3 would run without it

    def stop(value: Tensor, hook: Any) -> None:  # noqa: ARG001
        raise _StopError(value)

    layer = 0
    if start is not None:
        layer, given = start
        hooks = [(f"blocks.{layer}.hook_in", lambda value, hook: given.to(value.device)), *hooks]  # noqa: ARG005
    try:
        with model.hooks(fwd_hooks=[*hooks, ("ln_final.hook_in", stop)]), _without(model, layer):
            model(tokens.to(model.cfg.device), use_cache=False)
    except _StopError as stopped:
        return stopped.state
    raise AssertionError("a TransformerBridge ran without its final norm")


@contextlib.contextmanager
def _without(model: Any, layer: int) -> Iterator[None]:
    """Blocks of a TransformerBridge before a layer hand on what they get, unless later layers use their keys."""
    shared = getattr(model.original_model.config, "num_kv_shared_layers", 0)
    blocks = [] if shared else list(model.blocks)[:layer]
    for block in blocks:
        object.__setattr__(block, "forward", _hand_on)  # the component's own would set it on what it wraps
    try:
        yield
    finally:
        for block in blocks:
            object.__delattr__(block, "forward")


def _hand_on(*args: Any, **kwargs: Any) -> Any:
    return args[0] if args else kwargs["hidden_states"]
