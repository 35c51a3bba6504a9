"""Digests by which it is seen that what was computed before is the same as what is asked for now.

What they do not know: that of a model reads only a few weights of each parameter, and so misses a change of others.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from posneurons import models
from posneurons.records import Corpus

_READ = 64
"""Weights of each parameter that a digest reads."""


def digest(*parts: object) -> str:
    """Half a sha256, in hexadecimal, of anything that JSON can write."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def corpus_digest(corpus: Corpus) -> str:
    """Digest of the tokens, words, tags and clusters of a corpus."""
    found = hashlib.sha256("\t".join(corpus.tags).encode())
    for name in ("tokens", "row_bounds", "row_document", "word_row", "word_first", "word_last", "word_sentence"):
        found.update(np.ascontiguousarray(getattr(corpus, name), dtype=np.int64).tobytes())
    found.update(np.ascontiguousarray(corpus.word_tag, dtype=np.int64).tobytes())
    return found.hexdigest()[:32]


def identity(model: Any) -> str:
    """Digest of a model: its shape, its dtype, and some weights of each of its parameters."""
    info = models.describe(model)
    found = hashlib.sha256(f"{info.dtype} {info.n_layers} {info.d_mlp} {info.n_parameters}".encode())
    for parameter in model.parameters():
        first = parameter.detach()[(0,) * max(0, parameter.ndim - 1)] if parameter.numel() else parameter.detach()
        found.update(f"{tuple(parameter.shape)}".encode())
        found.update(first.reshape(-1)[:_READ].float().cpu().numpy().tobytes())
    return found.hexdigest()[:32]
