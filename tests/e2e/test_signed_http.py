"""The same bot with Slack's signed HTTP requests instead of Socket Mode."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.workspace import APP_TOKEN, BOT_TOKEN, SIGNING_SECRET, WorkspaceServer, free_port
from tests.support.world import CHANNEL, BotProcess


def test_commands_and_clicks_work_over_signed_http(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/slack/events"
    workspace = WorkspaceServer(tmp_path / "workspace", "--http-mode", url)
    environment = {
        "MAUTIC_OPS_LXD__ENDPOINT": "simulated",
        "MAUTIC_OPS_BOT__STATE": str(tmp_path / "state"),
        "MAUTIC_OPS_SLACK__HTTP_PORT": str(port),
        "SLACK_BOT_TOKEN": BOT_TOKEN,
        "SLACK_APP_TOKEN": APP_TOKEN,
        "SLACK_SIGNING_SECRET": SIGNING_SECRET,
    }
    bot = BotProcess(environment, tmp_path / "state", workspace)
    try:
        bot.start()
        workspace.command("account-manager", CHANNEL, "/mautic new client-x")
        card = workspace.wait_for_message(CHANNEL, "waiting for approval")
        assert "imulated" in str(card["blocks"]), "the card says that LXD is simulated"
        workspace.click("ops-lead", CHANNEL, card["ts"], "approve")
        workspace.wait_for_message(CHANNEL, "is live", thread_ts=card["ts"])

        forged = urllib.request.Request(url, b"command=%2Fmautic&text=list", {"X-Slack-Signature": "v0=0"})
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(forged, timeout=10)
    finally:
        bot.kill()
        workspace.kill()
