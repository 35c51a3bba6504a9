"""Rows of a run's tables as sentences, tables and figures all need them: chosen, put beside controls, and in order.

Nothing is tested or estimated here: counts, means and ranges of what stands in the frames, and which rows belong
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from posneurons.errors import RunError

BASELINES = {
    "random_neurons": "random neurons",
    "most_frequent_tag": "most frequent tag of the word",
    "majority": "most frequent tag of all",
    "control_task": "control task (random tags of what was read)",
    "control_task_next_word": "control task (random tags of the next word)",
}
"""What the baselines of a probe are called, in the order in which they are shown."""


def check_single(rows: pd.DataFrame, what: str, columns: Sequence[str]) -> None:
    """Raise RunError where rows that are drawn or counted together differ in one of these columns."""
    for column in columns:
        if len(found := [str(value) for value in rows[column].unique()]) > 1:
            raise RunError(f"{what}: {column} is {', '.join(found)}; expected one of them, choose its rows first")


def with_controls(lesions: pd.DataFrame, ablation: str) -> pd.DataFrame:
    """Each tag's key set under one ablation beside its matched controls.

    Returns the rows of the sets "key" with `controls` (how many), `control_mean`, `control_low` and `control_high`
    (nats, NaN without controls). Raises RunError where the frame holds no such ablation, or several methods or scopes.
    """
    check_single(lesions, "lesions", ("method", "scope"))
    chosen = lesions[lesions["ablation"] == ablation]
    if chosen.empty:
        found = [str(value) for value in lesions["ablation"].unique()]
        raise RunError(f"lesions: no ablation {ablation!r}; the frame has {', '.join(found) or 'no lesion'}")
    keys = ["lesion", "tag"]
    draws = chosen[chosen["set"] == "matched"].groupby(keys, observed=True, sort=False)["delta"]
    ranges = draws.agg(controls="count", control_mean="mean", control_low="min", control_high="max").reset_index()
    real = chosen[chosen["set"] == "key"].merge(ranges, on=keys, how="left")
    return real.assign(controls=real["controls"].fillna(0).astype(int))


def own_effects(cells: pd.DataFrame) -> pd.DataFrame:
    """Each tag's own neurons lesioned and that tag measured, the largest effect first."""
    return cells[cells["lesion"] == cells["tag"]].sort_values("delta", ascending=False, kind="stable")


def unordered_pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each unordered pair of tags; largest smaller contrast first."""
    names = ["\t".join(sorted(pair)) for pair in zip(rows["tag_a"], rows["tag_b"], strict=True)]
    pairs = rows.assign(pair=names, smaller=rows[["contrast_a", "contrast_b"]].min(axis=1)).drop_duplicates("pair")
    return pairs.sort_values("smaller", ascending=False, kind="stable")


def swept_effects(sweep: pd.DataFrame) -> pd.DataFrame:
    """The points of the curves of a sweep: key sets measured on their own tag, where that has words."""
    return sweep[(sweep["lesion"] == sweep["tag"]) & (sweep["set"] == "key") & (sweep["words"] > 0)]


def done(ablation: str, scope: str) -> str:
    """What was done to the neurons, in words.

    >>> done("mean", "all"), done("zero", "local")
    ('mean ablation', 'zero ablation, scope local')
    """
    return f"{ablation} ablation" + ("" if scope == "all" else f", scope {scope}")


def groups(frame: pd.DataFrame | None, columns: str) -> Iterable[tuple[Any, pd.DataFrame]]:
    """The rows of each combination of values, in order of appearance; nothing where there is no frame."""
    return () if frame is None else frame.groupby(columns.split(), sort=False)
