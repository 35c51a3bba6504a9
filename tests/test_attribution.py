"""Attribution patching against plain loops of autograd, and against exact differences of loss."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import demo
import numpy as np
import pytest
import torch
from checkpoints import write_gpt2, write_llama, write_neox
from hypothesis import given, settings
from hypothesis import strategies as st

import posneurons as pn
from posneurons import attribution as attribution_module
from posneurons import models
from posneurons.activations import token_means
from posneurons.attribution import attribution, relp, scenes
from posneurons.effects import EffectAccumulator
from posneurons.methods import METHODS, parse
from posneurons.records import Corpus, Ranking

WRITERS: dict[str, Callable[..., Path]] = {"gpt2": write_gpt2, "neox": write_neox, "llama": write_llama}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Models of two layers and three architectures, one of them by the Bridge, and one that cannot be hooked."""
    folders = {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}
    bridge, odd = (pn.load_model(folders["llama"], device="cpu", backend="bridge") for _ in range(2))
    odd.blocks[1].attn.original_component.attn_logit_softcapping = 0.7  # a cap that the hooks do not know of
    models = {name: pn.load_model(folder, device="cpu") for name, folder in folders.items()}
    return models | {"bridge": bridge, "odd": odd}


def build_corpus(lengths: tuple[int, ...] = (6, 9, 4, 7), seed: int = 0, vocabulary: int = 400) -> Corpus:
    """Rows of random tokens, cut into words of one or two tokens with three tags; "D" has no words."""
    rng = np.random.default_rng(seed)
    row, first, last = [], [], []
    for number, length in enumerate(lengths):
        at = 1
        while at <= length:
            stop = min(length, at + int(rng.integers(0, 2)))
            row, first, last, at = [*row, number], [*first, at], [*last, stop], stop + 1
    rows = np.arange(len(lengths))
    return Corpus(
        name="random",
        tagset="upos",
        tags=("A", "B", "C", "D"),
        split_names=("train",),
        bos=0,
        tokens=rng.integers(2, vocabulary, sum(lengths)),
        row_bounds=np.concatenate([[0], np.cumsum(lengths)]),
        row_document=rows,
        row_split=np.zeros_like(rows),
        word_row=np.array(row),
        word_first=np.array(first),
        word_last=np.array(last),
        word_tag=rng.permutation(np.arange(len(row)) % 3),
        word_form=np.array(["w"] * len(row)),
        word_sentence=np.array(row),
        word_frequency=np.ones(len(row), dtype=np.int64),
        word_parts=np.ones(len(row), dtype=np.int64),
        dropped={},
        split_sentences=0,
        marked_documents=False,
    )


def few() -> Corpus:
    """Three short rows of the embedded treebank."""
    train = demo.corpus().split("train")
    return train.select(np.isin(np.arange(train.n_rows), np.argsort(np.diff(train.row_bounds), kind="stable")[40:43]))


def plain_run(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Next-token losses [pos - 1] of one row by its full logits, and every layer's activations, in one graph."""
    acts: list[torch.Tensor] = []

    def keep(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        acts.append(value if value.requires_grad else value.detach().requires_grad_())
        return acts[-1]

    hooks = [(models.post_name(layer), keep) for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=hooks):
        logits = model(tokens, return_type="logits")[0].float()
    return -logits[:-1].log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0], acts


def words_of(corpus: Corpus, row: int, at: Any) -> list[int]:
    """Words of a row that have a position after BOS and a token after that position."""
    length, position = int(np.diff(corpus.row_bounds)[row]) + 1, corpus.positions(at)
    return [int(word) for word in np.flatnonzero(corpus.word_row == row) if 0 < position[word] < length - 1]


def plain_local(model: Any, corpus: Corpus, at: Any = "predict") -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Words row by row, activation and derivative of the loss at the very position of each [word layer neuron]."""
    words, values, slopes = [], [], []
    for row in range(corpus.n_rows):
        losses, acts = plain_run(model, torch.from_numpy(corpus.row_tokens(row))[None])
        for word in words_of(corpus, row, at):
            position = int(corpus.positions(at)[word])
            found = torch.autograd.grad(losses[position], acts, retain_graph=True)
            words.append(word)
            values.append(torch.stack([each[0, position].detach() for each in acts]))
            slopes.append(torch.stack([each[0, position] for each in found]))
    return words, torch.stack(values), torch.stack(slopes)


def by_tag(corpus: Corpus, words: list[int], effects: torch.Tensor) -> np.ndarray:
    """Mean effect [tag layer neuron], NaN for a tag without words."""
    tags, table = corpus.word_tag[words], effects.double().numpy()
    missing = np.full(table.shape[1:], np.nan)
    return np.stack([table[tags == tag].mean(0) if (tags == tag).any() else missing for tag in range(len(corpus.tags))])


def close(found: np.ndarray, expected: np.ndarray, share: float = 1e-5) -> None:
    np.testing.assert_allclose(found, expected, rtol=share, atol=share * float(np.nanmax(np.abs(expected))))


MODELS = ["demo", "gpt2", "neox", "llama", "bridge", "odd"]


def the(name: str, tiny: dict[str, Any]) -> tuple[Any, Corpus]:
    return (demo.model(), few()) if name == "demo" else (tiny[name], build_corpus())


@pytest.mark.parametrize("name", MODELS)
def test_local_effects_from_zero_equal_a_loop_over_words(name: str, tiny: dict[str, Any]) -> None:
    model, corpus = the(name, tiny)
    words, values, slopes = plain_local(model, corpus)
    found = attribution(model, corpus, contrast=False, tokens=30)
    close(found.scores, by_tag(corpus, words, -values * slopes))
    np.testing.assert_array_equal(found.count, np.bincount(corpus.word_tag[words], minlength=len(corpus.tags)))
    assert found.notes.get("way") == ("one position at a time" if name == "odd" else None)


def test_local_effects_from_the_mean_equal_a_loop_over_words() -> None:
    corpus = few()
    words, values, slopes = plain_local(demo.model(), corpus)
    found = attribution(demo.model(), corpus, contrast=False, baseline="mean")
    close(found.scores, by_tag(corpus, words, (token_means(demo.model(), corpus) - values) * slopes))


def test_local_effects_from_donors_equal_a_loop_over_words(tiny: dict[str, Any]) -> None:
    """There are fewer words than donors, so that the donors are all words, in their order."""
    model, corpus = tiny["llama"], build_corpus()
    words, values, slopes = plain_local(model, corpus)
    rng = np.random.default_rng(5)
    rng.choice(len(words), len(words), replace=False)
    where = corpus.row_bounds[corpus.word_row[words]] + corpus.positions("predict")[words] - 1
    choice = torch.from_numpy(rng.integers(len(words), size=len(corpus.tokens))[where])
    by_place = values[torch.from_numpy(np.argsort(where))]
    found = attribution(model, corpus, contrast=False, baseline="donor", seed=5)
    close(found.scores, by_tag(corpus, words, (by_place[choice] - values) * slopes))
    other = attribution(model, corpus, contrast=False, baseline="donor", seed=6)
    assert not np.allclose(found.scores[:3], other.scores[:3])


def test_the_contrast_is_that_of_the_effects(tiny: dict[str, Any]) -> None:
    model, corpus = tiny["llama"], build_corpus()
    words, values, slopes = plain_local(model, corpus)
    tags, rows = torch.from_numpy(corpus.word_tag[words]), torch.from_numpy(corpus.word_row[words])
    state = EffectAccumulator(4, 2, 48)
    for layer in range(2):
        state.update(layer, tags, rows, (-values * slopes)[:, layer])
    np.testing.assert_allclose(
        attribution(model, corpus, tokens=15).scores, state.contrast().scores, rtol=2e-3, atol=1e-3
    )


@pytest.mark.parametrize("at", ["first", "last"])
def test_the_last_word_of_a_row_has_no_next_token(at: Any, tiny: dict[str, Any]) -> None:
    model, corpus = tiny["gpt2"], build_corpus()
    words, values, slopes = plain_local(model, corpus, at)
    found = attribution(model, corpus, at=at, contrast=False)
    close(found.scores, by_tag(corpus, words, -values * slopes))
    ends = corpus.row_bounds[1:] - corpus.row_bounds[:-1]
    reads_the_end = corpus.positions(at) == ends[corpus.word_row]
    assert found.count.sum() == (~reads_the_end).sum() == len(words) < len(corpus)


@pytest.mark.parametrize("baseline", ["zero", "mean", "donor"])
@pytest.mark.parametrize("frozen", [False, True])
def test_one_position_at_a_time_gives_the_same(
    baseline: Any, frozen: bool, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, corpus, how = tiny["llama"], build_corpus(), {"contrast": False, "baseline": baseline, "seed": 2}
    fast = attribution(model, corpus, **how), relp(model, corpus, frozen_patterns=frozen, **how)
    monkeypatch.setattr(attribution_module, "can_be_local", lambda model: False)  # noqa: ARG005
    slow = attribution(model, corpus, **how), relp(model, corpus, frozen_patterns=frozen, **how)
    for quick, exact in zip(fast, slow, strict=True):
        close(quick.scores, exact.scores, 1e-4)
        assert quick.notes == {}
        assert exact.notes == {"way": "one position at a time"}


def plain_all(model: Any, corpus: Corpus, change: Callable[[int, torch.Tensor], torch.Tensor]) -> np.ndarray:
    """Mean effect on the words of each tag of all positions after BOS, a backward pass per row and tag."""
    n_tags = len(corpus.tags)
    totals, counts = np.zeros((n_tags, model.cfg.n_layers, model.cfg.d_mlp)), np.zeros(n_tags)
    for row in range(corpus.n_rows):
        losses, acts = plain_run(model, torch.from_numpy(corpus.row_tokens(row))[None])
        for tag in range(n_tags):
            positions = [
                int(corpus.word_first[w]) - 1 for w in words_of(corpus, row, "predict") if corpus.word_tag[w] == tag
            ]
            if positions:
                slopes = torch.autograd.grad(losses[positions].sum(), acts, retain_graph=True)
                for layer, (value, slope) in enumerate(zip(acts, slopes, strict=True)):
                    effect = change(layer, value.detach()[0]) * slope[0]
                    totals[tag, layer] += effect[1:].double().sum(0).numpy()
                counts[tag] += len(positions)
    with np.errstate(invalid="ignore"):
        return totals / counts[:, None, None]


@pytest.mark.parametrize("name", ["demo", "neox", "bridge"])
@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_effects_of_all_positions_equal_a_loop_over_rows_and_tags(
    name: str, baseline: Any, tiny: dict[str, Any]
) -> None:
    model, corpus = the(name, tiny)
    means = token_means(model, corpus) * (baseline == "mean")
    expected = plain_all(model, corpus, lambda layer, values: means[layer] - values)
    found = attribution(model, corpus, scope="all", contrast=False, baseline=baseline, tokens=30)
    close(found.scores, expected, 3e-5)
    assert found.notes == {}


def test_donors_of_all_positions_are_positions_after_bos(tiny: dict[str, Any]) -> None:
    """With one row they are all of its positions."""
    model, corpus = tiny["llama"], build_corpus((12,))
    rng = np.random.default_rng(3)
    rng.choice(12, 12, replace=False)
    donors = torch.from_numpy(rng.integers(12, size=12))
    expected = plain_all(
        model,
        corpus,
        lambda layer, values: torch.cat([values[:1], values[1:][donors]]) - values,  # noqa: ARG005
    )
    found = attribution(model, corpus, scope="all", contrast=False, baseline="donor", seed=3)
    close(found.scores, expected)


def test_scopes_agree_in_the_last_layer_only(tiny: dict[str, Any]) -> None:
    """What the last layer writes is read at its own position and nowhere else."""
    model, corpus = tiny["llama"], build_corpus()
    local, everywhere = (attribution(model, corpus, scope=scope, contrast=False).scores for scope in ("local", "all"))
    close(everywhere[:, 1], local[:, 1])
    assert np.nanmax(np.abs(everywhere[:, 0] - local[:, 0])) > 0.01 * np.nanmax(np.abs(local[:, 0]))


@pytest.mark.parametrize("scope", ["local", "all"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_tiny_change_does_to_the_loss_what_is_estimated(
    scope: Any, layer: int, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neurons go a small step towards a far baseline, one neuron at a time, and all words are measured anew."""
    model, corpus, step = tiny["llama"], build_corpus(), 0.01
    target = torch.full((2, 48), 2.0)
    monkeypatch.setattr(attribution_module, "token_means", lambda *args, **options: target)  # noqa: ARG005
    estimate = attribution(model, corpus, scope=scope, contrast=False, baseline="mean").scores[:3, layer]

    def mean_losses(unit: int, sign: float) -> np.ndarray:
        def nudge(value: torch.Tensor, hook: Any, positions: slice) -> torch.Tensor:  # noqa: ARG001
            value = value.clone()
            value[:, positions, unit] += sign * step * (2.0 - value[:, positions, unit])
            return value

        losses: dict[int, list[float]] = {0: [], 1: [], 2: []}
        for row in range(corpus.n_rows):
            tokens = torch.from_numpy(corpus.row_tokens(row))[None]
            for word in words_of(corpus, row, "predict"):
                at = int(corpus.word_first[word]) - 1
                here = slice(at, at + 1) if scope == "local" else slice(1, None)
                hook = (models.post_name(layer), lambda value, hook, here=here: nudge(value, hook, here))
                rows = models.residual(model, tokens, [hook])[0, at : at + 1]
                loss = models.cross_entropy(model, rows, tokens[0, at + 1 : at + 2])
                losses[int(corpus.word_tag[word])].append(loss.item())
        return np.array([np.mean(each) for each in losses.values()])

    units = np.abs(estimate).max(0).argsort()[-3:]
    with torch.no_grad():
        exact = np.stack([(mean_losses(int(u), 1) - mean_losses(int(u), -1)) / (2 * step) for u in units], axis=1)
    np.testing.assert_allclose(exact, estimate[:, units], rtol=0.02, atol=0.02 * np.abs(exact).max())
    assert np.abs(exact).max() > 0.01


@settings(max_examples=10, deadline=None)
@given(tokens=st.integers(1, 80), seed=st.integers(0, 99), scope=st.sampled_from(["local", "all"]))
def test_neither_the_size_of_batches_nor_the_order_of_rows_matters(
    tokens: int, seed: int, scope: Any, tiny: dict[str, Any]
) -> None:
    model, corpus = tiny["llama"], build_corpus((5, 8, 5, 3, 8))
    whole = attribution(model, corpus, scope=scope, contrast=False)
    part = attribution(
        model, reordered(corpus, np.random.default_rng(seed).permutation(5)), scope=scope, contrast=False, tokens=tokens
    )
    close(part.scores, whole.scores, 1e-4)
    np.testing.assert_array_equal(part.count, whole.count)


def reordered(corpus: Corpus, order: np.ndarray) -> Corpus:
    """The same rows in another order."""
    parts = [corpus.select(np.arange(corpus.n_rows) == row) for row in order]
    return replace(
        corpus,
        tokens=np.concatenate([part.tokens for part in parts]),
        row_bounds=np.concatenate([[0], np.cumsum([len(part.tokens) for part in parts])]),
        word_row=np.concatenate([np.full(len(part), slot) for slot, part in enumerate(parts)]),
        **{
            key: np.concatenate([getattr(part, key) for part in parts])
            for key in ("word_first", "word_last", "word_tag")
        },
    )


def test_scenes_hold_every_readable_word_once() -> None:
    corpus = build_corpus()
    seen = []
    for scene in scenes(corpus, "predict", "cpu", tokens=20, progress=False, label="words"):
        width = scene.batch.tokens.shape[1]
        assert scene.where.shape == scene.targets.shape == scene.tags.shape == scene.rows.shape
        for word, where, target in zip(scene.words.tolist(), scene.where.tolist(), scene.targets.tolist(), strict=True):
            row, position = scene.batch.rows[where // width], where % width
            assert (row, position) == (corpus.word_row[word], corpus.word_first[word] - 1)
            assert target == corpus.row_tokens(row)[position + 1]
        seen += scene.words.tolist()
    assert sorted(seen) == corpus.readable("predict").tolist()


GRADIENTS = [
    "attribution",
    "attribution:scope=all",
    "attribution:baseline=donor,contrast=no",
    "attribution:baseline=mean,scope=all",
    "relp",
    "relp:frozen_patterns=yes,scope=all",
    "integrated_gradients",
    "integrated_gradients:path=joint",
    "integrated_gradients:target=probability,rule=midpoint,steps=10",
    "key_neuron_rule",
    "key_neuron_rule:per=model,contrast=yes",
]


@pytest.mark.parametrize("method", GRADIENTS)
@pytest.mark.parametrize("name", ["gpt2", "neox", "bridge", "odd"])
def test_every_gradient_method_ranks_or_says_in_one_line_why_not(name: str, method: str, tiny: dict[str, Any]) -> None:
    model, corpus = tiny[name], build_corpus((4, 6, 5))
    ranking = pn.rank(model, corpus, method)
    assert isinstance(ranking, Ranking)
    assert ranking.method == str(parse(method))
    assert ranking.scores.shape == (4, model.cfg.n_layers, model.cfg.d_mlp)
    assert np.isfinite(ranking.scores[:3]).mean() > 0.9
    assert np.isnan(ranking.scores[3]).all()
    assert set(ranking.top(3)) == {"A", "B", "C"}


def test_every_gradient_method_was_tried() -> None:
    tried = {method.partition(":")[0] for method in GRADIENTS}
    assert tried <= set(METHODS)
    assert tried == {"attribution", "relp", "integrated_gradients", "key_neuron_rule"}
