"""Many processes under torchrun: one leads, the others help wherever the model is run over a corpus.

`torchrun --nproc-per-node N -m posneurons run ...` starts N processes. The leader, process 0, runs the program that one
process alone would run, and only it reads and writes files, fits, draws and prints. The others wait for calls. A
function that is `shared` is called on all: the leader sends its name and arguments (but for the model: each process has
loaded its own, on its own device), each does its share of the batches (`mine`: every N-th of the same list, so that a
batch is what it is in one process), and the leader merges the parts in the order of the processes. So results are
those of one process, but for the order in which float64 sums are taken.

What goes between processes goes by gloo: a pass sends its sums once, so that a GPU's own network would gain nothing.
An error in any process ends the call in all of them and is raised by the leader; a process that is lost ends the run.
Helpers know the model as it was loaded: one that was changed, or that has hooks on it, must be run `alone`.
"""

from __future__ import annotations

import operator
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from io import BytesIO
from itertools import islice
from typing import Any, NoReturn, ParamSpec, TypeVar

import torch
from torch import distributed

from posneurons import models
from posneurons.errors import PosNeuronsError, RunError
from posneurons.messages import AGAIN, broadcast, pack, receive, send, unpack

PATIENCE = timedelta(days=30)
"""How long a helper waits for a call: the leader may be busy with what is not shared."""

P = ParamSpec("P")
Part = TypeVar("Part")
Item = TypeVar("Item")


@dataclass
class _Share:
    """A shared call at work; `open` until an item is taken, since what is done with an item is done whole."""

    open: bool = True


@dataclass
class _Team:
    """The processes of a run, as one of them knows them.

    `busy` from when a call is sent until all have reported: then helpers listen to nothing else. `on_device` is how
    many have their model where this one has it, itself among them.
    """

    rank: int
    size: int
    model: Any = None
    share: _Share | None = None
    busy: bool = False
    alone: bool = False
    on_device: int = 1


_team: ContextVar[_Team | None] = ContextVar("team", default=None)


def lead(work: Callable[[], None]) -> None:
    """Do some work, with the help of all processes that torchrun has launched; without torchrun, do it.

    In the processes that help this returns when the work is done, without doing any of it by itself.

    Args:
        work: done by process 0 only; shared functions that it calls with the model of `load_model` are shared.

    Raises:
        RunError: where a process was lost, or the run was told to end (SIGTERM).
        SystemExit: in a process that helps, where the leader was lost.
    """
    if not _launched():
        work()
        return
    distributed.init_process_group("gloo", timeout=PATIENCE)
    team = _Team(distributed.get_rank(), distributed.get_world_size())
    before = _team.set(team)
    try:
        if team.rank:
            _help(team)
        else:
            _lead(team, work)
        distributed.destroy_process_group()
    finally:
        _team.reset(before)


def _launched() -> bool:
    return distributed.is_available() and distributed.is_torchelastic_launched()


def size() -> int:
    """How many processes there are: 1 without torchrun."""
    team = _team.get()
    return team.size if team else 1


def sharing() -> int:
    """How many processes share what is being done at this moment, for the totals of bars."""
    team = _team.get()
    return team.size if team and team.share and team.share.open else 1


def on_device() -> int:
    """How many processes work at this moment on the device of this one, itself among them."""
    team = _team.get()
    return team.on_device if team and team.share else 1


def refuse(command: str) -> None:
    """Raise RunError under torchrun, for a command that many processes cannot share; all but one end in silence."""
    if not _launched():
        return
    if distributed.get_node_local_rank(fallback_rank=0):
        sys.exit(2)
    raise RunError(f"{command}: many processes cannot share it; start it without torchrun")


def load_model(name: str, **options: Any) -> Any:
    """`models.load_model`; in a team by each process, by default (or by "cuda") on a GPU, or several, of its own."""
    team = _team.get()
    if team is None:
        return models.load_model(name, **options)
    _call(team, _load, None, (name,), options)
    _call(team, _count, None, (_call(team, _place, operator.add, (), {}),), {})
    return team.model


def _load(name: str, *, device: str | None = None, n_devices: int = 1, **options: Any) -> None:
    if device in (None, "cuda") and torch.cuda.is_available():
        device = f"cuda:{n_devices * distributed.get_node_local_rank(fallback_rank=0)}"
    team = _member()
    team.model = models.load_model(name, device=device, n_devices=n_devices, **options)


def _place() -> list[tuple[str, str]]:
    """The machine and the device where the model of this process is."""
    return [(socket.gethostname(), models.describe(_member().model).device)]


def _count(places: list[tuple[str, str]]) -> None:
    """Take note of how many are in the place of this process, of those of all in their order."""
    team = _member()
    team.on_device = places.count(places[team.rank])


def shared(merge: Callable[[Part, Part], Part]) -> Callable[[Callable[P, Part]], Callable[P, Part]]:
    """Mark a function of (model, ...) whose work the processes of a team share; without a team it is the function.

    What it does for each batch must not depend on the others, and what it returns must be of the batches it has seen.
    Arguments and results are pickled: a function among the arguments must have a name in its module.

    Args:
        merge: puts two parts together; changes neither.

    Raises:
        AssertionError: where it is called inside of another call that is shared.
    """

    def decorate(function: Callable[P, Part]) -> Callable[P, Part]:
        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            team = _team.get()
            if team is None or team.size == 1 or team.alone or args[0] is not team.model:
                return function(*args, **options)
            if team.share:
                raise AssertionError(f"{function.__qualname__} is shared, and was called inside of a shared call")
            return _call(team, call, merge, args, options)

        return call

    return decorate


def mine(items: Iterable[Item]) -> Iterator[Item]:
    """Of the items that all processes have, those that this one does: every N-th in a shared call, else all.

    What is done with an item is done whole: inside of it `mine` gives all.
    """
    team = _team.get()
    share = team.share if team else None
    if team is None or share is None or not share.open:
        yield from items
        return
    for item in islice(items, team.rank, None, team.size):
        share.open = False
        try:
            yield item
        finally:
            share.open = True


@contextmanager
def alone() -> Iterator[None]:
    """Share nothing inside, as the leader's model is not what the helpers have loaded: it has hooks on it."""
    team = _team.get()
    if team is None:
        yield
        return
    before, team.alone = team.alone, True
    try:
        yield
    finally:
        team.alone = before


def _lead(team: _Team, work: Callable[[], None]) -> None:
    """Work, then tell the helpers to leave, if they listen; after an error nothing may interrupt the end."""

    def told(*_: object) -> NoReturn:
        raise _Ended

    before = signal.signal(signal.SIGTERM, told)  # torchrun's way to say that another process has ended
    try:
        work()
    except BaseException as error:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        if isinstance(error, _Ended):
            raise RunError(f"a process of this run was lost, or the run was told to end; {AGAIN}") from None
        raise
    finally:
        if not team.busy:
            with suppress(RunError):
                broadcast(pack(None, None))
    signal.signal(signal.SIGTERM, before)


def _help(team: _Team) -> None:
    """Do what is called until told to leave; a helper has nothing to put in order, so it ends without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        while (call := unpack(broadcast(), team.model)) is not None:
            function, args, options = call
            send(_report(team, _do(team, function, args, options)))
    except RunError:
        sys.exit(1)


class _Ended(BaseException):
    """The leader was told to end; no error of what it is doing, so that nothing handles it as one."""


class _Failure:
    """An error instead of a part."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _call(
    team: _Team, function: Callable[..., Any], merge: Callable[[Any, Any], Any] | None, args: Any, options: Any
) -> Any:
    """Call a function in all processes and merge what they return, one part at a time, in their order.

    Raises the error of the first that failed, after all have reported.
    """
    quiet = options | {"progress": False} if "progress" in options else options
    message = pack((function, args, quiet), team.model)
    team.busy = True
    broadcast(message)
    found = _do(team, function, args, options)
    for rank in range(1, team.size):
        part = unpack(receive(rank), team.model)
        if isinstance(found, _Failure):
            continue
        if isinstance(part, _Failure):
            found = part
        elif merge is not None:
            found = merge(found, part)
    team.busy = False
    if isinstance(found, _Failure):
        raise found.error
    return found


def _do(team: _Team, function: Callable[..., Any], args: Any, options: Any) -> Any:
    """This process' part of a call, or what went wrong."""
    team.share = _Share()
    try:
        return getattr(function, "__wrapped__", function)(*args, **options)
    except Exception as error:  # noqa: BLE001 (the leader raises it)
        return _Failure(error)
    finally:
        team.share = None


def _report(team: _Team, part: Any) -> BytesIO:
    """A part in bytes; of an error that is nobody's input, where it happened too."""
    if isinstance(part, _Failure) and not isinstance(part.error, PosNeuronsError):
        told = "".join(traceback.format_exception(part.error))
        part.error.add_note(f"in process {team.rank} of {team.size}:\n{told}")
        try:
            unpack(pack(part, team.model), team.model)
        except Exception:  # noqa: BLE001 (not every error can be made again)
            part = _Failure(RuntimeError(f"in process {team.rank} of {team.size}:\n{told}"))
    return pack(part, team.model)


def _member() -> _Team:
    team = _team.get()
    if team is None:
        raise AssertionError("this process is in no team")
    return team
