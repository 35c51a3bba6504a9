"""What a page about one neuron holds: a frozen record, its JSON, and the file `neuron_pages.json` of a run.

A page is everything that is known of a neuron in numbers: how its activation is distributed for each tag, where it is
strongest, which tokens its output weights promote, what ablating it alone does to each tag, and how every method ranks
it. `portraits.make_pages` computes pages, `neuron_html` and `neuron_figures` show them. What is undefined is NaN, null
in the file. This module knows neither models nor corpora.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from posneurons import neuron_html
from posneurons.files import check_fields, damaged, read_json, write_whole
from posneurons.shapes import PAGE, check_shape
from posneurons.words import At, Scope

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from markupsafe import Markup

FIGURE_CAPTION = (
    "Left: activation where words are read, tag by tag, the highest mean on top; heights are square roots of shares,"
    " each scaled to its own peak. Right: rise of each tag’s loss without this neuron alone, with 95 % intervals that"
    " are not corrected for many neurons. In colour the tags that the page is there for, in grey the others."
)
"""What the figure of a page shows."""
FILE = "neuron_pages.json"
"""Name of the file of pages in a run directory."""

PAGE_CSS: str = neuron_html.PAGE_CSS
"""Style of what `page_html` gives."""

NAN = float("nan")

Side = Literal["high", "low"]
"""Which end of a neuron's activation a context is from: the highest values, or the lowest."""


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a row around a word at which a neuron is strong.

    Attributes:
        side: whether it is among the highest or the lowest.
        tokens: texts of the tokens, spaces included; a character of several tokens stands whole at the first of them,
            and the others are empty.
        activations: the neuron's activation at each token.
        read: which token the word is read at.
        word: the first and the last token of the word, as far as they are in the excerpt.
        tag: the word's tag.
        form: the word, as written in the treebank.
        sentence: number of its sentence in the corpus.
        cut: whether the row goes on before the first token, and after the last.
    """

    side: Side
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    read: int
    word: tuple[int, int]
    tag: str
    form: str
    sentence: int
    cut: tuple[bool, bool]

    @property
    def value(self) -> float:
        """Activation at the token that is read."""
        return self.activations[self.read]


@dataclass(frozen=True)
class Effect:
    """By how much a tag's mean loss rises if the neuron alone is ablated: nats per word, with a 95 % interval.

    Attributes:
        rise: mean over the tag's scored words; NaN where there is none.
        low, high: ends of the percentile interval over clusters of words.
        words: how many words were scored.
    """

    rise: float
    low: float
    high: float
    words: int


@dataclass(frozen=True)
class Standing:
    """Where one method puts the neuron, for each tag.

    Attributes:
        method: name of the method with its options; `method@position` where it reads another position than the page.
        ranks: from 1, the best; None where the tag's score is undefined.
        scores: of each tag, NaN where undefined.
    """

    method: str
    ranks: tuple[int | None, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Reason:
    """Why a neuron has a page: its rank for a tag by a method."""

    method: str
    tag: str
    rank: int


@dataclass(frozen=True, repr=False)
class NeuronPage:
    """All that is known of one neuron. Sequences "of each tag" follow `tags`.

    Attributes:
        layer, neuron: where it is.
        n_neurons: how many neurons the model has; ranks are among them.
        model, treebank: names.
        at: position at which words are read.
        split, effect_split: words of the densities and contexts, and those of the effects.
        tags: tag names.
        words: how many words of each tag are in the densities.
        means: mean activation over the words of each tag; NaN where there is none.
        edges: of the bins; the first and the last bin also hold what lies outside.
        counts: words of each tag in each bin.
        contexts: the strongest first: the high ones, then the low ones; of each side at most one per word form.
        promoted, suppressed: tokens and what one unit of activation adds to their logits, by the weights alone: output
            weights through the final norm's gain, at a norm's scale of 1, and the unembedding, less the mean over the
            vocabulary. None where the weights do not say so.
        ablation, scope: what was done to the neuron for the effects, and where.
        effects: of each tag.
        ranks: of each method.
        of: why it has a page, the best rank first.
        notes: what could not be had, in words.
        shown: whether a notebook has displayed it already; then it is displayed as one line (`pn.show(page)` again).
    """

    layer: int
    neuron: int
    n_neurons: int
    model: str
    treebank: str
    at: At
    split: str
    effect_split: str
    tags: tuple[str, ...]
    words: tuple[int, ...]
    means: tuple[float, ...]
    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    contexts: tuple[Excerpt, ...]
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    ablation: str
    scope: Scope
    effects: tuple[Effect, ...]
    ranks: tuple[Standing, ...] = ()
    of: tuple[Reason, ...] = ()
    notes: tuple[str, ...] = ()
    shown: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        """Such as `L3N12`."""
        return f"L{self.layer}N{self.neuron}"

    def __repr__(self) -> str:
        first = self.of[0] if self.of else None
        tags = [
            reason.tag for reason in self.of if first and (reason.rank, reason.method) == (first.rank, first.method)
        ]
        why = f"; rank {first.rank} for {', '.join(tags)} by {first.method}" if first else ""
        return (
            f"NeuronPage({self.name} of {self.model} at {self.at!r}: {sum(self.words):,} words of {len(self.tags)} "
            f"tags, {len(self.contexts)} contexts{why})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The page in values that JSON knows, under the names of its attributes, and its `name`; NaN is None."""
        content = {"name": self.name, **asdict(self)}
        del content["shown"]
        plain: dict[str, Any] = _plain(content)
        return plain

    @classmethod
    def from_dict(cls, content: Any, where: str = "a neuron page") -> NeuronPage:
        """The page that `to_dict` gave. Raises RunError, which begins with `where`, for anything else."""
        _check(content, where)
        try:
            return cls(
                **{name: content[name] for name in _AS_THEY_ARE},
                tags=tuple(content["tags"]),
                words=tuple(content["words"]),
                means=_floats(content["means"]),
                edges=_floats(content["edges"]),
                counts=tuple(tuple(row) for row in content["counts"]),
                contexts=tuple(_excerpt(each) for each in content["contexts"]),
                promoted=tuple((text, float(logit)) for text, logit in content["promoted"]),
                suppressed=tuple((text, float(logit)) for text, logit in content["suppressed"]),
                effects=tuple(
                    Effect(_float(each["rise"]), _float(each["low"]), _float(each["high"]), each["words"])
                    for each in content["effects"]
                ),
                ranks=tuple(
                    Standing(each["method"], tuple(each["ranks"]), _floats(each["scores"])) for each in content["ranks"]
                ),
                of=tuple(Reason(each["method"], each["tag"], each["rank"]) for each in content["of"]),
                notes=tuple(content["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(where, f"damaged ({type(error).__name__}: {error})", WHOLE) from None

    def to_frame(self) -> pd.DataFrame:
        """A row for each tag: words, mean activation, effect, its interval and words, and the rank by each method."""
        import pandas as pd

        table = {
            "words": self.words,
            "mean": self.means,
            "effect": [each.rise for each in self.effects],
            "ci_low": [each.low for each in self.effects],
            "ci_high": [each.high for each in self.effects],
            "effect_words": [each.words for each in self.effects],
        }
        frame = pd.DataFrame(table, index=pd.Index(self.tags, name="tag"))
        for each in self.ranks:
            frame[f"rank: {each.method}"] = pd.array(each.ranks, dtype="Int64")
        return frame

    def figure(self) -> go.Figure:
        """Densities of the activation by tag, and beside them the effect of ablating this neuron alone on each tag."""
        from posneurons import neuron_figures

        return neuron_figures.neuron_figure(self.to_dict())

    def _repr_html_(self) -> str | None:
        """The page for a notebook, without the figure; None where `pn.show` has displayed it."""
        return None if self.shown else f"<style>{PAGE_CSS}</style>\n{page_html(self)}"


WHOLE = "what posneurons wrote"
_FIELDS: dict[str, type] = {
    **dict.fromkeys(("layer", "neuron", "n_neurons"), int),
    **dict.fromkeys(("model", "treebank", "at", "split", "effect_split", "ablation", "scope"), str),
    **dict.fromkeys(("tags", "words", "means", "edges", "counts", "contexts", "promoted", "suppressed"), list),
    **dict.fromkeys(("effects", "ranks", "of", "notes"), list),
}
_AS_THEY_ARE = tuple(name for name, kind in _FIELDS.items() if kind is not list)


def page_html(page: NeuronPage, level: int = 3) -> Markup:
    """A page as a piece of HTML without the figure; `PAGE_CSS` is its style. `level` is that of its heading."""
    return neuron_html.fragment(page.to_dict(), level)


def write_pages(path: Path, pages: Sequence[NeuronPage]) -> None:
    """Write pages as JSON, a line for each (with a line for each number the file would be twice as long)."""
    lines = [json.dumps(page.to_dict(), ensure_ascii=False, allow_nan=False) for page in pages]
    text = '{"pages": [\n' + ",\n".join(lines) + "\n]}\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_pages(path: Path) -> list[NeuronPage]:
    """The pages of a file, in its order. Raises RunError where it is missing or damaged."""
    content = read_json(path)
    pages = content.get("pages") if isinstance(content, dict) else None
    if not isinstance(pages, list):
        raise damaged(str(path), f"no list of pages but {content!r:.40}", WHOLE)
    return [NeuronPage.from_dict(each, f"{path}: page {number}") for number, each in enumerate(pages, start=1)]


def _check(content: Any, where: str) -> None:
    """Raise RunError where a field is missing, of another type, or of another length than its like."""
    check_fields(where, content, _FIELDS)
    check_shape(where, content, PAGE)
    n_tags, n_bins = len(content["tags"]), len(content["edges"]) - 1
    for name in ("words", "means", "counts", "effects"):
        if len(content[name]) != n_tags:
            raise damaged(where, f"{len(content[name])} {name} of {n_tags} tags", "one for each tag")
    for each in content["ranks"]:
        if not len(each["ranks"]) == len(each["scores"]) == n_tags:
            raise damaged(where, f"ranks by {each['method']!r:.40} not of {n_tags} tags", "one for each tag")
    for row in content["counts"]:
        if not isinstance(row, list) or len(row) != n_bins:
            raise damaged(where, f"counts of a tag are {row!r:.40}", f"a number for each of {n_bins} bins")


def _excerpt(content: Mapping[str, Any]) -> Excerpt:
    n_tokens, (first, last) = len(content["tokens"]), content["word"]
    inside = all(0 <= place < n_tokens for place in (content["read"], first, last))
    if len(content["activations"]) != n_tokens or not inside:
        raise ValueError(f"a context of {n_tokens} tokens whose activations or places do not fit")
    return Excerpt(
        side=content["side"],
        tokens=tuple(content["tokens"]),
        activations=_floats(content["activations"]),
        read=content["read"],
        word=(first, last),
        tag=content["tag"],
        form=content["form"],
        sentence=content["sentence"],
        cut=(content["cut"][0], content["cut"][1]),
    )


def _plain(value: Any) -> Any:
    """Lists for tuples, and None for what is not finite."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _float(value: Any) -> float:
    return NAN if value is None else float(value)


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(_float(value) for value in values)
