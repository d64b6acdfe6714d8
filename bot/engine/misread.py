"""What the parser says of words that it cannot read, and what people are told. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


def _no_option(found: re.Match[str]) -> str:
    return f"There is no option “{found[1]}”{f'; did you mean “{found[2]}”?' if found[2] else '.'}"


def _none_of(found: re.Match[str]) -> str:
    near = f" Did you mean “{found[3]}”?" if found[3] else ""
    return f"“{found[1]}” is none of {found[2].replace(chr(34), '')}.{near}"


_PLAIN: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]] = (
    (r'^Command "[^"]*" parameter ', ""),
    (r"^--(\S+) requires an argument\.$", r"“\1” is missing."),
    (r"^Invalid value for ID: ", ""),
    (r"^Unused Tokens: \[(.*)\]\.$", r"I do not know what to do with \1."),
    (r'^Invalid value for (\S+): unable to convert "(.*)" into int\.$', r"\1 takes a whole number, and “\2” is none."),
    (r'^Invalid value "(.*)" for (\S+)\. Must be <= (\d+)\.$', r"\2 is at most \3, and not \1."),
    (r'^Invalid value "(.*)" for (\S+)\. Must be >= (\d+)\.$', r"\2 is at least \3, and not \1."),
    (r'^Invalid value "(.*?)" for \S+?\. Choose from: (.*?)\.(?: Did you mean "(.*?)"\?)?$', _none_of),
    (r"^Unknown option: (\S+?)\.(?: Did you mean (--\S+?)\?)?.*$", _no_option),
)
"""What the parser says, and what people are told."""


def reason(error: Exception) -> str:
    """Say what is wrong with the words, in a sentence for a person."""
    text = re.sub(r"\s+", " ", str(error)).strip().replace("`", "'")
    for parsed, said in _PLAIN:
        text = re.sub(parsed, said, text)
    return text[:300]
