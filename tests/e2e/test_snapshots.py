"""What is kept of a tenant, on real parts: snapshots are taken, listed and pruned, and an archive is purged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.lxd.gateway import LxdGateway
from bot.model.labels import label_of
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, World, settings_for


@pytest.fixture
def world(host: LxdGateway, tmp_path: Path) -> Iterator[World]:
    """A bot that keeps daily snapshots only: an hour might end while the test runs."""
    settings, environment = settings_for(host.endpoint, tmp_path / "state")
    made = World(host, settings, environment | {"MAUTIC_OPS_SNAPSHOTS__DAILY": "7"}, tmp_path)
    yield made
    made.close()


def test_snapshots_are_taken_listed_and_pruned_and_an_archive_is_purged(world: World) -> None:
    try:
        world.workspace.command("operator", CHANNEL, "/mautic schedule pause snapshots")
        world.whisper("operator", "paused. Resume:")
        card = world.ask("new snap-x")
        world.approve(card)
        world.wait_for(card, "is live")

        card = world.ask("snapshot snap-x --note 'before the sale'", user="operator")
        taken = world.wait_for(card, "taken: ")
        assert re.search(r"writes paused [\d.]+ s", taken)

        card = world.ask("snapshot snap-x", user="operator")
        world.wait_for(card, "taken: ")
        world.workspace.command("operator", CHANNEL, "/mautic snapshots snap-x")
        shown = str(world.whisper("operator", "2 snapshots")["blocks"])
        assert "before the sale" in shown
        assert "expires at the next cleanup" in shown

        # By hand, as the job is paused: the older of the two is more than the policy keeps of this day.
        world.workspace.command("operator", CHANNEL, "/mautic schedule run snapshots")
        eventually(lambda: len(world.lxd.snapshots("snap-x")) == 1)
        (left,) = world.lxd.snapshots("snap-x")
        assert label_of(left.config, "snapshot-note") == ""
        (upkeep,) = world.bot.rows("SELECT * FROM operations WHERE requester = 'system'")
        assert (upkeep["command"], upkeep["channel"]) == ("prune", "")
        world.workspace.command("operator", CHANNEL, "/mautic schedule")
        assert "Paused by" in str(world.whisper("operator", "Background jobs")["blocks"])
        assert world.edge.probe("snap-x.e2e.localhost").login

        for words, told in (("delete snap-x", "is archived"), ("purge snap-x", "permanently deleted")):
            card = world.ask(words, user="operator")
            world.approve(card, "approve snap-x")
            world.wait_for(card, told)
        assert world.instances_of("snap-x") == []
    finally:
        world.remove("snap-x")
