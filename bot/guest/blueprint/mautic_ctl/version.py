"""`version`: which Mautic this is."""

from collections.abc import Mapping
from typing import Any

from .system import STATE, mautic_version, read_json

FURNITURE = STATE / "furniture.json"
"""{"version": n}: of what the bot has put into this tenant."""
BASIC = 1
"""The version of a tenant that says none."""


def version(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Say which Mautic this is, from its files."""
    found = mautic_version()
    return {"version": found, "double": "double" in found}


def furniture_version() -> int:
    """Return the version of what the bot has put into this tenant."""
    found = read_json(FURNITURE).get("version")
    return found if isinstance(found, int) else BASIC
