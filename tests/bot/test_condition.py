"""A tenant's condition: its health in one word, the same wherever it is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.intake import home
from bot.model.diagnosis import Diagnosis, Finding
from bot.model.findings import FINDINGS
from bot.model.labels import Role, as_labels
from bot.model.tenants import Tenant
from bot.reports import digest
from bot.reports.condition import STALE, WORDS, Condition, condition, conditions, looked_at_now
from bot.slack.incidents import Seen
from bot.store.operation import Operation
from schedules.health import health
from tests.bot.test_messages import operation as made
from tests.support.bot import LEAD, OPERATOR, Bench, make_bench
from tests.support.judge import mrkdwn

TENANT = Tenant("client-x", "local", "local", "client-x", "Running", "x.localhost", "small", "5", "tenant", "live")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path)
    made.done("new client-x")
    return made


def now(bench: Bench) -> Condition:
    (tenant,) = bench.context.fleet.tenants()
    return conditions(bench.context, [tenant])["client-x"]


def trouble(bench: Bench, *kinds: str, server: str = "") -> None:
    found = Diagnosis(tuple(Finding(kind, "It is so.") for kind in kinds))
    seen = Seen({} if server else {"client-x": found}, {server: found} if server else {})
    with bench.context.database.transaction() as transaction:
        bench.context.incidents.judge(transaction, seen)


def said(bench: Bench, text: str) -> str:
    return "\n".join(mrkdwn(bench.answer(text).blocks))


halted = st.builds(
    lambda state, command, online, headline: replace(
        made(state, "", "", "", "U0ACCOUNT"), command=command, aftermath={"online": online, "headline": headline}
    ),
    st.sampled_from(["queued", "running", "needs_attention"]),
    st.sampled_from(["restore", "migrate", "restart", "purge", "new"]),
    st.sampled_from([True, False, None]),
    st.sampled_from(["", "client-x is offline"]),
)
tenants = st.builds(
    lambda status, role, state, stopped, member: replace(
        TENANT, status=status, role=role, state=state, stopped=stopped, member=member
    ),
    st.sampled_from(["Running", "Stopped", "Frozen", "Error"]),
    st.sampled_from([role for role in Role if role is not Role.BALLAST]),
    st.sampled_from(["", "live", "moving", "suspended"]),
    st.booleans(),
    st.sampled_from(["", "node1"]),
)


@given(tenants, st.sets(st.sampled_from(sorted(FINDINGS))), st.none() | halted, st.booleans())
def test_no_tenant_is_healthy_with_an_incident_a_stuck_operation_or_a_stopped_container(
    tenant: Tenant, troubles: set[str], operation: Operation | None, looked: bool
) -> None:
    found = condition(tenant, problems=troubles, operation=operation, looked=looked)
    assert found.word in WORDS
    if found.word == "healthy":
        assert not troubles
        assert looked
        assert (tenant.status, tenant.state) in (("Running", "live"), ("Running", ""))
        assert operation is None or operation.state != "needs_attention"
    seen = looked_at_now(found, True, [])
    assert seen.word != "healthy" or not troubles
    assert looked_at_now(found, False, []).word != "healthy"
    assert looked_at_now(found, None, []) == found


def test_the_same_word_is_shown_everywhere_while_mail_is_down(bench: Bench) -> None:
    trouble(bench, "worker")
    assert now(bench) == Condition("degraded", "e-mail not sending")
    shown = said(bench, "list")
    assert "*1 tenant*, 1 degraded" in shown
    assert ":large_orange_circle: *client-x* · degraded: e-mail not sending · " in shown
    assert "degraded: e-mail not sending" in said(bench, "status client-x")
    assert ":large_orange_circle: *local* · LXD 5.0.2 · 1 tenant, 1 degraded" in said(bench, "hosts").replace(
        "LXD simulated", "LXD 5.0.2"
    )
    assert "Tenants: 1 degraded" in "\n".join(mrkdwn(home.home(bench.context, LEAD)))
    (day,) = digest.gather(bench.context, bench.clock() - 86_400).tenants
    assert day.condition == now(bench)


def test_a_crashed_tenant_is_distinguished_from_one_that_a_person_stopped(bench: Bench) -> None:
    bench.lxd.stop("client-x")
    assert now(bench) == Condition("offline", "container stopped unexpectedly")
    assert ":red_circle: *client-x* · offline: container stopped unexpectedly" in said(bench, "list")
    bench.done("start client-x", OPERATOR)
    bench.done("stop client-x", OPERATOR)
    assert now(bench) == Condition("stopped", by=OPERATOR.id)
    assert f":white_circle: *client-x* · stopped by <@{OPERATOR.id}>" in said(bench, "list")
    bench.done("start client-x", OPERATOR)
    bench.done("suspend client-x", OPERATOR)
    assert now(bench) == Condition("suspended", by=OPERATOR.id)


def test_a_tenant_suspended_by_an_unrecorded_person_is_just_suspended(bench: Bench) -> None:
    bench.lxd.update("client-x", {"user.mautic-ops.state": "suspended"})
    assert now(bench) == Condition("suspended")


def test_an_old_health_check_proves_nothing(bench: Bench) -> None:
    health(bench.context)
    assert now(bench) == Condition("healthy")
    bench.clock.move(STALE + 7200)
    assert now(bench).word == "unknown"
    assert "running, not checked yet" in said(bench, "list")
    health(bench.context)
    assert now(bench).word != "unknown"


def test_the_list_begins_with_the_worst_tenant(bench: Bench) -> None:
    bench.done("new aaa")
    trouble(bench, "page")
    shown = said(bench, "list")
    assert shown.index("*client-x*") < shown.index("*aaa*")


def test_no_tenant_is_healthy_while_its_host_or_the_edge_is_silent(bench: Bench) -> None:
    trouble(bench, "server", server="local")
    assert now(bench) == Condition("unknown", "its host does not answer")
    trouble(bench, server="local")
    trouble(bench, "edge", server="the edge")
    assert now(bench) == Condition("offline", "edge not answering")


def test_the_status_of_a_recovered_tenant_still_shows_its_open_incident(bench: Bench) -> None:
    trouble(bench, "page")
    assert "degraded: site unreachable, at the last health check" in said(bench, "status client-x")


def test_an_operation_in_progress_is_shown(bench: Bench) -> None:
    bench.done("snapshot client-x", OPERATOR)
    operation = bench.approve(bench.ask("restore client-x s-20270115-080000-2", OPERATOR))
    assert now(bench) == Condition("busy", f"restore in progress (request #{operation.id})")


def test_only_a_move_is_called_moving() -> None:
    under_way = replace(made("running", "", "", "", "U0ACCOUNT"), id=7, plan={"cutover": "move"})
    assert condition(TENANT, operation=under_way) == Condition("moving", "move in progress (request #7)")
    assert condition(TENANT, operation=replace(under_way, plan={"cutover": "upgrade"})).word == "busy"


def test_a_tenant_left_halfway_is_offline_unless_its_candidate_serves(bench: Bench) -> None:
    """Giving up a stuck operation, or losing the database, leaves a tenant like this; its candidate may serve."""
    bench.lxd.update("client-x", {"user.mautic-ops.state": "moving"})
    assert now(bench) == Condition("offline", "stuck halfway")
    config = as_labels(
        role="incoming", tenant="client-x", domain="client-x.mautic.localhost", state="live", operation=9
    )
    bench.lxd.create("client-x--9", "base", config=config, devices={})
    bench.lxd.start("client-x--9")
    bench.clock.move(60)
    health(bench.context)
    assert now(bench).word == "degraded"
    assert now(bench).why.startswith("stuck halfway, served by the new container")
