"""What an operation will do, before it does it: steps, facts, and the refusals that stop it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Subject = Literal["tenant", "host", "fleet"]
"""What an operation is on."""
Value = str | int | float | bool


class Refused(Exception):
    """A command that is not carried out; the text says why and what to do, in one sentence for a person.

    `guard`: the key of the guard that refused, "" where none did. `typed`: what a person typed of the text, so that
    no mention in it comes alive.
    """

    guard: str = ""
    typed: str = ""


class NotNow(Refused):
    """It cannot be done now, and may be in an hour: what was asked for goes on waiting, and need not be asked anew."""

    @classmethod
    def of(cls, no: Refused, text: str = "") -> NotNow:
        """Return a refusal as one that is no end, of its own class if it is one already, with another text if given."""
        kind = type(no) if isinstance(no, NotNow) else cls
        made = kind(text or str(no))
        made.guard, made.typed = no.guard, no.typed
        return made


class NoRoom(NotNow):
    """A host has no room for it now."""

    guard = "memory"


class UnknownWords(Refused):
    """Words that mean nothing here. The text quotes them, so it is for the person alone: they may be a secret."""


@dataclass(frozen=True)
class Step:
    """One `ensure_…` of an operation: looks at the world before it acts, so that it is safe to run again.

    `key` is what code knows it by, alone among the steps of its plan; `title` is for people, and may be reworded.
    `work` returns a short note for the card and the audit row, or None. Never anything secret.
    `takes_snapshot`: whether it counts as a snapshot of the tenant.
    """

    key: str
    title: str
    work: Callable[[], str | None] = field(repr=False)
    takes_snapshot: bool = False


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
    for as long as the world that it was made from has not changed. `facts` and `remarks` are shown on the card, by
    label; the latter may change from minute to minute (room, bytes). `values` are what the facts are made from, by
    key: with the keys of the steps they are the fingerprint, and templates use them. `texts` are what was said when it
    was asked for and the outcome repeats, by key. `commit` is the key of the step after which nothing is taken back,
    "": there is none. `undo` takes back what a failed run left, is itself safe to run again, and may say what is still
    to be taken back. `until_done`: the labels of facts that mean nothing any more once it is done. `demand`: what it
    makes run or grow on a host, as `bot.capacity.Demand` is stored, or None. `choice`: what is left to the approver;
    neither values nor steps tell what was chosen, so that the plan stays the one that was shown. `safety`: it keeps
    what there is, so that no freeze stops it where the bot asks for it by itself. `subject`: what it is on; `tenant` is
    "" where it is on no single one. `host`: the one that it is on, "": none, or several. `children`: of a batch, which
    has no steps of its own, the plans that it carries out; they are part of the fingerprint.
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
    values: Mapping[str, Value] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    safety: bool = False
    subject: Subject = "tenant"
    host: str = ""
    children: tuple[Plan, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Refuse a plan whose steps cannot be told apart, or whose commit point is none of them."""
        if len(set(self.keys)) != len(self.steps):
            raise ValueError(f"Two steps of one plan have the same key: {', '.join(self.keys)}.")
        if self.commit and self.commit not in self.keys:
            raise ValueError(f"The commit point {self.commit} is none of the steps {', '.join(self.keys)}.")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its steps, in order."""
        return tuple(step.key for step in self.steps)

    def fingerprint(self) -> str:
        """Return a digest of what it does, whatever the words for it; a different one means a different plan."""
        does: list[object] = [self.tenant, dict(self.values), self.keys]
        if self.children:
            does.append([child.fingerprint() for child in self.children])
        return hashlib.sha256(json.dumps(does, sort_keys=True).encode()).hexdigest()

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
                "values": dict(self.values),
                "texts": dict(self.texts),
                "commit": self.commit,
                "safety": self.safety,
                "children": len(self.children),
            }
        )
