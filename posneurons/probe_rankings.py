"""Rankings from probes: how much weight a joint classifier gives a neuron, and in what order a Gaussian picks them.

A probe sees neurons together, so that a copy of what is said already earns little: it ranks what is worth reading, not
all that knows the tag. Only a shortlist is judged, the neurons that correlate best with each tag, on words of rows
drawn at random; whatever lies outside it is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from posneurons import models, passes, ranking
from posneurons.activations import cache_activations, sample_rows
from posneurons.classifiers import posterior_scatter
from posneurons.errors import PosNeuronsError
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus, Ranking, Scored
from posneurons.words import At

WORDS = 20_000
"""Words beyond which a probe is fitted on a part of the rows, drawn at random until they hold as many."""

LASSO, RIDGE = 3e-3, 0.1
"""Weights of |W|_1 and |W|^2 / 2 in the elastic net, beside the mean cross-entropy in nats.

Chosen on the embedded treebank: with 1e-3 for both, held-out accuracy before the word is .42 instead of .47, and the
best 20 of two halves share .05 instead of .16. The ridge lets neurons that say the same share their weight.
"""

PLACES = 50
"""Most neurons that the Gaussian selects for a tag."""


def elastic_net(
    model: Any, corpus: Corpus, *, at: At, seed: int, tokens: int, progress: bool, shortlist: int = 200
) -> Scored:
    """Weight of each neuron in one logistic regression of all tags, in nats of log-odds per standard deviation.

    Positive where the neuron speaks for the tag, given all others of the shortlist; exactly 0 where the penalty leaves
    it out, and such neurons are tied. Activations are standardised first: without that, weights rank the inverse of a
    neuron's scale. NaN outside the shortlist, for neurons that do not vary, and for tags without a word.

    Args:
        model: what `load_model` gives.
        corpus: aligned words, those of the split to rank on.
        at: where the words are read.
        seed: of the rows that are drawn where there are more than WORDS words.
        tokens: size of a batch.
        progress: show bars.
        shortlist: how many neurons of the highest absolute correlation each tag sends; all are judged for all tags.

    Raises:
        PosNeuronsError: where the shortlist is empty.
        AlignmentError: where the corpus does not fit the model.

    Source: Dalvi et al. 2019, arXiv:1812.09355 (its penalties are |W|_1 and |W|^2).
    """
    data = _read("elastic_net", model, corpus, at, seed, shortlist, tokens=tokens, progress=progress)
    device = models.describe(model).device
    present, numbers = np.unique(data.tags, return_inverse=True)
    weights, steps = net_weights(
        torch.from_numpy(data.values).to(device), torch.from_numpy(numbers).to(device), len(present)
    )
    scores = data.undefined()
    for column, tag in enumerate(present):
        scores[tag, data.neurons.layers, data.neurons.units] = weights[:, column].cpu().double().numpy()
    kept = float((weights != 0).double().mean())
    return Scored(scores, data.count).noting(steps=float(steps), share_of_weights_kept=kept)


@torch.no_grad()
def net_weights(
    values: Float[Tensor, "word neuron"],
    tags: Int[Tensor, " word"],
    n_tags: int,
    *,
    lasso: float = LASSO,
    ridge: float = RIDGE,
    iterations: int = 300,
    tolerance: float = 2e-3,
) -> tuple[Float[Tensor, "neuron tag"], int]:
    """Weights that make mean cross-entropy + lasso |W|_1 + ridge / 2 |W|^2 least, and the steps it took.

    The minimum is the only one, so that nothing is drawn. Values are standardised already; the intercepts are free.
    Steps end when no weight moves by more than `tolerance` of the largest, or after `iterations`.

    Source: Beck and Teboulle 2009 (FISTA), doi.org/10.1137/080716542; restarts, O'Donoghue and Candes, arXiv:1204.3982.
    """
    n, width = values.shape
    truth = torch.nn.functional.one_hot(tags, n_tags).to(values.dtype)
    slope = _steepest(values) / 2 + ridge
    weights = ahead = torch.zeros(width, n_tags, dtype=values.dtype, device=values.device)
    bias = ahead_bias = torch.zeros(n_tags, dtype=values.dtype, device=values.device)
    momentum = 1.0
    for step in range(1, iterations + 1):
        wrong = ((values @ ahead + ahead_bias).softmax(1) - truth) / n
        moved = ahead - (values.T @ wrong + ridge * ahead) / slope
        moved = moved.sign() * (moved.abs() - lasso / slope).clamp(min=0)
        moved_bias = ahead_bias - wrong.sum(0) / slope
        if ((ahead - moved) * (moved - weights)).sum() + ((ahead_bias - moved_bias) * (moved_bias - bias)).sum() > 0:
            momentum = 1.0  # momentum points uphill
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        pull, momentum = (momentum - 1) / following, following
        ahead, ahead_bias = moved + pull * (moved - weights), moved_bias + pull * (moved_bias - bias)
        change = (moved - weights).abs().max()
        weights, bias = moved, moved_bias
        if change <= tolerance * weights.abs().max():
            return weights, step
    return weights, iterations


def _steepest(values: Float[Tensor, "word neuron"]) -> float:
    """Largest eigenvalue of the mean outer product of the words, with a constant beside the neurons; a bit above it."""
    direction = values.square().mean(0)
    for _ in range(30):
        direction = torch.nn.functional.normalize(values.T @ (values @ direction), dim=0)
    return max(1.0, 1.05 * float((values @ direction).square().mean()))


def gaussian(
    model: Any, corpus: Corpus, *, at: At, seed: int, tokens: int, progress: bool, shortlist: int = 100
) -> Scored:
    """The order in which neurons tell a tag from the rest, each chosen for what it adds to those before it.

    Two Gaussians, the tag's words and all others, are fitted on half of the rows; the next neuron is the one with which
    they say most about the words of the other half: the highest mutual information H(V) - H(V | neurons). Selection
    ends after PLACES neurons, or where none adds anything. The score is only an order: the number of neurons selected
    for the first, 1 for the last, NaN for all others, so that few neurons have one. It cannot be compared between tags
    or corpora; `notes` hold what all selected neurons of a tag say, in nats ("information:NOUN"). That is too high by
    what choosing among many candidates gains by chance: with 100 of them and permuted tags of the embedded treebank, 4
    to 15 neurons seem to add something. A tag with fewer than two words in a half is NaN.

    Each neuron's values are replaced by normal scores, of their ranks over all words. The neurons of gated MLPs have
    tails so heavy (a kurtosis of 57 in the embedded model) that plain Gaussians say less than nothing about many tags.

    Args:
        model: what `load_model` gives.
        corpus: aligned words, those of the split to rank on.
        at: where the words are read.
        seed: of the halves, and of the rows that are drawn where there are more than WORDS words.
        tokens: size of a batch.
        progress: show bars.
        shortlist: of how many neurons, those of the highest absolute correlation with the tag, it can choose.

    Raises:
        PosNeuronsError: where the shortlist is empty.
        AlignmentError: where the corpus does not fit the model.

    Source: Torroba Hennigen, Williams and Cotterell 2020, arXiv:2010.02812, here with a tag against the rest;
    normal scores, Liu, Lafferty and Wasserman 2009, arXiv:0903.0649.
    """
    data = _read("gaussian", model, corpus, at, seed, shortlist, tokens=tokens, progress=progress)
    rows = np.unique(data.rows)
    fit = np.isin(data.rows, np.random.default_rng(seed).permutation(rows)[: (len(rows) + 1) // 2])
    scores, notes = data.undefined(), {}
    for tag, columns in data.own.items():
        mine, values = data.tags == tag, normal_scores(data.values[:, columns])
        if min(np.count_nonzero(side & half) for side in (mine, ~mine) for half in (fit, ~fit)) < 2:
            continue
        chosen, information = greedy(values[fit], mine[fit], values[~fit], mine[~fit], PLACES)
        places = columns[chosen]
        scores[tag, data.neurons.layers[places], data.neurons.units[places]] = np.arange(len(places), 0, -1)
        notes[f"information:{corpus.tags[tag]}"] = information
    return Scored(scores, data.count, notes)


def normal_scores(values: Float[ndarray, "word neuron"]) -> Float[ndarray, "word neuron"]:
    """The standard normal quantiles of each neuron's ranks, (rank - 1/2) / words; equal values share their mean rank.

    >>> normal_scores(np.array([[3.0], [900.0], [5.0]])).ravel().round(2).tolist()
    [-0.97, 0.97, 0.0]
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return np.asarray(ndtri((rankdata(values, axis=0) - 0.5) / len(values)), dtype=np.float64)


def greedy(
    fit: Float[ndarray, "word candidate"],
    fit_mine: Bool[ndarray, " word"],
    held: Float[ndarray, "held candidate"],
    held_mine: Bool[ndarray, " held"],
    places: int,
) -> tuple[Int[ndarray, " k"], float]:
    """Candidates in the order of selection, and the mutual information of all of them with the class, in nats.

    `fit_mine` and `held_mine` are true where a word has the tag. The information is that of the held-out words: the
    class's cross-entropy by its share alone, less that with the candidates, both from what was fitted.
    """
    classes = [_Density(fit[fit_mine], held), _Density(fit[~fit_mine], held)]
    odds = np.log(fit_mine.mean()) - np.log1p(-fit_mine.mean())
    side = np.where(held_mine, -1.0, 1.0)[:, None]
    alone = float(np.logaddexp(0, odds * side).mean())
    chosen: list[int] = []
    information = 0.0
    while len(chosen) < min(places, fit.shape[1]):
        mine, rest = (density.with_each() for density in classes)
        gained = alone - np.logaddexp(0, (mine - rest + odds) * side).mean(0)
        gained[chosen] = -np.inf
        best = int(gained.argmax())
        if gained[best] <= information:
            break
        chosen.append(best)
        information = float(gained[best])
        for density in classes:
            density.choose(best)
    return np.array(chosen, dtype=np.int64), information


class _Density:
    """Log-density of held-out words under one class's Gaussian, of the chosen neurons and each candidate in turn.

    The covariance of any subset is that block of one matrix, divided by a number that depends on the subset's size
    (`classifiers.posterior_scatter`). So after a choice only what remains of each candidate given the chosen is kept:
    a step of Gaussian elimination on the matrix, and the same on the words, for all candidates at once. The prior keeps
    every pivot above the candidate's own prior variance.
    """

    def __init__(self, fit: Float[ndarray, "word candidate"], held: Float[ndarray, "held candidate"]) -> None:
        self._words, self._size, self._log_det = len(fit), 0, 0.0
        self._matrix = posterior_scatter(fit)
        self._left = held - fit.mean(0)
        self._distance = np.zeros((len(held), 1))

    def with_each(self) -> Float[ndarray, "held candidate"]:
        """Log-density, less a constant of the size, with each candidate beside the chosen."""
        size, pivots = self._size + 1, np.diag(self._matrix)
        divisor = self._words + 2 * size + 4
        distance = (self._distance + self._left**2 / pivots) * divisor
        return np.asarray(-(self._log_det + np.log(pivots) - size * np.log(divisor) + distance) / 2)

    def choose(self, candidate: int) -> None:
        """Condition everything on one more neuron."""
        pivot, row, column = self._matrix[candidate, candidate], self._matrix[candidate], self._left[:, [candidate]]
        self._size, self._log_det = self._size + 1, self._log_det + float(np.log(pivot))
        self._distance = self._distance + column**2 / pivot
        self._left = self._left - column * (row / pivot)
        self._matrix = self._matrix - np.outer(row, row / pivot)
        self._matrix[candidate, candidate] = 1.0  # it is chosen, and never looked at again


@dataclass(frozen=True)
class _Data:
    """What a probe is fitted on: standardised values of the candidates at some words."""

    neurons: NeuronSet
    own: dict[int, Int[ndarray, " k"]]
    """For each tag's number, the columns of its own candidates, best first."""
    values: Float[ndarray, "word neuron"]
    tags: Int[ndarray, " word"]
    rows: Int[ndarray, " word"]
    shape: tuple[int, int, int]
    count: Int[ndarray, " tag"]

    def undefined(self) -> Float[ndarray, "tag layer neuron"]:
        return np.full(self.shape, np.nan)


def _read(
    method: str, model: Any, corpus: Corpus, at: At, seed: int, shortlist: int, *, tokens: int, progress: bool
) -> _Data:
    """Two passes: moments of all neurons over the corpus, and values of the shortlist at no more than some words."""
    if shortlist < 1:
        raise PosNeuronsError(f"method {method}: shortlist={shortlist}; expected at least 1 candidate for each tag")
    moments = passes.tag_moments(model, corpus, at=(at,), tokens=tokens, progress=progress)[at]
    scores = ranking.correlation(moments)
    table = Ranking(method, at, corpus.tags, scores, moments.count)
    best = {number: table.first(tag, shortlist) for number, tag in enumerate(corpus.tags)}
    flat = np.array(list(dict.fromkeys(np.concatenate(list(best.values())).tolist())), dtype=np.int64)
    if not len(flat):
        raise PosNeuronsError(f"{corpus.name}: no neuron correlates with a tag at {at!r}; give words of two tags")
    neurons = NeuronSet.from_flat(flat, scores.shape[2])
    part = sample_rows(corpus, at, WORDS, np.random.default_rng(seed))
    found = cache_activations(model, part, neurons, at=at, tokens=tokens, progress=progress)
    mean, deviation = found.values.mean(0, dtype=np.float64), found.values.std(0, dtype=np.float64)
    values = ((found.values - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
    place = {int(neuron): column for column, neuron in enumerate(flat)}
    own = {tag: np.array([place[int(each)] for each in order]) for tag, order in best.items() if len(order)}
    tags = part.word_tag[found.word]
    count = np.bincount(tags, minlength=len(corpus.tags))
    return _Data(neurons, own, values, tags, part.word_row[found.word], scores.shape, count)
