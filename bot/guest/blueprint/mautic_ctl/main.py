"""The entry point of the in-tenant tool: runs one verb as root on a request and returns its answer.

The bot sends the tool with each request, on the standard input of Python: a line of JSON, a line with a length, and
this package as a zip of so many bytes, which stays in memory. So the tool needs only the standard library of Python
3.11, its modules import only each other, and a verb loads only the modules that it needs. The answer is a line of JSON
on the standard output, `{"ok": true, …}` or `{"ok": false, "error": "<a sentence>"}`. No part of the exchange is stored
in the tenant or on its host. Secrets appear in requests only, never in an argument, answer or error.
The bot rejects every answer that does not have the shape declared in `bot/guest/answers.py`: a change to an answer here
must be made there too.

Verbs, with the fields of their requests (`?`: optional) and of their answers:
- `install`    site_url → version, already: install Mautic, whose files are in place, into an empty database.
- `furnish`    version, every, slot? → version, before: bring the bot's files and units in a tenant to a version.
- `unfurnish`  version → version: put back what was there before the tenant was furnished with this version.
- `generalise`       → version: make an installed Mautic a blueprint: no identity, nothing running, closed.
- `identity`   hostname, domain, site_url, admin {username, email, password, first_name?, last_name?}, db_password,
  secret_key, innodb_buffer_pool, fpm_children, email_workers, edge_address?, slot? → fresh, seconds: give a clone its
  own keys and names, and open it.
- `resize`     innodb_buffer_pool, fpm_children, email_workers → {}.
- `backup_lock`       → held, why: make writes wait until the bot sends a line; a second answer then has kept, seconds.
- `close`      reason → {}: show a polite page and stop jobs and workers, across reboots too.
- `open`       → {}: undo `close`, `quiesce` or `stop_work`, or open a container that was made closed.
- `quiesce`    → seconds: stop all work for a last copy.
- `stop_work`       → {}: stop jobs and workers, then turn visitors away; the database keeps running.
- `unquiesce`  → {}: undo `quiesce` or `stop_work`; a tenant that had been closed before stays closed.
- `counts`     since → contacts, submissions, opt_outs since then, last_write.
- `restart`    part → {}: part is worker, cron, web or database.
- `page`       seconds → seconds: wait for the login page.
- `pages`      seconds, thrown_away? → pages {path: {…}}, left_out {what: why}: request the pages that visitors see.
- `logs`       what, lines → text.
- `console`    words → code, output: run one of Mautic's own commands.
- `disk`       disk? → used, limit, free, why.
- `used`       → used: the bytes of all files, counted one by one.
- `sync`       → {}: write cached data to disk.
- `health`     limits, memory?, disk? → healthy, checks {name: {ok, text}}, facts {…}.
- `mail`       since? → waits, oldest, kinds {kind: n}, off, sent since then: the mail that would go out.
- `release`    choice?, late?, batch?, only?, unmute?, page? → choice, waits, oldest, kinds, dropped: send, drop or keep
  back the mail that waits, or bring back what was dropped.
- `withdrawals` since?, after?, page?, count?, final? → now, contacts, opt_outs, erasures, said, erased: read opt-outs
  and erasures.
- `withdraw`   said?, erased?, batch? → opt_outs, erasures, unknown, mails, left: apply them in another copy.
- `version`    → version, double.

Verbs of an upgrade: `swap`, `warm`, `migrate`, `upgrade`, `take_own` and `adopt` refuse a tenant that is open; the
others accept one that serves.
- `stage`      version, sha256 → version, before, seconds, own: unpack the pushed release beside the one that serves.
- `discard`    → {}: delete the staged tree and the previous tree.
- `record`     → recorded: record all migrations as done if none is recorded.
- `swap`       version → version, before, seconds: make the staged tree serve, with the client's data.
- `warm`       → seconds: rebuild the compiled cache.
- `pack_cache` → bytes, tar (base64): the compiled cache, for a tenant that is about to get the same release.
- `lay_cache`  → {}: unpack the pushed cache into the staged tree.
- `migrate`    seconds? → done, code, ran, skipped, unregistered, rows {kind: n}, seconds, output.
- `up_to_date` → up_to_date, code, new, unregistered.
- `reload`     → {}: make Mautic register its plugins, restart PHP.
- `upgrade`    version, seconds?, tables? → version, phases {name: seconds}, carried, migrated, up_to_date?, assets?,
  had?, has? {table: rows}: everything from `swap` to the login page; after a failed migration the later fields are
  missing.
- `assets`     → assets {path: {status, bytes, seconds}}: the login page and the files that it links to.
- `send_own`   word, known?, same? → files, bytes, seconds, after the lines that it sends: see `own`.
- `take_own`   word → known, then files, bytes once everything has arrived: receive what `send_own` sends elsewhere.
- `adopt`      hostname, domain, innodb_buffer_pool, fpm_children, email_workers, edge_address?, slot?, since?, off?,
  same? → version, mariadb, cached, seconds: turn a clone of a blueprint into the tenant, with the blueprint's release
  staged.
- `base`       → since, packages {name: version}: the installed Debian packages, and when they last changed.
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

from .system import FULL, LOCK, CtlError
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
"""The module and function of each verb; a module is imported only when its verb is called."""
SIDE_BY_SIDE = frozenset(
    [
        "backup_lock", "page", "pages", "counts", "logs", "console", "health", "disk", "used", "sync", "mail",
        "version", "assets", "evidence", "up_to_date", "withdrawals", "send_own", "take_own", "base",
    ]
)  # fmt: skip
"""Verbs that may run at the same time as others."""
SPEAK = frozenset(["backup_lock", "send_own", "take_own"])
"""Verbs that get the `Wire` too, because they send or receive more than one answer."""


def main(verb: str, text: bytes, wire: Wire) -> None:
    """Run one verb on a request and send its answer."""
    os.umask(0o022)
    _sweep()
    answer = _answer(verb, text, wire)
    with suppress(BrokenPipeError):
        wire.tell(answer)
        wire.until_heard()


def _sweep() -> None:
    """Delete files of an earlier version of the bot, which exchanged requests as files: they may hold passwords."""
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
            return {"ok": False, "error": FULL}
        # Tell only where it happened: the text of an unexpected error may hold a secret.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return {
            "ok": False,
            "error": f"mautic-ctl {verb} failed unexpectedly: {type(error).__name__} in {place.name}",
        }
