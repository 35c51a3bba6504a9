"""Rank, lesion what comes first, rank what is left, lesion that too: does the model have more of the same?

Where neurons stand in for each other, those that do so say nothing in the intact model and come first once the others
are gone. So each tag has rounds of its own: in a round, the model is ranked anew while all that was found before is
held at its ablated value (`lesioned`), and the k best of the remaining neurons are added. What the rounds together do
to the tag stands beside matched random sets of the same size and beside the other tags.

What this does not know: whether neurons found late stand in for the earlier ones or are merely next; the overlap with
the intact ranking's next places, which is high for the latter, hints at it, and `composition` measures it. The lesion
is held at all positions after BOS; integrated gradients scale the held neurons along their path with those of the
layer. A ranking in the lesioned model is made on the training split, the effects are measured on another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from posneurons import distributed, models, significance
from posneurons.ablations import Edit, parse
from posneurons.activations import BATCH_TOKENS
from posneurons.display import Shown
from posneurons.dissociation import against_controls
from posneurons.errors import NeuronError
from posneurons.fills import Condition, Fill
from posneurons.lesion_study import Workbench
from posneurons.models import Hook
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus, Ranking
from posneurons.words import At, Control
from posneurons.workflow import rank

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class Round(Shown):
    """One round of one tag.

    Attributes:
        lesion: the tag.
        number: from 1.
        new: the neurons found in this round, best first.
        overlap: the share of them that the intact model's ranking has at the same places, k (number - 1) + 1 to
            k number; 1 in the first round.
        first_rank: their median place in the intact model's ranking, from 1; NaN where it ranks none of them.
        rise: of each tag's mean loss when the neurons of this and all earlier rounds are ablated together, in nats.
        low, high: its 95 % interval over clusters of words.
        controls: the rise under each matched random set of as many neurons.
    """

    lesion: str
    number: int
    new: NeuronSet
    overlap: float
    first_rank: float
    rise: Float[ndarray, " tag"]
    low: Float[ndarray, " tag"]
    high: Float[ndarray, " tag"]
    controls: Float[ndarray, "draw tag"]


@dataclass(frozen=True, repr=False)
class Iterations(Shown):
    """Rounds of ranking and lesioning of some tags.

    Attributes:
        method, ablation: how neurons were ranked, and what was done to them (its label).
        k: neurons that each round adds.
        tags: tag names, the axis of all rises.
        words: scored words of each tag.
        rounds: tag by tag, rounds ascending.
    """

    method: str
    ablation: str
    k: int
    tags: tuple[str, ...]
    words: Int[ndarray, " tag"]
    rounds: tuple[Round, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per (lesioned tag, round); rises in nats per word.

        `neurons` counts those of all rounds so far, `new` names those of this one. `rise` is that of the tag itself
        with its interval; `control_mean` and `control_sd` are those of the matched sets, `p_controls` is one-sided
        (Crawford and Howell). `others` is the mean over the other tags that have words, `control_others` the same
        under the matched sets. NaN without controls, or for a tag without words.
        """
        import pandas as pd

        return pd.DataFrame([self._row(each) for each in self.rounds])

    def figure(self) -> go.Figure:
        """Rise of each tag's own loss by the rounds lesioned together, beside random sets."""
        from posneurons.effect_figures import rounds

        return rounds(self.to_frame())

    def _row(self, each: Round) -> dict[str, object]:
        own = self.tags.index(each.lesion)
        others = (self.words > 0) & (np.arange(len(self.tags)) != own)
        found, controls = against_controls(each.rise, each.controls), each.controls[:, others]
        return {
            "method": self.method,
            "ablation": self.ablation,
            "lesion": each.lesion,
            "round": each.number,
            "neurons": self.k * each.number,
            "new": " ".join(each.new.names),
            "overlap": each.overlap,
            "first_rank": each.first_rank,
            "words": int(self.words[own]),
            "rise": each.rise[own],
            "rise_low": each.low[own],
            "rise_high": each.high[own],
            "control_mean": found.mean[own],
            "control_sd": found.sd[own],
            "p_controls": found.p_controls[own],
            "others": each.rise[others].mean() if others.any() else np.nan,
            "control_others": controls.mean() if controls.size else np.nan,
        }


@contextmanager
def lesioned(model: Any, neurons: NeuronSet, fill: Fill) -> Iterator[None]:
    """Hold neurons at their ablated values, at all positions after BOS, in every run of the model inside the context.

    Hooks that are added inside see the ablated values; on leaving, also by an exception, the model is as before. Made
    for rankings. The lesion engine is not to be used inside: its packed runs hold BOS at places that cannot be told
    from others here. Give it the union of the sets instead.

    Args:
        model: what `load_model` gives.
        neurons: the lesion.
        fill: what they are set to: constants, or a part of their own value.

    Raises:
        NeuronError: where a neuron lies outside the model, or its values come from donor words.
    """
    info = models.describe(model)
    neurons.check(info.n_layers, info.d_mlp)
    if fill.donors is not None:
        raise NeuronError(
            "lesioned: values of donor words belong to the tokens of one corpus and cannot be held in every run; "
            "choose another ablation than resample, such as mean"
        )
    hooks = [hook for layer, units in neurons.by_layer().items() for hook in _holding(model, layer, units, fill)]
    with distributed.alone(), model.hooks(fwd_hooks=hooks):
        yield


def _holding(model: Any, layer: int, numbers: Int[ndarray, " k"], fill: Fill) -> list[Hook]:
    """Hooks that ablate units of a layer.

    Some runs hold words' positions one after the other, without BOS (see `packing`). They lie as rows and positions
    inside attention only, so that the mixed values of the same layer tell the two layouts apart.
    """
    units = torch.from_numpy(numbers).to(models.describe(model).device)
    rows: dict[str, tuple[int, ...]] = {}

    def note(value: Tensor, hook: Any) -> None:  # noqa: ARG001
        rows["shape"] = tuple(value.shape[:2])

    def ablate(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        shape = tuple(value.shape[:2])
        first = 1 if rows.get("shape", shape) == shape else 0
        held, live = value.clone(), value[:, first:, units]
        flat = live.flatten(0, 1)
        new = fill.new(layer, units, flat, torch.zeros(len(flat), dtype=torch.int64, device=flat.device))
        held[:, first:, units] = new.reshape(live.shape)
        return held

    mixed = f"blocks.{layer}.attn.hook_z"
    return [*([(mixed, note)] if mixed in model.hook_dict else []), (models.post_name(layer), ablate)]


def iterate(
    model: Any,
    corpus: Corpus,
    method: str = "attribution",
    *,
    k: int,
    rounds: int = 3,
    tags: Sequence[str] | None = None,
    ablation: str | Edit = "mean",
    at: At = "predict",
    controls: int = 20,
    control: Control = "size",
    seed: int = 0,
    draws: int = 10_000,
    cluster: str = "auto",
    split: str = "test",
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
    workbench: Workbench | None = None,
) -> Iterations:
    """Rank, lesion the k best neurons of a tag, rank the lesioned model, lesion its k best too, and so on.

    Costs 1 + tags * (rounds - 1) rankings of the training split and tags * rounds * (1 + controls) lesions.

    Args:
        model: what `load_model` gives.
        corpus: words with a split "train" to rank and estimate on, and a split to measure on.
        method: as `rank` takes it.
        k: neurons that each round adds.
        rounds: at least 1.
        tags: whose rounds; None for all that have a score and a scored word.
        ablation: "zero", "mean", "balanced_mean", "clamp" or "scale", also with options; the means are the intact
            model's.
        at: where each word is read by the ranking.
        controls: matched random sets per tag, without any neuron found; they grow with the rounds.
        control: what they share with the neurons found, as `lesion` takes it.
        seed: of rankings, control sets and the bootstrap.
        draws: resamples of the bootstrap.
        cluster: what is resampled: "document", "sentence" or "auto".
        split: where losses are measured.
        tokens: size of a batch.
        progress: show bars.
        workbench: one made before for this model, corpus and split.

    Raises:
        NeuronError: where k or rounds are below 1, a tag is unknown, the ablation is unknown or needs donors, or too
            few neurons are left.
        PosNeuronsError: where the method is unknown.
        AlignmentError: where a split is missing or the corpus does not fit the model.
    """
    edit = parse(ablation)
    if k < 1 or rounds < 1:
        raise NeuronError(f"iterate: k={k}, rounds={rounds}; expected at least 1 of each")
    if edit.name == "resample":
        raise NeuronError(
            f"iterate: ablation {str(edit)!r} cannot be held while a model is ranked, as its values belong to the "
            "tokens of one corpus; expected zero, mean, balanced_mean, clamp or scale"
        )
    bench = workbench or Workbench(model, corpus, split=split, seed=seed, tokens=tokens, progress=progress)
    how: dict[str, Any] = {"at": at, "seed": seed, "tokens": tokens, "progress": progress}
    words = np.bincount(bench.test.word_tag[bench.test.readable("predict")], minlength=len(bench.test.tags))
    with tqdm(desc=f"rounds of {method}", unit="ranking", disable=not progress) as bar:

        def ranked() -> Ranking:
            again = rank(model, corpus, method, **how)
            bar.update()
            return again

        intact = ranked()
        names = [tag for tag, n in zip(intact.tags, words, strict=True) if n and len(intact.first(tag, 1))]
        chosen = names if tags is None else list(tags)
        bar.total = 1 + len(chosen) * (rounds - 1)
        found = {tag: _found(bench, edit, intact, ranked, tag, k, rounds) for tag in chosen}
    unions = {tag: sets[0].union(*sets[1:]) for tag, sets in found.items()}
    random = bench.matched(unions, edit, controls, control)
    measured: list[Round] = []
    for tag, sets in tqdm(found.items(), desc="lesions of the rounds", unit="tag", disable=not progress):
        measured += _measured(bench, edit, intact, tag, sets, random[tag], draws, cluster)
    return Iterations(intact.method, str(edit), k, bench.test.tags, words, tuple(measured))


def _found(
    bench: Workbench, edit: Edit, intact: Ranking, ranked: Callable[[], Ranking], tag: str, k: int, rounds: int
) -> list[NeuronSet]:
    """The neurons that each round adds for a tag; `ranked` ranks the model as it is at the time."""
    found = [_best(intact, tag, k, NeuronSet.parse([]))]
    while len(found) < rounds:
        gone = found[0].union(*found[1:])
        with lesioned(bench.model, gone, bench.fills(edit, gone)[0]):
            again = ranked()
        found.append(_best(again, tag, k, gone))
    return found


def _best(ranking: Ranking, tag: str, k: int, gone: NeuronSet) -> NeuronSet:
    """The k best neurons of a tag that are not lesioned: those have no score in the lesioned model."""
    n_units = ranking.scores.shape[2]
    order = ranking.order(tag)
    order = order[~np.isin(order, gone.flat(n_units))]
    if len(order) < k:
        raise NeuronError(
            f"iterate: {tag} has {len(order)} neurons with a score beside the {len(gone)} lesioned ones, but k={k}; "
            "choose a smaller k or fewer rounds"
        )
    return NeuronSet.from_flat(order[:k], n_units)


def _measured(
    bench: Workbench,
    edit: Edit,
    intact: Ranking,
    tag: str,
    sets: Sequence[NeuronSet],
    random: Sequence[NeuronSet],
    draws: int,
    cluster: str,
) -> Iterator[Round]:
    """The effects of a tag's rounds, all from one walk of the lesion engine."""
    k, n_draws, test = len(sets[0]), len(random), bench.test
    everything = sets[0].union(*sets[1:])
    prefixes = [_prefix(each, k * (number + 1)) for number in range(len(sets)) for each in (everything, *random)]
    fills = bench.fills(edit, everything.union(*random))
    losses = bench.losses([Condition(each, fills) for each in prefixes], ("first",))
    cells, (_, unit) = test.word_tag[losses.words], bench.clusters(cluster)
    clusters = np.unique(unit[losses.words], return_inverse=True)[1]
    sums = significance.cluster_sums(losses.rises(), cells, clusters, len(test.tags))
    counts = significance.cluster_counts(cells, clusters, len(test.tags))
    keys = slice(None, None, n_draws + 1)
    low, high = significance.bootstrap_interval(
        sums[:, keys], counts, draws=draws, rng=np.random.default_rng(bench.seed)
    )
    with np.errstate(invalid="ignore"):
        rises = sums.sum(0) / counts.sum(0)
    order, n_units = intact.order(tag).tolist(), bench.info.d_mlp
    places = {flat: place for place, flat in enumerate(order, start=1)}
    for number, new in enumerate(sets):
        mine = new.flat(n_units).tolist()
        ranks = [places[flat] for flat in mine if flat in places]
        begin = number * (n_draws + 1)
        yield Round(
            lesion=tag,
            number=number + 1,
            new=new,
            overlap=len(set(mine) & set(order[k * number : k * (number + 1)])) / k,
            first_rank=float(np.median(ranks)) if ranks else float("nan"),
            rise=rises[begin],
            low=low[number],
            high=high[number],
            controls=rises[begin + 1 : begin + 1 + n_draws],
        )


def _prefix(neurons: NeuronSet, size: int) -> NeuronSet:
    return NeuronSet(neurons.layers[:size], neurons.units[:size])
