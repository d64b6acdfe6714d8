"""Renders templates and state to Block Kit within Slack's limits. Templates hold texts, this file holds blocks.

A template is mrkdwn with four marks at the start of a line: `# ` for a header, `~ ` for small print, `---` for a
divider, and an empty line between sections. Every value put into it is escaped, except `Mrkdwn`, which is the bot's own
or escaped already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined

from bot.model.text import (
    Mrkdwn,
    block,
    clip,
    code,
    escape,
    kept_for,
    line,
    listed,
    person,
    seconds,
    sentence,
    shown_moment,
    size,
)

SECTION, HEADER, CONTEXT, BLOCKS, TOTAL, TEXT, TITLE, BUTTON = 3000, 150, 2000, 50, 12_000, 4000, 24, 75
"""Slack's limits in characters and blocks (TOTAL: kept below the ~13,200 at which Slack refuses a message)."""

Block = dict[str, Any]


@dataclass(frozen=True)
class Message:
    """A message to post: the fallback text for notifications, and blocks."""

    text: str
    blocks: list[Block]

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of chat.postMessage and similar methods."""
        return {"text": self.text, "blocks": self.blocks, "unfurl_links": False, "unfurl_media": False}


@dataclass(frozen=True)
class Modal:
    """A view for views.open; if a command returns it, it is shown to the person.

    `fill` is called once it is open, with a function that shows another view in its place: a secret that can be shown
    only once is used up only if the modal is open.
    """

    view: dict[str, Any]
    fill: Callable[[Callable[[dict[str, Any]], object]], None] | None = None


class Renderer:
    """Renders templates. `notice` is shown under every message (such as: nothing here is real, it is simulated)."""

    def __init__(self, timezone: str = "UTC", notice: str = "") -> None:
        self.notice = notice
        self.zone = ZoneInfo(timezone)
        # No autoescape, which is for HTML and would print &#34;: `finalize` escapes for Slack.
        self.environment = Environment(  # noqa: S701
            loader=PackageLoader("templates", ""),
            undefined=StrictUndefined,
            finalize=escape,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=False,
        )
        self.environment.filters.update(
            code=code,
            block=block,
            line=line,
            listed=listed,
            sentence=sentence,
            person=person,
            size=size,
            kept_for=kept_for,
            seconds=seconds,
            when=self.when,
            day=self.day,
            mrkdwn=Mrkdwn,
        )

    def when(self, at: float) -> Mrkdwn:
        """Return a moment as Slack shows it in the reader's own zone, with the bot's zone as the fallback."""
        return Mrkdwn(self.moment(at))

    def moment(self, at: float) -> str:
        """Return the same for facts and sentences, which are plain text until `line` or `told` renders them."""
        return shown_moment(at, self.zone)

    def day(self, at: float) -> str:
        """Return a day in the bot's zone, for text in which Slack cannot show the reader's own."""
        return datetime.fromtimestamp(at, self.zone).strftime("%A, %-d %B")

    def words(self, template: str, **state: object) -> str:
        """Render a template to mrkdwn."""
        return self.environment.get_template(template).render(**state).strip()

    def message(self, template: str, extra: Sequence[Block] = (), **state: object) -> Message:
        """Render a template to a message, with `extra` blocks (such as buttons) below."""
        return self.compose(self.words(template, **state), extra)

    def say(self, text: str) -> Message:
        """Make a message of mrkdwn that is the bot's own."""
        return self.compose(text)

    def compose(self, words: str, extra: Sequence[Block] = ()) -> Message:
        """Turn marked-up words into one message within the limits; cut what does not fit, and say so."""
        blocks, *others = self._fitted(words, len(extra))
        cut = [small_print("… cut: the rest does not fit in one Slack message.")] if others else []
        return self._message([*blocks, *cut], extra)

    def pages(self, words: str) -> list[Message]:
        """Turn marked-up words into as many messages within the limits as they take, broken between lines."""
        return [self._message(blocks) for blocks in self._fitted(words)]

    def _fitted(self, words: str, beside: int = 0) -> list[list[Block]]:
        """Return the blocks of marked-up words, in lists that each fit in one message.

        `beside`: how many other blocks the message has, apart from the notice and the sentence that it was cut.
        """
        room = BLOCKS - beside - bool(self.notice) - 1
        pages: list[list[Block]] = []
        left = 0
        for one in _blocks(words):
            length = len(_text_of(one))
            if not pages or len(pages[-1]) == room or length > left:
                pages.append([])
                left = TOTAL
            pages[-1].append(one)
            left -= length
        return pages or [[section(" ".join(words.split()) or "…")]]

    def _message(self, blocks: Sequence[Block], extra: Sequence[Block] = ()) -> Message:
        notice = [small_print(self.notice)] if self.notice else []
        first = next((_text_of(block) for block in blocks if _text_of(block)), "…")
        return Message(clip(first, TEXT), [*blocks, *extra, *notice])


def _text_of(block: Block) -> str:
    """Return the text of a block, as mrkdwn."""
    text = block.get("text") or (block.get("elements") or [{}])[0]
    said = str(text.get("text", ""))
    return escape(said) if text.get("type") == "plain_text" else said


def _blocks(words: str) -> list[Block]:
    blocks: list[Block] = []
    for paragraph in re.split(r"\n\s*\n", words):
        lines: list[str] = []
        for row in paragraph.splitlines():
            mark = row[:2]
            if row.strip() == "---" or mark in ("# ", "~ "):
                _flush(lines, blocks)
            if row.strip() == "---":
                blocks.append({"type": "divider"})
            elif mark == "# " and row[2:].strip():
                # A header is plain text, which would show entities literally.
                plain = row[2:].strip().replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
                blocks.append({"type": "header", "text": {"type": "plain_text", "text": clip(plain, HEADER)}})
            elif mark == "~ " and row[2:].strip():
                blocks.append(small_print(row[2:].strip()))
            elif mark not in ("# ", "~ "):
                lines.append(row)
        _flush(lines, blocks)
    return blocks


def _flush(lines: list[str], blocks: list[Block]) -> None:
    """Make sections of the lines so far, each within Slack's limit and broken between lines where it can be."""
    current = ""
    for row in lines:
        row = clip(row, SECTION)
        if current and len(current) + 1 + len(row) > SECTION:
            blocks.append(section(current))
            current = row
        else:
            current = f"{current}\n{row}" if current else row
    if current.strip():
        blocks.append(section(current))
    lines.clear()


def section(text: str, accessory: Block | None = None) -> Block:
    """Return a section of mrkdwn."""
    block: Block = {"type": "section", "text": {"type": "mrkdwn", "text": clip(text, SECTION)}}
    return block | {"accessory": accessory} if accessory else block


def small_print(text: str) -> Block:
    """Return a context block of mrkdwn."""
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": clip(text, CONTEXT)}]}


def button(action: str, label: str, value: object, style: str = "", *, sure: str = "") -> Block:
    """Return a button whose value is an opaque id; the bot checks the rights of the person who presses it.

    `sure`: the text of a confirmation dialogue before the press counts, as mrkdwn.
    """
    text = {"type": "plain_text", "text": clip(label, BUTTON), "emoji": True}
    made: Block = {"type": "button", "action_id": action, "text": text, "value": str(value)}
    if style:
        made["style"] = style
    if sure:
        made["confirm"] = {
            "title": {"type": "plain_text", "text": clip(f"{label}?", 100)},
            "text": {"type": "mrkdwn", "text": clip(sure, 300)},
            "confirm": {"type": "plain_text", "text": clip(label, 30)},
            "deny": {"type": "plain_text", "text": "Cancel"},
        }
    return made


def decision_buttons(mark: str, options: Mapping[str, str], chosen: str) -> list[Block]:
    """Return the buttons of a request: one to approve with each option, the chosen one first, and one to deny."""
    approve = [button("approve", "Approve", mark, "primary")]
    if options:
        first = sorted(options, key=lambda option: option != chosen)
        approve = [
            button(f"approve_{option}", f"Approve: {options[option]}", mark, "primary" if option == chosen else "")
            for option in first
        ]
    return [*approve, button("deny", "Deny", mark, "danger")]


def batch_buttons(mark: str, *, paused: bool, to_come: int) -> list[Block]:
    """Return the buttons of a batch in progress; none if no child has still to begin."""
    if not to_come:
        return []
    first = button("batch_go_on", "Continue", mark, "primary") if paused else button("batch_pause", "Pause", mark)
    sure = f"{to_come} tenant{'s' if to_come > 1 else ''} will not be started. Tenants in progress will finish."
    return [first, button("batch_stop", "Stop", mark, "danger", sure=sure)]


def actions(block_id: str, *buttons: Block) -> Block:
    """Return a row of buttons."""
    return {"type": "actions", "block_id": block_id, "elements": list(buttons)}


def modal(callback: str, title: str, blocks: list[Block], *, submit: str = "", metadata: str = "") -> Modal:
    """Return a modal, with a Close button, and a submit button if `submit` is its label."""
    view: dict[str, Any] = {
        "type": "modal",
        "callback_id": callback,
        "title": {"type": "plain_text", "text": clip(title, TITLE)},
        "close": {"type": "plain_text", "text": "Close"},
        "blocks": blocks,
        "private_metadata": metadata,
    }
    if submit:
        view["submit"] = {"type": "plain_text", "text": clip(submit, TITLE)}
    return Modal(view)


def text_input(name: str, label: str, *, hint: str = "", optional: bool = False, initial: str = "") -> Block:
    """Return an input for one line of text in a modal; its block and action are both called `name`."""
    element: Block = {"type": "plain_text_input", "action_id": name, "max_length": 200}
    if initial:
        element["initial_value"] = initial
    return _input(name, label, element, hint, optional)


def select_input(name: str, label: str, options: Mapping[str, str], *, initial: str) -> Block:
    """Return a select menu in a modal; `options`: value → label."""
    choices = {
        value: {"text": {"type": "plain_text", "text": clip(text, 75)}, "value": value}
        for value, text in options.items()
    }
    element = {
        "type": "static_select",
        "action_id": name,
        "options": list(choices.values())[:100],
        "initial_option": choices[initial],
    }
    return _input(name, label, element, "", False)


def _input(name: str, label: str, element: Block, hint: str, optional: bool) -> Block:
    block: Block = {
        "type": "input",
        "block_id": name,
        "label": {"type": "plain_text", "text": clip(label, 2000)},
        "element": element,
        "optional": optional,
    }
    return block | {"hint": {"type": "plain_text", "text": clip(hint, 2000)}} if hint else block
