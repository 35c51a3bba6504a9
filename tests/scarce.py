"""A run that fails, as if memory had run out, where it is given too much."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch


def small(ran: Callable[..., Any], fits: int, *, axes: int = 2) -> Callable[..., Any]:
    """`ran(model, batch, ...)`, for batches of at most so many tokens, which are counted along the first axes."""

    def run(model: Any, batch: torch.Tensor, *args: Any, **options: Any) -> Any:
        if prod(batch.shape[:axes]) > fits:
            raise torch.OutOfMemoryError
        return ran(model, batch, *args, **options)

    return run
