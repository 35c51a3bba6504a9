"""Sets of neurons: names, order, overlap, and the random sets that match them."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posneurons.errors import NeuronError
from posneurons.neurons import NeuronSet

N_LAYERS, N_UNITS = 4, 50
NEURON = st.tuples(st.integers(0, N_LAYERS - 1), st.integers(0, N_UNITS - 1))
SETS = st.lists(NEURON, unique=True, max_size=30).map(NeuronSet.from_pairs)


def test_names_say_layer_and_unit_in_the_order_given() -> None:
    found = NeuronSet.parse(["L12N3456", "L0N3", "L12N7"])
    assert found.names == ("L12N3456", "L0N3", "L12N7") == tuple(found)
    assert found.layers.tolist() == [12, 0, 12]
    assert found.units.tolist() == [3456, 3, 7]
    assert len(found) == 3
    assert repr(found) == "NeuronSet(3: L12N3456, L0N3, L12N7)"
    assert repr(NeuronSet.parse(f"L0N{u}" for u in range(7))).endswith("L0N5, ...)")


def test_sets_are_equal_where_their_names_are_in_the_same_order() -> None:
    there, back = NeuronSet.parse(["L0N1", "L1N0"]), NeuronSet.parse(["L1N0", "L0N1"])
    assert there == NeuronSet.from_pairs([(0, 1), (1, 0)])
    assert hash(there) == hash(NeuronSet.from_pairs([(0, 1), (1, 0)]))
    assert there != back
    assert there != there.names


@pytest.mark.parametrize(
    "name",
    [
        "",
        "12N3",
        "L1",
        "l1n2",
        "L1N2 ",
        "L-1N2",
        "L1.0N2",
        "L1N2N3",
        "L1N²",
        "L٣N1",
        f"L1N{10**18}",
        f"L{10**19}N1",
        None,
        7,
    ],
)
def test_what_is_no_name_is_an_error_that_shows_one(name: object) -> None:
    expected = f"neuron {name!r}: expected a name such as 'L12N3456' (layer 12, unit 3456)"
    with pytest.raises(NeuronError, match=f"^{re.escape(expected)}$"):
        NeuronSet.parse(iter(["L0N0", name]))  # type: ignore[list-item]


def test_a_neuron_given_twice_is_an_error_that_names_it() -> None:
    sentence = "^a set of neurons: L1N2 is in it twice; name each neuron once$"
    with pytest.raises(NeuronError, match=sentence):
        NeuronSet.parse(["L1N2", "L0N2", "L01N02"])
    with pytest.raises(NeuronError, match=sentence):
        NeuronSet.from_flat(np.array([12, 2, 12]), 10)


@given(SETS)
def test_names_and_flat_numbers_lead_back_to_the_set(neurons: NeuronSet) -> None:
    assert NeuronSet.parse(neurons.names) == neurons
    flat = neurons.flat(N_UNITS)
    assert NeuronSet.from_flat(flat, N_UNITS) == neurons
    assert flat.tolist() == [int(la) * N_UNITS + int(u) for la, u in zip(neurons.layers, neurons.units, strict=True)]


def test_flat_by_hand() -> None:
    assert NeuronSet.from_flat(np.array([25, 3, 10]), 10).names == ("L2N5", "L0N3", "L1N0")


@given(SETS, SETS, SETS)
def test_union_holds_each_once_in_order_of_first_appearance(a: NeuronSet, b: NeuronSet, c: NeuronSet) -> None:
    expected = []
    for name in (*a, *b, *c):
        if name not in expected:
            expected.append(name)
    assert list(a.union(b, c)) == expected


@given(SETS, SETS)
def test_jaccard_is_the_shared_part(a: NeuronSet, b: NeuronSet) -> None:
    either, both = set(a) | set(b), set(a) & set(b)
    if either:
        assert a.jaccard(b) == b.jaccard(a) == len(both) / len(either)
    else:
        assert np.isnan(a.jaccard(b))


def test_jaccard_by_hand() -> None:
    # {L0N1, L0N2, L1N1} and {L0N2, L1N1, L1N3, L2N1}: two shared, five in all.
    first, second = NeuronSet.parse(["L0N1", "L0N2", "L1N1"]), NeuronSet.parse(["L2N1", "L1N3", "L1N1", "L0N2"])
    assert first.jaccard(second) == pytest.approx(0.4)


def test_layers() -> None:
    found = NeuronSet.parse(["L2N9", "L0N3", "L2N1"])
    assert {layer: units.tolist() for layer, units in found.by_layer().items()} == {0: [3], 2: [9, 1]}
    assert list(found.by_layer()) == [0, 2]
    assert found.layer_profile(4).tolist() == [1, 0, 2, 0]
    assert NeuronSet.parse([]).layer_profile(2).tolist() == [0, 0]
    assert NeuronSet.parse([]).by_layer() == {}


@pytest.mark.parametrize("pair", [(3, 0), (0, 10), (-1, 0), (0, -1)])
def test_check_names_a_neuron_that_the_model_does_not_have(pair: tuple[int, int]) -> None:
    sentence = (
        f"^neuron L{pair[0]}N{pair[1]}: the model has layers 0 to 2 and units 0 to 9; "
        r"were these neurons found in another model\?$"
    )
    with pytest.raises(NeuronError, match=sentence):
        NeuronSet.from_pairs([(0, 0), (2, 9), pair]).check(3, 10)
    NeuronSet.from_pairs([(0, 0), (2, 9)]).check(3, 10)


@given(SETS, SETS, st.integers(0, 2**32))
def test_random_sets_match_the_layers_and_leave_the_excluded_out(mine: NeuronSet, others: NeuronSet, seed: int) -> None:
    everyone = mine.union(others)

    def draw(seed: int) -> list[NeuronSet]:
        rng = np.random.default_rng(seed)
        return mine.matched_random(5, rng, n_layers=N_LAYERS, n_units=N_UNITS, exclude=everyone)

    try:
        drawn = draw(seed)
    except NeuronError:
        rest = N_UNITS - everyone.layer_profile(N_LAYERS)
        assert (rest < mine.layer_profile(N_LAYERS)).any()
        return
    assert len(drawn) == 5
    for each in drawn:
        assert each.layer_profile(N_LAYERS).tolist() == mine.layer_profile(N_LAYERS).tolist()
        assert not set(each) & set(everyone)
        assert len(set(each)) == len(mine)
        each.check(N_LAYERS, N_UNITS)
    assert drawn == draw(seed)


def test_random_sets_differ_by_draw_and_seed_and_reach_every_neuron_left() -> None:
    mine = NeuronSet.parse(["L0N0", "L0N1", "L2N5"])

    def draw(seed: int) -> list[NeuronSet]:
        return mine.matched_random(200, np.random.default_rng(seed), n_layers=3, n_units=8)

    drawn = draw(0)
    assert drawn != draw(1)
    assert len(set(drawn)) > 50
    # Without `exclude` the set itself is left out: of 8 units, 6 are left in layer 0 and 7 in layer 2.
    assert set().union(*drawn) == {f"L0N{u}" for u in range(2, 8)} | {f"L2N{u}" for u in range(8) if u != 5}


def test_too_small_a_pool_says_how_many_are_left() -> None:
    mine = NeuronSet.parse(["L0N0", "L1N0", "L1N1", "L1N2"])
    sentence = (
        "^matched random sets: layer 1 has 2 neurons outside all key sets, but 3 are needed; "
        "choose a smaller k, fewer tags or fewer flags$"
    )
    with pytest.raises(NeuronError, match=sentence):
        mine.matched_random(1, np.random.default_rng(0), n_layers=2, n_units=5)
    assert mine.matched_random(0, np.random.default_rng(0), n_layers=2, n_units=6) == []


def test_random_sets_for_another_model_are_refused() -> None:
    with pytest.raises(NeuronError, match="neuron L7N0: the model has layers 0 to 1"):
        NeuronSet.parse(["L7N0"]).matched_random(1, np.random.default_rng(0), n_layers=2, n_units=5)


def test_random_sets_of_an_empty_set_are_empty() -> None:
    drawn = NeuronSet.parse([]).matched_random(3, np.random.default_rng(0), n_layers=2, n_units=5)
    assert [len(each) for each in drawn] == [0, 0, 0]


SIZES = np.random.default_rng(5).lognormal(size=(3, 40))


def bin_by_hand(layer: int, unit: int, bins: int) -> int:
    """Units of a layer in `bins` equal parts, smallest first: 40 units and no ties, so that ranks say it."""
    return int((SIZES[layer] < SIZES[layer, unit]).sum() * bins // SIZES.shape[1])


@given(SETS, st.integers(0, 2**32))
def test_every_place_holds_a_partner_from_its_neurons_layer(mine: NeuronSet, seed: int) -> None:
    drawn = mine.matched_random(3, np.random.default_rng(seed), n_layers=N_LAYERS, n_units=2 * N_UNITS)
    for each in drawn:
        assert each.layers.tolist() == mine.layers.tolist()


@given(st.permutations(range(6)), st.integers(0, 2**32), st.sampled_from([1, 2, 4, 5, 8, 10]))
def test_every_place_holds_a_partner_of_its_neurons_size(order: list[int], seed: int, bins: int) -> None:
    # At most two in a layer, and at least three others in each of at most ten bins of 40: no bin runs dry.
    mine = NeuronSet.from_pairs([[(0, 3), (0, 4), (1, 3), (1, 30), (2, 0), (2, 39)][i] for i in order])
    drawn = mine.matched_random(5, np.random.default_rng(seed), n_layers=3, n_units=40, size=SIZES, bins=bins)
    for each in drawn:
        assert each.layers.tolist() == mine.layers.tolist()
        assert not set(each) & set(mine)
        for layer, unit, partner in zip(mine.layers, mine.units, each.units, strict=True):
            assert bin_by_hand(layer, unit, bins) == bin_by_hand(layer, partner, bins)


def test_every_neuron_of_a_bin_is_drawn_equally_often_at_every_place() -> None:
    # Sizes 0..9 in two bins: units 0-4 and 5-9. Units 0 and 1 are the set, so 2, 3 and 4 are left, two places for them.
    size = np.arange(10.0)[None]
    mine = NeuronSet.parse(["L0N0", "L0N1"])
    drawn = mine.matched_random(3000, np.random.default_rng(0), n_layers=1, n_units=10, size=size, bins=2)
    for place in range(2):
        counts = np.bincount([each.units[place] for each in drawn], minlength=10)
        assert counts[[2, 3, 4]].sum() == 3000
        assert abs(counts[[2, 3, 4]] - 1000).max() < 120  # five standard deviations of a binomial of 1/3


def test_a_bin_that_runs_dry_borrows_the_nearest_of_the_layer() -> None:
    # The median 5 parts units 0-2 from 3-7. With 4 taken, only unit 1 is left beside the set in its bin: the first
    # place gets it, the second the nearest to 2.0 that is left (unit 3 at 5.0), in every draw.
    size = np.array([[1.0, 1.5, 2.0, 5.0, 5.0, 7.0, 8.0, 9.0]])
    mine = NeuronSet.parse(["L0N0", "L0N2"])
    taken = NeuronSet.parse(["L0N4", *mine])
    drawn = mine.matched_random(4, np.random.default_rng(0), n_layers=1, n_units=8, exclude=taken, size=size, bins=2)
    assert [each.names for each in drawn] == [("L0N1", "L0N3")] * 4
    # The quartiles 1.875, 5.25 and 7.25 leave nobody else in the bin of 7 and 6, and unit 3 in that of 5, who gets it.
    # Then 7 takes the nearest of the rest (unit 4 at 5.5), and 6 the next (unit 2 at 7).
    size = np.array([[9.0, 8.0, 7.0, 5.0, 5.5, 2.0, 1.5, 1.0]])
    small = NeuronSet.parse(["L0N7", "L0N6", "L0N5"])
    for each in small.matched_random(4, np.random.default_rng(1), n_layers=1, n_units=8, size=size, bins=4):
        assert each.names == ("L0N4", "L0N2", "L0N3")


def test_neurons_of_one_size_share_a_bin() -> None:
    # Half the layer is dead (size 0): a dead neuron is matched with any dead one, not with those of its rank only.
    size = np.concatenate([np.zeros(10), np.arange(1.0, 11)])[None]
    mine = NeuronSet.parse(["L0N0"])
    drawn = mine.matched_random(300, np.random.default_rng(0), n_layers=1, n_units=20, size=size, bins=4)
    assert {int(each.units[0]) for each in drawn} == set(range(1, 10))


def test_the_first_of_a_draw_match_the_first_of_the_set() -> None:
    mine = NeuronSet.parse(["L2N9", "L0N3", "L2N1", "L1N0", "L0N7"])
    for each in mine.matched_random(10, np.random.default_rng(0), n_layers=3, n_units=40, size=SIZES, bins=4):
        for k in range(len(mine) + 1):
            first = NeuronSet(mine.layers[:k], mine.units[:k])
            nested = NeuronSet(each.layers[:k], each.units[:k])
            assert nested.layer_profile(3).tolist() == first.layer_profile(3).tolist()


def test_only_an_empty_set_of_excluded_neurons_lets_a_set_meet_itself() -> None:
    mine = NeuronSet.from_pairs([(0, unit) for unit in range(4)])
    nothing = NeuronSet.from_pairs([])
    drawn = mine.matched_random(5, np.random.default_rng(0), n_layers=1, n_units=4, exclude=nothing)
    assert [set(each) for each in drawn] == [set(mine)] * 5
    with pytest.raises(NeuronError, match="layer 0 has 0 neurons outside"):
        mine.matched_random(1, np.random.default_rng(0), n_layers=1, n_units=4)


def test_sizes_that_do_not_fit_are_errors() -> None:
    mine, rng = NeuronSet.parse(["L0N0"]), np.random.default_rng(0)
    sentence = (
        "^matched random sets: sizes of 3 layers of 40 neurons were given, but the model has 3 of 50; "
        "measure them on this model$"
    )
    with pytest.raises(NeuronError, match=sentence):
        mine.matched_random(1, rng, n_layers=3, n_units=50, size=SIZES)
    sentence = (
        "^matched random sets: 2 sizes are not finite; expected a number for every neuron; load the model in float32$"
    )
    broken = SIZES.copy()
    broken[0, :2] = np.nan, np.inf
    with pytest.raises(NeuronError, match=sentence):
        mine.matched_random(1, rng, n_layers=3, n_units=40, size=broken)
    with pytest.raises(NeuronError, match=r"^matched random sets: bins=0; expected at least 1$"):
        mine.matched_random(1, rng, n_layers=3, n_units=40, bins=0)
