"""Stanford CoreNLP 3.6.0, whose parser SPICE stands on: where it is looked for, and how it is fetched."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

from huggingface_hub import constants

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement, Wanted

NAME = "Stanford CoreNLP 3.6.0"
RELEASE = "stanford-corenlp-full-2015-12-09"
URL = f"https://nlp.stanford.edu/software/{RELEASE}.zip"
JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
SECONDS = 60  # without a byte from the site


def pycocoevalcap() -> Path | None:
    """The folder of the pycocoevalcap package, which is not imported; None where it is not installed."""
    spec = find_spec("pycocoevalcap")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]) if folders else None


def cache() -> Path:
    """Where corl puts what it fetches: $XDG_CACHE_HOME/corl/corenlp-3.6.0, under ~/.cache by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "corl", "corenlp-3.6.0")


def places() -> list[Path]:
    """The folders that may hold both jars, in the order they are tried: $CORENLP_HOME, pycocoevalcap's, corl's."""
    home, package = os.environ.get("CORENLP_HOME"), pycocoevalcap()
    return [*([Path(home)] if home else []), *([package / "spice" / "lib"] if package else []), cache()]


def find() -> list[Path] | None:
    """The two jars of the first folder that holds both; None where none does."""
    return next((jars for folder in places() if (jars := _jars(folder))), None)


def requirement() -> Requirement:
    """Whether both jars are there and whole at their ends; else where they were looked for and how to get them."""
    return replace(_requirement(), wanted=Wanted("file", URL, "", NAME, _here, lambda: fetch()[0].parent))


def by_hand(folder: Path | None = None) -> str:
    """What to type to put both jars into a folder, by default corl's own."""
    folder = folder or cache()
    archive = folder / "corenlp.zip"
    return f"curl -fL --create-dirs -o {archive} {URL} && unzip -oj {archive} '*/{JARS[0]}' '*/{JARS[1]}' -d {folder}"


def fetch(folder: Path | None = None, url: str = URL) -> list[Path]:
    """Both jars in a folder (corl's own by default), fetched unless they are there.

    Of several processes that come at once one fetches and the others wait. A jar has its name only once it is whole.
    CorlError when the site or the folder refuses.
    """
    folder = folder or cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / "fetch.lock"):
            if not _jars(folder):
                _fill(folder, url)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise CorlError(f"{NAME} could not be fetched from {url} to {folder}: {error}", by_hand(folder)) from error
    return [folder / jar for jar in JARS]


def _requirement() -> Requirement:
    jars = find()
    if jars is None:
        looked = f"no folder holds {JARS[0]} and {JARS[1]}: {', '.join(map(str, places()))}"
        if constants.HF_HUB_OFFLINE:
            return Requirement(name=NAME, state="missing", detail=f"{looked}; HF_HUB_OFFLINE is set", remedy=by_hand())
        return Requirement(name=NAME, state="download", detail=f"{URL} to {cache()}", remedy=by_hand())
    for jar in jars:
        if not zipfile.is_zipfile(jar):
            remedy = f"Delete it and fetch it again: {by_hand(jar.parent)}"
            return Requirement(name=NAME, state="broken", detail=f"{jar} is cut off, or no jar", remedy=remedy)
    return Requirement(name=NAME, state="ok", detail=str(jars[0].parent))


def _here() -> Path | None:
    jars = find()
    return jars[0].parent if jars and all(map(zipfile.is_zipfile, jars)) else None


def _jars(folder: Path) -> list[Path] | None:
    jars = [folder / jar for jar in JARS]
    return jars if all(jar.is_file() for jar in jars) else None


def _fill(folder: Path, url: str) -> None:
    print(f"Fetching {NAME} from {url} to {folder}", file=sys.stderr, flush=True)
    archive = folder / "fetched.zip"
    try:
        with urlopen(url, timeout=SECONDS) as source, archive.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        with zipfile.ZipFile(archive) as release:
            for jar in JARS:
                part = folder / f"{jar}.part"
                with release.open(f"{RELEASE}/{jar}") as inside, part.open("wb") as target:
                    shutil.copyfileobj(inside, target, 1 << 20)
                part.replace(folder / jar)
    finally:
        archive.unlink(missing_ok=True)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that other processes wait for; the system lets go of it when a process dies."""
    import fcntl  # not on Windows

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
