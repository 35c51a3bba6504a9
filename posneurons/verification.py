"""How well fast estimates agree with what neurons do: exact ablation, one neuron at a time, on the same words.

Measured are the neurons that any estimate lists for any tag, and a random sample of those that none lists. The listed
tell how much of an estimate's order is true; the random ones bound what all lists together miss (see `agreement`). To
screen by a gradient and check by exact ablation is also the way of AtP* (Kramar et al. 2024, arXiv:2403.00745).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from tqdm.auto import tqdm

from posneurons import methods, models, workflow
from posneurons.activations import BATCH_TOKENS, sample_rows
from posneurons.agreement import Verification
from posneurons.errors import PosNeuronsError
from posneurons.lesions import scored_words
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus, Ranking
from posneurons.singles import exact_effects
from posneurons.words import Ablation, Scope

Estimates = Mapping[str, Ranking] | Sequence[str]
"""Rankings by name; or methods with their options, which are then computed on the very words of the check."""


def some_rows(corpus: Corpus, words: int | None, seed: int) -> Corpus:
    """Rows drawn at random until they hold at least so many words that are scored; all rows for None."""
    return sample_rows(corpus, "predict", words, np.random.default_rng(seed))


def verify(
    model: Any,
    corpus: Corpus,
    estimates: Estimates,
    *,
    listed: int = 100,
    random: int = 300,
    top: int = 20,
    tags: Sequence[str] | None = None,
    fill: Ablation = "zero",
    scope: Scope = "local",
    words: int | None = None,
    seed: int = 0,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Verification:
    """Hold estimates against exact single-neuron ablation.

    Use a model in float32: in bfloat16 one neuron's effect is hardly above rounding, and estimates are blamed for it.

    Args:
        model: what `load_model` gives.
        corpus: the words to measure on, such as `corpus.split("dev")`.
        estimates: rankings by name, which should have been made on the same words; or names of methods, as in
            ["attribution:contrast=no", "correlation"], which are computed here, on the words of the check.
        listed: neurons of each tag that an estimate is taken to list.
        random: neurons to measure that nobody lists; all of them where there are no more.
        top: how many of the best are looked for in the lists.
        tags: the tags to compare; None is every tag with words.
        fill: "zero", or "mean" over the tokens of the words measured on.
        scope: "local", only where a word is predicted, or "all" positions after BOS.
        words: measure on rows drawn at random that hold at least so many words; None is all.
        seed: of the rows, the random neurons, and of methods that draw.
        tokens: size of a batch.
        progress: show bars.

    Raises:
        PosNeuronsError: where a tag has no words, numbers do not fit together, a method is unknown, or an estimate is
            of another model or scores fewer than `listed` neurons.
        NeuronError: where an estimate does not rank one of the tags, or there is no such ablation.
        AlignmentError: where the corpus does not fit the model.
    """
    if not 1 <= top <= listed:
        raise PosNeuronsError(f"verify: top={top} and listed={listed}; expected 1 <= top <= listed")
    if not estimates:
        raise PosNeuronsError("verify: no estimates were given; expected rankings by name, or names of methods")
    part = some_rows(corpus, words, seed)
    chosen = _chosen_tags(part, tags)
    if isinstance(estimates, Mapping):
        rankings = dict(estimates)
    else:
        evidence = workflow.Evidence(model, part, ("predict",), seed=seed, tokens=tokens, progress=progress)
        names = tqdm(list(estimates), desc="estimates", unit="ranking", disable=not progress)
        rankings = {name: evidence.ranking(methods.parse(name), "predict") for name in names}
    info = models.describe(model)
    everyone, drawn = _measured(rankings, chosen, listed, random, seed, info)
    effects = exact_effects(model, part, everyone, fill=fill, scope=scope, tokens=tokens, progress=progress)
    counts = scored_words(part)
    rows = [part.tags.index(tag) for tag in chosen]
    scores = {name: _ordering(ranking, chosen, everyone) for name, ranking in rankings.items()}
    return Verification(
        tags=chosen,
        count=counts[rows],
        ablation=fill,
        scope=scope,
        top=top,
        listed=listed,
        neurons=everyone,
        random=drawn,
        unlisted=info.n_layers * info.d_mlp - int((~drawn).sum()),
        effects=effects[rows],
        contrasts=contrasts(effects, counts)[rows],
        estimates=scores,
        lists={name: _lists(ranking, chosen, everyone, listed) for name, ranking in rankings.items()},
        in_nats=tuple(name for name, ranking in rankings.items() if _in_nats(ranking, fill, scope)),
        counts={name: ranking.count[[ranking.tags.index(t) for t in chosen]] for name, ranking in rankings.items()},
    )


def contrasts(effects: Float[ndarray, "tag k"], count: Int[ndarray, " tag"]) -> Float[ndarray, "tag k"]:
    """Mean effect on the tag's words minus that on all other words; NaN where either has none."""
    n = count[:, None].astype(np.float64)
    sums = np.where(n > 0, effects * n, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(effects - (sums.sum(0) - sums) / (n.sum() - n))


def _chosen_tags(corpus: Corpus, tags: Sequence[str] | None) -> tuple[str, ...]:
    count = scored_words(corpus)
    present = tuple(tag for tag, n in zip(corpus.tags, count, strict=True) if n)
    missing = [tag for tag in tags or () if tag not in present]
    if missing or not present:
        what = f"tag {missing[0]!r}" if missing else "any tag"
        raise PosNeuronsError(
            f"verify: no scored words of {what} in {corpus.name}; it has {', '.join(present) or 'none'}"
        )
    return present if tags is None else tuple(tags)


def _measured(
    rankings: Mapping[str, Ranking], tags: Sequence[str], listed: int, random: int, seed: int, info: models.ModelInfo
) -> tuple[NeuronSet, Bool[ndarray, " k"]]:
    """The neurons that any ranking lists for any of the tags, then random ones of the others, and which these are."""
    lists = []
    for name, ranking in rankings.items():
        if ranking.scores.shape[1:] != (info.n_layers, info.d_mlp):
            raise PosNeuronsError(
                f"verify: the ranking {name!r} has layers x neurons {ranking.scores.shape[1:]}, the model "
                f"{(info.n_layers, info.d_mlp)}; give rankings of this model"
            )
        lists += [_top(ranking, tag, listed) for tag in tags]
    known = np.unique(np.concatenate(lists))
    others = np.setdiff1d(np.arange(info.n_layers * info.d_mlp), known)
    drawn = np.random.default_rng(seed).choice(others, min(random, len(others)), replace=False)
    flat = np.concatenate([known, np.sort(drawn)])
    return NeuronSet.from_flat(flat, info.d_mlp), np.arange(len(flat)) >= len(known)


def _top(ranking: Ranking, tag: str, listed: int) -> Int[ndarray, " k"]:
    order = ranking.order(tag)
    if len(order) < listed:
        raise PosNeuronsError(
            f"verify: listed={listed}, but {ranking.method} has scores for {len(order)} neurons of {tag}; "
            "choose fewer, or more words"
        )
    return order[:listed]


def _ordering(ranking: Ranking, tags: Sequence[str], neurons: NeuronSet) -> Float[ndarray, "tag k"]:
    """What the ranking orders by, larger first."""
    return np.stack([ranking.merit(tag)[neurons.layers, neurons.units] for tag in tags])


def _lists(ranking: Ranking, tags: Sequence[str], neurons: NeuronSet, listed: int) -> Bool[ndarray, "tag k"]:
    flat = neurons.flat(ranking.scores.shape[2])
    return np.stack([np.isin(flat, _top(ranking, tag, listed)) for tag in tags])


def _in_nats(ranking: Ranking, fill: Ablation, scope: Scope) -> bool:
    """Whether scores are mean rises of the loss under this very ablation, so that a correlation may be taken."""
    try:
        options = methods.parse(ranking.method).options
    except PosNeuronsError:
        return False
    effect = options.get("contrast") is False and "share" not in options
    effect = effect and options.get("baseline", "zero") == fill and options.get("scope", "local") == scope
    return effect and options.get("target", "log_probability") == "log_probability" and ranking.signed
