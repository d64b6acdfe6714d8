"""`/mautic tag`: sets the tags of a tenant, by which commands can select it."""

from __future__ import annotations

from bot.labels import stamps
from bot.messages import Message
from bot.plan import Plan, Refused, Step
from bot.registry import Context, TagWord, TenantArgument, operation

MOST = 10


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
    lxd = context.fleet.of(found).lxd
    shown = ", ".join(tags) or "none"
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "words": " ".join(tags), "clear": clear},
        summary=f"Tag tenant {tenant}",
        facts={"Tags": shown},
        remarks={"Before": ", ".join(found.tags) or "none"},
        values={"tags": " ".join(tags)},
        texts={"again": f"tag {tenant} {' '.join(tags) or '--clear'}"},
        steps=(Step("tag", "Set the tags", lambda: lxd.update(found.instance, stamps(tags=" ".join(tags)))),),
        reversible="can be changed again",
        seconds=1,
    )
