"""The whole system on real parts: the bot's process, a local workspace, a real LXD with blueprint and edge."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bot.guest.blueprint.build import blueprints
from bot.guest.blueprint.recipe import FURNITURE
from bot.local_stack import build_blueprint
from bot.lxd.gateway import LxdGateway
from bot.lxd.protocol import NotFound
from bot.model.labels import as_labels, label_of
from bot.providers import real_edge
from bot.settings import Settings, load
from tests.support.real_lxd import INCUS_PLACE, LXD_PLACE, PROJECT, SHARED, TINY, Place
from tests.support.workspace import APP_TOKEN, BOT_TOKEN, Workspace, WorkspaceServer, eventually

CHANNEL = "mautic-ops"
TINY_VERSION = "0.0.1-tiny"
LISTEN = LXD_PLACE.listen
NO_SNAPSHOTS = {f"MAUTIC_OPS_SNAPSHOTS__{tier}": "0" for tier in ("HOURLY", "DAILY", "WEEKLY", "MONTHLY")}
"""No scheduled snapshots: each bot would take them of the tenants of all tests."""


def archive() -> dict[str, str]:
    """Return settings with the release that `make bench ARCHIVE=… SHA256=…` names; none for the double."""
    named = {key: os.environ.get(f"MAUTIC_OPS_TEST_{key}", "") for key in ("ARCHIVE", "SHA256")}
    return {f"MAUTIC_OPS_BLUEPRINT__{key}": value for key, value in named.items() if value}


def settings_for(lxd_socket: str, state: Path, place: Place = LXD_PLACE) -> tuple[Settings, dict[str, str]]:
    """Return the settings of a bot over the tests' LXD project, and the environment that gives them to a process."""
    environment = {
        "MAUTIC_OPS_BOT__STATE": str(state),
        "MAUTIC_OPS_BOT__BASE_DOMAIN": "e2e.localhost",
        # All worlds of a server share one pool.
        "MAUTIC_OPS_SNAPSHOTS__BALLAST": "0",
        "MAUTIC_OPS_LXD__ENDPOINT": lxd_socket,
        "MAUTIC_OPS_LXD__PROJECT": PROJECT,
        "MAUTIC_OPS_LXD__POOL": PROJECT,
        "MAUTIC_OPS_LXD__PROFILE": PROJECT,
        "MAUTIC_OPS_LXD__NETWORK": place.network,
        "MAUTIC_OPS_LXD__SUBNET": place.subnet,
        "MAUTIC_OPS_EDGE__LISTEN": place.listen,
        **NO_SNAPSHOTS,
        **archive(),
        "SLACK_BOT_TOKEN": BOT_TOKEN,
        "SLACK_APP_TOKEN": APP_TOKEN,
    }
    return load(environment=environment), environment


class BotProcess:
    """`python -m bot run`, to start, kill and start again."""

    command: Sequence[str] = (sys.executable, "-m", "bot", "run")

    def __init__(self, environment: dict[str, str], state: Path, workspace: Workspace) -> None:
        self.environment = os.environ | environment | {"MAUTIC_OPS_SLACK__API": workspace.api_url}
        self.state = state
        self.log = state / "bot.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the bot and wait until it is connected."""
        self.state.mkdir(parents=True, exist_ok=True)
        ready = self.state / "ready"
        ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)
        process = self.process

        def is_ready() -> bool:
            assert process.poll() is None, self.log.read_text()[-3000:]
            return ready.exists() and ready.read_text() == str(process.pid)

        eventually(is_ready, 90)

    def kill(self) -> None:
        """Kill the bot with SIGKILL."""
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Stop the bot with SIGTERM; return its exit code."""
        assert self.process
        self.process.terminate()
        return self.process.wait(60)

    def rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """Read the bot's database while the bot runs."""
        connection = sqlite3.connect(self.state / "bot.db", timeout=10)
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()


class World:
    """A workspace and a bot over the session's LXD, and what people do in them."""

    bot_command = BotProcess.command

    def __init__(self, lxd: LxdGateway, settings: Settings, environment: dict[str, str], folder: Path) -> None:
        self.lxd = lxd
        self.settings = settings
        self.edge = real_edge(settings, lxd)
        self.workspace = WorkspaceServer(folder / "workspace", "--retry-delays", "0,0.2,0.2")
        self.workspace.faults(limits=False)
        self.bot = BotProcess(environment, settings.state, self.workspace)
        self.bot.command = self.bot_command
        self.bot.start()

    def kill(self) -> None:
        """Kill the bot if it runs; an orderly stop has its own test."""
        if self.bot.process and self.bot.process.poll() is None:
            self.bot.kill()

    def close(self) -> None:
        """Kill both processes."""
        self.kill()
        self.workspace.kill()

    def credentials(self, tenant: str, user: str = "account-manager") -> dict[str, str]:
        """Ask for the first credentials; return what the modal shows, by label."""

        def shown() -> dict[str, str]:
            views = self.workspace.views(user)
            return dict(re.findall(r"\*([\w-]+):\* `([^`]+)`", str(views[-1]["blocks"]))) if views else {}

        # Retried, as Slack's three seconds for a modal may be over; none are revealed before it is shown.
        for _ in range(3):
            self.workspace.command(user, CHANNEL, f"/mautic credentials {tenant}")
            with suppress(AssertionError):
                return eventually(shown, 10)
        raise AssertionError(f"the first credentials of {tenant} were not shown")

    def ask(self, text: str, user: str = "account-manager") -> str:
        """Send a slash command that asks for an operation; return the ts of its card."""
        before = {message["ts"] for message in self.workspace.messages(CHANNEL)}
        self.workspace.command(user, CHANNEL, f"/mautic {text}")

        def card() -> str:
            return next((str(m["ts"]) for m in self.workspace.cards(CHANNEL) if m["ts"] not in before), "")

        return eventually(card)

    def approve(self, ts: str, words: str = "approve", user: str = "ops-lead") -> None:
        """Approve an operation by a typed reply in its card's thread."""
        self.workspace.message(user, CHANNEL, words, thread_ts=ts)

    def thread(self, ts: str) -> list[str]:
        """Return the texts of a thread, the card first."""
        return [message["text"] for message in self.workspace.messages(CHANNEL, thread_ts=ts)]

    def wait_for(self, ts: str, pattern: str, seconds: float = 180) -> str:
        """Wait for a matching message in a thread, and return it; on timeout the error shows the whole thread."""

        def look() -> str:
            return next((text for text in self.thread(ts) if re.search(pattern, text)), "")

        try:
            # Reading a thread costs CPU time, which the operation could use.
            return eventually(look, seconds, pause=0.2)
        except AssertionError:
            raise AssertionError(
                f"no {pattern!r} in {self.thread(ts)}; card: {self.card(ts)}; log: {self.bot.log.read_text()[-2000:]}"
            ) from None

    def card(self, ts: str) -> str:
        """Return all that a card shows, as JSON."""
        found = next(one for one in self.workspace.messages(CHANNEL) if one["ts"] == ts)
        return json.dumps(found["blocks"], ensure_ascii=False)

    def done(self, text: str, pattern: str, user: str = "operator", approve: str = "approve") -> str:
        """Ask, approve with the words `approve` (if any), wait for `pattern` in the thread; return the card's ts."""
        card = self.ask(text, user)
        if approve:
            self.approve(card, approve)
        self.wait_for(card, pattern)
        return card

    def begun(self, step: str) -> None:
        """Wait until the step with this key of the newest operation is recorded as begun."""
        sql = (
            "SELECT 1 FROM steps WHERE key = ? AND started IS NOT NULL AND operation = (SELECT max(id) FROM operations)"
        )
        give_up = time.monotonic() + 180
        while not self.bot.rows(sql, step):
            assert time.monotonic() < give_up, f"the step {step!r} never began"
            time.sleep(0.002)

    def kill_in(self, step: str) -> None:
        """Freeze the bot as soon as a step is recorded as begun, then kill it."""
        self.begun(step)
        assert self.bot.process
        self.bot.process.send_signal(signal.SIGSTOP)
        self.bot.kill()

    def whisper(self, user: str, pattern: str, thread: str = "") -> dict[str, Any]:
        """Wait for a matching message that only this person sees, in the channel or in a thread; return the latest."""

        def look() -> dict[str, Any] | None:
            mine = [m for m in self.workspace.messages(CHANNEL, user, thread) if m.get("is_ephemeral")]
            return next((m for m in reversed(mine) if re.search(pattern, json.dumps(m, ensure_ascii=False))), None)

        found = eventually(look)
        assert found
        return found

    def lxd_blueprint(self) -> str:
        """Return the instance of the double's blueprint."""
        built = [one for one in blueprints(self.lxd) if one.version != TINY_VERSION]
        return built[-1].instance

    def instances_of(self, tenant: str) -> list[str]:
        """Return the names of a tenant's present and previous instances."""
        return [one.name for one in self.lxd.instances() if label_of(one.config, "tenant") == tenant]

    def present(self, tenant: str, lxd: LxdGateway | None = None) -> str:
        """Return the name of the tenant's present container on a server."""
        (name,) = [
            one.name
            for one in (lxd or self.lxd).instances()
            if (label_of(one.config, "tenant"), label_of(one.config, "role")) == (tenant, "tenant")
        ]
        return name

    def run_job(self, name: str) -> None:
        """Run a job with `/mautic schedule run`, and wait for the end of a run that began after this call."""
        since = time.time()

        def done() -> bool:
            # The command is refused while an earlier run is in progress.
            self.workspace.command("operator", CHANNEL, f"/mautic schedule run {name}")
            sql = "SELECT 1 FROM jobs WHERE name = ? AND started >= ? AND finished >= started AND outcome = 'done'"
            give_up = time.monotonic() + 5
            while not (found := self.bot.rows(sql, name, since)) and time.monotonic() < give_up:
                time.sleep(0.02)
            return bool(found)

        eventually(done, 120)

    def remove(self, *tenants: str) -> None:
        """Delete what is left of tenants; the bot is killed first, as it may still work on one after a failed test."""
        self.kill()
        for tenant in tenants:
            for name in self.instances_of(tenant):
                self.lxd.stop(name, force=True)
                self.lxd.update(name, {"security.protection.delete": None})
                self.lxd.delete(name)
        self.edge.apply()


@pytest.fixture(scope="session")
def host(real_lxd: LxdGateway) -> LxdGateway:
    """The session's LXD with the double's blueprint, a tiny blueprint and the edge."""
    furnish(real_lxd, LXD_PLACE)
    return real_lxd


@pytest.fixture(scope="session")
def incus_host(real_incus: LxdGateway) -> LxdGateway:
    """The session's Incus, set up like `host`."""
    furnish(real_incus, INCUS_PLACE)
    return real_incus


def furnish(lxd: LxdGateway, place: Place) -> None:
    """Make the blueprints and the edge; both products share one cache of Debian images."""
    settings, _ = settings_for(lxd.endpoint, SHARED / "host", place)
    SHARED.mkdir(exist_ok=True)
    with (SHARED / "blueprint.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_tiny_blueprint(lxd)
        build_blueprint(settings, lxd, print)
        real_edge(settings, lxd).ensure()


def make_tiny_blueprint(lxd: LxdGateway) -> None:
    """Make a blueprint of the tiny image, for tests that need no Mautic: `new … --version 0.0.1-tiny`."""
    name = "blueprint--tiny"
    try:
        lxd.instance(name)
    except NotFound:
        config = as_labels(role="blueprint", version=TINY_VERSION, double=True, created=1, furniture=FURNITURE)
        # Its busybox cannot read its own labels, and does not close itself.
        config["security.devlxd" if lxd.server().product == "LXD" else "security.guestapi"] = "false"
        lxd.create(name, TINY, config=config, devices={})
        lxd.snapshot(name, "golden")


@pytest.fixture
def world(host: LxdGateway, tmp_path: Path) -> Iterator[World]:
    """A fresh bot and workspace over the session's LXD."""
    settings, environment = settings_for(host.endpoint, tmp_path / "state")
    made = World(host, settings, environment, tmp_path)
    yield made
    made.close()


@pytest.fixture
def incus_world(incus_host: LxdGateway, tmp_path: Path) -> Iterator[World]:
    """A fresh bot and workspace over the session's Incus."""
    settings, environment = settings_for(incus_host.endpoint, tmp_path / "state", INCUS_PLACE)
    made = World(incus_host, settings, environment, tmp_path)
    yield made
    made.close()
