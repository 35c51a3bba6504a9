"""Ablations by name: what is done to a neuron, with its options, as words and in result files. Light to import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast, get_args

from posneurons.errors import NeuronError
from posneurons.words import Ablation, Donor

_MOST_DRAWS = 10_000
_OPTIONS: dict[str, dict[str, float | int | str]] = {
    "zero": {},
    "mean": {},
    "balanced_mean": {},
    "resample": {"donor": "any", "draws": 5},
    "clamp": {"value": 0.0},
    "scale": {"factor": 0.5},
}


@dataclass(frozen=True)
class Edit:
    """What is done to the neurons of a lesion; `str` gives its label in files: the name, and what differs from default.

    Attributes:
        name: zero, mean (over training tokens after BOS), balanced_mean (over the means of the tags), resample (the
            values of one donor word for the whole set), clamp (a value), scale (a factor times the neuron's own value).
        donor: of resample: any training word, or one of another tag than the word that is predicted.
        draws: of resample: how many donors are averaged over.
        value: of clamp.
        factor: of scale.

    >>> str(parse("scale:factor=0")), str(parse("resample"))
    ('scale:factor=0.0', 'resample')
    """

    name: Ablation
    donor: Donor = "any"
    draws: int = 5
    value: float = 0.0
    factor: float = 0.5

    def __str__(self) -> str:
        options = [f"{name}={getattr(self, name)}" for name, default in _OPTIONS[self.name].items()
                   if getattr(self, name) != default]  # fmt: skip
        return ":".join([self.name, *([",".join(options)] if options else [])])


def parse(text: str | Edit) -> Edit:
    """An ablation from its name and options, such as "mean", "clamp:value=2" or "resample:donor=other,draws=10".

    Raises:
        NeuronError: where a name, an option or a value is unknown.
    """
    if isinstance(text, Edit):
        return text
    name, _, rest = text.partition(":")
    if name not in _OPTIONS:
        raise NeuronError(f"ablation {name!r}: no such ablation; expected one of {', '.join(get_args(Ablation))}")
    known, given = _OPTIONS[name], dict.fromkeys(rest.split(",")) if rest else {}
    options: dict[str, float | int | str] = {}
    for each in given:
        option, equals, value = each.partition("=")
        if option not in known or not equals:
            allowed = ", ".join(f"{key}={default}" for key, default in known.items()) or "no options"
            raise NeuronError(f"ablation {text!r}: {each!r} is no option of {name}; expected {allowed}")
        options[option] = _value(text, option, value)
    return Edit(cast("Ablation", name), **options)  # type: ignore[arg-type]


def _value(text: str, option: str, value: str) -> float | int | str:
    if option == "donor":
        if value not in get_args(Donor):
            raise NeuronError(f"ablation {text!r}: donor={value}; expected one of {', '.join(get_args(Donor))}")
        return value
    try:
        number = int(value) if option == "draws" else float(value)
    except ValueError:
        number = math.nan
    if not (1 <= number <= _MOST_DRAWS if option == "draws" else math.isfinite(number)):
        expected = f"a whole number of at least 1 and at most {_MOST_DRAWS}" if option == "draws" else "a finite number"
        raise NeuronError(f"ablation {text!r}: {option}={value}; expected {expected}")
    return number
