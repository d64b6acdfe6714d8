"""The trees of Mautic in a tenant: the one that serves, the staged one beside it, the one of before; what is whose.

`/var/www/mautic.next` is a release that is staged, `/var/www/mautic.before` what served before the last swap. Which
files a release brought is written down when it is laid, so that what is the client's own can be told: in a tenant of
before that, it is what the staged release does not have.
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
"""The files that a release brought, one a line: its path, its bytes, its time."""
STAGED = STATE / "staged.json"
"""{"version", "sha256"} of the staged release, once it is whole."""
FOLDERS = ("var/cache", "var/logs", "var/tmp", "var/spool", "var/import", "media/files/temp", "media/images")
"""What a release may come without and Mautic writes into."""
WRITABLE = ("config", "var", "media", "translations")
"""What is the web server's; all else of a tree is root's."""
THEMES = "themes"
"""Where Mautic adds what its people upload, copy or hide; the release's themes in it are root's."""
OWN_FOLDERS = ("plugins", "themes", "translations")
"""Where the client's own things are whole folders, or files, beside the release's."""
CLIENTS = ("config", "var", "media/files", "media/images")
"""Where what the client has counts, whatever a release brings."""
MOST = 200
"""Names of each kind that are told."""


def files_of(tree: Path, below: str = "") -> dict[str, str]:
    """Return {path: bytes and time} of what a release brings; what is the client's in any case is not looked at.

    `below`: only what is in this folder of the tree.
    """
    found: dict[str, str] = {}
    for folder, folders, names in os.walk(tree / below):
        inside = os.path.relpath(folder, tree)
        inside = "" if inside == "." else f"{inside}/"
        folders[:] = [name for name in folders if f"{inside}{name}" not in CLIENTS]
        for name in names:
            # In a tree that serves one may go meanwhile.
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
    """Return what `write_listing` wrote; empty where nothing did."""
    if not path.exists():
        return {}
    return dict(line.split("\t", 1) for line in path.read_text().splitlines() if "\t" in line)


def own_entries(folder: str, tree: Path, release: Mapping[str, str], following: Mapping[str, str]) -> list[str]:
    """Return the entries of a folder of `tree` that are the client's own: no file of them is in `release`.

    `following`: the files of the next release, which counts where the present one's are not known (empty), and whose
    own entries are not replaced in any case.
    """
    theirs = {name.split("/")[1] for name in (*release, *following) if name.startswith(f"{folder}/")}
    there = tree / folder
    return sorted(path.name for path in there.iterdir() if path.name not in theirs) if there.is_dir() else []


def own_below(folder: str, tree: Path, release: Mapping[str, str], following: Mapping[str, str]) -> list[str]:
    """Return the paths in a folder of `tree` that are the client's own, however deep: neither release has them.

    A folder that is the client's own is told, and what is in it is not. No link is followed. Where the files of the
    present release are not known (empty), theirs that the next one does not have are told, too.
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
    """Return what of a tree is the client's own.

    `plugins`, `themes`, `translations`: names. `overlay`: other files that no release brought. `changed`: files of the
    release that were changed, and what the next one brings by the name of something that is the client's own: nobody
    carries those over. `known`: whether the present release's files are; else the last two are empty, and without the
    next one's all are.
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
    """Let Mautic add themes to a tree, and change the client's own; the sticky bit keeps the release's as they are."""
    folder = tree / THEMES
    folder.mkdir(exist_ok=True)
    shutil.chown(folder, "root", "www-data")
    folder.chmod(0o1775)
    paths = [str(folder / name) for name in own_themes]
    if paths and (ended := run("chown", "-R", "-h", "www-data:www-data", "--", *paths, timeout=300)).returncode:
        raise CtlError(f"the client's themes could not be given to www-data: {(ended.stderr.splitlines() or [''])[0]}")


def in_short(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `own` found, as short as it is told."""
    return {name: value[:MOST] if isinstance(value, list) else value for name, value in found.items()}


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder with its rights in the place of what is there; blocks are shared where they can be."""
    remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file() and not source.is_symlink():
        # There may be thousands of them.
        shutil.copy2(source, target)
        seen = source.stat()
        os.chown(target, seen.st_uid, seen.st_gid)
        return
    ended = run("cp", "-a", "--reflink=auto", "--", str(source), str(target), timeout=600)
    if ended.returncode:
        raise OSError(f"{source.name} could not be copied")


def remove(path: Path) -> None:
    """Delete a file, link or folder, if it is there; no link is followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def must_be_closed() -> None:
    """Refuse, by CtlError, to go on where visitors are let in."""
    if not CLOSED.exists():
        raise CtlError("it is open, and its code and database are not changed under its visitors")


def staged_version() -> str:
    """Return the version of the staged release, "" where none is staged whole."""
    return str(read_json(STAGED).get("version") or "") if NEXT.is_dir() else ""
