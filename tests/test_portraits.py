"""Pages from a model and a corpus: every number against a slow way to get it, on both backends."""

from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import demo
import numpy as np
import pytest
import torch

import posneurons as pn
from posneurons import models, portraits, profiles
from posneurons.activations import cache_activations
from posneurons.errors import AlignmentError, ModelError, NeuronError
from posneurons.neuron_pages import NeuronPage
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus, Ranking

NEURONS = NeuronSet.parse(["L5N136", "L0N350", "L5N7"])


@cache
def corpus() -> Corpus:
    """Some rows of train and of test, with a word that would like to be HTML."""
    every = demo.corpus().select(np.arange(demo.corpus().n_rows) % 20 == 0)
    forms = every.word_form.copy()
    forms[5] = "<script>alert(1)</script>"
    return replace(every, word_form=forms)


@cache
def ranking() -> Ranking:
    return pn.rank(demo.model(), corpus())


@cache
def pages(**options: Any) -> tuple[NeuronPage, ...]:
    last = replace(ranking(), at="last", method="other")
    return pn.make_pages(demo.model(), corpus(), NEURONS, rankings=(ranking(), last), **options)


def of_split(split: str) -> Corpus:
    return corpus().split(split)


def test_densities_count_every_word_that_is_read():
    part, page = of_split("train"), pages()[0]
    acts = pn.cache_activations(demo.model(), part, NEURONS)
    tags = part.word_tag[acts.word]
    assert page.words == tuple(np.bincount(tags, minlength=17).tolist())
    assert (page.split, page.effect_split, page.at, page.tags) == ("train", "test", "predict", part.tags)
    for number, found in enumerate(pages()):
        assert np.sum(found.counts, axis=1).tolist() == list(found.words)
        mine = acts.values[:, number]
        means = [mine[tags == tag].mean() if (tags == tag).any() else np.nan for tag in range(17)]
        assert found.means == pytest.approx(means, rel=1e-3, abs=1e-4, nan_ok=True)
        below = [np.count_nonzero(mine[tags == 7] < edge) for edge in found.edges[1:-1]]
        assert np.cumsum(found.counts[7])[:-1] == pytest.approx(below, abs=1)  # a value on an edge may round


def test_contexts_are_the_strongest_words_of_different_forms():
    part = of_split("train")
    acts = pn.cache_activations(demo.model(), part, NEURONS)
    for number, page in enumerate(pages()):
        values = acts.values[:, number]
        for side, sign in (("high", 1), ("low", -1)):
            found = [each for each in page.contexts if each.side == side]
            best: dict[str, float] = {}
            for word, value in zip(acts.word, values, strict=True):
                form = str(part.word_form[word]).casefold()
                best[form] = max(best.get(form, -np.inf), sign * value)
            expected = sorted((value for value in best.values() if value > 0), reverse=True)[:10]
            if expected and expected[0] >= 0.1 * np.abs(values).max():
                assert [sign * each.value for each in found] == pytest.approx(expected, rel=1e-3)
                assert len({each.form.casefold() for each in found}) == len(found)
            else:
                assert found == []
    assert {each.side for each in pages()[0].contexts} == {"high", "low"}


def test_a_context_shows_what_the_model_saw():
    model, part = demo.model(), of_split("train")
    for page in pages():
        hook = models.post_name(page.layer)
        for each in page.contexts[:4]:
            rows = [row for row in range(part.n_rows) if each.sentence in part.word_sentence[part.word_row == row]]
            row = part.row_tokens(rows[0])
            cache = models.run_with_cache(model, torch.from_numpy(row)[None], [hook])
            acts = cache[hook][0, :, page.neuron].numpy()
            text = model.tokenizer.decode(row[1:].tolist())
            shown = "".join(each.tokens)
            assert shown == text[: len(shown)]
            assert each.cut == (False, len(shown) < len(text))
            assert each.activations == pytest.approx(acts[1 : len(each.tokens) + 1].tolist(), rel=1e-3, abs=1e-3)
            first, last = each.word
            assert "".join(each.tokens[first : last + 1]).strip() in (each.form, "")
            assert each.read == first - 1


def test_a_long_row_is_cut_around_what_is_read():
    """A row of 100 tokens whose number 50 (BOS is 0) is read: 27 before it, 12 after."""
    part = of_split("train")
    row = np.concatenate([[part.bos], np.arange(100) % 50 + 300])
    one = part.select(np.arange(part.n_rows) == 0)
    words = replace(
        one, word_first=one.word_first * 0 + 51, word_last=one.word_last * 0 + 90, word_row=one.word_row * 0
    )
    texts = profiles.TokenTexts(demo.model().tokenizer)
    strong = profiles._Strong(0, "high", 0)
    found = profiles._cut(words, strong, row, np.arange(101, dtype=np.float32), "predict", texts)
    assert (found.activations[0], found.activations[-1], found.value) == (23, 62, 50)
    assert found.word == (28, 39)  # as far as it goes
    assert found.cut == (True, True)
    late = replace(words, word_first=words.word_first + 48, word_last=words.word_last + 9)
    end = profiles._cut(late, strong, row, np.arange(101, dtype=np.float32), "last", texts)
    assert (end.activations[0], end.activations[-1], end.value) == (61, 100, 99)
    assert end.cut == (True, False)


def test_promoted_tokens_are_those_of_the_whole_product():
    model = demo.model()
    for page in pages():
        written = model.blocks[page.layer].mlp.W_out[page.neuron] * model.ln_final.w
        logits = (written @ model.W_U - (written @ model.W_U).mean()).numpy()
        order = np.argsort(-logits)
        assert [value for _, value in page.promoted] == pytest.approx(logits[order[:10]].tolist(), rel=1e-3)
        assert [value for _, value in page.suppressed] == pytest.approx(logits[order[:-11:-1]].tolist(), rel=1e-3)
    assert [text for text, _ in pages()[0].promoted][:4] == [" I", " you", " they", " we"]


def test_effects_are_exact_and_inside_their_intervals():
    part = of_split("test")
    fill = pn.make_fills(demo.model(), of_split("train"), part, "mean", NEURONS)[0].offset
    exact = pn.exact_effects(demo.model(), part, NEURONS, fill=fill, scope="all")
    counts = np.bincount(part.word_tag[part.readable("predict")], minlength=17)
    for number, page in enumerate(pages()):
        assert [each.rise for each in page.effects] == pytest.approx(exact[:, number].tolist(), rel=1e-3, nan_ok=True)
        assert [each.words for each in page.effects] == counts.tolist()
        known = [each for each in page.effects if not np.isnan(each.low)]
        assert all(each.low <= each.rise <= each.high for each in known)
        assert len(known) > 10
    assert (pages()[0].ablation, pages()[0].scope) == ("mean", "all")


def test_an_interval_needs_two_clusters():
    part = of_split("test")
    word = part.readable("predict")[0]
    tag = int(part.word_tag[word])
    rest = part.keep_words((part.word_tag != tag) | (np.arange(len(part)) == word), "test")
    (page,) = pn.make_pages(demo.model(), rest, ["L5N7"], contexts=1)
    assert page.effects[tag].words == 1
    assert np.isfinite(page.effects[tag].rise)
    assert np.isnan(page.effects[tag].low)
    assert np.isnan(page.effects[tag].high)


def test_ranks_are_those_of_the_rankings():
    frame = ranking().to_frame().set_index(["tag", "layer", "neuron"])
    for page in pages():
        mine, other = page.ranks
        assert (mine.method, other.method) == ("correlation", "other@last")
        for tag, rank, score in zip(page.tags, mine.ranks, mine.scores, strict=True):
            place = (tag, page.layer, page.neuron)
            if place in frame.index:
                assert rank == frame.loc[place, "rank"]
                assert score == pytest.approx(frame.loc[place, "score"], rel=1e-3)
            else:
                assert (rank, np.isnan(score)) == (None, True)
        assert [each.rank for each in page.of] == sorted(
            rank for each in page.ranks for rank in each.ranks if rank and rank <= 10
        )
        assert page.n_neurons == 6 * 768


def test_a_number_asks_for_the_best_of_every_tag():
    found = pn.make_pages(demo.model(), corpus(), 1, rankings=[ranking()], contexts=1, effect_words=40)
    tops = [each.names[0] for each in ranking().top(1, fewer=True).values()]
    assert [page.name for page in found] == list(dict.fromkeys(tops))
    assert Counter(each.tag for page in found for each in page.of) == Counter(list(ranking().top(1, fewer=True)))
    assert sum(each.words for each in found[0].effects) < sum(each.words for each in pages()[0].effects)


def test_a_page_does_not_depend_on_the_others():
    (alone,) = pn.make_pages(demo.model(), corpus(), "L0N350", rankings=[ranking()])
    with_others = pages()[1]
    assert (alone.edges, alone.counts, alone.contexts) == (with_others.edges, with_others.counts, with_others.contexts)
    lows = [[each.low for each in page.effects] for page in (alone, with_others)]
    assert lows[0] == pytest.approx(lows[1], abs=2e-5, nan_ok=True)


def test_the_bridge_gives_the_same():
    bridge = pn.load_model(backend="bridge", device="cpu", dtype=torch.float32)
    small = corpus().select(np.arange(corpus().n_rows) % 3 == 0)
    theirs, ours = (pn.make_pages(model, small, NEURONS, contexts=3) for model in (bridge, demo.model()))
    for one, other in zip(theirs, ours, strict=True):
        assert one.means == pytest.approx(other.means, rel=0.01, abs=1e-3, nan_ok=True)
        assert [each.tokens for each in one.contexts] == [each.tokens for each in other.contexts]
        assert one.promoted == other.promoted
        rises = [[each.rise for each in page.effects] for page in (one, other)]
        assert rises[0] == pytest.approx(rises[1], abs=1e-4, nan_ok=True)


def test_one_tag_without_splits_and_read_last():
    part = of_split("dev")
    lone = replace(part, tags=("ALL",), word_tag=np.zeros_like(part.word_tag), split_names=("x", "y", "z"))
    (page,) = pn.make_pages(demo.model(), lone, ["L0N350"], at="last", contexts=2, ablation="zero", scope="local")
    assert (page.split, page.effect_split, page.tags, page.scope) == ("all", "all", ("ALL",), "local")
    assert page.words == (len(part),)  # also the first of a row
    assert all(each.read == each.word[1] for each in page.contexts)
    assert page.figure().layout.yaxis.ticktext == ("ALL",)


def test_what_makes_no_sense_is_told():
    model = demo.model()
    with pytest.raises(NeuronError, match="neuron L9N0: the model has layers 0 to 5"):
        pn.make_pages(model, corpus(), ["L9N0"])
    with pytest.raises(NeuronError, match="neurons=3: the best of no ranking; give rankings, or names such as 'L3N12'"):
        pn.make_pages(model, corpus(), 3)
    with pytest.raises(NeuronError, match="no such ablation"):
        pn.make_pages(model, corpus(), ["L0N0"], ablation="none", contexts=1)
    wrong = replace(ranking(), scores=ranking().scores[:, :, :5])
    with pytest.raises(
        NeuronError, match="ranking correlation: it is of 6 layers of 5 neurons, but the model has 6 of"
    ):
        pn.make_pages(model, corpus(), ["L0N0"], rankings=[wrong])
    silent = corpus().keep_words(np.zeros(len(corpus()), dtype=bool), "test")
    with pytest.raises(AlignmentError, match="no word to read at 'predict'; give longer sentences"):
        pn.make_pages(model, silent, ["L0N0"])
    assert pn.make_pages(model, corpus(), []) == ()


def test_activations_that_are_not_finite_are_told(monkeypatch):
    def broken(*given, **options):
        found = cache_activations(*given, **options)
        return replace(found, values=np.full_like(found.values, np.inf))

    monkeypatch.setattr(profiles, "cache_activations", broken)
    with pytest.raises(NeuronError, match=r"neuron L0N0: its activation is not finite at .* load the model in float32"):
        pn.make_pages(demo.model(), corpus(), ["L0N0"])


def test_weights_that_do_not_tell_leave_a_note(monkeypatch):
    def refuse(_):
        raise ModelError("tiny: a norm after the MLP")

    monkeypatch.setattr(portraits, "check_writes", refuse)
    (page,) = pn.make_pages(demo.model(), corpus(), ["L5N7"], contexts=1, effect_words=20)
    assert (page.promoted, page.suppressed) == ((), ())
    assert page.notes == ("No promoted tokens: tiny: a norm after the MLP.",)


def test_neurons_in_several_blocks_are_the_same(monkeypatch):
    monkeypatch.setattr(profiles, "_VALUES", 1)
    monkeypatch.setattr(portraits, "_LOGITS", 1)
    monkeypatch.setattr(portraits, "_CONDITIONS", 1)
    found = pn.make_pages(demo.model(), corpus(), NEURONS)
    for one, other in zip(found, pages(), strict=True):
        assert one.contexts == other.contexts
        assert one.promoted == other.promoted
        assert repr(one.effects) == repr(other.effects)
