"""Model and corpus to rankings: each kind of pass is made once, however many methods and positions ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from typing import Any

from posneurons import passes, ranking
from posneurons.activations import BATCH_TOKENS
from posneurons.errors import PosNeuronsError
from posneurons.methods import Spec, parse
from posneurons.records import Corpus, Ranking, Scored, TagHistograms, TagMoments
from posneurons.words import At

_HOME = {
    "attribution": "attribution",
    "relp": "attribution",
    "integrated_gradients": "integrated",
    "key_neuron_rule": "key_neurons",
    "logprob_increase": "logit_lens",
    "logit_attribution": "logit_lens",
    "dynamic_logit_attribution": "logit_lens",
    "partial_correlation": "partial",
    "elastic_net": "probe_rankings",
    "gaussian": "probe_rankings",
}
"""The module of each method that runs the model itself; its function has the method's name."""


class Evidence:
    """What rankings of one corpus are made from, computed when a method first asks for it, at all positions at once."""

    def __init__(
        self,
        model: Any,
        corpus: Corpus,
        at: Sequence[At],
        *,
        seed: int = 0,
        tokens: int = BATCH_TOKENS,
        progress: bool = False,
    ) -> None:
        self.model, self.corpus, self.at, self.seed = model, corpus, tuple(at), seed
        self._how: dict[str, Any] = {"tokens": tokens, "progress": progress}

    @cached_property
    def moments(self) -> dict[At, TagMoments]:
        """Per-tag moments."""
        return passes.tag_moments(self.model, self.corpus, at=self.at, **self._how)

    @cached_property
    def histograms(self) -> dict[At, TagHistograms]:
        """Per-tag histograms."""
        return passes.tag_histograms(self.model, self.corpus, at=self.at, seed=self.seed, **self._how)

    @cached_property
    def gates(self) -> dict[At, TagMoments]:
        """Per-tag share of words at which the gate is on, as the moments of 0 and 1."""
        return passes.gate_moments(self.model, self.corpus, at=self.at, **self._how)

    def scored(self, spec: Spec, at: At) -> Scored:
        """Scores of one method at one position."""
        name, options = spec.name, dict(spec.options)
        if spec.method.family == "moments":
            return Scored(ranking.MOMENT_METHODS[name](self.moments[at], **options), self.moments[at].count)
        if spec.method.family == "gates":
            return Scored(ranking.lape(self.gates[at], **options), self.gates[at].count)
        if spec.method.family == "histograms":
            shortlist = options.pop("shortlist")
            if not shortlist:
                return Scored(ranking.HISTOGRAM_METHODS[name](self.histograms[at]), self.histograms[at].count)
            candidates = ranking.shortlist(self.moments[at], shortlist)
            home: Any = import_module("posneurons.shortlist")
            scored: Scored = home.exact(self.model, self.corpus, name, candidates, at=at, **self._how)
            return scored
        home = import_module(f"posneurons.{_HOME[name]}")
        found: Scored = getattr(home, name)(self.model, self.corpus, at=at, seed=self.seed, **options, **self._how)
        return found

    def ranking(self, spec: Spec, at: At, *, signed: bool | None = None) -> Ranking:
        """The ranking by one method at one position."""
        scored = self.scored(spec, at)
        return Ranking(
            method=str(spec),
            at=at,
            tags=self.corpus.tags,
            scores=scored.scores,
            count=scored.count,
            signed=spec.method.signed if signed is None else signed,
            neutral=spec.method.neutral,
            notes=scored.notes,
        )


def rank(
    model: Any,
    corpus: Corpus,
    method: str = "correlation",
    *,
    at: At = "predict",
    signed: bool | None = None,
    split: str = "train",
    seed: int = 0,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
    **options: Any,
) -> Ranking:
    """Rank all MLP neurons of a model for every tag.

    Args:
        model: what `load_model` gives.
        corpus: aligned words; only those of `split` are read.
        method: a name of `posneurons.methods.METHODS`, also with options: "attribution:scope=all".
        at: where each word is read: "predict" (just before it), "first" or "last" (its own tokens).
        signed: order by the score itself (True) or by its distance from what says nothing (False); None is what suits
            the method.
        split: the split to rank on.
        seed: of what a method draws at random.
        tokens: size of a batch.
        progress: show a bar.
        **options: of the method, such as scope="all" or contrast=False.

    Raises:
        PosNeuronsError: where the method or an option is unknown, or the model has not what the method needs.
        AlignmentError: where the split is missing or the corpus does not fit the model.
    """
    spec = parse(method, **options)
    part = corpus.split(split)
    if not len(part.readable(at)):
        raise PosNeuronsError(
            f"{corpus.name}: the split {split!r} has no word to read at {at!r}; give longer sentences"
        )
    evidence = Evidence(model, part, (at,), seed=seed, tokens=tokens, progress=progress)
    return evidence.ranking(spec, at, signed=signed)
