"""Generation with neurons changed, against a slow loop, and by random numbers that a change does not touch."""

import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import demo
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steered import QUICK, SOME, TEXTS, markov, starts

import posneurons as pn
from posneurons import models
from posneurons.activations import token_statistics
from posneurons.generation import Change, Sampling, batched, generate, loss_per_token
from posneurons.neurons import NeuronSet
from posneurons.steering import _decode, steer


def test_a_seed_says_what_is_drawn() -> None:
    first = steer(demo.model(), TEXTS, SOME, seed=3, **QUICK)
    again = steer(demo.model(), TEXTS, SOME, seed=3, **QUICK)
    assert first.continuations == again.continuations
    assert first.tokens == again.tokens
    assert first.tokens != steer(demo.model(), TEXTS, SOME, seed=4, **QUICK).tokens
    assert all(a != b for a, b in first.tokens)
    assert [len(each) for each in first.continuations] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    "change",
    [
        Change(NeuronSet.parse([]), "clamp", (5.0,) * 6),
        Change(SOME, "scale", (1.0,) * 6),
        Change(SOME, "add", (0.0,) * 6),
        Change(SOME, "add", (9.0,) * 6, torch.zeros(6, 768)),
        Change(SOME, "clamp", ()),
    ],
    ids=["no neurons", "times 1", "plus 0", "without spread", "no steps"],
)
def test_no_change_changes_nothing_exactly(change: Change) -> None:
    intact = generate(demo.model(), starts(), sampling=Sampling(**QUICK))
    assert generate(demo.model(), starts(), change, sampling=Sampling(**QUICK)) == intact
    tokens = torch.tensor([starts()[1]])
    with torch.no_grad():
        plain = models.residual(demo.model(), tokens)
        changed = models.residual(demo.model(), tokens, change.hooks(torch.arange(tokens.shape[1])[None] - 1))
    assert torch.equal(plain, changed)


@torch.no_grad()
def slowly(start: tuple[int, ...], change: Change, sampling: Sampling, number: int) -> tuple[int, ...]:
    """One text by TransformerLens's cache of keys and values: each position is read once, with its step's value."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache as Cache

    model = demo.model()
    cache = Cache.init_cache(model.cfg, "cpu", 1)
    rng = np.random.default_rng([sampling.seed, number, *start])
    ids, fed = list(start), list(start)
    for step in range(sampling.tokens):

        def edit(value: Any, hook: Any, step: int = step, n_fed: int = len(fed)) -> Any:
            if step < len(change.values):
                begin = 1 if n_fed == len(start) and step == 0 else 0
                units = torch.from_numpy(change.neurons.by_layer()[hook.layer()])
                amount, live = change.values[step], value[:, begin:, units]
                new = {"scale": live * amount, "clamp": live * 0 + amount, "add": live + amount}[change.kind]
                value[:, begin:, units] = new
            return value

        hooks = [(models.post_name(layer), edit) for layer in change.neurons.by_layer()]
        with model.hooks(fwd_hooks=hooks):
            logits = model(torch.tensor([fed]), past_kv_cache=cache)[0, -1].double().numpy()
        if sampling.top_k is not None:
            logits[np.argsort(logits)[: -sampling.top_k]] = -np.inf
        noise = -np.log(rng.standard_exponential(len(logits)))
        fed = [int(np.argmax(logits + sampling.temperature * noise))]
        ids += fed
    return tuple(ids[len(start) :])


@pytest.mark.parametrize(
    ("change", "sampling"),
    [
        (Change(SOME, "scale", (3.0,) * 8), Sampling(8, 2, seed=1)),
        (Change(SOME, "clamp", (2.0, -2.0, 1.0)), Sampling(8, 1, temperature=0.7, top_k=20)),
        (Change(SOME, "add", (6.0,)), Sampling(8, 1, temperature=0.0)),
    ],
    ids=["scale", "clamp by step", "add once"],
)
def test_generation_is_that_of_a_slow_loop_with_a_cache(change: Change, sampling: Sampling) -> None:
    found = generate(demo.model(), starts()[:3], change, sampling=sampling)
    for start, each in zip(starts(), found, strict=False):
        assert each == tuple(slowly(start, change, sampling, number) for number in range(sampling.continuations))
    assert found != generate(demo.model(), starts()[:3], sampling=sampling)


DOUBLED = Change(SOME, "scale", (2.0,) * 5), Sampling(5, 2)


@cache
def alone(start: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """What is written after one beginning, without others beside it."""
    change, sampling = DOUBLED
    return generate(demo.model(), [start], change, sampling=sampling)[0]


@settings(max_examples=6, deadline=None)
@given(order=st.permutations(range(4)), batch=st.sampled_from([1, 20, 45, 4096]))
def test_neither_batch_nor_other_prompts_matter(order: list[int], batch: int) -> None:
    beginnings, (change, sampling) = [starts()[n] for n in order], DOUBLED
    mixed = generate(demo.model(), beginnings, change, sampling=sampling, batch_tokens=batch)
    assert list(mixed) == [alone(start) for start in beginnings]


def test_batches_hold_at_most_so_many_tokens() -> None:
    assert list(batched("abcde", [2, 3, 1, 9, 1], 6)) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert list(batched("abcde", [2, 3, 1, 9, 1], 9)) == [["a", "b", "c"], ["d"], ["e"]]
    assert list(batched("", [], 6)) == []


def test_both_backends_write_the_same() -> None:
    bridge = pn.load_model(backend="bridge", device="cpu", dtype=torch.float32)
    for change, value in (("scale", 3.0), ("add", 1.0)):
        texts = [steer(each, TEXTS, SOME, change=change, value=value, **QUICK) for each in (demo.model(), bridge)]
        assert texts[0].tokens == texts[1].tokens
        losses = [loss_per_token(each, starts(), texts[0].tokens) for each in (demo.model(), bridge)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_bos_is_never_changed() -> None:
    change = {"change": "clamp", "value": 50.0, "tokens": 1}
    empty = [steer(demo.model(), [""], each, **change).tokens for each in (SOME, NeuronSet.parse([]))]
    assert empty[0] == empty[1]
    prompt = [steer(demo.model(), ["The"], each, **change).tokens for each in (SOME, NeuronSet.parse([]))]
    assert prompt[0] != prompt[1]


def test_a_few_steps_are_the_first_ones() -> None:
    options = {"change": "add", "tokens": 5, "continuations": 2}
    limited = steer(demo.model(), TEXTS, SOME, value=2.0, steps=2, **options)
    assert limited.change is not None
    assert limited.change.values == (2.0, 2.0)
    assert limited.tokens == steer(demo.model(), TEXTS, SOME, value=(2.0, 2.0), **options).tokens
    assert limited.tokens == steer(demo.model(), TEXTS, SOME, value=[2.0, 2.0, 0.0, 0.0, 0.0], **options).tokens
    whole = steer(demo.model(), TEXTS, SOME, value=2.0, **options)
    assert limited.tokens != whole.tokens
    assert [t[:2] for each in limited.tokens for t in each] == [t[:2] for each in whole.tokens for t in each]


def test_spread_is_the_unit_of_what_is_added() -> None:
    spread = token_statistics(demo.model(), demo.small()).sd
    options = {"change": "add", "value": 4.0, **QUICK}
    pushed = steer(demo.model(), TEXTS, SOME, spread=spread, **options)
    plain = steer(demo.model(), TEXTS, SOME, **options)
    assert pushed.tokens == steer(demo.model(), TEXTS, SOME, spread=2 * spread, **options | {"value": 2.0}).tokens
    assert (
        pushed.tokens != plain.tokens == steer(demo.model(), TEXTS, SOME, spread=torch.ones(6, 768), **options).tokens
    )


def test_a_text_ends_where_the_model_ends_it() -> None:
    sampling = Sampling(tokens=12, continuations=6)
    whole = generate(demo.model(), starts()[:1], sampling=sampling)[0]
    end = whole[0][4]
    cut = generate(demo.model(), starts()[:1], sampling=sampling, stop={end})[0]
    assert cut == tuple(ids[: ids.index(end)] if end in ids else ids for ids in whole)
    assert len(cut[0]) <= 4
    assert generate(demo.model(), starts()[:1], sampling=sampling, stop=set(range(4096)))[0] == ((),) * 6


def test_continuations_are_the_text_after_the_prompt() -> None:
    found = steer(demo.model(), TEXTS, SOME, value=1.0, **QUICK)
    decode = demo.model().tokenizer.decode
    for prompt, start, texts, ids in zip(TEXTS, starts(), found.continuations, found.tokens, strict=True):
        assert [prompt + text for text in texts] == [decode(start[1:] + each) for each in ids]


def test_a_tokenizer_that_drops_a_first_space_loses_none() -> None:
    class Joined:
        def decode(self, ids: list[int], **_: Any) -> str:
            return " ".join("abcd"[token] for token in ids)

    assert _decode(SimpleNamespace(tokenizer=Joined()), (0, 1), (2, 3)) == " c d"


def test_temperature_and_top_k_narrow_the_choice() -> None:
    greedy = generate(demo.model(), starts(), sampling=Sampling(5, 2, temperature=0.0))
    assert greedy == generate(demo.model(), starts(), sampling=Sampling(5, 2, top_k=1, seed=9))
    assert all(a == b for a, b in greedy)
    with torch.no_grad():
        states = models.residual(demo.model(), torch.tensor([starts()[0]]))[0, -1:]
        best = set(models.unembed(demo.model(), states)[0].topk(3).indices.tolist())
    drawn = {ids[0] for ids in generate(demo.model(), starts()[:1], sampling=Sampling(1, 60, top_k=3))[0]}
    assert drawn == best


def test_tokens_are_drawn_with_the_model_s_probabilities() -> None:
    source = markov().source
    assert source is not None
    drawn = np.array(generate(markov().model, [(0, 1)], sampling=Sampling(1, 3000))[0])[:, 0]
    shares = np.bincount(source.tag_of(drawn), minlength=6) / 3000
    np.testing.assert_allclose(shares, source.transition[0], atol=0.035)  # four standard errors


def test_loss_per_token_is_the_mean_over_generated_tokens() -> None:
    ids = generate(demo.model(), starts()[:3], sampling=Sampling(5, 2), stop=set(range(0, 4096, 9)))
    losses: list[float] = []
    for start, each in zip(starts(), ids, strict=False):
        for one in each:
            text = torch.tensor([start + one])
            with torch.no_grad():
                log_probs = demo.model()(text)[0].log_softmax(-1)
            losses += [-log_probs[len(start) + n - 1, token].item() for n, token in enumerate(one)]
    assert loss_per_token(demo.model(), starts()[:3], ids, batch_tokens=17) == pytest.approx(np.mean(losses), abs=1e-5)
    assert math.isnan(loss_per_token(demo.model(), starts()[:1], [[(), ()]]))
