"""A bot without Slack: real database, registry, runner and templates over a simulated LXD, and a clock to turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
            request_key=key or f"{text}{self.clock()}{actor.id}",
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
