"""What is done inside a tenant, as root: one verb, its request and its answer.

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
- `seal`       → {}: make an installed Mautic a blueprint: no identity, nothing running, closed to the outside.
- `identity`   hostname, domain, site_url, admin {username, email, password, first_name?, last_name?}, db_password,
  secret_key, innodb_buffer_pool, fpm_children, email_workers, edge_address? → fresh, seconds: re-key a clone, open it.
- `resize`     innodb_buffer_pool, fpm_children, email_workers → {}.
- `hold`       → held, why: let writes wait until a word to go on; a second answer then tells kept, seconds.
- `close`      reason → {}: a polite page, no crons, no workers, over reboots too.
- `open`       → {}: take back `close`, a seal, `quiesce`, `hush`.
- `quiesce`    → seconds: end all work for a last copy.
- `hush`       → {}: turn visitors away and end what sends, at once; the database goes on.
- `unquiesce`  → {}: take `quiesce` or `hush` back; what had been closed before stays closed.
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
- `withdrawals` since, after?, page?, final?, count? → now, contacts, opt_outs, erasures, said [{…}], erased [{…}]: what
  people said since a time that binds whoever mails them.
- `withdraw`   said, erased → opt_outs, erasures, unknown, mails: the same said in another copy, which is closed.

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
- `upgrade`    version, seconds? → version, phases {name: seconds}, carried, migrated, up_to_date?, assets?: from
  `record` to the page in one go; what comes after a migration that failed is not there.
- `assets`     → assets {path: {status, bytes, seconds}}: the login page and what it links to.
- `evidence`   since?, patience? → version, php, mariadb, schema, whole, counts, uncounted, migrations, plugins, own,
  errors.
"""
