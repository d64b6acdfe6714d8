"""Posts that nobody requested: they are marked, so that the bot finds them again and never posts one twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bot.slack.messages import Message, Renderer
from bot.slack.poster import Hidden, NoEntry, NotPosted, Post, Refusal
from tests.support.bot import FakeSlack, slack_error
from tests.support.workspace import Workspace

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
HELLO = Message("Hello", [])


def post_in(workspace: Workspace) -> Post:
    return Post(workspace.web_client())


def test_a_post_is_found_by_its_key_in_channel_and_thread(workspace: Workspace) -> None:
    post = post_in(workspace)
    root = post.post("C0OPS", HELLO, key="digest 2026-11-25")
    part = post.post("C0OPS", HELLO, key="digest 2026-11-25 details", thread_ts=root)
    post.picture("C0OPS", PNG, name="disk.png", title="Disk", thread_ts=root)
    assert post.find("C0OPS", "digest 2026-11-25", since=float(root) - 1) == root
    assert post.find("C0OPS", "digest 2026-11-25 details", since=0, thread_ts=root) == part
    assert post.find("C0OPS", "disk.png", since=0, thread_ts=root) > part
    assert post.find("C0OPS", "disk.png", since=0) == "", "it is in the thread"
    assert post.find("C0OPS", "digest 2026-11-25", since=float(root) + 1) == "", "it is older"


def test_only_a_post_after_the_one_that_it_replaces_is_found(workspace: Workspace) -> None:
    post = post_in(workspace)
    first, second = (post.post("C0OPS", HELLO, key="incidents 1") for _ in range(2))
    assert post.find("C0OPS", "incidents 1", since=0, after=first) == second
    assert post.find("C0OPS", "incidents 1", since=0, after=second) == ""


def test_a_post_is_found_on_a_later_page_of_the_channel(workspace: Workspace) -> None:
    post = post_in(workspace)
    root = post.post("C0OPS", HELLO, key="digest 2026-11-25")
    for number in range(201):
        workspace.message("operator", "ops", f"chatter {number}")
    assert post.find("C0OPS", "digest 2026-11-25", since=0) == root


@pytest.mark.parametrize("thread_ts", ["", "1.2"])
def test_a_message_of_others_with_the_bots_key_or_file_name_is_not_taken_for_its_post(thread_ts: str) -> None:
    slack = FakeSlack()
    post = Post(slack)  # type: ignore[arg-type]
    where = {"thread_ts": thread_ts} if thread_ts else {}
    marked = {"event_type": "mautic_post", "event_payload": {"key": "incidents 1"}}
    slack.chatter(1, "U0OTHERAPP", metadata=marked, **where)
    slack.chatter(1, files=[{"name": "rehearsal-1.log"}], **where)
    for key in ("incidents 1", "rehearsal-1.log"):
        assert post.find("C0OPS", key, since=0, thread_ts=thread_ts) == ""
    mine = post.post("C0OPS", HELLO, key="incidents 1", thread_ts=thread_ts)
    post.file("C0OPS", "log", name="rehearsal-1.log", title="Log", thread_ts=thread_ts)
    assert post.find("C0OPS", "incidents 1", since=0, thread_ts=thread_ts) == mine
    assert post.find("C0OPS", "rehearsal-1.log", since=0, thread_ts=thread_ts) > mine
    assert slack.calls["auth.test"] == 1


def test_audit_heads_are_found_behind_the_messages_of_others(workspace: Workspace) -> None:
    post = post_in(workspace)
    post.head = lambda: "7:0123"
    post.post("C0OPS", HELLO, key="x")
    for number in range(201):
        workspace.message("operator", "ops", f"chatter {number}")
    post.head = lambda: "8:4567"
    last = post.post("C0OPS", HELLO, key="y")
    assert post.heads("C0OPS", since=0) == (["8:4567", "7:0123"], True)
    assert post.heads("C0OPS", since=float(last) - 0.00001) == (["8:4567"], True)


def test_a_message_is_read_as_it_is_now_and_keeps_its_metadata_when_it_is_updated_without(workspace: Workspace) -> None:
    post, client = post_in(workspace), workspace.web_client()
    post.head = lambda: "7:0123"
    ts = post.post("C0OPS", HELLO, key="x")
    workspace.message("operator", "ops", "a reply", thread_ts=ts)
    client.chat_update(channel="C0OPS", ts=ts, text="Hello again", metadata=None)
    assert post.payload("C0OPS", ts) == {"key": "x", "audit": "7:0123"}
    metadata = {"event_type": "x", "event_payload": {"audit": "8:4567"}}
    client.chat_update(channel="C0OPS", ts=ts, text="Hello again", metadata=metadata)
    assert post.payload("C0OPS", ts) == {"audit": "8:4567"}
    theirs = workspace.message("operator", "ops", "mine")["ts"]
    assert post.payload("C0OPS", theirs) == {}
    client.chat_delete(channel="C0OPS", ts=ts)
    with pytest.raises(Hidden):
        post.payload("C0OPS", ts)


@pytest.mark.parametrize(("pages", "heads"), [(2, ([], False)), (3, (["7:0123"], True))])
def test_only_a_limited_number_of_pages_is_read_for_audit_heads(
    monkeypatch: pytest.MonkeyPatch, pages: int, heads: tuple[list[str], bool]
) -> None:
    slack = FakeSlack()
    post = Post(slack)  # type: ignore[arg-type]
    post.head = lambda: "7:0123"
    post.post("C0OPS", HELLO, key="x")
    slack.chatter(2 * 200)
    monkeypatch.setattr("bot.slack.poster.PAGES", pages)
    assert post.heads("C0OPS", since=0) == heads


def test_an_update_reports_that_somebody_deleted_the_message(workspace: Workspace) -> None:
    post = post_in(workspace)
    ts = post.post("C0OPS", HELLO, key="incident 1")
    assert post.update("C0OPS", ts, Renderer().say("It is over."))
    assert workspace.messages("ops")[-1]["text"] == "It is over."
    workspace.web_client().chat_delete(channel="C0OPS", ts=ts)
    assert not post.update("C0OPS", ts, HELLO)


@pytest.mark.parametrize(
    ("call", "method"),
    [
        (lambda post: post.post("C0OPS", HELLO, key="x"), "chat.postMessage"),
        (lambda post: post.update("C0OPS", "1.2", HELLO), "chat.update"),
        (lambda post: post.find("C0OPS", "x", since=0), "conversations.history"),
        (lambda post: post.find("C0OPS", "x", since=0, thread_ts="1.2"), "conversations.replies"),
        (
            lambda post: post.picture("C0OPS", PNG, name="x", title="x", thread_ts="1.2"),
            "files.completeUploadExternal",
        ),
    ],
)
@pytest.mark.parametrize("error", ["not_in_channel", TimeoutError("timed out")])
def test_every_call_that_slack_does_not_accept_raises_not_posted(
    call: Callable[[Post], Any], method: str, error: str | Exception
) -> None:
    slack = FakeSlack()
    slack.fail(method, error)
    with pytest.raises(NotPosted, match="Slack"):
        call(Post(slack))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (slack_error("not_in_channel"), True),
        (slack_error("ratelimited", 429), False),
        (slack_error("internal_error"), False),
        (slack_error("Received a response in a non-JSON format", 502), False),
        (TimeoutError("timed out"), False),
    ],
)
def test_a_failure_is_a_refusal_only_where_slack_decided_so(error: Exception, refused: bool) -> None:
    slack = FakeSlack()
    slack.fail("chat.postMessage", error)
    with pytest.raises(NotPosted) as caught:
        Post(slack).post("C0OPS", HELLO, key="x")  # type: ignore[arg-type]
    assert isinstance(caught.value, Refusal) == refused


@pytest.mark.parametrize(
    ("error", "closed"),
    [
        ("not_in_channel", True),
        ("restricted_action", True),
        ("restricted_action_read_only_channel", True),
        ("ekm_access_denied", True),
        ("team_access_not_granted", True),
        ("msg_blocks_too_long", False),
    ],
)
def test_a_refusal_tells_whether_the_channel_is_closed_to_the_bot(error: str, closed: bool) -> None:
    slack = FakeSlack()
    slack.fail("chat.postMessage", error)
    with pytest.raises(Refusal) as caught:
        Post(slack).post("C0OPS", HELLO, key="x")  # type: ignore[arg-type]
    assert isinstance(caught.value, NoEntry) == closed
