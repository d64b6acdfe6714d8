"""`/mautic mail`: what becomes of a tenant's mail that waits, and whether it sends any."""

from __future__ import annotations

from typing import Literal

from bot import outbound
from bot.labels import stamp, stamps
from bot.plan import Plan, Refused, Step
from bot.registry import Context, TenantArgument, operation

_SUMMARY = {
    "send": "Send what mail waits in the tenant {}",
    "drop": "Drop what mail waits in the tenant {}",
    "off": "Turn outbound mail of the tenant {} off",
    "back": "Put the dropped mail of the tenant {} back",
}
_FACT = {
    "send": "what waits goes out now, and outbound mail is on",
    "drop": "what waits goes out no more, and is kept in the table mautic_ops_dropped; segment emails are unpublished; "
    "outbound mail is on",
    "off": "nothing is sent, and campaigns stand still, until this command says `send` or `drop`",
    "back": "what was dropped waits again where it was, and outbound mail is off until this command says `send`",
}


@operation
def mail(context: Context, tenant: TenantArgument, what: Literal["send", "drop", "off", "back"]) -> Plan:
    """Decide on the mail that waits in a tenant: send it, drop it, or hold all mail back.

    While outbound mail is `off` nothing is sent: no segment emails, campaigns, messages or reports, and nothing of what
    Mautic sends at once either; all of it waits. `drop` keeps what it takes away in a table, and `back` puts it back.
    """
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    if found.status != "Running" and not context.begun:
        raise Refused(f"`{tenant}` does not run; `/mautic start {tenant} --mail {_at_start(what)}` starts it so.")
    if what == "off" and found.outbound_off and not context.operation:
        raise Refused(f"Outbound mail of `{tenant}` is off already; `/mautic mail {tenant} send` turns it on.")

    def decide() -> str | None:
        if stamp(host.lxd.instance(found.instance).config, "mail-by") != str(context.operation):
            was = stamps(mail_by=context.operation, was_outbound="off" if found.outbound_off else "")
            host.lxd.update(found.instance, was)
        return outbound.settle(context, host, found.instance, what)

    def undo() -> None:
        """Let it be as it was, as far as what was sent can be."""
        config = host.lxd.instance(found.instance).config
        if stamp(config, "mail-by") != str(context.operation):
            return
        if what == "drop":
            # Of earlier ones somebody decided, and a `send` below is not to overrule that.
            host.mautic.release(found.instance, "back", only=context.operation)
        # What was put back waits by now, and is not to go out for the sake of how it was.
        stays = what == "back" or stamp(config, "was-outbound")
        outbound.settle(context, host, found.instance, "off" if stays else "send")

    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "what": what},
        summary=_SUMMARY[what].format(tenant),
        facts={"So": _FACT[what]},
        values={"what": what},
        remarks={} if context.operation else {"Mail": outbound.counted(context, host, found.instance)},
        steps=(Step("decide", "Decide on the mail that waits", decide),),
        reversible={
            "send": "what is sent cannot be taken back",
            "drop": "can be undone with `mail … back`",
            "off": "can be undone with `mail … send`",
            "back": "can be undone with `mail … drop`",
        }[what],
        seconds=3,
        undo=undo,
    )


def _at_start(what: str) -> str:
    return "off" if what == "back" else what
