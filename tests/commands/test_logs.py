"""`/mautic logs`: shows the last lines to those who may read them, and says if older lines do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.model.plan import Refused
from tests.support.bot import ASKER, OPERATOR, Bench, make_bench
from tests.support.judge import judge, mrkdwn


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    return bench


def said(bench: Bench, text: str) -> str:
    message = bench.answer(text, OPERATOR)
    judge(message, frozenset())
    return "\n".join(mrkdwn(message.blocks))


def test_the_last_lines_are_shown_and_the_reader_is_recorded(bench: Bench) -> None:
    shown = said(bench, "logs client-x nginx --lines 3")
    assert "last 3 lines of the `nginx` log" in shown
    assert "simulated line 3 of nginx" in shown
    (row,) = bench.context.database.read("SELECT actor, tenant, detail FROM audit WHERE event = 'logs.read'")
    assert (row["actor"], row["tenant"], row["detail"]) == (OPERATOR.id, "client-x", '{"lines": 3, "what": "nginx"}')


def test_the_end_of_a_long_log_is_shown_and_the_omission_mentioned(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"{number} <{'&' * 60}>" for number in range(1, 501)]
    mautic = type(bench.context.fleet.hosts()[0].mautic)
    monkeypatch.setattr(mautic, "logs", lambda *_: "\n".join(rows))
    shown = said(bench, "logs client-x --lines 500")
    assert "500 &lt;" in shown
    assert "\n1 &lt;" not in shown
    assert "older lines do not fit in this message" in shown
    assert shown.count("```") == 2 * 4


def test_an_empty_log_is_said_to_be_empty(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(bench.context.fleet.hosts()[0].mautic), "logs", lambda *_: "")
    assert "the `cron` log is empty" in said(bench, "logs client-x cron")


def test_only_operators_and_approvers_may_read_logs(bench: Bench) -> None:
    with pytest.raises(Refused, match="Ask an operator or an approver"):
        bench.answer("logs client-x", ASKER)
    assert bench.context.database.read("SELECT 1 FROM audit WHERE event = 'logs.read'") == []


@pytest.mark.parametrize("words", ["client-x syslog", "client-x --lines 0", "client-x --lines many", "nobody"])
def test_wrong_words_are_refused_in_one_line(bench: Bench, words: str) -> None:
    with pytest.raises(Refused) as refused:
        bench.answer(f"logs {words}", OPERATOR)
    assert "\n" not in str(refused.value)
