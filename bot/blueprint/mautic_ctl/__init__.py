"""What is done inside a tenant: `mautic-ctl VERB REQUEST_FILE RESULT_FILE`, as root.

The bot pushes it before each use, as one file: this package in a zip, which Python runs. So it needs only the standard
library of Python 3.11, its modules know each other alone, and a verb loads no more than its own.
The request is JSON in a file that is deleted once read; the answer is JSON in a file of mode 0600, `{"ok": true, …}`
or `{"ok": false, "error": "<a sentence>"}`. Secrets come in the request alone: no argument, output or error holds one.

Verbs, with what they ask (`?` may be absent) and answer:
- `install`    site_url → version, already: install Mautic, whose files lie in place, into an empty database.
- `seal`       → {}: make an installed Mautic a blueprint: no identity, nothing running, closed to the outside.
- `identity`   hostname, domain, site_url, admin {username, email, password, first_name?, last_name?}, db_password,
  secret_key, innodb_buffer_pool, fpm_children, email_workers, edge_address? → fresh, seconds: re-key a clone, open it.
- `resize`     innodb_buffer_pool, fpm_children, email_workers → {}.
- `hold`       files → held, why: let writes wait until `<files>.go` is there; `<files>.out` then tells the seconds.
- `close`      reason → {}: a polite page, no crons, no workers, over reboots too.
- `open`       → {}: take back `close`, a seal, `quiesce`, `hush`.
- `quiesce`    → seconds: end all work for a last copy.
- `hush`       → {}: turn visitors away and end what sends, at once; the database goes on.
- `unquiesce`  → {}: take `quiesce` or `hush` back; what had been closed before stays closed.
- `counts`     since → contacts, submissions, opt_outs since then, last_write.
- `restart`    part → {}: part is worker, cron, web or database.
- `logs`       what, lines → text.
- `console`    words → code, output: one of Mautic's own commands.
- `health`     → healthy, checks {name: {ok, text}}, facts {…}.
- `mail`       since? → waits, oldest, kinds {kind: n}, off, sent since then: the mail that would go out.
- `release`    choice, late?, batch?, unmute? → choice, waits, oldest, kinds, dropped: send, drop, hold or bring back.
- `version`    → version, double.
"""
