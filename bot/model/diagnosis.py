"""The result of checking a tenant or host: its findings, and the kinds that could not be checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bot.model import findings


@dataclass(frozen=True)
class Found:
    """What a function of `bot/fleet/health/` found: the problem in sentences, and the values that remedies need."""

    text: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One problem, in a sentence that people can act on."""

    kind: str
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """The findings of one check, and the kinds that the check could not tell (`unseen`): their incidents stay open.

    `rests`: "suspended" or "stopped" where a person did that to the tenant; then only the kinds judged always count.
    `given_up`: kinds of maintenance that the bot no longer tries, so that nothing proves a recovery.
    """

    findings: tuple[Finding, ...] = ()
    unseen: frozenset[str] = field(default_factory=frozenset)
    rests: str = ""
    given_up: frozenset[str] = field(default_factory=frozenset)

    def has(self, key: str) -> bool:
        """Return whether there is a finding of this kind."""
        return any(finding.kind == key for finding in self.findings)


def with_remedies(key: str, found: Found, values: Mapping[str, str]) -> Finding:
    """Return the finding of a kind: the sentence about the problem, then the remedies that apply."""
    known = {**values, **found.values}
    ways = [told for remedy in findings.kind(key).remedies if (told := remedy.told(known))]
    told = ", then ".join(ways)
    return Finding(key, f"{found.text} {told[0].upper()}{told[1:]}." if told else found.text)
