"""The bench of many tenants counts what comes late, and nothing else."""

from __future__ import annotations

from bot.guest.blueprint.recipe import FILES
from tests.bench.heartbeats import Beat, Job, jobs, late

MIDNIGHT = 1_800_000_000 - 1_800_000_000 % 86_400
CRONTAB = (FILES / "tenant/etc/cron.d/mautic").read_text()


def job(command: str) -> Job:
    (found,) = [one for one in jobs(CRONTAB) if one.command == command]
    return found


def test_each_job_of_the_crontab_is_known() -> None:
    lines = [line for line in CRONTAB.splitlines() if "www-data mautic-cron" in line and not line.startswith("#")]
    assert len(jobs(CRONTAB)) == len(lines) > 10


def test_due_is_what_cron_would_start_and_can_be_judged_by_then() -> None:
    segments = job("mautic:segments:update")
    # The run at 45 past may come until 50 s and a minute later.
    assert list(segments.due(MIDNIGHT, MIDNIGHT + 46 * 60)) == [MIDNIGHT + 900 * number for number in range(3)]
    assert len(list(segments.due(MIDNIGHT + 1, MIDNIGHT + 47 * 60))) == 3
    assert len(list(job("mautic:webhooks:process").due(MIDNIGHT, MIDNIGHT + 600))) == 9
    nightly = job("mautic:webhooks:delete_logs")
    assert list(nightly.due(MIDNIGHT, MIDNIGHT + 86_400)) == [MIDNIGHT + 3 * 3600 + 600]
    weekly = [
        at for day in range(7) for at in job("mautic:max-mind:purge").due(MIDNIGHT, MIDNIGHT + (day + 1) * 86_400)
    ]
    assert len(set(weekly)) == 1


def test_a_heartbeat_counts_for_its_own_run_and_until_its_time_is_over() -> None:
    webhooks = job("mautic:webhooks:process")
    in_time = [Beat(MIDNIGHT + 60 * number, MIDNIGHT + 60 * number + 19, True) for number in range(10)]
    assert late(webhooks, in_time, MIDNIGHT, MIDNIGHT + 600) == (9, [])
    missing = [one for one in in_time if one.start != MIDNIGHT + 180]
    assert late(webhooks, missing, MIDNIGHT, MIDNIGHT + 600) == (9, [])
    # The next one comes in time for it as well; two in a row that are missing are not made good.
    missing = [one for one in missing if one.start != MIDNIGHT + 240]
    assert late(webhooks, missing, MIDNIGHT, MIDNIGHT + 600) == (9, [MIDNIGHT + 180])
    segments = job("mautic:segments:update")
    assert late(segments, [Beat(MIDNIGHT + 5, MIDNIGHT + 110, True)], MIDNIGHT, MIDNIGHT + 120) == (1, [])
    assert late(segments, [Beat(MIDNIGHT + 5, MIDNIGHT + 111, True)], MIDNIGHT, MIDNIGHT + 120) == (1, [MIDNIGHT])
    assert late(segments, [Beat(MIDNIGHT - 1, MIDNIGHT, True)], MIDNIGHT, MIDNIGHT + 120) == (1, [MIDNIGHT])
