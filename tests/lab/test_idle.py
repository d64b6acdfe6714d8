"""An idle tenant: new work in it is done in time, its workers come and go, and an older one is brought up to date."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from bot.guest.blueprint.furniture import furnish, is_old
from bot.guest.blueprint.mautic_look.rules import RULES
from bot.guest.mautic import Mautic
from bot.lxd.gateway import LxdGateway
from bot.settings import load
from tests.lab.conftest import SIZE, Clone, eventually
from tests.lab.test_tenant_tool import ask, sql

LIMITS = load(environment={}).health
BEATS = "/var/lib/mautic-ops/cron"
ALL_JOBS = "; ".join(f"mautic-cron 1 60 {job}" for job in RULES if job != "mautic:custom-field:delete-column")
"""Without the job that only newer releases have; the double has no custom fields."""


def inside(host: LxdGateway, tenant: Clone, script: str) -> str:
    ended = host.execute(tenant.name, ["sh", "-euc", script], timeout=120)
    assert ended.code == 0, ended.stderr
    return ended.stdout


def rest(host: LxdGateway, tenant: Clone) -> None:
    """Run each job a first time: from then on counts the interval after which it runs even without work."""
    inside(host, tenant, f"runuser -u www-data -- sh -c '{ALL_JOBS}'")


def looked(host: LxdGateway, tenant: Clone) -> dict[str, str]:
    """Return what mautic-look found for each job, as its heartbeat says: `nothing`, `off` or another answer."""
    beats = [json.loads(line) for line in inside(host, tenant, f"cat {BEATS}/*.json").splitlines()]
    return {beat["cmd"].split()[0]: beat["looked"] for beat in beats}


def resting(host: LxdGateway, tenant: Clone) -> Clone:
    """Let each job run until mautic-look answers each time that nothing is to be done, and return the tenant.

    It does not answer while it starts, or a job that cron runs at the same moment; then the job runs.
    """

    def answers() -> set[str]:
        rest(host, tenant)
        return set(looked(host, tenant).values())

    eventually(answers, lambda seen: seen == {"nothing", "off"})
    return tenant


@pytest.fixture(scope="module")
def idle(host: LxdGateway, clone: Callable[..., Clone]) -> Clone:
    """A tenant in which every job has run, and found nothing."""
    return resting(host, clone())


def test_jobs_without_work_start_no_php(host: LxdGateway, idle: Clone) -> None:
    seen = looked(host, idle)
    assert {job for job, found in seen.items() if found == "off"} == {"mautic:webhooks:process", "mautic:email:fetch"}
    assert {found for found in seen.values()} == {"off", "nothing"}
    php = "mv /usr/bin/php8.2 /usr/bin/php8.2.away"
    back = "mv /usr/bin/php8.2.away /usr/bin/php8.2"
    inside(host, idle, f"{php}; runuser -u www-data -- sh -c '{ALL_JOBS}' || true; {back}")
    assert looked(host, idle) == seen
    found = Mautic(host).health(idle.name, LIMITS)
    assert found["checks"]["crons"]["ok"], found["checks"]["crons"]
    assert found["facts"]["crons"]["mautic:import"]["looked"] is True


def test_a_worker_starts_within_two_seconds_and_ends_after_an_idle_minute(host: LxdGateway, idle: Clone) -> None:
    consumes = "grep -qs messenger:consum[e] /proc/[0-9]*/cmdline"

    def works() -> bool:
        return host.execute(idle.name, ["sh", "-c", consumes]).code == 0

    eventually(works, lambda seen: not seen, seconds=90)
    row = r"""('{\"to\":\"idle@example.test\"}', '[]', 'email', UTC_TIMESTAMP(), UTC_TIMESTAMP())"""
    table = "messenger_messages (body, headers, queue_name, created_at, available_at)"
    took = inside(
        host,
        idle,
        f"""began=$(date +%s%N); mariadb mautic -e "INSERT INTO {table} VALUES {row}"
        until {consumes}; do sleep 0.02; done; echo $((($(date +%s%N) - began) / 1000000))""",
    )
    assert int(took) < 2000
    began = time.monotonic()
    eventually(lambda: host.execute(idle.name, ["grep", "-c", "idle@", OUTBOX]).stdout, lambda seen: seen == "1\n")
    eventually(works, lambda seen: not seen, seconds=90)
    assert time.monotonic() - began > 50
    assert host.execute(idle.name, ["systemctl", "is-active", "mautic-worker@email"]).stdout == "active\n"


def test_the_buffer_pool_of_the_database_grows_with_use(host: LxdGateway, clone: Callable[..., Clone]) -> None:
    one = clone()

    def pool() -> int:
        return int(sql(host, one.name, "SELECT @@innodb_buffer_pool_size >> 20"))

    Mautic(host).resize(one.name, replace(SIZE, innodb_buffer_pool="256M"))
    inside(host, one, "systemctl restart mariadb")
    inside(host, one, "mautic-pool")
    assert pool() == 128
    sql(host, one.name, "CREATE TABLE much SELECT seq, REPEAT('x', 4000) AS much FROM seq_1_to_40000")
    for _ in range(2):
        inside(host, one, "mautic-pool")
        assert pool() == 256


def test_the_files_of_the_database_grow_in_small_steps(host: LxdGateway, clone: Callable[..., Clone]) -> None:
    one = clone()

    def megabytes(file: str) -> int:
        return int(inside(host, one, f"stat -c %s /var/lib/mysql/{file}")) >> 20

    assert megabytes("ibtmp1") == 4
    assert megabytes("ibdata1") <= 20
    much = "CREATE TEMPORARY TABLE much ENGINE=InnoDB SELECT seq, REPEAT('x', 200) AS much FROM seq_1_to_20000"
    sql(host, one.name, much)
    assert megabytes("ibtmp1") <= 20


OUTBOX = "/var/www/mautic/var/double-outbox.log"
WORK = """
INSERT INTO leads SET id = 7001, email = 'one@late.test', date_added = UTC_TIMESTAMP();
INSERT INTO lead_lists SET id = 7001, name = 's', alias = 's',
  filters = 'a:1:{i:0;a:3:{s:5:"field";s:5:"email";s:8:"operator";s:6:"!empty";s:6:"filter";N;}}';
INSERT INTO campaigns SET id = 7001, name = 'c';
INSERT INTO campaign_leadlist_xref SET campaign_id = 7001, leadlist_id = 7001;
INSERT INTO campaign_events SET id = 7001, campaign_id = 7001, name = 'e', type = 'email.send', event_type = 'action',
  channel = 'email', channel_id = 7001;
INSERT INTO message_queue SET id = 7001, lead_id = 7001, channel = 'email', channel_id = 7002, priority = 2,
  max_attempts = 3, attempts = 0, success = 0, status = 'pending', scheduled_date = UTC_TIMESTAMP();
INSERT INTO imports SET id = 7001, dir = '/var/www/mautic/var/import', file = 'late.csv', status = 1;
INSERT INTO contact_export_scheduler SET user_id = 1, scheduled_datetime = UTC_TIMESTAMP();
INSERT INTO reports SET id = 7001, name = 'r'; INSERT INTO reports_schedulers SET report_id = 7001,
  schedule_date = UTC_TIMESTAMP();
INSERT INTO emails SET id = 7003, name = 'b', email_type = 'list', publish_up = UTC_TIMESTAMP();
INSERT INTO email_list_xref SET email_id = 7003, leadlist_id = 7001;
INSERT INTO sms_messages SET id = 7001, name = 't', message = 't', sms_type = 'list', publish_up = UTC_TIMESTAMP();
INSERT INTO sms_message_list_xref SET sms_id = 7001, leadlist_id = 7001;
INSERT INTO webhooks SET id = 7001, name = 'w', webhook_url = 'https://w.invalid';
INSERT INTO webhook_queue SET webhook_id = 7001, date_added = UTC_TIMESTAMP();
"""
LEFT = {
    "contacts are in their segment": "SELECT COUNT(*) = 0 FROM lead_lists_leads WHERE lead_id = 7001",
    "and in its campaign": "SELECT COUNT(*) = 0 FROM campaign_leads WHERE lead_id = 7001",
    "its event has run": "SELECT COUNT(*) = 0 FROM campaign_lead_event_log WHERE lead_id = 7001 AND is_scheduled = 0",
    "messages": "SELECT COUNT(*) FROM message_queue WHERE success = 0",
    "imports": "SELECT COUNT(*) FROM imports WHERE status <> 3",
    "exports": "SELECT COUNT(*) FROM contact_export_scheduler",
    "reports": "SELECT COUNT(*) FROM reports_schedulers WHERE schedule_date <= UTC_TIMESTAMP()",
    "broadcasts": "SELECT COUNT(*) = 0 FROM email_stats WHERE email_id = 7003",
    "text messages": "SELECT COUNT(*) = 0 FROM sms_message_stats",
    "webhooks": "SELECT COUNT(*) FROM webhook_queue",
}


@pytest.fixture(scope="module", autouse=True)
def late_work(host: LxdGateway, clone: Callable[..., Clone]) -> Iterator[tuple[Clone, Future[dict[str, float]]]]:
    """An idle tenant that gets WORK, and the seconds after which each part of it is done.

    Cron takes minutes for that, during which the other tests of this module run.
    """
    one = resting(host, clone())
    inside(host, one, "sed -i -E 's/^[0-9*][^ ]* +[*] [*] [*] [*] /* * * * * /' /etc/cron.d/mautic")
    webhooks = "config/parameters_local.php"
    inside(host, one, f"cd /var/www/mautic; sed -i \"s/);$/'queue_mode' => 'command_process',\\n);/\" {webhooks}")
    inside(host, one, "printf 'email\\nimported@late.test\\n' >/var/www/mautic/var/import/late.csv")
    sql(host, one.name, WORK)
    with ThreadPoolExecutor(1) as pool:
        yield one, pool.submit(_done, host, one)


def _done(host: LxdGateway, tenant: Clone) -> dict[str, float]:
    began, done = time.monotonic(), dict[str, float]()
    while len(done) < len(LEFT) and time.monotonic() - began < 300:
        for what, left in LEFT.items():
            if what not in done and sql(host, tenant.name, left) == "0":
                done[what] = time.monotonic() - began
        time.sleep(0.5)
    return done


BEFORE = {
    "/usr/local/bin/mautic-worker": (
        "#!/bin/sh\nexec php8.2 /var/www/mautic/bin/console messenger:consume email hit --time-limit=3600 -n\n"
    ),
    "/usr/local/bin/mautic-cron": (
        '#!/bin/sh\nshift 2\nname=$(printf %s "$1" | tr : _)\nstart=$(date +%s)\n'
        'php8.2 /var/www/mautic/bin/console "$@" -n >/dev/null 2>&1\nrc=$?\n'
        'printf \'{"cmd":"%s","start":%s,"end":%s,"rc":%s,"skipped":false,"last_success":%s}\\n\''
        f' "$*" $start $start $rc $start >{BEATS}/$name.json\n'
    ),
    "/etc/mysql/mariadb.conf.d/80-mautic.cnf": "[mysqld]\nskip-networking\ninnodb_use_native_aio = 0\n",
}
"""The relevant files of a tenant from an earlier bot: nothing looks for work, and the worker polls."""


def test_an_older_tenant_is_brought_up_to_date_while_it_serves(host: LxdGateway, clone: Callable[..., Clone]) -> None:
    one = clone()
    mautic = Mautic(host)
    # By itself: it ends what names mautic-cron, which the next lines do.
    inside(host, one, "systemctl stop cron mautic-drain")
    inside(
        host,
        one,
        "systemctl stop mautic-worker@email; systemctl disable --now mautic-look 2>&1;"
        " rm -rf /etc/systemd/system/mautic-drain.service /etc/systemd/system/cron.service.d/jobs.conf"
        " /usr/local/lib/mautic-ops /usr/local/bin/mautic-look /etc/systemd/system/mautic-look.service"
        " /etc/default/mautic-cron /var/lib/mautic-ops/furniture.json;"
        " mariadb -e \"DROP USER 'www-data'@'localhost'\"",
    )
    for path, text in BEFORE.items():
        host.push(one.name, path, text.encode(), mode=0o755 if "/bin/" in path else 0o644)
    inside(host, one, "systemctl daemon-reload; systemctl restart mariadb; systemctl start cron mautic-worker@email")
    host.update(one.name, {"user.mautic-ops.furniture": None})
    inside(host, one, "runuser -u www-data -- mautic-cron 1 60 mautic:import")
    before = eventually(lambda: mautic.health(one.name, LIMITS), lambda found: bool(found["healthy"]))
    assert (before["facts"]["furniture"], is_old(host.instance(one.name))) == (1, True)
    assert before["facts"]["crons"]["mautic:import"]["why"] == "exit code 0"

    gaps, ended = [0.0], threading.Event()

    def visit() -> None:
        last = time.monotonic()
        while not ended.is_set():
            if _status(one) == 200:
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
            time.sleep(0.02)

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        for _ in range(2):
            furnish(host, one.name, every=60)
        time.sleep(1)
    finally:
        ended.set()
        visitor.join()
    assert max(gaps) < 3
    assert not is_old(host.instance(one.name))
    resting(host, one)
    after = eventually(lambda: mautic.health(one.name, LIMITS), lambda found: bool(found["healthy"]))
    assert after["facts"]["services"]["mautic-look"] == "active"
    assert inside(host, one, "systemctl is-active mautic-drain") == "active\n"
    main = inside(host, one, "systemctl show -p MainPID --value mautic-worker@email").strip()
    assert re.search(
        rb"python3.*mautic-worker", host.execute(one.name, ["cat", f"/proc/{main}/cmdline"]).stdout.encode()
    )


def _status(tenant: Clone) -> int:
    try:
        return ask(tenant.address, tenant.domain, "/s/login")[0]
    except OSError:
        return 0


def test_new_work_in_an_idle_tenant_is_done_in_time(
    host: LxdGateway, late_work: tuple[Clone, Future[dict[str, float]]]
) -> None:
    """Cron itself does the work: the next run of each job is at most a minute away here, and done a minute later.

    Work that passes from job to job takes a minute more for each: a segment, its campaign or broadcast, the event.
    """
    tenant, working = late_work
    done = working.result()
    after_the_segment = dict.fromkeys(("and in its campaign", "broadcasts", "text messages"), 180.0)
    most = dict.fromkeys(LEFT, 120.0) | after_the_segment | {"its event has run": 240.0}
    assert {what: done.get(what, 999) for what in LEFT if done.get(what, 999) > most[what]} == {}, done
    # The message and the broadcast: the job queues the mail, and a worker that is woken for it sends it.
    sent = ["grep", "-c", "one@late.test", OUTBOX]
    eventually(lambda: int(host.execute(tenant.name, sent).stdout or 0), lambda number: number >= 2)
