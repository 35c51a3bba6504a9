"""The main job from end to end, against the sum of the plain ways that do the same work."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sweep_speed
from benchmarks.rows import Row
from benchmarks.subjects import N_CTX, Sizes, Subject
from benchmarks.timing import turns
from streaming_cost import cached, plain

import posneurons as pn
from posneurons.classifiers import classify
from posneurons.config import Config
from posneurons.conll_writing import write_conllu
from posneurons.files import read_json
from posneurons.neuron_lists import read_neurons
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.study import run
from posneurons.words import At

STAGES = ("rank", "probe", "lesion")
PLACES: tuple[At, ...] = ("predict", "last")
FITS = {"predict": 4, "last": 3}
"""Probes that a run fits at each position: key neurons, random ones, and the control tasks."""


def whole(subject: Subject, sizes: Sizes) -> list[Row]:
    """Rank, probe and lesion by correlation and zero ablation, in float32, once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, words in zip(("train", "test"), sizes.whole_words, strict=True):
            few = replace(subject.sentences(split, words), marked_documents=False)
            write_conllu(few, folder / f"few-ud-{split}.conllu")
        config = Config(
            model=subject.source, treebank=str(folder), dtype="float32", device="cpu", methods=("correlation",),
            ablations=("zero",), controls=sizes.whole_controls, min_words=sizes.whole_tags_with, seed=subject.seed,
        )  # fmt: skip
        subject.load("float32")  # what loading imports, and the first touch of the file, is no part of either
        job = {"ours": lambda: run(config, folder / "run", stages=STAGES, progress=False)}
        ours = turns(job, 1)["ours"].least
        stages = read_json(folder / "run" / "manifest.json")["stages"]
        lesions = pd.read_parquet(folder / "run" / "lesions.parquet")
        passes = len(lesions[["lesion", "set", "draw"]].drop_duplicates())
        keys = read_neurons(folder / "run" / "neurons.json")
        parts = plain_ways(subject, folder, keys, passes, shown=sizes.sweep_plain)
    note = (
        f"{sizes.whole_words[0]:,} training and {sizes.whole_words[1]:,} test words, {passes} lesions; the loop is "
        f"measured on {sizes.sweep_plain} lesions, one probe on each position, and multiplied; loading and alignment "
        "count alike in both; tests, intervals, other losses and outliers are in ours only"
    )
    details = {"ours": {name: each["seconds"] for name, each in stages.items()}, "rival": parts}
    against = "the sum of the plain ways"
    found = [
        Row("whole", subject.name, "run: rank, probe, lesion", against, "gain", ours, sum(parts.values()), note=note,
            details=details)
    ]  # fmt: skip
    for stage in STAGES:
        rival = sum(seconds for name, seconds in parts.items() if name.startswith(stage))
        found.append(
            Row("whole", subject.name, f"its stage {stage}", "the plain way", "gain", stages[stage]["seconds"], rival)
        )
    return found


def plain_ways(
    subject: Subject, folder: Path, keys: dict[str, dict[str, NeuronSet]], passes: int, *, shown: int
) -> dict[str, float]:
    """Seconds of each part of the same work, by its stage."""
    found: dict[str, float] = {}

    def timed(name: str, job: Any, times: float = 1) -> Any:
        spent = turns({name: job}, 1)[name]
        found[name] = spent.least * times
        return spent.found

    model = timed("rank: load the model", lambda: subject.load("float32"))
    corpus = timed(
        "rank: align", lambda: pn.align(pn.load_treebank(str(folder)), model.tokenizer, n_ctx=N_CTX)
    )  # read by `run` in its first stage, as the model is
    train, test = corpus.split("train"), corpus.split("test")
    for at in PLACES:
        timed(f"rank: cache and correlate, {at}", partial(plain, model, train, at))
        sets = keys["correlation" if at == "predict" else f"correlation@{at}"]
        columns = np.unique(np.concatenate([each.flat(model.cfg.d_mlp) for each in sets.values()]))
        values = timed(f"probe: cache, {at}", lambda at=at: [cached(model, each, at) for each in (train, test)])
        picked = [each[:, columns] for each in values]
        timed(f"probe: fit, {at}", partial(classify, picked[0], tags_of(train, at), picked[1]), FITS[at])
    sets = list(keys["correlation"].values())[:shown]
    sweep_speed.plain(model, test.select(np.arange(test.n_rows) < 2), sets[:1])
    timed("lesion: loop", partial(sweep_speed.plain, model, test, sets), (passes + 1) / len(sets))
    return found


def tags_of(corpus: Corpus, at: At) -> np.ndarray:
    return corpus.word_tag[corpus.readable(at)]
