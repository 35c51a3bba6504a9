"""The command line: options in, a run directory out. It computes nothing.

Exit status: 0 done; 2 the input is wrong, one line on standard error; 1 our own fault, with a traceback.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from posneurons import __version__
from posneurons.config import Config
from posneurons.errors import PosNeuronsError
from posneurons.options import (
    Ablations,
    Arms,
    Backend,
    Bank,
    BatchTokens,
    Beside,
    Cache,
    Classes,
    ClusterOf,
    ContextOf,
    ControlOf,
    Controls,
    CorrectionOf,
    Device,
    Devices,
    Draws,
    Dtype,
    Figures,
    KeepLosses,
    Ks,
    Left,
    LesionWords,
    Listed,
    Margin,
    Methods,
    MinWords,
    Model,
    Neurons,
    OfRun,
    Out,
    Pages,
    PerWhat,
    Position,
    ProbeAt,
    Random,
    Revision,
    RunDirectory,
    ScopeOf,
    Scopes,
    Seed,
    Signed,
    Split,
    SweepTop,
    Tag,
    Top,
    UnitsOf,
    Words,
    each_once,
    made,
)
from posneurons.tools import doctor, steer, tag_texts

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find the part-of-speech neurons of a language model, probe them, and lesion them.",
)

DEFAULT = Config()
DEFAULT_OUT = Path("runs/demo")
LONGEST = 2000
"""Characters of a line."""


STAGES = {
    "run": ("rank", "probe", "lesion", "pages", "report"),
    "rank": ("rank",),
    "probe": ("rank", "probe"),
    "lesion": ("rank", "lesion"),
}
HELP = {
    "run": "Rank, probe, lesion, report: the whole study. Without options, on the embedded model and treebank.",
    "rank": "Rank all neurons for every tag.",
    "probe": "Probe the key neurons (of this run directory, of --neurons, or ranked now).",
    "lesion": "Lesion the key neurons (of this run directory, of --neurons, or ranked now).",
}


def _study(
    command: typer.Context,
    model: Model = DEFAULT.model,
    treebank: Bank = DEFAULT.treebank,
    tag: Tag = DEFAULT.tag,
    classes: Classes = DEFAULT.classes,
    split: Split = DEFAULT.split,
    context: ContextOf = DEFAULT.context,
    left: Left = DEFAULT.left,
    units: UnitsOf = DEFAULT.units,
    cache: Cache = DEFAULT.cache,
    out: Out = DEFAULT_OUT,
    backend: Backend = DEFAULT.backend,
    device: Device = DEFAULT.device,
    dtype: Dtype = DEFAULT.dtype,
    revision: Revision = DEFAULT.revision,
    n_devices: Devices = DEFAULT.n_devices,
    methods: Methods = list(DEFAULT.methods),  # noqa: B006
    at: Position = DEFAULT.at,
    probe_at: ProbeAt = list(DEFAULT.probe_at),  # noqa: B006
    top: Top = DEFAULT.top,
    per: PerWhat = DEFAULT.per,
    signed: Signed = DEFAULT.signed,
    min_words: MinWords = DEFAULT.min_words,
    ablations: Ablations = list(DEFAULT.ablations),  # noqa: B006
    scope: ScopeOf = DEFAULT.scope,
    controls: Controls = DEFAULT.controls,
    control: ControlOf = DEFAULT.control,
    beside: Beside = list(DEFAULT.beside),  # noqa: B006
    cluster: ClusterOf = DEFAULT.cluster,
    margin: Margin = DEFAULT.margin,
    correction: CorrectionOf = DEFAULT.correction,
    keep_losses: KeepLosses = DEFAULT.keep_losses,
    lesion_words: LesionWords = DEFAULT.lesion_words,
    pages: Pages = DEFAULT.pages,
    neurons: Neurons = DEFAULT.neurons,
    draws: Draws = DEFAULT.draws,
    batch_tokens: BatchTokens = DEFAULT.batch_tokens,
    seed: Seed = DEFAULT.seed,
) -> None:
    config = made(Config, locals())
    config.check()
    _run(config, out, STAGES[str(command.info_name)])


def _run(config: Config, out: Path, stages: tuple[str, ...]) -> None:
    with _stoppable("goes on from the last finished stage"):
        from posneurons.distributed import lead
        from posneurons.study import run

        command = shlex.join(["posneurons", *sys.argv[1:]])

        def work() -> None:
            run(config, out, stages=stages, command=command, progress=sys.stderr.isatty())
            _tell(out)

        lead(work)


@contextmanager
def _stoppable(then: str = "begins anew") -> Iterator[None]:
    """Ctrl-C becomes one line, which says what the same command does then, and status 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"posneurons: stopped; the same command {then}", err=True)
        raise typer.Exit(130) from None


for _name, _help in HELP.items():
    app.command(_name, help=_help)(_study)
TOOLS: dict[str, Callable[..., None]] = {"steer": steer, "tag": tag_texts, "doctor": doctor}
for _name, _tool in TOOLS.items():
    app.command(_name)(_stoppable()(_tool))


@app.command()
def verify(
    model: Model = DEFAULT.model,
    treebank: Bank = DEFAULT.treebank,
    tag: Tag = DEFAULT.tag,
    classes: Classes = DEFAULT.classes,
    split: Split = DEFAULT.split,
    context: ContextOf = DEFAULT.context,
    left: Left = DEFAULT.left,
    units: UnitsOf = DEFAULT.units,
    cache: Cache = DEFAULT.cache,
    out: Out = Path("runs/verify"),
    backend: Backend = DEFAULT.backend,
    device: Device = DEFAULT.device,
    dtype: Annotated[
        str, typer.Option(help="float32 tells one neuron's effect from rounding; others do not.")
    ] = "float32",
    revision: Revision = DEFAULT.revision,
    n_devices: Devices = DEFAULT.n_devices,
    methods: Methods = ["attribution:contrast=no", "attribution", "correlation"],  # noqa: B006
    ablation: Annotated[str, typer.Option(help="mean or zero.")] = "zero",
    scope: ScopeOf = "local",
    listed: Listed = DEFAULT.listed,
    random: Random = DEFAULT.random,
    words: Words = DEFAULT.words,
    batch_tokens: BatchTokens = DEFAULT.batch_tokens,
    seed: Seed = DEFAULT.seed,
) -> None:
    """Hold rankings against exact single-neuron ablation: what they list, and a random sample of what they do not."""
    config = replace(made(Config, locals()), ablations=(ablation,))
    config.check()
    _run(config, out, ("verify",))


@app.command()
def sweep(
    model: Model = DEFAULT.model,
    treebank: Bank = DEFAULT.treebank,
    tag: Tag = DEFAULT.tag,
    classes: Classes = DEFAULT.classes,
    split: Split = DEFAULT.split,
    context: ContextOf = DEFAULT.context,
    left: Left = DEFAULT.left,
    units: UnitsOf = DEFAULT.units,
    cache: Cache = DEFAULT.cache,
    out: Out = DEFAULT_OUT,
    backend: Backend = DEFAULT.backend,
    device: Device = DEFAULT.device,
    dtype: Dtype = DEFAULT.dtype,
    revision: Revision = DEFAULT.revision,
    n_devices: Devices = DEFAULT.n_devices,
    methods: Methods = list(DEFAULT.methods),  # noqa: B006
    at: Position = DEFAULT.at,
    arms: Arms = ["k", "layer"],  # noqa: B006
    ks: Ks = [1, 2, 5, 10, 20, 50, 100, 200],  # noqa: B006
    top: SweepTop = DEFAULT.top,
    signed: Signed = DEFAULT.signed,
    min_words: MinWords = DEFAULT.min_words,
    ablations: Ablations = list(DEFAULT.ablations),  # noqa: B006
    scopes: Scopes = ["all"],  # noqa: B006
    controls: Controls = 5,
    control: ControlOf = DEFAULT.control,
    cluster: ClusterOf = DEFAULT.cluster,
    neurons: Neurons = DEFAULT.neurons,
    batch_tokens: BatchTokens = DEFAULT.batch_tokens,
    seed: Seed = DEFAULT.seed,
) -> None:
    """Lesion more and more of each tag's neurons, and layer by layer: how many carry a tag, and where."""
    from posneurons.distributed import lead
    from posneurons.sweep_plan import Plan
    from posneurons.sweep_run import run

    config = made(Config, locals())
    plan = Plan(
        arms=each_once(arms), ks=tuple(dict.fromkeys(ks)), top=top, ablations=each_once(ablations),
        scopes=each_once(scopes), controls=controls, control=control, cluster=cluster, seed=seed,
    )  # fmt: skip
    command = shlex.join(["posneurons", *sys.argv[1:]])

    def work() -> None:
        for line in run(config, plan, out, command=command, progress=sys.stderr.isatty()):
            typer.echo(line)

    with _stoppable("goes on from the last finished shard"):
        lead(work)


@app.command()
@_stoppable()
def report(
    run_directory: RunDirectory = None,
    out: OfRun = DEFAULT_OUT,
    figures: Figures = [],  # noqa: B006
) -> None:
    """Build the page of a run directory anew, and write its figures to files."""
    from posneurons.exporting import check_formats, save_figures
    from posneurons.lock import alone
    from posneurons.manifest import read_manifest
    from posneurons.report import write_page
    from posneurons.run_figures import figures_of
    from posneurons.run_files import read_run

    check_formats(figures)
    folder = run_directory or out
    read_manifest(folder)  # where there is no run, no folder is made
    with alone(folder, shlex.join(["posneurons", *sys.argv[1:]])):
        write_page(folder)
        _tell(folder)
        if figures:
            paths = save_figures(figures_of(read_run(folder)), folder / "figures", figures)
            typer.echo(f"Figures: {len(paths)} files in {folder / 'figures'}")


def _tell(out: Path) -> None:
    """What a run found, in a few lines."""
    from posneurons.manifest import Manifest
    from posneurons.report import findings

    page = out / "report.html"
    warnings = [f"Warning: {each}" for each in Manifest.load(out).warnings]
    for line in [*findings(out), *warnings, f"Run directory: {out}", *([f"Page: {page}"] if page.exists() else [])]:
        typer.echo(one_line(line))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Say the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def one_line(said: object) -> str:
    r"""What is said, in one line that ends, without characters that a terminal takes for commands.

    >>> one_line("a\x1b[31m\n b")
    'a\\x1b[31m b'
    """
    words = " ".join(str(said).split())
    plain = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in words)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST // 2]} ... {plain[-LONGEST // 2 :]}"


def main() -> None:
    """Run the command line; errors of the user become one line and status 2."""
    try:
        app()
    except PosNeuronsError as error:
        sys.stderr.write(f"posneurons: {one_line(error)}\n")
        sys.exit(2)
