"""What commands and steps may use: the parts of the bot, who asks, and for which operation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

from bot.edge.probe import Probe
from bot.engine.approvals import Approvals
from bot.fleet.capacity import Demand
from bot.fleet.inventory import Fleet
from bot.model.actor import Actor
from bot.settings import Settings
from bot.slack.incidents import Incidents
from bot.slack.messages import Message, Modal, Renderer
from bot.slack.people import People
from bot.slack.poster import Post
from bot.store.database import Database
from bot.store.jobs import Jobs
from bot.store.operation import SYSTEM
from bot.store.operations import Operations
from bot.store.uptime import Uptime
from bot.store.vault import Vault

if TYPE_CHECKING:
    from bot.engine.registry import Registry


class Edge(Protocol):
    """The reverse proxies of all hosts, as commands use them."""

    def apply(self, *, fresh: bool = False, ahead: str = "") -> None:
        """Make routes and certificates match LXD; no effect when they do. `fresh`: forget what is cached.

        `ahead`: a container that is still closed, and is routed to until the next call all the same.
        """

    def probe(self, domain: str, seconds: float = 30.0) -> Probe:
        """Ask for a domain's login page through the edge that clients come to, once."""


THE_BOT = Actor(SYSTEM, frozenset())


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the steps of an operation may use."""

    settings: Settings
    database: Database
    fleet: Fleet
    edge: Edge
    vault: Vault
    operations: Operations
    renderer: Renderer
    actor: Actor = THE_BOT
    """Who asked for it."""
    operation: int = 0
    """Its number; 0 at the request."""

    def now(self) -> float:
        """Epoch seconds by the bot's clock."""
        return self.operations.clock()


@dataclass(frozen=True, kw_only=True)
class Context(Run):
    """What a command may use, and who asks."""

    uptime: Uptime
    approvals: Approvals
    jobs: Jobs
    incidents: Incidents
    registry: Registry
    post: Post
    people: People
    channel: str = ""
    delivery: str = ""
    """Slack's id of the delivery that is handled; after a crash Slack delivers it again."""
    many: bool = False
    """Whether the plan is one of many made together: then no tenant is asked separately."""
    follows: int = 0
    """The operation that the bot makes a request after, such as a rehearsal; 0: a person asked for it just now."""
    promised: tuple[Demand, ...] = ()
    """What earlier plans of the same batch will take of hosts."""

    def run(self) -> Run:
        """Return what the steps get of it."""
        return Run(**{one.name: getattr(self, one.name) for one in fields(Run)})


Answer = Message | Modal
