"""The data beside the repository, for tests that want real treebanks and the real Llama 3 tokenizer."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from posneurons.sentences import Treebank
from posneurons.treebank import load_treebank

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def shared_data(path: str) -> Path:
    """A file or folder of the shared data; the test is skipped where it is not there."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"{found} is not there")
    return found


@cache
def llama3_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shared_data("llama3-tokenizer"))


@cache
def treebank(name: str) -> Treebank:
    return load_treebank(shared_data(f"ud/{name}"))
