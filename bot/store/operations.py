"""Operations: durable changes, at most one of them open per tenant. Every change of state has its audit row.

This module has the table: requests, and every change of state by `move`. `claims` decides which operation runs next,
`progress` records how it runs, and `recovery` handles failed ones.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Literal

from bot.model.plan import NotNow, Plan, Refused
from bot.store import audit
from bot.store.at_work import TenantActivity
from bot.store.database import Database
from bot.store.migrations import MAINTENANCE
from bot.store.operation import IS_OPEN, NEVER, SYSTEM, Decision, Operation, State, StepRow
from bot.store.uptime import Uptime

MAINTENANCE_ENDS = 10.0
"""Seconds that a person's request waits for running maintenance on the same tenant to end."""
OF_ONE = 50
"""Requests of one person that may wait for approval at the same time."""
ROUTINE = frozenset(f"operation.{what}" for what in ("started", "resumed", "requeued", "held", "put_back", "succeeded"))
"""Events that have no audit row of their own in a run of maintenance: the one row of the run stands for them."""


class TenantBusy(NotNow):
    """Another operation on the tenant is open; the text names that operation and its requester."""

    guard = "busy"


class Operations:
    """The table of operations. `changed` is called after each commit, to wake announcer and runner.

    Longer than other classes because of the arguments of `request`, `add` and `move`, which everything else uses.
    """

    def __init__(self, database: Database, uptime: Uptime, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self.uptime = uptime
        self.clock = clock
        self.at_work = TenantActivity()
        self.changed: Callable[[], None] = lambda: None
        self.compared = True
        """Whether the audit log was compared with its heads in Slack since the start (`bot/engine/comparison.py`)."""

    def get(self, operation: int) -> Operation:
        """Return one operation, or raise Refused if none has that number."""
        found = self.select("id = ?", operation)
        if not found:
            raise Refused(f"There is no request #{operation}. See all: `/mautic history`")
        return found[0]

    def marked(self, mark: str) -> Operation:
        """Return the operation of a card's button, or raise Refused if another operation has that number now."""
        found = self.get(int(mark.partition(".")[0]))
        if found.mark != mark:
            raise Refused(
                f"This card belongs to another request. #{found.id} is now `{found.command}` of "
                f"`{found.tenant}`, with its own card."
            )
        return found

    def select(self, where: str, *values: object, order: str = "id", limit: int = 1000) -> list[Operation]:
        """Return the operations that match an SQL condition written in the code (never a person's words)."""
        rows = self.database.read(
            f"SELECT * FROM operations WHERE {where} ORDER BY {order} LIMIT {int(limit)}",  # noqa: S608
            *values,
        )
        # Two reads get the steps and decisions of all operations. A child has the approval of its batch.
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
        """Whether an operation with this `request_key` exists already."""
        return bool(self.database.read("SELECT 1 FROM operations WHERE request_key = ?", request_key))

    def committed(self, operation: int) -> bool:
        """Whether an operation has passed its commit point in any attempt: a retry resets the steps."""
        return bool(self.database.read("SELECT 1 FROM operations WHERE id = ? AND committed", operation))

    def number_after(self, number: int) -> None:
        """Give the next operation of the same kind (request or maintenance) a higher number than this."""
        kind = "maintenance" if number > MAINTENANCE else "person"
        with self.database.transaction() as transaction:
            transaction.execute("UPDATE numbers SET last = ? WHERE kind = ? AND last < ?", (number, kind, number))

    def came_after(self, number: int, operation: int) -> bool:
        """Whether request `number` was made after `operation`, a request or maintenance."""
        asked_after = self.database.read("SELECT asked_after FROM operations WHERE id = ?", operation)
        return number > (asked_after[0][0] if asked_after else operation)

    def refuse_if_busy(self, tenant: str, but: int = 0, holds: str = IS_OPEN) -> None:
        """Raise TenantBusy, naming the operation, if one except `but` locks the tenant.

        `holds`: what counts as a lock, IS_OPEN or IS_UNDER_WAY.
        """
        if not tenant:
            return
        for holder in self.select(f"tenant = ? AND id <> ? AND {holds}", tenant, but, limit=1):
            others = "whoever may approve it"
            may = others if holder.requester == SYSTEM else f"<@{holder.requester}>, or {others},"
            cancel = f"{may[0].upper()}{may[1:]} can cancel it: `/mautic cancel {holder.id}`"
            doing = {
                "awaiting_approval": f"waits for approval. {cancel}",
                "needs_attention": "needs action first. See its thread, or give up: "
                f"`/mautic give-up {holder.id} because <reason>`",
            }.get(holder.state, "is in progress. Try again when that is done.")
            if holder.held_by:
                doing = f"waits to start. {cancel}"
            who = holder.named
            if holder.requester != SYSTEM:
                who += f" ({holder.command}) by <@{holder.requester}>"
            raise TenantBusy(f"`{tenant}` is locked by {who}, which {doing}")

    def refuse_one_too_many(self, requester: str) -> None:
        """Raise Refused if too many requests of one person wait for approval."""
        rows = self.database.read(
            "SELECT count(*) FROM operations WHERE state = 'awaiting_approval' AND requester = ?", requester
        )
        if rows[0][0] >= OF_ONE:
            raise Refused(
                f"{OF_ONE} of your requests already wait for approval. See them with `/mautic history`, and cancel one "
                "with `/mautic cancel <id>`."
            )

    def wait_for_maintenance(self, tenant: str) -> None:
        """Let a person's request overtake maintenance and batches on a tenant, so that nobody has to ask twice.

        Maintenance that has not begun is cancelled, and requested again later; running maintenance and children of
        batches get `MAINTENANCE_ENDS` seconds to end.
        """
        self._overtake(tenant)
        give_up = time.monotonic() + MAINTENANCE_ENDS
        under_way = "tenant = ? AND (requester = ? OR parent <> 0) AND state IN ('queued', 'running') AND held_by = ''"
        while tenant and self.select(under_way, tenant, SYSTEM, limit=1) and time.monotonic() < give_up:
            time.sleep(0.05)

    def _overtake(self, tenant: str) -> None:
        for waiting in self.select("tenant = ? AND requester = ? AND state = 'queued' AND NOT begun", tenant, SYSTEM):
            with self.database.transaction() as transaction:
                self.move(
                    transaction,
                    waiting,
                    "cancelled",
                    event="operation.overtaken",
                    expect=("queued",),
                    outcome="A person's request came first",
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
        """Store an operation, its steps and its audit row in one transaction, or return the one of this `request_key`.

        Args:
            channel: the channel of its card; empty: no card, as for maintenance.
            hours: until the request expires.
            approved: nobody has to approve it, so it is queued at once.
            tell: posted in its thread while it waits for approval, for those who can approve.
            run: its run of maintenance; 0: none.

        Raises TenantBusy.
        """
        lived = self.uptime.now()
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
                if said := plan.texts.get("thread"):
                    self.note(transaction, identity, said)
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
        """Store an operation, its steps and its audit row (unless it has a `run`); return its number."""
        now = self.clock()
        identity, asked_after = self._number(transaction, requester)
        transaction.execute(
            "INSERT INTO operations (id, command, tenant, arguments, requester, channel, state, plan, fingerprint,"
            " request_key, created, expires, announced, asked, subject, host, parent, asked_after, run, ring, held_by)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
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
                # A request cannot be approved once its planned time has passed.
                min(now + hours * 3600, plan.at or math.inf),
                0 if channel else NEVER,
                asked,
                plan.subject,
                plan.host,
                parent,
                asked_after,
                run,
                plan.ring,
                # It waits for its time from now on, even if the bot ends before a worker has looked at it.
                "time" if state == "queued" and plan.at else "",
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
        """Return a number for a new operation, and the last number of a person's request."""
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
        """Compare-and-set the state, with an audit row and a note for the thread. False: another change was quicker."""
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
        """Have a batch's card updated, and a child's line posted once it has ended or needs action."""
        transaction.execute("UPDATE operations SET revision = revision + 1 WHERE id = ?", (child.parent,))
        if to not in ("waiting", "queued", "running"):
            transaction.execute("UPDATE operations SET announced = 0 WHERE id = ? AND announced = ?", (child.id, NEVER))

    def note(
        self, transaction: sqlite3.Connection, operation: int, text: str, *, only_in: State | Literal[""] = ""
    ) -> None:
        """Queue a message for the operation's thread, if it has a channel; the announcer posts it.

        `only_in`: the only state in which the message is still worth posting; "": any.
        """
        transaction.execute(
            "INSERT INTO notes (operation, text, only_in)"
            " SELECT id, ?, ? FROM operations WHERE id = ? AND channel <> ''",
            (text, only_in, operation),
        )


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
