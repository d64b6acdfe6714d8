"""Cleans what people type from what Slack, phones and this bot's own messages add. Pure.

Everything that people type comes in through here: the words of commands (`split`), replies (`heard`), modals (`clean`).
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Callable

_HYPHENS = dict.fromkeys(map(ord, "\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{MINUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}"), "-")
_QUOTES = dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb"), '"')
_APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b\u2032\u00b4\u2039\u203a"), "'")
_GUILLEMETS = re.compile("\u00ab([^\u00ab\u00bb]*)\u00bb")
"""With a space on the inside, as French is written."""
_DASHED = re.compile(r"-*[\u2012-\u2015][-\u2012-\u2015]*([A-Za-z][\w-]*(?:=.*)?)", re.S)
"""What a phone makes of `--` before an option's name, once, or several times where one typed on."""
_CODE = re.compile(r"```(.+?)```|`([^`\n]+)`", re.S)
# The bot puts a zero-width space before each mark that stands for itself.
_FORMAT = re.compile(r"(?<![^\s(\"'])([*_])(?=\S)(.{1,1000}?)(?<=[^\s\u200b])\1(?![^\s.,;:!?)\"'])", re.S)
# An apostrophe within a word, or a curled one between straight ones, is no quotation.
_SINGLE_QUOTED = re.compile(
    r"(?<![^\s=])(?:'((?:[^']|(?<=\w)'(?=\w))*)'"
    r"|[\u2018\u201a\u2039\u203a]((?:[^\u2018\u2019\u2039\u203a]|(?<=\w)\u2019(?=\w))*)[\u2018\u2019\u2039\u203a])(?!\S)"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_UNTAMED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, overrides of the direction of text, and lone surrogates."""
_OF_A_MAILBOX = r"[^\s@<>()\[\]{},;:\"/?&#|\\`]"
_MAILBOX = re.compile(rf"(?<!{_OF_A_MAILBOX})('?){_OF_A_MAILBOX}+(@|%40)(?=[\w\[])")
"""What stands before the domain of an e-mail address; also in a URL, where the @ is written otherwise."""

NESTED = 3
"""Formats that may stand around one another: Slack's own, each once."""


def clean(text: str) -> str:
    """Drop what nobody sees, such as our own zero-width spaces; of hyphens and spaces one kind is left."""
    seen = (" " if unicodedata.category(c) == "Zs" else c for c in text if unicodedata.category(c) != "Cf")
    return "".join(seen).translate(_HYPHENS)


def plain(text: str) -> str:
    """Undo what Slack does to text: links of its own making, and entities."""
    text = re.sub(r"<(?:https?://|mailto:)[^|>]*\|([^>]*)>", r"\1", text)
    text = re.sub(r"<(https?://[^>]*)>", r"\1", text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def heard(text: str) -> str:
    """Return typed text as it was meant: without formatting, links of Slack's making, entities, or what nobody sees."""
    return clean(plain(_bare(text, lambda code: code))).strip()


def typed(text: str) -> str:
    """Return what was typed into a field of a modal, which Slack hands on as it is, without formatting around it."""
    text = text.strip()
    while found := _CODE.fullmatch(text) or _FORMAT.fullmatch(text):
        text = (found[2] or found[1]).strip()
    return clean(text).strip()


def split(text: str) -> list[str]:
    """Split typed text into words; quotation marks of any kind, and code, hold some together."""
    whole = _CODE.fullmatch(text.strip())

    def unquoted(code: str) -> str:
        # A command or option that was pasted as code; other code holds words together.
        return code if whole or code.startswith("-") else '"' + code.replace('"', "'") + '"'

    text = clean(plain(_bare(text, unquoted)))
    text = _GUILLEMETS.sub(lambda found: f'"{found[1].strip()}"', text).translate(_QUOTES)
    text = _SINGLE_QUOTED.sub(lambda found: '"' + (found[1] or found[2] or "").replace('"', '\\"') + '"', text)
    lexer = shlex.shlex(text.translate(_APOSTROPHES), posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.quotes, lexer.commenters = True, '"', ""
    try:
        words = list(lexer)
    except ValueError:
        words = text.split()
    words = [f"--{found[1]}" if (found := _DASHED.fullmatch(word)) else word for word in words]
    # Advice names the command whole, and is pasted whole.
    return words[1:] if words[:1] == ["/mautic"] else words


def _bare(text: str, unquoted: Callable[[str], str]) -> str:
    """Take the formatting away: bold, italic, and code, which `unquoted` gives another form."""
    codes: list[str] = []

    def keep(found: re.Match[str]) -> str:
        codes.append((found[1] or found[2]).strip())
        return f"\0{len(codes) - 1}\0"

    text = _CODE.sub(keep, text.replace("\0", ""))
    # This is done before an acknowledgement: of what nobody formats so, no more is taken away.
    for _ in range(NESTED):
        text = _FORMAT.sub(r"\2", text)
    return re.sub(r"\0(\d+)\0", lambda found: unquoted(codes[int(found[1])]), text)


def tame(text: str, most: int) -> str:
    """Return a text of unknown origin cut to so many characters, with nothing in it that no message or file can hold.

    The colours of a terminal are left out. Half characters (lone surrogates), which no encoding takes, control
    characters but for tabs and ends of lines, and what turns the direction of text become one that says so.
    """
    # As most are: a look at a tenant tells fifty of them.
    printable = text.isprintable()
    if not printable:
        text = _COLOURS.sub("", text)
    if len(text) > most:
        text = f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
    return text if printable else _UNTAMED.sub("\N{REPLACEMENT CHARACTER}", text)


def without_mailboxes(text: str) -> str:
    """Return a text in which of e-mail addresses the domain alone is left: which mail server it was, and not who."""
    return _MAILBOX.sub("\\1\N{HORIZONTAL ELLIPSIS}\\2", text)
