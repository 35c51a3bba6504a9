"""Sweeps: lesions of more and more of a ranking's best neurons, and of its best in one layer at a time.

A tag has one large set, of which every lesioned set is a part: the k best of the model (arm "k"), the best of one layer
("layer"), or the best of the model up to a layer ("cumulative"). A matched random set of the large one holds a partner
for each of its neurons, and the partners of a part are the control of that part. So the curves of a tag share their
controls, and a curve and its controls are nested in the same way. This module does not know how neurons were ranked.

What it does not know: points of one curve are not independent, and neither are the tests along it; few controls give
wide tests. The p-values are one-sided and not corrected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons.ablations import parse
from posneurons.activations import BATCH_TOKENS
from posneurons.controls import perturbation_size, planned
from posneurons.digests import corpus_digest, digest, identity
from posneurons.dissociation import against_controls
from posneurons.errors import RunError
from posneurons.files import read_json, write_json
from posneurons.lesion_study import MEASURES, Workbench
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.sweep_plan import Arm, Best, Part, Plan, parts_of
from posneurons.tallies import CHUNK, SHARD_WORDS, Tally, tallied
from posneurons.words import Control, Scope

ROOM = 2
"""Neurons that a layer must leave for controls, for each one that needs a partner there, for other tags' best to be
kept out of them."""


def partners(
    bench: Workbench, wholes: Mapping[str, NeuronSet], ablation: str, plan: Plan, method: str = ""
) -> dict[str, list[NeuronSet]]:
    """Matched random sets of each tag's large set, without its neurons, outliers, and the best of the other tags.

    Of the other tags' sets as much is kept out, from the best on, as leaves every layer room; less than all is noted.

    Args:
        bench: the model and the corpus.
        wholes: each tag's large set.
        ablation: what will be done.
        plan: how many sets, and what they share.
        method: a name for the note.

    Raises:
        NeuronError: where a neuron lies outside the model, or too few are left for a tag's own set.
    """
    for neurons in wholes.values():
        neurons.check(bench.info.n_layers, bench.info.d_mlp)
    if not plan.controls:
        return {tag: [] for tag in wholes}
    flagged = bench.flags.neurons() if bench.flags else NeuronSet.parse([])
    longest = max(map(len, wholes.values()))
    kept = longest
    while kept and not _has_room(bench, wholes, _first(wholes, kept).union(flagged)):
        kept //= 2
    if kept < longest and len(wholes) > 1:
        bench.note(
            f"sweep, {method or 'given'}, {ablation}: random sets leave out a tag's own neurons, but of the other "
            f"tags' up to {longest} the best {kept} only: the layers have no more room"
        )
    size = perturbation_size(bench.model, bench.statistics, ablation) if plan.control == "size" else None
    rng, shape = np.random.default_rng(plan.seed), {"n_layers": bench.info.n_layers, "n_units": bench.info.d_mlp}
    control, exclude = cast("Control", plan.control), _first(wholes, kept)
    return {
        tag: planned(
            {tag: neurons},
            kind=control,
            draws=plan.controls,
            rng=rng,
            size=size,
            exclude=exclude,
            flagged=flagged,
            **shape,
        )[tag]
        for tag, neurons in wholes.items()
    }


def _first(wholes: Mapping[str, NeuronSet], k: int) -> NeuronSet:
    return NeuronSet.parse([]).union(*(NeuronSet(each.layers[:k], each.units[:k]) for each in wholes.values()))


def _has_room(bench: Workbench, wholes: Mapping[str, NeuronSet], taken: NeuronSet) -> bool:
    n_layers, n_units = bench.info.n_layers, bench.info.d_mlp
    return all(
        (n_units - taken.union(own).layer_profile(n_layers) >= ROOM * own.layer_profile(n_layers)).all()
        for own in wholes.values()
    )


class _Row(NamedTuple):
    """A lesioned set with its labels; a key set is followed by its controls."""

    method: str
    lesion: str
    arm: Arm
    k: int
    layer: int
    set: str
    draw: int
    neurons: NeuronSet


def sweep(
    model: Any,
    corpus: Corpus,
    best: Mapping[str, Mapping[str, Best]],
    plan: Plan,
    folder: Path,
    *,
    split: str = "test",
    tokens: int = BATCH_TOKENS,
    chunk: int = CHUNK,
    shard_words: int = SHARD_WORDS,
    progress: bool = False,
    workbench: Workbench | None = None,
) -> pd.DataFrame:
    """Lesion every set of a plan and its controls; the same call goes on where it was stopped.

    Args:
        model: what `load_model` gives.
        corpus: words with a split to measure on, and a split "train" for all that is estimated before.
        best: by method and tag, the best neurons.
        plan: what is lesioned.
        folder: where sums are kept between calls; made where it does not exist.
        split: where losses are measured.
        tokens: size of a batch.
        chunk: conditions of one file.
        shard_words: about how many scored words one file covers.
        progress: show bars.
        workbench: one made before for this model, corpus and split, with the seed of the plan.

    Returns:
        One row per (method, lesion, arm, k, layer, ablation, scope, set, draw, tag): `neurons` of the set, `words`,
        mean losses and their rise `delta` in nats with its standard error `se` over clusters, `delta_word` (all
        tokens), `delta_category`; for keys the mean, SD and range of their controls' deltas, `z_control`, and
        the one-sided p_controls (Crawford and Howell) and p_rank. NaN where undefined. `layer` is -1 in the arm "k".

    Raises:
        RunError: where the plan has no meaning or no set, or `folder` holds another sweep or a damaged file.
        NeuronError: where a neuron lies outside the model, or too few neurons are left for matched sets.
        AlignmentError: where the split is missing or the corpus does not fit the model.
    """
    plan.check()
    bench = workbench or Workbench(model, corpus, split=split, seed=plan.seed, tokens=tokens, progress=progress)
    names = {method: [(tag, each.model.names, each.layers and each.layers.names) for tag, each in tags.items()]
             for method, tags in best.items()}  # fmt: skip
    who = {"model": identity(model), "train": corpus_digest(bench.train), "test": corpus_digest(bench.test)}
    claim(folder, plan, **who, neurons=digest(names))
    how: dict[str, Any] = {"tokens": tokens, "chunk": chunk, "shard_words": shard_words, "progress": progress}
    curves = {method: {tag: parts_of(each, plan) for tag, each in tags.items()} for method, tags in best.items()}
    for method, tags in best.items():
        _note_missing(bench, method, tags, plan)
    if not any(parts for tags in curves.values() for _, parts in tags.values()):
        raise RunError("sweep: no set to lesion: every k is above the number of ranked neurons; choose a smaller --k")
    frames = []
    for ablation in plan.ablations:
        rows = [row for method, tags in curves.items() for row in _rows(bench, method, tags, ablation, plan)]
        distinct = {frozenset(row.neurons.names): row.neurons for row in rows}
        order = sorted(distinct, key=lambda key: (int(distinct[key].layers.min()), sorted(key)))
        number = {key: place for place, key in enumerate(order)}
        sets = [distinct[key] for key in order]
        fills = bench.fills(ablation, NeuronSet.parse([]).union(*sets))
        of_row = np.array([number[frozenset(row.neurons.names)] for row in rows])
        for scope in plan.scopes:
            label = str(parse(ablation))
            found = tallied(bench, folder, sets, fills, label, cast("Scope", scope), cluster=plan.cluster, **how)
            frames.append(_table(rows, of_row, found, bench.test.tags, label, scope))
    return pd.concat(frames, ignore_index=True)


def claim(folder: Path, plan: Plan, **more: str) -> None:
    """Make the folder of a sweep and write what it is a sweep of, unless that stands there already.

    Raises:
        RunError: where the folder holds results of another plan, or of another model, corpus or neurons.
    """
    path = folder / "settings.json"
    wanted: dict[str, Any] = json.loads(json.dumps(asdict(plan) | more))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = read_json(path) if path.exists() else {}
    except OSError as error:
        raise RunError(f"{folder}: cannot be made or written ({error.strerror}); choose another --out") from None
    if not isinstance(before, dict):
        raise RunError(f"{path}: damaged; expected the settings of a sweep; choose another --out")
    other = [name for name, value in wanted.items() if name in before and before[name] != value]
    if other and any(folder.glob("*.parquet")):
        told = "; ".join(
            f"of another {name}"
            if name in more
            else f"with {name}={before[name]!r}, and {wanted[name]!r} was asked for"
            for name in other
        )
        raise RunError(f"{folder}: holds a sweep {told}; repeat its options, or choose another --out")
    if other or not set(wanted) <= set(before):
        write_json(path, wanted if other else before | wanted)


def _note_missing(bench: Workbench, method: str, tags: Mapping[str, Best], plan: Plan) -> None:
    if "k" in plan.arms:
        short = {tag: len(each.model) for tag, each in tags.items() if len(each.model) < max(plan.ks)}
        if short:
            listed = ", ".join(f"{tag} ({n})" for tag, n in short.items())
            bench.note(f"sweep, {method}: larger k were left out for tags with fewer ranked neurons: {listed}")
    if "layer" in plan.arms and any(each.layers is None for each in tags.values()):
        bench.note(f"sweep, {method}: no curve over single layers: a list of neurons does not say the best of each")


def _rows(
    bench: Workbench, method: str, tags: Mapping[str, tuple[NeuronSet, list[Part]]], ablation: str, plan: Plan
) -> list[_Row]:
    wholes = {tag: whole for tag, (whole, parts) in tags.items() if parts}
    if not wholes:
        return []
    random = partners(bench, wholes, ablation, plan, method)
    return [
        _Row(method, tag, part.arm, part.k, part.layer, "matched" if draw else "key", draw, chosen)
        for tag, whole in wholes.items()
        for part in tags[tag][1]
        for draw, each in enumerate([whole, *random[tag]])
        for chosen in [NeuronSet(each.layers[part.places], each.units[part.places])]
    ]


def _table(
    rows: Sequence[_Row], of_row: Int[ndarray, " set"], found: Tally, tags: tuple[str, ...], ablation: str, scope: str
) -> pd.DataFrame:
    """The table of one ablation and scope; rows come as groups of a key set and its controls, all of one size."""
    n_tags, rises = len(tags), found.rises()[:, of_row]
    columns: dict[str, Any] = {
        name: np.repeat(np.array([getattr(row, name) for row in rows]), n_tags) for name in _Row._fields[:-1]
    }
    columns |= {"ablation": ablation, "scope": scope, "tag": np.tile(np.array(tags), len(rows))}
    columns["neurons"] = np.repeat([len(row.neurons) for row in rows], n_tags)
    with np.errstate(invalid="ignore"):
        intact, lesioned = found.intact[0] / found.words, found.lesioned[0, of_row] / found.words
    columns |= {"words": np.tile(found.words, len(rows)), "loss_intact": np.tile(intact, len(rows))}
    columns |= {"loss_lesioned": lesioned.ravel(), "delta": rises[0].ravel()}
    columns["se"] = found.standard_errors()[of_row].ravel()
    for measure in ("word", "category"):
        columns[f"delta_{measure}"] = rises[MEASURES.index(cast("Any", measure))].ravel()
    columns |= _control_columns(rises[0], 1 + max(row.draw for row in rows))
    order = ("method", "lesion", "arm", "k", "layer", "ablation", "scope", "set", "draw", "tag")
    return pd.DataFrame({name: columns[name] for name in dict.fromkeys((*order, *columns))})


def _control_columns(delta: Float[ndarray, "set tag"], group: int) -> dict[str, ndarray]:
    """Columns that hold each key set against the `group` - 1 controls after it; NaN in the rows of controls."""
    groups = delta.reshape(-1, group, delta.shape[1])
    found = against_controls(groups[:, 0], np.moveaxis(groups[:, 1:], 1, 0))
    named = {
        "control_mean": found.mean, "control_sd": found.sd, "control_low": found.low, "control_high": found.high,
        "z_control": found.z, "p_controls": found.p_controls, "p_rank": found.p_rank,
    }  # fmt: skip
    columns = {}
    for name, each in named.items():
        table = np.full(groups.shape, np.nan)
        table[:, 0] = each
        columns[name] = table.ravel()
    return columns
