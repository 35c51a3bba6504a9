"""A neuron's page as a piece of HTML that stands in a report or a notebook, without scripts and without network.

Contexts are lines of tokens coloured by activation. CircuitsVis (1.43) draws such lines, but its HTML either imports
its script from unpkg.com when it is looked at, or carries it along, 1.3 MB for every view: a page to be read without
network cannot do the one, nor a report with a hundred neurons the other. So a token is a `span` here, whose style holds
its activation over the largest of the page, `--a` from −1 to 1; CSS makes the colour, orange above 0 and blue below,
half transparent over whatever background there is, so that it serves the light and the dark look alike. Colour is never
alone: hovering gives each value, and the one that counts is printed. Jinja escapes every text of the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

BEST = 100
"""A tag for which some method gives this rank or a better one stands in the table of ranks."""

MOST_TAGS = 8
"""Most columns of the table of ranks."""

WHITE: dict[str, str] = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "⍽", "": "·", "\x7f": "␡"}
WHITE |= {chr(code): chr(0x2400 + code) for code in range(0x20) if chr(code) not in WHITE}
"""White space and control characters, and what is shown for them; "" is a later token of one character."""

PAGE_CSS = """\
.neuron-page { --high: 230 126 24; --low: 40 136 206; --rule: rgb(128 128 128 / .35); --quiet: rgb(128 128 128 / .12);
  line-height: 1.5; max-width: 60rem; overflow-wrap: anywhere; }
.neuron-page h2, .neuron-page h3, .neuron-page h4 { margin: 0 0 .3rem; font-size: 1.15rem; font-weight: 700; }
.neuron-page p { margin: .2rem 0 .7rem; max-width: 46rem; font-size: .92rem; }
.neuron-page .why { padding: 0; margin: 0 0 .5rem; list-style: none; display: flex; flex-wrap: wrap; gap: .3rem .5rem; }
.neuron-page .why li { padding: .05rem .6rem; border-radius: 1rem; background: var(--quiet); font-size: .85rem; }
.neuron-page .scroll { overflow-x: auto; }
.neuron-page.neuron-page table { table-layout: auto; border-collapse: collapse; margin: .3rem 0 1rem; min-width: 0;
  font-size: .88rem; background: none; border: 0; font-variant-numeric: tabular-nums; }
.neuron-page.neuron-page caption { text-align: left; font-size: .88rem; padding: 0 0 .35rem; opacity: .8;
  caption-side: top; }
.neuron-page.neuron-page caption span { display: block; position: sticky; left: 0; width: max-content;
  max-width: min(46rem, calc(100vw - 3.2rem)); }
.neuron-page.neuron-page tbody tr:nth-child(n), .neuron-page.neuron-page tbody tr:hover { background: none; }
.neuron-page.neuron-page th, .neuron-page.neuron-page td { border: 0; border-bottom: 1px solid var(--rule);
  padding: .22rem .8rem .22rem 0; text-align: right; white-space: nowrap; vertical-align: baseline; }
.neuron-page.neuron-page thead th { font-weight: 600; border-bottom-width: 2px; background: none; }
.neuron-page.neuron-page tbody th { font-weight: 600; position: static; background: none; }
.neuron-page.neuron-page .left { text-align: left; }
.neuron-page.neuron-page td:last-child, .neuron-page.neuron-page th:last-child { padding-right: 0; }
.neuron-page.neuron-page .contexts { width: 100%; }
.neuron-page.neuron-page .contexts td.text { text-align: left; white-space: pre-wrap; width: 100%; line-height: 1.75; }
.neuron-page.neuron-page .contexts tbody + tbody th.group { padding-top: .9rem; }
.neuron-page.neuron-page th.group { text-align: left; font-weight: 400; opacity: .8; white-space: normal; }
.neuron-page .text span { padding: .12em 0; border-radius: .2em; background:
  linear-gradient(rgb(var(--high) / calc(max(0, var(--a, 0)) * .65)) 0 0),
  linear-gradient(rgb(var(--low) / calc(max(0, -1 * var(--a, 0)) * .65)) 0 0); }
.neuron-page .text .read { box-shadow: inset 0 0 0 1.5px currentColor; padding-right: .15em; }
.neuron-page .text .word { font-weight: 700; }
.neuron-page .white, .neuron-page .text .white { font-size: 0; background: none; }
.neuron-page .white::before { content: attr(data-shown); font-size: .88rem; font-weight: 400; opacity: .55; }
.neuron-page .scale { display: flex; flex-wrap: wrap; align-items: center; gap: .3rem .5rem; font-size: .85rem; }
.neuron-page .scale i { display: inline-block; width: 9rem; height: .8rem; border-radius: .2rem; background:
  linear-gradient(90deg, rgb(var(--low) / .65), rgb(var(--low) / 0) 50%, rgb(var(--high) / 0) 50%,
  rgb(var(--high) / .65)); }
.neuron-page .pair { display: flex; flex-wrap: wrap; gap: 0 3rem; }
.neuron-page .pair caption span { width: auto; max-width: 12rem; }
.neuron-page summary { cursor: pointer; font-size: .92rem; margin: .2rem 0; }
@media (max-width: 34rem) {
  .neuron-page.neuron-page .contexts tr { display: grid; grid-template-columns: auto 1fr; }
  .neuron-page.neuron-page .contexts thead { display: none; }
  .neuron-page.neuron-page .contexts tbody tr > :not(.text):not(.group) { border: 0; text-align: left; }
  .neuron-page.neuron-page .contexts td.text, .neuron-page.neuron-page .contexts .group { grid-column: 1 / -1; }
  .neuron-page .pair { gap: 0 1.2rem; }
  .neuron-page.neuron-page .pair th, .neuron-page.neuron-page .pair td { padding-right: .5rem; }
}
@media print { .neuron-page .text span, .neuron-page .scale i { print-color-adjust: exact; } }
"""
"""Style of a page; every rule is below `.neuron-page`, and what is not coloured takes the text's colour, so it fits any
page. The class stands twice where a notebook's own rules for tables must be outdone."""


def fragment(page: Mapping[str, Any], level: int = 3) -> Markup:
    """The HTML of a page, given as `NeuronPage.to_dict` gives it; a heading of that level stands on top."""
    strongest = max((abs(each["activations"][each["read"]] or 0) for each in page["contexts"]), default=0.0)
    sides = {side: [each for each in page["contexts"] if each["side"] == side] for side in ("high", "low")}
    shown = _template().render(
        page=page,
        level=level,
        strongest=strongest or 1.0,
        sides={side: found for side, found in sides.items() if found},
        chosen=_tags_shown(page),
    )
    return Markup(shown)  # noqa: S704 (rendered with autoescape)


@cache
def _template() -> Template:
    from posneurons.theme import number

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=number, seen=seen)
    environment.globals.update(spans=_spans, zip=zip)
    return environment.from_string(files("posneurons").joinpath("neuron_page.html").read_text(encoding="utf-8"))


def _tags_shown(page: Mapping[str, Any]) -> list[int]:
    """Numbers of the tags in the table of ranks: those the page is there for, then those with a rank up to BEST."""
    best = {
        number: min((ranks for each in page["ranks"] if (ranks := each["ranks"][number]) is not None), default=None)
        for number in range(len(page["tags"]))
    }
    ranked = sorted((rank, number) for number, rank in best.items() if rank is not None)
    own = [page["tags"].index(each["tag"]) for each in page["of"] if each["tag"] in page["tags"]]
    others = [number for place, (rank, number) in enumerate(ranked) if rank <= BEST or place < 3]
    return list(dict.fromkeys([*own, *others]))[:MOST_TAGS]


def seen(text: str, *, inside: bool = False) -> Markup:
    """A token with its white space made visible, yet copied as it is.

    With `inside`, as part of a running text: plain spaces stay where a token has more than white space in it.

    >>> str(seen(" a<b"))
    '<span class="white" data-shown="␣"> </span>a&lt;b'
    """
    if inside and text.strip(" ") and not WHITE.keys() & set(text) - {" "}:
        return Markup().join([text])
    return Markup().join(_pieces(text))


def _pieces(text: str) -> Iterator[str | Markup]:
    white = Markup('<span class="white" data-shown="{}">{}</span>')
    if not text:
        yield white.format(WHITE[""], "")
    for character in text:
        yield white.format(WHITE[character], character) if character in WHITE else character


def _spans(context: Mapping[str, Any], strongest: float) -> Markup:
    """The tokens of a context, each with its share of the strongest activation and its value."""
    first, last = context["word"]
    start, end = ("… " if context["cut"][0] else ""), (" …" if context["cut"][1] else "")
    tokens = zip(context["tokens"], context["activations"], strict=True)
    return Markup().join([start, *(
        _span(text, value, strongest, _classes(place == context["read"], first <= place <= last))
        for place, (text, value) in enumerate(tokens)
    ), end])  # fmt: skip


def _classes(read: bool, word: bool) -> str:
    return " ".join(name for name, holds in (("read", read), ("word", word)) if holds)


def _span(text: str, value: float | None, strongest: float, classes: str) -> Markup:
    share = round(max(-1.0, min(1.0, (value or 0.0) / strongest)), 2)
    attributes: Iterable[Markup] = (
        Markup(' class="{}"').format(classes) if classes else Markup(),
        Markup(' style="--a:{}"').format(f"{share:g}") if share else Markup(),
        Markup(' title="{}"').format("–" if value is None else f"{value:.3g}".replace("-", "−")),
    )
    return Markup("<span{}>{}</span>").format(Markup().join(attributes), seen(text, inside=True))
