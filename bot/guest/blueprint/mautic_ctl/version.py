"""`version`: which Mautic this is."""

from collections.abc import Mapping
from typing import Any

from .system import mautic_version


def version(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Say which Mautic this is, from its files."""
    found = mautic_version()
    return {"version": found, "double": "double" in found}
