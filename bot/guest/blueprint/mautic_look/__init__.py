"""What looks in a tenant before PHP is started: whether a job has anything to do, and whether mail waits for a worker.

It lies in the tenant (`/usr/local/lib/mautic-ops/guest`, beside `mautic_ctl/due.py`) and runs there as www-data, which
may read the database by its socket, without a password. It needs only the standard library of Python 3.11, and little
of that, as each of its two processes stays in memory (dataclasses and pathlib alone are 2.5 MB each time). PHP takes
0.25 s and 90 MB to find that there is nothing to do; a look takes less than a millisecond.

- `look.py`   answers `mautic-cron`, over FIFOs in /run/mautic-look, by the table of `rules.py`.
- `worker.py` is `mautic-worker@…`: it runs a worker of Mautic's while its queue has messages.

In doubt they say that there is something to do.
"""
