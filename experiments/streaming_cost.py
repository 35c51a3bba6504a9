"""What do per-tag statistics cost beside the forward pass, and does memory grow with the corpus?

Command:  python experiments/streaming_cost.py --treebank EWT_DIR [--model demo] [--device cpu] [--repeats 3]
Cost:     a few minutes on two cores.
Outcome:  streaming all neurons takes at most 1.25 times the bare forward pass of the same batches; peak memory is the
          same for an eighth of the corpus and for all of it.

Side by side in one process, alternating: the bare forward pass (same batches, no hook, no unembedding), and the same
with the moments of all neurons for all tags. What a user would write otherwise (run_with_cache into a list, then numpy)
is measured on the smallest part, since it keeps every activation. Memory is how much the resident size of a fresh
process, sampled every 20 ms, grows while it streams a part of the corpus, after a bare forward pass over the same.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import psutil
import torch
from benchmarks.timing import Peak, alone, turns

import posneurons as pn
from posneurons import models
from posneurons.activations import WordIndex, batches
from posneurons.records import Corpus
from posneurons.words import At

PARTS = (1 / 8, 1 / 4, 1 / 2, 1)


def part_of(corpus: Corpus, share: float) -> Corpus:
    return corpus.select(np.random.default_rng(0).random(corpus.n_rows) < share)


@torch.no_grad()
def bare(model: object, corpus: Corpus) -> None:
    for batch in batches(corpus, models.describe(model).device):
        models.residual(model, batch.tokens)


@torch.no_grad()
def cached(model: object, corpus: Corpus, at: At = "predict") -> np.ndarray:
    """What a user would write to get at activations: cache every layer, keep every word [word, all neurons]."""
    info = models.describe(model)
    names = [models.post_name(layer) for layer in range(info.n_layers)]
    index, kept, order = WordIndex(corpus, at), [], []
    for batch in batches(corpus, info.device):
        cache = models.run_with_cache(model, batch.tokens, names)
        words = index.of(batch.rows)
        where = batch.places(corpus, index.position, words)
        kept.append(np.concatenate([cache[name].flatten(0, 1)[where].float().cpu().numpy() for name in names], axis=1))
        order.append(words)
    return np.concatenate(kept)[np.argsort(np.concatenate(order))]


def plain(model: object, corpus: Corpus, at: At = "predict") -> np.ndarray:
    """The correlations of every tag and neuron by numpy, from cached activations [tag, all neurons]."""
    x = cached(model, corpus, at)
    y = np.eye(len(corpus.tags))[corpus.word_tag[corpus.readable(at)]]
    with np.errstate(invalid="ignore"):
        x, y = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / np.maximum(y.std(0), 1e-12)
    return y.T @ x / len(x)


def memory_of(share: float, treebank: str, name: str, device: str) -> tuple[int, float, float]:
    """Words, megabytes by which a bare pass makes this process grow, and those that the moments add to it."""
    model = pn.load_model(name, device=device)
    corpus = part_of(pn.align(pn.load_treebank(treebank), model.tokenizer, n_ctx=model.cfg.n_ctx).split("train"), share)
    begin = psutil.Process().memory_info().rss
    bare(model, corpus)  # what torch keeps for itself, mostly kernels for every shape of a batch
    before = psutil.Process().memory_info().rss
    with Peak() as peak:
        pn.tag_moments(model, corpus)
    return len(corpus), (before - begin) / 1e6, peak.bytes / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treebank", default="demo", help="a .conllu file or a folder; the embedded treebank")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default=None)
    args = parser.parse_args()
    model = pn.load_model(args.model, device=args.device, dtype=args.dtype)
    corpus = pn.align(pn.load_treebank(args.treebank), model.tokenizer, n_ctx=model.cfg.n_ctx).split("train")
    bare(model, part_of(corpus, 0.02))  # warm up
    whole = turns({"bare": lambda: bare(model, corpus), "moments": lambda: pn.tag_moments(model, corpus)}, args.repeats)
    times = np.array([whole["bare"].seconds, whole["moments"].seconds]).T
    small = part_of(corpus, PARTS[0])
    pair = turns({"moments": lambda: pn.tag_moments(model, small), "plain": lambda: plain(model, small)}, args.repeats)
    streamed, listed = pair["moments"].least, pair["plain"].least
    grown = [alone(memory_of, share, args.treebank, args.model, args.device) for share in PARTS]
    info = models.describe(model)
    best = times.min(0)
    setting = (
        f"{args.model} ({info.dtype}, {info.n_layers} x {info.d_mlp} neurons), {len(corpus):,} words, "
        f"{len(corpus.tokens):,} tokens, {torch.get_num_threads()} threads"
    )
    each = ", ".join(f"{ratio:.3f}" for ratio in times[:, 1] / times[:, 0])
    lines = [
        setting,
        "",
        f"| | seconds (best of {args.repeats}) |",
        "| --- | ---: |",
        f"| bare forward pass | {best[0]:.2f} |",
        f"| forward pass with the moments of all tags | {best[1]:.2f} |",
        f"| ratio (each repeat) | {best[1] / best[0]:.3f} ({each}) |",
        f"| on {len(small):,} words: moments | {streamed:.2f} |",
        f"| on the same: run_with_cache into a list, numpy | {listed:.2f} |",
        "",
        "| words | growth in the bare forward pass, MB | further growth while streaming moments, MB |",
        "| ---: | ---: | ---: |",
        *(f"| {words:,} | {bare:.0f} | {growth:.0f} |" for words, bare, growth in grown),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
