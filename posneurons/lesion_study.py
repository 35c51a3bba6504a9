"""A lesion study: each tag's key neurons and their rivals, lesioned on the same words.

What the lesions of one corpus share (statistics, outliers, what neurons are set to, P(tag | token)) is taken from the
training split and computed once, when it is first asked for. This module does not know how key neurons were found, nor
what makes a difference of losses sure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from posneurons import models, outliers
from posneurons.ablations import Edit, parse
from posneurons.activations import BATCH_TOKENS, TokenStatistics, sample_rows, token_statistics
from posneurons.controls import Damage, damage_matched, perturbation_size, planned, remaining
from posneurons.errors import AlignmentError, ModelError, NeuronError
from posneurons.fills import Condition, Fill, make_fills
from posneurons.lesion_results import LesionResult, Losses
from posneurons.lesions import Consumer, WordLosses, word_losses
from posneurons.lexicon import Lexicon, lexicon
from posneurons.loss_table import LossTable
from posneurons.neurons import NeuronSet
from posneurons.records import Corpus
from posneurons.words import Control, Correction, Measure, Scope, SetKind

MEASURES: tuple[Measure, ...] = ("first", "word", "category")
FEW_DOCUMENTS = 20
"""Fewer marked documents than this are too few to be drawn from, and sentences are taken for clusters."""

Beside = Mapping[SetKind, Mapping[str, Sequence[NeuronSet]]]
"""Further sets to lesion, by kind and by the tag that they are held against."""


class Workbench:
    """A model and a corpus, ready for lesions.

    Args:
        model: what `load_model` gives.
        corpus: words with a split to measure on, and for all that is estimated before, the split "train"; without it
            that is estimated on the words measured.
        split: where losses are measured.
        words: how many of its words, in rows drawn at random; None for all.
        seed: of random sets and donors.
        tokens: size of a batch.
        progress: show bars.

    Raises:
        AlignmentError: where the split is missing or has no word to score.
    """

    def __init__(
        self,
        model: Any,
        corpus: Corpus,
        *,
        split: str = "test",
        words: int | None = None,
        seed: int = 0,
        tokens: int = BATCH_TOKENS,
        progress: bool = False,
    ) -> None:
        self.model, self.seed, self.info = model, seed, models.describe(model)
        self.test = sample_rows(corpus.split(split), "predict", words, np.random.default_rng(seed))
        self.train = corpus.split("train") if "train" in corpus.split_names else self.test
        dev = corpus.split("dev") if "dev" in corpus.split_names else self.train
        self.dev = sample_rows(dev, "predict", words, np.random.default_rng(seed))
        self.notes: list[str] = []
        self._how: dict[str, Any] = {"tokens": tokens, "progress": progress}
        self._fills: dict[str, tuple[Fill, ...]] = {}
        if not len(self.test.readable("predict")):
            raise AlignmentError(
                f"{corpus.name}: the split {split!r} has no word to score (all {len(self.test)} are the first of "
                "their row); give longer sentences"
            )

    @cached_property
    def statistics(self) -> TokenStatistics:
        """What every neuron does over the training tokens."""
        return token_statistics(self.model, self.train, **self._how)

    @cached_property
    def flags(self) -> outliers.Flags | None:
        """Outliers; None, with a note, where the model's final norm is not known."""
        try:
            return outliers.flags(self.model, self.train, statistics=self.statistics, **self._how)
        except ModelError as error:
            self.note(f"outliers were not looked for: {error}")
            return None

    @cached_property
    def lexicon(self) -> Lexicon:
        """P(tag | token) of the training words."""
        return lexicon(self.train, self.info.d_vocab)

    def note(self, text: str) -> None:
        """Keep a sentence for the reader of the results."""
        if text not in self.notes:
            self.notes.append(text)

    def fills(self, ablation: str | Edit, neurons: NeuronSet, *, corpus: Corpus | None = None) -> tuple[Fill, ...]:
        """What an ablation sets neurons to; `corpus` is what will be lesioned, the test words by default."""
        edit = parse(ablation)
        if edit.name == "resample":  # of these neurons and those words
            test = self.test if corpus is None else corpus
            return make_fills(self.model, self.train, test, edit, neurons, seed=self.seed, **self._how)
        if str(edit) not in self._fills:
            self._fills[str(edit)] = (
                (Fill(self.statistics.mean),)
                if edit.name == "mean"
                else make_fills(self.model, self.train, self.test, edit, neurons, **self._how)
            )
        return self._fills[str(edit)]

    def matched(
        self, keys: Mapping[str, NeuronSet], ablation: str | Edit, draws: int, control: Control = "size"
    ) -> dict[str, list[NeuronSet]]:
        """Random sets that match each tag's; see `controls.planned`. Key neurons and outliers are not among them."""
        for neurons in keys.values():
            neurons.check(self.info.n_layers, self.info.d_mlp)
        if not draws:
            return {tag: [] for tag in keys}
        return planned(
            keys,
            kind=control,
            draws=draws,
            rng=np.random.default_rng(self.seed),
            n_layers=self.info.n_layers,
            n_units=self.info.d_mlp,
            size=perturbation_size(self.model, self.statistics, ablation) if control == "size" else None,
            flagged=self.flags.neurons() if self.flags else None,
        )

    def losses(
        self,
        conditions: Sequence[Condition],
        measures: Sequence[Measure] = MEASURES,
        *,
        where: Bool[ndarray, " token"] | None = None,
        also: Consumer | None = None,
    ) -> WordLosses:
        """Losses of the test words under each condition."""
        found = word_losses(
            self.model, self.test, conditions, measures=measures,
            lexicon=self.lexicon if "category" in measures else None, where=where, also=also, **self._how,
        )  # fmt: skip
        for note in found.notes:
            self.note(note)
        return found

    def damage(self, ablation: str | Edit, scope: Scope = "all") -> Damage:
        """A function that gives the rise of the mean loss of the dev (else training) words for each set.

        As many words as are lesioned, where that was limited; without a training split, the words lesioned themselves.
        """

        def measure(sets: Sequence[NeuronSet]) -> Float[ndarray, " set"]:
            everyone = NeuronSet.parse([]).union(*sets)
            fills = self.fills(ablation, everyone, corpus=self.dev)
            conditions = [Condition(each, fills, scope) for each in sets]
            return np.asarray(word_losses(self.model, self.dev, conditions, **self._how).rises().mean(1))

        return measure

    def clusters(self, kind: str = "auto") -> tuple[str, Int[ndarray, " word"]]:
        """What is resampled, "document" or "sentence", and its number for each of the test words.

        Raises:
            AlignmentError: for another word.
        """
        if kind not in ("auto", "sentence", "document"):
            raise AlignmentError(f"cluster={kind!r}: expected 'auto', 'sentence' or 'document'")
        documents = len(np.unique(self.test.row_document))
        if kind == "auto":
            many = documents_will_do(self.test)
            if self.test.marked_documents and not many:
                self.note(f"{documents} documents are too few to be resampled; sentences are taken for clusters")
            kind = "document" if many else "sentence"
        return kind, self.test.row_document[self.test.word_row] if kind == "document" else self.test.word_sentence


def documents_will_do(corpus: Corpus) -> bool:
    """Whether enough documents are marked to be resampled; where not, sentences are."""
    return corpus.marked_documents and len(np.unique(corpus.row_document)) >= FEW_DOCUMENTS


def rivals(
    bench: Workbench,
    keys: Mapping[str, NeuronSet],
    kinds: Sequence[str],
    ablation: str | Edit,
    scope: Scope,
    controls: int,
    bottoms: Mapping[str, NeuronSet],
) -> Beside:
    """The rivals of key neurons that were asked for, as far as there are any; what is missing is noted.

    Args:
        bench: the model and the corpus.
        keys: each tag's key neurons.
        kinds: of "unflagged" (the key neurons without outliers, where there are any), "damage" (random sets that do as
            much damage to the dev words, a quarter as many as `controls`), "bottom".
        ablation: what will be done.
        scope: and where.
        controls: matched random sets per tag.
        bottoms: what each tag's ranking has last.
    """
    nobody, found = NeuronSet.parse([]), cast("dict[SetKind, Mapping[str, Sequence[NeuronSet]]]", {})
    if "unflagged" in kinds and bench.flags is not None:
        rest = {tag: bench.flags.without(neurons) for tag, neurons in keys.items()}
        found["unflagged"] = {tag: [each] for tag, each in rest.items() if 0 < len(each) < len(keys[tag])}
    if "bottom" in kinds:
        found["bottom"] = {tag: [each] for tag, each in bottoms.items()}
        if missing := [tag for tag in keys if tag not in bottoms]:
            bench.note(f"no bottom of a ranking over the whole model for {', '.join(missing)}")
    if "damage" in kinds:
        flagged = bench.flags.neurons() if bench.flags else nobody
        matches = damage_matched(
            keys,
            remaining(bench.info.n_layers, bench.info.d_mlp, nobody.union(*keys.values()), flagged),
            bench.damage(ablation, scope),
            draws=max(1, controls // 4),
            rng=np.random.default_rng(bench.seed),
        )
        found["damage"] = matches.sets()
        for note in matches.notes:
            bench.note(f"{ablation}: {note}")
    return found


def lesion(
    model: Any,
    corpus: Corpus,
    keys: Mapping[str, NeuronSet],
    *,
    ablation: str | Edit = "mean",
    scope: Scope = "all",
    controls: int = 20,
    control: Control = "size",
    beside: Beside | None = None,
    measures: Sequence[Measure] = MEASURES,
    where: Bool[ndarray, " token"] | None = None,
    seed: int = 0,
    method: str = "",
    draws: int = 10_000,
    cluster: str = "auto",
    margin: float = 0.05,
    correction: Correction = "bh",
    split: str = "test",
    tokens: int = BATCH_TOKENS,
    progress: bool = False,
    workbench: Workbench | None = None,
    losses: Path | None = None,
) -> LesionResult:
    """Lesion each tag's key neurons and random sets that match them, and measure the loss of every tag.

    Args:
        model: what `load_model` gives.
        corpus: words with a split to measure on, and a split "train" for all that is estimated before.
        keys: tag to key neurons, as `Ranking.top` gives; names that are no tags are allowed.
        ablation: "zero", "mean", "balanced_mean", "resample", "clamp" or "scale", also with options:
            "resample:donor=other,draws=10", "clamp:value=2", "scale:factor=0.5".
        scope: "all" positions after BOS, or "local": only the position that predicts the word whose loss is read.
        controls: matched random sets per tag, without any tag's key neurons and without outliers.
        control: what they share with the key neurons: "size" (layer, and how much ablating moves the residual, in
            tenths of the layer) or "layer".
        beside: further sets to lesion, by kind and tag.
        measures: losses beside that of the first token: "word" (all tokens; for key neurons only), "category"
            (-ln P(tag), the part of the loss that a part-of-speech neuron must move).
        where: per token of the split, whether neurons are ablated there; None for everywhere after BOS.
        seed: of the control sets, donors, the bootstrap and the sign flips.
        method: a name for the tables.
        draws: resamples of the bootstrap, and sign vectors.
        cluster: what is resampled: "document", "sentence", or "auto": documents where at least 20 are marked.
        margin: nats within which an effect counts as none in a classical dissociation.
        correction: of p-values over the whole table, "bh" or "by".
        split: where losses are measured.
        tokens: size of a batch.
        progress: show bars.
        workbench: one made before for this model and corpus, to share what it has computed; its split, seed, tokens
            and progress are taken.
        losses: a parquet file to which the loss of every word ("first", "category") under every lesion is streamed.

    Returns:
        Losses per word and condition, with their tables.

    Raises:
        NeuronError: where `keys` is empty, a neuron lies outside the model, the ablation is unknown, or too few
            neurons are left for matched sets.
        AlignmentError: where a split is missing or the corpus does not fit the model.
    """
    if not keys:
        raise NeuronError("lesion: no key neurons were given; expected a mapping of tags to NeuronSets")
    edit = parse(ablation)
    bench = workbench or Workbench(model, corpus, split=split, seed=seed, tokens=tokens, progress=progress)
    seed = bench.seed
    if strange := [tag for tag in keys if tag not in bench.test.tags]:
        bench.note(f"no tag of the corpus: {', '.join(strange)}; its lesion has no effect of its own and no pair")
    _, unit = bench.clusters(cluster)
    sets: dict[SetKind, Mapping[str, Sequence[NeuronSet]]] = {"key": {tag: [each] for tag, each in keys.items()}}
    sets |= {"matched": bench.matched(keys, edit, controls, control), **(beside or {})}
    plan = [
        (tag, kind, draw, each)
        for tag in keys
        for kind, found in sets.items()
        for draw, each in enumerate(found.get(tag, ()), start=0 if kind == "key" else 1)
    ]
    names, kinds, numbers, everyone = zip(*plan, strict=True)
    fills = bench.fills(edit, NeuronSet.parse([]).union(*everyone))
    seen = tuple(dict.fromkeys(("first", *(each for each in measures if each != "word"))))
    conditions = [Condition(each, fills, scope) for each in everyone]
    labels = [{"lesion": tag, "set": kind, "draw": draw} for tag, kind, draw in zip(names, kinds, numbers, strict=True)]
    intact: dict[str, str | int] = {"lesion": "", "set": "intact", "draw": 0}
    with LossTable(losses, bench.test, labels, intact, seen) if losses else nullcontext() as table:
        found = bench.losses(conditions, seen, where=where, also=table.add if table else None)
    more: dict[Measure, Losses]
    more = {name: Losses(found.intact[i], found.lesioned[i]) for i, name in enumerate(seen) if name != "first"}
    if "word" in measures:  # of key neurons only: it nearly doubles the logits to be made
        real = np.flatnonzero(np.array(kinds) == "key")
        whole = bench.losses([conditions[i] for i in real], ("word",), where=where)
        more["word"] = Losses(whole.intact[0], np.full_like(found.lesioned[0], np.nan))
        more["word"].lesioned[real] = whole.lesioned[0]
    test, words = bench.test, found.words
    forms = [str(form).casefold() for form in test.word_form[words]]
    of_form = {form: number for number, form in enumerate(dict.fromkeys(forms))}
    return LesionResult(
        method=method, ablation=str(edit), scope=scope, tags=test.tags, word_tag=test.word_tag[words],
        word_cluster=np.unique(unit[words], return_inverse=True)[1],
        word_type=np.array([of_form[form] for form in forms]),
        lesion=names, kind=kinds, draw=np.array(numbers), neurons=everyone, loss_intact=found.intact[0],
        losses=found.lesioned[0], draws=draws, seed=seed, margin=margin, correction=correction, more=more,
        notes=tuple(bench.notes),
    )  # fmt: skip
