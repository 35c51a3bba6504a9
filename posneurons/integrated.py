"""Integrated gradients on neurons, for every word of a batch at once.

Along a path from 0 to its activation a, a neuron's attribution is a times the mean of dF/da on the path, with F the
log-probability, probability or logit of the next token (Sundararajan et al. 2017, arXiv:1703.01365). As in Knowledge
Neurons (Dai et al. 2022, arXiv:2104.08696) the neurons of one layer are scaled together at the position that predicts,
while everything before them is as it is; or, along the joint path, those of all layers.

The usual way needs a run for every position, layer and node of the integral. Here the local scope (see `locality`)
makes one run of a whole batch serve all its positions, only the positions of words are run, each run begins after the
layer that is scaled, and the derivative by a layer's neurons is that by what the layer writes, times its weights.
Attributions must add up to F less F with the path's neurons at 0; by how much they miss that, beyond what two runs of
the same differ by (rounding), is measured, and more than 5 % is an error.
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
from posneurons.activations import BATCH_TOKENS, check_fits
from posneurons.attribution import Scene, scenes
from posneurons.distributed import shared
from posneurons.effects import EffectAccumulator
from posneurons.locality import can_be_local, local_hooks, record_keys_values
from posneurons.memory import limit
from posneurons.models import Hook
from posneurons.objectives import score, score_and_gradient
from posneurons.packing import can_pack, packed_hooks
from posneurons.path_sums import Sums, in_two
from posneurons.quadrature import EARLY, NOISE, REFINED, TOLERANCE, Completeness, nodes
from posneurons.records import Corpus, Scored
from posneurons.weights import output_weights
from posneurons.words import At, Path, Rule, Target
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

    def balance(self, layer: int) -> float:
        """Size of what a layer's neurons add to over the size of what they add, medians of the words."""
        rest, added = (each[layer].norm(dim=1).median() for each in (self.rest, self.written))
        return max(float(rest / added.clamp(min=1e-30)), 1e-4)


Run = Callable[[float], tuple[Float[Tensor, "word d_model"], list[Tensor]]]
"""From a place on the path to the residual at the words after the last block, and the leaves to differentiate by."""


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
        full, without = (_at_place(model, scene, clean, group, target, place) for place in (1.0, 0.0))
        difference, rounding = full - without, float((full - clean.scores).abs().sum())
        wanted = float(difference.abs().sum())
        noise = rounding + NOISE * float(full.abs().sum())
        silent = wanted <= 4 * noise  # a layer that does next to nothing cannot be judged
        while True:
            count = seen.steps.setdefault(here, steps)
            found = _along(model, scene, clean, group, nodes(count, rule, clean.balance(here)), target)
            total = torch.stack([each.sum(1) for each in found.values()]).sum(0)
            missed = 0.0 if silent else max(0.0, float((total - difference).abs().sum()) - noise)
            if rule != "gauss_legendre" or missed <= TOLERANCE * wanted or count >= REFINED * steps:
                break
            seen.steps[here] = 2 * count
        seen.add(here, missed, wanted)
        yield from found.items()
    seen.words += len(scene.where)


def _along(
    model: Any, scene: Scene, clean: _Clean, group: list[int], path_nodes: list[tuple[float, float]], target: Target
) -> dict[int, Float[Tensor, "word neuron"]]:
    """Attributions of a group of layers, with the given nodes."""
    found = {layer: torch.zeros_like(_at_words(clean.acts[layer], scene), dtype=torch.float32) for layer in group}
    for words, run in _runs(model, scene, clean, group):
        sums: list[Tensor] | None = None
        for place, weight in path_nodes:
            with torch.enable_grad():
                states, leaves = run(place)
            _, gradient = score_and_gradient(model, states, scene.targets[words], target)
            slopes = [weight * each.float() for each in torch.autograd.grad(states, leaves, gradient)]
            sums = slopes if sums is None else [a + b for a, b in zip(sums, slopes, strict=True)]
        for layer, slope in zip(group, sums or [], strict=True):
            found[layer][words] = _of_neurons(model, layer, slope, scene.where[words])
    return {layer: each * _at_words(clean.acts[layer], scene).float() for layer, each in found.items()}


def _of_neurons(model: Any, layer: int, slope: Tensor, where: Tensor) -> Float[Tensor, "word neuron"]:
    """From the derivative by a leaf of any of the three kinds of run to that by the activations at the words."""
    if slope.ndim == 2:  # by what the layer has written
        return slope @ output_weights(model, layer).float().T
    return slope[0] if len(slope) == 1 and slope.shape[1] == len(where) else slope.flatten(0, 1)[where]


def _at_words(values: Float[Tensor, "batch pos width"], scene: Scene) -> Float[Tensor, "word width"]:
    return values.flatten(0, 1)[scene.where]


@torch.no_grad()
def _at_place(
    model: Any, scene: Scene, clean: _Clean, group: list[int], target: Target, place: float
) -> Float[Tensor, " word"]:
    """Score of every word at one place of the path."""
    found = torch.empty_like(clean.scores)
    for words, run in _runs(model, scene, clean, group):
        found[words] = _scores(model, run(place)[0], scene.targets[words], target)
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
    adds_up = all((a + b - c).norm() <= 0.02 * c.norm() for (a, b), c in zip(sums, after, strict=True))
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
    if clean.keys_values is None:
        for position in torch.unique(positions):
            words = positions == position
            yield words, partial(_one_position, model, scene, clean, group, scene.where[words], int(position))
    else:
        after = clean.writes and len(group) == 1
        run = (
            partial(_after_layer, model, scene, clean, group[0])
            if after
            else partial(_through_layers, model, scene, clean, group)
        )
        yield torch.ones_like(positions, dtype=torch.bool), run


def _after_layer(
    model: Any, scene: Scene, clean: _Clean, layer: int, place: float
) -> tuple[Float[Tensor, "word d_model"], list[Tensor]]:
    """From what the words' positions hold after a layer, with what its neurons have written scaled."""
    leaf = (clean.rest[layer] + place * clean.written[layer]).to(clean.before[layer].dtype)
    leaf.requires_grad_(torch.is_grad_enabled())
    return _later(model, scene, clean, layer + 1, leaf, []), [leaf]


def _through_layers(
    model: Any, scene: Scene, clean: _Clean, group: list[int], place: float
) -> tuple[Float[Tensor, "word d_model"], list[Tensor]]:
    """From what the words' positions hold before the first layer of a group, with the neurons of all of it scaled."""
    points = [(_at_words(clean.acts[layer], scene)[None] * place) for layer in group]
    hooks: list[Hook] = []
    for layer, point in zip(group, points, strict=True):
        point.requires_grad_(torch.is_grad_enabled())
        hooks.append((models.post_name(layer), partial(_put, point[0], None if clean.packs else scene.where)))
    return _later(model, scene, clean, group[0], _at_words(clean.before[group[0]], scene), hooks), points


def _put(point: Tensor, where: Tensor | None, value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
    """The words' activations in place of those of a run: of the words alone, or of all positions."""
    return point[None] if where is None else value.flatten(0, 1).index_copy(0, where, point).view(value.shape)


def _later(
    model: Any, scene: Scene, clean: _Clean, start: int, rows: Float[Tensor, "word d_model"], hooks: list[Hook]
) -> Float[Tensor, "word d_model"]:
    """The residual of the words after the last block; only their positions are run where a model allows it, and each
    sees its own alone.
    """
    if start == len(clean.acts) or clean.keys_values is None:
        return rows
    shape = (scene.batch.tokens.shape[0], scene.batch.tokens.shape[1])
    inside = local_hooks(model, clean.keys_values, start=start)
    if not clean.packs:
        full = clean.before[start].flatten(0, 1).index_copy(0, scene.where, rows)
        begin = (start, full.view(clean.before[start].shape))
        return models.residual(model, scene.batch.tokens, [*hooks, *inside], start=begin).flatten(0, 1)[scene.where]
    attention = packed_hooks(model, scene.where, shape, start=start, inside=inside)
    tokens = scene.batch.tokens.flatten()[scene.where][None]
    return models.residual(model, tokens, [*hooks, *attention], start=(start, rows[None]))[0]


def _one_position(
    model: Any, scene: Scene, clean: _Clean, group: list[int], where: Tensor, position: int, place: float
) -> tuple[Float[Tensor, "word d_model"], list[Tensor]]:
    """The whole batch from the first layer of a group, with the neurons of all of it scaled at one position."""
    points = [(clean.acts[layer] * place).requires_grad_(torch.is_grad_enabled()) for layer in group]

    def put(layer: int, point: Tensor) -> Hook:
        def hook_function(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            edited = value.clone()  # what earlier edits have left of it at the other positions is not looked at
            edited[:, position] = point[:, position]
            return edited

        return models.post_name(layer), hook_function

    hooks = [put(layer, point) for layer, point in zip(group, points, strict=True)]
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
        contrast: True for the mean on the tag minus that on the rest, over its error (see
            `EffectAccumulator.contrast`); False for the mean attribution, in nats (or in units of the target).
        steps: nodes of the integral; with "gauss_legendre" twice as many, up to 16 times, for layers that need them.
        rule: where they lie; "right" with 20 steps is Knowledge Neurons' formula. Evenly spaced nodes miss by more than
            5 %, an error, where a layer writes far more than the stream holds (the embedded model's first).
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
    check_fits(model, corpus)
    how: dict[str, Any] = {"at": at, "steps": steps, "rule": rule, "target": target, "path": path}
    state, seen = in_two(partial(_summed, model, **how, tokens=tokens, progress=progress), corpus, tokens)
    seen.check()
    return (state.contrast() if contrast else state.mean()).noting(completeness_error=seen.error())


@shared(Sums.merged)
def _summed(
    model: Any,
    corpus: Corpus,
    begin: dict[int, int],
    *,
    at: At,
    steps: int,
    rule: Rule,
    target: Target,
    path: Path,
    tokens: int,
    progress: bool,
) -> Sums:
    info, seen = models.describe(model), Completeness()
    state = EffectAccumulator(len(corpus.tags), info.n_layers, info.d_mlp, info.device)
    how: dict[str, Any] = {"steps": steps, "rule": rule, "target": target, "path": path, "local": can_be_local(model)}
    many = {"tokens": tokens, "limit": limit(model, "path", corpus.row_bounds)}
    for scene in scenes(corpus, at, info.device, **many, progress=progress, label="integrated gradients"):
        seen.steps = dict(begin)
        for layer, found in attributions(model, scene, **how, seen=seen):
            state.update(layer, scene.tags, scene.rows, found)
        seen.check(EARLY)
    return Sums(state, seen)
