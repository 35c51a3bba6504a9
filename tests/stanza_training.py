"""Stanza models for tests, trained with Stanza's own code on the embedded treebank; no network, no pretrained vectors.

`small` is a tagger of a few seconds, for shapes and spans; `full` is a tokenizer, a splitter of multiword tokens and a
tagger, for what comes out of raw text. Both are made once a session. `installed` lays models out as
`stanza.download` does, so that a pipeline finds them by language.
"""

import json
import logging
import shutil
import tempfile
from functools import cache
from pathlib import Path

from stanza.models import mwt_expander, tagger, tokenizer
from stanza.utils.datasets import conllu_to_text, prepare_tokenizer_data

import posneurons

NARROW = {
    "word_emb_dim": 25,
    "char_emb_dim": 25,
    "char_hidden_dim": 50,
    "tag_emb_dim": 10,
    "transformed_dim": 25,
    "deep_biaff_hidden_dim": 50,
    "composite_deep_biaff_hidden_dim": 10,
}
"""Widths with which a tagger trains in seconds."""

_kept: list[tempfile.TemporaryDirectory[str]] = []


@cache
def small() -> Path:
    """A folder with `pos.pt`: a narrow tagger, 80 steps."""
    folder = _folder()
    _train_tagger(folder, steps=80, hidden_dim=50, num_layers=1, **NARROW)
    return folder


@cache
def full() -> Path:
    """A folder with `tokenize.pt`, `mwt.pt` and `pos.pt`."""
    folder = _folder()
    _train_tokenizer(folder, steps=600)
    _train_splitter(folder)
    _train_tagger(folder, steps=600, hidden_dim=100, **NARROW | {"word_emb_dim": 50})
    return folder


def installed(models: Path, into: Path, language: str = "en") -> Path:
    """Put models where a pipeline looks for those of a language, with the `resources.json` that says so."""
    found = [name for name in ("tokenize", "mwt", "pos") if (models / f"{name}.pt").exists()]
    for name in found:
        (into / language / name).mkdir(parents=True)
        shutil.copy(models / f"{name}.pt", into / language / name / "demo.pt")
    about = {name: {"demo": {}} for name in found}
    default = {"packages": {"default": dict.fromkeys(found, "demo")}, "lang_name": language, "default_processors": {}}
    (into / "resources.json").write_text(json.dumps({language: {**about, **default}}))
    return into


def _folder() -> Path:
    logging.getLogger("stanza").setLevel(logging.ERROR)
    _kept.append(tempfile.TemporaryDirectory(prefix="stanza-models-"))
    return Path(_kept[-1].name)


def _gold(folder: Path, split: str) -> Path:
    """A split of the embedded treebank with a head for every word, which Stanza's scorer wants."""
    path = folder / f"{split}.conllu"
    if not path.exists():
        source = Path(posneurons.__file__).parent / "demo" / "treebank" / f"{split}.conllu"
        with path.open("w", encoding="utf-8") as file:
            for line in source.read_text(encoding="utf-8").splitlines():
                columns = line.split("\t")
                if columns[0].isdigit():
                    columns[6:8] = str(int(columns[0]) - 1), "dep" if columns[0] != "1" else "root"
                file.write("\t".join(columns) + "\n")
    return path


def _options(**options: object) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _train_tagger(folder: Path, steps: int, **sizes: int) -> None:
    tagger.main(
        _options(train_file=_gold(folder, "train"), eval_file=_gold(folder, "dev"), lang="en", shorthand="en_demo")
        + _options(save_dir=folder, save_name="pos.pt", max_steps=steps, eval_interval=steps, batch_size=24, **sizes)
        + ["--no_pretrain", "--fix_eval_interval", "--cpu"]
    )


def _train_tokenizer(folder: Path, steps: int) -> None:
    for split in ("train", "dev"):
        gold, text = str(_gold(folder, split)), str(folder / f"{split}.txt")
        conllu_to_text.main([gold, text])
        prepare_tokenizer_data.main([text, gold, "-o", f"{folder}/{split}.toklabels", "-m", f"{folder}/{split}.json"])
    tokenizer.main(
        _options(txt_file=folder / "train.txt", label_file=folder / "train.toklabels")
        + _options(dev_txt_file=folder / "dev.txt", dev_label_file=folder / "dev.toklabels", lang="en")
        + _options(mwt_json_file=folder / "train.json", shorthand="en_demo", save_dir=folder, save_name="tokenize.pt")
        + _options(steps=steps, eval_steps=steps // 4, max_seqlen=300, batch_size=12)
        + ["--cpu"]
    )


def _train_splitter(folder: Path) -> None:
    mwt_expander.main(
        _options(train_file=_gold(folder, "train"), eval_file=_gold(folder, "dev"), gold_file=_gold(folder, "dev"))
        + _options(lang="en", shorthand="en_demo", save_dir=folder, save_name="mwt.pt", num_epoch=20)
        + ["--cpu"]
    )
