"""What a benchmark found: rows with their ratio, and the tables that they are shown in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

NOTHING = float("nan")
Kind = Literal["cost", "gain", "value", "line"]


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        part: which part of the benchmark.
        model: "demo" or "1b".
        what: what was measured.
        against: what it is held against.
        kind: what the ratio is: "cost" ours / rival, "gain" rival / ours, "value" ours itself, "line" none: what grows.
        ours: in `unit`; NaN where it could not be measured.
        rival: the same of the other way.
        unit: of both.
        aim: what the ratio should be, at most for a cost, at least for others; NaN where nothing was promised.
        note: what must be known to read the numbers, or why there are none.
        spread: how much longer the slowest repeat took, as shares of the least: ours, the rival's.
        details: what else was measured.
    """

    part: str
    model: str
    what: str
    against: str = ""
    kind: Kind = "cost"
    ours: float = NOTHING
    rival: float = NOTHING
    unit: str = "s"
    aim: float = NOTHING
    note: str = ""
    spread: tuple[float, float] = (NOTHING, NOTHING)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """What the row is about; NaN where it is undefined."""
        if self.kind == "value":
            return self.ours
        above, below = (self.rival, self.ours) if self.kind == "gain" else (self.ours, self.rival)
        return above / below if below else NOTHING

    @property
    def met(self) -> bool | None:
        """Whether the ratio is what it should be; None where nothing was promised."""
        if math.isnan(self.aim):
            return None
        return self.ratio <= self.aim if self.kind == "cost" else self.ratio >= self.aim

    def to_dict(self) -> dict[str, Any]:
        """Its fields, with the ratio first."""
        return {"ratio": self.ratio, "met": self.met, **asdict(self)}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Row:
        """The row that `to_dict` was asked of, as JSON gives it back: null is NaN."""
        plain = {name: value for name, value in found.items() if name not in ("ratio", "met")}
        for name in ("ours", "rival", "aim"):
            plain[name] = _number(plain[name])
        ours, rival = map(_number, plain["spread"])
        return cls(**{**plain, "spread": (ours, rival)})


def _number(value: float | None) -> float:
    return NOTHING if value is None else value


def failed(part: str, model: str, why: BaseException | str) -> Row:
    """The row of a part that could not be measured."""
    reason = why if isinstance(why, str) else f"{type(why).__name__}: {why}".partition("\n")[0]
    return Row(part, model, "not measured", note=reason)


def table(rows: Iterable[Row]) -> str:
    """Markdown: comparisons with their ratios first, then what grows."""
    rows = list(rows)
    compared = [row for row in rows if row.kind != "line"]
    lines = [row for row in rows if row.kind == "line"]
    head = ("ratio", "aim", "part", "model", "of what", "ours", "the other", "note")
    parts = [_markdown(head, "r    rr ", map(_compared, compared))] if compared else []
    if lines:
        head = ("over", "from", "to", "what", "slope", "at 0", "R²", "furthest off the line")
        parts.append(_markdown(head, " rr rrrr", map(_grown, lines)))
    return "\n\n".join(parts)


def _markdown(head: Sequence[str], right: str, rows: Iterable[Sequence[str]]) -> str:
    rule = ["---:" if side == "r" else "---" for side in right]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _compared(row: Row) -> list[str]:
    above, below = ("ours", row.against) if row.kind == "cost" else (row.against, "ours")
    of_what = f"{row.what}: {above} / {below}" if row.kind != "value" and row.against else row.what
    aim = "" if row.met is None else f"{'≤' if row.kind == 'cost' else '≥'} {row.aim:g}, {'met' if row.met else 'not'}"
    ratio = "–" if math.isnan(row.ratio) else f"**{row.ratio:.2f}**"
    sizes = ["", ""] if row.kind == "value" else [_amount(row.ours, row.unit), _amount(row.rival, row.unit)]
    return [ratio, aim, row.part, row.model, of_what, *sizes, row.note]


def _amount(value: float, unit: str) -> str:
    return "–" if math.isnan(value) else f"{value:.3g} {unit}"


def _grown(row: Row) -> list[str]:
    line, over = row.details["line"], row.details["over"]
    return [
        over, f"{line['from']:,.0f}", f"{line['to']:,.0f}", f"{row.what} ({row.model})",
        f"{line['slope']:.3g} {row.unit}", f"{line['intercept']:.3g} {row.unit.partition(' ')[0]}",
        "–" if math.isnan(_number(line["r2"])) else f"{line['r2']:.4f}", f"{line['off']:.1%}",
    ]  # fmt: skip


def straight(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """The least-squares line through points, R² (NaN where y does not vary), and how far they lie off it.

    `off` is the largest distance from the line, as a share of the largest y.
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    slope, intercept = np.polyfit(xs, ys, 1)
    off = ys - (slope * xs + intercept)
    spread, largest = float(((ys - ys.mean()) ** 2).sum()), float(np.abs(ys).max())
    return {
        "slope": float(slope), "intercept": float(intercept), "from": float(xs.min()), "to": float(xs.max()),
        "r2": 1 - float((off**2).sum()) / spread if spread else NOTHING,
        "off": float(np.abs(off).max()) / largest if largest else 0.0,
    }  # fmt: skip
