"""What of the next token is attributed, with its derivative by the residual stream after the last block.

Logits are made in chunks of rows, and the derivative is taken chunk by chunk, so that a vocabulary of 128,256 needs the
memory of one chunk and not that of a batch. This module knows no words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posneurons import models
from posneurons.models import Hook
from posneurons.words import Target


def score(
    model: Any,
    rows: Float[Tensor, "row d_model"],
    targets: Int[Tensor, " row"],
    target: Target = "log_probability",
) -> Float[Tensor, " row"]:
    """Log-probability (nats), probability or logit of each row's target token, float32."""
    logits = models.unembed(model, rows)
    wanted = logits.gather(-1, targets[:, None])[:, 0]
    if target == "logit":
        return wanted
    found = wanted - logits.logsumexp(-1)
    return found.exp() if target == "probability" else found


def score_and_gradient(
    model: Any,
    rows: Float[Tensor, "row d_model"],
    targets: Int[Tensor, " row"],
    target: Target = "log_probability",
    *,
    hooks: Sequence[Hook] = (),
    chunk: int = 1024,
) -> tuple[Float[Tensor, " row"], Float[Tensor, "row d_model"]]:
    """The score of every row, and its derivative by that row, in the dtype of `rows`.

    Args:
        model: what `load_model` gives.
        rows: residuals at the positions that predict.
        targets: the token that follows each.
        target: what is attributed.
        hooks: at work on the final norm.
        chunk: rows whose logits are in memory at once.
    """
    scores, gradients = [], []
    with torch.enable_grad(), model.hooks(fwd_hooks=list(hooks)):
        for part, wanted in zip(torch.split(rows, chunk), torch.split(targets, chunk), strict=True):
            leaf = part.detach().requires_grad_()
            found = score(model, leaf, wanted, target)
            (gradient,) = torch.autograd.grad(found.sum(), leaf)
            scores.append(found.detach())
            gradients.append(gradient)
    return torch.cat(scores), torch.cat(gradients)
