"""What a run does: every option of `posneurons run`, with its default. Light to import, so that `--help` is quick."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, get_args

from posneurons import ablations
from posneurons.backends import Backend, default_backend
from posneurons.errors import RunError
from posneurons.methods import parse
from posneurons.words import At, Cluster, Context, Control, Correction, Per, Rival, Scope, Units

SPLITS = ("given", "document", "sentence", "type")
"""What decides the split of a word: the treebank, a draw of documents or sentences, or, beside that, of word types."""

MOST = 10**9
"""Of an option that is a number: more is a slip, and could ask for memory that no machine has."""
MOST_SEED = 2**32 - 1
"""What every library in use takes as a seed."""

LOADING = ("backend", "device", "dtype", "revision", "n_devices")
"""Options that, beside its name, say how a model is loaded."""

_FOLD = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")


def check_number(name: str, number: int | float, least: int | float, most: int | float = MOST) -> None:  # noqa: PYI041
    """Raise RunError where the number of an option is out of its range."""
    if not number >= least:
        raise RunError(f"--{name} {number}: expected at least {least}")
    if number > most:
        raise RunError(f"--{name} {number}: expected at most {most}")


def loading_of(config: object) -> dict[str, Any]:
    """The options of a configuration that `load_model` takes beside a name."""
    return {name: getattr(config, name) for name in LOADING}


def fold_of(split: str) -> tuple[int, int] | None:
    """The numbers of a fold, as in "2/5", or None for another word.

    >>> fold_of("2/5"), fold_of("6/5"), fold_of("given")
    ((2, 5), None, None)
    """
    found = _FOLD.fullmatch(split)
    number, k = (int(found[1]), int(found[2])) if found else (0, 0)
    return (number, k) if 1 <= number <= k >= 2 else None


@dataclass(frozen=True)
class Config:
    """What a run does; see `posneurons run --help`."""

    model: str = "demo"
    treebank: str = "demo"
    tag: str = "upos"
    classes: str | None = None
    split: str = "given"
    context: str = "sentence"
    left: int | None = None
    units: str = "word"
    cache: str | None = None
    backend: str = default_backend()
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    n_devices: int = 1
    methods: tuple[str, ...] = ("correlation", "attribution")
    at: str = "predict"
    probe_at: tuple[str, ...] = ("predict", "last")
    top: int = 50
    per: str = "model"
    signed: bool | None = None
    min_words: int = 20
    ablations: tuple[str, ...] = ("mean", "zero")
    controls: int = 20
    control: str = "size"
    beside: tuple[str, ...] = ("unflagged",)
    cluster: str = "auto"
    margin: float = 0.05
    correction: str = "bh"
    keep_losses: bool = False
    lesion_words: int = 0
    pages: int = 3
    scope: str = "all"
    neurons: str | None = None
    draws: int = 10_000
    batch_tokens: int = 2048
    listed: int = 100
    random: int = 300
    words: int = 2000
    seed: int = 0

    def canonical(self) -> Config:
        """The same with every ablation under its label, once, so that two spellings are one."""
        labels = (str(ablations.parse(each)) for each in self.ablations)
        return replace(self, ablations=tuple(dict.fromkeys(labels)))

    def check(self) -> None:
        """Raise PosNeuronsError where an option has no meaning."""
        words: list[tuple[str, Any, Iterable[str]]] = [
            ("context", self.context, get_args(Context)),
            ("units", self.units, get_args(Units)),
            ("backend", self.backend, get_args(Backend)),
            ("at", self.at, get_args(At)),
            ("per", self.per, get_args(Per)),
            ("scope", self.scope, get_args(Scope)),
            *(("probe-at", each, get_args(At)) for each in self.probe_at),
            ("control", self.control, get_args(Control)),
            ("cluster", self.cluster, get_args(Cluster)),
            ("correction", self.correction, get_args(Correction)),
            *(("beside", each, get_args(Rival)) for each in self.beside),
        ]
        for name, value, allowed in words:
            if value not in allowed:
                raise RunError(f"--{name} {value}: expected one of {', '.join(allowed)}")
        self._check_reading()
        for method in self.methods:
            parse(method)
        for ablation in self.ablations:
            ablations.parse(ablation)
        if not 0 < self.margin < math.inf:
            raise RunError(f"--margin {self.margin}: expected a number of nats above 0")
        check_number("controls", self.controls, 0, 10**4)
        check_number("draws", self.draws, 1, 10**6)
        check_number("seed", self.seed, 0, MOST_SEED)
        for name, number, least in (
            ("top", self.top, 1),
            ("min-words", self.min_words, 1),
            ("n-devices", self.n_devices, 1),
            ("batch-tokens", self.batch_tokens, 1),
            ("listed", self.listed, 20),
            ("random", self.random, 0),
            ("words", self.words, 1),
            ("lesion-words", self.lesion_words, 0),
            ("pages", self.pages, 0),
        ):
            check_number(name, number, least)

    def _check_reading(self) -> None:
        """Raise RunError where the options of what is read have no meaning."""
        if self.split not in SPLITS and fold_of(self.split) is None:
            raise RunError(
                f"--split {self.split}: expected one of {', '.join(SPLITS)}, or a fold such as 1/5, the first of five"
            )
        if (self.split, self.context) == ("sentence", "document"):
            raise RunError(
                "--split sentence --context document: the sentences of a document would be torn apart; give --split "
                "document, or --context sentence"
            )
        if self.left is not None and self.left < 0:
            raise RunError(f"--left {self.left}: expected at least 0 tokens")
