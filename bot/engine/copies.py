"""Makes an operation's copy of another instance, and tells whose a copy is and whether it is complete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bot.engine.steps import remove
from bot.fleet.inventory import Host
from bot.guest.blueprint.furniture import closes_itself
from bot.lxd.protocol import Instance, Lxd, NotFound
from bot.model.labels import as_labels, label_of
from bot.model.plan import Refused

WHOLE = as_labels(copied=1)
"""The label of a complete copy."""


def is_whole(instance: Instance) -> bool:
    """Return whether an instance was copied completely."""
    return bool(label_of(instance.config, "copied"))


def ensure_closed(host: Host, name: str) -> None:
    """Close a stopped copy, so that it serves nobody before it is opened; no effect if it closes itself at boot."""
    if not closes_itself(host.lxd.instance(name).config):
        host.mautic.close_copy(name)


@dataclass(frozen=True)
class Copy:
    """An instance that one operation makes on a host, whether it exists yet or not."""

    lxd: Lxd
    name: str
    operation: int

    def found(self) -> Instance | None:
        """Return the instance, or None if there is none; raise Refused if the operation did not make it."""
        try:
            instance = self.lxd.instance(self.name)
        except NotFound:
            return None
        if label_of(instance.config, "operation") != str(self.operation):
            raise Refused(
                f"An instance `{self.name}` exists that this request did not create; rename or delete that instance."
            )
        return instance

    def make(
        self, copy: Callable[[], None], fits: Callable[[Instance], bool] = is_whole, *, labelled: bool = True
    ) -> None:
        """Make the instance with `copy`, which has to label it with the operation; then label it complete.

        No effect if an instance exists that `fits`. Any other is deleted first: an interrupted copy is not trusted.
        `labelled`: False if a later step sets WHOLE together with other labels, because each change takes LXD some 30
        milliseconds; a crash before that step costs another copy.
        """
        instance = self.found()
        if instance is not None:
            if fits(instance):
                return
            remove(self.lxd, self.name)
        copy()
        if labelled:
            self.lxd.update(self.name, WHOLE)

    def doubt(self) -> None:
        """Label the copy incomplete: the next change may spoil it if interrupted."""
        self.lxd.update(self.name, as_labels(copied=""))
