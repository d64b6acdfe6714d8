"""Operations: durable changes, their states, and one open operation per tenant. Every change has its audit row."""

from __future__ import annotations

import json
import shlex
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bot import audit
from bot.at_work import AtWork
from bot.database import Database
from bot.lanes import MANY, Candidate, Lane, Limits, fits, has_worker, in_line
from bot.lanes import SYSTEM as SYSTEM
from bot.lived import Lived
from bot.messages import line, sentence, told
from bot.migrations import MAINTENANCE
from bot.plan import NotNow, Plan, Refused, Subject

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
ANEW: Mapping[str, Any] = {
    "attempts": 0,
    "outcome": "",
    "error_id": "",
    "undo_by": "",
    "cause": "",
    "aftermath": "{}",
    "held_by": "",
    "started": None,
    "finished": None,
}
"""What an operation that is tried again forgets of the try before."""
IS_OPEN = "state IN ('awaiting_approval', 'queued', 'running', 'needs_attention')"
IS_UNDER_WAY = "state IN ('queued', 'running', 'needs_attention') AND NOT (state = 'queued' AND held_by = 'freeze')"
"""Conditions of what holds its tenant against people, and of what holds it against the bot's own snapshots too."""
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
ROUTINE = frozenset(f"operation.{what}" for what in ("started", "resumed", "requeued", "held", "put_back", "succeeded"))
"""What the one row of a run of maintenance tells of all its operations."""
MAX_ATTEMPTS = 5
"""Runs that a crash may cut before a person has to look."""


class TenantBusy(NotNow):
    """Another operation on the tenant is open; the text names it and its holder."""

    guard = "busy"


@dataclass(frozen=True)
class Hold:
    """Why a queued operation does not begin yet: which guard holds it, the sentence, and what a person typed of that.

    `ends`: nobody waits for it, so that it ends; it is asked for anew when it is due then.
    """

    guard: str
    why: str
    typed: str = ""
    ends: bool = False


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
    of none.
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
    held_by: str = ""
    subject: Subject = "tenant"
    host: str = ""
    parent: int = 0
    asked_after: int = 0
    run: int = 0

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
    def children(self) -> int:
        """How many operations it is a batch of; 0: it is none."""
        return int(self.plan.get("children", 0))

    @property
    def in_batch(self) -> bool:
        """Whether the approval that it stands on is one of a whole list."""
        return bool(self.children or self.parent)

    @property
    def about(self) -> str:
        """What it is on, for people."""
        return f"{self.children} tenants" if self.children else f"`{self.tenant}`"

    @property
    def confirmation(self) -> str:
        """What is typed where an approval takes more than a press: the tenant's name, or how many a batch has."""
        return str(self.children) if self.children else self.tenant

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
        if said := self.plan.get("texts", {}).get("again"):
            return str(said)
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
        self.at_work = AtWork()
        self.changed: Callable[[], None] = lambda: None

    def get(self, operation: int) -> Operation:
        """Return one operation, or refuse when there is none of that number."""
        found = self.select("id = ?", operation)
        if not found:
            raise Refused(f"There is no request #{operation}. See all: `/mautic history`")
        return found[0]

    def marked(self, mark: str) -> Operation:
        """Return the operation that a card's button is of, or refuse when its number is another's by now."""
        found = self.get(int(mark.partition(".")[0]))
        if found.mark != mark:
            raise Refused(
                f"This card belongs to another request. #{found.id} is now `{found.command}` of "
                f"`{found.tenant}`, with its own card."
            )
        return found

    def select(self, where: str, *values: object, order: str = "id", limit: int = 1000) -> list[Operation]:
        """Return the operations for an SQL condition of ours (never a person's words)."""
        rows = self.database.read(
            f"SELECT * FROM operations WHERE {where} ORDER BY {order} LIMIT {int(limit)}",  # noqa: S608
            *values,
        )
        # Two reads for the steps and decisions of all. A child stands on the approval of its batch.
        ids, of = json.dumps([row["id"] for row in rows]), "operation IN (SELECT value FROM json_each(?))"
        decided = json.dumps([row["parent"] or row["id"] for row in rows])
        steps: dict[int, list[StepRow]] = {row["id"]: [] for row in rows}
        decisions: dict[int, list[Decision]] = {}
        if rows:
            told = "SELECT operation, title, started, finished, note, key FROM steps"
            for operation, *step in self.database.read(f"{told} WHERE {of} ORDER BY position", ids):
                steps[operation].append(StepRow(*step))
            told = "SELECT operation, actor, verdict, reason, via, at FROM decisions"
            for operation, *decision in self.database.read(f"{told} WHERE {of} ORDER BY at, rowid", decided):
                decisions.setdefault(operation, []).append(Decision(*decision))
        return [_operation(row, steps[row["id"]], decisions.get(row["parent"] or row["id"], [])) for row in rows]

    def requested(self, request_key: str) -> bool:
        """Whether a delivery has made its operation already."""
        return bool(self.database.read("SELECT 1 FROM operations WHERE request_key = ?", request_key))

    def committed(self, operation: int) -> bool:
        """Whether an operation has passed its commit point, in whichever try: a retry begins the steps anew."""
        return bool(self.database.read("SELECT 1 FROM operations WHERE id = ? AND committed", operation))

    def number_after(self, number: int) -> None:
        """Give the next operation of its kind a higher number than this."""
        kind = "maintenance" if number > MAINTENANCE else "person"
        with self.database.transaction() as transaction:
            transaction.execute("UPDATE numbers SET last = ? WHERE kind = ? AND last < ?", (number, kind, number))

    def came_after(self, number: int, operation: int) -> bool:
        """Whether the request of a number was made after an operation was asked for, of whichever kind that is."""
        asked_after = self.database.read("SELECT asked_after FROM operations WHERE id = ?", operation)
        return number > (asked_after[0][0] if asked_after else operation)

    def refuse_if_busy(self, tenant: str, but: int = 0, holds: str = IS_OPEN) -> None:
        """Raise TenantBusy, naming the holder, when another operation holds the tenant; `holds`: IS_UNDER_WAY too."""
        if not tenant:
            return
        for holder in self.select(f"tenant = ? AND id <> ? AND {holds}", tenant, but, limit=1):
            doing = {
                "awaiting_approval": f"waits for approval. To cancel that: `/mautic cancel {holder.id}`",
                "needs_attention": "needs action first. See its thread, or give up: "
                f"`/mautic give-up {holder.id} because <reason>`",
            }.get(holder.state, "is in progress. Try again when that is done.")
            if holder.held_by:
                doing = f"waits to start. To cancel that: `/mautic cancel {holder.id}`"
            who = holder.named
            if holder.requester != SYSTEM:
                who += f" ({holder.command}) by <@{holder.requester}>"
            raise TenantBusy(f"`{tenant}` is locked by {who}, which {doing}")

    def refuse_one_too_many(self, requester: str) -> None:
        """Raise Refused when as many requests of one person wait for approval as may."""
        rows = self.database.read(
            "SELECT count(*) FROM operations WHERE state = 'awaiting_approval' AND requester = ?", requester
        )
        if rows[0][0] >= OF_ONE:
            raise Refused(
                f"{OF_ONE} of your requests already wait for approval. See them with `/mautic history`, and cancel one "
                "with `/mautic cancel <id>`."
            )

    def wait_for_errand(self, tenant: str) -> None:
        """Let a person's request overtake what is no person's on a tenant, so that nobody has to ask again for that.

        Maintenance that has not begun gives way, and comes again by itself; what is under way has some seconds to end.
        """
        self._overtake(tenant)
        give_up = time.monotonic() + ERRAND
        under_way = "tenant = ? AND (requester = ? OR parent <> 0) AND state IN ('queued', 'running') AND held_by = ''"
        while tenant and self.select(under_way, tenant, SYSTEM, limit=1) and time.monotonic() < give_up:
            time.sleep(0.05)

    def _overtake(self, tenant: str) -> None:
        for errand in self.select("tenant = ? AND requester = ? AND state = 'queued' AND NOT begun", tenant, SYSTEM):
            with self.database.transaction() as transaction:
                self.move(
                    transaction,
                    errand,
                    "cancelled",
                    event="operation.overtaken",
                    expect=("queued",),
                    outcome="A request from a person came first",
                    finished=self.clock(),
                )

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
        run: int = 0,
    ) -> Operation:
        """Write the operation, its steps and the audit row in one transaction; the same `request_key` gives the same.

        Args:
            channel: where its card stands; empty: nowhere, as of what a schedule asks for.
            approved: nobody has to approve it, so that it is queued at once.
            tell: said in its thread while it waits for approval, to those who can give it.
            run: the run of maintenance that it is of, 0: of none.

        Raises TenantBusy.
        """
        lived = self.lived.now()
        try:
            with self.database.transaction() as transaction:
                known = transaction.execute(
                    "SELECT id FROM operations WHERE request_key = ?", (request_key,)
                ).fetchone()
                if known:
                    return self.get(known["id"])
                identity = self.add(
                    transaction,
                    command,
                    plan,
                    requester=requester,
                    channel=channel,
                    state="queued" if approved else "awaiting_approval",
                    request_key=request_key,
                    hours=hours,
                    asked=lived,
                    run=run,
                )
                if tell and not approved:
                    self.note(transaction, identity, tell, only_in="awaiting_approval")
        except sqlite3.IntegrityError as error:
            self.refuse_if_busy(plan.tenant)
            raise TenantBusy(f"Another request just locked `{plan.tenant}`. Try again.") from error
        self.changed()
        return self.get(identity)

    def add(
        self,
        transaction: sqlite3.Connection,
        command: str,
        plan: Plan,
        *,
        requester: str,
        channel: str,
        state: State,
        request_key: str,
        hours: float,
        parent: int = 0,
        asked: float | None = None,
        run: int = 0,
    ) -> int:
        """Write an operation, its steps and its audit row; return its number."""
        now = self.clock()
        identity, asked_after = self._number(transaction, requester)
        transaction.execute(
            "INSERT INTO operations (id, command, tenant, arguments, requester, channel, state, plan, fingerprint,"
            " request_key, created, expires, announced, asked, subject, host, parent, asked_after, run)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                identity,
                command,
                plan.tenant,
                json.dumps(dict(plan.arguments)),
                requester,
                channel,
                state,
                plan.shown(),
                plan.fingerprint(),
                request_key,
                now,
                now + hours * 3600,
                0 if channel else NEVER,
                asked,
                plan.subject,
                plan.host,
                parent,
                asked_after,
                run,
            ),
        )
        transaction.executemany(
            "INSERT INTO steps (operation, position, key, title, takes_snapshot) VALUES (?,?,?,?,?)",
            [
                (identity, position, step.key, step.title, step.takes_snapshot)
                for position, step in enumerate(plan.steps)
            ],
        )
        detail: dict[str, object] = {"command": command, **plan.arguments, "fingerprint": plan.fingerprint()}
        detail |= {"parent": parent} if parent else {"approved": state == "queued"}
        if not run:
            event = audit.Event("operation.requested", requester, plan.tenant, identity, detail)
            audit.record(transaction, event, now)
        return identity

    def _number(self, transaction: sqlite3.Connection, requester: str) -> tuple[int, int]:
        """Return a new operation's number, and the last one of a person's request beside it."""
        kind = "maintenance" if requester == SYSTEM else "person"
        transaction.execute("UPDATE numbers SET last = last + 1 WHERE kind = ?", (kind,))
        last = {row["kind"]: row["last"] for row in transaction.execute("SELECT kind, last FROM numbers")}
        return last[kind], last["person"]

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
        if operation.parent:
            self._tell_batch(transaction, operation, to)
        if not (operation.run and event in ROUTINE):
            audit.record(transaction, audit.Event(event, actor, operation.tenant, operation.id, detail), self.clock())
        if note:
            self.note(transaction, operation.id, note)
        return True

    def _tell_batch(self, transaction: sqlite3.Connection, child: Operation, to: State) -> None:
        """Have a batch's card brought up to date, and a child's line posted once there is something to say of it."""
        transaction.execute("UPDATE operations SET revision = revision + 1 WHERE id = ?", (child.parent,))
        if to not in ("waiting", "queued", "running"):
            transaction.execute("UPDATE operations SET announced = 0 WHERE id = ? AND announced = ?", (child.id, NEVER))

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
        hold: Callable[[Operation], Hold | None] = lambda _: None,
        may: Callable[[Operation], bool] = lambda _: True,
        shared: int = MANY,
    ) -> Operation | None:
        """Take the next queued operation that can go on, to run it, or None; `bot.lanes` says which is next.

        Args:
            hold: says why one has to wait, None when it need not. Others pass it; its thread is told once a guard.
            may: whether it may still begin; asked last.
            shared: how many that are no person's may run together.
        """
        running = self._candidates("running")
        waiting = [*self._candidates("queued"), *self._children(running)]
        for first in in_line(waiting, running, shared):
            candidate = self.get(first.id)
            if candidate.state not in ("queued", "waiting"):
                continue
            try:
                if why := hold(candidate):
                    self._wait(candidate, why)
                elif may(candidate) and self._begin(candidate, first, shared):
                    self.changed()
                    return self.get(candidate.id)
            except sqlite3.IntegrityError:
                # Another took the tenant up meanwhile: of a child somebody's request, of what waited for the end of
                # a freeze the bot's own snapshot.
                continue
        return None

    def _begin(self, operation: Operation, first: Candidate, shared: int) -> bool:
        """Move a queued operation, or a child whose turn has come, to running. False: another was quicker."""
        with self.database.transaction() as transaction:
            # Another worker may have taken the last place meanwhile.
            running = self._candidates("running")
            if not first.begun and first.lane != Lane.PERSON and not has_worker(running, shared):
                return False
            if operation.state == "waiting" and first not in self._children(running):
                return False
            return self.move(
                transaction,
                operation,
                "running",
                event="operation.started" if not operation.attempts else "operation.resumed",
                expect=(operation.state,),
                attempts=operation.attempts + 1,
                started=operation.started or self.clock(),
                # Why it waited; of one that is to be taken back it is why it failed.
                outcome=operation.outcome if operation.undo_by else "",
                held_by="",
            )

    def _candidates(self, state: State) -> list[Candidate]:
        """Return the operations in a state that a worker runs, or would, oldest first: none does a batch itself."""
        rows = self.database.read(
            "SELECT id, requester, parent, host, begun FROM operations WHERE state = ?"
            " AND id NOT IN (SELECT operation FROM batches) ORDER BY id",
            state,
        )
        return [Candidate(**dict(row) | {"begun": bool(row["begun"])}) for row in rows]

    def _children(self, running: Sequence[Candidate]) -> list[Candidate]:
        """Return the children of batches whose turn may come now: within the limits, of tenants that nobody holds."""
        rows = self.database.read(
            """
            SELECT child.id, child.requester, child.parent, child.host, child.tenant, at_once, at_once_host
            FROM batches JOIN operations AS batch ON batch.id = batches.operation AND batch.state = 'running'
            JOIN operations AS child ON child.parent = batch.id AND child.state = 'waiting'
            WHERE paused IS NULL AND stopped IS NULL AND (
              SELECT count(*) FROM operations WHERE parent = batch.id AND state IN ('failed', 'needs_attention')
            ) < forgiven + stop_after
            ORDER BY child.id
            """
        )
        marks = ",".join("?" * len(OPEN))
        open_ones = self.database.read(f"SELECT tenant FROM operations WHERE state IN ({marks})", *OPEN)  # noqa: S608
        held = {row["tenant"] for row in open_ones} if rows else set()
        found = []
        for row in rows:
            one = Candidate(row["id"], row["requester"], row["parent"], row["host"])
            limits = Limits(row["at_once"], row["at_once_host"])
            if row["tenant"] not in held and fits(one, running, limits):
                found.append(one)
        return found

    def _wait(self, operation: Operation, hold: Hold) -> None:
        """Record that one whose turn it is has to wait, once for each guard that it waits for; or end it."""
        if operation.held_by == hold.guard:
            return
        with self.database.transaction() as transaction:
            self.move(
                transaction,
                operation,
                "cancelled" if hold.ends else operation.state,
                event="operation.cancelled" if hold.ends else "operation.held",
                expect=(operation.state,),
                detail={"why": hold.why, "guard": hold.guard},
                note=f":hourglass: {operation.headed} is waiting: {told(hold.why, hold.typed)}",
                outcome=hold.why,
                held_by=hold.guard,
                finished=self.clock() if hold.ends else None,
            )
        self.changed()

    def put_back(self, operation: Operation, why: str) -> None:
        """Queue an operation again whose host is out of reach, so that it holds no worker meanwhile."""
        with self.database.transaction() as transaction:
            self.move(
                transaction,
                operation,
                "queued",
                event="operation.put_back",
                expect=("running",),
                detail={"why": why},
                # No crash cut it.
                attempts=operation.attempts - 1,
            )
        self.changed()

    def step_started(self, operation: Operation, position: int) -> None:
        """Record that a step begins, once."""
        now = self.clock()
        with self.database.transaction() as transaction:
            done = transaction.execute(
                "UPDATE steps SET started = ? WHERE operation = ? AND position = ? AND started IS NULL",
                (now, operation.id, position),
            )
            if done.rowcount:
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
        if operation.run:
            return
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
                    note=f":arrows_counterclockwise: Retried by <@{actor}>.",
                    **ANEW,
                    # From now on it is what a person asked for, and no run tells of it.
                    run=0,
                )
                if not moved:
                    raise Refused(f"{operation.headed} has not failed, so there is nothing to retry.")
                self.begin_anew(transaction, operation.id)
                if operation.parent:
                    self.reopen(transaction, operation.parent, actor)
        except sqlite3.IntegrityError as error:
            self.refuse_if_busy(operation.tenant, but=operation.id)
            raise TenantBusy(f"Another request just locked `{operation.tenant}`. Try again.") from error
        self.changed()

    def begin_anew(self, transaction: sqlite3.Connection, operation: int) -> None:
        """Let no step of an operation have happened: a retry looks at each again."""
        transaction.execute(
            "UPDATE steps SET started = NULL, finished = NULL, note = '' WHERE operation = ?", (operation,)
        )

    def reopen(self, transaction: sqlite3.Connection, batch: int, actor: str) -> None:
        """Let a batch that had failed go on, as one of its children is tried again; no effect on another."""
        (found,) = self.select("id = ?", batch)
        self.move(
            transaction,
            found,
            "running",
            event="batch.reopened",
            actor=actor,
            expect=("failed",),
            outcome="",
            finished=None,
        )

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
            now = self.get(operation.id).standing
            raise Refused(f"{operation.headed} {now}, so there is nothing to undo.")
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
                note=f":checkered_flag: Given up by <@{actor}>: {line(reason)}. "
                f"Nothing more is done or rolled back. {sentence(left)}".strip(),
                undo_by="",
                ended_by=actor,
                reason=reason,
                finished=self.clock(),
            )
        if not moved:
            now = self.get(operation.id).standing
            raise Refused(f"{operation.headed} {now}. Only a request that needs action can be given up.")
        self.changed()

    def recover(self) -> list[Operation]:
        """After a start: put what a crash cut back in the queue; what was cut too often needs a person."""
        # A batch that has begun is in nobody's hands: its children are.
        recovered = self.select("state = 'running' AND id NOT IN (SELECT operation FROM batches)", limit=MANY)
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
                        note=f":rotating_light: {RESPONDERS}The bot was interrupted too often during this operation. "
                        "Check the card above; Retry continues where the operation stopped.",
                        outcome=f"Interrupted {operation.attempts} times.",
                        undo_by="",
                    )
                else:
                    self.move(transaction, operation, "queued", event="operation.requeued", expect=("running",))
        if recovered:
            self.changed()
        return recovered


def _operation(row: sqlite3.Row, steps: list[StepRow], decisions: list[Decision]) -> Operation:
    fields = {key: row[key] for key in row.keys() if key != "request_key"}  # noqa: SIM118
    return Operation(
        **fields
        | {
            "arguments": json.loads(row["arguments"]),
            "plan": json.loads(row["plan"]),
            "aftermath": json.loads(row["aftermath"]),
            "steps": tuple(steps),
            "decisions": tuple(decisions),
        }
    )
