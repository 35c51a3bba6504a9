"""What does every single neuron of the embedded model do for every tag, exactly?

Command:  python experiments/exact_effects.py --treebank EWT_DIR [--split dev] [--words 5000] [--scope local]
          [--out experiments/exact_effects_demo.parquet]
Cost:     about 0.2 ms per word and neuron on one core: 75 minutes for 5,000 words (measured on 1,005 words).
Outcome:  a table of 4,608 neurons x 17 tags that fast estimates can be held against: mean rise of the loss in nats per
          word of the tag if the neuron alone is set to 0 where the word is predicted. Most effects are near 0; the
          largest of a tag are some hundredths of a nat.

Rows are drawn at random (seed 0) until they hold so many scored words. Columns of the table: tag, layer, neuron, effect
(float32, rounded to 1e-6 nats); what it was made from stands in the file's own metadata under "posneurons".
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import posneurons as pn
from posneurons.lesions import scored_words
from posneurons.records import Corpus
from posneurons.singles import exact_effects
from posneurons.verification import some_rows


def table_of(effects: np.ndarray, corpus: Corpus, n_units: int, made_from: dict[str, object]) -> pa.Table:
    """Effects [tag neuron] of all neurons in order, tags without words left out."""
    present = np.flatnonzero(scored_words(corpus))
    flat = np.tile(np.arange(effects.shape[1]), len(present))
    names = pa.array(np.repeat(present, effects.shape[1]).astype(np.int8))
    columns = {
        "tag": pa.DictionaryArray.from_arrays(names, pa.array(corpus.tags)),
        "layer": (flat // n_units).astype(np.int16),
        "neuron": (flat % n_units).astype(np.int32),
        "effect": effects[present].round(6).astype(np.float32).ravel(),
    }
    return pa.table(columns).replace_schema_metadata({"posneurons": json.dumps(made_from)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treebank", default="demo", help="folder or name; the embedded one by default")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--words", type=int, default=5000)
    parser.add_argument("--neurons", type=int, help="only so many, evenly spread, for a trial")
    parser.add_argument("--scope", default="local", choices=("local", "all"))
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--out", type=Path, help="parquet file; without it nothing is written")
    asked = parser.parse_args()

    model = pn.load_model(asked.model, device=asked.device, dtype=torch.float32)
    bank = pn.load_treebank() if asked.treebank == "demo" else pn.load_treebank(asked.treebank)
    corpus = some_rows(pn.align(bank, model.tokenizer, n_ctx=256).split(asked.split), asked.words, 0)
    n_units, everyone = model.cfg.d_mlp, model.cfg.n_layers * model.cfg.d_mlp
    flat = np.arange(everyone)[:: max(1, everyone // asked.neurons)] if asked.neurons else np.arange(everyone)
    begin = time.perf_counter()
    effects = exact_effects(
        model, corpus, pn.NeuronSet.from_flat(flat, n_units), scope=asked.scope, tokens=asked.tokens, progress=True
    )
    seconds = time.perf_counter() - begin
    words = int(scored_words(corpus).sum())
    out = sys.stdout
    out.write(f"{len(flat)} neurons, {words} words, {seconds:.0f} s, {1e6 * seconds / len(flat) / words:.0f} us each\n")
    for number in np.flatnonzero(scored_words(corpus)):
        best = np.argsort(-effects[number])[:3]
        shown = ", ".join(f"L{flat[i] // n_units}N{flat[i] % n_units} {effects[number, i]:.4f}" for i in best)
        out.write(f"{corpus.tags[number]:6} {scored_words(corpus)[number]:5} words  {shown}\n")
    if asked.out and len(flat) == everyone:
        made_from: dict[str, object] = {
            "model": asked.model, "treebank": corpus.name, "split": asked.split, "scope": asked.scope,
            "ablation": "zero", "seed": 0,
            "words": {tag: int(n) for tag, n in zip(corpus.tags, scored_words(corpus), strict=True)},
        }  # fmt: skip
        pq.write_table(
            table_of(effects, corpus, n_units, made_from), asked.out, compression="zstd", compression_level=19
        )
        out.write(f"{asked.out}: {asked.out.stat().st_size / 1e6:.2f} MB\n")


if __name__ == "__main__":
    main()
