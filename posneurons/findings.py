"""What a run found, in sentences: worded from the tables of its files, claiming no more than their tests say.

Chosen, counted and put in order here are rows that were tested elsewhere; the only numbers that are new are counts,
medians over tags, and how many tags chance would give. `lead` is what a reader sees first: three sentences about one
ranking and one ablation, which are chosen by their names and never by their results; `sentences` say all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from posneurons.run_rows import BASELINES, done, groups, own_effects, unordered_pairs, with_controls
from posneurons.theme import number
from posneurons.words import ALPHA

FEW_WORDS = 50
"""Fewer words of a tag than this say little about one neuron's effect on it."""

UNTESTED_PAIRS = (
    "the pairs of tags were not tested against other sets of neurons (that needs at least 2 random sets for each tag,"
    " or five tags), so nothing is claimed about them."
)

Rows = pd.DataFrame
Results = Sequence[Mapping[str, Any]]


class Judged(NamedTuple):
    """Each tag's own lesion under one ablation: those held against controls, and what is said of them.

    Attributes:
        tested: rows with controls and words, the largest rise first.
        above: those that rise more than under every control.
        sure: those whose rise stands every test that was made, corrected for all cells.
        chance: how many would be above if key neurons were as random ones.
        untested: why no rise was tested against random lesions; "" where one was. Then no claim rests on tests.
    """

    tested: Rows
    above: Rows
    sure: Rows
    chance: float
    untested: str = ""


def lead(lesions: Rows | None, dissociations: Rows | None, probe: Results) -> list[str]:
    """At most three sentences: what the lesions, the pairs of tags and the probe show.

    Of several rankings they are about the first whose name begins with "attribution" (what the model uses), or else
    about the first; of several ablations and scopes about the first. What was not done has no sentence.

    Args:
        lesions: as in lesions.parquet; None where it was not made, as with the others.
        dissociations: as in dissociations.parquet.
        probe: results as in probe.json.
    """
    found = []
    names = [] if lesions is None else list(lesions["method"].unique())
    names += [result["method"] for result in probe]
    if not names:
        return []
    method = preferred(names)
    if lesions is not None and (lesions["method"] == method).any():
        found.append(_lesion_lead(method, lesions))
    if dissociations is not None and (dissociations["method"] == method).any():
        found.append(_pair_lead(dissociations[dissociations["method"] == method]))
    results = [result for result in probe if result["method"] == method]
    return [*found, *([_probe_lead(method, results)] if results else [])]


def preferred(methods: Sequence[str]) -> str:
    """The first whose name begins with "attribution", or else the first.

    >>> preferred(["correlation", "attribution(scope=local)"])
    'attribution(scope=local)'
    """
    return next((name for name in methods if name.startswith("attribution")), methods[0])


def _lesion_lead(method: str, lesions: Rows) -> str:
    rows = lesions[lesions["method"] == method]
    scope, ablation = rows["scope"].iloc[0], rows["ablation"].iloc[0]
    here, where = rows[rows["scope"] == scope], done(ablation, scope)
    draws = here.loc[here["set"] == "matched", "draw"].max()
    if not draws > 0:
        return (
            f"The {method} neurons of each tag were lesioned ({where}) without matched random lesions beside them, so"
            " nothing is claimed about what they do."
        )
    judged = _judged(here, ablation)
    tests = int(lesions.loc[lesions["set"] == "key", "q_value"].notna().sum())
    told = (
        f"When a tag’s {method} neurons are lesioned ({where}), that tag’s loss rises more than in every one of {draws}"
        f" matched random lesions for {len(judged.above)} of {len(judged.tested)} tags (by chance: about"
        f" {judged.chance:.1f})"
    )
    if judged.untested:
        return f"{told}; {judged.untested}, so that nothing more is claimed."
    plain = re.sub(r" \([^)]*\)", "", _grounds(here))
    grounds = f"tested {plain}; q ≤ {ALPHA}, corrected for {tests:,} tests"
    if judged.sure.empty:
        return f"{told}; for none does the rise pass every test ({grounds})."
    cell = judged.sure.iloc[0]
    names = ("delta", "ci_low", "ci_high", "control_low", "control_high")
    return (
        "{}; for {} the rise passes every test ({}), the largest for {}: {} nats per word (95 % interval {} to {};"
        " random lesions {} to {})."
    ).format(told, len(judged.sure), grounds, cell["tag"], *(number(cell[name]) for name in names))


def _pair_lead(rows: Rows) -> str:
    first = rows[(rows["measure"] == "first") & (rows["scope"] == rows["scope"].iloc[0])]
    if first.empty:
        return UNTESTED_PAIRS.capitalize()
    first = first[first["ablation"] == first["ablation"].iloc[0]]
    every, pairs = unordered_pairs(first), _tested_pairs(first)
    if pairs.empty:
        return UNTESTED_PAIRS.capitalize()
    both = pairs[pairs["verdict"].isin(["classical", "strong"])]
    whose = f"{len(pairs)} pairs of tags" + _of_all(len(pairs), len(every))
    grounds = f"tested over words and over sets of neurons; q ≤ {ALPHA}, corrected for all pairs"
    if both.empty:
        return f"None of the {whose} is shown to dissociate both ways ({grounds})."
    best, unharmed = both.iloc[0], ""
    if pairs["equivalence_p"].notna().any():
        unharmed = (
            f", {(both['verdict'] == 'classical').sum()} of them with the other tag shown to be unharmed (within"
            f" {first['margin'].max():g} nats of random lesions)"
        )
    return (
        f"Of {whose}, {len(both)} {'dissociates' if len(both) == 1 else 'dissociate'} both ways, each tag suffering"
        f" more from the lesion of its own neurons than from that of the other’s ({grounds}){unharmed}; the clearest"
        f" pair is {best['tag_a']} and {best['tag_b']}, by {number(best['contrast_a'])} and"
        f" {number(best['contrast_b'])} nats per word (q = {number(best['q_value'], '.2g')})."
    )


def _tested_pairs(rows: Rows) -> Rows:
    """One row for each pair of tags that was tested over sets of neurons, and not over words alone."""
    pairs = unordered_pairs(rows)
    return pairs[pairs["p_sets"].notna()]


def _of_all(tested: int, every: int) -> str:
    return "" if tested == every else f" that could be tested (of {every})"


def _probe_lead(method: str, results: Results) -> str:
    def scores(name: str | None) -> str:
        found = [result if name is None else result["baselines"].get(name, {}) for result in results]
        return " and ".join(_percent(each.get("accuracy")) for each in found)

    places = " and ".join(f"“{result['at']}”" for result in results)
    words = " and ".join(f"{size:,}" for size in dict.fromkeys(result["test_words"] for result in results))
    before = ", which is not known before it," if any(result["at"] == "predict" for result in results) else ""
    rivals = {
        "random_neurons": "as many random neurons reach {}",
        "most_frequent_tag": f"the most frequent tag of each word{before} {{}}",
        "majority": "the most frequent tag of all {}",
    }
    known = [form.format(scores(name)) for name, form in rivals.items() if name in results[0]["baselines"]]
    return (
        f"A probe on the {method} neurons of all tags together, read at {places}, names the tags of {scores(None)} of"
        f" {words} test words ({', '.join(known) or 'without a baseline'}; no interval was computed)."
    )


def sentences(
    lesions: Rows | None,
    dissociations: Rows | None,
    probe: Results,
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
    found = {str(ablation): _judged(lesions, ablation) for ablation in lesions["ablation"].unique()}
    counts = [
        f"{len(judged.above)} of {len(judged.tested)} tags under {ablation} ablation"
        f" (by chance: about {judged.chance:.1f})"
        for ablation, judged in found.items()
    ]
    told = (
        f"Lesioning a tag’s own {whose} raises that tag’s loss more than every one of its {draws} matched control"
        f" lesions does, for {' and '.join(counts)}"
    )
    tested = {ablation: judged for ablation, judged in found.items() if not judged.untested}
    if not tested:
        return f"{told}; {next(iter(found.values())).untested}, so that nothing more is claimed."
    shown = [f"{len(judged.sure)} ({ablation})" for ablation, judged in tested.items()]
    return (
        f"{told}. Tested {_grounds(lesions)}, and corrected for all cells, the rise is there (q ≤ {ALPHA}) for"
        f" {' and '.join(shown)}.{_largest(tested)}{_category_parts(tested)}"
    )


def _largest(found: Mapping[str, Judged]) -> str:
    """The largest rise above all controls, under the first ablation that has one."""
    for ablation, judged in found.items():
        for cell in judged.above.head(1).to_dict("records"):
            names = ("delta", "ci_low", "ci_high", "control_low", "control_high")
            return (
                " The largest of these effects under {} ablation is that on {}: {} nats per word"
                " (95 % interval {} to {}; controls {} to {})."
            ).format(ablation, cell["tag"], *(number(cell[name]) for name in names))
    return ""


def _category_parts(found: Mapping[str, Judged]) -> str:
    """How much of the rises that passed every test is about the category."""
    parts = []
    for ablation, judged in found.items():
        shares = (100 * judged.sure["delta_category"] / judged.sure["delta"]).dropna()
        if len(shares):
            share = number(shares.median(), ".0f")
            parts.append(f"{share} % of that rise under {ablation} ablation (median over {len(shares)} tags)")
    return f" The category part of the loss holds {' and '.join(parts)}." if parts else ""


def _judged(lesions: Rows, ablation: str) -> Judged:
    own = own_effects(with_controls(lesions, ablation))
    tested = own[(own["controls"] > 0) & own["delta"].notna()]
    above = tested[(tested["delta"] > tested["control_high"]) & (tested["delta"] > 0)]
    known = tested["p_controls"].notna()
    higher = (tested["delta"] > 0) & (tested["z_control"] > 0) & known
    sure = tested[higher & (tested["q_value"] <= ALPHA)]
    untested = ""
    if len(tested) and not known.any():
        few = tested["controls"].max() < 2
        untested = "too few random lesions for a test (2 are needed)" if few else "no test against them is defined"
    return Judged(tested, above, sure, float((1 / (tested["controls"] + 1)).sum()), untested)


def _grounds(lesions: Rows) -> str:
    """What the rises were tested over, of the tests that were made."""
    tests = {"p_controls": "over random neurons (do the controls do it?)", "p_others": "over the other tags’ neurons"}
    made = ["over words (is the rise zero?)", *(each for name, each in tests.items() if lesions[name].notna().any())]
    return made[0] if len(made) == 1 else ", ".join(made[:-1]) + " and " + made[-1]


def _pair_finding(method: str, rows: pd.DataFrame) -> str:
    """How many pairs of tags dissociate both ways, and how many of them classically."""
    whole = rows[rows["measure"] == "first"]
    counts, classical = [], []
    for (ablation,), part in groups(whole, "ablation"):
        tested = _tested_pairs(part)
        if len(tested):
            both = tested["verdict"].isin(["classical", "strong"]).sum()
            of_all = _of_all(len(tested), len(unordered_pairs(part)))
            counts.append(f"{both} of {len(tested)} pairs of tags{of_all} ({ablation} ablation)")
        if tested["equivalence_p"].notna().any():
            classical.append(f"{(tested['verdict'] == 'classical').sum()} ({ablation})")
    if not counts:
        return f"With the {method} neurons, {UNTESTED_PAIRS}"
    text = (
        f"With the {method} neurons, {' and '.join(counts)} dissociate both ways: each of the two tags suffers more"
        " under the lesion of its own neurons than under the lesion of the other’s, tested over words and over sets of"
        f" neurons (q ≤ {ALPHA})."
    )
    if classical:
        text += (
            " Classical, with the other tag shown to suffer neither more nor less than from matched controls (within"
            f" {whole['margin'].max():g} nats per word): {' and '.join(classical)}."
        )
    inner = [
        f"{tested['verdict'].isin(['classical', 'strong']).sum()} ({ablation})"
        for (ablation,), part in groups(rows[rows["measure"] == "category"], "ablation")
        if len(tested := _tested_pairs(part))
    ]
    return text + (f" On the category part of the loss alone: {' and '.join(inner)}." if inner else "")


def _percent(share: float | None) -> str:
    return number(None if share is None else 100 * share, ".1f") + " %"
