"""Generation with neurons scaled, clamped or pushed, on token ids and by random numbers that a change does not touch.

A token is drawn by the Gumbel trick: the highest of logits / temperature plus noise. The noise of a continuation comes
from a generator of its own, seeded by the seed, the prompt's tokens and the continuation's number, so that texts with
and without a change are drawn by the same random numbers (common random numbers: they differ only where the change
makes them), and neither the batch nor the other prompts matter. A token's noise is its own and does not move with the
probabilities of others, as it would if one uniform number were put through the cumulative distribution.

A change is at work where it would be with a cache of keys and values: at the positions of the prompt, and at each
generated token with the value of its step; never at BOS. The whole text is read again for every token, which is the
same on both backends; a cache would be faster. This module knows no words and no tags.
Source: Gumbel-max with common noise, Oberst and Sontag 2019, arXiv:1905.05824.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from posneurons import models
from posneurons.activations import BATCH_TOKENS
from posneurons.errors import NeuronError, PosNeuronsError
from posneurons.models import Hook
from posneurons.neurons import NeuronSet

ChangeKind = Literal["scale", "clamp", "add"]
"""What a neuron becomes: value times what it is; the value; or what it is plus the value."""

Ids = tuple[int, ...]
"""Tokens, as numbers of the vocabulary."""


@dataclass(frozen=True)
class Change:
    """What is done to a set of neurons while a model writes.

    Attributes:
        neurons: which.
        kind: scale, clamp or add.
        values: one for each generated token, in order; once they are used up the model is intact. The first holds at
            the positions of the prompt too.
        spread: for "add", what a value of 1 adds to each neuron, such as its standard deviation; None for 1.
    """

    neurons: NeuronSet
    kind: ChangeKind
    values: tuple[float, ...]
    spread: Float[Tensor, "layer neuron"] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(ChangeKind):
            raise NeuronError(f"change {self.kind!r}: expected one of {', '.join(get_args(ChangeKind))}")
        for value in self.values:
            if not math.isfinite(value):
                raise NeuronError(f"change {self.kind!r}: value {value}; expected a finite number")

    def hooks(self, steps: Int[Tensor, "batch pos"]) -> list[Hook]:
        """Hooks that make the change where `steps`, the number of the token that a position predicts, is 0 or more."""
        active = (steps >= 0) & (steps < len(self.values))
        amounts = torch.tensor([*self.values, 0.0], device=steps.device)[torch.where(active, steps, len(self.values))]
        return [
            (models.post_name(layer), self._hook(layer, torch.from_numpy(units).to(steps.device), active, amounts))
            for layer, units in self.neurons.by_layer().items()
        ]

    def _hook(self, layer: int, units: Tensor, active: Tensor, amounts: Tensor) -> Any:
        size = None if self.spread is None else self.spread.to(units.device)[layer, units]

        def hook_function(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            live, amount = value[..., units], amounts[..., None].to(value.dtype)
            if self.kind == "scale":
                new = live * amount
            elif self.kind == "clamp":
                new = amount.expand_as(live)
            else:
                new = live + (amount if size is None else amount * size.to(value.dtype))
            changed = value.clone()
            changed[..., units] = torch.where(active[..., None], new, live)
            return changed

        return hook_function


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        tokens: how many are generated, unless the text ends before.
        continuations: texts for each prompt.
        temperature: of the softmax; at 0 the most likely token is taken and all continuations of a prompt are one.
        top_k: draw among so many of the most likely tokens; None for all.
        seed: of the noise.
    """

    tokens: int = 32
    continuations: int = 8
    temperature: float = 1.0
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, number, least in (
            ("tokens", self.tokens, 1),
            ("continuations", self.continuations, 1),
            ("top_k", 1 if self.top_k is None else self.top_k, 1),
            ("seed", self.seed, 0),
        ):
            if number < least:
                raise PosNeuronsError(f"steering: {name}={number}; expected at least {least}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise PosNeuronsError(f"steering: temperature={self.temperature}; expected a finite number of at least 0")


class _Row:
    """A text in the making."""

    def __init__(self, start: Ids, continuation: int, seed: int) -> None:
        self.ids, self.start, self.ended = list(start), len(start), False
        self.rng = np.random.default_rng([seed, continuation, *start])


@torch.no_grad()
def generate(
    model: Any,
    starts: Sequence[Sequence[int]],
    change: Change | None = None,
    *,
    sampling: Sampling | None = None,
    stop: Collection[int] = (),
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> tuple[tuple[Ids, ...], ...]:
    """What a model writes after each beginning, as token ids; the beginnings are left out.

    The cost of a continuation of n tokens is that of reading n texts, from the prompt to the whole.

    Args:
        model: what `load_model` gives.
        starts: ids with BOS at position 0, of any lengths, no two the same.
        change: what is done to neurons; None for the intact model.
        sampling: how tokens are drawn; None for `Sampling()`.
        stop: tokens that end a text, and are left out.
        batch_tokens: size of a batch, padding included.
        progress: show a bar.

    Returns:
        For each beginning its continuations, in order.

    Raises:
        NeuronError: where a neuron lies outside the model.
        PosNeuronsError: where there is no beginning, one comes twice, or one does not fit the context.
    """
    sampling = sampling or Sampling()
    info = models.describe(model)
    if change is not None:
        change.neurons.check(info.n_layers, info.d_mlp)
    beginnings = [tuple(start) for start in starts]
    _check(beginnings, info, sampling)
    groups = [[_Row(start, n, sampling.seed) for n in range(sampling.continuations)] for start in beginnings]
    rows = [row for group in groups for row in group]
    total = len(rows) * sampling.tokens
    with tqdm(total=total, desc="writing", unit="token", leave=None, disable=not progress) as bar:
        for batch in batched(rows, [row.start + sampling.tokens for row in rows], batch_tokens):
            for _ in range(sampling.tokens):
                going = [row for row in batch if not row.ended]
                if going:
                    _write(model, going, change, sampling, stop)
                bar.update(len(batch))
    return tuple(tuple(tuple(row.ids[row.start :]) for row in group) for group in groups)


def _check(beginnings: list[Ids], info: models.ModelInfo, sampling: Sampling) -> None:
    if not beginnings:
        raise PosNeuronsError("steering: no prompt was given; expected at least one")
    for number, start in enumerate(beginnings):
        if start in beginnings[:number]:
            raise PosNeuronsError(
                f"steering: prompt {number + 1} is the same as one before it and would go on in the same way; "
                "give each once and ask for more continuations"
            )
        if not start or len(start) + sampling.tokens - 1 > info.n_ctx:
            raise PosNeuronsError(
                f"steering: prompt {number + 1} has {len(start)} tokens with BOS, and {sampling.tokens} more were asked"
                f" for; the model's context has {info.n_ctx}: give a shorter prompt or fewer tokens"
            )


def batched(items: Sequence[Any], lengths: Sequence[int], tokens: int) -> Iterator[list[Any]]:
    """Items in batches of at most so many tokens, padded to the longest; at least one item each."""
    batch: list[Any] = []
    longest = 0
    for item, length in zip(items, lengths, strict=True):
        if batch and max(longest, length) * (len(batch) + 1) > tokens:
            yield batch
            batch, longest = [], 0
        batch.append(item)
        longest = max(longest, length)
    if batch:
        yield batch


def _padded(texts: Sequence[Sequence[int]], device: str) -> Int[Tensor, "batch pos"]:
    """Texts side by side, padded on the right with token 0, which nothing before it sees."""
    padded = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
    for slot, ids in enumerate(texts):
        padded[slot, : len(ids)] = torch.tensor(ids)
    return padded.to(device)


def _write(model: Any, rows: Sequence[_Row], change: Change | None, sampling: Sampling, stop: Collection[int]) -> None:
    """Draw the next token of every row."""
    tokens = _padded([row.ids for row in rows], models.describe(model).device)
    hooks: list[Hook] = []
    if change is not None:
        position = torch.arange(tokens.shape[1], device=tokens.device)
        start = torch.tensor([row.start for row in rows], device=tokens.device)
        steps = (position - (start[:, None] - 1)).clamp(min=0)
        hooks = change.hooks(torch.where(position > 0, steps, -1))
    last = torch.tensor([len(row.ids) - 1 for row in rows], device=tokens.device)
    states = models.residual(model, tokens, hooks)[torch.arange(len(rows), device=tokens.device), last]
    scores = models.unembed(model, states)
    if sampling.top_k is not None and sampling.top_k < scores.shape[1]:
        least = scores.topk(sampling.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if sampling.temperature:
        noise = np.stack([-np.log(row.rng.standard_exponential(scores.shape[1])) for row in rows])
        scores = scores / sampling.temperature + torch.from_numpy(noise).float().to(scores.device)
    for row, token in zip(rows, scores.argmax(-1).tolist(), strict=True):
        row.ended = token in stop
        if not row.ended:
            row.ids.append(token)


@torch.no_grad()
def loss_per_token(
    model: Any,
    starts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> float:
    """Mean next-token loss of continuations under the intact model, in nats: how odd it finds what was written.

    Args:
        model: what `load_model` gives.
        starts: ids that the continuations follow, with BOS at position 0.
        continuations: for each of them some.
        batch_tokens: size of a batch, padding included.

    Returns:
        The mean over all generated tokens at temperature 1; NaN where there are none.
    """
    pairs = [(tuple(start), tuple(ids)) for start, each in zip(starts, continuations, strict=True) for ids in each]
    pairs = [(start, ids) for start, ids in pairs if ids]
    device, total, count = models.describe(model).device, 0.0, 0
    for batch in batched(pairs, [len(start) + len(ids) for start, ids in pairs], batch_tokens):
        tokens = _padded([start + ids for start, ids in batch], device)
        places = [(n, at) for n, (start, ids) in enumerate(batch) for at in range(len(start), len(start) + len(ids))]
        slot, position = torch.tensor(places, device=device).unbind(1)
        rows = models.residual(model, tokens)[slot, position - 1]
        total += models.cross_entropy(model, rows, tokens[slot, position]).double().sum().item()
        count += len(places)
    return total / count if count else math.nan
