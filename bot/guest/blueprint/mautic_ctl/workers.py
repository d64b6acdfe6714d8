"""Enables, starts and lists the systemd units of a tenant's queue workers."""

from pathlib import Path

from .system import systemctl

WORKER_UNIT = Path("/etc/systemd/system/mautic-worker@.service")
LOOK, LOOK_UNIT = "mautic-look", Path("/etc/systemd/system/mautic-look.service")
"""The service that checks for work before PHP is started; a tenant with older furniture has none."""
WANTS = Path("/etc/systemd/system/multi-user.target.wants")


def set_workers(count: int) -> None:
    """Run `count` workers of the queue `email`, named email, email-2, …, now and after each boot."""
    wanted, gone = link_workers(count)
    if gone:
        systemctl("stop", "--no-block", *sorted(gone))
    # Workers take long to start, and nothing waits for them.
    systemctl("start", "--no-block", "cron", *sorted(wanted))


def link_workers(count: int) -> tuple[set[str], set[str]]:
    """Enable `count` workers at boot; return their units, and the units that are no longer enabled."""
    wanted = {f"mautic-worker@email{'' if number == 1 else f'-{number}'}.service" for number in range(1, count + 1)}
    WANTS.mkdir(exist_ok=True)
    there = {link.name for link in WANTS.glob("mautic-worker@*.service")}
    for name in wanted - there:
        (WANTS / name).symlink_to(WORKER_UNIT)
    for name in there - wanted:
        (WANTS / name).unlink()
    return wanted, there - wanted


def workers() -> list[str]:
    """Return the units of a tenant's workers."""
    return sorted(link.name for link in WANTS.glob("mautic-worker@*.service"))


def start_workers() -> None:
    """Start the workers without waiting, as they take long to start."""
    if units := workers():
        systemctl("start", "--no-block", *units)
