"""How well does each fast ranking agree with what every single neuron of the embedded model does, measured exactly?

Command:  python experiments/estimates_against_exact.py --treebank EWT_DIR [--methods ...]
Cost:     some minutes; the exact table (experiments/exact_effects.py, an hour) is read from the repository.
Outcome:  expected were, for attribution without contrast, a correlation above 0.95 and all of the exact top 20 within
          its 100 best for most tags. So it is from the second layer on; in the first, whose neurons write far more than
          the stream holds, one step along the derivative says less. What reads activations alone agrees with neither.

Rankings are made on the very words of the exact table (its rows are drawn again from its seed). Medians over the tags
with at least so many words. Correlations are over all neurons; recall is the share of the 20 neurons with the largest
exact effect (or contrast) that are among the 100 best of the ranking.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from tables import markdown

import posneurons as pn
from posneurons.agreement import pearson, recall, spearman
from posneurons.records import Ranking
from posneurons.verification import contrasts, some_rows

METHODS = [
    "attribution:contrast=no", "attribution", "attribution:contrast=no,baseline=mean", "relp:contrast=no", "relp",
    "integrated_gradients:contrast=no", "integrated_gradients", "logprob_increase:contrast=no", "logprob_increase",
    "dynamic_logit_attribution", "logit_attribution", "correlation", "auroc", "probeless", "lape",
]  # fmt: skip


def compare(ranking: Ranking, effects: np.ndarray, exact: np.ndarray, number: int) -> dict[str, float]:
    """One tag: agreement with the exact effect and with the exact contrast [neuron]."""
    scores = ranking.scores[number].ravel()
    key = scores if ranking.signed else np.abs(scores - ranking.neutral)
    listed = np.zeros(len(key), dtype=bool)
    listed[ranking.order(ranking.tags[number])[:100]] = True
    return {
        "correlation": pearson(key, effects),
        "rank correlation": spearman(key, effects),
        "recall": recall(listed, effects, 20),
        "contrast: correlation": pearson(key, exact),
        "contrast: rank correlation": spearman(key, exact),
        "contrast: recall": recall(listed, exact, 20),
    }


def by_layer(ranking: Ranking, effects: np.ndarray, number: int) -> dict[str, float]:
    """One tag: correlation with the exact effect within each layer, and agreement without the first layer."""
    scores, exact = ranking.scores[number], effects.reshape(ranking.scores.shape[1:])
    found = {f"layer {layer}": pearson(scores[layer], exact[layer]) for layer in range(len(scores))}
    later, rest = scores[1:].ravel(), exact[1:].ravel()
    listed = np.zeros(len(later), dtype=bool)
    listed[np.argsort(-later, kind="stable")[:100]] = True
    return found | {"later layers": pearson(later, rest), "recall in later layers": recall(listed, rest, 20)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treebank", required=True, help="the treebank of the exact table")
    parser.add_argument("--exact", type=Path, default=Path(__file__).with_name("exact_effects_demo.parquet"))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--least", type=int, default=50, help="words a tag must have")
    asked = parser.parse_args()

    table = pq.read_table(asked.exact)
    made = json.loads(table.schema.metadata[b"posneurons"])
    frame = table.to_pandas()
    model = pn.load_model("demo", dtype=torch.float32, device="cpu")
    corpus = pn.align(pn.load_treebank(asked.treebank), model.tokenizer, n_ctx=model.cfg.n_ctx)
    part = some_rows(corpus.split(made["split"]), sum(made["words"].values()), made["seed"])
    count = np.bincount(part.word_tag[part.readable("predict")], minlength=len(part.tags))
    tags = [tag for tag in part.tags if count[part.tags.index(tag)] >= asked.least]
    wide = np.full((len(part.tags), model.cfg.n_layers * model.cfg.d_mlp), np.nan)
    for tag, rows in frame.groupby("tag", observed=True):
        wide[part.tags.index(tag), rows["layer"] * model.cfg.d_mlp + rows["neuron"]] = rows["effect"]
    contrast = contrasts(wide, count)
    splits = [split for split in part.split_names if np.any(part.row_split == part.split_names.index(split))]
    lines = []
    for method in asked.methods:
        try:
            ranking = pn.rank(model, part, method, split=splits[0])
        except pn.PosNeuronsError as error:
            sys.stderr.write(f"{method}: {error}\n")
            continue
        rows = [compare(ranking, wide[n], contrast[n], n) for n in map(part.tags.index, tags)]
        per_tag = pd.DataFrame(rows, index=tags)
        lines.append({"method": method, **per_tag.median()})
        if method == asked.methods[0]:
            layers = pd.DataFrame([by_layer(ranking, wide[n], n) for n in map(part.tags.index, tags)], index=tags)
            for title, frame in (("tag", per_tag), ("layer: correlation", layers)):
                sys.stdout.write(f"### {method}, by {title}\n\n{markdown(frame.reset_index(names='tag'))}\n\n")
    sys.stdout.write(
        f"### {int(count.sum()):,} words, medians over {len(tags)} tags\n\n{markdown(pd.DataFrame(lines))}\n"
    )


if __name__ == "__main__":
    main()
