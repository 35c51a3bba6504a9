"""Models larger than one GPU: what is passed on, where parts go, and that nothing is mixed across devices."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import hooked_only, write_gpt2, write_llama
from places import Places, of, spread
from test_attribution import build_corpus

import posneurons as pn
from posneurons import hooked, models
from posneurons.errors import ModelError
from posneurons.forward import gathered

CORPUS = build_corpus((6, 9, 4, 7))


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9 + device.index, 2 * 10**9))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What Hugging Face is asked for; it then says that memory ran out, which ends the loading."""
    seen: dict[str, Any] = {}

    def from_pretrained(_: Any, **options: Any) -> None:
        seen.update(options)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    yield seen
    assert seen


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ({"backend": "bridge"}, {"device_map": {"": torch.device("cuda:0")}}),
        ({"backend": "bridge", "device": "cpu"}, {}),
        (
            {"backend": "bridge", "n_devices": 2},
            {"device_map": "balanced", "max_memory": {0: 10**9, 1: 10**9 + 1}},
        ),
        (
            {"backend": "bridge", "device": "cuda:1", "n_devices": 3},
            {"device_map": "balanced", "max_memory": {number: 10**9 + number for number in (1, 2, 3)}},
        ),
        ({"backend": "bridge", "device_map": "auto"}, {"device_map": "auto"}),
        ({"backend": "bridge", "device_map": {"model": 0, "lm_head": 1}}, {"device_map": {"model": 0, "lm_head": 1}}),
        pytest.param(
            {"n_devices": 4}, {}, marks=hooked_only
        ),  # read on the CPU, without memory of its own, and dealt out from there
    ],
)
def test_what_is_passed_on_to_hugging_face(
    options: dict[str, Any], passed: dict[str, Any], asked: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_llama(tmp_path / "checkpoint")
    with pytest.raises(ModelError, match=r"checkpoint: out of memory on .*; choose a smaller dtype or model$"):
        pn.load_model(folder, **options)
    assert {name: asked[name] for name in ("device_map", "max_memory") if name in asked} == passed


@pytest.mark.usefixtures("four_gpus")
def test_memory_is_asked_for_on_each_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "checkpoint")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60_000, 10**9))
    for n_devices in (1, 2):
        with pytest.raises(ModelError, match=r"the weights need 0\.00 GB as float32, but cuda:0 has 0\.00 GB free"):
            pn.load_model(folder, backend="bridge", n_devices=n_devices)
    monkeypatch.setattr("posneurons.loading.build", lambda *_, **__: pytest.fail("it fits"))
    with pytest.raises(pytest.fail.Exception, match="it fits"):
        pn.load_model(folder, backend="bridge", n_devices=4)


def test_too_many_devices_and_a_map_that_is_not_of_a_bridge() -> None:
    with pytest.raises(ModelError, match=r"^n_devices=2: 0 usable GPUs from cpu on; choose 1 to 1$"):
        pn.load_model(device="cpu", n_devices=2)
    sentence = r"^device_map: only of backend='bridge', and without device and n_devices; leave it out$"
    with pytest.raises(ModelError, match=sentence):
        pn.load_model(backend="hooked", device_map="auto")
    with pytest.raises(ModelError, match=sentence):
        pn.load_model(backend="bridge", device="cpu", device_map="auto")


@pytest.mark.usefixtures("four_gpus")
def test_only_as_many_devices_as_there_are_from_the_first_on() -> None:
    with pytest.raises(ModelError, match=r"^n_devices=3: 2 usable GPUs from cuda:2 on; choose 1 to 2$"):
        pn.load_model(device="cuda:2", n_devices=3)


def test_a_map_that_puts_all_on_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    folder = write_llama(tmp_path / "checkpoint")
    mapped, plain = (pn.load_model(folder, backend="bridge", **each) for each in ({"device_map": {"": "cpu"}}, {}))
    tokens = torch.tensor([[0, 5, 7, 9]])
    torch.testing.assert_close(mapped(tokens), plain(tokens))


@hooked_only
@pytest.mark.parametrize(("n_layers", "n_devices"), [(32, 1), (32, 2), (32, 3), (6, 4), (3, 4)])
def test_blocks_are_where_hooked_transformer_looks_for_them(n_layers: int, n_devices: int) -> None:
    from transformer_lens.utilities.multi_gpu import get_device_for_block_index

    cfg: Any = SimpleNamespace(device="cuda:1", n_devices=n_devices, n_layers=n_layers)
    for layer in range(n_layers):
        assert hooked.place(cfg, f"blocks.{layer}.mlp.W_out") == get_device_for_block_index(layer, cfg)
    ends = (hooked.place(cfg, name) for name in ("embed.W_E", "pos_embed.W_pos", "ln_final.w", "unembed.W_U"))
    last = f"cuda:{1 + (n_layers - 1) * n_devices // n_layers}"
    assert [str(each) for each in ends] == ["cuda:1", "cuda:1", last, last]


@hooked_only
@pytest.mark.parametrize("write", [write_llama, write_gpt2])
def test_over_two_devices_all_is_as_on_one_and_nothing_is_mixed(write: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint")
    model, whole = (pn.load_model(folder, device="cpu") for _ in range(2))
    spread(model, 2)
    sets = [pn.NeuronSet.parse(names) for names in (["L0N3"], ["L1N5"], ["L0N1", "L1N2"])]
    wanted = [pn.Condition(each, scope=scope) for each in sets for scope in ("all", "local")]
    methods = [
        "correlation", "auroc", "attribution", "attribution:scope=all", "attribution:baseline=mean", "relp",
        "integrated_gradients", "key_neuron_rule", "logit_attribution", "dynamic_logit_attribution", "logprob_increase",
    ]  # fmt: skip
    expected = {method: pn.rank(whole, CORPUS, method).scores for method in methods}
    losses = pn.word_losses(whole, CORPUS, wanted).rises()
    with Places() as places:
        assert models.describe(model).device == "xpu:0"
        for method in methods:
            np.testing.assert_allclose(pn.rank(model, CORPUS, method).scores, expected[method], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(pn.word_losses(model, CORPUS, wanted).rises(), losses, atol=1e-5)
    assert places.moves > 100


@hooked_only
def test_a_hook_sees_the_first_device_and_gives_to_its_own(tmp_path: Path) -> None:
    model = pn.load_model(write_llama(tmp_path / "checkpoint"), device="cpu")
    assert gathered(model, [("a", print)]) == [("a", print)]
    spread(model, 2)
    seen: list[tuple[str, str]] = []
    with Places():
        tokens = torch.zeros(1, 4, dtype=torch.long, device="xpu:0")
        mine = [(models.post_name(1), lambda value, hook: seen.append(("mine", of(value))) or 2 * value)]  # noqa: ARG005
        with model.hooks(fwd_hooks=[(models.post_name(1), lambda value, hook: seen.append(("own", of(value))))]):  # noqa: ARG005
            state = models.residual(model, tokens, mine)
        assert of(state) == "xpu:0"
    assert sorted(seen) == [("mine", "xpu:0"), ("own", "xpu:1")]
