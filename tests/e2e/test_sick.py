"""A tenant with problems on real LXD: found within one sweep, one thread for each, its recovery reported once."""

from __future__ import annotations

import re
import time
from typing import Any

from tests.support.pools import count_anew
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, World

HEARD_IN = "general"
"""The channel in which the bot posts by itself, apart from the cards of operations."""
PLANS = '[plans.small]\ndisk = "12GiB"\n'
GIB = 1 << 30


def heads(world: World) -> list[dict[str, Any]]:
    """Return the first messages of the tenant's incidents, as they are now."""
    return [
        message
        for message in world.workspace.messages(HEARD_IN)
        if "*sick-x*" in message["text"] and re.search(r"Incident \d+ ·", str(message.get("blocks")))
    ]


def sweep(world: World) -> None:
    """Run `/mautic schedule run health` to its end, and wait until its incidents and notes are posted."""
    world.run_job("health")
    world.workspace.command("operator", CHANNEL, "/mautic schedule run incidents")
    eventually(lambda: not world.bot.rows("SELECT 1 FROM incidents WHERE announced < revision"))
    eventually(lambda: not world.bot.rows("SELECT 1 FROM incident_notes WHERE posted IS NULL"))


def open_kinds(world: World) -> set[str]:
    return {
        row["kind"] for row in world.bot.rows("SELECT kind FROM incidents WHERE tenant = 'sick-x' AND closed IS NULL")
    }


def inside(world: World, *command: str) -> None:
    assert world.lxd.execute("sick-x", list(command)).code == 0, command


def disk(world: World) -> int:
    """Return the bytes that the tenant uses.

    If btrfs deleted something that it had not finished counting, as after an earlier test, only a scan makes it count.
    """
    inside(world, "sync")
    count_anew(world.lxd)
    return world.lxd.state("sick-x").disk


def test_a_sick_tenant_is_found_reported_once_repaired_and_resolved(world: World) -> None:
    world.bot.kill()
    config = world.settings.state / "mautic-ops.toml"
    config.write_text(PLANS)
    world.bot.environment |= {"MAUTIC_OPS_SLACK__CHANNEL": "C0GENERAL", "MAUTIC_OPS_CONFIG": str(config)}
    world.bot.start()
    try:
        card = world.ask("new sick-x")
        world.approve(card)
        world.wait_for(card, "is live")
        world.workspace.command("operator", CHANNEL, "/mautic schedule pause snapshots")
        sweep(world)
        assert open_kinds(world) == set()
        page = world.edge.probe("sick-x.e2e.localhost")
        assert page.valid_from < time.time() < page.valid_until < page.valid_from + 86_400, (
            "certificates of Caddy's own authority last half a day"
        )

        inside(world, "systemctl", "stop", "mautic-worker@email", "cron")
        inside(world, "fallocate", "-l", "10600M", "/var/lib/filled")
        eventually(lambda: disk(world) > 10 * GIB)
        sweep(world)
        assert open_kinds(world) == {"worker", "cron", "disk"}
        inside(world, "systemctl", "stop", "mariadb")
        sweep(world)
        assert open_kinds(world) == {"worker", "cron", "disk", "database"}
        found = heads(world)
        assert len(found) == 4, "one thread each"

        world.workspace.command("operator", CHANNEL, "/mautic digest sick-x")
        digest = str(world.whisper("operator", "cron down"))
        for word in ("e-mail not sending", "cron down", "disk nearly full", "database down"):
            assert word in digest

        inside(world, "systemctl", "start", "mariadb", "cron")
        inside(world, "rm", "/var/lib/filled")
        eventually(lambda: disk(world) < 9 * GIB)
        head = next(one for one in found if "e-mail not sending" in one["text"])
        world.workspace.click("operator", HEARD_IN, head["ts"], "incident_logs")
        world.workspace.wait_for_message(HEARD_IN, "`mautic` log", user="operator")
        world.workspace.click("operator", HEARD_IN, head["ts"], "incident_restart")
        eventually(
            lambda: world.bot.rows("SELECT 1 FROM operations WHERE command = 'restart' AND state = 'succeeded'"), 60
        )
        for _ in range(2):
            sweep(world)
            assert open_kinds(world) == set()
        assert {one["ts"] for one in heads(world)} == {one["ts"] for one in found}
        for one in heads(world):
            assert one["text"].startswith(":large_green_circle:")
            thread = world.workspace.messages(HEARD_IN, thread_ts=one["ts"])
            assert sum("Resolved after" in message["text"] for message in thread) == 1
    finally:
        world.remove("sick-x")
