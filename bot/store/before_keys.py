"""Maps the words that releases before step keys stored, such as step titles, to keys and values. Pure.

Used by the migration of databases, and frozen with it: databases in the field contain these words, whatever the current
ones are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

KEYS = {
    "Have the blueprint there": "bring",
    "Clone the blueprint": "clone",
    "Start the container": "start",
    "Give it an identity of its own": "identify",
    "Route its domain": "route",
    "See its login page": "probe",
    "Close its page": "close",
    "Stop the container": "stop",
    "Put it into the archive": "archive",
    "Take it out of the archive": "unarchive",
    "Stop crons and workers": "quiet",
    "Start crons and workers": "open",
    "Take a snapshot of now": "snapshot",
    "Take a snapshot of now, and copy the old state beside it": "snapshot-and-copy",
    "Copy the old state beside it": "copy",
    "Start it, closed, and see its page inside": "start",
    "Take a snapshot of now, and start the old state beside it, closed": "beside",
    "Put it in place": "change",
    "Keep what was there before": "keep",
    "Check the target": "check",
    "Copy it while it runs": "copy",
    "Copy what changed meanwhile": "catch-up",
    "Close and stop it": "stop",
    "Copy the last difference": "last-difference",
    "Start it there, closed, and see its page inside": "start",
    "Open it there, and route its domain": "change",
    "Keep the old container": "keep",
    "Decide on the mail that waits": "decide",
    "Set the container's limits": "limits",
    "Set the sizes inside": "inside",
    "Remove the container": "remove",
    "Route without it": "route",
    "Take the snapshot": "take",
}
"""The key of each step title that any release wrote."""
COMMIT = "probe"


def key_of(title: str) -> str:
    """Return the key of a step by its title; "" if no release wrote that title."""
    if re.fullmatch(r"Restart (the container|its \w+)", title):
        return "restart"
    if re.fullmatch(r"Remove \d+ snapshots?", title):
        return "remove"
    return KEYS.get(title, "")


def takes_snapshot(title: str) -> bool:
    """Whether a step with this title took a snapshot of its tenant."""
    return bool(re.match(r"Take .*snapshot", title))


def values_of(command: str, arguments: Mapping[str, Any], facts: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that a plan's facts were made from; if they cannot be read, a value that no plan has."""
    try:
        return _VALUES[command](arguments, facts)
    except KeyError:
        return {"unknown": True}


def texts_of(remarks: Mapping[str, str]) -> dict[str, str]:
    """Return the texts, by key, that an outcome repeats from the remarks of its request."""
    keys = {"It is": "is", "Not affected": "stays"}
    return {key: remarks[label] for label, key in keys.items() if label in remarks}


def _address(facts: Mapping[str, str]) -> dict[str, Any]:
    return {"address": facts["Address"].partition(" ")[0]}


def _days(facts: Mapping[str, str]) -> dict[str, Any]:
    found = re.search(r"\bfor (\d+) days", facts["Kept"])
    return {"days": int(found[1]) if found else 0}


def _size(facts: Mapping[str, str]) -> dict[str, Any]:
    found = re.fullmatch(r"(\S+): (\d+) CPUs, (\S+) memory, (\S+) disk", facts["Plan"])
    return {"size": found[1], "cpu": int(found[2]), "memory": found[3], "disk": found[4]} if found else {}


def _new(__: Mapping[str, Any], facts: Mapping[str, str]) -> dict[str, Any]:
    version, _, kind = facts["Mautic"].partition(" ")
    about = {"version": version, "double": bool(kind), "host": facts["Host"], "note": facts.get("Note", "")}
    return {**_address(facts), **about, **_size(facts)}


_VALUES: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, str]], dict[str, Any]]] = {
    "new": _new,
    "start": lambda _, facts: _address(facts),
    "unarchive": lambda _, facts: _address(facts),
    "resume": lambda _, facts: _address(facts),
    "stop": lambda _, facts: _address(facts),
    "suspend": lambda _, facts: _address(facts),
    "restart": lambda arguments, facts: {**_address(facts), "part": arguments["part"]},
    "delete": lambda _, facts: {**_address(facts), **_days(facts)},
    "restore": lambda _, facts: {"snapshot": facts["To the snapshot"], "rests": "Runs" in facts, **_days(facts)},
    "migrate": lambda _, facts: {"from": facts["From"], "to": facts["To"], **_days(facts)},
    "mail": lambda arguments, _: {"what": arguments["what"]},
    "resize": lambda _, facts: _size(facts),
    "purge": lambda arguments, facts: {"container": arguments["container"], "offline": "Goes offline" in facts},
    "snapshot": lambda arguments, _: {"keep": arguments["keep"], "note": arguments["note"]},
    "prune": lambda arguments, _: {"snapshots": arguments["snapshots"]},
}
