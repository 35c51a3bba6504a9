"""The command `steer`: a file of key neurons in, tables and texts of steered generation out.

The tagger is the simple one, trained on all of the treebank, unless Stanza is asked for. Added values are counted in
standard deviations over the tokens of the treebank's training split, or of all of it where it has none. This module
knows which step follows which, and not how any of them computes.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

from posneurons import memory, models
from posneurons.activations import token_statistics
from posneurons.alignment import align
from posneurons.backends import Backend, default_backend
from posneurons.config import MOST_SEED, check_number, loading_of
from posneurons.corpora import read_tagged
from posneurons.errors import NeuronError, RunError
from posneurons.files import write_json, write_whole
from posneurons.generation import ChangeKind, Sampling
from posneurons.lock import alone
from posneurons.manifest import Manifest
from posneurons.neuron_lists import read_neurons
from posneurons.neurons import NeuronSet
from posneurons.sentences import Treebank
from posneurons.steering import PROMPTS, TagShift, tag_shift
from posneurons.taggers import Tagger, simple_tagger, stanza_tagger

TAGGERS = ("simple", "stanza")
FILES = ("steer.parquet", "steer.json", "manifest.json")


@dataclass(frozen=True)
class SteerConfig:
    """What `posneurons steer` does; see its `--help`."""

    neurons: str | None = None
    tag_set: str | None = None
    method: str | None = None
    prompts: tuple[str, ...] = ()
    change: str = "scale"
    value: float = 2.0
    steps: int | None = None
    tokens: int = 32
    continuations: int = 8
    temperature: float = 1.0
    top_k: int | None = None
    controls: int = 20
    tagger: str = "simple"
    language: str = "en"
    model: str = "demo"
    treebank: str = "demo"
    tag: str = "upos"
    classes: str | None = None
    cache: str | None = None
    backend: str = default_backend()
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    n_devices: int = 1
    batch_tokens: int = 2048
    seed: int = 0

    def check(self) -> None:
        """Raise PosNeuronsError where an option has no meaning, before anything is loaded."""
        if self.neurons is None:
            raise RunError(
                "--neurons: no file was given; expected key neurons such as runs/demo/neurons.json: make one with "
                "`posneurons rank --out runs/demo`, then give --neurons runs/demo/neurons.json --tag-set NOUN"
            )
        for name, word, allowed in (
            ("change", self.change, get_args(ChangeKind)),
            ("tagger", self.tagger, TAGGERS),
            ("backend", self.backend, get_args(Backend)),
        ):
            if word not in allowed:
                raise RunError(f"--{name} {word}: expected one of {', '.join(allowed)}")
        check_number("steps", 1 if self.steps is None else self.steps, 1)
        check_number("tokens", self.tokens, 1, 10**5)
        check_number("continuations", self.continuations, 1, 10**5)
        check_number("controls", self.controls, 0, 10**4)
        check_number("batch-tokens", self.batch_tokens, 1)
        check_number("seed", self.seed, 0, MOST_SEED)
        if not math.isfinite(self.value):
            raise RunError(f"--value {self.value}: expected a finite number")
        self.sampling()

    def sampling(self) -> Sampling:
        """How tokens are drawn. Raises PosNeuronsError where a number is out of range."""
        return Sampling(self.tokens, self.continuations, self.temperature, self.top_k, self.seed)


def run(config: SteerConfig, out: Path, *, command: str = "", progress: bool = True) -> list[str]:
    """Steer, write `steer.parquet`, `steer.json` and `manifest.json`, and return what was found in a few lines.

    Args:
        config: what to do.
        out: where the files go; made where it does not exist. Files of the same options are made again.
        command: how the user called, for the manifest.
        progress: show a bar.

    Raises:
        PosNeuronsError: where an input is wrong, or `out` holds a run with other options.
    """
    config.check()
    chosen = _chosen(config)  # what is wrong with it is said before anything is made
    with alone(out, command), memory.explained(config.batch_tokens):
        return _run(config, out, command, progress, *chosen)


def _run(
    config: SteerConfig,
    out: Path,
    command: str,
    progress: bool,
    method: str,
    name: str,
    neurons: NeuronSet,
    everyone: NeuronSet,
) -> list[str]:
    begin = time.perf_counter()
    manifest = _open(config, out, command)
    bank = read_tagged(config.treebank, config.tag, config.classes, config.cache, progress=progress)
    tagger: Tagger = stanza_tagger(config.language) if config.tagger == "stanza" else simple_tagger(bank)
    model = models.load_model(config.model, **loading_of(config))
    manifest.model = asdict(models.describe(model))
    manifest.treebank = {"name": bank.name, "sha256": bank.sha256}
    found = tag_shift(
        model,
        config.prompts or PROMPTS,
        neurons,
        tagger,
        change=cast("ChangeKind", config.change),
        value=config.value,
        steps=config.steps,
        spread=_spread(model, bank, config) if config.change == "add" else None,
        controls=config.controls,
        exclude=everyone,
        sampling=config.sampling(),
        batch_tokens=config.batch_tokens,
        progress=progress,
    )
    manifest.stages["steer"] = {"state": "done", "seconds": round(time.perf_counter() - begin, 2)}
    _write(found, config, method, name, out)
    manifest.save(out)
    what = f"{config.change} {config.value:g}" + (" standard deviations" if config.change == "add" else "")
    return [
        f"{len(neurons)} neurons of {name} ({method}): {what}; tagger: {tagger.name}",
        *found.lines(),
        f"Tables and texts: {', '.join(str(out / each) for each in FILES)}",
    ]


def _chosen(config: SteerConfig) -> tuple[str, str, NeuronSet, NeuronSet]:
    """Method, tag, its set, and the neurons of all tags. Raises NeuronError where the file does not have them."""
    path = Path(str(config.neurons))
    by_method = read_neurons(path)
    method = config.method or next(each for each in by_method if "@" not in each)
    if method not in by_method:
        raise NeuronError(f"--method {method}: not in {path}; it has {', '.join(by_method)}")
    sets = by_method[method]
    if config.tag_set is None and len(sets) > 1:
        raise NeuronError(f"--tag-set: none was given; expected one of those in {path}: {', '.join(sets)}")
    name = config.tag_set or next(iter(sets))
    if name not in sets:
        raise NeuronError(f"--tag-set {name}: not in {path} ({method}); it has {', '.join(sets)}")
    return method, name, sets[name], sets[name].union(*sets.values())


def _open(config: SteerConfig, out: Path, command: str) -> Manifest:
    """A new manifest. Raises RunError where `out` holds another run."""
    wanted = {name: list(each) if isinstance(each, tuple) else each for name, each in asdict(config).items()}
    if (out / "manifest.json").exists():
        old = Manifest.load(out)
        if other := [name for name in wanted if old.config.get(name) != wanted[name]]:
            raise old.refusal(out, wanted, other)
    return Manifest(command=command, config=wanted)


def _spread(model: Any, bank: Treebank, config: SteerConfig) -> Any:
    """Standard deviation of every neuron over the treebank's tokens, a tensor [layer neuron]."""
    known = bank.split("train") if "train" in bank.splits else bank
    corpus = align(known, model.tokenizer, n_ctx=models.describe(model).n_ctx)
    return token_statistics(model, corpus, tokens=config.batch_tokens).sd


def _write(found: TagShift, config: SteerConfig, method: str, name: str, out: Path) -> None:
    key = found.texts[1]
    change = key.change
    frame = found.to_frame()
    columns: dict[str, Any] = {"method": method, "tag_set": name, "change": config.change, "value": config.value}
    for place, (column, each) in enumerate(columns.items()):
        frame.insert(place, column, each)
    write_whole(out / "steer.parquet", lambda part: frame.to_parquet(part, index=False))
    content = {
        **columns,
        "steps": config.steps,
        "neurons": list(change.neurons.names) if change is not None else [],
        "tagger": found.tagger,
        "sampling": asdict(key.sampling),
        "texts": found.texts_frame().to_dict("records"),
    }
    write_json(out / "steer.json", content)
