"""Joint against single effects, and direct against total ones: closed forms, slow loops and frozen layers."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import demo
import numpy as np
import pandas as pd
import pytest
import torch
from checkpoints import write_llama
from hypothesis import given, settings
from hypothesis import strategies as st

import posneurons as pn
from posneurons import composition
from posneurons.composition import Composition, compose
from posneurons.errors import ModelError, NeuronError
from posneurons.fills import Condition, Fill
from posneurons.lesion_study import Workbench
from posneurons.lesions import word_losses
from posneurons.neurons import NeuronSet
from posneurons.planted import Planted, markov_model
from posneurons.records import Corpus

SETS = {
    "across": NeuronSet.parse(["L3N20", "L0N3", "L2N700", "L2N4", "L5N10", "L0N1"]),
    "deep": NeuronSet.parse([f"L4N{unit}" for unit in range(40, 0, -1)]),
    "last": NeuronSet.parse([f"L5N{unit}" for unit in range(30)]),
}


@cache
def few() -> Corpus:
    return demo.small().select(np.arange(demo.small().n_rows) % 4 == 0)


@cache
def planted() -> Planted:
    return markov_model(sentences=160)


def rows(found: Composition, lesion: str) -> pd.DataFrame:
    frame = found.to_frame()
    return frame[frame["lesion"] == lesion].set_index("tag")


@cache
def taken_apart(ablation: str = "zero", scope: Any = "local") -> Composition:
    """The redundant sets of the constructed model, the neurons of one of them, another tag's set, and copies."""
    first, second = (NeuronSet.parse([name]) for name in planted().redundant["backup"].names)
    keys = {**planted().redundant, "first": first, "second": second, "T3": planted().truth["T3"]}
    keys["copies"] = planted().decoys["read_only"]
    return compose(planted().model, planted().corpus, keys, ablation=ablation, scope=scope, draws=400)


def test_a_neuron_and_its_backup() -> None:
    """Each alone removes nothing or a half, both together all: far more than the sum."""
    found, backup = taken_apart(), rows(taken_apart(), "backup")
    np.testing.assert_allclose(backup["joint"], planted().effect[1], atol=1e-5)
    assert backup.loc["T1", "ratio"] > 2
    assert backup.loc["T1", "ratio_low"] > 1.5
    first, second = rows(found, "first"), rows(found, "second")
    np.testing.assert_allclose(first["total"], 0, atol=1e-6)
    np.testing.assert_allclose(first["direct"], second["total"], atol=1e-6)  # without the backup half is gone
    np.testing.assert_allclose(backup["sum_of_singles"], second["total"], atol=1e-6)
    assert first.loc["T1", "direct"] > 0.02
    assert first.loc["T1", "repaired_low"] > 0
    np.testing.assert_allclose(second["repaired"], 0, atol=1e-6)
    np.testing.assert_allclose(backup["repaired"], 0, atol=1e-6)  # the backup is gone too


def test_two_halves_make_up_for_nothing_and_are_more_than_their_sum() -> None:
    halves = rows(taken_apart(), "halves")
    np.testing.assert_allclose(halves["joint"], planted().effect[0], atol=1e-5)
    np.testing.assert_allclose(halves["repaired"], 0, atol=1e-6)
    np.testing.assert_allclose(halves["direct_frozen_norm"], halves["direct"], atol=1e-6)
    assert 1.2 < halves.loc["T0", "ratio"] < 1.8
    assert halves.loc["T0", "ratio_low"] < halves.loc["T0", "ratio"] < halves.loc["T0", "ratio_high"]


def test_neurons_that_write_nothing_have_no_effect_of_any_kind() -> None:
    copies = rows(taken_apart(), "copies")
    for column in ("joint", "sum_of_singles", "total", "direct", "direct_frozen_norm", "repaired"):
        np.testing.assert_array_equal(copies[column], 0)
    assert copies[["ratio", "ratio_low", "ratio_high"]].isna().all(axis=None)


def test_small_effects_add_up() -> None:
    """Of neurons that are hardly scaled, the loss is linear: where the sum is clearly from 0, the ratio is about 1."""
    found = rows(taken_apart("scale:factor=0.99"), "halves")["ratio"].dropna()
    assert len(found) >= 2
    np.testing.assert_allclose(found, 1, atol=0.03)


@pytest.mark.parametrize("ablation", ["mean", "scale:factor=0.3", "resample:draws=2"])
@pytest.mark.parametrize("scope", ["all", "local"])
def test_nothing_comes_after_the_last_layer(ablation: str, scope: Any) -> None:
    found = compose(
        demo.model(), few(), {"last": SETS["last"]}, ablation=ablation, scope=scope, singles=False, draws=20
    )
    np.testing.assert_allclose(found.direct, found.joint, atol=1e-5)
    assert np.abs(found.joint).max() > 0.01
    assert np.isnan(found.singles).all()
    assert rows(found, "last")["ratio"].isna().all()


@torch.no_grad()
def frozen(corpus: Corpus, neurons: NeuronSet, fill: torch.Tensor, *, norm: bool) -> np.ndarray:
    """Row by row: neurons are set in the intact run's values, every other MLP and all attention is held as it was."""
    model, losses = demo.model(), []
    names = [f"blocks.{layer}.{name}" for layer in range(6) for name in ("mlp.hook_post", "hook_mlp_out")]
    names += [f"blocks.{layer}.hook_attn_out" for layer in range(6)] + ["ln_final.hook_scale"]
    for row in range(corpus.n_rows):
        tokens = torch.from_numpy(corpus.row_tokens(row))[None]
        _, cache = model.run_with_cache(tokens, names_filter=names)
        values = {name: cache[name].clone() for name in names}
        for layer, units in neurons.by_layer().items():
            values[f"blocks.{layer}.mlp.hook_post"][:, 1:, units] = fill[layer, units]
        held = [f"blocks.{layer}.hook_attn_out" for layer in range(6)]
        held += [
            f"blocks.{layer}.{'mlp.hook_post' if layer in neurons.layers else 'hook_mlp_out'}" for layer in range(6)
        ]
        held += ["ln_final.hook_scale"] * norm
        hooks = [(name, lambda value, hook, name=name: values[name]) for name in held]  # noqa: ARG005, B023
        log_probs = model.run_with_hooks(tokens, fwd_hooks=hooks).log_softmax(-1)[0]
        first = corpus.word_first[(corpus.word_row == row) & (corpus.word_first > 1)]
        losses += (-log_probs[first - 1, tokens[0, first]]).tolist()
    return np.array(losses)


@pytest.mark.parametrize("lesion", list(SETS))
def test_direct_effects_against_frozen_layers(lesion: str) -> None:
    bench = Workbench(demo.model(), few())
    found = compose(demo.model(), few(), SETS, singles=False, draws=20, workbench=bench)
    fill, nobody, row = bench.statistics.mean, NeuronSet.parse([]), list(SETS).index(lesion)
    order = np.argsort(bench.test.word_row[bench.test.readable("predict")], kind="stable")
    for norm, values in ((False, found.direct), (True, found.direct_frozen_norm)):
        rise = frozen(bench.test, SETS[lesion], fill, norm=norm) - frozen(bench.test, nobody, fill, norm=norm)
        np.testing.assert_allclose(values[row][order], rise, atol=2e-5)
    if lesion != "last":
        assert np.abs(found.direct[row] - found.joint[row]).max() > 1e-3
    assert np.abs(found.direct[row] - found.direct_frozen_norm[row]).max() > 1e-4


def test_totals_against_the_engine_called_for_each_lesion() -> None:
    sets = {"A": NeuronSet.parse(["L1N4", "L3N700", "L5N6"]), "B": NeuronSet.parse(["L3N700", "L0N9"])}
    bench = Workbench(demo.model(), few())
    found = compose(demo.model(), few(), sets, scope="local", direct=False, draws=20, tokens=90, workbench=bench)
    fills = (Fill(bench.statistics.mean),)

    def rise(neurons: Sequence[str]) -> np.ndarray:
        condition = Condition(NeuronSet.parse(neurons), fills, "local")
        return word_losses(demo.model(), bench.test, [condition]).rises()[0]

    for row, neurons in enumerate(sets.values()):
        np.testing.assert_allclose(found.joint[row], rise(neurons.names), atol=1e-5)
        np.testing.assert_allclose(found.singles[row], sum(rise([name]) for name in neurons), atol=1e-5)
    assert np.isnan(found.direct).all()
    assert np.abs(found.singles).max() > 1e-3


def test_batches_do_not_matter() -> None:
    one, other = (compose(demo.model(), few(), SETS, singles=False, draws=20, tokens=n) for n in (120, 2048))
    for name in ("joint", "direct", "direct_frozen_norm"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=2e-5)


def tiny_corpus() -> Corpus:
    """Random words of one token, split in two."""
    return replace(
        planted().source.sample(12, 8, 0),  # type: ignore[union-attr]
        word_form=np.array(["w"] * 96),
    )


def test_the_bridge_gives_the_same(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "checkpoint")
    keys = {"A": NeuronSet.parse(["L0N3", "L1N5"]), "B": NeuronSet.parse(["L0N7"])}
    hooked, bridge = (
        compose(pn.load_model(folder, device="cpu", backend=backend), tiny_corpus(), keys, ablation="zero", draws=20)
        for backend in ("hooked", "bridge")
    )
    for name in ("joint", "singles", "direct", "direct_frozen_norm"):
        np.testing.assert_allclose(getattr(bridge, name), getattr(hooked, name), atol=1e-5)
        assert np.abs(getattr(hooked, name)).max() > 1e-3


def by_hand(**changes: Any) -> Composition:
    """Two clusters of two words: tag A has three, B has one, C none."""
    fields: dict[str, Any] = {
        "ablation": "mean",
        "scope": "local",
        "tags": ("A", "B", "C"),
        "word_tag": np.array([0, 0, 0, 1]),
        "word_cluster": np.array([0, 0, 1, 1]),
        "lesion": ("A",),
        "neurons": (NeuronSet.parse(["L0N1", "L0N2"]),),
        "joint": np.array([[1.0, 2.0, 3.0, 0.5]]),
        "singles": np.array([[2.0, 4.0, 6.0, -1.0]]),
        "direct": np.array([[2.0, 2.0, 5.0, 0.0]]),
        "direct_frozen_norm": np.array([[3.0, 2.0, 7.0, 0.0]]),
        "draws": 500,
        "seed": 0,
    }
    return Composition(**(fields | changes))


def test_the_table_by_hand() -> None:
    frame = by_hand().to_frame()
    assert frame["tag"].tolist() == ["A", "B", "C"]
    assert frame["words"].tolist() == [3, 1, 0]
    assert frame["neurons"].tolist() == [2, 2, 2]
    row = frame.iloc[0]
    expected = {
        "joint": 2, "sum_of_singles": 4, "ratio": 0.5, "ratio_low": 0.5, "ratio_high": 0.5, "total": 2, "direct": 3,
        "direct_frozen_norm": 4, "repaired": 1, "norm_repaired": 1,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    # A cluster drawn twice: (1 + 0) / 2 of the first, 2 / 1 of the second; sums 6 / 2 and 6 / 1.
    assert (row["repaired_low"], row["repaired_high"]) == (0.5, 2)
    assert (row["sum_low"], row["sum_high"]) == (3, 6)
    assert frame.loc[1, "ratio"] == -0.5
    assert frame.iloc[2][[*expected, "sum_low", "repaired_low", "repaired_high"]].isna().all()


def test_a_sum_that_may_be_nothing_has_no_ratio() -> None:
    frame = by_hand(singles=np.array([[2.0, 4.0, -6.5, 1.0]])).to_frame()
    assert (frame.loc[0, "sum_low"], frame.loc[0, "sum_high"]) == (-6.5, 3)
    assert frame.loc[0, ["ratio", "ratio_low", "ratio_high"]].isna().all()
    assert frame.loc[0, "joint"] == 2


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.floats(0.1, 10))
def test_the_order_of_words_does_not_matter_and_ratios_scale(order: list[int], factor: float) -> None:
    plain = by_hand()
    values = {
        name: getattr(plain, name)[..., order]
        for name in ("word_tag", "word_cluster", "singles", "direct", "direct_frozen_norm")
    }
    frame, before = by_hand(**values, joint=plain.joint[:, order] * factor).to_frame(), plain.to_frame()
    np.testing.assert_allclose(frame["ratio"], before["ratio"] * factor)
    np.testing.assert_allclose(frame["direct"], before["direct"])


def test_a_norm_after_the_mlp_leaves_no_direct_effect() -> None:
    halve = [("blocks.1.hook_mlp_out", lambda value, hook: value / 2)]  # noqa: ARG005
    keys = {"A": NeuronSet.parse(["L1N4"])}
    with demo.model().hooks(fwd_hooks=halve):
        with pytest.raises(ModelError, match=r"no direct effects in .*W_out alone.*compose with direct=False"):
            compose(demo.model(), few(), keys, draws=20)
        found = compose(demo.model(), few(), keys, direct=False, draws=20)
    assert np.isfinite(found.joint).all()
    assert np.isnan(found.direct).all()


def test_without_a_known_norm_only_its_frozen_scale_is_left_out() -> None:
    bench = Workbench(demo.model(), few())
    with patch.object(composition, "final_norm", side_effect=ModelError("unknown")):
        found = compose(demo.model(), few(), {"A": SETS["deep"]}, singles=False, draws=20, workbench=bench)
    assert np.isfinite(found.direct).all()
    assert np.isnan(found.direct_frozen_norm).all()
    assert bench.notes[0] == "the final norm is not known, and direct effects under its frozen scale are left out"


def test_errors_say_what_to_do() -> None:
    with pytest.raises(NeuronError, match="compose: no sets were given; expected a mapping of names to NeuronSets"):
        compose(demo.model(), few(), {})
    with pytest.raises(NeuronError, match="neuron L9N0: the model has layers 0 to 5"):
        compose(demo.model(), few(), {"A": NeuronSet.parse(["L9N0"])})
