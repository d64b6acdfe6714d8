"""Rehearses moving a tenant's own data into a clone of a blueprint, as `bot.engine.on_new_base` does later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bot.engine.blueprints import bring_blueprint, the_blueprint
from bot.engine.context import Run
from bot.engine.copies import Copy, ensure_closed, is_whole
from bot.engine.on_new_base import adopt
from bot.engine.rehearsal import Rehearsal
from bot.engine.steps import remove
from bot.engine.upgrade_plans import RehearsalInputs
from bot.fleet.releases import ensure_blueprint
from bot.guest.blueprint.archive import Archive
from bot.guest.own import Brought, Own
from bot.model.labels import Role, State, as_labels
from bot.model.plan import Refused
from bot.model.tenants import Tenant
from bot.model.text import size as in_words

STOP, SEND, ADOPT = "stop", "copy what has changed", "adopt"
"""The names of the times for which clients are offline, beside the phases of the upgrade itself."""


class BaseRehearsal(Rehearsal):
    """The steps of such a rehearsal, with two copies: the tenant as it is, and as it will be.

    Both are closed and have no network. A step of its own finds or builds the blueprint of the second.
    """

    def __init__(self, run: Run, inputs: RehearsalInputs, archive: Callable[[], Archive]) -> None:
        super().__init__(run, inputs.found, inputs.version, archive, offer=inputs.offer)
        self.newer = inputs.newer
        self.after = f"{self.name}-new"
        self.is_same = inputs.version == inputs.found.version
        self._new = Copy(self.host.lxd, self.after, run.operation)

    def find_blueprint(self) -> str:
        """Find the blueprint, or build it, which takes minutes, and bring it to the tenant's host."""
        notes: list[str] = []
        settings = self.run.settings
        found = ensure_blueprint(
            self.run.fleet, settings, self.version, notes.append, current=True, newer=self.newer, since=self.old.suite
        )
        self._note(blueprint=found.instance)
        bring_blueprint(self.run, self.host, found)
        return f"{found.instance}{', built' if notes else ''}"

    def _blueprint(self) -> Tenant:
        name = self._notes()["blueprint"]
        for one in self.run.fleet.inventory(Role.BLUEPRINT).tenants:
            if one.instance == name:
                return one
        raise Refused(f"The blueprint `{name}` is gone; rehearse again.")

    def clone(self) -> None:
        """Copy the tenant, and do not count the time: the real upgrade makes no such copy."""
        super().clone()
        self._note(seconds={})

    def must_have_release(self) -> None:
        """Raise Refused if the blueprint is gone; it has the release, so the archive is not needed here."""
        self._blueprint()

    def stage(self) -> str:
        """Record what the copy is like, make the new container, and bring nearly all data to it."""
        with self._kept("stage"):
            self._look()
            brought = self._bring_most()
        return f"{in_words(brought.bytes)} copied in {brought.seconds:.1f} s"

    def _bring_most(self) -> Brought:
        self._new.make(self._clone_blueprint)
        self.host.start(self.after)
        return self._bring()

    def _bring(self, *, closed: bool = False) -> Brought:
        own = Own(self.host.mautic, self.host.mautic)
        return own.bring(self.name, self.after, same=self.is_same, closed=closed)

    def _clone_blueprint(self) -> None:
        here = the_blueprint(self.host, self._blueprint())
        old = self.host.lxd.instance(self.old.instance)
        limits = {key: value for key, value in old.config.items() if key.startswith("limits.")}
        mark = as_labels(role=Role.REHEARSAL, state=State.MOVING, operation=self.run.operation, copied="", on_demand="")
        # These labels are the tenant's: the blueprint's release is only staged so far.
        mark |= as_labels(version=self.old.version, tenant=self.old.name, domain=self.old.domain, plan=self.old.plan)
        config = {**limits, **mark, "boot.autostart": "false", "security.protection.delete": "true"}
        devices = {"root": dict(old.devices["root"]), "eth0": {"type": "none"}}
        self.host.lxd.copy(f"{here.name}/golden", self.after, config=config, devices=devices)
        ensure_closed(self.host, self.after)

    def upgrade(self) -> str:
        """Bring what has changed, as the real upgrade will, and upgrade; raises LxdError if that fails."""
        with self._kept("upgrade"):
            self.host.start(self.name)
            found = self._new.found()
            if found is None or not is_whole(found):
                # After an interruption in the middle of this, the new container is made again.
                self._bring_most()
            with self._timed(STOP):
                self.host.mautic.quiesce(self.name)
            with self._timed(SEND):
                self._bring(closed=True)
            self._new.doubt()
            config = self.host.lxd.instance(self.old.instance).config
            with self._timed(ADOPT):
                adopt(self.run, self.host, self.old, self.after, config=config, same=self.is_same)
        return super().upgrade()

    def told(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
        """See `Rehearsal.told`."""
        blueprint = self._blueprint()
        return {
            "blueprint": blueprint.instance,
            "base": blueprint.base,
            "php": (before["php"], after["php"]),
            "mariadb": (before["mariadb"], after["mariadb"]),
            # Files changed by hand are carried over if the release stays the same.
            **({"overwritten": (), "changed": 0} if self.is_same else {}),
        }

    def clean(self) -> None:
        """Delete both copies, and the files that only the rehearsal needed."""
        if self._new.found() is not None:
            remove(self.host.lxd, self.after)
        super().clean()
