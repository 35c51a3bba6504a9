"""The files of a run directory, read and checked: what the page and the figures of a run are made from.

A file is read where the manifest calls its stage done; it is then expected to be whole and to hold the columns that are
read here, and whatever is not so is one line that says where. Files that runs of older versions did not have
(`overlap.parquet`, the two `similarity.parquet`, `neuron_pages.json`) may be absent. Nothing is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from posneurons import shapes
from posneurons.files import check_fields, damaged, read_json
from posneurons.manifest import read_manifest
from posneurons.words import NEURON

PROBE: dict[str, type] = {
    **dict.fromkeys(("method", "at"), str),
    **dict.fromkeys(("n_neurons", "train_words", "test_words"), int),
    **dict.fromkeys(("classes", "confusion"), list),
    **dict.fromkeys(("per_tag_f1", "baselines"), dict),
}
VERIFY: dict[str, type] = {
    **dict.fromkeys(("ablation", "scope"), str),
    **dict.fromkeys(("top", "listed", "measured"), int),
    "agreement": list,
}
RANKING = "method at tag layer neuron score rank"
LESIONS = (
    "method lesion ablation scope set draw tag words loss_intact delta percent delta_category ci_low ci_high p_items"
    " p_controls p_others q_value z_control"
)
DISSOCIATIONS = (
    "method ablation scope measure tag_a tag_b contrast_a contrast_b cross_a cross_b p_sets p_a p_b q_value"
    " equivalence_p margin verdict"
)
SWEEP = (
    "method lesion arm k layer ablation scope set draw tag neurons words delta se control_mean control_low control_high"
    " z_control"
)
CARRIERS = "method lesion ablation scope k_max rise se k_beyond k_half"
OVERLAP = "method_a tag_a method_b tag_b size_a size_b shared jaccard overlap_coefficient expected p_value q_value"
SIMILARITY = "source method ablation scope tag_a tag_b dissimilarity"


@dataclass(frozen=True)
class Run:
    """What the files of a run directory hold; None where the stage that writes a file is not done.

    Attributes:
        manifest: content of manifest.json.
        ranking: ranking.parquet.
        keys: neurons.json: by method (another position than the run's own: `method@position`) and tag, names like
            "L3N12".
        probe: the results of probe.json.
        lesions, dissociations: the tables of those names.
        verify: content of verify.json.
        sweep, carriers: the tables of those names.
        overlap: the table of that name.
        similarity: `similarity.parquet` and `lesion_similarity.parquet` together.
        pages: the neuron pages of neuron_pages.json.
    """

    manifest: dict[str, Any]
    ranking: pd.DataFrame | None = None
    keys: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    probe: list[dict[str, Any]] | None = None
    lesions: pd.DataFrame | None = None
    dissociations: pd.DataFrame | None = None
    verify: dict[str, Any] | None = None
    sweep: pd.DataFrame | None = None
    carriers: pd.DataFrame | None = None
    overlap: pd.DataFrame | None = None
    similarity: pd.DataFrame | None = None
    pages: list[Any] | None = None

    def done(self, stage: str) -> bool:
        """Whether the manifest calls a stage done."""
        return bool(self.manifest["stages"].get(stage, {}).get("state") == "done")

    @property
    def tags(self) -> list[str]:
        """Tags that have key neurons, in the order of neurons.json."""
        return list(dict.fromkeys(tag for tags in self.keys.values() for tag in tags))


def read_run(run_dir: Path) -> Run:
    """All files of a run directory that its manifest calls done. Raises RunError where one is missing or damaged."""
    manifest = read_manifest(run_dir)
    shapes.check_shape(str(run_dir / "manifest.json"), manifest, shapes.MANIFEST)
    bare = Run(manifest)
    rank, probe, lesion, verify, sweep = (bare.done(each) for each in ("rank", "probe", "lesion", "verify", "sweep"))
    pages = run_dir / "neuron_pages.json"
    return Run(
        manifest,
        ranking=read_table(run_dir / "ranking.parquet", RANKING) if rank else None,
        keys=_read_keys(run_dir / "neurons.json") if rank else {},
        probe=_read_probe(run_dir / "probe.json") if probe else None,
        lesions=read_table(run_dir / "lesions.parquet", LESIONS) if lesion else None,
        dissociations=read_table(run_dir / "dissociations.parquet", DISSOCIATIONS) if lesion else None,
        verify=_read_verify(run_dir / "verify.json") if verify else None,
        sweep=read_table(run_dir / "sweep.parquet", SWEEP) if sweep else None,
        carriers=read_table(run_dir / "carriers.parquet", CARRIERS) if sweep else None,
        overlap=_read_later(run_dir / "overlap.parquet", OVERLAP) if rank else None,
        similarity=_read_similarity(run_dir) if rank or lesion else None,
        pages=_read_pages(pages) if bare.done("pages") and pages.exists() else None,
    )


def read_table(path: Path, columns: str) -> pd.DataFrame:
    """A table of a run with at least these columns. Raises RunError where it is missing, damaged, or lacks one."""
    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError:
        raise damaged(str(path), "no such file", "a file of a finished run") from None
    except (OSError, ValueError, TypeError, LookupError, NotImplementedError, MemoryError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise damaged(str(path), f"damaged ({why:.200})", "a Parquet table") from None
    if lacking := [name for name in columns.split() if name not in frame]:
        expected = f"columns {', '.join(columns.split())} (an older version of posneurons wrote fewer)"
        raise damaged(str(path), f"no column {', '.join(lacking)}", expected)
    shapes.check_columns(path, frame, columns.split())
    return frame


def _read_later(path: Path, columns: str) -> pd.DataFrame | None:
    """A table that older versions did not write."""
    return read_table(path, columns) if path.exists() else None


def _read_similarity(run_dir: Path) -> pd.DataFrame | None:
    """What the rankings and the lesions tell; older versions wrote both into one file."""
    ranked = _read_later(run_dir / "similarity.parquet", SIMILARITY)
    lesioned = _read_later(run_dir / "lesion_similarity.parquet", SIMILARITY)
    if ranked is None or lesioned is None:
        return lesioned if ranked is None else ranked
    return pd.concat([ranked[ranked["source"] != "lesion"], lesioned], ignore_index=True)


def _read_keys(path: Path) -> dict[str, dict[str, list[str]]]:
    content = check_fields(str(path), read_json(path), {})
    for method, tags in content.items():
        named = [method, *check_fields(f"{path}: {method:.40}", tags, {})]
        shapes.check_shape(f"{path}: the name", named, [shapes.TEXT])
        for tag, names in check_fields(f"{path}: {method}", tags, {}).items():
            check_fields(f"{path}: {method}", tags, {tag: list})
            for name in names:
                if not isinstance(name, str) or not NEURON.fullmatch(name):
                    raise damaged(str(path), f"{method}, {tag}: {name!r:.40}", "a name like L3N12")
    return content


def _read_probe(path: Path) -> list[dict[str, Any]]:
    results = check_fields(str(path), read_json(path), {"results": list})["results"]
    for i, result in enumerate(results):
        size = len(check_fields(f"{path}: result {i}", result, PROBE)["classes"])
        if [len(row) if isinstance(row, list) else -1 for row in result["confusion"]] != [size] * size:
            raise damaged(
                str(path), f"result {i}: the confusion is not {size} × {size}", "a row and a column per class"
            )
    shapes.check_shape(str(path), {"results": results}, shapes.PROBE)
    return list(results)


def _read_verify(path: Path) -> dict[str, Any]:
    content = check_fields(str(path), read_json(path), VERIFY)
    for row in content["agreement"]:
        check_fields(f"{path}: agreement", row, {"estimate": str, "tag": str, "exact": str})
    shapes.check_shape(str(path), content, shapes.VERIFY)
    return content


def _read_pages(path: Path) -> list[Any]:
    from posneurons import neuron_pages

    return list(neuron_pages.read_pages(path))
