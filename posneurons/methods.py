"""The ways to rank neurons: their names, options and defaults. Light to import, so that checks and `--help` are quick.

A method with options is written `name:option=value,option=value`, on the command line, in Python and in result files:
`attribution:contrast=no`. Options that are left out have their defaults and are not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from posneurons.errors import PosNeuronsError
from posneurons.words import Baseline, Path, Per, Rule, Scope, Target

Family = Literal["moments", "histograms", "gates", "model"]
"""What a method is computed from: statistics that several methods share, or passes of its own over the model."""

WORDS: dict[str, tuple[str, ...]] = {
    "scope": get_args(Scope),
    "baseline": get_args(Baseline),
    "rule": get_args(Rule),
    "target": get_args(Target),
    "path": get_args(Path),
    "per": get_args(Per),
}
"""What an option that is a word may be."""

_TRUTH = {"yes": True, "true": True, "no": False, "false": False}


@dataclass(frozen=True)
class Method:
    """What a ranking method is made from, its options with their defaults, and how its scores are ordered.

    `signed`: by the score itself unless asked otherwise; else by its distance from `neutral`.
    """

    family: Family
    options: Mapping[str, Any] = field(default_factory=dict)
    signed: bool = False
    neutral: float = 0.0


_EFFECT = {"scope": "local", "contrast": True, "baseline": "zero"}
_PATH = {"steps": 6, "rule": "gauss_legendre", "target": "log_probability"}

METHODS: dict[str, Method] = {
    "correlation": Method("moments"),
    "eta_squared": Method("moments"),
    "cohens_d": Method("moments"),
    "welch_t": Method("moments"),
    "mean_difference": Method("moments"),
    "probeless": Method("moments", {"scaled": False}),
    "lda": Method("moments"),
    "qda": Method("moments"),
    "lape": Method("gates", signed=True),
    "auroc": Method("histograms", {"shortlist": 0}, neutral=0.5),
    "average_precision": Method("histograms", {"shortlist": 0}, signed=True),
    "mutual_information": Method("histograms", {"shortlist": 0}, signed=True),
    "attribution": Method("model", _EFFECT, signed=True),
    "integrated_gradients": Method("model", {"contrast": True, **_PATH, "path": "layer"}, signed=True),
    "key_neuron_rule": Method("model", {"contrast": False, "share": 0.05, "per": "layer", **_PATH}, signed=True),
    "relp": Method("model", {**_EFFECT, "frozen_patterns": False}, signed=True),
    "logprob_increase": Method("model", {"contrast": True, "shortlist": 0}, signed=True),
    "logit_attribution": Method("model", signed=True),
    "dynamic_logit_attribution": Method("model", signed=True),
    "partial_correlation": Method("model", {"frequency": True, "length": True, "position": True}),
    "elastic_net": Method("model", {"shortlist": 200}),
    "gaussian": Method("model", {"shortlist": 100}, signed=True),
}


@dataclass(frozen=True)
class Spec:
    """A method with all its options.

    >>> spec = parse("attribution:contrast=no")
    >>> spec.name, spec.options["contrast"], spec.options["scope"], str(spec)
    ('attribution', False, 'local', 'attribution:contrast=no')
    """

    name: str
    options: Mapping[str, Any]

    @property
    def method(self) -> Method:
        """What the method is made from."""
        return METHODS[self.name]

    def __str__(self) -> str:
        """Name and those options that are not the defaults, as `parse` reads them."""
        changed = {key: value for key, value in self.options.items() if value != self.method.options[key]}
        return (
            self.name + (":" if changed else "") + ",".join(f"{key}={_word(value)}" for key, value in changed.items())
        )


def parse(text: str, **options: Any) -> Spec:
    """Read `name` or `name:option=value,...`, with further options by keyword, which win.

    Raises:
        PosNeuronsError: where the method, an option or a value is unknown.
    """
    name, _, rest = text.partition(":")
    if name not in METHODS:
        raise PosNeuronsError(f"method {name!r}: no such ranking; expected one of {', '.join(METHODS)}")
    given: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise PosNeuronsError(f"method {text!r}: found {part!r}; expected option=value")
        given[key.strip()] = value.strip()
    defaults = METHODS[name].options
    for key in given | options:
        if key not in defaults:
            known = f"it takes {', '.join(defaults)}" if defaults else "it takes none"
            raise PosNeuronsError(f"method {name}: no option {key!r}; {known}")
    return Spec(
        name,
        {key: _value(name, key, (given | options).get(key, default), default) for key, default in defaults.items()},
    )


def _value(name: str, key: str, value: Any, default: Any) -> Any:
    """An option's value in the type of its default."""
    where = f"method {name}: {key}={' '.join(_word(value).split())}"
    if key in WORDS:
        if value not in WORDS[key]:
            raise PosNeuronsError(f"{where}: expected one of {', '.join(WORDS[key])}")
        return value
    if isinstance(default, bool):
        found = value if isinstance(value, bool) else _TRUTH.get(str(value).lower())
        if found is None:
            raise PosNeuronsError(f"{where}: expected yes or no")
        return found
    try:
        number = type(default)(value)
    except (TypeError, ValueError):
        number = None
    least, most = (1, 1000) if key == "steps" else (0, 10**9)
    whole = number is None or not isinstance(value, float) or number == value
    if (
        number is None
        or not whole
        or isinstance(value, bool)
        or not least <= number <= most
        or (key == "share" and not 0 < number < 1)
    ):
        limit = f"at most {most}" if number is not None and number > most else f"at least {least}"
        wanted = "a number between 0 and 1" if key == "share" else f"a whole number of {limit}"
        raise PosNeuronsError(f"{where}: expected {wanted}")
    return number


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
