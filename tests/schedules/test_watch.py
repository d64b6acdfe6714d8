"""After an upgrade a tenant is compared with the day before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bot.engine import health_checks
from bot.fleet.health import Before, Look, Page
from bot.fleet.health.look import CHECKS
from bot.lxd.protocol import InstanceState
from bot.model.diagnosis import with_remedies
from bot.model.labels import Role, State
from bot.model.tenants import Tenant
from bot.settings import load
from tests.support.bot import OPERATOR, Bench, make_bench

LIMITS = load(environment={}).health
TENANT = Tenant(
    "client-x", "local", "local", "client-x", "Running", "x.test", "small", "6.0.10", Role.TENANT, State.LIVE
)
WELL = Look(
    TENANT,
    1000.0,
    InstanceState("Running"),
    inside={"facts": {"log_errors_day": 2}, "checks": {}},
    page=Page(True, "", 0.3, valid_from=0, valid_until=9e9),
    before=Before("5.2.12", 0.2, 1),
)


def told(look: Look) -> str:
    found = CHECKS["upgraded"](look, LIMITS)
    return with_remedies("upgraded", found, look.values).text if found else ""


def test_what_is_as_before_the_upgrade_is_no_problem() -> None:
    assert told(WELL) == ""
    assert told(replace(WELL, page=Page(True, "", 0.45, valid_until=9e9))) == "", "it is still quick"


@pytest.mark.parametrize(
    ("worse", "why"),
    [
        (replace(WELL, page=Page(True, "", 1.4, valid_until=9e9)), "takes 1.4 s, and took 0.2 s with Mautic 5.2.12"),
        (
            replace(WELL, inside={"facts": {"log_errors_day": 40}, "checks": {}}),
            "40 errors of the last day; with 5.2.12",
        ),
    ],
)
def test_what_is_worse_is_reported_with_the_rollback_command_while_the_tenant_is_watched(worse: Look, why: str) -> None:
    assert why in told(worse)
    assert "`/mautic rollback client-x`" in told(worse)
    assert told(replace(worse, before=None)) == ""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path)
    assert made.done("new client-x").state == "succeeded"
    return made


def test_only_a_recently_upgraded_tenant_is_watched(bench: Bench) -> None:
    inventory = bench.context.fleet.full_inventory()
    assert health_checks.at_tenants(bench.context, inventory.tenants, fresh=False)["client-x"].before is None
    operation = bench.ask("restart client-x", OPERATOR)
    bench.finish()
    with bench.context.database.transaction() as transaction:
        transaction.execute(
            "UPDATE operations SET command = 'upgrade', plan = json_set(plan, '$.values.from', '5.2.12') WHERE id = ?",
            (operation.id,),
        )
        hour = int(bench.clock() // 3600 - 3) * 3600
        transaction.execute(
            "INSERT INTO tenant_samples (span, at, tenant, looks, page, log_errors)"
            " VALUES (3600, ?, 'client-x', 12, 0.2, 3)",
            (hour,),
        )
    watched = health_checks.at_tenants(bench.context, inventory.tenants, fresh=False)["client-x"].before
    assert watched == Before("5.2.12", 0.2, 3)
    bench.clock.move(31 * 60)
    assert health_checks.at_tenants(bench.context, inventory.tenants, fresh=False)["client-x"].before is None
