"""The embedded model and corpus, loaded once, and a small part of the corpus for what is slow."""

from functools import cache
from typing import Any

import numpy as np
import torch

import posneurons as pn
from posneurons.records import Corpus


@cache
def model() -> Any:
    return pn.load_model(device="cpu", dtype=torch.float32)


@cache
def corpus() -> Corpus:
    return pn.align(pn.load_treebank(), model().tokenizer, n_ctx=256)


@cache
def small() -> Corpus:
    """Every eighth row of all splits."""
    return corpus().select(np.arange(corpus().n_rows) % 8 == 0)
