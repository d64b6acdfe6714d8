"""Requests expire when their time is over, however long the bot was down."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from bot.engine.approvals import CONFIRM
from bot.model.plan import Refused
from bot.store import audit
from schedules.expiry import expiry
from schedules.routes import routes
from schedules.snapshots import snapshots
from tests.support.bot import make_bench


def test_a_request_expires_once_even_after_a_downtime(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    operation = bench.ask("new client-x")
    bench.clock.move(23.9 * 3600)
    expiry(bench.context)
    assert bench.context.operations.get(operation.id).state == "awaiting_approval"

    # The bot is down when the request ends, and comes back later.
    later = make_bench(tmp_path, bench.lxd)
    later.clock.at = bench.clock.at + 7 * 86_400
    expiry(later.context)
    with pytest.raises(Refused, match="expired"):
        later.approve(operation)
    later.clock.move(CONFIRM)
    expiry(later.context)
    expiry(later.context)
    ended = later.context.operations.get(operation.id)
    assert ended.state == "expired"
    events = later.context.database.read("SELECT event FROM audit WHERE operation = ?", operation.id)
    assert [row["event"] for row in events] == ["operation.requested", "operation.expired"]
    with pytest.raises(Refused, match="expired"):
        later.approve(operation)


def test_a_clock_that_is_ahead_expires_no_request_but_prevents_decisions(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.clock.move(60)
    operation = bench.ask("new client-x")
    bench.clock.set(40 * 86_400)
    bench.clock.move(15)
    expiry(bench.context)
    with pytest.raises(Refused, match="expired"):
        bench.approve(operation)
    assert bench.context.operations.get(operation.id).state == "awaiting_approval"
    bench.clock.set(-40 * 86_400)
    bench.clock.move(CONFIRM)
    expiry(bench.context)
    assert bench.approve(operation).state == "queued"


def test_setting_the_clock_back_does_not_prolong_a_request(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.clock.move(60)
    operation = bench.ask("new client-x")
    bench.clock.set(-40 * 86_400)
    bench.clock.move(24 * 3600)
    with pytest.raises(Refused, match="expired"):
        bench.approve(operation)
    assert bench.context.operations.get(operation.id).state == "expired"


def test_a_request_without_a_recorded_uptime_expires_by_the_wall_clock(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    operation = bench.ask("new client-x")
    bench.context.database.close()
    with sqlite3.connect(tmp_path / "bot.db") as old:
        old.execute("ALTER TABLE operations DROP COLUMN asked")
        old.execute("DELETE FROM _sqlite_migrations WHERE name = 'm025_asked'")
    old.close()
    again = make_bench(tmp_path, bench.lxd)
    again.clock.move(24 * 3600)
    expiry(again.context)
    again.clock.move(CONFIRM)
    expiry(again.context)
    assert again.context.operations.get(operation.id).state == "expired"


def test_credentials_that_nobody_fetched_are_deleted(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    bench.clock.move(73 * 3600)
    expiry(bench.context)
    assert bench.context.database.read("SELECT * FROM secrets") == []


def test_successful_maintenance_is_listed_for_some_days_and_audited_for_ever(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    snapshots(bench.context)
    bench.finish()
    asked, upkeep = bench.context.operations.select("state = 'succeeded'")
    bench.clock.move(2 * 86_400)
    expiry(bench.context)
    assert bench.context.operations.select("1 = 1") == [asked, upkeep]
    bench.clock.move(2 * 86_400)
    expiry(bench.context)
    assert bench.context.operations.select("1 = 1") == [asked]
    assert audit.verify(bench.context.database).rows == audit.recent(bench.context.database, limit=1)[0]["seq"]


def test_handled_deliveries_are_remembered_for_a_day(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.clock.move(2 * 86_400)
    with bench.context.database.transaction() as transaction:
        transaction.executemany(
            "INSERT INTO inbox (key, kind, payload, received, done) VALUES (?, 'reply', '', 0, ?)",
            [("today", bench.clock() - 3600), ("yesterday", bench.clock() - 25 * 3600), ("open", None)],
        )
    expiry(bench.context)
    assert [row["key"] for row in bench.context.database.read("SELECT key FROM inbox")] == ["open", "today"]


def test_a_tenant_that_came_up_unseen_is_routed(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    bench.lxd.stop("client-x")
    routes(bench.context)
    assert not bench.context.edge.probe("client-x.mautic.localhost").login
    bench.lxd.start("client-x")
    routes(bench.context)
    assert bench.context.edge.probe("client-x.mautic.localhost").login
