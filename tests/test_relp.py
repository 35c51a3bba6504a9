"""RelP: its rules change no value, and its coefficients are those of a derivation by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import BACKENDS
from test_attribution import WRITERS, build_corpus, by_tag, close, plain_local, plain_run

import posneurons as pn
from posneurons import attribution as attribution_module
from posneurons import models
from posneurons.attribution import attribution, relp
from posneurons.errors import ModelError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Models of two layers and three architectures."""
    return {name: pn.load_model(write(tmp_path_factory.mktemp(name)), device="cpu") for name, write in WRITERS.items()}


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
@pytest.mark.parametrize("frozen", [False, True])
def test_relp_leaves_values_as_they_are(name: str, frozen: bool, tiny: dict[str, Any]) -> None:
    model, tokens = tiny[name], torch.from_numpy(build_corpus().row_tokens(1))[None]
    hooks = attribution_module._relevance_rules(model, frozen)
    with torch.enable_grad():
        _, acts = plain_run(model, tokens)
        with model.hooks(fwd_hooks=hooks):
            _, under_rules = plain_run(model, tokens)
        found, expected = models.residual(model, tokens, hooks), models.residual(model, tokens)
    # A Bridge makes a norm whose scale is edited by another order of the same operations.
    rounding = 0.0 if "hooked" in BACKENDS else 1e-5
    torch.testing.assert_close([found, *under_rules], [expected, *acts], atol=rounding, rtol=0)


@torch.no_grad()
def relevance_by_hand(model: Any, tokens: torch.Tensor, position: int) -> torch.Tensor:
    """Coefficients [layer neuron] of a model of two layers, from its logits backwards, attention patterns constant.

    With G what a unit of the residual stream is worth after a block, a neuron's coefficient is W_out G. Through the MLP
    goes W_in (c W_out G), where c is act(x) / x, or, with a gate, half of sigmoid(x) times the other factor each way;
    through attention to the position itself W_V p W_O; and through a norm w / scale, less the mean if it takes it off.
    """
    logits, cache = model.run_with_cache(tokens)
    gated, centred = models.pre_name(0) + "_linear" in cache, model.cfg.normalization_type.startswith("LN")

    def norm(module: Any, name: str, gradient: torch.Tensor) -> torch.Tensor:
        through = gradient * getattr(module, "w", 1.0) / cache[f"{name}.hook_scale"][0, position]
        return through - through.mean() if centred else through

    wanted = -logits[0, position].softmax(-1)
    wanted[tokens[0, position + 1]] += 1
    worth, coefficients = norm(model.ln_final, "ln_final", model.W_U @ -wanted), []
    for layer in (1, 0):
        block, prefix = model.blocks[layer], f"blocks.{layer}"
        post = block.mlp.W_out @ worth
        coefficients.append(post)
        x = cache[f"{prefix}.mlp.hook_pre"][0, position]
        if gated:
            other = cache[f"{prefix}.mlp.hook_pre_linear"][0, position]
            back = block.mlp.W_gate @ (0.5 * x.sigmoid() * other * post)
            back = back + block.mlp.W_in @ (0.5 * x * x.sigmoid() * post)
        else:
            back = block.mlp.W_in @ (cache[f"{prefix}.mlp.hook_post"][0, position] / x * post)
        parallel = model.cfg.parallel_attn_mlp
        middle = worth + norm(block.ln2, f"{prefix}.ln2", back)
        pattern = cache[f"{prefix}.attn.hook_pattern"][0, :, position, position]
        heads = torch.einsum("hde,e->hd", block.attn.W_O, worth if parallel else middle) * pattern[:, None]
        weight = block.attn.W_V.repeat_interleave(len(heads) // len(block.attn.W_V), dim=0)  # of grouped heads
        values = torch.einsum("hed,hd->e", weight, heads)
        worth = middle + norm(block.ln1, f"{prefix}.ln1", values)
    return torch.stack(coefficients[::-1])


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
def test_relp_equals_coefficients_by_hand(name: str, tiny: dict[str, Any]) -> None:
    model, corpus = tiny[name], build_corpus()
    words, values, _ = plain_local(model, corpus)
    by_hand = [
        relevance_by_hand(
            model,
            torch.from_numpy(corpus.row_tokens(corpus.word_row[word]))[None],
            int(corpus.word_first[word]) - 1,
        )
        for word in words
    ]
    expected = by_tag(corpus, words, -values * torch.stack(by_hand))
    found = relp(model, corpus, frozen_patterns=True, contrast=False)
    close(found.scores, expected, 1e-4)
    plain = attribution(model, corpus, contrast=False).scores
    assert np.nanmax(np.abs(plain - found.scores)) > 0.05 * np.nanmax(np.abs(plain))


def test_relp_needs_hooks(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny["llama"]
    hooks = {name: hook for name, hook in model.hook_dict.items() if "hook_scale" not in name}
    monkeypatch.setattr(type(model), "hook_dict", property(lambda _: hooks), raising=False)
    with pytest.raises(ModelError, match="relp needs hooks on the norms and inside the MLP, and Llama") as raised:
        relp(model, build_corpus())
    assert str(raised.value).endswith("has none at ln_final.hook_scale; use method 'attribution'")
    assert "\n" not in str(raised.value)
