"""The page of a run in a real browser: it opens from its file, is drawn, and does what its controls say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import (
    PAPER,
    Opened,
    browser,
    contrast,
    figure_state,
    first_with,
    names_of_controls,
    numbers,
    open_page,
    scroll_through,
    shown_blocks,
    sideways,
    texts_below,
    unfold,
    wait_until_drawn,
)
from synthetic import HOSTILE, IMAGE, SCRIPT, write_run

from posneurons.report import build_report

SECTIONS = [
    "finding", "run", "layers", "neurons", "lesions", "dissociations", "sweep", "probe", "overlap", "pages", "dropped",
    "warnings", "reproduce",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a whole synthetic run."""
    folder = write_run(tmp_path_factory.mktemp("run"))
    build_report(folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def seen(chromium: Any, path: Path) -> Iterator[Opened]:
    """The page in a wide, light window, for all tests that leave it as it was."""
    opened = open_page(chromium, path, color_scheme="light")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def used(chromium: Any, path: Path) -> Iterator[Opened]:
    """The page in a window for tests that use its controls, each some of its own."""
    opened = open_page(chromium, path, color_scheme="light")
    yield opened
    opened.close()


@pytest.fixture
def page(used: Opened) -> Iterator[Any]:
    used.errors.clear()
    used.page.evaluate("() => scrollTo({top: 0, behavior: 'instant'})")
    yield used.page
    assert used.errors == []


def test_it_opens_from_its_file_and_needs_nothing_else(seen: Opened, path: Path) -> None:
    """Figures are drawn when they come near."""
    figures = seen.page.locator(".plot").filter(visible=True)
    wait_until_drawn(seen.page)
    assert seen.page.locator(".plot.drawn").count() < figures.count()
    scroll_through(seen.page)
    assert figures.count() > 8
    for plot in figures.all():
        assert "drawn" in plot.get_attribute("class")
        assert plot.locator("svg.main-svg").count() >= 1
    assert sideways(seen.page) == []
    assert seen.errors == []
    assert seen.console == []
    assert [url for url in seen.requests if not url.startswith(("data:", "blob:"))] == [path.as_uri()]


def test_sections_tell_the_story_in_order(seen: Opened) -> None:
    found = seen.page.evaluate("() => [...document.querySelectorAll('main section[id]')].map(each => each.id)")
    assert [each for each in found if each in SECTIONS] == SECTIONS
    levels = seen.page.evaluate(
        "() => [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(each => Number(each.tagName[1]))"
    )
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip([0, *levels], levels, strict=False))


def test_radio_buttons_change_what_is_drawn(page: Any) -> None:
    plot, controls = first_with(page, "input[type=radio]", "#lesions")
    before = figure_state(plot)
    controls.get_by_role("radio").nth(1).check()
    assert figure_state(plot) != before
    controls.get_by_role("radio").nth(0).check()
    assert figure_state(plot) == before


def test_radio_buttons_obey_the_keyboard(page: Any) -> None:
    plot, controls = first_with(page, "input[type=radio]", "#lesions")
    before = figure_state(plot)
    radios = controls.get_by_role("radio")
    radios.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert radios.nth(1).is_checked()
    assert figure_state(plot) != before


def test_the_colour_bar_says_what_is_coloured(page: Any) -> None:
    plot, controls = first_with(page, "input[type=radio]", "#lesions")
    titles = []
    for radio in controls.get_by_role("radio").all():
        radio.check()
        titles.append(plot.locator(".infolayer").text_content())
    assert len(set(titles)) == len(titles) >= 3


def test_sections_show_one_block_that_is_chosen(page: Any) -> None:
    """By keyboard: the arrow takes the next one, and its figures are drawn."""
    group = page.locator("#lesions .group").first
    radios = group.locator(":scope > .choices input[type=radio]")
    assert radios.count() >= 2
    assert shown_blocks(page, "lesions") == 1
    before = group.locator(":scope > .block").filter(visible=True).get_attribute("data-choice")
    radios.first.scroll_into_view_if_needed()
    group.locator(":scope > .choices").first.locator("input:checked").focus()
    page.keyboard.press("ArrowRight")
    block = group.locator(":scope > .block").filter(visible=True)
    assert shown_blocks(page, "lesions") == 1
    assert block.get_attribute("data-choice") != before
    block.locator(".plot").first.scroll_into_view_if_needed()
    assert wait_until_drawn(page) >= 1


def sortable(page: Any) -> Any:
    """The first table in sight with a column of at least five different numbers, and that column's place."""
    for table in page.locator("main table").filter(visible=True).all():
        heads = table.locator("thead th")
        for place in range(heads.count()):
            values = numbers(table, place)
            if heads.nth(place).get_by_role("button").count() and len(set(values)) >= 5:
                return table, place
    pytest.fail("no table with a column of numbers can be sorted")


def test_tables_sort_by_number_and_undefined_comes_last(page: Any) -> None:
    table, place = sortable(page)
    head = table.locator("thead th").nth(place)
    given = numbers(table, place)
    gone = given[2]
    table.evaluate("(table, place) => { table.tBodies[0].rows[2].cells[place].dataset.value = 'nan'; }", place)
    rest = sorted(value for i, value in enumerate(given) if i != 2)
    undefined = (
        "(table, place) => [...table.tBodies[0].rows].findIndex(row => row.cells[place].dataset.value === 'nan')"
    )
    states = set()
    for press in ("click", "Enter", "Space"):
        if press == "click":
            head.get_by_role("button").click()
        else:
            head.get_by_role("button").focus()
            page.keyboard.press(press)
        state = head.get_attribute("aria-sort")
        states.add(state)
        assert numbers(table, place) == (rest if state == "ascending" else rest[::-1]), gone
        assert table.evaluate(undefined, place) == len(given) - 1
    assert states == {"ascending", "descending"}
    assert table.locator("[aria-sort]").count() == 1


def test_tables_are_filtered_and_say_how_many_rows_are_left(page: Any) -> None:
    box = page.get_by_role("searchbox").filter(visible=True).first
    status = page.locator(".filter output").filter(visible=True).first
    rows = page.locator(".filter").filter(visible=True).first.locator("xpath=following::table[1]/tbody/tr")
    total = rows.count()
    assert total > 15
    word = rows.nth(total - 1).locator("th, td").first.text_content().strip()
    box.fill(word)
    left = rows.filter(visible=True).count()
    assert 0 < left < total
    assert status.text_content() == f"{left} of {total} rows"
    box.fill("no such row")
    assert rows.filter(visible=True).count() == 0
    box.fill("")
    assert rows.filter(visible=True).count() == total


def test_the_button_and_the_system_choose_the_look(page: Any) -> None:
    figure = page.locator(".plot").filter(visible=True).first
    figure.scroll_into_view_if_needed()
    wait_until_drawn(page)
    light = page.evaluate(PAPER)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"before => ({PAPER})().every((colour, i) => colour !== before[i])", arg=light)
    dark = page.evaluate(PAPER)
    button = page.locator("#look")
    words = [button.inner_text()]
    for expected in (light, dark):
        button.click()
        words.append(button.inner_text())
        figure.scroll_into_view_if_needed()
        page.wait_for_function(f"expected => ({PAPER})().join() === expected.join()", arg=expected)
    button.press("Enter")
    assert button.inner_text() == words[0]
    assert len(set(words)) == 3
    page.emulate_media(color_scheme="light")
    figure.scroll_into_view_if_needed()
    page.wait_for_function(f"expected => ({PAPER})().join() === expected.join()", arg=light)


@pytest.mark.parametrize("look", ["light", "dark"])
def test_text_stands_out(seen: Opened, look: str) -> None:
    """WCAG 2 AA: 4.5 to 1, in every text outside the figures; those have the colours of `theme`."""
    seen.page.emulate_media(color_scheme=look)
    unfold(seen.page)
    count, poor = texts_below(seen.page, 4.5)
    seen.page.emulate_media(color_scheme="light")
    assert count > 100
    assert poor == []


def test_it_does_not_scroll_sideways(chromium: Any, path: Path) -> None:
    """On a phone, and when that is turned; nor in a wide window, see above."""
    opened = open_page(chromium, path, width=380, height=800, color_scheme="dark")
    for width in (380, 800):
        opened.page.set_viewport_size({"width": width, "height": 800})
        scroll_through(opened.page)
        assert sideways(opened.page) == []
        unfold(opened.page)
        assert sideways(opened.page) == []
    assert opened.errors == []
    opened.close()


def test_it_prints_with_its_figures(chromium: Any, path: Path, tmp_path: Path) -> None:
    """Figures that were never near are drawn for paper, and the page is light."""
    opened = open_page(chromium, path, color_scheme="dark")
    page = opened.page
    page.locator("#page .neuron-page").wait_for()
    page.emulate_media(media="print", color_scheme="dark")
    page.pdf(path=tmp_path / "page.pdf")
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert content.count(b"/Type /Page\n") >= 4
    undrawn = page.locator(".plot:not(.drawn)").filter(visible=True)
    assert undrawn.count() == 0
    back = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert back in {"rgb(255, 255, 255)", "rgba(0, 0, 0, 0)"}
    page.wait_for_timeout(200)
    assert opened.errors == []
    opened.close()


def test_everything_that_can_be_used_has_a_name(seen: Opened) -> None:
    """In the tree that screen readers get; a figure is an image with a name."""
    found = names_of_controls(seen.page)
    assert {"button", "link", "radio", "image", "searchbox", "table"} <= {role for role, _ in found}
    assert [role for role, name in found if not name.strip()] == []
    assert seen.page.locator("main").count() == 1
    assert seen.page.locator("html").get_attribute("lang") == "en"
    assert seen.page.locator("nav").count() >= 1


def test_the_first_key_skips_to_the_content(chromium: Any, path: Path) -> None:
    opened = open_page(chromium, path)
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.getAttribute('href')").startswith("#")
    assert "kip" in page.evaluate("() => document.activeElement.textContent")
    page.keyboard.press("Enter")
    target = page.evaluate("() => document.querySelector(location.hash).tagName")
    assert target in {"MAIN", "SECTION", "H2"}
    opened.close()


def test_the_contents_mark_the_section_that_is_read(page: Any) -> None:
    for section in ("lesions", "dropped", "finding"):
        page.evaluate("id => document.getElementById(id).scrollIntoView({behavior: 'instant'})", section)
        page.wait_for_function(
            "id => document.querySelector(`nav a[href='#${id}']`)?.getAttribute('aria-current') === 'true'", arg=section
        )


def chosen_neuron(page: Any) -> str:
    return page.locator("#page .neuron-page").get_attribute("id").removeprefix("neuron-")


def test_a_neuron_page_opens_by_its_address(chromium: Any, path: Path, seen: Opened) -> None:
    index = json.loads(seen.page.locator("#page-index").text_content())
    names = [name for tag in index for method in tag["methods"] for name, _ in method["neurons"]]
    assert names[0] != names[-1]
    opened = open_page(chromium, path, hash_=f"#{names[-1]}")
    assert chosen_neuron(opened.page) == names[-1]
    opened.page.wait_for_function("() => document.getElementById('page').getBoundingClientRect().top < innerHeight")
    assert opened.page.locator("#page .plot").count() >= 1
    wait_until_drawn(opened.page)
    opened.page.evaluate("name => { location.hash = name; }", names[0])
    opened.page.wait_for_function(
        "name => document.querySelector('#page .neuron-page').id === `neuron-${name}`", arg=names[0]
    )
    assert opened.errors == []
    opened.close()


def test_a_neuron_page_opens_by_keyboard(page: Any) -> None:
    """From the list of names, from the choice of a tag, and from the table of the best neurons."""
    before = chosen_neuron(page)
    other = page.locator("#page-names a").filter(has_not_text=before).first
    name = other.inner_text()
    other.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("name => document.querySelector('#page .neuron-page').id === `neuron-${name}`", arg=name)
    assert page.locator("#page-names a[aria-current=true]").inner_text() == name
    page.locator("#page-tag").focus()
    tag = page.locator("#page-tag").input_value()
    page.keyboard.press(
        "ArrowDown" if page.locator("#page-tag option").last.get_attribute("value") != tag else "ArrowUp"
    )
    assert page.locator("#page-tag").input_value() != tag
    link = page.locator("#neurons a[href^='#L']").filter(visible=True).first
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(
        "name => document.querySelector('#page .neuron-page').id === `neuron-${name}`", arg=link.inner_text()
    )


def test_without_javascript_every_block_can_be_read(chromium: Any, path: Path) -> None:
    opened = open_page(chromium, path, java_script_enabled=False)
    blocks = opened.page.locator(".block")
    assert blocks.count() >= 4
    assert blocks.filter(visible=True).count() == blocks.count()
    assert opened.page.locator("#look").is_hidden()
    opened.close()


def test_names_from_the_data_are_text(chromium: Any, tmp_path: Path) -> None:
    """Tags, methods, words, names and warnings that would run as scripts if they were let."""
    names = {"name": SCRIPT, "tagset": IMAGE, "sha256": SCRIPT, "splits": {SCRIPT: {"sentences": 1, "words": 2}}}
    write_run(
        tmp_path, tags=HOSTILE, methods=(f"attribution{SCRIPT}", IMAGE), ablations=(SCRIPT,), word=SCRIPT,
        command=SCRIPT, treebank=names, warnings=[SCRIPT, IMAGE],
    )  # fmt: skip
    build_report(tmp_path)
    opened = open_page(chromium, tmp_path / "report.html")
    page = opened.page
    scroll_through(page)
    for control in page.locator("input[type=radio]").element_handles():
        if control.is_visible():
            control.check()
    for link in page.locator("#page-names a").all()[:3]:
        link.click()
        wait_until_drawn(page)
    for plot in page.locator(".plot.drawn").filter(visible=True).all()[:6]:
        plot.scroll_into_view_if_needed()
        plot.hover()
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("[onerror], [onmouseover], [onload]").count() == 0
    assert SCRIPT in page.locator("#warnings").inner_text()
    assert IMAGE in page.locator("#lesions").inner_text()
    assert opened.errors == []
    assert opened.console == []
    assert len(opened.requests) == 1
    opened.close()


BROKEN = """<!DOCTYPE html><title>x</title>
<body style="background: #fff"><p style="color: #999">pale</p><p style="width: 900px; background: #eee">wide</p>
<p style="color: #0009; background: #444">half seen</p><button></button><div class="plot" style="height: 9px"></div>
<img src="missing.png"><script>console.warn("told"); missing();</script>"""


def test_what_these_tests_would_not_let_pass(chromium: Any, tmp_path: Path) -> None:
    """Black on white has a contrast of 21; #999 on white has 2.85 (WCAG 2)."""
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((153, 153, 153), (255, 255, 255)) == pytest.approx(2.849, abs=1e-3)
    (tmp_path / "x.html").write_text(BROKEN)
    opened = open_page(chromium, tmp_path / "x.html", width=380)
    assert opened.requests[1:] == [(tmp_path / "missing.png").as_uri()]
    assert "warning: told" in opened.console
    assert opened.errors == ["missing is not defined"]
    assert [text.split(":")[0] for text in texts_below(opened.page, 4.5)[1]] == ["'half seen'", "'pale'"]
    assert sideways(opened.page)[-1] == "document 908 > 380"
    assert ("button", "") in names_of_controls(opened.page)
    opened.page.set_default_timeout(300)
    with pytest.raises(Exception, match="Timeout 300ms exceeded"):
        wait_until_drawn(opened.page)
    opened.close()
