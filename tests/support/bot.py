"""A bot without Slack: real database, registry, runner and templates over a simulated LXD, and a clock to set."""

from __future__ import annotations

import atexit
import functools
import itertools
import shutil
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any, cast
from unittest.mock import patch
from uuid import uuid4

from jinja2.bccache import Bucket, BytecodeCache
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.web import SlackResponse

from bot.edge.simulated import SimulatedEdge
from bot.engine.context import Context
from bot.engine.registry import Registry, call
from bot.engine.runner import Runner
from bot.fleet import releases
from bot.guest import simulated_state as simulated_tenant
from bot.guest.blueprint.recipe import FURNITURE
from bot.guest.blueprint.simulated import put_blueprint
from bot.intake import home
from bot.intake.invocations import Invocations
from bot.intake.manifest import SCOPES, manifest
from bot.lxd.protocol import LxdUnavailable
from bot.model.actor import Actor
from bot.model.labels import as_labels
from bot.program import compose
from bot.settings import Settings, load
from bot.slack.announcer import Announcer
from bot.slack.poster import Post
from bot.store.database import Database
from bot.store.inbox import Inbox
from bot.store.operation import Operation
from bot.workspace import block_kit
from tests.mautic_double.build import build
from tests.support.simulated_lxd import SimulatedLxd

ASKER = Actor("U0ACCOUNT", frozenset({"requester"}))
OPERATOR = Actor("U0OPERATOR", frozenset({"requester", "operator"}))
LEAD = Actor("U0OPSLEAD", frozenset({"requester", "operator", "approver"}))
LEAD_2 = Actor("U0OPSLEAD2", frozenset({"requester", "operator", "approver"}))
_registry = functools.cache(Registry)
"""One for all benches: it has no state, and building it takes as long as all the rest of a bench."""
_toml = functools.cache(tomllib.loads)


class Compiled(BytecodeCache):
    """The compiled templates of all benches, in memory."""

    def __init__(self) -> None:
        self._codes: dict[str, CodeType | None] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._codes.get(bucket.key + bucket.checksum)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._codes[bucket.key + bucket.checksum] = bucket.code


COMPILED = Compiled()


@functools.cache
def _migrated() -> bytes:
    """Return a new bot's database file, cached because making it takes longer than a test of it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bot.db"
        database = Database(file)
        database.scrub()
        database.close()
        return file.read_bytes()


class Clock:
    """Epoch seconds that stand still: `move` lets time elapse, `set` changes the clock without elapsed time.

    `suspend` lets time elapse in which no program runs.
    """

    def __init__(self) -> None:
        self.at = 1_800_000_000.0
        self.uptime = 0.0
        self.awake = 0.0

    def ticks(self) -> tuple[str, float]:
        return str(id(self)), self.uptime

    def set(self, seconds: float) -> None:
        """Set the clock forward, or back, without elapsed time."""
        self.at += seconds

    def __call__(self) -> float:
        return self.at

    def elapsed(self) -> float:
        """Return the seconds in which the machine was not suspended."""
        return self.awake

    def move(self, seconds: float) -> None:
        self.suspend(seconds)
        self.awake += seconds

    def suspend(self, seconds: float) -> None:
        self.at += seconds
        self.uptime += seconds


CONFIG = "mautic-ops.toml"
"""The name of a settings file that a bench reads if it is in its folder, also after a restart."""
_archives = functools.cache(lambda: Path(tempfile.mkdtemp(prefix="mautic-ops-releases-")))


@functools.cache
def release(version: str) -> tuple[Path, str]:
    """Return the archive of a release of the double, and its sha256."""
    path = _archives() / f"{version}.zip"
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    return path, build(path, version)


def add_releases(bench: Bench, *versions: str) -> None:
    """Put releases into the settings of a bench, and of later benches in its folder."""
    config = bench.context.settings.state / CONFIG
    told = ((version, *release(version)) for version in versions)
    config.write_text(
        "".join(f'[releases."{name}"]\narchive = "{path}"\nsha256 = "{digest}"\n' for name, path, digest in told)
    )
    known = settings_in(config.parent).releases
    bench.context.settings.releases.update(known)  # type: ignore[attr-defined]
    assert releases.keep(bench.context.settings) == []


def settings_in(folder: Path, **environment: str) -> Settings:
    """Return the shipped settings with their state in a folder."""
    own = {"MAUTIC_OPS_CONFIG": str(folder / CONFIG)} if (folder / CONFIG).exists() else {}
    of_benches = {
        "MAUTIC_OPS_BOT__STATE": str(folder),
        "MAUTIC_OPS_LXD__ENDPOINT": "simulated",
        # No tenant waits for its turn to start; tests of that wait set another value.
        "MAUTIC_OPS_CAPACITY__START_DELAY": "0",
        # There is no browser to wait for.
        "MAUTIC_OPS_PICTURES__CHROMIUM": "/nowhere/chromium",
    }
    with patch("bot.settings.tomllib.loads", lambda text: deepcopy(_toml(text))):
        return load(environment=own | of_benches | environment)


ROOM_FOR_MANY = {"MAUTIC_OPS_LXD__SUBNET": "10.70.0.1/21"}
"""The setting of a bridge that has addresses for 2,000 tenants."""


def add_newer_base(bench: Bench, version: str = "5.2.12+double") -> str:
    """Put a blueprint with today's packages on a simulated host; return its name."""
    at = int(bench.context.now()) - 60
    return put_blueprint(bench.lxd, version, created=at, on_demand=True, name=f"blueprint--of-{at}")


def add_blueprint(lxd: SimulatedLxd, version: str = "5.2.12+double") -> None:
    """Put a blueprint on a simulated host."""
    name = f"blueprint--{version.replace('.', '-').replace('+', '-')}"
    config = as_labels(
        role="blueprint", version=version, double=version.endswith("double"), created=1, furniture=FURNITURE
    )
    lxd.import_image(__file__, "base", {})
    lxd.create(name, "base", config=config, devices={})
    lxd.snapshot(name, "golden")


@dataclass
class Bench:
    """A bot's parts, and short methods to ask, decide and run."""

    context: Context
    lxd: SimulatedLxd
    clock: Clock
    runner: Runner
    slack: FakeSlack

    def answer(self, text: str, actor: Actor = ASKER) -> Any:
        """Return what a command answers: a Plan, a Message or a Modal. Raises Refused."""
        command, arguments = self.context.registry.parse(text)
        return call(command, replace(self.context, actor=actor, channel="C0OPS"), arguments)

    def ask(self, text: str, actor: Actor = ASKER, key: str = "") -> Operation:
        """Request an operation as the invocation does."""
        command, _ = self.context.registry.parse(text)
        plan = self.answer(text, actor)
        return self.context.operations.request(
            command.name,
            plan,
            requester=actor.id,
            channel="C0OPS",
            request_key=key or uuid4().hex,
            hours=24,
            approved=not self.context.settings.policy(command.name, batch=bool(plan.children)).approvals,
        )

    def approve(self, operation: Operation, actor: Actor = LEAD) -> Operation:
        """Approve an operation, with the step-up if it has one; if it needs no approval, it is queued already."""
        if operation.state == "queued":
            return operation
        return self.context.approvals.decide(
            operation.id, actor, "approve", typed_name=operation.confirmation, via="test"
        )

    def finish(self) -> None:
        """Run all queued operations to their ends."""
        while self.runner.run_one():
            pass

    def done(self, text: str, actor: Actor = ASKER) -> Operation:
        """Ask, approve and run; return the operation as it ended."""
        operation = self.approve(self.ask(text, actor), LEAD if actor.id != LEAD.id else LEAD_2)
        self.finish()
        return self.context.operations.get(operation.id)


@dataclass(frozen=True)
class Case:
    """How tests ask for an operation command, and what holds when it has ended.

    `before`: the operations that prepare the world. `after`, `untouched`: the containers beside the blueprint after a
    success, and if nothing was changed. `live`: whether the tenant's page answers after a success. `members`: those of
    the cluster, if the host is one. `furniture`: the version in the tenant's label before. `releases`: those that the
    settings name beside the blueprint's. `ready`: called last, before the operation is asked for.
    """

    text: str
    actor: Actor
    before: tuple[str, ...]
    after: frozenset[str]
    untouched: frozenset[str]
    live: bool
    members: tuple[str, ...] = ()
    furniture: int = FURNITURE
    releases: tuple[str, ...] = ()
    ready: Callable[[Bench], None] = lambda bench: None

    def prepare(self, bench: Bench) -> None:
        """Prepare a bench so that the operation can be asked for."""
        if self.releases:
            add_releases(bench, *self.releases)
        for text in self.before:
            assert bench.done(text, self.actor).state == "succeeded", text
        if self.furniture != FURNITURE:
            bench.lxd.update("client-x", as_labels(furniture=self.furniture))
        self.ready(bench)


def _rehearse_base(bench: Bench) -> None:
    """Add a newer base, and rehearse the patch to it."""
    add_newer_base(bench)
    assert bench.done("rehearse client-x --base", OPERATOR).state == "succeeded"


def _opt_out(bench: Bench) -> None:
    """Have one contact opt out since the upgrade, and another one be deleted."""
    for name in ("client-x", "client-x--3"):
        simulated_tenant.change(bench.lxd, name, people={1: "ann@x.test", 2: "ben@x.test"})
    said = [(1, "email", 1, bench.clock())]
    erased = [(2, bench.clock())]
    simulated_tenant.change(bench.lxd, "client-x--3", people={1: "ann@x.test"}, opted_out=said, erased=erased)


CLIENT_X = frozenset({"client-x"})
CASES = {
    "new": Case("new client-x --note 'spring'", ASKER, (), frozenset({"client-x"}), frozenset(), True),
    "delete": Case(
        "delete client-x",
        OPERATOR,
        ("new client-x",),
        frozenset({"client-x--archived"}),
        frozenset({"client-x"}),
        False,
    ),
    "unarchive": Case(
        "unarchive client-x",
        OPERATOR,
        ("new client-x", "delete client-x"),
        frozenset({"client-x"}),
        frozenset({"client-x--archived"}),
        True,
    ),
    "stop": Case("stop client-x", OPERATOR, ("new client-x",), CLIENT_X, CLIENT_X, False),
    "start": Case("start client-x", OPERATOR, ("new client-x", "stop client-x"), CLIENT_X, CLIENT_X, True),
    "restart": Case("restart client-x", OPERATOR, ("new client-x",), CLIENT_X, CLIENT_X, True),
    "refurnish": Case(
        "refurnish client-x", OPERATOR, ("new client-x",), CLIENT_X, CLIENT_X, True, furniture=FURNITURE - 1
    ),
    "suspend": Case("suspend client-x", OPERATOR, ("new client-x",), CLIENT_X, CLIENT_X, False),
    "resume": Case("resume client-x", OPERATOR, ("new client-x", "suspend client-x"), CLIENT_X, CLIENT_X, True),
    "resize": Case("resize client-x --plan medium", OPERATOR, ("new client-x",), CLIENT_X, CLIENT_X, True),
    "snapshot": Case(
        "snapshot client-x --note 'before the sale'", OPERATOR, ("new client-x",), CLIENT_X, CLIENT_X, True
    ),
    "tag": Case("tag client-x vip eu", OPERATOR, ("new client-x",), CLIENT_X, CLIENT_X, True),
    "prune": Case(
        "prune client-x",
        OPERATOR,
        ("new client-x", "snapshot client-x", "snapshot client-x", "snapshot client-x"),
        CLIENT_X,
        CLIENT_X,
        True,
    ),
    "purge": Case(
        "purge client-x",
        OPERATOR,
        ("new client-x", "delete client-x"),
        frozenset(),
        frozenset({"client-x--archived"}),
        False,
    ),
    "restore": Case(
        "restore client-x s-20270115-080000-2",
        OPERATOR,
        ("new client-x", "snapshot client-x"),
        CLIENT_X | {"client-x--3"},
        CLIENT_X,
        True,
    ),
    "mail": Case("mail client-x off", OPERATOR, ("new client-x",), CLIENT_X, CLIENT_X, True),
    "migrate": Case(
        "migrate client-x node2",
        OPERATOR,
        ("new client-x --host node1",),
        CLIENT_X | {"client-x--2"},
        CLIENT_X,
        True,
        ("node1", "node2"),
    ),
    "patch": Case(
        "patch client-x",
        OPERATOR,
        ("new client-x",),
        CLIENT_X | {"client-x--3"},
        CLIENT_X,
        True,
        ready=_rehearse_base,
    ),
    "rehearse": Case("rehearse client-x", OPERATOR, ("new client-x",), CLIENT_X, CLIENT_X, True, releases=("6.0.10",)),
    "upgrade": Case(
        "upgrade client-x",
        OPERATOR,
        ("new client-x", "rehearse client-x"),
        CLIENT_X | {"client-x--3"},
        CLIENT_X,
        True,
        releases=("6.0.10",),
    ),
    "rollback": Case(
        "rollback client-x",
        OPERATOR,
        ("new client-x", "rehearse client-x", "upgrade client-x"),
        CLIENT_X | {"client-x--3", "client-x--4"},
        CLIENT_X | {"client-x--3"},
        True,
        releases=("6.0.10",),
        ready=_opt_out,
    ),
}
"""A case for every operation command: the suite fails for a new command until it has one here."""
BATCHES = frozenset({"rollout"})
"""Operations that are always a batch of another command's: `tests/bot/test_batch_durability.py` has a case of each."""


def containers(bench: Bench) -> set[str]:
    """Return the names of all instances except blueprints."""
    return {one.name for one in bench.lxd.instances() if not one.name.startswith("blueprint--")}


def live(bench: Bench, domain: str = "client-x.mautic.localhost") -> bool:
    """Return whether a tenant's login page answers at its domain."""
    return bench.context.edge.probe(domain).login


def as_it_was(bench: Bench, case: Case) -> bool:
    """Return whether everything is as before the operation was asked for."""
    was_live = case.text.split()[0] not in ("new", "unarchive", "start", "resume")
    return containers(bench) == case.untouched and live(bench) == was_live


def make_bench(
    folder: Path,
    lxd: SimulatedLxd | None = None,
    fault: Callable[[str], None] = lambda moment: None,
    slack: FakeSlack | None = None,
    others: Mapping[str, SimulatedLxd] | None = None,
    members: tuple[str, ...] = (),
    **environment: str,
) -> Bench:
    """Build a bench in a folder; another one with the same folder, LXD and Slack is the bot after a restart.

    `lxd` is the server `local`; by default it is made with a blueprint (`add_blueprint`), as a cluster of `members` if
    any are given. `others` are further servers by name.
    """
    settings = settings_in(folder, **environment)
    if lxd is None:
        lxd = SimulatedLxd(members=members)
        lxd.world.subnet = settings.lxd.subnet
        add_blueprint(lxd)
    clock = Clock()
    slack = slack or FakeSlack()
    servers = {"local": lxd, **(others or {})}
    file = settings.state / "bot.db"
    if not any(settings.state.glob("*")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_migrated())
    with patch("bot.program.Registry", _registry):
        context = compose(settings, servers, SimulatedEdge(*servers.values()), Post(cast(WebClient, slack)))
    context.renderer.environment.bytecode_cache = COMPILED
    context.people.connect()
    context.operations.clock = clock
    context.incidents.clock = clock
    context.vault.clock = clock
    context.jobs.clock, context.jobs.elapsed = clock, clock.elapsed
    context.uptime.wall, context.uptime.ticks = clock, clock.ticks
    context.uptime.now()
    slack.clock = clock
    return Bench(context, lxd, clock, Runner(context, 1, fault), slack)


def events(bench: Bench, operation: Operation) -> list[str]:
    """Return the names of an operation's audit rows, in order."""
    rows = bench.context.database.read("SELECT event FROM audit WHERE operation = ? ORDER BY seq", operation.id)
    return [row["event"] for row in rows]


def notes(bench: Bench, operation: Operation) -> list[str]:
    """Return the texts for an operation's thread, in order."""
    rows = bench.context.database.read("SELECT text FROM notes WHERE operation = ? ORDER BY id", operation.id)
    return [row["text"] for row in rows]


class FakeSlack:
    """The few methods of Slack's Web API that the core calls; it refuses messages that Slack would refuse.

    `said`: the posts and updates, dicts with `method`, `channel`, `user`, `ts`, `thread_ts`, `text`, `blocks`.
    `closed`: channels that the bot is not in. `restricted`: channels in which it may not post, with Slack's error; the
    errors about threads concern only messages in threads, or only all others. `gone`: timestamps of messages that no
    longer exist. `uneditable`: those of messages that may no longer be edited. `people`, `channels` and `groups`: what
    Slack says about them. `clock`: Slack's own, which never goes back.
    """

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.views: list[dict[str, Any]] = []
        self.homes: dict[str, list[dict[str, Any]]] = {}
        self.calls: Counter[str] = Counter()
        self.closed: set[str] = set()
        self.restricted: dict[str, str] = {}
        self.gone: set[str] = set()
        self.uneditable: set[str] = set()
        self.faults: dict[str, list[Exception]] = {}
        self.people: dict[str, dict[str, Any]] = {}
        self.channels: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, list[str]] = {
            "mautic-operators": [OPERATOR.id],
            "mautic-approvers": [LEAD.id, LEAD_2.id],
        }
        self.clock: Callable[[], float] = lambda: 1_700_000_000.0
        self._last = 0.0
        self._number = itertools.count(1)
        self._lock = threading.Lock()

    def _ts(self) -> str:
        self._last = max(self._last, self.clock())
        return f"{self._last:.0f}.{next(self._number):06}"

    def _called(self, method: str) -> None:
        self.calls[method] += 1
        if self.faults.get(method):
            raise self.faults[method].pop(0)

    def fail(self, method: str, error: str | Exception, times: int = 1) -> None:
        """Make the next calls of a method fail with an error of Slack's, or with an exception."""
        raised = error if isinstance(error, Exception) else slack_error(error)
        self.faults.setdefault(method, []).extend([raised] * times)

    def _say(self, method: str, message: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._called(method)
            if not message["channel"]:
                raise slack_error("invalid_arguments")
            if message["channel"] in self.closed:
                raise slack_error("not_in_channel")
            self._refuse_restricted(method, message)
            if message["channel"].startswith("D") and not manifest()["features"]["app_home"]["messages_tab_enabled"]:
                raise slack_error("messages_tab_disabled")
            block_kit.message_content(message)
            message.setdefault("ts", self._ts())
            self.said.append({"method": method, **message})
            return {"ok": True, "ts": message["ts"], "channel": message["channel"]}

    def _refuse_restricted(self, method: str, message: dict[str, Any]) -> None:
        """Refuse a new message that a channel does not allow; what is there may be updated."""
        error = self.restricted.get(message["channel"], "")
        spared = {
            "restricted_action_non_threadable_channel": not message.get("thread_ts"),
            "restricted_action_thread_only_channel": bool(message.get("thread_ts")),
        }
        if error and method != "chat.update" and not spared.get(error, False):
            raise slack_error(error)

    def chat_postMessage(self, **message: Any) -> dict[str, Any]:
        return self._say("chat.postMessage", message)

    def chat_update(self, **message: Any) -> dict[str, Any]:
        if message["ts"] in self.gone:
            raise slack_error("message_not_found")
        if message["ts"] in self.uneditable:
            raise slack_error("edit_window_closed")
        return self._say("chat.update", message)

    def chat_postEphemeral(self, **message: Any) -> dict[str, Any]:
        return self._say("chat.postEphemeral", message)

    def conversations_open(self, users: str) -> dict[str, Any]:
        self._called("conversations.open")
        return {"ok": True, "channel": {"id": f"D{users}"}}

    def _standing(self, channel: str) -> list[dict[str, Any]]:
        """Return the messages of a channel as they are now, oldest first. An update without metadata keeps them."""
        now: dict[str, dict[str, Any]] = {}
        for one in self.said:
            if one["channel"] == channel and one["method"] != "chat.postEphemeral" and one["ts"] not in self.gone:
                now[one["ts"]] = now.get(one["ts"], {}) | {name: value for name, value in one.items() if value}
        return list(now.values())

    def conversations_history(self, channel: str, **page: Any) -> dict[str, Any]:
        self._called("conversations.history")
        self._refuse_to_read(channel)
        said = [one for one in self._standing(channel) if not one.get("thread_ts")]
        return self._page(said[::-1], **page)

    def conversations_replies(self, channel: str, ts: str, **page: Any) -> dict[str, Any]:
        self._called("conversations.replies")
        self._refuse_to_read(channel)
        if ts in self.gone:
            raise slack_error("thread_not_found")
        return self._page([one for one in self._standing(channel) if ts in (one["ts"], one.get("thread_ts"))], **page)

    def _refuse_to_read(self, channel: str) -> None:
        """Refuse to show messages that the app has no scope for."""
        if channel in self.closed:
            raise slack_error("not_in_channel")
        if channel.startswith("D") and "im:history" not in SCOPES:
            raise slack_error("missing_scope")

    def _page(
        self,
        said: list[dict[str, Any]],
        limit: int = 100,
        cursor: str | None = None,
        oldest: str = "0",
        inclusive: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        said = [one for one in said if float(one["ts"]) > float(oldest) or (inclusive and one["ts"] == oldest)]
        begin = int(cursor or 0)
        end = begin + limit
        return {
            "messages": [{"user": "U0BOT", **one} for one in said[begin:end]],
            "response_metadata": {"next_cursor": str(end) if end < len(said) else ""},
        }

    def chatter(self, messages: int, user: str = ASKER.id, **more: Any) -> None:
        """Post so many messages of somebody else in the channel."""
        said = {"method": "", "channel": "C0OPS", "user": user, "text": "Lunch?", "blocks": []}
        for _ in range(messages):
            self.said.append({**said, "ts": self._ts(), **more})

    def files_upload_v2(self, filename: str, content: bytes, title: str, **message: Any) -> dict[str, Any]:
        files = [{"name": filename, "title": title, "content": content}]
        return self._say("files.completeUploadExternal", {"text": title, "files": files, **message})

    def views_open(self, trigger_id: str, view: dict[str, Any]) -> dict[str, Any]:
        self._called("views.open")
        self.views.append(block_kit.view(view, "modal"))
        return {"ok": True, "view": {"id": f"V{len(self.views)}"}}

    def views_update(self, view_id: str, view: dict[str, Any]) -> dict[str, Any]:
        self._called("views.update")
        self.views.append(block_kit.view(view, "modal"))
        return {"ok": True, "view": {"id": view_id}}

    def views_publish(self, user_id: str, view: dict[str, Any]) -> dict[str, Any]:
        self._called("views.publish")
        self.homes[user_id] = block_kit.view(view, "home")["blocks"]
        return {"ok": True}

    def auth_test(self) -> dict[str, Any]:
        self._called("auth.test")
        return {"ok": True, "team_id": "T0OURS", "user_id": "U0BOT"}

    def api_call(self, method: str, params: dict[str, str]) -> Any:
        self._called(method)
        answers: dict[str, Callable[[], dict[str, Any]]] = {
            "users.info": lambda: {
                "user": {"id": params["user"], "team_id": "T0OURS"} | self.people.get(params["user"], {})
            },
            "conversations.info": lambda: {
                "channel": {"id": params["channel"], "is_member": True} | self.channels.get(params["channel"], {})
            },
            "usergroups.list": lambda: {"usergroups": [{"id": group_id(name), "handle": name} for name in self.groups]},
            "usergroups.users.list": lambda: {"users": self._members(params["usergroup"])},
        }
        return SimpleNamespace(data={"ok": True, **answers[method]()})

    def _members(self, group: str) -> list[str]:
        for name, members in self.groups.items():
            if group == group_id(name):
                return members
        raise slack_error("no_such_subteam")

    def to(self, user: str) -> list[str]:
        """Return the texts that only this person was sent."""
        return [one["text"] for one in self.said if one.get("user") == user or one["channel"] == f"D{user}"]


def group_id(handle: str) -> str:
    """Return the id of a user group."""
    return "S0" + handle.replace("-", "").upper()


def slack_error(error: str, status: int = 200) -> SlackApiError:
    """Return the exception that slack_sdk raises for an error of Slack's."""
    data = {"ok": False, "error": error}
    answer = SlackResponse(
        client=None, http_verb="POST", api_url="", req_args={}, data=data, headers={}, status_code=status
    )
    return SlackApiError(error, answer)


@dataclass
class Desk:
    """A bench with Slack's side: deliveries in, messages out. `announce()` posts what is due."""

    bench: Bench
    slack: FakeSlack
    announcer: Announcer
    invocations: Invocations
    inbox: Inbox

    def announce(self) -> None:
        self.announcer.catch_up()

    def command(self, text: str, actor: Actor = ASKER, key: str = "", channel: str = "C0OPS") -> None:
        """Deliver a slash command, and have it handled."""
        payload = {
            "user": actor.id,
            "team": "T0OURS",
            "channel": channel,
            "text": text,
            "response_url": "",
            "trigger_id": "1.2",
        }
        self.invocations.handle("command", key or uuid4().hex, payload)

    def click(self, action: str, value: object, actor: Actor = LEAD, *, home: bool = False) -> None:
        """Deliver a press of a button, in the Home tab or in the channel, and have it handled.

        `value`: the button's own, or the number of the operation or incident that it belongs to.
        """
        if isinstance(value, int) and not action.startswith("incident_"):
            value = self.bench.context.operations.get(value).mark
        payload = {
            "user": actor.id,
            "team": "T0OURS",
            "channel": "" if home else "C0OPS",
            "home": home,
            "action_id": action,
            "value": str(value),
            "response_url": "",
            "trigger_id": "1.2",
        }
        self.invocations.handle("action", uuid4().hex, payload)

    def reply(
        self,
        text: str,
        operation: int = 1,
        actor: Actor = LEAD,
        *,
        mention: bool = False,
        edited: bool = False,
        thread_ts: str = "",
    ) -> None:
        """Deliver a typed reply in an operation's thread, or in that of `thread_ts`, and have it handled."""
        payload = {
            "user": actor.id,
            "team": "T0OURS",
            "channel": "C0OPS",
            "text": text,
            "thread_ts": thread_ts or self.bench.context.operations.get(operation).message_ts,
            "mention": mention,
            "edited": edited,
        }
        self.invocations.handle("reply", uuid4().hex, payload)

    def submit(self, callback: str, metadata: dict[str, Any], actor: Actor = ASKER, **values: str | None) -> None:
        """Deliver a submitted modal, and have it handled."""
        metadata = {"channel": "C0OPS"} | metadata
        payload = {
            "user": actor.id,
            "team": "T0OURS",
            "channel": metadata["channel"],
            "callback_id": callback,
            "metadata": metadata,
            "values": values,
            "text": callback,
        }
        self.invocations.handle("submission", uuid4().hex, payload)

    def last(self) -> Operation:
        """Return the newest operation."""
        return self.bench.context.operations.select("1 = 1", order="id DESC", limit=1)[0]


def make_desk(bench: Bench, slack: FakeSlack | None = None) -> Desk:
    """Add Slack's side to a bench."""
    slack = slack or bench.slack
    client = cast(WebClient, slack)
    context = bench.context
    announcer = Announcer(client, context.operations, context.renderer, context.settings)
    people = context.people
    announcer.post = context.post
    announcer.mention = people.mention
    invocations = Invocations(
        context,
        people,
        announcer,
        lambda user, team: home.publish(client, context, people, user, team),
    )
    inbox = Inbox(
        context.database, invocations.handle, invocations.lane, excuse=invocations.excuse, uptime=context.uptime
    )
    return Desk(bench, slack, announcer, invocations, inbox)


def switch(lxd: SimulatedLxd) -> threading.Event:
    """Return an event; while it is set, the server does not answer."""
    down = threading.Event()

    def call(method: str, arguments: object) -> None:
        if down.is_set():
            raise LxdUnavailable("LXD does not answer.")

    lxd.on_call = call
    return down


def until(true: Callable[[], bool]) -> None:
    """Wait until a condition is true, at most 60 seconds."""
    give_up = time.monotonic() + 60
    while not true():
        assert time.monotonic() < give_up, "it did not come in time"
        time.sleep(0.01)
