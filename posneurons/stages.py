"""The stages of a run: each computes one part of the study and writes its files, whole, into the run directory.

What a stage needs of the others it asks of the study (its model, words, rankings and key neurons); which stage follows
which is the study's matter, and how anything is computed that of the modules called here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from posneurons import similarity
from posneurons.errors import RunError
from posneurons.files import write_json, write_whole
from posneurons.fluency import fluency
from posneurons.lesion_study import Workbench, rivals
from posneurons.lesion_study import lesion as lesion_study
from posneurons.neuron_lists import given_frame
from posneurons.neuron_pages import FILE, Reason, write_pages
from posneurons.neurons import NeuronSet
from posneurons.overlap import overlaps
from posneurons.portraits import make_pages
from posneurons.probes import fit_probe
from posneurons.records import Ranking
from posneurons.run_files import RANKING, read_table
from posneurons.verdicts import correct, judge
from posneurons.verification import verify as verify_rankings
from posneurons.words import BEST, Control, Correction, Per, Scope

if TYPE_CHECKING:
    from posneurons.study import Study

KEPT = 1000
"""Neurons of each (tag, method, position) that ranking.parquet keeps."""


def rank(study: Study) -> None:
    """Rank the neurons, or take the user's list; `ranking.parquet`, `neurons.json`, `overlap.parquet`.

    Where neurons are ranked also `similarity.parquet`.
    """
    _check_fluency(study)
    config, out = study.config, study.out
    if config.neurons is not None:
        keys = study.keys
        frame = given_frame(keys, study.at)
        (out / "similarity.parquet").unlink(missing_ok=True)  # of a run that was stopped before it had finished a stage
    else:
        rankings = study.rankings
        study.manifest.notes |= {name(study, each): dict(each.notes) for each in rankings if each.notes}
        keys = {name(study, each): _top(study, each) for each in rankings}
        last = config.top if config.per == "model" else 0
        frames = [ranking.to_frame(KEPT, last=last, also=_best(rankings, ranking.at)) for ranking in rankings]
        frame = pd.concat(frames, ignore_index=True)
        _write_frame(out / "similarity.parquet", _activation_profiles(study))
    here = {method: sets for method, sets in keys.items() if "@" not in method}
    _write_frame(out / "ranking.parquet", frame)
    _write_frame(out / "overlap.parquet", _overlap(here, study.manifest.model))
    names = {method: {tag: list(found.names) for tag, found in sets.items()} for method, sets in keys.items()}
    write_json(out / "neurons.json", names)


def name(study: Study, ranking: Ranking) -> str:
    """What a ranking is called in the files of a run: at another position than the run's own, `method@position`."""
    return ranking.method if ranking.at == study.at else f"{ranking.method}@{ranking.at}"


def _check_fluency(study: Study) -> None:
    """Warn where the model does not know the language of the treebank."""
    if not len(study.corpus.split("test").readable("predict")):
        return  # there is no word that the model could predict
    found = fluency(study.model, study.corpus, seed=study.config.seed, **study.how)
    study.manifest.notes["fluency"] = asdict(found) | {"knows": found.knows}
    if not found.knows:
        study.warn(
            f"the model does not know this text: its words cost {found.model:.2f} nats per character, and "
            f"{found.unigram:.2f} by the frequency of their tokens in train alone (unigram); neurons ranked on it "
            "say nothing about its language"
        )


def _top(study: Study, ranking: Ranking) -> dict[str, NeuronSet]:
    """Key neurons of the tags with enough words; the others are named in a warning."""
    config, words = study.config, dict(zip(ranking.tags, ranking.count.tolist(), strict=True))
    few = [f"{tag} ({n})" for tag, n in words.items() if n < config.min_words]
    if few:
        number = f"fewer than {config.min_words}" if config.min_words > 1 else "no"
        study.warn(f"{number} training words at {ranking.at!r}, so no key neurons: {', '.join(few)}")
    found = ranking.top(config.top, per=cast("Per", config.per), fewer=True)
    enough = {tag: keys for tag, keys in found.items() if words[tag] >= config.min_words}
    if not enough:
        raise RunError(
            f"{config.treebank}: no tag has {config.min_words} training words and a score by "
            f"{ranking.method}; give a larger treebank, a smaller --min-words or another --method"
        )
    wanted = config.top * (ranking.scores.shape[1] if config.per == "layer" else 1)
    short = [f"{tag} ({len(keys)})" for tag, keys in enough.items() if len(keys) < wanted]
    if short:
        study.warn(f"{name(study, ranking)} scores fewer than {wanted} neurons for {', '.join(short)}")
    return enough


def _best(rankings: list[Ranking], at: str) -> dict[str, NeuronSet]:
    """By tag, the `BEST` neurons of every ranking at one position, together."""
    found: dict[str, NeuronSet] = {}
    for ranking in rankings:
        if ranking.at == at:
            for tag, best in ranking.top(BEST, fewer=True).items():
                found[tag] = found[tag].union(best) if tag in found else best
    return found


def _overlap(keys: Mapping[str, Mapping[str, NeuronSet]], model: Mapping[str, Any]) -> pd.DataFrame:
    """Pairs of tags by one method, and of one tag by two: what their sets share, beside what random sets would."""
    size = model["n_layers"], model["d_mlp"]
    frames = [
        overlaps(sets, *size).assign(method_a=method, method_b=method) for method, sets in keys.items() if len(sets) > 1
    ]
    for a, b in combinations(keys, 2):
        for tag in [tag for tag in keys[a] if tag in keys[b]]:
            pair = overlaps({a: keys[a][tag], b: keys[b][tag]}, *size)
            frames.append(pair.assign(tag_a=tag, tag_b=tag, method_a=a, method_b=b))
    first = ["method_a", "tag_a", "method_b", "tag_b"]
    if not frames:
        return overlaps({}, *size).assign(method_a=None, method_b=None)
    frame = pd.concat(frames, ignore_index=True)
    return frame[[*first, *(column for column in frame if column not in first)]]


def _activation_profiles(study: Study) -> pd.DataFrame:
    """How unlike the tags' mean activations are, in the columns of similarity.parquet."""
    found = similarity.activation_profiles(study.evidence.moments[study.at])
    return _pairs(found, source="activation", method="", ablation="", scope="")


def _pairs(found: similarity.Dissimilarity, **names: str) -> pd.DataFrame:
    """A row for each ordered pair of tags, with the names of what was measured before it."""
    tags = np.array(found.tags, dtype=object)
    columns = {"tag_a": np.repeat(tags, len(tags)), "tag_b": np.tile(tags, len(tags))}
    return pd.DataFrame({**names, **columns, "dissimilarity": found.values.ravel()})


def probe(study: Study) -> None:
    """Probe the key neurons at every position; `probe.json`."""
    config = study.config
    results = [
        fit_probe(study.model, study.corpus, keys, at=at, method=method, seed=config.seed, **study.how)
        for at in study.probe_at
        for method, keys in study.keys_at(at).items()
    ]
    write_json(study.out / "probe.json", {"results": [result.to_dict() for result in results]})


def lesion(study: Study) -> None:
    """Lesion the key neurons beside their rivals; `lesions.parquet`, `dissociations.parquet`.

    Also `lesion_similarity.parquet`, and with `keep_losses` a file in `losses/` for each method and ablation.
    """
    for stopped in (study.out / "losses").glob("*.parquet"):
        stopped.unlink()
    config, frames, pairs, profiles = study.config, [], [], []
    bench = Workbench(study.model, study.corpus, words=config.lesion_words or None, seed=config.seed, **study.how)
    correction, scope = cast("Correction", config.correction), cast("Scope", config.scope)
    for ablation in config.ablations:
        for method, keys in study.keys_at(study.at).items():
            bottoms = _bottoms(study, method, keys) if "bottom" in config.beside else {}
            beside = rivals(bench, keys, config.beside, ablation, scope, config.controls, bottoms)
            result = lesion_study(
                study.model,
                study.corpus,
                keys,
                ablation=ablation,
                scope=scope,
                controls=config.controls,
                control=cast("Control", config.control),
                beside=beside,
                seed=config.seed,
                method=method,
                draws=config.draws,
                cluster=config.cluster,
                margin=config.margin,
                correction=correction,
                workbench=bench,
                losses=_losses_file(study.out, method, ablation) if config.keep_losses else None,
            )
            frames.append(result.to_frame())
            pairs += [result.dissociations(), result.dissociations(category=True)]
            found = similarity.lesion_profiles(result.matrix(), own=False)
            profiles.append(_pairs(found, source="lesion", method=method, ablation=ablation, scope=scope))
    study.manifest.notes["lesions"] = {"clusters": bench.clusters(config.cluster)[0]}
    for note in bench.notes:
        study.warn(note)
    _write_frame(study.out / "lesions.parquet", correct(pd.concat(frames, ignore_index=True), correction))
    _write_frame(study.out / "dissociations.parquet", judge(pd.concat(pairs, ignore_index=True), correction))
    _write_frame(study.out / "lesion_similarity.parquet", pd.concat(profiles, ignore_index=True))


def _losses_file(out: Path, method: str, ablation: str) -> Path:
    plain = "".join(letter if letter.isalnum() or letter in "_.=" else "-" for letter in f"{method}-{ablation}")
    return out / "losses" / f"{plain}.parquet"


def _bottoms(study: Study, method: str, keys: dict[str, NeuronSet]) -> dict[str, NeuronSet]:
    """As many neurons as each tag's set has, from the end of the ranking, the last first; none of a given list."""
    config, ranking = study.config, read_table(study.out / "ranking.parquet", RANKING)
    ranking = ranking[(ranking["method"] == method) & (ranking["at"] == study.at)]
    found = {}
    for tag, neurons in keys.items():
        rows = ranking[ranking["tag"] == tag].sort_values("rank", ascending=False)
        if config.neurons is None and config.per == "model" and len(rows) >= 2 * len(neurons):
            last = rows[: len(neurons)]
            found[tag] = NeuronSet(last["layer"].to_numpy(np.int64), last["neuron"].to_numpy(np.int64))
    return found


def pages(study: Study) -> None:
    """A page for the best neurons of each tag by each method; `neuron_pages.json`."""
    config = study.config
    rankings = [] if config.neurons is not None else [study.ranking(each, study.at) for each in config.methods]
    reasons = _reasons(study, rankings)
    found = make_pages(
        study.model,
        study.corpus,
        NeuronSet.parse(reasons),
        rankings=rankings,
        reasons=reasons,
        at=study.at,
        ablation=config.ablations[0],
        scope=cast("Scope", config.scope),
        effect_words=config.lesion_words or None,
        seed=config.seed,
        **study.how,
    )
    write_pages(study.out / FILE, found)


def _reasons(study: Study, rankings: Sequence[Ranking]) -> dict[str, list[Reason]]:
    """By neuron, why it has a page: its ranks among the first of the tags that have key neurons, or of a given list."""
    n, found = study.config.pages, dict[str, list[Reason]]()
    best = {ranking.method: ranking.top(n, fewer=True) for ranking in rankings if n}
    for method, sets in study.keys_at(study.at).items():
        for tag, keys in sets.items():
            names = best[method][tag].names if method in best else keys.names
            for rank, each in enumerate(names[:n], start=1):
                found.setdefault(each, []).append(Reason(method, tag, rank))
    return found


def verify(study: Study) -> None:
    """Hold every method against exact ablation; `verify.json`."""
    config, splits = study.config, study.corpus.split_names
    found = verify_rankings(
        study.model,
        study.corpus.split("dev" if "dev" in splits else "test"),
        config.methods,
        fill=cast("Any", config.ablations[0]),
        scope=cast("Scope", config.scope),
        listed=config.listed,
        random=config.random,
        words=config.words,
        seed=config.seed,
        **study.how,
    )
    write_json(study.out / "verify.json", {"dtype": study.manifest.model["dtype"], **found.to_dict()})


def _write_frame(path: Path, frame: pd.DataFrame) -> None:
    write_whole(path, lambda part: frame.to_parquet(part, index=False))


STAGES: dict[str, Callable[[Study], None]] = {
    "rank": rank,
    "probe": probe,
    "lesion": lesion,
    "pages": pages,
    "verify": verify,
}
"""What computes something, by the stage's name; the page is built from what they write."""
