"""A batch over twenty tenants on a real server, with one failure, a pause and `kill -9` midway: each is done once."""

from __future__ import annotations

from collections import Counter

from bot.engine.snapshots import ours
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, TINY_VERSION, World

NAMES = [f"batch-{number:02}" for number in range(20)]
GONE = NAMES[11]


def states(world: World, batch: int) -> Counter[str]:
    """Return how many children of a batch are in each state."""
    return Counter(row["state"] for row in world.bot.rows("SELECT state FROM operations WHERE parent = ?", batch))


def newest(world: World) -> int:
    """Return the number of the batch that was requested last."""
    return int(world.bot.rows("SELECT max(operation) AS id FROM batches")[0]["id"])


def test_a_batch_finishes_despite_a_kill_a_failure_and_a_pause(world: World) -> None:
    try:
        world.done(f"new {','.join(NAMES)} --version {TINY_VERSION}", "all 20 done")
        made = newest(world)
        assert states(world, made) == {"succeeded": 20}

        card = world.ask("snapshot --all", user="operator")
        world.approve(card)
        eventually(lambda: newest(world) > made and states(world, newest(world))["succeeded"] >= 2, 60)
        world.kill()
        batch = newest(world)
        assert states(world, batch)["waiting"] > 10, "it was killed in the middle"
        # Delete one tenant behind the bot's back, so that its snapshot fails.
        world.lxd.stop(GONE, force=True)
        world.lxd.update(GONE, {"security.protection.delete": None})
        world.lxd.delete(GONE)
        world.bot.start()
        # The card may still be from before the first child began, without the button.
        world.workspace.wait_for_message(CHANNEL, "batch_pause")
        world.workspace.click("ops-lead", CHANNEL, card, "batch_pause")
        eventually(lambda: "paused" in world.card(card), 60)
        eventually(lambda: not {"queued", "running"} & states(world, batch).keys(), 60)
        paused = states(world, batch)
        assert paused["waiting"], "it was paused in the middle"
        world.workspace.click("ops-lead", CHANNEL, card, "batch_go_on")
        eventually(lambda: not {"waiting", "queued", "running"} & states(world, batch).keys(), 120)
        assert states(world, batch) == {"succeeded": 19, "failed": 1}
        for name in NAMES:
            if name != GONE:
                assert len(ours(world.lxd.snapshots(name))) == 1
        lines = world.thread(card)
        assert sum(f"`{GONE}` — failed" in line for line in lines) == 1
        assert sum("— done" in line for line in lines) == 19
        assert "19 of 20 done" in world.card(card)
    finally:
        world.remove(*NAMES)
