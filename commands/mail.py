"""`/mautic mail`: what becomes of a tenant's mail that waits, and whether it sends any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.registry import TenantArgument, operation, steps_of
from bot.model.labels import stamp, stamps
from bot.model.plan import Plan, Step, Steps, once, require
from bot.model.tenants import Tenant

What = Literal["send", "drop", "off", "back"]
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


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from."""

    found: Tenant
    what: What


@operation
def mail(context: Context, tenant: TenantArgument, what: What) -> Plan:
    """Decide on the mail that waits in a tenant: send it, drop it, or hold all mail back.

    While outbound mail is `off` nothing is sent: no segment emails, campaigns, messages or reports, and nothing of what
    Mautic sends at once either; all of it waits. `drop` keeps what it takes away in a table, and `back` puts it back.
    """
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "what": what},
        summary=_SUMMARY[what].format(tenant),
        facts={"So": _FACT[what]},
        values={"what": what},
        requires=(
            require(
                found.status == "Running",
                f"`{tenant}` does not run; `/mautic start {tenant} --mail {_at_start(what)}` starts it so.",
            ),
            require(
                what != "off" or not found.outbound_off,
                f"Outbound mail of `{tenant}` is off already; `/mautic mail {tenant} send` turns it on.",
            ),
            once(lambda: {"Mail": outbound.counted(context, host, found.instance)}),
        ),
        inputs=Inputs(found, what),
        reversible={
            "send": "what is sent cannot be taken back",
            "drop": "can be undone with `mail … back`",
            "off": "can be undone with `mail … send`",
            "back": "can be undone with `mail … drop`",
        }[what],
        seconds=3,
    )


def _at_start(what: str) -> str:
    return "off" if what == "back" else what


@steps_of(mail)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Do with what waits as was decided."""
    found, what = inputs.found, inputs.what
    host = run.fleet.of(found)

    def decide() -> str | None:
        if stamp(host.lxd.instance(found.instance).config, "mail-by") != str(run.operation):
            was = stamps(mail_by=run.operation, was_outbound="off" if found.outbound_off else "")
            host.lxd.update(found.instance, was)
        return outbound.settle(run, host, found.instance, what)

    def undo() -> None:
        """Let it be as it was, as far as what was sent can be."""
        config = host.lxd.instance(found.instance).config
        if stamp(config, "mail-by") != str(run.operation):
            return
        if what == "drop":
            # Of earlier ones somebody decided, and a `send` below is not to overrule that.
            host.mautic.release(found.instance, "back", only=run.operation)
        # What was put back waits by now, and is not to go out for the sake of how it was.
        stays = what == "back" or stamp(config, "was-outbound")
        outbound.settle(run, host, found.instance, "off" if stays else "send")

    return Steps((Step("decide", "Decide on the mail that waits", decide),), undo=undo)
