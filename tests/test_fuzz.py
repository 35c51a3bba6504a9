"""Whatever is read, the end is a result or a PosNeuronsError: a small, repeatable part of `experiments/fuzz.py`."""

import json
import runpy
import shutil
import signal
import string
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import write_run

from posneurons import ablations, cli, methods, registry
from posneurons.config import fold_of
from posneurons.errors import PosNeuronsError, RunError, TreebankError
from posneurons.manifest import read_manifest
from posneurons.neuron_lists import read_neurons
from posneurons.neurons import NeuronSet
from posneurons.penn import load_ptb
from posneurons.pretokenized import from_lists
from posneurons.report import page_of
from posneurons.run_files import read_run
from posneurons.shapes import COUNT, FLAG, RANK, REAL, TEXT, WHOLE, check_shape
from posneurons.tagsets import read_classes, tag_reader
from posneurons.treebank import load_treebank

FOLDER = Path(__file__).parents[1] / "experiments"
few = settings(
    max_examples=60, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
odd = st.text(alphabet=st.sampled_from([*string.printable, "\0", "\u2028", "\xa0", "٣", "é", "😀"]), max_size=12)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | odd | st.sampled_from(["L0N1", "all", "\ud800", "\0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    monkeypatch.syspath_prepend(str(FOLDER))
    before = signal.getsignal(signal.SIGPROF)
    yield SimpleNamespace(**runpy.run_path(str(FOLDER / "fuzz.py"), run_name="imported"))
    signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize(
    ("name", "inputs"), [("conllu", 150), ("penn", 150), ("lists", 60), ("options", 300), ("checkpoint", 60)]
)
def test_changed_files_are_read_or_refused(fuzz: SimpleNamespace, tmp_path: Path, name: str, inputs: int) -> None:
    found = fuzz.mutate(fuzz.TARGETS[name](tmp_path), 600, seed=1, inputs=inputs)
    assert not found.faults
    assert found.inputs == inputs
    assert 0 < found.refused < inputs


@pytest.mark.slow
def test_changed_run_directories_are_a_page_or_refused(fuzz: SimpleNamespace, tmp_path: Path) -> None:
    found = fuzz.mutate(fuzz.TARGETS["run"](tmp_path), 600, seed=1, inputs=40)
    assert not found.faults
    assert 0 < found.refused < found.inputs == 40


@pytest.mark.parametrize(
    ("fault", "label"),
    [
        (ValueError("x"), "ValueError at outside"),
        (RunError("two\nlines"), "RunError at outside"),
        (None, "Slow at outside"),
    ],
)
def test_the_fuzzer_sees_faults(
    fuzz: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception | None, label: str
) -> None:
    def read(*_: object) -> None:
        if fault is not None:
            raise fault
        end = time.process_time() + 5
        while time.process_time() < end:
            pass

    def stop(*_: object) -> None:
        raise fuzz.Slow("too long")

    monkeypatch.setitem(fuzz.attempt.__globals__, "LONGEST", 0.05)
    signal.signal(signal.SIGPROF, stop)
    found = fuzz.mutate(fuzz.Target({"x": [b"seed"]}, read), 600, seed=0, out=tmp_path, inputs=1)
    assert dict(found.faults) == {label: 1}
    assert len(list(tmp_path.iterdir())) == 2  # the input and the traceback


def check_line(error: Exception, begin: str = "") -> None:
    """An error is one line of reasonable length."""
    assert str(error).startswith(begin)
    assert 10 < len(cli.one_line(error)) < 800


rows = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "3", "1-2", "2-3", "1.1", "0.1", "1-999999999", "٣", "-1", "", "x"]),
        st.sampled_from(["a", "_", " ", "ab", "a b", "\xa0"]) | odd, odd, st.sampled_from(["X", "_", ""]), odd, odd,
        st.sampled_from(["0", "1", "2", "_", "٣", "-1", "9" * 20]), odd, odd,
        st.sampled_from(["_", "SpaceAfter=No", "SpacesAfter=\\s\\n", "SpacesAfter=\\ud800", "SpacesAfter=x"]) | odd,
    ).map("\t".join)
    | st.sampled_from(["", "# text = a", "# text = a ab", "# newpar", "# newdoc id = \\", "#", "# sent_id"]),
    max_size=6,
)  # fmt: skip


@few
@given(lines=rows)
def test_rows_of_any_kind(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "x.conllu"
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    try:
        bank = load_treebank(path, tag="upos+Number")
    except TreebankError as error:
        check_line(error)
    else:
        for sentence in bank:
            assert not sentence.after.strip()
            assert all(sentence.text[word.start : word.end].strip() for word in sentence.words)


@few
@given(
    pieces=st.lists(
        st.sampled_from(["(", ")", "(", ")", " ", "\n", "NN", "-NONE-", "a", "U.S.", ".", "``", "*x*", "\0"])
    )
)
def test_brackets_of_any_kind(tmp_path: Path, pieces: list[str]) -> None:
    (tmp_path / "a.mrg").write_text("".join(pieces), encoding="utf-8")
    try:
        assert len(load_ptb(tmp_path, tag="xpos+form"))
    except TreebankError as error:
        check_line(error)


@few
@given(content=anything)
def test_json_of_any_kind(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(content))
    for read in (read_neurons, read_classes, lambda path: read_manifest(path.parent)):
        try:
            read(path)
        except PosNeuronsError as error:
            check_line(error, str(path))


@few
@given(
    words=st.lists(st.lists(anything, max_size=2), max_size=2),
    tags=st.lists(st.lists(anything, max_size=2), max_size=2),
)
def test_lists_of_any_kind(words: Any, tags: Any) -> None:
    try:
        assert all(sentence.text.encode() for sentence in from_lists(words, tags))
    except TreebankError as error:
        check_line(error)


@settings(few, max_examples=300)
@given(text=odd | st.from_regex(r"\w{1,20}:(\w{1,9}=\S{0,9},?){0,3}") | st.from_regex(r"[0-9]+/[0-9]+"))
def test_words_of_a_command_of_any_kind(text: str) -> None:
    for read in (
        methods.parse,
        ablations.parse,
        fold_of,
        tag_reader,
        registry.find,
        lambda text: NeuronSet.parse([text]),
    ):
        try:
            read(text)
        except PosNeuronsError as error:
            check_line(error)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(
        tmp_path_factory.mktemp("run"), tags=("A", "B", "C"), methods=("correlation",), ablations=("mean",),
        positions=("predict",), n_layers=3, n_units=16, controls=3, top=4, kept=8, n_pages=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "column", "value", "sentence"),
    [
        ("lesions", "delta", "x", "column delta: .*; expected numbers"),
        ("lesions", "tag", 3, "column tag: 3; expected text"),
        ("lesions", "tag", "<null>", "column tag: None; expected text"),
        ("ranking", "layer", 10**9, r"column layer: 1e\+09; expected whole numbers below 10000"),
        ("ranking", "neuron", 0.5, "column neuron: 0.5; expected whole numbers below 1000000000000000"),
        ("ranking", "neuron", float("nan"), "column neuron: nan; expected whole numbers below 1000000000000000"),
        ("ranking", "rank", float("inf"), "column rank: inf; expected finite numbers"),
        ("dissociations", "contrast_a", True, "column contrast_a: bool; expected numbers"),
    ],
)
def test_a_column_of_another_kind_is_named(
    whole: Path, tmp_path: Path, name: str, column: str, value: Any, sentence: str
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    path = run / f"{name}.parquet"
    frame = pd.read_parquet(path)
    frame[column] = pd.Series([None if value == "<null>" else value] * len(frame), dtype=object).infer_objects()
    frame.to_parquet(path)
    with pytest.raises(RunError, match=rf"{name}\.parquet: {sentence}; delete the file and repeat"):
        read_run(run)


@pytest.mark.parametrize(
    ("name", "place", "value", "sentence"),
    [
        ("manifest", ("model", "n_layers"), 10**18, "model: n_layers: 1000000000000000000; expected the number of a"),
        ("manifest", ("model", "d_mlp"), "x", "model: d_mlp: 'x'; expected a whole number of at least 0"),
        ("manifest", ("config", "methods"), 3, "config: methods: 3; expected a list"),
        ("manifest", ("treebank", "splits"), [1], r"treebank: splits: \[1\]; expected a JSON object"),
        ("probe", ("results", 0, "confusion", 0, 0), -1, "results, item 0: confusion, item 0, item 0: -1; expected a"),
        ("probe", ("results", 0, "per_tag_f1", "A"), "x", "per_tag_f1: A: 'x'; expected a number or null"),
        ("probe", ("results", 0, "classes", 0), "\ud800", r"classes, item 0: '\\ud800'; expected text"),
        ("verify", ("agreement", 0, "words"), None, "agreement, item 0: words: None; expected a whole number"),
        ("neuron_pages", ("pages", 0, "contexts", 0, "cut"), [True], "cut: 1 items; expected 2"),
        ("neuron_pages", ("pages", 0, "counts", 0, 0), "x", "counts, item 0, item 0: 'x'; expected a whole number"),
    ],
)
def test_a_value_of_another_kind_is_named(
    whole: Path, tmp_path: Path, name: str, place: tuple[Any, ...], value: Any, sentence: str
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    content = json.loads((run / f"{name}.json").read_text())
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    (run / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=rf"{name}\.json: .*{sentence}"):
        read_run(run)


def test_the_run_itself_is_of_its_shape(whole: Path) -> None:
    assert page_of(read_run(whole))


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (TEXT, ["", "é"], [None, 1, "\ud800"]),
        (WHOLE, [0, -3, 10**15], [True, 0.5, None, 10**15 + 1]),
        (COUNT, [0, 7], [-1, 7.0]),
        (REAL, [None, 1, 0.5, float("nan")], ["1", True, 10**400]),
        (RANK, [None, 1], [0, 1.5]),
        (FLAG, [True], [0, None]),
        ([COUNT], [[], [1]], [None, {}, [1, "x"]]),
        ((TEXT, COUNT), [["a", 1]], [["a"], ["a", 1, 1], [1, "a"], "ab"]),
        ({"a": COUNT, "b?": TEXT}, [{"a": 1}, {"a": 1, "b": None, "c": []}], [{}, {"a": None}, {"a": 1, "b": 2}, []]),
        ({str: REAL}, [{}, {"x": None}], [{"x": "y"}, {"\ud800": 1}]),
    ],
)
def test_shapes(kind: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_shape("x", value, kind)
    for value in bad:
        with pytest.raises(
            RunError, match=r"^x\b.*; expected .*; delete the file and repeat the command that made it$"
        ):
            check_shape("x", value, kind)
