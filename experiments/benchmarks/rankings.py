"""From sentences to a ranking: against the bare forward pass, the usual way by TransformerLens, and NeuroX."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import against_neurox
import numpy as np
import torch
from benchmarks.rows import NOTHING, Row, failed
from benchmarks.subjects import Sizes, Subject
from benchmarks.timing import Spent, alone, turns
from streaming_cost import bare, plain

import posneurons as pn
from posneurons.records import Corpus

SPLIT = "dev"


def ranking(subject: Subject, sizes: Sizes) -> list[Row]:
    """A ranking by correlation of all neurons for all tags, in the checkpoint's own dtype."""
    model = subject.load()
    corpus = subject.corpus(model, SPLIT, sizes.ranking_words)
    few = corpus.select(np.arange(corpus.n_rows) < max(4, corpus.n_rows // 50))
    for job in (bare, ours, plain):
        job(model, few)
    spent = turns(
        {
            "bare": lambda: bare(model, corpus),
            "ours": lambda: ours(model, corpus),
            "plain": lambda: plain(model, corpus),
        },
        sizes.repeats,
    )
    note = (
        f"{len(corpus.readable('predict')):,} words, {len(corpus.tokens) + corpus.n_rows:,} tokens, {model.cfg.dtype}"
    )
    off = difference(spent["ours"], spent["plain"])
    what = "sentences to correlations of all neurons and tags"
    return [
        row(subject, "ranking", what, "the bare forward pass", spent["ours"], spent["bare"], aim=1.25, note=note),
        row(
            subject, "ranking", what, "run_with_cache into a list, numpy", spent["ours"], spent["plain"], kind="gain",
            note=f"largest difference of a correlation {off:.1e}", difference=off,
        ),
        *(neurox(subject, sizes) if subject.name == "demo" else []),
    ]  # fmt: skip


def ours(model: Any, corpus: Corpus) -> pn.Ranking:
    return pn.rank(model, corpus, "correlation", split=SPLIT)


def difference(found: Spent, expected: Spent) -> float:
    """Largest difference of two tables of correlations where both are defined."""
    scores = found.found.scores.reshape(len(found.found.tags), -1)
    return float(np.nanmax(np.abs(np.where(found.found.count[:, None] > 1, scores - expected.found, np.nan))))


def row(subject: Subject, part: str, what: str, against: str, ours: Spent, rival: Spent, **more: Any) -> Row:
    """A comparison of two timings; all repeats go along, and how far the results of the two are apart."""
    details = {"ours": ours.seconds, "rival": rival.seconds, "difference": more.pop("difference", NOTHING)}
    return Row(
        part, subject.name, what, against, ours=ours.least, rival=rival.least, spread=(ours.spread, rival.spread),
        details=details, **more,
    )  # fmt: skip


def neurox(subject: Subject, sizes: Sizes) -> list[Row]:
    """NeuroX in a fresh process, fetched by pip into a folder that is removed; where it cannot be, the reason."""
    if not subject.neurox:
        return [failed("ranking", subject.name, "NeuroX: not asked for; give --neurox, which fetches it by pip")]
    with tempfile.TemporaryDirectory() as name:
        folder, n = Path(name), max(50, sizes.ranking_words // 13)
        try:
            against_neurox.prepare(folder)
            found = {
                way: alone(against_neurox.measured, way, folder, subject.treebank, SPLIT, n)
                for way in against_neurox.WAYS
            }
        except Exception as error:  # noqa: BLE001 - whatever keeps it from running is what the row says
            return [failed("ranking", subject.name, f"NeuroX: {type(error).__name__}: {error}".partition("\n")[0])]
    here, there = found["posneurons"], found["NeuroX 1.0.9"]
    note = (
        f"{here['words']:,.0f} words, float32, {torch.get_num_threads()} threads, loading included; it reads "
        f"{there['neurons']:,.0f} hidden units, ours {here['neurons']:,.0f} neurons"
    )
    details = {"ways": found}
    what = "sentences to Probeless, growth of memory"
    return [
        Row(
            "ranking", subject.name, "sentences to Probeless", "NeuroX 1.0.9", "gain", here["seconds"],
            there["seconds"], note=note, details=details,
        ),
        Row("ranking", subject.name, what, "NeuroX 1.0.9", "gain", here["MiB"], there["MiB"], "MiB"),
    ]  # fmt: skip
