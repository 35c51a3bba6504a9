"""Checkpoints that TransformerLens would turn into another model: they are refused, and the other backend has them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoints import BACKENDS, VOCABULARY, hooked_only, write_gpt2, write_neox, write_other

import posneurons as pn
from posneurons import loading
from posneurons.errors import ModelError

OFF = r"gives log-probabilities 0\.\d+ nats off those of Hugging Face; expected the same: try backend="
ROPE = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 32}
WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
CASES: dict[str, tuple[Callable[..., Path], str, str]] = {
    "a rotary base": (partial(write_neox, hidden_size=64, rope_parameters=ROPE), "hooked", OFF + "'bridge'$"),
    "a rotary scaling": (
        partial(write_other, architecture="Qwen2", rope_parameters=YARN),
        "hooked",
        OFF + "'bridge'$",
    ),
    "windows": (
        partial(write_other, architecture="Qwen2", **WINDOW),
        "hooked",
        "layer 1 has sliding_attention, which a HookedTransformer of Qwen2ForCausalLM lacks; use backend='bridge'$",
    ),
    "a width of the MLP": (
        partial(write_gpt2, n_inner=50),
        "hooked",
        r"cannot make a hooked model of GPT2LMHeadModel \(.*\); try backend='bridge'$",
    ),
    "attention that is not scaled": (partial(write_gpt2, scale_attn_weights=False), "bridge", OFF + "'hooked'$"),
}


@pytest.mark.parametrize("case", CASES)
def test_another_model_is_refused_and_the_other_backend_has_the_right_one(case: str, tmp_path: Path) -> None:
    write, refusing, sentence = CASES[case]
    folder, tokens = write(tmp_path / "checkpoint"), torch.arange(2, 40)[None] % VOCABULARY
    if refusing in BACKENDS:
        with pytest.raises(ModelError, match=sentence) as raised:
            pn.load_model(folder, device="cpu", backend=refusing)
        assert "\n" not in str(raised.value)
    other = "hooked" if refusing == "bridge" else "bridge"
    if other in BACKENDS:
        source = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        with torch.no_grad():
            found = pn.load_model(folder, device="cpu", backend=other)(tokens)
            torch.testing.assert_close(found, source(tokens).logits, atol=1e-4, rtol=0)


@hooked_only
def test_a_context_is_no_longer_than_the_model_was_made_for(tmp_path: Path) -> None:
    """TransformerLens takes 2,048 tokens for every Qwen 3."""
    folder = write_other(tmp_path / "checkpoint", "Qwen3")
    assert pn.load_model(folder, device="cpu", backend="hooked").cfg.n_ctx == 128


@pytest.mark.parametrize(
    ("name", "official"),
    [
        ("pythia-70m", "EleutherAI/pythia-70m"),
        ("GPT2-small", "gpt2"),
        ("gpt2", "gpt2"),
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m"),
        ("demo", "demo"),
        ("no-such-model", "no-such-model"),
        (Path("pythia-70m"), Path("pythia-70m")),
    ],
)
def test_short_names_of_transformer_lens(name: Any, official: Any) -> None:
    assert loading.official_name(name) == official
