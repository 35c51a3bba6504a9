"""CoNLL-U to sentences: hand-made files with hand-counted spans, every odd row, random round trips, real treebanks."""

import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared import shared_data, treebank

from posneurons import conll
from posneurons.errors import TreebankError
from posneurons.sentences import Sentence, Word
from posneurons.treebank import load_treebank


def row(number: object, form: str, tag: str = "X", misc: str = "_", feats: str = "_", xpos: str = "_") -> str:
    return "\t".join([str(number), form, "lemma", tag, xpos, feats, "0", "dep", "_", misc])


def write(folder: Path, *lines: str, name: str = "x.conllu") -> Path:
    path = folder / name
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return path


def read(folder: Path, *lines: str, tag: str = "upos") -> Sentence:
    """The only sentence of a file with these lines."""
    (sentence,) = load_treebank(write(folder, *lines), tag=tag)
    return sentence


def fault(folder: Path, *lines: str, tag: str = "upos") -> str:
    """The error that these lines give, without the folder."""
    path = write(folder, *lines)
    with pytest.raises(TreebankError) as caught:
        load_treebank(path, tag=tag)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path}", "x.conllu")


def spans(sentence: Sentence) -> list[tuple[str, int, int]]:
    return [(word.form, word.start, word.end) for word in sentence.words]


# Golden: the spans are counted by hand.


def test_a_sentence_with_all_that_conllu_has(tmp_path: Path) -> None:
    # I don't go.      I=0..1, do=2..4, n't=4..7, go=8..10, .=10..11
    sentence = read(
        tmp_path,
        "# newdoc id = doc-1",
        "# sent_id = s-1",
        "# text = I don't go.",
        row(1, "I", "PRON"),
        row("2-3", "don't", "_"),
        row(2, "do", "AUX"),
        row(3, "n't", "PART"),
        row("3.1", "(not)", "VERB"),
        row(4, "go", "VERB", "SpaceAfter=No"),
        row(5, ".", "PUNCT"),
    )
    assert sentence == Sentence(
        id="s-1",
        text="I don't go.",
        words=(
            Word("I", "PRON", 0, 1),
            Word("do", "AUX", 2, 4),
            Word("n't", "PART", 4, 7),
            Word("go", "VERB", 8, 10),
            Word(".", "PUNCT", 10, 11),
        ),
        document="doc-1",
        split="all",
        multiword=((1, 3),),
    )


def test_words_behind_one_surface_share_its_span(tmp_path: Path) -> None:
    sentence = read(tmp_path, "# text = im Haus", row("1-2", "im"), row(1, "in"), row(2, "dem"), row(3, "Haus"))
    assert [(word.form, word.start, word.end, word.shared) for word in sentence.words] == [
        ("in", 0, 2, True),
        ("dem", 0, 2, True),
        ("Haus", 3, 7, False),
    ]


def test_a_range_of_one_word_with_another_form_is_shared(tmp_path: Path) -> None:
    sentence = read(tmp_path, row("1-1", "ist's"), row(1, "ist"))
    assert sentence.words == (Word("ist", "X", 0, 5, shared=True),)


def test_a_surface_as_long_as_its_words_but_other_letters_is_shared(tmp_path: Path) -> None:
    sentence = read(tmp_path, row("1-2", "wanna"), row(1, "want"), row(2, "a"))
    assert [(word.start, word.end, word.shared) for word in sentence.words] == [(0, 5, True), (0, 5, True)]


def test_a_value_may_hold_an_equals_sign(tmp_path: Path) -> None:
    assert read(tmp_path, row(1, "a", feats="Number=a=b|Case=Nom"), tag="Number").words[0].tag == "a=b"


def test_case_of_a_surface_may_differ_from_its_words(tmp_path: Path) -> None:
    sentence = read(tmp_path, row("1-2", "Don't"), row(1, "do"), row(2, "n't"), row(3, "go"))
    assert spans(sentence) == [("do", 0, 2), ("n't", 2, 5), ("go", 6, 8)]
    assert sentence.text == "Don't go"


def test_text_is_rebuilt_from_forms_and_spaces(tmp_path: Path) -> None:
    sentence = read(
        tmp_path,
        row(1, "a", misc="SpaceAfter=No"),
        row("2-3", "bc", misc="SpacesAfter=\\s\\s"),
        row(2, "b", misc="SpaceAfter=No"),
        row(3, "c"),
        row(4, "d", misc="Ref=a=b|SpacesAfter=\\t\\n"),
        row(5, "e", misc="SpacesAfter=\\u00A0"),
        row(6, "f", misc="SpaceAfter=No"),
        row(7, "g", misc="SpacesAfter=\\n"),
    )
    assert sentence.text == "abc  d\t\ne\u00a0fg"


def test_a_pipe_in_spaces_after_is_not_white_space(tmp_path: Path) -> None:
    """The text it gives then holds more than the forms, and that is said."""
    found = fault(tmp_path, row(1, "f", misc="SpacesAfter=\\p"), row(2, "g"))
    assert found.startswith("x.conllu:2: form 'g', but `# text` is '|g' here")


def test_forms_and_texts_may_hold_spaces(tmp_path: Path) -> None:
    sentence = read(tmp_path, "# text = 10 000  km", row(1, "10 000", misc="A=b  c"), row(2, "km"))
    assert spans(sentence) == [("10 000", 0, 6), ("km", 8, 10)]
    assert spans(read(tmp_path, row(1, "a  b"), row(2, "c"))) == [("a  b", 0, 4), ("c", 5, 6)]


def test_text_with_an_equals_sign(tmp_path: Path) -> None:
    sentence = read(tmp_path, "# text = a = b", row(1, "a"), row(2, "="), row(3, "b"))
    assert (sentence.text, spans(sentence)) == ("a = b", [("a", 0, 1), ("=", 2, 3), ("b", 4, 5)])


def test_an_underscore_can_be_a_word(tmp_path: Path) -> None:
    assert spans(read(tmp_path, row(1, "_").replace("lemma", "_"), row(2, "x"))) == [("_", 0, 1), ("x", 2, 3)]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("upos", ["NOUN", "VERB"]),
        ("xpos", ["NN", "_"]),
        ("Number", ["Plur", "_"]),
        ("lemma", ["lemma", "lemma"]),
        ("form", ["cats", "sleep"]),
        ("upos+Number", ["NOUN+Plur", "_"]),
    ],
)
def test_the_column_of_the_tag(tmp_path: Path, tag: str, expected: list[str]) -> None:
    lines = [row(1, "Cats", "NOUN", feats="Case=Nom|Number=Plur", xpos="NN"), row(2, "sleep", "VERB")]
    assert [word.tag for word in read(tmp_path, *lines, tag=tag).words] == expected


def test_documents(tmp_path: Path) -> None:
    sentences = [
        "# newdoc id = a",
        row(1, "a"),
        "",
        row(1, "b"),
        "",
        "# newdoc",
        row(1, "c"),
        "",
        "# newdoc",
        row(1, "d"),
    ]
    bank = load_treebank(write(tmp_path, *sentences))
    assert [s.document for s in bank] == ["a", "a", "x.conllu document 2", "x.conllu document 3"]
    assert bank.marked_documents
    assert [s.id for s in bank] == ["x.conllu:1", "x.conllu:4", "x.conllu:6", "x.conllu:9"]


def test_what_stands_between_sentences(tmp_path: Path) -> None:
    lines = [row(1, "a"), "", row(1, "b", misc="SpaceAfter=No"), "", "# newpar", row(1, "c", misc="SpacesAfter=\\n")]
    bank = load_treebank(write(tmp_path, *lines, "", row(1, "d"), "", "# newpar id = 2", row(1, "e")))
    assert [sentence.after for sentence in bank] == [" ", "\n\n", "\n", "\n\n", " "]


def test_sizes_count_words_written_together_once(tmp_path: Path) -> None:
    lines = [
        row("1-2", "im"),
        row(1, "in"),
        row(2, "dem"),
        row(3, "Haus"),
        "",
        row(1, "a"),
        row("2-2", "bc"),
        row(2, "b"),
    ]
    bank = load_treebank(write(tmp_path, *lines))
    assert bank.size() == {"sentences": 2, "tokens": 4, "words": 5, "multiword": 2}


def test_without_documents_each_sentence_is_one(tmp_path: Path) -> None:
    bank = load_treebank(write(tmp_path, "# sent_id = 1", row(1, "a"), "", "", "# sent_id = 1", row(1, "b")))
    assert [s.document for s in bank] == ["x.conllu:1", "x.conllu:5"]
    assert not bank.marked_documents


def test_a_folder(tmp_path: Path) -> None:
    names = ["a-ud-test.conllu", "a-ud-dev.conllu", "train.conllu", "a-ud-train-b.conllu", "training.conllu"]
    paths = {name: write(tmp_path, row(1, "w"), name=name) for name in names}
    order = ["a-ud-train-b.conllu", "train.conllu", "a-ud-dev.conllu", "a-ud-test.conllu", "training.conllu"]
    bank = load_treebank(tmp_path)
    assert [s.split for s in bank] == ["train", "train", "dev", "test", "all"]
    assert bank.name == tmp_path.name
    assert bank.sha256 == hashlib.sha256(b"".join(paths[name].read_bytes() for name in order)).hexdigest()


def test_a_last_line_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "x.conllu"
    path.write_bytes(row(1, "a").encode())
    assert len(load_treebank(path)) == 1


def test_the_embedded_treebank() -> None:
    bank = load_treebank()
    assert bank.splits == ("train", "dev", "test")
    assert bank.marked_documents
    assert bank == load_treebank("demo")


# Errors: one line, with the place.


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([row(1, "a"), "2\tb"], "x.conllu:2: 2 columns; expected 10 with single tabs between"),
        ([row(1, "a") + "\tc"], "x.conllu:1: 11 columns; expected 10 with single tabs between"),
        (["<html>"], "x.conllu:1: 1 columns; expected 10 with single tabs between"),
        ([row(1, "a")[:-1]], "x.conllu:1: the first or the last column is empty; expected _ for nothing"),
        ([row("", "a")], "x.conllu:1: the first or the last column is empty; expected _ for nothing"),
        (["# x", row("1a", "a")], "x.conllu:2: id '1a'; expected a number, a range (3-4) or an empty node (8.1)"),
        ([row("3-2", "a")], "x.conllu:1: id '3-2'; expected a number, a range (3-4) or an empty node (8.1)"),
        ([row("_", "a")], "x.conllu:1: id None out of order; expected 1"),
        ([row(1, "a"), "", row(1, "b"), row(3, "c")], "x.conllu:4: id 3 out of order; expected 2"),
        ([row(1, "a"), row(1, "b")], "x.conllu:2: id 1 out of order; expected 2"),
        ([row("1-2", "a"), row("1-2", "a")], "x.conllu:2: id 1-2 out of order; expected 1"),
        ([row("2.1", "a"), row(1, "a")], "x.conllu:1: id 2.1 out of order; expected 1"),
        ([row("1-3", "ab"), row(1, "a")], "x.conllu:1: a range up to 3, but the last word is 1"),
        ([row(1, "a"), row(2, "")], "x.conllu:2: no form in column 2; expected the word as it is written"),
        ([row(1, "_")], "x.conllu:1: no form in column 2; expected the word as it is written"),
        ([row(1, "a", "")], "x.conllu:1: the column of the tag is empty; expected a tag, or _ for none"),
        (["# text = a c", row(1, "a"), row(2, "b")], "x.conllu:3: form 'b', but `# text` is 'c' here"),
        (["# text = a", row(1, "a"), row(2, "b")], "x.conllu:3: form 'b', but `# text` is at its end here"),
        (["# text = a b c", row(1, "a")], "x.conllu:1: `# text` goes on after the last word: 'b c'"),
        (["# text = a", "", row(1, "a")], "x.conllu:1: comments without a word; expected the rows of a sentence"),
        ([row(1, "a"), row(2, "b") + "\r"], "x.conllu:2: the line ends with CR LF; expected LF alone"),
        (["\ufeff" + row(1, "a")], "x.conllu:1: the file begins with a byte order mark; expected plain UTF-8"),
        ([row(1, "a\0")], "x.conllu:1: a NUL character; expected text: the file is damaged"),
        (["", ""], "x.conllu: no sentence in this file; expected CoNLL-U, ten columns with tabs between"),
        ([], "x.conllu: no sentence in this file; expected CoNLL-U, ten columns with tabs between"),
        ([row(1, "a").replace("\t0\t", "\t2\t")], "x.conllu:1: head '2'; expected 0, _ or the id of a word, at most 1"),
        (
            [row(1, "a").replace("\t0\t", "\t-1\t")],
            "x.conllu:1: head '-1'; expected 0, _ or the id of a word, at most 1",
        ),
        (
            ["# x", row(1, "a"), row(2, "b").replace("\t0\t", "\t3\t"), row(3, "c").replace("\t0\t", "\t2\t")],
            "x.conllu:3: the heads of word 2 run in a circle; expected a tree",
        ),
        (
            [row(1, "a", "_")],
            "x: no word has a tag in 'upos'; expected a column or feature that it has, such as 'upos'",
        ),
    ],
)
def test_odd_rows_are_one_clear_line(tmp_path: Path, lines: Sequence[str], expected: str) -> None:
    assert fault(tmp_path, *lines).startswith(expected)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.conllu"
    path.write_bytes(f"{row(1, 'a')}\n{row(2, 'ä')}\n".encode("latin-1"))
    with pytest.raises(TreebankError, match=re.escape("x.conllu:2: not UTF-8 (invalid continuation byte at byte 3)")):
        load_treebank(path)


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conll, "LONGEST_LINE", 64)
    assert len(read(tmp_path, row(1, "a")).words) == 1
    found = fault(tmp_path, row(1, "a"), row(2, "b" * 100))
    assert found == "x.conllu:2: the line has 64 bytes or more; expected CoNLL-U, one word per line"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("y.conllu", "y.conllu: no such file or folder; expected a .conllu file, or a folder with such files"),
        (
            "nothing",
            "nothing: a folder without .conllu files, and no .mrg file in it or below; expected e.g. train.conllu",
        ),
        ("a" * 300, "a" * 80 + ": cannot be read: File name too long; check the path"),
        ("", "'': expected 'demo', a .conllu file, a folder, or the code of a treebank"),
        ("x.txt", "expected a file in CoNLL-U, with a name that ends in .conllu"),
        ("folder.conllu", "folder.conllu: a folder without .conllu files"),
    ],
)
def test_nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.txt").write_text("Hello")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "folder.conllu").mkdir()
    with pytest.raises(TreebankError, match=re.escape(expected)):
        load_treebank(source)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "train.conllu").mkdir()
    with pytest.raises(TreebankError, match=r"train\.conllu: the file cannot be read: Is a directory"):
        load_treebank(tmp_path)


def test_an_unknown_tag_column(tmp_path: Path) -> None:
    expected = (
        "tag='pos': expected 'upos', 'xpos', 'lemma', 'form', the name of a feature such as 'Number', or several "
        "joined by +, as in 'upos+Number'"
    )
    assert fault(tmp_path, row(1, "a"), tag="pos") == expected
    assert fault(tmp_path, row(1, "a"), tag="Nmber").startswith("x: no word has a tag in 'Nmber'")


# Properties.

FORMS = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp"), blacklist_characters="_"), min_size=1, max_size=6
)
SPACES = st.sampled_from(["", " ", "  ", "\t", "\n ", "\u00a0", "\u3000"])
ESCAPES = {" ": r"\s", "\t": r"\t", "\n": r"\n"}


def space_misc(space: str) -> str:
    escaped = "".join(ESCAPES.get(char, f"\\u{ord(char):04X}") for char in space)
    return {"": "SpaceAfter=No", " ": "_"}.get(space, f"Ref=a=b|SpacesAfter={escaped}")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.tuples(st.lists(FORMS, min_size=1, max_size=3), SPACES), min_size=1, max_size=6))
def test_random_sentences_come_back(tmp_path: Path, pieces: list[tuple[list[str], str]]) -> None:
    """Every piece is a word or a multiword token; spans lie where the pieces lie and cover all but white space."""
    lines, text, expected = [], "", []
    for forms, space in pieces:
        if len(forms) > 1:
            lines.append(
                row(f"{len(expected) + 1}-{len(expected) + len(forms)}", "".join(forms), misc=space_misc(space))
            )
        for form in forms:
            misc = space_misc(space) if len(forms) == 1 else "_"
            expected.append((form, len(text), len(text) + len(form)))
            lines.append(row(len(expected), form, misc=misc))
            text += form
        text += space
    sentence = read(tmp_path, *lines)
    assert sentence.text == text.strip()
    assert spans(sentence) == expected
    assert "".join(sentence.text[start:end] for _, start, end in spans(sentence)) == "".join(sentence.text.split())
    if not set(text) & set("\n\t"):
        assert read(tmp_path, f"# text = {text}", *lines).words == sentence.words


# The real treebanks.


def rows_of(folder: Path) -> tuple[int, int, int]:
    """Sentences, words and multiword tokens, counted by regular expressions and nothing else."""
    text = "".join(path.read_text("utf-8") for path in sorted(folder.glob("*.conllu")))
    return tuple(len(re.findall(p, text, re.MULTILINE)) for p in (r"^1\t", r"^[0-9]+\t", r"^[0-9]+-[0-9]+\t"))  # type: ignore[return-value]


def test_english_ewt_has_the_counts_of_its_statistics() -> None:
    folder = shared_data("ud/UD_English-EWT")
    bank = treebank(folder.name)
    stats = ET.parse(folder / "stats.xml").getroot()  # noqa: S314
    for split in ("train", "dev", "test"):
        part = bank.split(split)
        said = {item.tag: int(item.text or 0) for item in stats.find(f"size/{split}") or ()}
        assert len(part) == said["sentences"]
        assert sum(len(s.words) for s in part) == said["words"]
    assert dict(bank.tag_counts()) == {tag.get("name"): int(tag.text or 0) for tag in stats.findall("tags/tag")}
    assert len(bank.split("train")) == 12_544
    assert bank.split("train").tag_counts().total() == 204_577
    assert len({s.document for s in bank}) == 540 + 318 + 316


@pytest.mark.parametrize(
    ("name", "splits", "expected", "shared"),
    [
        ("UD_German-GSD", ("dev", "test"), (1_776, 28_979, 438), 876),
        ("UD_Spanish-GSD", ("dev", "test"), (1_827, 49_156, 955), 1_640),
        ("UD_Chinese-GSDSimp", ("dev", "test"), (1_000, 24_675, 0), 0),
        ("UD_Hindi-PUD", ("test",), (1_000, 23_829, 0), 0),
    ],
)
def test_other_treebanks(name: str, splits: tuple[str, ...], expected: tuple[int, int, int], shared: int) -> None:
    folder = shared_data(f"ud/{name}")
    bank = treebank(name)
    assert bank.splits == splits
    assert rows_of(folder) == expected
    assert (len(bank), bank.tag_counts().total()) == expected[:2]
    assert sum(word.shared for s in bank for word in s.words) == shared
    assert all(s.text[w.start : w.end] == w.form for s in bank for w in s.words if not w.shared)
