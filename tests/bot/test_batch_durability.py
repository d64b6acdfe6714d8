"""Whenever the process dies, a batch continues where it was: no child runs twice, no line is posted twice."""

from __future__ import annotations

import functools
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bot.store import audit, recovery
from bot.store.operation import Operation
from bot.store.recovery import MAX_ATTEMPTS
from tests.bot.test_durability import Death, Killed, copy_of, kill_in_call
from tests.support.bot import (
    BATCHES,
    OPERATOR,
    Bench,
    FakeSlack,
    add_releases,
    containers,
    events,
    make_bench,
    make_desk,
    notes,
)

NAMES = ("client-x", "client-y", "client-z")
COMMANDS = ("snapshot --all", "restart --all", "new shop-a,shop-b", "rollout 6.0.10 client-x,client-y")
NEW = "6.0.10+double"


def test_every_command_that_is_always_a_batch_has_a_case() -> None:
    assert {text.split()[0] for text in COMMANDS} >= BATCHES


class World:
    """A bot that is about to begin an approved batch, as often as needed; `meant`: the tenants of the batch."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        # No test moves the clock, so a soak would never end.
        self.make = functools.partial(make_bench, MAUTIC_OPS_ROLLOUTS__SOAK="0")
        bench = self.make(folder / "prepared")
        for name in () if text.startswith("new") else NAMES:
            assert bench.done(f"new {name}").state == "succeeded"
        if text.startswith("rollout"):
            add_releases(bench, "6.0.10")
            assert bench.done("rehearse --all", OPERATOR).state == "succeeded"
        make_desk(bench).announce()
        self.batch = bench.approve(bench.ask(text, OPERATOR))
        assert self.batch.state == "queued"
        self.meant = tuple(self.batch.plan["values"]["tenants"].split(","))
        self.lxd = bench.lxd
        bench.context.database.close()
        self.copies = 0

    def begin(self, fault: Callable[[str], object] = lambda moment: None, slack: FakeSlack | None = None) -> Bench:
        self.copies += 1
        shutil.copytree(self.folder / "prepared", self.folder / str(self.copies))
        return self.make(
            self.folder / str(self.copies), copy_of(self.lxd), lambda moment: fault(moment) and None, slack
        )

    def restart(self, dead: Bench, fault: Callable[[str], object] = lambda moment: None) -> Bench:
        """Start the next process on the same folder, LXD and Slack."""
        dead.context.database.close()
        dead.lxd.on_call = None
        bench = self.make(self.folder / str(self.copies), dead.lxd, lambda moment: fault(moment) and None, dead.slack)
        recovery.recover(bench.context.operations)
        return bench


def ends_well(world: World, bench: Bench, moment: str, cuts: int = 1) -> None:
    """Check what must be true at the end, whatever happened on the way."""
    batch = bench.context.operations.get(world.batch.id)
    assert batch.state == "succeeded", (moment, batch.outcome)
    children = bench.context.operations.select("parent = ?", batch.id)
    assert Counter(one.tenant for one in children) == Counter(world.meant), moment
    for child in children:
        assert child.state == "succeeded", (moment, child.outcome)
        seen = Counter(events(bench, child))
        assert seen.pop("operation.requeued", 0) == seen.pop("operation.resumed", 0) <= cuts, moment
        steps = len(child.steps)
        assert seen == {
            "operation.requested": 1,
            "operation.started": 1,
            "step.started": steps,
            "step.finished": steps,
            "operation.succeeded": 1,
        }, moment
        if batch.command == "snapshot":
            assert len(bench.lxd.snapshots(child.tenant)) == 1, (moment, child.tenant)
    made = {f"{child.tenant}--{child.id}" for child in children if batch.command == "rollout"}
    assert containers(bench) == ({*world.meant} if batch.command == "new" else {*NAMES} | made), moment
    upgraded = {one.name for one in bench.context.fleet.tenants() if one.version == NEW}
    assert upgraded == ({*world.meant} if made else set()), moment
    seen = Counter(events(bench, batch))
    assert seen["batch.began"] == seen["operation.succeeded"] == 1, moment
    assert sum(", all " in note for note in notes(bench, batch)) == 1, moment
    assert not audit.verify(bench.context.database).broken, moment
    bench.context.database.close()


@pytest.mark.parametrize("text", COMMANDS)
def test_dying_before_or_after_any_record_does_no_harm(tmp_path: Path, text: str) -> None:
    world = World(tmp_path, text)
    whole = Death(10_000)
    bench = world.begin(whole)
    bench.finish()
    ends_well(world, bench, "not killed")
    assert whole.moments[:2] == ["before children", "after children"]
    for number, moment in enumerate(whole.moments):
        bench = world.begin(Death(number))
        with pytest.raises(Killed, match=moment):
            bench.finish()
        bench = world.restart(bench)
        bench.finish()
        ends_well(world, bench, f"{number}: {moment}")


@pytest.mark.parametrize("lost", ["the call", "the answer"])
@pytest.mark.parametrize("text", ["snapshot --all"])
def test_dying_within_any_call_of_lxd_does_no_harm(tmp_path: Path, text: str, lost: str) -> None:
    world = World(tmp_path, text)
    bench = world.begin()
    whole = Death(10_000)
    bench.lxd.on_call = lambda method, arguments: whole(method) and None
    bench.finish()
    bench.lxd.on_call = None
    ends_well(world, bench, "not killed")
    for number, method in enumerate(whole.moments):
        bench = world.begin()
        kill_in_call(bench, number, after=lost == "the answer")
        with pytest.raises(Killed):
            bench.finish()
        bench = world.restart(bench)
        bench.finish()
        ends_well(world, bench, f"call {number}: {method}")


def test_a_batch_ends_though_the_bot_dies_again_and_again(tmp_path: Path) -> None:
    """A batch may outlive many processes, so unlike a single operation it is not given up after MAX_ATTEMPTS."""
    world = World(tmp_path, "snapshot --all")
    bench = world.begin(Death(3))
    deaths = 0
    while True:
        try:
            bench.finish()
        except Killed:
            deaths += 1
            # A few moments further each time.
            bench = world.restart(bench, Death(4))
        else:
            break
    assert deaths >= MAX_ATTEMPTS - 1
    ends_well(world, bench, "killed again and again", cuts=MAX_ATTEMPTS)


class Slack(FakeSlack):
    """Slack that kills the process at the n-th message, before it is posted or (`after`) once it is."""

    def __init__(self) -> None:
        super().__init__()
        self.death = Death(10_000)
        self.after = False

    def _say(self, method: str, message: dict[str, Any]) -> dict[str, Any]:
        if not self.after:
            self.death(method)
        answer = super()._say(method, message)
        if self.after:
            self.death(method)
        return answer


def say(bench: Bench) -> None:
    """Run and announce alternately, as the process does."""
    desk = make_desk(bench)
    desk.announce()
    while bench.runner.run_one():
        desk.announcer._progress_due = 0.0
        desk.announce()
    desk.announcer._progress_due = 0.0
    desk.announce()


@pytest.mark.parametrize("after", [False, True])
def test_dying_at_any_message_posts_none_twice(tmp_path: Path, after: bool) -> None:
    world = World(tmp_path, "snapshot --all")
    slack = Slack()
    say(world.begin(slack=slack))
    said_once(slack, world.batch)
    for number, method in enumerate(slack.death.moments):
        slack = Slack()
        slack.death, slack.after = Death(number), after
        bench = world.begin(slack=slack)
        with pytest.raises(Killed):
            say(bench)
        slack.death = Death(10_000)
        bench = world.restart(bench)
        say(bench)
        said_once(slack, world.batch)
        ends_well(world, bench, f"message {number}: {method}")


def said_once(slack: FakeSlack, batch: Operation) -> None:
    posted = [one for one in slack.said if one["method"] == "chat.postMessage"]
    cards = [one for one in posted if not one.get("thread_ts")]
    assert len(cards) == 1
    for name in NAMES:
        assert sum(f"`{name}`" in one["text"] for one in posted if one.get("thread_ts") == cards[0]["ts"]) == 1, name
    assert sum("all 3 done" in one["text"] for one in posted) == 1
    last = [one for one in slack.said if one["ts"] == cards[0]["ts"]][-1]
    assert "done" in last["text"]
