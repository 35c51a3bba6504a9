"""Classifiers of a word's tag by the activations of a few neurons: logistic regression, and one Gaussian per tag.

Both are fitted on some words and name the tags of others. They know arrays and tag numbers, and neither models nor
neurons nor files.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

Probe = Literal["linear", "gaussian"]
"""What reads the tag off the activations: a logistic regression, or one Gaussian per tag."""

FLOOR = 1e-3
"""Least prior variance of a neuron within a tag, of its variance over all words, so that one word has a density."""


STRENGTH = 0.1
"""Inverse of the logistic regression's L2 penalty (scikit-learn's C)."""

ITERATIONS = 300
"""Most steps of its L-BFGS."""


def classify(
    train: Float[ndarray, "word neuron"], tags: Int[ndarray, " word"], test: Float[ndarray, "test neuron"]
) -> Int[ndarray, " test"]:
    """Tags that a logistic regression fitted on `train` predicts for `test`.

    Both are standardised with the mean and deviation of `train`; neurons that do not vary there are ignored.

    Args:
        train: activations of the training words.
        tags: their tags, as numbers; one tag alone is predicted everywhere.
        test: activations to judge.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(tags)) == 1:
        return np.full(len(test), tags[0])
    train, test = _standardised(train, test)
    model = LogisticRegression(C=STRENGTH, max_iter=ITERATIONS, tol=1e-3)
    with warnings.catch_warnings():  # the last step of many is a good classifier; its test score is what is reported
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, tags)
    predicted: ndarray = model.predict(test)
    return predicted


def _standardised(
    train: Float[ndarray, "word neuron"], test: Float[ndarray, "test neuron"]
) -> tuple[Float[ndarray, "word kept"], Float[ndarray, "test kept"]]:
    """Both in deviations of `train` from its mean, without the neurons that do not vary there."""
    mean, deviation = train.mean(0), train.std(0)
    varies = deviation > 0
    scale = np.where(varies, deviation, 1)
    return ((train - mean) / scale)[:, varies], ((test - mean) / scale)[:, varies]


def posterior_scatter(values: Float[ndarray, "word neuron"]) -> Float[ndarray, "neuron neuron"]:
    """Scatter of standardised values around their mean, plus the prior's: the diagonal of their covariance.

    Divided by n + 2 d + 4, with n words and d neurons, it is the covariance that is most probable under a normal
    inverse-Wishart prior (of d + 2 degrees of freedom); the mean that is most probable is the sample's. With few words
    the division shrinks it, so that a rare tag has a narrow density. The prior's variances are at least FLOOR.

    Source: Torroba Hennigen, Williams and Cotterell 2020, arXiv:2010.02812.
    """
    centred = values - values.mean(0)
    scatter = centred.T @ centred
    return np.asarray(scatter + np.diag(np.maximum(np.diag(scatter) / len(values), FLOOR)))


def gaussian_classify(
    train: Float[ndarray, "word neuron"], tags: Int[ndarray, " word"], test: Float[ndarray, "test neuron"]
) -> Int[ndarray, " test"]:
    """Tags of the highest posterior for `test`, each tag being a Gaussian fitted on its words in `train`.

    A tag's prior is its share of `train`; its covariance is full, as `posterior_scatter` says. Both sides are
    standardised with the mean and deviation of `train`; neurons that do not vary there are ignored.

    Args:
        train: activations of the training words.
        tags: their tags, as numbers; one tag alone is predicted everywhere.
        test: activations to judge.
    """
    from scipy.linalg import solve_triangular

    classes, counts = np.unique(tags, return_counts=True)
    train, test = _standardised(train.astype(np.float64), test.astype(np.float64))
    size, posterior = train.shape[1], np.zeros((len(classes), len(test)))
    for place, (tag, count) in enumerate(zip(classes, counts, strict=True)):
        mine = train[tags == tag]
        root = np.linalg.cholesky(posterior_scatter(mine) / (count + 2 * size + 4))
        distance = solve_triangular(root, (test - mine.mean(0)).T, lower=True)
        posterior[place] = np.log(count) - np.log(np.diag(root)).sum() - (distance**2).sum(0) / 2
    return np.asarray(classes[posterior.argmax(0)])


CLASSIFIERS: dict[Probe, Callable[..., ndarray]] = {"linear": classify, "gaussian": gaussian_classify}
