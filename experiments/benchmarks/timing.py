"""Time, memory, and processes of their own."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Self

import psutil
import torch

EVERY = 0.01
"""Seconds between two looks at the memory."""


def now() -> float:
    """Seconds of a clock, all work handed to a GPU done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class Spent:
    """Seconds of each repeat of a job, and what the last one gave."""

    seconds: tuple[float, ...]
    found: Any = None

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """How much longer the slowest repeat took, as a share of the least; NaN for one repeat."""
        return max(self.seconds) / self.least - 1 if len(self.seconds) > 1 else float("nan")


def turns(jobs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Spent]:
    """All jobs one after the other, so many times, so that what else the machine does meets each of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    found: dict[str, Any] = {}
    for _ in range(repeats):
        for name, job in jobs.items():
            gc.collect()
            begin = now()
            found[name] = job()
            seconds[name].append(now() - begin)
    return {name: Spent(tuple(seconds[name]), found[name]) for name in jobs}


class Peak:
    """While the context is open, how far the resident memory of this process grows: `bytes`, looked at every 10 ms."""

    def __init__(self) -> None:
        self.bytes = 0
        self._process, self._open = psutil.Process(), True

    def __enter__(self) -> Self:
        gc.collect()
        self._before = self._process.memory_info().rss
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._watcher.join()

    def _watch(self) -> None:
        while self._open:
            self.bytes = max(self.bytes, self._process.memory_info().rss - self._before)
            time.sleep(EVERY)


def alone(function: Callable[..., Any], *given: Any) -> Any:
    """What a function of a module gives in a fresh process, or its exception; a process that dies is one too."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *given).result()
