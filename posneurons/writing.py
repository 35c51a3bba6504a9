"""Whether what a model's neurons write is what `W_out` says: then a change of theirs needs no run of their layer, and
the logit lens may read them.

This module knows tensors and hooks, and no words.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from posneurons import models
from posneurons.errors import ModelError
from posneurons.models import Hook
from posneurons.weights import output_weights

CHECK_TOLERANCE = 0.05
"""Share of an effect by which the check of the identity may be off: above bf16 rounding, far below what a norm does."""


def keep(into: dict[int, Tensor], layer: int, units: Tensor | None = None) -> Any:
    """A hook that keeps a value, or some of its columns, under the number of a layer."""

    def hook_function(value: Tensor, hook: Any) -> None:  # noqa: ARG001
        into[layer] = value.clone() if units is None else value[..., units]

    return hook_function


@torch.no_grad()
def _missed(model: Any, tokens: Tensor) -> tuple[list[float], dict[int, Tensor], Tensor]:
    """By how much what each layer's neurons do to the residual misses activation × `W_out`, as a share of that; with
    the residual after every layer, and after the last block.
    """
    values: dict[int, Tensor] = {}
    after: dict[int, Tensor] = {}
    layers = range(models.describe(model).n_layers)
    intact = models.residual(model, tokens, [hook for layer in layers for hook in _recording(layer, values, after)])
    off: list[Tensor] = []
    weights = [output_weights(model, layer) for layer in layers]
    comparing = [hook for layer in layers for hook in _comparing(layer, values, after, weights[layer], off)]
    models.residual(model, tokens, comparing)
    return [float(each) for each in off], after, intact


def _tokens(model: Any) -> Tensor:
    return torch.tensor([[0, 1, 2, 3]], device=models.describe(model).device)


def check_writes(model: Any) -> None:
    """See on four tokens that neurons reach the residual after their layer through `W_out` and nothing else.

    Raises:
        ModelError: where they do not, as with a norm after the MLP.
    """
    shares, _, _ = _missed(model, _tokens(model))
    wrong = [layer for layer, share in enumerate(shares) if not share <= CHECK_TOLERANCE]
    if wrong:
        info = models.describe(model)
        raise ModelError(
            f"{info.name}: what the neurons of layer {wrong[0]} write does not reach the residual stream as it is in "
            f"{info.architecture}; the logit lens needs W_out alone: choose another method, such as attribution"
        )


@torch.no_grad()
def can_fork(model: Any) -> bool:
    """See on four tokens whether neurons change the residual after their layer through `W_out` and nothing else, in
    every layer, and whether a run that starts in the middle gives what a whole one does.
    """
    tokens = _tokens(model)
    try:
        shares, after, intact = _missed(model, tokens)
        if not all(share <= CHECK_TOLERANCE for share in shares):
            return False
        starts = {1, len(shares) - 1} - {0, len(shares)}
        again = [models.residual(model, tokens, start=(layer, after[layer - 1])) for layer in starts]
    except (KeyError, AttributeError, RuntimeError, AssertionError, ValueError, TypeError):
        return False
    return all(float(_relative(each - intact, intact)) <= CHECK_TOLERANCE for each in again)


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
