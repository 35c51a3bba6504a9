"""Figures to files: SVG, PDF and PNG by kaleido, HTML by plotly alone.

Kaleido (the extra "figures") draws in a Chrome or Chromium that it finds; to start one takes longer than to draw, so
all figures of a call share one. It is told to load no MathJax, and plotly.js comes from the installed plotly: nothing
is fetched. A file is whole or absent.
"""

from __future__ import annotations

import asyncio
import html
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from posneurons.errors import RunError
from posneurons.files import write_whole

STATIC = ("svg", "pdf", "png")
FORMATS = (*STATIC, "html")
WIDTH = 900
"""Pixels; 900 of them are 9.4 inches in a PDF."""
LONGEST = 120
"""Characters of a file's name, without its suffix."""
INSTALL = 'pip install "posneurons[figures]"'
BROWSER = "install Chromium or Google Chrome (Debian: apt-get install chromium; elsewhere: plotly_get_chrome)"
PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<body style="margin: 0">
{figure}
</body>
</html>
"""


@dataclass(frozen=True)
class _Job:
    """A figure, where it goes, and its size."""

    figure: go.Figure
    path: Path
    width: int
    height: int | None
    scale: float

    @property
    def kind(self) -> str:
        return self.path.suffix.lower().removeprefix(".")

    @property
    def options(self) -> dict[str, Any]:
        """What kaleido asks for; only pixels have a scale."""
        scale = self.scale if self.kind == "png" else 1.0
        return {"format": self.kind, "width": self.width, "height": self.height, "scale": scale}


def save_figure(
    figure: go.Figure, path: str | Path, *, width: int = WIDTH, height: int | None = None, scale: float = 2.0
) -> Path:
    """Write a figure to a file whose suffix says how: .svg, .pdf, .png, or .html.

    HTML holds plotly.js (about 5 MB): it opens without a network, and its buttons work. The others show the figure as
    it first appears, without buttons, menus and sliders, and need `pip install "posneurons[figures]"` and a Chrome or
    Chromium.

    Args:
        figure: What a record's `figure()` gives, or any plotly figure. It is not changed.
        path: Where to write; a file of that name is replaced.
        width: Width in pixels.
        height: Height in pixels; the figure's own by default.
        scale: Pixels of a PNG in each direction for one pixel of the figure. Other formats have no pixels.

    Returns:
        The path written.

    Raises:
        RunError: where the suffix is another, a size is not positive, the folder is not there or cannot be written,
            kaleido or a browser is missing, or the figure cannot be drawn.
    """
    path = Path(path)
    _write([_job(figure, path, width, height, scale)])
    return path


def check_formats(formats: Iterable[str]) -> None:
    """Raise RunError where a format is not one of `STATIC`."""
    for each in formats:
        if each not in STATIC:
            raise RunError(f"figures are not written as {each!r}; use {', '.join(STATIC)}")


def save_figures(
    figures: Mapping[str, go.Figure],
    folder: str | Path,
    formats: Iterable[str] = ("svg",),
    *,
    width: int = WIDTH,
    height: int | None = None,
    scale: float = 2.0,
) -> list[Path]:
    """Write every figure to `folder`, in every format (of "svg", "pdf", "png"); one browser draws them all.

    The folder is made. A name keeps its letters, digits and any of ._+=; all else becomes a hyphen, and
    names that become the same are numbered. Sizes and errors are those of `save_figure`.

    Returns:
        The paths written, in the order of the figures.
    """
    folder, formats = Path(folder), tuple(dict.fromkeys(formats))
    check_formats(formats)
    paths = [(figure, folder / f"{name}.{kind}") for name, figure in _named(figures) for kind in formats]
    jobs = [_job(figure, path, width, height, scale) for figure, path in paths]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made ({error.strerror}); expected a folder; choose another") from None
    _write(jobs)
    return [job.path for job in jobs]


def _named(figures: Mapping[str, go.Figure]) -> list[tuple[str, go.Figure]]:
    """The figures under names that are good for files, no two alike (also where the file system ignores case)."""
    named: list[tuple[str, go.Figure]] = []
    taken: set[str] = set()
    for name, figure in figures.items():
        short = re.sub(r"[^\w.+=-]+", "-", name).strip("-.")[:LONGEST] or "figure"
        tries = (short if i == 1 else f"{short}-{i}" for i in range(1, len(figures) + 1))
        free = next(each for each in tries if each.casefold() not in taken)
        taken.add(free.casefold())
        named.append((free, figure))
    return named


def _job(figure: go.Figure, path: Path, width: int, height: int | None, scale: float) -> _Job:
    """A job whose words make sense. Raises RunError where they do not."""
    if path.suffix.lower().removeprefix(".") not in FORMATS:
        known = ", ".join(f".{each}" for each in FORMATS)
        raise RunError(f"{path}: figures are not written as {path.suffix or 'a file without suffix'!r}; use {known}")
    if not hasattr(figure, "to_plotly_json"):
        raise RunError(f"{path}: {type(figure).__name__} is no plotly figure; give what a record's figure() gives")
    for name, value in {"width": width, "height": height, "scale": scale}.items():
        if value is not None and not 0 < value < float("inf"):
            raise RunError(f"{path}: {name} of a figure must be a positive number. Got {value!r} instead.")
    return _Job(figure, path, width, height, scale)


def _write(jobs: list[_Job]) -> None:
    """Write all. A thread of its own runs the session, because notebooks have a loop that runs already."""
    pages = [job for job in jobs if job.kind == "html"]
    for job in pages:
        _store(job, _page(job).encode())
    if drawn := [job for job in jobs if job.kind != "html"]:
        with _hushed("choreographer", "kaleido"), ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, _session(drawn)).result()


@contextmanager
def _hushed(*names: str) -> Iterator[None]:
    """Keep others from logging how a browser ends; what goes wrong is raised."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


async def _session(jobs: list[_Job]) -> None:
    """Draw the figures one after the other in one browser."""
    try:
        from kaleido import Kaleido
        from kaleido.errors import BrowserClosedError, BrowserFailedError, ChromeNotFoundError
    except ImportError:
        wanted = ", ".join(sorted({job.kind.upper() for job in jobs}))
        raise RunError(f"{wanted} of figures needs kaleido 1 or later; {INSTALL}, or write .html") from None
    try:
        async with Kaleido(mathjax=False) as browser:
            for job in jobs:
                _store(job, await _drawn(browser, job))
    except ChromeNotFoundError:
        raise RunError(f"{jobs[0].path}: no browser was found to draw it; {BROWSER}, or write .html") from None
    except (BrowserFailedError, BrowserClosedError):
        raise RunError(f"{jobs[0].path}: the browser that draws it did not start, or broke off; {BROWSER}") from None


async def _drawn(browser: Any, job: _Job) -> bytes:
    from kaleido.errors import KaleidoError

    try:
        content: bytes = await browser.calc_fig(still(job.figure), job.options)
    except (KaleidoError, TimeoutError, ValueError) as error:
        raise RunError(f"{job.path}: the figure cannot be drawn ({_line(error)}); see it by .show()") from None
    return content


def still(figure: go.Figure) -> go.Figure:
    """A copy of a figure as a picture shows it: without buttons, menus and sliders, and without the room for them."""
    copy = go.Figure(figure)
    if copy.layout.updatemenus or copy.layout.sliders:
        copy.update_layout(updatemenus=(), sliders=(), overwrite=True)
        if not copy.layout.title.text:
            copy.layout.margin.t = None  # what the template has; legends make their own room
    return copy


def _page(job: _Job) -> str:
    """A figure as a page of its own."""
    config = {"displaylogo": False, "responsive": False}
    sized = go.Figure(job.figure).update_layout(width=job.width, **({"height": job.height} if job.height else {}))
    figure = sized.to_html(include_plotlyjs=True, full_html=False, config=config)
    return PAGE.format(title=html.escape(job.path.stem), figure=figure)


def _store(job: _Job, content: bytes) -> None:
    write_whole(job.path, lambda part: part.write_bytes(content))


def _line(error: Exception) -> str:
    """The first line of what another package says, shortened."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
