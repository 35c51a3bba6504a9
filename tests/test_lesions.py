"""The lesion engine over corpora against the plain TransformerLens loop, and its causal sanity."""

from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import demo
import numpy as np
import pytest
import torch
from scarce import small

import posneurons as pn
from posneurons import forks, lesions, memory, models, singles
from posneurons.errors import AlignmentError, NeuronError
from posneurons.fills import Condition, Fill, make_fills
from posneurons.lesions import WordLosses, word_losses
from posneurons.lexicon import lexicon
from posneurons.records import Corpus

SETS = (["L0N3", "L2N700", "L2N4", "L5N10"], [f"L4N{u}" for u in range(300)], [])


def few() -> Corpus:
    return demo.small().select(np.arange(demo.small().n_rows) % 4 == 0)


def conditions(fill: Fill, *sets: list[str], scope: Any = "all") -> list[Condition]:
    return [Condition(pn.NeuronSet.parse(names), (fill,), scope) for names in sets]


@torch.no_grad()
def plain_log_probs(corpus: Corpus, row: int, neurons: pn.NeuronSet, fill: torch.Tensor) -> torch.Tensor:
    """What a user would write: run_with_hooks per row, full logits, log-softmax."""

    def ablate(value: torch.Tensor, hook: object, layer: int) -> torch.Tensor:  # noqa: ARG001
        value = value.clone()
        for unit in neurons.units[neurons.layers == layer]:
            value[:, 1:, unit] = fill[layer, unit]
        return value

    tokens = torch.from_numpy(corpus.row_tokens(row))[None]
    hooks = [(f"blocks.{la}.mlp.hook_post", partial(ablate, layer=la)) for la in set(neurons.layers.tolist())]
    found: torch.Tensor = demo.model().run_with_hooks(tokens, fwd_hooks=hooks).log_softmax(-1)[0]
    return found


def plain_losses(corpus: Corpus, neurons: pn.NeuronSet, fill: torch.Tensor) -> np.ndarray:
    """First token's loss, whole word's loss and loss of the category of every scored word [measure word]."""
    table = lexicon(corpus, 4096).table
    of_row, losses = {row: plain_log_probs(corpus, row, neurons, fill) for row in range(corpus.n_rows)}, []
    for word in corpus.readable("predict"):
        row, first, last = corpus.word_row[word], corpus.word_first[word], corpus.word_last[word]
        log_probs, tokens = of_row[row], corpus.row_tokens(row)
        nats = [-log_probs[t - 1, tokens[t]].item() for t in range(first, last + 1)]
        share = log_probs[first - 1].exp().double() @ table[:, corpus.word_tag[word]].double()
        losses.append([nats[0], sum(nats), -share.log().item()])
    return np.array(losses).T


def test_every_measure_equals_the_plain_loop() -> None:
    corpus = few().select(np.arange(few().n_rows) < 5)
    (fill,) = make_fills(demo.model(), corpus, corpus, "mean", pn.NeuronSet.parse([]))
    found = word_losses(
        demo.model(), corpus, conditions(fill, *SETS),
        measures=("first", "word", "category"), lexicon=lexicon(corpus, 4096), tokens=100,
    )  # fmt: skip
    assert fill.offset is not None
    np.testing.assert_array_equal(found.words, corpus.readable("predict"))
    assert (corpus.word_last > corpus.word_first).any()
    for number, names in enumerate(SETS):
        expected = plain_losses(corpus, pn.NeuronSet.parse(names), fill.offset)
        np.testing.assert_allclose(found.lesioned[:, number], expected, atol=1e-4)
    np.testing.assert_array_equal(found.lesioned[:, 2], found.intact)
    assert np.abs(found.rises("category")[1]).max() > 0.05
    np.testing.assert_array_equal(found.rises(), found.lesioned[0].astype(float) - found.intact[0])


def test_bos_is_never_ablated_and_words_after_it_are_not_scored() -> None:
    corpus = few()
    found = word_losses(demo.model(), corpus, [])
    assert found.lesioned.shape == (1, 0, len(found.words))
    assert (corpus.word_first[found.words] > 1).all()
    assert len(found.words) == (corpus.word_first > 1).sum()
    part = next(lesions.word_batches(demo.model(), corpus, ("first",), None, 300))
    inside = part.reads.tokens != corpus.bos
    assert torch.equal(part.reads.ablated, inside)
    assert not part.reads.ablated[:, 0].any()


def test_tokens_are_numbered_as_in_the_corpus() -> None:
    corpus, seen = few(), []
    for part in lesions.word_batches(demo.model(), corpus, ("first",), None, 500):
        here = part.reads.ablated
        assert (corpus.tokens[part.reads.number[here].numpy()] == part.reads.tokens[here].numpy()).all()
        seen.append(part.reads.number[here].numpy())
    assert sorted(np.concatenate(seen)) == list(range(len(corpus.tokens)))


def test_chosen_positions() -> None:
    """Ablated nowhere nothing changes; ablated where a word is predicted, in the last layer, that word alone does."""
    corpus, fill = few(), Fill(torch.ones(6, 768))
    lesion = conditions(fill, ["L5N10", "L5N11"])
    nowhere = word_losses(demo.model(), corpus, lesion, where=np.zeros(len(corpus.tokens), dtype=bool))
    np.testing.assert_allclose(nowhere.lesioned[:, 0], nowhere.intact, atol=1e-6)
    chosen = corpus.readable("predict")[[5, 40]]
    where = np.zeros(len(corpus.tokens), dtype=bool)
    where[corpus.row_bounds[corpus.word_row[chosen]] + corpus.word_first[chosen] - 2] = True
    found, everywhere = (word_losses(demo.model(), corpus, lesion, where=each) for each in (where, None))
    mine = np.isin(found.words, chosen)
    np.testing.assert_allclose(found.lesioned[0, 0][mine], everywhere.lesioned[0, 0][mine], atol=1e-5)
    np.testing.assert_allclose(found.rises()[0][~mine], 0, atol=1e-5)
    assert np.abs(found.rises()[0][mine]).min() > 1e-4


def test_a_local_lesion_is_followed_at_the_predicting_position_only() -> None:
    """In layer 5 nothing can travel to a later position, so that both scopes are the same; in layer 0 it does."""
    corpus, fill = few(), Fill(torch.ones(6, 768))
    sets = (["L5N10", "L5N11"], ["L0N3", "L2N4"])
    found = word_losses(
        demo.model(), corpus, [*conditions(fill, *sets), *conditions(fill, *sets, scope="local")]
    ).lesioned[0]
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)
    assert np.abs(found[3] - found[1]).max() > 1e-3


@pytest.mark.parametrize("tokens", [1, 150, 4000])
def test_batches_do_not_matter(tokens: int) -> None:
    corpus, fill = few(), Fill(torch.ones(6, 768))
    expected, found = (
        word_losses(demo.model(), corpus, conditions(fill, *SETS), tokens=size).lesioned for size in (700, tokens)
    )
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("fits", [60, 250])
def test_a_batch_that_does_not_fit_is_halved_with_a_note(fits: int) -> None:
    corpus, fill = few(), Fill(torch.ones(6, 768))
    corpus = corpus.select(np.diff(corpus.row_bounds) < 50)
    how: dict[str, Any] = {"measures": ("first", "word"), "tokens": 800}
    expected = word_losses(demo.model(), corpus, conditions(fill, *SETS), **how)
    with (
        patch.object(models, "residual", small(models.residual, fits)),
        patch.object(forks, "lean_residual", small(forks.lean_residual, fits, axes=1)),
    ):
        found = word_losses(demo.model(), corpus, conditions(fill, *SETS), **how)
    np.testing.assert_allclose(found.lesioned, expected.lesioned, atol=2e-5)
    np.testing.assert_allclose(found.intact, expected.intact, atol=2e-5)
    assert expected.notes == ()
    (note,) = found.notes
    assert note.startswith("memory ran out ")


def test_less_is_run_at_once_where_memory_is_planned_to_hold_less() -> None:
    corpus, fill = few(), Fill(torch.ones(6, 768))
    with patch.object(memory, "free_bytes", return_value=70_000_000):
        found = word_losses(demo.model(), corpus, conditions(fill, *SETS))
    (note,) = found.notes
    assert "tokens instead of 2048" in note
    expected = word_losses(demo.model(), corpus, conditions(fill, *SETS))
    np.testing.assert_allclose(found.lesioned, expected.lesioned, atol=2e-5)


@pytest.mark.parametrize("scope", ["all", "local"])
def test_exact_effects_are_the_means_of_single_lesions(scope: Any) -> None:
    corpus = replace(few(), tags=(*few().tags, "NONE"))
    neurons = pn.NeuronSet.parse(["L3N5", "L0N2", "L5N700"])
    fills = make_fills(demo.model(), corpus, corpus, "mean", neurons)
    effects = singles.exact_effects(demo.model(), corpus, neurons, fill="mean", scope=scope, tokens=500)
    found: WordLosses = word_losses(
        demo.model(), corpus, [Condition(pn.NeuronSet.parse([name]), fills, scope) for name in neurons]
    )
    for number in range(len(corpus.tags) - 1):
        mine = corpus.word_tag[found.words] == number
        expected = found.rises()[:, mine].mean(1) if mine.any() else np.full(3, np.nan)
        np.testing.assert_allclose(effects[number], expected, atol=2e-6)
        assert lesions.scored_words(corpus)[number] == mine.sum()
    assert np.isnan(effects[-1]).all()
    assert np.nanmax(np.abs(effects)) > 1e-4


def test_errors_say_what_to_do() -> None:
    corpus: Corpus = few()
    with pytest.raises(AlignmentError, match=r"where=3 positions were given; expected one for each of its \d+ tokens"):
        word_losses(demo.model(), corpus, [], where=np.zeros(3, dtype=bool))
    category: Any = {"measures": ("category",)}
    with pytest.raises(AlignmentError, match="needs a lexicon of its tags; none was given"):
        word_losses(demo.model(), corpus, [], **category)
    other = lexicon(replace(corpus, tags=tuple(f"T{k}" for k in range(len(corpus.tags)))), 4096)
    with pytest.raises(AlignmentError, match="needs a lexicon of its tags; it has the tags T0, T1"):
        word_losses(demo.model(), corpus, [], lexicon=other, **category)
    with pytest.raises(NeuronError, match=r"neuron L0N900: the model has layers 0 to 5 and units 0 to 767"):
        word_losses(demo.model(), corpus, conditions(Fill(), ["L0N900"]))
