"""The furniture of a tenant: what we put into it, brought to this bot's version, in a blueprint or where it serves."""

from __future__ import annotations

from bot.guest.blueprint.recipe import FURNITURE, furniture_tar
from bot.guest.mautic import Mautic
from bot.lxd.protocol import Instance, Lxd
from bot.model.labels import stamp, stamps

TAR = "/root/furniture.tar"
BASIC = 1
"""The version of a tenant that says none."""


def furniture_of(instance: Instance) -> int:
    """Return the version of what stands in an instance, as its label says; what no release writes is BASIC."""
    told = stamp(instance.config, "furniture")
    return int(told) if told.isdecimal() else BASIC


def is_old(instance: Instance) -> bool:
    """Whether what stands in a tenant is older than this bot's."""
    return furniture_of(instance) < FURNITURE


def furnish(lxd: Lxd, name: str, every: int) -> None:
    """Bring a running tenant's furniture to this bot's version, and write it down in the tenant and on its label.

    Safe to run again. It goes on to serve; where MariaDB's own configuration has changed, pages wait for it to start
    anew. `every`: minutes after which a job runs whatever there is to do, 0: never.
    """
    # To write into a pipe that a tenant left there would take for ever.
    lxd.remove(name, TAR)
    lxd.push(name, TAR, furniture_tar())
    Mautic(lxd).call(name, "furnish", {"version": FURNITURE, "every": every * 60}, timeout=300)
    lxd.update(name, stamps(furniture=FURNITURE))
