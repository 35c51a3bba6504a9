"""The main job: rank, probe, lesion, report, in a run directory that can be resumed.

Each stage writes its files whole and is then marked done in `manifest.json`; the same command goes on where a run was
stopped. This module knows which step follows which, and not how any of them computes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from posneurons import memory, models, report
from posneurons.config import Config
from posneurons.corpora import described, read_corpus, read_treebank
from posneurons.errors import RunError
from posneurons.fluency import fluency
from posneurons.lesion_study import Workbench, lesion, rivals
from posneurons.manifest import Manifest, write_json, write_whole
from posneurons.methods import parse
from posneurons.neuron_lists import given_frame, read_neurons
from posneurons.neurons import NeuronSet
from posneurons.probes import fit_probe
from posneurons.records import Corpus, Ranking
from posneurons.verdicts import correct, judge
from posneurons.verification import verify
from posneurons.words import At, Control, Correction, Per, Scope
from posneurons.workflow import Evidence

STAGES = ("rank", "probe", "lesion", "report")
FILES = {
    "rank": ("ranking.parquet", "neurons.json"),
    "probe": ("probe.json",),
    "lesion": ("lesions.parquet", "dissociations.parquet"),
    "report": ("report.html",),
    "verify": ("verify.json",),
}
NO_RESULT = ("batch_tokens", "cache")
"""Options that change no result, and may differ when a run is resumed."""

KEPT = 1000
"""Neurons of each (tag, method, position) that ranking.parquet keeps."""


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
    study = Study(config, out, command, progress)
    with memory.explained(config.batch_tokens, "finished stages are kept: "):
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
        self._how: dict[str, Any] = {"tokens": config.batch_tokens, "progress": progress}
        self.manifest = _open_run(config, out, command)

    def do(self, stage: str) -> None:
        """Run one stage, unless it is done and its files are there."""
        done = self.manifest.stages.get(stage, {}).get("state") == "done"
        if done and stage != "report" and all((self.out / name).exists() for name in FILES[stage]):
            return
        begin = time.perf_counter()
        steps: dict[str, Callable[[], None]] = {
            "rank": self._rank,
            "probe": self._probe,
            "lesion": self._lesion,
            "verify": self._verify,
        }
        if stage in steps:
            steps[stage]()
        self.manifest.stages[stage] = {"state": "done", "seconds": round(time.perf_counter() - begin, 2)}
        self.manifest.save(self.out)
        if stage == "report":
            report.build_report(self.out)

    @cached_property
    def model(self) -> Any:
        """The model, loaded."""
        config = self.config
        model = models.load_model(
            config.model, backend=config.backend, device=config.device, dtype=config.dtype, revision=config.revision
        )
        found = asdict(models.describe(model))
        self._same("model", self.manifest.model, found, ("config_sha256", "revision", "dtype", "n_parameters"))
        self.manifest.model = found
        return model

    @cached_property
    def corpus(self) -> Corpus:
        """The words, aligned with the model's tokens; splits are made where the treebank has none."""
        bank, notes = read_treebank(self.config, progress=self.progress)
        corpus, more = read_corpus(self.config, bank, self.model.tokenizer, models.describe(self.model).n_ctx)
        for note in notes + more:
            self._warn(note)
        found = described(bank, corpus)
        self._same("treebank", self.manifest.treebank, found, ("sha256", "tagset", "splits"))
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
    def rankings(self) -> list[Ranking]:
        """Every method at every position, computed; the same each time, whatever the run directory holds."""
        config, train = self.config, self.corpus.split("train")
        evidence = Evidence(self.model, train, self.positions, seed=config.seed, **self._how)
        return [
            evidence.ranking(parse(method), at, signed=config.signed)
            for method in config.methods
            for at in self.positions
        ]

    def _keys_at(self, at: At) -> dict[str, dict[str, NeuronSet]]:
        """Key neurons for words read at `at`, by plain method name; those without a position serve all."""
        everywhere = {name: keys for name, keys in self.keys.items() if "@" not in name}
        if at == self.at:
            return everywhere
        here = {name.removesuffix(f"@{at}"): keys for name, keys in self.keys.items() if name.endswith(f"@{at}")}
        return here or everywhere

    def _check_fluency(self) -> None:
        """Warn where the model does not know the language of the treebank."""
        if not len(self.corpus.split("test").readable("predict")):
            return  # there is no word that the model could predict
        found = fluency(self.model, self.corpus, seed=self.config.seed, **self._how)
        self.manifest.notes["fluency"] = asdict(found) | {"knows": found.knows}
        if not found.knows:
            self._warn(
                f"the model does not know this text: its words cost {found.model:.2f} nats per character, and "
                f"{found.unigram:.2f} by the frequency of their tokens in train alone (unigram); neurons ranked on it "
                "say nothing about its language"
            )

    def _rank(self) -> None:
        config = self.config
        self._check_fluency()
        if config.neurons is not None:
            keys = self.keys
            frame = given_frame(keys, self.at)
        else:
            rankings = self.rankings
            self.manifest.notes |= {self._name(ranking): dict(ranking.notes) for ranking in rankings if ranking.notes}
            keys = {self._name(ranking): self._top(ranking) for ranking in rankings}
            last = config.top if config.per == "model" else 0
            frame = pd.concat([ranking.to_frame(KEPT, last=last) for ranking in rankings], ignore_index=True)
        write_whole(self.out / "ranking.parquet", lambda part: frame.to_parquet(part, index=False))
        names = {method: {tag: list(found.names) for tag, found in sets.items()} for method, sets in keys.items()}
        write_json(self.out / "neurons.json", names)

    def _name(self, ranking: Ranking) -> str:
        return ranking.method if ranking.at == self.at else f"{ranking.method}@{ranking.at}"

    def _top(self, ranking: Ranking) -> dict[str, NeuronSet]:
        """Key neurons of the tags with enough words; the others are named in a warning."""
        words = dict(zip(ranking.tags, ranking.count.tolist(), strict=True))
        few = [f"{tag} ({n})" for tag, n in words.items() if n < self.config.min_words]
        if few:
            self._warn(
                f"fewer than {self.config.min_words} training words at {ranking.at!r}, "
                f"so no key neurons: {', '.join(few)}"
            )
        found = ranking.top(self.config.top, per=cast("Per", self.config.per), fewer=True)
        enough = {tag: keys for tag, keys in found.items() if words[tag] >= self.config.min_words}
        if not enough:
            raise RunError(
                f"{self.config.treebank}: no tag has {self.config.min_words} training words and a score by "
                f"{ranking.method}; give a larger treebank, a smaller --min-words or another --method"
            )
        wanted = self.config.top * (ranking.scores.shape[1] if self.config.per == "layer" else 1)
        short = [f"{tag} ({len(keys)})" for tag, keys in enough.items() if len(keys) < wanted]
        if short:
            self._warn(f"{self._name(ranking)} scores fewer than {wanted} neurons for {', '.join(short)}")
        return enough

    def _probe(self) -> None:
        config = self.config
        results = [
            fit_probe(
                self.model,
                self.corpus,
                keys,
                at=at,
                method=method,
                seed=config.seed,
                **self._how,
            )
            for at in self.probe_at
            for method, keys in self._keys_at(at).items()
        ]
        write_json(self.out / "probe.json", {"results": [result.to_dict() for result in results]})

    def _lesion(self) -> None:
        config, frames, pairs = self.config, [], []
        words = config.lesion_words or None
        bench = Workbench(self.model, self.corpus, words=words, seed=config.seed, **self._how)
        correction, scope = cast("Correction", config.correction), cast("Scope", config.scope)
        for ablation in config.ablations:
            for method, keys in self._keys_at(self.at).items():
                bottoms = self._bottoms(method, keys) if "bottom" in config.beside else {}
                beside = rivals(bench, keys, config.beside, ablation, scope, config.controls, bottoms)
                result = lesion(
                    self.model,
                    self.corpus,
                    keys,
                    ablation=ablation,
                    scope=scope,
                    controls=config.controls,
                    control=cast("Control", config.control),
                    beside=beside,
                    seed=config.seed,
                    method=method,
                    draws=config.draws,
                    cluster=config.cluster,
                    margin=config.margin,
                    correction=correction,
                    workbench=bench,
                    losses=self._losses_file(method, ablation) if config.keep_losses else None,
                )
                frames.append(result.to_frame())
                pairs += [result.dissociations(), result.dissociations(category=True)]
        frame = correct(pd.concat(frames, ignore_index=True), correction)
        pair = judge(pd.concat(pairs, ignore_index=True), correction)
        self.manifest.notes["lesions"] = {"clusters": bench.clusters(config.cluster)[0]}
        for note in bench.notes:
            self._warn(note)
        write_whole(self.out / "lesions.parquet", lambda part: frame.to_parquet(part, index=False))
        write_whole(self.out / "dissociations.parquet", lambda part: pair.to_parquet(part, index=False))

    def _losses_file(self, method: str, ablation: str) -> Path:
        name = "".join(letter if letter.isalnum() or letter in "_.=" else "-" for letter in f"{method}-{ablation}")
        return self.out / "losses" / f"{name}.parquet"

    def _bottoms(self, method: str, keys: dict[str, NeuronSet]) -> dict[str, NeuronSet]:
        """As many neurons as each tag's set has, from the end of the ranking, the last first; none of a given list."""
        ranking = pd.read_parquet(self.out / "ranking.parquet")
        ranking = ranking[(ranking["method"] == method) & (ranking["at"] == self.at)]
        found = {}
        for tag, neurons in keys.items():
            rows = ranking[ranking["tag"] == tag].sort_values("rank", ascending=False)
            if self.config.neurons is None and self.config.per == "model" and len(rows) >= 2 * len(neurons):
                last = rows[: len(neurons)]
                found[tag] = NeuronSet(last["layer"].to_numpy(np.int64), last["neuron"].to_numpy(np.int64))
        return found

    def _verify(self) -> None:
        config = self.config
        splits = self.corpus.split_names
        found = verify(
            self.model,
            self.corpus.split("dev" if "dev" in splits else "test"),
            config.methods,
            fill=cast("Any", config.ablations[0]),
            scope=cast("Scope", config.scope),
            listed=config.listed,
            random=config.random,
            words=config.words,
            seed=config.seed,
            **self._how,
        )
        write_json(self.out / "verify.json", {"dtype": self.manifest.model["dtype"], **found.to_dict()})

    def _same(self, what: str, before: dict[str, Any], now: dict[str, Any], names: Iterable[str]) -> None:
        """Raise RunError where finished stages were made with another model or treebank of the same name."""
        for name in names:
            if self.manifest.stages and before and before.get(name) != now.get(name):
                raise RunError(
                    f"{self.out}: its finished stages used a {what} with {name}={before.get(name)!r}, and now it is "
                    f"{now.get(name)!r}; choose another --out"
                )

    def _warn(self, text: str) -> None:
        if text not in self.manifest.warnings:
            self.manifest.warnings.append(text)


def _open_run(config: Config, out: Path, command: str) -> Manifest:
    """The manifest of a new run, or of the one in `out` if it has the same configuration."""
    wanted = asdict(config)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "manifest.json").exists():
            Manifest(command=command, config=wanted).save(out)
    except OSError as error:
        raise RunError(f"--out {out}: cannot be made or written ({error.strerror}); choose another") from None
    manifest = Manifest.load(out)
    if not manifest.stages:  # nothing was finished, so there is nothing to protect
        return Manifest(command=command, config=wanted)
    wanted = {name: list(value) if isinstance(value, tuple) else value for name, value in wanted.items()}
    for name, value in wanted.items():
        if manifest.config.get(name) != value and name not in NO_RESULT:
            raise RunError(
                f"{out}: holds a run with {name}={manifest.config.get(name)!r}, and {value!r} was asked for; "
                f"repeat its options ({manifest.command}), or choose another --out"
            )
    manifest.command = command or manifest.command
    return manifest
