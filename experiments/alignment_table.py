"""How many words of a treebank have boundaries that are token boundaries, and why are the others left out?

    .venv/bin/python experiments/alignment_table.py ../shared/data/ud/* --tokenizer ../shared/data/llama3-tokenizer
    .venv/bin/python experiments/alignment_table.py en_ewt --tokenizer ../shared/data/llama3-tokenizer --by-tag

Cost: about half a minute for five treebanks of Universal Dependencies (380,000 words) on one idle core, most of it for
reading; the million words of Brown take as long.
Expected: with Llama 3's tokens at most 4 % of the words of EWT are left out, and under 1 % where contractions are one
unit. Left out are punctuation that one token runs together (`),`), then the halves of contractions (the treebank says
"do|n't", Llama 3 "don|'t"). German and Spanish lose words that share a surface ("im", "del") as well; Chinese and Hindi
lose most to tokens that run across words (and the full stop of Hindi to the letters before it).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import Any, get_args

import pandas as pd
import psutil
from tables import markdown

import posneurons as pn
from posneurons.alignment import REASONS
from posneurons.words import Context, Units


def share(words: int, of: int) -> str:
    return f"{100 * words / of:.2f}"


def row(bank: pn.Treebank, tokenizer: Any, n_ctx: int | None, units: Units, context: Context) -> dict[str, object]:
    """Words kept and left out by reason, in percent of all words, and the speed."""
    begin = time.perf_counter()
    corpus = pn.align(bank, tokenizer, n_ctx=n_ctx, units=units, context=context)
    seconds = time.perf_counter() - begin
    words, reasons = bank.tag_counts().total(), Counter[str]()
    for (_, _, reason), count in corpus.dropped.items():
        reasons[reason] += count
    return {
        "treebank": bank.name,
        "words": f"{words:,}",
        "context": context,
        "units": units,
        "in units %": share(int(corpus.word_parts[corpus.word_parts > 1].sum()), words),
        "left out %": share(sum(reasons.values()), words),
        **{f"{reason} %": share(reasons[reason], words) for reason in REASONS},
        "rows": f"{corpus.n_rows:,}",
        "words/s": f"{words / seconds:,.0f}",
    }


def by_tag(bank: pn.Treebank, corpus: pn.Corpus) -> pd.DataFrame:
    """Words, kept words and dropped words by reason for each tag, and their sum."""
    dropped = pn.dropped_table(corpus).pivot_table(index="tag", columns="reason", values="words", aggfunc="sum")
    frame = pd.DataFrame({"words": bank.tag_counts(), "kept": corpus.tag_counts()})
    frame = frame.join(dropped[[reason for reason in REASONS if reason in dropped]]).fillna(0).astype(int).sort_index()
    frame.loc["all"] = frame.sum()
    frame["kept %"] = (100 * frame["kept"] / frame["words"]).round(2)
    return frame.rename_axis("tag").reset_index()


def main() -> None:
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("treebanks", nargs="+", help="folders, files in CoNLL-U, or codes")
    parser.add_argument("--tokenizer", required=True, help="a folder or a Hub name")
    parser.add_argument("--n-ctx", type=int, help="positions the model reads; default: what the tokenizer says")
    parser.add_argument("--tag", default="upos")
    parser.add_argument("--cache", help="folder of treebanks that were fetched")
    parser.add_argument("--by-tag", action="store_true", help="a table for each treebank, one row per tag")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    rows, notes = [], []
    for source in options.treebanks:
        before, begin = psutil.Process().memory_info().rss, time.perf_counter()
        bank = pn.load_treebank(source, tag=options.tag, cache=options.cache)
        seconds, words = time.perf_counter() - begin, bank.tag_counts().total()
        held = (psutil.Process().memory_info().rss - before) / 1e6
        notes.append(
            f"{bank.name}: read in {seconds:.1f} s ({words / seconds:,.0f} words/s), the process grew by {held:.0f} MB"
        )
        if options.by_tag:
            corpus = pn.align(bank, tokenizer, n_ctx=options.n_ctx)
            sys.stdout.write(f"### {bank.name}\n\n{markdown(by_tag(bank, corpus), digits='.2f')}\n\n")
            continue
        documents = bank.marked_documents
        how = [(units, context) for context in get_args(Context) for units in get_args(Units)]
        rows += [row(bank, tokenizer, options.n_ctx, *each) for each in how if documents or each[1] == "sentence"]
    if rows:
        sys.stdout.write(markdown(pd.DataFrame(rows)) + "\n\n")
    sys.stdout.write("\n".join(notes) + "\n")


if __name__ == "__main__":
    main()
