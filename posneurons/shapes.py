"""What the values of a run's files may be, so that a page is made of what a run wrote, or one line says what is wrong.

A shape is a kind (`TEXT`, `WHOLE`, `COUNT`, `REAL`, `FLAG`), a list with the shape of its every item, a tuple with the
shape of each of its items, or a dict: with names, of which those that end in ? may be missing or null, or with `str`
for the shape of every value. Columns of tables have kinds by their names, the same in all tables.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from posneurons.files import damaged
from posneurons.sentences import writable

LARGEST = 10**15
"""Of a whole number; larger ones are no counts, and are not exact as floats."""
LAYERS = 10_000
"""No model has as many; pictures have a row for each."""


class Kind(NamedTuple):
    """What a single value may be."""

    name: str
    holds: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


TEXT = Kind("text", lambda value: isinstance(value, str) and writable(value))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number", _is_whole)
COUNT = Kind("a whole number of at least 0", lambda value: _is_whole(value) and value >= 0)
LAYER = Kind("the number of a layer", lambda value: _is_whole(value) and 0 <= value < LAYERS)
REAL = Kind("a number or null", lambda value: value is None or _is_whole(value) or isinstance(value, float))
RANK = Kind("a rank or null", lambda value: value is None or (_is_whole(value) and value >= 1))

_SCORES = {"accuracy?": REAL, "macro_f1?": REAL, "per_tag_f1?": {str: REAL}}
PROBE = {
    "results": [
        {
            "method": TEXT, "at": TEXT, "n_neurons": COUNT, "train_words": COUNT, "test_words": COUNT, **_SCORES,
            "per_tag_f1": {str: REAL}, "classes": [TEXT], "confusion": [[COUNT]], "baselines": {str: _SCORES},
            "selectivity?": REAL,
        }
    ]
}  # fmt: skip
"""probe.json."""
VERIFY = {
    "ablation": TEXT, "scope": TEXT, "top": COUNT, "listed": COUNT, "measured": COUNT,
    "agreement": [
        {
            "estimate": TEXT, "tag": TEXT, "exact": TEXT, "words": COUNT, "pearson": REAL, "spearman": REAL,
            "recall": REAL, "missed": REAL,
        }
    ],
}  # fmt: skip
"""verify.json."""
MANIFEST = {
    "config": {"methods?": [TEXT], "ablations?": [TEXT]},
    "model": {"n_layers?": LAYER, "d_mlp?": COUNT, "n_parameters?": COUNT},
    "treebank": {"splits?": {str: {"sentences?": COUNT, "words?": COUNT}}},
    "dropped": [{"tag": TEXT, "reason": TEXT, "words": COUNT}],
    "stages": {str: {"seconds?": REAL}},
}
"""manifest.json, as far as the page takes its values apart."""
PAGE = {
    "layer": LAYER, "neuron": COUNT, "n_neurons": COUNT, "model": TEXT, "treebank": TEXT, "at": TEXT, "split": TEXT,
    "effect_split": TEXT, "ablation": TEXT, "scope": TEXT, "tags": [TEXT], "words": [COUNT], "means": [REAL],
    "edges": [REAL], "counts": [[COUNT]], "notes": [TEXT], "promoted": [(TEXT, REAL)], "suppressed": [(TEXT, REAL)],
    "contexts": [
        {
            "side": TEXT, "tokens": [TEXT], "activations": [REAL], "read": COUNT, "word": (COUNT, COUNT), "tag": TEXT,
            "form": TEXT, "sentence": COUNT, "cut": (FLAG, FLAG),
        }
    ],
    "effects": [{"rise": REAL, "low": REAL, "high": REAL, "words": COUNT}],
    "ranks": [{"method": TEXT, "ranks": [RANK], "scores": [REAL]}],
    "of": [{"method": TEXT, "tag": TEXT, "rank": COUNT}],
}  # fmt: skip
"""A page of neuron_pages.json."""

_TEXTS = {
    "method", "at", "tag", "lesion", "ablation", "scope", "set", "measure", "tag_a", "tag_b", "verdict", "arm",
    "source", "method_a", "method_b",
}  # fmt: skip
_WHOLES = {"layer", "neuron", "draw", "words", "k", "neurons", "size_a", "size_b", "shared"}


def check_shape(where: str, value: Any, shape: Any) -> None:
    """Raise RunError, which begins with `where`, at the first value that is not of its shape."""
    if isinstance(shape, Kind):
        if not shape.holds(value):
            raise damaged(where, f"{value!r:.40}", shape.name)
    elif isinstance(shape, dict):
        _check_object(where, value, shape)
    elif not isinstance(value, list):
        raise damaged(where, f"{value!r:.40}", "a list")
    elif isinstance(shape, list):
        for place, each in enumerate(value):
            check_shape(f"{where}, item {place}", each, shape[0])
    elif len(value) != len(shape):
        raise damaged(where, f"{len(value)} items", f"{len(shape)}")
    else:
        for place, (each, inner) in enumerate(zip(value, shape, strict=True)):
            check_shape(f"{where}, item {place}", each, inner)


def _check_object(where: str, value: Any, shape: dict[Any, Any]) -> None:
    if not isinstance(value, dict):
        raise damaged(where, f"{value!r:.40}", "a JSON object")
    if str in shape:
        for key, each in value.items():
            check_shape(f"{where}: the name", key, TEXT)
            check_shape(f"{where}: {key:.40}", each, shape[str])
        return
    for key, inner in shape.items():
        name = key.removesuffix("?")
        if value.get(name) is not None or (name in value and name == key):
            check_shape(f"{where}: {name}", value[name], inner)
        elif name == key:
            raise damaged(where, f"{name} is missing", "it")


def check_columns(path: Path, frame: pd.DataFrame, columns: list[str]) -> None:
    """Raise RunError where columns of a table do not hold the kind of value that their names stand for."""
    for name in columns:
        if list(frame).count(name) > 1:
            raise damaged(str(path), f"the column {name} twice", "it once")
        column = frame[name]
        fault, expected = _fault(name, column)
        if fault:
            raise damaged(str(path), f"column {name}: {fault}", expected)


def _fault(name: str, column: pd.Series[Any]) -> tuple[str, str]:
    """What is wrong with a column, and what was expected of it; "" where nothing is."""
    if name in _TEXTS:
        other = [value for value in column if not TEXT.holds(value)]
        return (f"{other[0]!r:.40}" if other else ""), "text"
    if column.isna().all() and (name not in _WHOLES or not len(column)):
        return "", ""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return f"{column.dtype}", "numbers"
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if name in _WHOLES:
        most = LAYERS if name == "layer" else LARGEST
        odd = values[~((values >= -1) & (values < most) & (values == np.round(values)))]
        return (f"{odd[0]:g}" if len(odd) else ""), f"whole numbers below {most}"
    odd = values[np.isinf(values)] if name in ("rank", "margin") else values[:0]
    return (f"{odd[0]:g}" if len(odd) else ""), "finite numbers"
