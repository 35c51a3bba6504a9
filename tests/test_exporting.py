import asyncio
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree as ET

import plotly.graph_objects as go
import pytest
from synthetic import write_run
from typer.testing import CliRunner

import posneurons as pn
from posneurons import cli, exporting
from posneurons.errors import RunError
from posneurons.run_figures import figures_of
from posneurons.run_files import read_run
from posneurons.theme import buttons, figure_of, heatmap


def figure(tag: str = "NOUN", height: int = 330) -> go.Figure:
    """A heatmap with buttons above it."""
    trace = heatmap([[0.5, 1.0]], [tag, "VERB"], ["L0"], None, None, "nats")
    made = figure_of(trace, height=height, x="tag", y="layer")
    menu = buttons(["nats", "z"], [{"z": [[[0.5, 1.0]]]}, {"z": [[[3.0, 4.0]]]}])
    return made.update_layout(updatemenus=[menu], margin={"t": 64}, sliders=[{"steps": [{"label": "one"}]}])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two figures in every format, drawn in one session."""
    folder = tmp_path_factory.mktemp("figures") / "made" / "here"
    try:
        exporting.save_figures({"a/b": figure("<i>R&D"), "A b": figure()}, folder, exporting.STATIC, width=640)
    except RunError as error:
        if "no browser" in str(error) or "kaleido 1 or later" in str(error):
            pytest.skip(str(error))
        raise
    return folder


def plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def size_of_png(path: Path) -> tuple[int, int]:
    return struct.unpack(">II", path.read_bytes()[16:24])  # type: ignore[return-value]


def test_all_are_written_under_good_names(written: Path) -> None:
    names = {f"{name}.{kind}" for name in ("a-b", "A-b-2") for kind in ("svg", "pdf", "png")}
    assert {path.name for path in written.iterdir()} == names


def test_svg_has_text_size_and_template_and_no_buttons(written: Path) -> None:
    svg = (written / "a-b.svg").read_text(encoding="utf-8")
    tree = ET.fromstring(svg)  # noqa: S314, we wrote it
    assert (tree.get("width"), tree.get("height")) == ("640", "330")
    texts = [each.text for each in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"<i>R&D", "VERB", "tag", "layer", "nats"} <= set(texts)
    assert "z" not in texts
    assert "rgb(0, 48, 77)" in svg  # the end of the template's sequential scale
    assert "updatemenu" not in svg
    assert "slider" not in svg


def test_pdf_is_as_large_as_the_figure(written: Path) -> None:
    """96 pixels are 72 points: 640 px = 480 pt, 330 px = 247.5 pt; Chrome rounds up to a pixel or two."""
    content = (written / "a-b.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", content)
    assert len(boxes) == 1
    assert float(boxes[0][0]) == pytest.approx(480, abs=1.5)
    assert float(boxes[0][1]) == pytest.approx(247.5, abs=1.5)


def test_png_has_two_pixels_for_one(written: Path) -> None:
    assert size_of_png(written / "a-b.png") == (1280, 660)


def test_html_needs_nothing_else_and_keeps_the_buttons(tmp_path: Path) -> None:
    path = pn.save_figure(figure("<i>R&D"), tmp_path / "A<b.html", width=640)
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>A&lt;b</title>" in page
    assert "plotly.js v" in page
    assert '"updatemenus"' in page
    assert '"width":640' in page
    assert re.findall(r"<(?:script|link|img)[^>]* (?:src|href)=", page.replace(plotly_js(), "")) == []
    assert "<i>R&D" not in page


def test_the_figure_is_not_changed(tmp_path: Path) -> None:
    given = figure()
    before = given.to_json()
    assert pn.save_figure(given, tmp_path / "x.html", width=500, height=200) == tmp_path / "x.html"
    shown = exporting.still(given)
    assert given.to_json() == before
    assert shown.layout.updatemenus == ()
    assert shown.layout.sliders == ()
    assert shown.layout.margin.t is None
    assert exporting.still(given.update_layout(title_text="A title")).layout.margin.t == 64
    assert exporting.still(go.Figure(layout={"margin": {"t": 90}})).layout.margin.t == 90


def test_names_that_become_the_same_are_numbered() -> None:
    figures = dict.fromkeys(("a b", "a/b", "a-b-2", "", "../x", "Größe", "n" * 300), go.Figure())
    names = [name for name, _ in exporting._named(figures)]
    assert names == ["a-b", "a-b-2", "a-b-2-2", "figure", "x", "Größe", "n" * 120]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("x.gif", {}, r"x.gif: figures are not written as '.gif'; use .svg, .pdf, .png, .html"),
        ("x", {}, r"x: figures are not written as 'a file without suffix'; use .svg"),
        ("x.svg", {"width": 0}, r"x.svg: width of a figure must be a positive number. Got 0 instead."),
        ("x.svg", {"height": -2}, r"height of a figure must be a positive number. Got -2 instead."),
        ("x.png", {"scale": float("nan")}, r"scale of a figure must be a positive number. Got nan instead."),
        ("no/x.html", {}, r"x.html: the file cannot be written: No such file or directory; choose another place"),
    ],
)
def test_what_cannot_be(tmp_path: Path, name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(RunError, match=says):
        pn.save_figure(go.Figure(), tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("")
    with pytest.raises(RunError, match=r"here: cannot be made \(File exists\); expected a folder; choose another"):
        exporting.save_figures({"a": go.Figure()}, tmp_path / "here", ["svg"])


def test_formats_of_a_whole_run(tmp_path: Path) -> None:
    """Sixty pages with plotly.js in each would be 300 MB."""
    with pytest.raises(RunError, match=r"figures are not written as 'html'; use svg, pdf, png"):
        exporting.save_figures({"a": go.Figure()}, tmp_path / "here", ["svg", "html"])
    assert list(tmp_path.iterdir()) == []


def test_without_kaleido(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    says = r'PDF of figures needs kaleido 1 or later; pip install "posneurons\[figures\]", or write .html'
    with pytest.raises(RunError, match=says):
        pn.save_figure(go.Figure(), tmp_path / "x.pdf")
    pn.save_figure(go.Figure(), tmp_path / "x.html")


def test_without_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "chrome"))
    with pytest.raises(RunError, match=r"x.svg: no browser was found to draw it; install Chromium or Google Chrome"):
        pn.save_figure(go.Figure(), tmp_path / "x.svg")


class Stub:
    """A session whose figures are their widths."""

    drawn, fails = 0, 0

    def __init__(self, **options: Any) -> None:
        assert options == {"mathjax": False}, "MathJax would be fetched"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def calc_fig(self, figure: go.Figure, options: dict[str, Any]) -> bytes:
        assert not figure.layout.updatemenus
        self.drawn += 1
        if self.drawn == self.fails:
            from kaleido.errors import KaleidoError

            raise KaleidoError(525, "Map of Mars\nis missing")
        return f"{options['width']} {options['scale']}".encode()


def test_a_figure_that_cannot_be_drawn_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was drawn before it stays; only PNG has a scale."""
    kaleido = pytest.importorskip("kaleido")
    monkeypatch.setattr(kaleido, "Kaleido", Stub)
    monkeypatch.setattr(Stub, "fails", 2)
    with pytest.raises(RunError, match=r"one.png: the figure cannot be drawn \(.*Map of Mars.*\); see it by .show\(\)"):
        exporting.save_figures({"one": figure()}, tmp_path, ["svg", "png", "pdf"], width=70, scale=3.0)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"one.svg": "70 1.0"}


def test_inside_a_running_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook, where asyncio.run would refuse."""
    kaleido = pytest.importorskip("kaleido")
    monkeypatch.setattr(kaleido, "Kaleido", Stub)

    async def cell() -> None:
        pn.save_figure(go.Figure(), tmp_path / "x.png")

    asyncio.run(cell())
    assert (tmp_path / "x.png").read_text() == "900 2.0"


def test_the_command_writes_every_figure_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the page, named as `figures_of` names them; the run directory is an argument or that of --out."""
    kaleido = pytest.importorskip("kaleido")
    monkeypatch.setattr(kaleido, "Kaleido", Stub)
    run = write_run(tmp_path / "run", tags=("NOUN", "VERB"), stages=("rank", "lesion"), ablations=("mean",))
    done = CliRunner().invoke(cli.app, ["report", "--out", str(run), "--figures", "svg", "--figures", "png"])
    assert done.exception is None, done.output
    expected = set(figures_of(read_run(run)))
    assert len(expected) > 8
    assert {path.name for path in (run / "figures").glob("*.svg")} == {f"{name}.svg" for name in expected}
    assert {path.read_text() for path in (run / "figures").glob("*.png")} == {"900 2.0"}
    assert f"Figures: {2 * len(expected)} files in {run / 'figures'}" in done.output
    (run / "report.html").unlink()
    done = CliRunner().invoke(cli.app, ["report", str(run)])
    assert done.exception is None, done.output
    assert (run / "report.html").exists()
    assert "Figures" not in done.output


def test_the_command_refuses_other_formats_before_it_does_anything(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["report", str(tmp_path / "none"), "--figures", "gif"])
    assert str(done.exception) == "figures are not written as 'gif'; use svg, pdf, png"


def test_importing_it_imports_no_kaleido() -> None:
    command = "import sys, posneurons.exporting; print('kaleido' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
