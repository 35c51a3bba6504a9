"""The exact split of a word's loss: -ln p(token) = -ln P(tag) - ln p(token | tag), with P(tag) = sum_v P(tag | v) p(v).

The first part is what it costs the model not to know the category, the second what it costs not to know the word once
the category is known. P(tag | token) is counted on words; whatever it is, the two parts add up to the loss. A neuron of
a part of speech must move the first part. This module knows no lesions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from posneurons import models
from posneurons.errors import AlignmentError
from posneurons.records import Corpus

PRIOR = 1.0
"""Words that the prior of a token counts for."""


@dataclass(frozen=True)
class Lexicon:
    """P(tag | token) of a word's first token; rows sum to 1."""

    tags: tuple[str, ...]
    table: Float[Tensor, "vocab tag"]


def lexicon(corpus: Corpus, n_vocab: int) -> Lexicon:
    """P(tag | token), counted on the first tokens of a corpus' words.

    P(k | v) = (c(v, k) + PRIOR h_k) / (c(v) + PRIOR). The prior h is the tags of tokens that were seen once, as those
    that were never seen are most like them (Good 1953, doi.org/10.1093/biomet/40.3-4.237), with one more of each tag,
    so that none is impossible; where no token was seen once, the tags of all words. A token that never began a word,
    such as the end of one, has the prior itself.

    Args:
        corpus: aligned words; give the training split.
        n_vocab: number of the model's tokens.

    Raises:
        AlignmentError: where there is no word, or a token outside the vocabulary.

    >>> import posneurons as pn
    >>> source = pn.markov_model(sentences=8, length=6).corpus
    >>> lexicon(source, 97).table.sum(1).allclose(torch.ones(97))
    True
    """
    if not len(corpus):
        raise AlignmentError(f"{corpus.name}: no word to count tags of; expected a split with words")
    first = corpus.tokens[corpus.row_bounds[corpus.word_row] + corpus.word_first - 1]
    if first.max() >= n_vocab:
        raise AlignmentError(
            f"{corpus.name}: token {first.max()} is outside the vocabulary of {n_vocab}; "
            "align with this model's own tokenizer"
        )
    counts = np.zeros((n_vocab, len(corpus.tags)))
    np.add.at(counts, (first, corpus.word_tag), 1)
    total = counts.sum(1, keepdims=True)
    once = counts[total[:, 0] == 1].sum(0)
    seen = (once if once.any() else counts.sum(0)) + 1
    prior = seen / seen.sum()
    return Lexicon(corpus.tags, torch.from_numpy((counts + PRIOR * prior) / (total + PRIOR)).float())


def split_losses(
    model: Any,
    rows: Float[Tensor, "row d_model"],
    targets: Int[Tensor, " row"],
    tags: Int[Tensor, " row"],
    table: Float[Tensor, "vocab tag"],
    *,
    chunk: int = 1024,
) -> Float[Tensor, "2 row"]:
    """Next-token loss of rows of the residual stream after the last block, and -ln P(tag), in nats, float32.

    Args:
        model: what `load_model` gives.
        rows: residuals at the positions that predict.
        targets: the token that follows each.
        tags: the tag of the word that it begins; -1 where it begins none, and then -ln P(tag) is NaN.
        table: P(tag | token).
        chunk: rows whose logits are in memory at once.
    """
    parts = []
    for state, wanted, tag in zip(*(torch.split(each, chunk) for each in (rows, targets, tags)), strict=True):
        logits = models.unembed(model, state)
        top = logits.amax(-1, keepdim=True)
        own = (logits.gather(-1, wanted[:, None]) - top)[:, 0]
        weights = logits.sub_(top).exp_()
        total = weights.sum(-1).log()
        category = (weights @ table).gather(-1, tag.clamp(min=0)[:, None])[:, 0].log()
        parts.append(torch.stack([total - own, (total - category).masked_fill(tag < 0, torch.nan)]))
    return torch.cat(parts, dim=1) if parts else rows.new_zeros(2, 0, dtype=torch.float32)
