"""Lists that people decide on are posted whole: what does not fit in one message continues in the next."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bot.engine.selection import MOST
from bot.model.evidence import NAMED, Evidence, compare
from bot.model.labels import as_labels
from bot.model.plan import Plan
from bot.slack.messages import Renderer
from bot.store.operation import Operation
from tests.support.bot import LEAD, OPERATOR, ROOM_FOR_MANY, Bench, Desk, make_bench, make_desk, notes
from tests.support.judge import mrkdwn

POSTS = 12
"""The most messages that a list of a thousand tenants may take: Slack accepts one a second."""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return make_desk(make_bench(tmp_path, **ROOM_FOR_MANY))


def add_tenants(bench: Bench, *names: str, state: str = "live") -> None:
    """Put tenants on the host, without the operations that create them."""
    for name in names:
        config = as_labels(role="tenant", tenant=name, domain=f"{name}.test", plan="small", state=state, created=1)
        bench.lxd.create(name, "base", config=config, devices={})
        if state == "live":
            bench.lxd.start(name)


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


def test_the_thread_of_a_batch_names_everyone_whom_its_card_has_no_room_for(desk: Desk) -> None:
    add_tenants(desk.bench, *(f"client-{number:02}" for number in range(20)))
    add_tenants(desk.bench, *(f"closed-{number}" for number in range(5)), state="suspended")
    desk.command("restart --all", OPERATOR)
    batch = desk.last()
    desk.announce()
    assert batch.plan["facts"]["Tenants"].endswith("client-11 and 8 more")
    assert batch.plan["remarks"]["Left out"].startswith("5, all in the thread: closed-0: ")
    listed, bell = thread(desk, batch)
    assert re.findall(r"`(client-\d+)`", listed) == [f"client-{number:02}" for number in range(20)]
    assert re.findall(r"^(closed-\d): closed-\d is not running", listed, re.M) == [f"closed-{n}" for n in range(5)]
    assert "please approve or deny" in bell


def test_approvers_of_a_batch_requested_in_a_direct_message_have_its_list_below_their_mention(tmp_path: Path) -> None:
    desk = make_desk(make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0MAIN", **ROOM_FOR_MANY))
    add_tenants(desk.bench, *(f"client-{number:02}" for number in range(20)))
    desk.command("restart --all", OPERATOR, channel="D0OPERATOR")
    for _ in range(2):
        desk.announce()
    bell, listed = [one for one in desk.slack.said if one["channel"] == "C0MAIN"]
    assert "please approve or deny" in bell["text"]
    assert listed["thread_ts"] == bell["ts"]
    assert re.findall(r"`(client-\d+)`", listed["text"]) == [f"client-{number:02}" for number in range(20)]


def test_a_batch_whose_card_has_it_all_has_no_list_in_its_thread(desk: Desk) -> None:
    add_tenants(desk.bench, "client-a", "client-b")
    add_tenants(desk.bench, "closed-a", state="suspended")
    batch = desk.bench.ask("restart --all", OPERATOR)
    assert notes(desk.bench, batch) == []
    assert batch.plan["remarks"]["Left out"].startswith("closed-a: closed-a is not running")


def test_a_stopped_batch_names_every_tenant_that_was_not_started(desk: Desk) -> None:
    names = [f"client-{number:02}" for number in range(20)]
    add_tenants(desk.bench, *names)
    batch = desk.bench.approve(desk.bench.ask("restart --all", OPERATOR))
    for _ in range(3):
        assert desk.bench.runner.run_one()
    done = {one.tenant for one in desk.bench.context.operations.select("parent = ? AND state = 'succeeded'", batch.id)}
    assert done
    desk.click("batch_stop", batch.id, LEAD)
    desk.bench.finish()
    told = notes(desk.bench, batch)[-1]
    assert f"{20 - len(done)} not started" in told
    assert re.findall(r"`(client-\d+)`", told) == [name for name in names if name not in done]


def test_the_report_of_a_rollout_lists_each_tenant_that_failed() -> None:
    done = SimpleNamespace(tenant="client-0", state="succeeded", started=1.0, outcome="done")
    failed = [child_of(done, f"client-{number}", "failed") for number in range(1, 31)]
    left = [child_of(done, f"client-{number}", "cancelled") for number in range(31, 200)]
    said = Renderer().words(
        "commands/rollout.j2",
        operation=SimpleNamespace(command="rollout"),
        arguments={"version": "6.0.10"},
        plan={},
        took=4000.0,
        done=[done],
        not_done=[*failed, *left],
        total=200,
        longest="",
        away={},
        rings=3,
    )
    pages = Renderer().pages(said)
    shown = "\n".join(text for page in pages for text in mrkdwn(page.blocks))
    assert re.findall(r":x: `(client-\d+)` failed", shown) == [one.tenant for one in failed]
    assert "169 tenants were not started" in shown


def test_evidence_says_how_many_files_are_overwritten_beyond_those_that_it_names() -> None:
    found = {"counts": {}, "uncounted": [], "schema": [], "plugins": {}, "errors": {}}
    own = {"plugins": [], "themes": [], "translations": [], "overlay": []}
    own["changed"] = [f"app/bundles/CoreBundle/Views/a-long-name-of-a-template-{number}.php" for number in range(40)]
    changes = compare({**found, "own": own}, {**found, "own": own})
    evidence = Evidence("client-x", "5.2.12", "6.0.10", 1, 0.0, {}, **changes)
    said = Renderer().words("evidence.j2", found=evidence, step="")
    assert len(re.findall(r"a-long-name-of-a-template-\d+\.php", said)) == NAMED
    assert "and 28 more" in said


def child_of(one: SimpleNamespace, tenant: str, state: str) -> SimpleNamespace:
    """Return a child of a rollout in another state."""
    words = "The migrations failed: " + "SQLSTATE[42S21]: Column already exists: 1060 Duplicate column name. " * 8
    started = 1.0 if state == "failed" else None
    return SimpleNamespace(**{**vars(one), "tenant": tenant, "state": state, "started": started, "outcome": words})
