"""Correlation of neurons with tags, given how frequent, how long and how far in the text the words are.

With Z = [1, covariates], Q an orthonormal basis of its columns over all words to read, and R_k what Q leaves of the
indicator "the word has tag k", the partial correlation of the activations a with the tag is

    r_k = a . R_k / (|R_k| sqrt(|a|^2 - |Q^T a|^2)).

Z and the tags are known before the model runs. So one pass is enough, which sums a . [Q R] and |a|^2 for every neuron.
Only what is linear in the covariates is taken away (a neuron that fires for rare words and for frequent ones keeps
it); `matching` makes no such assumption, and costs words. As in any partial correlation, a covariate that is a
consequence of the tag takes some of the tag with it.

Source: Fisher 1924, "The distribution of the partial correlation coefficient", Metron 3, 329-332; by regression as in
https://en.wikipedia.org/wiki/Partial_correlation#Using_linear_regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from posneurons import models
from posneurons.activations import stream
from posneurons.covariates import covariate_values
from posneurons.distributed import shared
from posneurons.records import Corpus, Scored
from posneurons.words import At

EXPLAINED = 1e-12
"""Share of a variance that is no more than rounding: a neuron or a tag that has no more left given Z is undefined."""

_ROUNDING = float(np.finfo(np.float32).eps) / 2


def partial_correlation(
    model: Any,
    corpus: Corpus,
    *,
    at: At,
    seed: int = 0,  # noqa: ARG001
    tokens: int,
    progress: bool,
    frequency: bool = True,
    length: bool = True,
    position: bool = True,
) -> Scored:
    """Correlation of each neuron with "the word has the tag", given what is known of the word otherwise, in -1..1.

    Without any covariate it is `ranking.correlation`. NaN for neurons that never vary or that the covariates explain
    (all but float32 rounding), and for tags without a word, that every word has, or that the covariates explain.
    `notes` hold the share of each tag's variance that the covariates explain ("explained:NOUN").

    Args:
        model: what `load_model` gives.
        corpus: aligned words, those of the split to rank on.
        at: where the words are read.
        seed: not used.
        tokens: size of a batch.
        progress: show a bar.
        frequency: given how frequent the form is (its logarithm), as in `covariates.covariate_values`.
        length: given how many characters it has.
        position: given how many tokens the model has read where it is read.

    Raises:
        AlignmentError: where the corpus does not fit the model.
    """
    names = [name for name, wanted in (("frequency", frequency), ("length", length), ("position", position)) if wanted]
    words = corpus.readable(at)
    basis = np.zeros((len(corpus), 1 + len(names)))
    basis[words] = _basis(covariate_values(corpus, names, at)[words])
    sums = _summed(model, corpus, basis, at=at, tokens=tokens, progress=progress)
    tags = corpus.word_tag[words]
    count = np.bincount(tags, minlength=len(corpus.tags))
    known = np.zeros((len(count), basis.shape[1]))
    np.add.at(known, tags, basis[words])
    whole = count * (1 - count / max(1, len(words)))
    left = whole - np.square(known[:, 1:]).sum(1)
    notes = {f"explained:{corpus.tags[tag]}": float(1 - left[tag] / whole[tag]) for tag in np.flatnonzero(whole)}
    left = np.where(left > EXPLAINED * whole, left, np.nan)
    return Scored(sums.correlations(known, left), count, notes)


def _basis(covariates: Float[ndarray, "word covariate"]) -> Float[ndarray, "word basis"]:
    """Orthonormal columns that span a constant (the first) and the covariates; columns of 0 where they span less."""
    constant = np.full((len(covariates), 1), 1 / np.sqrt(max(1, len(covariates))))
    if not covariates.size:
        return np.concatenate([constant, covariates], axis=1)
    centred = covariates - covariates.mean(0)
    spread = np.sqrt(np.square(centred).mean(0))
    scaled = np.where(spread > _ROUNDING * np.abs(covariates).max(0), centred / np.where(spread > 0, spread, 1), 0)
    directions, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    found = np.zeros_like(covariates)
    found[:, : len(sizes)] = np.where(sizes > _ROUNDING * sizes.max(), directions, 0)
    return np.concatenate([constant, found], axis=1)


@dataclass(frozen=True)
class _Sums:
    """Sums over words for every neuron, float64: with each column of the basis, over each tag's words, and of squares.

    Activations are taken from `shift`, so that a large constant leaves room for digits. `weights` are the sums of what
    activations are multiplied with, of which the first is a constant.
    """

    words: int
    weights: Float[ndarray, " column"]
    shift: Float[ndarray, "layer neuron"]
    sums: Float[ndarray, "layer column neuron"]
    squares: Float[ndarray, "layer neuron"]

    def merged(self, other: _Sums) -> _Sums:
        """The sums over the words of both, taken from the shift of the first that has any."""
        if not (self.words and other.words):
            return self if self.words else other
        moved = other.shift - self.shift
        total = other.sums[:, 0] * (other.words / other.weights[0])
        return _Sums(
            words=self.words + other.words,
            weights=self.weights + other.weights,
            shift=self.shift,
            sums=self.sums + other.sums + moved[:, None] * other.weights[:, None],
            squares=self.squares + other.squares + 2 * moved * total + other.words * np.square(moved),
        )

    def correlations(
        self, known: Float[ndarray, "tag basis"], left: Float[ndarray, " tag"]
    ) -> Float[ndarray, "tag layer neuron"]:
        """The partial correlations, from each tag's products with the basis and what that leaves of its square."""
        scores = np.full((len(known), *self.squares.shape), np.nan)
        for layer, (shift, sums, squares) in enumerate(zip(self.shift, self.sums, self.squares, strict=True)):
            if not self.words:
                continue
            inside, mine = np.split(sums, [known.shape[1]])
            rest = squares - np.square(inside).sum(0)
            mean = shift + inside[0] / np.sqrt(self.words)
            noise = self.words * np.square(_ROUNDING * mean) + EXPLAINED * squares
            with np.errstate(invalid="ignore", divide="ignore"):
                found = (mine - known @ inside) / np.sqrt(left[:, None] * rest)
            scores[:, layer] = np.where(rest > noise, found.clip(-1, 1), np.nan)
        return scores


@shared(_Sums.merged)
def _summed(
    model: Any, corpus: Corpus, basis: Float[ndarray, "word basis"], *, at: At, tokens: int, progress: bool
) -> _Sums:
    """The sums over the words of a corpus, taken from the mean of each layer's first batch."""
    info = models.describe(model)
    # Apple's GPUs have no float64: there the sums are taken on the CPU.
    device = torch.device("cpu") if torch.device(info.device).type == "mps" else torch.device(info.device)
    onehot = np.eye(len(corpus.tags))[corpus.word_tag]
    columns = torch.from_numpy(np.concatenate([basis, onehot], axis=1)).to(device)
    shift, squares = torch.zeros(2, info.n_layers, info.d_mlp, dtype=torch.float64, device=device)
    sums = torch.zeros(info.n_layers, columns.shape[1], info.d_mlp, dtype=torch.float64, device=device)
    seen = torch.zeros(info.n_layers, len(corpus), dtype=torch.bool, device=device)

    def consume(layer: int, where: At, numbers: Tensor, values: Tensor) -> None:  # noqa: ARG001
        if not len(numbers):
            return
        numbers, plain = numbers.to(device), values.to(device).double()
        if not seen[layer].any():
            shift[layer] = plain.mean(0)
        seen[layer, numbers] = True
        centred = plain - shift[layer]
        sums[layer].addmm_(columns[numbers].T, centred)
        squares[layer] += centred.square_().sum(0)

    stream(model, corpus, consume, at=(at,), tokens=tokens, progress=progress)
    return _Sums(
        words=int(seen[0].sum()),
        weights=columns[seen[0]].sum(0).cpu().numpy(),
        shift=shift.cpu().numpy(),
        sums=sums.cpu().numpy(),
        squares=squares.cpu().numpy(),
    )
