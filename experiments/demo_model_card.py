"""How good is the embedded model?  Bits per character on held-out text, beside an n-gram model of the same tokens.

Command:  python experiments/demo_model_card.py --text TEXT_DIR --treebank EWT_DIR [--model FOLDER] [--device cuda]
Cost:     about three minutes and 4 GB on two cores.
Outcome:  FOLDER/README.md, the model card. The model is well below the n-gram model on both texts.

The n-gram model is interpolated Kneser-Ney (Chen and Goodman 1999) of order 5 over the same tokens of the same training
text (each text once). The model reads windows of 255 tokens behind BOS, so it forgets everything every 255 tokens; the
n-gram model reads on. `EWT dev, sentence by sentence` is how posneurons runs it: every sentence behind its own BOS.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from train_demo_model import CONTEXT, Rows, read_books, read_ewt
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

BITS = 12  # a token id fits 12 bits, a 5-gram fits an int64
DEMO = Path(__file__).parents[1] / "posneurons" / "demo" / "model"


class KneserNey:
    """Interpolated Kneser-Ney with one discount per order, from sorted arrays of packed n-grams."""

    def __init__(self, tokens: np.ndarray, order: int = 5) -> None:
        self.levels = []
        types = None
        for n in range(order, 0, -1):
            if types is None:
                grams, counts = np.unique(pack(tokens, n), return_counts=True)
            else:  # continuation counts: in how many different contexts one token longer does the n-gram end
                grams, counts = np.unique(types & ((1 << BITS * n) - 1), return_counts=True)
            # the types of the order above, for the continuation counts of the next order
            types = grams if n == order else np.unique(pack(tokens, n))
            contexts, first = np.unique(grams >> BITS, return_index=True)
            totals, kinds = np.add.reduceat(counts, first), np.diff(np.append(first, len(grams)))
            once, twice = (counts == 1).sum(), (counts == 2).sum()
            self.levels.append((n, grams, counts, contexts, totals, kinds, once / max(once + 2 * twice, 1)))

    def log_prob(self, tokens: np.ndarray) -> np.ndarray:
        """Natural log probability of each token from the order-1 tokens before it; the first order-1 are left out."""
        order = self.levels[0][0]
        probability = np.full(len(tokens) - order + 1, 1 / (1 << BITS))
        for n, grams, counts, contexts, totals, kinds, discount in reversed(self.levels):
            keys = pack(tokens, n)[order - n :]
            count, total, kind = (
                look_up(grams, counts, keys),
                *(look_up(contexts, v, keys >> BITS) for v in (totals, kinds)),
            )
            known = total > 0
            share = (np.maximum(count - discount, 0) + discount * kind * probability) / np.maximum(total, 1)
            probability = np.where(known, share, probability)
        return np.log(probability)


def pack(tokens: np.ndarray, n: int) -> np.ndarray:
    """Every n-gram as one integer, the last token in the lowest bits."""
    keys = np.zeros(len(tokens) - n + 1, dtype=np.int64)
    for i in range(n):
        keys = (keys << BITS) | tokens[i : len(tokens) - n + 1 + i].astype(np.int64)
    return keys


def look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


@torch.no_grad()
def window_nats(model: torch.nn.Module, rows: list[np.ndarray], device: str, skip: int = 0) -> float:
    """Summed loss of the tokens of rows [BOS, token, ...] but the first `skip`; rows of one length go together."""
    total = 0.0
    for length in sorted({len(row) for row in rows}):
        same = torch.from_numpy(np.stack([row for row in rows if len(row) == length]))
        for batch in same.split(max(1, 8192 // length)):
            logits = model(batch.to(device)).logits[:, skip:-1].float()
            targets = batch[:, skip + 1 :].to(device)
            total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    return total


def windows_of(tokens: np.ndarray) -> list[np.ndarray]:
    parts = np.split(tokens.astype(np.int64), range(CONTEXT - 1, len(tokens), CONTEXT - 1))
    return [np.concatenate([[0], part]) for part in parts if len(part)]


def overlapping_nats(model: torch.nn.Module, tokens: np.ndarray, device: str) -> float:
    """Summed loss where every token but the first 127 has 127 to 254 tokens of its text before it."""
    half = (CONTEXT - 1) // 2
    tokens = tokens.astype(np.int64)
    rows = [
        np.concatenate([[0], tokens[max(0, stop - CONTEXT + 1) : stop]])
        for stop in range(CONTEXT - 1, len(tokens), CONTEXT - 1 - half)
    ]
    rest = (len(tokens) - (CONTEXT - 1)) % (CONTEXT - 1 - half)
    last = [np.concatenate([[0], tokens[-(half + rest) :]])] if rest else []
    first = window_nats(model, [rows[0][: half + 1]], device)
    return first + window_nats(model, rows, device, skip=half) + window_nats(model, last, device, skip=half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--treebank", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval().to(args.device)
    log = [json.loads(line) for line in (args.model / "training_log.jsonl").read_text().splitlines()]

    dev_text = read_ewt(args.treebank / "en_ewt-ud-dev.conllu")
    valid_text = read_books(args.text, "ebooks-valid.txt.xz")
    texts = {
        "ebooks-valid": (Rows(tokenizer, valid_text, "\n"), sum(len(p) + 1 for book in valid_text for p in book)),
        "EWT dev": (Rows(tokenizer, dev_text, " "), sum(len(" ".join(doc)) for doc in dev_text)),
    }
    train = np.concatenate(
        [
            Rows(tokenizer, read_books(args.text, "ebooks-[0-9]*.txt.xz"), "\n").tokens,
            Rows(tokenizer, read_ewt(args.treebank / "en_ewt-ud-train.conllu"), " ").tokens,
        ]
    )
    ngram = KneserNey(train)
    table = []
    for name, (rows, characters) in texts.items():
        tokens = rows.tokens[rows.tokens != 1]  # document ends are no text
        nats = window_nats(model, windows_of(tokens), args.device)
        table.append((name, len(tokens), nats / len(tokens), nats / characters / math.log(2)))
        nats = overlapping_nats(model, tokens, args.device)
        bits = nats / characters / math.log(2)
        table.append((f"{name}, windows that overlap by half", len(tokens), nats / len(tokens), bits))
        scores = -ngram.log_prob(tokens)
        nats = scores.mean() * len(tokens)
        table.append((f"{name}, Kneser-Ney 5-gram", len(tokens), scores.mean(), nats / characters / math.log(2)))
    sentences = [s for doc in dev_text for s in doc]
    encoded = [np.array([0, *ids[: CONTEXT - 1]]) for ids in tokenizer(sentences, add_special_tokens=False).input_ids]
    count = sum(len(row) - 1 for row in encoded)
    nats = window_nats(model, encoded, args.device)
    characters = sum(map(len, sentences))
    table.append(("EWT dev, sentence by sentence", count, nats / count, nats / characters / math.log(2)))

    setup = next(line for line in reversed(log) if "config" in line)
    last = next(line for line in reversed(log) if "train_nats" in line)
    lines = [f"| {name} | {count:,} | {nats:.3f} | {bits:.4f} |" for name, count, nats, bits in table]
    card = CARD.format(
        tokens=setup["tokens"], steps=setup["steps"], book_tokens=setup["book_tokens"], ewt_tokens=setup["ewt_tokens"],
        share=setup["ewt_share"], rate=setup["rate"], seed=setup["seed"], device=setup["device"], torch=setup["torch"],
        speed=last["tokens_per_second"], table="\n".join(lines),
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
    )  # fmt: skip
    (args.model / "README.md").write_text(card, encoding="utf-8")
    sys.stdout.write(card)


CARD = """\
---
license: mit
language: en
---

# The embedded model of posneurons

A small language model of the Llama 3 architecture (RMSNorm, rotary embeddings with theta 500,000, grouped-query
attention, SwiGLU, byte-level BPE with Llama 3's splitting pattern), trained for posneurons so that everything runs
without a network. 6 layers, d_model 256, d_mlp 768, 8 heads, 4 key-value heads, vocabulary 4,096, tied embeddings,
context 256: {parameters:.1f} M parameters in bf16. It is no use for anything but study.

## Data

- ebooks-01 to 06: 101 public-domain books of Standard Ebooks, {book_tokens:,} tokens;
- the plain text of UD English-EWT 2.16 train (CC BY-SA 4.0), {ewt_tokens:,} tokens, {share:.0%} of the rows.

The embedded treebank (`../treebank`), `ebooks-valid` and EWT dev and test were not seen.

## Training

`experiments/train_demo_model.py`, seed {seed}: {tokens:,} tokens in {steps:,} steps of 32 x 256, AdamW, peak
rate {rate}, bf16 autocast, torch {torch} on {device} ({speed:,} tokens/s at the end). The schedule
was made for 23 M tokens, decayed to zero, and ended at 1.501 bits per character on ebooks-valid; the run then went on
to 27 M tokens from the rate that the longer schedule has there (0.0009). So ebooks-valid decided when to stop; EWT dev,
which rose a little in that last part (2.066 to 2.082), decided nothing. The log is `training_log.jsonl`.

## Loss

| text | tokens | nats per token | bits per character |
| --- | ---: | ---: | ---: |
{table}

The model reads windows of 255 tokens behind `<|begin_of_text|>`, so that a token has 127 others before it on average;
where windows overlap by half, it has at least 127. The n-gram model (interpolated Kneser-Ney over the
same tokens of the same training text) reads on. Measured by `experiments/demo_model_card.py` in fp32.
"""

if __name__ == "__main__":
    main()
