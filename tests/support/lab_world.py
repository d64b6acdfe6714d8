"""A bot over the whole lab: a cluster and two standalone servers, an edge on each host, and a client that writes."""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bot.local_stack import build_blueprint
from bot.lxd.gateway import LxdGateway
from bot.lxd.products import INCUS
from bot.lxd.protocol import Instance, LxdError, LxdUnavailable
from bot.model.labels import label_of
from bot.providers import gateways, real_edge, real_edges
from bot.settings import load
from tests.support.lab import ROOT, SINGLE, Lab, configuration
from tests.support.real_lxd import SHARED, without_lxd
from tests.support.workspace import APP_TOKEN, BOT_TOKEN
from tests.support.world import NO_SNAPSHOTS, World, archive, make_tiny_blueprint

BASE_DOMAIN = "lab.localhost"


class LabWorld(World):
    """The world of a bot with several servers."""

    bot_command = (sys.executable, "-m", "tests.support.held_bot")

    def __init__(self, lab: Lab, environment: dict[str, str], folder: Path) -> None:
        settings = load(environment=environment)
        self.servers: dict[str, LxdGateway] = gateways(settings)
        super().__init__(self.servers[settings.lxd.name], settings, environment, folder)
        self.edge = real_edge(settings, self.lxd, "node1", settings.edge.listen)
        self.lab = lab

    def instances_of(self, tenant: str) -> list[str]:
        """Return the present and previous containers of a tenant, as `host/name role status`."""
        return [
            f"{one.location or server}/{one.name} {label_of(one.config, 'role')} {one.status}"
            for server, lxd in self.servers.items()
            for one in self.seen(lxd)
            if label_of(one.config, "tenant") == tenant
        ]

    @staticmethod
    def seen(lxd: LxdGateway) -> list[Instance]:
        """Return the instances of a server, none if it cannot be reached."""
        try:
            return lxd.instances()
        except LxdError:
            return []

    def remove(self, *tenants: str) -> None:
        """Delete what is left of tenants; the bot is killed first, as it may still work on one after a failed test."""
        self.kill()
        for lxd in self.servers.values():
            for one in lxd.instances():
                if label_of(one.config, "tenant") in tenants:
                    lxd.stop(one.name, force=True)
                    lxd.update(one.name, {"security.protection.delete": None})
                    lxd.delete(one.name)
        real_edges(self.settings, self.servers).apply()

    def operation(self) -> str:
        """Return the state of the newest operation."""
        return str(self.bot.rows("SELECT state FROM operations ORDER BY id DESC LIMIT 1")[0]["state"])

    def serves(self, tenant: str) -> str:
        """Return the one host whose container serves the tenant; fail if several run, or if no page answers."""
        running = [one for one in self.instances_of(tenant) if one.endswith("Running")]
        assert len(running) == 1, running
        assert " tenant " in running[0], running
        assert self.edge.probe(f"{tenant}.{BASE_DOMAIN}").login
        return running[0].partition("/")[0]


def environment_of(state: Path) -> dict[str, str]:
    """Return the environment of a bot over the lab."""
    return {
        "MAUTIC_OPS_CONFIG": str(ROOT / "mautic-ops.toml"),
        "MAUTIC_OPS_BOT__STATE": str(state),
        "MAUTIC_OPS_BOT__BASE_DOMAIN": BASE_DOMAIN,
        "MAUTIC_OPS_SNAPSHOTS__BALLAST": "0",
        **NO_SNAPSHOTS,
        **archive(),
        "SLACK_BOT_TOKEN": BOT_TOKEN,
        "SLACK_APP_TOKEN": APP_TOKEN,
    }


@pytest.fixture(scope="session")
def fleet(lab: Lab) -> Lab:
    """The lab with blueprints on its first host, and an edge on every host."""
    (ROOT / "mautic-ops.toml").write_text(configuration(lab))
    settings = load(environment=environment_of(SHARED / "host"))
    servers = gateways(settings)
    make_tiny_blueprint(servers[settings.lxd.name].at("node1"))
    build_blueprint(settings, servers[settings.lxd.name].at("node1"), print)
    real_edges(settings, servers).ensure()
    return lab


@pytest.fixture
def lab_world(fleet: Lab, tmp_path: Path) -> Iterator[LabWorld]:
    """A fresh bot and workspace over the lab."""
    made = LabWorld(fleet, environment_of(tmp_path / "state"), tmp_path)
    yield made
    made.close()


@pytest.fixture
def lab_world_with_incus(fleet: Lab, tmp_path: Path) -> Iterator[LabWorld]:
    """A fresh bot over the lab and an Incus server beside it."""
    try:
        node = fleet.add_incus()
    except LxdUnavailable as error:
        without_lxd(error, INCUS)
    file = ROOT / "with-incus.toml"
    file.write_text(configuration(fleet, (*SINGLE, node.name)))
    settings = load(environment=environment_of(SHARED / "host") | {"MAUTIC_OPS_CONFIG": str(file)})
    real_edges(settings, gateways(settings)).ensure()
    made = LabWorld(fleet, environment_of(tmp_path / "state") | {"MAUTIC_OPS_CONFIG": str(file)}, tmp_path)
    yield made
    made.close()


@dataclass
class Client:
    """A client that submits a tenant's form again and again through the front edge."""

    edge: str
    authority: str
    domain: str
    path: str
    acknowledged: list[str] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    """Seconds between one acknowledgement and the next."""
    name: str = "writer"
    """The beginning of its e-mail addresses."""

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._trust = ssl.create_default_context(cadata=self.authority)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        number, last = 0, time.monotonic()
        while not self._over.is_set():
            number += 1
            email = f"{self.name}-{number}@example.com"
            if self._submit(email):
                self.acknowledged.append(email)
                self.gaps.append(time.monotonic() - last)
                last = time.monotonic()
            time.sleep(0.02)

    def _submit(self, email: str) -> bool:
        """Submit the form; return whether the submission was acknowledged."""
        # As Mautic's own script does: without `messenger` a real Mautic answers with a redirect, accepted or not.
        body = f"mauticform%5BformId%5D=1&mauticform%5Bemail%5D={email}&mauticform%5Bmessenger%5D=1"
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPSConnection(self.domain, timeout=10, context=self._trust)
            plain = socket.create_connection((self.edge, 443), 10)
            connection.sock = self._trust.wrap_socket(plain, server_hostname=self.domain)
            try:
                headers = {"Content-Type": "application/x-www-form-urlencoded"}
                connection.request("POST", self.path, body, headers)
                answer = connection.getresponse()
                return answer.status == 200 and b'"success":0' not in answer.read()
            finally:
                connection.close()
        return False
