"""Receives and serves the contents of files: `/upload/<id>` and `/files/<id>/<name>`."""

import mimetypes
import re
import secrets
import time

from aiohttp import web

from bot.workspace.people import Json
from bot.workspace.state import State, public


class Files:
    def __init__(self, state: State, base_url: str) -> None:
        self.state = state
        self.base_url = base_url

    def new(self, user_id: str, name: str, size: int, alt_txt: str | None = None) -> Json:
        """Record a file whose `size` bytes are uploaded later."""
        name = re.sub(r"[^\w.-]", "_", name)
        file_id = f"F{secrets.token_hex(5).upper()}"
        url = f"{self.base_url}/files/{file_id}/{name}"
        file: Json = {
            "id": file_id,
            "name": name,
            "title": name,
            "created": int(time.time()),
            "user": user_id,
            "size": size,
            "alt_txt": alt_txt,
            "filetype": name.rpartition(".")[2] or "text",
            "mode": "hosted",
            "is_external": False,
            "is_public": True,
            "url_private": url,
            "url_private_download": url,
            "permalink": url,
            "_uploaded": False,
        }
        self.state.save_file(file)
        return file

    def shared_by(self, user_id: str, name: str) -> Json:
        """Return an empty file that a person attaches to a message, as the app sees it."""
        return public(self._arrived(self.new(user_id, name, 0), b""))

    def _arrived(self, file: Json, content: bytes) -> Json:
        (self.state.files_dir / file["id"]).write_bytes(content)
        kind = mimetypes.guess_type(file["name"])[0] or "application/octet-stream"
        arrived = file | {"_uploaded": True, "mimetype": kind}
        self.state.save_file(arrived)
        return arrived

    async def upload(self, request: web.Request) -> web.Response:
        """Receive a file as raw bytes or as one part of a form; whoever knows the URL may upload."""
        file = self.state.files.get(request.match_info["file_id"])
        if file is None or file["_uploaded"]:
            return web.Response(status=404, text="no such upload")
        if request.content_type == "multipart/form-data":
            parts = [part for part in (await request.post()).values() if isinstance(part, web.FileField)]
            content = parts[0].file.read() if parts else b""
        else:
            content = await request.read()
        if len(content) != file["size"]:
            return web.Response(status=400, text=f"expected {file['size']} bytes, got {len(content)}")
        self._arrived(file, content)
        return web.Response(text=f"OK - {len(content)}")

    async def download(self, request: web.Request) -> web.StreamResponse:
        file = self.state.files.get(request.match_info["file_id"])
        if file is None or not file["_uploaded"]:
            return web.Response(status=404, text="no such file")
        headers = {"Content-Type": file["mimetype"], "X-Content-Type-Options": "nosniff"}
        if not file["mimetype"].startswith("image/") or "svg" in file["mimetype"]:
            headers["Content-Disposition"] = f'attachment; filename="{file["name"]}"'
        return web.FileResponse(self.state.files_dir / file["id"], headers=headers)
