"""Sets up and removes the bot's environment on this machine: LXD, blueprint, edge, and the Procfile's processes.

Longer than other modules, so that the steps of `make up` can be read in order.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import ipaddress
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import urlsplit

import commands
from bot.edge.edges import each
from bot.engine import quotas
from bot.engine.registry import Registry
from bot.fleet.inventory import Fleet
from bot.fleet.releases import sources
from bot.guest.blueprint.archive import Archive, ArchiveError, open_archive
from bot.guest.blueprint.base import BaseError
from bot.guest.blueprint.build import Blueprint, blueprints, build, export
from bot.intake.manifest import completions
from bot.lxd.local import server as local_lxd
from bot.lxd.protocol import Lxd, LxdError
from bot.model.labels import Role
from bot.providers import gateway, gateways, more_gateways, real_edges
from bot.settings import InvalidSettings, Settings, load
from bot.workspace.people import TEAM

ROOT = Path(__file__).parent.parent
DOUBLE = ROOT / "tests" / "mautic_double" / "build.py"
LOCAL_TOKENS = {
    "SLACK_BOT_TOKEN": "xoxb-local",
    "SLACK_APP_TOKEN": "xapp-local",
    "SLACK_SIGNING_SECRET": "local-signing-secret",
}
"""The tokens that the local workspace accepts; they are no secrets."""
LOCAL_CHANNEL = "C0OPS"
YOUNG = 86_400.0
"""Seconds for which installed Debian packages count as fresh."""
WARNINGS = "warnings"
"""File in the state folder where the bot writes the problems of its settings at its start, one sentence per line."""
STARTED_WITH = "started-with"
"""File in the state folder with the version of settings and code that `make up` started the bot with."""
LOCK = "up.lock"
"""File in the state folder that is locked while the bot's processes are started or stopped."""
ASK_ONLY = frozenset({"audit", "console", "freeze", "give-up", "logs", "schedule", "silence", "unfreeze"})
"""Policies of actions that need no approval but are restricted by `ask`; `silence` is a button of an incident."""


class CannotBringUp(Exception):
    """Something that the bot needs is not available here; the text says what, and what to do."""


class Parts:
    """Prints which part is being done, and records how long each took."""

    def __init__(self) -> None:
        self.took: list[tuple[str, float]] = []

    @contextmanager
    def part(self, title: str) -> Iterator[Callable[[str], None]]:
        """Time one part; yields a function that prints its progress."""
        began = time.monotonic()
        print(f"{title} …", flush=True)
        yield lambda text: print(f"    {time.monotonic() - began:5.1f} s  {text}", flush=True)
        self.took.append((title, time.monotonic() - began))

    def summary(self) -> str:
        """Return one line per part with the seconds that it took, and one with their sum."""
        lines = [f"  {seconds:6.1f} s  {title}" for title, seconds in self.took]
        return "\n".join([*lines, f"  {sum(seconds for _, seconds in self.took):6.1f} s  in all"])


def load_to_begin() -> Settings:
    """Load the settings; raise InvalidSettings for a policy without effect, which would only seem to guard."""
    settings = load()
    known = Registry(commands).commands
    for name, policy in settings.policies.items():
        if name in ASK_ONLY:
            if policy.approvals or policy.step_up:
                raise InvalidSettings(
                    f'policies.{name}: it is not approved, only `ask` counts; set approvals to 0 and step_up to "".'
                )
        elif name != "default" and (name not in known or known[name].kind != "operation"):
            raise InvalidSettings(f"policies.{name} guards nothing: there is no operation of that name.")
    return settings


def up() -> int:
    """Set up everything that is missing, start the bot, and print where it is. The second time this is quick."""
    settings = load_to_begin()
    settings.state.mkdir(0o700, parents=True, exist_ok=True)
    with _alone(settings):
        return _up(settings)


def _up(settings: Settings) -> int:
    environment = dict(os.environ)
    local = not (settings.slack.bot_token or settings.slack.app_token)
    if not local:
        settings.slack.check_tokens()
    lacking = [name for name in ("honcho", *(["aiohttp"] if local else [])) if importlib.util.find_spec(name) is None]
    if lacking:
        raise CannotBringUp(f"`make up` needs {' and '.join(lacking)}: not installed; `make .venv` does that.")
    team = _team(settings)
    if _running(settings) and team == TEAM and not local:
        raise CannotBringUp("The local workspace runs here; `make down` ends it, then `make up` connects to Slack.")
    if _outdated(settings) and local == (team == TEAM):
        print("The settings or the code changed since the bot started: restarting it …", flush=True)
        _stop_processes(settings)
    if _running(settings):
        if not settings.lxd.simulated:
            # The bot may run while something that it depends on is broken.
            _prepare(settings, Parts())
        print(f"It runs already. {_where(settings, team == TEAM)}")
        _warn(settings)
        return 0
    if local and team not in ("", TEAM):
        # In the local workspace, anybody who can use this machine could approve.
        raise CannotBringUp(
            f"This state belongs to the Slack team {team}, so it is not opened to the local workspace: set "
            "SLACK_BOT_TOKEN and SLACK_APP_TOKEN, or another MAUTIC_OPS_BOT__STATE."
        )
    parts = Parts()
    if not settings.lxd.simulated:
        environment["MAUTIC_OPS_LXD__ENDPOINT"] = _prepare(settings, parts)
    if local:
        api = f"http://127.0.0.1:{port()}/api/"
        environment |= LOCAL_TOKENS | {"MAUTIC_OPS_SLACK__API": api, "MAUTIC_OPS_SLACK__CHANNEL": LOCAL_CHANNEL}
    with parts.part("Starting the bot"):
        (settings.state / "commands.json").write_text(json.dumps(completions(Registry(commands))))
        (settings.state / STARTED_WITH).write_text(_version(settings))
        _start(settings, environment, ["bot", "workspace"] if local else ["bot"])
    print(parts.summary())
    print(_where(settings, local))
    _warn(settings)
    if settings.lxd.simulated:
        print("Simulated: there is no LXD here, and no real Mautic; every message says so.")
    return 0


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Wait until no other process starts or stops the bot: two starts at once would both find no bot running."""
    with (settings.state / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another `make up` or `make down` is under way here; waiting for its end …", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepare() -> int:
    """Set up what the bot works with, and renew the edge; do not start the bot."""
    settings = load_to_begin()
    settings.state.mkdir(0o700, parents=True, exist_ok=True)
    parts = Parts()
    if not settings.lxd.simulated:
        _prepare(settings, parts)
    print(parts.summary())
    return 0


def note_team(settings: Settings, team: Iterable[str]) -> None:
    """Record which Slack team (and organisation) this state belongs to."""
    (settings.state / "team").write_text(" ".join(sorted(team)))


def _team(settings: Settings) -> str:
    """Return the Slack team that this state belongs to, or "" while no bot has connected with it."""
    noted = settings.state / "team"
    return noted.read_text() if noted.exists() else ""


def refuse_a_real_team() -> None:
    """Raise CannotBringUp where `up` would connect to Slack, or did: a demonstration has no place in a real team."""
    settings = load()
    team = _team(settings)
    if settings.slack.bot_token or settings.slack.app_token or team not in ("", TEAM):
        whose = f"This state belongs to the Slack team {team}" if team else "SLACK_BOT_TOKEN or SLACK_APP_TOKEN is set"
        raise CannotBringUp(f"{whose}, and this is for the local workspace alone: use another MAUTIC_OPS_BOT__STATE.")


def port() -> int:
    return int(os.environ.get("WORKSPACE_PORT", "8765"))


def _where(settings: Settings, local: bool) -> str:
    if not local:
        waits = "" if settings.slack.channel else "; digest and incidents wait for slack.channel"
        return f"The bot is connected to Slack{waits}."
    return f"Local workspace: http://127.0.0.1:{port()} — type `/mautic new client-x` there."


def _warn(settings: Settings) -> None:
    """Print the warnings that the bot wrote when it started."""
    warned = settings.state / WARNINGS
    for line in warned.read_text().splitlines() if warned.exists() else ():
        print(f"Warning: {line}")


def _prepare(settings: Settings, parts: Parts) -> str:
    """Set up LXD with the bot's project, a blueprint and the edge; return LXD's address.

    Servers other than that of `[lxd]` may be out of reach; the next `make up` sets them up. Raises CannotBringUp.
    """
    try:
        with parts.part("Server") as tell:
            address = settings.lxd.endpoint or local_lxd.up(settings.state, tell).socket
            servers = gateways(settings)
            ways = _ways(settings, servers)
            for name, lxd in servers.items():
                try:
                    server = lxd.server()
                    tell(f"{name}: {server.product} {server.version}")
                    lxd.ensure_project(
                        pool_driver=settings.lxd.pool_driver,
                        pool_size=settings.lxd.pool_size,
                        subnet=settings.lxd.subnet,
                        ways=ways,
                    )
                except LxdError as error:
                    if name == settings.lxd.name:
                        raise
                    tell(f"{name}: {error}")
        if not Fleet(servers).inventory(Role.BLUEPRINT).tenants:
            with parts.part("Blueprint") as tell:
                build_blueprint(settings, servers[settings.lxd.name], tell)
        with parts.part("Edge") as tell:
            real_edges(settings, servers).ensure(tell)
        with parts.part("Quotas") as tell:
            edges = Fleet(servers).edges()
            for said in quotas.mend(settings.lxd.pool, edges, quotas.ask(edges)):
                tell(said)
    except (LxdError, ArchiveError, BaseError) as error:
        raise CannotBringUp(f"{error} (`make up LXD=simulated` tries the bot without a server.)") from error
    return address


def _ways(settings: Settings, servers: Mapping[str, Lxd]) -> list[str]:
    """Return where tenants may connect besides the public internet: what the settings open, and the edges of all hosts.

    A tenant may request its own pages, whichever host they come in on.
    """
    listen = {settings.edge.listen, *(server.listen for server in settings.servers.values())}
    members, _ = each(servers, lambda _, lxd: lxd.members())
    listen |= {urlsplit(member.address).hostname or "" for found in members.values() for member in found}
    ports = (settings.edge.http_port, settings.edge.https_port)
    edges = [f"{address}:{port}" for address in sorted(listen) if _is_outside(address) for port in ports]
    return [*settings.lxd.reachable, *edges]


def _is_outside(address: str) -> bool:
    """Return whether a text is an IPv4 address that other machines can reach."""
    try:
        return not ipaddress.IPv4Address(address).is_loopback
    except ValueError:
        return False


def build_blueprint(
    settings: Settings, lxd: Lxd, tell: Callable[[str], None], version: str = "", *, fresh: bool = False
) -> Blueprint:
    """Build the blueprint of a release of Mautic in the settings; new tenants are made from it.

    Without a version it is the release of `[blueprint]`, else the newest that runs here, else the double that comes
    with the tests. `fresh`: with Debian packages that are at most `YOUNG` seconds old. Raises CannotBringUp,
    ArchiveError, BaseError or LxdError.
    """
    cache = settings.state / "cache"
    return build(
        lxd,
        _archive(settings, cache, tell, version),
        base=settings.blueprint.base,
        cache=cache,
        progress=tell,
        every=settings.jobs.unconditional,
        newer=time.time() - YOUNG if fresh else 0.0,
    )


def _archive(settings: Settings, cache: Path, tell: Callable[[str], None], version: str) -> Archive:
    found = sources(settings)
    if version:
        named = [one for one in found if one.version == version]
        if not named:
            known = ", ".join(one.version for one in found if one.version) or "none"
            raise CannotBringUp(f'There is no [releases."{version}"] in the settings; known: {known}.')
        return open_archive(named[0].archive, named[0].sha256, cache)
    if not found:
        cache.mkdir(parents=True, exist_ok=True)
        double = cache / "mautic-double.zip"
        return open_archive(str(double), runpy.run_path(str(DOUBLE))["build"](double), cache)
    for one in found[:-1]:
        try:
            return open_archive(one.archive, one.sha256, cache)
        except ArchiveError as error:
            if not one.version:
                raise
            tell(str(error))
    return open_archive(found[-1].archive, found[-1].sha256, cache)


def _pid(file: Path, program: str) -> int:
    """Return the pid in a file if that is `python -m <program>`, else 0: after a reboot another process may have it."""
    try:
        pid = int(file.read_text())
    except (OSError, ValueError):
        return 0
    return pid if _is(pid, program) else 0


def _is(pid: int, *programs: str) -> bool:
    """Return whether a process is `python -m` of one of these programs."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (OSError, ValueError):
        return False
    return any(words[1:3] == ["-m", program] for program in programs)


def _running(settings: Settings) -> bool:
    """Return whether a bot runs here, started by `make up` or as a service."""
    return bool(_pid(settings.state / "ready", "bot"))


def _version(settings: Settings) -> str:
    """Return a hash of the settings and of when the code changed: a running bot adopts neither until its restart.

    Secrets are not part of it.
    """
    folders = ("bot", "commands", "schedules", "templates")
    files = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix != ".pyc")
    return hashlib.sha256(f"{settings!r} {port()} {max(one.stat().st_mtime_ns for one in files)}".encode()).hexdigest()


def _outdated(settings: Settings) -> bool:
    """Return whether the bot runs by `make up` with other settings or code. A service is left to its owner."""
    noted = settings.state / STARTED_WITH
    begun = _running(settings) and _pid(settings.state / "honcho.pid", "honcho")
    return bool(begun) and not (noted.exists() and noted.read_text() == _version(settings))


def _start(settings: Settings, environment: dict[str, str], processes: list[str]) -> None:
    """Start the Procfile's processes in a session of their own, and wait until the bot is ready.

    Raises CannotBringUp where the bot is not ready within a minute.
    """
    # Processes that an interrupted start left hold the port, and from now on no file would name them.
    _stop_processes(settings)
    ready = settings.state / "ready"
    ready.unlink(missing_ok=True)
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "WORKSPACE_STATE": str(settings.state / "workspace"),
        "WORKSPACE_COMMANDS": str(settings.state / "commands.json"),
        "PYTHONUNBUFFERED": "1",
    }
    log = settings.state / "bot.log"
    with log.open("ab") as output:
        command = [sys.executable, "-m", "honcho", "-f", str(ROOT / "Procfile"), "start", "--no-colour", *processes]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    (settings.state / "honcho.pid").write_text(str(process.pid))
    give_up = time.monotonic() + 60
    while not _pid(ready, "bot") or ("workspace" in processes and not _answers()):
        if process.poll() is not None or time.monotonic() > give_up:
            _end(settings, process.pid)
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise CannotBringUp(f"The bot did not start; the end of {log}:\n{tail}")
        time.sleep(0.05)


def _answers() -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port()}/_control/users", timeout=1).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def down() -> int:
    """Stop what `up` started: the processes, and the LXD daemon if it was started here; print what still runs."""
    settings = load()
    # Without a state folder nothing was started.
    with _alone(settings) if settings.state.is_dir() else nullcontext():
        _stop_processes(settings)
        left = _left(settings)
        if not settings.lxd.simulated:
            local_lxd.stop(settings.state)
    if left:
        print(left)
    return int(bool(left))


def _left(settings: Settings) -> str:
    """Return a sentence about what still runs of what `up` started with this state, or "".

    Reads the process table, as `honcho.pid` may name another process, or none.
    """
    given = f"WORKSPACE_STATE={settings.state / 'workspace'}".encode()
    found = []
    for pid in sorted(int(one.name) for one in Path("/proc").glob("[0-9]*")):
        if pid != os.getpid() and _is(pid, "honcho", "bot", "bot.workspace"):
            with suppress(OSError):
                told = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                # The state may be a relative path, which two checkouts can share.
                if given in told and Path(f"/proc/{pid}/cwd").readlink() == ROOT.resolve():
                    found.append(str(pid))
    return f"Some of it still runs; `kill {' '.join(found)}` ends it." if found else ""


def _stop_processes(settings: Settings) -> None:
    pid = _pid(settings.state / "honcho.pid", "honcho")
    if pid:
        _end(settings, pid)
    else:
        (settings.state / "honcho.pid").unlink(missing_ok=True)


def _end(settings: Settings, pid: int) -> None:
    """Stop honcho and what it started; keep `honcho.pid` where it names another process, or this one does not end."""
    give_up = time.monotonic() + 45
    if _is(pid, "honcho"):
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM)
    while _is(pid, "honcho") and time.monotonic() < give_up:
        time.sleep(0.05)
    noted = settings.state / "honcho.pid"
    if not _is(pid, "honcho") and noted.exists() and noted.read_text() == str(pid):
        noted.unlink()


def clean_lab() -> int:
    """Remove everything that `up` made: the bot's objects on every server, the bot's own LXD, the state."""
    settings = load()
    with _alone(settings) if settings.state.is_dir() else nullcontext():
        return _clean_lab(settings)


def _clean_lab(settings: Settings) -> int:
    _stop_processes(settings)
    if _running(settings):
        raise CannotBringUp("The bot runs as a service here; stop that first.")
    if left := _left(settings):
        raise CannotBringUp(left)
    lxd = settings.lxd
    if not lxd.simulated:
        for server in more_gateways(settings).values():
            server.remove_project()
        if lxd.endpoint:
            gateway(settings).remove_project()
        else:
            local_lxd.remove(
                settings.state, project=lxd.project, pool=lxd.pool, network=lxd.network, profile=lxd.profile
            )
    shutil.rmtree(settings.state, ignore_errors=True)
    return 0


def blueprint(words: list[str]) -> int:
    """Run `blueprint build [--fresh] [VERSION]|list|export FILE`; raises CannotBringUp."""
    settings = load()
    lxd = gateway(settings)
    verb = words[0] if words else ""
    named = [word for word in words[1:] if word != "--fresh"]
    if verb == "build" and len(named) <= 1:
        try:
            made = build_blueprint(settings, lxd, print, *named, fresh=len(named) < len(words[1:]))
        except (ArchiveError, BaseError) as error:
            raise CannotBringUp(str(error)) from error
        print(f"{made.instance}: Mautic {made.version}")
    elif verb == "list":
        for one in blueprints(lxd):
            print(f"{one.instance}: Mautic {one.version}")
    elif verb == "export" and len(words) == 2:
        known = blueprints(lxd)
        if not known:
            raise CannotBringUp("There is no blueprint to export; `python -m bot blueprint build` makes one.")
        print(export(lxd, known[-1], Path(words[1])))
    else:
        raise CannotBringUp("usage: python -m bot blueprint build [--fresh] [VERSION] | list | export FILE")
    return 0
