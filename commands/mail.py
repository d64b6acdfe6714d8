"""`/mautic mail`: decide on a tenant's waiting mail, and turn outbound mail on or off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.registry import TenantArgument, operation, steps_of
from bot.model.labels import as_labels, label_of
from bot.model.plan import Plan, Step, Steps, once, require
from bot.model.tenants import Tenant

What = Literal["send", "drop", "off", "back"]
_SUMMARY = {
    "send": "Send the waiting mail of tenant {}",
    "drop": "Drop the waiting mail of tenant {}",
    "off": "Turn off outbound mail of tenant {}",
    "back": "Put back the dropped mail of tenant {}",
}
_FACT = {
    "send": "waiting mail is sent now, and outbound mail is on",
    "drop": "waiting mail is not sent, and kept in the table mautic_ops_dropped; segment emails are unpublished; "
    "outbound mail is on",
    "off": "no mail is sent, and campaigns pause, until somebody decides to send or drop the waiting mail",
    "back": "dropped mail waits again as before, and outbound mail is off until somebody decides to send",
}


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from."""

    found: Tenant
    what: What


@operation
def mail(context: Context, tenant: TenantArgument, what: What) -> Plan:
    """Send or drop a tenant's waiting mail, or turn outbound mail off.

    While outbound mail is `off` all mail waits: segment emails, campaigns, messages, reports, and mail that Mautic
    would send at once. `drop` keeps the dropped mail in a table, and `back` puts that mail back.
    """
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "what": what},
        summary=_SUMMARY[what].format(tenant),
        facts={"Effect": _FACT[what]},
        values={"what": what},
        requires=(
            require(
                found.status == "Running",
                f"`{tenant}` is not running; use `/mautic start {tenant} --mail {_at_start(what)}`.",
            ),
            require(
                what != "off" or not found.outbound_off,
                f"Outbound mail of `{tenant}` is already off. `/mautic mail {tenant} send` sends the waiting mail now, "
                f"`/mautic mail {tenant} drop` does not; both turn outbound mail on.",
            ),
            once(lambda: {"Mail": outbound.counted(context, host, found.instance)}),
        ),
        inputs=Inputs(found, what),
        reversible={
            "send": "sent mail cannot be recalled",
            "drop": "can be undone with `mail … back`",
            "off": "can be undone with `mail … send`, which sends the waiting mail, or `mail … drop`",
            "back": "can be undone with `mail … drop`",
        }[what],
        seconds=3,
    )


def _at_start(what: str) -> str:
    return "off" if what == "back" else what


@steps_of(mail)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Carry out the decision on the waiting mail."""
    found, what = inputs.found, inputs.what
    host = run.fleet.of(found)

    def decide() -> str | None:
        if label_of(host.lxd.instance(found.instance).config, "mail-by") != str(run.operation):
            was = as_labels(mail_by=run.operation, was_outbound="off" if found.outbound_off else "")
            host.lxd.update(found.instance, was)
        return outbound.settle(run, host, found.instance, what)

    def undo() -> None:
        """Undo the decision, except for mail that was sent."""
        config = host.lxd.instance(found.instance).config
        if label_of(config, "mail-by") != str(run.operation):
            return
        if what == "drop":
            # Only this drop: the `send` below must not overrule earlier decisions.
            host.mautic.release(found.instance, "back", only=run.operation)
        # Mail that was put back waits now, and must not be sent by a rollback.
        stays = what == "back" or label_of(config, "was-outbound")
        outbound.settle(run, host, found.instance, "off" if stays else "send")

    return Steps((Step("decide", "Apply the decision on waiting mail", decide),), undo=undo)
