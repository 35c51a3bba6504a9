"""The options of the command line: the type, the name and the help of each, written once."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from posneurons.methods import METHODS

NAMES = ", ".join(METHODS)

Model = Annotated[str, typer.Option(help="'demo' (the embedded Llama), a Hugging Face name, or a folder.")]
Bank = Annotated[
    str,
    typer.Option("--treebank", help="'demo', a .conllu file, a folder, or a code such as en_ewt (see doctor)."),
]
Tag = Annotated[str, typer.Option(help="What a word's tag is: upos, xpos, a feature such as Number, or upos+Number.")]
Classes = Annotated[str | None, typer.Option(help='Classes of tags or words, a JSON file: {"content": ["NOUN", ...]}.')]
Split = Annotated[
    str, typer.Option(help="given, document, sentence, type (no word form in two splits), or a fold: 1/5.")
]
ContextOf = Annotated[str, typer.Option("--context", help="Read each 'sentence' by itself, or a 'document' at once.")]
Left = Annotated[int | None, typer.Option(help="Tokens before the first word of a part of a text that is too long.")]
UnitsOf = Annotated[
    str,
    typer.Option("--units", help="Words that share a token: left out ('word'), or one unit: 'contraction', 'token'."),
]
Cache = Annotated[str | None, typer.Option(help="Folder for treebanks that are fetched.")]
Out = Annotated[Path, typer.Option(help="Run directory. The same command goes on where a stopped run left off.")]
Backend = Annotated[str, typer.Option(help="hooked (HookedTransformer) or bridge (TransformerBridge).")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; a GPU if there is one, by default.")]
Devices = Annotated[int, typer.Option(help="GPUs that share the layers of a model too large for one.")]
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
Pages = Annotated[int, typer.Option(help="Neurons of each tag and ranking that get a page of their own.")]
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
Language = Annotated[str, typer.Option(help="Stanza's code of the language, such as en, de or zh-hans.")]

RunDirectory = Annotated[Path | None, typer.Argument(help="A run directory.")]
OfRun = Annotated[Path, typer.Option("--out", help="The same, as for the other commands.")]
Figures = Annotated[
    list[str],
    typer.Option("--figures", help="Also write every figure to figures/, as svg, pdf or png. Repeatable."),
]

Texts = Annotated[list[Path], typer.Argument(help="Text files in UTF-8; each is a document.")]
Tagged = Annotated[Path, typer.Option("--out", help="The file to write, in CoNLL-U.")]
StanzaModels = Annotated[Path | None, typer.Option("--models", help="Stanza's resources folder; its own by default.")]
Pretokenized = Annotated[bool, typer.Option(help="A sentence on each line, white space between its words.")]
Download = Annotated[bool, typer.Option(help="Let Stanza fetch models that are not on this machine.")]


def each_once(words: list[str]) -> tuple[str, ...]:
    """The words in order, without repetition."""
    return tuple(dict.fromkeys(words))


def made(kind: type[Any], options: dict[str, Any]) -> Any:
    """The configuration that a command's options make; what is repeatable is taken once."""
    given = {each.name: options[each.name] for each in fields(kind) if each.name in options}
    return kind(**{name: each_once(value) if isinstance(value, list) else value for name, value in given.items()})
