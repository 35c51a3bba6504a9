"""The embedded model and corpus, loaded once, and small parts of corpus and treebank for what is slow."""

from functools import cache
from pathlib import Path
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


def write_treebank(folder: Path, every: int) -> Path:
    """Every so many-th sentence of each file of the embedded treebank, as files in a folder."""
    for path in (Path(pn.__file__).parent / "demo" / "treebank").glob("*.conllu"):
        sentences = path.read_text(encoding="utf-8").strip().split("\n\n")[::every]
        (folder / path.name).write_text("\n\n".join(sentences) + "\n\n", encoding="utf-8")
    return folder
