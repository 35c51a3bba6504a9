"""Rows cut out of documents: by hand, and on random documents against the definition, read aloud."""

from collections.abc import Sequence

import numpy as np
import pytest
from hand_made_text import bank, sentence, words
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shared import llama3_tokenizer, treebank
from test_alignment import Given
from test_alignment_reference import TREEBANKS, treebanks
from tokenizers_for_tests import byte_level_bpe

import posneurons as pn
from posneurons import alignment
from posneurons.alignment import align
from posneurons.errors import AlignmentError
from posneurons.sentences import Sentence, Treebank, Word
from posneurons.windows import windows
from posneurons.words import Context


def cut(
    n_tokens: int, sentences: Sequence[int], spans: Sequence[tuple[int, int]], room: int, left: int
) -> list[tuple[int, int, int]]:
    low, high = np.array(spans, dtype=np.int64).reshape(-1, 2).T
    rows = windows(np.array([0, n_tokens]), np.array(sentences), low, high, room, left)
    return list(zip(rows.first.tolist(), rows.new.tolist(), rows.last.tolist(), strict=True))


def test_rows_by_hand() -> None:
    each = [(n, n) for n in range(10)]
    # Sentences 0-3 4-5 6-9; 7 tokens fit. Row 0 ends where the third sentence begins; row 1 repeats 2 tokens of it.
    assert cut(10, [0, 4, 6], each, 7, 2) == [(0, 0, 6), (4, 6, 10)]
    assert cut(10, [0, 4, 6], each, 10, 2) == [(0, 0, 10)]
    assert cut(10, [0, 4, 6], each, 7, 0) == [(0, 0, 6), (6, 6, 10)]
    # One sentence: rows end where there is no more room, and 3 tokens come again.
    assert cut(10, [0], each, 5, 3) == [(0, 0, 5), (2, 5, 7), (4, 7, 9), (6, 9, 10)]
    # Words 0-1 2-4 5 6-9: a row would begin at 2, where a word does, but then the last word would not fit.
    assert cut(10, [0], [(0, 1), (2, 4), (5, 5), (6, 9)], 7, 2) == [(0, 0, 6), (4, 6, 10)]
    assert cut(12, [0], [(0, 1), (2, 4), (5, 5), (6, 7), (8, 9), (10, 11)], 7, 2) == [(0, 0, 6), (2, 6, 8), (6, 8, 12)]


def test_a_word_that_is_longer_than_a_row_is_cut() -> None:
    assert cut(9, [0], [(0, 0), (1, 8)], 4, 1) == [(0, 0, 1), (0, 1, 4), (3, 4, 7), (6, 7, 9)]


def test_a_row_does_not_begin_so_far_back_that_little_is_new() -> None:
    """A word of 7 tokens stands before token 16: its start is too far away for the row whose words begin at 17."""
    each = [(n, n) for n in range(9)] + [(9, 15)] + [(n, n) for n in range(16, 31)]
    assert cut(31, [0], each, 10, 2) == [(0, 0, 9), (7, 9, 17), (15, 17, 25), (23, 25, 31)]


def test_no_tokens_no_rows() -> None:
    rows = windows(np.array([0, 0, 0]), np.array([0, 0]), np.array([], dtype=int), np.array([], dtype=int), 4, 2)
    assert len(rows.first) == len(rows.new) == len(rows.last) == 0


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_token_is_new_once_and_has_context(data: st.DataObject) -> None:
    passages = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=4))
    bounds = np.concatenate([[0], np.cumsum(passages)])
    n_tokens = int(bounds[-1])
    room = data.draw(st.integers(1, 15))
    left = data.draw(st.integers(0, room - 1))
    starts = data.draw(st.lists(st.integers(0, max(0, n_tokens - 1)), max_size=8).map(sorted))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=n_tokens, max_size=n_tokens))
    low, high = [], []
    for passage in range(len(passages)):
        at = int(bounds[passage])
        while at < bounds[passage + 1]:
            low.append(at)
            at = min(at + sizes[at], int(bounds[passage + 1]))
            high.append(at - 1)
    sentences = np.union1d(starts, bounds[:-1]).astype(np.int64)
    rows = windows(bounds, sentences, np.array(low, dtype=np.int64), np.array(high, dtype=np.int64), room, left)
    counted = [token for new, last in zip(rows.new, rows.last, strict=True) for token in range(new, last)]
    assert counted == list(range(n_tokens))
    for first, new, last in zip(rows.first, rows.new, rows.last, strict=True):
        begin = bounds[np.searchsorted(bounds, new, side="right") - 1]
        assert begin <= first <= new < last <= first + room
        assert first == begin or new - first >= left
        assert new == begin or first < new or left == 0
    whole = np.isin(rows.new, bounds[:-1]) & np.isin(rows.last, bounds[1:])
    assert np.count_nonzero(whole) >= np.count_nonzero((np.diff(bounds) > 0) & (np.diff(bounds) <= room))


# Documents.


def as_one_sentence(made: Treebank) -> Treebank:
    """Consecutive sentences of a document as one sentence: what `context="document"` should see."""
    merged: list[Sentence] = []
    before = None
    for each in made:
        if before == (each.document, each.split):
            last = merged.pop()
            text = last.text + last.after
            moved = [Word(w.form, w.tag, w.start + len(text), w.end + len(text), w.shared) for w in each.words]
            merged.append(
                Sentence(last.id, text + each.text, (*last.words, *moved), each.document, each.split, after=each.after)
            )
        else:
            merged.append(each)
        before = each.document, each.split
    return Treebank(made.name, made.tagset, tuple(merged), "", made.marked_documents)


def documents(made: Treebank) -> Treebank:
    """The sentences of a random treebank in documents of three, put together in several ways."""
    after = [" ", "", "\n\n"]
    sentences = [Sentence(s.id, s.text, s.words, str(n // 3), "train", after=after[n % 3]) for n, s in enumerate(made)]
    return Treebank("documents", "upos", tuple(sentences), "", marked_documents=True)


def test_a_document_by_hand() -> None:
    one, two = sentence("I saw.", "I/PRON", "saw/VERB", "./PUNCT"), sentence("So?", "So/ADV", "?/PUNCT", number=1)
    other = sentence("So?", "So/ADV", "?/PUNCT", document="e", number=2)
    corpus = align(bank(one, two, other), byte_level_bpe(), context="document")
    assert corpus.n_rows == 2
    assert corpus.context == "document"
    assert corpus.row_document.tolist() == [0, 1]
    assert corpus.word_row.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert corpus.word_sentence.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert len(corpus.readable("predict")) == 5  # all but the first word of each document
    assert byte_level_bpe().decode(corpus.row_tokens(0)[1:].tolist()) == "I saw. So?"


def test_the_same_document_in_two_splits_is_two() -> None:
    split = [sentence("So?", "So/ADV", "?/PUNCT", split=name) for name in ("train", "test")]
    assert align(bank(*split), byte_level_bpe(), context="document").n_rows == 2


@settings(max_examples=80, deadline=None)
@given(made=treebanks(st.sampled_from(["", " "])), n_ctx=st.integers(3, 40), share=st.floats(0, 1))
def test_a_document_is_read_like_one_long_sentence(made: Treebank, n_ctx: int, share: float) -> None:
    made, tokenizer = documents(made), byte_level_bpe()
    left = int(share * (n_ctx - 2))
    try:
        whole = align(as_one_sentence(made), tokenizer, n_ctx=10**6)
        corpus = align(made, tokenizer, context="document", n_ctx=n_ctx, left=left)
    except AlignmentError:
        assume(False)
    assert np.diff(corpus.row_bounds).max() < n_ctx
    size = whole.word_last - whole.word_first + 1
    surely, perhaps = (
        [
            whole.row_tokens(row)[a : b + 1].tolist()
            for n, (_, _, row, a, b) in enumerate(words(whole))
            if size[n] <= most
        ]
        for most in (n_ctx - 1 - left, n_ctx - 1)
    )
    kept = [corpus.row_tokens(row)[a : b + 1].tolist() for _, _, row, a, b in words(corpus)]
    assert is_part(surely, kept)
    assert is_part(kept, perhaps)
    assert len(kept) + sum(corpus.dropped.values()) == len(whole) + sum(whole.dropped.values())
    for row in range(corpus.n_rows):
        text = whole.row_tokens(corpus.row_document[row])[1:].tolist()
        part = corpus.row_tokens(row)[1:].tolist()
        assert any(text[at : at + len(part)] == part for at in range(len(text)))


def is_part(few: Sequence[object], many: Sequence[object]) -> bool:
    """Whether `few` can be had from `many` by leaving some out."""
    rest = iter(many)
    return all(each in rest for each in few)


@pytest.mark.parametrize("left", [0, 1, 4, 8])
def test_words_have_the_left_context_that_was_asked_for(left: int) -> None:
    made = bank(*(sentence("I saw it", "I/PRON", "saw/VERB", "it/PRON", number=n) for n in range(20)))
    corpus = align(made, Given([(n, n + 1) for n in range(179)]), context="document", n_ctx=12, left=left)
    assert corpus.left == left
    later = corpus.word_row > 0
    assert corpus.word_first[later].min() > left
    assert len(corpus) == 60


@pytest.mark.parametrize("name", TREEBANKS)
def test_documents_of_a_treebank_hold_the_words_of_its_sentences(name: str) -> None:
    made = treebank(name)
    made = Treebank(name, "upos", made.sentences[:400], "", made.marked_documents)
    whole = align(as_one_sentence(made), llama3_tokenizer(), n_ctx=10**6)
    corpus = align(made, llama3_tokenizer(), context="document", n_ctx=512)
    assert [each[:2] for each in words(corpus)] == [each[:2] for each in words(whole)]
    assert corpus.dropped == whole.dropped
    assert corpus.left == 128
    later = np.flatnonzero(corpus.word_first > 1)
    assert np.array_equal(corpus.readable("predict"), later)
    assert not made.marked_documents or len(later) > len(corpus) - len(np.unique(corpus.row_document)) - 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"left": -1, "n_ctx": 8}, "left=-1; expected 0 to 6, as 8 positions must have room for a new token"),
        ({"left": 7, "n_ctx": 8}, "left=7; expected 0 to 6"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], expected: str) -> None:
    with pytest.raises(AlignmentError) as caught:
        align(bank(sentence("a", "a/X")), byte_level_bpe(), **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(expected)


def test_option_words() -> None:
    with pytest.raises(AlignmentError, match=r"^context='text'; expected one of sentence, document$"):
        alignment._check_words(context=("text", Context))


def test_left_context_changes_what_the_model_reads() -> None:
    """In documents the words of the second sentence are read with the first before them: their loss falls."""
    import demo

    bank_ = pn.load_treebank().split("dev")
    losses = {}
    for context in ("sentence", "document"):
        corpus = align(bank_, demo.model().tokenizer, n_ctx=256, context=context)  # type: ignore[arg-type]
        found = pn.word_losses(demo.model(), corpus, [])
        sentences = corpus.word_sentence[found.words]
        forms = [str(form) for form in corpus.word_form[found.words]]
        keys = list(zip(sentences.tolist(), forms, strict=True))
        losses[context] = {key: loss for key, loss in zip(keys, found.intact[0], strict=True) if keys.count(key) == 1}
    both = [key for key in losses["sentence"] if key in losses["document"]]
    fall = [losses["sentence"][key] - losses["document"][key] for key in both]
    assert len(both) > 300
    assert np.mean(fall) > 0.05
