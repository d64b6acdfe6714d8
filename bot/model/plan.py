"""Plans: what an operation will do, known before it runs: preconditions, inputs, facts and steps. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import msgspec

Subject = Literal["tenant", "host", "fleet"]
"""The kind of thing that an operation changes."""
Value = str | int | float | bool


class Refused(Exception):
    """A refused command; the text says why and what to do, in one sentence for a person.

    `guard`: the key of the guard that refused, "" where no guard did. `typed`: the part of the text that a person
    typed, in which mentions are not rendered.
    """

    guard: str = ""
    typed: str = ""


class NotNow(Refused):
    """A refusal only for now: the request keeps waiting and does not have to be made again."""

    @classmethod
    def of(cls, no: Refused, text: str = "") -> NotNow:
        """Convert a refusal to a NotNow, keeping its class where it is one already; `text` replaces its text."""
        kind = type(no) if isinstance(no, NotNow) else cls
        made = kind(text or str(no))
        made.guard, made.typed = no.guard, no.typed
        return made


class NoSpace(NotNow):
    """A refusal because a host has too little free space for now."""

    guard = "memory"


class UnknownWords(Refused):
    """Words that the bot does not understand. The text quotes them: show it only to their author (may be a secret)."""


@dataclass(frozen=True)
class Step:
    """One `ensure_…` of an operation. It checks the current state before it acts, so that it is safe to run again.

    `key` is for code and unique among the steps of its plan; `title` is for people and may be reworded.
    `work` returns a short note for the card and the audit row, or None; never a secret.
    `takes_snapshot`: whether the step counts as a snapshot of the tenant.
    """

    key: str
    title: str
    work: Callable[[], str | None] = field(repr=False)
    takes_snapshot: bool = False


@dataclass(frozen=True)
class Steps:
    """The steps of an operation. `commit` and `undo` are those of `Plan`."""

    steps: tuple[Step, ...]
    undo: Callable[[], str | None] | None = field(default=None, repr=False)
    commit: str = ""


@dataclass(frozen=True)
class Precondition:
    """A condition that must hold for a request: `check` raises Refused, or returns remarks for the card, by label.

    `again`: also checked at the approval and when the operation begins. Otherwise the condition concerns only the
    requester, or is too slow to check again.
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
    """Return a precondition that is checked, and whose remarks are made, only at the request."""
    return Precondition(partial(check, *arguments), again=False)


@dataclass(frozen=True)
class Choice:
    """A choice that the approver has besides yes and no: the value of one of the command's arguments.

    `options`: the words for each value. An approval without a choice keeps the requested value.
    """

    argument: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """What people approve, and what then runs.

    `arguments`: the command's own arguments, resolved. Building the plan again from them gives the same fingerprint as
    long as the state that it was made from has not changed.
    `facts` and `remarks` are shown on the card, by label; remarks, such as free space, may change from minute to
    minute. `values`: what the facts are made from, by key. Values and the keys of the steps make up the fingerprint;
    templates use the values, too. `texts`: texts of the request that the outcome repeats, by key; the text `thread` is
    posted in the thread when the request is made. `first`: labels to show above all others. `until_done`: labels of
    facts to hide once the operation is done.
    `commit`: the key of the step after which nothing is rolled back, "": none. `undo` rolls back what a failed run
    left, is safe to run again, and may return what is still to be rolled back.
    `demand`: the capacity that the operation needs on a host, as `bot.fleet.capacity.Demand` is stored, or None.
    `choice`: what the approver may choose; neither values nor steps depend on it, so that the plan stays the one that
    was shown. `safety`: the operation protects data, so that no freeze stops it as maintenance.
    `subject`: what the operation changes; `tenant` is "" where it changes no single tenant. `host`: the host that the
    operation runs on, "": none, or several.
    `children`: the plans of a batch, which has no steps of its own; they are part of the fingerprint. `command`: the
    command of a child, where it differs from the batch's; `ring`: the ring of a child, which begins when the children
    of lower rings are done and have soaked.
    `inputs`: everything that the command's steps are made from, a dataclass of the command, stored as JSON; None: the
    steps are given here, and made again with the plan. `requires`: the preconditions. `cutover`: the name of the
    cutover (`move`), "": none.
    `at`: when the operation begins, in epoch seconds, 0: as soon as possible. `can_wait`: the operation closes a tenant
    and is not urgent, so that it begins within `upgrades.window`, and not while the tenant sends mail.
    `way_back`: returns `reversible` where that depends on the current state; called only at the request.
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
        """Raise ValueError where two steps have the same key, or the commit point is not one of the steps."""
        if len(set(self.keys)) != len(self.steps):
            raise ValueError(f"Two steps of one plan have the same key: {', '.join(self.keys)}.")
        if self.commit and self.commit not in self.keys:
            raise ValueError(f"The commit point {self.commit} is none of the steps {', '.join(self.keys)}.")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the steps, in order."""
        return tuple(step.key for step in self.steps)

    def checked(self, *, again: bool) -> Plan:
        """Return the plan with the remarks of its preconditions; raises Refused for the first that does not hold.

        `again`: check only the preconditions that are checked again.
        """
        told = dict(self.remarks)
        for one in self.requires:
            if one.again or not again:
                told |= one.check() or {}
        way_back = self.reversible if again or self.way_back is None else self.way_back()
        return replace(self, remarks=told, reversible=way_back)

    def with_steps(self, made: Steps) -> Plan:
        """Return the plan with the steps that were made from its inputs."""
        return replace(self, steps=made.steps, undo=made.undo, commit=made.commit)

    def stored(self) -> str:
        """Return the inputs as JSON; "" where the plan came with its steps."""
        return "" if self.inputs is None else json.dumps(msgspec.to_builtins(self.inputs))

    def fingerprint(self) -> str:
        """Return a digest of what the plan does, whatever its words; a different digest means a different plan."""
        does: list[object] = [self.tenant, dict(self.values), self.keys]
        if self.children:
            does.append([child.fingerprint() for child in self.children])
        return hashlib.sha256(json.dumps(does, sort_keys=True).encode()).hexdigest()

    def shown(self) -> str:
        """Return the plan as JSON for the card."""
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
