"""How long from tagged sentences to a ranking, in NeuroX and here, and how much memory?

Command:  python experiments/against_neurox.py [--treebank EWT_DIR] [--split dev] [--sentences 2000]
Cost:     two minutes on one core; NeuroX 1.0.9 (and what it imports) is fetched by pip into a folder that is removed.
Outcome:  one streamed pass in batches is several times faster than a pass for each sentence whose states are written to
          a file, and takes no more memory than the forward pass alone.

Both rank by Probeless (Antverg and Belinkov 2022, arXiv:2110.07483), each in a process of its own, with the embedded
model in float32. They do not read the same neurons: NeuroX takes the hidden states of all layers (7 x 256 units),
because its extraction knows no others; here it is the MLP neurons (6 x 768). NeuroX reads words parted by blanks, as it
must; here the treebank's own text is read. Times are without the import of libraries and with the loading of the model.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from benchmarks.timing import Peak, alone
from tables import markdown

import posneurons as pn

NEUROX = ("neurox==1.0.9", "h5py", "imbalanced-learn", "seaborn", "svgwrite")
CHECKPOINT = Path(pn.__file__).parent / "demo" / "model"
"""In bfloat16, as Llama 3's own, of which NeuroX 1.0.9 makes no numpy array: it is given a copy in float32."""


def sentences(treebank: str, split: str, n: int) -> pn.Treebank:
    """The first n sentences of a split, without words that hold a blank, which NeuroX cannot read."""
    bank = pn.load_treebank(treebank).split(split)
    whole = [each for each in bank if each.words and not any(" " in word.form for word in each.words)]
    return replace(bank, sentences=tuple(whole[:n]))


def prepare(folder: Path) -> None:
    """NeuroX, and the embedded model in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site")]
    subprocess.run([sys.executable, *install, *NEUROX], check=True, capture_output=True)
    AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(folder / "model")


def with_neurox(chosen: pn.Treebank, folder: Path) -> dict[str, float]:
    """Extract, load, and rank every tag by Probeless, as its documentation does."""
    sys.path.insert(0, str(folder / "site"))
    from neurox.data.extraction.transformers_extractor import extract_representations
    from neurox.data.loader import load_activations
    from neurox.interpretation.probeless import get_neuron_ordering_for_tag

    text, states = folder / "text", folder / "states.hdf5"
    text.write_text("".join(" ".join(word.form for word in each.words) + "\n" for each in chosen), encoding="utf-8")
    names = sorted({word.tag for each in chosen for word in each.words})
    number = {name: i for i, name in enumerate(names)}
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        extract_representations(str(folder / "model"), str(text), str(states), output_type="hdf5")
    extracted = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        activations, _ = load_activations(str(states))
        x = np.concatenate(activations)
        y = np.array([number[word.tag] for each in chosen for word in each.words])
        for name in names:
            get_neuron_ordering_for_tag(x, y, number, name)
    return {"read": extracted - begin, "rank": time.perf_counter() - extracted, "neurons": x.shape[1]}


def with_posneurons(chosen: pn.Treebank, folder: Path) -> dict[str, float]:  # noqa: ARG001
    """Align, stream and rank."""
    pn.load_model(dtype="float32")  # what it imports is no part of the time
    begin = time.perf_counter()
    model = pn.load_model(dtype="float32")
    corpus = pn.align(chosen, model.tokenizer, n_ctx=model.cfg.n_ctx)
    ranking = pn.rank(model, corpus, "probeless", at="last", split=corpus.split_names[0])
    return {"read": time.perf_counter() - begin, "rank": 0.0, "neurons": ranking.scores[0].size}


def bare(chosen: pn.Treebank, folder: Path) -> dict[str, float]:  # noqa: ARG001
    """The forward pass alone, in the same batches."""
    from posneurons.activations import batches

    pn.load_model(dtype="float32")  # what it imports is no part of the time
    begin = time.perf_counter()
    model = pn.load_model(dtype="float32")
    corpus = pn.align(chosen, model.tokenizer, n_ctx=model.cfg.n_ctx)
    with torch.no_grad():
        for batch in batches(corpus, "cpu"):
            model(batch.tokens, stop_at_layer=model.cfg.n_layers)
    return {"read": time.perf_counter() - begin, "rank": 0.0, "neurons": 0}


WAYS = {"forward pass alone": bare, "posneurons": with_posneurons, "NeuroX 1.0.9": with_neurox}


def measured(way: str, folder: Path, treebank: str, split: str, n: int) -> dict[str, float]:
    """One way, best in a process of its own: seconds, words, and the mebibytes that it makes the process grow by."""
    chosen = sentences(treebank, split, n)
    with Peak() as peak:
        found = WAYS[way](chosen, folder)
    words = sum(len(each.words) for each in chosen)
    seconds = found["read"] + found["rank"]
    return {**found, "words": words, "MiB": peak.bytes / 2**20, "seconds": seconds, "words/s": round(words / seconds)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--treebank", default="demo")
    options.add_argument("--split", default="train")
    options.add_argument("--sentences", type=int, default=2000)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        rows = {way: alone(measured, way, folder, given.treebank, given.split, given.sentences) for way in WAYS}
    frame = pd.DataFrame(rows).T.rename_axis("way").reset_index()
    shown = frame[["way", "neurons", "words", "seconds", "words/s", "MiB"]]
    sys.stdout.write(markdown(shown, digits=".4g") + "\n")


if __name__ == "__main__":
    main()
