"""A whole run directory of any shape, made without a model: for tests of the page, in Python and in a browser.

Numbers look like those of a run (own lesions hurt most, related tags a little, controls hardly), and mean nothing. The
tables hold the columns that the page reads. `write_run(folder)` is a small run; `write_run(folder, **FULL)` is one of
the size of Llama-3-8B; `write_run(folder, tags=HOSTILE, ...)` has names that would run as scripts if let.
"""

import json
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from posneurons import carriers, neuron_pages

UPOS = (
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ",
    "SYM", "VERB", "X",
)  # fmt: skip
SCRIPT = "<script>window.hacked=1</script>"
IMAGE = "<img src=x onerror=window.hacked=1>"
HOSTILE = (SCRIPT, IMAGE, '"onmouseover="window.hacked=1', "</script><b>", "R&D")
FULL: dict[str, Any] = {
    "tags": UPOS, "n_layers": 32, "n_units": 14336, "controls": 20, "top": 100, "kept": 1000, "n_pages": 100,
}  # fmt: skip
METHODS = ("correlation", "attribution(scope=local, contrast)")
STAGES = ("rank", "probe", "lesion", "verify", "sweep", "pages", "report")


def write_run(
    folder: Path,
    *,
    tags: tuple[str, ...] = UPOS[:5],
    methods: tuple[str, ...] = METHODS,
    ablations: tuple[str, ...] = ("mean", "zero"),
    positions: tuple[str, ...] = ("predict", "last"),
    stages: tuple[str, ...] = STAGES,
    n_layers: int = 6,
    n_units: int = 96,
    controls: int = 5,
    top: int = 12,
    kept: int = 40,
    n_pages: int = 6,
    seed: int = 0,
    word: str = "word",
    **manifest: Any,
) -> Path:
    """Write the files of the given stages and a manifest that calls them done; `manifest` replaces its fields."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    config = {
        "model": "synthetic", "treebank": "synthetic", "tag": "upos", "methods": list(methods), "at": positions[0],
        "probe_at": list(positions), "top": top, "per": "model", "signed": None, "min_words": 20,
        "ablations": list(ablations), "controls": controls, "control": "size", "scope": "all", "margin": 0.05,
        "correction": "bh", "pages": min(n_pages, 3), "neurons": None, "draws": 10000, "seed": seed,
    }  # fmt: skip
    ranking = ranking_rows(rng, tags, methods, positions, n_layers, n_units, kept)
    keys = key_neurons(ranking, positions[0], top)
    if "rank" in stages:
        ranking.to_parquet(folder / "ranking.parquet", index=False)
        save(folder / "neurons.json", keys)
        overlap_rows(rng, tags, methods, top).to_parquet(folder / "overlap.parquet", index=False)
    if "probe" in stages:
        results = [probe_result(rng, tags, method, at) for at in positions for method in methods]
        save(folder / "probe.json", {"results": results})
    if "lesion" in stages:
        lesion_rows(rng, tags, methods, ablations, controls).to_parquet(folder / "lesions.parquet", index=False)
        pair_rows(rng, tags, methods, ablations).to_parquet(folder / "dissociations.parquet", index=False)
    if {"rank", "lesion"} & set(stages):
        similarity_rows(rng, tags, methods, ablations).to_parquet(folder / "similarity.parquet", index=False)
    if "verify" in stages:
        save(folder / "verify.json", verify_content(rng, tags, methods))
    if "sweep" in stages:
        sweep = sweep_rows(rng, tags, methods[:1], ablations[:1], n_layers, controls)
        sweep.to_parquet(folder / "sweep.parquet", index=False)
        carriers.carriers(sweep).to_parquet(folder / "carriers.parquet", index=False)
    if "pages" in stages:
        write_pages(folder / "neuron_pages.json", rng, ranking, config, (n_layers, n_units, n_pages), word)
    save(folder / "manifest.json", manifest_of(config, tags, stages, n_layers, n_units) | manifest)
    return folder


def save(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def manifest_of(config: dict[str, Any], tags: tuple[str, ...], stages: Any, n_layers: int, n_units: int) -> Any:
    reasons = ("cut by a token", "shares its surface")
    return {
        "command": "posneurons run --out runs/synthetic",
        "config": config,
        "created": "2026-11-21T00:00:00+00:00",
        "posneurons": "0.1.0",
        "model": {
            "name": "synthetic", "revision": None, "config_sha256": "cd" * 32, "dtype": "bfloat16",
            "backend": "hooked", "device": "cpu", "architecture": "LlamaForCausalLM", "n_layers": n_layers,
            "d_model": 64, "d_mlp": n_units, "n_ctx": 256, "d_vocab": 4096, "n_parameters": n_layers * n_units * 192,
        },
        "treebank": {
            "name": "synthetic", "tagset": "upos", "sha256": "ab" * 32,
            "splits": {
                "train": {"sentences": 4000, "words": 50000}, "dev": {"sentences": 500, "words": 6000},
                "test": {"sentences": 500, "words": 6000},
            },
        },
        "versions": {"torch": "2.13.0", "transformer-lens": "3.9.0"},
        "git": "0123456789abcdef",
        "platform": "Linux x86_64, Python 3.11.7",
        "stages": {stage: {"state": "done", "seconds": 12.3} for stage in stages},
        "dropped": [
            {"split": split, "tag": tag, "reason": reason, "words": 3 + 2 * place}
            for split in ("train", "test")
            for place, tag in enumerate(tags)
            for reason in reasons
        ],
        "warnings": [f"fewer than 20 training words at 'predict', so no key neurons: {tags[-1]} (3)"],
        "notes": {},
    }  # fmt: skip


def ranking_rows(
    rng: Any, tags: Any, methods: Any, positions: Any, n_layers: int, n_units: int, kept: int
) -> pd.DataFrame:
    """The best `kept` of each (method, position, tag), and every neuron among the ten best by any method there.

    Neurons are drawn with the methods half agreeing; later ranks of the rest are drawn too.
    """
    total, parts = n_layers * n_units, []
    kept = min(kept, total // 2)
    for at in positions:
        for tag in tags:
            common = rng.permutation(total)[:kept]
            tops = {m: np.unique(np.where(rng.random(kept) < 0.3, rng.integers(0, total, kept), common))
                    for m in methods}  # fmt: skip
            best = {m: rng.permutation(found) for m, found in tops.items()}
            rivals = {int(n) for found in best.values() for n in found[:10]}
            for method in methods:
                mine = best[method]
                others = np.array(sorted(rivals - set(mine.tolist())), dtype=np.int64)
                ids = np.concatenate([mine, others])
                late = np.sort(rng.choice(np.arange(len(mine) + 1, total + 1), len(others), replace=False))
                rank = np.concatenate([np.arange(1, len(mine) + 1), late])
                score = 0.6 * (1 - rank / (total + 1)) ** 3 * np.where(ids % 3, 1, -1)
                frame = pd.DataFrame({"layer": ids // n_units, "neuron": ids % n_units, "score": score, "rank": rank})
                parts.append(frame.assign(method=method, at=at, tag=tag))
    columns = ["method", "at", "tag", "layer", "neuron", "score", "rank"]
    return pd.concat(parts, ignore_index=True)[columns]


def key_neurons(ranking: pd.DataFrame, at: str, top: int) -> dict[str, dict[str, list[str]]]:
    best = ranking[ranking["rank"] <= top]  # in the order of their ranks
    found: dict[str, dict[str, list[str]]] = {}
    for (method, place, tag), rows in best.groupby(["method", "at", "tag"], sort=False):
        names = [f"L{layer}N{unit}" for layer, unit in zip(rows["layer"], rows["neuron"], strict=True)]
        found.setdefault(method if place == at else f"{method}@{place}", {})[tag] = names
    return found


def effects(rng: Any, n: int) -> Any:
    """Rise of the loss by lesioned and measured tag: a strong diagonal, neighbours a little, the last tag nothing."""
    own = np.geomspace(0.9, 0.02, n)
    table = rng.normal(0.01, 0.012, (n, n)) + np.diag(own)
    table += 0.15 * np.diag(own[:-1], 1) + 0.1 * np.diag(own[1:], -1)
    table[-1] = rng.normal(0, 0.01, n)
    return table


def lesion_rows(rng: Any, tags: Any, methods: Any, ablations: Any, controls: int) -> pd.DataFrame:
    rows, n = [], len(tags)
    words = rng.integers(40, 3000, n).tolist()
    for method, ablation in ((m, a) for m in methods for a in ablations):
        table = effects(rng, n)
        for i, lesion in enumerate(tags):
            random = rng.normal(0.012, 0.01, (controls, n))
            for draw in range(controls + 1):
                for j, tag in enumerate(tags):
                    delta = random[draw - 1, j] if draw else table[i, j]
                    spread = random[:, j].std(ddof=1) if controls > 1 else np.nan
                    z = (delta - random[:, j].mean()) / spread if controls > 1 else np.nan
                    p = float(np.clip(np.exp(-max(delta, 0) * 90), 1e-4, 1))
                    tests = (np.nan,) * 7 if draw else (
                        delta - 0.015, delta + 0.016, p, p if controls else np.nan, p if n > 4 else np.nan,
                        min(1, 3 * p), z,
                    )  # fmt: skip
                    kind = "matched" if draw else "key"
                    numbers = (words[j], 4.2, 4.2 + delta, delta, 100 * delta / 4.2, delta * (0.3 + 0.02 * j))
                    rows.append((method, lesion, ablation, "all", kind, draw, tag, *numbers, *tests))
    columns = (
        "method lesion ablation scope set draw tag words loss_intact loss_lesioned delta percent delta_category ci_low"
        " ci_high p_items p_controls p_others q_value z_control"
    )
    return pd.DataFrame(rows, columns=columns.split()).assign(delta_lexical=lambda f: f["delta"] - f["delta_category"])


def pair_rows(rng: Any, tags: Any, methods: Any, ablations: Any) -> pd.DataFrame:
    kinds, rows = ("classical", "strong", "one-way", "none"), []
    for method, ablation, measure in ((m, a, x) for m in methods for a in ablations for x in ("first", "category")):
        kind = {frozenset(p): kinds[k] for p, k in zip(combinations(tags, 2), _kinds(rng, len(tags)), strict=True)}
        size = {frozenset(p): rng.uniform(0.05, 0.8, 2) for p in combinations(tags, 2)}
        for a, b in permutations(tags, 2):
            verdict = kind[frozenset((a, b))]
            own, other = size[frozenset((a, b))][:: 1 if a < b else -1] * (0.1 if verdict == "none" else 1)
            other = -0.02 if verdict == "one-way" and a < b else other
            own = -0.02 if verdict == "one-way" and a > b else own
            q = {"classical": 0.001, "strong": 0.01, "one-way": 0.2, "none": 0.6}[verdict]
            rows.append((method, ablation, "all", measure, a, b, own, other, q / 3, q / 3, q / 3, q / 3, q / 3, q))
            rows[-1] += (0.01, 0.02, 0.01 if verdict == "classical" else 0.4, 0.05, verdict)
    columns = (
        "method ablation scope measure tag_a tag_b contrast_a contrast_b p_items p_sets p_a p_b p_value q_value cross_a"
        " cross_b equivalence_p margin verdict"
    )
    return pd.DataFrame(rows, columns=columns.split())


def _kinds(rng: Any, n: int) -> Any:
    return rng.choice(4, n * (n - 1) // 2, p=(0.1, 0.3, 0.35, 0.25))


def probe_result(rng: Any, tags: Any, method: str, at: str) -> dict[str, Any]:
    n = len(tags)

    def scored(strength: float) -> dict[str, Any]:
        confusion = rng.poisson(4, (n, n)) + np.diag(rng.poisson(30 * n * strength, n))
        recall = np.diag(confusion) / confusion.sum(1)
        f1 = dict(zip(tags, recall.tolist(), strict=True))
        accuracy = float(np.trace(confusion) / confusion.sum())
        return {"accuracy": accuracy, "macro_f1": float(recall.mean()), "per_tag_f1": f1,
                "confusion": confusion.tolist()}  # fmt: skip

    strengths = {"random_neurons": 0.7, "most_frequent_tag": 0.6, "majority": 0.05, "control_task": 0.4}
    found = scored(1.0)
    baselines = {name: scored(strength) for name, strength in strengths.items()}
    sizes = {"n_neurons": 12 * n, "classes": list(tags), "train_words": 5000, "test_words": 3600}
    gain = found["accuracy"] - baselines["control_task"]["accuracy"]
    return {"method": method, "at": at, "probe": "linear", **sizes, **found, "baselines": baselines,
            "selectivity": gain}  # fmt: skip


def verify_content(rng: Any, tags: Any, methods: Any) -> dict[str, Any]:
    rows = [
        {"estimate": method, "tag": tag, "exact": exact, "words": 200, "same_words": True,
         "pearson": float(rng.uniform(0.5, 0.95)), "spearman": float(rng.uniform(0.4, 0.9)),
         "recall": float(rng.uniform(0.5, 1)), "top_recall": 0.6, "threshold": 0.01, "largest_unlisted": 0.004,
         "above": 0, "missed": 0.01}
        for method in methods for tag in tags for exact in ("effect", "contrast")
    ]  # fmt: skip
    sizes = {"top": 10, "listed": 100, "measured": 700, "random": 300, "unlisted": 3900}
    return {"dtype": "bfloat16", "ablation": "mean", "scope": "all", **sizes, "agreement": rows}


def overlap_rows(rng: Any, tags: Any, methods: Any, top: int) -> pd.DataFrame:
    pairs = [(m, a, m, b) for m in methods for a, b in combinations(tags, 2)]
    pairs += [(one, tag, other, tag) for one, other in combinations(methods, 2) for tag in tags]
    shared = rng.poisson(np.where([a == b for _, a, _, b in pairs], top / 2, top / 12)).clip(max=top)
    frame = pd.DataFrame(pairs, columns=["method_a", "tag_a", "method_b", "tag_b"])
    frame = frame.assign(size_a=top, size_b=top, shared=shared, jaccard=shared / (2 * top - shared))
    p = np.exp(-shared.astype(float)).clip(1e-6)
    return frame.assign(overlap_coefficient=shared / top, expected=0.4, p_value=p, q_value=np.minimum(1, 2 * p))


def similarity_rows(rng: Any, tags: Any, methods: Any, ablations: Any) -> pd.DataFrame:
    n, parts = len(tags), []
    kinds = [("activation", "", "", "")] + [("lesion", m, a, "all") for m in methods for a in ablations]
    for source, method, ablation, scope in kinds:
        profiles = rng.normal(size=(n, 8)) + 2 * (np.arange(n) % 3)[:, None] * np.linspace(-1, 1, 8)
        table = 1 - np.atleast_2d(np.corrcoef(profiles))  # of a single profile numpy gives a number
        table[-1, :-1] = table[:-1, -1] = np.nan
        rows = [(a, b, table[i, j]) for i, a in enumerate(tags) for j, b in enumerate(tags)]
        frame = pd.DataFrame(rows, columns=["tag_a", "tag_b", "dissimilarity"])
        parts.append(frame.assign(source=source, method=method, ablation=ablation, scope=scope))
    columns = ["source", "method", "ablation", "scope", "tag_a", "tag_b", "dissimilarity"]
    return pd.concat(parts, ignore_index=True)[columns]


def sweep_rows(rng: Any, tags: Any, methods: Any, ablations: Any, n_layers: int, controls: int) -> pd.DataFrame:
    """Curves over k and over layers; of the controls, only what key rows hold of them."""
    arms = [("k", k, -1) for k in (1, 2, 5, 10, 20, 50, 100)] + [("layer", 10, layer) for layer in range(n_layers)]
    rows = []
    for method, ablation in ((m, a) for m in methods for a in ablations):
        for i, lesion in enumerate(tags):
            for arm, k, layer in arms:
                size = 0.9 / (i + 1) * (np.sqrt(k / 100) if arm == "k" else np.exp(-((layer - n_layers / 2) ** 2) / 9))
                for tag in tags:
                    delta = rng.normal(0.01, 0.005) + (size if tag == lesion else 0.1 * size)
                    middle, sd = 0.05 * size, 0.02
                    z = (delta - middle) / sd
                    known = (middle, sd, middle - 0.03, middle + 0.03, z, float(np.exp(-max(z, 0))), 1 / (controls + 1))
                    rows.append((method, lesion, arm, k, layer, ablation, "all", "key", 0, tag, k, 300, delta, 0.02))
                    rows[-1] += known if controls else (np.nan,) * 7
    columns = (
        "method lesion arm k layer ablation scope set draw tag neurons words delta se control_mean control_sd"
        " control_low control_high z_control p_controls p_rank"
    )
    return pd.DataFrame(rows, columns=columns.split())


def write_pages(path: Path, rng: Any, ranking: Any, config: Any, size: tuple[int, int, int], word: str) -> None:
    """Pages of the best neurons of each tag by each method in turn; `size`: layers, neurons of each, and pages."""
    n_layers, n_units, n_pages = size
    ranking = ranking[ranking["at"] == config["at"]]
    order = ranking.sort_values("rank", kind="stable")[["layer", "neuron"]].drop_duplicates()[:n_pages]
    known = dict(iter(ranking.groupby(["layer", "neuron"])))
    tags = tuple(ranking["tag"].unique())
    pages = [
        page_of(rng, neuron, known[neuron], tags, config, n_layers * n_units, word)
        for neuron in order.itertuples(index=False, name=None)
    ]
    neuron_pages.write_pages(path, pages)


def page_of(
    rng: Any, neuron: Any, ranks: Any, tags: tuple[str, ...], config: Any, total: int, word: str
) -> neuron_pages.NeuronPage:
    means = rng.normal(0, 0.2, len(tags)).round(4)
    values = {tag: rng.normal(mean, 0.15, 400) for tag, mean in zip(tags, means, strict=True)}
    edges = np.linspace(-0.8, 0.8, 41).round(4)
    rises = rng.normal(0.002, 0.004, len(tags)).round(5)
    places = {(row.method, row.tag): (row.rank, row.score) for row in ranks.itertuples()}
    nowhere = (None, float("nan"))
    standings = tuple(
        neuron_pages.Standing(
            method,
            tuple(places.get((method, tag), nowhere)[0] for tag in tags),
            tuple(round(float(places.get((method, tag), nowhere)[1]), 4) for tag in tags),
        )
        for method in config["methods"]
    )
    reasons = ranks[ranks["rank"] <= config["top"]].sort_values("rank", kind="stable")
    return neuron_pages.NeuronPage(
        layer=int(neuron[0]), neuron=int(neuron[1]), n_neurons=total, model="synthetic", treebank="synthetic",
        at=config["at"], split="train", effect_split="test", tags=tags, words=(400,) * len(tags),
        means=tuple(means.tolist()), edges=tuple(edges.tolist()),
        counts=tuple(tuple(np.histogram(values[tag], edges)[0].tolist()) for tag in tags),
        contexts=tuple(excerpt(rng, tags, side, word) for side in ("high", "low") for _ in range(10)),
        promoted=tuple((f" {word}{n}", round(0.9 / n, 4)) for n in range(1, 11)),
        suppressed=tuple((f" no{n}", round(-0.8 / n, 4)) for n in range(1, 11)),
        ablation=config["ablations"][0], scope="all",
        effects=tuple(neuron_pages.Effect(rise, rise - 0.002, rise + 0.002, 300) for rise in rises.tolist()),
        ranks=standings, of=tuple(neuron_pages.Reason(r.method, r.tag, int(r.rank)) for r in reasons.itertuples()),
    )  # fmt: skip


def excerpt(rng: Any, tags: Any, side: Any, word: str) -> neuron_pages.Excerpt:
    sign = 1 if side == "high" else -1
    activations = (sign * rng.gamma(1.2, 0.12, 24)).round(4)
    activations[12] = sign * round(float(rng.uniform(0.7, 1.2)), 4)
    tokens = tuple(f" {word}" if place == 12 else f" token{place}" for place in range(24))
    return neuron_pages.Excerpt(
        side=side, tokens=tokens, activations=tuple(activations.tolist()), read=12, word=(12, 12),
        tag=str(rng.choice(tags)), form=word, sentence=int(rng.integers(4000)), cut=(True, False),
    )  # fmt: skip
