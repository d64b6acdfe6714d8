"""`/mautic upgrade`: bring a tenant to another release of Mautic, after a rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from bot.engine.context import Context, Run
from bot.engine.cutover import Cutover
from bot.engine.on_new_base import steps_on_new_base
from bot.engine.registry import TenantArgument, call, not_half_way, operation, steps_of
from bot.engine.rehearsal import files
from bot.engine.steps import CLOSE, PROBE, away, probing, wait_for_address
from bot.engine.times import begins, planned, refuse_outside_hours, time_of
from bot.engine.upgrade_plans import UpgradeInputs, rehearse_first, upgrade_of
from bot.engine.upgrades import FRESH, WHY, archive_of, refuse_resting, rehearsed, target
from bot.guest.upgrades import Upgrades, spoiled, uncounted
from bot.lxd.protocol import LxdError
from bot.model.evidence import OF_CLIENTS
from bot.model.labels import as_labels
from bot.model.moments import spelled
from bot.model.plan import Plan, Refused, Step, Steps
from bot.slack.messages import Message


@not_half_way
@operation
def upgrade(context: Context, tenant: TenantArgument, version: str = "", *, at: str = "") -> Plan | Message:
    """Upgrade a tenant to another release of Mautic, by default the newest that it can be upgraded to.

    The upgrade is first rehearsed on a copy, at once and without approval. What the rehearsal found is on the card:
    how long clients will be away, what changes, what would break. After the approval the tenant is closed, copied, and
    the copy upgraded and switched to when its pages work; if anything fails before that, the tenant keeps running
    unchanged. `--at` is when it starts, such as `22:00`, `tomorrow 03:00` or `2026-12-01 02:00`; until then it can be
    cancelled. If the bot is down then, it starts up to an hour late, or not at all.
    """
    starts = time_of(context, at, FRESH, WHY)
    refuse_outside_hours(context, starts)
    old = context.fleet.tenant(tenant)
    host = context.fleet.of(old)
    release = target(context, old, version)
    # First, as only a tenant that runs can be asked what it consists of.
    refuse_resting(old, "upgraded")
    found = rehearsed(context, host, old, release.version, begins(context, starts))
    if found is None:
        return _rehearse(context, tenant, release.version, starts)
    return planned(context, upgrade_of(context, old, found), starts)


def _rehearse(context: Context, tenant: str, version: str, starts: float) -> Message:
    """Request the rehearsal; when it has passed, the bot requests the upgrade."""
    command = context.registry.command("rehearse")
    plan = call(command, context, {"tenant": tenant, "version": version, "offer": True})
    if not isinstance(plan, Plan):
        raise Refused("The rehearsal cannot be planned.")
    at = f" --at {spelled(starts, context.renderer.zone)}" if starts else ""
    rehearse_first(context, replace(plan, texts={**plan.texts, "upgrade": f"upgrade {tenant} {version}{at}"}))
    return context.renderer.message("commands/upgrade_rehearsing.j2", tenant=tenant, version=version)


@steps_of(upgrade)
def steps(run: Run, inputs: UpgradeInputs) -> Steps:
    """Unpack the release while the tenant serves; close the tenant, upgrade a copy, and switch when its pages work."""
    if inputs.blueprint:
        return steps_on_new_base(run, inputs, "upgrade")
    upgrading = _Upgrade(run, inputs)
    cutover = upgrading.cutover
    return Steps(
        (
            Step("stage", "Unpack the release (live)", upgrading.stage),
            Step(CLOSE, "Show maintenance page and stop", upgrading.close),
            Step("upgrade", "Take a safety snapshot and upgrade a copy", upgrading.upgrade, takes_snapshot=True),
            Step("change", "Switch traffic to the upgraded copy", cutover.switch),
            probing(upgrading.probe),
            Step("keep", "Keep the previous container", upgrading.keep),
        ),
        undo=upgrading.undo,
        commit=PROBE,
    )


class _Upgrade:
    """The steps; each looks at what is there before it acts."""

    def __init__(self, run: Run, inputs: UpgradeInputs) -> None:
        self.run = run
        self.old = inputs.old
        self.version = inputs.version
        self.rehearsed = inputs.rehearsed
        self.host = run.fleet.of(inputs.old)
        self.cutover = Cutover(run, inputs.old, self.host, "upgrade", days=inputs.days)
        self.upgrades = Upgrades(self.host.mautic)

    def stage(self) -> str | None:
        if self.cutover.serves():
            return None
        staged = self.upgrades.stage(self.old.instance, archive_of(self.run, self.version))
        note = f"unpacked in {staged['seconds']:.1f} s"
        try:
            cache = (files(self.run.settings, self.rehearsed) / "cache.tar.gz").read_bytes()
            self.upgrades.lay_cache(self.old.instance, cache)
        except (OSError, LxdError) as error:
            # Without the cache the upgrade takes longer, with the same result.
            return f"{note}; the cache is made anew: {error}"
        return note

    def close(self) -> str | None:
        return None if self.cutover.serves() else self.cutover.close()

    def _copy(self, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]) -> None:
        self.host.lxd.copy(self.old.instance, self.cutover.name, config=config, devices=devices)

    def upgrade(self) -> str | None:
        if self.cutover.serves():
            return None
        # A copy whose upgrade was interrupted is made again: no migration is tried on a half-migrated database.
        self.cutover.make(self._copy, closed=True, whole=False)
        self.cutover.boot()
        with self.cutover.resting(snapshot=True), ThreadPoolExecutor(1, "beside") as beside:
            routed = beside.submit(self._route)
            done = self.upgrades.upgrade(self.cutover.name, self.version)
            if wrong := spoiled(done):
                raise LxdError(wrong)
            routed.result()
        self.host.lxd.update(self.cutover.name, as_labels(copied=1, version=self.version))
        phases = ", ".join(f"{name} {took:.1f} s" for name, took in done["phases"].items() if took >= 0.1)
        large = uncounted(done)
        rows = f"no rows lost in {len(OF_CLIENTS) - len(large)} tables"
        return f"{phases}; {rows}" + (f", not compared (too large): {', '.join(large)}" if large else "")

    def _route(self) -> None:
        """Have the edges learn the route to the copy while it is closed: nobody waits for that once it is open."""
        wait_for_address(self.host.lxd, self.cutover.name)
        self.run.edge.apply(ahead=self.cutover.name)

    def probe(self) -> str:
        told = self.cutover.probe()
        return "; ".join([told, *away(self.run, self.run.now())])

    def keep(self) -> str:
        told = self.cutover.keep()
        with suppress(LxdError):
            # The previous release's files only take space; the previous container has them.
            self.upgrades.discard(self.cutover.name)
        return told

    def undo(self) -> str | None:
        left = self.cutover.roll_back()
        with suppress(LxdError):
            self.upgrades.discard(self.old.instance)
        told = away(self.run, self.cutover.opened_again)
        return "; ".join([left or "rolled back", *told]) if told else left
