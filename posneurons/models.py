"""Language models, and the small surface of them that the rest of the package sees.

Two backends give the same numbers at the same hook names: `HookedTransformer`, and `TransformerBridge`, which wraps the
Hugging Face model. How a model is made is the matter of `loading`, what a checkpoint must be that of `checkpoints`.
Nothing here switches gradients off: call it under `torch.no_grad()` where none are wanted. This module knows no words
and no tags.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posneurons import checkpoints, forward, hooked, loading
from posneurons.backends import Backend, default_backend
from posneurons.checkpoints import Checkpoint
from posneurons.display import Shown
from posneurons.errors import ModelError
from posneurons.loading import Model
from posneurons.products import float_product

Hook: TypeAlias = forward.Hook
residual, home = forward.residual, forward.home

VOCABULARY_CHUNK = 16_384
"""Columns of the unembedding that are converted to float32 at once: 0.27 GB for Llama-3-8B."""

SELF_CHECK_TOLERANCE = 0.05
"""Nats by which a loss computed in two ways may differ when a model is checked; bf16 rounding is well below it."""


@dataclass(frozen=True, repr=False)
class ModelInfo(Shown):
    """What a model is and where it came from; revision and digest are None where it came from no checkpoint."""

    name: str
    revision: str | None
    config_sha256: str | None
    dtype: str
    backend: Backend
    device: str
    architecture: str
    n_layers: int
    d_model: int
    d_mlp: int
    n_ctx: int
    d_vocab: int
    n_parameters: int


@dataclass(frozen=True)
class _Origin:
    """What a loaded model cannot tell by itself; kept as its attribute `posneurons_origin`."""

    checkpoint: Checkpoint
    n_parameters: int


def load_model(
    name: str | Path = "demo",
    *,
    backend: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    n_devices: int = 1,
    device_map: loading.DeviceMap = None,
) -> Model:
    """Load a causal language model with its tokenizer, in evaluation mode, parameters frozen.

    Args:
        name: "demo" (the embedded Llama), a local folder, or a name on the Hugging Face Hub.
        backend: "hooked" for a HookedTransformer, "bridge" for a TransformerBridge; None is "hooked" where the
            installed transformer-lens has it (before 4.0), else "bridge".
        device: None is the first GPU where there is one, else the CPU.
        dtype: float32, bfloat16 or float16, as a word or a torch.dtype; None is the checkpoint's own.
        revision: branch, tag or commit of a Hub model.
        n_devices: GPUs that share the layers of a model too large for one, from `device` on.
        device_map: of a Bridge, Hugging Face's own way to say so ("auto", "balanced", or a device for every module),
            in place of `device` and `n_devices`.

    Returns:
        The model; `model.tokenizer` is its tokenizer. On the CPU and in the checkpoint's own dtype the weights of a
        Llama stay in the mapped file: leave the file as it is while the model is used.

    Raises:
        ModelError: with one line that says what is wrong and what to do.

    >>> load_model(backend="nnsight")
    Traceback (most recent call last):
    posneurons.errors.ModelError: backend 'nnsight': no such backend; expected one of hooked, bridge
    """
    backend = default_backend() if backend is None else backend
    if backend not in get_args(Backend):
        raise ModelError(f"backend {backend!r}: no such backend; expected one of {', '.join(get_args(Backend))}")
    place, asked = checkpoints.pick_device(device), checkpoints.pick_dtype(dtype)
    _check_devices(place, n_devices)
    if device_map is not None and (backend == "hooked" or device is not None or n_devices != 1):
        raise ModelError("device_map: only of backend='bridge', and without device and n_devices; leave it out")
    checkpoint = checkpoints.open_checkpoint(loading.official_name(name), revision)
    if backend == "hooked":
        hooked.lens(checkpoint.name)
    copies = 1 if checkpoint.is_llama or backend == "bridge" else 2
    share = copies / n_devices if device_map is None else 0.0  # of what goes where by a map, nothing is known yet
    chosen = checkpoints.fit(checkpoint, place, asked, copies=share)
    model, n_parameters = loading.build(checkpoint, place, chosen, backend, n_devices=n_devices, device_map=device_map)
    model.posneurons_origin = _Origin(checkpoint, n_parameters)
    bos_id(model)
    check_neurons(model)
    return model


def _check_devices(first: torch.device, n_devices: int) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    left = count - (first.index or 0) if first.type == "cuda" else 0
    if n_devices != 1 and not 1 <= n_devices <= left:
        raise ModelError(f"n_devices={n_devices}: {left} usable GPUs from {first} on; choose 1 to {max(1, left)}")


def build_hooked(fields: dict[str, Any], weights: dict[str, Tensor], tokenizer: Any = None) -> Model:
    """A HookedTransformer of TransformerLens's configuration fields and given weights, checked as a loaded one is.

    Raises:
        ModelError: where a weight is missing, unknown or of another shape, or the model has no MLP neurons.
    """
    with loading.quiet():
        model = hooked.build_hooked(fields, weights, tokenizer)
    check_neurons(model)
    return model


def describe(model: Model) -> ModelInfo:
    """What a model is; dtype and device are those of now, should it have been moved."""
    origin: _Origin | None = getattr(model, "posneurons_origin", None)
    source = origin.checkpoint if origin else None
    cfg, weight = model.cfg, next(model.parameters())
    architecture = source.architecture if source else getattr(cfg, "original_architecture", None) or "HookedTransformer"
    return ModelInfo(
        name=source.name if source else str(cfg.model_name),
        revision=source.revision if source else None,
        config_sha256=source.config_sha256 if source else None,
        dtype=str(weight.dtype).removeprefix("torch."),
        backend="bridge" if forward.is_bridge(model) else "hooked",
        device=str(weight.device),
        architecture=architecture,
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        d_mlp=cfg.d_mlp,
        n_ctx=cfg.n_ctx,
        d_vocab=cfg.d_vocab,
        n_parameters=origin.n_parameters if origin else sum(each.numel() for each in model.parameters()),
    )


def post_name(layer: int) -> str:
    """Name of the hook where a layer's MLP neurons are: the input of the down projection.

    >>> post_name(12)
    'blocks.12.mlp.hook_post'
    """
    return f"blocks.{layer}.mlp.hook_post"


def pre_name(layer: int) -> str:
    """Name of the hook before the activation function: of a gated MLP the gate, which is "on" where this is positive.

    >>> pre_name(12)
    'blocks.12.mlp.hook_pre'
    """
    return f"blocks.{layer}.mlp.hook_pre"


def bos_id(model_or_tokenizer: Any) -> int:
    """Id of the token that begins a text; GPT-2's is its end of text.

    Raises:
        ModelError: where the tokenizer has none.
    """
    tokenizer = getattr(model_or_tokenizer, "tokenizer", model_or_tokenizer)
    if getattr(tokenizer, "bos_token_id", None) is None:
        raise ModelError(
            f"{getattr(tokenizer, 'name_or_path', '') or 'tokenizer'}: no BOS token; expected one, such as "
            "<|begin_of_text|>: set tokenizer.bos_token to the token that begins a text"
        )
    return int(tokenizer.bos_token_id)


def run_with_cache(
    model: Model, tokens: Int[Tensor, "batch pos"], names: Sequence[str]
) -> dict[str, Float[Tensor, "batch pos width"]]:
    """Activations at the named hooks by the model's own `run_with_cache`, under the names asked for.

    Raises:
        ModelError: where a name is no hook that was reached.
    """
    if forward.is_bridge(model):
        points = model.hook_dict
        known = [name for name in names if name in points]  # 4.x has an error of its own for names that are no hooks
        with model.hooks(fwd_hooks=[("ln_final.hook_in", _stop_a_bridge)]):
            _, cache = model.run_with_cache(tokens.to(model.cfg.device), names_filter=known, return_cache_object=False)
        found = {name: cache.get(name, cache.get(points[name].name)) for name in known}
    else:
        _, found = model.run_with_cache(
            tokens,
            names_filter=list(names),
            stop_at_layer=model.cfg.n_layers,
            return_cache_object=False,
            padding_side="right",
        )
    missing = [name for name in names if found.get(name) is None]
    if missing:
        raise ModelError(
            f"{describe(model).name}: nothing at hook {missing[0]!r}; expected one such as {post_name(0)!r}"
        )
    return {name: found[name].to(home(model)) for name in names}


def _stop_a_bridge(value: Tensor, hook: Any) -> None:  # noqa: ARG001
    """A hook before the final norm, so that `run_with_cache` of a TransformerBridge makes no logits."""
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    raise StopAtLayerException(value)


def unembed(model: Model, rows: Float[Tensor, "row d_model"], *, normed: bool = False) -> Float[Tensor, "row vocab"]:
    """Logits of rows of the residual after the last block (`normed`: after the final norm), in float32 in any dtype.

    A bfloat16 logit of 20 is off by up to 0.06, as much as a lesion may do; so the product is made in float32, with the
    vocabulary in chunks because its weights are converted.
    """
    there = rows.to(model.W_U.device)
    states = (there if normed else model.ln_final(there[None])[0]).float()
    logits = float_product(states, model.W_U, columns=VOCABULARY_CHUNK)
    bias = model.b_U
    return capped(model, logits if bias is None else logits.add_(bias.float())).to(rows.device)


def capped(model: Model, logits: Float[Tensor, "*row"]) -> Float[Tensor, "*row"]:
    """Logits after the soft cap that some models (Gemma 2) put on them."""
    cap = getattr(model.cfg, "output_logits_soft_cap", None)
    return cap * torch.tanh(logits / cap) if cap is not None and cap > 0 else logits


def cross_entropy(
    model: Model, rows: Float[Tensor, "row d_model"], targets: Int[Tensor, " row"], *, chunk: int = 1024
) -> Float[Tensor, " row"]:
    """Next-token loss in nats, float32, of rows of the residual stream after the last block.

    Args:
        model: what `load_model` gives.
        rows: residuals at the positions that predict.
        targets: the token that follows each.
        chunk: rows whose logits are in memory at once; 1024 rows of Llama 3's vocabulary take 0.5 GB.
    """
    there = model.W_U.device
    parts = zip(torch.split(rows.to(there), chunk), torch.split(targets.to(there), chunk), strict=True)
    return torch.cat([_nats(unembed(model, part), wanted) for part, wanted in parts]).to(rows.device)


def _nats(logits: Float[Tensor, "row vocab"], targets: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


@torch.no_grad()
def check_neurons(model: Model) -> None:
    """See on two tokens that every layer shows `d_mlp` neurons, and that norm and unembedding give the model's logits.

    Raises:
        ModelError: where they do not.
    """
    info = describe(model)
    # On the Bridge a mixture of experts has something else under the name of hook_post.
    mixture = (getattr(model.cfg, "num_experts", None) or 1) > 1
    names = [post_name(layer) for layer in range(info.n_layers)]
    widths: dict[str, int] = {}

    def note(value: Tensor, hook: Any, name: str) -> None:  # noqa: ARG001
        widths[name] = value.shape[-1]

    hooks = [(name, _named(note, name)) for name in names if name in model.hook_dict]
    tokens = torch.tensor([[0, 1]], device=info.device)
    rows = residual(model, tokens, hooks)[0]
    for name in names:
        if mixture or name not in widths:
            raise ModelError(
                f"{info.name}: no MLP neurons at hook_post ({name}) in {info.architecture}; expected a dense MLP in "
                "every layer: mixtures of experts and attention-only models have none"
            )
        if widths[name] != info.d_mlp:
            raise ModelError(
                f"{info.name}: wrong width at {name}: found {widths[name]}, expected d_mlp = {info.d_mlp}; choose a "
                "model whose layers are equally wide"
            )
    _check_logits(model, tokens, rows)


def _named(function: Callable[..., None], name: str) -> Callable[[Tensor, Any], None]:
    return lambda value, hook: function(value, hook, name)


def _check_logits(model: Model, tokens: Int[Tensor, "batch pos"], rows: Float[Tensor, "row d_model"]) -> None:
    """Some architectures do more to their logits than the parts say, such as scaling: see that this one does not."""
    targets = tokens[0]
    whole = _nats(model(tokens, return_type="logits")[0].float().to(rows.device), targets)
    parts = model.unembed(model.ln_final(rows[None].to(model.W_U.device)))[0].float().to(rows.device)
    off = (whole - _nats(capped(model, parts), targets)).abs().max().item()
    if not off <= SELF_CHECK_TOLERANCE:
        info = describe(model)
        raise ModelError(
            f"{info.name}: final norm and unembedding of {info.architecture} give a loss {off:.3g} nats off its "
            "logits; expected the same: try the other backend"
        )
