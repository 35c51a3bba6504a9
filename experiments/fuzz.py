"""Does any input end in something else than one clear line: a traceback, a hang, or memory that is not there?

Command:  python experiments/fuzz.py [--target NAME ...] [--seconds 60] [--seed 0] [--engine mutation] [--out F]
Cost:     as many seconds as asked for, for each target; one core; no model, no network.
Outcome:  a line for each target: inputs, seconds, how many were refused with a PosNeuronsError and how many were read,
          and what was found, which should be nothing. What was found is saved in --out with its traceback.

Inputs are real files (the embedded treebank, a whole small run directory, checkpoints and lists made here, and
treebanks of ../shared/data where they are), changed in one to four places: bytes, lines, values of a JSON file, columns
of a Parquet table, words that are known to hurt. An input is found wanting if it raises anything but a PosNeuronsError,
takes more than ten seconds of the processor, or asks for 3 GB more than there was. Each place in the package is
reported once.

--engine atheris lets libFuzzer choose the bytes by what code they reach (pip install atheris, in an environment of its
own; one target at a time, since libFuzzer ends the process). It sees bytes only, not the values of a table.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tables import markdown

import posneurons
from posneurons.errors import PosNeuronsError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PACKAGE = Path(posneurons.__file__).parent
SHARED = Path(__file__).parents[2] / "shared" / "data"
LONGEST = 10
"""Seconds of the processor that an input may take."""
ROOM = 3 << 30
"""Bytes that an input may ask for."""

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 3, 10**6, 10**9, 10**18, 2**63, -(2**70), 0.5, 1e308, -1e-320, float("nan"), float("inf"),
    "", " ", "x", "all", "first", "L0N1", "L999999999N999999999", "L1N2", "L٣N٤", "\ud800", "\0", "a\nb", "<script>",
    "é" * 300, "../../x", [], {}, [[]], [None], {"a": []}, {"state": "done"}, [1, 2], ["L0N1"], ["X"], [{}],
)  # fmt: skip
WORDS = (
    b"\0", b"\t", b"\n", b"\r\n", b" ", b"\xef\xbb\xbf", b"\xff", b"\xc3", b"1-999999999", b"99999999999999999999",
    b"8.1", b"1-2", b"_", b"#", b"# text = ", b"# newdoc", b"# sent_id = ", b"SpacesAfter=\\ud800", b"SpaceAfter=No",
    b"SpacesAfter=\\s\\n\\u0000x", b"(", b")", b"((((", b"(. .)", b"-NONE-", b"/", b"L999999999N999999999", b"NaN",
    b"Infinity", b"1e999", b"[" * 5000, b'{"a":' * 5000, b'"\\ud800"', b"9" * 5000, b"-0", b"null", b"{}", b"[]",
    b"\xe2\x80\xa8", b"\xd9\xa3", b"\xc2\xa0", b"=", b"|", b":", b",", b"+", b"@", b"..", b"\x1b[31m", b"a" * 70_000,
)  # fmt: skip


class Slow(BaseException):
    """An input took too long."""


@dataclass(frozen=True)
class Target:
    """What reads input: the names of its files with their contents, and what is done with one that was changed."""

    files: Mapping[str, Sequence[bytes]]
    read: Callable[[str, bytes], object]
    short: bool = True
    """Whether what an error says is bounded before the command line cuts it: files can be longer than a command."""


@dataclass
class Found:
    """What a run of the fuzzer saw."""

    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def first_kb(path: Path, size: int = 3000) -> bytes:
    """The beginning of a file, to the end of a sentence."""
    return path.read_bytes()[:size].rpartition(b"\n\n")[0] + b"\n\n"


def conllu(folder: Path) -> Target:
    """A treebank, read, written again and read again."""
    from posneurons.conll_writing import write_conllu
    from posneurons.treebank import load_treebank

    paths = [PACKAGE / "demo/treebank/dev.conllu", *sorted(SHARED.glob("ud/*/*-dev.conllu"))]

    def read(name: str, content: bytes) -> None:
        bank = load_treebank(written(folder, name, content), tag="upos")
        for sentence in bank:
            (sentence.text + sentence.after).encode()
        write_conllu(bank, folder / "again.conllu")
        again = load_treebank(folder / "again.conllu")
        if [s.words for s in again] != [s.words for s in bank]:
            raise RuntimeError("a treebank changes when it is written")

    return Target({"x.conllu": [first_kb(path) for path in paths]}, read)


def penn(folder: Path) -> Target:
    """A file of the Penn Treebank or of Brown, in a folder or a zip."""
    from posneurons.penn import load_brown, load_ptb

    tree = (
        b"( (S (NP-SBJ (NNP Mr.) (NNP Vinken)) (VP (VBZ is) (-NONE- *T*-1) (`` ``) (-LRB- -LRB-) (NN 1\\/2)) (. .)) )\n"
    )
    line = b"\n\tThe/at Fulton/np-tl County/nn-tl said/vbd ``/`` no/at evidence/nn ''/'' ;/. ;/. ./.\n\n"
    bundle = io.BytesIO()
    import zipfile

    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../wsj_0001.mrg", tree * 3)

    def read(name: str, content: bytes) -> None:
        path = written(folder / name.partition(".")[0], name, content)
        {"ca01": load_brown}.get(name, load_ptb)(path if name == "x.zip" else path.parent, tag="xpos")

    return Target({"wsj_0001.mrg": [tree * 3], "ca01": [line * 3], "x.zip": [bundle.getvalue()]}, read)


def lists(folder: Path) -> Target:
    """Neuron lists, classes of tags, words and tags in JSON."""
    from posneurons.neuron_lists import given_frame, read_neurons
    from posneurons.pretokenized import from_lists
    from posneurons.tagsets import read_classes, retag
    from posneurons.treebank import load_treebank

    bank = load_treebank(PACKAGE / "demo/treebank/dev.conllu")

    def read(name: str, content: bytes) -> None:
        path = written(folder, name, content)
        if name == "neurons.json":
            keys = read_neurons(path)
            given_frame(keys, "predict").to_parquet(folder / "given.parquet")
            for found in (each for tags in keys.values() for each in tags.values()):
                found.check(10**9, 10**9)
                found.layer_profile(10)
                found.figure()
        elif name == "classes.json":
            retag(bank, **read_classes(path))
        else:
            try:
                given = json.loads(content)
            except (ValueError, RecursionError):
                return
            both = isinstance(given, list) and len(given) == 2 and all(isinstance(each, list) for each in given)
            if both and all(isinstance(inner, list) for each in given for inner in each):
                made = from_lists(*given)
                json.dumps([s.text for s in made], ensure_ascii=False).encode()

    names = json.dumps({"NOUN": ["L0N1", "L3N12"], "VERB": ["L1N5"]}).encode()
    ours = json.dumps({"correlation": {"NOUN": ["L0N1"]}, "correlation@last": {"X": ["L0N1"]}}).encode()
    classes = json.dumps({"by": "tag", "rest": "other", "classes": {"content": ["NOUN", "VERB"]}}).encode()
    words = json.dumps([[["Dogs", "bark"], ["Hi"]], [["NOUN", "VERB"], ["INTJ"]]]).encode()
    return Target({"neurons.json": [names, ours], "classes.json": [classes], "words.json": [words]}, read)


def options(_: Path) -> Target:
    """What can stand on a command line: methods, ablations, splits, names of treebanks, of neurons, of tags."""
    from posneurons import ablations, methods, registry
    from posneurons.config import Config, fold_of
    from posneurons.neurons import NeuronSet
    from posneurons.sweep_plan import Plan
    from posneurons.tagsets import tag_reader
    from posneurons.treebank import load_treebank

    def config(text: str) -> None:
        Config(methods=(text,), ablations=("mean", text), split=text, at=text).check()

    readers: dict[str, tuple[Callable[[str], object], list[str]]] = {
        "method": (
            lambda text: str(methods.parse(text)),
            ["attribution:contrast=no,scope=all", "key_neuron_rule:share=0.05,steps=6", *methods.METHODS],
        ),
        "ablation": (
            lambda text: str(ablations.parse(text)),
            ["clamp:value=2", "scale:factor=0.5", "resample:donor=other,draws=10"],
        ),
        "fold": (fold_of, ["2/5"]),
        "config": (config, ["correlation", "mean", "given"]),
        "plan": (lambda text: Plan(arms=(text,), scopes=(text,)).check(), ["k", "layer", "all"]),
        "neuron": (lambda text: NeuronSet.parse(text.split()).names, ["L12N3456 L0N1"]),
        "tag": (
            lambda text: tag_reader(text)({"upos": "X", "xpos": "_", "feats": "A=b|C", "form": "x"}),
            ["upos+Number"],
        ),
        "code": (registry.find, ["en_ewt", "UD_English-EWT", "english"]),
        "treebank": (load_treebank, ["../x", "x.conllu", "e"]),
    }

    def read(name: str, content: bytes) -> None:
        text = content.decode("utf-8", "surrogateescape")
        if name != "treebank" or set(text) - set("/.~"):  # a disk is read, and takes its time
            readers[name][0](text)

    return Target({name: [each.encode() for each in seeds] for name, (_, seeds) in readers.items()}, read, short=False)


def run_directory(folder: Path) -> Target:
    """A run directory: its page, its findings, its figures, and going on with it."""
    from synthetic import write_run

    from posneurons.config import Config
    from posneurons.manifest import Manifest
    from posneurons.report import page_of
    from posneurons.run_files import read_run
    from posneurons.study import Study

    whole = write_run(
        folder / "run", tags=("A", "B", "C"), methods=("correlation",), ablations=("mean",), positions=("predict",),
        n_layers=3, n_units=16, controls=3, top=4, kept=8, n_pages=1,
    )  # fmt: skip
    files = {path.name: path.read_bytes() for path in sorted(whole.iterdir()) if path.suffix != ".html"}

    def read(name: str, content: bytes) -> None:
        (whole / name).write_bytes(content)
        try:
            page_of(read_run(whole)).encode()
            if name == "manifest.json":
                stored = Manifest.load(whole)
                given = {key: stored.config[key] for key in ("model", "treebank", "seed") if key in stored.config}
                Study(Config(**given), whole, "posneurons run", progress=False)
            if name == "neurons.json":
                _ = Study(Config(), whole, "", progress=False).keys
        finally:
            (whole / name).write_bytes(files[name])

    return Target({name: [content] for name, content in files.items()}, read)


def checkpoint(folder: Path) -> Target:
    """The small files of a checkpoint, and the headers of its weights."""
    import torch
    from safetensors.torch import save_file

    from posneurons.checkpoints import fit, open_checkpoint, stated_bytes, stated_dtype

    demo = PACKAGE / "demo/model"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, folder / "w.safetensors")
    index = json.dumps({"metadata": {"total_size": 32}, "weight_map": {"a": "w.safetensors", "b": "w.safetensors"}})
    files = {
        "config.json": (demo / "config.json").read_bytes(),
        "model.safetensors.index.json": index.encode(),
        "w.safetensors": (folder / "w.safetensors").read_bytes(),
    }
    for name, content in (*files.items(), ("tokenizer.json", b"{}")):
        written(folder / "model", name, content)

    def read(name: str, content: bytes) -> None:
        written(folder / "model", name, content)
        try:
            found = open_checkpoint(str(folder / "model"))
            _ = found.is_llama, stated_dtype(found), stated_bytes(found)
            fit(found, torch.device("cpu"), None, copies=1.0)
        finally:
            written(folder / "model", name, files[name])

    return Target({name: [content] for name, content in files.items()}, read)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "conllu": conllu, "penn": penn, "lists": lists, "options": options, "run": run_directory, "checkpoint": checkpoint,
}  # fmt: skip


def changed(rng: random.Random, name: str, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, changed in one to four places, by what kind of file it is."""
    content = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        way = rng.random()
        try:
            if name.endswith(".json") and way < 0.7:
                content = changed_json(rng, content)
            elif name.endswith(".parquet") and way < 0.8:
                content = changed_table(rng, content)
            else:
                content = changed_bytes(rng, content, seeds)
        except (
            ValueError,
            TypeError,
            OverflowError,
            RecursionError,
            OSError,
        ):  # of a file that the change before has made unreadable
            content = changed_bytes(rng, content, seeds)
    return content


def changed_bytes(rng: random.Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """Bytes put in, taken out, overwritten, doubled, cut off, or taken from another seed."""
    at = rng.randrange(len(content) + 1)
    end = min(len(content), at + rng.choice((0, 1, 1, 2, 8, 64, 1000)))
    other = rng.choice(seeds)
    new = rng.choice(
        (b"", rng.choice(WORDS), rng.choice(WORDS), rng.randbytes(rng.randint(1, 4)), content[at:end] * 2,
         other[rng.randrange(len(other) + 1) :][:200])
    )  # fmt: skip
    if rng.random() < 0.1:
        return content[:at] + new
    if rng.random() < 0.3 and b"\n" in content:
        lines = content.split(b"\n")
        one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[one], lines[two] = lines[two], lines[one]
        return b"\n".join(lines)
    return content[:at] + new + content[end:]


def changed_json(rng: random.Random, content: bytes) -> bytes:
    """A value of a JSON file replaced, left out, or put under another name."""
    whole = json.loads(content)
    places = list(_places(whole))
    if not places:
        return json.dumps(rng.choice(VALUES)).encode()
    holder, key = rng.choice(places)
    way = rng.random()
    if way < 0.15:
        del holder[key]
    elif way < 0.3 and isinstance(holder, dict):
        holder[str(rng.choice(VALUES))] = holder.pop(key)
    elif way < 0.4:
        holder[key] = rng.choice(places)[0]
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(whole).encode()


def _places(value: Any) -> Any:
    """Every container of a JSON value, with each of its keys."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def changed_table(rng: random.Random, content: bytes) -> bytes:
    """A cell, a column or rows of a table changed."""
    frame = pd.read_parquet(io.BytesIO(content))
    column, way = rng.choice(list(frame)), rng.random()
    row = rng.randrange(len(frame)) if len(frame) else 0
    if way < 0.45:
        cells = frame[column].astype(object).tolist()
        cells[row : row + 1] = [_of_its_kind(rng, frame[column])]
        frame = frame.iloc[: len(cells)].assign(**{column: cells})
    elif way < 0.65:
        frame = frame.assign(**{column: _of_its_kind(rng, frame[column]) if rng.random() < 0.5 else rng.choice(VALUES)})
    elif way < 0.75:
        frame = frame.drop(columns=column)
    elif way < 0.85:
        frame = frame.iloc[: rng.choice((0, 1, row))]
    elif way < 0.95:
        frame = pd.concat([frame, frame.iloc[row : row + 20]])
    else:
        frame = frame.rename(columns={column: rng.choice(list(frame))})
    out = io.BytesIO()
    frame.to_parquet(out, index=False)
    return out.getvalue()


def _of_its_kind(rng: random.Random, column: pd.Series[Any]) -> Any:
    """A value that a column of this kind can hold, so that the file is read and its content must be checked."""
    number = pd.api.types.is_numeric_dtype(column)
    like = [value for value in VALUES if value is None or isinstance(value, int | float) == number]
    return rng.choice(like)


def attempt(target: Target, name: str, content: bytes, found: Found, out: Path | None) -> None:
    """Read one input, and note how that ended."""
    begin = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        target.read(name, content)
    except PosNeuronsError as error:
        found.refused += 1
        if target.short and (len(str(error).splitlines()) > 1 or len(str(error)) > 2000):
            note(found, out, name, content, error)
    except (Exception, Slow) as error:  # noqa: BLE001 (to see them all is what this is for)
        note(found, out, name, content, error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    found.inputs += 1
    took = time.process_time() - begin
    found.seconds += took
    found.slowest = max(found.slowest, took)


def note(found: Found, out: Path | None, name: str, content: bytes, error: BaseException) -> None:
    """Count a fault by its kind and the innermost line of the package, and keep the first input of each."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename.startswith(str(PACKAGE))]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"
    label = f"{type(error).__name__} at {place}"
    found.faults[label] += 1
    if out is not None and found.faults[label] == 1:
        stem = label.replace(" ", "_").replace(":", "_")
        written(out, f"{stem}-{name}", content)
        written(out, f"{stem}-{name}.txt", "".join(traceback.format_exception(error)).encode("utf-8", "replace"))


def mutate(target: Target, seconds: float, seed: int, out: Path | None = None, inputs: int | None = None) -> Found:
    """Read changed files until the time is over, or so many inputs."""
    rng, found, end = random.Random(seed), Found(), time.monotonic() + seconds  # noqa: S311
    names = list(target.files)
    while time.monotonic() < end and (inputs is None or found.inputs < inputs):
        name = rng.choice(names)
        attempt(target, name, changed(rng, name, target.files[name]), found, out)
    return found


def cover(target: Target, seconds: float, seed: int, out: Path, corpus: Path) -> None:
    """Let libFuzzer choose inputs by the code that they reach; tells what was found every thousand, and never ends."""
    import atheris

    names, found = list(target.files), Found()
    for number, name in enumerate(names):
        for seed_number, content in enumerate(target.files[name]):
            written(corpus, f"{number}-{seed_number}", bytes([number]) + content)

    def one(data: bytes) -> None:
        if data:
            attempt(target, names[data[0] % len(names)], data[1:], found, out)
            if found.inputs % 1000 == 0:
                sys.stdout.write(f"{found}\n")
                sys.stdout.flush()

    words = [
        f"-max_total_time={int(seconds)}",
        f"-seed={seed + 1}",
        "-max_len=20000",
        "-timeout=60",
        "-rss_limit_mb=6000",
    ]
    atheris.Setup([sys.argv[0], *words, str(corpus)], one)
    atheris.Fuzz()


def limit() -> None:
    """From now on, memory has an end, and an input that takes too long is stopped."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, resource.RLIM_INFINITY))

    def stop(*_: object) -> None:
        raise Slow(f"more than {LONGEST} seconds")

    signal.signal(signal.SIGPROF, stop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="for each target (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("mutation", "atheris"), default="mutation")
    parser.add_argument("--out", type=Path, default=Path("fuzz-found"), help="where what was found goes")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in asked.target:
            folder = Path(scratch) / name
            folder.mkdir()
            if asked.engine == "atheris":
                import atheris

                with atheris.instrument_imports(include=["posneurons", "conllu"]):
                    target = TARGETS[name](folder)
                limit()
                cover(target, asked.seconds, asked.seed, asked.out / name, folder / "corpus")
            target = TARGETS[name](folder)
            limit()
            found = mutate(target, asked.seconds, asked.seed, asked.out / name)
            faults = "; ".join(f"{label} ({count})" for label, count in found.faults.most_common())
            rows.append(
                (name, found.inputs, f"{found.seconds:.0f}", found.refused, f"{found.slowest:.2f}", faults or "–")
            )
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
    columns = ["target", "inputs", "seconds", "refused", "slowest (s)", "faults"]
    sys.stdout.write(f"{markdown(pd.DataFrame(rows, columns=columns))}\n")


if __name__ == "__main__":
    main()
