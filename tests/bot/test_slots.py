"""Slots: the heavy jobs of a host's tenants begin one after the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.guest.blueprint.mautic_ctl import slots as inside
from bot.guest.blueprint.mautic_ctl.crons import cron_times
from bot.guest.blueprint.mautic_ctl.outbound import without_senders
from bot.guest.blueprint.mautic_ctl.system import CtlError
from bot.guest.blueprint.recipe import recipe_files
from bot.model.slots import CYCLE, most_at_once, slot_of

CRONTAB = recipe_files("tenant")["etc/cron.d/mautic"].read_text()


def begins(crontab: str, job: str) -> list[int]:
    """Return the minutes of an hour at which a job begins."""
    (line,) = (one.removeprefix("#outbound-off# ") for one in crontab.splitlines() if f" {job}" in one)
    field = line.split()[0]
    if field.startswith("*/"):
        return list(range(0, 60, int(field[2:])))
    return [int(minute) for minute in field.split(",")]


@given(first=st.integers(1, 100_000), tenants=st.integers(2, 200))
def test_the_slots_of_consecutive_tenants_are_far_apart(first: int, tenants: int) -> None:
    slots = sorted(slot_of(operation) for operation in range(first, first + tenants))
    gaps = [after - before for before, after in zip(slots, [*slots[1:], slots[0] + CYCLE], strict=True)]
    assert all(0 <= slot < CYCLE for slot in slots)
    assert max(gaps) <= 2.7 * CYCLE / tenants + 2


def test_how_many_begin_at_once_is_counted_across_the_end_of_the_cycle() -> None:
    assert most_at_once([], 10) == 0
    assert most_at_once([5, 100, 109, 110], 10) == 2
    assert most_at_once([295, 2, 100], 10) == 2


@given(slot=st.integers(0, CYCLE - 1))
def test_heavy_jobs_begin_in_the_minute_of_their_slot_as_often_as_before(slot: int) -> None:
    moved = inside.in_slot(CRONTAB, slot)
    assert cron_times(moved) == cron_times(CRONTAB)
    for job, (_, period) in inside.HEAVY.items():
        before, after = begins(CRONTAB, job), begins(moved, job)
        assert len(before) == len(after) == 60 // period
        assert {minute % 5 for minute in after} == {slot // 60} or period != 15
    assert inside.in_slot(inside.in_slot(CRONTAB, 299), slot) == moved
    assert inside.in_slot(CRONTAB, None) == CRONTAB


def test_a_job_that_is_disabled_while_outbound_mail_is_off_stays_so_and_gets_its_slot() -> None:
    moved = inside.in_slot(without_senders(CRONTAB), 130)
    assert "#outbound-off# 12,27,42,57 " in moved
    assert moved.replace("#outbound-off# ", "") == inside.in_slot(CRONTAB, 130)


@pytest.mark.parametrize("slot", [-1, CYCLE, "7", 1.5])
def test_an_invalid_slot_is_refused(slot: object) -> None:
    with pytest.raises(CtlError):
        inside.take_slot({"slot": slot})


def test_bot_and_tenant_use_the_same_cycle() -> None:
    assert inside.CYCLE == CYCLE
