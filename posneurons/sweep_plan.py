"""What a sweep lesions: nested parts of one large set for each tag.

Three kinds of curve: the k best of the model (arm "k"), the best of one layer ("layer"), or the best of the model up to
a layer ("cumulative"). A tag has one large set of which all of them are parts, so that random sets that match the large
one place by place have parts that match its parts. This module knows no models and no files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from posneurons.ablations import parse
from posneurons.config import MOST_SEED, check_number
from posneurons.errors import RunError
from posneurons.neurons import NeuronSet
from posneurons.records import Ranking
from posneurons.words import Cluster, Control, Scope

Arm = Literal["k", "layer", "cumulative"]
"""What grows along a curve: the best of the model, the layer whose best are taken, or the layers up to which."""

KS = (1, 2, 5, 10, 20, 50, 100, 200)
EVERYWHERE = -1
"""The layer of a set that may lie in any."""


@dataclass(frozen=True)
class Plan:
    """What a sweep lesions; see `posneurons sweep --help`.

    Attributes:
        arms: which curves.
        ks: numbers of neurons of the arm "k".
        top: neurons of one layer in the arm "layer", and of the model in the arm "cumulative".
        ablations: with options, as `posneurons.ablations.parse` reads them.
        scopes: "all" positions after BOS, or "local".
        controls: matched random sets of each tag.
        control: what they share with the neurons: "size" or "layer".
        cluster: over what standard errors are taken: "document", "sentence", or "auto".
        seed: of random sets and donors.
    """

    arms: tuple[str, ...] = ("k", "layer")
    ks: tuple[int, ...] = KS
    top: int = 50
    ablations: tuple[str, ...] = ("mean", "zero")
    scopes: tuple[str, ...] = ("all",)
    controls: int = 5
    control: str = "size"
    cluster: str = "auto"
    seed: int = 0

    def check(self) -> None:
        """Raise PosNeuronsError where an option has no meaning."""
        words: list[tuple[str, str, Iterable[str]]] = [
            *(("arm", each, get_args(Arm)) for each in self.arms),
            *(("scope", each, get_args(Scope)) for each in self.scopes),
            ("control", self.control, get_args(Control)),
            ("cluster", self.cluster, get_args(Cluster)),
        ]
        for name, value, allowed in words:
            if value not in allowed:
                raise RunError(f"--{name} {value}: expected one of {', '.join(allowed)}")
        for ablation in self.ablations:
            parse(ablation)
        for k in self.ks:
            check_number("k", k, 1)
        check_number("top", self.top, 1)
        check_number("controls", self.controls, 0, 10**4)
        check_number("seed", self.seed, 0, MOST_SEED)
        for name, given in (("arm", self.arms), ("ablation", self.ablations), ("scope", self.scopes)):
            if not given:
                raise RunError(f"--{name}: none was given; expected at least one")
        if "k" in self.arms and not self.ks:
            raise RunError("--k: none was given; expected at least one for the arm k")


class Best(NamedTuple):
    """A tag's neurons, best first: over the whole model, and in each layer (None where only a list is known)."""

    model: NeuronSet
    layers: NeuronSet | None = None


class Part(NamedTuple):
    """A set of one curve, as places in the tag's large set; `layer` is `EVERYWHERE` in the arm "k"."""

    arm: Arm
    k: int
    layer: int
    places: Int[ndarray, " k"]


def best_of(ranking: Ranking, tags: Iterable[str], plan: Plan) -> dict[str, Best]:
    """As many of each tag's best neurons as a plan may lesion."""
    n_layers, n_units = ranking.scores.shape[1:]
    most = max((*plan.ks, plan.top))
    model = ranking.top(min(most, n_layers * n_units), fewer=True)
    layers = ranking.top(min(plan.top, n_units), per="layer", fewer=True)
    return {tag: Best(model[tag], layers[tag]) for tag in tags}


def parts_of(best: Best, plan: Plan) -> tuple[NeuronSet, list[Part]]:
    """A tag's large set, and the sets of its curves; those with more neurons than are known are left out."""
    longest = max([k for k in plan.ks if k <= len(best.model)] if "k" in plan.arms else [0], default=0)
    if "cumulative" in plan.arms:
        longest = max(longest, min(plan.top, len(best.model)))
    model = NeuronSet(best.model.layers[:longest], best.model.units[:longest])
    layers = best.layers if "layer" in plan.arms and best.layers is not None else NeuronSet.parse([])
    whole = model.union(layers)
    place = {name: number for number, name in enumerate(whole.names)}
    parts: list[Part] = []
    if "k" in plan.arms:
        parts += [Part("k", k, EVERYWHERE, np.arange(k)) for k in sorted(set(plan.ks)) if k <= longest]
    names = layers.names
    for layer in layers.by_layer():
        mine = np.flatnonzero(layers.layers == layer)
        parts.append(Part("layer", plan.top, layer, np.array([place[names[each]] for each in mine])))
    if "cumulative" in plan.arms:
        first = model.layers[: plan.top]
        parts += [Part("cumulative", plan.top, int(la), np.flatnonzero(first <= la)) for la in np.unique(first)]
    return whole, parts
