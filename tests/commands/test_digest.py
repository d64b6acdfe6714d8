"""`/mautic digest`: shows the whole fleet or one tenant, as far back as the person asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.model.plan import Refused
from bot.slack.messages import Message
from schedules.health import health
from tests.support.bot import ASKER, LEAD, OPERATOR, Bench, make_bench
from tests.support.judge import judge, mrkdwn


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path)
    made.done("new client-x")
    return made


def said(message: Message) -> str:
    """Return all text of a message, after checking that Slack accepts it."""
    judge(message, frozenset({ASKER.id, OPERATOR.id, LEAD.id}))
    return "\n".join([message.text, *mrkdwn(message.blocks)])


def test_the_digest_covers_a_day_or_the_period_that_was_asked_for(bench: Bench) -> None:
    assert "New: client-x" in said(bench.answer("digest"))
    bench.clock.move(2 * 86_400)
    yesterday = said(bench.answer("digest"))
    assert "Sunday, 17 January: 1 thing to check" in yesterday
    assert ":camera: *No snapshot in the last 25 hours:* client-x (none)" in yesterday
    assert "New:" not in yesterday
    for since in ("3d", "72h", "1w"):
        assert "New: client-x" in said(bench.answer(f"digest --since {since}"))


def test_the_digest_of_one_tenant_is_shown_even_if_nothing_happened(bench: Bench) -> None:
    text = said(bench.answer("digest client-x"))
    assert "*client-x* · local · healthy" in text
    assert "no snapshot\n" in text
    assert "disk" not in text, "it has not been measured yet"
    bench.clock.move(60)
    health(bench.context)
    assert "no snapshot · disk 13.0 MiB of 30.0 GiB · memory 70.0 MiB of 3.0 GiB" in said(
        bench.answer("digest client-x")
    )
    assert "new #1: done" in text


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("digest client-y", "There is no tenant `client-y`"),
        ("digest --since yesterday", "“yesterday” isn't a period. Use one such as `12h`, `7d` or `2w`"),
        ("digest --since 0d", "isn't a period"),
        ("digest --since 61d", "up to 60 days"),
    ],
)
def test_an_unknown_tenant_or_period_is_refused(bench: Bench, words: str, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        bench.answer(words)
    assert reason.replace("`", "'") in str(refused.value).replace("`", "'")
