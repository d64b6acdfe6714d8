"""`/mautic freeze` and `/mautic unfreeze`: what a freeze stops and what not, when it ends, and where it is shown."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from bot.engine.guards import FREEZE
from bot.intake import home
from bot.model.labels import Role, State, as_labels
from bot.model.plan import Refused
from bot.reports.digest import gather
from bot.store import audit, claims, recovery
from bot.store.freezes import CONFIRM, EVERYTHING, Freeze, Freezes
from bot.store.operation import Operation
from schedules.boot import boot
from schedules.expiry import expiry
from schedules.purge import purge
from schedules.snapshots import snapshots
from tests.support.bot import (
    ASKER,
    CASES,
    LEAD,
    LEAD_2,
    OPERATOR,
    Bench,
    Desk,
    containers,
    events,
    live,
    make_bench,
    make_desk,
    notes,
    switch,
)

HOUR, DAY = 3600.0, 86_400.0


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    bench = make_bench(tmp_path)
    for name in ("client-x", "client-y"):
        assert bench.done(f"new {name}").state == "succeeded"
    return make_desk(bench)


def freezes(desk: Desk) -> list[Freeze]:
    return Freezes(desk.bench.context.operations).all()


def state(desk: Desk, operation: Operation) -> str:
    return desk.bench.context.operations.get(operation.id).state


def recorded(desk: Desk) -> list[tuple[str, str, str]]:
    rows = desk.bench.context.database.read(
        "SELECT event, actor, tenant FROM audit WHERE event LIKE 'freeze.%' ORDER BY seq"
    )
    return [tuple(row) for row in rows]


# -- the words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tenant", "lasts"),
    [
        ("freeze because the sale is on", EVERYTHING, None),
        ("freeze all because the sale is on", EVERYTHING, None),
        ("freeze client-x because the sale is on", "client-x", None),
        ("freeze 2h because the sale is on", EVERYTHING, 2 * HOUR),
        ("freeze client-x 3d because the sale is on", "client-x", 3 * DAY),
        ("freeze client-x for 90m because the sale is on", "client-x", 1.5 * HOUR),
        ("freeze all, until 1w, because: the sale is on", EVERYTHING, 7 * DAY),
        ("freeze Client-X 2027-01-20 18:00 because the sale is on", "client-x", 5 * DAY + 10 * HOUR),
        ("freeze all until 2027-01-16 because the sale is on", EVERYTHING, 16 * HOUR),
        ("freeze all 18:00 because the sale is on", EVERYTHING, 10 * HOUR),
        ("freeze all until 7:30 because the sale is on", EVERYTHING, 23.5 * HOUR),
    ],
)
def test_tenant_end_and_reason_are_read_from_the_words(desk: Desk, text: str, tenant: str, lasts: float | None) -> None:
    assert datetime.fromtimestamp(desk.bench.clock(), ZoneInfo("UTC")).isoformat() == "2027-01-15T08:00:00+00:00"
    desk.command(text, OPERATOR)
    (made,) = freezes(desk)
    until = None if lasts is None else desk.bench.clock() + lasts
    assert (made.tenant, made.actor, made.reason, made.until) == (tenant, OPERATOR.id, "the sale is on", until)
    assert recorded(desk) == [("freeze.begun", OPERATOR.id, tenant)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("freeze", "Add a reason; it is shown on every card"),
        ("freeze client-x 2h", "Add a reason; it is shown on every card"),
        ("freeze client-x 2h because", "Add a reason; it is shown on every card"),
        ("freeze client-z because it is", "There is no tenant `client-z`"),
        ("freeze client-x soon because it is", "“soon” is not a time. Type for example `/mautic freeze all 2h because"),
        ("freeze client-x 2027-02-30 because it is", "“2027-02-30” is not a time"),
        ("freeze client-x 25:00 because it is", "“25:00” is not a time"),
        ("freeze client-x 2020-01-01 because it is", "The end of a freeze has to be in the future"),
        ("freeze client-x 900d because it is", "The end of a freeze has to be in the future, within a year"),
        ("freeze a/b because it is", "can't be a tenant name"),
        (f"freeze all because {'x' * 301}", "The reason is too long: 301 characters, at most 300"),
        ("unfreeze", "Not all tenants are frozen, and neither is anything else."),
        ("unfreeze client-x", "`client-x` is not frozen, and neither is anything else."),
        ("unfreeze a/b", "can't be a tenant name"),
    ],
)
def test_wrong_words_are_refused_and_freeze_nothing(desk: Desk, text: str, says: str) -> None:
    desk.command(text, LEAD)
    assert says in desk.slack.to(LEAD.id)[-1]
    assert freezes(desk) == []
    assert recorded(desk) == []


def test_a_tenant_that_may_be_on_a_silent_server_can_be_frozen(desk: Desk) -> None:
    switch(desk.bench.lxd).set()
    desk.command("freeze client-q 2h because it is on the silent one", LEAD)
    assert [one.tenant for one in freezes(desk)] == ["client-q"]


# -- who may freeze --------------------------------------------------------------------------------------------------


def test_policies_decide_who_may_freeze_and_unfreeze(desk: Desk) -> None:
    desk.command("freeze all because I like it", ASKER)
    assert "You can't use `freeze`. Ask an operator or an approver" in desk.slack.to(ASKER.id)[-1]
    desk.command("freeze all because of the sale", LEAD)
    desk.command("unfreeze all", OPERATOR)
    assert "You can't use `unfreeze`. Ask an approver" in desk.slack.to(OPERATOR.id)[-1]
    assert len(freezes(desk)) == 1
    desk.command("unfreeze all", LEAD_2)
    assert freezes(desk) == []
    desk.command("freeze client-x because of a mistake", OPERATOR)
    desk.command("unfreeze client-x", OPERATOR)
    assert freezes(desk) == [], "people may end their own freeze"


def test_a_second_freeze_can_lengthen_the_first_but_never_shorten_it(desk: Desk) -> None:
    desk.command("freeze all 2d because of the sale", LEAD)
    desk.command("freeze all 1m because I am in a hurry", OPERATOR)
    assert (
        "already frozen for as long. <@U0OPSLEAD> or an approver can end the freeze: `/mautic unfreeze all`"
        in desk.slack.to(OPERATOR.id)[-1]
    )
    desk.command("freeze all 3d because the sale goes on", OPERATOR)
    (now,) = freezes(desk)
    assert (now.actor, now.reason) == (OPERATOR.id, "the sale goes on")
    assert [event for event, *_ in recorded(desk)] == ["freeze.begun", "freeze.ended", "freeze.begun"]
    desk.command("freeze all because it never ends", OPERATOR)
    desk.command("freeze all because it never ends either", LEAD)
    assert [one.reason for one in freezes(desk)] == ["it never ends"]


def test_lengthening_another_persons_freeze_gives_no_right_to_end_it(desk: Desk) -> None:
    desk.command("freeze all 2h because the customer audits", LEAD)
    for lasts in ("3h", "4h"):
        desk.command(f"freeze all {lasts} because more", OPERATOR)
    desk.command("unfreeze all", OPERATOR)
    (stays,) = Freezes(desk.bench.context.operations).all()
    assert (stays.actor, stays.reason) == (LEAD.id, "the customer audits")
    assert "Still: " in desk.slack.to(OPERATOR.id)[-1]
    desk.command("unfreeze all", OPERATOR)
    assert "You can't use `unfreeze`" in desk.slack.to(OPERATOR.id)[-1]
    desk.command("unfreeze all", LEAD)
    assert Freezes(desk.bench.context.operations).all() == []
    desk.command("freeze all 5h because again", OPERATOR)
    desk.command("unfreeze all", OPERATOR)
    assert Freezes(desk.bench.context.operations).all() == [], "the freeze that was ended does not come back"


def test_a_freeze_of_all_and_a_freeze_of_one_tenant_are_separate(desk: Desk) -> None:
    desk.command("freeze client-x because of the auditors", LEAD)
    desk.command("freeze all 2h because of the move", LEAD)
    desk.command("unfreeze all", LEAD)
    assert "Still: :snowflake: *client-x is frozen*" in desk.slack.to(LEAD.id)[-1]
    desk.command("restart client-y", OPERATOR)
    assert desk.last().tenant == "client-y"
    desk.command("unfreeze", LEAD)
    assert "To end what is frozen: `/mautic unfreeze client-x`" in desk.slack.to(LEAD.id)[-1]


# -- what it stops, and what not -------------------------------------------------------------------------------------


def test_a_tenant_that_is_not_frozen_can_be_changed(desk: Desk) -> None:
    desk.command("freeze client-x because of the sale", LEAD)
    desk.command("restart client-y", OPERATOR)
    desk.bench.finish()
    assert desk.last().state == "succeeded"


def test_a_request_stays_open_and_can_be_denied_or_cancelled(desk: Desk) -> None:
    asked = [desk.bench.ask(f"stop client-{name}", OPERATOR) for name in "xy"]
    desk.command("freeze all because of the sale", LEAD_2)
    desk.click("approve", asked[0].id, LEAD)
    said = desk.slack.to(LEAD.id)[-1]
    assert (
        "All tenants are frozen by <@U0OPSLEAD2> because of the sale. <@U0OPSLEAD2> or an approver can end the freeze: "
        "`/mautic unfreeze all`" in said
    )
    assert "still waits for approval" in said
    desk.click("deny", asked[0].id, LEAD)
    desk.command(f"cancel {asked[1].id}", OPERATOR)
    assert [state(desk, one) for one in asked] == ["denied", "cancelled"]


def test_an_approved_operation_waits_for_the_end_of_the_freeze_or_is_cancelled(desk: Desk) -> None:
    asked = [desk.bench.approve(desk.bench.ask(f"stop client-{name}", OPERATOR)) for name in "xy"]
    desk.command("freeze all 2h because of the sale", LEAD_2)
    desk.bench.finish()
    desk.bench.finish()
    assert [state(desk, one) for one in asked] == ["queued", "queued"]
    assert events(desk.bench, asked[0]).count("operation.held") == 1
    desk.announce()
    card = next(one for one in reversed(desk.slack.said) if f"Request #{asked[0].id} ·" in str(one))
    assert "All tenants are frozen" in json.dumps(card)
    assert "The operation starts when the freeze ends" in json.dumps(card)
    with pytest.raises(Refused, match=f"or whoever may approve it, can cancel it: `/mautic cancel {asked[0].id}`"):
        desk.bench.context.operations.refuse_if_busy("client-x")
    desk.bench.context.approvals.cancel(asked[1].id, OPERATOR)
    desk.command("unfreeze all", LEAD)
    desk.bench.finish()
    assert [state(desk, one) for one in asked] == ["succeeded", "cancelled"]


def test_an_unfinished_operation_can_be_undone_or_retried(desk: Desk) -> None:
    bench = desk.bench
    halted = []
    for name in "ab":
        bench.lxd.fail_next("start", OSError("broken"))
        bench.lxd.fail_next("delete", OSError("broken"))
        halted.append(bench.done(f"new client-{name}"))
    assert {one.state for one in halted} == {"needs_attention"}
    desk.command("freeze all because of the sale", LEAD_2)
    desk.click("undo", halted[0].id)
    desk.click("retry", halted[1].id)
    bench.finish()
    assert [state(desk, one) for one in halted] == ["cancelled", "succeeded"]


def test_scheduled_snapshots_go_on_even_where_an_operation_waits(desk: Desk) -> None:
    bench = desk.bench
    held = bench.approve(bench.ask("stop client-x", OPERATOR))
    desk.command("freeze all because of the sale", LEAD_2)
    bench.finish()
    bench.clock.move(2 * DAY)
    snapshots(bench.context)
    taken = bench.context.operations.select("command = 'snapshot'")
    assert {one.tenant for one in taken} == {"client-x", "client-y"}
    # The freeze ends while they are queued: the operation that waited begins when they are done.
    desk.command("unfreeze all", LEAD)
    bench.finish()
    assert {one.state for one in bench.context.operations.select("command = 'snapshot'")} == {"succeeded"}
    assert state(desk, held) == "succeeded"


def test_the_policy_prunes_and_purges_nothing_that_is_frozen(desk: Desk) -> None:
    bench = desk.bench
    for _ in range(3):
        bench.clock.move(120)
        assert bench.done("snapshot client-x", OPERATOR).state == "succeeded"
    bench.clock.move(60)
    assert bench.done("delete client-y", OPERATOR).state == "succeeded"
    bench.clock.move(40 * DAY)
    purge(bench.context)
    bench.clock.move(7 * HOUR)
    desk.command("freeze all because of the auditors", LEAD)
    asked = Counter[str]()
    for job in (snapshots, purge):
        job(bench.context)
        bench.finish()
    asked.update(one.command for one in bench.context.operations.select("requester = 'system'"))
    assert set(asked) == {"snapshot"}
    assert "client-y--archived" in containers(bench)
    desk.command("unfreeze", LEAD)
    purge(bench.context)
    bench.finish()
    assert "client-y--archived" not in containers(bench)


def test_a_queued_prune_is_cancelled_and_requested_again_after_the_freeze(desk: Desk) -> None:
    bench = desk.bench
    for _ in range(3):
        bench.clock.move(120)
        assert bench.done("snapshot client-x", OPERATOR).state == "succeeded"
    bench.clock.move(60)
    snapshots(bench.context)
    (prune,) = bench.context.operations.select("command = 'prune'")
    desk.command("freeze client-x because of the auditors", LEAD)
    bench.finish()
    ended = bench.context.operations.get(prune.id)
    assert (ended.state, ended.held_by) == ("cancelled", FREEZE)
    desk.command("unfreeze client-x", LEAD)
    snapshots(bench.context)
    bench.finish()
    assert [one.state for one in bench.context.operations.select("command = 'prune'")] == ["cancelled", "succeeded"]


def test_the_boot_order_of_a_frozen_tenant_is_not_changed(desk: Desk) -> None:
    def order(name: str) -> str:
        return desk.bench.lxd.instance(name).config.get("boot.autostart.priority", "")

    desk.bench.lxd.update("client-x", {"boot.autostart.priority": "999"})
    desk.command("freeze client-x because of the auditors", LEAD)
    boot(desk.bench.context)
    assert order("client-x") == "999"
    desk.command("unfreeze client-x", LEAD)
    boot(desk.bench.context)
    assert order("client-x") != "999"


def test_a_frozen_tenant_can_be_read_but_not_changed(desk: Desk) -> None:
    desk.command("freeze client-x because of the sale", LEAD)
    desk.command("console client-x cache:clear", OPERATOR)
    assert "`client-x` is frozen by" in desk.slack.to(OPERATOR.id)[-1]
    for text in ("console client-x messenger:failed:show", "status client-x", "logs client-x", "snapshots client-x"):
        desk.command(text, OPERATOR)
        assert "`/mautic unfreeze" not in desk.slack.to(OPERATOR.id)[-1], text


# -- when it ends ----------------------------------------------------------------------------------------------------


def ended(desk: Desk) -> bool:
    expiry(desk.bench.context)
    return not freezes(desk)


def test_a_freeze_ends_by_itself_and_what_waited_starts(desk: Desk) -> None:
    held = desk.bench.approve(desk.bench.ask("stop client-x", OPERATOR))
    desk.command("freeze client-x 2h because of the sale", LEAD)
    woken = Counter[str]()
    desk.bench.context.operations.changed = lambda: woken.update(["changed"])
    desk.bench.clock.move(2 * HOUR - 1)
    assert not ended(desk)
    desk.bench.finish()
    assert state(desk, held) == "queued"
    desk.bench.clock.move(1)
    woken.clear()
    assert ended(desk)
    assert woken
    assert recorded(desk)[-1] == ("freeze.ended", "system", "client-x")
    desk.bench.finish()
    assert state(desk, held) == "succeeded"


def test_a_freeze_ends_on_time_even_if_the_expiry_job_does_not_run(desk: Desk) -> None:
    desk.command("freeze client-x 2h because of the sale", LEAD)
    desk.bench.clock.move(2 * HOUR)
    desk.command("restart client-x", OPERATOR)
    assert desk.last().command == "restart"
    desk.command("freeze client-x 1h because of another", OPERATOR)
    assert [one.reason for one in freezes(desk)] == ["of another"]


def test_setting_the_clock_ends_no_freeze_for_an_hour(desk: Desk) -> None:
    desk.command("freeze client-x 2h because of the sale", LEAD)
    desk.bench.clock.set(365 * DAY)
    assert not ended(desk)
    desk.bench.clock.set(-365 * DAY)
    desk.bench.clock.move(CONFIRM)
    assert not ended(desk), "the clock was corrected in between"
    desk.bench.clock.set(2 * HOUR)
    assert not ended(desk)
    desk.bench.clock.move(CONFIRM - 1)
    assert not ended(desk)
    desk.bench.clock.move(1)
    assert ended(desk)


def test_setting_the_clock_back_does_not_prolong_a_freeze(desk: Desk) -> None:
    desk.command("freeze client-x 2h because of the sale", LEAD)
    desk.bench.clock.set(-365 * DAY)
    desk.bench.clock.move(2 * HOUR)
    assert not ended(desk)
    desk.bench.clock.move(CONFIRM)
    assert ended(desk)


# -- where it is shown -----------------------------------------------------------------------------------------------


def test_a_freeze_is_shown_on_cards_in_answers_and_in_the_home_tab(desk: Desk) -> None:
    asked = desk.bench.ask("stop client-x", OPERATOR)
    desk.announce()
    until = desk.bench.clock() + 2 * HOUR
    Freezes(desk.bench.context.operations).begin("client-x", LEAD.id, "of the <sale> & *more*", until)
    seen = "*client-x is frozen* by <@U0OPSLEAD> until <!date^1800007200^"
    reason = "of the &lt;sale&gt; &amp; \N{ZERO WIDTH SPACE}*more\N{ZERO WIDTH SPACE}*"
    desk.announce()
    card = json.dumps(desk.slack.said[-1]["blocks"], ensure_ascii=False)
    assert seen in card
    assert reason in card
    assert "The request can't be approved until the freeze ends" in card
    for text in ("status client-x", "digest"):
        desk.command(text, OPERATOR)
        said = json.dumps(desk.slack.said[-1]["blocks"], ensure_ascii=False)
        assert seen in said, text
        assert reason in said, text
    desk.command("list", OPERATOR)
    said = json.dumps(desk.slack.said[-1]["blocks"], ensure_ascii=False)
    assert said.count(":snowflake:") == 1
    assert ":snowflake: frozen by <@U0OPSLEAD> until" in said
    tab = json.dumps(home.home(desk.bench.context, ASKER), ensure_ascii=False)
    assert seen in tab
    assert "or an approver can end the freeze: `/mautic unfreeze client-x`" in tab
    assert [one.tenant for one in gather(desk.bench.context, 0).frozen] == ["client-x"]
    desk.command("unfreeze client-x", LEAD)
    desk.announce()
    card = json.dumps(desk.slack.said[-1]["blocks"], ensure_ascii=False)
    assert f"Request #{asked.id} ·" in card
    assert ":snowflake:" not in card


def test_the_answer_to_a_freeze_names_running_operations(desk: Desk) -> None:
    operation = desk.bench.approve(desk.bench.ask("stop client-x", OPERATOR))
    assert claims.claim(desk.bench.context.operations)
    desk.command("freeze all because of the sale", LEAD)
    assert f"Request #{operation.id} is already running and will finish: Stop tenant" in desk.slack.to(LEAD.id)[-1]


# -- at once, twice, and after a crash -------------------------------------------------------------------------------


def test_simultaneous_freezes_make_one_freeze(desk: Desk) -> None:
    def freeze(number: int) -> str:
        try:
            table = Freezes(desk.bench.context.operations)
            return str(table.begin(EVERYTHING, f"U0PERSON{number}", "of the sale", None).id)
        except Refused:
            return ""

    with ThreadPoolExecutor(8) as pool:
        made = [one for one in pool.map(freeze, range(8)) if one]
    assert len(made) == len(freezes(desk)) == len(recorded(desk)) == 1

    def unfreeze(number: int) -> bool:
        try:
            return bool(Freezes(desk.bench.context.operations).end(EVERYTHING, f"U0PERSON{number}"))
        except Refused:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(unfreeze, range(8))) == 1
    assert [event for event, *_ in recorded(desk)] == ["freeze.begun", "freeze.ended"]


@pytest.mark.parametrize("text", ["freeze all 2h because of the sale", "unfreeze all"])
def test_a_delivery_that_is_repeated_after_a_crash_takes_effect_once(desk: Desk, text: str) -> None:
    if text.startswith("unfreeze"):
        desk.command("freeze all because of another", LEAD)
    for _ in range(2):
        desk.command(text, LEAD, key="one-delivery")
        desk.bench.clock.move(60)
    assert ":warning:" not in " ".join(desk.slack.to(LEAD.id))
    assert Counter(event for event, *_ in recorded(desk)).most_common(1)[0][1] == 1
    assert [one.reason for one in freezes(desk)] == (["of the sale"] if text.startswith("freeze") else [])


class Killed(BaseException):
    """The process died here."""


@pytest.mark.parametrize("text", ["freeze all because of the sale", "unfreeze all"])
def test_a_crash_while_recording_leaves_nothing_half_done(desk: Desk, text: str, tmp_path: Path) -> None:
    """Nothing is frozen without its audit row, and the same delivery takes effect once after the restart."""
    bench = desk.bench
    if text.startswith("unfreeze"):
        desk.command("freeze all because of the sale", LEAD)
    before = recorded(desk)

    def die(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "record", die)
        with pytest.raises(Killed):
            desk.command(text, LEAD, key="one-delivery")
    assert recorded(desk) == before
    bench.context.database.close()
    again = make_desk(make_bench(tmp_path, bench.lxd))
    again.command(text, LEAD, key="one-delivery")
    assert len(recorded(again)) == len(before) + 1
    assert len(freezes(again)) == text.startswith("freeze")
    assert not audit.verify(again.bench.context.database).broken


@pytest.mark.parametrize("command", CASES)
def test_an_operation_that_has_begun_finishes_and_a_queued_one_waits(tmp_path: Path, command: str) -> None:
    """Every operation: frozen after a kill in its first step, it finishes; frozen before it begins, it waits."""
    case = CASES[command]

    def prepared(folder: Path, fault: str = "") -> tuple[Bench, Operation]:
        bench = make_bench(folder, members=case.members)
        case.prepare(bench)
        operation = bench.approve(bench.ask(case.text, case.actor))

        def die(moment: str) -> None:
            if moment == fault:
                raise Killed

        bench.runner.fault = die
        return bench, operation

    bench, operation = prepared(tmp_path / "begun", "started 0")
    with pytest.raises(Killed):
        bench.finish()
    Freezes(bench.context.operations).begin(EVERYTHING, LEAD.id, "of the sale", None)
    bench.context.database.close()
    bench = make_bench(tmp_path / "begun", bench.lxd)
    recovery.recover(bench.context.operations)
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "succeeded"
    assert (containers(bench), live(bench)) == (case.after, case.live)

    bench, operation = prepared(tmp_path / "waits")
    Freezes(bench.context.operations).begin(EVERYTHING, LEAD.id, "of the sale", None)
    was = containers(bench)
    bench.finish()
    held = bench.context.operations.get(operation.id)
    assert (held.state, held.held_by, containers(bench)) == ("queued", FREEZE, was)
    assert sum(" is waiting: All tenants are frozen by " in note for note in notes(bench, operation)) == 1
    bench.context.database.close()
    bench = make_bench(tmp_path / "waits", bench.lxd)
    recovery.recover(bench.context.operations)
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "queued", "a restart does not end the freeze"
    Freezes(bench.context.operations).end(EVERYTHING, LEAD.id)
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "succeeded"
    assert (containers(bench), live(bench)) == (case.after, case.live)


def test_an_operation_that_waited_under_an_older_release_still_waits(tmp_path: Path) -> None:
    """In a database from before freezes, a held operation gets the key of a guard, and can be cancelled as before."""
    bench = make_bench(tmp_path)
    operation = bench.approve(bench.ask("new client-x"))
    bench.context.database.close()
    with closing(sqlite3.connect(tmp_path / "bot.db")) as old:
        old.executescript(
            "DROP TABLE freezes; DROP INDEX one_operation_under_way; ALTER TABLE operations DROP COLUMN held_by;"
            "CREATE UNIQUE INDEX one_operation_under_way ON operations(tenant)"
            " WHERE tenant <> '' AND state IN ('queued', 'running', 'needs_attention');"
            "UPDATE operations SET outcome = '`local` is overloaded';"
            "DELETE FROM _sqlite_migrations WHERE name = 'm027_freezes';"
        )
    again = make_bench(tmp_path, bench.lxd)
    found = again.context.operations.get(operation.id)
    assert (found.state, found.held_by) == ("queued", "memory")
    again.context.approvals.cancel(operation.id, ASKER)


def test_leftovers_of_a_move_are_deleted_even_during_a_freeze(desk: Desk) -> None:
    bench = desk.bench
    mark = as_labels(tenant="client-x", role=Role.INCOMING, state=State.MOVING, operation=1)
    bench.lxd.copy("client-x", "client-x--1", config=mark, devices={})
    Freezes(bench.context.operations).begin(EVERYTHING, LEAD.id, "of the sale", None)
    purge(bench.context)
    bench.finish()
    assert containers(bench) == {"client-x", "client-y"}
