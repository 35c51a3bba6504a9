"""Random checkpoints of any shape, and costs that are counted: operations against PyTorch's own count."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import posneurons as pn
from posneurons import memory, models

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
import scale
import scale_counted as counted
import write_random_llama as writer

TINY = writer.SHAPES["tiny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("random") / "llama"
    assert writer.write(out, "tiny", shard_gb=4e-4) == 635_200
    return out


def test_a_random_checkpoint_is_read_like_any_other(folder: Path) -> None:
    model = pn.load_model(folder, device="cpu")
    info = models.describe(model)
    assert (info.n_layers, info.d_mlp, info.d_model, info.d_vocab, info.dtype) == (2, 224, 64, 4096, "bfloat16")
    assert info.n_parameters == 635_200
    assert model.tokenizer.bos_token_id == 0
    weights = model.blocks[0].mlp.W_in.float()
    assert float(weights.std()) == pytest.approx(writer.SD, rel=0.05)
    assert abs(float(weights.mean())) < 0.001
    assert not torch.equal(model.blocks[0].mlp.W_in, model.blocks[1].mlp.W_in)


def test_shards_hold_no_more_than_asked_and_all_tensors_once(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 3  # the embedding; both layers and the last norm; the unembedding
    held = [load_file(file) for file in files]
    assert {name: file.name for file, each in zip(files, held, strict=True) for name in each} == index["weight_map"]
    sizes = [sum(2 * tensor.numel() for tensor in each.values()) for each in held]
    assert sum(sizes) == index["metadata"]["total_size"]
    assert all(size <= 4e5 or len(each) == 1 for size, each in zip(sizes, held, strict=True))


def test_a_tensor_is_the_same_in_any_shard_and_other_with_another_seed(folder: Path, tmp_path: Path) -> None:
    writer.write(tmp_path / "one", "tiny", layers=1)
    writer.write(tmp_path / "other", "tiny", layers=1, seed=1)
    one, other = (load_file(tmp_path / name / "model-00001-of-00001.safetensors") for name in ("one", "other"))
    whole = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in one.items())
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
    with pytest.raises(SystemExit, match="not empty; choose a new folder"):
        writer.write(tmp_path / "one", "tiny")


@pytest.mark.parametrize(("shape", "tied", "weights"), [("8b", False, 8_030_261_248), ("1b", True, 1_235_814_400)])
def test_the_shapes_are_those_of_the_released_models(shape: str, tied: bool, weights: int) -> None:
    """The numbers of parameters that the model cards give: 8.03 and 1.24 billion."""
    assert sum(writer.numbers(sizes) for _, sizes in writer.tensors(writer.SHAPES[shape], tied=tied)) == weights


@pytest.fixture(scope="module")
def meta() -> Any:
    return counted.on_meta(TINY)


def test_counted_operations_are_those_that_pytorch_counts(meta: Any) -> None:
    table = counted.compared(meta, TINY, 4, 32).set_index("pass")
    for name in ("forward", "attribution"):
        row = table.loc[name]
        assert row["TFLOP, formula"] == pytest.approx(row["TFLOP, FlopCounterMode"], rel=0.01)
        assert row["GB alive"] <= row["GB planned"]


def test_operations_by_hand() -> None:
    # 2 operations for each weight of a layer (64 x 64 twice, 64 x 32 twice, 64 x 224 three times), and 4 x 64 per place
    assert counted.layer(TINY, 10) == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 224) + 4 * 64 * 10
    read = counted.Words(words=3, tokens=5, length=10, longest=10)
    lesions = counted.lesioning(TINY, read, conditions=7)
    assert lesions.bfloat16 == (2 + 7) * 5 * counted.layer(TINY, 10)  # each from after the first of two layers
    assert lesions.float32 == (1 + 7) * 3 * 2 * 64 * 4096
    path = counted.integrating(TINY, read, steps=6)
    assert path.bfloat16 == (2 * 5 + 14 * 3) * counted.layer(TINY, 10)


def test_times_are_amounts_over_used_rates() -> None:
    gpu = counted.Gpu("one", bfloat16=100.0, float32=10.0, bytes=1.0)
    assert counted.Work(bfloat16=80, float32=14, bytes=3).seconds(gpu) == pytest.approx(80 / 40 + 14 / 7 + 3 / 0.6)


def test_llama_3_8b_fits_on_a_card_of_24_gb() -> None:
    """Beside 16 GB of weights about 6 are free: each method can read the longest row of EWT's training words."""
    model = counted.on_meta(writer.SHAPES["8b"])
    table = counted.batch_table(model, 172, 6e9)
    assert (table["longest row fits"] == "yes").all()
    state = counted.state_bytes(writer.SHAPES["8b"])
    assert state["moments, per position"] == 17 * 458_752 * 2 * 8
    assert 3 * state["moments, per position"] < 0.1 * 6e9
    one_batch = counted.counted_by_torch(model, 2, 86)  # as many tokens as the longest row
    alive = one_batch["attribution"][1]
    assert alive <= memory.SHARE * (6e9 - state["sums of effects"])
    assert 0.6 <= alive / memory.need(model, "graph", 86).of(172) <= 1


def test_the_script_measures_every_job(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "costs.json"
    words = f"scale.py {folder} --words 12 --repeats 1 --conditions 2 --device cpu --alive --json {out}"
    monkeypatch.setattr(sys, "argv", words.split())
    scale.main()
    found = json.loads(out.read_text())["costs"]
    assert [each["job"] for each in found] == ["ranking", "attribution", "integrated gradients", "sweep"]
    assert all(each["seconds"] > 0 and each["share"] > 0 for each in found)
    assert all(0 < each["alive_mb"] <= each["planned_mb"] for each in found[1:3])
    assert "| sweep: one condition |" in capsys.readouterr().out


def test_peak_memory_is_what_was_taken_beyond_before() -> None:
    with scale.peak_of("cpu") as found:
        block = torch.ones(50_000_000)
        assert scale.seconds_of(lambda: block.sum().item(), "cpu") > 0
        scale.time.sleep(0.1)
    assert 150 < found["mb"] < 400
    assert SimpleNamespace(block=block)
