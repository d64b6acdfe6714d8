"""`/mautic schedule`: shows what the bot does by itself; operators and approvers run, pause and resume it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from bot.model.plan import Refused
from bot.slack.messages import Message
from schedules.digest import digest
from tests.support.bot import ASKER, LEAD, OPERATOR, Bench, make_bench
from tests.support.judge import judge, mrkdwn


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def said(message: Message) -> str:
    judge(message, frozenset({OPERATOR.id}))
    return "\n".join(mrkdwn(message.blocks))


def woken(bench: Bench) -> list[str]:
    """Return a list that collects the jobs that are woken from now on."""
    names: list[str] = []
    bench.context.jobs.wake = names.append
    return names


def test_everybody_sees_the_jobs_and_how_they_ended(bench: Bench) -> None:
    assert "*digest* · Post the digest" in said(bench.answer("schedule"))
    bench.context.jobs.begin("expiry")
    bench.context.jobs.end("expiry", "LXD does not answer.")
    assert ":x: last run <!date" in said(bench.answer("schedule list", ASKER))


def test_internal_jobs_share_one_line_while_they_are_on_time(bench: Bench) -> None:
    shown = said(bench.answer("schedule"))
    assert "Internal (14), all on time: advisories, ballast, boot, channel, expiry" in shown
    bench.context.jobs.pause("expiry", OPERATOR.id)
    shown = said(bench.answer("schedule"))
    assert "Internal (13), all on time: advisories, ballast, boot, channel, id-floor" in shown
    assert "*expiry* · Expire requests" in shown


def test_the_digest_is_shown_with_its_hour_and_not_with_its_polling_interval(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS", MAUTIC_OPS_BOT__TIMEZONE="Europe/Berlin")
    zone = ZoneInfo("Europe/Berlin")

    def at(day: int, hour: int) -> float:
        return datetime(2026, 11, day, hour, tzinfo=zone).timestamp()

    def told() -> str:
        return next(row for row in said(bench.answer("schedule")).splitlines() if row.startswith("Daily"))

    bench.clock.at = at(25, 7)
    assert told().startswith(f"Daily at 08:00 Europe/Berlin · not run yet · next <!date^{int(at(25, 8))}^")
    bench.clock.at = at(25, 9)
    digest(bench.context)
    assert f"last sent <!date^{int(at(25, 9))}^" in told()
    assert f"next <!date^{int(at(26, 8))}^" in told()


def test_a_pause_names_who_paused_and_is_audited(bench: Bench) -> None:
    names = woken(bench)
    said(bench.answer("schedule pause expiry", OPERATOR))
    assert f"Paused by <@{OPERATOR.id}> since" in said(bench.answer("schedule"))
    with pytest.raises(Refused, match=f"already paused by <@{OPERATOR.id}>"):
        bench.answer("schedule pause expiry", LEAD)
    said(bench.answer("schedule resume expiry", LEAD))
    assert "Paused by" not in said(bench.answer("schedule"))
    with pytest.raises(Refused, match="is not paused"):
        bench.answer("schedule resume expiry", LEAD)
    rows = bench.context.database.read("SELECT event, actor, detail FROM audit")
    assert [(row["event"], row["actor"], json.loads(row["detail"])) for row in rows] == [
        ("job.paused", OPERATOR.id, {"job": "expiry"}),
        ("job.resumed", LEAD.id, {"job": "expiry"}),
    ]
    assert names == ["expiry"]


def test_a_job_can_be_run_by_hand_unless_it_is_running(bench: Bench) -> None:
    names = woken(bench)
    said(bench.answer("schedule run expiry", OPERATOR))
    assert names == ["expiry"]
    bench.context.jobs.begin("expiry")
    with pytest.raises(Refused, match="is already running"):
        bench.answer("schedule run expiry", OPERATOR)
    assert names == ["expiry"]


@pytest.mark.parametrize("what", ["run", "pause", "resume"])
def test_only_operators_and_approvers_may_run_pause_and_resume_jobs(bench: Bench, what: str) -> None:
    with pytest.raises(Refused, match="Ask an operator or an approver"):
        bench.answer(f"schedule {what} expiry", ASKER)


def test_a_missing_or_unknown_job_is_refused_with_suggestions(bench: Bench) -> None:
    with pytest.raises(Refused, match=r"Which job\? .*`digest`, `expiry`"):
        bench.answer("schedule pause", OPERATOR)
    with pytest.raises(Refused, match="Did you mean `expiry`"):
        bench.answer("schedule run expire", OPERATOR)
