"""Streaming histograms against numpy's search, their edges, and the scores from them against sklearn and exact ones."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import stats
from sklearn.metrics import average_precision_score, mutual_info_score, roc_auc_score
from torch import Tensor

from posneurons.errors import PosNeuronsError
from posneurons.histograms import HistogramAccumulator, equal_mass_edges, merge
from posneurons.ranking import HISTOGRAM_METHODS, auroc, average_precision, mutual_information
from posneurons.records import TagHistograms

TAGS = ("ADJ", "NOUN", "VERB", "X")  # X has no words
N_LAYERS, N_UNITS, N_BINS = 2, 3, 8
NAN = float("nan")


def build_words(n: int, seed: int = 0) -> tuple[Tensor, Float[Tensor, "layer word neuron"]]:
    """Tags 0..2, each at least once, and heavy-tailed activations of different places and scales."""
    rng = np.random.default_rng(seed)
    tags = np.concatenate([[0, 1, 2], rng.integers(0, 3, n - 3)])
    values = rng.standard_t(2, size=(N_LAYERS, n, N_UNITS)) * [1e-3, 1.0, 1e3] + [5.0, 0.0, -3.0]
    return torch.from_numpy(tags), torch.from_numpy(values + 0.3 * (tags == 1)[:, None]).float()


def accumulate(
    tags: Tensor, values: Float[Tensor, "layer word neuron"], edges: Tensor, cuts: tuple[int, ...] = ()
) -> TagHistograms:
    state = HistogramAccumulator(len(TAGS), edges)
    bounds = [0, *sorted(cuts), len(tags)]
    for start, stop in pairwise(bounds):
        for layer in range(len(values)):
            state.update(layer, tags[start:stop], values[layer, start:stop])
    return state.finalise(TAGS, "first")


def slow_bins(tags: Tensor, values: Tensor, edges: Tensor) -> Int[ndarray, "tag layer neuron bin"]:
    """Word by word, with numpy's binary search."""
    n_layers, _, n_units = values.shape
    found = np.zeros((len(TAGS), n_layers, n_units, edges.shape[2] + 1), dtype=np.int64)
    for layer in range(n_layers):
        for unit in range(n_units):
            places = np.searchsorted(edges[layer, unit].numpy(), values[layer, :, unit].float().numpy(), side="right")
            np.add.at(found, (tags.numpy(), layer, unit, places), 1)
    return found


def edges_of(values: Float[Tensor, "layer word neuron"], bins: int = N_BINS) -> Tensor:
    return torch.stack([equal_mass_edges(each, bins) for each in values])


def test_counts_by_hand() -> None:
    # Edges 0, 1, 4. NOUN: -2 | 0, 0.5 | 1 | 9 and VERB: 3.99 (third bin), 4 (last), infinity (last).
    tags = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    values = torch.tensor([-2.0, 0, 0.5, 1, 9, 3.99, 4, math.inf]).reshape(1, 8, 1)
    found = accumulate(tags, values, torch.tensor([[[0.0, 1, 4]]]))
    assert found.bins[:, 0, 0].tolist() == [[1, 2, 1, 1], [0, 0, 1, 2], [0] * 4, [0] * 4]
    assert found.count.tolist() == [5, 3, 0, 0]
    assert found.count.dtype == np.int64
    assert (found.tags, found.at) == (TAGS, "first")
    np.testing.assert_array_equal(found.edges, [[[0, 1, 4]]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bins_are_those_of_a_search_among_the_edges(dtype: torch.dtype) -> None:
    tags, values = build_words(3000)
    values = values.to(dtype)
    edges = edges_of(values[:, :400], 64)
    # Values at an edge, and the next ones below and above: where a table without the comparison goes wrong.
    near = torch.cat([edges, edges.nextafter(torch.tensor(math.inf)), edges.nextafter(torch.tensor(-math.inf))], 2)
    for each in (values, near.mT.nan_to_num()):  # bfloat16 repeats itself, so that some edges are infinite
        own = tags[: each.shape[1]]
        np.testing.assert_array_equal(accumulate(own, each, edges).bins, slow_bins(own, each, edges))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12), st.integers(0, 1000))
def test_any_edges_will_do(edges: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    given_edges = torch.tensor(sorted(edges)).reshape(1, 1, -1)
    values = torch.from_numpy(
        np.concatenate([rng.choice(edges, 20), rng.normal(size=20) * 10.0 ** rng.integers(-3, 6)])
    )
    values, tags = values.float().reshape(1, 40, 1), torch.from_numpy(rng.integers(0, 3, 40))
    np.testing.assert_array_equal(accumulate(tags, values, given_edges).bins, slow_bins(tags, values, given_edges))


@given(st.integers(4, 60), st.integers(0, 1000), st.lists(st.integers(0, 60), max_size=3))
def test_batches_do_not_matter_and_merging_equals_the_whole(n: int, seed: int, cuts: list[int]) -> None:
    tags, values = build_words(n, seed)
    edges = edges_of(values)
    whole = accumulate(tags, values, edges)
    np.testing.assert_array_equal(whole.bins, slow_bins(tags, values, edges))
    np.testing.assert_array_equal(whole.count, np.bincount(tags, minlength=len(TAGS)))
    inside = [min(cut, n) for cut in cuts]
    np.testing.assert_array_equal(accumulate(tags, values, edges, tuple(inside)).bins, whole.bins)
    cut = n // 3
    parts = merge(accumulate(tags[:cut], values[:, :cut], edges), accumulate(tags[cut:], values[:, cut:], edges))
    np.testing.assert_array_equal(parts.bins, whole.bins)
    np.testing.assert_array_equal(parts.count, whole.count)


def test_more_neurons_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    tags, values = build_words(50)
    whole = accumulate(tags, values, edges_of(values))
    monkeypatch.setattr("posneurons.histograms._BLOCK", 100)  # two neurons of fifty words, then one
    np.testing.assert_array_equal(accumulate(tags, values, edges_of(values)).bins, whole.bins)


def test_the_caller_s_values_stay_and_a_result_does_not_change_later() -> None:
    tags, values = build_words(50)
    before, edges = values.clone(), edges_of(values)
    state = HistogramAccumulator(len(TAGS), edges)
    for layer in range(N_LAYERS):
        state.update(layer, tags, values[layer])
    first = state.finalise(TAGS, "last")
    kept = first.bins.copy()
    assert torch.equal(values, before)
    state.update(0, tags, values[0])
    np.testing.assert_array_equal(first.bins, kept)
    with pytest.raises(RuntimeError, match=r"^the layers have seen different words$"):
        state.finalise(TAGS, "last")


def test_what_is_not_alike_is_not_merged() -> None:
    tags, values = build_words(50)
    a = accumulate(tags, values, edges_of(values))
    b = accumulate(tags, values, edges_of(values) + 1)
    with pytest.raises(ValueError, match="not alike"):
        merge(a, b)


def test_edges_by_hand() -> None:
    # Eight words, four bins: every other word in order begins a bin.
    values = torch.tensor([8.0, 1, 7, 2, 6, 3, 5, 4])[:, None]
    assert equal_mass_edges(values, 4).tolist() == [[3, 5, 7]]


def test_edges_cut_the_words_in_equal_parts() -> None:
    values = torch.from_numpy(np.random.default_rng(0).permutation(6400) ** 3.0)[None, :, None].float()
    edges = edges_of(values, 64)
    found = accumulate(torch.zeros(6400, dtype=torch.int64), values, edges).bins
    assert (found[0] == 100).all()


@pytest.mark.parametrize("atom", [0.0, -0.17, 3e4])
def test_a_frequent_value_has_a_bin_to_itself(atom: float) -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(size=(1000, 1)) + atom).float()
    values[rng.random(1000) < 0.6] = atom
    edges = equal_mass_edges(values, 16)
    assert edges.isinf().sum() > 5  # that many bins would have been the same value's
    assert (edges[:, 1:] >= edges[:, :-1]).all()
    found = accumulate(torch.zeros(1000, dtype=torch.int64), values[None], edges[None]).bins[0, 0, 0]
    assert (values == atom).sum().item() in found.tolist()
    # So the exact area: ties with that value are ties in the bins too, and nothing else is.
    constant = equal_mass_edges(torch.full((100, 1), atom), 16)
    assert constant.isfinite().sum() == 2


def test_requests_that_make_no_sense_are_errors() -> None:
    for bins in (1, 257):
        with pytest.raises(PosNeuronsError, match=rf"^histograms: bins={bins}; expected 2 to 256$"):
            equal_mass_edges(torch.zeros(5, 1), bins)
    with pytest.raises(PosNeuronsError, match=r"^histograms: no word to take the edges from; give longer sentences$"):
        equal_mass_edges(torch.zeros(0, 1), 8)


def histogram(bins: object) -> TagHistograms:
    """Of one layer with one neuron, from counts [tag bin]."""
    table = np.array(bins, dtype=np.int32)[:, None, None]
    edges = np.arange(table.shape[-1] - 1, dtype=np.float32)[None, None]
    return TagHistograms(TAGS[: len(table)], "first", table[:, 0, 0].sum(1), edges, table)


def test_scores_by_hand() -> None:
    # ADJ: 0, 1, 3 words in three bins; NOUN: 2, 1, 1. Of the 16 pairs ADJ is higher in 1*2 + 3*3 = 11 and ties in
    # 1*1 + 3*1 = 4.
    found = histogram([[0, 1, 3], [2, 1, 1]])
    np.testing.assert_allclose(auroc(found).ravel(), [13 / 16, 3 / 16])
    # From the top, ADJ: 3 of 4, then 4 of 6. NOUN: 1 of 4, 2 of 6, 4 of 8.
    np.testing.assert_allclose(
        average_precision(found).ravel(),
        [3 / 4 * 3 / 4 + 1 / 4 * 4 / 6, 1 / 4 * 1 / 4 + 1 / 4 * 2 / 6 + 2 / 4 * 4 / 8],
    )
    # Joint 3/8 (1/2 * 1/2 expected), 1/8, 1/8 (1/8), 2/8 (1/8), 1/8 (1/4); 3 bins and 5 cells with a word: less 1/16.
    plain = 3 / 8 * np.log(3 / 2) + 2 / 8 * np.log(2) + 1 / 8 * np.log(1 / 2)
    np.testing.assert_allclose(mutual_information(found).ravel(), [plain - 1 / 16] * 2)


@settings(max_examples=40)
@given(st.integers(2, 30), st.integers(0, 1000))
def test_scores_equal_those_of_sklearn_on_the_bin_numbers(n_bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tags, places = np.concatenate([[0, 1, 2], rng.integers(0, 3, 57)]), rng.integers(0, n_bins, 60)
    places[:2] = 0, n_bins - 1
    bins = np.zeros((3, n_bins), dtype=int)
    np.add.at(bins, (tags, places), 1)
    found = {name: method(histogram(bins))[:, 0, 0] for name, method in HISTOGRAM_METHODS.items()}
    for tag in range(3):
        mine = tags == tag
        assert found["auroc"][tag] == pytest.approx(roc_auc_score(mine, places))
        assert found["auroc"][tag] == pytest.approx(
            stats.mannwhitneyu(places[mine], places[~mine]).statistic / (mine.sum() * (~mine).sum())
        )
        assert found["average_precision"][tag] == pytest.approx(average_precision_score(mine, places))
        occupied, joint = len(set(places)), len(set(zip(mine, places, strict=True)))
        corrected = mutual_info_score(mine, places) - (joint - occupied - 1) / 120
        assert found["mutual_information"][tag] == pytest.approx(corrected, abs=1e-12)


@pytest.mark.parametrize("name", HISTOGRAM_METHODS)
def test_undefined_scores(name: str) -> None:
    method = HISTOGRAM_METHODS[name]
    assert np.isnan(method(histogram([[1, 2], [3, 4], [0, 0]]))).ravel().tolist() == [False, False, True]
    assert np.isnan(method(histogram([[1, 2], [0, 0]]))).all()  # every word has the tag
    assert np.isnan(method(histogram([[0, 2], [0, 4]]))).all()  # one bin: no sign that the neuron varies
    assert np.isnan(method(histogram([[0, 0], [0, 0]]))).all()


@pytest.mark.parametrize("name", HISTOGRAM_METHODS)
def test_a_neuron_with_a_nan_is_undefined_and_changes_no_other(name: str) -> None:
    tags, values = build_words(300)
    clean = HISTOGRAM_METHODS[name](accumulate(tags, values, edges_of(values)))
    values[1, 7, 2] = NAN
    found = HISTOGRAM_METHODS[name](accumulate(tags, values, edges_of(values)))
    assert np.isnan(found[:, 1, 2]).all()
    found[:3, 1, 2] = clean[:3, 1, 2]
    np.testing.assert_array_equal(found, clean)


def test_mutual_information_of_nothing_is_zero_on_average() -> None:
    rng = np.random.default_rng(0)
    tags, values = torch.from_numpy(rng.integers(0, 2, 2000)), torch.from_numpy(rng.normal(size=(1, 2000, 300))).float()
    found = mutual_information(accumulate(tags, values, edges_of(values, 64)))[0, 0]
    plain = 63 / 4000  # what it would be without the correction, on average
    assert abs(found.mean()) < 0.1 * plain
    assert (found < 0).any()


def test_the_area_is_within_its_bound_of_the_exact_one() -> None:
    tags, values = build_words(4000)
    for bins in (4, 64):
        histograms = accumulate(tags, values, edges_of(values[:, :1000], bins))
        found = auroc(histograms)
        for tag in range(3):
            for layer in range(N_LAYERS):
                for unit in range(N_UNITS):
                    mine, rest = histograms.bins[tag, layer, unit], histograms.bins[:, layer, unit].sum(0)
                    rest = rest - mine
                    bound = (mine / mine.sum() * rest / rest.sum()).sum() / 2
                    exact = roc_auc_score((tags == tag).numpy(), values[layer, :, unit].numpy())
                    assert abs(found[tag, layer, unit] - exact) <= bound + 1e-12
                    assert bins < 64 or abs(found[tag, layer, unit] - exact) < 0.002
