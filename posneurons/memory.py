"""How many tokens fit into memory: an estimate from the shape of the model, made before anything is run.

The numbers of a layer are counts of what is alive at once, rounded up; tests compare them with what is alive. What the
device holds already (weights, statistics) is not counted here: plans are made from what is free once it is there.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import psutil
import torch
from jaxtyping import Int
from numpy import ndarray

from posneurons import distributed
from posneurons.errors import RunError
from posneurons.models import ModelInfo, describe

SHARE = 0.8
"""Share of the free memory that is planned with; the rest is for what the estimate does not know."""

NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""What PyTorch and the libraries below it say where they have no class of their own for it."""

LOGIT_ROWS = 1024
"""Rows of float32 logits that are in memory at once, three times over while their loss is taken."""

Kind = Literal["forward", "kept", "lens", "graph", "graph_all", "path", "path_all"]
"""What a pass holds of each token: one layer at work; the activations of all layers; and the residuals before the MLPs;
what the backward pass needs of all layers, for one position or for all, or beside a run that is kept whole, for one
layer at a time or for all."""

_GRAPH = ("graph", "graph_all", "path", "path_all")


@dataclass(frozen=True)
class Need:
    """Bytes that a pass takes: of each token, of each row of logits (up to `LOGIT_ROWS`), and whatever the batch."""

    token: int
    row: int = 0
    fixed: int = 0

    def of(self, tokens: int) -> int:
        """Bytes of a batch.

        >>> Need(token=10, row=3, fixed=100).of(2000)
        23172
        """
        return self.fixed + self.token * tokens + self.row * min(tokens, LOGIT_ROWS)

    def affords(self, free: int) -> int:
        """Tokens that fit into a share of what is free; at least 1.

        >>> Need(token=10, row=3, fixed=100).affords(3000), Need(token=10).affords(0)
        (176, 1)
        """
        room = SHARE * free - self.fixed
        few = room // (self.token + self.row)
        return max(1, int(few if few <= LOGIT_ROWS else (room - LOGIT_ROWS * self.row) // self.token))


def need(model: Any, kind: Kind, longest: int) -> Need:
    """Bytes that a pass takes beside weights and statistics.

    Args:
        model: what `load_model` gives.
        kind: what it holds.
        longest: tokens of the longest row, which the attention scores of a token are as many as.
    """
    info, cfg = describe(model), model.cfg
    size = next(model.parameters()).element_size()
    heads = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    width, neurons, scores = info.d_model, info.d_mlp, cfg.n_heads * longest
    working = bytes_per_token(info, cfg.n_heads, longest, kept=0, stack=1, itemsize=size) + 24 * neurons
    if kind == "forward":
        return Need(working)
    layer = neurons * size
    if kind == "lens":
        layer += 2 * width * (size + 4)
    if kind in _GRAPH:
        layer += (14 * width + 4 * neurons + 3 * scores) * size
    if kind == "graph_all":
        layer += 8 * neurons  # changes and their sums, float32
    if kind in ("path", "path_all"):
        layer += (2 * width + 2 * heads * cfg.d_head) * size + 8 * width
    if kind == "path_all":
        layer += 16 * neurons  # activations, derivatives, and their sums twice, float32
    rows = 0 if kind == "kept" else 5 * 4 * info.d_vocab
    return Need(working + info.n_layers * layer, rows, 0 if kind == "kept" else 8 * width * neurons)


def limit(model: Any, kind: Kind, bounds: Int[ndarray, " bound"]) -> int:
    """Most tokens of a batch that fit into what is free now; at least 1.

    Args:
        model: what `load_model` gives.
        kind: what the pass holds.
        bounds: where the rows of the corpus begin and end among its tokens.
    """
    longest = int(np.diff(bounds).max(initial=0)) + 1
    return need(model, kind, longest).affords(free_bytes(describe(model).device))


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
    return Need(per_token, row=3 * 4 * info.d_vocab).affords(free)


def free_bytes(device: str) -> int:
    """Bytes that are free on a device for this process, what its allocator holds for later included.

    Of processes that share a pass on one device, each has its part of what is free.
    """
    if torch.device(device).type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) // distributed.on_device() + held
    return int(psutil.virtual_memory().available) // distributed.on_device()


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory ran out: PyTorch has a class of its own for GPUs only."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    )


@contextmanager
def explained(tokens: int, kept: str = "") -> Iterator[None]:
    """Turn an end of memory into one line that says what to do; `kept` says what is not lost.

    Raises:
        RunError: where memory runs out inside the context.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not ran_out(error):
            raise
        raise RunError(
            f"out of memory with batches of {tokens} tokens; {kept}run the same with a smaller --batch-tokens"
        ) from None


def release(device: str) -> None:
    """Give what the allocator holds for later back to the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
