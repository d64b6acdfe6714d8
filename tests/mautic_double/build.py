"""Builds the Mautic double's archives, in the layout of Mautic's release zips.

`build.py OUT.zip [RELEASE]` prints the sha256. `tree` is the release that a blueprint is made of by default; the others
are stored as differences from another one.
"""

import hashlib
import json
import os
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
TREE = HERE / "tree"
DEFAULT = "5.2.12"
RELEASES = {"5.2.11": DEFAULT, DEFAULT: "", "6.0.10": DEFAULT, "7.2.2": "6.0.10", "8.0.0": "7.2.2"}
"""Each release, oldest first, with the one that it is based on: `releases/<release>` is laid over that one's tree,
without the files that its `deleted_files.txt` names. The last one needs another PHP than the first Debian has."""
DELETED = "deleted_files.txt"
EMPTY_FOLDERS = ("media/files/", "media/images/", "plugins/", "themes/", "translations/", "app/assets/", "var/")
ASSETS = ("media/css/app.css", "media/css/libraries.css", "media/js/app.js", "media/js/libraries.js")
"""The compiled files that the pages link to; they differ in each release."""
FOLDER_MODE, FILE_MODE, PROGRAM_MODE = 0o40755, 0o100644, 0o100755


def build(target: Path, release: str = DEFAULT, *, update: bool = False) -> str:
    """Write the archive to `target` and return its sha256, the same for the same tree on any machine.

    `update`: write the archive that Mautic's own updater takes, with the list of deleted files.
    """
    files = contents(release)
    if update:
        files[DELETED] = json.dumps(_deleted(release)).encode()
    # The files have the release's own time, by which PHP tells its compiled code from that of another release.
    moment = (2026, 1 + list(RELEASES).index(release), 1, 0, 0, 0)
    # Somebody may be reading the existing archive.
    part = target.with_name(f"{target.name}.{os.getpid()}")
    with zipfile.ZipFile(part, "w") as archive:
        for name in sorted([*files, *EMPTY_FOLDERS]):
            entry = zipfile.ZipInfo(name, moment)
            entry.create_system = 3
            is_file = name in files
            mode = (PROGRAM_MODE if name == "bin/console" else FILE_MODE) if is_file else FOLDER_MODE
            entry.external_attr = mode << 16
            archive.writestr(entry, files.get(name, b""))
    found = hashlib.sha256(part.read_bytes()).hexdigest()
    part.replace(target)
    return found


def contents(release: str) -> dict[str, bytes]:
    """Return the contents of a release's files by path."""
    base = RELEASES[release]
    folder = HERE / "releases" / release if base else TREE
    files = contents(base) if base else {}
    files |= {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in _deleted(release):
        del files[name]
    files.pop(DELETED, None)
    return files | {name: f"/* Mautic double {release}: {name} */\n".encode() for name in ASSETS}


def _deleted(release: str) -> list[str]:
    listed = HERE / "releases" / release / DELETED
    deleted: list[str] = json.loads(listed.read_text()) if listed.exists() else []
    return deleted


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: build.py OUT.zip [{' | '.join(RELEASES)}]")
    print(build(Path(sys.argv[1]), *sys.argv[2:]))
