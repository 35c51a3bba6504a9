"""Which languages does a model know at all: its loss per character, beside that of a unigram of its tokens?

    .venv/bin/python experiments/known_languages.py demo ../shared/data/ud/*

Cost: one forward pass over 4,000 test words of each treebank; about a minute for six treebanks on one core.
Expected: the embedded model, which has read English only, beats the unigram on English and on nothing else. Treebanks
without a training split are split anew by the seed.
"""

from __future__ import annotations

import argparse
import sys

import pandas as pd
from tables import markdown

import posneurons as pn
from posneurons.config import Config
from posneurons.corpora import read_corpus, read_treebank
from posneurons.fluency import fluency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("treebanks", nargs="+", help="'demo', folders, files in CoNLL-U, or codes")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--cache", help="folder of treebanks that were fetched")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, rows = pn.load_model(options.model), []
    for source in options.treebanks:
        config = Config(treebank=source, cache=options.cache, seed=options.seed)
        bank, _ = read_treebank(config)
        corpus, _ = read_corpus(config, bank, model.tokenizer, model.cfg.n_ctx)
        found = fluency(model, corpus, seed=options.seed)
        rows.append(
            {
                "treebank": bank.name,
                "words": found.words,
                "characters": found.characters,
                "model": found.model,
                "unigram": found.unigram,
                "knows": "yes" if found.knows else "no",
            }
        )
    sys.stdout.write(f"Nats per character of the words\n\n{markdown(pd.DataFrame(rows))}\n")


if __name__ == "__main__":
    main()
