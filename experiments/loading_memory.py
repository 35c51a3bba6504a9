"""How much memory and time does it take to load a Llama, and are its logits those of Hugging Face?

    python experiments/loading_memory.py [--tied] [--dtype float32]

Writes a random bf16 Llama of 567 MB (502 MB tied) into a temporary folder `my-llama-3`, in shards, and loads it in
several ways, each in a fresh process. Such a process first loads a tiny Llama the same way, so that all libraries are
imported; its resident memory then is the zero from which the rest is counted. Peaks are the kernel's high-water mark of
resident memory (VmHWM, reset at the zero), so pages of the mapped checkpoint count like any other, though the kernel
can take them back; `not file` is what cannot be taken back (RssAnon) when all is done. Everything is in units of the
checkpoint's files. Linux only.

Cost: two minutes on one core, 4 GB of memory, 1.2 GB of disk. Expected: posneurons at most 1.25 on both backends, while
loading and in a forward pass; TransformerLens's usual way above 3; logits within 1e-4 of Hugging Face in float32.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.timing import alone

FIELDS: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "initializer_range": 0.05,
    "rope_theta": 500_000.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
BATCH = (2, 32)


def write(folder: Path, **fields: Any) -> None:
    """A checkpoint with a tokenizer, in shards of at most 200 MB."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(FIELDS | fields))).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="200MB")
    symbols = ["<|begin_of_text|>", "<|end_of_text|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=symbols[0], eos_token=symbols[1]
    ).save_pretrained(folder)


def tokenizer_of(folder: Path) -> Any:
    """What every way loads beside the weights: Llama 3's takes 0.3 GB."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder)


def hugging_face(folder: Path, dtype: torch.dtype) -> Any:
    """AutoModelForCausalLM and AutoTokenizer."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    model.own_tokenizer = tokenizer_of(folder)
    return model


def posneurons_hooked(folder: Path, dtype: torch.dtype) -> Any:
    """pn.load_model(folder)."""
    import posneurons as pn

    return pn.load_model(folder, dtype=dtype, device="cpu")


def posneurons_bridge(folder: Path, dtype: torch.dtype) -> Any:
    """pn.load_model(folder, backend="bridge")."""
    import posneurons as pn

    return pn.load_model(folder, dtype=dtype, device="cpu", backend="bridge")


def usual_hooked(folder: Path, dtype: torch.dtype) -> Any:
    """What HookedTransformer.from_pretrained_no_processing(hf_model=...) does once it has a configuration.

    It refuses a folder, and the configurations that it has for Llamas are those of Meta's sizes, so its remaining steps
    are called here one by one.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights

    from posneurons.checkpoints import open_checkpoint
    from posneurons.hooked import _llama_fields

    source = hugging_face(folder, dtype)
    fields = _llama_fields(open_checkpoint(folder), source) | {"device": str(source.device)}
    cfg = HookedTransformerConfig.from_dict(fields)
    state = convert_llama_weights(source, cfg)
    model = HookedTransformer(cfg, move_to_device=False)
    model.load_and_process_state_dict(
        state, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    model.set_tokenizer(source.own_tokenizer)
    return model.eval()


def usual_bridge(folder: Path, dtype: torch.dtype) -> Any:
    """TransformerBridge.boot_transformers(folder)."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(folder), dtype=dtype, device="cpu").eval()


WAYS = (posneurons_hooked, posneurons_bridge, hugging_face, usual_hooked, usual_bridge)


def memory() -> dict[str, int]:
    """Bytes: VmRSS (resident now), VmHWM (its peak), RssAnon and RssFile (its parts)."""
    rows = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(value.split()[0]) * 1024 for key, value in rows if key in ("VmRSS", "VmHWM", "RssAnon", "RssFile")}


def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits whatever the model."""
    with torch.no_grad():
        found = model(tokens)
    return found if isinstance(found, torch.Tensor) else found.logits


def measure(way: str, folder: Path, small: Path, dtype: torch.dtype) -> dict[str, float]:
    """Load in this process, after a small checkpoint, and say what it took, in bytes and seconds."""
    from transformers.utils import logging

    load = {each.__name__: each for each in WAYS}[way]
    logging.disable_progress_bar()
    tokens = torch.randint(2, 4096, BATCH, generator=torch.Generator().manual_seed(0))
    logits_of(load(small, dtype), tokens)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    zero, begin = memory(), time.perf_counter()
    model = load(folder, dtype)
    seconds = time.perf_counter() - begin
    loading = memory()
    begin = time.perf_counter()
    logits = logits_of(model, tokens)
    forward, after = time.perf_counter() - begin, memory()
    difference = (logits.float() - logits_of(hugging_face(folder, dtype), tokens).float()).abs().max().item()
    return {
        "zero": zero["VmRSS"],
        "loading": loading["VmHWM"] - zero["VmRSS"],
        "forward": after["VmHWM"] - zero["VmRSS"],
        "anonymous": after["RssAnon"] - zero["RssAnon"],
        "seconds": seconds,
        "forward_seconds": forward,
        "difference": difference,
    }


def measure_tokenizer(folder: Path, small: Path) -> int:
    """Bytes by which the tokenizer alone makes this process grow at most, after a small one."""
    tokenizer_of(small)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    zero = memory()["VmRSS"]
    tokenizer = tokenizer_of(folder)
    found = memory()["VmHWM"] - zero
    del tokenizer
    return found


def size_of(folder: Path) -> int:
    """Bytes of a checkpoint's weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def table(folder: Path, dtype: str) -> str:
    """A row for each way, each from a fresh process."""
    size = size_of(folder)
    shards = len(list(folder.glob("*.safetensors")))
    rows = [
        f"checkpoint {size / 1e6:.0f} MB in {shards} files, bf16; loaded as {dtype}; batch {BATCH[0]}x{BATCH[1]}\n",
        "| way | peak while loading | peak with a forward pass | not file | loading | forward | max logit difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        got = alone(measure, way.__name__, folder, folder.parent / "small", getattr(torch, dtype))
        rows.append(
            f"| {way.__name__} | {got['loading'] / size:.2f} | {got['forward'] / size:.2f} "
            f"| {got['anonymous'] / size:.2f} | {got['seconds']:.1f} s | {got['forward_seconds']:.2f} s "
            f"| {got['difference']:.1e} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tied", action="store_true", help="embedding and unembedding are one matrix")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "my-llama-3"
        write(folder, tie_word_embeddings=options.tied)
        write(folder.parent / "small", **SMALL, tie_word_embeddings=options.tied)
        sys.stdout.write(table(folder, options.dtype))


if __name__ == "__main__":
    main()
