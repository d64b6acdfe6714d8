"""`/mautic rollout`: many upgrades by one approval, ring by ring."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bot.fleet import releases
from bot.guest import simulated_state as simulated_tenant
from bot.model.plan import Refused
from bot.store import batches, recovery
from bot.store.freezes import Freezes
from schedules.offers import offers
from tests.mautic_double.build import build
from tests.support.bot import ASKER, LEAD_2, OPERATOR, Bench, add_releases, make_bench, make_desk
from tests.support.judge import mrkdwn

NEW = "6.0.10+double"
NAMES = [f"client-{letter}" for letter in "abcdef"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("releases") / "6.0.10.zip"
    return path, build(path, "6.0.10")


@pytest.fixture
def bench(tmp_path: Path, archive: tuple[Path, str]) -> Bench:
    """Return a bench with six tenants of 5.2.12, one of which is a canary, and the release 6.0.10."""
    config = tmp_path / "own.toml"
    config.write_text(
        f'[releases."6.0.10"]\narchive = "{archive[0]}"\nsha256 = "{archive[1]}"\n[rollouts]\nshare = 40\nsoak = 10\n'
    )
    made = make_bench(tmp_path, MAUTIC_OPS_CONFIG=str(config))
    assert releases.keep(made.context.settings) == []
    for name in NAMES:
        assert made.done(f"new {name}").state == "succeeded"
    made.done("tag client-d canary", OPERATOR)
    return made


def rehearsed(bench: Bench, text: str = "rollout 6.0.10 --all") -> None:
    """Request a rollout, and run its rehearsals to their end."""
    assert "Rehearsing" in bench.answer(text, OPERATOR).text
    bench.finish()
    offers(bench.context)


def versions(bench: Bench) -> set[str]:
    """Return the names of the tenants that have been upgraded."""
    return {one.name for one in bench.context.fleet.tenants() if one.version == NEW}


def test_rings_follow_one_another_with_a_pause_between(bench: Bench) -> None:
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    assert batch.plan["facts"]["Rings"] == "1, then 2, then 3, 10 min apart"
    bench.approve(batch)
    bench.finish()
    assert versions(bench) == {"client-d"}, "the canary alone"
    bench.clock.move(9 * 60)
    bench.finish()
    assert versions(bench) == {"client-d"}
    bench.clock.move(2 * 60)
    bench.finish()
    assert versions(bench) == {"client-d", "client-a", "client-b"}
    bench.clock.move(11 * 60)
    bench.finish()
    assert versions(bench) == set(NAMES)
    assert bench.context.operations.get(batch.id).state == "succeeded"


def test_setting_the_clock_ahead_ends_no_pause_between_rings(bench: Bench) -> None:
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    bench.approve(batch)
    bench.finish()
    bench.clock.set(3600)
    bench.finish()
    assert versions(bench) == {"client-d"}, "the canary has not been observed yet"


def test_a_ring_that_ended_while_the_clock_was_ahead_does_not_delay_the_next(bench: Bench) -> None:
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    bench.approve(batch)
    bench.runner.fault = lambda moment: bench.clock.set(30 * 86_400) if moment == "before end" else None
    bench.runner.run_one()
    while versions(bench) != {"client-d"}:
        assert bench.runner.run_one()
    bench.runner.fault = lambda moment: None
    bench.clock.at = min(bench.clock.at, 1_800_000_000.0 + bench.clock.uptime)
    bench.finish()
    bench.clock.move(11 * 60)
    bench.finish()
    assert versions(bench) > {"client-d"}


def test_a_rollout_pauses_at_the_first_failure_until_somebody_resumes_it(bench: Bench) -> None:
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    simulated_tenant.change(bench.lxd, "client-d", breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})
    bench.approve(batch)
    bench.finish()
    bench.clock.move(30 * 60)
    bench.finish()
    assert versions(bench) == set()
    stands = batches.standing(bench.context.operations, batch.id)
    assert stands
    assert (stands.failed, stands.paused_by) == (("client-d",), "system")
    batches.go_on(bench.context.operations, batch, OPERATOR.id)
    for _ in range(3):
        bench.finish()
        bench.clock.move(11 * 60)
    assert versions(bench) == set(NAMES) - {"client-d"}


def test_a_tenant_whose_rehearsal_failed_is_left_out_and_the_card_says_why(bench: Bench) -> None:
    simulated_tenant.change(bench.lxd, "client-c", breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    assert "client-c" in batch.plan["remarks"]["Left out"]
    assert "client-c" not in batch.arguments["tenant"]


def test_a_rollout_rehearses_each_tenant_once(bench: Bench) -> None:
    rehearsed(bench, "rollout 6.0.10 client-a,client-b")
    assert len(bench.context.operations.select("command = 'rollout'")) == 1
    assert len(bench.context.operations.select("command = 'rehearse' AND parent <> 0")) == 2


def begun(bench: Bench) -> int:
    """Approve a rollout to all tenants, run its first ring, and return its number."""
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    bench.approve(batch)
    bench.finish()
    assert versions(bench) == {"client-d"}
    return batch.id


def home_of(bench: Bench) -> str:
    desk = make_desk(bench)
    desk.invocations.handle("home", "home", {"user": ASKER.id, "team": "T0OURS"})
    return "\n".join(mrkdwn(desk.slack.homes[ASKER.id]))


def test_the_card_and_its_thread_list_every_tenant(bench: Bench) -> None:
    simulated_tenant.change(bench.lxd, "client-c", breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    facts = batch.plan["facts"]
    assert next(iter(facts)) == "Clients offline"
    assert facts["Clients offline"].startswith("each for about ")
    assert facts["From"] == "5 on 5.2.12+double"
    assert facts["Rehearsals"] == "5 passed, within a day"
    assert batch.plan["remarks"]["Left out"].startswith("1: client-c: the rehearsal of client-c did not pass: The migr")
    listed = notes_of(bench, batch.id)[0]
    for ring, names in ((1, ["client-d"]), (2, ["client-a", "client-b"]), (3, ["client-e", "client-f"])):
        told = listed.split(f"*Ring {ring}*")[1].split("*")[0]
        assert [line.split("`")[1] for line in told.splitlines() if "`" in line] == names
    assert "`client-d` from 5.2.12+double · rehearsal passed, offline for about " in listed


def notes_of(bench: Bench, operation: int) -> list[str]:
    rows = bench.context.database.read("SELECT text FROM notes WHERE operation = ? ORDER BY id", operation)
    return [row["text"] for row in rows]


def test_home_and_the_card_say_which_ring_is_next_and_when(bench: Bench) -> None:
    number = begun(bench)
    next_ring = int(bench.clock() + 600)
    assert f"1 of 6 done · ring 2 of 3 · continues <!date^{next_ring}^" in home_of(bench)
    desk = make_desk(bench)
    card = "\n".join(mrkdwn(desk.announcer.card(bench.context.operations.get(number)).blocks))
    assert f"*Ring 2 of 3*, starts <!date^{next_ring}^" in card
    batches.pause(bench.context.operations, bench.context.operations.get(number), OPERATOR.id)
    assert "ring 2 of 3 · *paused*" in home_of(bench)
    batches.go_on(bench.context.operations, bench.context.operations.get(number), OPERATOR.id)
    for _ in range(3):
        bench.clock.move(11 * 60)
        bench.finish()
    assert versions(bench) == set(NAMES)
    assert "Planned and in progress" not in home_of(bench)


def test_a_ring_waits_for_a_frozen_tenant_and_upgrades_the_others(bench: Bench) -> None:
    number = begun(bench)
    Freezes(bench.context.operations).begin("client-a", LEAD_2.id, "the sale is on", None)
    bench.clock.move(11 * 60)
    bench.finish()
    assert versions(bench) == {"client-d", "client-b"}
    bench.clock.move(60 * 60)
    bench.finish()
    assert versions(bench) == {"client-d", "client-b"}, "a ring starts only after the whole one before it"
    Freezes(bench.context.operations).end("client-a", LEAD_2.id)
    for _ in range(3):
        bench.finish()
        bench.clock.move(11 * 60)
    assert versions(bench) == set(NAMES)
    assert bench.context.operations.get(number).state == "succeeded"


def test_a_ring_waits_for_a_tenant_that_is_sending(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.guards.ASKED_AGAIN", 0.0)
    number = begun(bench)
    due = {"mails": [1.0], "stopped": ["mautic-worker@email"]}
    simulated_tenant.change(bench.lxd, "client-b", **due)
    bench.clock.move(11 * 60)
    bench.finish()
    assert versions(bench) == {"client-d", "client-a"}
    stands = batches.standing(bench.context.operations, number)
    assert stands
    assert "`client-b` is sending: 1 e-mail is due" in stands.held["client-b"]
    simulated_tenant.change(bench.lxd, "client-b", mails=[], stopped=[])
    for _ in range(3):
        bench.finish()
        bench.clock.move(11 * 60)
    assert versions(bench) == set(NAMES)


def test_mail_that_waits_while_outbound_mail_is_off_delays_nothing(bench: Bench) -> None:
    assert bench.done("mail client-b off", OPERATOR).state == "succeeded"
    simulated_tenant.change(bench.lxd, "client-b", mails=[1.0])
    begun(bench)
    bench.clock.move(11 * 60)
    bench.finish()
    assert versions(bench) == {"client-d", "client-a", "client-b"}


def test_upgrades_start_only_within_the_window_of_the_settings(bench: Bench) -> None:
    """It is 08:00, so that everything waits for the night."""
    object.__setattr__(bench.context.settings.upgrades, "window", "22:00-05:00")
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    bench.approve(batch)
    bench.finish()
    assert versions(bench) == set()
    stands = batches.standing(bench.context.operations, batch.id)
    assert stands
    assert "Upgrades start between 22:00-05:00" in stands.held["client-d"]
    bench.clock.move(14 * 3600)
    for _ in range(4):
        bench.finish()
        bench.clock.move(11 * 60)
    assert versions(bench) == set(NAMES)


def test_a_bot_that_restarts_between_rings_continues_when_the_next_one_is_due(bench: Bench, tmp_path: Path) -> None:
    begun(bench)
    config = {"MAUTIC_OPS_CONFIG": str(tmp_path / "own.toml")}
    for moved, done in ((5 * 60, 1), (6 * 60, 3), (11 * 60, 6)):
        at, lived = bench.clock.at, bench.clock.uptime
        bench.context.database.close()
        bench = make_bench(tmp_path, bench.lxd, **config)
        bench.clock.at, bench.clock.uptime = at, lived
        recovery.recover(bench.context.operations)
        bench.clock.move(moved)
        bench.finish()
        assert len(versions(bench)) == done


def test_the_advised_steps_to_a_distant_release_work(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_ROLLOUTS__SOAK="0")
    for name in NAMES[:2]:
        assert bench.done(f"new {name}").state == "succeeded"
    add_releases(bench, "6.0.10", "7.2.2")
    with pytest.raises(Refused, match="can't be reached from 5") as no:
        bench.answer("rollout 7.2.2 --all", OPERATOR)
    ways = re.findall(r"`/mautic (rollout [^`]+)`", str(no.value))
    assert ways == ["rollout 6.0.10+double --all", "rollout 7.2.2 --all"]
    for way in ways:
        make_desk(bench).command(way, OPERATOR)
        bench.finish()
        offers(bench.context)
        (batch,) = bench.context.operations.select("command = 'rollout'", order="id DESC", limit=1)
        bench.approve(batch)
        bench.finish()
        assert bench.context.operations.get(batch.id).state == "succeeded"
    assert {one.version for one in bench.context.fleet.tenants()} == {"7.2.2+double"}


def test_failed_rehearsals_do_not_stop_the_rollout_to_the_others(bench: Bench) -> None:
    for name in NAMES[:4]:
        simulated_tenant.change(bench.lxd, name, breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    assert batch.arguments["tenant"] == "client-e,client-f"
    assert batch.plan["remarks"]["Left out"].startswith("4, all in the thread: client-a: ")
    assert batch.plan["facts"]["Pace"] == "4 at once, 2 per host, pauses after 1 failure"


def test_canaries_that_are_tagged_after_the_approval_stop_the_rollout(bench: Bench) -> None:
    """Tagging needs no approval, and could otherwise put all tenants into the first ring."""
    rehearsed(bench, "rollout 6.0.10 --all --at 12:00")
    (batch,) = bench.context.operations.select("command = 'rollout'")
    bench.approve(batch)
    for name in ("client-a", "client-b", "client-c", "client-e"):
        assert bench.done(f"tag {name} canary", OPERATOR).state == "succeeded"
    bench.clock.move(batch.at - bench.clock() + 60)
    bench.finish()
    ended = bench.context.operations.get(batch.id)
    assert ended.state in ("failed", "cancelled")
    assert versions(bench) == set()


def test_a_rollout_whose_stored_plan_lacks_rings_is_not_cancelled(bench: Bench) -> None:
    """Earlier versions of the bot stored none."""
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    with bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET plan = json_remove(plan, '$.rings') WHERE id = ?", (batch.id,))
    bench.approve(batch)
    bench.finish()
    assert versions(bench) == {"client-d"}


def test_the_requester_cannot_retry_what_an_approver_stopped(bench: Bench) -> None:
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    desk = make_desk(bench)
    bench.approve(batch)
    simulated_tenant.change(bench.lxd, "client-d", breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})
    bench.finish()
    desk.click("batch_stop", batch.id, LEAD_2)
    simulated_tenant.change(bench.lxd, "client-d", breaks={})
    (failed,) = bench.context.operations.select("parent = ? AND state = 'failed'", batch.id)
    desk.click("retry", failed.id, OPERATOR)
    bench.finish()
    assert versions(bench) == set()
    assert f"<@{LEAD_2.id}> stopped this batch" in desk.slack.to(OPERATOR.id)[-1]
    desk.click("retry", failed.id, LEAD_2)
    bench.finish()
    assert versions(bench) == {"client-d"}


def test_a_retry_within_a_ring_restarts_the_pause_after_it(bench: Bench) -> None:
    rehearsed(bench)
    (batch,) = bench.context.operations.select("command = 'rollout'")
    bench.approve(batch)
    simulated_tenant.change(bench.lxd, "client-d", breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})
    bench.finish()
    bench.clock.move(3600)
    simulated_tenant.change(bench.lxd, "client-d", breaks={})
    make_desk(bench).click("retry", batch.mark, OPERATOR)
    bench.finish()
    assert versions(bench) == {"client-d"}
    bench.clock.move(11 * 60)
    bench.finish()
    assert versions(bench) > {"client-d"}
