"""The furniture of a tenant: what we put into it, brought to this bot's version, in a blueprint or where it serves."""

from __future__ import annotations

from collections.abc import Mapping

from bot.guest.blueprint.recipe import FURNITURE, furniture_tar
from bot.guest.mautic import Mautic
from bot.lxd.protocol import Instance, Lxd
from bot.model.labels import as_labels, label_of, number_of
from bot.model.tenants import Tenant

TAR = "/root/furniture.tar"
BASIC = 1
"""The version of a tenant that says none."""
CLOSES_ITSELF = 3
"""The version from which on a candidate closes itself at its boot, as its labels say."""
TELLS_LABELS = ("security.devlxd", "security.guestapi")
"""What turns off, at LXD and at Incus, that a container is told its labels."""


def furniture_of(config: Mapping[str, str]) -> int:
    """Return the version of what stands in an instance, as its label says; what no release writes is BASIC."""
    told = label_of(config, "furniture")
    return number_of(told) if told.isdecimal() else BASIC


def closes_itself(config: Mapping[str, str]) -> bool:
    """Whether a candidate of this configuration closes itself at its boot: LXD or Incus tells it its labels."""
    return furniture_of(config) >= CLOSES_ITSELF and all(config.get(key, "true") == "true" for key in TELLS_LABELS)


def is_old(instance: Instance) -> bool:
    """Whether what stands in a tenant is older than this bot's."""
    return furniture_of(instance.config) < FURNITURE


def is_behind(tenant: Tenant) -> bool:
    """Whether `refurnish` has something to do for a tenant: its furniture is old, or its heavy jobs have no slot."""
    return tenant.furniture < FURNITURE or tenant.slot is None


def unfurnish(lxd: Lxd, name: str, former: int) -> None:
    """Put back what stood in a running tenant before it was furnished, of version `former`; nothing where it was not.

    Safe to run again. Its slot stays, which older furniture does not know.
    """
    told = Mautic(lxd).call(name, "unfurnish", {"version": FURNITURE}, timeout=300)
    if told["version"] == former:
        lxd.update(name, as_labels(furniture=former))


def furnish(lxd: Lxd, name: str, every: int, slot: int | None = None) -> None:
    """Bring a running tenant's furniture to this bot's version, and write it down in the tenant and on its label.

    Safe to run again. It goes on to serve; where MariaDB's own configuration has changed, pages wait for it to start
    anew. `every`: minutes after which a job runs whatever there is to do, 0: never. `slot`: when its heavy jobs begin,
    as `bot.model.slots.slot_of`; None: as before.
    """
    # To write into a pipe that a tenant left there would take for ever.
    lxd.remove(name, TAR)
    lxd.push(name, TAR, furniture_tar())
    Mautic(lxd).call(name, "furnish", {"version": FURNITURE, "every": every * 60, "slot": slot}, timeout=300)
    lxd.update(name, as_labels(furniture=FURNITURE) | ({} if slot is None else as_labels(slot=slot)))
