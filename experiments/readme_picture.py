"""What did a run find? Its lesion matrix, beside what each tag's own lesion does to it and what random ones do.

Command:  python experiments/readme_picture.py --run runs/demo [--method attribution] [--ablation mean]
Cost:     some seconds; nothing is computed, the tables of the run are read.
Outcome:  the picture of the README: lesioned tags as rows, measured tags as columns, rows ordered by their own effect.

A dot marks q <= 0.05, corrected over the whole run. Both scales end where the second largest own effect does, so
that one tag far above the others (NUM, whose neurons hold digits) does not hide them; its number is written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import setting
from plotly.subplots import make_subplots

from posneurons.files import read_json
from posneurons.theme import error_bars, label, number


def chosen(run: Path, method: str, ablation: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The lesions of one method and ablation, and the configuration of the run."""
    manifest, lesions = read_json(run / "manifest.json"), pd.read_parquet(run / "lesions.parquet")
    rows = lesions[(lesions["method"] == method) & (lesions["ablation"] == ablation)]
    if rows.empty:
        pairs = lesions[["method", "ablation"]].drop_duplicates().itertuples(index=False, name=None)
        sys.exit(f"{run}: no lesions of {method}, {ablation}; expected one of {'; '.join(map(', '.join, pairs))}")
    return rows, manifest


def picture(rows: pd.DataFrame) -> go.Figure:
    """Left the matrix, right the own effects in the same lines."""
    effects = setting.own(rows)
    tags = list(effects["lesion"])
    limit = float(effects["delta"].iloc[min(1, len(tags) - 1)])
    keys = rows[rows["set"] == "key"]
    table, q = (
        keys.set_index(["lesion", "tag"])[name].unstack().reindex(tags)[tags]  # noqa: PD010
        for name in ("delta", "q_value")
    )
    titles = ["each tag’s words, rise of the loss in nats per word", "the tag’s own words"]
    how: dict[str, Any] = {"shared_yaxes": True, "horizontal_spacing": 0.2, "subplot_titles": titles}
    figure = make_subplots(cols=2, column_widths=[0.54, 0.46], **how)
    x, y = list(range(len(tags))), list(range(len(tags)))
    bar = {
        "thickness": 10,
        "x": 0.44,
        "xanchor": "left",
        "len": 0.95,
        "tickfont_size": 11,
        "title": {"text": "nats", "side": "top"},
    }
    scale = {"zmin": -limit, "zmax": limit, "colorbar": bar}
    marks = np.where(q.to_numpy() <= 0.05, "•", "")
    figure.add_heatmap(x=x, y=y, z=table.to_numpy(), text=marks, texttemplate="%{text}", **scale, row=1, col=1)
    random = rows[(rows["set"] == "matched") & (rows["lesion"] == rows["tag"])]
    places = random["lesion"].map(dict(zip(tags, y, strict=True)))
    dots = {"color": setting.GREY, "size": 6, "opacity": 0.6}
    figure.add_scatter(
        x=random["delta"], y=places, mode="markers", marker=dots, name="matched random neurons", row=1, col=2
    )
    error = error_bars(effects["ci_low"], effects["delta"], effects["ci_high"], width=0, color=setting.BLUE)
    look = {"mode": "markers", "marker": {"color": setting.BLUE, "size": 10, "symbol": "diamond"}, "error_x": error}
    figure.add_scatter(x=effects["delta"], y=y, name="the tag’s own neurons, 95 % interval", **look, row=1, col=2)
    end = 1.12 * float(np.nanmax([limit, effects["ci_high"].iloc[1:].max()]))
    for place, value in enumerate(effects["delta"]):
        if value > end:
            setting.said(figure, end, place, f"{number(value)} →", colour=setting.BLUE, panel=2, xanchor="right")
    names = [label(tag) for tag in tags]
    figure.update_xaxes(
        tickvals=x,
        ticktext=names,
        tickangle=-60,
        title_text="words measured",
        showgrid=False,
        col=1,
        zeroline=False,
        ticks="",
    )
    low = min(0.0, float(effects["ci_low"].min()), float(random["delta"].min() if len(random) else 0))
    figure.update_xaxes(title_text=setting.RISE, range=[1.15 * low, end], col=2)
    lines = {"tickvals": y, "ticktext": names, "range": [len(tags) - 0.5, -0.5], "zeroline": False}
    figure.update_yaxes(**lines, showgrid=False, title_text="neurons lesioned", ticks="", col=1)
    sizes = [f"{name} ({int(n):,})" for name, n in zip(names, effects["words"], strict=True)]
    return figure.update_yaxes(**lines | {"ticktext": sizes}, showticklabels=True, title_text="tag (test words)", col=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a run directory (default runs/demo)")
    parser.add_argument("--method", default="attribution")
    parser.add_argument("--ablation", default="mean")
    parser.add_argument("--figure", type=Path, default=setting.FIGURES / "readme.svg", help="where the figure goes")
    options = parser.parse_args()
    rows, manifest = chosen(options.run, options.method, options.ablation)
    words = rows.drop_duplicates("tag")["words"]
    tags = rows["lesion"].nunique()
    draws = int(rows.loc[rows["set"] == "matched", "draw"].max()) if (rows["set"] == "matched").any() else 0
    bank = manifest["treebank"]["name"] if isinstance(manifest["treebank"], dict) else manifest["treebank"]
    figure = setting.captioned(
        picture(rows),
        "What the lesion of each tag’s neurons does to the words of every tag",
        f"{setting.treebank_of(bank)}; {manifest['config']['top']} best neurons of each of {tags} tags by "
        f"{options.method}, under {options.ablation} ablation; {int(words.sum()):,} test words; grey: {draws} random "
        "sets for each tag, matched in layer and size; dot: q ≤ 0.05.",
        height=520,
        legend=1,
    )
    figure.update_layout(width=880)
    setting.save(figure, options.figure)


if __name__ == "__main__":
    main()
