"""`/mautic restore`: a tenant as it was at a snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches

from bot.engine import outbound
from bot.engine.context import Context, Run
from bot.engine.cutover import Cutover
from bot.engine.outbound import MailOption
from bot.engine.placement import admit, demand_of
from bot.engine.registry import TenantArgument, not_half_way, operation, steps_of
from bot.engine.snapshots import ours
from bot.engine.steps import PROBE, probing, refuse_another, refuse_full
from bot.fleet.inventory import Host
from bot.guest.mautic import Mail
from bot.lxd.protocol import LxdError, Snapshot
from bot.model.labels import Role, State, stamp
from bot.model.plan import Plan, Step, Steps, UnknownWords, always, once, require
from bot.model.tenants import PlanSize, Tenant, candidate_name
from bot.model.text import kept_for
from bot.store.samples import DAY

_COUNTED = {"contacts": "contact", "submissions": "submission", "opt_outs": "opt-out"}


@dataclass(frozen=True)
class Inputs:
    """`source` is the instance that has the snapshot. `size`: today's, where the snapshot was of another; or None.

    `mail`: what becomes of the mail that waits in the snapshot. `rests`: the tenant stands still on purpose. `days`:
    for which what there is now is kept.
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
    """Bring a tenant back to a snapshot: what was changed since then is lost to it, and kept beside it for a while.

    A snapshot of now comes first. The old state starts in a new container beside the present one, is tried there, and
    takes its place only when it works; the present one is then kept, stopped. The approver types the tenant's name.
    Mail that waited in the snapshot, and may have been sent since, is sent, dropped (and kept in a table) or stays off
    as the approver chooses, or `--mail` proposes; without a choice it stays off if any waits.
    """
    old = context.fleet.tenant(tenant)
    host = context.fleet.of(old)
    source, chosen = _find(context, host, old, snapshot)
    rests = old.stopped and old.status != "Running"
    plan = context.settings.plans.get(old.plan)
    # Both run for a while.
    demand = demand_of(context, old, host, candidate_name(tenant, context.operation), beside=not rests)
    days = context.settings.retention.former_days
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "snapshot": chosen.name, "mail": mail},
        summary=f"Restore the tenant {tenant}",
        facts={
            "To the snapshot": chosen.name,
            "Taken": context.renderer.moment(chosen.created),
            **({"Runs": "it is stopped now, and runs afterwards"} if rests else {}),
            "Kept": f"a snapshot of now; and the present container, stopped, {kept_for(days)}",
            "If it fails": f"the present container {'stays' if rests else 'goes on'} as it is",
        },
        values={"snapshot": chosen.name, "taken": chosen.created, "rests": rests, "days": days},
        until_done=("If it fails", "Runs"),
        requires=(
            always(refuse_another, context, old),
            require(old.state != State.SUSPENDED, f"`{tenant}` is suspended; `/mautic resume {tenant}` first."),
            once(refuse_full, context, old),
            once(_loss, host, old, chosen),
            once(_mail, context, host, old, chosen, mail),
            once(_left, context, host, old),
            always(admit, context, host, demand, f"The old state of `{tenant}` cannot start beside the present one on"),
        ),
        inputs=Inputs(
            old,
            source,
            chosen.name,
            # The limits are today's; what is inside was that day's.
            plan if stamp(chosen.config, "plan") != old.plan else None,
            # Whoever decided that it sends nothing decided it of the tenant, not of one of its containers.
            mail or ("off" if old.outbound_off else ""),
            rests,
            days,
        ),
        demand=demand.stored(),
        choice=outbound.CHOICE,
        reversible="can be undone with `restore` to the snapshot of now",
        seconds=20,
        cutover="restore",
    )


def _find(context: Context, host: Host, old: Tenant, name: str) -> tuple[str, Snapshot]:
    """Return the instance that has the snapshot (the tenant's, or a former one of it on its host), and the snapshot."""
    offered = host.lxd.snapshots(old.instance)
    for found in offered:
        if found.name == name:
            return old.instance, found
    for former in context.fleet.look(Role.FORMER).tenants:
        if (former.name, former.host) == (old.name, old.host) and former.instance != old.instance:
            for found in host.lxd.snapshots(former.instance):
                if found.name == name:
                    return former.instance, found
    near = get_close_matches(name, [one.name for one in offered], n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"`/mautic snapshots {old.name}` lists them."
    raise UnknownWords(f"`{old.name}` has no snapshot “{name[:60]}”; {hint}")


def _left(context: Context, host: Host, old: Tenant) -> dict[str, str]:
    """Return how long the snapshots of before can still be had, in words."""
    left = ours(host.lxd.snapshots(old.instance))
    if not left:
        return {}
    days = context.settings.retention.former_days
    until = context.renderer.moment(context.now() + days * DAY) if days else "it is purged"
    if any(one.keep for one in left):
        until = "somebody purges it, as some of them are protected"
    return {"Snapshots so far": f"{len(left)}, which stay in the present container until {until}"}


def _mail(context: Context, host: Host, old: Tenant, chosen: Snapshot, mail: str) -> dict[str, str]:
    """Return what may go out a second time: what came due since then, and what the snapshot had waiting.

    That of the snapshot can be counted only once it runs; Mautic calls a mail sent when it is put into the queue.
    """
    try:
        now = host.mautic.mail(old.instance, since=chosen.created)
        sent, waits = now["sent"], outbound.told(context, now)
        words = f"{sent} sent since then may go out again, and so may what waited in the snapshot; now {waits}"
    except LxdError:
        words = (
            "what was sent since then may go out again, and so may what waited in the snapshot; it cannot be counted"
        )
    unsaid = "if any waits in the snapshot it stays, with outbound mail off"
    return outbound.remarks(words, mail, first=unsaid)


def _loss(host: Host, old: Tenant, chosen: Snapshot) -> dict[str, str]:
    """Return what the tenant will lose, in words."""
    try:
        counts = host.mautic.counts(old.instance, since=chosen.created)
    except LxdError:
        return {"Will be lost": "what was changed since then; it cannot be counted, as it does not run"}
    told = ", ".join(f"{counts[name]} {word}{'' if counts[name] == 1 else 's'}" for name, word in _COUNTED.items())
    return {"Will be lost": f"what was changed since then: {told}"}


@steps_of(restore)
def steps(run: Run, inputs: Inputs) -> Steps:
    """The candidate is made of the snapshot, beside the old one, which is silent from the switch on."""
    old = inputs.old
    host = run.fleet.of(old)
    cutover = Cutover(run, old, host, "restore", days=inputs.days, rests=inputs.rests)

    def copy(config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]) -> None:
        host.lxd.copy(f"{inputs.source}/{inputs.snapshot}", cutover.name, config=config, devices=devices)

    def beside() -> str:
        """All at once that leaves the other alone, as somebody waits for it."""
        with ThreadPoolExecutor(2, "beside") as threads:
            of_now = threads.submit(cutover.snapshot)
            cutover.make(copy)
            cutover.boot()
            of_mail = threads.submit(settle_mail)
            cutover.await_page()
            if inputs.size:
                host.mautic.resize(cutover.name, inputs.size)
            return "; ".join(filter(None, (of_now.result(), of_mail.result())))

    def settle_mail() -> str | None:
        # Before anybody is turned away, and while nothing works in it: it stays mute when it is not closed any more.
        if cutover.serves():
            return None
        host.mautic.mute(cutover.name)
        return outbound.settle(run, host, cutover.name, inputs.mail, late=0)

    def change() -> None:
        cutover.silence()
        cutover.switch()

    start = "Take a snapshot of now, and start the old state beside it, closed"
    return Steps(
        (
            Step("beside", start, beside, takes_snapshot=True),
            Step("change", "Put it in place", change),
            probing(cutover.probe),
            Step("keep", "Keep what was there before", cutover.keep),
        ),
        undo=cutover.roll_back,
        commit=PROBE,
    )
