"""Errands: the operations that schedules ask for, on nobody's word: queued at once, under the same locks and audit."""

from __future__ import annotations

from uuid import uuid4

from bot.operations import OPEN, SYSTEM, TenantBusy
from bot.plan import Plan
from bot.registry import Context

AT_ONCE = 20
"""Errands that may be under way together: people's operations wait behind no more of them."""
PAUSE = 900.0
"""Seconds that a tenant is left alone after an errand of its failed."""


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
        self._left_alone = {one.tenant for one in (*held, *failed)}
        self.room = AT_ONCE - sum(one.requester == SYSTEM and one.state in ("queued", "running") for one in held)

    def may(self, tenant: str) -> bool:
        """Whether something may be asked for on a tenant now."""
        return self.room > 0 and tenant not in self._left_alone

    def ask(self, command: str, plan: Plan) -> None:
        """Queue an operation; when somebody just took the tenant, it comes again at the next look."""
        try:
            self.context.operations.request(
                command, plan, requester=SYSTEM, channel="", request_key=uuid4().hex, hours=1, approved=True
            )
        except TenantBusy:
            return
        self.room -= 1
        self._left_alone.add(plan.tenant)
