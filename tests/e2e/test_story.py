"""The main job on real parts: a Slack message becomes a live tenant, which is archived and brought back."""

from __future__ import annotations

import http.client
import http.cookiejar
import re
import socket
import ssl
import urllib.parse
import urllib.request
from typing import Any

from tests.support.workspace import eventually
from tests.support.world import CHANNEL, LISTEN, World


def test_a_slack_message_becomes_a_live_tenant_that_is_archived_and_brought_back(world: World) -> None:
    try:
        card = world.ask("new story-x --note 'spring campaign'")
        world.workspace.click("account-manager", CHANNEL, card, "approve")
        world.whisper("account-manager", "Only approvers")
        world.workspace.click("guest", CHANNEL, card, "approve")
        world.whisper("guest", "Guests")
        assert world.instances_of("story-x") == [], "nothing is made before somebody else approves"

        world.workspace.message("ops-lead", CHANNEL, "approve", thread_ts=card, broadcast=True)
        live = world.wait_for(card, "is live")
        assert "https://story-x.e2e.localhost/s/login" in live
        found = world.edge.probe("story-x.e2e.localhost")
        assert (found.status, found.login) == (200, True)

        world.workspace.command("account-manager", CHANNEL, "/mautic status story-x")
        status = world.whisper("account-manager", "Public page")
        assert ":x:" not in str(status["blocks"]), status["blocks"]

        assert world.credentials("story-x")["User"] == "admin"
        world.workspace.command("account-manager", CHANNEL, "/mautic credentials story-x")
        world.whisper("account-manager", "it was collected, has expired")

        card = world.ask("delete story-x", user="operator")
        world.approve(card, "approve")
        world.whisper("ops-lead", "add the tenant name", thread=card)
        # Pasted from the card, bold, and while Slack renews the connection.
        world.workspace.faults(disconnect="refresh_requested")
        world.approve(card, "*approve* `story-x\u200b`")
        world.wait_for(card, "is archived")
        assert world.edge.probe("story-x.e2e.localhost").login is False
        assert world.instances_of("story-x") == ["story-x--archived"]

        card = world.ask("unarchive story-x", user="operator")
        world.approve(card)
        world.wait_for(card, "is back from the archive")
        assert world.edge.probe("story-x.e2e.localhost").login

        world.workspace.command("ops-lead", CHANNEL, "/mautic audit verify")
        world.whisper("ops-lead", "Audit log intact")
    finally:
        world.remove("story-x")


def test_no_secret_leaves_the_vault(world: World) -> None:
    try:
        card = world.ask("new secret-x")
        world.approve(card)
        world.wait_for(card, "is live")
        password = world.credentials("secret-x")["Password"]
        assert len(password) >= 20
        for file in world.settings.state.rglob("*"):
            assert not file.is_file() or password.encode() not in file.read_bytes(), file
        everything = str(world.workspace.messages(CHANNEL)) + str(world.thread(card))
        assert password not in everything
    finally:
        world.remove("secret-x")


class ThroughTheEdge(urllib.request.HTTPSHandler):
    """Connects every name to the edge's address, because no resolver here knows the tenants' names."""

    def __init__(self, authority: str) -> None:
        super().__init__(context=ssl.create_default_context(cadata=authority))

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        def connect(host: str, **options: Any) -> http.client.HTTPSConnection:
            connection = http.client.HTTPSConnection(host, **options)
            connection._create_connection = lambda _, *rest: socket.create_connection((LISTEN, 443), *rest)  # type: ignore[attr-defined]
            return connection

        return self.do_open(connect, request, context=self._context)  # type: ignore[attr-defined, no-any-return]


def test_the_first_credentials_work_at_the_login(world: World) -> None:
    try:
        card = world.ask("new login-x")
        world.approve(card)
        world.wait_for(card, "is live")
        shown = world.credentials("login-x")

        browser = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            ThroughTheEdge(world.edge.authority()),
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
        )
        base = "https://login-x.e2e.localhost"
        with browser.open(f"{base}/s/login") as page:
            token = re.search(r'name="_csrf_token"[^>]*value="([^"]+)"', page.read().decode())
        assert token
        form = {"_username": shown["User"], "_password": shown["Password"], "_csrf_token": token[1]}
        with browser.open(f"{base}/s/login_check", urllib.parse.urlencode(form).encode()) as page:
            assert page.url.endswith("/s/dashboard"), page.url
    finally:
        world.remove("login-x")


def test_a_refused_command_leaves_nothing(world: World) -> None:
    for words, why in (
        ("new Client_X", "lower-case letters"),
        ("new www", "reserved"),
        ("new client-y --plan huge", "no plan"),
        ("new client-y --domain nodot", "not a domain"),
        ("new client-y --version 9.9", "no blueprint of Mautic 9.9"),
        ("status nobody", "no tenant"),
        ("delet client-y", "Did you mean"),
    ):
        world.workspace.command("account-manager", CHANNEL, f"/mautic {words}")
        world.whisper("account-manager", why)
    assert world.instances_of("client-y") == []
    # The answer may come before the row.
    eventually(lambda: len(world.bot.rows("SELECT 1 FROM audit WHERE event = 'command.refused'")) == 7)


def test_the_bot_stops_cleanly_and_resumes_its_work(world: World) -> None:
    try:
        card = world.ask("new again-x")
        world.approve(card)
        eventually(lambda: world.bot.rows("SELECT 1 FROM decisions"))
        world.bot.stop()
        world.bot.start()
        world.wait_for(card, "is live")
        assert world.bot.stop() == 0
    finally:
        world.remove("again-x")
