"""How much faster are several processes than one?

Command:  OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 experiments/many_processes.py --treebank EWT_DIR [--model demo]
          [--words 1000] [--repeats 3]
Cost:     a minute or two on two cores.
Outcome:  two processes on two idle cores rank and lesion nearly twice as fast as one; the numbers are the same.

Side by side in one launch, alternating: the same call by all processes and by the first alone (the others wait). On a
machine that has other work two processes get more of it than one, so that the ratio says little there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
from benchmarks.timing import turns

import posneurons as pn
from posneurons import distributed, passes
from posneurons.activations import sample_rows
from posneurons.attribution import attribution
from posneurons.lesions import word_losses


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--model", default="demo")
    asked.add_argument("--treebank", default="demo")
    asked.add_argument("--words", type=int, default=1000)
    asked.add_argument("--repeats", type=int, default=3)
    options = asked.parse_args()
    distributed.lead(lambda: measure(options))


def measure(options: argparse.Namespace) -> None:
    model = distributed.load_model(options.model)
    corpus = pn.align(pn.load_treebank(options.treebank), model.tokenizer, n_ctx=model.cfg.n_ctx)
    corpus = corpus.split("test" if "test" in corpus.split_names else corpus.split_names[0])
    corpus = sample_rows(corpus, "predict", options.words, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    flat = rng.integers(model.cfg.n_layers * model.cfg.d_mlp, size=(40, 50))
    lesions = [pn.Condition(pn.NeuronSet.from_flat(np.unique(each), model.cfg.d_mlp)) for each in flat]
    calls: dict[str, Callable[[], np.ndarray]] = {
        "moments": lambda: passes.tag_moments(model, corpus)["predict"].mean,
        "attribution": lambda: attribution(model, corpus).scores,
        "lesions": lambda: word_losses(model, corpus, lesions).rises(),
    }
    sys.stdout.write(
        f"{distributed.size()} processes, {len(corpus):,} words, {len(lesions)} lesions of 50 random neurons\n"
    )
    for name, call in calls.items():
        spent = turns({"all": call, "one": lambda call=call: by_one(call)}, options.repeats)
        many, one = spent["all"], spent["one"]
        apart = float(np.nanmax(np.abs(many.found - one.found)))
        sys.stdout.write(
            f"{name}: {len(corpus) / one.least:,.0f} words/s by one, {len(corpus) / many.least:,.0f} by all "
            f"({one.least / many.least:.2f} times); least of {options.repeats}; largest difference {apart:.1e}\n"
        )


def by_one(call: Callable[[], np.ndarray]) -> np.ndarray:
    with distributed.alone():
        return call()


if __name__ == "__main__":
    main()
