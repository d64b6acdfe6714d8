"""What a job or a worker in the middle of its work, and visitors meanwhile, notice when a tenant's work is ended."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from bot.guest.mautic import Mautic
from bot.lxd.gateway import LxdGateway
from tests.lab.conftest import Clone, eventually
from tests.lab.test_tenant_tool import ROOT, ask, sql

BATCH = 40
OURS = f"--batch-limit={BATCH}"
"""Tells the test's job from those that cron starts meanwhile."""
CAMPAIGN = f"""<?php
// As Mautic does it: first a log entry for each contact of the batch, then the mails. It does not handle SIGTERM.
if (!in_array('{OURS}', $argv)) exit(0);
$folder = __DIR__ . '/../var';
file_put_contents("$folder/logged", str_repeat("contact\\n", {BATCH}));
for ($mail = 0; $mail < {BATCH}; $mail++) {{
    for ($end = microtime(true) + 0.1; microtime(true) < $end;) usleep(2000);
    file_put_contents("$folder/mailed", "mail\\n", FILE_APPEND);
}}
""".encode()
SLOW_MAIL = b"""<?php
// At SIGTERM, Symfony's worker finishes its current message, which its mail server keeps for six seconds.
pcntl_async_signals(true);
pcntl_signal(SIGTERM, fn () => null);
touch(__DIR__ . '/../var/began');
for ($end = microtime(true) + 6; microtime(true) < $end;) usleep(10000);
touch(__DIR__ . '/../var/sent');
"""


def exists(host: LxdGateway, one: Clone, file: str) -> bool:
    return host.execute(one.name, ["test", "-e", f"{ROOT}/var/{file}"]).code == 0


@pytest.mark.parametrize("end", ["quiesced", "stopped", "closed", "restarted", "kept from sending"])
def test_a_batch_in_progress_is_sent_when_the_tenant_is(
    end: str, host: LxdGateway, clone: Callable[..., Clone]
) -> None:
    """Mautic never sends to a contact whose log entry is there already."""
    one, mautic = clone(), Mautic(host)
    host.push(one.name, f"{ROOT}/bin/console", CAMPAIGN, mode=0o755)
    sql(host, one.name, "INSERT INTO campaigns SET id = 7001, name = 'c'")
    job = f"setsid runuser -u www-data -- mautic-cron 1 7200 mautic:campaigns:trigger {OURS} >/dev/null 2>&1 &"
    host.execute(one.name, ["sh", "-c", job])
    eventually(lambda: exists(host, one, "mailed"), bool)
    match end:
        case "quiesced":
            mautic.quiesce(one.name)
        case "stopped":
            mautic.stop_work(one.name)
        case "closed":
            mautic.close(one.name, "suspend")
        case "restarted":
            mautic.restart_part(one.name, "database")
        case _:
            mautic.release(one.name, "off")
    assert host.pull(one.name, f"{ROOT}/var/mailed").count(b"\n") == BATCH
    runs = f"grep -l -e '{OURS[:-1]}[{OURS[-1]}]' /proc/[0-9]*/cmdline"
    assert host.execute(one.name, ["sh", "-c", runs]).stdout == ""


@pytest.mark.parametrize("end", [Mautic.quiesce, Mautic.stop_work])
def test_visitors_are_served_until_the_workers_have_ended(
    end: Callable[[Mautic, str], object], host: LxdGateway, clone: Callable[..., Clone]
) -> None:
    one = clone()
    host.push(one.name, f"{ROOT}/bin/console", SLOW_MAIL, mode=0o755)
    columns = "(body, headers, queue_name, created_at, available_at)"
    waits = "('{}', '[]', 'email', UTC_TIMESTAMP(), UTC_TIMESTAMP())"
    sql(host, one.name, f"INSERT INTO messenger_messages {columns} VALUES {waits}")
    eventually(lambda: exists(host, one, "began"), bool)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(end, Mautic(host), one.name)
        served = []
        while not exists(host, one, "sent"):
            served.append(ask(one.address, one.domain, "/s/login")[0])
        ended.result()
    assert set(served[:-1]) == {200}
    assert ask(one.address, one.domain, "/s/login")[0] == 503


def test_mariadb_writes_as_before_once_it_was_restarted_or_the_tenant_reopened(
    host: LxdGateway, clone: Callable[..., Clone]
) -> None:
    """Before its shutdown, its dirty pages are written as fast as the disk can."""
    one, mautic = clone(), Mautic(host)
    asked = "SELECT @@innodb_io_capacity, @@innodb_io_capacity_max, @@innodb_max_dirty_pages_pct"
    before = sql(host, one.name, asked)
    mautic.restart_part(one.name, "database")
    assert sql(host, one.name, asked) == before
    sql(host, one.name, "SET GLOBAL innodb_io_capacity_max = 40000, innodb_io_capacity = 20000")
    mautic.unquiesce(one.name)
    assert sql(host, one.name, asked) == before
