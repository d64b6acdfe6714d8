"""An operation as it is stored: its record, its states, and what follows from them. Reads and writes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bot.model.lanes import SYSTEM as SYSTEM
from bot.model.plan import Plan, Subject
from bot.model.text import option
from bot.store.migrations import MAINTENANCE

State = Literal[
    "awaiting_approval",
    "queued",
    "running",
    "succeeded",
    "failed",
    "needs_attention",
    "denied",
    "expired",
    "cancelled",
    "given_up",
    "waiting",
]
"""`waiting`: a child of a batch whose turn has not come; like an ended operation, it does not lock its tenant."""
OPEN = ("awaiting_approval", "queued", "running", "needs_attention")
IS_OPEN = "state IN ('awaiting_approval', 'queued', 'running', 'needs_attention')"
LASTING = ("freeze", "time", "window", "sending")
"""Guards that may make an operation wait for hours or days: meanwhile the bot's own snapshots go on."""
IS_UNDER_WAY = (
    "state IN ('queued', 'running', 'needs_attention')"
    " AND NOT (state = 'queued' AND held_by IN ('freeze', 'time', 'window', 'sending'))"
)
"""SQL conditions of operations that lock their tenant: `IS_OPEN` of those that lock it against people's requests,
`IS_UNDER_WAY` of those that lock it against the bot's own snapshots too."""
WORTH_TELLING = "(requester <> 'system' OR state IN ('failed', 'needs_attention'))"
"""The SQL condition of all operations but maintenance that has not failed, of which there is some every hour."""
GRACE = 3600.0
"""Seconds after its time (`--at`), or after an approval that came later, within which an operation may still begin by
itself. A restart or an update of the bot takes minutes; an hour later it may be the working hours that were avoided."""
RESPONDERS = "\ue000responders\ue000"
"""Placeholder in a note for the people who can put an operation right; the announcer replaces it with their mention,
because Slack knows who they are. `bot.model.text.escape` removes this character from what people type."""
NEVER = 1 << 62
"""`announced` of an operation that has no card: no revision is higher."""


@dataclass(frozen=True)
class StepRow:
    """A step as recorded; times in epoch seconds, None while it has not happened.

    `key` is "" for a step of a release before step keys whose title is unknown.
    """

    title: str
    started: float | None
    finished: float | None
    note: str
    key: str = ""


@dataclass(frozen=True)
class Decision:
    """One person's decision on a request."""

    actor: str
    verdict: str
    reason: str
    via: str
    at: float


@dataclass(frozen=True)
class Operation:
    """One row, with its steps and decisions.

    `undo_by`: for whom it is being rolled back; SYSTEM if a step failed, and then `outcome` already says why. In state
    `needs_attention`: it is rolled back as soon as a silent host answers.
    `reason`: why it was given up. `begun`: a step of it began and was not rolled back. `committed`: it passed its
    commit point, in any attempt. `cause`: why a step failed, while the rollback is in progress or cannot be completed.
    `asked`: when it was requested, in elapsed time (`Uptime.now`); None: unknown.
    `held_by`: the key of the guard that it waits for before it begins; `outcome` says why.
    `subject`: what it changes; `tenant` is "" if that is no single tenant. `host`: the host that it is on, or that its
    batch counts it on; "": none. `parent`: the batch that it is a child of; 0: none. `asked_after`: the last number of
    a person's request when it was created. `run`: its run of maintenance, whose one audit row stands for it; 0: none.
    `ring`: the ring of a batch's child, see `bot.model.plan`.
    `ended_by`: who cancelled, stopped or gave it up, or had it rolled back. `aftermath`: what a failure left: keys of
    `bot.engine.attention.Aftermath`, or `left`, a clause.
    """

    id: int
    command: str
    tenant: str
    arguments: Mapping[str, str | bool]
    requester: str
    channel: str
    state: State
    plan: Mapping[str, Any]
    fingerprint: str
    attempts: int
    created: float
    expires: float
    started: float | None
    finished: float | None
    outcome: str
    error_id: str
    undo_by: str
    begun: int
    ended_by: str
    aftermath: Mapping[str, Any]
    message_ts: str
    revision: int
    announced: int
    steps: tuple[StepRow, ...]
    decisions: tuple[Decision, ...]
    reason: str = ""
    asked: float | None = None
    committed: int = 0
    cause: str = ""
    held_by: str = ""
    subject: Subject = "tenant"
    host: str = ""
    parent: int = 0
    asked_after: int = 0
    run: int = 0
    ring: int = 0

    @property
    def open(self) -> bool:
        """Whether it still locks its tenant."""
        return self.state in OPEN

    @property
    def named(self) -> str:
        """What people call it: by its number, or for the bot's own maintenance by what it does."""
        if self.id > MAINTENANCE:
            return f"the bot's own {self.command} of {self.about}"
        return f"request #{self.id}"

    @property
    def headed(self) -> str:
        """The same as `named`, to begin a sentence with."""
        return self.named[0].upper() + self.named[1:]

    @property
    def standing(self) -> str:
        """Its state in words, to end a sentence with; names the person who decided last."""
        by = next((one.actor for one in reversed(self.decisions)), "")
        if self.state == "denied":
            return f"was denied by <@{by}>"
        approved = f" (approved by <@{by}>)" if by and self.state not in ("awaiting_approval", "expired") else ""
        stands = {
            "awaiting_approval": "is waiting for approval",
            "queued": "is queued",
            "running": "is in progress",
            "succeeded": "is already done",
            "failed": "has failed",
            "needs_attention": "needs action",
            "given_up": "was given up",
            "waiting": "waits for its turn in a batch",
            "cancelled": "was cancelled",
            "expired": "has expired",
        }
        return f"{stands[self.state]}{approved}"

    @property
    def promised(self) -> Mapping[str, str]:
        """The facts and remarks of its plan, by label; those that must be seen first come first."""
        told = {**self.plan["facts"], **self.plan.get("remarks", {})}
        first = self.plan.get("first", ())
        return {label: told[label] for label in sorted(told, key=lambda label: label not in first)}

    @property
    def undoable(self) -> bool:
        """Whether Undo can roll it back: not past a cutover's commit point, from which on the new container serves."""
        return bool(self.plan["undoable"]) and not (self.cutover and self.committed)

    @property
    def children(self) -> int:
        """How many operations it is a batch of; 0: it is not a batch."""
        return int(self.plan.get("children", 0))

    @property
    def in_batch(self) -> bool:
        """Whether its approval is for a whole list of tenants."""
        return bool(self.children or self.parent)

    @property
    def at(self) -> float:
        """When it begins, in epoch seconds; 0: as soon as it may."""
        return float(self.plan.get("at", 0))

    @property
    def latest(self) -> float:
        """Until when it may begin if nothing but the bot delays it, in epoch seconds; inf: it has no time."""
        approved = max((one.at for one in self.decisions), default=0.0)
        return max(self.at, approved) + GRACE if self.at else math.inf

    @property
    def about(self) -> str:
        """The tenant, or the number of tenants, that it is on, for people."""
        return f"{self.children} tenants" if self.children else f"`{self.tenant}`"

    @property
    def confirmation(self) -> str:
        """What is typed to approve it when a press is not enough: the tenant's name, or a batch's number of tenants."""
        return str(self.children) if self.children else self.tenant

    @property
    def cutover(self) -> str:
        """The name of its cutover, such as `move`; "" if no other container takes the tenant's place."""
        before = {"migrate": "move", "restore": "restore"}
        return str(self.plan.get("cutover", before.get(self.command, "")))

    @property
    def options(self) -> Mapping[str, str]:
        """What the approver may choose besides yes and no: each value, and its words; empty: nothing."""
        choice: Mapping[str, Any] = self.plan.get("choice") or {}
        options: Mapping[str, str] = choice.get("options", {})
        return options

    @property
    def chosen(self) -> str:
        """The option that was chosen or requested; empty: none yet."""
        return str(self.arguments.get(self.plan["choice"]["argument"], "")) if self.options else ""

    def step(self, key: str) -> StepRow:
        """Return the step with a key; a missing one is returned as a step that has not happened."""
        return next((step for step in self.steps if step.key == key), StepRow("", None, None, "", key))

    def is_of(self, plan: Plan) -> bool:
        """Whether a plan does what was requested. Words do not count, because an update may have changed them.

        Of requests from before there were step keys, only the values that their cards showed are known and compared.
        """
        if not self.plan.get("of_before"):
            # Not part of the fingerprint: earlier releases stored no rings, so that would cancel requests that wait.
            rings = self.plan.get("rings")
            same = rings is None or rings == [child.ring for child in plan.children]
            return same and plan.fingerprint() == self.fingerprint
        values: Mapping[str, Any] = self.plan["values"]
        return self.has_steps_of(plan) and {key: plan.values.get(key) for key in values} == values

    def has_steps_of(self, plan: Plan) -> bool:
        """Whether its steps are those of a plan, by their keys."""
        return plan.keys == tuple(step.key for step in self.steps)

    @property
    def again(self) -> str:
        """What is typed after `/mautic` to request the same again."""
        if said := self.plan.get("texts", {}).get("again"):
            return str(said)
        words = [self.command, self.tenant]
        words += [option(name, value) for name, value in self.arguments.items() if name != "tenant" and value]
        return " ".join(words)

    def again_at(self, now: float) -> str:
        """Return `again` for a request made at `now`: of a time that has passed by then, only the hour of the day."""
        at = str(self.arguments.get("at", ""))
        return self.again.replace(at, at.partition("T")[2][:5]) if at and self.at <= now else self.again

    @property
    def mark(self) -> str:
        """The identity on its card and buttons: after a loss of the database another request may get its number."""
        return f"{self.id}.{self.created:.0f}.{self.fingerprint[:8]}"
