"""What a lesion study gives back: a frozen record of the loss of every word, with its tables.

`LesionResult` keeps the loss of every word under every condition; its tables are computed from them on demand by
`significance` and `dissociation`. A claim needs two kinds of test, because one alone misleads: over clusters of words
("would other words show it?", which any two sets of neurons pass if there are enough) and over sets of neurons ("would
other neurons do it?"). Both are in the columns, joined by an intersection-union test; `verdicts` corrects and judges.

What this does not know: how a set was found, what an ablation does, and how the controls' mean itself would vary with
other controls, which the equivalence test takes as given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons import dissociation, significance
from posneurons.errors import RunError
from posneurons.neurons import NeuronSet
from posneurons.significance import intersection_union
from posneurons.verdicts import MEASURED, PAIRED, TESTED, Summary, correct, judge, summarise, with_sets
from posneurons.views import LesionView
from posneurons.words import ALPHA, Correction, Measure, SetKind

if TYPE_CHECKING:
    import pandas as pd

TWO_WAY_DRAWS = 2000
"""Most resamples of clusters times word types: they cost more than those of clusters."""


class Losses(NamedTuple):
    """Nats of every scored word."""

    intact: Float[ndarray, " word"]
    lesioned: Float[ndarray, "condition word"]


@dataclass(frozen=True, repr=False)
class LesionResult(LesionView):
    """Loss of every scored word, intact and under every lesion.

    Attributes:
        method: how the lesioned sets were found, for the tables.
        ablation, scope: what was done to the neurons (its label), and where.
        tags: tag names; `word_tag` indexes them.
        word_cluster: number of the sentence (or document) each word belongs to.
        word_type: number of each word's form, case folded.
        lesion: per condition, the tag whose set it is, or whose set it is held against.
        kind: per condition, what the set is: "key", or one of the controls.
        draw: 0 for "key"; each other kind of a lesion counts from 1.
        neurons: per condition, the ablated set.
        loss_intact: nats of the first token of each word.
        losses: the same under each condition.
        draws, seed: of the bootstrap, the sign flips and the permutations.
        margin: nats per word; a cross effect within it either way counts as none.
        correction: of the p-values of one table.
        more: other losses of the same words: "word" and "category".
        notes: what a reader should know of how they were measured.
    """

    method: str
    ablation: str
    scope: str
    tags: tuple[str, ...]
    word_tag: Int[ndarray, " word"]
    word_cluster: Int[ndarray, " word"]
    word_type: Int[ndarray, " word"]
    lesion: tuple[str, ...]
    kind: tuple[SetKind, ...]
    draw: Int[ndarray, " condition"]
    neurons: tuple[NeuronSet, ...]
    loss_intact: Float[ndarray, " word"]
    losses: Float[ndarray, "condition word"]
    draws: int
    seed: int
    margin: float = 0.05
    correction: Correction = "bh"
    more: Mapping[Measure, Losses] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row per (lesion, set, draw, tag), columns as in lesions.parquet; losses in nats per word.

        For every set: `percent` of the intact loss, `perplexity_ratio` exp(delta), and the parts of delta: the category
        part, the lexical part (delta = category + lexical), and the rise of the whole word's loss; NaN where they
        were not measured. For the sets "key" only: 95 % intervals over clusters and over clusters times word types, and
        one-sided p-values of a rise: `p_items` over words (sign flips of clusters), `p_controls` over random neurons
        (against the set's matched sets; `p_rank` by their ranks), `p_others` over the key sets of the tags that are
        neither lesioned nor measured. `p_value` is the largest of the three that are defined; `q_value` corrects it
        over all rows. Then `z_control`, the mean over word types, the mean without the tag's five most frequent types,
        and the effective number of types. What is undefined is NaN: a tag without words, a set without controls.
        """
        return self._frame.copy()

    def matrix(self, value: str = "delta", *, tested: bool = False) -> pd.DataFrame:
        """One column of the table for the sets "key": lesioned tags as rows, measured tags as columns.

        Args:
            value: a column of `to_frame`; the rise of the loss in nats per word by default.
            tested: leave only cells with q <= 0.05; the others are NaN.

        Raises:
            RunError: where there is no such column.
        """
        if value not in (numeric := (*MEASURED[MEASURED.index("words") :], *TESTED)):
            raise RunError(f"matrix: no column {value!r}; expected one of {', '.join(numeric)}")
        frame = self._frame if tested or value in TESTED else self._measured
        keys = frame[frame["set"] == "key"]
        if tested:
            keys = keys.assign(**{value: keys[value].where(keys["q_value"] <= ALPHA)})
        table = keys.pivot_table(index="lesion", columns="tag", values=value, sort=False, dropna=False)
        return table.reindex(columns=[tag for tag in self.tags if tag in table.columns])

    def dissociations(self, *, category: bool = False) -> pd.DataFrame:
        """One row per ordered pair of tags (a, b) that both have a key set and words.

        contrast_a is how much more tag a suffers under its own lesion than under that of b, contrast_b the mirrored
        case, in nats per word. p_a and p_b are the larger of each one's p over words and over sets of neurons; p_value
        is the larger of the two (an intersection-union test), and so are p_items and p_sets of its parts. p_sets joins
        the tests against matched sets and against the other tags' sets; where neither is possible (no controls, fewer
        than five tags) it is NaN, and p_value speaks of words only. cross_a is how much more tag b suffers under the
        lesion of a than under the matched sets of a; equivalence_p is small where cross_a and cross_b are shown to lie
        within +-margin. For the verdicts see `verdicts.judge`.

        Args:
            category: of the losses of the tag instead of those of the word: a part-of-speech neuron must move them.

        Raises:
            RunError: where the category losses were not measured.
        """
        import pandas as pd

        measure: Measure = "category" if category else "first"
        picked, columns = self._matched_up()
        pairs = list(permutations(range(len(columns)), 2))
        self._losses(measure)
        if not pairs:
            return pd.DataFrame(columns=list(PAIRED))
        sums, counts = self._sums(self._rises(measure, self._keys[picked])), self._counts[:, columns]
        found = dissociation.within_tag_contrasts(
            sums[:, :, columns],
            counts,
            draws=self.draws,
            rng=np.random.default_rng(self.seed),
            controls=self._control_rises(measure, columns),
        )
        sets = intersection_union(found.p_controls, found.p_others)
        single = with_sets(found.p_items, sets)
        cross, equivalence = self._cross_effects(measure, picked, columns)
        a, b = np.array(pairs).T
        frame = pd.DataFrame({
            "method": self.method, "ablation": self.ablation, "scope": self.scope, "measure": measure,
            "tag_a": [self.tags[columns[i]] for i in a], "tag_b": [self.tags[columns[i]] for i in b],
            "contrast_a": found.difference[a, b], "contrast_b": found.difference[b, a],
            "p_items": np.maximum(found.p_items, found.p_items.T)[a, b],
            "p_sets": intersection_union(sets, sets.T)[a, b],
            "p_a": single[a, b], "p_b": single[b, a], "p_value": np.maximum(single, single.T)[a, b],
            "cross_a": cross[a, b], "cross_b": cross[b, a],
            "equivalence_p": np.maximum(equivalence, equivalence.T)[a, b], "margin": self.margin,
        })  # fmt: skip
        return judge(frame, self.correction)[list(PAIRED)]

    def summary(self, *, category: bool = False) -> Summary:
        """The matrix in one contrast with its p-value, and how many pairs of tags have each verdict.

        Args:
            category: of the losses of the tag instead of those of the word.

        Raises:
            RunError: where the category losses were not measured.
        """
        measure: Measure = "category" if category else "first"
        picked, columns = self._matched_up()
        difference = p_value = float("nan")
        if len(columns) > 1:
            table = self._tag_means(self._rises(measure, self._keys[picked]))[:, columns]
            rng = np.random.default_rng(self.seed)
            difference, p_value = dissociation.matrix_test(table, draws=self.draws, rng=rng)
        return summarise(self.dissociations(category=category), difference, p_value)

    @cached_property
    def _keys(self) -> Int[ndarray, " cell"]:
        """Conditions that are key sets."""
        return np.flatnonzero([kind == "key" for kind in self.kind])

    def _controls(self, lesion: str) -> Int[ndarray, " draw"]:
        """Conditions that are matched sets of a lesion, in the order of their draws."""
        mine = [name == lesion and kind == "matched" for name, kind in zip(self.lesion, self.kind, strict=True)]
        return np.asarray(sorted(np.flatnonzero(mine), key=lambda condition: self.draw[condition]), dtype=np.int64)

    def _matched_up(self) -> tuple[list[int], list[int]]:
        """Key sets of tags that have words: their places among the key sets, and the tags they are named after."""
        places, columns = [], []
        for place, condition in enumerate(self._keys):
            if (name := self.lesion[condition]) in self.tags and self._words[self.tags.index(name)]:
                places.append(place)
                columns.append(self.tags.index(name))
        return places, columns

    @cached_property
    def _words(self) -> Int[ndarray, " tag"]:
        return np.bincount(self.word_tag, minlength=len(self.tags))

    @cached_property
    def _counts(self) -> Float[ndarray, "cluster tag"]:
        return significance.cluster_counts(self.word_tag, self.word_cluster, len(self.tags))

    def _losses(self, measure: Measure) -> Losses:
        if measure == "first":
            return Losses(self.loss_intact, self.losses)
        if measure not in self.more:
            raise RunError(
                f"lesion of {self.method}: its {measure} losses were not measured; expected {measure!r} beside "
                f"{', '.join(['first', *self.more])}; lesion again with this measure"
            )
        return self.more[measure]

    def _rises(self, measure: Measure, conditions: Int[ndarray, " condition"]) -> Float[ndarray, "condition word"]:
        losses = self._losses(measure)
        return np.asarray(losses.lesioned[conditions].astype(np.float64) - losses.intact)

    def _sums(self, values: Float[ndarray, "condition word"]) -> Float[ndarray, "cluster condition tag"]:
        return significance.cluster_sums(values, self.word_tag, self.word_cluster, len(self.tags))

    def _tag_means(self, values: Float[ndarray, "condition word"]) -> Float[ndarray, "condition tag"]:
        return significance.cell_means(values, self.word_tag, len(self.tags))

    def _delta(self, measure: Measure) -> Float[ndarray, "condition tag"]:
        """Rise of each tag's mean loss; NaN where the measure is missing."""
        if measure != "first" and measure not in self.more:
            return np.full((len(self.lesion), len(self.tags)), np.nan)
        losses = self._losses(measure)
        return np.asarray(self._tag_means(losses.lesioned) - self._tag_means(losses.intact[None]))

    @cached_property
    def _measured(self) -> pd.DataFrame:
        import pandas as pd

        n_conditions, n_tags = len(self.lesion), len(self.tags)
        intact = np.tile(self._tag_means(self.loss_intact[None]), (n_conditions, 1))
        delta, category = self._delta("first"), self._delta("category")
        numbers = {
            "loss_intact": intact,
            "loss_lesioned": intact + delta,
            "delta": delta,
            "percent": 100 * np.divide(delta, intact, out=np.full_like(delta, np.nan), where=intact > 0),
            "perplexity_ratio": np.exp(delta),
            "delta_word": self._delta("word"),
            "delta_category": category,
            "delta_lexical": delta - category,
        }
        frame = pd.DataFrame({
            "method": self.method, "lesion": np.repeat(np.array(self.lesion, dtype=object), n_tags),
            "ablation": self.ablation, "scope": self.scope,
            "set": np.repeat(np.array(self.kind, dtype=object), n_tags), "draw": np.repeat(self.draw, n_tags),
            "tag": np.tile(np.array(self.tags, dtype=object), n_conditions),
            "words": np.tile(self._words, n_conditions),
            **{name: values.ravel() for name, values in numbers.items()},
        })  # fmt: skip
        return frame[list(MEASURED)]

    @cached_property
    def _frame(self) -> pd.DataFrame:
        found = {**self._over_words(), **self._over_sets()}
        found["p_value"] = with_sets(found["p_items"], intersection_union(found["p_controls"], found["p_others"]))
        columns = {}
        for name, values in found.items():
            table = np.full((len(self.lesion), len(self.tags)), np.nan)
            table[self._keys] = values
            columns[name] = table.ravel()
        return correct(self._measured.assign(**columns), self.correction)[[*MEASURED, *TESTED]]

    def _over_words(self) -> dict[str, Float[ndarray, "cell tag"]]:
        """Columns of the key sets that answer whether other words would show the same."""
        rng = np.random.default_rng(self.seed)
        rises = self._rises("first", self._keys)
        sums = self._sums(rises)
        cells, types, n_tags = self.word_tag, self.word_type, len(self.tags)
        low, high = significance.bootstrap_interval(sums, self._counts, draws=self.draws, rng=rng)
        p_items = significance.sign_flip_p(sums, draws=self.draws, rng=rng, one_sided=True)
        low2, high2 = significance.two_way_interval(
            rises, cells, self.word_cluster, types, n_tags, draws=min(self.draws, TWO_WAY_DRAWS), rng=rng
        )
        part_low = part_high = np.full_like(low, np.nan)
        if "category" in self.more:
            parts = self._sums(self._rises("category", self._keys))
            part_low, part_high = significance.bootstrap_interval(parts, self._counts, draws=self.draws, rng=rng)
        return {
            "ci_low": low, "ci_high": high, "ci_low_two_way": low2, "ci_high_two_way": high2,
            "category_ci_low": part_low, "category_ci_high": part_high, "p_items": p_items,
            "delta_types": significance.type_means(rises, cells, types, n_tags),
            "delta_without_top5": significance.means_without_common_types(rises, cells, types, n_tags),
            "effective_types": np.tile(significance.effective_types(cells, types, n_tags), (len(low), 1)),
        }  # fmt: skip

    def _over_sets(self) -> dict[str, Float[ndarray, "cell tag"]]:
        """Columns of the key sets that answer whether other sets of neurons would do the same."""
        delta = self._measured["delta"].to_numpy().reshape(len(self.lesion), len(self.tags))
        found = {name: np.full(delta[self._keys].shape, np.nan) for name in ("p_rank", "p_controls", "z_control")}
        for place, condition in enumerate(self._keys):
            held = dissociation.against_controls(delta[condition], delta[self._controls(self.lesion[condition])])
            found["p_rank"][place], found["p_controls"][place] = held.p_rank, held.p_controls
            found["z_control"][place] = held.z
        return {**found, "p_others": self._against_others(delta[self._keys])}

    def _against_others(self, delta: Float[ndarray, "cell tag"]) -> Float[ndarray, "cell tag"]:
        """Each key set against the key sets of the tags that are neither lesioned nor measured."""
        names = [self.lesion[condition] for condition in self._keys]
        p = np.full(delta.shape, np.nan)
        for i, lesioned in enumerate(names):
            for j, tag in enumerate(self.tags):
                others = [k for k, name in enumerate(names) if name in self.tags and name not in (lesioned, tag)]
                if len(others) >= dissociation.MIN_OTHERS:
                    p[i, j] = dissociation.crawford_howell_p(delta[i, [j]], delta[others][:, [j]], "greater")[0]
        return p

    def _control_rises(self, measure: Measure, columns: list[int]) -> Float[ndarray, "draw tag tag"] | None:
        """Rises under the matched sets of each tag, as many as the tag with the fewest has; NaN for one without any."""
        found = [self._controls(self.tags[column]) for column in columns]
        if not (numbers := [len(each) for each in found if len(each)]):
            return None
        rises = np.full((min(numbers), len(columns), len(columns)), np.nan)
        for place, controls in enumerate(found):
            if len(controls):
                rises[:, place] = self._tag_means(self._rises(measure, controls[: len(rises)]))[:, columns]
        return rises

    def _cross_effects(
        self, measure: Measure, picked: list[int], columns: list[int]
    ) -> tuple[Float[ndarray, "tag tag"], Float[ndarray, "tag tag"]]:
        """[lesioned, measured] rise under the key set less the mean under its matched sets, word by word; p of none."""
        lesioned = self._losses(measure).lesioned
        gaps = np.full((len(columns), len(self.word_tag)), np.nan)
        for place, (key, column) in enumerate(zip(self._keys[picked], columns, strict=True)):
            if len(controls := self._controls(self.tags[column])):
                gaps[place] = lesioned[key].astype(np.float64) - lesioned[controls].mean(0, dtype=np.float64)
        sums = self._sums(gaps)[:, :, columns]
        counts = np.broadcast_to(self._counts[:, None, columns], sums.shape)
        return self._tag_means(gaps)[:, columns], dissociation.equivalence_p(sums, counts, self.margin)
