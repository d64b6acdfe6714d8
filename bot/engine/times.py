"""When an operation begins that people plan ahead: `--at`, and the hours of the settings."""

from __future__ import annotations

from dataclasses import replace

from bot.engine.context import Context
from bot.model.moments import FORMS, Hours, moment, spelled
from bot.model.plan import Plan, Refused, UnknownWords

AHEAD = 31 * 86_400.0
"""Seconds that something may be planned ahead."""


def time_of(context: Context, typed: str, ahead: float = AHEAD, why: str = "") -> float:
    """Return the moment that was typed after `--at`, in epoch seconds; 0: none was.

    Args:
        ahead: the seconds that it may be away.
        why: it may be no more, as a sentence.

    Raises Refused for what is no moment, and at the request for one that is past or too far away.
    """
    if not typed:
        return 0.0
    zone, now = context.renderer.zone, context.now()
    found = moment(typed, now, zone)
    if found is None:
        raise UnknownWords(f"“{typed[:40]}” is not a time. Use {FORMS} (times of {zone}).")
    if context.operation:
        return found
    shown = context.renderer.moment
    if found <= now:
        raise Refused(
            f"{shown(found)} has passed. Choose a later time, or leave `--at` out to start after the approval."
        )
    if found > now + ahead:
        raise Refused(f"{shown(found)} is too far ahead. Choose a time before {shown(now + ahead)}.{why and ' ' + why}")
    # In whole minutes, as it is typed again.
    return moment(spelled(found, zone), now, zone) or found


def refuse_outside_hours(context: Context, at: float) -> None:
    """Raise Refused where a time lies outside the hours in which upgrades begin."""
    hours, zone = hours_of(context), context.renderer.zone
    if at and hours and not context.operation and not hours.has(at, zone):
        raise Refused(
            f"Upgrades start only between {hours} ({zone}), as the setting `upgrades.window` says; next at "
            f"{context.renderer.moment(hours.next(at, zone))}."
        )


def hours_of(context: Context) -> Hours | None:
    """Return the hours in which upgrades begin; None: any."""
    return Hours.of(context.settings.upgrades.window)


def begins(context: Context, at: float) -> float:
    """Return when an upgrade that is planned for a time, 0: for as soon as it may, can begin at the earliest."""
    hours, earliest = hours_of(context), max(at, context.now())
    return hours.next(earliest, context.renderer.zone) if hours else earliest


def planned(context: Context, plan: Plan, at: float) -> Plan:
    """Return a plan that begins at a time, which its card says; unchanged where that is 0."""
    if not at:
        return plan
    first, *others = plan.facts.items()
    return replace(
        plan,
        at=at,
        arguments={**plan.arguments, "at": spelled(at, context.renderer.zone)},
        facts=dict([first, ("Starts", context.renderer.moment(at)), *others]),
        values={**plan.values, "at": int(at)},
        until_done=(*plan.until_done, "Starts"),
    )
