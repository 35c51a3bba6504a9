"""Penn Treebank and Brown: trees written by hand with spans counted by hand, broken files, and the corpora of nltk."""

import hashlib
import re
from collections import Counter
from functools import cache
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import shared_data

from posneurons.detokenizer import detokenize
from posneurons.errors import TreebankError
from posneurons.penn import CATEGORIES, load_brown, load_ptb, restored
from posneurons.sentences import Sentence, Treebank, Word

PTB_TABLE = (
    "DT\tDET\nNN\tNOUN\nNNS\tNOUN\nVBZ\tVERB\nRB\tADV\nPOS\tPRT\nCC\tCONJ\n.\t.\n``\t.\n''\t.\n-LRB-\t.\n-RRB-\t.\n"
)
BROWN_TABLE = "AT\tDET\nNN\tNOUN\nNN-TL\tNOUN\nVBD\tVERB\n.\t.\n,\t.\n"

RAIN = "( (S (NP-SBJ (DT The) (NN rain) ) (VP (VBZ falls) (ADVP (RB n't) ))\n    (. .) ))\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def table(folder: Path) -> Path:
    """A small universal_tagset.zip."""
    path = folder / "universal_tagset.zip"
    with ZipFile(path, "w") as archive:
        archive.writestr("universal_tagset/en-ptb.map", PTB_TABLE)
        archive.writestr("universal_tagset/en-brown.map", BROWN_TABLE)
    return path


def ptb(folder: Path, text: str, tag: str = "xpos") -> Sentence:
    """The only sentence of a file with this text."""
    write(folder, "bank/x.mrg", text)
    (sentence,) = load_ptb(folder / "bank", tag=tag)
    return sentence


def brown(folder: Path, text: str) -> tuple[Sentence, ...]:
    write(folder, "bank/ca01", text)
    return load_brown(folder / "bank", tag="xpos").sentences


def fault(folder: Path, text: str, *, load: object = load_ptb, name: str = "x.mrg") -> str:
    """The error that a file with this text gives, without the folder."""
    write(folder, f"bank/{name}", text)
    with pytest.raises(TreebankError) as caught:
        (load_brown if load is load_brown else load_ptb)(folder / "bank", tag="xpos")
    return shown(caught, folder)


def shown(caught: pytest.ExceptionInfo[TreebankError], folder: Path) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(folder.as_posix() + "/", "")


# Golden: Penn Treebank.


def test_a_tree_becomes_a_sentence(tmp_path: Path) -> None:
    # The rain fallsn't.    The=0..3 rain=4..8 falls=9..14 n't=14..17 .=17..18
    assert ptb(tmp_path, RAIN) == Sentence(
        id="x-1",
        text="The rain fallsn't.",
        words=(
            Word("The", "DT", 0, 3),
            Word("rain", "NN", 4, 8),
            Word("falls", "VBZ", 9, 14),
            Word("n't", "RB", 14, 17),
            Word(".", ".", 17, 18),
        ),
        document="x",
        split="all",
        multiword=((2, 4),),
    )


def test_brackets_quotes_and_slashes_are_as_in_print(tmp_path: Path) -> None:
    sentence = ptb(
        tmp_path,
        r"(S (`` ``) (-LRB- -LRB-) (CD 1\/2) (NN a\*b) (-RRB- -RRB-) ('' '') (-LRB- -LCB-) (-RRB- -RCB-) (. .))",
    )
    assert sentence.text == '"(1/2 a*b)" {}.'
    assert [word.form for word in sentence.words] == ['"', "(", "1/2", "a*b", ")", '"', "{", "}", "."]
    assert [word.tag for word in sentence.words][:3] == ["``", "-LRB-", "CD"]


def test_traces_are_no_words_and_a_sentence_of_traces_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "x.mrg", "(S (NP (-NONE- *T*-1)) (VB Go) (-NONE- 0))\n(S (-NONE- *))\n(S (VB Stop))\n")
    bank = load_ptb(tmp_path, tag="xpos")
    assert [(sentence.id, sentence.text) for sentence in bank] == [("x-1", "Go"), ("x-3", "Stop")]


def test_a_stop_after_an_abbreviation_is_written_once(tmp_path: Path) -> None:
    sentence = ptb(tmp_path, "(S (IN in) (NN the) (NNP U.S.) (. .) ('' ''))")
    assert sentence.text == 'in the U.S."'
    assert sentence.words[3] == Word(".", ".", 7, 11, shared=True)
    assert sentence.multiword == ((2, 4),)
    assert ptb(tmp_path, "(S (NN So) (: ...) (. .))").text == "So...."


def test_possessives_are_parts_and_closing_quotes_are_not(tmp_path: Path) -> None:
    assert ptb(tmp_path, "(S (NNS boys) (POS ') (NNS toys))").multiword == ((0, 2),)
    assert ptb(tmp_path, "(S (`` `) (NNS boys) ('' '))").multiword == ()
    assert ptb(tmp_path, "(S (NNP Al) (POS 's) (NN can) (RB not) (VB go))").multiword == ((0, 2), (2, 4))
    assert ptb(tmp_path, "(S (PRP I) (MD 'd) (VB 've) (VBN gone))").multiword == ((0, 3),)


def test_tags_become_universal_and_get_their_names_in_universal_dependencies(tmp_path: Path) -> None:
    write(tmp_path, "x.mrg", "(S (DT a) (NNS boys) (POS ') (CC and) (ODD b) (. .))")
    (sentence,) = load_ptb(tmp_path, tag="upos", universal=table(tmp_path))
    assert [word.tag for word in sentence.words] == ["DET", "NOUN", "PART", "CCONJ", "X", "PUNCT"]


def test_other_tags(tmp_path: Path) -> None:
    write(tmp_path, "x.mrg", "(S (DT The) (NNS boys))")
    assert set(load_ptb(tmp_path, tag="form").tag_counts()) == {"the", "boys"}
    joined = load_ptb(tmp_path, tag="upos+xpos", universal=table(tmp_path))
    assert joined.tagset == "upos+xpos"
    assert set(joined.tag_counts()) == {"DET+DT", "NOUN+NNS"}
    with pytest.raises(TreebankError) as caught:
        load_ptb(tmp_path, tag="Number")
    assert str(caught.value) == (
        "tag='Number': Penn Treebank and Brown have no lemmas and no features; expected 'xpos' (their own tags), "
        "'upos' (universal ones), 'form', or several joined by +"
    )


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    """Sections as they are customary for tagging, other trees beside them, capitals, and files of other kinds."""
    for name in ("wsj/00/wsj_0001.mrg", "wsj/18/WSJ_1800.MRG", "wsj/19/wsj_1900.mrg", "wsj/21/wsj_2199.mrg"):
        write(tmp_path, name, RAIN)
    for name in ("wsj/22/wsj_2200.mrg", "wsj/24/wsj_2400.mrg", "brown/ck/ck01.mrg", "wsj/00/wsj_0001.prd", "README"):
        write(tmp_path, name, RAIN)
    bank = load_ptb(tmp_path, tag="xpos", name="mine")
    assert (bank.name, bank.tagset, bank.marked_documents) == ("mine", "xpos", True)
    assert {sentence.document: sentence.split for sentence in bank} == {
        "ck01": "all",
        "wsj_0001": "train",
        "WSJ_1800": "train",
        "wsj_1900": "dev",
        "wsj_2199": "dev",
        "wsj_2200": "test",
        "wsj_2400": "test",
    }
    (tmp_path / "wsj/22/wsj_2200.mrg").unlink()
    (tmp_path / "wsj/24/wsj_2400.mrg").unlink()
    assert load_ptb(tmp_path, tag="xpos").splits == ("all",)


def test_the_digest_is_that_of_the_files_in_reading_order_and_a_zip_is_as_good(tmp_path: Path) -> None:
    for name, text in (("b/x.mrg", RAIN), ("a/y.mrg", "(S (VB Go))")):
        write(tmp_path / "bank", name, text)
    with ZipFile(tmp_path / "bank.zip", "w") as archive:
        archive.write(tmp_path / "bank/b/x.mrg", "bank/b/x.mrg")
        archive.write(tmp_path / "bank/a/y.mrg", "bank/a/y.mrg")
    folder, zipped = load_ptb(tmp_path / "bank", tag="xpos"), load_ptb(tmp_path / "bank.zip", tag="xpos")
    assert folder == zipped
    assert folder.sha256 == hashlib.sha256(b"(S (VB Go))" + RAIN.encode()).hexdigest()
    assert [sentence.document for sentence in folder] == ["y", "x"]


def test_the_banner_of_some_files_is_no_tree(tmp_path: Path) -> None:
    assert ptb(tmp_path, "*x*x*x*\n*x* Copyright (C) 1995 *x*\n" + RAIN).text == "The rain fallsn't."
    assert fault(tmp_path, "*x* (C) *x*\n\n(S") == (
        "bank/x.mrg:3: the tree that begins here lacks 1 ) by the end of the file"
    )


# Golden: Brown.


def test_lines_become_sentences(tmp_path: Path) -> None:
    # The House sat.  /  Why?     The=0..3 House=4..9 sat=10..13 .=13..14
    first, second, third = brown(
        tmp_path, "\n\n\tThe/at House/nn-tl sat/vbd ./.\nWhy/wrb ?/. ?/.\n\n\n``/`` 1/2/cd '/' ok/jj '/' ''/''\n\n\n"
    )
    assert first == Sentence(
        id="news/ca01-1",
        text="The House sat.",
        words=(
            Word("The", "AT", 0, 3),
            Word("House", "NN-TL", 4, 9),
            Word("sat", "VBD", 10, 13),
            Word(".", ".", 13, 14),
        ),
        document="news/ca01",
        split="all",
        after=" ",
    )
    assert (second.text, second.after) == ("Why?", "\n\n")
    assert (third.id, third.text, third.after) == ("news/ca01-3", "\"1/2 'ok'\"", " ")


def test_marks_that_stand_twice_are_written_once(tmp_path: Path) -> None:
    # No!   No=0..2 !=2..3, again
    (sentence,) = brown(tmp_path, "No/rb !/. !/. Go/vb ;/. ;/. ;/. a/at a/at ,/, ,/,-hl")
    assert sentence.text == "No! Go;; a a,,"
    assert sentence.words[1:3] == (Word("!", ".", 2, 3), Word("!", ".", 2, 3, shared=True))
    assert [word.shared for word in sentence.words] == [False, False, True, False, False, True, *[False] * 5]
    assert sentence.multiword == ((1, 3), (4, 6))


def test_a_single_quote_is_no_possessive_in_brown(tmp_path: Path) -> None:
    (sentence,) = brown(tmp_path, "He/pps says/vbz '/' no/rb '/' and/cc boys'/nns$ toys/nns")
    assert sentence.text == "He says 'no' and boys' toys"
    assert sentence.multiword == ()


def test_brown_with_universal_tags(tmp_path: Path) -> None:
    write(tmp_path, "bank/cr09", "The/at House/nn-tl foo/fw-nn sat/vbd ,/, ./.")
    bank = load_brown(tmp_path / "bank", universal=table(tmp_path))
    assert [word.tag for word in bank.sentences[0].words] == ["DET", "NOUN", "X", "VERB", "PUNCT", "PUNCT"]
    assert (bank.name, bank.tagset, bank.sentences[0].document) == ("bank", "upos", "humor/cr09")


# Errors: one line each, with the file.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(S (NN rain) (. .)\n\n(S (VB Go))\n", ":1: the tree that begins here lacks 1 ) by the end of the file"),
        ("(S (VB Go))\n(S (VB Go)))\n", ":2: a ) that nothing opened; expected as many ( as )"),
        ("(S\n (NN rain storm))", ":2: 'rain' outside of its brackets; expected e.g. (NN rain)"),
        ("(S (NN rain (VB x)))", ":1: 'rain' outside of its brackets; expected e.g. (NN rain)"),
        ("(S (NP))", ":1: brackets around no word; expected a tag and a word, as in (NN rain)"),
        ("(S ())", ":1: brackets around no word; expected a tag and a word, as in (NN rain)"),
        ("rain", ":1: 'rain' outside of its brackets; expected e.g. (NN rain)"),
        ("", ": no sentence in this file; expected trees such as (S (NN Rain) (. .))"),
        ("(S (-NONE- *))", ": no sentence in this file; expected trees such as (S (NN Rain) (. .))"),
    ],
)
def test_broken_trees(tmp_path: Path, text: str, message: str) -> None:
    assert fault(tmp_path, text) == f"bank/x.mrg{message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\nThe/at rain\n", ":3: 'rain': expected a word, / and a tag, as Rain/nn"),
        ("The/at rain/\n", ":1: 'rain': expected a word, / and a tag, as Rain/nn"),
        ("/nn\n", ":1: 'nn': expected a word, / and a tag, as Rain/nn"),
        ("\n \n", ": no sentence in this file; expected words such as Rain/nn"),
    ],
)
def test_broken_lines(tmp_path: Path, text: str, message: str) -> None:
    assert fault(tmp_path, text, load=load_brown, name="ca01") == f"bank/ca01{message}"


def test_nothing_to_read(tmp_path: Path) -> None:
    def said(path: Path, universal: Path | None = None) -> str:
        with pytest.raises(TreebankError) as caught:
            load_ptb(path, tag="upos" if universal else "xpos", universal=universal)
        return shown(caught, tmp_path)

    expected = "nothing in it and below that is named as expected: Penn Treebank files, such as wsj_0001.mrg"
    (tmp_path / "empty").mkdir()
    assert said(tmp_path / "empty") == f"empty: {expected}"
    assert said(table(tmp_path)) == f"universal_tagset.zip: {expected}"
    assert said(tmp_path / "no") == "no: cannot be read (No such file or directory); expected a folder or zip with it"
    text = write(tmp_path, "x.zip", "no zip")
    assert said(text) == "x.zip: not a zip file, or a damaged one (File is not a zip file); fetch it again"
    assert said(tmp_path, text) == "x.zip: not a zip file, or a damaged one (File is not a zip file); fetch it again"
    write(tmp_path, "tables/en-ptb.map", "NN NOUN\n")
    assert said(tmp_path, tmp_path / "tables") == (
        "tables/en-ptb.map:1: 1 columns; expected a tag, a tab, a universal tag"
    )
    assert said(tmp_path, tmp_path / "empty") == (
        "empty: nothing in it and below that is named as expected: nltk's universal_tagset.zip with en-ptb.map"
    )
    with pytest.raises(TreebankError, match=r"^tag='upos': needs universal=, the path of nltk's universal_tagset.zip"):
        load_ptb(tmp_path)
    with pytest.raises(TreebankError, match=r"Brown's files, such as ca01$"):
        load_brown(tmp_path / "empty", tag="xpos")


def test_a_damaged_zip(tmp_path: Path) -> None:
    path = tmp_path / "bank.zip"
    with ZipFile(path, "w") as archive:
        archive.writestr("x.mrg", RAIN)
    path.write_bytes(path.read_bytes().replace(b"rain", b"snow"))
    with pytest.raises(TreebankError) as caught:
        load_ptb(path, tag="xpos")
    assert shown(caught, tmp_path) == (
        "bank.zip: not a zip file, or a damaged one (Bad CRC-32 for file 'x.mrg'); fetch it again"
    )


def test_a_zip_whose_packing_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "bank.zip"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.writestr("x.mrg", RAIN * 20)
    content = bytearray(path.read_bytes())
    content[35:55] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(
        TreebankError, match=r"bank\.zip: not a zip file, or a damaged one \(Error -3 while decompressing"
    ):
        load_ptb(path, tag="xpos")


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "x.mrg").write_bytes(b"(S (NN rain))\n(S (NN caf\xe9))")
    with pytest.raises(TreebankError) as caught:
        load_ptb(tmp_path, tag="xpos")
    assert shown(caught, tmp_path) == "x.mrg:2: not UTF-8 (invalid continuation byte); expected plain text"


def test_one_text_twice(tmp_path: Path) -> None:
    write(tmp_path, "a/x.mrg", RAIN)
    write(tmp_path, "b/x.mrg", RAIN)
    with pytest.raises(TreebankError) as caught:
        load_ptb(tmp_path, tag="xpos")
    assert shown(caught, tmp_path) == "b/x.mrg: a second file of that name, after a/x.mrg; expected each once"


# Property: any leaves come back.

NAMES = st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="()"), min_size=1, max_size=6)


@given(st.lists(st.tuples(NAMES, NAMES.filter(lambda tag: tag != "-NONE-")), min_size=1, max_size=8))
def test_any_leaves_come_back(tmp_path_factory: pytest.TempPathFactory, leaves: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("bank")
    sentence = ptb(folder, "(S " + " ".join(f"({tag} {word})" for word, tag in leaves) + ")")
    assert [(word.form, word.tag) for word in sentence.words] == [(restored(word), tag) for word, tag in leaves]
    for word in sentence.words:
        assert word.shared or sentence.text[word.start : word.end] == word.form


# The corpora themselves.


@cache
def sample() -> Treebank:
    return load_ptb(
        shared_data("nltk_data/corpora/treebank.zip"),
        tag="upos+xpos",
        universal=shared_data("nltk_data/taggers/universal_tagset.zip"),
    )


def parts(bank: Treebank, number: int) -> Counter[str]:
    """Words of each tag, of tags that are two joined."""
    return sum((Counter({tag.split("+", 1)[number]: n}) for tag, n in bank.tag_counts().items()), Counter())


def test_the_sample_has_its_counts() -> None:
    bank = sample()
    size = bank.size()
    assert (size["sentences"], size["words"]) == (3914, 94084)
    assert bank.splits == ("all",)
    assert len({sentence.document for sentence in bank}) == 199
    assert len(parts(bank, 1)) == 45
    assert parts(bank, 1)["NN"] == 13166
    universal = {"NOUN": 28867, "VERB": 13564, "PUNCT": 11715, "ADP": 9857, "DET": 8725, "ADJ": 6397, "NUM": 3546}
    assert parts(bank, 0) == {**universal, "PART": 3219, "ADV": 3171, "PRON": 2737, "CCONJ": 2265, "X": 21}


def test_the_sample_has_6592_traces() -> None:
    with ZipFile(shared_data("nltk_data/corpora/treebank.zip")) as archive:
        trees = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".mrg")]
    assert sum(len(re.findall(r"\(-NONE- \S+\)", tree)) for tree in trees) == 6592


def test_the_sample_is_what_nltk_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference: nltk's own reader, which wants its folder to be in a global list."""
    import nltk
    from nltk.corpus.reader import BracketParseCorpusReader
    from nltk.data import ZipFilePathPointer

    folder = shared_data("nltk_data")
    monkeypatch.setattr(nltk.data, "path", [str(folder)])
    pointer = ZipFilePathPointer(str(folder / "corpora/treebank.zip"), "treebank/combined/")
    reader = BracketParseCorpusReader(pointer, r"wsj_.*\.mrg")
    theirs = [[(word, tag) for word, tag in tree if tag != "-NONE-"] for tree in reader.tagged_sents()]
    ours = [[(word.form, word.tag.split("+", 1)[1]) for word in sentence.words] for sentence in sample()]
    assert ours == [[(restored(word), tag) for word, tag in tree] for tree in theirs]


def test_words_from_spans_are_the_words_of_the_sample() -> None:
    for sentence in sample():
        own = [word for word in sentence.words if not word.shared]
        assert [sentence.text[word.start : word.end] for word in own] == [word.form for word in own]
        assert "".join(word.form for word in own) == sentence.text.replace(" ", "")
    assert sum(word.shared for sentence in sample() for word in sentence.words) == 16  # of "the U.S. ."


def test_nltk_takes_the_text_apart_into_the_same_words() -> None:
    """Measured: 97.1 % of sentences; the others are "S&P", "62%-owned", "Mo." before a bracket and the like."""
    from nltk.tokenize import TreebankWordTokenizer

    tokenizer = TreebankWordTokenizer()
    same = sum(
        [restored(word) for word in tokenizer.tokenize(sentence.text)]
        == [word.form for word in sentence.words if not word.shared]
        for sentence in sample()
    )
    assert same / len(sample()) > 0.965


def test_brown_news_is_what_brown_says(tmp_path: Path) -> None:
    with ZipFile(shared_data("nltk_data/corpora/brown.zip")) as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r"brown/ca\d\d", name)]
        archive.extractall(tmp_path, names)
        listed = dict(line.split() for line in archive.read("brown/cats.txt").decode().splitlines())
    assert {stem: CATEGORIES[stem[1]] for stem in listed} == listed
    bank = load_brown(tmp_path, tag="xpos")
    size = bank.size()
    assert (size["sentences"], size["words"]) == (4623, 100554)
    assert {sentence.document.split("/")[0] for sentence in bank} == {"news"}
    written = [word for sentence in bank for word in sentence.words if not word.shared]
    assert size["tokens"] == len(written)
    for sentence in bank:
        assert all(word.form == sentence.text[word.start : word.end] for word in sentence.words if not word.shared)
    assert bank.sentences[0].text.startswith("The Fulton County Grand Jury said Friday an investigation of Atlanta's")


@pytest.mark.slow
def test_brown_is_what_nltk_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk
    from nltk.corpus.reader import TaggedCorpusReader
    from nltk.data import ZipFilePathPointer

    folder = shared_data("nltk_data")
    path = folder / "corpora/brown.zip"
    universal = shared_data("nltk_data/taggers/universal_tagset.zip")
    bank = load_brown(path, tag="upos+xpos", universal=universal)
    assert (len(bank), bank.size()["words"], len(parts(bank, 1))) == (57340, 1161192, 472)
    assert (parts(bank, 0)["X"], len({tag for tag in bank.tag_counts() if tag.startswith("X+")})) == (1386, 84)
    monkeypatch.setattr(nltk.data, "path", [str(folder)])
    reader = TaggedCorpusReader(ZipFilePathPointer(str(path), "brown/"), r"c[a-z]\d\d")
    theirs = [[(restored(word), tag) for word, tag in sentence] for sentence in reader.tagged_sents()]
    assert [[(word.form, word.tag.split("+", 1)[1]) for word in sentence.words] for sentence in bank] == theirs
    ends = sum(sentence.after == "\n\n" for sentence in bank)
    assert ends + 500 == len(reader.paras())  # after the last one of a document there is no other


def test_detokenize_and_the_reader_agree(tmp_path: Path) -> None:
    sentence = ptb(tmp_path, RAIN)
    words = [word.form for word in sentence.words]
    assert detokenize(words) == (sentence.text, [(word.start, word.end) for word in sentence.words])
