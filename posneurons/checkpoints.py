"""Checkpoints on disk and on the Hub: found, checked and weighed before anything is loaded.

A name becomes a folder of ordinary Hugging Face files: the embedded model, a local folder, or a snapshot of the Hub.
Everything that can be wrong is looked for here, in the small files and in the headers of the large ones, so that an
error comes at once and not after minutes of loading. A Hub name costs one request, which fails at once without a
network. This module reads files; it knows neither transformers nor transformer_lens.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from posneurons.errors import ModelError

DEMO = Path(__file__).parent / "demo" / "model"
"""The embedded model."""

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
MOST_LAYERS = 10_000  # no model has as many, and building them would never end
_STORED = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_INDEX = "model.safetensors.index.json"
_SMALL_FILES = ["*.json", "*.txt", "*.model"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True)
class Checkpoint:
    """A folder that holds a causal language model; `revision` is the commit of a Hub model, else None."""

    name: str
    folder: Path
    revision: str | None
    config: dict[str, Any]
    config_sha256: str

    @property
    def architecture(self) -> str:
        """Name of the model class, such as LlamaForCausalLM."""
        stated = self.config.get("architectures")
        return str(stated[0]) if isinstance(stated, list) and stated else "a model of no stated architecture"

    @property
    def is_llama(self) -> bool:
        """Whether the fast way of loading knows it; decided by the config, never by the name."""
        return self.architecture == "LlamaForCausalLM" and self.config.get("model_type") == "llama"


@dataclass(frozen=True)
class Weights:
    """The files that hold the weights, how many numbers there are, and the dtype most of them have (None: unknown)."""

    files: tuple[Path, ...]
    n_numbers: int
    dtype: torch.dtype | None


def pick_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype asked for; None stands for the checkpoint's own.

    >>> pick_dtype("bf16")
    torch.bfloat16

    Raises:
        ModelError: where it is none of float32, bfloat16 and float16.
    """
    if dtype is None:
        return None
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ModelError(f"dtype {str(dtype)!r}: no such dtype for a model; expected float32, bfloat16 or float16")
    return found


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; None is the first GPU where there is one, else the CPU.

    Raises:
        ModelError: where there is no such device on this machine.
    """
    if device is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ModelError(f"device {str(device)!r}: no such device; expected cpu, cuda, cuda:0 or mps") from None
    if found.type == "cuda":
        return _pick_gpu(found)
    if found.type not in ("cpu", "mps") or (found.type == "mps" and not torch.backends.mps.is_available()):
        raise ModelError(f"device {str(device)!r}: not usable on this machine; choose device='cpu'")
    return found


def _pick_gpu(device: torch.device) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = device.index or 0
    if number >= count:
        raise ModelError(f"device {str(device)!r}: this machine has {count} usable GPUs; choose device='cpu'")
    return torch.device("cuda", number)


def open_checkpoint(name: str | Path, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint and check its configuration; of a Hub model only the small files are fetched.

    Args:
        name: "demo", a local folder, or a name on the Hub.
        revision: branch, tag or commit of a Hub model.

    Raises:
        ModelError: where there is no such folder or model, the Hub cannot be reached or refuses, or it is not a
            causal language model in floating point with a tokenizer.
    """
    folder, commit = _locate(name, revision)
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{name}: no config.json in {folder}; expected a Hugging Face folder with config.json, tokenizer.json and "
            "model.safetensors"
        )
    raw = path.read_bytes()
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON ({error}); fetch the checkpoint again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path}: found {config!r:.40}; expected a JSON object: fetch the checkpoint again")
    found = Checkpoint(str(name), folder, commit, config, hashlib.sha256(raw).hexdigest())
    _check_config(found)
    _check_tokenizer_files(found)
    return found


def _locate(name: str | Path, revision: str | None) -> tuple[Path, str | None]:
    if name == "demo":
        return DEMO, None
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ModelError(f"{name}: a folder has no revision {revision!r}; give a revision only with a Hub name")
        return path, None
    if path.is_file():
        raise ModelError(f"{name}: found a file, expected the folder that holds it; give that folder")
    if isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelError(f"{name}: no such folder; expected a folder, a name on the Hugging Face Hub, or 'demo'")
    folder = _snapshot(name, revision, _SMALL_FILES)
    return folder, folder.name


def _snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of a Hub model's files; where the Hub is out of reach, what was fetched before."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"], etag_timeout=5
        )
    except errors.GatedRepoError:
        raise ModelError(
            f"{name}: access is gated; accept its licence on https://huggingface.co/{name} and log in with "
            "`hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{name}: no revision {revision!r}; look at https://huggingface.co/{name}/commits") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{name}: no such folder, and no such public model on the Hugging Face Hub; check the spelling, or log in "
            "with `hf auth login` if it is private"
        ) from None
    except errors.HFValidationError:
        raise ModelError(
            f"{name}: no such folder, and not a name of the Hub; expected owner/model, a folder, or 'demo'"
        ) from None
    except (OSError, errors.HfHubHTTPError) as error:
        partial = getattr(error, "snapshot_path", None)
        if partial is None:
            raise ModelError(_unreachable(name, error)) from None
        return Path(partial)
    return Path(folder)


def _unreachable(name: str, error: Exception) -> str:
    reason = next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)
    return (
        f"{name}: no such folder, not fetched before, and the Hugging Face Hub cannot be reached ({reason}); connect "
        "to the network, or give the folder of a checkpoint"
    )


def _check_config(checkpoint: Checkpoint) -> None:
    architecture, config = checkpoint.architecture, checkpoint.config
    decoder = not architecture.startswith("Bert") or config.get("is_decoder")
    if not architecture.endswith(("ForCausalLM", "LMHeadModel")) or not decoder:
        raise ModelError(
            f"{checkpoint.name}: {architecture:.80} is not a causal language model; expected one that predicts the "
            "next token, such as LlamaForCausalLM"
        )
    layers = next((config[key] for key in ("num_hidden_layers", "n_layer", "num_layers") if key in config), 1)
    if not isinstance(layers, int) or not 0 < layers < MOST_LAYERS:
        raise ModelError(f"{checkpoint.name}: {layers!r:.40} layers in config.json; expected 1 to {MOST_LAYERS - 1}")
    if config.get("quantization_config"):
        stated = config["quantization_config"]
        method = stated.get("quant_method") if isinstance(stated, dict) else None
        raise ModelError(
            f"{checkpoint.name}: weights quantised with {method or 'an unknown method'!s:.40}; expected float32, "
            "bfloat16 or float16: choose the unquantised checkpoint"
        )


def _check_tokenizer_files(checkpoint: Checkpoint) -> None:
    if not any((checkpoint.folder / file).is_file() for file in _TOKENIZER_FILES):
        raise ModelError(
            f"{checkpoint.name}: no tokenizer in {checkpoint.folder}; expected tokenizer.json: save the tokenizer "
            "there too (tokenizer.save_pretrained)"
        )


def stated_dtype(checkpoint: Checkpoint) -> torch.dtype | None:
    """The dtype that config.json states, None where it states none that a model here can have."""
    stated = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    return DTYPES.get(str(stated).removeprefix("torch."))


def stated_bytes(checkpoint: Checkpoint) -> int | None:
    """Size of the weights as the index of a sharded checkpoint states it, None where there is no index."""
    path = checkpoint.folder / _INDEX
    if not path.is_file():
        return None
    metadata = _read_index(checkpoint.name, path).get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return int(size) if isinstance(size, int | float) and 0 <= size < math.inf else None


def fetch_weights(checkpoint: Checkpoint) -> Weights:
    """The weights of a checkpoint, fetched if it is on the Hub, with whole headers.

    Raises:
        ModelError: where a file is missing or damaged.
    """
    if checkpoint.revision is not None:
        _snapshot(checkpoint.name, checkpoint.revision, ["*.safetensors"])
        if not list(checkpoint.folder.glob("*.safetensors")):
            _snapshot(checkpoint.name, checkpoint.revision, ["pytorch_model*.bin", "pytorch_model*.json"])
    files = _weight_files(checkpoint)
    if files[0].suffix == ".bin":
        own = stated_dtype(checkpoint) or torch.float32
        return Weights(files, sum(file.stat().st_size for file in files) // own.itemsize, None)
    numbers: Counter[torch.dtype | None] = Counter()
    for file in files:
        numbers.update(_numbers(checkpoint.name, file))
    return Weights(files, numbers.total(), max(numbers, key=numbers.__getitem__, default=None))


def _read_index(name: str, path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_bytes())
        files = list(index["weight_map"].values())
        if not files or any(not file or Path(file).name != file or len(file.encode()) > 255 for file in files):
            raise ValueError  # noqa: TRY301 (a file of another folder, or none)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{name}: {path.name} is damaged; fetch the checkpoint again") from None
    return dict(index)


def _weight_files(checkpoint: Checkpoint) -> tuple[Path, ...]:
    folder, name = checkpoint.folder, checkpoint.name
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    if not (folder / _INDEX).is_file():
        pickled = tuple(sorted(folder.glob("pytorch_model*.bin")))
        if not pickled:
            raise ModelError(f"{name}: no weights in {folder}; expected model.safetensors: fetch the checkpoint again")
        return pickled
    shards = sorted(set(_read_index(name, folder / _INDEX)["weight_map"].values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ModelError(
            f"{name}: {len(missing)} of {len(shards)} weight files missing, first {missing[0]!r}; fetch the checkpoint "
            "again"
        )
    return tuple(folder / shard for shard in shards)


def _numbers(name: str, file: Path) -> Counter[torch.dtype | None]:
    """How many numbers of each dtype a file holds, from its header."""
    from safetensors import SafetensorError, safe_open

    numbers: Counter[torch.dtype | None] = Counter()
    try:
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (the handle is no mapping)
                part = opened.get_slice(key)
                numbers[_STORED.get(part.get_dtype())] += math.prod(part.get_shape())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{name}: {file.name} is damaged ({error}); fetch the checkpoint again") from None
    return numbers


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; on the CPU, what can be had without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def check_memory(name: str, needed: int, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ModelError where `needed` bytes are more than the device has free."""
    free = free_memory(device)
    if needed > free:
        raise ModelError(
            f"{name}: the weights need {needed / 1e9:.2f} GB as {str(dtype).removeprefix('torch.')}, but {device} has "
            f"{free / 1e9:.2f} GB free; close other programs, or choose a smaller dtype, another device or model"
        )


def fit(checkpoint: Checkpoint, device: torch.device, asked: torch.dtype | None, *, copies: float) -> torch.dtype:
    """The dtype to load in, once it is known that the weights are whole and fit into memory.

    Args:
        checkpoint: what `open_checkpoint` gives; weights on the Hub are fetched, if they can fit.
        device: where they are to go.
        asked: None stands for the checkpoint's own dtype.
        copies: how many copies of the weights the device holds at once, less than 1 where others hold a part.

    Raises:
        ModelError: where they do not fit, or a file is missing or damaged.
    """
    stated, size = stated_dtype(checkpoint), stated_bytes(checkpoint)
    if stated is not None and size is not None:
        dtype = asked or stated
        check_memory(checkpoint.name, int(copies * size) // stated.itemsize * dtype.itemsize, device, dtype)
    weights = fetch_weights(checkpoint)
    dtype = asked or stated or weights.dtype or torch.float32
    check_memory(checkpoint.name, int(copies * weights.n_numbers) * dtype.itemsize, device, dtype)
    return dtype
