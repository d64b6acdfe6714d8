"""A database from a backup lacks what people decided since; the bot does nothing by itself that may contradict it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from bot.program import stop_after_restore
from bot.store import batches, recovery
from schedules.expiry import expiry
from tests.support.bot import LEAD, LEAD_2, OPERATOR, Bench, Desk, containers, make_bench, make_desk, notes


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


def restored(folder: Path, bench: Bench, *, channel: str = "C0OPS") -> Bench:
    """Restore the backup as docs/production.md describes, and start the bot again."""
    bench.context.database.close()
    for name in ("bot.db", "bot.db-wal", "bot.db-shm"):
        (folder / name).unlink(missing_ok=True)
    (folder / "backup.db").rename(folder / "bot.db")
    again = make_bench(folder, bench.lxd, slack=bench.slack, MAUTIC_OPS_SLACK__CHANNEL=channel)
    again.clock.at = bench.clock.at
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
