"""What a word brings along beside its tag: how frequent it is, how long, and where it stands.

Tags differ in all of these (function words are frequent and short, and punctuation comes late), so that a neuron which
knows only one of them seems to know the tag. The numbers here are what `partial` takes away and `matching` makes equal.
This module knows neither models nor statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from posneurons.errors import PosNeuronsError
from posneurons.records import Corpus
from posneurons.words import At

if TYPE_CHECKING:
    import pandas as pd

Covariate = Literal["frequency", "length", "tokens", "position"]
"""Frequency of the form (logarithm), characters of the word, its tokens, and where it is read."""


def word_covariates(corpus: Corpus, at: At = "predict") -> pd.DataFrame:
    """The covariates of every word of a corpus, one row each; the index `word` is its number in the corpus.

    Columns: split, form, tag, log_frequency, length, tokens, position, as in `covariate_values`. Words that cannot be
    read at `at` have position 0. `word_covariates(corpus).groupby("tag").mean(numeric_only=True)` tells tags apart.

    Raises:
        AlignmentError: where `at` is no position.
    """
    import pandas as pd

    names = get_args(Covariate)
    numbers = covariate_values(corpus, names, at)
    columns = {
        "split": np.array(corpus.split_names, dtype=object)[corpus.row_split[corpus.word_row]],
        "form": corpus.word_form,
        "tag": np.array(corpus.tags, dtype=object)[corpus.word_tag],
        "log_frequency": numbers[:, 0],
        **{name: numbers[:, column].astype(np.int64) for column, name in enumerate(names) if column},
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(corpus), name="word"))


def covariate_values(corpus: Corpus, names: Sequence[str], at: At = "predict") -> Float[ndarray, "word covariate"]:
    """Some covariates of every word, as numbers.

    - frequency: natural logarithm of how often the form, whatever its case, stands in the whole treebank (0 for once).
    - length: characters of the form.
    - tokens: tokens of the word.
    - position: where the word is read, in tokens after BOS, so that it counts those the model has read by then.

    Args:
        corpus: aligned words.
        names: which ones, the columns of the result.
        at: where each word is read.

    Raises:
        PosNeuronsError: where a name is unknown.
        AlignmentError: where `at` is no position.
    """
    for name in names:
        if name not in get_args(Covariate):
            raise PosNeuronsError(f"covariate {name!r}: expected one of {', '.join(get_args(Covariate))}")
    found = {
        "frequency": np.log(corpus.word_frequency),
        "length": np.array([len(form) for form in corpus.word_form], dtype=np.int64),
        "tokens": corpus.word_last - corpus.word_first + 1,
        "position": corpus.positions(at),
    }
    return np.array([found[name] for name in names], dtype=np.float64).reshape(len(names), len(corpus)).T
