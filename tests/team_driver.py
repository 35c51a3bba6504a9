"""What the processes of a team do in the tests: started by torchrun, with the name of a task, and a file to write.

`compare FILE`: every shared function by all processes and by the leader alone; how far they differ, by name, as JSON.
`errors FILE`: what the leader sees of errors in one process and in all, and who shares a device, as JSON.
`die CALL N ARGUMENTS...`: the command line, where process 1 is killed the N-th time that CALL is shared with it.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

if sys.argv[1] != "die":  # which needs the command line, as it is
    import conftest  # noqa: F401 (types and shapes are checked here too)

import demo
import numpy as np
import torch

import posneurons as pn
from posneurons import distributed, fluency, passes, profiles, sweeps
from posneurons.activations import cache_activations, token_statistics
from posneurons.errors import PosNeuronsError
from posneurons.files import write_json
from posneurons.fills import Condition, make_fills
from posneurons.lesion_study import Workbench
from posneurons.lesions import word_losses
from posneurons.lexicon import lexicon
from posneurons.neurons import NeuronSet
from posneurons.singles import exact_effects
from posneurons.sweep_plan import Best, Plan

TOKENS = 150
RANKINGS = (
    "lape", "auroc:shortlist=3", "partial_correlation", "attribution", "attribution:scope=all,baseline=mean",
    "attribution:baseline=donor", "relp", "integrated_gradients:path=joint", "key_neuron_rule",
    "logprob_increase:shortlist=5", "dynamic_logit_attribution", "elastic_net:shortlist=3",
)  # fmt: skip


def numbers(found: Any) -> list[np.ndarray]:
    """Every number of a result, in order."""
    if isinstance(found, torch.Tensor):
        return [found.double().numpy()]
    if isinstance(found, dict):
        return [each for value in found.values() for each in numbers(value)]
    if isinstance(found, list | tuple):
        return [each for value in found for each in numbers(value)]
    if is_dataclass(found):
        return [each for field in fields(found) for each in numbers(getattr(found, field.name))]
    if isinstance(found, str | None):
        return []
    return [np.asarray(found, dtype=np.float64)] if np.asarray(found).dtype.kind in "biuf" else []


def apart(a: Any, b: Any) -> float:
    """The largest difference of two results, over the largest number of the array that it stands in."""
    pairs = list(zip(numbers(a), numbers(b), strict=True))
    assert pairs
    worst = 0.0
    for x, y in pairs:
        np.testing.assert_array_equal(np.isnan(x), np.isnan(y))
        finite = np.isfinite(x)
        np.testing.assert_array_equal(x[~finite], y[~finite])
        size = np.abs(x[finite]).max(initial=0)
        worst = max(worst, float(np.abs(x[finite] - y[finite]).max(initial=0) / (size or 1)))
    return worst


def tasks(folder: Path) -> dict[str, Callable[[Any], Any]]:
    """What is compared, by name."""
    corpus = demo.corpus().select(np.arange(demo.corpus().n_rows) % 32 == 0)
    train, test = corpus.split("train"), corpus.split("test")
    neurons = NeuronSet.parse(["L0N3", "L5N700", "L2N10", "L2N9"])
    sets = [NeuronSet.parse([name]) for name in neurons.names] + [neurons]
    how: dict[str, Any] = {"tokens": TOKENS}
    plan = Plan(arms=("k",), ks=(1, 2), ablations=("mean",), scopes=("all",), controls=2, top=2)
    best = {"by hand": {"NOUN": Best(NeuronSet.parse(["L1N3", "L4N5"])), "VERB": Best(NeuronSet.parse(["L0N9"]))}}

    def losses(model: Any, ablation: str, **more: Any) -> Any:
        fills = make_fills(model, train, test, ablation, neurons, **how)
        table = lexicon(train, model.cfg.d_vocab)
        return word_losses(model, test, [Condition(each, fills) for each in sets], lexicon=table, **how, **more)

    def swept(model: Any) -> Any:
        here = folder / f"sweep{len(list(folder.glob('sweep*')))}"
        bench = Workbench(model, corpus, **how)
        frame = sweeps.sweep(model, corpus, best, plan, here, workbench=bench, chunk=3, shard_words=50, **how)
        assert len(list(here.glob("*.parquet"))) > 3  # more than a round of files
        return list(frame.select_dtypes("number").to_numpy(np.float64).T)

    found: dict[str, Callable[[Any], Any]] = {
        "tag_moments": lambda model: passes.tag_moments(model, train, at=("predict", "last"), **how),
        "gate_moments": lambda model: passes.gate_moments(model, train, **how),
        "tag_histograms": lambda model: passes.tag_histograms(model, train, at=("first", "last"), pilot=60, **how),
        "token_statistics": lambda model: token_statistics(model, train, **how),
        "cache_activations": lambda model: cache_activations(model, train, neurons, at="last", **how),
        "profiles": lambda model: profiles.profiles(model, train, neurons, **how),
        "word_losses": lambda model: losses(model, "mean", measures=("first", "word", "category")),
        "resampled": lambda model: losses(model, "resample:draws=2"),
        "exact_effects": lambda model: exact_effects(model, test, neurons, fill="mean", **how),
        "fluency": lambda model: fluency.fluency(model, corpus, **how),
        "sweep": swept,
    }
    for name in RANKINGS:
        found[name] = lambda model, name=name: pn.rank(model, corpus, name, **how)
    return found


def compare(file: Path) -> None:
    """Each task by all and by one."""
    model = distributed.load_model("demo", device="cpu")
    content: dict[str, Any] = {"size": distributed.size()}
    for name, run in tasks(file.parent).items():
        begin = time.perf_counter()
        try:
            together = run(model)
            with distributed.alone():
                content[name] = apart(together, run(model))
        except Exception as error:  # noqa: BLE001 (the others are to be seen too)
            content[name] = f"{type(error).__name__}: {error}"
        sys.stderr.write(f"{name}: {time.perf_counter() - begin:.1f} s\n")
    write_json(file, content)


@distributed.shared(lambda a, b: a + b)
def items(model: Any, wrong: list[int], kind: str = "input") -> list[int]:  # noqa: ARG001
    """Which of eight items each process has; an error at some of them."""
    found = []
    for item in distributed.mine(range(8)):
        assert list(distributed.mine("ab")) == ["a", "b"]  # inside of an item nothing is shared
        if item in wrong and kind == "input":
            raise PosNeuronsError(f"item {item} is wrong")
        if item in wrong:
            raise Unsendable(lambda: None) if kind == "unsendable" else ValueError(f"item {item}")
        found.append(item)
    assert list(distributed.mine(range(8))) == found
    return found


class Unsendable(Exception):  # noqa: N818
    """An error that pickle cannot write."""

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__("not to be sent")
        self.function = function


@distributed.shared(lambda a, b: a + b)
def nested(model: Any) -> list[int]:
    return items(model, [])


@distributed.shared(lambda a, b: a + b)
def on_device(model: Any) -> list[int]:  # noqa: ARG001
    """What each process thinks how many are on its device."""
    return [distributed.on_device()]


def errors(file: Path) -> None:
    """What the leader sees: type, sentence and notes of the error, or what was returned."""

    def seen(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # noqa: BLE001
            return [type(error).__name__, str(error), *getattr(error, "__notes__", [])]

    model = distributed.load_model("demo", device="cpu")
    content = {
        "on one device": [*on_device(model), distributed.on_device()],
        "none": seen(lambda: items(model, [])),
        "other": seen(lambda: items(model, [3])),
        "leader": seen(lambda: items(model, [4])),
        "all": seen(lambda: items(model, list(range(8)))),
        "fault": seen(lambda: items(model, [1], kind="fault")),
        "unsendable": seen(lambda: items(model, [1], kind="unsendable")),
        "nested": seen(lambda: nested(model)),
        "another model": seen(lambda: items(object(), [])),
        "model": seen(lambda: distributed.load_model("./no/such/folder", device="cpu")),
        "after": seen(lambda: items(model, [])),
    }
    write_json(file, content)


def die(call: str, count: int, arguments: list[str]) -> None:
    """The command line; process 1 does not outlive a certain call."""
    done, left = distributed._do, [count]

    def doing(team: Any, function: Any, *rest: Any) -> Any:
        left[0] -= team.rank == 1 and function.__name__ == call
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return done(team, function, *rest)

    distributed._do = doing
    from posneurons import cli

    sys.argv = ["posneurons", *arguments]
    cli.main()


if __name__ == "__main__":
    task, *rest = sys.argv[1:]
    if task == "die":
        die(rest[0], int(rest[1]), rest[2:])
    else:
        distributed.lead(lambda: {"compare": compare, "errors": errors}[task](Path(rest[0])))
