"""What the processes of a run send each other: pickled bytes on the CPU, through torch.distributed.

A model is never sent, since each process has its own, and a tensor on the device of the one is read onto that of the
other. Nothing is written to a file, and nothing is read but from the processes of the same run.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, distributed

from posneurons import models
from posneurons.errors import RunError

AGAIN = "what is finished is kept: run the same command again"

_reader: ContextVar[Any] = ContextVar("reader", default=None)
"""The model of the process that reads a message at this moment."""


class _Pickler(pickle.Pickler):
    """Leaves a model out, and brings tensors to the CPU."""

    def __init__(self, file: io.BytesIO, model: Any) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._model = model

    def reducer_override(self, value: Any) -> Any:
        if self._model is not None and value is self._model:
            return _own_model, ()
        if isinstance(value, Tensor) and value.device.type != "cpu":
            return _on_own_device, (value.cpu(),)
        return NotImplemented


def _own_model() -> Any:
    return _reader.get()


def _on_own_device(value: Tensor) -> Tensor:
    return value.to(models.describe(_own_model()).device)


def pack(content: object, model: Any) -> io.BytesIO:
    """Bytes of anything that pickle can write, without the model of this process."""
    message = io.BytesIO()
    _Pickler(message, model).dump(content)
    return message


def unpack(message: io.BytesIO, model: Any) -> Any:
    """What was packed, with the model of this process in place of the other's."""
    before = _reader.set(model)
    try:
        return pickle.loads(message.getbuffer())  # noqa: S301 (from a process of this very run)
    finally:
        _reader.reset(before)


def broadcast(message: io.BytesIO | None = None) -> io.BytesIO:
    """Send a message from the first process to all others; in these, without one, wait for it.

    Raises:
        RunError: where a process is lost.
    """
    with _heard("a process"):
        length = torch.tensor([message.getbuffer().nbytes if message else 0])
        distributed.broadcast(length, src=0)
        content = _tensor(message) if message else torch.empty(int(length), dtype=torch.uint8)
        distributed.broadcast(content, src=0)
    return message or io.BytesIO(content.numpy().data)


def send(message: io.BytesIO) -> None:
    """Send a message to the first process. Raises RunError where that is lost."""
    with _heard("the first process"):
        content = _tensor(message)
        distributed.send(torch.tensor([len(content)]), dst=0)
        distributed.send(content, dst=0)


def receive(rank: int) -> io.BytesIO:
    """In the first process, wait for the message of another. Raises RunError where that is lost."""
    with _heard(f"process {rank}"):
        length = torch.zeros(1, dtype=torch.int64)
        distributed.recv(length, src=rank)
        content = torch.empty(int(length), dtype=torch.uint8)
        distributed.recv(content, src=rank)
    return io.BytesIO(content.numpy().data)


def _tensor(message: io.BytesIO) -> Tensor:
    return torch.frombuffer(message.getbuffer(), dtype=torch.uint8)


@contextmanager
def _heard(who: str) -> Iterator[None]:
    """Raise RunError where the other end of a connection is gone."""
    try:
        yield
    except RuntimeError:
        raise RunError(f"{who} of this run was lost (killed, or out of memory); {AGAIN}") from None
