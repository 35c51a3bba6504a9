"""The tables of a page: frames of a run to rows of cells, worded for a reader and still sortable by their numbers.

Nothing is computed here beyond sums of counts; what is undefined is shown as a dash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import pandas as pd

from posneurons.run_files import Run
from posneurons.run_rows import BASELINES, groups, unordered_pairs
from posneurons.theme import number
from posneurons.words import BEST, Verdict

ARMS = {
    "k": "by the number of neurons",
    "layer": "by layer, the best of one layer at a time",
    "cumulative": "by layer, the best of the model up to it",
}
"""What the arms of a sweep are called."""


class Cell(NamedTuple):
    """What a cell shows, the number that it is sorted by (None for words), and the neuron whose page it links to."""

    text: str
    value: float | None = None
    link: str | None = None


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        caption: what it holds, with units.
        head: names of the columns.
        rows: as many cells each; the first names the row.
        names: how many of the first columns are words, set to the left.
        folded: whether it is closed at first.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int = 1
    folded: bool = False

    @property
    def name(self) -> str:
        """The first clause of the caption."""
        return re.split(r"[.:;,] ", self.caption.rstrip("."), maxsplit=1)[0]


def cell(value: Any, form: str = "+.3f") -> Cell:
    """A number as a cell; NaN and None are a dash that sorts last."""
    text = number(value, form)
    return Cell(text, float("nan") if text == "–" else float(f"{float(value):.6g}"))


def words(*texts: object) -> list[Cell]:
    """Names as cells."""
    return [Cell(str(text)) for text in texts]


def layer_counts(rows: pd.DataFrame, n_layers: int, method: str) -> Table:
    """How many key neurons of each tag lie in each layer; `rows` has a row (tag, layer) for each of them."""
    counts = pd.crosstab(rows["layer"], rows["tag"]).reindex(index=range(n_layers), fill_value=0)
    counts = counts[list(dict.fromkeys(rows["tag"]))]
    cells = [[cell(layer, ".0f"), *(cell(n, ".0f") for n in counts.loc[layer])] for layer in counts.index]
    return Table(f"The same as numbers: key neurons by layer and tag, {method}", ["layer", *counts], cells, 0, True)


def best_neurons(run: Run, method: str, at: str) -> Table:
    """The best neurons of each tag by one method, with score and rank under every method at that position."""
    ranking = run.ranking
    assert ranking is not None  # noqa: S101 (asked for only where there is one)
    here = ranking[ranking["at"] == at]
    by: dict[str, dict[tuple[Any, ...], tuple[Any, Any]]] = {
        name: {(r["tag"], r["layer"], r["neuron"]): (r["score"], r["rank"]) for r in rows.to_dict("records")}
        for (name,), rows in groups(here[here["rank"].notna()], "method")
    }
    others = [name for name in by if name != method]
    paged = {page.name for page in run.pages or ()}
    best = here[(here["method"] == method) & (here["rank"] <= BEST)]
    order = {tag: place for place, tag in enumerate(dict.fromkeys(here["tag"]))}
    best = best.assign(order=best["tag"].map(order)).sort_values(["order", "rank"], kind="stable")
    rows = []
    for r in best.to_dict("records"):
        name = f"L{r['layer']}N{r['neuron']}"
        row = [Cell(r["tag"]), Cell(name, r["layer"] * 1e6 + r["neuron"], name if name in paged else None)]
        row += [cell(r["rank"], ".0f"), cell(r["score"], "+.3g")]
        for other in others:
            score, rank = by[other].get((r["tag"], r["layer"], r["neuron"]), (None, None))
            row += [cell(rank, ",.0f"), cell(score, "+.3g")]
        rows.append(row)
    head = ["tag", "neuron", "rank", "score", *(f"{name}: {what}" for name in others for what in ("rank", "score"))]
    caption = (
        f"The {BEST} best neurons of each tag by {method}, read at “{at}”, with their rank and score under every"
        " method. L3N12 is neuron 12 of layer 3; a dash: this method does not score it, or keeps no rank so low."
    )
    return Table(caption, head, rows, 2)


def effects(cells: Iterable[Mapping[Any, Any]], caption: str, *, lesion: bool = False) -> Table:
    """Lesions beside their controls, as `run_rows.with_controls` gives them; in full with the lesioned tag."""
    head, rows = ["measured tag", "change (nats)", "95 % interval", "category part (nats)", "controls’ range", "z"], []
    for c in cells:
        interval = Cell(f"{number(c['ci_low'])} to {number(c['ci_high'])}", cell(c["ci_low"]).value)
        spread = f"{number(c['control_low'])} to {number(c['control_high'])}" if c["controls"] else "–"
        row = [*words(c["tag"]), cell(c["delta"]), interval, cell(c["delta_category"])]
        row += [Cell(spread, cell(c["control_low"]).value), cell(c["z_control"], "+.1f")]
        row += [cell(c[name], ".2g") for name in ("p_items", "p_controls", "p_others", "q_value")]
        row.append(cell(c["words"], ",.0f"))
        if lesion:
            row = [*words(c["lesion"]), *row, cell(c["percent"], "+.1f"), cell(c["control_mean"])]
        rows.append(row)
    head += ["p words", "p random", "p others", "q", "words"]
    full = ["lesioned tag", *head, "% of loss", "controls’ mean"]
    return Table(caption, full if lesion else head, rows, 2 if lesion else 1, folded=lesion)


def verdicts(rows: pd.DataFrame) -> Table:
    """How many pairs of tags have each verdict."""
    pairs = unordered_pairs(rows)
    counts, alone = pairs["verdict"].value_counts(), int(pairs["p_sets"].isna().sum())
    cells = [[Cell(each), cell(counts.get(each, 0), ".0f")] for each in get_args(Verdict)]
    margin = f"{rows['margin'].max():g}"
    caption = f"Pairs of tags by verdict; a classical pair is not counted as strong. Margin: {margin} nats per word."
    if alone:
        caption += (
            f" {alone} of these {len(pairs)} pairs could not be tested against other sets of neurons (that needs at"
            " least 2 random sets for each tag, or five tags): their verdicts rest on words alone, and the finding does"
            " not count them."
        )
    return Table(caption, ["verdict", "pairs"], cells)


def pairs_of_tags(rows: pd.DataFrame) -> Table:
    """Every unordered pair of tags, the largest smaller contrast first."""
    columns = {"contrast_a": "+.3f", "contrast_b": "+.3f", "q_value": ".3g", "cross_a": "+.3f", "cross_b": "+.3f"}
    cells = []
    for pair in unordered_pairs(rows).to_dict("records"):
        numbers = [cell(pair[name], form) for name, form in columns.items()]
        last = [cell(pair["equivalence_p"], ".3g"), Cell(str(pair["verdict"]))]
        cells.append([*words(pair["tag_a"], pair["tag_b"]), *numbers, *last])
    head = ["A", "B", "on A: own − other", "on B: own − other", "q", "on B: A’s set − its controls"]
    head += ["on A: B’s set − its controls", "p of equivalence", "verdict"]
    return Table("All pairs as a table (nats per word), by the smaller of their two contrasts", head, cells, 2, True)


def carriers(rows: pd.DataFrame) -> Table:
    """How many neurons carry each tag."""
    cells = []
    for c in rows.sort_values("k_beyond", kind="stable").to_dict("records"):
        row = [Cell(c["lesion"]), cell(c["k_beyond"], ".0f"), cell(c["k_half"], ".1f"), cell(c["k_max"], ".0f")]
        cells.append([*row, cell(c["rise"]), cell(c["se"], ".3f")])
    head = ["tag", "beyond controls from k", "half at k", "largest k", "rise there (nats)", "its standard error"]
    caption = (
        "How many neurons carry a tag: from which k on its loss rises beyond that under matched random sets, and at"
        " which k half of the rise at the largest k is reached."
    )
    return Table(caption, head, cells)


def curve_points(own: pd.DataFrame) -> Table:
    """Every point of the curves: key sets measured on their own tag."""
    cells = []
    for r in own.to_dict("records"):
        layer = r["layer"] if r["arm"] != "k" else None
        row = [*words(r["lesion"], ARMS.get(r["arm"], r["arm"])), cell(layer, ".0f"), cell(r["neurons"], ".0f")]
        row += [cell(r["delta"]), cell(r["se"], ".3f"), cell(r["control_mean"]), cell(r["control_low"])]
        cells.append([*row, cell(r["control_high"]), cell(r["z_control"], "+.1f"), cell(r["words"], ",.0f")])
    head = ["tag", "curve", "layer", "neurons", "rise (nats)", "its standard error", "controls’ mean"]
    head += ["controls’ least", "controls’ most", "z", "words"]
    return Table("The curves as numbers", head, cells, 2, folded=True)


def probe_scores(result: Mapping[str, Any]) -> Table:
    """Accuracy and macro-F1 of a probe and of each of its baselines."""
    rivals = {BASELINES.get(name, str(name)): score for name, score in result["baselines"].items()}
    scores = {f"probe on {result['n_neurons']:,} key neurons": result, **rivals}
    cells = [
        [Cell(name), cell(score.get("accuracy"), ".3f"), cell(score.get("macro_f1"), ".3f")]
        for name, score in scores.items()
    ]
    return Table("Accuracy and macro-F1 on test words.", ["classifier", "accuracy", "macro-F1"], cells)


def probe_tags(result: Mapping[str, Any]) -> Table:
    """F1 of each tag, of the probe and of each of its baselines."""
    rivals = [score.get("per_tag_f1", {}) for score in result["baselines"].values()]
    cells = [
        [Cell(tag), *(cell(each.get(tag), ".3f") for each in (result["per_tag_f1"], *rivals)), cell(sum(row), ",.0f")]
        for tag, row in zip(result["classes"], result["confusion"], strict=True)
    ]
    head = ["tag", "probe", *(BASELINES.get(name, str(name)) for name in result["baselines"]), "test words"]
    return Table("F1 of each tag.", head, cells)


def confusions(result: Mapping[str, Any]) -> Table:
    """The counts behind the confusion."""
    cells = [
        [Cell(tag), *(cell(n, ",.0f") for n in row)]
        for tag, row in zip(result["classes"], result["confusion"], strict=True)
    ]
    return Table(
        "The confusion as words: true tag by row, tag read by column", ["", *result["classes"]], cells, 1, True
    )


def shared_neurons(rows: pd.DataFrame, *, between: bool = False) -> Table:
    """Pairs of sets beside chance, the most alike first: pairs of tags of one method, or one tag by two methods."""
    cells = []
    for r in rows.sort_values("jaccard", ascending=False, kind="stable").to_dict("records"):
        names = words(r["tag_a"]) if between else words(r["tag_a"], r["tag_b"])
        sizes = [cell(r[name], ",.0f") for name in ("size_a", "size_b", "shared")]
        chance = [cell(r["expected"], ".2f"), cell(r["jaccard"], ".3f"), cell(r["overlap_coefficient"], ".3f")]
        cells.append([*names, *sizes, *chance, cell(r["p_value"], ".2g"), cell(r["q_value"], ".2g")])
    head = ["tag"] if between else ["A", "B"]
    head += ["neurons of A", "of B", "shared", "by chance", "Jaccard", "of the smaller", "p", "q"]
    if between:
        head[1:3] = [f"by {rows['method_a'].iloc[0]}", f"by {rows['method_b'].iloc[0]}"]
    return Table(
        "Neurons that two sets share, beside what random sets would", head, cells, 1 if between else 2, not between
    )


def dissimilarities(rows: pd.DataFrame) -> Table:
    """1 − r of each two tags."""
    table = rows.pivot_table(index="tag_a", columns="tag_b", values="dissimilarity", dropna=False, sort=False)
    cells = [
        [Cell(str(tag)), *(cell(x, ".2f") for x in row)] for tag, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return Table("Dissimilarity (1 − r) of each two tags as numbers", ["", *map(str, table)], cells, 1, True)


def dropped(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """Words left out, over all splits: a row for each tag, a column for each reason, and together; None if none was."""
    if not rows:
        return None
    table = pd.DataFrame(rows).pivot_table(index="tag", columns="reason", values="words", aggfunc="sum", fill_value=0)
    table = table.assign(**{"": table.sum(axis=1)}).sort_values("", ascending=False, kind="stable")
    cells = [
        [Cell(str(tag)), *(cell(n, ",.0f") for n in row)]
        for tag, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    head = ["tag", *map(str, table.columns[:-1]), "together"]
    return Table("Words left out, by tag and reason, over all splits.", head, cells)


def configuration(config: Mapping[str, Any]) -> Table:
    """Every option of a run."""
    rows = [
        words(name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else value)
        for name, value in config.items()
    ]
    return Table("The whole configuration", ["option", "value"], rows, 2, folded=True)
