"""Works inside the instances of one LXD server: commands, conversations, files, and the quotas of their pool."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from bot.lxd import btrfs
from bot.lxd.connection import SHORT, path_of
from bot.lxd.protocol import ExecResult, LxdError, LxdUnavailable, NotFound, Quotas, Talk
from bot.lxd.reader import LxdReader
from bot.lxd.refusals import HelperGone
from bot.lxd.talk import conversation

MOST = 64 << 20
"""The most bytes that are read of a file, or of a command's output."""
_HELPER_ENDS = 20.0
"""Seconds for LXD's helper for an instance's files to end. It checks every five seconds whether it is still used, so
that a helper whose instance was renamed meanwhile, and whose socket nobody finds any more, lives on for ten."""


class LxdInside(LxdReader):
    """The part of `LxdGateway` that works inside instances."""

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
        doing = f"run `{Path(command[0]).name}` in `{name}`"
        body = {
            "command": command,
            "environment": dict(environment or {}),
            "user": user,
            "record-output": True,
            "wait-for-websocket": False,
            "interactive": False,
        }
        started = self.connection.json("post", f"{path_of(name)}/exec", doing, json=body)
        self.leftovers.unread.add(started["metadata"]["id"])
        # LXD says only at the end where the output is; until then it is one of these, by product and version.
        file = f"exec_{started['metadata']['id']}"
        logs = [f"{path_of(name)}/{folder}/{file}" for folder in ("logs", "logs/exec-output")]
        logs = [f"{log}.{stream}" for log in logs for stream in ("stdout", "stderr")]
        output: list[bytes] = []
        try:
            ended = self.connection.operation(started, doing, timeout)
            found = ended["metadata"] or {}
            code = found.get("return")
            # A missing command fails the operation, yet it has an exit code like any other.
            if code is None or (ended["status"] != "Success" and code not in (126, 127)):
                raise self.connection.refusal(ended["err"] or f"it ended as {ended['status']}", doing)
            logs = [found["output"][stream].partition("?")[0].removeprefix("/1.0/") for stream in ("1", "2")]
            for log in logs:
                output.append(self._read(self.connection.request("get", log, doing, is_api=False, stream=True), doing))
        finally:
            for log in logs:
                # Nothing may stay on the host, and a failure to clean up must not hide the command's own result.
                with suppress(LxdError):
                    self.connection.request("delete", log, doing)
            self.leftovers.unread.discard(started["metadata"]["id"])
        said, complained = (found.decode(errors="replace") for found in output)
        return ExecResult(code=code, stdout=said, stderr=complained or ended["err"])

    def talk(self, name: str, command: list[str], *, timeout: float = 120, limit: int) -> AbstractContextManager[Talk]:
        """See `Lxd.talk`."""
        return conversation(self.connection, name, command, timeout=timeout, limit=limit)

    def push(self, name: str, path: str, content: bytes, *, mode: int = 0o600, uid: int = 0, gid: int = 0) -> None:
        """See `Lxd.push`."""
        meta = {"type": "file", "write": "overwrite", "mode": f"{mode:04o}", "uid": str(uid), "gid": str(gid)}
        headers = {f"X-{kind}-{key}": value for kind in ("LXD", "Incus") for key, value in meta.items()}
        headers["Content-Type"] = "application/octet-stream"
        self._file("post", name, path, f"write `{path}` in `{name}`", data=content, headers=headers)

    def pad(self, name: str, path: str, size: int) -> None:
        """See `Lxd.pad`."""
        self.push(name, path, os.urandom(size))

    def pull(self, name: str, path: str) -> bytes:
        """See `Lxd.pull`."""
        doing = f"read `{path}` in `{name}`"
        answer = self._file("get", name, path, doing, is_api=False, stream=True)
        kind = answer.headers.get("X-LXD-type") or answer.headers.get("X-Incus-type")
        if kind != "file":
            answer.close()
            raise LxdError(f"{self.connection.product} could not {doing}: it is no file.")
        return self._read(answer, doing)

    def _read(self, answer: Any, doing: str) -> bytes:
        """Read a response in pieces: no more than MOST bytes, and as a whole within SHORT seconds."""
        end = time.monotonic() + SHORT
        content = bytearray()
        with self.connection.words(doing), answer:
            for piece in answer.iter_content(1 << 20):
                content += piece
                if len(content) > MOST:
                    raise LxdError(f"{self.connection.product} could not {doing}: it has more than {MOST >> 20} MiB.")
                if time.monotonic() > end:
                    raise LxdUnavailable(f"{self.connection.product} did not {doing} within {SHORT} seconds.")
        return bytes(content)

    def remove(self, name: str, path: str) -> None:
        """See `Lxd.remove`."""
        with suppress(_FileNotThere):
            self._file("delete", name, path, f"delete `{path}` in `{name}`")

    def _file(self, verb: str, name: str, path: str, doing: str, **arguments: Any) -> Any:
        """Make one request about a file; repeat it while LXD's helper for files is ending, as it does when idle.

        Such a helper lives on for a moment after its socket is gone, and until it is gone LXD uses no other.
        """
        end, pause = time.monotonic() + _HELPER_ENDS, 0.02
        while True:
            try:
                with self._absent_file(name, path):
                    answer = self.connection.request(
                        verb, f"{path_of(name)}/files", doing, params={"path": path}, timeout=SHORT, **arguments
                    )
                    self._changed[name] = time.monotonic()
                    return answer
            except HelperGone:
                if time.monotonic() > end:
                    raise
                time.sleep(pause)
                pause *= 1.5

    @contextmanager
    def _absent_file(self, name: str, path: str) -> Iterator[None]:
        """Raise `_FileNotThere` where NotFound means the file and not the instance."""
        try:
            yield
        except NotFound as error:
            if "instance" in str(error.__cause__).lower():
                raise
            raise _FileNotThere(f"There is no `{path}` in `{name}`.") from error

    # -- quotas of the pool ---------------------------------------------------------------------------------------

    def quotas(self, name: str) -> Quotas | None:
        """See `Lxd.quotas`."""
        return btrfs.read(self.execute(name, btrfs.ASK, timeout=int(SHORT)).stdout)

    def recount(self, name: str, filesystem: str) -> None:
        """See `Lxd.recount`."""
        doing = f"have the pool `{self._pool}` counted anew"
        if self.endpoint.startswith("https://"):
            raise LxdError(f"The bot cannot {doing}: its server is on another machine.")
        try:
            btrfs.recount(self.root_path(name), filesystem)
        except OSError as error:
            raise LxdError(f"The bot could not {doing}: {error.strerror or error}.") from error

    def root_path(self, name: str) -> str:
        """See `Lxd.root_path`."""
        found = self.connection.get(f"{path_of(name)}/state", f"read the state of `{name}`")
        if found["pid"] <= 0:
            raise LxdError(f"{self.connection.product} has no root of `{name}`: it does not run.")
        return f"/proc/{found['pid']}/root"


class _FileNotThere(NotFound):
    """The instance exists, but the file in it does not."""
