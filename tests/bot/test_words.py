"""What people type, and what Slack, phones and the bot's own messages put into it."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.engine.approvals import almost, decision
from bot.model.words import clean, heard, split, typed, without_mailboxes
from bot.slack.messages import Renderer

RENDERER = Renderer()
FILTERS = ("", "|code", "|line", "|sentence", "|block")
UNSEEN = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u2068\u2069"
NAMES = st.text("abcxyz019-_.*~", min_size=1, max_size=30).filter(
    lambda name: name[0].isalnum() and name[-1] not in "`"
)


def shown(name: str, filtered: str) -> str:
    """Return what a person gets who copies a name from a message of the bot."""
    said = RENDERER.environment.from_string(f"{{{{ name{filtered} }}}}").render(name=name)
    message = RENDERER.say(f"It is about {said} today.")
    text = "".join(block["text"]["text"] for block in message.blocks)
    return text.removeprefix("It is about ").removesuffix(" today.").strip()


@given(NAMES, st.sampled_from(FILTERS), st.booleans())
@example("_pre_upgrade_", "|line", True)
@example("a*b*c~d~", "|sentence", False)
def test_a_name_that_is_copied_from_a_message_of_the_bot_is_understood(
    name: str, filtered: str, with_its_marks: bool
) -> None:
    copied = shown(name, filtered)
    if not with_its_marks:
        # Pasted as plain text; with its marks it is code again.
        copied = copied.strip("`").strip()
    assert split(f"snapshots {copied}") == ["snapshots", name]
    assert typed(copied) == name


@given(st.text("abc-", min_size=1, max_size=20), st.data())
def test_invisible_characters_are_no_part_of_a_word(word: str, data: Any) -> None:
    there = "".join(character + data.draw(st.text(UNSEEN, max_size=2)) for character in word)
    for read in (clean, heard, typed):
        assert read(there) == word
    assert split(f"status {there}".replace("-", "\N{NON-BREAKING HYPHEN}")) == ["status", word]


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    assert isinstance(heard(text), str)
    assert isinstance(typed(text), str)
    assert all("\u200b" not in word for word in split(text))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("approve", {"approve": "approve"}),
        ("Approved!!", {"approve": "Approved"}),
        ("\u200bapprove client-x\u200b", {"approve": "approve", "typed": "client-x"}),
        ("approve client\u2011x", {"approve": "approve", "typed": "client-x"}),
        ("`approve client-x`", {"approve": "approve", "typed": "client-x"}),
        ("```\napprove client-x\n```", {"approve": "approve", "typed": "client-x"}),
        ("*approve*", {"approve": "approve"}),
        ("*approve client-x*", {"approve": "approve", "typed": "client-x"}),
        ("_*approve*_ `client-x`", {"approve": "approve", "typed": "client-x"}),
        ("approve\u00a0client-x.", {"approve": "approve", "typed": "client-x"}),
        ("*deny* because it\u2019s _late_ &amp; risky", {"deny": "deny", "reason": "because it\u2019s late & risky"}),
        ("deny: see `a b`", {"deny": "deny", "reason": "see a b"}),
        ("_cancel_", {"cancel": "cancel"}),
    ],
)
def test_a_decision_is_understood_as_it_was_meant(text: str, meant: dict[str, str]) -> None:
    found = decision(text)
    assert found
    assert {name: value for name, value in found.groupdict().items() if value} == meant


@pytest.mark.parametrize(
    "text",
    [
        "~approve~",
        "&gt; approve",
        "approve if it rains",
        "I would approve",
        "don't approve",
        "approval",
        "<@U0OPSLEAD> approve",
        "",
    ],
)
def test_other_talk_is_no_decision(text: str) -> None:
    assert decision(text) is None
    assert not almost(text)


@pytest.mark.parametrize(
    "text",
    [
        "ok",
        "OK!",
        "yes please",
        "lgtm",
        "*lgtm*",
        ":+1:",
        ":thumbsup::skin-tone-3:",
        "\U0001f44d\U0001f3fd",
        "ok\U0001f44d",
        "\u2705",
        "Approve it, please.",
        "approve, thanks",
        "looks good, go ahead",
    ],
)
def test_an_unclear_approval_is_recognised(text: str) -> None:
    assert almost(text)
    assert decision(text) is None


@pytest.mark.parametrize("text", ["approve", "deny", "thanks", "it looks fine", "ok but not today", "yes, ask Tom", ""])
def test_a_decision_or_talk_is_no_unclear_approval(text: str) -> None:
    assert not almost(text)


@pytest.mark.parametrize(
    "text",
    [
        "*_" * 500 + "x" + "_*" * 500 + " _a" * 3000,
        " _a" * 4000,
        "«" + " " * 8000 + "x",
        "approve " + "!" * 12000 + " x",
    ],
)
def test_no_text_takes_long_to_read(text: str) -> None:
    # Text is read before the acknowledgement, whoever wrote it, and no other thread runs meanwhile.
    began = time.thread_time()
    decision(text)
    split(f"list {text}")
    assert time.thread_time() - began < 1.5


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("got 550 for anna.mueller@private-clinic.de (contact 4711)", "got 550 for …@private-clinic.de (contact 4711)"),
        ("To: Anna <Änna+news@x.test>, mailto:o'neil@y.test", "To: Anna <…@x.test>, mailto:…@y.test"),
        ("Duplicate entry 'anna@x.test' for key", "Duplicate entry '…@x.test' for key"),
        ('{"email":"mu\u0308ller@x.test","to":"\\"ben@x.test\\""}', '{"email":"…@x.test","to":"\\"…@x.test\\""}'),
        ("GET https://x.test/p?id=1&email=anna%2Bnews%40x.test&b=2", "GET https://x.test/p?id=1&…%40x.test&b=2"),
        ("bounce+anna=x.test@mail.test from ben@[10.0.0.1]", "…@mail.test from …@[10.0.0.1]"),
        ("PHP Warning: @file_get_contents, 5 @ 3, …@x.test", "PHP Warning: @file_get_contents, 5 @ 3, …@x.test"),
    ],
)
def test_of_an_email_address_only_the_domain_is_left(text: str, left: str) -> None:
    assert without_mailboxes(text) == left


@given(st.text("ab.+'=%40@x<> ", max_size=60))
def test_no_mailbox_is_left(text: str) -> None:
    left = without_mailboxes(text)
    assert without_mailboxes(left) == left
    assert not any(name.strip("'…") for name in re.findall(r"([^\s<>@]+)@(?=\w)", left.replace("%40", "@")))


@pytest.mark.parametrize("text", ["a", "a'", "'", "a%40", "a@", "'a", "=@"])
def test_no_log_takes_long_to_mask(text: str) -> None:
    began = time.thread_time()
    without_mailboxes(text * 50_000)
    assert time.thread_time() - began < 2
