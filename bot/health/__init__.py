"""Finds what is wrong with a tenant or host from one check. Pure: no requests, no memory.

Each finding of `bot/findings.py` that a look tells of has its function here: what the tool inside says in `inside.py`,
what comes through the edge in `outside.py`, the container in `container.py`, a host in `hosts.py`. `diagnose.py` asks
them all, and leaves out what has its cause in another finding.
"""

from bot.health import container, hosts, inside, outside  # noqa: F401 - that their functions are known
from bot.health.diagnose import diagnose, diagnose_host
from bot.health.look import HostLook, Look, Page, is_full, larger_plans, last_known, more_of

__all__ = [
    "HostLook",
    "Look",
    "Page",
    "diagnose",
    "diagnose_host",
    "is_full",
    "larger_plans",
    "last_known",
    "more_of",
]
