"""Measures what idle tenants cost, and how quickly they respond when they are needed again."""

from __future__ import annotations

import os
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bot.guest.blueprint.build import blueprints
from bot.guest.mautic import Mautic
from bot.lxd.gateway import LxdGateway
from bot.lxd.protocol import NotFound
from bot.model.labels import as_labels
from bot.model.tenants import PlanSize
from tests.bench.floor import PATIENCE, login_page
from tests.support.workspace import eventually

TENANTS = int(os.environ.get("IDLE_TENANTS", "20"))
SETTLE = 60 * float(os.environ.get("IDLE_SETTLE_MINUTES", "10"))
"""Seconds until a new tenant has done its one-time work: each job has run a first time."""
MEASURED = 300.0
"""Seconds: most jobs are of each five minutes, and a shorter time would count them once or not at all."""
ROUNDS = 5

_MEMORY = """
cd /sys/fs/cgroup
if [ -f memory.current ]; then exec cat memory.current memory.stat; fi
exec cat memory/memory.usage_in_bytes memory/memory.stat
"""
_WAKE = """
message="messenger_messages (body, headers, queue_name, created_at, available_at)"
row="('{}', '[]', 'email', UTC_TIMESTAMP(), UTC_TIMESTAMP())"
began=$(date +%s%N)
mariadb mautic -e "INSERT INTO $message VALUES $row"
until grep -qs messenger:consum[e] /proc/[0-9]*/cmdline; do sleep 0.02; done
echo $((($(date +%s%N) - began) / 1000000))
"""
_PAGE = (
    "curl --silent --fail --max-time 30 --output /dev/null --write-out %{{time_total}} --unix-socket"
    " /run/nginx-inside.sock --header 'X-Forwarded-Proto: https' --header 'Host: {domain}' http://localhost/s/login"
)


@contextmanager
def tenants(lxd: LxdGateway, size: PlanSize, number: int) -> Iterator[list[str]]:
    """Yield the names of `number` tenants of the newest blueprint (not a tiny one): open, each with an identity."""
    blueprint = [one for one in blueprints(lxd) if "tiny" not in one.version][-1]
    names: list[str] = []
    try:
        for _ in range(number):
            name = f"idle-{secrets.token_hex(3)}"
            names.append(name)
            domain = f"{name}.e2e.localhost"
            config = as_labels(role="tenant", tenant=name, domain=domain, state="live")
            lxd.copy(f"{blueprint.instance}/golden", name, config=config, devices={})
            lxd.start(name)
            eventually(lambda name=name: lxd.state(name).address, PATIENCE)  # type: ignore[misc]
            Mautic(lxd).identity(
                name,
                domain=domain,
                site_url=f"https://{domain}",
                username="admin",
                email=f"admin@{domain}",
                password=secrets.token_urlsafe(18),
                database_password=secrets.token_urlsafe(18),
                secret_key=secrets.token_hex(32),
                size=size,
                edge_address="",
            )
            eventually(lambda name=name, domain=domain: login_page(lxd, name, domain), PATIENCE)  # type: ignore[misc]
        yield names
    finally:
        for name in names:
            # The last one may not exist.
            with suppress(NotFound):
                lxd.stop(name, force=True)
                lxd.delete(name)


def measure(lxd: LxdGateway, size: PlanSize) -> dict[str, Any]:
    """Return what each idle tenant costs, and how long the first page, the next, and a worker take after idleness."""
    with tenants(lxd, size, TENANTS) as names:
        time.sleep(SETTLE)
        # The commands that this runs inside are not part of the measured time.
        programs = [_programs(lxd, name) for name in names]
        began, before = time.monotonic(), [lxd.state(name).cpu for name in names]
        time.sleep(MEASURED)
        minutes = (time.monotonic() - began) / 60
        spent = [lxd.state(name).cpu - cpu for name, cpu in zip(names, before, strict=True)]
        by_program = sum((_programs(lxd, name) - then for name, then in zip(names, programs, strict=True)), Counter())
        memory = [held(lxd, name) for name in names]
        pages = [_pages(lxd, name) for name in names[:ROUNDS]]
        wakes = [int(lxd.execute(name, ["sh", "-c", _WAKE], timeout=60).stdout) / 1000 for name in names[:ROUNDS]]
    return {
        "idle_tenants": len(names),
        "idle_cpu_ms_per_min": round(statistics.mean(spent) / 1e6 / minutes, 1),
        "idle_cpu_by_program": {
            program: round(ticks * 1000 / os.sysconf("SC_CLK_TCK") / len(names) / minutes, 1)
            for program, ticks in by_program.most_common(8)
        },
        "idle_memory_mb": round(statistics.mean(memory) / (1 << 20), 1),
        "first_page_after_idle_s": max(first for first, _ in pages),
        "next_page_s": max(after for _, after in pages),
        "worker_wakes_s": max(wakes),
    }


def _programs(lxd: LxdGateway, name: str) -> Counter[str]:
    """Return the ticks that each program in a tenant has spent so far, including its children that have ended."""
    found: Counter[str] = Counter()
    told = lxd.execute(name, ["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null"]).stdout
    for line in told.splitlines():
        program, _, rest = line.partition("(")[2].rpartition(") ")
        found[program] += sum(map(int, rest.split()[11:15]))
    return found


def held(lxd: LxdGateway, name: str) -> int:
    """Return the bytes that a tenant's control group holds, without what can be reclaimed: files and kernel caches."""
    usage, _, told = lxd.execute(name, ["sh", "-c", _MEMORY]).stdout.partition("\n")
    figures = {key: int(value) for key, value in (line.split() for line in told.splitlines())}
    if "total_active_file" in figures:
        return int(usage) - figures["total_active_file"] - figures["total_inactive_file"]
    return int(usage) - sum(figures[key] for key in ("active_file", "inactive_file", "slab_reclaimable"))


def _pages(lxd: LxdGateway, name: str) -> tuple[float, float]:
    """Return the seconds that the login page takes, and those of the slowest of the three requests after it."""
    get = ["sh", "-c", _PAGE.format(domain=f"{name}.e2e.localhost")]
    first, *after = (float(lxd.execute(name, get).stdout) for _ in range(4))
    return first, max(after)
