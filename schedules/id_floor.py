"""Keeps request numbers unique when the database was lost or restored from a backup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

from bot.engine.context import Context
from bot.engine.scheduler import schedule
from bot.lxd.protocol import Instance, LxdError
from bot.model.labels import LABELS, labels_of, number_of, replaced, role_of
from bot.store.migrations import MAINTENANCE

_OPERATIONS = [name for name, label in LABELS.items() if label.kind == "operation"]
_NAMED = re.compile(r"--(\d{1,15})\Z")
"""The end of a container's name: the number of the operation that made the container."""


@schedule(seconds=300)
def id_floor(context: Context) -> None:
    """Make sure that no request gets a number that a container already carries.

    Containers are identified by the operation that made them, and the database that gives the numbers may be older.
    """
    seen: set[int] = set()
    for lxd in context.fleet.servers.values():
        with suppress(LxdError):
            seen.update(number for one in lxd.instances() for number in _carried(one))
    # Maintenance has numbers of its own, far above those of people's requests.
    for kind in ([one for one in seen if one < MAINTENANCE], [one for one in seen if one > MAINTENANCE]):
        context.operations.number_after(max(kind, default=0))


def _carried(one: Instance) -> Iterator[int]:
    """Yield the operation numbers on a container of the bot; one made by hand may have any digits in its name."""
    if role_of(one.config) is None:
        return
    labels = labels_of(one.config)
    yield from (number_of(labels.get(name, "")) for name in _OPERATIONS)
    # Earlier releases wrote the number into a text.
    yield replaced(one.config)[1]
    if named := _NAMED.search(one.name):
        yield int(named[1])
