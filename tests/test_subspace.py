"""What sets write: spans and directions by hand, against scipy, and in a model whose directions are known."""

from functools import cache
from itertools import combinations
from typing import Any

import demo
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg import subspace_angles

import posneurons as pn
from posneurons.errors import NeuronError
from posneurons.neurons import NeuronSet
from posneurons.overlap import relabelled
from posneurons.passes import tag_moments
from posneurons.planted import Planted, markov_model
from posneurons.ranking import mean_difference
from posneurons.records import Ranking, TagMoments
from posneurons.subspace import Directions, directions, principal_angles, written


@cache
def markov() -> Planted:
    return markov_model(sentences=40, length=10)


@cache
def keys() -> dict[str, NeuronSet]:
    rng = np.random.default_rng(0)
    return {tag: NeuronSet.from_flat(rng.choice(6 * 768, 8, replace=False), 768) for tag in "ABC"}


def weight(model: Any, name: str) -> Float[ndarray, " d_model"]:
    """A neuron's row of W_out, one at a time."""
    layer, unit = map(int, name[1:].split("N"))
    return np.asarray(model.blocks[layer].mlp.W_out[unit].detach().double().numpy())


def test_written_is_the_output_weight_of_each_neuron_in_order() -> None:
    mixed = NeuronSet.parse(["L5N3", "L0N700", "L5N1", "L2N0"])
    np.testing.assert_array_equal(written(demo.model(), mixed), [weight(demo.model(), name) for name in mixed])
    assert written(demo.model(), NeuronSet.parse([])).shape == (0, 256)
    with pytest.raises(NeuronError, match=r"^neuron L6N0: the model has layers 0 to 5"):
        written(demo.model(), NeuronSet.parse(["L6N0"]))


def test_angles_against_scipy_and_a_loop() -> None:
    found = principal_angles(demo.model(), keys())
    assert [tuple(pair) for pair in found[["tag_a", "tag_b"]].to_numpy()] == list(combinations("ABC", 2))
    for _, row in found.iterrows():
        spans = [np.stack([weight(demo.model(), name) for name in keys()[row[tag]]], 1) for tag in ("tag_a", "tag_b")]
        angles = subspace_angles(*spans)
        assert row["smallest_angle"] == pytest.approx(np.degrees(angles).min())
        assert row["mean_angle"] == pytest.approx(np.degrees(angles).mean())
        assert row["overlap"] == pytest.approx((np.cos(angles) ** 2).mean())
        assert row["random_overlap"] == 8 / 256
    assert found[["control_overlap", "p_value", "q_value"]].isna().all(axis=None)


def test_a_set_has_no_angle_with_itself_and_a_shared_neuron_makes_one_zero() -> None:
    first = keys()["A"]
    shared = NeuronSet.parse([first.names[0], *keys()["B"].names])
    found = principal_angles(demo.model(), {"A": first, "same": first, "B": shared})
    np.testing.assert_allclose(found["smallest_angle"], 0, atol=1e-4)
    assert found["overlap"].tolist()[0] == 1
    assert found["mean_angle"].tolist()[0] == pytest.approx(0, abs=1e-4)
    assert found["shared"].tolist() == [8, 1, 1]
    assert found["dim_b"].tolist() == [8, 9, 9]
    np.testing.assert_allclose(found["random_overlap"] * 256, [8, 9, 9])
    assert found["overlap"].tolist()[1] > 1 / 8


def test_random_overlap_is_that_of_random_spans() -> None:
    rng = np.random.default_rng(0)
    overlaps = []
    for _ in range(300):
        a, b = (np.linalg.qr(rng.normal(size=(20, dim)))[0] for dim in (3, 5))
        overlaps.append((np.cos(subspace_angles(a, b)) ** 2).mean())
    assert np.mean(overlaps) == pytest.approx(5 / 20, abs=0.02)


def test_planted_spans_are_one_dimensional_and_orthogonal() -> None:
    """Every neuron of a tag writes the same direction, and each tag another dimension."""
    found = principal_angles(markov().model, markov().truth)
    assert set(found["dim_a"]) == set(found["dim_b"]) == {1}
    np.testing.assert_allclose(found[["smallest_angle", "mean_angle"]], 90)
    assert (found["overlap"] == 0).all()


def test_sets_that_write_nothing_have_no_span_and_no_direction() -> None:
    pair = {"copies": markov().copies["T2"], "T2": markov().truth["T2"], "none": NeuronSet.parse([])}
    found = principal_angles(markov().model, pair)
    assert found["dim_a"].tolist() == [0, 0, 1]
    assert found[["smallest_angle", "mean_angle", "overlap"]].isna().all(axis=None)
    assert np.isnan(directions(markov().model, pair).vectors[[0, 2]]).all()


def test_a_tag_with_two_sets_of_neurons_that_write_alike_beats_its_controls() -> None:
    names = markov().truth["T2"].names
    pair = {"one": NeuronSet.parse(names[:2]), "other": NeuronSet.parse(names[2:])}
    rng = np.random.default_rng(0)
    planted = NeuronSet.parse([]).union(*markov().truth.values(), *markov().decoys.values())
    controls = relabelled(pair, 19, rng, n_layers=3, n_units=96, exclude=planted)
    row = principal_angles(markov().model, pair, controls).iloc[0]
    assert row["overlap"] == 1
    assert row["p_value"] == pytest.approx(1 / 20)
    assert row["control_overlap"] < 0.5
    own = directions(markov().model, pair)
    others = [directions(markov().model, each) for each in controls]
    row = own.to_frame(others).iloc[0]
    assert row["cosine"] == pytest.approx(1)
    assert row["p_value"] == row["q_value"] == pytest.approx(1 / 20)


def test_controls_that_are_the_sets_themselves_are_as_close() -> None:
    found = principal_angles(demo.model(), keys(), [keys()] * 3)
    np.testing.assert_allclose(found["control_overlap"], found["overlap"])
    np.testing.assert_allclose(found["p_value"], 1)
    own = directions(demo.model(), keys())
    table = own.to_frame([own] * 3)
    np.testing.assert_allclose(table["control_cosine"], table["cosine"].abs())
    np.testing.assert_allclose(table["p_value"], 1)


def test_controls_must_have_the_same_tags() -> None:
    with pytest.raises(NeuronError, match=r"^controls: no set for C; expected one for each of A, B, C$"):
        principal_angles(demo.model(), keys(), [{tag: keys()[tag] for tag in "AB"}])
    own = directions(demo.model(), keys())
    with pytest.raises(NeuronError, match=r"^controls: tags B; expected A, B, C$"):
        own.to_frame([Directions(("B",), own.vectors[1:2])])


def test_planted_directions_are_the_dimensions_of_the_next_tag() -> None:
    found = directions(markov().model, markov().truth)
    np.testing.assert_allclose(found.cosines(), np.eye(6), atol=1e-7)
    moments = tag_moments(markov().model, markov().corpus)["predict"]
    signed = directions(markov().model, markov().truth, moments=moments)
    # Before a word of its tag a tag's neurons are higher than before others, so the sign is kept.
    np.testing.assert_allclose((found.vectors * signed.vectors).sum(1), 1, atol=1e-7)


def ranking_and_moments() -> tuple[Ranking, TagMoments]:
    rng = np.random.default_rng(1)
    moments = TagMoments(
        ("A", "B", "C"), "predict", np.array([5, 3, 2]), rng.normal(size=(3, 6, 768)), np.ones((3, 6, 768))
    )
    scores = rng.normal(size=(3, 6, 768)) + 0.5
    return Ranking("auroc", "predict", ("A", "B", "C"), scores, moments.count, neutral=0.5), moments


@pytest.mark.parametrize("with_ranking", [True, False])
@pytest.mark.parametrize("with_moments", [True, False])
def test_weights_of_a_direction_against_a_loop(with_ranking: bool, with_moments: bool) -> None:
    ranking, moments = ranking_and_moments()
    rises = mean_difference(moments)
    found = directions(
        demo.model(), keys(), ranking=ranking if with_ranking else None, moments=moments if with_moments else None
    )
    for number, neurons in enumerate(keys().values()):
        total = np.zeros(256)
        for name in neurons:
            layer, unit = map(int, name[1:].split("N"))
            score, rise = ranking.scores[number, layer, unit] - 0.5, rises[number, layer, unit]
            factor = {
                (False, False): 1.0,
                (True, False): score,
                (False, True): rise,
                (True, True): abs(score) * np.sign(rise),
            }[with_ranking, with_moments]
            total += factor * weight(demo.model(), name)
        np.testing.assert_allclose(found.vectors[number], total / np.linalg.norm(total), atol=1e-12)


@given(st.permutations(range(8)), st.permutations("ABC"))
@settings(deadline=None, max_examples=10)
def test_orders_do_not_matter(places: list[int], tags: list[str]) -> None:
    ranking, _ = ranking_and_moments()
    turned = {tag: NeuronSet.parse([keys()[tag].names[place] for place in places]) for tag in tags}
    mine, theirs = (directions(demo.model(), each, ranking=ranking).cosines() for each in (keys(), turned))
    np.testing.assert_allclose(theirs.loc[list("ABC"), list("ABC")], mine, atol=1e-12)
    np.testing.assert_allclose(mine, mine.T)
    angles, other = (principal_angles(demo.model(), each) for each in (keys(), turned))
    pairs = {frozenset(row[:2]): row[7] for row in other.itertuples(index=False)}
    for row in angles.itertuples(index=False):
        assert row[7] == pytest.approx(pairs[frozenset(row[:2])])
        assert 0 <= row.smallest_angle <= row.mean_angle <= 90


def test_random_cosine_is_that_of_random_directions() -> None:
    drawn = np.random.default_rng(0).normal(size=(60, 256))
    found = Directions(tuple(map(str, range(60))), drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).to_frame()
    assert found["cosine"].abs().mean() == pytest.approx(found["random_cosine"][0], rel=0.05)
    assert found[["control_cosine", "p_value", "q_value"]].isna().all(axis=None)


def test_a_tag_without_scores_is_an_error() -> None:
    ranking, moments = ranking_and_moments()
    other = {"NOUN": keys()["A"]}
    sentence = "^directions: no scores or moments for 'NOUN'; expected one of A, B, C$"
    with pytest.raises(NeuronError, match=sentence):
        directions(demo.model(), other, ranking=ranking)
    with pytest.raises(NeuronError, match=sentence):
        directions(demo.model(), other, moments=moments)


def test_the_bridge_writes_the_same() -> None:
    bridge = pn.load_model(backend="bridge", device="cpu")
    hooked = written(demo.model(), keys()["A"])
    np.testing.assert_allclose(written(bridge, keys()["A"]), hooked, rtol=0.01, atol=1e-3)
