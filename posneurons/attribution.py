"""Attribution patching: what each neuron's activation does for the loss, to first order, for all neurons at once.

The rise of a word's loss L if neuron i went from a to a' is estimated as (a' - a) dL/da (Nanda 2023, "Attribution
Patching"; Syed et al. 2023, arXiv:2310.10348). In the local scope (see `locality`) one forward and one backward pass
per batch give it for every word and neuron, and tags are told apart afterwards. In the scope of all positions the
summed loss of each tag's words is attributed to all positions after BOS, a backward pass per tag. RelP (Jafari et al.
2025, arXiv:2508.21258) is the same with the coefficients of layer-wise relevance propagation in place of derivatives.

At `predict` a word's loss is that of its first token; at `first` and `last` it is that of the token after the position.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from posneurons import models
from posneurons.activations import BATCH_TOKENS, Batch, WordIndex, batches, check_fits, token_bar, token_means
from posneurons.distributed import shared
from posneurons.effects import EffectAccumulator
from posneurons.errors import ModelError
from posneurons.locality import can_be_local, local_hooks
from posneurons.memory import Kind, limit
from posneurons.models import Hook
from posneurons.objectives import score_and_gradient
from posneurons.records import Corpus, Scored
from posneurons.words import At, Baseline, Scope

DONORS = 256
"""Positions whose activations are baselines, at most."""


@dataclass(frozen=True)
class Scene:
    """A batch with the words in it whose next token is known: where they are read, what follows, tag and row."""

    batch: Batch
    words: Int[Tensor, " word"]
    where: Int[Tensor, " word"]
    targets: Int[Tensor, " word"]
    tags: Int[Tensor, " word"]
    rows: Int[Tensor, " word"]


@dataclass(frozen=True)
class _Donors:
    """Per layer the activations at some positions, and which of these each token of a corpus has."""

    values: list[Float[Tensor, "donor neuron"]]
    choice: Int[Tensor, " token"]


@dataclass(frozen=True)
class _Change:
    """From an activation to its baseline: 0, fixed values per neuron, or those of donors."""

    fixed: Float[Tensor, "layer neuron"] | None
    donors: _Donors | None

    def of(
        self, tokens: Int[Tensor, " place"], layer: int, values: Float[Tensor, "place neuron"]
    ) -> Float[Tensor, "place neuron"]:
        """The way to go for some tokens."""
        if self.donors is not None:
            return self.donors.values[layer].to(values)[self.donors.choice[tokens].to(values.device)] - values
        return -values if self.fixed is None else self.fixed[layer] - values


ToBaseline = Callable[[int, Float[Tensor, "place neuron"]], Float[Tensor, "place neuron"]]
"""Of a batch's places, from a layer and its activations there to how far they are from their baseline."""


def scenes(
    corpus: Corpus, at: At, device: str, *, tokens: int, limit: int | None = None, progress: bool, label: str
) -> Iterator[Scene]:
    """The batches of a corpus; words that are the last of their row are left out where they are read on themselves."""
    index, lengths = WordIndex(corpus, at), np.diff(corpus.row_bounds) + 1
    with token_bar(corpus, label, progress) as bar:
        for batch in batches(corpus, device, tokens, limit=limit):
            words = index.of(batch.rows)
            words = words[index.position[words] + 1 < lengths[corpus.word_row[words]]]
            where = batch.places(corpus, index.position, words)
            if len(words):
                yield Scene(
                    batch=batch,
                    words=torch.from_numpy(words).to(device),
                    where=where,
                    targets=batch.tokens.flatten()[where + 1],
                    tags=torch.from_numpy(corpus.word_tag[words]).to(device),
                    rows=torch.from_numpy(corpus.word_row[words]).to(device),
                )
            bar.update(int(batch.lengths.sum()))


def attribution(
    model: Any,
    corpus: Corpus,
    *,
    at: At = "predict",
    scope: Scope = "local",
    contrast: bool = True,
    baseline: Baseline = "zero",
    seed: int = 0,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
    rules: Callable[[Any], list[Hook]] | None = None,
) -> Scored:
    """Estimated rise of each tag's loss if a neuron went to its baseline.

    Args:
        model: what `load_model` gives.
        corpus: the words to attribute.
        at: where each word is read.
        scope: "local", the loss at the very position where the neuron fires, or "all", through attention too.
        contrast: True for the mean on the tag minus that on the rest, over its error (see
            `EffectAccumulator.contrast`); False for the mean rise in nats.
        baseline: "zero", "mean" (over the corpus' tokens after BOS), or "donor" (its value at one of 256 positions
            drawn at random: of words in the local scope, of all tokens after BOS in the other).
        seed: of the donors.
        tokens: size of a batch.
        progress: show a bar.
        rules: makes hooks that change how derivatives are taken, as `relp` does; to be shared by processes, it must
            be made of named functions.

    Raises:
        AlignmentError: where the corpus does not fit the model.
    """
    check_fits(model, corpus)
    fixed = token_means(model, corpus, tokens=tokens, progress=progress) if baseline == "mean" else None
    donors = _donors(model, corpus, at if scope == "local" else None, seed, tokens) if baseline == "donor" else None
    state = _effects(
        model, corpus, _Change(fixed, donors), at=at, scope=scope, tokens=tokens, progress=progress, rules=rules
    )
    scored = state.contrast() if contrast else state.mean()
    return scored if scope == "all" or can_be_local(model) else scored.noting(way="one position at a time")


@shared(EffectAccumulator.merged)
def _effects(
    model: Any,
    corpus: Corpus,
    change: _Change,
    *,
    at: At,
    scope: Scope,
    tokens: int,
    progress: bool,
    rules: Callable[[Any], list[Hook]] | None,
) -> EffectAccumulator:
    info, local = models.describe(model), can_be_local(model)
    state = EffectAccumulator(len(corpus.tags), info.n_layers, info.d_mlp, info.device)
    kind: Kind = "graph" if scope == "local" else "graph_all"
    room = limit(model, kind, corpus.row_bounds)
    for scene in scenes(corpus, at, info.device, tokens=tokens, limit=room, progress=progress, label="attribution"):
        extra = rules(model) if rules else []
        places = scene.where if scope == "local" else scene.batch.token_places()
        to_baseline = partial(change.of, _numbers(corpus, scene.batch, places))
        if scope == "local":
            _add_local(model, scene, to_baseline, state, extra, local)
        else:
            _add_all(model, scene, to_baseline, state, extra)
    return state


def _numbers(corpus: Corpus, batch: Batch, places: Int[Tensor, " place"]) -> Int[Tensor, " place"]:
    """Where the tokens at some places after BOS stand in `corpus.tokens`."""
    slot, pos = places // batch.tokens.shape[1], places % batch.tokens.shape[1]
    return torch.from_numpy(corpus.row_bounds[batch.rows]).to(places.device)[slot] + pos - 1


@torch.no_grad()
def _donors(model: Any, corpus: Corpus, at: At | None, seed: int, tokens: int) -> _Donors:
    """Activations at positions drawn at random, of words read at `at` or of all tokens, and each token's donor."""
    info, rng = models.describe(model), np.random.default_rng(seed)
    if at is None:
        everyone = np.arange(len(corpus.tokens))
    else:
        words = corpus.readable(at)
        everyone = corpus.row_bounds[corpus.word_row[words]] + corpus.positions(at)[words] - 1
    drawn = np.sort(rng.choice(everyone, min(DONORS, len(everyone)), replace=False))
    rows = np.searchsorted(corpus.row_bounds, drawn, side="right") - 1
    some = corpus.select(np.isin(np.arange(corpus.n_rows), rows))
    slot, pos = np.unique(rows, return_inverse=True)[1], drawn - corpus.row_bounds[rows] + 1
    dtype = getattr(torch, info.dtype)
    values = [torch.empty(len(drawn), info.d_mlp, dtype=dtype, device=info.device) for _ in range(info.n_layers)]
    for batch in batches(some, info.device, tokens, limit=limit(model, "forward", some.row_bounds)):
        mine = np.flatnonzero(np.isin(slot, batch.rows))
        where = np.searchsorted(batch.rows, slot[mine]) * batch.tokens.shape[1] + pos[mine]

        def keep(value: Tensor, hook: Any, layer: int, mine: Any = mine, where: Any = where) -> None:  # noqa: ARG001
            values[layer][mine] = value.flatten(0, 1)[torch.from_numpy(where).to(value.device)].to(info.device)

        hooks = [(models.post_name(layer), partial(keep, layer=layer)) for layer in range(info.n_layers)]
        models.residual(model, batch.tokens, hooks)
    choice = rng.integers(len(drawn), size=len(corpus.tokens)) if len(drawn) else np.zeros(0, dtype=np.int64)
    return _Donors(values, torch.from_numpy(choice).to(info.device))


def relp(model: Any, corpus: Corpus, *, frozen_patterns: bool = False, **options: Any) -> Scored:
    """Attribution with the rules of layer-wise relevance propagation in the backward pass.

    Norms scale by a constant, an activation function multiplies by the constant act(x) / x, each factor of a product
    gets half of the relevance, and with `frozen_patterns` attention patterns are constants. Built for large patches; to
    first order plain attribution is what a single neuron does.

    Args:
        model: what `load_model` gives, with hooks on its norms and inside its MLP.
        corpus: the words to attribute.
        frozen_patterns: take attention patterns as constants.
        **options: those of `attribution`.

    Raises:
        ModelError: where the model lacks the hooks.
    """
    _check_rules(model)
    with warnings.catch_warnings():  # a TransformerBridge says that its norm then rounds otherwise
        warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
        return attribution(model, corpus, rules=partial(_relevance_rules, frozen_patterns=frozen_patterns), **options)


def _run(
    model: Any, scene: Scene, before: Sequence[Hook], extra: Sequence[Hook]
) -> tuple[list[Tensor], Float[Tensor, "word d_model"], Float[Tensor, "word d_model"]]:
    """Every layer's activations, the residual at the words, and the derivative of their loss by it; keeps the graph."""
    acts: list[Tensor] = []

    def keep(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        # The first layer's activations are where the graph begins, since nothing before them is asked for.
        value = value if value.requires_grad else value.detach().requires_grad_()
        acts.append(value)
        return value

    layers = range(models.describe(model).n_layers)
    with torch.enable_grad():
        hooks = [*extra, *((models.post_name(layer), keep) for layer in layers), *before]
        states = models.residual(model, scene.batch.tokens, hooks).flatten(0, 1)[scene.where]
    final = [hook for hook in extra if hook[0].startswith("ln_final")]
    _, gradient = score_and_gradient(model, states, scene.targets, hooks=final)
    return acts, states, -gradient  # the loss is minus the log-probability


def _add_local(
    model: Any, scene: Scene, change: ToBaseline, state: EffectAccumulator, extra: Sequence[Hook], local: bool
) -> None:
    acts, states, gradient = _run(model, scene, local_hooks(model) if local else [], extra)
    slopes = (
        [each.flatten(0, 1)[scene.where] for each in torch.autograd.grad(states, acts, gradient)]
        if local
        else _one_position_at_a_time(acts, states, gradient, scene)
    )
    for layer, (values, slope) in enumerate(zip(acts, slopes, strict=True)):
        here = values.detach().flatten(0, 1)[scene.where].float()
        state.update(layer, scene.tags, scene.rows, change(layer, here) * slope.float())


def _one_position_at_a_time(
    acts: list[Tensor], states: Tensor, gradient: Tensor, scene: Scene
) -> list[Float[Tensor, "word neuron"]]:
    """The same derivatives, with a backward pass for every position that a row can have: exact in any architecture."""
    slopes = [torch.zeros(len(scene.where), each.shape[-1], device=each.device, dtype=each.dtype) for each in acts]
    positions = scene.where % scene.batch.tokens.shape[1]
    for position in torch.unique(positions):
        mine = positions == position
        found = torch.autograd.grad(states, acts, gradient * mine[:, None], retain_graph=True)
        for slope, each in zip(slopes, found, strict=True):
            slope[mine] = each.flatten(0, 1)[scene.where[mine]]
    return slopes


def _add_all(model: Any, scene: Scene, change: ToBaseline, state: EffectAccumulator, extra: Sequence[Hook]) -> None:
    """Sum over a row's positions, for the loss of each tag's words in it: one backward pass per tag of the batch."""
    acts, states, gradient = _run(model, scene, [], extra)
    places, width = scene.batch.token_places(), scene.batch.tokens.shape[1]
    rows = torch.from_numpy(scene.batch.rows).to(places.device)
    differences = [change(layer, values.detach().flatten(0, 1)[places].float()) for layer, values in enumerate(acts)]
    cells: list[Tensor] = []
    sums: list[list[Tensor]] = [[] for _ in acts]
    for tag in torch.unique(scene.tags):
        mine = scene.tags == tag
        words = torch.bincount(torch.searchsorted(rows, scene.rows[mine]), minlength=len(rows))
        slots = torch.nonzero(words)[:, 0]
        cells.append(torch.stack([tag.expand(len(slots)), rows[slots], words[slots]]))
        slopes = torch.autograd.grad(states, acts, gradient * mine[:, None], retain_graph=True)
        for layer, (difference, slope) in enumerate(zip(differences, slopes, strict=True)):
            effects = difference * slope.flatten(0, 1)[places].float()
            by_row = torch.zeros(len(rows), effects.shape[1], device=effects.device)
            sums[layer].append(by_row.index_add_(0, places // width, effects)[slots])
    tags, clusters, counts = torch.cat(cells, dim=1)
    for layer, parts in enumerate(sums):
        state.update_cells(layer, tags, clusters, counts.float(), torch.cat(parts))


def _check_rules(model: Any) -> None:
    info = models.describe(model)
    wanted = ["ln_final.hook_scale", "blocks.0.ln1.hook_scale", models.pre_name(0), models.post_name(0)]
    missing = [name for name in wanted if name not in model.hook_dict]
    if missing:
        raise ModelError(
            f"{info.name}: relp needs hooks on the norms and inside the MLP, and {info.architecture} has none at "
            f"{missing[0]}; use method 'attribution'"
        )


def _relevance_rules(model: Any, frozen_patterns: bool) -> list[Hook]:
    """Hooks under which derivatives become the coefficients of relevance; values stay as they are."""
    names = set(model.hook_dict)
    scales = [name for name in names if name.endswith("hook_scale")]
    patterns = [name for name in names if name.endswith("attn.hook_pattern")] if frozen_patterns else []
    hooks: list[Hook] = [(name, lambda value, hook: value.detach()) for name in (*scales, *patterns)]  # noqa: ARG005
    for layer in range(model.cfg.n_layers):
        hooks += _product_rules(layer, f"blocks.{layer}.mlp.hook_pre_linear" in names)
    return hooks


def _product_rules(layer: int, gated: bool) -> list[Hook]:
    """The MLP's activation function as a constant factor, and, where it has a gate, half of the product each way."""
    live: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor, Any], None]:
        def hook_function(value: Tensor, hook: Any) -> None:  # noqa: ARG001
            live[name] = value

        return hook_function

    def product(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        gate, total = live["gate"], value.detach()
        # act(x) of a gated MLP is the product over the other factor; where that is 0, so is what goes through.
        other = live["linear"] if gated else torch.ones_like(gate)
        factor = torch.where(gate * other != 0, total / (gate * other).detach(), 0)
        through = gate * other * factor * (0.5 if gated else 1)
        return total + (through - through.detach())  # the bracket is exactly 0

    hooks: list[Hook] = [(models.pre_name(layer), keep("gate")), (models.post_name(layer), product)]
    return [(f"blocks.{layer}.mlp.hook_pre_linear", keep("linear")), *hooks] if gated else hooks
