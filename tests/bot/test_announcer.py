"""The live message of an operation: it follows the state, and recovers from whatever happens to it in Slack."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.slack import announcer
from bot.slack.messages import Message
from bot.store.database import Database, DatabaseUnavailable
from tests.support.bot import ASKER, LEAD, OPERATOR, Desk, make_bench, make_desk, slack_error, until


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return make_desk(make_bench(tmp_path))


def said(desk: Desk, method: str) -> list[dict[str, Any]]:
    return [one for one in desk.slack.said if one["method"] == method]


def posted_cards(desk: Desk) -> list[dict[str, Any]]:
    return [one for one in said(desk, "chat.postMessage") if not one.get("thread_ts")]


def thread(desk: Desk) -> list[dict[str, Any]]:
    return [one for one in said(desk, "chat.postMessage") if one.get("thread_ts")]


def test_one_card_is_posted_and_then_edited(desk: Desk) -> None:
    operation = desk.bench.ask("new client-x")
    desk.announce()
    (card,) = posted_cards(desk)
    assert [button["action_id"] for button in card["blocks"][-2]["elements"]] == ["approve", "deny"]
    desk.bench.approve(operation)
    desk.bench.finish()
    desk.announce()
    assert len(posted_cards(desk)) == 1
    (update,) = said(desk, "chat.update")
    assert update["ts"] == card["ts"]
    assert "— done" in update["text"]
    assert {one["thread_ts"] for one in thread(desk)} == {card["ts"]}
    assert [one["text"][:20] for one in thread(desk)] == [":white_check_mark: <", f":tada: <@{ASKER.id}>, `"[:20]]


def test_an_unchanged_operation_is_not_announced_again(desk: Desk) -> None:
    desk.bench.ask("new client-x")
    desk.announce()
    before = len(desk.slack.said)
    desk.announce()
    assert len(desk.slack.said) == before


def test_a_lost_update_is_made_good_by_the_next_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = desk.bench.ask("new client-x")
    desk.announce()
    desk.slack.fail("chat.update", TimeoutError("timed out"))
    desk.bench.approve(operation)
    desk.announce()
    assert said(desk, "chat.update") == []
    desk.announcer._waiting.clear()
    desk.announce()
    assert "approved, queued" in said(desk, "chat.update")[-1]["text"]


def test_a_deleted_card_is_posted_again(desk: Desk) -> None:
    operation = desk.bench.ask("new client-x")
    desk.announce()
    desk.slack.gone.add(desk.last().message_ts)
    desk.bench.approve(operation)
    desk.announce()
    first, second = posted_cards(desk)
    assert desk.last().message_ts == second["ts"] != first["ts"]
    assert said(desk, "chat.postMessage")[-1]["thread_ts"] == second["ts"]


def test_a_card_that_may_no_longer_be_edited_is_posted_again_once(desk: Desk) -> None:
    """Also if the bot dies before it has recorded where the second one is."""
    operation = desk.bench.ask("new client-x")
    desk.announce()
    first = desk.last().message_ts
    desk.slack.uneditable.add(first)
    desk.bench.approve(operation)
    desk.announce()
    with desk.bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET message_ts = ?, announced = 0", (first,))
    again = make_desk(desk.bench, desk.slack)
    again.announce()
    assert [one["ts"] for one in posted_cards(desk)] == [first, desk.last().message_ts]


def test_with_the_channel_closed_the_requester_gets_direct_messages(desk: Desk) -> None:
    desk.slack.closed.add("C0OPS")
    operation = desk.bench.ask("new client-x")
    desk.announce()
    (card,) = posted_cards(desk)
    assert card["channel"] == f"D{ASKER.id}"
    desk.bench.approve(operation)
    desk.bench.finish()
    desk.announce()
    assert {one["channel"] for one in desk.slack.said} == {f"D{ASKER.id}"}
    assert "is live" in desk.slack.said[-1]["text"]


NOTHING = ("restricted_action", "restricted_action_read_only_channel", "no_permission", "ekm_access_denied")
CARDS = ("restricted_action_thread_only_channel", "team_access_not_granted", *NOTHING)
THREADS = "restricted_action_non_threadable_channel"


@pytest.mark.parametrize("error", CARDS)
def test_in_a_channel_that_allows_the_bot_no_card_the_requester_gets_direct_messages(desk: Desk, error: str) -> None:
    desk.slack.restricted["C0OPS"] = error
    desk.command("new client-x")
    desk.announce()
    assert {one["channel"] for one in posted_cards(desk)} == {f"D{ASKER.id}"}
    assert "please approve or deny this request" in desk.slack.said[-1]["text"]


@pytest.mark.parametrize("ours", ["", "C0MAIN"], ids=["in the same channel", "in the bot's own channel"])
def test_in_a_channel_without_threads_approvers_are_mentioned_beside_the_card(tmp_path: Path, ours: str) -> None:
    desk = make_desk(make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL=ours))
    desk.slack.restricted["C0OPS"] = THREADS
    desk.command("new client-x")
    for _ in range(2):
        desk.announce()
    card, bell = desk.slack.said
    assert (card["channel"], bell["channel"], bell["thread_ts"]) == ("C0OPS", ours or "C0OPS", None)
    assert bell["text"] == (
        ":bell: <!subteam^S0MAUTICAPPROVERS>, please approve or deny this request. <@U0ACCOUNT> requested in <#C0OPS>: "
        "*Create tenant client-x*. Decide on its card, in my Home tab, or with `/mautic approve 1` or "
        "`/mautic deny 1 &lt;reason&gt;`."
    )


def test_in_a_channel_without_threads_the_requester_is_told_the_outcome_directly(desk: Desk) -> None:
    desk.slack.restricted["C0OPS"] = THREADS
    desk.bench.approve(desk.bench.ask("new client-x"))
    desk.bench.finish()
    desk.announce()
    assert len(posted_cards(desk)) == 3, "the card, and both notes"
    assert [one[:24] for one in desk.slack.to(ASKER.id)] == [
        "Request #1 in <#C0OPS>: ",
        "Request #1 in <#C0OPS>: ",
    ]
    assert "is live" in desk.slack.to(ASKER.id)[-1]


def test_in_a_channel_without_threads_the_lines_of_a_batch_go_to_the_requester(desk: Desk) -> None:
    assert desk.bench.done("new client-x").state == "succeeded"
    desk.announce()
    desk.slack.restricted["C0OPS"] = THREADS
    desk.bench.approve(desk.bench.ask("restart --all", OPERATOR))
    desk.announce()
    desk.bench.finish()
    for _ in range(2):
        desk.announce()
    assert [one for one in desk.slack.to(OPERATOR.id) if "`client-x` — done" in one] != []


def test_a_note_posted_beside_its_card_whose_answer_was_lost_is_not_repeated(desk: Desk) -> None:
    desk.slack.restricted["C0OPS"] = THREADS
    post = desk.slack.chat_postMessage

    def lost(**message: Any) -> Any:
        answer = post(**message)
        if message["metadata"]["event_type"] != announcer.MARK:
            raise TimeoutError
        return answer

    desk.command("new client-x")
    desk.slack.chat_postMessage = lost  # type: ignore[method-assign]
    desk.announce()
    desk.slack.chat_postMessage = post  # type: ignore[method-assign]
    make_desk(desk.bench, desk.slack).announce()
    assert sum("please approve or deny" in one["text"] for one in desk.slack.said) == 1
    assert not desk.bench.context.database.read("SELECT 1 FROM notes WHERE posted IS NULL")


def test_a_message_that_slack_refuses_does_not_block_others(desk: Desk) -> None:
    desk.bench.ask("new client-x")
    desk.slack.fail("chat.postMessage", "fatal_error")
    desk.bench.ask("new client-y")
    for _ in range(5):
        desk.announce()
    assert len(posted_cards(desk)) == 1
    assert desk.slack.calls["chat.postMessage"] == 2, "a refused message is not retried in a tight loop"


def test_a_card_posted_right_before_a_crash_is_found_again(desk: Desk) -> None:
    desk.bench.ask("new client-x")
    desk.announce()
    with desk.bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET message_ts = '', announced = 0")
    desk.bench.clock.move(1)
    again = make_desk(desk.bench, desk.slack)
    again.announce()
    assert len(posted_cards(desk)) == 1
    assert said(desk, "chat.update")[-1]["ts"] == posted_cards(desk)[0]["ts"]


def test_a_card_whose_answer_was_lost_is_found_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    real = desk.slack.chat_postMessage
    desk.slack.chat_postMessage = lambda **message: real(**message) and 1 / 0  # type: ignore[method-assign]
    desk.bench.ask("new client-x")
    desk.announce()
    desk.slack.chat_postMessage = real  # type: ignore[method-assign]
    desk.slack.fail("conversations.history", slack_error("Received a response in a non-JSON format", 503))
    for _ in range(2):
        desk.announcer._waiting.clear()
        desk.announce()
        assert len(posted_cards(desk)) == 1
    assert desk.last().message_ts


@contextmanager
def unwritable(database: Database) -> Iterator[None]:
    """Let no transaction begin, as when another process locks the file or the disk is full."""

    def full() -> Any:
        raise DatabaseUnavailable("The bot's own database could not be written (database is locked).")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database, "transaction", full)
        yield


def announce_in_vain(desk: Desk) -> None:
    """Announce several times while no place of a message can be recorded, and then once more."""
    with unwritable(desk.bench.context.database):
        for _ in range(3):
            desk.announcer._waiting.clear()
            with pytest.raises(DatabaseUnavailable):
                desk.announce()
    desk.announcer._waiting.clear()
    desk.announce()


@pytest.mark.parametrize("closed", [False, True], ids=["in the channel", "in direct messages, which it cannot read"])
def test_a_card_is_posted_once_however_often_its_place_cannot_be_recorded(desk: Desk, closed: bool) -> None:
    if closed:
        desk.slack.closed.add("C0OPS")
    desk.bench.ask("new client-x")
    announce_in_vain(desk)
    (card,) = posted_cards(desk)
    assert (desk.last().channel, desk.last().message_ts) == (card["channel"], card["ts"])


def test_a_second_card_is_posted_once_however_often_its_place_cannot_be_recorded(desk: Desk) -> None:
    operation = desk.bench.ask("new client-x")
    desk.announce()
    desk.slack.uneditable.add(desk.last().message_ts)
    desk.bench.approve(operation)
    announce_in_vain(desk)
    assert [one["ts"] for one in posted_cards(desk)][1:] == [desk.last().message_ts]


def test_a_line_of_a_batch_is_posted_once_however_often_its_place_cannot_be_recorded(desk: Desk) -> None:
    assert desk.bench.done("new client-x").state == "succeeded"
    batch = desk.bench.approve(desk.bench.ask("restart --all", OPERATOR))
    desk.announce()
    desk.bench.finish()
    with desk.bench.context.database.transaction() as transaction:
        # Of the batch itself everything is said.
        transaction.execute("UPDATE operations SET announced = revision WHERE id = ?", (batch.id,))
        transaction.execute("UPDATE notes SET posted = 1")
    before = len(thread(desk))
    announce_in_vain(desk)
    assert len(thread(desk)) == before + 1


def lose_the_answer_to_a_note(desk: Desk) -> None:
    real = desk.slack.chat_postMessage

    def lost(**message: Any) -> Any:
        answer = real(**message)
        if message.get("thread_ts"):
            raise TimeoutError
        return answer

    desk.bench.approve(desk.bench.ask("new client-x"))
    desk.slack.chat_postMessage = lost  # type: ignore[method-assign]
    desk.announce()
    desk.slack.chat_postMessage = real  # type: ignore[method-assign]


def test_a_note_whose_answer_was_lost_is_not_repeated_even_after_a_crash(desk: Desk) -> None:
    lose_the_answer_to_a_note(desk)
    again = make_desk(desk.bench, desk.slack)
    for _ in range(2):
        again.announce()
        assert len(thread(desk)) == 1
    assert not desk.bench.context.database.read("SELECT 1 FROM notes WHERE posted IS NULL")


def test_a_note_is_repeated_where_the_bot_may_not_read_replies(desk: Desk) -> None:
    lose_the_answer_to_a_note(desk)
    desk.slack.fail("conversations.replies", "missing_scope")
    make_desk(desk.bench, desk.slack).announce()
    assert len(thread(desk)) == 2


def test_a_card_is_posted_where_the_bot_may_not_read_history(desk: Desk) -> None:
    desk.bench.ask("new client-x")
    desk.bench.clock.move(1)
    again = make_desk(desk.bench, desk.slack)
    desk.slack.fail("conversations.history", "missing_scope")
    again.announce()
    assert len(posted_cards(desk)) == 1


def test_the_announcer_thread_announces_by_itself_and_can_be_stopped(desk: Desk) -> None:
    desk.bench.context.operations.changed = desk.announcer.wake
    desk.announcer.start()
    desk.bench.ask("new client-x")
    until(lambda: bool(posted_cards(desk)))
    desk.announcer.stop()
    assert not desk.announcer._thread.is_alive()


class Webhook:
    """A response_url that answers with a status, or not at all."""

    def __init__(self, status: int) -> None:
        self.status = status

    def __call__(self, url: str) -> Webhook:
        return self

    def send_dict(self, body: dict[str, Any]) -> Any:
        if not self.status:
            raise ConnectionRefusedError
        return type("Answer", (), {"status_code": self.status})


@pytest.mark.parametrize(("status", "ephemerals"), [(200, 0), (404, 1), (0, 1)])
def test_an_answer_falls_back_from_the_response_url_to_an_ephemeral_message(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, status: int, ephemerals: int
) -> None:
    monkeypatch.setattr(announcer, "WebhookClient", Webhook(status))
    desk.announcer.answer(LEAD.id, "C0OPS", "https://hooks.example/1", Message("Hello", []))
    assert len(said(desk, "chat.postEphemeral")) == ephemerals


def test_an_answer_in_a_channel_without_the_bot_goes_directly_to_the_person(desk: Desk) -> None:
    desk.slack.closed.add("C0ELSEWHERE")
    desk.announcer.answer(LEAD.id, "C0ELSEWHERE", "", Message("Hello", []))
    assert desk.slack.said[-1]["channel"] == f"D{LEAD.id}"


def test_notes_that_an_older_bot_left_unposted_are_posted(desk: Desk, tmp_path: Path) -> None:
    """The database is from before notes had the column `only_in`."""
    desk.bench.approve(desk.bench.ask("new client-x"))
    desk.bench.context.database.close()
    with closing(sqlite3.connect(tmp_path / "bot.db")) as before:
        before.executescript(
            "ALTER TABLE notes DROP COLUMN only_in; DROP TABLE unsaid; DROP TABLE warned;"
            "DELETE FROM _sqlite_migrations WHERE name = 'm016_unsaid';"
        )
    again = make_desk(make_bench(tmp_path, desk.bench.lxd, slack=desk.slack))
    again.announce()
    assert [one["text"] for one in thread(again)] == [f":white_check_mark: <@{LEAD.id}> approved. Starting now."]


def test_one_persons_card_does_not_wait_for_the_many_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slack accepts one message a second; while thirty cards are posted, somebody else makes one request."""
    desk = make_desk(make_bench(tmp_path))
    for number in range(30):
        desk.bench.ask(f"new client-{number}")
    monkeypatch.setattr("bot.slack.announcer.TURN", 0.05)
    real = desk.slack.chat_postMessage

    def slow(**message: Any) -> dict[str, Any]:
        if len(desk.slack.said) == 2:
            desk.bench.ask("new theirs", LEAD)
        time.sleep(0.02)
        return real(**message)

    monkeypatch.setattr(desk.slack, "chat_postMessage", slow)
    desk.announce()
    cards = [said["text"] for said in desk.slack.said]
    assert len(cards) == 31
    (place,) = [number for number, text in enumerate(cards) if "theirs" in text]
    assert place < 10
