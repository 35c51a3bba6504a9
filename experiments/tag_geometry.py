"""Which tags share neurons and directions, and are the tags that lesions group those that activations and text group?

Command:  python experiments/tag_geometry.py [--treebank FOLDER] [--methods correlation attribution] [--k 50]
Cost:     about two minutes on one core with the embedded model and treebank.
Outcome:  exploratory, see also experiments/LOG.md for what the design moved.

Few pairs of tags share more neurons than chance gives, and those are alike in grammar: numbers with symbols,
adjectives with nouns, the conjunctions, auxiliaries with verbs. Disjoint sets do not write disjoint things: the
directions of most pairs are further from right angles than those of other neurons, cosines of .8 to .9 for those same
pairs (correlation). Lesions group the tags that activations before the word do, more than lesions of random sets, and
the tags that the text does no more than these. Measured with 50 neurons, correlation and attribution: 11 and 6 of 136
pairs share more (q <= .05); mean absolute cosine .31 and .27, of controls .08 and .07; Spearman of lesions (by measured
tag) and activations .69 and .58, of one family of random sets .13 and .06 (.27 and .18
over three others). Nouns and verbs are not kept apart more than other tags:
in every measurement at most 53 % of pairs are more alike.

Chance stands beside every figure: random sets of the same layers for shared neurons; the same sets of other neurons
(`overlap.relabelled`) for spans and directions; permuted tags for the comparison of measurements, and beside it what
the text alone says, the share of each tag before and after a word. Sets come from the split "train", as do
activations and text; lesions are measured on "test", and tags with few words there are left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from tables import markdown

import posneurons as pn
from posneurons import overlap, similarity, subspace
from posneurons.neurons import NeuronSet
from posneurons.passes import tag_moments
from posneurons.records import Corpus, Ranking, TagMoments


def digits(frame: pd.DataFrame) -> str:
    """Three significant digits: angles, shares and p-values stand side by side."""
    return markdown(frame, digits=".3g")


def square(frame: pd.DataFrame, column: str, tags: list[str]) -> pd.DataFrame:
    """One column of a table of pairs as a triangle, tags as rows and columns."""
    cells = {frozenset(pair): value for *pair, value in frame[["tag_a", "tag_b", column]].itertuples(index=False)}
    table = pd.DataFrame("", index=tags, columns=tags[:-1], dtype=object)
    for row, tag in enumerate(tags):
        for other in tags[:row]:
            table.loc[tag, other] = str(cells[frozenset((tag, other))])
    return table.iloc[1:].reset_index(names="")


def write(title: str, *parts: str) -> None:
    sys.stdout.write("\n\n".join([title, *parts]) + "\n\n")


def neighbours(corpus: Corpus, tags: list[str]) -> similarity.Dissimilarity:
    """Tags are alike where the same tags stand before and after them."""
    n = len(corpus.tags)
    together = np.flatnonzero(np.diff(corpus.word_row) == 0)
    table = np.zeros((n, 2 * n))
    np.add.at(table, (corpus.word_tag[together + 1], corpus.word_tag[together]), 1)
    np.add.at(table, (corpus.word_tag[together], n + corpus.word_tag[together + 1]), 1)
    place = [corpus.tags.index(tag) for tag in tags]
    shares = table[place] / table[place].sum(1, keepdims=True)
    return similarity.from_profiles("neighbours in the text", tags, shares)


def sets(method: str, keys: Mapping[str, NeuronSet], ranking: Ranking) -> None:
    """Shared neurons, layers and participation."""
    n_layers, n_units = ranking.scores.shape[1:]
    pairs = overlap.overlaps(keys, n_layers, n_units)
    best = pairs.sort_values(["q_value", "jaccard"], ascending=[True, False]).head(12)
    more = int((pairs["q_value"] <= 0.05).sum())
    write(
        f"## {method}: shared neurons",
        digits(square(pairs, "shared", list(keys))),
        f"{more} of {len(pairs)} pairs share more than random sets of the same layers (q <= .05); on average "
        f"{pairs['shared'].mean():.1f} neurons where {pairs['expected'].mean():.2f} are expected. The twelve clearest:",
        digits(best),
    )
    profile = overlap.layer_profiles(keys, n_layers).reset_index()
    write(f"## {method}: neurons in each layer", digits(profile))
    table = overlap.participation(keys, ranking)
    count = table.groupby("n_tags").agg(neurons=("neuron", "size"), mean_ratio=("participation_ratio", "mean"))
    everyone = overlap.participation_ratio(ranking.scores - ranking.neutral)
    write(
        f"## {method}: how many tags a neuron serves",
        digits(count.reset_index().astype(object)),
        f"Participation ratio of all neurons of the model, mean: {np.nanmean(everyone):.3g} of {len(ranking.tags)} tags"
        f" (independent normal scores: {2 / np.pi * len(ranking.tags):.3g}).",
        digits(table.head(8)),
    )


def spaces(
    method: str,
    model: object,
    keys: Mapping[str, NeuronSet],
    controls: list[dict[str, NeuronSet]],
    ranking: Ranking,
    moments: TagMoments,
) -> None:
    """Spans and directions of what the sets write, beside the same sets of other neurons."""
    draws = len(controls)
    angles = subspace.principal_angles(model, keys, controls)
    beyond = int((angles["p_value"] <= 1 / (draws + 1)).sum())
    clearest = angles.assign(above=angles["overlap"] - angles["control_overlap"]).nlargest(8, "above")
    write(
        f"## {method}: spans of output weights",
        "Mean squared cosine of the principal angles (overlap); medians over pairs:",
        digits(angles.drop(columns=["tag_a", "tag_b"]).median().to_frame().T),
        f"{beyond} of {len(angles)} pairs overlap more than all {draws} controls; by chance "
        f"{len(angles) / (draws + 1):.1f} would. The eight furthest above the mean of theirs:",
        digits(clearest.drop(columns="above")),
    )
    own = subspace.directions(model, keys, ranking=ranking, moments=moments)
    others = [subspace.directions(model, each, ranking=ranking, moments=moments) for each in controls]
    pairs = own.to_frame(others)
    beyond = int((pairs["p_value"] <= 1 / (draws + 1)).sum())
    write(
        f"## {method}: cosines of the directions in which tags are written",
        digits(own.cosines().round(2).reset_index(names="")),
        f"Mean absolute cosine {pairs['cosine'].abs().mean():.3f}, of controls {pairs['control_cosine'].mean():.3f}, "
        f"of random directions {pairs['random_cosine'].mean():.3f}; {beyond} of {len(pairs)} pairs are beyond all "
        f"{draws} controls.",
    )


def profiles(matrix: pd.DataFrame) -> list[similarity.Dissimilarity]:
    """Every way to read a lesion matrix."""
    return [
        similarity.lesion_profiles(matrix, by=by, own=own, centred=True)
        for by in ("lesion", "measured")
        for own in (True, False)
    ]


def alike(
    method: str,
    matrix: pd.DataFrame,
    random: list[pd.DataFrame],
    others: list[similarity.Dissimilarity],
) -> None:
    """A tree from lesions, and how far they agree with other measurements, beside lesions of random sets."""
    found, chance = profiles(matrix), [profiles(each) for each in random]
    tree = similarity.cluster(found[0])
    write(
        f"## {method}: tags grouped by {tree.what}",
        f"Order of the leaves: {', '.join(tree.leaves)}. Cophenetic correlation {tree.fit:.2f}.",
        digits(tree.merges),
    )
    rows = []
    for number, one in enumerate(found):
        for other in others:
            rng = np.random.default_rng(0)
            row = similarity.compare(one, other, draws=9999, rng=rng)
            at_random = [similarity.compare(each[number], other, draws=1, rng=rng).spearman for each in chance]
            row = {"first": row.first, "second": row.second, "spearman": row.spearman, "p_value": row.p_value}
            rows.append(row | {"random_sets": float(np.mean(at_random))})
    write(
        f"## {method}: do lesions group the tags that other measurements do?",
        f"random_sets: mean of the same for other neurons that share as many ({len(random)} such families of sets).",
        digits(pd.DataFrame(rows)),
    )
    pairs = []
    for each in (*found, *others):
        tags = each.known()
        if {"NOUN", "VERB"} <= set(tags):
            everyone = each.among(tags)[np.triu_indices(len(tags), 1)]
            pair = float(each.among(["NOUN", "VERB"])[0, 1])
            pairs.append((each.what, pair, float(everyone.mean()), float((everyone < pair).mean())))
    names = ["measurement", "NOUN and VERB", "mean of all pairs", "share of pairs that are more alike"]
    write(f"## {method}: nouns and verbs", digits(pd.DataFrame(pairs, columns=names)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--treebank", default="demo")
    parser.add_argument("--methods", nargs="+", default=["correlation", "attribution"])
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--draws", type=int, default=19, help="families of control sets")
    parser.add_argument("--families", type=int, default=1, help="of these, how many are lesioned")
    parser.add_argument("--least", type=int, default=20, help="test words that a tag needs")
    parser.add_argument("--seed", type=int, default=0, help="of the control sets")
    parser.add_argument("--device")
    options = parser.parse_args()
    begin = time.perf_counter()
    model = pn.load_model(options.model, device=options.device, dtype=torch.float32)
    corpus = pn.align(pn.load_treebank(options.treebank), model.tokenizer)
    train, counts = corpus.split("train"), corpus.split("test").tag_counts()
    tags = [tag for tag, count in counts.items() if count >= options.least]
    moments = tag_moments(model, train, at=("predict", "last"))
    activations = [similarity.activation_profiles(each) for each in moments.values()]
    activations = [similarity.Dissimilarity(each.what, tuple(tags), each.among(tags)) for each in activations]
    text = neighbours(train, tags)
    left = f" Without {', '.join(tag for tag in counts if tag not in tags)} (fewer than {options.least} test words)."
    write(f"# {corpus.name}, best {options.k} neurons", f"{len(tags)} tags." + left * (len(tags) < len(counts)))
    tree = similarity.cluster(activations[0])
    write(f"## Tags grouped by {tree.what}", f"Order: {', '.join(tree.leaves)}. Cophenetic correlation {tree.fit:.2f}.")
    write(f"## Tags grouped by {text.what}", f"Order: {', '.join(similarity.cluster(text).leaves)}.")
    rng = np.random.default_rng(0)
    first = [similarity.compare(one, text, draws=9999, rng=rng) for one in activations]
    write("## Do activations group the tags that the text does?", digits(pd.DataFrame(first).drop(columns="tags")))
    for method in options.methods:
        ranking = pn.rank(model, corpus, method)
        keys = {tag: neurons for tag, neurons in ranking.top(options.k).items() if tag in tags}
        n_layers, n_units = ranking.scores.shape[1:]
        rng = np.random.default_rng(options.seed)
        controls = overlap.relabelled(keys, options.draws, rng, n_layers=n_layers, n_units=n_units)
        sets(method, keys, ranking)
        spaces(method, model, keys, controls, ranking, moments["predict"])
        real, *random = (
            pn.lesion(model, corpus, each, controls=0, draws=1).matrix()[tags]
            for each in (keys, *controls[: options.families])
        )
        alike(method, real, random, [*activations, text])
    sys.stdout.write(f"{time.perf_counter() - begin:.0f} s.\n")


if __name__ == "__main__":
    main()
