"""The result of checking a tenant or host: findings, and what could not be checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bot.model import findings


@dataclass(frozen=True)
class Found:
    """What a function of `bot/fleet/health/` found: in sentences what is wrong, and the values that remedies need."""

    text: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What is wrong, in a sentence that one can act on."""

    kind: str
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, and the kinds of which this look cannot tell.

    `rests`: how somebody let it stand still, "suspended" or "stopped"; then only what is judged always is.
    `given_up`: the kinds of what is tried no more, so that nothing shows that it is well.
    """

    findings: tuple[Finding, ...] = ()
    unseen: frozenset[str] = field(default_factory=frozenset)
    rests: str = ""
    given_up: frozenset[str] = field(default_factory=frozenset)

    def has(self, key: str) -> bool:
        """Whether there is a finding of this kind."""
        return any(finding.kind == key for finding in self.findings)


def with_remedies(key: str, found: Found, values: Mapping[str, str]) -> Finding:
    """Make a finding of what was found: what is wrong, and then what helps."""
    known = {**values, **found.values}
    ways = [told for remedy in findings.kind(key).remedies if (told := remedy.told(known))]
    told = ", then ".join(ways)
    return Finding(key, f"{found.text} {told[0].upper()}{told[1:]}." if told else found.text)
