"""Counts the waiting mail of a tenant that returns to service, and sends, drops or keeps it, as chosen.

No mail may be sent twice after a restore, or weeks late after a stop, unless somebody asked for that. Without a choice
no late mail is lost or sent: outbound mail stays off until `/mautic mail` decides. Refusing the operation instead would
keep the site offline because of its mail, and how much waits in a stopped tenant is known only once the tenant runs.
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
from bot.model.labels import as_labels, label_of, moment_of
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
"""Seconds after which waiting mail is late: people expect mail from an hour ago, but not from last week."""
COUNTING = 20.0
"""Seconds that counting may take where other work waits for it."""
_KINDS = {
    "queue": "in the queue",
    "messages": "held by a frequency rule",
    "events": "of campaigns",
    "broadcasts": "of segment emails",
}


def told(run: Run, found: Mapping[str, Any]) -> str:
    """Say how much mail waits, of what kind and since when."""
    unknown = ", ".join(words for kind, words in _KINDS.items() if kind not in found["kinds"])
    more = f"; mail {unknown} could not be counted in time" if unknown else ""
    if not found["waits"]:
        return f"none waiting{more}"
    kinds = ", ".join(f"{found['kinds'][kind]} {words}" for kind, words in _KINDS.items() if found["kinds"].get(kind))
    since = f", the oldest since {run.renderer.moment(found['oldest'])}" if found["oldest"] else ""
    return f"{found['waits']} waiting ({kinds}){since}{more}"


def to_turn_on(decide: str, found: Mapping[str, Any]) -> str:
    """Say how to turn outbound mail on; mail that could not be counted may be most of what is then sent."""
    if found["waits"] or any(kind not in found["kinds"] for kind in _KINDS):
        return f"to decide: `{decide} send` (sends the waiting mail now) or `drop`"
    return f"to turn outbound mail on: `{decide} send`"


def remarks(waits: str, mail: str, *, first: str = "") -> dict[str, str]:
    """Return what the card says about waiting mail, and about what will happen to it.

    `first`: what happens without a choice, if not the rule for a tenant that was stopped.
    """
    unsaid = first or "outbound mail stays off if the tenant was down for over an hour and mail waits"
    return {"Mail": waits, **({"Proposed": CHOICE.options[mail]} if mail else {"Without a choice": unsaid})}


def counted(run: Run, host: Host, instance: str) -> str:
    """Say how much mail waits in an instance whose database runs."""
    try:
        return told(run, host.mautic.mail(instance))
    except LxdError:
        return "waiting mail cannot be counted"


def record(run: Run, host: Host, instance: str) -> None:
    """Label an instance that is about to stop with how much mail waits, because nobody can count it afterwards."""
    try:
        # A tenant that somebody wants to stop may hang.
        found = host.mautic.mail(instance, timeout=COUNTING)
    except LxdError:
        return
    host.lxd.update(instance, as_labels(mail_waits=told(run, found), mail_counted=int(run.now())))


def recorded(run: Run, config: Mapping[str, str]) -> str:
    """Say how much mail waited when the instance was stopped."""
    waited, at = label_of(config, "mail-waits"), label_of(config, "mail-counted")
    if not waited:
        return "waiting mail is counted once the tenant runs"
    return f"when stopped, {run.renderer.moment(moment_of(at))}: {waited}; mail due since then is not counted"


def settle(
    run: Run, host: Host, instance: str, mail: Mail, *, late: float = LATE, unmute: bool = False, page: bool = False
) -> str | None:
    """Carry out the choice for an instance's waiting mail, and say what was done if there was any.

    `page`: also wait inside for the login page.
    """
    done = host.mautic.release(instance, mail, late=late, batch=run.operation, unmute=unmute, page=page)
    off = done["choice"] in ("off", "back")
    config = host.lxd.instance(instance).config
    # LXD stores nothing for an instance with a full disk, so write only what is new.
    if (label_of(config, "outbound") == "off") != off or label_of(config, "mail-waits"):
        host.lxd.update(instance, as_labels(outbound="off" if off else "", mail_waits=""))
    decide = f"/mautic mail {label_of(config, 'tenant') or instance}"
    if off:
        return f"outbound mail is off; {told(run, done)}; {to_turn_on(decide, done)}"
    if done["choice"] == "drop":
        return f"{done['dropped']} dropped (to put back: `{decide} back`)"
    return f"outbound mail is on; {told(run, done)}" if done["waits"] else None


def start(run: Run, tenant: Tenant, *, urgent: bool = False) -> None:
    """Start a tenant's container, muted until `settle` or `unmute`; no effect on one that runs."""
    host = run.fleet.of(tenant)
    if not host.lxd.instance(tenant.instance).running:
        host.mautic.mute(tenant.instance)
    host.start(tenant.instance, urgent=urgent)


def unmute(run: Run, tenant: Tenant) -> None:
    """Undo, as far as possible, the mute of `start` if `settle` was not reached."""
    host = run.fleet.of(tenant)
    host.lxd.remove(tenant.instance, MUTE)
    with suppress(LxdError):
        host.mautic.restart_part(tenant.instance, "worker")


def settle_again(run: Run, tenant: Tenant, *, unmute: bool = False) -> bool:
    """Keep the mail of a tenant that runs again after a rollback from being sent, if the tenant was down for long.

    A failure must not keep the tenant offline, so it only makes this return False.
    """
    try:
        settle(run, run.fleet.of(tenant), tenant.instance, "off" if tenant.outbound_off else "", unmute=unmute)
    except LxdUnavailable:
        raise
    except LxdError as error:
        log.warning("the waiting mail of %s could not be read: %s", tenant.instance, error)
        return False
    return True


def start_again(run: Run, tenant: Tenant) -> None:
    """Start a tenant whose stop is rolled back, perhaps days later."""
    start(run, tenant, urgent=True)
    if not settle_again(run, tenant, unmute=True):
        unmute(run, tenant)
