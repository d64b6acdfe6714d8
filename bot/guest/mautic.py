"""What is done inside a tenant, by way of the in-tenant tool `mautic-ctl`, which is sent with each request."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
"""Mark of a copy that is not the tenant yet: it sends nothing, also when its seal is gone."""
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
"""What reads the request and the tool. Nothing that the tool starts can speak in its place."""
PAGE = 90
"""Seconds that a container that was started has until its login page is there inside."""
_LET_GO = 20
"""Seconds for which writes are held at most, and what it takes to say so."""

Mail = Literal["", "send", "drop", "off", "back"]
"""What becomes of mail that waits: it goes, it is kept in a table and goes no more, it waits until somebody decides, or
what was dropped is put back and waits. Empty: it waits where the tenant stood still for long, and goes elsewhere."""
Part = Literal["worker", "cron", "web", "database"]
Log = Literal["mautic", "nginx", "php", "mariadb", "cron"]


@dataclass
class BackupLock:
    """How it went to lock a tenant's writes: is what was copied meanwhile one consistent state, and if not, why?

    `seconds` that writes waited are known once they are let go.
    """

    consistent: bool
    why: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Disk:
    """What a tenant uses of its disk, in bytes, counted as its limit counts; None: that cannot be known, or no limit.

    `free`: what it can still write; the pool's end is its own too. `why`: for people, why `used` is not known.
    """

    used: int | None
    limit: int | None
    free: int
    why: str = ""

    @property
    def known(self) -> bool:
        """Whether there are two figures that can be held against each other."""
        return self.used is not None and bool(self.limit)


class Mautic:
    """The Mautic in an instance of one host. Longer than other classes: a method for each question to a tenant."""

    def __init__(self, lxd: Lxd) -> None:
        self.lxd = lxd
        self._tool = _packed()

    def call(
        self, instance: str, verb: str, request: Mapping[str, Any], *, timeout: float = 120, limit: int = LIMIT
    ) -> dict[str, Any]:
        """Run one verb of the tool and return its answer, of the shape that `bot.guest.answers` gives it.

        Raises LxdError with the tool's sentence when it fails, TenantAnswerError where its answer is no answer, or is
        not there in so many seconds. Nothing of request and answer is in argv, or stands anywhere on a disk.
        """
        with self.asked(instance, verb, request, timeout, limit) as talk:
            return decode(instance, verb, talk.line())

    @contextmanager
    def asked(
        self, instance: str, verb: str, request: Mapping[str, Any], timeout: float, limit: int = LIMIT
    ) -> Iterator[Talk]:
        """Have the tool at work on a request, to be spoken with."""
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

        `slot`: as `bot.model.slots.slot_of`; None: it keeps its own.
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
        timeout: float = 20,
    ) -> dict[str, Any]:
        """Look at all that Mautic itself never reports: `{"healthy": bool, "checks": {name: {ok, text}}, "facts": …}`.

        Facts are: services {unit: state}, database (it answers), contacts, crons {command: {last_success, late, why}},
        queues {name: {due, age}}, queue_age (seconds that the oldest due message has waited for its worker),
        log_errors_day, disk {used, limit, free, why}, memory, memory_limit, closed, version; what needs the database
        is not there when it does not answer.

        Args:
            limits: from where on a check fails.
            size: the tenant's plan, whose limits count where its own cannot be seen.
            usage: the bytes that LXD says it uses, which count where they are what its limit counts.
        """
        request = {
            "limits": {name: getattr(limits, name) for name in SENT},
            "disk": _disk_known(size, usage),
            "memory": size_bytes(size.memory) if size else None,
        }
        return self.call(instance, "health", request, timeout=timeout)

    def disk(self, instance: str, size: PlanSize | None = None, *, usage: int = 0, timeout: float = 20) -> Disk:
        """Measure a running tenant's disk; `size` and `usage` as in `health`."""
        return disk_of(self.call(instance, "disk", {"disk": _disk_known(size, usage)}, timeout=timeout))

    @contextmanager
    def backup_lock(self, instance: str) -> Iterator[BackupLock]:
        """Let writes to the database wait while a snapshot is taken, so that all of it is of one moment.

        They wait for as long as the body runs, at most some 15 seconds, even if the bot dies. A tenant that cannot hold
        is no reason against a snapshot: then `BackupLock.consistent` is false, and `why` says why.
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
        """Close an instance, running or stopped, so that a copy boots closed: it serves nobody and sends nothing.

        Without CLOSED it serves and sends nothing yet; `open` takes all away.
        """
        self.mute(instance)
        self._mark(instance, CLOSED, b"copy\n")

    def close(self, instance: str, reason: str, *, timeout: float = 180) -> None:
        """Show a polite page and stop crons and workers, over reboots too, until it is opened."""
        self.call(instance, "close", {"reason": reason}, timeout=timeout)

    def open(self, instance: str) -> None:
        """Start all that does not run, and open what was closed."""
        self.call(instance, "open", {}, timeout=180)

    def quiesce(self, instance: str) -> float:
        """End all work for a last copy: closed, everything acknowledged is on disk, the database shut down cleanly.

        Returns the seconds for which clients were turned away by then.
        """
        seconds: float = self.call(instance, "quiesce", {}, timeout=180)["seconds"]
        return seconds

    def stop_work(self, instance: str) -> None:
        """Turn visitors away and end what sends, at once; the database goes on until the instance is stopped."""
        self.call(instance, "stop_work", {}, timeout=180)

    def unquiesce(self, instance: str) -> None:
        """Take `quiesce` or `stop_work` back, here or in the copy: all runs again, and is open if it was open before.

        Safe where there is nothing to take back.
        """
        self.call(instance, "unquiesce", {}, timeout=180)

    def wait_for_page(self, instance: str, seconds: int = PAGE) -> float:
        """Wait inside until the login page is there, closed or not, and return the seconds that it took.

        An instance may have been started just now: what is asked of it too early is asked again.
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
        """Ask inside, closed or not, for what visitors see, and for the files that it links, once each.

        Args:
            thrown_away: It is a copy that nobody will use. Only there a download is asked for, which counts it, and
                the page of a real contact's mail, which unsubscribes. Elsewhere nothing is changed by it.
            seconds: For all of them; what was not done by then is left out, and says so.
        """
        request = {"thrown_away": thrown_away, "seconds": seconds}
        return Pages.of(self.call(instance, "pages", request, timeout=seconds + 30, limit=PAGES))

    def counts(self, instance: str, since: float = 0) -> dict[str, int]:
        """Return the contacts, submissions and opt_outs since then (epoch seconds), and the time of last_write."""
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
        """Do with the mail that waits what was chosen; `waits`, `oldest` and `kinds` are what was found.

        Args:
            choice: without one, mail waits on where nothing has worked for `late` seconds.
            batch: what is dropped is kept under this number, and counted by it: again it drops nothing twice.
            unmute: a mute instance begins to work with it.
            only: the batch that `back` brings back; 0: all that was ever dropped.
            page: its login page has to be there inside as well, within PAGE seconds, closed or not: one process does
                beside a boot what takes two else.

        Returns the `choice` that was made, and how many rows were `dropped`.
        """
        request = {"choice": choice, "late": int(late), "batch": batch, "unmute": unmute, "only": only}
        if page:
            request["page"] = PAGE
        return self.call(instance, "release", request, timeout=300)

    def mute(self, instance: str) -> None:
        """Keep jobs and workers from a stopped or closed instance until `release` or `open`; visitors are served."""
        self._mark(instance, MUTE, b"")

    def _mark(self, instance: str, path: str, content: bytes) -> None:
        """Lay a file there in the place of whatever is: to write into a pipe that a tenant left would take for ever."""
        self.lxd.remove(instance, path)
        self.lxd.push(instance, path, content, mode=0o644)

    def restart_part(self, instance: str, part: Part) -> None:
        """Restart what does one job in a tenant."""
        self.call(instance, "restart", {"part": part}, timeout=300)

    def used(self, instance: str) -> int:
        """Count the bytes of all files, one by one, which takes its time."""
        used: int = self.call(instance, "used", {})["used"]
        return used

    def sync(self, instance: str) -> None:
        """Have put on disk what is not there yet, so that it is counted."""
        self.call(instance, "sync", {})

    def logs(self, instance: str, what: Log, lines: int = 50) -> str:
        """Return the last lines of a log, without secrets, 60,000 characters at most."""
        text: str = self.call(instance, "logs", {"what": what, "lines": lines})["text"]
        return text

    def console(self, instance: str, words: Sequence[str]) -> tuple[int, str]:
        """Run one of the allowed commands of Mautic; return exit code and output. Raises NotAllowed for others.

        It is stopped after five minutes; Mautic's own schedule has more patience.
        """
        answer = self.call(instance, "console", {"words": allowed(words)}, timeout=330)
        return answer["code"], answer["output"]

    def resize(self, instance: str, size: PlanSize) -> None:
        """Give MariaDB, PHP and the workers the sizes of a plan, without a break."""
        self.call(instance, "resize", _sizes(size))


def _let_go(instance: str, talk: Talk, lock: BackupLock) -> None:
    """Tell the holder to let go, and learn how long writes waited, or that it had let go before it was told."""
    try:
        talk.send(b"\n")
        answer = decode(instance, "let go", talk.line())
    except LxdError as error:
        lock.consistent, lock.why = False, str(error)
        return
    lock.seconds = answer["seconds"]
    if not answer["kept"]:
        lock.consistent, lock.why = False, "writes were let go before the snapshot had ended"


def _packed() -> bytes:
    """The tool as one file: a zip of its package."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as tool:
        for module in sorted(SOURCE.glob("*.py")):
            tool.writestr(zipfile.ZipInfo(f"{SOURCE.name}/{module.name}"), module.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def disk_of(told: Mapping[str, Any]) -> Disk:
    """Read what the tool tells of a disk."""
    return Disk(told["used"], told["limit"], told["free"], told["why"])


def _disk_known(size: PlanSize | None, usage: int) -> dict[str, int | None]:
    return {"used": usage or None, "limit": size_bytes(size.disk) if size else None}


def _sizes(size: PlanSize) -> dict[str, Any]:
    return {
        "innodb_buffer_pool": size.innodb_buffer_pool,
        "fpm_children": size.fpm_children,
        "email_workers": size.email_workers,
    }
