"""What do per-tag histograms cost beside the moments, and how far off is the area under the ROC curve taken from them?

Command:  python experiments/histogram_cost.py --treebank EWT_DIR [--model demo] [--device cpu] [--repeats 3]
          [--share 1] [--bins 64] [--neurons 500]
Cost:     a few minutes on two cores.
Outcome:  the histogram pass takes at most twice the pass with the moments; no area is off by 0.005 or more.

Side by side in one process, alternating: the bare forward pass (same batches, no hook, no unembedding), the same with
the moments of all neurons for all tags, and the same with their histograms, the pilot for the edges included.
The error is that of neurons drawn at random, for all tags with at least `--least` words, against areas of the exact
values.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time

import numpy as np
import torch

import posneurons as pn
from posneurons import models, passes, ranking, shortlist
from posneurons.activations import batches
from posneurons.records import Corpus


def part_of(corpus: Corpus, share: float) -> Corpus:
    return corpus.select(np.random.default_rng(0).random(corpus.n_rows) < share)


@torch.no_grad()
def bare(model: object, corpus: Corpus) -> None:
    for batch in batches(corpus, models.describe(model).device):
        models.residual(model, batch.tokens)


def seconds(job: object, *args: object, **options: object) -> float:
    gc.collect()
    begin = time.perf_counter()
    job(*args, **options)  # type: ignore[operator]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def errors(model: object, corpus: Corpus, bins: int, n: int, least: int) -> np.ndarray:
    """Absolute error of every area [tag, neuron] of a random sample of neurons."""
    info = models.describe(model)
    flat = np.random.default_rng(1).choice(info.n_layers * info.d_mlp, n, replace=False)
    neurons = pn.NeuronSet.from_flat(flat, info.d_mlp)
    found = ranking.auroc(passes.tag_histograms(model, corpus, bins=bins)["predict"])
    exact = shortlist.exact(model, corpus, "auroc", neurons, at="predict")
    where = (neurons.layers, neurons.units)
    return np.abs(found - exact.scores)[np.flatnonzero(exact.count >= least)[:, None], where[0], where[1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treebank", default="demo", help="a .conllu file or a folder; the embedded treebank")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--share", type=float, default=1, help="share of the rows of the training split")
    parser.add_argument("--bins", type=int, default=64)
    parser.add_argument("--neurons", type=int, default=500)
    parser.add_argument("--least", type=int, default=20, help="words of a tag for its errors to count")
    args = parser.parse_args()
    model = pn.load_model(args.model, device=args.device, dtype=args.dtype)
    corpus = pn.align(pn.load_treebank(args.treebank), model.tokenizer, n_ctx=model.cfg.n_ctx).split("train")
    corpus = part_of(corpus, args.share)
    bare(model, part_of(corpus, 0.02))  # warm up
    times = np.array(
        [
            [
                seconds(bare, model, corpus),
                seconds(passes.tag_moments, model, corpus),
                seconds(passes.tag_histograms, model, corpus, bins=args.bins),
            ]
            for _ in range(args.repeats)
        ]
    )
    best, info = times.min(0), models.describe(model)
    off = errors(model, corpus, args.bins, args.neurons, args.least)
    each = ", ".join(f"{ratio:.2f}" for ratio in times[:, 2] / times[:, 1])
    setting = (
        f"{args.model} ({info.dtype}, {info.n_layers} x {info.d_mlp} neurons), {len(corpus):,} words, "
        f"{len(corpus.tokens):,} tokens, {args.bins} bins, {torch.get_num_threads()} threads on {info.device}"
    )
    lines = [
        setting,
        "",
        f"| pass | seconds (best of {args.repeats}) |",
        "| --- | ---: |",
        f"| bare forward pass | {best[0]:.2f} |",
        f"| with the moments of all tags | {best[1]:.2f} |",
        f"| with the histograms of all tags, pilot included | {best[2]:.2f} |",
        f"| histograms over moments (each repeat) | {best[2] / best[1]:.2f} ({each}) |",
        "",
        f"| error of the area, {args.neurons} neurons x {off.shape[0]} tags | |",
        "| --- | ---: |",
        f"| largest | {np.nanmax(off):.5f} |",
        f"| 99th percentile | {np.nanquantile(off, 0.99):.5f} |",
        f"| mean | {np.nanmean(off):.5f} |",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
