"""The surface of a model: its numbers beside Hugging Face's, its hooks, what it is, and that its neurons are there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from checkpoints import BACKENDS, VOCABULARY, hooked_only, write_gpt2, write_llama, write_neox, write_tokenizer
from torch import Tensor

from posneurons import models
from posneurons.errors import ModelError

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "untied, 2 of 4 kv heads": {},
    "tied": {"tie_word_embeddings": True},
    "all heads have their own kv": {"num_key_value_heads": 4},
    "one kv head": {"num_key_value_heads": 1},
    "explicit head_dim": {"head_dim": 16},
    "llama3 rope": {"rope_parameters": LLAMA3_ROPE},
    "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}},
    "attention biases": {"attention_bias": True},
    "sharded": {"max_shard_size": 40_000},
    "other eps and activation": {"rms_norm_eps": 0.1, "hidden_act": "gelu"},
}


def tokens(*shape: int) -> Tensor:
    return torch.randint(2, VOCABULARY, shape, generator=torch.Generator().manual_seed(0))


def hugging_face(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def load(folder: Path | str, **options: Any) -> Any:
    return models.load_model(folder, **({"device": "cpu"} | options))


def raises(sentence: str) -> Any:
    return pytest.raises(ModelError, match=sentence)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("plain") / "my-llama-3", dtype=torch.bfloat16)


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, folder: Path) -> Any:
    return load(folder, backend=request.param, dtype="float32")


# reference: the same numbers as Hugging Face


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_every_llama_are_those_of_hugging_face(variant: str, tmp_path: Path) -> None:
    where = write_llama(tmp_path / "my-llama-3", **VARIANTS[variant])
    text = tokens(2, 100)
    with torch.no_grad():
        expected = hugging_face(where)(text).logits
        for backend in BACKENDS:
            torch.testing.assert_close(load(where, backend=backend)(text), expected, atol=1e-4, rtol=0)


def test_the_rope_variants_do_differ(tmp_path: Path) -> None:
    with torch.no_grad():
        plain, scaled = (
            load(write_llama(tmp_path / str(number), **fields))(tokens(1, 100))
            for number, fields in enumerate(({}, {"rope_parameters": LLAMA3_ROPE}))
        )
    assert (plain - scaled).abs().max() > 0.1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_checkpoint_keeps_its_dtype(dtype: torch.dtype, backend: str, tmp_path: Path) -> None:
    where = write_llama(tmp_path / "half", dtype=dtype)
    own, wide = load(where, backend=backend), load(where, backend=backend, dtype="fp32")
    text = tokens(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(wide(text), hugging_face(where)(text).logits, atol=1e-4, rtol=0)
        error = (own(text).float() - wide(text)).abs().max()
    assert {each.dtype for each in own.parameters()} == {dtype}
    assert own(text).dtype == dtype
    assert 0 < error < 0.3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("write", [write_gpt2, write_neox])
def test_other_architectures(write: Any, backend: str, tmp_path: Path) -> None:
    where = write(tmp_path / "not-a-llama")
    model, text = load(where, backend=backend), tokens(2, 30)
    with torch.no_grad():
        expected = hugging_face(where)(text).logits
        torch.testing.assert_close(model(text), expected, atol=1e-4, rtol=0)
        losses = models.cross_entropy(model, models.residual(model, text)[:, :-1].flatten(0, 1), text[:, 1:].flatten())
    expected = torch.nn.functional.cross_entropy(
        expected[:, :-1].flatten(0, 1), text[:, 1:].flatten(), reduction="none"
    )
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=0)


def test_loss_of_residuals_is_that_of_the_logits(model: Any, folder: Path) -> None:
    text = tokens(3, 17)
    with torch.no_grad():
        rows, wanted = models.residual(model, text)[:, :-1].flatten(0, 1), text[:, 1:].flatten()
        logits = hugging_face(folder)(text).logits[:, :-1].flatten(0, 1)
        for chunk in (5, 1024):
            losses = models.cross_entropy(model, rows, wanted, chunk=chunk)
            expected = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
            torch.testing.assert_close(losses, expected, atol=1e-4, rtol=0)


def test_loss_by_hand_with_a_soft_cap() -> None:
    # Logits 2 and 0, capped at 1: tanh(2) = 0.96403 and 0. ln(e^0.96403 + e^0) = ln(3.62224) = 1.28709.
    weights = torch.tensor([[2.0, 0.0]])
    bare = SimpleNamespace(
        ln_final=lambda rows: rows, W_U=weights, b_U=None, cfg=SimpleNamespace(output_logits_soft_cap=1.0)
    )
    losses = models.cross_entropy(bare, torch.ones(2, 1), torch.tensor([0, 1]))
    torch.testing.assert_close(losses, torch.tensor([1.28709 - 0.96403, 1.28709]), atol=1e-4, rtol=0)


def test_loss_is_float32_in_a_half_precision_model(folder: Path) -> None:
    half = load(folder)
    assert models.residual(half, tokens(1, 4)).dtype == torch.bfloat16
    assert models.cross_entropy(half, models.residual(half, tokens(1, 4))[0], tokens(4)).dtype == torch.float32


# hooks


def test_hook_post_is_what_the_down_projection_reads(model: Any, folder: Path) -> None:
    source, text, expected, seen = hugging_face(folder), tokens(2, 9), {}, {}
    for number, layer in enumerate(source.model.layers):
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args, number=number: expected.update({number: args[0]}))
    hooks = [
        (models.post_name(layer), lambda value, hook, layer=layer: seen.update({layer: value.clone()}))  # noqa: ARG005
        for layer in range(2)
    ]
    with torch.no_grad():
        source(text)
        models.residual(model, text, hooks)
        cached = models.run_with_cache(model, text, [models.post_name(layer) for layer in range(2)])
    for layer in range(2):
        torch.testing.assert_close(seen[layer], expected[layer], atol=1e-5, rtol=0)
        torch.testing.assert_close(cached[models.post_name(layer)], seen[layer])


def test_a_hook_changes_the_residual_and_leaves_nothing_behind(model: Any) -> None:
    text = tokens(2, 6)
    moved = model.blocks[1].mlp.W_out[7].float().norm()
    with torch.no_grad():
        before = models.residual(model, text)

        def push(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            value[..., 7] += 1.0
            return value

        pushed = models.residual(model, text, [(models.post_name(1), push)])
        torch.testing.assert_close((pushed - before).norm(dim=-1), moved.expand(2, 6), atol=1e-4, rtol=0)
        assert torch.equal(models.residual(model, text), before)


def test_a_pass_with_a_hook_that_does_not_exist_is_refused(model: Any) -> None:
    with pytest.raises(KeyError, match=r"blocks\.9\.mlp\.hook_post"):
        models.residual(model, tokens(1, 3), [(models.post_name(9), lambda *_, **__: None)])


def test_start_gives_what_the_whole_pass_gives(model: Any) -> None:
    text, kept = tokens(2, 6), {}
    with torch.no_grad():
        whole = models.residual(
            model,
            text,
            [("blocks.1.hook_resid_pre", lambda value, hook: kept.update(value=value.clone()))],  # noqa: ARG005
        )
        torch.testing.assert_close(models.residual(model, text, start=(1, kept["value"])), whole)
        moved = models.residual(model, text, start=(1, kept["value"] * 2))
    assert (moved - whole).abs().max() > 0.1


def test_padding_on_the_right_changes_nothing(model: Any) -> None:
    text = tokens(1, 10)
    text[0, 0] = model.tokenizer.pad_token_id  # which TransformerLens takes for padding where it pads on the left
    with torch.no_grad():
        alone = models.residual(model, text)
        for pad in (models.bos_id(model), model.tokenizer.pad_token_id, 5):
            padded = torch.full((3, 25), pad)
            padded[1, :10] = text
            for side in ("left", "right"):
                model.tokenizer.padding_side = side
                torch.testing.assert_close(models.residual(model, padded)[1, :10], alone[0], atol=1e-5, rtol=0)
            assert model.tokenizer.padding_side == "right"


def test_gradients_reach_activations_and_no_weight(model: Any) -> None:
    leaf = torch.zeros(1, 4, 48, requires_grad=True)
    rows = models.residual(model, tokens(1, 4), [(models.post_name(0), lambda value, hook: value + leaf)])[0]  # noqa: ARG005
    models.cross_entropy(model, rows, tokens(4)).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().min() > 0
    assert all(each.grad is None for each in model.parameters())


# describe


def test_describe(model: Any, folder: Path) -> None:
    info = models.describe(model)
    assert info == models.ModelInfo(
        name=str(folder),
        revision=None,
        config_sha256=info.config_sha256,
        dtype="float32",
        backend=info.backend,
        device="cpu",
        architecture="LlamaForCausalLM",
        n_layers=2,
        d_model=32,
        d_mlp=48,
        n_ctx=128,
        d_vocab=VOCABULARY,
        # 2 × 400 × 32 embeddings; a layer: 32² for q and o, half of it for k and v, 3 × 32 × 48, norms 2 × 32; a norm.
        n_parameters=2 * 400 * 32 + 2 * (3 * 32 * 32 + 3 * 32 * 48 + 64) + 32,
    )
    assert info.config_sha256 is not None
    assert len(info.config_sha256) == 64
    assert info.backend == ("bridge" if hasattr(model, "original_model") else "hooked")


def test_describe_follows_a_cast(folder: Path) -> None:
    assert models.describe(load(folder).to(torch.float32)).dtype == "float32"


@hooked_only
def test_describe_of_a_model_made_by_hand() -> None:
    info = models.describe(planted())
    assert (info.name, info.revision, info.config_sha256, info.d_mlp) == ("custom", None, None, 8)


def test_losses_of_a_half_precision_model_are_float32(folder: Path) -> None:
    half = models.load_model(folder, dtype=torch.bfloat16)
    rows, targets = (torch.randn(40, half.cfg.d_model) * 30).to(torch.bfloat16), tokens(1, 40)[0]
    with torch.no_grad():
        states = half.ln_final(rows[None])[0].double()
        logits = states @ half.W_U.double() + half.b_U.double()
        exact = logits.logsumexp(-1) - logits[torch.arange(40), targets]
        torch.testing.assert_close(models.cross_entropy(half, rows, targets).double(), exact, atol=2e-5, rtol=0)


# neurons


def planted(**fields: Any) -> Any:
    from transformer_lens import HookedTransformer

    common = {"n_layers": 2, "d_model": 8, "n_ctx": 8, "d_head": 4, "n_heads": 2, "d_vocab": 11, "device": "cpu"}
    return HookedTransformer(common | {"act_fn": "relu", "d_mlp": 8} | fields)


@hooked_only
def test_no_neurons() -> None:
    with pytest.raises(
        ModelError, match=r"^custom: no MLP neurons at hook_post \(blocks.0.mlp.hook_post\) in .*dense MLP"
    ):
        models.check_neurons(planted(attn_only=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mixture_of_experts_has_no_neurons(backend: str, tmp_path: Path) -> None:
    config = transformers.MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    config.num_key_value_heads, config.num_local_experts = 1, 2
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(ModelError, match=r"no MLP neurons at hook_post|cannot make a hooked model of Mixtral"):
        load(tmp_path, backend=backend)


def test_wrong_width(folder: Path) -> None:
    model = load(folder)
    model.cfg.d_mlp = 9
    with raises(r"wrong width at blocks.0.mlp.hook_post: found 48, expected d_mlp = 9; choose"):
        models.check_neurons(model)


def test_logits_that_are_more_than_norm_and_unembedding(folder: Path) -> None:
    model = load(folder)
    models.check_neurons(model)
    whole = model.forward
    model.forward = lambda *args, **options: whole(*args, **options) * (1 if "stop_at_layer" in options else 3)
    with pytest.raises(
        ModelError, match=r"give a loss .* nats off its logits; expected the same: try the other backend"
    ):
        models.check_neurons(model)


def test_a_hook_that_does_not_exist(model: Any) -> None:
    with raises(r"nothing at hook 'blocks.9.mlp.hook_post'; expected one such as 'blocks.0.mlp.hook_post'$"):
        models.run_with_cache(model, tokens(1, 3), [models.post_name(9)])
