"""Per-tag moments of every neuron in one pass: update, merge, finalise.

A batch costs two matrix products with the one-hot tags, on activations shifted by the first batch's mean so that
squares do not cancel; batches are merged in float64 by the formula of Chan, Golub and LeVeque (1979),
doi.org/10.1080/00031305.1983.10483115. Memory is O(tags x neurons), whatever the corpus. This module knows tensors and
tag numbers, and neither models nor files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posneurons.records import At, TagMoments


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
        self._shift: list[Tensor | None] = [None] * n_layers

    def update(self, layer: int, tags: Int[Tensor, " word"], values: Float[Tensor, "word neuron"]) -> None:
        """Add the activations of one batch of words in one layer; `values`, of any float type, is not changed."""
        if not len(tags):
            return
        shift = self._shift[layer]
        if shift is None:
            shift = self._shift[layer] = values.float().mean(0)
        centred = values.float() - shift
        onehot = torch.nn.functional.one_hot(tags, self._count.shape[1]).T.to(centred.dtype)
        sums = (onehot @ centred).to(self._device, torch.float64)
        squares = (onehot @ centred.square_()).to(self._device, torch.float64)
        count = torch.bincount(tags, minlength=onehot.shape[0]).to(self._device)
        mean = sums / count.clamp(min=1)[:, None]
        self._merge(layer, count, mean, (squares - sums * mean).clamp_(min=0))

    def _merge(self, layer: int, count: Tensor, mean: Tensor, m2: Tensor) -> None:
        old = self._count[layer]
        total = (old + count).clamp(min=1)
        delta = mean - self._mean[layer]
        self._mean[layer] += delta * (count / total)[:, None]
        self._m2[layer] += m2 + delta.square() * (old * count / total)[:, None]
        self._count[layer] += count

    def finalise(self, tags: Sequence[str], at: At) -> TagMoments:
        """The moments so far. Raises RuntimeError where layers were given different words."""
        if not (self._count == self._count[0]).all():
            raise RuntimeError("the layers have seen different words")
        shift = torch.stack(
            [torch.zeros(self._mean.shape[2]) if each is None else each.cpu().float() for each in self._shift]
        )
        seen = (self._count.T.cpu() > 0)[..., None]  # [tag layer 1]
        mean = self._mean.transpose(0, 1).cpu() + shift.double() * seen
        return TagMoments(
            tags=tuple(tags),
            at=at,
            count=self._count[0].cpu().numpy(),
            mean=mean.numpy(),
            m2=self._m2.transpose(0, 1).contiguous().cpu().numpy(),
        )


def merge(a: TagMoments, b: TagMoments) -> TagMoments:
    """The moments of the words of both. Raises ValueError where tags or positions differ."""
    if a.tags != b.tags or a.at != b.at:
        raise ValueError(f"moments of {a.tags} at {a.at} and of {b.tags} at {b.at} cannot be merged")
    count = a.count + b.count
    weight = (b.count / count.clip(min=1))[:, None, None]
    delta = b.mean - a.mean
    return replace(
        a,
        count=count,
        mean=a.mean + delta * weight,
        m2=a.m2 + b.m2 + delta**2 * a.count[:, None, None] * weight,
    )
