"""Every method by its name, on a gated Llama and on models that are not gated or run attention and MLP side by side."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import demo
import numpy as np
import pytest
from checkpoints import write_gpt2, write_neox

import posneurons as pn
from posneurons import passes, workflow
from posneurons.errors import PosNeuronsError
from posneurons.methods import METHODS, parse
from posneurons.records import Corpus, Ranking

QUICK = {
    "integrated_gradients": ":rule=midpoint,steps=8",
    "key_neuron_rule": ":rule=midpoint,steps=8",
    "elastic_net": ":shortlist=10",
    "gaussian": ":shortlist=10",
}


@cache
def tiny(write: Callable[..., Path]) -> tuple[Any, Corpus]:
    """A random checkpoint of two layers, and some sentences in its tokens."""
    with TemporaryDirectory() as folder:
        model = pn.load_model(write(Path(folder) / "checkpoint"), device="cpu")
    corpus = pn.align(pn.load_treebank(), model.tokenizer, n_ctx=model.cfg.n_ctx)
    rows = np.flatnonzero(corpus.row_split == corpus.split_names.index("train"))[::16]
    return model, corpus.select(np.isin(np.arange(corpus.n_rows), rows))


@pytest.mark.parametrize("write", [write_gpt2, write_neox])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_ranks_models_of_other_kinds(name: str, write: Callable[..., Path]) -> None:
    model, corpus = tiny(write)
    found = pn.rank(model, corpus, name + QUICK.get(name, ""))
    assert isinstance(found, Ranking)
    assert found.scores.shape == (len(corpus.tags), model.cfg.n_layers, model.cfg.d_mlp)
    # Gates of a random model are on for every word or for none, so that none passes lape's threshold.
    assert name == "lape" or any(len(neurons) for neurons in found.top(3, fewer=True).values())
    assert found.count[found.tags.index("NOUN")] > 50


def test_methods_share_their_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = passes.tag_moments
    monkeypatch.setattr(passes, "tag_moments", lambda *args, **how: calls.append(how["at"]) or real(*args, **how))
    part = demo.small().split("train")
    evidence = workflow.Evidence(demo.model(), part, ("predict", "last"))
    for name in ("correlation", "welch_t", "lda"):
        assert evidence.ranking(parse(name), "last").at == "last"
    assert calls == [("predict", "last")]


def test_rank_takes_the_methods_own_order_unless_asked() -> None:
    model, corpus = tiny(write_gpt2)
    assert pn.rank(model, corpus, "attribution").signed
    assert not pn.rank(model, corpus, "attribution", signed=False).signed
    assert not pn.rank(model, corpus).signed
    found = pn.rank(model, corpus, "auroc")
    assert found.neutral == 0.5
    scores = found.scores[found.tags.index("NOUN")].ravel()
    assert np.abs(scores[found.order("NOUN")[0]] - 0.5) == pytest.approx(np.nanmax(np.abs(scores - 0.5)))


def test_options_by_keyword_and_in_the_name_are_the_same() -> None:
    model, corpus = tiny(write_neox)
    a = pn.rank(model, corpus, "attribution", scope="all", contrast=False)
    b = pn.rank(model, corpus, "attribution:scope=all,contrast=no")
    assert a.method == b.method == "attribution:scope=all,contrast=no"
    np.testing.assert_array_equal(a.scores, b.scores)


def test_a_split_without_a_word_to_read_is_an_error() -> None:
    model, corpus = tiny(write_gpt2)
    alone = corpus.select(np.diff(corpus.row_bounds) == 10**6)
    with pytest.raises(PosNeuronsError, match=r"the split 'train' has no word to read at 'predict'"):
        pn.rank(model, alone)
