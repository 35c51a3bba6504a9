"""The API reference is built without a warning, and every public name is in it with its docstring."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import posneurons as pn

pytest.importorskip("pdoc")
BUILD = Path(__file__).parents[1] / ".docs" / "build.py"


class Page(HTMLParser):
    """The ids of a page, its text outside the navigation, and the links of the navigation."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.inside_nav = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.inside_nav |= tag == "nav"
        self.ids |= {str(given["id"])} if "id" in given else set()
        self.links += [str(given["href"])] if tag == "a" and self.inside_nav and "href" in given else []

    def handle_endtag(self, tag: str) -> None:
        self.inside_nav &= tag != "nav"

    def handle_data(self, data: str) -> None:
        self.text += "" if self.inside_nav else data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("docs")
    done = subprocess.run([sys.executable, BUILD, made], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.strip() == str(made / "index.html")
    return made


def test_every_public_name_is_there(folder: Path) -> None:
    page = Page(folder / "posneurons.html")
    assert set(pn.__all__) - {"__version__"} <= page.ids
    first = page.links[: len(pn.__all__)]
    assert first[0] == "#align"
    assert "#rank" in first


def test_docstrings_and_types_are_shown(folder: Path) -> None:
    text = " ".join(Page(folder / "posneurons.html").text.split())
    assert "Rank all MLP neurons of a model for every tag." in text
    assert "Write a figure to a file whose suffix says how" in text
    assert "One lesion: a set of neurons, what they are set to, and where." in text
    assert "ForwardRef" not in text
    assert "Alias for field number" not in text


def test_every_module_has_a_page_and_a_link(folder: Path) -> None:
    expected = {path.stem for path in Path(pn.__file__).parent.glob("*.py")}
    expected -= {"__init__", "__main__", "cli", "options", "tools"}
    assert {path.stem for path in (folder / "posneurons").glob("*.html")} == expected
    links = Page(folder / "posneurons.html").links
    assert {link for link in links if link.startswith("posneurons/")} == {
        f"posneurons/{name}.html" for name in expected
    }


ONE_MODULE = """
import runpy, sys
import posneurons.errors

posneurons.errors.__all__ = ["Missing"]
names = runpy.run_path(sys.argv[1])
names["main"].__globals__.update(modules=lambda: ["posneurons.errors"], public=dict)
del sys.argv[1]
names["main"]()
"""


def test_a_warning_is_an_error(tmp_path: Path) -> None:
    """A module that promises a name which it does not have."""
    done = subprocess.run(
        [sys.executable, "-c", ONE_MODULE, BUILD, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Found 'Missing' in posneurons.errors.__all__, but it does not resolve" in done.stderr
