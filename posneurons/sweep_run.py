"""The command `sweep`: rankings of a run directory to curves over k and over layers, with resumption.

Neurons are those that the run in the same directory ranked, or ranks now, or a user's lists. Of a run that is there,
what a sweep does not ask for is left as it is; what a sweep alone asks for stands in `sweep/settings.json`, beside the
sums that are not computed twice. This module knows which step follows which, and not how any of them computes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from posneurons import carriers, memory, report
from posneurons.ablations import parse
from posneurons.config import Config
from posneurons.digests import digest
from posneurons.errors import NeuronError, RunError
from posneurons.files import check_fields, damaged, read_json, sha256_of, write_json, write_whole
from posneurons.lesion_study import Workbench
from posneurons.lock import alone
from posneurons.manifest import Manifest
from posneurons.neurons import NeuronSet
from posneurons.run_files import CARRIERS, read_table
from posneurons.study import FILES as FILES_OF
from posneurons.study import Study
from posneurons.sweep_plan import Best, Plan, best_of
from posneurons.sweeps import claim, sweep

FOLDER, FILES = "sweep", FILES_OF["sweep"]
ASKED = (
    "model", "treebank", "tag", "classes", "split", "context", "left", "units", "cache", "backend", "device", "dtype",
    "revision", "n_devices", "methods", "at", "top", "signed", "min_words",
    "neurons", "batch_tokens", "seed",
)  # fmt: skip
"""Options of a run that a sweep has too."""


def run(config: Config, plan: Plan, out: Path, *, command: str = "", progress: bool = True) -> list[str]:
    """Sweep, write `sweep.parquet` and `carriers.parquet`, and return what was found in a few lines.

    Args:
        config: model, treebank and rankings; `ASKED` of it is read.
        plan: what is lesioned; its `top` and `seed` must be those of the configuration.
        out: the run directory; made where it does not exist.
        command: how the user called, for the manifest.
        progress: show bars.

    Raises:
        PosNeuronsError: where an input is wrong, or `out` holds a run or a sweep with other options.
    """
    config.check()
    plan.check()
    labels = (str(parse(each)) for each in plan.ablations)
    plan = replace(plan, ablations=tuple(dict.fromkeys(labels)))  # two spellings of an ablation are one
    with alone(out, command), memory.explained(config.batch_tokens, "finished shards are kept: "):
        there = Manifest.load(out) if (out / "manifest.json").exists() else None
        before = there.config if there is not None and there.stages else {}
        # The command in the manifest stays that of the run that is there: it has all of its options.
        study = Study(_beside(config, before), out, "" if before else command, progress)
        given = _given(config)
        claim(out / FOLDER, plan, **given)
        settings = {"settings": digest(asdict(plan), given)}
        if not (study.manifest.notes.get("sweep") == settings and study.has("sweep")):
            study.do("rank")
            begin = time.perf_counter()
            for name, table in zip(FILES, _sweep(study, plan, progress), strict=True):
                write_whole(out / name, partial(table.to_parquet, index=False))
            study.manifest.notes["sweep"] = settings
            study.finish("sweep", begin)
        found = carriers.lines(read_table(out / "carriers.parquet", CARRIERS))
        page = report.write_page(out)
    return [*found, f"Tables: {', '.join(str(out / name) for name in FILES)}", f"Page: {page}"]


def _beside(config: Config, before: Mapping[str, Any]) -> Config:
    """The configuration with all that a sweep does not ask for as in the run that is there, or by default."""
    before = before or {"probe_at": (config.at,)}  # nothing is probed, so nothing is ranked for other positions
    asked = {name: getattr(config, name) for name in ASKED}
    others = {each.name: before[each.name] for each in fields(Config) if each.name in before and each.name not in asked}
    kept: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in others.items()}
    return replace(Config(), **kept, **asked)


def _given(config: Config) -> dict[str, str]:
    """Digest of the user's list of neurons, where there is one."""
    if config.neurons is None:
        return {}
    try:
        return {"list": hashlib.sha256(Path(config.neurons).read_bytes()).hexdigest()[:32]}
    except OSError as error:
        raise RunError(f"--neurons {config.neurons}: cannot be read ({error.strerror}); check the path") from None


def _sweep(study: Study, plan: Plan, progress: bool) -> list[pd.DataFrame]:
    """The tables of a sweep, in the order of `FILES`."""
    config = study.config
    best = _best(study, plan, study.out / FOLDER / "sets.json")
    how: dict[str, Any] = {"tokens": config.batch_tokens, "progress": progress}
    bench = Workbench(study.model, study.corpus, seed=plan.seed, **how)
    frame = sweep(study.model, study.corpus, best, plan, study.out / FOLDER, workbench=bench, **how)
    for note in bench.notes:
        study.warn(note)
    return [frame, carriers.carriers(frame)]


def _best(study: Study, plan: Plan, path: Path) -> dict[str, dict[str, Best]]:
    """By method and tag the best neurons; kept in a file, since making rankings anew can be costly."""
    here = {method: keys for method, keys in study.keys.items() if "@" not in method}
    if study.config.neurons is not None:
        return {method: {tag: Best(found) for tag, found in keys.items()} for method, keys in here.items()}
    of = digest(sha256_of(study.out / "neurons.json"), plan.ks, plan.top)
    if not path.exists() or check_fields(str(path), read_json(path), {}).get("of") != of:
        rankings = {ranking.method: ranking for ranking in study.rankings if ranking.at == study.at}
        best = {
            method: {
                tag: [sets.names for sets in found if sets is not None]
                for tag, found in best_of(rankings[method], keys, plan).items()
            }
            for method, keys in here.items()
        }
        write_json(path, {"of": of, "best": best})
    try:
        return {
            method: {tag: Best(*map(NeuronSet.parse, found)) for tag, found in tags.items()}
            for method, tags in read_json(path)["best"].items()
        }
    except (AttributeError, KeyError, TypeError, NeuronError):
        raise damaged(str(path), "damaged", "neurons by method and tag") from None
