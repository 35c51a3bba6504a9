"""Does scaling the neurons of a tag move how much of that tag a model writes, and more than scaling random ones?

    .venv/bin/python experiments/steer_tags.py [--tag-set NOUN] [--scales 0 0.5 2 4] [--controls 3]

Cost: scales times (2 + controls) sets of 64 texts of 24 tokens; 99 CPU seconds with the defaults and the embedded
model.
Expected: at 0 fewer of the tag's words than the intact model writes, at 2 and 4 more (at 1 the model is the intact one,
exactly), and random sets move it less at 0 and 4. Measured for NOUN: 0.158, 0.179, 0.177 (intact), 0.188, 0.212 at 0,
0.5, 1, 2, 4, of 1,132 to 1,218 words each, so that a standard error is 0.011 or more; random sets 0.179 to 0.188 at 0
and 0.157 to 0.182 at 4. Only the extremes stand out, and three random sets are too few for a p-value. At 4 the texts
cost the intact model 4.57 nats per token instead of 3.74: they fall apart.

Neurons: top 50 of `attribution` (contrast, local scope) on the embedded treebank. Tagger: `taggers.simple_tagger`,
trained on the whole embedded treebank. Trained on its train split only, the tagger has of the words of the test split
0.912 right where words are given and 0.910 from raw text; of EWT's test split 0.835 and 0.824. Trained on EWT's train
split (44 s): 0.946 and 0.928 on EWT's test split. What it has right in a small model's text is not known.
`--accuracy FOLDER` measures it again on a treebank with a test split.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch

import posneurons as pn
from posneurons.generation import Sampling
from posneurons.steering import PROMPTS, TagShift, tag_shift
from posneurons.taggers import accuracy, simple_tagger


def table(lines: list[list[object]]) -> str:
    """A Markdown table; the first line is its head."""
    head, *rows = [" | ".join(map(str, line)) for line in lines]
    return "\n".join(f"| {line} |" for line in (head, " | ".join(["---"] * len(lines[0])), *rows)) + "\n"


def measure_tagger(folder: str) -> None:
    """Accuracy of the small tagger, trained on the embedded train split and on the folder's, on the folder's test."""
    test = pn.load_treebank(folder).split("test")
    for bank in (pn.load_treebank(), pn.load_treebank(folder)):
        tagger = simple_tagger(bank.split("train"))
        answers = tagger.tag_sentences([[word.form for word in sentence.words] for sentence in test])
        wanted = [word.tag for sentence in test for word in sentence.words]
        share = np.mean([a == b for a, b in zip((t for each in answers for t in each), wanted, strict=True)])
        raw = accuracy(tagger, test)
        sys.stdout.write(f"{tagger.name} on {test.name} test: words given {share:.3f}, raw text {raw:.3f}\n")


def share(shift: TagShift, condition: int, tag: str) -> float:
    """Share of a tag; 0 where nobody wrote it."""
    return float(shift.shares[condition, shift.tags.index(tag)]) if tag in shift.tags else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tag-set", default="NOUN")
    parser.add_argument("--scales", nargs="+", type=float, default=[0.0, 0.5, 2.0, 4.0])
    parser.add_argument("--controls", type=int, default=3)
    parser.add_argument("--continuations", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--top", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--accuracy", metavar="FOLDER")
    options = parser.parse_args()
    if options.accuracy:
        measure_tagger(options.accuracy)
        return
    model = pn.load_model(options.model, device=options.device, dtype=torch.float32)
    bank = pn.load_treebank()
    keys = pn.rank(model, pn.align(bank, model.tokenizer), method="attribution").top(options.top)
    key = keys[options.tag_set]
    tagger = simple_tagger(bank)
    sampling = Sampling(tokens=options.tokens, continuations=options.continuations, seed=options.seed)
    found = {}
    for scale in options.scales:
        sys.stderr.write(f"scale {scale:g}\n")
        found[scale] = tag_shift(
            model, PROMPTS, key, tagger, change="scale", value=scale, controls=options.controls,
            exclude=key.union(*keys.values()), sampling=sampling, batch_tokens=8192,
        )  # fmt: skip
    tags = sorted({tag for shift in found.values() for tag in shift.tags})
    first = next(iter(found.values()))
    conditions = [(first, 0), *((shift, 1) for shift in found.values())]
    lines: list[list[object]] = [["tag", "intact", *(f"x {scale:g}" for scale in found)]]
    lines += [[tag, *(f"{share(shift, row, tag):.3f}" for shift, row in conditions)] for tag in tags]
    random = [
        " ".join(f"{share(shift, row, options.tag_set):.3f}" for row in range(2, 2 + options.controls))
        for shift in found.values()
    ]
    lines.append([f"{options.tag_set}, random sets", "", *random])
    lines.append(["words", *(shift.words[row].sum() for shift, row in conditions)])
    lines.append(["nats per token, intact model", *(f"{shift.losses[row]:.2f}" for shift, row in conditions)])
    lines.append(["the same, random sets", "", *(f"{shift.losses[2:].mean():.2f}" for shift in found.values())])
    sys.stdout.write(f"{len(key)} neurons of {options.tag_set}, {sampling}, {tagger.name}\n\n{table(lines)}")


if __name__ == "__main__":
    main()
