"""The key neuron rule of arXiv:2511.06519: which neurons are most often among a word's best, by integrated gradients.

As far as the rule is known: per sample the top 5 % of the attributions, per tag the neurons that are most frequent
among them. Frequent is not selective: a neuron that matters for every word is a key neuron of every tag. The selective
variant asks how much more often it is among the best on the tag's words than on the rest.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from posneurons.activations import BATCH_TOKENS, check_fits
from posneurons.path_sums import Integral, path_sums
from posneurons.records import Corpus, Scored
from posneurons.words import At, Per, Rule, Target


def key_neuron_rule(
    model: Any,
    corpus: Corpus,
    *,
    at: At = "predict",
    contrast: bool = False,
    share: float = 0.05,
    per: Per = "layer",
    steps: int = 6,
    rule: Rule = "gauss_legendre",
    target: Target = "log_probability",
    seed: int = 0,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Scored:
    """How often a neuron is among a word's best by integrated gradients (the rule of arXiv:2511.06519).

    Args:
        model: what `load_model` gives.
        corpus: the words.
        at: where each word is read.
        contrast: False for the share of the tag's words, 0 to 1; True for the selective variant: the log odds ratio of
            membership on the tag against the rest, with half a word added to each count, over its standard error.
        share: the part of the neurons that counts as best, by signed attribution.
        per: among the neurons of each "layer", or of the whole "model".
        steps: nodes of the integral.
        rule: where they lie; see `integrated_gradients`.
        target: what is attributed.
        seed: of the sentences of the pilot on which nodes are chosen.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        PosNeuronsError: where attributions miss what they must add up to by more than 5 %.
        AlignmentError: where the corpus does not fit the model.
    """
    check_fits(model, corpus)
    integral = Integral(at, steps, rule, target, "layer", seed, tokens)
    state, seen = path_sums(model, corpus, integral, progress, take=partial(best, share=share), per=per)
    rates = state.mean()
    scores = log_odds(rates.scores, rates.count) if contrast else rates.scores
    return Scored(scores, rates.count).noting(completeness_error=seen.error())


def best(values: Float[Tensor, "word neuron"], share: float) -> Float[Tensor, "word neuron"]:
    """1 for the largest values of each word, 0 for the others; at least one is best."""
    kept = max(1, round(share * values.shape[1]))
    return torch.zeros_like(values).scatter_(1, values.topk(kept, dim=1).indices, 1.0)


def log_odds(
    rates: Float[ndarray, "tag layer neuron"], count: Int[ndarray, " tag"]
) -> Float[ndarray, "tag layer neuron"]:
    """Log odds ratio of membership on a tag against the rest over its standard error; NaN where a side has no words."""
    n = rearrange(count, "tag -> tag 1 1").astype(np.float64)
    hits = np.nan_to_num(rates) * n
    rest, rest_hits = n.sum() - n, hits.sum(0) - hits
    cells = [hits + 0.5, n - hits + 0.5, rest_hits + 0.5, rest - rest_hits + 0.5]
    ratio = np.log(cells[0] / cells[1] * cells[3] / cells[2])
    scores = ratio / np.sqrt(sum(1 / cell for cell in cells))
    return np.where((n > 0) & (rest > 0), scores, np.nan)
