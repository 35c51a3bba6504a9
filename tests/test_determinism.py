"""The same seed gives the same numbers, in every process and whatever the size of a batch."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import demo
import numpy as np
import pytest
from killing import content

import posneurons as pn
from posneurons import passes
from posneurons.records import Corpus

RANKINGS = (
    "correlation", "lape", "auroc", "probeless", "gaussian", "elastic_net", "partial_correlation",
    "attribution", "attribution:contrast=no,baseline=mean", "attribution:scope=all",
    "attribution:baseline=donor", "attribution:scope=all,baseline=donor", "relp",
    "logprob_increase:shortlist=20",
    "dynamic_logit_attribution",
)  # fmt: skip


@pytest.fixture(scope="module")
def few() -> Corpus:
    corpus = demo.small()
    return corpus.select(np.arange(corpus.n_rows) % 4 == 0)


def command(words: str, out: Path, bank: Path, hash_seed: int) -> None:
    """A command in a process of its own, which shuffles sets and dicts of its own accord."""
    words += " --method correlation --method attribution --top 5 --min-words 60 --controls 2 --ablation mean"
    call = [sys.executable, "-m", "posneurons", *words.split(), "--out", str(out), "--treebank", str(bank)]
    settings: Mapping[str, str] = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=settings)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "bank").mkdir()
    bank = demo.write_treebank(tmp_path / "bank", every=10)
    work = {
        "run": "run --draws 100 --pages 1 --lesion-words 200 --keep-losses --ablation resample --beside unflagged",
        "sweep": "sweep --k 1 --k 5 --ablation resample",
    }
    for name, words in work.items():
        for seed in (1, 2):
            command(words, tmp_path / f"{name}{seed}" / "run", bank, seed)
        first, second = (content(tmp_path / f"{name}{seed}" / "run") for seed in (1, 2))
        for found in (first, second):
            found.pop("manifest.json")  # it names the folder
        assert {each: first[each] == second.get(each) for each in first} == dict.fromkeys(first, True)
        assert len(first) > 8


def test_a_batch_of_any_size_gives_the_same_moments(few: Corpus) -> None:
    small, large = (passes.tag_moments(demo.model(), few, at=("predict", "last"), tokens=each) for each in (40, 4096))
    for at in ("predict", "last"):
        np.testing.assert_array_equal(small[at].count, large[at].count)
        np.testing.assert_allclose(small[at].mean, large[at].mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(small[at].m2, large[at].m2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", RANKINGS)
def test_a_batch_of_any_size_gives_the_same_scores(method: str, few: Corpus) -> None:
    small, large = (pn.rank(demo.model(), few, method, tokens=each).scores for each in (40, 4096))
    np.testing.assert_array_equal(np.isnan(small), np.isnan(large))
    off = np.abs(small - large) / np.nanmax(np.abs(large))
    assert np.nanmax(off) < (0.01 if method == "auroc" else 1e-3)  # a word may cross the edge between two bins
    assert np.nanmean(off) < 1e-5


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.parametrize("scope", ["all", "local"])
def test_a_batch_of_any_size_gives_the_same_losses(ablation: str, scope: str, few: Corpus) -> None:
    keys = pn.rank(demo.model(), few).top(5)
    some = {tag: keys[tag] for tag in ("NOUN", "VERB")}
    small, large = (
        pn.lesion(demo.model(), few, some, ablation=ablation, scope=scope, controls=1, draws=10, tokens=each)
        for each in (60, 4096)
    )
    np.testing.assert_array_equal(small.word_tag, large.word_tag)
    np.testing.assert_allclose(small.loss_intact, large.loss_intact, atol=2e-4)
    np.testing.assert_allclose(small.losses, large.losses, atol=2e-4)
    assert [each.names for each in small.neurons] == [each.names for each in large.neurons]
