"""What Slack delivered, and who works on it: nothing waits behind what takes longer, and what is late is not done."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bot.approvals import Actor
from bot.database import Database
from bot.inbox import WORKERS, Inbox
from tests.support.bot import ASKER, LEAD, OPERATOR, Desk, make_bench, make_desk, until


class Hanging:
    """A desk in whose tenants every look of the inbox's workers hangs until `go_on` is set; `looking` do."""

    def __init__(self, folder: Path) -> None:
        self.desk = make_desk(make_bench(folder))
        self.desk.bench.done("new client-x")
        self.looking = 0
        self.go_on = threading.Event()
        self.desk.bench.lxd.on_call = self._call

    def _call(self, method: str, arguments: tuple[Any, ...]) -> None:
        # What the test itself asks for looks too, and does not hang.
        if method == "execute" and threading.current_thread() is not threading.main_thread():
            self.looking += 1
            self.go_on.wait(60)

    def deliver(self, kind: str, actor: Actor, **payload: str) -> None:
        """Deliver as the listeners do; it is worked on by the inbox's own workers."""
        known = {"user": actor.id, "team": "T0OURS", "channel": "C0OPS", "response_url": "", "trigger_id": "1.2"}
        self.desk.inbox.put(kind, uuid4().hex, known | payload)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Hanging]:
    made = Hanging(tmp_path)
    yield made
    made.go_on.set()
    made.desk.inbox.stop()


@pytest.fixture
def asked(hanging: Hanging) -> Hanging:
    """With more questions than anybody works on at once, all of which look into a tenant that hangs."""
    for number in range(WORKERS["question"] + 12):
        text = ("status client-x", "logs client-x mautic")[number % 2]
        hanging.deliver("command", OPERATOR, text=text)
    until(lambda: hanging.looking == WORKERS["question"])
    return hanging


def test_a_decision_waits_for_no_question(asked: Hanging) -> None:
    new = asked.desk.bench.ask("new client-y")
    late = asked.desk.bench.ask("new client-z")
    asked.deliver("action", LEAD, action_id="approve", value=new.mark)
    asked.deliver("command", LEAD, text=f"deny {late.id} because it is late")
    asked.deliver("command", ASKER, text="new client-w")
    states = asked.desk.bench.context.operations
    until(lambda: (states.get(new.id).state, states.get(late.id).state) == ("queued", "denied"))
    until(lambda: bool(states.select("tenant = 'client-w'")))
    assert not asked.go_on.is_set()


def test_a_window_opens_at_once(asked: Hanging) -> None:
    delete = asked.desk.bench.ask("delete client-x", OPERATOR)
    assert asked.desk.invocations.lane("action", {"action_id": "approve_send", "value": delete.mark}) == "quick"
    asked.deliver("action", LEAD, action_id="approve", value=delete.mark)
    asked.deliver("command", ASKER, text="new")
    asked.deliver("command", ASKER, text="credentials client-x")
    wanted = {"typed_name", "command", "credentials"}
    until(lambda: wanted <= {view["callback_id"] for view in asked.desk.slack.views})


def test_nothing_quick_waits_while_every_approval_hangs(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is built again may wait for a server that does not answer."""
    desk = hanging.desk
    deciding = threading.Event()

    def check(_: object) -> str:
        deciding.set()
        hanging.go_on.wait(60)
        return ""

    requests = [desk.bench.ask(f"new client-{number}") for number in range(WORKERS["change"] + 4)]
    delete = desk.bench.ask("delete client-x", OPERATOR)
    monkeypatch.setattr(desk.bench.context.approvals, "check", check)
    for request in requests:
        hanging.deliver("action", LEAD, action_id="approve", value=request.mark)
    assert deciding.wait(30)
    hanging.deliver("action", LEAD, action_id="approve", value=delete.mark)
    until(lambda: "typed_name" in {view["callback_id"] for view in desk.slack.views})
    hanging.deliver("action", LEAD, action_id="deny", value=delete.mark)
    until(lambda: desk.bench.context.operations.get(delete.id).state == "denied")


LANES = {
    ("command", "status client-x"): "question",
    ("command", "digest"): "question",
    ("command", "list"): "question",
    ("command", "*approve* 3"): "change",
    ("command", "cancel 3"): "quick",
    ("command", "deny 3 because it is late"): "quick",
    ("command", "schedule run health"): "change",
    ("command", "console client-x cache:clear"): "change",
    ("command", "delete client-x"): "change",
    ("command", "new"): "quick",
    ("command", "`new`"): "quick",
    ("command", "new client-y"): "change",
    ("command", "credentials client-x"): "quick",
    ("command", "no such thing"): "change",
    ("command", ""): "question",
    ("home", ""): "question",
    ("reply", "approve"): "change",
    ("reply", "deny, it is late"): "quick",
    ("submission", "typed_name"): "change",
    ("action", "reveal"): "quick",
    ("action", "deny"): "quick",
    ("action", "incident_silence"): "quick",
    ("action", "incident_logs"): "question",
    ("action", "incident_restart"): "change",
    ("action", "approve"): "change",
    ("action", "give_up"): "quick",
    ("action", "no_such_button"): "change",
    ("command", "give-up 3 --force did not help"): "change",
}


def test_what_shows_the_home_tab_anew_is_not_quick(tmp_path: Path) -> None:
    """The fleet is part of it, and a server may hang."""
    desk = make_desk(make_bench(tmp_path))
    for action, lane in {"deny": "change", "retry": "change", "reveal": "quick", "give_up": "quick"}.items():
        assert desk.invocations.lane("action", {"action_id": action, "value": "1", "home": True}) == lane


@pytest.mark.parametrize(("kind", "text"), LANES)
def test_each_delivery_has_its_workers(tmp_path: Path, kind: str, text: str) -> None:
    desk = make_desk(make_bench(tmp_path))
    payload = {"text": text, "action_id": text, "value": "1"}
    assert desk.invocations.lane(kind, payload) == LANES[kind, text]
    assert desk.invocations.lane(kind, {}) in WORKERS


class Gated(Database):
    """One in which the thread `arriving` may not write until `go_on` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.arrived, self.go_on = threading.Event(), threading.Event()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        if threading.current_thread().name == "arriving":
            self.arrived.set()
            self.go_on.wait(60)
        with super().transaction() as transaction:
            yield transaction


def test_work_lets_those_go_first_who_want_to_be_acknowledged(tmp_path: Path) -> None:
    database = Gated(tmp_path / "bot.db")
    written: dict[str, list[str]] = {}

    def handle(kind: str, key: str, payload: dict[str, Any]) -> None:
        written[key] = [row["key"] for row in database.read("SELECT key FROM inbox ORDER BY id")]

    inbox = Inbox(database, handle, courtesy=60)
    with database.transaction() as transaction:
        transaction.execute("INSERT INTO inbox (key, kind, payload, received) VALUES ('first', 'command', '{}', 0)")
    arriving = threading.Thread(target=inbox.put, args=("command", "second", {}), name="arriving")
    arriving.start()
    assert database.arrived.wait(30)
    inbox.recover()
    database.go_on.set()
    arriving.join()
    inbox.stop()
    assert written["first"] == ["first", "second"]


def left_open(desk: Desk, kind: str, seconds: float, **payload: str) -> None:
    """A delivery that a crash left open so long ago."""
    known = {"user": LEAD.id, "team": "T0OURS", "channel": "C0OPS", "response_url": "", "trigger_id": "1.2"}
    with desk.bench.context.database.transaction() as transaction:
        transaction.execute(
            "INSERT INTO inbox (key, kind, payload, received) VALUES (?,?,?,?)",
            (uuid4().hex, kind, json.dumps(known | payload), time.time() - seconds),
        )


def test_after_an_outage_a_decision_is_still_taken_and_a_question_is_not_answered(tmp_path: Path) -> None:
    desk = make_desk(make_bench(tmp_path))
    request = desk.bench.ask("new client-x")
    left_open(desk, "command", 300, text=f"approve {request.id}")
    left_open(desk, "command", 300, text="list")
    left_open(desk, "home", 300)
    left_open(desk, "command", 10, text="history")
    desk.inbox.recover()
    desk.inbox.stop()
    told = desk.slack.to(LEAD.id)
    assert desk.bench.context.operations.get(request.id).state == "queued"
    assert (
        ":zzz: I was not running when you asked `/mautic list …` 5 min ago, so it was not answered; ask again." in told
    )
    assert len(told) == 3, "the approval, the list, the history"
    assert desk.slack.homes == {}
    assert desk.bench.context.database.read("SELECT 1 FROM inbox WHERE done IS NULL") == []
