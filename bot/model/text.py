"""Text for people: sizes and durations in words, and mrkdwn that mentions and links nobody. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

OUTPUT = 2200
"""Characters of a command's output that are shown."""
SENTENCE, LINE = 700, 600
"""Characters of a sentence, and of a person's words, that are shown: several of them fit one section."""


class Mrkdwn(str):
    """Text that is mrkdwn already: ours, or escaped before."""

    __slots__ = ()


def escape(text: object) -> Mrkdwn:
    """Escape for Slack: no mention, link or `<!channel>` comes out of what people write. Control characters go."""
    if isinstance(text, Mrkdwn):
        return text
    plain = "".join(c for c in str(text) if c in "\n\t" or c.isprintable())
    return Mrkdwn(plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


DATE_FORM = "{date_short_pretty} {time}"
_MOMENT = rf"&lt;!date\^(?P<at>\d{{1,12}})\^{re.escape(DATE_FORM)}\|(?P<ours>[\w :+-]{{1,40}})&gt;"
"""A moment as `Renderer.moment` writes it, once it is escaped; whoever types one shows no more than a moment."""


def shown_moment(at: float, zone: ZoneInfo) -> str:
    """A moment as Slack shows it in each reader's own zone, with ours for what cannot."""
    ours = datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M %Z")
    return f"<!date^{int(at)}^{DATE_FORM}|{ours}>"


def _moment(found: re.Match[str]) -> str:
    return f"<!date^{found['at']}^{DATE_FORM}|{found['ours']}>"


def code(text: object) -> Mrkdwn:
    """Show as code; a backtick inside would end it, so it becomes a quote."""
    inner = clip(escape(str(text).replace("`", "'").replace("\n", " ").strip() or " "), LINE)
    return Mrkdwn(f"`{inner}`")


def block(text: object) -> Mrkdwn:
    """Show output as a block of code; of a long one its end. No line of it is empty or begins a block of ours."""
    rows = escape(str(text).replace("```", "'''").strip()[-OUTPUT:] or "(nothing)").splitlines()
    shown = [f"\N{ZERO WIDTH SPACE}{row}" if re.match(r"\s*\Z|# |~ |---", row) else row for row in rows]
    return Mrkdwn("\n".join(["```", *shown, "```"]))


def line(text: object) -> Mrkdwn:
    """Put a person's words on one line, with no mark that formats or begins a block; a moment comes alive."""

    def shown(found: re.Match[str]) -> str:
        return _moment(found) if found["at"] else "\N{ZERO WIDTH SPACE}" + found[0]

    words = clip(escape(" ".join(str(text).split())), LINE)
    return Mrkdwn(re.sub(rf"{_MOMENT}|[*_~`]", shown, words))


def told(why: str, typed: str) -> Mrkdwn:
    """Show a sentence for a person that may quote what they typed.

    Only code, moments and mentions come alive, and of these only mentions that do not stand in what was typed.
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
    """Show a recorded sentence on one line: code in it is code, and nobody in it is mentioned."""
    if isinstance(text, Mrkdwn):
        return text
    return told(str(text), str(text))


def person(user: str) -> Mrkdwn:
    """Mention a person by Slack id; the bot's own doings are "the bot's"."""
    return Mrkdwn(f"<@{user}>") if re.fullmatch(r"[UW][A-Z0-9]+", user) else line(user)


def clip(text: str, limit: int) -> str:
    """Cut to a limit with an ellipsis, never within an entity such as `&amp;` or a `<…>` mark."""
    if len(text) <= limit:
        return text
    cut = text[: limit - 1]
    for opening, closing in (("&", ";"), ("<", ">")):
        start = cut.rfind(opening)
        if start > cut.rfind(closing) and (opening == "<" or len(cut) - start < 6):
            cut = cut[:start]
    return cut + "…"


def size(number: float) -> str:
    """Bytes for people: `1.3 GiB`, in powers of 1,024 as the sizes of plans and pools are given."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def limit(text: str) -> str:
    """A limit as LXD writes it, for people: `3GiB` is shown as `3 GiB`."""
    return re.sub(r"(?<=\d)(?=[A-Za-z])", " ", text)


def seconds(number: float) -> str:
    """A duration for people: `2.4 s`, `3 min`, `5 h`, `2 days`; whole seconds were not measured: `5 s`."""
    for unit, length in (("days", 172_800), ("h", 7200), ("min", 120)):
        if number >= length:
            return f"{number / {'days': 86_400, 'h': 3600, 'min': 60}[unit]:.0f} {unit}"
    return f"{number:.0f} s" if number >= 10 or isinstance(number, int) else f"{number:.1f} s"


def kept_for(days: int) -> str:
    """How long something is kept, for people; 0 days: it is never deleted automatically."""
    return f"for {days} days" if days else "until deleted by hand"


def option(name: str, value: object) -> str:
    """An option as it is typed, and read by `bot.model.words.split`, which knows apostrophes from quotation marks.

    A backtick, which would end the code that shows it, becomes an apostrophe.
    """
    word, said = f"--{name.replace('_', '-')}", str(value).replace("`", "'")
    if value is True:
        return word
    escaped = said.replace("\\", "\\\\").replace('"', '\\"')
    return f'{word}="{escaped}"' if set(said) & {"'", "\\"} else f"{word}={shlex.quote(said)}"


def names(roles: Sequence[str], many: int = 1) -> str:
    """Name roles as those who have one: "an operator or an approver", of several people "operators"."""
    if many > 1:
        return " or ".join(f"{role}s" for role in roles)
    return " or ".join(f"a{'n' if role[0] in 'aeiou' else ''} {role}" for role in roles)
