"""Every notebook runs from top to bottom on the embedded model, and is stored without outputs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
FEWER = """
import numpy as np
import posneurons as pn

whole = pn.align


def align(*args, **options):
    corpus = whole(*args, **options)
    return corpus.select(np.arange(corpus.n_rows) % {every} == 0)


pn.align = align
"""
"""Put before a notebook's own cells: corpora have every so many-th row of what they would have."""
SMALLER = {
    "04_llama3_on_a_gpu": ('"meta-llama/Meta-Llama-3-8B", "en_ewt", 4000', '"demo", "demo", 300'),
}
"""What is asked for here, and what the test asks for instead: one line of the notebook, which must be there."""


def on_the_embedded_model(name: str, cells: list[nbformat.NotebookNode]) -> None:
    """Put the embedded model in the place of the one that a notebook is written for."""
    asked, instead = SMALLER[name]
    (place,) = [cell for cell in cells if cell.cell_type == "code" and asked in cell.source]
    assert place.source.count(asked) == 1
    place.source = place.source.replace(asked, instead)


@pytest.mark.parametrize("every", [16, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, every: int) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "strip the outputs"
    if path.stem in SMALLER:
        on_the_embedded_model(path.stem, notebook.cells)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FEWER.format(every=every)))
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    assert any(cell.get("outputs") for cell in notebook.cells)


def test_own_rises_are_taken_by_name() -> None:
    """Rows of a matrix come in the order of the lesions, which is not that of the tags."""
    cells = [cell.source for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells]
    assert not [source for source in cells if "diagonal" in source]


def test_they_are_all_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart", "02_which_ranking", "03_lesion_study", "04_llama3_on_a_gpu",
    ]  # fmt: skip
    assert set(SMALLER) <= {path.stem for path in NOTEBOOKS}


def test_the_line_that_names_the_model_must_be_found() -> None:
    cells = [nbformat.v4.new_code_cell("MODEL = 1")]
    with pytest.raises(ValueError, match="not enough values"):
        on_the_embedded_model("04_llama3_on_a_gpu", cells)


def test_notebooks_hold_no_functions() -> None:
    cells = [cell.source for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells]
    assert not [source for source in cells if re.search(r"^\s*(def|class) ", source, re.MULTILINE)]
