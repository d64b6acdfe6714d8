"""Cleans typed text of what Slack, phones and the bot's own messages add. Pure.

All typed text comes in through here: the words of commands (`split`), replies (`heard`), fields of modals (`typed`).
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
"""A quotation in guillemets, which French writes with spaces inside."""
_DASHED = re.compile(r"-*[\u2012-\u2015][-\u2012-\u2015]*([A-Za-z][\w-]*(?:=.*)?)", re.S)
"""An option whose `--` a phone turned into a dash, or several where the person kept typing."""
_CODE = re.compile(r"```(.+?)```|`([^`\n]+)`", re.S)
# The bot puts a zero-width space before each mark that is meant literally.
_FORMAT = re.compile(r"(?<![^\s(\"'])([*_])(?=\S)(.{1,1000}?)(?<=[^\s\u200b])\1(?![^\s.,;:!?)\"'])", re.S)
# An apostrophe within a word, or a curly one between straight ones, is not a quotation mark.
_SINGLE_QUOTED = re.compile(
    r"(?<![^\s=])(?:'((?:[^']|(?<=\w)'(?=\w))*)'"
    r"|[\u2018\u201a\u2039\u203a]((?:[^\u2018\u2019\u2039\u203a]|(?<=\w)\u2019(?=\w))*)[\u2018\u2019\u2039\u203a])(?!\S)"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_UNTAMED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that override the text direction, and lone surrogates."""
_OF_A_MAILBOX = r"[^\s@<>()\[\]{},;:\"/?&#|\\`]"
_MAILBOX = re.compile(rf"(?<!{_OF_A_MAILBOX})('?){_OF_A_MAILBOX}+(@|%40)(?=[\w\[])")
"""The local part of an e-mail address with its @; also in URLs, where the @ is encoded as %40."""

NESTED = 3
"""How deep formats may be nested: Slack's own formats, each once."""


def clean(text: str) -> str:
    """Drop invisible characters, such as the bot's zero-width spaces, and unify all kinds of hyphens and spaces."""
    seen = (" " if unicodedata.category(c) == "Zs" else c for c in text if unicodedata.category(c) != "Cf")
    return "".join(seen).translate(_HYPHENS)


def plain(text: str) -> str:
    """Undo what Slack does to text: the links that it creates, and entities."""
    text = re.sub(r"<(?:https?://|mailto:)[^|>]*\|([^>]*)>", r"\1", text)
    text = re.sub(r"<(https?://[^>]*)>", r"\1", text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def heard(text: str) -> str:
    """Return typed text as it was meant: without formatting, Slack's links, entities or invisible characters."""
    return clean(plain(_bare(text, lambda code: code))).strip()


def typed(text: str) -> str:
    """Return the text of a modal's field, which Slack passes on unchanged, without formatting around it."""
    text = text.strip()
    while found := _CODE.fullmatch(text) or _FORMAT.fullmatch(text):
        text = (found[2] or found[1]).strip()
    return clean(text).strip()


def split(text: str) -> list[str]:
    """Split typed text into words; quotation marks of any kind, and code, keep words together."""
    whole = _CODE.fullmatch(text.strip())

    def unquoted(code: str) -> str:
        # A command or option was pasted as code; other code keeps words together.
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
    # The bot's advice shows the whole command, and people paste all of it.
    return words[1:] if words[:1] == ["/mautic"] else words


def _bare(text: str, unquoted: Callable[[str], str]) -> str:
    """Remove the formatting: bold, italic, and code, which `unquoted` converts."""
    codes: list[str] = []

    def keep(found: re.Match[str]) -> str:
        codes.append((found[1] or found[2]).strip())
        return f"\0{len(codes) - 1}\0"

    text = _CODE.sub(keep, text.replace("\0", ""))
    # This runs before the acknowledgement, so the passes are limited; nobody nests formats deeper.
    for _ in range(NESTED):
        text = _FORMAT.sub(r"\2", text)
    return re.sub(r"\0(\d+)\0", lambda found: unquoted(codes[int(found[1])]), text)


def tame(text: str, most: int) -> str:
    """Return text of unknown origin, cut to `most` characters and safe for any message or file.

    Terminal colours are removed. Lone surrogates, which no encoding accepts, control characters other than tabs and
    line feeds, and marks that change the text direction become replacement characters.
    """
    # Most texts are printable; the report of one tenant has about fifty.
    printable = text.isprintable()
    if not printable:
        text = _COLOURS.sub("", text)
    if len(text) > most:
        text = f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
    return text if printable else _UNTAMED.sub("\N{REPLACEMENT CHARACTER}", text)


def without_mailboxes(text: str) -> str:
    """Reduce e-mail addresses in a text to their domains: they name the mail server, but not the person."""
    return _MAILBOX.sub("\\1\N{HORIZONTAL ELLIPSIS}\\2", text)
