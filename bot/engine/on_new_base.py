"""Moves a tenant to a new base: its own data goes into a clone of a blueprint, which replaces its container.

This is how a tenant gets another PHP or MariaDB, and Debian's security updates. Nearly all data is brought while the
tenant serves. Once the tenant is closed, the bot brings what has changed since, and the database as it was shut down.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from bot.engine.blueprints import bring_blueprint, the_blueprint
from bot.engine.context import Run
from bot.engine.cutover import Cutover
from bot.engine.placement import inside_of
from bot.engine.rehearsal import files
from bot.engine.steps import CLOSE, PROBE, away, probing, wait_for_address
from bot.engine.upgrade_plans import UpgradeInputs
from bot.fleet.inventory import Host
from bot.guest.own import Own
from bot.guest.upgrades import Upgrades, spoiled
from bot.lxd.protocol import LxdError, edge_address
from bot.model.labels import KEY, State, as_labels, label_of
from bot.model.plan import Step, Steps
from bot.model.tenants import Tenant
from bot.model.text import size as in_words

_UPGRADED = " upgraded"
OF_BASE = ("archive", "base", "brought", "furniture", "on-demand", "recipe", "suite")
"""Labels of what a container was made of; all others belong to the tenant."""


def adopt(
    run: Run, host: Host, old: Tenant, candidate: str, *, config: Mapping[str, str], same: bool
) -> tuple[float, bool]:
    """Turn a candidate that has all of a tenant's data into the tenant; return seconds, and whether its cache is valid.

    `config`: the present configuration of the tenant's container.
    """
    done = Own(host.mautic, host.mautic).adopt(
        candidate,
        hostname=candidate,
        domain=old.domain,
        size=inside_of(run.settings, old.plan, config.get("limits.memory", "")),
        edge_address=edge_address(run.settings.lxd.subnet),
        slot=old.slot,
        since=old.created,
        off=label_of(config, "outbound") == "off",
        same=same,
    )
    return done["seconds"], done["cached"]


def steps_on_new_base(run: Run, inputs: UpgradeInputs, command: str) -> Steps:
    """Return the steps of an upgrade whose inputs name a blueprint."""
    moving = _OnNewBase(run, inputs, command)
    return Steps(
        (
            Step("blueprint", "Prepare the blueprint on the host", moving.bring_blueprint),
            Step("stage", "Copy Mautic's files and database to a new container (live)", moving.stage),
            Step(CLOSE, "Show maintenance page, copy what has changed, and stop", moving.close),
            Step("upgrade", "Take a safety snapshot and start Mautic in the new container", moving.upgrade, True),
            Step("change", "Switch traffic to the new container", moving.cutover.switch),
            probing(moving.probe),
            Step("keep", "Keep the previous container", moving.keep),
        ),
        undo=moving.undo,
        commit=PROBE,
    )


class _OnNewBase:
    """The steps of an upgrade onto a new base; each looks before it acts."""

    def __init__(self, run: Run, inputs: UpgradeInputs, command: str) -> None:
        if inputs.blueprint is None:
            raise ValueError("no blueprint")
        self.run = run
        self.old = inputs.old
        self.version = inputs.version
        self.blueprint = inputs.blueprint
        self.rehearsed = inputs.rehearsed
        self.host = run.fleet.of(inputs.old)
        self.cutover = Cutover(run, inputs.old, self.host, command, days=inputs.days)
        self.upgrades = Upgrades(self.host.mautic)
        self.is_same = inputs.version == inputs.old.version

    def bring_blueprint(self) -> None:
        if not self.cutover.serves():
            bring_blueprint(self.run, self.host, self.blueprint)

    def _clone(self, config: Mapping[str, str], devices: Mapping[str, Mapping[str, str]]) -> None:
        here = the_blueprint(self.host, self.blueprint)
        own = {
            key: value
            for key, value in self.cutover.old_instance().config.items()
            if key.startswith(("boot.autostart.", KEY)) and key.removeprefix(KEY) not in OF_BASE
        }
        lasting = as_labels(on_demand="")
        self.host.lxd.copy(
            f"{here.name}/golden", self.cutover.name, config={**own, **config, **lasting}, devices=devices
        )

    def _bring(self, *, closed: bool = False) -> str:
        own = Own(self.host.mautic, self.host.mautic)
        brought = own.bring(self.old.instance, self.cutover.name, same=self.is_same, closed=closed)
        return f"{in_words(brought.bytes)} copied in {brought.seconds:.1f} s"

    def stage(self) -> str | None:
        """Make the new container and bring nearly all data to it; the old container is not changed."""
        if self.cutover.serves():
            return None
        self.cutover.make(self._clone)
        self.cutover.boot()
        if self._is_brought():
            return None
        if not self.cutover.old_instance().running:
            # It starts closed if an earlier try has closed it.
            self.host.start(self.old.instance, urgent=True)
        return self._bring()

    def close(self) -> str | None:
        """Close the old container and bring the rest of its data; `upgrade` stops it."""
        if self.cutover.serves():
            return None
        told = None
        if not self._is_brought():
            if not self.cutover.old_instance().running:
                # It starts closed if an earlier try has closed it.
                self.host.start(self.old.instance, urgent=True)
            # From this label a retry knows that the candidate may serve already.
            self.host.lxd.update(self.old.instance, as_labels(state=State.MOVING))
            # Visitors are served until its work has ended, so the edge learns the route to the new, closed container
            # only then. The old one keeps running, because data is read from it.
            self.host.mautic.quiesce(self.old.instance)
            with ThreadPoolExecutor(1, "beside") as beside:
                routed = beside.submit(self.run.edge.apply, ahead=self.cutover.name)
                told = self._bring(closed=True)
                routed.result()
            self.host.lxd.update(self.cutover.name, as_labels(brought=self.run.operation))
        self.cutover.close()
        return told

    def _is_brought(self, how: str = "") -> bool:
        """Return whether the new container has all data of the old one, as of when that was closed.

        With `how` as _UPGRADED: and whether it is upgraded, too.
        """
        found = self.cutover.candidate()
        return found is not None and label_of(found.config, "brought") == f"{self.run.operation}{how}"

    def upgrade(self) -> str | None:
        if self.cutover.serves():
            return None
        if self.cutover.is_copied() and self._is_brought(_UPGRADED):
            # The upgrade is complete: only its record was lost to an interruption.
            with self.cutover.resting():
                self.cutover.boot()
            return None
        if not self.cutover.is_copied():
            # After an interruption in the middle of this, the container is made again: no migration resumes halfway.
            self.stage()
            self.close()
        self.cutover.doubt()
        self.cutover.boot()
        with self.cutover.resting(snapshot=True):
            note, phases = self._upgrade()
        name = self.cutover.name
        wait_for_address(self.host.lxd, name)
        self.host.lxd.update(
            name, as_labels(copied=1, version=self.version, brought=f"{self.run.operation}{_UPGRADED}")
        )
        return ", ".join([note, *(f"{phase} {took:.1f} s" for phase, took in phases.items() if took >= 0.1)])

    def _upgrade(self) -> tuple[str, Mapping[str, float]]:
        """Turn the new container into the tenant and upgrade it; return a note for people, and seconds by phase."""
        name = self.cutover.name
        config = self.cutover.old_instance().config
        took, cached = adopt(self.run, self.host, self.old, name, config=config, same=self.is_same)
        note = f"moved in {took:.1f} s"
        if not cached:
            try:
                cache = (files(self.run.settings, self.rehearsed) / "cache.tar.gz").read_bytes()
                self.upgrades.lay_cache(name, cache)
            except (OSError, LxdError) as error:
                # Without the cache, the upgrade takes longer but has the same result.
                note = f"{note}; the cache is made anew: {error}"
        done = self.upgrades.upgrade(name, self.version)
        if wrong := spoiled(done):
            raise LxdError(wrong)
        return note, done["phases"]

    def probe(self) -> str:
        told = self.cutover.probe()
        return "; ".join([told, *away(self.run, self.run.now())])

    def undo(self) -> str | None:
        left = self.cutover.roll_back()
        told = away(self.run, self.cutover.opened_again)
        return "; ".join([left or "rolled back", *told]) if told else left

    def keep(self) -> str:
        told = self.cutover.keep()
        with suppress(LxdError):
            # The files of the previous Mautic only take up space here; the previous container has them.
            self.upgrades.discard(self.cutover.name)
        return told
