"""`/mautic restart`: restart a tenant, or one part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bot.engine.context import Context, Run
from bot.engine.registry import TenantsArgument, operation, steps_of
from bot.engine.selection import Selection, batch
from bot.engine.steps import PROBE, probing, refuse_full, see_login_page, wait_for_address
from bot.fleet import containment
from bot.model.labels import State
from bot.model.plan import Plan, Step, Steps, once, require
from bot.model.tenants import Tenant

Part = Literal["all", "worker", "cron", "web", "database"]
_PARTS = {
    "all": "the container",
    "worker": "the mail workers",
    "cron": "the cron jobs",
    "web": "the web server",
    "database": "the database",
}


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from."""

    found: Tenant
    part: Part


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
    """Restart a tenant, or with `--part` only its mail workers, cron jobs, web server or database.

    To restart several tenants with one request, name them with commas between, or choose them with `--all`, `--host`,
    `--size` or `--tag`; tenants that are not running are left out.
    """
    selection = Selection(tenant, all, host, size, tag)
    if selection.one:
        return _restart(context, tenant, part)
    doing = "Restart" if part == "all" else f"Restart {_PARTS[part]} of"
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
    runs = found.status == "Running"
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "part": part},
        summary=f"Restart tenant {tenant}" if part == "all" else f"Restart {_PARTS[part]} of tenant {tenant}",
        facts={"Address": context.settings.edge.url(found.domain)},
        values={"address": context.settings.edge.url(found.domain), "part": part},
        requires=(
            # A tenant that crashed since the request is started; one that somebody stopped is not.
            require(runs, f"`{tenant}` is not running; use `/mautic start {tenant}`.", again=False),
            require(runs or not found.stopped, f"`{tenant}` was stopped; use `/mautic start {tenant}`."),
            once(refuse_full, context, found),
        ),
        inputs=Inputs(found, part),
        reversible="no lasting change",
        seconds=5,
        host=found.host,
    )


@steps_of(restart)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Restart the container or the part, and check the login page."""
    found, part = inputs.found, inputs.part
    host = run.fleet.of(found)

    def again() -> str | None:
        if part != "all":
            host.mautic.restart_part(found.instance, part)
            return None
        # An earlier try may have left the container stopped.
        how = containment.stop(host.lxd, found.instance)
        host.start(found.instance, urgent=True)
        wait_for_address(host.lxd, found.instance)
        return how

    def route() -> str:
        run.edge.apply()
        if found.state == State.SUSPENDED:
            return "still suspended"
        return see_login_page(run.edge, found.domain)

    def undo() -> None:
        host.start(found.instance, urgent=True)
        wait_for_address(host.lxd, found.instance)
        run.edge.apply()

    return Steps((Step("restart", f"Restart {_PARTS[part]}", again), probing(route)), undo=undo, commit=PROBE)
