"""`send_own`, `take_own`: what is a tenant's own goes from its container into one that was made anew.

The one that sends is believed in nothing. The one that takes writes as www-data or as mysql, never as root; it makes
files, folders and links only, none outside of where they belong, none with more than the plain rights, and follows no
link. What was sent before is not sent again: while the tenant serves nearly all is sent, and once it is closed what has
changed since, of large files only the blocks.

A line is `+`, JSON, a tab, and content by base64. JSON: `a` area, `p` path in it, `k` kind (`f` file, `d` folder, `l`
link, `x` gone, `r` all that came before is void); of a file `n` it is made anew, `o` offset, and in its last line
`s` size, `m` mode, `t` time; of a link `to`. A line with a point alone ends it.
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
"""Where a tree's own comes to lie, and files that were laid, or changed, among those of the release."""
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
"""Where each area comes to lie, and as whose."""
SENT, TAKEN = STATE / "own-sent.json", STATE / "own-taken.json"
"""What was sent, and the word of the last time that all of it was taken: see `send_own`."""
BLOCK = 256 << 10
"""Bytes of a line's content."""
NOT_SENT = ("ibtmp1", "mariadb.pid", "mysqld.pid")
"""What of MariaDB's folder is of one run of it."""
VERSION_OF = ("app/migrations", "app/release_metadata.json")
"""What tells which release it was, and which migrations are behind it."""
RACY = 2_000_000_000
"""Nanoseconds within which a second change of a file may have left its time as it was."""
PATIENCE = 600.0
"""Seconds within which the next line has to come."""


def send_own(request: Mapping[str, Any], wire: Wire) -> dict[str, Any]:
    """Send what is the client's own; a tenant that serves goes on to.

    Asked: word (of this time), known? (the word of the last time, as the other side tells it: what was sent then is not
    sent again), same? (the other side has the same release, so files of it that were changed by hand are sent too).
    Returns files, bytes, seconds.
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
        # It takes some tenths of a second, so only once; the last time nobody is served meanwhile.
        found = trees.own(MAUTIC, release, {})
        laid = [*found["overlay"], *(found["changed"] if is_same else ())]
    else:
        # Mautic saves into folders of the release's there, and there are few files in them.
        laid = [name for name in laid if not name.startswith("media/")] + _laid_in_media(release, is_same=is_same)
    known, now = before.get("entries", {}), {}
    for area, top in (*_tops(), *(("laid", name) for name in laid)):
        for path in _walk(FROM[area], top):
            name = f"{area}/{path}"
            if entry := sending.entry(area, path, known.get(name)):
                now[name] = entry
    # What is in a folder goes before it.
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
    """Return what lies among the release's files in `media`, as `trees.own` tells it; nothing where none are known."""
    files = trees.files_of(MAUTIC, "media").items() if release else ()
    return [name for name, seen in files if name not in release or (is_same and release[name] != seen)]


def _tops() -> Iterator[tuple[str, str]]:
    """Yield the area and path of what is sent whole; what is not there is none."""
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
        # The packages' own flags begin so.
        if name not in NOT_SENT and not name.startswith("debian-"):
            yield "database", name


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _walk(root: Path, top: str) -> Iterator[str]:
    """Yield a path below a root and all below that, folders first, as paths from the root; no link is followed."""
    waits = [top]
    while waits:
        path = waits.pop()
        yield path
        with suppress(NotADirectoryError, FileNotFoundError):
            if stat.S_ISDIR(os.lstat(root / path).st_mode):
                waits += sorted((f"{path}/{name}" for name in os.listdir(root / path)), reverse=True)


class _Sending:
    """Sends entries by lines, and counts."""

    def __init__(self, wire: Wire) -> None:
        self.files = self.bytes = 0
        self._wire = wire

    def say(self, told: Mapping[str, Any], content: bytes = b"") -> None:
        self.bytes += len(content)
        self._wire.pass_on(b"+" + json.dumps(told).encode() + b"\t" + base64.b64encode(content) + b"\n")

    def entry(self, area: str, path: str, known: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Send an entry where it is not as it was sent; return what it is now, None for what is not sent."""
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
            # It was there just now.
            pass
        return None

    def _file(self, at: Mapping[str, str], full: Path, known: Mapping[str, Any] | None) -> dict[str, Any] | None:
        try:
            number = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                # It is no file any more.
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
                # What is nothing but zeros need not be sent where there is nothing yet.
                if not is_known and not (made and not block.strip(b"\0")):
                    self.say({**at, "k": "f", "o": offset}, block)
                offset += len(block)
            mode = stat.S_IMODE(seen.st_mode) & 0o777
            self.say({**at, "k": "f", "s": offset, "m": mode, "t": seen.st_mtime_ns})
            self.files += 1
            return entry


def take_own(request: Mapping[str, Any], wire: Wire) -> dict[str, Any]:
    """Take what `send_own` sends elsewhere, in a container that is closed; `adopt` puts it into its place.

    Tells first the word of the last time that was taken to its end. Asked: word (of this time). Returns files, bytes.
    """
    (word,) = asked(request, "word")
    trees.must_be_closed()
    known = str(read_json(TAKEN).get("word") or "")
    # What is cut in the middle is taken anew.
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
    """Writes what comes, as whose it is."""

    def __init__(self, into: Mapping[str, tuple[Path, str]]) -> None:
        self.files = self.bytes = 0
        self._into = into
        self._user = "root"
        self._open: tuple[str, int] = ("", -1)
        # The groups of root may open more than those whose the files are.
        os.setgroups([])
        self._make_folders()

    def end(self) -> None:
        """Close what is open, as root again."""
        self._close()
        self._become("root")

    def take(self, line: bytes) -> None:
        """Write one line; raises CtlError for one that is none, or leads elsewhere."""
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
        """Open the folder of an entry, made where it is missing; a link on the way is no folder."""
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
        """Delete what came before, of what is not in its place yet."""
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
    """Delete what is there by a name, if anything is."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        with suppress(FileNotFoundError):
            shutil.rmtree(name, dir_fd=folder)
