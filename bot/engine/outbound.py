"""Mail that waits where a tenant begins to work again: counted for the card, and sent, dropped or held as was chosen.

Nobody's mail is to go out twice after a restore, or weeks late after a stop, unasked. Where nobody says what becomes of
it, none is lost and none goes: it waits on, with outbound mail off, until `/mautic mail` decides. A refusal instead
would keep the site down for the sake of the mail, and what waits in a stopped tenant is known only once it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from bot.engine.context import Run
from bot.fleet.inventory import Host
from bot.guest.mautic import MUTE, Mail
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.model.labels import stamp, stamps
from bot.model.plan import Choice
from bot.model.tenants import Tenant

log = logging.getLogger(__name__)
MailOption = Literal["", "send", "drop", "off"]
CHOICE = Choice(
    "mail",
    {
        "send": "send waiting mail",
        "drop": "drop waiting mail",
        "off": "leave mail off",
    },
)
LATE = 3600
"""Seconds of standing still after which mail is late: people expect that of just now, and not that of last week."""
COUNTING = 20.0
"""Seconds that counting may take where what comes then must not wait for it."""
_KINDS = {
    "queue": "in the queue",
    "messages": "held by a frequency rule",
    "events": "of campaigns",
    "broadcasts": "of segment emails",
}


def told(run: Run, found: Mapping[str, Any]) -> str:
    """Say how much mail waits, of what kind and since when."""
    unknown = ", ".join(words for kind, words in _KINDS.items() if kind not in found["kinds"])
    more = f"; how much waits {unknown} could not be counted in time" if unknown else ""
    if not found["waits"]:
        return f"none waits{more}"
    kinds = ", ".join(f"{found['kinds'][kind]} {words}" for kind, words in _KINDS.items() if found["kinds"].get(kind))
    since = f", the oldest since {run.renderer.moment(found['oldest'])}" if found["oldest"] else ""
    return f"{found['waits']} wait{'s' if found['waits'] == 1 else ''} ({kinds}){since}{more}"


def remarks(waits: str, mail: str, *, first: str = "") -> dict[str, str]:
    """Return what the card says of mail that waits, and of what becomes of it.

    `first`: what becomes of it where nothing was said, another thing than where a tenant just stood still.
    """
    unsaid = first or "if it stood still for over an hour, what waits stays, with outbound mail off"
    return {"Mail": waits, **({"Asked for": CHOICE.options[mail]} if mail else {"Without a choice": unsaid})}


def counted(run: Run, host: Host, instance: str) -> str:
    """Say how much waits in an instance whose database runs."""
    try:
        return told(run, host.mautic.mail(instance))
    except LxdError:
        return "what waits cannot be counted"


def record(run: Run, host: Host, instance: str) -> None:
    """Stamp on an instance that is about to stop how much waits in it: once it stands still nobody can count."""
    try:
        # Who is to be stopped may keep everybody waiting.
        found = host.mautic.mail(instance, timeout=COUNTING)
    except LxdError:
        return
    host.lxd.update(instance, stamps(mail_waits=told(run, found), mail_counted=int(run.now())))


def recorded(run: Run, config: Mapping[str, str]) -> str:
    """Say how much waited when it was stopped."""
    waited, at = stamp(config, "mail-waits"), stamp(config, "mail-counted")
    if not waited:
        return "what waits is known once it runs"
    return f"when it was stopped, {run.renderer.moment(int(at or 0))}: {waited}; what came due since is not in it"


def settle(run: Run, host: Host, instance: str, mail: Mail, *, late: float = LATE, unmute: bool = False) -> str | None:
    """Do with the mail that waits in an instance as was chosen, and say what was done where there was any."""
    done = host.mautic.release(instance, mail, late=late, batch=run.operation, unmute=unmute)
    off = done["choice"] in ("off", "back")
    config = host.lxd.instance(instance).config
    # Of one whose disk is full LXD takes nothing, so it is told only what is new.
    if (stamp(config, "outbound") == "off") != off or stamp(config, "mail-waits"):
        host.lxd.update(instance, stamps(outbound="off" if off else "", mail_waits=""))
    if off:
        return f"outbound mail is off; {told(run, done)}"
    if done["choice"] == "drop":
        return f"{done['dropped']} dropped, and kept until somebody has them put back"
    return f"mail goes on; {told(run, done)}" if done["waits"] else None


def start(run: Run, tenant: Tenant, *, urgent: bool = False) -> None:
    """Start a tenant's container, mute until `settle` or `unmute`; one that runs stays as it is."""
    host = run.fleet.of(tenant)
    if not host.lxd.instance(tenant.instance).running:
        host.mautic.mute(tenant.instance)
    host.start(tenant.instance, urgent=urgent)


def unmute(run: Run, tenant: Tenant) -> None:
    """Take `start`'s mute back where `settle` did not come to it, as far as that can be done."""
    host = run.fleet.of(tenant)
    host.lxd.remove(tenant.instance, MUTE)
    with suppress(LxdError):
        host.mautic.restart_part(tenant.instance, "worker")


def settle_again(run: Run, tenant: Tenant, *, unmute: bool = False) -> bool:
    """Hold the mail of one that goes on after an operation was taken back, if it stood still for long.

    Whatever keeps it from that must not keep the tenant offline: then False is returned.
    """
    try:
        settle(run, run.fleet.of(tenant), tenant.instance, "off" if tenant.outbound_off else "", unmute=unmute)
    except LxdUnavailable:
        raise
    except LxdError as error:
        log.warning("what mail waits in %s could not be looked at: %s", tenant.instance, error)
        return False
    return True


def start_again(run: Run, tenant: Tenant) -> None:
    """Start one whose stop is taken back, which may have come to a halt days ago."""
    start(run, tenant, urgent=True)
    if not settle_again(run, tenant, unmute=True):
        unmute(run, tenant)
