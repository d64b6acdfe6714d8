"""A tenant's database, large or small, in its own MariaDB: the double's schema, filled like a real one."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

from bot.guest.blueprint.mautic_ctl import counts, health, outbound
from tests.support.real_lxd import need
from tests.support.workspace import eventually

DOUBLE = Path(__file__).parents[1] / "mautic_double/tree/app/double"
HUNDREDTH = 10_000
"""The contacts of a tenant with 1 % of a large one's data, which are 1,000,000 contacts and 5,000,000 mails."""
FILL = """
SET unique_checks = 0, foreign_key_checks = 0;
INSERT INTO roles (id, name, is_admin) VALUES (1, 'Admin', 1);
INSERT INTO users (id, role_id, username, password, first_name, last_name, email)
  VALUES (1, 1, 'a', '*', 'a', 'b', 'a');
INSERT INTO leads (id, date_added, date_modified, date_identified, email)
  SELECT seq, {now} - INTERVAL ({contacts} - seq) MINUTE, IF(seq % 3 = 0, NULL, {now} - INTERVAL seq * 7 % 1000 MINUTE),
    IF(seq % 5 = 0, NULL, {now} - INTERVAL ({contacts} - seq) MINUTE),
    IF(seq % 5 = 0, NULL, CONCAT('c', seq, '@example.com')) FROM seq_1_to_{contacts};
INSERT INTO lead_lists (id, name, alias, filters, date_added, last_built_date)
  SELECT seq, 's', 's', '', {now}, {now} FROM seq_1_to_20;
INSERT INTO lead_lists_leads (leadlist_id, lead_id, date_added) SELECT 1, seq, {now} FROM seq_1_to_{contacts};
INSERT INTO emails (id, name, email_type, date_added, publish_up) SELECT seq, 'e', 'list', {now}, {now} FROM seq_1_to_6;
INSERT INTO email_list_xref SELECT seq, 1 FROM seq_1_to_6;
INSERT INTO email_stats (email_id, lead_id, email_address, date_sent, is_read, is_failed, tracking_hash)
  SELECT e.seq, l.seq, 'c@example.com', {now} - INTERVAL IF(e.seq < 5, e.seq * 864000, l.seq % 7200) SECOND,
    l.seq % 3 = 0, l.seq % 997 = 0, MD5(CONCAT(e.seq, l.seq)) FROM seq_1_to_5 e JOIN seq_1_to_{contacts} l;
INSERT INTO lead_donotcontact (lead_id, date_added, reason, channel)
  SELECT seq * 20, {now} - INTERVAL seq MINUTE, 1 + seq % 3, 'email' FROM seq_1_to_{contacts} WHERE seq % 20 = 0;
INSERT INTO forms (id, name, alias, post_action) VALUES (1, 'f', 'f', 'return');
INSERT INTO form_submissions (form_id, lead_id, date_submitted, referer)
  SELECT 1, seq, {now} - INTERVAL seq MINUTE, '' FROM seq_1_to_{contacts} WHERE seq % 2 = 0;
INSERT INTO campaigns (id, name, date_added) SELECT seq, 'c', {now} FROM seq_1_to_20;
INSERT INTO campaign_events (id, campaign_id, name, type, event_type)
  SELECT seq, seq, 'e', 'email.send', 'action' FROM seq_1_to_20;
INSERT INTO campaign_lead_event_log (event_id, lead_id, campaign_id, date_triggered, is_scheduled, trigger_date)
  SELECT 1 + l.seq % 20, l.seq, 1 + l.seq % 20, IF(l.seq % 10 = 0, NULL, {now}), l.seq % 10 = 0,
    {now} + INTERVAL CAST(l.seq % 200 AS SIGNED) - 100 HOUR FROM seq_1_to_2 e JOIN seq_1_to_{contacts} l;
INSERT INTO campaign_lead_event_failed_log (log_id, date_added, reason)
  SELECT seq, {now} - INTERVAL seq MINUTE, 'x' FROM seq_1_to_{contacts} WHERE seq % 10 = 1;
INSERT INTO message_queue
  (event_id, lead_id, channel, channel_id, priority, max_attempts, attempts, success, status, scheduled_date)
  SELECT 1, seq, 'email', 8, 2, 3, seq % 20 > 0, seq % 20 > 0, IF(seq % 20, 'sent', 'pending'),
    {now} - INTERVAL seq % 7200 SECOND FROM seq_1_to_{contacts};
INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at, delivered_at)
  SELECT REPEAT('x', 2000), '[]', ELT(1 + seq % 4, 'email', 'email', 'hit', 'failed'),
    {now} - INTERVAL ({contacts} - seq) SECOND, {now} - INTERVAL ({contacts} - seq) SECOND,
    CASE WHEN seq % 4 = 3 THEN NULL WHEN seq < 20 THEN {now} WHEN seq < 40 THEN '9999-12-31 23:59:59' END
    FROM seq_1_to_{contacts} WHERE seq < 40 OR seq % 3 = 0;
INSERT INTO webhooks (id, name, webhook_url) VALUES (1, 'w', '');
INSERT INTO webhook_queue (webhook_id, date_added)
  SELECT 1, {now} - INTERVAL IF(seq % 4, 0, 2) HOUR FROM seq_1_to_{contacts};
INSERT INTO page_hits (lead_id, date_hit, code, tracking_id)
  SELECT l.seq, {now} - INTERVAL l.seq SECOND, 200, 't' FROM seq_1_to_2 e JOIN seq_1_to_{contacts} l;
ANALYZE TABLE leads, email_stats, lead_lists_leads, campaign_lead_event_log, message_queue, messenger_messages,
  webhook_queue, form_submissions, lead_donotcontact, campaign_lead_event_failed_log, page_hits;
"""


class LargeTenant:
    """A MariaDB with a database `mautic`; `now`: when it was filled (SQL). The default pool is the smallest plan's."""

    def __init__(self, folder: Path, contacts: int = HUNDREDTH, buffer_pool: str = "768M") -> None:
        need("mariadbd")
        need("mariadb")
        self.socket = folder / "s.sock"
        self.contacts = contacts
        self.home = folder
        """The `HOME` of a client, whose `.my.cnf` names the database's socket."""
        (folder / ".my.cnf").write_text(f"[client]\nsocket = {self.socket}\n")
        data = folder / "data"
        made = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
        subprocess.run([*made, "--user=root", "--skip-test-db"], check=True, capture_output=True)
        self.process = subprocess.Popen(
            [
                "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={self.socket}",
                f"--pid-file={folder / 'pid'}", "--skip-networking", f"--innodb-buffer-pool-size={buffer_pool}",
                "--innodb-log-file-size=256M", "--innodb-flush-log-at-trx-commit=0", "--innodb-use-native-aio=0",
                "--performance-schema=0", "--default-time-zone=+00:00",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            eventually(self._answers)
            self._fill()
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, "MariaDB ended"
        return subprocess.run(self._client(""), input="SELECT 1", capture_output=True, text=True).returncode == 0

    def _client(self, database: str = "mautic") -> list[str]:
        return ["mariadb", "--no-defaults", f"--socket={self.socket}", "--batch", "--skip-column-names", database]

    def _fill(self) -> None:
        self.sql("CREATE DATABASE mautic CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci", "")
        self.sql((DOUBLE / "schema.sql").read_text())
        kernel = (DOUBLE / "kernel.php").read_text()
        (queues,) = re.findall(r"exec\('(CREATE TABLE IF NOT EXISTS messenger_messages [^']+)'\)", kernel)
        self.sql(f"{queues}; CREATE TABLE migrations (version VARCHAR(191) PRIMARY KEY);")
        self.now = f"CAST('{self.sql('SELECT UTC_TIMESTAMP()')[0][0]}' AS DATETIME)"
        self.sql(FILL.format(contacts=self.contacts, now=self.now))

    def sql(self, statements: str, database: str = "mautic") -> list[list[str]]:
        """Execute statements; return all rows."""
        ended = subprocess.run(self._client(database), input=statements, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return [line.split("\t") for line in ended.stdout.splitlines()]

    def seconds(self, statement: str) -> float:
        """Execute a statement; return its seconds by the database's own clock."""
        timed = f"SET @began = SYSDATE(6); {statement}; SELECT TIMESTAMPDIFF(MICROSECOND, @began, SYSDATE(6));"
        return int(self.sql(timed)[-1][0]) / 1e6

    def stop(self) -> None:
        """Kill the database, and delete its gigabytes of data."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.home / "data", ignore_errors=True)


def statements() -> dict[str, str]:
    """Return the queries that the bot makes of a tenant's large tables, by name; those since a time cover the last day.

    The query of waiting segment emails is left out, as it has to look at each contact: see `outbound.IN_SERVICE`.
    """
    since = int(time.time()) - 86_400
    asked = {
        "health": health.HEALTH_SQL,
        "counts": counts.COUNTS.format(since=since),
        "mail": outbound.COUNTS.format(patience=outbound.IN_SERVICE),
        "sent": outbound.SENT.format(since=f"date_sent >= '1970-01-01' + INTERVAL {since} SECOND"),
        **{
            f"drop {table}": f"SELECT id FROM {table} WHERE {waits} LIMIT {outbound.AT_ONCE};"
            for table, (waits, _, _) in outbound.DROPS.items()
            if table != "emails"
        },
    }
    found = {}
    for verb, text in asked.items():
        for statement in (" ".join(one.split()) for one in text.split(";\n")):
            if statement and not statement.startswith(("SET ", "SELECT 'broadcasts'")):
                label = re.match(r"SELECT '(\w+)'", statement)
                found[f"{verb} {label[1] if label else ''}".strip()] = statement.rstrip(";")
    return found
