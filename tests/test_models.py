import json
import logging
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from checkpoints import BACKENDS, BOS, VOCABULARY, write_gpt2, write_llama, write_neox, write_tokenizer
from huggingface_hub import errors
from torch import Tensor

from posneurons import checkpoints, models
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("plain") / "my-llama-3", dtype=torch.bfloat16)


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, folder: Path) -> Any:
    return load(folder, backend=request.param, dtype="float32")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


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


# no copies


@pytest.mark.parametrize("fields", [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4}])
def test_no_weight_is_copied_in_a_forward_pass(fields: dict[str, Any], tmp_path: Path) -> None:
    model = load(write_llama(tmp_path / "views", **fields))
    assert not any(each.is_meta for each in (*model.parameters(), *model.buffers()))
    assert model.unembed.W_U.T.is_contiguous()
    assert (model.unembed.W_U.data_ptr() == model.embed.W_E.data_ptr()) == bool(fields.get("tie_word_embeddings"))
    for block in model.blocks:
        assert all(each.T.is_contiguous() for each in (block.mlp.W_in, block.mlp.W_gate, block.mlp.W_out))
        joined = block.attn.W_Q.permute(0, 2, 1).reshape(32, 32)
        assert joined.data_ptr() == block.attn.W_Q.data_ptr()
        assert block.attn.W_O.permute(2, 0, 1).reshape(32, 32).data_ptr() == block.attn.W_O.data_ptr()
    assert len({block.attn.rotary_sin.data_ptr() for block in model.blocks}) == 1


def test_a_forward_pass_allocates_no_weights(tmp_path: Path) -> None:
    model = load(write_llama(tmp_path / "wide", intermediate_size=20_000, num_hidden_layers=1))
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        model(tokens(1, 3))
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 0 < largest < 4 * 32 * 20_000 / 2  # bytes of one matrix, halved; activations are 3 × 20,000 × 4


def test_evaluation_mode_and_frozen(model: Any) -> None:
    assert not model.training
    assert not any(module.training for module in model.modules())
    assert not any(each.requires_grad for each in model.parameters())


def test_loading_says_nothing_and_changes_no_setting(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils.logging import is_progress_bar_enabled

    def settings() -> Any:
        return (
            list(logging.root.handlers),
            logging.root.manager.disable,
            is_progress_bar_enabled(),
            are_progress_bars_disabled(),
            len(warnings.filters),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        )

    before = settings()
    for backend in BACKENDS:
        load(folder, backend=backend)
    assert settings() == before
    assert tuple(capfd.readouterr()) == ("", "")


# tokenizers


@pytest.mark.parametrize("prepends", [True, False])
def test_bos_comes_once(prepends: bool, tmp_path: Path) -> None:
    where = write_llama(tmp_path / "bos", tokenizer={"prepends": prepends})
    for backend in BACKENDS:
        model = load(where, backend=backend)
        assert model.to_tokens("the boats").tolist()[0].count(0) == 1
        assert 0 not in model.tokenizer("the boats", add_special_tokens=False)["input_ids"]
        assert model.tokenizer.is_fast
        assert models.bos_id(model) == models.bos_id(model.tokenizer) == 0


def test_bos_id_of_a_tokenizer_without() -> None:
    with pytest.raises(ModelError, match=r"^my-tok: no BOS token; expected one, such as <\|begin_of_text\|>: set"):
        models.bos_id(SimpleNamespace(bos_token_id=None, name_or_path="my-tok"))


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


def test_wrong_width() -> None:
    model = planted()
    model.cfg.d_mlp = 9
    with pytest.raises(ModelError, match=r"wrong width at blocks.0.mlp.hook_post: found 8, expected d_mlp = 9; choose"):
        models.check_neurons(model)


def test_logits_that_are_more_than_norm_and_unembedding() -> None:
    model = planted()
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


# errors of the user, each with its sentence


def raises(sentence: str) -> Any:
    return pytest.raises(ModelError, match=sentence)


def test_unknown_backend_dtype_and_device() -> None:
    with raises(r"^backend 'nnsight': no such backend; expected one of hooked, bridge$"):
        models.load_model(backend="nnsight")
    with raises(r"^dtype 'int8': no such dtype for a model; expected float32, bfloat16 or float16$"):
        models.load_model(dtype="int8")
    with raises(r"^dtype 'torch.float64': no such dtype"):
        models.load_model(dtype=torch.float64)
    with raises(r"^device 'gpu': no such device; expected cpu, cuda, cuda:0 or mps$"):
        models.load_model(device="gpu")
    with raises(r"^device 'meta': not usable on this machine; choose device='cpu'$"):
        models.load_model(device="meta")


def test_more_gpus_than_there_are() -> None:
    with raises(r"^device 'cuda:99': this machine has \d+ usable GPUs; choose device='cpu'$"):
        models.load_model(device="cuda:99")


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "a/b/c", Path("absent")])
def test_no_such_folder(name: str | Path) -> None:
    with raises(r": no such folder; expected a folder, a name on the Hugging Face Hub, or 'demo'$"):
        load(name)


def test_a_file_and_a_revision_of_a_folder(folder: Path) -> None:
    with raises(r"model.safetensors: found a file, expected the folder that holds it; give that folder$"):
        load(folder / "model.safetensors")
    with raises(r"my-llama-3: a folder has no revision 'main'; give a revision only with a Hub name$"):
        load(folder, revision="main")


def test_not_a_name() -> None:
    with raises(r"^my model: no such folder, and not a name of the Hub; expected owner/model, a folder, or 'demo'$"):
        load("my model")


def hub_error(kind: type[Exception]) -> Exception:
    made = kind.__new__(kind)
    Exception.__init__(made, "from the Hub")
    return made


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (
            errors.GatedRepoError,
            r"^meta/some: access is gated; accept its licence on https://huggingface.co/meta/some and",
        ),
        (
            errors.RepositoryNotFoundError,
            r"^meta/some: no such folder, and no such public model on the Hugging Face Hub",
        ),
        (
            errors.RevisionNotFoundError,
            r"^meta/some: no revision 'v2'; look at https://huggingface.co/meta/some/commits$",
        ),
        (
            errors.LocalEntryNotFoundError,
            r"^meta/some: no such folder, not fetched before, and .* \(from the Hub\); connect",
        ),
        (
            errors.OfflineModeIsEnabled,
            r"cannot be reached \(from the Hub\); connect to the network, or give the folder",
        ),
    ],
)
def test_what_the_hub_refuses(kind: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise hub_error(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with raises(sentence):
        load("meta/some", revision="v2")


def test_a_snapshot_of_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, asked = "c0ffee" * 6 + "c0ff", []
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / commit).mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / commit)

    def download(
        name: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str], **_: Any
    ) -> str:
        assert ignore_patterns == ["*/*"]  # Meta's repositories hold the weights a second time in original/
        asked.append((name, revision, allow_patterns))
        if "*.safetensors" in allow_patterns:
            shutil.copy(folder / "model.safetensors", tmp_path / commit)
        return str(tmp_path / commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    info = models.describe(load("meta-llama/Some-Llama", revision="main"))
    assert (info.name, info.revision) == ("meta-llama/Some-Llama", commit)
    assert asked == [
        ("meta-llama/Some-Llama", "main", ["*.json", "*.txt", "*.model"]),
        ("meta-llama/Some-Llama", commit, ["*.safetensors"]),
    ]


def in_cache(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a model `meta/some` that was fetched before the network went away."""
    snapshot = cache / "models--meta--some" / "snapshots" / ("c0ffee" * 6 + "c0ff")
    shutil.copytree(folder, snapshot)
    (cache / "models--meta--some" / "refs").mkdir()
    (cache / "models--meta--some" / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return snapshot


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_fetched_before_loads_without_a_network(
    backend: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = in_cache(folder, tmp_path, monkeypatch)
    info = models.describe(load("meta/some", backend=backend))
    assert (info.name, info.revision) == ("meta/some", snapshot.name)


def test_half_fetched_and_never_fetched(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_cache(folder, tmp_path, monkeypatch) / "model.safetensors").unlink()
    with raises(r"^meta/some: no weights in .*; expected model.safetensors: fetch the checkpoint again$"):
        load("meta/some")
    with raises(r"^meta/other: no such folder, not fetched before, and the Hugging Face Hub cannot be reached"):
        load("meta/other")


def test_no_config_json(tmp_path: Path) -> None:
    with raises(
        r": no config.json in .*; expected a Hugging Face folder with config.json, tokenizer.json and model.safe"
    ):
        load(tmp_path)


def test_damaged_config_json(copied: Path) -> None:
    (copied / "config.json").write_text("{")
    with raises(r"config.json: not JSON \(.*\); fetch the checkpoint again$"):
        load(copied)


@pytest.mark.parametrize(
    "architecture", ["BertForMaskedLM", "BertLMHeadModel", "LlamaModel", "T5ForConditionalGeneration"]
)
def test_not_a_causal_language_model(architecture: str, copied: Path) -> None:
    edit_config(copied, architectures=[architecture])
    with raises(
        rf": {architecture} is not a causal language model; expected one that predicts the next token, such as"
    ):
        load(copied)


def test_no_architecture_stated(copied: Path) -> None:
    edit_config(copied, architectures=None)
    with raises(": a model of no stated architecture is not a causal language model"):
        load(copied)


def test_quantised_weights(copied: Path) -> None:
    edit_config(copied, quantization_config={"quant_method": "gptq"})
    with raises(
        r": weights quantised with gptq; expected float32, bfloat16 or float16: choose the unquantised checkpoint$"
    ):
        load(copied)


def test_no_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    with raises(
        r": no tokenizer in .*; expected tokenizer.json: save the tokenizer there too \(tokenizer.save_pretrained\)$"
    ):
        load(copied)


def test_damaged_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{}")
    with raises(r": the tokenizer cannot be read \(.*\); fetch it again$"):
        load(copied)


def test_no_weights(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with raises(r": no weights in .*; expected model.safetensors: fetch the checkpoint again$"):
        load(copied)


@pytest.mark.parametrize("keep", [4, 200, 0.5])
def test_damaged_weights(keep: float, copied: Path) -> None:
    path = copied / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with raises(r": model.safetensors is damaged \(.*\); fetch the checkpoint again$"):
        load(copied)


def test_missing_and_damaged_shards(tmp_path: Path) -> None:
    where = write_llama(tmp_path / "shards", max_shard_size=40_000)
    shards = sorted(where.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[1].rename(where / "elsewhere")
    with raises(rf": 1 of {len(shards)} weight files missing, first {shards[1].name!r}; fetch the checkpoint again$"):
        load(where)
    (where / "elsewhere").rename(shards[1])
    index = where / "model.safetensors.index.json"
    index.write_text("{}")
    with raises(r": model.safetensors.index.json is damaged; fetch the checkpoint again$"):
        load(where)


def test_missing_tensors(copied: Path) -> None:
    edit_config(copied, num_hidden_layers=3)
    with raises(
        r": 9 tensors missing from the weights, first model.layers.2.input_layernorm.weight; fetch the checkpoint"
    ):
        load(copied)


def test_tensors_of_another_shape(copied: Path) -> None:
    edit_config(copied, intermediate_size=40)
    with raises(r": transformers cannot load LlamaForCausalLM \(.*\); check config.json and the weight files$"):
        load(copied)


def test_what_hookedtransformer_lacks_the_bridge_has(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    for number, (fields, sentence) in enumerate(
        (
            ({"mlp_bias": True}, r"mlp_bias is true, which HookedTransformer lacks; use backend='bridge'$"),
            (
                {"rope_parameters": rope},
                r"rope scaling 'dynamic'; HookedTransformer has default, linear and llama3: use",
            ),
        )
    ):
        where = write_llama(tmp_path / str(number), **fields)
        with raises(sentence):
            load(where)
        with torch.no_grad():
            got, expected = load(where, backend="bridge")(tokens(1, 9)), hugging_face(where)(tokens(1, 9)).logits
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_an_unknown_architecture(tmp_path: Path) -> None:
    config = transformers.XGLMConfig(vocab_size=VOCABULARY, d_model=16, ffn_dim=16, num_layers=1, attention_heads=2)
    transformers.XGLMForCausalLM(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with raises(r": TransformerLens cannot make a hooked model of XGLMForCausalLM \(.*\); try backend='bridge'$"):
        load(tmp_path)


# memory, said before loading


@pytest.mark.parametrize(("dtype", "needed"), [(None, 82_240), ("fp32", 164_480)])
def test_not_enough_memory(dtype: str | None, needed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posneurons.loading.build", lambda *_: pytest.fail("it loaded"))
    monkeypatch.setattr(checkpoints, "free_memory", lambda _: needed - 1)
    with raises(
        r": the weights need 0.00 GB as \w+, but cpu has 0.00 GB free; close other programs, or choose a smaller"
    ):
        load(folder, dtype=dtype)


def test_just_enough_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "free_memory", lambda _: 82_240)
    load(folder)


def test_not_enough_memory_is_seen_before_shards_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = write_llama(tmp_path / "shards", max_shard_size=40_000)
    for shard in where.glob("model-*"):
        if shard.suffix == ".safetensors":
            shard.unlink()
    monkeypatch.setattr(checkpoints, "free_memory", lambda _: 1)
    with raises("the weights need"):
        load(where)


def test_the_word_for_bos_is_llama_3s() -> None:
    assert BOS == "<|begin_of_text|>"
