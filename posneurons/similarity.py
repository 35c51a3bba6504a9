"""Which tags are alike: dissimilarities from what lesions do and from what neurons say, clustered and compared.

Representational similarity analysis: each measurement gives one dissimilarity per pair of tags, 1 minus Pearson's
correlation of their profiles, and two measurements are compared over those pairs, so that they need no common unit. The
p-value permutes tags, not pairs, as the pairs of one tag depend on each other (the Mantel test).

What this can say of nouns and verbs in the brain: whether a model groups tags as patients' deficits would lead one to
expect. Double dissociations of noun and verb retrieval (Caramazza and Hillis 1991, Nature 349:788) suggest that the two
are kept apart; of 16 patients with a selective verb deficit in picture naming, 14 had none once nouns and verbs were
equally imageable (Crepaldi et al. 2006, doi.org/10.1016/j.neuropsychologia.2005.04.006), so that word class is easily
mistaken for what the words of a class have in common. What it cannot say: tags differ in frequency, in their words and
in their neighbours, and all of these shape activations and lesions alike. That two measurements of one model agree
shows that they see the same structure, not that it is one of grammar or that a brain has it; hold a dissimilarity from
the text alone (`from_profiles`) beside them. Profiles of rare tags are noisy, which moves their dissimilarities
towards 1; no correction is made. With few tags the Mantel test has little power, and tags are not a random sample of
anything.

Sources: Kriegeskorte, Mur and Bandettini 2008, doi.org/10.3389/neuro.06.004.2008; Mantel 1967, Cancer Research 27:209.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from posneurons.agreement import pearson
from posneurons.display import Shown
from posneurons.errors import PosNeuronsError
from posneurons.records import TagMoments

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_CHUNK = 1000
"""Permutations made at once."""

By = Literal["lesion", "measured"]
"""Whose profile a lesion matrix gives: that of the lesioned tags (rows) or of the measured ones (columns)."""


@dataclass(frozen=True, repr=False)
class Dissimilarity(Shown):
    """How unlike each two tags are: 1 - r of their profiles, 0 (the same) to 2; NaN where undefined.

    `what` names the measurement. The matrix is symmetric, and its diagonal 0.
    """

    what: str
    tags: tuple[str, ...]
    values: Float[ndarray, "tag tag"]

    def known(self) -> tuple[str, ...]:
        """Tags with a defined dissimilarity to at least one other."""
        others = ~np.isnan(self.values) & ~np.eye(len(self.tags), dtype=bool)
        return tuple(tag for tag, some in zip(self.tags, others.any(1), strict=True) if some)

    def among(self, tags: Sequence[str]) -> Float[ndarray, "tag tag"]:
        """The part of the matrix for these tags, in this order.

        Raises:
            PosNeuronsError: where a tag is missing, or a pair of them is undefined.
        """
        if missing := [tag for tag in tags if tag not in self.tags]:
            raise PosNeuronsError(f"{self.what}: no tag {missing[0]!r}; expected one of {', '.join(self.tags)}")
        place = [self.tags.index(tag) for tag in tags]
        part = self.values[np.ix_(place, place)]
        if np.isnan(part).any():
            a, b = (tags[number] for number in np.argwhere(np.isnan(part))[0])
            raise PosNeuronsError(f"{self.what}: the dissimilarity of {a} and {b} is undefined; leave one of them out")
        return part

    def figure(self) -> go.Figure:
        """The matrix, like tags side by side, with the tree that orders them; no tree where a pair is undefined."""
        import pandas as pd

        from posneurons.similarity_figures import tag_tree

        try:
            tree = cluster(self)
        except PosNeuronsError:  # too few tags, or an undefined pair: the matrix as it is, with gaps
            return tag_tree(
                self.values, self.tags, self.tags, pd.DataFrame(columns=["left", "right", "height", "size"])
            )
        return tag_tree(self.values, self.tags, tree.leaves, tree.merges)

    def to_frame(self) -> pd.DataFrame:
        """The matrix, tags as rows and columns."""
        import pandas as pd

        return pd.DataFrame(self.values, index=self.tags, columns=list(self.tags))


def from_profiles(
    what: str,
    tags: Sequence[str],
    profiles: Float[ndarray, "tag feature"],
    left_out: Bool[ndarray, "tag feature"] | None = None,
) -> Dissimilarity:
    """1 - Pearson's correlation of each two profiles, over the features that both have.

    NaN where these are fewer than three, or a profile does not vary over them.

    Args:
        what: a name for the measurement.
        tags: whose profiles they are.
        profiles: any numbers; NaN where undefined.
        left_out: features that do not count for pairs with that tag.
    """
    values = np.zeros((len(tags), len(tags)))
    for a, b in combinations(range(len(tags)), 2):
        kept = slice(None) if left_out is None else ~(left_out[a] | left_out[b])
        first, second = (profiles[tag, kept].astype(np.float64) for tag in (a, b))
        values[a, b] = values[b, a] = np.clip(1 - pearson(first, second), 0, 2)
    return Dissimilarity(what, tuple(tags), values)


def lesion_profiles(
    matrix: pd.DataFrame, *, by: By = "lesion", own: bool = True, centred: bool = False
) -> Dissimilarity:
    """Tags are alike where their lesions do alike, or where they suffer alike from all lesions.

    Sets that share neurons do alike for that reason, and sets ranked by activations share neurons where activations are
    alike: before lesions and activations are said to agree, see what lesions of `overlap.relabelled` sets, which share
    as many, give.

    Args:
        matrix: rise of the loss, lesioned tags as rows and measured tags as columns, as `LesionResult.matrix` gives.
        by: "lesion": a tag's profile is its row, what its lesion does to each tag; "measured": its column, what each
            lesion does to it.
        own: whether a pair's own four cells count (what the lesions of a and b do to a and b). They are the largest
            where lesions are specific, and make all tags unlike; without them only what happens to third tags counts.
        centred: take off each feature's mean over the tags first, so that what all lesions do (or all tags suffer)
            alike does not count.

    Raises:
        PosNeuronsError: where `by` is unknown.
    """
    if by not in get_args(By):
        raise PosNeuronsError(f"lesion profiles: by={by!r}; expected one of {', '.join(get_args(By))}")
    table = matrix if by == "lesion" else matrix.T
    profiles = table.to_numpy(dtype=np.float64)
    if centred:
        profiles = (table - table.mean(axis=0)).to_numpy(dtype=np.float64)
    tags, features = (np.array([str(name) for name in axis], dtype=object) for axis in (table.index, table.columns))
    left_out = None if own else tags[:, None] == features[None, :]
    words = [f"by {by}", *(["without own cells"] if not own else []), *(["centred"] if centred else [])]
    return from_profiles(f"lesions, {', '.join(words)}", tags.tolist(), profiles, left_out)


def activation_profiles(moments: TagMoments) -> Dissimilarity:
    """Tags are alike where the same neurons of the whole model are above or below their mean.

    A tag's profile is its mean activation of every neuron, less the neuron's mean and over its standard deviation, in
    both of which every tag with words weighs the same: frequent tags would otherwise be their own mean. Profiles sum to
    0 over the tags, so that K unrelated tags have dissimilarities of 1 + 1 / (K - 1) on average. Neurons that never
    vary are left out; tags without words are NaN.
    """
    count = moments.count[:, None, None].astype(np.float64)
    present = moments.count > 0
    profiles = np.full((len(moments.tags), moments.mean[0].size), np.nan)
    if present.any():
        means, within = moments.mean[present], (moments.m2[present] / count[present]).mean(0)
        centred = means - means.mean(0)
        spread = np.sqrt(within + np.square(centred).mean(0))
        scaled = np.full_like(centred, np.nan)
        np.divide(centred, spread, out=scaled, where=np.broadcast_to(spread > 0, centred.shape))
        profiles[present] = scaled.reshape(len(scaled), profiles.shape[1])
    return from_profiles(f"activations at {moments.at}", moments.tags, profiles)


@dataclass(frozen=True, repr=False)
class Tree(Shown):
    """Tags joined step by step, the least unlike first (average linkage).

    Attributes:
        what: the measurement.
        leaves: tags in an order that puts like ones side by side.
        merges: one row per step, columns left, right (tags of the two groups that are joined, with spaces between),
            height (mean dissimilarity between them), size (tags together).
        fit: cophenetic correlation, how well the heights at which tags meet agree with their dissimilarities; NaN
            where either does not vary, or there are fewer than 3 tags.
    """

    what: str
    leaves: tuple[str, ...]
    merges: pd.DataFrame
    fit: float

    def figure(self) -> go.Figure:
        """The tree: which tags meet, and at which dissimilarity."""
        from posneurons.similarity_figures import tree

        return tree(self.leaves, self.merges, self.fit)


def cluster(dissimilarity: Dissimilarity) -> Tree:
    """Group tags by average linkage; tags without any defined dissimilarity are left out.

    Raises:
        PosNeuronsError: where fewer than two tags are left, or a pair of them is undefined.
    """
    import pandas as pd
    from scipy.cluster.hierarchy import cophenet, leaves_list, linkage
    from scipy.spatial.distance import squareform

    tags = dissimilarity.known()
    if len(tags) < 2:
        raise PosNeuronsError(
            f"{dissimilarity.what}: {len(tags)} tags have a dissimilarity to another; expected at least 2 to group"
        )
    flat = squareform(dissimilarity.among(tags))
    steps = linkage(flat, method="average", optimal_ordering=True)
    leaves = leaves_list(steps).tolist()
    groups = [[number] for number in range(len(tags))]
    rows = []
    for left, right, height, size in steps.tolist():
        parts = sorted((groups[int(left)], groups[int(right)]), key=lambda group: leaves.index(group[0]))
        groups.append(parts[0] + parts[1])
        rows.append((*(" ".join(tags[number] for number in part) for part in parts), height, int(size)))
    return Tree(
        what=dissimilarity.what,
        leaves=tuple(tags[number] for number in leaves),
        merges=pd.DataFrame(rows, columns=["left", "right", "height", "size"]),
        fit=pearson(np.asarray(cophenet(steps)), flat),
    )


class Comparison(NamedTuple):
    """How far two measurements agree on which tags are alike; `spearman` is over `pairs` pairs of `tags`."""

    first: str
    second: str
    tags: tuple[str, ...]
    pairs: int
    spearman: float
    p_value: float


def compare(first: Dissimilarity, second: Dissimilarity, *, draws: int, rng: np.random.Generator) -> Comparison:
    """Spearman's correlation over pairs of tags, with a Mantel test: the tags of one are permuted.

    Tags that either lacks, or has no defined dissimilarity for, are left out.

    Args:
        first: one measurement.
        second: another.
        draws: random permutations.
        rng: the source of randomness.

    Returns:
        The correlation, and the one-sided p-value that permuted tags agree as much, (1 + hits) / (draws + 1). Both NaN
        with fewer than three tags, or where either does not vary.

    Raises:
        PosNeuronsError: where a pair of the tags that are left is undefined.
    """
    from scipy.stats import rankdata

    theirs = set(second.known())
    tags = tuple(tag for tag in first.known() if tag in theirs)
    n_pairs = len(tags) * (len(tags) - 1) // 2
    upper = np.triu_indices(len(tags), 1)
    x = rankdata(np.round(first.among(tags)[upper], 12)).astype(np.float64)
    y = rankdata(np.round(second.among(tags)[upper], 12)).astype(np.float64)
    spearman = pearson(x, y)
    if np.isnan(spearman):
        return Comparison(first.what, second.what, tags, n_pairs, spearman, float("nan"))
    ranks = np.zeros((len(tags), len(tags)))
    ranks[upper] = y - y.mean()
    ranks += ranks.T
    observed, hits = x @ ranks[upper], 0
    for start in range(0, draws, _CHUNK):
        orders = np.tile(np.arange(len(tags)), (min(_CHUNK, draws - start), 1))
        rng.permuted(orders, axis=1, out=orders)
        null = ranks[orders[:, upper[0]], orders[:, upper[1]]] @ x
        hits += int((null >= observed - 1e-9 * abs(observed)).sum())
    return Comparison(first.what, second.what, tags, n_pairs, spearman, (1 + hits) / (draws + 1))
