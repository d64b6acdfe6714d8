"""What people really type, and when: the bot's process over a simulated LXD, with a Slack that acts like Slack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.workspace import APP_TOKEN, BOT_TOKEN, WorkspaceServer
from tests.support.world import CHANNEL, BotProcess


@dataclass
class Conversation:
    workspace: WorkspaceServer
    bot: BotProcess

    def ask(self, text: str, pattern: str) -> str:
        """Request an operation, and return the ts of its card."""
        self.workspace.command("operator", CHANNEL, f"/mautic {text}")
        return str(self.workspace.wait_for_message(CHANNEL, pattern)["ts"])

    def reply(self, card: str, text: str, outcome: str, **more: Any) -> None:
        """Reply in a card's thread, and wait until the thread says `outcome`."""
        self.workspace.message("ops-lead", CHANNEL, text, thread_ts=card, **more)
        try:
            self.workspace.wait_for_message(CHANNEL, outcome, thread_ts=card)
        except AssertionError:
            said = [one["text"] for one in self.workspace.messages(CHANNEL, "ops-lead", card)]
            raise AssertionError(f"no {outcome!r} in {said}; {self.bot.log.read_text()[-2000:]}") from None


@pytest.fixture
def conversation(tmp_path: Path) -> Iterator[Conversation]:
    workspace = WorkspaceServer(tmp_path / "workspace", "--retry-delays", "0,1,5")
    workspace.faults(limits=False)
    environment = {
        "MAUTIC_OPS_LXD__ENDPOINT": "simulated",
        "MAUTIC_OPS_BOT__STATE": str(tmp_path / "state"),
        "SLACK_BOT_TOKEN": BOT_TOKEN,
        "SLACK_APP_TOKEN": APP_TOKEN,
    }
    bot = BotProcess(environment, tmp_path / "state", workspace)
    bot.start()
    yield Conversation(workspace, bot)
    bot.kill()
    workspace.kill()


def test_decisions_count_however_they_are_typed(conversation: Conversation) -> None:
    card = conversation.ask("new client-x", "Create tenant client-x")
    conversation.reply(card, "approve", "is live", broadcast=True)
    decided = conversation.bot.rows("SELECT actor, via FROM decisions")
    assert [tuple(row) for row in decided] == [("U0OPSLEAD", "reply")], "Slack delivers a broadcast twice"

    card = conversation.ask("new client-y", "Create tenant client-y")
    conversation.reply(card, "deny because of this", ": of this. Nothing was changed", file="why.png")

    card = conversation.ask("new client-z", "Create tenant client-z")
    said = conversation.workspace.message("ops-lead", CHANNEL, "looks fine", thread_ts=card)["ts"]
    conversation.workspace.edit("ops-lead", CHANNEL, said, "approve")
    conversation.workspace.wait_for_message(CHANNEL, "does not count as a decision", "ops-lead", card)
    conversation.reply(card, "deny", "denied your request")

    card = conversation.ask("`delete client\u2011x`", "Delete tenant client-x")
    conversation.reply(card, "*approve* `client-x\u200b`", "is archived")


def test_a_decision_counts_while_slack_renews_the_connection(conversation: Conversation) -> None:
    for number, reason in enumerate(("refresh_requested", "warning", "hard")):
        card = conversation.ask(f"new client-{number}", f"Create tenant client-{number}")
        conversation.workspace.faults(disconnect=reason, warning_seconds=0.2)
        conversation.reply(card, "approve", "is live")
