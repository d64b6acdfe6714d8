"""The simulated LXD with what tests do to it: faults, counts and delays, and a world that goes its own ways."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from bot.guest.simulated import close_candidate, run_mautic_ctl
from bot.lxd.protocol import ExecResult, LxdError, LxdUnavailable, Resources, TenantAnswerError, Vanished
from bot.lxd.simulated import lxd as simulated_lxd
from bot.lxd.simulated.inside import Talking
from bot.lxd.simulated.server import TENANT_BYTES
from bot.lxd.simulated.world import Machine, World
from bot.lxd.wire import NIC

START_SECONDS = 0.3
"""What a start takes: after a boot LXD starts one after the other."""


class SimulatedLxd(simulated_lxd.SimulatedLxd):
    """What the bot is shipped with, in the hands of a test; `mautic-ctl` is played in its instances.

    `calls` counts the calls by method; `latency` is the seconds that every call takes, or that one method takes
    (`{"copy": 0.2}`); `on_call` is called with (method, arguments) before each call and may raise; `memory_of` tells
    the bytes of memory that a running instance of a name takes; `killed` counts how often there was too little; `load`
    is each host's; `product` is what the server says it is; `deaf` are instances that do not end by themselves,
    `restless` those under which files vanish in so many snapshots. `world` is what the server knows.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"speak": run_mautic_ctl, "lay": close_candidate, **arguments})
        self.calls: Counter[str] = Counter()
        self.latency: float | Mapping[str, float] = 0.0
        self.on_call: Callable[[str, tuple[Any, ...]], None] | None = None
        self.memory_of: Callable[[str], int] = lambda _: TENANT_BYTES
        self.killed = 0
        self.deaf: set[str] = set()
        self.restless: Counter[str] = Counter()
        self._faults: list[tuple[str, Exception, bool]] = []

    def fail_next(self, method: str, error: Exception, times: int = 1, *, after: bool = False) -> None:
        """Let the next calls of a method raise; `after`: only when the change is done, as when an answer is lost."""
        with self.lock:
            self._faults.extend([(method, error, after)] * times)

    def forgive(self) -> None:
        """Let no call fail that was to fail and was not made."""
        with self.lock:
            self._faults.clear()

    @contextmanager
    def call(self, method: str, *arguments: object) -> Iterator[World]:
        """One call: counted, delayed, and made to fail when a test wants that."""
        if self.on_call is not None:
            self.on_call(method, arguments)
        if delay := self._delay(method):
            time.sleep(delay)
        with self.lock:
            self.calls[method] += 1
            fault = next((fault for fault in self._faults if fault[0] == method and not self.down), None)
            if fault is not None:
                self._faults.remove(fault)
                if not fault[2]:
                    raise fault[1]
            with super().call(method, *arguments) as world:
                yield world
            if fault is not None:
                raise fault[1]

    def _delay(self, method: str) -> float:
        return self.latency if isinstance(self.latency, (int, float)) else self.latency.get(method, 0.0)

    # -- calls that go otherwise --------------------------------------------------------------------------------

    def resources(self) -> Resources:
        """As late as `latency` says."""
        return replace(super().resources(), seconds=self._delay("resources"))

    def stop(self, name: str, *, timeout: int = 60, force: bool = False) -> None:
        """Not one that is deaf, but by force."""
        if force or name not in self.deaf:
            super().stop(name, timeout=timeout, force=force)
            return
        with self.call("stop", name) as world:
            if world.find(name, f"stop `{name}`").status != "Stopped":
                raise LxdError(f'LXD could not stop `{name}`: Failed shutting down instance, status is "Running".')

    def snapshot(
        self,
        name: str,
        snapshot: str,
        *,
        config: Mapping[str, str] | None = None,
        within: AbstractContextManager[object] | None = None,
        still: bool = False,
        closed: bool = False,
    ) -> None:
        """Not of one that is restless, while it runs and is not held still."""
        machine = self.world.machines.get(name)
        if machine is None or machine.status != "Running" or still or self.restless[name] <= 0:
            super().snapshot(name, snapshot, config=config, within=within, still=still, closed=closed)
            return
        doing = f"take the snapshot `{snapshot}` of `{name}`"
        with within or nullcontext(), self.call("snapshot", name, snapshot):
            self.restless[name] -= 1
            machine.unknown.append(snapshot)
            raise Vanished(f"LXD could not {doing}: files went away while it was taken.")

    def execute(self, name: str, command: list[str], *, timeout: int = 120, **more: Any) -> ExecResult:
        """Within its time, or not."""
        if self._delay("execute") > timeout:
            raise LxdUnavailable(f"LXD did not run `{Path(command[0]).name}` in `{name}` within {timeout} seconds.")
        return super().execute(name, command, timeout=timeout, **more)

    def talk(
        self, name: str, command: list[str], *, timeout: float = 120, limit: int
    ) -> AbstractContextManager[Talking]:
        """Within its time, or not."""
        if self._delay("execute") > timeout:
            raise TenantAnswerError(f"`{name}` did not answer within {timeout:.0f} seconds.")
        return super().talk(name, command, timeout=timeout, limit=limit)

    def boot(self, machine: Machine, at: int) -> None:
        """Counted where the kernel takes LXD's memory."""
        try:
            super().boot(machine, at)
        except LxdUnavailable:
            self.killed += 1
            raise

    # -- what happens to a server by itself ---------------------------------------------------------------------

    def set_online(self, member: str, online: bool) -> None:
        """Let a member of the cluster go silent or come back; its containers go on meanwhile."""
        with self.lock:
            others = [name for name in self.world.offline if name != member]
            self.world.offline = others if online else [*others, member]

    def reboot(self) -> list[tuple[float, str]]:
        """Start a host anew, and LXD its instances as it does; return each one's second since then, and its name.

        One after the other, by `boot.autostart.priority`, and after each it waits for `boot.autostart.delay` seconds.
        """
        with self.lock:
            self.down = False
            started: list[tuple[float, str]] = []
            for machine in self.world.machines.values():
                machine.status = "Stopped"
            wanted = [one for one in self.world.machines.values() if one.config.get("boot.autostart") == "true"]
            at = 0.0
            for machine in sorted(
                wanted, key=lambda one: (-int(one.config.get("boot.autostart.priority") or 0), one.name)
            ):
                at += START_SECONDS
                self.boot(machine, int(self.clock() + at))
                started.append((at, machine.name))
                at += float(machine.config.get("boot.autostart.delay") or 0)
            return started

    def unclose(self) -> None:
        """Let the bridge be as an earlier bot made it."""
        with self.lock:
            self.world.closed = False

    def stop_counting(self, member: str = "") -> None:
        """Let the quotas of a pool be inconsistent, as a kernel does that has deleted much, until they are counted."""
        with self.lock:
            self.world.uncounted.append(member)

    # -- what happens to an instance by itself ------------------------------------------------------------------

    def unpin(self, name: str) -> None:
        """Let it be as one from a time when LXD alone gave addresses."""
        with self.lock:
            del self.world.find(name, f"update `{name}`").devices[NIC]

    def claim(self, name: str, address: str) -> None:
        """Let an instance take an address inside; the network goes on as before."""
        with self.lock:
            self.world.find(name, f"update `{name}`").address = address

    def fill(self, name: str, amount: int) -> None:
        """Let an instance's own bytes be so many; more than its limit lets it have are not taken."""
        with self.lock:
            machine = self.world.find(name, f"fill `{name}`")
            machine.bytes = amount
            used, limit = self.quota(name)
            machine.bytes -= max(0, used - limit) if used and limit else 0

    def rewrite(self, name: str, amount: int, *, shared: bool = False) -> None:
        """Let an instance write so many bytes anew: its newest snapshot alone still has the old ones.

        `shared`: it and the one before have them, so that no size tells of them.
        """
        with self.lock:
            machine = self.world.find(name, f"fill `{name}`")
            self.world.must_have(amount, f"write in `{name}`", machine.location)
            machine.frozen = max(0, machine.frozen - amount)
            if machine.snapshots and shared:
                machine.snapshots[-1].shared += amount
            elif machine.snapshots:
                machine.snapshots[-1].held += amount
