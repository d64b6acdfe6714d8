"""Refuses the blocks, messages and views that Slack refuses."""

import copy
import json
import secrets
from collections.abc import Iterator
from typing import Any

from bot.workspace.checks import Check, anything, array, boolean, by_type, error, integer, one_of, record, string, text
from bot.workspace.errors import SlackError
from bot.workspace.people import Json

MESSAGE_BLOCKS, VIEW_BLOCKS = 50, 100
TEXT_CUT = 40_000
UPDATE_TEXT = 4_000
BLOCKS_CHARACTERS = 13_200
MARKDOWN_CHARACTERS = 12_000
TABLE_CHARACTERS = 10_000
VIEW_BYTES = 250_000
ATTACHMENTS = 100


def _typed(required: dict[str, Check], optional: dict[str, Check]) -> Check:
    return record({"type": anything, **required}, optional)


# Composition objects

_NAME = string(255, 1)
_CONFIRM = record(
    {"title": text(100, "plain_text"), "text": text(300)},
    {"confirm": text(30, "plain_text"), "deny": text(30, "plain_text"), "style": one_of("primary", "danger")},
)


def _option(*kinds: str, links: bool = False) -> Check:
    required = {"text": text(75, *kinds), "value": string(150)}
    optional: dict[str, Check] = {"description": text(75, *kinds)}
    return record(required, optional | ({"url": string(3000)} if links else {}))


_PLAIN_OPTION = _option("plain_text")
_RICH_OPTION = _option("plain_text", "mrkdwn")
_OPTION_GROUP = record({"label": text(75, "plain_text"), "options": array(_PLAIN_OPTION, 100)}, {})
_FILTER = record(
    {},
    {
        "include": array(one_of("im", "mpim", "private", "public"), 4),
        "exclude_external_shared_channels": boolean,
        "exclude_bot_users": boolean,
    },
)

# Elements

_PLACEHOLDER = text(150, "plain_text")
_ACTION: dict[str, Check] = {"action_id": _NAME, "confirm": _CONFIRM, "focus_on_load": boolean}
_PICK = _ACTION | {"placeholder": _PLACEHOLDER}
_MANY = _PICK | {"max_selected_items": integer(1, 100)}
_IDS = array(string(255, 1), 100, 0)
_STATIC: dict[str, Check] = {
    "options": array(_PLAIN_OPTION, 100),
    "option_groups": array(_OPTION_GROUP, 100),
}
_CONVERSATIONS: dict[str, Check] = {"default_to_current_conversation": boolean, "filter": _FILTER}
_TYPING: dict[str, Check] = {
    "action_id": _NAME,
    "focus_on_load": boolean,
    "placeholder": _PLACEHOLDER,
    "dispatch_action_config": record(
        {},
        {"trigger_actions_on": array(one_of("on_enter_pressed", "on_character_entered"), 2)},
    ),
}
_IMAGE = _typed(
    {"alt_text": string(2000)}, {"image_url": string(3000, 1), "slack_file": record({}, {"id": _NAME, "url": _NAME})}
)


def _static_select(required: dict[str, Check], optional: dict[str, Check]) -> Check:
    fields = _typed(required, optional | _STATIC)

    def check(value: Any, at: str) -> Iterator[str]:
        yield from fields(value, at)
        if ("options" in value) == ("option_groups" in value):
            yield error("must provide either options or option_groups", at)

    return check


_BUTTON = _typed(
    {"text": text(75, "plain_text")},
    {
        "action_id": _NAME,
        "url": string(3000),
        "value": string(2000),
        "style": one_of("primary", "danger"),
        "confirm": _CONFIRM,
        "accessibility_label": string(75),
    },
)
_PICKERS: dict[str, Check] = {
    "static_select": _static_select({}, _PICK | {"initial_option": _PLAIN_OPTION}),
    "external_select": _typed({}, _PICK | {"initial_option": _PLAIN_OPTION, "min_query_length": integer(0, 300)}),
    "users_select": _typed({}, _PICK | {"initial_user": _NAME}),
    "channels_select": _typed({}, _PICK | {"initial_channel": _NAME, "response_url_enabled": boolean}),
    "conversations_select": _typed(
        {}, _PICK | _CONVERSATIONS | {"initial_conversation": _NAME, "response_url_enabled": boolean}
    ),
    "radio_buttons": _typed({"options": array(_RICH_OPTION, 10)}, _ACTION | {"initial_option": _RICH_OPTION}),
    "checkboxes": _typed({"options": array(_RICH_OPTION, 10)}, _ACTION | {"initial_options": array(_RICH_OPTION, 10)}),
    "datepicker": _typed({}, _PICK | {"initial_date": string(10, 10)}),
    "timepicker": _typed({}, _PICK | {"initial_time": string(5, 5), "timezone": _NAME}),
    "datetimepicker": _typed({}, _ACTION | {"initial_date_time": integer(1_000_000_000, 9_999_999_999)}),
}
_MULTI: dict[str, Check] = {
    "multi_static_select": _static_select({}, _MANY | {"initial_options": array(_PLAIN_OPTION, 100)}),
    "multi_external_select": _typed(
        {}, _MANY | {"initial_options": array(_PLAIN_OPTION, 100), "min_query_length": integer(0, 300)}
    ),
    "multi_users_select": _typed({}, _MANY | {"initial_users": _IDS}),
    "multi_channels_select": _typed({}, _MANY | {"initial_channels": _IDS}),
    "multi_conversations_select": _typed({}, _MANY | _CONVERSATIONS | {"initial_conversations": _IDS}),
}
_OVERFLOW = _typed({"options": array(_option("plain_text", links=True), 5)}, {"action_id": _NAME, "confirm": _CONFIRM})
_INPUTS: dict[str, Check] = {
    "plain_text_input": _typed(
        {},
        _TYPING
        | {
            "initial_value": string(3000),
            "multiline": boolean,
            "min_length": integer(0, 3000),
            "max_length": integer(1, 3000),
        },
    ),
    "email_text_input": _typed({}, _TYPING | {"initial_value": string(3000)}),
    "url_text_input": _typed({}, _TYPING | {"initial_value": string(3000)}),
    "number_input": _typed(
        {"is_decimal_allowed": boolean},
        _TYPING | {"initial_value": string(3000), "min_value": string(100), "max_value": string(100)},
    ),
    "file_input": _typed({}, {"action_id": _NAME, "filetypes": array(string(20), 100), "max_files": integer(1, 10)}),
    "rich_text_input": _typed({}, _TYPING | {"initial_value": anything}),
}

# Blocks

_ID: dict[str, Check] = {"block_id": string(255)}
_IN_ACTIONS: dict[str, Check] = {"button": _BUTTON, "overflow": _OVERFLOW, **_PICKERS, **_MULTI}
_SECTION = _typed(
    {},
    _ID
    | {
        "text": text(3000),
        "fields": array(text(2000), 10),
        "accessory": by_type({"image": _IMAGE, **_IN_ACTIONS}),
        "expand": boolean,
    },
)


def _section(value: Any, at: str) -> Iterator[str]:
    yield from _SECTION(value, at)
    if "text" not in value and "fields" not in value:
        yield error("must provide either text or fields", at)


_RICH_PARTS = (
    "rich_text_section",
    "rich_text_list",
    "rich_text_preformatted",
    "rich_text_quote",
)
_RICH_TEXT = _typed({"elements": array(by_type(dict.fromkeys(_RICH_PARTS, anything)), 1000)}, _ID)
_IMAGE_BLOCK = _typed(
    {"alt_text": string(2000)},
    _ID
    | {
        "image_url": string(3000, 1),
        "title": text(2000, "plain_text"),
        "slack_file": record({}, {"id": _NAME, "url": _NAME}),
    },
)
_BLOCKS: dict[str, Check] = {
    "section": _section,
    "header": _typed({"text": text(150, "plain_text")}, _ID),
    "divider": _typed({}, _ID),
    "image": _IMAGE_BLOCK,
    "context": _typed(
        {"elements": array(by_type({"image": _IMAGE, "mrkdwn": text(2000), "plain_text": text(2000)}), 10)},
        _ID,
    ),
    "actions": _typed({"elements": array(by_type(_IN_ACTIONS), 25)}, _ID),
    "input": _typed(
        {"label": text(2000, "plain_text"), "element": by_type({**_PICKERS, **_MULTI, **_INPUTS})},
        _ID | {"hint": text(2000, "plain_text"), "optional": boolean, "dispatch_action": boolean},
    ),
    "rich_text": _RICH_TEXT,
}
_CELL = by_type({"raw_text": _typed({"text": string(TABLE_CHARACTERS)}, {}), "rich_text": _RICH_TEXT})
_MESSAGE_ONLY: dict[str, Check] = {
    "markdown": _typed({"text": string(MARKDOWN_CHARACTERS, 1)}, _ID),
    "table": _typed(
        {"rows": array(array(_CELL, 20), 100)},
        _ID
        | {
            "column_settings": array(
                record({}, {"align": one_of("left", "center", "right"), "is_wrapped": boolean}), 20
            )
        },
    ),
    "file": _typed({"external_id": _NAME, "source": one_of("remote")}, _ID),
}
_IN_MESSAGES = array(by_type(_BLOCKS | _MESSAGE_ONLY), MESSAGE_BLOCKS, 0)
_IN_VIEWS = array(by_type(_BLOCKS), VIEW_BLOCKS, 0)
_VIEWS: dict[str, Check] = {
    "modal": _typed(
        {"title": text(24, "plain_text"), "blocks": _IN_VIEWS},
        {
            "submit": text(24, "plain_text"),
            "close": text(24, "plain_text"),
            "private_metadata": string(3000),
            "callback_id": string(255),
            "external_id": string(255),
            "clear_on_close": boolean,
            "notify_on_close": boolean,
            "submit_disabled": boolean,
        },
    ),
    "home": _typed(
        {"blocks": _IN_VIEWS},
        {"private_metadata": string(3000), "callback_id": string(255), "external_id": string(255)},
    ),
}


def _cross_block_errors(blocks: list[Json], at: str) -> Iterator[str]:
    """Yield errors that concern several blocks: repeated block_ids, repeated action_ids in a block, a second table.

    Also an image block without a source.
    """
    seen: set[str] = set()
    for number, block in enumerate(blocks):
        block_id = block.get("block_id")
        if block_id and block_id in seen:
            yield error(f"`block_id` {block_id} already exists", f"{at}/{number}/block_id")
        seen.add(block_id or "")
        actions: set[str] = set()
        for element in block.get("elements", []) if block["type"] == "actions" else []:
            if element.get("action_id") in actions:
                yield error(f"`action_id` {element['action_id']} already exists", f"{at}/{number}")
            actions |= {element["action_id"]} if "action_id" in element else set()
        if block["type"] == "image" and not ("image_url" in block or "slack_file" in block):
            yield error("must provide image_url or slack_file", f"{at}/{number}")
    if sum(block["type"] == "table" for block in blocks) > 1:
        yield error("only one table block is allowed", at)


def _characters(value: Any) -> int:
    """Return the number of characters of all visible text in blocks."""
    if isinstance(value, dict):
        own = len(value["text"]) if isinstance(value.get("text"), str) else 0
        return own + sum(_characters(one) for one in value.values() if not isinstance(one, str))
    return sum(_characters(one) for one in value) if isinstance(value, list) else 0


def _check_blocks(blocks: Any, check: Check, at: str) -> list[str]:
    if not isinstance(blocks, list):
        raise SlackError("invalid_blocks_format")
    return list(check(blocks, at)) or list(_cross_block_errors(blocks, at))


def message_blocks(blocks: Any, at: str = "/blocks") -> list[Json]:
    """Return the checked blocks, each with a block_id; raise SlackError `invalid_blocks`, `msg_blocks_too_long` etc."""
    errors = _check_blocks(blocks, _IN_MESSAGES, at)
    if not errors:
        total = {kind: _characters([b for b in blocks if b["type"] == kind]) for kind in ("markdown", "table")}
        if total["markdown"] > MARKDOWN_CHARACTERS or _characters(blocks) > BLOCKS_CHARACTERS:
            raise SlackError("msg_blocks_too_long")
        if total["table"] > TABLE_CHARACTERS:
            errors = [error(f"table must be less than {TABLE_CHARACTERS + 1} characters", at)]
    if errors:
        raise SlackError("invalid_blocks", errors, errors=[e.removeprefix("[ERROR] ") for e in errors])
    return with_ids(blocks)


def _attachments(attachments: Any) -> list[Json]:
    if not isinstance(attachments, list) or not all(isinstance(one, dict) for one in attachments):
        raise SlackError("invalid_attachments")
    if len(attachments) > ATTACHMENTS:
        raise SlackError("too_many_attachments")
    checked = copy.deepcopy(attachments)
    for number, one in enumerate(checked, start=1):
        one["id"] = number
        if "blocks" in one:
            one["blocks"] = message_blocks(one["blocks"], f"/attachments/{number - 1}/blocks")
    return checked


def message_content(given: Json) -> Json:
    """Return the checked text, blocks and attachments of a new message; raise SlackError, `no_text` without any."""
    said = given.get("text") or ""
    if not isinstance(said, str):
        raise SlackError("invalid_arguments", ["[ERROR] must be a string [json-pointer:/text]"])
    blocks = message_blocks(given["blocks"]) if given.get("blocks") is not None else []
    attachments = _attachments(given["attachments"]) if given.get("attachments") is not None else []
    if not said.strip() and not blocks and not attachments:
        raise SlackError("no_text")
    return {"text": said[:TEXT_CUT], "blocks": blocks, "attachments": attachments}


def view(wanted: Any, *kinds: str) -> Json:
    """Return the view if it is one of `kinds` and Slack would show it; raise SlackError otherwise."""
    if not isinstance(wanted, dict):
        raise SlackError("invalid_arguments", [error("must be an object", "/view")])
    if wanted.get("type") not in kinds:
        raise SlackError("invalid_arguments", [error("must be a valid enum value", "/view/type")])
    errors = list(_VIEWS[wanted["type"]](wanted, "/view"))
    errors = errors or list(_cross_block_errors(wanted["blocks"], "/view/blocks"))
    has_inputs = not errors and any(block["type"] == "input" for block in wanted["blocks"])
    if has_inputs and wanted["type"] == "modal" and not wanted.get("submit"):
        errors = [error("missing required field: submit", "/view")]
    if errors:
        raise SlackError("invalid_arguments", errors)
    if len(json.dumps(wanted).encode()) > VIEW_BYTES:
        raise SlackError("view_too_large")
    return wanted


def with_ids(blocks: list[Json]) -> list[Json]:
    """Return a copy in which every block and interactive element has an id; missing ones are added as Slack does."""
    named = copy.deepcopy(blocks)
    for block in named:
        block["block_id"] = block.get("block_id") or secrets.token_urlsafe(4)[:5]
        pressed = [*block["elements"]] if block["type"] == "actions" else []
        pressed += [block[key] for key in ("accessory", "element") if key in block]
        for element in pressed:
            if element["type"] != "image":
                element["action_id"] = element.get("action_id") or secrets.token_urlsafe(4)[:5]
    return named


def all_blocks(message: Json) -> list[Json]:
    """Return the blocks of a message and of its attachments."""
    return [
        *message.get("blocks", []),
        *(block for one in message.get("attachments", []) for block in one.get("blocks", [])),
    ]
