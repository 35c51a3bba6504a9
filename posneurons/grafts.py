"""Neurons grafted onto a trained model: what they do is known, because without them it is the model that it was.

A graft for tag k reads the normalised residual h before its MLP: its gate is 6 / sigma (w.h - theta) along a probe
direction w, its linear input about 1, and it writes a step along u, the direction that raises the logits of the words
that begin as the tag's do. A linear map has no bias, so a direction v with v.h = 1 in least squares stands for the
constant, chosen so that grafts are silent at BOS. Half of the grafts write nothing and are decoys. Truth is the rise of
the loss when a graft is set to 0, not what it was made for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from posneurons import lesions, models
from posneurons.activations import BATCH_TOKENS, stream
from posneurons.errors import ModelError, PosNeuronsError
from posneurons.fills import Condition
from posneurons.neurons import NeuronSet
from posneurons.planted import Planted
from posneurons.records import Corpus
from posneurons.words import At

STEEPNESS = 6.0
"""The gate, before its activation function, one standard deviation above its threshold."""

RIDGE = 0.01
"""Added to the covariance that a probe direction is solved with, as a share of its mean diagonal."""


class _Plan(NamedTuple):
    """Where a graft goes, for which tag, from which half of the sentences, and whether it writes."""

    layer: int
    unit: int
    tag: int
    half: int
    used: bool


class _Inputs:
    """Sums of the normalised residual before every MLP over words, per half of the sentences, in float64."""

    def __init__(self, model: Any, corpus: Corpus, at: At, how: Mapping[str, Any]) -> None:
        info = models.describe(model)
        self._norms = [_norm_weight(block.ln2, info.d_model) for block in model.blocks]
        self._tags = torch.from_numpy(corpus.word_tag)
        self._half = torch.from_numpy(corpus.word_row % 2)
        self.squares = torch.zeros(info.n_layers, 2, info.d_model, info.d_model, dtype=torch.float64)
        self.sums = torch.zeros(info.n_layers, 2, len(corpus.tags), info.d_model, dtype=torch.float64)
        self.counts = torch.zeros(2, len(corpus.tags), dtype=torch.float64)
        self.counts.index_put_((self._half, self._tags), torch.ones(len(corpus), dtype=torch.float64), accumulate=True)
        unread = np.setdiff1d(np.arange(len(corpus)), corpus.readable(at))
        for word in unread:
            self.counts[self._half[word], self._tags[word]] -= 1
        stream(model, corpus, self._add, at=(at,), hook=_input_name, **how)
        begin = models.run_with_cache(
            model, torch.tensor([[corpus.bos]], device=info.device), [_input_name(la) for la in range(info.n_layers)]
        )
        self.bos = [begin[_input_name(la)][0, 0].double().cpu() * self._norms[la] for la in range(info.n_layers)]

    def _add(self, layer: int, at: At, words: Tensor, values: Tensor) -> None:  # noqa: ARG002
        rows, words = values.double().cpu() * self._norms[layer], words.cpu()
        for half in range(2):
            mine = self._half[words] == half
            self.squares[layer, half] += rows[mine].T @ rows[mine]
            self.sums[layer, half].index_add_(0, self._tags[words][mine], rows[mine])

    def probe(self, layer: int, half: int, tag: int) -> tuple[Float[Tensor, " d_model"], float]:
        """The direction that tells the tag from the rest, in units of its standard deviation, and the threshold."""
        sums, counts = self.sums[layer, half], self.counts[half]
        n = counts.sum()
        mine, rest = sums[tag] / counts[tag], (sums.sum(0) - sums[tag]) / (n - counts[tag])
        covariance = self.squares[layer, half] / n - torch.outer(sums.sum(0), sums.sum(0)) / n**2
        direction = torch.linalg.solve(_ridged(covariance), mine - rest)
        direction = direction / (direction @ covariance @ direction).sqrt()
        return direction, float(direction @ (mine + rest) / 2)

    def constant(self, layer: int) -> Float[Tensor, " d_model"]:
        """The direction along which words are 1, in least squares, and BOS is 0."""
        n = self.counts.sum()
        system = _ridged(self.squares[layer].sum(0) / n, share=1e-4)
        wanted = torch.stack([self.sums[layer].sum((0, 1)) / n, self.bos[layer]], dim=1)
        free, towards_bos = torch.linalg.solve(system, wanted).unbind(1)
        silent: Tensor = free - towards_bos * (self.bos[layer] @ free) / (self.bos[layer] @ towards_bos)
        return silent


def _ridged(matrix: Float[Tensor, "d_model d_model"], share: float = RIDGE) -> Float[Tensor, "d_model d_model"]:
    size = len(matrix)
    return matrix + share * matrix.trace() / size * torch.eye(size, dtype=matrix.dtype)


def _input_name(layer: int) -> str:
    return f"blocks.{layer}.ln2.hook_normalized"


def _norm_weight(norm: Any, size: int) -> Float[Tensor, " d_model"]:
    weight = getattr(norm, "w", None)
    return torch.ones(size, dtype=torch.float64) if weight is None else weight.detach().double().cpu()


def _directions(model: Any, corpus: Corpus, at: At) -> Float[Tensor, "tag d_model"]:
    """Unit vectors of the residual stream that raise the logits of the tokens that words of a tag begin with."""
    words = corpus.readable(at)
    first = corpus.tokens_at(words, corpus.word_first[words])
    shares = torch.zeros(len(corpus.tags), models.describe(model).d_vocab, dtype=torch.float64)
    places = (torch.from_numpy(corpus.word_tag[words]), torch.from_numpy(first))
    shares.index_put_(places, torch.ones(len(words), dtype=torch.float64), accumulate=True)
    overall = shares.sum(0) / shares.sum()
    lift = shares / shares.sum(1, keepdim=True).clamp(min=1) - overall
    found = lift.to(model.W_U.device, torch.float32) @ model.W_U.float().T
    return functional.normalize(found.double().cpu() * _norm_weight(model.ln_final, found.shape[1]), dim=1)


def _plan(n_layers: int, first_unit: int, tags: Sequence[int], per_tag: int, idle: int, seed: int) -> list[_Plan]:
    """Spread each tag's grafts over layers and halves in random order, then number them within their layer."""
    rng, plans, free = np.random.default_rng(seed), [], [first_unit] * n_layers
    for tag in tags:
        slots = rng.permutation(2 * n_layers)
        for number in range(per_tag + idle):
            layer, half = divmod(int(slots[number % len(slots)]), 2)
            plans.append(_Plan(layer, free[layer], tag, half, number < per_tag))
            free[layer] += 1
    return plans


def _step(model: Any, corpus: Corpus, gain: float) -> float:
    """Length of what a graft writes at activation 1: `gain` of the final residual's typical norm, at STEEPNESS."""
    rows = [torch.from_numpy(corpus.row_tokens(row)) for row in range(min(corpus.n_rows, 16))]
    device = models.describe(model).device
    norms = [models.residual(model, row[None].to(device))[0, 1:].float().norm(dim=-1) for row in rows if len(row) > 1]
    return float(torch.cat(norms).median()) * gain / STEEPNESS


@torch.no_grad()
def graft(
    model: Any,
    corpus: Corpus,
    *,
    tags: Sequence[str],
    per_tag: int = 4,
    decoys_per_tag: int = 4,
    gain: float = 0.02,
    at: At = "predict",
    seed: int = 0,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Planted:
    """A copy of a gated model with neurons appended for some tags, and what each is measured to do on "test".

    Every layer grows by the same number of units, those left over being zero. With all grafts at 0 at every position
    the logits are those of the old model bit for bit, because each MLP computes its old units and the new ones apart.
    Lesions leave BOS as it is, where grafts are silent to within rounding. Weights outside the MLPs are shared with the
    old model.

    Args:
        model: a HookedTransformer with gated MLPs, after an RMS norm.
        corpus: words with the splits "train", from which directions are learned, and "test".
        tags: which tags get grafts.
        per_tag: grafts that write.
        decoys_per_tag: grafts that are made alike and write nothing.
        gain: what a graft writes one standard deviation above its threshold, as a share of the residual's norm.
        at: where words are read: "predict", since it is the word's own tokens that grafts raise.
        seed: of layers and halves.
        tokens: size of a batch.
        progress: show bars.

    Returns:
        The new model. `truth` holds the grafts that lower the loss of their own tag; those that were meant to
        help and do not are `ignored`.

    Raises:
        ModelError: where the model is not gated, or no graft helps.
        PosNeuronsError: where a tag is unknown or has no words, or `at` is another position.
    """
    _check(model, corpus, tags, at)
    train, info = corpus.split("train"), models.describe(model)
    numbers = [corpus.tags.index(tag) for tag in tags]
    plans = _plan(info.n_layers, info.d_mlp, numbers, per_tag, decoys_per_tag, seed)
    width = max(plan.unit for plan in plans) + 1
    how: dict[str, Any] = {"tokens": tokens, "progress": progress}
    inputs, towards = _Inputs(model, train, at, how), _directions(model, train, at)
    added = _added(inputs, towards * _step(model, train, gain), plans, info.d_mlp, width)
    grown = _grow(model, added, width)
    return _measured(grown, corpus, plans, tags, info.d_mlp, at, how)


def _check(model: Any, corpus: Corpus, tags: Sequence[str], at: At) -> None:
    if at != "predict":
        raise PosNeuronsError(
            f"graft: at={at!r}; grafts raise the words of a tag before they are read: expected 'predict'"
        )
    info = models.describe(model)
    names = [_input_name(0), "blocks.0.mlp.hook_pre_linear"]
    if info.backend != "hooked" or any(name not in model.hook_dict for name in names) or "RMS" not in str(
        model.cfg.normalization_type
    ):  # fmt: skip
        raise ModelError(
            f"{info.name}: grafts need gated MLPs after an RMS norm, and this is {info.architecture} on backend "
            f"{info.backend!r}; give a Llama loaded with backend='hooked'"
        )
    for split in ("train", "test"):
        part = corpus.split(split)
        present = {part.tags[number] for number in part.word_tag[part.readable(at)]}
        for tag in tags:
            if tag not in present:
                raise PosNeuronsError(
                    f"graft: tag {tag!r} has no word in split {split!r}; expected some of {', '.join(sorted(present))}"
                )


def _added(
    inputs: _Inputs, steps: Float[Tensor, "tag d_model"], plans: Sequence[_Plan], first: int, width: int
) -> dict[str, Float[Tensor, "layer unit d_model"]]:
    """Rows to append to each of the three matrices of every MLP."""
    n_layers, size = len(inputs.bos), steps.shape[1]
    added = {name: torch.zeros(n_layers, width - first, size, dtype=torch.float64) for name in ("gate", "in", "out")}
    constants = [inputs.constant(layer) for layer in range(n_layers)]
    for layer, unit, tag, half, used in plans:
        direction, threshold = inputs.probe(layer, half, tag)
        added["gate"][layer, unit - first] = STEEPNESS * (direction - threshold * constants[layer])
        added["in"][layer, unit - first] = constants[layer]
        if used:
            added["out"][layer, unit - first] = steps[tag]
    return added


def _grow(model: Any, added: dict[str, Float[Tensor, "layer unit d_model"]], width: int) -> Any:
    """The model with more units in each MLP, which computes old and new ones apart."""
    weights = dict(model.named_parameters())
    for layer, block in enumerate(model.blocks):
        name, mlp = f"blocks.{layer}.mlp", block.mlp

        def rows(key: str, layer: int = layer, like: Tensor = mlp.W_out) -> Tensor:
            return added[key][layer].to(like.device, like.dtype)

        # Gate and input lie as rows per unit, so that their transposes are contiguous and are not copied on every call.
        weights[f"{name}.W_gate"] = torch.cat([mlp.W_gate.T, rows("gate")]).T
        weights[f"{name}.W_in"] = torch.cat([mlp.W_in.T, rows("in")]).T
        weights[f"{name}.W_out"] = torch.cat([mlp.W_out, rows("out")])
        weights[f"{name}.b_in"] = torch.cat([mlp.b_in, mlp.b_in.new_zeros(width - len(mlp.b_in))])
    fields = model.cfg.to_dict() | {"d_mlp": width, "init_weights": False, "dtype": model.W_U.dtype}
    grown = models.build_hooked(fields, weights)
    grown.tokenizer = model.tokenizer
    for block in grown.blocks:
        block.mlp.forward = _apart(block.mlp, model.cfg.d_mlp)
    return grown


def _apart(mlp: Any, old: int) -> Any:
    """The forward pass of a gated MLP that computes its first `old` units as if there were no others.

    The order in which a product sums depends on its sizes, and which entries of a vector an activation function takes
    one by one on its length: this way both are the smaller model's.
    """

    def split(value: Tensor, axis: int = -1) -> tuple[Tensor, Tensor]:
        first, second = torch.split(value, [old, value.shape[axis] - old], dim=axis)
        return first.contiguous(), second.contiguous()

    def forward(state: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        gates, inputs, outs = (split(weight, 0) for weight in (mlp.W_gate.T, mlp.W_in.T, mlp.W_out))
        gate = mlp.hook_pre(torch.cat([functional.linear(state, part) for part in gates], dim=-1))
        linear = mlp.hook_pre_linear(torch.cat([functional.linear(state, part) for part in inputs], dim=-1))
        products = [mlp.act_fn(each) * other for each, other in zip(split(gate), split(linear), strict=True)]
        kept, added = split(mlp.hook_post(torch.cat(products, dim=-1) + mlp.b_in))
        before = functional.linear(kept, outs[0].T.contiguous(), mlp.b_out)
        return before + functional.linear(added, outs[1].T.contiguous())

    return forward


def _measured(
    model: Any, corpus: Corpus, plans: Sequence[_Plan], tags: Sequence[str], first: int, at: At, how: Mapping[str, Any]
) -> Planted:
    """Sort grafts by what setting them to 0 does to the test words of their own tag."""
    used = [plan for plan in plans if plan.used]
    alone = _rises(model, corpus.split("test"), [NeuronSet.from_pairs([plan[:2]]) for plan in used], how)
    helps = {plan: rise[plan.tag] > 0 for plan, rise in zip(used, alone, strict=True)}
    number = corpus.tags.index
    truth = {tag: NeuronSet.from_pairs(plan[:2] for plan in used if plan.tag == number(tag) and helps[plan])
             for tag in tags}  # fmt: skip
    truth = {tag: neurons for tag, neurons in truth.items() if len(neurons)}
    if not truth:
        raise ModelError(f"{models.describe(model).name}: no graft lowers the loss of its tag; choose another gain")
    copies = {tag: NeuronSet.from_pairs(plan[:2] for plan in plans if plan.tag == number(tag) and not plan.used)
              for tag in tags}  # fmt: skip
    taken = {plan[:2] for plan in plans if not plan.used or helps[plan]}
    appended = ((layer, unit) for layer in range(model.cfg.n_layers) for unit in range(first, model.cfg.d_mlp))
    return Planted(
        name=f"grafted {models.describe(model).name}",
        model=model,
        corpus=corpus,
        at=at,
        truth=truth,
        effect=_rises(model, corpus.split("test"), list(truth.values()), how),
        decoys={"read_only": NeuronSet.parse([]).union(*copies.values())},
        copies=copies,
        ignored=NeuronSet.from_pairs(pair for pair in appended if pair not in taken),
    )


def _rises(
    model: Any, corpus: Corpus, sets: Sequence[NeuronSet], how: Mapping[str, Any]
) -> Float[ndarray, "lesion tag"]:
    """Rise of each tag's mean loss when a set is 0; NaN for a tag without words."""
    found = lesions.word_losses(model, corpus, [Condition(neurons) for neurons in sets], **how)
    member = corpus.word_tag[found.words][:, None] == np.arange(len(corpus.tags))
    with np.errstate(invalid="ignore", divide="ignore"):
        rises: ndarray = found.rises() @ member / member.sum(0)
    return rises
