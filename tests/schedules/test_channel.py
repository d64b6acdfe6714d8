"""The bot's messages reach its channel, or its operators are warned that they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.model.plan import Refused
from schedules.channel import channel
from schedules.incidents import incidents
from tests.support.bot import LEAD, LEAD_2, OPERATOR, Bench, Desk, make_bench, make_desk


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")


def look(bench: Bench) -> str:
    """Run the job; return what it fails with, or ""."""
    bench.context.people.forget()
    try:
        channel(bench.context)
    except Refused as error:
        return str(error)
    return ""


def warned(bench: Bench) -> list[str]:
    return [one["channel"] for one in bench.slack.said if "I can't post to" in one["text"]]


def test_nothing_is_posted_if_the_channel_works(bench: Bench) -> None:
    assert look(bench) == ""
    assert bench.slack.said == []


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ({"is_archived": True}, "`#ops` is archived"),
        ({"is_member": False}, "I am not in `#ops`. Add me: `/invite @mautic`"),
        ({"is_ext_shared": True}, "`#ops` is shared with another organisation"),
    ],
)
def test_each_operator_is_warned_once_of_a_channel_that_cannot_be_posted_to(
    bench: Bench, info: dict[str, bool], why: str
) -> None:
    bench.slack.channels["C0OPS"] = {"name": "ops"} | info
    for _ in range(3):
        assert why in look(bench)
    assert sorted(warned(bench)) == sorted(f"D{one.id}" for one in (OPERATOR, LEAD, LEAD_2))
    assert why.split(";")[0] in bench.slack.said[0]["text"]
    bench.slack.channels["C0OPS"] = {}
    assert look(bench) == ""
    bench.slack.channels["C0OPS"] = {"name": "ops"} | info
    look(bench)
    assert len(warned(bench)) == 6, "it worked again in between"


def test_a_channel_that_slack_does_not_know_is_reported_with_advice(bench: Bench) -> None:
    bench.slack.fail("conversations.info", "channel_not_found")
    assert "there is no channel `C0OPS`, or it is private and I am not in it. Set the channel's id" in look(bench)


def test_a_passing_error_of_slack_warns_nobody(bench: Bench) -> None:
    bench.slack.fail("conversations.info", "internal_error")
    assert "access to `slack.channel` can't be checked" in look(bench)
    assert warned(bench) == []


def test_an_operator_who_could_not_be_warned_is_warned_by_the_next_run(bench: Bench) -> None:
    bench.slack.channels["C0OPS"] = {"is_archived": True}
    bench.slack.fail("conversations.open", "internal_error")
    look(bench)
    assert len(warned(bench)) == 2
    look(bench)
    assert len(set(warned(bench))) == len(warned(bench)) == 3


@pytest.fixture
def desk(bench: Bench) -> Desk:
    return make_desk(bench)


def test_a_card_that_slack_refuses_for_minutes_fails_the_job(desk: Desk) -> None:
    desk.command("new client-x")
    desk.slack.fail("chat.postMessage", "msg_blocks_too_long", times=2)
    desk.announce()
    assert look(desk.bench) == "", "the error may pass"
    desk.bench.clock.move(301)
    assert look(desk.bench) == "Slack has refused messages for minutes: request #1: msg_blocks_too_long."
    desk.announcer._waiting.clear()
    desk.announce()
    assert "request #1" in look(desk.bench)
    desk.announcer._waiting.clear()
    desk.announce()
    assert look(desk.bench) == ""


def test_an_incident_that_slack_refuses_for_minutes_fails_its_job(bench: Bench) -> None:
    with bench.context.database.transaction() as transaction:
        transaction.execute(
            "INSERT INTO incidents (tenant, server, kind, text, opened, channel) VALUES ('x', '', 'cron', 'y', ?, '')",
            (bench.clock(),),
        )
    bench.slack.closed.add("C0OPS")
    incidents(bench.context)
    bench.clock.move(301)
    with pytest.raises(Exception, match=r"1 incident could not be posted for minutes: .* C0OPS: not_in_channel"):
        incidents(bench.context)
    bench.slack.closed.clear()
    incidents(bench.context)
    assert len(bench.slack.said) == 1
