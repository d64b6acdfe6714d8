"""`/mautic help`: lists the commands, or explains one."""

from __future__ import annotations

from collections.abc import Sequence

from bot.engine.context import Context
from bot.engine.registry import Command, query
from bot.model.text import names
from bot.slack.messages import Message


@query
def help_(context: Context, command: str = "") -> Message:
    """List all commands, or explain one."""
    chosen = context.registry.command(command.lower()) if command else None
    policy = context.settings.policy

    def of_many(one: Command) -> int:
        """Return how many approvals one request for several tenants needs, 0 where there is no such request."""
        return policy(one.name, batch=True).approvals if one.many else 0

    commands = list(context.registry.commands.values())
    return context.renderer.message(
        "commands/help.j2",
        command=chosen,
        commands=commands,
        policy=policy(chosen.name) if chosen else None,
        askers=_askers(context, policy(chosen.name).ask) if chosen else "",
        deciders=names(policy(chosen.name).approve, policy(chosen.name).approvals or of_many(chosen)) if chosen else "",
        of_many=of_many(chosen) if chosen else 0,
        at_once={
            one.name: of_many(one) for one in commands if one.kind == "operation" and not policy(one.name).approvals
        },
    )


def _askers(context: Context, roles: Sequence[str]) -> str:
    """Return who may request a command: "everyone" where everybody has one of the roles."""
    if any(context.settings.roles[role].everyone for role in roles):
        return "everyone"
    return names(roles, 2) if roles else "nobody, the command is switched off"
