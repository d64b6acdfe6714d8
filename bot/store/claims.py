"""Claims: which operation a worker takes next, and which has to wait. Compare-and-set: no two take the same one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from bot.model.lanes import MANY, Candidate, Lane, Limits, fits, has_worker, in_line
from bot.model.text import code, told
from bot.store.operation import IS_UNDER_WAY, OPEN, Operation, State
from bot.store.operations import Operations

TURN = "turn"
"""The kind of second looks at planned operations whose time has come and that others are before."""


@dataclass(frozen=True)
class Hold:
    """Why a queued operation does not begin yet: the guard's key, a sentence, and the part of it that a person typed.

    `ends`: waiting does not help, so the operation is cancelled; maintenance is requested again when due.
    """

    guard: str
    why: str
    typed: str = ""
    ends: bool = False


def claim(
    operations: Operations,
    hold: Callable[[Operation], Hold | None] = lambda _: None,
    may: Callable[[Operation], bool] = lambda _: True,
    shared: int = MANY,
    still: Callable[[Operation], bool] = lambda _: True,
) -> Operation | None:
    """Claim and return the next queued operation that may run, or None; `bot.model.lanes` decides the order.

    Args:
        hold: returns why an operation has to wait, or None. Others overtake it; its thread is told once per guard.
        may: whether an operation may begin after all; called last, because it may take long.
        shared: how many batch children and maintenance operations may run at once.
        still: whether nothing came up while `may` ran; asks no server and not Slack.
    """
    running, soaked = _candidates(operations, "running"), _soaked(operations)
    waiting = [*_candidates(operations, "queued"), *_children(operations, running, soaked)]
    for first in in_line(waiting, running, shared):
        candidate = operations.get(first.id)
        if candidate.state not in ("queued", "waiting"):
            continue
        try:
            if why := hold(candidate):
                _wait(operations, candidate, why)
            elif may(candidate):
                if _begin(operations, candidate, first, shared, still, soaked):
                    operations.changed()
                    return operations.get(candidate.id)
                if why := hold(candidate):
                    # The reason came up while `may` ran.
                    _wait(operations, candidate, why)
        except sqlite3.IntegrityError:
            # Another operation has locked the tenant meanwhile: a person's request if a child was to begin, a scheduled
            # snapshot if the operation had waited for the end of a freeze.
            continue
    return None


def _begin(
    operations: Operations,
    operation: Operation,
    first: Candidate,
    shared: int,
    still: Callable[[Operation], bool],
    soaked: Collection[str],
) -> bool:
    """Move a queued operation, or a child whose turn it is, to running; False: it may no longer begin."""
    with operations.database.transaction() as transaction:
        # Another worker may have used the last slot meanwhile.
        running = _candidates(operations, "running")
        if not first.begun and first.lane != Lane.PERSON and not has_worker(running, shared):
            return False
        if operation.state == "waiting" and first not in _children(operations, running, soaked):
            return False
        if not still(operation):
            return False
        return operations.move(
            transaction,
            operation,
            "running",
            event="operation.started" if not operation.attempts else "operation.resumed",
            expect=(operation.state,),
            attempts=operation.attempts + 1,
            started=operation.started or operations.clock(),
            # It said why the operation waited; for a rollback it says why the operation failed.
            outcome=operation.outcome if operation.undo_by else "",
            held_by="",
        )


def _candidates(operations: Operations, state: State) -> list[Candidate]:
    """Return the operations in a state, oldest first, except batches, which no worker runs."""
    rows = operations.database.read(
        "SELECT id, requester, parent, host, begun FROM operations WHERE state = ?"
        " AND id NOT IN (SELECT operation FROM batches) ORDER BY id",
        state,
    )
    return [Candidate(**dict(row) | {"begun": bool(row["begun"])}) for row in rows]


def _soaked(operations: Operations) -> set[str]:
    """Return the rings, as `batch/ring`, after which the next may begin: all their children have ended, and soaked.

    The soak is elapsed time since the children were seen to have ended: setting the clock ahead ends no soak.
    """
    rings = operations.database.read(
        """
        SELECT child.parent || '/' || child.ring AS ring, soak
        FROM batches JOIN operations AS batch ON batch.id = batches.operation AND batch.state = 'running'
        JOIN operations AS child ON child.parent = batch.id
        WHERE soak > 0 GROUP BY child.parent, child.ring
        HAVING sum(child.state IN ('waiting', 'queued', 'running')) = 0
        """
    )
    # Called even without any ring: one whose failed child is retried is forgotten here and soaks again from the start.
    ages = operations.uptime.found("soak", [row["ring"] for row in rings])
    return {row["ring"] for row in rings if ages[row["ring"]] >= row["soak"]}


def _children(operations: Operations, running: Sequence[Candidate], soaked: Collection[str]) -> list[Candidate]:
    """Return the batch children that may begin now: within the limits, on tenants that are not locked."""
    rows = operations.database.read(
        """
        SELECT child.id, child.requester, child.parent, child.host, child.tenant, at_once, at_once_host, soak,
          (SELECT batch.id || '/' || max(ring) FROM operations WHERE parent = batch.id AND ring < child.ring) AS after
        FROM batches JOIN operations AS batch ON batch.id = batches.operation AND batch.state = 'running'
        JOIN operations AS child ON child.parent = batch.id AND child.state = 'waiting'
        WHERE paused IS NULL AND stopped IS NULL AND (
          SELECT count(*) FROM operations WHERE parent = batch.id AND state IN ('failed', 'needs_attention')
        ) < forgiven + stop_after
        AND NOT EXISTS (
          SELECT 1 FROM operations AS earlier WHERE earlier.parent = batch.id AND earlier.ring < child.ring
          AND earlier.state IN ('waiting', 'queued', 'running')
        )
        ORDER BY child.id
        """
    )
    marks = ",".join("?" * len(OPEN))
    open_ones = operations.database.read(f"SELECT tenant FROM operations WHERE state IN ({marks})", *OPEN)  # noqa: S608
    held = {row["tenant"] for row in open_ones} if rows else set()
    found = []
    for row in rows:
        one = Candidate(row["id"], row["requester"], row["parent"], row["host"])
        limits = Limits(row["at_once"], row["at_once_host"])
        soaks = row["soak"] and row["after"] and row["after"] not in soaked
        if not soaks and row["tenant"] not in held and fits(one, running, limits):
            found.append(one)
    return found


def has_missed_its_time(operations: Operations, operation: Operation) -> bool:
    """Return whether a planned operation could have begun near its time, if only the bot had been there to begin it.

    If a guard kept it from beginning then, `held_by` names that guard; if other operations did, `note_turns` knows it.
    """
    missed = operation.held_by == "time" and operations.clock() >= operation.latest
    return missed and operations.uptime.since(TURN, str(operation.id)) is None


def note_turns(operations: Operations, workers: int) -> None:
    """Record which planned operations cannot begin near their time because others are at work.

    Has to be called every few seconds, and not by a worker, because all of them may be busy for hours.

    Args:
        workers: how many operations can run at once.
    """
    now, busy = operations.clock(), len(_candidates(operations, "running")) >= workers
    others = f"tenant = ? AND tenant <> '' AND id <> ? AND {IS_UNDER_WAY}"

    def waits(one: Operation) -> bool:
        if operations.uptime.since(TURN, str(one.id)) is not None:
            return True
        return now < one.latest and (busy or bool(operations.select(others, one.tenant, one.id, limit=1)))

    planned = operations.select("state = 'queued' AND held_by = 'time' AND NOT begun")
    operations.uptime.found(TURN, [str(one.id) for one in planned if one.at <= now and waits(one)])


def _wait(operations: Operations, operation: Operation, hold: Hold) -> None:
    """Record, once per guard, that an operation has to wait; or cancel it (`Hold.ends`)."""
    if operation.held_by == hold.guard and not hold.ends:
        return
    why = told(hold.why, hold.typed)
    again = code("/mautic " + operation.again_at(operations.clock()))
    ended = f"<@{operation.requester}>, cancelled. {why} Nothing was changed. Request again: {again}"
    with operations.database.transaction() as transaction:
        operations.move(
            transaction,
            operation,
            "cancelled" if hold.ends else operation.state,
            event="operation.cancelled" if hold.ends else "operation.held",
            expect=(operation.state,),
            detail={"why": hold.why, "guard": hold.guard},
            note=f":hourglass: {ended if hold.ends else f'{operation.headed} is waiting: {why}'}",
            outcome=hold.why,
            held_by=hold.guard,
            finished=operations.clock() if hold.ends else None,
        )
    operations.changed()


def put_back(operations: Operations, operation: Operation, why: str) -> None:
    """Queue an operation again whose host is out of reach, so that its worker is free meanwhile."""
    with operations.database.transaction() as transaction:
        operations.move(
            transaction,
            operation,
            "queued",
            event="operation.put_back",
            expect=("running",),
            detail={"why": why},
            # `attempts` counts towards `recovery.MAX_ATTEMPTS`; this is not an interruption by a crash.
            attempts=operation.attempts - 1,
        )
    operations.changed()
