"""`/mautic migrate`: move a tenant to another host."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from bot.engine.context import Context, Run
from bot.engine.cutover import Cutover
from bot.engine.placement import LEAST, Elsewhere, admit, demand_of
from bot.engine.registry import TenantArgument, not_half_way, operation, steps_of
from bot.engine.snapshots import let_go_on
from bot.engine.steps import PROBE, patiently, probing, refuse_full
from bot.engine.times import planned, time_of
from bot.fleet.inventory import Host, Place
from bot.lxd.products import takes
from bot.lxd.protocol import AlreadyExists, LxdUnavailable
from bot.model.labels import State, as_labels
from bot.model.plan import Plan, Refused, Step, Steps, always, once, require
from bot.model.tenants import Tenant, candidate_name
from bot.model.text import kept_for, size

DOWNTIME = "2 to 5 seconds, with a maintenance page"


@dataclass(frozen=True)
class Inputs:
    """What the steps are made from. `days`: for which the previous container is kept; 0: for ever."""

    old: Tenant
    target: Place
    days: int


@not_half_way
@operation
def migrate(context: Context, tenant: TenantArgument, host: str, *, at: str = "") -> Plan:
    """Move a tenant to another host: copied live, with some seconds of maintenance page.

    If anything fails before the login page answers on the new host, the move is rolled back automatically. `--at` is
    when the move starts, such as `22:00`, `tomorrow 03:00` or `2026-12-01 02:00`; until then it can be cancelled. If
    the bot is down then, the move starts up to an hour late, or not at all.
    """
    starts = time_of(context, at)
    old = context.fleet.tenant(tenant)
    source, target = context.fleet.of(old), context.fleet.host(host)
    demand = demand_of(context, old, target, candidate_name(tenant, context.operation), tenants=1)
    elsewhere = Elsewhere(f"/mautic migrate {tenant}", but=source.name)
    days = context.settings.retention.retired_days
    plan = Plan(
        tenant=tenant,
        arguments={"tenant": tenant, "host": target.name},
        summary=f"Move tenant {tenant} from {source.name} to {target.name}",
        facts={
            "From": source.name,
            "To": target.name,
            "Rollback": f"automatic, {tenant} keeps running on {source.name}",
            "Previous container": f"kept on {source.name}, stopped, {kept_for(days)}",
        },
        values={"from": source.name, "to": target.name, "days": days},
        until_done=("Rollback",),
        requires=(
            require(source.name != target.name, f"`{tenant}` already runs on {target.name}."),
            require(old.state != State.SUSPENDED, f"`{tenant}` is suspended; `/mautic resume {tenant}` first."),
            require(
                old.status == "Running" or old.state != State.LIVE,
                f"`{tenant}` is not running; `/mautic start {tenant}` first.",
            ),
            once(refuse_full, context, old),
            # The first step checks again.
            once(_free_space, source, target, old),
            always(admit, context, target, demand, f"`{tenant}` cannot move to", elsewhere),
            once(lambda: {"Expected downtime": DOWNTIME}),
        ),
        inputs=Inputs(old, target.place, days),
        demand=demand.stored(),
        way_back=lambda: _way_back(tenant, source, target),
        seconds=60,
        cutover="move",
    )
    return planned(context, plan, starts)


def _way_back(tenant: str, source: Host, target: Host) -> str:
    """Return how the move can be undone, or raise Refused where the target cannot import from the source."""
    here, there = source.lxd.server().product, target.lxd.server().product
    if not takes(there, here):
        raise Refused(f"`{tenant}` cannot move to {target.name}: {there} cannot import containers from {here}.")
    if not takes(here, there):
        return f"cannot be undone: {here} on {source.name} cannot import containers from {there}"
    return f"can be undone with `migrate {tenant} {source.name}`"


def _free_space(source: Host, target: Host, old: Tenant) -> dict[str, str]:
    """Return how much is copied and how much space is free, or raise Refused when the target has too little.

    The copy includes the snapshots, and what the tenant shares with its blueprint.
    """
    has = source.mautic.disk(old.instance, usage=source.lxd.state(old.instance).disk).used
    if has is None:
        has = source.mautic.used(old.instance)
    moves = has + sum(one.size for one in source.lxd.snapshots(old.instance))
    space = target.lxd.pool()
    free = space.total - space.used
    if free < moves + LEAST:
        needs = f"`{old.name}` needs {size(moves)}, and {size(LEAST)} must stay free"
        raise Refused(f"`{target.name}` has {size(free)} free; {needs}.")
    return {"To copy": f"{size(moves)}; {target.name} has {size(free)} of {size(space.total)} free"}


@steps_of(migrate)
def steps(run: Run, inputs: Inputs) -> Steps:
    """Make the candidate while the old container runs; sync the last changes when the old container is closed."""
    move = _Move(run, inputs)
    cutover = move.cutover
    return Steps(
        (
            Step("check", "Check the target host", move.check),
            Step("copy", "Copy (live)", move.copy),
            Step("catch-up", "Sync changes", move.catch_up),
            Step("stop", "Show maintenance page and stop", move.stop),
            Step("last-difference", "Final sync", move.last_difference),
            Step("start", f"Start on {move.target.name} (not public yet)", cutover.start),
            Step("change", "Switch traffic", cutover.switch),
            probing(cutover.probe),
            Step("keep", "Keep the previous container", move.keep),
        ),
        undo=move.undo,
        commit=PROBE,
    )


class _Move:
    """The steps of a move. Snapshots `move-<operation>-<n>` mark how far the copy is; the last step deletes them."""

    def __init__(self, run: Run, inputs: Inputs) -> None:
        self.run = run
        self.old = inputs.old
        self.target = run.fleet.at(inputs.target)
        self.cutover = Cutover(run, inputs.old, self.target, "migrate", days=inputs.days)

    def check(self) -> None:
        if not self.cutover.serves():
            _free_space(self.cutover.source, self.target, self.old)

    def _snapshot(self, number: int, *, closed: bool = False) -> None:
        lxd = self.cutover.source.lxd
        # A kill may have left the container frozen during a snapshot; a label tells that the bot froze it.
        let_go_on(lxd, self.old.instance)
        with suppress(AlreadyExists):
            # Taken before a crash; later changes are in the next snapshot.
            name = f"move-{self.run.operation}-{number}"
            lxd.snapshot(self.old.instance, name, config=as_labels(taken=int(self.run.now())), closed=closed)

    def _receive(self, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]], refresh: bool) -> None:
        self.target.lxd.receive(
            self.cutover.source.lxd,
            self.old.instance,
            self.cutover.name,
            config=config,
            devices=devices,
            refresh=refresh,
        )

    def copy(self) -> None:
        if self.cutover.serves():
            return
        # First, as this fails where there is no source to copy.
        self._snapshot(1)
        # Need not be closed here: the final sync comes from the closed source, and closes the candidate too.
        self.cutover.make(lambda config, devices: self._receive(config, devices, refresh=False), closed=True)

    def _refresh(self) -> None:
        self._receive(self.cutover.over(self.cutover.old_instance()), {}, refresh=True)

    def catch_up(self) -> None:
        if self.cutover.serves():
            return
        # LXD may spoil a copy whose refresh is interrupted.
        self.cutover.doubt()
        self._snapshot(2)
        self._refresh()

    def stop(self) -> str | None:
        return None if self.cutover.serves() else self.cutover.close()

    def last_difference(self) -> None:
        if self.cutover.serves():
            return
        self._snapshot(3, closed=True)
        with self.cutover.resting():
            self._refresh()

    def keep(self) -> str:
        told = self.cutover.keep()
        patiently(lambda: self._forget(self.target, self.cutover.name))
        with suppress(LxdUnavailable):
            # These snapshots are deleted with the previous container at the latest.
            self._forget(self.cutover.source, self.old.instance)
        return told

    def _forget(self, host: Host, instance: str) -> None:
        for snapshot in host.lxd.snapshots(instance):
            if snapshot.name.startswith(f"move-{self.run.operation}-"):
                host.lxd.delete_snapshot(instance, snapshot.name)

    def undo(self) -> str | None:
        left = self.cutover.roll_back()
        self._forget(self.cutover.source, self.old.instance)
        return left
