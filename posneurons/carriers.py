"""How many neurons carry a tag, read off the curves of a sweep over k.

`carriers` reads two numbers off each curve: from which k on the neurons do more harm than random ones, and at which k
they do half of the harm that the most of them do. Curves come as the table that `sweeps.sweep` makes.

What it does not know: both numbers depend on which k were measured, and on the order that a ranking gives its neurons;
the smallest set that would do is not looked for. The tests along a curve are not corrected.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from posneurons.run_rows import done, groups, swept_effects
from posneurons.words import ALPHA

CURVE = ["method", "lesion", "ablation", "scope"]


def carriers(frame: pd.DataFrame) -> pd.DataFrame:
    """How many neurons carry each tag, read off the curve over k of its own loss.

    Args:
        frame: a table of `sweeps.sweep`.

    Returns:
        One row per (method, lesion, ablation, scope) with an arm "k" whose tag is measured. `k_max` is the largest k,
        `rise` the rise of the tag's own loss there, in nats per word, and `se` its standard error. `k_beyond` is the
        smallest k from which on, for all larger k measured, the rise is beyond the controls' (one-sided p_controls <=
        0.05, or controls that all do exactly nothing; and above each); NaN where there is none, or fewer than two
        controls. `k_half` is where half of `rise` is first reached, on a straight line over log k between two measured
        k; the smallest k where that reaches half already; NaN where `rise` is not positive. `k_measured` is how many k
        were measured.
    """
    rows = []
    for names, points in swept_effects(frame[frame["arm"] == "k"]).groupby(CURVE, sort=False):
        ordered = points.sort_values("k")
        ks, rise = ordered["k"].to_numpy(np.int64), ordered["delta"].to_numpy(np.float64)
        idle = (ordered["control_sd"] == 0) & (ordered["control_mean"] == 0)
        sure = (ordered["p_controls"] <= ALPHA) | idle
        beyond = (sure & (ordered["delta"] > ordered["control_high"])).to_numpy(bool)
        last = ordered.iloc[-1]
        read = (
            int(last["k"]),
            float(last["delta"]),
            float(last["se"]),
            k_beyond(ks, beyond),
            k_half(ks, rise),
            len(ks),
        )
        rows.append((*names, *read))
    return pd.DataFrame(rows, columns=[*CURVE, "k_max", "rise", "se", "k_beyond", "k_half", "k_measured"])


def k_beyond(ks: Int[ndarray, " k"], beyond: Bool[ndarray, " k"]) -> float:
    """The smallest of ascending k from which on all are beyond the controls; NaN where the last is not.

    >>> k_beyond(np.array([1, 2, 5, 10]), np.array([True, False, True, True]))
    5.0
    """
    from_here = np.logical_and.accumulate(beyond[::-1])[::-1]
    return float(ks[from_here.argmax()]) if from_here.any() else float("nan")


def k_half(ks: Int[ndarray, " k"], rise: Float[ndarray, " k"]) -> float:
    """Where a curve over ascending k first reaches half of its end, linear in log k; NaN where that is not positive.

    >>> round(k_half(np.array([1, 4, 16]), np.array([0.0, 1.0, 4.0])), 3)
    6.35
    """
    half = rise[-1] / 2
    if not half > 0:
        return float("nan")
    place = int(np.argmax(rise >= half))
    if place == 0:
        return float(ks[0])
    share = (half - rise[place - 1]) / (rise[place] - rise[place - 1])
    low, high = np.log(ks[place - 1 : place + 1])
    return float(np.exp(low + share * (high - low)))


def lines(found: pd.DataFrame) -> list[str]:
    """What `carriers` found, a sentence for each method, ablation and scope."""
    said = []
    for (method, ablation, scope), rows in groups(found, "method ablation scope"):
        where = f"{method}, {done(ablation, scope)}"
        beyond = rows[rows["k_beyond"].notna()].sort_values("k_beyond", kind="stable")
        pairs = [f"{row['lesion']} {row['k_beyond']:.0f}" for row in beyond.to_dict("records")]
        half = rows["k_half"].median()
        said.append(
            f"{where}: {len(beyond)} of {len(rows)} tags lose more than under matched random sets from some k on"
            f" (p <= {ALPHA} at each k, not corrected; by chance about {ALPHA * len(rows):.1f})"
            + (f" ({', '.join(pairs)})" if pairs else "")
            + ("" if np.isnan(half) else f"; half of the full rise is reached at k = {half:.3g} (median of the tags)")
        )
    return said
