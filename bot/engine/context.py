"""What commands and steps may use: the parts of the bot, the person who asked, and the operation."""

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
        """Make routes and certificates match LXD; no effect if they do already. `fresh`: discard what is cached.

        `ahead`: a container to route to although it is still closed; the next call ends that.
        """

    def probe(self, domain: str, seconds: float = 30.0) -> Probe:
        """Request a domain's login page once, through the edge that clients come to."""


THE_BOT = Actor(SYSTEM, frozenset())


@dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of the bot that the steps of an operation may use."""

    settings: Settings
    database: Database
    fleet: Fleet
    edge: Edge
    vault: Vault
    operations: Operations
    renderer: Renderer
    actor: Actor = THE_BOT
    """The person who asked for the operation, or the bot."""
    operation: int = 0
    """The number of the operation; 0 at the request."""

    def now(self) -> float:
        """Return the time by the bot's clock, in epoch seconds."""
        return self.operations.clock()


@dataclass(frozen=True, kw_only=True)
class Context(Run):
    """The parts of the bot that a command may use, and the circumstances of the request."""

    uptime: Uptime
    approvals: Approvals
    jobs: Jobs
    incidents: Incidents
    registry: Registry
    post: Post
    people: People
    channel: str = ""
    delivery: str = ""
    """Slack's id of the delivery that the bot is handling; after a crash Slack delivers it again."""
    many: bool = False
    """Whether many plans are made together, so that no tenant is asked separately."""
    follows: int = 0
    """The operation, such as a rehearsal, after which the bot makes this request; 0: a person has just asked."""
    promised: tuple[Demand, ...] = ()
    """What earlier plans of the same batch will take from hosts."""

    def run(self) -> Run:
        """Return the part of the context that steps get."""
        return Run(**{one.name: getattr(self, one.name) for one in fields(Run)})


Answer = Message | Modal
