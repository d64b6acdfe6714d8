"""Builds the Mautic double's archive, in the layout of Mautic's release zip: `build.py OUT.zip` prints its sha256."""

import hashlib
import os
import sys
import zipfile
from pathlib import Path

TREE = Path(__file__).parent / "tree"
EMPTY_FOLDERS = ("media/files/", "media/images/", "plugins/", "themes/", "translations/", "app/assets/", "var/")
EPOCH = (2026, 1, 1, 0, 0, 0)
FOLDER_MODE, FILE_MODE, PROGRAM_MODE = 0o40755, 0o100644, 0o100755


def build(target: Path) -> str:
    """Writes the archive to `target` and returns its sha256, the same for the same tree on any machine."""
    files = {path.relative_to(TREE).as_posix(): path for path in TREE.rglob("*") if path.is_file()}
    # Somebody may be reading the one that is there.
    part = target.with_name(f"{target.name}.{os.getpid()}")
    with zipfile.ZipFile(part, "w") as archive:
        for name in sorted([*files, *EMPTY_FOLDERS]):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3
            if name in files:
                entry.external_attr = (PROGRAM_MODE if name == "bin/console" else FILE_MODE) << 16
                archive.writestr(entry, files[name].read_bytes())
            else:
                entry.external_attr = FOLDER_MODE << 16
                archive.writestr(entry, b"")
    found = hashlib.sha256(part.read_bytes()).hexdigest()
    part.replace(target)
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: build.py OUT.zip")
    print(build(Path(sys.argv[1])))
