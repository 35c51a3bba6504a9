"""Treebanks by code: the list, a server of our own that serves a small one, every way in which fetching goes wrong."""

import hashlib
import logging
import re
import socket
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from threading import Thread
from types import ModuleType

import pooch
import pytest
from shared import SHARED, shared_data, treebank
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from posneurons import doctor
from posneurons import treebank as treebank_module
from posneurons.errors import TreebankError
from posneurons.registry import BASE, MAPPING, Entry, File, default_cache, fetch, find, registry
from posneurons.sentences import Treebank
from posneurons.treebank import load_treebank


def conllu(*forms: str, document: str = "d") -> bytes:
    rows = [f"{n}\t{form}\t{form}\tNOUN\t_\t_\t0\troot\t_\t_\n" for n, form in enumerate(forms, 1)]
    return f"# newdoc id = {document}\n{''.join(rows)}\n".encode()


TRAIN, DEV = conllu("one", "two"), conllu("three")
PLACE = "UniversalDependencies/UD_Tiny-TT/r9.9"
ELSEWHERE = (
    "get it elsewhere and save it as CACHE/ud/UD_Tiny-TT/xx_tt-ud-train.conllu (with xx_tt-ud-dev.conllu beside it), "
    "or give a file or folder of your own"
)


def tiny(*, pinned: bool = True) -> Entry:
    """A treebank of two files."""
    files = []
    for split, content in (("train", TRAIN), ("dev", DEV)):
        name = f"xx_tt-ud-{split}.conllu"
        digest = hashlib.sha256(content).hexdigest() if pinned else None
        files.append(File(PurePosixPath("ud/UD_Tiny-TT", name), f"{PLACE}/{name}", digest))
    return Entry("xx_tt", "Tiny", "r9.9", tuple(files))


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@dataclass
class Server:
    """What is served, and what was asked for."""

    pages: dict[str, bytes]
    base: str = ""
    asked: list[str] = field(default_factory=list)
    missing_bytes: int = 0
    """How many bytes fewer are sent than the header says."""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server({f"/{PLACE}/xx_tt-ud-train.conllu": TRAIN, f"/{PLACE}/xx_tt-ud-dev.conllu": DEV})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path.rsplit("/", 1)[-1])
            page = state.pages.get(self.path)
            if page is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(page) + state.missing_bytes))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.base = f"http://127.0.0.1:{http.server_port}"
    thread = Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def fault(entry: Entry, cache: Path, server: Server) -> str:
    """The error of a fetch, without the names of folder and server."""
    with pytest.raises(TreebankError) as caught:
        fetch(entry, cache, base=server.base)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(cache), "CACHE").replace(server.base, "BASE")


# The list.


def test_the_list_says_where_each_file_is() -> None:
    train, dev, test = registry()["en_ewt"].files
    assert train == File(
        PurePosixPath("ud/UD_English-EWT/en_ewt-ud-train.conllu"),
        "UniversalDependencies/UD_English-EWT/15d613d8447b3478787d4c278730a1e48a945efb/en_ewt-ud-train.conllu",
        "3fb78e2b55482c8ee00caa653af436c88c9e5bc9a73ce26e4ae3ddc79d2b7e7b",
    )
    assert (dev.place.name, test.place.name) == ("en_ewt-ud-dev.conllu", "en_ewt-ud-test.conllu")
    assert BASE == "https://raw.githubusercontent.com"
    assert registry()["fr_gsd"].files[0].address == "UniversalDependencies/UD_French-GSD/r2.10/fr_gsd-ud-train.conllu"
    assert registry()["brown"].files[0].address.endswith("df11eabb5e5665836db9ec8df07e28/packages/corpora/brown.zip")
    assert registry()["brown"].files[1] == registry()["ptb-sample"].files[1] == MAPPING


def test_every_treebank_of_the_list_is_as_it_must_be() -> None:
    for code, entry in registry().items():
        assert entry.code == code
        assert entry.language[0].isupper()
        assert all(file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256) for file in entry.files)
        assert len({file.place.parent for file in entry.files}) == (2 if entry.files[-1] == MAPPING else 1)
        if entry.files[0].place.parts[0] == "ud":
            assert all(file.place.name.startswith(f"{code}-ud-") for file in entry.files)
            splits = [file.place.name.split("-")[2].removesuffix(".conllu") for file in entry.files]
            assert splits == sorted(splits, key=["train", "dev", "test"].index)
            assert len(splits) == 1 or splits.count("test") == 1
    files = [file for entry in registry().values() for file in entry.files if file != MAPPING]
    assert len(files) == len({file.place for file in files}) == len({file.address for file in files})
    known = [file.sha256 for file in files if file.sha256]
    assert len(known) == len(set(known)) > 400
    assert [file.place.name for file in registry()["cs_pdt"].files] == [
        f"cs_pdt-ud-{part}.conllu" for part in ("train-c", "train-l", "train-m", "train-v", "dev", "test")
    ]
    assert {"de_hdt", "zh_gsd", "hi_hdtb", "ar_padt", "ja_gsd", "ru_syntagrus", "en_pud"} < set(registry())


def test_the_sums_are_those_of_the_files_at_hand() -> None:
    sums = shared_data("SHA256SUMS").read_text(encoding="utf-8").splitlines()
    said = {path: digest for digest, path in map(str.split, sums) if path.endswith((".conllu", ".zip"))}
    listed = {str(file.place): file.sha256 for entry in registry().values() for file in entry.files}
    assert len(said) == 13
    assert said.items() <= listed.items()


@pytest.mark.parametrize(
    ("source", "near"),
    [
        ("en_ewtt", "did you mean en_ewt or et_ewt?"),
        ("en-ewt", "did you mean en_ewt?"),
        ("UD_English-EWT", "did you mean en_ewt?"),
        ("gum", "did you mean en_gum?"),
        ("german", "did you mean de_gsd or de_hdt or de_lit or de_pud?"),
        ("English", "did you mean en_atis or en_ewt or en_gum or en_lines or en_pud?"),
        ("ptb", "did you mean ptb-sample?"),
    ],
)
def test_a_code_that_is_not_in_the_list(source: str, near: str) -> None:
    expected = (
        f"{source}: no such file or folder, and no treebank of that code; {near} `posneurons doctor` lists the codes"
    )
    with pytest.raises(TreebankError) as caught:
        load_treebank(source)
    assert str(caught.value) == expected


def test_a_word_that_is_like_nothing() -> None:
    with pytest.raises(
        TreebankError, match="klingon: no such file or folder, and no treebank of that code; `posneurons"
    ):
        find("klingon")


# Fetching.


def test_the_first_use_fetches_and_the_second_does_not(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        paths = fetch(tiny(), tmp_path / "cache", base=server.base)
        assert [path.read_bytes() for path in paths] == [TRAIN, DEV]
        assert server.asked == ["xx_tt-ud-train.conllu", "xx_tt-ud-dev.conllu"]
    assert files_below(tmp_path / "cache/ud/UD_Tiny-TT") == ["xx_tt-ud-dev.conllu", "xx_tt-ud-train.conllu"]


def test_a_file_that_is_there_needs_no_network(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ud/UD_Tiny-TT").mkdir(parents=True)
    (tmp_path / "ud/UD_Tiny-TT/xx_tt-ud-train.conllu").write_bytes(TRAIN)
    fetch(tiny(), tmp_path, base=server.base)
    assert server.asked == ["xx_tt-ud-dev.conllu"]


def test_a_damaged_file_of_the_cache(server: Server, tmp_path: Path) -> None:
    train, _ = fetch(tiny(), tmp_path, base=server.base)
    train.write_bytes(TRAIN[:-1])
    found, expected = (hashlib.sha256(content).hexdigest() for content in (TRAIN[:-1], TRAIN))
    assert fault(tiny(), tmp_path, server) == (
        f"CACHE/ud/UD_Tiny-TT/xx_tt-ud-train.conllu: its sha256 is {found}, expected {expected}; the file is damaged "
        "or another: delete it to fetch it again, or give its folder instead of the code to read it as it is"
    )
    train.unlink()
    assert fetch(tiny(), tmp_path, base=server.base)[0].read_bytes() == TRAIN


def test_what_has_another_sha256_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.pages[f"/{PLACE}/xx_tt-ud-train.conllu"] = DEV
    assert fault(tiny(), tmp_path, server) == (
        f"BASE/{PLACE}/xx_tt-ud-train.conllu has another sha256 than expected, {hashlib.sha256(TRAIN).hexdigest()}, "
        f"and was not kept; try again later, or {ELSEWHERE}"
    )
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_that_is_not_on_the_server(server: Server, tmp_path: Path, pinned: bool) -> None:
    del server.pages[f"/{PLACE}/xx_tt-ud-dev.conllu"]
    assert fault(tiny(pinned=pinned), tmp_path, server) == (
        f"BASE/{PLACE}/xx_tt-ud-dev.conllu cannot be fetched: the answer is 404 Not Found (HTTPError); get it "
        "elsewhere and save it as CACHE/ud/UD_Tiny-TT/xx_tt-ud-dev.conllu, or give the folder CACHE/ud/UD_Tiny-TT for "
        "xx_tt-ud-train.conllu alone, or give a file or folder of your own"
    )
    assert [name for name in files_below(tmp_path) if "dev" in name] == []


def test_no_network(server: Server, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        server.base = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert fault(tiny(), tmp_path / "new", server) == (
            f"BASE/{PLACE}/xx_tt-ud-train.conllu cannot be fetched: no answer (ConnectionError); {ELSEWHERE}"
        )
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("pinned", [True, False])
def test_a_transfer_that_breaks_off_leaves_nothing(server: Server, tmp_path: Path, pinned: bool) -> None:
    server.missing_bytes = 10
    assert "cannot be fetched: no answer (ChunkedEncodingError); get it" in fault(tiny(pinned=pinned), tmp_path, server)
    assert files_below(tmp_path) == []


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ud").write_text("a file where a folder should be")
    found = fault(tiny(), tmp_path, server)
    assert found.startswith("CACHE/ud/UD_Tiny-TT/xx_tt-ud-train.conllu: cannot be written: ")
    assert found.endswith("; give another cache folder")
    assert files_below(tmp_path) == ["ud"]


def test_an_unknown_sha256_is_kept_on_first_use(server: Server, tmp_path: Path) -> None:
    train, _ = fetch(tiny(pinned=False), tmp_path, base=server.base)
    record = train.with_name("xx_tt-ud-train.conllu.sha256")
    digest = hashlib.sha256(TRAIN).hexdigest()
    expected = f"# {server.base}/{PLACE}/xx_tt-ud-train.conllu\n{digest}  xx_tt-ud-train.conllu\n"
    assert record.read_text(encoding="utf-8") == expected
    assert len(fetch(tiny(pinned=False), tmp_path, base=server.base)) == 2
    assert len(server.asked) == 2
    train.write_bytes(DEV)
    assert f"its sha256 is {hashlib.sha256(DEV).hexdigest()}, expected {digest}" in fault(
        tiny(pinned=False), tmp_path, server
    )


def test_a_file_that_changes_on_the_server_is_refused(server: Server, tmp_path: Path) -> None:
    """Without a sha256 in the list, the first download decides, also for those after it."""
    train, _ = fetch(tiny(pinned=False), tmp_path, base=server.base)
    train.unlink()
    server.pages[f"/{PLACE}/xx_tt-ud-train.conllu"] = DEV
    assert "has another sha256 than expected" in fault(tiny(pinned=False), tmp_path, server)
    assert not train.exists()
    train.with_name(f"{train.name}.sha256").unlink()
    assert fetch(tiny(pinned=False), tmp_path, base=server.base)[0].read_bytes() == DEV


def test_a_damaged_record(server: Server, tmp_path: Path) -> None:
    train, _ = fetch(tiny(pinned=False), tmp_path, base=server.base)
    train.with_name(f"{train.name}.sha256").write_bytes(b"\xff\n")
    assert fault(tiny(pinned=False), tmp_path, server) == (
        "CACHE/ud/UD_Tiny-TT/xx_tt-ud-train.conllu.sha256: expected the sha256 of a file and its name; delete this file"
    )


def test_a_file_put_there_by_hand_is_read_as_it_is(server: Server, tmp_path: Path) -> None:
    for file in tiny().files:
        path = tmp_path / file.place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    assert [path.read_bytes() for path in fetch(tiny(pinned=False), tmp_path, base=server.base)] == [b"mine"] * 2
    assert server.asked == []
    assert not list(tmp_path.rglob("*.sha256"))


def test_fetching_is_quiet_unless_progress_is_asked_for(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = told.append  # type: ignore[method-assign]
    pooch.get_logger().addHandler(handler)
    pooch.get_logger().setLevel("INFO")
    try:
        fetch(tiny(pinned=False), tmp_path / "a", base=server.base)
        assert (told, capfd.readouterr(), pooch.get_logger().level) == ([], ("", ""), logging.INFO)
    finally:
        pooch.get_logger().removeHandler(handler)
    fetch(tiny(), tmp_path / "b", base=server.base, progress=True)
    assert "100%" in capfd.readouterr().err


def test_the_default_cache_is_that_of_the_system(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    assert default_cache() == tmp_path / "posneurons"
    assert fetch(tiny(), base=server.base)[0].is_relative_to(tmp_path / "posneurons" / "ud")


# Loading.


@pytest.fixture
def listed(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The tiny treebank is one of the list, and everything is fetched from our server."""
    monkeypatch.setattr(treebank_module, "find", lambda code: tiny() if code == "xx_tt" else find(code))
    monkeypatch.setattr(treebank_module, "fetch", partial(fetch, base=server.base))
    return server


def test_a_treebank_by_its_code(listed: Server, tmp_path: Path) -> None:
    bank = load_treebank("xx_tt", cache=tmp_path)
    assert (bank.name, bank.splits) == ("xx_tt", ("train", "dev"))
    assert [word.form for sentence in bank for word in sentence.words] == ["one", "two", "three"]
    assert bank.sha256 == hashlib.sha256(TRAIN + DEV).hexdigest()
    assert load_treebank(tmp_path / "ud/UD_Tiny-TT") == replace(bank, name="UD_Tiny-TT")
    assert len(listed.asked) == 2


def test_what_is_there_under_that_name_wins_over_a_code(
    listed: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "xx_tt").mkdir()
    (tmp_path / "xx_tt" / "test.conllu").write_bytes(conllu("mine"))
    assert load_treebank("xx_tt").splits == ("test",)
    assert listed.asked == []
    (tmp_path / "en_ewt").write_bytes(conllu("mine"))
    with pytest.raises(TreebankError, match="en_ewt: expected a file in CoNLL-U"):
        load_treebank("en_ewt")


@pytest.mark.parametrize("source", ["x.conllu", "folder/en_ewt", "./en_ewt"])
def test_a_path_that_is_not_there_is_no_code(source: str) -> None:
    expected = f"{source}: no such file or folder; expected a .conllu file, or a folder with such files"
    with pytest.raises(TreebankError, match=re.escape(expected)):
        load_treebank(source)


class Penn(ModuleType):
    """In the place of `posneurons.penn`: remembers how it is called."""

    def __init__(self) -> None:
        super().__init__("posneurons.penn")
        self.calls: list[tuple[str, Path, dict[str, object]]] = []

    def load_ptb(self, path: Path, **words: object) -> Treebank:
        self.calls.append(("ptb", path, words))
        return Treebank("ptb", "upos", (), "", marked_documents=True)

    def load_brown(self, path: Path, **words: object) -> Treebank:
        self.calls.append(("brown", path, words))
        return Treebank("brown", "upos", (), "", marked_documents=True)


@pytest.fixture
def penn(monkeypatch: pytest.MonkeyPatch) -> Penn:
    module = Penn()
    monkeypatch.setitem(sys.modules, "posneurons.penn", module)
    monkeypatch.setattr("posneurons.penn", module, raising=False)
    return module


def test_penn_and_brown_are_read_from_their_packages(penn: Penn) -> None:
    cache = shared_data("nltk_data").parent
    load_treebank("ptb-sample", cache=cache)
    load_treebank("brown", cache=cache, tag="xpos")
    mapping = cache / "nltk_data/taggers/universal_tagset.zip"
    corpora = cache / "nltk_data/corpora"
    assert penn.calls == [
        ("ptb", corpora / "treebank.zip", {"name": "ptb-sample", "tag": "upos", "universal": mapping}),
        ("brown", corpora / "brown.zip", {"name": "brown", "tag": "xpos", "universal": mapping}),
    ]


def test_a_folder_of_penn_treebank_files(penn: Penn, tmp_path: Path) -> None:
    """The mapping of tags is asked for only where it is used."""
    (tmp_path / "mine/wsj/00").mkdir(parents=True)
    (tmp_path / "mine/wsj/00/WSJ_0001.MRG").write_text("( (S (NN a)))")
    load_treebank(tmp_path / "mine", tag="xpos", cache=tmp_path / "cache")
    mapping = shared_data("nltk_data/taggers/universal_tagset.zip")
    load_treebank(tmp_path / "mine", cache=SHARED)
    load_treebank(tmp_path / "mine", tag="upos+form", cache=SHARED)
    assert penn.calls == [
        ("ptb", tmp_path / "mine", {"name": "mine", "tag": "xpos", "universal": None}),
        ("ptb", tmp_path / "mine", {"name": "mine", "tag": "upos", "universal": mapping}),
        ("ptb", tmp_path / "mine", {"name": "mine", "tag": "upos+form", "universal": mapping}),
    ]
    assert not (tmp_path / "cache").exists()


def test_conllu_files_win_over_penn_treebank_files(penn: Penn, tmp_path: Path) -> None:
    (tmp_path / "a.mrg").write_text("( (S (NN a)))")
    (tmp_path / "dev.conllu").write_bytes(DEV)
    assert load_treebank(tmp_path).splits == ("dev",)
    assert penn.calls == []


def test_the_penn_treebank_sample_by_its_code() -> None:
    shared_data("nltk_data")
    bank = load_treebank("ptb-sample", tag="xpos", cache=SHARED)
    assert (bank.name, bank.tagset, len(bank)) == ("ptb-sample", "xpos", 3_914)
    assert bank.tag_counts().total() == 94_084


# Real treebanks: the counts are those that the makers publish in stats.xml.


REAL = {
    "en_ewt": ("UD_English-EWT", ("train", "dev", "test")),
    "hi_pud": ("UD_Hindi-PUD", ("test",)),
    "de_gsd": ("UD_German-GSD", ("dev", "test")),
    "es_gsd": ("UD_Spanish-GSD", ("dev", "test")),
    "zh_gsdsimp": ("UD_Chinese-GSDSimp", ("dev", "test")),
}
WHOLE = ("en_ewt", "hi_pud")


@pytest.mark.parametrize("code", REAL)
def test_counts_are_those_of_the_makers(code: str) -> None:
    folder, splits = REAL[code]
    stats = ET.parse(shared_data(f"ud/{folder}") / "stats.xml").getroot()  # noqa: S314
    bank = treebank(folder)
    assert bank.splits == splits
    for split in splits:
        said = {item.tag: int(item.text or 0) for item in stats.find(f"size/{split}") or ()}
        expected = {"words": said["tokens"], "fused": 0} | said
        size = bank.split(split).size()
        assert {("fused" if name == "multiword" else name): count for name, count in size.items()} == expected
    if code in WHOLE:
        assert dict(bank.tag_counts()) == {tag.get("name"): int(tag.text or 0) for tag in stats.findall("tags/tag")}


@pytest.mark.parametrize("code", WHOLE)
def test_a_code_stands_for_the_files_at_hand(code: str) -> None:
    folder = shared_data(f"ud/{REAL[code][0]}")
    assert fetch(find(code), SHARED) == [folder / f"{code}-ud-{split}.conllu" for split in REAL[code][1]]


@pytest.mark.parametrize("code", [pytest.param("en_ewt", marks=pytest.mark.slow), "hi_pud"])
def test_a_code_gives_what_its_folder_gives(code: str) -> None:
    whole = treebank(shared_data(f"ud/{REAL[code][0]}").name)
    assert load_treebank(code, cache=SHARED) == replace(whole, name=code)


def test_splits_that_are_not_there_are_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ud/UD_German-GSD").mkdir(parents=True)
    for path in shared_data("ud/UD_German-GSD").glob("*.conllu"):
        (tmp_path / "ud/UD_German-GSD" / path.name).symlink_to(path)
    monkeypatch.setattr(treebank_module, "fetch", partial(fetch, base="http://127.0.0.1:1"))
    with pytest.raises(TreebankError) as caught:
        load_treebank("de_gsd", cache=tmp_path)
    said = str(caught.value)
    assert "297fcf350481058d0737a27f0f8fd03b2eadd67a/de_gsd-ud-train.conllu cannot be fetched: no answer" in said
    assert f"give the folder {tmp_path}/ud/UD_German-GSD for de_gsd-ud-dev.conllu, de_gsd-ud-test.conllu alone" in said


# What the doctor says of treebanks.


def test_the_doctor_lists_every_code_and_marks_those_in_the_cache(tmp_path: Path) -> None:
    for file in (*registry()["hi_pud"].files, registry()["en_ewt"].files[1]):  # of en_ewt, one of three
        (tmp_path / file.place).parent.mkdir(parents=True)
        (tmp_path / file.place).write_bytes(b"")
    lines = list(doctor._treebanks(tmp_path))
    assert max(map(len, lines[1:])) <= doctor.WIDTH
    text = " ".join(lines[1:]).replace("nltk_data", "")
    codes = re.findall(r"(?:[a-z]+_[a-z]+|ptb-sample|brown)\*?", text)
    assert sorted(codes) == sorted(code + "*" * (code == "hi_pud") for code in registry())
    assert "  r2.17, pinned by sha256: Hindi hi_pud*" in lines
    assert "  r2.16, pinned by sha256 but for train: German de_gsd; Spanish es_gsd" in lines
    assert "  r2.16, pinned by tag, sha256 kept on first use: Russian ru_syntagrus" in lines


def test_the_doctor_counts_what_a_treebank_holds(tmp_path: Path) -> None:
    (tmp_path / "train.conllu").write_bytes(
        b"# newdoc id = a\n# text = I don't\n1\tI\t_\tPRON\t_\t_\t0\t_\t_\t_\n2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_\n"
        b"2\tdo\t_\tAUX\t_\t_\t0\t_\t_\t_\n3\tn't\t_\tPART\t_\t_\t0\t_\t_\t_\n\n1\tI\t_\tPRON\t_\t_\t0\t_\t_\t_\n"
    )
    (tmp_path / "dev.conllu").write_bytes(conllu("I", document="b"))
    bank = load_treebank(tmp_path)
    lines = [
        f"{tmp_path.name}: tags from upos, sha256 {bank.sha256}",
        "train: 2 sentences, 3 tokens, 4 words, 1 multiword tokens, 1 documents, 3 tags",
        "dev: 1 sentences, 1 tokens, 1 words, 0 multiword tokens, 1 documents, 1 tags",
        "tags: PRON 2, AUX 1, PART 1, NOUN 1",
    ]
    assert doctor.examine_treebank(bank) == lines
    # Tokens are what white space divides: "do" and "n't" are cut out of "don't".
    aligned = "aligned with the tokens: 3 of 5 words; left out: cut by a token 2"
    inner = Tokenizer(models.WordLevel({"<s>": 0, "I": 1, "don't": 2}))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")  # noqa: S106
    assert doctor.examine_treebank(bank, tokenizer) == [*lines, aligned]


def test_the_doctor_shows_the_most_frequent_of_many_tags(tmp_path: Path) -> None:
    forms = [f"w{number}" for number in range(doctor.TAGS_SHOWN + 2)]
    (tmp_path / "dev.conllu").write_bytes(conllu("w41", *forms))
    lines = doctor.examine_treebank(load_treebank(tmp_path, tag="form"))
    assert lines[2].startswith("tags: w41 2, w0 1, w1 1, ")
    assert lines[-1].endswith(f"w{doctor.TAGS_SHOWN - 2} 1, and 2 more")
