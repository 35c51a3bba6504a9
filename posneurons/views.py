"""The figures of the records that are handed from step to step, of a lesion study and of a composition.

Each class here is a base of one record and gives it `figure`, its line and its card; the record itself stays data. The
drawing modules are imported when a figure is asked for, and are fed arrays and tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons.display import Shown
from posneurons.errors import AlignmentError, NeuronError, RunError
from posneurons.neurons import NeuronSet

if TYPE_CHECKING:
    import plotly.graph_objects as go


class CorpusView(Shown):
    """Of `records.Corpus`."""

    tags: tuple[str, ...]
    word_tag: Int[ndarray, " word"]
    dropped: dict[tuple[str, str, str], int]

    def figure(self) -> go.Figure:
        """The words kept of each tag, and the share of its words that is left out, by reason.

        Raises:
            AlignmentError: where there is no word.
        """
        from posneurons.corpus_figures import aligned

        reasons: dict[str, dict[str, int]] = {}
        for (_, tag, reason), n in self.dropped.items():
            found = reasons.setdefault(reason, {})
            found[tag] = found.get(tag, 0) + n
        whole: Any = self  # the record has it
        return aligned(whole.tag_counts(), reasons)


class MomentsView(Shown):
    """Of `records.TagMoments`."""

    tags: tuple[str, ...]
    count: Int[ndarray, " tag"]
    mean: Float[ndarray, "tag layer neuron"]
    m2: Float[ndarray, "tag layer neuron"]

    def figure(self, neuron: str | None = None) -> go.Figure:
        """How far each layer's neurons say something else at each tag's words; or the means of one neuron.

        Args:
            neuron: such as "L3N12": its mean and standard deviation at the words of each tag.

        Raises:
            NeuronError: where there is no such neuron.
        """
        from posneurons import activation_figures

        n_layers, n_units = self.mean.shape[1:]
        if neuron is None:
            apart = activation_figures.apart(self.count, self.mean, self.m2)
            return activation_figures.separation(self.tags, self.count, apart, n_units)
        layer, unit = _place(neuron, n_layers, n_units)
        sd = np.sqrt(self.m2[:, layer, unit] / np.maximum(self.count, 1))
        return activation_figures.tag_means(neuron, self.tags, self.count, self.mean[:, layer, unit], sd)


class HistogramsView(Shown):
    """Of `records.TagHistograms`."""

    tags: tuple[str, ...]
    edges: Float[ndarray, "layer neuron edge"]
    bins: Int[ndarray, "tag layer neuron bin"]

    def figure(self, neuron: str) -> go.Figure:
        """The density of one neuron's activation at the words of each tag.

        Args:
            neuron: such as "L3N12".

        Raises:
            NeuronError: where there is no such neuron, or it hardly varies.
        """
        from posneurons.activation_figures import densities

        layer, unit = _place(neuron, *self.edges.shape[:2])
        return densities(neuron, self.tags, self.edges[layer, unit], self.bins[:, layer, unit])


class RankingView(Shown):
    """Of `records.Ranking`."""

    tags: tuple[str, ...]
    scores: Float[ndarray, "tag layer neuron"]
    signed: bool
    neutral: float

    def figure(self, tag: str | None = None, *, k: int | None = None) -> go.Figure:
        """Layers by tags: where the best neurons are. Or, for one tag, its best neurons, and its scores by layer.

        Args:
            tag: whose neurons are shown; None for all tags.
            k: neurons that count as the best of a tag, or as many as have a score; None for 100, of one tag 30.

        Raises:
            NeuronError: where there is no such tag, it has no score, or k is below 1.
        """
        from posneurons import ranking_figures

        how: dict[str, Any] = {"neutral": float(self.neutral), "signed": self.signed}
        size = (100 if tag is None else 30) if k is None else k
        if size < 1:
            raise NeuronError(f"ranking: k={k}; expected at least 1 neuron")
        whole: Any = self  # the record has the order
        if tag is None:
            best = {each: found for each in self.tags if len(found := whole.first(each, size))}
            return ranking_figures.best_by_layer(self.tags, self.scores, best, **how)
        chosen = whole.first(tag, size)
        return ranking_figures.best_of_tag(tag, self.scores[self.tags.index(tag)], chosen, **how)


class ActivationsView(Shown):
    """Of `records.Activations`."""

    neurons: NeuronSet
    word: Int[ndarray, " word"]
    values: Float[ndarray, "word neuron"]

    def figure(self, corpus: CorpusView | None = None, *, neurons: int = 40) -> go.Figure:
        """The spread of each neuron's activations; with the corpus, its mean at each tag's words.

        Args:
            corpus: the corpus whose words these are.
            neurons: how many of them, from the first on, are shown.

        Raises:
            NeuronError: where there is no word or no neuron.
            AlignmentError: where the corpus has fewer words than these are numbered.
        """
        from posneurons import activation_figures

        names, values = self.neurons.names[:neurons], self.values[:, :neurons].astype(np.float64)
        if corpus is None:
            return activation_figures.spread(names, values)
        if len(self.word) and int(self.word.max()) >= len(corpus.word_tag):
            raise AlignmentError(
                f"activations: they are of word {int(self.word.max())} among others, but the corpus has "
                f"{len(corpus.word_tag)} words; give the corpus that they were read from"
            )
        tags = [corpus.tags[each] for each in corpus.word_tag[self.word].tolist()]
        return activation_figures.means_by_tag(names, values, tags)


class LesionView(Shown):
    """Of `lesion_results.LesionResult`."""

    ablation: str
    tags: tuple[str, ...]

    def figure(self, kind: str = "matrix", *, category: bool = False) -> go.Figure:
        """What the lesions do.

        Args:
            kind: "matrix": lesioned tags by measured tags; "own": each tag's own rise beside its matched random sets;
                "dissociations": which pairs of tags dissociate.
            category: of the dissociations, those of the losses of the tag instead of the word.

        Raises:
            RunError: where there is no such kind, or nothing to draw.
        """
        from posneurons import dissociation_figures, figures

        whole: Any = self  # the record has the tables
        if kind == "matrix":
            return figures.lesion_matrix(whole.to_frame(), self.ablation, self.tags)
        if kind == "own":
            return figures.lesion_against_controls(whole.to_frame(), self.ablation)
        if kind == "dissociations":
            return dissociation_figures.verdict_matrix(whole.dissociations(category=category), self.tags)
        raise RunError(f"lesions: no figure {kind!r}; expected matrix, own or dissociations")


class CompositionView(Shown):
    """Of `composition.Composition`."""

    def figure(self, tag: str | None = None) -> go.Figure:
        """What each set does all together, one by one, and directly on the final residual.

        Args:
            tag: whose words are measured; None for each set's own tag.

        Raises:
            PosNeuronsError: where there is no such tag, or, without one, no set is named after a tag.
        """
        from posneurons.effect_figures import parts

        whole: Any = self  # the record has the table
        return parts(whole.to_frame(), tag)


def _place(neuron: str, n_layers: int, n_units: int) -> tuple[int, int]:
    """Layer and unit of a neuron's name, inside the model."""
    found = NeuronSet.parse([neuron])
    found.check(n_layers, n_units)
    return int(found.layers[0]), int(found.units[0])
