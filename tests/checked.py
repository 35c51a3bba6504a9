"""Beartype, asked once for each signature.

jaxtyping hands over an empty function that has nothing of the checked one but its name and its signature, and does so
anew whenever a function inside another is made, as hooks are. For the same signature the same check will do.
"""

from collections.abc import Callable, Hashable
from typing import Any

import beartype as maker

CHECKS: dict[Hashable, Callable[..., Any]] = {}


def beartype(empty: Any) -> Any:
    """The check of a signature, an earlier one where it is the same; what has no code is left to beartype."""
    if not hasattr(empty, "__code__"):
        return maker.beartype(empty)
    key = signature_of(empty)
    if key not in CHECKS:
        CHECKS[key] = maker.beartype(empty)
    return CHECKS[key]


def signature_of(empty: Any) -> Hashable:
    """Names, kinds and annotations of the parameters, and how many have defaults, which are not checked."""
    code, optional = empty.__code__, (len(empty.__defaults__ or ()), *sorted(empty.__kwdefaults__ or ()))
    kinds = (code.co_posonlyargcount, code.co_argcount, code.co_kwonlyargcount, code.co_flags)
    annotations = tuple(empty.__annotations__.items())
    return empty.__module__, empty.__qualname__, code.co_code, code.co_varnames, kinds, optional, annotations
