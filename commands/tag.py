"""`/mautic tag`: set the tags by which tenants are chosen."""

from __future__ import annotations

from dataclasses import dataclass

from bot.engine.context import Context, Run
from bot.engine.registry import TagWord, TenantArgument, operation, steps_of
from bot.model.labels import stamps
from bot.model.plan import Plan, Refused, Step, Steps
from bot.model.tenants import Tenant
from bot.slack.messages import Message

MOST = 10


@dataclass(frozen=True)
class Inputs:
    """`tags`: with a space between."""

    found: Tenant
    tags: str


@operation
def tag(context: Context, tenant: TenantArgument, *words: TagWord, clear: bool = False) -> Plan | Message:
    """Set a tenant's tags, to choose tenants by, as in `snapshot --tag vip`.

    The new tags replace the present ones. Without words the bot shows the tags; `--clear` removes all.
    """
    found = context.fleet.tenant(tenant)
    tags = tuple(dict.fromkeys(words))
    if clear and tags:
        raise Refused(f"Either name tags for `{tenant}` or use `--clear`, not both.")
    if len(tags) > MOST:
        raise Refused(f"{len(tags)} tags are too many; a tenant can have at most {MOST}.")
    if not tags and not clear:
        return context.renderer.message("commands/tag-shown.j2", tenant=found)
    shown = ", ".join(tags) or "none"
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "words": " ".join(tags), "clear": clear},
        summary=f"Tag tenant {tenant}",
        facts={"Tags": shown},
        remarks={"Before": ", ".join(found.tags) or "none"},
        values={"tags": " ".join(tags)},
        texts={"again": f"tag {tenant} {' '.join(tags) or '--clear'}"},
        inputs=Inputs(found, " ".join(tags)),
        reversible="can be changed again",
        seconds=1,
    )


@steps_of(tag)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Label the container."""
    lxd = run.fleet.of(inputs.found).lxd
    return Steps((Step("tag", "Save the tags", lambda: lxd.update(inputs.found.instance, stamps(tags=inputs.tags))),))
