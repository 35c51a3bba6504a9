"""Stanza's models: where they are, which they are, and the pipeline that they make.

Nothing is downloaded unless that is asked for. Stanza 1.15 reads its model files as tensors and plain values
(torch.load with weights_only=True), so that a file runs no code; how older versions did is not known here. How often
tags are right is not known either: a model's own page says it for edited text of its kind.
Source: https://stanfordnlp.github.io/stanza/download_models.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from posneurons.errors import TreebankError

Models = str | PathLike[str] | Mapping[str, str | PathLike[str]] | None
"""Where models are: Stanza's own place, a folder, or the file of each processor."""

_LAYOUT = "expected a folder that stanza.download filled, or one with tokenize.pt, pos.pt and, where needed, mwt.pt"


def load_pipeline(
    language: str = "en",
    *,
    models: Models = None,
    pretokenized: bool = False,
    device: str | None = None,
    download: bool = False,
) -> Any:
    """Stanza's pipeline for a language: a tokenizer, a splitter of multiword tokens where it has one, and a tagger.

    Args:
        language: Stanza's code, such as "en", "de" or "zh-hans".
        models: a folder that `stanza.download` filled; a folder with tokenize.pt, mwt.pt and pos.pt (and
            pos_pretrain.pt, pos_forward_charlm.pt and the like where these were trained with them); the same files
            under those names without .pt; or None for Stanza's own place.
        pretokenized: whether it is to tag words that are given, in sentences that are given.
        device: "cpu", "cuda"; by default Stanza chooses.
        download: whether Stanza may fetch models that are not there.

    Raises:
        TreebankError: where Stanza knows no such language, its models are not there, or it cannot load them.
    """
    import stanza
    from requests import RequestException

    options: dict[str, Any] = {"tokenize_pretokenized": True} if pretokenized else {}
    with _place(models, pretokenized, download) as place:
        try:
            return stanza.Pipeline(
                language,
                processors="tokenize,pos",  # it adds mwt where the language has it
                download_method="reuse_resources" if download else None,
                device=device,
                logging_level="FATAL",
                **options,
                **place,
            )
        except Exception as error:
            if isinstance(error, RequestException):
                raise TreebankError(
                    f"Stanza's models for {language!r} cannot be fetched ({type(error).__name__}); check the network, "
                    "or fetch them elsewhere and name their folder"
                ) from error
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
            advice = _advice(language, place.get("dir"))
            if "resources_filepath" in place or not isinstance(error, FileNotFoundError | ValueError):
                advice = "expected model files that this version of Stanza wrote, and a device that is there"
            raise TreebankError(f"Stanza's models for {language!r} cannot be loaded ({reason}); {advice}") from error


def installed_languages(models: str | PathLike[str] | None = None) -> list[str]:
    """Languages whose tokenizer and tagger lie in a folder, by default Stanza's own; no network is used."""
    if models is None:
        from stanza.resources.common import DEFAULT_MODEL_DIR

        models = DEFAULT_MODEL_DIR
    found = (path.parent.parent for path in Path(models).glob("*/pos/*.pt"))
    return sorted({folder.name for folder in found if any((folder / "tokenize").glob("*.pt"))})


def describe_models(pipeline: Any) -> dict[str, str]:
    """What a pipeline of Stanza is: its version, the language, and the name and digest of each model file."""
    about = {"stanza": metadata.version("stanza"), "language": str(pipeline.lang)}
    for key, value in sorted(pipeline.config.items()):
        part = key.removesuffix("_path").removesuffix("_model")
        if key.endswith("_path") and not (part == "tokenize" and pipeline.config.get("tokenize_pretokenized")):
            with Path(value).open("rb") as file:
                about[part] = f"{Path(value).stem} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    return about


def _advice(language: str, folder: str | None) -> str:
    """What to do where a language has no models."""
    from stanza.models.common.constant import langcode_to_lang

    if langcode_to_lang(language) == language:
        there = ", ".join(installed_languages(folder)) or "none"
        return f"expected a language of Stanza by its code, such as en, de or zh-hans; on this machine: {there}"
    place = "" if folder is None else f", model_dir={folder!r}"
    fetch = f"python -c \"import stanza; stanza.download('{language}'{place})\""
    return f"fetch them once with {fetch}, allow the download, or name a folder that has them"


@contextmanager
def _place(models: Models, pretokenized: bool, download: bool) -> Iterator[dict[str, Any]]:
    """The options that tell a pipeline where its models are.

    Files that are named one by one must not be mixed with what Stanza has in its own place, so it is told that there is
    nothing.
    """
    files = _files(models)
    if models is None:
        yield {}
    elif not (files or isinstance(models, Mapping)) and (download or (Path(models) / "resources.json").exists()):
        yield {"dir": str(models)}
    else:
        wanted = ["pos"] if pretokenized else ["tokenize", "pos"]
        if missing := [part for part in wanted if part not in files or not files[part].is_file()]:
            raise TreebankError(f"{models}: no model for {' and '.join(missing)}; {_LAYOUT}")
        used = {part: path for part, path in files.items() if not (pretokenized and part in ("tokenize", "mwt"))}
        options = {f"{part}_path" if "_" in part else f"{part}_model_path": str(path) for part, path in used.items()}
        with TemporaryDirectory() as folder:
            nothing = Path(folder) / "resources.json"
            nothing.write_text("{}")
            yield {"allow_unknown_language": True, "resources_filepath": str(nothing), **options}


def _files(models: Models) -> dict[str, Path]:
    """The model files that are named one by one."""
    if models is None:
        return {}
    if isinstance(models, Mapping):
        return {part: Path(path) for part, path in models.items()}
    named = {path.stem: path for path in Path(models).glob("*.pt")}
    return {part: path for part, path in named.items() if part.split("_")[0] in ("tokenize", "mwt", "pos")}
