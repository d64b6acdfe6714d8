"""Checks in a tenant, before PHP is started, whether a job has anything to do and whether mail waits for a worker.

The package is installed in the tenant (`/usr/local/lib/mautic-ops/guest`, beside modules of `mautic_ctl`) and runs
there as www-data, which may read the database over its socket, without a password. It needs only the standard library
of Python 3.11, and little of that, since both of its processes stay in memory (dataclasses and pathlib alone take 2.5
MB each time). PHP takes 0.25 s and 90 MB to find that there is nothing to do; a check here takes less than a
millisecond.

- `look.py`   answers `mautic-cron`, over FIFOs in /run/mautic-look, according to the table in `rules.py`.
- `worker.py` is `mautic-worker@…`: it runs one of Mautic's workers while its queue has messages.

In doubt they answer that there is something to do.
"""
