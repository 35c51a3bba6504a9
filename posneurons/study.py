"""The main job: rank, probe, lesion, report, in a run directory that can be resumed.

Each stage writes its files whole and is then marked done in `manifest.json`, with the sha256 of each; the same command
goes on where a run was stopped. A stage whose file is missing is done again, and a file that has changed since is an
error. This module knows which step follows which, and not how any of them computes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from posneurons import distributed, memory, models, report, stages
from posneurons.config import Config, loading_of
from posneurons.corpora import described, read_corpus, read_treebank
from posneurons.digests import corpus_digest, identity
from posneurons.errors import RunError
from posneurons.files import damaged, sha256_of
from posneurons.lock import alone
from posneurons.manifest import Manifest
from posneurons.methods import parse
from posneurons.neuron_lists import read_neurons
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus, Ranking
from posneurons.words import At
from posneurons.workflow import Evidence

STAGES = ("rank", "probe", "lesion", "pages", "report")
FILES = {
    "rank": ("ranking.parquet", "neurons.json", "overlap.parquet", "similarity.parquet"),
    "probe": ("probe.json",),
    "lesion": ("lesions.parquet", "dissociations.parquet", "lesion_similarity.parquet", "losses/*.parquet"),
    "pages": ("neuron_pages.json",),
    "verify": ("verify.json",),
    "sweep": ("sweep.parquet", "carriers.parquet"),
}
"""What a stage writes; of older versions the first two of them."""
NO_RESULT = ("batch_tokens", "cache", "n_devices")
"""Options that change no result, and may differ when a run is resumed."""
USED_BY = {
    "probe_at": ("rank", "probe"),
    **dict.fromkeys(("ablations", "scope"), ("lesion", "pages", "verify")),
    **dict.fromkeys(("controls", "control", "beside", "cluster", "margin", "correction", "draws"), ("lesion",)),
    "keep_losses": ("lesion",),
    "lesion_words": ("lesion", "pages"),
    "pages": ("pages",),
    **dict.fromkeys(("listed", "random", "words"), ("verify",)),
}
"""Options that some stages alone use, and may differ while none of them is done; all others are used by every stage."""
MADE_AGAIN = {"pages": "pages", "probe_at": "rank"}
"""The stage that is done again where such an option differs and no other stage has used it."""


def run(config: Config, out: Path, *, stages: Iterable[str] = STAGES, command: str = "", progress: bool = True) -> Path:
    """Do the stages that are not done yet, and return the run directory.

    Args:
        config: what to do.
        out: the run directory; made where it does not exist.
        stages: which of `STAGES` and "verify"; later stages need the files of earlier ones.
        command: how the user called, for the manifest.
        progress: show bars.

    Raises:
        PosNeuronsError: where an input is wrong, or `out` holds a run with another configuration.
    """
    config.check()
    config = config.canonical()
    if config.neurons is not None:
        read_neurons(Path(config.neurons))  # what is wrong with it is said before a model is loaded
    with alone(out, command), memory.explained(config.batch_tokens, "finished stages are kept: "):
        study = Study(config, out, command, progress)
        for stage in stages:
            study.do(stage)
    return out


def _first_words(corpus: Corpus) -> Counter[tuple[str, str, str]]:
    """Words that follow BOS directly: aligned, but not read at "predict" and not scored; by (split, tag, reason)."""
    words = np.flatnonzero(corpus.positions("predict") == 0)
    splits = corpus.row_split[corpus.word_row[words]]
    reason = "first of its row (read at first and last only)"
    found: Counter[tuple[str, str, str]] = Counter()
    for split, tag, parts in zip(splits.tolist(), corpus.word_tag[words], corpus.word_parts[words], strict=True):
        found[corpus.split_names[split], corpus.tags[tag], reason] += int(parts)
    return found


class Study:
    """A run in progress; model, corpus and key neurons are loaded when a stage first asks for them."""

    def __init__(self, config: Config, out: Path, command: str, progress: bool) -> None:
        self.config, self.out, self.progress = config, out, progress
        self.at = cast("At", config.at)  # `check` has seen that these are option words
        self.probe_at = cast("tuple[At, ...]", config.probe_at)
        self.positions = tuple(dict.fromkeys((self.at, *self.probe_at)))
        self.how: dict[str, Any] = {"tokens": config.batch_tokens, "progress": progress}
        self._rankings: dict[tuple[str, At], Ranking] = {}
        self.manifest = _open_run(config, out, command)
        self._software = Manifest(command, {}).software

    def do(self, stage: str) -> None:
        """Run one stage, unless it is done and its files are there."""
        if stage != "report" and self.has(stage):
            return
        begin = time.perf_counter()
        if stage != "report":
            stages.STAGES[stage](self)
        self.finish(stage, begin)
        if stage == "report":
            report.write_page(self.out)

    def has(self, stage: str) -> bool:
        """Whether a stage is done and its files are there; one that has lost a file is done no longer.

        Raises:
            RunError: where a file is not the one that the stage wrote.
        """
        state = self.manifest.stages.get(stage, {})
        if state.get("state") != "done":
            return False
        recorded = state.get("files", dict.fromkeys(FILES[stage][:2]))
        for name, written in recorded.items():
            path = self.out / name
            if not path.exists():
                del self.manifest.stages[stage]
                self.manifest.save(self.out)
                return False
            if written is not None and (found := sha256_of(path)) != written:
                size = path.stat().st_size
                what = f"changed since the stage {stage} wrote it ({size} bytes, sha256 {found[:12]}...)"
                raise damaged(str(path), what, f"sha256 {written[:12]}...")
        return True

    def finish(self, stage: str, begin: float) -> None:
        """Mark a stage that began at `begin` (of `time.perf_counter`) as done, with the sha256 of what it wrote.

        Where the run was begun with other software than this, that is among its warnings.
        """
        before, now = self.manifest.software, self._software
        other = [f"{name} {now[name]} (before: {before.get(name)})" for name in now if before.get(name) != now[name]]
        if other and stage != "report":
            self.warn(
                f"the stage {stage} was made with other software than this run was begun with: {', '.join(other)}"
            )
        files = sorted(path for name in FILES.get(stage, ()) for path in self.out.glob(name))
        self.manifest.stages[stage] = {
            "state": "done",
            "seconds": round(time.perf_counter() - begin, 2),
            "files": {path.relative_to(self.out).as_posix(): sha256_of(path) for path in files},
        }
        self.manifest.save(self.out)

    @cached_property
    def model(self) -> Any:
        """The model, loaded."""
        config = self.config
        model = distributed.load_model(config.model, **loading_of(config))
        found = asdict(models.describe(model)) | {"weights": identity(model)}
        names = ("config_sha256", "revision", "dtype", "n_parameters", "weights")
        self._same("model", self.manifest.model, found, names)
        self.manifest.model = found
        if distributed.size() > 1:
            self.manifest.notes["processes"] = {"count": distributed.size()}
        return model

    @cached_property
    def corpus(self) -> Corpus:
        """The words, aligned with the model's tokens; splits are made where the treebank has none."""
        bank, notes = read_treebank(self.config, progress=self.progress)
        corpus, more = read_corpus(self.config, bank, self.model.tokenizer, models.describe(self.model).n_ctx)
        for note in notes + more:
            self.warn(note)
        found = described(bank, corpus) | {"corpus": corpus_digest(corpus)}
        self._same("treebank", self.manifest.treebank, found, ("sha256", "tagset", "splits", "corpus"))
        self.manifest.treebank = found
        self.manifest.dropped = [
            {"split": split, "tag": tag, "reason": reason, "words": words}
            for (split, tag, reason), words in (*corpus.dropped.items(), *_first_words(corpus).items())
        ]
        return corpus

    @cached_property
    def keys(self) -> dict[str, dict[str, NeuronSet]]:
        """Key neurons of each tag, by method: from the user's file, or as this run ranked them.

        A ranking at another position than the run's own has the name `method@position`.
        """
        path = self.out / "neurons.json" if self.config.neurons is None else Path(self.config.neurons)
        return read_neurons(path)

    @cached_property
    def evidence(self) -> Evidence:
        """What the rankings are made from: the training words, and what was measured of them."""
        train = self.corpus.split("train")
        return Evidence(self.model, train, self.positions, seed=self.config.seed, **self.how)

    def ranking(self, method: str, at: At) -> Ranking:
        """The ranking by one method at one position, computed once; the same whatever the run directory holds."""
        if (method, at) not in self._rankings:
            self._rankings[method, at] = self.evidence.ranking(parse(method), at, signed=self.config.signed)
        return self._rankings[method, at]

    @property
    def rankings(self) -> list[Ranking]:
        """Every method at every position."""
        return [self.ranking(method, at) for method in self.config.methods for at in self.positions]

    def keys_at(self, at: At) -> dict[str, dict[str, NeuronSet]]:
        """Key neurons for words read at `at`, by plain method name; those without a position serve all."""
        everywhere = {name: keys for name, keys in self.keys.items() if "@" not in name}
        if at == self.at:
            return everywhere
        here = {name.removesuffix(f"@{at}"): keys for name, keys in self.keys.items() if name.endswith(f"@{at}")}
        return here or everywhere

    def _same(self, what: str, before: dict[str, Any], now: dict[str, Any], names: Iterable[str]) -> None:
        """Raise RunError where finished stages were made with another model or treebank of the same name."""
        other = [name for name in names if name in before and before[name] != now[name]]  # older versions had fewer
        if self.manifest.stages and other:
            told = "; ".join(f"{name}={before[name]!r}, and now it is {now[name]!r}" for name in other)
            raise RunError(f"{self.out}: its finished stages used a {what} with {told}; choose another --out")

    def warn(self, text: str) -> None:
        """Put a sentence among the run's warnings, once."""
        if text not in self.manifest.warnings:
            self.manifest.warnings.append(text)


def _open_run(config: Config, out: Path, command: str) -> Manifest:
    """The manifest of a new run, or of the one in `out` if it has the same configuration."""
    wanted = _listed(config)
    if not (out / "manifest.json").exists():
        Manifest(command=command, config=wanted).save(out)
    manifest = Manifest.load(out)
    if not manifest.stages:  # nothing was finished, so there is nothing to protect
        return Manifest(command=command, config=wanted)
    made = {**_listed(Config()), **manifest.config}  # an older version did not have every option
    other = [name for name, value in wanted.items() if made[name] != value and name not in NO_RESULT]
    refused = [name for name in other if _users(name, manifest) - {MADE_AGAIN.get(name)}]
    if refused:
        raise replace(manifest, config=made).refusal(out, wanted, refused)
    _check_list(config, out, manifest)
    again = [MADE_AGAIN[name] for name in other if _users(name, manifest)]
    manifest.stages = {stage: state for stage, state in manifest.stages.items() if stage not in again}
    manifest.config = {**made, **{name: wanted[name] for name in other}}
    manifest.command = command or manifest.command
    if again:
        manifest.save(out)
    return manifest


def _check_list(config: Config, out: Path, manifest: Manifest) -> None:
    """Raise RunError where the user's list of neurons is no longer the one that finished stages have used."""
    used = out / "neurons.json"
    if config.neurons is None or "rank" not in manifest.stages or not used.exists():
        return
    if read_neurons(Path(config.neurons)) != read_neurons(used):
        raise RunError(
            f"--neurons {config.neurons}: changed since the finished stages of {out} used it; expected what is in "
            f"{used}; choose another --out"
        )


def _users(option: str, manifest: Manifest) -> set[str | None]:
    """The finished stages that have used an option."""
    return {stage for stage in manifest.stages if stage != "report" and stage in USED_BY.get(option, (stage,))}


def _listed(config: Config) -> dict[str, Any]:
    """The options as JSON gives them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
