"""`stage`, `discard`: unpacks a release beside the one that serves, with the client's own files in it."""

import hashlib
import json
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import trees
from .disk import measure
from .system import MAUTIC, CtlError, asked, in_words, mautic_version, php_version, read_json, run, sql, write
from .trees import BEFORE, FOLDERS, LISTING, NEXT, NEXT_LISTING, STAGED, WRITABLE

ARCHIVE = Path("/root/release")
"""The release's archive, a zip or a tar, which the bot pushes first."""
METADATA = "app/release_metadata.json"
LEAVE = 256 << 20
"""Bytes that must stay free beside a staged tree, as the database keeps growing."""
NOT_SERVED = ("upgrade.php", "index_dev.php")
"""Files that are deleted from a release: the web updater of older trees, and 4.x's front controller for development."""


def stage(request: Mapping[str, Any]) -> dict[str, Any]:
    """Unpack the pushed archive beside the serving tree, which keeps serving.

    Repeated for the same release, this only updates the client's own files in it. Request: version, sha256. Raises
    CtlError for a missing or different archive, a release that does not run here, and too little free space.
    """
    version, sha256 = asked(request, "version", "sha256")
    began, before = time.monotonic(), mautic_version()
    if not (NEXT.is_dir() and _staged() == {"version": version, "sha256": sha256}):
        _unpack(version, sha256, before)
    release, following = trees.read_listing(LISTING), trees.read_listing(NEXT_LISTING)
    own = trees.own(MAUTIC, release, following)
    for folder in trees.OWN_FOLDERS:
        # What the client has deleted meanwhile is deleted from the staged tree too.
        for name in trees.own_entries(folder, NEXT, following, following):
            if name not in own[folder]:
                trees.remove(NEXT / folder / name)
        for name in own[folder]:
            trees.copy(MAUTIC / folder / name, NEXT / folder / name)
    for name in own["overlay"]:
        # Files in `media` are moved at the swap, in their state at that time.
        if name not in following and not name.startswith("media/"):
            trees.copy(MAUTIC / name, NEXT / name)
    write(STAGED, json.dumps({"version": version, "sha256": sha256}))
    ARCHIVE.unlink(missing_ok=True)
    seconds = round(time.monotonic() - began, 3)
    return {"version": version, "before": before, "seconds": seconds, "own": trees.in_short(own)}


def discard(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Delete the staged tree and the previous tree; the serving tree is left alone."""
    STAGED.unlink(missing_ok=True)
    for path in (NEXT, BEFORE, NEXT_LISTING, ARCHIVE):
        trees.remove(path)
    return {}


def _staged() -> dict[str, Any]:
    return read_json(STAGED)


def _unpack(version: str, sha256: str, before: str) -> None:
    STAGED.unlink(missing_ok=True)
    # Nobody goes back to the previous tree any more, and deleting it at the swap would prolong the downtime.
    for path in (NEXT, NEXT_LISTING, BEFORE):
        trees.remove(path)
    if not ARCHIVE.is_file():
        raise CtlError("the release's archive is not there")
    with ARCHIVE.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise CtlError(f"the archive of {version} came here as another file than was meant (its sha256 differs)")
    metadata, size = _look_into()
    if metadata.get("version") != version:
        raise CtlError(f"the archive says that it is {metadata.get('version')}, not {version}")
    check_runs_here(metadata, before, php_version(), sql("SELECT VERSION();")[0][0])
    free = measure({})["free"] - LEAVE
    if size > free:
        raise CtlError(f"unpacked {version} takes {in_words(size)}, and its disk has room for {in_words(max(0, free))}")
    NEXT.mkdir()
    unpack = ["unzip", "-q"] if zipfile.is_zipfile(ARCHIVE) else ["tar", "--no-same-owner", "-xf"]
    into = ["-d", str(NEXT)] if unpack[0] == "unzip" else ["-C", str(NEXT)]
    ended = run("nice", *unpack, str(ARCHIVE), *into, timeout=600)
    if ended.returncode:
        raise CtlError(f"the archive of {version} could not be unpacked: {(ended.stderr.splitlines() or [''])[-1]}")
    for name in NOT_SERVED:
        (NEXT / name).unlink(missing_ok=True)
    for folder in FOLDERS:
        (NEXT / folder).mkdir(parents=True, exist_ok=True)
    rights(NEXT)
    trees.write_listing(NEXT_LISTING, trees.files_of(NEXT))


def rights(tree: Path) -> None:
    """Give a tree the owners and modes that a blueprint's tree has. Raises CtlError."""
    folders = [str(tree / name) for name in WRITABLE]
    for words in (
        ["chown", "-R", "root:root", str(tree)],
        ["chmod", "-R", "u+rwX,go+rX,go-w", str(tree)],
        ["chmod", "+x", str(tree / "bin/console")],
        ["mkdir", "-p", *folders],
        ["chown", "-R", "www-data:www-data", *folders],
        ["chmod", "750", str(tree / "config")],
    ):
        ended = run(*words, timeout=600)
        if ended.returncode:
            raise CtlError(f"the rights of {tree} could not be set: {(ended.stderr.splitlines() or [''])[0]}")


def _look_into() -> tuple[dict[str, Any], int]:
    """Return the archive's release metadata and its unpacked size in bytes. Raises CtlError without metadata."""
    try:
        if zipfile.is_zipfile(ARCHIVE):
            with zipfile.ZipFile(ARCHIVE) as zipped:
                text, size = zipped.read(METADATA), sum(_on_disk(info.file_size) for info in zipped.infolist())
        else:
            with tarfile.open(ARCHIVE) as tar:
                members = {member.name.removeprefix("./"): member for member in tar}
                file = tar.extractfile(members[METADATA])
                text = file.read() if file else b""
                size = sum(_on_disk(member.size) for member in members.values())
        found = json.loads(text)
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, tarfile.TarError):
        raise CtlError(f"the archive has no {METADATA} that can be read") from None
    return (found if isinstance(found, dict) else {}), size


def _on_disk(size: int) -> int:
    """Return the bytes that a file takes: whole blocks of 4 KiB, and one block for the file itself."""
    return (size + 8191) // 4096 * 4096


def check_runs_here(metadata: Mapping[str, Any], before: str, php: str, mariadb: str) -> None:
    """Raise CtlError if a release needs another PHP, MariaDB or present Mautic than these versions."""
    version = metadata["version"]
    least, most = (str(metadata.get(f"{edge}_php_version") or "") for edge in ("minimum", "maximum"))
    if (least and numbers(php) < numbers(least)) or (most and numbers(php) > numbers(most)):
        raise CtlError(f"Mautic {version} runs on PHP {least} to {most}, and here is {php}")
    database = str(metadata.get("minimum_mariadb_version") or "")
    if numbers(mariadb) < numbers(database):
        raise CtlError(f"Mautic {version} needs MariaDB {database} or newer, and here is {mariadb}")
    oldest = str(metadata.get("minimum_mautic_version") or "")
    if numbers(before) < numbers(oldest):
        raise CtlError(f"Mautic {version} can be reached from {oldest} on, and here is {before}")


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with, such as (5, 2, 12) for `5.2.12+double`."""
    found = []
    for part in version.split("+")[0].split("-")[0].split("."):
        if not part.isdecimal():
            break
        found.append(int(part))
    return tuple(found)
