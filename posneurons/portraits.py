"""Pages of neurons from a model and a corpus: what each neuron reads, writes and does, all neurons in a few passes.

Densities and contexts are of `profiles`, effects of `lesions` (each neuron ablated by itself, all words measured),
ranks of the rankings that are given. What a neuron promotes is read off the weights, as in `logit_lens`.

What pages do not know: contexts are the extremes of the words that were read, and say little of the rest of a neuron's
range, which the densities show; nor do the effects of a neuron alone say what it does together with others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from posneurons import models
from posneurons.ablations import Edit, parse
from posneurons.activations import BATCH_TOKENS, sample_rows
from posneurons.errors import ModelError, NeuronError
from posneurons.fills import Condition, make_fills
from posneurons.lesion_study import documents_will_do
from posneurons.lesions import scored_words, word_losses
from posneurons.models import ModelInfo
from posneurons.neuron_pages import NAN, Effect, NeuronPage, Reason, Standing
from posneurons.neurons import NeuronSet
from posneurons.profiles import profiles, rounded
from posneurons.records import Corpus, Ranking
from posneurons.significance import bootstrap_interval, cluster_counts, cluster_sums
from posneurons.token_texts import TokenTexts
from posneurons.weights import final_norm, output_weights, vocabulary
from posneurons.words import At, Scope
from posneurons.writing import check_writes

DRAWS = 1000
"""Resamples of clusters behind an interval."""

TOKENS = 10
"""Promoted tokens, and suppressed ones."""

REASON = 10
"""Where the neurons are given, the rank that is worth a mention."""

_LOGITS = 2**25
"""Numbers of neurons times the vocabulary in memory at once: 128 MB."""

_CONDITIONS = 64
"""Neurons whose intervals are drawn at once."""

Tokens = tuple[tuple[str, float], ...]
"""Texts of tokens and logits per unit of activation."""


def make_pages(
    model: Any,
    corpus: Corpus,
    neurons: NeuronSet | Sequence[str] | int,
    *,
    rankings: Sequence[Ranking] = (),
    reasons: Mapping[str, Sequence[Reason]] | None = None,
    at: At = "predict",
    ablation: str | Edit = "mean",
    scope: Scope = "all",
    contexts: int = 10,
    effect_words: int | None = None,
    seed: int = 0,
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> tuple[NeuronPage, ...]:
    """A page for each neuron: densities, strongest contexts, promoted tokens, exact effects, ranks.

    Densities and contexts are of the split "train", effects of "test"; the means and donors of an ablation are taken
    from "train". Where a split is missing or has no word to read, all words of `corpus` take its place. A side of a
    neuron (its highest values, its lowest) has contexts only if it is positive (negative) and reaches a tenth of the
    other side's strength: the small negative values of a GELU have none, both sides of a gated neuron do. An interval
    says what other words of the same kind would show, by 1,000 resamples of documents (sentences, where fewer than 20
    are marked); it is undefined for a tag that is in a single one. A page is the same whichever other neurons are asked
    for, but for what batches of another size round.

    Args:
        model: what `load_model` gives.
        corpus: aligned words.
        neurons: a set or names; or k, for the k best of each tag by each of `rankings`.
        rankings: what the ranks on the pages are read from.
        reasons: why each neuron has a page, by its name; None reads it off its ranks, up to k or else 10.
        at: where each word is read for densities and contexts.
        ablation: what a neuron is set to for its effects, as `make_fills` reads it.
        scope: where it is ablated: at "all" positions after BOS, or where the word is predicted, "local".
        contexts: most contexts of each side; no two of one side have the same word form, whatever its case.
        effect_words: measure effects on rows drawn at random that hold as many words; None for all.
        seed: of the resamples, of donors and of the rows drawn.
        tokens: size of a batch.
        progress: show bars.

    Returns:
        Pages in the order of the neurons.

    Raises:
        NeuronError: where a neuron lies outside the model, a ranking is of another model, or the ablation is unknown.
        AlignmentError: where the corpus does not fit the model, or has no word to read.
    """
    info, edit = models.describe(model), parse(ablation)
    how: dict[str, Any] = {"tokens": tokens, "progress": progress}
    for ranking in rankings:
        _check_ranking(ranking, info)
    chosen = _chosen(neurons, rankings)
    chosen.check(info.n_layers, info.d_mlp)
    if not len(chosen):
        return ()
    split, read = _part(corpus, "train", at)
    effect_split, lesioned = _part(corpus, "test", "predict")
    lesioned = sample_rows(lesioned, "predict", effect_words, np.random.default_rng(seed))
    looks = profiles(model, read, chosen, at=at, contexts=contexts, **how)
    written, notes = _written(model, chosen)
    fills = make_fills(model, read, lesioned, edit, chosen, seed=seed, **how)
    effects = _effects(model, lesioned, [Condition(one, fills, scope) for one in _singles(chosen)], seed, how)
    standings = _standings(rankings, chosen, corpus.tags, at)
    common: dict[str, Any] = {
        "n_neurons": info.n_layers * info.d_mlp, "model": info.name, "treebank": corpus.name, "at": at, "split": split,
        "effect_split": effect_split, "tags": corpus.tags, "ablation": str(edit), "scope": scope, "notes": notes,
    }  # fmt: skip
    most = neurons if isinstance(neurons, int) else REASON
    return tuple(
        NeuronPage(
            layer=int(chosen.layers[i]), neuron=int(chosen.units[i]), **common, **vars(looks[i]),
            promoted=written[i][0], suppressed=written[i][1], effects=effects[i], ranks=standings[i],
            of=_reasons(standings[i], corpus.tags, most) if reasons is None else tuple(reasons.get(name, ())),
        )
        for i, name in enumerate(chosen)
    )  # fmt: skip


def _chosen(neurons: NeuronSet | Sequence[str] | int, rankings: Sequence[Ranking]) -> NeuronSet:
    if isinstance(neurons, NeuronSet):
        return neurons
    if not isinstance(neurons, int):
        return NeuronSet.parse([neurons] if isinstance(neurons, str) else neurons)
    if not rankings:
        raise NeuronError(f"neurons={neurons}: the best of no ranking; give rankings, or names such as 'L3N12'")
    tops = [found for ranking in rankings for found in ranking.top(neurons, fewer=True).values()]
    return NeuronSet.parse([]).union(*tops)


def _check_ranking(ranking: Ranking, info: ModelInfo) -> None:
    found, expected = ranking.scores.shape[1:], (info.n_layers, info.d_mlp)
    if found != expected:
        raise NeuronError(
            f"ranking {ranking.method}: it is of {found[0]} layers of {found[1]} neurons, but the model has "
            f"{expected[0]} of {expected[1]}; rank the neurons of this model"
        )


def _part(corpus: Corpus, split: str, at: At) -> tuple[str, Corpus]:
    """A split and its name, or all words where it is missing or has none to read."""
    part = corpus.split(split) if split in corpus.split_names else None
    return ("all", corpus) if part is None or not len(part.readable(at)) else (split, part)


def _singles(neurons: NeuronSet) -> Iterator[NeuronSet]:
    for i in range(len(neurons)):
        yield NeuronSet(neurons.layers[[i]], neurons.units[[i]])


@torch.no_grad()
def _written(model: Any, neurons: NeuronSet) -> tuple[list[tuple[Tokens, Tokens]], tuple[str, ...]]:
    """The tokens that each neuron promotes and suppresses most, or a note on why the weights do not tell."""
    try:
        check_writes(model)
        norm = final_norm(model)
    except ModelError as error:
        return [((), ())] * len(neurons), (f"No promoted tokens: {error}.",)
    texts, info, found = TokenTexts(model.tokenizer), models.describe(model), []
    known = min(len(texts), info.d_vocab)  # some vocabularies are padded
    for part in torch.split(torch.arange(len(neurons)), max(1, _LOGITS // info.d_vocab)):
        weights = [output_weights(model, int(neurons.layers[i]))[int(neurons.units[i])] for i in part.tolist()]
        pushes = norm.push(torch.stack(weights))
        logits = torch.cat([pushes @ columns for _, columns, _ in vocabulary(model)], dim=1)
        logits = (logits - logits.mean(1, keepdim=True))[:, :known]
        found += [(_best(row, texts), _best(row, texts, lowest=True)) for row in logits]
    return found, ()


def _best(logits: Float[Tensor, " vocab"], texts: TokenTexts, *, lowest: bool = False) -> Tokens:
    values, tokens = logits.topk(min(TOKENS, len(logits)), largest=not lowest)
    pairs = zip(tokens.tolist(), values.tolist(), strict=True)
    return tuple((texts.name(token), rounded(value)) for token, value in pairs)


def _effects(
    model: Any, corpus: Corpus, conditions: Sequence[Condition], seed: int, how: dict[str, Any]
) -> list[tuple[Effect, ...]]:
    """The effect of each condition on each tag, with its interval over clusters of words."""
    words, n_tags = scored_words(corpus), len(corpus.tags)
    if not words.sum():
        return [(Effect(NAN, NAN, NAN, 0),) * n_tags] * len(conditions)
    losses = word_losses(model, corpus, conditions, **how)
    cells, many = corpus.word_tag[losses.words], documents_will_do(corpus)
    clusters = (corpus.row_document[corpus.word_row] if many else corpus.word_sentence)[losses.words]
    _, clusters = np.unique(clusters, return_inverse=True)
    counts = cluster_counts(cells, clusters, n_tags)
    single = (counts > 0).sum(0) < 2
    found = []
    for start in range(0, len(conditions), _CONDITIONS):
        rises = losses.lesioned[0, start : start + _CONDITIONS].astype(np.float64) - losses.intact[0]
        sums = cluster_sums(rises, cells, clusters, n_tags)
        ends = bootstrap_interval(sums, counts, draws=DRAWS, rng=np.random.default_rng(seed))
        low, high = (np.where(single, NAN, end) for end in ends)
        with np.errstate(invalid="ignore"):
            means = sums.sum(0) / words
        found += [_records(*each, words) for each in zip(means, low, high, strict=True)]
    return found


def _records(means: ndarray, low: ndarray, high: ndarray, words: ndarray) -> tuple[Effect, ...]:
    rows = zip(means, low, high, words.tolist(), strict=True)
    return tuple(Effect(rounded(mean), rounded(lower), rounded(upper), n) for mean, lower, upper, n in rows)


def _standings(
    rankings: Sequence[Ranking], neurons: NeuronSet, tags: Sequence[str], at: At
) -> list[tuple[Standing, ...]]:
    """Rank and score of each neuron for each tag, by each ranking."""
    found: list[list[Standing]] = [[] for _ in range(len(neurons))]
    for ranking in rankings:
        _, n_layers, n_units = ranking.scores.shape
        flat, ranks, scores = neurons.flat(n_units), [], []
        for tag in tags:
            place = np.zeros(n_layers * n_units, dtype=np.int64)  # 0 where the score is undefined
            known = tag in ranking.tags
            if known:
                order = ranking.order(tag)
                place[order] = np.arange(1, len(order) + 1)
            ranks.append(place[flat])
            mine = ranking.scores[ranking.tags.index(tag)].ravel()[flat] if known else np.full(len(flat), NAN)
            scores.append(mine)
        name = ranking.method if ranking.at == at else f"{ranking.method}@{ranking.at}"
        for i, mine in enumerate(found):
            places = tuple(int(each[i]) or None for each in ranks)
            mine.append(Standing(name, places, tuple(rounded(each[i]) for each in scores)))
    return [tuple(each) for each in found]


def _reasons(ranks: Sequence[Standing], tags: Sequence[str], most: int) -> tuple[Reason, ...]:
    """The methods and tags that give a rank up to `most`, the best first."""
    reasons = [
        Reason(each.method, tag, rank)
        for each in ranks
        for tag, rank in zip(tags, each.ranks, strict=True)
        if rank is not None and rank <= most
    ]
    return tuple(sorted(reasons, key=lambda reason: reason.rank))
