"""How much faster are forked losses of single neurons than the plain loop, and are they the same?

Command:  python experiments/fork_speed.py [--treebank EWT_DIR] [--model demo] [--neurons 48] [--words 400]
Cost:     two minutes on one core.
Outcome:  equal to 1e-5 nats in float32, and about twice as fast on the embedded model on a CPU, where nearly
          all of what is left are matrix products that must be made.

The plain loop is what a user would write: batches of 16 rows in the order of the corpus, padded, one `run_with_hooks`
per neuron, full logits, log-softmax, gather. Neurons are spread evenly over all layers. The scope `local` has no plain
rival that is as quick (one run per neuron and position), so its time stands beside that of the loop for `all`. Times
are the least of the repeats, the intact run included, after a first batch to warm up.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import posneurons as pn
from posneurons.lesions import word_losses
from posneurons.records import Corpus
from posneurons.verification import some_rows


@torch.no_grad()
def plain(model: Any, corpus: Corpus, neurons: pn.NeuronSet, rows: int = 16) -> np.ndarray:
    """Loss of every scored word [neuron word], each neuron set to 0 after BOS by itself."""

    def silence(value: torch.Tensor, hook: Any, unit: int) -> torch.Tensor:  # noqa: ARG001
        value[:, 1:, unit] = 0
        return value

    device = next(model.parameters()).device
    losses = np.full((len(neurons), len(corpus)), np.nan, dtype=np.float32)
    scored = corpus.readable("predict")
    for begin in range(0, corpus.n_rows, rows):
        texts = [corpus.row_tokens(row) for row in range(begin, min(begin + rows, corpus.n_rows))]
        padded = np.full((len(texts), max(map(len, texts))), corpus.bos)
        for slot, text in enumerate(texts):
            padded[slot, : len(text)] = text
        tokens = torch.from_numpy(padded).to(device)
        words = scored[(corpus.word_row[scored] >= begin) & (corpus.word_row[scored] < begin + rows)]
        row, first = corpus.word_row[words] - begin, corpus.word_first[words]
        for number, (layer, unit) in enumerate(zip(neurons.layers, neurons.units, strict=True)):
            hook = (f"blocks.{layer}.mlp.hook_post", partial(silence, unit=int(unit)))
            log_probs = model.run_with_hooks(tokens, fwd_hooks=[hook]).float().log_softmax(-1)
            losses[number, words] = -log_probs[row, first - 1, padded[row, first]].cpu().numpy()
    return losses[:, scored]


def best_of(job: Callable[[], np.ndarray], repeats: int) -> tuple[float, np.ndarray]:
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        found = job()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return min(seconds), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treebank", default="demo", help="folder or name; the embedded one by default")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--neurons", type=int, default=48)
    parser.add_argument("--words", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2048)
    asked = parser.parse_args()

    model = pn.load_model(asked.model, device=asked.device, dtype=torch.float32)
    bank = pn.load_treebank() if asked.treebank == "demo" else pn.load_treebank(asked.treebank)
    corpus = some_rows(pn.align(bank, model.tokenizer, context=256).split(asked.split), asked.words, 0)
    everyone = model.cfg.n_layers * model.cfg.d_mlp
    neurons = pn.NeuronSet.from_flat(np.linspace(0, everyone - 1, asked.neurons).astype(np.int64), model.cfg.d_mlp)
    singles = [pn.NeuronSet.parse([name]) for name in neurons]
    fill = torch.zeros(model.cfg.n_layers, model.cfg.d_mlp)

    def forked(scope: Any) -> np.ndarray:
        return word_losses(model, corpus, singles, fill, scope=scope, tokens=asked.tokens)[2]

    plain(model, corpus.select(np.arange(corpus.n_rows) < 4), neurons)
    slow, expected = best_of(lambda: plain(model, corpus, neurons), asked.repeats)
    fast, found = best_of(lambda: forked("all"), asked.repeats)
    local, _ = best_of(lambda: forked("local"), asked.repeats)
    each = 1e3 / len(neurons)
    sys.stdout.write(
        f"{len(neurons)} neurons, {expected.shape[1]} words, {asked.device}, {torch.get_num_threads()} thread(s); "
        f"largest difference {np.abs(expected - found).max():.1e} nats\n\n"
        "| way | ms per neuron | times faster |\n|---|---|---|\n"
        f"| plain loop | {each * slow:.1f} | 1 |\n"
        f"| forked, scope all | {each * fast:.1f} | {slow / fast:.1f} |\n"
        f"| forked, scope local | {each * local:.1f} | {slow / local:.1f} |\n"
    )


if __name__ == "__main__":
    main()
