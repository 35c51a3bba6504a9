"""What does everything cost, side by side with the usual ways: ratios first?

Command:  python experiments/benchmark.py [--quick] [--only load,ranking,...] [--model demo|1b|both]
                 [--treebank EWT_DIR] [--neurox] [--out runs/benchmark]
Cost:     half an hour on two idle cores, a third of it growth; --quick a few minutes. 2 GB of disk and 8 GB of
          memory for the 1B shape.
Outcome:  a peak of loading at most 1.25 times the weights; a ranking at most 1.25 times the bare forward pass;
          integrated gradients 20 times and lesion sweeps 8 times faster than the plain loops; straight lines for
          what grows. benchmark.md and benchmark.json in --out hold the table and every repeat.

Two models: the embedded one, and a random Llama in the shape of Llama-3.2-1B (d_model 2048, 32 heads, 8 of them for
keys and values, 8,192 neurons, 128,256 tokens, tied) with two of its sixteen layers, written here. Its unembedding is
two thirds of a pass instead of a fifth, so what saves work in the layers (a sweep) gains less than in the whole model.
Words are drawn from UD English-EWT where it is at hand, else from the embedded treebank, again and again.

Each part runs in a process of its own, warms up, and takes the ways in turns; the least of the repeats counts, and how
much longer the slowest took stands beside it in the JSON. Loading and rankings are in bfloat16, as the checkpoints are
(on CPUs with AVX-512 or AMX for it two to eight times faster than float32); what is compared number by number is in
float32. A part that fails is a row that says why. A part that was measured before with the same settings is not
measured again, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from benchmarks import gradients, growing, lesions, loads, rankings, wholes
from benchmarks.rows import Row, failed, table
from benchmarks.subjects import Sizes, Subject, chosen, sizes_of, usual_treebank, write_random
from benchmarks.timing import alone

from posneurons.files import read_json, write_json, write_whole
from posneurons.manifest import PACKAGES, git_commit

Part = Callable[[Subject, Sizes], list[Row]]
PARTS: dict[str, Part] = {
    "load": loads.load,
    "ranking": rankings.ranking,
    "ig": gradients.ig,
    "sweep": lesions.sweep,
    "exact": lesions.exact,
    "whole": wholes.whole,
    "growth": growing.growth,
}
ONLY_DEMO = ("growth",)
"""Parts that take too many words for the other model."""


def machine() -> dict[str, Any]:
    """What the numbers hold for."""
    cpu = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "commit": git_commit(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text("utf-8").splitlines() if Path(path).exists() else []


def rows_of(part: str, subject: Subject, sizes: Sizes, here: dict[str, Any], out: Path) -> list[Row]:
    """What a part finds, or found before with the same settings; a part that fails is a row, and is tried again."""
    path = out / "parts" / f"{part}-{subject.name}.json"
    given = asdict(subject) | {"source": "demo" if subject.source == "demo" else "random"}
    settings = {"part": part, "sizes": asdict(sizes), **given, **here}
    before = read_json(path) if path.exists() else {}
    plain = {**settings, "sizes": {name: _listed(value) for name, value in settings["sizes"].items()}}
    if before.get("settings") == plain:
        return [Row.from_dict(each) for each in before["rows"]]
    begin = time.perf_counter()
    try:
        rows: list[Row] = alone(PARTS[part], subject, sizes)
    except Exception as error:  # noqa: BLE001 - one part that fails must not lose the others
        return [failed(part, subject.name, error)]
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = round(time.perf_counter() - begin, 1)
    write_json(path, {"settings": plain, "seconds": seconds, "rows": [row.to_dict() for row in rows]})
    return rows


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def page(rows: list[Row], here: dict[str, Any], command: str) -> str:
    """The table, with what it was measured on."""
    versions = ", ".join(f"{name} {here['versions'][name]}" for name in ("torch", "transformer-lens", "transformers"))
    return (
        f"`{command}`, {here['cpu']}, {here['cores']} cores, {here['threads']} threads, {here['memory_gb']} GB; "
        f"{versions}; commit {(here['commit'] or 'unknown')[:12]}\n\n{table(rows)}\n"
    )


def keep(rows: list[Row], here: dict[str, Any], asked: argparse.Namespace, command: str) -> None:
    """Write the table and the JSON, whole."""
    content = {
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": here,
        "seed": asked.seed,
        "treebank": asked.treebank,
        "sizes": {model: asdict(sizes_of(model, quick=asked.quick)) for model in ("demo", "1b")},
        "rows": [row.to_dict() for row in rows],
    }
    write_json(asked.out / "benchmark.json", content)
    text = page(rows, here, command)
    write_whole(asked.out / "benchmark.md", lambda part: part.write_text(text, encoding="utf-8"))


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few words, to see that everything runs")
    parser.add_argument("--only", help=f"parts, with commas: {','.join(PARTS)}")
    parser.add_argument("--model", default="both", choices=("demo", "1b", "both"))
    parser.add_argument("--treebank", default=usual_treebank(), help="'demo', a CoNLL-U file, or a folder of them")
    parser.add_argument("--neurox", action="store_true", help="also NeuroX, fetched by pip into a temporary folder")
    parser.add_argument("--seed", type=int, default=0, help="of the words that are drawn")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    return parser


def main() -> None:
    asked = options().parse_args()
    parts = chosen(list(PARTS), asked.only)
    models = ["demo", "1b"] if asked.model == "both" else [asked.model]
    command = " ".join(["python", "experiments/benchmark.py", *sys.argv[1:]])
    asked.out.mkdir(parents=True, exist_ok=True)
    here, rows, folder = machine(), list[Row](), asked.out / "random-1b"
    try:
        for name in models:
            if name == "1b":
                shutil.rmtree(folder, ignore_errors=True)
                write_random(folder)
            subject = Subject(name, "demo" if name == "demo" else str(folder), asked.treebank, asked.seed, asked.neurox)
            for part in parts:
                if name == "demo" or part not in ONLY_DEMO:
                    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {part}, {name}\n")
                    rows += rows_of(part, subject, sizes_of(name, quick=asked.quick), here, asked.out)
                    keep(rows, here, asked, command)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(page(rows, here, command))


if __name__ == "__main__":
    main()
