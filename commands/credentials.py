"""`/mautic credentials`: shows the first login of a tenant, once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from bot.engine.context import Context
from bot.engine.registry import TenantArgument, fresh, query
from bot.lxd.protocol import LxdError
from bot.model.plan import Refused
from bot.model.text import code
from bot.slack.messages import Modal, modal, section


@fresh
@query
def credentials(context: Context, tenant: TenantArgument) -> Modal:
    """Show the first login of a tenant, once, to the person who requested the tenant.

    Opens a window that only you see. The password never appears in a channel, a log or the audit log.
    """
    try:
        context.vault.refuse_unless_waiting(tenant, context.actor.id)
    except Refused:
        # For an unknown name refuse with that instead, unless a server does not answer, so that nobody can tell.
        with suppress(LxdError):
            context.fleet.tenant(tenant)
        raise

    def reveal(show: Callable[[dict[str, Any]], object]) -> None:
        with context.vault.reveal(tenant, context.actor.id) as known:
            window = _window(
                f"*Address:* {known['address']}\n*User:* {code(known['username'])}\n"
                f"*E-mail:* {code(known['email'])}\n*Password:* {code(known['password'])}",
                "Shown *once*. Save the password in your password manager now, and change it after the first login.",
            )
            show(window.view)

    return replace(_window("One moment …"), fill=reveal)


def _window(*texts: str) -> Modal:
    return modal("credentials", "First credentials", [section(text) for text in texts])
