"""One small record of every kind, made by hand, for tests of figures and of how records show themselves."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from posneurons.activations import TokenStatistics
from posneurons.agreement import Verification
from posneurons.composition import Composition
from posneurons.controls import DamageControls, DamageMatch
from posneurons.fills import Fill
from posneurons.fluency import Fluency
from posneurons.generation import Change, Sampling
from posneurons.iteration import Iterations, Round
from posneurons.lesion_results import LesionResult, Losses
from posneurons.lesions import WordLosses
from posneurons.markov import markov_source
from posneurons.models import ModelInfo
from posneurons.neurons import NeuronSet
from posneurons.outliers import Flags, Thresholds
from posneurons.planted import Planted
from posneurons.records import Activations, Corpus, Ranking, Scored, TagHistograms, TagMoments
from posneurons.results import ProbeResult, Scores
from posneurons.scoring import MethodScore
from posneurons.sentences import Sentence, Treebank, Word
from posneurons.similarity import Dissimilarity, Tree, cluster
from posneurons.split_halves import Reliability
from posneurons.steering import Steered, TagShift
from posneurons.subspace import Directions
from posneurons.verdicts import Summary

EVIL = "<script>alert(1)</script>"
TAGS = ("NOUN", "VERB", EVIL)
NAN = float("nan")


def treebank() -> Treebank:
    """Two sentences of two splits: 3 NOUN, 1 VERB, 1 of the hostile tag, whose word is hostile too."""
    words = (Word("dogs", "NOUN", 0, 4), Word("see", "VERB", 5, 8), Word("cats", "NOUN", 9, 13))
    more = (Word("dogs", "NOUN", 0, 4), Word(EVIL, EVIL, 5, 30))
    return Treebank(
        "bank", "upos",
        (Sentence("1", "dogs see cats", words, "a", "train"), Sentence("2", f"dogs {EVIL}", more, "b", "test")),
        "0" * 64, True,
    )  # fmt: skip


def corpus() -> Corpus:
    """Five words in two rows: tags NOUN 3, VERB 1, hostile 1; one VERB of the split "train" left out."""
    return Corpus(
        name="corpus", tagset="upos", tags=TAGS, split_names=("train", "test"), bos=0, tokens=np.arange(1, 6),
        row_bounds=np.array([0, 3, 5]), row_document=np.array([0, 1]), row_split=np.array([0, 1]),
        word_row=np.array([0, 0, 0, 1, 1]), word_first=np.array([1, 2, 3, 1, 2]), word_last=np.array([1, 2, 3, 1, 2]),
        word_tag=np.array([0, 1, 0, 0, 2]), word_form=np.array(["dogs", "see", "cats", "dogs", EVIL], dtype=object),
        word_sentence=np.array([0, 0, 0, 1, 1]), word_frequency=np.array([2, 1, 1, 2, 1]),
        word_parts=np.ones(5, dtype=np.int64), dropped={("train", "VERB", EVIL): 1}, split_sentences=0,
        marked_documents=True,
    )  # fmt: skip


def moments() -> TagMoments:
    """Two layers of two neurons; the hostile tag has no words. L0N0 is 1 at the 2 nouns, -1 at the 2 verbs, sd 0."""
    mean, m2 = np.zeros((3, 2, 2)), np.ones((3, 2, 2))
    mean[:2, 0, 0], m2[:, 0, 0] = (1, -1), 0
    return TagMoments(TAGS, "predict", np.array([2, 2, 0]), mean, m2)


def histograms() -> TagHistograms:
    """L0N0: 10 nouns of which 1 lies below 0, 6 in 0..1, 2 in 1..3 and 1 above; L0N1 has one finite edge."""
    edges = np.array([[[0.0, 1.0, 3.0], [0.0, np.inf, np.inf]]])
    bins = np.zeros((3, 1, 2, 4), dtype=np.int32)
    bins[0, 0, 0], bins[1, 0, 0] = (1, 6, 2, 1), (0, 4, 0, 0)
    bins[0, 0, 1, 0] = bins[0, 0, 0].sum()
    return TagHistograms(TAGS, "predict", np.array([10, 4, 0]), edges, bins)


def ranking() -> Ranking:
    """Three layers of two neurons; for NOUN L2N1 and L0N0 are best, by size; the hostile tag has no scores."""
    scores = np.full((3, 3, 2), NAN)
    scores[0] = [[-0.8, 0.1], [0.2, 0.3], [0.0, 0.9]]
    scores[1] = [[0.5, 0.4], [0.3, NAN], [0.2, 0.1]]
    return Ranking("correlation", "predict", TAGS, scores, np.array([7, 3, 0]), notes={"error": 0.01})


def neurons() -> NeuronSet:
    return NeuronSet.parse(["L0N1", "L2N0", "L2N3"])


def activations() -> Activations:
    values = np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 0.0], [1.0, 5.0, 2.0]], dtype=np.float32)
    return Activations(neurons(), "last", np.array([0, 1, 2]), values)


def probe() -> ProbeResult:
    made = Scores(0.5, 0.4, dict(zip(TAGS, (0.7, 0.5, 0.0), strict=True)), np.array([[2, 1, 0], [0, 1, 0], [1, 0, 0]]))
    return ProbeResult("correlation", "predict", neurons(), TAGS, 10, 5, made, {"majority": made, "control_task": made})


def lesions() -> LesionResult:
    """Each tag's lesion costs its own words 1 nat each and the others' nothing; its two controls cost 0 and 0.1."""
    tag = np.repeat([0, 1, 2], 4)
    rises, kind, lesion, draw = [], [], [], []
    for number, name in enumerate(TAGS):
        own = (tag == number).astype(np.float64)
        rises += [own + 0.01 * np.arange(12), 0 * own, 0.1 * own]
        kind, lesion, draw = [*kind, "key", "matched", "matched"], [*lesion, *[name] * 3], [*draw, 0, 1, 2]
    intact, losses = np.full(12, 2.0), 2.0 + np.array(rises)
    return LesionResult(
        method="by hand", ablation="mean", scope="all", tags=TAGS, word_tag=tag, word_cluster=np.arange(12),
        word_type=np.arange(12), lesion=tuple(lesion), kind=tuple(kind), draw=np.array(draw),
        neurons=(neurons(),) * 9, loss_intact=intact, losses=losses, draws=50, seed=0,
        more={"category": Losses(intact, losses)},
    )  # fmt: skip


def verification() -> Verification:
    effects = np.array([[0.3, 0.2, 0.1, 0.0], [0.0, 0.1, 0.2, 0.3]])
    listed = np.array([[True, True, False, False], [False, False, True, True]])
    return Verification(
        tags=TAGS[:2], count=np.array([5, 4]), ablation="zero", scope="local", top=1, listed=2,
        neurons=NeuronSet.parse(["L0N0", "L0N1", "L1N0", "L1N1"]), random=np.array([False, False, False, True]),
        unlisted=9, effects=effects, contrasts=effects - 0.05,
        estimates={"attribution": effects * 2, EVIL: np.full((2, 4), NAN)}, lists={"attribution": listed, EVIL: listed},
        in_nats=("attribution",), counts={"attribution": np.array([5, 4]), EVIL: np.array([5, 4])},
    )  # fmt: skip


def reliability() -> Reliability:
    numbers, none = np.array([9, 5, 0]), np.array([0.5, 0.4, NAN])
    return Reliability(
        "correlation", "predict", "train", 1, 0, TAGS, numbers, numbers, none, none + 0.1, numbers, none - 0.1,
        none / 10, none, none, numbers,
    )  # fmt: skip


def composition() -> Composition:
    tag = np.repeat([0, 1, 2], 4)
    joint = np.array([1.0, 0.5])[:, None] * (tag == np.array([[0], [1]]))
    return Composition(
        "mean", "local", TAGS, tag, np.arange(12), TAGS[:2], (neurons(), neurons()), joint, joint / 2,
        joint * 1.5, np.full(joint.shape, NAN), 50, 0,
    )  # fmt: skip


def iterations() -> Iterations:
    rise = np.array([0.2, 0.0, 0.1])
    controls = np.array([[0.01, 0.0, 0.0], [0.03, 0.0, 0.0], [0.02, 0.0, 0.0]])
    rounds = tuple(
        Round("NOUN", n, neurons(), 1.0, 2.0, rise * n, rise * n - 0.05, rise * n + 0.05, controls) for n in (1, 2)
    )
    return Iterations("correlation", "mean", 3, TAGS, np.array([5, 4, 3]), rounds)


def dissimilarity() -> Dissimilarity:
    """NOUN and the hostile tag are alike, VERB is not."""
    values = np.array([[0.0, 1.2, 0.2], [1.2, 0.0, 1.0], [0.2, 1.0, 0.0]])
    return Dissimilarity("by hand", TAGS, values)


def tree() -> Tree:
    return cluster(dissimilarity())


def flags() -> Flags:
    shape = (2, 3)
    massive, nothing = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    massive[1, 2] = True
    values = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 80.0]])
    small = np.full(shape, 0.1)
    return Flags(massive, nothing, nothing, values, small, small, values, values, Thresholds())


def tag_shift() -> TagShift:
    """The set moves NOUN from 5 of 10 to 8 of 10 words; the one random set to 4."""
    sampling = Sampling(2, 1)
    texts = tuple(
        Steered(("The",), ((EVIL,),), (((1, 2),),), change, sampling)
        for change in (None, Change(neurons(), "scale", (2.0,)), Change(neurons(), "scale", (2.0,)))
    )
    words = np.array([[5, 5, 0], [8, 2, 0], [4, 6, 0]])
    return TagShift("simple", TAGS, texts, words, np.array([3.0, 4.0, 3.5]))


def damage() -> DamageControls:
    return DamageControls((DamageMatch(EVIL, 1, neurons(), 0.2, 0.25),), (f"{EVIL}: 1 of 2 draws left out",))


def word_losses() -> WordLosses:
    intact = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    return WordLosses(np.arange(3), ("first",), intact, intact[:, None] + np.array([[[0.0], [1.0]]], dtype=np.float32))


def planted() -> Planted:
    effect = np.array([[0.5, 0.0, NAN], [0.1, 0.4, NAN]])
    return Planted(
        "by hand", None, corpus(), "predict", {"NOUN": neurons(), "VERB": neurons()}, effect, {"loud": neurons()}
    )


def overlap_rows() -> pd.DataFrame:
    """NOUN and VERB share 3 of 4 each, beyond chance; NOUN and the hostile tag nothing."""
    return pd.DataFrame(
        {
            "tag_a": ["NOUN", "NOUN", "VERB"], "tag_b": ["VERB", EVIL, EVIL], "size_a": 4, "size_b": 4,
            "shared": [3, 0, 1], "jaccard": [0.6, 0.0, 1 / 7], "overlap_coefficient": [0.75, 0.0, 0.25],
            "expected": [0.5, 0.5, 0.5], "p_value": [0.001, 1.0, 0.4], "q_value": [0.003, 1.0, 0.6],
        }
    )  # fmt: skip


def records() -> dict[str, Any]:
    """One record of every kind that shows itself, by the name of its class."""
    half = np.array([0.9, 0.8])
    every: list[Any] = [
        treebank(), treebank().sentences[1], corpus(), moments(), histograms(), ranking(), neurons(), activations(),
        Scored(ranking().scores, np.array([7, 3, 0])), probe(), probe().scores, lesions(), verification(),
        reliability(), composition(), iterations(), iterations().rounds[0], dissimilarity(), tree(), flags(),
        Directions(TAGS, np.eye(3, 4)), tag_shift(), tag_shift().texts[1], damage(), word_losses(), planted(),
        Fluency(10, 40, 1.2, 2.3), MethodScore("attribution", "by hand", TAGS[:2], half, half, half,
        {"all": half - 0.4, "loud": half - 0.5}, 1.0, 2.0), markov_source(seed=0),
        Fill(), TokenStatistics(9, *[torch.zeros(2, 3)] * 4), Summary(0.25, 0.002, 6, 1, 2, 2, 1),
        ModelInfo("<b>m</b>", None, None, "float32", "hooked", "cpu", "Llama", 6, 256, 768, 256, 4096, 5_800_000),
    ]  # fmt: skip
    return {type(record).__name__: record for record in every}


def figures() -> dict[str, Any]:
    """Every figure that records give, drawn from the examples, by a name."""
    made = records()
    plain = {name: each for name, each in made.items() if hasattr(each, "figure") and name != "TagHistograms"}
    found = {name: each.figure() for name, each in plain.items()}
    found |= {
        "TagHistograms": made["TagHistograms"].figure("L0N0"),
        "TagMoments L0N0": made["TagMoments"].figure("L0N0"),
        "Ranking NOUN": made["Ranking"].figure("NOUN"),
        "Activations by tag": made["Activations"].figure(made["Corpus"]),
        "Verification NOUN": made["Verification"].figure("NOUN"),
        "Composition NOUN": made["Composition"].figure("NOUN"),
    }
    found |= {f"ProbeResult {kind}": made["ProbeResult"].figure(kind) for kind in ("tags", "confusion")}
    found |= {f"LesionResult {kind}": made["LesionResult"].figure(kind) for kind in ("own", "dissociations")}
    return found
