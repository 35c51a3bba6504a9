"""The record of a ranking: its order, its best neurons, its table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posneurons.errors import NeuronError
from posneurons.neurons import NeuronSet
from posneurons.records import Ranking

TAGS = ("ADJ", "NOUN", "VERB", "X")  # X has no words


def build_ranking(scores: object, *, signed: bool = False) -> Ranking:
    table = np.array(scores, dtype=np.float64)
    count = np.full(len(table), 5)
    return Ranking(method="m", at="last", tags=TAGS[: len(table)], scores=table, count=count, signed=signed)


NAN = float("nan")


def test_order_is_by_score_then_layer_then_unit_and_without_the_undefined() -> None:
    scores = [[[0.5, NAN, -0.9], [0.9, -0.5, 0.5]]]
    # Absolute: 0.9 at (0,2) and (1,0), then 0.5 at (0,0), (1,1), (1,2).
    assert build_ranking(scores).order("ADJ").tolist() == [2, 3, 0, 4, 5]
    # Signed: 0.9 at (1,0), 0.5 at (0,0) and (1,2), -0.5 at (1,1), -0.9 at (0,2).
    assert build_ranking(scores, signed=True).order("ADJ").tolist() == [3, 0, 5, 4, 2]
    assert build_ranking([[[0.0, -0.0], [NAN, 0.0]]], signed=True).order("ADJ").tolist() == [0, 1, 3]


SCORE = st.one_of(st.integers(-2, 2).map(float), st.just(NAN))


@given(st.lists(SCORE, min_size=6, max_size=6), st.booleans())
def test_order_equals_sorting_by_hand(flat: list[float], signed: bool) -> None:
    defined = [(-(s if signed else abs(s)), number // 3, number % 3) for number, s in enumerate(flat) if s == s]
    expected = [layer * 3 + unit for _, layer, unit in sorted(defined)]
    found = build_ranking(np.reshape(flat, (1, 2, 3)), signed=signed)
    assert found.order("ADJ").tolist() == expected
    if expected:
        names = tuple(f"L{number // 3}N{number % 3}" for number in expected)
        assert all(found.top(k)["ADJ"].names == names[:k] for k in range(1, len(names) + 1))


@given(st.lists(SCORE, min_size=6, max_size=6), st.booleans(), st.integers(1, 8))
def test_the_first_are_the_beginning_of_the_order(flat: list[float], signed: bool, k: int) -> None:
    found = build_ranking(np.reshape(flat, (1, 2, 3)), signed=signed)
    assert found.first("ADJ", k).tolist() == found.order("ADJ")[:k].tolist()
    merit = found.merit("ADJ").ravel()
    np.testing.assert_array_equal(merit, flat if signed else np.abs(flat))
    ordered = merit[found.order("ADJ")]
    assert (np.diff(ordered) <= 0).all()


def test_top_of_the_model_and_of_each_layer() -> None:
    found = build_ranking([[[0.1, 0.8, -0.9], [0.2, 0.0, 0.3]], [[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]]])
    assert found.top(2) == {"ADJ": NeuronSet.parse(["L0N2", "L0N1"]), "NOUN": NeuronSet.parse(["L1N2", "L1N1"])}
    assert found.top(1, per="layer") == {
        "ADJ": NeuronSet.parse(["L0N2", "L1N2"]),
        "NOUN": NeuronSet.parse(["L0N2", "L1N2"]),
    }
    assert found.top(2, per="layer")["ADJ"].names == ("L0N2", "L0N1", "L1N2", "L1N0")


def test_top_leaves_out_tags_without_a_score() -> None:
    found = build_ranking([np.full((2, 3), NAN), np.ones((2, 3))])
    assert list(found.top(3)) == ["NOUN"]
    assert list(found.top(3, per="layer")) == ["NOUN"]
    assert found.to_frame()["tag"].unique().tolist() == ["NOUN"]


def test_requests_that_make_no_sense_are_errors() -> None:
    found = build_ranking([[[0.1, NAN, NAN], [0.2, 0.0, 0.3]]])
    with pytest.raises(NeuronError, match=r"^top: k=5, but for ADJ: 4 neurons have a score; choose a smaller k$"):
        found.top(5)
    sentence = "^top: k=2, but for ADJ: 1 neurons have a score in a layer; choose a smaller k$"
    with pytest.raises(NeuronError, match=sentence):
        found.top(2, per="layer")
    with pytest.raises(NeuronError, match=r"^top: k=0; expected at least 1 neuron$"):
        found.top(0)
    with pytest.raises(NeuronError, match=r"^ranking: no tag 'PUNCT'; it has ADJ$"):
        found.order("PUNCT")


def test_fewer_takes_what_there_is_but_never_more_than_the_model_has() -> None:
    found = build_ranking([[[0.1, NAN, NAN], [0.2, 0.0, 0.3]]])
    assert found.top(5, fewer=True)["ADJ"].names == ("L1N2", "L1N0", "L0N0", "L1N1")
    assert found.top(2, per="layer", fewer=True)["ADJ"].names == ("L0N0", "L1N2", "L1N0")
    with pytest.raises(NeuronError, match=r"^top: k=7, but the model has 6 neurons; choose a smaller k$"):
        found.top(7, fewer=True)
    with pytest.raises(NeuronError, match=r"^top: k=4, but a layer has 3 neurons; choose a smaller k$"):
        found.top(4, per="layer")


def test_order_is_by_the_distance_from_what_says_nothing() -> None:
    scores = np.array([[[0.5, 0.9, 0.2], [0.05, 0.6, NAN]]])
    found = Ranking(method="m", at="last", tags=("ADJ",), scores=scores, count=np.array([5]), neutral=0.5)
    assert found.order("ADJ").tolist() == [3, 1, 2, 4, 0]


def test_to_frame_by_hand() -> None:
    found = build_ranking([[[0.5, NAN, -0.9], [0.9, -0.5, 0.1]], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    frame = found.to_frame(2)
    assert frame.to_dict("list") == {
        "method": ["m"] * 4,
        "at": ["last"] * 4,
        "tag": ["ADJ", "ADJ", "NOUN", "NOUN"],
        "layer": [0, 1, 1, 1],
        "neuron": [2, 0, 2, 1],
        "score": [-0.9, 0.9, 6.0, 5.0],
        "rank": [1, 2, 1, 2],
    }
    assert len(found.to_frame()) == 5 + 6
