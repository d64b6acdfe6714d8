"""What an operation will do, before it does it: steps, facts, and the refusals that stop it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


class Refused(Exception):
    """A command that is not carried out; the text says why and what to do, in one sentence for a person."""


class NoRoom(Refused):
    """A host has no room for it now: it may have in an hour, so that a request need not be asked anew."""


class UnknownWords(Refused):
    """Words that mean nothing here. The text quotes them, so it is for the person alone: they may be a secret."""


@dataclass(frozen=True)
class Step:
    """One `ensure_…` of an operation: looks at the world before it acts, so that it is safe to run again.

    `run` returns a short note for the card and the audit row, or None. Never anything secret.
    """

    title: str
    run: Callable[[], str | None] = field(repr=False)


@dataclass(frozen=True)
class Choice:
    """What the approver may decide beside yes and no: the value of one of the command's arguments.

    `options`: each value that may be chosen, in words. Who approves and says nothing leaves what was asked for.
    """

    argument: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """What people approve, and what then runs.

    `arguments` are the command's own, resolved: building the plan again from them gives the same fingerprint
    for as long as the world that it was made from has not changed. `facts` are shown on the card, and are part
    of the fingerprint; `remarks` are shown too, and may change from minute to minute (room, bytes). `undo` takes back
    what a failed run left, is itself safe to run again, and may say what is still to be taken back. `until_done`: the
    labels of facts that mean nothing any more once it is done. `demand`: what it makes run or grow on a host, as
    `bot.capacity.Demand` is stored, or None. `choice`: what is left to the approver; neither facts nor steps tell what
    was chosen, so that the plan stays the one that was shown.
    """

    tenant: str
    arguments: Mapping[str, str | bool]
    summary: str
    facts: Mapping[str, str]
    steps: tuple[Step, ...]
    reversible: str
    seconds: int
    undo: Callable[[], str | None] | None = field(default=None, repr=False)
    remarks: Mapping[str, str] = field(default_factory=dict)
    until_done: tuple[str, ...] = ()
    demand: Mapping[str, Any] | None = None
    choice: Choice | None = None

    def fingerprint(self) -> str:
        """Return a digest of everything that was shown; a different one means a different plan."""
        shown = [
            self.tenant,
            self.summary,
            dict(self.facts),
            [step.title for step in self.steps],
            self.reversible,
        ]
        return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()

    def shown(self) -> str:
        """Return the plan as JSON, as the card needs it."""
        return json.dumps(
            {
                "summary": self.summary,
                "facts": dict(self.facts),
                "remarks": dict(self.remarks),
                "reversible": self.reversible,
                "seconds": self.seconds,
                "undoable": self.undo is not None,
                "choice": asdict(self.choice) if self.choice else None,
                "until_done": list(self.until_done),
                "demand": self.demand and dict(self.demand),
            }
        )
