"""A source of sentences whose statistics are known: Markov tags, and words that depend on their tag alone.

What a model that predicts it as well as can be would lose without what one tag's neurons carry has a closed form, here
beside the source. This module knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons.display import Shown
from posneurons.records import Corpus


@dataclass(frozen=True, repr=False)
class MarkovSource(Shown):
    """Sentences whose tags are a Markov chain; a word depends on its tag alone, and each tag has words of its own.

    Token 0 is BOS; word r of tag k is token 1 + k * len(zipf) + r. A sentence begins with a tag of the stationary
    distribution.

    Attributes:
        tags: their names.
        transition: P(next tag | tag), all above 0.
        zipf: P(word r | its tag), the same for all tags.
    """

    tags: tuple[str, ...]
    transition: Float[ndarray, "tag next_tag"]
    zipf: Float[ndarray, " rank"]

    @property
    def stationary(self) -> Float[ndarray, " tag"]:
        """P(tag): the distribution that the chain keeps."""
        system = np.vstack([self.transition.T - np.eye(len(self.tags)), np.ones(len(self.tags))])
        solution: ndarray = np.linalg.lstsq(system, np.append(np.zeros(len(self.tags)), 1.0), rcond=None)[0]
        return solution

    @property
    def lift(self) -> Float[ndarray, "tag next_tag"]:
        """ln(P(next tag | tag) / P(next tag)), in nats: what a tag's neurons have to write."""
        lift: ndarray = np.log(self.transition / self.stationary)
        return lift

    def tag_of(self, tokens: Int[ndarray, " token"]) -> Int[ndarray, " token"]:
        """Number of the tag of each token; of BOS, -1."""
        return (tokens - 1) // len(self.zipf)

    def next_word(self) -> Float[ndarray, "tag vocab"]:
        """P(next token | tag of this one), the best that any model can know; BOS has 0."""
        words = np.kron(self.transition, self.zipf)
        return np.hstack([np.zeros((len(self.tags), 1)), words])

    def sample(self, n_sentences: int, length: int, seed: int = 0, *, test: float = 0.25) -> Corpus:
        """Sentences of `length` words, the last share of them as the split "test", the others as "train"."""
        rng, n_tags = np.random.default_rng(seed), len(self.tags)
        cumulative = np.vstack([self.transition, self.stationary]).cumsum(1)
        tags = np.empty((n_sentences, length), dtype=np.int64)
        before = np.full(n_sentences, n_tags)
        for place in range(length):
            draw = rng.random((n_sentences, 1))
            before = tags[:, place] = (draw > cumulative[before, :-1]).sum(1)
        ranks = rng.choice(len(self.zipf), size=tags.shape, p=self.zipf)
        tokens = (1 + tags * len(self.zipf) + ranks).ravel()
        rows, position = np.arange(n_sentences), np.tile(np.arange(1, length + 1), n_sentences)
        return Corpus(
            name=f"markov {n_sentences}x{length}, seed {seed}",
            tagset="markov",
            tags=self.tags,
            split_names=("train", "test"),
            bos=0,
            tokens=tokens,
            row_bounds=np.arange(0, len(tokens) + 1, length),
            row_document=rows,
            row_split=(rows >= round(n_sentences * (1 - test))).astype(np.int64),
            word_row=np.repeat(rows, length),
            word_first=position,
            word_last=position,
            word_tag=tags.ravel(),
            word_form=np.array([f"w{token}" for token in tokens]),
            word_sentence=np.repeat(rows, length),
            word_frequency=np.bincount(tokens)[tokens],
            word_parts=np.ones(len(tokens), dtype=np.int64),
            dropped={},
            split_sentences=0,
            marked_documents=False,
        )


def expected_lesion_matrix(source: MarkovSource, corpus: Corpus | None = None) -> Float[ndarray, "lesion tag"]:
    """Exact rise of every tag's loss, in nats, when all neurons of one tag are set to 0.

    Without the lift of tag k, the logit of k is that of its frequency and the others are renormalised: a word of tag j
    after tag c costs ln(q_k + 1 - T_ck) more, and ln(T_ck / q_k) more still where j is k. Off the diagonal it is not 0,
    and of either sign.

    Args:
        source: the chain T with its stationary distribution q.
        corpus: over which words the mean is taken: all that follow another; None for the mean of the chain itself. A
            tag without words is NaN.
    """
    pairs = source.stationary[:, None] * source.transition
    if corpus is not None:
        later = np.flatnonzero(corpus.word_first > 1)
        pairs = np.zeros_like(pairs)
        before = corpus.tokens_at(later, corpus.word_first[later] - 1)
        np.add.at(pairs, (source.tag_of(before), corpus.word_tag[later]), 1)
    with np.errstate(invalid="ignore"):
        given = pairs / pairs.sum(0)
    others = np.log(source.stationary + 1 - source.transition).T @ given
    matrix: ndarray = others + np.diag((given * source.lift).sum(0))
    return matrix


def expected_rise(source: MarkovSource, tag: int, share: Float[ndarray, " tag"]) -> float:
    """Exact rise of a tag's loss, in nats, without a share (by the tag before) of what its neurons write."""
    gone = share * source.lift[:, tag]
    given = source.stationary * source.transition[:, tag] / source.stationary[tag]
    return float(given @ (gone + np.log(1 + source.transition[:, tag] * np.expm1(-gone))))


def markov_source(n_tags: int = 6, *, words: int = 16, zipf: float = 1.0, seed: int = 0) -> MarkovSource:
    """A random chain: at least half of what follows a tag is its favourite, and no two tags have the same one.

    The words of a tag fall off as rank to the power -zipf. Chains are drawn until every tag's lift, all of it and an
    eighth of it, is of use to that tag's own words, or a hundred times: with fewer than 4 tags it can hardly be.
    """
    rng = np.random.default_rng(seed)
    weights = np.arange(1, words + 1) ** -zipf
    for _ in range(100):
        cycle = rng.permutation(n_tags)
        favourite = np.zeros((n_tags, n_tags))
        favourite[cycle, np.roll(cycle, 1)] = 1
        transition = 0.5 * favourite + 0.4 * rng.dirichlet(np.full(n_tags, 2.0), size=n_tags) + 0.1 / n_tags
        source = MarkovSource(tuple(f"T{k}" for k in range(n_tags)), transition, weights / weights.sum())
        all_of_it, some = (
            [expected_rise(source, tag, np.full(n_tags, share)) for tag in range(n_tags)] for share in (1.0, 0.125)
        )
        if min(all_of_it) > 0.02 and min(some) > 0:
            break
    return source
