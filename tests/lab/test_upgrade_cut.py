"""LXD dies or its pool fills during an upgrade: one container serves, the right one, with the old or new database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.fleet import releases
from bot.guest.blueprint.mautic_ctl.trees import BEFORE
from bot.lxd.gateway import LxdGateway
from bot.lxd.protocol import LxdError
from bot.settings import load
from tests.support.forms import make_form
from tests.support.lab import ROOT, Lab, configuration
from tests.support.lab_world import BASE_DOMAIN, Client, LabWorld, environment_of
from tests.support.upgrading import NEW, as_settings, fault, sql, to_upgrade_to, version_of
from tests.support.workspace import eventually
from tests.support.world import CHANNEL

TENANT = "cut-x"
HOST = "solo1"
SLOW = "20250915000000"
"""The second of the two migrations; when it begins, the first is done."""


@pytest.fixture
def world(fleet: Lab, tmp_path: Path) -> Iterator[LabWorld]:
    """A bot over the lab whose settings name a release, and a tenant whose upgrade was rehearsed."""
    file = ROOT / "upgrade.toml"
    file.write_text(f"{configuration(fleet)}\n{as_settings(to_upgrade_to(tmp_path))}")
    environment = environment_of(tmp_path / "state") | {"MAUTIC_OPS_CONFIG": str(file)}
    settings = load(environment=environment)
    settings.state.mkdir()
    assert releases.keep(settings) == []
    made = LabWorld(fleet, environment, tmp_path)
    try:
        made.done(f"new {TENANT} --host {HOST}", "is live")
        make_form(fleet.host(HOST), TENANT)
        made.done(f"rehearse {TENANT} {NEW}", "was rehearsed", approve="")
        yield made
    finally:
        made.remove(TENANT)
        made.close()


def is_swapped(lxd: LxdGateway, instance: str) -> bool:
    """Return whether the candidate has its new tree, so that its migrations run or are about to."""
    try:
        return lxd.execute(instance, ["test", "-d", str(BEFORE)]).code == 0
    except LxdError:
        return False


@pytest.mark.parametrize("cut", ["migrations", "change", "probe"])
def test_an_upgrade_survives_a_kill_of_lxd(world: LabWorld, cut: str) -> None:
    node, host = world.lab.nodes[HOST], world.lab.host(HOST)
    hold = world.bot.state / "hold"
    domain = f"{TENANT}.{BASE_DOMAIN}"
    if cut == "migrations":
        fault(host, TENANT, "slow_migration", SLOW)
    else:
        # The bot waits at the beginning of this step, which is named by its position in the plan.
        hold.write_text(f"started {('stage', 'close', 'upgrade', 'change', 'probe').index(cut)}")
    with Client(world.settings.edge.listen, world.edge.authority(), domain, "/form/submit?formId=1") as visitor:
        eventually(lambda: len(visitor.acknowledged) > 10)
        card = world.ask(f"upgrade {TENANT} {NEW}", "operator")
        number = world.bot.rows("SELECT max(id) AS id FROM operations")[0]["id"]
        world.approve(card)
        if cut == "migrations":
            eventually(lambda: is_swapped(host, f"{TENANT}--{number}"))
        else:
            world.begun(cut)
        node.kill()
        hold.unlink(missing_ok=True)
        node.start()
        said = world.wait_for(card, r"\* failed|now runs Mautic", 240)
        after = len(visitor.acknowledged)
        eventually(lambda: len(visitor.acknowledged) > after + 10)
    print(f"away for {max(visitor.gaps):.1f} s; {said}")
    assert world.serves(TENANT) == HOST
    present = world.present(TENANT, host)
    done = "now runs" in said
    assert version_of(host, present).startswith(NEW if done else "5.2.12")
    # Either both new migrations have run, or none.
    ran = sql(
        host,
        present,
        "SELECT version FROM migrations WHERE version LIKE '%Version2025080%' OR version LIKE '%Version20250915%'",
    )
    assert len(ran) == (2 if done else 0)
    assert set(visitor.acknowledged) - set(sql(host, present, "SELECT email FROM leads WHERE email <> ''")) == set()
    if cut == "migrations":
        assert not done
        assert "rolled back; clients saw the maintenance page for" in said


def test_an_upgrade_survives_a_full_pool(world: LabWorld) -> None:
    """On a full pool nothing starts, not even the old container. Deleting the candidate, which was never open, frees
    the space that the old container needs to serve again; if that is not enough, Undo works once there is more.
    """
    node, host = world.lab.nodes[HOST], world.lab.host(HOST)
    domain = f"{TENANT}.{BASE_DOMAIN}"
    fault(host, TENANT, "slow_migration", SLOW)
    with Client(world.settings.edge.listen, world.edge.authority(), domain, "/form/submit?formId=1") as visitor:
        eventually(lambda: len(visitor.acknowledged) > 10)
        card = world.ask(f"upgrade {TENANT} {NEW}", "operator")
        number = world.bot.rows("SELECT max(id) AS id FROM operations")[0]["id"]
        world.approve(card)
        eventually(lambda: is_swapped(host, f"{TENANT}--{number}"))
        with node.full(TENANT):
            said = world.wait_for(card, r"\* failed", 240)
            if "rolled back" in said:
                eventually(lambda: world.edge.probe(domain).login, 60)
        if f"*{TENANT} is offline.*" in said:
            # The candidate's space was not enough, or btrfs had not freed it yet.
            assert "Undo is safe" in said
            world.workspace.click("operator", CHANNEL, card, "undo")
        else:
            assert "rolled back; clients saw the maintenance page for" in said
        after = len(visitor.acknowledged)
        eventually(lambda: len(visitor.acknowledged) > after + 10, 120)
    assert world.serves(TENANT) == HOST
    assert version_of(host, TENANT).startswith("5.2.12")
    assert set(visitor.acknowledged) - set(sql(host, TENANT, "SELECT email FROM leads WHERE email <> ''")) == set()
    left = f"{TENANT}--{number}"
    eventually(lambda: left not in [one.name for one in host.instances()])
