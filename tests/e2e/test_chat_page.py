"""What a person sees and does in the chat page: Debian's Chromium, the real local workspace, a real Bolt app."""

from __future__ import annotations

import functools
import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, expect, sync_playwright
from slack_bolt import App
from slack_bolt.adapter.socket_mode.websocket_client import SocketModeHandler

from tests.support.real_lxd import need
from tests.support.workspace import APP_TOKEN, SIGNING_SECRET, WorkspaceServer, eventually

QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)
COMMANDS = [
    {"name": "list", "usage": "list", "summary": "Show the tenants"},
    {"name": "new", "usage": "new <tenant> [--plan]", "summary": "Make a tenant"},
    {"name": "status", "usage": "status <tenant>", "summary": "Show one tenant"},
]
WIDE, PHONE = (1280, 800), (390, 844)


def png(width: int, height: int) -> bytes:
    """Return a black picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress((b"\0" + bytes(width)) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


PICTURE = png(1200, 900)


def plain(text: str) -> dict[str, str]:
    return {"type": "plain_text", "text": text}


def mrkdwn(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text}


def button(action_id: str, text: str, **more: Any) -> dict[str, Any]:
    return {"type": "button", "action_id": action_id, "text": plain(text), **more}


SURE = {"title": plain("Sure?"), "text": plain("It cannot be undone."), "confirm": plain("Do it"), "deny": plain("No")}
CARD: list[dict[str, Any]] = [
    {"type": "header", "text": plain(":package: New tenant client-x")},
    {"type": "section", "text": mrkdwn("<@U0ACCOUNT> asks for *client-x*, see <https://client-x.test|its page>")},
    {"type": "section", "fields": [mrkdwn("*Plan*\nsmall"), mrkdwn("*Host*\nlocal")]},
    {
        "type": "actions",
        "elements": [
            button("approve", "Approve", style="primary", value="1"),
            button("deny", "Deny", style="danger", confirm=SURE),
        ],
    },
]
MODAL: dict[str, Any] = {
    "type": "modal",
    "callback_id": "new",
    "title": plain("New tenant"),
    "submit": plain("Request approval"),
    "close": plain("Cancel"),
    "blocks": [
        {
            "type": "input",
            "block_id": "name",
            "label": plain("Name"),
            "element": {"type": "plain_text_input", "action_id": "name"},
        },
        {
            "type": "input",
            "block_id": "note",
            "label": plain("Note"),
            "optional": True,
            "element": {"type": "plain_text_input", "action_id": "note", "multiline": True},
        },
    ],
}


class SmallApp:
    """A Bolt app with one command, one card and one modal; `heard` is what reached it, in order."""

    def __init__(self, workspace: WorkspaceServer) -> None:
        self.heard: list[str] = []
        self.bolt = App(client=workspace.web_client(), signing_secret=SIGNING_SECRET)
        self.bolt.command("/mautic")(self.command)
        self.bolt.action("approve")(self.decided)
        self.bolt.action("deny")(self.decided)
        self.bolt.view("new")(self.submitted)
        self.bolt.event("message")(lambda: None)
        self.bolt.event("app_mention")(lambda event: self.heard.append(f"mention: {event['text']}"))
        self.bolt.event("app_home_opened")(self.home)

    def command(self, ack: Any, body: dict[str, Any], client: Any) -> None:
        ack()
        self.heard.append(f"{body['user_id']}: {body['text']}")
        if body["text"] == "new":
            client.views_open(trigger_id=body["trigger_id"], view=MODAL)
        else:
            client.chat_postEphemeral(channel=body["channel_id"], user=body["user_id"], text=f"Done: {body['text']}")

    def decided(self, ack: Any, body: dict[str, Any], client: Any) -> None:
        ack()
        place, action = body["container"], body["actions"][0]["action_id"]
        done = [{"type": "section", "text": mrkdwn(f"{action} by <@{body['user']['id']}>")}]
        client.chat_update(channel=place["channel_id"], ts=place["message_ts"], text="Decided", blocks=done)

    def submitted(self, ack: Any, view: dict[str, Any]) -> None:
        name = view["state"]["values"]["name"]["name"]["value"]
        if name == "taken":
            ack(response_action="errors", errors={"name": "That name is taken."})
            return
        ack()
        self.heard.append(f"asked for {name}: {view['state']['values']['note']['note']['value']}")

    def home(self, event: dict[str, Any], client: Any) -> None:
        blocks = [{"type": "header", "text": plain(f"Tenants of {event['user']}")}]
        client.views_publish(user_id=event["user"], view={"type": "home", "blocks": blocks})


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[WorkspaceServer]:
    """A local workspace that knows three subcommands."""
    commands = tmp_path / "commands.json"
    commands.write_text(json.dumps(COMMANDS))
    server = WorkspaceServer(tmp_path / "workspace", "--commands", str(commands), "--retry-delays", "0,0.2,0.2")
    yield server
    server.stop()


@pytest.fixture
def app(workspace: WorkspaceServer) -> Iterator[SmallApp]:
    """The small app, connected by Socket Mode."""
    small = SmallApp(workspace)
    handler = SocketModeHandler(small.bolt, APP_TOKEN)
    handler.connect()  # type: ignore[no-untyped-call]
    eventually(lambda: workspace.faults()["connections"])
    yield small
    # The client's close() often waits 10 s for a socket it closed itself; one cut by the server is quick.
    handler.client.auto_reconnect_enabled = False
    workspace.faults(disconnect="hard")
    eventually(lambda: not handler.client.is_connected())
    handler.close()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET.split())
        yield browser
        browser.close()


class Tabs:
    """Opens the page, each time as one person, and collects the errors and alerts of all pages."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        self.url = url
        self.problems: list[str] = []

    def open(self, person: str, size: tuple[int, int] = WIDE, place: str = "C0OPS") -> Page:
        page = self.browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", self._alerted)
        page.goto(f"{self.url}/#as={person}&in={place}")
        expect(page.locator("#person")).to_have_value(person)
        return page

    def _alerted(self, dialog: Dialog) -> None:
        self.problems.append(dialog.message)
        dialog.dismiss()


@pytest.fixture
def tabs(chromium: Browser, workspace: WorkspaceServer) -> Iterator[Tabs]:
    opened = Tabs(chromium, workspace.url)
    yield opened
    for context in chromium.contexts:
        context.close()
    assert opened.problems == []


def post_card(app: SmallApp) -> str:
    posted = app.bolt.client.chat_postMessage(channel="C0OPS", text="New tenant client-x", blocks=CARD)
    return str(posted["ts"])


def send(page: Page, text: str) -> None:
    page.fill("#composer", text)
    page.press("#composer", "Enter")


def test_the_composer_completes_commands_by_keyboard(tabs: Tabs, app: SmallApp) -> None:
    page = tabs.open("account-manager")
    offered = page.locator("#completions [role=option]")
    page.type("#composer", "/ma")
    expect(offered).to_have_count(1)
    page.press("#composer", "Tab")
    expect(page.locator("#composer")).to_have_value("/mautic ")
    expect(offered).to_have_count(3)
    expect(offered.nth(1)).to_contain_text("/mautic new <tenant> [--plan]")
    expect(offered.nth(1)).to_contain_text("Make a tenant")
    page.press("#composer", "ArrowDown")
    page.press("#composer", "ArrowDown")
    page.press("#composer", "Enter")
    expect(page.locator("#composer")).to_have_value("/mautic new ")

    page.fill("#composer", "/mautic st")
    expect(offered).to_have_count(1)
    page.press("#composer", "Escape")
    expect(page.locator("#completions")).to_be_hidden()
    page.press("#composer", "Enter")
    eventually(lambda: app.heard == ["U0ACCOUNT: st"])


def test_an_answer_for_one_person_is_marked_and_hidden_from_others(tabs: Tabs, app: SmallApp) -> None:
    mine, theirs = tabs.open("account-manager"), tabs.open("operator")
    send(mine, "/mautic list")
    answer = mine.locator("#messages [data-ts]", has_text="Done: list")
    expect(answer).to_contain_text("Only visible to you")
    send(mine, "hello all")
    expect(theirs.locator("#messages [data-ts]", has_text="hello all")).to_be_visible()
    expect(theirs.locator("#messages [data-ts]", has_text="Done: list")).to_have_count(0)


def test_a_failed_command_says_why_and_keeps_the_text(tabs: Tabs, app: SmallApp, workspace: WorkspaceServer) -> None:
    page = tabs.open("operator")
    send(page, "/nope at all")
    expect(page.locator("#messages [data-ts]").last).to_contain_text("/nope is not a valid command")
    expect(page.locator("#composer")).to_have_value("/nope at all")
    workspace.faults(drop_acks=1)
    send(page, "/mautic list")
    expect(page.locator("#messages [data-ts]").last).to_contain_text("/mautic failed because")
    expect(page.locator("#messages [data-ts]").last).to_contain_text("Only visible to you")


def test_another_person_approves_and_everybody_sees_it(tabs: Tabs, app: SmallApp) -> None:
    page, watcher = tabs.open("account-manager"), tabs.open("guest")
    ts = post_card(app)
    card = page.locator(f"#messages [data-ts='{ts}']")
    expect(card).to_contain_text("📦 New tenant client-x")
    expect(card.locator(".mention")).to_have_text("@account-manager")
    expect(card.get_by_role("link", name="its page")).to_have_attribute("target", "_blank")
    page.select_option("#person", "ops-lead")
    card.locator("[data-action-id=approve]").click()
    expect(card).to_contain_text("approve by @ops-lead")
    expect(card.locator("[data-action-id]")).to_have_count(0)
    expect(watcher.locator(f"#messages [data-ts='{ts}']")).to_contain_text("approve by @ops-lead")
    page.reload()
    expect(page.locator("#person")).to_have_value("ops-lead")


def test_a_mention_of_a_group_shows_its_handle_and_notifies_its_members(tabs: Tabs, app: SmallApp) -> None:
    ts = post_card(app)
    lead, other = tabs.open("ops-lead"), tabs.open("account-manager")
    for page in (lead, other):
        expect(page.locator(f"#messages [data-ts='{ts}']")).to_be_visible()
    said = "<!subteam^S0APPROVERS> and <@U0OPERATOR>, please approve or deny this request."
    app.bolt.client.chat_postMessage(channel="C0OPS", text=said, thread_ts=ts)
    expect(lead.locator("#sidebar .badge")).to_have_text("1")
    expect(lead.locator("#toast")).to_have_text("You are mentioned in #mautic-ops.")
    expect(other.locator(f"#messages [data-ts='{ts}']")).to_contain_text("1 reply")
    expect(other.locator("#sidebar .badge")).to_have_count(0)
    lead.locator(f"#messages [data-ts='{ts}'] .replies").click()
    expect(lead.locator("#thread-messages .mention").nth(1)).to_have_text("@mautic-approvers")
    expect(lead.locator("#thread-messages .mention").nth(2)).to_have_text("@operator")
    expect(lead.locator("#sidebar .badge")).to_have_count(0)


def test_the_notice_of_a_mention_does_not_cover_the_buttons_on_a_phone(tabs: Tabs, app: SmallApp) -> None:
    phone = tabs.open("ops-lead", PHONE)
    ts = post_card(app)
    app.bolt.client.chat_postMessage(channel="C0OPS", text="<@U0OPSLEAD>, this waits for you.", thread_ts=ts)
    expect(phone.locator("#toast")).to_be_visible()
    expect(phone.locator(f"#messages [data-ts='{ts}'] [data-action-id]").last).to_be_visible()
    # Both at once: the reply has the card drawn again, and a button that is replaced meanwhile has no place.
    between = phone.evaluate(
        "ts => [...document.querySelectorAll(`#messages [data-ts='${ts}'] [data-action-id]`)].at(-1)"
        ".getBoundingClientRect().top - document.querySelector('#toast').getBoundingClientRect().bottom",
        ts,
    )
    assert between > 0, "the buttons are at the end of the messages"


def test_a_button_that_asks_first_does_nothing_until_confirmed(tabs: Tabs, app: SmallApp) -> None:
    page = tabs.open("ops-lead")
    card = page.locator(f"#messages [data-ts='{post_card(app)}']")
    card.locator("[data-action-id=deny]").click()
    question = page.locator("dialog.confirm")
    expect(question).to_contain_text("It cannot be undone.")
    page.keyboard.press("Escape")
    expect(question).to_have_count(0)
    expect(card.locator("[data-action-id=deny]")).to_be_enabled()
    card.locator("[data-action-id=deny]").click()
    question.get_by_role("button", name="Do it").click()
    expect(card).to_contain_text("deny by @ops-lead")


def test_a_modal_shows_its_errors_and_keeps_what_was_typed(
    tabs: Tabs, app: SmallApp, workspace: WorkspaceServer
) -> None:
    page = tabs.open("account-manager")
    send(page, "/mautic new")
    modal = page.locator("[data-view-id]")
    name, wrong = modal.get_by_label("Name"), modal.locator("[data-block-id=name] .wrong")
    expect(name).to_be_focused()
    modal.get_by_role("button", name="Request approval").click()
    expect(wrong).to_have_text("Please complete this required field.")

    name.fill("taken")
    modal.get_by_label("Note").fill("for the spring")
    modal.get_by_role("button", name="Request approval").click()
    expect(wrong).to_have_text("That name is taken.")
    expect(name).to_have_attribute("aria-invalid", "true")

    workspace.message("operator", "mautic-ops", "meanwhile")
    expect(page.locator("#messages [data-ts]", has_text="meanwhile")).to_be_visible()
    expect(wrong).to_have_text("That name is taken.")
    expect(name).to_have_value("taken")

    name.fill("client-x")
    modal.get_by_role("button", name="Request approval").click()
    expect(modal).to_have_count(0)
    eventually(lambda: "asked for client-x: for the spring" in app.heard)


def test_escape_closes_a_modal(tabs: Tabs, app: SmallApp, workspace: WorkspaceServer) -> None:
    page = tabs.open("operator")
    send(page, "/mautic new")
    expect(page.locator("[data-view-id]")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("[data-view-id]")).to_have_count(0)
    assert workspace.views("operator") == []


def test_text_of_messages_is_never_markup(tabs: Tabs, workspace: WorkspaceServer, app: SmallApp) -> None:
    hostile = "<img src=x onerror=alert(1)> <script>alert(2)</script> & <javascript:alert(3)|press me>"
    page = tabs.open("ops-lead")
    workspace.message("outsider", "shared-with-partner", hostile)
    page.get_by_role("button", name="shared-with-partner").click()
    expect(page.locator("#messages [data-ts]").last).to_contain_text(hostile)

    section = {"type": "section", "text": mrkdwn("<javascript:alert(4)|a> <!date^never^{date}|some day> <b>bold</b>")}
    link = {"type": "link", "url": "javascript:alert(5)", "text": "rich"}
    rich = {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [link]}]}
    ts = app.bolt.client.chat_postMessage(channel="C0SHARED", text="x", blocks=[section, rich])["ts"]
    raw = page.locator(f"#messages [data-ts='{ts}']")
    expect(raw).to_contain_text("some day")
    expect(raw).to_contain_text("rich")
    assert page.locator("#messages :is(img, script, b > b, a[href^='javascript'])").count() == 0


def test_a_reply_in_the_thread_reaches_the_app(tabs: Tabs, app: SmallApp, workspace: WorkspaceServer) -> None:
    page = tabs.open("ops-lead")
    ts = post_card(app)
    card = page.locator(f"#messages [data-ts='{ts}']")
    card.get_by_role("button", name="Reply in thread").click()
    page.fill("#reply", "@mautic approve")
    page.press("#reply", "Enter")
    expect(page.locator("#thread-messages [data-ts]").last).to_contain_text("@mautic approve")
    expect(card).to_contain_text("1 reply")
    eventually(lambda: app.heard == ["mention: <@U0BOT> approve"])
    page.fill("#reply", "/mautic list")
    page.press("#reply", "Enter")
    expect(page.locator("#thread-messages")).to_contain_text("/mautic is not supported in threads. Sorry!")
    page.locator("#reply").press("Escape")
    expect(page.locator("#thread")).to_be_hidden()


@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_a_reply_may_be_sent_to_the_channel_too(
    tabs: Tabs, app: SmallApp, workspace: WorkspaceServer, size: tuple[int, int]
) -> None:
    ts = post_card(app)
    page = tabs.open("ops-lead", size)
    page.locator(f"#messages [data-ts='{ts}']").get_by_role("button", name="Reply in thread").click()
    page.fill("#reply", "approve")
    page.get_by_label("Also send to #mautic-ops").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    page.press("#reply", "Enter")
    expect(page.locator("#thread-messages [data-ts]").last).to_contain_text("approve")
    expect(page.get_by_label("Also send to #mautic-ops")).not_to_be_checked()
    page.click("#close-thread")
    said = page.locator("#messages [data-ts]").last
    expect(said).to_contain_text("approve")
    said.get_by_role("button", name="replied to a thread").click()
    expect(page.locator("#thread-messages [data-ts]")).to_have_count(2)
    page.fill("#reply", "just here")
    page.press("#reply", "Enter")
    expect(page.locator("#thread-messages [data-ts]")).to_have_count(3)
    assert [one["text"] for one in workspace.messages("ops")][1:] == ["approve"]


def test_the_home_tab_is_each_persons_own(tabs: Tabs, app: SmallApp) -> None:
    page = tabs.open("ops-lead", place="home")
    expect(page.locator("#home")).to_contain_text("Tenants of U0OPSLEAD")
    page.select_option("#person", "operator")
    expect(page.locator("#home")).to_contain_text("Tenants of U0OPERATOR")


def test_other_channels_are_marked_unread(tabs: Tabs, workspace: WorkspaceServer) -> None:
    page = tabs.open("operator")
    general = page.get_by_role("button", name="# general")
    expect(general.get_by_label("unread")).to_have_count(0)
    workspace.message("ops-lead", "general", "news")
    expect(general.get_by_label("unread")).to_be_visible()
    general.click()
    expect(page.locator("#messages")).to_contain_text("news")
    expect(general.get_by_label("unread")).to_have_count(0)


def test_everything_fits_a_phone(tabs: Tabs, app: SmallApp) -> None:
    ts = post_card(app)
    long = "https://client-x.test/" + "a" * 300
    app.bolt.client.chat_postMessage(channel="C0OPS", text=f"{long} ```{'b' * 300}```", thread_ts=ts)
    app.bolt.client.chat_postMessage(channel="C0OPS", text=f"{long} ```{'b' * 300}```")
    page = tabs.open("ops-lead", PHONE)

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]

    card = page.locator(f"#messages [data-ts='{ts}']")
    expect(card).to_be_visible()
    fits()
    card.get_by_role("button", name="1 reply").click()
    expect(page.locator("#thread-messages")).to_contain_text("bbb")
    box = page.locator("#thread").bounding_box()
    assert box
    assert (box["x"], box["width"]) == (0, PHONE[0])
    fits()
    page.click("#close-thread")
    page.click("#menu")
    page.get_by_role("button", name="# general").click()
    expect(page.locator("#title")).to_contain_text("general")
    expect(page.locator("#sidebar")).to_be_hidden()
    send(page, "/mautic new")
    expect(page.locator("[data-view-id]")).to_be_visible()
    fits()
    page.keyboard.press("Escape")
    page.click("#menu")
    page.get_by_role("button", name="# mautic-ops").click()
    card.locator("[data-action-id=approve]").click()
    expect(card).to_contain_text("approve by @ops-lead")


@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_pictures_show_in_channel_and_thread(tabs: Tabs, app: SmallApp, size: tuple[int, int]) -> None:
    page = tabs.open("operator", size)
    ts = post_card(app)
    share = functools.partial(app.bolt.client.files_upload_v2, channel="C0OPS", filename="disk.png", title="Disk")
    shared = share(content=PICTURE, alt_txt="Disk of the fleet", initial_comment="as of today")
    block = {"type": "image", "alt_text": "Again", "slack_file": {"id": shared["files"][0]["id"]}}
    app.bolt.client.chat_postMessage(channel="C0OPS", text="again", blocks=[block])
    share(content=PICTURE, thread_ts=ts)

    def shown(picture: Locator) -> None:
        expect(picture).to_have_js_property("naturalWidth", 1200)
        expect(picture).to_be_in_viewport(ratio=1)
        box = picture.bounding_box()
        assert box
        assert box["height"] == pytest.approx(box["width"] * 900 / 1200, abs=3)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]

    expect(page.locator("#messages [data-ts]", has_text="as of today")).to_contain_text("Disk")
    expect(page.locator("#messages").get_by_alt_text("Disk of the fleet")).to_have_js_property("naturalWidth", 1200)
    shown(page.locator("#messages").get_by_alt_text("Again"))
    page.locator(f"#messages [data-ts='{ts}']").get_by_role("button", name="1 reply").click()
    shown(page.locator("#thread-messages").get_by_alt_text("Disk"))
    with page.expect_popup() as whole:
        page.locator("#thread-messages img").click()
    assert whole.value.url.endswith("/disk.png")


def test_the_page_reconnects_by_itself(tabs: Tabs, workspace: WorkspaceServer) -> None:
    page = tabs.open("operator")
    expect(page.locator("#offline")).to_be_hidden()
    workspace.stop()
    expect(page.locator("#offline")).to_be_visible()
    workspace.start()
    workspace.message("ops-lead", "mautic-ops", "after the restart")
    expect(page.locator("#messages")).to_contain_text("after the restart")
    expect(page.locator("#offline")).to_be_hidden()
