"""Sums and contrasts of effects against a plain loop over clusters, and what does not matter to them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from numpy import ndarray

from posneurons.effects import EffectAccumulator

N_TAGS, N_LAYERS, N_UNITS = 4, 2, 3  # tag 3 has no words


def build_words(n: int, seed: int) -> tuple[ndarray, ndarray, Float[ndarray, "word layer neuron"]]:
    """Tags 0..2, clusters, and effects that depend on both."""
    rng = np.random.default_rng(seed)
    tags, clusters = np.concatenate([[0, 1, 2], rng.integers(0, 3, n - 3)]), np.sort(rng.integers(0, max(2, n // 4), n))
    common = rng.normal(size=(clusters.max() + 1, N_LAYERS, N_UNITS))
    return tags, clusters, rng.normal(size=(n, N_LAYERS, N_UNITS)) + common[clusters] + 0.3 * tags[:, None, None]


def accumulate(
    tags: ndarray, clusters: ndarray, effects: Float[ndarray, "word layer neuron"], cuts: tuple[int, ...] = ()
) -> EffectAccumulator:
    state = EffectAccumulator(N_TAGS, N_LAYERS, N_UNITS)
    bounds = [0, *(int(np.searchsorted(clusters, cut)) for cut in cuts), len(tags)]
    for start, stop in itertools.pairwise(bounds):
        for layer in range(N_LAYERS):
            state.update(
                layer,
                torch.from_numpy(tags[start:stop]),
                torch.from_numpy(clusters[start:stop]),
                torch.from_numpy(effects[start:stop, layer]).float(),
            )
    return state


def slow_contrast(tags: ndarray, clusters: ndarray, effect: Float[ndarray, " word"], tag: int) -> float:
    """Difference of two means over its standard error, from each cluster's share in the error, one by one."""
    mine = tags == tag
    n_k, n_r = mine.sum(), (~mine).sum()
    mean_k, mean_r = effect[mine].mean(), effect[~mine].mean()
    shares = []
    for cluster in np.unique(clusters):
        here = clusters == cluster
        own, rest = effect[here & mine], effect[here & ~mine]
        shares.append((own.sum() - len(own) * mean_k) / n_k - (rest.sum() - len(rest) * mean_r) / n_r)
    variance = np.sum(np.square(shares)) * len(shares) / (len(shares) - 1)
    return float((mean_k - mean_r) / np.sqrt(variance))


@given(st.integers(12, 60), st.integers(0, 1000))
def test_mean_and_contrast_equal_a_loop_over_clusters(n: int, seed: int) -> None:
    tags, clusters, effects = build_words(n, seed)
    state = accumulate(tags, clusters, effects)
    mean, contrast = state.mean(), state.contrast(floored=False)
    np.testing.assert_array_equal(mean.count, np.bincount(tags, minlength=N_TAGS))
    for tag in range(3):
        np.testing.assert_allclose(mean.scores[tag], effects[tags == tag].mean(0), rtol=1e-5, atol=1e-6)
        for layer in range(N_LAYERS):
            for unit in range(N_UNITS):
                slow = slow_contrast(tags, clusters, effects[:, layer, unit], tag)
                assert contrast.scores[tag, layer, unit] == pytest.approx(slow, rel=1e-3, abs=1e-5)


@given(st.integers(12, 60), st.integers(0, 1000), st.lists(st.integers(0, 15), max_size=3).map(sorted))
def test_batches_do_not_matter_where_clusters_stay_whole(n: int, seed: int, cuts: list[int]) -> None:
    tags, clusters, effects = build_words(n, seed)
    whole, parts = accumulate(tags, clusters, effects), accumulate(tags, clusters, effects, tuple(cuts))
    np.testing.assert_allclose(parts.mean().scores, whole.mean().scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(parts.contrast().scores, whole.contrast().scores, rtol=1e-4, atol=1e-5)


def test_contrast_by_hand() -> None:
    # Two clusters of one word of each tag: tag 0 has effects 1 and 3, tag 1 has 0 and 1. Means 2 and 0.5, apart by 1.5.
    # Shares: (1-2)/2 - (0-0.5)/2 = -0.25 and (3-2)/2 - (1-0.5)/2 = 0.25; variance 2 * (0.0625 + 0.0625) = 0.25.
    state = EffectAccumulator(2, 1, 1)
    effects = torch.tensor([[1.0], [0.0], [3.0], [1.0]])
    state.update(0, torch.tensor([0, 1, 0, 1]), torch.tensor([7, 7, 9, 9]), effects)
    np.testing.assert_allclose(state.contrast(floored=False).scores.ravel(), [3, -3])
    np.testing.assert_allclose(state.contrast().scores.ravel(), [1.5, -1.5])  # 0.5 + the mean 0.5


def test_the_floor_puts_size_before_steadiness() -> None:
    rng, tags = np.random.default_rng(0), np.tile([0, 1], 200)
    effects = np.stack([1e-9 * (tags == 0) + 1e-10 * rng.normal(size=400), (tags == 0) + rng.normal(size=400)], axis=1)
    state = EffectAccumulator(2, 1, 3)
    clusters = torch.arange(400) // 2
    effects = np.concatenate([effects, rng.normal(size=(400, 1))], axis=1)
    state.update(0, torch.from_numpy(tags), clusters, torch.from_numpy(effects).float())
    plain, floored = state.contrast(floored=False).scores[0, 0], state.contrast().scores[0, 0]
    assert plain[0] > plain[1]
    assert floored[1] > 5 * floored[0] > 0


def test_what_is_undefined_is_nan() -> None:
    tags, clusters, effects = build_words(40, 0)
    effects[:, 0, 0] = 0
    state = accumulate(tags, clusters, effects)
    assert np.isnan(state.mean().scores[3]).all()
    assert np.isnan(state.contrast().scores[3]).all()
    assert np.isnan(state.contrast().scores[:, 0, 0]).all()
    assert np.isnan(state.contrast().scores).sum() == 6 + 3
    assert np.isnan(accumulate(np.zeros_like(tags), clusters, effects).contrast().scores).all()


def test_words_of_one_sentence_count_for_less_than_as_many_apart() -> None:
    tags, effects = np.tile([0, 1], 20), np.random.default_rng(0).normal(size=(40, N_LAYERS, N_UNITS))
    apart = accumulate(tags, np.arange(40) // 2, effects).contrast().scores
    twice = [np.concatenate([each, each]) for each in (tags, np.arange(40) // 2, effects)]
    order = np.argsort(twice[1], kind="stable")
    together = accumulate(*(each[order] for each in twice)).contrast().scores
    np.testing.assert_allclose(together[:2], apart[:2], rtol=1e-4)  # copies inside a cluster tell nothing new


def test_layers_must_see_the_same_words() -> None:
    state = EffectAccumulator(2, 2, 1)
    state.update(0, torch.tensor([0]), torch.tensor([0]), torch.ones(1, 1))
    with pytest.raises(RuntimeError, match=r"^the layers have seen different words$"):
        state.mean()
