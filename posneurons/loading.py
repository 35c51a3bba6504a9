"""Turning a checkpoint into a model of one of the two backends.

A Llama is loaded without a copy: Hugging Face maps the file into memory, the HookedTransformer is built without
storage, and its parameters become transposed views of the mapped tensors. A view whose transpose is contiguous also
spares the copies that TransformerLens would make in every forward pass. Its configuration comes from the checkpoint,
never from the name. Other architectures go through TransformerLens's own conversion, which copies. Beside `models`,
this is the only importer of transformers and transformer_lens, and it imports them when a model is loaded.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posneurons.checkpoints import DEMO, Checkpoint
from posneurons.errors import ModelError

Model = Any
"""A `transformer_lens.HookedTransformer`, or a `transformer_lens.model_bridge.TransformerBridge`."""


def build(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, backend: str) -> tuple[Model, int]:
    """A model with its tokenizer, in evaluation mode and frozen, and the number of its parameters, tied ones once.

    Args:
        checkpoint: what `open_checkpoint` gives; its weights are there.
        device: where the weights go.
        dtype: what they become.
        backend: "hooked" or "bridge".

    Raises:
        ModelError: where a library cannot load the checkpoint, with its reason.
    """
    with quiet():
        tokenizer = _load_tokenizer(checkpoint.name, checkpoint.folder)
        source = _load_source(checkpoint, device, dtype)
        n_parameters = sum(each.numel() for each in source.parameters())
        model = _build(checkpoint, source, tokenizer, backend)
    for module in (source, model):
        module.eval().requires_grad_(requires_grad=False)
    return model, n_parameters


def official_name(name: str | Path) -> str | Path:
    """The Hub's name behind one of TransformerLens's short ones ("pythia-70m"); any other name as it is."""
    if name == "demo" or isinstance(name, Path) or "/" in name or Path(name).expanduser().exists():
        return name
    from transformer_lens.loading_from_pretrained import get_official_model_name

    with contextlib.suppress(ValueError):
        return str(get_official_model_name(name))
    return name


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the libraries say while loading off the terminal; what went wrong comes as an exception."""
    import huggingface_hub.utils as hub
    from transformers.utils import logging as bars

    shown, hidden = bars.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    level, handlers = logging.root.manager.disable, list(logging.root.handlers)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        bars.disable_progress_bar()
        try:
            yield
        finally:
            if shown:
                bars.enable_progress_bar()
            if hidden:
                hub.disable_progress_bars()
            logging.disable(level)
            logging.root.handlers[:] = handlers


def build_hooked(fields: dict[str, Any], weights: dict[str, Tensor], tokenizer: Any = None) -> Model:
    """A HookedTransformer from configuration fields and weights by name, frozen and in evaluation mode.

    Its parameters are the given tensors themselves, not copies; biases that are not given are 0.

    Raises:
        ModelError: where a weight is missing, unknown or of another shape.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    with quiet():
        cfg = HookedTransformerConfig.from_dict(fields)
        with torch.device("meta"):
            model = HookedTransformer(cfg, move_to_device=False)
        device = next(iter(weights.values())).device
        wanted = dict(model.named_parameters())
        biases = {
            name: torch.zeros(each.shape, dtype=each.dtype, device=device)
            for name, each in wanted.items()
            if name.rpartition(".")[2].lstrip("_").startswith("b_")
        }
        given = biases | weights
        for name in wanted.keys() ^ given.keys():
            raise ModelError(f"{cfg.model_name}: weight {name!r} is {'missing' if name in wanted else 'unknown'}")
        for name, each in wanted.items():
            if given[name].shape != each.shape:
                found, expected = tuple(given[name].shape), tuple(each.shape)
                raise ModelError(f"{cfg.model_name}: weight {name!r} has the shape {found}; expected {expected}")
        model.load_state_dict(given, strict=False, assign=True)
        _fill_buffers(model, device)
        if tokenizer is not None:
            model.set_tokenizer(tokenizer, default_padding_side="right")
    return model.eval().requires_grad_(requires_grad=False)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model alone: "demo", a folder with a tokenizer.json, or a Hugging Face name.

    Raises:
        ModelError: where there is none, or it gives no character offsets.
    """
    return _load_tokenizer(name, DEMO if name == "demo" else name, local_files_only=False)


def _load_tokenizer(name: str, source: Any, *, local_files_only: bool = True) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local_files_only)
    except Exception as error:
        raise ModelError(f"{name}: the tokenizer cannot be read ({_first_line(error)}); fetch it again") from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"{name}: {type(tokenizer).__name__} gives no character offsets; expected a fast tokenizer "
            "(tokenizer.json): convert it"
        )
    return tokenizer


def _load_source(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """The Hugging Face model. On the CPU its tensors are the mapped file; on a GPU they go straight there."""
    from transformers import AutoModelForCausalLM

    placed = {} if device.type == "cpu" else {"device_map": {"": device}}
    try:
        source, report = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            local_files_only=True,
            attn_implementation="eager",
            output_loading_info=True,
            **placed,
        )
    except torch.OutOfMemoryError:
        raise ModelError(f"{checkpoint.name}: out of memory on {device}; choose a smaller dtype or model") from None
    except Exception as error:
        raise ModelError(
            f"{checkpoint.name}: transformers cannot load {checkpoint.architecture} ({_first_line(error)}); check "
            "config.json and the weight files"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{checkpoint.name}: {len(missing)} tensors missing from the weights, first {missing[0]}; fetch the "
            "checkpoint again"
        )
    return source


def _build(checkpoint: Checkpoint, source: Any, tokenizer: Any, backend: str) -> Model:
    """The model of the backend around a Hugging Face model's weights."""
    build = _bridge if backend == "bridge" else _hooked_llama if checkpoint.is_llama else _hooked_other
    other = "hooked" if backend == "bridge" else "bridge"
    try:
        return build(checkpoint, source, tokenizer)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{checkpoint.name}: TransformerLens cannot make a {backend} model of {checkpoint.architecture} "
            f"({_first_line(error)}); try backend={other!r}"
        ) from error


def _bridge(checkpoint: Checkpoint, source: Any, tokenizer: Any) -> Model:
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        checkpoint.name, hf_model=source, tokenizer=tokenizer, dtype=source.dtype, device=str(source.device)
    )


def _hooked_llama(checkpoint: Checkpoint, source: Any, tokenizer: Any) -> Model:
    """A HookedTransformer whose parameters are views of the Hugging Face model's."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights

    cfg = HookedTransformerConfig.from_dict(_llama_fields(checkpoint, source))
    with torch.device("meta"):
        model = HookedTransformer(cfg, move_to_device=False)
    weights = convert_llama_weights(source, cfg) | _attention_biases(source, cfg)
    model.load_state_dict(weights, strict=False, assign=True)
    _fill_buffers(model, source.device)
    model.set_tokenizer(tokenizer, default_padding_side="right")
    return model


def _llama_fields(checkpoint: Checkpoint, source: Any) -> dict[str, Any]:
    """TransformerLens's configuration of a Llama, from its Hugging Face configuration."""
    config = source.config
    if getattr(config, "mlp_bias", False):
        raise ModelError(f"{checkpoint.name}: mlp_bias is true, which HookedTransformer lacks; use backend='bridge'")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    d_head = config.head_dim or config.hidden_size // heads
    return {
        "model_name": Path(checkpoint.name).name,
        "original_architecture": checkpoint.architecture,
        "init_weights": False,
        "dtype": source.dtype,
        "device": str(source.device),
        "d_model": config.hidden_size,
        "n_heads": heads,
        "n_key_value_heads": None if kv_heads == heads else kv_heads,
        "d_head": d_head,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "eps": config.rms_norm_eps,
        "act_fn": config.hidden_act,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": d_head,
        **_rotary_fields(checkpoint, config),
    }


def _rotary_fields(checkpoint: Checkpoint, config: Any) -> dict[str, Any]:
    """The rotary base and its scaling: none, `linear` or `llama3`."""
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    fields: dict[str, Any] = {"rotary_base": rope.get("rope_theta", 10000.0)}
    if kind == "linear":
        return fields | {"rotary_scaling_factor": rope["factor"]}
    if kind == "llama3":
        return fields | {
            "use_NTK_by_parts_rope": True,
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
            "NTK_by_parts_factor": rope["factor"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
        }
    if kind != "default":
        raise ModelError(
            f"{checkpoint.name}: rope scaling {kind!r}; HookedTransformer has default, linear and llama3: use "
            "backend='bridge'"
        )
    return fields


def _attention_biases(source: Any, cfg: Any) -> dict[str, Tensor]:
    """Biases of the attention projections, which TransformerLens takes to be zero in a Llama."""
    if not source.config.attention_bias:
        return {}
    grouped = "_" if cfg.n_key_value_heads else ""
    biases = {}
    for number, layer in enumerate(source.model.layers):
        attention = layer.self_attn
        for key, projection in (("b_Q", "q_proj"), (f"{grouped}b_K", "k_proj"), (f"{grouped}b_V", "v_proj")):
            biases[f"blocks.{number}.attn.{key}"] = getattr(attention, projection).bias.unflatten(0, (-1, cfg.d_head))
        biases[f"blocks.{number}.attn.b_O"] = attention.o_proj.bias
    return biases


def _fill_buffers(model: Model, device: torch.device) -> None:
    """Give the attention modules, built without storage, their mask and rotary tables; all layers share one set."""
    first = model.blocks[0].attn
    made = type(first)(model.cfg, first.attn_type, first.layer_id)
    buffers = {name: buffer.to(device) for name, buffer in made.named_buffers(recurse=False)}
    for block in model.blocks:
        for name, buffer in buffers.items():
            setattr(block.attn, name, buffer)


def _hooked_other(checkpoint: Checkpoint, source: Any, tokenizer: Any) -> Model:
    """A HookedTransformer by TransformerLens's own conversion of the architecture.

    TransformerLens takes some settings from a name, so a Hub name is handed on; a folder stands under a neutral name,
    because a path that holds "llama" or "gemma" would decide the architecture.
    """
    from transformer_lens import HookedTransformer
    from transformer_lens import loading_from_pretrained as loading

    device, dtype = str(source.device), source.dtype
    with tempfile.TemporaryDirectory() as scratch:
        neutral = str(Path(scratch) / "checkpoint")
        _as_stored(source.config).save_pretrained(neutral)
        known = checkpoint.revision is not None and checkpoint.name in loading.OFFICIAL_MODEL_NAMES
        where = checkpoint.name if known else neutral
        options = {"local_files_only": True, "revision": checkpoint.revision} if known else {}
        cfg = loading.get_pretrained_model_config(
            where, hf_cfg=source.config.to_dict(), device=device, dtype=dtype, **options
        )
        weights = loading.get_pretrained_state_dict(where, cfg, source, dtype=dtype)
    model = HookedTransformer(cfg, tokenizer, move_to_device=False, default_padding_side="right")
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    model.move_model_modules_to_device()
    return model


def _as_stored(config: Any) -> Any:
    """A configuration with `n_ctx`, which TransformerLens reads of a GPT-2 and newer checkpoints no longer state."""
    config = copy.deepcopy(config)
    if config.model_type == "gpt2" and not hasattr(config, "n_ctx"):
        config.n_ctx = config.n_positions
    return config


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
