"""Rankings of lesioned models: what the held lesion does to any run, and that it leaves nothing behind."""

from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import demo
import numpy as np
import pytest
import torch
from checkpoints import write_llama

import posneurons as pn
from posneurons import models, path_sums
from posneurons.errors import NeuronError
from posneurons.fills import Donors, Fill
from posneurons.iteration import Iterations, Round, iterate, lesioned
from posneurons.lesion_study import Workbench
from posneurons.neurons import NeuronSet
from posneurons.planted import Planted, markov_model
from posneurons.records import Corpus, Ranking

GONE = NeuronSet.parse(["L0N3", "L1N5", "L1N2"])


@cache
def planted() -> Planted:
    return markov_model(sentences=240)


@cache
def few() -> Corpus:
    return demo.small().select(np.arange(demo.small().n_rows) % 4 == 0)


@pytest.fixture(scope="module", params=["hooked", "bridge"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_llama(tmp_path_factory.mktemp("llama"))
    return pn.load_model(folder, device="cpu", backend=request.param)


def some_tokens(batch: int = 2, pos: int = 7) -> torch.Tensor:
    tokens = torch.randint(2, 400, (batch, pos), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    return tokens


def hooks_left(model: Any) -> int:
    return sum(len(each.fwd_hooks) for each in model.hook_dict.values())


def values_of(model: Any, tokens: torch.Tensor) -> dict[int, torch.Tensor]:
    """What an inner hook sees at every layer's neurons."""
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        (models.post_name(layer), lambda value, hook, layer=layer: seen.__setitem__(layer, value.clone()))  # noqa: ARG005
        for layer in range(2)
    ]
    models.residual(model, tokens, hooks)
    return seen


@torch.no_grad()
def test_inner_hooks_see_the_lesion_and_bos_is_left_alone(tiny: Any) -> None:
    tokens, fill = some_tokens(), Fill(torch.full((2, 48), 0.7), scale=0.5)
    before = values_of(tiny, tokens)
    with lesioned(tiny, GONE, fill):
        held = values_of(tiny, tokens)
    first, units = before[0].clone(), [5, 2]
    first[:, 1:, 3] = 0.5 * first[:, 1:, 3] + 0.7
    torch.testing.assert_close(held[0], first, atol=1e-6, rtol=0)
    torch.testing.assert_close(held[1][:, 0], before[1][:, 0], atol=1e-6, rtol=0)
    assert (held[1][:, 1:, 7] - before[1][:, 1:, 7]).abs().max() > 1e-4  # reads what the first layer's lesion left
    assert (held[1][:, 1:, units] - before[1][:, 1:, units]).abs().min() > 1e-4


@torch.no_grad()
def test_a_held_lesion_is_what_plain_hooks_do(tiny: Any) -> None:
    tokens = some_tokens()

    def ablate(value: torch.Tensor, hook: Any, units: list[int]) -> torch.Tensor:  # noqa: ARG001
        value = value.clone()
        value[:, 1:, units] = 0.3
        return value

    plain = [(models.post_name(layer), lambda value, hook, units=units: ablate(value, hook, units))
             for layer, units in ((0, [3]), (1, [5, 2]))]  # fmt: skip
    expected = models.residual(tiny, tokens, plain)
    with lesioned(tiny, GONE, Fill(torch.full((2, 48), 0.3))):
        found = models.residual(tiny, tokens)
        cached = models.run_with_cache(tiny, tokens, [models.post_name(1)])[models.post_name(1)]
        again = models.residual(tiny, tokens)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(again, expected, atol=1e-6, rtol=0)  # inner contexts took nothing away
    assert (cached[:, 1:, [5, 2]] == 0.3).all()
    assert (models.residual(tiny, tokens) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_nothing_is_left_behind_also_after_an_exception(tiny: Any) -> None:
    tokens, hooks = some_tokens(), hooks_left(tiny)
    before = models.residual(tiny, tokens)
    seen = []

    def fail(value: torch.Tensor, hook: Any) -> None:  # noqa: ARG001
        seen.append(hooks_left(tiny))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), lesioned(tiny, GONE, Fill()):
        models.residual(tiny, tokens, [(models.post_name(1), fail)])
    assert seen[0] > hooks + 1
    assert hooks_left(tiny) == hooks
    assert torch.equal(models.residual(tiny, tokens), before)


METHODS = (
    "correlation",
    "lape",
    "auroc",
    "attribution",
    "attribution:scope=all,baseline=mean",
    "relp",
    "integrated_gradients",
    "key_neuron_rule",
    "logprob_increase:shortlist=5",
    "elastic_net:shortlist=20",
)


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_ranking_is_of_the_lesioned_model(method: str) -> None:
    model, corpus = planted().model, planted().corpus.select(np.arange(240) % 8 == 0)
    name = planted().redundant["backup"].names[1]
    before = pn.rank(model, corpus, method)
    with lesioned(model, NeuronSet.parse([name, "L0N1"]), Fill()):
        held = pn.rank(model, corpus, method)
    after = pn.rank(model, corpus, method)
    assert hooks_left(model) == 0
    np.testing.assert_array_equal(after.scores, before.scores)
    if method not in ("lape", "logprob_increase:shortlist=5"):  # gates are before the lesion, the lens is after it
        assert not np.array_equal(held.scores, before.scores, equal_nan=True)


@pytest.mark.parametrize("n_tokens", [20, 2048])
def test_packed_runs_are_lesioned_at_every_place(n_tokens: int, tmp_path: Path) -> None:
    """Integrated gradients run words one after the other; one position at a time, rows stay rows."""
    model, source = pn.load_model(write_llama(tmp_path / "checkpoint"), device="cpu"), planted().source
    assert source is not None
    gone = NeuronSet.parse([f"L{layer}N{unit}" for layer in (0, 1) for unit in range(12)])
    how: dict[str, Any] = {"contrast": False, "tokens": n_tokens}
    with lesioned(model, gone, Fill(torch.full((2, 48), 0.5))):
        found = pn.rank(model, source.sample(8, 7), "integrated_gradients", **how).scores
        with patch.object(path_sums, "can_be_local", return_value=False):
            expected = pn.rank(model, source.sample(8, 7), "integrated_gradients", **how).scores
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.nanmax(np.abs(expected)))


def test_a_backup_comes_first_once_what_it_stands_in_for_is_gone() -> None:
    """Of a neuron and its backup, the derivative by the first is 0 as long as the second is there."""
    first, second = (NeuronSet.parse([name]) for name in planted().redundant["backup"].names)
    found = iterate(
        planted().model, planted().corpus, "attribution:contrast=no",
        k=1, rounds=2, tags=["T0", "T1"], ablation="zero", controls=6, draws=300,
    )  # fmt: skip
    halves, backup = found.rounds[:2], found.rounds[2:]
    assert [each.new for each in backup] == [second, first]
    assert [each.overlap for each in backup] == [1, 0]
    assert backup[1].first_rank > 20
    assert halves[0].new.union(halves[1].new).jaccard(planted().redundant["halves"]) == 1
    assert halves[1].overlap == 1
    np.testing.assert_allclose(backup[1].rise, planted().effect[1], atol=1e-5)
    frame = found.to_frame().set_index(["lesion", "round"])
    assert frame.loc[("T1", 2), "rise"] > 2.5 * frame.loc[("T1", 1), "rise"]
    assert frame.loc[("T1", 2), "p_controls"] < 0.01
    assert frame.loc[("T1", 2), "rise"] > 2 * frame.loc[("T1", 2), "others"]


@cache
def on_the_demo() -> tuple[Iterations, Workbench, Ranking]:
    bench = Workbench(demo.model(), few(), seed=3)
    found = iterate(
        demo.model(), few(), "correlation", k=4, rounds=3, tags=["NOUN", "VERB"], controls=3, draws=200, workbench=bench
    )
    return found, bench, pn.rank(demo.model(), few(), "correlation")


def test_rounds_begin_with_the_plain_ranking_and_never_name_a_neuron_twice() -> None:
    found, _, ranking = on_the_demo()
    assert [(each.lesion, each.number) for each in found.rounds] == [
        (t, n) for t in ("NOUN", "VERB") for n in (1, 2, 3)
    ]
    for tag, place in (("NOUN", 0), ("VERB", 3)):
        rounds = found.rounds[place : place + 3]
        assert rounds[0].new == ranking.top(4)[tag]
        assert (rounds[0].overlap, rounds[0].first_rank) == (1, 2.5)
        assert len({name for each in rounds for name in each.new}) == 12


def test_neurons_that_keep_a_score_while_lesioned_are_passed_over() -> None:
    """Halved, a neuron correlates as before."""
    found = iterate(
        planted().model, planted().corpus, "correlation",
        k=3, rounds=2, tags=["T3"], ablation="scale:factor=0.5", controls=0, draws=20,
    )  # fmt: skip
    names = [name for each in found.rounds for name in each.new]
    assert len(set(names)) == 6
    assert found.rounds[1].overlap == 1
    assert np.isnan(found.to_frame()["p_controls"]).all()


def test_a_later_round_is_the_ranking_of_the_lesioned_model() -> None:
    found, bench, ranking = on_the_demo()
    gone = found.rounds[0].new
    with lesioned(demo.model(), gone, bench.fills("mean", gone)[0]):
        again = pn.rank(demo.model(), few(), "correlation")
    scores = again.scores.copy()
    scores[:, gone.layers, gone.units] = np.nan
    wanted = Ranking("x", "predict", again.tags, scores, again.count).top(4)["NOUN"]
    assert found.rounds[1].new == wanted
    order = ranking.order("NOUN").tolist()
    places = [order.index(flat) + 1 for flat in wanted.flat(768).tolist()]
    assert found.rounds[1].first_rank == np.median(places)
    assert found.rounds[1].overlap == sum(5 <= place <= 8 for place in places) / 4


def test_effects_are_those_of_a_lesion_of_all_rounds() -> None:
    found, bench, _ = on_the_demo()
    unions = {
        tag: found.rounds[place].new.union(*(each.new for each in found.rounds[place + 1 : place + 3]))
        for tag, place in (("NOUN", 0), ("VERB", 3))
    }
    frame = pn.lesion(demo.model(), few(), unions, controls=3, measures=(), draws=200, workbench=bench).to_frame()
    for tag, last in (("NOUN", found.rounds[2]), ("VERB", found.rounds[5])):
        mine = frame[frame["lesion"] == tag]
        keys = mine[mine["set"] == "key"]
        np.testing.assert_allclose(last.rise, keys["delta"], atol=1e-6)
        assert ((last.low <= last.rise + 1e-9) & (last.rise <= last.high + 1e-9) | np.isnan(last.rise)).all()
        random = mine[mine["set"] == "matched"].pivot_table(index="draw", columns="tag", values="delta", sort=False)
        assert random.columns.tolist() == [tag for tag, n in zip(found.tags, found.words, strict=True) if n]
        np.testing.assert_allclose(last.controls[:, found.words > 0], random, atol=1e-6)
    halfway = {"NOUN": found.rounds[0].new.union(found.rounds[1].new)}
    alone = pn.lesion(demo.model(), few(), halfway, controls=0, measures=(), draws=20, workbench=bench).matrix()
    np.testing.assert_allclose(found.rounds[1].rise, alone.reindex(columns=found.tags).to_numpy()[0], atol=1e-6)


def test_the_table_by_hand() -> None:
    rise, nan = np.array([0.5, 0.1, 0.3, np.nan]), np.nan
    controls = np.array([[0.1, 0.0, 0.2, nan], [0.3, 0.2, 0.0, nan]])
    new = NeuronSet.parse(["L1N2", "L0N4"])
    one = Round("A", 2, new, 0.5, 7.0, rise, rise - 0.1, rise + 0.1, controls)
    bare = Round("D", 1, new, 1.0, 1.5, rise, rise, rise, np.empty((0, 4)))
    frame = Iterations("x", "mean", 2, ("A", "B", "C", "D"), np.array([5, 1, 1, 0]), (one, bare)).to_frame()
    row = frame.iloc[0]
    assert (row["neurons"], row["new"], row["words"], row["round"]) == (4, "L1N2 L0N4", 5, 2)
    assert (row["rise"], row["rise_low"], row["rise_high"]) == pytest.approx((0.5, 0.4, 0.6))
    assert row["control_mean"] == pytest.approx(0.2)
    assert row["control_sd"] == pytest.approx(0.02**0.5)
    assert row["others"] == pytest.approx(0.2)
    assert row["control_others"] == pytest.approx(0.1)
    # t = (0.5 - 0.2) / (0.141 sqrt(3 / 2)) = 1.732 with one degree of freedom: a tail of 1/6.
    assert row["p_controls"] == pytest.approx(1 / 6)
    assert frame.loc[1, ["rise", "control_mean", "control_sd", "p_controls", "control_others"]].isna().all()
    assert frame.loc[1, "others"] == pytest.approx(0.3)


def test_errors_say_what_to_do() -> None:
    model, corpus = planted().model, planted().corpus
    with pytest.raises(NeuronError, match="iterate: k=0, rounds=2; expected at least 1 of each"):
        iterate(model, corpus, k=0, rounds=2)
    with pytest.raises(
        NeuronError, match=r"'resample:draws=2' cannot be held while a model is ranked.*expected zero, mean"
    ):
        iterate(model, corpus, k=1, ablation="resample:draws=2")
    with pytest.raises(NeuronError, match="ranking: no tag 'X'; it has T0"):
        iterate(model, corpus, "correlation", k=1, tags=["X"])
    with pytest.raises(NeuronError, match=r"T0 has \d+ neurons with a score beside the \d+ lesioned ones, but k=200"):
        iterate(model, corpus, "correlation", k=200, rounds=2, tags=["T0"], controls=0)
    donors = Fill(donors=Donors({}, {}, torch.zeros(1, dtype=torch.int64)))
    for neurons, fill, sentence in (
        (planted().truth["T0"], donors, "lesioned: values of donor words .* choose another ablation than resample"),
        (NeuronSet.parse(["L7N0"]), Fill(), "neuron L7N0: the model has layers 0 to 2"),
    ):
        with pytest.raises(NeuronError, match=sentence), lesioned(model, neurons, fill):
            raise AssertionError
    assert hooks_left(model) == 0
