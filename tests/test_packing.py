"""Packed runs against plain ones, and the check that decides; the plan of the memory."""

from pathlib import Path
from typing import Any

import demo
import pytest
import torch
from checkpoints import write_gpt2, write_llama, write_neox
from hypothesis import given, settings
from hypothesis import strategies as st

import posneurons as pn
from posneurons import memory, models
from posneurons.errors import RunError
from posneurons.packing import can_pack, narrow_hooks, packed_hooks


@torch.no_grad()
def plain_and_packed(model: Any, lengths: list[int], start: int, read: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    vocabulary, pos = models.describe(model).d_vocab, max(lengths)
    tokens = torch.randint(2, vocabulary, (len(lengths), pos), generator=torch.Generator().manual_seed(0))
    where = torch.cat([row * pos + torch.arange(length) for row, length in enumerate(lengths)])
    before: list[torch.Tensor] = []
    keep = (f"blocks.{start}.hook_resid_pre", lambda value, hook: before.append(value.clone()))  # noqa: ARG005
    plain = models.residual(model, tokens, [keep]).flatten(0, 1)[where]
    hooks = packed_hooks(model, where, (len(lengths), pos), start=start)
    hooks += narrow_hooks(model, torch.tensor(read))
    state = before[0].flatten(0, 1)[where][None]
    packed = models.residual(model, tokens.flatten()[where][None], hooks, start=(start, state))[0]
    return plain[read], packed[read]


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4), start=st.integers(0, 5), data=st.data())
def test_packed_runs_equal_plain_ones(lengths: list[int], start: int, data: st.DataObject) -> None:
    read = data.draw(st.lists(st.integers(0, sum(lengths) - 1), min_size=1, unique=True))
    plain, packed = plain_and_packed(demo.model(), lengths, start, read)
    torch.testing.assert_close(packed, plain, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("write", [write_gpt2, write_neox, write_llama])
def test_other_architectures(write: Any, tmp_path: Path) -> None:
    model = pn.load_model(write(tmp_path / "checkpoint"), device="cpu")
    assert can_pack(model)
    plain, packed = plain_and_packed(model, [5, 2, 7], 1, [1, 6, 13])
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_packed_is_seen(tmp_path: Path) -> None:
    assert can_pack(pn.load_model(device="cpu"))  # bfloat16
    assert not can_pack(pn.load_model(write_llama(tmp_path / "checkpoint"), backend="bridge", device="cpu"))
    model = demo.model()
    shifted = [("blocks.1.attn.hook_k", lambda value, hook: value + value.shape[1])]  # noqa: ARG005
    assert can_pack(model)
    with model.hooks(fwd_hooks=shifted):  # keys that depend on how the stream is laid out
        assert not can_pack(model)


def test_memory_by_hand() -> None:
    info = models.describe(demo.model())
    # 1000 kept + 3 x (8 x 256 + 4 x 768 + 4 x 8 heads x 100 tokens) numbers of 4 bytes
    found = memory.bytes_per_token(info, 8, 100, kept=1000, stack=3, itemsize=4)
    assert found == 4 * (1000 + 3 * (2048 + 3072 + 3200))
    logits = 3 * 4 * 1024 * 4096
    assert memory.affordable(2 * logits, info, 1000) == int((0.8 * 2 * logits - logits) // 1000)
    assert memory.affordable(0, info, 1000) == 1
    assert memory.free_bytes("cpu") > 10**6


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_an_end_of_memory_is_one_line_on_any_device(error: RuntimeError) -> None:
    wanted = "^out of memory with batches of 9 tokens; shards are kept: run the same with a smaller --batch-tokens$"
    with pytest.raises(RunError, match=wanted), memory.explained(9, "shards are kept: "):
        raise error
    with pytest.raises(RuntimeError, match="size mismatch"), memory.explained(9):
        raise RuntimeError("size mismatch")
