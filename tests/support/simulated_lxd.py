"""The simulated LXD with what tests need: faults, counts of calls, delays, and changes that the bot did not make."""

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
"""The seconds that a start takes: after a boot LXD starts instances one after the other."""


class SimulatedLxd(simulated_lxd.SimulatedLxd):
    """The simulated LXD that the bot is shipped with, under a test's control; it simulates `mautic-ctl` in instances.

    `calls`: the number of calls by method. `latency`: the seconds that every call takes, or those of single methods
    (`{"copy": 0.2}`). `on_call`: called with (method, arguments) before each call; it may raise. `memory_of`: the bytes
    of memory that a running instance of a name takes. `killed`: how often LXD was killed for lack of memory. `load`:
    each host's. `product`: what the server says it is. `deaf`: instances that do not stop without force. `restless`:
    instances from which files vanish during so many snapshots. `world`: what the server knows.
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
        """Make the next calls of a method raise; `after`: after the change was made, as if the answer were lost."""
        with self.lock:
            self._faults.extend([(method, error, after)] * times)

    def forgive(self) -> None:
        """Forget the faults that have not been raised yet."""
        with self.lock:
            self._faults.clear()

    @contextmanager
    def call(self, method: str, *arguments: object) -> Iterator[World]:
        """Count a call, delay it, and make it fail if a test wants that."""
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

    # -- calls that differ --------------------------------------------------------------------------------------

    def resources(self) -> Resources:
        """Report the delay that `latency` gives for the call."""
        return replace(super().resources(), seconds=self._delay("resources"))

    def stop(self, name: str, *, timeout: int = 60, force: bool = False) -> None:
        """Stop an instance; one that is deaf stops only by force."""
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
        """Take a snapshot; it fails for a restless instance that runs and is not held still."""
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
        """Run a command; it fails if its delay is longer than `timeout`."""
        if self._delay("execute") > timeout:
            raise LxdUnavailable(f"LXD did not run `{Path(command[0]).name}` in `{name}` within {timeout} seconds.")
        return super().execute(name, command, timeout=timeout, **more)

    def talk(
        self, name: str, command: list[str], *, timeout: float = 120, limit: int
    ) -> AbstractContextManager[Talking]:
        """Talk to a command; it fails if its delay is longer than `timeout`."""
        if self._delay("execute") > timeout:
            raise TenantAnswerError(f"`{name}` did not answer within {timeout:.0f} seconds.")
        return super().talk(name, command, timeout=timeout, limit=limit)

    def boot(self, machine: Machine, at: int) -> None:
        """Boot a machine; count it if LXD is killed for lack of memory."""
        try:
            super().boot(machine, at)
        except LxdUnavailable:
            self.killed += 1
            raise

    # -- changes of a server that the bot does not make ----------------------------------------------------------

    def set_online(self, member: str, online: bool) -> None:
        """Take a member of the cluster offline, or back online; its containers keep running."""
        with self.lock:
            others = [name for name in self.world.offline if name != member]
            self.world.offline = others if online else [*others, member]

    def reboot(self) -> list[tuple[float, str]]:
        """Reboot a host and have LXD start its instances; return for each the seconds since the boot, and its name.

        LXD starts them one by one by `boot.autostart.priority`, and waits `boot.autostart.delay` seconds after each.
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
        """Set the bridge up as an earlier version of the bot did."""
        with self.lock:
            self.world.closed = False

    def stop_counting(self, member: str = "") -> None:
        """Make a pool's quotas inconsistent until they are counted, as a kernel does after a large deletion."""
        with self.lock:
            self.world.uncounted.append(member)

    # -- changes of an instance that the bot does not make -------------------------------------------------------

    def unpin(self, name: str) -> None:
        """Remove the instance's fixed address, as if it were from the time when LXD assigned addresses."""
        with self.lock:
            del self.world.find(name, f"update `{name}`").devices[NIC]

    def claim(self, name: str, address: str) -> None:
        """Let an instance take an address from the inside; the network keeps its own."""
        with self.lock:
            self.world.find(name, f"update `{name}`").address = address

    def fill(self, name: str, amount: int) -> None:
        """Set an instance's own bytes, up to what its limit allows."""
        with self.lock:
            machine = self.world.find(name, f"fill `{name}`")
            machine.bytes = amount
            used, limit = self.quota(name)
            machine.bytes -= max(0, used - limit) if used and limit else 0

    def rewrite(self, name: str, amount: int, *, shared: bool = False) -> None:
        """Overwrite so many bytes of an instance, so that only its newest snapshot still has the old ones.

        `shared`: the snapshot before has them too, so that no size shows them.
        """
        with self.lock:
            machine = self.world.find(name, f"fill `{name}`")
            self.world.must_have(amount, f"write in `{name}`", machine.location)
            machine.frozen = max(0, machine.frozen - amount)
            if machine.snapshots and shared:
                machine.snapshots[-1].shared += amount
            elif machine.snapshots:
                machine.snapshots[-1].held += amount
