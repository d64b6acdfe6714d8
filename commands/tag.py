"""`/mautic tag`: sets the tags of a tenant, by which commands can select it."""

from __future__ import annotations

from dataclasses import dataclass

from bot.engine.context import Context, Run
from bot.engine.registry import TagWord, TenantArgument, operation, steps_of
from bot.model.labels import as_labels
from bot.model.plan import Plan, Refused, Step, Steps
from bot.model.tenants import Tenant
from bot.slack.messages import Message

MOST = 10


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from. `tags`: separated by spaces."""

    found: Tenant
    tags: str


@operation
def tag(context: Context, tenant: TenantArgument, *words: TagWord, clear: bool = False) -> Plan | Message:
    """Set the tags of a tenant, to select it by, as in `snapshot --tag vip`. Replaces earlier tags.

    Without words, shows the tags. `--clear` removes all.
    """
    found = context.fleet.tenant(tenant)
    tags = tuple(dict.fromkeys(words))
    if clear and tags:
        raise Refused("Give either tags or `--clear`, not both.")
    if len(tags) > MOST:
        raise Refused(f"Too many tags: {len(tags)}, at most {MOST}.")
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
    return Steps(
        (Step("tag", "Save the tags", lambda: lxd.update(inputs.found.instance, as_labels(tags=inputs.tags))),)
    )
