"""Determines when a planned operation begins: the option `--at`, and the hours in the settings."""

from __future__ import annotations

from dataclasses import replace

from bot.engine.context import Context
from bot.model.moments import FORMS, Hours, moment, spelled
from bot.model.plan import Plan, Refused, UnknownWords

AHEAD = 31 * 86_400.0
"""How far ahead an operation may be planned, in seconds."""


def time_of(context: Context, typed: str, ahead: float = AHEAD, why: str = "") -> float:
    """Return the moment typed after `--at`, in epoch seconds; 0 if none was typed.

    Args:
        ahead: how far ahead the moment may be, in seconds.
        why: a sentence that explains this limit, for the refusal.

    Raises Refused for text that is not a time and, at the request, for a time that has passed or is too far ahead.
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
    # In whole minutes, as it is stored with the operation's arguments.
    return moment(spelled(found, zone), now, zone) or found


def refuse_outside_hours(context: Context, at: float) -> None:
    """Raise Refused at the request for a time outside the hours in which upgrades begin."""
    hours, zone = hours_of(context), context.renderer.zone
    if at and hours and not context.operation and not hours.has(at, zone):
        raise Refused(
            f"Upgrades start only between {hours} ({zone}), as the setting `upgrades.window` says; next at "
            f"{context.renderer.moment(hours.next(at, zone))}."
        )


def hours_of(context: Context) -> Hours | None:
    """Return the hours in which upgrades begin; None: at any time."""
    return Hours.of(context.settings.upgrades.window)


def begins(context: Context, at: float) -> float:
    """Return the earliest time at which an upgrade can begin, in epoch seconds; `at`: the planned time, 0: none."""
    hours, earliest = hours_of(context), max(at, context.now())
    return hours.next(earliest, context.renderer.zone) if hours else earliest


def planned(context: Context, plan: Plan, at: float) -> Plan:
    """Return the plan with its start time set and shown on the card; unchanged if `at` is 0."""
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
