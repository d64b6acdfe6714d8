"""Remedies: the commands that solve a finding, as keys and arguments. Pure."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field

RETRY = "retry"
"""Stands for a remedy's command: retries the failed operation."""


@dataclass(frozen=True)
class Remedy:
    """A command that helps, as a key and arguments, so that it can be a button or be typed as shown.

    `arguments` are in the order of typing, options with their hyphens. `{name}` in them stands for one of the finding's
    values; "" is an option without a value. Where such a value, or one that `needs` names, is missing, the remedy does
    not apply, and `otherwise` is said instead.
    `does` is the rest of the sentence that begins with the command; without it the remedy is only a button. `button` is
    the button's label, `style` Slack's style of buttons. Incidents store no values, so that a button can only use
    `{tenant}` and values that are computed when it is pressed (`bot/engine/remedy_values.py`).
    """

    command: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    does: str = ""
    button: str = ""
    style: str = ""
    needs: tuple[str, ...] = ()
    otherwise: str = ""

    def given(self, values: Mapping[str, str]) -> dict[str, str | bool] | None:
        """Return the arguments by name, with the values filled in; None where a value is missing."""
        used = {name for text in self.arguments.values() for _, name, _, _ in string.Formatter().parse(text) if name}
        if not all(values.get(name) for name in used.union(self.needs)):
            return None
        return {name.lstrip("-"): text.format_map(values) or True for name, text in self.arguments.items()}

    def typed(self, values: Mapping[str, str]) -> str:
        """Return the command as people type it after `/mautic`; "" where a value is missing."""
        given = self.given(values)
        if given is None:
            return ""
        words = [self.command]
        for name in self.arguments:
            value = given[name.lstrip("-")]
            words += [name] * (name[0] == "-") + [str(value)] * (value is not True)
        return " ".join(words)

    def told(self, values: Mapping[str, str]) -> str:
        """Return the part of a sentence that describes the remedy; "" where there is nothing to say."""
        if not self.does:
            return ""
        typed = self.typed(values)
        return f"`/mautic {typed}` {self.does}" if typed else self.otherwise


def restart(part: str) -> Remedy:
    """Return the button that restarts a part of a tenant."""
    return Remedy("restart", {"tenant": "{tenant}", "--part": part}, button=f"Restart {part}", style="primary")


def logs(what: str) -> Remedy:
    """Return the button that shows a log of a tenant."""
    return Remedy("logs", {"tenant": "{tenant}", "what": what}, button="Logs")


def _larger(what: str) -> Remedy:
    return Remedy(
        "resize",
        {"tenant": "{tenant}", "--plan": f"{{larger_{what}}}"},
        "gives the tenant more",
        otherwise=f"no plan has more {what}; add one to `[plans]` in the bot's settings",
    )


MORE = {"disk": _larger("disk"), "memory": _larger("memory")}
"""The remedy that gives a tenant more disk or memory."""
