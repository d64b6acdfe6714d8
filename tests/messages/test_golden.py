"""Every template in its states, as it is posted: `tests/messages/golden/*.json`.

`UPDATE_GOLDEN=1` rewrites the files; the changes are then reviewed in the diff. A template without a golden file fails.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from slack_sdk import WebClient

import commands
from bot.edge.probe import Probe
from bot.engine.outbound import CHOICE
from bot.engine.placement import Carries
from bot.engine.registry import Registry
from bot.engine.snapshots import Taken
from bot.fleet.advisories import told as told_of
from bot.fleet.bases import Stand
from bot.fleet.capacity import FreeSpace
from bot.fleet.health.look import CHECKS, Look
from bot.guest.mautic import Disk
from bot.guest.simulated import UNCOUNTED
from bot.intake import home
from bot.lxd.protocol import InstanceState, PoolSpace, Resources
from bot.model.advisories import read as read_advisories
from bot.model.evidence import Changes, Evidence, Seen
from bot.model.findings import LINES
from bot.model.pages import Page, Worse
from bot.model.plan import Plan
from bot.model.releases import Release
from bot.model.tenants import Tenant
from bot.model.text import names
from bot.reports.condition import Condition
from bot.reports.digest import Digest, FailedMaintenance, TenantDay, Use
from bot.settings import load
from bot.slack.announcer import Announcer
from bot.slack.incidents import Incident, Incidents
from bot.slack.messages import Message, Modal, Renderer
from bot.store.audit import Verdict
from bot.store.batches import Standing
from bot.store.freezes import Freeze
from bot.store.jobs import Job
from bot.store.metrics import KnownDisk
from bot.store.operation import SYSTEM, Decision, Operation, StepRow
from bot.store.restored import REASON
from bot.workspace import block_kit
from commands.hosts import Row, Slots
from commands.releases import Built
from commands.releases import Row as ReleaseRow
from commands.schedule import DigestTimes
from tests.support.bot import LEAD, make_bench
from tests.support.judge import judge

GOLDEN = Path(__file__).with_name("golden")
ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "templates"
SETTINGS = load(environment={})
RENDERER = Renderer()
REGISTRY = Registry(commands)
NOW = 1_800_000_000.0

ASKED = Operation(
    id=7,
    command="new",
    tenant="client-x",
    arguments={"tenant": "client-x", "note": "R&D <3"},
    requester="U0ACCOUNT",
    channel="C0OPS",
    state="awaiting_approval",
    plan={
        "summary": "Create tenant client-x",
        "facts": {
            "Address": "https://client-x.mautic.localhost",
            "Mautic": "5.2.12",
            "Plan": "small: 2 CPUs, 3GiB memory, 30GiB disk",
            "Note": "R&D <3 *bold* <!channel>",
        },
        "reversible": "can be undone with `delete`",
        "seconds": 15,
        "undoable": True,
    },
    fingerprint="f",
    attempts=0,
    created=NOW,
    expires=NOW + 86_400,
    started=None,
    finished=None,
    outcome="",
    error_id="",
    undo_by="",
    begun=0,
    ended_by="",
    aftermath={},
    message_ts="1800000000.000100",
    revision=1,
    announced=0,
    steps=tuple(
        StepRow(title, None, None, "") for title in ("Clone the blueprint", "Start the container", "See its login page")
    ),
    decisions=(),
)
APPROVED = replace(ASKED, decisions=(Decision("U0OPSLEAD", "approve", "", "button", NOW + 60),), state="queued")
RUNNING = replace(
    APPROVED,
    state="running",
    started=NOW + 60,
    steps=(
        StepRow("Clone the blueprint", NOW + 60, NOW + 60.4, ""),
        StepRow("Start the container", NOW + 60.4, None, ""),
        StepRow("See its login page", None, None, ""),
    ),
)
DONE = replace(
    RUNNING,
    state="succeeded",
    outcome="done",
    steps=tuple(replace(step, started=NOW + 60, finished=NOW + 61, note="it is there") for step in RUNNING.steps),
)
FAILED = replace(RUNNING, state="failed", outcome="LXD could not start `client-x`: no room.", error_id="0badcafe")
GIVEN_UP = replace(
    RUNNING, state="given_up", reason="the *disk* is gone <!here>", ended_by="U0OPSLEAD", outcome="LXD could not."
)
CHOOSING = replace(
    ASKED,
    command="restore",
    arguments={"tenant": "client-x", "snapshot": "s-1", "mail": "drop"},
    plan=ASKED.plan
    | {
        "summary": "Restore tenant client-x",
        "remarks": {
            "Data loss": ":warning: 2 contacts, 1 form submission, 0 unsubscribes since the snapshot",
            "Mail": "30 e-mails sent since the snapshot may be sent again, and so may e-mails that were waiting when "
            "it was taken. Now: none waiting",
            "Proposed": "drop waiting mail",
        },
        "first": ["Data loss"],
        "choice": asdict(CHOICE),
    },
)
DENIED = replace(ASKED, state="denied", decisions=(Decision("U0OPSLEAD", "deny", "no *room* <!here>", "reply", NOW),))
HALTED = replace(
    FAILED,
    command="migrate",
    state="needs_attention",
    plan=ASKED.plan | {"summary": "Move tenant client-x from node1 to node2"},
    aftermath={
        "online": False,
        "since": NOW + 61,
        "headline": "client-x is offline",
        "data": "All data is in `client-x` on node1; `client-x--7` on node2 is an unfinished copy.",
        "advice": "Undo is safe: client-x returns to `client-x` on node1. Retry continues the move.",
        "safe": "undo",
    },
)
CONDITIONS = {
    "a": Condition("offline", "move stuck (request #7)"),
    "b": Condition("degraded", "e-mail not sending, disk nearly full"),
    "c": Condition("unknown", "its host does not answer"),
    "d": Condition("busy", "upgrade in progress (request #8)"),
    "e": Condition("stopped", by="U0OPSLEAD"),
    "f": Condition("suspended"),
    "g": Condition("healthy"),
}
TENANT = Tenant(
    name="client-x",
    server="local",
    host="local",
    instance="client-x",
    status="Running",
    domain="client-x.mautic.localhost",
    plan="small",
    version="5.2.12",
    role="tenant",
    note="R&D *first* <!channel>",
    created=int(NOW),
)


FROZEN = Freeze(1, "client-x", "U0OPSLEAD", "of the *sale* <!here> & more", NOW - 600, 0.0, NOW + 7200)
FROZEN_ALL = replace(FROZEN, id=2, tenant="", until=None)
FROZEN_BY_THE_BOT = replace(FROZEN_ALL, actor=SYSTEM, reason=REASON)


def card(operation: Operation, stands: Standing | None = None, freeze: Freeze | None = None) -> Message:
    known = announcer()
    known.freezes = cast(Any, SimpleNamespace(on=lambda tenant: freeze))
    return known.card(operation, stands)


def announcer() -> Announcer:
    nothing = SimpleNamespace(read=lambda *_: [])
    operations = SimpleNamespace(clock=lambda: NOW, database=nothing)
    return Announcer(cast(WebClient, None), cast(Any, operations), RENDERER, SETTINGS)


def frozen_card(operation: Operation, freeze: Freeze) -> Message:
    return card(operation, freeze=freeze)


BATCH = replace(
    ASKED,
    command="snapshot",
    tenant="",
    subject="fleet",
    steps=(),
    plan={
        "summary": "Take a snapshot of 20 tenants",
        "facts": {
            "Tenants": "client-a, client-b, client-c and 17 more",
            "Hosts": "local 12, node2 8",
            "Kept": "for as long as the policy says",
            "Pace": "4 at once, 2 per host, pauses after 3 failures",
        },
        "remarks": {"Left out": "client-z: client-z is not running (to start: /mautic start client-z)"},
        "reversible": "changes nothing that runs",
        "seconds": 5,
        "undoable": False,
        "children": 20,
    },
)
PLANNED = replace(APPROVED, state="queued", held_by="time", plan={**APPROVED.plan, "at": NOW + 3600})
BEGUN = replace(BATCH, state="running", started=NOW + 60, decisions=APPROVED.decisions)
CHILD = replace(DONE, command="snapshot", tenant="client-a", parent=7)


def stands(
    paused_by: str = "", stopped_by: str = "", frozen: tuple[str, ...] = (), held: str = "", **counts: int
) -> Standing:
    failed = tuple(f"client-{number}" for number in range(counts.get("failed", 0)))
    return Standing(counts, failed, paused_by, stopped_by, frozen, {held: "`local` is overloaded."} if held else {})


def elsewhere(operation: Operation) -> Message:
    bell = ":bell: <!subteam^S0APPROVERS>, please approve or deny this request."
    policy = SETTINGS.policy(operation.command)
    return RENDERER.say(f"{bell} {RENDERER.words('card-elsewhere.j2', operation=operation, policy=policy)}")


def rollout_ended(**state: object) -> Message:
    """The report of a rollout of four in two rings."""
    names = [f"client-{letter}" for letter in "abcd"]
    children = [replace(CHILD, tenant=name, command="upgrade") for name in names]
    plan = {**BATCH.plan, "remarks": {}}
    known = {"done": children, "not_done": [], "away": dict(zip(names, (3.9, 4.2, 6.3, 4.0), strict=True))}
    known |= {"operation": BEGUN, "plan": plan, "arguments": {"version": "6.0.10"}, "took": 4000.0, "rings": 2}
    return words("rollout", **known | {"longest": "client-c", "total": 4} | state)


def tags(*words: str) -> Message:
    return RENDERER.message("commands/tag-shown.j2", tenant=replace(TENANT, tags=words))


def words(template: str, **state: object) -> Message:
    return RENDERER.message(f"commands/{template}.j2", **state)


def ended(command: str, arguments: dict[str, str] | None = None, /, **values: str | int) -> Message:
    return ended_of(command, {}, arguments, **values)


def ended_of(
    command: str, plan: dict[str, Any], arguments: dict[str, str] | None = None, /, **values: str | int
) -> Message:
    """Return the message in the thread at the end of an operation; `plan`: parts of the plan beside the values."""
    keys = ("start", "open", "take", "decide", "beside", "stop", "close", "change", "probe", "keep")
    steps = tuple(replace(DONE.steps[-1], key=key) for key in keys)
    if "texts" in plan:
        # A retry that found the container already serving has nothing to report of these two steps.
        steps = tuple(replace(step, note="") if step.key in ("beside", "change") else step for step in steps)
    operation = replace(DONE, command=command, steps=steps, arguments={**DONE.arguments, **(arguments or {})})
    known = {"values": {"address": "https://client-x.mautic.localhost", **values}, "texts": {}}
    plan = {**operation.plan, **known, **plan}
    return words(command, operation=operation, plan=plan, arguments=operation.arguments, took=4.2)


def resized_while_stopped() -> Message:
    note = "client-x is stopped: run the same resize again after its start"
    operation = replace(DONE, command="resize", steps=(replace(DONE.steps[-1], key="inside", note=note),))
    arguments = {"tenant": "client-x", "plan": "medium"}
    return words("resize", operation=operation, plan=operation.plan, arguments=arguments, took=1.2)


def helped(command: str) -> Message:
    chosen = REGISTRY.commands[command] if command else None
    everything = list(REGISTRY.commands.values())
    policy = SETTINGS.policy(command) if command else None
    who = {"askers": "everyone", "deciders": names(policy.approve, policy.approvals) if policy else ""}
    at_once = {"restart": 1, "resume": 0, "start": 0}
    many = int(bool(chosen and chosen.many))
    return words("help", command=chosen, commands=everything, policy=policy, at_once=at_once, of_many=many, **who)


def listed(*tenants: Tenant, **state: object) -> Message:
    known = {
        "silent": {},
        "frozen": {},
        "part": "",
        "tag": "",
        "page": 1,
        "pages": 1,
        "archived": False,
        "states": [("healthy", len(tenants))],
        "conditions": {tenant.instance: Condition("healthy") for tenant in tenants},
        "again": "/mautic list --page 3",
        "total": len(tenants),
    }
    return words("list", tenants=tenants, url=SETTINGS.edge.url, **known | state)


def snapshots_of(*shown: tuple[Taken, float, str], **state: object) -> Message:
    known = {"total": len(shown), "page": 1, "pages": 1, "held": 4_000_000, "allowed": 30 << 30}
    return words("snapshots", tenant="client-x", shown=shown, **known | state)


def status(**state: object) -> Message:
    known: dict[str, object] = {
        "tenant": TENANT,
        "state": InstanceState("Running", disk=31_000_000, processes=30),
        "disk": None,
        "known": None,
        "snapshots": 31,
        "held": 4_300_000_000,
        "held_allowed": 30 << 30,
        "probe": Probe(200, True, seconds=0.12),
        "health": {
            "healthy": True,
            "checks": {"database": {"ok": True, "text": "answers"}, "crons": {"ok": True, "text": "ran 1 min ago"}},
            "facts": {"contacts": 12, "memory": 210_000_000},
        },
        "problem": "",
        "condition": Condition("healthy"),
        "frozen": None,
        "behind": False,
        "base": Stand("bookworm", int(NOW) - 86_400, (), int(NOW)),
        "holes": "",
        "lines": LINES,
        "url": "https://client-x.mautic.localhost",
        "last": [DONE],
    }
    return words("status", **known | state)


def homepage(**state: object) -> Message:
    lists = (
        *("theirs", "others", "mine", "incidents", "failing_jobs", "halted", "responsible", "frozen", "planned"),
        "batches",
    )
    known: dict[str, object] = {name: [] for name in lists}
    known |= {name: {} for name in ("silent", "storage", "carries")}
    known |= {"decided": 8, "listed": 10, "may_end": ["approver"]}
    return RENDERER.message("home.j2", **known | {"states": [], "hosts": Counter(), **state})


TROUBLE = Incident(
    id=3,
    tenant="client-x",
    server="",
    kind="worker",
    text="`mautic-worker@email` is inactive, so e-mail waits in the queue.",
    opened=NOW - 1500,
    closed=None,
    silenced_until=0,
    silenced_by="",
    channel="C0OPS",
    message_ts="",
    tried=0,
    revision=1,
    announced=0,
)


def incident(**state: Any) -> Message:
    nowhere = cast(Any, None)
    return Incidents(nowhere, nowhere, RENDERER, "C0OPS", lambda: NOW).head(replace(TROUBLE, **state))


STOPPED = {"web": "nginx", "database": "mariadb", "cron": "cron", "look": "mautic-look"}
"""Kinds of findings, and the service that is inactive then."""


def of_service(kind: str, unit: str) -> Message:
    """Return the incident of an inactive service, in the words of the check that finds it."""
    inside = {"facts": {"services": {unit: "inactive"}, "database": {}}, "checks": {}}
    found = CHECKS[kind](Look(TENANT, NOW, InstanceState("Running"), inside=inside), SETTINGS.health)
    assert found
    return incident(kind=kind, text=found.text)


GB = 1_000_000_000
CRON = replace(
    TROUBLE, kind="cron", text="No job has run for 40 min; `/mautic logs client-x cron` says <why>.", opened=NOW - 7200
)
WELL_DAY = TenantDay(
    name="client-w",
    host="local",
    condition=Condition("healthy"),
    disk=Use(4 * GB, 32 * GB, None),
    memory=Use(GB, 3 * GB, None),
    high=(),
    newest=3000.0,
    taken=24,
    missing=False,
    incidents=(),
    operations=(),
)
SICK_DAY = replace(
    WELL_DAY,
    name="client-x",
    condition=Condition("degraded", "cron down"),
    disk=Use(31 * GB, 32 * GB, 3.4),
    high=("disk", "memory"),
    memory=Use(3 * GB, 3 * GB, 0.0),
    newest=3 * 86_400.0,
    taken=0,
    missing=True,
    incidents=(CRON, replace(CRON, kind="web", closed=NOW - 60)),
    operations=(DONE, FAILED),
)
CARRIES = Carries(
    FreeSpace("local", Resources(24 * GB, 9 * GB, 2), 2 * GB, GB, 60 * GB, 144 * GB, 20, 0),
    {"small": 23, "medium": 8, "large": 2},
)
FULL = Carries(
    replace(CARRIES.free_space, resources=Resources(24 * GB, 22 * GB, 2)), {"small": 0, "medium": 0, "large": 0}
)
WELL = Digest(
    at=NOW,
    since=NOW - 86_400,
    tenants=(WELL_DAY,),
    silent={},
    halted=(),
    open=(),
    jobs=(),
    taken=24,
    recovered=0,
    pools={"local": Use(12 * GB, 30 * GB, 61.0)},
    full_pools=(),
    carries={"local": CARRIES},
    waiting=(),
    failed=(),
    failed_maintenance=(),
    ended={},
    new=(),
    gone=(),
    head=(120, "ab" * 32),
)
SICK = replace(
    WELL,
    tenants=(WELL_DAY, SICK_DAY, *(replace(SICK_DAY, name=f"client-{n}", newest=None) for n in range(9))),
    silent={"other": "The server `other` does not answer <within 5 s>."},
    open=(CRON,) * 9,
    jobs=(
        Job("health", "", 300, NOW, paused=NOW, paused_by="U0OPSLEAD"),
        Job("purge", "", 300, NOW, started=NOW - 9000, late=True),
        Job("routes", "", 60, NOW, started=NOW, finished=NOW, outcome="LXD says <no>."),
    ),
    recovered=2,
    pools={"local": Use(29 * GB, 30 * GB, 1.4), "node-2": Use(12 * GB, 30 * GB, None)},
    full_pools=("local",),
    outbound_off=tuple(f"client-{n}" for n in range(11)),
    carries={"local": FULL, "node-2": CARRIES},
    waiting=(ASKED,) * 11,
    halted=(HALTED, replace(FAILED, state="needs_attention")),
    failed=(FAILED,) * 6,
    failed_maintenance=(
        FailedMaintenance("snapshot", 12, tuple(f"client-{n}" for n in range(10)), "LXD could not take it: <no room>."),
        FailedMaintenance("purge", 1, ("client-x",), "LXD does not answer."),
    ),
    ended={"succeeded": {"new": 2, "delete": 1}, "denied": {"new": 1}},
    new=("client-x",),
    gone=tuple(f"client-{n}" for n in range(11)),
)


def digested(digest: Digest, **state: object) -> Message:
    return RENDERER.message("digest.j2", **{"digest": digest, "late": False, "due": NOW, "missing": "", **state})


HOLES = read_advisories((ROOT / "bot" / "fleet" / "advisories.json").read_bytes())
RELEASES = [
    ReleaseRow(
        version="8.0.0",
        tenants=0,
        release=Release("8.0.0", ("8.4.0", "8.5.99"), "10.11.0", "7.0.0"),
        built=(),
        from_=(),
        problem="Mautic 8.0.0 runs on PHP 8.4.0 to 8.5.99; the blueprint has 8.2.",
        holes=(),
        cure="",
        support=None,
        over=False,
    ),
    ReleaseRow(
        version="6.0.10",
        tenants=1,
        release=Release("6.0.10", ("8.1.0", "8.3.99"), "10.2.7", "5.2.0"),
        built=(Built("node1", 3 * 86_400.0, False), Built("node2", 90 * 86_400.0, True)),
        from_=(("5.2.12", 1), ("5.2.11", 9), ("5.2.10", 2), ("5.2.9", 1), ("5.2.8", 1)),
        problem="",
        holes=(),
        cure="",
        support=HOLES.support_of("6.0.10"),
        over=False,
    ),
    ReleaseRow(
        version="5.2.9",
        tenants=12,
        release=None,
        built=(),
        from_=(),
        problem="",
        holes=HOLES.of("5.2.9"),
        cure="5.2.12",
        support=HOLES.support_of("5.2.9"),
        over=True,
    ),
]
BASES = {
    "client-x": Stand("bookworm", int(NOW) - 86_400 * 90, ("curl", "openssl"), int(NOW)),
    "client-y": Stand("bookworm", int(NOW) - 86_400, (), int(NOW)),
}
PAGE = Page("login", "/s/login", 200, 0.12)
WORSE = (
    Worse("status", "login", "/s/login", PAGE, replace(PAGE, status=500)),
    Worse("status", "form", "/form/3", PAGE, replace(PAGE, status=0)),
    Worse("gone", "landing", "/spring`<!here>", PAGE, None),
    Worse("content", "tracking", "/mtc.js", PAGE, PAGE),
    Worse("slower", "unsubscribe", "/email/unsubscribe/mautic-ops-nobody", PAGE, replace(PAGE, seconds=2.5)),
    Worse("linked", "linked", "/media/css/app.css?v<1>", None, replace(PAGE, status=404)),
)
LEFT_OUT = {"asset": "counted", "preferences": "unsubscribes", "/media/`<x>.js": "large"}
FOUND = Evidence(
    tenant="client-x",
    before="5.2.12",
    version="6.0.10",
    operation=7,
    at=NOW,
    drift={},
    phases={"record": 0.1, "swap": 0.7, "cache": 11.0, "migrate": 0.3, "reload": 0.4, "page": 0.7},
    around={"stop": 0.6, "copy": 0.5, "start": 1.2},
    migrations=("20250801000000", "20250915000000"),
    written=2,
    schema=Changes(2, 1, ("+ campaigns column <uuid>",)),
    plugins={"OwnBundle": True},
    kept=3,
    pages=(Seen("login", "/s/login", 200, 200, 0.1, 0.1), Seen("form", "/form/1", 200, 200, 0.1, 0.1)),
    took=40.0,
)
FOUND_PATCH = replace(
    FOUND,
    version="5.2.12",
    migrations=(),
    blueprint="blueprint--5-2-12",
    base=int(NOW) - 3600,
    php=("8.2.28", "8.2.29"),
    mariadb=("10.11.11-MariaDB", "10.11.14-MariaDB"),
)
FOUND_WORSE = replace(
    FOUND,
    migrations=(),
    lost={"leads": (1200, 1100)},
    broken=("Own<Bundle>",),
    plugins={"Own<Bundle>": False},
    overwritten=("app/config/*one*.php",),
    errors=("Uncaught <!channel> in `x`",),
    pages=(Seen("login", "/s/login", 200, 500, 0.1, 0.1),),
    worse=("status login /s/login",),
)
SILENT = {"healthy": False, "checks": {}, "facts": {}}
MESSAGES: dict[str, Message] = {
    "pages": RENDERER.message("pages.j2", found=WORSE, left_out=LEFT_OUT),
    "card-awaiting-approval": card(ASKED),
    "card-awaiting-approval-step-up": card(replace(ASKED, command="delete")),
    "card-awaiting-approval-choice": card(CHOOSING),
    "card-chosen": card(replace(CHOOSING, state="queued", decisions=APPROVED.decisions)),
    "card-queued": card(APPROVED),
    "card-running": card(RUNNING),
    "card-succeeded": card(DONE),
    "card-failed": card(FAILED),
    "card-needs-attention": card(replace(FAILED, state="needs_attention")),
    "card-needs-attention-offline": card(HALTED),
    "card-needs-attention-committed": card(replace(HALTED, committed=1)),
    "card-being-taken-back": card(replace(FAILED, state="queued", undo_by="U0OPSLEAD")),
    "card-given-up": card(GIVEN_UP),
    "card-denied": card(DENIED),
    "card-denied-without-a-reason": card(
        replace(DENIED, decisions=(replace(DENIED.decisions[0], reason=""),), outcome="Denied")
    ),
    "card-expired": card(replace(ASKED, state="expired")),
    "card-cancelled": card(replace(ASKED, state="cancelled", outcome="Cancelled", ended_by="U0ACCOUNT")),
    "card-cancelled-by-drift": card(
        replace(ASKED, state="cancelled", outcome="The domain `client-x.mautic.localhost` is `client-y`'s.")
    ),
    "card-taken-back": card(replace(FAILED, state="cancelled", outcome="Rolled back", ended_by="U0OPSLEAD")),
    "card-failed-with-something-left": card(
        replace(FAILED, aftermath={"left": "`client-x--7` on node2 could not be deleted yet"})
    ),
    "commands-new": ended("new"),
    "commands-new-within": ended_of("new", {"texts": {"within": "within 72 h"}}),
    "commands-delete": ended("delete", days=30),
    "commands-unarchive": ended("unarchive"),
    "commands-unarchive-stopped": ended_of("unarchive", {"inputs": {"stopped": True, "found": {"state": "live"}}}),
    "commands-unarchive-suspended": ended_of(
        "unarchive", {"inputs": {"stopped": False, "found": {"state": "suspended"}}}
    ),
    "commands-start": ended("start"),
    "commands-start-suspended": ended_of("start", {"inputs": {"found": {"state": "suspended"}}}),
    "commands-stop": ended("stop"),
    "commands-restart": ended("restart", {"part": "all"}),
    "commands-restart-part": ended("restart", {"part": "worker"}),
    "commands-suspend": ended("suspend"),
    "commands-resume": ended("resume"),
    "commands-resize": ended("resize", {"plan": "medium"}),
    "commands-resize-stopped": resized_while_stopped(),
    "batch-list": RENDERER.message(
        "batch-list.j2",
        names=[f"client-{number}" for number in range(10)],
        left_out=["client-z: <!here> is *stopped*"],
    ),
    "batch-asked": card(BATCH),
    "batch-running": card(BEGUN, stands(succeeded=12, failed=1, running=2, waiting=5)),
    "batch-asked-frozen": card(BATCH, freeze=FROZEN_ALL),
    "batch-frozen": card(
        BEGUN, stands(frozen=("client-0", "client-1"), succeeded=17, running=1, waiting=2), FROZEN_ALL
    ),
    "batch-one-frozen": card(BEGUN, stands(frozen=("client-7",), held="client-8", succeeded=18, waiting=2)),
    "batch-soaks": card(BEGUN, replace(stands(succeeded=3, waiting=9), ring=2, rings=3, resumes=NOW + 1800)),
    "batch-planned": card(replace(BATCH, state="queued", held_by="time", plan={**BATCH.plan, "at": NOW + 3600})),
    "batch-paused": card(BEGUN, stands("U0OPSLEAD", succeeded=12, running=1, waiting=7)),
    "batch-paused-itself": card(BEGUN, stands("system", succeeded=2, failed=12, waiting=6)),
    "batch-stopped": card(
        replace(BEGUN, state="cancelled", finished=NOW + 70, ended_by="U0OPSLEAD"),
        stands(stopped_by="U0OPSLEAD", succeeded=12, failed=1, cancelled=7),
    ),
    "batch-done": card(replace(BEGUN, state="succeeded", finished=NOW + 70, outcome="done"), stands(succeeded=20)),
    "batch-not-all": card(
        replace(BEGUN, state="failed", finished=NOW + 70, outcome="19 of 20 are done"), stands(succeeded=19, failed=1)
    ),
    "batch-drifted": card(replace(BATCH, state="failed", outcome="There is no tenant `client-c`.")),
    "batch-denied": card(
        replace(BATCH, state="denied", decisions=(Decision("U0OPSLEAD", "deny", "not *today*", "reply", NOW + 60),))
    ),
    "batch-child-done": card(replace(CHILD, finished=NOW + 61)),
    "batch-child-failed": card(
        replace(FAILED, command="snapshot", parent=7, aftermath={"left": "the new container stays on node2"})
    ),
    "commands-refurnish": ended("refurnish"),
    "commands-tag": ended("tag", {"words": "vip eu"}),
    "commands-tag-none": ended("tag", {"words": ""}),
    "commands-tag-shown": tags("vip", "eu"),
    "commands-tag-shown-none": tags(),
    "commands-snapshot": ended("snapshot"),
    "commands-restore": ended("restore", {"snapshot": "s-20270115-080000-2"}, days=7),
    "commands-rollback": ended("rollback", to="5.2.12", days=7),
    "commands-rollback-patch": ended_of(
        "rollback", {"texts": {"back": "its earlier Debian packages"}}, to="5.2.12", days=7
    ),
    "commands-upgrade": ended("upgrade", {"version": "6.0.10"}, days=7),
    "commands-upgrade_rehearsing": words("upgrade_rehearsing", tenant="client-x", version="6.0.10"),
    "commands-patch": ended("patch", days=7),
    "commands-patch_rehearsing": words("patch_rehearsing", number=1, name="client-x"),
    "commands-patch_rehearsing-many": words("patch_rehearsing", number=2, chosen=True),
    "commands-rehearse-base": ended("rehearse", {"base": True}),
    "commands-rehearse": ended("rehearse", {"version": "6.0.10"}),
    "commands-rollout": rollout_ended(),
    "commands-rollout-not-all": rollout_ended(
        done=[replace(CHILD, tenant="client-a")],
        not_done=[
            replace(CHILD, tenant="client-b", state="failed", outcome="The migrations failed: <!channel> `x`"),
            replace(CHILD, tenant="client-c", state="needs_attention", outcome="LXD does not answer."),
            replace(CHILD, tenant="client-d", state="cancelled", started=None),
            replace(CHILD, tenant="client-e", state="cancelled"),
        ],
        away={"client-a": 3.9},
        longest="client-a",
        rings=1,
        plan={**BATCH.plan, "remarks": {"Left out": "1: client-z: it is *stopped*"}},
    ),
    "commands-rollout-stopped": rollout_ended(
        done=[replace(CHILD, tenant="client-a")],
        not_done=[replace(CHILD, tenant=f"client-{one}", state="cancelled", started=None) for one in "bcd"],
        away={"client-a": 3.9},
        longest="client-a",
    ),
    "commands-rollout-patch": rollout_ended(operation=replace(BEGUN, command="patch"), arguments={}),
    "commands-rollout_list-patch": words(
        "rollout_list",
        children=[Plan("client-a", {}, "", {}, seconds=1, values={"from": "5.2.12", "to": "5.2.12", "away": 4.2})],
        left_out=[],
    ),
    "commands-rollout_list": words(
        "rollout_list",
        children=[
            Plan("client-a", {}, "", {}, seconds=1, values={"from": "5.2.12", "to": "6.0.10", "away": 4.2}),
            Plan("client-b", {}, "", {}, seconds=1, values={"from": "5.2.*11*", "to": "6.0.10", "away": 12.0}, ring=1),
        ],
        left_out=["client-z: <!here> is stopped"],
    ),
    "commands-rollout_rehearsing": words("rollout_rehearsing", number=12, version="6.0.10", chosen=True),
    "commands-rollout_rehearsing-named": words("rollout_rehearsing", number=12, version="6.0.10", chosen=False),
    "commands-rollout_rehearsing-one": words("rollout_rehearsing", number=1, version="6.0.10", chosen=True),
    "evidence": RENDERER.message("evidence.j2", found=FOUND, step=""),
    "evidence-patch": RENDERER.message("evidence.j2", found=FOUND_PATCH, step=""),
    "evidence-worse": RENDERER.message("evidence.j2", found=FOUND_WORSE, step=""),
    "evidence-failed": RENDERER.message(
        "evidence.j2",
        found=replace(FOUND, failed="The migrations failed: SQLSTATE[42S21] <!here>", step="upgrade"),
        step="Upgrade the copy",
    ),
    "evidence-patch-failed": RENDERER.message(
        "evidence.j2",
        found=replace(FOUND_PATCH, failed="Mautic did not start.", step="upgrade"),
        step="Start Mautic in the new container",
    ),
    "evidence-large": RENDERER.message(
        "evidence.j2",
        found=replace(FOUND, uncounted=("email_stats", "page_hits"), disk=210 << 20, memory=410 << 20),
        step="",
    ),
    "commands-mail": ended("mail", {"what": "off"}),
    "commands-migrate": ended("migrate", **{"from": "node1", "to": "node2", "days": 7}),
    "commands-console": words(
        "console",
        tenant="client-x",
        words="doctrine:migrations:status",
        code=0,
        output="Executed 3\n\n# <!channel> ```x",
    ),
    "commands-logs": words(
        "logs", tenant="client-x", what="cron", blocks=["# one\n\n```two", "three <!channel>"], shown=4, total=9
    ),
    "commands-logs-empty": words("logs", tenant="client-x", what="mautic", blocks=[], shown=0, total=0),
    "commands-releases": words("releases", rows=RELEASES, unread=['releases."7.4.0"'], shown=4, silent={}),
    "commands-releases-none": words(
        "releases", rows=[], unread=[], shown=4, silent={"other": "The server `other` does not answer <within 5 s>."}
    ),
    "commands-hosts": words(
        "hosts",
        hosts=[
            Row(
                "node1",
                "berlin",
                "LXD",
                "5.0.2",
                space=PoolSpace(8 * 10**9, 30 * 10**9),
                resources=CARRIES.free_space.resources,
            ),
            Row("full-1", product="LXD", version="5.0.2", resources=FULL.free_space.resources),
            Row("node2", "berlin", "Incus", "6.0.4", problem="no heartbeat since 1m"),
            Row("solo1", problem="LXD at https://solo1:8443 cannot be reached; is it running?"),
        ],
        tenants=Counter(node1=2, node2=1),
        unwell={"node1": [("offline", 1)]},
        carries={"node1": CARRIES, "full-1": FULL},
        slots={"node1": Slots(14, 2, 1)},
        old=Counter(node1=3),
        strained={"full-1": "1.0 GiB of 24 GiB of memory are available, less than half of the reserve"},
    ),
    "commands-help": helped(""),
    "commands-help-operation": helped("new"),
    "commands-help-at-once": helped("restart"),
    "commands-help-query": helped("list"),
    "commands-list": listed(
        *(replace(TENANT, name=f"client-{word}", instance=f"client-{word}", note="") for word in CONDITIONS),
        conditions={f"client-{word}": one for word, one in CONDITIONS.items()},
        states=[("offline", 1), ("healthy", 2)],
    ),
    "commands-list-outbound-off": listed(replace(TENANT, outbound_off=True)),
    "commands-list-pages": listed(TENANT, part="client", total=90, page=2, pages=3),
    "commands-list-none": listed(),
    "commands-list-tag": listed(TENANT, tag="vip"),
    "commands-list-none-tagged": listed(tag="vip"),
    "commands-list-none-archived": listed(archived=True),
    "commands-list-none-found": listed(part="<!channel>`x"),
    "commands-give_up": words(
        "give_up", operation=GIVEN_UP, left="client-x is offline. All its data is in `client-x`."
    ),
    "commands-status": status(),
    "commands-status-behind": status(behind=True),
    "commands-status-unpatched": status(base=Stand("bookworm", int(NOW) - 86_400 * 90, ("curl", "openssl"), int(NOW))),
    "commands-status-base-unknown": status(base=Stand("bookworm", 0, None)),
    "commands-status-holes": status(holes=told_of(HOLES, "5.2.9")),
    "commands-status-page-closed": status(probe=Probe(502, False), condition=Condition("offline", "site unreachable")),
    "commands-status-silent": status(
        health=SILENT,
        problem="Inside `client-x`: the tool gave no reason.",
        condition=Condition("degraded", "health check failed"),
    ),
    "commands-status-suspended": status(
        tenant=replace(TENANT, state="suspended"),
        condition=Condition("suspended"),
        probe=None,
        health=SILENT,
        disk=Disk(28 << 30, 30 << 30, 2 << 30),
    ),
    "commands-status-uncounted": status(
        tenant=replace(TENANT, state="suspended"),
        condition=Condition("suspended"),
        probe=None,
        health=SILENT,
        disk=Disk(None, 30 << 30, 2 << 30, UNCOUNTED),
    ),
    "commands-status-running-uncounted": status(
        health={
            "healthy": True,
            "checks": {
                "database": {"ok": True, "text": "answers"},
                "disk": {"ok": True, "text": f"usage can't be measured ({UNCOUNTED})", "known": False},
            },
            "facts": {},
        },
    ),
    "commands-status-outbound-off": status(
        tenant=replace(TENANT, outbound_off=True),
        health={
            "healthy": True,
            "checks": {"database": {"ok": True, "text": "answers"}},
            "facts": {"outbound_off": {"since": NOW, "waits": 30}},
        },
    ),
    "commands-status-stopped": status(
        known=KnownDisk(int(NOW), 28 << 30, 30 << 30),
        tenant=replace(TENANT, status="Stopped"),
        condition=Condition("stopped", by="U0OPSLEAD"),
        state=InstanceState("Stopped"),
        probe=None,
        health=SILENT | {"healthy": True},
    ),
    "commands-history": words(
        "history", operations=[FAILED, replace(DONE, id=6), replace(ASKED, id=5)], tenant="client-x"
    ),
    "commands-history-empty": words("history", operations=[], tenant=""),
    "commands-audit-verify": words("audit", what="verify", verdict=Verdict(120, 0, "ab" * 32), unseen=""),
    "commands-audit-verify-unseen": words(
        "audit",
        what="verify",
        verdict=Verdict(120, 0, "ab" * 32),
        unseen="The bot's channel is too busy to look back a week: only 10,000 of its messages were compared with the "
        "audit log.",
    ),
    "commands-audit-verify-broken": words(
        "audit", what="verify", verdict=Verdict(11, 12, "ab" * 32, "entry 12 was altered"), unseen=""
    ),
    "commands-audit-export": words("audit", what="export", path="/var/lib/mautic-ops/audit-1.jsonl", rows=120),
    "commands-audit-recent": words(
        "audit",
        what="recent",
        rows=[
            {
                "seq": 2,
                "at": NOW,
                "event": "step.finished",
                "tenant": "client-x",
                "operation": 7,
                "actor": "system",
                "detail": {"step": "Clone", "note": "<!channel>"},
            },
            {
                "seq": 1,
                "at": NOW,
                "event": "command.refused",
                "tenant": "",
                "operation": 0,
                "actor": "U0ACCOUNT",
                "detail": {"why": "I don't know “x”"},
            },
        ],
    ),
    "commands-prune": ended("prune", {"snapshots": "s-20270115-080000-2,s-20270115-080000-3"}),
    "commands-purge": ended("purge", {"container": "client-x--archived"}),
    "commands-purge-beside-a-live-one": words(
        "purge",
        operation=DONE,
        plan=DONE.plan
        | {
            "texts": {
                "is": "replaced by restore 30",
                "stays": "the live client-x, container client-x--30 on node2",
            },
        },
        arguments={"tenant": "client-x", "container": "client-x"},
        took=4.2,
    ),
    "commands-snapshots": snapshots_of(
        (
            Taken("s-20270115-080000-9", 0, "before restore 9", "U0OPSLEAD", "", False, 2_100_000),
            120,
            "kept for 7 days",
        ),
        (
            Taken("s-20270115-070000-8", 0, "schedule", "system", "", False, 1_000_000),
            3720,
            "kept as latest hourly, daily",
        ),
        (
            Taken("s-20270115-060000-7", 0, "asked", "U0OPSLEAD", "R&D *x* <!channel>", False, 900_000),
            7320,
            "expires at the next cleanup",
        ),
    ),
    "commands-snapshots-empty": snapshots_of(),
    "commands-snapshots-pages": snapshots_of(
        (Taken("s-20270115-070000-8", 0, "schedule", "system", "", False, 1_000_000), 3720, "kept as latest hourly"),
        total=40,
        pages=3,
    ),
    "commands-schedule": words(
        "schedule",
        jobs=[
            Job("digest", "Post the digest every morning", 60, NOW, None, "", NOW, NOW + 0.1, "done"),
            Job("health", "Check every tenant", 300, NOW + 300, None, "", NOW),
            Job("purge", "Delete old copies", 300, NOW + 300, None, "", NOW, NOW + 1, "done"),
            Job("routes", "Keep the routes", 60, NOW + 60, None, "", NOW, NOW + 1, "LXD does not answer."),
            Job("snapshots", "Take snapshots", 60, NOW, NOW, "U0OPSLEAD", NOW, NOW + 1, "done"),
        ],
        internal=["expiry", "incidents"],
        digest=DigestTimes("08:00 Europe/Berlin", NOW - 80_000, NOW + 6400),
    ),
    "commands-schedule-new": words(
        "schedule",
        jobs=[Job("digest", "Post the digest every morning", 60, NOW), Job("health", "Check every tenant", 300, NOW)],
        internal=[],
        digest=DigestTimes("08:00 UTC", None, NOW + 6400),
    ),
    "commands-doctor": words(
        "doctor",
        checks=[("Servers", True, "LXD 5.0.2 on local, 2 tenants"), ("Free space", False, "only 1.0 GiB of 30.0 GiB")],
    ),
    "digest-well": digested(WELL),
    "digest-behind": digested(replace(WELL, behind=("client-x", "client-y"))),
    "digest-unpatched": digested(replace(WELL, bases=BASES)),
    "digest-one-behind": digested(replace(WELL, behind=("client-x",))),
    "digest": digested(SICK),
    "digest-late": digested(replace(WELL, at=NOW + 9000), late=True, missing="Drawing took more than 30 s."),
    "digest-audit": RENDERER.message("digest-audit.j2", digest=WELL),
    "digest-none": digested(replace(WELL, tenants=())),
    "digest-not-all-fresh": digested(replace(WELL, tenants=(WELL_DAY, replace(WELL_DAY, newest=None)))),
    "digest-after-a-gap": digested(
        replace(WELL, tenants=(replace(WELL_DAY, newest=3 * 86_400.0, waits=True),)), late=True
    ),
    "digest-one-offline": digested(
        replace(WELL, tenants=(replace(SICK_DAY, condition=Condition("offline", "web server down")),), open=(CRON,))
    ),
    "digest-tenants": RENDERER.message(
        "digest-tenants.j2", tenants=[SICK_DAY, replace(WELL_DAY, disk=None, memory=None)], more=0
    ),
    "digest-tenants-more": RENDERER.message("digest-tenants.j2", tenants=[replace(WELL_DAY, newest=None)], more=30),
    "commands-digest": words("digest", digest=replace(SICK, waiting=(ASKED,)), tenant=None),
    "commands-digest-tenant": words("digest", digest=SICK, tenant=SICK_DAY),
    "home": homepage(
        theirs=[ASKED] * 9,
        others=[ASKED] * 11,
        mine=[ASKED, DONE],
        incidents=[CRON] * 11,
        states=[("degraded", 1), ("suspended", 1), ("healthy", 39)],
        hosts=Counter({"local": 40, "node-2": 1}),
        storage=SICK.pools,
        carries=SICK.carries,
        failing_jobs=SICK.jobs,
    ),
    "home-empty": homepage(),
    "home-without-lxd": homepage(silent=SICK.silent),
    "home-offline": homepage(halted=[HALTED], responsible=[HALTED], theirs=[ASKED]),
    "home-offline-of-others": homepage(halted=[HALTED], responsible=[]),
    "home-halted": RENDERER.say(RENDERER.words("home-halted.j2", operation=HALTED, left=HALTED.aftermath)),
    "card-elsewhere": elsewhere(replace(ASKED, channel="D0ACCOUNT")),
    "card-elsewhere-step-up": elsewhere(replace(ASKED, channel="D0ACCOUNT", command="delete")),
    "card-elsewhere-in-a-channel": elsewhere(replace(ASKED, channel="C0NEWS")),
    "home-request": RENDERER.say(RENDERER.words("home-request.j2", operation=ASKED)),
    "home-request-choice": RENDERER.say(RENDERER.words("home-request.j2", operation=CHOOSING)),
    "incident": incident(),
    **{f"incident-{kind}": of_service(kind, unit) for kind, unit in STOPPED.items()},
    "incident-without-a-part": incident(kind="disk", text="Disk 93% full: <28.0 GiB> of 30.0 GiB."),
    "incident-of-a-server": incident(tenant="", server="node1", kind="server", text="LXD does not answer."),
    "incident-of-an-errand": incident(
        kind="errand", text="`snapshot` has failed 3 times in a row. LXD could not take it: <no room>."
    ),
    "incident-silenced": incident(silenced_until=NOW + 14_400, silenced_by="U0OPSLEAD"),
    "incident-over": incident(closed=NOW),
    "condition": RENDERER.say(
        "\n".join(
            RENDERER.environment.from_string('{% from "condition.j2" import word %}{{ word(it) }}').render(it=one)
            for one in CONDITIONS.values()
        )
    ),
    "card-frozen": frozen_card(ASKED, FROZEN),
    "card-queued-frozen": frozen_card(APPROVED, FROZEN_ALL),
    "card-frozen-by-the-bot": frozen_card(ASKED, FROZEN_BY_THE_BOT),
    "card-queued-held": card(
        replace(
            APPROVED,
            held_by="memory",
            outcome="`node1` is overloaded: 1.0 GiB <of> 64.0 GiB. The operation starts when the host recovers.",
        )
    ),
    "commands-freeze": words("freeze", freeze=FROZEN, running=[RUNNING]),
    "commands-freeze-all": words("freeze", freeze=FROZEN_ALL, running=[]),
    "commands-unfreeze": words("unfreeze", freeze=FROZEN_ALL, others=[FROZEN]),
    "commands-list-frozen": listed(TENANT, frozen={"client-x": FROZEN, "": FROZEN_ALL}),
    "commands-status-frozen": status(frozen=FROZEN),
    "digest-frozen-by-the-bot": digested(replace(WELL, frozen=(FROZEN_BY_THE_BOT,), may_end=("approver",))),
    "digest-frozen": digested(replace(WELL, frozen=(FROZEN_ALL, FROZEN), may_end=("approver",))),
    "home-planned": homepage(
        planned=[PLANNED, replace(PLANNED, held_by="window", outcome="Upgrades start between 22:00-05:00.")],
        batches=[
            (BEGUN, replace(stands(succeeded=3, failed=1, waiting=8), ring=2, rings=3, resumes=NOW + 1800)),
            (BEGUN, stands("system", succeeded=2, failed=3, waiting=6)),
        ],
    ),
    "home-frozen": homepage(frozen=[FROZEN_ALL, FROZEN]),
    "state": RENDERER.say(
        RENDERER.environment.from_string(
            '{% from "state.j2" import state %}{{ state("needs_attention") }}, {{ state("denied") }}'
        ).render()
    ),
    "freeze": RENDERER.say(
        RENDERER.environment.from_string('{% from "freeze.j2" import frozen %}{{ frozen(it) }}').render(it=FROZEN)
    ),
    "refusal": RENDERER.say(":warning: There is no command “nwe”. Did you mean `/mautic new`?"),
    "simulated": Renderer(notice=":test_tube: Simulated: there is no LXD here.").say("It is done."),
}


def modals(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the modals: the form of `new`, the typed name, and the credentials that are revealed once."""
    from bot.intake.actions import name_window

    bench = make_bench(folder)
    form = bench.answer("new")
    bench.done("new client-x")
    reveal = bench.answer("credentials client-x")
    assert isinstance(form, Modal)
    assert reveal.fill is not None
    views: list[dict[str, Any]] = []
    reveal.fill(views.append)
    (shown,) = json.loads(json.dumps(views))
    text = shown["blocks"][0]["text"]["text"]
    shown["blocks"][0]["text"]["text"] = text[: text.index("*Password:*")] + "*Password:* `…`"
    return {
        "modal-new": form.view,
        "modal-typed-name": name_window(ASKED, "C0OPS").view,
        "modal-typed-name-choice": name_window(CHOOSING, "C0OPS", "send").view,
        "modal-credentials-opening": reveal.view,
        "modal-credentials": shown,
    }


def compare(name: str, shown: object) -> None:
    file = GOLDEN / f"{name}.json"
    text = json.dumps(shown, indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert file.exists(), f"{file.name} is missing; UPDATE_GOLDEN=1 writes it"
    assert file.read_text() == text


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_matches_its_golden_file_and_is_valid_for_slack(name: str) -> None:
    message = MESSAGES[name]
    judge(message, frozenset({"U0ACCOUNT", "U0OPSLEAD"}))
    compare(name, {"text": message.text, "blocks": message.blocks})


@pytest.mark.parametrize("name", MESSAGES)
def test_no_word_is_doubled_and_no_state_is_shown_by_its_key(name: str) -> None:
    said = json.dumps(MESSAGES[name].blocks)
    assert not re.search(r"\b([a-z]{2,}) \1\b", said)
    assert not re.search(r"is (succeeded|queued|running)\b|needs_attention|awaiting_approval|given_up", said)


def test_the_modals_match_their_golden_files_and_are_valid_for_slack(tmp_path: Path) -> None:
    for name, view in modals(tmp_path).items():
        block_kit.view(view, "modal")
        compare(name, view)


def test_the_home_tab_matches_its_golden_file_and_is_valid_for_slack(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.ask("new client-x")
    blocks = home.home(bench.context, LEAD)
    block_kit.view({"type": "home", "blocks": blocks}, "home")
    compare("view-home", {"type": "home", "blocks": blocks})


def test_every_template_has_its_golden_message() -> None:
    templates = [str(file.relative_to(TEMPLATES).with_suffix("")).replace("/", "-") for file in TEMPLATES.rglob("*.j2")]
    shown = {file.stem for file in GOLDEN.glob("*.json")}
    # A golden message is of the template with the longest name that it begins with.
    of = {max((name for name in templates if file.startswith(name)), key=len, default="") for file in shown}
    assert set(templates) - of == set()


def test_the_local_workspace_shows_every_emoji_that_is_posted() -> None:
    page = (ROOT / "bot" / "workspace" / "page" / "mrkdwn.js").read_text()
    files = [*TEMPLATES.rglob("*.j2"), *(ROOT / "bot").rglob("*.py"), *(ROOT / "commands").glob("*.py")]
    used = {name for file in files for name in re.findall(r"(?<!\w):([a-z_]{4,}):(?![:\w=])", file.read_text())}
    assert {"satellite", "arrow_forward"} <= used
    assert {name for name in used if f"{name}: " not in page} == set()


def test_no_golden_message_is_left_over() -> None:
    windows = {"modal-new", "modal-typed-name", "modal-typed-name-choice", "modal-credentials-opening"}
    names = {*MESSAGES, *windows, "modal-credentials", "view-home"}
    assert {file.stem for file in GOLDEN.glob("*.json")} == names
