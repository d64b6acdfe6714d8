"""Works inside the instances of a simulated LXD server: commands, conversations, files."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from bot.lxd.protocol import ExecResult, NotFound, TenantAnswerError, size_bytes
from bot.lxd.simulated.server import SimulatedServer
from bot.lxd.simulated.world import IN_MEMORY, File

Execute = Callable[[Any, str, list[str], Mapping[str, str]], ExecResult]
"""Answers a command inside an instance: (server, instance, command, environment). It may push and pull files."""
Speak = Callable[[Any, str, list[str], bytes], Iterator[bytes]]
"""Plays the command of a conversation: (server, instance, command, what was sent to it first). Yields its lines, each
when the caller waits for it."""


class Talking:
    """See `Talk`. The command begins with the first content that is sent to it."""

    def __init__(self, name: str, speak: Callable[[bytes], Iterator[bytes]], limit: int) -> None:
        self._name = name
        self._speak = speak
        self._limit = limit
        self._lines: Iterator[bytes] | None = None
        self._more = b""
        self._spoke = False

    def send(self, content: bytes) -> None:
        """See `Talk.send`. A generator gets what is sent later as the value of its `yield`."""
        if self._lines is None:
            self._lines = self._speak(content)
        else:
            self._more += content

    def line(self, most: int = 0) -> bytes:
        """See `Talk.line`."""
        lines, more = self._lines or iter(()), self._more
        self._more = b""
        try:
            line = lines.send(more) if self._spoke and isinstance(lines, Generator) else next(lines)
        except StopIteration:
            raise TenantAnswerError(f"What was asked of `{self._name}` ended and left no answer.") from None
        self._spoke = True
        if most and len(line) > most:
            raise TenantAnswerError(f"`{self._name}` says more in one line than the {most} bytes that are read.")
        self._limit -= len(line) + 1
        if self._limit < 0:
            raise TenantAnswerError(f"`{self._name}` answers more than is read of it.")
        return line


class SimulatedInside(SimulatedServer):
    """The part of `SimulatedLxd` that works inside instances.

    `run` answers commands, `speak` plays the commands of conversations.
    """

    run: Execute
    speak: Speak

    def quota(self, name: str) -> tuple[int | None, int | None]:
        """Return the bytes that an instance refers to (None: not counted) and their limit (None: no limit).

        Both are as seen inside the instance.
        """
        with self.lock:
            machine = self.world.find(name, f"read `{name}`")
            limit = machine.devices.get("root", {}).get("size")
            used = None if machine.location in self.world.uncounted else machine.base + machine.written()
            return used, size_bytes(limit) if limit else None

    def execute(
        self,
        name: str,
        command: list[str],
        *,
        environment: Mapping[str, str] | None = None,
        user: int = 0,
        timeout: int = 120,
    ) -> ExecResult:
        """See `Lxd.execute`."""
        doing = f"run `{PurePosixPath(command[0]).name}` in `{name}`"
        with self.call("execute", name, command) as world:
            world.find(name, doing).must_run(doing)
        # Outside the lock: other instances go on while a command runs.
        return self.run(self, name, command, environment or {})

    @contextmanager
    def talk(self, name: str, command: list[str], *, timeout: float = 120, limit: int) -> Iterator[Talking]:
        """See `Lxd.talk`. Code that counts, delays or breaks calls sees it as `execute`."""
        doing = f"run `{PurePosixPath(command[0]).name}` in `{name}`"
        with self.call("execute", name, command) as world:
            world.find(name, doing).must_run(doing)
        yield Talking(name, lambda sent: self.speak(self, name, command, sent), limit)

    def sweep(self) -> None:
        """See `Lxd.sweep`. The simulation leaves nothing."""
        with self.call("sweep"):
            pass

    def push(self, name: str, path: str, content: bytes, *, mode: int = 0o600, uid: int = 0, gid: int = 0) -> None:
        """See `Lxd.push`. Every folder is assumed to exist."""
        doing = f"write `{path}` in `{name}`"
        with self.call("push", name, path) as world:
            machine = world.find(name, doing)
            if not path.startswith(IN_MEMORY):
                world.must_have(len(content), doing, machine.location)
                world.must_fit(machine, len(content), doing)
            machine.files[path] = File(bytes(content), mode, uid, gid)

    def pad(self, name: str, path: str, size: int) -> None:
        """See `Lxd.pad`. The file's size counts; its content is not kept."""
        doing = f"write `{path}` in `{name}`"
        with self.call("pad", name, path) as world:
            machine = world.find(name, doing)
            world.must_have(size, doing, machine.location)
            machine.padding[path] = size

    def pull(self, name: str, path: str) -> bytes:
        """See `Lxd.pull`."""
        with self.call("pull", name, path) as world:
            machine = world.find(name, f"read `{path}` in `{name}`")
            if path not in machine.files:
                raise NotFound(f"There is no `{path}` in `{name}`.")
            return machine.files[path].content

    def remove(self, name: str, path: str) -> None:
        """See `Lxd.remove`."""
        with self.call("remove", name, path) as world:
            machine = world.find(name, f"delete `{path}` in `{name}`")
            machine.files.pop(path, None)
            machine.padding.pop(path, None)
