"""`pages`: requests the pages that visitors see, once each over the inside socket, without changing anything.

This works whether the tenant is closed or not. The effects of each GET were checked in Mautic's source: Mautic before 7
counts every download, and the link in a mail unsubscribes its contact at once, so both are requested only in a copy
that will be deleted. Forms and landing pages record nothing of visitors that Mautic does not track, such as private
addresses, robots, or clients that ask not to be tracked.
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
"""How many linked files are requested, and how many left-out paths are reported."""
READ = 8 << 20
"""Bytes of one answer that are read at most."""
BODY, BODIES = 2 << 20, 6 << 20
"""Bytes at most of one returned body, and of all of them."""
PATIENCE = 20.0
"""Seconds for one answer."""
PATH = 300
"""Characters at most of a reported path."""
HOPS = 3
"""Redirects on the same host that are followed at most."""
NOBODY = "mautic-ops-nobody"
"""The tracking hash of a mail that was never sent."""
HEADERS = {"User-Agent": "Wget (mautic-ctl)", "X-Forwarded-Proto": "https", "DNT": "1", "Sec-GPC": "1"}
MARKS = {"login": b'name="_username"', "tracking": b"MauticJS"}
"""Bytes by which a page is recognised."""
PICTURED = ("login", "form", "landing", "unsubscribe")
"""Pages whose content is returned. The content of `preferences` would reveal a contact."""
NOW = (
    "(publish_up IS NULL OR publish_up <= UTC_TIMESTAMP()) AND (publish_down IS NULL OR publish_down > UTC_TIMESTAMP())"
)
NEWEST = {
    "form": "SELECT id, '' FROM forms WHERE is_published = 1 AND {now} ORDER BY id DESC LIMIT 1",
    "landing": "SELECT id, alias FROM pages WHERE is_published = 1 AND COALESCE(is_preference_center, 0) = 0"
    " AND {now} ORDER BY id DESC LIMIT 1",
    "asset": "SELECT id, alias FROM assets WHERE is_published = 1 AND {now} ORDER BY id DESC LIMIT 1",
    # Only the latest mails: if none of a million had a tracking hash, the query would read them all.
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
"""Pages that are requested only in a copy, and why; every left-out page has such a reason (`bot.model.pages.Why`)."""


class Inside(http.client.HTTPConnection):
    """A connection to the inside socket; `give_up` is the time by which the answer must be complete."""

    def __init__(self, host: str, patience: float) -> None:
        super().__init__(host)
        self.give_up = time.monotonic() + patience
        self.line = socket.socket(socket.AF_UNIX)

    def connect(self) -> None:
        # `http.client` clears its own `sock` once it has read the headers, so `line` keeps the socket.
        self.sock = self.line
        self.hurry()
        self.line.connect(str(INSIDE_SOCKET))

    def hurry(self) -> None:
        """Set the socket's timeout to the time that is left."""
        self.line.settimeout(max(0.001, self.give_up - time.monotonic()))


def ask(domain: str, path: str, patience: float) -> tuple[int, str, bytes, bool, str]:
    """Request a path once; return (status, content type, body, whether the body was cut at READ, redirect target)."""
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
    """One round of requests, with a time limit of `seconds` for all of them."""

    def __init__(self, domain: str, seconds: float) -> None:
        self.domain = domain
        self.give_up = time.monotonic() + seconds
        self.pages: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}
        self.bodies: dict[str, bytes] = {}

    def leave_out(self, what: str, why: str) -> None:
        """Record what was not requested, and why."""
        if len(self.left_out) < LEFT_OUT:
            self.left_out[what[:PATH]] = why

    def page(self, key: str, path: str, told: str = "") -> None:
        """Request one page; `told` replaces a path that would reveal a contact."""
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
        """Request a path and follow up to HOPS redirects on the same host; return status 0 when no answer came."""
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
        """Return the path and query that a link leads to, "" for another host or an invalid link."""
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
        """Request the files that the pages link to, then those that style sheets link to: pictures and fonts."""
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
        """Return {pages, left_out}, with as many bodies as fit into BODIES, those of the pages themselves first."""
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
        """Collect the links that a browser would load by itself."""
        has = {name: value or "" for name, value in attrs}
        if tag == "link" and {"stylesheet", "icon", "preload"} & set(has.get("rel", "").lower().split()):
            self.found.append(has.get("href", ""))
        elif tag in ("script", "img"):
            self.found.append(has.get("src", ""))
        self.found = [link for link in self.found if link]


def pages(request: Mapping[str, Any]) -> dict[str, Any]:
    """Find the pages that a tenant has and request them.

    Request: seconds (for all of it), thrown_away? (it is a copy, where changes do not matter).
    """
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
    """Return a query's first row, [] for none; tables without publish dates are queried without them."""
    try:
        rows = sql(query.format(now=NOW), "mautic")
    except CtlError:
        rows = sql(query.format(now="1"), "mautic")
    return rows[0] if rows and len(rows[0]) == 2 else []
