"""Finds, imports and exports the images of one LXD server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlencode

from bot.lxd.connection import LONG
from bot.lxd.protocol import AlreadyExists, NotFound
from bot.lxd.reader import LxdReader


class LxdImages(LxdReader):
    """The part of `LxdGateway` for images."""

    def image(self, alias: str) -> Mapping[str, str] | None:
        """See `Lxd.image`."""
        doing = f"look up the image `{alias}`"
        try:
            target = self.connection.get(f"images/aliases/{quote(alias, safe='')}", doing)["target"]
            found = self.connection.get(f"images/{target}", doing)
        except NotFound:
            return None
        return {**found["properties"], "fingerprint": found["fingerprint"]}

    def import_image(self, path: str, alias: str, properties: Mapping[str, str]) -> str:
        """See `Lxd.import_image`."""
        doing = f"import the image `{path}`"
        try:
            with Path(path).open("rb") as file:
                fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
                try:
                    self.connection.get(f"images/{fingerprint}", doing)
                except NotFound:
                    file.seek(0)
                    self._upload(file, properties, doing)
        except FileNotFoundError as error:
            raise NotFound(f"There is no image file {path}.") from error
        self._point(alias, fingerprint)
        return fingerprint

    def export_image(self, source: str, alias: str, path: str, properties: Mapping[str, str]) -> str:
        """See `Lxd.export_image`."""
        doing = f"publish `{source}` as the image `{alias}`"
        body = {
            "source": {"type": "snapshot" if "/" in source else "instance", "name": source},
            "properties": dict(properties),
            "compression_algorithm": "zstd",
        }
        published = self.connection.change("post", "images", doing, body, deadline=LONG)
        fingerprint: str = published["metadata"]["fingerprint"]
        self._point(alias, fingerprint)
        part = Path(f"{path}.part")
        # The answer is read in pieces: an image has some hundred megabytes.
        answer = self.connection.request(
            "get", f"images/{fingerprint}/export", doing, is_api=False, stream=True, timeout=LONG
        )
        with self.connection.words(doing), answer, part.open("wb") as file:
            for piece in answer.iter_content(1 << 20):
                file.write(piece)
        part.replace(path)
        return fingerprint

    def _upload(self, file: BinaryIO, properties: Mapping[str, str], doing: str) -> None:
        headers = {f"X-{kind}-properties": urlencode(properties) for kind in ("LXD", "Incus")}
        started = self.connection.json(
            "post",
            "images",
            doing,
            data=file,
            headers={**headers, "Content-Type": "application/octet-stream"},
            timeout=LONG,
        )
        self.connection.finish(started, doing, LONG)

    def _point(self, alias: str, fingerprint: str) -> None:
        """Point an alias at this image, whatever it named before."""
        doing = f"name the image `{alias}`"
        try:
            self.connection.request("post", "images/aliases", doing, json={"name": alias, "target": fingerprint})
        except AlreadyExists:
            path = f"images/aliases/{quote(alias, safe='')}"
            self.connection.request("put", path, doing, json={"target": fingerprint, "description": ""})
