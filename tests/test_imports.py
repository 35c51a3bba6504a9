"""Who may know whom: the walls between modules, read off the sources."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import posneurons

FOLDER = Path(posneurons.__file__).parent
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py"))}
ENTRY = {"__init__", "__main__"}  # the facade and the command know the others lazily, and nobody knows them

HEAVY = (
    "torch", "transformers", "transformer_lens", "pandas", "sklearn", "plotly", "stanza", "scipy", "pyarrow",
    "nltk", "pooch", "datasets",
)  # fmt: skip
MODEL_LIBRARIES = {"transformer_lens", "transformers"}
TENSORS = {"torch", *MODEL_LIBRARIES}
TEXT = {"conll", "conll_writing", "treebank", "registry", "penn", "pretokenized", "tagging", "alignment"}
READING = {
    "models",
    "forward",
    "checkpoints",
    "loading",
    "hooked",
    "activations",
    "passes",
    "forks",
    "probes",
    "lesions",
    "locality",
    "weights",
    "attribution",
    "integrated",
    "key_neurons",
    "path_runs",
    "path_sums",
    "objectives",
    "logit_lens",
    "probe_rankings",
    "steering",
    "generation",
    "fills",
    "packing",
    "lean",
    "writing",
    "lexicon",
    "memory",
    "outliers",
    "controls",
    "subspace",
    "composition",
    "iteration",
    "lesion_study",
    "sweeps",
    "workflow",
    "verification",
    "split_halves",
    "partial",
    "fluency",
    "profiles",
    "portraits",
}
SCORES = {"statistics", "histograms", "effects", "ranking", "significance", "dissociation"}
DRAWING = {
    "activation_figures",
    "agreement_figures",
    "corpus_figures",
    "curves",
    "dissociation_figures",
    "effect_figures",
    "figures",
    "neuron_figures",
    "overlap_figures",
    "ranking_figures",
    "similarity_figures",
    "theme",
}
"""What is drawn from frames; records know it inside their method `figure` only."""
FILES = {"manifest", "study", "findings", "report", "cli", "doctor"} | DRAWING
GRADIENTS = {
    "locality",
    "objectives",
    "attribution",
    "integrated",
    "key_neurons",
    "logit_lens",
    "path_runs",
    "path_sums",
}
FORMULAS = {"probes", "probe_rankings", "lesions", *GRADIENTS, *SCORES}
ENGINE = {"fills", "forks", "lesions", "lesion_study", "sweeps", "composition", "iteration"}
TABLES = {"results", "lesion_results", "verdicts"}
RECORDS = {"records", "sentences", "neurons", "results", "lesion_results"}

# What a module must not know.
FORBIDDEN = {
    "errors": set(SOURCES) | TENSORS | {"numpy"},
    "words": set(SOURCES) | TENSORS | {"numpy"},
    "files": (set(SOURCES) - {"errors"}) | TENSORS | {"numpy", "pandas"},
    "lock": (set(SOURCES) - {"errors", "files"}) | TENSORS | {"numpy", "pandas"},
    "methods": (set(SOURCES) - {"errors", "words"}) | TENSORS | {"numpy"},
    "records": TENSORS | TEXT | READING | SCORES | FILES | {"results"},
    "neurons": TENSORS | TEXT | READING | SCORES | FILES | {"records", "results"},
    "sentences": (set(SOURCES) - {"display", "errors"}) | TENSORS | {"numpy", "pandas"},
    "tagsets": (set(SOURCES) - {"errors", "sentences"}) | TENSORS | {"numpy", "pandas"},
    "detokenizer": set(SOURCES) | TENSORS | {"numpy", "pandas"},
    "registry": TENSORS | TEXT | READING | SCORES | FILES | {"tokenizers", "records"},
    "penn": TENSORS | READING | SCORES | FILES | {"tokenizers", "treebank", "alignment", "records"},
    "conll_writing": TENSORS | READING | SCORES | FILES | {"treebank", "alignment", "records"},
    "stanza_models": (set(SOURCES) - {"errors"}) | MODEL_LIBRARIES,
    "pretokenized": TENSORS | READING | SCORES | FILES | {"tokenizers", "alignment", "conll", "treebank", "records"},
    "offsets": TENSORS | TEXT | READING | SCORES | FILES | {"records", "sentences"},
    "windows": set(SOURCES) | TENSORS,
    "units": (set(SOURCES) - {"sentences", "words"}) | TENSORS,
    "splits": TENSORS | TEXT | READING | SCORES | FILES,
    "covariates": TENSORS | TEXT | READING | SCORES | FILES,
    "matching": TENSORS | TEXT | READING | SCORES | FILES,
    "partial": TEXT | FILES,
    "corpora": TENSORS | READING | FORMULAS | FILES,
    "fluency": TEXT | FILES | SCORES,
    "options": TENSORS | TEXT | READING | FORMULAS | FILES | {"numpy", "pandas", "records", "results"},
    "tools": TENSORS | {"numpy", "pandas", "scipy", "sklearn", "plotly", "study", "cli"},
    "conll": TENSORS | READING | SCORES | FILES | {"tokenizers", "treebank", "alignment"},
    "treebank": TENSORS | READING | SCORES | FILES | {"tokenizers", "alignment"},
    "tagging": MODEL_LIBRARIES | READING | SCORES | FILES | {"alignment"},
    "alignment": TENSORS | READING | SCORES | FILES,
    "backends": set(SOURCES) | TENSORS | {"numpy"},
    "forward": MODEL_LIBRARIES | set(SOURCES),
    "models": TEXT
    | SCORES
    | FILES
    | {"records", *(READING - {"models", "forward", "checkpoints", "loading", "hooked"})},
    "loading": TEXT | SCORES | FILES | {"records", "neurons", *(READING - {"checkpoints", "hooked"})},
    "hooked": TEXT | SCORES | FILES | {"records", "neurons", *(READING - {"checkpoints"})},
    "checkpoints": MODEL_LIBRARIES | TEXT | READING | SCORES | FILES | {"records", "neurons"},
    "messages": TEXT | SCORES | FILES | ENGINE | {"records", "neurons", "distributed", *(READING - {"models"})},
    "distributed": TEXT | SCORES | FILES | ENGINE | {"records", "neurons", *(READING - {"models"})},
    "activations": (SCORES - {"statistics"})
    | FILES
    | {"results", *(READING - {"models", "checkpoints", "activations", "memory"})},
    "passes": TEXT | FILES | {"ranking", "significance", "results"},
    "statistics": MODEL_LIBRARIES | TEXT | READING | FILES | {"ranking", "significance", "results"},
    "histograms": MODEL_LIBRARIES | TEXT | READING | FILES | {"ranking", "significance", "results"},
    "effects": MODEL_LIBRARIES | TEXT | READING | FILES | {"ranking", "significance", "results"},
    "ranking": TENSORS | TEXT | READING | FILES | {"significance", "results"},
    "significance": TENSORS | TEXT | READING | FILES | TABLES | {"records", "neurons", "statistics", "ranking"},
    "dissociation": TENSORS | TEXT | READING | FILES | TABLES | {"records", "neurons", "statistics", "ranking"},
    "verdicts": TENSORS | TEXT | READING | FILES | {"statistics", "ranking", "records", "neurons", "lesion_results"},
    "lesion_results": TENSORS | TEXT | READING | FILES | {"statistics", "ranking"},
    "agreement": TENSORS | TEXT | READING | SCORES | FILES,
    "results": TENSORS | TEXT | READING | FILES | SCORES,
    "ablations": (set(SOURCES) - {"errors", "words"}) | TENSORS | {"numpy"},
    "reads": MODEL_LIBRARIES | TEXT | READING | SCORES | FILES,
    "memory": TEXT | SCORES | FILES | ENGINE | {"records", "neurons"},
    "products": (set(SOURCES) - {"products"}) | MODEL_LIBRARIES,
    "packing": TEXT | SCORES | FILES | ENGINE | {"records", "neurons", "locality"},
    "lean": TEXT | SCORES | FILES | ENGINE | {"records", "neurons", "locality"},
    "writing": TEXT | SCORES | FILES | ENGINE | {"records", "neurons"},
    "lexicon": TEXT | SCORES | FILES | ENGINE | {"neurons"},
    "fills": TEXT | SCORES | FILES | (ENGINE - {"fills"}),
    "loss_table": TENSORS | TEXT | READING | SCORES | FILES,
    "outliers": TEXT | SCORES | FILES | ENGINE,
    "controls": TEXT | SCORES | FILES | ENGINE,
    "overlap": TENSORS | TEXT | READING | FILES | {"statistics", "ranking"},
    "similarity": TENSORS | TEXT | READING | FILES | {"statistics", "ranking"},
    "subspace": TEXT | FILES | ENGINE | {"statistics"},
    "generation": TEXT | SCORES | FILES | ENGINE | {"records"},
    "taggers": TENSORS | READING | SCORES | FILES,
    "steer_run": {"conll", "tagging"} | SCORES | ENGINE | {"study", "figures", "cli"},
    "lesion_study": TEXT | FILES | {"statistics", "ranking", "significance", "dissociation"},
    "sweeps": TEXT | FILES | {"statistics"},
    "sweep_plan": TENSORS | TEXT | READING | FILES | {"statistics", "significance", "dissociation"},
    "tallies": TEXT | SCORES | FILES | {"probes", "workflow", "sweeps"},
    "sweep_run": TENSORS | {"cli", "statistics", "figures"},
    "composition": TEXT | FILES | {"statistics", "ranking"},
    "iteration": TEXT | FILES | {"statistics", "ranking"},
    "locality": TEXT | SCORES | FILES | {"records", "attribution"},
    "weights": TEXT | SCORES | FILES | {"records", *(READING - {"models", "weights"})},
    "attribution": TEXT | FILES,
    "integrated": TEXT | FILES,
    "key_neurons": TEXT | FILES,
    "quadrature": MODEL_LIBRARIES | TEXT | READING | SCORES | FILES,
    "objectives": TEXT | SCORES | FILES | {"records", "attribution"},
    "logit_lens": TEXT | FILES,
    "probe_rankings": TEXT | FILES,
    "probes": TEXT | SCORES | FILES | {"lesions", "workflow", *GRADIENTS},
    "classifiers": TENSORS | TEXT | READING | SCORES | FILES,
    "shortlist": TEXT | FILES,
    "digests": TEXT | SCORES | FILES | {"neurons", *(READING - {"models"})},
    "singles": TEXT | SCORES | FILES | {"probes", "workflow", "lesion_study", *GRADIENTS},
    "path_runs": TEXT | (SCORES - {"effects"}) | FILES,
    "path_sums": TEXT | FILES,
    "forks": TEXT | SCORES | FILES | {"probes", "lesions", "workflow"},
    "lesions": TEXT | SCORES | FILES | {"probes", "workflow", "lesion_study", *GRADIENTS},
    "steering": TEXT | SCORES | FILES,
    "planted": SCORES | FILES,
    "grafts": SCORES | FILES,
    "markov": TENSORS | TEXT | READING | SCORES | FILES,
    "scoring": TEXT | FILES,
    "verification": TEXT | FILES,
    "split_halves": TEXT | FILES,
    "workflow": TEXT | FILES,
    "study": TENSORS | {"cli", "statistics", "figures"},
    "stages": TENSORS | {"cli", "statistics", "figures", "study"},
    "config": TENSORS | TEXT | READING | FORMULAS | FILES | {"numpy", "pandas", "records", "results"},
    "neuron_lists": TENSORS | TEXT | READING | FORMULAS | {"records", "results", "study", "report", "figures", "cli"},
    "manifest": TENSORS | TEXT | READING | FORMULAS | {"study", "report", "figures", "cli"},
    "carriers": (set(SOURCES) - {"errors", "words", "run_rows"}) | TENSORS | {"plotly"},
    "curves": (set(SOURCES) - {"errors", "words", "theme", "run_rows"}) | TENSORS,
    "exporting": TENSORS | TEXT | READING | FORMULAS | DRAWING | RECORDS | {"study", "report", "cli"},
    "findings": TENSORS | TEXT | READING | FORMULAS | {"study", "cli", "report"},
    "figures": TENSORS | TEXT | READING | FORMULAS | RECORDS | (FILES - DRAWING),
    "theme": (set(SOURCES) - {"errors", "words"}) | TENSORS | {"pandas"},
    "dissociation_figures": (set(SOURCES) - {"errors", "words", "theme", "run_rows"}) | TENSORS,
    "overlap_figures": (set(SOURCES) - {"errors", "words", "theme"}) | TENSORS,
    "similarity_figures": (set(SOURCES) - {"errors", "words", "theme"}) | TENSORS,
    "activation_figures": (set(SOURCES) - {"errors", "words", "theme"}) | TENSORS,
    "agreement_figures": (set(SOURCES) - {"errors", "words", "theme", "run_rows"}) | TENSORS,
    "corpus_figures": (set(SOURCES) - {"errors", "words", "theme"}) | TENSORS,
    "effect_figures": (set(SOURCES) - {"errors", "words", "theme"}) | TENSORS,
    "ranking_figures": (set(SOURCES) - {"errors", "words", "theme"}) | TENSORS,
    "cards": set(SOURCES) | TENSORS | {"numpy", "pandas"},
    "model_cards": (set(SOURCES) - {"cards"}) | TENSORS | {"numpy", "pandas"},
    "result_cards": (set(SOURCES) - {"cards"}) | TENSORS | {"numpy", "pandas"},
    "display": (set(SOURCES) - {"cards", "model_cards", "result_cards"}) | TENSORS | {"numpy", "pandas"},
    "views": (set(SOURCES) - {"display", "errors", "neurons"}) | TENSORS,
    "neuron_figures": (set(SOURCES) - {"errors", "words", "theme"}) | TENSORS | {"pandas"},
    "neuron_html": (set(SOURCES) - {"errors", "words", "theme"}) | TENSORS | {"numpy", "pandas"},
    "neuron_pages": TENSORS | TEXT | READING | SCORES | FILES | {"numpy", "records", "neurons"},
    "token_texts": set(SOURCES) | TENSORS | {"numpy", "pandas"},
    "profiles": TEXT | FILES | SCORES | ENGINE | {"portraits"},
    "portraits": TEXT | FILES | (SCORES - {"significance"}) | {"showing"},
    "showing": TENSORS | FORMULAS | FILES | {"numpy", "pandas"},
    "shapes": (set(SOURCES) - {"errors", "files", "sentences"}) | TENSORS,
    "run_files": TENSORS | TEXT | READING | FORMULAS | (FILES - {"manifest"}) | {"records", "neurons", "stages"},
    "run_figures": TENSORS | TEXT | READING | FORMULAS | {"study", "stages", "cli", "report", "blocks"},
    "run_rows": (set(SOURCES) - {"errors", "words"}) | TENSORS,
    "run_tables": TENSORS | TEXT | READING | FORMULAS | {"study", "stages", "cli", "report", "blocks", "run_figures"},
    "blocks": TENSORS | TEXT | READING | FORMULAS | {"study", "stages", "cli", "report"},
    "report": TENSORS | TEXT | READING | FORMULAS | {"study", "cli"},
    "doctor": {"study", "cli", *FORMULAS},
    "cli": TENSORS | {"numpy", "pandas", "scipy", "sklearn", "plotly"},
}
AT_IMPORT_OF_CLI = {"config", "errors", "methods", "options", "tools"}


class Import(NamedTuple):
    name: str
    """Module of the package without its prefix, or top name of another package."""
    at_module_level: bool


@cache
def imports(source: str) -> tuple[Import, ...]:
    """Every import of a module, also inside functions; those for the type checker only are left out."""
    return tuple(_imports(ast.parse(source)))


def _imports(tree: ast.Module) -> Iterator[Import]:
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    in_functions = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) not in typing_only:
            for name in _names(node):
                yield Import(name, id(node) not in in_functions)


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        paths = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = ".".join(["posneurons"] * bool(node.level) + [node.module] * bool(node.module))
        paths = [f"{base}.{alias.name}" for alias in node.names] if base == "posneurons" else [base]
    else:
        return []
    own = [path.split(".")[1] for path in paths if path.startswith("posneurons.")]
    return own + [path.split(".")[0] for path in paths if not path.startswith("posneurons.")]


def known(source: str) -> set[str]:
    return {each.name for each in imports(source)}


def trespasses(sources: dict[str, str]) -> list[str]:
    """Whatever a module must not know and imports; inside functions it may know what draws from frames."""
    return [
        f"{module} imports {name}"
        for module, source in sources.items()
        for name in sorted(
            {each.name for each in imports(source) if each.at_module_level or each.name not in DRAWING}
            & FORBIDDEN.get(module, set())
        )
    ]


def cycle(sources: dict[str, str]) -> list[str]:
    graph = {module: known(source) & set(sources) for module, source in sources.items() if module not in ENTRY}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def prints(source: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def test_importing_the_package_imports_nothing_heavy() -> None:
    command = f"import sys, posneurons; dir(posneurons); print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    command = f"import sys, posneurons.cli; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_lazy_names_are_those_the_type_checker_sees() -> None:
    tree = ast.parse(SOURCES["__init__"])
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {"__version__", *seen} == set(posneurons.__all__)


def test_no_public_name_is_that_of_a_module() -> None:
    """Once imported, the module would stand where the name was."""
    assert set(posneurons.__all__) & set(SOURCES) == set()


def test_only_models_knows_the_model_libraries() -> None:
    knowing = {module for module, source in SOURCES.items() if known(source) & MODEL_LIBRARIES}
    assert knowing <= {"models", "loading", "hooked"}


def test_every_module_stands_in_the_table() -> None:
    """A new module says here what it must not know."""
    assert set(SOURCES) - ENTRY <= set(FORBIDDEN)


def test_imports_keep_to_the_table_and_flow_one_way() -> None:
    assert trespasses(SOURCES) == []
    assert cycle(SOURCES) == []


def test_cli_computes_nothing_and_imports_late() -> None:
    early = {each.name for each in imports(SOURCES["cli"]) if each.at_module_level}
    assert early & set(SOURCES) <= AT_IMPORT_OF_CLI


def test_nothing_prints() -> None:
    assert {module: lines for module, source in SOURCES.items() if (lines := prints(source))} == {}


def test_modules_are_short() -> None:
    assert {module: n for module, source in SOURCES.items() if (n := len(source.splitlines())) > 350} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from posneurons.models import load_model",
        "from posneurons import models",
        "import posneurons.models",
        "import posneurons.models as m",
        "from . import models",
        "from .models import load_model",
        "def f():\n    from posneurons import errors, models",
        "class A:\n    def f(self):\n        import posneurons.models",
        "if True:\n    from posneurons.models import load_model",
        "from __future__ import annotations\nimport numpy, posneurons.models",
    ],
)
def test_the_walk_finds_every_way_to_import(line: str) -> None:
    assert trespasses({**SOURCES, "statistics": SOURCES["statistics"] + "\n" + line}) == ["statistics imports models"]


def test_the_walk_can_fail() -> None:
    assert trespasses({"treebank": "import torch.nn as nn\nfrom tokenizers import Tokenizer"}) == [
        "treebank imports tokenizers",
        "treebank imports torch",
    ]
    assert trespasses({"report": "def f():\n    import transformer_lens.utils"}) == ["report imports transformer_lens"]
    assert trespasses({"records": "if TYPE_CHECKING:\n    import torch"}) == []
    assert trespasses({"records": "if TYPE_CHECKING:\n    import pandas\nelse:\n    import torch"}) != []
    assert trespasses({"records": "def figure():\n    from posneurons import figures"}) == []
    assert trespasses({"records": "from posneurons import figures"}) == ["records imports figures"]
    assert cycle(
        {"a": "from posneurons.b import x", "b": "def f():\n    from posneurons import c", "c": "import posneurons.a"}
    )
    assert not cycle({"a": "from posneurons.b import x", "b": "from posneurons import c", "c": "import numpy"})
    early = [
        each.name
        for each in imports("import typer\ndef f():\n    from posneurons.study import run")
        if each.at_module_level
    ]
    assert early == ["typer"]
    assert prints("x = 1\nprint(x)") == [2]
    assert prints("printed(x)\nconsole.print(x)") == []
