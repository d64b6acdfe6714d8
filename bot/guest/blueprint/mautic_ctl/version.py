"""`version`: which Mautic this is."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .system import STATE, mautic_version, read_json

FURNITURE = STATE / "furniture.json"
"""{"version": n}: of what the bot has put into this tenant."""
PACKAGES = Path("/var/lib/dpkg/status")
BASIC = 1
"""The version of a tenant that says none."""


def version(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Say which Mautic this is, from its files."""
    found = mautic_version()
    return {"version": found, "double": "double" in found}


def base(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Tell which Debian packages are installed, and when the last of them was."""
    text = PACKAGES.read_text(errors="replace")
    found = {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.+)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields.get("Version", "")
    return {"since": int(PACKAGES.stat().st_mtime), "packages": found}


def furniture_version() -> int:
    """Return the version of what the bot has put into this tenant."""
    found = read_json(FURNITURE).get("version")
    return found if isinstance(found, int) else BASIC
