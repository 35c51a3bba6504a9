"""What a probe gives back: frozen records with their tables. Those of a lesion study are in `lesion_results`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Int
from numpy import ndarray

from posneurons.display import Shown
from posneurons.errors import RunError
from posneurons.neurons import NeuronSet
from posneurons.words import At

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class Scores(Shown):
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


@dataclass(frozen=True, repr=False)
class ProbeResult(Shown):
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

    def figure(self, kind: str = "scores") -> go.Figure:
        """How well tags are read.

        Args:
            kind: "scores": accuracy and macro-F1 beside the baselines; "tags": the F1 of each tag beside theirs;
                "confusion": which tags are read as which.

        Raises:
            RunError: where there is no such kind.
        """
        from posneurons import agreement_figures, figures

        if kind == "scores":
            return figures.probe_bars([self.to_dict()])
        if kind == "tags":
            return agreement_figures.f1_by_tag(self.to_frame())
        if kind == "confusion":
            return figures.confusion(self.to_dict())
        raise RunError(f"probe: no figure {kind!r}; expected scores, tags or confusion")

    def to_frame(self) -> pd.DataFrame:
        """Accuracy, macro-F1 and the F1 of each tag: one row for the probe and one for each baseline."""
        import pandas as pd

        rows = {"probe": self.scores, **self.baselines}
        table = {name: {"accuracy": s.accuracy, "macro_f1": s.macro_f1, **s.per_tag_f1} for name, s in rows.items()}
        return pd.DataFrame.from_dict(table, orient="index")
