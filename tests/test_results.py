"""Tables of probes, from a few words whose numbers are known."""

import json

import numpy as np
import pytest

from posneurons.neurons import NeuronSet
from posneurons.results import ProbeResult, Scores


def build_scores(accuracy: float, confusion: list[list[int]]) -> Scores:
    return Scores(accuracy, accuracy - 0.1, {"A": accuracy, "B": accuracy - 0.2}, np.array(confusion))


def build_probe() -> ProbeResult:
    return ProbeResult(
        method="correlation",
        at="last",
        neurons=NeuronSet.parse(["L0N1", "L2N3"]),
        classes=("A", "B"),
        train_words=70,
        test_words=20,
        scores=build_scores(0.9, [[9, 1], [1, 9]]),
        baselines={
            "majority": build_scores(0.5, [[10, 0], [10, 0]]),
            "control_task": build_scores(0.65, [[6, 4], [3, 7]]),
        },
    )


def test_probe_as_json_values() -> None:
    found = json.loads(json.dumps(build_probe().to_dict()))
    baselines = found.pop("baselines")
    assert found.pop("selectivity") == pytest.approx(0.25)
    assert found.pop("macro_f1") == pytest.approx(0.8)
    assert found == {
        "method": "correlation",
        "at": "last",
        "probe": "linear",
        "n_neurons": 2,
        "classes": ["A", "B"],
        "train_words": 70,
        "test_words": 20,
        "accuracy": 0.9,
        "per_tag_f1": {"A": 0.9, "B": 0.7},
        "confusion": [[9, 1], [1, 9]],
    }
    assert list(baselines) == ["majority", "control_task"]
    assert baselines["majority"]["accuracy"] == 0.5
    assert baselines["majority"]["confusion"] == [[10, 0], [10, 0]]


def test_probe_as_a_table_beside_its_baselines() -> None:
    frame = build_probe().to_frame()
    assert frame.index.tolist() == ["probe", "majority", "control_task"]
    assert frame.columns.tolist() == ["accuracy", "macro_f1", "A", "B"]
    assert frame["accuracy"].tolist() == [0.9, 0.5, 0.65]
    np.testing.assert_allclose(frame.loc["control_task"], [0.65, 0.55, 0.65, 0.45])
    assert build_probe().selectivity == pytest.approx(0.25)
