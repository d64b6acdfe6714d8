"""Keeps request numbers unique when the database was lost or restored from a backup."""

from __future__ import annotations

import re

from bot.labels import Role
from bot.registry import Context
from bot.scheduler import schedule
from bot.tenants import Tenant


@schedule(seconds=300)
def numbers(context: Context) -> None:
    """Make sure that no request gets a number that a container already carries.

    Containers are told apart by the number of the operation that made them; the database that gives the numbers may be
    younger than they are.
    """
    seen = context.fleet.look(Role.TENANT, Role.ARCHIVED, Role.FORMER, Role.INCOMING)
    context.operations.number_after(max(map(_number, seen.tenants), default=0))


def _number(one: Tenant) -> int:
    told = f"{one.operation} {one.replaced_in} {one.instance.removeprefix(one.name)}"
    return max(map(int, re.findall(r"\d+", told)), default=0)
