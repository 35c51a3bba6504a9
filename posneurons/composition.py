"""What neurons do together against what each does alone, and what they do directly against what remains of it.

The loss rises by `joint` when a set is ablated, and by `sum_of_singles` when its neurons are ablated one at a time and
the rises are added. A ratio above 1 tells of neurons that stand in for each other, below 1 of neurons that need each
other; the loss is not linear, so a ratio near 1 is expected of small effects only.

The direct effect is that on the final residual alone, with all that comes after a neuron frozen: x + sum of
(new_i - a_i) w_i over the ablated neurons of all layers, at the position that predicts, with x and the activations a_i
of the intact run and w_i the rows of `W_out`. The total effect of the lesion is less where later layers make up for it:
that is self-repair (McGrath et al. 2023, arXiv:2307.15771; Rushing and Nanda 2024, arXiv:2402.15390). The final norm
rescales what is left and repairs too; with its scale frozen as well, its share is seen apart.

What this does not know: which neuron or head repairs; and in the scope "all", the total holds what lesions at earlier
positions send through attention and the direct effect does not, so claims of self-repair need the scope "local".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from posneurons import models, significance
from posneurons.ablations import Edit, parse
from posneurons.activations import BATCH_TOKENS
from posneurons.errors import ModelError, NeuronError
from posneurons.fills import Condition, Fill
from posneurons.lesion_study import Workbench
from posneurons.lesions import INTACT, stream_losses, word_batches
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.views import CompositionView
from posneurons.weights import ROWS, FinalNorm, final_norm, output_weights
from posneurons.words import Scope
from posneurons.writing import check_writes, keep

if TYPE_CHECKING:
    import pandas as pd

Rises = Float[ndarray, "condition word"]


@dataclass(frozen=True, repr=False)
class Composition(CompositionView):
    """Rise of every scored word's loss under lesions, taken apart; nats, float64, NaN where not measured.

    Attributes:
        ablation, scope: what was done to the neurons (its label), and where.
        tags: tag names; `word_tag` indexes them.
        word_cluster: number of the sentence (or document) each word belongs to.
        lesion: per condition, whose set it is.
        neurons: per condition, the ablated set.
        joint: with the whole set ablated: the total effect.
        singles: with one neuron ablated, summed over the set.
        direct: with the change of the whole set added to the final residual, and nothing after the neurons moved.
        direct_frozen_norm: the same under the scale that the final norm has in the intact run.
        draws, seed: of the bootstrap.
    """

    ablation: str
    scope: str
    tags: tuple[str, ...]
    word_tag: Int[ndarray, " word"]
    word_cluster: Int[ndarray, " word"]
    lesion: tuple[str, ...]
    neurons: tuple[NeuronSet, ...]
    joint: Rises
    singles: Rises
    direct: Rises
    direct_frozen_norm: Rises
    draws: int
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """One row per (lesion, measured tag); means in nats per word, ends of 95 % intervals over clusters.

        `ratio` is joint / sum_of_singles where the sum is clearly from 0, its interval (sum_low, sum_high) on one side
        of it; elsewhere NaN. `total` is the joint effect again, `repaired` is direct - total, above 0 where what comes
        after makes up for the lesion. `norm_repaired` is direct_frozen_norm - direct, what the final norm's rescaling
        makes up for, which is no part of `repaired`. All is NaN for a tag without words.
        """
        import pandas as pd

        n_tags, n_sets = len(self.tags), len(self.lesion)
        words = np.bincount(self.word_tag, minlength=n_tags)
        parts = {
            "joint": self.joint,
            "sum_of_singles": self.singles,
            "total": self.joint,
            "direct": self.direct,
            "direct_frozen_norm": self.direct_frozen_norm,
            "repaired": self.direct - self.joint,
            "norm_repaired": self.direct_frozen_norm - self.direct,
        }
        sums = {name: self._sums(values) for name, values in parts.items()}
        with np.errstate(invalid="ignore"):
            means = {name: each.sum(0) / words for name, each in sums.items()}
        counts = significance.cluster_counts(self.word_tag, self.word_cluster, n_tags)
        low, high = self._interval(sums["sum_of_singles"], counts)
        ratio = self._ratio(sums["joint"], sums["sum_of_singles"], (low > 0) | (high < 0))
        repaired = self._interval(sums["repaired"], counts)
        columns = {
            **{name: means[name] for name in ("joint", "sum_of_singles")}, "sum_low": low, "sum_high": high,
            **dict(zip(("ratio", "ratio_low", "ratio_high"), ratio, strict=True)),
            **{name: means[name] for name in ("total", "direct", "direct_frozen_norm", "repaired")},
            "repaired_low": repaired[0], "repaired_high": repaired[1], "norm_repaired": means["norm_repaired"],
        }  # fmt: skip
        return pd.DataFrame({
            "lesion": np.repeat(np.array(self.lesion, dtype=object), n_tags),
            "ablation": self.ablation, "scope": self.scope,
            "neurons": np.repeat([len(each) for each in self.neurons], n_tags),
            "tag": np.tile(np.array(self.tags, dtype=object), n_sets), "words": np.tile(words, n_sets),
            **{name: values.ravel() for name, values in columns.items()},
        })  # fmt: skip

    def _sums(self, values: Rises) -> Float[ndarray, "cluster condition tag"]:
        return significance.cluster_sums(values, self.word_tag, self.word_cluster, len(self.tags))

    def _interval(
        self, sums: Float[ndarray, "cluster condition tag"], counts: Float[ndarray, "cluster tag"]
    ) -> tuple[Float[ndarray, "condition tag"], Float[ndarray, "condition tag"]]:
        rng = np.random.default_rng(self.seed)
        return significance.bootstrap_interval(sums, counts, draws=self.draws, rng=rng)

    def _ratio(
        self,
        joint: Float[ndarray, "cluster condition tag"],
        singles: Float[ndarray, "cluster condition tag"],
        clear: Bool[ndarray, "condition tag"],
    ) -> tuple[Float[ndarray, "condition tag"], ...]:
        """Joint over summed singles and its interval, where clear; the sums stand where a mean has counts of words."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = joint.sum(0) / singles.sum(0)
        ends = [self._interval(joint[:, [each]], singles[:, each]) for each in range(len(self.lesion))]
        table = [ratio, *(np.concatenate(each) for each in zip(*ends, strict=True))]
        return tuple(np.where(clear, each, np.nan) for each in table)


def compose(
    model: Any,
    corpus: Corpus,
    keys: Mapping[str, NeuronSet],
    *,
    ablation: str | Edit = "mean",
    scope: Scope = "all",
    singles: bool = True,
    direct: bool = True,
    seed: int = 0,
    draws: int = 10_000,
    cluster: str = "auto",
    split: str = "test",
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
    workbench: Workbench | None = None,
) -> Composition:
    """Ablate each set together and neuron by neuron, and find its direct effect.

    Costs a run for each set, one for each distinct neuron of the sets (the engine forks all of them from one intact
    run), and one intact run with two unembeddings per set for the direct effects; each times the ablation's draws.

    Args:
        model: what `load_model` gives.
        corpus: words with a split to measure on, and for what is estimated before, the split "train".
        keys: name to set; to see what stands in for one neuron, give it as a set of its own.
        ablation: a name, also with options, as `lesion` takes it.
        scope: "all" positions after BOS, or "local": only the position that predicts the word whose loss is read. The
            direct effect is the same in both.
        singles: ablate every neuron alone too.
        direct: find direct effects.
        seed: of donors and the bootstrap.
        draws: resamples of the bootstrap.
        cluster: what is resampled: "document", "sentence" or "auto".
        split: where losses are measured.
        tokens: size of a batch.
        progress: show bars.
        workbench: one made before for this model, corpus and split.

    Returns:
        Rises of every scored word's loss. Without a final norm that is known, `direct_frozen_norm` is NaN, and the
        workbench has a note.

    Raises:
        NeuronError: where `keys` is empty, a neuron lies outside the model, or the ablation is unknown.
        ModelError: where a direct effect is asked of a model with a norm after its MLPs.
        AlignmentError: where a split is missing or the corpus does not fit the model.
    """
    if not keys:
        raise NeuronError("compose: no sets were given; expected a mapping of names to NeuronSets")
    edit, sets = parse(ablation), tuple(keys.values())
    bench = workbench or Workbench(model, corpus, split=split, seed=seed, tokens=tokens, progress=progress)
    for each in sets:
        each.check(bench.info.n_layers, bench.info.d_mlp)
    norm = _norm(bench) if direct else None
    everyone = NeuronSet.parse([]).union(*sets)
    fills = bench.fills(edit, everyone)
    test, words = bench.test, bench.test.readable("predict")
    how: dict[str, Any] = {"tokens": tokens, "progress": progress}
    joint, summed = _totals(bench, sets, everyone if singles else NeuronSet.parse([]), fills, scope, how)
    ends = _direct(bench, sets, fills, norm, how) if direct else np.full((2, *joint.shape), np.nan)
    _, unit = bench.clusters(cluster)
    return Composition(
        ablation=str(edit),
        scope=scope,
        tags=test.tags,
        word_tag=test.word_tag[words],
        word_cluster=np.unique(unit[words], return_inverse=True)[1],
        lesion=tuple(keys),
        neurons=sets,
        joint=joint,
        singles=summed if singles else np.full_like(joint, np.nan),
        direct=ends[0],
        direct_frozen_norm=ends[1],
        draws=draws,
        seed=seed,
    )


def _norm(bench: Workbench) -> FinalNorm | None:
    """The final norm, None where it is not known; an error where there are no direct effects."""
    try:
        check_writes(bench.model)
    except ModelError as error:
        raise ModelError(
            f"{bench.info.name}: no direct effects in {bench.info.architecture}: what its neurons write does not reach "
            "the residual stream through W_out alone, as with a norm after the MLP; compose with direct=False"
        ) from error
    try:
        return final_norm(bench.model)
    except ModelError:
        bench.note("the final norm is not known, and direct effects under its frozen scale are left out")
        return None


def _totals(
    bench: Workbench,
    sets: Sequence[NeuronSet],
    alone: NeuronSet,
    fills: tuple[Fill, ...],
    scope: Scope,
    how: Mapping[str, Any],
) -> tuple[Rises, Rises]:
    """Rises under each set, and the sums of those under each of its neurons; only the sums are kept."""
    conditions = [Condition(each, fills, scope) for each in sets]
    conditions += [Condition(NeuronSet.parse([name]), fills, scope) for name in alone]
    named = [set(each.names) for each in sets]
    member = np.array([[name in names for name in alone] for names in named], dtype=np.float64)
    member = np.hstack([np.zeros((len(sets), len(sets))), member])
    words = bench.test.readable("predict")
    joint, summed = np.full((len(sets), len(words)), np.nan), np.zeros((len(sets), len(words)))
    intact: dict[str, ndarray] = {}

    def add(found: ndarray, numbers: list[int], losses: ndarray) -> None:
        if numbers == [INTACT]:
            intact["losses"] = losses[0].astype(np.float64)
            return
        rises, where = losses[0] - intact["losses"], np.searchsorted(words, found)
        summed[:, where] += member[:, numbers] @ rises
        for number, rise in zip(numbers, rises, strict=True):
            if number < len(sets):
                joint[number, where] = rise

    for note in stream_losses(bench.model, bench.test, conditions, add, **how):
        bench.note(note)
    return joint, summed


@torch.no_grad()
def _direct(
    bench: Workbench,
    sets: Sequence[NeuronSet],
    fills: tuple[Fill, ...],
    norm: FinalNorm | None,
    how: Mapping[str, Any],
) -> Float[ndarray, "2 condition word"]:
    """Rises by the direct effect, under the final norm as it then is and under its intact scale."""
    model, test, words = bench.model, bench.test, bench.test.readable("predict")
    rises = np.full((2, len(sets), len(words)), np.nan)
    held = NeuronSet.parse([]).union(*sets).by_layer()
    units = {layer: torch.from_numpy(np.sort(each)).to(bench.info.device) for layer, each in held.items()}
    with tqdm(
        total=len(test.tokens), desc="direct effects", unit="token", leave=None, disable=not how["progress"]
    ) as bar:
        for part in word_batches(model, test, ("first",), None, how["tokens"]):
            reads, values = part.reads, dict[int, Tensor]()
            hooks = [(models.post_name(layer), keep(values, layer, each)) for layer, each in units.items()]
            state = models.residual(model, reads.tokens, hooks).flatten(0, 1)[reads.where]
            number = reads.number.flatten()[reads.where]
            live = {layer: each.flatten(0, 1)[reads.where] for layer, each in values.items()}
            scale = norm.scale(state) if norm else None
            intact = _losses(model, state, reads.targets, norm, scale)
            for row, neurons in enumerate(sets):
                found = torch.zeros_like(intact)
                for fill in fills:
                    moved = _moved(model, state, neurons, fill, units, live, number)
                    found += _losses(model, moved, reads.targets, norm, scale) / len(fills)
                rises[:, row, np.searchsorted(words, part.words)] = (
                    found.cpu().numpy().astype(np.float64) - intact.cpu().numpy()
                )
            bar.update(part.size)
    return rises


def _moved(
    model: Any,
    state: Float[Tensor, "place d_model"],
    neurons: NeuronSet,
    fill: Fill,
    units: Mapping[int, Int[Tensor, " _"]],
    live: Mapping[int, Float[Tensor, "place _"]],
    number: Int[Tensor, " place"],
) -> Float[Tensor, "place d_model"]:
    """The final residual with the change of every ablated neuron added, whatever its layer."""
    moved = state.float()
    for layer, each in neurons.by_layer().items():
        mine = torch.from_numpy(each).to(state.device)
        before = live[layer][:, torch.searchsorted(units[layer], mine)]
        change = fill.new(layer, mine, before, number).float() - before.float()
        moved = moved + change @ output_weights(model, layer)[mine].float()
    return moved.to(state.dtype)


def _losses(
    model: Any,
    rows: Float[Tensor, "place d_model"],
    targets: Int[Tensor, " place"],
    norm: FinalNorm | None,
    scale: Float[Tensor, " place"] | None,
) -> Float[Tensor, "2 place"]:
    """Nats under the final norm, and under a given scale of it."""
    live = models.cross_entropy(model, rows, targets)
    if norm is None or scale is None:
        return torch.stack([live, torch.full_like(live, torch.nan)])
    frozen = [
        functional.cross_entropy(models.unembed(model, norm.apply(row, size), normed=True), wanted, reduction="none")
        for row, size, wanted in zip(*(torch.split(each, ROWS) for each in (rows, scale, targets)), strict=True)
    ]
    return torch.stack([live, torch.cat(frozen) if frozen else live])
