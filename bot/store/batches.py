"""Batches: operations with one child operation per tenant, under one approval and one card.

No worker runs a started batch itself. Workers claim its children when it is their turn, like any operation
(`bot/store/claims.py`, within the limits of `bot/model/lanes.py`). The progress of a batch is read from its children,
so a crash leaves nothing to repair: `settle` ends or pauses the batches for which that is due.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

from bot.model.lanes import MANY
from bot.model.plan import Plan, Refused
from bot.model.text import first_of, listed
from bot.store import audit, recovery
from bot.store.freezes import Freezes
from bot.store.operation import OPEN, SYSTEM, Operation
from bot.store.operations import Operations, TenantBusy
from bot.store.recovery import ANEW

AT_WORK = ("queued", "running")
FAILED = ("failed", "needs_attention")
NOT_BEGUN = "(state = 'waiting' OR state = 'queued' AND held_by <> '')"
"""The SQL condition of children that wait for their turn, or because of a guard."""


@dataclass(frozen=True)
class Standing:
    """The progress of a started batch: its children by state, the tenants of failed ones, who paused or stopped it.

    `frozen`: tenants whose children cannot begin because of a freeze; the others go on without them. `held`: tenants
    whose children another guard made wait when it was their turn, each with the reason as a sentence. `ring`: the
    number of the first unfinished ring, of `rings`; `resumes`: when that ring begins, in epoch seconds; 0: it has
    begun, or may begin.
    """

    counts: Mapping[str, int]
    failed: tuple[str, ...]
    paused_by: str
    stopped_by: str
    frozen: tuple[str, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)
    ring: int = 1
    rings: int = 1
    resumes: float = 0.0

    @property
    def total(self) -> int:
        """The number of children."""
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        """The number of children that succeeded."""
        return self.counts.get("succeeded", 0)

    @property
    def at_work(self) -> int:
        """The number of children in progress."""
        return sum(self.counts.get(state, 0) for state in AT_WORK)

    @property
    def to_come(self) -> int:
        """The number of children that wait for their turn, or because of a guard."""
        return self.counts.get("waiting", 0)


def standing(operations: Operations, batch: int) -> Standing | None:
    """Return the progress of a batch; None if it has not started, or is not a batch."""
    rows = operations.database.read("SELECT * FROM batches WHERE operation = ?", batch)
    if not rows:
        return None
    # A retried child that a guard makes wait counts as waiting, like one whose turn has not come.
    counts = operations.database.read(
        f"SELECT iif({NOT_BEGUN}, 'waiting', state) AS state, count(*) AS n FROM operations"  # noqa: S608
        " WHERE parent = ? GROUP BY 1",
        batch,
    )
    failed = operations.database.read(
        f"SELECT tenant FROM operations WHERE parent = ? AND state IN ({_marks(FAILED)}) ORDER BY id",  # noqa: S608
        batch,
        *FAILED,
    )
    not_begun = operations.database.read(
        "SELECT tenant, outcome, held_by FROM operations WHERE parent = ? AND NOT begun AND undo_by = ''"
        " AND state IN ('waiting', 'queued') ORDER BY id",
        batch,
    )
    frozen = Freezes(operations).among([row["tenant"] for row in not_begun])
    return Standing(
        {row["state"]: row["n"] for row in counts},
        tuple(row["tenant"] for row in failed),
        rows[0]["paused_by"],
        rows[0]["stopped_by"],
        frozen,
        {
            row["tenant"]: row["outcome"]
            for row in not_begun
            if row["held_by"] not in ("", "freeze") and row["tenant"] not in frozen
        },
        *_ring(operations, batch, rows[0]["soak"]),
    )


def _ring(operations: Operations, batch: int, soak: float) -> tuple[int, int, float]:
    """Return the number of the first unfinished ring, the number of rings, and when it begins (as in `Standing`)."""
    rings = operations.database.read(
        "SELECT ring, sum(state IN ('waiting', 'queued', 'running')) AS to_do, sum(state <> 'waiting') AS begun,"
        " max(finished) AS ended FROM operations WHERE parent = ? GROUP BY ring ORDER BY ring",
        batch,
    )
    at = next((number for number, ring in enumerate(rings) if ring["to_do"]), len(rings) - 1)
    # A clock that was ahead may have dated an end in the future: it counts as now.
    before = min(operations.clock(), max((ring["ended"] or 0.0 for ring in rings[:at]), default=0.0))
    if at:
        # As in `claims.claim`: by the elapsed time since the ring before was first seen to have ended.
        seen = operations.uptime.since("soak", f"{batch}/{rings[at - 1]['ring']}")
        before = operations.clock() - (operations.uptime.now() - seen) if seen is not None else before
    soaks = before + soak > operations.clock() and not rings[at]["begun"]
    return at + 1, len(rings), before + soak if soaks else 0.0


def begin(operations: Operations, batch: Operation, plan: Plan) -> None:
    """Create all children in one transaction; each waits for its turn. Do nothing if the batch has started."""
    with operations.database.transaction() as transaction:
        if transaction.execute("SELECT 1 FROM batches WHERE operation = ?", (batch.id,)).fetchone():
            return
        pace = [plan.values[name] for name in ("at_once", "at_once_host", "stop_after")]
        transaction.execute(
            "INSERT INTO batches (operation, at_once, at_once_host, stop_after, soak) VALUES (?,?,?,?,?)",
            (batch.id, *pace, plan.values.get("soak", 0)),
        )
        for number, child in enumerate(plan.children):
            operations.add(
                transaction,
                child.command or batch.command,
                child,
                requester=batch.requester,
                channel="",
                state="waiting",
                request_key=f"{batch.mark} {number}",
                hours=0,
                parent=batch.id,
            )
        transaction.execute("UPDATE operations SET begun = 1, revision = revision + 1 WHERE id = ?", (batch.id,))
        detail = {"children": len(plan.children)}
        audit.record(transaction, audit.Event("batch.began", SYSTEM, "", batch.id, detail), operations.clock())
    operations.changed()


def pause(operations: Operations, batch: Operation, actor: str) -> None:
    """Start no more children; those in progress finish."""
    _hold(
        operations,
        batch,
        actor,
        "paused",
        f":double_vertical_bar: Paused by <@{actor}>. Tenants in progress will finish.",
    )


def stop(operations: Operations, batch: Operation, actor: str) -> None:
    """Stop the batch for good: start no more children; those in progress finish."""
    _hold(
        operations,
        batch,
        actor,
        "stopped",
        f":black_square_for_stop: Stopped by <@{actor}>. Tenants in progress will finish, no others start.",
    )
    settle(operations)


def _hold(operations: Operations, batch: Operation, actor: str, how: str, note: str) -> None:
    with operations.database.transaction() as transaction:
        held = transaction.execute(
            f"UPDATE batches SET {how} = ?, {how}_by = ? WHERE operation = ? AND {how} IS NULL"  # noqa: S608
            " AND stopped IS NULL AND EXISTS (SELECT 1 FROM operations WHERE id = ? AND state = 'running')",
            (operations.clock(), actor, batch.id, batch.id),
        )
        if not held.rowcount:
            raise Refused(_why_not(operations, batch))
        left: dict[str, object] = {}
        if how == "stopped":
            waiting = transaction.execute(
                f"SELECT tenant FROM operations WHERE parent = ? AND {NOT_BEGUN} ORDER BY id",  # noqa: S608
                (batch.id,),
            ).fetchall()
            left = {"not_begun": [row["tenant"] for row in waiting]}
            # No audit row or note for each child: none of them has begun.
            transaction.execute(
                "UPDATE operations SET state = 'cancelled', ended_by = ?, outcome = 'The batch was stopped',"  # noqa: S608
                f" finished = ?, revision = revision + 1 WHERE parent = ? AND {NOT_BEGUN}",
                (actor, operations.clock(), batch.id),
            )
        _record(operations, transaction, batch, f"batch.{how}", actor, note, left)
    operations.changed()


def go_on(operations: Operations, batch: Operation, actor: str) -> None:
    """Continue a paused batch; failures so far no longer count towards the next pause."""
    with operations.database.transaction() as transaction:
        held = transaction.execute(
            "UPDATE batches SET paused = NULL, paused_by = '', forgiven = (SELECT count(*) FROM operations"
            " WHERE parent = batches.operation AND state IN (SELECT value FROM json_each(?)))"
            " WHERE operation = ? AND paused IS NOT NULL AND stopped IS NULL",
            (json.dumps(FAILED), batch.id),
        )
        if not held.rowcount:
            raise Refused(_why_not(operations, batch))
        _record(operations, transaction, batch, "batch.went_on", actor, f":arrow_forward: Continued by <@{actor}>.")
    operations.changed()


def _why_not(operations: Operations, batch: Operation) -> str:
    """Say why a button of a card no longer applies."""
    now, stands = operations.get(batch.id), standing(operations, batch.id)
    if stands and stands.stopped_by:
        return f"{now.headed} was already stopped by <@{stands.stopped_by}>."
    if stands and now.state == "running":
        by = "the bot" if stands.paused_by == SYSTEM else f"<@{stands.paused_by}>"
        return f"{now.headed} " + (f"was already paused by {by}." if stands.paused_by else "is not paused.")
    return f"{now.headed} {now.standing}, so there is nothing to pause, continue or stop."


def stopped_by(operations: Operations, child: Operation) -> str:
    """Return who stopped the batch that an operation belongs to; "" if nobody did, or it belongs to none."""
    rows = operations.database.read("SELECT stopped_by FROM batches WHERE operation = ?", child.parent)
    return str(rows[0]["stopped_by"]) if rows else ""


def retry(operations: Operations, operation: Operation, actor: str) -> None:
    """Retry a failed operation; for a batch, all its failed children, each in its turn."""
    if standing(operations, operation.id) is None:
        recovery.retry(operations, operation, actor)
        return
    with operations.database.transaction() as transaction:
        recovery.reopen(operations, transaction, operation.id, actor)
        if transaction.execute("SELECT state FROM operations WHERE id = ?", (operation.id,)).fetchone()[0] != "running":
            raise Refused(f"{operation.headed} has not failed, so there is nothing to retry.")
        failed = operations.select("parent = ? AND state = 'failed'", operation.id, limit=MANY)
        for child in failed:
            operations.move(
                transaction,
                child,
                "waiting",
                event="operation.retried",
                actor=actor,
                expect=("failed",),
                **ANEW,
            )
            recovery.reset_steps(operations, transaction, child.id)
        transaction.execute(
            "UPDATE batches SET paused = NULL, paused_by = '', forgiven = 0 WHERE operation = ?", (operation.id,)
        )
        note = f":arrows_counterclockwise: <@{actor}> retries the {len(failed)} that failed."
        operations.note(transaction, operation.id, note)
    operations.changed()


def settle(operations: Operations) -> None:
    """End or pause running batches according to their children; safe to run at any moment."""
    under_way = "state = 'running' AND id IN (SELECT operation FROM batches)"
    for batch in operations.select(under_way, limit=MANY):
        _fail_blocked_children(operations, batch)
        with operations.database.transaction() as transaction:
            settled = _settle(operations, transaction, batch)
        if settled:
            operations.changed()


def _settle(operations: Operations, transaction: sqlite3.Connection, batch: Operation) -> bool:
    # No child begins or ends while this transaction has the write lock.
    stands = standing(operations, batch.id)
    if stands is None or stands.at_work:
        return False
    if stands.to_come:
        return not stands.paused_by and _pause_after_failures(operations, transaction, batch, stands)
    asker, total = f"<@{batch.requester}>", stands.total
    now = operations.clock()
    if stands.done == total:
        return operations.move(
            transaction,
            batch,
            "succeeded",
            event="operation.succeeded",
            expect=("running",),
            note=f":white_check_mark: {asker}, all {total} done.",
            outcome="done",
            begun=0,
            finished=now,
        )
    tally = f"{stands.done} of {total} done"
    if stands.failed:
        tally += f", {len(stands.failed)} failed ({first_of(stands.failed)})"
    if stands.stopped_by:
        rows = transaction.execute(
            "SELECT tenant FROM operations WHERE parent = ? AND state = 'cancelled' AND started IS NULL ORDER BY id",
            (batch.id,),
        )
        left = [row["tenant"] for row in rows]
        told = f"{tally}, {len(left)} not started" + (f":\n{listed(left)}" if left else ".")
        return operations.move(
            transaction,
            batch,
            "cancelled",
            event="operation.cancelled",
            actor=stands.stopped_by,
            expect=("running",),
            detail={"outcome": tally},
            note=f":black_square_for_stop: {asker}, stopped: {told}",
            outcome=f"Stopped: {tally}",
            ended_by=stands.stopped_by,
            begun=0,
            finished=now,
        )
    return operations.move(
        transaction,
        batch,
        "failed",
        event="operation.failed",
        expect=("running",),
        detail={"outcome": tally},
        note=f":x: {asker}, {tally}. Tap Retry next to one tenant, or on the card for all of them.",
        outcome=tally,
        begun=0,
        finished=now,
    )


def _pause_after_failures(
    operations: Operations, transaction: sqlite3.Connection, batch: Operation, stands: Standing
) -> bool:
    paused = transaction.execute(
        "UPDATE batches SET paused = ?, paused_by = ? WHERE operation = ? AND forgiven + stop_after <= ?",
        (operations.clock(), SYSTEM, batch.id, len(stands.failed)),
    )
    if not paused.rowcount:
        return False
    note = (
        f":double_vertical_bar: <@{batch.requester}>, paused after {len(stands.failed)} "
        f"failure{'s' if len(stands.failed) > 1 else ''} ({first_of(stands.failed)}), {stands.to_come} still waiting. "
        "Tap Continue or Stop on the card above."
    )
    _record(operations, transaction, batch, "batch.paused", SYSTEM, note, {"failed": list(stands.failed)})
    return True


def _fail_blocked_children(operations: Operations, batch: Operation) -> None:
    """Fail children blocked only by a person's request or a halted operation, once nothing else is left to do.

    A frozen child counts as left to do, because its freeze will end.
    """
    stands = standing(operations, batch.id)
    if stands is None or stands.at_work or not stands.to_come or stands.paused_by or stands.frozen:
        return
    waiting = operations.select("parent = ? AND state = 'waiting'", batch.id, limit=MANY)
    holding = operations.select(f"state IN ({_marks(OPEN)})", *OPEN, limit=MANY)
    holders = {one.tenant: one.state for one in holding}
    if not all(holders.get(child.tenant) in ("awaiting_approval", "needs_attention") for child in waiting):
        return
    for child in waiting:
        try:
            operations.refuse_if_busy(child.tenant)
        except TenantBusy as busy:
            with operations.database.transaction() as transaction:
                operations.move(
                    transaction,
                    child,
                    "failed",
                    event="operation.failed",
                    expect=("waiting",),
                    detail={"outcome": str(busy)},
                    outcome=str(busy),
                    aftermath=json.dumps({"left": "nothing was changed"}),
                    finished=operations.clock(),
                )


def _record(
    operations: Operations,
    transaction: sqlite3.Connection,
    batch: Operation,
    event: str,
    actor: str,
    note: str,
    detail: Mapping[str, object] | None = None,
) -> None:
    """Record an event that does not change a batch's state: in the audit log, on its card and in its thread."""
    transaction.execute("UPDATE operations SET revision = revision + 1 WHERE id = ?", (batch.id,))
    audit.record(transaction, audit.Event(event, actor, "", batch.id, detail), operations.clock())
    operations.note(transaction, batch.id, note)


def _marks(values: tuple[str, ...]) -> str:
    return ",".join("?" * len(values))
