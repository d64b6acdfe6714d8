"""The digest and the Home tab, with the bot's real process, the local workspace and real LXD."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.lxd.gateway import LxdGateway
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, TINY_VERSION, World, settings_for


@pytest.fixture
def world(host: LxdGateway, tmp_path: Path) -> Iterator[World]:
    """A world whose bot posts in #general, and whose hour of the digest has come."""
    settings, environment = settings_for(host.endpoint, tmp_path / "state")
    spoken = {"MAUTIC_OPS_SLACK__CHANNEL": "C0GENERAL", "MAUTIC_OPS_DIGEST__HOUR": "0"}
    made = World(host, settings, environment | spoken, tmp_path)
    yield made
    made.close()


def digests(world: World) -> list[dict[str, Any]]:
    """Return the first messages of the digests in #general."""
    keys = [(one, (one.get("metadata") or {}).get("event_payload", {})) for one in world.workspace.messages("general")]
    return [message for message, payload in keys if str(payload.get("key")).startswith("digest 2")]


def ended(world: World) -> bool:
    return bool(world.bot.rows("SELECT 1 FROM digests WHERE ended IS NOT NULL"))


def test_the_digest_of_today_is_posted_once_even_after_kill_9(world: World) -> None:
    eventually(lambda: ended(world), 60)
    (head,) = digests(world)
    assert head["blocks"][0]["type"] == "header"
    world.bot.kill()
    world.bot.start()
    world.run_job("digest")
    assert digests(world) == [head]


def test_a_person_who_asks_gets_a_digest(world: World) -> None:
    try:
        card = world.ask(f"new digest-x --version {TINY_VERSION}")
        world.approve(card)
        world.wait_for(card, "is live|failed")
        world.workspace.command("operator", CHANNEL, "/mautic digest --since 1h")
        world.whisper("operator", r"1 change\b")
        world.workspace.command("operator", CHANNEL, "/mautic digest digest-y")
        world.whisper("operator", "There is no tenant `digest-y`")
    finally:
        world.remove("digest-x")


def test_a_request_is_decided_in_the_home_tab(world: World) -> None:
    world.ask(f"new home-x --version {TINY_VERSION}")

    def home(user: str, text: str) -> dict[str, Any]:
        view = eventually(lambda: (seen := world.workspace.home(user)) and text in json.dumps(seen) and seen)
        assert view
        return view

    world.workspace.open_home("account-manager")
    assert "approve" not in [one.get("action_id") for one in elements(home("account-manager", "Nothing needs you"))]
    world.workspace.open_home("ops-lead")
    view = home("ops-lead", "1 request to decide")
    world.workspace.click_in_view("ops-lead", view["id"], "deny")
    home("ops-lead", "Nothing needs you")
    assert [row["state"] for row in world.bot.rows("SELECT state FROM operations")] == ["denied"]


def elements(view: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for block in view["blocks"] if block["type"] == "actions" for one in block["elements"]]
