"""A container's clean stop: pages in progress are answered, and jobs and workers end before their database does."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from bot.fleet import containment
from bot.lxd.gateway import LxdGateway
from tests.lab.conftest import Clone, eventually
from tests.lab.test_tenant_tool import ROOT, ask, sql

PAGE = b"""<?php
if (!str_contains($_SERVER['REQUEST_URI'], 'slow')) { echo 'quick'; exit; }
// Ends after the stop has begun: when cron is gone.
touch(__DIR__ . '/var/page.began');
for ($cron = trim(file_get_contents('/run/crond.pid')); is_dir("/proc/$cron"); clearstatcache()) usleep(10000);
for ($end = microtime(true) + 2; microtime(true) < $end;) usleep(10000);
echo 'whole';
"""
CONSOLE = rb"""<?php
// An import postpones itself at SIGTERM; a sender that gets SIGTERM dies; a worker finishes its mail.
include __DIR__ . '/../config/local.php';
$var = __DIR__ . '/../var';
$kind = str_replace(':', '-', $argv[1]);
$told = false;
if ($kind !== 'mautic-campaigns-trigger') {
  pcntl_async_signals(true);
  pcntl_signal(SIGTERM, function () use (&$told) { $told = true; });
}
touch("$var/$kind.began");
$cron = trim(file_get_contents('/run/crond.pid'));
for (; is_dir("/proc/$cron") || ($kind !== 'mautic-campaigns-trigger' && !$told); clearstatcache()) usleep(10000);
if ($kind !== 'mautic-import') for ($end = microtime(true) + 2; microtime(true) < $end;) usleep(10000);
$db = new PDO('mysql:unix_socket=/run/mysqld/mysqld.sock;dbname=mautic', $parameters['db_user'],
  $parameters['db_password'], [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
$db->exec("INSERT INTO ended VALUES ('$kind', " . microtime(true) . ")");
"""
JOBS = ("mautic:import", "mautic:campaigns:trigger")
# Debian's cron runs these when it starts for the first time since boot.
CRONTAB = "PATH=/usr/local/bin:/usr/bin:/bin\n" + "".join(f"@reboot www-data mautic-cron 1 60 {job}\n" for job in JOBS)
WORK = r"""
CREATE TABLE ended (kind VARCHAR(64), at DOUBLE);
INSERT INTO imports SET id = 9001, dir = '/x', file = 'a.csv', status = 1;
INSERT INTO campaigns SET id = 9001, name = 'c';
INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at)
  VALUES ('{\"to\":\"one@example.test\"}', '[]', 'email', UTC_TIMESTAMP(), UTC_TIMESTAMP());
"""
KINDS = {"mautic-import", "mautic-campaigns-trigger", "messenger-consume"}


@dataclass
class Stopped:
    """What was seen while a tenant stopped.

    `scores`: the processes' oom_score_adj. `page`: the answer to the page in progress. `idle`: what an idle connection
    received. `visits`: when each request began (epoch seconds), and its status. `ended`: when the jobs and the worker
    ended.
    """

    how: str | None
    scores: set[str]
    page: str
    idle: bytes
    visits: list[tuple[float, int]]
    ended: dict[str, float]


def inside(host: LxdGateway, tenant: Clone, script: str) -> str:
    ended = host.execute(tenant.name, ["sh", "-euc", script], timeout=120)
    assert ended.code == 0, (ended.stdout, ended.stderr)
    return ended.stdout


def visit(tenant: Clone) -> Iterator[tuple[float, int]]:
    """Ask for a page again and again until the tenant no longer answers."""
    status = 200
    while status == 200:
        began = time.time()
        try:
            status = ask(tenant.address, tenant.domain, "/quick")[0]
        except OSError:
            status = 0
        yield began, status
        time.sleep(0.01)


def begin_work(host: LxdGateway, tenant: Clone) -> None:
    """Start an import and a campaign by cron, and a worker; return when all three are at work."""
    host.push(tenant.name, f"{ROOT}/bin/console", CONSOLE, mode=0o755)
    host.push(tenant.name, f"{ROOT}/index.php", PAGE, mode=0o644)
    inside(host, tenant, "rm /etc/cron.d/mautic")
    sql(host, tenant.name, WORK)
    host.push(tenant.name, "/etc/cron.d/once", CRONTAB.encode(), mode=0o644)
    inside(host, tenant, "rm -f /run/crond.reboot; systemctl restart cron")
    for kind in KINDS:
        awaited(host, tenant, kind)
    inside(host, tenant, "rm /etc/cron.d/once")


def awaited(host: LxdGateway, tenant: Clone, what: str) -> None:
    began = ["test", "-e", f"{ROOT}/var/{what}.began"]
    eventually(lambda: host.execute(tenant.name, began).code, lambda code: code == 0)


@pytest.fixture(scope="module")
def tenant(host: LxdGateway, clone: Callable[..., Clone]) -> Clone:
    return clone()


@pytest.fixture(scope="module")
def stopped(host: LxdGateway, tenant: Clone) -> Stopped:
    """A tenant's stop with a page, an import, a campaign and a mail in progress, and a visitor; it runs again."""
    begin_work(host, tenant)
    scores = inside(
        host, tenant, "for pid in $(grep -ls bin/consol[e] /proc/[0-9]*/cmdline | cut -d/ -f3);"
        " do cat /proc/$pid/oom_score_adj || true; done",
    )  # fmt: skip
    with (
        ThreadPoolExecutor(3) as pool,
        socket.create_connection((tenant.address, 80), 30) as idle,
    ):
        idle.sendall(f"GET /quick HTTP/1.1\r\nHost: {tenant.domain}\r\n\r\n".encode())
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        page: Future[str] = pool.submit(lambda: ask(tenant.address, tenant.domain, "/slow")[2])
        awaited(host, tenant, "page")
        visits = pool.submit(lambda: list(visit(tenant)))
        rest = pool.submit(drained, idle)
        how = containment.stop(host, tenant.name)
        seen = Stopped(how, set(scores.split()), outcome(page), rest.result(), visits.result(), {})
    host.start(tenant.name)
    inside(host, tenant, "until mariadb-admin ping --silent; do sleep 0.1; done")
    found = [line.split() for line in sql(host, tenant.name, "SELECT kind, at FROM ended").splitlines()]
    seen.ended = {kind: float(at) for kind, at in found}
    return seen


def outcome(page: Future[str]) -> str:
    try:
        return page.result()
    except OSError as error:
        return type(error).__name__


def drained(connection: socket.socket) -> bytes:
    """Return what the server sent last: b"" where it closed the connection."""
    received = b"more"
    while received not in (b"", b"nothing"):
        try:
            received = connection.recv(65536)
        except OSError:
            received = b"nothing"
    return received


def test_units_have_no_ordering_cycle(host: LxdGateway, tenant: Clone) -> None:
    said = inside(host, tenant, "systemd-analyze verify multi-user.target shutdown.target 2>&1 || true; journalctl -b")
    assert "ordering cycle" not in said


def test_a_page_in_progress_is_answered(stopped: Stopped) -> None:
    assert stopped.page == "whole"


def test_a_connection_that_is_kept_open_is_closed(stopped: Stopped) -> None:
    """The edge would send the next form over it, and forms are not sent twice."""
    assert stopped.idle == b""


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_jobs_and_workers_end_before_their_database(kind: str, stopped: Stopped) -> None:
    assert kind in stopped.ended


def test_pages_are_served_until_the_last_job_has_ended(stopped: Stopped) -> None:
    assert stopped.ended.keys() == KINDS
    assert {status for began, status in stopped.visits if began < max(stopped.ended.values())} == {200}


def test_the_container_stops_by_itself(stopped: Stopped) -> None:
    assert stopped.how is None


def test_the_kernel_kills_a_job_rather_than_the_database(host: LxdGateway, tenant: Clone, stopped: Stopped) -> None:
    assert stopped.scores == {"500"}
    assert inside(host, tenant, "cat /proc/$(pidof mariadbd)/oom_score_adj") == "0\n"


@pytest.mark.parametrize("unit", ["php8.2-fpm", "cron", "mautic-worker@email"])
def test_a_process_that_the_kernel_kills_ends_no_other(unit: str, host: LxdGateway, tenant: Clone) -> None:
    assert inside(host, tenant, f"systemctl show -p OOMPolicy --value {unit}") == "continue\n"
