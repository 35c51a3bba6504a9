"""What the processes of a team share, put together again: parts against wholes, in one process."""

from io import BytesIO
from typing import Any

import demo
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posneurons import activations, distributed, messages, partial, passes
from posneurons.distributed import alone, mine, shared, sharing, size
from posneurons.effects import EffectAccumulator
from posneurons.lesions import WordLosses, word_losses
from posneurons.messages import pack, unpack
from posneurons.quadrature import Completeness
from posneurons.records import Corpus
from posneurons.statistics import merge, pooled


def few() -> Corpus:
    return demo.corpus().select(np.arange(demo.corpus().n_rows) % 64 == 0)


def parts_of(ranks: int, function: Any, *args: Any, **options: Any) -> list[Any]:
    """What each process of a team would return, one after the other."""
    found = []
    for rank in range(ranks):
        team = distributed._Team(rank, ranks, model=args[0])
        before = distributed._team.set(team)
        found.append(distributed._do(team, function, args, options))
        distributed._team.reset(before)
    assert not any(isinstance(part, distributed._Failure) for part in found)
    return found


def test_without_torchrun_a_shared_function_is_the_function() -> None:
    @shared(lambda a, b: a + b)
    def numbers(model: Any, n: int) -> list[int]:  # noqa: ARG001
        return list(mine(range(n)))

    assert numbers(object(), 5) == [0, 1, 2, 3, 4]
    assert (size(), sharing()) == (1, 1)
    with alone():
        assert numbers(None, 2) == [0, 1]
    done: list[int] = []
    distributed.lead(lambda: done.append(1))
    assert done == [1]
    distributed.refuse("steer")


@pytest.mark.parametrize(
    ("asked", "gpus", "given_to"),
    [({}, True, ("cuda:3", 1)), ({"device": "cuda", "n_devices": 2}, True, ("cuda:6", 2)),
     ({"device": "cuda:0"}, True, ("cuda:0", 1)), ({"device": "cpu"}, True, ("cpu", 1)), ({}, False, (None, 1))],
)  # fmt: skip
def test_every_process_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], gpus: bool, given_to: tuple[str | None, int]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(torch.distributed, "get_node_local_rank", lambda fallback_rank: 3)  # noqa: ARG005
    monkeypatch.setattr(distributed.models, "load_model", lambda name, **how: (name, how["device"], how["n_devices"]))
    team = distributed._Team(3, 8)
    before = distributed._team.set(team)
    distributed._load("x", **asked)
    distributed._team.reset(before)
    assert team.model == ("x", *given_to)


@given(st.integers(0, 12), st.integers(1, 5))
def test_every_item_is_one_processs(n: int, ranks: int) -> None:
    found = []
    for rank in range(ranks):
        team = distributed._Team(rank, ranks, share=distributed._Share())
        before = distributed._team.set(team)
        for item in mine(range(n)):
            found.append((item, rank))
            assert list(mine("ab")) == ["a", "b"]  # what is done with an item is done whole
            assert sharing() == 1
        assert sharing() == ranks
        distributed._team.reset(before)
    assert sorted(found) == [(item, item % ranks) for item in range(n)]


def test_a_share_that_was_left_in_the_middle_does_not_open_the_next() -> None:
    first, second = distributed._Share(), distributed._Share()
    team = distributed._Team(0, 2, share=first)
    before = distributed._team.set(team)
    left = mine(range(4))
    next(left)
    team.share = second
    working = mine(range(4))
    next(working)
    left.close()
    assert (first.open, second.open) == (True, False)
    distributed._team.reset(before)


@pytest.mark.parametrize("ranks", [2, 3])
def test_moments_of_shares_merge_to_those_of_all(ranks: int) -> None:
    how = {"tokens": 200}
    whole = passes.tag_moments(demo.model(), few(), **how)["predict"]
    first, *rest = parts_of(ranks, passes.tag_moments, demo.model(), few(), **how)
    found = first["predict"]
    for part in rest:
        assert part["predict"].count.sum() < whole.count.sum()
        found = merge(found, part["predict"])
    np.testing.assert_array_equal(found.count, whole.count)
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(found.m2, whole.m2, rtol=1e-10, atol=1e-13)


def test_a_limit_of_memory_does_not_change_what_is_shared() -> None:
    """Processes with other limits have the rows that they would have without."""
    corpus = few()
    rows = []
    for rank, limit in ((0, None), (1, 20), (2, 70)):
        team = distributed._Team(rank, 3, share=distributed._Share())
        before = distributed._team.set(team)
        found = list(activations.batches(corpus, "cpu", 200, limit=limit))
        distributed._team.reset(before)
        assert max((each.tokens.numel() for each in found if len(each.rows) > 1), default=0) <= (limit or 200)
        rows += [int(row) for each in found for row in each.rows]
    assert sorted(rows) == list(range(corpus.n_rows))


def test_pooled_is_the_moments_of_both() -> None:
    rng = np.random.default_rng(0)
    for a, b in ((5, 7), (0, 4), (3, 0), (0, 0)):
        values = rng.normal(1e4, 1e-2, a + b)
        groups = [values[:a], values[a:]]
        sizes = [np.array([float(len(each))]) for each in groups]
        means = [np.array([each.mean() if len(each) else 0.0]) for each in groups]
        squares = [np.array([((each - mean) ** 2).sum()]) for each, mean in zip(groups, means, strict=True)]
        mean, m2 = pooled(sizes[0], means[0], squares[0], sizes[1], means[1], squares[1])
        np.testing.assert_allclose(mean, values.mean() if a + b else 0, rtol=1e-14)
        np.testing.assert_allclose(m2, ((values - values.mean()) ** 2).sum() if a + b else 0, rtol=1e-6, atol=0)


def test_effects_of_two_halves_merge_to_those_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    tags, clusters = torch.arange(40) % 3, torch.arange(40) // 4
    effects = torch.randn(40, 5, generator=generator)
    states = [EffectAccumulator(4, 1, 5) for _ in range(3)]
    for state, words in zip(states, (slice(0, 20), slice(20, 40), slice(0, 40)), strict=True):
        state.update(0, tags[words], clusters[words], effects[words])
    before = states[0].mean().scores.copy()
    found, whole = states[0].merged(states[1]), states[2]
    np.testing.assert_allclose(found.mean().scores, whole.mean().scores, rtol=1e-6)
    np.testing.assert_allclose(found.contrast().scores, whole.contrast().scores, rtol=1e-5)
    np.testing.assert_array_equal(states[0].mean().scores, before)


def test_what_is_missed_adds_up_and_the_more_nodes_are_kept() -> None:
    a = Completeness({0: 1.0, 1: 2.0}, {0: 10.0, 1: 10.0}, {0: 0.5, 1: 0.25}, 5)
    b = Completeness({0: 3.0}, {0: 10.0}, {0: 0.25}, 7)
    for found in (a.merged(b), b.merged(a)):
        assert found == Completeness({0: 4.0, 1: 2.0}, {0: 20.0, 1: 10.0}, {0: 0.75, 1: 0.25}, 12)
    assert a.words == 5


def test_partial_sums_from_different_shifts_merge_to_those_of_all() -> None:
    corpus = few()
    words = corpus.readable("predict")
    basis = np.zeros((len(corpus), 2))
    basis[words] = partial._basis(np.random.default_rng(0).normal(size=(len(words), 1)))
    how: dict[str, Any] = {"at": "predict", "tokens": 200, "progress": False}
    whole = partial._summed(demo.model(), corpus, basis, **how)
    first, second = parts_of(2, partial._summed, demo.model(), corpus, basis, **how)
    assert not np.allclose(first.shift, second.shift)
    found = first.merged(second)
    assert found.words == whole.words == len(words)
    np.testing.assert_allclose(found.weights, whole.weights, atol=1e-12)
    np.testing.assert_array_equal(found.shift, whole.shift)
    for name in ("sums", "squares"):
        mine_, all_ = getattr(found, name), getattr(whole, name)
        np.testing.assert_allclose(mine_, all_, atol=1e-10 * np.abs(all_).max())
    empty = partial._Sums(0, 0 * whole.weights, 0 * whole.shift, 0 * whole.sums, 0 * whole.squares)
    assert empty.merged(whole) is whole.merged(empty) is whole


def test_losses_of_some_words_and_of_others_stand_side_by_side() -> None:
    whole = word_losses(demo.model(), few(), (), tokens=200)
    even = np.arange(len(whole.words)) % 2 == 0
    a, b = (
        WordLosses(whole.words[some], whole.measures, whole.intact[:, some], whole.lesioned[:, :, some], notes)
        for some, notes in ((~even, ("slow",)), (even, ("slow", "small")))
    )
    found = a.beside(b)
    np.testing.assert_array_equal(found.words, whole.words)
    np.testing.assert_array_equal(found.intact, whole.intact)
    assert found.notes == ("slow", "small")


class _Elsewhere(torch.Tensor):
    """A tensor that says that it lies on another device."""

    device = torch.device("cuda:7")  # type: ignore[assignment]

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor)


def test_a_model_is_not_sent_and_tensors_arrive_on_the_readers_device() -> None:
    model = demo.model()
    tensor = torch.arange(3.0).as_subclass(_Elsewhere)
    message = pack({"model": model, "twice": [tensor, tensor], "one": torch.ones(2)}, model)
    assert message.getbuffer().nbytes < 5000
    found = unpack(BytesIO(message.getvalue()), model)
    assert found["model"] is model
    assert found["twice"][0] is found["twice"][1]
    assert (type(found["one"]), found["twice"][0].device.type) == (torch.Tensor, "cpu")
    assert found["twice"][0].tolist() == [0, 1, 2]
    assert messages._reader.get() is None
