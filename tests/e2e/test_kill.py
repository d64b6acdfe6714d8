"""`kill -9` of the real bot at each step of `new`, `delete` and `restore`: the operation ends well all the same."""

from __future__ import annotations

from collections import Counter

import pytest

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
            world.wait_for(card, "is restored from the archive")
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
            running = [name for name in world.instances_of(tenant) if world.lxd.instance(name).running]
            assert running == [f"{tenant}--{number}"]
            assert world.edge.probe(f"{tenant}.e2e.localhost").login
    finally:
        world.remove(tenant)
