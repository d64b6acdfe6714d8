"""Implements the Web API's methods for views: modals and Home tabs."""

from bot.workspace import block_kit
from bot.workspace.api_parts import Methods, Parts
from bot.workspace.errors import SlackError
from bot.workspace.people import Json
from bot.workspace.state import public


class Views:
    """The methods views.* of the Web API."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @property
    def methods(self) -> Methods:
        """Return the methods of this part by name."""
        return {
            "views.open": (self.open_view, ("trigger_id", "view")),
            "views.push": (self.push_view, ("trigger_id", "view")),
            "views.update": (self.update_view, ("view",)),
            "views.publish": (self.publish_view, ("user_id", "view")),
        }

    def open_view(self, given: Json) -> Json:
        wanted = block_kit.view(given["view"], "modal")
        trigger = self.parts.interactions.views.use_trigger(given["trigger_id"])
        return {"view": public(self.parts.interactions.views.open_view(trigger.user, wanted))}

    def push_view(self, given: Json) -> Json:
        wanted = block_kit.view(given["view"], "modal")
        trigger = self.parts.interactions.views.use_trigger(given["trigger_id"])
        if trigger.from_view is None:
            raise SlackError("invalid_trigger_id")
        return {"view": public(self.parts.interactions.views.push_view(trigger.user, wanted))}

    def update_view(self, given: Json) -> Json:
        wanted = block_kit.view(given["view"], "modal")
        for view in self.parts.state.views.values():
            if view["id"] == given.get("view_id") or (
                given.get("external_id") and view["external_id"] == given["external_id"]
            ):
                return {"view": public(self.parts.interactions.views.update_view(view, wanted, given.get("hash")))}
        raise SlackError("not_found")

    def publish_view(self, given: Json) -> Json:
        wanted = block_kit.view(given["view"], "home")
        user = self.parts.user(given["user_id"])
        return {"view": public(self.parts.interactions.views.publish_home(user["id"], wanted, given.get("hash")))}
