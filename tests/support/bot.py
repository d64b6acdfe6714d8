"""A bot without Slack: real database, registry, runner and templates over a simulated LXD, and a clock to turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from bot.__main__ import compose
from bot.approvals import Actor
from bot.operations import Operation
from bot.registry import Context, call
from bot.runner import Runner
from bot.settings import Settings, load
from bot.simulated_edge import SimulatedEdge
from bot.simulated_lxd import SimulatedLxd
from bot.tenants import stamps

ASKER = Actor("U0ACCOUNT", frozenset({"requester"}))
OPERATOR = Actor("U0OPERATOR", frozenset({"requester", "operator"}))
LEAD = Actor("U0OPSLEAD", frozenset({"requester", "operator", "approver"}))
LEAD_2 = Actor("U0OPSLEAD2", frozenset({"requester", "operator", "approver"}))


class Clock:
    """Epoch seconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at

    def move(self, seconds: float) -> None:
        self.at += seconds


def settings_in(folder: Path, **environment: str) -> Settings:
    """The shipped settings with their state in a folder."""
    return load(
        environment={"MAUTIC_OPS_BOT__STATE": str(folder), "MAUTIC_OPS_LXD__ENDPOINT": "simulated"} | environment
    )


def add_blueprint(lxd: SimulatedLxd, version: str = "5.2.12+double") -> None:
    """Put a blueprint on a simulated host."""
    name = f"blueprint--{version.replace('.', '-').replace('+', '-')}"
    config = stamps(role="blueprint", version=version, double=version.endswith("double"), created=1)
    lxd.import_image(__file__, "base", {})
    lxd.create(name, "base", config=config, devices={})
    lxd.snapshot(name, "golden")


@dataclass
class Bench:
    """The parts, and short ways to ask, decide and run."""

    context: Context
    lxd: SimulatedLxd
    clock: Clock
    runner: Runner

    def answer(self, text: str, actor: Actor = ASKER) -> Any:
        """What a command gives: a Plan, a Message or a Modal. Raises Refused."""
        command, arguments = self.context.registry.parse(text)
        return call(command, replace(self.context, actor=actor, channel="C0OPS"), arguments)

    def ask(self, text: str, actor: Actor = ASKER, key: str = "") -> Operation:
        """Ask for an operation, as the invocation does."""
        command, _ = self.context.registry.parse(text)
        plan = self.answer(text, actor)
        return self.context.operations.request(
            command.name,
            plan,
            requester=actor.id,
            channel="C0OPS",
            request_key=key or uuid4().hex,
            hours=24,
        )

    def approve(self, operation: Operation, actor: Actor = LEAD) -> Operation:
        """Approve it, with the step-up if there is one."""
        return self.context.approvals.decide(operation.id, actor, "approve", typed_name=operation.tenant, via="test")

    def finish(self) -> None:
        """Run what is queued to its end."""
        while self.runner.run_one():
            pass

    def done(self, text: str, actor: Actor = ASKER) -> Operation:
        """Ask, have approved, run; the operation as it ended."""
        operation = self.approve(self.ask(text, actor), LEAD if actor.id != LEAD.id else LEAD_2)
        self.finish()
        return self.context.operations.get(operation.id)


@dataclass(frozen=True)
class Case:
    """How an operation command is asked for in tests, and what is true at its ends.

    `before`: the operations that prepare the world; `after`/`untouched`: the containers beside the blueprint when it
    was done, and when it came to nothing; `live`: whether the tenant's page answers when it was done.
    """

    text: str
    actor: Actor
    before: tuple[str, ...]
    after: frozenset[str]
    untouched: frozenset[str]
    live: bool


CASES = {
    "new": Case("new client-x --note 'spring'", ASKER, (), frozenset({"client-x"}), frozenset(), True),
    "delete": Case(
        "delete client-x",
        OPERATOR,
        ("new client-x",),
        frozenset({"client-x--archived"}),
        frozenset({"client-x"}),
        False,
    ),
    "unarchive": Case(
        "unarchive client-x",
        OPERATOR,
        ("new client-x", "delete client-x"),
        frozenset({"client-x"}),
        frozenset({"client-x--archived"}),
        True,
    ),
}
"""Every operation command has its case: a new one fails the suite until it has one here."""


def containers(bench: Bench) -> set[str]:
    """The names of all instances but blueprints."""
    return {one.name for one in bench.lxd.instances() if not one.name.startswith("blueprint--")}


def live(bench: Bench, domain: str = "client-x.mautic.localhost") -> bool:
    """Whether a tenant's login page answers at its domain."""
    return bench.context.edge.probe(domain).login


def make_bench(
    folder: Path,
    lxd: SimulatedLxd | None = None,
    fault: Callable[[str], None] = lambda moment: None,
    **environment: str,
) -> Bench:
    """Build a bench in a folder; the same folder and LXD again is the bot after a restart."""
    settings = settings_in(folder, **environment)
    if lxd is None:
        lxd = SimulatedLxd()
        add_blueprint(lxd)
    clock = Clock()
    context = compose(settings, lxd, SimulatedEdge(lxd))
    context.operations.clock = clock
    context.vault.clock = clock
    return Bench(context, lxd, clock, Runner(context, 1, fault))


def events(bench: Bench, operation: Operation) -> list[str]:
    """The names of an operation's audit rows, in order."""
    rows = bench.context.database.read("SELECT event FROM audit WHERE operation = ? ORDER BY seq", operation.id)
    return [row["event"] for row in rows]


def notes(bench: Bench, operation: Operation) -> list[str]:
    """What an operation's thread is told, in order."""
    rows = bench.context.database.read("SELECT text FROM notes WHERE operation = ? ORDER BY id", operation.id)
    return [row["text"] for row in rows]
