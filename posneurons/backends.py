"""The two backends, and which of them this installation has. Light to import, so that checks and `--help` are quick."""

from __future__ import annotations

from importlib.metadata import version
from typing import Literal

Backend = Literal["hooked", "bridge"]
"""A HookedTransformer, which transformer-lens has up to 3.x, or a TransformerBridge around the Hugging Face model."""


def default_backend() -> Backend:
    """The backend that is taken where none is asked for.

    >>> default_backend()
    'hooked'
    """
    return "hooked" if int(version("transformer-lens").partition(".")[0]) < 4 else "bridge"
