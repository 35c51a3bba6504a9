"""Files of key neurons: `{"TAG": ["L12N3456", ...]}`, or the same by method, as a run writes and a user may give."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from posneurons.errors import NeuronError
from posneurons.files import read_json
from posneurons.neurons import NeuronSet
from posneurons.sentences import writable
from posneurons.words import At

GIVEN = "given"
"""Name of the method where key neurons come from a user's file."""


def read_neurons(path: Path) -> dict[str, dict[str, NeuronSet]]:
    """Read {method: {tag: [names]}}, or {tag: [names]} for one unnamed method (named "given").

    Raises:
        RunError: where the file is missing or is no JSON.
        NeuronError: where it holds something else, naming the place.
    """
    content = read_json(path)
    if isinstance(content, dict) and content and all(isinstance(value, list) for value in content.values()):
        content = {GIVEN: content}
    found: dict[str, dict[str, NeuronSet]] = {}
    if not isinstance(content, dict) or not content:
        raise NeuronError(f'{path}: expected {{"TAG": ["L12N3456", ...], ...}}, found {type(content).__name__}')
    for method, tags in content.items():
        if not isinstance(tags, dict):
            raise NeuronError(f"{path}: {method}: expected tags with lists of names, found {type(tags).__name__}")
        for tag, names in tags.items():
            _check_text(path, method, tag)
            if not isinstance(names, list) or not names or not all(isinstance(each, str) for each in names):
                raise NeuronError(f"{path}: {method}, {tag}: expected a list of neuron names, found {names!r:.40}")
            try:
                found.setdefault(method, {})[tag] = NeuronSet.parse(names)
            except NeuronError as error:
                raise NeuronError(f"{path}: {method}, {tag}: {error}") from None
    if not any("@" not in method for method in found):
        raise NeuronError(f'{path}: found no neurons; expected {{"TAG": ["L12N3456", ...], ...}}')
    return found


def _check_text(path: Path, *names: str) -> None:
    """Raise NeuronError where a name is no text: JSON can hold halves of characters that no file can."""
    for name in names:
        if not writable(name):
            raise NeuronError(f"{path}: the name {name!r:.40} holds half a character; expected text")


def given_frame(keys: dict[str, dict[str, NeuronSet]], at: At) -> pd.DataFrame:
    """The user's neurons in the columns of a ranking, without scores."""
    rows = [
        (method, at, tag, layer, unit, float("nan"), place)
        for method, sets in keys.items()
        for tag, found in sets.items()
        for place, (layer, unit) in enumerate(zip(found.layers.tolist(), found.units.tolist(), strict=True), 1)
    ]
    return pd.DataFrame(rows, columns=["method", "at", "tag", "layer", "neuron", "score", "rank"])
