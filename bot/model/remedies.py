"""Remedies: the commands that help against a finding, as keys and arguments. Pure."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field

RETRY = "retry"
"""In the place of a remedy's command: what failed is tried again."""


@dataclass(frozen=True)
class Remedy:
    """A command that helps, as a key and arguments, so that it is a button or can be typed as it is shown.

    `arguments` are in the order in which they are typed, options with their hyphens; `{name}` in them is one of the
    finding's values, and an option without a value is given as it is. Where one of these, or of `needs`, is missing,
    there is no such remedy, and `otherwise` is said.
    `does` is the rest of the sentence that begins with the command; without it the remedy is only a button. `button` is
    the label, `style` as Slack has them; an incident keeps no values, so that a button can use `{tenant}` and what is
    found out as it is pressed (`bot/engine/remedy_values.py`).
    """

    command: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    does: str = ""
    button: str = ""
    style: str = ""
    needs: tuple[str, ...] = ()
    otherwise: str = ""

    def given(self, values: Mapping[str, str]) -> dict[str, str | bool] | None:
        """Return the arguments with the values in their places, by name; None where a value is missing."""
        used = {name for text in self.arguments.values() for _, name, _, _ in string.Formatter().parse(text) if name}
        if not all(values.get(name) for name in used.union(self.needs)):
            return None
        return {name.lstrip("-"): text.format_map(values) or True for name, text in self.arguments.items()}

    def typed(self, values: Mapping[str, str]) -> str:
        """Return the command as a person types it after `/mautic`, "" where a value is missing."""
        given = self.given(values)
        if given is None:
            return ""
        words = [self.command]
        for name in self.arguments:
            value = given[name.lstrip("-")]
            words += [name] * (name[0] == "-") + [str(value)] * (value is not True)
        return " ".join(words)

    def told(self, values: Mapping[str, str]) -> str:
        """Return the part of a sentence that tells of it, "" where there is nothing to say."""
        if not self.does:
            return ""
        typed = self.typed(values)
        return f"`/mautic {typed}` {self.does}" if typed else self.otherwise


def restart(part: str) -> Remedy:
    """Return the button that restarts a part of a tenant."""
    return Remedy("restart", {"tenant": "{tenant}", "--part": part}, button=f"Restart {part}", style="primary")


def logs(what: str) -> Remedy:
    """Return the button that shows the log that tells most."""
    return Remedy("logs", {"tenant": "{tenant}", "what": what}, button="Logs")


def _larger(what: str) -> Remedy:
    return Remedy(
        "resize",
        {"tenant": "{tenant}", "--plan": f"{{larger_{what}}}"},
        "gives the tenant more",
        otherwise=f"no plan has more {what}; add one to `[plans]` in the bot's settings",
    )


MORE = {"disk": _larger("disk"), "memory": _larger("memory")}
"""How a tenant gets more of what it is short of."""
