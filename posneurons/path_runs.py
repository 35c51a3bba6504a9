"""Integrals along paths of activations, for every word of a batch at once.

Along a path from 0 to its activation a, a neuron's attribution is a times the mean of dF/da on the path, with F the
log-probability, probability or logit of the next token (Sundararajan et al. 2017, arXiv:1703.01365). As in Knowledge
Neurons (Dai et al. 2022, arXiv:2104.08696) the neurons of one layer are scaled together at the position that predicts,
while everything before them is as it is; or, along the joint path, those of all layers.

The usual way needs a run for every position, layer and node of the integral. Here the local scope (see `locality`)
makes one run of a whole batch serve all its positions, only the positions of words are run, each run begins after the
layer that is scaled, and the derivative by a layer's neurons is that by what the layer writes, times its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posneurons import models
from posneurons.attribution import Scene
from posneurons.locality import local_hooks, record_keys_values
from posneurons.models import Hook
from posneurons.objectives import score, score_and_gradient
from posneurons.packing import can_pack, packed_hooks
from posneurons.quadrature import NOISE, Completeness, Nodes, nodes
from posneurons.weights import output_weights
from posneurons.words import Path, Rule, Target
from posneurons.writing import can_fork

CHUNK = 1024
"""Rows whose logits are in memory at once."""


@dataclass(frozen=True)
class _Clean:
    """A batch as it is, from which parts of it are run again.

    `before`: residual before each layer. `rest`, `written`: at the words, in float32, what the stream holds after each
    layer without its neurons, and what they write. `writes`: whether there is no more to a layer than that, so that a
    run can begin after it. `packs`: whether the words' positions can be run alone (see `packing`).
    """

    before: Sequence[Float[Tensor, "batch pos d_model"]]
    acts: Sequence[Float[Tensor, "batch pos neuron"]]
    rest: Sequence[Float[Tensor, "word d_model"]]
    written: Sequence[Float[Tensor, "word d_model"]]
    scores: Float[Tensor, " word"]
    keys_values: Mapping[int, tuple[Tensor, Tensor]] | None
    writes: bool
    packs: bool

    def after(self, group: list[int]) -> bool:
        """Whether the runs of these layers begin after them."""
        return self.writes and len(group) == 1

    def balance(self, layer: int) -> Float[Tensor, " word"]:
        """Size of what a layer's neurons add to over the size of what they add."""
        rest, written = (each[layer].norm(dim=1) for each in (self.rest, self.written))
        return torch.div(rest, written.clamp(min=1e-30))


Run = Callable[[Float[Tensor, " word"]], tuple[Float[Tensor, "word d_model"], list[Tensor]]]
"""From each word's place on the path to the residual there after the last block, and the leaves to differentiate by."""


def attributions(
    model: Any,
    scene: Scene,
    steps: Mapping[int, int],
    *,
    rule: Rule,
    target: Target,
    path: Path,
    local: bool,
    seen: Completeness,
) -> Iterator[tuple[int, Float[Tensor, "word neuron"]]]:
    """Integrated gradients of a batch's words, layer by layer, float32.

    Args:
        model: what `load_model` gives.
        scene: the words.
        steps: how many nodes the integral of each layer has that is asked for; on the joint path layer 0 is all layers.
        rule: where they lie.
        target: what of the next token is attributed.
        path: "layer" or "joint".
        local: whether `can_be_local`; otherwise one position is taken at a time.
        seen: is told what attributions add up to.
    """
    clean = _clean(model, scene, target, local)
    for here, count in steps.items():
        group = list(range(len(clean.acts))) if path == "joint" else [here]
        full, without = (_at_place(model, scene, clean, group, target, place) for place in (1.0, 0.0))
        places, weights = (each.to(full.device) for each in nodes(count, rule, clean.balance(here).cpu()))
        found = _along(model, scene, clean, group, (places, weights), target)
        difference = full - without
        total = torch.stack([each.sum(1) for each in found.values()]).sum(0)
        rounding = (full - clean.scores).abs().sum() + NOISE * full.abs().sum()
        seen.add(here, *(float(each.abs().sum()) for each in (total - difference, difference, rounding)))
        yield from found.items()
    seen.words += len(scene.where)


def _along(
    model: Any, scene: Scene, clean: _Clean, group: list[int], path_nodes: Nodes, target: Target
) -> dict[int, Float[Tensor, "word neuron"]]:
    """Attributions of a group of layers, with the given nodes."""
    acts = {layer: _at_words(clean.acts[layer], scene).float() for layer in group}
    found = {layer: torch.zeros_like(each) for layer, each in acts.items()}
    for words, run in _runs(model, scene, clean, group):
        sums = [torch.zeros((), device=acts[layer].device) for layer in group]
        for place, weight in zip(*path_nodes, strict=True):
            with torch.enable_grad():
                states, leaves = run(place[words])
            _, gradient = score_and_gradient(model, states, scene.targets[words], target)
            slopes = torch.autograd.grad(states, leaves, gradient)
            sums = [
                total + weight[words, None].to(slope.device) * slope.float()
                for total, slope in zip(sums, slopes, strict=True)
            ]
        for layer, total in zip(group, sums, strict=True):
            # The derivative by what the layer writes, or by its activations.
            found[layer][words] = total @ output_weights(model, layer).float().T if clean.after(group) else total
    return {layer: found[layer] * acts[layer] for layer in group}


def _at_words(values: Float[Tensor, "batch pos width"], scene: Scene) -> Float[Tensor, "word width"]:
    return values.flatten(0, 1)[scene.where]


@torch.no_grad()
def _at_place(
    model: Any, scene: Scene, clean: _Clean, group: list[int], target: Target, place: float
) -> Float[Tensor, " word"]:
    """Score of every word at one place of the path."""
    found, places = torch.empty_like(clean.scores), torch.full_like(clean.scores, place)
    for words, run in _runs(model, scene, clean, group):
        found[words] = _scores(model, run(places[words])[0], scene.targets[words], target)
    return found


def _scores(model: Any, states: Tensor, targets: Tensor, target: Target) -> Float[Tensor, " word"]:
    chunks = zip(torch.split(states, CHUNK), torch.split(targets, CHUNK), strict=True)
    return torch.cat([score(model, part, wanted, target) for part, wanted in chunks])


@torch.no_grad()
def _clean(model: Any, scene: Scene, target: Target, local: bool) -> _Clean:
    before: dict[int, Tensor] = {}
    acts: dict[int, Tensor] = {}
    attention: dict[int, Tensor] = {}
    keys_values: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(store: dict[int, Tensor], layer: int) -> Any:
        return lambda value, hook: store.__setitem__(layer, value.clone())  # noqa: ARG005

    n_layers = models.describe(model).n_layers
    layers = range(n_layers)
    hooks: list[Hook] = record_keys_values(model, keys_values) if local else []
    hooks += [(f"blocks.{layer}.hook_resid_pre", keep(before, layer)) for layer in layers]
    hooks += [(models.post_name(layer), keep(acts, layer)) for layer in layers]
    hooks += [(f"blocks.{layer}.hook_attn_out", keep(attention, layer)) for layer in layers]
    final = models.residual(model, scene.batch.tokens, hooks)

    def rest(layer: int) -> Tensor:
        """Summed up rather than taken away from what comes after, which in bfloat16 would leave rounding alone."""
        bias = getattr(model.blocks[layer].mlp, "b_out", None)
        parts = [_at_words(each[layer], scene).float() for each in (before, attention)]
        return parts[0] + parts[1] + (0 if bias is None else bias.float().to(parts[0].device))

    def written(layer: int) -> Tensor:
        return _at_words(acts[layer], scene).float() @ output_weights(model, layer).float()

    sums = [(rest(layer), written(layer)) for layer in layers]
    after = [_at_words(each, scene).float() for each in (*(before[layer] for layer in layers[1:]), final)]
    off = [((a + b - c).norm(dim=1) / c.norm(dim=1)).mean() for (a, b), c in zip(sums, after, strict=True)]
    adds_up = all(each <= 0.02 for each in off)
    return _Clean(
        before=[before[layer] for layer in layers],
        acts=[acts[layer] for layer in layers],
        rest=[each for each, _ in sums],
        written=[each for _, each in sums],
        scores=_scores(model, _at_words(final, scene), scene.targets, target),
        keys_values=keys_values if local else None,
        writes=local and adds_up and can_fork(model),
        packs=local and can_pack(model),
    )


def _runs(model: Any, scene: Scene, clean: _Clean, group: list[int]) -> Iterator[tuple[Bool[Tensor, " word"], Run]]:
    """All words in one run, or, where attention cannot be made local, a run for those at each position."""
    positions = scene.where % scene.batch.tokens.shape[1]
    everyone = torch.ones_like(positions, dtype=torch.bool)
    if clean.after(group):
        yield everyone, partial(_after_layer, model, scene, clean, group[0])
        return
    for words in (
        [everyone] if clean.keys_values is not None else [positions == each for each in torch.unique(positions)]
    ):
        yield words, partial(_through_layers, model, scene, clean, group, words)


def _after_layer(
    model: Any, scene: Scene, clean: _Clean, layer: int, place: Float[Tensor, " word"]
) -> tuple[Float[Tensor, "word d_model"], list[Float[Tensor, "word d_model"]]]:
    """From what the words' positions hold after a layer, with what its neurons have written scaled."""
    rest, written = clean.rest[layer], clean.written[layer]
    leaf = (rest + place[:, None].to(rest.device) * written).to(clean.before[layer].dtype)
    leaf.requires_grad_(torch.is_grad_enabled())
    return _later(model, scene, clean, layer + 1, leaf, []), [leaf]


def _through_layers(
    model: Any,
    scene: Scene,
    clean: _Clean,
    group: list[int],
    words: Bool[Tensor, " every"],
    place: Float[Tensor, " word"],
) -> tuple[Float[Tensor, "word d_model"], list[Float[Tensor, "word neuron"]]]:
    """From what the stream holds before the first layer of a group, with some words' neurons in all of it scaled."""
    where, hooks, points = scene.where[words], list[Hook](), list[Tensor]()
    for layer in group:
        acts = clean.acts[layer].flatten(0, 1)[where]
        point = (acts * place[:, None].to(acts.device)).to(acts.dtype).requires_grad_(torch.is_grad_enabled())
        points.append(point)
        hooks.append((models.post_name(layer), partial(_put, point, None if clean.packs else where)))
    before = clean.before[group[0]]
    if clean.keys_values is not None:
        return _later(model, scene, clean, group[0], before.flatten(0, 1)[where], hooks), points
    states = models.residual(model, scene.batch.tokens, hooks, start=(group[0], before))
    return states.flatten(0, 1)[where], points


def _put(point: Tensor, where: Tensor | None, value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
    """Some positions' activations in place of those of a run: of these positions alone, or of all."""
    return point[None] if where is None else value.flatten(0, 1).index_copy(0, where, point).view(value.shape)


def _later(
    model: Any, scene: Scene, clean: _Clean, start: int, rows: Float[Tensor, "word d_model"], hooks: list[Hook]
) -> Float[Tensor, "word d_model"]:
    """The residual of the words after the last block; only their positions are run where a model allows it, and each
    sees its own alone.
    """
    if start == len(clean.acts):
        return rows
    if clean.keys_values is None:
        raise AssertionError("only positions that see no other can be run alone")
    shape = (scene.batch.tokens.shape[0], scene.batch.tokens.shape[1])
    inside = local_hooks(model, clean.keys_values, start=start)
    if not clean.packs:
        full = clean.before[start].flatten(0, 1).index_copy(0, scene.where, rows)
        begin = (start, full.view(clean.before[start].shape))
        return models.residual(model, scene.batch.tokens, [*hooks, *inside], start=begin).flatten(0, 1)[scene.where]
    attention = packed_hooks(model, scene.where, shape, start=start, inside=inside)
    tokens = scene.batch.tokens.flatten()[scene.where][None]
    return models.residual(model, tokens, [*hooks, *attention], start=(start, rows[None]))[0]
