"""Slack's deliveries and their workers: quick work does not wait for slow work, and late deliveries are dropped."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bot.model.actor import Actor
from bot.store.database import Database, DatabaseUnavailable
from bot.store.inbox import OF_ONE, STAGGER, WORKERS, Inbox, Lane
from bot.store.operation import Operation
from tests.support.bot import ASKER, LEAD, OPERATOR, Desk, make_bench, make_desk, until


class Hanging:
    """A desk where each request of the inbox's workers to a tenant hangs until `go_on` is set; `looking`: how many."""

    def __init__(self, folder: Path) -> None:
        self.desk = make_desk(make_bench(folder))
        self.desk.bench.done("new client-x")
        self.looking = 0
        self.go_on = threading.Event()
        self.desk.bench.lxd.on_call = self._call

    def _call(self, method: str, arguments: tuple[Any, ...]) -> None:
        # The test itself asks tenants too, and must not hang.
        if method == "execute" and threading.current_thread() is not threading.main_thread():
            self.looking += 1
            self.go_on.wait(60)

    def deliver(self, kind: str, actor: Actor, **payload: str) -> None:
        """Deliver as the listeners do; the inbox's own workers handle it."""
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
    """A desk with more questions than it has workers for, all about a tenant that hangs."""
    for number in range(WORKERS["question"] + 12):
        text = ("status client-x", "logs client-x mautic")[number % 2]
        hanging.deliver("command", (OPERATOR, LEAD)[number % 4 // 2], text=text)
    until(lambda: hanging.looking == WORKERS["question"])
    return hanging


def test_decisions_and_requests_do_not_wait_for_questions(asked: Hanging) -> None:
    new = asked.desk.bench.ask("new client-y")
    late = asked.desk.bench.ask("new client-z")
    asked.deliver("action", LEAD, action_id="approve", value=new.mark)
    asked.deliver("command", LEAD, text=f"deny {late.id} because it is late")
    asked.deliver("command", ASKER, text="new client-w")
    states = asked.desk.bench.context.operations
    until(lambda: (states.get(new.id).state, states.get(late.id).state) == ("queued", "denied"))
    until(lambda: bool(states.select("tenant = 'client-w'")))
    assert not asked.go_on.is_set()


def test_windows_open_at_once_while_questions_hang(asked: Hanging) -> None:
    delete = asked.desk.bench.ask("delete client-x", OPERATOR)
    assert asked.desk.invocations.lane("action", {"action_id": "approve_send", "value": delete.mark}) == "quick"
    new = asked.desk.bench.ask("new client-y")
    assert asked.desk.invocations.lane("action", {"action_id": "approve", "value": new.mark}) == "decision"
    asked.deliver("action", LEAD, action_id="approve", value=delete.mark)
    asked.deliver("command", ASKER, text="new")
    asked.deliver("command", ASKER, text="credentials client-x")
    wanted = {"typed_name", "command", "credentials"}
    until(lambda: wanted <= {view["callback_id"] for view in asked.desk.slack.views})


def test_quick_work_does_not_wait_while_every_approval_hangs(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """An approval builds the plan again, which may wait for a silent server."""
    desk = hanging.desk
    deciding = threading.Event()

    def check(*_: object) -> str:
        deciding.set()
        hanging.go_on.wait(60)
        return ""

    requests = [desk.bench.ask(f"new client-{number}") for number in range(WORKERS["decision"] + 4)]
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
    ("command", "*approve* 3"): "decision",
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
    ("command", ""): "quick",
    ("command", "help status"): "quick",
    ("home", ""): "question",
    ("reply", "approve"): "decision",
    ("reply", "deny, it is late"): "quick",
    ("submission", "typed_name"): "decision",
    ("submission", "command"): "change",
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


def test_a_button_that_shows_the_home_tab_again_is_not_quick(tmp_path: Path) -> None:
    """The tab includes the fleet, and a server may hang."""
    desk = make_desk(make_bench(tmp_path))
    for action, lane in {"deny": "change", "retry": "change", "reveal": "quick", "give_up": "quick"}.items():
        assert desk.invocations.lane("action", {"action_id": action, "value": "1", "home": True}) == lane


@pytest.mark.parametrize(("kind", "text"), LANES)
def test_each_delivery_has_its_lane(tmp_path: Path, kind: str, text: str) -> None:
    desk = make_desk(make_bench(tmp_path))
    payload = {"text": text, "action_id": text, "callback_id": text, "value": "1"}
    assert desk.invocations.lane(kind, payload) == LANES[kind, text]
    assert desk.invocations.lane(kind, {}) in WORKERS


class Gated(Database):
    """A database in which the thread `arriving` cannot write until `go_on` is set."""

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


def test_work_waits_for_deliveries_that_are_to_be_acknowledged(tmp_path: Path) -> None:
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


def test_after_several_deliveries_at_once_work_begins_after_a_lull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first work after a start keeps the interpreter busy for long, and would delay a second wave of deliveries."""
    monkeypatch.setattr("bot.store.inbox.LULL", 0.3)
    database = Gated(tmp_path / "bot.db")
    began: list[float] = []
    inbox = Inbox(database, lambda *_: began.append(time.monotonic()), courtesy=60)
    arriving = threading.Thread(target=inbox.put, args=("command", "first", {}), name="arriving")
    arriving.start()
    assert database.arrived.wait(30)
    beside = threading.Thread(target=inbox.put, args=("command", "second", {}))
    beside.start()
    until(lambda: database.group.waiting() == 2)
    came = time.monotonic()
    database.go_on.set()
    arriving.join()
    beside.join()
    until(lambda: len(began) == 2)
    inbox.stop()
    assert min(began) - came > 0.2


def test_work_on_a_single_delivery_begins_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.store.inbox.LULL", 60)
    done = threading.Event()
    inbox = Inbox(Database(tmp_path / "bot.db"), lambda *_: done.set(), courtesy=60)
    inbox.put("command", "first", {})
    assert done.wait(30)
    inbox.stop()


def test_an_acknowledgement_does_not_wait_for_the_choice_of_the_lane(tmp_path: Path) -> None:
    """That choice parses the command."""
    parsed, done = threading.Event(), threading.Event()

    def lane(kind: str, payload: dict[str, Any]) -> Lane:
        assert parsed.wait(30)
        return "change"

    inbox = Inbox(Database(tmp_path / "bot.db"), lambda *_: done.set(), lane)
    assert inbox.put("command", "first", {}), "it can be acknowledged now"
    assert not done.is_set()
    parsed.set()
    inbox.stop()
    assert done.is_set(), "an accepted delivery is handled before the bot ends"


def test_work_that_had_to_wait_begins_staggered(tmp_path: Path) -> None:
    """All at once it would delay the next acknowledgements."""
    database = Gated(tmp_path / "bot.db")
    began: list[float] = []
    inbox = Inbox(database, lambda *_: began.append(time.monotonic()), workers={"change": 16}, courtesy=0.01)
    with database.transaction() as transaction:
        transaction.executemany(
            "INSERT INTO inbox (key, kind, payload, received) VALUES (?, 'command', ?, 0)",
            [(str(number), json.dumps({"user": f"U{number}"})) for number in range(16)],
        )
    arriving = threading.Thread(target=inbox.put, args=("command", "new", {}), name="arriving")
    arriving.start()
    assert database.arrived.wait(30)
    inbox.recover()
    until(lambda: len(began) == 16)
    database.go_on.set()
    arriving.join()
    inbox.stop()
    assert max(began) - min(began) > 15 * STAGGER * 0.9


def test_a_delivery_that_cannot_be_written_does_not_affect_others(tmp_path: Path) -> None:
    database = Gated(tmp_path / "bot.db")
    inbox = Inbox(database, lambda *_: None)
    arriving = threading.Thread(target=inbox.put, args=("command", "first", {}), name="arriving")
    arriving.start()
    assert database.arrived.wait(30)
    with ThreadPoolExecutor(3) as people:
        taken = [people.submit(inbox.put, "command", key, {}) for key in ("second", "\ud800", "second")]
        until(lambda: database.group.waiting() == 4)
        database.go_on.set()
    arriving.join()
    inbox.stop()
    assert [row["key"] for row in database.read("SELECT key FROM inbox ORDER BY id")] == ["first", "second"]
    assert isinstance(taken[1].exception(), UnicodeEncodeError)
    assert {taken[0].result(), taken[2].result()} == {True, False}, "the second copy does nothing"


def left_open(desk: Desk, kind: str, seconds: float, **payload: Any) -> None:
    """Insert a delivery that a crash left open this many seconds ago."""
    known = {"user": LEAD.id, "team": "T0OURS", "channel": "C0OPS", "response_url": "", "trigger_id": "1.2"}
    with desk.bench.context.database.transaction() as transaction:
        transaction.execute(
            "INSERT INTO inbox (key, kind, payload, received) VALUES (?,?,?,?)",
            (uuid4().hex, kind, json.dumps(known | payload), time.time() - seconds),
        )


def test_after_an_outage_a_decision_still_counts_but_an_old_question_is_not_answered(tmp_path: Path) -> None:
    desk = make_desk(make_bench(tmp_path))
    request = desk.bench.ask("new client-x")
    left_open(desk, "command", 120, text=f"approve {request.id}")
    left_open(desk, "command", 300, text="list")
    left_open(desk, "home", 300)
    left_open(desk, "command", 10, text="history")
    desk.inbox.recover()
    desk.inbox.stop()
    told = desk.slack.to(LEAD.id)
    assert desk.bench.context.operations.get(request.id).state == "queued"
    assert ":zzz: I was not running when you typed `/mautic list …` 5 min ago. Please try again." in told
    assert len(told) == 3, "the approval, the list, the history"
    assert desk.slack.homes == {}
    assert desk.bench.context.database.read("SELECT 1 FROM inbox WHERE done IS NULL") == []


@pytest.mark.parametrize("by", ["the wall clock", "what was lived through"])
@pytest.mark.parametrize(
    ("kind", "did"),
    [
        ("command", "typed `/mautic approve …`"),
        ("action", "pressed a button"),
        ("reply", "replied in a thread"),
        ("submission", "sent a window"),
    ],
)
def test_a_delivery_that_waited_for_more_than_five_minutes_is_not_carried_out(
    tmp_path: Path, kind: str, did: str, by: str
) -> None:
    desk = make_desk(make_bench(tmp_path))
    request = desk.bench.ask("new client-x")
    desk.announce()
    payload: dict[str, Any] = {
        "command": {"text": f"approve {request.id}"},
        "action": {"action_id": "approve", "value": request.mark},
        "reply": {"text": "approve", "thread_ts": desk.last().message_ts},
        "submission": {
            "callback_id": "typed_name",
            "metadata": {"operation": request.mark},
            "values": {"name": "client-x"},
            "text": "",
        },
    }[kind]
    left_open(desk, kind, 400 if by == "the wall clock" else -3600, **payload)
    if by != "the wall clock":
        # The clock was set back meanwhile.
        desk.bench.clock.move(400)
        with desk.bench.context.database.transaction() as transaction:
            transaction.execute("UPDATE inbox SET lived = 1")
    desk.inbox.recover()
    desk.inbox.stop()
    assert desk.bench.context.operations.get(request.id).state == "awaiting_approval"
    assert f":zzz: You {did} 7 min ago, while I was not running. Nothing was changed" in desk.slack.to(LEAD.id)[-1]
    assert desk.bench.context.database.read("SELECT 1 FROM inbox WHERE done IS NULL") == []


class Full:
    """A disk that is full while `now` is set: nothing can be written, everything can be read."""

    def __init__(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = threading.Event()
        self.waits = threading.Event()
        database = desk.bench.context.database
        real = database.transaction

        @contextmanager
        def transaction() -> Iterator[sqlite3.Connection]:
            if self.now.is_set():
                self.waits.set()
                raise DatabaseUnavailable("The bot's own database could not be written (database or disk is full).")
            with real() as made:
                yield made

        monkeypatch.setattr(database, "transaction", transaction)
        monkeypatch.setattr(database.group, "_transaction", transaction)
        monkeypatch.setattr("bot.store.inbox.PAUSE", 0.01)


def stop_that_is_approved(desk: Desk) -> tuple[Operation, dict[str, str]]:
    """Return a request to delete client-x, and the delivery that approves it."""
    desk.bench.done("new client-x")
    request = desk.bench.ask("delete client-x", OPERATOR)
    known = {"user": LEAD.id, "team": "T0OURS", "channel": "C0OPS", "response_url": "", "trigger_id": "1.2"}
    return request, known | {"text": f"approve {request.id} client-x"}


@pytest.mark.parametrize("later", [10, 400])
def test_a_delivery_that_cannot_be_recorded_is_carried_out_within_five_minutes_or_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    """The disk fills up between the delivery and its handling."""
    desk = make_desk(make_bench(tmp_path))
    request, press = stop_that_is_approved(desk)
    disk, held = Full(desk, monkeypatch), desk.inbox.handle

    def handle(*delivery: Any) -> None:
        if not disk.waits.is_set():
            disk.now.set()
        held(*delivery)

    desk.inbox.handle = handle
    desk.inbox.put("command", "press", press)
    assert disk.waits.wait(30)
    until(lambda: len(desk.slack.to(LEAD.id)) == 1)
    (told,) = desk.slack.to(LEAD.id)
    assert "nothing was done" not in told, "it may still be done"
    assert "as soon as possible within 5 min, or tell you that I did not" in told
    desk.bench.clock.move(later)
    disk.now.clear()
    desk.inbox.stop()
    state = desk.bench.context.operations.get(request.id).state
    assert state == ("queued" if later < 300 else "awaiting_approval")
    assert ("Nothing was changed" in desk.slack.to(LEAD.id)[-1]) is (later > 300)
    assert desk.bench.context.database.read("SELECT 1 FROM inbox WHERE done IS NULL") == []


def test_a_refused_delivery_is_not_carried_out_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a full disk the bot can neither record nor send a refusal, and by the next start the delivery is too old."""
    desk = make_desk(make_bench(tmp_path))
    request, press = stop_that_is_approved(desk)
    disk = Full(desk, monkeypatch)
    desk.slack.groups["mautic-approvers"] = []
    real = desk.bench.context.approvals.decide

    def decide(*arguments: Any, **more: Any) -> Any:
        disk.now.set()
        return real(*arguments, **more)

    monkeypatch.setattr(desk.bench.context.approvals, "decide", decide)
    desk.inbox.put("command", "press", press)
    assert disk.waits.wait(30)
    # The process ends while the disk is full.
    desk.inbox._stopping.set()
    desk.inbox.stop()
    assert not any("Only approvers" in told for told in desk.slack.to(LEAD.id))
    monkeypatch.undo()
    desk.slack.groups["mautic-approvers"] = [LEAD.id]
    again = make_desk(make_bench(tmp_path, desk.bench.lxd, slack=desk.slack))
    again.bench.clock.move(3600)
    with again.bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE inbox SET received = received - 3600")
    again.inbox.recover()
    again.inbox.stop()
    assert again.bench.context.operations.get(request.id).state == "awaiting_approval"


def test_a_person_who_sends_a_lot_delays_nobody_else(tmp_path: Path) -> None:
    """One person occupies at most half of the workers, and others have a turn before the rest of their deliveries."""
    database = Database(tmp_path / "bot.db")
    go_on, done = threading.Event(), list[str]()

    def handle(kind: str, key: str, payload: dict[str, Any]) -> None:
        if payload["user"] == "U0MANY":
            go_on.wait(60)
        done.append(key)

    inbox = Inbox(database, handle, workers={"change": 2, "quick": 1, "question": 1})
    for number in range(40):
        inbox.put("command", f"many {number}", {"user": "U0MANY"})
    inbox.put("command", "one", {"user": "U0ONE"})
    until(lambda: done == ["one"])
    go_on.set()
    inbox.stop()
    assert len(done) == 41


def test_the_number_of_waiting_deliveries_of_one_person_is_limited(tmp_path: Path) -> None:
    go_on, done, told = threading.Event(), list[str](), list[tuple[str, str]]()

    def handle(kind: str, key: str, payload: dict[str, Any]) -> None:
        go_on.wait(60)
        done.append(payload["user"])

    inbox = Inbox(
        Database(tmp_path / "bot.db"), handle, excuse=lambda payload, why: told.append((payload["user"], why))
    )
    taken = [inbox.put("command", f"many {number}", {"user": "U0MANY"}) for number in range(120)]
    assert taken == [True] * OF_ONE + [False] * (120 - OF_ONE)
    assert inbox.put("command", "one", {"user": "U0ONE"})
    until(lambda: told == [("U0MANY", "crowd")])
    go_on.set()
    inbox.stop()
    assert Counter(done) == {"U0MANY": OF_ONE, "U0ONE": 1}


def test_a_handled_delivery_whose_end_cannot_be_recorded_is_not_reported_as_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = make_desk(make_bench(tmp_path))
    request, press = stop_that_is_approved(desk)
    disk, held = Full(desk, monkeypatch), desk.inbox.handle

    def handle(*delivery: Any) -> None:
        held(*delivery)
        disk.now.set()

    desk.inbox.handle = handle
    desk.inbox.put("command", "press", press)
    assert disk.waits.wait(30)
    disk.now.clear()
    desk.inbox.stop()
    assert desk.bench.context.operations.get(request.id).state == "queued"
    assert not any("can't be written" in told for told in desk.slack.to(LEAD.id))
    assert desk.bench.context.database.read("SELECT 1 FROM inbox WHERE done IS NULL") == []


def test_a_retry_that_a_crash_left_open_is_done_once(tmp_path: Path) -> None:
    desk = make_desk(make_bench(tmp_path))
    desk.bench.lxd.fail_next("start", OSError("broken"))
    operation = desk.bench.done("new client-x")
    desk.click("retry", operation.id)
    desk.bench.lxd.fail_next("start", OSError("broken"))
    desk.bench.finish()
    assert desk.bench.context.operations.get(operation.id).state == "failed"
    left_open(desk, "action", 10, action_id="retry", value=operation.mark)
    desk.inbox.recover()
    desk.inbox.stop()
    assert desk.bench.context.operations.get(operation.id).state == "failed"
    assert desk.slack.to(LEAD.id) == []
