"""Rewrites the command parser's error messages as sentences for people. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

LIKE = 0.6
"""The least similarity, from 0 to 1, between a typed option and the parser's suggestion for the bot to offer it."""


def _no_option(found: re.Match[str]) -> str:
    typed, near = found[1], found[2] or ""
    if near and SequenceMatcher(None, typed.lstrip("-"), near.lstrip("-")).ratio() >= LIKE:
        return f"There is no option “{typed}”. Did you mean “{near}”?"
    return f"There is no option “{typed}”."


def _none_of(found: re.Match[str]) -> str:
    near = f" Did you mean “{found[3]}”?" if found[3] else ""
    return f"“{found[1]}” isn't one of: {found[2].replace(chr(34), '')}.{near}"


def _unexpected(found: re.Match[str]) -> str:
    words = re.findall(r"'([^']*)'", found[1]) or [found[1]]
    return f"Unexpected word{'s' if len(words) > 1 else ''}: {', '.join(f'“{word}”' for word in words)}."


_PLAIN: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]] = (
    (r'^Command "[^"]*" parameter ', ""),
    (r"^--(\S+) requires an argument\.$", r"“\1” is missing."),
    (r"^Invalid value for ID: ", ""),
    (r"^Unused Tokens: \[(.*)\]\.$", _unexpected),
    (r'^Invalid value for (\S+): unable to convert "(.*)" into int\.$', r"\1 takes a number, and “\2” isn't one."),
    (r'^Invalid value "(.*)" for (\S+)\. Must be <= (\d+)\.$', r"\2 can be at most \3."),
    (r'^Invalid value "(.*)" for (\S+)\. Must be >= (\d+)\.$', r"\2 has to be at least \3."),
    (r'^Invalid value "(.*?)" for \S+?\. Choose from: (.*?)\.(?: Did you mean "(.*?)"\?)?$', _none_of),
    (r"^Unknown option: (\S+?)\.(?: Did you mean (--\S+?)\?)?.*$", _no_option),
)
"""The parser's messages as patterns, each with its replacement for people."""


def reason(error: Exception) -> str:
    """Return what is wrong with the typed words, as a sentence of at most 300 characters."""
    text = re.sub(r"\s+", " ", str(error)).strip().replace("`", "'")
    for parsed, said in _PLAIN:
        text = re.sub(parsed, said, text)
    return text[:300]
