"""Find the part-of-speech neurons of Llama 3, show what they encode, and test by lesion what they do.

    import posneurons as pn

    model = pn.load_model()
    corpus = pn.align(pn.load_treebank(), model.tokenizer)
    keys = pn.rank(model, corpus).top(50)
    pn.lesion(model, corpus, keys).matrix()

Nothing heavy is imported until a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posneurons.activations import cache_activations as cache_activations
    from posneurons.activations import stream as stream
    from posneurons.alignment import align as align
    from posneurons.alignment import dropped_table as dropped_table
    from posneurons.composition import compose as compose
    from posneurons.conll_writing import write_conllu as write_conllu
    from posneurons.corpus_figures import word_spread as word_spread
    from posneurons.covariates import word_covariates as word_covariates
    from posneurons.errors import PosNeuronsError as PosNeuronsError
    from posneurons.exporting import save_figure as save_figure
    from posneurons.fills import Condition as Condition
    from posneurons.fills import Fill as Fill
    from posneurons.fills import make_fills as make_fills
    from posneurons.grafts import graft as graft
    from posneurons.iteration import iterate as iterate
    from posneurons.iteration import lesioned as lesioned
    from posneurons.lesion_results import LesionResult as LesionResult
    from posneurons.lesion_study import Workbench as Workbench
    from posneurons.lesion_study import lesion as lesion
    from posneurons.lesions import word_losses as word_losses
    from posneurons.matching import matched_sample as matched_sample
    from posneurons.models import describe as describe
    from posneurons.models import load_model as load_model
    from posneurons.neurons import NeuronSet as NeuronSet
    from posneurons.outliers import flags as flags
    from posneurons.overlap import overlaps as overlaps
    from posneurons.overlap_figures import angle_matrix as angle_matrix
    from posneurons.overlap_figures import overlap_matrix as overlap_matrix
    from posneurons.passes import tag_moments as tag_moments
    from posneurons.planted import markov_model as markov_model
    from posneurons.portraits import make_pages as make_pages
    from posneurons.pretokenized import from_dataset as from_dataset
    from posneurons.pretokenized import from_frame as from_frame
    from posneurons.pretokenized import from_lists as from_lists
    from posneurons.probes import cross as cross
    from posneurons.probes import fit_probe as fit_probe
    from posneurons.records import Corpus as Corpus
    from posneurons.records import Ranking as Ranking
    from posneurons.records import TagMoments as TagMoments
    from posneurons.results import ProbeResult as ProbeResult
    from posneurons.scoring import score_method as score_method
    from posneurons.sentences import Sentence as Sentence
    from posneurons.sentences import Treebank as Treebank
    from posneurons.sentences import Word as Word
    from posneurons.showing import show as show
    from posneurons.singles import exact_effects as exact_effects
    from posneurons.split_halves import reliability as reliability
    from posneurons.splits import by_type as by_type
    from posneurons.splits import fold as fold
    from posneurons.splits import folds as folds
    from posneurons.splits import with_splits as with_splits
    from posneurons.steering import steer as steer
    from posneurons.steering import tag_shift as tag_shift
    from posneurons.subspace import directions as directions
    from posneurons.subspace import principal_angles as principal_angles
    from posneurons.taggers import simple_tagger as simple_tagger
    from posneurons.tagging import tag_text as tag_text
    from posneurons.tagsets import CONTENT_FUNCTION as CONTENT_FUNCTION
    from posneurons.tagsets import read_classes as read_classes
    from posneurons.tagsets import retag as retag
    from posneurons.treebank import load_treebank as load_treebank
    from posneurons.verification import verify as verify
    from posneurons.workflow import rank as rank

__version__ = "0.1.0"

_HOME = {
    "activations": ("cache_activations", "stream"),
    "alignment": ("align", "dropped_table"),
    "composition": ("compose",),
    "conll_writing": ("write_conllu",),
    "corpus_figures": ("word_spread",),
    "covariates": ("word_covariates",),
    "errors": ("PosNeuronsError",),
    "exporting": ("save_figure",),
    "fills": ("Condition", "Fill", "make_fills"),
    "grafts": ("graft",),
    "iteration": ("iterate", "lesioned"),
    "lesion_results": ("LesionResult",),
    "lesion_study": ("Workbench", "lesion"),
    "lesions": ("word_losses",),
    "matching": ("matched_sample",),
    "models": ("describe", "load_model"),
    "neurons": ("NeuronSet",),
    "outliers": ("flags",),
    "overlap": ("overlaps",),
    "overlap_figures": ("angle_matrix", "overlap_matrix"),
    "passes": ("tag_moments",),
    "planted": ("markov_model",),
    "pretokenized": ("from_dataset", "from_frame", "from_lists"),
    "portraits": ("make_pages",),
    "probes": ("cross", "fit_probe"),
    "records": ("Corpus", "Ranking", "TagMoments"),
    "split_halves": ("reliability",),
    "results": ("ProbeResult",),
    "scoring": ("score_method",),
    "sentences": ("Sentence", "Treebank", "Word"),
    "showing": ("show",),
    "singles": ("exact_effects",),
    "splits": ("by_type", "fold", "folds", "with_splits"),
    "steering": ("steer", "tag_shift"),
    "subspace": ("directions", "principal_angles"),
    "taggers": ("simple_tagger",),
    "tagging": ("tag_text",),
    "tagsets": ("CONTENT_FUNCTION", "read_classes", "retag"),
    "treebank": ("load_treebank",),
    "verification": ("verify",),
    "workflow": ("rank",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = ["__version__", *sorted(_MODULE)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'posneurons' has no attribute {name!r}")
    return getattr(import_module(f"posneurons.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
