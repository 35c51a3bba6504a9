"""The command line: options in, a run directory out. It computes nothing.

Exit status: 0 done; 2 the input is wrong, one line on standard error; 1 our own fault, with a traceback.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from posneurons import __version__
from posneurons.config import Config
from posneurons.errors import PosNeuronsError
from posneurons.methods import METHODS

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find the part-of-speech neurons of a language model, probe them, and lesion them.",
)

NAMES = ", ".join(METHODS)

Model = Annotated[str, typer.Option(help="'demo' (the embedded Llama), a Hugging Face name, or a folder.")]
Bank = Annotated[str, typer.Option("--treebank", help="'demo' (the embedded treebank), a .conllu file, or a folder.")]
Tag = Annotated[str, typer.Option(help="What a word's tag is: upos, xpos, or a feature such as Number.")]
Out = Annotated[Path, typer.Option(help="Run directory. The same command goes on where a stopped run left off.")]
Backend = Annotated[str, typer.Option(help="hooked (HookedTransformer) or bridge (TransformerBridge).")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; a GPU if there is one, by default.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, float16; the checkpoint's own by default.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face model.")]
Methods = Annotated[
    list[str],
    typer.Option("--method", help=f"Ranking, with options as in attribution:contrast=no. Repeatable. {NAMES}."),
]
Position = Annotated[str, typer.Option("--at", help="Where a word is read: predict (before it), first or last token.")]
ProbeAt = Annotated[list[str], typer.Option(help="Positions of the probes. Repeatable.")]
Top = Annotated[int, typer.Option(help="Key neurons per tag.")]
PerWhat = Annotated[str, typer.Option("--per", help="Top k over the whole 'model' or in each 'layer'.")]
Signed = Annotated[
    bool | None,
    typer.Option("--signed/--absolute", help="Rank by the score, or by its distance from none."),
]
MinWords = Annotated[int, typer.Option(help="Training words a tag must have to get key neurons.")]
Ablations = Annotated[
    list[str],
    typer.Option(
        "--ablation",
        help="mean, zero, balanced_mean, resample, clamp:value=2, scale:factor=0.5; resample:donor=other. Repeatable.",
    ),
]
ScopeOf = Annotated[
    str, typer.Option("--scope", help="Lesion 'all' positions after BOS, or 'local': where a word is predicted.")
]
Controls = Annotated[int, typer.Option(help="Matched random lesions per tag.")]
ControlOf = Annotated[
    str, typer.Option("--control", help="Match random sets by layer and 'size' of perturbation, or by 'layer' only.")
]
Beside = Annotated[list[str], typer.Option(help="Also lesion: unflagged keys, damage-matched sets, the bottom ranked.")]
ClusterOf = Annotated[str, typer.Option("--cluster", help="Resample 'document', 'sentence', or what suits: 'auto'.")]
Margin = Annotated[float, typer.Option(help="Nats within which an effect counts as none (classical dissociation).")]
CorrectionOf = Annotated[str, typer.Option("--correction", help="False discovery rate by 'bh' or 'by'.")]
LesionWords = Annotated[int, typer.Option(help="Test words to lesion, in sentences drawn at random; 0 for all.")]
KeepLosses = Annotated[bool, typer.Option("--keep-losses", help="Write the loss of every word under every lesion.")]
Neurons = Annotated[str | None, typer.Option(help='Key neurons to use instead of a ranking: {"TAG": ["L3N12", ...]}.')]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]

Draws = Annotated[int, typer.Option(help="Resamples of the bootstrap, and sign vectors.")]
BatchTokens = Annotated[int, typer.Option(help="Tokens the model reads at once, padding included.")]
Listed = Annotated[int, typer.Option(help="Neurons of each tag that a method is taken to list; at least 20.")]
Random = Annotated[int, typer.Option(help="Neurons to ablate that no method lists.")]
Words = Annotated[int, typer.Option(help="Words to measure on, in sentences drawn at random.")]

Arms = Annotated[list[str], typer.Option("--arm", help="k (best of all), layer (of each), cumulative (up to each).")]
Ks = Annotated[list[int], typer.Option("--k", help="Neurons of a tag to lesion, in the arm k. Repeatable.")]
SweepTop = Annotated[int, typer.Option("--top", help="Neurons of one layer (arm layer), or of the model (cumulative).")]
Scopes = Annotated[list[str], typer.Option("--scope", help="'all' positions after BOS, or 'local'. Repeatable.")]

TagSet = Annotated[str | None, typer.Option(help="Whose neurons of the file are changed, such as NOUN.")]
OneMethod = Annotated[str | None, typer.Option("--method", help="Ranking of the file; the first by default.")]
Prompts = Annotated[
    list[str], typer.Option("--prompt", help="What a text begins with. Repeatable; a few neutral ones by default.")
]
ChangeOf = Annotated[str, typer.Option(help="scale (times the value), clamp (to it), or add (standard deviations).")]
Value = Annotated[float, typer.Option(help="By how much, or to what, the neurons are changed.")]
Steps = Annotated[int | None, typer.Option(help="Change the prompt and so many generated tokens only.")]
Tokens = Annotated[int, typer.Option(help="Tokens to generate for each text.")]
Continuations = Annotated[int, typer.Option(help="Texts for each prompt.")]
Temperature = Annotated[float, typer.Option(help="Of the softmax; 0 takes the most likely token.")]
TopK = Annotated[int | None, typer.Option(help="Draw among so many of the most likely tokens; all by default.")]
RandomSets = Annotated[int, typer.Option("--controls", help="Matched random sets, changed in the same way.")]
TaggerOf = Annotated[str, typer.Option("--tagger", help="simple (trained on the treebank) or stanza.")]
Language = Annotated[str, typer.Option(help="Of Stanza's tagger.")]

DEFAULT = Config()
DEFAULT_OUT = Path("runs/demo")


STAGES = {
    "run": ("rank", "probe", "lesion", "report"),
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


def _each_once(words: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def _study(
    context: typer.Context,
    model: Model = DEFAULT.model,
    treebank: Bank = DEFAULT.treebank,
    tag: Tag = DEFAULT.tag,
    out: Out = DEFAULT_OUT,
    backend: Backend = DEFAULT.backend,
    device: Device = DEFAULT.device,
    dtype: Dtype = DEFAULT.dtype,
    revision: Revision = DEFAULT.revision,
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
    neurons: Neurons = DEFAULT.neurons,
    draws: Draws = DEFAULT.draws,
    batch_tokens: BatchTokens = DEFAULT.batch_tokens,
    seed: Seed = DEFAULT.seed,
) -> None:
    config = Config(
        model=model, treebank=treebank, tag=tag, backend=backend, device=device, dtype=dtype, revision=revision,
        methods=_each_once(methods), at=at, probe_at=_each_once(probe_at), top=top, per=per, signed=signed,
        min_words=min_words, ablations=_each_once(ablations), scope=scope, controls=controls, control=control,
        beside=_each_once(beside), cluster=cluster, margin=margin, correction=correction, keep_losses=keep_losses,
        lesion_words=lesion_words, neurons=neurons, draws=draws, batch_tokens=batch_tokens, seed=seed,
    )  # fmt: skip
    config.check()
    _run(config, out, STAGES[str(context.info_name)])


def _run(config: Config, out: Path, stages: tuple[str, ...]) -> None:
    from posneurons.study import run

    command = shlex.join(["posneurons", *sys.argv[1:]])
    try:
        run(config, out, stages=stages, command=command, progress=sys.stderr.isatty())
    except KeyboardInterrupt:
        typer.echo("posneurons: stopped; the same command goes on from the last finished stage", err=True)
        raise typer.Exit(130) from None
    _tell(out)


for _name, _help in HELP.items():
    app.command(_name, help=_help)(_study)


@app.command()
def verify(
    model: Model = DEFAULT.model,
    treebank: Bank = DEFAULT.treebank,
    tag: Tag = DEFAULT.tag,
    out: Out = Path("runs/verify"),
    backend: Backend = DEFAULT.backend,
    device: Device = DEFAULT.device,
    dtype: Annotated[
        str, typer.Option(help="float32 tells one neuron's effect from rounding; others do not.")
    ] = "float32",
    revision: Revision = DEFAULT.revision,
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
    config = Config(
        model=model, treebank=treebank, tag=tag, backend=backend, device=device, dtype=dtype, revision=revision,
        methods=_each_once(methods), ablations=(ablation,), scope=scope, listed=listed, random=random, words=words,
        batch_tokens=batch_tokens, seed=seed,
    )  # fmt: skip
    config.check()
    _run(config, out, ("verify",))


@app.command()
def sweep(
    model: Model = DEFAULT.model,
    treebank: Bank = DEFAULT.treebank,
    tag: Tag = DEFAULT.tag,
    out: Out = DEFAULT_OUT,
    backend: Backend = DEFAULT.backend,
    device: Device = DEFAULT.device,
    dtype: Dtype = DEFAULT.dtype,
    revision: Revision = DEFAULT.revision,
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
    from posneurons.sweep_plan import Plan
    from posneurons.sweep_run import run

    config = Config(
        model=model, treebank=treebank, tag=tag, backend=backend, device=device, dtype=dtype, revision=revision,
        methods=_each_once(methods), at=at, top=top, signed=signed, min_words=min_words, neurons=neurons,
        batch_tokens=batch_tokens, seed=seed,
    )  # fmt: skip
    plan = Plan(
        arms=_each_once(arms), ks=tuple(dict.fromkeys(ks)), top=top, ablations=_each_once(ablations),
        scopes=_each_once(scopes), controls=controls, control=control, cluster=cluster, seed=seed,
    )  # fmt: skip
    command = shlex.join(["posneurons", *sys.argv[1:]])
    try:
        for line in run(config, plan, out, command=command, progress=sys.stderr.isatty()):
            typer.echo(line)
    except KeyboardInterrupt:
        typer.echo("posneurons: stopped; the same command goes on from the last finished shard", err=True)
        raise typer.Exit(130) from None


@app.command()
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
    out: Annotated[Path, typer.Option(help="Folder for the tables and texts.")] = Path("runs/steer"),
    backend: Backend = DEFAULT.backend,
    device: Device = DEFAULT.device,
    dtype: Dtype = DEFAULT.dtype,
    revision: Revision = DEFAULT.revision,
    batch_tokens: BatchTokens = DEFAULT.batch_tokens,
    seed: Seed = DEFAULT.seed,
) -> None:
    """Generate with a tag's neurons scaled, clamped or pushed; tell how the tags of the texts shift, and at random."""
    from posneurons.steer_run import SteerConfig, run

    config = SteerConfig(
        neurons=neurons, tag_set=tag_set, method=method, prompts=_each_once(prompts), change=change, value=value,
        steps=steps, tokens=tokens, continuations=continuations, temperature=temperature, top_k=top_k,
        controls=controls, tagger=tagger, language=language, model=model, treebank=treebank, tag=tag, backend=backend,
        device=device, dtype=dtype, revision=revision, batch_tokens=batch_tokens, seed=seed,
    )  # fmt: skip
    command = shlex.join(["posneurons", *sys.argv[1:]])
    for line in run(config, out, command=command, progress=sys.stderr.isatty()):
        typer.echo(line)


@app.command()
def report(
    run_directory: Annotated[Path, typer.Argument(help="A run directory.")],
) -> None:
    """Build the page of a run directory anew."""
    from posneurons.report import build_report

    build_report(run_directory)
    _tell(run_directory)


@app.command()
def doctor() -> None:
    """Say what this installation can do: versions, devices, models and treebanks at hand."""
    from posneurons.doctor import examine

    for line in examine():
        typer.echo(line)


def _tell(out: Path) -> None:
    """What a run found, in a few lines."""
    from posneurons.report import findings

    page = out / "report.html"
    for line in [*findings(out), f"Run directory: {out}", *([f"Page: {page}"] if page.exists() else [])]:
        typer.echo(line)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Say the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; errors of the user become one line and status 2."""
    try:
        app()
    except PosNeuronsError as error:
        sys.stderr.write("posneurons: " + " ".join(str(error).split()) + "\n")
        sys.exit(2)
