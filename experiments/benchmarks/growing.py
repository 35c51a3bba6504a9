"""How time and memory grow: over words, neurons, tags and conditions, each point in a fresh process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from benchmarks.rows import Row, straight
from benchmarks.subjects import N_CTX, Sizes, Subject
from benchmarks.timing import Peak, alone, turns
from streaming_cost import bare

import posneurons as pn
from posneurons.fills import Condition
from posneurons.lesions import word_losses
from posneurons.records import Corpus

WORDS = 4000
"""Words of the points over neurons and tags; a tenth of them over conditions."""
D_MODEL = 256


def growth(subject: Subject, sizes: Sizes) -> list[Row]:
    """Statistics of all neurons for all tags over words, neurons and tags, and lesions over conditions."""
    model = subject.load()
    fixed = min(WORDS, sizes.growth_words[-1])
    middle, little = (subject.corpus(model, "train", words) for words in (fixed, fixed // 10))
    del model
    rows = []
    for over, numbers, job, unit, per in (
        ("words", sizes.growth_words, words, "1,000 words", 1000),
        ("neurons per layer", sizes.growth_neurons, partial(neurons, middle), "1,000 neurons per layer", 1000),
        ("tags", sizes.growth_tags, partial(tags, middle), "tag", 1),
        ("conditions", sizes.growth_conditions, partial(conditions, little), "condition", 1),
    ):
        found = [alone(job, subject, number, min(sizes.repeats, 3)) for number in numbers]
        points = [{"n": n, "seconds": seconds, "bytes": size} for n, seconds, size in found]
        what = "lesions" if over == "conditions" else "moments"
        for measured, each, quantity in (
            ("time", [min(point["seconds"]) for point in points], "s"),
            ("memory on top of a bare pass", [point["bytes"] / 1e6 for point in points], "MB"),
        ):
            line = straight([point["n"] for point in points], each)
            line["slope"] *= per
            details = {"over": over, "line": line, "points": points}
            rows.append(
                Row("growth", subject.name, f"{what}: {measured}", kind="line", unit=f"{quantity} per {unit}",
                    ours=line["slope"], details=details)
            )  # fmt: skip
    return rows


Point = tuple[int, tuple[float, ...], int]
"""The number on the axis, seconds of each repeat, and bytes by which the first run made the process grow."""


def point(number: int, model: Any, corpus: Corpus, job: Callable[[Corpus], object], repeats: int) -> Point:
    """Measure a job after a bare pass over the same words, and after itself on a few rows."""
    bare(model, corpus)
    job(corpus.select(np.arange(corpus.n_rows) < 2))
    with Peak() as peak:
        job(corpus)
    return number, turns({"job": lambda: job(corpus)}, repeats)["job"].seconds, peak.bytes


def words(subject: Subject, number: int, repeats: int) -> Point:
    model = subject.load()
    corpus = subject.corpus(model, "train", number)
    return point(len(corpus), model, corpus, partial(pn.tag_moments, model), repeats)


def neurons(corpus: Corpus, subject: Subject, number: int, repeats: int) -> Point:  # noqa: ARG001
    model = random_model(number)
    return point(number, model, corpus, partial(pn.tag_moments, model), repeats)


def tags(corpus: Corpus, subject: Subject, number: int, repeats: int) -> Point:
    model = subject.load()
    drawn = np.random.default_rng(subject.seed).integers(number, size=len(corpus))
    corpus = replace(corpus, tags=tuple(f"T{n:03d}" for n in range(number)), word_tag=drawn)
    return point(number, model, corpus, partial(pn.tag_moments, model), repeats)


def conditions(corpus: Corpus, subject: Subject, number: int, repeats: int) -> Point:
    """So many single neurons, spread over all layers."""
    model = subject.load("float32")
    everyone = model.cfg.n_layers * model.cfg.d_mlp
    flat = np.linspace(0, everyone - 1, number + 2).round().astype(np.int64)[1:-1]
    sets = [Condition(pn.NeuronSet.from_flat(flat[[i]], model.cfg.d_mlp)) for i in range(number)]
    return point(number, model, corpus, lambda part: word_losses(model, part, sets), repeats)


def random_model(d_mlp: int) -> Any:
    """A random Llama of the embedded model's shape, but with so many neurons in a layer; in float32."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(
        n_layers=6, d_model=D_MODEL, n_heads=8, d_head=32, n_key_value_heads=4, d_mlp=d_mlp, n_ctx=N_CTX, d_vocab=4096,
        act_fn="silu", gated_mlp=True, normalization_type="RMS", final_rms=True, positional_embedding_type="rotary",
        rotary_dim=32, seed=0, device="cpu",
    )  # fmt: skip
    return HookedTransformer(cfg).eval().requires_grad_(requires_grad=False)
