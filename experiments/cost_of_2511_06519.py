"""What would the key neuron rule of arXiv:2511.06519 take on Llama-3-8B and one GPU?

Command:  python experiments/cost_of_2511_06519.py [--words 10000] [--steps 6] [--rate 4e14]
Cost:     none; operations and bytes are counted, nothing is measured.
Outcome:  about a minute, where a run for every word, layer and step would take an hour and a half even at the same
          rate, which such small runs do not reach; about 34 GB. Layers whose nodes must be doubled to add up (the
          first of the embedded model takes 48) cost in proportion and are not counted.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """What decides the cost of a model; defaults are Llama-3-8B's. FLOP are 2 per multiply-add, forward."""

    layers: int = 32
    d_model: int = 4096
    d_mlp: int = 14336
    vocabulary: int = 128_256
    layer_flop: float = 0.436e9
    parameters: float = 8.03e9


def cost(shape: Shape, words: int, steps: int, *, rate: float = 400e12, batch: int = 2048, tags: int = 17) -> str:
    """Time and memory of the rule on one GPU, from counted operations, as Markdown.

    A layer's path resumes after that layer, so that a step runs (L - 1) / 2 later layers on average, forward and
    backward (as much again, since weights are frozen), and one unembedding, for every token at once: the local scope
    makes one run of a batch serve all its words.
    """
    unembedding = 2 * shape.d_model * shape.vocabulary
    per_step = 2 * ((shape.layers - 1) / 2 * shape.layer_flop + unembedding)
    ours = words * shape.layers * steps * per_step
    whole = 2 * (shape.layers * shape.layer_flop + unembedding)
    plain = words * shape.layers * 20 * 12 * whole  # a run of about 12 tokens for every word, layer and step
    gigabyte = 1e9
    memory = {
        "weights in bfloat16": 2 * shape.parameters,
        f"clean residuals and activations of {batch:,} tokens": 2
        * batch
        * shape.layers
        * (shape.d_model + shape.d_mlp),
        "graph of all later layers, at most": 2 * batch * shape.layers * (4 * shape.d_mlp + 8 * shape.d_model),
        "logits of 1,024 words, thrice, in float32": 3 * 4 * 1024 * shape.vocabulary,
        "unembedding in float32": 4 * shape.d_model * shape.vocabulary,
        f"sums for {tags} tags in float64": 8 * (6 * tags + 3) * shape.layers * shape.d_mlp,
    }
    setting = f"{words:,} words (one position each), {shape.layers} layers, at an assumed {rate / 1e12:.0f} TFLOP/s"
    lines = [
        f"Counted, not measured: {setting}.",
        "",
        "| way | FLOP | minutes |",
        "| --- | ---: | ---: |",
        f"| one run per word, layer and step (20 steps, 12 tokens each) | {plain:.1e} | {plain / rate / 60:,.0f} |",
        f"| all words of a batch at once, 20 steps | {ours * 20 / steps:.1e} | {ours * 20 / steps / rate / 60:.1f} |",
        f"| all words of a batch at once, {steps} steps | {ours:.1e} | {ours / rate / 60:.1f} |",
        "",
        "| memory | GB |",
        "| --- | ---: |",
        *(f"| {name} | {size / gigabyte:.1f} |" for name, size in memory.items()),
        f"| together | {sum(memory.values()) / gigabyte:.0f} |",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rate", type=float, default=400e12, help="FLOP per second")
    args = parser.parse_args()
    sys.stdout.write(cost(Shape(), args.words, args.steps, rate=args.rate) + "\n")


if __name__ == "__main__":
    main()
