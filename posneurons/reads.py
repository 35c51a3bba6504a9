"""A batch with the places whose losses are read, and what its intact run leaves for lesions to start from.

This module knows tensors, and neither models nor words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Reads:
    """A batch, and the places of it whose next token's loss is read.

    Attributes:
        tokens: ids with BOS at position 0.
        where: index into the flattened (batch, pos) axes of each place, each once.
        targets: the token that follows each.
        tags: for the split of the loss, the tag of the word that follows, -1 for none; None where no split is asked.
        ablated: where neurons are ablated; never BOS.
        number: number of each token in the corpus, by which donors are looked up; anything where nothing is ablated.
    """

    tokens: Int[Tensor, "batch pos"]
    where: Int[Tensor, " place"]
    targets: Int[Tensor, " place"]
    tags: Int[Tensor, " place"] | None
    ablated: Bool[Tensor, "batch pos"]
    number: Int[Tensor, "batch pos"]

    def at(self, keep: Bool[Tensor, " place"]) -> Reads:
        """Some of the places."""
        tags = None if self.tags is None else self.tags[keep]
        return replace(self, where=self.where[keep], targets=self.targets[keep], tags=tags)

    def rows(self, rows: slice) -> tuple[Reads, Bool[Tensor, " place"]]:
        """Some of the rows, and which places are in them."""
        pos = self.tokens.shape[1]
        inside = (self.where >= rows.start * pos) & (self.where < rows.stop * pos)
        part = self.at(inside)
        return replace(
            part,
            tokens=self.tokens[rows],
            where=part.where - rows.start * pos,
            ablated=self.ablated[rows],
            number=self.number[rows],
        ), inside

    def until_read(self) -> Int[Tensor, " run"]:
        """Every place up to the last one of its row that is read: what comes later has no say."""
        (batch, pos), position = self.tokens.shape, self.where % self.tokens.shape[1]
        last = torch.full((batch,), -1, device=position.device)
        last.scatter_reduce_(0, self.where // pos, position, "amax")
        inside = torch.arange(pos, device=position.device) <= last[:, None]
        return torch.nonzero(inside.flatten())[:, 0]


@dataclass(frozen=True)
class Trunk:
    """The intact run of a batch: losses at the read places, and what the conditions fork from.

    Attributes:
        reads: the batch.
        losses: nats per place, and, where the split is asked for, -ln P(tag).
        residuals, values: per layer at which a condition forks, the residual after it, and its ablated neurons.
        clean: keys and values of every layer; empty where they are not needed.
    """

    reads: Reads
    losses: Float[Tensor, "measure place"]
    residuals: Mapping[int, Tensor]
    values: Mapping[int, Tensor]
    clean: Mapping[int, tuple[Tensor, Tensor]]

    def rows(self, rows: slice) -> tuple[Trunk, Bool[Tensor, " place"]]:
        """Some of the rows, and which places are in them."""
        reads, inside = self.reads.rows(rows)
        return Trunk(
            reads,
            self.losses[:, inside],
            {layer: value[rows] for layer, value in self.residuals.items()},
            {layer: value[rows] for layer, value in self.values.items()},
            {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.clean.items()},
        ), inside
