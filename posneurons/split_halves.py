"""How far a ranking would come out again: on other words of the same kind, and where there is nothing to find.

Two questions, each by ranking once more with everything else left as it is. Two halves of the corpus, no document in
common: do they order the neurons alike? Tags permuted over the words: which scores does chance reach? Only `rank` is
called, so that every method can be asked. This module does not know how a method scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from tqdm.auto import tqdm

from posneurons.activations import BATCH_TOKENS
from posneurons.agreement import spearman
from posneurons.display import Shown
from posneurons.errors import PosNeuronsError
from posneurons.records import Corpus, Ranking
from posneurons.words import At
from posneurons.workflow import rank

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class Reliability(Shown):
    """Per tag, how reliable the ranking by one method is; NaN for a tag without words.

    A neuron's key is what it is ordered by: its score, or the distance of that from what says nothing.

    Attributes:
        method, at, split, draws, seed: of the rankings.
        tags: names, along the only axis.
        words: of each tag behind the ranking of the whole split.
        defined: neurons with a score in that ranking.
        correlation: Spearman correlation of the scores in two halves, over the neurons that have one in both, -1..1;
            mean over draws. NaN where fewer than three do, or all are equal.
        corrected: what the whole split would reach, 2 r / (1 + r) (Spearman and Brown 1910); NaN for r < 0.
        k: neurons that the overlap counts: what was asked for, or as many as have a score in both halves.
        overlap: share of the best k of one half that are among the best k of the other, 0..1; mean over draws.
        chance: the overlap expected of k neurons of the model drawn at random twice.
        null_95, null_max: 95th percentile and maximum of the key under permuted tags, over neurons and draws.
        exceeding: neurons whose key in the real ranking is above `null_max`; all with a score, where chance gives none.
            Were there nothing to find, a tag would have any with probability 1 / (d + 1), d being the draws.
    """

    method: str
    at: At
    split: str
    draws: int
    seed: int
    tags: tuple[str, ...]
    words: Int[ndarray, " tag"]
    defined: Int[ndarray, " tag"]
    correlation: Float[ndarray, " tag"]
    corrected: Float[ndarray, " tag"]
    k: Int[ndarray, " tag"]
    overlap: Float[ndarray, " tag"]
    chance: Float[ndarray, " tag"]
    null_95: Float[ndarray, " tag"]
    null_max: Float[ndarray, " tag"]
    exceeding: Int[ndarray, " tag"]

    def to_frame(self) -> pd.DataFrame:
        """One row per tag: method, at, tag, and the attributes above that have a value for each."""
        import pandas as pd

        names = ("words", "defined", "correlation", "corrected", "k", "overlap", "chance", "null_95", "null_max")
        columns = {name: getattr(self, name) for name in (*names, "exceeding")}
        return pd.DataFrame({"method": self.method, "at": self.at, "tag": self.tags, **columns})

    def figure(self) -> go.Figure:
        """Whether two halves of the corpus agree on each tag's neurons, beside chance."""
        from posneurons.agreement_figures import reliable

        return reliable(self.to_frame())


def reliability(
    model: Any,
    corpus: Corpus,
    method: str = "correlation",
    *,
    at: At = "predict",
    split: str = "train",
    seed: int = 0,
    k: int = 50,
    draws: int = 1,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
    **options: Any,
) -> Reliability:
    """Rank a split, random halves of it, and the same with permuted tags, and compare.

    Costs 1 + 2 draws times the ranking. Halves share no document (no sentence, where no documents are marked). Tags are
    permuted over single words: that breaks their order in the sentence too, so that words are as good as independent
    under the null, and a method that gains from runs of a tag is judged too kindly. Scores that grow with the number of
    words, as t does, are compared at the same number; a method whose score is only an order (`gaussian`) exceeds the
    null where it selects more neurons than chance would.

    Args:
        model: what `load_model` gives.
        corpus: aligned words.
        method: a name of `posneurons.methods.METHODS`, also with options.
        at: where each word is read.
        split: the split to rank on.
        seed: of the halves, the permutations and what the method draws.
        k: neurons at the top whose overlap is counted.
        draws: how many times the corpus is halved, and its tags are permuted.
        tokens: size of a batch.
        progress: show bars.
        **options: of the method.

    Raises:
        PosNeuronsError: where k or draws is below 1, a half is empty, or `rank` raises it.
        AlignmentError: where the split is missing or the corpus does not fit the model.
    """
    if k < 1 or draws < 1:
        raise PosNeuronsError(f"reliability: k={k}, draws={draws}; expected at least 1 of each")
    part = corpus.split(split)
    how = {"at": at, "split": split, "seed": seed, "tokens": tokens, "progress": progress, **options}
    seeds = np.random.SeedSequence(seed).generate_state(2 * draws).tolist()
    with tqdm(total=1 + 3 * draws, desc=f"reliability of {method}", unit="ranking", disable=not progress) as bar:

        def ranked(words: Corpus) -> Ranking:
            found = rank(model, words, method, **how)
            bar.update()
            return found

        whole = ranked(part)
        pairs = [[ranked(half) for half in _halves(part, at, each)] for each in seeds[:draws]]
        null = [ranked(part.shuffled(each)) for each in seeds[draws:]]
    agreements = [[agreement(one, other, tag, k) for tag in whole.tags] for one, other in pairs]
    correlation, overlap, chance = (
        _mean([[getattr(each, name) for each in draw] for draw in agreements])
        for name in ("correlation", "overlap", "chance")
    )
    keys, by_chance = _keys(whole), np.concatenate([_keys(each) for each in null], axis=1)
    highest = _of_defined(by_chance, 1.0)
    return Reliability(
        method=whole.method,
        at=at,
        split=split,
        draws=draws,
        seed=seed,
        tags=whole.tags,
        words=whole.count,
        defined=np.count_nonzero(~np.isnan(keys), axis=1),
        correlation=correlation,
        corrected=spearman_brown(correlation),
        k=np.min([[each.k for each in draw] for draw in agreements], axis=0),
        overlap=overlap,
        chance=chance,
        null_95=_of_defined(by_chance, 0.95),
        null_max=highest,
        exceeding=np.count_nonzero(keys > np.nan_to_num(highest, nan=-np.inf)[:, None], axis=1),
    )


class Agreement(NamedTuple):
    """Of two rankings and one tag: Spearman correlation, the k that was compared, overlap of the best k, and chance."""

    correlation: float
    k: int
    overlap: float
    chance: float


def agreement(one: Ranking, other: Ranking, tag: str, k: int) -> Agreement:
    """How alike two rankings of the same model order the neurons for a tag; the fields are as in `Reliability`."""
    first, second = (each.scores[each.tags.index(tag)].ravel() for each in (one, other))
    orders = one.order(tag), other.order(tag)
    k = min(k, *map(len, orders))
    if not k:
        return Agreement(float("nan"), 0, float("nan"), float("nan"))
    shared = len(np.intersect1d(orders[0][:k], orders[1][:k])) / k
    return Agreement(spearman(first, second), k, shared, k / len(first))


def spearman_brown(correlation: Float[ndarray, " tag"]) -> Float[ndarray, " tag"]:
    """Correlation to be expected of wholes whose halves correlate so: 2 r / (1 + r); NaN for r < 0.

    >>> spearman_brown(np.array([0.5, 1.0, -0.1])).round(3).tolist()
    [0.667, 1.0, nan]
    """
    positive = np.where(correlation >= 0, correlation, np.nan)
    return np.asarray(2 * positive / (1 + positive))


def _halves(part: Corpus, at: At, seed: int) -> tuple[Corpus, Corpus]:
    """Two halves with words to read."""
    halves = part.halves(seed)
    if not all(len(half.readable(at)) for half in halves):
        unit = "document" if part.marked_documents else "sentence"
        raise PosNeuronsError(f"{part.name}: a half of it has no word to read at {at!r}; give more than one {unit}")
    return halves


def _keys(ranking: Ranking) -> Float[ndarray, "tag flat"]:
    """What neurons are ordered by, layer after layer."""
    return np.stack([ranking.merit(tag).ravel() for tag in ranking.tags])


def _of_defined(keys: Float[ndarray, "tag flat"], share: float) -> Float[ndarray, " tag"]:
    """A quantile over the defined keys of each tag; NaN where there is none."""
    defined = [row[~np.isnan(row)] for row in keys]
    return np.array([np.quantile(row, share) if len(row) else np.nan for row in defined])


def _mean(values: Sequence[Sequence[float]]) -> Float[ndarray, " tag"]:
    """Mean over draws of each tag; NaN where any draw is undefined."""
    return np.asarray(np.mean(values, axis=0), dtype=np.float64)
