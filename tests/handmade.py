"""A run directory by hand: numbers that a test can tell a reader's sentence from."""

import json
from itertools import permutations

import numpy as np
import pandas as pd

EVIL = "<script>alert(1)</script>"
TAGS = ("NOUN", "VERB", "X")
OWN = {"NOUN": 0.5, "VERB": 0.25, "X": 0.02}
"""Rise of each tag's own loss; the controls of the builder rise by 0.01, 0.02, ... 0.04, so X is not above its own."""


LESION_COLUMNS = [
    "method", "lesion", "ablation", "scope", "set", "draw", "tag", "words", "loss_intact", "loss_lesioned", "delta",
    "percent", "delta_category", "ci_low", "ci_high", "p_items", "p_controls", "p_others", "p_value", "q_value",
    "z_control",
]  # fmt: skip
PAIR_COLUMNS = [
    "method", "ablation", "scope", "measure", "tag_a", "tag_b", "contrast_a", "contrast_b", "cross_a", "cross_b",
    "p_sets", "p_a", "p_b", "p_value", "q_value", "equivalence_p", "margin", "verdict",
]  # fmt: skip


def lesion_rows(tags, own, controls, noise, method, ablation):
    rng = np.random.default_rng(0)
    for lesion in tags:
        for draw in range(controls + 1):
            for tag in tags:
                delta = 0.01 * draw if draw else own[tag] if tag == lesion else 0.1
                delta += noise * rng.normal()
                q = 0.002 if tag != "X" else 0.2
                tests = (np.nan,) * 8 if draw else (delta - 0.01, delta + 0.01, 0.001, 0.001, 0.001, 0.001, q, 5.0)
                numbers = (1200, 4.0, 4.0 + delta, delta, 25 * delta, delta / (2 if tag == "NOUN" else 4))
                yield (method, lesion, ablation, "all", "matched" if draw else "key", draw, tag, *numbers, *tests)


def pair_rows(tags, own, method, ablation):
    """The first pair dissociates; classically under mean ablation, strongly under zero, and so of the category part."""
    kinds = {"mean": "classical", "zero": "strong"}
    for measure in ("first", "category"):
        for a, b in permutations(tags, 2):
            verdict = kinds[ablation] if {a, b} == set(tags[:2]) else "one-way" if measure == "first" else "none"
            numbers = (own[a] - 0.1, own[b] - 0.1, 0.03, 0.04, 0.01, 0.01, 0.01, 0.01, 0.02, 0.03, 0.05)
            yield (method, ablation, "all", measure, a, b, *numbers, verdict)


def probe_result(tags, method, at):
    confusion = (np.eye(len(tags), dtype=int) * 90 + 5).tolist()
    scores = {"accuracy": 0.875, "macro_f1": 0.8, "per_tag_f1": dict.fromkeys(tags, 0.75), "confusion": confusion}
    weaker = {**scores, "accuracy": 0.625, "macro_f1": 0.5, "per_tag_f1": dict.fromkeys(tags, 0.5)}
    names = ("majority", "most_frequent_tag", "random_neurons", "control_task")
    sizes = {"n_neurons": 30, "train_words": 5000, "test_words": 3600}
    baselines = dict.fromkeys(names, weaker)
    return {"method": method, "at": at, "classes": tags, **sizes, **scores, "selectivity": 0.25, "baselines": baselines}


def build_run(folder, *, tags=TAGS, own=OWN, controls=4, methods=("correlation",), noise=0.0, at=("last",), **manifest):
    """A run directory by hand: `controls` draws of 0.01 × draw, 0.1 off the diagonal, `noise` added to every cell."""
    folder.mkdir(parents=True, exist_ok=True)
    ranking, lesions, pairs = [], [], []
    for method in methods:
        for place, tag in enumerate(tags):
            ranking += [(method, "last", tag, n % 6, n + 7 * place, 1 - n / 20, n + 1) for n in range(12)]
        for ablation in ("mean", "zero"):
            lesions += lesion_rows(tags, own, controls, noise, method, ablation)
            pairs += pair_rows(tags, own, method, ablation)
    results = [probe_result(list(tags), method, position) for method in methods for position in at]
    pd.DataFrame(lesions, columns=LESION_COLUMNS).to_parquet(folder / "lesions.parquet")
    pd.DataFrame(pairs, columns=PAIR_COLUMNS).to_parquet(folder / "dissociations.parquet")
    columns = "method at tag layer neuron score rank"
    pd.DataFrame(ranking, columns=columns.split()).to_parquet(folder / "ranking.parquet")
    keys = {m: {tag: [f"L{n % 6}N{n}" for n in range(10)] for tag in tags} for m in methods}
    (folder / "neurons.json").write_text(json.dumps(keys))
    (folder / "probe.json").write_text(json.dumps({"results": results}))
    content = {
        "posneurons": "0.1.0",
        "command": "posneurons run --out runs/demo",
        "created": "2026-11-21T00:00:00+00:00",
        "config": {
            "model": "demo", "treebank": "demo", "methods": list(methods), "at": "last", "top": 10, "per": "model",
            "signed": False, "ablations": ["mean", "zero"], "controls": controls, "seed": 0,
        },
        "model": {
            "name": "posneurons/demo", "revision": None, "dtype": "float32", "backend": "hooked", "device": "cpu",
            "architecture": "LlamaForCausalLM", "n_layers": 6, "d_model": 256, "d_mlp": 768, "n_parameters": 5800000,
        },
        "treebank": {
            "name": "demo", "tagset": "upos", "sha256": "ab" * 32,
            "splits": {"train": {"sentences": 400, "words": 5000}, "test": {"sentences": 300, "words": 3600}},
        },
        "versions": {"torch": "2.13.0"},
        "git": None,
        "platform": "Linux",
        "stages": {stage: {"state": "done", "seconds": 12.3} for stage in ("rank", "probe", "lesion")},
        "dropped": [
            {"split": "train", "tag": tags[0], "reason": "cut by a token", "words": 1200},
            {"split": "test", "tag": tags[0], "reason": "cut by a token", "words": 34},
            {"split": "test", "tag": tags[1], "reason": "shares its surface", "words": 5},
        ],
        "warnings": ["fewer than 20 training words: SYM (3)"],
        **manifest,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder
