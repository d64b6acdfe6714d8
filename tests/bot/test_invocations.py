"""What a delivery does: commands, buttons, typed replies and submitted windows, and what people are told."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.lxd.protocol import LxdError
from bot.model.actor import Actor
from bot.store import audit
from tests.support.bot import ASKER, LEAD, LEAD_2, OPERATOR, Desk, make_bench, make_desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return make_desk(make_bench(tmp_path))


@pytest.fixture
def asked(desk: Desk) -> Desk:
    """A desk with a request whose card is posted."""
    desk.command("new client-x")
    desk.announce()
    return desk


@pytest.fixture
def two_tenants(desk: Desk) -> Desk:
    desk.bench.done("new client-x")
    desk.bench.done("new client-y")
    return desk


def last_answer(desk: Desk, user: str) -> str:
    return desk.slack.to(user)[-1]


def test_a_command_that_changes_something_becomes_a_request(asked: Desk) -> None:
    assert (asked.last().state, asked.last().requester) == ("awaiting_approval", ASKER.id)
    assert asked.slack.to(ASKER.id) == [], "the card says it all"


def test_a_query_is_answered_to_the_person_who_asked(desk: Desk) -> None:
    desk.command("list")
    assert last_answer(desk, ASKER.id) == "No tenants yet. Create one: `/mautic new`"
    assert desk.bench.context.operations.select("1 = 1") == []


def test_a_refusal_is_explained_and_recorded(desk: Desk) -> None:
    desk.command("nwe <!channel>")
    assert last_answer(desk, ASKER.id) == ":warning: I don't know “nwe”. Did you mean `/mautic new`?"
    row = audit.recent(desk.bench.context.database, limit=1)[0]
    assert (row["event"], row["actor"]) == ("command.refused", ASKER.id)
    assert json.loads(row["detail"])["what"] == "", "there is no such command"


def refused(desk: Desk) -> tuple[str, str, str]:
    """Return what the latest refusal's row records: what was asked for, the tenant, and the reason."""
    row = audit.recent(desk.bench.context.database, limit=1)[0]
    assert row["event"].endswith(".refused")
    detail = json.loads(row["detail"])
    return detail["what"], row["tenant"], detail["why"]


SECRET = "hunter2!"


@pytest.mark.parametrize(
    ("text", "what", "tenant"),
    [
        (f"console client-x mautic:user:create --password={SECRET}", "console mautic:user:create", "client-x"),
        (f"console client-x cache:clear {SECRET}", "console cache:clear", "client-x"),
        (f"console client-x {SECRET}", "console", "client-x"),
        (f"delete client-x --password {SECRET}", "delete", ""),
        (f"{SECRET} client-x", "", ""),
    ],
)
def test_a_refusal_records_only_known_names(two_tenants: Desk, text: str, what: str, tenant: str) -> None:
    two_tenants.command(text, OPERATOR)
    why = "What was typed is unknown, and not kept."
    assert refused(two_tenants) == (what, tenant, why)
    two_tenants.command("audit", OPERATOR)
    assert f"{what} · What was typed" in str(two_tenants.slack.said[-1])


def test_no_refusal_records_what_was_typed(two_tenants: Desk) -> None:
    two_tenants.slack.groups["mautic-operators"] = [LEAD.id]
    for command in two_tenants.bench.context.registry.commands.values():
        options = re.findall(r"\[--([\w-]+)", command.usage)
        for given in (
            *("", "client-x", "1", "client-x client-x", "resume"),
            *(f"client-x --{option}" for option in options),
            *(f"client-x --{option} {SECRET}" for option in options),
            "client-x -p",
        ):
            for text in (f"{command.name} {given} {SECRET}", f"{command.name} {given}={SECRET}", f"{SECRET} {given}"):
                two_tenants.command(text, LEAD)
    two_tenants.submit("command", {"command": "new"}, tenant=f"-x {SECRET}", plan="small")
    two_tenants.submit("command", {"command": "new"}, tenant="client-z", plan=SECRET)
    two_tenants.command("stop client-x", OPERATOR)
    two_tenants.announce()
    for text in (f"<@U0BOT> {SECRET}", f"approve {SECRET}", f"deny {SECRET}"):
        two_tenants.reply(text, two_tenants.last().id, OPERATOR, mention=True)
    rows = two_tenants.bench.context.database.read("SELECT * FROM audit WHERE event LIKE '%.refused'")
    assert len(rows) > 300
    assert [tuple(row) for row in rows if "hunter2" in str(tuple(row)).lower()] == []


def test_a_person_who_may_not_ask_is_told_who_may(desk: Desk) -> None:
    desk.command("delete client-x")
    assert "Ask an operator or an approver" in last_answer(desk, ASKER.id)


WHAT_ROLES_LET_DO = ("approve 1", "deny 1", "audit", "console client-x", "logs client-x", "schedule run x")


@pytest.mark.parametrize("text", WHAT_ROLES_LET_DO)
def test_a_person_who_has_just_lost_a_role_cannot_use_it(
    asked: Desk, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.slack.people.JUST_NOW", 0.0)
    asked.command("list", LEAD)
    asked.slack.groups["mautic-approvers"] = []
    asked.command(text, LEAD)
    assert asked.last().state == "awaiting_approval"
    assert re.search("Only approvers|Ask an operator", last_answer(asked, LEAD.id))


def test_a_person_who_has_just_lost_a_role_cannot_start_what_needs_no_approval(
    asked: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.slack.people.JUST_NOW", 0.0)
    asked.command("list", OPERATOR)
    asked.slack.groups["mautic-operators"] = []
    asked.command("snapshot client-x", OPERATOR)
    assert "Ask an operator" in last_answer(asked, OPERATOR.id)


def test_a_guest_is_turned_away(desk: Desk) -> None:
    desk.slack.people["U0GUEST"] = {"is_restricted": True}
    desk.command("nwe client-x", Actor("U0GUEST", frozenset()))
    assert "Guests" in last_answer(desk, "U0GUEST")


def test_a_refusal_names_the_request_that_locks_the_tenant(asked: Desk) -> None:
    asked.command("new client-x", OPERATOR)
    assert f"locked by request #1 (new) by <@{ASKER.id}>" in last_answer(asked, OPERATOR.id)


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        ("approve", "queued"),
        ("Approved!", "queued"),
        ("approve client-x", "queued"),
        ("<@U0OPSLEAD2> approve", "awaiting_approval"),
        ("deny", "denied"),
        ("deny because of the budget", "denied"),
        ("approve if it rains", "awaiting_approval"),
        ("approve client-y", "awaiting_approval"),
        ("approve of this plan I do not", "awaiting_approval"),
        ("cancel that meeting", "awaiting_approval"),
        ("I would approve", "awaiting_approval"),
        ("approves", "awaiting_approval"),
        ("looks good", "awaiting_approval"),
    ],
)
def test_only_exact_words_in_the_thread_decide(asked: Desk, reply: str, state: str) -> None:
    asked.reply(reply, 1)
    assert asked.last().state == state


def test_a_reason_in_a_reply_is_kept_as_typed_and_escaped_when_shown(asked: Desk) -> None:
    asked.reply("deny because of R&amp;D &lt;3 <!channel>", 1)
    assert asked.last().decisions[0].reason == "of R&D <3 <!channel>"
    asked.announce()
    assert "&lt;!channel&gt;" in asked.slack.said[-1]["text"]


def test_the_requester_can_withdraw_with_a_reply(asked: Desk) -> None:
    asked.reply("cancel", 1, ASKER)
    assert asked.last().state == "cancelled"


def test_a_reply_of_somebody_who_may_not_decide_is_refused_in_the_thread(asked: Desk) -> None:
    asked.reply("approve", 1, OPERATOR)
    assert asked.last().state == "awaiting_approval"
    assert asked.slack.said[-1]["thread_ts"] == asked.last().message_ts
    assert "Only approvers can decide" in last_answer(asked, OPERATOR.id)


def card_before_slacks_answer(desk: Desk) -> dict[str, Any]:
    """Return a request's card that Slack has posted, but whose ts the bot does not know yet."""
    desk.command("new client-x")
    desk.announce()
    with desk.bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET message_ts = ''")
    return next(one for one in reversed(desk.slack.said) if not one.get("thread_ts"))


def test_a_reply_that_is_faster_than_slacks_answer_to_the_card_counts(desk: Desk) -> None:
    desk.reply("approve", thread_ts=card_before_slacks_answer(desk)["ts"])
    assert desk.last().state == "queued"


def test_a_reply_whose_card_cannot_be_looked_up_has_to_be_repeated(desk: Desk) -> None:
    card = card_before_slacks_answer(desk)
    desk.slack.fail("conversations.replies", "fatal_error")
    desk.reply("approve", thread_ts=card["ts"])
    assert desk.last().state == "awaiting_approval"
    assert "Reply once more" in last_answer(desk, LEAD.id)


@pytest.mark.parametrize("forged", [{"user": "U0OTHERAPP"}, {"metadata": None}, {"metadata": {"event_type": "other"}}])
def test_a_reply_to_a_message_that_is_not_our_card_decides_nothing(desk: Desk, forged: dict[str, Any]) -> None:
    card = card_before_slacks_answer(desk)
    card.update(forged)
    desk.reply("approve", thread_ts=card["ts"])
    assert desk.last().state == "awaiting_approval"


def test_other_messages_in_the_thread_are_ignored_but_a_mention_is_answered(asked: Desk) -> None:
    before = len(asked.slack.said)
    asked.reply("who is this for?", 1)
    assert len(asked.slack.said) == before
    asked.reply("<@U0BOT> who is this for?", 1, mention=True)
    assert "reply `approve`" in last_answer(asked, LEAD.id)


@pytest.mark.parametrize("text", ["ok", "lgtm", ":+1:", "approve it please"])
def test_an_approver_is_told_that_an_unclear_reply_does_not_count(asked: Desk, text: str) -> None:
    asked.reply(text, 1)
    assert asked.last().state == "awaiting_approval"
    told = ":warning: I didn't count that as an approval. Tap Approve, or reply exactly `approve`."
    assert asked.slack.to(LEAD.id) == [told]
    for actor in (ASKER, OPERATOR):
        asked.reply(text, 1, actor)
        assert asked.slack.to(actor.id) == [], "people who cannot approve are only talking"
    asked.reply("approve", 1)
    asked.reply(text, 1)
    assert asked.slack.to(LEAD.id) == [told], "it is approved by then"


def test_the_hint_includes_the_tenants_name_where_it_has_to_be_typed(asked: Desk) -> None:
    asked.reply("deny", 1)
    asked.bench.done("new client-y")
    asked.command("delete client-y", OPERATOR)
    asked.announce()
    asked.reply("yes", asked.last().id)
    assert "reply exactly `approve client-y`" in last_answer(asked, LEAD.id)


def test_a_click_decides_and_a_second_one_is_refused(asked: Desk) -> None:
    asked.click("approve", 1)
    assert asked.last().state == "queued"
    asked.click("deny", 1)
    assert last_answer(asked, LEAD.id) == f":warning: Request #1 is queued (approved by <@{LEAD.id}>)."


def test_a_dangerous_approval_opens_a_window_for_the_name(asked: Desk) -> None:
    asked.click("approve", 1)
    asked.bench.finish()
    asked.command("delete client-x", OPERATOR)
    asked.click("approve", 2)
    assert asked.slack.views[-1]["callback_id"] == "typed_name"
    asked.submit("typed_name", json.loads(asked.slack.views[-1]["private_metadata"]), LEAD, name="client-y")
    assert "add the tenant name" in last_answer(asked, LEAD.id), (
        "the person is told, though a window has no response_url"
    )
    asked.submit("typed_name", json.loads(asked.slack.views[-1]["private_metadata"]), LEAD, name="client-x")
    assert asked.last().state == "queued"


def after_a_lost_database(desk: Desk, folder: Path, later: float = 3600) -> Desk:
    """Return a desk with the same Slack and servers and a new database, whose next operation is number 3 again."""
    again = make_desk(make_bench(folder / "new", desk.bench.lxd, slack=desk.slack))
    again.bench.clock.move(later)
    again.bench.context.operations.number_after(2)
    return again


@pytest.mark.parametrize(
    ("later", "since"), [(0, "suspend client-y"), (3600, "stop client-x")], ids=["clock set back", "same request"]
)
@pytest.mark.parametrize("home", [False, True])
def test_a_card_does_not_decide_another_request_with_the_same_number(
    two_tenants: Desk, tmp_path: Path, later: float, since: str, home: bool
) -> None:
    two_tenants.command("stop client-x", OPERATOR)
    two_tenants.announce()
    approve, deny = two_tenants.announcer.card(two_tenants.last()).blocks[-2]["elements"]
    again = after_a_lost_database(two_tenants, tmp_path, later)
    again.command(since, OPERATOR)
    assert again.last().id == 3
    for button in (approve, deny, approve | {"action_id": "retry"}, approve | {"value": "3"}):
        again.click(button["action_id"], button["value"], home=home)
        assert again.last().state == "awaiting_approval"
    told = again.slack.views[-1]["blocks"][0]["text"]["text"] if home else last_answer(again, LEAD.id)
    command, tenant = since.split()
    assert f"This card belongs to another request. #3 is now `{command}` of `{tenant}`" in told
    again.announce()
    again.reply("approve", thread_ts=two_tenants.last().message_ts)
    assert again.last().state == "awaiting_approval", "a reply in its thread does not decide either"


def test_a_reply_to_a_card_does_not_decide_another_request_that_has_no_card_yet(
    two_tenants: Desk, tmp_path: Path
) -> None:
    two_tenants.command("stop client-x", OPERATOR)
    two_tenants.announce()
    again = after_a_lost_database(two_tenants, tmp_path)
    again.command("suspend client-y", OPERATOR)
    again.reply("approve", thread_ts=two_tenants.last().message_ts)
    assert again.last().state == "awaiting_approval"


def test_a_typed_name_does_not_approve_another_request_with_the_same_number(two_tenants: Desk, tmp_path: Path) -> None:
    two_tenants.command("delete client-x", OPERATOR)
    two_tenants.click("approve", 3)
    window = json.loads(two_tenants.slack.views[-1]["private_metadata"])
    again = after_a_lost_database(two_tenants, tmp_path)
    again.command("delete client-x", OPERATOR)
    again.submit("typed_name", window, LEAD, name="client-x")
    assert again.last().state == "awaiting_approval"
    assert "This card belongs to another request" in last_answer(again, LEAD.id)


def test_a_person_who_may_not_decide_gets_no_window(asked: Desk) -> None:
    asked.click("approve", 1, OPERATOR)
    assert asked.slack.views == []
    assert "Only approvers" in last_answer(asked, OPERATOR.id)


def test_only_the_requester_and_approvers_can_retry(asked: Desk) -> None:
    asked.bench.lxd.fail_next("start", OSError("broken"))
    asked.click("approve", 1)
    asked.bench.finish()
    asked.click("retry", 1, OPERATOR)
    assert f"Only <@{ASKER.id}> or an approver" in last_answer(asked, OPERATOR.id)
    asked.click("retry", 1, ASKER)
    asked.bench.finish()
    assert asked.last().state == "succeeded"


def test_a_person_who_retries_must_still_be_allowed_to_ask(asked: Desk) -> None:
    asked.click("approve", 1)
    asked.bench.finish()
    asked.command("delete client-x", OPERATOR)
    asked.bench.approve(asked.last())
    # Both the clean stop and the forced one fail.
    asked.bench.lxd.fail_next("stop", LxdError("broken"), times=2)
    asked.bench.finish()
    asked.slack.groups["mautic-operators"] = []
    asked.invocations.people.forget()
    asked.click("retry", 2, OPERATOR)
    assert "Ask an operator or an approver" in last_answer(asked, OPERATOR.id)
    assert asked.last().state == "failed"


def test_a_retry_is_refused_when_the_approval_is_older_than_24_hours(asked: Desk) -> None:
    asked.bench.lxd.fail_next("start", LxdError("broken"))
    asked.click("approve", 1)
    asked.bench.finish()
    asked.bench.clock.move(24 * 3600)
    asked.click("retry", 1)
    told = last_answer(asked, LEAD.id)
    assert "This approval is older than 24 h. Please request it again: `/mautic new client-x " in told
    assert asked.last().state == "failed"


def test_an_operation_left_half_done_can_be_retried_at_any_time(asked: Desk) -> None:
    asked.bench.lxd.fail_next("start", LxdError("broken"))
    asked.bench.lxd.fail_next("delete", LxdError("broken"))
    asked.click("approve", 1)
    asked.bench.finish()
    assert asked.last().state == "needs_attention"
    asked.bench.clock.move(90 * 24 * 3600)
    asked.click("retry", 1)
    asked.bench.finish()
    assert asked.last().state == "succeeded"


def test_the_form_of_new_creates_a_request(desk: Desk) -> None:
    desk.command("new")
    metadata = json.loads(desk.slack.views[-1]["private_metadata"])
    note = 'it\'s "R&D" <3 `x` \\ — it --really is'
    desk.submit("command", metadata, tenant="Client-X", plan="medium", domain=None, note=note)
    assert desk.last().arguments["plan"] == "medium"
    assert desk.last().arguments["note"] == note.replace("`", "'")


@pytest.mark.parametrize(
    "typed", ["client-x\u200b", "client\u2011x", "`client-x`", "*client-x*", "\u2068client-x\u2069"]
)
def test_a_name_that_was_pasted_into_a_window_is_understood(desk: Desk, typed: str) -> None:
    desk.submit("command", {"command": "new"}, tenant=typed, plan="small")
    assert desk.last().tenant == "client-x"
    desk.bench.approve(desk.last())
    desk.bench.finish()
    desk.command("delete client-x", OPERATOR)
    desk.click("approve", 2)
    desk.submit("typed_name", json.loads(desk.slack.views[-1]["private_metadata"]), LEAD, name=typed)
    assert desk.last().state == "queued"


def test_an_edited_reply_decides_nothing_and_the_person_is_told(asked: Desk) -> None:
    asked.reply("approve", edited=True)
    assert asked.last().state == "awaiting_approval"
    assert "An edited message does not count as a decision" in last_answer(asked, LEAD.id)
    asked.reply("approve")
    assert asked.last().state == "queued"
    told = len(asked.slack.to(LEAD.id))
    asked.reply("approve", edited=True)
    assert len(asked.slack.to(LEAD.id)) == told


def test_a_wrong_name_in_a_form_is_reported_without_a_response_url(desk: Desk) -> None:
    desk.submit("command", {"command": "new"}, tenant="-x --plan", plan="small")
    assert "can't be a tenant name" in last_answer(desk, ASKER.id) or "Usage" in last_answer(desk, ASKER.id)
    desk.submit("command", {"command": "new"}, tenant=None, plan="small")
    assert "An argument is missing" in last_answer(desk, ASKER.id)


def test_a_refusal_reaches_the_person_in_a_channel_without_the_bot(desk: Desk) -> None:
    desk.slack.closed.add("C0ELSEWHERE")
    desk.command("nwe", channel="C0ELSEWHERE")
    assert "Did you mean" in last_answer(desk, ASKER.id)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("action", {"action_id": "approve", "value": "no number"}),
        ("action", {"action_id": "no_such_button", "value": "1"}),
        ("action", {"action_id": "approve", "value": "99"}),
        ("action", {"action_id": "retry", "value": ""}),
        ("submission", {"callback_id": "command", "metadata": {"command": "gone"}, "values": {}}),
        ("submission", {"callback_id": "command", "metadata": {"command": "new"}, "values": {"no_field": "x"}}),
        ("submission", {"callback_id": "typed_name", "metadata": {}, "values": {}}),
        ("reply", {"text": "approve", "thread_ts": "1.2", "mention": True}),
        ("command", {"text": "\x00\ud800"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_strange_payload_is_answered_and_breaks_nothing(desk: Desk, kind: str, payload: dict[str, Any]) -> None:
    whole = {"user": LEAD.id, "team": "T0OURS", "channel": "C0OPS", "trigger_id": "1.2", "surprise": {"a": 1}}
    desk.invocations.handle(kind, "key", whole | payload)
    verdict = audit.verify(desk.bench.context.database)
    assert not verdict.broken
    if payload.get("action_id") != "no_such_button":
        assert last_answer(desk, LEAD.id).startswith(":warning: ")
        assert verdict.rows == 1, "the refusal is recorded"


def test_a_delivery_without_a_person_is_only_logged(desk: Desk) -> None:
    desk.invocations.handle("command", "key", {"text": "list"})
    assert desk.slack.said == []


def decided(desk: Desk, **changes: Any) -> None:
    """Change who has the role `approver`."""
    settings = desk.bench.context.settings
    role = replace(settings.roles["approver"], users=[], groups=[])
    desk.invocations.people.settings = replace(
        settings, roles=dict(settings.roles) | {"approver": replace(role, **changes)}
    )
    desk.invocations.people.forget()


def bells(desk: Desk) -> list[str]:
    return [one["text"] for one in desk.slack.said if "please approve or deny this request" in one["text"]]


def test_approvers_are_mentioned_once_in_the_thread_of_a_request(asked: Desk) -> None:
    asked.announce()
    assert bells(asked) == [":bell: <!subteam^S0MAUTICAPPROVERS>, please approve or deny this request."]
    (bell,) = [one for one in asked.slack.said if one["text"] in bells(asked)]
    assert bell["thread_ts"] == asked.last().message_ts


@pytest.mark.parametrize(
    ("approver", "mentioned"),
    [
        ({"users": [LEAD.id, OPERATOR.id]}, f"<@{OPERATOR.id}>"),
        ({"groups": ["mautic-approvers"]}, f"<@{LEAD_2.id}>"),
        ({"groups": ["mautic-approvers", "mautic-operators"]}, f"<!subteam^S0MAUTICOPERATORS> <@{LEAD_2.id}>"),
        ({"groups": ["mautic-operators"], "users": [OPERATOR.id]}, "<!subteam^S0MAUTICOPERATORS>"),
    ],
)
def test_the_requester_is_not_mentioned_and_nobody_is_mentioned_twice(
    desk: Desk, approver: dict[str, Any], mentioned: str
) -> None:
    decided(desk, **approver)
    desk.command("new client-x", LEAD)
    desk.announce()
    assert bells(desk) == [f":bell: {mentioned}, please approve or deny this request."]


def test_approvers_of_a_request_in_a_direct_message_are_mentioned_in_the_channel(tmp_path: Path) -> None:
    desk = make_desk(make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0MAIN"))
    desk.command("new client-x", channel="D0ASKER")
    desk.announce()
    card, bell = desk.slack.said
    assert (card["channel"], bell["channel"], bell.get("thread_ts")) == ("D0ASKER", "C0MAIN", None)
    assert bell["text"] == (
        ":bell: <!subteam^S0MAUTICAPPROVERS>, please approve or deny this request. <@U0ACCOUNT> requested in a direct "
        "message: *Create tenant client-x*. Decide in my Home tab, or with `/mautic approve 1` or "
        "`/mautic deny 1 &lt;reason&gt;`."
    )
    desk.announce()
    assert len(desk.slack.said) == 2


def test_where_everybody_can_approve_nobody_is_mentioned(desk: Desk) -> None:
    decided(desk, everyone=True)
    desk.command("new client-x")
    desk.announce()
    assert desk.last().state == "awaiting_approval"
    assert bells(desk) == []


def test_nobody_is_mentioned_if_a_request_is_decided_before_its_card_is_posted(desk: Desk) -> None:
    desk.command("new client-x")
    desk.slack.fail("chat.postMessage", "fatal_error")
    desk.announce()
    desk.bench.approve(desk.last())
    desk.announcer._waiting.clear()
    desk.announce()
    assert bells(desk) == []


def test_a_mention_whose_answer_was_lost_is_not_repeated(desk: Desk) -> None:
    real = desk.slack.chat_postMessage

    def lost(**message: Any) -> Any:
        answer = real(**message)
        if message.get("thread_ts"):
            raise TimeoutError
        return answer

    desk.command("new client-x")
    desk.slack.chat_postMessage = lost  # type: ignore[method-assign]
    desk.announce()
    desk.slack.chat_postMessage = real  # type: ignore[method-assign]
    make_desk(desk.bench, desk.slack).announce()
    assert len(bells(desk)) == 1


def test_nobody_is_mentioned_for_a_request_that_needs_no_approval(desk: Desk) -> None:
    desk.bench.done("new client-x")
    desk.command("snapshot client-x", OPERATOR)
    desk.announce()
    assert desk.last().state == "queued"
    assert bells(desk) == []


@pytest.mark.parametrize(
    ("approver", "why"),
    [
        ({}, r"`new` needs 1 approval, but nobody other than <@U0OPSLEAD> can approve\. Add people"),
        ({"users": [LEAD.id]}, r"nobody other than <@U0OPSLEAD> can approve\. Add"),
        (
            {"groups": ["nobody-has-it"]},
            r"I can't read the user group `@nobody-has-it`: Slack has no user group with",
        ),
        ({"groups": ["S0GONE"]}, r"I can't read the user group `S0GONE`: Slack has no such user group"),
        ({"groups": ["empty"]}, r"the user group `@empty` has no members"),
        ({"users": ["U0GUEST"]}, r"<@U0GUEST> is a guest, a bot, deactivated, or from another organisation"),
    ],
)
def test_a_request_that_nobody_could_approve_is_refused_at_once(desk: Desk, approver: dict[str, Any], why: str) -> None:
    desk.slack.groups["empty"] = []
    desk.slack.people["U0GUEST"] = {"is_restricted": True}
    decided(desk, **approver)
    desk.command("new client-x", LEAD)
    assert re.search(why, last_answer(desk, LEAD.id))
    assert desk.bench.context.operations.select("1 = 1") == []
    desk.command("new", LEAD)
    assert desk.slack.views == [], "no form for a request that nobody could approve"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        ("plan_upgrade_required", "this Slack plan has no user groups"),
        ("missing_scope", "the Slack app lacks the scope `usergroups:read`"),
    ],
)
def test_a_refusal_says_why_a_group_cannot_be_read(desk: Desk, error: str, why: str) -> None:
    desk.slack.fail("usergroups.list", error, times=9)
    desk.command("new client-x")
    assert why in last_answer(desk, ASKER.id)


def test_two_approvals_take_two_people_besides_the_requester(desk: Desk) -> None:
    settings = desk.bench.context.settings
    policies = dict(settings.policies)
    policies["new"] = replace(policies["new"], approvals=2)
    desk.invocations.people.settings = replace(settings, policies=policies)
    desk.command("new client-x", LEAD)
    assert "`new` needs 2 approvals, but apart from <@U0OPSLEAD> only <@U0OPSLEAD2> can" in last_answer(desk, LEAD.id)
    desk.command("new client-x")
    assert desk.last().state == "awaiting_approval"


def test_a_request_is_accepted_if_slack_does_not_say_who_could_approve(desk: Desk) -> None:
    desk.invocations.people._roles = lambda user, fresh: frozenset(["requester"])  # type: ignore[method-assign]
    desk.slack.fail("usergroups.list", "ratelimited", times=9)
    desk.command("new client-x")
    assert desk.last().state == "awaiting_approval"


def test_a_window_does_not_wait_for_the_check_of_who_could_approve(desk: Desk) -> None:
    # Slack allows three seconds for opening it, and there are many approvers to look up.
    many = [f"U0LEAD{number}" for number in range(9)]
    desk.slack.groups["mautic-approvers"] = [LEAD.id, *many]
    desk.invocations.people.forget()
    desk.slack.calls.clear()
    before: list[int] = []
    opened = desk.slack.views_open
    desk.slack.views_open = lambda **view: before.append(desk.slack.calls.total()) or opened(**view)  # type: ignore
    desk.command("new", LEAD)
    assert before[0] <= 6
    desk.invocations.people.forget()
    desk.command("new client-x", LEAD)
    assert desk.slack.calls["users.info"] > 9


def test_the_number_of_waiting_requests_of_one_person_is_limited(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.store.operations.OF_ONE", 3)
    for number in range(5):
        desk.command(f"new client-{number}")
    assert len(desk.bench.context.operations.select("state = 'awaiting_approval'")) == 3
    assert "3 of your requests already wait for approval" in last_answer(desk, ASKER.id)
    desk.command("new theirs", OPERATOR)
    assert desk.last().tenant == "theirs"
    desk.command("cancel 1")
    desk.command("new client-4")
    assert desk.last().tenant == "client-4"
