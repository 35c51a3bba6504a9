"""Raw text to a treebank: what Stanza says is placed in the user's characters; and real models, trained here."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stanza_training
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stanza.models.common.doc import Document

from posneurons import tagging
from posneurons.errors import TreebankError
from posneurons.sentences import Sentence, Treebank, Word
from posneurons.tagging import describe_models, installed_languages, load_pipeline, run, tag_text
from posneurons.treebank import load_treebank

BEHIND = {
    "im": ["in", "dem"],
    "Don't": ["do", "n't"],
    "vámonos": ["vamos", "nos"],
    "daß": ["da", "ss"],
    "nel": ["in", "l"],
}
SPACE = r"\s\x80-\x9f"


class Reader:
    """A pipeline that gives real Documents of Stanza by a plain rule: letters are words, other marks stand alone, a
    full stop ends a sentence, and so does a text. The tag of a word is its length.
    """

    lang = "xx"

    def __init__(self, skip_newline: bool = False) -> None:
        self.config: dict[str, str] = {}
        self.processors = {"tokenize": SimpleNamespace(config={"skip_newline": skip_newline})}
        self.read: list[list[Any]] = []
        self.token = rf"\w+(?:\n\w+)*|[^\w{SPACE}]" if skip_newline else rf"\w+'\w+|\w+|[^\w{SPACE}]"

    def bulk_process(self, texts: list[str]) -> list[Document]:
        self.read.append(texts)
        return [self.document(text) for text in texts]

    def document(self, text: str) -> Document:
        sentences: list[list[dict[str, Any]]] = [[]]
        for match in re.finditer(self.token, text):
            surface = re.sub(r"\s", "", match[0])
            behind = BEHIND.get(surface, [surface])
            first = sum(len(row["id"]) == 1 for row in sentences[-1]) + 1
            place = {"start_char": match.start(), "end_char": match.end()}
            if len(behind) > 1:
                sentences[-1].append({"id": (first, first + len(behind) - 1), "text": surface} | place)
                place = {}
            for number, form in enumerate(behind, first):
                tags = {
                    "upos": str(len(form)),
                    "xpos": form[0],
                    "feats": "Number=Sing|Odd=Yes" if len(form) % 2 else None,
                }
                sentences[-1].append({"id": (number,), "text": form} | tags | place)
            if surface == ".":
                sentences.append([])
        return Document([rows for rows in sentences if rows], text)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Reader]:
    def use(**options: Any) -> Reader:
        made = Reader(**options)
        monkeypatch.setattr(tagging, "load_pipeline", lambda *_, **__: made)
        return made

    return use


def test_by_hand(reader: Callable[..., Reader]) -> None:
    reader()
    bank = tag_text(["Ja im Haus.  Don't\tgo\n now.\n\n \nvámonos.", "Ende"], name="x", documents=["a", "b"])
    first, second, third, fourth = bank.sentences
    assert first == Sentence(
        "a-1",
        "Ja im Haus.",
        (
            Word("Ja", "2", 0, 2),
            Word("in", "2", 3, 5, shared=True),
            Word("dem", "3", 3, 5, shared=True),
            Word("Haus", "4", 6, 10),
            Word(".", "1", 10, 11),
        ),
        "a",
        "all",
        ((1, 3),),
        "  ",
    )
    assert second.text == "Don't go  now."  # the tab and the line break are spaces
    assert second.words[:3] == (Word("do", "2", 0, 2), Word("n't", "3", 2, 5), Word("go", "2", 6, 8))
    assert (second.id, second.multiword, second.after) == ("a-2", ((0, 2),), "\n\n \n")
    assert [(word.form, word.start, word.end, word.shared) for word in third.words] == [
        ("vamos", 0, 7, True),
        ("nos", 0, 7, True),
        (".", 7, 8, False),
    ]
    assert (third.after, fourth.id, fourth.document, fourth.after) == (" ", "b-1", "b", " ")
    assert (bank.name, bank.tagset, bank.splits, bank.marked_documents) == ("x", "upos", ("all",), True)


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧 é é.",
        "שלום עולם. כן",
        "مرحبا بالعالم",
        "ⅷ №5.",
        "中文。",
        "a\u00a0b \x85c\x97.",
        "x\r\ny.\r\rz",
        "\ufeffa",
    ],
)
def test_scripts_and_odd_characters_keep_their_place(text: str, reader: Callable[..., Reader]) -> None:
    reader()
    for sentence in tag_text(text):
        assert all(sentence.text[word.start : word.end] == word.form for word in sentence.words)
        assert [len(word.form) for word in sentence.words] == [int(word.tag) for word in sentence.words]


def test_words_that_do_not_spell_their_surface_share_it(reader: Callable[..., Reader]) -> None:
    reader()
    (sentence,) = tag_text("daß nel")  # other length, though the same without case; same length, other letters
    assert sentence.words[:2] == (Word("da", "2", 0, 3, shared=True), Word("ss", "2", 0, 3, shared=True))
    assert sentence.words[2:] == (Word("in", "2", 4, 7, shared=True), Word("l", "1", 4, 7, shared=True))


def test_no_space_comes_of_a_line_break_where_the_language_has_none(reader: Callable[..., Reader]) -> None:
    reader(skip_newline=True)
    (sentence,) = tag_text("中\n文,\n好")
    assert sentence.text == "中文,好"
    assert [(word.form, word.start, word.end) for word in sentence.words] == [("中文", 0, 2), (",", 2, 3), ("好", 3, 4)]


def test_paragraphs_are_read_in_batches(reader: Callable[..., Reader]) -> None:
    made = reader()
    tag_text([" a b.\n\nc\n\x97\n", "d\n \nee e"], batch=4)
    assert made.read == [["a b."], ["c", "d", "ee e"]]


PIECES = [
    "a",
    "Bc",
    "im",
    "Don't",
    "vámonos",
    ".",
    "😀",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\x85",
    "\u2028",
    "\x97",
    "#",
]


@given(texts=st.lists(st.lists(st.sampled_from(PIECES), min_size=1).map("".join), min_size=1, max_size=3))
@example(texts=["im Haus.\n\n\n\nDon't. 😀\u2028a\n \x97\n.", "a"])
@settings(max_examples=60)
def test_no_character_is_lost_and_no_batch_shows(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    texts = [text for text in texts if re.search(rf"[^{SPACE}]", text)] or ["a"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tagging, "load_pipeline", lambda *_, **__: Reader())
        bank = tag_text(texts)
        assert tag_text(texts, batch=1).sentences == bank.sentences
    for number, text in enumerate(texts, 1):
        mine = [each for each in bank if each.document == f"text-{number}"]
        written = "".join(each.text + each.after for each in mine)
        assert re.sub(rf"[{SPACE}]", " ", text.replace("\r\n", "\n")).strip() == re.sub(r"\s", " ", written).strip()
        assert all(not each.after.strip() for each in mine)
        for each in mine:
            spelt = [word for word in each.words if not word.shared]
            assert all(each.text[word.start : word.end].casefold() == word.form.casefold() for word in spelt)
    path = tmp_path_factory.mktemp("x") / "x.conllu"
    tagging.write_sentences(((each, [{"upos": w.tag} for w in each.words]) for each in bank), path, documents=True)
    assert load_treebank(path).sentences == bank.sentences


@pytest.mark.parametrize(
    ("tag", "tags"),
    [("xpos", ["a", "."]), ("Odd", ["Yes", "Yes"]), ("form", ["abc", "."]), ("upos+Odd", ["3+Yes", "1+Yes"])],
)
def test_any_column_can_be_the_tag(tag: str, tags: list[str], reader: Callable[..., Reader]) -> None:
    reader()
    bank = tag_text("abc.", tag=tag)
    assert [word.tag for word in bank.sentences[0].words] == tags
    assert bank.tagset == tag


def test_the_digest_is_that_of_texts_and_models(reader: Callable[..., Reader], tmp_path: Path) -> None:
    made = reader()
    digests = [tag_text(texts, **more).sha256 for texts, more in ((["a", "b"], {}), (["a", "b"], {"tag": "xpos"}))]
    assert digests[0] == digests[1]
    (tmp_path / "pos.pt").write_bytes(b"1")
    made.config = {"pos_model_path": str(tmp_path / "pos.pt")}
    digests += [tag_text(["a", "b"]).sha256, tag_text(["a", "c"]).sha256, tag_text(["ab"]).sha256]
    assert len(set(digests)) == 4


# Models that are trained here.


def words_of(bank: Treebank) -> list[list[str]]:
    return [[word.form for word in sentence.words] for sentence in bank]


@pytest.fixture(scope="module")
def small() -> Path:
    return stanza_training.small()


def test_words_that_are_given_are_tagged_by_stanza(small: Path) -> None:
    given_words = words_of(load_treebank().split("test"))[:40]
    bank = tag_text(given_words, models=small, pretokenized=True, name="x")
    assert words_of(bank) == given_words
    assert [each.text for each in bank] == [" ".join(words) for words in given_words]
    assert all(each.text[w.start : w.end] == w.form and not w.shared for each in bank for w in each.words)
    direct = load_pipeline(models=small, pretokenized=True).process(given_words)
    assert [[w.tag for w in s.words] for s in bank] == [[w.upos for w in s.words] for s in direct.sentences]
    gold = [word.tag for sentence in load_treebank().split("test").sentences[:40] for word in sentence.words]
    found = [word.tag for sentence in bank for word in sentence.words]
    assert (
        sum(a == b for a, b in zip(gold, found, strict=True)) / len(gold) > 0.4
    )  # 0.5; the most frequent tag has 0.15
    assert {each.document for each in bank} == {"x-1"}
    assert tag_text([given_words[:3], given_words[3:]], models=small, pretokenized=True, batch=9).tag_counts() == (
        bank.tag_counts()
    )


def test_given_words_come_as_lists_or_as_lines(small: Path) -> None:
    words = [["The", "dog", "."], ["Go"]]
    as_lists = tag_text([words, [["Go"]]], models=small, pretokenized=True)
    as_lines = tag_text(["The dog .\n\r\n Go\n", "Go"], models=small, pretokenized=True)
    assert as_lists.sentences == as_lines.sentences
    assert [each.id for each in as_lists] == ["text-1-1", "text-1-2", "text-2-1"]
    (joined,) = tag_text([["東京", "です"]], models={"pos": small / "pos.pt"}, pretokenized=True, join="")
    assert (joined.text, joined.after, joined.words[1].start) == ("東京です", "", 2)


def test_files_are_tagged_into_one_that_can_be_read(small: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffThe dog barks .\r\nIt is old .\n".encode())
    (tmp_path / "b.txt").write_text("Go home", encoding="utf-8")
    out = tmp_path / "x.conllu"
    lines = list(run([tmp_path / "a.txt", tmp_path / "b.txt"], out, models=small, pretokenized=True))
    digest = describe_models(load_pipeline(models=small, pretokenized=True))["pos"]
    assert re.fullmatch(r"tagging with stanza [\d.]+, language en, pos pos", lines[0])
    assert lines[1:] == [f"{out}: 3 sentences, 10 words; documents: 2"]
    bank = load_treebank(out)
    assert words_of(bank) == [["The", "dog", "barks", "."], ["It", "is", "old", "."], ["Go", "home"]]
    assert [each.id for each in bank] == ["a.txt-1", "a.txt-2", "b.txt-1"]
    assert re.match(
        rf"# generator = posneurons \S+\n# stanza = \S+\n# language = en\n# pos = {digest}\n# newdoc id = a.txt\n",
        out.read_text(encoding="utf-8"),
    )
    assert re.fullmatch(r"pos sha256:[0-9a-f]{64}", digest)
    again = tag_text([path.read_text() for path in (tmp_path / "b.txt",)], models=small, pretokenized=True)
    assert [w.tag for w in again.sentences[0].words] == [w.tag for w in bank.sentences[2].words]


def test_files_of_one_name_are_told_apart(reader: Callable[..., Reader], tmp_path: Path) -> None:
    reader()
    paths = [tmp_path / part / "a.txt" for part in "xy"]
    for path in paths:
        path.parent.mkdir()
        path.write_text("im Haus.")
    list(run(paths, tmp_path / "o.conllu"))
    bank = load_treebank(tmp_path / "o.conllu", tag="Odd")
    assert [each.document for each in bank] == [path.as_posix() for path in paths]
    assert [word.tag for word in bank.sentences[0].words] == ["_", "Yes", "_", "Yes"]
    assert load_treebank(tmp_path / "o.conllu", tag="xpos").tag_counts() == {"i": 2, "d": 2, "H": 2, ".": 2}


def test_models_are_found_by_language_in_a_folder_like_stanza_s(small: Path, tmp_path: Path) -> None:
    folder = stanza_training.installed(small, tmp_path / "here", "de")
    words = [["The", "dog", "."]]
    by_language = tag_text(words, "de", models=folder, pretokenized=True)
    assert by_language.sentences == tag_text(words, models=small, pretokenized=True).sentences
    assert describe_models(load_pipeline("de", models=folder, pretokenized=True))["pos"].startswith("demo sha256:")
    assert installed_languages(folder) == []  # a language without a tokenizer is none
    (folder / "de" / "tokenize").mkdir()
    (folder / "de" / "tokenize" / "x.pt").touch()
    assert installed_languages(folder) == ["de"]
    assert installed_languages(tmp_path / "nowhere") == []


def asked(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None, **options: Any) -> dict[str, Any]:
    """The options that Stanza's pipeline is given, or the error that it raises."""
    kept: dict[str, Any] = {}

    def pipeline(language: str, **given_options: Any) -> None:
        kept.update(given_options, language=language)
        if error is not None:
            raise error

    monkeypatch.setattr("stanza.Pipeline", pipeline)
    load_pipeline(**options)
    return kept


def test_nothing_is_downloaded_unless_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = asked(monkeypatch, language="de")
    assert (plain["language"], plain["processors"], plain["download_method"]) == ("de", "tokenize,pos", None)
    assert not {"dir", "tokenize_pretokenized", "allow_unknown_language"} & set(plain)
    fetching = asked(monkeypatch, download=True, models=tmp_path / "new", device="cpu")
    assert (fetching["download_method"], fetching["dir"]) == ("reuse_resources", str(tmp_path / "new"))
    assert fetching["device"] == "cpu"


def test_models_that_are_named_are_the_only_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("tokenize", "mwt", "pos", "pos_pretrain", "other"):
        (tmp_path / f"{name}.pt").touch()
    found = asked(monkeypatch, models=tmp_path)
    assert found["mwt_model_path"] == str(tmp_path / "mwt.pt")
    assert found["pos_pretrain_path"] == str(tmp_path / "pos_pretrain.pt")
    assert not {"dir", "other_model_path"} & set(found)
    assert "mwt_model_path" not in asked(monkeypatch, models=tmp_path, pretokenized=True)
    assert not Path(found["resources_filepath"]).exists()


FETCH = (
    r"; fetch them once with python -c \"import stanza; stanza\.download\('de'{}\)\", allow the download, or name a "
)


def test_models_that_are_not_here_are_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(TreebankError, match=r"^Stanza's models for 'de' cannot be loaded \(gone\)" + FETCH.format("")):
        asked(monkeypatch, FileNotFoundError("gone\nfar"), language="de")
    with pytest.raises(
        TreebankError, match=r"\(no GPU\); expected model files that this version of Stanza wrote, and a"
    ):
        asked(monkeypatch, RuntimeError("no GPU"), language="de")
    named = {part: tmp_path / f"{part}.pt" for part in ("tokenize", "pos")}
    for path in named.values():
        path.touch()
    with pytest.raises(TreebankError, match=r"\(gone\); expected model files that this version of Stanza wrote"):
        asked(monkeypatch, FileNotFoundError("gone"), models=named)
    for path in named.values():
        path.unlink()
    monkeypatch.undo()
    parts = {"tokenize": {"x": {}}, "pos": {"x": {}}, "packages": {"default": {"tokenize": "x", "pos": "x"}}}
    (tmp_path / "resources.json").write_text(json.dumps({"de": parts}))
    with pytest.raises(
        TreebankError, match=r"\(Could not find .*\)" + FETCH.format(f", model_dir='{tmp_path}'")
    ) as one:
        load_pipeline("de", models=tmp_path)
    assert "\n" not in str(one.value)
    with pytest.raises(
        TreebankError,
        match=r"\(No processors to load .*\); expected a language of Stanza by its code, such as en, de or zh-hans; on "
        "this machine: none$",
    ):
        load_pipeline("klingon", models=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["resources.json"]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            "none",
            r"none: no model for tokenize and pos; expected a folder that stanza\.download filled, or one with tok",
        ),
        ("half", r"half: no model for tokenize; expected a folder"),
        ({"tokenize": "half/pos.pt", "pos": "gone.pt"}, r"no model for pos; expected a folder"),
        ("damaged", r"cannot be loaded \(.*\); expected model files that this version of Stanza wrote, and a device"),
    ],
)
def test_folders_without_models_are_errors(models: Any, message: str, tmp_path: Path) -> None:
    for name in ("half/pos.pt", "damaged/pos.pt", "damaged/tokenize.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no model")
    named = models if isinstance(models, str) else {part: tmp_path / name for part, name in models.items()}
    with pytest.raises(TreebankError, match=message):
        load_pipeline(models=tmp_path / named if isinstance(named, str) else named)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no text to tag; expected at least one"),
        ("", {}, "text 1: no text in it; expected words"),
        (["a", " \n\x97"], {}, "text 2: no text in it; expected words"),
        (["a\0b"], {}, r"text 1: character '\\x00' at 2; expected text"),
        (["a\ud800"], {}, r"text 1: character '\\ud800' at 2; expected text"),
        ([["a"]], {}, "text 1: list; expected a string, or words as pretokenized"),
        ([["a", ""]], {"pretokenized": True}, "text 1, sentence 1: word ''; expected a string without line breaks"),
        ([[["a"], ["b\n"]]], {"pretokenized": True}, r"text 1, sentence 2: word 'b\\n'; expected a string"),
        ([[["a"]], [["b", 3]]], {"pretokenized": True}, "text 2, sentence 1: word 3; expected a string"),
        ([["a"], []], {"pretokenized": True}, "text 1, sentence 2: no word in it; expected at least one"),
        ([["a\0"]], {"pretokenized": True}, r"text 1, sentence 1: word 'a\\x00'; expected a string"),
        (["a", "\n"], {"pretokenized": True}, "text 2: no sentence in it; expected words"),
        ("a", {"documents": ["x", "y"]}, "documents: 2 different names; expected 1, one for each text"),
        (["a", "b"], {"documents": ["x", "x"]}, "documents: 1 different names; expected 2"),
        ("a", {"tag": "lemma"}, "tag='lemma': lemmas are not made here; expected upos, xpos, form or a feature"),
        ("a", {"tag": "pos"}, "tag='pos': expected 'upos'"),
        ("ab", {"tag": "Case"}, "text: these models give no word a tag in 'Case'; expected 'upos', or other models"),
    ],
)
def test_what_cannot_be_tagged_is_an_error(
    texts: Any, options: dict[str, Any], message: str, reader: Callable[..., Reader]
) -> None:
    reader()
    with pytest.raises(TreebankError, match=message):
        tag_text(texts, **options)


@pytest.mark.parametrize(
    ("content", "out", "message"),
    [
        (b"", "o.conllu", r"a\.txt: no text in it; expected words"),
        (
            b"ab\xe9",
            "o.conllu",
            r"a\.txt: not UTF-8 \(.* at byte 3\); expected text in UTF-8: convert it, for example with ",
        ),
        (None, "o.conllu", r"a\.txt: the file cannot be read: No such file or directory"),
        (b"a", "o.txt", r"o\.txt: expected a name that ends in \.conllu"),
        (b"a", "none/o.conllu", r"none/o\.conllu: the file cannot be written: No such file or directory"),
    ],
)
def test_files_that_cannot_be_read_or_written_are_errors(
    content: bytes | None, out: str, message: str, reader: Callable[..., Reader], tmp_path: Path
) -> None:
    reader()
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(TreebankError, match=message):
        list(run([tmp_path / "a.txt"], tmp_path / out))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] * (content is not None)


def edges(sentences: Sequence[Sentence], documents: dict[str, int]) -> tuple[set[Any], set[Any], dict[Any, str]]:
    """Tokens and sentences as spans of all documents laid end to end, and the tag of each word with its own span."""
    tokens, whole, tags = set(), set(), {}
    for document, start in documents.items():
        at = start
        for each in (sentence for sentence in sentences if sentence.document == document):
            ends = dict(each.multiword)
            for number, word in enumerate(each.words):
                if not any(first < number < end for first, end in each.multiword):
                    tokens.add((at + word.start, at + each.words[ends.get(number, number + 1) - 1].end))
                if not word.shared:
                    tags[at + word.start, at + word.end] = word.tag
            whole.add((at, at + len(each.text)))
            at += len(each.text + each.after)
    return tokens, whole, tags


def f1(found: set[Any], right: set[Any]) -> float:
    return 2 * len(found & right) / (len(found) + len(right))


@pytest.mark.slow
def test_raw_text_through_models_that_are_trained_on_the_embedded_treebank(tmp_path: Path) -> None:
    models = stanza_training.full()
    test = load_treebank().split("test")
    texts = dict.fromkeys((sentence.document for sentence in test), "")
    for sentence in test:
        texts[sentence.document] += sentence.text + sentence.after
    places = {name: number * 1_000_000 for number, name in enumerate(texts)}
    bank = tag_text(list(texts.values()), models=models, documents=list(texts))
    for sentence in bank:
        assert sentence.text in texts[sentence.document]
        assert all(
            sentence.text[w.start : w.end].casefold() == w.form.casefold() for w in sentence.words if not w.shared
        )
    for name, text in texts.items():
        assert "".join(each.text + each.after for each in bank if each.document == name).strip() == text.strip()
    found, gold = edges(bank.sentences, places), edges(test.sentences, places)
    right = sum(found[2].get(span) == tag for span, tag in gold[2].items()) / len(gold[2])
    assert f1(found[0], gold[0]) > 0.98  # 0.990
    assert f1(found[1], gold[1]) > 0.88  # 0.922
    assert right > 0.73  # 0.771; the most frequent tag has 0.15
    assert bank.size()["multiword"] > 25  # 33; there are 41, and every one is spelt by its words
    assert not any(word.shared for sentence in bank for word in sentence.words)

    out = tmp_path / "x.conllu"
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    folder = stanza_training.installed(models, tmp_path / "here")
    assert installed_languages(folder) == ["en"]
    list(run([tmp_path / f"{name}.txt" for name in texts], out, models=folder))
    back = load_treebank(out)
    assert [(each.text, each.words, each.after) for each in back] == [(e.text, e.words, e.after) for e in bank]
