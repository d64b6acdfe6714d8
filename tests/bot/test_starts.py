"""Starts on a host: only some of them within a period, and in order after a reboot."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from bot.fleet.starts import StartLimiter
from bot.fleet.starts import boot as order
from bot.lxd.protocol import PoolFull
from bot.settings import load
from bot.store.metrics import Reading, record
from schedules.boot import boot
from tests.support.bot import OPERATOR, Bench, make_bench

ROOT = Path(__file__).parents[2]


class Time:
    """Seconds that pass only while somebody sleeps."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


def test_only_a_limited_number_of_starts_begins_within_a_period() -> None:
    time = Time()
    starts = StartLimiter(3, 10, time, time.sleep)
    begun = []
    for _ in range(9):
        starts.wait()
        begun.append(time.at - 100)
    assert begun == [0, 0, 0, 10, 10, 10, 20, 20, 20]


def test_an_urgent_start_does_not_wait_but_counts() -> None:
    time = Time()
    starts = StartLimiter(2, 10, time, time.sleep)
    for _ in range(5):
        starts.wait(urgent=True)
    assert time.at == 100
    starts.wait()
    assert time.at == 110


def test_a_period_of_zero_seconds_is_no_limit() -> None:
    time = Time()
    starts = StartLimiter(1, 0, time, time.sleep)
    for _ in range(5):
        starts.wait()
    assert time.at == 100


def test_every_start_of_a_tenant_waits_for_its_turn() -> None:
    """All starts by the bot itself go through `Host.start`."""
    # Neither the edge nor the container that a blueprint is built in is a tenant.
    others = {"inventory.py", "edge.py", "build.py"}
    places = [path for folder in ("bot", "commands", "schedules") for path in (ROOT / folder).rglob("*.py")]
    places = [path for path in places if path.name not in others]
    past = [path.name for path in places if re.search(r"lxd\.start\(", path.read_text())]
    assert past == []
    assert "self.lxd.start(" in (ROOT / "bot/fleet/inventory.py").read_text()


def seen(bench: Bench, **queue_ages: float) -> None:
    """Record one look at tenants, with the seconds for which mail has waited in each."""
    with bench.context.database.transaction() as transaction:
        readings = [Reading(name.replace("_", "-"), queue_age=age, contacts=5) for name, age in queue_ages.items()]
        record(transaction, bench.clock.at, readings, {})


def test_after_a_reboot_tenants_start_one_after_the_other_and_the_busiest_first(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_CAPACITY__START_DELAY="3")
    bench.context.fleet._starts = (64, 0)
    for number in range(6):
        bench.done(f"new client-{number}")
    bench.done("stop client-5", OPERATOR)
    # A tenant of an older release.
    bench.lxd.update("client-0", {"boot.autostart.priority": None, "boot.autostart.delay": None})
    seen(bench, client_0=0, client_1=0, client_2=0, client_3=0, client_4=500)
    bench.clock.move(3 * 3600)
    seen(bench, client_0=0, client_1=0, client_2=90, client_3=0, client_4=0)
    bench.clock.move(60)
    boot(bench.context)
    began = bench.lxd.reboot()
    assert [name for _, name in began] == ["client-2", "client-4", "client-0", "client-1", "client-3"]
    assert all(after - before >= 3 for (before, _), (after, _) in pairwise(began))
    assert not bench.lxd.instance("client-5").running
    # Nothing is written where nothing has changed.
    updates = bench.lxd.calls["update"]
    boot(bench.context)
    assert bench.lxd.calls["update"] == updates


def test_a_new_tenant_has_its_place_in_the_boot_order_at_once(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_CAPACITY__START_DELAY="7")
    bench.done("new client-x")
    config = bench.lxd.instance("client-x").config
    assert order(load(environment={"MAUTIC_OPS_CAPACITY__START_DELAY": "7"}).capacity, "idle").items() <= config.items()
    assert config["boot.autostart.delay"] == "7"


def test_a_tenant_whose_configuration_cannot_be_updated_does_not_block_the_others(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    for number in range(2):
        bench.done(f"new client-{number}")
        bench.lxd.update(f"client-{number}", {"boot.autostart.priority": None})
    bench.lxd.fail_next("update", PoolFull("LXD could not update `client-0`: the disk's limit is full."))
    boot(bench.context)
    assert "boot.autostart.priority" not in bench.lxd.instance("client-0").config
    assert bench.lxd.instance("client-1").config["boot.autostart.priority"] == "2"
