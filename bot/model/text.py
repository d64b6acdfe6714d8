"""Text for people: sizes and durations in words, and mrkdwn without unwanted mentions and links. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

OUTPUT = 2200
"""Maximum number of characters of a command's output that are shown."""
SENTENCE, LINE = 700, 600
"""Maximum number of characters of a sentence, and of a person's words: several of them fit one section."""


class Mrkdwn(str):
    """Text that is mrkdwn already: written by the bot, or escaped before."""

    __slots__ = ()


def escape(text: object) -> Mrkdwn:
    """Escape text for Slack, so that it makes no mention, link or `<!channel>`, and drop control characters."""
    if isinstance(text, Mrkdwn):
        return text
    plain = "".join(c for c in str(text) if c in "\n\t" or c.isprintable())
    return Mrkdwn(plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


DATE_FORM = "{date_short_pretty} {time}"
_MOMENT = rf"&lt;!date\^(?P<at>\d{{1,12}})\^{re.escape(DATE_FORM)}\|(?P<ours>[\w :+-]{{1,40}})&gt;"
"""A moment as `Renderer.moment` writes it, once escaped. If a person types one, it shows nothing but a moment."""


def shown_moment(at: float, zone: ZoneInfo) -> str:
    """Return a moment that Slack shows in each reader's own time zone, with the bot's zone as the fallback."""
    ours = datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M %Z")
    return f"<!date^{int(at)}^{DATE_FORM}|{ours}>"


def _moment(found: re.Match[str]) -> str:
    return f"<!date^{found['at']}^{DATE_FORM}|{found['ours']}>"


def code(text: object) -> Mrkdwn:
    """Return text as inline code; a backtick inside, which would end the code, becomes an apostrophe."""
    inner = clip(escape(str(text).replace("`", "'").replace("\n", " ").strip() or " "), LINE)
    return Mrkdwn(f"`{inner}`")


def block(text: object) -> Mrkdwn:
    """Return the end of an output as a code block. No line in it is empty or begins a block of the bot's templates."""
    rows = escape(str(text).replace("```", "'''").strip()[-OUTPUT:] or "(nothing)").splitlines()
    shown = [f"\N{ZERO WIDTH SPACE}{row}" if re.match(r"\s*\Z|# |~ |---", row) else row for row in rows]
    return Mrkdwn("\n".join(["```", *shown, "```"]))


def line(text: object) -> Mrkdwn:
    """Return a person's words on one line, where only moments are rendered and no mark formats or begins a block."""

    def shown(found: re.Match[str]) -> str:
        return _moment(found) if found["at"] else "\N{ZERO WIDTH SPACE}" + found[0]

    words = clip(escape(" ".join(str(text).split())), LINE)
    return Mrkdwn(re.sub(rf"{_MOMENT}|[*_~`]", shown, words))


def told(why: str, typed: str) -> Mrkdwn:
    """Return a sentence for a person that may quote what they typed.

    Only code, moments and mentions are rendered; mentions that are part of the typed text are not.
    """

    def shown(found: re.Match[str]) -> str:
        if found["who"]:
            return found[0] if found["who"] in typed else f"<{found['who']}>"
        if found["at"]:
            return _moment(found)
        return found[0] if len(found[0]) > 1 else "\N{ZERO WIDTH SPACE}" + found[0]

    sentence = clip(escape(" ".join(why.split())), SENTENCE)
    return Mrkdwn(re.sub(rf"&lt;(?P<who>[@#][UWCG][A-Z0-9]+)&gt;|{_MOMENT}|`[^`]+`|[*_~`]", shown, sentence))


def sentence(text: object) -> Mrkdwn:
    """Return a recorded sentence on one line: code and moments are rendered, and nobody is mentioned."""
    if isinstance(text, Mrkdwn):
        return text
    return told(str(text), str(text))


def person(user: str) -> Mrkdwn:
    """Return a mention of a person by Slack id; other ids, such as the bot's own, are returned as plain words."""
    return Mrkdwn(f"<@{user}>") if re.fullmatch(r"[UW][A-Z0-9]+", user) else line(user)


def clip(text: str, limit: int) -> str:
    """Cut text to a limit with an ellipsis, never within an entity such as `&amp;` or a `<…>` mark."""
    if len(text) <= limit:
        return text
    cut = text[: limit - 1]
    for opening, closing in (("&", ";"), ("<", ">")):
        start = cut.rfind(opening)
        if start > cut.rfind(closing) and (opening == "<" or len(cut) - start < 6):
            cut = cut[:start]
    return cut + "…"


def size(number: float) -> str:
    """Format bytes for people: `1.3 GiB`, in powers of 1,024 like the sizes of plans and pools."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def limit(text: str) -> str:
    """Format an LXD limit for people: `3GiB` becomes `3 GiB`."""
    return re.sub(r"(?<=\d)(?=[A-Za-z])", " ", text)


def seconds(number: float) -> str:
    """Format a duration for people: `2.4 s`, `3 min`, `5 h`, `2 days`; an int, which was not measured: `5 s`."""
    for unit, length in (("days", 172_800), ("h", 7200), ("min", 120)):
        if number >= length:
            return f"{number / {'days': 86_400, 'h': 3600, 'min': 60}[unit]:.0f} {unit}"
    return f"{number:.0f} s" if number >= 10 or isinstance(number, int) else f"{number:.1f} s"


def kept_for(days: int) -> str:
    """Return how long something is kept, for people; 0 days: it is never deleted automatically."""
    return f"for {days} days" if days else "until deleted by hand"


def option(name: str, value: object) -> str:
    """Return an option as people type it and `bot.model.words.split` reads it, with quotation marks where needed.

    A backtick, which would end the code that shows the option, becomes an apostrophe.
    """
    word, said = f"--{name.replace('_', '-')}", str(value).replace("`", "'")
    if value is True:
        return word
    escaped = said.replace("\\", "\\\\").replace('"', '\\"')
    return f'{word}="{escaped}"' if set(said) & {"'", "\\"} else f"{word}={shlex.quote(said)}"


def listed(names: Sequence[str], each: int = 8) -> Mrkdwn:
    """Return a list of names in lines of so many, so that a long one can continue in another message."""
    rows = [names[start : start + each] for start in range(0, len(names), each)]
    return Mrkdwn("\n".join(", ".join(map(code, row)) for row in rows))


def first_of(names: Sequence[str], most: int = 10) -> str:
    """Return the first of some names for a sentence, and how many more there are."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def names(roles: Sequence[str], many: int = 1) -> str:
    """Name the holders of roles: "an operator or an approver", for several people "operators or approvers"."""
    if many > 1:
        return " or ".join(f"{role}s" for role in roles)
    return " or ".join(f"a{'n' if role[0] in 'aeiou' else ''} {role}" for role in roles)
