"""What this installation can do: versions, devices, models and treebanks at hand; and what a treebank holds."""

from __future__ import annotations

import platform
import textwrap
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import Any

import psutil
import torch

from posneurons import __version__
from posneurons.manifest import PACKAGES
from posneurons.registry import Entry, default_cache, registry
from posneurons.sentences import Treebank

WIDTH = 118
TAGS_SHOWN = 40


def examine(cache: str | PathLike[str] | None = None) -> list[str]:
    """Lines for the terminal, each `what: finding`; nothing is fetched.

    Args:
        cache: where treebanks that were fetched are; by default `registry.default_cache()`.
    """
    demo = Path(__file__).parent / "demo"
    lines = [f"posneurons {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    lines += [f"{name}: {metadata.version(name)}" for name in PACKAGES]
    memory = psutil.virtual_memory()
    lines.append(
        f"cpu: {torch.get_num_threads()} threads, {memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    )
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        lines.append(
            f"cuda:{number}: {torch.cuda.get_device_name(number)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        )
    if not torch.cuda.is_available():
        lines.append("cuda: none")
    model, treebank = demo / "model" / "model.safetensors", sorted((demo / "treebank").glob("*.conllu"))
    lines.append(
        f"embedded model: {f'{model.stat().st_size / 1e6:.1f} MB' if model.exists() else 'missing; reinstall'}"
    )
    lines.append(f"embedded treebank: {', '.join(path.name for path in treebank) or 'missing; reinstall'}")
    return [*lines, _stanza(), *_treebanks(default_cache() if cache is None else Path(cache))]


def _stanza() -> str:
    """The version of Stanza and the languages that it can tag here."""
    from posneurons.tagging import installed_languages

    languages = ", ".join(installed_languages())
    return f"stanza: {metadata.version('stanza')}, models of {languages or 'no language'} on disk"


def _treebanks(cache: Path) -> Iterator[str]:
    """The registry: for each release, the codes by language; those in the cache are marked."""
    yield f"treebanks by code (* is in the cache, {cache}; the others are fetched on first use):"
    groups: dict[str, list[Entry]] = {}
    for entry in registry().values():
        groups.setdefault(f"{entry.release}, {_pin(entry)}", []).append(entry)
    for title, entries in sorted(groups.items()):
        ordered = sorted(entries, key=lambda entry: entry.language)
        languages = [
            f"{language} " + ", ".join(f"{entry.code}{'*' * _is_cached(entry, cache)}" for entry in codes)
            for language, codes in groupby(ordered, lambda entry: entry.language)
        ]
        yield from _wrapped(f"  {title}:", languages, "; ")


def _pin(entry: Entry) -> str:
    if entry.pinned:
        return "pinned by sha256"
    some = any(file.sha256 for file in entry.files)
    return "pinned by sha256 but for train" if some else "pinned by tag, sha256 kept on first use"


def _is_cached(entry: Entry, cache: Path) -> bool:
    return all((cache / file.place).is_file() for file in entry.files)


def _wrapped(title: str, items: list[str], separator: str) -> list[str]:
    """A title and a list in lines of at most `WIDTH` characters, broken between items where that can be."""
    glued = separator.join(item.replace(" ", "\xa0", 1) for item in items)
    indent = " " * (len(title) - len(title.lstrip()) + 2)
    lines = textwrap.wrap(
        f"{title} {glued}", WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\xa0", " ") for line in lines]


def examine_treebank(treebank: Treebank, tokenizer: Any = None) -> list[str]:
    """What a treebank holds, split by split, and how often each tag occurs.

    Args:
        treebank: any treebank.
        tokenizer: of the model to be studied; also says what the alignment with its tokens leaves out, and why.

    Raises:
        AlignmentError: as `alignment.align`.

    >>> from posneurons.treebank import load_treebank
    >>> examine_treebank(load_treebank().split("dev"))[1]
    'dev: 128 sentences, 1,610 tokens, 1,633 words, 23 multiword tokens, 3 documents, 17 tags'
    """
    lines = [f"{treebank.name}: tags from {treebank.tagset}, sha256 {treebank.sha256}"]
    lines += [_split(treebank.split(name), name) for name in treebank.splits]
    counts = treebank.tag_counts()
    shown = [f"{tag} {count:,}" for tag, count in counts.most_common(TAGS_SHOWN)]
    rest = [f"and {len(counts) - TAGS_SHOWN:,} more"] if len(counts) > TAGS_SHOWN else []
    lines += _wrapped("tags:", shown + rest, ", ")
    return lines if tokenizer is None else [*lines, _alignment(treebank, tokenizer)]


def _split(part: Treebank, name: str) -> str:
    size = part.size()
    documents = len({sentence.document for sentence in part})
    said = f"{documents:,} documents" if part.marked_documents else "no documents marked"
    return (
        f"{name}: {size['sentences']:,} sentences, {size['tokens']:,} tokens, {size['words']:,} words, "
        f"{size['multiword']:,} multiword tokens, {said}, {len(part.tag_counts()):,} tags"
    )


def _alignment(treebank: Treebank, tokenizer: Any) -> str:
    """How many words have tokens of their own, and why others have none."""
    from posneurons.alignment import align

    reasons: Counter[str] = Counter()
    for (_, _, reason), count in align(treebank, tokenizer).dropped.items():
        reasons[reason] += count
    words = treebank.size()["words"]
    left = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
    return f"aligned with the tokens: {words - reasons.total():,} of {words:,} words; left out: {left or 'none'}"
