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

Scope = Literal["local", "all"]
"""How far an effect is followed: at the neuron's own position only, or through attention to all later ones too."""

Baseline = Literal["zero", "mean", "donor"]
"""What a neuron is compared with: 0, its mean over the tokens, or its value at another word drawn at random."""

Rule = Literal["left", "right", "midpoint", "gauss_legendre"]
"""Where an integral's nodes lie."""

Target = Literal["log_probability", "probability", "logit"]
"""What of the next token is attributed."""

Path = Literal["layer", "joint"]
"""What is scaled along the path of integrated gradients: one layer at a time, or all layers together."""
