"""Steered generation: what is drawn, where a change is at work, how tags shift; and the command."""

import math
import re
from collections.abc import Sequence

import demo
import numpy as np
import pytest
from steered import QUICK, SOME, TEXTS, markov, starts

from posneurons.errors import ModelError, NeuronError, PosNeuronsError
from posneurons.generation import Change, Sampling, generate, loss_per_token
from posneurons.markov import MarkovSource
from posneurons.neurons import NeuronSet
from posneurons.planted import OPEN
from posneurons.steering import PROMPTS, Steered, TagShift, encode, steer, tag_shift
from posneurons.taggers import Tagged


class ByCase:
    """A tagger for tests: words are what stands between blanks, UPPER from the first letter on, or LOWER."""

    name = "by case"

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        return [[(word, "UPPER" if word[0].isupper() else "LOWER") for word in text.split()] for text in texts]


def expected_share(source: MarkovSource, tag: int, logits: np.ndarray, steps: int, rest: int = 0) -> float:
    """Mean share of a tag in what follows a word of tag 0, if its logits by the tag before are these, then its own."""
    intact = np.log(source.transition)
    weights = np.exp(np.where(np.arange(len(source.tags)) == tag, logits[:, None], intact))
    changed = weights / weights.sum(1, keepdims=True)
    state, found = np.eye(len(source.tags))[0], []
    for matrix in [changed] * steps + [source.transition] * rest:
        state = state @ matrix
        found.append(state[tag])
    return float(np.mean(found))


@pytest.mark.parametrize("tag", [2, 4])
def test_on_the_constructed_model_shares_shift_by_the_closed_form(tag: int) -> None:
    """A tag's logit is ln q + lift; scaled neurons multiply the lift, and clamped ones write what they are set to."""
    planted, steps, rows = markov(), 30, 100
    source = planted.source
    assert source is not None
    neurons, base = planted.truth[f"T{tag}"], np.log(source.stationary[tag])
    lift = source.lift[:, tag]
    cases = [
        (Change(neurons, "clamp", (32.0,) * steps), base + np.full(6, len(neurons) * 32.0 / OPEN), 0),
        (Change(neurons, "add", (24.0,) * steps), base + lift + len(neurons) * 24.0 / OPEN, 0),
        (Change(neurons, "scale", (3.0,) * steps), base + 3 * lift, 0),
        (Change(neurons, "clamp", (32.0,) * 10), base + np.full(6, len(neurons) * 32.0 / OPEN), 20),
    ]
    plain = expected_share(source, tag, base + lift, steps)
    for change, logits, rest in cases:
        drawn = generate(planted.model, [(0, 1)], change, sampling=Sampling(steps, rows), batch_tokens=4096)[0]
        share = (source.tag_of(np.array(drawn).ravel()) == tag).mean()
        wanted = expected_share(source, tag, logits, steps - rest, rest)
        assert share == pytest.approx(wanted, abs=0.035), change.kind  # 3,000 dependent words
        assert change.kind == "scale" or share > plain + 0.05


def test_what_a_tag_does_not_write_moves_nothing() -> None:
    planted, sampling = markov(), Sampling(20, 10)
    intact = generate(planted.model, [(0, 1)], sampling=sampling)
    copies = Change(planted.copies["T2"], "clamp", (500.0,) * 20)
    assert generate(planted.model, [(0, 1)], copies, sampling=sampling) == intact


def steered(*texts: str) -> Steered:
    return Steered(("In",), (texts,), (((),) * len(texts),), None, Sampling())


def test_the_table_of_a_shift() -> None:
    # Shares of A: intact 2/4, key 3/4, then 1/4 (as far, downwards), 2/4 and 5/8.
    words = np.array([[2, 2], [3, 1], [1, 3], [2, 2], [5, 3]])
    shift = TagShift("by hand", ("A", "B"), (steered("x", "y"),) * 5, words, np.array([1.0, 2.0, 1.5, 1.5, 3.0]))
    np.testing.assert_allclose(shift.differences[:, 0], [0, 0.25, -0.25, 0, 0.125])
    assert shift.as_far.tolist() == [1, 1]
    assert shift.p_values.tolist() == [0.5, 0.5]  # (1 + 1) / (1 + 3)
    frame = shift.to_frame()
    assert frame["set"].tolist() == ["intact"] * 2 + ["key"] * 2 + ["matched"] * 6
    assert frame["draw"].tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    key = frame[frame["set"] == "key"].set_index("tag")
    assert key.loc["A", ["words", "share", "difference", "loss_per_token", "controls_as_far", "p_value"]].tolist() == [
        3, 0.75, 0.25, 2.0, 1.0, 0.5,
    ]  # fmt: skip
    assert frame[frame["set"] != "key"]["p_value"].isna().all()
    assert shift.lines()[1] == "A          0.500    0.750  +0.250   1 of 3"
    assert shift.lines()[-1] == "Nats per token in the intact model: 1.00, changed 2.00, random sets 2.00 on average"
    texts = shift.texts_frame()
    assert texts.iloc[3].tolist() == ["key", 0, "In", 1, "y"]
    assert texts.iloc[-1].tolist() == ["matched", 3, "In", 1, "y"]


def test_a_shift_without_random_sets_or_words_is_undefined() -> None:
    alone = TagShift("by hand", ("A",), (steered("x"),) * 2, np.array([[2], [2]]), np.array([1.0, 1.0]))
    assert np.isnan(alone.p_values).all()
    assert "random" not in alone.lines()[-1]
    silent = TagShift("by hand", ("A",), (steered(""),) * 3, np.array([[2], [0], [1]]), np.array([1, math.nan, 1]))
    assert np.isnan(silent.p_values).all()
    assert np.isnan(silent.to_frame()["share"][1])


def test_random_sets_stand_beside_and_prompts_are_not_counted() -> None:
    sampling = Sampling(**QUICK)
    exclude = SOME.union(NeuronSet.parse([f"L0N{unit}" for unit in range(700)]))
    shift = tag_shift(
        demo.model(), TEXTS, SOME, ByCase(), change="clamp", value=3.0, controls=2, exclude=exclude, sampling=sampling
    )
    assert len(shift.texts) == 4
    intact, key, *random = shift.texts
    assert intact.change is None
    assert intact.tokens == steer(demo.model(), TEXTS, NeuronSet.parse([]), **QUICK).tokens
    assert key.tokens == steer(demo.model(), TEXTS, SOME, change="clamp", value=3.0, **QUICK).tokens
    for each in random:
        assert each.change is not None
        assert each.change.values == (3.0,) * 6
        assert each.change.neurons.layer_profile(6).tolist() == [20] * 6
        assert not set(each.change.neurons) & set(exclude)
    for row, each in zip(shift.words, shift.texts, strict=True):
        # A word that begins in the prompt ("The" + "y") is the prompt's; what comes after its end is counted.
        texts = [(len(p), p + text) for p, some in zip(TEXTS, each.continuations, strict=True) for text in some]
        begins = [word.start() - after for after, text in texts for word in re.finditer(r"\S+", text)]
        assert row.sum() == sum(begin >= 0 for begin in begins) < len(begins)
    assert shift.losses[0] == pytest.approx(loss_per_token(demo.model(), starts(), intact.tokens))
    assert shift.tags == ("LOWER", "UPPER")


def test_errors_say_what_to_do() -> None:
    model = demo.model()
    for call, error, sentence in (
        (lambda: steer(model, [], SOME), PosNeuronsError, r"^steering: no prompt was given; expected at least one$"),
        (
            lambda: steer(model, ["A", "B", "A"], SOME),
            PosNeuronsError,
            r"^steering: prompt 3 is the same as one before",
        ),
        (
            lambda: steer(model, ["A"], SOME, tokens=300),
            PosNeuronsError,
            r"^steering: prompt 1 has 2 tokens with BOS, and 300 more were asked for; the model's context has 256",
        ),
        (lambda: steer(model, ["A"], SOME, tokens=0), PosNeuronsError, r"^steering: tokens=0; expected at least 1$"),
        (lambda: steer(model, ["A"], SOME, top_k=0), PosNeuronsError, r"^steering: top_k=0; expected at least 1$"),
        (lambda: steer(model, ["A"], SOME, steps=0), PosNeuronsError, r"^steering: steps=0; expected at least 1, or"),
        (
            lambda: steer(model, ["A"], SOME, temperature=-1.0),
            PosNeuronsError,
            r"^steering: temperature=-1.0; expected a finite number of at least 0$",
        ),
        (
            lambda: steer(model, ["A"], SOME, value=math.inf),
            NeuronError,
            r"^change 'scale': value inf; expected a finite number$",
        ),
        (lambda: steer(model, ["A"], NeuronSet.parse(["L6N0"])), NeuronError, r"^neuron L6N0: the model has layers 0"),
        (
            lambda: steer(markov().model, ["A"], NeuronSet.parse(["L0N0"])),
            ModelError,
            r"^markov: its tokenizer reads no text; give token ids to `steering.generate`$",
        ),
        (
            lambda: tag_shift(model, ["A"], SOME, ByCase(), controls=-1),
            PosNeuronsError,
            r"^steering: controls=-1; expected at least 0$",
        ),
    ):
        with pytest.raises(error, match=sentence):
            call()


def test_an_unknown_change_is_an_error() -> None:
    with pytest.raises(Exception, match="burn"):  # the checks of types come first in the tests
        Change(SOME, "burn", (1.0,))  # type: ignore[arg-type]


def test_the_neutral_prompts_differ() -> None:
    assert len(set(encode(demo.model(), PROMPTS))) == len(PROMPTS) == 8
