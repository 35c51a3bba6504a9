"""What a probe and a lesion study give back: frozen records with their tables.

`LesionResult` keeps the loss of every word under every condition; its tables are computed from them on demand by
`significance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons import significance
from posneurons.neurons import NeuronSet
from posneurons.words import ALPHA, Ablation, At

if TYPE_CHECKING:
    import pandas as pd

_DISSOCIATION = (  # columns of dissociations.parquet
    "method", "ablation", "scope", "tag_a", "tag_b", "contrast_a", "contrast_b", "p_value", "q_value", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """How well predicted tags agree with the true ones; `confusion` has true tags as rows."""

    accuracy: float
    macro_f1: float
    per_tag_f1: dict[str, float]
    confusion: Int[ndarray, "tag tag"]

    def to_dict(self) -> dict[str, object]:
        """The same as JSON values."""
        return {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "per_tag_f1": self.per_tag_f1,
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True)
class ProbeResult:
    """A probe's scores on the test words, beside those of its baselines.

    `selectivity` is accuracy minus that of the control task (Hewitt and Liang 2019, arXiv:1909.03368); `probe` is the
    kind of classifier, "linear" or "gaussian".
    """

    method: str
    at: At
    neurons: NeuronSet
    classes: tuple[str, ...]
    train_words: int
    test_words: int
    scores: Scores
    baselines: dict[str, Scores]
    probe: str = "linear"

    @property
    def selectivity(self) -> float:
        """Accuracy minus accuracy of the control task."""
        return self.scores.accuracy - self.baselines["control_task"].accuracy

    def to_dict(self) -> dict[str, object]:
        """One entry of probe.json."""
        return {
            "method": self.method,
            "at": self.at,
            "probe": self.probe,
            "n_neurons": len(self.neurons),
            "classes": list(self.classes),
            "train_words": self.train_words,
            "test_words": self.test_words,
            **self.scores.to_dict(),
            "selectivity": self.selectivity,
            "baselines": {name: scores.to_dict() for name, scores in self.baselines.items()},
        }

    def to_frame(self) -> pd.DataFrame:
        """Accuracy, macro-F1 and the F1 of each tag: one row for the probe and one for each baseline."""
        import pandas as pd

        rows = {"probe": self.scores, **self.baselines}
        table = {name: {"accuracy": s.accuracy, "macro_f1": s.macro_f1, **s.per_tag_f1} for name, s in rows.items()}
        return pd.DataFrame.from_dict(table, orient="index")


@dataclass(frozen=True)
class LesionResult:
    """Loss of every scored word, intact and under every lesion.

    Attributes:
        method: how the lesioned sets were found, for the tables.
        ablation, scope: what was done to the neurons, and where.
        tags: tag names; `word_tag` indexes them.
        word_cluster: number of the sentence (or document) each word belongs to.
        lesion, draw: per condition, the tag whose set (draw 0) or matched random set (draw 1..) was ablated.
        neurons: per condition, the ablated set.
        loss_intact: nats of the first token of each word.
        losses: the same under each condition.
        draws, seed: of the bootstrap and the sign flips.
    """

    method: str
    ablation: Ablation
    scope: str
    tags: tuple[str, ...]
    word_tag: Int[ndarray, " word"]
    word_cluster: Int[ndarray, " word"]
    lesion: tuple[str, ...]
    draw: Int[ndarray, " condition"]
    neurons: tuple[NeuronSet, ...]
    loss_intact: Float[ndarray, " word"]
    losses: Float[ndarray, "condition word"]
    draws: int
    seed: int

    @cached_property
    def _real(self) -> Int[ndarray, " condition"]:
        return np.flatnonzero(self.draw == 0)

    @cached_property
    def _real_sums(self) -> Float[ndarray, "cluster condition tag"]:
        change = self.losses[self._real].astype(np.float64) - self.loss_intact
        return significance.cluster_sums(change, self.word_tag, self.word_cluster, len(self.tags))

    @cached_property
    def _counts(self) -> Float[ndarray, "cluster tag"]:
        ones = np.ones((1, len(self.word_tag)))
        return significance.cluster_sums(ones, self.word_tag, self.word_cluster, len(self.tags))[:, 0]

    def _tag_means(self, values: Float[ndarray, "condition word"]) -> Float[ndarray, "condition tag"]:
        words = np.bincount(self.word_tag, minlength=len(self.tags))
        sums = [np.bincount(self.word_tag, weights=row, minlength=len(self.tags)) for row in values]
        with np.errstate(invalid="ignore"):
            return np.stack(sums) / words

    @cached_property
    def _frame(self) -> pd.DataFrame:
        import pandas as pd

        n_conditions, n_tags = len(self.lesion), len(self.tags)
        intact = self._tag_means(self.loss_intact[None])
        lesioned = self._tag_means(self.losses)
        delta = lesioned - intact
        names = ("ci_low", "ci_high", "p_value", "q_value", "z_control")
        columns = {name: np.full((n_conditions, n_tags), np.nan) for name in names}
        rng = np.random.default_rng(self.seed)
        low, high = significance.bootstrap_interval(self._real_sums, self._counts, draws=self.draws, rng=rng)
        columns["ci_low"][self._real], columns["ci_high"][self._real] = low, high
        columns["p_value"][self._real] = significance.sign_flip_p(self._real_sums, draws=self.draws, rng=rng)
        columns["q_value"] = significance.q_values(columns["p_value"])
        for row in self._real:
            controls = [c for c in range(n_conditions) if self.lesion[c] == self.lesion[row] and self.draw[c] > 0]
            if len(controls) > 1:
                spread = delta[controls].std(0, ddof=1)
                spread[spread == 0] = np.nan
                columns["z_control"][row] = (delta[row] - delta[controls].mean(0)) / spread
        return pd.DataFrame(
            {
                "method": self.method,
                "lesion": np.repeat(np.array(self.lesion, dtype=object), n_tags),
                "ablation": self.ablation,
                "scope": self.scope,
                "draw": np.repeat(self.draw, n_tags),
                "tag": np.tile(np.array(self.tags, dtype=object), n_conditions),
                "words": np.tile(np.bincount(self.word_tag, minlength=n_tags), n_conditions),
                "loss_intact": np.tile(intact[0], n_conditions),
                "loss_lesioned": lesioned.ravel(),
                "delta": delta.ravel(),
                **{name: values.ravel() for name, values in columns.items()},
            }
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per (lesion, draw, tag), columns as in lesions.parquet; losses in nats per word.

        Interval, p, q (over all rows of draw 0) and z against the controls are given for draw 0 only. A tag without
        words has NaN.
        """
        return self._frame.copy()

    def matrix(self) -> pd.DataFrame:
        """Rise of the loss in nats per word: lesioned tags as rows, measured tags as columns."""
        real = self._frame[self._frame["draw"] == 0]
        table = real.pivot_table(index="lesion", columns="tag", values="delta", sort=False, dropna=False)
        return table.reindex(columns=[tag for tag in self.tags if tag in table.columns])

    def dissociations(self) -> pd.DataFrame:
        """One row per ordered pair of tags (a, b) that both have a lesion and words.

        contrast_a is how much more tag a suffers under its own lesion than under that of b, contrast_b the mirrored
        case, in nats per word; p_value is the larger of the two one-sided p-values (an intersection-union test),
        q_value its Benjamini-Hochberg correction over all pairs. Verdicts: "strong" where q <= 0.05, so that both
        contrasts are positive; "one-way" where that is not shown, but one of the two is positive, after the same
        correction over the single contrasts; "none" otherwise.
        """
        import pandas as pd

        words = np.bincount(self.word_tag, minlength=len(self.tags))
        present = {tag for tag, count in zip(self.tags, words, strict=True) if count}
        rows = [row for row in self._real if self.lesion[row] in present]
        names = [self.lesion[row] for row in rows]
        columns = [self.tags.index(name) for name in names]
        picked = np.searchsorted(self._real, rows)
        sums = self._real_sums[:, picked][:, :, columns]
        contrasts = significance.within_tag_contrasts(
            sums, self._counts[:, columns], draws=self.draws, rng=np.random.default_rng(self.seed)
        )
        single = significance.q_values(contrasts.p_value)
        both = np.maximum(contrasts.p_value, contrasts.p_value.T)
        q = significance.q_values(both)
        pairs = [(a, b) for a in range(len(names)) for b in range(len(names)) if a != b]
        return pd.DataFrame(
            [
                {
                    "method": self.method,
                    "ablation": self.ablation,
                    "scope": self.scope,
                    "tag_a": names[a],
                    "tag_b": names[b],
                    "contrast_a": contrasts.difference[a, b],
                    "contrast_b": contrasts.difference[b, a],
                    "p_value": both[a, b],
                    "q_value": q[a, b],
                    "verdict": _verdict(q[a, b], single[a, b], single[b, a]),
                }
                for a, b in pairs
            ],
            columns=list(_DISSOCIATION),
        )


def _verdict(q: float, q_a: float, q_b: float) -> str:
    if q <= ALPHA:
        return "strong"
    return "one-way" if q_a <= ALPHA or q_b <= ALPHA else "none"  # NaN is never below
