"""The figures of a run, each under a name that can be a file's: for the page, and for whoever wants them as files.

Which rows of which table become which figure is decided here; how one is drawn, in the drawing modules. The tree that
orders similar tags is the only thing that is computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from posneurons import curves, figures, similarity
from posneurons.dissociation_figures import verdict_matrix
from posneurons.overlap_figures import overlap_matrix
from posneurons.run_files import Run
from posneurons.run_rows import groups, swept_effects
from posneurons.similarity_figures import tag_tree

Key = tuple[str, ...]
"""What is drawn, and of what: ("lesions", method, ablation, scope)."""
Keyed = Iterator[tuple[Key, go.Figure]]


def file_name(*words: object) -> str:
    """Words to a name for a figure: letters, digits, ".", "_" and "=" of them, joined by hyphens.

    >>> file_name("lesions", "attribution(scope=local, contrast)", "mean", "all")
    'lesions-attribution-scope=local-contrast-mean-all'
    """
    parts = (re.sub(r"[^\w.=]+", "-", str(word)).strip("-.") for word in words)
    return "-".join(part for part in parts if part)


def figures_of(run: Run, *, pages: bool = True) -> dict[str, go.Figure]:
    """All figures of a run by name: what a table of it has no rows for is left out.

    Names begin with what is drawn: `layers-METHOD`, `lesions-METHOD-ABLATION-SCOPE` and `own-...` (against controls),
    `dissociations-METHOD-ABLATION-SCOPE-MEASURE`, `sweep-METHOD-ABLATION-SCOPE-ARM`, `probe-METHOD`,
    `confusion-METHOD-POSITION`, `overlap-METHOD`, `similarity-activation`, `similarity-METHOD-ABLATION-SCOPE` and
    `neuron-L3N12`. Names that would be the same get a number.

    Args:
        run: what the files hold, as `run_files.read_run` gives it.
        pages: with the figures of the neuron pages.
    """
    found: dict[str, go.Figure] = {}
    for key, figure in keyed_figures(run, pages=pages).items():
        found[_free(file_name(*key), found)] = figure
    return found


def keyed_figures(run: Run, *, pages: bool = True) -> dict[Key, go.Figure]:
    """The same by what is drawn, with names as they are in the tables: ("lesions", method, ablation, scope)."""
    parts = (_layers, _lesions, _dissociations, _sweeps, _probes, _overlaps, _similarities, _pages)
    return {key: figure for part in parts if pages or part is not _pages for key, figure in part(run)}


def _free(name: str, taken: dict[str, go.Figure]) -> str:
    """The name, or the first of name-2, name-3, ... that no other figure has."""
    count, free = 1, name
    while free in taken:
        count += 1
        free = f"{name}-{count}"
    return free


def key_layers(run: Run, method: str) -> pd.DataFrame:
    """A row (tag, layer) for each key neuron of a method of neurons.json."""
    rows = [(tag, int(name[1:].partition("N")[0])) for tag, names in run.keys[method].items() for name in names]
    return pd.DataFrame(rows, columns=["tag", "layer"])


def _layers(run: Run) -> Keyed:
    for method in run.keys:
        rows = key_layers(run, method)
        if len(rows):
            n_layers = run.manifest["model"].get("n_layers") or int(rows["layer"].max()) + 1
            yield ("layers", method), figures.layer_profile(rows, n_layers, list(run.keys[method]))


def _lesions(run: Run) -> Keyed:
    for (method, scope, ablation), rows in groups(run.lesions, "method scope ablation"):
        yield ("lesions", method, ablation, scope), figures.lesion_matrix(rows, ablation, run.tags)
        yield ("own", method, ablation, scope), figures.lesion_against_controls(rows, ablation)


def _dissociations(run: Run) -> Keyed:
    for (method, scope, ablation, measure), rows in groups(run.dissociations, "method scope ablation measure"):
        yield ("dissociations", method, ablation, scope, measure), verdict_matrix(rows, run.tags)


def _sweeps(run: Run) -> Keyed:
    for (method, scope, ablation), rows in groups(run.sweep, "method scope ablation"):
        for (arm,), tags in groups(swept_effects(rows), "arm"):
            drawn = {tag: curves.curve(rows, tag, arm) for tag in tags["lesion"].unique()}
            yield ("sweep", method, ablation, scope, arm), curves.by_tag(drawn)


def _probes(run: Run) -> Keyed:
    for method in dict.fromkeys(result["method"] for result in run.probe or ()):
        results = [result for result in run.probe or () if result["method"] == method]
        yield ("probe", method), figures.probe_bars(results)
        for result in results:
            yield ("confusion", method, result["at"]), figures.confusion(result)


def _overlaps(run: Run) -> Keyed:
    for (method, other), rows in groups(run.overlap, "method_a method_b"):
        if method == other:
            yield ("overlap", method), overlap_matrix(rows, run.tags)


def _similarities(run: Run) -> Keyed:
    for (source, method, ablation, scope), rows in groups(run.similarity, "source method ablation scope"):
        words = ("activation",) if source == "activation" else (method, ablation, scope)
        yield ("similarity", *words), similar_tags(rows)


def similar_tags(rows: pd.DataFrame) -> go.Figure:
    """Matrix and tree of one block of similarity.parquet; tags with gaps have no branch."""
    table = rows.pivot_table(index="tag_a", columns="tag_b", values="dissimilarity", dropna=False, sort=False)
    tags = [str(tag) for tag in table.index]
    values = table.reindex(columns=table.index).to_numpy(dtype=np.float64, copy=True)
    known = _complete(values)
    leaves, merges = [tags[place] for place in known], pd.DataFrame(columns=["left", "right", "height", "size"])
    if len(known) > 1:
        part = values[np.ix_(known, known)]
        part = (part + part.T) / 2  # a table may differ in the last digit
        np.fill_diagonal(part, 0)
        found = similarity.Dissimilarity("tags", tuple(leaves), part)
        tree = similarity.cluster(found)
        leaves, merges = list(tree.leaves), tree.merges
    return tag_tree(values, tags, leaves, merges)


def _complete(values: Any) -> list[int]:
    """Places of tags without a gap among them: the one with most gaps is left out, again and again."""
    known = list(range(len(values)))
    while known and (gaps := np.isnan(values[np.ix_(known, known)]).sum(axis=1)).any():
        del known[int(gaps.argmax())]
    return known


def _pages(run: Run) -> Keyed:
    for page in run.pages or ():
        yield ("neuron", page.name), page.figure()
