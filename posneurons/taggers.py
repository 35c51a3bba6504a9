"""Taggers for texts that a model writes: a small one, trained in a second on a treebank, and Stanza's.

The small one is a linear support vector machine (sklearn's LinearSVC) over a word and its two neighbours: form, last
one to four characters, shape, whether it begins the sentence; of each neighbour the form and the last two characters.
In a trial, a most-frequent-tag lexicon that backs off to suffixes had 0.864 of the words of the embedded test split
right, where this has 0.912 (experiments/steer_tags.py). Trained on edited text, either must be expected to err more
often on the text of a small model, and nothing here says by how much: compare texts of one model with each other. This
module knows neither models nor neurons.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from posneurons.errors import RunError, TreebankError
from posneurons.sentences import UNTAGGED, Treebank
from posneurons.stanza_models import load_pipeline

Tagged = list[tuple[str, str]]
"""The words of a text in order, each with its tag."""

_CLITIC = r"(?:s|re|ve|ll|d|m)\b"
_WORD = re.compile(
    rf"""
      can(?=not\b)                                        # cannot: can, not
    | [^\W_]+?(?=n['’]t\b) | n['’]t\b                     # don't: do, n't
    | ['’]{_CLITIC}                                       # it's: it, 's
    | (?:Mr|Mrs|Ms|Dr|St)\.                               # titles keep their period
    | [^\W_]+ (?: ['’](?!{_CLITIC})[^\W_]+ | (?<=\d)[.,:](?=\d)[^\W_]+ )*   # o'clock, 1,234.5, 10:30
    | ([^\w\s]|_) \1*                                     # punctuation: a run of one mark is one word
    """,
    re.VERBOSE | re.IGNORECASE,
)
_END = re.compile(r"[.!?…]+")


@runtime_checkable
class Tagger(Protocol):
    """Whatever splits texts into words and tags them; `name` says which it is, for tables."""

    @property
    def name(self) -> str:
        """What the tagger is and what it was trained on."""
        ...

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """The words of each text, in order, with their tags."""
        ...


@dataclass(frozen=True)
class SimpleTagger:
    """A tagger made by `simple_tagger`.

    Attributes:
        name: what it is and what it was trained on.
        tags: what it can answer.
    """

    name: str
    tags: tuple[str, ...]
    _classifier: Any

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """The words of each text by `split_words`, with their tags; a sentence ends after `.`, `!`, `?` or `…`."""
        sentences = [(number, each) for number, text in enumerate(texts) for each in _sentences(split_words(text))]
        found = iter(self.tag_sentences([words for _, words in sentences]))
        tagged: list[Tagged] = [[] for _ in texts]
        for number, words in sentences:
            tagged[number] += zip(words, next(found), strict=True)
        return tagged

    def tag_sentences(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """The tag of each word of sentences that are split into words already."""
        described = [features(words, place) for words in sentences for place in range(len(words))]
        answers = iter(self._classifier.predict(described).tolist() if described else [])
        return [[next(answers) for _ in words] for words in sentences]


def split_words(text: str) -> list[str]:
    """A text in words, nearly as Universal Dependencies split English; white space is in none.

    A word is a run of letters and digits. Clitics stand alone (n't 's 're 've 'll 'd 'm, and the "not" of "cannot"),
    other apostrophes inside a word and points, commas and colons between digits do not split it. Hyphens do. A run of
    one and the same punctuation mark is one word.

    >>> split_words("Mr. Li can't wait... it's 10:30, the well-known o'clock!")
    ['Mr.', 'Li', 'ca', "n't", 'wait', '...', 'it', "'s", '10:30', ',', 'the', 'well', '-', 'known', "o'clock", '!']
    """
    return [match[0] for match in _WORD.finditer(text)]


def spans(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """The characters of each word, found from left to right.

    A word whose form is not in what is left of the text (a tagger may write "dem" for a part of "im") gets an empty
    span where the word before it ends.
    """
    found, at = [], 0
    for word in words:
        start = text.find(word, at)
        span = (at, at) if start < 0 else (start, start + len(word))
        found.append(span)
        at = span[1]
    return found


def features(words: Sequence[str], place: int) -> list[str]:
    """What the small tagger knows of a word in its sentence, one string per fact.

    >>> features(["The", "dogs"], 1)[:6]
    ['w=dogs', 'shape=x', 'end=s', 'end=gs', 'end=ogs', 'end=dogs']
    """
    word = words[place]
    lower = word.lower()
    before = words[place - 1].lower() if place else "^"
    after = words[place + 1].lower() if place + 1 < len(words) else "$"
    return [
        f"w={lower}", f"shape={_shape(word)}", *(f"end={lower[-n:]}" for n in (1, 2, 3, 4)), f"first={not place}",
        f"before={before}", f"after={after}", f"before-end={before[-2:]}", f"after-end={after[-2:]}",
        f"pair={before} {lower}",
    ]  # fmt: skip


def simple_tagger(treebank: Treebank) -> SimpleTagger:
    """Train the small tagger on all sentences of a treebank; give `treebank.split("train")` to measure it elsewhere.

    The embedded treebank takes a second or two, and the 200,000 words of EWT most of a minute.

    Args:
        treebank: tagged sentences; words without a tag are seen as neighbours only.

    Raises:
        TreebankError: where it has fewer than two tags.

    >>> from posneurons.treebank import load_treebank
    >>> simple_tagger(load_treebank()).tag(["She didn't sleep."])
    [[('She', 'PRON'), ('did', 'AUX'), ("n't", 'PART'), ('sleep', 'VERB'), ('.', 'PUNCT')]]
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    described: list[list[str]] = []
    tags: list[str] = []
    for sentence in treebank:
        forms = [word.form for word in sentence.words]
        wanted = [place for place, word in enumerate(sentence.words) if word.tag != UNTAGGED]
        described += [features(forms, place) for place in wanted]
        tags += [sentence.words[place].tag for place in wanted]
    if len(known := sorted(set(tags))) < 2:
        raise TreebankError(
            f"{treebank.name}: {len(known)} tags in {len(treebank)} sentences are too few to train a tagger; expected "
            "at least 2: give a tagged treebank"
        )
    pipeline = make_pipeline(CountVectorizer(analyzer=_as_it_is), LinearSVC(C=0.3, random_state=0))
    name = f"simple (LinearSVC, {treebank.name}, {len(tags)} words)"
    return SimpleTagger(name, tuple(known), pipeline.fit(described, tags))


@dataclass(frozen=True)
class StanzaTagger:
    """A tagger made by `stanza_tagger`; tags are UPOS."""

    name: str
    _pipeline: Any

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """The words of each text as Stanza splits and tags them; none for a blank text."""
        filled = [number for number, text in enumerate(texts) if text.strip()]
        tagged: list[Tagged] = [[] for _ in texts]
        documents = self._pipeline.bulk_process([texts[number] for number in filled]) if filled else []
        for number, document in zip(filled, documents, strict=True):
            tagged[number] = [(word.text, word.upos or UNTAGGED) for each in document.sentences for word in each.words]
        return tagged


def stanza_tagger(language: str = "en", *, folder: Path | None = None) -> StanzaTagger:
    """Stanza's tagger, from models that are there; nothing is downloaded.

    Args:
        language: Stanza's code.
        folder: where its models are; None for Stanza's own place.

    Raises:
        RunError: where there is no model, or Stanza cannot load it, with its reason.

    Source: Qi et al. 2020, https://aclanthology.org/2020.acl-demos.14.
    """
    try:
        pipeline = load_pipeline(language, models=folder)
    except TreebankError as error:
        raise RunError(f"{error}, or choose the simple tagger") from error
    return StanzaTagger(f"stanza ({language}, {metadata.version('stanza')})", pipeline)


def accuracy(tagger: Tagger, treebank: Treebank) -> float:
    """Share of a treebank's words that the tagger, reading raw text, finds with the same characters and the same tag.

    Words that share their characters with others are left out; a word that is split elsewhere counts as wrong. NaN for
    a treebank without words.
    """
    answers = tagger.tag([sentence.text for sentence in treebank])
    right = total = 0
    for sentence, tagged in zip(treebank, answers, strict=True):
        places = spans(sentence.text, [word for word, _ in tagged])
        found = {span: tag for span, (_, tag) in zip(places, tagged, strict=True)}
        wanted = [word for word in sentence.words if not word.shared and word.tag != UNTAGGED]
        right += sum(found.get((word.start, word.end)) == word.tag for word in wanted)
        total += len(wanted)
    return right / total if total else float("nan")


def _as_it_is(described: list[str]) -> list[str]:
    return described


def _shape(word: str) -> str:
    """Upper-case letters to X, others to x, digits to d; runs of the same become one."""
    letters = re.sub(r"[^\W\d_]", lambda match: "X" if match[0].isupper() else "x", word)
    return re.sub(r"(.)\1+", r"\1", re.sub(r"\d", "d", letters))


def _sentences(words: Sequence[str]) -> Iterator[list[str]]:
    """Words in sentences, each to its end mark."""
    sentence: list[str] = []
    for word in words:
        sentence.append(word)
        if _END.fullmatch(word):
            yield sentence
            sentence = []
    if sentence:
        yield sentence
