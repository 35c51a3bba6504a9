"""A run directory to one page, `report.html`: self-contained, no network, written whole or not at all.

Here the files of the run are read and checked, and become sentences, figures and the rows of tables; the template
`report.html` lays them out, with autoescape on, and draws the figures with plotly.js, which stands in the page once
(4.8 MB: the Python package has the full bundle only). What the page claims is worded here, from the files' numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from posneurons import figures
from posneurons.errors import RunError
from posneurons.figures import BASELINES, number, with_controls
from posneurons.manifest import read_json, write_whole

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
FEW_WORDS = 50
"""Fewer words of a tag than this say little about one neuron's effect on it."""
RANKING = "method at tag layer neuron score rank"
LESIONS = "method lesion ablation scope draw tag words loss_intact delta ci_low ci_high q_value z_control"
DISSOCIATIONS = "method ablation scope tag_a tag_b contrast_a contrast_b q_value verdict"


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


def build_report(run_dir: Path) -> Path:
    """Write `report.html` from the other files of a run directory and return its path.

    A stage that was not run is said to be missing in its section. Raises RunError (where, found, expected, what to do)
    where the manifest, or a file of a stage that the manifest calls done, is missing or damaged; an older page stays.
    """
    run = read_run(run_dir)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    template = environment.from_string(files("posneurons").joinpath("report.html").read_text(encoding="utf-8"))
    page = template.render(
        manifest=run.manifest,
        findings=_findings(run),
        profiles=list(_profiles(run)),
        lesions=list(_lesions(run)),
        dissociations=list(_dissociations(run)),
        probes=list(_probes(run)),
        dropped=_dropped(run.manifest["dropped"]),
        baselines=BASELINES,
        looks={"light": figures.template().to_plotly_json(), "dark": figures.template(dark=True).to_plotly_json()},
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


def read_run(run_dir: Path) -> Run:
    """All files of a run directory that its manifest calls done. Raises RunError where one is missing or damaged."""
    path = run_dir / "manifest.json"
    manifest = _check(path, read_json(path), MANIFEST)
    stages = _check(path, manifest["stages"], {f"{stage}.state": str for stage in manifest["stages"]}, "stages: ")
    for row in manifest["dropped"]:
        _check(path, row, {"tag": str, "reason": str, "words": int}, "dropped: ")
    names = ("rank", "probe", "lesion", "verify")
    rank, probe, lesion, verify = (stages.get(name, {}).get("state") == "done" for name in names)
    return Run(
        manifest,
        ranking=_read_table(run_dir / "ranking.parquet", RANKING) if rank else None,
        neurons=_read_neurons(run_dir / "neurons.json") if rank else None,
        probe=_read_probe(run_dir / "probe.json") if probe else None,
        lesions=_read_table(run_dir / "lesions.parquet", LESIONS) if lesion else None,
        dissociations=_read_table(run_dir / "dissociations.parquet", DISSOCIATIONS) if lesion else None,
        verify=_read_verify(run_dir / "verify.json") if verify else None,
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
        raise _damaged(path, f"no column {', '.join(lacking)}", f"columns {', '.join(columns.split())}")
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


def _findings(run: Run) -> list[str]:
    found = [_lesion_finding(f"{method} neurons", rows) for (method, _), rows in _groups(run.lesions, "method scope")]
    for (method, _), rows in _groups(run.dissociations, "method scope"):
        verdicts = {ablation: _pairs(part)["verdict"] for (ablation,), part in _groups(rows, "ablation")}
        counts = [f"{sum(v == 'strong')} of {len(v)} pairs of tags ({name} ablation)" for name, v in verdicts.items()]
        found.append(
            f"With the {method} neurons, {' and '.join(counts)} dissociate both ways: each of the two tags suffers"
            " reliably more under the lesion of its own neurons than under the lesion of the other’s."
        )
    for result in run.probe or ():
        rivals = [
            f"{_percent(result['baselines'][name].get('accuracy'))} ({BASELINES[name]})"
            for name in ("random_neurons", "most_frequent_tag", "majority")
            if name in result["baselines"]
        ]
        found.append(
            f"A linear probe on the {result['method']} neurons, read at “{result['at']}”, names the tag of"
            f" {_percent(result.get('accuracy'))} of {result['test_words']:,} test words, against"
            f" {', '.join(rivals) or 'no baseline'}; no interval was computed for these."
        )
    return [*found, *_agreements(run.verify)]


def _agreements(verify: dict[str, Any] | None) -> Iterator[str]:
    """How well each ranking agrees with exact ablation: medians over the tags."""
    if verify is None:
        return
    frame = pd.DataFrame(verify["agreement"])
    for (estimate, exact), rows in _groups(frame[frame["words"] >= FEW_WORDS], "estimate exact"):
        middle = rows[["pearson", "spearman", "recall", "missed"]].astype(float).median()
        about = "the rise of the tag’s loss" if exact == "effect" else "the rise on the tag less that on the rest"
        linear = f"correlation {middle['pearson']:.3f}, " if pd.notna(middle["pearson"]) else ""
        yield (
            f"{estimate} against exact {verify['ablation']} ablation ({verify['scope']} scope) of"
            f" {verify['measured']:,} single neurons, {about};"
            f" medians over {len(rows)} tags with at least {FEW_WORDS} words: {linear}rank correlation"
            f" {middle['spearman']:.3f}, top {verify['top']} of the measured within the listed {verify['listed']}"
            f" {middle['recall']:.2f}, unlisted neurons as good as the last of the top at most {middle['missed']:.1%}."
        )


def _lesion_finding(whose: str, lesions: pd.DataFrame) -> str:
    """For how many tags the own lesion exceeds every control, what chance would give, and the largest such effect."""
    draws = lesions["draw"].max()
    if not draws > 0:
        return f"The {whose} were lesioned without matched controls, so nothing is claimed about the lesions."
    counts, largest = [], ""
    for ablation in lesions["ablation"].unique():
        own = _own(with_controls(lesions, ablation))
        tested = own[(own["controls"] > 0) & own["delta"].notna()]
        above = tested[(tested["delta"] > tested["control_high"]) & (tested["delta"] > 0)]
        chance = (1 / (tested["controls"] + 1)).sum()
        counts.append(f"{len(above)} of {len(tested)} tags under {ablation} ablation (by chance: about {chance:.1f})")
        for cell in above.head(0 if largest else 1).to_dict("records"):
            names = ("delta", "ci_low", "ci_high", "control_low", "control_high")
            largest = (
                " The largest of these effects under {} ablation is that on {}: {} nats per word"
                " (95 % interval {} to {}; controls {} to {})."
            ).format(ablation, cell["tag"], *(number(cell[name]) for name in names))
    return (
        f"Lesioning a tag’s own {whose} raises that tag’s loss more than every one of its {draws} matched control"
        f" lesions does, for {' and '.join(counts)}.{largest}"
    )


def _own(cells: pd.DataFrame) -> pd.DataFrame:
    """Each tag's own lesion measured on that tag, the largest effect first."""
    return cells[cells["lesion"] == cells["tag"]].sort_values("delta", ascending=False, kind="stable")


def _profiles(run: Run) -> Iterator[dict[str, Any]]:
    for (title,), rows in _groups(run.neurons, "method"):
        method, _, position = title.partition("@")
        at = position or run.manifest["config"].get("at")
        n_layers = run.manifest["model"].get("n_layers") or int(rows["layer"].max()) + 1
        top = {
            tag: ranked.nsmallest(10, "rank").to_dict("records")
            for (name, place, tag), ranked in _groups(run.ranking, "method at tag")
            if (name, place) == (method, at)
        }
        figure = figures.layer_profile(rows, n_layers, list(rows["tag"].unique()))
        shown = method if run.manifest["config"].get("neurons") else f"{method}, ranked at {at}"
        yield {"title": shown, "figure": _drawing(figure), "top": top}


def _lesions(run: Run) -> Iterator[dict[str, Any]]:
    order = None if run.neurons is None else list(run.neurons["tag"].unique())
    for (method, scope, ablation), rows in _groups(run.lesions, "method scope ablation"):
        cells = with_controls(rows, ablation)
        yield {
            "title": f"{method}, {ablation} ablation" + ("" if scope == "all" else f", scope {scope}"),
            "matrix": _drawing(figures.lesion_matrix(rows, ablation, order)),
            "own": _drawing(figures.lesion_against_controls(rows, ablation)),
            "own_cells": _own(cells).to_dict("records"),
            "cells": cells.to_dict("records"),
        }


def _pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each unordered pair of tags, the strongest verdict of the two; largest smaller contrast first."""
    names = ["\t".join(sorted(pair)) for pair in zip(rows["tag_a"], rows["tag_b"], strict=True)]
    strength = rows["verdict"].map({"strong": 0, "one-way": 1}).fillna(2)
    pairs = rows.assign(pair=names, strength=strength, smaller=rows[["contrast_a", "contrast_b"]].min(axis=1))
    pairs = pairs.sort_values("strength", kind="stable").drop_duplicates("pair")
    return pairs.sort_values("smaller", ascending=False, kind="stable")


def _dissociations(run: Run) -> Iterator[dict[str, Any]]:
    for (method, scope, ablation), rows in _groups(run.dissociations, "method scope ablation"):
        pairs = _pairs(rows)
        yield {
            "title": f"{method}, {ablation} ablation" + ("" if scope == "all" else f", scope {scope}"),
            "counts": pairs["verdict"].value_counts().to_dict(),
            "strong": pairs[pairs["verdict"] == "strong"].head(10).to_dict("records"),
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


def _groups(frame: pd.DataFrame | None, columns: str) -> Iterable[tuple[Any, pd.DataFrame]]:
    """The rows of each combination of values, in order of appearance; nothing where there is no frame."""
    return () if frame is None else frame.groupby(columns.split(), sort=False)


def _percent(share: float | None) -> str:
    return number(None if share is None else 100 * share, ".1f") + " %"


def _drawing(figure: Any) -> dict[str, Any]:
    """A figure as JSON values; its template stays out, the page has both."""
    drawing: dict[str, Any] = json.loads(figure.to_json())
    del drawing["layout"]["template"]
    return drawing
