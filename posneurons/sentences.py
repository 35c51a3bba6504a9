"""What a treebank is once it is read: words with tags and spans, sentences, and the whole.

Frozen records; they know neither files nor tokenizers nor tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from posneurons.display import Shown
from posneurons.errors import TreebankError

if TYPE_CHECKING:
    import plotly.graph_objects as go

UNTAGGED = "_"
"""The tag of a word that has none; the alignment leaves such words out and counts them."""


def spelled(surface: str, forms: Sequence[str]) -> bool:
    """Whether forms, put together, are the surface, so that each has characters of its own; case may differ.

    >>> spelled("Don't", ["do", "n't"]), spelled("im", ["in", "dem"])
    (True, False)
    """
    whole = "".join(forms)
    return len(whole) == len(surface) and whole.casefold() == surface.casefold()


def writable(text: str) -> bool:
    r"""Whether a text has UTF-8: JSON and names of files can hold halves of characters, which have none.

    >>> writable("é"), writable("\ud800")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Word:
    """A syntactic word with its tag and the characters that it covers in its sentence's text.

    `start` and `end` are a half-open span of characters. `shared` is true where the word has no characters of its own:
    several words stand behind one surface ("im" for "in dem"), and the span is that of the whole surface.
    """

    form: str
    tag: str
    start: int
    end: int
    shared: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Sentence(Shown):
    """A sentence: its text as the model will read it, and its words in order.

    `multiword` are the stretches of words that are written as one token ("don't", "im"), as half-open ranges; `after`
    is what stands between the sentence and the next of its document.
    """

    id: str
    text: str
    words: tuple[Word, ...]
    document: str
    split: str
    multiword: tuple[tuple[int, int], ...] = ()
    after: str = " "


@dataclass(frozen=True, repr=False)
class Treebank(Shown):
    """Tagged sentences from one source.

    `tagset` says which column the tags are ("upos", "xpos" or the name of a feature); `sha256` is the digest of the
    files in the order in which they were read; `marked_documents` is false where the source marks no documents and
    each sentence stands for one.
    """

    name: str
    tagset: str
    sentences: tuple[Sentence, ...]
    sha256: str
    marked_documents: bool

    def __len__(self) -> int:
        return len(self.sentences)

    def __iter__(self) -> Iterator[Sentence]:
        return iter(self.sentences)

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits in order of appearance."""
        return tuple(dict.fromkeys(sentence.split for sentence in self.sentences))

    def split(self, name: str) -> Treebank:
        """The sentences of one split. Raises TreebankError where there is none of that name."""
        if name not in self.splits:
            raise TreebankError(f"{self.name}: no split {name!r}; it has {', '.join(self.splits) or 'no sentence'}")
        return replace(self, sentences=tuple(s for s in self.sentences if s.split == name))

    def size(self) -> dict[str, int]:
        """Number of sentences, tokens (words written together counted once), words and multiword tokens."""
        words, fused = sum(len(s.words) for s in self), sum(len(s.multiword) for s in self)
        joined = sum(last - first for s in self for first, last in s.multiword)
        return {"sentences": len(self), "tokens": words - joined + fused, "words": words, "multiword": fused}

    def figure(self) -> go.Figure:
        """The words of each tag and split. Raises TreebankError where there is none."""
        from posneurons.corpus_figures import words_by_tag

        return words_by_tag({name: self.split(name).tag_counts() for name in self.splits})

    def tag_counts(self) -> Counter[str]:
        """Number of words of each tag."""
        return Counter(word.tag for sentence in self.sentences for word in sentence.words)
