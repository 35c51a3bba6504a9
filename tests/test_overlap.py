"""Shared neurons, their chance level, layers, and over how many tags a neuron is spread."""

from itertools import combinations

import demo
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from posneurons.errors import NeuronError
from posneurons.neurons import NeuronSet
from posneurons.overlap import layer_profiles, overlaps, participation, participation_ratio, relabelled
from posneurons.planted import markov_model
from posneurons.records import Ranking

N_LAYERS, N_UNITS = 3, 8
NEURON = st.tuples(st.integers(0, N_LAYERS - 1), st.integers(0, N_UNITS - 1))
SETS = st.lists(NEURON, unique=True, max_size=12).map(NeuronSet.from_pairs)
KEYS = st.fixed_dictionaries({"A": SETS, "B": SETS, "C": SETS})
NONE = NeuronSet.parse([])


def test_overlaps_by_hand() -> None:
    keys = {"A": NeuronSet.parse(["L0N0", "L0N1", "L1N0"]), "B": NeuronSet.parse(["L0N1", "L1N0", "L1N1", "L1N2"])}
    # In layer 0, 2 and 1 of 4 units: one shared with probability 1/2. In layer 1, 1 and 3 of 4: with 3/4.
    # So 0.5 + 0.75 are expected, and both are shared with probability 3/8.
    row = overlaps(keys, 2, 4).iloc[0]
    assert row[["tag_a", "tag_b", "size_a", "size_b", "shared"]].tolist() == ["A", "B", 3, 4, 2]
    assert row["jaccard"] == pytest.approx(2 / 5)
    assert row["overlap_coefficient"] == pytest.approx(2 / 3)
    assert row["expected"] == pytest.approx(1.25)
    assert row["p_value"] == pytest.approx(3 / 8)
    # Over the model, 3 and 4 of 8: (C(4,2) C(4,1) + C(4,3)) / C(8,3) = 28/56.
    row = overlaps(keys, 2, 4, per="model").iloc[0]
    assert row["expected"] == pytest.approx(1.5)
    assert row["p_value"] == pytest.approx(0.5)


@given(SETS, SETS)
@settings(deadline=None, max_examples=30)
def test_over_the_model_p_is_that_of_fisher(a: NeuronSet, b: NeuronSet) -> None:
    row = overlaps({"A": a, "B": b}, N_LAYERS, N_UNITS, per="model").iloc[0]
    shared = len(set(a) & set(b))
    if len(a) and len(b):
        rest = N_LAYERS * N_UNITS - len(a) - len(b) + shared
        table = [[shared, len(a) - shared], [len(b) - shared, rest]]
        assert row["p_value"] == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue)
    else:
        assert np.isnan(row[["expected", "p_value", "q_value", "overlap_coefficient"]].astype(float)).all()


def test_by_layer_p_is_the_rate_among_random_sets() -> None:
    keys = {"A": NeuronSet.from_pairs([(la, u) for la in range(3) for u in range(2 + la)])}
    keys["B"] = NeuronSet.from_pairs([(la, u + 1) for la in range(3) for u in range(4 - la)])
    row = overlaps(keys, N_LAYERS, N_UNITS).iloc[0]
    drawn = keys["B"].matched_random(4000, np.random.default_rng(0), n_layers=3, n_units=8, exclude=NONE)
    shared = np.array([len(set(keys["A"]) & set(each)) for each in drawn])
    assert row["expected"] == pytest.approx(shared.mean(), abs=0.1)
    assert row["p_value"] == pytest.approx((shared >= row["shared"]).mean(), abs=0.03)


@given(KEYS)
@settings(deadline=None, max_examples=30)
def test_overlaps_do_not_depend_on_the_order_of_tags_and_neurons(keys: dict[str, NeuronSet]) -> None:
    turned = {tag: NeuronSet.parse(keys[tag].names[::-1]) for tag in reversed(keys)}
    mine, theirs = (overlaps(each, N_LAYERS, N_UNITS) for each in (keys, turned))
    names = ["shared", "jaccard", "overlap_coefficient", "expected", "p_value", "q_value"]
    both = mine.merge(theirs, left_on=["tag_a", "tag_b"], right_on=["tag_b", "tag_a"], suffixes=("", "_turned"))
    assert len(both) == 3
    for name in names:
        np.testing.assert_allclose(both[name].astype(float), both[f"{name}_turned"].astype(float), atol=1e-12)
    known = mine.dropna()
    assert known["p_value"].between(0, 1).all()
    assert (known["q_value"] >= known["p_value"] - 1e-12).all()
    assert (known["jaccard"] <= known["overlap_coefficient"] + 1e-12).all()


def test_q_values_are_corrected_over_all_pairs() -> None:
    same = NeuronSet.from_pairs([(0, u) for u in range(4)])
    found = overlaps({"A": same, "B": same, "C": NeuronSet.parse(["L2N0"])}, N_LAYERS, N_UNITS)
    # A and B: 1 / C(8, 4); the others have no layer in common.
    np.testing.assert_allclose(found["p_value"], [1 / 70, 1, 1])
    np.testing.assert_allclose(found["q_value"], [3 / 70, 1, 1])


def test_one_set_has_no_pair() -> None:
    assert len(overlaps({"A": NeuronSet.parse(["L0N0"])}, N_LAYERS, N_UNITS)) == 0
    assert "q_value" in overlaps({}, N_LAYERS, N_UNITS).columns


def test_requests_that_make_no_sense() -> None:
    keys = {"A": NeuronSet.parse(["L0N0"]), "B": NeuronSet.parse(["L5N0"])}
    with pytest.raises(NeuronError, match=r"^neuron L5N0: the model has layers 0 to 2"):
        overlaps(keys, N_LAYERS, N_UNITS)
    with pytest.raises(NeuronError, match=r"^overlaps: per='tag'; expected one of model, layer$"):
        overlaps.__wrapped__(keys, N_LAYERS, N_UNITS, per="tag")  # a user's Python has no type checks around it
    sentence = r"^neuron L5N0 of B: the model has layers 0 to 2; were these neurons found in another model\?$"
    with pytest.raises(NeuronError, match=sentence):
        layer_profiles(keys, N_LAYERS)


def test_layer_profiles_by_hand() -> None:
    found = layer_profiles({"A": NeuronSet.parse(["L2N9", "L0N3", "L2N1"]), "B": NONE}, 3)
    assert found.loc["A"].tolist() == [1, 0, 2]
    assert found.loc["B"].tolist() == [0, 0, 0]
    assert found.index.name == "tag"
    assert found.columns.name == "layer"
    assert layer_profiles({}, 2).shape == (0, 2)


def test_participation_ratio_by_hand() -> None:
    # (3 + 1)^2 / (9 + 1) = 1.6, whatever the sign; equal ones count all; nothing at all is undefined.
    values = np.array([[3.0, 2, 0, np.nan], [-1.0, 2, 0, np.nan], [np.nan, 2, 0, np.nan]])
    np.testing.assert_allclose(participation_ratio(values), [1.6, 3, np.nan, np.nan])


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=6), st.floats(0.1, 50))
def test_participation_ratio_is_bounded_and_free_of_scale(values: list[float], factor: float) -> None:
    column = np.round(np.array(values), 3)
    found = float(participation_ratio(column))
    if not column.any():
        assert np.isnan(found)
        return
    assert 1 - 1e-9 <= found <= np.count_nonzero(column) + 1e-9
    assert float(participation_ratio(factor * column[::-1])) == pytest.approx(found)


def test_participation_ratio_of_independent_normal_values() -> None:
    values = np.random.default_rng(0).normal(size=(400, 20))
    assert participation_ratio(values).mean() == pytest.approx(400 * 2 / np.pi, rel=0.02)


def test_participation_by_hand() -> None:
    keys = {"A": NeuronSet.parse(["L1N1", "L0N1"]), "B": NeuronSet.parse(["L1N1", "L0N0"]), "C": NONE}
    scores = np.full((2, 2, 2), 0.5)
    scores[:, 1, 1] = [0.9, 0.6]  # distances of 0.4 and 0.1 from what says nothing: 0.25 / 0.17
    ranking = Ranking("auroc", "predict", ("A", "B"), scores, np.array([1, 1]), neutral=0.5)
    found = participation(keys, ranking)
    assert found["neuron"].tolist() == ["L1N1", "L0N0", "L0N1"]
    assert found["n_tags"].tolist() == [2, 1, 1]
    assert found["tags"].tolist() == ["A B", "B", "A"]
    assert found[["layer", "unit"]].to_numpy().tolist() == [[1, 1], [0, 0], [0, 1]]
    np.testing.assert_allclose(found["participation_ratio"], [0.25 / 0.17, np.nan, np.nan])
    assert participation(keys)["participation_ratio"].isna().all()
    assert len(participation({})) == 0
    with pytest.raises(NeuronError, match=r"^neuron L3N0: the model has layers 0 to 1"):
        participation({"A": NeuronSet.parse(["L3N0"])}, ranking)


@given(KEYS)
@settings(deadline=None)
def test_participation_counts_every_membership(keys: dict[str, NeuronSet]) -> None:
    found = participation(keys)
    assert found["n_tags"].sum() == sum(map(len, keys.values()))
    for neuron, tags in zip(found["neuron"], found["tags"], strict=True):
        assert tags.split() == [tag for tag in keys if neuron in set(keys[tag])]


@given(KEYS, st.integers(0, 2**32))
@settings(deadline=None, max_examples=40)
def test_relabelled_sets_share_as_much_in_the_same_layers(keys: dict[str, NeuronSet], seed: int) -> None:
    def draw() -> list[dict[str, NeuronSet]]:
        return relabelled(keys, 2, np.random.default_rng(seed), n_layers=N_LAYERS, n_units=30)

    drawn = draw()
    assert drawn == draw()
    everyone = NONE.union(*keys.values())
    for family in drawn:
        assert list(family) == list(keys)
        for tag, neurons in family.items():
            assert neurons.layers.tolist() == keys[tag].layers.tolist()
            assert not set(neurons) & set(everyone)
        for a, b in combinations(keys, 2):
            assert len(set(family[a]) & set(family[b])) == len(set(keys[a]) & set(keys[b]))


def test_relabelled_neurons_are_any_of_their_layer_in_any_order() -> None:
    keys = {"A": NeuronSet.parse(["L0N0", "L0N1"])}
    drawn = relabelled(keys, 400, np.random.default_rng(0), n_layers=1, n_units=5)
    counts: dict[tuple[str, ...], int] = {}
    for family in drawn:
        counts[family["A"].names] = counts.get(family["A"].names, 0) + 1
    assert len(counts) == 6  # of units 2, 3 and 4, ordered
    assert stats.chisquare(list(counts.values())).pvalue > 0.01
    anyone = relabelled(keys, 50, np.random.default_rng(0), n_layers=1, n_units=2, exclude=NONE)
    assert {family["A"].names for family in anyone} == {("L0N0", "L0N1"), ("L0N1", "L0N0")}
    with pytest.raises(NeuronError, match=r"^matched random sets: layer 0 has 1 neurons outside all key sets, but 2"):
        relabelled(keys, 1, np.random.default_rng(0), n_layers=1, n_units=3)


def test_planted_sets_share_nothing() -> None:
    planted = markov_model(sentences=8, length=6)
    found = overlaps(planted.truth, 3, 96)
    assert (found["shared"] == 0).all()
    np.testing.assert_allclose(found["p_value"], 1)
    assert (participation(planted.truth)["n_tags"] == 1).all()


def test_halves_of_one_ranking_share_more_than_chance() -> None:
    """Sets of the same tag from two halves of a corpus share many neurons, and chance says so."""
    import posneurons as pn

    first, second = (pn.rank(demo.model(), half).top(50)["NOUN"] for half in demo.corpus().halves(0))
    row = overlaps({"first": first, "second": second}, 6, 768).iloc[0]
    assert row["shared"] > 4 * row["expected"]
    assert row["p_value"] < 1e-6
