"""Deletes old copies of tenants after the days of the policy."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from bot.engine.context import Context
from bot.engine.cutover import retire
from bot.engine.maintenance import Maintenance
from bot.engine.registry import call
from bot.engine.scheduler import schedule
from bot.engine.snapshots import ours
from bot.fleet.inventory import Inventory
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.model.labels import Role, State, is_open
from bot.model.plan import Plan, Refused
from bot.model.tenants import Tenant
from bot.store import audit
from bot.store.metrics import DAY
from bot.store.operation import SYSTEM

_COPIES = (Role.INCOMING, Role.REHEARSAL)
"""Copies that an operation makes, and deletes again if it fails; any that remains is left over."""


@schedule(seconds=300)
def purge(context: Context) -> None:
    """Delete archives and previous containers after their days, and leftovers of a cutover or rehearsal.

    The days must have passed by every clock, and again at a second check hours later. A container that was replaced
    while its host was out of reach is retired now, and kept from now on.
    """
    # Before the inventory: an operation that ends in between has deleted its copies itself.
    maintenance = Maintenance(context)
    inventory = context.fleet.inventory(Role.TENANT, Role.ARCHIVED, Role.RETIRED, *_COPIES)
    command = context.registry.command("purge")
    errors: list[Exception] = [LxdUnavailable(why) for why in inventory.silent.values()]
    over = _over(context, inventory)
    for one in inventory.tenants:
        try:
            if (one.role, one.state) == (Role.RETIRED, State.MOVING):
                _retire(context, one)
            elif maintenance.may(one.name, passes=one.role in _COPIES) and _goes(context, inventory, one, over):
                # Leftovers of an operation are deleted even during a freeze.
                left = one.role in _COPIES
                if maintenance.is_free("purge", one.name, safety=left):
                    plan = call(command, context, {"tenant": one.name, "container": one.instance})
                    maintenance.ask("purge", cast(Plan, plan), safety=left)
        except (Refused, LxdError) as error:
            errors.append(error)
    if errors:
        raise errors[-1]


def _retire(context: Context, one: Tenant) -> None:
    event = audit.Event("container.retired", SYSTEM, one.name, detail={"container": one.instance, "host": one.host})
    known = "SELECT 1 FROM audit WHERE tenant = ? AND event = ? AND json_extract(detail, '$.container') = ? LIMIT 1"
    # Retiring is repeated until it succeeds, and recorded once.
    if not context.database.read(known, one.name, event.name, one.instance):
        with context.database.transaction() as transaction:
            audit.record(transaction, event, context.now())
    retire(context, one, one.replaced_by, one.replaced_in, context.settings.retention.retired_days)


def _goes(context: Context, inventory: Inventory, one: Tenant, over: Collection[str]) -> bool:
    if one.role in _COPIES:
        return _is_left_over(context, inventory, one)
    return _known_as(one) in over and not (one.role == Role.RETIRED and _has_kept(context, one))


def _over(context: Context, inventory: Inventory) -> set[str]:
    """Return the containers whose days are over, and were hours ago already: no single clock decides."""
    over = {_known_as(one) for one in inventory.tenants if one.state != State.MOVING and _is_over(context, one)}
    return context.uptime.confirmed("purge", over)


def _known_as(one: Tenant) -> str:
    return f"{one.host}/{one.instance} {one.archived or one.kept_until}"


def _is_over(context: Context, one: Tenant) -> bool:
    retention, before = context.settings.retention, context.uptime.before
    if one.role == Role.ARCHIVED:
        return bool(retention.archive_days and one.archived) and one.archived <= before(retention.archive_days * DAY)
    if one.role != Role.RETIRED or not one.kept_until or context.now() < one.kept_until:
        return False
    # An earlier release did not record the day of retiring: it follows from the policy.
    since = one.retired or one.kept_until - max(retention.retired_days, 1) * DAY
    return since <= before(one.kept_until - since)


def _has_kept(context: Context, former: Tenant) -> bool:
    """Return whether a retired container has a protected snapshot that exists nowhere else: only a move copies them."""
    if former.replaced_by == "migrate":
        return False
    return any(one.keep for one in ours(context.fleet.of(former).lxd.snapshots(former.instance)))


def _is_left_over(context: Context, inventory: Inventory, one: Tenant) -> bool:
    """Return whether the operation that made a copy has failed or was given up, and could not delete the copy.

    The database may be lost or old, and the candidate may be the only container that serves: so the other containers
    of the tenant count. A rehearsal's copy serves nobody, and stays only while nothing else of the tenant can be seen.
    """
    made_by = context.operations.select("id = ?", one.operation)
    others = [it for it in inventory.tenants if it.name == one.name and it.role in (Role.TENANT, Role.ARCHIVED)]
    if any(operation.open for operation in made_by):
        return False
    if one.role == Role.REHEARSAL:
        return bool(others) or not inventory.silent
    if any(it.state == State.MOVING for it in others):
        return False
    if not made_by or (inventory.silent and not others):
        return any(is_open(it) for it in others)
    return True
