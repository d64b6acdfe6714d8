"""Requests end when their time is over, however long the bot was away."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot import audit
from bot.plan import Refused
from schedules.expiry import expiry
from schedules.routes import routes
from schedules.snapshots import snapshots
from tests.support.bot import make_bench


def test_a_request_expires_once_also_after_downtime(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    operation = bench.ask("new client-x")
    bench.clock.move(23.9 * 3600)
    expiry(bench.context)
    assert bench.context.operations.get(operation.id).state == "awaiting_approval"

    # The bot is away over the end of it, and comes back.
    later = make_bench(tmp_path, bench.lxd)
    later.clock.at = bench.clock.at + 7 * 86_400
    expiry(later.context)
    expiry(later.context)
    ended = later.context.operations.get(operation.id)
    assert ended.state == "expired"
    events = later.context.database.read("SELECT event FROM audit WHERE operation = ?", operation.id)
    assert [row["event"] for row in events] == ["operation.requested", "operation.expired"]
    with pytest.raises(Refused, match="expired"):
        later.approve(operation)


def test_credentials_that_nobody_fetched_are_forgotten(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    bench.clock.move(73 * 3600)
    expiry(bench.context)
    assert bench.context.database.read("SELECT * FROM secrets") == []


def test_errands_that_went_well_are_listed_for_some_days_and_audited_for_ever(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    snapshots(bench.context)
    bench.finish()
    asked, errand = bench.context.operations.select("state = 'succeeded'")
    bench.clock.move(2 * 86_400)
    expiry(bench.context)
    assert bench.context.operations.select("1 = 1") == [asked, errand]
    bench.clock.move(2 * 86_400)
    expiry(bench.context)
    assert bench.context.operations.select("1 = 1") == [asked]
    assert audit.verify(bench.context.database).rows == audit.recent(bench.context.database, limit=1)[0]["seq"]


def test_deliveries_are_known_for_a_day_after_they_were_worked_on(tmp_path: Path) -> None:
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
