"""How well a ranking method finds neurons that are known to work, and how far decoys take it in.

A method is scored on a `Planted` model, tag by tag: do the neurons that work for the tag come before all others
(AUROC), are they at the very top (precision at k, recall at 5k), and do decoys come before neurons that are nothing
special? One call scores a method of one's own: any function of (model, corpus) that gives a `Ranking`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import rankdata

from posneurons import models, workflow
from posneurons.activations import BATCH_TOKENS, batches
from posneurons.display import Shown
from posneurons.errors import PosNeuronsError
from posneurons.neurons import NeuronSet
from posneurons.planted import Planted
from posneurons.records import Corpus, Ranking

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Scoreable = str | Callable[[Any, Corpus], Ranking]
"""A name as `rank` takes it, or a function of (model, corpus); it ranks on the split "train" by its own choice."""


@dataclass(frozen=True, repr=False)
class MethodScore(Shown):
    """How one method does on one planted model; arrays have one entry for each of `tags`.

    Attributes:
        method: its name.
        planted: the model's name.
        tags: those with neurons to find.
        auroc: chance that a neuron of the tag comes before one that is not, ties counting half; 0.5 says nothing.
        precision: share of the k best that are the tag's neurons, k being their number unless asked otherwise.
        recall: share of the tag's neurons that are among the 5k best.
        decoy_auroc: by kind of decoy ("all" for all kinds together), the chance that a decoy comes before a neuron that
            is neither planted nor a decoy: 0.5 is ideal, 1 is taken in, and below is no harm; NaN where there is none.
            Of the copies, only the tag's own count.
        seconds: time taken.
        passes: the same in bare forward passes over the split "train".
    """

    method: str
    planted: str
    tags: tuple[str, ...]
    auroc: Float[ndarray, " tag"]
    precision: Float[ndarray, " tag"]
    recall: Float[ndarray, " tag"]
    decoy_auroc: Mapping[str, Float[ndarray, " tag"]]
    seconds: float
    passes: float

    def summary(self) -> dict[str, float | str]:
        """Means over tags, in a flat row for a table."""
        return {
            "method": self.method,
            "auroc": float(self.auroc.mean()),
            "precision": float(self.precision.mean()),
            "recall": float(self.recall.mean()),
            **{f"decoys: {kind}": float(values.mean()) for kind, values in self.decoy_auroc.items()},
            "seconds": self.seconds,
            "passes": self.passes,
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per tag: method, planted, tag, auroc, precision, recall, and a column for each kind of decoy."""
        import pandas as pd

        measured = {"auroc": self.auroc, "precision": self.precision, "recall": self.recall}
        decoys = {f"decoys: {kind}": values for kind, values in self.decoy_auroc.items()}
        return pd.DataFrame({"method": self.method, "planted": self.planted, "tag": self.tags, **measured, **decoys})

    def figure(self) -> go.Figure:
        """How well each tag's neurons are found, and how far decoys take the method in."""
        from posneurons.agreement_figures import found

        columns = {"AUROC": self.auroc, "precision": self.precision, "recall": self.recall}
        return found(self.tags, columns, self.decoy_auroc)


def auroc(
    scores: Float[ndarray, " neuron"], wanted: Bool[ndarray, " neuron"], others: Bool[ndarray, " neuron"]
) -> float:
    """Chance that one of `wanted` scores above one of `others`, ties counting half; NaN where either is empty.

    >>> auroc(np.array([3.0, 1.0, 2.0]), np.array([True, False, False]), np.array([False, True, True]))
    1.0
    """
    n, rest = int(wanted.sum()), int(others.sum())
    if not n or not rest:
        return float("nan")
    ranks = rankdata(np.concatenate([scores[wanted], scores[others]]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * rest))


def score_method(
    method: Scoreable,
    planted: Planted,
    *,
    k: int | None = None,
    seed: int = 0,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
    **options: Any,
) -> MethodScore:
    """Rank a planted model's neurons by a method and compare with what is known.

    Neurons whose score is undefined (NaN) come last, all alike, and never count as found.

    Args:
        method: a name as `rank` takes it, with options or without, or a function of (model, corpus) that gives a
            Ranking.
        planted: a model with known answers.
        k: how many of the best are looked at; None is the number of the tag's neurons.
        seed: of what a named method draws.
        tokens: size of a named method's batch.
        progress: show the bars of a named method.
        **options: of a named method.

    Raises:
        PosNeuronsError: where the method is unknown, the model lacks what it needs, or its ranking is of other tags or
            neurons than the model's.
    """
    begin = time.perf_counter()
    if callable(method):
        ranking = method(planted.model, planted.corpus)
    else:
        how: dict[str, Any] = {"at": planted.at, "seed": seed, "tokens": tokens, "progress": progress, **options}
        ranking = workflow.rank(planted.model, planted.corpus, method, **how)
    seconds = time.perf_counter() - begin
    _check(ranking, planted)
    rows = [_score_tag(ranking, planted, tag, k) for tag in planted.truth]
    return MethodScore(
        method=ranking.method,
        planted=planted.name,
        tags=tuple(planted.truth),
        auroc=np.array([row["auroc"] for row in rows]),
        precision=np.array([row["precision"] for row in rows]),
        recall=np.array([row["recall"] for row in rows]),
        decoy_auroc={kind: np.array([row[kind] for row in rows]) for kind in ("all", *planted.decoys)},
        seconds=seconds,
        passes=seconds / _bare_pass(planted, tokens),
    )


def _check(ranking: Ranking, planted: Planted) -> None:
    info = models.describe(planted.model)
    missing = [tag for tag in planted.truth if tag not in ranking.tags]
    if missing:
        raise PosNeuronsError(
            f"score_method: {ranking.method!r} ranks nothing for {missing[0]!r}; expected {', '.join(planted.truth)}"
        )
    if ranking.scores.shape[1:] != (info.n_layers, info.d_mlp):
        raise PosNeuronsError(
            f"score_method: {ranking.method!r} ranks {ranking.scores.shape[1]} layers of {ranking.scores.shape[2]} "
            f"neurons; expected the model's {info.n_layers} of {info.d_mlp}"
        )


def _score_tag(ranking: Ranking, planted: Planted, tag: str, k: int | None) -> dict[str, float]:
    merit = np.nan_to_num(ranking.merit(tag).ravel(), nan=-np.inf, posinf=np.inf, neginf=-np.inf)

    def member(*sets: NeuronSet) -> Bool[ndarray, " neuron"]:
        found = np.zeros(len(merit), dtype=bool)
        for each in sets:
            found[each.flat(ranking.scores.shape[2])] = True
        return found

    true, aside = member(planted.truth[tag]), member(planted.ignored)
    plain = ~(member(*planted.truth.values(), *planted.decoys.values()) | aside)
    kinds = {kind: member(planted.copies.get(tag, each) if kind == "read_only" else each)
             for kind, each in planted.decoys.items()}  # fmt: skip
    kinds["all"] = np.logical_or.reduce(list(kinds.values()))
    order = ranking.order(tag)
    order = order[~aside[order]]
    size = k or int(true.sum())
    return {
        "auroc": auroc(merit, true, ~true & ~aside),
        "precision": float(true[order[:size]].sum() / size),
        "recall": float(true[order[: 5 * size]].sum() / true.sum()),
        **{kind: auroc(merit, each, plain) for kind, each in kinds.items()},
    }


@torch.no_grad()
def _bare_pass(planted: Planted, tokens: int) -> float:
    """Seconds for one forward pass over "train" that reads nothing."""
    begin = time.perf_counter()
    for batch in batches(planted.corpus.split("train"), models.describe(planted.model).device, tokens):
        models.residual(planted.model, batch.tokens)[0, 0, 0].item()
    return time.perf_counter() - begin
