"""The page: its sections, its numbers, its escaping, and what it says of what was not run."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
from handmade import EVIL, build_run
from page_parser import Page
from synthetic import HOSTILE, IMAGE, SCRIPT, write_run

from posneurons.neuron_pages import Reason, read_pages, write_pages
from posneurons.report import build_report, page_of
from posneurons.run_files import read_run

SECTIONS = (
    "finding", "run", "layers", "neurons", "lesions", "dissociations", "sweep", "probe", "overlap", "pages", "dropped",
    "warnings", "reproduce",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return Page(build_report(build_run(tmp_path_factory.mktemp("run"))))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All stages, four blocks of lesions, pages."""
    return Page(build_report(write_run(tmp_path_factory.mktemp("whole"), n_pages=3)))


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """Script in every name that comes from data."""
    folder = write_run(
        tmp_path_factory.mktemp("evil"), tags=HOSTILE, methods=(SCRIPT, IMAGE), word=SCRIPT, n_pages=2,
        positions=("predict",), warnings=[SCRIPT, IMAGE], command=SCRIPT, platform=IMAGE, posneurons=SCRIPT,
        versions={SCRIPT: IMAGE}, git=SCRIPT, created=SCRIPT,
        model={"name": SCRIPT, "architecture": IMAGE, "n_layers": 6, "d_mlp": 96, "dtype": SCRIPT},
        treebank={"name": IMAGE, "tagset": SCRIPT, "splits": {SCRIPT: {"sentences": 1, "words": 2}}},
        dropped=[{"split": "train", "tag": SCRIPT, "reason": IMAGE, "words": 3}],
    )  # fmt: skip
    return Page(build_report(folder))


def test_the_numbers_are_in_the_page(page):
    text = page.text()
    for expected in (
        "Part-of-speech neurons of posneurons/demo on demo",
        "begun 2026-11-21 00:00:00 UTC",
        # 0.5 of 4 nats:
        "NOUN +0.500 +0.490 to +0.510 +0.250 +0.010 to +0.040 +5.0 0.001 0.001 0.001 0.002 1,200",
        "classical 1 strong 0 one-way 2 none 0",
        "classical 0 strong 1 one-way 0 none 2",  # zero ablation, category part
        "correlation, zero ablation, category part of the loss",
        "NOUN VERB +0.400 +0.150 0.02 +0.030 +0.040 0.03 classical",
        "probe on 30 key neurons 0.875 0.800",
        "NOUN 0.750 0.500 0.500 0.500 0.500 105",
        "NOUN 95 5 5",
        "1,239 words are left out",
        "NOUN 1,234 0 1,234 VERB 0 5 5",
        "fewer than 20 training words: SYM (3)",
        "posneurons run --out runs/demo",
        "LlamaForCausalLM, 6 layers of 768 neurons, 5,800,000 parameters; dtype float32; backend hooked; device cpu",
        "NOUN L0N0 1 +1 NOUN L1N1 2 +0.95",
        "0 2 2 2",  # layer 0 holds L0N0 and L0N6 of each of three tags
    ):
        assert expected in text, expected


def test_the_story_is_told_in_order(page, whole):
    assert tuple(attributes["id"] for attributes in page.named("section")) == SECTIONS
    assert tuple(attributes["id"] for attributes in whole.named("section")) == SECTIONS
    links = [attributes["href"] for attributes in whole.named("a") if attributes["href"][1:] in SECTIONS]
    assert links == ["#finding", *(f"#{section}" for section in SECTIONS)]  # the skip link comes first


def test_the_page_is_self_contained(page):
    assert page.packed("plotly").count("* plotly.js v") == 1
    assert len(page.html) < 3e6
    attributes = [pair for _, each in page.elements for pair in each.items()]
    assert not [value for name, value in attributes if name in ("src", "srcset", "action", "data")]
    assert all(value.startswith("#") for name, value in attributes if name == "href")
    assert not re.search(r"@import|url\(", page.html)
    assert "default-src 'none'" in page.html
    assert "form-action 'none'" in page.html
    assert "showSendToCloud: false" in page.html  # plotly.js 4 has a button that uploads the chart, on by default


def test_every_figure_is_packed_and_named(whole):
    plots = [each for each in whole.named("div") if "plot" in (each.get("class") or "").split()]
    figures = whole.figures()
    assert {each["data-figure"] for each in plots if "data-figure" in each} == set(figures)
    assert all(each["role"] == "img" and each["aria-label"] for each in plots)
    assert "NaN" not in whole.packed("figures")
    assert all("template" not in each["figure"]["layout"] for each in figures.values())
    assert all("updatemenus" not in each["figure"]["layout"] for each in figures.values())


def test_menus_become_controls_of_the_page(whole):
    menus = [menu for each in whole.figures().values() for menu in each["menus"]]
    assert {menu["kind"] for menu in menus} == {"buttons", "dropdown"}
    radios = [each for each in whole.named("input") if each["type"] == "radio"]
    for_figures = [each for each in radios if each["name"].endswith("-menu")]
    assert len(for_figures) == sum(len(menu["labels"]) for menu in menus if menu["kind"] == "buttons")
    groups = {each["name"] for each in for_figures}
    assert sum("checked" in each for each in for_figures) == len(groups)
    assert all(len(menu["labels"]) == len(menu["calls"]) for menu in menus)


def test_one_block_of_a_section_is_chosen(whole):
    blocks = [each for each in whole.named("div") if (each.get("class") or "").split()[:1] == ["block"]]
    chosen = [each for each in blocks if each["class"] == "block chosen"]
    assert ["attribution(scope=local, contrast)", "mean"] in [json.loads(each["data-choice"]) for each in chosen]
    groups = [each for each in whole.named("div") if each.get("class") == "group"]
    assert len(chosen) == len(groups)
    for name in ("ranking", "ablation"):
        values = [each["value"] for each in whole.named("input") if each.get("name") == f"lesions-{name}"]
        assert len(values) == 2
    assert not [each for each in whole.named("input") if each.get("name") == "lesions-scope"]  # there is only one


def test_tables_have_captions_heads_and_numbers_to_sort_by(whole):
    assert len(whole.named("table")) == len(whole.named("caption")) > 20
    regions = [each for each in whole.named("div") if each.get("role") == "region"]
    assert len(regions) == len(whole.named("table"))
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in regions)
    values = [each["data-value"] for each in (*whole.named("td"), *whole.named("th")) if "data-value" in each]
    assert all(isinstance(float(value), float) for value in values)
    assert not re.search(r'data-value="nan"[^>]*>[^–]', whole.html)


def test_headings_come_in_order(whole):
    levels = [int(name[1]) for name, _ in whole.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(deeper <= level + 1 for level, deeper in pairwise(levels))
    ids = [attributes["id"] for _, attributes in whole.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_neurons_with_a_page_are_linked_and_listed(whole):
    pages = json.loads(whole.packed("pages"))
    assert len(pages) == 3
    links = {each["href"][1:] for each in whole.named("a")} - set(SECTIONS)
    assert links <= set(pages)
    assert links
    for name, content in pages.items():
        assert name in content["html"]
        assert content["figure"]["data"]
    index = json.loads(whole.scripts[[each.get("id") for each in whole.named("script")].index("page-index")])
    assert {name for each in index for method in each["methods"] for name, _ in method["neurons"]} == set(pages)


def test_no_name_from_data_becomes_markup(evil):
    ours = {"type", "id"}
    assert all(set(attributes) <= ours for attributes in evil.named("script"))
    assert len(evil.named("script")) == 1 + 1 + 1 + 3 + 1  # class of the root, page-index, looks, packed, report.js
    assert not evil.named("img")
    handlers = [name for _, attributes in evil.elements for name in attributes if name.startswith("on")]
    assert handlers == []
    ours_only = [script for script in evil.scripts if "window.hacked" in script]
    assert [json.loads(script) for script in ours_only]  # tags in the index of pages: data, not code
    assert SCRIPT in evil.text("finding")
    for section in ("run", "neurons", "lesions", "dissociations", "sweep", "probe", "overlap", "dropped", "warnings"):
        assert SCRIPT in evil.text(section), section
        assert "window.hacked" in evil.text(section)


def test_no_name_from_data_becomes_markup_in_what_is_packed(evil):
    """plotly reads a part of HTML in labels, so it must get entities; pages are set as HTML."""

    class Fragment(Page):
        def __init__(self, html):
            self.html = html
            path = type("Text", (), {"read_text": lambda *_, **__: html})()
            super().__init__(path)

    def strings(value):
        if isinstance(value, dict):
            return [text for each in value.values() for text in strings(each)]
        if isinstance(value, list):
            return [text for each in value for text in strings(each)]
        return [value] if isinstance(value, str) else []

    drawn = [text for each in evil.figures().values() for text in strings(each["figure"])]
    pages = json.loads(evil.packed("pages"))
    drawn += [text for each in pages.values() for text in strings(each["figure"])]
    assert any("&lt;script&gt;" in text for text in drawn)
    assert not [text for text in drawn if "<script" in text or "<img" in text]
    for each in pages.values():
        fragment = Fragment(each["html"])
        assert not fragment.named("script")
        assert not fragment.named("img")
        assert not [name for _, attributes in fragment.elements for name in attributes if name.startswith("on")]
        assert SCRIPT in fragment.text()


def test_labels_of_controls_are_names_as_they_are(evil):
    """A menu of plotly has entities in its labels; a control of the page shows the name itself, escaped once."""
    labels = [label for each in evil.figures().values() for menu in each["menus"] for label in menu["labels"]]
    assert SCRIPT in labels
    assert "R&D" in labels
    assert "<option>&lt;script&gt;" in evil.html
    assert "&amp;lt;script" not in evil.html


STAGES = {
    "rank": ("layers", "neurons", "overlap"), "lesion": ("lesions", "dissociations"), "probe": ("probe",),
    "sweep": ("sweep",), "pages": ("pages",),
}  # fmt: skip

SMALL = {"tags": ("A", "B"), "methods": ("m",), "ablations": ("mean",), "positions": ("last",), "n_pages": 1}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_was_not_run_is_said(tmp_path, stage):
    run = write_run(tmp_path, stages=tuple(each for each in STAGES if each != stage), **SMALL)
    found = Page(build_report(run))
    for section in STAGES[stage]:
        assert f"The stage “{stage}” was not run." in found.text(section)
    said = [section for section in SECTIONS if "was not run" in found.text(section)]
    assert sorted(said) == sorted(STAGES[stage])


def test_a_stage_that_was_stopped_is_said(tmp_path):
    run = build_run(tmp_path, stages={"lesion": {"state": "running"}}, model={}, treebank={})
    text = Page(build_report(run)).text()
    assert "The stage “lesion” is not done (its state is “running”), so nothing is shown." in text
    assert "there is no finding yet" in text


def test_files_of_an_older_version_are_said_to_be_missing(tmp_path):
    run = write_run(tmp_path, **SMALL)
    for name in ("overlap.parquet", "similarity.parquet", "neuron_pages.json"):
        (run / name).unlink()
    found = Page(build_report(run))
    assert "The stage “rank” is done, but there is no overlap.parquet" in found.text("overlap")
    assert "The stage “pages” is done, but there is no neuron_pages.json" in found.text("pages")
    assert "Which tags are alike" not in found.text()


def test_a_single_tag_has_no_pairs_and_that_is_said(tmp_path):
    """The files are there and empty: no older version is to blame."""
    found = Page(build_report(write_run(tmp_path, **{**SMALL, "tags": ("NOUN",)})))
    for section in ("dissociations", "overlap"):
        assert found.text(section).endswith("A single tag has no pair of tags. "), section
    assert "older version" not in found.text()
    assert "Which tags are alike" not in found.text()
    assert "NOUN" in found.text("lesions")
    assert "probe on 12 key neurons" in found.text("probe")


def test_no_pages_were_asked_for_and_that_is_said(tmp_path):
    found = Page(build_report(write_run(tmp_path, **{**SMALL, "n_pages": 0})))
    assert found.text("pages").endswith("No neuron page was asked for (--pages 0). ")
    assert "older version" not in found.text()


def index_of(folder, **reasons):
    """The index of the pages of a run of two, whose reasons are replaced."""
    path = write_run(folder, **{**SMALL, "n_pages": 2}) / "neuron_pages.json"
    pages = read_pages(path)
    write_pages(path, [replace(page, of=reasons.get(page.name, ())) for page in pages])
    found = Page(build_report(folder))
    return json.loads(found.scripts[[each.get("id") for each in found.named("script")].index("page-index")])


def test_a_page_without_a_reason_is_listed_without_a_rank(tmp_path):
    names = [page.name for page in read_pages(write_run(tmp_path, **{**SMALL, "n_pages": 2}) / "neuron_pages.json")]
    bare = {"tag": "other", "methods": [{"method": "", "neurons": [[name, None] for name in names]}]}
    assert index_of(tmp_path) == [bare]
    given = {names[0]: (Reason("given", "A", 7),)}
    assert index_of(tmp_path, **given) == [
        {"tag": "A", "methods": [{"method": "given", "neurons": [[names[0], 7]]}]},
        {"tag": "other", "methods": [{"method": "", "neurons": [[names[1], None]]}]},
    ]


def test_verdicts_that_rest_on_words_alone_say_so(tmp_path):
    run = write_run(tmp_path, **SMALL)
    assert "rest on words alone" not in Page(build_report(run)).text("dissociations")
    frame = pd.read_parquet(run / "dissociations.parquet")
    frame.assign(p_sets=float("nan")).to_parquet(run / "dissociations.parquet")
    found = Page(build_report(run))
    assert "1 of these 1 pairs could not be tested against other sets" in found.text("dissociations")
    assert "were not tested against other sets of neurons" in found.text("finding")


def test_without_controls_the_page_says_so(tmp_path):
    found = Page(build_report(build_run(tmp_path, controls=0)))
    assert "nothing is claimed about what they do" in found.text("finding")
    assert "no controls" in found.packed("figures")
    assert "NOUN +0.500 +0.490 to +0.510 +0.250 – +5.0 0.001 0.001 0.001 0.002 1,200" in found.text("lesions")


def test_undefined_is_a_dash_and_never_zero(tmp_path):
    run = build_run(tmp_path)
    frame = pd.read_parquet(run / "lesions.parquet")
    frame.assign(delta_category=float("nan"), z_control=float("nan")).to_parquet(run / "lesions.parquet")
    found = Page(build_report(run))
    assert "NOUN +0.500 +0.490 to +0.510 – +0.010 to +0.040 – 0.001 0.001 0.001 0.002 1,200" in found.text("lesions")
    assert "category part (nats per word)" not in [
        label for each in found.figures().values() for menu in each["menus"] for label in menu["labels"]
    ]


@pytest.mark.parametrize("known", [False, True])
def test_the_finding_begins_with_a_language_that_the_model_does_not_know(tmp_path, known):
    found = Page(build_report(build_run(tmp_path, notes={"fluency": {"knows": known}})))
    assert ("The model does not know this treebank’s language" in found.text("finding")) is not known


def test_a_ranking_at_another_position_is_shown_under_its_own_name(tmp_path):
    run = build_run(tmp_path)
    keys = json.loads((run / "neurons.json").read_text())
    (run / "neurons.json").write_text(json.dumps({**keys, "correlation@predict": {"NOUN": ["L1N2"]}}))
    text = Page(build_report(run)).text("layers")
    assert "correlation, ranked at last" in text
    assert "correlation, ranked at predict" in text


def test_the_same_run_gives_the_same_page(tmp_path):
    run = read_run(build_run(tmp_path, tags=(EVIL, "R&D", "b"), own={EVIL: 0.5, "R&D": 0.2, "b": 0.1}))
    assert page_of(run) == page_of(run)
