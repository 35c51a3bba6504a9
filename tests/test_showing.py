"""`pn.show` in a notebook and outside of one, from a run and computed."""

import sys
from types import SimpleNamespace

import demo
import numpy as np
import pytest
from synthetic_pages import page

import posneurons as pn
from posneurons import showing
from posneurons.errors import NeuronError, PosNeuronsError, RunError
from posneurons.neuron_pages import FILE, NeuronPage, write_pages
from posneurons.neurons import NeuronSet


@pytest.fixture
def shown(monkeypatch):
    """What a notebook is asked to display."""
    found = []
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr("IPython.display.display", lambda *each: found.extend(each))
    return found


def small():
    return demo.corpus().select(np.arange(demo.corpus().n_rows) % 40 == 0)


def test_outside_a_notebook_the_page_is_given():
    found = pn.show("L0N350", demo.model(), small(), contexts=2)
    assert (found.name, len(found.contexts), found.shown) == ("L0N350", 2, False)
    assert pn.show(found) is found
    assert pn.show(NeuronSet.parse(["L0N350"]), demo.model(), small(), contexts=2).counts == found.counts


def test_a_notebook_shows_page_and_figure_once(shown):
    found = pn.show(page())
    html, figure, caption = shown
    assert "in grey the others" in caption.data
    assert html.data == page()._repr_html_()
    assert figure.to_dict() == page().figure().to_dict()
    assert found._repr_html_() is None
    assert repr(found).startswith("NeuronPage(L3N12 of tiny")
    pn.show(found)
    assert len(shown) == 6
    assert shown[3].data == html.data


def test_a_shell_without_kernel_is_no_notebook(monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", SimpleNamespace)
    assert not pn.show(page()).shown
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert not pn.show(page()).shown


def test_a_run_keeps_pages(tmp_path):
    write_pages(tmp_path / FILE, [page(layer=0), page()])
    found = pn.show("L3N12", run=tmp_path)
    assert repr(found.to_dict()) == repr(page().to_dict())
    with pytest.raises(NeuronError) as caught:
        pn.show("L1N1", run=str(tmp_path))
    assert str(caught.value) == (
        f"neuron L1N1: no page in {tmp_path / FILE}; 2 neurons have one: L0N12, L3N12; compute it with "
        "pn.show('L1N1', model, corpus)"
    )
    write_pages(tmp_path / FILE, [page(neuron=i) for i in range(13)])
    with pytest.raises(NeuronError, match=r"13 neurons have one: L3N0, .*, L3N11, \.\.\.; compute"):
        pn.show("L1N1", run=tmp_path)
    with pytest.raises(
        NeuronError, match=r"show: at, contexts with run=.*; what is stored takes no options; leave out either"
    ):
        pn.show("L3N1", run=tmp_path, at="last", contexts=3)


def test_a_run_without_pages_says_so(tmp_path):
    with pytest.raises(RunError, match=rf"^{tmp_path / FILE}: no such file; expected a run directory with pages"):
        pn.show("L1N1", run=tmp_path)


@pytest.mark.parametrize(
    ("neuron", "sentence"),
    [
        (["L0N1", "L0N2"], "show: 2 neurons; expected one: show them one by one"),
        ([], "show: 0 neurons; expected one"),
        ("N1", "neuron 'N1': expected a name such as 'L12N3456'"),
        ("L9N9", "neuron L9N9: the model has layers 0 to 5"),
    ],
)
def test_one_neuron_of_the_model_is_expected(neuron, sentence):
    with pytest.raises(PosNeuronsError, match=sentence):
        pn.show(neuron, demo.model(), small())
    with pytest.raises(PosNeuronsError, match="show: a corpus without its model; give both"):
        pn.show("L0N1", corpus=small())


def test_the_embedded_model_is_shown_by_default(monkeypatch):
    asked = {}

    def make_pages(model, corpus, neurons, **options):
        asked.update(name=model.cfg.d_mlp, rows=corpus.n_rows, neurons=neurons.names, **options)
        return (page(),)

    monkeypatch.setattr("posneurons.portraits.make_pages", make_pages)
    assert isinstance(showing.show("L0N1", at="last"), NeuronPage)
    assert asked == {"name": 768, "rows": demo.corpus().n_rows, "neurons": ("L0N1",), "at": "last"}
