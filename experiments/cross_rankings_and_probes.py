"""Does the probe decide which ranking is best? And do the best neurons beat random ones of the same layers?

    .venv/bin/python experiments/cross_rankings_and_probes.py [--methods correlation probeless elastic_net] [--at last]

Cost: about a minute on one core with the embedded model and treebank, most of it for the probes.
Expected: with every ranking and both probes the best neurons beat random ones of the same layers, and all rankings by
about as much; by how much depends on the probe. Measured after the word with 50 neurons: the best .80 to .83 whatever
the probe, random ones .55 for the linear but .70 for the Gaussian probe, which reads a tag off the spread of neurons
whose mean says nothing. The last neurons of a ranking are no better than random ones, but for rankings of a shortlist,
whose last are still among the best of the model. The greedy Gaussian picks best for the Gaussian probe, .83 and .81.
A control task above the majority's share means that a probe remembers words: compare probes by selectivity.

Accuracy, macro-F1 and control-task accuracy on the test words, each ranking made on the training words; the columns are
those of `posneurons.probes.cross`.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from tables import markdown

import posneurons as pn
from posneurons.probes import cross


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--treebank", default="demo")
    parser.add_argument("--methods", nargs="+", default=["correlation", "mean_difference", "elastic_net", "gaussian"])
    parser.add_argument("--at", default="last", choices=["predict", "first", "last"])
    parser.add_argument("--ks", nargs="+", type=int, default=[10, 50])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    options = parser.parse_args()
    begin = time.perf_counter()
    model = pn.load_model(options.model, device=options.device, dtype=torch.float32)
    corpus = pn.align(pn.load_treebank(options.treebank), model.tokenizer)
    rankings = [pn.rank(model, corpus, method, at=options.at, seed=options.seed) for method in options.methods]
    ranked = time.perf_counter() - begin
    frame = cross(model, corpus, rankings, ks=options.ks, at=options.at, seed=options.seed)
    shown = frame.drop(columns=["ranked_at", "at", "train_words", "test_words"])
    words = frame[["train_words", "test_words"]].iloc[0]
    sys.stdout.write(
        f"### {corpus.name}, at {options.at}\n\n{markdown(shown)}\n\n"
        f"{words['train_words']:,} words to fit, {words['test_words']:,} to judge. "
        f"Ranked in {ranked:.0f} s, probed in {time.perf_counter() - begin - ranked:.0f} s.\n"
    )


if __name__ == "__main__":
    main()
