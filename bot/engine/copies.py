"""The copy that an operation makes of another instance: whether it is the operation's own, and whole; made, removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bot.engine.steps import remove
from bot.lxd.protocol import Instance, Lxd, NotFound
from bot.model.labels import stamp, stamps
from bot.model.plan import Refused


def is_whole(instance: Instance) -> bool:
    """Whether an instance was copied to the end."""
    return bool(stamp(instance.config, "copied"))


@dataclass(frozen=True)
class Copy:
    """An instance that one operation makes on a host, whether it is there yet or not."""

    lxd: Lxd
    name: str
    operation: int

    def found(self) -> Instance | None:
        """Return the instance, None where there is none; refuse a stranger's."""
        try:
            instance = self.lxd.instance(self.name)
        except NotFound:
            return None
        if stamp(instance.config, "operation") != str(self.operation):
            raise Refused(f"There is an instance `{self.name}` that this operation did not make; rename or remove it.")
        return instance

    def make(self, copy: Callable[[], None], fits: Callable[[Instance], bool] = is_whole) -> None:
        """Have it there, made by `copy`, which has to stamp it with the operation; it is whole once that is done.

        Nothing is done where one is there that `fits`. Any other is removed first: a copy that was cut is not to be
        trusted, whatever it looks like.
        """
        instance = self.found()
        if instance is not None:
            if fits(instance):
                return
            remove(self.lxd, self.name)
        copy()
        self.lxd.update(self.name, stamps(copied=1))

    def doubt(self) -> None:
        """Call it whole no longer: what comes now may spoil it if it is cut."""
        self.lxd.update(self.name, stamps(copied=""))
