"""What a run found, in sentences: worded from the tables of its files, claiming no more than their tests say.

Chosen, counted and put in order here are rows that were tested elsewhere; the only numbers that are new are counts,
medians over tags, and how many tags chance would give.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from posneurons.figures import BASELINES, with_controls
from posneurons.theme import number
from posneurons.words import ALPHA

FEW_WORDS = 50
"""Fewer words of a tag than this say little about one neuron's effect on it."""


def sentences(
    lesions: pd.DataFrame | None,
    dissociations: pd.DataFrame | None,
    probe: Sequence[Mapping[str, Any]],
    verify: Mapping[str, Any] | None,
) -> list[str]:
    """What a run found: a sentence or two for each method and test, claiming no more than the tests say.

    Args:
        lesions: as in lesions.parquet; None where it was not made, as with the others.
        dissociations: as in dissociations.parquet.
        probe: results as in probe.json.
        verify: content of verify.json.
    """
    found = [_lesion_finding(f"{method} neurons", rows) for (method, _), rows in groups(lesions, "method scope")]
    found += [_pair_finding(method, rows) for (method, _), rows in groups(dissociations, "method scope")]
    for result in probe:
        rivals = [
            f"{_percent(result['baselines'][name].get('accuracy'))} ({BASELINES[name]})"
            for name in ("random_neurons", "most_frequent_tag", "majority")
            if name in result["baselines"]
        ]
        found.append(
            f"A linear probe on the {result['method']} neurons, read at “{result['at']}”, names the tag of"
            f" {_percent(result.get('accuracy'))} of {result['test_words']:,} test words, against"
            f" {', '.join(rivals) or 'no baseline'}; no interval was computed for these."
        )
    return [*found, *_agreements(verify)]


def _agreements(verify: Mapping[str, Any] | None) -> Iterator[str]:
    """How well each ranking agrees with exact ablation: medians over the tags."""
    if verify is None:
        return
    frame = pd.DataFrame(verify["agreement"])
    for (estimate, exact), rows in groups(frame[frame["words"] >= FEW_WORDS], "estimate exact"):
        middle = rows[["pearson", "spearman", "recall", "missed"]].astype(float).median()
        about = "the rise of the tag’s loss" if exact == "effect" else "the rise on the tag less that on the rest"
        linear = f"correlation {middle['pearson']:.3f}, " if pd.notna(middle["pearson"]) else ""
        yield (
            f"{estimate} against exact {verify['ablation']} ablation ({verify['scope']} scope) of"
            f" {verify['measured']:,} single neurons, {about};"
            f" medians over {len(rows)} tags with at least {FEW_WORDS} words: {linear}rank correlation"
            f" {middle['spearman']:.3f}, top {verify['top']} of the measured within the listed {verify['listed']}"
            f" {middle['recall']:.2f}, unlisted neurons as good as the last of the top at most {middle['missed']:.1%}."
        )


def _lesion_finding(whose: str, lesions: pd.DataFrame) -> str:
    """For how many tags the own lesion exceeds every control, and with q <= 0.05; its largest and its category part."""
    draws = lesions.loc[lesions["set"] == "matched", "draw"].max()
    if not draws > 0:
        return f"The {whose} were lesioned without matched controls, so nothing is claimed about the lesions."
    counts, shown, parts, largest = [], [], [], ""
    tests = {"p_controls": "over random neurons (do the controls do it?)", "p_others": "over the other tags’ neurons"}
    made = ["over words (is the rise zero?)", *(each for name, each in tests.items() if lesions[name].notna().any())]
    grounds = made[0] if len(made) == 1 else ", ".join(made[:-1]) + " and " + made[-1]
    for ablation in lesions["ablation"].unique():
        own = own_effects(with_controls(lesions, ablation))
        tested = own[(own["controls"] > 0) & own["delta"].notna()]
        above = tested[(tested["delta"] > tested["control_high"]) & (tested["delta"] > 0)]
        chance = (1 / (tested["controls"] + 1)).sum()
        counts.append(f"{len(above)} of {len(tested)} tags under {ablation} ablation (by chance: about {chance:.1f})")
        higher = (tested["delta"] > 0) & (tested["z_control"] > 0) & tested["p_controls"].notna()
        sure = tested[higher & (tested["q_value"] <= ALPHA)]
        shown.append(f"{len(sure)} ({ablation})")
        shares = (100 * sure["delta_category"] / sure["delta"]).dropna()
        if len(shares):
            share = number(shares.median(), ".0f")
            parts.append(f"{share} % of that rise under {ablation} ablation (median over {len(shares)} tags)")
        for cell in above.head(0 if largest else 1).to_dict("records"):
            names = ("delta", "ci_low", "ci_high", "control_low", "control_high")
            largest = (
                " The largest of these effects under {} ablation is that on {}: {} nats per word"
                " (95 % interval {} to {}; controls {} to {})."
            ).format(ablation, cell["tag"], *(number(cell[name]) for name in names))
    return (
        f"Lesioning a tag’s own {whose} raises that tag’s loss more than every one of its {draws} matched control"
        f" lesions does, for {' and '.join(counts)}. Tested {grounds}, and"
        f" corrected for all cells, the rise is there (q ≤ {ALPHA}) for"
        f" {' and '.join(shown)}.{largest}"
        + (f" The category part of the loss holds {' and '.join(parts)}." if parts else "")
    )


def _pair_finding(method: str, rows: pd.DataFrame) -> str:
    """How many pairs of tags dissociate both ways, on what grounds, and how many of them classically."""
    whole = rows[rows["measure"] == "first"]
    counts, classical = [], []
    for (ablation,), part in groups(whole, "ablation"):
        verdicts = unordered_pairs(part)["verdict"]
        both = verdicts.isin(["classical", "strong"]).sum()
        counts.append(f"{both} of {len(verdicts)} pairs of tags ({ablation} ablation)")
        classical.append(f"{(verdicts == 'classical').sum()} ({ablation})")
    over_sets = whole["p_sets"].notna()
    grounds = "over words and over sets of neurons"
    if not over_sets.all():
        grounds = (
            "over words, and over sets of neurons where those can be compared"
            if over_sets.any()
            else ("over words only (without controls and with few tags, sets of neurons cannot be compared)")
        )
    text = (
        f"With the {method} neurons, {' and '.join(counts)} dissociate both ways: each of the two tags suffers more"
        f" under the lesion of its own neurons than under the lesion of the other’s, tested {grounds}"
        f" (q ≤ {ALPHA}). Classical, with the other tag shown to suffer neither more nor less than from matched"
        f" controls (within {whole['margin'].max():g} nats per word): {' and '.join(classical)}."
    )
    inner = [
        f"{unordered_pairs(part)['verdict'].isin(['classical', 'strong']).sum()} ({ablation})"
        for (ablation,), part in groups(rows[rows["measure"] == "category"], "ablation")
    ]
    return text + (f" On the category part of the loss alone: {' and '.join(inner)}." if inner else "")


def own_effects(cells: pd.DataFrame) -> pd.DataFrame:
    """Each tag's own neurons lesioned and that tag measured, the largest effect first."""
    return cells[cells["lesion"] == cells["tag"]].sort_values("delta", ascending=False, kind="stable")


def unordered_pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each unordered pair of tags; largest smaller contrast first."""
    names = ["\t".join(sorted(pair)) for pair in zip(rows["tag_a"], rows["tag_b"], strict=True)]
    pairs = rows.assign(pair=names, smaller=rows[["contrast_a", "contrast_b"]].min(axis=1)).drop_duplicates("pair")
    return pairs.sort_values("smaller", ascending=False, kind="stable")


def groups(frame: pd.DataFrame | None, columns: str) -> Iterable[tuple[Any, pd.DataFrame]]:
    """The rows of each combination of values, in order of appearance; nothing where there is no frame."""
    return () if frame is None else frame.groupby(columns.split(), sort=False)


def _percent(share: float | None) -> str:
    return number(None if share is None else 100 * share, ".1f") + " %"
