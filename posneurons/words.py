"""The option words, the same everywhere: in Python, on the command line, in result files. Light to import."""

from __future__ import annotations

from typing import Literal

At = Literal["predict", "first", "last"]
"""Where a word is read: the position before its first token, its first token, or its last token."""

Per = Literal["model", "layer"]
"""Over what a top k is taken: the whole model, or each layer by itself."""

Ablation = Literal["mean", "zero"]
"""What an ablated neuron is set to: its mean over the training tokens, or 0."""

ALPHA = 0.05
"""Level below which a corrected p-value earns a mark or a verdict."""

Method = Literal["correlation", "mean_difference", "probeless"]
"""How neurons are ranked."""
