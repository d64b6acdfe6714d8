"""Diagnoses one health check: calls the function of each finding, and drops the effects of a known cause."""

from __future__ import annotations

from bot.fleet.health.look import CHECKS, HOST_CHECKS, HostLook, Look, is_full
from bot.model import findings
from bot.model.diagnosis import Diagnosis, Finding, Found, with_remedies
from bot.model.findings import FINDINGS, Judged, Kind, Where
from bot.model.labels import State
from bot.model.words import tame
from bot.settings import HealthSettings, Settings

SENTENCE = 1000
"""Characters of a finding: it appears in messages, and stays in the audit log for ever."""


def diagnose(look: Look, limits: HealthSettings) -> Diagnosis:
    """Return what is wrong with a tenant.

    Where the tenant is not meant to be open, only findings with `Judged.ALWAYS` count, and after an interrupted
    operation also those with `Judged.HALTED`.
    """
    rests = _rests(look)
    live = look.tenant.state == State.LIVE
    judged = findings.keys(judged=Judged.ALWAYS)
    if live and not rests:
        judged |= findings.keys(judged=Judged.OPEN)
    elif look.tenant.state == State.MOVING:
        # An operation left the tenant halfway.
        judged |= findings.keys(judged=Judged.HALTED)
    found = [finding for finding in _all(look, limits) if finding.kind in judged]
    if rests:
        return Diagnosis(tuple(found), _blind(look), rests=rests)
    if not live:
        return Diagnosis(tuple(found), frozenset(FINDINGS) - judged - {"move"} | _blind(look))
    full = is_full(look.disk) and any(finding.kind == "disk" for finding in found)
    # A full disk explains each finding that `falls`, so these are hidden. What they would hide, such as a missing page,
    # is not.
    fell = frozenset(row.key for row in FINDINGS.values() if row.falls) if full else frozenset()
    hidden = fell | findings.hidden(finding.kind for finding in found if finding.kind not in fell)
    return Diagnosis(tuple(one for one in found if one.kind not in hidden), hidden | _unlooked(look) | _blind(look))


def diagnose_host(look: HostLook, settings: Settings) -> Diagnosis:
    """Return what is wrong with a host; where it does not answer, nothing else is known of it."""
    found = [
        with_remedies(row.key, told, {})
        for row in FINDINGS.values()
        if row.key in HOST_CHECKS
        and findings.heeded(row, settings.health)
        and (told := HOST_CHECKS[row.key](look, settings))
    ]
    hidden = findings.hidden(finding.kind for finding in found)
    return Diagnosis(tuple(one for one in found if one.kind not in hidden), hidden)


def _rests(look: Look) -> str:
    """Return how somebody took the tenant down on purpose, "suspended" or "stopped"; "" where nobody did."""
    if look.tenant.state == State.SUSPENDED:
        return "suspended"
    return "stopped" if look.tenant.state == State.LIVE and look.tenant.stopped and not look.running else ""


def _unlooked(look: Look) -> frozenset[str]:
    """Return the findings that cannot be judged because the tenant was not looked at there."""
    unseen = findings.seen(Where.INSIDE) if look.inside is None else frozenset()
    if look.page is None:
        return unseen | findings.seen(Where.PAGE)
    return unseen if look.page.valid_until else unseen | {"certificate"}


def _blind(look: Look) -> frozenset[str]:
    """Return the findings that cannot be judged for lack of a measurement: its absence is no recovery.

    Nor is it a recovery where something is late, but may be so only because of a gap in the checks.
    """
    unknown = {name for name, check in look.checks.items() if not check.get("known", True)}
    return frozenset(
        row.key
        for row in FINDINGS.values()
        if (row.needs and getattr(look, row.needs) is None) or unknown.intersection(row.checks)
    )


def _all(look: Look, limits: HealthSettings) -> list[Finding]:
    """Return what the functions find, and what `status` shows as red in addition, in the table's order."""
    blind = _blind(look)
    rows = [row for row in FINDINGS.values() if row.key not in blind]
    asked = {row.key: found for row in rows if (found := _ask(row, look, limits))}
    told = _untold(look, asked) if look.running else {}
    return [
        Finding(finding.kind, tame(finding.text, SENTENCE))
        for row in FINDINGS.values()
        if findings.heeded(row, limits) and (found := asked.get(row.key) or told.get(row.key))
        for finding in [with_remedies(row.key, found, look.values)]
    ]


def _ask(row: Kind, look: Look, limits: HealthSettings) -> Found | None:
    if row.key not in CHECKS:
        return None
    if row.where == Where.INSIDE and (look.inside is None or not look.running):
        return None
    if row.where == Where.PAGE and (look.page is None or not look.running):
        return None
    return CHECKS[row.key](look, limits)


def _untold(look: Look, asked: dict[str, Found]) -> dict[str, Found]:
    """Turn each red check that no finding covers into its first finding, with the check's own text."""
    told: dict[str, Found] = {}
    for name, check in look.checks.items():
        own = [row.key for row in FINDINGS.values() if name in row.checks] or ["inside"]
        if not check["ok"] and not asked.keys() & {*own}:
            told.setdefault(own[0], Found(f"{findings.line(name)}: {check['text']}."))
    return told
