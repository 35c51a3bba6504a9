"""Integrated gradients as a ranking of neurons (Sundararajan et al. 2017, arXiv:1703.01365); see `path_runs`."""

from __future__ import annotations

from typing import Any

from posneurons.activations import BATCH_TOKENS, check_fits
from posneurons.path_sums import Integral, path_sums
from posneurons.records import Corpus, Scored
from posneurons.words import At, Path, Rule, Target


def integrated_gradients(
    model: Any,
    corpus: Corpus,
    *,
    at: At = "predict",
    contrast: bool = True,
    steps: int = 6,
    rule: Rule = "gauss_legendre",
    target: Target = "log_probability",
    path: Path = "layer",
    seed: int = 0,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Scored:
    """Integrated gradients of the token after the position read, from activations of 0, at that position.

    Args:
        model: what `load_model` gives.
        corpus: the words to attribute.
        at: where each word is read.
        contrast: True for the mean on the tag minus that on the rest, over its error (see
            `EffectAccumulator.contrast`); False for the mean attribution, in nats (or in units of the target).
        steps: nodes of the integral; with "gauss_legendre" twice as many, up to 16 times, for layers that need them
            on a pilot of 128 words.
        rule: where they lie; "right" with 20 steps is Knowledge Neurons' formula. Evenly spaced nodes miss by more than
            5 %, an error, where a layer writes far more than the stream holds (the embedded model's first).
        target: "log_probability", "probability" or "logit".
        path: "layer" (each layer by itself) or "joint" (all layers together; steps times cheaper per layer).
        seed: of the pilot's sentences.
        tokens: size of a batch.
        progress: show a bar.

    Returns:
        Scores, with the completeness error of the worst layer among the notes.

    Raises:
        PosNeuronsError: where attributions miss what they must add up to by more than 5 %.
        AlignmentError: where the corpus does not fit the model.
    """
    check_fits(model, corpus)
    integral = Integral(at, steps, rule, target, path, seed, tokens)
    state, seen = path_sums(model, corpus, integral, progress)
    return (state.contrast() if contrast else state.mean()).noting(completeness_error=seen.error())
