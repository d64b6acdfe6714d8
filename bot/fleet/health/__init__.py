"""What is wrong with a tenant or a host, from one look at it. Pure: it asks nobody and remembers nothing.

Each finding of `bot/model/findings.py` that a look tells of has its function here: what the tool inside says in
`inside.py`, what comes through the edge in `outside.py`, the container in `container.py`, a host in `hosts.py`.
`diagnose.py` asks them all, and leaves out what has its cause in another finding.
"""

from bot.fleet.health import container, hosts, inside, outside  # noqa: F401 - that their functions are known
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
