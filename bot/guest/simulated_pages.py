"""Simulates the pages of a tenant: those of a small Mautic with a form, a landing page and a download.

A test breaks some of them: `change(lxd, "client-x", broken_pages={"/s/login": 500, "/media/css/app.css": 404})`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

STYLE, LOGO = "/media/css/app.css", "/media/images/logo.svg"
_HTML = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="{style}?v{version}"></head><body><main><img alt="" src="{logo}"><h1>{title}</h1>{body}
<small>Simulated Mautic {version}</small></main></body></html>"""
_LOGIN = """<form><label>Name <input name="_username"></label><label>Password <input type="password"></label>
<button>Login</button></form>"""
_PAGES = {
    "/s/login": ("login", "Login", _LOGIN),
    "/form/1": ("form", "Newsletter", "<form><label>E-mail <input></label><button>Send</button></form>"),
    "/spring": ("landing", "Spring", "<p>All of it is green.</p>"),
    "/email/unsubscribe/mautic-ops-nobody": ("unsubscribe", "Unsubscribe", "<p>Record not found.</p>"),
}
_FILES = {
    "/mtc.js": ("tracking", "application/javascript", "var MauticJS = MauticJS || {};"),
    STYLE: ("linked", "text/css", "body{font:16px sans-serif;background:#eef}main{margin:3em;background:#fff}"),
    LOGO: (
        "linked",
        "image/svg+xml",
        '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><circle cx="32" cy="32" r="30"/></svg>',
    ),
}
_OF_A_COPY = {
    "/asset/1:price-list": ("asset", "application/pdf", "%PDF-1.4 simulated"),
    "/email/unsubscribe/…": ("preferences", "text/html", "<p>Preferences</p>"),
}
_LEFT_OUT = {"asset": "counted", "preferences": "unsubscribes"}
"""The words of the real tool."""


def answer(version: str, broken: Mapping[str, int], *, thrown_away: bool) -> dict[str, Any]:
    """Return the answer to `pages`; `broken`: the status of each page or file that fails, by path, 0: no answer."""
    told: dict[str, Any] = {}
    for path, (key, title, body) in _PAGES.items():
        html = _HTML.format(title=title, body=body, version=version, style=STYLE, logo=LOGO)
        told[path] = _told(key, "text/html", html, broken.get(path))
    for path, (key, kind, text) in {**_FILES, **(_OF_A_COPY if thrown_away else {})}.items():
        told[f"{path}?v{version}" if path == STYLE else path] = _told(key, kind, text, broken.get(path))
    return {"pages": told, "left_out": {} if thrown_away else dict(_LEFT_OUT)}


def _told(key: str, kind: str, text: str, status: int | None) -> dict[str, Any]:
    content = b"" if status == 0 else (text if status is None else f"<h1>Error {status}</h1>").encode()
    return {
        "key": key,
        "status": 200 if status is None else status,
        "seconds": 0.05,
        "size": len(content),
        "type": kind if status is None else "text/html" if status else "",
        "sha256": hashlib.sha256(content).hexdigest() if content else "",
        "right": status is None,
        "cut": False,
        "body": base64.b64encode(content).decode()
        if key in ("login", "form", "landing", "unsubscribe", "linked")
        else "",
    }
