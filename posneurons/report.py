"""A run directory to one page, `report.html`: self-contained, no network, written whole or not at all.

The files of the run are read by `run_files`, become figures in `run_figures` and tables in `run_tables`, and are put
together in `blocks`; the template `report.html` lays them out, with autoescape on, beside `report.css` and `report.js`.
Figures are drawn with plotly.js, which stands in the page once (4.8 MB: the Python package has the full bundle only).
It, the figures and the neuron pages are packed (zlib, base64), which makes the page 0.4 times as large and lets it open
before anything is drawn; the browser unpacks them itself (`DecompressionStream`). The page needs Chrome 86,
Firefox 113 or Safari 16.4. What the page claims is worded by `findings`.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from posneurons import blocks, run_tables
from posneurons.files import write_whole
from posneurons.findings import lead, sentences
from posneurons.lock import alone
from posneurons.manifest import read_manifest
from posneurons.run_figures import keyed_figures
from posneurons.run_files import Run, read_run
from posneurons.theme import number, template

CAUTION = "The model does not know this treebank’s language (see the warnings): read what follows so."


def build_report(run_dir: Path) -> Path:
    """Write `report.html` from the other files of a run directory and return its path.

    A stage that was not run is said to be missing in its section. Raises RunError (where, found, expected, what to do)
    where the manifest, or a file of a stage that the manifest calls done, is missing or damaged (an older page stays),
    or where another process works in the directory.
    """
    read_manifest(run_dir)  # where there is no run, no folder is made
    with alone(run_dir):
        return write_page(run_dir)


def write_page(run_dir: Path) -> Path:
    """What `build_report` does, for those who hold the lock of the run directory."""
    page = page_of(read_run(run_dir))
    path = run_dir / "report.html"
    write_whole(path, lambda part: part.write_text(page, encoding="utf-8", errors="backslashreplace"))
    return path


def page_of(run: Run) -> str:
    """The page of a run as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    figures = keyed_figures(run)
    numbers = {key: str(place) for place, key in enumerate(figures)}
    groups = {
        "layers": blocks.layers(run, figures),
        "neurons": blocks.neurons(run),
        "lesions": blocks.lesions(run, figures),
        "dissociations": blocks.dissociations(run, figures),
        "sweeps": blocks.sweeps(run, figures),
        "probes": blocks.probes(run, figures),
        "overlaps": blocks.overlaps(run, figures),
        "similarities": blocks.similarities(run, figures),
    }
    pages = list(blocks.pages(run, figures))
    drawings = {numbers[each.key]: _for_plotly(each) for group in groups.values() for each in group.drawings()}
    return environment.from_string(_file("report.html")).render(
        manifest=run.manifest,
        raw=json.dumps(run.manifest, indent=1, ensure_ascii=False),
        caution=CAUTION if _unknown_language(run) else "",
        lead=lead(run.lesions, run.dissociations, run.probe or ()),
        findings=sentences(run.lesions, run.dissociations, run.probe or (), run.verify),
        groups=groups,
        numbers=numbers,
        pages=pages,
        nothing=_nothing(run),
        index=_index(pages),
        dropped=run_tables.dropped(run.manifest["dropped"]),
        dropped_words=sum(row["words"] for row in run.manifest["dropped"]),
        configuration=run_tables.configuration(run.manifest["config"]),
        looks={"light": template().to_plotly_json(), "dark": template(dark=True).to_plotly_json()},
        css=_ours("report.css") + _page_css(run),
        js=_ours("report.js"),
        packed={
            "plotly": _packed_plotly(),
            "figures": _packed(_json(drawings)),
            "pages": _packed(_json({each["name"]: _for_page(each) for each in pages})),
        },
    )


def _for_plotly(drawing: blocks.Drawing) -> dict[str, Any]:
    return {"figure": drawing.figure, "menus": drawing.menus}


def _for_page(page: dict[str, Any]) -> dict[str, Any]:
    """What report.js shows of a neuron: HTML that is escaped already, and a figure."""
    drawing = page["figure"]
    return {"html": str(page["html"]), "alt": drawing.alt, "height": drawing.height, **_for_plotly(drawing)}


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode("utf-8", "backslashreplace"), 9)).decode()


@cache
def _packed_plotly() -> str:
    return _packed(get_plotlyjs())


def findings(run_dir: Path) -> list[str]:
    """What a run found: a sentence or two for each method and test, claiming no more than the tests say.

    Raises RunError where a file is missing or damaged.
    """
    run = read_run(run_dir)
    found = sentences(run.lesions, run.dissociations, run.probe or (), run.verify)
    return [CAUTION, *found] if found and _unknown_language(run) else found


def _unknown_language(run: Run) -> bool:
    notes = run.manifest.get("notes")
    known = notes.get("fluency") if isinstance(notes, dict) else None
    return isinstance(known, dict) and known.get("knows") is False


def _nothing(run: Run) -> dict[str, str]:
    """By section, why there is nothing to show of a stage that is done; "" where there is something."""
    older = "The stage “{}” is done, but there is no {}: it was deleted, or posneurons did not write it yet then."
    pair = "A single tag has no pair of tags." if len(run.tags) == 1 else "There is no pair of tags to compare."
    asked = run.manifest["config"].get("pages", 0)
    page = "No neuron has a page." if asked else "No neuron page was asked for (--pages 0)."

    def why(found: Any, file: str, stage: str, empty: str) -> str:
        return older.format(stage, file) if found is None else "" if len(found) else empty

    return {
        "dissociations": why(run.dissociations, "dissociations.parquet", "lesion", pair),
        "overlap": why(run.overlap, "overlap.parquet", "rank", pair),
        "pages": why(run.pages, "neuron_pages.json", "pages", page),
    }


def _index(pages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By tag and method, the neurons that have a page, with their ranks; unranked ones under "other"."""
    found: dict[str, dict[str, list[tuple[str, int | None]]]] = {}
    for page in pages:
        for why in page["of"] or [{"tag": "other", "method": "", "rank": None}]:
            found.setdefault(why["tag"], {}).setdefault(why["method"], []).append((page["name"], why["rank"]))
    return [
        {
            "tag": tag,
            "methods": [
                {"method": method, "neurons": sorted(names, key=lambda each: each[1] or 0)}
                for method, names in methods.items()
            ],
        }
        for tag, methods in found.items()
    ]


def _file(name: str) -> str:
    return files("posneurons").joinpath(name).read_text(encoding="utf-8")


def _ours(name: str) -> Markup:
    return Markup(_file(name))  # noqa: S704 (a file of this package)


def _page_css(run: Run) -> Markup:
    if not run.pages:
        return Markup()
    from posneurons.neuron_pages import PAGE_CSS

    return Markup(PAGE_CSS)  # noqa: S704 (a file of this package)
