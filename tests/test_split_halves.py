"""Halves and permuted tags of a corpus, agreement of rankings by hand, and reliability on the embedded model."""

from dataclasses import replace

import demo
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

import posneurons as pn
from posneurons.errors import AlignmentError, PosNeuronsError
from posneurons.records import Corpus, Ranking
from posneurons.split_halves import agreement, reliability, spearman_brown


def build_ranking(scores: list[list[float]], signed: bool = False) -> Ranking:
    """One tag; two layers of half of the scores each."""
    return Ranking(
        "by hand", "last", ("A",), np.array(scores, dtype=np.float64).reshape(1, 2, -1), np.array([9]), signed=signed
    )


def sentences(corpus: Corpus) -> set[str]:
    return {" ".join(map(str, corpus.row_tokens(row))) for row in range(corpus.n_rows)}


@settings(max_examples=10, deadline=None)  # the first draw loads the model
@given(st.integers(0, 1000))
def test_shuffling_permutes_the_tags_within_each_split_and_touches_nothing_else(seed: int) -> None:
    corpus = demo.small()
    shuffled = corpus.shuffled(seed)
    for split in corpus.split_names:
        assert shuffled.split(split).tag_counts() == corpus.split(split).tag_counts()
    assert (shuffled.word_tag != corpus.word_tag).mean() > 0.5
    assert all(value is vars(corpus)[name] for name, value in vars(shuffled).items() if name != "word_tag")
    np.testing.assert_array_equal(shuffled.word_tag, corpus.shuffled(seed).word_tag)


@pytest.mark.parametrize("marked", [True, False])
def test_halves_share_no_document_and_cut_every_split(marked: bool) -> None:
    corpus = demo.corpus()
    if not marked:
        corpus = replace(corpus, row_document=np.arange(corpus.n_rows), marked_documents=False)
    halves = corpus.halves(3)
    assert sum(map(len, halves)) == len(corpus)
    for split in corpus.split_names:
        parts = [half.split(split) for half in halves]
        units = [set(part.row_document.tolist()) for part in parts]
        assert not units[0] & units[1]
        assert 0 <= len(units[0]) - len(units[1]) <= 1
        assert sum(map(len, units)) == len(set(corpus.split(split).row_document))
    assert sentences(corpus) == sentences(halves[0]) | sentences(halves[1])
    assert sentences(corpus.halves(3)[0]) == sentences(halves[0]) != sentences(corpus.halves(4)[0])


def test_agreement_by_hand() -> None:
    one = build_ranking([[5, -4, 3, 2, 1, 0]])
    other = build_ranking([[5, -4, 2, 3, np.nan, 9]])
    # Order of one: 0 1 2 3 4 5; of the other: 5 0 1 3 2. Best two: {0, 1} and {5, 0}: half. Chance: 2 of 6.
    found = agreement(one, other, "A", 2)
    assert (found.k, found.overlap, found.chance) == (2, 0.5, 2 / 6)
    assert found.correlation == pytest.approx(spearmanr([5, -4, 3, 2, 0], [5, -4, 2, 3, 9]).statistic)
    assert agreement(one, other, "A", 100).k == 5
    assert agreement(one, one, "A", 3).correlation == pytest.approx(1)
    by_score = agreement(build_ranking([[5, -4, 3, 2, 1, 0]], signed=True), build_ranking([[5, 4, 3, 2, 1, 0]]), "A", 2)
    assert by_score.overlap == 0.5  # {0, 2} and {0, 1}


def test_agreement_that_is_undefined() -> None:
    one, nothing = build_ranking([[5, 4, 3, 2]]), build_ranking([[np.nan] * 4])
    found = agreement(one, nothing, "A", 2)
    assert found.k == 0
    assert np.isnan([found.correlation, found.overlap, found.chance]).all()
    assert np.isnan(agreement(one, build_ranking([[1, 1, 1, 1]]), "A", 2).correlation)
    assert np.isnan(agreement(one, build_ranking([[1, 2, np.nan, np.nan]]), "A", 2).correlation)


def test_spearman_brown_by_hand() -> None:
    np.testing.assert_allclose(spearman_brown(np.array([0.0, 0.5, 1.0])), [0, 2 / 3, 1])
    assert np.isnan(spearman_brown(np.array([-0.1, np.nan]))).all()


def test_correlation_is_reliable_where_tags_are_and_not_where_they_are_permuted() -> None:
    corpus = demo.corpus().select(np.arange(demo.corpus().n_rows) % 2 == 0)
    real = reliability(demo.model(), corpus, "correlation", at="last", seed=2)
    null = reliability(demo.model(), corpus.shuffled(5), "correlation", at="last", seed=2)
    frequent = real.words > 125
    assert frequent.sum() >= 5
    assert (real.correlation[frequent] > 0.5).all()
    assert (real.overlap[frequent] > 20 * real.chance[frequent]).all()
    assert (real.exceeding[frequent] > 50).all()
    assert np.abs(null.correlation[frequent]).max() < 0.35
    assert null.overlap[frequent].mean() < 0.1
    assert np.median(null.exceeding) < 20
    assert (real.null_95 < real.null_max).all()


def test_it_is_what_ranking_by_hand_gives() -> None:
    corpus, how = demo.small().select(np.arange(demo.small().n_rows) % 2 == 0), {"at": "last", "seed": 7}
    found = reliability(demo.model(), corpus, "mean_difference", k=20, draws=2, **how)
    again = reliability(demo.model(), corpus, "mean_difference", k=20, draws=2, **how)
    assert found.to_frame().equals(again.to_frame())
    seeds = np.random.SeedSequence(7).generate_state(4).tolist()
    train, number = corpus.split("train"), corpus.tags.index("NOUN")
    overlaps, highest = [], []
    for half_seed, null_seed in zip(seeds[:2], seeds[2:], strict=True):
        first, second = (pn.rank(demo.model(), half, "mean_difference", at="last") for half in train.halves(half_seed))
        overlaps.append(len(set(first.top(20)["NOUN"].names) & set(second.top(20)["NOUN"].names)) / 20)
        null = pn.rank(demo.model(), train.shuffled(null_seed), "mean_difference", at="last")
        highest.append(np.abs(null.scores[number]).max())
    real = pn.rank(demo.model(), corpus, "mean_difference", at="last")
    assert found.overlap[number] == pytest.approx(np.mean(overlaps))
    assert found.null_max[number] == pytest.approx(max(highest), rel=1e-4)
    assert found.exceeding[number] == (np.abs(real.scores[number]) > found.null_max[number]).sum()
    assert found.words[number] == train.tag_counts()["NOUN"]


def test_methods_that_run_the_model_can_be_asked_with_options() -> None:
    found = reliability(demo.model(), demo.small(), "gaussian", at="last", k=5, shortlist=8)
    assert found.method == "gaussian:shortlist=8"
    assert (found.defined <= 8).all()
    assert (found.k <= 5).all()
    frame = found.to_frame()
    assert frame.columns.tolist()[:5] == ["method", "at", "tag", "words", "defined"]
    assert len(frame) == len(demo.small().tags)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(PosNeuronsError, match=r"^reliability: k=0, draws=1; expected at least 1 of each$"):
        reliability(demo.model(), demo.small(), k=0)
    with pytest.raises(PosNeuronsError, match="method 'guess': no such ranking"):
        reliability(demo.model(), demo.small(), "guess")
    with pytest.raises(AlignmentError, match="no split 'held out'"):
        reliability(demo.model(), demo.small(), split="held out")
    document = demo.corpus().row_document == demo.corpus().split("train").row_document[0]
    with pytest.raises(
        PosNeuronsError, match="a half of it has no word to read at 'predict'; give more than one document"
    ):
        reliability(demo.model(), demo.corpus().select(document))
