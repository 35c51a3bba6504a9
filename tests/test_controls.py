"""Controls against damage with a closed form, against plain loops, and against ablations of the embedded model."""

from collections.abc import Callable, Sequence
from functools import cache

import demo
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from numpy import ndarray

from posneurons import models
from posneurons.activations import TokenStatistics, token_statistics
from posneurons.controls import (
    DamageControls,
    damage_matched,
    perturbation_size,
    planned,
    remaining,
)
from posneurons.errors import NeuronError
from posneurons.neurons import NeuronSet

N_LAYERS, N_UNITS = 3, 60
NOUN, VERB = NeuronSet.parse(["L0N3", "L2N7", "L0N1", "L1N0"]), NeuronSet.parse(["L2N8", "L0N4", "L1N9"])
FLAGGED = NeuronSet.parse(["L0N50", "L0N51", "L2N0"])
KEYS = {"NOUN": NOUN, "VERB": VERB}


@cache
def statistics() -> TokenStatistics:
    return token_statistics(demo.model(), demo.small().split("train"))


def test_perturbation_size_by_hand() -> None:
    stats = statistics()
    row = demo.model().blocks[4].mlp.W_out.detach()[17]
    length = float((row.double() ** 2).sum() ** 0.5)
    for ablation, expected in [
        ("zero", stats.mean_abs),
        ("clamp:value=2", stats.mean_abs),
        ("scale:factor=0.1", stats.mean_abs),
        ("mean", stats.sd),
        ("balanced_mean", stats.sd),
        ("resample:donor=other", stats.sd),
    ]:
        found = perturbation_size(demo.model(), stats, ablation)
        assert found.shape == (6, 768)
        assert found[4, 17] == pytest.approx(float(expected[4, 17]) * length, rel=1e-5)
    with pytest.raises(NeuronError, match="no such ablation; expected one of zero, mean"):
        perturbation_size(demo.model(), stats, "freeze")


def test_partners_of_planned_controls() -> None:
    size = np.random.default_rng(1).lognormal(size=(N_LAYERS, N_UNITS))

    def controls(seed: int, **options: object) -> dict[str, list[NeuronSet]]:
        where = {"n_layers": N_LAYERS, "n_units": N_UNITS, "draws": 30, "rng": np.random.default_rng(seed)}
        return planned(KEYS, **where, **options)

    taken = {*NOUN, *VERB, *FLAGGED, "L1N1"}
    by_kind = {}
    for kind in ("layer", "size"):
        found = controls(0, kind=kind, size=size, bins=4, exclude=NeuronSet.parse(["L1N1"]), flagged=FLAGGED)
        assert list(found) == ["NOUN", "VERB"]
        off = []
        for tag, sets in found.items():
            assert len(sets) == 30
            for each in sets:
                assert each.layers.tolist() == KEYS[tag].layers.tolist()
                assert not set(each) & taken
                mine, theirs = size[KEYS[tag].layers, KEYS[tag].units], size[each.layers, each.units]
                off += np.abs(np.log(mine / theirs)).tolist()
        by_kind[kind] = np.mean(off)
        assert found == controls(0, kind=kind, size=size, bins=4, exclude=NeuronSet.parse(["L1N1"]), flagged=FLAGGED)
    assert by_kind["size"] < 0.5 * by_kind["layer"]
    unmatched = controls(0, kind="layer", exclude=NeuronSet.parse(["L1N1"]), flagged=FLAGGED)
    assert unmatched == controls(0, kind="layer", size=size, exclude=NeuronSet.parse(["L1N1"]), flagged=FLAGGED)
    anyone = controls(0, kind="layer")
    assert set(FLAGGED) & {name for sets in anyone.values() for each in sets for name in each}


def test_plans_that_cannot_be_made_are_errors() -> None:
    where = {"n_layers": N_LAYERS, "n_units": N_UNITS, "draws": 1, "rng": np.random.default_rng(0)}
    sentence = (
        r"^controls: kind='size', but no sizes were given; expected one for each neuron: give "
        r"size=perturbation_size\(...\), or choose kind='layer'$"
    )
    with pytest.raises(NeuronError, match=sentence):
        planned(KEYS, kind="size", **where)
    with pytest.raises(NeuronError, match=r"^controls: kind='both'; expected 'size' or 'layer'$"):
        planned.__wrapped__(KEYS, kind="both", **where)  # a user's Python has no type checks around it
    everyone = NeuronSet.from_pairs([(2, unit) for unit in range(1, N_UNITS)])
    with pytest.raises(NeuronError, match="layer 2 has 1 neurons outside all key sets, but 2 are needed"):
        planned({"NOUN": NeuronSet.parse(["L2N5", "L2N6"])}, kind="layer", exclude=everyone, **where)


def test_remaining_by_hand() -> None:
    left = remaining(2, 3, NeuronSet.parse(["L1N0"]), NeuronSet.parse(["L0N1", "L1N0"]))
    assert left.names == ("L0N0", "L0N2", "L1N1", "L1N2")
    with pytest.raises(NeuronError, match="neuron L2N0: the model has layers 0 to 1"):
        remaining(2, 3, NeuronSet.parse(["L2N0"]))


Measured = Callable[[Sequence[NeuronSet]], Float[ndarray, " set"]]
TARGET = NeuronSet.from_pairs([(2, unit) for unit in range(4)])
POOL = NeuronSet.from_pairs([(layer, unit) for layer in range(2) for unit in range(50)])


def power_law(exponent: float, target: float, sizes: list[int] | None = None) -> Measured:
    """A random neuron does 0.01, n of them n ** exponent times that; the target does `target`."""

    def damage(sets: Sequence[NeuronSet]) -> Float[ndarray, " set"]:
        if sizes is not None:
            sizes.extend(len(each) for each in sets)
        return np.array([target if each == TARGET else 0.01 * len(each) ** exponent for each in sets])

    return damage


def match(damage: Measured, **options: object) -> DamageControls:
    return damage_matched({"A": TARGET}, POOL, damage, **{"draws": 3, "rng": np.random.default_rng(0), **options})


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("size", [4, 11, 37, 90])
def test_a_power_law_is_interpolated_exactly(exponent: float, size: int) -> None:
    found = match(power_law(exponent, 0.01 * size**exponent))
    assert found.notes == ()
    assert [(each.tag, each.draw, len(each.neurons)) for each in found.matches] == [("A", n, size) for n in (1, 2, 3)]
    for each in found.matches:
        assert each.reached == pytest.approx(each.wanted)
    assert len({each.neurons for each in found.matches}) == 3


def test_a_damage_below_the_smallest_size_is_taken_to_be_proportional() -> None:
    # The first size tried is the target's, 4, at 0.04; a wanted 0.02 needs 2.
    assert [len(each.neurons) for each in match(power_law(1.0, 0.02)).matches] == [2, 2, 2]
    assert [len(each.neurons) for each in match(power_law(1.0, 0.0001)).matches] == [1, 1, 1]


def test_no_more_is_measured_than_needed() -> None:
    # The target, then 4, 8 and 16 for each draw, of which 16 reaches 0.13; then 13.
    sizes: list[int] = []
    match(power_law(1.0, 0.13, sizes))
    assert sizes == [4, 4, 4, 4, 8, 8, 8, 16, 16, 16, 13, 13, 13]


def test_what_the_whole_pool_does_not_reach_is_noted() -> None:
    found = match(power_law(1.0, 1.5))
    assert found.matches == ()
    sentence = (
        "damage-matched sets: A: 3 of 3 draws left out, for no size up to the 100 neurons of the pool raises the mean "
        "loss by the 1.5 nats of its own set"
    )
    assert found.notes == (sentence,)
    assert found.sets() == {}
    assert found.to_frame().empty


def test_a_set_that_does_no_damage_is_noted() -> None:
    for wanted in (-0.25, 0.0, float("nan")):
        found = match(power_law(1.0, wanted))
        assert found.matches == ()
        expected = f"A: its own set raises the mean loss by {wanted:.3g} nats; nothing to match"
        assert found.notes == (f"damage-matched sets: {expected}",)


def test_one_target_may_be_matched_and_another_not() -> None:
    other = NeuronSet.from_pairs([(2, unit) for unit in range(10, 16)])

    def damage(sets: Sequence[NeuronSet]) -> Float[ndarray, " set"]:
        return np.array([{TARGET: 0.3, other: 9.0}.get(each, 0.01 * len(each)) for each in sets])

    targets = {"A": TARGET, "B": other}
    found = damage_matched(targets, POOL, damage, draws=2, rng=np.random.default_rng(0))
    assert {tag: [len(each) for each in sets] for tag, sets in found.sets().items()} == {"A": [30, 30]}
    assert len(found.notes) == 1
    assert found.notes[0].startswith("damage-matched sets: B: 2 of 2 draws left out")
    frame = found.to_frame()
    assert frame.to_numpy().tolist() == [["A", 1, 30, 0.3, pytest.approx(0.3)], ["A", 2, 30, 0.3, pytest.approx(0.3)]]


@given(st.integers(0, 1000), st.floats(0.05, 3))
@example(558, 1.5)  # between 1 and 3 neurons interpolation says 3 again and again
@settings(max_examples=40, deadline=None)
def test_uneven_neurons_are_matched_as_well_as_one_neuron_more_or_less(seed: int, wanted: float) -> None:
    weight = np.random.default_rng(seed).lognormal(sigma=1.5, size=(2, 50)) / 20

    def damage(sets: Sequence[NeuronSet]) -> Float[ndarray, " set"]:
        return np.array([wanted if each == TARGET else weight[each.layers, each.units].sum() for each in sets])

    once, often = match(damage), match(damage, rounds=12)
    for first, last in zip(once.matches, often.matches, strict=True):
        assert first.reached == damage([first.neurons])[0]
        assert last.reached == damage([last.neurons])[0]
        assert abs(np.log(last.reached / wanted)) <= abs(np.log(first.reached / wanted))
        smaller, larger = sorted([first.neurons, last.neurons], key=len)
        assert smaller.names == larger.names[: len(smaller)]
        # What it misses is less than the loudest neuron does alone.
        chosen = weight[last.neurons.layers, last.neurons.units]
        assert chosen.sum() - weight.max() <= wanted <= chosen.sum() + weight.max()
        assert not set(last.neurons) & set(TARGET)
    assert once == match(damage)


def test_what_makes_no_sense_is_an_error() -> None:
    nobody, damage = NeuronSet.from_pairs([]), power_law(1.0, 1.0)
    sentence = (
        "^damage-matched sets: 1 targets and a pool of 0 neurons were given; expected at least one of each, and no "
        "empty target: choose fewer tags or fewer flags$"
    )
    with pytest.raises(NeuronError, match=sentence):
        damage_matched({"A": TARGET}, nobody, damage, draws=1, rng=np.random.default_rng(0))
    with pytest.raises(NeuronError, match="1 targets and a pool of 100 neurons"):
        damage_matched({"A": nobody}, POOL, damage, draws=1, rng=np.random.default_rng(0))
    with pytest.raises(NeuronError, match=r"^damage-matched sets: rounds=0; expected at least 1$"):
        match(damage, rounds=0)


@torch.no_grad()
def zeroing(sets: Sequence[NeuronSet]) -> Float[ndarray, " set"]:
    """Rise of the embedded model's mean loss over 200 tokens when a set is 0 at all of them, by plain hooks."""
    corpus = demo.corpus().split("train")
    tokens = torch.tensor([[corpus.bos, *corpus.tokens[:200].tolist()]])

    def loss(neurons: NeuronSet) -> float:
        def hook(units: ndarray) -> Callable[..., torch.Tensor]:
            def zero(value: torch.Tensor, hook: object) -> torch.Tensor:  # noqa: ARG001
                value[:, 1:, units] = 0
                return value

            return zero

        hooks = [(models.post_name(layer), hook(units)) for layer, units in neurons.by_layer().items()]
        return float(demo.model().run_with_hooks(tokens, return_type="loss", fwd_hooks=hooks))

    intact = loss(NeuronSet.from_pairs([]))
    return np.array([loss(each) - intact for each in sets])


def test_what_perturbs_more_does_more_damage() -> None:
    size = perturbation_size(demo.model(), statistics(), "zero")
    order = np.argsort(size, axis=None)
    quiet, loud = (NeuronSet.from_flat(each, 768) for each in (order[:300], order[-300:]))
    low, high = zeroing([quiet, loud])
    assert high > 0.2
    assert abs(low) < 0.2 * high


def test_damage_of_the_embedded_model_is_matched() -> None:
    size = perturbation_size(demo.model(), statistics(), "zero")
    loud = NeuronSet.from_flat(np.argsort(-size, axis=None)[:60], 768)
    found = damage_matched(
        {"loud": loud}, remaining(6, 768, loud), zeroing, draws=3, rng=np.random.default_rng(0), rounds=3
    )
    assert found.notes == ()
    assert len(found.matches) == 3
    for each in found.matches:
        assert len(each.neurons) > len(loud)
        assert each.reached == pytest.approx(each.wanted, rel=0.1)
        assert each.reached == pytest.approx(zeroing([each.neurons])[0], rel=1e-4)
