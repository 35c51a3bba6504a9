"""Per-tag moments of every neuron in one pass: update, merge, finalise.

A batch costs two matrix products with the one-hot tags: one for the means, one for the squares around each tag's own
mean, so that nothing cancels. Batches are merged in float64 by the formula of Chan, Golub and LeVeque (1979),
doi.org/10.1080/00031305.1983.10483115. Memory is O(tags x neurons), whatever the corpus. This module knows tensors and
tag numbers, and neither models nor files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from posneurons.records import TagMoments
from posneurons.words import At

Array = TypeVar("Array", ndarray, Tensor)


def pooled(n: Array, mean: Array, m2: Array, more_n: Array, more_mean: Array, more_m2: Array) -> tuple[Array, Array]:
    """Mean and centred sum of squares of the values of two groups, float64, whose sizes are `n` and `more_n`.

    Where a group has no values its mean and sum of squares are 0; so are those of the two where neither has any.
    """
    share = more_n / (n + more_n).clip(1)
    delta = more_mean - mean
    return mean + delta * share, m2 + more_m2 + delta**2 * n * share


class MomentAccumulator:
    """Streaming count, mean and centred sum of squares per (layer, tag, neuron).

    Every layer must be given the same words, batch by batch; `finalise` checks that.
    """

    def __init__(self, n_tags: int, n_layers: int, n_neurons: int, device: torch.device | str = "cpu") -> None:
        # float64 is what the merge needs; Apple's GPUs have none, so there the state lives on the CPU.
        self._device = torch.device("cpu") if torch.device(device).type == "mps" else torch.device(device)
        shape = (n_layers, n_tags, n_neurons)
        self._count = torch.zeros(n_layers, n_tags, dtype=torch.int64, device=self._device)
        self._mean = torch.zeros(shape, dtype=torch.float64, device=self._device)
        self._m2 = torch.zeros(shape, dtype=torch.float64, device=self._device)

    def update(self, layer: int, tags: Int[Tensor, " word"], values: Float[Tensor, "word neuron"]) -> None:
        """Add the activations of one batch of words in one layer; `values`, of any float type, is not changed."""
        if not len(tags):
            return
        onehot = torch.nn.functional.one_hot(tags, self._count.shape[1]).T.float()
        count = onehot.sum(1)
        half = values.dtype in (torch.float16, torch.bfloat16)  # these have no digits for a large constant to hide
        origin = torch.zeros_like(values[0]) if half else values[0]  # else any word's value will do to take it away
        plain = values.float() if half else (values - origin).float()
        offset = (onehot @ plain) / count.clamp(min=1)[:, None]
        centred = torch.addmm(plain, onehot.T, offset, alpha=-1)  # less each word's own tag mean, in one pass
        m2 = onehot @ centred.square_()
        mean = self._exact(origin) + self._exact(offset)
        self._merge(layer, self._exact(count).long(), mean, self._exact(m2))

    def _exact(self, values: Tensor) -> Tensor:
        return values.to(self._device).double()

    def _merge(self, layer: int, count: Tensor, mean: Tensor, m2: Tensor) -> None:
        old, new = self._count[layer].double()[:, None], count.double()[:, None]  # int64 / int64 would be float32
        self._mean[layer], self._m2[layer] = pooled(old, self._mean[layer], self._m2[layer], new, mean, m2)
        self._count[layer] += count

    def finalise(self, tags: Sequence[str], at: At) -> TagMoments:
        """The moments so far. Raises RuntimeError where layers were given different words."""
        if not (self._count == self._count[0]).all():
            raise RuntimeError("the layers have seen different words")
        return TagMoments(
            tags=tuple(tags),
            at=at,
            count=self._count[0].cpu().numpy().copy(),
            mean=rearrange(self._mean, "layer tag neuron -> tag layer neuron").cpu().numpy().copy(),
            m2=rearrange(self._m2, "layer tag neuron -> tag layer neuron").cpu().numpy().copy(),
        )


def merge(a: TagMoments, b: TagMoments) -> TagMoments:
    """The moments of the words of both. Raises ValueError where tags or positions differ."""
    if a.tags != b.tags or a.at != b.at:
        raise ValueError(f"moments of {a.tags} at {a.at} and of {b.tags} at {b.at} cannot be merged")
    n, more = (each.count[:, None, None].astype(np.float64) for each in (a, b))
    mean, m2 = pooled(n, a.mean, a.m2, more, b.mean, b.m2)
    return replace(a, count=a.count + b.count, mean=mean, m2=m2)
