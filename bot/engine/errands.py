"""Errands: the operations that schedules ask for, on nobody's word: queued at once, under the same locks and audit."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from uuid import uuid4

from bot.engine.context import Context
from bot.engine.guards import FREEZE, Change, Guards, Moment
from bot.engine.registry import complete
from bot.model.plan import Plan, Refused
from bot.store import maintenance
from bot.store.operation import OPEN, SYSTEM
from bot.store.operations import TenantBusy

JOBS = {"snapshot": "snapshots", "prune": "snapshots", "purge": "purge"}
"""The job that asks for each errand."""
AT_ONCE = 20
"""Errands that may be under way together: people's operations wait behind no more of them."""
PAUSE = 900.0
"""Seconds that a tenant is left alone after an errand of its failed."""
DAY = 86_400
"""Seconds after which an errand that is tried no more counts as failing no more."""
LOOK = 60.0
"""Seconds for which what a host told at a look around is good for the rest of it."""
REMEMBERED = 3 * DAY
"""Seconds that an errand that went well is listed; the audit log has it for ever."""


@dataclass(frozen=True)
class Failing:
    """What the bot does not get done on a tenant: the last operation of it, and how many in a row came to nothing."""

    tenant: str
    command: str
    operation: int
    state: str
    times: int
    outcome: str

    @property
    def text(self) -> str:
        """What is wrong, for who can help."""
        what = f"`{self.command}`"
        if self.command == "purge":
            what += f" (of what is kept of {self.tenant}; a live one is not affected)"
        if self.state == "needs_attention":
            return (
                f"{what} was left half done, and holds the tenant until a retry succeeds, or "
                f"`/mautic give-up {self.operation} because …` ends it as it stands. {self.outcome}"
            )
        return f"{what} has failed {self.times} times in a row. {self.outcome}"


def failing(context: Context) -> list[Failing]:
    """Return the errands that failed twice or more since one of their kind succeeded, or were left half done."""
    return [
        Failing(**row)
        for command, since in _since(context).items()
        for row in context.database.read(
            """
            WITH day AS (SELECT * FROM operations WHERE command = ? AND (finished >= ? OR state = 'needs_attention')),
                 done AS (SELECT tenant, id, max(finished) AS at FROM day WHERE state = 'succeeded' GROUP BY tenant)
            SELECT day.tenant, day.command, max(day.id) AS operation, day.state, count(*) AS times, day.outcome
            FROM day LEFT JOIN done ON done.tenant = day.tenant
            WHERE day.requester = ? AND day.state IN ('failed', 'needs_attention') 
              AND (done.at IS NULL OR day.state = 'needs_attention' OR (day.finished, day.id) > (done.at, done.id))
            GROUP BY day.tenant HAVING times > 1 OR day.state = 'needs_attention'
            """,
            command,
            since,
            SYSTEM,
        )
    ]


def given_up(context: Context, tenant: str, since: float) -> bool:
    """Whether of some errand on a tenant the last try since then failed."""
    rows = context.database.read(
        "SELECT command, state FROM operations WHERE tenant = ? AND finished >= ? AND state IN ('succeeded', 'failed')"
        " AND command IN (SELECT value FROM json_each(?)) ORDER BY finished, id",
        tenant,
        since,
        json.dumps(list(JOBS)),
    )
    return "failed" in {row["command"]: row["state"] for row in rows}.values()


def forget(context: Context) -> None:
    """Remove the rows of errands that went well and are over for long: a big fleet has thousands a day."""
    long_over = "operations INDEXED BY operations_by_end WHERE finished < ?"
    done = f"{long_over} AND requester = ? AND command = ? AND state = 'succeeded'"
    maintenance.forget(context.database, context.lived.before(REMEMBERED))
    with context.database.transaction() as transaction:
        for command, since in _since(context).items():
            values = (min(since + DAY - REMEMBERED, context.lived.before(REMEMBERED)), SYSTEM, command)
            transaction.execute(
                f"DELETE FROM steps WHERE operation IN (SELECT id FROM {done})",  # noqa: S608
                values,
            )
            transaction.execute(f"DELETE FROM {done}", values)  # noqa: S608


def _since(context: Context) -> dict[str, float]:
    """Return since when each errand's failures count: for a day, which stands still while its job is paused."""
    now = context.now()
    paused = {job.name: job.paused for job in context.jobs.all()}
    return {command: min(paused.get(job) or now, now) - DAY for command, job in JOBS.items()}


class Errands:
    """What may be asked for in one look around: tenants that are busy, or where it just failed, are passed over."""

    def __init__(self, context: Context) -> None:
        self.context = context
        now = context.now()
        maintenance.sum_up(context.database, now)
        marks = ",".join("?" * len(OPEN))
        held = context.operations.select(f"state IN ({marks})", *OPEN)
        failed = context.operations.select(
            "requester = ? AND state = 'failed' AND finished BETWEEN ? AND ?", SYSTEM, now - PAUSE, now
        )
        self._guards = Guards(context, keep=LOOK)
        # What waits for the end of a freeze may do so for days.
        waits = {one.id for one in held if one.state == "awaiting_approval" or one.held_by == FREEZE}
        self._waiting = {one.tenant for one in held if one.id in waits}
        self._left_alone = {one.tenant for one in (*held, *failed) if one.id not in waits}
        self.room = AT_ONCE - sum(one.requester == SYSTEM and one.state in ("queued", "running") for one in held)

    def may(self, tenant: str, *, passes: bool = False) -> bool:
        """Whether something may be asked for on a tenant now; `passes`: also while a request waits for its approval."""
        waits = tenant in self._waiting and not passes
        return self.room > 0 and tenant not in self._left_alone and not waits

    def is_free(self, command: str, tenant: str, *, safety: bool = False, host: str = "") -> bool:
        """Whether no guard is in the way of an errand now.

        Args:
            safety: it keeps what there is, or takes back what was left half done: no freeze stops it.
            host: where it adds to the load; "": it frees more than it takes.
        """
        change = Change(command, tenant, planned=True, safety=safety, host=host)
        try:
            self._guards.refuse(Moment.MAINTENANCE, change)
        except Refused:
            return False
        return True

    def ask(self, command: str, plan: Plan, *, safety: bool = False, host: str = "") -> None:
        """Queue an operation where no guard is in the way; else it comes again at the next look. As for `is_free`."""
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
                run=maintenance.run_of(self.context.database, JOBS[command], command, self.context.now()),
            )
        except TenantBusy:
            return
        self.room -= 1
        self._left_alone.add(plan.tenant)
