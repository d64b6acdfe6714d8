"""`pages`: what visitors see, each asked for once by the inside socket, closed or not, and nothing is changed by it.

What a GET does was read in Mautic's own source. A download is counted whoever asks (before 7), and the link in a mail
unsubscribes its contact at once: both are asked for in a copy that is thrown away alone. A form or landing page leaves
no trace of who is not tracked, as of a private address, a robot, or somebody who asks not to be.
"""

import base64
import hashlib
import http.client
import re
import socket
import time
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from .page import INSIDE_SOCKET
from .system import IDENTITY, CtlError, read_json, sql

LINKED, LEFT_OUT = 40, 40
"""Files that pages link, and what is left out, that are told of."""
READ = 8 << 20
"""Bytes of one answer that are read."""
BODY, BODIES = 2 << 20, 6 << 20
"""Bytes of one body that is told, and of all of them."""
PATIENCE = 20.0
"""Seconds for one answer."""
PATH = 300
"""Characters of a path that is told."""
HOPS = 3
"""Redirects on the same host that are followed."""
NOBODY = "mautic-ops-nobody"
"""The mark of a mail that was never sent."""
HEADERS = {"User-Agent": "Wget (mautic-ctl)", "X-Forwarded-Proto": "https", "DNT": "1", "Sec-GPC": "1"}
MARKS = {"login": b'name="_username"', "tracking": b"MauticJS"}
"""What makes a page what it is."""
PICTURED = ("login", "form", "landing", "unsubscribe")
"""Pages whose content is told. That of `preferences` would tell of a contact."""
NOW = (
    "(publish_up IS NULL OR publish_up <= UTC_TIMESTAMP()) AND (publish_down IS NULL OR publish_down > UTC_TIMESTAMP())"
)
NEWEST = {
    "form": "SELECT id, '' FROM forms WHERE is_published = 1 AND {now} ORDER BY id DESC LIMIT 1",
    "landing": "SELECT id, alias FROM pages WHERE is_published = 1 AND COALESCE(is_preference_center, 0) = 0"
    " AND {now} ORDER BY id DESC LIMIT 1",
    "asset": "SELECT id, alias FROM assets WHERE is_published = 1 AND {now} ORDER BY id DESC LIMIT 1",
    # Of a million mails the last ones alone: none of them need have a mark.
    "preferences": "SELECT id, tracking_hash FROM (SELECT id, tracking_hash, lead_id FROM email_stats ORDER BY id DESC"
    " LIMIT 1000) newest WHERE tracking_hash IS NOT NULL AND lead_id IS NOT NULL ORDER BY id DESC LIMIT 1",
}
PATHS = {
    "form": "/form/{id}",
    "landing": "/{name}",
    "asset": "/asset/{id}:{name}",
    "preferences": "/email/unsubscribe/{name}",
}
COUNTED = {
    "asset": "counted",
    "preferences": "unsubscribes",
}
"""What is asked for in a copy alone, and why; all that is left out has such a word (`bot.model.pages.Why`)."""


class Inside(http.client.HTTPConnection):
    """A connection to the inside socket; `give_up` is when the answer has to be whole."""

    def __init__(self, host: str, patience: float) -> None:
        super().__init__(host)
        self.give_up = time.monotonic() + patience
        self.line = socket.socket(socket.AF_UNIX)

    def connect(self) -> None:
        # Its own attribute is emptied as soon as there are headers.
        self.sock = self.line
        self.hurry()
        self.line.connect(str(INSIDE_SOCKET))

    def hurry(self) -> None:
        """Let nothing last longer than is left."""
        self.line.settimeout(max(0.001, self.give_up - time.monotonic()))


def ask(domain: str, path: str, patience: float) -> tuple[int, str, bytes, bool, str]:
    """Ask once: (status, content type, what was read, whether there was more, where it leads to)."""
    connection = Inside(domain, patience)
    body = b""
    try:
        connection.request("GET", path, headers=HEADERS)
        answer = connection.getresponse()
        while len(body) <= READ:
            connection.hurry()
            if not (part := answer.read1(1 << 16)):
                break
            body += part
        kind = answer.headers.get_content_type() if answer.headers.get("Content-Type") else ""
        leads = answer.headers.get("Location", "") if 300 <= answer.status < 400 else ""
        return answer.status, kind, body[:READ], len(body) > READ, leads
    finally:
        connection.close()
        connection.line.close()


class Looks:
    """All that is asked for at one time, within so many seconds."""

    def __init__(self, domain: str, seconds: float) -> None:
        self.domain = domain
        self.give_up = time.monotonic() + seconds
        self.pages: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}
        self.bodies: dict[str, bytes] = {}

    def leave_out(self, what: str, why: str) -> None:
        """Say what was not looked at."""
        if len(self.left_out) < LEFT_OUT:
            self.left_out[what[:PATH]] = why

    def page(self, key: str, path: str, told: str = "") -> None:
        """Ask for one; `told` stands in the place of a path that tells of a contact."""
        told = told or path
        if told in self.pages:
            return
        if len(told) > PATH:
            self.leave_out(told, "long")
            return
        began = time.monotonic()
        patience = min(PATIENCE, self.give_up - began)
        if patience <= 0:
            self.leave_out(told, "late")
            return
        status, kind, body, cut = self._answer(path, began + patience)
        self.pages[told] = {
            "key": key,
            "status": status,
            "seconds": round(time.monotonic() - began, 4),
            "size": len(body),
            "type": kind[:100],
            "sha256": hashlib.sha256(body).hexdigest() if status else "",
            "right": MARKS.get(key, b"") in body,
            "cut": cut,
        }
        if key in PICTURED or key == "linked":
            self.bodies[told] = body

    def _answer(self, path: str, give_up: float) -> tuple[int, str, bytes, bool]:
        """Ask, and once more where it leads to, as long as that is here."""
        for _ in range(1 + HOPS):
            try:
                status, kind, body, cut, leads = ask(self.domain, path, give_up - time.monotonic())
            except (OSError, ValueError, http.client.HTTPException):
                return 0, "", b"", False
            further = self.here(path, leads) if leads else ""
            if not further or further == path:
                break
            path = further
        return status, kind, body, cut

    def here(self, base: str, link: str) -> str:
        """Return the path and query that a link leads to, "" where that is elsewhere, or no page."""
        try:
            parts = urlsplit(urljoin(f"https://{self.domain}{base}", link.strip()))
            if parts.scheme not in ("http", "https") or parts.hostname != self.domain:
                return ""
        except ValueError:
            return ""
        path = quote(unquote(parts.path), safe="/:@!$&'()*+,;=~-._") or "/"
        query = quote(parts.query, safe="/?:@!$&'()*+,;=~-._%")
        return f"{path}?{query}" if query else path

    def linked(self) -> None:
        """Ask for what the pages link, and for what their style sheets do: pictures and fonts."""
        for kind, links in (("html", self._links), ("css", self._urls)):
            bodies = [(told, body) for told, body in self.bodies.items() if self.pages[told]["type"] == f"text/{kind}"]
            for path in dict.fromkeys(path for told, body in bodies for path in links(told, body)):
                self._link(path)

    def _link(self, path: str) -> None:
        if sum(page["key"] == "linked" for page in self.pages.values()) < LINKED or path in self.pages:
            self.page("linked", path)
        else:
            self.leave_out(path, "many")

    def _links(self, told: str, body: bytes) -> Iterator[str]:
        reader = Links()
        reader.feed(body[:BODY].decode(errors="replace"))
        for link in reader.found:
            if path := self.here(told, link):
                yield path

    def _urls(self, told: str, body: bytes) -> Iterator[str]:
        text = body[:BODY].decode(errors="replace")
        for found in re.finditer(r"url\(\s*(?:\"([^\"\n]{1,400})\"|'([^'\n]{1,400})'|([^\"'()\s]{1,400}))\s*\)", text):
            link = found[1] or found[2] or found[3]
            if not link.startswith(("data:", "#")) and (path := self.here(told, link)):
                yield path

    def answer(self) -> dict[str, Any]:
        """Return it all, with as many bodies as there is room for: first those of the pages themselves."""
        room = BODIES
        for told, body in sorted(self.bodies.items(), key=lambda one: self.pages[one[0]]["key"] == "linked"):
            if len(body) > min(room, BODY) or self.pages[told]["cut"]:
                self.leave_out(told, "large")
            else:
                room -= len(body)
                self.pages[told]["body"] = base64.b64encode(body).decode()
        return {"pages": self.pages, "left_out": self.left_out}


class Links(HTMLParser):
    """The style sheets, scripts and pictures of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what the browser would ask for by itself."""
        has = {name: value or "" for name, value in attrs}
        if tag == "link" and {"stylesheet", "icon", "preload"} & set(has.get("rel", "").lower().split()):
            self.found.append(has.get("href", ""))
        elif tag in ("script", "img"):
            self.found.append(has.get("src", ""))
        self.found = [link for link in self.found if link]


def pages(request: Mapping[str, Any]) -> dict[str, Any]:
    """Find what there is to look at, and look at it; `thrown_away`: in a copy, where changes do not matter."""
    domain = read_json(IDENTITY).get("domain", "localhost")
    looks = Looks(domain, float(request["seconds"]))
    looks.page("login", "/s/login")
    looks.page("tracking", "/mtc.js")
    for key, query in NEWEST.items():
        try:
            found = _newest(query)
        except CtlError:
            looks.leave_out(key, "unread")
            continue
        if not found:
            looks.leave_out(key, "none")
        elif key in COUNTED and not request.get("thrown_away"):
            looks.leave_out(key, COUNTED[key])
        else:
            path = PATHS[key].format(id=int(found[0]), name=quote(found[1], safe="/"))
            looks.page(key, path, "/email/unsubscribe/…" if key == "preferences" else "")
    looks.page("unsubscribe", f"/email/unsubscribe/{NOBODY}")
    looks.linked()
    return looks.answer()


def _newest(query: str) -> list[str]:
    """Return the first row; tables without a time of publication are asked without it."""
    try:
        rows = sql(query.format(now=NOW), "mautic")
    except CtlError:
        rows = sql(query.format(now="1"), "mautic")
    return rows[0] if rows and len(rows[0]) == 2 else []
