"""Pages of neurons: what the file keeps, what the HTML and the figure say, and what a damaged file is answered."""

import html
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_pages import EVIL, NAN, excerpt, page

from posneurons import neuron_figures, neuron_html, neuron_pages
from posneurons.errors import RunError
from posneurons.neuron_pages import Effect, NeuronPage, Standing, page_html, read_pages, write_pages

ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


def text_of(markup):
    return html.unescape(re.sub(r"<[^>]*>", "", str(markup)))


def same(one, other):
    """Equal, where NaN equals NaN."""
    return repr(one.to_dict()) == repr(other.to_dict()) and type(one) is type(other)


def test_a_page_is_the_same_after_a_file(tmp_path):
    path = tmp_path / neuron_pages.FILE
    pages = [page(), page(layer=0, contexts=(), of=(), ranks=(), notes=())]
    write_pages(path, pages)
    found = read_pages(path)
    assert all(same(one, other) for one, other in zip(pages, found, strict=True))
    assert np.isnan(found[0].means[2])
    assert found[0].ranks[0].ranks == (1, 321, None)
    assert found[1] != found[0]
    content = path.read_text(encoding="utf-8")
    assert "NaN" not in content
    assert len(content.splitlines()) == len(pages) + 2  # a line for each, and the brackets
    assert json.loads(content)["pages"][0]["name"] == "L3N12"


def test_no_pages_are_a_file_too(tmp_path):
    write_pages(tmp_path / "p.json", [])
    assert read_pages(tmp_path / "p.json") == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": 3}, "model is 3; expected str; delete the file and repeat the command that made it"),
        ({"tags": None}, "tags is missing; expected list"),
        ({"words": [1]}, "1 words of 3 tags; expected one for each tag"),
        ({"counts": [[1], [2], [3]]}, r"counts of a tag are \[1\]; expected a number for each of 3 bins"),
        ({"contexts": [{}]}, "contexts, item 0: side is missing; expected it; delete"),
        ({"contexts": [excerpt(read=6).__dict__]}, "a context of 6 tokens whose activations or places do not fit"),
        ({"contexts": [excerpt(activations=(1.0,)).__dict__]}, "a context of 6 tokens whose activations or places"),
        ({"promoted": [["a"]]}, "promoted, item 0: 1 items; expected 2; delete"),
        ({"effects": [1, 2, 3]}, "effects, item 0: 1; expected a JSON object; delete"),
        ({"ranks": [{"method": "m", "ranks": [1], "scores": [0.5]}]}, "ranks by 'm' not of 3 tags; expected one for"),
        ({"layer": 10**9}, "layer: 1000000000; expected the number of a layer; delete"),
    ],
)
def test_damage_is_told(tmp_path, change, sentence):
    path = tmp_path / neuron_pages.FILE
    content = {"pages": [page().to_dict(), page().to_dict() | change]}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RunError, match=f"^{re.escape(str(path))}: page 2: .*{sentence}"):
        read_pages(path)


def test_something_else_is_no_file_of_pages(tmp_path):
    path = tmp_path / neuron_pages.FILE
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(RunError, match=r"no list of pages but \[1\]; expected what posneurons wrote; delete the file"):
        read_pages(path)
    with pytest.raises(RunError, match="a neuron page: 3; expected a JSON object"):
        NeuronPage.from_dict(3)


def test_names_and_tables():
    mine = page()
    assert mine.name == "L3N12"
    assert repr(mine) == (
        "NeuronPage(L3N12 of tiny at 'predict': 14 words of 3 tags, 2 contexts; rank 1 for NOUN by correlation)"
    )
    assert "rank" not in repr(page(of=()))
    assert mine.contexts[0].value == 2.0
    frame = mine.to_frame()
    assert frame.index.tolist() == ["NOUN", EVIL, "X"]
    assert frame.loc["NOUN", ["mean", "effect", "ci_low", "effect_words"]].tolist() == [0.25, 0.004, 0.001, 9]
    assert frame["rank: attribution"].tolist()[:2] == [40, 7]
    assert frame.isna().loc["X", ["mean", "effect", "rank: attribution"]].all()


def test_html_says_it_all_and_runs_nothing():
    shown = str(page_html(page()))
    assert "<script" not in shown
    assert ESCAPED in shown
    assert "http" not in shown
    assert "rank 1 for <b>NOUN</b> by correlation" in shown
    text = " ".join(text_of(shown).split())
    assert "among 4,608 neurons" in text
    assert "correlation1 (+0.5)321 (−0.25)" in text  # X is in no method's ranking, so it has no column
    assert "+0.00400+0.00100 to +0.00750" in text
    assert "–– to –" in text
    assert "+1.250" in text
    assert "A note." in text
    assert "Highest values" in text
    assert "Lowest values" in text


def test_tokens_carry_colour_value_and_marks():
    shown = str(page_html(page()))
    # The strongest value that was read is 2.0; the space of 4.0 was not read, and is as orange as can be.
    assert (
        '<span style="--a:0.25" title="0.5">The</span><span class="read" style="--a:1" title="2"> cat</span>' in shown
    )
    assert '<span class="word" style="--a:-0.5" title="−1"> s</span>' in shown
    assert f'<span class="word" title="0">{ESCAPED}</span>' in shown
    assert '<span style="--a:1" title="4"><span class="white" data-shown="␣"> </span></span>' in shown
    assert "</span> …</td>" in shown  # cut at its end, not at its beginning
    assert "… <span" not in shown
    assert '<th scope="row">+2</th><td class="left">VERB</td>' in shown


def test_a_page_without_contexts_ranks_and_tokens():
    shown = str(page_html(page(contexts=(), promoted=(), suppressed=(), ranks=(), of=()), level=4))
    assert "it is 0 at every word" in shown
    assert "<h4>L3N12</h4>" in shown
    assert "logit" not in shown
    assert "Its rank" not in shown


def test_ranks_are_shown_for_the_tags_that_matter():
    tags = tuple(f"T{i}" for i in range(12))
    some = Standing("m", tuple(1000 * (i + 1) for i in range(12)), (0.0,) * 12)
    assert neuron_html._tags_shown({"tags": tags, "of": [], "ranks": [some.__dict__]}) == [0, 1, 2]  # the best three
    many = Standing("m", tuple(range(12, 0, -1)), (0.0,) * 12)
    content = {"tags": tags, "of": [{"tag": "T3"}], "ranks": [many.__dict__]}
    assert neuron_html._tags_shown(content) == [3, 11, 10, 9, 8, 7, 6, 5]  # its own first, then by rank, eight at most


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.booleans())
def test_what_is_seen_is_copied_as_it_is(text, inside):
    shown = neuron_html.seen(text, inside=inside)
    assert text_of(shown) == text
    assert "<" not in re.sub(r'<span class="white" data-shown=".">|</span>', "", str(shown))


def test_style_stays_inside_the_page():
    plain = re.sub(r"@media [^{]*\{|/\*.*?\*/", "", neuron_pages.PAGE_CSS)
    selectors = [each.strip() for rule in re.findall(r"([^{}]+)\{", plain) for each in rule.split(",\n")]
    parts = [part.strip() for each in selectors for part in re.split(r",(?![^(]*\))", each)]
    assert len(parts) > 20
    assert [part for part in parts if not part.startswith(".neuron-page")] == []


def test_figure_orders_scales_and_colours():
    figure = page().figure()
    *densities, others, own = figure.data
    assert list(figure.layout.yaxis.ticktext) == ["NOUN", ESCAPED]  # X has no word here nor there
    assert [trace.line.color for trace in densities] == [neuron_figures.OWN, neuron_figures.OTHER]
    heights = np.array(densities[0].y) - densities[0].y[0]
    assert heights == pytest.approx([0, 0.86 / 3, 0.86, 0, 0], abs=0.01)  # roots of 1, 9 and 0 over that of 9
    assert (densities[0].x0, densities[0].dx) == (-1.5, 1.0)  # bins are centred at -0.5, 0.5, 1.5
    assert ESCAPED in densities[1].text
    assert "4 words<br>mean 1.5<br>half of them below 1.5" in densities[1].text
    assert "half of them below 0.444" in densities[0].text  # 1 word below 0, and 4 of 9 in the bin from 0 to 1
    assert (own.x, own.y) == ((0.004,), (0,))
    assert own.error_x.array == pytest.approx((0.0035,))
    assert own.error_x.arrayminus == pytest.approx((0.003,))
    assert own.text[0] == "<b>NOUN</b>: +0.00400 nats<br>95 % interval +0.00100 to +0.00750<br>9 words"
    assert others.x == ()


def test_figure_without_intervals_or_words():
    lone = page(effects=(Effect(0.004, NAN, NAN, 9), Effect(-0.1, -0.2, 0.1, 3), Effect(NAN, NAN, NAN, 0)), of=())
    *_, others, own = lone.figure().data
    assert own.x == ()
    assert others.x == (0.004, -0.1)
    assert list(others.error_x.array) == pytest.approx([0, 0.2])
    assert "interval – to –" in others.text[0]
    nothing = page(words=(0, 0, 0), counts=((0, 0, 0),) * 3, means=(NAN,) * 3, effects=(Effect(NAN, NAN, NAN, 0),) * 3)
    assert list(nothing.figure().layout.yaxis.ticktext) == []


def test_figure_is_small_in_json():
    rng, n = np.random.default_rng(0), 17
    counts = tuple(tuple(row) for row in rng.integers(0, 900, (n, 36)).tolist())
    edges = tuple(np.linspace(-1.2345, 3.4567, 37).round(4).tolist())
    effects = tuple(Effect(x, x - 0.001234, x + 0.002345, 321) for x in rng.normal(0, 0.001, n).tolist())
    large = page(
        tags=tuple(f"TAG{i}" for i in range(n)), words=tuple(map(sum, counts)),
        means=tuple(rng.normal(size=n).tolist()),
        edges=edges, counts=counts, effects=effects, ranks=(), of=(),
    )  # fmt: skip
    drawing = json.loads(large.figure().to_json())
    del drawing["layout"]["template"]
    assert len(json.dumps(drawing)) < 15_000


def test_jupyter_gets_style_and_page_once():
    shown = page()._repr_html_()
    assert shown.startswith("<style>.neuron-page {")
    assert "<article" in shown
    assert page(shown=True)._repr_html_() is None
    assert page(shown=True, means=(0.25, 1.5, 0.0)) == page(means=(0.25, 1.5, 0.0))
