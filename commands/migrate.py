"""`/mautic migrate`: a tenant to another host."""

from __future__ import annotations

from contextlib import suppress

from bot.fleet import Host
from bot.labels import State, stamps
from bot.lxd import AlreadyExists, LxdUnavailable
from bot.messages import kept_for, size
from bot.placement import LEAST, admit, demand_of
from bot.plan import Plan, Refused, Step
from bot.products import takes
from bot.registry import Context, TenantArgument, not_half_way, operation
from bot.steps import PROBE, patiently, probing, refuse_full
from bot.succession import Succession, present
from bot.tenants import Tenant

DOWNTIME = "2 to 5 seconds, behind a polite page"


@not_half_way
@operation
def migrate(context: Context, tenant: TenantArgument, host: str) -> Plan:
    """Move a tenant to another host: it is copied while it runs, and away only for the last difference.

    Until its page answers from the new host everything can be taken back, and is when something fails.
    """
    old = present(context, tenant)
    source, target = context.fleet.of(old), context.fleet.host(host)
    if source.name == target.name:
        raise Refused(f"`{tenant}` is on {target.name} already.")
    if old.state == State.SUSPENDED:
        raise Refused(f"`{tenant}` is suspended; `/mautic resume {tenant}` first.")
    if old.status != "Running" and old.state == State.LIVE and not context.begun:
        raise Refused(f"`{tenant}` does not run; `/mautic start {tenant}` first.")
    way_back = _way_back(context, tenant, source, target)
    refuse_full(context, old)
    move = _Move(context, old, target)
    demand = demand_of(context, old, target, move.heir.name, tenants=1)
    memory = admit(context, target, demand, f"`{tenant}` cannot move to")
    days = context.settings.retention.former_days
    return Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "host": target.name},
        summary=f"Move the tenant {tenant} from {source.name} to {target.name}",
        facts={
            "From": source.name,
            "To": target.name,
            "If it fails": f"it goes on, on {source.name}, by itself; nothing is lost",
            "Kept": f"the container on {source.name}, stopped, {kept_for(days)}",
        },
        values={"from": source.name, "to": target.name, "days": days},
        commit=PROBE,
        until_done=("If it fails",),
        # Looked at again by the first step: once it goes on, the target need not answer for there to be a plan.
        remarks={} if context.operation else _room(source, target, old) | memory | {"Expected downtime": DOWNTIME},
        demand=demand.stored(),
        steps=(
            Step("check", "Check the target", move.check),
            Step("copy", "Copy it while it runs", move.copy),
            Step("catch-up", "Copy what changed meanwhile", move.catch_up),
            Step("stop", "Close and stop it", move.stop),
            Step("last-difference", "Copy the last difference", move.last_difference),
            Step("start", "Start it there, closed, and see its page inside", move.heir.start),
            Step("change", "Open it there, and route its domain", move.heir.change),
            probing(move.heir.probe),
            Step("keep", "Keep the old container", move.keep),
        ),
        reversible=way_back,
        seconds=60,
        undo=move.undo,
    )


def _way_back(context: Context, tenant: str, source: Host, target: Host) -> str:
    """Return how it can be undone, or refuse where one product takes nothing from the other."""
    if context.operation:
        # As it was shown: once it goes on, the target need not answer for there to be a plan.
        return str(context.operations.get(context.operation).plan["reversible"])
    here, there = source.lxd.server().product, target.lxd.server().product
    if not takes(there, here):
        raise Refused(f"`{tenant}` cannot move to {target.name}: {there} takes no containers from {here}.")
    if not takes(here, there):
        return f"cannot be undone: {here} on {source.name} takes no containers from {there}"
    return f"can be undone with `migrate {tenant} {source.name}`"


def _room(source: Host, target: Host, old: Tenant) -> dict[str, str]:
    """Return what moves and what is free for it, or refuse when it does not fit.

    All that it has moves, its snapshots too, also what it shares with its blueprint.
    """
    has = source.mautic.disk(old.instance, usage=source.lxd.state(old.instance).disk).used
    if has is None:
        has = source.mautic.used(old.instance)
    moves = has + sum(one.size for one in source.lxd.snapshots(old.instance))
    space = target.lxd.pool()
    free = space.total - space.used
    if free < moves + LEAST:
        needs = f"`{old.name}` needs {size(moves)}, and {size(LEAST)} have to stay free"
        raise Refused(f"`{target.name}` has {size(free)} free; {needs}.")
    return {"Moves": f"{size(moves)}; {target.name} has {size(free)} of {size(space.total)} free"}


class _Move:
    """The steps. The snapshots `move-<operation>-<n>` are what the copies are told apart by; they go at the end."""

    def __init__(self, context: Context, old: Tenant, target: Host) -> None:
        self.context = context
        self.old = old
        self.heir = Succession(context, old, target, "migrate")
        self.source, self.target = self.heir.source, target

    def check(self) -> None:
        if not self.heir.serves():
            _room(self.source, self.target, self.old)

    def _snapshot(self, number: int) -> None:
        try:
            self.source.lxd.snapshot(self.old.instance, f"move-{self.context.operation}-{number}")
        except AlreadyExists:
            # Taken before a crash; what has changed since then is in the next one.
            return

    def copy(self) -> None:
        if self.heir.serves():
            return
        # First, as it is the source that shows whether there is anything to copy from.
        self._snapshot(1)
        if self.heir.copied(whole=False):
            return
        config, devices = self.heir.config(), self.heir.devices()
        self.target.lxd.receive(self.source.lxd, self.old.instance, self.heir.name, config=config, devices=devices)
        self.heir.copied(whole=True)

    def _refresh(self, number: int) -> None:
        if self.heir.serves():
            return
        self._snapshot(number)
        self.target.lxd.receive(
            self.source.lxd, self.old.instance, self.heir.name, config=self.heir.config(), devices={}, refresh=True
        )

    def catch_up(self) -> None:
        if not self.heir.serves():
            # LXD may spoil a copy whose refresh is cut: a retry copies anew.
            self.target.lxd.update(self.heir.name, stamps(copied=""))
        self._refresh(2)

    def stop(self) -> str | None:
        if self.heir.serves():
            return None
        self.source.lxd.update(self.old.instance, {**stamps(state=State.MOVING), "boot.autostart": "false"})
        if not self.source.lxd.instance(self.old.instance).running:
            # Neither it nor its copy may work before it is clear which of them goes on.
            self.source.mautic.seal(self.old.instance)
            return "it had been stopped"
        self.source.mautic.quiesce(self.old.instance)
        # All is on disk and nothing works any more, so that there is no peace to wait for.
        self.source.lxd.stop(self.old.instance, force=True)
        return None

    def last_difference(self) -> None:
        self._refresh(3)

    def keep(self) -> str:
        told = self.heir.keep()
        patiently(lambda: self._forget(self.target, self.heir.name))
        with suppress(LxdUnavailable):
            # They may go with it, too.
            self._forget(self.source, self.old.instance)
        return told

    def _forget(self, host: Host, instance: str) -> None:
        for snapshot in host.lxd.snapshots(instance):
            if snapshot.name.startswith(f"move-{self.context.operation}-"):
                host.lxd.delete_snapshot(instance, snapshot.name)

    def undo(self) -> str | None:
        left = self.heir.give_back()
        self._forget(self.source, self.old.instance)
        return left
