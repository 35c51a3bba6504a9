"""Sums of attributions along paths over a corpus, with the same nodes for every batch.

How many nodes a layer needs is found on a pilot, some sentences drawn from the corpus, before the first batch. So what
a word is given does not depend on the words beside it, on the size of a batch, or on the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from posneurons import models
from posneurons.activations import sample_rows
from posneurons.attribution import Scene, scenes
from posneurons.distributed import shared
from posneurons.effects import EffectAccumulator
from posneurons.locality import can_be_local
from posneurons.memory import limit
from posneurons.path_runs import attributions
from posneurons.quadrature import EARLY, TOLERANCE, Completeness
from posneurons.records import Corpus
from posneurons.words import At, Path, Per, Rule, Target

PILOT = 128
"""Words of the pilot, where the corpus has as many."""

ENOUGH = 0.7 * TOLERANCE
"""Share that a layer may miss on the pilot, so that it stays below the tolerance on the corpus."""

MOST = 16
"""How many times the nodes asked for a layer may get."""

Taken = Callable[[Float[Tensor, "word neuron"]], Float[Tensor, "word neuron"]]


@dataclass(frozen=True)
class Integral:
    """What is integrated for which words, and in how many steps; see `integrated_gradients`."""

    at: At
    steps: int
    rule: Rule
    target: Target
    path: Path
    seed: int
    tokens: int


class Sums(NamedTuple):
    """What attributions were summed to, and how far they miss what they must add up to."""

    state: EffectAccumulator
    seen: Completeness

    def merged(self, other: Sums) -> Sums:
        """Those of the words of both."""
        return Sums(self.state.merged(other.state), self.seen.merged(other.seen))


def path_sums(
    model: Any, corpus: Corpus, integral: Integral, progress: bool, *, take: Taken | None = None, per: Per = "layer"
) -> Sums:
    """Sums over the words of a corpus of their attributions, or of what is taken of them.

    Args:
        model: what `load_model` gives.
        corpus: the words.
        integral: what is integrated.
        progress: show a bar.
        take: from attributions to what is summed; of the neurons of each layer, or of all layers in a row.
        per: "layer" or "model".

    Raises:
        PosNeuronsError: where attributions miss what they must add up to by more than 5 %.
    """
    found = _summed(model, corpus, integral, planned(model, corpus, integral), take=take, per=per, progress=progress)
    found.seen.check()
    return found


def planned(model: Any, corpus: Corpus, integral: Integral) -> dict[int, int]:
    """How many nodes each layer has (layer 0 stands for all on the joint path).

    With the rule of Gauss and Legendre they are doubled, up to 16 times as many, until a layer's attributions miss, on
    the pilot, by no more than 0.7 of what they may.
    """
    layers = range(models.describe(model).n_layers if integral.path == "layer" else 1)
    found = dict.fromkeys(layers, integral.steps)
    if integral.rule != "gauss_legendre":
        return found
    pilot = sample_rows(corpus, integral.at, PILOT, np.random.default_rng(integral.seed))
    short, how = found, _how(model, integral)
    while short:
        seen = Completeness()
        for scene in _scenes(model, pilot, integral):
            for _ in attributions(model, scene, short, **how, seen=seen):
                pass
        short = {
            layer: 2 * count
            for layer, count in short.items()
            if seen.words and seen.of(layer) > ENOUGH and 2 * count <= MOST * integral.steps
        }
        found = found | short
    return found


def _scenes(
    model: Any, corpus: Corpus, integral: Integral, per: Per = "layer", progress: bool = False
) -> Iterator[Scene]:
    whole = per == "model" or integral.path == "joint"
    room = limit(model, "path_all" if whole else "path", corpus.row_bounds)
    device, label = models.describe(model).device, "integrated gradients"
    return scenes(corpus, integral.at, device, tokens=integral.tokens, limit=room, progress=progress, label=label)


def _how(model: Any, integral: Integral) -> dict[str, Any]:
    return {"rule": integral.rule, "target": integral.target, "path": integral.path, "local": can_be_local(model)}


@shared(Sums.merged)
def _summed(
    model: Any,
    corpus: Corpus,
    integral: Integral,
    steps: Mapping[int, int],
    *,
    take: Taken | None,
    per: Per,
    progress: bool,
) -> Sums:
    info, seen, how = models.describe(model), Completeness(), _how(model, integral)
    state = EffectAccumulator(len(corpus.tags), info.n_layers, info.d_mlp, info.device)
    for scene in _scenes(model, corpus, integral, per, progress):
        found = attributions(model, scene, steps, **how, seen=seen)
        for layer, values in _taken(found, take, per):
            state.update(layer, scene.tags, scene.rows, values)
        seen.check(EARLY)
    return Sums(state, seen)


def _taken(
    found: Iterator[tuple[int, Float[Tensor, "word neuron"]]], take: Taken | None, per: Per
) -> Iterator[tuple[int, Float[Tensor, "word neuron"]]]:
    if take is None:
        yield from found
    elif per == "layer":
        yield from ((layer, take(values)) for layer, values in found)
    else:
        layers, parts = zip(*found, strict=True)
        together = torch.cat(parts, dim=1)
        del parts  # as large as what they were put together to
        by_layer = rearrange(take(together), "word (layer neuron) -> layer word neuron", layer=len(layers))
        yield from zip(layers, by_layer, strict=True)
