"""Nodes of the integral along a path, and how far what they give misses what it must add up to.

A layer that writes far more than the stream holds without it turns the stream's direction within a small part of the
path, where evenly spaced nodes see nothing. So Gauss-Legendre nodes are placed, for each word by itself, evenly in the
share of the sum that the layer holds rather than in the scale, and are doubled for the layers that need it (see
`path_sums`).

Attributions must add up to F less F with the path's neurons at 0. By how much they miss that, beyond what two runs of
the same differ by (rounding), is measured, and more than 5 % is an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posneurons.errors import PosNeuronsError
from posneurons.words import Rule

Nodes = tuple[Float[Tensor, "node word"], Float[Tensor, "node word"]]
"""Each word's places on the way from 0 to 1, and their weights, which add up to 1."""

TOLERANCE = 0.05
"""Share of F(a) - F(0) by which attributions may miss it, over the words of a layer."""

EARLY = 500
"""Words after which a miss is an error already: a long run that cannot end well should not go on."""

NOISE = 16 * 2.0**-23
"""Share of F that summing in float32 may cost."""


def nodes(steps: int, rule: Rule, balance: Float[Tensor, " word"]) -> Nodes:
    """Places and weights of an integral for every word, float32.

    Args:
        steps: how many.
        rule: where they lie.
        balance: size of what a layer adds to over the size of what it adds. Nodes of Gauss and Legendre lie at
            s = balance u / (1 + balance - u) for u in 0..1, so evenly in the share of the sum that the layer holds.

    >>> nodes(2, "midpoint", torch.ones(1))
    (tensor([[0.2500],
            [0.7500]]), tensor([[0.5000],
            [0.5000]]))
    """
    wide = balance.double().clamp(1e-4, 1e8)
    if rule != "gauss_legendre":
        shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
        even = (torch.arange(steps).to(wide)[:, None] + shift) / steps
        return even.expand(-1, len(wide)).float(), torch.full_like(even, 1 / steps).expand(-1, len(wide)).float()
    places, weights = (torch.from_numpy(each).to(wide)[:, None] / 2 for each in np.polynomial.legendre.leggauss(steps))
    places = places + 0.5
    left = 1 + (1 - places) / wide
    weights = weights * (1 + 1 / wide) / left**2
    return (places / left).float(), (weights / weights.sum(0)).float()


@dataclass
class Completeness:
    """How far attributions miss what they must add up to, per layer (one entry for the joint path), summed over words.

    `missed`: by how much. `wanted`: what they must add up to. `rounding`: by how much two runs of the same differ, and
    what summing in float32 may cost.
    """

    missed: dict[int, float] = field(default_factory=dict)
    wanted: dict[int, float] = field(default_factory=dict)
    rounding: dict[int, float] = field(default_factory=dict)
    words: int = 0

    def add(self, layer: int, missed: float, wanted: float, rounding: float) -> None:
        """Note sums of absolute values over some words."""
        for held, more in ((self.missed, missed), (self.wanted, wanted), (self.rounding, rounding)):
            held[layer] = held.get(layer, 0.0) + more

    def merged(self, other: Completeness) -> Completeness:
        """Both, of the words of both."""
        both = Completeness(dict(self.missed), dict(self.wanted), dict(self.rounding), self.words + other.words)
        for layer in other.wanted:
            both.add(layer, other.missed[layer], other.wanted[layer], other.rounding[layer])
        return both

    def of(self, layer: int) -> float:
        """Share that a layer misses beyond rounding; 0 for one that does next to nothing, which cannot be judged.

        Infinite where a sum is not finite.
        """
        if not math.isfinite(self.missed[layer] + self.wanted[layer] + self.rounding[layer]):
            return math.inf
        if self.wanted[layer] <= 4 * self.rounding[layer]:
            return 0.0
        return max(0.0, self.missed[layer] - self.rounding[layer]) / self.wanted[layer]

    def error(self) -> float:
        """That share, of the worst layer; NaN where nothing was seen."""
        return max((self.of(layer) for layer in self.wanted), default=float("nan"))

    def check(self, least: int = 0) -> None:
        """Raise PosNeuronsError where the worst layer misses by more than 5 %, once so many words were seen."""
        if self.words >= least and self.error() > TOLERANCE:
            raise PosNeuronsError(
                f"integrated gradients: attributions miss the difference they must add up to by {self.error():.1%}; "
                f"expected at most {TOLERANCE:.0%}: take more steps, rule=gauss_legendre, or a model in float32"
            )
