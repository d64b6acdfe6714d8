"""A tenant moves between hosts: no acknowledged write is lost, whatever is cut or killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bot.model.labels import label_of
from tests.support.forms import make_form
from tests.support.lab_world import BASE_DOMAIN, Client, LabWorld
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, TINY_VERSION

STEPS = (
    "check",
    "copy",
    "catch-up",
    "stop",
    "last-difference",
    "start",
    "change",
    "probe",
    "keep",
)
TENANT = "moving-x"


def client(world: LabWorld, path: str) -> Client:
    return Client(world.settings.edge.listen, world.edge.authority(), f"{TENANT}.{BASE_DOMAIN}", path)


@pytest.fixture
def tiny(lab_world: LabWorld) -> Iterator[LabWorld]:
    """A tenant of the tiny image on solo1, with 100 MB of its own."""
    try:
        lab_world.done(f"new {TENANT} --version {TINY_VERSION} --host solo1", "is live")
        data = ["dd", "if=/dev/urandom", "of=/var/lib/data", "bs=1M", "count=100"]
        assert lab_world.servers["solo1"].execute(TENANT, data).code == 0
        yield lab_world
    finally:
        lab_world.remove(TENANT)


def moves(world: LabWorld, source: str, target: str) -> None:
    """Make a tenant of the whole stack on one host and move it to another, while a visitor submits a form."""
    world.done(f"new {TENANT} --host {source}", "is live")
    host = world.lab.host(source)
    make_form(host, TENANT)
    with client(world, "/form/submit?formId=1") as visitor:
        eventually(lambda: len(visitor.acknowledged) > 20)
        card = world.done(f"migrate {TENANT} {target}", f"runs on {target}")
        after = len(visitor.acknowledged)
        eventually(lambda: len(visitor.acknowledged) > after + 20)
    assert world.serves(TENANT) == target
    candidate = world.bot.rows("SELECT max(id) AS id FROM operations")[0]["id"]
    rows = world.lab.host(target).execute(
        f"{TENANT}--{candidate}",
        ["mariadb", "--batch", "--skip-column-names", "mautic", "-e", "SELECT email FROM leads"],
    )
    assert set(visitor.acknowledged) - set(rows.stdout.split()) == set()
    print(f"away for {max(visitor.gaps):.1f} s; {world.thread(card)[-1]}")


@pytest.mark.parametrize(("source", "target"), [("node1", "node2"), ("solo1", "solo2")])
def test_a_migration_loses_no_acknowledged_write(lab_world: LabWorld, source: str, target: str) -> None:
    """Member to member, and server to server, with the whole stack."""
    try:
        moves(lab_world, source, target)
    finally:
        lab_world.remove(TENANT)


def test_a_tenant_moves_from_lxd_to_incus_and_not_back(lab_world_with_incus: LabWorld) -> None:
    world = lab_world_with_incus
    try:
        moves(world, "solo1", "incus1")
        world.workspace.command("operator", CHANNEL, f"/mautic migrate {TENANT} solo1")
        world.whisper("operator", "cannot move to solo1: LXD cannot import containers from Incus")
    finally:
        world.remove(TENANT)


def test_a_migration_survives_kill_9_of_the_bot_at_each_step(tiny: LabWorld) -> None:
    """The tenant moves there and back, once per step; after each move it serves from one host, the right one."""
    at = "solo1"
    for step in STEPS:
        to = "solo2" if at == "solo1" else "solo1"
        card = tiny.ask(f"migrate {TENANT} {to}", "operator")
        tiny.approve(card)
        tiny.kill_in(step)
        tiny.bot.start()
        tiny.wait_for(card, f"runs on {to}")
        assert tiny.serves(TENANT) == to, step
        at = to


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        pytest.param("the network is cut", "copy", marks=pytest.mark.long),
        pytest.param("the network is cut", "last-difference", marks=pytest.mark.long),
        ("the network is cut", "change"),
        ("the target's LXD is killed", "last-difference"),
    ],
)
def test_a_target_that_fails_costs_no_data(tiny: LabWorld, fault: str, step: str) -> None:
    """The source serves again by itself with all acknowledged writes; once the target is back, the next try works."""
    target = tiny.lab.nodes["solo2"]
    with client(tiny, "/cgi-bin/submit") as visitor:
        eventually(lambda: len(visitor.acknowledged) > 5)
        hold = tiny.bot.state / "hold"
        hold.write_text(f"started {STEPS.index(step)}")
        card = tiny.ask(f"migrate {TENANT} solo2", "operator")
        tiny.approve(card)
        tiny.begun(step)
        with target.slow(megabits=80):
            before = target.received()
            if step == "copy":
                hold.unlink()
                eventually(lambda: target.received() > before + 5_000_000)
            (target.cut if fault == "the network is cut" else target.kill)()
            hold.unlink(missing_ok=True)
        tiny.wait_for(card, r"\*failed|\* failed", 240)
        assert [one for one in tiny.instances_of(TENANT) if one.startswith("solo1")] == [
            f"solo1/{TENANT} tenant Running"
        ]
        assert tiny.edge.probe(f"{TENANT}.{BASE_DOMAIN}").login
        before = len(visitor.acknowledged)
        eventually(lambda: len(visitor.acknowledged) > before + 5)
    submitted = tiny.servers["solo1"].pull(TENANT, "/var/lib/mautic-ops/submitted").decode()
    assert [one for one in visitor.acknowledged if one not in submitted] == []
    (target.restore if fault == "the network is cut" else target.start)()
    tiny.run_job("purge")
    eventually(lambda: all(label_of(one.config, "tenant") != TENANT for one in tiny.servers["solo2"].instances()), 60)
    tiny.done(f"migrate {TENANT} solo2", "runs on solo2")
    assert tiny.serves(TENANT) == "solo2"


def test_a_refused_migration_says_why(tiny: LabWorld) -> None:
    for words, why in (
        (f"migrate {TENANT} solo1", "already runs on solo1"),
        (f"migrate {TENANT} sol", "did you mean"),
        ("migrate nobody solo2", "no tenant"),
    ):
        tiny.workspace.command("operator", CHANNEL, f"/mautic {words}")
        tiny.whisper("operator", why)
    tiny.workspace.command("account-manager", CHANNEL, f"/mautic migrate {TENANT} solo2")
    tiny.whisper("account-manager", "You can't use")


def test_the_hosts_command_shows_every_host_as_healthy(tiny: LabWorld) -> None:
    tiny.workspace.command("ops-lead", CHANNEL, "/mautic hosts")
    shown = str(tiny.whisper("ops-lead", "node3")["blocks"])
    for host in ("node1", "node2", "node3", "solo1", "solo2"):
        assert f":large_green_circle: *{host}*" in shown
