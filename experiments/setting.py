"""What the experiments with a figure share: options, model and words, captions, and how figures are kept."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from tables import markdown

import posneurons as pn
from posneurons.config import Config
from posneurons.corpora import read_corpus, read_treebank
from posneurons.exporting import save_figure
from posneurons.lesion_study import Workbench
from posneurons.records import Corpus
from posneurons.run_rows import own_effects, with_controls
from posneurons.theme import BAND, LIGHT, label, number, template

FIGURES = Path(__file__).parent / "figures"
TAGS = ("NOUN", "VERB", "ADJ", "ADV", "PRON", "DET", "ADP", "AUX")
BLUE, ORANGE, GREEN, PINK, GREY, RED, SKY = LIGHT["colorway"]
INK = LIGHT["base"][0]
RISE = "rise of the loss (nats per word)"
LEAST = 20
"""Words that a tag needs in each split; those with fewer are left out."""


def parser(
    doc: str | None, name: str, *, controls: int, words: int = 0, tags: Sequence[str] = TAGS, several: bool = False
) -> argparse.ArgumentParser:
    """The options that all of them have; `name` is that of the figure, `several` allows for more than one treebank."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--model", default="demo", help="'demo', a name, or a folder")
    more: dict[str, Any] = {"action": "extend", "nargs": "+"} if several else {"default": "demo"}
    found.add_argument("--treebank", help="'demo', a code, a CoNLL-U file, or a folder of them", **more)
    found.add_argument("--words", type=int, default=words, help=f"test words to read, 0 for all (default {words})")
    found.add_argument("--train-words", type=int, default=0, help="training words to rank on, 0 for all (default)")
    found.add_argument("--controls", type=int, default=controls, help=f"random sets of each (default {controls})")
    found.add_argument("--tags", nargs="+", default=list(tags), help="whose neurons are lesioned")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--figure", type=Path, default=FIGURES / f"{name}.svg", help="where the figure goes")
    return found


def load_model(options: argparse.Namespace) -> Any:
    """The model in float32, so that numbers are the same on every machine, but for rounding."""
    return pn.load_model(options.model, dtype=torch.float32)


def read(options: argparse.Namespace, model: Any, treebank: str | None = None, *, whole: bool = False) -> Corpus:
    """The aligned words, unless `whole` with fewer training rows where that was asked for; splits as in a run."""
    config = Config(treebank=treebank or options.treebank, cache=getattr(options, "cache", None), seed=options.seed)
    corpus, _ = read_corpus(config, read_treebank(config)[0], model.tokenizer, model.cfg.n_ctx)
    fewer = options.train_words and not whole
    return shortened(corpus, options.train_words, options.seed, split="train") if fewer else corpus


def treebank_of(name: str) -> str:
    """What captions call a treebank."""
    return "Embedded treebank" if name == "demo" else f"Treebank {name}"


def shortened(corpus: Corpus, words: int, seed: int, *, split: str = "test") -> Corpus:
    """Random rows of one split with about so many words, and all rows of the others."""
    mine = corpus.row_split == corpus.split_names.index(split)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(mine))
    sizes = np.bincount(corpus.word_row, minlength=corpus.n_rows)[rows]
    kept = rows[: int(np.searchsorted(sizes.cumsum(), words)) + 1]
    return corpus.select(~mine | np.isin(np.arange(corpus.n_rows), kept))


def bench_of(model: Any, corpus: Corpus, options: argparse.Namespace) -> Workbench:
    """What the lesions share, on as many test words as were asked for."""
    return Workbench(model, corpus, words=options.words or None, seed=options.seed)


def common_tags(bench: Workbench, tags: Sequence[str]) -> list[str]:
    """Those of the tags that have enough words both to rank on and to read."""
    counts = [part.tag_counts() for part in (bench.train, bench.test)]
    return [tag for tag in tags if all(each.get(tag, 0) >= LEAST for each in counts)]


def own(frame: pd.DataFrame) -> pd.DataFrame:
    """What each tag's key neurons do to the tag itself, beside the range of its matched random sets; by tag."""
    cells = with_controls(frame, frame["ablation"].iloc[0])
    return own_effects(cells).set_index("lesion", drop=False)


def interval(value: float, low: float, high: float) -> str:
    """A number with its 95 % interval, where it has one, as the tables show it."""
    return number(value) if np.isnan(value) or np.isnan(low) else f"{number(value)} ({number(low)} to {number(high)})"


def told(cells: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Of each row its rise with interval, marked where all tests are passed (q <= 0.05), and the range of controls."""
    rows = cells.to_dict("records")
    rises = [interval(*(row[name] for name in ("delta", "ci_low", "ci_high"))) for row in rows]
    marks = [" \\*" if row["q_value"] <= 0.05 else "" for row in rows]
    ranges = [" to ".join(number(row[name]) for name in ("control_low", "control_high")) for row in rows]
    return list(map(str.__add__, rises, marks)), [each.replace("– to –", "") for each in ranges]


def passed(cells: pd.DataFrame) -> dict[str, Any]:
    """For how many tags the own lesion does harm, and more than each of its random sets; how many pass all tests."""
    above = (cells["delta"] > cells["control_high"]) & (cells["delta"] > 0)
    sure = (cells["q_value"] <= 0.05).sum()
    return {"tags": len(cells), "above all random sets": int(above.sum()), "q <= 0.05": int(sure)}


def said(figure: go.Figure, x: Any, y: Any, text: str, *, colour: str = INK, panel: int = 1, **more: Any) -> None:
    """A direct label in one of the panels of a row, at the place of some data."""
    axis = "" if panel == 1 else str(panel)
    look = {
        "showarrow": False,
        "bgcolor": "rgba(255, 255, 255, 0.75)",
        "borderpad": 1,
        "font": {"color": colour, "size": 12},
        "xref": f"x{axis}",
        "yref": f"y{axis}",
    }
    figure.add_annotation(x=x, y=y, text=label(text), **(look | more))


def captioned(figure: go.Figure, title: str, caption: str, *, height: int = 420, legend: int = 0) -> go.Figure:
    """The figure with what it shows above it, then how many words and random sets stand behind it, then its legend.

    `legend` is how many lines the legend takes; the height is that of the whole.
    """
    lines = textwrap.wrap(caption, 106)
    head = 52 + 17 * len(lines)
    subtitle = {"text": "<br>".join(map(label, lines)), "font": {"size": 12, "color": LIGHT["base"][3]}}
    heading = {"text": f"<b>{label(title)}</b>", "font": {"size": 16, "color": INK}, "subtitle": subtitle}
    place = {"x": 0, "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 12, "l": 12}}
    figure.update_layout(template=template(), width=760, height=height, showlegend=bool(legend), title=heading | place)
    where = {"xref": "container", "x": 0.01, "yref": "container", "y": 1 - (head - 8) / height, "yanchor": "top"}
    figure.update_layout(legend={"font": {"size": 12}, "itemwidth": 30} | where)
    figure.update_layout(margin={"t": head + 24 * legend + 26, "l": 12, "r": 16, "b": 12})
    figure.for_each_annotation(
        lambda each: each.update(font_size=13) if each.yanchor == "bottom" and each.yref == "paper" else None
    )
    figure.update_xaxes(title_font_size=13, tickfont_size=12)
    return figure.update_yaxes(title_font_size=13, tickfont_size=12)


def of_tags(figure: go.Figure, cells: pd.DataFrame, order: Sequence[str], *, panel: int) -> None:
    """Name the lines of a panel after tags and how many test words each has; line 0 is the lowest."""
    ticks = [f"{label(tag)} ({int(cells.loc[tag, 'words']):,})" for tag in order]
    look = {"tickvals": list(range(len(order))), "ticktext": ticks, "showgrid": False, "zeroline": False}
    figure.update_yaxes(title_text="tag (test words)", range=[-0.55, len(order) - 0.45], col=panel, **look)


def random_ranges(figure: go.Figure, effects: Sequence[pd.DataFrame], order: Sequence[str], *, panel: int) -> None:
    """Grey behind each tag's line: the range of all random sets of all the tables."""
    for place, tag in enumerate(order):
        low, high = (
            fold(float(each.loc[tag, name]) for each in effects)
            for name, fold in (("control_low", min), ("control_high", max))
        )
        ends = {"x": [low, high, high, low], "y": [place - 0.4, place - 0.4, place + 0.4, place + 0.4]}
        look = {"fill": "toself", "fillcolor": BAND, "mode": "none", "name": "random sets, range"}
        figure.add_scatter(**ends, **look, showlegend=not place, row=1, col=panel)


def save(figure: go.Figure, path: Path) -> None:
    """Keep a figure as a file, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path, width=figure.layout.width)
    sys.stdout.write(f"{path}\n")


def finish(
    figure: go.Figure, tables: Sequence[pd.DataFrame], lines: Sequence[str], options: argparse.Namespace
) -> None:
    """Print the tables and the sentences, and keep the figure."""
    sys.stdout.write("\n\n".join([*(markdown(each) for each in tables), *lines]) + "\n")
    save(figure, options.figure)
