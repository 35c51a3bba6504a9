"""How tags share neurons: overlap of their sets beside chance, their layers, and over how many tags a neuron is spread.

Sets that share more than chance gives cannot be lesioned apart, so these tables belong beside every claim of a double
dissociation. Chance is that of random sets with as many neurons, in each layer or in all, in closed form; `relabelled`
gives random sets that share as much as the real ones, for questions about what is left.

A random set is a weak rival: scores of one neuron for different tags depend on each other, since its words are the same
and the tags exclude each other. A small p says that the sharing is not that of random sets, and no more. This module
knows sets and scores, and no models.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons import significance
from posneurons.errors import NeuronError
from posneurons.neurons import NeuronSet
from posneurons.records import Ranking
from posneurons.words import Per

if TYPE_CHECKING:
    import pandas as pd


def overlaps(keys: Mapping[str, NeuronSet], n_layers: int, n_units: int, *, per: Per = "layer") -> pd.DataFrame:
    """How many neurons each pair of sets shares, beside what two random sets would.

    Args:
        keys: tag to its neurons.
        n_layers: layers of the model.
        n_units: neurons in each layer.
        per: what a random set keeps: its number of neurons in each layer ("layer"), or only over the "model".

    Returns:
        One row per unordered pair. Columns: tag_a, tag_b, size_a, size_b, shared (neurons), jaccard (shared / either),
        overlap_coefficient (shared / the smaller size), expected (neurons that random sets share on average), p_value
        (that random sets share as many or more: one-sided, of a hypergeometric, or of a sum of one per layer), q_value
        (Benjamini-Hochberg over all pairs). NaN where a set is empty.

    Raises:
        NeuronError: where `per` is unknown or a neuron lies outside the model.
    """
    import pandas as pd

    if per not in get_args(Per):
        raise NeuronError(f"overlaps: per={per!r}; expected one of {', '.join(get_args(Per))}")
    for neurons in keys.values():
        neurons.check(n_layers, n_units)
    rows = [_overlap(a, b, keys, n_layers, n_units, per) for a, b in combinations(keys, 2)]
    columns = ["tag_a", "tag_b", "size_a", "size_b", "shared", "jaccard", "overlap_coefficient", "expected", "p_value"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(q_value=significance.q_values(frame["p_value"].to_numpy(dtype=np.float64)))


def _overlap(
    tag_a: str, tag_b: str, keys: Mapping[str, NeuronSet], n_layers: int, n_units: int, per: Per
) -> dict[str, Any]:
    a, b = keys[tag_a], keys[tag_b]
    shared = len(set(a) & set(b))
    if per == "layer":
        sizes, among = (a.layer_profile(n_layers), b.layer_profile(n_layers)), n_units
    else:
        sizes, among = (np.array([len(a)]), np.array([len(b)])), n_layers * n_units
    some = bool(len(a) and len(b))
    return {
        "tag_a": tag_a,
        "tag_b": tag_b,
        "size_a": len(a),
        "size_b": len(b),
        "shared": shared,
        "jaccard": a.jaccard(b),
        "overlap_coefficient": shared / min(len(a), len(b)) if some else np.nan,
        "expected": float((sizes[0] * sizes[1]).sum() / among) if some else np.nan,
        "p_value": min(1.0, float(_chance_of_sharing(*sizes, among)[shared:].sum())) if some else np.nan,
    }


def _chance_of_sharing(
    sizes_a: Int[ndarray, " cell"], sizes_b: Int[ndarray, " cell"], among: int
) -> Float[ndarray, " count"]:
    """P(so many shared), 0 upwards, where each cell has `among` neurons and sets draw theirs without replacement."""
    from scipy.stats import hypergeom

    chance = np.ones(1)
    for a, b in zip(sizes_a.tolist(), sizes_b.tolist(), strict=True):
        if a and b:
            chance = np.convolve(chance, hypergeom.pmf(np.arange(min(a, b) + 1), among, a, b))
    return chance


def layer_profiles(keys: Mapping[str, NeuronSet], n_layers: int) -> pd.DataFrame:
    """How many neurons of each tag's set (rows) lie in each layer (columns).

    Raises:
        NeuronError: where a neuron lies in a layer that the model does not have.
    """
    import pandas as pd

    for tag, neurons in keys.items():
        for name, layer in zip(neurons.names, neurons.layers.tolist(), strict=True):
            if not 0 <= layer < n_layers:
                raise NeuronError(
                    f"neuron {name} of {tag}: the model has layers 0 to {n_layers - 1}; "
                    "were these neurons found in another model?"
                )
    counts = [neurons.layer_profile(n_layers) for neurons in keys.values()]
    return pd.DataFrame(
        np.array(counts, dtype=np.int64).reshape(-1, n_layers),
        index=pd.Index(keys, name="tag", dtype=object),
        columns=pd.RangeIndex(n_layers, name="layer"),
    )


def participation_ratio(values: Float[ndarray, " tag *cell"]) -> Float[ndarray, "*cell"]:
    """Over how many tags absolute values are spread: (sum |s|)**2 / sum s**2, from 1 (one tag) to all of them.

    NaN values are left out; NaN where none is left, or all are 0. Independent normal values of K tags give about
    2 K / pi: it is that, and not 1, which a neuron that knows nothing scores.

    >>> participation_ratio(np.array([[1.0, 2.0], [1.0, 0.0]])).tolist()
    [2.0, 1.0]
    """
    sizes = np.nan_to_num(np.abs(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sizes.sum(0) ** 2 / (sizes**2).sum(0))


def participation(keys: Mapping[str, NeuronSet], ranking: Ranking | None = None) -> pd.DataFrame:
    """In how many tags' sets each neuron is, and over how many tags its scores are spread.

    Args:
        keys: tag to its neurons.
        ranking: whose scores, as distances from what says nothing, give the `participation_ratio`; None for NaN.

    Returns:
        One row per neuron of any set, those of the most sets first, then by layer and unit. Columns: neuron (its name),
        layer, unit, n_tags, tags (with spaces between), participation_ratio.

    Raises:
        NeuronError: where a neuron lies outside the model of the ranking.
    """
    import pandas as pd

    owners: dict[tuple[int, int], list[str]] = {}
    for tag, neurons in keys.items():
        for pair in zip(neurons.layers.tolist(), neurons.units.tolist(), strict=True):
            owners.setdefault(pair, []).append(tag)
    order = sorted(owners, key=lambda pair: (-len(owners[pair]), pair))
    everyone = NeuronSet.from_pairs(order)
    ratios = np.full(len(order), np.nan)
    if ranking is not None:
        everyone.check(*ranking.scores.shape[1:])
        scores = ranking.scores[:, everyone.layers, everyone.units].astype(np.float64)
        ratios = participation_ratio(scores - ranking.neutral)
    return pd.DataFrame(
        {
            "neuron": np.array(everyone.names, dtype=object),
            "layer": everyone.layers,
            "unit": everyone.units,
            "n_tags": np.array([len(owners[pair]) for pair in order], dtype=np.int64),
            "tags": np.array([" ".join(owners[pair]) for pair in order], dtype=object),
            "participation_ratio": ratios,
        }
    )


def relabelled(
    keys: Mapping[str, NeuronSet],
    draws: int,
    rng: np.random.Generator,
    *,
    n_layers: int,
    n_units: int,
    exclude: NeuronSet | None = None,
) -> list[dict[str, NeuronSet]]:
    """The same sets of other neurons: each neuron becomes a random one of its layer, the same one in all sets.

    Sizes, layers and what any two sets share stay as they are, so that a difference from these controls is due to the
    neurons themselves. (Random sets drawn one by one share next to nothing.)

    Args:
        keys: tag to its neurons.
        draws: how many such families of sets.
        rng: the source of randomness.
        n_layers: layers of the model.
        n_units: neurons in each layer.
        exclude: neurons that no draw may contain; None for those of all sets.

    Raises:
        NeuronError: where a layer has fewer neurons left than are needed.
    """
    everyone = NeuronSet.parse([]).union(*keys.values())
    found = []
    for drawn in everyone.matched_random(draws, rng, n_layers=n_layers, n_units=n_units, exclude=exclude):
        pairs = zip(drawn.layers.tolist(), drawn.units.tolist(), strict=True)  # partner i stands at place i
        partner = dict(zip(everyone.names, pairs, strict=True))
        found.append({tag: NeuronSet.from_pairs(partner[name] for name in neurons) for tag, neurons in keys.items()})
    return found
