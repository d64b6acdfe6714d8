"""The clock was a month ahead for a while and is right again: no time recorded meanwhile hides a problem of today."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.model.diagnosis import Diagnosis, Finding
from bot.slack.incidents import LONG, SILENCE, Seen
from bot.slack.poster import NotPosted
from bot.store.metrics import DAY
from tests.support.bot import LEAD, Bench, make_bench

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


def test_a_head_posted_meanwhile_whose_answer_was_lost_is_found(bench: Bench) -> None:
    """Slack's own times are right: what the bot dated in the future was posted in the past."""
    post, asked = bench.slack.chat_postMessage, []

    def lost(**message: object) -> None:
        post(**message)
        raise TimeoutError("timed out")

    bench.slack.chat_postMessage = lost  # type: ignore[assignment,method-assign]
    sweep(bench, DOWN)
    bench.slack.chat_postMessage = post  # type: ignore[method-assign]
    history = bench.slack.conversations_history

    def seen(**page: object) -> dict[str, object]:
        asked.append(float(str(page["oldest"])))
        return history(**page)  # type: ignore[arg-type]

    bench.slack.conversations_history = seen  # type: ignore[assignment,method-assign]
    set_right(bench)
    sweep(bench, DOWN)
    assert asked
    assert max(asked) < bench.clock() - DAY
