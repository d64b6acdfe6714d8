"""Runs the verbs of the in-tenant tool `mautic-ctl`, which the bot sends to the tenant with each request."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from bot.guest.answers import LIMIT, PAGES, decode
from bot.guest.console import allowed
from bot.lxd.protocol import Lxd, LxdError, LxdUnavailable, NotFound, Talk, size_bytes
from bot.model.findings import SENT
from bot.model.pages import Pages
from bot.model.tenants import PlanSize
from bot.settings import HealthSettings

SOURCE = Path(__file__).parent / "blueprint" / "mautic_ctl"
CLOSED = "/etc/nginx/sealed"
MUTE = "/etc/nginx/muted"
"""Marker file of a copy that is not the tenant yet: the copy sends nothing, even once CLOSED is gone."""
_START = """
import os, sys
asking, answering, nowhere = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
for number in range(3):
    os.dup2(nowhere, number)
with open(asking, "rb", closefd=False) as pipe:
    request = pipe.readline()
    tool = os.memfd_create("mautic-ctl")
    with open(tool, "wb", closefd=False) as file:
        file.write(pipe.read(int(pipe.readline())))
sys.path.insert(0, f"/proc/self/fd/{tool}")
from mautic_ctl.main import main
from mautic_ctl.wire import Wire
main(sys.argv[1], request, Wire(asking, answering))
"""
"""Reads the request and the tool. Programs that the tool starts get /dev/null as their standard streams and none of the
two pipes, so they cannot answer in its place."""
PAGE = 90
"""Seconds within which the login page must answer inside a container that was just started."""
_WORK_ENDS = 300
"""Seconds for all work inside to end: a worker has 40 seconds for its current message (two minutes with older
furniture), and a job that sends has one minute for its batch."""
_LET_GO = 20
"""Seconds for which writes are locked at most, plus the time to report it."""

Mail = Literal["", "send", "drop", "off", "back"]
"""What happens to mail that waits. send: it is sent; drop: it is kept in a table and not sent; off: it waits until
somebody decides; back: dropped mail is put back and waits. Empty: it waits if the tenant was down for long, and is sent
otherwise."""
Part = Literal["worker", "cron", "web", "database"]
Log = Literal["mautic", "nginx", "php", "mariadb", "cron"]


@dataclass
class BackupLock:
    """The result of locking a tenant's writes: whether a copy taken meanwhile is consistent, and if not, why.

    `seconds`: how long writes waited, known once the lock is released.
    """

    consistent: bool
    why: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Disk:
    """What a tenant uses of its disk, in bytes, counted as its limit counts; None: unknown, or no limit.

    `free`: what the tenant can still write, bounded by its limit and by the pool. `why`: for people, the reason that
    `used` is unknown.
    """

    used: int | None
    limit: int | None
    free: int
    why: str = ""

    @property
    def known(self) -> bool:
        """Whether usage and limit are both known, so that they can be compared."""
        return self.used is not None and bool(self.limit)


class Mautic:
    """The Mautic in an instance of one host. Longer than other classes: it has a method for each kind of request."""

    def __init__(self, lxd: Lxd) -> None:
        self.lxd = lxd
        self._tool = _packed()

    def call(
        self, instance: str, verb: str, request: Mapping[str, Any], *, timeout: float = 120, limit: int = LIMIT
    ) -> dict[str, Any]:
        """Run one verb of the tool and return its answer, in the shape that `bot.guest.answers` gives it.

        Raises LxdError with the tool's sentence if the verb fails, TenantAnswerError if its answer has another shape,
        is larger than `limit` bytes, or takes longer than `timeout` seconds. Request and answer never appear in argv or
        on a disk.
        """
        with self.asked(instance, verb, request, timeout, limit) as talk:
            return decode(instance, verb, talk.line())

    @contextmanager
    def asked(
        self, instance: str, verb: str, request: Mapping[str, Any], timeout: float, limit: int = LIMIT
    ) -> Iterator[Talk]:
        """Start the tool on a request and yield the conversation with it."""
        command = ["/usr/bin/python3", "-c", _START, verb]
        with self.lxd.talk(instance, command, timeout=timeout, limit=limit) as talk:
            length = f"\n{len(self._tool)}\n"
            talk.send(json.dumps(dict(request)).encode() + length.encode() + self._tool)
            yield talk

    def identity(
        self,
        instance: str,
        *,
        domain: str,
        site_url: str,
        username: str,
        email: str,
        password: str,
        database_password: str,
        secret_key: str,
        size: PlanSize,
        edge_address: str,
        slot: int | None = None,
    ) -> None:
        """Re-key a clone: machine, host keys, database, Mautic's own secrets, admin; then open it.

        `slot`: see `bot.model.slots.slot_of`; None: the clone keeps its own.
        """
        self.call(
            instance,
            "identity",
            {
                "hostname": instance,
                "domain": domain,
                "site_url": site_url,
                "admin": {"username": username, "email": email, "password": password},
                "db_password": database_password,
                "secret_key": secret_key,
                "edge_address": edge_address,
                "slot": slot,
                **_sizes(size),
            },
        )

    def health(
        self,
        instance: str,
        limits: HealthSettings,
        size: PlanSize | None = None,
        *,
        usage: int = 0,
        awake: float | None = None,
        timeout: float = 20,
    ) -> dict[str, Any]:
        """Check what Mautic itself never reports: `{"healthy": bool, "checks": {name: {ok, text, known}}, "facts": …}`.

        Among the facts are: services {unit: state}, database (whether it answers), contacts, crons {command:
        {last_success, late, why}}, queues {name: {due, age}}, queue_age (seconds that the oldest due message has waited
        for its worker), log_errors_day, disk {used, limit, free, why}, memory, memory_limit, closed, version. Facts
        from the database are missing when it does not answer. All are in `bot.guest.answers.Facts`.

        Args:
            limits: the thresholds at which checks fail.
            size: the tenant's plan, whose limits apply where the tenant's own cannot be seen.
            usage: the bytes that the tenant uses according to LXD; they apply where its limit counts the same.
            awake: for how many seconds the host has been looked at without a gap, None: for long. What is late only
                because of the gap is not `known` to be bad.
        """
        request: dict[str, Any] = {
            "limits": {name: getattr(limits, name) for name in SENT},
            "disk": _disk_known(size, usage),
            "memory": size_bytes(size.memory) if size else None,
        }
        if awake is not None:
            request["awake"] = int(awake)
        return self.call(instance, "health", request, timeout=timeout)

    def disk(self, instance: str, size: PlanSize | None = None, *, usage: int = 0, timeout: float = 20) -> Disk:
        """Measure a running tenant's disk; `size` and `usage` as in `health`."""
        return disk_of(self.call(instance, "disk", {"disk": _disk_known(size, usage)}, timeout=timeout))

    @contextmanager
    def backup_lock(self, instance: str) -> Iterator[BackupLock]:
        """Make writes to the database wait while a snapshot is taken, so that the snapshot is of one moment.

        Writes wait while the body runs, but at most some 15 seconds, even if the bot dies. A tenant that cannot lock
        its writes can still be snapshotted: then `BackupLock.consistent` is false, and `why` gives the reason.
        """
        with ExitStack() as stack:
            try:
                talk = stack.enter_context(self.asked(instance, "backup_lock", {}, 60 + _LET_GO))
                answer = decode(instance, "backup_lock", talk.line())
                lock = BackupLock(answer["held"], answer["why"])
            except (LxdUnavailable, NotFound):
                raise
            except LxdError as error:
                lock = BackupLock(False, str(error))
            held = lock.consistent
            try:
                yield lock
            finally:
                if held:
                    _let_go(instance, talk, lock)

    def close_copy(self, instance: str) -> None:
        """Close an instance, running or stopped, so that it boots closed: it serves nobody and sends nothing.

        Once CLOSED is removed, the instance serves, but still sends nothing; `open` removes both markers.
        """
        self.mute(instance)
        self._mark(instance, CLOSED, b"copy\n")

    def close(self, instance: str, reason: str, *, timeout: float = 180) -> None:
        """Show a polite page and stop crons and workers until the instance is opened, even across reboots."""
        self.call(instance, "close", {"reason": reason}, timeout=timeout)

    def open(self, instance: str) -> None:
        """Start every service that does not run, and open a closed instance."""
        self.call(instance, "open", {}, timeout=180)

    def quiesce(self, instance: str) -> float:
        """Stop all work for a final copy: closed, everything acknowledged on disk, the database shut down cleanly.

        Returns the seconds for which visitors have been turned away by then.
        """
        seconds: float = self.call(instance, "quiesce", {}, timeout=_WORK_ENDS)["seconds"]
        return seconds

    def stop_work(self, instance: str) -> None:
        """Stop cron and workers, then turn visitors away; the database runs until the instance is stopped."""
        self.call(instance, "stop_work", {}, timeout=_WORK_ENDS)

    def unquiesce(self, instance: str) -> None:
        """Undo `quiesce` or `stop_work`, here or in the copy: restart all services, and open it if it was open before.

        Safe to call when there is nothing to undo.
        """
        self.call(instance, "unquiesce", {}, timeout=180)

    def wait_for_page(self, instance: str, seconds: int = PAGE) -> float:
        """Wait until the login page answers inside, closed or not, and return the seconds that it took.

        The instance may have just been started, so a request that fails too early is repeated.
        """
        began = time.monotonic()
        while True:
            left = seconds - int(time.monotonic() - began)
            try:
                self.call(instance, "page", {"seconds": left}, timeout=left + 30)
                return time.monotonic() - began
            except (LxdUnavailable, NotFound):
                raise
            except LxdError:
                if left < 1:
                    raise
                time.sleep(0.05)

    def pages(self, instance: str, *, thrown_away: bool = False, seconds: int = 90) -> Pages:
        """Request the pages that visitors see and the files that they link, once each, inside; closed or not.

        Args:
            thrown_away: whether the instance is a copy that nobody will use. Only then a download (which is counted)
                and the page of a real contact's mail (which unsubscribes) are requested too. All other requests change
                nothing.
            seconds: the time for all of them; what is not done by then is left out and listed in `left_out`.
        """
        request = {"thrown_away": thrown_away, "seconds": seconds}
        return Pages.of(self.call(instance, "pages", request, timeout=seconds + 30, limit=PAGES))

    def counts(self, instance: str, since: float = 0) -> dict[str, int]:
        """Return how many contacts, submissions and opt_outs came since then, and last_write (times: epoch seconds)."""
        answer = self.call(instance, "counts", {"since": int(since)})
        return {name: answer[name] for name in ("contacts", "submissions", "opt_outs", "last_write")}

    def mail(self, instance: str, since: float = 0, *, timeout: float = 120) -> dict[str, Any]:
        """Count the mail that would go out now, and what was sent since then (epoch seconds).

        Returns waits, oldest (epoch seconds, 0: nothing waits), kinds {queue, messages, events, broadcasts: n}, sent,
        and whether outbound mail is off.
        """
        return self.call(instance, "mail", {"since": int(since)}, timeout=timeout)

    def release(
        self,
        instance: str,
        choice: Mail,
        *,
        late: float = 0,
        batch: int = 0,
        unmute: bool = False,
        only: int = 0,
        page: bool = False,
    ) -> dict[str, Any]:
        """Carry out the choice on the mail that waits; `waits`, `oldest` and `kinds` are what was found.

        Args:
            choice: without one, mail keeps waiting if outbound mail is off, or no job has succeeded for `late` seconds.
            batch: the number under which dropped rows are kept and counted: a repeated call drops nothing twice.
            unmute: whether jobs and workers of a mute instance begin.
            only: the batch that `back` puts back; 0: all batches. Mails to opted-out or erased contacts stay dropped.
            page: wait for the login page inside as well, PAGE seconds at most, and fail if the instance is open: one
                process does beside a boot what otherwise takes two.

        Returns the `choice` that was carried out, and how many rows were `dropped`.
        """
        request = {"choice": choice, "late": int(late), "batch": batch, "unmute": unmute, "only": only}
        if page:
            request["page"] = PAGE
        return self.call(instance, "release", request, timeout=300)

    def mute(self, instance: str) -> None:
        """Keep jobs and workers of a stopped or closed instance off until `release` or `open`; visitors are served."""
        self._mark(instance, MUTE, b"")

    def _mark(self, instance: str, path: str, content: bytes) -> None:
        """Replace whatever is there with a file: writing into a FIFO that the tenant left would block forever."""
        self.lxd.remove(instance, path)
        self.lxd.push(instance, path, content, mode=0o644)

    def restart_part(self, instance: str, part: Part) -> None:
        """Restart the services of one part of a tenant."""
        self.call(instance, "restart", {"part": part}, timeout=420)

    def used(self, instance: str) -> int:
        """Return the bytes of all files, counted one by one, which is slow."""
        used: int = self.call(instance, "used", {})["used"]
        return used

    def sync(self, instance: str) -> None:
        """Write to disk what is only in memory yet, so that it is counted."""
        self.call(instance, "sync", {})

    def logs(self, instance: str, what: Log, lines: int = 50) -> str:
        """Return the last lines of a log, secrets masked, 60,000 characters at most."""
        text: str = self.call(instance, "logs", {"what": what, "lines": lines})["text"]
        return text

    def console(self, instance: str, words: Sequence[str]) -> tuple[int, str]:
        """Run one of the allowed commands of Mautic; return exit code and output. Raises NotAllowed for others.

        The command is stopped after five minutes; Mautic's own schedule allows more.
        """
        answer = self.call(instance, "console", {"words": allowed(words)}, timeout=330)
        return answer["code"], answer["output"]

    def resize(self, instance: str, size: PlanSize) -> None:
        """Give MariaDB, PHP and the workers the sizes of a plan, without interrupting service."""
        self.call(instance, "resize", _sizes(size))


def _let_go(instance: str, talk: Talk, lock: BackupLock) -> None:
    """Release the lock, and record how long writes waited, or that the lock had already ended."""
    try:
        talk.send(b"\n")
        answer = decode(instance, "let go", talk.line())
    except LxdError as error:
        lock.consistent, lock.why = False, str(error)
        return
    lock.seconds = answer["seconds"]
    if not answer["kept"]:
        lock.consistent, lock.why = False, "writes were let go before the snapshot had ended"


@cache
def _packed() -> bytes:
    """Return the tool as one file: a zip of its package."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as tool:
        for module in sorted(SOURCE.glob("*.py")):
            tool.writestr(zipfile.ZipInfo(f"{SOURCE.name}/{module.name}"), module.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def disk_of(told: Mapping[str, Any]) -> Disk:
    """Return the disk that an answer of the tool describes."""
    return Disk(told["used"], told["limit"], told["free"], told["why"])


def _disk_known(size: PlanSize | None, usage: int) -> dict[str, int | None]:
    return {"used": usage or None, "limit": size_bytes(size.disk) if size else None}


def _sizes(size: PlanSize) -> dict[str, Any]:
    return {
        "innodb_buffer_pool": size.innodb_buffer_pool,
        "fpm_children": size.fpm_children,
        "email_workers": size.email_workers,
    }
