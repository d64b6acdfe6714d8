"""Implements the Web API's methods for files, which are uploaded first and then shared."""

from bot.workspace import block_kit
from bot.workspace.api_parts import Methods, Parts, must
from bot.workspace.errors import SlackError
from bot.workspace.people import BOT_USER, Json
from bot.workspace.state import public


class Files:
    """The methods files.* of the Web API."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @property
    def methods(self) -> Methods:
        """Return the methods of this part by name."""
        return {
            "files.getUploadURLExternal": (self.upload_url, ("filename", "length")),
            "files.completeUploadExternal": (self.complete_upload, ("files",)),
        }

    def upload_url(self, given: Json) -> Json:
        try:
            size = int(given["length"])
        except ValueError:
            raise SlackError("invalid_arguments", ["[ERROR] must be an integer: length"]) from None
        file = self.parts.interactions.files.new(BOT_USER, str(given["filename"]), size, given.get("alt_txt"))
        return {"upload_url": f"{self.parts.base_url}/upload/{file['id']}", "file_id": file["id"]}

    def complete_upload(self, given: Json) -> Json:
        if not isinstance(given["files"], list):
            raise SlackError("invalid_arguments", [must("be an array", "/files")])
        files = []
        for wanted in given["files"]:
            file = self.parts.state.files.get(wanted.get("id", "")) if isinstance(wanted, dict) else None
            if file is None or not file["_uploaded"]:
                raise SlackError("file_not_found")
            file["title"] = wanted.get("title") or file["name"]
            self.parts.state.save_file(file)
            files.append(public(file))
        channel = given.get("channel_id") or str(given.get("channels") or "").split(",")[0]
        if channel:
            place = self.parts.open_place(channel)
            message = self.parts.state.add_message(
                place["id"],
                BOT_USER,
                text=given.get("initial_comment") or "",
                blocks=block_kit.message_blocks(given["blocks"]) if given.get("blocks") else None,
                files=files,
                thread_ts=self.parts.thread(place, given.get("thread_ts")),
            )
            self.parts.events.posted(message)
        return {"files": files}
