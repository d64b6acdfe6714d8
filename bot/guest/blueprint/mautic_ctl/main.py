"""The door of the tool: what is done inside a tenant, as root: one verb, its request and its answer.

The bot sends it with each request, on the standard input of Python: a line of JSON, a line with a length, and this
package as a zip of so many bytes, which stays in memory. So it needs only the standard library of Python 3.11, its
modules know each other alone, and a verb loads no more than its own. The answer is a line of JSON on the standard
output, `{"ok": true, …}` or `{"ok": false, "error": "<a sentence>"}`: nothing is left in the tenant, and nothing on its
host. Secrets come in the request alone: no argument, answer or error holds one.
The bot believes no answer that has not the shape that `bot/guest/answers.py` gives it: what is new here is told there
too.

Verbs, with what they ask (`?` may be absent) and answer:
- `install`    site_url → version, already: install Mautic, whose files lie in place, into an empty database.
- `furnish`    version, every → version, before: bring what we put into a tenant to a version.
- `generalise`       → {}: make an installed Mautic a blueprint: no identity, nothing running, closed to the outside.
- `identity`   hostname, domain, site_url, admin {username, email, password, first_name?, last_name?}, db_password,
  secret_key, innodb_buffer_pool, fpm_children, email_workers, edge_address? → fresh, seconds: re-key a clone, open it.
- `resize`     innodb_buffer_pool, fpm_children, email_workers → {}.
- `backup_lock`       → held, why: let writes wait until a word to go on; a second answer then tells kept, seconds.
- `close`      reason → {}: a polite page, no crons, no workers, over reboots too.
- `open`       → {}: take back `close`, a seal, `quiesce`, `stop_work`.
- `quiesce`    → seconds: end all work for a last copy.
- `stop_work`       → {}: turn visitors away and end what sends, at once; the database goes on.
- `unquiesce`  → {}: take `quiesce` or `stop_work` back; what had been closed before stays closed.
- `counts`     since → contacts, submissions, opt_outs since then, last_write.
- `restart`    part → {}: part is worker, cron, web or database.
- `logs`       what, lines → text.
- `console`    words → code, output: one of Mautic's own commands.
- `disk`       disk → used, limit, free.
- `used`       → used: the bytes of all files, counted one by one.
- `sync`       → {}: put on disk what is not there yet.
- `health`     → healthy, checks {name: {ok, text}}, facts {…}.
- `mail`       since? → waits, oldest, kinds {kind: n}, off, sent since then: the mail that would go out.
- `release`    choice, late?, batch?, unmute? → choice, waits, oldest, kinds, dropped: send, drop, hold or bring back.
- `version`    → version, double.

An upgrade's: `stage` while the tenant serves, all else that changes something only while it is closed.
- `stage`      version, sha256 → version, before, seconds, own: unpack the pushed release beside the one that serves.
- `discard`    → {}: delete what is staged, and the tree of before.
- `record`     → recorded: record all migrations as done where none is recorded.
- `swap`       version → version, before, seconds: the staged tree serves, with what the client had.
- `warm`       → seconds: make the compiled cache anew.
- `pack_cache` → bytes, tar (base64): the compiled cache, for a tenant that is about to be what this one is.
- `lay_cache`  → {}: lay the pushed cache into the staged tree.
- `migrate`    seconds? → done, code, ran, skipped, unregistered, rows {kind: n}, seconds, output.
- `up_to_date` → up_to_date, code, new, unregistered.
- `reload`     → {}: tell Mautic of its plugins, start PHP.
- `upgrade`    version, seconds?, tables? → version, phases {name: seconds}, carried, migrated, up_to_date?, assets?,
  had?, has? {table: rows}: from `record` to the page in one go; what comes after a migration that failed is not there.
- `assets`     → assets {path: {status, bytes, seconds}}: the login page and what it links to.
- `send_own`   word, known?, same? → files, bytes, seconds, after the lines that it sends: see `own`.
- `take_own`   word → known, then files, bytes once all has come: takes what `send_own` sends elsewhere.
- `adopt`      hostname, domain, innodb_buffer_pool, fpm_children, email_workers, edge_address?, slot?, since?, off?,
  same? → version, mariadb, cached, seconds: a clone of a blueprint becomes what a tenant is, with the blueprint's
  release staged.
- `base`       → since, packages {name: version}: what of Debian is installed, and since when.
- `evidence`   since?, patience? → version, php, mariadb, schema, whole, counts, uncounted, migrations, plugins, own,
  errors.
"""

import errno
import fcntl
import json
import os
import traceback
from contextlib import suppress
from importlib import import_module
from typing import Any

from .system import LOCK, CtlError
from .wire import Wire

VERBS = {
    "install": "install.install",
    "generalise": "generalise.generalise",
    "furnish": "furniture.furnish",
    "unfurnish": "furniture.unfurnish",
    "identity": "identity.identity",
    "resize": "sizes.resize",
    "close": "access.close",
    "open": "access.open_up",
    "quiesce": "access.quiesce",
    "stop_work": "access.stop_work",
    "unquiesce": "access.unquiesce",
    "restart": "restart.restart",
    "backup_lock": "backup_lock.backup_lock",
    "page": "page.wait_for_page",
    "pages": "pages.pages",
    "counts": "counts.counts",
    "logs": "logs.logs",
    "console": "console.run_console",
    "health": "health.health",
    "disk": "disk.disk",
    "used": "disk.used",
    "sync": "disk.sync",
    "mail": "outbound.mail",
    "release": "outbound.release",
    "version": "version.version",
    "stage": "stage.stage",
    "discard": "stage.discard",
    "swap": "swap.swap",
    "warm": "cache.warm",
    "pack_cache": "cache.pack_cache",
    "lay_cache": "cache.lay_cache",
    "record": "migrations.record",
    "migrate": "migrations.migrate",
    "up_to_date": "migrations.up_to_date",
    "reload": "upgrade.reload",
    "upgrade": "upgrade.upgrade",
    "assets": "page.assets",
    "send_own": "own.send_own",
    "take_own": "own.take_own",
    "adopt": "adopt.adopt",
    "base": "version.base",
    "evidence": "evidence.evidence",
    "withdrawals": "consent.withdrawals",
    "withdraw": "consent.withdraw",
}
"""The module and function of each; a module is loaded when it is asked for."""
SIDE_BY_SIDE = frozenset(
    [
        "backup_lock", "page", "pages", "counts", "logs", "console", "health", "disk", "used", "sync", "mail",
        "version", "assets", "evidence", "up_to_date", "withdrawals", "send_own", "take_own", "base",
    ]
)  # fmt: skip
"""Verbs that may run beside others."""
SPEAK = frozenset(["backup_lock", "send_own", "take_own"])
"""Verbs that say more than their answer."""


def main(verb: str, text: bytes, wire: Wire) -> None:
    """Run one verb on a request and tell its answer."""
    os.umask(0o022)
    _sweep()
    answer = _answer(verb, text, wire)
    with suppress(BrokenPipeError):
        wire.tell(answer)
        wire.until_heard()


def _sweep() -> None:
    """Remove what a bot of before, which spoke by files, left when it was killed: its requests may hold passwords."""
    for left in LOCK.parent.glob("mautic-ctl.*"):
        if left != LOCK:
            with suppress(OSError):
                left.unlink()


def _answer(verb: str, text: bytes, wire: Wire) -> dict[str, Any]:
    if verb not in VERBS:
        return {"ok": False, "error": f"there is no verb {verb}"}
    module, _, function = VERBS[verb].partition(".")
    try:
        run = getattr(import_module(f".{module}", __package__), function)
        request = json.loads(text)
        with LOCK.open("w") as lock:
            if verb not in SIDE_BY_SIDE:
                fcntl.flock(lock, fcntl.LOCK_EX)
            return {"ok": True, **(run(request, wire) if verb in SPEAK else run(request))}
    except CtlError as error:
        return {"ok": False, "error": str(error)}
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return {"ok": False, "error": "its disk is full"}
        # Only where, not what: the text of an unexpected error may hold a secret.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return {
            "ok": False,
            "error": f"mautic-ctl {verb} failed unexpectedly: {type(error).__name__} in {place.name}",
        }
