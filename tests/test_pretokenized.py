"""Lists, frames and datasets to a treebank: by hand, against each other, all that can be wrong, and a ranking."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import demo
import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, LargeList, List, NamedSplit, Value
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_for_tests import byte_level_bpe

import posneurons as pn
from posneurons.detokenizer import detokenize
from posneurons.errors import TreebankError
from posneurons.pretokenized import from_dataset, from_frame, from_lists
from posneurons.sentences import Sentence, Treebank, Word

WORDS = [["Dogs", "bark", "."], ["I", "do", "n't"], ["Hi"]]
TAGS = [["NOUN", "VERB", "PUNCT"], ["PRON", "AUX", "_"], ["INTJ"]]
SPLITS = ["train", "train", "dev"]
DOCUMENTS = ["a", "b", "b"]
NAMES = ["NOUN", "VERB", "PUNCT", "PRON", "AUX", "_", "INTJ"]


def spans(sentence: Sentence) -> list[tuple[str, int, int]]:
    return [(word.form, word.start, word.end) for word in sentence.words]


def fault(make: Callable[..., Treebank], *args: Any, **options: Any) -> str:
    with pytest.raises(TreebankError) as caught:
        make(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# By hand.


def test_sentences_of_lists() -> None:
    bank = from_lists(WORDS, TAGS, split=SPLITS, documents=DOCUMENTS, name="mine", tagset="upos")
    assert (bank.name, bank.tagset, bank.marked_documents) == ("mine", "upos", True)
    assert bank.sentences[1] == Sentence(
        id="2",
        text="I do n't",
        words=(Word("I", "PRON", 0, 1), Word("do", "AUX", 2, 4), Word("n't", "_", 5, 8)),
        document="b",
        split="train",
    )
    assert [sentence.split for sentence in bank] == SPLITS
    assert [sentence.document for sentence in bank] == DOCUMENTS


def test_without_documents_each_sentence_stands_for_one() -> None:
    bank = from_lists(WORDS, TAGS, split="validation")
    assert not bank.marked_documents
    assert [sentence.document for sentence in bank] == ["1", "2", "3"]
    assert (bank.splits, bank.tagset) == (("dev",), "given")


@pytest.mark.parametrize(
    ("join", "text", "expected", "after"),
    [
        (" ", "I do n't .", [("I", 0, 1), ("do", 2, 4), ("n't", 5, 8), (".", 9, 10)], " "),
        ("", "Idon't.", [("I", 0, 1), ("do", 1, 3), ("n't", 3, 6), (".", 6, 7)], ""),
        ("\u3000", "I\u3000do\u3000n't\u3000.", [("I", 0, 1), ("do", 2, 4), ("n't", 5, 8), (".", 9, 10)], "\u3000"),
        ("english", "I don't.", [("I", 0, 1), ("do", 2, 4), ("n't", 4, 7), (".", 7, 8)], " "),
        (lambda w: f" {w[0]}  don't.\n", "I  don't.", [("I", 0, 1), ("do", 3, 5), ("n't", 5, 8), (".", 8, 9)], " "),
    ],
)
def test_what_stands_between_words(join: Any, text: str, expected: list[tuple[str, int, int]], after: str) -> None:
    (sentence,) = from_lists([["I", "do", "n't", "."]], [["X"] * 4], join=join)
    assert (sentence.text, spans(sentence), sentence.after) == (text, expected, after)


def test_a_word_may_have_white_space_inside() -> None:
    (sentence,) = from_lists([["10 000", "km"]], [["NUM", "NOUN"]])
    assert spans(sentence) == [("10 000", 0, 6), ("km", 7, 9)]


def test_arrays_and_series_are_lists() -> None:
    words, tags = pd.Series([np.array(row) for row in WORDS]), pd.Series([np.array(row) for row in TAGS])
    bank = from_lists(words, (tuple(row) for row in tags))
    assert bank == from_lists(WORDS, TAGS)
    assert type(bank.sentences[0].words[0].form) is str


def frame_of(**more: list[Any]) -> pd.DataFrame:
    """A row for each word; sentences are named by "s1", "s2", "s3"."""
    number = [n for n, row in enumerate(WORDS) for _ in row]
    flat = {"word": sum(WORDS, []), "tag": sum(TAGS, []), "sentence": [f"s{n + 1}" for n in number]}  # noqa: RUF017
    return pd.DataFrame({**flat, **{name: [values[n] for n in number] for name, values in more.items()}})


def dataset_of(*, tags: Any = TAGS, kind: Any = None, split: str | None = None, **more: list[Any]) -> Dataset:
    """A row for each sentence, with tags as class labels or as strings."""
    kinds = Features({"tokens": List(Value("string")), "upos": kind or List(ClassLabel(names=NAMES))})
    number = {name: n for n, name in enumerate(NAMES)}
    labels = [[number[tag] for tag in row] for row in tags] if kind is None else tags
    data = Dataset.from_dict(
        {"tokens": WORDS, "upos": labels}, features=kinds, split=NamedSplit(split) if split else None
    )
    for name, values in more.items():
        data = data.add_column(name, values)
    return data


def test_sentences_of_a_frame() -> None:
    frame = frame_of(split=["train", "train", "validation"], document=[7, 8, 8]).sample(frac=1, random_state=0)
    frame = frame.sort_index().set_index(np.arange(10, 80, 10))  # what the index says is not asked
    bank = from_frame(frame, split="split", document="document")
    assert [(s.id, s.document, s.split) for s in bank] == [
        ("s1", "7", "train"),
        ("s2", "8", "train"),
        ("s3", "8", "dev"),
    ]
    assert (bank.name, bank.tagset, bank.marked_documents) == ("frame", "tag", True)
    assert [word.form for sentence in bank for word in sentence.words] == sum(WORDS, [])  # noqa: RUF017


def test_a_new_document_begins_a_new_sentence() -> None:
    frame = pd.DataFrame(
        {"token": ["a", "b", "c"], "pos": ["X", "Y", "Z"], "number": [1, 1, 1], "text": ["p", "q", "q"]}
    )
    names = {"word": "token", "tag": "pos", "sentence": "number", "name": "mine"}
    assert [s.text for s in from_frame(frame, **names)] == ["a b c"]
    bank = from_frame(frame, document="text", **names)
    assert [(s.text, s.document) for s in bank] == [("a", "p"), ("b c", "q")]
    assert (bank.name, bank.tagset) == ("mine", "pos")


def test_numbers_of_sentences_may_begin_again_where_no_documents_are_known() -> None:
    frame = pd.DataFrame({"word": ["a", "b", "c"], "tag": ["X"] * 3, "sentence": [1, 2, 1]})
    assert [(s.id, s.document) for s in from_frame(frame)] == [("1", "1"), ("2", "2"), ("1", "3")]


def test_sentences_of_a_dataset() -> None:
    data = DatasetDict({"train": dataset_of().select([0, 1]), "validation": dataset_of().select([2])})
    bank = from_dataset(data)
    assert (bank.name, bank.tagset, bank.marked_documents) == ("dataset", "upos", False)
    assert [(s.id, s.split, s.text) for s in bank] == [
        ("1", "train", "Dogs bark ."),
        ("2", "train", "I do n't"),
        ("3", "dev", "Hi"),
    ]
    assert [[word.tag for word in s.words] for s in bank] == TAGS
    assert from_dataset({"train": dataset_of()}, name="n").name == "n"


def test_class_labels_of_each_split_are_its_own() -> None:
    kinds = Features({"tokens": List(Value("string")), "upos": List(ClassLabel(names=NAMES[::-1]))})
    turned = Dataset.from_dict({"tokens": [["Hi"]], "upos": [[0]]}, features=kinds)
    bank = from_dataset(DatasetDict({"train": dataset_of(), "test": turned}))
    assert bank.split("test").tag_counts() == {"INTJ": 1}


@pytest.mark.parametrize("kind", [List(Value("string")), LargeList(Value("large_string"))])
def test_tags_may_be_strings(kind: Any) -> None:
    assert from_dataset(dataset_of(kind=kind)).sentences == from_dataset(dataset_of()).sentences


def test_the_column_of_tags_is_found_where_there_is_one() -> None:
    data = dataset_of().add_column("lemmas", WORDS)
    assert from_dataset(data).tagset == "upos"  # the only class labels
    assert from_dataset(data, tags="lemmas").sentences[0].words[0].tag == "Dogs"
    assert from_dataset(data.remove_columns("upos")).tagset == "lemmas"
    words = data.rename_column("tokens", "words").remove_columns("lemmas")
    assert from_dataset(words, words="words").sentences == from_dataset(data).sentences


@pytest.mark.parametrize(
    ("split", "found"),
    [("train", "train"), ("test[:10%]", "test"), ("validation", "dev"), ("train+test", "all"), (None, "all")],
)
def test_the_split_of_one_dataset(split: str | None, found: str) -> None:
    data = dataset_of()
    data.info.dataset_name = "conll"
    data._split = split and NamedSplit(split)
    assert (from_dataset(data).splits, from_dataset(data).name) == ((found,), "conll")


def test_formats_of_a_dataset_do_not_matter() -> None:
    assert from_dataset(dataset_of().with_format("numpy")) == from_dataset(dataset_of())


# Against each other.


def test_lists_frames_and_datasets_give_the_same() -> None:
    lists = from_lists(WORDS, TAGS, split=SPLITS, documents=DOCUMENTS, name="n", tagset="upos")
    frame = frame_of(split=SPLITS, part=DOCUMENTS).rename(columns={"tag": "upos"})
    frame["sentence"] = frame["sentence"].str[1:]
    assert from_frame(frame, tag="upos", split="split", document="part", name="n") == lists
    data = dataset_of(part=DOCUMENTS)
    splits = DatasetDict({"train": data.select([0, 1]), "validation": data.select([2])})
    assert from_dataset(splits, document="part", name="n") == lists


def test_the_digest_tells_treebanks_apart() -> None:
    one = from_lists(WORDS, TAGS)
    assert one.sha256 == from_lists(WORDS, TAGS, name="other").sha256
    assert len(one.sha256) == 64
    others = [
        from_lists(WORDS[:2], TAGS[:2]),
        from_lists([*WORDS[:2], ["Ho"]], TAGS),
        from_lists(WORDS, [*TAGS[:2], ["X"]]),
        from_lists(WORDS, TAGS, split="train"),
        from_lists(WORDS, TAGS, documents=DOCUMENTS),
        from_lists(WORDS, TAGS, join=""),
        from_lists([WORDS[0] + WORDS[1], WORDS[2]], [TAGS[0] + TAGS[1], TAGS[2]]),
    ]
    assert len({one.sha256, *(other.sha256 for other in others)}) == 1 + len(others)


WORD = st.text(min_size=1).map(str.strip).filter(bool)
TAG = st.text(min_size=1).filter(str.strip)
ROWS = st.lists(st.lists(st.tuples(WORD, TAG), min_size=1, max_size=8), min_size=1, max_size=5)


def scattered(words: Sequence[str]) -> str:
    """Words with white space of any kind and length before, between and after them, or none."""
    return "".join(("", " ", "\n\t", "\u3000 ")[len(word) % 4] + word for word in words) + " "


@given(ROWS, st.sampled_from([" ", "", "\t", scattered, lambda words: detokenize(words)[0]]))
def test_words_and_tags_come_back_and_spans_cover_the_text(rows: list[list[tuple[str, str]]], join: Any) -> None:
    bank = from_lists([[word for word, _ in row] for row in rows], [[tag for _, tag in row] for row in rows], join=join)
    assert [[(word.form, word.tag) for word in sentence.words] for sentence in bank] == rows
    for sentence in bank:
        assert [sentence.text[word.start : word.end] for word in sentence.words] == [w.form for w in sentence.words]
        ends = [0, *(word.end for word in sentence.words)]
        starts = [*(word.start for word in sentence.words), len(sentence.text)]
        assert not "".join(sentence.text[a:b] for a, b in zip(ends, starts, strict=True)).strip()
        assert (starts[0], ends[-1]) == (0, len(sentence.text))


# What can be wrong with lists.


@pytest.mark.parametrize(
    ("words", "tags", "options", "expected"),
    [
        ([], [], {}, "lists: no sentence; expected at least one"),
        (WORDS, TAGS[:2], {}, "lists: 3 sentences in words, but 2 in tags; expected as many"),
        (WORDS, TAGS, {"split": ["train"]}, "lists: 3 sentences in words, but 1 in split; expected as many"),
        (WORDS, TAGS, {"documents": ["a"] * 4}, "lists: 3 sentences in words, but 4 in documents; expected as many"),
        (["Hi", "you"], ["INTJ", "PRON"], {}, "lists: sentence 1: 'Hi' for its words; expected a list of words for"),
        ([["Hi"]], ["INTJ"], {}, "lists: sentence 1: 'INTJ' for its tags; expected a list of tags for every sentence"),
        ([["a"], ["b", "c"]], [["X"], ["X"]], {}, "lists: sentence 2: 2 words and 1 tags; expected a tag for every"),
        ([["a"], []], [["X"], []], {}, "lists: sentence 2: 0 words and 0 tags; expected a tag for every word, and"),
        ([["a", ""]], [["X", "X"]], {}, "lists: sentence 1, word 2: ''; expected a word, without white space"),
        ([["a", "b "]], [["X", "X"]], {}, "lists: sentence 1, word 2: 'b '; expected a word, without white space at"),
        ([["a", 3]], [["X", "X"]], {}, "lists: sentence 1, word 2: 3; expected a word"),
        ([["a", float("nan")]], [["X", "X"]], {}, "lists: sentence 1, word 2: nan; expected a word"),
        ([["a"]], [[" "]], {}, "lists: sentence 1, word 1: tag ' '; expected its name, '_' where there is none"),
        ([["a"]], [[None]], {"name": "n"}, "n: sentence 1, word 1: tag None; expected its name, '_' where"),
        ([["a"]], [["X"]], {"join": "-"}, "join='-': expected white space, '', 'english' or a function from words"),
    ],
)
def test_what_is_wrong_with_lists(words: Any, tags: Any, options: dict[str, Any], expected: str) -> None:
    assert fault(from_lists, words, tags, **options).startswith(expected)


@pytest.mark.parametrize(("option", "what"), [("split", "split"), ("documents", "document")])
def test_names_are_strings(option: str, what: str) -> None:
    names: Any = (name for name in ("x", None))
    found = fault(from_lists, [["a"], ["b"]], [["X"], ["X"]], **{option: names})
    assert found == f"lists: sentence 2: {what} None; expected a string"


@pytest.mark.parametrize(
    ("join", "expected"),
    [
        (lambda _: 3, "join gives 3; expected a string, the text of the words"),
        (lambda _: "a c", "the text that join gives is 'c' at word 2, 'b'; expected the words as they are, with only"),
        (lambda _: "a", "the text that join gives is at its end at word 2, 'b'; expected the words as they are"),
        (lambda _: "A b", "the text that join gives is 'A b' at word 1, 'a'; expected the words as they are"),
        ("-".join, "the text that join gives is '-b' at word 2, 'b'; expected the words as they are"),
        (lambda _: "a b!", "the text that join gives goes on after the last word: '!'; expected the words as they are"),
        (lambda _: "b a", "the text that join gives is 'b a' at word 1, 'a'; expected the words as they are"),
    ],
)
def test_a_text_that_is_not_the_words(join: Any, expected: str) -> None:
    words, tags = [["x"], ["a", "b"]], [["X"], ["X", "X"]]
    found = fault(from_lists, words, tags, join=lambda row: "x" if row == ["x"] else join(row))
    assert found.startswith(f"lists: sentence 2: {expected}")


# What can be wrong with frames and datasets.


def changed(column: str, row: int, value: Any) -> pd.DataFrame:
    frame = frame_of(split=SPLITS, document=DOCUMENTS).astype(object)
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "options", "expected"),
    [
        (frame_of(), {"word": "form"}, "frame: expected one column 'form'; found word, tag, sentence"),
        (frame_of(), {"split": "part"}, "frame: expected one column 'part'; found word, tag, sentence"),
        (frame_of()[["word", "tag", "tag", "sentence"]], {}, "frame: expected one column 'tag'; found word, tag, tag"),
        (frame_of()[:0], {}, "frame: no sentence; expected at least one"),
        (pd.DataFrame(), {}, "frame: expected one column 'word'; found none"),
        (changed("word", 4, None), {}, "frame: row 4: no value in the column 'word'; fill it, or where it is a word"),
        (changed("sentence", 2, float("nan")), {}, "frame: row 2: no value in the column 'sentence'; fill it"),
        (changed("word", 4, 12), {}, "frame: row 4: 12; expected a word, without white space at its ends"),
        (changed("word", 6, ""), {}, "frame: row 6: ''; expected a word, without white space at its ends"),
        (changed("tag", 5, 1), {}, "frame: row 5: tag 1; expected its name, '_' where there is none"),
        (changed("split", 5, "dev"), {"split": "split"}, "frame: rows 3 to 5: one sentence in the splits ['train', "),
    ],
)
def test_what_is_wrong_with_frames(frame: pd.DataFrame, options: dict[str, Any], expected: str) -> None:
    assert fault(from_frame, frame, **options).startswith(expected)


def test_rows_of_a_sentence_that_are_not_together() -> None:
    frame = frame_of(document=["d"] * 3).iloc[[0, 1, 3, 4, 2, 5, 6]]
    found = fault(from_frame, frame, document="document")
    assert found == "frame: row 4: sentence 's1' of 'd' begins again; sort the rows"


def test_the_row_of_a_fault_is_counted_and_not_named() -> None:
    frame = changed("word", 4, 12).set_index(np.arange(100, 107))
    assert fault(from_frame, frame).startswith("frame: row 4: 12;")


LABELS = List(ClassLabel(names=["A"]))
TWO = (
    Dataset.from_dict({"tokens": [["a"]], "pos": [[0]], "ner": [[0]]})
    .cast_column("pos", LABELS)
    .cast_column("ner", LABELS)
)
STRINGS = List(Value("string"))


@pytest.mark.parametrize(
    ("data", "options", "expected"),
    [
        (WORDS, {}, "found list; expected a Dataset, or a DatasetDict with a Dataset in it"),
        ({}, {}, "found dict; expected a Dataset, or a DatasetDict with a Dataset in it"),
        (dataset_of().to_iterable_dataset(), {}, "found IterableDataset; expected a Dataset, or"),
        (dataset_of(), {"words": "words"}, "dataset: expected one column 'words'; found tokens, upos"),
        (dataset_of(), {"tags": "pos"}, "dataset: expected one column 'pos'; found tokens, upos"),
        (dataset_of(), {"document": "doc"}, "dataset: expected one column 'doc'; found tokens, upos"),
        (dataset_of().remove_columns("upos"), {}, "dataset: the tags can be in none of tokens; say in which: tags=..."),
        (TWO, {}, "dataset: the tags can be in any of pos, ner; say in which: tags=..."),
        (
            dataset_of(tags=[[0] * len(row) for row in WORDS], kind=List(Value("int64"))),
            {"tags": "upos"},
            "dataset: all, row 0, word 1: tag 0; expected its name, '_' where there is none",
        ),
        (
            dataset_of(tags=[[0] * 3, [0, -1, 0], [0]], kind=LABELS),
            {},
            "dataset: all, row 1, word 2: tag -1; expected its name, '_' where there is none",
        ),
        (
            dataset_of(tags=["A", "B", "C"], kind=Value("string")),
            {"tags": "upos"},
            "dataset: all, row 0: 'A' for its tags; expected a list of tags for every sentence",
        ),
        (
            dataset_of(tags=[["A"] * 3, None, ["A"]], kind=STRINGS, split="test"),
            {"name": "n"},
            "n: test, row 1: None for its tags; expected a list of tags for every sentence",
        ),
        (dataset_of(doc=["a", None, "b"]), {"document": "doc"}, "dataset: all, row 1: document None; expected a"),
        (dataset_of().select([]), {}, "dataset: no sentence; expected at least one"),
    ],
)
def test_what_is_wrong_with_datasets(data: Any, options: dict[str, Any], expected: str) -> None:
    assert fault(from_dataset, data, **options).startswith(expected)


# With all that comes after.


def test_words_are_aligned_with_tokens() -> None:
    corpus = pn.align(from_lists(WORDS, TAGS, split=SPLITS), byte_level_bpe())
    assert corpus.word_form.tolist() == ["Dogs", "bark", ".", "I", "do", "Hi"]
    assert corpus.dropped == {("train", "_", "untagged"): 1}
    assert corpus.split_names == ("train", "dev")


def test_given_words_are_ranked_like_those_of_a_treebank() -> None:
    """The embedded treebank, taken apart into lists and joined to its own text, scores the same."""
    bank = pn.load_treebank().split("train")
    bank = replace(bank, sentences=bank.sentences[:80])
    texts = {tuple(word.form for word in sentence.words): sentence.text for sentence in bank}
    words = [[word.form for word in sentence.words] for sentence in bank]
    tags = [[word.tag for word in sentence.words] for sentence in bank]
    given = from_lists(words, tags, split="train", join=lambda forms: texts[tuple(forms)])
    assert [sentence.words for sentence in given] == [sentence.words for sentence in bank]
    ranking, expected = (pn.rank(demo.model(), pn.align(each, demo.model().tokenizer)) for each in (given, bank))
    assert ranking.tags == tuple(sorted({tag for row in tags for tag in row}))
    assert np.isfinite(ranking.scores).all()
    np.testing.assert_array_equal(ranking.scores, expected.scores)
