"""Turning a checkpoint into a model of one of the two backends.

Hugging Face reads the checkpoint, on the CPU by mapping the file into memory; `hooked` makes a HookedTransformer of
that, and a TransformerBridge wraps it. Both are TransformerLens's own account of an architecture, so that (except of a
Llama, for which tests do it) their log-probabilities are held against those of the Hugging Face model. Beside `hooked`
this is the only importer of transformers and transformer_lens, and it imports them when a model is loaded.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posneurons import hooked
from posneurons.checkpoints import DEMO, Checkpoint, free_memory
from posneurons.errors import ModelError

Model = Any
"""A `transformer_lens.HookedTransformer`, or a `transformer_lens.model_bridge.TransformerBridge`."""


TOLERANCE = 0.02
"""Mean difference of log-probabilities from Hugging Face's, in nats, at which a model in float32 is another one."""

_SIZES = (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
    "max_position_embeddings", "n_embd", "n_head", "n_inner", "n_positions",
)  # fmt: skip
"""Sizes in a config.json, by the names of most architectures."""

DeviceMap = str | Mapping[str, str | int] | None
"""As Hugging Face understands it: "auto", "balanced", or the device of every module."""


def build(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    backend: str,
    *,
    n_devices: int = 1,
    device_map: DeviceMap = None,
) -> tuple[Model, int]:
    """A model with its tokenizer, in evaluation mode and frozen, and the number of its parameters, tied ones once.

    Args:
        checkpoint: what `open_checkpoint` gives; its weights are there.
        device: where the weights go, or the first of the devices.
        dtype: what they become.
        backend: "hooked" or "bridge".
        n_devices: how many devices share the layers.
        device_map: which device gets what, of a Bridge, in place of `device` and `n_devices`.

    Raises:
        ModelError: where a library cannot load the checkpoint, with its reason.
    """
    with quiet():
        _check_config(checkpoint)
        tokenizer = _load_tokenizer(checkpoint.name, checkpoint.folder)
        source = _load_source(checkpoint, dtype, _placed(device, backend, n_devices, device_map))
        source.requires_grad_(requires_grad=False)
        _check_numbers(checkpoint, source)
        n_parameters = sum(each.numel() for each in source.parameters())
        model = _build(checkpoint, source, tokenizer, backend, device, n_devices)
    for module in (source, model):
        module.eval().requires_grad_(requires_grad=False)
    logits = model(torch.tensor([[0, 1]], device=model.cfg.device))
    if logits.isnan().any():
        raise ModelError(f"{checkpoint.name}: its logits are not numbers as {dtype}; load it with dtype='float32'")
    return model, n_parameters


def _check_config(checkpoint: Checkpoint) -> None:
    """Raise ModelError where config.json tells of no model, before others stumble over it (the tokenizer reads it)."""
    from transformers import AutoConfig

    for key in _SIZES:
        if isinstance(size := checkpoint.config.get(key), int) and size < 1:
            raise ModelError(f"{checkpoint.name}: {key} is {size} in config.json; expected at least 1: correct it")
    try:
        AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"{checkpoint.name}: transformers cannot read config.json ({_reason(error)}); correct it, or fetch the "
            "checkpoint again"
        ) from error


def _check_numbers(checkpoint: Checkpoint, source: Any) -> None:
    """Raise ModelError where a weight is NaN or infinite: attention in TransformerLens takes NaN for nothing."""
    for name, weight in source.named_parameters():
        if weight.is_meta or weight.sum().isfinite():
            continue
        if not all(end.isfinite() for end in torch.aminmax(weight)):  # or else the sum alone is too large
            raise ModelError(
                f"{checkpoint.name}: {name} as {weight.dtype} holds NaN or infinity; expected numbers: fetch the "
                "checkpoint again, or load it with dtype='float32'"
            )


def official_name(name: str | Path) -> str | Path:
    """The Hub's name behind one of TransformerLens's short ones ("pythia-70m"); any other name as it is."""
    if name == "demo" or isinstance(name, Path) or "/" in name or Path(name).expanduser().exists():
        return name
    from transformer_lens.supported_models import MODEL_ALIASES

    return next((each for each, aliases in MODEL_ALIASES.items() if name.lower() in map(str.lower, aliases)), name)


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


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model alone: "demo", a folder with a tokenizer.json, or a Hugging Face name.

    Raises:
        ModelError: where there is none, or it gives no character offsets.
    """
    return _load_tokenizer(name, DEMO if name == "demo" else name, local_files_only=False)


def _load_tokenizer(name: str, source: Any, *, local_files_only: bool = True) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local_files_only, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{name}: the tokenizer cannot be read ({_reason(error)}); fetch it again") from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"{name}: {type(tokenizer).__name__} gives no character offsets; expected a fast tokenizer "
            "(tokenizer.json): convert it"
        )
    return tokenizer


def _placed(device: torch.device, backend: str, n_devices: int, device_map: DeviceMap) -> dict[str, Any]:
    """Where Hugging Face is to put what it loads; what becomes a HookedTransformer on several devices is dealt out
    later.
    """
    if device_map is not None:
        return {"device_map": device_map if isinstance(device_map, str) else dict(device_map)}
    if n_devices > 1 and backend == "bridge":
        numbers = range(device.index or 0, (device.index or 0) + n_devices)
        room = {number: free_memory(torch.device(device.type, number)) for number in numbers}
        return {"device_map": "balanced", "max_memory": room}
    return {} if device.type == "cpu" or n_devices > 1 else {"device_map": {"": device}}


def _load_source(checkpoint: Checkpoint, dtype: torch.dtype, placed: dict[str, Any]) -> Any:
    """The Hugging Face model. On the CPU its tensors are the mapped file; on a GPU they go straight there."""
    from transformers import AutoModelForCausalLM

    try:
        source, report = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **placed,
        )
    except torch.OutOfMemoryError:
        where = placed.get("device_map", "cpu")
        told = "the devices" if where == "balanced" or isinstance(where, str) else next(iter(where.values()))
        raise ModelError(f"{checkpoint.name}: out of memory on {told}; choose a smaller dtype or model") from None
    except Exception as error:
        raise ModelError(
            f"{checkpoint.name}: transformers cannot load {checkpoint.architecture} ({_reason(error)}); check "
            "config.json and the weight files"
        ) from error
    for key, found, expected in sorted(report["mismatched_keys"])[:1]:
        raise ModelError(
            f"{checkpoint.name}: {key} is {list(found)} in the weights and {list(expected)} by config.json; expected "
            "the same: fetch the checkpoint again"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{checkpoint.name}: {len(missing)} tensors missing from the weights, first {missing[0]}; fetch the "
            "checkpoint again"
        )
    return source


def _build(
    checkpoint: Checkpoint, source: Any, tokenizer: Any, backend: str, device: torch.device, n_devices: int
) -> Model:
    """The model of the backend around a Hugging Face model's weights."""
    other = "hooked" if backend == "bridge" else "bridge"
    expected = None if checkpoint.is_llama else _log_probabilities(source)
    try:
        if backend == "bridge":
            model = _bridge(checkpoint, source, tokenizer)
        else:
            model = hooked.convert(checkpoint, source, tokenizer, device=device, n_devices=n_devices)
        off = 0.0 if expected is None else float((_log_probabilities(model) - expected).abs().mean())
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{checkpoint.name}: TransformerLens cannot make a {backend} model of {checkpoint.architecture} "
            f"({_first_line(error)}); try backend={other!r}"
        ) from error
    if not off <= TOLERANCE * (1 if source.dtype == torch.float32 else 10):
        raise ModelError(
            f"{checkpoint.name}: TransformerLens's {backend} model of {checkpoint.architecture} gives "
            f"log-probabilities {off:.3g} nats off those of Hugging Face; expected the same: try backend={other!r}"
        )
    return model


@torch.no_grad()
def _log_probabilities(model: Any) -> Tensor:
    """Of the next of a few tokens, by a Hugging Face model or one of ours, float32 on the CPU."""
    config = getattr(model, "config", None) or model.cfg
    size = getattr(config, "vocab_size", None) or config.d_vocab
    tokens = (7 * torch.arange(16) % size)[None].to(next(model.parameters()).device)
    found = model(tokens)
    logits = found if isinstance(found, Tensor) else found.logits
    return logits[0, :-1].float().log_softmax(-1).cpu().gather(1, tokens[0, 1:, None].cpu())


def _bridge(checkpoint: Checkpoint, source: Any, tokenizer: Any) -> Model:
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        checkpoint.name, hf_model=source, tokenizer=tokenizer, dtype=source.dtype, device=str(source.device)
    )


def _first_line(error: Exception) -> str:
    """What an error says first; where that is a heading, what stands below it too."""
    head, *more = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join([head, *(line.strip() for line in more[:1] if head.endswith(":"))])[:200]


def _reason(error: Exception) -> str:
    """The first line of an error, or in plain words that a checkpoint wants to run code, which it never may."""
    if "custom code" in str(error):
        return "it needs Python code of its own, and none but that of transformers is run"
    if "Weights only load failed" in str(error):
        return "its .bin file is no plain table of tensors, and could run code; save it as model.safetensors"
    return _first_line(error)
