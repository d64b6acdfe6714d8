"""`/mautic help`: what there is, from the commands themselves."""

from __future__ import annotations

from bot.messages import Message
from bot.registry import Context, query


@query
def help_(context: Context, command: str = "") -> Message:
    """Show what the bot can do, or how one command is used."""
    chosen = context.registry.command(command.lower()) if command else None
    return context.renderer.message(
        "commands/help.j2",
        command=chosen,
        commands=list(context.registry.commands.values()),
        policy=context.settings.policy(chosen.name) if chosen else None,
    )
