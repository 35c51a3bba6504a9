"""How many tokens fit into memory: an estimate from the shape of the model, made before anything is run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from posneurons.errors import RunError
from posneurons.models import ModelInfo

SHARE = 0.8
"""Share of the free memory that is planned with; the rest is for what the estimate does not know."""

LOGIT_ROWS = 1024
"""Rows of float32 logits that are in memory at once, three times over while their loss is taken."""


def bytes_per_token(info: ModelInfo, n_heads: int, length: int, *, kept: int, stack: int, itemsize: int) -> int:
    """Bytes that a token of a batch needs: what is kept of the intact run, and one layer at work.

    Args:
        info: the model's shape.
        n_heads: query heads.
        length: tokens of the longest row, which the attention scores of a token are as many as.
        kept: numbers kept per token for later.
        stack: how many lesions of it are run side by side.
        itemsize: bytes of a number.
    """
    layer = 8 * info.d_model + 4 * info.d_mlp
    scores = 4 * n_heads * length
    return (kept + stack * (layer + scores)) * itemsize


def affordable(free: int, info: ModelInfo, per_token: int) -> int:
    """Tokens that fit into `free` bytes beside a chunk of logits; at least 1."""
    logits = 3 * 4 * LOGIT_ROWS * info.d_vocab
    return max(1, int((SHARE * free - logits) // per_token))


def free_bytes(device: str) -> int:
    """Bytes that are free on a device, what the allocator holds for later included."""
    if torch.device(device).type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    return int(psutil.virtual_memory().available)


def ran_out(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out: PyTorch has a class of its own for GPUs only."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "out of memory")
    )


@contextmanager
def explained(tokens: int, kept: str = "") -> Iterator[None]:
    """Turn an end of memory into one line that says what to do; `kept` says what is not lost.

    Raises:
        RunError: where memory runs out inside the context.
    """
    try:
        yield
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise RunError(
            f"out of memory with batches of {tokens} tokens; {kept}run the same with a smaller --batch-tokens"
        ) from None


def release(device: str) -> None:
    """Give what the allocator holds for later back to the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
