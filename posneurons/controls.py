"""The rivals of a set of neurons: sets that match it in layers, in perturbation or in damage.

A lesion says something of its neurons only beside lesions that are like it in all but the choice. Three rivals:

- planned: a random partner for every neuron, from its layer and, by choice, with as large a perturbation; no partner
  is any tag's key neuron or an outlier.
- damage-matched: a random set that raises the mean loss of all words by as much as the target does, however many
  neurons that takes, so that profiles over tags are compared at one severity.
- what the same ranking puts last, and other tags' sets, need nothing from here.

How damage is measured is the caller's: nothing here runs a model.

What this does not know: whether a random set does nothing; and that neurons matched one by one are matched as a set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons.ablations import Edit, parse
from posneurons.activations import TokenStatistics
from posneurons.display import Shown
from posneurons.errors import NeuronError
from posneurons.neurons import NeuronSet
from posneurons.outliers import output_norms
from posneurons.words import Control

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Damage = Callable[[Sequence[NeuronSet]], Float[ndarray, " set"]]
"""Gives, for each set, the rise of the mean loss over all scored words when it is ablated, in nats."""

GROWTH = 2.0
"""Ratio of neighbouring sizes where the size that does a wanted damage is looked for."""

AROUND_ZERO = ("zero", "clamp", "scale")
"""Ablations whose perturbation is taken to grow with E|a|; that of the others grows with SD(a)."""


def perturbation_size(model: Any, statistics: TokenStatistics, ablation: Edit | str) -> Float[ndarray, "layer neuron"]:
    """How much ablating each neuron moves the residual, on average over tokens: what random partners should share.

    E|a| |w_out| for zero, clamp and scale: exact for zero and, up to a factor, for scale; of clamp the value is not
    regarded. SD(a) |w_out| for mean, balanced_mean and resample: the root of the mean square of what the mean moves,
    and up to a factor of what a random donor moves.

    Args:
        model: what `load_model` gives.
        statistics: those of `token_statistics` on this model.
        ablation: its name, with or without options.

    Returns:
        Sizes, at least 0, float64, in the unit of the residual stream.

    Raises:
        NeuronError: where there is no such ablation.
    """
    spread = statistics.mean_abs if parse(ablation).name in AROUND_ZERO else statistics.sd
    found: ndarray = spread.double().cpu().numpy() * output_norms(model)
    return found


def planned(
    keys: Mapping[str, NeuronSet],
    *,
    kind: Control,
    draws: int,
    rng: np.random.Generator,
    n_layers: int,
    n_units: int,
    size: Float[ndarray, "layer neuron"] | None = None,
    bins: int = 10,
    exclude: NeuronSet | None = None,
    flagged: NeuronSet | None = None,
) -> dict[str, list[NeuronSet]]:
    """Matched random sets of every tag's key neurons, from neurons that no tag's set and no flag names.

    The partner of the i-th key neuron stands at place i, so that the first k of a control match the first k keys.

    Args:
        keys: the key neurons of every tag, in the order in which a sweep over k takes them.
        kind: "layer" for partners from the same layer, "size" for such that `size` too is alike.
        draws: how many sets for each tag.
        rng: the source of randomness.
        n_layers: layers of the model.
        n_units: neurons in each layer.
        size: what partners share where `kind` is "size"; see `perturbation_size`.
        bins: equally filled bins of the sizes inside a layer.
        exclude: further neurons that no control may hold.
        flagged: outliers, which no control may hold either; see `outliers.flags`.

    Returns:
        For each tag its controls. No tag's control holds a key neuron of any tag; controls may overlap each other.

    Raises:
        NeuronError: where `kind` is unknown or lacks its sizes, or a layer has too few neurons left.
    """
    if kind not in ("layer", "size"):
        raise NeuronError(f"controls: kind={kind!r}; expected 'size' or 'layer'")
    if kind == "size" and size is None:
        raise NeuronError(
            "controls: kind='size', but no sizes were given; expected one for each neuron: give "
            "size=perturbation_size(...), or choose kind='layer'"
        )
    nobody = NeuronSet.from_pairs([])
    taken = nobody.union(*keys.values(), exclude or nobody, flagged or nobody)
    like = size if kind == "size" else None
    where = {"n_layers": n_layers, "n_units": n_units}
    return {
        tag: neurons.matched_random(draws, rng, **where, exclude=taken, size=like, bins=bins)
        for tag, neurons in keys.items()
    }


def remaining(n_layers: int, n_units: int, *taken: NeuronSet) -> NeuronSet:
    """All neurons of a model but those of some sets, by layer and unit. Raises NeuronError where one is not in it."""
    free = np.ones((n_layers, n_units), dtype=bool)
    for each in taken:
        each.check(n_layers, n_units)
        free[each.layers, each.units] = False
    return NeuronSet(*np.nonzero(free))


class DamageMatch(NamedTuple):
    """A random set, whose set it is matched to, which draw it is (from 1), and both rises of the mean loss in nats."""

    tag: str
    draw: int
    neurons: NeuronSet
    wanted: float
    reached: float


@dataclass(frozen=True, repr=False)
class DamageControls(Shown):
    """Damage-matched sets by tag and draw, and a sentence for each tag or draw that has none."""

    matches: tuple[DamageMatch, ...]
    notes: tuple[str, ...]

    def sets(self) -> dict[str, list[NeuronSet]]:
        """The sets of every tag that has any, by draw."""
        found: dict[str, list[NeuronSet]] = {}
        for each in self.matches:
            found.setdefault(each.tag, []).append(each.neurons)
        return found

    def to_frame(self) -> pd.DataFrame:
        """Columns tag, draw, neurons (how many), wanted, reached: how well the damage is matched."""
        import pandas as pd

        rows = [(each.tag, each.draw, len(each.neurons), each.wanted, each.reached) for each in self.matches]
        return pd.DataFrame(rows, columns=["tag", "draw", "neurons", "wanted", "reached"])

    def figure(self) -> go.Figure:
        """How well the damage is matched. Raises PosNeuronsError where no set was found."""
        from posneurons.effect_figures import damage

        return damage(self.to_frame())


def damage_matched(
    targets: Mapping[str, NeuronSet],
    pool: NeuronSet,
    damage: Damage,
    *,
    draws: int,
    rng: np.random.Generator,
    rounds: int = 1,
) -> DamageControls:
    """Random sets that do as much damage as each target, in three steps.

    1. A draw is a random order of the pool. Its first n neurons are measured for n = the smallest target's size, twice
       that, and so on, until the largest wanted damage is reached or the pool is at its end.
    2. The size for a wanted damage is interpolated between two measured sizes, linearly in both logarithms; below the
       first one, and where a damage is not positive, damage is taken to be proportional to size.
    3. The first so many neurons of the order are measured. With more rounds, what was measured joins the curve and the
       size is interpolated again; the closest is kept.

    Sets of one draw are nested. `wanted` and `reached` are both measured by `damage`: look at how far they are apart.

    Args:
        targets: the sets whose damage is wanted.
        pool: neurons that controls may hold; see `remaining`.
        damage: measures sets on a split that the lesions are not reported on.
        draws: how many sets for each target.
        rng: the source of randomness.
        rounds: how often sizes are interpolated and measured, at least 1.

    Returns:
        The sets that were found. A target that raises no loss, or more than a whole draw does, is noted instead.

    Raises:
        NeuronError: where there are no targets, the pool or a target is empty, or `rounds` is below 1.
    """
    if not targets or not len(pool) or not all(map(len, targets.values())):
        raise NeuronError(
            f"damage-matched sets: {len(targets)} targets and a pool of {len(pool)} neurons were given; expected at "
            "least one of each, and no empty target: choose fewer tags or fewer flags"
        )
    if rounds < 1:
        raise NeuronError(f"damage-matched sets: rounds={rounds}; expected at least 1")
    wanted = dict(zip(targets, damage(list(targets.values())).tolist(), strict=True))
    notes = [
        f"damage-matched sets: {tag}: its own set raises the mean loss by {each:.3g} nats; nothing to match"
        for tag, each in wanted.items()
        if not each > 0
    ]
    wanted = {tag: each for tag, each in wanted.items() if each > 0}
    if not wanted:
        return DamageControls((), tuple(notes))
    curves = [_Curve(pool, rng.permutation(len(pool)), {}) for _ in range(draws)]
    _grow(curves, min(map(len, targets.values())), max(wanted.values()), damage)
    pairs = [(tag, draw) for tag, each in wanted.items() for draw in range(draws) if curves[draw].highest() >= each]
    for tag, each in wanted.items():
        missing = draws - sum(tag == other for other, _ in pairs)
        if missing:
            notes.append(
                f"damage-matched sets: {tag}: {missing} of {draws} draws left out, for no size up to the {len(pool)} "
                f"neurons of the pool raises the mean loss by the {each:.3g} nats of its own set"
            )
    for _ in range(rounds):
        asked = {(draw, curves[draw].size_for(wanted[tag])) for tag, draw in pairs}
        _measure([(curves[draw], size) for draw, size in sorted(asked)], damage)
    return DamageControls(tuple(curves[draw].match(tag, draw + 1, wanted[tag]) for tag, draw in pairs), tuple(notes))


@dataclass(frozen=True, eq=False)
class _Curve:
    """A random order of the pool and the damage of its first n neurons for the sizes n measured so far."""

    pool: NeuronSet
    order: Int[ndarray, " candidate"]
    measured: dict[int, float]

    def first(self, size: int) -> NeuronSet:
        chosen = self.order[:size]
        return NeuronSet(self.pool.layers[chosen], self.pool.units[chosen])

    def highest(self) -> float:
        return max(self.measured.values(), default=-np.inf)

    def size_for(self, wanted: float) -> int:
        """Size at which the curve first reaches a damage that it does reach; a new one while there is one between."""
        sizes = sorted(self.measured)
        place = next(i for i, size in enumerate(sizes) if self.measured[size] >= wanted)
        above = sizes[place]
        below = sizes[place - 1] if place else 0
        if place and self.measured[below] > 0:
            ends = np.log([self.measured[below], self.measured[above]])
            size = np.exp(np.interp(np.log(wanted), ends, np.log([below, above])))
        else:
            size = above * wanted / self.measured[above]
        found = int(np.clip(round(float(size)), max(below, 1), above))
        return (below + above) // 2 if found in self.measured and above - below > 1 else found

    def match(self, tag: str, draw: int, wanted: float) -> DamageMatch:
        """The measured size whose damage is the fewest times above or below the wanted; the smallest of equals."""
        sizes = sorted(size for size, found in self.measured.items() if found > 0)
        size = min(sizes, key=lambda size: abs(np.log(self.measured[size] / wanted)))
        return DamageMatch(tag, draw, self.first(size), wanted, self.measured[size])


def _grow(curves: Sequence[_Curve], size: int, wanted: float, damage: Damage) -> None:
    """Measure ever larger sizes of the orders until each reaches a damage, or its end."""
    size = min(size, len(curves[0].order)) if curves else size
    while curves:
        _measure([(curve, size) for curve in curves], damage)
        curves = [curve for curve in curves if not curve.highest() >= wanted and size < len(curve.order)]
        size = min(int(np.ceil(size * GROWTH)), len(curves[0].order)) if curves else size


def _measure(asked: Sequence[tuple[_Curve, int]], damage: Damage) -> None:
    """Add the damage of the first `size` neurons to each curve that does not have it."""
    new = [(curve, size) for curve, size in asked if size not in curve.measured]
    if new:
        for (curve, size), found in zip(new, damage([curve.first(size) for curve, size in new]), strict=True):
            curve.measured[size] = float(found)
