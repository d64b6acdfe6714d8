"""Keeps request numbers unique when the database was lost or restored from a backup."""

from __future__ import annotations

import re

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.model.labels import Role
from bot.model.tenants import Tenant


@schedule(seconds=300)
def numbers(context: Context) -> None:
    """Make sure that no request gets a number that a container already carries.

    Containers are identified by the operation that made them, and the database that gives the numbers may be older.
    """
    seen = context.fleet.look(Role.TENANT, Role.ARCHIVED, Role.RETIRED, Role.INCOMING)
    context.operations.number_after(max(map(_number, seen.tenants), default=0))


def _number(one: Tenant) -> int:
    told = f"{one.operation} {one.replaced_in} {one.instance.removeprefix(one.name)}"
    return max(map(int, re.findall(r"\d+", told)), default=0)
