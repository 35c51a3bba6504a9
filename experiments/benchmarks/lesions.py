"""Lesion sweeps against the plain loop, and attribution against the exact ablation of every neuron."""

from __future__ import annotations

import numpy as np
import sweep_speed
from benchmarks.rankings import row
from benchmarks.rows import Row
from benchmarks.subjects import Sizes, Subject
from benchmarks.timing import Spent, turns

import posneurons as pn
from posneurons.activations import BATCH_TOKENS
from posneurons.agreement import pearson, recall, spearman
from posneurons.lesions import scored_words
from posneurons.singles import exact_effects

WHOLE = "the whole sweep"
LEAST = 10
"""Words that a tag must have for its correlation to count."""


def sweep(subject: Subject, sizes: Sizes) -> list[Row]:
    """A mixed sweep of single neurons and sets, zero ablation, in float32."""
    model = subject.load("float32")
    corpus = subject.corpus(model, "test", sizes.sweep_words)
    plan = sweep_speed.sweep(model, subject.corpus(model, "train", sizes.sweep_words), sizes.sweep_singles)
    found = sweep_speed.measure(
        model, corpus, plan, shown=sizes.sweep_plain, repeats=min(sizes.repeats, 2), tokens=BATCH_TOKENS
    )
    words = len(corpus.readable("predict"))
    note = (
        f"float32, {words} words; the loop measured on {sizes.sweep_plain} of each kind, the others taken to cost the "
        f"same; largest difference {found[WHOLE].off:.1e} nats"
    )
    rows = [
        row(
            subject, "sweep", f"{each.number} lesions, {kind}", "the plain TransformerLens loop", each.ours, each.plain,
            kind="gain", difference=each.off, **({"aim": 8.0, "note": note} if kind == WHOLE else {}),
        )
        for kind, each in found.items()
    ]  # fmt: skip
    return rows[::-1]


def exact(subject: Subject, sizes: Sizes) -> list[Row]:
    """Effects of all neurons on every tag, by attribution and by ablating each alone (or a sample), in float32."""
    model = subject.load("float32")
    corpus = subject.corpus(model, "dev", sizes.exact_words)
    d_mlp, everyone = model.cfg.d_mlp, model.cfg.n_layers * model.cfg.d_mlp
    n = sizes.exact_neurons or everyone
    flat = np.linspace(0, everyone - 1, n).round().astype(np.int64)
    neurons = pn.NeuronSet.from_flat(flat, d_mlp)
    exact_effects(model, corpus, pn.NeuronSet.from_flat(flat[:2], d_mlp))
    quick = {"ours": lambda: pn.rank(model, corpus, "attribution:contrast=no", split="dev")}
    quick["ours"]()
    ours = turns(quick, sizes.repeats)["ours"]
    slow = turns({"exact": lambda: exact_effects(model, corpus, neurons)}, 1)["exact"]
    whole = Spent(tuple(seconds * everyone / n for seconds in slow.seconds))
    count = scored_words(corpus)
    tags = np.flatnonzero(count >= LEAST)
    scores = ours.found.scores.reshape(len(count), -1)[:, flat]
    how = f"measured on {n:,} neurons and scaled to all" if n < everyone else "all measured"
    note = f"float32, {count.sum()} words; {everyone:,} neurons, {how}; medians over {len(tags)} tags below"
    agreement = {
        "correlation": [pearson(scores[tag], slow.found[tag]) for tag in tags],
        "rank correlation": [spearman(scores[tag], slow.found[tag]) for tag in tags],
    }
    if n == everyone:
        agreement["share of the exact best 20 among its best 100"] = [
            recall(np.isin(flat, np.argsort(-scores[tag])[:100]), slow.found[tag], 20) for tag in tags
        ]
    return [
        row(subject, "exact", "effect of every neuron on every tag", "exact ablation of each", ours, whole,
            kind="gain", note=note),
        *(
            Row("exact", subject.name, f"attribution and exact effects: {name}", kind="value",
                ours=float(np.median(values)), unit="", details={"by tag": values})
            for name, values in agreement.items()
        ),
    ]  # fmt: skip
