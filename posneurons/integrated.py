"""Integrated gradients on neurons, for every word of a batch at once.

Along a path from 0 to its activation a, a neuron's attribution is a times the mean of dF/da on the path, with F the
log-probability, probability or logit of the next token (Sundararajan et al. 2017, arXiv:1703.01365). As in Knowledge
Neurons (Dai et al. 2022, arXiv:2104.08696) the neurons of one layer are scaled together at the position that predicts,
while everything before them is as it is; or, along the joint path, those of all layers.

The usual way needs a run for every position, layer and node of the integral. Here the local scope (see `locality`)
makes one run of a whole batch serve all its positions, each run resumes from the layer that is scaled, and logits are
made for scored positions only. Attributions must add up to F less F with the path's neurons at 0; by how much they
miss that is measured, and more than 5 % is an error.

A layer that writes far more than the stream holds without it turns the stream's direction within a small part of the
path, where evenly spaced nodes see nothing. So Gauss-Legendre nodes are placed evenly in the angle rather than in the
scale, and are doubled for the layers that miss by more than 5 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posneurons import models
from posneurons.activations import BATCH_TOKENS, check_fits
from posneurons.attribution import Scene, scenes
from posneurons.effects import EffectAccumulator
from posneurons.errors import PosNeuronsError
from posneurons.locality import can_be_local, local_hooks, record_keys_values
from posneurons.models import Hook
from posneurons.objectives import score, score_and_gradient
from posneurons.records import Corpus, Scored
from posneurons.words import At, Path, Rule, Target

CHUNK = 1024
"""Rows whose logits are in memory at once."""

TOLERANCE = 0.05
"""Share of F(a) - F(0) by which attributions may miss it, over the words of a layer."""


REFINED = 16
"""How many times the nodes asked for a layer may get, at most, under the rule of Gauss and Legendre."""


def nodes(steps: int, rule: Rule, balance: float = float("inf")) -> list[tuple[float, float]]:
    """Places on the way from 0 to 1 and their weights, which add up to 1.

    Args:
        steps: how many.
        rule: where they lie.
        balance: size of what a layer adds to over the size of what it adds. Nodes of Gauss and Legendre lie at
            s = balance u / (1 + balance - u) for u in 0..1, so evenly in the share of the sum that the layer holds.

    >>> nodes(2, "midpoint")
    [(0.25, 0.5), (0.75, 0.5)]
    """
    if rule != "gauss_legendre":
        shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
        return [((step + shift) / steps, 1 / steps) for step in range(steps)]
    places, weights = np.polynomial.legendre.leggauss(steps)
    places, weights = (places + 1) / 2, weights / 2
    left = 1 + (1 - places) / balance
    weights = weights * (1 + 1 / balance) / left**2
    return list(zip((places / left).tolist(), (weights / weights.sum()).tolist(), strict=True))


@dataclass
class Completeness:
    """How far attributions miss what they must add up to, per layer (one entry for the joint path), and its nodes."""

    missed: dict[int, float] = field(default_factory=dict)
    wanted: dict[int, float] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)

    def add(self, layer: int, missed: float, wanted: float) -> None:
        """Note the absolute miss and the absolute difference of F, summed over some words."""
        self.missed[layer] = self.missed.get(layer, 0.0) + missed
        self.wanted[layer] = self.wanted.get(layer, 0.0) + wanted

    def error(self) -> float:
        """Mean absolute miss over mean absolute difference, of the worst layer; NaN where nothing was seen."""
        ratios = [self.missed[layer] / self.wanted[layer] for layer in self.wanted if self.wanted[layer] > 0]
        return max(ratios, default=float("nan"))

    def check(self) -> None:
        """Raise PosNeuronsError where the worst layer misses by more than 5 %."""
        if self.error() > TOLERANCE:
            raise PosNeuronsError(
                f"integrated gradients: attributions miss the difference they must add up to by {self.error():.1%}; "
                f"expected at most {TOLERANCE:.0%}: take more steps, rule=gauss_legendre, or a model in float32"
            )


@dataclass(frozen=True)
class _Clean:
    """A batch as it is: residual before each layer, activations, score of every word, keys and values.

    `balance`: per layer the size of the stream without what the MLP writes over the size of that, median of the words.
    """

    balance: Sequence[float]
    before: Sequence[Float[Tensor, "batch pos d_model"]]
    acts: Sequence[Float[Tensor, "batch pos neuron"]]
    scores: Float[Tensor, " word"]
    keys_values: Mapping[int, tuple[Tensor, Tensor]] | None


def attributions(
    model: Any, scene: Scene, *, steps: int, rule: Rule, target: Target, path: Path, local: bool, seen: Completeness
) -> Iterator[tuple[int, Float[Tensor, "word neuron"]]]:
    """Integrated gradients of a batch's words, layer by layer, float32.

    Args:
        model: what `load_model` gives.
        scene: the words.
        steps: nodes of the integral.
        rule: where they lie.
        target: what of the next token is attributed.
        path: "layer" or "joint".
        local: whether `can_be_local`; otherwise one position is taken at a time.
        seen: is told what attributions add up to.
    """
    clean = _clean(model, scene, target, local)
    layers = list(range(len(clean.acts)))
    for group in [layers] if path == "joint" else [[layer] for layer in layers]:
        here = group[0]
        difference = clean.scores - _without(model, scene, clean, group, target, local)
        wanted = float(difference.abs().sum())
        while True:
            count = seen.steps.setdefault(here, steps)
            path_nodes = nodes(count, rule, clean.balance[here])
            found = _along(model, scene, clean, group, path_nodes, target, local)
            total = torch.stack([each.sum(1) for each in found.values()]).sum(0)
            missed = float((total - difference).abs().sum())
            if rule != "gauss_legendre" or missed <= TOLERANCE * wanted or count >= REFINED * steps:
                break
            seen.steps[here] = 2 * count
        seen.add(here, missed, wanted)
        yield from found.items()


def _along(
    model: Any,
    scene: Scene,
    clean: _Clean,
    group: list[int],
    path_nodes: list[tuple[float, float]],
    target: Target,
    local: bool,
) -> dict[int, Float[Tensor, "word neuron"]]:
    """Attributions of a group of layers, with the given nodes."""
    found = {layer: torch.zeros_like(_at_words(clean.acts[layer], scene), dtype=torch.float32) for layer in group}
    for words, position in _parts(scene, local):
        where, wanted = scene.where[words], scene.targets[words]
        for place, weight in path_nodes:
            with torch.enable_grad():
                states, points = _scaled(model, scene, clean, group, place, where, position)
            _, gradient = score_and_gradient(model, states, wanted, target)
            slopes = torch.autograd.grad(states, points, gradient)
            for layer, slope in zip(group, slopes, strict=True):
                found[layer][words] += weight * slope.flatten(0, 1)[where].float()
    return {layer: each * _at_words(clean.acts[layer], scene).float() for layer, each in found.items()}


def _at_words(values: Float[Tensor, "batch pos width"], scene: Scene) -> Float[Tensor, "word width"]:
    return values.flatten(0, 1)[scene.where]


@torch.no_grad()
def _without(
    model: Any, scene: Scene, clean: _Clean, group: list[int], target: Target, local: bool
) -> Float[Tensor, " word"]:
    """Score of every word with the activations of a group of layers at 0."""
    found = torch.empty_like(clean.scores)
    for words, position in _parts(scene, local):
        states, _ = _scaled(model, scene, clean, group, 0.0, scene.where[words], position)
        found[words] = _scores(model, states, scene.targets[words], target)
    return found


def _scores(model: Any, states: Tensor, targets: Tensor, target: Target) -> Float[Tensor, " word"]:
    chunks = zip(torch.split(states, CHUNK), torch.split(targets, CHUNK), strict=True)
    return torch.cat([score(model, part, wanted, target) for part, wanted in chunks])


@torch.no_grad()
def _clean(model: Any, scene: Scene, target: Target, local: bool) -> _Clean:
    before: dict[int, Tensor] = {}
    acts: dict[int, Tensor] = {}
    keys_values: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(store: dict[int, Tensor], layer: int) -> Any:
        return lambda value, hook: store.__setitem__(layer, value.clone())  # noqa: ARG005

    written: dict[int, Tensor] = {}
    n_layers = models.describe(model).n_layers
    layers = range(n_layers)
    hooks: list[Hook] = record_keys_values(model, keys_values) if local else []
    hooks += [(f"blocks.{layer}.hook_resid_pre", keep(before, layer)) for layer in layers]
    hooks += [(models.post_name(layer), keep(acts, layer)) for layer in layers]
    hooks += [(f"blocks.{layer}.hook_mlp_out", keep(written, layer)) for layer in layers]
    before[n_layers] = models.residual(model, scene.batch.tokens, hooks)

    def balance(layer: int) -> float:
        added = _at_words(written[layer], scene).float()
        rest = _at_words(before[layer + 1], scene).float() - added
        return float(rest.norm(dim=1).median() / added.norm(dim=1).median().clamp(min=1e-30))

    return _Clean(
        balance=[max(balance(layer), 1e-4) for layer in layers],
        before=[before[layer] for layer in layers],
        acts=[acts[layer] for layer in layers],
        scores=_scores(model, _at_words(before[n_layers], scene), scene.targets, target),
        keys_values=keys_values if local else None,
    )


def _parts(scene: Scene, local: bool) -> Iterator[tuple[Bool[Tensor, " word"], int | None]]:
    """All words at once with every position edited, or those at one position with that position edited."""
    positions = scene.where % scene.batch.tokens.shape[1]
    if local:
        yield torch.ones_like(positions, dtype=torch.bool), None
        return
    for position in torch.unique(positions):
        yield positions == position, int(position)


def _scaled(
    model: Any, scene: Scene, clean: _Clean, group: list[int], place: float, where: Tensor, position: int | None
) -> tuple[Float[Tensor, "word d_model"], list[Tensor]]:
    """The residual at some words with the activations of a group of layers scaled, and the scaled activations."""
    points = [(clean.acts[layer] * place).requires_grad_(torch.is_grad_enabled()) for layer in group]

    def put(layer: int, point: Tensor) -> Hook:
        def hook_function(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            if position is None:
                return point
            edited = value.clone()  # what earlier edits have left of it at the other positions is not looked at
            edited[:, position] = point[:, position]
            return edited

        return models.post_name(layer), hook_function

    hooks = [put(layer, point) for layer, point in zip(group, points, strict=True)]
    if clean.keys_values is not None:
        hooks += local_hooks(model, clean.keys_values, start=group[0] + 1)
    start = (group[0], clean.before[group[0]])
    return models.residual(model, scene.batch.tokens, hooks, start=start).flatten(0, 1)[where], points


def integrated_gradients(
    model: Any,
    corpus: Corpus,
    *,
    at: At = "predict",
    contrast: bool = True,
    steps: int = 6,
    rule: Rule = "gauss_legendre",
    target: Target = "log_probability",
    path: Path = "layer",
    seed: int = 0,  # noqa: ARG001
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Scored:
    """Integrated gradients of the token after the position read, from activations of 0, at that position.

    Args:
        model: what `load_model` gives.
        corpus: the words to attribute.
        at: where each word is read.
        contrast: True for t of the mean on the tag minus the mean on the rest, over rows; False for the mean
            attribution, in nats (or in units of the target).
        steps: nodes of the integral; with "gauss_legendre" twice as many, up to 16 times, for layers that need them.
        rule: where they lie; "right" with 20 steps is Knowledge Neurons' formula.
        target: "log_probability", "probability" or "logit".
        path: "layer" (each layer by itself) or "joint" (all layers together; steps times cheaper per layer).
        seed: not used.
        tokens: size of a batch.
        progress: show a bar.

    Returns:
        Scores, with the completeness error of the worst layer among the notes.

    Raises:
        PosNeuronsError: where attributions miss what they must add up to by more than 5 %.
        AlignmentError: where the corpus does not fit the model.
    """
    info = models.describe(model)
    state = EffectAccumulator(len(corpus.tags), info.n_layers, info.d_mlp, info.device)
    seen, local = Completeness(), can_be_local(model)
    check_fits(model, corpus)
    how: dict[str, Any] = {"steps": steps, "rule": rule, "target": target, "path": path, "local": local, "seen": seen}
    for scene in scenes(corpus, at, info.device, tokens=tokens, progress=progress, label="integrated gradients"):
        for layer, found in attributions(model, scene, **how):
            state.update(layer, scene.tags, scene.rows, found)
    seen.check()
    return (state.contrast() if contrast else state.mean()).noting(completeness_error=seen.error())
