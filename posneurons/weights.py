"""The logit lens: what a neuron writes, and how the final norm and the unembedding read it, in float32.

Both norms that language models end in are linear once their scale is given: y = gain * centre(x) / s + bias, with s the
root mean square of centre(x), and centre the identity (RMSNorm, arXiv:1910.07467) or less the mean (LayerNorm,
arXiv:1607.06450). What the gain is, and whether the mean is taken off, is measured on the norm itself: architectures
store it in different ways. This module knows tensors and hooks, and no words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from posneurons import models
from posneurons.errors import ModelError

ROWS = 1024
"""Words whose logits are in memory at once."""

MOVED_LOGITS = 2**23
"""Logits in memory at once where neurons are added one at a time."""

TOLERANCE = 0.05
"""Share by which a norm or a layer may miss what it is taken for: above what bfloat16 rounds."""


@dataclass(frozen=True)
class FinalNorm:
    """The norm before the unembedding, as gain, bias and whether the mean is taken off."""

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool
    eps: float

    def centre(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """Rows less their mean, for a LayerNorm; its own transpose, so that derivatives go through it too."""
        return rows - rows.mean(-1, keepdim=True) if self.centred else rows

    def scale(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        """What the norm divides each row by: the root of eps plus the mean square of the (centred) row."""
        return (self.centre(rows.float()).square().mean(-1) + self.eps).sqrt()

    def apply(self, rows: Float[Tensor, "row d_model"], scale: Float[Tensor, " row"]) -> Float[Tensor, "row d_model"]:
        """Rows after the norm, float32, with scales that need not be their own."""
        return self.centre(rows.float()) / scale[:, None] * self.gain + self.bias

    def push(self, directions: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """How far the norm's output moves at scale 1 when its input moves along each direction."""
        return self.centre(directions.float()) * self.gain

    def pull_back(self, after: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """Derivatives by what goes into the norm, at scale 1, from derivatives by what comes out."""
        return self.centre(after * self.gain)


@torch.no_grad()
def final_norm(model: Any) -> FinalNorm:
    """The norm that a model's residual goes through before the unembedding.

    Raises:
        ModelError: where it is neither a LayerNorm nor an RMSNorm.
    """
    info = models.describe(model)
    like = model.W_U
    eps = float(getattr(model.cfg, "eps", 1e-5))
    signs = torch.ones(info.d_model, device=info.device)
    signs[1::2] = -1

    def normed(*rows: Tensor) -> Tensor:
        after: Tensor = model.ln_final(torch.stack(rows)[None].to(like))[0].float().to(info.device)
        return after

    constant, opposite, alternating, reverse, zero = normed(
        torch.ones_like(signs), -torch.ones_like(signs), signs, -signs, torch.zeros_like(signs)
    )
    centred = bool((constant - opposite).norm() < TOLERANCE * (alternating - reverse).norm())
    unit = FinalNorm(torch.ones_like(signs), torch.zeros_like(signs), centred, eps)
    norm = FinalNorm(
        (alternating - reverse) / 2 / unit.apply(signs[None], unit.scale(signs[None]))[0], zero, centred, eps
    )
    drawn = torch.randn(4, info.d_model, generator=torch.Generator().manual_seed(0)).to(info.device, like.dtype) + 1
    expected, found = norm.apply(drawn, norm.scale(drawn)), normed(*drawn)
    if not (found - expected).norm() <= TOLERANCE * found.norm():
        raise ModelError(
            f"{info.name}: the final norm of {info.architecture} is neither LayerNorm nor RMSNorm, as the logit lens "
            "needs; choose another method, such as attribution"
        )
    return norm


def output_weights(model: Any, layer: int) -> Float[Tensor, "neuron d_model"]:
    """What each neuron of a layer adds to the residual stream per unit of activation: the weights, without a copy
    where the model lies on one device.
    """
    weights: Tensor = model.blocks[layer].mlp.W_out
    return weights.to(models.home(model))


def vocabulary(model: Any) -> Iterator[tuple[slice, Float[Tensor, "d_model vocab"], Float[Tensor, " vocab"]]]:
    """The unembedding and its bias in float32, some tokens at a time: which, weights, biases."""
    bias, where = model.b_U, models.home(model)
    for start in range(0, model.W_U.shape[1], models.VOCABULARY_CHUNK):
        part = slice(start, start + models.VOCABULARY_CHUNK)
        weights = model.W_U[:, part].float().to(where)
        yield part, weights, weights.new_zeros(weights.shape[1]) if bias is None else bias[part].float().to(where)


def lens_slopes(
    model: Any,
    norm: FinalNorm,
    before: Float[Tensor, "word d_model"],
    scale: Float[Tensor, " word"],
    targets: Int[Tensor, " word"],
) -> Float[Tensor, "word d_model"]:
    """Derivative of log p(target | row) in the logit lens by each row, at a fixed scale."""
    found = []
    states = norm.apply(before, scale)
    for rows, wanted in zip(torch.split(states, ROWS), torch.split(targets, ROWS), strict=True):
        with torch.enable_grad():
            leaf = rows.detach().requires_grad_()
            log_probs = models.unembed(model, leaf, normed=True).log_softmax(-1)
            found.append(torch.autograd.grad(log_probs.gather(-1, wanted[:, None]).sum(), leaf)[0])
    return norm.pull_back(torch.cat(found)) / scale[:, None]


@torch.no_grad()
def lens_increase(
    model: Any,
    norm: FinalNorm,
    before: Float[Tensor, "word d_model"],
    scale: Float[Tensor, " word"],
    targets: Int[Tensor, " word"],
    acts: Float[Tensor, "word k"],
    weights: Float[Tensor, "k d_model"],
) -> Float[Tensor, "word k"]:
    """Rise of log p(target | row) in the logit lens at a fixed scale when a neuron's a w is added, in nats.

    A neuron moves all logits along one line, so that the products with the unembedding are made once per word and once
    per neuron; the sum over the vocabulary is gathered chunk by chunk.
    """
    states, pushes, amounts = norm.apply(before, scale), norm.push(weights), acts / scale[:, None]
    plain, moved = torch.full_like(scale, -torch.inf), torch.full_like(acts, -torch.inf)
    for _, columns, bias in vocabulary(model):
        base, steps = states @ columns + bias, pushes @ columns
        plain = plain.logaddexp(models.capped(model, base).logsumexp(-1))
        size = max(1, MOVED_LOGITS // steps.numel())
        for words in torch.split(torch.arange(len(base), device=base.device), size):
            logits = base[words, None] + einsum(amounts[words], steps, "word k, k vocab -> word k vocab")
            moved[words] = moved[words].logaddexp(models.capped(model, logits).logsumexp(-1))
    there = targets.to(model.W_U.device)
    wanted = model.W_U[:, there].float().to(states.device)
    base = einsum(states, wanted, "word d_model, d_model word -> word")
    base = base if model.b_U is None else base + model.b_U[there].float().to(states.device)
    after = base[:, None] + amounts * (pushes @ wanted).T
    return models.capped(model, after) - moved - (models.capped(model, base) - plain)[:, None]
