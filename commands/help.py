"""`/mautic help`: what there is, from the commands themselves."""

from __future__ import annotations

from bot.engine.context import Context
from bot.engine.registry import query
from bot.slack.messages import Message


@query
def help_(context: Context, command: str = "") -> Message:
    """Show what the bot can do, or how one command is used."""
    chosen = context.registry.command(command.lower()) if command else None
    policy = context.settings.policy
    commands = list(context.registry.commands.values())
    return context.renderer.message(
        "commands/help.j2",
        command=chosen,
        commands=commands,
        policy=policy(chosen.name) if chosen else None,
        at_once=[one.name for one in commands if one.kind == "operation" and not policy(one.name).approvals],
    )
