"""Lists the Mautic console commands, with options, that people may run in a tenant.

They run at once what Mautic's own schedule runs, or report a state. None installs or updates anything, deletes a
client's data or shows a secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from bot.lxd.protocol import LxdError

NUMBER, NUMBERS, WORD = r"\d{1,12}", r"\d{1,12}(,\d{1,12})*", r"[a-z_]{1,40}"
INTEGRATION = r"[A-Za-z0-9]{1,40}"
"""The name of an integration in Mautic, such as `Salesforce`."""
_FLAG = ""

ALLOWED: dict[str, dict[str, str]] = {
    "cache:clear": {},
    "doctrine:migrations:status": {},
    "doctrine:migrations:up-to-date": {},
    "mautic:broadcasts:send": {"channel": WORD, "id": NUMBER, "limit": NUMBER, "batch": NUMBER},
    "mautic:campaigns:trigger": {
        "campaign-id": NUMBER,
        "contact-id": NUMBER,
        "contact-ids": NUMBERS,
        "batch-limit": NUMBER,
        "campaign-limit": NUMBER,
        "kickoff-only": _FLAG,
        "scheduled-only": _FLAG,
        "inactive-only": _FLAG,
    },
    "mautic:campaigns:update": {
        "campaign-id": NUMBER,
        "contact-id": NUMBER,
        "contact-ids": NUMBERS,
        "batch-limit": NUMBER,
        "max-contacts": NUMBER,
    },
    "mautic:contacts:scheduled_export": {"ids": NUMBERS},
    "mautic:email:fetch": {"message-limit": NUMBER},
    "mautic:email:sendwinner": {"id": NUMBER},
    "mautic:import": {"id": NUMBER, "limit": NUMBER},
    "mautic:integration:fetchleads": {"integration": INTEGRATION},
    "mautic:integration:pushleadactivity": {"integration": INTEGRATION},
    "mautic:messages:send": {"channel": WORD, "channel-id": NUMBER, "message-id": NUMBER},
    "mautic:plugins:reload": {},
    "mautic:reports:scheduler": {"report": NUMBER},
    "mautic:segments:update": {"list-id": NUMBER, "batch-limit": NUMBER, "max-contacts": NUMBER, "timing": _FLAG},
    "mautic:webhooks:process": {"webhook-id": NUMBER, "min-id": NUMBER, "max-id": NUMBER},
    "messenger:failed:retry": {},
    "messenger:failed:show": {"stats": _FLAG, "max": NUMBER},
    "messenger:stop-workers": {},
}
"""The options of each command, with the pattern of an option's value; empty: the option takes no value."""

READS = frozenset({"doctrine:migrations:status", "doctrine:migrations:up-to-date", "messenger:failed:show"})
"""Commands that only report a state; all others change something."""

NAME = re.compile(r"[a-z]+(:[a-z_-]+)+")
"""The pattern of all names of Mautic's commands."""


class NotAllowed(LxdError):
    """These words may not be run; the text names the nearest words that may, or all of them."""


def allowed(words: Sequence[str]) -> list[str]:
    """Return the words in their normal form (`--option=value`), or raise NotAllowed."""
    if not words:
        raise NotAllowed(f"Which command? Allowed: {_listed(ALLOWED)}.")
    command, *rest = words
    if command not in ALLOWED:
        raise NotAllowed(f"`{command[:60]}` is not allowed. {_nearest(command, ALLOWED)}")
    options, checked = ALLOWED[command], [command]
    while rest:
        word, given, value = rest.pop(0).partition("=")
        option = word.removeprefix("--")
        if not word.startswith("--") or option not in options:
            raise NotAllowed(
                f"`{command}` does not accept `{word[:60]}` here. {_nearest(word, [f'--{name}' for name in options])}"
            )
        pattern = options[option]
        if pattern and not given and rest:
            value = rest.pop(0)
        if not re.fullmatch(pattern, value) or (given and not pattern):
            what = {NUMBER: "a number", NUMBERS: "numbers with commas", WORD: "a word", INTEGRATION: "a name"}.get(
                pattern, "no value"
            )
            raise NotAllowed(f"`--{option}` of `{command}` takes {what}.")
        checked.append(f"--{option}={value}" if pattern else f"--{option}")
    return checked


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"Did you mean `{near[0]}`?"
    return f"Allowed: {_listed(known)}." if known else "It takes no options."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
