"""Treebanks by a short name ("en_ewt"): where each lies, which version of it, and how it comes here.

`treebanks.txt` lists the files of Universal Dependencies with a release (a tag or a commit) and the sha256 of each; the
Penn Treebank sample and the Brown corpus are the packages of nltk. A file is fetched on first use, by `pooch`, into a
cache folder, and its sha256 is compared on every use. Where the list does not know it, the first download is trusted:
its sha256 is written beside the file (`x.conllu.sha256`, as `sha256sum` writes it) and later ones are compared with it.
A file that somebody has put into the cache by hand needs no network; where no sha256 is known, it is read as it is.

The cache has the layout `ud/UD_English-EWT/en_ewt-ud-dev.conllu`, `nltk_data/corpora/brown.zip`. This module does not
know what is in a file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache as remember
from os import PathLike
from pathlib import Path, PurePosixPath

from posneurons.errors import TreebankError
from posneurons.files import sync, write_whole

BASE = "https://raw.githubusercontent.com"
"""Where the addresses of files begin."""

_NLTK = "5db857e6f7df11eabb5e5665836db9ec8df07e28"
_CORPORA = {
    "ptb-sample": ("corpora/treebank.zip", "9da92d76c3666cfb6cddeaed0f7e86b344cce0f0928a286d439e555f19c37399"),
    "brown": ("corpora/brown.zip", "9b275f9b3b95d7bd66ccfb7cd259f445a13bbe5d1f4107aba09fd3e8364bafa6"),
}


@dataclass(frozen=True, slots=True)
class File:
    """A file of a treebank: its place in the cache, its address below `BASE`, its sha256 if that is known."""

    place: PurePosixPath
    address: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A treebank that can be asked for by its code; the files are in reading order."""

    code: str
    language: str
    release: str
    files: tuple[File, ...]

    @property
    def pinned(self) -> bool:
        """Whether the sha256 of every file is known before it is fetched."""
        return all(file.sha256 for file in self.files)


def _nltk_file(name: str, sha256: str) -> File:
    return File(PurePosixPath("nltk_data", name), f"nltk/nltk_data/{_NLTK}/packages/{name}", sha256)


MAPPING = _nltk_file("taggers/universal_tagset.zip", "d490e1ae8f5625dcdfdda04be15c22a2aade8c2561a36a61edcdf0c7d6aa8352")
"""Tags of Penn and Brown to universal ones; "ptb-sample" and "brown" have it as their second file."""


@remember
def registry() -> Mapping[str, Entry]:
    """All treebanks by their codes.

    >>> entry = registry()["en_ewt"]
    >>> entry.language, entry.release, [file.place.name for file in entry.files]
    ('English', 'r2.16', ['en_ewt-ud-train.conllu', 'en_ewt-ud-dev.conllu', 'en_ewt-ud-test.conllu'])
    """
    found: dict[str, Entry] = {}
    lines = Path(__file__).with_name("treebanks.txt").read_text(encoding="utf-8").splitlines()
    for repository, name, version, sha256 in (line.replace("/", " ").split() for line in lines if line[0] != "#"):
        release, _, commit = version.partition("@")
        address = f"UniversalDependencies/{repository}/{commit or release}/{name}"
        file = File(PurePosixPath("ud", repository, name), address, None if sha256 == "-" else sha256)
        code, language = name.split("-")[0], repository.removeprefix("UD_").split("-")[0].replace("_", " ")
        before = found[code].files if code in found else ()
        found[code] = Entry(code, language, release, (*before, file))
    for code, corpus in _CORPORA.items():
        found[code] = Entry(code, "English", f"nltk_data {_NLTK[:7]}", (_nltk_file(*corpus), MAPPING))
    return found


def find(source: str) -> Entry:
    """The treebank of a code.

    Raises:
        TreebankError: where there is none; the sentence names codes that are near.
    """
    if source in registry():
        return registry()[source]
    near = _near(source.casefold())
    hint = f" did you mean {' or '.join(near)}?" if near else ""
    raise TreebankError(
        f"{source}: no such file or folder, and no treebank of that code;{hint} `posneurons doctor` lists the codes"
    )


def _near(said: str) -> list[str]:
    """Codes that the user may have meant, at most five: of a repository, a language or a part of a code; or alike."""
    places = {entry.files[0].place.parts[1].casefold(): code for code, entry in registry().items()}
    if said in places:
        return [places[said]]
    same = [code for code, entry in registry().items() if said in (entry.language.casefold(), *re.split("[-_]", code))]
    return (same or difflib.get_close_matches(said, registry(), cutoff=0.75))[:5]


def default_cache() -> Path:
    """The folder in which this system keeps what can be fetched again, for this package."""
    import pooch

    return Path(pooch.os_cache("posneurons"))


def fetch(
    entry: Entry, cache: str | PathLike[str] | None = None, *, base: str = BASE, progress: bool = False
) -> list[Path]:
    """The files of a treebank, fetched where they are not in the cache.

    Args:
        entry: from `find`.
        cache: folder; by default `default_cache()`.
        base: where the addresses begin.
        progress: show a bar for every file that is fetched.

    Raises:
        TreebankError: where a file is not what it was, is not there, or cannot be fetched or written.
    """
    folder = default_cache() if cache is None else Path(cache)
    try:
        folder.exists()
    except OSError as error:
        raise TreebankError(f"{str(folder)[:80]}: cannot hold treebanks: {error.strerror}; check the path") from error
    return [fetch_file(file, folder, base=base, progress=progress, beside=entry.files) for file in entry.files]


def fetch_file(
    file: File, cache: Path, *, base: str = BASE, progress: bool = False, beside: Sequence[File] = ()
) -> Path:
    """One file, as `fetch` does it for all; errors name those of `beside` that are not there either."""
    import pooch

    path = cache / file.place
    record = path.with_name(f"{path.name}.sha256")
    expected = file.sha256 or _recorded(record)
    if path.is_file():
        found = pooch.file_hash(str(path))
        if expected not in (None, found):
            raise TreebankError(
                f"{path}: its sha256 is {found}, expected {expected}; the file is damaged or another: delete it to "
                "fetch it again, or give its folder instead of the code to read it as it is"
            )
        return path
    url = f"{base}/{file.address}"
    other = [each for each in beside if each != file and each.place.parent == file.place.parent]
    missing = [each.place.name for each in other if not (cache / each.place).exists()]
    _download(url, path, expected, progress, missing)
    if expected is None:
        line = f"{pooch.file_hash(str(path))}  {path.name}\n"
        write_whole(record, lambda part: part.write_text(f"# {url}\n{line}", encoding="utf-8"))
    return path


def _recorded(record: Path) -> str | None:
    """The sha256 that was written when a file was first fetched; None where it was not."""
    if not record.exists():
        return None
    lines = [line for line in record.read_text(encoding="utf-8", errors="replace").splitlines() if line[:1] != "#"]
    digest = lines[0].split(" ")[0] if lines else ""
    if len(digest) != 64:
        raise TreebankError(f"{record}: expected the sha256 of a file and its name; delete this file")
    return digest


def _download(url: str, path: Path, expected: str | None, progress: bool, missing: list[str]) -> None:
    """Fetch a file, whole and with the sha256 expected, or not at all."""
    import pooch
    import requests

    try:
        with _quiet(), _no_trace(path):
            downloader = pooch.HTTPDownloader(progressbar=progress)
            pooch.retrieve(url, expected, fname=path.name, path=path.parent, downloader=downloader)
            sync(path)  # pooch has given a whole file its name, but has not waited for the disk
            sync(path.parent)
    except requests.RequestException as error:
        answer = error.response
        said = "no answer" if answer is None else f"the answer is {answer.status_code} {answer.reason}"
        what = f"cannot be fetched: {said} ({type(error).__name__})"
        raise TreebankError(f"{url} {what}; {_instead(path, missing)}") from error
    except ValueError as error:
        what = f"has another sha256 than expected, {expected}, and was not kept"
        raise TreebankError(f"{url} {what}; try again later, or {_instead(path, missing)}") from error
    except OSError as error:
        reason = error.strerror or error
        raise TreebankError(f"{path}: cannot be written: {reason}; give another cache folder") from error


def _instead(path: Path, missing: list[str]) -> str:
    """What to do where a file cannot be fetched; `missing` files of its folder are not there either."""
    others = f" (with {', '.join(missing)} beside it)" if missing else ""
    there = sorted(each.name for each in path.parent.glob("*.conllu")) if path.suffix == ".conllu" else []
    use = f", or give the folder {path.parent} for {', '.join(there)} alone" if there else ""
    return f"get it elsewhere and save it as {path}{others}{use}, or give a file or folder of your own"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep pooch from telling what it fetches."""
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _no_trace(path: Path) -> Iterator[None]:
    """Take away the folders that were made for a file where it does not come."""
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()
