"""Rankings from weights and the logit lens against plain loops, on both backends and three architectures."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import demo
import numpy as np
import pytest
import torch
from checkpoints import write_gpt2, write_llama, write_neox
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray

import posneurons as pn
from posneurons import logit_lens, models, weights
from posneurons.effects import EffectAccumulator
from posneurons.errors import ModelError
from posneurons.records import Corpus, Scored
from posneurons.weights import FinalNorm, final_norm

WRITERS: dict[str, Callable[..., Path]] = {"llama": write_llama, "gpt2": write_gpt2, "neox": write_neox}
KINDS = [(name, backend) for name in WRITERS for backend in ("hooked", "bridge")]
HOW: dict[str, Any] = {"seed": 0, "tokens": 40, "progress": False}


@cache
def tiny(name: str, backend: str = "hooked") -> Any:
    """A small random model in float32, whose final norm has a gain and a bias that can be seen."""
    with TemporaryDirectory() as folder:
        model = pn.load_model(WRITERS[name](Path(folder) / "checkpoint"), backend=backend, device="cpu")
    for number, weight in enumerate(model.ln_final.parameters(), start=1):
        weight.data += 0.3 * torch.sin(number * torch.arange(32.0))
    return model


@cache
def corpus() -> Corpus:
    """Seven rows of random tokens; every second word has two of them, three tags of which one is on no word."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(5, 12, 7)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    words = [
        (row, first, min(first + number % 2, length))
        for row, length in enumerate(lengths.tolist())
        for number, first in enumerate(range(1, length + 1, 2))
    ]
    row, first, last = np.array(words).T
    return Corpus(
        name="random",
        tagset="upos",
        tags=("A", "B", "NONE", "C"),
        split_names=("train",),
        bos=0,
        tokens=rng.integers(2, 60, bounds[-1]),
        row_bounds=bounds,
        row_document=np.arange(7),
        row_split=np.zeros(7, dtype=np.int64),
        word_row=row,
        word_first=first,
        word_last=last,
        word_tag=rng.choice([0, 1, 3], len(row)),
        word_form=np.array([f"w{number}" for number in range(len(row))]),
        word_sentence=row,
        word_frequency=np.ones(len(row), dtype=np.int64),
        word_parts=np.ones(len(row), dtype=np.int64),
        dropped={},
        split_sentences=0,
        marked_documents=False,
    )


@dataclass(frozen=True)
class Read:
    """A word as the plain way finds it: its number, what TransformerLens caches at its position, and what follows."""

    word: int
    scale: float
    acts: ndarray  # [layer neuron]
    middle: ndarray  # [layer d_model]
    target: int | None


@torch.no_grad()
def read(name: str, at: Any) -> Iterator[Read]:
    """Every readable word, by `run_with_cache` of a HookedTransformer, one row at a time."""
    model, text = tiny(name), corpus()
    for row in range(text.n_rows):
        tokens = text.row_tokens(row)
        _, hooks = model.run_with_cache(torch.from_numpy(tokens)[None])
        for word in np.flatnonzero(text.word_row == row).tolist():
            place = int(text.positions(at)[word])
            if place == 0:
                continue
            layers = range(model.cfg.n_layers)
            after = [hooks[f"blocks.{la}.hook_resid_post"] - hooks[f"blocks.{la}.hook_mlp_out"] for la in layers]
            yield Read(
                word=word,
                scale=float(hooks["ln_final.hook_scale"][0, place]),
                acts=np.stack([hooks[f"blocks.{la}.mlp.hook_post"][0, place].numpy() for la in layers]),
                middle=np.stack([each[0, place].numpy() for each in after]),
                target=int(tokens[place + 1]) if place + 1 < len(tokens) else None,
            )


def log_prob(name: str, residuals: torch.Tensor, scale: float, target: int) -> ndarray:
    """log p(target) of each of some residuals in float64, the norm written out with a scale that is given."""
    model = tiny(name)
    gain, mean = model.ln_final.w.double(), residuals.mean(-1, keepdim=True)
    normed = residuals / scale * gain if name == "llama" else (residuals - mean) / scale * gain
    bias = 0 if name == "llama" else model.ln_final.b.double()
    logits = (normed + bias) @ model.W_U.double() + model.b_U.double()
    return logits.log_softmax(-1)[..., target].numpy()


@cache
@torch.no_grad()
def slow_increases(name: str, at: Any) -> tuple[ndarray, ndarray, ndarray]:
    """Words, and per word, layer and neuron the exact increase and its first order by finite differences."""
    model, found = tiny(name), []
    for each in read(name, at):
        if each.target is None:
            continue
        exact, slope = np.zeros_like(each.acts, dtype=np.float64), np.zeros_like(each.acts, dtype=np.float64)
        for layer, acts in enumerate(each.acts):
            base = torch.from_numpy(each.middle[layer]).double()
            steps = torch.from_numpy(acts)[:, None].double() * model.W_out[layer].double()  # [neuron d_model]
            up, down, whole, none = (
                log_prob(name, base + size * steps, each.scale, each.target) for size in (1e-4, -1e-4, 1, 0)
            )
            exact[layer], slope[layer] = whole - none, (up - down) / 2e-4
        found.append((each.word, exact, slope))
    words, exacts, slopes = zip(*found, strict=True)
    return np.array(words), np.stack(exacts), np.stack(slopes)


def gathered(words: ndarray, effects: ndarray, contrast: bool) -> Scored:
    """What the sums make of effects that were computed one by one."""
    text = corpus()
    state = EffectAccumulator(len(text.tags), effects.shape[1], effects.shape[2])
    for layer in range(effects.shape[1]):
        tags, rows = torch.from_numpy(text.word_tag[words]), torch.from_numpy(text.word_row[words])
        state.update(layer, tags, rows, torch.from_numpy(effects[:, layer]).float())
    return state.contrast() if contrast else state.mean()


@pytest.mark.parametrize(("name", "backend"), KINDS)
def test_first_order_equals_finite_differences(name: str, backend: str) -> None:
    words, _, slopes = slow_increases(name, "predict")
    for contrast in (False, True):
        found = logit_lens.logprob_increase(tiny(name, backend), corpus(), at="predict", contrast=contrast, **HOW)
        expected = gathered(words, slopes, contrast)
        np.testing.assert_array_equal(found.count, expected.count)
        np.testing.assert_allclose(found.scores, expected.scores, atol=2e-5 if not contrast else 1e-2)
    assert np.isnan(found.scores[2]).all()
    assert np.abs(np.delete(expected.scores, 2, 0)).max() > 1


@pytest.mark.parametrize("at", ["first", "last"])
def test_words_that_no_token_follows_are_left_out(at: Any) -> None:
    words, _, slopes = slow_increases("gpt2", at)
    text = corpus()
    ends = text.positions(at) == np.diff(text.row_bounds)[text.word_row]
    assert ends.any()
    assert len(words) == (~ends).sum()
    found = logit_lens.logprob_increase(tiny("gpt2"), text, at=at, contrast=False, **HOW)
    np.testing.assert_array_equal(found.count, np.bincount(text.word_tag[~ends], minlength=4))
    np.testing.assert_allclose(found.scores, gathered(words, slopes, False).scores, atol=2e-5)


@pytest.mark.parametrize(("name", "backend"), KINDS)
@pytest.mark.parametrize("contrast", [False, True])
def test_a_shortlist_is_computed_exactly(name: str, backend: str, contrast: bool) -> None:
    words, exact, slopes = slow_increases(name, "predict")
    options: dict[str, Any] = {"at": "predict", "contrast": contrast, **HOW}
    with patch.object(weights, "MOVED_LOGITS", 3000), patch.object(models, "VOCABULARY_CHUNK", 150):
        found = logit_lens.logprob_increase(tiny(name, backend), corpus(), shortlist=9, **options)
    first = logit_lens.logprob_increase(tiny(name, backend), corpus(), **options)
    listed = ~np.isnan(found.scores)
    assert listed.reshape(4, -1).sum(1).tolist() == [9, 9, 0, 9]
    expected = gathered(words, np.where(listed.any(0), exact, slopes), contrast).scores
    np.testing.assert_allclose(found.scores[listed], expected[listed], rtol=1e-2 if contrast else 1e-3, atol=2e-5)
    for tag in (0, 1, 3):
        assert first.scores[tag][listed[tag]].min() >= first.scores[tag][~listed[tag]].max()
    assert np.abs(expected - gathered(words, slopes, contrast).scores)[listed].max() > 1e-4  # not the first order
    error = np.abs(first.scores - found.scores)[listed].sum() / np.abs(found.scores[listed]).sum()
    assert found.notes["first_order_error"] == pytest.approx(error, rel=1e-4)
    assert 0 < error < 1


@torch.no_grad()
def test_first_orders_add_up_to_the_derivative_along_the_layers_output() -> None:
    """The neurons of a layer write mlp_out together, so their sum is the derivative of log p in that direction."""
    model, text = demo.model(), demo.small().select(np.arange(demo.small().n_rows) % 8 == 0)
    found = logit_lens.logprob_increase(model, text, at="predict", contrast=False, **HOW).scores.sum(2)
    totals, counts, unembedding = np.zeros_like(found), np.zeros(len(text.tags)), model.W_U.double()
    for row in range(text.n_rows):
        tokens = torch.from_numpy(text.row_tokens(row))
        _, hooks = model.run_with_cache(tokens[None])
        for word in np.flatnonzero((text.word_row == row) & (text.word_first > 1)):
            place = int(text.word_first[word]) - 1
            scale, tag = hooks["ln_final.hook_scale"][0, place], text.word_tag[word]
            counts[tag] += 1
            for layer in range(model.cfg.n_layers):
                middle, out = (hooks[f"blocks.{layer}.{key}"][0, place] for key in ("hook_resid_mid", "hook_mlp_out"))
                states = torch.stack([middle + size * out for size in (1e-2, -1e-2)]).double() / scale
                logits = (states * model.ln_final.w) @ unembedding
                up, down = logits.log_softmax(-1)[:, tokens[place + 1]]
                totals[tag, layer] += float(up - down) / 2e-2
    present = counts > 0
    np.testing.assert_allclose(found[present], totals[present] / counts[present, None], rtol=5e-3, atol=5e-3)
    assert np.abs(found[present]).max() > 0.1


def slow_direction(name: str, tag: int) -> torch.Tensor:
    """Mean unembedding vector of the tag's first tokens less that of all words', through the final norm's gain."""
    model, text = tiny(name), corpus()
    first = [int(text.row_tokens(row)[place]) for row, place in zip(text.word_row, text.word_first, strict=True)]
    mine = Counter(token for token, its in zip(first, text.word_tag, strict=True) if its == tag)
    total = torch.zeros(model.cfg.d_model, dtype=torch.float64)
    for token, count in Counter(first).items():
        total += (mine[token] / mine.total() - count / len(first)) * model.W_U[:, token].double()
    total = total * model.ln_final.w.double()
    return total if name == "llama" else total - total.mean()


@pytest.mark.parametrize(("name", "backend"), KINDS)
def test_static_attribution_equals_a_loop_over_tokens(name: str, backend: str) -> None:
    found = logit_lens.logit_attribution(tiny(name, backend), corpus(), at="predict", **HOW)
    for tag in (0, 1, 3):
        expected = tiny(name).W_out.double() @ slow_direction(name, tag)
        np.testing.assert_allclose(found.scores[tag], expected.numpy(), atol=1e-5)
        assert expected.abs().max() > 0.01
    assert np.isnan(found.scores[2]).all()
    np.testing.assert_array_equal(found.count, np.bincount(corpus().word_tag, minlength=4))
    again = logit_lens.logit_attribution(tiny(name, backend), corpus(), at="last", **HOW)
    np.testing.assert_array_equal(again.scores, found.scores)


@pytest.mark.parametrize(("name", "backend"), KINDS)
@pytest.mark.parametrize("at", ["predict", "last"])
def test_dynamic_attribution_equals_cached_activations(name: str, backend: str, at: Any) -> None:
    found = logit_lens.dynamic_logit_attribution(tiny(name, backend), corpus(), at=at, **HOW)
    every = list(read(name, at))
    scaled = np.stack([each.acts / each.scale for each in every]).astype(np.float64)
    tags = corpus().word_tag[[each.word for each in every]]
    for tag in (0, 1, 3):
        written = (tiny(name).W_out.double() @ slow_direction(name, tag)).numpy()
        expected = written * (scaled[tags == tag].mean(0) - scaled.mean(0))
        np.testing.assert_allclose(found.scores[tag], expected, atol=1e-6, rtol=1e-3)
        assert np.abs(expected).max() > 1e-3
    assert np.isnan(found.scores[2]).all()
    np.testing.assert_array_equal(found.count, np.bincount(tags, minlength=4))


METHODS = [logit_lens.dynamic_logit_attribution, logit_lens.logprob_increase]


@settings(max_examples=6, deadline=None)
@given(tokens=st.integers(1, 200), method=st.sampled_from(METHODS), name=st.sampled_from(list(WRITERS)))
def test_the_size_of_a_batch_does_not_matter(tokens: int, method: Callable[..., Scored], name: str) -> None:
    scores = [method(tiny(name), corpus(), at="first", **HOW | {"tokens": size}).scores for size in (tokens, 90)]
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_planted_neuron_is_found_and_a_mute_one_does_nothing() -> None:
    with TemporaryDirectory() as folder:
        model = pn.load_model(write_llama(Path(folder) / "checkpoint"), device="cpu")
    weight = model.blocks[1].mlp.W_out
    weight[7] = 30 * logit_lens.tag_directions(model, corpus())[3]
    weight[8] = 0
    static = logit_lens.logit_attribution(model, corpus(), at="predict", **HOW).scores
    dynamic = logit_lens.dynamic_logit_attribution(model, corpus(), at="predict", **HOW).scores
    increase = logit_lens.logprob_increase(model, corpus(), at="predict", contrast=False, **HOW).scores
    assert np.argmax(static[3]) == 48 + 7
    assert np.argmax(np.abs(dynamic[3])) == 48 + 7
    assert np.argmax(np.abs(increase[3])) == 48 + 7
    for scores in (static, dynamic, increase):
        assert (scores[[0, 1, 3], 1, 8] == 0).all()


def test_one_tag_alone_has_nothing_to_differ_from() -> None:
    one = corpus().select(np.arange(7) < 1)
    one.word_tag[:] = 0
    for method in (logit_lens.logit_attribution, logit_lens.dynamic_logit_attribution):
        assert np.isnan(method(tiny("llama"), one, at="first", **HOW).scores).all()


def test_rankings_on_the_embedded_model_go_through_rank() -> None:
    few = demo.small().select(np.arange(demo.small().n_rows) % 4 == 0)
    for method in ("logit_attribution", "dynamic_logit_attribution", "logprob_increase:shortlist=20"):
        ranking = pn.rank(demo.model(), few, method)
        assert ranking.signed
        assert ranking.method == method
        assert len(ranking.top(10)["NOUN"]) == 10


@torch.no_grad()
def test_half_precision_ranks_alike() -> None:
    few = demo.small().select(np.arange(demo.small().n_rows) % 8 == 0)
    half = pn.load_model(device="cpu", dtype="bfloat16")
    for method in (logit_lens.logit_attribution, *METHODS):
        exact, rounded = (method(model, few, at="predict", **HOW | {"tokens": 500}) for model in (demo.model(), half))
        defined = ~np.isnan(exact.scores) & ~np.isnan(rounded.scores)
        assert np.corrcoef(exact.scores[defined], rounded.scores[defined])[0, 1] > 0.98


def test_a_layer_norm_by_hand() -> None:
    # The row 1, 3 has mean 2, so that it is -1, 1 when centred; the mean square is 1 and eps 3, so the scale is 2.
    norm = FinalNorm(gain=torch.tensor([2.0, 4.0]), bias=torch.tensor([0.5, 0.0]), centred=True, eps=3.0)
    row = torch.tensor([[1.0, 3.0]])
    assert norm.scale(row).tolist() == [2]
    assert norm.apply(row, norm.scale(row)).tolist() == [[-0.5, 2]]
    assert norm.push(row).tolist() == [[-2, 4]]
    # Derivatives 1, 1 after the norm are 2, 4 before the gain, and less their mean -1, 1.
    assert norm.pull_back(torch.ones(1, 2)).tolist() == [[-1, 1]]
    plain = FinalNorm(gain=torch.tensor([2.0, 4.0]), bias=torch.zeros(2), centred=False, eps=4.0)
    assert plain.scale(row).tolist() == [3]  # the mean square is 5
    assert plain.pull_back(torch.ones(1, 2)).tolist() == [[2, 4]]


@pytest.mark.parametrize(("name", "backend"), KINDS)
def test_the_final_norm_is_measured(name: str, backend: str) -> None:
    norm, model = final_norm(tiny(name, backend)), tiny(name)
    torch.testing.assert_close(norm.gain, model.ln_final.w.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm.bias, getattr(model.ln_final, "b", torch.zeros(32)).detach(), atol=1e-6, rtol=0)
    assert norm.centred == (name != "llama")
    rows = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(norm.apply(rows, norm.scale(rows)), model.ln_final(rows[None])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "backend"), KINDS)
def test_output_weights_are_the_weights_themselves(name: str, backend: str) -> None:
    model = tiny(name, backend)
    stored = {each.untyped_storage().data_ptr() for each in model.parameters()}
    for layer in range(2):
        found = weights.output_weights(model, layer)
        torch.testing.assert_close(found, tiny(name).W_out[layer])
        assert found.untyped_storage().data_ptr() in stored


@torch.no_grad()
def test_capped_logits() -> None:
    """With the cap of Gemma 2 the increase is that of the capped logits, and its slope too."""
    model = tiny("gpt2")
    generator = torch.Generator().manual_seed(3)
    rows, directions = torch.randn(3, 32, generator=generator), torch.randn(2, 32, generator=generator)
    acts, targets = torch.randn(3, 2, generator=generator), torch.tensor([4, 9, 300])
    norm = final_norm(model)
    scale = norm.scale(rows)
    with patch.object(model.cfg, "output_logits_soft_cap", 3.0):
        found = weights.lens_increase(model, norm, rows, scale, targets, acts, directions)
        slopes = weights.lens_slopes(model, norm, rows, scale, targets)
        little = weights.lens_increase(model, norm, rows, scale, targets, acts * 1e-2, directions)

        def plain(residual: torch.Tensor) -> torch.Tensor:
            logits = models.unembed(model, norm.apply(residual, scale), normed=True)
            assert 1.5 < logits.abs().max() <= 3
            return logits.log_softmax(-1)[torch.arange(3), targets]

        for number in range(2):
            moved = plain(rows + acts[:, number, None] * directions[number])
            torch.testing.assert_close(found[:, number], moved - plain(rows), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(little, acts * 1e-2 * (slopes @ directions.T), atol=1e-3, rtol=0.05)


def halved(model: Any) -> Any:
    forward = model.blocks[1].mlp.forward
    return patch.object(model.blocks[1].mlp, "forward", lambda x: forward(x) / 2)


@pytest.mark.parametrize("method", [logit_lens.logit_attribution, *METHODS])
def test_a_model_that_does_not_fit_is_refused_in_one_line(method: Callable[..., Scored]) -> None:
    model = tiny("llama")
    with halved(model), pytest.raises(ModelError, match="what the neurons of layer 1 write does not reach") as caught:
        method(model, corpus(), at="predict", **HOW)
    assert "\n" not in str(caught.value)
    with (
        patch.object(model.ln_final, "forward", lambda x: x.tanh()),
        pytest.raises(ModelError, match="the final norm of LlamaForCausalLM is neither LayerNorm nor RMSNorm"),
    ):
        method(model, corpus(), at="predict", **HOW)


def test_the_residual_before_the_mlp_must_be_there() -> None:
    model = tiny("neox")
    without = {name: hook for name, hook in model.hook_dict.items() if not name.endswith("hook_mlp_out")}
    with (
        patch.object(model, "hook_dict", without),
        pytest.raises(ModelError, match=r"no hook 'blocks\.0\.hook_resid_mid'"),
    ):
        logit_lens.logprob_increase(model, corpus(), at="predict", **HOW)
