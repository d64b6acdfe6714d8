"""Errands: the operations that schedules ask for, on nobody's word: queued at once, under the same locks and audit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import uuid4

from bot.operations import OPEN, SYSTEM, TenantBusy
from bot.plan import Plan
from bot.registry import Context, complete

JOBS = {"snapshot": "snapshots", "prune": "snapshots", "purge": "purge"}
"""The job that asks for each errand."""
AT_ONCE = 20
"""Errands that may be under way together: people's operations wait behind no more of them."""
PAUSE = 900.0
"""Seconds that a tenant is left alone after an errand of its failed."""
DAY = 86_400
"""Seconds after which an errand that is tried no more counts as failing no more."""
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
                 done AS (SELECT tenant, max(id) AS id FROM day WHERE state = 'succeeded' GROUP BY tenant)
            SELECT day.tenant, day.command, max(day.id) AS operation, day.state, count(*) AS times, day.outcome
            FROM day LEFT JOIN done ON done.tenant = day.tenant
            WHERE day.requester = ? AND day.state IN ('failed', 'needs_attention') AND day.id > coalesce(done.id, 0)
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
        "SELECT state, max(id) FROM operations WHERE tenant = ? AND finished >= ?"
        " AND state IN ('succeeded', 'failed') AND command IN (SELECT value FROM json_each(?)) GROUP BY command",
        tenant,
        since,
        json.dumps(list(JOBS)),
    )
    return any(row["state"] == "failed" for row in rows)


def forget(context: Context) -> None:
    """Remove the rows of errands that went well and are over for long: a big fleet has thousands a day."""
    long_over = "operations INDEXED BY operations_by_end WHERE finished < ?"
    done = f"{long_over} AND requester = ? AND command = ? AND state = 'succeeded'"
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
        marks = ",".join("?" * len(OPEN))
        held = context.operations.select(f"state IN ({marks})", *OPEN)
        failed = context.operations.select(
            "requester = ? AND state = 'failed' AND finished BETWEEN ? AND ?", SYSTEM, now - PAUSE, now
        )
        self._waiting = {one.tenant for one in held if one.state == "awaiting_approval"}
        self._left_alone = {one.tenant for one in (*held, *failed) if one.state != "awaiting_approval"}
        self.room = AT_ONCE - sum(one.requester == SYSTEM and one.state in ("queued", "running") for one in held)

    def may(self, tenant: str, *, passes: bool = False) -> bool:
        """Whether something may be asked for on a tenant now; `passes`: also while a request waits for its approval."""
        waits = tenant in self._waiting and not passes
        return self.room > 0 and tenant not in self._left_alone and not waits

    def ask(self, command: str, plan: Plan) -> None:
        """Queue an operation; when somebody just took the tenant, it comes again at the next look."""
        if not plan.steps:
            plan = complete(self.context.registry.command(command), self.context, plan)
        try:
            self.context.operations.request(
                command, plan, requester=SYSTEM, channel="", request_key=uuid4().hex, hours=1, approved=True
            )
        except TenantBusy:
            return
        self.room -= 1
        self._left_alone.add(plan.tenant)
