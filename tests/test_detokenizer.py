"""Words to text: sentences written by hand, random words, nltk's detokenizer and the true texts of two treebanks."""

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from zipfile import ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import shared_data

from posneurons.detokenizer import APART, BESIDE, WITHIN, detokenize, gaps, joined
from posneurons.penn import restored
from posneurons.treebank import load_treebank

Gaps = list[bool]

# Golden: how a person writes it.


@pytest.mark.parametrize(
    "text",
    [
        "Rain , he said , falls .|Rain, he said, falls.",
        "( See p. 3 ; p. 4 : no ! )|(See p. 3; p. 4: no!)",
        "It costs $ 5 or US$ 1.5 million , # .5 more .|It costs $5 or US$1.5 million, #.5 more.",
        "A $ a day , 3 % of it|A $ a day, 3% of it",
        "He said -- once -- no ... never|He said -- once -- no... never",
        "I do n't , we 'll , he 's , they 'RE , IT 'D|I don't, we'll, he's, they'RE, IT'D",
        "I can not go , gon na go , Got ta go|I cannot go, gonna go, Gotta go",
        "I CAN NOT go to the BOYS ' ROOM|I CANNOT go to the BOYS' ROOM",
        "It is not a can , ' t is so|It is not a can, 't is so",
        "'T was so|'Twas so",
        "the boys ' toys and Jones 's|the boys' toys and Jones's",
        "and / or a well - known man|and/or a well-known man",
        "- first|- first",
        "the last -|the last -",
        'He said , " Yes . "|He said, "Yes."',
        'Yes " , he said , " no " .|Yes", he said, "no".',
        "`` Yes , '' he said|``Yes,'' he said",
        "“ Yes ” , ‘ no ’|“Yes”, ‘no’",
        "he says ` I do ' to `` her ''|he says `I do' to ``her''",
        "he says ‘ no ’ .|he says ‘no’.",
        "he took a ' pro ' and a ' con '|he took a 'pro' and a 'con'",
        "-LRB- a -RRB- -LSB- b -RSB- -LCB- c -RCB-|-LRB-a-RRB- -LSB-b-RSB- -LCB-c-RCB-",
        '" . a " b|". a" b',
        "' yes|'yes",
        "the cat ’ tail|the cat’ tail",
        '"|"',
        "a|a",
    ],
)
def test_sentences_written_by_hand(text: str) -> None:
    words, expected = (part for part in text.split("|"))
    assert detokenize(words.split())[0] == expected


def test_spans_are_counted_by_hand() -> None:
    # Do n't !   ->   Don't!   Do=0..2 n't=2..5 !=5..6
    assert detokenize(["Do", "n't", "!"]) == ("Don't!", [(0, 2), (2, 5), (5, 6)])
    assert detokenize(["a", "b"]) == ("a b", [(0, 1), (2, 3)])
    assert detokenize([]) == ("", [])


def test_parts_of_a_contraction_are_told_from_marks() -> None:
    assert gaps(["I", "ca", "n't", "."]) == [APART, WITHIN, BESIDE]
    assert gaps(["boys", "'", "toys"]) == [WITHIN, APART]
    assert gaps(["can", "not"]) == [WITHIN]
    assert gaps(["did", "not"]) == [APART]


def test_quotes_that_close_are_no_parts() -> None:
    assert gaps(["a", "`", "yes", "'"]) == [APART, BESIDE, BESIDE]
    assert gaps(["a", "'", "yes", "'"]) == [APART, BESIDE, BESIDE]
    assert gaps(["a", "‘", "yes", "’"]) == [APART, BESIDE, BESIDE]
    assert gaps(["boys", "’", "toys"]) == [WITHIN, APART]


def test_a_quote_after_an_s_where_possessives_are_one_word() -> None:
    assert gaps(["he", "says", "'", "no", "'", "."], possessive=False) == [APART, APART, BESIDE, BESIDE, BESIDE]
    assert gaps(["he", "says", "'", "no", "'", "."])[1] == WITHIN


def test_other_words_can_be_written_into_the_gaps() -> None:
    assert joined(["(", "a", ")"], gaps(["-LRB-", "a", "-RRB-"])) == ("(a)", [(0, 1), (1, 2), (2, 3)])


# Property: whatever the words are.

WORDS = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda word: not re.search(r"\s", word)),
        st.sampled_from(["'", '"', "``", "''", "`", "-", "(", ")", "$", "5", ".", "n't", "'s", "boys", "can", "not"]),
    )
)


@given(WORDS)
def test_spans_cover_the_words_and_nothing_but_single_spaces_is_between(words: list[str]) -> None:
    text, spans = detokenize(words)
    assert [text[start:end] for start, end in spans] == words
    ends = [0, *(end for _, end in spans)]
    between = [text[end:start] for end, (start, _) in zip(ends, spans, strict=False)]
    assert set(between[1:]) <= {"", " "}
    assert between[:1] in ([], [""])
    assert ends[-1] == len(text)


@given(WORDS)
def test_gaps_say_what_is_written(words: list[str]) -> None:
    _, spans = detokenize(words)
    spaces = [right - left for (_, left), (right, _) in pairwise(spans)]
    assert [gap == APART for gap in gaps(words)] == [space == 1 for space in spaces]


# Against true texts, and nltk's detokenizer on the same words. Measured (right gaps, sentences right throughout):
#   Wall Street Journal 0.9996, 0.991 (nltk 0.9948, 0.954); English-EWT test 0.9840, 0.891 (nltk 0.9691, 0.831).


def ours(words: list[str]) -> Gaps:
    return [gap == APART for gap in gaps(words)]


def nltk_gaps(words: list[str]) -> Gaps:
    from nltk.tokenize.treebank import TreebankWordDetokenizer

    text = re.sub(r"\\([/*])", r"\1", TreebankWordDetokenizer().detokenize(words, convert_parentheses=True))
    return spaces_in(text, words) or [False] * len(words)


def spaces_in(text: str, words: Sequence[str]) -> Gaps | None:
    """Whether white space stands between the words in the text; None where they are not all there in order."""
    bare = "".join(text.split())
    spaces = set(accumulate(map(len, text.split())))
    forms = [restored(word) for word in words]
    at = bare.find("".join(forms))
    ends = list(accumulate(map(len, forms), initial=at))[1:-1]
    return [end in spaces for end in ends] if at >= 0 else None


def rightness(data: list[tuple[list[str], Gaps]], guess: Callable[[list[str]], Gaps]) -> tuple[float, float]:
    """Share of gaps that are right, and of sentences of which all are."""
    right = [[a == b for a, b in zip(truth, guess(words), strict=False)] for words, truth in data]
    gap_count = sum(len(truth) for _, truth in data)
    return sum(map(sum, right)) / gap_count, sum(all(each) for each in right) / len(right)


def wall_street_journal(path: Path) -> list[tuple[list[str], Gaps]]:
    """Sentences of nltk's sample with the gaps of its raw text, those that are there as they are in brackets."""
    found = []
    with ZipFile(path) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".mrg")):
            raw = archive.read(name.replace("combined", "raw").removesuffix(".mrg")).decode("mac-roman")
            raw = raw.replace("``", '"').replace("''", '"')
            for tree in re.split(r"(?m)^\(", archive.read(name).decode())[1:]:
                leaves = re.findall(r"\(([^\s()]+) ([^\s()]+)\)", tree)
                words = [word for tag, word in leaves if tag != "-NONE-"]
                truth = spaces_in(raw, words)
                if truth:
                    found.append((words, truth))
    return found


def test_the_wall_street_journal_is_written_as_it_was_printed() -> None:
    data = wall_street_journal(shared_data("nltk_data/corpora/treebank.zip"))
    assert len(data) > 3800
    gap_share, sentence_share = rightness(data, ours)
    assert gap_share > 0.9993
    assert sentence_share > 0.985
    assert rightness(data[:500], nltk_gaps)[0] < rightness(data[:500], ours)[0]


def test_web_texts_are_nearly_written_as_they_were() -> None:
    data = [
        (
            [word.form for word in sentence.words],
            [right.start > left.end for left, right in pairwise(sentence.words)],
        )
        for sentence in load_treebank(shared_data("ud/UD_English-EWT/en_ewt-ud-test.conllu"))
        if not any(word.shared or " " in word.form for word in sentence.words)
    ]
    gap_share, sentence_share = rightness(data, ours)
    assert gap_share > 0.98
    assert sentence_share > 0.88
    assert rightness(data, nltk_gaps)[0] < gap_share
