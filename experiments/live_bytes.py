"""Bytes of the tensors that are alive while something runs, counted at every operation, on any device and on "meta"."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """While it is on, `now` and `peak` are the bytes of the tensors made since, each storage once.

    What an operation allocates and frees inside itself is not seen. What was there before, such as the weights and
    views of them, counts nothing.

    >>> import torch
    >>> with LiveBytes() as seen:
    ...     kept = torch.zeros(1000) + torch.ones(1000)
    >>> seen.now, seen.peak
    (4000, 12000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for each in tree_iter((args, kwargs)):
            self._meet(each, new=False)
        found = func(*args, **(kwargs or {}))
        for each in tree_iter(found):
            self._meet(each, new=True)
        return found

    def _meet(self, each: Any, *, new: bool) -> None:
        if not isinstance(each, Tensor):
            return
        storage = each.untyped_storage()
        key = storage._cdata
        if key not in self._held:
            self._held[key] = storage.nbytes() if new else 0
            self.now += self._held[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key).atexit = False

    def _gone(self, key: int) -> None:
        self.now -= self._held.pop(key)
