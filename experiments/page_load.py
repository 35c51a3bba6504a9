"""How big is the page of a run, and how fast does it open?

Command:  python experiments/page_load.py [RUN ...] [--repeats 5] [--screenshots FOLDER]
Cost:     about a minute for each page; ten minutes with screenshots.
Outcome:  a page of the embedded run is under 8 MB; one of a model as large as Llama-3-8B (32 layers of 14,336 neurons,
          17 tags, made up by tests/synthetic.py) opens in less than 3 seconds.

Each page is built anew in a copy of the run directory and opened so many times in Chromium, each time in a new context,
at 1280 by 900. Times are medians (and the longest), in seconds since the page was asked for: until its load event, and
until the first figure is drawn where one jumps there at once. Then it is scrolled to its end by 300 pixels a frame,
which draws every figure that is not hidden, and back: the longest frame of either way, in milliseconds (a frame without
work takes 17), and how many figures were drawn. With --screenshots, every section is saved as
FOLDER/RUN/WIDTH-LOOK-SECTION.png.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from tables import markdown

from posneurons.report import build_report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import browser
import synthetic

WIDTHS = (1280, 800, 380)
LOOKS = ("light", "dark")
FIRST = """async () => {
    const plot = [...document.querySelectorAll('.plot')].find(each => each.checkVisibility());
    scrollTo({top: plot.getBoundingClientRect().top - 100, behavior: 'instant'});
    while (!plot.classList.contains('drawn')) await new Promise(done => requestAnimationFrame(done));
    const now = performance.now();
    scrollTo({top: 0, behavior: 'instant'});
    return now;
}"""
SCROLL = """async step => {
    const frame = () => new Promise(done => requestAnimationFrame(done));
    let last = await frame();
    let longest = 0;
    for (let still = 0; still < 5; ) {
        const before = scrollY;
        scrollBy({top: step, behavior: 'instant'});
        const now = await frame();
        longest = Math.max(longest, now - last);
        last = now;
        still = scrollY === before ? still + 1 : 0;
    }
    return longest;
}"""


def built(run: Path | None, folder: Path) -> tuple[Path, float]:
    """The page of a copy of a run (None: of a made-up large one), and how many seconds it took to build."""
    copy = folder / ("large" if run is None else run.resolve().name)
    if run is None:
        synthetic.write_run(copy, **synthetic.FULL)
    else:
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("report.html", "losses", "figures"))
    begin = time.perf_counter()
    build_report(copy)
    return copy / "report.html", time.perf_counter() - begin


def opened(chromium: Any, path: Path) -> dict[str, float]:
    """One opening of a page."""
    seen = browser.open_page(chromium, path)
    page = seen.page
    page.set_default_timeout(60_000)
    drawn = page.evaluate(FIRST)
    load = page.evaluate("() => performance.getEntriesByType('navigation')[0].loadEventEnd")
    first, again = page.evaluate(SCROLL, 300), page.evaluate(SCROLL, -300)
    found = {
        "load": load / 1000, "drawn": drawn / 1000, "frame, first": first, "frame, again": again,
        "figures": page.locator(".plot.drawn").count(), "told": len(seen.console) + len(seen.errors),
    }  # fmt: skip
    seen.close()
    return found


def row(chromium: Any, path: Path, building: float, repeats: int) -> dict[str, object]:
    times = pd.DataFrame([opened(chromium, path) for _ in range(repeats)])

    def told(name: str, form: str) -> str:
        return f"{times[name].median():{form}} ({times[name].max():{form}})"

    return {
        "page": path.parent.name,
        "MB": f"{path.stat().st_size / 1e6:.2f}",
        "built, s": f"{building:.1f}",
        "load, s": told("load", ".2f"),
        "first figure, s": told("drawn", ".2f"),
        "longest frame, first": told("frame, first", ".0f"),
        "longest frame, again": told("frame, again", ".0f"),
        "figures": int(times["figures"].max()),
        "console messages": int(times["told"].max()),
    }


def save_screenshots(chromium: Any, path: Path, folder: Path) -> None:
    """Every section in each width and look; figures are drawn by scrolling over them first."""
    folder.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        for look in LOOKS:
            seen = browser.open_page(chromium, path, width=width, color_scheme=look)
            seen.page.set_default_timeout(60_000)
            seen.page.evaluate(SCROLL, 300)
            for section in seen.page.locator("section[id]").all():
                if section.is_visible():
                    section.screenshot(path=folder / f"{width}-{look}-{section.get_attribute('id')}.png")
            seen.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run directories")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if reason := browser.missing():
        sys.exit(reason)
    rows = []
    with tempfile.TemporaryDirectory() as scratch, browser.browser() as chromium:
        for run in [*options.runs, None]:
            path, building = built(run, Path(scratch))
            rows.append(row(chromium, path, building, options.repeats))
            if options.screenshots:
                save_screenshots(chromium, path, options.screenshots / path.parent.name)
    sys.stdout.write(markdown(pd.DataFrame(rows)) + "\n")


if __name__ == "__main__":
    main()
