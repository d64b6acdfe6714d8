"""The database schema, migration by migration. None is ever altered or removed: databases in the field have them.

The module is longer than others and only grows, because the order of the migrations matters.
"""

from __future__ import annotations

import json
import sqlite3
import sys

# sqlite_utils imports numpy if it is installed, as it is for the chart: 14 MB that the bot does not need.
sys.modules.setdefault("numpy", None)  # type: ignore[arg-type]

import sqlite_utils  # noqa: E402
from sqlite_utils import Migrations  # noqa: E402

from bot.store import before_keys  # noqa: E402

if sys.modules["numpy"] is None:
    # Later imports are to find the real module.
    del sys.modules["numpy"]

MAINTENANCE = 1_000_000_000
"""The numbers of maintenance operations are above this, those of people's requests below."""

_changes = Migrations("mautic-ops")


def migrate(connection: sqlite3.Connection) -> None:
    """Run the migrations that a database has not had yet."""
    _changes.apply(sqlite_utils.Database(connection))


@_changes()
def m001_begin(db: sqlite_utils.Database) -> None:
    """Create the tables of operations, steps, decisions, thread notes, deliveries, first logins, and the audit log."""
    db.executescript(
        """
        CREATE TABLE operations (
          id INTEGER PRIMARY KEY AUTOINCREMENT, command TEXT NOT NULL, tenant TEXT NOT NULL, arguments TEXT NOT NULL,
          requester TEXT NOT NULL, channel TEXT NOT NULL, state TEXT NOT NULL, plan TEXT NOT NULL,
          fingerprint TEXT NOT NULL, request_key TEXT NOT NULL UNIQUE, attempts INTEGER NOT NULL DEFAULT 0,
          created REAL NOT NULL, expires REAL NOT NULL, started REAL, finished REAL,
          outcome TEXT NOT NULL DEFAULT '', error_id TEXT NOT NULL DEFAULT '',
          message_ts TEXT NOT NULL DEFAULT '', revision INTEGER NOT NULL DEFAULT 1,
          announced INTEGER NOT NULL DEFAULT 0);
        CREATE UNIQUE INDEX one_open_operation ON operations(tenant)
          WHERE tenant <> '' AND state IN ('awaiting_approval', 'queued', 'running', 'needs_attention');
        CREATE INDEX operations_by_state ON operations(state);
        CREATE INDEX operations_to_announce ON operations(id) WHERE announced < revision;
        CREATE TABLE steps (
          operation INTEGER NOT NULL REFERENCES operations(id), position INTEGER NOT NULL, title TEXT NOT NULL,
          started REAL, finished REAL, note TEXT NOT NULL DEFAULT '', PRIMARY KEY (operation, position));
        CREATE TABLE decisions (
          operation INTEGER NOT NULL REFERENCES operations(id), actor TEXT NOT NULL, verdict TEXT NOT NULL,
          reason TEXT NOT NULL, via TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (operation, actor));
        CREATE TABLE notes (
          id INTEGER PRIMARY KEY AUTOINCREMENT, operation INTEGER NOT NULL REFERENCES operations(id),
          text TEXT NOT NULL, posted REAL);
        CREATE INDEX notes_to_post ON notes(operation) WHERE posted IS NULL;
        CREATE TABLE inbox (
          id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, payload TEXT NOT NULL,
          received REAL NOT NULL, done REAL);
        CREATE INDEX inbox_open ON inbox(id) WHERE done IS NULL;
        CREATE TABLE secrets (
          operation INTEGER PRIMARY KEY REFERENCES operations(id), tenant TEXT NOT NULL, owner TEXT NOT NULL,
          ciphertext BLOB NOT NULL, expires REAL NOT NULL);
        CREATE TABLE audit (
          seq INTEGER PRIMARY KEY, at REAL NOT NULL, event TEXT NOT NULL, actor TEXT NOT NULL, tenant TEXT NOT NULL,
          operation INTEGER NOT NULL, detail TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL UNIQUE);
        CREATE INDEX audit_by_tenant ON audit(tenant, seq);
        CREATE TRIGGER audit_is_append_only_update BEFORE UPDATE ON audit
          BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
        CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit
          BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
        """
    )


@_changes()
def m002_undo_and_inserts(db: sqlite_utils.Database) -> None:
    """Add who asked for a rollback; keep INSERT from replacing rows of the audit log or adding them out of order."""
    db.executescript(
        """
        ALTER TABLE operations ADD COLUMN undo_by TEXT NOT NULL DEFAULT '';
        CREATE TRIGGER audit_is_append_only_insert BEFORE INSERT ON audit
          WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM audit)
            OR EXISTS (SELECT 1 FROM audit WHERE hash = NEW.hash)
          BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
        """
    )


@_changes()
def m004_jobs(db: sqlite_utils.Database) -> None:
    """Create the table of jobs: who paused each, its last run and the result of that."""
    db.executescript(
        """
        CREATE TABLE jobs (
          name TEXT PRIMARY KEY, paused REAL, paused_by TEXT NOT NULL DEFAULT '', started REAL, finished REAL,
          outcome TEXT NOT NULL DEFAULT '', error_id TEXT NOT NULL DEFAULT '');
        """
    )


@_changes()
def m005_samples(db: sqlite_utils.Database) -> None:
    """Create the tables of tenant and host measurements; `span`: seconds that a row covers, 0 for a single look."""
    db.executescript(
        """
        CREATE TABLE tenant_samples (
          span INTEGER NOT NULL, at INTEGER NOT NULL, tenant TEXT NOT NULL, looks INTEGER NOT NULL, up REAL,
          page REAL, page_max REAL, memory REAL, memory_max INTEGER, cpu REAL, cpu_max REAL, disk INTEGER,
          queue_age REAL, contacts INTEGER, log_errors INTEGER, cpu_time INTEGER,
          PRIMARY KEY (span, at, tenant)) WITHOUT ROWID;
        CREATE INDEX samples_by_tenant ON tenant_samples(tenant, span, at);
        CREATE TABLE host_samples (
          span INTEGER NOT NULL, at INTEGER NOT NULL, host TEXT NOT NULL, looks INTEGER NOT NULL,
          used INTEGER NOT NULL, total INTEGER NOT NULL, PRIMARY KEY (span, at, host)) WITHOUT ROWID;
        """
    )


@_changes()
def m007_incidents(db: sqlite_utils.Database) -> None:
    """Create the tables of incidents, at most one open per subject and kind, and of the notes for their threads."""
    db.executescript(
        """
        CREATE TABLE incidents (
          id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, server TEXT NOT NULL, kind TEXT NOT NULL,
          text TEXT NOT NULL, opened REAL NOT NULL, closed REAL, silenced_until REAL NOT NULL DEFAULT 0,
          silenced_by TEXT NOT NULL DEFAULT '', channel TEXT NOT NULL, message_ts TEXT NOT NULL DEFAULT '',
          tried INTEGER NOT NULL DEFAULT 0, revision INTEGER NOT NULL DEFAULT 1, announced INTEGER NOT NULL DEFAULT 0);
        CREATE UNIQUE INDEX one_open_incident ON incidents(tenant, server, kind) WHERE closed IS NULL;
        CREATE INDEX incidents_by_end ON incidents(closed);
        CREATE INDEX incidents_to_announce ON incidents(id) WHERE announced < revision;
        CREATE TABLE incident_notes (
          id INTEGER PRIMARY KEY AUTOINCREMENT, incident INTEGER NOT NULL REFERENCES incidents(id),
          text TEXT NOT NULL, tried INTEGER NOT NULL DEFAULT 0, posted REAL);
        CREATE INDEX operations_by_end ON operations(finished);
        CREATE INDEX incident_notes_to_post ON incident_notes(incident) WHERE posted IS NULL;
        """
    )


@_changes()
def m006_digests(db: sqlite_utils.Database) -> None:
    """Create the table of digests, one per local day: what each says, and how much of that was posted."""
    db.executescript(
        """
        CREATE TABLE digests (
          day TEXT PRIMARY KEY, at REAL NOT NULL, said TEXT NOT NULL, picture BLOB NOT NULL,
          ts TEXT NOT NULL DEFAULT '', posted INTEGER NOT NULL DEFAULT 0, ended REAL);
        """
    )


@_changes()
def m009_begun(db: sqlite_utils.Database) -> None:
    """Add whether a step of an operation began and was not rolled back: unlike step times, it outlives a retry."""
    db.executescript(
        """
        ALTER TABLE operations ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
        UPDATE operations SET begun = 1 WHERE state IN ('queued', 'running', 'needs_attention')
          AND id IN (SELECT operation FROM steps WHERE started IS NOT NULL);
        """
    )


@_changes()
def m010_snapshots_pass(db: sqlite_utils.Database) -> None:
    """Let the bot's own snapshots run on a tenant that is locked by a request waiting for approval."""
    db.executescript(
        """
        DROP INDEX one_open_operation;
        CREATE UNIQUE INDEX one_operation_under_way ON operations(tenant)
          WHERE tenant <> '' AND state IN ('queued', 'running', 'needs_attention');
        CREATE UNIQUE INDEX one_open_operation ON operations(tenant)
          WHERE tenant <> '' AND state IN ('awaiting_approval', 'queued', 'running', 'needs_attention')
            AND NOT (requester = 'system' AND command = 'snapshot');
        """
    )


@_changes()
def m011_tried_notes(db: sqlite_utils.Database) -> None:
    """Add whether posting a note was tried: then the bot looks for the note before it posts it again."""
    db.executescript("ALTER TABLE notes ADD COLUMN tried INTEGER NOT NULL DEFAULT 0;")


@_changes()
def m012_figures(db: sqlite_utils.Database) -> None:
    """Add since when the head of an incident shows figures that have changed."""
    db.executescript("ALTER TABLE incidents ADD COLUMN outdated REAL;")


@_changes()
def m013_snapshots_taken(db: sqlite_utils.Database) -> None:
    """Index the steps in the audit log that took a snapshot, by time: a big fleet has thousands a day."""
    db.executescript(
        """
        CREATE INDEX snapshots_taken ON audit(at, tenant)
          WHERE event = 'step.finished' AND detail LIKE '%"step": "Take %snapshot%';
        """
    )


@_changes()
def m014_purges_pass(db: sqlite_utils.Database) -> None:
    """Let the bot's own purges, too, run on a tenant that is locked by a request waiting for approval."""
    db.executescript(
        """
        DROP INDEX one_open_operation;
        CREATE UNIQUE INDEX one_open_operation ON operations(tenant)
          WHERE tenant <> '' AND state IN ('awaiting_approval', 'queued', 'running', 'needs_attention')
            AND NOT (requester = 'system' AND command IN ('snapshot', 'purge'));
        """
    )


@_changes()
def m015_aftermath(db: sqlite_utils.Database) -> None:
    """Add who ended an operation that was not carried out, and what a failed one left behind, as JSON."""
    db.executescript(
        """
        ALTER TABLE operations ADD COLUMN ended_by TEXT NOT NULL DEFAULT '';
        ALTER TABLE operations ADD COLUMN aftermath TEXT NOT NULL DEFAULT '{}';
        """
    )


@_changes()
def m016_unsaid(db: sqlite_utils.Database) -> None:
    """Add the only state in which a note is posted, the messages that Slack refuses, and who was warned of what."""
    db.executescript(
        """
        ALTER TABLE notes ADD COLUMN only_in TEXT NOT NULL DEFAULT '';
        CREATE TABLE unsaid (operation INTEGER PRIMARY KEY, since REAL NOT NULL, why TEXT NOT NULL);
        CREATE TABLE warned (subject TEXT NOT NULL, person TEXT NOT NULL, at REAL NOT NULL,
          PRIMARY KEY (subject, person));
        """
    )


@_changes()
def m017_disks(db: sqlite_utils.Database) -> None:
    """Delete disk figures not measured as the limits count; create the table of the last known disk use of tenants.

    No sweep can measure the disk of a tenant that does not run.
    """
    db.executescript(
        """
        UPDATE tenant_samples SET disk = NULL;
        CREATE TABLE tenant_disks (
          tenant TEXT PRIMARY KEY, at INTEGER NOT NULL, used INTEGER NOT NULL, size INTEGER) WITHOUT ROWID;
        """
    )


@_changes()
def m018_given_up(db: sqlite_utils.Database) -> None:
    """Add why somebody gave an operation up."""
    db.executescript("ALTER TABLE operations ADD COLUMN reason TEXT NOT NULL DEFAULT '';")


@_changes()
def m019_host_memory(db: sqlite_utils.Database) -> None:
    """Add the measurements of a host's memory, and its load."""
    db.executescript(
        """
        ALTER TABLE host_samples ADD COLUMN memory INTEGER;
        ALTER TABLE host_samples ADD COLUMN memory_total INTEGER;
        ALTER TABLE host_samples ADD COLUMN load REAL;
        """
    )


@_changes()
def m020_uncounted(db: sqlite_utils.Database) -> None:
    """Create the table of hosts whose pools do not count disk use, and since when: the bot restarted the count then."""
    db.executescript("CREATE TABLE uncounted (host TEXT PRIMARY KEY, since REAL NOT NULL) WITHOUT ROWID;")


@_changes()
def m021_lived(db: sqlite_utils.Database) -> None:
    """Create the tables of elapsed time, of how far ahead the wall clock was, and of what awaits a second look.

    For records from before this migration, elapsed time counts from now on only.
    """
    db.executescript(
        """
        CREATE TABLE lived (
          id INTEGER PRIMARY KEY CHECK (id = 1), boot TEXT NOT NULL, ticks REAL NOT NULL, seconds REAL NOT NULL);
        CREATE TABLE stretches (began REAL PRIMARY KEY, ended REAL NOT NULL, ahead REAL NOT NULL) WITHOUT ROWID;
        CREATE TABLE second_looks (
          kind TEXT NOT NULL, subject TEXT NOT NULL, since REAL NOT NULL, PRIMARY KEY (kind, subject)) WITHOUT ROWID;
        """
    )


@_changes()
def m022_held_since(db: sqlite_utils.Database) -> None:
    """Add when credentials were made: their expiry takes that much elapsed time."""
    db.executescript(
        """
        ALTER TABLE secrets ADD COLUMN made REAL NOT NULL DEFAULT 0;
        UPDATE secrets SET made = (SELECT created FROM operations WHERE id = operation);
        """
    )


@_changes()
def m023_lived_deliveries(db: sqlite_utils.Database) -> None:
    """Add when a delivery came, in elapsed time; 0: unknown."""
    db.executescript("ALTER TABLE inbox ADD COLUMN lived REAL NOT NULL DEFAULT 0;")


@_changes()
def m024_tenant_snapshots(db: sqlite_utils.Database) -> None:
    """Create the table of the last known bytes in each tenant's snapshots, which take a request per tenant to read."""
    db.executescript(
        """
        CREATE TABLE tenant_snapshots (
          tenant TEXT PRIMARY KEY, at INTEGER NOT NULL, count INTEGER NOT NULL, held INTEGER NOT NULL) WITHOUT ROWID;
        """
    )


@_changes()
def m025_asked(db: sqlite_utils.Database) -> None:
    """Add when an operation was requested, in elapsed time; NULL: unknown."""
    db.executescript("ALTER TABLE operations ADD COLUMN asked REAL;")


@_changes()
def m026_step_keys(db: sqlite_utils.Database) -> None:
    """Add the key of each step, what a plan was made from, whether its commit point was passed, and why a step failed.

    Until then all of that was read from words. Rows of the audit log stay as they are.
    """
    # One by one: `executescript` would commit what comes before it.
    for statement in _STEP_KEYS:
        db.conn.execute(statement)
    _keys_for_words(db.conn)


_STEP_KEYS = (
    "ALTER TABLE steps ADD COLUMN key TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE steps ADD COLUMN takes_snapshot INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE operations ADD COLUMN committed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE operations ADD COLUMN cause TEXT NOT NULL DEFAULT ''",
    "CREATE TABLE snapshots_of_tenants (at REAL NOT NULL, tenant TEXT NOT NULL)",
    "INSERT INTO snapshots_of_tenants SELECT at, tenant FROM audit INDEXED BY snapshots_taken"
    """ WHERE event = 'step.finished' AND detail LIKE '%"step": "Take %snapshot%'""",
    "DROP INDEX snapshots_taken",
    "CREATE INDEX snapshots_of_tenants_by_time ON snapshots_of_tenants(at, tenant)",
    # In any attempt: a retry resets the steps, but the audit log has those of earlier attempts.
    "UPDATE operations SET committed = 1 WHERE (id, tenant) IN (SELECT operation, tenant FROM audit"
    " WHERE event = 'step.finished' AND json_extract(detail, '$.step') = 'See its login page')",
    "UPDATE operations SET cause = outcome WHERE undo_by = 'system'",
    "UPDATE operations SET cause = substr(cause, 1, instr(cause, ' What it had begun could not be taken back: ') - 1)"
    " WHERE instr(cause, ' What it had begun could not be taken back: ')",
)


def _keys_for_words(connection: sqlite3.Connection) -> None:
    titles = [row[0] for row in connection.execute("SELECT DISTINCT title FROM steps").fetchall()]
    connection.executemany(
        "UPDATE steps SET key = ?, takes_snapshot = ? WHERE title = ?",
        [(before_keys.key_of(title), before_keys.takes_snapshot(title), title) for title in titles],
    )
    # Operations in any other state have ended and are never planned again.
    waiting = connection.execute(
        "SELECT id, command, arguments, plan FROM operations"
        " WHERE state IN ('awaiting_approval', 'queued', 'running', 'failed', 'needs_attention')"
    ).fetchall()
    for identity, command, arguments, stored in waiting:
        plan = json.loads(stored)
        commits = connection.execute(
            "SELECT 1 FROM steps WHERE operation = ? AND key = ?", (identity, before_keys.COMMIT)
        ).fetchone()
        plan |= {
            "values": before_keys.values_of(command, json.loads(arguments), plan["facts"]),
            "texts": before_keys.texts_of(plan.get("remarks", {})),
            "commit": before_keys.COMMIT if commits else "",
            "of_before": True,
        }
        connection.execute("UPDATE operations SET plan = ? WHERE id = ?", (json.dumps(plan), identity))


@_changes()
def m027_freezes(db: sqlite_utils.Database) -> None:
    """Create the table of freezes, one per tenant ("": all) at a time; add which guard a queued operation waits for.

    An operation that waits for the end of a freeze, which may last for days, locks its tenant against people, but not
    against the bot's own snapshots.
    """
    # One by one: `executescript` would commit what comes before it.
    for statement in _FREEZES:
        db.conn.execute(statement)


_FREEZES = (
    "CREATE TABLE freezes (id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, actor TEXT NOT NULL,"
    " reason TEXT NOT NULL, at REAL NOT NULL, lived REAL NOT NULL, until REAL, delivery TEXT NOT NULL DEFAULT '',"
    " ended REAL, ended_by TEXT NOT NULL DEFAULT '', ended_in TEXT NOT NULL DEFAULT '')",
    "CREATE UNIQUE INDEX one_freeze ON freezes(tenant) WHERE ended IS NULL",
    "ALTER TABLE operations ADD COLUMN held_by TEXT NOT NULL DEFAULT ''",
    "UPDATE operations SET held_by = 'memory' WHERE state = 'queued' AND outcome <> '' AND begun = 0 AND undo_by = ''",
    "DROP INDEX one_operation_under_way",
    "CREATE UNIQUE INDEX one_operation_under_way ON operations(tenant)"
    " WHERE tenant <> '' AND state IN ('queued', 'running', 'needs_attention')"
    " AND NOT (state = 'queued' AND held_by = 'freeze')",
)


@_changes()
def m028_subjects(db: sqlite_utils.Database) -> None:
    """Add what an operation changes and the batch that it is a child of; create the table of batches.

    `parent` 0: none. `forgiven`: failures after which somebody continued the batch.
    """
    # One by one: `executescript` would commit what comes before it.
    for statement in _SUBJECTS:
        db.conn.execute(statement)


_SUBJECTS = (
    "ALTER TABLE operations ADD COLUMN subject TEXT NOT NULL DEFAULT 'tenant'",
    "ALTER TABLE operations ADD COLUMN host TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE operations ADD COLUMN parent INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX operations_by_parent ON operations(parent, state) WHERE parent <> 0",
    "CREATE TABLE batches (operation INTEGER PRIMARY KEY REFERENCES operations(id), at_once INTEGER NOT NULL,"
    " at_once_host INTEGER NOT NULL, stop_after INTEGER NOT NULL, forgiven INTEGER NOT NULL DEFAULT 0,"
    " paused REAL, paused_by TEXT NOT NULL DEFAULT '', stopped REAL, stopped_by TEXT NOT NULL DEFAULT '')",
)


@_changes()
def m029_numbers(db: sqlite_utils.Database) -> None:
    """Number people's requests and maintenance separately, and group maintenance that was requested together into runs.

    `asked_after`: the last number of a person's request by then. Old numbers stay; each kind continues above them.
    """
    for statement in _NUMBERS:
        db.conn.execute(statement)


_NUMBERS = (
    "CREATE TABLE numbers (kind TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO numbers SELECT 'person', max(coalesce((SELECT max(id) FROM operations), 0),"
    " coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'operations'), 0))",
    f"INSERT INTO numbers VALUES ('maintenance', {MAINTENANCE})",  # noqa: S608
    "ALTER TABLE operations ADD COLUMN asked_after INTEGER NOT NULL DEFAULT 0",
    "UPDATE operations SET asked_after = id",
    "ALTER TABLE operations ADD COLUMN run INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX operations_by_run ON operations(run, state) WHERE run <> 0",
    "CREATE INDEX operations_by_time ON operations(created)",
    "CREATE TABLE maintenance_runs (id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, began REAL NOT NULL,"
    " ended REAL)",
    "CREATE UNIQUE INDEX one_open_run ON maintenance_runs(job) WHERE ended IS NULL",
)


@_changes()
def m030_evidence(db: sqlite_utils.Database) -> None:
    """Create the tables of rehearsal results. `found`: a document, as `bot.model.evidence` reads it.

    `offer`: the upgrade is requested once the rehearsal has passed. `offered`: rehearsals, and batches of them, whose
    result was reported in their thread. `ring`: the ring of a batch's child; rings begin one after the other, `soak`
    seconds apart.
    """
    db.conn.execute(
        "CREATE TABLE evidence (operation INTEGER PRIMARY KEY, tenant TEXT NOT NULL, version TEXT NOT NULL,"
        " at REAL NOT NULL, passed INTEGER NOT NULL, found TEXT NOT NULL, offer INTEGER NOT NULL)"
    )
    db.conn.execute("CREATE TABLE offered (operation INTEGER PRIMARY KEY)")
    db.conn.execute("ALTER TABLE operations ADD COLUMN ring INTEGER NOT NULL DEFAULT 0")
    db.conn.execute("ALTER TABLE batches ADD COLUMN soak REAL NOT NULL DEFAULT 0")
    db.conn.execute("CREATE INDEX evidence_by_tenant ON evidence(tenant, version, at)")


@_changes()
def m031_planned(db: sqlite_utils.Database) -> None:
    """Let the bot's own snapshots run while an operation waits for its time, the settings' hours or the end of a send.

    That may take days. As with a freeze, the operation locks its tenant against people all the same.
    """
    db.conn.execute("DROP INDEX one_operation_under_way")
    db.conn.execute(
        "CREATE UNIQUE INDEX one_operation_under_way ON operations(tenant)"
        " WHERE tenant <> '' AND state IN ('queued', 'running', 'needs_attention')"
        " AND NOT (state = 'queued' AND held_by IN ('freeze', 'time', 'window', 'sending'))"
    )


@_changes()
def m032_id_floor(db: sqlite_utils.Database) -> None:
    """Rename the job `numbers` to `id-floor`, which keeps whether it is paused, and how its last run went."""
    db.conn.execute("UPDATE jobs SET name = 'id-floor' WHERE name = 'numbers'")
