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
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posneurons import checkpoints, loading
from posneurons.checkpoints import Checkpoint
from posneurons.display import Shown
from posneurons.errors import ModelError
from posneurons.loading import Model

Backend = Literal["hooked", "bridge"]
Hook = tuple[str, Callable[..., Any]]
"""A hook's name, and a function of (value, hook) that gives a new value or None."""

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
    backend: str = "hooked",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
) -> Model:
    """Load a causal language model with its tokenizer, in evaluation mode, parameters frozen.

    Args:
        name: "demo" (the embedded Llama), a local folder, or a name on the Hugging Face Hub.
        backend: "hooked" for a HookedTransformer, "bridge" for a TransformerBridge.
        device: None is the first GPU where there is one, else the CPU.
        dtype: float32, bfloat16 or float16, as a word or a torch.dtype; None is the checkpoint's own.
        revision: branch, tag or commit of a Hub model.

    Returns:
        The model; `model.tokenizer` is its tokenizer. On the CPU and in the checkpoint's own dtype the weights of a
        Llama stay in the mapped file: leave the file as it is while the model is used.

    Raises:
        ModelError: with one line that says what is wrong and what to do.

    >>> load_model(backend="nnsight")
    Traceback (most recent call last):
    posneurons.errors.ModelError: backend 'nnsight': no such backend; expected one of hooked, bridge
    """
    if backend not in get_args(Backend):
        raise ModelError(f"backend {backend!r}: no such backend; expected one of {', '.join(get_args(Backend))}")
    place, asked = checkpoints.pick_device(device), checkpoints.pick_dtype(dtype)
    checkpoint = checkpoints.open_checkpoint(loading.official_name(name), revision)
    copies = 1 if checkpoint.is_llama or backend == "bridge" else 2
    chosen = checkpoints.fit(checkpoint, place, asked, copies=copies)
    model, n_parameters = loading.build(checkpoint, place, chosen, backend)
    model.posneurons_origin = _Origin(checkpoint, n_parameters)
    bos_id(model)
    check_neurons(model)
    return model


def build_hooked(fields: dict[str, Any], weights: dict[str, Tensor], tokenizer: Any = None) -> Model:
    """A HookedTransformer of TransformerLens's configuration fields and given weights, checked as a loaded one is.

    Raises:
        ModelError: where a weight is missing, unknown or of another shape, or the model has no MLP neurons.
    """
    model = loading.build_hooked(fields, weights, tokenizer)
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
        backend="bridge" if _is_bridge(model) else "hooked",
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


def _is_bridge(model: Model) -> bool:
    return hasattr(model, "original_model")


def residual(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    hooks: Sequence[Hook] = (),
    *,
    start: tuple[int, Float[Tensor, "batch pos d_model"]] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last block, with hooks at work; the unembedding is not computed.

    Attention is causal and nothing is masked as padding, whatever the tokenizer says: pad on the right with any token,
    and positions before the padding are as without it. Gradients flow where they are on.

    Args:
        model: what `load_model` gives.
        tokens: ids with BOS at position 0.
        hooks: called in order.
        start: (layer, the residual before that layer): earlier layers are taken as given. On a HookedTransformer they
            are not run; a TransformerBridge cannot skip them and gives the same result at full cost. Hooks must not
            be on the layers that are skipped.

    Raises:
        KeyError: where a HookedTransformer has no hook of a name.
    """
    if _is_bridge(model):
        return _bridge_residual(model, tokens, hooks, start)
    last = model.cfg.n_layers
    with model.hooks(fwd_hooks=list(hooks)):
        layer, value = (None, tokens) if start is None else start
        state: Tensor = model(value, start_at_layer=layer, stop_at_layer=last, padding_side="right")
    return state


def _bridge_residual(
    model: Model, tokens: Tensor, hooks: Sequence[Hook], start: tuple[int, Tensor] | None
) -> Float[Tensor, "batch pos d_model"]:
    """The Bridge's own `stop_at_layer` runs the unembedding where it is the number of layers, so stop at the norm."""
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    def stop(value: Tensor, hook: Any) -> None:  # noqa: ARG001
        raise StopAtLayerException(value)

    wanted: list[Hook] = [*hooks, ("ln_final.hook_in", stop)]
    if start is not None:
        layer, given = start
        wanted.insert(0, (f"blocks.{layer}.hook_in", lambda value, hook: given))  # noqa: ARG005
    with model.hooks(fwd_hooks=wanted):
        state: Tensor = model(tokens.to(model.cfg.device), use_cache=False)
    return state


def run_with_cache(
    model: Model, tokens: Int[Tensor, "batch pos"], names: Sequence[str]
) -> dict[str, Float[Tensor, "batch pos width"]]:
    """Activations at the named hooks by the model's own `run_with_cache`, under the names asked for.

    Raises:
        ModelError: where a name is no hook that was reached.
    """
    if _is_bridge(model):
        _, cache = model.run_with_cache(
            tokens.to(model.cfg.device), names_filter=list(names), return_cache_object=False
        )
        found = {
            name: cache.get(name, cache.get(model.hook_dict[name].name)) for name in names if name in model.hook_dict
        }
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
    return {name: found[name] for name in names}


def unembed(model: Model, rows: Float[Tensor, "row d_model"], *, normed: bool = False) -> Float[Tensor, "row vocab"]:
    """Logits of rows of the residual after the last block (`normed`: after the final norm), in float32 in any dtype.

    A bfloat16 logit of 20 is off by up to 0.06, as much as a lesion may do; so the product is made in float32, with the
    vocabulary in chunks because its weights are converted.
    """
    states = (rows if normed else model.ln_final(rows[None])[0]).float()
    parts = [states @ part.float() for part in model.W_U.split(VOCABULARY_CHUNK, dim=1)]
    logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    bias = model.b_U
    return capped(model, logits if bias is None else logits + bias.float())


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
    losses = [
        _nats(unembed(model, part), wanted)
        for part, wanted in zip(torch.split(rows, chunk), torch.split(targets.to(rows.device), chunk), strict=True)
    ]
    return torch.cat(losses)


def _nats(logits: Float[Tensor, "row vocab"], targets: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    return logits.logsumexp(-1) - logits.gather(-1, targets[:, None])[:, 0]


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
    whole = _nats(model(tokens, return_type="logits")[0].float(), targets)
    parts = model.unembed(model.ln_final(rows[None]))[0].float()
    off = (whole - _nats(capped(model, parts), targets)).abs().max().item()
    if not off <= SELF_CHECK_TOLERANCE:
        info = describe(model)
        raise ModelError(
            f"{info.name}: final norm and unembedding of {info.architecture} give a loss {off:.3g} nats off its "
            "logits; expected the same: try the other backend"
        )
