"""Figures of records: what their traces hold, by hand; names from data, gaps, the dark look, and how heavy they are."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import made_records as made
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posneurons import activation_figures, corpus_figures, dissociation_figures, overlap_figures, theme
from posneurons.covariates import word_covariates
from posneurons.errors import AlignmentError, NeuronError, PosNeuronsError, RunError, TreebankError
from posneurons.records import Ranking
from posneurons.similarity_figures import tag_tree, tree

SAFE = theme.label(made.EVIL)
FIGURES = made.figures()
NAMELESS = {
    "Activations",
    "Activations by tag",
    "Composition",
    "Composition NOUN",
    "Flags",
    "Fluency",
    "Iterations",
    "MethodScore",
    "NeuronSet",
    "ProbeResult",
    "Ranking NOUN",
    "TagHistograms",
    "TagMoments L0N0",
    "Verification NOUN",
    "WordLosses",
}
"""Figures without the hostile tag: they show no tag, or one other."""


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(key)
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def content(figure: go.Figure) -> dict[str, Any]:
    """Traces and layout as plotly gets them, without the template."""
    found = json.loads(figure.to_json())
    found["layout"].pop("template")
    return dict(found)


def trace(figure: go.Figure, name: str) -> Any:
    return next(each for each in figure.data if each.name == name)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_light_escaped_and_takes_the_dark_look(name: str) -> None:
    figure = FIGURES[name]
    assert len(figure.to_json()) < 20_000
    assert figure.layout.template.layout.paper_bgcolor == theme.LIGHT["base"][1]
    said = list(strings(content(figure)))
    assert not [text for text in said if "<script" in text]
    assert name in NAMELESS or any(SAFE in text for text in said)
    dark = go.Figure(figure).update_layout(template=theme.template(dark=True))
    scales = {*theme.LIGHT["sequential"], *theme.LIGHT["diverging"]} - set(theme.LIGHT["colorway"])
    light = {theme.LIGHT["base"][1], *scales}
    assert not light & set(strings(content(dark)))
    assert figure.layout.xaxis.title.text or name in ("Ranking", "LesionResult")


@pytest.mark.parametrize("name", FIGURES)
def test_no_figure_shows_what_is_undefined_as_a_number(name: str) -> None:
    for each in FIGURES[name].data:
        said = np.ravel(np.array("" if each.hovertext is None else each.hovertext, dtype=object))
        assert "nan" not in " ".join(map(str, said)).lower()


def test_a_treebank_by_tag_and_split() -> None:
    figure = made.treebank().figure()
    assert [(each.name, each.x, each.y) for each in figure.data] == [
        ("train", ("NOUN", "VERB", SAFE), (2, 1, 0)),
        ("test", ("NOUN", "VERB", SAFE), (1, 0, 1)),
    ]
    assert figure.data[0].hovertext[1] == "<b>VERB</b>, train: 1 words<br>33.3 % of the split"
    with pytest.raises(TreebankError, match=r"no word to draw; expected at least one sentence with words"):
        replace(made.treebank(), sentences=()).figure()


def test_a_corpus_shows_what_is_kept_and_what_share_is_left_out() -> None:
    figure = made.corpus().figure()
    assert figure.data[0].x == ("NOUN", "VERB", SAFE)
    assert figure.data[0].y == (3, 1, 1)
    assert (figure.data[1].name, figure.data[1].y) == (f"left out: {SAFE}", (0, 50, 0))  # 1 of the 2 verbs
    with pytest.raises(AlignmentError, match=r"neither kept nor left out"):
        corpus_figures.aligned({}, {})


def test_covariates_are_drawn_as_quantiles() -> None:
    figure = corpus_figures.word_spread(word_covariates(made.corpus()), "length")
    assert figure.data[0].x == (SAFE, "NOUN", "VERB")
    assert figure.data[0].median == (25, 4, 3)
    with pytest.raises(AlignmentError, match=r"no column 'form' to draw; expected one of log_frequency, length"):
        corpus_figures.word_spread(word_covariates(made.corpus()), "form")


def test_moments_show_distances_in_standard_deviations() -> None:
    """L0N0 is 1 at two nouns and -1 at two verbs without spread: both means lie 1 sd from 0. L0N1 is never apart."""
    table = activation_figures.apart(made.moments().count, made.moments().mean, made.moments().m2)
    np.testing.assert_allclose(table[:2], [[np.sqrt(1 / 2), 0]] * 2)
    assert np.isnan(table[2]).all()
    assert made.moments().figure().data[0].z[0][0] == pytest.approx(np.sqrt(1 / 2))
    one = made.moments().figure("L1N0").data[0]
    assert (one.x, one.y) == (("NOUN", "VERB"), (0, 0))  # the tag without words is not there
    np.testing.assert_allclose(one.error_y.array, np.sqrt([1 / 2, 1 / 2]))
    with pytest.raises(NeuronError, match=r"neuron L2N0: the model has layers 0 to 1"):
        made.moments().figure("L2N0")


def test_densities_are_shares_over_widths_and_tell_their_tails() -> None:
    figure = made.histograms().figure("L0N0")
    noun = trace(figure, "NOUN")
    assert noun.x == (0, 1, 3)
    assert noun.y == (0.6, 0.1, 0.1)  # 6 of 10 over 1, 2 of 10 over 2; the last ends the step
    assert "10.0 % below 0, 10.0 % above 3" in noun.hovertemplate
    assert trace(figure, "VERB").y == (1, None, None)  # no word there: a gap on a logarithmic axis
    assert len(figure.data) == 2
    with pytest.raises(
        NeuronError, match=r"L0N1: its values were cut at 1 finite edge; expected at least 2 for a density"
    ):
        made.histograms().figure("L0N1")


@settings(max_examples=30)
@example([1, 399, 400])
@given(st.lists(st.integers(1, 400), min_size=2, max_size=40, unique=True))
def test_joining_narrow_bins_loses_no_word(places: list[int]) -> None:
    edges, rng = np.sort(np.array(places, dtype=np.float64)), np.random.default_rng(0)
    bins = rng.integers(0, 9, size=(1, len(edges) + 1))
    bins[0, 1] += 1
    line = activation_figures.densities("L0N0", ("A",), edges, bins).data[0]
    assert (line.x[0], line.x[-1]) == (edges[0], edges[-1])
    inside = np.array([height or 0 for height in line.y[:-1]]) @ np.diff(line.x)
    assert inside * bins.sum() == pytest.approx(bins[0, 1:-1].sum())


def test_a_ranking_shows_where_the_best_are() -> None:
    figure = made.ranking().figure(k=2)
    heat = figure.data[0]
    np.testing.assert_array_equal(np.array(heat.z, dtype=float)[:, :2], [[1, 2], [0, 0], [1, 0]])
    assert np.isnan(np.array(heat.z, dtype=float)[:, 2]).all()
    assert "best of the layer: L2N1, 0.9" in heat.hovertext[2][0]
    peaks = np.array(figure.layout.updatemenus[0].buttons[1].args[0]["z"][0], dtype=float)
    np.testing.assert_array_equal(peaks[:, :2], [[-0.8, 0.5], [0.3, 0.3], [0.9, 0.2]])
    one = made.ranking().figure("NOUN", k=3)
    assert one.data[0].x == ("L2N1", "L0N0", "L1N1")
    assert one.data[0].y == (0.9, -0.8, 0.3)
    assert trace(one, "best neuron").y == (0.8, 0.3, 0.9)
    with pytest.raises(NeuronError, match=r"ranking: no tag 'ADJ'; it has NOUN, VERB"):
        made.ranking().figure("ADJ")
    with pytest.raises(NeuronError, match=r"no neuron has a score for"):
        made.ranking().figure(made.EVIL)
    with pytest.raises(NeuronError, match=r"k=0; expected at least 1 neuron"):
        made.ranking().figure(k=0)


@given(st.integers(0, 50), st.booleans(), st.integers(1, 12))
def test_the_first_are_the_beginning_of_the_order(seed: int, signed: bool, k: int) -> None:
    scores = np.random.default_rng(seed).integers(-3, 4, size=(1, 2, 5)).astype(np.float64)
    scores[scores == 3] = np.nan
    ranking = Ranking("by hand", "last", ("A",), scores, np.array([9]), signed=signed)
    np.testing.assert_array_equal(ranking.first("A", k), ranking.order("A")[:k])


def test_a_figure_of_a_large_model_is_small() -> None:
    scores = np.random.default_rng(0).standard_normal((17, 32, 14336), dtype=np.float32)
    ranking = Ranking("attribution", "predict", tuple(f"T{n}" for n in range(17)), scores, np.full(17, 9), True)
    assert len(ranking.figure().to_json()) < 200_000
    assert len(ranking.figure("T3").to_json()) < 30_000


def test_a_set_by_layer() -> None:
    assert made.neurons().figure(4).data[0].y == (1, 0, 2, 0)
    assert made.neurons().figure().data[0].y == (1, 0, 2)
    with pytest.raises(NeuronError, match=r"one lies in layer 2, but n_layers=2; were they found in another model"):
        made.neurons().figure(2)


def test_activations_by_tag_are_in_their_own_standard_deviations() -> None:
    """L0N1 is 1, 3, 1 at noun, verb, noun: mean 5/3, sd sqrt(8)/3. L2N0 never varies: a gap."""
    heat = made.activations().figure(made.corpus()).data[0]
    np.testing.assert_allclose(
        np.array(heat.z, dtype=float)[0], [(1 - 5 / 3) / (8**0.5 / 3), (3 - 5 / 3) / (8**0.5 / 3)]
    )
    assert np.isnan(np.array(heat.z, dtype=float)[1]).all()
    assert made.activations().figure().data[0].median == (1, 5, 0)
    with pytest.raises(AlignmentError, match=r"they are of word 9 among others, but the corpus has 5 words"):
        replace(made.activations(), word=np.array([0, 1, 9])).figure(made.corpus())


def test_verdicts_stand_with_their_contrasts_and_an_untested_pair_is_a_gap() -> None:
    rows = made.lesions().dissociations()
    both = dissociation_figures.verdict_matrix(rows, ("VERB", "NOUN")).data[0]
    assert both.x == both.y == ("VERB", "NOUN", SAFE)
    by_pair = rows.set_index(["tag_a", "tag_b"])["contrast_a"]
    assert both.z[0][1] == by_pair["VERB", "NOUN"]
    assert both.z[1][0] == by_pair["NOUN", "VERB"]
    once = rows[(rows["tag_a"] == "NOUN") & (rows["tag_b"] != made.EVIL)]  # one order says both cells
    once = pd.concat([once, rows[(rows["tag_a"] == "VERB") & (rows["tag_b"] == made.EVIL)].assign(verdict="classical")])
    heat = dissociation_figures.verdict_matrix(once).data[0]
    assert heat.z[1][0] == once["contrast_b"].iloc[0]
    assert heat.text[1][2] == heat.text[2][1] == "C"
    assert np.isnan(heat.z[0][2])
    assert np.isnan(heat.z[0][0])
    with pytest.raises(RunError, match=r"dissociations: measure is first, category; expected one of them"):
        dissociation_figures.verdict_matrix(pd.concat([rows, rows.assign(measure="category")]))
    with pytest.raises(RunError, match=r"no pair of tags; expected the key sets of at least two tags"):
        dissociation_figures.verdict_matrix(rows.iloc[:0])
    with pytest.raises(RunError, match=r"no figure 'all'; expected matrix, own or dissociations"):
        made.lesions().figure("all")


def test_overlaps_count_what_is_shared_and_mark_what_is_beyond_chance() -> None:
    figure = overlap_figures.overlap_matrix(made.overlap_rows(), ("VERB", "NOUN"))
    heat = figure.data[0]
    assert heat.x == ("VERB", "NOUN", SAFE)
    assert [list(row) for row in heat.text] == [["", "3•", "1"], ["3•", "", "0"], ["1", "0", ""]]
    assert heat.z[0][1] == heat.z[1][0] == 0.6
    times = np.array(figure.layout.updatemenus[0].buttons[1].args[0]["z"][0], dtype=float)
    assert times[0, 1] == pytest.approx(np.log2(6))
    assert np.isnan(times[1, 2])  # nothing shared: no logarithm
    assert "0.50 expected of random sets; p 0.001, q 0.003" in heat.hovertext[0][1]
    with pytest.raises(
        RunError, match=r"jaccard of pairs: the table has no row; expected the sets of at least two tags"
    ):
        overlap_figures.overlap_matrix(made.overlap_rows().iloc[:0])


def test_spans_are_drawn_by_their_overlap() -> None:
    rows = [("NOUN", "VERB", 4, 3, 1, 10.0, 60.0, 0.5, 0.2, 0.25, 0.01, 0.02)]
    columns = "tag_a tag_b dim_a dim_b shared smallest_angle mean_angle overlap random_overlap control_overlap p_value"
    frame = pd.DataFrame(rows, columns=[*columns.split(), "q_value"])
    figure = overlap_figures.angle_matrix(frame)
    heat = figure.data[0]
    assert (heat.z[0][1], heat.z[1][0], heat.zmin, heat.zmax) == (0.5, 0.5, 0, 1)
    assert heat.text[0][1] == "•"
    assert (
        "angles 10.0° (smallest), 60.0° (mean)<br>spans of 4 and 3 dimensions, 1 neurons shared" in heat.hovertext[0][1]
    )
    with pytest.raises(RunError, match=r"overlap of pairs: the table has no row"):
        overlap_figures.angle_matrix(frame.iloc[:0])


def test_a_matrix_is_ordered_by_its_tree_and_joined_at_its_heights() -> None:
    """The hostile tag and NOUN meet at 0.2; VERB joins them at (1.2 + 1.0) / 2."""
    grown = made.tree()
    figure = made.dissimilarity().figure()
    heat, *branches = figure.data
    assert figure.layout.xaxis.ticktext == tuple(theme.label(tag) for tag in grown.leaves)
    at = {tag: place for place, tag in enumerate(grown.leaves)}
    assert heat.z[at["NOUN"]][at[made.EVIL]] == 0.2
    assert [max(branch.y) for branch in branches] == pytest.approx([0.2, 1.1])
    assert sorted(branches[0].x)[::4] == sorted([at["NOUN"], at[made.EVIL]])
    assert {branches[1].x[0], branches[1].x[-1]} == {at["VERB"], (at["NOUN"] + at[made.EVIL]) / 2}
    alone = tree(grown.leaves, grown.merges, grown.fit)
    assert [max(branch.x) for branch in alone.data] == pytest.approx([0.2, 1.1])
    holes = made.dissimilarity().values.copy()
    holes[0, 1] = holes[1, 0] = np.nan
    gaps = replace(made.dissimilarity(), values=holes).figure()
    assert len(gaps.data) == 1
    assert np.isnan(gaps.data[0].z[0][1])
    assert len(tag_tree(holes, made.TAGS, made.TAGS, grown.merges.iloc[:0]).data) == 1


def test_effects_taken_apart_by_their_own_tag() -> None:
    figure = made.composition().figure()
    assert trace(figure, "all together").x == (1, 0.5)
    assert trace(figure, "direct effect").x == (1.5, 0.75)
    assert len(figure.data) == 3  # what was not measured has no marker
    named = replace(made.composition(), lesion=("mine", "yours"))
    with pytest.raises(
        PosNeuronsError, match=r"no set is named after a tag that has words; name the measured tag, one of"
    ):
        named.figure()
    assert trace(named.figure("VERB"), "all together").x == (0, 0.5)
    with pytest.raises(PosNeuronsError, match=r"no measured words of 'ADJ'"):
        named.figure("ADJ")


def test_rounds_shifts_and_random_sets() -> None:
    own, random = made.iterations().figure().data
    assert (own.x, own.y) == ((1, 2), (0.2, 0.4))
    assert random.y == pytest.approx((0.02, 0.02))
    assert own.error_y.array == pytest.approx((0.05, 0.05))
    key, sets = made.tag_shift().figure().data
    assert key.y == ("NOUN", "VERB", SAFE)
    assert key.x == pytest.approx((30, -30, 0))
    assert sets.x == pytest.approx((-10, 10, 0))
    assert made.flags().figure().data[0].y == (80,)
    assert made.word_losses().figure().data[1].y == (0, 1)
    with pytest.raises(PosNeuronsError, match=r"1 names for 2 conditions; expected one for each"):
        made.word_losses().figure(["one"])
    with pytest.raises(PosNeuronsError, match=r"none was found; the notes say why"):
        replace(made.damage(), matches=()).figure()


def test_agreement_leaves_out_what_has_no_score() -> None:
    figure = made.verification().figure()
    assert trace(figure, "attribution").x == pytest.approx((1, 1))
    assert trace(figure, SAFE).x == (None, None)
    listed = trace(made.verification().figure("NOUN"), "listed for the tag")
    assert (listed.x, listed.y) == ((0.6, 0.4), (0.3, 0.2))
    with pytest.raises(PosNeuronsError, match=r"verification: no estimate 'relp'; it has attribution"):
        made.verification().figure("NOUN", "relp")
    with pytest.raises(PosNeuronsError, match=r"exact='all'; expected 'effect' or 'contrast'"):
        made.verification().figure(exact="all")
    assert trace(made.reliability().figure(), "correlation of two halves").x == (0.5, 0.4, None)
    assert trace(made.probe().figure("tags"), "probe").x == (0.7, 0.5, 0)
    with pytest.raises(RunError, match=r"probe: no figure 'all'; expected scores, tags or confusion"):
        made.probe().figure("all")
