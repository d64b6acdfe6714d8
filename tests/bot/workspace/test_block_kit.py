"""Every limit of messages, modals and Home tabs: the maximum passes, and one more does not."""

from typing import Any

import pytest

from bot.workspace import block_kit
from bot.workspace.errors import SlackError

Json = dict[str, Any]


def plain(length: int) -> Json:
    return {"type": "plain_text", "text": "x" * length}


def mrkdwn(length: int) -> Json:
    return {"type": "mrkdwn", "text": "x" * length}


def section(**content: Any) -> list[Json]:
    return [{"type": "section", **content}]


def actions(*elements: Json) -> list[Json]:
    return [{"type": "actions", "elements": list(elements)}]


def button(**more: Any) -> Json:
    return {"type": "button", "text": plain(5), **more}


def options(count: int, text: int = 5, value: int = 5) -> list[Json]:
    return [{"text": plain(text), "value": "v" * value} for _ in range(count)]


def select(count: int = 2, **more: Any) -> list[Json]:
    return actions({"type": "static_select", "action_id": "a", "options": options(count), **more})


def choices(kind: str, count: int) -> list[Json]:
    return actions({"type": kind, "action_id": "a", "options": options(count)})


def confirm(title: int = 5, text: int = 5, label: int = 5) -> list[Json]:
    return actions(button(confirm={"title": plain(title), "text": mrkdwn(text), "confirm": plain(label)}))


def header(length: int) -> list[Json]:
    return [{"type": "header", "text": plain(length)}]


def context(count: int) -> list[Json]:
    return [{"type": "context", "elements": [mrkdwn(5)] * count}]


def table(rows: int, columns: int) -> list[Json]:
    return [{"type": "table", "rows": [[{"type": "raw_text", "text": "x"}] * columns] * rows}]


MESSAGE_LIMITS = {
    "blocks a message": (lambda n: [{"type": "divider"}] * n, 50),
    "section text": (lambda n: section(text=mrkdwn(n)), 3000),
    "fields": (lambda n: section(fields=[mrkdwn(5)] * n), 10),
    "field text": (lambda n: section(fields=[mrkdwn(n)]), 2000),
    "header": (header, 150),
    "context elements": (context, 10),
    "action elements": (lambda n: actions(*[button()] * n), 25),
    "button text": (lambda n: actions({"type": "button", "text": plain(n)}), 75),
    "button value": (lambda n: actions(button(value="v" * n)), 2000),
    "button url": (lambda n: actions(button(url="u" * n)), 3000),
    "action_id": (lambda n: actions(button(action_id="a" * n)), 255),
    "block_id": (lambda n: section(text=mrkdwn(5), block_id="b" * n), 255),
    "select options": (select, 100),
    "option text": (lambda n: select(2, options=options(2, text=n)), 75),
    "option value": (lambda n: select(2, options=options(2, value=n)), 150),
    "placeholder": (lambda n: select(2, placeholder=plain(n)), 150),
    "checkboxes": (lambda n: choices("checkboxes", n), 10),
    "radio buttons": (lambda n: choices("radio_buttons", n), 10),
    "overflow options": (lambda n: choices("overflow", n), 5),
    "confirm title": (lambda n: confirm(title=n), 100),
    "confirm text": (lambda n: confirm(text=n), 300),
    "confirm button": (lambda n: confirm(label=n), 30),
    "table rows": (lambda n: table(n, 2), 100),
    "table columns": (lambda n: table(2, n), 20),
    "tables a message": (lambda n: table(2, 2) * n, 1),
    "markdown": (lambda n: [{"type": "markdown", "text": "x" * n}], 12_000),
}


@pytest.mark.parametrize("name", MESSAGE_LIMITS)
def test_a_message_may_reach_each_limit_but_not_exceed_it(name: str) -> None:
    blocks, most = MESSAGE_LIMITS[name]
    block_kit.message_blocks(blocks(most))
    with pytest.raises(SlackError) as refused:
        block_kit.message_blocks(blocks(most + 1))
    assert refused.value.code == "invalid_blocks"
    assert "[json-pointer:/blocks" in refused.value.body["response_metadata"]["messages"][0]


REFUSED = {
    "no type": [{"text": mrkdwn(5)}],
    "not an object": ["divider"],
    "unknown type": [{"type": "carousel"}],
    "unknown key": [{"type": "divider", "colour": "red"}],
    "empty text": section(text=mrkdwn(0)),
    "neither text nor fields": section(),
    "no fields": section(fields=[]),
    "text is a string": section(text="hello"),
    "text is null": section(text={"type": "mrkdwn", "text": None}),
    "mrkdwn where plain text is due": [{"type": "header", "text": mrkdwn(5)}],
    "emoji in mrkdwn": section(text={"type": "mrkdwn", "text": "x", "emoji": True}),
    "no elements": actions(),
    "a style of its own": actions(button(style="green")),
    "a number for a value": actions(button(value=7)),
    "same action_id twice": actions(button(action_id="a"), button(action_id="a")),
    "same block_id twice": section(text=mrkdwn(5), block_id="b") * 2,
    "options and groups": select(2, option_groups=[{"label": plain(5), "options": options(1)}]),
    "neither options nor groups": actions({"type": "static_select", "action_id": "a"}),
    "an input as an action": actions({"type": "plain_text_input", "action_id": "a"}),
    "image without alt_text": [{"type": "image", "image_url": "https://local.test/a.png"}],
    "image without picture": [{"type": "image", "alt_text": "a"}],
    "table characters": [
        {"type": "table", "rows": [[{"type": "raw_text", "text": "x" * 5001}] * 2]},
    ],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_message_is_refused(name: str) -> None:
    with pytest.raises(SlackError) as refused:
        block_kit.message_blocks(REFUSED[name])
    assert refused.value.code == "invalid_blocks"


def test_the_blocks_of_a_message_are_limited_in_total() -> None:
    block_kit.message_blocks(section(text=mrkdwn(3000)) * 4)
    with pytest.raises(SlackError, match="msg_blocks_too_long"):
        block_kit.message_blocks(section(text=mrkdwn(3000)) * 5)
    with pytest.raises(SlackError, match="msg_blocks_too_long"):
        block_kit.message_blocks([{"type": "markdown", "text": "x" * 6001}] * 2)
    with pytest.raises(SlackError, match="invalid_blocks"):
        block_kit.message_content({"attachments": [{"blocks": [{"type": "nothing"}]}]})


def modal(**more: Any) -> Json:
    return {"type": "modal", "title": plain(5), "blocks": section(text=mrkdwn(5)), **more}


def home(**more: Any) -> Json:
    return {"type": "home", "blocks": section(text=mrkdwn(5)), **more}


def field(**more: Any) -> list[Json]:
    element = {"type": "plain_text_input", "action_id": "a"}
    return [{"type": "input", "label": plain(5), "element": element, **more}]


VIEW_LIMITS = {
    "blocks a modal": (lambda n: modal(blocks=[{"type": "divider"}] * n), 100),
    "blocks a Home tab": (lambda n: home(blocks=[{"type": "divider"}] * n), 100),
    "title": (lambda n: modal(title=plain(n)), 24),
    "submit": (lambda n: modal(submit=plain(n)), 24),
    "close": (lambda n: modal(close=plain(n)), 24),
    "private_metadata": (lambda n: modal(private_metadata="x" * n), 3000),
    "callback_id": (lambda n: modal(callback_id="x" * n), 255),
    "input label": (lambda n: modal(submit=plain(4), blocks=field(label=plain(n))), 2000),
    "input hint": (lambda n: modal(submit=plain(4), blocks=field(hint=plain(n))), 2000),
    "initial_value": (
        lambda n: modal(
            submit=plain(4),
            blocks=field(element={"type": "plain_text_input", "action_id": "a", "initial_value": "x" * n}),
        ),
        3000,
    ),
}


@pytest.mark.parametrize("name", VIEW_LIMITS)
def test_a_view_may_reach_each_limit_but_not_exceed_it(name: str) -> None:
    view, most = VIEW_LIMITS[name]
    block_kit.view(view(most), "modal", "home")
    with pytest.raises(SlackError) as refused:
        block_kit.view(view(most + 1), "modal", "home")
    assert refused.value.code == "invalid_arguments"
    assert "[json-pointer:/view" in refused.value.body["response_metadata"]["messages"][0]


@pytest.mark.parametrize(
    "view",
    [
        {"type": "modal", "blocks": []},
        modal(type="popup"),
        modal(blocks=field()),  # an input without a submit button
        modal(blocks=[{"type": "markdown", "text": "x"}]),
        home(title=plain(5)),
        home(submit=plain(5)),
        "a string",
    ],
)
def test_a_malformed_view_is_refused(view: Any) -> None:
    with pytest.raises(SlackError, match="invalid_arguments"):
        block_kit.view(view, "modal", "home")


def test_a_view_of_more_than_250_kilobytes_is_refused() -> None:
    with pytest.raises(SlackError, match="view_too_large"):
        block_kit.view(modal(blocks=section(text=mrkdwn(3000)) * 90), "modal")


def test_blocks_and_elements_without_an_id_get_one() -> None:
    named = block_kit.message_blocks(actions(button(), button(action_id="mine")))
    assert named[0]["block_id"]
    assert named[0]["elements"][0]["action_id"]
    assert named[0]["elements"][1]["action_id"] == "mine"
