"""HookedTransformers, made from the weights of a Hugging Face model or from given ones.

A Llama is made without a copy: the HookedTransformer is built without storage, and its parameters become transposed
views of the tensors of the Hugging Face model. A view whose transpose is contiguous also spares the copies that
TransformerLens would make in every forward pass. Its configuration comes from the checkpoint, never from the name.
Other architectures go through TransformerLens's own conversion, which copies; it is given to know only some of what a
configuration can say, so its logits are held against those of the Hugging Face model. Over several devices blocks are
dealt out evenly, in the order that HookedTransformer expects.

TransformerLens has no HookedTransformer from 4.0 on; that is told in one line.
"""

from __future__ import annotations

import copy
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posneurons.checkpoints import Checkpoint
from posneurons.errors import ModelError


def lens(name: str) -> Any:
    """transformer_lens, where it has HookedTransformer.

    Raises:
        ModelError: where it has none; `name` is that of the model that was asked for.
    """
    import transformer_lens

    try:
        transformer_lens.HookedTransformer  # noqa: B018 (4.0 and later raise ImportError)
    except (ImportError, AttributeError):
        raise ModelError(
            f"{name}: transformer-lens {version('transformer-lens')} has no HookedTransformer; choose "
            "backend='bridge', or install transformer-lens 3.9"
        ) from None
    return transformer_lens


def place(cfg: Any, name: str) -> torch.device:
    """The device on which HookedTransformer looks for a parameter, or a buffer, of this name."""
    first = torch.device(cfg.device)
    if cfg.n_devices == 1:
        return first
    parts = name.split(".")
    at_end = parts[0] in ("ln_final", "unembed")
    layer = int(parts[1]) if parts[0] == "blocks" else (cfg.n_layers - 1) * at_end
    return torch.device(first.type, (first.index or 0) + layer * cfg.n_devices // cfg.n_layers)


def build_hooked(fields: dict[str, Any], weights: dict[str, Tensor], tokenizer: Any = None) -> Any:
    """A HookedTransformer from configuration fields and weights by name, frozen and in evaluation mode.

    Its parameters are the given tensors themselves, not copies; biases that are not given are 0.

    Raises:
        ModelError: where a weight is missing, unknown or of another shape.
    """
    library = lens(str(fields.get("model_name")))
    cfg = library.HookedTransformerConfig.from_dict(fields)
    with torch.device("meta"):
        model = library.HookedTransformer(cfg, move_to_device=False)
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
    _fill_buffers(model)
    if tokenizer is not None:
        model.set_tokenizer(tokenizer, default_padding_side="right")
    return model.eval().requires_grad_(requires_grad=False)


def convert(checkpoint: Checkpoint, source: Any, tokenizer: Any, *, device: torch.device, n_devices: int = 1) -> Any:
    """A HookedTransformer with the weights of a Hugging Face model, its blocks dealt out to so many devices.

    Raises:
        ModelError: where the installed transformer-lens has no HookedTransformer, or it lacks what the model needs.
    """
    make = _llama if checkpoint.is_llama else _other
    placed = {"device": str(device), "n_devices": n_devices}
    return make(lens(checkpoint.name), checkpoint, source, tokenizer, placed)


def _llama(library: Any, checkpoint: Checkpoint, source: Any, tokenizer: Any, placed: dict[str, Any]) -> Any:
    """A HookedTransformer whose parameters are views of the Hugging Face model's."""
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights

    cfg = library.HookedTransformerConfig.from_dict(_llama_fields(checkpoint, source) | placed)
    with torch.device("meta"):
        model = library.HookedTransformer(cfg, move_to_device=False)
    weights = convert_llama_weights(source, cfg) | _attention_biases(source, cfg)
    here = {name: weight.to(place(cfg, name)) for name, weight in weights.items()}
    model.load_state_dict(here, strict=False, assign=True)
    _fill_buffers(model)
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


def _fill_buffers(model: Any) -> None:
    """Give the attention modules, built without storage, their mask and rotary tables; layers of a device share one
    set.
    """
    first = model.blocks[0].attn
    made = type(first)(model.cfg, first.attn_type, first.layer_id)
    buffers = dict(made.named_buffers(recurse=False))
    for layer, block in enumerate(model.blocks):
        buffers = {name: buffer.to(place(model.cfg, f"blocks.{layer}")) for name, buffer in buffers.items()}
        for name, buffer in buffers.items():
            setattr(block.attn, name, buffer)


def _other(library: Any, checkpoint: Checkpoint, source: Any, tokenizer: Any, placed: dict[str, Any]) -> Any:
    """A HookedTransformer by TransformerLens's own conversion of the architecture.

    TransformerLens takes some settings from a name, so a Hub name is handed on; a folder stands under a neutral name,
    because a path that holds "llama" or "gemma" would decide the architecture.
    """
    from transformer_lens import loading_from_pretrained as loading

    dtype = source.dtype
    with tempfile.TemporaryDirectory() as scratch:
        neutral = str(Path(scratch) / "checkpoint")
        _as_stored(source.config).save_pretrained(neutral)
        known = checkpoint.revision is not None and checkpoint.name in loading.OFFICIAL_MODEL_NAMES
        where = checkpoint.name if known else neutral
        options = {"local_files_only": True, "revision": checkpoint.revision} if known else {}
        cfg = loading.get_pretrained_model_config(
            where, hf_cfg=source.config.to_dict(), dtype=dtype, **placed, **options
        )
        cfg.n_ctx = min(cfg.n_ctx, getattr(source.config, "max_position_embeddings", cfg.n_ctx))
        _check_windows(checkpoint, source.config, cfg)
        weights = loading.get_pretrained_state_dict(where, cfg, source, dtype=dtype)
    model = library.HookedTransformer(cfg, tokenizer, move_to_device=False, default_padding_side="right")
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    for name, module in model.named_children():
        for number, part in enumerate(module) if name == "blocks" else [(0, module)]:
            part.to(place(cfg, f"{name}.{number}"))
    return model


def _check_windows(checkpoint: Checkpoint, config: Any, cfg: Any) -> None:
    """Raise ModelError where layers read a window of the text and a HookedTransformer would read all of it."""
    stated = getattr(config, "layer_types", None) or []
    wanted = ["local" if each == "sliding_attention" else "global" for each in stated]
    found = list(cfg.attn_types) if cfg.use_local_attn else ["global"] * cfg.n_layers
    if wanted and wanted != found:
        layer = next(layer for layer, pair in enumerate(zip(wanted, found, strict=True)) if pair[0] != pair[1])
        raise ModelError(
            f"{checkpoint.name}: layer {layer} has {stated[layer]}, which a HookedTransformer of "
            f"{checkpoint.architecture} lacks; use backend='bridge'"
        )


def _as_stored(config: Any) -> Any:
    """A configuration with `n_ctx`, which TransformerLens reads of a GPT-2 and newer checkpoints no longer state."""
    config = copy.deepcopy(config)
    if config.model_type == "gpt2" and not hasattr(config, "n_ctx"):
        config.n_ctx = config.n_positions
    return config
