"""A tenant whose disk is full on real LXD: found by what its limit counts, and helped by its incident's advice."""

from __future__ import annotations

import re

from bot.guest.mautic import Mautic
from bot.lxd.protocol import ExecResult
from tests.support.pools import count_anew, stops_counting
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
LAST_BYTES = "! dd if=/dev/zero of=/var/lib/last-{size} bs={size} count=30000 && sync"
"""Fills the space that is left, and succeeds if a write is refused; `count` keeps it from filling the pool."""

BEYOND = "for n in 1 2 3; do fallocate -l 1G /var/lib/beyond-$n && sync || exit 1; done"
"""Writes more than the limit, in pieces: even a kernel that has stopped counting refuses what is only reserved."""


def inside(world: World, command: str) -> ExecResult:
    ended = world.lxd.execute("full-x", ["sh", "-c", command])
    assert ended.code == 0, (command, ended)
    return ended


def service(world: World, name: str) -> str:
    return world.lxd.execute("full-x", ["systemctl", "is-active", name]).stdout.strip()


def incident(world: World, kind: str) -> str:
    """Run one sweep, and return the text of the tenant's open incident of this kind, "" where there is none."""
    world.run_job("health")
    rows = world.bot.rows("SELECT text FROM incidents WHERE tenant = 'full-x' AND kind = ? AND closed IS NULL", kind)
    return str(rows[0]["text"]) if rows else ""


def stops_and_is_mended(world: World, mautic: Mautic) -> None:
    """Stop the kernel's counting: the bot reports no stale figure, no limit holds, and the next sweep repairs that."""
    before = mautic.disk("full-x").used
    assert before
    with stops_counting(world.lxd, "full-x"):
        inside(world, f"({BEYOND}) && rm /var/lib/beyond-*")
        inside(world, "fallocate -l 900M /var/lib/filled && sync")
        unknown = mautic.disk("full-x")
        assert (unknown.used, unknown.limit) == (None, 2 * GIB)
        assert "no limit holds" in unknown.why
        world.workspace.command("operator", CHANNEL, "/mautic status full-x")
        world.whisper("operator", "Disk:. usage can't be measured .the kernel has stopped counting")
    world.run_job("health")
    eventually(lambda: mautic.disk("full-x").used)
    assert (mautic.disk("full-x").used or 0) > before + (880 << 20)
    inside(world, f"! ({BEYOND}) && rm /var/lib/beyond-*")
    assert world.bot.rows("SELECT 1 FROM audit WHERE event = 'quotas.recounted'")
    assert world.bot.rows("SELECT 1 FROM incidents WHERE kind = 'quotas'") == []


def test_a_full_tenant_is_found_its_advice_helps_and_a_plan_that_is_too_small_is_refused(world: World) -> None:
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
        count_anew(world.lxd)
        stops_and_is_mended(world, mautic)
        world.lxd.snapshot("full-x", "all-of-it")
        eventually(lambda: world.lxd.state("full-x").disk < GIB / 10)
        left = mautic.disk("full-x").free
        inside(world, f"fallocate -l {left - (100 << 20)} /var/lib/most && sync")
        for size in ("1M", "4k"):
            inside(world, LAST_BYTES.format(size=size))
        full = mautic.disk("full-x")
        assert full.limit == 2 * GIB
        assert full.used is not None
        assert full.used > 0.97 * full.limit
        assert full.free < 64 << 20
        inside(world, "systemctl kill -s KILL mariadb; systemctl stop mautic-worker@email; true")
        eventually(lambda: service(world, "mariadb") != "active")

        text = incident(world, "disk")
        assert "2.0 GiB of 2.0 GiB" in text
        assert incident(world, "database") == "", "the disk is the cause"
        world.workspace.command("operator", CHANNEL, "/mautic status full-x")
        world.whisper("operator", r":x: .Disk:. 2\.0 GiB of 2\.0 GiB \(")
        (advice,) = re.findall(r"`/mautic ([^`]+)`", text)
        assert advice == "resize full-x --plan medium"
        world.done(advice, "now has plan medium")
        eventually(lambda: service(world, "mariadb") == "active")
        eventually(lambda: world.edge.probe("full-x.e2e.localhost").login)
        assert incident(world, "disk") == ""

        world.workspace.command("operator", CHANNEL, "/mautic resize full-x --plan small")
        told = str(world.whisper("operator", "too much for the 2.0 GiB of small"))
        assert "uses 2.0 GiB of disk, too much for the 2.0 GiB of small" in told
        inside(world, "mariadb -e 'CREATE DATABASE still; DROP DATABASE still'")
        assert mautic.disk("full-x").limit == 3 * GIB
    finally:
        world.lxd.update("full-x", {}, {"root": {**world.lxd.instance("full-x").devices["root"], "size": "5GiB"}})
        world.remove("full-x")
