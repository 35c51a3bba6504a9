"""Loss per character of a model and of a unigram, by a plain loop; a language the model has never read."""

import math
from collections import Counter

import demo
import numpy as np
import pytest
import torch

import posneurons as pn
from posneurons.errors import AlignmentError
from posneurons.fluency import fluency

SYLLABLES = ("qux", "zvik", "wroq", "jyxl", "pfzz")


def unknown() -> pn.Corpus:
    """A language of five words that no text has, in no order."""
    rng = np.random.default_rng(0)
    words = [[SYLLABLES[number] for number in rng.integers(0, 5, 12)] for _ in range(40)]
    tags = [["A" if word < "r" else "B" for word in sentence] for sentence in words]
    bank = pn.from_lists(words, tags, split=["train"] * 30 + ["test"] * 10)
    return pn.align(bank, demo.model().tokenizer, n_ctx=256)


def test_losses_by_a_plain_loop() -> None:
    corpus, model = demo.small(), demo.model()
    test = corpus.split("test")
    found = fluency(model, corpus, words=10**6)
    counts = Counter(corpus.split("train").tokens.tolist())
    total = sum(counts.values()) + model.cfg.d_vocab
    cost, unigram, characters, words = 0.0, 0.0, 0, 0
    for row in range(test.n_rows):
        tokens = torch.from_numpy(test.row_tokens(row))
        losses = model(tokens[None], return_type="loss", loss_per_token=True)[0]
        for word in np.flatnonzero(test.word_row == row):
            first, last = test.word_first[word], test.word_last[word]
            if first > 1:
                cost += losses[first - 1 : last].sum().item()
                unigram -= sum(math.log((counts[token] + 1) / total) for token in tokens[first : last + 1].tolist())
                characters, words = characters + len(test.word_form[word]), words + 1
    assert (found.words, found.characters) == (words, characters)
    assert found.model == pytest.approx(cost / characters, rel=1e-5)
    assert found.unigram == pytest.approx(unigram / characters, rel=1e-9)


def test_the_embedded_model_knows_english_and_not_a_language_without_texts() -> None:
    assert fluency(demo.model(), demo.small()).knows
    found = fluency(demo.model(), unknown())
    assert not found.knows
    assert found.model > 1.2 * found.unigram


def test_a_sample_is_drawn_in_rows() -> None:
    some = fluency(demo.model(), demo.small(), words=50, seed=1)
    assert 50 <= some.words < fluency(demo.model(), demo.small()).words
    assert some == fluency(demo.model(), demo.small(), words=50, seed=1)
    assert some != fluency(demo.model(), demo.small(), words=50, seed=2)


def test_a_split_without_words_to_read_is_an_error() -> None:
    bank = pn.from_lists([["go"], ["go", "on"]], [["A"], ["A", "B"]], split=["test", "train"])
    corpus = pn.align(bank, demo.model().tokenizer, n_ctx=256)
    with pytest.raises(AlignmentError, match="no word of 'test' can be read at 'predict'; give longer sentences"):
        fluency(demo.model(), corpus)
