"""Long work shows bars with a label and a unit where it is asked to, and none where it is not."""

from collections.abc import Callable
from typing import Any

import demo
import pytest

import posneurons as pn
from posneurons import generation
from posneurons.planted import Planted
from posneurons.split_halves import reliability


@pytest.fixture(scope="module")
def planted() -> Planted:
    return pn.markov_model(sentences=40, length=12, width=48)


def align(_: Planted, **how: Any) -> None:
    pn.align(pn.load_treebank().split("dev"), demo.model().tokenizer, n_ctx=256, **how)


def iterate(planted: Planted, **how: Any) -> None:
    pn.iterate(planted.model, planted.corpus, k=2, rounds=2, tags=["T2"], controls=2, draws=20, **how)


def write(planted: Planted, **how: Any) -> None:
    generation.generate(planted.model, [(0, 1)], sampling=generation.Sampling(2, 2), **how)


CALLS: dict[str, tuple[Callable[..., Any], str]] = {
    "alignment": (align, "sentence"),
    "reliability of correlation": (lambda p, **how: reliability(p.model, p.corpus, **how), "ranking"),
    "rounds of attribution": (iterate, "ranking"),
    "lesions of the rounds": (iterate, "tag"),
    "linear probes": (lambda p, **how: pn.fit_probe(p.model, p.corpus, dict(p.truth), **how), "probe"),
    "estimates": (
        lambda p, **how: pn.verify(
            p.model, p.corpus.split("test"), ["attribution"], listed=3, top=2, random=3, tags=["T2"], **how
        ),
        "ranking",
    ),
    "outliers": (lambda p, **how: pn.flags(p.model, p.corpus, **how), "layer"),
    "activations": (lambda p, **how: pn.score_method("correlation", p, **how), "token"),
    "writing": (write, "token"),
}


@pytest.mark.parametrize("label", CALLS)
def test_bars_move_where_they_are_asked_for(label: str, planted: Planted, capfd: pytest.CaptureFixture[str]) -> None:
    call, unit = CALLS[label]
    capfd.readouterr()
    call(planted)
    assert capfd.readouterr().err == ""
    call(planted, progress=True)
    shown = [part for part in capfd.readouterr().err.split("\r") if part.startswith(f"{label}:")]
    assert shown, label
    assert any(f"{unit}/s" in part or f"s/{unit}" in part for part in shown)
    assert any("100%" in part for part in shown)


def test_inner_bars_go_when_they_are_done(planted: Planted, capfd: pytest.CaptureFixture[str]) -> None:
    """Four rankings inside one bar: what is left is the outer one; the inner ones are never drawn full, but wiped."""
    capfd.readouterr()
    reliability(planted.model, planted.corpus, progress=True)
    shown = capfd.readouterr().err
    assert "reliability of correlation: 100%" in shown
    assert shown.count("activations:   0%") == 4
    assert "activations: 100%" not in shown
