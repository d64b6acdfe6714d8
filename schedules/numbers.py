"""Keeps the numbers of operations from coming twice, when the database was lost or is from a backup."""

from __future__ import annotations

import re

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.model.labels import Role
from bot.model.tenants import Tenant


@schedule(seconds=300)
def numbers(context: Context) -> None:
    """Let no operation get a number that stands on a container already.

    Containers are told apart by the number of the operation that made them; the database that gives the numbers may be
    younger than they are.
    """
    seen = context.fleet.look(Role.TENANT, Role.ARCHIVED, Role.FORMER, Role.INCOMING)
    context.operations.number_after(max(map(_number, seen.tenants), default=0))


def _number(one: Tenant) -> int:
    told = f"{one.operation} {one.replaced_in} {one.instance.removeprefix(one.name)}"
    return max(map(int, re.findall(r"\d+", told)), default=0)
