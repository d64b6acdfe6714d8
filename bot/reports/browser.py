"""Drives one headless Chromium without a network, over two pipes (the DevTools protocol).

This process answers every request of a page from what was captured of its tenant, or refuses it. There is no server and
no port that others could reach, or through which the page could reach others: names, addresses and proxies of any kind
lead nowhere. The module imports nothing of the bot, as it runs where the bot's rights are given up (`photographer.py`).
"""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, cast
from urllib.parse import urlsplit

START, PAGE, IDLE = 20.0, 15.0, 3.0
"""Seconds for Chromium's start, for each call after it, and for further requests of a page that has loaded."""
ANSWER = 64 << 20
"""The most bytes of one answer; the largest answer is a picture."""
SOCKET = "/org.chromium.Chromium.XXXXXX/SingletonSocket"
"""The path of the socket that Chromium creates below its directory for temporary files."""
LONGEST = 107
"""The most bytes of a socket's path that Linux accepts."""
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    # Nothing leads anywhere: no name resolves, and all traffic, even to loopback, goes to a proxy that does not exist.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=127.0.0.1:9",
    "--proxy-bypass-list=<-loopback>",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--deny-permission-prompts",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--js-flags=--max-old-space-size=256",
    "--mute-audio",
    "--no-default-browser-check",
    "--no-first-run",
    "--password-store=basic",
    "--renderer-process-limit=2",
)
FREEZE_SCRIPT = """
(async () => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`*,*::before,*::after{caret-color:transparent!important;transition:none!important;
    animation-duration:0s!important;animation-delay:0s!important;animation-iteration-count:1!important}`);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  const after = milliseconds => new Promise(done => setTimeout(done, milliseconds));
  const drawn = new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  await Promise.race([document.fonts.ready, after(1000)]);
  await Promise.race([drawn, after(300)]);
})()
"""
"""Stops the blinking caret and all motion, so that only real differences of the page show."""


class NoPicture(Exception):
    """No picture could be taken; the text says why."""


class Captured(NamedTuple):
    """The captured answer of a path."""

    status: int
    type: str
    body: bytes


def _temporary(profile: Path) -> dict[str, str]:
    """Return the environment that puts Chromium's socket into its profile, so that a killed one leaves nothing behind.

    Empty where the path would be too long for a socket.
    """
    return {"TMPDIR": str(profile)} if len(f"{profile}{SOCKET}") <= LONGEST else {}


class Browser:
    """A running Chromium, until `close`. After a failure the caller closes it and starts another one."""

    def __init__(self, program: str, profile: Path, *, sandbox: bool = True, patience: float = PAGE) -> None:
        """Start Chromium; `patience`: seconds for a page.

        Raises NoPicture where it does not start, for example because it cannot create its sandbox.
        """
        command = [program, *FLAGS, *([] if sandbox else ["--no-sandbox"]), f"--user-data-dir={profile}", "about:blank"]
        profile.mkdir(exist_ok=True)
        # Chromium reads from descriptor 3 and writes to descriptor 4.
        shell = ["/bin/sh", "-c", 'exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null', "sh", *command]
        self._process = subprocess.Popen(
            shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(profile), "LANG": "C.UTF-8", **_temporary(profile)}, cwd="/",
        )  # fmt: skip
        self._to, self._of = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        self._said = bytearray()
        self._number = 0
        self._patience = patience
        self._captured: Mapping[str, Captured] = {}
        self._domain = ""
        self._reached: set[str] = set()
        try:
            self._call("Browser.getVersion", within=START)
        except NoPicture:
            self.close()
            raise

    def close(self) -> None:
        """Kill Chromium and all processes that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._to, self._of):
            with suppress(OSError):
                pipe.close()

    def photograph(
        self, domain: str, path: str, captured: Mapping[str, Captured], sizes: tuple[tuple[int, int], ...]
    ) -> list[bytes]:
        """Open a captured page, and return a PNG of its upper part for each size (width, height in pixels).

        Raises NoPicture; the caller has to close the browser then.
        """
        self._domain, self._captured, self._reached = domain, captured, set()
        context = self._call("Target.createBrowserContext")["browserContextId"]
        self._call("Browser.setDownloadBehavior", behavior="deny", browserContextId=context)
        target = self._call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Fetch.enable", session, patterns=[{"urlPattern": "*"}])
        self._call("Page.enable", session)
        self._call("Page.setLifecycleEventsEnabled", session, enabled=True)
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        self._call("Emulation.setEmulatedMedia", session, features=still)
        self._resize(session, *sizes[0])
        self._reached.clear()
        end = time.monotonic() + self._patience
        if wrong := self._call("Page.navigate", session, url=f"https://{domain}{path}").get("errorText"):
            raise NoPicture(f"Chromium does not show it ({str(wrong)[:60]}).")
        self._wait("load", end)
        with suppress(NoPicture):
            self._wait("networkIdle", time.monotonic() + IDLE)
        pictures = []
        for size in sizes:
            self._resize(session, *size)
            self._call("Runtime.evaluate", session, expression=FREEZE_SCRIPT, awaitPromise=True)
            shot = self._call("Page.captureScreenshot", session, format="png")
            pictures.append(base64.b64decode(shot["data"]))
        self._call("Target.disposeBrowserContext", browserContextId=context)
        return pictures

    def _resize(self, session: str, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", session, **metrics)

    def _wait(self, event: str, end: float) -> None:
        while event not in self._reached:
            self._handle_event(self._next(end))

    def _call(self, method: str, session: str = "", within: float = 0, **parameters: Any) -> dict[str, Any]:
        """Call a DevTools method and return its result; meanwhile handle the page's events.

        `within`: seconds; 0: the browser's `patience`. Raises NoPicture.
        """
        number, end = self._send(method, session, parameters), time.monotonic() + (within or self._patience)
        while (told := self._next(end)).get("id") != number:
            self._handle_event(told)
        if "error" in told:
            raise NoPicture(f"Chromium refuses {method}.")
        result: dict[str, Any] = told.get("result") or {}
        return result

    def _handle_event(self, told: Mapping[str, Any]) -> None:
        session, about = told.get("sessionId", ""), told.get("params") or {}
        match told.get("method"):
            case "Fetch.requestPaused":
                self._answer(session, about)
            case "Page.lifecycleEvent":
                self._reached.add(about["name"])
            case "Page.javascriptDialogOpening":
                self._send("Page.handleJavaScriptDialog", session, {"accept": False})
            case "Inspector.targetCrashed":
                raise NoPicture("The page makes Chromium crash.")

    def _answer(self, session: str, about: Mapping[str, Any]) -> None:
        """Answer a request of the page with what was captured of its own host; refuse all others."""
        asked = about["request"]
        parts = urlsplit(asked["url"])
        if parts.hostname != self._domain or asked["method"] != "GET":
            refusal = {"requestId": about["requestId"], "errorReason": "BlockedByClient"}
            self._send("Fetch.failRequest", session, refusal)
            return
        whole = f"{parts.path}?{parts.query}" if parts.query else parts.path
        found = self._captured.get(whole) or self._captured.get(parts.path) or Captured(404, "text/plain", b"")
        self._send(
            "Fetch.fulfillRequest",
            session,
            {
                "requestId": about["requestId"],
                "responseCode": found.status if 200 <= found.status < 600 else 502,
                "responseHeaders": [{"name": "Content-Type", "value": _header(found.type)}],
                "body": base64.b64encode(found.body).decode(),
            },
        )

    def _send(self, method: str, session: str, parameters: Mapping[str, Any]) -> int:
        self._number += 1
        words: dict[str, Any] = {"id": self._number, "method": method, "params": dict(parameters)}
        if session:
            words["sessionId"] = session
        try:
            self._to.write(json.dumps(words).encode() + b"\0")
            self._to.flush()
        except OSError:
            raise NoPicture("Chromium has ended.") from None
        return self._number

    def _next(self, end: float) -> dict[str, Any]:
        """Return Chromium's next message; raise NoPicture where none comes before `end`, or Chromium has ended."""
        searched = 0
        while (found := self._said.find(b"\0", searched)) < 0:
            searched = len(self._said)
            if not select.select([self._of], [], [], max(0.0, end - time.monotonic()))[0]:
                raise NoPicture("It is not there in time.")
            part = os.read(self._of.fileno(), 1 << 20)
            if not part or searched > ANSWER:
                raise NoPicture("Chromium has ended.")
            self._said += part
        told: dict[str, Any] = json.loads(self._said[:found])
        del self._said[: found + 1]
        return told


def _header(kind: str) -> str:
    """Return a valid Content-Type header, with UTF-8 for text."""
    plain = "".join(c for c in kind if c.isascii() and (c.isalnum() or c in "/+.-")) or "application/octet-stream"
    return f"{plain}; charset=utf-8" if plain.startswith("text/") else plain
