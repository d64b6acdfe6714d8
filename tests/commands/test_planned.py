"""`--at`: an approved operation starts at its time, is shown until then, and can be cancelled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bot.engine.rehearsal import files
from bot.model.plan import Refused, UnknownWords
from bot.store import evidence
from schedules.expiry import expiry
from schedules.offers import offers
from schedules.snapshots import snapshots
from tests.support.bot import (
    ASKER,
    CONFIG,
    LEAD,
    OPERATOR,
    Bench,
    add_releases,
    events,
    live,
    make_bench,
    make_desk,
    notes,
)
from tests.support.judge import mrkdwn

NEW = "6.0.10+double"
HOUR = 3600.0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench with a tenant whose upgrade to 6.0.10 was rehearsed; it is 08:00 UTC, 09:00 in Berlin."""
    made = make_bench(tmp_path, MAUTIC_OPS_BOT__TIMEZONE="Europe/Berlin")
    assert made.done("new client-x").state == "succeeded"
    add_releases(made, "6.0.10")
    assert made.done("rehearse client-x", OPERATOR).state == "succeeded"
    return made


def version(bench: Bench) -> str:
    return bench.context.fleet.tenant("client-x").version


def test_a_scheduled_upgrade_starts_at_its_time_and_not_before(bench: Bench) -> None:
    asked = bench.ask("upgrade client-x --at 22:00", OPERATOR)
    assert list(asked.plan["facts"])[:2] == ["Client offline", "Starts"]
    assert "2027-01-15 22:00 CET" in asked.plan["facts"]["Starts"]
    assert asked.arguments["at"] == "2027-01-15T22:00+01:00"
    bench.approve(asked)
    assert "Starts <!date^" in notes(bench, asked)[-1]
    bench.finish()
    bench.clock.move(13 * HOUR - 1)
    bench.finish()
    assert (bench.context.operations.get(asked.id).state, version(bench)) == ("queued", "5.2.12+double")
    assert len(notes(bench, asked)) == 1, "the note of the approval is not repeated"
    bench.clock.move(1)
    bench.finish()
    ended = bench.context.operations.get(asked.id)
    assert (ended.state, version(bench)) == ("succeeded", NEW), ended.outcome
    assert live(bench)


def test_a_restarted_bot_keeps_to_the_scheduled_time(bench: Bench, tmp_path: Path) -> None:
    bench.approve(bench.ask("upgrade client-x --at tomorrow 01:00", OPERATOR))
    again = make_bench(tmp_path, bench.lxd, MAUTIC_OPS_BOT__TIMEZONE="Europe/Berlin")
    again.clock.at = bench.clock.at
    again.finish()
    assert version(again) == "5.2.12+double"
    again.clock.move(16 * HOUR)
    again.finish()
    assert version(again) == NEW


def test_the_requester_and_approvers_can_cancel_a_scheduled_upgrade(bench: Bench) -> None:
    desk = make_desk(bench)
    for text, cancel in (
        ("upgrade client-x --at 22:00", lambda asked: desk.command(f"cancel {asked.id}", OPERATOR)),
        ("upgrade client-x --at 22:00", lambda asked: desk.click("cancel", asked.mark, LEAD)),
    ):
        asked = bench.approve(bench.ask(text, OPERATOR))
        desk.announce()
        (card,) = [one for one in desk.slack.said if "Upgrade tenant client-x" in json.dumps(one["blocks"])][-1:]
        assert "scheduled" in json.dumps(card["blocks"])
        desk.click("cancel", asked.mark, ASKER)
        assert bench.context.operations.get(asked.id).state == "queued", "nobody else may cancel it"
        cancel(asked)
        assert bench.context.operations.get(asked.id).state == "cancelled"
        assert events(bench, asked)[-1] == "operation.cancelled"
    bench.clock.move(20 * HOUR)
    bench.finish()
    assert version(bench) == "5.2.12+double"


def test_the_home_tab_shows_a_scheduled_upgrade(bench: Bench) -> None:
    asked = bench.approve(bench.ask("upgrade client-x --at 22:00", OPERATOR))
    desk = make_desk(bench)
    desk.invocations.handle("home", "key", {"user": ASKER.id, "team": "T0OURS"})
    said = "\n".join(mrkdwn(desk.slack.homes[ASKER.id]))
    assert f"*Planned and in progress*\n#{asked.id} · Upgrade tenant client-x to Mautic {NEW} · starts <!date^" in said
    assert f"or whoever may approve it, can cancel it: `/mautic cancel {asked.id}`" in said


def test_snapshots_are_taken_while_an_upgrade_waits(bench: Bench) -> None:
    bench.approve(bench.ask("upgrade client-x --at 22:00", OPERATOR))
    bench.clock.move(2 * HOUR)
    snapshots(bench.context)
    bench.finish()
    taken = bench.context.operations.select("command = 'snapshot' AND requester = 'system'")
    assert [one.state for one in taken] == ["succeeded"]


def test_a_request_cannot_be_approved_once_its_time_has_passed(bench: Bench) -> None:
    asked = bench.ask("upgrade client-x --at 10:30", OPERATOR)
    bench.clock.move(1.5 * HOUR)
    with pytest.raises(Refused, match="has expired"):
        bench.approve(asked)
    expiry(bench.context)
    assert bench.context.operations.get(asked.id).state == "expired"
    assert version(bench) == "5.2.12+double"


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("today 08:59", r"2027-01-15 08:59 CET> has passed\. Choose a later time, or leave `--at` out"),
        ("2020-01-01 02:00", "has passed"),
        ("2027-01-17 02:00", r"is too far ahead\. .*2027-01-16 09:00 CET.* A rehearsal holds for a day"),
    ],
)
def test_an_impossible_time_is_refused(bench: Bench, typed: str, why: str) -> None:
    for command in ("upgrade client-x", "rollout 6.0.10 --all"):
        with pytest.raises(Refused, match=why):
            bench.answer(f"{command} --at {typed}", OPERATOR)


def test_an_unreadable_time_is_refused_with_examples(bench: Bench) -> None:
    with pytest.raises(UnknownWords, match=r"“soon” is not a time\. Use `22:00`, .*\(times of Europe/Berlin\)"):
        bench.answer("upgrade client-x --at soon", OPERATOR)


def test_a_rehearsal_that_would_be_too_old_by_then_is_repeated(bench: Bench) -> None:
    bench.clock.move(14 * HOUR)
    assert "Rehearsing" in bench.answer("upgrade client-x --at tomorrow 10:00", OPERATOR).text
    bench.finish()
    offers(bench.context)
    (asked,) = bench.context.operations.select("command = 'upgrade'")
    assert "2027-01-16 10:00 CET" in asked.plan["facts"]["Starts"]
    bench.approve(asked)
    bench.clock.move(11 * HOUR)
    bench.finish()
    assert version(bench) == NEW


def test_a_time_that_passes_during_the_rehearsal_is_reported(bench: Bench) -> None:
    with bench.context.database.transaction() as transaction:
        transaction.execute("DELETE FROM evidence")
    assert "Rehearsing" in bench.answer("upgrade client-x --at 09:10", OPERATOR).text
    bench.clock.move(11 * 60)
    bench.finish()
    offers(bench.context)
    assert bench.context.operations.select("command = 'upgrade'") == []
    (rehearsal,) = bench.context.operations.select("command = 'rehearse'", order="id DESC", limit=1)
    assert "The upgrade is not requested: <!date^" in notes(bench, rehearsal)[-1]
    assert "has passed" in notes(bench, rehearsal)[-1]


def test_the_rehearsal_is_checked_again_at_the_start(bench: Bench) -> None:
    asked = bench.approve(bench.ask("upgrade client-x --at 22:00", OPERATOR))
    (found,) = [evidence.newest(bench.context.database, "client-x", NEW)]
    assert found
    evidence.forget(bench.context.database, bench.clock() + 1)
    bench.clock.move(13 * HOUR)
    bench.finish()
    ended = bench.context.operations.get(asked.id)
    assert (ended.state, version(bench)) == ("failed", "5.2.12+double")
    assert "No rehearsal of this upgrade has passed" in ended.outcome


def test_the_results_of_a_rehearsal_are_deleted_after_a_week(bench: Bench) -> None:
    """Its files too: the log of a failed rehearsal contains e-mail addresses."""
    (rehearsal,) = bench.context.operations.select("command = 'rehearse'")
    folder = files(bench.context.settings, rehearsal.id)
    of_today = folder.with_name("999")
    of_today.mkdir()
    bench.clock.move(6 * 24 * HOUR)
    expiry(bench.context)
    assert folder.is_dir()
    assert evidence.newest(bench.context.database, "client-x", NEW)
    bench.clock.move(2 * 24 * HOUR)
    os.utime(of_today, (bench.clock(), bench.clock()))
    expiry(bench.context)
    assert [one.name for one in folder.parent.iterdir()] == ["999"]
    assert evidence.newest(bench.context.database, "client-x", NEW) is None


def test_a_scheduled_rollout_starts_at_its_time(bench: Bench) -> None:
    asked = bench.ask("rollout 6.0.10 --all --at 2027-01-15 22:00", OPERATOR)
    assert asked.plan["texts"]["again"] == "rollout 6.0.10 --all --at 2027-01-15T22:00+01:00"
    bench.approve(asked)
    bench.clock.move(12 * HOUR)
    bench.finish()
    assert version(bench) == "5.2.12+double"
    bench.clock.move(1 * HOUR)
    bench.finish()
    assert version(bench) == NEW


def test_a_time_outside_the_upgrade_window_is_refused(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / CONFIG).write_text((tmp_path / CONFIG).read_text() + '[upgrades]\nwindow = "22:00-05:00"\n')
    again = make_bench(tmp_path, bench.lxd, MAUTIC_OPS_BOT__TIMEZONE="Europe/Berlin")
    with pytest.raises(Refused, match=r"between 22:00-05:00 \(Europe/Berlin\).*2027-01-15 22:00 CET"):
        again.answer("upgrade client-x --at 12:00", OPERATOR)
    assert again.ask("upgrade client-x --at 23:00", OPERATOR).at


def test_a_move_can_be_scheduled_too(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, members=("node1", "node2"))
    assert bench.done("new client-x --host node1").state == "succeeded"
    asked = bench.approve(bench.ask("migrate client-x node2 --at in 2h", OPERATOR))
    bench.finish()
    assert bench.context.fleet.tenant("client-x").host == "node1"
    bench.clock.move(2 * HOUR)
    bench.finish()
    assert bench.context.operations.get(asked.id).state == "succeeded"
    assert bench.context.fleet.tenant("client-x").host == "node2"


def test_a_rehearsal_that_is_too_old_when_the_window_opens_is_repeated(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / CONFIG).write_text((tmp_path / CONFIG).read_text() + '[upgrades]\nwindow = "07:00-08:00"\n')
    again = make_bench(tmp_path, bench.lxd, MAUTIC_OPS_BOT__TIMEZONE="Europe/Berlin")
    again.clock.at = bench.clock.at + 12 * HOUR
    assert again.ask("upgrade client-x", OPERATOR).state == "awaiting_approval"
    again.context.approvals.cancel(again.context.operations.select("command = 'upgrade'")[0].id, OPERATOR)
    again.clock.at = bench.clock.at + 23.5 * HOUR
    assert "Rehearsing" in again.answer("upgrade client-x", OPERATOR).text
