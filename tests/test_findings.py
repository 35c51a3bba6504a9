"""Findings: what the sentences say of hand-made results, and what they do not claim."""

import json

import numpy as np
import pandas as pd
import pytest
from handmade import build_run

from posneurons.findings import lead
from posneurons.report import findings
from posneurons.run_files import read_run


def test_findings_say_what_the_numbers_say(tmp_path):
    lesion, pairs, probe = findings(build_run(tmp_path))
    # NOUN 0.5 and VERB 0.25 exceed all controls (largest 0.04), X 0.02 does not; by chance 3 tags / (4 + 1) = 0.6.
    # The category part of NOUN is a half, that of VERB a quarter: 37.5 % in the middle.
    assert lesion == (
        "Lesioning a tag’s own correlation neurons raises that tag’s loss more than every one of its 4 matched control"
        " lesions does, for 2 of 3 tags under mean ablation (by chance: about 0.6) and 2 of 3 tags under zero ablation"
        " (by chance: about 0.6). Tested over words (is the rise zero?), over random neurons (do the controls do it?)"
        " and over the other tags’ neurons, and corrected for all cells, the rise is there (q ≤ 0.05) for 2 (mean) and"
        " 2 (zero)."
        " The largest of these effects under mean ablation is that on NOUN: +0.500 nats"
        " per word (95 % interval +0.490 to +0.510; controls +0.010 to +0.040)."
        " The category part of the loss holds 38 % of that rise under mean ablation (median over 2 tags) and 38 % of"
        " that rise under zero ablation (median over 2 tags)."
    )
    assert pairs == (
        "With the correlation neurons, 1 of 3 pairs of tags (mean ablation) and 1 of 3 pairs of tags (zero ablation)"
        " dissociate both ways: each of the two tags suffers more under the lesion of its own neurons than under the"
        " lesion of the other’s, tested over words and over sets of neurons (q ≤ 0.05). Classical, with the other tag"
        " shown to suffer neither more nor less than from matched controls (within 0.05 nats per word): 1 (mean) and"
        " 0 (zero). On the category part of the loss alone: 1 (mean) and 1 (zero)."
    )
    assert (
        "87.5 % of 3,600 test words, against 62.5 % (random neurons), 62.5 % (most frequent tag of the word)" in probe
    )
    assert "no interval was computed" in probe


def test_a_loss_that_falls_is_no_finding_even_above_its_controls(tmp_path):
    run = build_run(tmp_path, own={"NOUN": -0.001, "VERB": -0.001, "X": -0.001})
    frame = pd.read_parquet(run / "lesions.parquet")
    frame.loc[frame["set"] == "matched", "delta"] = -1.0
    frame.to_parquet(run / "lesions.parquet")
    assert "for 0 of 3 tags under mean ablation" in findings(run)[0]
    assert "(q ≤ 0.05) for 0 (mean) and 0 (zero)." in findings(run)[0]
    assert "largest" not in findings(run)[0]
    assert "category" not in findings(run)[0]


@pytest.mark.parametrize(
    "changes", [{"q_value": 0.06}, {"z_control": -1.0}, {"p_controls": np.nan}, {"q_value": np.nan}]
)
def test_a_rise_is_shown_only_above_zero_and_above_controls(tmp_path, changes):
    run = build_run(tmp_path)
    frame = pd.read_parquet(run / "lesions.parquet")
    frame.loc[(frame["set"] == "key") & (frame["tag"] == "NOUN"), list(changes)] = list(changes.values())
    frame.to_parquet(run / "lesions.parquet")
    assert "(q ≤ 0.05) for 1 (mean) and 1 (zero)." in findings(run)[0]


@pytest.mark.parametrize(
    ("unknown", "grounds"),
    [
        (["p_others"], "Tested over words (is the rise zero?) and over random neurons (do the controls do it?), and"),
    ],
)
def test_only_tests_that_were_made_are_named(tmp_path, unknown, grounds):
    run = build_run(tmp_path)
    pd.read_parquet(run / "lesions.parquet").assign(**dict.fromkeys(unknown, np.nan)).to_parquet(
        run / "lesions.parquet"
    )
    assert grounds in findings(run)[0]


def test_sets_of_other_kinds_are_no_controls(tmp_path):
    run = build_run(tmp_path)
    before = findings(run)
    frame = pd.read_parquet(run / "lesions.parquet")
    bottom = frame[frame["draw"] == 1].assign(set="bottom", delta=9.0, draw=99)
    pd.concat([frame, bottom], ignore_index=True).to_parquet(run / "lesions.parquet")
    assert findings(run) == before


UNTESTED = (
    "the pairs of tags were not tested against other sets of neurons (that needs at least 2 random sets for each tag,"
    " or five tags), so nothing is claimed about them."
)


def untested(folder, pairs):
    """A run of whose pairs of tags some were tested over words alone."""
    frame = pd.read_parquet(build_run(folder) / "dissociations.parquet")
    alone = [{a, b} in pairs for a, b in zip(frame["tag_a"], frame["tag_b"], strict=True)]
    frame.loc[alone, "p_sets"] = np.nan
    frame.to_parquet(folder / "dissociations.parquet")
    return folder


def test_pairs_that_were_tested_over_words_alone_are_not_counted(tmp_path):
    """NOUN and VERB are the pair that dissociates; NOUN and X is another."""
    run = untested(tmp_path / "one", [{"NOUN", "X"}])
    assert "1 of 2 pairs of tags that could be tested (of 3) (mean ablation) and 1 of 2" in findings(run)[1]
    assert led(run)[1].startswith("Of 2 pairs of tags that could be tested (of 3), 1 dissociates both ways")
    run = untested(tmp_path / "both", [{"NOUN", "VERB"}])
    assert "0 of 2 pairs of tags that could be tested (of 3) (mean ablation)" in findings(run)[1]
    assert "0 (mean) and 0 (zero). On the category part of the loss alone: 0 (mean) and 0 (zero)." in findings(run)[1]
    assert led(run)[1].startswith("None of the 2 pairs of tags that could be tested (of 3) is shown to dissociate")


def test_where_no_pair_was_tested_over_sets_nothing_is_claimed(tmp_path):
    run = untested(tmp_path, [{"NOUN", "VERB"}, {"NOUN", "X"}, {"VERB", "X"}])
    assert findings(run)[1] == f"With the correlation neurons, {UNTESTED}"
    assert led(run)[1] == UNTESTED.replace("the", "The", 1)


def test_without_a_test_of_equivalence_no_margin_is_named(tmp_path):
    """With five tags and no controls there are sets to compare, but nothing says what unharmed is."""
    change(build_run(tmp_path), "dissociations", equivalence_p=np.nan, verdict="strong")
    for sentence in (findings(tmp_path)[1], led(tmp_path)[1]):
        assert "dissociate both ways" in sentence
        assert not [word for word in ("Classical", "margin", "unharmed", "within 0.05") if word in sentence]


def test_without_category_losses_nothing_is_said_of_them(tmp_path):
    run = build_run(tmp_path)
    frame = pd.read_parquet(run / "dissociations.parquet")
    frame[frame["measure"] == "first"].to_parquet(run / "dissociations.parquet")
    frame = pd.read_parquet(run / "lesions.parquet")
    frame.assign(delta_category=np.nan).to_parquet(run / "lesions.parquet")
    assert not [sentence for sentence in findings(run) if "category" in sentence]


def test_without_controls_nothing_is_claimed(tmp_path):
    run = build_run(tmp_path, controls=0)
    assert "without matched controls, so nothing is claimed" in findings(run)[0]


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({"fluency": {"knows": False}}, True),
        ({"fluency": {"knows": True}}, False),
        ({"fluency": None}, False),
        ({}, False),
    ],
)
def test_findings_begin_with_a_language_that_the_model_does_not_know(tmp_path, notes, said):
    build_run(tmp_path, notes=notes)
    first = findings(tmp_path)[0]
    assert first.startswith("The model does not know this treebank’s language") is said


def led(folder):
    run = read_run(folder)
    return lead(run.lesions, run.dissociations, run.probe or ())


def change(folder, name, **columns):
    """Set columns of the key sets of a table of a run."""
    frame = pd.read_parquet(folder / f"{name}.parquet")
    rows = frame["set"] == "key" if "set" in frame else frame["margin"] > 0
    frame.loc[rows, list(columns)] = list(columns.values())
    frame.to_parquet(folder / f"{name}.parquet")
    return folder


def test_the_lead_says_in_three_sentences_what_was_found(tmp_path):
    lesion, pairs, probe = led(build_run(tmp_path))
    # 2 ablations x 3 lesions x 3 tags have a q-value; NOUN and VERB exceed the largest control of 0.04.
    assert lesion == (
        "When a tag’s correlation neurons are lesioned (mean ablation), that tag’s loss rises more than in every one of"
        " 4 matched random lesions for 2 of 3 tags (by chance: about 0.6); for 2 the rise passes every test (tested"
        " over words, over random neurons and over the other tags’ neurons; q ≤ 0.05, corrected for 18 tests), the"
        " largest for NOUN: +0.500 nats per word (95 % interval +0.490 to +0.510; random lesions +0.010 to +0.040)."
    )
    assert pairs == (
        "Of 3 pairs of tags, 1 dissociates both ways, each tag suffering more from the lesion of its own neurons than"
        " from that of the other’s (tested over words and over sets of neurons; q ≤ 0.05, corrected for all pairs), 1"
        " of them with the other tag shown to be unharmed (within 0.05 nats of random lesions); the clearest pair is"
        " NOUN and VERB, by +0.400 and +0.150 nats per word (q = 0.02)."
    )
    assert probe == (
        "A probe on the correlation neurons of all tags together, read at “last”, names the tags of 87.5 % of 3,600"
        " test words (as many random neurons reach 62.5 %, the most frequent tag of each word 62.5 %, the most"
        " frequent tag of all 62.5 %; no interval was computed)."
    )


def test_the_word_is_not_known_before_it(tmp_path):
    run = build_run(tmp_path)
    content = json.loads((run / "probe.json").read_text())
    content["results"][0]["at"] = "predict"
    (run / "probe.json").write_text(json.dumps(content))
    found = read_run(run)
    assert (
        "the most frequent tag of each word, which is not known before it, 62.5 %" in lead(None, None, found.probe)[0]
    )


def test_the_lead_is_about_attribution_whatever_the_others_show(tmp_path):
    build_run(tmp_path, methods=("correlation", "attribution(scope=local)"))
    change(tmp_path, "lesions", q_value=0.9)
    found = led(tmp_path)
    assert all("attribution(scope=local) neurons" in found[place] for place in (0, 2))
    assert "corrected for 36 tests" in found[0]


def test_the_lead_says_when_nothing_passes_all_tests(tmp_path):
    change(build_run(tmp_path), "lesions", q_value=0.06)
    change(tmp_path, "dissociations", verdict="one-way")
    lesion, pairs, _ = led(tmp_path)
    assert "for 2 of 3 tags (by chance: about 0.6); for none does the rise pass every test (tested over words" in lesion
    assert "largest" not in lesion
    assert pairs.startswith("None of the 3 pairs of tags is shown to dissociate both ways (tested over words and over")


@pytest.mark.parametrize(
    ("controls", "why"),
    [(1, "too few random lesions for a test (2 are needed)"), (4, "no test against them is defined")],
)
def test_without_a_test_against_controls_no_count_of_tests_is_given(tmp_path, controls, why):
    """Neither "for none" nor "for 0": the tests that were made did pass. NOUN and VERB are above the one control."""
    change(build_run(tmp_path, controls=controls), "lesions", p_controls=np.nan)
    chance = 3 / (controls + 1)
    assert led(tmp_path)[0] == (
        "When a tag’s correlation neurons are lesioned (mean ablation), that tag’s loss rises more than in every one of"
        f" {controls} matched random lesions for {3 if controls == 1 else 2} of 3 tags (by chance: about {chance:.1f});"
        f" {why}, so that nothing more is claimed."
    )
    first = findings(tmp_path)[0]
    assert first.endswith(
        f"under zero ablation (by chance: about {chance:.1f}); {why}, so that nothing more is claimed."
    )
    assert "Tested" not in first


def test_an_ablation_without_a_test_is_not_counted_beside_one_with(tmp_path):
    frame = pd.read_parquet(build_run(tmp_path) / "lesions.parquet")
    frame.loc[frame["ablation"] == "mean", "p_controls"] = np.nan
    frame.to_parquet(tmp_path / "lesions.parquet")
    first = findings(tmp_path)[0]
    assert "the rise is there (q ≤ 0.05) for 2 (zero). The largest of these effects under zero ablation" in first
    assert "38 % of that rise under zero ablation" in first


def test_the_lead_claims_nothing_without_controls(tmp_path):
    assert led(build_run(tmp_path, controls=0))[0] == (
        "The correlation neurons of each tag were lesioned (mean ablation) without matched random lesions beside them,"
        " so nothing is claimed about what they do."
    )


def test_the_lead_of_what_was_not_done_is_silent(tmp_path):
    assert led(build_run(tmp_path / "a", stages={})) == []
    (probe,) = led(build_run(tmp_path / "b", stages={"probe": {"state": "done"}}, at=("predict", "last")))
    assert "read at “predict” and “last”, names the tags of 87.5 % and 87.5 % of 3,600 test words" in probe
