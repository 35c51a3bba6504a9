"""Sums of attributions along paths over a corpus, with nodes that do not depend on the order of its batches.

How many nodes a layer needs is learned on the first batch. Every later batch begins with as many, and takes more for
itself where it needs them, so that it gives the same whichever process does it after which others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from posneurons.activations import batches
from posneurons.effects import EffectAccumulator
from posneurons.quadrature import Completeness
from posneurons.records import Corpus


class Sums(NamedTuple):
    """What attributions were summed to, and how far they miss what they must add up to."""

    state: EffectAccumulator
    seen: Completeness

    def merged(self, other: Sums) -> Sums:
        """Those of the words of both."""
        return Sums(self.state.merged(other.state), self.seen.merged(other.seen))


def in_two(run: Callable[[Corpus, dict[int, int]], Sums], corpus: Corpus, tokens: int) -> Sums:
    """The sums of the first batch of a corpus, and of all others.

    Args:
        run: from rows, and how many nodes each layer begins with, to their sums.
        corpus: all rows.
        tokens: size of a batch.
    """
    rows = next((batch.rows for batch in batches(corpus, "cpu", tokens)), np.arange(0))
    first = np.isin(np.arange(corpus.n_rows), rows)
    found = run(corpus.select(first), {})
    return found if first.all() else found.merged(run(corpus.select(~first), found.seen.steps))
