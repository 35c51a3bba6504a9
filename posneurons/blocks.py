"""What stands in the sections of a page: figures and tables, in blocks of which a reader chooses one.

A section that has several rankings, ablations or measures shows one block at a time; `Group` holds its blocks and what
tells them apart. Here the rows of each block are chosen and its captions worded; the tables are made by `run_tables`,
the figures by `run_figures`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from posneurons import run_tables as tables
from posneurons.findings import preferred
from posneurons.run_figures import Key, key_layers
from posneurons.run_files import Run
from posneurons.run_rows import done, groups, own_effects, swept_effects, with_controls
from posneurons.run_tables import Table

Figures = Mapping[Key, go.Figure]


@dataclass(frozen=True)
class Drawing:
    """A figure of a page.

    Attributes:
        key: what is drawn, as in `run_figures.keyed_figures`.
        caption: what stands under it.
        alt: what a screen reader says of it.
        figure: data and layout as JSON values, without template and menus.
        menus: what the menus were: a dict of `kind` ("buttons", "dropdown"), `name`, `labels`, and `calls`, for each
            label the name of a function of plotly.js and its arguments.
        shrinks: whether it still reads well on a phone's width.
    """

    key: Key
    caption: str
    alt: str
    figure: dict[str, Any]
    menus: list[dict[str, Any]]
    shrinks: bool = False

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.figure["layout"].get("height") or 450)


Part = Drawing | Table | str


@dataclass(frozen=True)
class Block:
    """One choice of a section: a title, the words it is chosen by, and what is shown."""

    title: str
    choice: tuple[str, ...]
    parts: Sequence[Part]


@dataclass(frozen=True)
class Group:
    """Blocks of which one is shown; `facets` name the words of their choices."""

    facets: tuple[str, ...] = ()
    blocks: list[Block] = field(default_factory=list)

    @property
    def choices(self) -> list[tuple[str, list[str]]]:
        """The words of each facet that has several."""
        found = [
            (name, list(dict.fromkeys(block.choice[i] for block in self.blocks))) for i, name in enumerate(self.facets)
        ]
        return [(name, words) for name, words in found if len(words) > 1]

    @property
    def places(self) -> list[int]:
        """Which words of a choice have several values."""
        return [i for i in range(len(self.facets)) if len({block.choice[i] for block in self.blocks}) > 1]

    def words(self, block: Block) -> list[str]:
        """The words of a block's choice that a reader can choose."""
        return [block.choice[i] for i in self.places]

    def drawings(self) -> Iterator[Drawing]:
        """All figures of its blocks."""
        for block in self.blocks:
            yield from (part for part in block.parts if isinstance(part, Drawing))

    @property
    def chosen(self) -> Block | None:
        """What is shown at first: of the preferred method, the first block."""
        if not self.blocks:
            return None
        method = preferred([block.choice[0] for block in self.blocks])
        return next(block for block in self.blocks if block.choice[0] == method)


def drawing(figures: Figures, key: Key, caption: str, alt: str, *, shrinks: bool = False) -> Drawing:
    """A figure as JSON values; its template stays out, the page has both, and its menus become controls of the page."""
    content: dict[str, Any] = json.loads(figures[key].to_json())
    layout = content["layout"]
    layout.pop("template", None)
    menus = [_menu(each) for each in layout.pop("updatemenus", [])]
    if menus:
        layout.get("margin", {}).pop("t", None)
    return Drawing(key, caption, alt, {"data": content["data"], "layout": layout}, menus, shrinks)


def _menu(menu: Mapping[str, Any]) -> dict[str, Any]:
    buttons = menu.get("buttons", [])
    return {
        "kind": menu.get("type", "dropdown"),
        "name": html.unescape(menu.get("name") or "colour by"),
        "labels": [html.unescape(each["label"]) for each in buttons],
        "calls": [[each.get("method", "restyle"), each.get("args", [])] for each in buttons],
    }


def where(method: str, ablation: str, scope: str) -> str:
    """Ranking, ablation and scope in words."""
    return f"{method}, {done(ablation, scope)}"


def layers(run: Run, figures: Figures) -> Group:
    """Layers × tags."""
    found = Group(("ranking", "read at"))
    for title in run.keys:
        key = ("layers", title)
        if figure := figures.get(key):
            method, _, position = title.partition("@")
            at = position or run.manifest["config"].get("at", "–")
            shown = method if run.manifest["config"].get("neurons") else f"{method}, ranked at {at}"
            counts = figure.data[0].y
            parts: list[Part] = [
                drawing(
                    figures,
                    key,
                    "How many of the key neurons of each tag lie in each layer; layer 0 is the first after the"
                    " embedding.",
                    f"Heatmap: number of key neurons by layer and tag, {shown}; the table below holds its numbers",
                ),
                tables.layer_counts(key_layers(run, title), len(counts), method),
            ]
            found.blocks.append(Block(shown, (method, at), parts))
    return found


def neurons(run: Run) -> Group:
    """The best neurons of each tag."""
    found = Group(("ranking", "read at"))
    for (method, at), _ in groups(run.ranking, "method at"):
        table = tables.best_neurons(run, method, at)
        found.blocks.append(Block(f"{method}, ranked at {at}", (method, at), [table]))
    return found


def lesions(run: Run, figures: Figures) -> Group:
    """Lesion matrix, own effects against controls, and both as tables."""
    found = Group(("ranking", "ablation", "scope"))
    for (method, scope, ablation), rows in groups(run.lesions, "method scope ablation"):
        title, cells = where(method, ablation, scope), with_controls(rows, ablation)
        parts: list[Part] = [
            drawing(
                figures,
                ("lesions", method, ablation, scope),
                "Change of the loss of each measured tag (column) when the key neurons of a tag (row) are ablated. A"
                " dot marks a rise with q ≤ 0.05, one-sided, corrected for all cells: it is there over words and,"
                " where that can be compared, above what matched random sets and other tags’ neurons do. The colours"
                " show the change in nats per word, or the part of it that is about the category, or z against the"
                " matched controls (colours end at ±10), or the q-value; a grey cell is undefined.",
                f"Heatmap of lesioned tag by measured tag, {title}; the table of all cells below holds its numbers",
            ),
            drawing(
                figures,
                ("own", method, ablation, scope),
                "Each tag under the lesion of its own key neurons (diamond, 95 % interval over resampled clusters of"
                " words) and under each matched control lesion (dots): as many random neurons, matched as the run"
                " says, none of them a key neuron.",
                f"Strip plot of own-tag effects against matched controls, {title}; the next table holds its numbers",
                shrinks=True,
            ),
            tables.effects(
                own_effects(cells).to_dict("records"),
                "Each tag under the lesion of its own neurons. z and range are against its matched controls; z of"
                " fewer than 20 of them is a rough number. The category part is that of −ln P(tag): the rest is"
                " lexical. p of a rise: over words, against random neurons, against the other tags’; q corrects the"
                " largest of the three for all cells.",
            ),
            tables.effects(cells.to_dict("records"), "All cells of the matrix as a table", lesion=True),
        ]
        found.blocks.append(Block(title, (method, ablation, scope), parts))
    return found


def dissociations(run: Run, figures: Figures) -> Group:
    """Verdict matrix, counts, and all pairs."""
    found = Group(("ranking", "ablation", "scope", "loss"))
    for (method, scope, ablation, measure), rows in groups(run.dissociations, "method scope ablation measure"):
        loss = {"first": "whole loss", "category": "category part"}.get(measure, measure)
        title = where(method, ablation, scope) + ("" if measure == "first" else f", {measure} part of the loss")
        parts: list[Part] = [
            drawing(
                figures,
                ("dissociations", method, ablation, scope, measure),
                "Each row is a tag that suffers, each column the other tag of the pair: the colour is how much more the"
                " row’s tag loses under the lesion of its own neurons than under that of the column’s. The letter is"
                " the verdict of the pair, the same in both of its cells.",
                f"Heatmap of contrasts and verdicts of pairs of tags, {title}; the table of pairs holds its numbers",
            ),
            tables.verdicts(rows),
            tables.pairs_of_tags(rows),
        ]
        found.blocks.append(Block(title, (method, ablation, scope, loss), parts))
    return found


def sweeps(run: Run, figures: Figures) -> Group:
    """Curves with control bands."""
    found = Group(("ranking", "ablation", "scope"))
    for (method, scope, ablation), rows in groups(run.sweep, "method scope ablation"):
        title = where(method, ablation, scope)
        parts: list[Part] = []
        for (arm,), _ in groups(rows, "arm"):
            key = ("sweep", method, ablation, scope, arm)
            if key in figures:
                over = tables.ARMS.get(arm, f"by {arm}")
                caption = (
                    f"Rise of a tag’s own loss {over}; the menu chooses the tag. Bars of error are two"
                    " standard errors over clusters of words; the band is the range of the matched random sets, the"
                    " dotted line their mean, and grey the mean of the other tags."
                )
                alt = f"Curve of the rise of the loss {over}, {title}; the table holds its numbers"
                parts.append(drawing(figures, key, caption, alt, shrinks=True))
        if run.carriers is not None and len(rows_of := _of(run.carriers, method, ablation, scope)):
            parts.append(tables.carriers(rows_of))
        parts.append(tables.curve_points(swept_effects(rows)))
        found.blocks.append(Block(title, (method, ablation, scope), parts))
    return found


def _of(frame: Any, method: str, ablation: str, scope: str) -> Any:
    return frame[(frame["method"] == method) & (frame["scope"] == scope) & (frame["ablation"] == ablation)]


def probes(run: Run, figures: Figures) -> Group:
    """Probes beside their baselines."""
    found = Group(("ranking", "read at"))
    for result in run.probe or ():
        method, at = result["method"], result["at"]
        title = f"{method}, read at “{at}”"
        fitted = (
            f"Fitted on {result['train_words']:,} words, judged once on {result['test_words']:,}. Selectivity (accuracy"
            f" minus that of the control task): {tables.cell(result.get('selectivity')).text}."
        )
        parts: list[Part] = [
            drawing(
                figures,
                ("probe", method),
                "The probe beside its baselines, on test words. The control task gives each word a fixed random tag:"
                " what can be learnt of it is memory, not part of speech.",
                f"Bars: accuracy and macro-F1 of the probe and its baselines, {method}; the tables hold the numbers",
            ),
            fitted,
            tables.probe_scores(result),
            tables.probe_tags(result),
            drawing(
                figures,
                ("confusion", method, at),
                "Of each true tag (row), the share of its words that the probe read as each tag (column).",
                f"Heatmap: confusion of the probe, {title}; the table below holds its numbers",
            ),
            tables.confusions(result),
        ]
        found.blocks.append(Block(title, (method, at), parts))
    return found


def overlaps(run: Run, figures: Figures) -> Group:
    """Neurons that sets share."""
    found = Group(("sets of",))
    for (method, other), rows in groups(run.overlap, "method_a method_b"):
        if method != other:
            table = tables.shared_neurons(rows, between=True)
            found.blocks.append(Block(f"The same tag by {method} and by {other}", (f"{method} and {other}",), [table]))
            continue
        parts: list[Part] = [
            drawing(
                figures,
                ("overlap", method),
                "How many neurons the sets of two tags share. A dot marks more than random sets with as many neurons"
                " in each layer share (q ≤ 0.05). Sets that share more than that cannot be lesioned apart.",
                f"Heatmap: overlap of the key neurons of tags, {method}; the table below holds its numbers",
            ),
            tables.shared_neurons(rows),
        ]
        found.blocks.append(Block(f"Pairs of tags, {method}", (method,), parts))
    return found


def similarities(run: Run, figures: Figures) -> Group:
    """Tags that activations or lesions group together."""
    found = Group(("measured by",))
    for (source, method, ablation, scope), rows in groups(run.similarity, "source method ablation scope"):
        if rows["tag_a"].nunique() < 2:
            continue
        active = source == "activation"
        title = "activations" if active else f"lesions: {where(method, ablation, scope)}"
        key = ("similarity", "activation") if active else ("similarity", method, ablation, scope)
        what = "mean activation of every neuron" if active else "what its lesion does to every third tag"
        parts: list[Part] = [
            drawing(
                figures,
                key,
                f"How unlike two tags are: 1 − r of their profiles ({what}); 0 is the same, 1 unrelated. Tags are in"
                " the order of the tree above (average linkage), so that like ones stand side by side.",
                f"Heatmap with tree: dissimilarity of tags by {title}; the table below holds its numbers",
            ),
            tables.dissimilarities(rows),
        ]
        found.blocks.append(Block(f"By {title}", (title,), parts))
    return found


def pages(run: Run, figures: Figures) -> Iterator[dict[str, Any]]:
    """Each neuron page: name, its piece of HTML, its figure, and what it is listed under."""
    if run.pages is None:
        return
    from posneurons.neuron_pages import FIGURE_CAPTION, page_html

    for page in run.pages:
        alt = f"Densities of the activation of {page.name} by tag, and what ablating it alone does to each tag"
        yield {
            "name": page.name,
            "html": page_html(page),
            "figure": drawing(figures, ("neuron", page.name), FIGURE_CAPTION, alt, shrinks=True),
            "of": [{"method": each.method, "tag": each.tag, "rank": each.rank} for each in page.of],
        }
