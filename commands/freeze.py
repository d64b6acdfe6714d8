"""`/mautic freeze`: blocks changes to one tenant, or to all, for a while."""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo

from bot.engine.context import Context
from bot.engine.registry import FreeWords, decides, query
from bot.model.labels import Role
from bot.model.moments import moment
from bot.model.plan import Refused, UnknownWords
from bot.slack.messages import Message
from bot.store.freezes import EVERYTHING, Freezes, subject

LONGEST = 366 * 86_400
"""Seconds that a freeze may last; one without an end lasts until somebody ends it."""
REASON = 300
"""Characters that a reason may have, as every card shows it."""
_USAGE = (
    "Type for example `/mautic freeze all 2h because <reason>`. Instead of `all`, name a tenant; instead of `2h`, "
    "write `3d` or `2026-12-01 18:00`, or leave the time out to freeze until `/mautic unfreeze`."
)


@decides
@query
def freeze(context: Context, tenant_or_all: str = "", until: str = "", *because: FreeWords) -> Message:
    """Block changes to one tenant, or to all, until a time or until `unfreeze`.

    `until` is `2h`, `3d`, `18:00` or `2026-12-01 18:00`; without a time the freeze lasts until somebody ends it.
    Requests and approvals are refused, approved requests wait, and the bot deletes nothing on schedule. Running
    operations finish or roll back; scheduled snapshots and read-only commands continue.
    """
    context.approvals.refuse_to_ask("freeze", context.actor)
    words = [*filter(None, (tenant_or_all, until)), *because]
    tenant, ends, reason = _read(words, context.now(), context.renderer.zone)
    if tenant:
        _refuse_unknown(context, tenant)
    may_end = context.settings.policy("unfreeze").ask
    freezes = Freezes(context.operations)
    made = freezes.begin(tenant, context.actor.id, reason, ends, context.delivery, may_end=may_end)
    running = context.operations.select("state = 'running' AND requester <> 'system' AND ? IN ('', tenant)", tenant)
    return context.renderer.message("commands/freeze.j2", freeze=made, running=running[:5])


def _read(words: Sequence[str], now: float, zone: ZoneInfo) -> tuple[str, float | None, str]:
    """Return the tenant (EVERYTHING for all), the end (None: no end) and the reason; raise Refused with the usage."""
    at = next((place for place, word in enumerate(words) if word.lower().rstrip(",:…") == "because"), len(words))
    before, reason = [word.rstrip(",") for word in words[:at]], " ".join(" ".join(words[at + 1 :]).split())
    if not reason:
        raise Refused(f"Add a reason; it is shown on every card. {_USAGE}")
    if len(reason) > REASON:
        raise Refused(f"The reason is too long: {len(reason)} characters, at most {REASON}.")
    tenant = EVERYTHING
    if before and moment(" ".join(before), now, zone) is None:
        tenant = subject(before.pop(0))
    if not before:
        return tenant, None, reason
    ends = moment(" ".join(before), now, zone)
    if ends is None:
        raise UnknownWords(f"“{' '.join(before)[:40]}” is not a time. {_USAGE}")
    if not now < ends <= now + LONGEST:
        raise Refused(
            "The end of a freeze has to be in the future, within a year. "
            "Leave the time out to freeze until `/mautic unfreeze`."
        )
    return tenant, ends, reason


def _refuse_unknown(context: Context, tenant: str) -> None:
    """Raise Refused for an unknown name, unless a server does not answer, where the tenant may be."""
    seen = context.fleet.inventory(*Role)
    if not seen.silent and not any(one.name == tenant for one in seen.tenants):
        context.fleet.tenant(tenant)
