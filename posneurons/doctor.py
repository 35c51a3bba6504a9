"""What this installation can do: versions, devices, models and treebanks at hand."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import psutil
import torch

from posneurons import __version__
from posneurons.manifest import PACKAGES


def examine() -> list[str]:
    """Lines for the terminal, each `what: finding`."""
    demo = Path(__file__).parent / "demo"
    lines = [f"posneurons {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    lines += [f"{name}: {metadata.version(name)}" for name in PACKAGES]
    memory = psutil.virtual_memory()
    lines.append(
        f"cpu: {torch.get_num_threads()} threads, {memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    )
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        lines.append(
            f"cuda:{number}: {torch.cuda.get_device_name(number)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        )
    if not torch.cuda.is_available():
        lines.append("cuda: none")
    model, treebank = demo / "model" / "model.safetensors", sorted((demo / "treebank").glob("*.conllu"))
    lines.append(
        f"embedded model: {f'{model.stat().st_size / 1e6:.1f} MB' if model.exists() else 'missing; reinstall'}"
    )
    lines.append(f"embedded treebank: {', '.join(path.name for path in treebank) or 'missing; reinstall'}")
    return lines
