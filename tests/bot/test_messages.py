"""Messages: whatever people write, Slack accepts the result, and nothing in it becomes a mention or a link."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slack_sdk import WebClient

from bot.edge.probe import Probe
from bot.fleet.bases import Stand
from bot.lxd.protocol import InstanceState
from bot.model.findings import LINES
from bot.model.tenants import Tenant
from bot.model.text import clip, code, escape, line, person, seconds, size, told
from bot.reports.condition import Condition, counted
from bot.settings import load
from bot.slack.announcer import Announcer
from bot.slack.messages import Message, Renderer, modal, section
from bot.store.freezes import Freeze
from bot.store.operation import Decision, Operation, StepRow
from bot.workspace import block_kit
from tests.support.judge import judge, mrkdwn

SETTINGS = load(environment={})
RENDERER = Renderer(notice=":test_tube: Simulated.")
PEOPLE = frozenset({"U0ACCOUNT", "U0OPSLEAD"})
STATES = (
    "awaiting_approval",
    "queued",
    "running",
    "succeeded",
    "failed",
    "needs_attention",
    "denied",
    "expired",
    "cancelled",
)

hostile = st.one_of(
    st.text(max_size=300),
    st.text("<>&!@#|`*_~\n\t -=:Uchanel0\u202e\u200b\x00\\\"'", max_size=80),
    st.sampled_from(
        [
            "<!channel>",
            "<!here|here>",
            "<!everyone>",
            "<@U0VICTIM>",
            "<#C0GENERAL>",
            "<!subteam^S0X>",
            "<http://evil.example|slack.com>",
            "&lt;!channel&gt;",
            "<!date^1^{date}|x>",
            "# <!channel>",
            "~ <!here>",
            "---",
            "`",
            "*",
            "_a",
            "\n\n# big\n",
            "&" * 4000,
            "<" * 4000,
            "`" * 3000,
            "x" * 20_000,
            "a\n" * 5000,
            "",
        ]
    ),
)


def operation(state: str, note: str, step: str, outcome: str, requester: str) -> Operation:
    asked = cast(Any, Operation)(
        **{name: "" for name in Operation.__dataclass_fields__}
        | {
            "id": 7,
            "command": "new",
            "tenant": "client-x",
            "requester": requester,
            "state": state,
            "plan": {
                "summary": "Create tenant client-x",
                "facts": {"Address": "https://client-x.mautic.localhost", "Note": note},
                "reversible": "can be undone with `delete`",
                "seconds": 15,
                "undoable": True,
            },
            "created": 1.8e9,
            "expires": 1.9e9,
            "outcome": outcome,
            "error_id": "0badcafe",
            "ended_by": requester,
            "aftermath": {"left": outcome},
            "steps": (StepRow("Clone", 1.0, 2.0, step), StepRow("Start", 1.0, None, "")),
            "decisions": (
                Decision("U0OPSLEAD", "approve", note, "button", 1.0),
                Decision("U0OPSLEAD", "deny", note, "reply", 1.0),
            ),
        }
    )
    return cast(Operation, asked)


def card(shown: Operation) -> Message:
    ticking = cast(Any, SimpleNamespace(clock=lambda: 0.0, database=SimpleNamespace(read=lambda *_: [])))
    return Announcer(cast(WebClient, None), ticking, RENDERER, SETTINGS).card(shown)


@given(st.sampled_from(STATES), hostile, hostile, hostile)
def test_slack_accepts_any_card_and_it_mentions_nobody_else(state: str, note: str, step: str, outcome: str) -> None:
    judge(card(operation(state, note, step, outcome, "U0ACCOUNT")), PEOPLE)


no_slack_id = hostile.filter(lambda text: not re.fullmatch("[UW][A-Z0-9]+", text))


@given(no_slack_id)
def test_a_requester_that_is_no_slack_id_is_only_text(requester: str) -> None:
    judge(card(operation("awaiting_approval", "", "", "", requester)), PEOPLE)


@given(hostile, no_slack_id)
def test_slack_accepts_any_list_and_status(note: str, word: str) -> None:
    tenant = Tenant(
        "client-x",
        "local",
        "local",
        "client-x",
        "Running",
        "client-x.mautic.localhost",
        "small",
        word,
        "tenant",
        note=note,
    )
    listed = {"silent": {word: note}, "part": word, "tag": word, "page": 1, "pages": 2, "archived": False, "total": 1}
    condition = Condition("degraded", word, word)
    listed |= {"states": counted([condition]), "again": word, "conditions": {tenant.instance: condition}}
    freeze = Freeze(1, "", "U0ACCOUNT", note, 0.0, 0.0, 7200.0)
    listed |= {"frozen": {"": freeze, tenant.name: replace(freeze, tenant=tenant.name)}}
    judge(RENDERER.message("commands/list.j2", tenants=[tenant], url=SETTINGS.edge.url, **listed), PEOPLE)
    shown = RENDERER.message(
        "commands/status.j2",
        condition=condition,
        tenant=tenant,
        state=InstanceState("Running", disk=1, processes=1),
        disk=None,
        known=None,
        snapshots=3,
        held=1 << 30,
        held_allowed=2 << 30,
        probe=Probe(0, False, error=word),
        health={"healthy": False, "checks": {"crons": {"ok": False, "text": note}}, "facts": {"contacts": 1}},
        problem=note,
        frozen=freeze,
        behind=True,
        holes=note,
        base=Stand("bookworm", 1, (word, note), 2),
        lines=LINES,
        url="https://client-x.mautic.localhost",
        last=[operation("failed", note, "", word, "U0ACCOUNT")],
    )
    judge(shown, PEOPLE)


@given(hostile, hostile)
def test_slack_accepts_any_history_and_audit_row(note: str, word: str) -> None:
    shown = [operation("failed", note, "", word, "U0ACCOUNT")]
    judge(RENDERER.message("commands/history.j2", operations=shown, tenant="client-x"), PEOPLE)
    row = {"seq": 1, "at": 1.8e9, "event": "step.finished", "tenant": "client-x", "operation": 7, "actor": word}
    rows = [row | {"detail": {"why": note, "reason": word}}]
    # An actor whose id is that of a person is mentioned.
    judge(RENDERER.message("commands/audit.j2", what="recent", rows=rows), frozenset([word]))


def test_only_a_moment_exactly_as_the_bot_writes_it_is_shown_as_a_date() -> None:
    moment = Renderer().moment(1.8e9)
    assert moment.endswith("|2027-01-15 08:00 UTC>")
    assert told(f"Frozen until {moment}, `x`.", "") == f"Frozen until {moment}, `x`."
    assert line(f"until {moment} *now*") == f"until {moment} \u200b*now\u200b*"
    for other in (moment.replace("{time}", "{time}^https://x.test"), moment.replace("|2027", "|<!here>"), "<!here>"):
        assert "<" not in told(other, "")
        assert "<" not in line(other)


@given(hostile, hostile)
def test_a_refusal_quotes_typed_text_without_activating_it(typed: str, other: str) -> None:
    why = f"There is no plan “{typed[:40]}”; `/mautic help` lists {other}, says <@U0OPSLEAD>."
    judge(RENDERER.say(f":warning: {told(why, typed + other)}"), PEOPLE)


def test_a_mention_by_the_bot_is_active_and_a_typed_one_is_not() -> None:
    assert told("held by <@U0OPSLEAD>", "new client-x") == "held by <@U0OPSLEAD>"
    assert told("no <@U0VICTIM>; ask <@U0OPSLEAD>", "new <@U0VICTIM>") == "no &lt;@U0VICTIM&gt;; ask <@U0OPSLEAD>"


def test_a_thousand_tenants_with_long_notes_stay_within_slacks_limits() -> None:
    tenant = Tenant(
        "client-x", "local", "local", "client-x", "Running", "d" * 250, "small", "5", "tenant", note="<!channel> &" * 20
    )
    tenants = [replace(tenant, name=f"client-{number}") for number in range(1000)]
    listed = {
        "part": "",
        "tag": "",
        "page": 1,
        "pages": 1,
        "archived": False,
        "total": 1000,
        "frozen": {},
        "silent": {},
        "again": "",
    }
    condition = Condition("healthy")
    listed |= {"states": counted([condition] * 1000), "conditions": {tenant.instance: condition}}
    shown = RENDERER.message("commands/list.j2", tenants=tenants, url=SETTINGS.edge.url, **listed)
    judge(shown)
    assert "… cut" in str(shown.blocks), "the message says that something was cut"


@given(st.text(max_size=9000), st.integers(0, 5))
def test_any_words_become_a_valid_message(words: str, lines: int) -> None:
    extra = [section("below")] * lines
    block_kit.message_content(RENDERER.compose(escape(words), extra).arguments())


@given(st.lists(st.text("ab&<*\n", max_size=500), max_size=120))
def test_pages_are_valid_messages_that_together_have_every_line(paragraphs: list[str]) -> None:
    words = escape("\n\n".join(paragraphs))
    pages = Renderer(notice=":test_tube: Simulated.").pages(words)
    for page in pages:
        block_kit.message_content(page.arguments())
    said = [text for page in pages for text in mrkdwn(page.blocks[:-1])]
    assert "".join("".join(said).split()) == ("".join(words.split()) or "…")


def test_the_marks_of_a_template_become_blocks() -> None:
    blocks = Renderer().compose("# Head &amp; heart\nfirst\nsecond\n\n---\n~ small").blocks
    assert [block["type"] for block in blocks] == ["header", "section", "divider", "context"]
    assert blocks[0]["text"] == {"type": "plain_text", "text": "Head & heart"}
    assert blocks[1]["text"]["text"] == "first\nsecond"


def test_a_header_stays_escaped_in_the_notification() -> None:
    assert Renderer().compose("# &lt;!channel&gt;").text == "&lt;!channel&gt;"


@given(hostile, st.integers(10, 60))
def test_a_cut_never_splits_an_entity(text: str, limit: int) -> None:
    cut = clip(escape(text), limit)
    assert len(cut) <= limit
    assert not cut.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "").count("&")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (code("a`b\nc"), "`a'b c`"),
        (code(""), "` `"),
        (line(" a \n b "), "a b"),
        (line("*x* <y>"), "\u200b*x\u200b* &lt;y&gt;"),
        (person("U0OPSLEAD"), "<@U0OPSLEAD>"),
        (person("system"), "system"),
        (person("<!here>"), "&lt;!here&gt;"),
        (size(999), "999 B"),
        (size(1_340_000_000), "1.2 GiB"),
        (size(2e12), "1.8 TiB"),
        (seconds(2.44), "2.4 s"),
        (seconds(15), "15 s"),
        (seconds(600), "10 min"),
        (seconds(3 * 86_400), "3 days"),
    ],
)
def test_values_are_formatted_for_people(shown: str, expected: str) -> None:
    assert shown == expected


@given(hostile, hostile)
def test_slack_accepts_any_modal(title: str, text: str) -> None:
    made = modal("credentials", title or "x", [section(code(text))])
    if title.strip():
        block_kit.view(made.view, "modal")
