"""The diagnosis of one check: each problem is found, a cause hides its effects, what was not measured is unseen."""

from __future__ import annotations

import ast
import inspect
from dataclasses import replace
from typing import Any

import pytest

from bot.fleet.health import HostLook, Look, Page, diagnose, diagnose_host
from bot.fleet.health.look import CHECKS, Before
from bot.guest.blueprint.mautic_ctl import health as tool
from bot.guest.mautic import Disk
from bot.lxd.protocol import InstanceState, PoolSpace, Snapshot
from bot.model.diagnosis import Diagnosis, Finding
from bot.model.findings import FINDINGS
from bot.model.tenants import Tenant
from bot.settings import Settings, load

SETTINGS = load(environment={})
LIMITS = SETTINGS.health
NOW = 1_800_000_000.0
GB = 10**9
LIMIT = 30 << 30
SERVICES = {name: "active" for name in ("mariadb", "php8.2-fpm", "nginx", "cron", "mautic-worker@email")}
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
    state="live",
    created=int(NOW) - 86_400,
    address="10.70.0.20",
)


def inside(*down: str, **facts: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "services": SERVICES | dict.fromkeys(down, "inactive"),
        "database": "mariadb" not in down,
        "crons": {"mautic:import": {"late": False, "why": "exit code 0"}},
        "queue_age": 12,
        "log_errors_day": 0,
        "memory": GB,
    }
    return {"healthy": not down, "checks": {"work": {"ok": True, "text": "on time"}}, "facts": known | facts}


WELL_PAGE = Page(True, "", 0.1, True, NOW - 30 * 86_400, NOW + 60 * 86_400)
WELL = Look(
    tenant=TENANT,
    at=NOW,
    state=InstanceState("Running"),
    disk=Disk(10 * GB, LIMIT, LIMIT - 10 * GB),
    larger={"disk": "medium", "memory": "medium"},
    snapshots=(Snapshot("s-1", int(NOW) - 3600),),
    size=SETTINGS.plans["small"],
    inside=inside(),
    page=WELL_PAGE,
    snapshot_due=3600,
)
GONE = Page(False, "HTTP 502", 0.1, True, NOW - 30 * 86_400, NOW + 60 * 86_400)
LATE = {"mautic:import": {"late": True, "why": "never ran"}}


def kinds(look: Look) -> list[str]:
    return [finding.kind for finding in diagnose(look, LIMITS).findings]


@pytest.mark.parametrize(
    ("unrouted", "words"),
    [
        ({"rival": "copy"}, "`copy` has the same address. `/mautic restart client-x` assigns a new address."),
        ({"foreign": True}, "Remove the device `eth0` from `client-x`"),
    ],
)
def test_a_tenant_that_the_edge_does_not_route_to_is_reported_with_a_remedy(
    unrouted: dict[str, Any], words: str
) -> None:
    (finding,) = diagnose(replace(WELL, **unrouted), LIMITS).findings
    assert (finding.kind, words in finding.text) == ("address", True)


def test_a_tenant_without_an_assigned_address_has_not_taken_another() -> None:
    before = replace(TENANT, address="")
    look = replace(WELL, tenant=before, state=InstanceState("Running", "10.70.0.20", ("10.70.0.20",)))
    assert kinds(look) == []


@pytest.mark.parametrize("disk", [None, Disk(None, LIMIT, None)])
def test_a_missing_measurement_is_no_recovery(disk: Disk | None) -> None:
    assert "disk" in diagnose(replace(WELL, disk=disk), LIMITS).unseen
    assert "disk" not in diagnose(WELL, LIMITS).unseen


def test_what_only_a_gap_in_the_checks_makes_late_is_neither_a_problem_nor_a_recovery() -> None:
    gap = {name: {"ok": True, "text": "3 events", "known": False} for name in ("crons", "queues", "work")}
    since_then = replace(WELL, awake=NOW - 600, snapshots=())
    found = diagnose(replace(since_then, inside=inside(queue_age=3700) | {"checks": gap}), LIMITS)
    assert (found.findings, found.unseen) == ((), {"jobs", "queue", "work", "snapshot"})


def test_a_healthy_tenant_has_no_findings() -> None:
    found = diagnose(WELL, LIMITS)
    assert (found.findings, found.unseen) == ((), frozenset())


TROUBLE: dict[str, tuple[Look, str]] = {
    "stopped": (replace(WELL, state=InstanceState("Stopped"), inside=None, page=None), "/mautic start client-x"),
    "inside": (replace(WELL, inside=None, problem="Inside `client-x`: no answer."), "no answer"),
    "database": (replace(WELL, inside=inside("mariadb"), page=GONE), "`mariadb` is inactive"),
    "web": (replace(WELL, inside=inside("nginx"), page=GONE), "`nginx` is inactive"),
    "page": (replace(WELL, page=GONE), "HTTP 502"),
    "worker": (replace(WELL, inside=inside("mautic-worker@email", queue_age=9000)), "mautic-worker@email"),
    "cron": (replace(WELL, inside=inside("cron", crons=LATE)), "`cron` is inactive"),
    "look": (
        replace(WELL, inside=inside(services=SERVICES | {"mautic-look": "failed"})),
        "`mautic-look` is failed, so PHP is started for each cron job",
    ),
    "jobs": (replace(WELL, inside=inside(crons=LATE)), "`mautic:import` (never ran)"),
    "queue": (replace(WELL, inside=inside(queue_age=3700)), "has waited 62 min"),
    "work": (
        replace(WELL, inside=inside() | {"checks": {"work": {"ok": False, "text": "3 overdue events"}}}),
        "3 overdue events",
    ),
    "failed": (
        replace(WELL, inside=inside(failed_mails={"day": 40, "kept": 52})),
        "40 e-mails failed in the last 24 h; 52 can be retried. "
        "`/mautic console client-x messenger:failed:show` lists the failed e-mails, then "
        "`/mautic console client-x messenger:failed:retry` retries them.",
    ),
    "log": (replace(WELL, inside=inside(log_errors_day=21)), "21 errors"),
    "memory": (replace(WELL, inside=inside(memory=3 * GB)), "Memory 93% used"),
    "disk": (replace(WELL, disk=Disk(30 * GB, LIMIT, LIMIT - 30 * GB)), "`/mautic resize client-x --plan medium`"),
    "certificate": (replace(WELL, page=replace(GONE, login=True, valid_until=NOW + 9 * 86_400)), "expires in 9 days"),
    "snapshot": (
        replace(WELL, snapshots=(Snapshot("s-1", int(NOW) - 7300),)),
        "`/mautic snapshot client-x` takes one now.",
    ),
    "address": (
        replace(WELL, state=InstanceState("Running", "10.70.0.20", ("10.70.0.20", "10.70.0.30"))),
        "was assigned 10.70.0.20, but took 10.70.0.30 inside",
    ),
    "snapshots": (
        replace(WELL, held=28 * GB, allowed=LIMIT, oldest="s-1"),
        "lists the snapshots, then `/mautic prune client-x s-1` deletes the oldest.",
    ),
    "move": (
        replace(WELL, tenant=replace(TENANT, state="moving"), inside=None, page=GONE, half_done=7),
        "Site offline: request #7 is stuck. Tap Retry or Undo on its card.",
    ),
    "upgraded": (
        replace(WELL, before=Before("5.2.12", 0.2, 3), page=replace(WELL_PAGE, seconds=1.4)),
        "takes 1.4 s, and took 0.2 s with Mautic 5.2.12.",
    ),
}


@pytest.mark.parametrize("left", ["", "client-x is online."])
def test_undo_is_suggested_only_where_it_is_possible(left: str) -> None:
    stuck = replace(TROUBLE["move"][0], left=left)
    assert "Undo" in str(diagnose(stuck, LIMITS).findings)
    told = str(diagnose(replace(stuck, undoable=False), LIMITS).findings)
    assert "Retry" in told
    assert "Undo" not in told


def test_every_check_has_a_case() -> None:
    assert set(TROUBLE) == set(CHECKS)


@pytest.mark.parametrize("kind", TROUBLE)
def test_each_problem_is_found_alone_and_explained(kind: str) -> None:
    look, words = TROUBLE[kind]
    (finding,) = diagnose(look, LIMITS).findings
    assert finding.kind == kind
    assert words in finding.text
    assert finding.text.endswith(".")


@pytest.mark.parametrize(
    ("look", "hidden"),
    [
        (TROUBLE["stopped"][0], {"page", "worker", "cron", "inside", "certificate", "memory"}),
        (TROUBLE["inside"][0], {"worker", "database", "queue", "memory"}),
        (TROUBLE["database"][0], {"page", "worker", "jobs", "queue", "work", "log"}),
        (TROUBLE["worker"][0], {"queue"}),
        (TROUBLE["cron"][0], {"jobs", "work"}),
        (replace(WELL, page=None), {"page", "certificate"}),
        (replace(WELL, page=Page(False, "timed out", 20.0, False)), {"certificate"}),
    ],
)
def test_what_a_cause_hides_is_unseen(look: Look, hidden: set[str]) -> None:
    assert hidden <= diagnose(look, LIMITS).unseen


def test_a_full_disk_hides_the_services_that_stopped_but_not_the_missing_page() -> None:
    full = replace(WELL, disk=Disk(LIMIT - 1000, LIMIT, 1000), inside=inside("mariadb", "cron"), page=GONE)
    found = diagnose(full, LIMITS)
    assert [one.kind for one in found.findings] == ["page", "disk"]
    assert (
        "so nothing can be written. `/mautic resize client-x --plan medium` gives the tenant more."
        in found.findings[1].text
    )
    assert {"database", "cron", "worker"} <= found.unseen
    nearly = replace(full, disk=Disk(28 * GB, LIMIT, 2 * GB))
    assert "database" in kinds(nearly)


def test_problems_that_do_not_cause_each_other_are_all_found() -> None:
    look = replace(
        WELL, inside=inside("mautic-worker@email", "cron"), disk=Disk(31 * GB, LIMIT, LIMIT - 31 * GB), page=GONE
    )
    assert kinds(look) == ["page", "worker", "cron", "disk"]


def test_a_tenant_that_was_stopped_on_purpose_has_no_problem() -> None:
    meant = replace(TENANT, stopped=True)
    assert kinds(replace(TROUBLE["stopped"][0], tenant=meant)) == []
    assert kinds(replace(TROUBLE["cron"][0], tenant=meant)) == ["cron"], "it runs nevertheless"


def test_a_suspended_tenant_is_meant_to_be_idle() -> None:
    suspended = replace(TENANT, state="suspended")
    assert kinds(replace(TROUBLE["cron"][0], tenant=suspended, page=GONE)) == []
    assert kinds(replace(TROUBLE["stopped"][0], tenant=suspended)) == []
    assert kinds(replace(TROUBLE["disk"][0], tenant=suspended)) == ["disk"]


@pytest.mark.parametrize(
    ("lifetime", "left", "sick"),
    [
        (90 * 86_400, 31 * 86_400, False),
        (90 * 86_400, 20 * 86_400, True),
        (43_200, 14_000, False),
        (43_200, 9000, True),
    ],
)
def test_a_certificate_is_overdue_relative_to_its_lifetime(lifetime: float, left: float, sick: bool) -> None:
    page = Page(True, "", 0.1, True, NOW + left - lifetime, NOW + left)
    assert kinds(replace(WELL, page=page)) == (["certificate"] if sick else [])


@pytest.mark.parametrize(("back", "sick"), [(10, False), (1100, False), (1300, True)])
def test_a_certificate_that_became_due_while_the_machine_was_suspended_is_given_time_to_be_renewed(
    back: float, sick: bool
) -> None:
    page = Page(True, "", 0.1, True, NOW - 40_000, NOW + 3200)
    found = diagnose(replace(WELL, page=page, awake=NOW - back), LIMITS)
    assert ([one.kind for one in found.findings], found.unseen) == (
        (["certificate"], {"page"}) if sick else ([], {"certificate"})
    )


def test_an_expired_certificate_hides_the_missing_page() -> None:
    page = Page(False, "SSLCertVerificationError: certificate verify failed: certificate has expired", 0.1, False)
    assert kinds(replace(WELL, page=page)) == ["certificate"]
    assert kinds(replace(WELL, page=page, awake=NOW)) == ["certificate"], "visitors see it now, whatever the cause"


def test_a_snapshot_dated_in_the_future_is_not_the_latest() -> None:
    ahead = Snapshot("s-2", int(NOW) + 400 * 86_400)
    assert kinds(replace(WELL, snapshots=(Snapshot("s-1", int(NOW) - 7300), ahead))) == ["snapshot"]


def test_a_snapshot_is_missing_only_where_one_is_due() -> None:
    none = replace(WELL, snapshots=())
    assert kinds(none) == ["snapshot"]
    assert kinds(replace(none, snapshot_due=0)) == []
    assert kinds(replace(none, tenant=replace(TENANT, created=int(NOW) - 600))) == [], "it is new"
    assert kinds(replace(none, awake=NOW - 600)) == [], "the bot was away, and will take one"


def test_a_service_that_is_starting_is_not_down() -> None:
    facts = inside(services=SERVICES | {"mautic-worker@email": "activating"})
    assert kinds(replace(WELL, inside=facts)) == []


def test_a_plan_that_no_longer_exists_has_no_limits() -> None:
    assert kinds(replace(WELL, size=None, disk=Disk(10**15, None, GB))) == []


@pytest.mark.parametrize("measure", ["memory", "disk", "queue_minutes", "log_errors"])
def test_a_threshold_of_0_turns_its_finding_off(measure: str) -> None:
    kind = {"queue_minutes": "queue", "log_errors": "log"}.get(measure, measure)
    look, _ = TROUBLE[kind]
    assert [found.kind for found in diagnose(look, LIMITS).findings] == [kind]
    assert diagnose(look, replace(LIMITS, **{measure: 0})).findings == ()


def test_a_nearly_full_pool_is_found() -> None:
    def found(used: int, settings: Settings = SETTINGS) -> Diagnosis:
        return diagnose_host(HostLook("node1", pool=PoolSpace(used * GB, 100 * GB)), settings)

    assert found(85) == Diagnosis()
    (finding,) = found(86).findings
    assert finding.kind == "pool"
    assert "13.0 GiB free" in finding.text
    assert found(99, replace(SETTINGS, health=replace(LIMITS, pool=0))) == Diagnosis()


def test_a_silent_host_has_no_other_finding() -> None:
    found = diagnose_host(HostLook("node1", silent="LXD does not answer."), SETTINGS)
    assert found == Diagnosis((Finding("server", "LXD does not answer."),), frozenset({"pool", "strain"}))


def _checks_of_the_tool() -> set[str]:
    """Return the names of all checks that the tool inside makes, read from its code."""
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(tool))) if isinstance(node, ast.Call)]
    named = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "check"]
    return {one.value for one in named if isinstance(one, ast.Constant)}


def checks_of(kind: str) -> tuple[str, ...]:
    return FINDINGS[kind].checks


@pytest.mark.parametrize("name", sorted(_checks_of_the_tool()))
def test_every_check_that_status_shows_red_is_found(name: str) -> None:
    red = {"checks": {name: {"ok": False, "text": "as status has it"}}}
    (finding,) = diagnose(replace(WELL, inside=inside() | red), LIMITS).findings
    assert name in checks_of(finding.kind)
    assert "as status has it" in finding.text


def test_a_red_check_adds_no_second_finding_of_the_same_problem() -> None:
    red = {"checks": {"open": {"ok": False, "text": "closed"}, "login page": {"ok": False, "text": "502"}}}
    assert kinds(replace(WELL, inside=inside() | red, page=GONE)) == ["page"]
    assert kinds(replace(WELL, inside=inside() | red)) == ["page"]


def test_mails_that_failed_more_than_a_day_ago_are_no_problem() -> None:
    assert kinds(replace(WELL, inside=inside(failed_mails={"day": 0, "kept": 52}))) == []


def test_failed_mails_that_were_not_kept_refer_to_the_log() -> None:
    (finding,) = diagnose(replace(WELL, inside=inside(failed_mails={"day": 2, "kept": 0})), LIMITS).findings
    assert finding.text == "2 e-mails failed in the last 24 h. `/mautic logs client-x mautic` shows why."
