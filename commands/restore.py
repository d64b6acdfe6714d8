"""`/mautic restore`: restore a tenant to a snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.cutover import Cutover
from bot.engine.outbound import MailOption
from bot.engine.placement import Elsewhere, admit, demand_of
from bot.engine.registry import TenantArgument, not_half_way, operation, steps_of
from bot.engine.snapshots import left_behind
from bot.engine.steps import PROBE, probing, refuse_another, refuse_full, wait_for_address
from bot.fleet.inventory import Host
from bot.guest.mautic import Mail
from bot.lxd.protocol import LxdError, Snapshot
from bot.model.labels import Role, State, label_of
from bot.model.plan import Plan, Step, Steps, UnknownWords, always, once, require
from bot.model.tenants import PlanSize, Tenant, candidate_name
from bot.model.text import kept_for

_COUNTED = {"contacts": "contact", "submissions": "form submission", "opt_outs": "unsubscribe"}


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from. `source`: the instance that has the snapshot.

    `size`: the sizes of today's plan, where the snapshot is of another plan; else None. `mail`: what happens to the
    mail that waits in the snapshot. `rests`: the tenant is stopped on purpose. `days`: for which the previous container
    is kept.
    """

    old: Tenant
    source: str
    snapshot: str
    size: PlanSize | None
    mail: Mail
    rests: bool
    days: int


@not_half_way
@operation
def restore(context: Context, tenant: TenantArgument, snapshot: str, *, mail: MailOption = "") -> Plan:
    """Restore a tenant to a snapshot; changes made since then are only in the previous container.

    The bot starts the restored copy beside the current container, and switches traffic only when the copy works. The
    previous container is kept, stopped, with a safety snapshot of its last moment. The approver types the tenant's name
    and decides on mail that waited in the snapshot and may have been sent since: send, drop (kept in a table) or leave
    outbound mail off. `--mail` proposes one of these; without a choice outbound mail stays off if any mail waits.
    """
    old = context.fleet.tenant(tenant)
    host = context.fleet.of(old)
    source, chosen = _find(context, host, old, snapshot)
    rests = old.stopped and old.status != "Running"
    plan = context.settings.plans.get(old.plan)
    # Both containers run for a while.
    demand = demand_of(context, old, host, candidate_name(tenant, context.operation), beside=not rests)
    # Snapshots of previous containers do not move with a tenant.
    elsewhere = Elsewhere.by_move(old) if source == old.instance else None
    days, version = context.settings.retention.retired_days, label_of(chosen.config, "version") or old.version
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "snapshot": chosen.name, "mail": mail},
        summary=f"Restore tenant {tenant}",
        facts={
            "Snapshot": chosen.name,
            "Taken": context.renderer.moment(chosen.created),
            **({"Mautic": f"{version} again, not {old.version}"} if version != old.version else {}),
            **({"Afterwards": f"{tenant} runs (stopped now)"} if rests else {}),
            "Safety snapshot": "of the previous container, with all changes until the switch",
            "Previous container": f"kept, stopped, {kept_for(days)}",
            "Rollback": "automatic" + ("" if rests else f", {tenant} keeps running in the current container"),
        },
        values={"snapshot": chosen.name, "taken": chosen.created, "rests": rests, "days": days},
        first=("Data loss",),
        until_done=("Rollback", "Afterwards"),
        requires=(
            always(refuse_another, context, old),
            require(old.state != State.SUSPENDED, f"`{tenant}` is suspended; `/mautic resume {tenant}` first."),
            once(refuse_full, context, old),
            once(_loss, host, old, chosen),
            once(_mail, context, host, old, chosen, mail),
            once(left_behind, context, old),
            always(admit, context, host, demand, f"The restored copy of `{tenant}` cannot start on", elsewhere),
        ),
        inputs=Inputs(
            old,
            source,
            chosen.name,
            # The limits are of today; the sizes inside are of the day of the snapshot.
            plan if label_of(chosen.config, "plan") != old.plan else None,
            # Outbound mail was turned off for the tenant, not for one of its containers.
            mail or ("off" if old.outbound_off else ""),
            rests,
            days,
        ),
        demand=demand.stored(),
        choice=outbound.CHOICE,
        reversible="can be undone with `restore` to the safety snapshot",
        seconds=20,
        cutover="restore",
    )


def _find(context: Context, host: Host, old: Tenant, name: str) -> tuple[str, Snapshot]:
    """Return the instance that has the snapshot (the tenant's, or a retired one on its host), and the snapshot."""
    offered = host.lxd.snapshots(old.instance)
    for found in offered:
        if found.name == name:
            return old.instance, found
    for former in context.fleet.inventory(Role.RETIRED).tenants:
        if (former.name, former.host) == (old.name, old.host) and former.instance != old.instance:
            for found in host.lxd.snapshots(former.instance):
                if found.name == name:
                    return former.instance, found
    near = get_close_matches(name, [one.name for one in offered], n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"`/mautic snapshots {old.name}` lists them."
    raise UnknownWords(f"`{old.name}` has no snapshot “{name[:60]}”; {hint}")


def _mail(context: Context, host: Host, old: Tenant, chosen: Snapshot, mail: str) -> dict[str, str]:
    """Return which mail may be sent twice: what was sent since the snapshot, and what waited in the snapshot.

    The latter can be counted only once the copy runs; Mautic calls mail sent when it is put into the queue.
    """
    waiting = "e-mails that were waiting when it was taken"
    again = f"sent since the snapshot may be sent again, and so may {waiting}"
    try:
        now = host.mautic.mail(old.instance, since=chosen.created)
        sent, waits = now["sent"], outbound.told(context, now)
        twice = f"{sent} e-mail{'' if sent == 1 else 's'} {again}" if sent else f"{waiting} may be sent again"
        words = f"{twice}. Now: {waits}"
    except LxdError:
        words = f"e-mails {again} (cannot be counted now)"
    unsaid = "outbound mail stays off if mail waits in the snapshot"
    return outbound.remarks(words, mail, first=unsaid)


def _loss(host: Host, old: Tenant, chosen: Snapshot) -> dict[str, str]:
    """Return what the tenant will lose, in words."""
    try:
        counts = host.mautic.counts(old.instance, since=chosen.created)
    except LxdError:
        why = "" if old.running else f"{old.name} is stopped, so it "
        return {"Data loss": f":warning: everything since the snapshot ({why}cannot be counted)"}
    told = ", ".join(f"{counts[name]} {word}{'' if counts[name] == 1 else 's'}" for name, word in _COUNTED.items())
    return {"Data loss": f":warning: {told} since the snapshot"}


@steps_of(restore)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Make the candidate from the snapshot beside the old container, which is silenced at the switch."""
    old = inputs.old
    host = run.fleet.of(old)
    cutover = Cutover(run, old, host, "restore", days=inputs.days, rests=inputs.rests)

    def copy(config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]) -> None:
        host.lxd.copy(f"{inputs.source}/{inputs.snapshot}", cutover.name, config=config, devices=devices)

    def beside() -> str | None:
        """Prepare the candidate in one step that leaves the old container alone, as a person waits for it."""
        cutover.make(copy, whole=False)
        cutover.boot()
        if cutover.serves():
            cutover.await_page()
            of_mail = None
        else:
            # Nothing runs in the candidate while it is closed, and it stays mute when it is opened.
            of_mail = outbound.settle(run, host, cutover.name, inputs.mail, late=0, page=True)
            wait_for_address(host.lxd, cutover.name)
        if inputs.size:
            host.mautic.resize(cutover.name, inputs.size)
        return of_mail

    return Steps(
        (
            Step("beside", "Start the restored copy", beside),
            Step("change", "Switch traffic to the restored copy", cutover.switch_beside),
            probing(cutover.probe),
            Step(
                "keep",
                "Keep the previous container with a safety snapshot",
                cutover.keep_with_snapshot,
                takes_snapshot=True,
            ),
        ),
        undo=cutover.roll_back,
        commit=PROBE,
    )
