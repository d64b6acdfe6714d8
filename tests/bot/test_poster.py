"""What the bot says unasked: marked, so that it is found again, and never said twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bot.slack.messages import Message, Renderer
from bot.slack.poster import NotPosted, Post, Refusal
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


def test_it_is_found_on_a_later_page_of_the_channel_too(workspace: Workspace) -> None:
    post = post_in(workspace)
    root = post.post("C0OPS", HELLO, key="digest 2026-11-25")
    for number in range(201):
        workspace.message("operator", "ops", f"chatter {number}")
    assert post.find("C0OPS", "digest 2026-11-25", since=0) == root


def test_an_update_tells_when_somebody_removed_the_message(workspace: Workspace) -> None:
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
def test_what_slack_does_not_take_is_one_kind_of_failure(
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
def test_it_is_refused_only_where_slack_has_decided_so(error: Exception, refused: bool) -> None:
    slack = FakeSlack()
    slack.fail("chat.postMessage", error)
    with pytest.raises(NotPosted) as caught:
        Post(slack).post("C0OPS", HELLO, key="x")  # type: ignore[arg-type]
    assert isinstance(caught.value, Refusal) == refused
