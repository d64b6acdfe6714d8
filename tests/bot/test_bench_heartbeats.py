"""The benchmark of many tenants counts late heartbeats and nothing else."""

from __future__ import annotations

from bot.guest.blueprint.recipe import FILES
from tests.bench.heartbeats import Beat, Job, jobs, late

MIDNIGHT = 1_800_000_000 - 1_800_000_000 % 86_400
CRONTAB = (FILES / "tenant/etc/cron.d/mautic").read_text()


def job(command: str) -> Job:
    (found,) = [one for one in jobs(CRONTAB) if one.command == command]
    return found


def test_every_job_of_the_crontab_is_parsed() -> None:
    lines = [line for line in CRONTAB.splitlines() if "www-data mautic-cron" in line and not line.startswith("#")]
    assert len(jobs(CRONTAB)) == len(lines) > 10


def test_due_yields_runs_of_cron_whose_deadline_has_passed() -> None:
    segments = job("mautic:segments:update")
    # The heartbeat of the run at 45 past may come up to 50 s and a minute later.
    assert list(segments.due(MIDNIGHT, MIDNIGHT + 46 * 60)) == [MIDNIGHT + 900 * number for number in range(3)]
    assert len(list(segments.due(MIDNIGHT + 1, MIDNIGHT + 47 * 60))) == 3
    assert len(list(job("mautic:webhooks:process").due(MIDNIGHT, MIDNIGHT + 600))) == 9
    nightly = job("mautic:webhooks:delete_logs")
    assert list(nightly.due(MIDNIGHT, MIDNIGHT + 86_400)) == [MIDNIGHT + 3 * 3600 + 600]
    weekly = [
        at for day in range(7) for at in job("mautic:max-mind:purge").due(MIDNIGHT, MIDNIGHT + (day + 1) * 86_400)
    ]
    assert len(set(weekly)) == 1


def test_a_run_is_late_without_a_heartbeat_between_its_start_and_its_deadline() -> None:
    webhooks = job("mautic:webhooks:process")
    in_time = [Beat(MIDNIGHT + 60 * number, MIDNIGHT + 60 * number + 19, True) for number in range(10)]
    assert late(webhooks, in_time, MIDNIGHT, MIDNIGHT + 600) == (9, [])
    missing = [one for one in in_time if one.start != MIDNIGHT + 180]
    assert late(webhooks, missing, MIDNIGHT, MIDNIGHT + 600) == (9, [])
    # The next heartbeat came in time for the missing one as well; it does not where two in a row are missing.
    missing = [one for one in missing if one.start != MIDNIGHT + 240]
    assert late(webhooks, missing, MIDNIGHT, MIDNIGHT + 600) == (9, [MIDNIGHT + 180])
    segments = job("mautic:segments:update")
    assert late(segments, [Beat(MIDNIGHT + 5, MIDNIGHT + 110, True)], MIDNIGHT, MIDNIGHT + 120) == (1, [])
    assert late(segments, [Beat(MIDNIGHT + 5, MIDNIGHT + 111, True)], MIDNIGHT, MIDNIGHT + 120) == (1, [MIDNIGHT])
    assert late(segments, [Beat(MIDNIGHT - 1, MIDNIGHT, True)], MIDNIGHT, MIDNIGHT + 120) == (1, [MIDNIGHT])
