"""Integrated gradients against a loop over words, layers and nodes, and what they must add up to."""

import copy
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
from posneurons.integrated import attributions, integrated_gradients
from posneurons.locality import can_be_local
from posneurons.quadrature import REFINED, Completeness, nodes
from posneurons.records import Corpus

Places = list[tuple[float, float]]


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
    found = dict(attributions(model, scene, seen=seen, **options))
    return torch.stack([found[layer] for layer in range(len(found))], dim=1), seen


def groups(model: Any, path: str) -> list[list[int]]:
    layers = list(range(model.cfg.n_layers))
    return [layers] if path == "joint" else [[layer] for layer in layers]


def plain(
    model: Any, scene: Scene, corpus: Corpus, path: str, paths: list[Places], target: str = "log_probability"
) -> torch.Tensor:
    """[word layer neuron], with the nodes of each group of layers."""
    words = []
    for row, where in zip(scene.rows.tolist(), scene.where.tolist(), strict=True):
        tokens, position = torch.from_numpy(corpus.row_tokens(row))[None], where % scene.batch.tokens.shape[1]
        each: dict[int, torch.Tensor] = {}
        for group, places in zip(groups(model, path), paths, strict=True):
            each |= plain_word(model, tokens, position, group, places, target)[0]
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
    agree(found, plain(model, scene, corpus, path, [nodes(3, rule)] * len(groups(model, path)), target))


@torch.no_grad()
def balances(model: Any, scene: Scene) -> list[float]:
    """Per layer the size of the stream without what the MLP writes over the size of that, medians over the words."""
    _, cache = model.run_with_cache(scene.batch.tokens)
    found = []
    for layer in range(model.cfg.n_layers):
        after, written = (
            cache[f"blocks.{layer}.hook_{name}"].flatten(0, 1)[scene.where] for name in ("resid_post", "mlp_out")
        )
        found.append(float((after - written).norm(dim=1).median() / written.norm(dim=1).median()))
    return found


@pytest.mark.parametrize("path", ["layer", "joint"])
@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
def test_gauss_legendre_equals_a_loop_with_its_nodes(path: Any, name: str, tiny: dict[str, Any]) -> None:
    model, corpus = tiny[name], build_corpus((5, 3))
    scene = the_scene(corpus)
    found, seen = package(model, scene, path=path, rule="gauss_legendre", steps=4)
    paths = [
        nodes(seen.steps[group[0]], "gauss_legendre", balances(model, scene)[group[0]]) for group in groups(model, path)
    ]
    agree(found, plain(model, scene, corpus, path, paths))


def test_the_embedded_model_equals_a_loop() -> None:
    model, corpus = demo.model(), one()
    scene = the_scene(corpus)
    found, _ = package(model, scene, steps=2)
    agree(found, plain(model, scene, corpus, "layer", [nodes(2, "midpoint")] * 6))


@pytest.mark.parametrize("path", ["layer", "joint"])
def test_one_position_at_a_time_gives_the_same(path: Any, tiny: dict[str, Any]) -> None:
    scene = the_scene(build_corpus((5, 3, 4)))
    fast, seen = package(tiny["llama"], scene, path=path, rule="gauss_legendre")
    for model in (tiny["llama"], tiny["bridge"]):
        slow, also = package(model, scene, path=path, rule="gauss_legendre", local=False)
        agree(slow, fast)
        assert also.steps == seen.steps
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


@given(st.integers(1, 40), st.sampled_from(["left", "right", "midpoint", "gauss_legendre"]), st.floats(1e-4, 1e4))
def test_weights_add_up_to_one_and_places_ascend_inside(steps: int, rule: Any, balance: float) -> None:
    places, weights = zip(*nodes(steps, rule, balance), strict=True)
    assert len(places) == steps
    assert sum(weights) == pytest.approx(1)
    assert min(weights) > 0
    assert places[0] >= 0
    assert places[-1] <= 1
    assert np.all(np.diff(places) > 0)


@given(st.integers(1, 6), st.lists(st.floats(-3, 3), min_size=1, max_size=12))
def test_gauss_legendre_integrates_polynomials_exactly(steps: int, coefficients: list[float]) -> None:
    polynomial = np.polynomial.Polynomial(coefficients[: 2 * steps])  # exact up to degree 2 * steps - 1
    found = sum(weight * polynomial(place) for place, weight in nodes(steps, "gauss_legendre"))
    assert found == pytest.approx(polynomial.integ()(1), abs=1e-10)


def test_nodes_by_hand() -> None:
    assert nodes(2, "left") == [(0.0, 0.5), (0.5, 0.5)]
    assert nodes(2, "right") == [(0.5, 0.5), (1.0, 0.5)]
    ((place, weight),) = nodes(1, "gauss_legendre")
    assert (place, weight) == (pytest.approx(0.5), pytest.approx(1))
    # With balance 1 the node at u = 1/2 lies where the layer holds half of the sum: s / (s + 1) = 1/2 of s = 1's share
    # 1/2, so s / (s + 1) = 1/4 and s = 1/3, which is balance u / (1 + balance - u) = 0.5 / 1.5.
    ((place, _),) = nodes(1, "gauss_legendre", 1.0)
    assert place == pytest.approx(1 / 3)


@given(st.floats(0.01, 100))
def test_nodes_lie_evenly_in_the_share_of_the_sum(balance: float) -> None:
    places = np.array([place for place, _ in nodes(6, "gauss_legendre", balance)])
    even = np.array([place for place, _ in nodes(6, "gauss_legendre")])
    share = places / (places + balance)
    np.testing.assert_allclose(share * (1 + balance), even, rtol=1e-6)


def test_a_layer_that_writes_far_more_than_there_was_needs_the_balance() -> None:
    """The first layer of the embedded model does; evenly spaced nodes are too far apart where the stream turns."""
    scene = the_scene(one())
    balance = balances(demo.model(), scene)
    assert balance[0] < 0.1 < min(balance[1:])
    assert missed_by(scene, 12, 0, balance[0]) < 0.6 * missed_by(scene, 12, 0, float("inf"))


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
    seen.add(0, 0.1, 10.0)
    seen.add(1, 0.3, 10.0)
    seen.add(1, 0.1, 10.0)
    seen.add(2, 0.0, 0.0)  # nothing to add up to
    assert seen.error() == pytest.approx(0.02)
    seen.check()
    seen.add(0, 0.95, 0.0)
    with pytest.raises(PosNeuronsError, match=r"by 10\.5%; expected at most 5%"):
        seen.check()


def test_nodes_are_doubled_for_the_layers_that_need_it_and_only_for_them() -> None:
    scene = the_scene(one())
    _, seen = package(demo.model(), scene, rule="gauss_legendre", steps=1)
    counts = set(seen.steps.values())
    assert 1 in counts
    assert max(counts) > 1
    assert all(count & (count - 1) == 0 and count <= REFINED for count in counts)
    assert all(seen.missed[layer] <= 0.05 * seen.wanted[layer] or seen.steps[layer] == REFINED for layer in range(6))
    balance = balances(demo.model(), scene)
    for layer, count in seen.steps.items():  # half as many would not have been enough
        assert count == 1 or missed_by(scene, count // 2, layer, balance[layer]) > 0.05
    _, fixed = package(demo.model(), scene, rule="midpoint", steps=1)
    assert set(fixed.steps.values()) == {1}


def missed_by(scene: Scene, steps: int, layer: int, balance: float) -> float:
    """Share of the difference that a layer of the embedded model misses with so many placed nodes and no more."""
    model = demo.model()
    path = nodes(steps, "gauss_legendre", balance)
    width, missed, wanted = scene.batch.tokens.shape[1], 0.0, 0.0
    for slot, where in zip(np.searchsorted(scene.batch.rows, scene.rows), scene.where.tolist(), strict=True):
        tokens = scene.batch.tokens[slot : slot + 1]
        found, difference = plain_word(model, tokens, where % width, [layer], path, "log_probability")
        missed += abs(float(found[layer].sum()) - difference)
        wanted += abs(difference)
    return missed / wanted


def test_a_later_batch_begins_with_the_nodes_an_earlier_one_needed() -> None:
    seen = Completeness(steps=dict.fromkeys(range(6), 4))
    how: dict[str, Any] = {"rule": "gauss_legendre", "target": "logit", "path": "layer", "local": True}
    list(attributions(demo.model(), the_scene(one()), steps=2, seen=seen, **how))
    assert min(seen.steps.values()) == 4


def test_a_layer_that_does_next_to_nothing_is_no_error() -> None:
    model = copy.deepcopy(demo.model())
    model.blocks[3].mlp.W_out = torch.nn.Parameter(model.blocks[3].mlp.W_out * 1e-6, requires_grad=False)
    seen = Completeness()
    how: Any = {"rule": "gauss_legendre", "target": "log_probability", "path": "layer", "local": True}
    list(attributions(model, the_scene(one()), steps=6, seen=seen, **how))
    assert seen.steps[3] == 6
    assert seen.missed[3] == 0
    seen.check()


def test_a_long_run_that_cannot_end_well_ends_early() -> None:
    seen = Completeness(missed={0: 1.0}, wanted={0: 2.0}, words=499)
    seen.check(500)
    seen.words = 500
    with pytest.raises(PosNeuronsError, match=r"miss the difference they must add up to by 50.0%"):
        seen.check(500)
