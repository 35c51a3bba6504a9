"""What loading takes, in fresh processes: memory against the weights, time and memory against the usual ways."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import loading_memory
import torch
import write_random_llama
from benchmarks.rows import NOTHING, Kind, Row
from benchmarks.subjects import Sizes, Subject
from benchmarks.timing import alone

TRANSFORMER_LENS, HUGGING_FACE = "TransformerLens's usual way", "Hugging Face alone"
OURS, USUAL, FACE = "posneurons_hooked", "usual_hooked", "hugging_face"
MB = 1e6


def load(subject: Subject, sizes: Sizes) -> list[Row]:
    """Peak memory of loading and one forward pass, and the time until its logits; the checkpoint's own dtype."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in (OURS, USUAL, FACE)}
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch) / "small"
        write_random_llama.write(small, "tiny", tied=True)
        for _ in range(min(sizes.repeats, 3)):
            for way, each in found.items():
                each.append(alone(loading_memory.measure, way, subject.folder, small, torch.bfloat16))
        words = alone(loading_memory.measure_tokenizer, subject.folder, small)
    size = loading_memory.size_of(subject.folder)
    note = (
        f"weights of {size / MB:.0f} MB; mapped pages counted, libraries not, nor here the tokenizer, which takes "
        f"{words / MB:.0f} MB by itself; the largest of {len(found[OURS])}"
    )
    many = size > 100 * MB
    if not many:
        note += "; what has a fixed size weighs more here than the weights, so no aim"
    details = {"ways": found, "bytes": size, "tokenizer": words}
    peak = {way: max(each["forward"] for each in runs) / MB for way, runs in found.items()}
    seconds = {way: [each["seconds"] + each["forward_seconds"] for each in runs] for way, runs in found.items()}
    spread = {way: max(each) / min(each) - 1 for way, each in seconds.items()}
    memory = partial(Row, "load", subject.name, "peak of loading and a forward pass", unit="MB")
    aim, bare = 1.25 if many else NOTHING, peak[OURS] - words / MB
    rows = [
        memory("the weights", ours=bare, rival=size / MB, aim=aim, note=note, details=details),
        memory(TRANSFORMER_LENS, "gain", peak[OURS], peak[USUAL], note="the tokenizer counted in both"),
        memory(HUGGING_FACE, ours=peak[OURS], rival=peak[FACE]),
    ]
    ways: tuple[tuple[str, str, Kind], ...] = ((TRANSFORMER_LENS, USUAL, "gain"), (HUGGING_FACE, FACE, "cost"))
    for against, way, kind in ways:
        sides = {"ours": min(seconds[OURS]), "rival": min(seconds[way]), "spread": (spread[OURS], spread[way])}
        rows.append(Row("load", subject.name, "time until the first logits", against, kind, **sides))
    return rows
