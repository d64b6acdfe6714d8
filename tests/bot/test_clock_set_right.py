"""The clock was a month ahead for a while and is right again: no time recorded meanwhile hides a problem of today."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.engine import health_checks
from bot.engine.maintenance import Maintenance, failing, given_up
from bot.fleet.health import diagnose, last_known
from bot.lxd.protocol import LxdError
from bot.model.diagnosis import Diagnosis, Finding
from bot.model.plan import Refused
from bot.reports import digest
from bot.reports.condition import conditions
from bot.slack.incidents import LONG, SILENCE, Seen
from bot.slack.poster import NotPosted
from bot.store import metrics
from bot.store.metrics import DAY, KnownDisk, Reading
from schedules.channel import channel
from tests.support.bot import LEAD, OPERATOR, Bench, make_bench, make_desk

AHEAD = 30 * DAY
DOWN = Finding("nginx", "`nginx` is inactive, so the site does not load.")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench whose clock is ahead."""
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.clock.set(AHEAD)
    return bench


def set_right(bench: Bench) -> None:
    bench.clock.set(-AHEAD)


# -- incidents --------------------------------------------------------------------------------------------------------


def sweep(bench: Bench, *findings: Finding) -> list[str]:
    """Judge these findings of a tenant, announce the incidents, and return what was posted in the channel itself."""
    before = len(bench.slack.said)
    with bench.context.database.transaction() as transaction:
        bench.context.incidents.judge(transaction, Seen({"client-x": Diagnosis(findings)}, {}))
    bench.context.incidents.announce()
    said = bench.slack.said[before:]
    return [one["text"] for one in said if one["method"] == "chat.postMessage" and not one.get("thread_ts")]


@pytest.mark.parametrize("silenced", [False, True], ids=["announced", "silenced"])
def test_an_outage_is_a_new_incident_although_one_ended_in_the_future(bench: Bench, silenced: bool) -> None:
    sweep(bench, DOWN)
    if silenced:
        bench.context.incidents.silence(bench.context.incidents.open()[0].mark, LEAD.id)
    sweep(bench)
    set_right(bench)
    bench.clock.move(7 * DAY)
    assert len(sweep(bench, DOWN)) == 1


def test_a_silence_pressed_meanwhile_is_over_and_can_be_pressed_again(bench: Bench) -> None:
    sweep(bench, DOWN)
    (incident,) = bench.context.incidents.open()
    bench.context.incidents.silence(incident.mark, LEAD.id)
    set_right(bench)
    bench.context.incidents.silence(incident.mark, LEAD.id)
    assert bench.context.incidents.open()[0].silenced_until == bench.clock() + SILENCE


def test_an_incident_silenced_meanwhile_shows_its_button_again(bench: Bench) -> None:
    sweep(bench, DOWN)
    bench.context.incidents.silence(bench.context.incidents.open()[0].mark, LEAD.id)
    set_right(bench)
    sweep(bench, DOWN)
    assert "incident_silence" in str(bench.slack.said[-1]["blocks"])
    assert "silenced by" not in str(bench.slack.said[-1]["blocks"])


def test_an_incident_opened_meanwhile_is_resolved_without_a_duration(bench: Bench) -> None:
    sweep(bench, DOWN)
    set_right(bench)
    sweep(bench)
    assert bench.slack.said[-1]["text"] == ":large_green_circle: Resolved."
    assert " after " not in str(bench.slack.said[-2]["blocks"])


def test_figures_outdated_since_the_future_are_updated(bench: Bench) -> None:
    sweep(bench, Finding("disk", "86% of its plan's disk is in use."))
    sweep(bench, Finding("disk", "89% of its plan's disk is in use."))
    set_right(bench)
    sweep(bench, Finding("disk", "89% of its plan's disk is in use."))
    assert "89%" in str(bench.slack.said[-1]["blocks"])


def test_an_incident_refused_since_the_future_is_reported_as_refused(bench: Bench) -> None:
    bench.slack.closed.add("C0OPS")
    sweep(bench, DOWN)
    set_right(bench)
    bench.clock.move(LONG)
    with pytest.raises(NotPosted, match="could not be posted for minutes"):
        sweep(bench, DOWN)


def looked_from(bench: Bench) -> list[float]:
    """Return a list that collects the times from which on the bot looks for messages in the channel."""
    history, asked = bench.slack.conversations_history, list[float]()

    def seen(**page: Any) -> dict[str, Any]:
        asked.append(float(page["oldest"]))
        return history(**page)

    bench.slack.conversations_history = seen  # type: ignore[method-assign]
    return asked


def test_a_head_posted_meanwhile_whose_answer_was_lost_is_found(bench: Bench) -> None:
    """Slack's own times are right: what the bot dated in the future was posted in the past."""
    post = bench.slack.chat_postMessage

    def lost(**message: Any) -> dict[str, Any]:
        post(**message)
        raise TimeoutError("timed out")

    bench.slack.chat_postMessage = lost  # type: ignore[method-assign]
    sweep(bench, DOWN)
    bench.slack.chat_postMessage = post  # type: ignore[method-assign]
    asked = looked_from(bench)
    set_right(bench)
    assert sweep(bench, DOWN) == []
    assert max(asked) < bench.clock() - DAY


def test_a_card_posted_meanwhile_right_before_a_crash_is_found(bench: Bench) -> None:
    """The machine starts again with a clock that is right."""
    bench.ask("new client-x")
    make_desk(bench).announce()
    with bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET message_ts = '', announced = 0")
    asked = looked_from(bench)
    set_right(bench)
    make_desk(bench).announce()
    assert [one["method"] for one in bench.slack.said] == ["chat.postMessage", "chat.update"]
    assert max(asked) < bench.clock() - DAY


# -- the health of tenants --------------------------------------------------------------------------------------------


@pytest.fixture
def created(bench: Bench) -> Bench:
    """A tenant that was created while the clock was ahead."""
    assert bench.done("new client-x").state == "succeeded"
    return bench


def looked(bench: Bench, *, up: bool) -> None:
    """Record a health check of the tenant."""
    with bench.context.database.transaction() as transaction:
        metrics.record(transaction, bench.clock(), [Reading("client-x", up=up)], {}, bench.context.uptime.before)


def test_a_check_dated_in_the_future_does_not_make_a_tenant_count_as_checked(created: Bench) -> None:
    looked(created, up=True)
    set_right(created)
    assert conditions(created.context, created.context.fleet.tenants())["client-x"].word == "unknown"


def test_a_tenant_that_was_up_in_the_future_can_be_down(bench: Bench) -> None:
    looked(bench, up=True)
    set_right(bench)
    looked(bench, up=False)
    assert metrics.down_since(bench.context.database, bench.clock(), bench.clock()) == {"client-x"}


def test_a_missing_snapshot_of_a_tenant_dated_in_the_future_is_reported(created: Bench) -> None:
    set_right(created)
    (entry,) = created.context.fleet.full_inventory().tenants
    look = health_checks.at_tenants(created.context, [entry], fresh=False)["client-x"]
    look = replace(look, snapshot_due=3600, awake=created.clock() - 7 * DAY)
    assert diagnose(look, created.context.settings.health).has("snapshot")
    (day,) = digest.gather(created.context, created.clock() - DAY).tenants
    assert day.missing


def test_what_was_measured_of_a_tenant_dated_in_the_future_is_its_own(created: Bench) -> None:
    set_right(created)
    (tenant,) = created.context.fleet.tenants()
    known = KnownDisk(int(created.clock()), used=5, limit=9)
    assert last_known(tenant, known, None, created.clock()) is not None


def test_an_upgrade_is_watched_although_a_rollback_before_it_is_dated_in_the_future(created: Bench) -> None:
    done = [created.done("restart client-x", OPERATOR)]
    set_right(created)
    done.append(created.done("restart client-x", OPERATOR))
    with created.context.database.transaction() as transaction:
        for operation, command in zip(done, ("rollback", "upgrade"), strict=True):
            transaction.execute("UPDATE operations SET command = ? WHERE id = ?", (command, operation.id))
    look = health_checks.at_tenants(created.context, created.context.fleet.full_inventory().tenants, fresh=False)
    assert look["client-x"].before is not None


# -- maintenance and jobs ---------------------------------------------------------------------------------------------


def maintain(bench: Bench, *, fails: bool) -> None:
    """Take a snapshot of the tenant as the bot's own maintenance."""
    if fails:
        bench.lxd.fail_next("snapshot", LxdError("the pool is full"))
    Maintenance(bench.context).ask("snapshot", bench.answer("snapshot client-x", OPERATOR))
    bench.finish()
    bench.clock.move(1000)


def test_maintenance_that_succeeded_in_the_future_can_fail(created: Bench) -> None:
    maintain(created, fails=False)
    set_right(created)
    for _ in range(2):
        maintain(created, fails=True)
    assert [one.times for one in failing(created.context)] == [2]
    assert given_up(created.context, "client-x", created.clock() - DAY)


def test_maintenance_that_failed_in_the_future_is_no_longer_failing(created: Bench) -> None:
    for _ in range(2):
        maintain(created, fails=True)
    assert failing(created.context) != []
    set_right(created)
    maintain(created, fails=False)
    assert failing(created.context) == []


# -- what people decided ----------------------------------------------------------------------------------------------


def test_an_approval_dated_in_the_future_does_not_count_for_a_retry(bench: Bench) -> None:
    bench.lxd.fail_next("start", LxdError("LXD could not start it."))
    failed = bench.done("new client-x")
    assert failed.state == "failed"
    set_right(bench)
    with pytest.raises(Refused, match="recorded by a clock that was ahead"):
        bench.context.approvals.refuse_to_retry(failed, LEAD)


def test_a_card_that_slack_refuses_since_the_future_is_reported(bench: Bench) -> None:
    desk = make_desk(bench)
    desk.command("new client-x")
    bench.slack.fail("chat.postMessage", "msg_blocks_too_long")
    desk.announce()
    set_right(bench)
    with pytest.raises(Refused, match=r"Slack has refused messages for minutes: request #1"):
        channel(bench.context)
