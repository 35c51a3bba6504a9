"""How many pairs of tags dissociate, by ranking and by ablation, and how many where there is nothing to find?

Command:  posneurons run --treebank EWT_DIR --out RUN --method correlation --method attribution:contrast=no
          --method attribution --ablation mean --ablation zero --ablation resample:draws=3 --controls 10
          --lesion-words 4000 --min-words 1000 --probe-at predict --keep-losses
          python experiments/dissociations.py RUN [--shuffled 2]
Cost:     the run half an hour on two cores; this a minute, and some minutes for each shuffled ranking.
Outcome:  see experiments/LOG.md.

Reads the losses of every word that the run kept. For "random sets" each draw of the matched random sets takes the
place of the key neurons in turn, with the other draws as its controls; for "shuffled tags" attribution ranks the
training words with their tags permuted, and what it finds is lesioned like key neurons (mean ablation). p-values are
corrected within each row of the table; the run's own files correct over all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from false_positive_rate import Study, rates, table
from tables import markdown

import posneurons as pn
from posneurons import significance
from posneurons.lesion_results import LesionResult, Losses
from posneurons.lesion_study import FEW_DOCUMENTS, Workbench
from posneurons.neurons import NeuronSet


def read_result(path: Path, lesions: pd.DataFrame, config: dict) -> LesionResult:
    """The result behind a file of losses; the sets themselves are not in it and are left empty."""
    losses = pd.read_parquet(path)
    intact = losses[losses["set"] == "intact"].sort_values("word")
    order = losses[losses["set"] != "intact"].drop_duplicates(["lesion", "set", "draw"])
    keys = list(order[["lesion", "set", "draw"]].itertuples(index=False, name=None))
    tags = tuple(dict.fromkeys(lesions["tag"]))
    many = intact["document"].nunique() >= FEW_DOCUMENTS
    unit = {"auto": "document" if many else "sentence"}.get(config["cluster"], config["cluster"])
    grouped = {key: rows.sort_values("word") for key, rows in losses.groupby(["lesion", "set", "draw"], observed=True)}

    def of(measure: str) -> Losses:
        return Losses(intact[measure].to_numpy(), np.stack([grouped[key][measure].to_numpy() for key in keys]))

    first = of("loss_first")
    return LesionResult(
        method=lesions["method"].iloc[0],
        ablation=lesions["ablation"].iloc[0],
        scope=lesions["scope"].iloc[0],
        tags=tags,
        word_tag=intact["tag"].map({tag: k for k, tag in enumerate(tags)}).to_numpy(np.int64),
        word_cluster=np.unique(intact[unit], return_inverse=True)[1],
        word_type=np.unique(intact["form"].str.casefold(), return_inverse=True)[1],
        lesion=tuple(key[0] for key in keys),
        kind=tuple(key[1] for key in keys),
        draw=np.array([key[2] for key in keys]),
        neurons=tuple(NeuronSet.parse([]) for _ in keys),
        loss_intact=first.intact,
        losses=first.lesioned,
        draws=config["draws"],
        seed=config["seed"],
        margin=config["margin"],
        correction=config["correction"],
        more={"category": of("loss_category")},
    )


def with_random_keys(result: LesionResult) -> Iterator[LesionResult]:
    """Each draw of the matched random sets in the place of the key sets, with the other draws as its controls."""
    kind = np.array(result.kind)
    for draw in range(1, int(result.draw[kind == "matched"].max()) + 1):
        chosen = np.flatnonzero(kind == "matched")
        numbers = np.where(result.draw[chosen] == draw, 0, result.draw[chosen])
        yield replace(
            result,
            lesion=tuple(result.lesion[i] for i in chosen),
            kind=tuple("key" if number == 0 else "matched" for number in numbers),
            draw=numbers,
            neurons=tuple(result.neurons[i] for i in chosen),
            losses=result.losses[chosen],
            more={name: Losses(each.intact, each.lesioned[chosen]) for name, each in result.more.items()},
        )


def counts(result: LesionResult) -> dict[str, float]:
    """Verdicts of a result, in numbers."""
    summary, inner, frame = result.summary(), result.summary(category=True), result.to_frame()
    own = frame[(frame["set"] == "key") & (frame["lesion"] == frame["tag"])]
    sure = own[(own["q_value"] <= 0.05) & (own["delta"] > 0)]
    return {
        "tags": len(own),
        "own": len(sure),
        "share": float((sure["delta_category"] / sure["delta"]).median()),
        "pairs": summary.pairs,
        "classical": summary.classical,
        "strong": summary.strong,
        "one-way": summary.one_way,
        "category": inner.classical + inner.strong,
        "difference": summary.difference,
        "p": summary.p_value,
    }


def row(name: str, ablation: str, found: Sequence[dict[str, float]]) -> list[object]:
    mean = pd.DataFrame(found).mean()
    digits = ".0f" if len(found) == 1 else ".1f"
    numbers = [f"{mean[each]:{digits}}" for each in ("classical", "strong", "one-way", "category")]
    share = "" if np.isnan(mean["share"]) else f"{100 * mean['share']:.0f} %"
    own = f"{mean['own']:{digits}} of {mean['tags']:.0f}"
    return [
        name,
        ablation,
        own,
        share,
        *numbers,
        f"{mean['pairs']:.0f}",
        f"{mean['difference']:+.3f}",
        f"{mean['p']:.2g}",
    ]


def study(result: LesionResult) -> Study:
    """A result as the tables that `false_positive_rate.rates` takes, for the tags that have sets."""
    kind, names = np.array(result.kind), list(dict.fromkeys(result.lesion))
    columns = [result.tags.index(name) for name in names]
    rise = result.losses.astype(np.float64) - result.loss_intact
    sums = significance.cluster_sums(rise, result.word_tag, result.word_cluster, len(result.tags))[:, :, columns]
    words = significance.cluster_sums(
        np.ones((1, len(result.word_tag))), result.word_tag, result.word_cluster, len(result.tags)
    )[:, 0, columns]
    means = sums.sum(0) / words.sum(0)
    order = {
        (lesion, k, int(d)): n for n, (lesion, k, d) in enumerate(zip(result.lesion, kind, result.draw, strict=True))
    }
    draws = sorted({int(d) for d in result.draw[kind == "matched"]})
    keys = [order[name, "key", 0] for name in names]
    return Study(sums[:, keys], words, np.stack([[means[order[name, "matched", d]] for name in names] for d in draws]))


def agreement(results: dict[tuple[str, str], LesionResult], method: str) -> str:
    """Own rise of each tag under each ablation, with a mark where q <= 0.05."""
    ablations = [ablation for name, ablation in results if name == method]
    rows: dict[str, list[object]] = {}
    signs: dict[str, list[tuple[bool, bool]]] = {}
    for ablation in ablations:
        frame = results[method, ablation].to_frame()
        own = frame[(frame["set"] == "key") & (frame["lesion"] == frame["tag"])]
        for cell in own.to_dict("records"):
            sure = cell["q_value"] <= 0.05
            rows.setdefault(cell["tag"], [cell["tag"], cell["words"]]).append(
                f"{cell['delta']:+.3f} ({cell['ci_low']:+.3f} to {cell['ci_high']:+.3f}){' *' if sure else ''}"
            )
            signs.setdefault(cell["tag"], []).append((cell["delta"] > 0, sure))
    for tag, found in signs.items():
        same_sign = len({up for up, _ in found}) == 1
        rows[tag].append("yes" if same_sign and all(sure for _, sure in found) else "sign only" if same_sign else "no")
    text = markdown(pd.DataFrame(list(rows.values()), columns=["tag", "words", *ablations, "agree"]))
    matrices = [results[method, each].matrix().to_numpy().ravel() for each in ablations]
    together = np.corrcoef([each[~np.isnan(matrices).any(0)] for each in matrices])
    pairs = [
        f"{a} and {b} {together[i, j]:.2f}" for i, a in enumerate(ablations) for j, b in enumerate(ablations) if i < j
    ]
    return f"### Zero, mean, resample: {method}\n\n{text}\n\nCorrelation of the whole matrices: {', '.join(pairs)}.\n\n"


def shuffled(manifest: dict, seeds: Sequence[int], controls: int, words: int) -> Iterator[LesionResult]:
    """Attribution on permuted tags, lesioned (mean ablation)."""
    config = manifest["config"]
    model = pn.load_model(config["model"], dtype=config["dtype"])
    corpus = pn.align(pn.load_treebank(config["treebank"]), model.tokenizer, n_ctx=model.cfg.n_ctx)
    bench = Workbench(model, corpus, words=words or None, seed=config["seed"])
    for seed in seeds:
        ranking = pn.rank(model, corpus.shuffled(seed), "attribution")
        words_of = dict(zip(ranking.tags, ranking.count, strict=True))
        keys = {t: found for t, found in ranking.top(config["top"]).items() if words_of[t] >= config["min_words"]}
        yield pn.lesion(model, corpus, keys, controls=controls, workbench=bench, method=f"shuffled {seed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory made with --keep-losses")
    parser.add_argument("--shuffled", type=int, default=0, help="rankings on shuffled tags to lesion as well")
    asked = parser.parse_args()
    manifest = json.loads((asked.run / "manifest.json").read_text())
    lesions = pd.read_parquet(asked.run / "lesions.parquet")
    results: dict[tuple[str, str], LesionResult] = {}
    rows: list[list[object]] = []
    random: list[LesionResult] = []
    for (method, ablation), part in lesions.groupby(["method", "ablation"], sort=False):
        name = "".join(letter if letter.isalnum() or letter in "_.=" else "-" for letter in f"{method}-{ablation}")
        result = read_result(asked.run / "losses" / f"{name}.parquet", part, manifest["config"])
        results[method, ablation] = result
        rows.append(row(method, ablation, [counts(result)]))
        swapped = list(with_random_keys(result))
        random += swapped
        rows.append(row(f"random sets like those of {method}", ablation, [counts(each) for each in swapped]))
    config = manifest["config"]
    nulls = list(shuffled(manifest, range(asked.shuffled), config["controls"], config["lesion_words"]))
    rows += [row("attribution on shuffled tags", "mean", [counts(each) for each in nulls])] if nulls else []
    header = ["neurons", "ablation", "own tag (q <= .05)", "category part", "classical", "strong", "one-way",
              "on the category part", "pairs", "diagonal less rest", "p"]  # fmt: skip
    sys.stdout.write(f"{len(result.word_tag)} words\n\n" + markdown(pd.DataFrame(rows, columns=header)) + "\n\n")
    for method in dict.fromkeys(name for name, _ in results):
        sys.stdout.write(agreement(results, method))
    rng = np.random.default_rng(0)
    for name, found in (("random sets", random), ("shuffled tags", nulls)):
        if found:
            studies = (study(each) for each in found)
            sys.stdout.write(
                f"### Rates, {name} ({len(found)} studies)\n\n{table(list(rates(studies, draws=10_000, rng=rng)))}\n\n"
            )


if __name__ == "__main__":
    main()
