"""The composition root and the verbs of the command line."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.error import URLError

import commands
import schedules
from bot import checks, docs, local_stack
from bot.engine.approvals import Approvals
from bot.engine.comparison import AGAIN, Comparison
from bot.engine.context import Context
from bot.engine.context import Edge as EdgeProtocol
from bot.engine.guards import Change, Guards, Moment
from bot.engine.registry import Registry
from bot.engine.runner import Runner
from bot.engine.scheduler import Scheduler, discover
from bot.fleet.inventory import Fleet
from bot.intake import home
from bot.intake.invocations import Invocations
from bot.intake.listeners import SignedHttp, SocketMode, make_app, web_client
from bot.lxd.protocol import Lxd, LxdError
from bot.model.actor import Actor
from bot.providers import open_edge, open_servers
from bot.settings import InvalidSettings, Settings
from bot.slack.announcer import Announcer
from bot.slack.incidents import Incidents
from bot.slack.messages import Renderer
from bot.slack.people import People
from bot.slack.poster import Post
from bot.store import audit
from bot.store.database import Database, DatabaseUnavailable
from bot.store.inbox import Inbox
from bot.store.jobs import Jobs
from bot.store.operation import SYSTEM, Operation
from bot.store.operations import Operations
from bot.store.uptime import Uptime
from bot.store.vault import Vault

log = logging.getLogger("bot")
ARENA_MAX = -8
"""M_ARENA_MAX of glibc's malloc.h: the number of arenas that memory comes from. Other C libraries have none."""
DRAIN = 30.0
"""Seconds that all work in progress has together at shutdown; what is cut off continues at the next start."""


def stop_after_restore(context: Context) -> Comparison:
    """Cancel, leave to people or pause what waits in a database that was restored from a backup, and freeze tenants.

    Called before anything starts. Return the comparison that recognises it; if Slack did not answer, it is to go on.
    """
    comparison = Comparison(context.operations, context.post, context.settings)
    comparison.go_on()
    return comparison


def go_on_comparing(context: Context, comparison: Comparison, over: threading.Event) -> None:
    """Try to compare until that succeeds, or `over` is set; have a restore that was found reported at once."""
    while not context.operations.compared and not over.wait(AGAIN):
        try:
            comparison.go_on()
        except Exception:
            log.exception("the audit log could not be compared; the bot tries again")
    if comparison.restored and not context.jobs.job("integrity").paused:
        context.jobs.wake("integrity")


def compose(settings: Settings, servers: Mapping[str, Lxd], edge: EdgeProtocol, post: Post) -> Context:
    """Build the context that commands use, from LXD servers, their edges and the transport to Slack."""
    file, key = settings.state / "bot.db", settings.state / "vault.key"
    anew = key.exists() and not file.exists()
    database = Database(file)
    post.head = partial(audit.newest, database)
    if anew:
        # Recorded so that nobody can remove the old log unnoticed.
        with database.transaction() as transaction:
            audit.record(transaction, audit.Event(audit.ANEW, SYSTEM), time.time())
    uptime = Uptime(database)
    operations = Operations(database, uptime)
    registry = Registry(commands, tuple(settings.plans))
    notice = ":test_tube: Simulated: there is no LXD here, and no real Mautic." if settings.lxd.simulated else ""

    def check(operation: Operation, actor: Actor) -> bool:
        with context.fleet.reading_once():
            Guards(context).refuse(Moment.APPROVAL, Change.of(operation, actor))
            plan = registry.plan(context, operation)
        return operation.is_of(plan)

    def roles(user: str) -> frozenset[str]:
        return context.people.roles_now(user)

    renderer = Renderer(settings.bot.timezone, notice)
    context = Context(
        settings=settings,
        database=database,
        uptime=uptime,
        fleet=Fleet(servers, starts=settings.capacity.starts, start_delay=settings.capacity.start_delay),
        edge=edge,
        vault=Vault(database, key, operations.clock, uptime),
        operations=operations,
        approvals=Approvals(operations, settings, check, roles),
        jobs=Jobs(database, discover(schedules), operations.clock),
        registry=registry,
        incidents=Incidents(database, post, renderer, settings.slack.channel, operations.clock),
        renderer=renderer,
        post=post,
        people=People(post.client, settings),
    )
    return context


@dataclass
class Bot:
    """The parts of the running bot."""

    context: Context
    announcer: Announcer
    runner: Runner
    inbox: Inbox
    scheduler: Scheduler

    def stop(self) -> None:
        """Begin nothing new, wait for work in progress, post what is left to post, and close the database."""
        give_up = time.monotonic() + DRAIN

        def left() -> float:
            return max(0.0, give_up - time.monotonic())

        self.runner.stop(0)
        self.scheduler.stop(min(left(), 10))
        self.inbox.stop(left())
        self.runner.stop(left())
        self.announcer.stop()
        self.context.database.close()


def take(state: Path) -> None:
    """Lock a state folder for as long as this process lives: a second bot would run the first one's operations again.

    Raises CannotBringUp where another bot has the lock.
    """
    # A bare descriptor, so that nothing closes it before the process ends; no child process inherits it.
    lock = os.open(state / "bot.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(lock, 20).decode()
        raise local_stack.CannotBringUp(
            f"Another bot has this state (pid {pid}); two would run operations twice."
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())


def run() -> int:
    """Run the bot until SIGTERM or SIGINT."""
    settings = local_stack.load_to_begin()
    # An acknowledgement is short work among longer work: it gets the interpreter sooner than after the default 5 ms.
    sys.setswitchinterval(0.0005)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings.state.mkdir(0o700, parents=True, exist_ok=True)
    settings.slack.check_tokens()
    take(settings.state)
    limit_arenas()
    # Only this user may read what people wrote, and stored credentials.
    os.umask(0o077)
    servers = open_servers(settings)
    edge = open_edge(settings, servers)
    client = web_client(settings.slack)
    context = compose(settings, servers, edge, Post(client))
    people = context.people
    announcer = Announcer(client, context.operations, context.renderer, settings)
    announcer.post = context.post
    announcer.mention = people.mention
    runner = Runner(context, settings.bot.workers)

    def show_home(user: str, team: str) -> None:
        home.publish(client, context, people, user, team)

    invocations = Invocations(context, people, announcer, show_home)
    inbox = Inbox(
        context.database, invocations.handle, invocations.lane, excuse=invocations.excuse, uptime=context.uptime
    )

    def changed() -> None:
        announcer.wake()
        runner.wake()

    context.operations.changed = changed
    scheduler = Scheduler(context)
    bot = Bot(context, announcer, runner, inbox, scheduler)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    people.connect()
    local_stack.note_team(settings, people.ours)
    app = make_app(settings.slack, client, inbox, people.forget)
    transport = SignedHttp(app, settings.slack) if settings.slack.http_port else SocketMode(app, settings.slack)
    comparison = stop_after_restore(context)
    announcer.start()
    announcer.wake()
    runner.start()
    scheduler.start()
    threading.Thread(target=go_on_comparing, args=[context, comparison, over], name="comparison", daemon=True).start()
    context.approvals.expire()
    inbox.recover()
    ready = settings.state / "ready"
    transport.connect()
    warn(context)
    ready.write_text(str(os.getpid()))
    log.info("ready")
    # Objects from the start live until the end: the garbage collector need not walk them again.
    gc.collect()
    gc.freeze()
    while not over.wait(1):
        # Python handles signals in this thread, which has to wake up for one that another thread received.
        pass
    log.info("stopping")
    ready.unlink(missing_ok=True)
    transport.close()
    bot.stop()
    logging.shutdown()
    # A normal exit would wait for a delivery that was cut off, however long it takes.
    os._exit(0)


def limit_arenas() -> None:
    """Limit malloc to two arenas for all threads: glibc gives each thread an arena of its own, and takes none back."""
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(ARENA_MAX, 2)


def warn(context: Context) -> None:
    """Log the problems of the settings, and write them to a file that `make up` prints."""
    found = checks.warnings(context, within=5)
    for one in found:
        log.warning("%s", one)
    (context.settings.state / local_stack.WARNINGS).write_text("".join(f"{one}\n" for one in found))


def write_docs() -> int:
    """Write the pages that are generated from the code."""
    for path, text in docs.pages(local_stack.ROOT, Registry(commands)).items():
        path.write_text(text)
    return 0


def main(words: list[str]) -> int:
    """Run a verb of the command line, and return the exit code."""
    verbs = {
        "run": run,
        "up": local_stack.up,
        "prepare": local_stack.prepare,
        "down": local_stack.down,
        "clean-lab": local_stack.clean_lab,
        "blueprint": lambda: local_stack.blueprint(words[1:]),
        "docs": write_docs,
    }
    if not words or words[0] not in verbs:
        print(f"usage: python -m bot {'|'.join(verbs)}", file=sys.stderr)
        return 2
    try:
        return verbs[words[0]]() or 0
    except KeyboardInterrupt:
        print("\nmautic-ops: interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, InvalidSettings | LxdError | local_stack.CannotBringUp | DatabaseUnavailable):
            print(f"mautic-ops: {error}", file=sys.stderr)
            return 1
        if isinstance(error, URLError):
            print(f"mautic-ops: Slack cannot be reached: {error.reason}.", file=sys.stderr)
            return 1
        raise
