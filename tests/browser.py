"""A real browser for tests of the page: Chromium, led by playwright; tests are skipped where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-quic",
]  # fmt: skip


def missing() -> str | None:
    """Why there is no browser, or None where there is one."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed (pip install playwright)"
    return None if executable() else f"none of {', '.join(NAMES)} is installed (apt-get install chromium)"


def executable() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Any]:
    """A browser with a new profile, which talks to nobody; skips the test where there is none."""
    if reason := missing():
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable(), args=QUIET)
        try:
            yield chromium
        finally:
            chromium.close()


@dataclass
class Opened:
    """A page that was opened from its file, and all that it said and asked for meanwhile."""

    page: Any
    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def close(self) -> None:
        self.page.context.close()


def open_page(
    chromium: Any, path: Path, *, width: int = 1280, height: int = 900, hash_: str = "", **context: Any
) -> Opened:
    """Open a file in a context of its own (`context`: color_scheme, java_script_enabled, ...) and wait for its load."""
    page = chromium.new_context(viewport={"width": width, "height": height}, **context).new_page()
    page.set_default_timeout(10_000)
    opened = Opened(page)
    page.on("console", lambda told: opened.console.append(f"{told.type}: {told.text}"))
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on("request", lambda asked: opened.requests.append(asked.url))
    page.goto(path.as_uri() + hash_, wait_until="load")
    return opened


SEEN = """() => [...document.querySelectorAll('.plot')].filter(plot => {
    const box = plot.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight;
})"""
"""The figures in view."""
ALL_DRAWN = f"() => ({SEEN})().every(plot => plot.classList.contains('drawn') && plot.querySelector('svg.main-svg'))"


def wait_until_drawn(page: Any) -> int:
    """Wait until every figure in view is drawn; gives back how many there are."""
    page.wait_for_function(ALL_DRAWN)
    return int(page.evaluate(f"() => ({SEEN})().length"))


SCROLL = """async () => {
    const frame = () => new Promise(done => requestAnimationFrame(done));
    for (let at = 0; at < document.documentElement.scrollHeight; at += 400) {
        scrollTo({top: at, behavior: 'instant'});
        await frame();
        await frame();
    }
}"""
UNDRAWN = """() => [...document.querySelectorAll('.plot:not(.drawn)')].every(plot => !plot.checkVisibility())"""


def scroll_through(page: Any) -> None:
    """Scroll from the top to the end and back, and wait until every figure that is not hidden is drawn."""
    page.evaluate(SCROLL)
    page.wait_for_function(UNDRAWN)
    page.evaluate("() => scrollTo({top: 0, behavior: 'instant'})")


ROLES = {"button", "checkbox", "combobox", "image", "link", "radio", "radiogroup", "searchbox", "table", "textbox"}


def names_of_controls(page: Any) -> list[tuple[str, str]]:
    """Role and name of all that can be used or is an image or a table, as screen readers get them."""
    session = page.context.new_cdp_session(page)
    session.send("DOM.enable")
    found = []
    for node in session.send("Accessibility.getFullAXTree")["nodes"]:
        role, name = str(node.get("role", {}).get("value")), str(node.get("name", {}).get("value", ""))
        role = ALIASES.get(role, role)
        if node["ignored"] or role not in ROLES:
            continue
        if role == "image" and not name:  # plotly's own drawings, inside of what has a name
            drawn = session.send("DOM.describeNode", {"backendNodeId": node["backendDOMNodeId"]})["node"]["nodeName"]
            role = "svg" if drawn == "svg" else role
        found += [(role, name)] if role in ROLES else []
    return found


ALIASES = {"img": "image", "radioGroup": "radiogroup", "comboBoxSelect": "combobox", "DisclosureTriangle": "button"}
"""What Chromium calls roles, and what ARIA does."""


def luminance(colour: tuple[float, float, float]) -> float:
    """Relative luminance of WCAG 2, of red, green and blue in 0..255."""
    parts = [value / 255 for value in colour]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """Contrast ratio of WCAG 2, 1..21; black on white is 21."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


POOR_TEXT = """() => {
    const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
    const brush = canvas.getContext('2d', {willReadFrequently: true});
    const rgba = colour => {
        brush.clearRect(0, 0, 1, 1);
        brush.fillStyle = colour;
        brush.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, under) => {
        return [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
    };
    const behind = element => {
        const layers = [];
        for (let at = element; at; at = at.parentElement) layers.unshift(rgba(getComputedStyle(at).backgroundColor));
        return layers.reduce((under, top) => over(top, under), [255, 255, 255]);
    };
    const texts = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const element = node.parentElement;
        const text = node.data.trim();
        if (!text || element.closest('svg, script, style, template, .plot') || !element.checkVisibility()) continue;
        const paper = behind(element);
        const ink = over(rgba(getComputedStyle(element).color), paper);
        texts.push([text.slice(0, 40), ink, paper]);
    }
    return texts;
}"""


def texts_below(page: Any, ratio: float) -> tuple[int, list[str]]:
    """How many texts are seen outside figures, and those whose contrast with what is behind them is too low."""
    found = page.evaluate(POOR_TEXT)
    poor = [f"{text!r}: {contrast(ink, paper):.2f}" for text, ink, paper in found if contrast(ink, paper) < ratio]
    return len(found), sorted(set(poor))


def sideways(page: Any) -> list[str]:
    """What sticks out of the window where the document scrolls sideways; nothing where it does not."""
    return page.evaluate("""() => {
        const root = document.documentElement;
        if (root.scrollWidth <= root.clientWidth) return [];
        return [...document.querySelectorAll('body *')]
            .filter(each => each.getBoundingClientRect().right > root.clientWidth + 1)
            .slice(0, 5).map(each => `${each.tagName}.${each.className} to ${each.getBoundingClientRect().right}`)
            .concat([`document ${root.scrollWidth} > ${root.clientWidth}`]);
    }""")


def figure_state(plot: Any) -> Any:
    """What a figure shows: values and colour-bar titles of its traces, as text."""
    return plot.evaluate(
        "plot => JSON.stringify(plot.data.map((trace, i) => [trace.z, trace.x, trace.y, trace.visible,"
        " plot._fullData[i].colorbar?.title?.text]))"
    )


def first_with(page: Any, control: str, section: str = "main") -> tuple[Any, Any]:
    """The first figure in sight that has such controls, drawn, and these controls."""
    figures = page.locator(f"{section} figure").filter(has=page.locator(f".controls {control}")).filter(visible=True)
    figure = figures.first
    figure.scroll_into_view_if_needed()
    figure.locator(".plot.drawn").wait_for()
    return figure.locator(".plot"), figure.locator(".controls").filter(has=page.locator(control)).first


def numbers(table: Any, place: int) -> list[float]:
    """The numbers of a column, from top to bottom; rows without are left out."""
    return table.evaluate(
        """(table, place) => [...table.tBodies[0].rows].filter(row => !row.hidden)
            .map(row => row.cells[place]?.dataset.value).filter(each => each !== undefined)
            .map(Number).filter(each => !Number.isNaN(each))""",
        place,
    )


PAPER = """() => {
    const plot = [...document.querySelectorAll('.plot.drawn')].find(each => each.checkVisibility());
    const {paper_bgcolor, font} = plot._fullLayout;
    return [getComputedStyle(document.body).backgroundColor, paper_bgcolor, font.color];
}"""
"""Background of the page and of a drawn figure, and the ink of its text."""


def unfold(page: Any) -> None:
    page.evaluate("() => document.querySelectorAll('details').forEach(each => { each.open = true; })")


def shown_blocks(page: Any, section: str) -> int:
    return int(page.locator(f"#{section} .group > .block").filter(visible=True).count())
