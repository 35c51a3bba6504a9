"""Planted models against their closed forms, and their decoys against the lesion engine."""

from functools import cache
from itertools import pairwise
from typing import Any

import demo
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from numpy import ndarray

import posneurons as pn
from posneurons import lesions, models
from posneurons.errors import ModelError, NeuronError, PosNeuronsError
from posneurons.fills import Condition
from posneurons.grafts import graft
from posneurons.markov import MarkovSource, expected_lesion_matrix, expected_rise, markov_source
from posneurons.neurons import NeuronSet
from posneurons.planted import Planted, markov_model
from posneurons.records import Corpus

TAGS = ("NOUN", "VERB", "PRON")


@cache
def markov() -> Planted:
    return markov_model(sentences=160, length=20)


@cache
def few() -> Corpus:
    return demo.small().select(np.arange(demo.small().n_rows) % 3 == 0)


@cache
def grafted() -> Planted:
    return graft(demo.model(), demo.small(), tags=TAGS)


def rises(planted: Planted, corpus: Corpus, sets: list[NeuronSet]) -> Float[ndarray, "lesion word"]:
    return lesions.word_losses(planted.model, corpus, [Condition(each) for each in sets]).rises()


def by_tag(rise: Float[ndarray, "lesion word"], corpus: Corpus) -> Float[ndarray, "lesion tag"]:
    tag = corpus.word_tag[corpus.readable("predict")]
    return np.stack([rise[:, tag == number].mean(1) for number in range(len(corpus.tags))], axis=1)


def two_tags() -> MarkovSource:
    return MarkovSource(("A", "B"), np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([0.75, 0.25]))


def test_source_by_hand() -> None:
    # q = (2/3, 1/3): 2/3 * 3/4 + 1/3 * 1/2 = 2/3. After A: words of A 3/4 * (3/4, 1/4), of B 1/4 * (3/4, 1/4).
    source = two_tags()
    np.testing.assert_allclose(source.stationary, [2 / 3, 1 / 3])
    np.testing.assert_allclose(source.next_word()[0], [0, 9 / 16, 3 / 16, 3 / 16, 1 / 16])
    np.testing.assert_array_equal(source.tag_of(np.array([0, 1, 2, 3, 4])), [-1, 0, 0, 1, 1])


def test_lesion_matrix_by_hand() -> None:
    # Without A's lift, after A: logits ln(2/3) and ln(1/4), sum 11/12; after B: ln(2/3) and ln(1/2), sum 7/6.
    # A word A follows A with probability (2/3 * 3/4) / (2/3) = 3/4, and B else; a word B follows either alike.
    matrix = expected_lesion_matrix(two_tags())
    after_a, after_b = np.log(11 / 12), np.log(7 / 6)
    own = 0.75 * (after_a + np.log(0.75 / (2 / 3))) + 0.25 * (after_b + np.log(0.5 / (2 / 3)))
    np.testing.assert_allclose(matrix[0], [own, (after_a + after_b) / 2])


@given(st.integers(3, 6), st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_the_rise_of_everything_is_the_diagonal(n_tags: int, seed: int) -> None:
    source = markov_source(n_tags, seed=seed)
    alone = [expected_rise(source, tag, np.ones(n_tags)) for tag in range(n_tags)]
    np.testing.assert_allclose(alone, np.diag(expected_lesion_matrix(source)), atol=1e-12)
    assert expected_rise(source, 0, np.zeros(n_tags)) == 0


@given(st.integers(3, 7), st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_samples_follow_the_source(n_tags: int, seed: int) -> None:
    source = markov_source(n_tags, words=5, seed=seed)
    np.testing.assert_allclose(source.stationary @ source.transition, source.stationary)
    np.testing.assert_allclose(source.next_word().sum(1), 1)
    corpus = source.sample(9, 6, seed)
    assert corpus.n_rows == 9
    assert corpus.split("test").n_rows == 2
    np.testing.assert_array_equal(source.tag_of(corpus.tokens), corpus.word_tag)
    np.testing.assert_array_equal(corpus.tokens, source.sample(9, 6, seed).tokens)


def test_frequencies_of_a_large_sample() -> None:
    source = markov_source(3, words=4, seed=1)
    corpus = source.sample(4000, 11, 5)
    tags = corpus.word_tag.reshape(4000, 11)
    counts = np.zeros((3, 3))
    for before, after in pairwise(tags.T):
        np.add.at(counts, (before, after), 1)
    np.testing.assert_allclose(counts / counts.sum(1, keepdims=True), source.transition, atol=0.02)
    np.testing.assert_allclose(np.bincount(tags[:, 0]) / 4000, source.stationary, atol=0.03)
    np.testing.assert_allclose(np.bincount((corpus.tokens - 1) % 4) / len(corpus), source.zipf, atol=0.01)
    np.testing.assert_allclose(expected_lesion_matrix(source, corpus), expected_lesion_matrix(source), atol=0.03)


def test_a_tag_without_words_has_no_effect_to_expect() -> None:
    source = two_tags()
    corpus = source.sample(8, 3)
    only_a = corpus.select(np.bincount(corpus.word_row, corpus.word_tag, minlength=8) == 0)
    matrix = expected_lesion_matrix(source, only_a)
    assert only_a.n_rows > 0
    assert np.isnan(matrix[:, 1]).all()
    assert not np.isnan(matrix[:, 0]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_are_the_best_there_are(dtype: torch.dtype) -> None:
    planted = markov_model(sentences=20, length=20, dtype=dtype, seed=3)
    source, corpus = planted.source, planted.corpus
    assert source is not None
    tokens = np.stack([corpus.row_tokens(row) for row in range(corpus.n_rows)])
    with torch.no_grad():
        found = planted.model(torch.from_numpy(tokens)).double().softmax(-1).numpy()
    best = source.next_word()[source.tag_of(tokens[:, 1:].ravel())].reshape(found[:, 1:].shape)
    np.testing.assert_allclose(found[:, 1:], best, atol=1e-6)
    np.testing.assert_allclose(found[:, 0, 1:], np.tile(np.kron(source.stationary, source.zipf), (20, 1)), atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lesions_equal_the_closed_form(seed: int) -> None:
    planted = markov_model(length=20, seed=seed)
    test = planted.corpus.split("test")
    found = by_tag(rises(planted, test, list(planted.truth.values())), test)
    np.testing.assert_allclose(found, planted.effect, atol=1e-6)
    assert (np.diag(found) > 0.02).all()
    assert (found < -0.005).any()  # off the diagonal it is not 0, and of either sign


def test_double_dissociation_shows() -> None:
    planted = markov()
    keys = {tag: planted.truth[tag] for tag in ("T2", "T3")}
    result = pn.lesion(planted.model, planted.corpus, keys, ablation="zero", controls=3, draws=500)
    matrix = result.matrix()
    assert matrix.loc["T2", "T2"] > matrix.loc["T3", "T2"] + 0.1
    assert matrix.loc["T3", "T3"] > matrix.loc["T2", "T3"] + 0.1


def test_every_neuron_helps_its_tag() -> None:
    planted = markov()
    for tag in ("T2", "T3", "T4", "T5"):
        sets = [NeuronSet.parse([name]) for name in planted.truth[tag]]
        number = planted.corpus.tags.index(tag)
        assert (by_tag(rises(planted, planted.corpus, sets), planted.corpus)[:, number] > 0.005).all()


def test_decoys_do_nothing() -> None:
    planted = markov()
    quiet = [planted.decoys[kind] for kind in ("read_only", "loud", "word", "bos")]
    np.testing.assert_array_equal(rises(planted, planted.corpus, quiet), 0)


def test_frequency_neurons_do_the_same_for_every_tag() -> None:
    # At share s of sharpness the loss rises by s ln p + ln(sum p^(1 - s)) for a word of probability p in its tag.
    planted = markov()
    assert planted.source is not None
    (rise,) = rises(planted, planted.corpus, [planted.decoys["frequency"]])
    p = np.tile(planted.source.zipf, 6)[planted.corpus.tokens[planted.corpus.readable("predict")] - 1]
    np.testing.assert_allclose(rise, 0.5 * np.log(p) + np.log(np.sqrt(planted.source.zipf).sum()), atol=1e-5)
    assert rise.mean() > 0.05


def test_decoys_look_as_they_are_called() -> None:
    planted = markov()
    assert planted.source is not None
    info = models.describe(planted.model)
    row = torch.from_numpy(planted.corpus.row_tokens(0))[None]
    cache = models.run_with_cache(planted.model, row, [models.post_name(la) for la in range(info.n_layers)])
    acts = torch.stack([value[0] for value in cache.values()])

    def of(neurons: NeuronSet) -> torch.Tensor:
        return acts[torch.from_numpy(neurons.layers), :, torch.from_numpy(neurons.units)]

    assert (of(planted.decoys["bos"])[:, 0] > 1000).all()
    assert (of(planted.decoys["bos"])[:, 1:] == 0).all()
    assert of(planted.decoys["loud"]).abs().mean() > 3 * of(planted.truth["T2"]).abs().mean()
    np.testing.assert_array_equal(of(planted.copies["T3"]), of(planted.truth["T3"]))
    for each in of(planted.decoys["word"]):
        assert len(set(row[0][each != 0].tolist())) <= 1


def test_a_backup_hides_what_single_lesions_do() -> None:
    planted = markov()
    for kind, least in (("halves", 1.05), ("backup", 1.5)):
        pair = planted.redundant[kind]
        tag = planted.corpus.tags.index({"halves": "T0", "backup": "T1"}[kind])
        sets = [pair, *(NeuronSet.parse([name]) for name in pair)]
        joint, *single = by_tag(rises(planted, planted.corpus, sets), planted.corpus)[:, tag]
        assert joint > least * sum(single)
    assert abs(single[0]) < 1e-6  # the first of the backed pair


def test_sets_do_not_overlap_and_are_hidden() -> None:
    planted = markov()
    sets = [*planted.truth.values(), *planted.decoys.values()]
    assert len(sets[0].union(*sets[1:])) == sum(map(len, sets))
    assert len({int(unit) for each in planted.truth.values() for unit in each.units}) > 10
    assert markov_model(sentences=160, length=20).truth == planted.truth
    assert markov_model(sentences=160, length=20, seed=1).truth != planted.truth


def test_correlation_finds_truth_and_is_taken_in_by_copies() -> None:
    planted = markov()
    ranking = pn.rank(planted.model, planted.corpus, method="correlation")
    for tag in ("T2", "T3"):
        scores = np.abs(ranking.scores[ranking.tags.index(tag)])
        true = scores[planted.truth[tag].layers, planted.truth[tag].units]
        copied = scores[planted.copies[tag].layers, planted.copies[tag].units]
        np.testing.assert_allclose(copied, true, rtol=1e-6)
        assert true.mean() > 2 * np.nanmean(scores)


def zeroed(old: int, n_layers: int) -> list[models.Hook]:
    def hook_function(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        value[..., old:] = 0
        return value

    return [(models.post_name(layer), hook_function) for layer in range(n_layers)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_without_grafts_the_model_is_what_it_was_bit_for_bit(dtype: torch.dtype) -> None:
    base = pn.load_model(device="cpu", dtype=dtype)
    kept = {name: each.clone() for name, each in base.named_parameters()}
    model = graft(base, few(), tags=TAGS[:2], gain=0.05).model
    generator = torch.Generator().manual_seed(0)
    for shape in [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 17), (8, 64), (2, 250)]:
        tokens = torch.randint(0, 4096, shape, generator=generator)
        before, without = base(tokens), model.run_with_hooks(tokens, fwd_hooks=zeroed(768, 6))
        assert torch.equal(before, without), shape
    assert not torch.equal(before, model(tokens))
    assert all(torch.equal(each, kept[name]) for name, each in base.named_parameters())
    assert model.W_U.data_ptr() == base.W_U.data_ptr()
    assert model.W_E.data_ptr() == base.W_E.data_ptr()


def test_lesions_of_all_grafts_give_the_old_losses() -> None:
    planted, test = grafted(), demo.small().split("test")
    info = models.describe(planted.model)
    everything = NeuronSet.from_pairs((layer, unit) for layer in range(6) for unit in range(768, info.d_mlp))
    found = lesions.word_losses(planted.model, test, [Condition(everything)])
    intact, lesioned = found.intact[0], found.lesioned[0, 0]
    old = lesions.word_losses(demo.model(), test, []).intact[0]
    np.testing.assert_allclose(lesioned, old, atol=1e-4)  # BOS is left as it is, where grafts are all but silent
    assert np.abs(intact - old).max() > 0.05


def test_truth_of_grafts_is_what_they_do() -> None:
    planted, test = grafted(), demo.small().split("test")
    found = by_tag(rises(planted, test, list(planted.truth.values())), test)
    np.testing.assert_allclose(planted.effect, found, atol=1e-6)
    for tag, neurons in planted.truth.items():
        number = test.tags.index(tag)
        alone = by_tag(rises(planted, test, [NeuronSet.parse([name]) for name in neurons]), test)[:, number]
        assert (alone > 0).all()
    np.testing.assert_array_equal(rises(planted, test, [planted.decoys["read_only"]]), 0)
    assert {tag: len(each) for tag, each in planted.copies.items()} == dict.fromkeys(TAGS, 4)


def test_every_appended_unit_is_accounted_for() -> None:
    planted = grafted()
    sets = [*planted.truth.values(), *planted.decoys.values(), planted.ignored]
    everyone = sets[0].union(*sets[1:])
    assert len(everyone) == sum(map(len, sets)) == 6 * (planted.model.cfg.d_mlp - 768)
    assert (everyone.units >= 768).all()


def test_errors_say_what_to_do() -> None:
    with pytest.raises(NeuronError, match=r"markov_model: width=8, but a layer holds \d+ planted neurons"):
        markov_model(width=8, sentences=4)
    with pytest.raises(NeuronError, match="markov_model: n_layers=1; expected at least 2"):
        markov_model(n_layers=1, sentences=4)
    with pytest.raises(PosNeuronsError, match="graft: tag 'GLYPH' has no word in split 'train'; expected some of"):
        graft(demo.model(), demo.small(), tags=["GLYPH"])
    with pytest.raises(PosNeuronsError, match=r"^graft: at='last'; .* expected 'predict'$"):
        graft(demo.model(), demo.small(), tags=TAGS, at="last")
    with pytest.raises(ModelError, match="markov: no graft lowers the loss of its tag; choose another gain"):
        graft(markov().model, markov().corpus, tags=["T0"], gain=0.0)
    bridge = pn.load_model(backend="bridge", device="cpu")
    with pytest.raises(ModelError, match=r"grafts need gated MLPs .* on backend 'bridge'; give a Llama"):
        graft(bridge, demo.small(), tags=TAGS)


def test_built_models_check_their_weights() -> None:
    model = markov().model
    weights, fields = dict(model.named_parameters()), model.cfg.to_dict()
    with pytest.raises(ModelError, match=r"^markov: weight 'embed.W_E' is missing$"):
        models.build_hooked(fields, {name: each for name, each in weights.items() if name != "embed.W_E"})
    with pytest.raises(ModelError, match=r"^markov: weight 'extra' is unknown$"):
        models.build_hooked(fields, weights | {"extra": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"weight 'unembed.b_U' has the shape \(3,\); expected \(97,\)"):
        models.build_hooked(fields, weights | {"unembed.b_U": torch.zeros(3)})
