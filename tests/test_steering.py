"""Steered generation: what is drawn, where a change is at work, how tags shift; and the command."""

import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import demo
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import posneurons as pn
from posneurons import cli, models, steer_run
from posneurons.activations import token_statistics
from posneurons.errors import ModelError, NeuronError, PosNeuronsError
from posneurons.generation import Change, Sampling, batched, generate, loss_per_token
from posneurons.markov import MarkovSource
from posneurons.neurons import NeuronSet
from posneurons.planted import OPEN, Planted, markov_model
from posneurons.steering import PROMPTS, Steered, TagShift, _decode, encode, steer, tag_shift
from posneurons.taggers import Tagged

SOME = NeuronSet.from_pairs((layer, 7 * unit) for layer in range(6) for unit in range(20))
TEXTS = ("The", "When they came back to the", "She said", "")
QUICK = {"tokens": 6, "continuations": 2}


@cache
def markov() -> Planted:
    return markov_model(length=40, sentences=8)


@cache
def starts() -> list[tuple[int, ...]]:
    return encode(demo.model(), TEXTS)


class ByCase:
    """A tagger for tests: words are what stands between blanks, UPPER from the first letter on, or LOWER."""

    name = "by case"

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        return [[(word, "UPPER" if word[0].isupper() else "LOWER") for word in text.split()] for text in texts]


def test_a_seed_says_what_is_drawn() -> None:
    first = steer(demo.model(), TEXTS, SOME, seed=3, **QUICK)
    again = steer(demo.model(), TEXTS, SOME, seed=3, **QUICK)
    assert first.continuations == again.continuations
    assert first.tokens == again.tokens
    assert first.tokens != steer(demo.model(), TEXTS, SOME, seed=4, **QUICK).tokens
    assert all(a != b for a, b in first.tokens)
    assert [len(each) for each in first.continuations] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    "change",
    [
        Change(NeuronSet.parse([]), "clamp", (5.0,) * 6),
        Change(SOME, "scale", (1.0,) * 6),
        Change(SOME, "add", (0.0,) * 6),
        Change(SOME, "add", (9.0,) * 6, torch.zeros(6, 768)),
        Change(SOME, "clamp", ()),
    ],
    ids=["no neurons", "times 1", "plus 0", "without spread", "no steps"],
)
def test_no_change_changes_nothing_exactly(change: Change) -> None:
    intact = generate(demo.model(), starts(), sampling=Sampling(**QUICK))
    assert generate(demo.model(), starts(), change, sampling=Sampling(**QUICK)) == intact
    tokens = torch.tensor([starts()[1]])
    with torch.no_grad():
        plain = models.residual(demo.model(), tokens)
        changed = models.residual(demo.model(), tokens, change.hooks(torch.arange(tokens.shape[1])[None] - 1))
    assert torch.equal(plain, changed)


@torch.no_grad()
def slowly(start: tuple[int, ...], change: Change, sampling: Sampling, number: int) -> tuple[int, ...]:
    """One text by TransformerLens's cache of keys and values: each position is read once, with its step's value."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache as Cache

    model = demo.model()
    cache = Cache.init_cache(model.cfg, "cpu", 1)
    rng = np.random.default_rng([sampling.seed, number, *start])
    ids, fed = list(start), list(start)
    for step in range(sampling.tokens):

        def edit(value: Any, hook: Any, step: int = step, n_fed: int = len(fed)) -> Any:
            if step < len(change.values):
                begin = 1 if n_fed == len(start) and step == 0 else 0
                units = torch.from_numpy(change.neurons.by_layer()[hook.layer()])
                amount, live = change.values[step], value[:, begin:, units]
                new = {"scale": live * amount, "clamp": live * 0 + amount, "add": live + amount}[change.kind]
                value[:, begin:, units] = new
            return value

        hooks = [(models.post_name(layer), edit) for layer in change.neurons.by_layer()]
        with model.hooks(fwd_hooks=hooks):
            logits = model(torch.tensor([fed]), past_kv_cache=cache)[0, -1].double().numpy()
        if sampling.top_k is not None:
            logits[np.argsort(logits)[: -sampling.top_k]] = -np.inf
        noise = -np.log(rng.standard_exponential(len(logits)))
        fed = [int(np.argmax(logits + sampling.temperature * noise))]
        ids += fed
    return tuple(ids[len(start) :])


@pytest.mark.parametrize(
    ("change", "sampling"),
    [
        (Change(SOME, "scale", (3.0,) * 8), Sampling(8, 2, seed=1)),
        (Change(SOME, "clamp", (2.0, -2.0, 1.0)), Sampling(8, 1, temperature=0.7, top_k=20)),
        (Change(SOME, "add", (6.0,)), Sampling(8, 1, temperature=0.0)),
    ],
    ids=["scale", "clamp by step", "add once"],
)
def test_generation_is_that_of_a_slow_loop_with_a_cache(change: Change, sampling: Sampling) -> None:
    found = generate(demo.model(), starts()[:3], change, sampling=sampling)
    for start, each in zip(starts(), found, strict=False):
        assert each == tuple(slowly(start, change, sampling, number) for number in range(sampling.continuations))
    assert found != generate(demo.model(), starts()[:3], sampling=sampling)


DOUBLED = Change(SOME, "scale", (2.0,) * 5), Sampling(5, 2)


@cache
def alone(start: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """What is written after one beginning, without others beside it."""
    change, sampling = DOUBLED
    return generate(demo.model(), [start], change, sampling=sampling)[0]


@settings(max_examples=6, deadline=None)
@given(order=st.permutations(range(4)), batch=st.sampled_from([1, 20, 45, 4096]))
def test_neither_batch_nor_other_prompts_matter(order: list[int], batch: int) -> None:
    beginnings, (change, sampling) = [starts()[n] for n in order], DOUBLED
    mixed = generate(demo.model(), beginnings, change, sampling=sampling, batch_tokens=batch)
    assert list(mixed) == [alone(start) for start in beginnings]


def test_batches_hold_at_most_so_many_tokens() -> None:
    assert list(batched("abcde", [2, 3, 1, 9, 1], 6)) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert list(batched("abcde", [2, 3, 1, 9, 1], 9)) == [["a", "b", "c"], ["d"], ["e"]]
    assert list(batched("", [], 6)) == []


def test_both_backends_write_the_same() -> None:
    bridge = pn.load_model(backend="bridge", device="cpu", dtype=torch.float32)
    for change, value in (("scale", 3.0), ("add", 1.0)):
        texts = [steer(each, TEXTS, SOME, change=change, value=value, **QUICK) for each in (demo.model(), bridge)]
        assert texts[0].tokens == texts[1].tokens
        losses = [loss_per_token(each, starts(), texts[0].tokens) for each in (demo.model(), bridge)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_bos_is_never_changed() -> None:
    change = {"change": "clamp", "value": 50.0, "tokens": 1}
    empty = [steer(demo.model(), [""], each, **change).tokens for each in (SOME, NeuronSet.parse([]))]
    assert empty[0] == empty[1]
    prompt = [steer(demo.model(), ["The"], each, **change).tokens for each in (SOME, NeuronSet.parse([]))]
    assert prompt[0] != prompt[1]


def test_a_few_steps_are_the_first_ones() -> None:
    options = {"change": "add", "tokens": 5, "continuations": 2}
    limited = steer(demo.model(), TEXTS, SOME, value=2.0, steps=2, **options)
    assert limited.change is not None
    assert limited.change.values == (2.0, 2.0)
    assert limited.tokens == steer(demo.model(), TEXTS, SOME, value=(2.0, 2.0), **options).tokens
    assert limited.tokens == steer(demo.model(), TEXTS, SOME, value=[2.0, 2.0, 0.0, 0.0, 0.0], **options).tokens
    whole = steer(demo.model(), TEXTS, SOME, value=2.0, **options)
    assert limited.tokens != whole.tokens
    assert [t[:2] for each in limited.tokens for t in each] == [t[:2] for each in whole.tokens for t in each]


def test_spread_is_the_unit_of_what_is_added() -> None:
    spread = token_statistics(demo.model(), demo.small()).sd
    options = {"change": "add", "value": 4.0, **QUICK}
    pushed = steer(demo.model(), TEXTS, SOME, spread=spread, **options)
    plain = steer(demo.model(), TEXTS, SOME, **options)
    assert pushed.tokens == steer(demo.model(), TEXTS, SOME, spread=2 * spread, **options | {"value": 2.0}).tokens
    assert (
        pushed.tokens != plain.tokens == steer(demo.model(), TEXTS, SOME, spread=torch.ones(6, 768), **options).tokens
    )


def test_a_text_ends_where_the_model_ends_it() -> None:
    sampling = Sampling(tokens=12, continuations=6)
    whole = generate(demo.model(), starts()[:1], sampling=sampling)[0]
    end = whole[0][4]
    cut = generate(demo.model(), starts()[:1], sampling=sampling, stop={end})[0]
    assert cut == tuple(ids[: ids.index(end)] if end in ids else ids for ids in whole)
    assert len(cut[0]) <= 4
    assert generate(demo.model(), starts()[:1], sampling=sampling, stop=set(range(4096)))[0] == ((),) * 6


def test_continuations_are_the_text_after_the_prompt() -> None:
    found = steer(demo.model(), TEXTS, SOME, value=1.0, **QUICK)
    decode = demo.model().tokenizer.decode
    for prompt, start, texts, ids in zip(TEXTS, starts(), found.continuations, found.tokens, strict=True):
        assert [prompt + text for text in texts] == [decode(start[1:] + each) for each in ids]


def test_a_tokenizer_that_drops_a_first_space_loses_none() -> None:
    class Joined:
        def decode(self, ids: list[int], **_: Any) -> str:
            return " ".join("abcd"[token] for token in ids)

    assert _decode(SimpleNamespace(tokenizer=Joined()), (0, 1), (2, 3)) == " c d"


def test_temperature_and_top_k_narrow_the_choice() -> None:
    greedy = generate(demo.model(), starts(), sampling=Sampling(5, 2, temperature=0.0))
    assert greedy == generate(demo.model(), starts(), sampling=Sampling(5, 2, top_k=1, seed=9))
    assert all(a == b for a, b in greedy)
    with torch.no_grad():
        states = models.residual(demo.model(), torch.tensor([starts()[0]]))[0, -1:]
        best = set(models.unembed(demo.model(), states)[0].topk(3).indices.tolist())
    drawn = {ids[0] for ids in generate(demo.model(), starts()[:1], sampling=Sampling(1, 60, top_k=3))[0]}
    assert drawn == best


def test_tokens_are_drawn_with_the_model_s_probabilities() -> None:
    source = markov().source
    assert source is not None
    drawn = np.array(generate(markov().model, [(0, 1)], sampling=Sampling(1, 3000))[0])[:, 0]
    shares = np.bincount(source.tag_of(drawn), minlength=6) / 3000
    np.testing.assert_allclose(shares, source.transition[0], atol=0.035)  # four standard errors


def test_loss_per_token_is_the_mean_over_generated_tokens() -> None:
    ids = generate(demo.model(), starts()[:3], sampling=Sampling(5, 2), stop=set(range(0, 4096, 9)))
    losses: list[float] = []
    for start, each in zip(starts(), ids, strict=False):
        for one in each:
            text = torch.tensor([start + one])
            with torch.no_grad():
                log_probs = demo.model()(text)[0].log_softmax(-1)
            losses += [-log_probs[len(start) + n - 1, token].item() for n, token in enumerate(one)]
    assert loss_per_token(demo.model(), starts()[:3], ids, batch_tokens=17) == pytest.approx(np.mean(losses), abs=1e-5)
    assert math.isnan(loss_per_token(demo.model(), starts()[:1], [[(), ()]]))


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


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "neurons.json"
    path.write_text(json.dumps({"correlation": {"NOUN": list(SOME)[:30], "VERB": ["L0N1", "L3N2"]}}))
    return path


def test_the_command_writes_tables_and_texts(tmp_path: Path, keys: Path) -> None:
    out, bank = tmp_path / "out", pn.load_treebank(demo.write_treebank(tmp_path, every=8))
    words = ["steer", "--neurons", str(keys), "--tag-set", "NOUN", "--prompt", "The", "--prompt", "It was", "--change"]
    words += ["add", "--value", "2", "--tokens", "5", "--continuations", "2", "--controls", "2", "--device", "cpu"]
    words += ["--out", str(out), "--dtype", "float32", "--treebank", str(tmp_path)]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == (
        "30 neurons of NOUN (correlation): add 2 standard deviations; "
        f"tagger: simple (LinearSVC, {tmp_path.name}, {sum(len(each.words) for each in bank)} words)"
    )
    assert lines[1].split()[:3] == ["tag", "intact", "changed"]
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "steer.json", "steer.parquet"]
    frame = pd.read_parquet(out / "steer.parquet")
    assert frame.columns.tolist() == [
        "method", "tag_set", "change", "value", "set", "draw", "tag", "words", "share", "difference", "loss_per_token",
        "controls_as_far", "p_value",
    ]  # fmt: skip
    np.testing.assert_allclose(frame.groupby(["set", "draw"])["share"].sum(), 1)
    content = json.loads((out / "steer.json").read_text())
    assert content["neurons"] == list(SOME)[:30]
    assert len(content["texts"]) == (1 + 1 + 2) * 2 * 2
    train = pn.align(bank, demo.model().tokenizer, n_ctx=256).split("train")
    spread = token_statistics(demo.model(), train).sd
    again = steer(demo.model(), ["The", "It was"], NeuronSet.parse(list(SOME)[:30]), change="add", value=2.0,
                  spread=spread, tokens=5, continuations=2)  # fmt: skip
    assert [row["text"] for row in content["texts"] if row["set"] == "key"] == [
        text for each in again.continuations for text in each
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["config"]["prompts"] == ["The", "It was"]
    assert manifest["model"]["n_layers"] == 6
    before = (out / "steer.parquet").read_bytes()
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    assert (out / "steer.parquet").read_bytes() == before
    other = CliRunner().invoke(cli.app, [*words, "--seed", "1"])
    assert isinstance(other.exception, PosNeuronsError)
    assert "holds a run with other options" in str(other.exception)


def test_added_values_count_standard_deviations_of_the_training_split() -> None:
    bank = replace(pn.load_treebank(), sentences=pn.load_treebank().sentences[::8])
    corpus = pn.align(bank, demo.model().tokenizer, n_ctx=256)
    found = steer_run._spread(demo.model(), bank, steer_run.SteerConfig())
    torch.testing.assert_close(found, token_statistics(demo.model(), corpus.split("train")).sd)
    assert not torch.allclose(found, token_statistics(demo.model(), corpus).sd)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "--neurons: no file was given; expected key neurons such as runs/demo/neurons.json: make one with"),
        (["--neurons", "nowhere.json"], "nowhere.json: no such file"),
        (["--neurons", "KEYS"], "--tag-set: none was given; expected one of those in KEYS: NOUN, VERB"),
        (["--neurons", "KEYS", "--tag-set", "DET"], "--tag-set DET: not in KEYS (correlation); it has NOUN, VERB"),
        (["--neurons", "KEYS", "--method", "lda"], "--method lda: not in KEYS; it has correlation"),
        (["--neurons", "KEYS", "--change", "burn"], "--change burn: expected one of scale, clamp, add"),
        (["--neurons", "KEYS", "--tagger", "me"], "--tagger me: expected one of simple, stanza"),
        (["--neurons", "KEYS", "--controls", "-1"], "--controls -1: expected at least 0"),
        (["--neurons", "KEYS", "--tokens", "0"], "steering: tokens=0; expected at least 1"),
        (["--neurons", "KEYS", "--tag-set", "NOUN", "--treebank", "no.conllu"], "no.conllu: no such file or folder"),
        (
            ["--neurons", "KEYS", "--tag-set", "NOUN", "--tagger", "stanza", "--language", "xx"],
            "Stanza's models for 'xx'",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path,
    keys: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    sentence: str,
) -> None:
    words = [each.replace("KEYS", str(keys)) for each in options]
    monkeypatch.setattr(sys, "argv", ["posneurons", "steer", *words, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert said.err.startswith("posneurons: ")
    assert said.err.count("\n") == 1
    assert sentence.replace("KEYS", str(keys)) in said.err
    assert said.out == ""
    assert not (tmp_path / "out" / "steer.parquet").exists()


def test_the_neutral_prompts_differ() -> None:
    assert len(set(encode(demo.model(), PROMPTS))) == len(PROMPTS) == 8
