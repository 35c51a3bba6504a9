"""What ablated neurons are set to, by hand and against the activations it comes from."""

import demo
import numpy as np
import pytest
import torch

import posneurons as pn
from posneurons import fills
from posneurons.activations import cache_activations, token_means
from posneurons.errors import AlignmentError
from posneurons.fills import Fill, make_fills
from posneurons.records import Corpus

NEURONS = pn.NeuronSet.parse(["L2N9", "L0N3", "L2N4"])


def split(name: str) -> Corpus:
    return demo.small().split(name)


def test_constants_by_hand() -> None:
    corpus = split("train")
    zero, mean, clamp, scale = (
        make_fills(demo.model(), corpus, corpus, name, NEURONS)[0]
        for name in ("zero", "mean", "clamp:value=2", "scale:factor=0.25")
    )
    live, units, token = torch.tensor([[4.0, 8.0]]), torch.tensor([4, 9]), torch.tensor([0])
    means = token_means(demo.model(), corpus)
    assert zero.new(2, units, live, token).tolist() == [[0, 0]]
    assert clamp.new(2, units, live, token).tolist() == [[2, 2]]
    assert scale.new(2, units, live, token).tolist() == [[1, 2]]
    torch.testing.assert_close(mean.new(2, units, live, token), means[2, units][None])
    assert Fill(torch.ones(3, 10), scale=0.5).new(2, units, live, token).tolist() == [[3, 5]]


def test_the_balanced_mean_weighs_tags_alike() -> None:
    corpus = split("train")
    (found,) = make_fills(demo.model(), corpus, corpus, "balanced_mean", NEURONS)
    assert found.offset is not None
    acts = cache_activations(demo.model(), corpus, NEURONS, at="predict")
    tag = corpus.word_tag[acts.word]
    expected = np.mean([acts.values[tag == k].mean(0) for k in np.unique(tag)], axis=0)
    np.testing.assert_allclose(found.offset[NEURONS.layers, NEURONS.units], expected, atol=1e-5)
    assert not np.allclose(expected, acts.values.mean(0), atol=1e-5)


@pytest.mark.parametrize("donor", ["any", "other"])
def test_donors_are_training_words_drawn_once_for_the_whole_set(donor: str) -> None:
    train, test = split("train"), split("test")
    drawn = make_fills(demo.model(), train, test, f"resample:draws=2,donor={donor}", NEURONS, seed=3)
    assert len(drawn) == 2
    acts = cache_activations(demo.model(), train, NEURONS, at="predict")
    known: dict[tuple[float, ...], set[int]] = {}  # tags of the words with these values: equal contexts have equal ones
    for row, word in zip(acts.values, acts.word, strict=True):
        known.setdefault(tuple(row.round(4)), set()).add(int(train.word_tag[word]))
    words = test.readable("predict")
    token = test.row_bounds[test.word_row[words]] + test.word_first[words] - 2
    for fill in drawn:
        assert fill.donors is not None
        two, nought = (
            fill.new(layer, torch.tensor(units), torch.zeros(len(token), len(units)), torch.from_numpy(token))
            for layer, units in ((2, [9, 4]), (0, [3]))
        )
        rows = torch.stack([two[:, 0], nought[:, 0], two[:, 1]], dim=1).numpy()
        tags = [known[tuple(row.round(4))] for row in rows]  # a row is that of one training word
        same = np.mean([given == {tag} for given, tag in zip(tags, test.word_tag[words].tolist(), strict=True)])
        assert same == 0 if donor == "other" else same > 0.02
        assert len({tuple(row) for row in rows}) > 100
    first, second = (fill.donors.choice for fill in drawn if fill.donors)
    assert (first != second).float().mean() > 0.9
    again = make_fills(demo.model(), train, test, f"resample:draws=2,donor={donor}", NEURONS, seed=3)
    assert again[0].donors is not None
    assert torch.equal(again[0].donors.choice, first)


def test_donors_are_as_many_as_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fills, "DONORS", 7)
    (fill,) = make_fills(demo.model(), split("train"), split("test"), "resample:draws=1", NEURONS)
    assert fill.donors is not None
    assert fill.donors.values[2].shape == (7, 2)
    assert set(fill.donors.choice.tolist()) == set(range(7))


def test_errors_say_what_to_do() -> None:
    corpus = split("train")
    one = corpus.select(corpus.row_split < 0)
    with pytest.raises(AlignmentError, match="no word that could be a donor; give longer sentences"):
        make_fills(demo.model(), one, corpus, "resample", NEURONS)
    with pytest.raises(AlignmentError, match="no word to read at 'predict' for a mean; give longer sentences"):
        make_fills(demo.model(), one, corpus, "balanced_mean", NEURONS)
