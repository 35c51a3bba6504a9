"""Do neurons of a part of speech stand in for each other, and do later layers make up for a lesion of them?

Command:  python experiments/self_repair.py [--treebank FOLDER] [--k 50] [--words 300] [--iterate VERB]
Cost:     two minutes on one core with the embedded model and treebank, of which most goes into the single lesions.
Outcome:  joint effects above the sums of single ones, and no self-repair (experiments/LOG.md).

Expected were joint effects of the 50 neurons above the sums of single ones, and total effects at the predicting
position below the direct ones where later layers repair. Measured (eight tags, about 300 words of "test", of which 208
are theirs): median joint / singles, local, for attribution 1.11 (zero) and 1.01 (mean), for correlation 1.26 and 1.23
where defined, up to 3.1 for nouns. No repair: of 64 intervals of `repaired` none is above 0 and 8 are below, so that
totals exceed direct effects (attribution, zero, local: 0.440 against 0.338 nats): in the embedded model, what later
layers make of these lesions adds to them. With so few words the intervals are wide.

Rows are tags, each under the lesion of its own neurons, ranked on "train" and lesioned on words of "test". A ratio is
left out where the sum of singles is not clearly from 0. Repair is read in the scope "local"; in "all" the total holds
what lesions at earlier positions send on, and the direct effect does not. Repair by neurons of the same set does not
show, since all are ablated; below 0, later layers need what the set writes rather than make up for it.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import pandas as pd
import torch
from setting import shortened
from tables import markdown

import posneurons as pn
from posneurons.composition import compose
from posneurons.iteration import iterate
from posneurons.lesion_study import Workbench
from posneurons.neurons import NeuronSet

TAGS = ["NOUN", "VERB", "ADJ", "ADV", "ADP", "AUX", "DET", "PRON"]


def write(*parts: str) -> None:
    sys.stdout.write("\n\n".join(parts) + "\n\n")
    sys.stdout.flush()


def ends(frame: pd.DataFrame, name: str) -> list[str]:
    """A column with its interval."""
    columns = frame[[name, f"{name}_low", f"{name}_high"]].to_numpy()
    return ["" if np.isnan(row[0]) else "{:.3f} [{:.3f}, {:.3f}]".format(*row) for row in columns]


def rivals(bench: Workbench, keys: dict[str, NeuronSet], ablation: str, draws: int) -> str:
    """What direct and total effects are of random sets that match each tag's, on the words of that tag."""
    sets = {
        f"{tag} {draw}": each
        for tag, found in bench.matched(keys, ablation, draws).items()
        for draw, each in enumerate(found)
    }
    if not sets:
        return "no random sets"
    everything = compose(
        bench.model, bench.test, sets, ablation=ablation, scope="local", singles=False, draws=2, workbench=bench
    )
    frame = everything.to_frame()
    frame = frame[frame["lesion"].str.split(" ").str[0] == frame["tag"]]
    return (
        f"{draws} matched random sets of each tag, local: mean direct {frame['direct'].mean():.3f}, total "
        f"{frame['total'].mean():.3f}, by the final norm {frame['norm_repaired'].mean():.3f} nats"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--treebank", default="demo")
    parser.add_argument("--methods", nargs="+", default=["attribution", "correlation"])
    parser.add_argument("--ablations", nargs="+", default=["zero", "mean"])
    parser.add_argument("--scopes", nargs="+", default=["local", "all"])
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--words", type=int, default=300, help="of test, about; 0 for all")
    parser.add_argument("--tags", nargs="+", default=TAGS, help="whose sets are lesioned")
    parser.add_argument("--least", type=int, default=10, help="test words that a tag needs")
    parser.add_argument("--iterate", nargs="+", default=[], help="tags to rank and lesion three times over")
    parser.add_argument("--controls", type=int, default=3, help="matched random sets of each tag")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    options = parser.parse_args()
    begin = time.perf_counter()
    model = pn.load_model(options.model, device=options.device, dtype=torch.float32)
    corpus = pn.align(pn.load_treebank(options.treebank), model.tokenizer)
    corpus = shortened(corpus, options.words, options.seed) if options.words else corpus
    bench = Workbench(model, corpus, seed=options.seed)
    counts = corpus.split("test").tag_counts()
    for method in options.methods:
        keys = pn.rank(model, corpus, method).top(options.k)
        tags = [tag for tag in options.tags if counts[tag] >= options.least]
        keys = {tag: keys[tag] for tag in tags}
        for ablation in options.ablations:
            table, notes = pd.DataFrame({"tag": list(keys)}), []
            for scope in options.scopes:
                found = compose(model, corpus, keys, ablation=ablation, scope=scope, draws=2000, workbench=bench)
                frame = found.to_frame()
                frame = frame[frame["lesion"] == frame["tag"]]
                table["words"] = frame["words"].to_numpy()
                table[f"joint, {scope}"] = frame["joint"].to_numpy()
                table[f"joint/singles, {scope}"] = ends(frame, "ratio")
                table[f"repaired, {scope}"] = ends(frame, "repaired")
                notes.append(
                    f"{scope}: median joint/singles {frame['ratio'].median():.2f} ({frame['ratio'].count()} tags); "
                    f"repaired clearly above 0 for {(frame['repaired_low'] > 0).sum()} and below for "
                    f"{(frame['repaired_high'] < 0).sum()} of {len(frame)} tags; mean over tags: direct "
                    f"{frame['direct'].mean():.3f}, total {frame['total'].mean():.3f}, by the final norm "
                    f"{frame['norm_repaired'].mean():.3f} nats"
                )
            notes.append(rivals(bench, keys, ablation, options.controls))
            table["direct"] = frame["direct"].to_numpy()
            table["repaired by the norm"] = frame["norm_repaired"].to_numpy()
            write(f"## {method}, {ablation}, {options.k} neurons", markdown(table), *notes)
        if options.iterate:
            rounds = iterate(
                model, corpus, method, k=options.k, tags=options.iterate, controls=5, draws=2000, workbench=bench
            )
            write(f"## {method}: ranked anew after each lesion (mean)", markdown(rounds.to_frame().drop(columns="new")))
    write(f"{time.perf_counter() - begin:.0f} s; notes: {'; '.join(bench.notes) or 'none'}")


if __name__ == "__main__":
    main()
