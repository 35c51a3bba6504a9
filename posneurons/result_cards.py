"""What records of results say of themselves: a line, a few facts and a short table.

Records are found by the name of their class and read by their attributes, so that no record is imported here. Whatever
is shown comes at little cost: no sort of all neurons, no test, no table of all words.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from posneurons.cards import ROWS, Card, joined, many, number, rest


def _scores(record: Any) -> Card:
    rows = [[tag, number(f1)] for tag, f1 in list(record.per_tag_f1.items())[:ROWS]]
    line = f"accuracy {number(record.accuracy)}, macro-F1 {number(record.macro_f1)}"
    return Card(line, (), ["tag", "F1"], rows, rest(len(record.per_tag_f1)))


def _probe(record: Any) -> Card:
    line = f"{record.method} at {record.at}: {many(len(record.neurons), 'neuron')}"
    line += f", accuracy {number(record.scores.accuracy)}"
    facts = [("words", f"{record.train_words:,} for training, {record.test_words:,} for the test"),
             ("classifier", record.probe)]  # fmt: skip
    table = {"probe": record.scores, **record.baselines}
    rows = [[name.replace("_", " "), number(each.accuracy), number(each.macro_f1)] for name, each in table.items()]
    return Card(line, facts, ["", "accuracy", "macro-F1"], rows)


def _lesion_rows(record: Any) -> list[list[str]]:
    matrix = record.matrix()  # means only: the tests behind q are made when a table asks for them
    return [[str(tag), number(matrix.loc[tag, tag] if tag in matrix else None, "+.3f")] for tag in matrix.index[:ROWS]]


def _lesions(record: Any) -> Card:
    keys = [tag for tag, kind in zip(record.lesion, record.kind, strict=True) if kind == "key"]
    line = (
        f"{record.method + ', ' * bool(record.method)}{record.ablation} ablation, scope {record.scope}: "
        f"{many(len(keys), 'key set')}, "
        f"{many(len(record.lesion) - len(keys), 'control set')}, {many(len(record.loss_intact), 'word')}"
    )
    if strange := [name for name in keys if name not in record.tags]:
        line += f"; no tag of the corpus: {joined(strange)}"
    facts = [("sets", joined(keys)), ("margin", f"{number(record.margin, 'g')} nats")]
    note = "; ".join(filter(None, [rest(len(keys)), *record.notes]))
    return Card(line, facts, ["lesion", "own rise (nats per word)"], partial(_lesion_rows, record), note)


def _verification_rows(record: Any) -> list[list[str]]:
    frame = record.to_frame()
    if not len(frame):
        return []
    found = frame[frame["exact"] == "effect"].groupby("estimate", sort=False)[["spearman", "recall"]].median()
    return [[str(name), number(row["spearman"]), number(row["recall"])] for name, row in found.iterrows()]


def _verification(record: Any) -> Card:
    line = (
        f"{record.ablation} ablation, scope {record.scope}: {many(len(record.neurons), 'neuron')} measured alone, "
        f"{many(len(record.estimates), 'estimate')}, {many(len(record.tags), 'tag')}"
    )
    facts = [("estimates", joined(record.estimates)), ("random neurons", f"{int(record.random.sum()):,}"),
             ("listed by nobody", f"{record.unlisted:,}")]  # fmt: skip
    head = ["estimate", "Spearman (median)", f"of the exact top {record.top} listed"]
    return Card(line, facts, head, partial(_verification_rows, record))


def _reliability(record: Any) -> Card:
    line = f"{record.method} at {record.at}: {many(len(record.tags), 'tag')}"
    line += f", {many(record.draws, 'draw')} of {record.split!r}"
    pairs = zip(record.tags, record.words.tolist(), record.correlation, record.overlap, record.chance, strict=True)
    rows = [[tag, f"{n:,}", number(r), number(shared), number(by)] for tag, n, r, shared, by in list(pairs)[:ROWS]]
    head = ["tag", "words", "correlation of halves", "best k shared", "by chance"]
    return Card(line, (), head, rows, rest(len(record.tags)))


def _method_score(record: Any) -> Card:
    line = f"{record.method} on {record.planted}: AUROC {number(record.auroc.mean())}, "
    line += f"precision {number(record.precision.mean())}"
    pairs = zip(record.tags, record.auroc, record.precision, record.recall, strict=True)
    rows = [[tag, *(number(value) for value in values)] for tag, *values in list(pairs)[:ROWS]]
    facts = [(f"decoys: {kind}", number(values.mean())) for kind, values in record.decoy_auroc.items()]
    facts += [("cost", f"{number(record.seconds, '.2f')} s, {number(record.passes, '.1f')} forward passes")]
    return Card(line, facts, ["tag", "AUROC", "precision", "recall"], rows, rest(len(record.tags)))


def _composition(record: Any) -> Card:
    line = f"{record.ablation} ablation, scope {record.scope}: {many(len(record.lesion), 'set')}"
    line += f", {many(len(record.word_tag), 'word')}"
    rows = []
    for number_, name in enumerate(record.lesion[:ROWS]):
        means = [values[number_].mean() if values.size else None
                 for values in (record.joint, record.singles, record.direct)]  # fmt: skip
        rows.append([str(name), str(len(record.neurons[number_])), *(number(value, "+.4f") for value in means)])
    head = ["set", "neurons", "together", "one by one, added", "directly"]
    return Card(line, (), head, rows, rest(len(record.lesion)) or "nats per word, over all words")


def _iterations(record: Any) -> Card:
    tags = list(dict.fromkeys(each.lesion for each in record.rounds))
    line = (
        f"{record.method}, {record.ablation} ablation: {many(len(tags), 'tag')}, rounds of {many(record.k, 'neuron')}"
    )
    rows = [
        [each.lesion, str(each.number), number(each.rise[record.tags.index(each.lesion)], "+.3f"),
         number(each.controls[:, record.tags.index(each.lesion)].mean() if len(each.controls) else None, "+.3f")]
        for each in record.rounds[:ROWS]
    ]  # fmt: skip
    return Card(line, (), ["tag", "round", "own rise (nats)", "random sets"], rows, rest(len(record.rounds)))


def _round(record: Any) -> Card:
    line = f"{record.lesion}, round {record.number}: {many(len(record.new), 'neuron')}"
    return Card(f"{line}, {many(len(record.controls), 'control')}", [("new", joined(record.new.names))])


def _dissimilarity(record: Any) -> Card:
    names, values = list(record.tags), record.values.tolist()
    pairs = [(values[i][j], names[i], names[j]) for i in range(len(names)) for j in range(i)]
    known = sorted(pair for pair in pairs if pair[0] == pair[0])
    rows = [[f"{a}, {b}", number(value)] for value, b, a in known[:5]]
    return Card(
        f"{record.what}: {many(len(names), 'tag')}", [("tags", joined(names, 20))], ["most alike", "1 − r"], rows
    )


def _tree(record: Any) -> Card:
    rows = [[str(row["left"]), str(row["right"]), number(row["height"])] for row in record.merges.to_dict("records")]
    line = f"{record.what}: {many(len(record.leaves), 'tag')}, cophenetic correlation {number(record.fit, '.2f')}"
    return Card(line, [("leaves", joined(record.leaves, 20))], ["group", "meets", "at"], rows[:ROWS], rest(len(rows)))


def _tag_shift(record: Any) -> Card:
    controls, moved = len(record.texts) - 2, record.differences[1]
    line = f"{many(len(record.tags), 'tag')} by {record.tagger}, {many(int(record.words[1].sum()), 'word')}"
    line += f", {many(controls, 'random set')}"
    order = sorted(range(len(record.tags)), key=lambda tag: -abs(moved[tag]) if moved[tag] == moved[tag] else 0.0)
    shares = record.shares
    rows = [
        [record.tags[tag], number(100 * shares[0, tag], ".1f"), number(100 * shares[1, tag], ".1f"),
         number(100 * moved[tag], "+.1f"), f"{record.as_far[tag]} of {controls}"]
        for tag in order[:ROWS]
    ]  # fmt: skip
    head = ["tag", "intact (%)", "changed (%)", "shift (points)", "random sets as far"]
    losses = f"intact {number(record.losses[0], '.2f')}, changed {number(record.losses[1], '.2f')}"
    return Card(line, [("nats per token in the intact model", losses)], head, rows, rest(len(record.tags)))


def _steered(record: Any) -> Card:
    n = sum(len(each) for each in record.continuations)
    change = record.change
    done = "intact" if change is None else f"{change.kind} of {many(len(change.neurons), 'neuron')}"
    rows = [[prompt, texts[0] if texts else "–"]
            for prompt, texts in list(zip(record.prompts, record.continuations, strict=True))[:ROWS]]  # fmt: skip
    return Card(
        f"{done}: {many(len(record.prompts), 'prompt')}, {many(n, 'text')}", (), ["prompt", "first continuation"], rows
    )


def _word_losses(record: Any) -> Card:
    n_conditions = record.lesioned.shape[1]
    line = f"{many(len(record.words), 'word')}, {many(n_conditions, 'condition')}; {joined(record.measures)}"
    facts = [("intact, " + name, f"{number(values.mean() if values.size else None)} nats per word")
             for name, values in zip(record.measures, record.intact, strict=True)]  # fmt: skip
    means = [number(row.mean() if row.size else None, "+.4f") for row in record.lesioned[0][:ROWS] - record.intact[0]]
    rows = [[str(place), mean] for place, mean in enumerate(means)]
    note = "; ".join(record.notes) or rest(n_conditions)
    return Card(line, facts, ["condition", f"rise ({record.measures[0]}, nats per word)"], rows, note)


def _damage(record: Any) -> Card:
    tags = list(dict.fromkeys(each.tag for each in record.matches))
    rows = [[each.tag, str(each.draw), str(len(each.neurons)), number(each.wanted, ".4g"), number(each.reached, ".4g")]
            for each in record.matches[:ROWS]]  # fmt: skip
    head = ["tag", "draw", "neurons", "wanted (nats)", "reached (nats)"]
    note = "; ".join(filter(None, [rest(len(record.matches)), *record.notes]))
    return Card(
        f"{many(len(record.matches), 'set')} for {many(len(tags), 'tag')}, {many(len(record.notes), 'note')}",
        (),
        head,
        rows,
        note,
    )


def _summary(record: Any) -> Card:
    line = (
        f"{many(record.pairs, 'pair')} of tags: {record.classical} classical, {record.strong} strong, "
        f"{record.one_way} one-way, {record.none} none"
    )
    own = f"{number(record.difference, '+.3f')} nats per word, p {number(record.p_value, '.2g')}"
    return Card(line, [("own less other tags", own)])


CARDS: dict[str, Callable[[Any], Card]] = {
    "Composition": _composition,
    "DamageControls": _damage,
    "Dissimilarity": _dissimilarity,
    "Iterations": _iterations,
    "LesionResult": _lesions,
    "MethodScore": _method_score,
    "ProbeResult": _probe,
    "Reliability": _reliability,
    "Round": _round,
    "Scores": _scores,
    "Steered": _steered,
    "Summary": _summary,
    "TagShift": _tag_shift,
    "Tree": _tree,
    "Verification": _verification,
    "WordLosses": _word_losses,
}
"""By the names of the classes."""
