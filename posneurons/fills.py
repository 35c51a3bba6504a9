"""What ablated neurons are set to: constants, a part of their own value, or the values of a donor word.

A donor gives its values to all neurons of a set at once, so that what holds between them is kept. Each token of the
corpus has its donor, the same for every set, so that lesions are compared under the same draws, whatever the batches.
This module does not know how a set was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from posneurons import models
from posneurons.ablations import Edit, parse
from posneurons.activations import BATCH_TOKENS, stream, token_means
from posneurons.display import Shown
from posneurons.distributed import shared
from posneurons.errors import AlignmentError
from posneurons.neurons import NeuronSet
from posneurons.passes import tag_moments
from posneurons.records import Corpus
from posneurons.words import At, Scope

DONORS = 2048
"""Training words whose values are kept for resampling."""


@dataclass(frozen=True)
class Donors:
    """Values of neurons at donor words, and which donor each token of a corpus has.

    Attributes:
        units: per layer the units that are known, ascending.
        values: per layer what those units are at each donor.
        choice: donor of each token of the corpus (after BOS).
    """

    units: Mapping[int, Int[Tensor, " _"]]
    values: Mapping[int, Float[Tensor, "donor _"]]
    choice: Int[Tensor, " token"]


@dataclass(frozen=True, repr=False)
class Fill(Shown):
    """The new value of an ablated neuron: scale * its value + offset, or its value at the token's donor.

    Attributes:
        offset: nothing is 0.
        scale: 0 for a constant.
        donors: where values come from other words; then `offset` and `scale` are not used.
    """

    offset: Float[Tensor, "layer neuron"] | None = None
    scale: float = 0.0
    donors: Donors | None = None

    def new(
        self, layer: int, units: Int[Tensor, " k"], live: Float[Tensor, "place k"], token: Int[Tensor, " place"]
    ) -> Float[Tensor, "place k"]:
        """New values of some units at some places, in the dtype of `live`; `token` is each place's number."""
        if self.donors is not None:
            columns = torch.searchsorted(self.donors.units[layer], units)
            found = self.donors.values[layer][self.donors.choice[token]][:, columns]
            return found.to(live.dtype)
        scaled = self.scale * live if self.scale else torch.zeros_like(live)
        return scaled if self.offset is None else scaled + self.offset.to(live.device)[layer, units].to(live.dtype)


ZERO = Fill()
"""Neurons are set to 0."""


class Condition(NamedTuple):
    """One lesion: a set of neurons, what they are set to, and where.

    `fills` are alternatives, such as the draws of a donor: the loss under the condition is its mean over them. `scope`
    is "all" positions after BOS, or "local": each loss is that of a lesion at the one position it is read from.
    """

    neurons: NeuronSet
    fills: tuple[Fill, ...] = (ZERO,)
    scope: Scope = "all"


def make_fills(
    model: Any,
    train: Corpus,
    test: Corpus,
    ablation: str | Edit,
    neurons: NeuronSet,
    *,
    at: At = "predict",
    seed: int = 0,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> tuple[Fill, ...]:
    """What an ablation sets neurons to: one fill, or one for each draw of a donor.

    Args:
        model: what `load_model` gives.
        train: words from which means and donors are taken.
        test: words that will be lesioned.
        ablation: a name with options, as `posneurons.ablations.parse` reads it.
        neurons: all neurons that will be ablated; read for resampling only.
        at: where the words of the balanced mean are read.
        seed: of the donors.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        NeuronError: where the ablation is unknown, or a neuron lies outside the model.
        AlignmentError: where a corpus does not fit the model, or has no word that can be a donor.
    """
    edit = parse(ablation)
    how: dict[str, Any] = {"tokens": tokens, "progress": progress}
    info = models.describe(model)
    if edit.name == "mean":
        return (Fill(token_means(model, train, **how)),)
    if edit.name == "balanced_mean":
        moments = tag_moments(model, train, at=(at,), **how)[at]
        if not (moments.count > 0).any():
            raise AlignmentError(f"{train.name}: no word to read at {at!r} for a mean; give longer sentences")
        balanced = moments.mean[moments.count > 0].mean(0)
        return (Fill(torch.from_numpy(balanced).float().to(info.device)),)
    if edit.name == "clamp":
        return (Fill(torch.full((info.n_layers, info.d_mlp), edit.value, device=info.device)),)
    if edit.name == "scale":
        return (Fill(scale=edit.factor),)
    return (ZERO,) if edit.name == "zero" else _donor_fills(model, train, test, edit, neurons, seed, how)


def _donor_fills(
    model: Any, train: Corpus, test: Corpus, edit: Edit, neurons: NeuronSet, seed: int, how: Mapping[str, Any]
) -> tuple[Fill, ...]:
    rng = np.random.default_rng(seed)
    readable = train.readable("predict")
    if not len(readable):
        raise AlignmentError(f"{train.name}: no word that could be a donor; give longer sentences")
    donors = np.sort(rng.choice(readable, min(DONORS, len(readable)), replace=False))
    info = models.describe(model)
    neurons.check(info.n_layers, info.d_mlp)
    units = {layer: torch.from_numpy(np.sort(each)).to(info.device) for layer, each in neurons.by_layer().items()}
    values = _values_at(model, train, donors, units, **how)
    return tuple(
        Fill(donors=Donors(units, values, torch.from_numpy(choice).to(info.device)))
        for choice in _choices(test, train.word_tag[donors], edit, rng)
    )


def _together(a: dict[int, Tensor], b: dict[int, Tensor]) -> dict[int, Tensor]:
    """The values at the words of both: what one has not seen is 0 in it."""
    return {layer: a[layer] + b[layer] for layer in a}


@shared(_together)
def _values_at(
    model: Any,
    corpus: Corpus,
    words: Int[ndarray, " donor"],
    units: Mapping[int, Tensor],
    *,
    tokens: int,
    progress: bool,
) -> dict[int, Float[Tensor, "donor _"]]:
    """What some units are before some words of a corpus; only the rows that hold these words are run."""
    device = models.describe(model).device
    rows = np.zeros(corpus.n_rows, dtype=bool)
    rows[corpus.word_row[words]] = True
    number = np.cumsum(rows[corpus.word_row]) - 1  # of a word of `corpus` among those rows
    place = torch.full((int(number[-1]) + 1,), -1, device=device)
    place[torch.from_numpy(number[words]).to(device)] = torch.arange(len(words), device=device)
    values = {layer: torch.zeros(len(words), len(each), device=device) for layer, each in units.items()}

    def keep(layer: int, at: At, found: Tensor, acts: Tensor) -> None:  # noqa: ARG001
        if layer in units:
            wanted = place[found] >= 0
            values[layer][place[found[wanted]]] = acts[wanted][:, units[layer]].float()

    stream(model, corpus.select(rows), keep, tokens=tokens, progress=progress)
    return values


def _choices(
    test: Corpus, donor_tag: Int[ndarray, " donor"], edit: Edit, rng: np.random.Generator
) -> list[Int[ndarray, " token"]]:
    """Per draw the donor of each token: any, or, where a word is predicted, one of another tag than that word."""
    draws = [rng.integers(len(donor_tag), size=len(test.tokens)) for _ in range(edit.draws)]
    if edit.donor == "any":
        return draws
    words = test.readable("predict")
    token = test.row_bounds[test.word_row[words]] + test.word_first[words] - 2  # the one before the word's first
    for tag in np.unique(test.word_tag[words]):
        others = np.flatnonzero(donor_tag != tag)
        if not len(others):
            raise AlignmentError(
                f"{test.name}: no training word has another tag than {test.tags[tag]}; resample with donor=any"
            )
        here = token[test.word_tag[words] == tag]
        for draw in draws:
            draw[here] = others[rng.integers(len(others), size=len(here))]
    return draws
