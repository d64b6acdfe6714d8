"""An operation as it is stored: a record, its states, and what follows from them. Nothing here reads or writes."""

from __future__ import annotations

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
"""`waiting`: a child of a batch whose turn has not come; it holds its tenant no more than what has ended."""
OPEN = ("awaiting_approval", "queued", "running", "needs_attention")
IS_OPEN = "state IN ('awaiting_approval', 'queued', 'running', 'needs_attention')"
LASTING = ("freeze", "time", "window", "sending")
"""Guards that may hold an operation for hours or days: meanwhile the bot's own snapshots go on."""
IS_UNDER_WAY = (
    "state IN ('queued', 'running', 'needs_attention')"
    " AND NOT (state = 'queued' AND held_by IN ('freeze', 'time', 'window', 'sending'))"
)
"""Conditions of what holds its tenant against people, and of what holds it against the bot's own snapshots too."""
WORTH_TELLING = "(requester <> 'system' OR state IN ('failed', 'needs_attention'))"
"""The condition of all but maintenance that went well: there are some every hour."""
RESPONDERS = "\ue000responders\ue000"
"""Stands in a note for those who can put an operation right; the announcer names them, as Slack knows who they are.
In what people type there is no such character once it is escaped."""
NEVER = 1 << 62
"""`announced` of an operation that has no card: no revision comes after it."""


@dataclass(frozen=True)
class StepRow:
    """A step as recorded; times in epoch seconds, None while it has not happened.

    `key` is "" where a release before keys wrote a title that no release knows.
    """

    title: str
    started: float | None
    finished: float | None
    note: str
    key: str = ""


@dataclass(frozen=True)
class Decision:
    """One person's say on a request."""

    actor: str
    verdict: str
    reason: str
    via: str
    at: float


@dataclass(frozen=True)
class Operation:
    """One row, with its steps and decisions.

    `undo_by`: for whom it is being taken back; SYSTEM, when a step failed, and `outcome` says why already. With
    `needs_attention`: it is as soon as a host that is silent answers.
    `reason`: why it was given up. `begun`: a step of it began that nobody took back. `committed`: its commit point was
    passed, in whichever try. `cause`: why a step failed, while what was begun is taken back or cannot be.
    `asked`: when, by the time lived through; None: not known.
    `held_by`: the key of the guard that it waits for before it begins, and `outcome` says why.
    `subject`: what it is on; `tenant` is "" where it is on no single one. `host`: the one it is on, or that its batch
    counts it on, "": none. `parent`: the batch that it is a child of, 0: of none. `asked_after`: the last number of
    a person's request when it was asked for. `run`: the run of maintenance that it is of, whose one row tells of it, 0:
    of none. `ring`: of a batch's child, see `bot.model.plan`.
    `ended_by`: the person who withdrew it, or had it taken back. `aftermath`: what a failure left, of the keys of
    `bot.engine.attention.Aftermath`, and `left`, a sentence.
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
        """Whether it still holds its tenant."""
        return self.state in OPEN

    @property
    def named(self) -> str:
        """What people call it: by its number, or of the bot's own maintenance by what it does."""
        if self.id > MAINTENANCE:
            return f"the bot's own {self.command} of {self.about}"
        return f"request #{self.id}"

    @property
    def headed(self) -> str:
        """What people call it, to begin a sentence with."""
        return self.named[0].upper() + self.named[1:]

    @property
    def standing(self) -> str:
        """How it stands, to end a sentence with; it names who decided last."""
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
        """What its plan tells before it is done, by label, what has to be seen first above the rest."""
        told = {**self.plan["facts"], **self.plan.get("remarks", {})}
        first = self.plan.get("first", ())
        return {label: told[label] for label in sorted(told, key=lambda label: label not in first)}

    @property
    def undoable(self) -> bool:
        """Whether Undo can roll it back: not past a cutover's commit point, from where the new container serves."""
        return bool(self.plan["undoable"]) and not (self.cutover and self.committed)

    @property
    def children(self) -> int:
        """How many operations it is a batch of; 0: it is none."""
        return int(self.plan.get("children", 0))

    @property
    def in_batch(self) -> bool:
        """Whether the approval that it stands on is one of a whole list."""
        return bool(self.children or self.parent)

    @property
    def at(self) -> float:
        """When it begins, in epoch seconds; 0: as soon as it may."""
        return float(self.plan.get("at", 0))

    @property
    def about(self) -> str:
        """What it is on, for people."""
        return f"{self.children} tenants" if self.children else f"`{self.tenant}`"

    @property
    def confirmation(self) -> str:
        """What is typed where an approval takes more than a press: the tenant's name, or how many a batch has."""
        return str(self.children) if self.children else self.tenant

    @property
    def cutover(self) -> str:
        """What it is called that another container takes the tenant's place, "": none does."""
        before = {"migrate": "move", "restore": "restore"}
        return str(self.plan.get("cutover", before.get(self.command, "")))

    @property
    def options(self) -> Mapping[str, str]:
        """What the approver may choose beside yes and no, each in words; empty: nothing."""
        choice: Mapping[str, Any] = self.plan.get("choice") or {}
        options: Mapping[str, str] = choice.get("options", {})
        return options

    @property
    def chosen(self) -> str:
        """What was chosen of the options, or asked for; empty: nothing yet."""
        return str(self.arguments.get(self.plan["choice"]["argument"], "")) if self.options else ""

    def step(self, key: str) -> StepRow:
        """Return the step of a key; one that there is not has not happened."""
        return next((step for step in self.steps if step.key == key), StepRow("", None, None, "", key))

    def is_of(self, plan: Plan) -> bool:
        """Whether a plan does what was asked for. Words do not count: they may be other ones since an update.

        Of what was asked for before there were keys the values are known as far as its card told them.
        """
        if not self.plan.get("of_before"):
            # Earlier releases stored no rings: a fingerprint over them would cancel what waits.
            rings = self.plan.get("rings")
            same = rings is None or rings == [child.ring for child in plan.children]
            return same and plan.fingerprint() == self.fingerprint
        values: Mapping[str, Any] = self.plan["values"]
        return self.has_steps_of(plan) and {key: plan.values.get(key) for key in values} == values

    def has_steps_of(self, plan: Plan) -> bool:
        """Whether its steps are those of a plan."""
        return plan.keys == tuple(step.key for step in self.steps)

    @property
    def again(self) -> str:
        """What is typed after `/mautic` to ask for the same anew."""
        if said := self.plan.get("texts", {}).get("again"):
            return str(said)
        words = [self.command, self.tenant]
        words += [option(name, value) for name, value in self.arguments.items() if name != "tenant" and value]
        return " ".join(words)

    @property
    def mark(self) -> str:
        """What its card and buttons carry: after a loss of the database another request may get the same number."""
        return f"{self.id}.{self.created:.0f}.{self.fingerprint[:8]}"
