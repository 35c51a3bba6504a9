"""The commands beside the study: steer, tag, doctor. Options in, lines out; they compute nothing."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from posneurons.config import Config
from posneurons.errors import RunError
from posneurons.options import (
    Backend,
    Bank,
    BatchTokens,
    Cache,
    ChangeOf,
    Classes,
    Continuations,
    Device,
    Devices,
    Download,
    Dtype,
    Language,
    Model,
    Neurons,
    OneMethod,
    Pretokenized,
    Prompts,
    RandomSets,
    Revision,
    Seed,
    StanzaModels,
    Steps,
    Tag,
    Tagged,
    TaggerOf,
    TagSet,
    Temperature,
    Texts,
    Tokens,
    TopK,
    Value,
    made,
)

DEFAULT = Config()


def steer(
    neurons: Neurons = None,
    tag_set: TagSet = None,
    method: OneMethod = None,
    prompts: Prompts = [],  # noqa: B006
    change: ChangeOf = "scale",
    value: Value = 2.0,
    steps: Steps = None,
    tokens: Tokens = 32,
    continuations: Continuations = 8,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    controls: RandomSets = DEFAULT.controls,
    tagger: TaggerOf = "simple",
    language: Language = "en",
    model: Model = DEFAULT.model,
    treebank: Bank = DEFAULT.treebank,
    tag: Tag = DEFAULT.tag,
    classes: Classes = DEFAULT.classes,
    cache: Cache = DEFAULT.cache,
    out: Annotated[Path, typer.Option(help="Folder for the tables and texts.")] = Path("runs/steer"),
    backend: Backend = DEFAULT.backend,
    device: Device = DEFAULT.device,
    dtype: Dtype = DEFAULT.dtype,
    revision: Revision = DEFAULT.revision,
    n_devices: Devices = DEFAULT.n_devices,
    batch_tokens: BatchTokens = DEFAULT.batch_tokens,
    seed: Seed = DEFAULT.seed,
) -> None:
    """Generate with a tag's neurons scaled, clamped or pushed; tell how the tags of the texts shift, and at random."""
    from posneurons.distributed import refuse
    from posneurons.steer_run import SteerConfig, run

    refuse("steer")

    config = made(SteerConfig, locals())
    command = shlex.join(["posneurons", *sys.argv[1:]])
    for line in run(config, out, command=command, progress=sys.stderr.isatty()):
        typer.echo(line)


def tag_texts(
    texts: Texts,
    out: Tagged = Path("tagged.conllu"),
    language: Language = "en",
    models: StanzaModels = None,
    pretokenized: Pretokenized = False,
    device: Device = DEFAULT.device,
    download: Download = False,
) -> None:
    """Tag text files with Stanza, into a treebank in CoNLL-U."""
    from posneurons.distributed import refuse
    from posneurons.tagging import run

    refuse("tag")
    lines = run(
        texts,
        out,
        language,
        pretokenized=pretokenized,
        models=models,
        device=device,
        download=download,
        progress=sys.stderr.isatty(),
    )
    for line in lines:
        typer.echo(line)


def doctor(
    treebank: Annotated[str | None, typer.Option(help="A treebank to count: its splits, tags and documents.")] = None,
    tag: Tag = DEFAULT.tag,
    model: Annotated[str | None, typer.Option(help="Whose tokenizer to align that treebank with.")] = None,
    cache: Cache = None,
) -> None:
    """Say what this installation can do: versions, devices, models and treebanks at hand; or look at one treebank."""
    from posneurons.doctor import examine, examine_treebank

    if treebank is None and (model is not None or tag != DEFAULT.tag):
        raise RunError("--tag and --model are for a treebank; give --treebank as well")
    if treebank is None:
        lines = examine(cache)
    else:
        from posneurons.treebank import load_treebank

        bank = load_treebank(treebank, tag=tag, cache=cache, progress=sys.stderr.isatty())
        tokenizer = None
        if model is not None:
            from posneurons.loading import load_tokenizer

            tokenizer = load_tokenizer(model)
        lines = examine_treebank(bank, tokenizer)
    for line in lines:
        typer.echo(line)
