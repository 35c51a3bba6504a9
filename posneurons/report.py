"""A run directory to one page, `report.html`: self-contained, no network, written whole or not at all.

Here the files of the run are read and checked, and become figures and the rows of tables; the template `report.html`
lays them out, with autoescape on, and draws the figures with plotly.js, which stands in the page once (4.8 MB: the
Python package has the full bundle only). What the page claims is worded by `findings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from posneurons import curves, figures
from posneurons.errors import RunError
from posneurons.figures import BASELINES, with_controls
from posneurons.findings import groups, own_effects, sentences, unordered_pairs
from posneurons.manifest import read_json, write_whole
from posneurons.theme import number, template

MANIFEST: dict[str, type] = {
    **dict.fromkeys(("posneurons", "command", "created", "platform"), str),
    **dict.fromkeys(("config", "model", "treebank", "versions", "stages"), dict),
    **dict.fromkeys(("dropped", "warnings"), list),
}
PROBE: dict[str, type] = {
    **dict.fromkeys(("method", "at"), str),
    **dict.fromkeys(("n_neurons", "train_words", "test_words"), int),
    **dict.fromkeys(("classes", "confusion"), list),
    **dict.fromkeys(("per_tag_f1", "baselines"), dict),
}
VERIFY: dict[str, type] = {
    **dict.fromkeys(("ablation", "scope"), str),
    **dict.fromkeys(("top", "listed", "measured"), int),
    "agreement": list,
}
RANKING = "method at tag layer neuron score rank"
LESIONS = (
    "method lesion ablation scope set draw tag words loss_intact delta percent delta_category ci_low ci_high p_items"
    " p_controls p_others q_value z_control"
)
DISSOCIATIONS = (
    "method ablation scope measure tag_a tag_b contrast_a contrast_b cross_a cross_b p_sets q_value equivalence_p"
    " margin verdict"
)
SWEEP = (
    "method lesion arm k layer ablation scope set draw tag neurons words delta se control_mean control_low control_high"
    " z_control"
)
CARRIERS = "method lesion ablation scope k_max rise se k_beyond k_half"


@dataclass(frozen=True)
class Run:
    """What the files of a run directory hold; None where the stage that writes a file is not done."""

    manifest: dict[str, Any]
    ranking: pd.DataFrame | None
    neurons: pd.DataFrame | None
    probe: list[dict[str, Any]] | None
    lesions: pd.DataFrame | None
    dissociations: pd.DataFrame | None
    verify: dict[str, Any] | None
    sweep: pd.DataFrame | None
    carriers: pd.DataFrame | None


def build_report(run_dir: Path) -> Path:
    """Write `report.html` from the other files of a run directory and return its path.

    A stage that was not run is said to be missing in its section. Raises RunError (where, found, expected, what to do)
    where the manifest, or a file of a stage that the manifest calls done, is missing or damaged; an older page stays.
    """
    run = read_run(run_dir)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    page_of = environment.from_string(files("posneurons").joinpath("report.html").read_text(encoding="utf-8"))
    page = page_of.render(
        manifest=run.manifest,
        findings=_findings(run),
        profiles=list(_profiles(run)),
        lesions=list(_lesions(run)),
        dissociations=list(_dissociations(run)),
        sweeps=list(_sweeps(run)),
        probes=list(_probes(run)),
        dropped=_dropped(run.manifest["dropped"]),
        baselines=BASELINES,
        looks={"light": template().to_plotly_json(), "dark": template(dark=True).to_plotly_json()},
        plotly=Markup(get_plotlyjs()),  # noqa: S704 (plotly's own script, nothing of ours in it)
    )
    path = run_dir / "report.html"
    write_whole(path, lambda part: part.write_text(page, encoding="utf-8"))
    return path


def findings(run_dir: Path) -> list[str]:
    """What a run found: a sentence or two for each method and test, claiming no more than the tests say.

    Raises RunError where a file is missing or damaged.
    """
    return _findings(read_run(run_dir))


def _findings(run: Run) -> list[str]:
    found = sentences(run.lesions, run.dissociations, run.probe or (), run.verify)
    notes = run.manifest.get("notes")
    known = notes.get("fluency") if isinstance(notes, dict) else None
    if found and isinstance(known, dict) and known.get("knows") is False:
        found.insert(0, "The model does not know this treebank’s language (see the warnings): read what follows so.")
    return found


def read_run(run_dir: Path) -> Run:
    """All files of a run directory that its manifest calls done. Raises RunError where one is missing or damaged."""
    path = run_dir / "manifest.json"
    manifest = _check(path, read_json(path), MANIFEST)
    stages = _check(path, manifest["stages"], {f"{stage}.state": str for stage in manifest["stages"]}, "stages: ")
    for row in manifest["dropped"]:
        _check(path, row, {"tag": str, "reason": str, "words": int}, "dropped: ")
    names = ("rank", "probe", "lesion", "verify", "sweep")
    rank, probe, lesion, verify, sweep = (stages.get(name, {}).get("state") == "done" for name in names)
    return Run(
        manifest,
        ranking=_read_table(run_dir / "ranking.parquet", RANKING) if rank else None,
        neurons=_read_neurons(run_dir / "neurons.json") if rank else None,
        probe=_read_probe(run_dir / "probe.json") if probe else None,
        lesions=_read_table(run_dir / "lesions.parquet", LESIONS) if lesion else None,
        dissociations=_read_table(run_dir / "dissociations.parquet", DISSOCIATIONS) if lesion else None,
        verify=_read_verify(run_dir / "verify.json") if verify else None,
        sweep=_read_table(run_dir / "sweep.parquet", SWEEP) if sweep else None,
        carriers=_read_table(run_dir / "carriers.parquet", CARRIERS) if sweep else None,
    )


def _damaged(path: Path, found: str, expected: str) -> RunError:
    return RunError(f"{path}: {found}; expected {expected}; delete it and run the same command again")


def _check(path: Path, value: Any, fields: dict[str, type], where: str = "") -> dict[str, Any]:
    """The mapping itself. Raises RunError where a dotted name of `fields` is not in it, or is of another type."""
    if not isinstance(value, dict):
        raise _damaged(path, f"{where}{value!r:.40}", "a JSON object")
    for name, kind in fields.items():
        found: Any = value
        for key in name.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, kind):
            raise _damaged(path, f"{where}{name} is {'missing' if found is None else repr(found)[:40]}", kind.__name__)
    return value


def _read_table(path: Path, columns: str) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError:
        raise _damaged(path, "no such file", "a file of a finished run") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, f"damaged ({str(error).splitlines()[0]})", "a Parquet table") from None
    if lacking := [name for name in columns.split() if name not in frame]:
        expected = f"columns {', '.join(columns.split())} (an older version of posneurons wrote fewer)"
        raise _damaged(path, f"no column {', '.join(lacking)}", expected)
    return frame


def _read_neurons(path: Path) -> pd.DataFrame:
    """The key neurons, a row (method, tag, layer) for each. A method at another position is named `method@position`."""
    content = _check(path, read_json(path), {})
    rows = []
    for method, tags in content.items():
        for tag, names in _check(path, tags, {}, f"{method}: ").items():
            _check(path, tags, {tag: list}, f"{method}: ")
            layers = [re.fullmatch(r"L(\d+)N\d+", str(name)) for name in names]
            if None in layers:
                raise _damaged(path, f"{method}, {tag}: {names[layers.index(None)]!r}", "a name like L3N12")
            rows += [(method, tag, int(layer[1])) for layer in layers if layer]
    return pd.DataFrame(rows, columns=["method", "tag", "layer"])


def _read_probe(path: Path) -> list[dict[str, Any]]:
    results = _check(path, read_json(path), {"results": list})["results"]
    for i, result in enumerate(results):
        size = len(_check(path, result, PROBE, f"result {i}: ")["classes"])
        if [len(row) for row in result["confusion"]] != [size] * size:
            raise _damaged(path, f"result {i}: the confusion is not {size} × {size}", "a row and a column per class")
    return list(results)


def _read_verify(path: Path) -> dict[str, Any]:
    content = _check(path, read_json(path), VERIFY)
    for row in content["agreement"]:
        _check(path, row, {"estimate": str, "tag": str, "exact": str}, "agreement: ")
    return content


def _profiles(run: Run) -> Iterator[dict[str, Any]]:
    for (title,), rows in groups(run.neurons, "method"):
        method, _, position = title.partition("@")
        at = position or run.manifest["config"].get("at")
        n_layers = run.manifest["model"].get("n_layers") or int(rows["layer"].max()) + 1
        top = {
            tag: ranked.nsmallest(10, "rank").to_dict("records")
            for (name, place, tag), ranked in groups(run.ranking, "method at tag")
            if (name, place) == (method, at)
        }
        figure = figures.layer_profile(rows, n_layers, list(rows["tag"].unique()))
        shown = method if run.manifest["config"].get("neurons") else f"{method}, ranked at {at}"
        yield {"title": shown, "figure": _drawing(figure), "top": top}


def _lesions(run: Run) -> Iterator[dict[str, Any]]:
    order = None if run.neurons is None else list(run.neurons["tag"].unique())
    for (method, scope, ablation), rows in groups(run.lesions, "method scope ablation"):
        cells = with_controls(rows, ablation)
        yield {
            "title": f"{method}, {ablation} ablation" + ("" if scope == "all" else f", scope {scope}"),
            "matrix": _drawing(figures.lesion_matrix(rows, ablation, order)),
            "own": _drawing(figures.lesion_against_controls(rows, ablation)),
            "own_cells": own_effects(cells).to_dict("records"),
            "cells": cells.to_dict("records"),
        }


def _dissociations(run: Run) -> Iterator[dict[str, Any]]:
    for (method, scope, ablation, measure), rows in groups(run.dissociations, "method scope ablation measure"):
        pairs = unordered_pairs(rows)
        part = "" if measure == "first" else f", {measure} part of the loss"
        yield {
            "title": f"{method}, {ablation} ablation" + ("" if scope == "all" else f", scope {scope}") + part,
            "counts": pairs["verdict"].value_counts().to_dict(),
            "strong": pairs[pairs["verdict"].isin(["classical", "strong"])].head(10).to_dict("records"),
            "margin": f"{rows['margin'].max():g}",
        }


def _sweeps(run: Run) -> Iterator[dict[str, Any]]:
    for (method, scope, ablation), rows in groups(run.sweep, "method scope ablation"):
        own = rows[(rows["lesion"] == rows["tag"]) & (rows["set"] == "key") & (rows["words"] > 0)]
        table = pd.DataFrame() if run.carriers is None else run.carriers
        here = (table["method"] == method) & (table["scope"] == scope) & (table["ablation"] == ablation)
        yield {
            "title": f"{method}, {ablation} ablation" + ("" if scope == "all" else f", scope {scope}"),
            "carriers": table[here].sort_values("k_beyond", kind="stable").to_dict("records"),
            "figures": {
                arm: _drawing(curves.by_tag({tag: curves.curve(rows, tag, arm) for tag in tags["lesion"].unique()}))
                for (arm,), tags in groups(own, "arm")
            },
        }


def _probes(run: Run) -> Iterator[dict[str, Any]]:
    for method in dict.fromkeys(result["method"] for result in run.probe or ()):
        results = [result for result in run.probe or () if result["method"] == method]
        drawn = [{**result, "figure": _drawing(figures.confusion(result))} for result in results]
        yield {"title": method, "bars": _drawing(figures.probe_bars(results)), "results": drawn}


def _dropped(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Words left out, over all splits: a row for each tag, a column for each reason, and `together`."""
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows).pivot_table(index="tag", columns="reason", values="words", aggfunc="sum", fill_value=0)
    return table.assign(together=table.sum(axis=1)).sort_values("together", ascending=False, kind="stable")


def _drawing(figure: Any) -> dict[str, Any]:
    """A figure as JSON values; its template stays out, the page has both."""
    drawing: dict[str, Any] = json.loads(figure.to_json())
    del drawing["layout"]["template"]
    return drawing
