"""Per-tag histograms of every neuron in one pass: update, merge, finalise.

The edges are each neuron's own, quantiles of a few thousand words, so that every bin holds about the same number of
words whatever the shape of the distribution: activations of gated MLPs are peaked at 0 with heavy tails. A search among
the edges for every activation would cost several times the forward pass. So each neuron's axis is cut into cells, finer
towards its middle; a table says how many edges lie below a cell, and a comparison with the next edge or two settles the
rest, exactly. Neurons are counted a few at a time, so that their counters stay in the caches. Memory is O(tags x
neurons x bins), whatever the corpus. This module knows tensors and tag numbers, and neither models nor files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from posneurons.errors import PosNeuronsError
from posneurons.records import TagHistograms
from posneurons.words import At

MAX_BINS = 256
"""A table of cells holds bytes."""

_CELLS = 1024
_BLOCK, _BLOCK_ON_GPU = 1 << 17, 1 << 24  # activations that are counted at once; on a CPU what the caches hold


def equal_mass_edges(values: Float[Tensor, "word neuron"], bins: int) -> Float[Tensor, "neuron edge"]:
    """Edges between `bins` bins that hold about equally many of the words, float32, ascending.

    A value that fills more than one bin (the 0 of a ReLU) has a bin to itself. Edges that are left over by this stand
    at the end and are infinite. A neuron with a NaN has NaN edges.

    Raises:
        PosNeuronsError: where `bins` is not within 2..256 or there is no word.
    """
    if not 2 <= bins <= MAX_BINS:
        raise PosNeuronsError(f"histograms: bins={bins}; expected 2 to {MAX_BINS}")
    if not len(values):
        raise PosNeuronsError("histograms: no word to take the edges from; give longer sentences")
    ordered = _sorted(rearrange(values.float(), "word neuron -> neuron word"))
    edges = ordered[:, torch.arange(1, bins, device=values.device) * len(values) // bins]
    infinite = torch.full_like(edges, torch.inf)
    second = _repeats(edges)
    second[:, 1:] &= ~second[:, :-1]  # of several edges at one value: the first stays, the second goes right behind it
    edges = torch.where(second, edges.nextafter(infinite), edges).sort(1).values
    edges = torch.where(_repeats(edges), infinite, edges).sort(1).values
    return torch.where(ordered[:, -1:].isnan(), torch.nan, edges)


def _sorted(values: Tensor) -> Tensor:
    """Each row ascending, NaN last; numpy sorts on the CPU ten times faster, as it keeps no indices."""
    return torch.from_numpy(np.sort(values.numpy(), axis=1)) if values.device.type == "cpu" else values.sort(1).values


def _repeats(edges: Tensor) -> Tensor:
    """Where an edge equals the one before it."""
    return torch.nn.functional.pad(edges[:, 1:] == edges[:, :-1], (1, 0))


@dataclass(frozen=True)
class _Search:
    """How to find the bin of a value in one layer, without a search.

    `below` [neuron cell] is the number of edges in the cells before each; `rounds` the most edges in one cell.
    """

    edges: Float[Tensor, "neuron bin"]
    centre: Float[Tensor, "neuron one"]
    gain: Float[Tensor, "neuron one"]
    below: UInt8[Tensor, "neuron cell"]
    rounds: int

    @classmethod
    def among(cls, edges: Float[Tensor, "neuron edge"]) -> _Search:
        """Cells that reach from the lowest finite edge to the highest, about the middle one."""
        known = torch.where(edges.isfinite(), edges, torch.nan)
        centre = known.nanmedian(1, keepdim=True).values.nan_to_num()
        reach = (known - centre).abs().nan_to_num().amax(1, keepdim=True).sqrt()
        gain = torch.where(reach > 0, (_CELLS // 2 - 1) / reach, 1.0)
        cell = _cells(known, centre, gain)
        inside = torch.zeros(len(edges), _CELLS, device=edges.device)
        inside.scatter_add_(1, cell, known.isfinite().float())
        below = (inside.cumsum(1) - inside).to(torch.uint8)
        # The last bin ends nowhere, and no comparison with NaN is true.
        return cls(torch.nn.functional.pad(known, (0, 1), value=torch.nan), centre, gain, below, int(inside.max()))

    def bins(self, values: Float[Tensor, "unit word"], units: slice) -> Int[Tensor, "unit word"]:
        """Number of edges at or below each value; a NaN is at no edge."""
        cell = _cells(values, self.centre[units], self.gain[units])
        found = self.below[units].gather(1, cell).long()
        edges = self.edges[units]
        for _ in range(self.rounds):
            found += values >= edges.gather(1, found)
        return found


def _cells(values: Tensor, centre: Tensor, gain: Tensor) -> Tensor:
    """Number of the cell of each value: every step rounds correctly, so that a larger value is never in a lower one."""
    offset = values - centre
    cell = offset.abs().sqrt_().copysign_(offset).mul_(gain).add_(_CELLS // 2).clamp_(0, _CELLS - 1)
    return cell.long().clamp_(0, _CELLS - 1)  # again, as a NaN may have become any number


def size(n_tags: int, n_neurons: int, bins: int) -> int:
    """Bytes of the counts, edges and cells of so many neurons.

    >>> size(n_tags=17, n_neurons=32 * 14_336, bins=64)
    2701131776
    """
    return n_neurons * (4 * n_tags * bins + 8 * bins + _CELLS)


class HistogramAccumulator:
    """Streaming counts per (layer, tag, neuron, bin), int32.

    Every layer must be given the same words, batch by batch; `finalise` checks that.

    Args:
        n_tags: how many tags there are.
        edges: ascending edges of each neuron's bins, on the device where the counts are to be. Infinite ones come last;
            the bins beyond them stay empty.
    """

    def __init__(self, n_tags: int, edges: Float[Tensor, "layer neuron edge"]) -> None:
        self._edges = edges.float()
        self._search = [_Search.among(each) for each in self._edges]
        n_layers, n_neurons, n_edges = edges.shape
        self._n_bins = n_edges + 1
        self._bins = torch.zeros(n_layers, n_neurons, n_tags * self._n_bins, dtype=torch.int32, device=edges.device)

    def update(self, layer: int, tags: Int[Tensor, " word"], values: Float[Tensor, "word neuron"]) -> None:
        """Add the activations of one batch of words in one layer; `values`, of any float type, is not changed."""
        if not len(tags):
            return
        values, first = values.to(self._bins.device), tags.to(self._bins.device) * self._n_bins
        one = torch.ones(1, 1, dtype=torch.int32, device=self._bins.device)
        width = max(1, (_BLOCK if one.device.type == "cpu" else _BLOCK_ON_GPU) // len(tags))
        for start in range(0, values.shape[1], width):
            units = slice(start, start + width)
            block = rearrange(values[:, units], "word unit -> unit word").float().contiguous()
            place = self._search[layer].bins(block, units).add_(first)
            self._bins[layer, units].scatter_add_(1, place, one.expand_as(place))

    def finalise(self, tags: Sequence[str], at: At) -> TagHistograms:
        """The histograms so far. Raises RuntimeError where layers were given different words."""
        bins = rearrange(self._bins, "layer neuron (tag bin) -> tag layer neuron bin", bin=self._n_bins).cpu().numpy()
        count = bins[:, :, 0].sum(2, dtype=np.int64)
        if (count != count[:, :1]).any():
            raise RuntimeError("the layers have seen different words")
        return TagHistograms(tuple(tags), at, count[:, 0], self._edges.cpu().numpy().copy(), bins.copy())


def merge(a: TagHistograms, b: TagHistograms) -> TagHistograms:
    """The histograms of the words of both. Raises ValueError where tags, positions or edges differ."""
    if a.tags != b.tags or a.at != b.at or not np.array_equal(a.edges, b.edges, equal_nan=True):
        raise ValueError(f"histograms of {a.tags} at {a.at} and of {b.tags} at {b.at}, each with its edges: not alike")
    return replace(a, count=a.count + b.count, bins=a.bins + b.bins)
