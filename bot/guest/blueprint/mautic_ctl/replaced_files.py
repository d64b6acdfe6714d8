"""Keeps the previous versions of replaced files, so that they can be put back."""

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

_ABSENT = ".absent"
"""The member of the archive that lists paths that did not exist."""


def keep(archive: Path, root: Path, names: Iterable[str]) -> None:
    """Replace `archive` atomically with a copy of the files and links at some paths below `root`."""
    new, absent = archive.with_suffix(".new"), []
    archive.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name in names:
                if os.path.lexists(root / name):
                    tar.add(root / name, arcname=name, recursive=False)
                else:
                    absent.append(name)
            said = "\n".join(absent).encode()
            info = tarfile.TarInfo(_ABSENT)
            info.size = len(said)
            tar.addfile(info, io.BytesIO(said))
        file.flush()
        os.fsync(file.fileno())
    new.replace(archive)


def put_back(archive: Path, root: Path) -> None:
    """Put back each kept file atomically, and delete files that did not exist before; safe to repeat."""
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if member.name == _ABSENT and file:
                for name in file.read().decode().splitlines():
                    (root / name).unlink(missing_ok=True)
                continue
            new = (root / member.name).with_name(f".{Path(member.name).name}.new")
            new.unlink(missing_ok=True)
            if member.issym():
                new.symlink_to(member.linkname)
            elif file:
                with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as target:
                    os.fchown(target.fileno(), member.uid, member.gid)
                    os.fchmod(target.fileno(), member.mode)
                    target.write(file.read())
            else:
                continue
            new.replace(root / member.name)
