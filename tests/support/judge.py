"""Judges a message: would Slack accept it, and are all mentions and marks in it the bot's own?"""

from __future__ import annotations

import re
from typing import Any

from bot.slack.messages import Message
from bot.workspace import block_kit

OWN_MARK = re.compile(
    r"<!subteam\^S0APPROVERS>|<@[UW][A-Z0-9]+>|<#[CG][A-Z0-9]+>|<!date\^\d+\^\{date_short_pretty\} \{time\}\|[^<>|]*>"
)
EMOJI = re.compile(r":[a-z0-9_+-]+:")
ZERO_WIDTH = "\N{ZERO WIDTH SPACE}"


def judge(message: Message, mentions: frozenset[str] = frozenset()) -> None:
    """Raise if Slack would refuse the message, or if it mentions anybody but the given people."""
    block_kit.message_content(message.arguments())
    judge_text(message.text, mentions)
    for text in mrkdwn(message.blocks):
        judge_text(text, mentions)
    assert len(message.text) <= 4000


def mrkdwn(value: Any) -> list[str]:
    """Return every text in blocks that Slack reads as mrkdwn."""
    if isinstance(value, list):
        return [text for one in value for text in mrkdwn(one)]
    if not isinstance(value, dict):
        return []
    if value.get("type") == "mrkdwn":
        return [value["text"]]
    return [text for one in value.values() for text in mrkdwn(one)]


def judge_text(text: str, mentions: frozenset[str]) -> None:
    """Raise if a text has marks that are not the bot's own, bare `& < >`, or formatting that is not closed."""
    for user in re.findall(r"<@([^>]*)>", text):
        assert user in mentions, f"a mention of {user} in {text!r}"
    rest = OWN_MARK.sub("", text)
    assert "<" not in rest, f"a mark or a bare < in {text!r}"
    assert ">" not in rest, f"a mark or a bare > in {text!r}"
    assert not re.search(r"&(?!amp;|lt;|gt;)", rest), f"a bare & in {text!r}"
    # Formatting has no effect within a code block.
    shown = re.sub(ZERO_WIDTH + r"[*_~`]", "", re.sub(r"```.*?```", "", rest, flags=re.S))
    for line in shown.splitlines():
        assert line.count("`") % 2 == 0, f"code does not close in {line!r}"
        plain = EMOJI.sub("", re.sub(r"`[^`]*`", "", line))
        for mark in "*_~":
            inner = plain.removeprefix("~ ") if mark == "~" else plain
            assert inner.count(mark) % 2 == 0, f"{mark} does not close in {line!r}"
