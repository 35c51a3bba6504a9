"""Which figures a run has, under which names, and from which rows."""

import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from synthetic import HOSTILE, IMAGE, SCRIPT, write_run

from posneurons.run_figures import figures_of, file_name, keyed_figures, similar_tags
from posneurons.run_files import Run, read_run

MANIFEST = {"stages": {}, "model": {}, "config": {}, "warnings": [], "dropped": []}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(write_run(tmp_path_factory.mktemp("run"), n_pages=2, tags=("A", "B", "C")))


def test_every_figure_has_its_name(run):
    methods, ablations = ("correlation", "attribution-scope=local-contrast"), ("mean", "zero")
    expected = {f"layers-{method}{at}" for method in methods for at in ("", "-last")}
    for method in methods:
        expected |= {f"probe-{method}", f"confusion-{method}-predict", f"confusion-{method}-last", f"overlap-{method}"}
        for ablation in ablations:
            expected |= {f"{kind}-{method}-{ablation}-all" for kind in ("lesions", "own", "similarity")}
            expected |= {f"dissociations-{method}-{ablation}-all-{loss}" for loss in ("first", "category")}
    expected |= {"similarity-activation", "sweep-correlation-mean-all-k", "sweep-correlation-mean-all-layer"}
    expected |= {f"neuron-{page.name}" for page in run.pages}
    found = figures_of(run)
    assert set(found) == expected
    assert all(isinstance(figure, go.Figure) and figure.data for figure in found.values())
    assert set(figures_of(run, pages=False)) == {name for name in expected if not name.startswith("neuron-")}


def test_a_figure_is_of_its_own_rows(run):
    rows = run.lesions.query("method == 'correlation' and ablation == 'zero' and set == 'key'")
    expected = rows.pivot_table(index="lesion", columns="tag", values="delta")
    figure = keyed_figures(run, pages=False)["lesions", "correlation", "zero", "all"]
    np.testing.assert_allclose(
        np.asarray(figure.data[0].z, dtype=float), expected.loc[["A", "B", "C"], ["A", "B", "C"]]
    )


def test_names_are_fit_for_files_whatever_the_data_say(tmp_path):
    hostile = read_run(
        write_run(tmp_path, n_pages=1, tags=HOSTILE, methods=(SCRIPT, IMAGE), positions=("predict",), n_layers=2)
    )
    names = list(figures_of(hostile))
    assert all(re.fullmatch(r"[\w.=-]+", name) for name in names)
    assert not [name for name in names if name.startswith((".", "-"))]
    assert len(set(names)) == len(names) == len(keyed_figures(hostile))


def test_names_that_would_be_the_same_get_a_number(run):
    probe = [{**run.probe[0], "method": method} for method in ("a b", "a/b", "../a b")]
    names = list(figures_of(Run(MANIFEST, probe=probe)))
    at = run.probe[0]["at"]
    assert names == ["probe-a-b", f"confusion-a-b-{at}", "probe-a-b-2", f"confusion-a-b-{at}-2", "probe-a-b-3",
                     f"confusion-a-b-{at}-3"]  # fmt: skip


@pytest.mark.parametrize(("words", "name"), [(("../../etc", "a"), "etc-a"), (("", "a", "–"), "a"), (("É b",), "É-b")])
def test_a_file_name_leads_nowhere(words, name):
    assert file_name(*words) == name


def test_a_run_without_results_has_no_figures():
    assert figures_of(Run(MANIFEST)) == {}


def test_tags_are_ordered_by_their_tree_and_those_with_gaps_come_last():
    # a and c are alike, d is halfway to both; b, which has none to d, is left out of the tree.
    table = pd.DataFrame(
        [[0, 1.2, 0.1, 0.5], [1.2, 0, 1.4, np.nan], [0.1, 1.4, 0, 0.5], [0.5, np.nan, 0.5, 0]],
        list("abcd"),
        list("abcd"),
    )
    rows = table.rename_axis("tag_a").reset_index().melt("tag_a", var_name="tag_b", value_name="dissimilarity")
    figure = similar_tags(rows)
    first, *middle, last = figure.layout.xaxis.ticktext
    assert (last, "d" in (first, middle[-1])) == ("b", True)  # a and c stand side by side
    heights = sorted(max(trace.y) for trace in figure.data if trace.type == "scatter")
    np.testing.assert_allclose(heights, [0.1, 0.5])


def test_a_single_tag_has_no_tree():
    figure = similar_tags(pd.DataFrame([("a", "a", 0.0)], columns=["tag_a", "tag_b", "dissimilarity"]))
    assert [trace.type for trace in figure.data] == ["heatmap"]
