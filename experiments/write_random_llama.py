"""How can Llama-3-8B's shape be measured where its weights cannot be had?

Command:  python experiments/write_random_llama.py OUT [--shape 8b|1b|tiny] [--layers N] [--dtype bfloat16] [--seed 0]
                 [--tokenizer DIR] [--tied] [--shard-gb 2]
Cost:     of the 8B shape 16.1 GB of disk and some minutes on one core; memory for one shard and one tensor of float32.
Outcome:  a folder that Hugging Face, `posneurons.load_model` and the command line read like any other checkpoint.

Weights are normal with a standard deviation of 0.02 (norms are 1), each tensor from a seed of its own, so that neither
the size of a shard nor the number of layers changes a tensor. Shards are planned from the shapes and written one by
one, each under another name until it is whole. The tokenizer is that of the folder given, else the embedded model's,
whose ids are a part of the vocabulary.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import posneurons

SD = 0.02
SHAPES: dict[str, dict[str, Any]] = {
    "8b": {
        "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 8192,
    },
    "1b": {
        "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 8192,
    },
    "tiny": {
        "vocab_size": 4096, "hidden_size": 64, "intermediate_size": 224, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
    },
}  # fmt: skip
"""Llama-3-8B, Llama-3.2-1B (with a context of 8,192 and plain rotary embeddings), and one for tests."""

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def tensors(shape: dict[str, Any], *, tied: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and sizes of every tensor, in the order of the layers."""
    wide, deep = shape["hidden_size"], shape["intermediate_size"]
    queries = shape["num_attention_heads"] * shape["head_dim"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    yield "model.embed_tokens.weight", (shape["vocab_size"], wide)
    for layer in range(shape["num_hidden_layers"]):
        for name, sizes in (
            ("input_layernorm", (wide,)),
            ("self_attn.q_proj", (queries, wide)),
            ("self_attn.k_proj", (keys, wide)),
            ("self_attn.v_proj", (keys, wide)),
            ("self_attn.o_proj", (wide, queries)),
            ("post_attention_layernorm", (wide,)),
            ("mlp.gate_proj", (deep, wide)),
            ("mlp.up_proj", (deep, wide)),
            ("mlp.down_proj", (wide, deep)),
        ):
            yield f"model.layers.{layer}.{name}.weight", sizes
    yield "model.norm.weight", (wide,)
    if not tied:
        yield "lm_head.weight", (shape["vocab_size"], wide)


def numbers(sizes: tuple[int, ...]) -> int:
    """How many numbers a tensor has."""
    return int(torch.Size(sizes).numel())


def shards(planned: list[tuple[str, tuple[int, ...]]], itemsize: int, limit: float) -> list[list[str]]:
    """Names of the tensors of each shard: as many in their order as stay within `limit` bytes, and at least one."""
    found: list[list[str]] = [[]]
    held = 0
    for name, sizes in planned:
        size = numbers(sizes) * itemsize
        if found[-1] and held + size > limit:
            found.append([])
            held = 0
        found[-1].append(name)
        held += size
    return found


def drawn(name: str, sizes: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """The weights of one tensor: 1 for a norm, else normal numbers from a seed of its own."""
    if len(sizes) == 1:
        return torch.ones(sizes, dtype=dtype)
    own = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(own)
    return torch.empty(sizes, dtype=dtype).normal_(0.0, SD, generator=generator)


def write_weights(out: Path, shape: dict[str, Any], *, tied: bool, dtype: torch.dtype, seed: int, limit: float) -> int:
    """Write all shards and their index; the number of weights."""
    planned = list(tensors(shape, tied=tied))
    sizes, parts = dict(planned), shards(planned, dtype.itemsize, limit)
    where: dict[str, str] = {}
    for number, names in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        held = {name: drawn(name, sizes[name], dtype, seed) for name in names}
        unfinished = out / f"{file}.part"
        save_file(held, unfinished, metadata={"format": "pt"})
        unfinished.replace(out / file)
        where |= dict.fromkeys(names, file)
        del held
    total = sum(map(numbers, sizes.values()))
    index = {"metadata": {"total_size": total * dtype.itemsize}, "weight_map": where}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return total


def write_config(out: Path, shape: dict[str, Any], *, tied: bool, dtype: str, tokenizer: Path) -> None:
    """`config.json`, and the tokenizer's files."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, out / name)
    stated = json.loads((out / "tokenizer_config.json").read_text("utf-8"))
    added = json.loads((out / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    ids = {each["content"]: each["id"] for each in added}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": tied, "dtype": dtype,
        "bos_token_id": ids[stated["bos_token"]], "eos_token_id": ids[stated["eos_token"]],
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}, "initializer_range": SD, **shape,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config, indent=2))


def write(
    out: Path,
    shape: str = "8b",
    *,
    layers: int | None = None,
    dtype: str = "bfloat16",
    seed: int = 0,
    tokenizer: Path | None = None,
    tied: bool = False,
    shard_gb: float = 2.0,
) -> int:
    """Write a checkpoint into a new folder; the number of its weights."""
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise SystemExit(f"{out}: not empty; choose a new folder")
    chosen = SHAPES[shape] | ({} if layers is None else {"num_hidden_layers": layers})
    home = Path(posneurons.__file__).parent / "demo" / "model" if tokenizer is None else tokenizer
    write_config(out, chosen, tied=tied, dtype=dtype, tokenizer=home)
    return write_weights(out, chosen, tied=tied, dtype=DTYPES[dtype], seed=seed, limit=shard_gb * 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--shape", choices=list(SHAPES), default="8b")
    parser.add_argument("--layers", type=int, help="as many layers, for less than the whole shape")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json and tokenizer_config.json")
    parser.add_argument("--tied", action="store_true", help="embedding and unembedding are one matrix")
    parser.add_argument("--shard-gb", type=float, default=2.0)
    asked = parser.parse_args()
    total = write(
        asked.out, asked.shape, layers=asked.layers, dtype=asked.dtype, seed=asked.seed, tokenizer=asked.tokenizer,
        tied=asked.tied, shard_gb=asked.shard_gb,
    )  # fmt: skip
    sys.stdout.write(f"{asked.out}: {total:,} weights in {asked.dtype}\n")


if __name__ == "__main__":
    main()
