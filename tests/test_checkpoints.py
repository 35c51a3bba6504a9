"""What a checkpoint must be, and every way in which it is not: each with its sentence, before anything is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import BACKENDS, write_llama
from huggingface_hub import errors
from test_models import load, raises

from posneurons import checkpoints, models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("plain") / "my-llama-3", dtype=torch.bfloat16)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_unknown_backend_dtype_and_device() -> None:
    with raises(r"^backend 'nnsight': no such backend; expected one of hooked, bridge$"):
        models.load_model(backend="nnsight")
    with raises(r"^dtype 'int8': no such dtype for a model; expected float32, bfloat16 or float16$"):
        models.load_model(dtype="int8")
    with raises(r"^dtype 'torch.float64': no such dtype"):
        models.load_model(dtype=torch.float64)
    with raises(r"^device 'gpu': no such device; expected cpu, cuda, cuda:0 or mps$"):
        models.load_model(device="gpu")
    with raises(r"^device 'meta': not usable on this machine; choose device='cpu'$"):
        models.load_model(device="meta")


def test_more_gpus_than_there_are() -> None:
    with raises(r"^device 'cuda:99': this machine has \d+ usable GPUs; choose device='cpu'$"):
        models.load_model(device="cuda:99")


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "a/b/c", Path("absent")])
def test_no_such_folder(name: str | Path) -> None:
    with raises(r": no such folder; expected a folder, a name on the Hugging Face Hub, or 'demo'$"):
        load(name)


def test_a_file_and_a_revision_of_a_folder(folder: Path) -> None:
    with raises(r"model.safetensors: found a file, expected the folder that holds it; give that folder$"):
        load(folder / "model.safetensors")
    with raises(r"my-llama-3: a folder has no revision 'main'; give a revision only with a Hub name$"):
        load(folder, revision="main")


def test_not_a_name() -> None:
    with raises(r"^my model: no such folder, and not a name of the Hub; expected owner/model, a folder, or 'demo'$"):
        load("my model")


def hub_error(kind: type[Exception]) -> Exception:
    made = kind.__new__(kind)
    Exception.__init__(made, "from the Hub")
    return made


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (
            errors.GatedRepoError,
            r"^meta/some: access is gated; accept its licence on https://huggingface.co/meta/some and",
        ),
        (
            errors.RepositoryNotFoundError,
            r"^meta/some: no such folder, and no such public model on the Hugging Face Hub",
        ),
        (
            errors.RevisionNotFoundError,
            r"^meta/some: no revision 'v2'; look at https://huggingface.co/meta/some/commits$",
        ),
        (
            errors.LocalEntryNotFoundError,
            r"^meta/some: no such folder, not fetched before, and .* \(from the Hub\); connect",
        ),
        (
            errors.OfflineModeIsEnabled,
            r"cannot be reached \(from the Hub\); connect to the network, or give the folder",
        ),
    ],
)
def test_what_the_hub_refuses(kind: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise hub_error(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with raises(sentence):
        load("meta/some", revision="v2")


def test_a_snapshot_of_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, asked = "c0ffee" * 6 + "c0ff", []
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / commit).mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / commit)

    def download(
        name: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str], **_: Any
    ) -> str:
        assert ignore_patterns == ["*/*"]  # Meta's repositories hold the weights a second time in original/
        asked.append((name, revision, allow_patterns))
        if "*.safetensors" in allow_patterns:
            shutil.copy(folder / "model.safetensors", tmp_path / commit)
        return str(tmp_path / commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    info = models.describe(load("meta-llama/Some-Llama", revision="main"))
    assert (info.name, info.revision) == ("meta-llama/Some-Llama", commit)
    assert asked == [
        ("meta-llama/Some-Llama", "main", ["*.json", "*.txt", "*.model"]),
        ("meta-llama/Some-Llama", commit, ["*.safetensors"]),
    ]


def in_cache(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a model `meta/some` that was fetched before the network went away."""
    snapshot = cache / "models--meta--some" / "snapshots" / ("c0ffee" * 6 + "c0ff")
    shutil.copytree(folder, snapshot)
    (cache / "models--meta--some" / "refs").mkdir()
    (cache / "models--meta--some" / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return snapshot


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_fetched_before_loads_without_a_network(
    backend: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = in_cache(folder, tmp_path, monkeypatch)
    info = models.describe(load("meta/some", backend=backend))
    assert (info.name, info.revision) == ("meta/some", snapshot.name)


def test_half_fetched_and_never_fetched(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_cache(folder, tmp_path, monkeypatch) / "model.safetensors").unlink()
    with raises(r"^meta/some: no weights in .*; expected model.safetensors: fetch the checkpoint again$"):
        load("meta/some")
    with raises(r"^meta/other: no such folder, not fetched before, and the Hugging Face Hub cannot be reached"):
        load("meta/other")


def test_no_config_json(tmp_path: Path) -> None:
    with raises(
        r": no config.json in .*; expected a Hugging Face folder with config.json, tokenizer.json and model.safe"
    ):
        load(tmp_path)


def test_damaged_config_json(copied: Path) -> None:
    (copied / "config.json").write_text("{")
    with raises(r"config.json: not JSON \(.*\); fetch the checkpoint again$"):
        load(copied)


@pytest.mark.parametrize(
    "architecture", ["BertForMaskedLM", "BertLMHeadModel", "LlamaModel", "T5ForConditionalGeneration"]
)
def test_not_a_causal_language_model(architecture: str, copied: Path) -> None:
    edit_config(copied, architectures=[architecture])
    with raises(
        rf": {architecture} is not a causal language model; expected one that predicts the next token, such as"
    ):
        load(copied)


def test_no_architecture_stated(copied: Path) -> None:
    edit_config(copied, architectures=None)
    with raises(": a model of no stated architecture is not a causal language model"):
        load(copied)


def test_quantised_weights(copied: Path) -> None:
    edit_config(copied, quantization_config={"quant_method": "gptq"})
    with raises(
        r": weights quantised with gptq; expected float32, bfloat16 or float16: choose the unquantised checkpoint$"
    ):
        load(copied)


def test_no_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    with raises(
        r": no tokenizer in .*; expected tokenizer.json: save the tokenizer there too \(tokenizer.save_pretrained\)$"
    ):
        load(copied)


def test_damaged_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{}")
    with raises(r": the tokenizer cannot be read \(.*\); fetch it again$"):
        load(copied)


def test_no_weights(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with raises(r": no weights in .*; expected model.safetensors: fetch the checkpoint again$"):
        load(copied)


@pytest.mark.parametrize("keep", [4, 200, 0.5])
def test_damaged_weights(keep: float, copied: Path) -> None:
    path = copied / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with raises(r": model.safetensors is damaged \(.*\); fetch the checkpoint again$"):
        load(copied)


def test_missing_and_damaged_shards(tmp_path: Path) -> None:
    where = write_llama(tmp_path / "shards", max_shard_size=40_000)
    shards = sorted(where.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[1].rename(where / "elsewhere")
    with raises(rf": 1 of {len(shards)} weight files missing, first {shards[1].name!r}; fetch the checkpoint again$"):
        load(where)
    (where / "elsewhere").rename(shards[1])
    index = where / "model.safetensors.index.json"
    index.write_text("{}")
    with raises(r": model.safetensors.index.json is damaged; fetch the checkpoint again$"):
        load(where)


def test_missing_tensors(copied: Path) -> None:
    edit_config(copied, num_hidden_layers=3)
    with raises(
        r": 9 tensors missing from the weights, first model.layers.2.input_layernorm.weight; fetch the checkpoint"
    ):
        load(copied)


def test_tensors_of_another_shape(copied: Path) -> None:
    edit_config(copied, intermediate_size=40)
    with raises(
        r": model.layers.0.mlp.down_proj.weight is \[32, 48\] in the weights and \[32, 40\] by config.json; expected "
        "the same: fetch the checkpoint again$"
    ):
        load(copied)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"num_attention_heads": 0}, ": num_attention_heads is 0 in config.json; expected at least 1: correct it$"),
        ({"max_position_embeddings": 0}, ": max_position_embeddings is 0 in config.json; expected at least 1"),
        ({"num_attention_heads": 7}, r": transformers cannot read config.json \(.* not a multiple of .* heads \(7\)"),
        (
            {"num_attention_heads": "x"},
            r": transformers cannot read config.json \(.* expected int, got str .*; correct",
        ),
    ],
)
def test_a_configuration_of_no_model(fields: dict[str, Any], sentence: str, copied: Path) -> None:
    edit_config(copied, **fields)
    with raises(sentence):
        load(copied)


# memory, said before loading


@pytest.mark.parametrize(("dtype", "needed"), [(None, 82_240), ("fp32", 164_480)])
def test_not_enough_memory(dtype: str | None, needed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posneurons.loading.build", lambda *_: pytest.fail("it loaded"))
    monkeypatch.setattr(checkpoints, "free_memory", lambda _: needed - 1)
    with raises(
        r": the weights need 0.00 GB as \w+, but cpu has 0.00 GB free; close other programs, or choose a smaller"
    ):
        load(folder, dtype=dtype)


def test_just_enough_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "free_memory", lambda _: 82_240)
    load(folder)


def test_not_enough_memory_is_seen_before_shards_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = write_llama(tmp_path / "shards", max_shard_size=40_000)
    for shard in where.glob("model-*"):
        if shard.suffix == ".safetensors":
            shard.unlink()
    monkeypatch.setattr(checkpoints, "free_memory", lambda _: 1)
    with raises("the weights need"):
        load(where)
