"""The result of a rehearsal with its log or pictures, and the report of a rollout, are posted in the thread once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bot.engine.rehearsal import LOG, files
from bot.guest import simulated_state as simulated_tenant
from bot.lxd.protocol import LxdUnavailable
from schedules.offers import offers
from tests.support.bot import OPERATOR, Bench, Desk, add_blueprint, add_releases, live, make_bench, make_desk, notes
from tests.support.simulated_lxd import SimulatedLxd

NEW = "6.0.10+double"
FAULT = {"migrate": "Migrating to 20250801000000\n\x1b[31mSQLSTATE[42S21]: Column already exists\x1b[0m"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    bench = make_bench(tmp_path)
    for name in ("client-x", "client-y"):
        assert bench.done(f"new {name}").state == "succeeded"
    add_releases(bench, "6.0.10")
    return make_desk(bench)


def shared(desk: Desk) -> list[dict[str, Any]]:
    """Return the files that were shared, each with its thread."""
    return [
        {"thread_ts": one["thread_ts"], **file}
        for one in desk.slack.said
        for file in one.get("files", [])
        if one["method"] == "files.completeUploadExternal"
    ]


def rehearsed(desk: Desk, text: str = "upgrade client-x") -> Any:
    """Request something that is rehearsed first; return the rehearsal, after its result was posted."""
    bench: Bench = desk.bench
    desk.command(text, OPERATOR)
    bench.finish()
    desk.announce()
    offers(bench.context)
    return bench.context.operations.select("command = 'rehearse' AND parent = 0", order="id DESC")[0]


def test_a_failed_rehearsal_is_posted_with_its_step_the_error_of_mautic_and_the_log(desk: Desk) -> None:
    simulated_tenant.change(desk.bench.lxd, "client-x", breaks=FAULT)
    rehearsal = rehearsed(desk)
    assert rehearsal.state == "failed"
    said = notes(desk.bench, rehearsal)[-1]
    assert said.startswith(
        ":x: *The upgrade of `client-x` from Mautic 5.2.12+double to 6.0.10+double failed on a copy*"
    )
    assert "`client-x` is untouched." in said
    assert "*Step:* Upgrade the copy" in said
    assert "SQLSTATE[42S21]: Column already exists" in said
    assert said.endswith("The log is attached.")
    (file,) = shared(desk)
    assert (file["name"], file["thread_ts"]) == (f"rehearsal-{rehearsal.id}.log", rehearsal.message_ts)
    text = file["content"].decode()
    assert "== What Mautic said ==\nMigrating to 20250801000000" in text
    assert "== The end of Mautic's log ==\nsimulated line 1 of mautic" in text
    assert "\x1b" not in text
    assert desk.bench.context.operations.select("command = 'upgrade'") == []
    assert live(desk.bench)
    offers(desk.bench.context)
    assert len(shared(desk)) == 1, "once"


def test_the_log_in_the_thread_masks_addresses_of_contacts_and_the_file_is_complete(desk: Desk) -> None:
    said = "Expected response code 250 but got 550 for anna.mueller@private-clinic.de"
    simulated_tenant.change(desk.bench.lxd, "client-x", breaks={"migrate": said})
    rehearsal = rehearsed(desk)
    (file,) = shared(desk)
    assert b"anna" not in file["content"]
    assert "got 550 for …@private-clinic.de" in file["content"].decode()
    assert said in (files(desk.bench.context.settings, rehearsal.id) / LOG).read_text()


def test_a_retry_that_passes_requests_the_upgrade(desk: Desk) -> None:
    simulated_tenant.change(desk.bench.lxd, "client-x", breaks=FAULT)
    rehearsal = rehearsed(desk)
    simulated_tenant.change(desk.bench.lxd, "client-x", breaks={})
    desk.click("retry", rehearsal.mark, OPERATOR)
    desk.bench.finish()
    offers(desk.bench.context)
    assert notes(desk.bench, rehearsal)[-1].startswith(":white_check_mark: *Client offline for about")
    assert [one.state for one in desk.bench.context.operations.select("command = 'upgrade'")] == ["awaiting_approval"]


def test_a_long_log_is_cut(desk: Desk) -> None:
    words = "\n".join(f"line {number} of many" for number in range(20_000))
    simulated_tenant.change(desk.bench.lxd, "client-x", breaks={"migrate": words})
    rehearsal = rehearsed(desk)
    assert (files(desk.bench.context.settings, rehearsal.id) / LOG).stat().st_size < 130_000


def test_a_log_that_slack_refuses_is_kept_and_its_path_posted(desk: Desk) -> None:
    simulated_tenant.change(desk.bench.lxd, "client-x", breaks=FAULT)
    desk.slack.fail("files.completeUploadExternal", "file_uploads_disabled")
    rehearsal = rehearsed(desk)
    path = files(desk.bench.context.settings, rehearsal.id) / LOG
    assert path.is_file()
    said = notes(desk.bench, rehearsal)[-1]
    assert "could not be attached" in said
    assert str(path) in said


def test_failed_rehearsals_of_a_rollout_are_posted_in_its_thread(desk: Desk) -> None:
    simulated_tenant.change(desk.bench.lxd, "client-x", breaks=FAULT)
    batch = rehearsed(desk, "rollout 6.0.10 --all")
    told = [one for one in notes(desk.bench, batch) if "failed on a copy" in one]
    assert len(told) == 1
    assert "`client-x`" in told[0]
    (file,) = shared(desk)
    assert file["thread_ts"] == batch.message_ts
    (rollout,) = desk.bench.context.operations.select("command = 'rollout'")
    assert rollout.plan["facts"]["Rehearsals"] == "1 passed, within a day"
    # Without the colour codes for a terminal.
    why = "The migrations failed: SQLSTATE[42S21]: Column already exists"
    failed = f"client-x: the rehearsal of client-x did not pass: {why}"
    assert failed in rollout.plan["remarks"]["Left out"]
    assert f"*Left out*\n{failed}" in notes(desk.bench, rollout)[0]


def test_pages_are_shown_in_a_table_before_and_after(desk: Desk) -> None:
    said = notes(desk.bench, rehearsed(desk))[-1]
    assert "Pages, before and after: all as before\n```" in said
    assert "Login " in said
    assert said.index("Client offline") < said.index("Pages, before"), "what people ask first comes first"


def test_a_rollout_posts_a_report_each_time_it_ends(desk: Desk) -> None:
    bench = desk.bench
    rehearsed(desk, "rollout 6.0.10 --all")
    (rollout,) = bench.context.operations.select("command = 'rollout'")
    simulated_tenant.change(bench.lxd, "client-x", breaks=FAULT)
    bench.approve(rollout)
    for _ in range(4):
        bench.finish()
        offers(bench.context)
        standing = bench.context.operations.get(rollout.id)
        if standing.state == "running":
            bench.clock.move(31 * 60)
            with bench.context.database.transaction() as transaction:
                transaction.execute("UPDATE batches SET paused = NULL, paused_by = '', forgiven = 1")
    reports = [one for one in notes(bench, rollout) if "*Rollout of Mautic" in one]
    assert len(reports) == 1
    assert reports[0].startswith(":checkered_flag: *Rollout of Mautic 6.0.10: 1 of 2 tenants run it now.*")
    assert ":x: `client-x` failed, and runs as before: The migrations failed: " in reports[0]
    simulated_tenant.change(bench.lxd, "client-x", breaks={})
    desk.click("retry", rollout.mark, OPERATOR)
    for _ in range(2):
        offers(bench.context)
        bench.finish()
    offers(bench.context)
    reports = [one for one in notes(bench, rollout) if "*Rollout of Mautic" in one]
    assert len(reports) == 2
    assert reports[1].startswith(":rocket: *Rollout of Mautic 6.0.10: 2 of 2 tenants run it now.*")


def test_a_manual_copy_of_one_tenant_does_not_block_offers_for_the_others(desk: Desk) -> None:
    """Two containers claim its name, so that nobody can tell which one is meant; others are still offered."""
    bench = desk.bench
    for name in ("client-x", "client-y"):
        desk.command(f"upgrade {name}", OPERATOR)
    bench.finish()
    bench.lxd.copy("client-x", "client-x-before-upgrade", config={}, devices={})
    offers(bench.context)
    assert [one.tenant for one in bench.context.operations.select("command = 'upgrade'")] == ["client-y"]
    (first, _) = bench.context.operations.select("command = 'rehearse'")
    assert "The upgrade is not requested" in notes(bench, first)[-1]


def test_a_silent_server_does_not_block_offers_for_tenants_of_the_others(tmp_path: Path) -> None:
    far = SimulatedLxd()
    bench = make_bench(tmp_path, others={"far": far})
    add_blueprint(far)
    add_releases(bench, "6.0.10")
    desk = make_desk(bench)
    for name, host in (("client-x", "far"), ("client-y", "local")):
        assert bench.done(f"new {name} --host {host}").state == "succeeded"
        desk.command(f"upgrade {name}", OPERATOR)
    bench.finish()
    far.down = True
    with pytest.raises(LxdUnavailable):
        offers(bench.context)
    assert [one.tenant for one in bench.context.operations.select("command = 'upgrade'")] == ["client-y"]
    far.down = False
    offers(bench.context)
    assert [one.tenant for one in bench.context.operations.select("command = 'upgrade'")] == ["client-y", "client-x"]


def test_a_log_that_was_attached_before_a_crash_is_not_attached_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated_tenant.change(desk.bench.lxd, "client-x", breaks=FAULT)
    desk.command("upgrade client-x", OPERATOR)
    desk.bench.finish()
    desk.announce()

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("schedules.offers._tell", kill)
        with pytest.raises(Killed):
            offers(desk.bench.context)
    offers(desk.bench.context)
    assert len(shared(desk)) == 1
