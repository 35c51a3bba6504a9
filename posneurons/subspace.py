"""What sets of neurons write: the spans of their output weights, and the direction in which a tag's neurons write.

Sets that share no neuron may still write the same directions. Beside every figure stand two rivals: spans or directions
in random position, in closed form, and other sets of the same model, of which `overlap.relabelled` gives those with the
same sizes, layers and shared neurons.

All directions are raw rows of W_out: what later layers and the final norm make of them is not seen, nor how strongly
a neuron is active, but for `directions` with moments.

Sources: Bjorck and Golub 1973, Math. Comp. 27:579 (principal angles).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from posneurons import dissociation, models, significance
from posneurons.display import Shown
from posneurons.errors import NeuronError
from posneurons.neurons import NeuronSet
from posneurons.ranking import mean_difference
from posneurons.records import Ranking, TagMoments
from posneurons.weights import output_weights

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_DIGITS = 12
"""Decimals to which overlaps and cosines are rounded before they are compared with their controls."""


@torch.no_grad()
def written(model: Any, neurons: NeuronSet) -> Float[ndarray, "k d_model"]:
    """What each neuron adds to the residual stream per unit of activation, float64, in the order of the set.

    Raises:
        NeuronError: where a neuron lies outside the model.
    """
    info = models.describe(model)
    neurons.check(info.n_layers, info.d_mlp)
    rows = np.empty((len(neurons), info.d_model))
    for layer in np.unique(neurons.layers).tolist():
        place = np.flatnonzero(neurons.layers == layer)
        weights = output_weights(model, layer)
        units = torch.from_numpy(neurons.units[place]).to(weights.device)
        rows[place] = weights[units].float().cpu().numpy()
    return rows


def principal_angles(
    model: Any, keys: Mapping[str, NeuronSet], controls: Sequence[Mapping[str, NeuronSet]] = ()
) -> pd.DataFrame:
    """Angles between the spans of what two sets write, in the space of the residual stream.

    A shared neuron makes one angle 0, so use controls that share as many (`overlap.relabelled`) to ask whether the
    spans are closer than that. Says nothing where a span fills the space: sets should be small against d_model.

    Args:
        model: what `load_model` gives.
        keys: tag to its neurons.
        controls: families of other sets with the same tags.

    Returns:
        One row per unordered pair. Columns: tag_a, tag_b, dim_a, dim_b (of the spans), shared (neurons),
        smallest_angle, mean_angle (degrees, over the smaller dimension), overlap (mean squared cosine, 0 to 1),
        random_overlap (of spans of these dimensions in random position: the larger dimension / d_model),
        control_overlap (mean over controls), p_value (one-sided, that a control overlaps as much), q_value
        (Benjamini-Hochberg over all pairs). NaN where a span has no dimension, or there are no controls.

    Raises:
        NeuronError: where a neuron lies outside the model, or a control lacks a tag.
    """
    import pandas as pd
    from scipy.linalg import subspace_angles

    pairs = list(combinations(keys, 2))
    spans = {tag: _span(model, neurons) for tag, neurons in keys.items()}
    overlap = _span_overlaps(spans, pairs)
    chance = np.empty((len(controls), len(pairs)))
    for number, control in enumerate(controls):
        _check_control(keys, control)
        chance[number] = _span_overlaps({tag: _span(model, control[tag]) for tag in keys}, pairs)
    rows = []
    for (a, b), value in zip(pairs, overlap.tolist(), strict=True):
        dims = spans[a].shape[1], spans[b].shape[1]
        angles = np.degrees(subspace_angles(spans[a], spans[b])) if min(dims) else np.array([np.nan])
        shared = len(set(keys[a]) & set(keys[b]))
        rows.append((a, b, *dims, shared, angles.min(), angles.mean(), value, max(dims) / spans[a].shape[0]))
    columns = ["tag_a", "tag_b", "dim_a", "dim_b", "shared", "smallest_angle", "mean_angle", "overlap"]
    frame = pd.DataFrame(rows, columns=[*columns, "random_overlap"])
    p = dissociation.rank_p(overlap, chance)
    return frame.assign(control_overlap=_mean(chance), p_value=p, q_value=significance.q_values(p))


def _span(model: Any, neurons: NeuronSet) -> Float[ndarray, "d_model dim"]:
    """Orthonormal columns that span what the neurons write; no column where they write nothing."""
    from scipy.linalg import orth

    rows = written(model, neurons)
    return np.asarray(orth(rows.T)) if rows.any() else np.empty((rows.shape[1], 0))


def _span_overlaps(spans: Mapping[str, ndarray], pairs: Sequence[tuple[str, str]]) -> Float[ndarray, " pair"]:
    """Mean squared cosine of the principal angles of each pair; NaN where a span has no dimension."""
    found = np.full(len(pairs), np.nan)
    for number, (a, b) in enumerate(pairs):
        if smaller := min(spans[a].shape[1], spans[b].shape[1]):
            found[number] = np.square(spans[a].T @ spans[b]).sum() / smaller
    return np.round(found, _DIGITS)


def _check_control(keys: Mapping[str, NeuronSet], control: Mapping[str, NeuronSet]) -> None:
    if missing := [tag for tag in keys if tag not in control]:
        raise NeuronError(f"controls: no set for {missing[0]}; expected one for each of {', '.join(keys)}")


def _mean(chance: Float[ndarray, "draw pair"]) -> Float[ndarray, " pair"]:
    return chance.mean(0) if len(chance) else np.full(chance.shape[1], np.nan)


@dataclass(frozen=True, repr=False)
class Directions(Shown):
    """One unit vector of the residual stream per tag, from `directions`; NaN for a tag whose neurons write nothing."""

    tags: tuple[str, ...]
    vectors: Float[ndarray, "tag d_model"]

    def cosines(self) -> pd.DataFrame:
        """Cosine of every pair, tags as rows and columns; -1 to 1."""
        import pandas as pd

        return pd.DataFrame((self.vectors @ self.vectors.T).clip(-1, 1), index=self.tags, columns=list(self.tags))

    def figure(self, controls: Sequence[Directions] = ()) -> go.Figure:
        """Cosine of every pair. Raises NeuronError where a control has other tags, RunError for fewer than two tags."""
        from posneurons.overlap_figures import cosine_matrix

        return cosine_matrix(self.to_frame(controls), self.tags)

    def to_frame(self, controls: Sequence[Directions] = ()) -> pd.DataFrame:
        """One row per unordered pair, beside the directions of control sets with the same tags in the same order.

        Columns: tag_a, tag_b, cosine, random_cosine (mean absolute cosine of random directions, sqrt(2 / (pi
        d_model))), control_cosine (mean absolute cosine over controls), p_value (that a control's absolute cosine is as
        large), q_value (Benjamini-Hochberg over all pairs). NaN without controls.

        Raises:
            NeuronError: where a control has other tags.
        """
        import pandas as pd

        for control in controls:
            if control.tags != self.tags:
                raise NeuronError(f"controls: tags {', '.join(control.tags)}; expected {', '.join(self.tags)}")
        pairs = list(combinations(range(len(self.tags)), 2))
        a, b = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        cosine = np.round(self.cosines().to_numpy()[a, b], _DIGITS)
        chance = np.array([np.round(np.abs(each.cosines().to_numpy()[a, b]), _DIGITS) for each in controls])
        chance = chance.reshape(len(controls), len(pairs))
        p = dissociation.rank_p(np.abs(cosine), chance)
        return pd.DataFrame(
            {
                "tag_a": [self.tags[number] for number in a],
                "tag_b": [self.tags[number] for number in b],
                "cosine": cosine,
                "random_cosine": np.sqrt(2 / (np.pi * self.vectors.shape[1])),
                "control_cosine": _mean(chance),
                "p_value": p,
                "q_value": significance.q_values(p),
            }
        )


def directions(
    model: Any, keys: Mapping[str, NeuronSet], *, ranking: Ranking | None = None, moments: TagMoments | None = None
) -> Directions:
    """The direction in which each tag's neurons write together: a weighted sum of their output weights, made a unit.

    A neuron's weight is its score for the tag, as distance from what says nothing (`ranking`); its mean over the tag's
    words minus that over the rest (`moments`): then the sum is what the set writes more at the tag than elsewhere; with
    both, the absolute score with the sign of that difference; with neither, 1.

    Args:
        model: what `load_model` gives.
        keys: tag to its neurons.
        ranking: of all neurons for the same tags.
        moments: of all neurons for the same tags.

    Raises:
        NeuronError: where a neuron lies outside the model, or a tag has no scores or moments.
    """
    rises = None if moments is None else mean_difference(moments)
    found = np.full((len(keys), models.describe(model).d_model), np.nan)
    for number, (tag, neurons) in enumerate(keys.items()):
        rows, where = written(model, neurons), (neurons.layers, neurons.units)
        weights = np.ones(len(neurons))
        if ranking is not None:
            weights = ranking.scores[_place(tag, ranking.tags)][where].astype(np.float64) - ranking.neutral
        if moments is not None and rises is not None:
            rise = rises[_place(tag, moments.tags)][where]
            weights = rise if ranking is None else np.abs(weights) * np.sign(rise)
        total = weights @ rows
        if (length := np.linalg.norm(total)) > 0:
            found[number] = total / length
    return Directions(tuple(keys), found)


def _place(tag: str, tags: tuple[str, ...]) -> int:
    if tag not in tags:
        raise NeuronError(f"directions: no scores or moments for {tag!r}; expected one of {', '.join(tags)}")
    return tags.index(tag)
