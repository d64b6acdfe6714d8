"""`send_own`, `take_own`: streams a tenant's own data from its container into a freshly cloned one.

The receiver does not trust the sender. It writes as www-data or mysql, never as root; it creates only files, folders
and links, none outside the places where they belong, none with special mode bits, and it follows no link. Nothing is
sent twice: nearly everything is sent while the tenant serves, and only the changes since then once it is closed; of
large files only the changed blocks.

A line is `+`, JSON, a tab, and content as base64. JSON: `a` area, `p` path in the area, `k` kind (`f` file, `d` folder,
`l` link, `x` deleted, `r` discard everything received before); for a file `n` create it, `o` offset, and in its last
line `s` size, `m` mode, `t` time in ns; for a link `to`. A line with only a point ends the stream.
"""

import base64
import errno
import hashlib
import json
import os
import pwd
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import trees
from .system import BEATS, MAUTIC, STATE, CtlError, asked, read_json, write
from .trees import LISTING, OWN_FOLDERS
from .wire import Wire

OWN, LAID = MAUTIC.with_name("mautic.own"), MAUTIC.with_name("mautic.laid")
"""Where the receiver puts the tree's own data, and files that the client added or changed among the release's."""
DATABASE = Path("/var/lib/mysql")
OWN_DATABASE = DATABASE.with_name("mysql.own")
SESSIONS = Path("/var/lib/php/sessions")
FROM = {"tree": MAUTIC, "laid": MAUTIC, "sessions": SESSIONS, "beats": BEATS, "database": DATABASE}
INTO: dict[str, tuple[Path, str]] = {
    "tree": (OWN, "www-data"),
    "laid": (LAID, "www-data"),
    "sessions": (SESSIONS, "www-data"),
    "beats": (BEATS, "www-data"),
    "database": (OWN_DATABASE, "mysql"),
}
"""The folder that receives each area, and the user who owns it."""
SENT, TAKEN = STATE / "own-sent.json", STATE / "own-taken.json"
"""What was sent, and the word of the last complete transfer: see `send_own`."""
BLOCK = 256 << 10
"""Bytes of content per line at most."""
NOT_SENT = ("ibtmp1", "mariadb.pid", "mysqld.pid")
"""Files in MariaDB's folder that belong to one run of it."""
VERSION_OF = ("app/migrations", "app/release_metadata.json")
"""Files that tell the tenant's release, and which migrations it has."""
RACY = 2_000_000_000
"""Nanoseconds within which a second change of a file may leave its timestamp unchanged."""
PATIENCE = 600.0
"""Seconds within which the next line must arrive."""


def send_own(request: Mapping[str, Any], wire: Wire) -> dict[str, Any]:
    """Send the client's own data; a serving tenant keeps serving.

    Request: word (an id of this transfer), known? (the word of the last transfer, as the receiver reports it: what was
    sent then is not sent again), same? (the receiver has the same release, so files of the release that were changed by
    hand are sent too). Returns files, bytes, seconds.
    """
    (word,) = asked(request, "word")
    began, sending = time.monotonic(), _Sending(wire)
    release, is_same = trees.read_listing(LISTING), bool(request.get("same"))
    before = read_json(SENT)
    if before.get("word") != request.get("known") or not request.get("known"):
        before = {}
        sending.say({"k": "r"})
    laid = before.get("laid")
    if laid is None:
        # This takes some tenths of a second, so it is done once, not again when the closed tenant serves nobody.
        found = trees.own(MAUTIC, release, {})
        laid = [*found["overlay"], *(found["changed"] if is_same else ())]
    else:
        # Only `media` is read again: Mautic saves into folders of the release there, and they have few files.
        laid = [name for name in laid if not name.startswith("media/")] + _laid_in_media(release, is_same=is_same)
    known, now = before.get("entries", {}), {}
    for area, top in (*_tops(), *(("laid", name) for name in laid)):
        for path in _walk(FROM[area], top):
            name = f"{area}/{path}"
            if entry := sending.entry(area, path, known.get(name)):
                now[name] = entry
    # Delete the contents of a folder before the folder itself.
    for name in sorted(known.keys() - now.keys(), reverse=True):
        area, _, path = name.partition("/")
        sending.say({"a": area, "p": path, "k": "x"})
    write(SENT, json.dumps({"word": word, "laid": laid, "entries": now}), 0o600)
    wire.pass_on(b".\n")
    return {
        "files": sending.files,
        "bytes": sending.bytes,
        "seconds": round(time.monotonic() - began, 3),
    }


def _laid_in_media(release: Mapping[str, str], *, is_same: bool) -> list[str]:
    """Return the client's files among the release's in `media`, as `trees.own` does; none if no listing is known."""
    files = trees.files_of(MAUTIC, "media").items() if release else ()
    return [name for name, seen in files if name not in release or (is_same and release[name] != seen)]


def _tops() -> Iterator[tuple[str, str]]:
    """Yield (area, path) of everything that is sent as a whole; a path need not exist."""
    release = trees.read_listing(LISTING)
    yield "tree", "config"
    for name in _names(MAUTIC / "var"):
        if name not in ("cache", "tmp"):
            yield "tree", f"var/{name}"
    yield "tree", "var/cache/ip_data"
    own = {folder: trees.own_entries(folder, MAUTIC, release, {}) for folder in ("media", *OWN_FOLDERS)}
    for name in sorted({"files", "images", *own.pop("media")}):
        yield "tree", f"media/{name}"
    for folder, names in own.items():
        yield from (("tree", f"{folder}/{name}") for name in names)
    yield from (("tree", name) for name in VERSION_OF)
    yield from (("sessions", name) for name in _names(SESSIONS))
    yield from (("beats", name) for name in _names(BEATS))
    for name in _names(DATABASE):
        # Flag files of the Debian packages begin with `debian-`.
        if name not in NOT_SENT and not name.startswith("debian-"):
            yield "database", name


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _walk(root: Path, top: str) -> Iterator[str]:
    """Yield a path and everything below it, relative to `root`, each folder before its contents; follow no link."""
    waits = [top]
    while waits:
        path = waits.pop()
        yield path
        with suppress(NotADirectoryError, FileNotFoundError):
            if stat.S_ISDIR(os.lstat(root / path).st_mode):
                waits += sorted((f"{path}/{name}" for name in os.listdir(root / path)), reverse=True)


class _Sending:
    """Sends entries as lines, and counts files and bytes."""

    def __init__(self, wire: Wire) -> None:
        self.files = self.bytes = 0
        self._wire = wire

    def say(self, told: Mapping[str, Any], content: bytes = b"") -> None:
        self.bytes += len(content)
        self._wire.pass_on(b"+" + json.dumps(told).encode() + b"\t" + base64.b64encode(content) + b"\n")

    def entry(self, area: str, path: str, known: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Send an entry if it has changed since it was sent; return its present state, None if it cannot be sent."""
        at, full = {"a": area, "p": path}, FROM[area] / path
        try:
            seen = os.lstat(full)
            if stat.S_ISREG(seen.st_mode):
                return self._file(at, full, known)
            now = {"mode": stat.S_IMODE(seen.st_mode) & 0o777}
            if stat.S_ISDIR(seen.st_mode):
                if known != now | {"k": "d"}:
                    self.say(at | {"k": "d", "m": now["mode"]})
                return now | {"k": "d"}
            if stat.S_ISLNK(seen.st_mode):
                link = {"k": "l", "to": os.readlink(full)}
                if known != link:
                    self.say(at | link)
                return link
        except (FileNotFoundError, NotADirectoryError):
            # It was deleted meanwhile.
            pass
        return None

    def _file(self, at: Mapping[str, str], full: Path, known: Mapping[str, Any] | None) -> dict[str, Any] | None:
        try:
            number = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                # It is no longer a file.
                return None
            raise
        with open(number, "rb", buffering=0) as file:
            seen = os.fstat(number)
            if not stat.S_ISREG(seen.st_mode):
                return None
            looks = [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino]
            if known and known.get("looks") == looks and known["at"] - RACY > seen.st_ctime_ns:
                return dict(known)
            entry: dict[str, Any] = {"k": "f", "looks": looks, "at": time.time_ns(), "blocks": []}
            sent = (known or {}).get("blocks") or []
            made = not sent
            if made:
                self.say({**at, "k": "f", "n": 1, "o": 0})
            offset = 0
            while block := file.read(BLOCK):
                is_known = False
                if len(block) == BLOCK:
                    digest = base64.b64encode(hashlib.blake2b(block, digest_size=12).digest()).decode()
                    is_known = sent[len(entry["blocks"]) :][:1] == [digest]
                    entry["blocks"].append(digest)
                # A block of zeros need not be sent into a new file.
                if not is_known and not (made and not block.strip(b"\0")):
                    self.say({**at, "k": "f", "o": offset}, block)
                offset += len(block)
            mode = stat.S_IMODE(seen.st_mode) & 0o777
            self.say({**at, "k": "f", "s": offset, "m": mode, "t": seen.st_mtime_ns})
            self.files += 1
            return entry


def take_own(request: Mapping[str, Any], wire: Wire) -> dict[str, Any]:
    """Receive in a closed container what `send_own` sends elsewhere; `adopt` then moves it into place.

    First sends `known`, the word of the last complete transfer. Request: word (an id of this transfer). Returns files,
    bytes. Raises CtlError for an open container, invalid lines, and a stream that ends early.
    """
    (word,) = asked(request, "word")
    trees.must_be_closed()
    known = str(read_json(TAKEN).get("word") or "")
    # After an interruption everything is sent again.
    TAKEN.unlink(missing_ok=True)
    taking = _Taking(INTO)
    wire.tell({"ok": True, "known": known})
    try:
        for line in wire.lines(PATIENCE):
            if line == b".":
                break
            taking.take(line)
        else:
            raise CtlError("what is the client's own did not come to its end")
    finally:
        taking.end()
    write(TAKEN, json.dumps({"word": word}), 0o600)
    return {"files": taking.files, "bytes": taking.bytes}


class _Taking:
    """Writes received lines as the user who owns their area."""

    def __init__(self, into: Mapping[str, tuple[Path, str]]) -> None:
        self.files = self.bytes = 0
        self._into = into
        self._user = "root"
        self._open: tuple[str, int] = ("", -1)
        # Root's groups may give access to more than the files' owners have.
        os.setgroups([])
        self._make_folders()

    def end(self) -> None:
        """Close the open file and become root again."""
        self._close()
        self._become("root")

    def take(self, line: bytes) -> None:
        """Apply one line; raises CtlError for an invalid line, or a path that leads elsewhere."""
        try:
            head, _, content = line[1:].partition(b"\t")
            told, found = json.loads(head), base64.b64decode(content, validate=True)
            kind = told["k"]
            if line[:1] != b"+" or kind not in ("f", "d", "l", "x", "r"):
                raise ValueError
            if kind == "r":
                self._forget()
                return
            base, user = self._into[told["a"]]
            *parents, name = str(told["p"]).split("/")
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CtlError("what came of the client's own is not laid out as it should be") from None
        if any(part in ("", ".", "..") or "\0" in part for part in (*parents, name)):
            raise CtlError("a path of the client's own leads elsewhere")
        self._become(user)
        if kind == "f":
            self._file(base, parents, name, told, found)
            return
        self._close()
        folder = self._folder(base, parents)
        try:
            if kind == "d":
                if not _is_folder(folder, name):
                    _gone(folder, name)
                    os.mkdir(name, dir_fd=folder)
                os.chmod(name, int(told.get("m") or 0o755) & 0o777 | 0o700, dir_fd=folder)
            else:
                _gone(folder, name)
            if kind == "l":
                os.symlink(str(told["to"]), name, dir_fd=folder)
        finally:
            os.close(folder)

    def _file(self, base: Path, parents: list[str], name: str, told: Mapping[str, Any], content: bytes) -> None:
        key = f"{base}/{'/'.join(parents)}/{name}"
        if self._open[0] != key:
            self._close()
            folder = self._folder(base, parents)
            flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                if told.get("n"):
                    _gone(folder, name)
                    flags |= os.O_CREAT | os.O_EXCL
                self._open = (key, os.open(name, flags, 0o600, dir_fd=folder))
            except FileNotFoundError:
                raise CtlError("a part came of a file of the client's own that is not there") from None
            finally:
                os.close(folder)
        number, offset = self._open[1], int(told.get("o") or 0)
        self.bytes += len(content)
        while content:
            written = os.pwrite(number, content, offset)
            content, offset = content[written:], offset + written
        if "s" in told:
            os.ftruncate(number, int(told["s"]))
            os.fchmod(number, int(told["m"]) & 0o777 | 0o600)
            os.utime(number, ns=(int(told["t"]), int(told["t"])))
            self.files += 1
            self._close()

    def _folder(self, base: Path, parents: Iterable[str]) -> int:
        """Open the folder of an entry and return its descriptor; missing folders are created.

        Raises CtlError where a link or file is in the way.
        """
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
        number = os.open(base, flags)
        try:
            for part in parents:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=number)
                inner = os.open(part, flags, dir_fd=number)
                os.close(number)
                number = inner
        except NotADirectoryError:
            os.close(number)
            raise CtlError("a path of the client's own leads through what is no folder") from None
        return number

    def _close(self) -> None:
        if self._open[0]:
            os.close(self._open[1])
            self._open = ("", -1)

    def _become(self, user: str) -> None:
        if user != self._user:
            owner = pwd.getpwnam(user)
            os.seteuid(0)
            os.setegid(owner.pw_gid)
            os.seteuid(owner.pw_uid)
            self._user = user

    def _forget(self) -> None:
        """Delete everything received so far that is not in its final place."""
        self._close()
        self._become("root")
        for folder in (OWN, LAID, OWN_DATABASE):
            trees.remove(folder)
        self._make_folders()

    def _make_folders(self) -> None:
        for folder, user in self._into.values():
            if not folder.is_dir():
                folder.mkdir(mode=0o700)
                shutil.chown(folder, user, user)


def _is_folder(folder: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode)
    except FileNotFoundError:
        return False


def _gone(folder: int, name: str) -> None:
    """Delete the file, link or folder of this name, if there is one."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        with suppress(FileNotFoundError):
            shutil.rmtree(name, dir_fd=folder)
