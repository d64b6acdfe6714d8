"""`kill -9` of the real bot at each step of `new` and `delete`: the operation ends well all the same."""

from __future__ import annotations

import signal
import time
from collections import Counter

import pytest

from tests.support.world import World

NEW = (
    "Clone the blueprint",
    "Start the container",
    "Give it an identity of its own",
    "Route its domain",
    "See its login page",
)
DELETE = ("Close its page", "Stop the container", "Put it into the archive")


def kill_in(world: World, step: str) -> None:
    """Freeze the bot as soon as the step is on record as begun, then kill it."""
    assert world.bot.process
    deadline = time.monotonic() + 60
    sql = "SELECT 1 FROM steps WHERE title = ? AND started IS NOT NULL AND operation = (SELECT max(id) FROM operations)"
    while not world.bot.rows(sql, step):
        assert time.monotonic() < deadline, f"the step {step!r} never began"
        time.sleep(0.002)
    world.bot.process.send_signal(signal.SIGSTOP)
    world.bot.kill()


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
        kill_in(world, step)
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
            kill_in(world, step)
            world.bot.start()
            world.wait_for(card, "is archived")
            check_the_end(world, tenant, [f"{tenant}--archived"])
            card = world.ask(f"unarchive {tenant}", user="operator")
            world.approve(card)
            world.wait_for(card, "is back")
    finally:
        world.remove(tenant)
