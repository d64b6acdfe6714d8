"""The pages that the in-tenant tool requests from Mautic, and its report, tested against a local server."""

from __future__ import annotations

import base64
import json
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from bot.guest.blueprint.mautic_ctl import pages
from bot.guest.blueprint.mautic_ctl.system import CtlError

DOMAIN = "client-x.example"
LOGIN = f"""<!doctype html><link rel="stylesheet" href="https://{DOMAIN}/media/css/app.css?v1">
<link rel="alternate" href="/feed"><script src="/media/js/app.js"></script><img src="logo.png">
<img src="https://elsewhere.example/x.png"><img src="data:image/png;base64,AA"><a href="/never">x</a>
<input name="_username">"""
NOBODY = f"/email/unsubscribe/{pages.NOBODY}"
SITE = {
    "/s/login": (200, "text/html; charset=UTF-8", LOGIN),
    "/mtc.js": (200, "application/javascript", "var MauticJS = {};"),
    "/media/css/app.css?v1": (200, "text/css", "@font-face{src:url('../fonts/a.woff2')} b{background:url(data:x)}"),
    "/media/fonts/a.woff2": (200, "font/woff2", "font"),
    "/media/js/app.js": (404, "text/html", "no"),
    "/s/logo.png": (200, "image/png", "\x89PNG"),
    "/form/7": (200, "text/html", "<form></form>"),
    "/spring/sale%20%C3%A4": (301, "text/html", "/spring/sale"),
    "/spring/sale": (200, "text/html", "<h1>Sale</h1>"),
    "/asset/4:list": (200, "application/pdf", "%PDF"),
    NOBODY: (200, "text/html", "not found"),
    "/email/unsubscribe/5f3a": (200, "text/html", "someone@example.test was unsubscribed"),
}
ROWS = {"forms": ["7", ""], "pages": ["9", "spring/sale ä"], "assets": ["4", "list"], "email_stats": ["1", "5f3a"]}


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A server that answers as `site` says and records the requests."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        self.site: dict[str, tuple[int, str, str]] = dict(SITE)
        self.asked: list[tuple[str, str, Mapping[str, str]]] = []
        self.waits: dict[str, float] = {}
        self.drips: set[str] = set()
        super().__init__(path, Handler)

    def handle_error(self, *_: object) -> None:
        """Ignore clients that stopped waiting."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def address_string(self) -> str:
        return "inside"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        time.sleep(self.server.waits.get(self.path, 0))
        status, kind, text = self.server.site.get(self.path, (404, "text/html", "nothing"))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if 300 <= status < 400:
            self.send_header("Location", text)
        self.end_headers()
        for piece in text if self.path in self.server.drips else (text,):
            time.sleep(0.1 if self.path in self.server.drips else 0)
            self.wfile.write(piece.encode())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # A socket's path has 107 characters at most.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "inside.sock")
        Path(folder, "identity.json").write_text(json.dumps({"domain": DOMAIN}))
        monkeypatch.setattr(pages, "INSIDE_SOCKET", path)
        monkeypatch.setattr(pages, "IDENTITY", Path(folder, "identity.json"))
        monkeypatch.setattr(pages, "sql", database())
        with Server(str(path)) as started:
            threading.Thread(target=started.serve_forever, args=(0.01,), daemon=True).start()
            yield started
            started.shutdown()


def database(rows: Mapping[str, list[str]] = ROWS, lacks: str = "") -> Callable[[str, str], list[list[str]]]:
    """Return a fake `sql` over rows by table; it refuses a statement that contains `lacks`."""

    def sql(statement: str, _: str) -> list[list[str]]:
        assert statement.startswith("SELECT ")
        if lacks and lacks in statement:
            raise CtlError("the database refused a statement (ERROR 1054 (42S22))")
        return [row for table, row in rows.items() if f"FROM {table} " in statement]

    return sql


def told(**request: Any) -> dict[str, Any]:
    return pages.pages({"seconds": 20, **request})


def body(page: dict[str, Any]) -> str:
    return base64.b64decode(page["body"]).decode()


def test_only_pages_that_change_nothing_are_requested_from_a_serving_tenant(server: Server) -> None:
    answer = told()
    assert [path for _, path, _ in server.asked] == [
        "/s/login", "/mtc.js", "/form/7", "/spring/sale%20%C3%A4", "/spring/sale", NOBODY,
        "/media/css/app.css?v1", "/media/js/app.js", "/s/logo.png", "/media/fonts/a.woff2",
    ]  # fmt: skip
    assert answer["left_out"] == {"asset": "counted", "preferences": "unsubscribes"}
    for method, _, headers in server.asked:
        assert (method, headers["Host"], headers["X-Forwarded-Proto"]) == ("GET", DOMAIN, "https")
        assert ("Wget" in headers["User-Agent"], headers["DNT"], headers["Sec-GPC"]) == (True, "1", "1")


def test_each_page_is_reported_with_what_a_picture_of_it_needs(server: Server) -> None:
    found = told()["pages"]
    assert {path: page["key"] for path, page in found.items()} == {
        "/s/login": "login",
        "/mtc.js": "tracking",
        "/form/7": "form",
        "/spring/sale%20%C3%A4": "landing",
        NOBODY: "unsubscribe",
        **dict.fromkeys(("/media/css/app.css?v1", "/media/js/app.js", "/s/logo.png", "/media/fonts/a.woff2"), "linked"),
    }
    login = found["/s/login"]
    assert (login["status"], login["type"], login["right"], login["cut"]) == (200, "text/html", True, False)
    assert (body(login), login["size"]) == (LOGIN, len(LOGIN))
    assert (found["/spring/sale%20%C3%A4"]["status"], body(found["/spring/sale%20%C3%A4"])) == (200, "<h1>Sale</h1>")
    assert found["/media/js/app.js"]["status"] == 404
    assert "body" not in found["/mtc.js"], "nobody sees a script"


def test_a_copys_download_and_contact_page_are_reported_without_their_content(server: Server) -> None:
    answer = told(thrown_away=True)
    assert answer["left_out"] == {}
    assert answer["pages"]["/asset/4:list"]["status"] == 200
    preferences = answer["pages"]["/email/unsubscribe/…"]
    assert (preferences["status"], "body" in preferences) == (200, False)
    assert "5f3a" not in json.dumps(answer)
    assert ("GET", "/email/unsubscribe/5f3a") in [(method, path) for method, path, _ in server.asked]


def test_a_page_with_unexpected_content_is_not_right(server: Server) -> None:
    server.site["/s/login"] = (200, "text/html", "<h1>Site is offline</h1>")
    server.site["/mtc.js"] = (200, "application/javascript", "")
    found = told()["pages"]
    assert (found["/s/login"]["right"], found["/mtc.js"]["right"], found["/form/7"]["right"]) == (False, False, True)


@pytest.mark.parametrize("lacks", ["publish_up", "is_preference_center", "forms", "email_stats", "FROM"])
def test_a_missing_table_or_column_leaves_out_only_its_pages(
    server: Server, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    monkeypatch.setattr(pages, "sql", database(lacks=lacks))
    answer = told(thrown_away=True)
    missing = {
        "publish_up": [],
        "is_preference_center": ["landing"],
        "forms": ["form"],
        "email_stats": ["preferences"],
        "FROM": ["form", "landing", "asset", "preferences"],
    }[lacks]
    assert answer["left_out"] == dict.fromkeys(missing, "unread")
    assert {"/s/login", "/mtc.js", NOBODY} <= answer["pages"].keys()


def test_kinds_without_a_published_page_are_reported_as_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "sql", database({}))
    left_out = told()["left_out"]
    assert left_out == dict.fromkeys(("form", "landing", "asset", "preferences"), "none")


def test_a_page_that_does_not_answer_is_reported_and_the_time_is_limited(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PATIENCE", 1)
    server.waits["/form/7"] = 4
    found = told()["pages"]
    assert (found["/form/7"]["status"], found["/form/7"]["seconds"] >= 1) == (0, True)
    assert found["/spring/sale%20%C3%A4"]["status"] == 200
    server.waits, server.drips = {}, {"/form/7"}
    assert told()["pages"]["/form/7"]["status"] == 0
    server.waits["/s/login"] = 2
    answer = told(seconds=0.1)
    assert answer["pages"].keys() == {"/s/login"}
    assert set(answer["left_out"].values()) >= {"late"}


def test_content_is_limited_and_cut_content_is_reported(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "BODIES", len(LOGIN) + 30)
    monkeypatch.setattr(pages, "READ", 1000)
    server.site["/s/logo.png"] = (200, "image/png", "x" * 5000)
    answer = told()
    logo = answer["pages"]["/s/logo.png"]
    assert (logo["size"], logo["cut"], "body" in logo) == (1000, True, False)
    assert answer["left_out"]["/s/logo.png"] == "large"
    assert "body" in answer["pages"]["/s/login"]
    told_of = sum(len(body(page)) for page in answer["pages"].values() if "body" in page)
    assert len(LOGIN) <= told_of <= len(LOGIN) + 30


def test_the_number_of_linked_files_is_limited(server: Server) -> None:
    long = f"/{'long' * 100}.png"
    many = "".join(f'<img src="{link}">' for link in (long, *(f"/i{number}.png" for number in range(200))))
    server.site["/form/7"] = (200, "text/html", many)
    answer = told()
    assert sum(page["key"] == "linked" for page in answer["pages"].values()) == pages.LINKED
    assert len(answer["left_out"]) == pages.LEFT_OUT
    assert answer["left_out"][long[: pages.PATH]] == "long"
    assert set(answer["left_out"].values()) >= {"many", "long"}
    assert len(answer["pages"]) <= 50, "the bot accepts no more"


@pytest.mark.parametrize("leads", ["https://elsewhere.example/", "/spring/sale%20%C3%A4", "//[", "javascript:alert(1)"])
def test_a_redirect_to_another_site_or_in_a_circle_is_an_answer(server: Server, leads: str) -> None:
    server.site["/spring/sale%20%C3%A4"] = (301, "text/html", leads)
    assert told()["pages"]["/spring/sale%20%C3%A4"]["status"] == 301
    server.site["/spring/sale%20%C3%A4"] = (301, "text/html", "/a")
    server.site["/a"] = (302, "text/html", "/b")
    server.site["/b"] = (302, "text/html", "/a")
    assert told()["pages"]["/spring/sale%20%C3%A4"]["status"] == 302
