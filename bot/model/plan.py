"""What an operation will do, before it does it: preconditions, inputs, facts and steps. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import msgspec

Subject = Literal["tenant", "host", "fleet"]
"""What an operation changes."""
Value = str | int | float | bool


class Refused(Exception):
    """A command that is refused; the text says why and what to do, in one sentence for a person.

    `guard`: the key of the guard that refused, "" where none did. `typed`: the part of the text that a person typed, in
    which no mention is rendered.
    """

    guard: str = ""
    typed: str = ""


class NotNow(Refused):
    """Refused only for now: a request keeps waiting, and need not be made again."""

    @classmethod
    def of(cls, no: Refused, text: str = "") -> NotNow:
        """Return a refusal as a NotNow, of its own class if it is one already; `text` replaces its text."""
        kind = type(no) if isinstance(no, NotNow) else cls
        made = kind(text or str(no))
        made.guard, made.typed = no.guard, no.typed
        return made


class NoSpace(NotNow):
    """A host has too little free for now."""

    guard = "memory"


class UnknownWords(Refused):
    """Words that mean nothing here. The text quotes them, so show it only to the person: they may be a secret."""


@dataclass(frozen=True)
class Step:
    """One `ensure_…` of an operation: looks at the world before it acts, so that it is safe to run again.

    `key` is for code, unique among the steps of its plan; `title` is for people, and may be reworded.
    `work` returns a short note for the card and the audit row, or None. Never anything secret.
    `takes_snapshot`: whether it counts as a snapshot of the tenant.
    """

    key: str
    title: str
    work: Callable[[], str | None] = field(repr=False)
    takes_snapshot: bool = False


@dataclass(frozen=True)
class Steps:
    """How an operation is done. `commit` and `undo` as a `Plan` has them."""

    steps: tuple[Step, ...]
    undo: Callable[[], str | None] | None = field(default=None, repr=False)
    commit: str = ""


@dataclass(frozen=True)
class Precondition:
    """What must hold for a request: `check` raises Refused, or returns remarks for the card, by label.

    `again`: checked also at the approval and when the operation begins. Otherwise it concerns only the requester, or is
    too slow to repeat.
    """

    check: Callable[[], Mapping[str, str] | None] = field(repr=False)
    again: bool = True


def require(holds: bool, otherwise: str, *, again: bool = True) -> Precondition:
    """Return the precondition that something holds; `otherwise` is the sentence of the refusal."""

    def check() -> None:
        if not holds:
            raise Refused(otherwise)

    return Precondition(check, again)


def always(check: Callable[..., Mapping[str, str] | None], *arguments: object) -> Precondition:
    """Return a precondition that is checked at the request, at the approval and at the start."""
    return Precondition(partial(check, *arguments))


def once(check: Callable[..., Mapping[str, str] | None], *arguments: object) -> Precondition:
    """Return a precondition that is checked, or shown, only at the request."""
    return Precondition(partial(check, *arguments), again=False)


@dataclass(frozen=True)
class Choice:
    """What the approver may decide besides yes and no: the value of one of the command's arguments.

    `options`: each value and its words. An approval without a choice keeps what was requested.
    """

    argument: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """What people approve, and what then runs.

    `arguments` are the command's own, resolved: building the plan again from them gives the same fingerprint
    for as long as the world that it was made from has not changed. `facts` and `remarks` are shown on the card, by
    label; the latter may change from minute to minute (free space). `values` are what the facts are made from, by
    key: with the keys of the steps they are the fingerprint, and templates use them. `texts` are texts of the request
    that the outcome repeats, by key; the one of `thread` is posted there when it is requested. `commit` is the key of
    the step after which nothing is rolled back, "": none.
    `undo` rolls back what a failed run left, is safe to run again, and may say what is still to be rolled back.
    `first`: the labels of what is shown above all else. `until_done`: those of facts that are hidden once it is done.
    `demand`: what it makes run or grow on a host, as `bot.fleet.capacity.Demand` is stored, or None. `choice`: what is
    left to the approver; neither values nor steps depend on the choice, so that the plan stays the one that was shown.
    `safety`: it protects data, so that no freeze stops it as maintenance. `subject`: what it changes; `tenant` is ""
    where that is no single tenant. `host`: the one that it is on, "": none, or several. `children`: the plans of a
    batch, which has no steps of its own; they are part of the fingerprint. `inputs`: all that the command's steps are
    made from, a dataclass of its own, stored as JSON; None: the steps are given here, and made again with the plan.
    `requires`: its preconditions. `cutover`: the name of the cutover (`move`), "": none. `command`: a child's, where it
    is not its batch's; `ring`: of a child, which begins when those of lower rings are done and have soaked.
    `at`: when it begins, in epoch seconds, 0: as soon as it may. `can_wait`: it closes a tenant for what can wait, so
    that it begins within the hours of the settings, and not while mail is being sent.
    `way_back`: returns `reversible` where that needs a look at the world; called only
    at the request.
    """

    tenant: str
    arguments: Mapping[str, str | bool]
    summary: str
    facts: Mapping[str, str]
    steps: tuple[Step, ...] = ()
    reversible: str = field(default="", kw_only=True)
    seconds: int = field(kw_only=True)
    undo: Callable[[], str | None] | None = field(default=None, repr=False)
    remarks: Mapping[str, str] = field(default_factory=dict)
    first: tuple[str, ...] = ()
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
    inputs: Any = None
    requires: tuple[Precondition, ...] = field(default=(), repr=False)
    cutover: str = ""
    command: str = ""
    ring: int = 0
    at: float = 0.0
    can_wait: bool = False
    way_back: Callable[[], str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse a plan with two steps of one key, or whose commit point is none of its steps."""
        if len(set(self.keys)) != len(self.steps):
            raise ValueError(f"Two steps of one plan have the same key: {', '.join(self.keys)}.")
        if self.commit and self.commit not in self.keys:
            raise ValueError(f"The commit point {self.commit} is none of the steps {', '.join(self.keys)}.")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its steps, in order."""
        return tuple(step.key for step in self.steps)

    def checked(self, *, again: bool) -> Plan:
        """Return it with the remarks of its preconditions; raise Refused for the first that does not hold.

        `again`: check only those that are checked again.
        """
        told = dict(self.remarks)
        for one in self.requires:
            if one.again or not again:
                told |= one.check() or {}
        way_back = self.reversible if again or self.way_back is None else self.way_back()
        return replace(self, remarks=told, reversible=way_back)

    def with_steps(self, made: Steps) -> Plan:
        """Return it with the steps made from its inputs."""
        return replace(self, steps=made.steps, undo=made.undo, commit=made.commit)

    def stored(self) -> str:
        """Return the inputs as JSON; "" where the steps are given with the plan."""
        return "" if self.inputs is None else json.dumps(msgspec.to_builtins(self.inputs))

    def fingerprint(self) -> str:
        """Return a digest of what it does, independent of its words; a different one means a different plan."""
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
                "choice": self.choice
                and {
                    **asdict(self.choice),
                    "proposed": self.arguments.get(self.choice.argument, ""),
                },
                "first": list(self.first),
                "until_done": list(self.until_done),
                "demand": self.demand and dict(self.demand),
                "values": dict(self.values),
                "texts": dict(self.texts),
                "commit": self.commit,
                "safety": self.safety,
                "children": len(self.children),
                "rings": [child.ring for child in self.children],
                "cutover": self.cutover,
                "at": self.at,
                "can_wait": self.can_wait,
                "inputs": None if self.inputs is None else msgspec.to_builtins(self.inputs),
            }
        )
