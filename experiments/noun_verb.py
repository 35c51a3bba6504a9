"""Do the neurons of nouns and those of verbs dissociate both ways: does each lesion harm its own tag, not the other?

Command:  python experiments/noun_verb.py [--treebank FOLDER] [--pair NOUN VERB] [--controls 20]
Cost:     a minute and a half of one core with the embedded model and treebank: 8 + 2 * 20 lesions for each ranking.
Expected: with either ranking each tag suffers more under its own lesion than under the other's, and far more than
          under random neurons; a "classical" dissociation asks that the other tag be spared as well.
Measured: own less other's lesion, nats: by attribution NOUN 0.26 (0.21 to 0.31), VERB 0.37 (0.30 to 0.43), classical
          (p 0.021); by correlation 0.57 (0.48 to 0.67) and 0.27 (0.20 to 0.34), strong but not classical (p 0.012). On
          the category part classical by both (p 0.007 and 0.017). 565 nouns, 434 verbs.

For each ranking the 50 best neurons of a tag are set to their mean over the training words. The claim is tested within
a tag (the same words under two lesions), in both directions, over sentences, over matched random sets, and over the
key neurons of the other tags of --tags, which are lesioned for that alone. The p of a direction is the largest of the
three, that of the double dissociation the larger of the two directions (`posneurons.verdicts`). It is tested again on
the category part of the loss, -ln P(tag). Two rankings and two losses are four chances to find something: nothing is
corrected for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import setting
from plotly.subplots import make_subplots

import posneurons as pn
from posneurons.lesion_results import LesionResult
from posneurons.lesion_study import Workbench
from posneurons.neurons import NeuronSet
from posneurons.significance import bootstrap_interval, cluster_sums
from posneurons.theme import BAND, LIGHT, error_bars
from posneurons.verdicts import judge

METHODS = ("attribution", "correlation")
GREY_TEXT = LIGHT["base"][3]


def lesioned(
    bench: Workbench, keys: Mapping[str, NeuronSet], pair: list[str], controls: int, method: str
) -> LesionResult:
    """The key neurons of all the tags, and random sets that match those of the pair."""
    random = bench.matched(keys, "mean", controls)
    beside: Any = {"matched": {tag: random[tag] for tag in pair}}
    how: dict[str, Any] = {"controls": 0, "beside": beside, "measures": ("category",), "method": method}
    return pn.lesion(bench.model, bench.test, keys, workbench=bench, **how)


def contrast(result: LesionResult, tag: str, other: str, *, category: bool) -> tuple[float, float, float]:
    """How much more a tag suffers under its own lesion than under the other's, and the 95 % interval over sentences."""
    place = {name: i for i, (name, kind) in enumerate(zip(result.lesion, result.kind, strict=True)) if kind == "key"}
    losses = (result.more["category"].lesioned if category else result.losses).astype(np.float64)
    number, n_tags = result.tags.index(tag), len(result.tags)
    gap = losses[[place[tag]]] - losses[[place[other]]]
    sums, counts = (
        cluster_sums(each, result.word_tag, result.word_cluster, n_tags) for each in (gap, np.ones_like(gap))
    )
    low, high = bootstrap_interval(sums, counts[:, 0], draws=result.draws, rng=np.random.default_rng(result.seed))
    return float(sums[:, 0, number].sum() / counts[:, 0, number].sum()), low[0, number], high[0, number]


def rows(result: LesionResult, pair: list[str]) -> tuple[list[dict[str, Any]], str]:
    """A row for each direction and measure, and the two verdicts in a sentence."""
    found, verdicts = [], []
    for category in (False, True):
        frame = result.dissociations(category=category)
        here = judge(frame[(frame["tag_a"] == pair[0]) & (frame["tag_b"] == pair[1])], "bh").iloc[0]
        for tag, other, side in ((*pair, "a"), (*pair[::-1], "b")):
            cells = {"neurons": result.method, "loss": "category part" if category else "first token", "of words": tag}
            more = setting.interval(*contrast(result, tag, other, category=category))
            found.append(cells | {"own less other's lesion": more, "p": f"{here[f'p_{side}']:.2g}"})
        what = "its category part" if category else "the loss"
        verdicts.append(
            f"{what} {here['verdict']} (p {here['p_value']:.2g}, equivalence p {here['equivalence_p']:.2g})"
        )
    return found, f"{result.method}: double dissociation of {' and '.join(pair)}: {'; '.join(verdicts)}."


def picture(results: list[LesionResult], pair: list[str], words: list[int], controls: int) -> Any:
    """The crossover: one panel a ranking, one line a lesion, grey the range of the random ones."""
    titles = [f"50 best neurons by {result.method}" for result in results]
    figure = make_subplots(cols=len(results), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.05)
    ends = [0.0, 0.0]
    for panel, result in enumerate(results, start=1):
        frame = result.to_frame()
        cells = frame[frame["tag"].isin(pair) & frame["lesion"].isin(pair)]
        random = cells[cells["set"] == "matched"].groupby("tag")["delta"].agg(["min", "max"]).reindex(pair)
        x, edge = [-0.1, 1.1], [*random["min"], *random["max"][::-1]]
        figure.add_scatter(x=[*x, *x[::-1]], y=edge, fill="toself", fillcolor=BAND, mode="none", col=panel, row=1)
        for tag, colour in zip(pair, (setting.BLUE, setting.ORANGE), strict=True):
            mine = cells[(cells["set"] == "key") & (cells["lesion"] == tag)].set_index("tag").reindex(pair)
            line = {"color": colour, "width": 2.5}
            error = error_bars(mine["ci_low"], mine["delta"], mine["ci_high"], width=0, color=colour)
            figure.add_scatter(x=[0, 1], y=mine["delta"], error_y=error, line=line, marker_size=9, col=panel, row=1)
            place = pair.index(tag)
            top = mine["ci_high"].iloc[place]
            where = {"colour": colour, "panel": panel, "yanchor": "bottom", "yshift": 2}
            setting.said(figure, place, top, f"lesion of {tag} neurons", **where)
        keys = cells[cells["set"] == "key"]
        low = min(float(random["min"].min()), float(keys["ci_low"].min()))
        where = {"colour": GREY_TEXT, "panel": panel, "yanchor": "top", "yshift": -9}
        setting.said(figure, 0.5, low, f"{2 * controls} matched random lesions", **where)
        ends[0], ends[1] = min(ends[0], low), max(ends[1], float(keys["ci_high"].max()))
    ticks = [f"{tag} words<br>(n = {n:,})" for tag, n in zip(pair, words, strict=True)]
    figure.update_xaxes(
        tickvals=[0, 1], ticktext=ticks, range=[-0.5, 1.5], showgrid=False, zeroline=False, title_text="words measured"
    )
    room = 0.18 * (ends[1] - ends[0])
    figure.update_yaxes(range=[ends[0] - room, ends[1] + room])
    figure.update_yaxes(title_text=setting.RISE, col=1)
    return figure


def main() -> None:
    parser = setting.parser(__doc__, "noun_verb", controls=20)
    parser.add_argument("--pair", nargs=2, default=["NOUN", "VERB"], help="the two tags")
    options = parser.parse_args()
    model = setting.load_model(options)
    corpus = setting.read(options, model)
    bench = setting.bench_of(model, corpus, options)
    tags = list(dict.fromkeys([*options.pair, *setting.common_tags(bench, options.tags)]))
    results, table, lines = [], [], []
    for method in METHODS:
        best = pn.rank(model, bench.train, method).top(50)
        results.append(lesioned(bench, {tag: best[tag] for tag in tags}, options.pair, options.controls, method))
        found, verdict = rows(results[-1], options.pair)
        table += found
        lines.append(verdict)
    counts = np.bincount(results[0].word_tag, minlength=len(results[0].tags))
    words = [int(counts[results[0].tags.index(tag)]) for tag in options.pair]
    figure = setting.captioned(
        picture(results, options.pair, words, options.controls),
        f"What lesions of {options.pair[0]} and {options.pair[1]} neurons do to words of the two tags",
        f"{setting.treebank_of(corpus.name)}; neurons set to their mean; 95 % intervals over {bench.clusters()[0]}s; "
        f"grey: the range of {options.controls} random sets for each of the two, matched in layer and size.",
    )
    setting.finish(figure, [pd.DataFrame(table)], lines, options)


if __name__ == "__main__":
    main()
