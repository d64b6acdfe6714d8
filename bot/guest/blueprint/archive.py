"""Fetches, verifies and inspects the archive of a Mautic release before anything is built from it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.guest.blueprint.recipe import FIRST_SUITE, SUITES, Suite, suite_of
from bot.model.releases import NoRelease, Release, release

BASES = tuple(suite.base for suite in SUITES)
"""The versions of PHP and MariaDB that the recipes offer to Mautic."""
_METADATA = "app/release_metadata.json"
_NEEDED = ("index.php", "bin/console", _METADATA)
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError)


class ArchiveError(Exception):
    """The archive cannot be used; the text is one sentence for a person."""


@dataclass(frozen=True)
class Archive:
    """A verified release on this machine, and the suite of Debian that its blueprint is made of."""

    path: Path
    sha256: str
    version: str
    suite: Suite = FIRST_SUITE

    @property
    def double(self) -> bool:
        """Whether the archive's own version says that it is a double, not the real Mautic."""
        return "+double" in self.version

    @property
    def is_zip(self) -> bool:
        """Whether it is a zip; otherwise it is a tar of some compression."""
        return zipfile.is_zipfile(self.path)


def open_archive(source: str, sha256: str, cache: Path) -> Archive:
    """Return the release at a path or http(s) URL, if it has the digest `sha256` and runs on one of our images.

    Downloads stay in `cache`, by their digest. Raises ArchiveError.
    """
    path, found = read_release(source, sha256, cache)
    suite = suite_of(found)
    if suite is None:
        raise ArchiveError(found.problem(*BASES))
    return Archive(path=path, sha256=sha256.strip().lower(), version=found.version, suite=suite)


def read_release(source: str, sha256: str, cache: Path) -> tuple[Path, Release]:
    """Return the path of a release on this machine and its metadata, whether it can run here or not.

    Only the metadata is unpacked. Raises ArchiveError.
    """
    path = obtain(source, sha256, cache, "archive")
    try:
        return path, release(_metadata(path))
    except NoRelease as error:
        raise ArchiveError(f"{path.name} has a {_METADATA} that {error}.") from error


def obtain(source: str, sha256: str, cache: Path, what: str) -> Path:
    """Return the file at a path or http(s) URL, if it has the digest `sha256`; `what` names it, as “archive”.

    Downloads stay in `cache`, by their digest. Raises ArchiveError.
    """
    expected = sha256.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise ArchiveError(f"An {what} is taken only with its sha256 (64 hexadecimal digits); {source} has none.")
    path = _fetch(source, expected, cache) if re.match(r"https?://", source) else Path(source).expanduser()
    if not path.is_file():
        raise ArchiveError(f"There is no {what} at {path}.")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArchiveError(f"{path} can't be read: {error.strerror}.") from error
    if found != expected:
        raise ArchiveError(f"{path} has the sha256 {found}, not {expected}: it is another file, or a damaged one.")
    return path


def _fetch(url: str, sha256: str, cache: Path) -> Path:
    name = re.sub(r"[^A-Za-z0-9.+-]", "_", Path(urllib.parse.urlsplit(url).path).name)
    target = cache / f"{sha256[:16]}-{name}"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, part.open("wb") as file:  # noqa: S310
            shutil.copyfileobj(answer, file, 1 << 20)
    except (urllib.error.URLError, OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise ArchiveError(f"{url} cannot be fetched: {getattr(error, 'reason', error)}.") from error
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        raise ArchiveError(f"{url} has the sha256 {found}, not {sha256}: it is another file, or was changed.")
    part.rename(target)
    return target


def _metadata(path: Path) -> dict[str, Any]:
    """Return the archive's metadata; raise ArchiveError if the archive is not laid out as a Mautic release."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped:
                names = set(zipped.namelist())
                text = zipped.read(_METADATA) if _METADATA in names else b""
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:
                members = {member.name.removeprefix("./"): member for member in tar}
                names = set(members)
                file = tar.extractfile(members[_METADATA]) if _METADATA in names else None
                text = file.read() if file else b""
        else:
            raise ArchiveError(f"{path.name} is neither a zip nor a tar archive.")
    except _BROKEN as error:
        raise ArchiveError(f"{path.name} is damaged: {error}.") from error
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise ArchiveError(f"{path.name} is not a Mautic release: it has no {missing[0]} at its top.")
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise ArchiveError(f"{path.name} has a {_METADATA} that is not JSON.") from error
    if not isinstance(metadata, dict):
        raise ArchiveError(f"{path.name} has a {_METADATA} that is not an object.")
    return metadata
