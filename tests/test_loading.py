"""How a model is made: without copies, quietly, with one BOS, and what TransformerLens cannot make is said."""

import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from checkpoints import BACKENDS, BOS, VOCABULARY, hooked_only, write_llama, write_tokenizer
from test_models import hugging_face, load, raises, tokens

from posneurons import models
from posneurons.errors import ModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("plain") / "my-llama-3", dtype=torch.bfloat16)


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, folder: Path) -> Any:
    return load(folder, backend=request.param, dtype="float32")


# no copies


@hooked_only
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


def test_the_word_for_bos_is_llama_3s() -> None:
    assert BOS == "<|begin_of_text|>"


@hooked_only
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


@hooked_only
def test_an_unknown_architecture(tmp_path: Path) -> None:
    config = transformers.XGLMConfig(vocab_size=VOCABULARY, d_model=16, ffn_dim=16, num_layers=1, attention_heads=2)
    transformers.XGLMForCausalLM(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with raises(r": TransformerLens cannot make a hooked model of XGLMForCausalLM \(.*\); try backend='bridge'$"):
        load(tmp_path)
