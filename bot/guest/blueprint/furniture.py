"""Brings the furniture (our files and units) of a blueprint, or of a tenant that serves, to this bot's version."""

from __future__ import annotations

from collections.abc import Mapping

from bot.guest.blueprint.recipe import FURNITURE, furniture_tar
from bot.guest.mautic import Mautic
from bot.lxd.protocol import Instance, Lxd
from bot.model.labels import as_labels, label_of, number_of
from bot.model.tenants import Tenant

TAR = "/root/furniture.tar"
BASIC = 1
"""The version of a tenant whose label has none."""
CLOSES_ITSELF = 3
"""The first version with which a candidate closes itself at its boot, according to its labels."""
LABEL_ACCESS_KEYS = ("security.devlxd", "security.guestapi")
"""The settings of LXD and of Incus that can keep a container from reading its labels."""


def furniture_of(config: Mapping[str, str]) -> int:
    """Return the version of an instance's furniture by its label; BASIC if the label is no number."""
    told = label_of(config, "furniture")
    return number_of(told) if told.isdecimal() else BASIC


def closes_itself(config: Mapping[str, str]) -> bool:
    """Return whether a candidate with this configuration closes itself at its boot, for which it reads its labels."""
    return furniture_of(config) >= CLOSES_ITSELF and all(config.get(key, "true") == "true" for key in LABEL_ACCESS_KEYS)


def is_old(instance: Instance) -> bool:
    """Return whether a tenant's furniture is older than this bot's."""
    return furniture_of(instance.config) < FURNITURE


def is_behind(tenant: Tenant) -> bool:
    """Return whether a tenant needs `refurnish`: its furniture is old, or its heavy jobs have no slot."""
    return tenant.furniture < FURNITURE or tenant.slot is None


def unfurnish(lxd: Lxd, name: str, former: int) -> None:
    """Undo `furnish` in a running tenant: restore its furniture of version `former`; no effect if it was not furnished.

    Safe to run again. The tenant keeps its slot, which older furniture does not know.
    """
    told = Mautic(lxd).call(name, "unfurnish", {"version": FURNITURE}, timeout=420)
    if told["version"] == former:
        lxd.update(name, as_labels(furniture=former))


def furnish(lxd: Lxd, name: str, every: int, slot: int | None = None) -> None:
    """Bring a running tenant's furniture to this bot's version, and record the version in the tenant and on its label.

    Safe to run again. The tenant keeps serving; if MariaDB's own configuration has changed, pages wait for its restart.
    `every`: minutes after which a job runs even if it has nothing to do, 0: never. `slot`: when the tenant's heavy jobs
    begin, see `bot.model.slots.slot_of`; None: as before.
    """
    # Writing into a FIFO that the tenant left there would block forever.
    lxd.remove(name, TAR)
    lxd.push(name, TAR, furniture_tar())
    Mautic(lxd).call(name, "furnish", {"version": FURNITURE, "every": every * 60, "slot": slot}, timeout=420)
    lxd.update(name, as_labels(furniture=FURNITURE) | ({} if slot is None else as_labels(slot=slot)))
