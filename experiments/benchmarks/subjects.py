"""What is measured: a model, its words, and how many of them each part takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import write_random_llama

import posneurons as pn
from posneurons.records import Corpus
from posneurons.sentences import Treebank

DATA = Path(__file__).parents[3] / "shared" / "data"
"""Where a treebank and the tokenizer of Llama 3 may lie, beside the checkout."""
EWT, TOKENIZER = DATA / "ud" / "UD_English-EWT", DATA / "llama3-tokenizer"
LAYERS = 2
"""Of the random model in the shape of Llama-3.2-1B, which has 16."""
N_CTX = 256
"""Tokens that rows are cut to, the context of the embedded model, so that both models read the same rows."""


@dataclass(frozen=True)
class Sizes:
    """How much each part reads; repeats are of short jobs, and long ones are done once."""

    repeats: int = 5
    ranking_words: int = 25_000
    ig_rows: int = 200
    ig_words: int = 40
    ig_steps: int = 8
    sweep_words: int = 2000
    sweep_singles: int = 100
    sweep_plain: int = 3
    exact_words: int = 150
    exact_neurons: int = 0  # all
    whole_words: tuple[int, int] = (3000, 1000)
    whole_controls: int = 4
    whole_tags_with: int = 100
    growth_words: tuple[int, ...] = (1000, 10_000, 25_000, 50_000, 100_000, 200_000)
    growth_neurons: tuple[int, ...] = (256, 768, 1536, 3072, 4096)
    growth_tags: tuple[int, ...] = (2, 17, 48, 96, 128)
    growth_conditions: tuple[int, ...] = (1, 20, 60, 120, 160)


def sizes_of(model: str, *, quick: bool) -> Sizes:
    """What suits a model."""
    if model == "1b":
        small = {"ig_rows": 4, "ig_words": 3, "sweep_words": 100, "sweep_singles": 12, "sweep_plain": 2}
        small |= {"exact_words": 100, "exact_neurons": 16, "whole_words": (400, 120), "whole_controls": 2}
        usual = Sizes(repeats=3, ranking_words=1000, whole_tags_with=45, **small)
        return replace(usual, repeats=2, ranking_words=100, ig_rows=2, ig_words=1) if quick else usual
    short = {"growth_words": (200, 500, 1000), "growth_neurons": (64, 256, 512), "growth_tags": (2, 8, 32)}
    few = {"ig_rows": 8, "ig_words": 2, "sweep_words": 100, "sweep_singles": 5, "sweep_plain": 1, "exact_words": 60}
    few |= {"exact_neurons": 50, "whole_words": (500, 200), "whole_controls": 2, "whole_tags_with": 40}
    brief = Sizes(repeats=2, ranking_words=1000, growth_conditions=(1, 5, 10), **few, **short)
    return brief if quick else Sizes()


@dataclass(frozen=True)
class Subject:
    """A model and a treebank by name: both are loaded in the process that measures them."""

    name: str
    source: str
    treebank: str
    seed: int = 0
    neurox: bool = False

    def load(self, dtype: str | None = None) -> Any:
        """The model, in its checkpoint's own dtype or another."""
        return pn.load_model(self.source, dtype=dtype, device="cpu")

    @property
    def folder(self) -> Path:
        """Where its checkpoint is."""
        return Path(pn.__file__).parent / "demo" / "model" if self.source == "demo" else Path(self.source)

    def sentences(self, split: str, words: int) -> Treebank:
        """Sentences of one split, drawn at random until they hold so many words; again and again where it is short."""
        bank = read(self.treebank, split)
        order = np.random.default_rng(self.seed).permutation(len(bank.sentences))
        lengths = np.array([len(each.words) for each in bank.sentences])[order]
        times = int(np.ceil(words / lengths.sum()))
        enough = int(np.searchsorted(np.tile(lengths, times).cumsum(), words)) + 1
        chosen = np.tile(order, times)[:enough]
        return replace(bank, sentences=tuple(bank.sentences[number] for number in chosen))

    def corpus(self, model: Any, split: str, words: int) -> Corpus:
        """The same, aligned with a model's tokens."""
        return pn.align(self.sentences(split, words), model.tokenizer, n_ctx=N_CTX)


def read(treebank: str, split: str) -> Treebank:
    """One split, without reading the others where each has a file of its own."""
    folder = Path(treebank)
    files = sorted(folder.glob(f"*{split}*.conllu")) if folder.is_dir() else []
    return pn.load_treebank(files[0] if len(files) == 1 else treebank).split(split)


def usual_treebank() -> str:
    """English-EWT where it is at hand, else the embedded treebank."""
    return str(EWT) if EWT.is_dir() else "demo"


def write_random(folder: Path) -> None:
    """A random Llama in the shape of Llama-3.2-1B with few layers, with the tokenizer of Llama 3 if it is at hand."""
    tokenizer = TOKENIZER if TOKENIZER.is_dir() else None
    write_random_llama.write(folder, "1b", layers=LAYERS, tied=True, tokenizer=tokenizer)


def chosen(everything: Sequence[str], only: str | None) -> list[str]:
    """Names separated by commas, in the order of all. Raises SystemExit where one is unknown."""
    wanted = list(everything) if only is None else only.split(",")
    unknown = [name for name in wanted if name not in everything]
    if unknown:
        raise SystemExit(f"{unknown[0]!r} is none of {', '.join(everything)}")
    return [name for name in everything if name in wanted]
