"""P(tag | token) by hand, and the split of the loss against full probabilities."""

from dataclasses import replace

import demo
import numpy as np
import pytest
import torch

from posneurons import models
from posneurons.errors import AlignmentError
from posneurons.lexicon import Lexicon, lexicon, split_losses
from posneurons.markov import MarkovSource
from posneurons.records import Corpus


def corpus(tokens: list[int], tags: list[int]) -> Corpus:
    source = MarkovSource(("A", "B"), np.full((2, 2), 0.5), np.array([0.5, 0.5]))
    one = source.sample(1, len(tokens))
    return replace(one, tokens=np.array(tokens), word_tag=np.array(tags))


def test_table_by_hand() -> None:
    # Token 1: A, A, B; token 2: B, B; tokens 3 and 4 once, both A, so that the prior is (2 + 1, 0 + 1) / 4. Token 0 and
    # token 5 were never seen.
    found = lexicon(corpus([1, 2, 1, 3, 1, 2, 4], [0, 1, 0, 0, 1, 1, 0]), 6)
    expected = [[3 / 4, 1 / 4], [11 / 16, 5 / 16], [1 / 4, 3 / 4], [7 / 8, 1 / 8], [7 / 8, 1 / 8], [3 / 4, 1 / 4]]
    torch.testing.assert_close(found.table, torch.tensor(expected))
    assert found.tags == ("A", "B")


def test_where_no_token_was_seen_once_the_prior_is_that_of_all_words() -> None:
    found = lexicon(corpus([1, 2, 1, 2, 1, 2], [0, 1, 0, 0, 1, 1]), 3)
    torch.testing.assert_close(found.table[0], torch.tensor([0.5, 0.5]))


@torch.no_grad()
def test_the_parts_add_up_and_a_certain_tag_costs_what_the_words_of_it_cost() -> None:
    model, generator = demo.model(), torch.Generator().manual_seed(0)
    rows, targets = torch.randn(7, 256, generator=generator) * 3, torch.randint(0, 4096, (7,), generator=generator)
    member = torch.arange(4096) % 3
    table = torch.nn.functional.one_hot(member).float()
    loss, category = split_losses(model, rows, targets, member[targets], table, chunk=3)
    logits = models.unembed(model, rows).double()
    share = torch.stack([logits.softmax(-1)[:, member == k].sum(-1) for k in range(3)], dim=1)
    expected = -share.gather(1, member[targets][:, None])[:, 0].log()
    torch.testing.assert_close(category.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(loss, models.cross_entropy(model, rows, targets), atol=1e-5, rtol=0)
    inside = [logits[i, member == member[t]].log_softmax(-1)[t // 3] for i, t in enumerate(targets.tolist())]
    torch.testing.assert_close((loss - category).double(), -torch.stack(inside), atol=2e-5, rtol=0)
    assert split_losses(model, rows[:0], targets[:0], targets[:0], table).shape == (2, 0)


def test_errors_say_what_to_do() -> None:
    some = corpus([1, 2], [0, 1])
    with pytest.raises(AlignmentError, match="no word to count tags of; expected a split with words"):
        lexicon(some.select(np.array([False])), 4)
    with pytest.raises(AlignmentError, match="token 2 is outside the vocabulary of 2; align with this model's own"):
        lexicon(some, 2)
    assert isinstance(lexicon(some, 3), Lexicon)
