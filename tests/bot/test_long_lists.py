"""Lists that people decide on are posted whole: what does not fit in one message continues in the next."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bot.engine.selection import MOST
from bot.model.plan import Plan
from bot.slack.messages import Renderer
from bot.store.operation import Operation
from tests.support.bot import OPERATOR, Bench, Desk, make_bench, make_desk
from tests.support.judge import mrkdwn

POSTS = 12
"""The most messages that a list of a thousand tenants may take: Slack accepts one a second."""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return make_desk(make_bench(tmp_path))


def list_of(children: int, left_out: int) -> str:
    """Return the list of a rollout in three rings."""
    upgrades = [
        SimpleNamespace(
            ring=(number > 4) + (number > children // 10),
            tenant=f"client-{number}",
            values={"from": "5.2.12", "to": "6.0.10", "away": 6.2},
        )
        for number in range(children)
    ]
    why = "the rehearsal did not pass: SQLSTATE[42S21]: Column already exists: 1060 Duplicate column name 'colour'"
    refused = [f"left-{number}: {why}" for number in range(left_out)]
    return Renderer().words("commands/rollout_list.j2", children=upgrades, left_out=refused)


def rollout_of(bench: Bench, said: str) -> Operation:
    """Request a rollout with a list for its thread."""
    plan = Plan(
        "", {"tenant": "client-0,"}, "Upgrade many tenants", {}, seconds=1, subject="fleet", texts={"thread": said}
    )
    return bench.context.operations.request(
        "rollout", plan, requester=OPERATOR.id, channel="C0OPS", request_key="many", hours=24, tell=":bell: Approvers!"
    )


def thread(desk: Desk, operation: Operation) -> list[str]:
    """Return what was posted in an operation's thread, a text for each message."""
    ts = desk.bench.context.operations.get(operation.id).message_ts
    posted = [one for one in desk.slack.said if one["method"] == "chat.postMessage" and one.get("thread_ts") == ts]
    return ["\n".join(mrkdwn(one["blocks"])) for one in posted]


def announced(desk: Desk) -> None:
    """Announce all, however often Slack has failed."""
    for _ in range(3):
        desk.announcer._waiting.clear()
        desk.announce()


@pytest.mark.parametrize(("children", "left_out"), [(200, 3), (MOST, 0), (MOST // 2, MOST // 2)])
def test_the_thread_of_a_rollout_has_every_tenant_and_everyone_who_is_left_out(
    desk: Desk, children: int, left_out: int
) -> None:
    operation = rollout_of(desk.bench, list_of(children, left_out))
    desk.announce()
    *pages, last = thread(desk, operation)
    said = "\n".join(pages)
    assert re.findall(r"^`(client-\d+)`", said, re.M) == [f"client-{number}" for number in range(children)]
    assert re.findall(r"^(left-\d+): ", said, re.M) == [f"left-{number}" for number in range(left_out)]
    assert "… cut" not in said
    assert last.startswith(":bell:"), "those who can approve are called below the list"
    assert len(pages) <= POSTS


def test_a_list_that_was_interrupted_continues_where_it_stopped(desk: Desk) -> None:
    operation = rollout_of(desk.bench, list_of(600, 0))
    real, calls = desk.slack.chat_postMessage, []

    def lost(**message: Any) -> dict[str, Any]:
        answer = real(**message)
        calls.append(answer)
        if len(calls) == 3:
            raise OSError("the answer is lost")
        return answer

    desk.slack.chat_postMessage = lost  # type: ignore[method-assign]
    desk.announce()
    again = make_desk(desk.bench, desk.slack)
    announced(again)
    said = "\n".join(thread(again, operation))
    assert re.findall(r"^`(client-\d+)`", said, re.M) == [f"client-{number}" for number in range(600)]
