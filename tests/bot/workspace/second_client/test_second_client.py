"""Another maker's client, unmodified: @slack/bolt for JavaScript works with the workspace too."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.real_lxd import need
from tests.support.workspace import APP_TOKEN, BOT_TOKEN, WorkspaceServer, eventually

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def installed() -> Path:
    """The directory with the client's packages, as its lock file names them."""
    need("npm")
    lock, done = HERE / "package-lock.json", HERE / "node_modules" / ".package-lock.json"
    if not done.exists() or done.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True, timeout=300)
    return HERE


@pytest.fixture
def slack(installed: Path, workspace: WorkspaceServer) -> Iterator[WorkspaceServer]:
    """The workspace with the JavaScript app connected."""
    process = subprocess.Popen(
        ["node", "app.js"],
        cwd=installed,
        env=os.environ
        | {"SLACK_API_URL": workspace.api_url, "SLACK_BOT_TOKEN": BOT_TOKEN, "SLACK_APP_TOKEN": APP_TOKEN},
    )
    eventually(lambda: workspace.faults()["connections"] == 1)
    yield workspace
    process.terminate()
    process.wait(10)


def test_command_and_button(slack: WorkspaceServer) -> None:
    seen = slack.command("operator", "ops", "/mautic new client-x")
    assert [said["text"] for said in seen["messages"]] == ["heard new client-x"]

    card = slack.wait_for_message("ops", "Press")
    assert slack.click("ops-lead", "ops", card["ts"], "press")["ok"]

    assert slack.wait_for_message("ops", "pressed by U0OPSLEAD")["ts"] == card["ts"]
    assert slack.wait_for_message("ops", "only you: v1", user="ops-lead")["is_ephemeral"]


def test_modal(slack: WorkspaceServer) -> None:
    slack.command("operator", "ops", "/mautic form")
    form = slack.wait_for_view("operator", "form")

    assert slack.submit("operator", form["id"], {"name": "bad"})["errors"] == {"tenant": "That name is taken."}
    assert slack.submit("operator", form["id"], {"name": "client-x"})["ok"]

    assert slack.views("operator") == []
    slack.wait_for_message("ops", "asked for client-x")


def test_typed_message_and_mention(slack: WorkspaceServer) -> None:
    hello = slack.message("guest", "ops", "hello there")
    slack.wait_for_message("ops", "hello <@U0GUEST>", thread_ts=hello["ts"])

    mention = slack.message("operator", "general", "@mautic are you there?")
    slack.wait_for_message("general", "you called?", thread_ts=mention["ts"])


def test_it_comes_back_after_a_lost_connection(slack: WorkspaceServer) -> None:
    slack.faults(disconnect="hard")
    eventually(lambda: slack.faults()["connections"] == 1, 60)

    assert slack.command("operator", "ops", "/mautic again")["ok"]
