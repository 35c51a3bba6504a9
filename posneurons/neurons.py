"""Sets of neurons: names, layers, overlap, and random sets that match them.

A neuron is (layer, unit), unit of that layer's `blocks.{layer}.mlp.hook_post`, and prints as `L12N3456`. A set knows
nothing of how it was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons.display import Shown
from posneurons.errors import NeuronError
from posneurons.words import NEURON

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class NeuronSet(Shown):
    """Distinct neurons in the order in which they were given (best first, where they come from a ranking).

    >>> found = NeuronSet.parse(["L1N7", "L0N3"])
    >>> found.names, found.layer_profile(n_layers=3).tolist()
    (('L1N7', 'L0N3'), [1, 1, 0])
    """

    layers: Int[ndarray, " k"]
    units: Int[ndarray, " k"]

    def __post_init__(self) -> None:
        seen: set[tuple[int, int]] = set()
        for layer, unit in zip(self.layers.tolist(), self.units.tolist(), strict=True):
            if (layer, unit) in seen:
                raise NeuronError(f"a set of neurons: L{layer}N{unit} is in it twice; name each neuron once")
            seen.add((layer, unit))

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:6]) + (", ..." if len(self) > 6 else "")
        return f"NeuronSet({len(self)}: {shown})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NeuronSet) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """`L{layer}N{unit}` of each neuron, in order."""
        return tuple(f"L{layer}N{unit}" for layer, unit in zip(self.layers, self.units, strict=True))

    @classmethod
    def parse(cls, names: Iterable[str]) -> NeuronSet:
        """A set from names such as `L12N3456`. Raises NeuronError at the first that is none, or that comes twice."""
        pairs = []
        for name in names:
            match = NEURON.fullmatch(name) if isinstance(name, str) else None
            if match is None:
                raise NeuronError(f"neuron {name!r:.40}: expected a name such as 'L12N3456' (layer 12, unit 3456)")
            pairs.append((int(match[1]), int(match[2])))
        return cls.from_pairs(pairs)

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[int, int]]) -> NeuronSet:
        """A set from (layer, unit) pairs."""
        table = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
        return cls(table[:, 0], table[:, 1])

    @classmethod
    def from_flat(cls, flat: Int[ndarray, " k"], n_units: int) -> NeuronSet:
        """A set from layer * n_units + unit."""
        return cls(flat // n_units, flat % n_units)

    def flat(self, n_units: int) -> Int[ndarray, " k"]:
        """Layer * n_units + unit of each neuron."""
        return np.asarray(self.layers * n_units + self.units)

    def by_layer(self) -> dict[int, Int[ndarray, " k"]]:
        """The units of each layer that has any, layers ascending."""
        return {int(layer): self.units[self.layers == layer] for layer in np.unique(self.layers)}

    def layer_profile(self, n_layers: int) -> Int[ndarray, " layer"]:
        """How many of the neurons lie in each layer."""
        return np.bincount(self.layers, minlength=n_layers)

    def figure(self, n_layers: int | None = None) -> go.Figure:
        """How many of the neurons lie in each layer.

        Args:
            n_layers: of the model; None for the layers up to the last one in the set.

        Raises:
            NeuronError: where a neuron lies beyond the model's layers.
        """
        from posneurons.ranking_figures import set_profile

        last = int(self.layers.max(initial=0))
        if n_layers is not None and last >= n_layers:
            raise NeuronError(
                f"a set of neurons: one lies in layer {last}, but n_layers={n_layers}; "
                "were they found in another model?"
            )
        return set_profile(self.layers.tolist(), self.names, last + 1 if n_layers is None else n_layers)

    def union(self, *others: NeuronSet) -> NeuronSet:
        """The neurons of this set and of the others, each once, in order of first appearance."""
        everyone = (self, *others)
        pairs = [pair for each in everyone for pair in zip(each.layers.tolist(), each.units.tolist(), strict=True)]
        return NeuronSet.from_pairs(dict.fromkeys(pairs))

    def jaccard(self, other: NeuronSet) -> float:
        """Size of the intersection over size of the union; NaN for two empty sets."""
        mine, theirs = set(self.names), set(other.names)
        return len(mine & theirs) / len(mine | theirs) if mine | theirs else float("nan")

    def check(self, n_layers: int, n_units: int) -> None:
        """Raise NeuronError where a neuron lies outside a model of n_layers layers of n_units neurons."""
        inside = (self.layers >= 0) & (self.layers < n_layers) & (self.units >= 0) & (self.units < n_units)
        if not inside.all():
            name = self.names[int(inside.argmin())]
            raise NeuronError(
                f"neuron {name}: the model has layers 0 to {n_layers - 1} and units 0 to {n_units - 1}; "
                "were these neurons found in another model?"
            )

    def matched_random(
        self,
        draws: int,
        rng: np.random.Generator,
        *,
        n_layers: int,
        n_units: int,
        exclude: NeuronSet | None = None,
        size: Float[ndarray, "layer neuron"] | None = None,
        bins: int = 10,
    ) -> list[NeuronSet]:
        """Random sets that hold, at every place, a partner of the neuron at that place of this set.

        The partner lies in the same layer and, where sizes are given, in the same bin of that layer's sizes. Inside a
        draw nothing comes twice. The first k neurons of a draw are thus a matched random set of the first k of this
        set: curves over k share their draws. Where a bin has too few neurons, the later places of the set take what is
        nearest in size of what the layer has left.

        Args:
            draws: how many sets.
            rng: the source of randomness.
            n_layers: layers of the model.
            n_units: neurons in each layer.
            exclude: neurons that no draw may contain; None is this set itself. Name this set too where others are
                named: an empty set excludes nothing.
            size: what else partners share, such as how much an ablation perturbs; of any unit.
            bins: equally filled bins of the sizes inside a layer; neurons of one size share a bin.

        Raises:
            NeuronError: where a layer has fewer neurons left than the set has in it, or `size` or `bins` do not fit.
        """
        self.check(n_layers, n_units)
        if size is not None and size.shape != (n_layers, n_units):
            raise NeuronError(
                f"matched random sets: sizes of {size.shape[0]} layers of {size.shape[1]} neurons were given, but the "
                f"model has {n_layers} of {n_units}; measure them on this model"
            )
        if size is not None and not np.isfinite(size).all():
            raise NeuronError(
                f"matched random sets: {np.count_nonzero(~np.isfinite(size))} sizes are not finite; expected a number "
                "for every neuron; load the model in float32"
            )
        if bins < 1:
            raise NeuronError(f"matched random sets: bins={bins}; expected at least 1")
        taken = (self if exclude is None else exclude).by_layer()
        units = np.empty((draws, len(self)), dtype=np.int64)
        for layer, mine in self.by_layer().items():
            pool = np.setdiff1d(np.arange(n_units), taken.get(layer, np.array([], dtype=np.int64)))
            if len(pool) < len(mine):
                raise NeuronError(
                    f"matched random sets: layer {layer} has {len(pool)} neurons outside all key sets, but "
                    f"{len(mine)} are needed; choose a smaller k, fewer tags or fewer flags"
                )
            sizes = np.zeros(n_units) if size is None else size[layer]
            units[:, self.layers == layer] = _partners(mine, pool, sizes, bins, draws, rng)
        return [NeuronSet(self.layers.astype(np.int64), each) for each in units]


def _partners(
    mine: Int[ndarray, " k"],
    pool: Int[ndarray, " candidate"],
    size: Float[ndarray, " neuron"],
    bins: int,
    draws: int,
    rng: np.random.Generator,
) -> Int[ndarray, "draw k"]:
    """For each of `mine`, a unit of `pool` from its bin of `size`, else the nearest left; none twice inside a draw."""
    inner = np.quantile(size, np.arange(1, bins) / bins)
    bin_of = np.searchsorted(inner, size, side="right")
    found = np.full((draws, len(mine)), -1, dtype=np.int64)
    left = np.ones((draws, len(size)), dtype=bool)
    for each in np.unique(bin_of[mine]):
        inside = pool[bin_of[pool] == each]
        places = np.flatnonzero(bin_of[mine] == each)[: len(inside)]
        found[:, places] = _without_replacement(inside, len(places), draws, rng)
        np.put_along_axis(left, found[:, places], False, axis=1)
    for place in np.flatnonzero((found < 0).any(0)):
        nearest = pool[np.argsort(np.abs(size[pool] - size[mine[place]]), kind="stable")]
        found[:, place] = nearest[left[:, nearest].argmax(1)]
        np.put_along_axis(left, found[:, [place]], False, axis=1)
    return found


def _without_replacement(
    pool: Int[ndarray, " candidate"], k: int, draws: int, rng: np.random.Generator
) -> Int[ndarray, "draw k"]:
    """For each draw k of the pool in random order: the first k steps of a Fisher-Yates shuffle, all draws at once."""
    table = np.tile(pool, (draws, 1))
    rows = np.arange(draws)
    for place in range(k):
        other = rng.integers(place, len(pool), draws)
        table[rows, other], table[rows, place] = table[rows, place], table[rows, other]
    return table[:, :k]
