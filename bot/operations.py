"""Operations: durable changes, their states, and one open operation per tenant. Every change has its audit row."""

from __future__ import annotations

import json
import shlex
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bot import audit
from bot.database import Database
from bot.lived import Lived
from bot.messages import line, sentence
from bot.plan import Plan, Refused
from bot.turns import in_turn

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
]
OPEN = ("awaiting_approval", "queued", "running", "needs_attention")
SYSTEM = "system"
WORTH_TELLING = "(requester <> 'system' OR state IN ('failed', 'needs_attention'))"
"""The condition of all but the bot's own errands that went well: there are some every hour."""
ERRAND = 10.0
"""Seconds that a person's request waits for an errand of the bot's own on the same tenant."""
RESPONDERS = "\ue000responders\ue000"
"""Stands in a note for those who can put an operation right; the announcer names them, as Slack knows who they are.
In what people type there is no such character once it is escaped."""
NEVER = 1 << 62
"""`announced` of an operation that has no card: no revision comes after it."""
OF_ONE = 50
"""Requests of one person that may wait for approval."""
MAX_ATTEMPTS = 5
"""Runs that a crash may cut before a person has to look."""


class TenantBusy(Refused):
    """Another operation on the tenant is open; the text names it and its holder."""


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
    `ended_by`: the person who withdrew it, or had it taken back. `aftermath`: what a failure left, of the keys of
    `bot.halt.Aftermath`, and `left`, a sentence.
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

    @property
    def open(self) -> bool:
        """Whether it still holds its tenant."""
        return self.state in OPEN

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
            return plan.fingerprint() == self.fingerprint
        values: Mapping[str, Any] = self.plan["values"]
        return self.has_steps_of(plan) and {key: plan.values.get(key) for key in values} == values

    def has_steps_of(self, plan: Plan) -> bool:
        """Whether its steps are those of a plan."""
        return plan.keys == tuple(step.key for step in self.steps)

    @property
    def again(self) -> str:
        """What is typed after `/mautic` to ask for the same anew."""
        words = [self.command, self.tenant]
        for name, value in self.arguments.items():
            option = f"--{name.replace('_', '-')}"
            if name != "tenant" and value:
                words.append(option if value is True else f"{option}={shlex.quote(str(value))}".replace("`", "'"))
        return " ".join(words)

    @property
    def mark(self) -> str:
        """What its card and buttons carry: after a loss of the database another request may get the same number."""
        return f"{self.id}.{self.created:.0f}.{self.fingerprint[:8]}"


class Operations:
    """The table of operations. `changed` is called after each commit, so that the announcer and runner wake."""

    def __init__(self, database: Database, lived: Lived, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self.lived = lived
        self.clock = clock
        self.changed: Callable[[], None] = lambda: None

    def get(self, operation: int) -> Operation:
        """Return one operation, or refuse when there is none of that number."""
        found = self.select("id = ?", operation)
        if not found:
            raise Refused(f"There is no operation {operation}; `/mautic history` lists them.")
        return found[0]

    def marked(self, mark: str) -> Operation:
        """Return the operation that a card's button is of, or refuse when its number is another's by now."""
        found = self.get(int(mark.partition(".")[0]))
        if found.mark != mark:
            raise Refused(
                f"This card is of another request: operation {found.id} is now the `{found.command}` of "
                f"`{found.tenant}`, and has a card of its own."
            )
        return found

    def select(self, where: str, *values: object, order: str = "id", limit: int = 1000) -> list[Operation]:
        """Return the operations for an SQL condition of ours (never a person's words)."""
        rows = self.database.read(
            f"SELECT * FROM operations WHERE {where} ORDER BY {order} LIMIT {int(limit)}",  # noqa: S608
            *values,
        )
        return [self._whole(row) for row in rows]

    def _whole(self, row: sqlite3.Row) -> Operation:
        steps = self.database.read(
            "SELECT title, started, finished, note, key FROM steps WHERE operation = ? ORDER BY position",
            row["id"],
        )
        decisions = self.database.read(
            "SELECT actor, verdict, reason, via, at FROM decisions WHERE operation = ? ORDER BY at, rowid", row["id"]
        )
        fields = {key: row[key] for key in row.keys() if key != "request_key"}  # noqa: SIM118
        return Operation(
            **fields
            | {
                "arguments": json.loads(row["arguments"]),
                "plan": json.loads(row["plan"]),
                "aftermath": json.loads(row["aftermath"]),
                "steps": tuple(StepRow(*step) for step in steps),
                "decisions": tuple(Decision(*decision) for decision in decisions),
            }
        )

    def requested(self, request_key: str) -> bool:
        """Whether a delivery has made its operation already."""
        return bool(self.database.read("SELECT 1 FROM operations WHERE request_key = ?", request_key))

    def committed(self, operation: int) -> bool:
        """Whether an operation has passed its commit point, in whichever try: a retry begins the steps anew."""
        return bool(self.database.read("SELECT 1 FROM operations WHERE id = ? AND committed", operation))

    def number_after(self, number: int) -> None:
        """Give the next operation a higher number than this."""
        with self.database.transaction() as transaction:
            transaction.execute(
                "INSERT INTO sqlite_sequence (name, seq) SELECT 'operations', 0"
                " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'operations')"
            )
            transaction.execute(
                "UPDATE sqlite_sequence SET seq = ? WHERE name = 'operations' AND seq < ?", (number, number)
            )

    def refuse_if_busy(self, tenant: str, but: int = 0) -> None:
        """Raise TenantBusy, naming the holder, when another operation on the tenant is open."""
        marks = ",".join("?" * len(OPEN))
        for holder in self.select(f"tenant = ? AND id <> ? AND state IN ({marks})", tenant, but, *OPEN, limit=1):
            doing = {
                "awaiting_approval": f"waits for approval; `/mautic cancel {holder.id}` withdraws it",
                "needs_attention": f"needs attention first: see its thread, or end it as it stands with "
                f"`/mautic give-up {holder.id} because …`",
            }.get(holder.state, "is under way; try again when it is done")
            by = "the bot itself" if holder.requester == SYSTEM else f"<@{holder.requester}>"
            raise TenantBusy(
                f"`{tenant}` is held by operation {holder.id} ({holder.command}), asked for by {by}, which {doing}."
            )

    def refuse_one_too_many(self, requester: str) -> None:
        """Raise Refused when as many requests of one person wait for approval as may."""
        rows = self.database.read(
            "SELECT count(*) FROM operations WHERE state = 'awaiting_approval' AND requester = ?", requester
        )
        if rows[0][0] >= OF_ONE:
            raise Refused(
                f"{OF_ONE} of your requests wait for approval already; `/mautic history` lists them, and "
                "`/mautic cancel <id>` withdraws one."
            )

    def wait_for_errand(self, tenant: str) -> None:
        """Wait some seconds for what the bot does to a tenant by itself: nobody should have to ask again for that."""
        give_up = time.monotonic() + ERRAND
        under_way = "tenant = ? AND requester = ? AND state IN ('queued', 'running')"
        while self.select(under_way, tenant, SYSTEM, limit=1) and time.monotonic() < give_up:
            time.sleep(0.05)

    def request(
        self,
        command: str,
        plan: Plan,
        *,
        requester: str,
        channel: str,
        request_key: str,
        hours: float,
        approved: bool = False,
        tell: str = "",
    ) -> Operation:
        """Write the operation, its steps and the audit row in one transaction; the same `request_key` gives the same.

        Args:
            channel: where its card stands; empty: nowhere, as of what a schedule asks for.
            approved: nobody has to approve it, so that it is queued at once.
            tell: said in its thread while it waits for approval, to those who can give it.

        Raises TenantBusy.
        """
        now, lived = self.clock(), self.lived.now()
        try:
            with self.database.transaction() as transaction:
                known = transaction.execute(
                    "SELECT id FROM operations WHERE request_key = ?", (request_key,)
                ).fetchone()
                if known:
                    return self.get(known["id"])
                cursor = transaction.execute(
                    "INSERT INTO operations (command, tenant, arguments, requester, channel, state, plan, fingerprint,"
                    " request_key, created, expires, announced, asked) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        command,
                        plan.tenant,
                        json.dumps(dict(plan.arguments)),
                        requester,
                        channel,
                        "queued" if approved else "awaiting_approval",
                        plan.shown(),
                        plan.fingerprint(),
                        request_key,
                        now,
                        now + hours * 3600,
                        0 if channel else NEVER,
                        lived,
                    ),
                )
                identity = int(cursor.lastrowid or 0)
                transaction.executemany(
                    "INSERT INTO steps (operation, position, key, title, takes_snapshot) VALUES (?,?,?,?,?)",
                    [
                        (identity, position, step.key, step.title, step.takes_snapshot)
                        for position, step in enumerate(plan.steps)
                    ],
                )
                event = audit.Event(
                    "operation.requested",
                    requester,
                    plan.tenant,
                    identity,
                    {"command": command, **plan.arguments, "fingerprint": plan.fingerprint(), "approved": approved},
                )
                audit.record(transaction, event, now)
                if tell and not approved:
                    self.note(transaction, identity, tell, only_in="awaiting_approval")
        except sqlite3.IntegrityError as error:
            self.refuse_if_busy(plan.tenant)
            raise TenantBusy(f"`{plan.tenant}` was just taken by another request; try again.") from error
        self.changed()
        return self.get(identity)

    def move(
        self,
        transaction: sqlite3.Connection,
        operation: Operation,
        to: State,
        *,
        event: str,
        actor: str = SYSTEM,
        expect: tuple[State, ...],
        detail: Mapping[str, object] | None = None,
        note: str = "",
        **columns: object,
    ) -> bool:
        """Compare-and-set of the state, with its audit row and its note in the thread. False: somebody was quicker."""
        sets = ", ".join(["state = ?", "revision = revision + 1", *(f"{name} = ?" for name in columns)])
        marks = ",".join("?" * len(expect))
        done = transaction.execute(
            f"UPDATE operations SET {sets} WHERE id = ? AND state IN ({marks})",  # noqa: S608
            (to, *columns.values(), operation.id, *expect),
        )
        if done.rowcount != 1:
            return False
        audit.record(transaction, audit.Event(event, actor, operation.tenant, operation.id, detail), self.clock())
        if note:
            self.note(transaction, operation.id, note)
        return True

    def note(
        self, transaction: sqlite3.Connection, operation: int, text: str, *, only_in: State | Literal[""] = ""
    ) -> None:
        """Leave a message for the operation's thread, if it has one; the announcer posts it.

        `only_in`: the state in which alone it is still worth saying.
        """
        transaction.execute(
            "INSERT INTO notes (operation, text, only_in)"
            " SELECT id, ?, ? FROM operations WHERE id = ? AND channel <> ''",
            (text, only_in, operation),
        )

    def claim(
        self,
        hold: Callable[[Operation], str] = lambda _: "",
        may: Callable[[Operation], bool] = lambda _: True,
    ) -> Operation | None:
        """Take the next queued operation that can go on, to run it, or None: people take turns, oldest first.

        What has begun already comes before all else, as its tenant is half way.

        Args:
            hold: says why one has to wait, "" when it need not. Others pass it; its thread is told once.
            may: whether it may still begin; asked last.
        """
        for row in self._in_turn():
            candidate = self.get(row["id"])
            if candidate.state != "queued":
                continue
            if why := hold(candidate):
                self._wait(candidate, why)
                continue
            if not may(candidate):
                continue
            with self.database.transaction() as transaction:
                moved = self.move(
                    transaction,
                    candidate,
                    "running",
                    event="operation.started" if not candidate.attempts else "operation.resumed",
                    expect=("queued",),
                    attempts=candidate.attempts + 1,
                    started=candidate.started or self.clock(),
                    # Why it waited; of one that is to be taken back it is why it failed.
                    outcome=candidate.outcome if candidate.undo_by else "",
                )
            if moved:
                self.changed()
                return self.get(candidate.id)
        return None

    def _in_turn(self) -> list[sqlite3.Row]:
        under_way = self.database.read(
            "SELECT id, requester, state, begun FROM operations WHERE state IN ('queued', 'running') ORDER BY id"
        )
        running = Counter(row["requester"] for row in under_way if row["state"] == "running")
        queued = [row for row in under_way if row["state"] == "queued"]
        return sorted(in_turn(queued, lambda row: str(row["requester"]), running), key=lambda row: not row["begun"])

    def _wait(self, operation: Operation, why: str) -> None:
        """Record once that a queued operation has to wait."""
        if operation.outcome:
            return
        with self.database.transaction() as transaction:
            self.move(
                transaction,
                operation,
                "queued",
                event="operation.held",
                expect=("queued",),
                detail={"why": why},
                note=f":hourglass: Operation {operation.id} waits: {why}. It starts when the host recovers.",
                outcome=why,
            )
        self.changed()

    def step_started(self, operation: Operation, position: int, inputs: str = "") -> None:
        """Record that a step begins, once; with the first, the `inputs` that all are made from, as JSON or ""."""
        now = self.clock()
        with self.database.transaction() as transaction:
            done = transaction.execute(
                "UPDATE steps SET started = ? WHERE operation = ? AND position = ? AND started IS NULL",
                (now, operation.id, position),
            )
            if done.rowcount:
                if inputs:
                    transaction.execute(
                        "UPDATE operations SET plan = json_set(plan, '$.inputs', json(?)) WHERE id = ? AND NOT begun",
                        (inputs, operation.id),
                    )
                transaction.execute("UPDATE operations SET begun = 1 WHERE id = ?", (operation.id,))
                self._step_event(transaction, operation, position, "step.started", {}, now)
        self.changed()

    def step_finished(self, operation: Operation, position: int, note: str) -> None:
        """Record that a step is done, once."""
        now = self.clock()
        with self.database.transaction() as transaction:
            done = transaction.execute(
                "UPDATE steps SET finished = ?, note = ? WHERE operation = ? AND position = ? AND finished IS NULL",
                (now, note, operation.id, position),
            )
            if done.rowcount:
                self._step_event(transaction, operation, position, "step.finished", {"note": note}, now)
                if operation.steps[position].key == operation.plan.get("commit"):
                    transaction.execute("UPDATE operations SET committed = 1 WHERE id = ?", (operation.id,))
                transaction.execute(
                    "INSERT INTO snapshots_of_tenants (at, tenant) SELECT ?, ? FROM steps"
                    " WHERE operation = ? AND position = ? AND takes_snapshot",
                    (now, operation.tenant, operation.id, position),
                )
        self.changed()

    def _step_event(
        self,
        transaction: sqlite3.Connection,
        operation: Operation,
        position: int,
        name: str,
        detail: Mapping[str, object],
        now: float,
    ) -> None:
        transaction.execute("UPDATE operations SET revision = revision + 1 WHERE id = ?", (operation.id,))
        step = operation.steps[position]
        event = audit.Event(
            name, SYSTEM, operation.tenant, operation.id, {"key": step.key, "step": step.title, **detail}
        )
        audit.record(transaction, event, now)

    def failing(self, operation: Operation, why: str, error_id: str) -> None:
        """Record that a step failed, before what was begun is taken back: its steps hold no more, whatever dies."""
        with self.database.transaction() as transaction:
            self.move(
                transaction,
                operation,
                "running",
                event="operation.failing",
                expect=("running",),
                detail={"why": why, "error_id": error_id} if error_id else {"why": why},
                undo_by=SYSTEM,
                outcome=why,
                cause=why,
                error_id=error_id,
            )
        self.changed()

    def finish(
        self,
        operation: Operation,
        state: State,
        *,
        outcome: str,
        note: str = "",
        error_id: str = "",
        event: str = "",
        actor: str = SYSTEM,
        undo_by: str = "",
        aftermath: Mapping[str, object] | None = None,
        cause: str = "",
    ) -> None:
        """End a running operation: its outcome (a sentence), and what the thread is told.

        `undo_by`: who is to take it back, as soon as that can be done. `cause`: why a step of it failed, until then.
        """
        begun = operation.begun if state == "needs_attention" else 0
        with self.database.transaction() as transaction:
            self.move(
                transaction,
                operation,
                state,
                event=event or f"operation.{state}",
                actor=actor,
                expect=("running",),
                detail={"outcome": outcome, "error_id": error_id} if error_id else {"outcome": outcome},
                note=note,
                outcome=outcome,
                error_id=error_id,
                undo_by=undo_by,
                begun=begun,
                ended_by=actor if state == "cancelled" else "",
                aftermath=json.dumps(dict(aftermath or {})),
                cause=cause,
                finished=self.clock(),
            )
        self.changed()

    def retry(self, operation: Operation, actor: str) -> None:
        """Queue a failed operation again under the approval that it has; its steps begin anew. Raises TenantBusy."""
        try:
            with self.database.transaction() as transaction:
                moved = self.move(
                    transaction,
                    operation,
                    "queued",
                    event="operation.retried",
                    actor=actor,
                    expect=("failed", "needs_attention"),
                    note=f":arrows_counterclockwise: <@{actor}> tries it again.",
                    attempts=0,
                    outcome="",
                    error_id="",
                    undo_by="",
                    cause="",
                    aftermath="{}",
                    started=None,
                    finished=None,
                )
                if not moved:
                    raise Refused(f"Operation {operation.id} has not failed, so there is nothing to try again.")
                transaction.execute(
                    "UPDATE steps SET started = NULL, finished = NULL, note = '' WHERE operation = ?",
                    (operation.id,),
                )
        except sqlite3.IntegrityError as error:
            self.refuse_if_busy(operation.tenant, but=operation.id)
            raise TenantBusy(f"`{operation.tenant}` was just taken by another request; try again.") from error
        self.changed()

    def undo(self, operation: Operation, actor: str) -> None:
        """Queue an operation that needs attention to be taken back; what a retry or another undo won is refused."""
        with self.database.transaction() as transaction:
            moved = self.move(
                transaction,
                operation,
                "queued",
                event="operation.undo_asked",
                actor=actor,
                expect=("needs_attention",),
                attempts=0,
                undo_by=actor,
                finished=None,
            )
        if not moved:
            now = self.get(operation.id).state.replace("_", " ")
            raise Refused(f"Operation {operation.id} is {now}; there is nothing to undo.")
        self.changed()

    def give_up(self, operation: Operation, actor: str, reason: str, left: str = "") -> None:
        """End an operation that needs attention as it stands: nothing of it is done or taken back, the tenant is free.

        `left`: what is there of its tenant now, for its thread. What a retry or an undo won is refused.
        """
        with self.database.transaction() as transaction:
            moved = self.move(
                transaction,
                operation,
                "given_up",
                event="operation.given_up",
                actor=actor,
                expect=("needs_attention",),
                detail={"reason": reason, "outcome": operation.outcome},
                note=f":checkered_flag: <@{actor}> gave it up: {line(reason)}. "
                f"It stays as it stands. {sentence(left)}".strip(),
                undo_by="",
                ended_by=actor,
                reason=reason,
                finished=self.clock(),
            )
        if not moved:
            now = self.get(operation.id).state.replace("_", " ")
            raise Refused(f"Operation {operation.id} is {now}; only what needs attention can be given up.")
        self.changed()

    def recover(self) -> list[Operation]:
        """After a start: put what a crash cut back in the queue; what was cut too often needs a person."""
        recovered = self.select("state = 'running'")
        for operation in recovered:
            capped = operation.attempts >= MAX_ATTEMPTS
            with self.database.transaction() as transaction:
                if capped:
                    self.move(
                        transaction,
                        operation,
                        "needs_attention",
                        event="operation.needs_attention",
                        expect=("running",),
                        note=f":rotating_light: {RESPONDERS}The bot was cut off in this operation too often; the card "
                        "above says how it stands. Retry goes on with it.",
                        outcome=f"It was cut off {operation.attempts} times.",
                        undo_by="",
                    )
                else:
                    self.move(transaction, operation, "queued", event="operation.requeued", expect=("running",))
        if recovered:
            self.changed()
        return recovered
