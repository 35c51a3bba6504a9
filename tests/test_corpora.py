"""Configurations to words: every option that decides what is read, on the embedded treebank."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import posneurons as pn
from posneurons.config import Config, fold_of
from posneurons.corpora import described, read_corpus, read_treebank
from posneurons.errors import PosNeuronsError, RunError
from posneurons.loading import load_tokenizer


def corpus(**options: Any) -> tuple[pn.Treebank, pn.Corpus, list[str]]:
    config = Config(**options)
    config.check()
    bank, notes = read_treebank(config)
    found, more = read_corpus(config, bank, load_tokenizer("demo"), 256)
    return bank, found, notes + more


def documents(bank: pn.Treebank) -> dict[str, set[str]]:
    return {name: {sentence.document for sentence in bank.split(name)} for name in bank.splits}


def test_by_default_the_treebank_is_read_as_it_is() -> None:
    bank, found, notes = corpus()
    assert bank == pn.load_treebank()
    assert notes == []
    assert described(bank, found)["context"] == "sentence"
    assert described(bank, found)["splits"]["test"]["words"] == len(found.split("test"))


@pytest.mark.parametrize("split", ["document", "1/3", "3/3"])
def test_new_splits_share_no_document(split: str) -> None:
    bank, found, notes = corpus(split=split, seed=3)
    sets = documents(bank)
    assert not sets["train"] & sets["test"]
    assert sets != documents(pn.load_treebank())
    assert found.split_names == bank.splits
    assert notes == []


def test_folds_test_every_document_once() -> None:
    tests = [documents(corpus(split=f"{number}/3")[0])["test"] for number in (1, 2, 3)]
    assert sorted(document for each in tests for document in each) == sorted(
        {sentence.document for sentence in pn.load_treebank()}
    )


def test_splits_by_sentence_warn_of_documents_in_both() -> None:
    _, _, notes = corpus(split="sentence")
    assert len(notes) == 1
    assert "documents have sentences in both train and test, such as" in notes[0]


def test_splits_by_type_share_no_word_form() -> None:
    _, found, notes = corpus(split="type")
    forms = {name: {str(form).casefold() for form in found.split(name).word_form} for name in ("train", "dev", "test")}
    assert not forms["train"] & forms["test"]
    assert not forms["train"] & forms["dev"]
    assert {tag for tag, count in found.tag_counts().items() if count} <= {
        "ADJ",
        "ADV",
        "INTJ",
        "NOUN",
        "PROPN",
        "VERB",
    }
    assert notes == ["words are split by type (open classes); those of a type that another split has are left out"]


def test_classes_take_the_place_of_tags(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"content": ["NOUN", "VERB", "ADJ", "ADV"], "function": ["ADP", "DET", "AUX"]}))
    bank, found, _ = corpus(classes=str(path))
    assert found.tags == ("content", "function")
    assert described(bank, found)["tagset"] == "upos: content, function"
    assert sum(count for (_, tag, reason), count in found.dropped.items() if (tag, reason) == ("_", "untagged")) > 1000


def test_documents_and_units() -> None:
    bank, found, notes = corpus(context="document", left=50, units="contraction")
    how = described(bank, found)
    assert (how["context"], how["left"], how["units"]) == ("document", 50, "contraction")
    assert len(notes) == 1
    expected = "documents were longer than the model's context and were split, each part with 50 tokens or more"
    assert expected in notes[0]
    words = sum(each["words"] for each in how["splits"].values()) + sum(found.dropped.values())
    assert words == bank.tag_counts().total()
    assert sum(each["units"] for each in how["splits"].values()) == len(found)


def test_a_fold_of_three_or_more_has_a_dev() -> None:
    assert corpus(split="1/2")[0].splits == ("train", "test")
    sets = documents(corpus(split="1/3")[0])
    assert sets["dev"] == documents(corpus(split="2/3")[0])["test"]


def test_documents_that_are_not_marked_are_said_to_be_missing(tmp_path: Path) -> None:
    lines = (Path(pn.__file__).parent / "demo" / "treebank" / "dev.conllu").read_text().split("\n")
    (tmp_path / "x.conllu").write_text("\n".join(line for line in lines if not line.startswith("# newdoc")))
    _, found, notes = corpus(treebank=str(tmp_path / "x.conllu"), split="document", context="document")
    assert notes[0] == "x marks no documents, so it was split by sentence"
    assert "x marks no documents, so each sentence is read by itself" in notes
    assert len(np.unique(found.word_row)) == len(np.unique(found.word_sentence))


def test_other_splits_have_no_share_of_the_word_types(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        path = Path(pn.__file__).parent / "demo" / "treebank" / f"{name}.conllu"
        (tmp_path / ("other.conllu" if name == "dev" else path.name)).write_bytes(path.read_bytes())
    with pytest.raises(PosNeuronsError, match=r"the splits train, test, all, and shares of word types for train 0\.5"):
        corpus(treebank=str(tmp_path), split="type")


def test_a_treebank_without_splits_is_split(tmp_path: Path) -> None:
    (tmp_path / "all.conllu").write_bytes(
        (Path(pn.__file__).parent / "demo" / "treebank" / "train.conllu").read_bytes()
    )
    bank, _, notes = corpus(treebank=str(tmp_path / "all.conllu"))
    assert set(bank.splits) == {"train", "dev", "test"}
    assert notes == ["all has the splits all: it was split anew into train, dev and test"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"split": "random"}, "--split random: expected one of given, document, sentence, type, or a fold such as 1/5"),
        ({"split": "6/5"}, "--split 6/5: expected one of given"),
        ({"split": "1/1"}, "--split 1/1: expected one of given"),
        ({"context": "book"}, "--context book: expected one of sentence, document"),
        ({"units": "none"}, "--units none: expected one of word, contraction, token"),
        (
            {"split": "sentence", "context": "document"},
            "--split sentence --context document: the sentences",
        ),
        ({"left": -1}, "--left -1: expected at least 0 tokens"),
    ],
)
def test_options_that_make_no_sense(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(RunError) as caught:
        Config(**change).check()
    assert str(caught.value).startswith(expected)


def test_a_fold_has_a_number_and_a_count() -> None:
    assert [fold_of(word) for word in ("1/2", "5/5", "0/5", "6/5", "1/1", "a/b", "1/5x", "given")] == [
        (1, 2), (5, 5), None, None, None, None, None, None,
    ]  # fmt: skip


def test_a_missing_file_of_classes_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PosNeuronsError, match="classes cannot be read"):
        read_treebank(replace(Config(), classes=str(tmp_path / "none.json")))
