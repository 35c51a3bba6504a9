"""What does each ranking method cost, in forward passes over the same words?

Command:  python experiments/method_costs.py [--treebank EWT_DIR] [--model demo] [--rows 200] [--seconds 120]
Cost:     a few minutes on one core at 200 rows; --seconds bounds each method.
Outcome:  about one forward pass for what is read off activations, about three for attribution and RelP in the local
          scope, and tens for integrated gradients, whose nodes and layers each take a part of a pass.

A bare forward pass is the residual stream after the last block of the same batches, nothing kept and no logits. Every
method of `posneurons.methods.METHODS` runs by `pn.rank` with default options, at `predict`, beside bare passes, in a
second process, so that a method that takes too long can be stopped. Times are the least of the repeats, after a warm-up
on a few rows; a method is not repeated once it has used half of its time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import queue
import sys
import time
from typing import Any

import numpy as np
import torch

import posneurons as pn
from posneurons import models
from posneurons.activations import batches
from posneurons.methods import METHODS
from posneurons.records import Corpus


def prepare(asked: argparse.Namespace) -> tuple[Any, Corpus]:
    model = pn.load_model(asked.model, device=asked.device, dtype=asked.dtype)
    bank = pn.load_treebank() if asked.treebank == "demo" else pn.load_treebank(asked.treebank)
    corpus = pn.align(bank, model.tokenizer, n_ctx=256).split(asked.split)
    return model, rows_of(corpus, asked.rows)


def rows_of(corpus: Corpus, rows: int) -> Corpus:
    """So many rows, spread over the corpus."""
    spread = np.linspace(0, corpus.n_rows - 1, min(rows, corpus.n_rows)).round().astype(np.int64)
    return corpus.select(np.isin(np.arange(corpus.n_rows), spread))


@torch.no_grad()
def bare(model: Any, corpus: Corpus, tokens: int) -> None:
    """One forward pass over all rows, without logits."""
    for batch in batches(corpus, models.describe(model).device, tokens):
        models.residual(model, batch.tokens)


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(job: Any) -> float:
    begin = now()
    job()
    return now() - begin


def measure(asked: argparse.Namespace, methods: list[str], results: Any) -> None:
    """Send (method, seconds of a bare pass, seconds of the method or the line that it ends with)."""
    model, corpus = prepare(asked)
    few = rows_of(corpus, max(8, corpus.n_rows // 20))
    bare(model, corpus, asked.tokens)
    for method in methods:
        pass_seconds = min(seconds_of(lambda: bare(model, corpus, asked.tokens)) for _ in range(asked.repeats + 1))
        results.put((method, pass_seconds, None))
        try:
            pn.rank(model, few, method, split=asked.split, tokens=asked.tokens)
            results.put((method, pass_seconds, best_of(model, corpus, method, asked)))
        except (pn.PosNeuronsError, ImportError, AttributeError, RuntimeError) as error:  # its line is in the table
            results.put((method, pass_seconds, f"{type(error).__name__}: {error}".partition("\n")[0]))


def best_of(model: Any, corpus: Corpus, method: str, asked: argparse.Namespace) -> float:
    """Least of the repeats; no more of them once half of the time is used."""
    spent: list[float] = []
    while len(spent) < asked.repeats and sum(spent) <= asked.seconds / 2:
        spent.append(seconds_of(lambda: pn.rank(model, corpus, method, split=asked.split, tokens=asked.tokens)))
    return min(spent)


def all_of(asked: argparse.Namespace) -> dict[str, tuple[float, float | str]]:
    """Seconds of a bare pass and of each method; a process that takes too long is ended, and another does the rest."""
    found: dict[str, tuple[float, float | str]] = {}
    left, context = (
        [name for name in METHODS if name in (asked.method or METHODS)],
        multiprocessing.get_context("spawn"),
    )
    while left:
        results: Any = context.Queue()
        worker = context.Process(target=measure, args=(asked, left, results), daemon=True)
        worker.start()
        while left:
            reply = one_method(results, worker, asked.seconds)
            method, pass_seconds, told = left.pop(0), *reply
            found[method] = (pass_seconds, told)
            if not worker.is_alive() or told == too_long(asked.seconds):
                break
        worker.terminate()
        worker.join()
    return found


def too_long(seconds: float) -> str:
    return f"more than {seconds:.0f} s"


def one_method(results: Any, worker: Any, seconds: float) -> tuple[float, float | str]:
    """The replies about one method: the bare pass first (models are loaded before it), then what it took."""
    pass_seconds = float("nan")
    try:
        _, pass_seconds, _ = results.get(timeout=600)
        return pass_seconds, results.get(timeout=seconds)[2]
    except queue.Empty:
        return pass_seconds, too_long(seconds) if worker.is_alive() else "its process ended"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treebank", default="demo", help="folder or name; the embedded one by default")
    parser.add_argument("--split", default="train")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--rows", type=int, default=200, help="rows, spread over the split")
    parser.add_argument("--method", action="append", choices=list(METHODS), help="repeatable; all by default")
    parser.add_argument("--seconds", type=float, default=120, help="of one method, warm-up included")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2048)
    asked = parser.parse_args()

    model, corpus = prepare(asked)
    info = models.describe(model)
    sys.stdout.write(
        f"{info.name}, {info.dtype}, {info.device}, {torch.get_num_threads()} thread(s); {corpus.name}: "
        f"{corpus.n_rows} rows, {len(corpus.readable('predict'))} words, "
        f"{len(corpus.tokens) + corpus.n_rows} tokens\n\n"
        "| method | seconds | bare forward passes |\n|---|---|---|\n"
    )
    del model
    for method, (pass_seconds, told) in all_of(asked).items():
        cells = told if isinstance(told, str) else f"{told:.2f} | {told / pass_seconds:.1f}"
        sys.stdout.write(f"| {method} | {cells}{' |' if isinstance(told, str) else ''} |\n")


if __name__ == "__main__":
    main()
