"""Pages of unusual runs in a browser: one of the size of Llama-3-8B, a single tag, neuron pages without a reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import browser, open_page, scroll_through, wait_until_drawn
from synthetic import FULL, write_run

from posneurons.neuron_pages import Reason, read_pages, write_pages
from posneurons.report import build_report


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 tags, 32 layers of 14,336 neurons, 20 controls, two methods, a hundred neuron pages; built once."""
    return build_report(write_run(tmp_path_factory.mktemp("full"), **FULL))


@pytest.mark.slow
def test_the_page_of_a_large_run_is_small_enough_to_send(full: Path) -> None:
    """4.9 MB when this was written, of which plotly.js takes 2 MB."""
    assert 3e6 < full.stat().st_size < 8e6


@pytest.mark.slow
def test_the_page_of_a_large_run_opens_and_draws_its_first_figure(full: Path) -> None:
    with browser() as chromium:
        opened = open_page(chromium, full)
        first = opened.page.locator(".plot").filter(visible=True).first
        first.scroll_into_view_if_needed()
        assert wait_until_drawn(opened.page) >= 1
        assert first.locator("svg.main-svg").count() >= 1
        opened.page.locator("#page .neuron-page").wait_for()
        assert opened.page.locator("#page-tag option").count() == len(FULL["tags"])
        assert opened.errors == []
        assert opened.console == []
        opened.close()


def listed(chromium: Any, folder: Path, reasons: tuple[Reason, ...]) -> str:
    """What the list of neuron pages says of one page with these reasons, in a run of a single tag."""
    run = write_run(folder, tags=("NOUN",), methods=("m",), ablations=("mean",), positions=("last",), n_pages=1)
    path = run / "neuron_pages.json"
    write_pages(path, [replace(page, of=reasons) for page in read_pages(path)])
    opened = open_page(chromium, build_report(run))
    scroll_through(opened.page)
    opened.page.locator("#page .neuron-page").wait_for()
    assert opened.errors == []
    assert opened.console == []
    text = f"{opened.page.locator('#page-tag').input_value()} | {opened.page.locator('#page-names').inner_text()}"
    opened.close()
    return " ".join(text.split())


def test_a_neuron_page_without_a_reason_has_no_rank(tmp_path: Path) -> None:
    """No "(0)" and no "(null)" after its name."""
    with browser() as chromium:
        bare = listed(chromium, tmp_path / "bare", ())
        given = listed(chromium, tmp_path / "given", (Reason("given", "NOUN", 7),))
    name = bare.removeprefix("other | ")
    assert name[0] == "L"
    assert " " not in name
    assert given == f"NOUN | given: {name} (7)"
