"""Tiny checkpoints in Hugging Face's format, random but seeded, each with a byte-level tokenizer of its own."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from posneurons.backends import default_backend

BOS = "<|begin_of_text|>"
END = "<|end_of_text|>"
TEXT = (
    "The old harbour was quiet, and the boats lay on the sand. She asked him why he'd come; he didn't answer at once.",
    "Mix two cups of flour with the water, then wait for ten minutes. It's done when the crust is golden-brown.",
)
VOCABULARY = 400


@cache
def tokenizer_json(bos: str = BOS) -> str:
    """A byte-level BPE whose post-processor prepends BOS, as Llama 3's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2, special_tokens=[bos, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return str(tokenizer.to_str())


def write_tokenizer(folder: Path, *, bos: str | None = BOS, prepends: bool = True, **overrides: Any) -> None:
    """A fast tokenizer; without `prepends` its post-processor adds nothing."""
    tokenizer = Tokenizer.from_str(tokenizer_json(bos or BOS))
    if not prepends:
        tokenizer.post_processor = processors.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=END, **overrides)
    fast.save_pretrained(folder)


def _save(model: Any, folder: Path, dtype: torch.dtype, max_shard_size: str | int, tokenizer: dict[str, Any]) -> Path:
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    write_tokenizer(folder, **tokenizer)
    return folder


def write_llama(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str | int = "5GB",
    tokenizer: dict[str, Any] | None = None,
    seed: int = 0,
    **overrides: Any,
) -> Path:
    """A Llama: 2 layers of 48 neurons, d_model 32, 4 heads, 2 key-value heads; `overrides` go to LlamaConfig."""
    torch.manual_seed(seed)
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "rope_theta": 500_000.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(fields | overrides)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("norm.weight", "layernorm.weight", "bias")):
                weight.add_(torch.randn_like(weight) * 0.2)
    return _save(model, folder, dtype, max_shard_size, tokenizer or {})


def write_gpt2(
    folder: Path, *, dtype: torch.dtype = torch.float32, tokenizer: dict[str, Any] | None = None, **overrides: Any
) -> Path:
    """A GPT-2: 2 layers of 128 neurons (4 × d_model), as `n_inner` is not set."""
    torch.manual_seed(1)
    fields: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    fields |= {"initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 1}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**(fields | overrides)))
    return _save(model, folder, dtype, "5GB", tokenizer or {})


def write_neox(
    folder: Path, *, dtype: torch.dtype = torch.float32, tokenizer: dict[str, Any] | None = None, **overrides: Any
) -> Path:
    """A GPT-NeoX (the architecture of Pythia): 2 layers of 64 neurons."""
    torch.manual_seed(2)
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**(fields | overrides)))
    return _save(model, folder, dtype, "5GB", tokenizer or {})


_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_GEMMA = {"head_dim": 8, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True}
_LOCAL = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_OTHERS: dict[str, dict[str, Any]] = {
    "Gemma": _GEMMA,
    "Gemma2": {
        **_GEMMA,
        **_LOCAL,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "Gemma3": {**_GEMMA, **_LOCAL, "query_pre_attn_scalar": 16},
    "Qwen2": {"tie_word_embeddings": False},
    "Qwen3": {"head_dim": 16, "tie_word_embeddings": False},
    "Mistral": {"sliding_window": 4, "head_dim": 8},
    "Phi": {"partial_rotary_factor": 0.5},
    "Phi3": {"sliding_window": None},
}
"""Architectures by Hugging Face's prefix of their classes, and what is special about each; windows are of 4 tokens."""


def write_other(
    folder: Path,
    architecture: str,
    *,
    dtype: torch.dtype = torch.float32,
    tokenizer: dict[str, Any] | None = None,
    **overrides: Any,
) -> Path:
    """A model of 3 layers of 48 neurons of one of `_OTHERS`; `overrides` go to its configuration."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{architecture}{'Text' if architecture == 'Gemma3' else ''}Config")
    model = getattr(transformers, f"{architecture}ForCausalLM")(config(**(_SMALL | _OTHERS[architecture] | overrides)))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms and biases, which begin as 1 and 0
                weight.add_(torch.randn_like(weight) * 0.2)
    return _save(model, folder, dtype, "5GB", tokenizer or {})


WRITERS: dict[str, Callable[..., Path]] = {
    "llama": write_llama,
    "gpt2": write_gpt2,
    "pythia": write_neox,
    **{name.lower(): partial(write_other, architecture=name) for name in _OTHERS},
}
"""Every architecture, by a word for it."""
BACKENDS = ("hooked", "bridge") if default_backend() == "hooked" else ("bridge",)
"""What the installed transformer-lens has."""
hooked_only = pytest.mark.skipif("hooked" not in BACKENDS, reason="this transformer-lens has no HookedTransformer")
NOT_HOOKED = ("gemma", "gemma2", "gemma3", "phi")
"""Those of which transformer-lens 3.9 makes no HookedTransformer from a folder, with transformers 5."""
