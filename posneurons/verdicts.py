"""From p-values to verdicts: the columns of the lesion tables, and their correction over a whole family of tests.

`correct` and `judge` take a finished table, of one result or of several put together, and read nothing else: what they
need stands in its columns. So a study corrects once over all its methods, ablations and sizes, and whoever concatenates
tables later can do it again. Columns that are not among `PAIRED` (a size k, say) tell tests apart like those that name
the lesion.

What this does not know: which tables make one family. The equivalence test behind "classical" is not corrected, because
it asks again of pairs that already passed a corrected test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons.display import Shown
from posneurons.significance import intersection_union, q_values
from posneurons.words import ALPHA, Correction, Verdict

if TYPE_CHECKING:
    import pandas as pd

MEASURED = (  # columns of lesions.parquet that every row has
    "method", "lesion", "ablation", "scope", "set", "draw", "tag", "words", "loss_intact", "loss_lesioned", "delta",
    "percent", "perplexity_ratio", "delta_word", "delta_category", "delta_lexical",
)  # fmt: skip
TESTED = (  # those that only the rows of key sets have
    "ci_low", "ci_high", "ci_low_two_way", "ci_high_two_way", "category_ci_low", "category_ci_high", "p_items",
    "p_rank", "p_controls", "p_others", "p_value", "q_value", "z_control", "delta_types", "delta_without_top5",
    "effective_types",
)  # fmt: skip
PAIRED = (  # columns of dissociations.parquet
    "method", "ablation", "scope", "measure", "tag_a", "tag_b", "contrast_a", "contrast_b", "p_items", "p_sets", "p_a",
    "p_b", "p_value", "q_value", "cross_a", "cross_b", "equivalence_p", "margin", "verdict",
)  # fmt: skip
_NAMING = frozenset(PAIRED[:4])  # method, ablation, scope, measure
VERDICTS = get_args(Verdict)


@dataclass(frozen=True, repr=False)
class Summary(Shown):
    """A lesion study in a few numbers.

    Attributes:
        difference: mean diagonal minus mean off-diagonal of the matrix, nats per word; NaN for fewer than two tags.
        p_value: of it, over permutations of the sets' labels, one-sided.
        pairs: unordered pairs of tags.
        classical, strong, one_way, none: how many of them have each verdict; a classical one is not counted as strong.
    """

    difference: float
    p_value: float
    pairs: int
    classical: int
    strong: int
    one_way: int
    none: int


def summarise(pairs: pd.DataFrame, difference: float, p_value: float) -> Summary:
    """The verdicts of a table of dissociations, each unordered pair counted once, beside the test of its matrix."""
    found = pairs.loc[pairs["tag_a"] < pairs["tag_b"], "verdict"].value_counts()
    counts = [int(found.get(verdict, 0)) for verdict in VERDICTS]
    return Summary(difference, p_value, sum(counts), *counts)


def with_sets(p_items: Float[ndarray, " *cell"], p_sets: Float[ndarray, " *cell"]) -> Float[ndarray, " *cell"]:
    """The larger of the p over words and that over sets of neurons; that over words where the other is undefined.

    NaN where that over words is: a set that changed no word shows nothing, however much its controls change.
    """
    return np.where(np.isnan(p_items), np.nan, intersection_union(p_items, p_sets))


def correct(frame: pd.DataFrame, correction: Correction) -> pd.DataFrame:
    """A table of lesions with `q_value` over all its key sets.

    Args:
        frame: columns as in lesions.parquet, of one result or of several.
        correction: "bh" or "by".

    Returns:
        A copy; NaN where there is no p-value, and for sets that are not "key".
    """
    p = frame["p_value"].where(frame["set"] == "key").to_numpy(dtype=np.float64)
    return frame.assign(q_value=q_values(p, correction))


def judge(frame: pd.DataFrame, correction: Correction) -> pd.DataFrame:
    """A table of dissociations with `q_value` over all its pairs, and the verdict of each.

    Verdicts:
        classical: strong, and equivalence_p <= 0.05: neither lesion does more or less to the other tag than its
            matched sets do, within the margin.
        strong: q_value <= 0.05 and both contrasts are positive.
        one-way: not strong, but one of the contrasts is positive with q <= 0.05, by its own p_a or p_b, corrected over
            all single contrasts.
        none: otherwise; also where a p-value is undefined.

    Args:
        frame: columns as in dissociations.parquet but for q_value and verdict, of one result or of several; a pair may
            stand in it in one order or in both, and counts once.
        correction: "bh" or "by".

    Returns:
        A copy.
    """
    q, q_a, q_b = _corrected_pairs(frame, correction)
    up_a, up_b = frame["contrast_a"].to_numpy() > 0, frame["contrast_b"].to_numpy() > 0
    strong = (q <= ALPHA) & up_a & up_b  # NaN is never below
    equal = frame["equivalence_p"].to_numpy(dtype=np.float64) <= ALPHA
    single = ((q_a <= ALPHA) & up_a) | ((q_b <= ALPHA) & up_b)
    verdict = np.select([strong & equal, strong, single], list(VERDICTS[:3]), VERDICTS[3])
    return frame.assign(q_value=q, verdict=verdict.astype(object))


def _corrected_pairs(
    frame: pd.DataFrame, correction: Correction
) -> tuple[Float[ndarray, " cell"], Float[ndarray, " cell"], Float[ndarray, " cell"]]:
    """The q of each row's pair, of its contrast a and of its contrast b; both orders of a pair are the same tests."""
    import pandas as pd

    names = frame[[name for name in frame if name in _NAMING or name not in PAIRED]]
    ordered = np.where(frame["tag_a"] < frame["tag_b"], 0, 1)
    first, second = (frame[name].astype(object) for name in ("tag_a", "tag_b"))
    names = names.assign(low=first.where(ordered == 0, second), high=second.where(ordered == 0, first))
    pair = names.groupby(list(names.columns), sort=False, dropna=False).ngroup().to_numpy(dtype=np.int64)
    q = _once(pair, frame["p_value"].to_numpy(dtype=np.float64), correction)
    of_both = np.concatenate([2 * pair + ordered, 2 * pair + 1 - ordered])
    p = pd.concat([frame["p_a"], frame["p_b"]]).to_numpy(dtype=np.float64)
    q_a, q_b = np.split(_once(of_both, p, correction), 2)
    return q, q_a, q_b


def _once(number: Int[ndarray, " cell"], p: Float[ndarray, " cell"], correction: Correction) -> Float[ndarray, " cell"]:
    """Corrected p-values of tests that are numbered; one that stands there twice counts once."""
    _, first, back = np.unique(number, return_index=True, return_inverse=True)
    return np.asarray(q_values(p[first], correction)[back])
