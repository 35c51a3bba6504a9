"""Flags against logits that are made in full, on the embedded model with neurons that are made to stand out."""

from functools import cache
from typing import Any

import demo
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posneurons import models, weights
from posneurons.activations import token_statistics
from posneurons.errors import NeuronError, PosNeuronsError
from posneurons.neurons import NeuronSet
from posneurons.outliers import Flags, Thresholds, flags, output_norms
from posneurons.records import Corpus

LAST = 5
"""The last layer: what its neurons do reaches no other neuron."""


@cache
def few() -> Corpus:
    return demo.small().split("train")


@cache
def plain() -> Flags:
    return flags(demo.model(), few(), statistics=token_statistics(demo.model(), few()))


@cache
def folded() -> torch.Tensor:
    """The unembedding as the residual before the final norm sees it, less the mean column: [d_model vocab]."""
    columns = demo.model().W_U.detach().double()
    return weights.final_norm(demo.model()).gain.double()[:, None] * (columns - columns.mean(1, keepdim=True))


def best_direction(corpus: Corpus) -> torch.Tensor:
    """The direction whose logits fit the log frequencies best, by least squares over the whole vocabulary."""
    logs = np.log(np.bincount(corpus.tokens, minlength=4096) + 1.0)
    return torch.linalg.lstsq(folded().T, torch.from_numpy(logs - logs.mean())[:, None]).solution[:, 0]


def changed(layer: int = LAST, **rows: dict[int, torch.Tensor]) -> Any:
    """The embedded model with some rows (one per neuron) of its MLPs' matrices replaced."""
    model = demo.model()
    named = dict(model.named_parameters())
    for name, new in rows.items():
        key = f"blocks.{layer}.mlp.{name}"
        value = named[key].detach().clone()
        for unit, row in new.items():
            value[(slice(None), unit) if name == "W_in" else unit] = row.to(value)
        named[key] = value
    fields = model.cfg.to_dict() | {"init_weights": False, "dtype": model.W_U.dtype}
    return models.build_hooked(fields, named)


def out_row(unit: int) -> torch.Tensor:
    return demo.model().blocks[LAST].mlp.W_out.detach()[unit]


def in_row(unit: int) -> torch.Tensor:
    return demo.model().blocks[LAST].mlp.W_in.detach()[:, unit]


def median_norm() -> float:
    return float(demo.model().blocks[LAST].mlp.W_out.detach().norm(dim=1).median())


def test_correlations_and_variances_equal_those_of_full_logits() -> None:
    found, fit = plain(), (best_direction(few()) @ folded()).numpy()
    for layer in (0, LAST):
        out = weights.output_weights(demo.model(), layer).detach().double()
        logits = (out @ folded()).numpy()
        expected = [np.corrcoef(row, fit)[0, 1] for row in logits]
        np.testing.assert_allclose(found.correlation[layer], expected, atol=1e-5)
        variance = logits.var(1) / (out**2).sum(1).numpy()
        np.testing.assert_allclose(found.logit_variance[layer], variance / np.median(variance), rtol=1e-4)
        u, _, _ = torch.linalg.svd(folded(), full_matrices=False)
        share = (out @ u[:, -3:]).norm(dim=1) / out.norm(dim=1)  # 1 % of 256, rounded up
        np.testing.assert_allclose(found.null_share[layer], share, atol=1e-4)
        norms = out.norm(dim=1).numpy()
        np.testing.assert_allclose(found.norm[layer], norms / np.median(norms), rtol=1e-5)
        np.testing.assert_allclose(output_norms(demo.model())[layer], norms, rtol=1e-5)


def test_size_of_the_vocabulary_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "VOCABULARY_CHUNK", 1000)
    again = flags(demo.model(), few(), statistics=token_statistics(demo.model(), few()))
    np.testing.assert_allclose(again.correlation, plain().correlation, atol=1e-5)
    np.testing.assert_allclose(again.null_share, plain().null_share, atol=1e-4)


def test_a_massive_neuron_is_flagged_and_one_that_only_looks_so_is_not() -> None:
    # Neuron 7 says 1,000 times as much. Neuron 8's activation is as large, but it writes a thousandth of it: as before.
    made = changed(W_in={7: 1000 * in_row(7), 8: 1000 * in_row(8)}, W_out={8: out_row(8) / 1000})
    found = flags(made, few())
    assert found.massive[LAST, 7]
    assert found.massive.sum() == 1 + plain().massive.sum()
    np.testing.assert_allclose(found.loudness[LAST, 8], plain().loudness[LAST, 8], rtol=0.01)
    np.testing.assert_allclose(found.loudness[LAST, 7] / plain().loudness[LAST, 7], 1000, rtol=0.01)


def test_loudness_by_hand() -> None:
    found, stats = plain(), token_statistics(demo.model(), few())
    for layer in range(6):
        writes = (stats.max_abs[layer] * demo.model().blocks[layer].mlp.W_out.detach().norm(dim=1)).numpy()
        np.testing.assert_allclose(found.loudness[layer], writes / np.median(writes), rtol=1e-4)
        assert (found.massive[layer] == (found.loudness[layer] > 50)).all()


def test_a_neuron_that_writes_the_frequency_direction_is_flagged() -> None:
    best, (u, _, _) = best_direction(few()), torch.linalg.svd(folded(), full_matrices=False)
    best = best / best.norm() * median_norm()
    fit, aside = best @ folded(), u[:, 0]
    aside = aside - best * (aside @ folded() @ fit) / (fit @ fit)  # whose logits do not correlate with frequency at all
    step = aside * fit.norm() / (aside @ folded()).norm()
    # With as much of it beside, the correlation is sqrt(1/2); a little less of it is above the threshold, more below.
    rows = {11: best, 12: -best, 13: aside, 14: best + 0.95 * step, 15: best + 1.05 * step}
    found = flags(changed(W_out=rows), few())
    assert found.correlation[LAST, 11] == pytest.approx(1, abs=1e-4)
    assert found.correlation[LAST, 12] == pytest.approx(-1, abs=1e-4)
    assert found.correlation[LAST, 13] == pytest.approx(0, abs=1e-4)
    assert found.frequency[LAST, 11:16].tolist() == [True, True, False, True, False]
    others = np.ones((6, 768), dtype=bool)
    others[LAST, 11:16] = False
    assert (found.frequency[others] == plain().frequency[others]).all()
    assert not found.massive[LAST, 11]
    assert not found.entropy[LAST, 11]


def test_a_loud_neuron_in_the_null_space_is_flagged_and_its_weak_or_visible_siblings_are_not() -> None:
    u, _, _ = torch.linalg.svd(folded(), full_matrices=False)
    unread, read, hardly = u[:, -1], u[:, 0], u[:, -8]  # the last reads little, but is none of the bottom three
    loud = 2 * median_norm()
    rows = {20: loud * unread, 21: loud / 2 * unread, 22: loud * read, 23: loud * hardly}
    found = flags(changed(W_out=rows), few())
    assert found.null_share[LAST, 20] == pytest.approx(1, abs=1e-4)
    assert found.null_share[LAST, 22] == pytest.approx(0, abs=1e-4)
    assert found.logit_variance[LAST, 23] < 0.5
    assert found.entropy[LAST, 20:24].tolist() == [True, False, False, False]
    loose = flags(changed(W_out=rows), few(), thresholds=Thresholds(norm=0.9))
    assert loose.entropy[LAST, 20:24].tolist() == [True, True, False, False]
    assert found.entropy.sum() == 1 + plain().entropy.sum()


def test_a_neuron_that_writes_nothing_is_undefined_and_not_flagged() -> None:
    found = flags(changed(W_out={30: torch.zeros(256)}), few())
    assert np.isnan([found.correlation[LAST, 30], found.null_share[LAST, 30], found.logit_variance[LAST, 30]]).all()
    assert found.loudness[LAST, 30] == found.norm[LAST, 30] == 0
    assert "L5N30" not in set(found.neurons())
    np.testing.assert_allclose(found.logit_variance[LAST, :30], plain().logit_variance[LAST, :30], rtol=0.02)


def made_up(massive: list[int], frequency: list[int], entropy: list[int]) -> Flags:
    """Flags of 2 layers of 4 neurons, given as flat numbers; the measured values are 0 to 7."""
    kinds = [np.isin(np.arange(8), each).reshape(2, 4) for each in (massive, frequency, entropy)]
    values = np.arange(8.0).reshape(2, 4)
    return Flags(*kinds, *[values] * 5, thresholds=Thresholds())


def test_flags_by_kind_and_in_a_table() -> None:
    found = made_up([1, 6], [6], [3])
    assert found.neurons("massive").names == ("L0N1", "L1N2")
    assert found.neurons("frequency").names == ("L1N2",)
    assert found.neurons().names == ("L0N1", "L0N3", "L1N2")
    frame = found.to_frame()
    assert list(frame.columns[:3]) == ["layer", "neuron", "kinds"]
    assert frame[["layer", "neuron"]].to_numpy().tolist() == [[0, 1], [0, 3], [1, 2]]
    assert frame["kinds"].tolist() == ["massive", "entropy", "massive frequency"]
    assert frame["correlation"].tolist() == [1.0, 3.0, 6.0]
    assert made_up([], [], []).to_frame().empty
    with pytest.raises(NeuronError, match=r"^flags: no kind 'loud'; expected one of massive, frequency, entropy$"):
        Flags.neurons.__wrapped__(found, "loud")  # a user's Python has no type checks around it


FLAT = st.lists(st.integers(0, 7), unique=True)


@given(FLAT, FLAT, FLAT, FLAT)
@settings(max_examples=50)
def test_without_keeps_the_order_of_what_is_left(
    mine: list[int], massive: list[int], frequency: list[int], entropy: list[int]
) -> None:
    left = made_up(massive, frequency, entropy).without(NeuronSet.from_flat(np.array(mine, dtype=np.int64), 4))
    assert left.flat(4).tolist() == [each for each in mine if each not in {*massive, *frequency, *entropy}]


def test_without_refuses_the_neurons_of_another_model() -> None:
    with pytest.raises(NeuronError, match="neuron L2N0: the model has layers 0 to 1"):
        made_up([], [], []).without(NeuronSet.parse(["L2N0"]))


def test_errors_say_what_to_do() -> None:
    with pytest.raises(PosNeuronsError, match=r"^flags: smoothing=0.0; expected a number above 0, such as 1.0$"):
        flags(demo.model(), few(), smoothing=0.0)
    nobody = few().select(np.zeros(few().n_rows, dtype=bool))
    sentence = (
        r"every token of the vocabulary comes 0 times; expected some .* than others: give a corpus with sentences$"
    )
    with pytest.raises(PosNeuronsError, match=sentence):
        flags(demo.model(), nobody, statistics=token_statistics(demo.model(), few()))
