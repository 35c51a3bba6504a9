"""Results of lesions from a few words whose numbers are known, and from studies where it is known what is there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from posneurons.lesion_results import LesionResult
from posneurons.neurons import NeuronSet

INTACT = np.array([1.0, 3.0, 2.0, 2.0, 5.0])
RISE = np.array(
    [
        [0.5, 1.5, 0.0, 0.3, 0.0],  # NOUN: 1.0 on NOUN, 0.1 on VERB
        [0.1, 0.3, 0.3, 0.3, 0.3],  # its first control: 0.2, 0.3
        [0.5, 0.3, 0.3, 0.0, 0.0],  # its second control: 0.4, 0.1
        [0.0, 0.2, 1.0, 2.0, 3.0],  # VERB: 0.1 on NOUN, 2.0 on VERB
    ]
)


def build_result(**overrides: Any) -> LesionResult:
    """Five words of NOUN NOUN VERB VERB VERB; X has none. Lesions of NOUN (with two controls) and of VERB."""
    fields: dict[str, Any] = {
        "method": "correlation",
        "ablation": "mean",
        "scope": "all",
        "tags": ("NOUN", "VERB", "X"),
        "word_tag": np.array([0, 0, 1, 1, 1]),
        "word_cluster": np.array([0, 1, 0, 1, 1]),
        "word_type": np.array([0, 1, 2, 2, 3]),
        "lesion": ("NOUN", "NOUN", "NOUN", "VERB"),
        "kind": ("key", "matched", "matched", "key"),
        "draw": np.array([0, 1, 2, 0]),
        "loss_intact": INTACT,
        "losses": INTACT + RISE,
        "draws": 500,
        "seed": 0,
        **overrides,
    }
    fields.setdefault("neurons", tuple(NeuronSet.parse([f"L0N{c}"]) for c in range(len(fields["lesion"]))))
    return LesionResult(**fields)


def build_study(
    effects: Sequence[Sequence[float]], *, controls: int = 0, spread: float = 0.02, seed: int = 1, **overrides: Any
) -> LesionResult:
    """60 sentences with two words of each tag; `effects` is the expected matrix, noise has a standard deviation of 1.

    Matched sets raise every tag's loss by nothing but noise of their own: `spread` for each set and tag. What a word
    would suffer under any lesion (its sensitivity) is the same under all sets, as with real words.
    """
    rng = np.random.default_rng(seed)
    n_tags = len(effects)
    tags = tuple("ABCDEFGH"[:n_tags])
    word_tag = np.tile(np.arange(n_tags), 120)
    sets = np.repeat(np.arange(n_tags), controls + 1)
    draw = np.tile(np.arange(controls + 1), n_tags)
    table = np.where(draw[:, None] == 0, np.array(effects)[sets], rng.normal(size=(len(sets), n_tags)) * spread)
    rise = table[:, word_tag] + rng.normal(size=len(word_tag)) + 0.1 * rng.normal(size=(len(sets), len(word_tag)))
    intact = rng.uniform(1, 5, len(word_tag))
    fields = {
        "tags": tags,
        "word_tag": word_tag,
        "word_cluster": np.repeat(np.arange(60), 2 * n_tags),
        "word_type": np.arange(len(word_tag)) // 3,
        "lesion": tuple(tags[i] for i in sets),
        "kind": tuple("matched" if number else "key" for number in draw),
        "draw": draw,
        "loss_intact": intact,
        "losses": intact + rise,
        "draws": 2000,
    }
    return build_result(**{**fields, **overrides})


def diagonal(own: float, other: float, n_tags: int) -> list[list[float]]:
    """`own` on the diagonal, `other` around it, with small fixed differences between the others' sets."""
    ripple = 0.01 * np.cos(np.arange(n_tags * n_tags)).reshape(n_tags, n_tags)
    return (np.where(np.eye(n_tags, dtype=bool), own, other) + ripple).tolist()


def cell(frame: pd.DataFrame, lesion: str, draw: int, tag: str) -> pd.Series:
    found = frame[(frame["lesion"] == lesion) & (frame["draw"] == draw) & (frame["tag"] == tag)]
    assert len(found) == 1
    return found.iloc[0]
