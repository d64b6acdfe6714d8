"""Reconstructs the inputs of operations that were begun by releases of the bot which did not store inputs.

The module does not change any more, because it reads what those releases left in the field. A release that stores
inputs never needs it for operations that it began itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from bot.fleet.inventory import Fleet, only
from bot.lxd.protocol import LxdUnavailable
from bot.model.labels import Role, State, label_of
from bot.model.plan import Refused
from bot.model.tenants import Tenant, candidate_name
from bot.settings import Settings
from bot.store.operation import SYSTEM, Operation


def of(fleet: Fleet, settings: Settings, operation: Operation) -> Any:
    """Return the inputs of an operation as they would have been stored; None for a command that had none then.

    Raises Refused and LxdError.
    """
    find = INPUTS.get(operation.command)
    return msgspec.to_builtins(find(_Begun(fleet, settings, operation))) if find else None


@dataclass(frozen=True)
class _Begun:
    fleet: Fleet
    settings: Settings
    operation: Operation

    @property
    def arguments(self) -> Mapping[str, Any]:
        return self.operation.arguments

    @property
    def values(self) -> Mapping[str, Any]:
        values: Mapping[str, Any] = self.operation.plan["values"]
        return values

    def days(self) -> int:
        return int(self.values.get("days", self.settings.retention.retired_days))

    def tenant(self) -> Tenant:
        """Return the tenant's container, which the operation has not replaced, renamed or archived."""
        return self.fleet.tenant(self.operation.tenant)

    def own(self) -> Tenant:
        """Return the container that is labelled with the operation, or that it is about to archive or bring back."""
        roles = (Role.TENANT, Role.ARCHIVED)
        its = [one for one in self.fleet.all(*roles) if one.name == self.operation.tenant]
        mine = [one for one in its if one.operation == str(self.operation.id)]
        before = Role.TENANT if self.operation.command == "delete" else Role.ARCHIVED
        found = mine or [one for one in its if one.role == before]
        return only(found) if found else self.fleet.tenant(self.operation.tenant, [])

    def replaced(self) -> Tenant:
        """Return the container that the operation replaces, or has replaced."""
        name, number = self.operation.tenant, self.operation.id
        seen = self.fleet.inventory(Role.TENANT, Role.RETIRED)
        candidate = candidate_name(name, number)
        there = [one for one in seen.tenants if one.name == name and one.instance != candidate]
        if held := [one for one in there if one.role == Role.TENANT or one.replaced_in == number]:
            return only(held)
        for why in seen.silent.values():
            if self.operation.committed:
                return self._as_the_candidate_tells(candidate)
            raise LxdUnavailable(why)
        return self.fleet.tenant(name, there)

    def _as_the_candidate_tells(self, candidate: str) -> Tenant:
        """Return the old container, whose host does not answer, as the candidate's label `from` describes it.

        This is enough after the commit point, when nothing more is needed from the old container.
        """
        seen = self.fleet.inventory(Role.TENANT, Role.INCOMING)
        for one in seen.tenants:
            if one.instance == candidate:
                server, member, instance = label_of(self.fleet.of(one).lxd.instance(candidate).config, "from").split(
                    "/"
                )
                place = {"server": server, "member": member, "host": member or server, "instance": instance}
                return replace(one, role=Role.TENANT, state=State.MOVING, **place)  # type: ignore[arg-type]
        self.fleet.require_all_answered(seen)
        raise Refused(f"There is no container `{candidate}` any more, which served as `{self.operation.tenant}`.")


def _new(it: _Begun) -> dict[str, Any]:
    arguments = it.arguments
    return {
        "name": it.operation.tenant,
        "domain": arguments["domain"],
        "plan": arguments["plan"],
        "size": it.settings.plans[arguments["plan"]],
        "note": arguments["note"],
        "place": it.fleet.host(arguments["host"]).place,
        "blueprint": it.fleet.blueprint(arguments["version"]),
        "bring": "bring" in [step.key for step in it.operation.steps],
    }


def _restore(it: _Begun) -> dict[str, Any]:
    old, name = it.replaced(), it.arguments["snapshot"]
    lxd = it.fleet.of(old).lxd
    formers = [one for one in it.fleet.inventory(Role.RETIRED).tenants if (one.name, one.host) == (old.name, old.host)]
    for instance in dict.fromkeys([old.instance, *(one.instance for one in formers)]):
        for one in lxd.snapshots(instance):
            if one.name == name:
                size = it.settings.plans.get(old.plan) if label_of(one.config, "plan") != old.plan else None
                mail = it.arguments.get("mail", "") or ("off" if old.outbound_off else "")
                found = {"source": instance, "snapshot": name, "size": size, "mail": mail}
                return {"old": old, "rests": it.values.get("rests", False), "days": it.days(), **found}
    raise Refused(f"`{old.name}` has no snapshot `{name}` any more.")


def _resize(it: _Begun) -> dict[str, Any]:
    found, plan = it.tenant(), it.arguments["plan"]
    config = it.fleet.of(found).lxd.instance(found.instance).config
    if label_of(config, "resized-by") == str(it.operation.id):
        found = replace(found, plan=label_of(config, "was-plan"))
    return {"found": found, "plan": plan, "size": it.settings.plans[plan]}


def _unarchive(it: _Begun) -> dict[str, Any]:
    found = it.own()
    was = it.fleet.of(found).lxd.instance(found.instance).config
    name, stopped = label_of(was, "was-called") or found.name, label_of(was, "was-stopped") == "1"
    return {"found": found, "name": name, "stopped": stopped, "mail": it.arguments.get("mail", "")}


def _purge(it: _Begun) -> dict[str, Any]:
    container = it.arguments["container"]
    seen = it.fleet.inventory(Role.TENANT, Role.ARCHIVED, Role.RETIRED, Role.INCOMING)
    its = [one for one in seen.tenants if (one.name, one.instance) == (it.operation.tenant, container)]
    if not its:
        it.fleet.require_all_answered(seen)
    return {"found": only(its) if its else None}


def _snapshot(it: _Begun) -> dict[str, Any]:
    why = "schedule" if it.operation.requester == SYSTEM else "asked"
    return {"tenant": it.tenant(), "why": why, "note": it.arguments["note"], "keep": it.arguments["keep"]}


INPUTS: Mapping[str, Callable[[_Begun], dict[str, Any]]] = {
    "new": _new,
    "restore": _restore,
    "migrate": lambda it: {
        "old": it.replaced(),
        "target": it.fleet.host(it.arguments["host"]).place,
        "days": it.days(),
    },
    "delete": lambda it: {"found": it.own()},
    "unarchive": _unarchive,
    "stop": lambda it: {"found": it.tenant()},
    "start": lambda it: {"found": it.tenant(), "mail": it.arguments.get("mail", "")},
    "restart": lambda it: {"found": it.tenant(), "part": it.arguments["part"]},
    "suspend": lambda it: {"found": it.tenant()},
    "resume": lambda it: {"found": it.tenant(), "mail": it.arguments.get("mail", "")},
    "resize": _resize,
    "mail": lambda it: {"found": it.tenant(), "what": it.arguments["what"]},
    "snapshot": _snapshot,
    "tag": lambda it: {"found": it.tenant(), "tags": it.arguments["words"]},
    "prune": lambda it: {"tenant": it.tenant(), "snapshots": it.arguments["snapshots"].split(",")},
    "purge": _purge,
}
"""The commands of the releases that stored no inputs; later commands store theirs."""
