"""The bare blocks against the model's own run with plain hooks, and what is not taken for a Llama."""

from pathlib import Path
from typing import Any

import demo
import pytest
import torch
from checkpoints import write_gpt2, write_llama, write_neox

import posneurons as pn
from posneurons import lean, models
from posneurons.lean import after_post, can_be_lean, embedded, lean_residual


def some_tokens(vocabulary: int, batch: int = 3, pos: int = 11) -> torch.Tensor:
    return torch.randint(2, vocabulary, (batch, pos), generator=torch.Generator().manual_seed(0))


WHERE = torch.tensor([*range(11), *range(11, 16), *range(22, 25)])
"""Rows of 11, 5 and 3 places."""

READ = torch.tensor([9, 2, 14, 16])


@torch.no_grad()
@pytest.mark.parametrize("start", [0, 1])
def test_it_is_the_plain_run(start: int, tmp_path: Path) -> None:
    """With neurons changed in every layer, grouped heads, uneven rows and chosen places, in float32."""
    for model in (demo.model(), pn.load_model(write_llama(tmp_path / str(start)), device="cpu", dtype="float32")):
        tokens = some_tokens(model.cfg.d_vocab)

        def silence(value: torch.Tensor, hook: Any) -> None:  # noqa: ARG001
            value[..., :7] = 0.5

        before: list[torch.Tensor] = []
        seen: list[torch.Tensor] = []
        hooks = [(models.post_name(layer), silence) for layer in range(start, model.cfg.n_layers)]
        keep = (f"blocks.{start}.hook_resid_pre", lambda value, hook, into=before: into.append(value.flatten(0, 1)))  # noqa: ARG005
        plain = models.residual(model, tokens, [keep, *hooks]).flatten(0, 1)
        first = embedded(model, tokens)[WHERE] if start == 0 else before[0][WHERE]
        hooks.append((after_post(start), lambda value, hook, into=seen: into.append(value)))  # noqa: ARG005
        found = lean_residual(model, first, WHERE, (3, 11), hooks, start=start)
        torch.testing.assert_close(found, plain[WHERE], atol=1e-4, rtol=1e-4)
        assert seen[0].shape == (1, len(WHERE), model.cfg.d_model)
        some = lean_residual(model, first, WHERE, (3, 11), hooks, start=start, read=READ)
        torch.testing.assert_close(some, found[READ], atol=1e-4, rtol=1e-4)
        assert (found - models.residual(model, tokens).flatten(0, 1)[WHERE]).abs().max() > 1e-2


def test_what_is_a_llama_is_seen(tmp_path: Path) -> None:
    assert can_be_lean(demo.model())
    assert can_be_lean(pn.load_model(device="cpu"))  # bfloat16
    llama = write_llama(tmp_path / "llama")
    assert not can_be_lean(pn.load_model(llama, backend="bridge", device="cpu"))
    assert not can_be_lean(pn.load_model(write_gpt2(tmp_path / "gpt2"), device="cpu"))
    assert not can_be_lean(pn.load_model(write_neox(tmp_path / "neox"), device="cpu"))


@pytest.mark.parametrize(("name", "value"), [("use_attn_in", True), ("attn_scores_soft_cap", 5.0), ("act_fn", "gelu")])
def test_what_the_configuration_says_is_believed(name: str, value: Any, tmp_path: Path) -> None:
    model = pn.load_model(write_llama(tmp_path / "checkpoint"), device="cpu")
    assert can_be_lean(model)
    setattr(model.cfg, name, value)
    assert not can_be_lean(model)


@torch.no_grad()
def test_what_it_does_not_say_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks of somebody else, biases where a Llama has none, and blocks that do something more."""
    model = pn.load_model(write_llama(tmp_path / "checkpoint"), device="cpu", dtype="float32")
    with model.hooks(fwd_hooks=[("blocks.0.hook_attn_out", lambda value, hook: None)]):  # noqa: ARG005
        assert not can_be_lean(model)
    assert can_be_lean(model)
    model.blocks[1].mlp.b_in[3] = 0.1
    assert not can_be_lean(model)
    model.blocks[1].mlp.b_in[3] = 0
    attention = lean._attention
    monkeypatch.setattr(lean, "_attention", lambda *given: 1.1 * attention(*given))
    assert not can_be_lean(model)


@torch.no_grad()
def test_a_huge_first_residual_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in many language models, whose first position holds a residual hundreds of times as long as the others."""
    model = pn.load_model(write_llama(tmp_path / "checkpoint"), device="cpu", dtype="float32")
    model.W_E[[0, lean.CHECKED]] *= 1e5  # the first tokens of both rows that are compared
    assert can_be_lean(model)
    attention = lean._attention
    monkeypatch.setattr(lean, "_attention", lambda *given: 1.1 * attention(*given))
    assert not can_be_lean(model)
