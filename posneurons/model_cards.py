"""What records of words and neurons say of themselves: a line, a few facts and a short table.

Records are found by the name of their class and read by their attributes, so that no record is imported here. Whatever
is shown comes at little cost: no sort of all neurons, no test, no table of all words.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from posneurons.cards import ROWS, Card, by_tag, facts_of, joined, many, number, rest, size_of, words_of


def _sentence(record: Any) -> Card:
    text = record.text if len(record.text) <= 60 else record.text[:59] + "…"
    rows = [[word.form, word.tag] for word in record.words[:ROWS]]
    facts = [("id", record.id), ("document", record.document), ("split", record.split)]
    return Card(f"{record.id}: {many(len(record.words), 'word')}, {text!r}", facts, ["word", "tag"], rows,
                rest(len(record.words)))  # fmt: skip


def _treebank(record: Any) -> Card:
    size, counts = record.size(), record.tag_counts()
    line = f"{record.name}: {size['sentences']:,} sentences, {size['words']:,} words, {many(len(counts), 'tag')}"
    splits: dict[str, int] = {}
    for sentence in record.sentences:
        splits[sentence.split] = splits.get(sentence.split, 0) + 1
    facts = [
        ("tagset", str(record.tagset)),
        ("sentences", ", ".join(f"{split} {n:,}" for split, n in splits.items())),
        ("documents", "marked" if record.marked_documents else "not marked: each sentence stands for one"),
        ("sha256", f"{record.sha256[:12]}…"),
    ]
    return Card(line, facts, ["tag", "words"], by_tag(counts), rest(len(counts)))


def _corpus(record: Any) -> Card:
    out = sum(record.dropped.values())
    line = f"{record.name}: {many(record.n_rows, 'row')}, {many(len(record), 'word')}, {many(len(record.tags), 'tag')}"
    reasons: dict[str, int] = {}
    for (_, _, reason), n in record.dropped.items():
        reasons[reason] = reasons.get(reason, 0) + n
    facts = [("tagset", str(record.tagset)), ("splits", joined(record.split_names)), ("context", record.context)]
    facts += [(f"left out: {reason}", f"{n:,}") for reason, n in sorted(reasons.items(), key=lambda pair: -pair[1])]
    counts = record.tag_counts()
    return Card(f"{line}; {out:,} left out", facts, ["tag", "words"], by_tag(counts), rest(len(counts)))


def _moments(record: Any) -> Card:
    return Card(f"at {record.at}: {size_of(record.mean.shape)}, {many(int(record.count.sum()), 'word')}",
                head=["tag", "words"], rows=words_of(record), note=rest(len(record.tags)))  # fmt: skip


def _histograms(record: Any) -> Card:
    line = f"at {record.at}: {size_of(record.bins.shape)}, {many(record.bins.shape[3], 'bin')}"
    line += f", {many(int(record.count.sum()), 'word')}"
    return Card(line, head=["tag", "words"], rows=words_of(record), note=rest(len(record.tags)))


def _scored(record: Any) -> Card:
    return Card(f"{size_of(record.scores.shape)}, {many(int(record.count.sum()), 'word')}", facts_of(record.notes))


def _ranking_rows(record: Any) -> list[list[str]]:
    n_units, rows = record.scores.shape[2], []
    for tag, n in list(zip(record.tags, record.count.tolist(), strict=True))[:ROWS]:
        best = record.first(tag, 5).tolist()
        scores = record.scores[record.tags.index(tag)].ravel()
        names = [f"L{flat // n_units}N{flat % n_units} ({number(scores[flat], '.3g')})" for flat in best]
        rows.append([tag, f"{n:,}", ", ".join(names) or "–"])
    return rows


def _ranking(record: Any) -> Card:
    order = "by the score" if record.signed else f"by the distance of the score from {number(record.neutral, 'g')}"
    facts = [("ordered", order), *facts_of(record.notes)]
    line = f"{record.method} at {record.at}: {size_of(record.scores.shape)}"
    return Card(
        line, facts, ["tag", "words", "best neurons (score)"], partial(_ranking_rows, record), rest(len(record.tags))
    )


def _activations(record: Any) -> Card:
    line = f"at {record.at}: {many(record.values.shape[0], 'word')} × {many(record.values.shape[1], 'neuron')}"
    return Card(line, [("neurons", joined(record.neurons.names))])


def _neurons(record: Any) -> Card:
    layers, head = record.by_layer(), ["layer", "neurons", "names"]
    rows = [
        [str(layer), str(len(units)), joined(f"L{layer}N{unit}" for unit in units)]
        for layer, units in list(layers.items())[:ROWS]
    ]
    line = f"{many(len(record), 'neuron')} in {many(len(layers), 'layer')}"
    return Card(line, (), head, rows, rest(len(layers)))


def _planted(record: Any) -> Card:
    decoys, n = (sum(len(each) for each in found.values()) for found in (record.decoys, record.truth))
    line = f"{record.name}: {many(len(record.truth), 'tag')}, {many(n, 'neuron')}, {many(decoys, 'decoy')}"
    rows = [[tag, str(len(each)), joined(each.names)] for tag, each in list(record.truth.items())[:ROWS]]
    facts = [(f"decoys: {kind}", str(len(each))) for kind, each in record.decoys.items()]
    return Card(line, facts, ["tag", "neurons", "names"], rows, rest(len(record.truth)))


def _source(record: Any) -> Card:
    return Card(
        f"{many(len(record.tags), 'tag')}, {many(len(record.zipf), 'word')} each", [("tags", joined(record.tags, 20))]
    )


def _fill(record: Any) -> Card:
    if record.donors is not None:
        return Card("the values of donor words")
    if record.offset is None:
        return Card(f"{number(record.scale, 'g')} times the value" if record.scale else "0")
    n_layers, n_units = record.offset.shape
    own = f"{number(record.scale, 'g')} times the value + " if record.scale else ""
    return Card(f"{own}constants of {many(n_layers, 'layer')} × {many(n_units, 'neuron')}")


def _token_statistics(record: Any) -> Card:
    n_layers, n_units = record.mean.shape
    return Card(f"{many(record.count, 'token')}, {many(n_layers, 'layer')} × {many(n_units, 'neuron')}")


def _directions(record: Any) -> Card:
    line = f"{many(len(record.tags), 'tag')} × {many(record.vectors.shape[1], 'dimension')} of the residual stream"
    return Card(line, [("tags", joined(record.tags, 20))])


def _flags(record: Any) -> Card:
    kinds = ("massive", "frequency", "entropy")
    counts = {kind: int(getattr(record, kind).sum()) for kind in kinds}
    line = ", ".join(f"{n:,} {kind}" for kind, n in counts.items())
    rows = [[kind, f"{n:,}", joined(record.neurons(kind).names)] for kind, n in counts.items()]
    shape = record.massive.shape
    return Card(
        f"{line}, of {many(shape[0], 'layer')} × {many(shape[1], 'neuron')}", (), ["kind", "flagged", "neurons"], rows
    )


def _fluency(record: Any) -> Card:
    line = f"{number(record.model)} nats per character, token frequencies {number(record.unigram)}"
    facts = [("words", f"{record.words:,}"), ("characters", f"{record.characters:,}"),
             ("better than token frequencies", "yes" if record.knows else "no")]  # fmt: skip
    return Card(line, facts)


def _model(record: Any) -> Card:
    size = f"{many(record.n_layers, 'layer')} of {many(record.d_mlp, 'neuron')}, {record.n_parameters:,} parameters"
    line = f"{record.name}: {record.architecture}, {size}, {record.dtype} on {record.device}"
    facts = [("backend", record.backend), ("reads at once", many(record.n_ctx, "token")),
             ("vocabulary", many(record.d_vocab, "token")), ("residual stream", f"{record.d_model:,} wide"),
             ("revision", record.revision or "–"), ("configuration sha256", record.config_sha256 or "–")]  # fmt: skip
    return Card(line, facts)


CARDS: dict[str, Callable[[Any], Card]] = {
    "Activations": _activations,
    "Corpus": _corpus,
    "Directions": _directions,
    "Fill": _fill,
    "Flags": _flags,
    "Fluency": _fluency,
    "MarkovSource": _source,
    "ModelInfo": _model,
    "NeuronSet": _neurons,
    "Planted": _planted,
    "Ranking": _ranking,
    "Scored": _scored,
    "Sentence": _sentence,
    "TagHistograms": _histograms,
    "TagMoments": _moments,
    "TokenStatistics": _token_statistics,
    "Treebank": _treebank,
}
"""By the names of the classes."""
