"""A database from a backup lacks what people decided since; the bot does nothing by itself that may contradict it."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path

import pytest

from bot.engine.comparison import WEEK
from bot.intake.home import home
from bot.program import go_on_comparing, stop_after_restore
from bot.store import batches, recovery
from bot.store.freezes import EVERYTHING, Freezes
from bot.store.operation import SYSTEM, Operation
from bot.store.restored import REASON
from schedules.expiry import expiry
from schedules.integrity import integrity
from tests.support.bot import LEAD, LEAD_2, OPERATOR, Bench, Desk, containers, make_bench, make_desk, notes, switch


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Two tenants; an approved stop that a freeze keeps waiting, and a request to delete that nobody has decided on."""
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    for name in ("client-x", "client-y"):
        bench.done(f"new {name}")
    desk = make_desk(bench)
    bench.approve(bench.ask("stop client-x", OPERATOR))
    desk.command("freeze client-x because launch", LEAD)
    bench.finish()
    bench.ask("delete client-y", OPERATOR)
    desk.announce()
    return desk


def backed_up(folder: Path) -> None:
    with sqlite3.connect(folder / "bot.db") as there, sqlite3.connect(folder / "backup.db") as backup:
        there.backup(backup)


def put_back(folder: Path, bench: Bench, *, channel: str = "C0OPS", whole: bool = False) -> Bench:
    """Restore the backup as docs/production.md describes. `whole`: the machine is restored, with all files."""
    bench.context.database.close()
    for name in ("bot.db", "bot.db-wal", "bot.db-shm", *(["audit.head"] if whole else [])):
        (folder / name).unlink(missing_ok=True)
    (folder / "backup.db").rename(folder / "bot.db")
    again = make_bench(folder, bench.lxd, slack=bench.slack, MAUTIC_OPS_SLACK__CHANNEL=channel)
    again.clock.at = bench.clock.at
    return again


def restored(folder: Path, bench: Bench, *, channel: str = "C0OPS", whole: bool = False) -> Bench:
    """Restore the backup, and start the bot again."""
    again = put_back(folder, bench, channel=channel, whole=whole)
    stop_after_restore(again.context)
    recovery.recover(again.context.operations)
    return again


def test_a_request_that_was_cancelled_or_denied_since_the_backup_is_not_carried_out(desk: Desk, tmp_path: Path) -> None:
    bench = desk.bench
    stop, delete = (bench.context.operations.select("command = ?", name)[0] for name in ("stop", "delete"))
    backed_up(tmp_path)
    desk.click("cancel", stop.mark, LEAD)
    desk.click("deny", delete.mark, LEAD)
    desk.announce()
    again = restored(tmp_path, bench)
    ended = [again.context.operations.get(one.id) for one in (stop, delete)]
    assert [one.state for one in ended] == ["cancelled", "cancelled"]
    assert "database was restored from a backup" in notes(again, ended[0])[-1]
    desk = make_desk(again)
    desk.command("unfreeze client-x", LEAD)
    desk.reply("approve client-y", delete.id, LEAD_2)
    again.finish()
    assert again.lxd.instance("client-x").running
    assert containers(again) == {"client-x", "client-y"}


def test_a_request_made_after_the_restore_survives_the_next_start(desk: Desk, tmp_path: Path) -> None:
    backed_up(tmp_path)
    desk.bench.done("new client-z")
    desk.announce()
    again = restored(tmp_path, desk.bench)
    request = again.ask("stop client-y", OPERATOR)
    stop_after_restore(again.context)
    assert again.context.operations.get(request.id).state == "awaiting_approval"


def test_a_start_with_the_newest_database_cancels_nothing(desk: Desk) -> None:
    stop_after_restore(desk.bench.context)
    states = {one.command: one.state for one in desk.bench.context.operations.select("1 = 1")}
    assert (states["stop"], states["delete"]) == ("queued", "awaiting_approval")


def test_a_batch_that_was_under_way_at_the_backup_waits_for_a_person(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    for name in ("client-x", "client-y", "client-z"):
        bench.done(f"new {name}")
    desk = make_desk(bench)
    batch = bench.approve(bench.ask("snapshot --all", OPERATOR))
    bench.runner.run_one()
    desk.announce()
    backed_up(tmp_path)
    desk.click("batch_stop", batch.id, LEAD)
    desk.announce()
    again = restored(tmp_path, bench)
    standing = batches.standing(again.context.operations, batch.id)
    assert standing
    assert standing.paused_by == "system"
    assert "Check which tenants are done" in notes(again, batch)[-1]


def test_an_operation_that_had_begun_at_the_backup_does_not_resume_over_later_changes(tmp_path: Path) -> None:
    """Without a channel Slack has not seen the newest head of the audit log; the file beside the database has it."""
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    delete = bench.approve(bench.ask("delete client-x", OPERATOR))
    bench.runner.fault = lambda moment: backed_up(tmp_path) if moment == "ran 0" else None
    bench.finish()
    bench.runner.fault = lambda moment: None
    assert bench.done("unarchive client-x").state == "succeeded"
    expiry(bench.context)
    again = restored(tmp_path, bench, channel="")
    again.finish()
    halted = again.context.operations.get(delete.id)
    assert halted.state == "needs_attention"
    assert "over whatever came later" in notes(again, halted)[-1]
    assert containers(again) == {"client-x"}


# -- how a restored database is recognised ---------------------------------------------------------------------------


def decided_since(desk: Desk, folder: Path) -> tuple[Operation, Operation]:
    """Back up; then cancel the stop and deny the deletion an hour later, as their cards show. Return both requests."""
    stop, delete = (desk.bench.context.operations.select("command = ?", name)[0] for name in ("stop", "delete"))
    backed_up(folder)
    desk.bench.clock.move(3600)
    desk.click("cancel", stop.mark, LEAD)
    desk.click("deny", delete.mark, LEAD)
    desk.announce()
    return stop, delete


def states(bench: Bench, *operations: Operation) -> list[str]:
    return [bench.context.operations.get(one.id).state for one in operations]


def test_a_decision_since_the_backup_is_recognised_by_the_card_of_its_request(desk: Desk, tmp_path: Path) -> None:
    """The requests were made in another channel than the bot's own, and `audit.head` is as old as the database."""
    requests = decided_since(desk, tmp_path)
    again = restored(tmp_path, desk.bench, channel="C0BOT", whole=True)
    assert states(again, *requests) == ["cancelled", "cancelled"]


def test_while_slack_does_not_answer_nothing_begins_and_nothing_is_decided(desk: Desk, tmp_path: Path) -> None:
    requests = decided_since(desk, tmp_path)
    for method in ("conversations.history", "conversations.replies"):
        desk.slack.fail(method, TimeoutError())
    again = put_back(tmp_path, desk.bench, channel="C0BOT", whole=True)
    comparison = stop_after_restore(again.context)
    desk = make_desk(again)
    desk.command("unfreeze client-x", LEAD)
    again.finish()
    desk.reply("approve client-y", requests[1].id, LEAD_2)
    pending = "Until it can, nothing is decided and nothing new begins"
    assert pending in desk.slack.to(LEAD_2.id)[-1]
    assert pending in json.dumps(again.answer("doctor").blocks)
    desk.reply("deny", requests[1].id, LEAD_2)
    assert states(again, *requests) == ["queued", "awaiting_approval"]
    desk.command("freeze all because of the outage", LEAD)
    desk.announce()
    assert comparison.go_on()
    assert states(again, *requests) == ["cancelled", "cancelled"], "a card that is drawn meanwhile keeps its head"


def test_once_slack_answers_and_the_database_is_the_newest_one_everything_goes_on(desk: Desk) -> None:
    bench = desk.bench
    stop, delete = (bench.context.operations.select("command = ?", name)[0] for name in ("stop", "delete"))
    desk.slack.fail("conversations.history", TimeoutError(), times=2)
    comparison = stop_after_restore(bench.context)
    desk.command("unfreeze client-x", LEAD)
    bench.finish()
    assert not comparison.go_on()
    assert bench.context.operations.get(stop.id).held_by == "compared"
    assert comparison.go_on()
    desk.reply("approve client-y", delete.id, LEAD_2)
    bench.finish()
    assert states(bench, stop, delete) == ["succeeded", "succeeded"]
    assert not Freezes(bench.context.operations).all()


def test_the_bot_tries_again_until_slack_answers_and_has_a_restore_reported_at_once(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.program.AGAIN", 0.0)
    requests = decided_since(desk, tmp_path)
    desk.slack.fail("conversations.replies", TimeoutError(), times=3)
    again = put_back(tmp_path, desk.bench, channel="C0BOT", whole=True)
    asked: list[str] = []
    again.context.jobs.wake = asked.append
    go_on_comparing(again.context, stop_after_restore(again.context), threading.Event())
    assert states(again, *requests) == ["cancelled", "cancelled"]
    assert asked == ["integrity"]


def test_an_operation_that_had_begun_goes_on_although_slack_does_not_answer(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.done("new client-x")
    delete = bench.approve(bench.ask("delete client-x", OPERATOR))

    def die(moment: str) -> None:
        if moment == "started 1":
            raise KeyboardInterrupt

    bench.runner.fault = die
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    bench.context.database.close()
    bench.slack.fail("conversations.history", TimeoutError())
    again = make_bench(tmp_path, bench.lxd, slack=bench.slack, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    stop_after_restore(again.context)
    recovery.recover(again.context.operations)
    again.finish()
    assert states(again, delete) == ["succeeded"]
    assert not again.context.operations.compared


def test_cards_are_read_a_few_at_a_time(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.comparison.CARDS", 1)
    requests = decided_since(desk, tmp_path)
    # The card that tells is the last one.
    desk.slack.gone.add(desk.bench.context.operations.get(requests[0].id).message_ts)
    again = put_back(tmp_path, desk.bench, channel="C0BOT", whole=True)
    comparison = stop_after_restore(again.context)
    assert not again.context.operations.compared
    assert comparison.go_on()
    assert states(again, *requests) == ["cancelled", "cancelled"]
    assert desk.slack.calls["conversations.replies"] == 2


def test_a_card_or_channel_that_slack_does_not_show_is_not_waited_for(desk: Desk) -> None:
    desk.slack.fail("conversations.history", "not_in_channel")
    desk.slack.fail("conversations.replies", "missing_scope")
    stop_after_restore(desk.bench.context)
    assert desk.bench.context.operations.compared
    assert not Freezes(desk.bench.context.operations).on("client-y")


def test_a_child_that_was_given_up_since_the_backup_is_recognised_by_the_card_of_its_batch(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    for name in ("client-x", "client-y"):
        bench.done(f"new {name}")
    desk = make_desk(bench)
    batch = bench.approve(bench.ask("restart --all", OPERATOR))
    down = switch(bench.lxd)
    bench.runner.fault = lambda moment: down.set() if moment == "started 0" else None
    bench.finish()
    desk.announce()
    (child, *_) = bench.context.operations.select("parent = ? AND state = 'needs_attention'", batch.id)
    down.clear()
    backed_up(tmp_path)
    desk.command(f"give-up {child.id} because it runs", LEAD)
    desk.announce()
    again = restored(tmp_path, bench, channel="C0BOT", whole=True)
    assert [one.reason for one in Freezes(again.context.operations).all()] == [REASON]


def test_the_hourly_check_holds_what_waits_too(desk: Desk, tmp_path: Path) -> None:
    """The start found nothing: the settings named no channel then."""
    requests = decided_since(desk, tmp_path)
    desk.bench.ask("new client-z")
    desk.announce()
    again = put_back(tmp_path, desk.bench, whole=True)
    integrity(again.context)
    assert states(again, *requests) == ["cancelled", "cancelled"]
    (incident,) = again.context.incidents.open()
    assert "froze all tenants" in incident.text


def test_an_operation_in_progress_keeps_its_worker_if_the_restore_is_found_meanwhile(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.done("new client-x")
    backed_up(tmp_path)
    bench.clock.move(3600)
    bench.done("tag client-x vip", OPERATOR)
    make_desk(bench).announce()
    again = put_back(tmp_path, bench, whole=True)
    stop = again.approve(again.ask("stop client-x", OPERATOR))
    again.runner.fault = lambda moment: integrity(again.context) if moment == "started 0" else None
    again.finish()
    assert states(again, stop) == ["succeeded"]
    assert "It goes on, over whatever came after the backup" in " ".join(notes(again, stop))
    assert Freezes(again.context.operations).on("client-x")


def test_a_restore_is_recognised_once(desk: Desk, tmp_path: Path) -> None:
    """Neither later starts nor the hourly check take the same missing entries for another restore."""
    decided_since(desk, tmp_path)
    expiry(desk.bench.context)
    again = restored(tmp_path, desk.bench)
    desk = make_desk(again)
    desk.announce()
    desk.command("unfreeze all", LEAD)
    request = again.ask("stop client-y", OPERATOR)
    for _ in range(2):
        integrity(again.context)
        stop_after_restore(again.context)
        again.clock.move(3600)
    assert states(again, request) == ["awaiting_approval"]
    assert [one.tenant for one in Freezes(again.context.operations).all()] == ["client-x"]


def test_a_card_that_could_not_be_read_tells_the_next_start_of_no_other_restore(tmp_path: Path) -> None:
    """An operation needed attention at the backup and was given up since; `audit.head` told of the restore."""
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    desk = make_desk(bench)
    halted = bench.approve(bench.ask("restart client-x", OPERATOR))
    down = switch(bench.lxd)
    bench.runner.fault = lambda moment: down.set() if moment == "started 0" else None
    bench.finish()
    desk.announce()
    down.clear()
    assert states(bench, halted) == ["needs_attention"]
    backed_up(tmp_path)
    desk.command(f"give-up {halted.id} because it runs", LEAD)
    desk.announce()
    desk.command("schedule pause purge", OPERATOR)
    expiry(bench.context)
    bench.slack.fail("conversations.replies", TimeoutError())
    again = restored(tmp_path, bench, channel="")
    desk = make_desk(again)
    desk.announce()
    desk.command("unfreeze all", LEAD)
    stop_after_restore(again.context)
    assert not Freezes(again.context.operations).all()


# -- freezes and paused jobs -----------------------------------------------------------------------------------------


def frozen_by_the_bot(tmp_path: Path, *before: str) -> Desk:
    """Freeze as in `before`, back up, do something else, and restore; nothing waits in the backup."""
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.done("new client-x")
    desk = make_desk(bench)
    for text in before:
        desk.command(text, LEAD)
    backed_up(tmp_path)
    bench.clock.move(3600)
    desk.command("schedule pause purge", OPERATOR)
    expiry(bench.context)
    return make_desk(restored(tmp_path, bench))


def freezes(desk: Desk) -> list[tuple[str, str]]:
    return [(one.tenant, one.actor) for one in Freezes(desk.bench.context.operations).all()]


def test_freezes_and_paused_jobs_since_the_backup_are_lost_so_all_tenants_are_frozen(tmp_path: Path) -> None:
    desk = frozen_by_the_bot(tmp_path)
    assert freezes(desk) == [(EVERYTHING, SYSTEM)]
    desk.command("delete client-x", OPERATOR)
    said = desk.slack.to(OPERATOR.id)[-1]
    assert "All tenants are frozen by the bot because its database was restored from a backup" in said
    assert "/mautic schedule list" in said
    assert "An approver can end the freeze: `/mautic unfreeze all`" in said
    desk.command("digest", OPERATOR)
    assert "*All tenants are frozen* by the bot because" in json.dumps(desk.slack.said[-1]["blocks"])
    assert "<@system>" not in json.dumps(home(desk.bench.context, OPERATOR))


def test_where_nobody_may_end_the_bots_freeze_the_setting_is_named(tmp_path: Path) -> None:
    (freeze,) = Freezes(frozen_by_the_bot(tmp_path).bench.context.operations).all()
    assert freeze.to_end(()).startswith("First add a role to `ask` of `[policies.unfreeze]`")


def test_a_freeze_of_all_tenants_that_has_no_end_stays_as_it_is(tmp_path: Path) -> None:
    desk = frozen_by_the_bot(tmp_path, "freeze all because of the legal hold")
    assert freezes(desk) == [(EVERYTHING, LEAD.id)]


def test_a_freeze_that_the_bots_replaced_applies_again_after_it(tmp_path: Path) -> None:
    desk = frozen_by_the_bot(tmp_path, "freeze all 2d because of the launch")
    assert freezes(desk) == [(EVERYTHING, SYSTEM)]
    desk.command("unfreeze all", LEAD_2)
    assert freezes(desk) == [(EVERYTHING, LEAD.id)]


def test_a_persons_freeze_takes_the_place_of_the_bots_but_not_for_less_time(tmp_path: Path) -> None:
    desk = frozen_by_the_bot(tmp_path)
    desk.command("freeze all 2d because of the launch", OPERATOR)
    assert "already frozen for as long. An approver can end the freeze" in desk.slack.to(OPERATOR.id)[-1]
    desk.command("freeze all because of the legal hold", OPERATOR)
    assert freezes(desk) == [(EVERYTHING, OPERATOR.id)]
    desk.command("unfreeze all", OPERATOR)
    assert freezes(desk) == [(EVERYTHING, SYSTEM)], "who may only freeze can't end the bot's freeze in this way"


@pytest.mark.parametrize("lost", ["bot.db*", "*"])
def test_a_new_database_or_installation_is_no_restored_one(tmp_path: Path, lost: str) -> None:
    """The channel and `audit.head` have heads of the earlier database."""
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.ask("new client-x")
    make_desk(bench).announce()
    expiry(bench.context)
    bench.context.database.close()
    for file in tmp_path.glob(lost):
        file.unlink()
    for _ in range(2):
        again = make_bench(tmp_path, bench.lxd, slack=bench.slack, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
        again.clock.at = bench.clock.at + 3600
        stop_after_restore(again.context)
        request = again.ask("new client-z")
        make_desk(again).announce()
        integrity(again.context)
        assert not Freezes(again.context.operations).all()
        assert again.context.approvals.cancel(request.id, LEAD)
        again.context.database.close()


def test_the_incident_and_the_audit_log_tell_of_a_restore_that_slack_did_not_see(tmp_path: Path) -> None:
    """Only `audit.head` knew the newest entry."""
    desk = frozen_by_the_bot(tmp_path)
    integrity(desk.bench.context)
    (incident,) = desk.bench.context.incidents.open()
    assert "Compare the freezes and paused jobs (`/mautic schedule list`) with what you know" in incident.text
    verified = json.dumps(desk.bench.answer("audit verify", LEAD).blocks)
    assert "is missing: the database was restored from a backup" in verified
    desk.bench.clock.move(WEEK + 3600)
    integrity(desk.bench.context)
    assert desk.bench.context.incidents.open() == []
