"""The page: its numbers, its sentences, its escaping, and what it says when files are missing or damaged."""

import json
import re
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from posneurons.errors import RunError
from posneurons.report import build_report, findings

EVIL = "<script>alert(1)</script>"
TAGS = ("NOUN", "VERB", "X")
OWN = {"NOUN": 0.5, "VERB": 0.25, "X": 0.02}
"""Rise of each tag's own loss; the controls of the builder rise by 0.01, 0.02, ... 0.04, so X is not above its own."""


LESION_COLUMNS = [
    "method", "lesion", "ablation", "scope", "set", "draw", "tag", "words", "loss_intact", "loss_lesioned", "delta",
    "percent", "delta_category", "ci_low", "ci_high", "p_items", "p_controls", "p_others", "p_value", "q_value",
    "z_control",
]  # fmt: skip
PAIR_COLUMNS = [
    "method", "ablation", "scope", "measure", "tag_a", "tag_b", "contrast_a", "contrast_b", "cross_a", "cross_b",
    "p_sets", "p_value", "q_value", "equivalence_p", "margin", "verdict",
]  # fmt: skip


def lesion_rows(tags, own, controls, noise, method, ablation):
    rng = np.random.default_rng(0)
    for lesion in tags:
        for draw in range(controls + 1):
            for tag in tags:
                delta = 0.01 * draw if draw else own[tag] if tag == lesion else 0.1
                delta += noise * rng.normal()
                q = 0.002 if tag != "X" else 0.2
                tests = (np.nan,) * 8 if draw else (delta - 0.01, delta + 0.01, 0.001, 0.001, 0.001, 0.001, q, 5.0)
                numbers = (1200, 4.0, 4.0 + delta, delta, 25 * delta, delta / (2 if tag == "NOUN" else 4))
                yield (method, lesion, ablation, "all", "matched" if draw else "key", draw, tag, *numbers, *tests)


def pair_rows(tags, own, method, ablation):
    """The first pair dissociates; classically under mean ablation, strongly under zero, and so of the category part."""
    kinds = {"mean": "classical", "zero": "strong"}
    for measure in ("first", "category"):
        for a, b in permutations(tags, 2):
            verdict = kinds[ablation] if {a, b} == set(tags[:2]) else "one-way" if measure == "first" else "none"
            numbers = (own[a] - 0.1, own[b] - 0.1, 0.03, 0.04, 0.01, 0.01, 0.02, 0.03, 0.05)
            yield (method, ablation, "all", measure, a, b, *numbers, verdict)


def probe_result(tags, method, at):
    confusion = (np.eye(len(tags), dtype=int) * 90 + 5).tolist()
    scores = {"accuracy": 0.875, "macro_f1": 0.8, "per_tag_f1": dict.fromkeys(tags, 0.75), "confusion": confusion}
    weaker = {**scores, "accuracy": 0.625, "macro_f1": 0.5, "per_tag_f1": dict.fromkeys(tags, 0.5)}
    names = ("majority", "most_frequent_tag", "random_neurons", "control_task")
    sizes = {"n_neurons": 30, "train_words": 5000, "test_words": 3600}
    baselines = dict.fromkeys(names, weaker)
    return {"method": method, "at": at, "classes": tags, **sizes, **scores, "selectivity": 0.25, "baselines": baselines}


def build_run(folder, *, tags=TAGS, own=OWN, controls=4, methods=("correlation",), noise=0.0, at=("last",), **manifest):
    """A run directory by hand: `controls` draws of 0.01 × draw, 0.1 off the diagonal, `noise` added to every cell."""
    folder.mkdir(parents=True, exist_ok=True)
    ranking, lesions, pairs = [], [], []
    for method in methods:
        for place, tag in enumerate(tags):
            ranking += [(method, "last", tag, n % 6, n + 7 * place, 1 - n / 20, n + 1) for n in range(12)]
        for ablation in ("mean", "zero"):
            lesions += lesion_rows(tags, own, controls, noise, method, ablation)
            pairs += pair_rows(tags, own, method, ablation)
    results = [probe_result(list(tags), method, position) for method in methods for position in at]
    pd.DataFrame(lesions, columns=LESION_COLUMNS).to_parquet(folder / "lesions.parquet")
    pd.DataFrame(pairs, columns=PAIR_COLUMNS).to_parquet(folder / "dissociations.parquet")
    columns = "method at tag layer neuron score rank"
    pd.DataFrame(ranking, columns=columns.split()).to_parquet(folder / "ranking.parquet")
    keys = {m: {tag: [f"L{n % 6}N{n}" for n in range(10)] for tag in tags} for m in methods}
    (folder / "neurons.json").write_text(json.dumps(keys))
    (folder / "probe.json").write_text(json.dumps({"results": results}))
    content = {
        "posneurons": "0.1.0",
        "command": "posneurons run --out runs/demo",
        "created": "2026-11-21T00:00:00+00:00",
        "config": {
            "model": "demo", "treebank": "demo", "methods": list(methods), "at": "last", "top": 10, "per": "model",
            "signed": False, "ablations": ["mean", "zero"], "controls": controls, "seed": 0,
        },
        "model": {
            "name": "posneurons/demo", "revision": None, "dtype": "float32", "backend": "hooked", "device": "cpu",
            "architecture": "LlamaForCausalLM", "n_layers": 6, "d_model": 256, "d_mlp": 768, "n_parameters": 5800000,
        },
        "treebank": {
            "name": "demo", "tagset": "upos", "sha256": "ab" * 32,
            "splits": {"train": {"sentences": 400, "words": 5000}, "test": {"sentences": 300, "words": 3600}},
        },
        "versions": {"torch": "2.13.0"},
        "git": None,
        "platform": "Linux",
        "stages": {stage: {"state": "done", "seconds": 12.3} for stage in ("rank", "probe", "lesion")},
        "dropped": [
            {"split": "train", "tag": tags[0], "reason": "cut by a token", "words": 1200},
            {"split": "test", "tag": tags[0], "reason": "cut by a token", "words": 34},
            {"split": "test", "tag": tags[1], "reason": "shares its surface", "words": 5},
        ],
        "warnings": ["fewer than 20 training words: SYM (3)"],
        **manifest,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def text_of(page):
    """What a reader sees: no scripts, no tags, white space in one."""
    page = re.sub(r"<(script|style).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return build_report(build_run(tmp_path_factory.mktemp("run")))


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
        (["p_others", "p_controls"], "Tested over words (is the rise zero?), and corrected"),
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


@pytest.mark.parametrize(
    ("known", "grounds"),
    [
        ([], "tested over words only (without controls and with few tags, sets of neurons cannot be compared) (q ≤"),
        (["NOUN"], "tested over words, and over sets of neurons where those can be compared (q ≤ 0.05)"),
    ],
)
def test_a_dissociation_says_what_it_was_tested_over(tmp_path, known, grounds):
    run = build_run(tmp_path)
    frame = pd.read_parquet(run / "dissociations.parquet")
    frame.loc[~frame["tag_a"].isin(known), "p_sets"] = np.nan
    frame.to_parquet(run / "dissociations.parquet")
    assert grounds in findings(run)[1]


def test_without_category_losses_nothing_is_said_of_them(tmp_path):
    run = build_run(tmp_path)
    frame = pd.read_parquet(run / "dissociations.parquet")
    frame[frame["measure"] == "first"].to_parquet(run / "dissociations.parquet")
    frame = pd.read_parquet(run / "lesions.parquet")
    frame.assign(delta_category=np.nan).to_parquet(run / "lesions.parquet")
    assert not [sentence for sentence in findings(run) if "category" in sentence]
    assert "category part of the loss" not in text_of(build_report(run))


def test_without_controls_nothing_is_claimed(tmp_path):
    run = build_run(tmp_path, controls=0)
    assert "without matched controls, so nothing is claimed" in findings(run)[0]
    assert "no controls" in build_report(run).read_text(encoding="utf-8")


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


def test_the_numbers_are_in_the_page(page):
    text = text_of(page)
    for expected in (
        "Part-of-speech neurons of posneurons/demo on demo",
        "NOUN +0.500 +0.490 to +0.510 +12.5 +0.250 +0.025 +0.010 to +0.040 +5.0 0.002 1,200",  # 0.5 of 4 nats
        "classical 1 strong 0 one-way 2 none 0",
        "classical 0 strong 1 one-way 0 none 2",  # zero ablation, category part
        "correlation, zero ablation, category part of the loss",
        "NOUN VERB +0.400 +0.150 0.02 +0.030 +0.040 0.03 classical",
        "probe on 30 key neurons 0.875 0.800",
        "NOUN 0.750 0.500 0.500 0.500 0.500 105",
        "1,239 words are left out",
        "NOUN 1,234 0 1,234 VERB 0 5 5",
        "fewer than 20 training words: SYM (3)",
        "posneurons run --out runs/demo",
        "LlamaForCausalLM, 6 layers of 768 neurons, 5,800,000 parameters; dtype float32; backend hooked; device cpu",
        "L0N0 +1.000 L1N1 +0.950",
    ):
        assert expected in text, expected


def test_the_page_is_self_contained(page):
    html = page.read_text(encoding="utf-8")
    assert html.count("* plotly.js v") == 1
    assert len(html) < 6e6
    outside = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r"(src|srcset|href|action|data)\s*=\s*[\"']?\s*(https?:)?//", outside, flags=re.IGNORECASE)
    assert not re.search(r"@import|url\(", outside)
    assert not re.search(r"<script[^>]*\ssrc", html)
    assert "default-src 'none'" in html
    assert "form-action 'none'" in html
    assert "showSendToCloud: false" in html  # plotly.js 4 has a button that uploads the chart, on by default
    drawings = [json.loads(x) for x in re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)]
    assert len(drawings) == 1 + 2 * 2 + 1 + 1  # profile, two for each ablation, bars, confusion
    assert "NaN" not in json.dumps(drawings)


def test_sections_have_headings_tables_captions_and_figures_labels(page):
    html = page.read_text(encoding="utf-8")
    assert set(re.findall(r'href="#([^"]+)"', html)) == set(re.findall(r'<section id="([^"]+)"', html))
    assert len(re.findall("<table>", html)) == len(re.findall("<caption", html))
    plots = re.findall(r'<div class="plot[^>]*>', html)
    assert plots
    assert all('role="img"' in plot and 'aria-label="' in plot for plot in plots)


def test_everything_from_data_is_escaped(tmp_path):
    evil = build_run(
        tmp_path,
        tags=(EVIL, "R&D", "b<b>"),
        own={EVIL: 0.5, "R&D": 0.25, "b<b>": 0.02},
        methods=(EVIL,),
        warnings=[EVIL],
        command=EVIL,
        platform=EVIL,
    )
    html = build_report(evil).read_text(encoding="utf-8")
    assert "alert(1)" in html
    assert "<script>alert" not in html
    assert "</script>alert" not in html
    assert "alert(1)</script" not in html
    drawings = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    figure = json.loads(drawings[1])  # the lesion matrix: plotly must get entities, not tags
    assert figure["data"][0]["x"] == ["&lt;script&gt;alert(1)&lt;/script&gt;", "R&amp;D", "b&lt;b&gt;"]
    assert all("<script" not in json.dumps(json.loads(drawing)) for drawing in drawings)


@pytest.mark.parametrize("stage", ["rank", "probe", "lesion"])
def test_a_stage_that_was_not_run_is_said(tmp_path, stage):
    stages = {name: {"state": "done"} for name in ("rank", "probe", "lesion") if name != stage}
    run = build_run(tmp_path, stages=stages)
    names = {"rank": ["ranking.parquet", "neurons.json"], "probe": ["probe.json"], "lesion": ["lesions.parquet"]}
    for name in names[stage]:
        (run / name).unlink()
    assert f"The stage “{stage}” was not run." in text_of(build_report(run))


def test_a_stage_that_was_stopped_is_said(tmp_path):
    run = build_run(tmp_path, stages={"lesion": {"state": "running"}}, model={}, treebank={})
    text = text_of(build_report(run))
    assert "The stage “lesion” is not done (its state is “running”), so nothing is shown." in text
    assert "there is no finding yet" in text


def test_a_ranking_at_another_position_is_shown_under_its_own_name(tmp_path):
    run = build_run(tmp_path)
    keys = json.loads((run / "neurons.json").read_text())
    (run / "neurons.json").write_text(json.dumps({**keys, "correlation@predict": {"NOUN": ["L1N2"]}}))
    text = text_of(build_report(run))
    assert "correlation, ranked at last" in text
    assert "correlation, ranked at predict" in text


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "ranking.parquet", "neurons.json", "probe.json", "lesions.parquet", "dissociations.parquet"],
)
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00"])
def test_a_missing_or_damaged_file_is_one_clear_line_and_the_old_page_stays(tmp_path, name, content):
    run = build_run(tmp_path)
    (run / "report.html").write_text("old")
    (run / name).unlink() if content is None else (run / name).write_bytes(content)
    with pytest.raises(RunError) as error:
        build_report(run)
    message = str(error.value)
    assert message.startswith(f"{run / name}: {'no such file' if content is None else 'damaged'}")
    assert "expected" in message
    assert "\n" not in message
    assert (run / "report.html").read_text() == "old"
    assert not [path for path in run.iterdir() if "part" in path.name]


def change(path: Path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "edit", "sentence"),
    [
        ("manifest.json", lambda m: m.pop("config"), "config is missing; expected dict"),
        ("manifest.json", lambda m: m.update(stages={"rank": "done"}), "stages: rank.state is missing; expected str"),
        ("manifest.json", lambda m: m.update(dropped=[{"tag": "X"}]), "dropped: reason is missing; expected str"),
        (
            "neurons.json",
            lambda k: k["correlation"].update(X=["12"]),
            "correlation, X: '12'; expected a name like L3N12",
        ),
        ("neurons.json", lambda k: k.update(correlation=3), "correlation: 3; expected a JSON object"),
        ("probe.json", lambda p: p["results"][0].pop("at"), "result 0: at is missing; expected str"),
        ("probe.json", lambda p: p["results"][0]["classes"].pop(), "result 0: the confusion is not 2 × 2"),
    ],
)
def test_a_file_with_other_content_is_one_clear_line(tmp_path, name, edit, sentence):
    run = build_run(tmp_path)
    change(run / name, edit)
    with pytest.raises(RunError) as error:
        build_report(run)
    assert str(error.value).startswith(f"{run / name}: {sentence}")
    assert str(error.value).endswith("; delete it and run the same command again")


def test_a_table_without_a_column_is_one_clear_line(tmp_path):
    run = build_run(tmp_path)
    pd.read_parquet(run / "lesions.parquet").drop(columns="delta").to_parquet(run / "lesions.parquet")
    with pytest.raises(RunError, match=r"lesions.parquet: no column delta; expected columns method, lesion"):
        build_report(run)


@pytest.mark.parametrize(
    ("name", "new", "sentence"),
    [
        ("lesions", ["set", "percent", "delta_category", "p_items", "p_controls"], "no column set, percent, delta_cat"),
        ("dissociations", ["measure", "p_sets", "equivalence_p", "margin"], "no column measure, p_sets, equivalence_p"),
    ],
)
def test_a_table_of_an_older_version_is_one_clear_line(tmp_path, name, new, sentence):
    path = build_run(tmp_path) / f"{name}.parquet"
    pd.read_parquet(path).drop(columns=new).to_parquet(path)
    with pytest.raises(RunError) as error:
        findings(tmp_path)
    assert str(error.value).startswith(f"{path}: {sentence}")
    assert str(error.value).endswith(
        " (an older version of posneurons wrote fewer); delete it and run the same command again"
    )
    assert "\n" not in str(error.value)
