"""Is it the tag or the word? Does the effect of a tag's neurons go away once words and their frequency are seen to?

Command:  python experiments/lexical_confound.py [--treebank FOLDER] [--tags NOUN VERB ADJ ADV]
Cost:     two minutes of one core with the embedded model and treebank: 5 rankings, a lesion and 4 controls of each tag.
Expected: the category part is a fraction of the rise (the model has to find the word as well); the effect is not that
          of a few frequent forms, and stays, if smaller, where neither forms nor their frequency tell tags apart.
Measured: category part 33 to 47 % of the rise; mean over types, and without the commonest, as over words. All words:
          NOUN 0.26, VERB 0.37, ADJ 0.35, ADV 0.16 nats; types held out: 0.16, 0.24, 0.21, 0.37; frequency matched:
          0.16, 0.36, 0.22, 0.10; all above all 4 random sets, but the interval of the last (n = 86) includes 0.

Open classes only, since function words have too few forms to be held out. Each row asks in another way how much a
tag's own loss rises under the lesion (mean ablation) of its 50 best neurons:

- all words, by attribution; of that, the category part, -ln P(tag); the mean over word types; without the commonest.
- types held out: ranked on words of some types, measured on words of types that are not among them (`by_type`).
- frequency matched: ranked and measured on equally many words of each tag, equally frequent (`matched_sample`).
- by correlation, and by partial correlation: neurons that encode the tag, and the same given frequency, length and
  position.

Samples get smaller on the way, in training as in test, so that an effect may shrink for that alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import setting
from plotly.subplots import make_subplots

import posneurons as pn
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.theme import error_bars, label

Keys = dict[str, NeuronSet]
ROWS = {
    "attribution": ("all words", setting.BLUE),
    "category": ("  their category part", setting.BLUE),
    "types": ("  mean over word types", setting.BLUE),
    "rare": ("  without 5 commonest types", setting.BLUE),
    "held": ("word types held out", setting.ORANGE),
    "matched": ("frequency matched", setting.ORANGE),
    "correlation": ("by correlation", setting.GREEN),
    "partial_correlation": ("by partial correlation", setting.GREEN),
}


def lesioned(model: Any, corpus: Corpus, method: str, options: Any, tags: list[str]) -> tuple[pd.DataFrame, Keys]:
    """What key neurons found in a corpus do to its test words, and which they are."""
    best = pn.rank(model, corpus, method).top(options.k)
    keys, bench = {tag: best[tag] for tag in tags}, setting.bench_of(model, corpus, options)
    how: dict[str, Any] = {"controls": options.controls, "measures": ("category",)}
    return pn.lesion(model, corpus, keys, workbench=bench, **how).to_frame(), keys


def variants(
    model: Any, corpus: Corpus, options: Any, tags: list[str]
) -> tuple[dict[str, pd.DataFrame], dict[str, Keys]]:
    """The effects by the ways to ask, and the neurons that were lesioned."""
    asked = {
        "attribution": (corpus, "attribution"),
        "held": (pn.by_type(corpus, seed=options.seed, tags=tags), "attribution"),
        "matched": (pn.matched_sample(corpus, tags, seed=options.seed), "attribution"),
        "correlation": (corpus, "correlation"),
        "partial_correlation": (corpus, "partial_correlation"),
    }
    found = {name: lesioned(model, words, method, options, tags) for name, (words, method) in asked.items()}
    effects = {name: setting.own(frame).loc[tags] for name, (frame, _) in found.items()}
    plain, frame = effects["attribution"], found["attribution"][0]
    part = setting.own(frame.assign(delta=frame["delta_category"])).loc[tags]
    none = dict.fromkeys(("ci_low", "ci_high", "control_low", "control_high", "q_value"), np.nan)
    effects["category"] = part.assign(ci_low=part["category_ci_low"], ci_high=part["category_ci_high"], q_value=np.nan)
    effects["types"] = plain.assign(delta=plain["delta_types"], **none)
    effects["rare"] = plain.assign(delta=plain["delta_without_top5"], **none)
    return {name: effects[name] for name in ROWS}, {name: keys for name, (_, keys) in found.items()}


def picture(effects: dict[str, pd.DataFrame], tags: list[str]) -> Any:
    """A column for each tag, a row for each way to ask."""
    titles = [f"{label(tag)} (n = {int(effects['attribution'].loc[tag, 'words']):,})" for tag in tags]
    figure = make_subplots(cols=len(tags), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03)
    for panel, tag in enumerate(tags, start=1):
        for place, (name, (_, colour)) in enumerate(ROWS.items()):
            row = effects[name].loc[tag]
            line = {"mode": "lines", "line": {"color": "#b9bfc6", "width": 9}}
            figure.add_scatter(x=row[["control_low", "control_high"]], y=[place, place], **line, row=1, col=panel)
            error = error_bars([row["ci_low"]], [row["delta"]], [row["ci_high"]], width=0, color=colour)
            look = {"color": colour, "size": 9, "symbol": "circle" if place in (0, 4, 5, 6, 7) else "circle-open"}
            look = {"error_x": error, "mode": "markers", "marker": look}
            figure.add_scatter(x=[row["delta"]], y=[place], **look, row=1, col=panel)
    names = [name.replace("  ", "– ") for name, _ in ROWS.values()]
    lines = {"tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.4, -0.6]}
    figure.update_yaxes(**lines, zeroline=False)
    figure.update_xaxes(matches="x", nticks=5)
    figure.update_yaxes(title_text="how the effect is measured", col=1)
    middle = (len(tags) + 1) // 2
    return figure.update_xaxes(title_text=setting.RISE, col=middle)


def lines(effects: dict[str, pd.DataFrame], keys: dict[str, Keys], tags: list[str]) -> list[str]:
    """How many word types there are, how much is the category, and how many neurons two ways to find them share."""
    plain = effects["attribution"]
    shares = plain["delta_category"] / plain["delta"]
    found = [
        "Effective number of word types: "
        + ", ".join(f"{tag} {plain.loc[tag, 'effective_types']:.0f}" for tag in tags),
        "Category part of the rise: " + ", ".join(f"{tag} {100 * shares[tag]:.0f} %" for tag in tags),
    ]
    for a, b in (("attribution", "held"), ("attribution", "matched"), ("correlation", "partial_correlation")):
        shared = ", ".join(f"{tag} {len(set(keys[a][tag]) & set(keys[b][tag]))}" for tag in tags)
        found.append(f"Neurons shared, {ROWS[a][0]} and {ROWS[b][0]}: {shared}")
    return found


def main() -> None:
    parser = setting.parser(__doc__, "lexical_confound", controls=4, tags=("NOUN", "VERB", "ADJ", "ADV"))
    parser.add_argument("--k", type=int, default=50)
    options = parser.parse_args()
    model = setting.load_model(options)
    corpus = setting.read(options, model)
    tags = setting.common_tags(setting.bench_of(model, corpus, options), options.tags)
    effects, keys = variants(model, corpus, options, tags)
    tables = []
    for name, cells in effects.items():
        rises, random = setting.told(cells)
        tables.append(cells[["tag", "words"]].assign(measured=ROWS[name][0].strip(), rise=rises, random=random))
    sizes = ", ".join(f"{ROWS[name][0]} {int(effects[name]['words'].min())} or more" for name in ("held", "matched"))
    figure = setting.captioned(
        picture(effects, tags),
        "The tag or the word? One effect, measured in eight ways",
        f"{setting.treebank_of(corpus.name)}; {options.k} best neurons of each tag set to their mean; test words of a "
        f"tag as above ({sizes}); 95 % intervals over sentences or documents; grey: the range of {options.controls} "
        "matched random sets.",
    )
    setting.finish(figure, [pd.concat(tables)], lines(effects, keys, tags), options)


if __name__ == "__main__":
    main()
