"""Whether what a model's neurons write is what `W_out` says: then a change of theirs needs no run of their layer.

This module knows tensors and hooks, and no words.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from posneurons import models
from posneurons.models import Hook

CHECK_TOLERANCE = 0.05
"""Share of an effect by which the check of the identity may be off: above bf16 rounding, far below what a norm does."""


def keep(into: dict[int, Tensor], layer: int, units: Tensor | None = None) -> Any:
    """A hook that keeps a value, or some of its columns, under the number of a layer."""

    def hook_function(value: Tensor, hook: Any) -> None:  # noqa: ARG001
        into[layer] = value.clone() if units is None else value[..., units]

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
    return [(models.post_name(layer), keep(values, layer)), (f"blocks.{layer}.hook_resid_post", keep(after, layer))]


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

    return [(models.post_name(layer), louder), (f"blocks.{layer}.hook_resid_post", compare)]


def _relative(error: Tensor, to: Tensor) -> Float[Tensor, ""]:
    """Size of an error without the first position, whose residual is so large in some models that all else rounds."""
    share: Tensor = torch.linalg.vector_norm(error[:, 1:].float()) / torch.linalg.vector_norm(to[:, 1:].float())
    return share
