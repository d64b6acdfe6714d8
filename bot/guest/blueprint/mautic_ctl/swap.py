"""`swap`: makes the staged tree serve, with the client's own files moved into it, and keeps the old tree beside it."""

import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from . import trees
from .system import FPM, MAUTIC, CtlError, asked, await_systemd, mautic_version, read_json, systemctl
from .trees import BEFORE, CLIENTS, LISTING, NEXT, NEXT_LISTING, STAGED

LINK = ".moved~"
"""The suffix of a link in the old tree until its target has been moved."""
CACHED = ("cache", "tmp")
"""Folders in `var` that hold for one version only; all else in it (logs, imports, the spool) is carried over."""


def swap(request: Mapping[str, Any]) -> dict[str, Any]:
    """Swap the trees of a closed tenant; PHP is stopped and not started again. An interrupted swap can be repeated.

    Request: version. Large folders are moved, not copied, and a link to each is left in the old tree. Raises CtlError
    when the tenant is open, or the version is not staged.
    """
    (version,) = asked(request, "version")
    began = time.monotonic()
    trees.must_be_closed()
    await_systemd()
    if NEXT.is_dir():
        if trees.staged_version() != version:
            raise CtlError(f"what is staged is not {version}")
        systemctl("stop", FPM)
        if MAUTIC.exists():
            trees.remove(BEFORE)
            MAUTIC.rename(BEFORE)
        NEXT.rename(MAUTIC)
    elif not BEFORE.is_dir() or mautic_version() != version:
        raise CtlError(f"{version} is not staged")
    if NEXT_LISTING.exists():
        _carry(trees.read_listing(LISTING), trees.read_listing(NEXT_LISTING))
        # A swap that was interrupted before this line carries everything over again; afterwards it skips this step.
        NEXT_LISTING.replace(LISTING)
    STAGED.unlink(missing_ok=True)
    before = str(read_json(BEFORE / "app/release_metadata.json").get("version"))
    return {"version": version, "before": before, "seconds": round(time.monotonic() - began, 3)}


def _carry(release: Mapping[str, str], following: Mapping[str, str]) -> None:
    for name in _entries(BEFORE / "config"):
        _move(f"config/{name}")
    for name in _entries(BEFORE / "var"):
        if name not in CACHED:
            _move(f"var/{name}")
    # The data for IP lookups does not depend on the version, and takes long to download.
    _move("var/cache/ip_data")
    for folder in ("media/files", "media/images"):
        for name in _entries(MAUTIC / folder) if _is_there(BEFORE / folder) else ():
            if not os.path.lexists(BEFORE / folder / name):
                (MAUTIC / folder / name).rename(BEFORE / folder / name)
        _move(folder)
    # Mautic also saves into folders of the release (`media/dashboards`), until the tenant is closed.
    own = {name.removesuffix(LINK) for name in trees.own_below("media", BEFORE, release, following)}
    for name in sorted(own.difference(CLIENTS)):
        _move(name)
    _open_media(own)
    for folder in trees.OWN_FOLDERS:
        # Copy the present state: the staged copies may be some minutes old.
        for name in trees.own_entries(folder, BEFORE, release, following):
            trees.copy(BEFORE / folder / name, MAUTIC / folder / name)
    trees.open_themes(MAUTIC, trees.own_entries(trees.THEMES, BEFORE, release, following))


def _open_media(own: Collection[str]) -> None:
    """Give the folders above the client's own files to the owner of `media`, the web server, which saves there."""
    media = MAUTIC / "media"
    if not _is_there(media):
        return
    owner = media.stat()
    for folder, folders, _ in os.walk(media):
        inside = os.path.relpath(folder, MAUTIC)
        folders[:] = [name for name in folders if f"{inside}/{name}" not in CLIENTS and f"{inside}/{name}" not in own]
        for name in folders:
            os.chown(os.path.join(folder, name), owner.st_uid, owner.st_gid, follow_symlinks=False)


def _is_there(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink()


def _entries(folder: Path) -> list[str]:
    return sorted({path.name.removesuffix(LINK) for path in folder.iterdir()}) if _is_there(folder) else []


def _move(name: str) -> None:
    """Move a part of the old tree into the serving tree, where it replaces what the release has."""
    old, new = BEFORE / name, MAUTIC / name
    link = old.with_name(f"{old.name}{LINK}")
    if not os.path.lexists(old):
        if link.is_symlink():
            link.rename(old)
        return
    if old.is_symlink() and os.path.realpath(old) == os.path.realpath(new):
        return
    # Create the link before the move: after an interruption nothing would tell that it is missing.
    trees.remove(link)
    link.symlink_to(os.path.relpath(new, old.parent))
    _make_way(new.parent)
    trees.remove(new)
    old.rename(new)
    link.rename(old)


def _make_way(folder: Path) -> None:
    """Create a folder of the serving tree and its parents; links and files in their place would lead elsewhere."""
    here = MAUTIC
    for part in folder.relative_to(MAUTIC).parts:
        here = here / part
        if not _is_there(here):
            trees.remove(here)
            here.mkdir()
