"""Finds what is wrong with a tenant or host from the measurements of one health check. Pure: no requests, no memory.

Each finding of `bot/model/findings.py` that a health check can show has its function here: `inside.py` for reports of
the tool inside the tenant, `outside.py` for the edge, `container.py` for the container, `hosts.py` for hosts.
`diagnose.py` calls them all, and drops findings that another finding explains.
"""

from bot.fleet.health import container, hosts, inside, outside  # noqa: F401 - registers their functions
from bot.fleet.health.diagnose import diagnose, diagnose_host
from bot.fleet.health.look import Before, HostLook, Look, Page, is_full, larger_plans, last_known, more_of

__all__ = [
    "Before",
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
