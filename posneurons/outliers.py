"""Neurons that stand out for other reasons than parts of speech: massive, token frequency and entropy neurons.

A lesion of such a neuron hurts every word, or every rare word, and a random set that happens to hold one is no fair
control. They are found from weights and one pass over a corpus, without looking at any tag:

- massive: its largest write, max|a| |w_out|, is many times the median of its layer (the massive activations and super
  weights of Sun et al. 2024, arXiv:2402.17762, and Yu et al. 2024, arXiv:2411.07191, seen from the MLP).
- frequency: what it writes moves the logits along the log unigram frequency of the tokens (token frequency neurons of
  Stolfo et al. 2024, arXiv:2406.16254).
- entropy: it writes much, but into directions that the unembedding hardly reads, so that it acts through the scale of
  the final norm (entropy neurons, same paper).

Logits and their variance are over the vocabulary, with the final norm's weight folded into the unembedding and the mean
logit taken off, as the softmax does. No neuron's logits are ever made: with G the d x d Gram matrix of the centred
unembedding and f its product with the centred log frequencies, a direction w has the logit variance w'Gw / V and the
correlation w'f / sqrt(w'Gw f'G^-1f) with the logits that fit the log frequencies best of all that the residual can
write. It is the correlation with the log frequencies themselves over the highest one possible, so that counts of few
tokens, which no direction fits well, do not make it small.

What this does not know: whether a flagged neuron does what its kind is named for, since only weights are read; what
neurons write where a norm follows the MLP; and the frequencies of the training data, for which the corpus stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from posneurons import models
from posneurons.activations import BATCH_TOKENS, TokenStatistics, token_statistics
from posneurons.display import Shown
from posneurons.errors import NeuronError, PosNeuronsError
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.weights import FinalNorm, final_norm, output_weights, vocabulary

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FlagKind = Literal["massive", "frequency", "entropy"]
"""Why a neuron is flagged."""

BOTTOM = 0.01
"""Share of the unembedding's singular directions, the weakest, that count as hardly read: k = 40 of Llama-2's 4,096 in
Stolfo et al. 2024, Figure 2."""

RELATIVE_ZERO = 1e-12
"""Variance along a direction, over the largest, below which the unembedding does not read it at all."""


@dataclass(frozen=True)
class Thresholds:
    """From where on a neuron is flagged.

    Attributes:
        massive: largest write over the median of its layer; 50 leaves room for heavy tails, and massive activations are
            hundreds to thousands of times the median (arXiv:2402.17762).
        frequency: absolute correlation of its logits with those that fit log frequency best; from sqrt(1/2) on, more of
            the variance of what it does to the logits is along frequency than along all else.
        null_share: share of a neuron's norm in the bottom directions, as a multiple of what a random direction has
            there (sqrt of their share of all directions). Already with three directions of 256, 3 leaves a random one
            a chance of about 1 in 100,000, and less with more.
        norm: norm of what it writes per unit of activation over the median of its layer, for entropy neurons.
        logit_variance: variance of its logits at unit norm over the median of its layer, for entropy neurons.
    """

    massive: float = 50.0
    frequency: float = math.sqrt(0.5)
    null_share: float = 3.0
    norm: float = 1.5
    logit_variance: float = 0.5


@dataclass(frozen=True, repr=False)
class Flags(Shown):
    """Which neurons stand out, by kind, and what was measured; NaN where undefined, as for a neuron that writes 0.

    Attributes:
        massive, frequency, entropy: which neurons are flagged as that kind.
        loudness: largest write over the median of its layer, silent neurons aside.
        correlation: of its logits with those that fit the log unigram frequency best, over the vocabulary, -1 to 1.
        null_share: share of its norm in the bottom singular directions of the unembedding, from 0 to 1.
        norm: norm of its output weights over the median of its layer.
        logit_variance: variance of its logits at unit norm over the median of its layer.
        thresholds: from where on neurons were flagged.
    """

    massive: Bool[ndarray, "layer neuron"]
    frequency: Bool[ndarray, "layer neuron"]
    entropy: Bool[ndarray, "layer neuron"]
    loudness: Float[ndarray, "layer neuron"]
    correlation: Float[ndarray, "layer neuron"]
    null_share: Float[ndarray, "layer neuron"]
    norm: Float[ndarray, "layer neuron"]
    logit_variance: Float[ndarray, "layer neuron"]
    thresholds: Thresholds

    def neurons(self, kind: FlagKind | None = None) -> NeuronSet:
        """The flagged neurons of one kind, or of any, by layer and unit. Raises NeuronError for an unknown kind."""
        if kind is not None and kind not in get_args(FlagKind):
            raise NeuronError(f"flags: no kind {kind!r}; expected one of {', '.join(get_args(FlagKind))}")
        kinds = get_args(FlagKind) if kind is None else (kind,)
        layers, units = np.nonzero(np.logical_or.reduce([getattr(self, each) for each in kinds]))
        return NeuronSet(layers, units)

    def without(self, neurons: NeuronSet) -> NeuronSet:
        """A set less its flagged neurons, in its order. Raises NeuronError for a neuron of another model."""
        neurons.check(*self.massive.shape)
        kept = ~(self.massive | self.frequency | self.entropy)[neurons.layers, neurons.units]
        return NeuronSet(neurons.layers[kept], neurons.units[kept])

    def to_frame(self) -> pd.DataFrame:
        """One row per flagged neuron: layer, neuron, kinds (words, with a space between), and what was measured."""
        import pandas as pd

        flagged = self.neurons()
        where = flagged.layers, flagged.units
        kinds = [
            " ".join(kind for kind in get_args(FlagKind) if getattr(self, kind)[layer, unit])
            for layer, unit in zip(*where, strict=True)
        ]
        measured = ("loudness", "correlation", "null_share", "norm", "logit_variance")
        return pd.DataFrame(
            {"layer": where[0], "neuron": where[1], "kinds": kinds}
            | {name: getattr(self, name)[where] for name in measured}
        )

    def figure(self) -> go.Figure:
        """The flagged neurons by layer, a row for each kind, and how far they are beyond its threshold."""
        from posneurons.ranking_figures import flagged

        measured = {"massive": "loudness", "frequency": "correlation", "entropy": "norm"}
        limit = self.thresholds.frequency
        thresholds = {
            "massive": [self.thresholds.massive],
            "frequency": [-limit, limit],
            "entropy": [self.thresholds.norm],
        }
        frame = self.to_frame()
        frames = {kind: frame[[kind in kinds.split() for kinds in frame["kinds"]]] for kind in get_args(FlagKind)}
        return flagged(frames, measured, thresholds, len(self.massive))


class _Reading(NamedTuple):
    """How the unembedding reads the residual before the final norm, at scale 1.

    Attributes:
        directions: its singular directions, weakest first, as columns.
        variance: variance over the vocabulary of the logits that a unit step along each gives.
        frequency: covariance of such logits with those that fit the log frequency best, at standard deviation 1.
        bottom: how many of the directions count as hardly read.
    """

    directions: Float[Tensor, "d_model direction"]
    variance: Float[Tensor, " direction"]
    frequency: Float[Tensor, " direction"]
    bottom: int


@torch.no_grad()
def flags(
    model: Any,
    corpus: Corpus,
    *,
    statistics: TokenStatistics | None = None,
    thresholds: Thresholds | None = None,
    smoothing: float = 1.0,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Flags:
    """Flag the massive, token frequency and entropy neurons of a model.

    Args:
        model: what `load_model` gives.
        corpus: the training words: their tokens give the largest activations and the unigram frequencies.
        statistics: those of `token_statistics` on this model, where they have been made; else one pass is run.
        thresholds: from where on a neuron is flagged; None is the defaults.
        smoothing: added to the count of every token of the vocabulary before the logarithm, above 0.
        tokens: size of a batch.
        progress: show a bar.

    Returns:
        Flags of every kind and what they rest on.

    Raises:
        PosNeuronsError: where `smoothing` is not above 0, or all tokens are equally frequent.
        ModelError: where the model's final norm is neither LayerNorm nor RMSNorm.
        AlignmentError: where the corpus does not fit the model, or has no token.
    """
    if not smoothing > 0:
        raise PosNeuronsError(f"flags: smoothing={smoothing}; expected a number above 0, such as 1.0")
    statistics = statistics or token_statistics(model, corpus, tokens=tokens, progress=progress)
    limits = thresholds or Thresholds()
    info = models.describe(model)
    norm = final_norm(model)
    reading = _reading(model, norm, _log_frequency(corpus, info.d_vocab, smoothing, info.device))
    layers = tqdm(range(info.n_layers), desc="outliers", unit="layer", leave=None, disable=not progress)
    measured = [_measure(model, norm, reading, layer) for layer in layers]
    size, share, variance, correlation = (np.stack(each) for each in zip(*measured, strict=True))
    loudness = _over_median(statistics.max_abs.double().cpu().numpy() * size)
    ratio, spread = _over_median(size), _over_median(variance)
    chance = math.sqrt(reading.bottom / len(reading.variance))
    return Flags(
        massive=loudness > limits.massive,
        frequency=np.abs(correlation) > limits.frequency,
        entropy=(share > limits.null_share * chance) & (ratio > limits.norm) & (spread < limits.logit_variance),
        loudness=loudness,
        correlation=correlation,
        null_share=share,
        norm=ratio,
        logit_variance=spread,
        thresholds=limits,
    )


def output_norms(model: Any) -> Float[ndarray, "layer neuron"]:
    """Norm of what each neuron writes into the residual per unit of activation, float64."""
    layers = range(models.describe(model).n_layers)
    return np.stack([output_weights(model, la).detach().float().norm(dim=1).double().cpu().numpy() for la in layers])


def _over_median(values: Float[ndarray, "layer neuron"]) -> Float[ndarray, "layer neuron"]:
    """Values over the median of their layer's positive ones; NaN in a layer without any."""
    positive = np.where(values > 0, values, np.nan)
    medians = [np.nanmedian(row) if np.isfinite(row).any() else np.nan for row in positive]
    found: ndarray = values / np.array(medians)[:, None]
    return found


def _log_frequency(corpus: Corpus, d_vocab: int, smoothing: float, device: str) -> Float[Tensor, " vocab"]:
    """Logarithm of the smoothed counts of all tokens of the vocabulary, less its mean, at standard deviation 1."""
    counts = np.bincount(corpus.tokens, minlength=d_vocab)
    logs = np.log(counts + smoothing)
    if logs.std() == 0:
        raise PosNeuronsError(
            f"{corpus.name}: every token of the vocabulary comes {counts[0]} times; expected some to be more frequent "
            "than others: give a corpus with sentences"
        )
    return torch.from_numpy((logs - logs.mean()) / logs.std()).float().to(device)


def _reading(model: Any, norm: FinalNorm, logs: Float[Tensor, " vocab"]) -> _Reading:
    """Singular directions of the folded unembedding, from the Gram matrix of its columns less their mean."""
    exact = torch.device("cpu") if logs.device.type == "mps" else logs.device  # Apple's GPUs have no float64
    size, d_vocab = len(norm.gain), len(logs)
    mean = torch.zeros(size, dtype=torch.float64, device=exact)
    for _, columns, _ in vocabulary(model):
        mean += columns.sum(1).to(exact).double() / d_vocab
    gram = torch.zeros(size, size, dtype=torch.float64, device=exact)
    frequency = torch.zeros(1, size, dtype=torch.float64, device=exact)
    for part, columns, _ in vocabulary(model):
        read = norm.pull_back((columns - mean.to(columns)[:, None]).T)  # as the residual before the norm sees them
        gram += (read.T @ read).to(exact).double()
        frequency += (logs[part] @ read).to(exact).double()
    variance, directions = torch.linalg.eigh(gram / d_vocab)
    covariance = (frequency / d_vocab @ directions)[0]
    fitted = torch.where(variance > RELATIVE_ZERO * variance[-1], covariance.square() / variance, 0).sum().sqrt()
    return _Reading(
        directions.float().to(logs.device),
        variance.clamp(min=0).float().to(logs.device),
        (covariance / fitted).float().to(logs.device),
        math.ceil(BOTTOM * size),
    )


def _measure(
    model: Any, norm: FinalNorm, reading: _Reading, layer: int
) -> tuple[Float[ndarray, " neuron"], Float[ndarray, " neuron"], Float[ndarray, " neuron"], Float[ndarray, " neuron"]]:
    """Of each neuron of a layer: norm, share of it in the bottom directions, logit variance at unit norm, correlation.

    A LayerNorm takes the mean off what a neuron writes, so shares and variances are of the rest; norms are not.
    """
    weights = output_weights(model, layer).float()
    seen = norm.centre(weights)
    unit = seen / seen.norm(dim=1, keepdim=True)  # NaN for a neuron that writes nothing
    along = einsum(unit, reading.directions, "neuron d_model, d_model direction -> neuron direction")
    variance = along.square() @ reading.variance
    share = along[:, : reading.bottom].norm(dim=1)
    correlation = (along @ reading.frequency) / variance.sqrt()
    size, *others = (
        each.double().cpu().numpy() for each in (weights.norm(dim=1), share.clamp(max=1), variance, correlation)
    )
    return size, others[0], others[1], others[2]
