"""What would each job on Llama-3-8B cost on a GPU that is not at hand, and what fits beside its weights on a small one?

Command:  python experiments/scale_counted.py [--treebank EWT_DIR] [--tokenizer DIR] [--shape 8b] [--free 6]
Cost:     a minute on one core: the words are aligned, and the model has shapes and no weights.
Outcome:  Counted and not measured: operations, bytes of statistics, bytes of a batch, and times at stated rates. Times
          leave out all that is neither arithmetic nor memory traffic of the statistics (Python, launches of kernels).

A multiply-add is two operations. Products of the weights are in bfloat16, logits and statistics in float32. Rates are
data-sheet peaks (dense, no TF32) times a share that is assumed: 40 % of bfloat16, 70 % of float32, 60 % of the memory's
rate. The operations of the forward pass, of attribution's passes and of the unembedding are compared with
PyTorch's FlopCounterMode, and planned bytes with `LiveBytes`, on the true shape, on the device "meta".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from live_bytes import LiveBytes
from tables import markdown
from torch.utils.flop_counter import FlopCounterMode
from write_random_llama import SHAPES

import posneurons as pn
from posneurons import attribution, loading, memory, models
from posneurons.activations import Batch
from posneurons.checkpoints import Checkpoint
from posneurons.forks import STACK
from posneurons.histograms import size as histogram_bytes
from posneurons.hooked import convert
from posneurons.locality import local_hooks
from posneurons.records import Corpus

STEPS = 6
CONDITIONS = 100
GIGA = 1e9


@dataclass(frozen=True)
class Gpu:
    """Data-sheet peaks, per second: operations in bfloat16 (dense) and in float32 (no TF32), bytes of its memory."""

    name: str
    bfloat16: float
    float32: float
    bytes: float


GPUS = (
    Gpu("H200", 989e12, 67e12, 4.8e12),
    Gpu("A100 80 GB", 312e12, 19.5e12, 2.0e12),
    Gpu("RTX 4090 24 GB", 165e12, 82.6e12, 1.0e12),
)
USED = {"bfloat16": 0.4, "float32": 0.7, "bytes": 0.6}
"""Shares of the peaks that are assumed."""


@dataclass(frozen=True)
class Work:
    """Operations in bfloat16 and float32, and bytes that statistics move."""

    bfloat16: float = 0.0
    float32: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.bfloat16 + other.bfloat16, self.float32 + other.float32, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.bfloat16 * times, self.float32 * times, self.bytes * times)

    def seconds(self, gpu: Gpu) -> float:
        """At the assumed shares of the peaks, one after the other."""
        return sum(amount / (getattr(gpu, name) * USED[name]) for name, amount in asdict(self).items())


@dataclass(frozen=True)
class Words:
    """What a job reads: words read at `predict`, tokens with BOS, the mean row of a token, and the longest."""

    words: int
    tokens: int
    length: float
    longest: int

    @classmethod
    def of(cls, corpus: Corpus) -> Words:
        lengths = np.diff(corpus.row_bounds) + 1
        mean = float(np.square(lengths).sum() / lengths.sum())
        return cls(len(corpus.readable("predict")), int(lengths.sum()), mean, int(lengths.max()))


def layer(shape: Mapping[str, int], length: float) -> float:
    """Operations of one layer per token: projections, MLP, scores and their mix over `length` positions."""
    wide, deep = shape["hidden_size"], shape["intermediate_size"]
    queries = shape["num_attention_heads"] * shape["head_dim"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    return 2 * (2 * wide * queries + 2 * wide * keys + 3 * wide * deep) + 4 * queries * length


def unembedding(shape: Mapping[str, int]) -> float:
    """Operations of the logits of one row."""
    return 2.0 * shape["hidden_size"] * shape["vocab_size"]


def neurons(shape: Mapping[str, int]) -> int:
    return shape["num_hidden_layers"] * shape["intermediate_size"]


def forward(shape: Mapping[str, int], read: Words) -> Work:
    """The bare forward pass."""
    return Work(bfloat16=shape["num_hidden_layers"] * layer(shape, read.length) * read.tokens)


def ranking(shape: Mapping[str, int], read: Words, tags: int = 17) -> Work:
    """The forward pass and the moments of every neuron: three products with one-hot tags.

    A value is read in bfloat16, written in float32, read for its mean, centred (read, written), squared (read,
    written), and read for the squares: 30 bytes.
    """
    values = read.words * neurons(shape)
    return forward(shape, read) + Work(float32=6 * tags * values, bytes=30 * values)


def attributing(shape: Mapping[str, int], read: Words, tags: int = 17) -> Work:
    """Forward, logits and their derivative, backward from the last block to the first layer's neurons; sums by tag.

    The derivative by activations alone costs what the forward pass does, less the first layer but its down projection.
    Sums over rows and tags are taken in float64, once for each tag of a row, which is counted as once per word; an
    effect is read and written about ten times in float32.
    """
    back = (shape["num_hidden_layers"] - 1) * layer(shape, read.length)
    back += 2 * shape["hidden_size"] * shape["intermediate_size"]
    logits = 2 * unembedding(shape) * read.words
    values = read.words * neurons(shape)
    passes = Work(bfloat16=back * read.tokens, float32=logits)
    return forward(shape, read) + passes + Work(float32=2 * 6 * tags * values, bytes=40 * values)


def integrating(shape: Mapping[str, int], read: Words, steps: int = STEPS) -> Work:
    """Layer by layer, from what follows it: `steps` nodes forward and backward, and both ends of the path forward."""
    n_layers, wide, deep = shape["num_hidden_layers"], shape["hidden_size"], shape["intermediate_size"]
    later = n_layers * (n_layers - 1) / 2 * layer(shape, read.length)
    passes = Work(bfloat16=(2 * steps + 2) * later, float32=(2 * steps + 2) * n_layers * unembedding(shape))
    ends = Work(float32=n_layers * 2 * 2 * wide * deep, bytes=n_layers * 40 * deep)
    return forward(shape, read) + (passes + ends) * read.words


def lesioning(shape: Mapping[str, int], read: Words, conditions: int = CONDITIONS, first: int = 0) -> Work:
    """The intact run, and each condition from after its first ablated layer, with logits where words are predicted."""
    logits = Work(float32=unembedding(shape) * read.words)
    later = Work(bfloat16=(shape["num_hidden_layers"] - 1 - first) * layer(shape, read.length) * read.tokens)
    return forward(shape, read) + logits + (later + logits) * conditions


def on_meta(shape: Mapping[str, int], dtype: torch.dtype = torch.bfloat16) -> Any:
    """The model as `load_model` makes it, views and all, with shapes and no weights."""
    import transformers

    config = transformers.LlamaConfig(**shape, attn_implementation="eager")
    with torch.device("meta"):
        source = transformers.LlamaForCausalLM(config).to(dtype)
    stated = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    checkpoint = Checkpoint("llama", Path(), None, stated, "")
    model = convert(checkpoint, source, loading.load_tokenizer("demo"), device=torch.device("meta"))
    return model.eval().requires_grad_(requires_grad=False)


def counted_by_torch(model: Any, batch: int, length: int) -> dict[str, tuple[float, int]]:
    """Operations and bytes alive at the peak of one batch on "meta": the forward pass, and local attribution.

    Every position but the last of each row is a word.
    """
    tokens = torch.zeros(batch, length, dtype=torch.long, device="meta")
    where = torch.arange(batch * length, device="meta")[: batch * (length - 1)]
    found: dict[str, tuple[float, int]] = {}
    with torch.no_grad(), FlopCounterMode(display=False) as operations, LiveBytes() as alive:
        models.residual(model, tokens)
    found["forward"] = (operations.get_total_flops(), alive.peak)
    rows, lengths = np.arange(batch), np.full(batch, length)
    scene = attribution.Scene(Batch(rows, lengths, tokens), where, where, where, where, where)
    with FlopCounterMode(display=False) as operations, LiveBytes() as alive:
        acts, states, gradient = attribution._run(model, scene, local_hooks(model), [])
        torch.autograd.grad(states, acts, gradient)
    found["attribution"] = (operations.get_total_flops(), alive.peak)
    return found


def state_bytes(shape: Mapping[str, int], tags: int = 17, bins: int = 64) -> dict[str, float]:
    """Bytes of statistics that stand on the device for a whole pass."""
    n = neurons(shape)
    return {
        "moments, per position": tags * n * 2 * 8,
        "histograms of 64 bins, per position": histogram_bytes(tags, n, bins),
        "values behind the edges (4,000 words, on the CPU), per position": 4000 * n * 2,
        "sums of effects": (6 * tags + 3) * n * 8,
    }


def batch_table(model: Any, longest: int, free: float) -> pd.DataFrame:
    """What a token of a batch takes, and how many tokens fit beside the weights."""
    uses: dict[memory.Kind, str] = {
        "forward": "ranking (all methods from moments, histograms, gates), means, donors",
        "kept": "probes, pages: densities and contexts",
        "lens": "logprob_increase, dynamic_logit_attribution",
        "graph": "attribution and relp, local",
        "graph_all": "attribution and relp, scope=all",
        "path": "integrated_gradients, key_neuron_rule",
        "path_all": "the same with path=joint, or per=model",
    }
    needs = {what: memory.need(model, kind, longest) for kind, what in uses.items()}
    needs["lesions, sweeps, verify, effects of pages (several at once)"] = lesion_need(model, longest)
    return pd.DataFrame([fitting(what, need, longest, free) for what, need in needs.items()])


def lesion_need(model: Any, longest: int) -> memory.Need:
    """The plan of `lesions`: at most a residual and a hundred neurons kept of each layer, and its keys and values."""
    info, cfg = models.describe(model), model.cfg
    kept = info.n_layers * (info.d_model + 100 + 2 * cfg.n_key_value_heads * cfg.d_head)
    token = memory.bytes_per_token(info, cfg.n_heads, longest, kept=kept, stack=STACK, itemsize=2)
    return memory.Need(token, row=3 * 4 * info.d_vocab)


def fitting(what: str, need: memory.Need, longest: int, free: float) -> dict[str, Any]:
    fits = need.affords(int(free))
    return {
        "method": what,
        "MB per token": need.token / 1e6,
        "MB per row of logits": need.row / 1e6,
        "GB beside": need.fixed / GIGA,
        "GB of 2,048 tokens": need.of(2048) / GIGA,
        "tokens that fit": f"{fits:,}",
        "longest row fits": "yes" if fits >= longest else "no",
    }


def job_table(shape: Mapping[str, int], train: Words, test: Words) -> tuple[pd.DataFrame, dict[str, Work]]:
    """Operations and times of each job."""
    work = {
        "bare forward pass, train": forward(shape, train),
        "ranking, train": ranking(shape, train),
        "attribution, train": attributing(shape, train),
        "integrated gradients, train": integrating(shape, train),
        f"sweep of {CONDITIONS} lesions, train": lesioning(shape, train),
        f"sweep of {CONDITIONS} lesions, test": lesioning(shape, test),
    }
    bare = work["bare forward pass, train"]
    rows = []
    for job, each in work.items():
        row: dict[str, Any] = {"job": job, "bf16 PFLOP": each.bfloat16 / 1e15, "fp32 PFLOP": each.float32 / 1e15}
        for gpu in GPUS:
            row[f"{gpu.name}, s"] = f"{each.seconds(gpu):,.0f}"
            row[f"{gpu.name}, passes"] = each.seconds(gpu) / bare.seconds(gpu)
        rows.append(row)
    return pd.DataFrame(rows), work


def compared(model: Any, shape: Mapping[str, int], batch: int, length: int) -> pd.DataFrame:
    """The formulas above beside what PyTorch counts, for one batch."""
    read = Words(batch * (length - 1), batch * length, length, length)
    ours = {"forward": forward(shape, read), "attribution": attributing(shape, read)}
    plans: dict[str, memory.Kind] = {"forward": "forward", "attribution": "graph"}
    sums = Work(float32=2 * 6 * 17 * read.words * neurons(shape))  # not among what is run on "meta"
    rows = []
    for name, (operations, alive) in counted_by_torch(model, batch, length).items():
        here = ours[name].bfloat16 + ours[name].float32 - (sums.float32 if name == "attribution" else 0)
        plan = memory.need(model, plans[name], length).of(read.tokens)
        rows.append(
            {
                "pass": name, "TFLOP, formula": here / 1e12, "TFLOP, FlopCounterMode": operations / 1e12,
                "GB planned": plan / GIGA, "GB alive": alive / GIGA,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treebank", default="demo", help="a .conllu file or a folder; the embedded treebank")
    parser.add_argument("--tokenizer", default="demo", help="folder with the tokenizer of the model")
    parser.add_argument("--shape", choices=list(SHAPES), default="8b")
    parser.add_argument("--free", type=float, default=6.0, help="gigabytes that are free beside the weights")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    asked = parser.parse_args()

    shape = SHAPES[asked.shape]
    model = on_meta(shape)
    bank = pn.load_treebank() if asked.treebank == "demo" else pn.load_treebank(asked.treebank)
    corpus = pn.align(bank, loading.load_tokenizer(asked.tokenizer), n_ctx=shape["max_position_embeddings"])
    train, test = (Words.of(corpus.split(name)) for name in ("train", "test"))
    times, work = job_table(shape, train, test)
    weights = models.describe(model).n_parameters
    states = pd.DataFrame([{"state": name, "GB": each / GIGA} for name, each in state_bytes(shape).items()])
    fits = batch_table(model, train.longest, asked.free * GIGA)
    sys.stdout.write(
        f"{asked.shape}: {weights:,} weights, {2 * weights / GIGA:.2f} GB in bfloat16; a token in a layer "
        f"{layer(shape, train.length) / GIGA:.3f} GFLOP, a row of logits {unembedding(shape) / GIGA:.2f} GFLOP\n"
        f"{corpus.name}: train {train.words:,} words read, {train.tokens:,} tokens; test {test.words:,} words, "
        f"{test.tokens:,} tokens; longest row {train.longest} and {test.longest}\n\n"
        f"Counted, and not measured:\n\n{markdown(times)}\n\n"
        f"{markdown(states)}\n\n"
        f"Batches of train beside {asked.free:g} GB free, planned with {memory.SHARE:.0%} of it:\n\n"
        f'{markdown(fits)}\n\nOne batch of 8 rows of 128 tokens on "meta":\n\n'
        f"{markdown(compared(model, shape, 8, 128))}\n"
    )
    if asked.json is not None:
        found = {"work": {name: asdict(each) for name, each in work.items()}, "state": state_bytes(shape)}
        asked.json.write_text(json.dumps(found | {"train": asdict(train), "test": asdict(test)}, indent=1))


if __name__ == "__main__":
    main()
