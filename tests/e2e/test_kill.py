"""`kill -9` of the real bot at each step of `new`, `delete`, `restore` and `upgrade`: the operation still succeeds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bot.guest.blueprint.mautic_ctl.trees import BEFORE, MAUTIC
from bot.lxd.gateway import LxdGateway
from bot.lxd.protocol import LxdError
from tests.support.upgrading import NEW as RELEASE
from tests.support.upgrading import fault, sql, upgrading, version_of
from tests.support.workspace import eventually
from tests.support.world import World

NEW = (
    "clone",
    "start",
    "identify",
    "route",
    "probe",
)
DELETE = ("close", "stop", "archive")


def check_the_end(world: World, tenant: str, instances: list[str]) -> None:
    assert world.instances_of(tenant) == instances
    assert world.bot.rows("SELECT state FROM operations ORDER BY id DESC LIMIT 1")[0]["state"] == "succeeded"
    last = world.bot.rows("SELECT max(id) AS id FROM operations")[0]["id"]
    events = Counter(
        (row["event"], row["detail"] if row["event"].startswith("step.") else "")
        for row in world.bot.rows("SELECT event, detail FROM audit WHERE operation = ?", last)
    )
    assert not [event for event, times in events.items() if times > 1], events


@pytest.mark.parametrize("step", NEW)
def test_new_survives_kill_9(world: World, step: str) -> None:
    tenant = "killed-x"
    try:
        card = world.ask(f"new {tenant}")
        world.approve(card)
        world.kill_in(step)
        world.bot.start()
        world.wait_for(card, "is live")
        assert world.edge.probe(f"{tenant}.e2e.localhost").login
        check_the_end(world, tenant, [tenant])
    finally:
        world.remove(tenant)


def test_delete_survives_kill_9_at_each_step(world: World) -> None:
    tenant = "killed-y"
    try:
        card = world.ask(f"new {tenant} --version 0.0.1-tiny")
        world.approve(card)
        world.wait_for(card, "is live")
        for step in DELETE:
            card = world.ask(f"delete {tenant}", user="operator")
            world.approve(card, f"approve {tenant}")
            world.kill_in(step)
            world.bot.start()
            world.wait_for(card, "is archived")
            check_the_end(world, tenant, [f"{tenant}--archived"])
            card = world.ask(f"unarchive {tenant}", user="operator")
            world.approve(card)
            world.wait_for(card, "is back from the archive")
    finally:
        world.remove(tenant)


RESTORE = (
    "beside",
    "change",
    "probe",
    "keep",
)


def test_restore_survives_kill_9_at_each_step(world: World) -> None:
    tenant = "killed-z"
    try:
        world.done(f"new {tenant} --version 0.0.1-tiny", "is live")
        for step in RESTORE:
            world.done(f"snapshot {tenant}", "taken: ", approve="")
            instance = world.present(tenant)
            snapshot = world.lxd.snapshots(instance)[-1].name
            card = world.ask(f"restore {tenant} {snapshot}", "operator")
            world.approve(card, f"approve {tenant}")
            world.kill_in(step)
            world.bot.start()
            world.wait_for(card, "is restored to")
            number = world.bot.rows("SELECT max(id) AS id FROM operations")[0]["id"]
            assert world.present(tenant) == f"{tenant}--{number}"
            assert running(world, tenant) == [f"{tenant}--{number}"]
            assert world.edge.probe(f"{tenant}.e2e.localhost").login
    finally:
        world.remove(tenant)


UPGRADE = (
    "stage",
    "close",
    "upgrade",
    "migrations",
    "change",
    "probe",
    "keep",
)
SCHEMA = "SELECT table_name, column_name, column_type FROM information_schema.columns WHERE table_schema = 'mautic'"
SLOW = "20250915000000"


def is_swapped(world: World, instance: str) -> bool:
    """Return whether the candidate has its new tree, so that its migrations run or are about to."""
    try:
        return world.lxd.execute(instance, ["test", "-d", str(BEFORE)]).code == 0
    except LxdError:
        return False


@pytest.mark.long
def test_upgrade_survives_kill_9_at_each_step(host: LxdGateway, tmp_path: Path) -> None:
    """A rollback follows each upgrade; no database in which only half of the migrations have run ever serves."""
    tenant = "killed-u"
    with upgrading(host, tmp_path) as world:
        try:
            world.done(f"new {tenant}", "is live")
            world.done(f"rehearse {tenant} {RELEASE}", "was rehearsed", approve="")
            before, after = sql(host, tenant, SCHEMA), []
            for cut in UPGRADE:
                if cut == "migrations":
                    fault(host, world.present(tenant), "slow_migration", SLOW)
                card = world.ask(f"upgrade {tenant} {RELEASE}", "operator")
                number = world.bot.rows("SELECT max(id) AS id FROM operations")[0]["id"]
                candidate = f"{tenant}--{number}"
                world.approve(card)
                if cut == "migrations":
                    eventually(lambda name=candidate: is_swapped(world, name))  # type: ignore[misc]
                    world.kill()
                else:
                    world.kill_in(cut)
                world.bot.start()
                world.wait_for(card, f"now runs Mautic {RELEASE}")
                check_the_end(world, tenant, world.instances_of(tenant))
                assert world.present(tenant) == candidate, cut
                assert running(world, tenant) == [candidate], cut
                assert world.edge.probe(f"{tenant}.e2e.localhost").login
                assert version_of(host, candidate).startswith(RELEASE)
                after.append(sql(host, candidate, SCHEMA))
                world.done(f"rollback {tenant}", "is back on Mautic", approve=f"approve {tenant}")
                assert sql(host, world.present(tenant), SCHEMA) == before, cut
                host.remove(world.present(tenant), f"{MAUTIC}/config/double.php")
            assert all(one == after[0] != before for one in after)
        finally:
            world.remove(tenant)


def running(world: World, tenant: str) -> list[str]:
    """Return the running containers of a tenant."""
    return [name for name in world.instances_of(tenant) if world.lxd.instance(name).running]
