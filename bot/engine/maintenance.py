"""Maintenance: operations that schedules request. They are queued without approval, with the same locks and audit."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from uuid import uuid4

from bot.engine.context import Context
from bot.engine.guards import Change, Guards, Moment
from bot.engine.registry import complete
from bot.model.plan import Plan, Refused
from bot.store import maintenance_runs
from bot.store.operation import LASTING, OPEN, SYSTEM
from bot.store.operations import TenantBusy

JOBS = {"snapshot": "snapshots", "prune": "snapshots", "purge": "purge"}
"""The job that requests each command."""
AT_ONCE = 20
"""Maintenance operations that may be open at once; people's operations wait behind no more than these."""
PAUSE = 900.0
"""Seconds for which a tenant is left alone after maintenance failed."""
DAY = 86_400
"""Seconds after which maintenance that is no longer tried stops counting as failing."""
LOOK = 60.0
"""Seconds for which the answer of a host is reused within one run."""
REMEMBERED = 3 * DAY
"""Seconds for which successful maintenance is listed; the audit log keeps it for ever."""


@dataclass(frozen=True)
class Failing:
    """Maintenance that keeps failing on a tenant: its last operation, and how many failed in a row."""

    tenant: str
    command: str
    operation: int
    state: str
    times: int
    outcome: str

    @property
    def text(self) -> str:
        """What is wrong, for people who can help."""
        what = f"`{self.command}`"
        if self.command == "purge":
            what += f" (of an old copy of {self.tenant}; the live tenant is not affected)"
        if self.state == "needs_attention":
            return (
                f"{what} stopped halfway and locks the tenant until a retry succeeds or "
                f"`/mautic give-up {self.operation} because …` ends the request. {self.outcome}"
            )
        return f"{what} has failed {self.times} times in a row. {self.outcome}"


def failing(context: Context) -> list[Failing]:
    """Return the maintenance that failed twice or more since the last success, or stopped halfway.

    What a clock that was ahead dated in the future does not count: it may be older than anything else.
    """
    now = context.now()
    return [
        Failing(**row)
        for command, since in _since(context).items()
        for row in context.database.read(
            """
            WITH day AS (SELECT * FROM operations
                   WHERE command = ? AND (finished BETWEEN ? AND ? OR state = 'needs_attention')),
                 done AS (SELECT tenant, id, max(finished) AS at FROM day WHERE state = 'succeeded' GROUP BY tenant)
            SELECT day.tenant, day.command, max(day.id) AS operation, day.state, count(*) AS times, day.outcome
            FROM day LEFT JOIN done ON done.tenant = day.tenant
            WHERE day.requester = ? AND day.state IN ('failed', 'needs_attention') 
              AND (done.at IS NULL OR day.state = 'needs_attention' OR (day.finished, day.id) > (done.at, done.id))
            GROUP BY day.tenant HAVING times > 1 OR day.state = 'needs_attention'
            """,
            command,
            since,
            now,
            SYSTEM,
        )
    ]


def given_up(context: Context, tenant: str, since: float) -> bool:
    """Return whether the last try since then (epoch seconds) of some maintenance command on a tenant failed."""
    rows = context.database.read(
        "SELECT command, state FROM operations WHERE tenant = ? AND finished BETWEEN ? AND ?"
        " AND state IN ('succeeded', 'failed') AND command IN (SELECT value FROM json_each(?)) ORDER BY finished, id",
        tenant,
        since,
        context.now(),
        json.dumps(list(JOBS)),
    )
    return "failed" in {row["command"]: row["state"] for row in rows}.values()


def forget(context: Context) -> None:
    """Delete the rows of maintenance that succeeded long ago, of which a big fleet has thousands a day."""
    long_over = "operations INDEXED BY operations_by_end WHERE finished < ?"
    done = f"{long_over} AND requester = ? AND command = ? AND state = 'succeeded'"
    maintenance_runs.forget(context.database, context.uptime.before(REMEMBERED))
    with context.database.transaction() as transaction:
        for command, since in _since(context).items():
            values = (min(since + DAY - REMEMBERED, context.uptime.before(REMEMBERED)), SYSTEM, command)
            transaction.execute(
                f"DELETE FROM steps WHERE operation IN (SELECT id FROM {done})",  # noqa: S608
                values,
            )
            transaction.execute(f"DELETE FROM {done}", values)  # noqa: S608


def _since(context: Context) -> dict[str, float]:
    """Return since when failures count, by command, in epoch seconds: for a day, not counting a pause of the job."""
    now = context.now()
    paused = {job.name: job.paused for job in context.jobs.all()}
    return {command: min(paused.get(job) or now, now) - DAY for command, job in JOBS.items()}


class Maintenance:
    """Requests the maintenance of one job run; skips tenants that are busy, or where maintenance just failed."""

    def __init__(self, context: Context) -> None:
        self.context = context
        now = context.now()
        maintenance_runs.sum_up(context.database, now)
        marks = ",".join("?" * len(OPEN))
        held = context.operations.select(f"state IN ({marks})", *OPEN)
        failed = context.operations.select(
            "requester = ? AND state = 'failed' AND finished BETWEEN ? AND ?", SYSTEM, now - PAUSE, now
        )
        self._guards = Guards(context, keep=LOOK)
        # An operation may wait for the end of a freeze, or for its time, for days.
        waits = {one.id for one in held if one.state == "awaiting_approval" or one.held_by in LASTING}
        self._waiting = {one.tenant for one in held if one.id in waits}
        self._left_alone = {one.tenant for one in (*held, *failed) if one.id not in waits}
        self.slots = AT_ONCE - sum(one.requester == SYSTEM and one.state in ("queued", "running") for one in held)

    def may(self, tenant: str, *, passes: bool = False) -> bool:
        """Return whether maintenance may be requested on a tenant now.

        `passes`: it may be requested also while a request waits for approval.
        """
        waits = tenant in self._waiting and not passes
        return self.slots > 0 and tenant not in self._left_alone and not waits

    def is_free(self, command: str, tenant: str, *, safety: bool = False, host: str = "") -> bool:
        """Return whether no guard refuses maintenance now.

        Args:
            safety: it protects data, or rolls back an operation that stopped halfway, so that no freeze stops it.
            host: where it adds load; "": it frees more than it takes.
        """
        change = Change(command, tenant, planned=True, safety=safety, host=host)
        try:
            self._guards.refuse(Moment.MAINTENANCE, change)
        except Refused:
            return False
        return True

    def ask(self, command: str, plan: Plan, *, safety: bool = False, host: str = "") -> None:
        """Queue an operation unless a guard refuses it; the next run requests it again. Arguments as for `is_free`."""
        if not self.is_free(command, plan.tenant, safety=safety, host=host):
            return
        if not plan.steps:
            plan = complete(self.context.registry.command(command), self.context, plan)
        plan = replace(plan, safety=safety)
        try:
            self.context.operations.request(
                command,
                plan,
                requester=SYSTEM,
                channel="",
                request_key=uuid4().hex,
                hours=1,
                approved=True,
                run=maintenance_runs.run_of(self.context.database, JOBS[command], command, self.context.now()),
            )
        except TenantBusy:
            return
        self.slots -= 1
        self._left_alone.add(plan.tenant)
