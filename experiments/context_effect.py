"""What does a model gain, tag by tag, from reading a sentence with the document before it?

    .venv/bin/python experiments/context_effect.py --treebank ../shared/data/ud/UD_English-EWT --split test

Cost: two forward passes over the split; about a minute for EWT test (25,000 words) on two cores.
Expected: every tag gains, names and nouns most (they come again), function words least. The first word of a sentence
is not read at all by itself, as it follows BOS; in a document it is, and its loss stands in a column of its own. Words
that are kept in one context only (a token across the two sentences) are left out of the comparison.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Hashable

import numpy as np
import pandas as pd
from tables import markdown

import posneurons as pn
from posneurons.significance import bootstrap_interval, cluster_sums
from posneurons.words import Context


def losses(
    model: object, bank: pn.Treebank, split: str, context: Context, left: int | None
) -> dict[Hashable, tuple[str, int, float]]:
    """Tag, document and loss of every word, by its sentence, its form and how often it stood there before."""
    corpus = pn.align(bank, model.tokenizer, n_ctx=model.cfg.n_ctx, context=context, left=left).split(split)
    found = pn.word_losses(model, corpus, [])
    loss = np.full(len(corpus), np.nan)
    loss[found.words] = found.intact[0]
    seen: Counter[Hashable] = Counter()
    words: dict[Hashable, tuple[str, int, float]] = {}
    for word in range(len(corpus)):
        key = int(corpus.word_sentence[word]), str(corpus.word_form[word])
        document = int(corpus.row_document[corpus.word_row[word]])
        words[*key, seen[key]] = corpus.tags[corpus.word_tag[word]], document, float(loss[word])
        seen[key] += 1
    return words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--treebank", default="demo")
    parser.add_argument("--split", default="test")
    parser.add_argument("--left", type=int, help="tokens that the parts of a long document repeat at least")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, bank = pn.load_model(options.model), pn.load_treebank(options.treebank)
    if options.split not in bank.splits:
        bank = pn.with_splits(bank, seed=options.seed)
    alone = losses(model, bank, options.split, "sentence", None)
    within = losses(model, bank, options.split, "document", options.left)
    both = [key for key in alone if key in within and not np.isnan(alone[key][2]) and not np.isnan(within[key][2])]
    tags, documents = zip(*(alone[key][:2] for key in both), strict=True)
    names, cell = np.unique(tags, return_inverse=True)
    cluster = np.unique(documents, return_inverse=True)[1]
    before, after = (np.array([words[key][2] for key in both]) for words in (alone, within))
    change = cluster_sums((after - before)[None], cell, cluster, len(names))
    counts = cluster_sums(np.ones((1, len(cell))), cell, cluster, len(names))[:, 0]
    low, high = bootstrap_interval(change, counts, draws=2000, rng=np.random.default_rng(options.seed))
    first = [
        (tag, loss)
        for key, (tag, _, loss) in within.items()
        if not np.isnan(loss) and np.isnan(alone.get(key, ("", 0, 0.0))[2])
    ]
    rows = []
    for number, tag in enumerate(names):
        here, firsts = cell == number, [loss for each, loss in first if each == tag]
        rows.append(
            {
                "tag": tag,
                "words": int(here.sum()),
                "sentence": before[here].mean(),
                "document": after[here].mean(),
                "change": (after - before)[here].mean(),
                "95 %": f"{low[0, number]:+.3f} to {high[0, number]:+.3f}",
                "first words": len(firsts),
                "their loss": float(np.mean(firsts)) if firsts else float("nan"),
            }
        )
    frame = pd.DataFrame(rows)
    sys.stdout.write(f"{bank.name} {options.split}, nats per first token\n\n{markdown(frame)}\n\n")
    sys.stdout.write(
        f"All {len(both):,} words: {before.mean():.3f} by the sentence, {after.mean():.3f} in documents; "
        f"{len(first):,} first words of sentences are read in documents only.\n"
    )


if __name__ == "__main__":
    main()
