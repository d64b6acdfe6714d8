"""The main job on Incus, as on LXD: a tenant is created, snapshotted, restored, inspected and archived."""

from __future__ import annotations

import re

from tests.support.workspace import eventually
from tests.support.world import CHANNEL, World


def test_a_tenant_runs_on_incus_from_its_request_to_its_archive(incus_world: World) -> None:
    world = incus_world
    try:
        world.workspace.command("operator", CHANNEL, "/mautic doctor")
        doctor = str(world.whisper("operator", "Blueprint:")["blocks"])
        assert "Incus 6." in doctor
        assert "LXD" not in doctor

        card = world.ask("new story-i --note incus")
        world.approve(card)
        assert "https://story-i.e2e.localhost/s/login" in world.wait_for(card, "is live")
        found = world.edge.probe("story-i.e2e.localhost")
        assert (found.status, found.login) == (200, True)
        assert world.credentials("story-i")["User"] == "admin"

        instance = world.present("story-i")
        world.lxd.push(instance, "/var/www/mautic/media/files/kept", b"before")
        world.done("snapshot story-i --note before", "taken: ", approve="")
        (snapshot,) = [one.name for one in world.lxd.snapshots(instance) if not one.name.startswith("move-")]
        world.lxd.push(instance, "/var/www/mautic/media/files/kept", b"after")

        card = world.ask(f"restore story-i {snapshot}", "operator")
        world.approve(card, "approve story-i")
        world.wait_for(card, "is restored to")
        assert world.lxd.pull(world.present("story-i"), "/var/www/mautic/media/files/kept") == b"before"

        world.workspace.command("account-manager", CHANNEL, "/mautic status story-i")
        status = str(world.whisper("account-manager", "Public page")["blocks"])
        assert ":x:" not in status, status

        world.workspace.command("operator", CHANNEL, "/mautic hosts")
        assert re.search(r"Incus 6\.", str(world.whisper("operator", "tenant")["blocks"]))

        world.done("delete story-i", "is archived", approve="approve story-i")
        assert world.edge.probe("story-i.e2e.localhost").login is False
        assert eventually(lambda: not world.lxd.instance(world.instances_of("story-i")[0]).running)
    finally:
        world.remove("story-i")
