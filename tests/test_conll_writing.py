"""Writing CoNLL-U: what is read back is what was written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posneurons.conll_writing import tag_columns, write_conllu, write_sentences
from posneurons.errors import TreebankError
from posneurons.sentences import Sentence, Treebank, Word
from posneurons.treebank import load_treebank

Token = tuple[str, list[str]]
"""A surface and the words behind it."""


def sentence(name: str, tokens: list[tuple[Token, str]], tag: str = "X", **fields: Any) -> Sentence:
    """A sentence of tokens, each with what stands after it; the last one's is that of the sentence."""
    text, words, multiword = "", [], []
    for place, ((surface, forms), after) in enumerate(tokens):
        start = at = len(text)
        shared = "".join(forms).casefold() != surface.casefold() or len("".join(forms)) != len(surface)
        if len(forms) > 1:
            multiword.append((len(words), len(words) + len(forms)))
        for form in forms:
            own = (start, start + len(surface)) if shared else (at, at + len(form))
            words.append(Word(form, tag, *own, shared))
            at += len(form)
        text += surface + (after if place < len(tokens) - 1 else "")
    document = fields.pop("document", "d")
    return Sentence(name, text, tuple(words), document, "all", tuple(multiword), fields.pop("after", tokens[-1][1]))


def bank(*sentences: Sentence, tagset: str = "upos", marked: bool = True) -> Treebank:
    return Treebank("bank", tagset, sentences, "", marked)


def words(line: str) -> list[tuple[Token, str]]:
    return [((form, [form]), " ") for form in line.split(" ")]


def there_and_back(treebank: Treebank, folder: Path, tag: str = "upos") -> Treebank:
    write_conllu(treebank, folder / "x.conllu")
    return load_treebank(folder / "x.conllu", tag=tag)


def test_a_file_by_hand(tmp_path: Path) -> None:
    first = sentence("1", [(("Im", ["In", "dem"]), " "), (("Don't", ["do", "n't"]), ""), ((".", ["."]), "\n\n")])
    second = sentence("2", [(("a", ["a"]), "  "), (("b", ["b"]), "")], document="d")
    third = sentence("3", words("c"), document="e")
    write_conllu(bank(first, second, third), tmp_path / "x.conllu", comments={"generator": "by\nhand"})
    assert (tmp_path / "x.conllu").read_bytes().decode() == (
        "# generator = by hand\n# newdoc id = d\n# sent_id = 1\n# text = Im Don't.\n"
        "1-2\tIm\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "1\tIn\t_\tX\t_\t_\t_\t_\t_\t_\n"
        "2\tdem\t_\tX\t_\t_\t_\t_\t_\t_\n"
        "3-4\tDon't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No\n"
        "3\tdo\t_\tX\t_\t_\t_\t_\t_\t_\n"
        "4\tn't\t_\tX\t_\t_\t_\t_\t_\t_\n"
        "5\t.\t_\tX\t_\t_\t_\t_\t_\tSpacesAfter=\\n\\n\n\n"
        "# newpar\n# sent_id = 2\n# text = a  b\n"
        "1\ta\t_\tX\t_\t_\t_\t_\t_\tSpacesAfter=\\s\\s\n"
        "2\tb\t_\tX\t_\t_\t_\t_\t_\tSpaceAfter=No\n\n"
        "# newdoc id = e\n# sent_id = 3\n# text = c\n"
        "1\tc\t_\tX\t_\t_\t_\t_\t_\t_\n\n"
    )
    back = load_treebank(tmp_path / "x.conllu")
    assert back.sentences == (first, second, third)
    assert back.marked_documents
    assert [word.shared for word in back.sentences[0].words] == [True, True, False, False, False]


def test_the_embedded_treebank_there_and_back(tmp_path: Path) -> None:
    test = load_treebank().split("test")
    write_conllu(test, tmp_path / "a-test.conllu")
    back = load_treebank(tmp_path / "a-test.conllu")
    assert back.sentences == test.sentences
    assert back.marked_documents


FORMS = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), st.sampled_from("a_#=|\\- \u00a0\u200b\u202e😀é")
    ),
    min_size=1,
    max_size=5,
).filter(lambda form: form == form.strip())
GAPS = st.sampled_from([" ", "", "  ", "\t", "\n", "\u00a0", " \r\n ", "\u2028", "\x85"])
ENDS = st.one_of(GAPS, st.sampled_from(["\n\n", "\n\n\n", "\u3000"]))
NAMES = st.from_regex(r"[a-z0-9/=# .-]{0,5}[a-z]", fullmatch=True).filter(lambda name: name == name.strip())


@st.composite
def tokens(draw: st.DrawFn) -> Token:
    surface = draw(FORMS)
    if draw(st.integers(0, 3)):
        return surface, [surface]
    cut = draw(st.integers(1, max(1, len(surface) - 1)))
    forms = [surface[:cut], surface[cut:]]
    if len(surface) == 1 or any(form != form.strip() for form in forms) or draw(st.booleans()):
        forms = draw(st.lists(FORMS, min_size=2, max_size=3))
    return surface, forms


@st.composite
def treebanks(draw: st.DrawFn) -> Treebank:
    made = []
    for document in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)):
        for _ in range(draw(st.integers(1, 3))):
            line = draw(st.lists(st.tuples(tokens(), GAPS), min_size=1, max_size=5))
            tag = draw(st.sampled_from(["NOUN", "_", "$", "a b"]))
            name = f"{draw(NAMES)}{len(made)}"
            made.append(sentence(name, line, tag, document=document, after=draw(ENDS)))
    kept = replace(made[0], words=(replace(made[0].words[0], tag="NOUN"), *made[0].words[1:]))
    return bank(kept, *made[1:])


@given(treebanks())
@example(bank(sentence("1", words("_ # = 1-2 <a>"))))
@settings(max_examples=80)
def test_whatever_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, treebank: Treebank) -> None:
    back = there_and_back(treebank, tmp_path_factory.mktemp("back"))
    assert back.sentences == treebank.sentences
    assert (back.marked_documents, back.tagset) == (True, "upos")


@pytest.mark.parametrize("tagset", ["upos", "xpos", "Number", "Number[psor]", "lemma", "upos+Number", "Number+Case"])
def test_a_tag_goes_where_it_is_read_from(tagset: str, tmp_path: Path) -> None:
    tag = "+".join("ab" if part == "lemma" else f"A{part[0]}" for part in tagset.split("+"))
    made = sentence("1", words("one two"), tag)
    made = replace(made, words=(made.words[0], replace(made.words[1], tag="_")))
    back = there_and_back(bank(made, tagset=tagset), tmp_path, tagset)
    assert back.sentences == (made,)


def test_other_tag_sets_stand_in_upos_and_forms_nowhere(tmp_path: Path) -> None:
    assert tag_columns("upos: content, function", "content") == {"upos": "content"}
    assert tag_columns("given", "a+b") == {"upos": "a+b"}
    assert tag_columns("xpos", "EX+BEZ") == {"xpos": "EX+BEZ"}
    assert tag_columns("form", "the") == {}
    assert tag_columns("Case+Number", "Nom+Plur") == {"feats": "Case=Nom|Number=Plur"}
    assert tag_columns("Number+Case", "Plur+Nom") == {"feats": "Case=Nom|Number=Plur"}
    made = sentence("1", words("The the"), "the")
    assert there_and_back(bank(made, tagset="form"), tmp_path, "form").sentences == (made,)


def test_sentences_in_no_marked_document_stay_so(tmp_path: Path) -> None:
    made = [sentence(str(number), words("a b"), document=f"x:{number}") for number in range(2)]
    back = there_and_back(bank(*made, marked=False), tmp_path)
    assert not back.marked_documents
    assert [each.document for each in back] == ["x.conllu:1", "x.conllu:6"]
    assert "newdoc" not in (tmp_path / "x.conllu").read_text()


def test_several_columns_of_a_word_are_written(tmp_path: Path) -> None:
    made = sentence("1", words("dogs"))
    columns = {"upos": "NOUN", "xpos": "NNS", "feats": "Number=Plur", "lemma": "dog"}
    write_sentences([(made, [columns])], tmp_path / "x.conllu", documents=True)
    for tag, found in {"upos": "NOUN", "xpos": "NNS", "Number": "Plur", "lemma": "dog"}.items():
        assert load_treebank(tmp_path / "x.conllu", tag=tag).tag_counts() == {found: 1}


ONE = sentence("s1", words("a b"))


@pytest.mark.parametrize(
    ("treebank", "message"),
    [
        (bank(), r"x\.conllu: no sentence to write; expected at least one"),
        (
            bank(replace(ONE, split="train"), replace(ONE, split="test")),
            r"bank: 2 splits \(train, test\) and one file; expected one split: .* treebank\.split\('train'\)",
        ),
        (
            bank(replace(ONE, text="a-b")),
            "sentence s1: '-' after a word; expected only white space",
        ),
        (
            bank(replace(ONE, text="a c")),
            "sentence s1: word 'b', but the text is 'c' there; expected the same, or a range in `multiword`",
        ),
        (bank(replace(ONE, after=" - ")), "sentence s1: ' - ' after a word; expected only white space"),
        (bank(sentence("s1", words("a b"), "")), "tag '' of 'upos': 1 parts; expected 1, none of them empty"),
        (bank(sentence("s1", words("a  b"))), "sentence s1, word 2: ''; expected a form and a tag, or _"),
        (bank(sentence("s1", words("a"), "A\tB")), r"sentence s1: 'A\\tB'; expected no tab, line break or NUL"),
        (bank(sentence("s1", words("a\0b"))), r"sentence s1: 'a\\x00b'; expected no tab, line break or NUL in CoNLL-U"),
        (bank(replace(ONE, id="s\n1")), r"sentence s\n1: 's\\n1'; expected no tab"),
        (bank(replace(ONE, document="d\n")), r"sentence s1: 'd\\n'; expected no tab"),
        (
            bank(sentence("s1", words("a"), "NOUN"), tagset="upos+Number"),
            r"tag 'NOUN' of 'upos\+Number': 1 parts; expected 2, none of them empty",
        ),
    ],
)
def test_what_no_file_can_hold_is_an_error_and_leaves_no_file(treebank: Treebank, message: str, tmp_path: Path) -> None:
    with pytest.raises(TreebankError, match=message):
        write_conllu(treebank, tmp_path / "x.conllu")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TreebankError, match=r"none/x\.conllu: the file cannot be written: No such file or directory"):
        write_conllu(bank(ONE), tmp_path / "none" / "x.conllu")
