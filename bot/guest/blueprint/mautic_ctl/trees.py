"""The trees of Mautic in a tenant (serving, staged, previous), and which of their files are the client's own.

`/var/www/mautic.next` is the staged release, `/var/www/mautic.before` the tree that served before the last swap. The
files that a release brings are listed when it is unpacked; all others are the client's own. In older tenants without
such a listing, the client's own files are those that the staged release does not have.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .system import CLOSED, MAUTIC, STATE, CtlError, read_json, run, write

NEXT, BEFORE = MAUTIC.with_name("mautic.next"), MAUTIC.with_name("mautic.before")
LISTING, NEXT_LISTING = STATE / "release-files", STATE / "release-files.next"
"""The files that a release brought, one per line: path, size in bytes, modification time."""
STAGED = STATE / "staged.json"
"""{"version", "sha256"} of the staged release, once it is complete."""
FOLDERS = ("var/cache", "var/logs", "var/tmp", "var/spool", "var/import", "media/files/temp", "media/images")
"""Folders that Mautic writes into and a release may lack."""
WRITABLE = ("config", "var", "media", "translations")
"""Folders that www-data owns; root owns the rest of a tree."""
THEMES = "themes"
"""The folder to which Mautic adds the themes that its users upload, copy or hide; root owns the release's themes."""
OWN_FOLDERS = ("plugins", "themes", "translations")
"""Folders in which the client's own entries, folders or files, are beside the release's."""
CLIENTS = ("config", "var", "media/files", "media/images")
"""Folders in which the client's files always win over a release's."""
MOST = 200
"""Names of each kind that are reported at most."""


def files_of(tree: Path, below: str = "") -> dict[str, str]:
    """Return {path: "size mtime"} of a tree's files, without the folders in CLIENTS.

    `below`: only files in this folder of the tree.
    """
    found: dict[str, str] = {}
    for folder, folders, names in os.walk(tree / below):
        inside = os.path.relpath(folder, tree)
        inside = "" if inside == "." else f"{inside}/"
        folders[:] = [name for name in folders if f"{inside}{name}" not in CLIENTS]
        for name in names:
            # A file of a serving tree may disappear meanwhile.
            with suppress(FileNotFoundError):
                seen = os.lstat(os.path.join(folder, name))
                found[f"{inside}{name}"] = f"{seen.st_size} {int(seen.st_mtime)}"
    return found


def write_listing(path: Path, files: Mapping[str, str]) -> None:
    """Write down which files a release brought."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{name}\t{seen}\n" for name, seen in sorted(files.items()) if "\n" not in name)
    write(path, lines.encode(errors="replace").decode())


def read_listing(path: Path) -> dict[str, str]:
    """Return what `write_listing` wrote, {} if there is no listing."""
    if not path.exists():
        return {}
    return dict(line.split("\t", 1) for line in path.read_text().splitlines() if "\t" in line)


def own_entries(folder: str, tree: Path, release: Mapping[str, str], following: Mapping[str, str]) -> list[str]:
    """Return the names in a folder of `tree` that are the client's own: neither release has a file in them.

    `release`: the files of the present release, {} if they are not known. `following`: the files of the next release,
    whose entries must not be replaced in any case.
    """
    theirs = {name.split("/")[1] for name in (*release, *following) if name.startswith(f"{folder}/")}
    there = tree / folder
    return sorted(path.name for path in there.iterdir() if path.name not in theirs) if there.is_dir() else []


def own_below(folder: str, tree: Path, release: Mapping[str, str], following: Mapping[str, str]) -> list[str]:
    """Return the paths in a folder of `tree`, at any depth, that are the client's own: neither release has them.

    Of a folder that is the client's own only its own path is returned. Links are not followed. If the files of the
    present release are not known ({}), those that the next release lacks are returned too.
    """
    theirs: set[str] = set()
    for name in (*release, *following):
        if name.startswith(f"{folder}/"):
            parts = name.split("/")
            theirs.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    found, waits = [], [folder]
    while waits:
        inside = waits.pop()
        if (tree / inside).is_symlink() or not (tree / inside).is_dir():
            continue
        for name in sorted(f"{inside}/{name}" for name in os.listdir(tree / inside)):
            if name not in theirs:
                found.append(name)
            elif name not in following:
                waits.append(name)
    return sorted(found)


def own(tree: Path, release: Mapping[str, str], following: Mapping[str, str]) -> dict[str, Any]:
    """Return what belongs to the client in a tree.

    `plugins`, `themes`, `translations`: names. `overlay`: other files that the release did not bring. `changed`: files
    of the release that were changed, and the client's own entries whose name the next release uses too: these are not
    carried over. `known`: whether the present release's files are known. If not, `overlay` and `changed` are empty;
    without the next release's files too, all lists are empty.
    """
    is_told = bool(release or following)
    found: dict[str, Any] = {
        name: own_entries(name, tree, release, following) if is_told else [] for name in OWN_FOLDERS
    }
    overlay, changed = [], []
    for folder in OWN_FOLDERS if release else ():
        theirs_next = set(own_entries(folder, tree, release, {})) - set(found[folder])
        changed += [f"{folder}/{name}" for name in theirs_next]
    for name, seen in files_of(tree).items() if release else ():
        folder, _, rest = name.partition("/")
        if folder in OWN_FOLDERS and (
            rest.split("/")[0] in found[folder] or f"{folder}/{rest.split('/')[0]}" in changed
        ):
            continue
        if name not in release:
            overlay.append(name)
        elif release[name] != seen:
            changed.append(name)
    return found | {"overlay": sorted(overlay), "changed": sorted(changed), "known": bool(release)}


def open_themes(tree: Path, own_themes: Iterable[str] = ()) -> None:
    """Let Mautic add themes to a tree and change the client's own; the sticky bit protects the release's themes."""
    folder = tree / THEMES
    folder.mkdir(exist_ok=True)
    shutil.chown(folder, "root", "www-data")
    folder.chmod(0o1775)
    paths = [str(folder / name) for name in own_themes]
    if paths and (ended := run("chown", "-R", "-h", "www-data:www-data", "--", *paths, timeout=300)).returncode:
        raise CtlError(f"the client's themes could not be given to www-data: {(ended.stderr.splitlines() or [''])[0]}")


def in_short(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of `own` with its lists cut to MOST names each."""
    return {name: value[:MOST] if isinstance(value, list) else value for name, value in found.items()}


def copy(source: Path, target: Path) -> None:
    """Replace a file or folder with a copy that keeps owner and mode; blocks are shared if the filesystem can.

    Raises OSError when the copy fails.
    """
    remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file() and not source.is_symlink():
        # Without starting `cp`, as there may be thousands of files.
        shutil.copy2(source, target)
        seen = source.stat()
        os.chown(target, seen.st_uid, seen.st_gid)
        return
    ended = run("cp", "-a", "--reflink=auto", "--", str(source), str(target), timeout=600)
    if ended.returncode:
        raise OSError(f"{source.name} could not be copied")


def remove(path: Path) -> None:
    """Delete a file, link or folder if it exists; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def must_be_closed() -> None:
    """Raise CtlError unless the tenant is closed to visitors."""
    if not CLOSED.exists():
        raise CtlError("it is open, and its code and database are not changed under its visitors")


def staged_version() -> str:
    """Return the version of the staged release, "" if none is completely staged."""
    return str(read_json(STAGED).get("version") or "") if NEXT.is_dir() else ""
