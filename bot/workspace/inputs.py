"""Finds interactive elements in blocks, and encodes a person's choice as payloads have it."""

from collections.abc import Iterator
from typing import Any

from bot.workspace.errors import BadRequest
from bot.workspace.people import Json

_CHOICE_OF_ONE = {"static_select", "external_select", "radio_buttons", "overflow"}
_CHOICE_OF_MANY = {"multi_static_select", "multi_external_select", "checkboxes"}
_SIMPLE = {
    "users_select": "selected_user",
    "channels_select": "selected_channel",
    "conversations_select": "selected_conversation",
    "multi_users_select": "selected_users",
    "multi_channels_select": "selected_channels",
    "multi_conversations_select": "selected_conversations",
    "datepicker": "selected_date",
    "timepicker": "selected_time",
    "datetimepicker": "selected_date_time",
    "plain_text_input": "value",
    "email_text_input": "value",
    "url_text_input": "value",
    "number_input": "value",
}
_INITIAL = {
    "selected_option": "initial_option",
    "selected_options": "initial_options",
    "selected_user": "initial_user",
    "selected_channel": "initial_channel",
    "selected_conversation": "initial_conversation",
    "selected_users": "initial_users",
    "selected_channels": "initial_channels",
    "selected_conversations": "initial_conversations",
    "selected_date": "initial_date",
    "selected_time": "initial_time",
    "selected_date_time": "initial_date_time",
    "value": "initial_value",
}


def elements(blocks: list[Json]) -> Iterator[tuple[Json, Json]]:
    """Yield each interactive element as (block, element)."""
    for block in blocks:
        found = [*block.get("elements", [])] if block["type"] == "actions" else []
        found += [block[key] for key in ("accessory", "element") if key in block]
        for element in found:
            if "action_id" in element:
                yield block, element


def find(blocks: list[Json], action_id: str) -> tuple[Json, Json]:
    """Return the block and element of an action_id; raise BadRequest if there is none."""
    for block, element in elements(blocks):
        if element["action_id"] == action_id:
            return block, element
    raise BadRequest(f"There is nothing to press with the action_id {action_id!r} there.")


def choice(element: Json, chosen: Any) -> Json:
    """Return the element's state after a choice: an option's value, a list of these, text, an id or a date."""
    kind = element["type"]
    if kind in _CHOICE_OF_ONE:
        return {"selected_option": _option(element, chosen) if chosen not in (None, "") else None}
    if kind in _CHOICE_OF_MANY:
        values = chosen if isinstance(chosen, list) else [chosen] if chosen else []
        return {"selected_options": [_option(element, value) for value in values]}
    if kind in _SIMPLE:
        return {_SIMPLE[kind]: chosen if chosen != "" else None}
    return {}


def initial(element: Json) -> Json:
    """Return the element's state before anybody touched it."""
    empty = choice(element, None)
    return {key: element.get(_INITIAL[key], value) for key, value in empty.items()}


def is_empty(state: Json) -> bool:
    return all(value in (None, "", []) for key, value in state.items() if key != "type")


def complaint(block: Json, state: Json) -> str | None:
    """Return the error that Slack's client shows for an input before it submits anything; None: no error."""
    element = block["element"]
    if is_empty(state):
        return None if block.get("optional") else "Please complete this required field."
    value = state.get("value")
    if element["type"] == "number_input":
        return _number_complaint(element, str(value))
    if not isinstance(value, str):
        return None
    if len(value) < element.get("min_length", 0):
        return f"Please use at least {element['min_length']} characters."
    if len(value) > element.get("max_length", 3000):
        return f"Please use at most {element.get('max_length', 3000)} characters."
    if element["type"] == "email_text_input" and "@" not in value:
        return "Please enter a valid email address."
    if element["type"] == "url_text_input" and "://" not in value:
        return "Please enter a valid URL."
    return None


def _number_complaint(element: Json, value: str) -> str | None:
    try:
        number = float(value) if element["is_decimal_allowed"] else int(value)
    except ValueError:
        return "Please enter a number."
    if "min_value" in element and number < float(element["min_value"]):
        return f"Please enter a number of at least {element['min_value']}."
    if "max_value" in element and number > float(element["max_value"]):
        return f"Please enter a number of at most {element['max_value']}."
    return None


def _option(element: Json, value: Any) -> Json:
    groups = element.get("option_groups", [])
    options = [*element.get("options", []), *(option for group in groups for option in group["options"])]
    for option in options:
        if option.get("value") == value:
            return dict(option)
    raise BadRequest(f"There is no option {value!r} to choose in {element['action_id']!r}.")
