"""Which ranking methods find neurons that are known to work, and which are taken in by decoys?

    .venv/bin/python experiments/score_methods.py [--share 0.25] [--gain 0.02] [--methods correlation attribution ...]

Every method of `posneurons.methods.METHODS`, with its default options and some with others, on the model constructed
by hand and on the embedded model with grafts for five tags, over a share of the rows of the embedded treebank. A method
that cannot be used gets its reason in place of figures. P@k has k = the number of the tag's neurons; decoys should be
at 0.5 or below.
Cost: 8 minutes on one busy core, nearly all of it for the two methods of integrated gradients on the embedded model.
Expected: what reads activations alone finds the planted neurons and their read-only copies alike (copies near 1, P@k at
most 0.5); what follows effects on the loss or weights leaves the copies at 0.5 or below.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np

import posneurons as pn
from posneurons.grafts import graft
from posneurons.methods import METHODS
from posneurons.planted import Planted, markov_model
from posneurons.scoring import score_method

VARIANTS = ("attribution:contrast=no", "attribution:baseline=mean", "relp:baseline=mean")
TAGS = ("NOUN", "VERB", "ADJ", "ADP", "PRON")


def lines(planted: Planted, methods: list[str]) -> Iterator[str]:
    """A Markdown table, row by row."""
    kinds = ["all", *planted.decoys]
    heads = ["method", "AUROC", "P@k", "R@5k", *(f"decoys: {kind}" for kind in kinds), "seconds", "passes"]
    yield f"| {' | '.join(heads)} |"
    yield f"| --- |{' ---: |' * (len(heads) - 1)}"
    for method in methods:
        try:
            found = score_method(method, planted).summary()
        except pn.PosNeuronsError as error:
            yield f"| {method} | {error} |{' |' * (len(heads) - 2)}"
            continue
        shown = [f"{found[key]:.2f}" for key in found if key not in ("method", "seconds", "passes")]
        yield f"| {method} | {' | '.join(shown)} | {found['seconds']:.1f} | {found['passes']:.1f} |"


def embedded(share: float, gain: float, seed: int) -> Planted:
    model = pn.load_model(device="cpu", dtype="float32")
    corpus = pn.align(pn.load_treebank(), model.tokenizer)
    part = corpus.select(np.random.default_rng(seed).random(corpus.n_rows) < share)
    return graft(model, part, tags=TAGS, gain=gain, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.25, help="of the rows of the embedded treebank")
    parser.add_argument("--gain", type=float, default=0.02, help="of the grafts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=[*METHODS, *VARIANTS])
    options = parser.parse_args()
    for planted in (markov_model(seed=options.seed), embedded(options.share, options.gain, options.seed)):
        truth = ", ".join(f"{tag} {len(neurons)}" for tag, neurons in planted.truth.items())
        sys.stdout.write(f"### {planted.name}\n\n{len(planted.corpus):,} words; neurons to find: {truth}\n\n")
        for line in lines(planted, options.methods):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
