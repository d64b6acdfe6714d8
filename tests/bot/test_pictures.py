"""Pictures of hostile pages before and after a change, taken by Debian's Chromium, and what differs in them."""

from __future__ import annotations

import http.server
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from bot.model.pages import Key, Page, Pages
from bot.reports import pictures
from bot.reports.browser import Browser, Captured, NoPicture
from bot.reports.differences import Pair, differ, side_by_side
from tests.support.real_lxd import need

DOMAIN = "client-x.example"
STYLE = "body{margin:0;background:#206040;color:#fff;font:24px sans-serif}"


def drawn(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (200, 100), ink: str = "black") -> bytes:
    picture = Image.new("RGB", size, "white")
    for box in boxes:
        ImageDraw.Draw(picture).rectangle(box, fill=ink)
    made = io.BytesIO()
    picture.save(made, "PNG")
    return made.getvalue()


BOX = drawn((20, 20, 59, 59))


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        (BOX, BOX, 0.0),
        (BOX, drawn(), 40 * 40 / 20_000),
        (drawn(), BOX, 40 * 40 / 20_000),
        (drawn(), drawn((0, 0, 199, 99)), 1.0),
        (BOX, drawn((21, 20, 60, 59)), 0.0),
        (BOX, drawn((24, 20, 63, 59)), 2 * (3 * 40 + 38) / 20_000),
        (drawn(), drawn((0, 0, 199, 99), ink="#fafafa"), 0.0),
        (drawn(), drawn((0, 0, 199, 99), ink="#eeeeff"), 1.0),
        (drawn(), drawn(size=(200, 200)), 0.5),
        (drawn(size=(400, 50)), drawn(), 1 - 200 * 50 / (400 * 100)),
    ],
)
def test_a_pixel_differs_where_no_neighbour_is_like_it(before: bytes, after: bytes, share: float) -> None:
    assert differ(before, after) == pytest.approx(share, abs=0.0005)


def test_views_are_side_by_side_and_differences_are_red() -> None:
    share, png = side_by_side([Pair(drawn(), BOX), Pair(drawn(size=(60, 80)), drawn(size=(60, 80)))])
    assert share == pytest.approx(1600 / (20_000 + 4800), abs=0.002)
    sheet = Image.open(io.BytesIO(png)).convert("RGB")
    red = [x for x in range(sheet.width) if sheet.getpixel((x, 34 + 20)) == (209, 41, 61)]
    assert len(red) == pytest.approx(20, abs=3)
    assert min(red) > sheet.width * 2 / 3, "in the third column only"


def test_a_file_that_is_no_picture_or_too_large_is_refused() -> None:
    with pytest.raises(OSError, match="cannot identify"):
        differ(b"GIF89a", BOX)
    with pytest.raises(ValueError, match="too large"):
        differ(BOX, drawn(size=(5000, 4000)))


def pages(html: str, style: str = STYLE, key: Key = "login", path: str = "/s/login", status: int = 200) -> Pages:
    page = Page(key, path, status, 0.1, type="text/html", body=html.encode())
    css = Page("linked", "/app.css?v1", 200, 0.1, type="text/css", body=style.encode())
    return Pages((page, css))


HTML = f'<link rel="stylesheet" href="https://{DOMAIN}/app.css?v1"><h1>Login</h1><input autofocus>'


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test that leaves a process or a folder; it has a folder of its own, as other bots run on this machine."""
    # Pytest's own folder (`tmp_path`) has to exist before, because it would be created inside this one.
    own = Path(tempfile.mkdtemp(dir="/tmp"))
    # The user `nobody` takes the pictures, and has to reach what is below.
    own.chmod(0o755)
    monkeypatch.setattr("tempfile.tempdir", str(own))
    try:
        yield
        assert list(own.iterdir()) == []
        assert [line for line in cmdlines() if str(own).encode() in line] == []
    finally:
        shutil.rmtree(own)


def cmdlines() -> list[bytes]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(process.read_bytes())
    return found


def test_an_unchanged_page_looks_the_same_and_one_without_its_style_does_not() -> None:
    need("chromium")
    same, other = pages(HTML), Pages((*pages(HTML).pages, *pages("<p>x", key="form", path="/form/1").pages[:1]))
    answer = pictures.take(other, same, DOMAIN)
    (login,) = answer.pictures
    assert (answer.why, login.key, login.share, login.why) == ("", "login", 0.0, "")
    sheet = Image.open(io.BytesIO(login.png)).convert("RGB")
    assert sheet.width == 3 * (640 + 195 + 2 * 16) + 16
    assert sheet.getpixel((400, 300)) == (0x20, 0x60, 0x40), "the style sheet was found by its full address"
    broken = pages(HTML)
    (login,) = pictures.take(same, Pages(broken.pages[:1]), DOMAIN).pictures
    assert login.share > 0.9


NASTY = """
<script>
  alert('stop'); confirm('stop');
  const urls = ['http://127.0.0.1:PORT/', 'http://localhost:PORT/', 'http://[::1]:PORT/', 'file:///etc/passwd'];
  for (const url of urls) {
    fetch(url, {mode: 'no-cors'}).catch(() => 0);
    new Image().src = url;
    document.write(`<iframe src="${url}"></iframe><link rel="prefetch" href="${url}">`);
    try { window.open(url); } catch (e) { }
    navigator.sendBeacon(url, 'x');
  }
  new WebSocket('ws://127.0.0.1:PORT/');
  new Worker(URL.createObjectURL(new Blob(["fetch('http://127.0.0.1:PORT/worker', {mode: 'no-cors'})"])));
</script><link rel="dns-prefetch" href="//elsewhere.example"><h1>Here I am</h1>
"""


@pytest.fixture
def listener() -> Iterator[tuple[int, list[str]]]:
    """The port of a server on this machine that no page may reach, and the clients that connected to it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle(self) -> None:
            asked.append(str(self.client_address))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


def test_a_page_reaches_no_server_of_this_machine_even_without_a_network_namespace(
    listener: tuple[int, list[str]],
) -> None:
    """Tests the browser alone: its flags and answers are one barrier, the namespaces around it are another."""
    need("chromium")
    port, asked = listener
    profile = Path(tempfile.gettempdir(), "profile")
    browser = Browser(str(shutil.which("chromium")), profile, sandbox=os.geteuid() != 0)
    try:
        html = NASTY.replace("PORT", str(port))
        captured = {"/s/login": Captured(200, "text/html", html.encode())}
        (shot,) = browser.photograph(DOMAIN, "/s/login", captured, ((800, 600),))
    finally:
        browser.close()
        left = list(profile.glob("org.chromium.*"))
        shutil.rmtree(profile)
    assert left, "a killed browser leaves its files in its profile, not among the machine's temporary files"
    assert asked == []
    assert differ(shot, drawn(size=(800, 600))) > 0, "the page is shown all the same"


def test_a_page_stores_nothing_for_the_next_picture() -> None:
    need("chromium")
    html = """<script>
      document.write(`<body style="background:${localStorage.seen || document.cookie ? 'red' : 'green'}">`);
      localStorage.seen = 'yes'; document.cookie = 'seen=yes; max-age=999'; </script>"""
    (login,) = pictures.take(pages(html), pages(html), DOMAIN).pictures
    sheet = Image.open(io.BytesIO(login.png)).convert("RGB")
    assert (login.share, sheet.getpixel((400, 300))) == (0.0, (0, 128, 0))


def test_a_page_that_never_finishes_has_no_picture_and_the_next_one_has(tmp_path: Path) -> None:
    need("chromium")
    hangs = pages("<h1>x</h1><script>for (;;) {}</script>")
    both = Pages((*hangs.pages, *pages("<h1>form", key="form", path="/form/1").pages[:1]))
    began = time.monotonic()
    answer = pictures.take(both, both, DOMAIN, patience=4.0)
    assert time.monotonic() - began < 25
    login, form = answer.pictures
    assert (login.png, login.why) == (b"", "It is not there in time.")
    assert (form.share, form.why, form.png[:4]) == (0.0, "", b"\x89PNG")


def test_when_time_is_up_nothing_is_left_running() -> None:
    need("chromium")
    answer = pictures.take(pages(HTML), pages(HTML), DOMAIN, seconds=0.0)
    assert [(one.png, one.why) for one in answer.pictures] == [(b"", "Time was up.")]


def test_the_answer_says_that_chromium_is_missing(tmp_path: Path) -> None:
    why = "No pictures: Chromium is not on the bot's machine."
    assert pictures.take(pages(HTML), pages(HTML), DOMAIN, program=str(tmp_path / "none")) == pictures.Answer([], why)


def test_the_folder_of_a_killed_bot_is_removed_and_that_of_a_running_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, now = (tmp_path / f"mautic-ops-pictures-{name}" for name in ("left", "now"))
    for folder in (left, now):
        (folder / "profile").mkdir(parents=True)
    os.utime(left, (time.time() - 3600,) * 2)
    pictures.take(Pages(), Pages(), DOMAIN, program="/bin/false")
    assert list(tmp_path.iterdir()) == [now]


def test_there_is_no_picture_when_chromium_does_not_start(tmp_path: Path) -> None:
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    tmp_path.chmod(0o755)
    answer = pictures.take(pages(HTML), pages(HTML), DOMAIN, program=str(program))
    assert answer == pictures.Answer([], "No pictures: Chromium does not start.")
    with pytest.raises(NoPicture, match="has ended"):
        Browser("/bin/true", tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_chromium_runs_as_nobody_without_a_network_and_sees_no_other_processes(tmp_path: Path) -> None:
    """A script in the place of Chromium records what it may do."""
    told = Path("/tmp") / f"mautic-ops-test-{os.getpid()}"
    told.mkdir()
    told.chmod(0o777)
    program = told / "chromium"
    program.write_text(
        f"#!/bin/sh\nid -un >{told}/who\nls /proc | grep -c '^[0-9]' >{told}/processes\n"
        f"cat /proc/net/dev >{told}/net\ncat /proc/self/oom_score_adj /proc/self/limits >{told}/limits\n"
    )
    program.chmod(0o755)
    try:
        pictures.take(pages(HTML), pages(HTML), DOMAIN, program=str(program))
        assert (told / "who").read_text() == "nobody\n"
        assert int((told / "processes").read_text()) < 10
        assert [line.split(":")[0].strip() for line in (told / "net").read_text().splitlines()[2:]] == ["lo"]
        score, *limits = (told / "limits").read_text().splitlines()
        assert score == "1000"
        held = {line[:26].strip(): line[26:].split()[1] for line in limits}
        assert (held["Max data size"], held["Max file size"], held["Max core file size"]) == (
            str(3 << 30), str(64 << 20), "0",
        )  # fmt: skip
    finally:
        shutil.rmtree(told)


def test_contact_pages_downloads_and_scripts_have_no_picture() -> None:
    page = pages(HTML).pages[0]
    keys: tuple[Any, ...] = ("preferences", "asset", "tracking")
    all_of = Pages(tuple(replace(page, key=key) for key in keys))
    assert pictures.take(all_of, all_of, DOMAIN, program="true") == pictures.Answer([])


def test_the_bots_own_process_never_loads_drawing_libraries() -> None:
    program = (
        "import sys, bot.program; from bot.reports import pictures;"
        "assert not [name for name in ('PIL', 'numpy', 'bot.reports.photographer') if sys.modules.get(name)]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
