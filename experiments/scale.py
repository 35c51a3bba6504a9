"""What does each job cost on a large model, in time, memory and bare forward passes over the same batches?

Command:  python experiments/scale.py CHECKPOINT [--treebank EWT_DIR] [--words N] [--device cuda] [--job ranking ...]
Cost:     with Llama-3-8B on one GPU minutes for 2,000 words; on two cores an hour for a few hundred words of four
          layers. A checkpoint of the shape, with random weights, is written by experiments/write_random_llama.py.
Outcome:  ranking by streaming at most 1.15 times the bare forward pass on a GPU, 1.25 times on a CPU; attribution
          about three; every job within the memory that experiments/scale_counted.py plans for.

Jobs: the ranking by correlation at `predict`; local attribution with contrast; integrated gradients (6 nodes for each
layer and word, and per node: the mean over nodes, ends of the path included); a sweep of lesions (random sets of 100
neurons over all layers, set to 0, everywhere after BOS). The bare forward pass has the same batches, no hooks and no
unembedding, and is run again before each repeat of each job, so that work beside it weighs on both; the share is the
median over the repeats. Memory is what is allocated on a GPU beyond the weights and, on a CPU, by how much the
resident size (sampled every 10 ms) exceeds that before; `alive` is the bytes of tensors alive at once, by `LiveBytes`,
from a run of its own that is not timed.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from live_bytes import LiveBytes
from tables import markdown

import posneurons as pn
from posneurons import memory, models, passes
from posneurons.activations import BATCH_TOKENS, batches, sample_rows
from posneurons.attribution import attribution
from posneurons.fills import Condition
from posneurons.integrated import integrated_gradients
from posneurons.lesions import stream_losses
from posneurons.neurons import NeuronSet
from posneurons.ranking import rank_moments
from posneurons.records import Corpus

STEPS = 6
SET = 100
KINDS: dict[str, memory.Kind] = {
    "ranking": "forward",
    "attribution": "graph",
    "integrated gradients": "path",
}
"""What the plan of the memory knows of a job; lesions have a plan of their own."""


@dataclass(frozen=True)
class Cost:
    """What a job took. `share` is in bare forward passes over the same batches, the median of `shares`."""

    job: str
    seconds: float
    tokens_per_second: float
    share: float
    shares: tuple[float, ...]
    peak_mb: float
    alive_mb: float
    planned_mb: float


@torch.no_grad()
def bare(model: Any, corpus: Corpus, tokens: int) -> None:
    """One forward pass, without hooks and without logits."""
    for batch in batches(corpus, models.describe(model).device, tokens):
        models.residual(model, batch.tokens)


def jobs(model: Any, corpus: Corpus, asked: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    how = {"tokens": asked.tokens}
    info, rng = models.describe(model), np.random.default_rng(0)
    neurons = info.n_layers * info.d_mlp
    sets = [
        NeuronSet.from_flat(np.sort(rng.choice(neurons, min(SET, neurons), replace=False)), info.d_mlp)
        for _ in range(asked.conditions)
    ]
    conditions = [Condition(each) for each in sets]
    return {
        "ranking": lambda: rank_moments(passes.tag_moments(model, corpus, **how)["predict"]),
        "attribution": lambda: attribution(model, corpus, **how),
        "integrated gradients": lambda: integrated_gradients(model, corpus, steps=STEPS, **how),
        "sweep": lambda: stream_losses(model, corpus, conditions, lambda *_: None, **how),
    }


def now(device: str) -> float:
    """Seconds, once the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(job: Callable[[], Any], device: str) -> float:
    begin = now(device)
    job()
    return now(device) - begin


@contextmanager
def peak_of(device: str) -> Iterator[dict[str, float]]:
    """Megabytes beyond what was held before, at the peak, in `found["mb"]` once the context ends."""
    found = {"mb": 0.0}
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found["mb"] = (torch.cuda.max_memory_allocated(device) - before) / 1e6
        return
    process, running = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not running.wait(0.01):
            found["mb"] = max(found["mb"], (process.memory_info().rss - before) / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        running.set()
        watcher.join()


def measure(model: Any, corpus: Corpus, name: str, job: Callable[[], Any], asked: argparse.Namespace) -> Cost:
    """Repeats of a job, each after a bare pass; then once more for the bytes alive, where that was asked for."""
    device = models.describe(model).device
    times, shares, peaks = [], [], []
    for _ in range(asked.repeats):
        alone = seconds_of(lambda: bare(model, corpus, asked.tokens), device)
        with peak_of(device) as peak:
            times.append(seconds_of(job, device))
        shares.append(times[-1] / alone)
        peaks.append(peak["mb"])
    alive = float("nan")
    if asked.alive:
        with LiveBytes() as seen:
            job()
        alive = seen.peak / 1e6
    planned = float("nan")
    longest = int(np.diff(corpus.row_bounds).max()) + 1
    if name in KINDS:
        most = max(batch.tokens.numel() for batch in batches(corpus, "cpu", asked.tokens))
        planned = memory.need(model, KINDS[name], longest).of(most) / 1e6
    read = len(corpus.tokens) + corpus.n_rows
    return Cost(
        name, min(times), read / min(times), statistics.median(shares), tuple(shares), max(peaks), alive, planned
    )


def rows_of(costs: list[Cost], conditions: int) -> pd.DataFrame:
    """The table: jobs, and what one node or one condition of them takes."""
    rows = []
    for cost in costs:
        each = {"job": cost.job, "seconds": cost.seconds, "tokens/s": f"{cost.tokens_per_second:,.0f}"}
        spread = f"{min(cost.shares):.2f} to {max(cost.shares):.2f}"
        memories = {"peak MB": cost.peak_mb, "alive MB": cost.alive_mb, "planned MB": cost.planned_mb}
        rows.append(each | {"forward passes": cost.share, "each repeat": spread} | memories)
        parts = {"integrated gradients": ("one node", STEPS), "sweep": ("one condition", conditions)}
        if cost.job in parts:
            label, n = parts[cost.job]
            rows.append({"job": f"{cost.job}: {label}", "seconds": cost.seconds / n, "forward passes": cost.share / n})
    return pd.DataFrame(rows).fillna({"tokens/s": "", "each repeat": ""})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a folder or a name")
    parser.add_argument("--treebank", default="demo", help="a .conllu file or a folder; the embedded treebank")
    parser.add_argument("--words", type=int, default=2000, help="of train, in rows drawn at random; 0 for all")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--tokens", type=int, default=BATCH_TOKENS, help="of a batch")
    parser.add_argument("--conditions", type=int, default=100, help="lesions of the sweep")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--job", action="append", choices=["ranking", *list(KINDS)[1:], "sweep"], help="repeatable; all by default"
    )
    parser.add_argument("--alive", action="store_true", help="count the bytes of tensors alive, in a run of its own")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    asked = parser.parse_args()

    model = pn.load_model(asked.checkpoint, device=asked.device, dtype=asked.dtype)
    info = models.describe(model)
    bank = pn.load_treebank() if asked.treebank == "demo" else pn.load_treebank(asked.treebank)
    train = pn.align(bank, model.tokenizer, n_ctx=info.n_ctx).split("train")
    corpus = sample_rows(train, "predict", asked.words or None, np.random.default_rng(0))
    bare(model, corpus, asked.tokens)  # warm up
    setting = (
        f"{info.architecture}, {info.n_layers} layers of {info.d_mlp:,}, d_model {info.d_model:,}, vocabulary "
        f"{info.d_vocab:,}, {info.n_parameters:,} weights, {info.dtype} on {info.device}, "
        f"{torch.get_num_threads()} thread(s); {corpus.name}: {len(corpus.readable('predict')):,} words, "
        f"{len(corpus.tokens) + corpus.n_rows:,} tokens in {corpus.n_rows:,} rows; batches of {asked.tokens:,} tokens"
    )
    costs = []
    for name, job in jobs(model, corpus, asked).items():
        if name in (asked.job or [name]):
            costs.append(measure(model, corpus, name, job, asked))
            sys.stderr.write(f"{name}: {costs[-1].share:.2f} forward passes\n")
    sys.stdout.write(f"{setting}\n\n{markdown(rows_of(costs, asked.conditions))}\n")
    if asked.json is not None:
        asked.json.write_text(json.dumps({"setting": setting, "costs": [asdict(cost) for cost in costs]}, indent=1))


if __name__ == "__main__":
    main()
