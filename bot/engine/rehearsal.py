"""Rehearses the upgrade of a tenant, exactly as it will be done, on a temporary closed copy without a network."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from bot.engine.context import Context, Run
from bot.engine.copies import Copy, ensure_closed
from bot.engine.steps import remove
from bot.fleet.inventory import Host
from bot.guest.blueprint.archive import Archive
from bot.guest.upgrades import Upgrades, problem
from bot.lxd.protocol import LxdError, LxdUnavailable
from bot.model import evidence as found
from bot.model.evidence import Evidence
from bot.model.labels import Role, State, as_labels
from bot.model.pages import Pages
from bot.model.tenants import Tenant, candidate_name
from bot.model.words import tame
from bot.settings import Settings
from bot.store import evidence

PATIENCE = 0.05
"""Seconds for which one table may be counted while the tenant serves: `drift` does not use these counts."""
BEFORE, AFTER = "pages-before.json", "pages-after.json"
LOG = "rehearsal.log"
"""The file that a failed rehearsal leaves: the error, Mautic's output and the end of its log."""
KEPT = 7 * 86_400.0
"""Seconds for which evidence and its files are kept."""
LINES, PART = 300, 40_000
"""Lines of Mautic's log that are kept, and characters of each part of the file."""
_STOP, _COPY, _START = "stop", "copy", "start"


def files(settings: Settings, operation: int) -> Path:
    """Return the folder of the files that a rehearsal leaves beside its evidence: the cache, pictures."""
    return settings.state / "evidence" / str(operation)


def pages(settings: Settings, operation: int) -> tuple[Pages, Pages]:
    """Return what visitors of the copy saw before and after the upgrade; raises OSError if the files are gone."""
    folder = files(settings, operation)
    before, after = (msgspec.json.decode((folder / name).read_bytes(), type=Pages) for name in (BEFORE, AFTER))
    return before, after


def drift(host: Host, tenant: Tenant) -> dict[str, str]:
    """Return what an upgrade of a running tenant depends on, as of now; see `bot.model.evidence.drift_of`."""
    told = Upgrades(host.mautic).evidence(tenant.instance, time.time(), PATIENCE)
    return found.drift_of(told, {"files of the bot": str(tenant.furniture), "plan": tenant.plan})


class Rehearsal:
    """The steps of a rehearsal. A file holds what later steps need, so that a crash between two steps costs nothing.

    Args:
        old: the tenant.
        archive: returns the archive of the release to upgrade to.
        offer: the upgrade is requested once the rehearsal has passed.
    """

    def __init__(self, run: Run, old: Tenant, version: str, archive: Callable[[], Archive], *, offer: bool) -> None:
        self.run = run
        self.old = old
        self.version = version
        self.archive = archive
        self.offer = offer
        self.host = run.fleet.of(old)
        self.name = candidate_name(old.name, run.operation)
        self.after = self.name
        """The instance that is upgraded."""
        self.upgrades = Upgrades(self.host.mautic)
        self._copy = Copy(self.host.lxd, self.name, run.operation)
        self._folder = files(run.settings, run.operation)
        self._output = ""

    def clone(self) -> None:
        """Copy the tenant as it is now, closed and without a network, and start the copy."""
        self.must_have_release()
        self._note(drift=drift(self.host, self.old))
        with self._timed(_COPY):
            self._copy.make(self._clone)
        # A copy that does not even run unchanged is not upgraded.
        with self._kept("clone"), self._timed(_START):
            self._start()

    def must_have_release(self) -> None:
        """Raise Refused, before anything is copied, if the release's archive is gone or another file by now."""
        self.archive()

    def _start(self) -> None:
        self.host.start(self.name)
        self.host.mautic.wait_for_page(self.name)

    def _clone(self) -> None:
        lxd = self.host.lxd
        old = lxd.instance(self.old.instance)
        mark = as_labels(role=Role.REHEARSAL, state=State.MOVING, operation=self.run.operation, copied="")
        limits = {key: value for key, value in old.config.items() if key.startswith("limits.")}
        config = {**limits, **mark, "boot.autostart": "false", "security.protection.delete": "true"}
        devices = {"root": dict(old.devices["root"]), "eth0": {"type": "none"}}
        lxd.copy(self.old.instance, self.name, config=config, devices=devices)
        ensure_closed(self.host, self.name)

    @contextmanager
    def _kept(self, step: str) -> Iterator[None]:
        """Store as evidence that the upgrade fails, at which step and why, with the log, unless the host is silent."""
        try:
            yield
        except LxdUnavailable:
            raise
        except LxdError as error:
            self._keep_log(error)
            drift_then = self._notes().get("drift", {})
            told = Evidence(
                tenant=self.old.name,
                before=self.old.version,
                version=self.version,
                operation=self.run.operation,
                at=self.run.now(),
                drift=drift_then,
                failed=str(error),
                step=step,
            )
            evidence.add(self.run.database, told, offer=False)
            raise

    def stage(self) -> str:
        """Record what the copy is like, and unpack the release beside the one that serves in it."""
        with self._kept("stage"):
            self._look()
            staged = self.upgrades.stage(self.name, self.archive())
        return f"unpacked in {staged['seconds']:.1f} s"

    def _look(self) -> None:
        """Record what the copy is like before the upgrade."""
        disk = self.host.lxd.state(self.name).disk
        self._note(before=self.upgrades.evidence(self.name), since=int(self.run.now()), disk=disk)
        # Pages are timed, and the time of the first page after a boot says nothing.
        self.host.mautic.wait_for_page(self.name)
        self._write(BEFORE, msgspec.json.encode(self.host.mautic.pages(self.name, thrown_away=True)))

    def upgrade(self) -> str:
        """Upgrade the copy, and record its answer; raises LxdError with Mautic's own words if that fails."""
        with self._kept("upgrade"):
            done = self.upgrades.upgrade(self.after, self.version)
            self._output = done["migrated"]["output"]
            if wrong := problem(done):
                raise LxdError(wrong)
        self._note(done=done)
        return f"{sum(done['phases'].values()):.1f} s on the copy"

    def judge(self) -> str:
        """Compare the copy with what it was, store evidence and cache; return how long clients will be offline."""
        notes = self._notes()
        before, done = notes["before"], notes["done"]
        if "after" not in notes:
            with self._kept("judge"):
                self._write("cache.tar.gz", self.upgrades.pack_cache(self.after))
                self._write(AFTER, msgspec.json.encode(self.host.mautic.pages(self.after, thrown_away=True)))
                after = self.upgrades.evidence(self.after, notes["since"])
            took = self.host.lxd.state(self.after)
            grown = max(0, took.disk - notes["disk"])
            self._note(after=after, disk=grown, memory=took.memory_peak)
        if _STOP not in self._notes()["seconds"]:
            if not self.host.lxd.instance(self.name).running:
                # The last try was interrupted at the stop, whose time is part of the evidence.
                self._start()
            with self._timed(_STOP):
                self.host.mautic.quiesce(self.name)
                self.host.lxd.stop(self.name, force=True)
        notes = self._notes()
        after = notes["after"]
        told = Evidence(
            tenant=self.old.name,
            before=before["version"],
            version=self.version,
            operation=self.run.operation,
            at=self.run.now(),
            drift=notes["drift"],
            phases=done["phases"],
            around=notes["seconds"],
            disk=notes["disk"],
            memory=notes["memory"],
            migrations=tuple(done["migrated"]["ran"]),
            written=sum(done["migrated"]["rows"].values()),
            took=self.run.now() - self.run.operations.get(self.run.operation).created,
            **found.pages_of(*pages(self.run.settings, self.run.operation)),
            **{**found.compare(before, after), **self.told(before, after)},
        )
        evidence.add(self.run.database, told, offer=self.offer)
        return f"clients will be away for about {told.away:.0f} s" if told.passed else "not as good as before"

    def told(self, _before: Mapping[str, Any], _after: Mapping[str, Any]) -> dict[str, Any]:
        """Return fields that a subclass adds to the evidence or replaces, by two answers of `Upgrades.evidence`."""
        return {}

    def clean(self) -> None:
        """Delete the copy, and the notes that only the rehearsal needed."""
        if self._copy.found() is not None:
            remove(self.host.lxd, self.name)
        with suppress(FileNotFoundError):
            (self._folder / "notes.json").unlink()

    # -- notes ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        seconds = self._notes().get("seconds", {})
        self._note(seconds={**seconds, name: round(time.monotonic() - began, 2)})

    def _notes(self) -> dict[str, Any]:
        path = self._folder / "notes.json"
        told: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return told

    def _note(self, **told: Any) -> None:
        self._write("notes.json", json.dumps({**self._notes(), **told}).encode())

    def _keep_log(self, error: LxdError) -> None:
        """Store Mautic's output and the end of its log; both are free of secrets, but contain e-mail addresses."""
        ended = ""
        with suppress(LxdError):
            # A copy that died of the upgrade does not answer.
            ended = self.host.mautic.logs(self.name, "mautic", LINES)
        parts = {"The error": str(error), "What Mautic said": self._output, "The end of Mautic's log": ended}
        told = [f"== {title} ==\n{tame(text[-PART:], PART)}\n" for title, text in parts.items() if text]
        self._write(LOG, "\n".join(told).encode())

    def _write(self, name: str, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._folder / f".{name}"
        new.write_bytes(content)
        new.replace(self._folder / name)


def forget(context: Context) -> None:
    """Delete the evidence of old rehearsals with its files, whose logs contain e-mail addresses.

    Evidence counts for a day; the rest of KEPT is for people who look something up.
    """
    before = context.uptime.before(KEPT)
    evidence.forget(context.database, before)
    with suppress(FileNotFoundError):
        for folder in (context.settings.state / "evidence").iterdir():
            known = context.database.read("SELECT 1 FROM evidence WHERE operation = ?", folder.name)
            # A rehearsal that failed early, and may be retried, has files and no evidence.
            if not known and folder.stat().st_mtime < before:
                shutil.rmtree(folder, ignore_errors=True)
