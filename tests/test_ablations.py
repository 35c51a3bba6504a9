"""Ablations by name: every form that is read, every one that is refused."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posneurons.ablations import Edit, parse
from posneurons.errors import NeuronError
from posneurons.words import Ablation


@pytest.mark.parametrize("name", get_args(Ablation))
def test_a_name_alone_is_its_own_label(name: str) -> None:
    assert str(parse(name)) == name
    assert parse(parse(name)) == parse(name)


def test_options() -> None:
    assert parse("resample:donor=other,draws=10") == Edit("resample", donor="other", draws=10)
    assert parse("clamp:value=-2.5") == Edit("clamp", value=-2.5)
    assert str(parse("resample:draws=10,donor=other")) == "resample:donor=other,draws=10"
    assert str(parse("resample:draws=5")) == "resample"
    assert str(parse("scale:factor=2")) == "scale:factor=2.0"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_labels_are_read_back(value: float) -> None:
    edit = Edit("clamp", value=value)
    assert parse(str(edit)) == edit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "burn",
            "ablation 'burn': no such ablation; expected one of zero, mean, balanced_mean, resample, clamp, scale",
        ),
        ("mean:value=2", "ablation 'mean:value=2': 'value=2' is no option of mean; expected no options"),
        ("clamp:factor=2", "'factor=2' is no option of clamp; expected value=0.0"),
        ("clamp:value", "'value' is no option of clamp; expected value=0.0"),
        ("clamp:value=big", "value=big; expected a finite number"),
        ("scale:factor=nan", "factor=nan; expected a finite number"),
        ("scale:factor=inf", "factor=inf; expected a finite number"),
        ("resample:draws=0", "draws=0; expected a whole number of at least 1"),
        ("resample:draws=1.5", "draws=1.5; expected a whole number of at least 1"),
        ("resample:donor=mine", "donor=mine; expected one of any, other"),
    ],
)
def test_errors_say_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(NeuronError) as caught:
        parse(text)
    assert message in str(caught.value)
