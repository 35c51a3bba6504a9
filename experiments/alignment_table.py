"""How many words of a treebank have boundaries that are token boundaries, and why are the others left out?

    .venv/bin/python experiments/alignment_table.py ../shared/data/ud/UD_English-EWT \
        --tokenizer ../shared/data/llama3-tokenizer

Cost: about 4 seconds for EWT on one core (16,622 sentences, 254,818 words), most of it for reading.
Expected: with Llama 3's tokens at most 4 % of the words of EWT are left out (measured: 2.83 %). Most are punctuation
that one token runs together (`),`), then the halves of contractions (the treebank says "do|n't", Llama 3 "don|'t"), so
SYM, PART, PUNCT and AUX lose most. German and Spanish lose words that share a surface ("im", "del") as well; Chinese
and Hindi lose most to tokens that run across words (and the full stop of Hindi to the letters before it).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import pandas as pd

import posneurons as pn
from posneurons.alignment import REASONS


def table(bank: pn.Treebank, corpus: pn.Corpus) -> pd.DataFrame:
    """Words, kept words and dropped words by reason for each tag, and their sum."""
    dropped = pn.dropped_table(corpus).pivot_table(index="tag", columns="reason", values="words", aggfunc="sum")
    frame = pd.DataFrame({"words": bank.tag_counts(), "kept": corpus.tag_counts()})
    frame = frame.join(dropped[[reason for reason in REASONS if reason in dropped]]).fillna(0).astype(int).sort_index()
    frame.loc["all"] = frame.sum()
    frame["kept %"] = (100 * frame["kept"] / frame["words"]).round(2)
    return frame


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table, numbers to the right."""
    head = ["tag", *frame.columns]
    rows = [[tag, *(f"{value:,.2f}" if name == "kept %" else f"{int(value):,}" for name, value in row.items())]
            for tag, row in frame.iterrows()]  # fmt: skip
    lines = [head, ["---", *["---:"] * len(frame.columns)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("treebanks", nargs="+", type=Path, help="folders or files in CoNLL-U")
    parser.add_argument("--tokenizer", required=True, help="a folder or a Hub name")
    parser.add_argument("--context", type=int, help="positions the model reads; default: what the tokenizer says")
    parser.add_argument("--tag", default="upos")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    for path in options.treebanks:
        begin = time.perf_counter()
        bank = pn.load_treebank(path, tag=options.tag)
        loaded = time.perf_counter()
        corpus = pn.align(bank, tokenizer, n_ctx=options.context)
        seconds = time.perf_counter() - loaded
        words = bank.tag_counts().total()
        sys.stdout.write(
            f"### {bank.name}\n\n{markdown(table(bank, corpus))}\n\n"
            f"{len(bank):,} sentences, {len(corpus.tokens):,} tokens, {corpus.split_sentences} sentences split. "
            f"Read in {loaded - begin:.1f} s ({words / (loaded - begin):,.0f} words/s), "
            f"aligned in {seconds:.1f} s ({words / seconds:,.0f} words/s).\n\n"
        )


if __name__ == "__main__":
    main()
