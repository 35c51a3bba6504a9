"""Nodes of the integral along a path, and how far what they give misses what it must add up to.

A layer that writes far more than the stream holds without it turns the stream's direction within a small part of the
path, where evenly spaced nodes see nothing. So Gauss-Legendre nodes are placed evenly in the share of the sum that the
layer holds rather than in the scale, and are doubled for the layers that miss by more than 5 %.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from posneurons.errors import PosNeuronsError
from posneurons.words import Rule

TOLERANCE = 0.05
"""Share of F(a) - F(0) by which attributions may miss it, over the words of a layer."""


EARLY = 500
"""Words after which a miss is an error already: a long run that cannot end well should not go on."""

NOISE = 16 * 2.0**-23
"""Share of F that summing in float32 may cost."""

REFINED = 16
"""How many times the nodes asked for a layer may get, at most, under the rule of Gauss and Legendre."""


def nodes(steps: int, rule: Rule, balance: float = float("inf")) -> list[tuple[float, float]]:
    """Places on the way from 0 to 1 and their weights, which add up to 1.

    Args:
        steps: how many.
        rule: where they lie.
        balance: size of what a layer adds to over the size of what it adds. Nodes of Gauss and Legendre lie at
            s = balance u / (1 + balance - u) for u in 0..1, so evenly in the share of the sum that the layer holds.

    >>> nodes(2, "midpoint")
    [(0.25, 0.5), (0.75, 0.5)]
    """
    if rule != "gauss_legendre":
        shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
        return [((step + shift) / steps, 1 / steps) for step in range(steps)]
    places, weights = np.polynomial.legendre.leggauss(steps)
    places, weights = (places + 1) / 2, weights / 2
    left = 1 + (1 - places) / balance
    weights = weights * (1 + 1 / balance) / left**2
    return list(zip((places / left).tolist(), (weights / weights.sum()).tolist(), strict=True))


@dataclass
class Completeness:
    """How far attributions miss what they must add up to, per layer (one entry for the joint path), and its nodes."""

    missed: dict[int, float] = field(default_factory=dict)
    wanted: dict[int, float] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    words: int = 0

    def add(self, layer: int, missed: float, wanted: float) -> None:
        """Note the absolute miss and the absolute difference of F, summed over some words."""
        self.missed[layer] = self.missed.get(layer, 0.0) + missed
        self.wanted[layer] = self.wanted.get(layer, 0.0) + wanted

    def merged(self, other: Completeness) -> Completeness:
        """Both, of the words of both, with the more nodes of each layer."""
        both = Completeness(dict(self.missed), dict(self.wanted), dict(self.steps), self.words + other.words)
        for layer, wanted in other.wanted.items():
            both.add(layer, other.missed[layer], wanted)
        for layer, steps in other.steps.items():
            both.steps[layer] = max(steps, both.steps.get(layer, 0))
        return both

    def error(self) -> float:
        """Mean absolute miss over mean absolute difference, of the worst layer; NaN where nothing was seen."""
        ratios = [self.missed[layer] / self.wanted[layer] for layer in self.wanted if self.wanted[layer] > 0]
        return max(ratios, default=float("nan"))

    def check(self, least: int = 0) -> None:
        """Raise PosNeuronsError where the worst layer misses by more than 5 %, once so many words were seen."""
        if self.words >= least and self.error() > TOLERANCE:
            raise PosNeuronsError(
                f"integrated gradients: attributions miss the difference they must add up to by {self.error():.1%}; "
                f"expected at most {TOLERANCE:.0%}: take more steps, rule=gauss_legendre, or a model in float32"
            )
