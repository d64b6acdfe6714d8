"""Composable checks of JSON values: each yields every error of a value."""

from collections.abc import Callable, Iterator
from typing import Any

Check = Callable[[Any, str], Iterator[str]]
"""Takes a value and its JSON pointer, and yields one line for each error."""


def error(text: str, pointer: str) -> str:
    """Return the line that reports one error at a JSON pointer."""
    return f"[ERROR] {text} [json-pointer:{pointer}]"


def string(most: int, least: int = 0) -> Check:
    """Return a check for a string of `least` to `most` characters."""

    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, str):
            yield error("must be a string", at)
        elif len(value) > most:
            yield error(f"must be less than {most + 1} characters", at)
        elif len(value) < least:
            yield error(f"must be more than {least - 1} characters", at)

    return check


def boolean(value: Any, at: str) -> Iterator[str]:
    """Check that a value is a boolean."""
    if not isinstance(value, bool):
        yield error("must be a boolean", at)


def integer(low: int, high: int) -> Check:
    """Return a check for an integer from `low` to `high`, both included."""

    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            yield error(f"must be an integer from {low} to {high}", at)

    return check


def one_of(*values: str) -> Check:
    """Return a check for one of these strings."""

    def check(value: Any, at: str) -> Iterator[str]:
        if value not in values:
            yield error("must be a valid enum value", at)

    return check


def anything(value: Any, at: str) -> Iterator[str]:
    """Accept any value."""
    yield from ()


def array(item: Check, most: int, least: int = 1) -> Check:
    """Return a check for a list of `least` to `most` items, each of which passes `item`."""

    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, list):
            yield error("must provide an array", at)
            return
        if len(value) > most:
            yield error(f"no more than {most} items allowed", at)
        if len(value) < least:
            yield error(f"must provide at least {least} items", at)
        for number, one in enumerate(value):
            yield from item(one, f"{at}/{number}")

    return check


def record(required: dict[str, Check], optional: dict[str, Check]) -> Check:
    """Return a check for an object with these fields and no others; null counts as missing."""
    fields = required | optional

    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield error("must be an object", at)
            return
        for name in required:
            if name not in value:
                yield error(f"missing required field: {name}", at)
        for name, one in value.items():
            if name not in fields:
                yield error(f"invalid additional property: {name}", at)
            elif one is None and name in required:
                yield error(f"missing required field: {name}", at)
            elif one is not None:
                yield from fields[name](one, f"{at}/{name}")

    return check


def by_type(kinds: dict[str, Check]) -> Check:
    """Return a check for an object whose `type` selects the check from `kinds`."""

    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, dict) or "type" not in value:
            yield error("missing required field: type", at)
        elif not isinstance(value["type"], str) or value["type"] not in kinds:
            yield error(f"unsupported type: {value['type']}", f"{at}/type")
        else:
            yield from kinds[value["type"]](value, at)

    return check


def text(most: int, *kinds: str) -> Check:
    """Return a check for a text object of `kinds` (default: any kind) with 1 to `most` characters."""
    allowed = {
        "plain_text": record({"type": anything, "text": string(most, 1)}, {"emoji": boolean}),
        "mrkdwn": record({"type": anything, "text": string(most, 1)}, {"verbatim": boolean}),
    }
    return by_type({kind: allowed[kind] for kind in kinds or allowed})
