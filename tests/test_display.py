"""How records show themselves: one line, a card without script, nothing costly, and none forgotten."""

import importlib
import pkgutil
from dataclasses import is_dataclass, replace
from typing import Any

import made_records as made
import numpy as np
import pytest

import posneurons
from posneurons.cards import Card
from posneurons.display import Shown, card_of, html, line
from posneurons.lesion_results import LesionResult
from posneurons.neurons import NeuronSet

RECORDS = made.records()
NO_FIGURE = {"Sentence", "Round", "Scored", "Scores", "Steered", "MarkovSource", "Fill", "TokenStatistics",
             "Summary", "ModelInfo"}  # fmt: skip
"""Parts of other records, and what is only handed on."""
OWN_CLASSES = {"CorpusView", "MomentsView", "HistogramsView", "RankingView", "ActivationsView", "LesionView",
               "CompositionView"}  # fmt: skip


def shown_classes(base: type = Shown) -> set[str]:
    found = set()
    for kind in base.__subclasses__():
        found |= {kind.__name__} | shown_classes(kind)
    return found


def test_no_record_is_forgotten() -> None:
    for module in pkgutil.iter_modules(posneurons.__path__):
        if module.name != "__main__":
            importlib.import_module(f"posneurons.{module.name}")
    assert shown_classes() - OWN_CLASSES | {"NeuronSet"} == set(RECORDS)
    for name in posneurons.__all__:
        each = getattr(posneurons, name)
        if isinstance(each, type) and is_dataclass(each) and name not in ("Word", "Workbench"):
            assert issubclass(each, Shown), name


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_has_a_line_a_card_and_a_figure(name: str) -> None:
    record = RECORDS[name]
    text, page = repr(record), record._repr_html_()
    assert text.startswith(f"{name}(")
    assert text.endswith(")")
    assert "\n" not in text
    assert "array(" not in text
    assert "tensor(" not in text
    assert len(text) < 200
    assert page.startswith("<div")
    assert page.endswith("</div>")
    assert "<script" not in page
    assert "http" not in page
    assert "class=" not in page
    assert "nan" not in page.lower()
    assert hasattr(record, "figure") == (name not in NO_FIGURE)
    assert card_of(record).line


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (made.ranking(), "Ranking(correlation at predict: 3 tags × 3 layers × 2 neurons)"),
        (made.corpus(), "Corpus(corpus: 2 rows, 5 words, 3 tags; 1 left out)"),
        (made.treebank(), "Treebank(bank: 2 sentences, 5 words, 3 tags)"),
        (made.neurons(), "NeuronSet(3: L0N1, L2N0, L2N3)"),
        (made.lesions(), "LesionResult(by hand, mean ablation, scope all: 3 key sets, 6 control sets, 12 words)"),
        (made.tag_shift(), "TagShift(3 tags by simple, 10 words, 1 random set)"),
        (made.damage(), "DamageControls(1 set for 1 tag, 1 note)"),
        (made.moments(), "TagMoments(at predict: 3 tags × 2 layers × 2 neurons, 4 words)"),
    ],
)
def test_lines_by_hand(record: Any, expected: str) -> None:
    assert repr(record) == expected


def test_a_ranking_names_its_best_neurons() -> None:
    card = card_of(made.ranking())
    rows = card.rows() if callable(card.rows) else card.rows
    assert rows[0][:2] == ["NOUN", "7"]
    assert rows[0][2].startswith("L2N1 (0.9), L0N0 (−0.8), L1N1 (0.3)")
    assert rows[2][2] == "–"


def test_a_lesion_study_shows_own_rises() -> None:
    """Own words cost 1 more, and 0.01 times their number, 0 to 11: for NOUN the mean of 0, 1, 2, 3 on top."""
    card = card_of(made.lesions())
    rows = card.rows() if callable(card.rows) else card.rows
    assert [row[1] for row in rows] == ["+1.015", "+1.055", "+1.095"]


def test_a_lesion_named_after_no_tag_is_said_to_be_and_notes_stand_below() -> None:
    found = made.lesions()
    misspelt = replace(found, lesion=tuple("NUON" if name == "NOUN" else name for name in found.lesion), notes=("few",))
    assert repr(misspelt).endswith("12 words; no tag of the corpus: NUON)")
    assert card_of(misspelt).note == "few"
    assert "no tag" not in repr(found)


def test_a_line_makes_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a table was made")

    for name in ("matrix", "to_frame"):
        monkeypatch.setattr(LesionResult, name, fail)
    assert "3 key sets" in repr(made.lesions())
    with pytest.raises(AssertionError, match="a table was made"):
        made.lesions()._repr_html_()


def test_names_from_data_are_escaped_and_lines_stay_lines() -> None:
    page = html("Record", Card("<b>", [("<i>", "&")], ["<u>"], [["<script>"]], "<s>"))
    for text in ("&lt;b&gt;", "&lt;i&gt;", "&amp;", "&lt;u&gt;", "&lt;script&gt;", "&lt;s&gt;"):
        assert text in page
    assert line("Record", Card("two\nlines  here")) == "Record(two lines here)"
    assert made.EVIL not in made.corpus()._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in made.corpus()._repr_html_()


def test_a_record_of_another_kind_extends_or_says_nothing() -> None:
    class Mine(NeuronSet):
        """Of a user."""

    class Other(Shown):
        """Unknown."""

    assert card_of(Mine(np.array([1]), np.array([2]))).line == "1 neuron in 1 layer"
    assert repr(Other()) == "Other()"


def test_long_tables_are_cut() -> None:
    found = NeuronSet(np.arange(40), np.zeros(40, dtype=np.int64))
    assert len(card_of(found).rows) == 17  # type: ignore[arg-type]
    assert "and 23 more" in found._repr_html_()
