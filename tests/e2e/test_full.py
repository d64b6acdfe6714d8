"""A tenant whose disk is full on real LXD: told by what its limit counts, helped by what its incident says."""

from __future__ import annotations

import re

from bot.lxd import ExecResult
from bot.mautic import Mautic
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, World

HEARD_IN = "general"
PLANS = """
[plans.small]
disk = "2GiB"
memory = "2GiB"
[plans.medium]
disk = "3GiB"
memory = "2GiB"
innodb_buffer_pool = "512M"
"""
GIB = 1 << 30
FILL = "dd if=/dev/zero of=/var/lib/filled2 bs=1M; sync; dd if=/dev/zero of=/var/lib/filled3 bs=4k; sync"


def inside(world: World, command: str) -> ExecResult:
    return world.lxd.execute("full-x", ["sh", "-c", command])


def incident(world: World, kind: str) -> str:
    """The text of an open incident of the tenant, "" where there is none; after one sweep."""
    world.run_job("health")
    rows = world.bot.rows("SELECT text FROM incidents WHERE tenant = 'full-x' AND kind = ? AND closed IS NULL", kind)
    return str(rows[0]["text"]) if rows else ""


def test_a_full_tenant_is_found_and_the_advice_helps_it_and_what_is_too_small_is_refused(world: World) -> None:
    world.bot.kill()
    config = world.settings.state / "mautic-ops.toml"
    config.write_text(PLANS)
    world.bot.environment |= {"MAUTIC_OPS_SLACK__CHANNEL": "C0GENERAL", "MAUTIC_OPS_CONFIG": str(config)}
    world.bot.start()
    mautic = Mautic(world.lxd)
    try:
        card = world.ask("new full-x")
        world.approve(card)
        world.wait_for(card, "is live")
        inside(world, "fallocate -l 900M /var/lib/filled; sync")
        world.lxd.snapshot("full-x", "all-of-it")
        assert world.lxd.state("full-x").disk < GIB / 10, "what LXD counts is what nothing else shares"
        inside(world, FILL)
        full = mautic.disk("full-x")
        assert full.limit == 2 * GIB
        assert full.used is not None
        assert full.used > 0.97 * full.limit
        assert full.free < 64 << 20
        inside(world, "systemctl kill -s KILL mariadb; systemctl stop mautic-worker@email; true")
        eventually(lambda: inside(world, "systemctl is-active mariadb").stdout.strip() != "active")

        text = incident(world, "disk")
        assert "2.0 GiB of 2.0 GiB" in text
        assert incident(world, "database") == "", "the disk is its cause"
        world.workspace.command("operator", CHANNEL, "/mautic status full-x")
        assert ":x: *Disk:* 2.0 GiB of 2.0 GiB in use" in str(world.whisper("operator", "Disk:"))
        (advice,) = re.findall(r"`/mautic ([^`]+)`", text)
        assert advice == "resize full-x --plan medium"
        world.done(advice, "has the plan medium now")
        assert inside(world, "systemctl is-active mariadb").stdout.strip() == "active"
        eventually(lambda: world.edge.probe("full-x.e2e.localhost").login)
        assert incident(world, "disk") == ""

        world.workspace.command("operator", CHANNEL, "/mautic resize full-x --plan small")
        told = str(world.whisper("operator", "too much for small"))
        assert "uses 2.0 GiB of disk, too much for small's 2.0 GiB" in told
        assert inside(world, "mariadb -e 'CREATE DATABASE still; DROP DATABASE still'").code == 0
        assert mautic.disk("full-x").limit == 3 * GIB
    finally:
        world.lxd.update("full-x", {}, {"root": {**world.lxd.instance("full-x").devices["root"], "size": "5GiB"}})
        world.remove("full-x")
