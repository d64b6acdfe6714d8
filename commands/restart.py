"""`/mautic restart`: a tenant, or one part of it, starts anew."""

from __future__ import annotations

from typing import Literal

from bot import containment
from bot.labels import State
from bot.plan import Plan, Refused, Step
from bot.registry import Context, TenantsArgument, operation
from bot.selection import Selection, batch
from bot.steps import PROBE, probing, refuse_full, see_login_page, wait_for_address

Part = Literal["all", "worker", "cron", "web", "database"]


@operation
def restart(
    context: Context,
    tenant: TenantsArgument = "",
    *,
    part: Part = "all",
    all: bool = False,
    host: str = "",
    size: str = "",
    tag: str = "",
) -> Plan:
    """Restart a tenant's container, or with `--part` only its workers, crons, web server or database.

    Of several tenants, named with commas between or chosen by `--all`, `--host`, `--size` or `--tag`, one request does
    each in its turn; those that do not run are left out.
    """
    selection = Selection(tenant, all, host, size, tag)
    if selection.one:
        return _restart(context, tenant, part)
    doing = "Restart" if part == "all" else f"Restart the {part} of"
    return batch(
        context,
        "restart",
        selection,
        lambda context, name: _restart(context, name, part),
        doing=doing,
        arguments={"part": part},
    )


def _restart(context: Context, tenant: str, part: Part) -> Plan:
    found = context.fleet.tenant(tenant)
    host = context.fleet.of(found)
    if found.status != "Running" and not context.operation:
        raise Refused(f"`{tenant}` does not run; `/mautic start {tenant}` starts it.")
    refuse_full(context, found)

    def again() -> str | None:
        if part != "all":
            host.mautic.restart_part(found.instance, part)
            return None
        # Cut in the middle it may be stopped.
        how = containment.stop(host.lxd, found.instance)
        host.start(found.instance, urgent=True)
        wait_for_address(host.lxd, found.instance)
        return how

    def route() -> str:
        context.edge.apply()
        if found.state == State.SUSPENDED:
            return "it is still suspended"
        return see_login_page(context.edge, found.domain)

    def undo() -> None:
        host.start(found.instance, urgent=True)
        wait_for_address(host.lxd, found.instance)
        context.edge.apply()

    what = "the container" if part == "all" else f"its {part}"
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "part": part},
        summary=f"Restart the tenant {tenant}" if part == "all" else f"Restart the {part} of the tenant {tenant}",
        facts={"Address": context.settings.edge.url(found.domain)},
        values={"address": context.settings.edge.url(found.domain), "part": part},
        commit=PROBE,
        steps=(Step("restart", f"Restart {what}", again), probing(route)),
        reversible="changes nothing that lasts",
        seconds=5,
        undo=undo,
        host=host.name,
    )
