"""`pn.show`: the page of one neuron where one is working, from a run directory or computed on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from posneurons.errors import NeuronError, RunError
from posneurons.neuron_pages import FIGURE_CAPTION, FILE, NeuronPage, read_pages
from posneurons.neurons import NeuronSet

LISTED = 12
"""Most names in the sentence that says which neurons have a page."""


def show(
    neuron: str | NeuronSet | NeuronPage | Sequence[str],
    model: Any = None,
    corpus: Any = None,
    *,
    run: str | Path | None = None,
    **options: Any,
) -> NeuronPage:
    """Show a neuron in a notebook, and give its page; elsewhere only give it.

    In a notebook the page is displayed with its figure, and what is given back is displayed there as one line; show it
    again with `pn.show(page)`.

    Args:
        neuron: a name such as "L3N12", a set of one neuron, or a page.
        model: what `load_model` gives; None is the embedded model.
        corpus: aligned words; None is the embedded treebank, aligned with the model's tokenizer.
        run: a run directory with `neuron_pages.json`, from which the page is read; nothing is computed then.
        **options: of `make_pages`: rankings, at, ablation, scope, contexts, effect_words, seed, tokens, progress.

    Raises:
        NeuronError: where it is not one neuron, lies outside the model, or has no page in the run.
        RunError: where the run has no pages, or damaged ones.
        AlignmentError: where the corpus does not fit the model.
    """
    if isinstance(neuron, NeuronPage):
        page = neuron
    else:
        chosen = neuron if isinstance(neuron, NeuronSet) else NeuronSet.parse(_names(neuron))
        if len(chosen) != 1:
            raise NeuronError(f"show: {len(chosen)} neurons; expected one: show them one by one")
        page = _computed(chosen, model, corpus, options) if run is None else _stored(chosen, Path(run), options)
    if not _in_notebook():
        return page
    _display(page)
    return replace(page, shown=True)


def _names(neuron: str | Sequence[str]) -> list[str]:
    return [neuron] if isinstance(neuron, str) else list(neuron)


def _computed(chosen: NeuronSet, model: Any, corpus: Any, options: dict[str, Any]) -> NeuronPage:
    from posneurons.portraits import make_pages

    if model is None and corpus is not None:
        raise NeuronError("show: a corpus without its model; give both: pn.show('L3N12', model, corpus)")
    if model is None:
        from posneurons.models import load_model

        model = load_model()
    if corpus is None:
        from posneurons.alignment import align
        from posneurons.treebank import load_treebank

        corpus = align(load_treebank(), model.tokenizer, n_ctx=model.cfg.n_ctx)
    (page,) = make_pages(model, corpus, chosen, **options)
    return page


def _stored(chosen: NeuronSet, run: Path, options: dict[str, Any]) -> NeuronPage:
    (name,), path = chosen.names, run / FILE
    if options:
        raise NeuronError(
            f"show: {', '.join(options)} with run={str(run)!r}; what is stored takes no options; leave out either"
        )
    if not path.exists():
        found = "no such file" if run.is_dir() else "no such directory"
        raise RunError(
            f"{path if run.is_dir() else run}: {found}; expected a run directory with pages of neurons; make one with "
            f"posneurons run, or compute the page with pn.show({name!r}, model, corpus)"
        )
    pages = {page.name: page for page in read_pages(path)}
    if name not in pages:
        some = ", ".join(list(pages)[:LISTED]) + (", ..." if len(pages) > LISTED else "")
        raise NeuronError(
            f"neuron {name}: no page in {path}; {len(pages)} neurons have one: {some or 'none'}; compute it with "
            f"pn.show({name!r}, model, corpus)"
        )
    return pages[name]


def _in_notebook() -> bool:
    """Whether a notebook is there to display: an IPython shell with a kernel, not one in a terminal."""
    try:
        from IPython import get_ipython  # type: ignore[attr-defined,unused-ignore]
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None  # type: ignore[no-untyped-call,unused-ignore]


def _display(page: NeuronPage) -> None:
    from IPython.display import HTML, display

    html = replace(page, shown=False)._repr_html_()
    caption = f"<p><small>{escape(FIGURE_CAPTION)}</small></p>"
    display(HTML(html), page.figure(), HTML(caption))  # type: ignore[no-untyped-call,unused-ignore]
