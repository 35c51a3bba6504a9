"""Does the model know the language of a text at all? Its loss per character beside that of a unigram.

A model that has never read a language still gets its tokens, and neurons can be ranked on any numbers. What they say is
worth nothing where the model predicts words no better than one that only knows how frequent each token is in the
training split (unigram, one added to each count so that none is impossible). Both are held against the same words: the
losses of all tokens of a word are summed, and divided by the characters of the words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from posneurons import models
from posneurons.activations import BATCH_TOKENS, sample_rows
from posneurons.display import Shown
from posneurons.errors import AlignmentError
from posneurons.lesions import word_losses
from posneurons.records import Corpus

if TYPE_CHECKING:
    import plotly.graph_objects as go

WORDS = 4000
"""Words that are read, in rows drawn at random."""


@dataclass(frozen=True, repr=False)
class Fluency(Shown):
    """Losses in nats per character.

    Attributes:
        words: how many words were read.
        characters: how many characters they have, without white space before them.
        model: loss of the model.
        unigram: loss by the frequencies of tokens.
    """

    words: int
    characters: int
    model: float
    unigram: float

    @property
    def knows(self) -> bool:
        """Whether the model does better than token frequencies."""
        return self.model < self.unigram

    def figure(self) -> go.Figure:
        """Loss per character of the model beside that of token frequencies."""
        from posneurons.effect_figures import per_character

        return per_character(self.model, self.unigram, self.words, self.characters)


def fluency(
    model: Any,
    corpus: Corpus,
    *,
    train: str = "train",
    test: str = "test",
    words: int = WORDS,
    seed: int = 0,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Fluency:
    """What the words of a split cost the model, and a unigram of the tokens of another, per character.

    Args:
        model: what `load_model` gives.
        corpus: aligned words with both splits.
        train: where the tokens are counted.
        test: where the words are read; those whose first token follows BOS directly are not.
        words: how many, in rows drawn at random.
        seed: of the draw.
        tokens: size of a batch.
        progress: show a bar.

    Raises:
        AlignmentError: where a split is missing, `test` has no word to read, or the corpus does not fit the model.
    """
    known, read = corpus.split(train), sample_rows(corpus.split(test), "predict", words, np.random.default_rng(seed))
    if not len(read.readable("predict")):
        raise AlignmentError(f"{corpus.name}: no word of {test!r} can be read at 'predict'; give longer sentences")
    losses = word_losses(model, read, (), measures=("word",), tokens=tokens, progress=progress)
    counts = np.bincount(known.tokens, minlength=models.describe(model).d_vocab) + 1.0
    cost = np.concatenate([[0.0], np.cumsum(-np.log(counts / counts.sum())[read.tokens])])
    begin = read.row_bounds[read.word_row] - 1
    unigram = cost[begin + read.word_last + 1] - cost[begin + read.word_first]
    characters = sum(len(str(form)) for form in read.word_form[losses.words])
    return Fluency(
        words=len(losses.words),
        characters=characters,
        model=float(losses.intact[0].sum(dtype=np.float64) / characters),
        unigram=float(unigram[losses.words].sum() / characters),
    )
