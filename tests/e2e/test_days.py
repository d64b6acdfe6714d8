"""A tenant's daily operations on real parts: stopped, suspended, resized, inspected, restored to a snapshot."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import urllib.parse

import pytest

from tests.support.forms import make_form
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, LISTEN, World


def submit(world: World, tenant: str, email: str) -> int:
    """Submit a form as a visitor of the tenant, through the edge, and return the status."""
    domain = f"{tenant}.e2e.localhost"
    trust = ssl.create_default_context(cadata=world.edge.authority())
    connection = http.client.HTTPSConnection(domain, timeout=30, context=trust)
    connection.sock = trust.wrap_socket(socket.create_connection((LISTEN, 443), 30), server_hostname=domain)
    body = urllib.parse.urlencode({"mauticform[formId]": "1", "mauticform[email]": email})
    try:
        connection.request("POST", "/form/submit?formId=1", body, {"Content-Type": "application/x-www-form-urlencoded"})
        return connection.getresponse().status
    finally:
        connection.close()


def next_second() -> None:
    now = int(time.time())
    eventually(lambda: time.time() > now + 1)


def contacts(world: World, tenant: str) -> set[str]:
    query = ["mariadb", "--batch", "--skip-column-names", "mautic", "-e", "SELECT email FROM leads"]
    return set(world.lxd.execute(world.present(tenant), query).stdout.split())


def make(world: World, tenant: str) -> None:
    """Create a tenant with a form."""
    world.done(f"new {tenant}", "is live")
    make_form(world.lxd, tenant)


def test_a_restore_brings_back_the_snapshot_and_keeps_the_old_container(world: World) -> None:
    tenant = "back-x"
    try:
        make(world, tenant)
        assert submit(world, tenant, "before@example.com") == 200
        # Databases and LXD record times in whole seconds.
        next_second()
        world.done(f"snapshot {tenant} --note 'before the sale'", "taken: ", approve="")
        (snapshot,) = [one.name for one in world.lxd.snapshots(tenant)]
        next_second()
        assert submit(world, tenant, "after@example.com") == 200

        card = world.ask(f"restore {tenant} {snapshot}", "operator")
        assert "1 contact, 1 form submission, 0 unsubscribes" in world.card(card), world.card(card)
        world.approve(card)
        world.whisper("ops-lead", "add the tenant name", thread=card)
        world.approve(card, f"approve {tenant}")
        world.wait_for(card, "is restored to")
        assert contacts(world, tenant) == {"before@example.com"}
        assert submit(world, tenant, "now@example.com") == 200
        assert world.edge.probe(f"{tenant}.e2e.localhost").login
        retired = world.lxd.instance(tenant)
        assert (retired.running, retired.config["security.protection.delete"]) == (False, "true")

        world.workspace.command("operator", CHANNEL, f"/mautic restore {tenant} s-0")
        world.whisper("operator", "has no snapshot")
        world.workspace.command("account-manager", CHANNEL, f"/mautic restore {tenant} {snapshot}")
        world.whisper("account-manager", "You can't use")
    finally:
        world.remove(tenant)


def test_a_tenant_is_stopped_suspended_resized_and_inspected(world: World) -> None:
    tenant = "days-x"
    domain = f"{tenant}.e2e.localhost"
    try:
        make(world, tenant)
        world.done(f"stop {tenant}", "is stopped")
        assert world.edge.probe(domain).status == 503
        world.done(f"start {tenant}", "is started", approve="")
        assert world.edge.probe(domain).login

        world.done(f"suspend {tenant}", "is suspended")
        assert world.edge.probe(domain).status == 503
        units = world.lxd.execute(tenant, ["systemctl", "is-active", "mautic-worker@email"]).stdout
        assert "inactive" in units
        world.done(f"restart {tenant}", " restarted. ", approve="")
        assert world.edge.probe(domain).status == 503, "a restart does not open a suspended tenant"
        world.done(f"resume {tenant}", "is online again: ", approve="")
        assert world.edge.probe(domain).login
        assert submit(world, tenant, "again@example.com") == 200

        world.done(f"resize {tenant} --plan medium", "now has plan medium")
        assert world.lxd.instance(tenant).config["limits.memory"] == "8GiB"
        world.done(f"restart {tenant} --part worker", "restarted", approve="")

        for words, seen in (
            (f"console {tenant} mautic:segments:update", r"finished \(exit code 0\)"),
            (f"logs {tenant}", "of the `mautic` log|the `mautic` log is empty"),
            (f"status {tenant}", "plan medium"),
        ):
            world.workspace.command("operator", CHANNEL, f"/mautic {words}")
            world.whisper("operator", seen)
        for words, why in (
            (f"console {tenant} mautic:install", "`mautic:install` is not allowed"),
            (f"start {tenant}", "is already running"),
            (f"resume {tenant}", "is not suspended"),
        ):
            world.workspace.command("operator", CHANNEL, f"/mautic {words}")
            world.whisper("operator", why)
    finally:
        world.remove(tenant)


@pytest.mark.parametrize("words", ["console days-y cache:clear", "logs days-y"])
def test_an_account_manager_may_not_look_into_a_tenant(world: World, words: str) -> None:
    try:
        world.done("new days-y --version 0.0.1-tiny", "is live")
        world.workspace.command("account-manager", CHANNEL, f"/mautic {words}")
        world.whisper("account-manager", "operators and approvers|operator or")
    finally:
        world.remove("days-y")
