"""Which languages does a model know at all, and do lesions of its tags' neurons make sense in them?

Command:  python experiments/languages.py [--treebank demo --treebank ../shared/data/ud/UD_German-GSD ...]
Cost:     half a minute of one core for the embedded treebank, a minute or two for each other (4,000 test words are
          read, 1,500 of them under the lesions of five tags and 5 controls).
Expected: the embedded model, which has read English only, beats the unigram on English and on nothing else; lesions do
          something to a tag in any language, for neurons can be ranked on any numbers. So look at the loss first: an
          effect alone is no sign that a tag is known.
Measured: the model beats the unigram on the embedded treebank (1.56 against 2.42 nats per character) and on EWT (1.79,
          2.60), not on German (4.40, 3.28), Spanish (4.05, 3.23), Chinese (27.2, 11.8) and Hindi (35.4, 7.4). The own
          lesion does harm, and more than all 5 random sets, for 5 of 5 tags but in German (4) and Chinese (2); in Hindi
          1.8 to 4.1 nats, where random sets do -4.8 to 0.5. No tag passes all tests with so few words and random sets.

The loss of the words is held against that of a unigram of the model's own tokens, counted on the training split, both
per character (`posneurons.fluency`). Lesions set to their mean the 50 best neurons by attribution, found on 6,000
training words, beside matched random sets, on 1,500 test words. Treebanks without a training split are split anew by
the seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import setting
from plotly.subplots import make_subplots

import posneurons as pn
from posneurons.fluency import fluency
from posneurons.theme import error_bars, label, number

TAGS = ("NOUN", "VERB", "ADJ", "ADP", "PRON")
TRAIN_WORDS = 6000
TICKS = (-5, -1, -0.2, 0, 0.2, 1, 5)


def squeezed(nats: Any) -> Any:
    """Linear near 0 and logarithmic far from it, so that a treebank of wild effects does not hide the others."""
    return np.arcsinh(np.asarray(nats, dtype=np.float64) / 0.1)


def lesions(options: Any, model: Any, corpus: Any) -> pd.DataFrame:
    """What each tag's own lesion does to it, beside its controls; no row where no tag has enough words."""
    few = setting.shortened(corpus, options.train_words, options.seed, split="train") if options.train_words else corpus
    bench = setting.bench_of(model, few, options)
    tags = setting.common_tags(bench, options.tags)
    best = pn.rank(model, bench.train, "attribution").top(50)
    keys = {tag: best[tag] for tag in tags}
    if not keys:
        return pd.DataFrame()
    found = pn.lesion(model, corpus, keys, controls=options.controls, measures=(), workbench=bench)
    return setting.own(found.to_frame()).loc[tags]


def picture(table: pd.DataFrame, effects: pd.DataFrame) -> Any:
    """Left the loss per character of the model and of the unigram, right each tag's own lesion, by treebank."""
    titles = ["loss of the intact model", "rise of a tag’s loss under its own lesion"]
    figure = make_subplots(cols=2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.05)
    y = np.arange(len(table))
    for row in y:
        ends = table.loc[row, ["model", "unigram"]]
        figure.add_scatter(
            x=ends, y=[row, row], mode="lines", line={"color": setting.GREY}, showlegend=False, row=1, col=1
        )
    for name, colour, symbol in (("unigram", setting.GREY, "line-ns-open"), ("model", setting.INK, "circle")):
        look = {"color": colour, "size": 12 if name == "unigram" else 9, "symbol": symbol, "line_width": 2}
        figure.add_scatter(x=table[name], y=y, mode="markers", marker=look, name=name, row=1, col=1)
    tags = list(effects["tag"].unique())
    for place, (tag, colour) in enumerate(
        zip(tags, (setting.BLUE, setting.ORANGE, setting.GREEN, setting.PINK, setting.RED, setting.SKY), strict=False)
    ):
        rows = effects[effects["tag"] == tag]
        shift = 0.13 * (place - (len(tags) - 1) / 2)
        height = rows["treebank"].map(dict(zip(table["treebank"], y, strict=True))) + shift
        passed = np.where(rows["q_value"] <= 0.05, "diamond", "diamond-open")
        look = {"color": colour, "size": 9, "symbol": passed.tolist(), "line_width": 1.5}
        error = error_bars(*(squeezed(rows[name]) for name in ("ci_low", "delta", "ci_high")), width=0, color=colour)
        look = {"error_x": error, "mode": "markers", "marker": look, "name": label(tag)}
        figure.add_scatter(x=squeezed(rows["delta"]), y=height, **look, row=1, col=2)
        for low, high, at in zip(rows["control_low"], rows["control_high"], height, strict=True):
            band = {"mode": "lines", "line": {"color": setting.GREY, "width": 3}, "showlegend": False}
            figure.add_scatter(x=squeezed([low, high]), y=[at, at], **band, row=1, col=2)
    names = [label(setting.treebank_of(name).removeprefix("Treebank ")) for name in table["treebank"]]
    known = ["known" if knows == "yes" else "not known" for knows in table["knows"]]
    ticks = list(map("{}<br>{}".format, names, known))
    figure.update_yaxes(tickvals=y, ticktext=ticks, range=[len(table) - 0.5, -0.5], showgrid=False, zeroline=False)
    figure.update_yaxes(title_text="treebank", col=1)
    nats = [0.5, 1, 1.5, 2, 3, 5, 10, 20, 50]
    figure.update_xaxes(type="log", title_text="nats per character (log scale)", tickvals=nats, col=1)
    ticks = {"tickvals": squeezed(TICKS), "ticktext": [number(each, "g") for each in TICKS], "tickangle": 0}
    return figure.update_xaxes(title_text="nats per word (asinh scale)", **ticks, col=2)


def shown(cells: pd.DataFrame) -> pd.DataFrame:
    """The effects as a table."""
    rises, random = setting.told(cells)
    return cells[["treebank", "tag", "words", "loss_intact"]].assign(rise=rises, random=random)


def main() -> None:
    parser = setting.parser(__doc__, "languages", controls=5, words=1500, tags=TAGS, several=True)
    parser.add_argument("--cache", help="folder of treebanks that were fetched")
    parser.set_defaults(train_words=TRAIN_WORDS)
    options = parser.parse_args()
    model, rows, effects = setting.load_model(options), [], []
    for source in options.treebank or ["demo"]:
        corpus = setting.read(options, model, source, whole=True)
        found = fluency(model, corpus, seed=options.seed)
        sizes = {"treebank": corpus.name, "words": found.words, "characters": found.characters}
        rows.append(sizes | {"model": found.model, "unigram": found.unigram, "knows": "yes" if found.knows else "no"})
        effects.append(lesions(options, model, corpus).assign(treebank=corpus.name))
    table, cells = pd.DataFrame(rows), pd.concat(effects, ignore_index=True)
    counts = [{"treebank": name} | setting.passed(each) for name, each in cells.groupby("treebank", sort=False)]
    least = f"{cells['words'].min()} words of a tag or more"
    figure = setting.captioned(
        picture(table, cells),
        "Which languages the model knows, and what lesions do in them",
        f"Left: {table['words'].min():,} test words or more, beside a unigram of the model’s tokens. Right: 50 best "
        f"neurons by attribution set to their mean, {least}; 95 % intervals; filled: all tests passed (q ≤ 0.05); "
        f"grey: {options.controls} matched random sets.",
        height=max(360, 200 + 62 * len(table)),
        legend=1,
    )
    setting.finish(figure, [table, shown(cells), pd.DataFrame(counts)], [], options)


if __name__ == "__main__":
    main()
