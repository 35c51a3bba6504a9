"""What neurons write, read through the unembedding: rankings from weights, and from the logit lens.

Neuron i adds a_i w_i to the residual stream. Taken straight to the vocabulary, as if no later layer stood between, that
changes logits by a_i w_i . u / s, with u a direction made of unembedding vectors (the final norm's gain folded in) and
s the final norm's scale (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; nostalgebraist 2020,
"interpreting GPT: the logit lens"). `logit_attribution` and `dynamic_logit_attribution` take for u the mean first token
of a tag's words against that of all words; `logprob_increase` asks for the token that really follows (Yu and Ananiadou
2024, arXiv:2312.12141). All need neurons that write to the residual stream through W_out alone; that is checked. What
later layers make of a neuron is not seen here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from posneurons import models, statistics
from posneurons.activations import BATCH_TOKENS, WordIndex, batches, check_fits, token_bar
from posneurons.attribution import scenes
from posneurons.distributed import shared
from posneurons.effects import EffectAccumulator
from posneurons.errors import ModelError
from posneurons.memory import limit
from posneurons.models import Hook
from posneurons.records import Corpus, Scored, TagMoments
from posneurons.statistics import MomentAccumulator
from posneurons.weights import (
    final_norm,
    lens_increase,
    lens_slopes,
    output_weights,
    vocabulary,
)
from posneurons.words import At
from posneurons.writing import check_writes


@torch.no_grad()
def logit_attribution(
    model: Any,
    corpus: Corpus,
    *,
    at: At = "predict",  # noqa: ARG001
    seed: int = 0,  # noqa: ARG001
    tokens: int = BATCH_TOKENS,  # noqa: ARG001
    progress: bool = False,  # noqa: ARG001
) -> Scored:
    """What one unit of activation does for the first tokens of a tag's words, by the weights alone.

    The score is w_i . u_k, u_k = W_U (pi_k - pi) with the final norm's gain folded in: the rise of the mean logit of
    the first tokens of the tag's words less that of all words, in nats per unit of activation at a norm's scale of 1.
    pi_k and pi are those tokens' shares in the words of `corpus`. No forward pass is made, except on four tokens as a
    check. A tag without words, or that all words have, is NaN. `at`, `seed`, `tokens` and `progress` change nothing.

    Raises:
        ModelError: where the final norm is not known, or neurons do not write through W_out alone.
        AlignmentError: where the corpus does not fit the model.
    """
    check_fits(model, corpus)
    check_writes(model)
    count = np.bincount(corpus.word_tag, minlength=len(corpus.tags)).astype(np.int64)
    return Scored(_along(model, tag_directions(model, corpus)), count)


@torch.no_grad()
def dynamic_logit_attribution(
    model: Any,
    corpus: Corpus,
    *,
    at: At = "predict",
    seed: int = 0,  # noqa: ARG001
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Scored:
    """What a neuron does for the logits of a tag's first tokens just there where the tag is, against everywhere.

    The score is w_i . u_k (E[a_i / s | k] - E[a_i / s]), with u_k as in `logit_attribution`, s the scale of the final
    norm at the position where a word is read, and means over the tag's words and over all words: nats. At `predict` the
    position is the one whose logits are meant; at `first` and `last` the formula is the same there.

    Args:
        model: what `load_model` gives.
        corpus: the words.
        at: where each word is read.
        seed: not used.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        ModelError: where the final norm is not known, or neurons do not write through W_out alone.
        AlignmentError: where the corpus does not fit the model.
    """
    check_fits(model, corpus)
    check_writes(model)
    moments = _scaled_moments(model, corpus, at=at, tokens=tokens, progress=progress)
    n = moments.count[:, None, None].astype(np.float64)
    mean = (n * moments.mean).sum(0) / max(n.sum(), 1)
    scores = _along(model, tag_directions(model, corpus)) * (moments.mean - mean)
    return Scored(np.where((n > 0) & (n < n.sum()), scores, np.nan), moments.count)


@shared(statistics.merge)
@torch.no_grad()
def _scaled_moments(model: Any, corpus: Corpus, *, at: At, tokens: int, progress: bool) -> TagMoments:
    """Moments of the activations over the scale of the final norm where they are read."""
    info, norm, index = models.describe(model), final_norm(model), WordIndex(corpus, at)
    state = MomentAccumulator(len(corpus.tags), info.n_layers, info.d_mlp, info.device)
    with token_bar(corpus, "logit attribution", progress) as bar:
        for batch in batches(corpus, info.device, tokens, limit=limit(model, "lens", corpus.row_bounds)):
            words = index.of(batch.rows)
            tags = torch.from_numpy(corpus.word_tag[words]).to(info.device)
            seen = _read(model, batch.tokens, batch.places(corpus, index.position, words))
            scale = norm.scale(seen.last)
            for layer, values in enumerate(seen.acts):
                state.update(layer, tags, values.float() / scale[:, None])
            bar.update(int(batch.lengths.sum()))
    return state.finalise(corpus.tags, at)


@torch.no_grad()
def tag_directions(model: Any, corpus: Corpus) -> Float[Tensor, "tag d_model"]:
    """u_k of every tag: the first tokens of its words less those of all words, as a direction before the final norm.

    NaN for a tag without words or that all words have. Where a model caps its logits, those before the cap are meant.
    """
    first = corpus.tokens[corpus.row_bounds[corpus.word_row] + corpus.word_first - 1]
    counts = np.zeros((len(corpus.tags), models.describe(model).d_vocab))
    np.add.at(counts, (corpus.word_tag, first), 1)
    n = counts.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where((n > 0) & (n < n.sum()), counts / n - counts.sum(0) / n.sum(), np.nan)
    wanted = torch.from_numpy(shares).float().to(models.describe(model).device)
    norm = final_norm(model)
    after = torch.stack([wanted[:, part] @ weights.T for part, weights, _ in vocabulary(model)]).sum(0)
    return norm.pull_back(after)


def _along(model: Any, directions: Float[Tensor, "tag d_model"]) -> Float[ndarray, "tag layer neuron"]:
    """What every neuron writes per unit, along each direction."""
    layers = range(models.describe(model).n_layers)
    found = [directions @ output_weights(model, layer).float().T for layer in layers]
    return torch.stack(found, dim=1).cpu().double().numpy()


def logprob_increase(
    model: Any,
    corpus: Corpus,
    *,
    at: At = "predict",
    contrast: bool = True,
    shortlist: int = 0,
    seed: int = 0,  # noqa: ARG001
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Scored:
    """By how much a neuron, added to the residual before its MLP, raises the next token's log-probability in the lens.

    The score is log p(y | x + a_i w_i) - log p(y | x), in nats: x is the residual stream before the layer's MLP is
    added, y the token after the position read, and p what final norm and unembedding make of it, with the scale that
    the norm really has at that position. To first order this is a_i w_i . g, with g the derivative of log p(y | x) by
    x: one softmax per word and layer serves all neurons. Words that no token follows in their row are left out.

    Args:
        model: what `load_model` gives.
        corpus: the words.
        at: where each word is read.
        contrast: True for the mean on the tag minus the mean on the rest, over its standard error over rows (as
            `effects` says); False for the mean rise.
        shortlist: 0 for the first order; n to compute the n best neurons of each tag by it exactly, in a second pass.
            All others are NaN then, and among the notes `first_order_error` is the mean distance of the two scores over
            the mean size of the exact ones.
        seed: not used.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        ModelError: where the final norm is not known, neurons do not write through W_out alone, or the residual before
            the MLP cannot be had.
        AlignmentError: where the corpus does not fit the model.
    """
    check_fits(model, corpus)
    check_writes(model)
    how: dict[str, Any] = {"at": at, "tokens": tokens, "progress": progress}
    state = _effects(model, corpus, None, everywhere=False, **how)
    scored = state.contrast() if contrast else state.mean()
    if not shortlist:
        return scored
    chosen = best(scored.scores, shortlist)
    state = _effects(model, corpus, chosen, everywhere=contrast, **how)
    exact = state.contrast() if contrast else state.mean()
    scores = np.where(chosen, exact.scores, np.nan)
    missed, size = np.nansum(np.abs(scores - scored.scores)), np.nansum(np.abs(scores))
    return replace(exact, scores=scores).noting(first_order_error=float(missed / size) if size else float("nan"))


def best(scores: Float[ndarray, "tag layer neuron"], k: int) -> Bool[ndarray, "tag layer neuron"]:
    """Where the k highest scores of each tag are; ties go to the earlier layer and unit, NaN is never among them."""
    chosen = np.zeros(scores.shape, dtype=bool)
    for mine, found in zip(scores.reshape(len(scores), -1), chosen.reshape(len(scores), -1), strict=True):
        found[np.argsort(-mine, kind="stable")[: min(k, np.count_nonzero(~np.isnan(mine)))]] = True
    return chosen


@dataclass(frozen=True)
class _Reading:
    """A forward pass at some positions: the last residual; per layer activations and the residual before the MLP."""

    last: Float[Tensor, "word d_model"]
    acts: Sequence[Float[Tensor, "word neuron"]]
    middle: Sequence[Float[Tensor, "word d_model"]]


def _read(model: Any, tokens: Tensor, where: Int[Tensor, " word"], *, middle: bool = False) -> _Reading:
    kept: dict[str, Tensor] = {}
    layers = range(models.describe(model).n_layers)
    names = {layer: _middle_names(model, layer) if middle else () for layer in layers}

    def keep(name: str) -> Hook:
        return name, lambda value, hook: kept.__setitem__(name, value.flatten(0, 1)[where])  # noqa: ARG005

    hooks = [keep(name) for layer in layers for name in (models.post_name(layer), *names[layer])]
    last = models.residual(model, tokens, hooks).flatten(0, 1)[where]

    def before(layer: int) -> Tensor:
        first, *less = (kept[name].float() for name in names[layer])
        return first - less[0] if less else first

    return _Reading(
        last=last,
        acts=[kept[models.post_name(layer)] for layer in layers],
        middle=[before(layer) for layer in layers] if middle else [],
    )


def _middle_names(model: Any, layer: int) -> tuple[str, ...]:
    """Hooks that give the residual before the MLP is added: its own, or the layer's output less that of its MLP."""
    whole = f"blocks.{layer}.hook_resid_mid"
    parts = (f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.hook_mlp_out")
    if whole in model.hook_dict:
        return (whole,)
    if not set(parts) <= set(model.hook_dict):
        raise ModelError(
            f"{models.describe(model).name}: no hook {whole!r}, nor {parts[1]!r} to find it by; logprob_increase needs "
            "the residual before the MLP: choose another method, such as attribution"
        )
    return parts


@shared(EffectAccumulator.merged)
def _effects(
    model: Any,
    corpus: Corpus,
    chosen: Bool[ndarray, "tag layer neuron"] | None,
    *,
    everywhere: bool,
    at: At,
    tokens: int,
    progress: bool,
) -> EffectAccumulator:
    """Effects of all neurons to first order, of the chosen ones exactly: on their own tag's words, or `everywhere`.

    The others are there because what a contrast is divided by takes all neurons into account.
    """
    info, norm = models.describe(model), final_norm(model)
    state = EffectAccumulator(len(corpus.tags), info.n_layers, info.d_mlp, info.device)
    many = {"tokens": tokens, "limit": limit(model, "lens", corpus.row_bounds)}
    for scene in scenes(corpus, at, info.device, **many, progress=progress, label="log-probability increase"):
        with torch.no_grad():
            seen = _read(model, scene.batch.tokens, scene.where, middle=True)
            scale = norm.scale(seen.last)
        for layer, values in enumerate(seen.acts):
            slopes = lens_slopes(model, norm, seen.middle[layer], scale, scene.targets)
            weights = output_weights(model, layer)
            effects = values.float() * (slopes @ weights.float().T)
            if chosen is not None:
                for words, units in _groups(chosen[:, layer], scene.tags, everywhere):
                    effects[words[:, None], units] = lens_increase(
                        model,
                        norm,
                        seen.middle[layer][words],
                        scale[words],
                        scene.targets[words],
                        values[words][:, units].float(),
                        weights[units].float(),
                    )
            state.update(layer, scene.tags, scene.rows, effects)
    return state


def _groups(
    chosen: Bool[ndarray, "tag neuron"], tags: Int[Tensor, " word"], everywhere: bool
) -> Iterator[tuple[Int[Tensor, " group"], Int[Tensor, " k"]]]:
    """Words and neurons that meet: each tag's own, or all words and every neuron that any tag has chosen."""

    def units(mask: Any) -> Tensor:
        return torch.from_numpy(np.flatnonzero(mask)).to(tags.device)

    pairs = (
        [(torch.arange(len(tags), device=tags.device), units(chosen.any(0)))]
        if everywhere
        else [(torch.nonzero(tags == tag)[:, 0], units(chosen[int(tag)])) for tag in torch.unique(tags)]
    )
    return ((words, found) for words, found in pairs if len(found))
