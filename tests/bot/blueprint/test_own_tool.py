"""A tenant's own data on its way out of a container that is not trusted: `send_own`, `take_own`."""

from __future__ import annotations

import base64
import json
import os
import pwd
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.guest.blueprint.mautic_ctl import own, trees
from bot.guest.blueprint.mautic_ctl.system import CtlError
from bot.guest.blueprint.mautic_ctl.wire import Wire

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the web server's user")
GAMES = pwd.getpwnam("games").pw_uid


class Place:
    """A tenant that sends and a container that receives, in two folders."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.old, self.new = root / "old", root / "new"
        for folder in ("mautic/config", "mautic/var/logs", "mautic/media/files", "mysql/mautic", "sessions", "beats"):
            (self.old / folder).mkdir(parents=True)
        self.new.mkdir()
        os.chmod(root, 0o755)
        for path in root.parents:
            path.chmod(path.stat().st_mode | 0o011)
        old = self.old
        monkeypatch.setattr(own, "MAUTIC", old / "mautic")
        monkeypatch.setattr(own, "LISTING", old / "listing")
        monkeypatch.setattr(own, "SESSIONS", old / "sessions")
        monkeypatch.setattr(own, "BEATS", old / "beats")
        monkeypatch.setattr(own, "DATABASE", old / "mysql")
        monkeypatch.setattr(own, "SENT", old / "sent.json")
        monkeypatch.setattr(own, "TAKEN", self.new / "taken.json")
        monkeypatch.setattr(trees, "CLOSED", root)
        places = {"tree": "mautic", "laid": "mautic", "sessions": "sessions", "beats": "beats", "database": "mysql"}
        monkeypatch.setattr(own, "FROM", {area: old / folder for area, folder in places.items()})
        self.into = {area: (self.new / area, "games" if area == "database" else "www-data") for area in places}
        monkeypatch.setattr(own, "INTO", self.into)
        for name, area in (("OWN", "tree"), ("LAID", "laid"), ("OWN_DATABASE", "database")):
            monkeypatch.setattr(own, name, self.new / area)
        self.word = 0

    def put(self, path: str, content: bytes = b"the client's") -> Path:
        target = self.old / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        # A file that was changed just now may change again without getting another time.
        os.utime(target, (1_700_000_000, 1_700_000_000))
        return target

    def took(self, path: str) -> bytes:
        return (self.new / path).read_bytes()

    def bring(self, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Send and take everything once, as the bot does; return both answers."""
        self.word += 1
        here, there = socket.socketpair()
        known = json.loads(own.TAKEN.read_text())["word"] if own.TAKEN.exists() else ""
        asked = {"word": f"word {self.word}", "known": known, **more}
        # A process of its own: the receiver changes the user of the whole process.
        child = os.fork()
        if child == 0:
            try:
                there.close()
                told = own.send_own(asked, Wire(here.fileno(), here.fileno()))
                (self.old / "told.json").write_text(json.dumps(told))
            finally:
                os._exit(0)
        here.close()
        try:
            taken = take(there, asked["word"])
        finally:
            there.close()
            os.waitpid(child, 0)
        return json.loads((self.old / "told.json").read_text()), taken


def take(end: socket.socket, word: str) -> dict[str, Any]:
    """Take what arrives, as the tool does; the tool's own first answer is discarded."""
    with open(os.devnull, "wb") as nowhere:
        return own.take_own({"word": word}, Wire(end.fileno(), nowhere.fileno()))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    groups = os.getgroups()
    made = Place(tmp_path, monkeypatch)
    yield made
    assert (os.geteuid(), os.getegid()) == (0, 0)
    os.setgroups(groups)


def lines(place: Place, *told: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Return a function that takes these lines, which a hostile tenant may send."""

    def taking() -> dict[str, Any]:
        here, there = socket.socketpair()
        with here, there:
            for one in told:
                content = base64.b64encode(one.pop("content", b""))
                here.sendall(b"+" + json.dumps(one).encode() + b"\t" + content + b"\n")
            here.sendall(b".\n")
            return take(there, "word")

    assert place.into
    return taking


def test_the_clients_own_data_arrives_with_its_modes_and_owners(place: Place) -> None:
    place.put("mautic/config/local.php").chmod(0o4640)
    place.put("mautic/media/files/a.pdf", b"x" * 700_000)
    place.put("mautic/plugins/AcmeBundle/Acme.php")
    place.put("mautic/var/logs/today.php")
    place.put("mautic/var/cache/prod/compiled.php")
    place.put("mysql/ibdata1", os.urandom(600_000) + bytes(600_000))
    place.put("mysql/mautic/leads.ibd")
    place.put("mysql/debian-10.11.flag")
    place.put("sessions/sess_1")
    (place.old / "mautic/media/files/link").symlink_to("/etc/shadow")
    os.mkfifo(place.old / "mautic/media/files/pipe")
    sent, taken = place.bring()
    assert sent["bytes"] == taken["bytes"]
    assert place.took("tree/media/files/a.pdf") == b"x" * 700_000
    assert place.took("tree/plugins/AcmeBundle/Acme.php") == b"the client's"
    assert place.took("database/ibdata1") == (place.old / "mysql/ibdata1").read_bytes()
    assert place.took("sessions/sess_1") == b"the client's"
    seen = (place.new / "tree/config/local.php").stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_mtime) == (0o640, 1_700_000_000)
    assert (place.new / "database/ibdata1").stat().st_uid == GAMES
    assert seen.st_uid == (place.new / "tree").stat().st_uid != 0
    assert os.readlink(place.new / "tree/media/files/link") == "/etc/shadow"
    assert not (place.new / "tree/media/files/pipe").exists()
    assert not (place.new / "tree/var/cache/prod").exists()
    assert not (place.new / "database/debian-10.11.flag").exists()
    assert all(one.stat().st_uid for one in place.new.rglob("*") if one.name != "taken.json" and not one.is_symlink())


def test_a_second_transfer_sends_only_changes(place: Place) -> None:
    place.put("mautic/media/files/a.pdf", b"x" * 700_000)
    gone = place.put("mautic/media/files/old/gone.txt")
    large = bytearray(os.urandom(4 << 20))
    place.put("mysql/ibdata1", bytes(large))
    place.put("mysql/mautic/leads.ibd", b"y" * 5000)
    first, _ = place.bring()
    assert first["bytes"] > len(large) + 700_000
    gone.unlink()
    gone.parent.rmdir()
    place.put("mautic/media/files/b.pdf", b"new")
    large[1_000_000:1_000_010] = b"0123456789"
    with (place.old / "mysql/ibdata1").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"0123456789")
    second, _ = place.bring()
    # Files that were changed just now are sent once more: they may have changed again in the same instant.
    assert second["bytes"] <= own.BLOCK + 700_000 + 5000 + 100
    assert place.took("database/ibdata1") == bytes(large)
    assert place.took("tree/media/files/b.pdf") == b"new"
    assert not (place.new / "tree/media/files/old").exists()
    assert place.took("tree/media/files/a.pdf") == b"x" * 700_000


@pytest.mark.parametrize("same", [True, False])
def test_files_saved_among_the_releases_files_during_a_transfer_come_with_the_next(place: Place, same: bool) -> None:
    """As Mautic saves `media/dashboards/<user>/` beside the release's `media/dashboards/default.json`."""
    own.LISTING.write_text("app/x.php\t12 1700000000\nmedia/dashboards/default.json\t12 1700000000\n")
    place.put("mautic/app/x.php")
    place.put("mautic/app/by_hand.php")
    place.put("mautic/media/dashboards/default.json")
    gone = place.put("mautic/media/dashboards/2/gone.json")
    place.put("mautic/media/dashboards/2/mine.json")
    place.bring(same=same)
    assert not (place.new / "laid/media/dashboards/default.json").exists()
    gone.unlink()
    place.put("mautic/media/dashboards/2/late.json")
    place.put("mautic/media/dashboards/2/mine.json", b"saved meanwhile")
    place.put("mautic/media/dashboards/default.json", b"by hand")
    place.bring(same=same)
    assert {path.name: path.read_bytes() for path in (place.new / "laid").rglob("*") if path.is_file()} == {
        "by_hand.php": b"the client's",
        "late.json": b"the client's",
        "mine.json": b"saved meanwhile",
    } | ({"default.json": b"by hand"} if same else {})


def test_a_database_file_that_shrinks_is_shortened_in_the_copy(place: Place) -> None:
    place.put("mysql/undo001", os.urandom(1 << 20))
    place.bring()
    place.put("mysql/undo001", b"short")
    place.bring()
    assert place.took("database/undo001") == b"short"


def test_after_a_partial_transfer_everything_is_sent_again(place: Place) -> None:
    place.put("mautic/media/files/a.pdf")
    place.put("mautic/media/files/kept.pdf")
    place.bring()
    (place.new / "tree/media/files/kept.pdf").unlink()
    own.TAKEN.unlink()
    place.bring()
    assert place.took("tree/media/files/kept.pdf") == b"the client's"


@pytest.mark.parametrize(
    "line",
    [
        {"a": "tree", "p": "../escaped", "k": "f", "n": 1, "s": 0, "m": 420, "t": 0},
        {"a": "tree", "p": "/etc/cron.d/escaped", "k": "f", "n": 1, "s": 0, "m": 420, "t": 0},
        {"a": "tree", "p": "a//b", "k": "d"},
        {"a": "tree", "p": "", "k": "x"},
        {"a": "etc", "p": "cron.d/escaped", "k": "f", "n": 1},
        {"a": "tree", "p": "pipe", "k": "p"},
        {"p": "a", "k": "f"},
        {"a": "tree", "p": "not/begun", "k": "f", "o": 9},
    ],
    ids=str,
)
def test_a_path_that_leads_out_of_its_folder_is_refused(place: Place, line: dict[str, Any]) -> None:
    with pytest.raises(CtlError):
        lines(place, line)()
    assert not list(place.new.parent.rglob("escaped"))


def test_no_link_is_followed(place: Place) -> None:
    outside = place.new / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    told = [
        {"a": "tree", "p": "out", "k": "l", "to": str(outside)},
        {"a": "tree", "p": "out/escaped", "k": "f", "n": 1, "o": 0, "content": b"x"},
    ]
    with pytest.raises(CtlError, match="no folder"):
        lines(place, *told)()
    assert not list(outside.iterdir())


def test_a_link_is_replaced_by_a_file_and_not_written_through(place: Place) -> None:
    outside = place.new / "outside"
    outside.write_text("ours")
    outside.chmod(0o666)
    told = [
        {"a": "tree", "p": "out", "k": "l", "to": str(outside)},
        {"a": "tree", "p": "out", "k": "f", "n": 1, "o": 0, "content": b"theirs"},
        {"a": "tree", "p": "out", "k": "f", "s": 6, "m": 0o6777, "t": 0},
    ]
    lines(place, *told)()
    assert outside.read_text() == "ours"
    assert stat.S_IMODE((place.new / "tree/out").stat().st_mode) == 0o777


def test_a_transfer_that_is_cut_does_not_count_as_complete(place: Place) -> None:
    here, there = socket.socketpair()
    here.sendall(b'+{"a": "tree", "p": "a", "k": "d"}\t\n')
    here.close()
    with there, pytest.raises(CtlError, match="did not come to its end"):
        take(there, "word")
    assert not own.TAKEN.exists()


def test_nothing_is_taken_into_an_open_tenant(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "CLOSED", place.new / "sealed")
    with pytest.raises(CtlError, match="it is open"):
        lines(place)()
