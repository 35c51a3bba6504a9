"""The lesion engine against the plain TransformerLens loop, and its causal sanity."""

from dataclasses import replace
from functools import partial
from inspect import unwrap
from typing import Any

import demo
import numpy as np
import pytest
import torch

import posneurons as pn
from posneurons import forks, lesions
from posneurons.activations import token_means
from posneurons.errors import AlignmentError, NeuronError
from posneurons.records import Corpus


def few() -> Corpus:
    return demo.small().select(np.arange(demo.small().n_rows) % 4 == 0)


@torch.no_grad()
def plain_losses(corpus: Corpus, neurons: pn.NeuronSet, fill: torch.Tensor) -> np.ndarray:
    """What a user would write: run_with_hooks per row, full logits, log-softmax, gather."""

    def ablate(value: torch.Tensor, hook: object, layer: int) -> torch.Tensor:  # noqa: ARG001
        value = value.clone()
        for unit in neurons.units[neurons.layers == layer]:
            value[:, 1:, unit] = fill[layer, unit]
        return value

    losses = []
    for row in range(corpus.n_rows):
        tokens = torch.from_numpy(corpus.row_tokens(row))[None]
        hooks = [(f"blocks.{la}.mlp.hook_post", partial(ablate, layer=la)) for la in set(neurons.layers.tolist())]
        log_probs = demo.model().run_with_hooks(tokens, fwd_hooks=hooks).log_softmax(-1)[0]
        for word in np.flatnonzero(corpus.word_row == row):
            first = corpus.word_first[word]
            if first > 1:
                losses.append(-log_probs[first - 1, tokens[0, first]].item())
    return np.array(losses)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_losses_equal_the_plain_loop(ablation: str) -> None:
    corpus = few()
    sets = [
        pn.NeuronSet.parse(["L0N3", "L2N700", "L2N4", "L5N10"]),
        pn.NeuronSet.parse([f"L4N{u}" for u in range(300)]),
    ]
    fill = lesions.fill_values(demo.model(), corpus, ablation)
    words, intact, losses = lesions.word_losses(demo.model(), corpus, sets, fill, tokens=700)
    order = np.argsort(corpus.word_row[words], kind="stable")
    np.testing.assert_allclose(intact[order], plain_losses(corpus, pn.NeuronSet.parse([]), fill), atol=1e-4)
    for condition, neurons in enumerate(sets):
        np.testing.assert_allclose(losses[condition][order], plain_losses(corpus, neurons, fill), atol=1e-4)
    assert np.abs(losses[1] - intact).max() > 0.05


def test_a_lesion_that_changes_nothing_changes_nothing() -> None:
    corpus = few()
    fill = token_means(demo.model(), corpus)
    _, intact, losses = lesions.word_losses(demo.model(), corpus, [pn.NeuronSet.parse([])], fill)
    np.testing.assert_array_equal(losses[0], intact)


def test_bos_is_never_ablated_and_words_after_it_are_not_scored() -> None:
    corpus = few()
    words, _, _ = lesions.word_losses(demo.model(), corpus, [], torch.zeros(6, 768))
    assert (corpus.word_first[words] > 1).all()
    assert len(words) == (corpus.word_first > 1).sum()
    value = torch.ones(2, 3, 768)
    (_, hook), *_ = forks.ablation_hooks([{1: torch.tensor([7])}], torch.zeros(6, 768))
    out = hook(value, None)
    assert out[:, 0].eq(1).all()
    assert out[:, 1:, 7].eq(0).all()
    assert out.sum() == 2 * 3 * 768 - 4


def test_lesion_study_of_two_tags() -> None:
    corpus = demo.small()
    keys = pn.rank(demo.model(), corpus).top(15)
    result = pn.lesion(demo.model(), corpus, {t: keys[t] for t in ("NOUN", "VERB")}, controls=3, seed=4, draws=500)
    frame = result.to_frame()
    assert len(frame) == 2 * 4 * len(corpus.tags)
    real = frame[(frame["draw"] == 0) & (frame["words"] > 0)]
    np.testing.assert_allclose(real["loss_lesioned"] - real["loss_intact"], real["delta"], atol=1e-6)
    assert (real["ci_low"] <= real["delta"] + 1e-9).all()
    assert (real["ci_high"] >= real["delta"] - 1e-9).all()
    everyone = {*keys["NOUN"].names, *keys["VERB"].names}
    for lesioned, draw, neurons in zip(result.lesion, result.draw, result.neurons, strict=True):
        np.testing.assert_array_equal(neurons.layer_profile(6), keys[lesioned].layer_profile(6))
        assert draw == 0 or not everyone & set(neurons.names)
    again = pn.lesion(demo.model(), corpus, {t: keys[t] for t in ("NOUN", "VERB")}, controls=3, seed=4, draws=500)
    assert again.to_frame().equals(frame)


def test_errors_say_what_to_do() -> None:
    corpus, some = few(), {"NOUN": pn.NeuronSet.parse(["L0N1"])}
    with pytest.raises(NeuronError, match="lesion: no key neurons were given"):
        pn.lesion(demo.model(), corpus, {})
    with pytest.raises(NeuronError, match=r"neuron L0N900: the model has layers 0 to 5 and units 0 to 767"):
        pn.lesion(demo.model(), corpus, {"NOUN": pn.NeuronSet.parse(["L0N900"])})
    with pytest.raises(NeuronError, match="ablation 'burn': no such ablation; expected one of"):
        unwrap(lesions.fill_values)(demo.model(), corpus, "burn")  # a user's Python has no type checks around it
    with pytest.raises(AlignmentError, match="no split 'held out'"):
        pn.lesion(demo.model(), corpus.split("train"), some, split="held out")
    with pytest.raises(AlignmentError, match="cluster='word': expected 'sentence' or 'document'"):
        pn.lesion(demo.model(), corpus, some, cluster="word")
    openers = replace(corpus, word_first=np.ones_like(corpus.word_first))
    with pytest.raises(AlignmentError, match=r"the split 'test' has no word to score \(all \d+ are the first"):
        pn.lesion(demo.model(), openers, some)
    wide = {"NOUN": pn.NeuronSet.parse([f"L0N{u}" for u in range(500)])}
    with pytest.raises(NeuronError, match="layer 0 has 268 neurons outside all key sets, but 500 are needed"):
        pn.lesion(demo.model(), corpus, wide)


def test_a_local_lesion_is_followed_at_the_predicting_position_only() -> None:
    """In layer 5 nothing can travel to a later position, so that both scopes are the same; in layer 0 it does."""
    corpus = few()
    sets, fill = [pn.NeuronSet.parse(names) for names in (["L5N10", "L5N11"], ["L0N3", "L2N4"])], torch.ones(6, 768)
    _, intact, everywhere = lesions.word_losses(demo.model(), corpus, sets, fill)
    _, same, local = lesions.word_losses(demo.model(), corpus, sets, fill, scope="local")
    np.testing.assert_array_equal(intact, same)
    np.testing.assert_allclose(local[0], everywhere[0], atol=1e-5)
    assert np.abs(local[1] - everywhere[1]).max() > 1e-3
    result = pn.lesion(demo.model(), demo.small(), {"NOUN": sets[1]}, scope="local", controls=1, draws=50)
    assert set(result.to_frame()["scope"]) == {"local"}


@pytest.mark.parametrize("scope", ["all", "local"])
def test_exact_effects_are_the_means_of_single_lesions(scope: Any) -> None:
    corpus = replace(few(), tags=(*few().tags, "NONE"))
    neurons = pn.NeuronSet.parse(["L3N5", "L0N2", "L5N700"])
    fill = lesions.fill_values(demo.model(), corpus, "mean")
    effects = lesions.exact_effects(demo.model(), corpus, neurons, fill="mean", scope=scope, tokens=500)
    singles = [pn.NeuronSet.parse([name]) for name in neurons]
    words, intact, losses = lesions.word_losses(demo.model(), corpus, singles, fill, scope=scope)
    for number in range(len(corpus.tags) - 1):
        mine = corpus.word_tag[words] == number
        expected = (losses[:, mine] - intact[mine]).astype(np.float64).mean(1) if mine.any() else np.full(3, np.nan)
        np.testing.assert_allclose(effects[number], expected, atol=2e-6)
        assert lesions.scored_words(corpus)[number] == mine.sum()
    assert np.isnan(effects[-1]).all()
    assert np.nanmax(np.abs(effects)) > 1e-4
