"""What people feed a reader of treebanks by mistake: each is one line with the place, and nothing hangs or grows."""

import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posneurons.errors import TreebankError
from posneurons.sentences import Sentence
from posneurons.treebank import load_treebank

DEV = (Path(__file__).parent.parent / "posneurons/demo/treebank/dev.conllu").read_bytes()
LINES = DEV.split(b"\n")
WORD = next(number for number, line in enumerate(LINES) if line[:1] == b"3")  # the third word of the first sentence


def with_line(number: int, line: bytes) -> bytes:
    return b"\n".join([*LINES[:number], line, *LINES[number + 1 :]])


def column(number: int, value: bytes) -> bytes:
    row = LINES[WORD].split(b"\t")
    row[number] = value
    return with_line(WORD, b"\t".join(row))


def said(folder: Path, content: bytes, name: str = "x.conllu") -> str:
    """The one line that the file gives, without its folder."""
    path = folder / name
    path.write_bytes(content)
    with pytest.raises(TreebankError) as caught:
        load_treebank(path)
    sentence = str(caught.value).replace(str(path), name)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("content", "place", "expected"),
    [
        pytest.param(DEV[: len(DEV) // 2], r"\d+", r"\d+ columns; expected 10|goes on after the last word", id="cut"),
        pytest.param(with_line(WORD, LINES[WORD].replace(b"\t", b"  ")), WORD + 1, "1 columns; expected 10", id="tabs"),
        pytest.param(with_line(WORD, LINES[WORD] + b"\t_"), WORD + 1, "11 columns; expected 10", id="a column more"),
        pytest.param(with_line(WORD, LINES[WORD - 1]), WORD + 1, "id 2 out of order; expected 3", id="ids that repeat"),
        pytest.param(column(6, b"3"), WORD + 1, "the heads of word 3 run in a circle", id="a circle of heads"),
        pytest.param(column(6, b"999"), WORD + 1, "head '999'; expected 0, _ or the id of a word", id="a head nowhere"),
        pytest.param(column(6, b"9" * 5000), WORD + 1, "head '9999+; expected 0, _ or the id", id="a huge head"),
        pytest.param(column(0, b"9" * 5000), WORD + 1, "id '9999+; expected a number, a range", id="a huge id"),
        pytest.param(column(1, "naïve".encode("latin-1")), WORD + 1, r"not UTF-8 \(.* at byte \d+\)", id="Latin-1"),
        pytest.param(DEV.decode().encode("utf-16"), 1, "not UTF-8", id="UTF-16"),
        pytest.param(b"\xef\xbb\xbf" + DEV, 1, "the file begins with a byte order mark", id="BOM"),
        pytest.param(DEV.replace(b"\n", b"\r\n"), 1, "the line ends with CR LF; expected LF alone", id="CRLF"),
        pytest.param(b"", None, "no sentence in this file", id="empty"),
        pytest.param(b"\n\n\n", None, "no sentence in this file", id="blank lines"),
        pytest.param(column(3, b""), WORD + 1, "the column of the tag is empty; expected a tag, or _", id="no tag"),
        pytest.param(column(1, b"other"), WORD + 1, "form 'other', but `# text` is", id="another word"),
        pytest.param(b"PK\x03\x04" + bytes(100), 1, "a NUL character|1 columns", id="a zip"),
        pytest.param(b"{}\n", 1, "1 columns; expected 10 with single tabs between", id="JSON"),
    ],
)
def test_one_line_with_the_place(tmp_path: Path, content: bytes, place: int | str | None, expected: str) -> None:
    where = r"x\.conllu: " if place is None else rf"x\.conllu:{place}: "
    assert re.match(f"{where}.*({expected})", said(tmp_path, content))


def test_a_file_whose_tags_are_all_missing(tmp_path: Path) -> None:
    rows = [line.split(b"\t") for line in LINES]
    bare = [b"\t".join([*row[:3], b"_", *row[4:]]) if len(row) == 10 else row[0] for row in rows]
    assert said(tmp_path, b"\n".join(bare)).startswith("x: no word has a tag in 'upos'; expected")


def test_a_line_of_a_gigabyte_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.conllu"
    with path.open("wb") as file:
        file.write(b"1\tword")
        file.seek(1 << 30)
        file.write(b"\n")
    tracemalloc.start()
    try:
        with pytest.raises(TreebankError, match=r"x\.conllu:1: the line has 1048576 bytes or more; expected CoNLL-U"):
            load_treebank(path)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(1, 20_000))
def test_a_file_cut_anywhere_is_refused_or_is_its_beginning(tmp_path: Path, length: int) -> None:
    path, whole = tmp_path / "x.conllu", load_treebank(tmp_path_of(tmp_path)).sentences
    path.write_bytes(DEV[:length])
    fault, found = attempt(path)
    assert fault is None or re.match(rf"{re.escape(str(path))}(:\d+)?: ", fault)
    assert [sentence.words for sentence in found] == [sentence.words for sentence in whole[: len(found)]]


def attempt(path: Path) -> tuple[str | None, tuple[Sentence, ...]]:
    """What is wrong with a file, and its sentences where nothing is."""
    try:
        return None, load_treebank(path).sentences
    except TreebankError as error:
        return str(error), ()


def tmp_path_of(folder: Path) -> Path:
    """The whole file, beside those that are cut."""
    path = folder / "whole.conllu"
    if not path.exists():
        path.write_bytes(DEV)
    return path


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.integers(0, 4_000),
    removed=st.integers(0, 12),
    added=st.binary(max_size=6) | st.sampled_from([b"\t", b"\n"]),
)
def test_random_damage_is_one_line_or_harmless(tmp_path: Path, place: int, removed: int, added: bytes) -> None:
    path = tmp_path / "x.conllu"
    path.write_bytes(DEV[:place] + added + DEV[place + removed : 6_000])
    fault, found = attempt(path)
    assert "\n" not in fault if fault is not None else len(found)
