"""Integrated gradients against the loop of Knowledge Neurons."""

from __future__ import annotations

import ig_speed
import numpy as np
from benchmarks.rankings import row
from benchmarks.rows import Row
from benchmarks.subjects import Sizes, Subject
from benchmarks.timing import Spent, turns

from posneurons.activations import BATCH_TOKENS


def ig(subject: Subject, sizes: Sizes) -> list[Row]:
    """All words of some rows at once, against a loop over words and layers, per word, in float32."""
    model = subject.load("float32")
    corpus = subject.corpus(model, "dev", 20 * sizes.ig_rows)
    corpus = corpus.select(np.arange(corpus.n_rows) < sizes.ig_rows)
    batches = ig_speed.scenes_of(model, corpus, BATCH_TOKENS)
    n_words, words = ig_speed.some_words(batches, sizes.ig_words)
    ig_speed.plain(model, corpus, words[:1], sizes.ig_steps)
    ig_speed.fast(model, batches[:1], sizes.ig_steps, batches[0].words.cpu().numpy()[:1])
    spent = turns(
        {
            "ours": lambda: ig_speed.fast(model, batches, sizes.ig_steps, words),
            "plain": lambda: ig_speed.plain(model, corpus, words, sizes.ig_steps),
        },
        min(sizes.repeats, 2),
    )
    off = ig_speed.difference(spent["ours"].found, spent["plain"].found)
    note = (
        f"float32, {sizes.ig_steps} nodes, {n_words} words at once, {len(words)} in the loop; largest difference "
        f"{off:.1e} of a layer's largest"
    )
    return [
        row(
            subject, "ig", "integrated gradients of a word in all layers", "Knowledge Neurons' loop",
            each(spent["ours"], n_words), each(spent["plain"], len(words)), kind="gain", aim=20, note=note,
            difference=off,
        )
    ]  # fmt: skip


def each(spent: Spent, number: int) -> Spent:
    """The time of one of so many."""
    return Spent(tuple(seconds / number for seconds in spent.seconds))
