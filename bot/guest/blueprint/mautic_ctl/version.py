"""`version`, `base`: reports the versions of Mautic, of the Debian packages and of the furniture."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .system import STATE, mautic_version, read_json

FURNITURE = STATE / "furniture.json"
"""{"version": n}: the version of the furniture in this tenant."""
PACKAGES = Path("/var/lib/dpkg/status")
BASIC = 1
"""The furniture version of a tenant that does not record one."""


def version(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Return {version, double}: Mautic's version, read from its files, and whether it is a stand-in for Mautic."""
    found = mautic_version()
    return {"version": found, "double": "double" in found}


def base(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Return {since, packages}: when the Debian packages last changed (epoch seconds), and {name: version}."""
    text = PACKAGES.read_text(errors="replace")
    found = {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.+)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields.get("Version", "")
    return {"since": int(PACKAGES.stat().st_mtime), "packages": found}


def furniture_version() -> int:
    """Return the version of the furniture in this tenant."""
    found = read_json(FURNITURE).get("version")
    return found if isinstance(found, int) else BASIC
