"""How much faster are integrated gradients of all positions at once than the usual loop, and are they the same?

Command:  python experiments/ig_speed.py [--treebank EWT_DIR] [--model demo] [--rows 200] [--words 40]
Cost:     five minutes on one core.
Outcome:  equal attributions in float32 (within 1e-4 of a layer's largest), and at least 20 times the speed of the loop.

The usual loop is that of Knowledge Neurons (Dai et al. 2022, arXiv:2104.08696): for each word and layer the nodes of
the integral are a batch of copies of the sentence, the activations at the position that predicts are scaled in each
copy, and one forward and one backward pass give all derivatives. It is timed three times: as it is, with the sentence
cut after the word because nothing later matters, and so with the logits of the one position that is asked for alone.
The loops take a word here and there of the rows, the fast way takes all of them; nodes are the same
(midpoint rule). Times are the least of the repeats, after a warm-up, in one process. The last table says what the fast
way spends its time on.

The gain grows with the sentences: for each word, layer and node the loop reads all that comes before the word through
all layers, the fast way one position through the layers that follow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from benchmarks.timing import now, turns

import posneurons as pn
from posneurons import models, path_runs
from posneurons.attribution import Scene, scenes
from posneurons.locality import can_be_local
from posneurons.path_runs import attributions
from posneurons.quadrature import Completeness, nodes
from posneurons.records import Corpus

TARGET: Any = "log_probability"
RULE: Any = "midpoint"


def plain_word(model: Any, text: torch.Tensor, at: int, target: int, steps: int, whole: bool) -> torch.Tensor:
    """Attributions [layer neuron] to the log-probability of the token after position `at`, layer by layer."""
    tokens, found = text.repeat(steps, 1), []
    places, weights = nodes(steps, RULE, torch.ones(1, device=text.device))
    acts = models.run_with_cache(model, text[None], [models.post_name(layer) for layer in range(model.cfg.n_layers)])
    for layer in range(model.cfg.n_layers):
        here = acts[models.post_name(layer)][0, at].detach()
        points = (here * places).requires_grad_()

        def scale(value: torch.Tensor, hook: Any, points: torch.Tensor = points) -> torch.Tensor:  # noqa: ARG001
            value = value.clone()
            value[:, at] = points
            return value

        hooks = [(models.post_name(layer), scale)]
        if whole:
            logits = model.run_with_hooks(tokens, fwd_hooks=hooks)[:, at].float()
        else:
            logits = models.unembed(model, models.residual(model, tokens, hooks)[:, at])
        (slopes,) = torch.autograd.grad(logits.log_softmax(-1)[:, target].sum(), points)
        found.append(here * (weights * slopes).sum(0))
    return torch.stack(found)


def plain(
    model: Any, corpus: Corpus, words: np.ndarray, steps: int, whole: bool = True, cut: bool = False
) -> torch.Tensor:
    """The usual loop: [word layer neuron]."""
    device, found = models.describe(model).device, []
    for word in words:
        text, first = corpus.row_tokens(corpus.word_row[word]), corpus.word_first[word]
        tokens = torch.from_numpy(text[:first] if cut else text).to(device)
        found.append(plain_word(model, tokens, int(first) - 1, int(text[first]), steps, whole))
    return torch.stack(found)


def fast(model: Any, batches: list[Scene], steps: int, words: np.ndarray) -> torch.Tensor:
    """The package's way for all words of all rows; those asked for are kept: [word layer neuron]."""
    kept, seen, local = {}, Completeness(), can_be_local(model)
    wanted = set(words.tolist())
    counts = dict.fromkeys(range(models.describe(model).n_layers), steps)
    for scene in batches:
        mine = [(slot, word) for slot, word in enumerate(scene.words.tolist()) if word in wanted]
        slots = torch.tensor([slot for slot, _ in mine], dtype=torch.int64, device=scene.where.device)
        how: dict[str, Any] = {"steps": counts, "rule": RULE, "target": TARGET, "path": "layer"}
        found = torch.stack(
            [each[slots] for _, each in attributions(model, scene, **how, local=local, seen=seen)], dim=1
        )
        kept.update(zip([word for _, word in mine], found, strict=True))
    return torch.stack([kept[word] for word in words.tolist()])


class Shares:
    """Seconds spent in parts of a job, each without what other parts spend inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside: list[float] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begin = now()
        self._inside.append(0.0)
        yield
        spent, inner = now() - begin, self._inside.pop()
        self.seconds[name] = self.seconds.get(name, 0.0) + spent - inner
        if self._inside:
            self._inside[-1] += spent

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*args, **options)

        return wrapped


def shares(job: Callable[[], Any]) -> dict[str, float]:
    """Seconds of one run by what they are spent on."""
    found = Shares()
    backward = torch.autograd.grad

    def graded(*args: Any, **options: Any) -> Any:
        inside = sys._getframe(1).f_code.co_name == "score_and_gradient"
        with found.part("unembedding in float32, there and back" if inside else "attention and MLP, backward"):
            return backward(*args, **options)

    unembedding = "unembedding in float32, there and back"
    with (
        patch.object(models, "residual", found.timed("attention and MLP, forward", models.residual)),
        patch.object(path_runs, "score_and_gradient", found.timed(unembedding, path_runs.score_and_gradient)),
        patch.object(path_runs, "_scores", found.timed(unembedding, path_runs._scores)),
        patch.object(torch.autograd, "grad", graded),
        found.part("the rest"),
    ):
        job()
    return found.seconds


def scenes_of(model: Any, corpus: Corpus, tokens: int) -> list[Scene]:
    """The words of a corpus in batches of so many tokens."""
    device = models.describe(model).device
    return list(scenes(corpus, "predict", device, tokens=tokens, limit=tokens, progress=False, label=""))


def some_words(batches: list[Scene], number: int) -> tuple[int, np.ndarray]:
    """How many words the batches have, and so many of them, spread over all."""
    everyone = np.sort(np.concatenate([scene.words.cpu().numpy() for scene in batches]))
    where = np.linspace(0, len(everyone) - 1, min(number, len(everyone))).round().astype(np.int64)
    return len(everyone), everyone[where]


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of attributions [word layer neuron], as a share of its layer's largest."""
    return ((found - expected).abs().amax((0, 2)) / expected.abs().amax((0, 2))).max().item()


def compare(model: Any, corpus: Corpus, asked: argparse.Namespace) -> str:
    """The tables."""
    device = models.describe(model).device
    batches = scenes_of(model, corpus, asked.tokens)
    n_words, words = some_words(batches, asked.words)
    plain(model, corpus, words[:2], asked.steps)  # to warm up
    spent = turns(
        {
            "fast": lambda: fast(model, batches, asked.steps, words),
            "full": lambda: plain(model, corpus, words, asked.steps),
            "cut": lambda: plain(model, corpus, words, asked.steps, cut=True),
            "one": lambda: plain(model, corpus, words, asked.steps, whole=False, cut=True),
        },
        asked.repeats,
    )
    off = difference(spent["fast"].found, spent["full"].found)
    each = spent["fast"].least / n_words
    full, cut, one = (spent[name].least / len(words) for name in ("full", "cut", "one"))
    parts = shares(lambda: fast(model, batches, asked.steps, words))
    before = float(corpus.word_first[words].mean())
    total = sum(parts.values())
    rows = "".join(
        f"| {name} | {seconds / total:.0%} |\n" for name, seconds in sorted(parts.items(), key=lambda item: -item[1])
    )
    return (
        f"{corpus.name}: {corpus.n_rows} rows, {n_words} words ({len(words)} in the loops), {asked.steps} nodes, "
        f"{before:.1f} tokens before a word, {device}, {torch.get_num_threads()} thread(s); "
        f"largest difference {off:.1e} of a layer's largest attribution\n\n"
        "| way | seconds per word | times faster than the loop |\n|---|---|---|\n"
        f"| loop | {full:.4f} | 1 |\n"
        f"| loop, the sentence cut after the word | {cut:.4f} | {full / cut:.1f} |\n"
        f"| loop, cut, and one position's logits | {one:.4f} | {full / one:.1f} |\n"
        f"| all positions at once | {each:.4f} | {full / each:.1f} |\n\n"
        "| the fast way's time goes to | share |\n|---|---|\n" + rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treebank", default="demo", help="folder or name; the embedded one by default")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=200, help="rows, spread over the split")
    parser.add_argument("--words", type=int, default=40, help="words that the loops are timed on")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2048)
    asked = parser.parse_args()

    model = pn.load_model(asked.model, device=asked.device, dtype=torch.float32)
    bank = pn.load_treebank() if asked.treebank == "demo" else pn.load_treebank(asked.treebank)
    corpus = pn.align(bank, model.tokenizer, n_ctx=256).split(asked.split)
    spread = np.linspace(0, corpus.n_rows - 1, min(asked.rows, corpus.n_rows)).round().astype(np.int64)
    sys.stdout.write(compare(model, corpus.select(np.isin(np.arange(corpus.n_rows), spread)), asked))


if __name__ == "__main__":
    main()
