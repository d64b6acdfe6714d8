"""File bytes in and out: /upload/<id> and /files/<id>/<name>."""

import mimetypes

from aiohttp import web

from bot.workspace.state import State


class Files:
    def __init__(self, state: State) -> None:
        self.state = state

    async def upload(self, request: web.Request) -> web.Response:
        """Raw bytes, or one part of a form; the address is the permission."""
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
        (self.state.files_dir / file["id"]).write_bytes(content)
        kind = mimetypes.guess_type(file["name"])[0] or "application/octet-stream"
        self.state.save_file(file | {"_uploaded": True, "mimetype": kind})
        return web.Response(text=f"OK - {len(content)}")

    async def download(self, request: web.Request) -> web.StreamResponse:
        file = self.state.files.get(request.match_info["file_id"])
        if file is None or not file["_uploaded"]:
            return web.Response(status=404, text="no such file")
        headers = {"Content-Type": file["mimetype"], "X-Content-Type-Options": "nosniff"}
        if not file["mimetype"].startswith("image/") or "svg" in file["mimetype"]:
            headers["Content-Disposition"] = f'attachment; filename="{file["name"]}"'
        return web.FileResponse(self.state.files_dir / file["id"], headers=headers)
