"""Method names and their options: read, checked, written and read again."""

import contextlib
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posneurons import methods
from posneurons.errors import PosNeuronsError
from posneurons.methods import METHODS, WORDS, Family, Spec, parse


def value_of(key: str, default: Any) -> st.SearchStrategy[Any]:
    """Any value that an option may have."""
    if key in WORDS:
        return st.sampled_from(WORDS[key])
    if isinstance(default, bool):
        return st.booleans()
    if key == "share":
        return st.floats(0, 1, exclude_min=True, exclude_max=True)
    if isinstance(default, int):
        return st.integers(1, 1000) if key == "steps" else st.integers(0, 10**6)
    raise AssertionError(f"an option of a new kind: {key}={default!r}")


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    name = draw(st.sampled_from(list(METHODS)))
    options = {key: draw(value_of(key, default)) for key, default in METHODS[name].options.items()}
    return Spec(name, options)


@given(specs())
def test_what_is_written_is_read_again(spec: Spec) -> None:
    assert parse(str(spec)) == spec
    assert parse(spec.name, **spec.options) == spec
    assert str(parse(str(spec))) == str(spec)


@given(specs(), specs())
def test_two_methods_are_written_alike_only_if_they_are_the_same(one: Spec, other: Spec) -> None:
    assert (str(one) == str(other)) == (one == other)


@pytest.mark.parametrize("name", METHODS)
def test_a_name_alone_has_the_defaults_and_is_written_alone(name: str) -> None:
    spec = parse(name)
    assert spec.options == METHODS[name].options
    assert spec.method is METHODS[name]
    assert str(spec) == name
    assert spec.method.family in get_args(Family)


def test_every_option_that_is_a_word_has_a_default_among_its_words() -> None:
    used = {key for method in METHODS.values() for key in method.options}
    assert set(WORDS) <= used
    for method in METHODS.values():
        for key in WORDS.keys() & method.options.keys():
            assert method.options[key] in WORDS[key]


def test_options_of_every_kind() -> None:
    spec = parse(" key_neuron_rule:share=0.1, per=model ,steps=20,contrast=TRUE,rule=right".strip())
    assert spec.name == "key_neuron_rule"
    assert spec.options == {
        "contrast": True,
        "share": 0.1,
        "per": "model",
        "steps": 20,
        "rule": "right",
        "target": "log_probability",
    }
    assert type(spec.options["steps"]) is int
    assert str(spec) == "key_neuron_rule:contrast=yes,share=0.1,per=model,steps=20,rule=right"


def test_a_keyword_wins_over_the_text_and_a_default_is_not_written() -> None:
    assert parse("attribution:scope=all,contrast=no", scope="local").options["scope"] == "local"
    assert str(parse("attribution:scope=all,contrast=no", scope="local")) == "attribution:contrast=no"
    assert str(parse("attribution:scope=local,contrast=yes,baseline=zero")) == "attribution"
    assert parse("attribution:") == parse("attribution")


@pytest.mark.parametrize(("word", "truth"), [("yes", True), ("true", True), ("No", False), ("FALSE", False)])
def test_words_for_true_and_false(word: str, truth: bool) -> None:
    assert parse(f"attribution:contrast={word}").options["contrast"] is truth
    assert parse("attribution", contrast=truth).options["contrast"] is truth


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("luck", {}, f"method 'luck': no such ranking; expected one of {', '.join(METHODS)}"),
        ("", {}, f"method '': no such ranking; expected one of {', '.join(METHODS)}"),
        ("correlation:deep=yes", {}, "method correlation: no option 'deep'; it takes none"),
        ("auroc", {"k": 3}, "method auroc: no option 'k'; it takes shortlist"),
        ("relp:depth=1", {}, "method relp: no option 'depth'; it takes scope, contrast, baseline, frozen_patterns"),
        ("auroc:shortlist", {}, "method 'auroc:shortlist': found 'shortlist'; expected option=value"),
        ("attribution:scope=here", {}, "method attribution: scope=here: expected one of local, all"),
        ("attribution", {"scope": True}, "method attribution: scope=yes: expected one of local, all"),
        ("attribution:contrast=maybe", {}, "method attribution: contrast=maybe: expected yes or no"),
        ("attribution", {"contrast": 1}, "method attribution: contrast=1: expected yes or no"),
        ("auroc:shortlist=many", {}, "method auroc: shortlist=many: expected a whole number of at least 0"),
        ("auroc:shortlist=-1", {}, "method auroc: shortlist=-1: expected a whole number of at least 0"),
        ("auroc", {"shortlist": True}, "method auroc: shortlist=yes: expected a whole number of at least 0"),
        ("auroc:shortlist=2.5", {}, "method auroc: shortlist=2.5: expected a whole number of at least 0"),
        (
            "integrated_gradients:steps=0",
            {},
            "method integrated_gradients: steps=0: expected a whole number of at least 1",
        ),
        ("key_neuron_rule:share=0", {}, "method key_neuron_rule: share=0: expected a number between 0 and 1"),
        ("key_neuron_rule:share=1", {}, "method key_neuron_rule: share=1: expected a number between 0 and 1"),
        ("key_neuron_rule:share=nan", {}, "method key_neuron_rule: share=nan: expected a number between 0 and 1"),
    ],
)
def test_errors_say_what_was_found_and_what_is_expected(text: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PosNeuronsError) as caught:
        parse(text, **options)
    assert str(caught.value) == message


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_and_nothing_else_happens(text: str) -> None:
    for whole in (text, f"key_neuron_rule:{text}", f"auroc:shortlist={text}"):
        with contextlib.suppress(PosNeuronsError):
            assert parse(whole).name in METHODS


def test_a_method_is_not_changed_by_reading_it() -> None:
    before = {name: dict(method.options) for name, method in METHODS.items()}
    parse("key_neuron_rule:steps=3", share=0.2)
    assert {name: dict(method.options) for name, method in METHODS.items()} == before
    assert methods.METHODS is METHODS
