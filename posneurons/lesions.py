"""The lesion engine: conditions to the loss of every word.

Each batch is run once intact and once per condition from where the condition begins to differ (see `forks`), so one
pass per lesion gives the losses of all tags. A word is scored by the next-token loss of its first token, in float32;
so the first word of a row, which is predicted from BOS, is left out. Its loss summed over all its tokens and the part
that its category has in the first (see `lexicon`) come from the same pass. This module does not know how a set was
found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from posneurons import memory, models
from posneurons.activations import BATCH_TOKENS, Batch, WordIndex, batches, check_fits
from posneurons.display import Shown
from posneurons.distributed import shared, sharing
from posneurons.errors import AlignmentError
from posneurons.fills import Condition
from posneurons.forks import Forks
from posneurons.lexicon import Lexicon
from posneurons.reads import Reads, Trunk
from posneurons.records import Corpus
from posneurons.words import Measure

if TYPE_CHECKING:
    import plotly.graph_objects as go

HANDED = 512
"""Words whose losses are handed out at once."""

INTACT = -1
"""The number under which the intact run is handed out."""

Consumer = Callable[[Int[ndarray, " word"], list[int], Float[ndarray, "measure condition word"]], None]
"""Called as consumer(words, numbers, losses): numbers of words in the corpus and of conditions (`INTACT` for none)."""


@dataclass(frozen=True, repr=False)
class WordLosses(Shown):
    """Losses of the scored words, in nats, float32.

    Attributes:
        words: their numbers in the corpus.
        measures: what the first axis is: "first", "word", "category".
        intact: with all neurons at work.
        lesioned: under each condition.
        notes: what had to be done for want of memory.
    """

    words: Int[ndarray, " word"]
    measures: tuple[Measure, ...]
    intact: Float[ndarray, "measure word"]
    lesioned: Float[ndarray, "measure condition word"]
    notes: tuple[str, ...] = ()

    def rises(self, measure: Measure = "first") -> Float[ndarray, "condition word"]:
        """How much more each word costs under each condition, float64."""
        number = self.measures.index(measure)
        return np.asarray(self.lesioned[number].astype(np.float64) - self.intact[number])

    def beside(self, other: WordLosses) -> WordLosses:
        """The losses of the words of both, which have none in common."""
        words = np.concatenate([self.words, other.words])
        order = np.argsort(words)
        intact = np.concatenate([self.intact, other.intact], axis=-1)[..., order]
        lesioned = np.concatenate([self.lesioned, other.lesioned], axis=-1)[..., order]
        notes = tuple(dict.fromkeys((*self.notes, *other.notes)))
        return WordLosses(words[order], self.measures, intact, lesioned, notes)

    def figure(self, names: Sequence[str] = (), *, measure: Measure = "first") -> go.Figure:
        """How much more words cost under each condition: mean, quartiles, and the middle nine tenths.

        Args:
            names: of the conditions; their numbers by default.
            measure: which loss.

        Raises:
            PosNeuronsError: where there is no condition or no word.
        """
        from posneurons.effect_figures import by_condition

        rises = self.rises(measure)
        return by_condition(rises, names or [str(number) for number in range(len(rises))])


def word_losses(
    model: Any,
    corpus: Corpus,
    conditions: Sequence[Condition],
    *,
    measures: Sequence[Measure] = ("first",),
    lexicon: Lexicon | None = None,
    where: Bool[ndarray, " token"] | None = None,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
    also: Consumer | None = None,
) -> WordLosses:
    """Loss of every scored word, intact and under each condition; see `stream_losses`, which keeps nothing.

    `also` is handed the same, `HANDED` words at a time, once all are there.
    """
    found = _word_losses(
        model, corpus, conditions,
        measures=measures, lexicon=lexicon, where=where, tokens=tokens, progress=progress,
    )  # fmt: skip
    for start in range(0, len(found.words), HANDED):
        if also is None:
            break
        some = slice(start, start + HANDED)
        also(found.words[some], [INTACT], found.intact[:, None, some])
        if conditions:
            also(found.words[some], list(range(len(conditions))), found.lesioned[:, :, some])
    return found


@shared(WordLosses.beside)
def _word_losses(
    model: Any,
    corpus: Corpus,
    conditions: Sequence[Condition],
    *,
    measures: Sequence[Measure],
    lexicon: Lexicon | None,
    where: Bool[ndarray, " token"] | None,
    tokens: int,
    progress: bool,
) -> WordLosses:
    words = corpus.readable("predict")
    slot = np.full(len(corpus), -1)
    slot[words] = np.arange(len(words))
    losses = np.full((len(measures), len(conditions) + 1, len(words)), np.nan, dtype=np.float32)
    seen = np.zeros(len(words), dtype=bool)

    def keep(found: ndarray, numbers: list[int], values: ndarray) -> None:
        losses[:, np.array(numbers)[:, None] + 1, slot[found]] = values
        seen[slot[found]] = True

    notes = stream_losses(
        model, corpus, conditions, keep,
        measures=measures, lexicon=lexicon, where=where, tokens=tokens, progress=progress,
    )  # fmt: skip
    mine = losses if seen.all() else losses[..., seen]
    return WordLosses(words[seen], tuple(measures), mine[:, 0], mine[:, 1:], notes)


@torch.no_grad()
def stream_losses(
    model: Any,
    corpus: Corpus,
    conditions: Sequence[Condition],
    consume: Consumer,
    *,
    measures: Sequence[Measure] = ("first",),
    lexicon: Lexicon | None = None,
    where: Bool[ndarray, " token"] | None = None,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> tuple[str, ...]:
    """Hand the loss of every scored word, intact and under each condition, to `consume`, batch by batch.

    Args:
        model: what `load_model` gives.
        corpus: aligned words; those whose first token follows BOS directly are not scored.
        conditions: the lesions.
        consume: called with the intact losses of some words, then with theirs under some conditions, until all are
            done.
        measures: "first" (of the word's first token), "word" (summed over its tokens), "category" (-ln P(its tag)).
        lexicon: P(tag | token), for "category".
        where: per token of the corpus, whether neurons are ablated there; None for everywhere after BOS.
        tokens: size of a batch, and of several conditions stacked; less where the memory is planned to hold less.
        progress: show a bar.

    Returns:
        Notes: what had to be done for want of memory.

    Raises:
        NeuronError: where a neuron lies outside the model.
        AlignmentError: where the corpus does not fit the model, `where` does not fit the corpus, or the lexicon is
            missing or of other tags.
    """
    check_fits(model, corpus)
    if where is not None and len(where) != len(corpus.tokens):
        raise AlignmentError(
            f"{corpus.name}: where={len(where)} positions were given; expected one for each of its "
            f"{len(corpus.tokens)} tokens (those of the split that is lesioned)"
        )
    table = _table(corpus, measures, lexicon)
    forks = Forks(model, conditions, table=table, tokens=tokens)
    budget, notes = _planned(model, corpus, forks, tokens)
    forks.limit(budget)
    total = (len(conditions) + 1) * len(corpus.tokens) // sharing()
    with tqdm(total=total, desc="lesions", unit="token", unit_scale=True, leave=None, disable=not progress) as bar:
        for batch in word_batches(model, corpus, measures, where, tokens, budget):
            for part, trunk in _trunks(forks, batch):
                consume(part.words, [INTACT], part.of_words(trunk.losses[:, None], measures))
                bar.update(part.size)
                for numbers, found in forks.branches(trunk):
                    consume(part.words, numbers, part.of_words(found, measures))
                    bar.update(part.size * len(numbers))
    if forks.halved:
        notes += (f"memory ran out {forks.halved} times; the work was halved each time and went on",)
    return notes


def _table(corpus: Corpus, measures: Sequence[Measure], lexicon: Lexicon | None) -> Tensor | None:
    for measure in measures:
        if measure not in get_args(Measure):
            known = ", ".join(get_args(Measure))
            raise AlignmentError(f"measure {measure!r}: no such loss; expected one of {known}")
    if "category" not in measures:
        return None
    if lexicon is None or lexicon.tags != corpus.tags:
        found = "none was given" if lexicon is None else f"it has the tags {', '.join(lexicon.tags)}"
        raise AlignmentError(f"{corpus.name}: the loss of the category needs a lexicon of its tags; {found}")
    return lexicon.table


def _planned(model: Any, corpus: Corpus, forks: Forks, tokens: int) -> tuple[int, tuple[str, ...]]:
    """How many tokens are run at once: as many as were asked for, or as fit, and at least the longest row."""
    info = models.describe(model)
    itemsize = next(model.parameters()).element_size()
    longest = int(np.diff(corpus.row_bounds).max(initial=0)) + 1
    each = memory.bytes_per_token(
        info, model.cfg.n_heads, longest, kept=forks.kept, stack=forks.stack, itemsize=itemsize
    )
    room = memory.affordable(memory.free_bytes(info.device), info, each)
    if tokens <= max(room, longest):
        return tokens, ()
    fits = max(room, longest)
    return fits, (f"batches of {fits} tokens instead of {tokens}: {each / 1e6:.2g} MB are needed per token",)


@dataclass(frozen=True)
class WordReads:
    """What is read of some rows, and which word each place belongs to.

    Attributes:
        words: numbers of the words in the corpus.
        reads: the places whose next token is one of a word's.
        slot: index into `words` of each place; a word's places follow one another.
        size: tokens after BOS.
    """

    words: Int[ndarray, " word"]
    reads: Reads
    slot: Int[Tensor, " place"]
    size: int

    def rows(self, rows: slice) -> WordReads:
        """Some of the rows."""
        reads, inside = self.reads.rows(rows)
        kept, slot = torch.unique(self.slot[inside], return_inverse=True)
        size = round(self.size * (rows.stop - rows.start) / len(self.reads.tokens))
        return WordReads(self.words[kept.cpu().numpy()], reads, slot, size)

    def of_words(
        self, losses: Float[Tensor, "two condition place"], measures: Sequence[Measure]
    ) -> Float[ndarray, "measure condition word"]:
        """Losses of words from those of places."""
        nats = losses[0]
        begins = torch.diff(self.slot, prepend=self.slot.new_full((1,), -1)) > 0
        found = []
        for measure in measures:
            if measure == "word":
                found.append(nats.new_zeros(len(nats), len(self.words)).index_add_(1, self.slot, nats))
            else:
                found.append(losses[-1 if measure == "category" else 0][:, begins])
        return torch.stack(found).float().cpu().numpy()


def _trunks(forks: Forks, part: WordReads) -> Iterator[tuple[WordReads, Trunk]]:
    """The intact run of some rows, or, where memory runs out, of half of them at a time."""
    try:
        trunk = forks.trunk(part.reads)
    except RuntimeError as error:
        rows = len(part.reads.tokens)
        if not memory.ran_out(error) or rows == 1:
            raise
        forks.halved += 1
        yield from _trunks(forks, part.rows(slice(0, rows // 2)))
        yield from _trunks(forks, part.rows(slice(rows // 2, rows)))
        return
    yield part, trunk


def word_batches(
    model: Any,
    corpus: Corpus,
    measures: Sequence[Measure],
    where: ndarray | None,
    tokens: int,
    limit: int | None = None,
) -> Iterator[WordReads]:
    """All rows of a corpus in batches, each with what is read of it; `where` is where neurons are ablated."""
    index, first = WordIndex(corpus, "predict"), corpus.positions("first")
    length = corpus.word_last - first + 1 if "word" in measures else np.ones_like(first)
    for batch in batches(corpus, models.describe(model).device, tokens, limit=limit):
        words = index.of(batch.rows)
        slot = np.repeat(np.arange(len(words)), length[words])
        later = np.arange(len(slot)) - np.searchsorted(slot, slot)  # which token of its word, from 0
        row = np.searchsorted(batch.rows, corpus.word_row[words])[slot]
        place = torch.from_numpy(row * batch.tokens.shape[1] + first[words][slot] + later)
        tags = np.where(later == 0, corpus.word_tag[words][slot], -1) if "category" in measures else None
        number, ablated = _numbers(corpus, batch, where)
        device = batch.tokens.device
        reads = Reads(
            tokens=batch.tokens,
            where=place.to(device) - 1,
            targets=batch.tokens.flatten()[place.to(device)],
            tags=None if tags is None else torch.from_numpy(tags).to(device),
            ablated=torch.from_numpy(ablated).to(device),
            number=torch.from_numpy(number).to(device),
        )
        size = int(batch.lengths.sum()) - len(batch.rows)
        yield WordReads(words, reads, torch.from_numpy(slot).to(device), size)


def _numbers(
    corpus: Corpus, batch: Batch, where: ndarray | None
) -> tuple[Int[ndarray, "batch pos"], Bool[ndarray, "batch pos"]]:
    """Number of each token in the corpus (0 for BOS and padding), and whether neurons are ablated there."""
    pos = np.arange(batch.tokens.shape[1])
    ablated = (pos >= 1) & (pos < batch.lengths[:, None])
    number = np.where(ablated, corpus.row_bounds[batch.rows][:, None] + pos - 1, 0)
    return number, ablated if where is None else ablated & where[number]


def scored_words(corpus: Corpus) -> Int[ndarray, " tag"]:
    """Number of words of each tag that are scored: all but the first of their row."""
    return np.bincount(corpus.word_tag[corpus.readable("predict")], minlength=len(corpus.tags))
