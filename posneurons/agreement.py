"""How far estimates of what neurons do agree with what they do: the record of a check, and its figures.

Where none of n random neurons that nobody lists is worth a listed one, at most 3/n of the unlisted are, at 95 % (Hanley
and Lippman-Hand 1983, JAMA 249:1743); where some are, Clopper and Pearson's exact bound (1934, Biometrika 26:404) takes
the place of that rule. This module knows numbers only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from posneurons.display import Shown
from posneurons.errors import PosNeuronsError
from posneurons.neurons import NeuronSet
from posneurons.words import Ablation, Scope

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CONFIDENCE = 0.95
"""Of the bound on the share of neurons that are missed."""


@dataclass(frozen=True, repr=False)
class Verification(Shown):
    """Exact effects of single neurons beside their estimates.

    Attributes:
        tags: the tags that are compared; `count` is how many words of each were scored.
        ablation, scope: what was done to a neuron, and where.
        top: how many of the best neurons should be found again.
        listed: how many of an estimate's best neurons count as listed.
        neurons: the measured neurons, in order: those that any estimate lists for any tag, then the random ones.
        random: true for the neurons that were drawn at random from all those that nobody lists.
        unlisted: how many neurons nobody lists.
        effects: mean rise of the loss over each tag's words, in nats per word, if the neuron alone is ablated.
        contrasts: the same minus that over the words of all other tags; NaN where there are none.
        estimates: per estimate what orders the neurons, larger first; NaN where it has no score.
        lists: per estimate whether the neuron is among its `listed` best of the tag.
        in_nats: the estimates whose scores are rises of the loss in nats too.
        counts: per estimate how many words of each tag stand behind it.
    """

    tags: tuple[str, ...]
    count: Int[ndarray, " tag"]
    ablation: Ablation
    scope: Scope
    top: int
    listed: int
    neurons: NeuronSet
    random: Bool[ndarray, " k"]
    unlisted: int
    effects: Float[ndarray, "tag k"]
    contrasts: Float[ndarray, "tag k"]
    estimates: Mapping[str, Float[ndarray, "tag k"]]
    lists: Mapping[str, Bool[ndarray, "tag k"]]
    in_nats: tuple[str, ...]
    counts: Mapping[str, Int[ndarray, " tag"]]

    def to_frame(self) -> pd.DataFrame:
        """One row per (estimate, tag, exact): `exact` is "effect" or "contrast", what the estimate is held against.

        Columns: words behind the exact effects, and `same_words`, whether as many of the tag stand behind the estimate;
        pearson (for estimates in nats of the same ablation and scope, against the effect) and spearman over all
        measured neurons; recall, the share of the `top` neurons with the largest exact values, of those measured, that
        the estimate lists (one that was not measured cannot be missed: see missed), and top_recall, the share among its
        own `top` best; threshold, the exact value of its `top`-th best listed neuron; largest_unlisted, the largest
        among the random neurons; above, how many of them exceed the threshold; missed, the bound on their share among
        all neurons that nobody lists, at 95 %. A tag without words has NaN.
        """
        import pandas as pd

        rows = [row for name in self.estimates for number in range(len(self.tags)) for row in self._rows(name, number)]
        return pd.DataFrame(rows)

    def figure(self, tag: str | None = None, estimate: str | None = None, *, exact: str = "effect") -> go.Figure:
        """How each estimate agrees with exact ablation; or, for one tag, neuron by neuron.

        Args:
            tag: whose neurons are drawn one by one; None for the agreement at all tags.
            estimate: which one is drawn for the tag; None for the first.
            exact: "effect", or "contrast" (the effect less that on all other words).

        Raises:
            PosNeuronsError: where there is no such tag, estimate or kind of exact value.
        """
        from posneurons import agreement_figures

        if exact not in ("effect", "contrast"):
            raise PosNeuronsError(f"verification: exact={exact!r}; expected 'effect' or 'contrast'")
        if tag is None:
            return agreement_figures.verified(self.to_frame(), exact)
        name = next(iter(self.estimates), "") if estimate is None else estimate
        for what, given, known in (("tag", tag, self.tags), ("estimate", name, tuple(self.estimates))):
            if given not in known:
                raise PosNeuronsError(f"verification: no {what} {given!r}; it has {', '.join(known)}")
        number = self.tags.index(tag)
        values = (self.effects if exact == "effect" else self.contrasts)[number]
        scores, listed = self.estimates[name][number], self.lists[name][number]
        return agreement_figures.exact_against(
            tag, name, self.neurons.names, values, scores, listed, self.random, contrast=exact == "contrast"
        )

    def _rows(self, name: str, number: int) -> Iterator[dict[str, Any]]:
        estimate, listed = self.estimates[name][number], self.lists[name][number]
        for exact, values in (("effect", self.effects[number]), ("contrast", self.contrasts[number])):
            yield {
                "estimate": name,
                "tag": self.tags[number],
                "exact": exact,
                "words": int(self.count[number]),
                "same_words": bool(self.count[number] == self.counts[name][number]),
                "pearson": pearson(estimate, values) if exact == "effect" and name in self.in_nats else np.nan,
                "spearman": spearman(estimate, values),
                "recall": recall(listed, values, self.top),
                "top_recall": recall(_best(estimate, self.top), values, self.top),
                **self._missed(listed, values),
            }

    def _missed(self, listed: Bool[ndarray, " k"], values: Float[ndarray, " k"]) -> dict[str, float]:
        """What the random neurons say about those that nobody lists."""
        known, drawn = np.sort(values[listed & ~np.isnan(values)])[::-1], values[self.random]
        if len(known) < self.top or np.isnan(drawn).any():
            return dict.fromkeys(("threshold", "largest_unlisted", "above", "missed"), np.nan)
        threshold = float(known[self.top - 1])
        above = int((drawn > threshold).sum())
        return {
            "threshold": threshold,
            "largest_unlisted": float(drawn.max()) if len(drawn) else np.nan,
            "above": above,
            "missed": missed_bound(above, len(drawn), self.unlisted),
        }

    def to_dict(self) -> dict[str, object]:
        """What was done, and the rows of the table, as JSON values; NaN is None."""
        rows = self.to_frame().astype(object)
        return {
            "ablation": self.ablation,
            "scope": self.scope,
            "top": self.top,
            "listed": self.listed,
            "measured": len(self.neurons),
            "random": int(self.random.sum()),
            "unlisted": self.unlisted,
            "agreement": rows.where(rows.notna(), None).to_dict("records"),
        }


def pearson(estimate: Float[ndarray, " k"], exact: Float[ndarray, " k"]) -> float:
    """Correlation over the neurons for which both are defined; NaN for fewer than three, or if one does not vary."""
    both = ~(np.isnan(estimate) | np.isnan(exact))
    x, y = estimate[both], exact[both]
    if both.sum() < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def spearman(estimate: Float[ndarray, " k"], exact: Float[ndarray, " k"]) -> float:
    """Correlation of the ranks, ties sharing theirs; NaN as for `pearson`."""
    from scipy.stats import rankdata

    both = ~(np.isnan(estimate) | np.isnan(exact))
    return pearson(rankdata(estimate[both]).astype(np.float64), rankdata(exact[both]).astype(np.float64))


def recall(found: Bool[ndarray, " k"], exact: Float[ndarray, " k"], top: int) -> float:
    """Share of the `top` neurons with the largest exact values that are found; NaN where fewer are defined.

    >>> recall(np.array([True, False, True]), np.array([0.3, 0.2, 0.1]), 2)
    0.5
    """
    if np.count_nonzero(~np.isnan(exact)) < top:
        return float("nan")
    return float(found[_best(exact, top)].mean())


def _best(values: Float[ndarray, " k"], top: int) -> Bool[ndarray, " k"]:
    """Which neurons have the `top` largest values; of equal ones the first; NaN never."""
    found = np.zeros(len(values), dtype=bool)
    order = np.argsort(-values, kind="stable")[:top]
    found[order] = ~np.isnan(values[order])
    return found


def missed_bound(above: int, drawn: int, population: int) -> float:
    """Upper bound, at 95 %, on the share of a population that lies above, when so many of a random sample do.

    3/n where none does (at most 1), Clopper and Pearson's where some do. Where the sample is the population, the share.
    NaN where nothing was drawn from a population, 0 where there is nobody in it.

    >>> missed_bound(0, 300, 4000), round(missed_bound(3, 300, 4000), 4), missed_bound(1, 10, 10)
    (0.01, 0.0256, 0.1)
    """
    from scipy.stats import beta

    if drawn == population:
        return above / population if population else 0.0
    if not drawn:
        return float("nan")
    if above == 0:
        return min(1.0, 3 / drawn)
    return 1.0 if above == drawn else float(beta.ppf(CONFIDENCE, above + 1, drawn - above))
