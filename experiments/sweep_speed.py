"""How much faster is a mixed lesion sweep than the plain TransformerLens loop, and are the numbers the same?

Command:  python experiments/sweep_speed.py [--treebank EWT_DIR] [--words 2000]
Cost:     a quarter of an hour on two cores with the embedded model, nearly all of it the plain loop.
Outcome:  on EWT 8 times or more over the whole sweep, equal to 1e-5 nats in float32: 5 times from words without
          padding and logits where they are read, the rest from starting where a lesion begins to differ.

The sweep: every neuron of a top 100 alone (correlation, NOUN), the top 50 of each layer as a set, and the top 1, 2, 5,
10, 20, 50, 100 as sets. The plain loop is what a user would write: batches of 32 sentences as they come, padded, one
`run_with_hooks` per lesion with the full logits, log-softmax, gather. `--plain` says of how many lesions of each
kind the plain time is measured; the others are taken to cost the same, for its cost does not depend on the lesion.
Each way is timed after a first batch to warm up, in turns, and the least of the repeats counts.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks.timing import Spent, turns

import posneurons as pn
from posneurons.fills import Condition
from posneurons.lesions import word_losses
from posneurons.records import Corpus
from posneurons.verification import some_rows

CURVE = (1, 2, 5, 10, 20, 50, 100)


@torch.no_grad()
def plain(model: Any, corpus: Corpus, sets: list[pn.NeuronSet], rows: int = 32) -> np.ndarray:
    """Loss of every scored word [lesion word], each set at 0 after BOS."""

    def silence(value: torch.Tensor, hook: Any, units: np.ndarray) -> torch.Tensor:  # noqa: ARG001
        value[:, 1:, units] = 0
        return value

    device = next(model.parameters()).device
    losses = np.full((len(sets), len(corpus)), np.nan, dtype=np.float32)
    scored = corpus.readable("predict")
    for begin in range(0, corpus.n_rows, rows):
        texts = [corpus.row_tokens(row) for row in range(begin, min(begin + rows, corpus.n_rows))]
        padded = np.full((len(texts), max(map(len, texts))), corpus.bos)
        for slot, text in enumerate(texts):
            padded[slot, : len(text)] = text
        tokens = torch.from_numpy(padded).to(device)
        words = scored[(corpus.word_row[scored] >= begin) & (corpus.word_row[scored] < begin + rows)]
        row, first = corpus.word_row[words] - begin, corpus.word_first[words]
        for number, neurons in enumerate(sets):
            hooks = [
                (f"blocks.{layer}.mlp.hook_post", partial(silence, units=units))
                for layer, units in neurons.by_layer().items()
            ]
            log_probs = model.run_with_hooks(tokens, fwd_hooks=hooks).float().log_softmax(-1)
            losses[number, words] = -log_probs[row, first - 1, padded[row, first]].cpu().numpy()
    return losses[:, scored]


def sweep(model: Any, corpus: Corpus, singles: int = 100) -> dict[str, list[pn.NeuronSet]]:
    """The lesions of each kind."""
    ranking = pn.rank(model, corpus)
    best = ranking.top(100)["NOUN"]
    layers = ranking.top(50, per="layer")["NOUN"]
    first = [pn.NeuronSet(best.layers[:k], best.units[:k]) for k in CURVE]
    return {
        "single neurons": [pn.NeuronSet.parse([name]) for name in list(best)[:singles]],
        "sets of one layer": [
            pn.NeuronSet(layers.layers[layers.layers == layer], layers.units[layers.layers == layer])
            for layer in range(model.cfg.n_layers)
        ],
        "first k of all layers": first,
    }


@dataclass(frozen=True)
class Measured:
    """Lesions of one kind: how many, seconds of all by each way, and the largest difference of a loss in nats.

    The plain way is measured on some of them, and its seconds are those of each times their number.
    """

    number: int
    plain: Spent
    ours: Spent
    off: float


def measure(
    model: Any, corpus: Corpus, plan: dict[str, list[pn.NeuronSet]], *, shown: int, repeats: int, tokens: int
) -> dict[str, Measured]:
    """Both ways in turns, for each kind and, by ours, for all of them in one sweep ("the whole sweep")."""

    def ours(sets: list[pn.NeuronSet]) -> np.ndarray:
        return word_losses(model, corpus, [Condition(each) for each in sets], tokens=tokens).lesioned[0]

    everyone = [each for sets in plan.values() for each in sets]
    few = corpus.select(np.arange(corpus.n_rows) < 4)
    plain(model, few, everyone[:1])
    word_losses(model, few, [Condition(each) for each in everyone[:2]], tokens=tokens)
    found = {}
    for kind, sets in plan.items():
        which = np.linspace(0, len(sets) - 1, min(shown, len(sets))).astype(int)
        some = [sets[number] for number in which]
        jobs = {"plain": partial(plain, model, corpus, some), "ours": partial(ours, sets)}
        spent = turns(jobs, repeats)
        off = float(np.abs(spent["ours"].found[which] - spent["plain"].found).max())
        scaled = tuple(seconds * len(sets) / len(some) for seconds in spent["plain"].seconds)
        found[kind] = Measured(len(sets), Spent(scaled), Spent(spent["ours"].seconds), off)
    whole = turns({"ours": lambda: ours(everyone)}, repeats)["ours"]
    slow = tuple(map(sum, zip(*(each.plain.seconds for each in found.values()), strict=True)))
    off = max(each.off for each in found.values())
    return found | {"the whole sweep": Measured(len(everyone), Spent(slow), Spent(whole.seconds), off)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treebank", default="demo", help="folder or name; the embedded one by default")
    parser.add_argument("--split", default="test")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--words", type=int, default=2000)
    parser.add_argument("--plain", type=int, default=3, help="lesions of each kind that the plain loop is timed on")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2048)
    asked = parser.parse_args()

    model = pn.load_model(device=asked.device, dtype=asked.dtype)
    bank = pn.load_treebank() if asked.treebank == "demo" else pn.load_treebank(asked.treebank)
    whole = pn.align(bank, model.tokenizer, n_ctx=256)
    corpus = some_rows(whole.split(asked.split), asked.words, 0)
    plan = sweep(model, some_rows(whole.split("train"), 20_000, 0))
    found = measure(model, corpus, plan, shown=asked.plain, repeats=asked.repeats, tokens=asked.tokens)
    rows = [
        f"| {kind} | {each.number} | {each.plain.least / each.number:.2f} | {each.ours.least / each.number:.3f} "
        f"| {each.plain.least / each.ours.least:.1f} |"
        for kind, each in found.items()
    ]
    off, number = found["the whole sweep"].off, found["the whole sweep"].number
    sys.stdout.write(
        f"{number} lesions of {len(corpus.readable('predict'))} words, {asked.dtype}, {asked.device}, "
        f"{torch.get_num_threads()} thread(s); largest difference {off:.1e} nats\n\n"
        "| lesions | number | plain, s each | ours, s each | times faster |\n|---|---:|---:|---:|---:|\n"
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    main()
