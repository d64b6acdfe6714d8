"""Sums up a tenant's condition in one word, the same for `list`, `status`, `hosts`, the Home tab and the digest."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bot.engine.context import Context
from bot.model import findings
from bot.model.findings import EDGE, FINDINGS, Judged, Severity
from bot.model.labels import Role, State
from bot.model.tenants import Tenant
from bot.model.text import seconds
from bot.store import metrics
from bot.store.operation import Operation

STALE = 20 * 60
"""Seconds for which a health check of a tenant counts as current; a sweep comes every five minutes."""
Word = Literal["offline", "degraded", "unknown", "moving", "busy", "stopped", "suspended", "archived", "healthy"]
WORDS: tuple[Word, ...] = get_args(Word)
"""All words, the worst first."""
ICONS: Mapping[Word, str] = {
    "offline": ":red_circle:",
    "degraded": ":large_orange_circle:",
    "unknown": ":grey_question:",
    "moving": ":large_blue_circle:",
    "busy": ":large_blue_circle:",
    "stopped": ":white_circle:",
    "suspended": ":white_circle:",
    "archived": ":file_cabinet:",
    "healthy": ":large_green_circle:",
}


@dataclass(frozen=True)
class Condition:
    """A tenant's condition. `why`: plain text; `by`: the Slack id of the person who caused it on purpose, if known."""

    word: Word
    why: str = ""
    by: str = ""

    @property
    def icon(self) -> str:
        """Return the emoji of the condition."""
        return ICONS[self.word]

    @property
    def urgency(self) -> int:
        """Return the sort key: the worst condition has the lowest."""
        return WORDS.index(self.word)


HEALTHY = Condition("healthy")


def condition(
    tenant: Tenant,
    *,
    problems: Collection[str] = (),
    operation: Operation | None = None,
    by: str = "",
    looked: bool = True,
    served: bool = False,
    last: str = "",
) -> Condition:
    """Return the condition of a tenant. Pure.

    Args:
        problems: the kinds of the open incidents of the tenant, or of its host.
        operation: the tenant's operation that is running or needs attention.
        by: the Slack id of the person who stopped or suspended the tenant.
        looked: whether a recent health check reached the tenant; `last` says when the last one was, in words.
        served: whether the login page was there at that check.
    """
    titles = findings.titles(problems)
    grave = {findings.kind(kind).severity for kind in problems}
    if tenant.role == Role.ARCHIVED:
        return Condition("archived")
    if operation and operation.state == "needs_attention":
        return _halted(tenant, operation, titles)
    if operation and operation.cutover:
        return Condition("moving" if operation.cutover == "move" else "busy", _in_progress(operation))
    if (tenant.status == "Error" and tenant.member) or Severity.UNKNOWN in grave:
        return Condition("unknown", "its host does not answer")
    if tenant.state == State.SUSPENDED:
        return Condition("suspended", _at_rest(problems), by)
    if tenant.state == State.MOVING:
        # No operation knows of the move any more. A candidate may serve in the tenant's place.
        return (
            Condition("degraded", "stuck halfway, served by the new container")
            if served
            else Condition("offline", "stuck halfway")
        )
    if not tenant.running:
        if tenant.stopped and tenant.state in (State.NONE, State.LIVE):
            return Condition("stopped", _at_rest(problems), by)
        if operation:
            return Condition("busy", _in_progress(operation))
        return Condition("offline", titles or findings.titles(["stopped"]))
    if Severity.OFFLINE in grave:
        return Condition("offline", titles)
    if titles:
        return Condition("degraded", titles)
    if not looked:
        return Condition("unknown", f"running, {last or 'not checked yet'}")
    return HEALTHY


def _in_progress(operation: Operation) -> str:
    return f"{operation.cutover or operation.command} in progress ({operation.named})"


def _at_rest(problems: Collection[str]) -> str:
    return findings.titles(findings.keys(judged=Judged.ALWAYS) & set(problems))


def _halted(tenant: Tenant, operation: Operation, titles: str) -> Condition:
    online, left = operation.aftermath.get("online"), bool(operation.aftermath.get("headline"))
    halt = f"{operation.cutover or operation.command} stuck ({operation.named})"
    if online is False or (not left and (tenant.state == State.MOVING or not tenant.running)):
        return Condition("offline", halt)
    if online is None and operation.cutover:
        return Condition("unknown", halt)
    return Condition("degraded", f"{halt}, {titles}" if titles else halt)


def looked_at_now(known: Condition, page: bool | None, sick: Sequence[str]) -> Condition:
    """Return the condition of a tenant after a check just now; a recorded problem stays until a sweep finds it solved.

    Args:
        page: whether the login page was there; None: it was not requested.
        sick: what else is wrong, in words.
    """
    if page is None or known.word not in ("offline", "degraded", "healthy"):
        return known
    if not page:
        return Condition("offline", known.why if known.word == "offline" else findings.titles(["page"]))
    if known.word in ("offline", "degraded") or sick:
        before = [f"{known.why}, at the last health check" if known.word == "offline" else known.why]
        return Condition("degraded", ", ".join(filter(None, [*sick, *before])))
    return HEALTHY


def conditions(context: Context, tenants: Sequence[Tenant], *, looked: bool = False) -> dict[str, Condition]:
    """Return the condition of each tenant by the name of its container, without a request to a server.

    `looked`: the caller checks the tenants right now, so that no tenant counts as unchecked.
    """
    now = context.now()
    problems: dict[str, set[str]] = {}
    for incident in context.incidents.open():
        problems.setdefault(incident.tenant or f"host {incident.server}", set()).add(incident.kind)
    spreading = {row.key for row in FINDINGS.values() if row.spreads}
    everywhere = problems.get(f"host {EDGE}", set()) & spreading
    # A queued operation that a guard makes wait has not touched its tenant yet.
    where = "state IN ('running', 'needs_attention') OR state = 'queued' AND held_by = ''"
    under_way = context.operations.select(where)
    operations = {one.tenant: one for one in under_way if one.requester != "system" or one.state == "needs_attention"}
    lately = metrics.looked_since(context.database, now - STALE, now)
    by = _by(context, tenants)
    last = _last(context)

    @functools.cache
    def of_host(host: str, server: str) -> set[str]:
        there = {kind for name in (host, server) for kind in problems.get(f"host {name}", set())}
        return (there & spreading) | everywhere

    def one(tenant: Tenant) -> Condition:
        return condition(
            tenant,
            problems=problems.get(tenant.name, set()) | of_host(tenant.host, tenant.server),
            operation=operations.get(tenant.name),
            by=by.get(tenant.closed_by, ""),
            looked=looked or tenant.name in lately or now - STALE < tenant.created <= now,
            served=lately.get(tenant.name, False),
            last=last,
        )

    return {tenant.instance: one(tenant) for tenant in tenants}


def _by(context: Context, tenants: Sequence[Tenant]) -> dict[int, str]:
    """Return the requesters of the operations that closed these tenants, by operation number."""
    numbers = [one.closed_by for one in tenants if one.closed_by]
    rows = context.database.read(
        "SELECT id, requester FROM operations WHERE command IN ('stop', 'suspend')"
        " AND id IN (SELECT value FROM json_each(?))",
        json.dumps(numbers),
    )
    return {row["id"]: row["requester"] for row in rows}


def _last(context: Context) -> str:
    """Say when the last health check began, for tenants that it did not reach; "" where none is recorded."""
    job = next((job for job in context.jobs.all() if job.name == "health"), None)
    if job is None or job.started is None:
        return ""
    ago = f"last checked {seconds(max(0.0, context.now() - job.started))} ago"
    return f"{ago}: the job `health` {job.problem}" if job.problem else ago


def counted(found: Iterable[Condition]) -> list[tuple[str, int]]:
    """Count the conditions by word, the worst first; words without a tenant are left out."""
    count = Counter(one.word for one in found)
    return [(word, count[word]) for word in WORDS if count[word]]
