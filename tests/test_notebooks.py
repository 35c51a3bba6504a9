"""Every notebook runs from top to bottom on the embedded model, and is stored without outputs."""

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


@pytest.mark.parametrize("every", [16, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, every: int) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "strip the outputs"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FEWER.format(every=every)))
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    assert any(cell.get("outputs") for cell in notebook.cells)


def test_there_is_one() -> None:
    assert NOTEBOOKS
