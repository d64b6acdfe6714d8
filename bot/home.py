"""The Home tab: a person's waiting approvals and operations, and the fleet at a glance."""

from __future__ import annotations

from slack_sdk import WebClient

from bot.registry import Context


def publish(client: WebClient, context: Context, user: str) -> None:
    """Render the Home tab of one person and publish it."""
    seen = context.fleet.look("tenant")
    message = context.renderer.message(
        "home.j2",
        waiting=context.operations.select("state = 'awaiting_approval'", limit=20),
        mine=context.operations.select("requester = ?", user, order="id DESC", limit=10),
        tenants=seen.tenants,
        silent=seen.silent,
    )
    client.views_publish(user_id=user, view={"type": "home", "blocks": message.blocks})
