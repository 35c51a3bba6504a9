"""A lesion study of the embedded model: its sets, what they share, its errors."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import demo
import numpy as np
import pandas as pd
import pytest

import posneurons as pn
from posneurons.controls import perturbation_size
from posneurons.errors import AlignmentError, NeuronError, PosNeuronsError
from posneurons.lesion_study import Workbench, rivals
from posneurons.records import Corpus

TAGS = ("NOUN", "VERB")


@cache
def few() -> Corpus:
    """For what runs many conditions."""
    return demo.small().select(np.arange(demo.small().n_rows) % 3 == 0)


@cache
def keys(k: int = 15) -> dict[str, pn.NeuronSet]:
    found = pn.rank(demo.model(), demo.small()).top(k)
    return {tag: found[tag] for tag in TAGS}


def test_lesion_study_of_two_tags() -> None:
    corpus, chosen = few(), keys()
    how: dict[str, Any] = {"controls": 3, "seed": 4, "draws": 500}
    result = pn.lesion(demo.model(), corpus, chosen, **how)
    frame = result.to_frame()
    assert len(frame) == 2 * 4 * len(corpus.tags)
    real = frame[(frame["set"] == "key") & (frame["words"] > 0)]
    np.testing.assert_allclose(real["loss_lesioned"] - real["loss_intact"], real["delta"], atol=1e-6)
    np.testing.assert_allclose(real["delta_category"] + real["delta_lexical"], real["delta"], atol=1e-6)
    assert (real["ci_low"] <= real["delta"] + 1e-9).all()
    assert (real["ci_high"] >= real["delta"] - 1e-9).all()
    flagged = set(Workbench(demo.model(), corpus).flags.neurons().names)  # type: ignore[union-attr]
    everyone = {*chosen["NOUN"].names, *chosen["VERB"].names}
    for lesioned, kind, draw, neurons in zip(result.lesion, result.kind, result.draw, result.neurons, strict=True):
        np.testing.assert_array_equal(neurons.layer_profile(6), chosen[lesioned].layer_profile(6))
        assert (draw == 0) == (kind == "key")
        assert kind == "key" or not (everyone | flagged) & set(neurons.names)
    again = pn.lesion(demo.model(), corpus, chosen, **how)
    assert again.to_frame().equals(frame)


def test_controls_are_of_the_size_that_the_ablation_asks_for() -> None:
    bench, chosen = Workbench(demo.model(), demo.small()), keys(30)
    gap = {}
    for control in ("size", "layer"):
        size = perturbation_size(demo.model(), bench.statistics, "zero")
        sets = bench.matched(chosen, "zero", 5, control)  # type: ignore[arg-type]
        pairs = [(np.log(size[k.layers, k.units]), np.log(size[m.layers, m.units]))
                 for tag, k in chosen.items() for m in sets[tag]]  # fmt: skip
        gap[control] = np.mean([np.abs(one - other).mean() for one, other in pairs])
    assert gap["size"] < 0.5 * gap["layer"]


def test_every_ablation_and_each_scope_run_and_differ() -> None:
    corpus, chosen = few(), keys()
    bench, rise = Workbench(demo.model(), corpus), {}
    for ablation in ("zero", "mean", "balanced_mean", "resample:draws=2", "resample:draws=2,donor=other",
                     "clamp:value=1", "scale:factor=0.5", "scale:factor=0"):  # fmt: skip
        result = pn.lesion(demo.model(), corpus, chosen, ablation=ablation, controls=0, draws=20, workbench=bench)
        assert set(result.to_frame()["ablation"]) == {result.ablation}
        rise[result.ablation] = result.losses[0] - result.loss_intact
    np.testing.assert_allclose(rise.pop("scale:factor=0.0"), rise["zero"], atol=1e-5)
    assert len({each.sum() for each in rise.values()}) == 7
    assert np.abs(rise["scale"]).mean() < np.abs(rise["zero"]).mean()
    local = pn.lesion(demo.model(), corpus, chosen, scope="local", controls=0, draws=20, workbench=bench)
    assert set(local.to_frame()["scope"]) == {"local"}


def test_rivals_are_lesioned_beside() -> None:
    corpus, chosen = few(), keys()
    bench = Workbench(demo.model(), corpus)
    assert bench.flags is not None
    loud = np.zeros((6, 768), dtype=bool)
    loud[chosen["NOUN"].layers[3], chosen["NOUN"].units[3]] = True
    vars(bench)["flags"] = replace(bench.flags, massive=loud)
    bottoms = {"VERB": pn.NeuronSet.parse(["L0N0", "L1N1"])}
    beside = rivals(bench, chosen, ("unflagged", "bottom", "damage"), "zero", "all", 8, bottoms)
    assert beside["bottom"] == {"VERB": [bottoms["VERB"]]}
    (without,) = beside["unflagged"]["NOUN"]
    assert set(without.names) == set(chosen["NOUN"].names) - set(bench.flags.neurons().names)
    assert "no bottom of a ranking over the whole model for NOUN" in bench.notes
    result = pn.lesion(
        demo.model(), corpus, chosen, ablation="zero", controls=2, draws=50, beside=beside, workbench=bench
    )
    frame = result.to_frame()
    found = frame[["lesion", "set", "draw"]].drop_duplicates()
    assert {("NOUN", "key", 0), ("NOUN", "matched", 2), ("NOUN", "unflagged", 1), ("VERB", "bottom", 1)} <= set(
        found.itertuples(index=False, name=None)
    )
    assert frame.loc[frame["set"] != "key", "p_value"].isna().all()
    for tag, sets in beside.get("damage", {}).items():
        assert not set(sets[0].names) & (set(chosen[tag].names) | set(bench.flags.neurons().names))


def test_the_loss_of_every_word_is_streamed_to_a_file(tmp_path: Path) -> None:
    where = tmp_path / "losses" / "all.parquet"
    result = pn.lesion(demo.model(), few(), keys(), controls=1, draws=20, losses=where)
    table = pd.read_parquet(where)
    words = len(result.loss_intact)
    assert len(table) == (1 + 4) * words
    intact = table[table["set"] == "intact"].sort_values("word")
    np.testing.assert_array_equal(intact["loss_first"], result.loss_intact)
    mine = table[(table["lesion"] == "VERB") & (table["set"] == "matched") & (table["draw"] == 1)].sort_values("word")
    np.testing.assert_array_equal(mine["loss_category"], result.more["category"].lesioned[3])
    test = few().split("test")
    assert mine["form"].tolist() == test.word_form[mine["word"]].tolist()
    assert mine["tag"].tolist() == [test.tags[tag] for tag in test.word_tag[mine["word"]]]
    assert mine["sentence"].tolist() == test.word_sentence[mine["word"]].tolist()
    assert mine["document"].tolist() == test.row_document[test.word_row[mine["word"]]].tolist()
    assert [path.name for path in where.parent.iterdir()] == ["all.parquet"]


def test_a_file_of_losses_that_is_not_finished_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Workbench, "losses", broken)
    with pytest.raises(KeyboardInterrupt):
        pn.lesion(demo.model(), demo.small(), keys(), controls=0, losses=tmp_path / "all.parquet")
    assert list(tmp_path.iterdir()) == []


def test_clusters_are_documents_where_there_are_enough() -> None:
    corpus = demo.small()
    bench = Workbench(demo.model(), corpus)
    assert bench.clusters()[0] == "sentence"
    assert "documents are too few to be resampled" in bench.notes[0]
    many = replace(corpus, row_document=np.arange(corpus.n_rows), marked_documents=True)
    assert Workbench(demo.model(), many).clusters()[0] == "document"
    unmarked = Workbench(demo.model(), replace(corpus, marked_documents=False))
    assert unmarked.clusters()[0] == "sentence"
    assert not unmarked.notes
    assert bench.clusters("document")[0] == "document"


def test_without_a_training_split_the_words_measured_serve() -> None:
    test = few().split("test")
    alone = replace(test, split_names=("test",), row_split=np.zeros(test.n_rows, dtype=np.int64))
    result = pn.lesion(demo.model(), alone, {"NOUN": pn.NeuronSet.parse(["L1N4"])}, controls=1, draws=20)
    assert result.to_frame()["delta_category"].notna().any()


def test_errors_say_what_to_do() -> None:
    corpus, some = demo.small(), {"NOUN": pn.NeuronSet.parse(["L0N1"])}
    with pytest.raises(NeuronError, match="lesion: no key neurons were given"):
        pn.lesion(demo.model(), corpus, {})
    with pytest.raises(NeuronError, match=r"neuron L0N900: the model has layers 0 to 5 and units 0 to 767"):
        pn.lesion(demo.model(), corpus, {"NOUN": pn.NeuronSet.parse(["L0N900"])})
    with pytest.raises(NeuronError, match="ablation 'burn': no such ablation; expected one of"):
        pn.lesion(demo.model(), corpus, some, ablation="burn")
    with pytest.raises(AlignmentError, match="no split 'held out'"):
        pn.lesion(demo.model(), corpus, some, split="held out")
    with pytest.raises(AlignmentError, match="cluster='word': expected 'auto', 'sentence' or 'document'"):
        pn.lesion(demo.model(), corpus, some, cluster="word")
    openers = replace(corpus, word_first=np.ones_like(corpus.word_first))
    with pytest.raises(AlignmentError, match=r"the split 'test' has no word to score \(all \d+ are the first"):
        pn.lesion(demo.model(), openers, some)
    wide = {"NOUN": pn.NeuronSet.parse([f"L0N{u}" for u in range(500)])}
    with pytest.raises(PosNeuronsError, match=r"layer 0 .* 500"):
        pn.lesion(demo.model(), corpus, wide)


def test_the_constructed_model_gives_its_closed_form_and_its_planted_dissociations() -> None:
    """The matrix is known; pairs are found to dissociate, and all of them truly do; sets that write nothing do
    nothing and dissociate nowhere.
    """
    planted = pn.markov_model(sentences=240, length=20)
    how: dict[str, Any] = {"ablation": "zero", "controls": 10, "control": "layer", "draws": 2000}
    result = pn.lesion(planted.model, planted.corpus, planted.truth, **how)
    np.testing.assert_allclose(result.matrix().to_numpy(), planted.effect, atol=1e-5)
    pairs = result.dissociations()
    effect = pd.DataFrame(planted.effect, index=list(planted.truth), columns=list(planted.truth))
    a, b = pairs["tag_a"], pairs["tag_b"]
    truth = [
        min(effect.loc[x, x] - effect.loc[y, x], effect.loc[y, y] - effect.loc[x, y]) for x, y in zip(a, b, strict=True)
    ]
    both = pairs["verdict"].isin(["classical", "strong"]).to_numpy()
    assert both.sum() >= 10  # of 30 ordered pairs
    assert (np.array(truth)[both] > 0).all()
    assert (pairs["p_items"][np.array(truth) > 0.1] <= 0.05).all()
    assert result.summary().p_value < 0.05
    own = result.to_frame().query("set == 'key' and lesion == tag")
    np.testing.assert_allclose(own["delta_category"], own["delta"], atol=0.02)  # all of it is in the category
    copies = pn.lesion(planted.model, planted.corpus, planted.copies, **how)
    np.testing.assert_array_equal(copies.losses[np.array(copies.kind) == "key"], np.tile(copies.loss_intact, (6, 1)))
    assert set(copies.dissociations()["verdict"]) == {"none"}
