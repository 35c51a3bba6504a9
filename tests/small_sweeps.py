"""Small sweeps of two tags of the embedded model, made once."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import demo
import numpy as np
import pytest

import posneurons as pn
from posneurons import tallies
from posneurons.lesion_study import Workbench
from posneurons.records import Corpus
from posneurons.sweep_plan import Best, Plan, best_of

TWO = ("NOUN", "VERB")
PLAN = Plan(ks=(1, 3, 9), top=4, ablations=("zero",), controls=3)


@cache
def few() -> Corpus:
    return demo.small().select(np.arange(demo.small().n_rows) % 3 == 0)


@cache
def best(tags: tuple[str, ...] = TWO) -> dict[str, Best]:
    return best_of(pn.rank(demo.model(), few()), tags, replace(PLAN, ks=(12,)))


@cache
def bench() -> Workbench:
    return Workbench(demo.model(), few())


def counted(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """How many conditions each call of `tally` has; the call after `stop_after` is interrupted."""
    calls: list[int] = []
    real: Callable[..., Any] = tallies.tally

    def count(model: Any, corpus: Any, cluster: Any, conditions: Any, *rest: Any, **how: Any) -> Any:
        if stop_after is not None and len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(len(conditions))
        return real(model, corpus, cluster, conditions, *rest, **how)

    monkeypatch.setattr(tallies, "tally", count)
    return calls
