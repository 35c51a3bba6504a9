"""The words of options and results, and two numbers, the same everywhere: in Python, as options, in files, on pages.

Light to import.
"""

from __future__ import annotations

import re
from typing import Literal

NEURON = re.compile(r"L([0-9]{1,4})N([0-9]{1,9})")
"""How a neuron is written; no model has more layers or neurons, and what is counted by layer stays small."""

At = Literal["predict", "first", "last"]
"""Where a word is read: the position before its first token, its first token, or its last token."""

Context = Literal["sentence", "document"]
"""What the model reads at once: a sentence by itself, or with the sentences of its document before it."""

Units = Literal["word", "contraction", "token"]
"""What becomes of words that share a token: left out; or one unit, of contractions and words of one tag, or of all."""

Per = Literal["model", "layer"]
"""Over what a top k is taken: the whole model, or each layer by itself."""

Ablation = Literal["zero", "mean", "balanced_mean", "resample", "clamp", "scale"]
"""What an ablated neuron is set to: 0, its mean over tokens or over tags, another token's value, a value, or a part of
its own."""

Donor = Literal["any", "other"]
"""Whose value a resampled neuron takes: that of any word, or of one with another tag than the word at stake."""

Measure = Literal["first", "word", "category"]
"""Losses of a word: of its first token, summed over its tokens, and -ln P(its tag), of which the first is a part."""

Control = Literal["size", "layer"]
"""What a random set shares with the set it is held against: layers and size (how far ablating moves the residual), or
layers only."""

SetKind = Literal["key", "matched", "bottom", "damage", "unflagged"]
"""What a lesioned set is: a tag's key neurons, a matched random set, the last of the ranking (by a signed method, what
works against the tag), a random set that does as much damage, or the key neurons without outliers."""

Rival = Literal["bottom", "damage", "unflagged"]
"""Sets that can be lesioned beside key neurons and their matched random sets."""

Cluster = Literal["auto", "document", "sentence"]
"""What is resampled: documents, sentences, or documents where enough are marked."""

Correction = Literal["bh", "by"]
"""False discovery rate: of Benjamini and Hochberg, or of Benjamini and Yekutieli, valid under any dependence."""

Verdict = Literal["classical", "strong", "one-way", "none"]
"""What is said of a pair of tags: both ways and the other unharmed, both ways, one way, not shown."""

BEST = 10
"""So many best neurons of each tag by one method are kept and shown under every other method."""

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
