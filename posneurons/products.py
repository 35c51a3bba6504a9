"""The product of float32 rows with weights of another type, which are converted a part at a time.

Left to autograd, every converted part would be kept until the backward pass: 2.1 GB for the unembedding of Llama-3-8B.
Here the backward pass converts the parts again. This module knows tensors alone.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, columns: int) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.columns = columns
        found = rows.new_empty(len(rows), weights.shape[1])
        for into, part in zip(torch.split(found, columns, dim=1), torch.split(weights, columns, dim=1), strict=True):
            torch.mm(rows, part.float(), out=into)
        return found

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (weights,) = ctx.saved_tensors
        pairs = zip(torch.split(slopes[0], ctx.columns, dim=1), torch.split(weights, ctx.columns, dim=1), strict=True)
        first, *others = (slope @ part.float().T for slope, part in pairs)
        for each in others:
            first = first + each
        return first, None, None


def float_product(
    rows: Float[Tensor, "row k"], weights: Float[Tensor, "k column"], *, columns: int
) -> Float[Tensor, "row column"]:
    """`rows @ weights` in float32, some columns at a time; differentiable by the rows, the weights are constants.

    Args:
        rows: float32.
        weights: of any float type.
        columns: how many are converted at once.

    >>> float_product(torch.ones(1, 2), torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), columns=2)
    tensor([[11., 22., 33.]])
    """
    found: Tensor = _Product.apply(rows, weights, columns)  # type: ignore[no-untyped-call]
    return found
