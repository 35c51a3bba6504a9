"""Integrated gradients against a loop over words, layers and nodes, and what they must add up to."""

import copy
from pathlib import Path
from typing import Any

import demo
import numpy as np
import pytest
import torch
from checkpoints import write_gpt2, write_llama, write_neox
from hypothesis import given
from hypothesis import strategies as st
from test_attribution import build_corpus, by_tag, close

import posneurons as pn
from posneurons import models
from posneurons.attribution import Scene, scenes
from posneurons.errors import PosNeuronsError
from posneurons.integrated import integrated_gradients
from posneurons.locality import can_be_local
from posneurons.path_runs import attributions
from posneurons.path_sums import ENOUGH, MOST, Integral, path_sums, planned
from posneurons.quadrature import Completeness, nodes
from posneurons.records import Corpus

Places = list[tuple[float, float]]
EVERYWHERE = float("inf")
"""The balance of nodes that lie evenly."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    writers = {"gpt2": write_gpt2, "neox": write_neox, "llama": write_llama}
    folders = {name: write(tmp_path_factory.mktemp(name)) for name, write in writers.items()}
    bridge = pn.load_model(folders["llama"], device="cpu", backend="bridge")
    return {name: pn.load_model(folder, device="cpu") for name, folder in folders.items()} | {"bridge": bridge}


def one() -> Corpus:
    """A row of five tokens of the embedded treebank."""
    train = demo.corpus().split("train")
    return train.select(np.arange(train.n_rows) == np.flatnonzero(np.diff(train.row_bounds) == 5)[0])


def value(model: Any, tokens: torch.Tensor, position: int, hooks: list[models.Hook], target: str) -> torch.Tensor:
    """What is attributed, from the model's own logits."""
    with model.hooks(fwd_hooks=hooks):
        logits = model(tokens, return_type="logits")[0, position].float()
    wanted = tokens[0, position + 1]
    if target == "logit":
        return logits[wanted]
    return logits.log_softmax(-1)[wanted] if target == "log_probability" else logits.softmax(-1)[wanted]


def clean_acts(model: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
    acts: list[torch.Tensor] = []
    hooks = [
        (models.post_name(layer), lambda value, hook: acts.append(value.clone()))  # noqa: ARG005
        for layer in range(model.cfg.n_layers)
    ]
    with torch.no_grad():
        models.residual(model, tokens, hooks)
    return acts


def places(steps: int, rule: Any, balance: float = EVERYWHERE) -> Places:
    """Nodes of one word."""
    where, weights = nodes(steps, rule, torch.tensor([balance]))
    return list(zip(where[:, 0].tolist(), weights[:, 0].tolist(), strict=True))


def scaled(points: dict[int, torch.Tensor], position: int) -> list[models.Hook]:
    """Put given activations at one position of some layers, and leave all others as they come."""

    def put(layer: int) -> models.Hook:
        def hook_function(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
            value = value.clone()
            value[0, position] = points[layer]
            return value

        return models.post_name(layer), hook_function

    return [put(layer) for layer in points]


def plain_word(
    model: Any, tokens: torch.Tensor, position: int, group: list[int], path: Places, target: str
) -> tuple[dict[int, torch.Tensor], float]:
    """Attributions of one word to a group of layers, one node at a time; and what they must add up to."""
    acts = {layer: clean_acts(model, tokens)[layer][0, position] for layer in group}
    found = {layer: torch.zeros_like(each) for layer, each in acts.items()}
    for place, weight in path:
        points = {layer: (each * place).requires_grad_() for layer, each in acts.items()}
        reached = value(model, tokens, position, scaled(points, position), target)
        for layer, slope in zip(group, torch.autograd.grad(reached, list(points.values())), strict=True):
            found[layer] += weight * slope * acts[layer]
    with torch.no_grad():
        nothing = scaled({layer: torch.zeros_like(each) for layer, each in acts.items()}, position)
        whole, without = (value(model, tokens, position, hooks, target) for hooks in ([], nothing))
    return found, float(whole - without)


def the_scene(corpus: Corpus) -> Scene:
    """All rows as one batch."""
    (scene,) = scenes(corpus, "predict", "cpu", tokens=100_000, progress=False, label="")
    return scene


def package(model: Any, scene: Scene, **how: Any) -> tuple[torch.Tensor, Completeness]:
    """[word layer neuron]."""
    seen = Completeness()
    options = {"steps": 3, "rule": "midpoint", "target": "log_probability", "path": "layer"} | how
    options.setdefault("local", can_be_local(model))
    counts = {group[0]: options["steps"] for group in groups(model, options["path"])}
    found = dict(attributions(model, scene, seen=seen, **options | {"steps": counts}))
    return torch.stack([found[layer] for layer in range(len(found))], dim=1), seen


def groups(model: Any, path: str) -> list[list[int]]:
    layers = list(range(model.cfg.n_layers))
    return [layers] if path == "joint" else [[layer] for layer in layers]


def plain(
    model: Any,
    scene: Scene,
    corpus: Corpus,
    path: str,
    steps: int,
    rule: str,
    target: str = "log_probability",
) -> torch.Tensor:
    """[word layer neuron]."""
    words, balance = [], balances(model, scene)
    for number, (row, where) in enumerate(zip(scene.rows.tolist(), scene.where.tolist(), strict=True)):
        tokens, position = torch.from_numpy(corpus.row_tokens(row))[None], where % scene.batch.tokens.shape[1]
        each: dict[int, torch.Tensor] = {}
        for group in groups(model, path):
            mine = places(steps, rule, float(balance[group[0], number]))
            each |= plain_word(model, tokens, position, group, mine, target)[0]
        words.append(torch.stack([each[layer] for layer in range(len(each))]))
    return torch.stack(words)


def agree(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-4 of each layer's largest attribution."""
    for layer in range(found.shape[1]):
        close(found[:, layer].numpy(), expected[:, layer].numpy(), 1e-4)


@pytest.mark.parametrize("path", ["layer", "joint"])
@pytest.mark.parametrize("rule", ["left", "right", "midpoint"])
@pytest.mark.parametrize("target", ["log_probability", "probability", "logit"])
def test_every_rule_and_target_equals_a_loop(path: Any, rule: Any, target: Any, tiny: dict[str, Any]) -> None:
    model, corpus = tiny["llama"], build_corpus((5, 3))
    scene = the_scene(corpus)
    found, _ = package(model, scene, path=path, rule=rule, target=target)
    agree(found, plain(model, scene, corpus, path, 3, rule, target))


@torch.no_grad()
def balances(model: Any, scene: Scene) -> torch.Tensor:
    """Size of the stream without what the MLP writes over the size of that: [layer word]."""
    _, cache = model.run_with_cache(scene.batch.tokens)
    found = []
    for layer in range(model.cfg.n_layers):
        after, written = (
            cache[f"blocks.{layer}.hook_{name}"].flatten(0, 1)[scene.where] for name in ("resid_post", "mlp_out")
        )
        found.append((after - written).norm(dim=1) / written.norm(dim=1))
    return torch.stack(found)


@pytest.mark.parametrize("path", ["layer", "joint"])
@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
def test_gauss_legendre_equals_a_loop_with_its_nodes(path: Any, name: str, tiny: dict[str, Any]) -> None:
    model, corpus = tiny[name], build_corpus((5, 3))
    scene = the_scene(corpus)
    found, _ = package(model, scene, path=path, rule="gauss_legendre", steps=4)
    agree(found, plain(model, scene, corpus, path, 4, "gauss_legendre"))


def test_the_embedded_model_equals_a_loop() -> None:
    model, corpus = demo.model(), one()
    scene = the_scene(corpus)
    found, _ = package(model, scene, steps=2)
    agree(found, plain(model, scene, corpus, "layer", 2, "midpoint"))


@pytest.mark.parametrize("path", ["layer", "joint"])
def test_one_position_at_a_time_gives_the_same(path: Any, tiny: dict[str, Any]) -> None:
    scene = the_scene(build_corpus((5, 3, 4)))
    fast, seen = package(tiny["llama"], scene, path=path, rule="gauss_legendre")
    for model in (tiny["llama"], tiny["bridge"]):
        slow, also = package(model, scene, path=path, rule="gauss_legendre", local=False)
        agree(slow, fast)
        assert also.error() == pytest.approx(seen.error(), rel=1e-2, abs=1e-5)


def test_words_are_gathered_by_tag(tiny: dict[str, Any]) -> None:
    model, corpus = tiny["llama"], build_corpus()
    scene = the_scene(corpus)
    found, seen = package(model, scene, rule="midpoint", steps=24)
    scored = integrated_gradients(model, corpus, contrast=False, rule="midpoint", steps=24)
    close(scored.scores, by_tag(corpus, scene.words.tolist(), found))
    assert scored.notes["completeness_error"] == pytest.approx(seen.error())
    np.testing.assert_array_equal(scored.count, np.bincount(corpus.word_tag[scene.words], minlength=4))
    batched = integrated_gradients(model, corpus, contrast=False, rule="midpoint", steps=24, tokens=9)
    close(batched.scores, scored.scores, 1e-4)
    assert integrated_gradients(model, corpus, at="last", rule="midpoint", steps=24).count.sum() < len(corpus)


@pytest.mark.parametrize("method", ["integrated_gradients:steps=2", "key_neuron_rule:steps=2"])
def test_a_batch_of_any_size_gives_the_same_scores(method: str, tmp_path: Path) -> None:
    """The number of nodes of a layer, and where they lie, do not depend on the words beside a word."""
    model, corpus = pn.load_model(write_llama(tmp_path), device="cpu"), build_corpus((5, 3, 4, 6, 2, 7, 5, 3))
    model.blocks[0].mlp.W_out.data.mul_(100)
    counts = planned(model, corpus, integral(steps=2))
    assert counts[0] > counts[1] == 2
    small, large = (pn.rank(model, corpus, method, tokens=each) for each in (8, 4096))
    close(small.scores, large.scores, 1e-4)


@given(st.integers(1, 40), st.sampled_from(["left", "right", "midpoint", "gauss_legendre"]), st.floats(1e-4, 1e4))
def test_weights_add_up_to_one_and_places_ascend_inside(steps: int, rule: Any, balance: float) -> None:
    where, weights = zip(*places(steps, rule, balance), strict=True)
    assert len(where) == steps
    assert sum(weights) == pytest.approx(1)
    assert min(weights) > 0
    assert where[0] >= 0
    assert where[-1] <= 1
    assert np.all(np.diff(where) > 0)


@given(st.integers(1, 6), st.lists(st.floats(-3, 3), min_size=1, max_size=12))
def test_gauss_legendre_integrates_polynomials_exactly(steps: int, coefficients: list[float]) -> None:
    polynomial = np.polynomial.Polynomial(coefficients[: 2 * steps])  # exact up to degree 2 * steps - 1
    found = sum(weight * polynomial(place) for place, weight in places(steps, "gauss_legendre"))
    assert found == pytest.approx(polynomial.integ()(1), abs=1e-4)


def test_nodes_by_hand() -> None:
    assert places(2, "left") == [(0.0, 0.5), (0.5, 0.5)]
    assert places(2, "right") == [(0.5, 0.5), (1.0, 0.5)]
    ((place, weight),) = places(1, "gauss_legendre")
    assert (place, weight) == (pytest.approx(0.5), pytest.approx(1))
    # With balance 1 the node at u = 1/2 lies where the layer holds half of the sum: s / (s + 1) = 1/2 of s = 1's share
    # 1/2, so s / (s + 1) = 1/4 and s = 1/3, which is balance u / (1 + balance - u) = 0.5 / 1.5.
    ((place, _),) = places(1, "gauss_legendre", 1.0)
    assert place == pytest.approx(1 / 3)


@given(st.floats(0.01, 100))
def test_nodes_lie_evenly_in_the_share_of_the_sum(balance: float) -> None:
    where = np.array([place for place, _ in places(6, "gauss_legendre", balance)])
    even = np.array([place for place, _ in places(6, "gauss_legendre")])
    share = where / (where + balance)
    np.testing.assert_allclose(share * (1 + balance), even, rtol=1e-5)


def test_a_layer_that_writes_far_more_than_there_was_needs_the_balance() -> None:
    """The first layer of the embedded model does; evenly spaced nodes are too far apart where the stream turns."""
    scene = the_scene(one())
    balance = balances(demo.model(), scene)
    assert balance[0].max() < 0.1 < balance[1:].min()
    assert missed_by(scene, 12, 0, balance[0]) < 0.6 * missed_by(scene, 12, 0, torch.full_like(balance[0], EVERYWHERE))


@pytest.mark.parametrize("path", ["layer", "joint"])
@pytest.mark.parametrize("target", ["log_probability", "probability", "logit"])
def test_attributions_add_up_within_the_reported_error(path: Any, target: Any, tiny: dict[str, Any]) -> None:
    model, corpus = tiny["gpt2"], build_corpus((5, 3))
    scene = the_scene(corpus)
    found, seen = package(model, scene, path=path, target=target, rule="gauss_legendre", steps=8)
    worst = 0.0
    for group in groups(model, path):
        missed, wanted = 0.0, 0.0
        for number, (row, where) in enumerate(zip(scene.rows.tolist(), scene.where.tolist(), strict=True)):
            tokens, position = torch.from_numpy(corpus.row_tokens(row))[None], where % scene.batch.tokens.shape[1]
            _, difference = plain_word(model, tokens, position, group, [(1.0, 1.0)], target)
            missed += abs(float(found[number, group].sum()) - difference)
            wanted += abs(difference)
        worst = max(worst, missed / wanted)
    assert seen.error() == pytest.approx(worst, rel=0.05, abs=1e-4)
    assert worst < 0.05


def test_an_attribution_of_a_logit_that_is_linear_is_exact(tiny: dict[str, Any]) -> None:
    """With the final norm's scale held the last layer writes to the logit linearly: one node of any rule will do."""
    model, scene = tiny["llama"], the_scene(build_corpus((5, 3)))
    scales = torch.full((1,), 2.0)
    with model.hooks(fwd_hooks=[("ln_final.hook_scale", lambda value, hook: scales.expand_as(value))]):  # noqa: ARG005
        _, seen = package(model, scene, rule="left", steps=1, target="logit")
        found, _ = package(model, scene, rule="right", steps=1, target="logit")
    assert seen.missed[1] < 1e-5 * seen.wanted[1]
    assert seen.missed[0] > 1e-2 * seen.wanted[0]
    acts = clean_acts(model, scene.batch.tokens)[1].flatten(0, 1)[scene.where]
    direction = (model.ln_final.w / 2)[:, None] * model.W_U
    by_hand = acts * (model.blocks[1].mlp.W_out @ direction)[:, scene.targets].T
    torch.testing.assert_close(found[:, 1], by_hand, atol=1e-5, rtol=1e-4)


def test_a_miss_of_more_than_a_twentieth_is_an_error() -> None:
    wanted = (
        r"^integrated gradients: attributions miss the difference they must add up to by \d+\.\d%; "
        r"expected at most 5%: take more steps, rule=gauss_legendre, or a model in float32$"
    )
    with pytest.raises(PosNeuronsError, match=wanted):
        integrated_gradients(demo.model(), one(), rule="right", steps=2)
    fine = integrated_gradients(demo.model(), one())
    assert 0 < float(fine.notes["completeness_error"]) <= 0.05


def test_completeness_by_hand() -> None:
    seen = Completeness()
    assert np.isnan(seen.error())
    seen.check()  # nothing was seen, nothing was missed
    seen.add(0, 0.1, 10.0, 0.0)
    seen.add(1, 0.3, 10.0, 0.1)
    seen.add(1, 0.3, 10.0, 0.1)
    seen.add(2, 0.0, 0.0, 0.0)  # nothing to add up to
    seen.add(3, 0.5, 2.0, 0.5)  # of which rounding is too large a part
    assert [seen.of(layer) for layer in range(4)] == [pytest.approx(0.01), pytest.approx(0.02), 0, 0]
    assert seen.error() == pytest.approx(0.02)
    seen.check()
    lost = Completeness()
    lost.add(0, float("nan"), 1.0, 0.0)
    lost.add(1, 0.0, 1.0, 0.0)
    with pytest.raises(PosNeuronsError, match=r"by inf%; expected at most 5%"):
        lost.check()
    seen.add(0, 0.95, 0.0, 0.0)
    with pytest.raises(PosNeuronsError, match=r"by 10\.5%; expected at most 5%"):
        seen.check()


def integral(**other: Any) -> Integral:
    how = {"steps": 1, "rule": "gauss_legendre", "target": "log_probability", "path": "layer", "seed": 0}
    return Integral(**{"at": "predict", "tokens": 2048} | how | other)


def test_nodes_are_doubled_for_the_layers_that_need_it_and_only_for_them() -> None:
    scene = the_scene(one())  # so few words that the pilot is all of them
    counts = planned(demo.model(), one(), integral())
    assert list(counts) == list(range(6))
    assert 1 in counts.values()
    assert max(counts.values()) > 1
    assert all(count & (count - 1) == 0 and count <= MOST for count in counts.values())
    balance = balances(demo.model(), scene)
    for layer, count in counts.items():  # half as many would not have been enough
        assert count == MOST or missed_by(scene, count, layer, balance[layer]) <= ENOUGH
        assert count == 1 or missed_by(scene, count // 2, layer, balance[layer]) > ENOUGH
    assert set(planned(demo.model(), one(), integral(rule="midpoint")).values()) == {1}
    assert list(planned(demo.model(), one(), integral(path="joint"))) == [0]


def missed_by(scene: Scene, steps: int, layer: int, balance: torch.Tensor) -> float:
    """Share of the difference that a layer of the embedded model misses with so many nodes, placed by the balance."""
    model = demo.model()
    width, missed, wanted = scene.batch.tokens.shape[1], 0.0, 0.0
    slots = np.searchsorted(scene.batch.rows, scene.rows)
    for slot, where, mine in zip(slots, scene.where.tolist(), balance.tolist(), strict=True):
        tokens, path = scene.batch.tokens[slot : slot + 1], places(steps, "gauss_legendre", mine)
        found, difference = plain_word(model, tokens, where % width, [layer], path, "log_probability")
        missed += abs(float(found[layer].sum()) - difference)
        wanted += abs(difference)
    return missed / wanted


def test_a_corpus_without_a_word_that_predicts_gives_sums_of_nothing() -> None:
    """The only word of a row of one has no token after it."""
    tree = build_corpus((1,))
    found = path_sums(demo.model(), tree, integral(at="last"), progress=False)
    assert found.seen.words == 0
    assert np.isnan(found.state.mean().scores).all()


def test_a_layer_that_does_next_to_nothing_is_no_error() -> None:
    model = copy.deepcopy(demo.model())
    model.blocks[3].mlp.W_out.data.mul_(1e-6)
    seen = Completeness()
    how: Any = {"rule": "midpoint", "target": "log_probability", "path": "layer", "local": True}
    list(attributions(model, the_scene(one()), dict.fromkeys(range(6), 1), seen=seen, **how))
    assert seen.of(0) > 0.05
    assert seen.of(3) == 0


def test_a_long_run_that_cannot_end_well_ends_early() -> None:
    seen = Completeness(missed={0: 1.0}, wanted={0: 2.0}, rounding={0: 0.0}, words=499)
    seen.check(500)
    seen.words = 500
    with pytest.raises(PosNeuronsError, match=r"miss the difference they must add up to by 50.0%"):
        seen.check(500)
