"""`/mautic rehearse` and `/mautic upgrade`: nothing is upgraded unrehearsed, or if it has changed since."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bot.engine.snapshots import ours
from bot.fleet import releases
from bot.guest import simulated_state as simulated_tenant
from bot.model.labels import label_of
from bot.model.plan import Refused
from bot.store import evidence
from schedules.offers import offers
from tests.mautic_double.build import build
from tests.support.bot import OPERATOR, Bench, containers, live, make_bench, make_desk, notes
from tests.support.judge import mrkdwn

NEW = "6.0.10+double"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("releases") / "6.0.10.zip"
    return path, build(path, "6.0.10")


@pytest.fixture
def bench(tmp_path: Path, archive: tuple[Path, str]) -> Bench:
    """Return a bench with a tenant of 5.2.12, and the release 6.0.10."""
    config = tmp_path / "own.toml"
    config.write_text(f'[releases."6.0.10"]\narchive = "{archive[0]}"\nsha256 = "{archive[1]}"\n')
    made = make_bench(tmp_path, MAUTIC_OPS_CONFIG=str(config))
    assert releases.keep(made.context.settings) == []
    assert made.done("new client-x").state == "succeeded"
    return made


def test_a_rehearsal_says_how_long_clients_will_be_offline_and_leaves_nothing(bench: Bench) -> None:
    ended = bench.done("rehearse client-x", OPERATOR)
    assert ended.state == "succeeded", ended.outcome
    found = evidence.newest(bench.context.database, "client-x", NEW)
    assert found
    assert found.passed
    assert found.away > 0
    assert (found.before, found.version, found.broken) == ("5.2.12+double", NEW, ())
    assert containers(bench) == {"client-x"}
    assert live(bench)


def test_an_upgrade_is_rehearsed_first(bench: Bench) -> None:
    told = bench.answer("upgrade client-x", OPERATOR)
    assert "Rehearsing" in told.text
    bench.finish()
    ended = bench.done("upgrade client-x", OPERATOR)
    assert ended.state == "succeeded", ended.outcome
    tenant = bench.context.fleet.tenant("client-x")
    assert (tenant.version, tenant.instance) == (NEW, f"client-x--{ended.id}")
    assert simulated_tenant.read(bench.lxd, tenant.instance).version == NEW
    assert live(bench)
    assert label_of(bench.lxd.instance("client-x").config, "role") == "former"
    # Taken while the migrations run; it tells a rollback since when the tenant was closed.
    assert [one.why for one in ours(bench.lxd.snapshots("client-x"))] == [f"before upgrade {ended.id}"]


def test_a_failure_before_the_tenant_is_closed_mentions_no_maintenance_page(bench: Bench) -> None:
    bench.answer("upgrade client-x", OPERATOR)
    bench.finish()
    asked = bench.approve(bench.ask("upgrade client-x", OPERATOR))
    simulated_tenant.change(bench.lxd, "client-x", breaks={"stage": "its disk has no room"})
    bench.finish()
    ended = bench.context.operations.get(asked.id)
    assert (ended.state, ended.aftermath["left"]) == ("failed", "rolled back")
    assert live(bench)


def test_a_change_since_the_rehearsal_voids_it(bench: Bench) -> None:
    bench.answer("upgrade client-x", OPERATOR)
    bench.finish()
    asked = bench.ask("upgrade client-x", OPERATOR)
    simulated_tenant.change(bench.lxd, "client-x", plugins={"OwnBundle": True})
    with pytest.raises(Refused, match="has changed since the rehearsal"):
        bench.approve(asked)


def test_failed_migrations_leave_the_tenant_as_it_was(bench: Bench) -> None:
    bench.answer("upgrade client-x", OPERATOR)
    bench.finish()
    asked = bench.approve(bench.ask("upgrade client-x", OPERATOR))
    simulated_tenant.change(bench.lxd, "client-x", breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})
    bench.finish()
    ended = bench.context.operations.get(asked.id)
    assert ended.state == "failed"
    assert "SQLSTATE[42S21]" in ended.outcome
    assert re.fullmatch(r"rolled back; clients saw the maintenance page for \d+\.\d s", ended.aftermath["left"])
    assert containers(bench) == {"client-x"}
    assert bench.context.fleet.tenant("client-x").version == "5.2.12+double"
    assert live(bench)


def test_a_failed_rehearsal_offers_nothing(bench: Bench) -> None:
    simulated_tenant.change(bench.lxd, "client-x", breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})
    ended = bench.done("rehearse client-x", OPERATOR)
    assert ended.state == "failed"
    assert "SQLSTATE[42S21]" in ended.outcome
    assert containers(bench) == {"client-x"}
    found = evidence.newest(bench.context.database, "client-x", NEW)
    assert found
    assert not found.passed
    assert "SQLSTATE[42S21]" in found.failed
    offers(bench.context)
    assert bench.context.operations.select("command = 'upgrade'") == []


def test_the_result_of_a_rehearsal_is_posted_and_the_upgrade_requested_once(bench: Bench) -> None:
    bench.answer("upgrade client-x", OPERATOR)
    bench.finish()
    for _ in range(2):
        offers(bench.context)
    asked = bench.context.operations.select("command = 'upgrade'")
    assert [one.state for one in asked] == ["awaiting_approval"]
    assert "Client offline for about" in notes(bench, bench.context.operations.select("command = 'rehearse'")[0])[-1]
    bench.approve(asked[0])
    bench.finish()
    assert bench.context.fleet.tenant("client-x").version == NEW


def test_a_rehearsal_that_a_wrong_clock_dated_ahead_neither_counts_nor_hides_a_newer_one(bench: Bench) -> None:
    bench.clock.set(30 * 86_400)
    assert bench.done("rehearse client-x", OPERATOR).state == "succeeded"
    bench.clock.set(-30 * 86_400)
    assert "Rehearsing" in bench.answer("upgrade client-x", OPERATOR).text
    simulated_tenant.change(bench.lxd, "client-x", breaks={"migrate": "SQLSTATE[42S21]: Column already exists"})
    bench.finish()
    bench.clock.move(29 * 86_400)
    assert "Rehearsing" in bench.answer("upgrade client-x", OPERATOR).text, "the newest one failed"


def test_migrations_that_lose_rows_leave_the_tenant_as_it_was(bench: Bench) -> None:
    bench.answer("upgrade client-x", OPERATOR)
    bench.finish()
    asked = bench.approve(bench.ask("upgrade client-x", OPERATOR))
    simulated_tenant.change(bench.lxd, "client-x", breaks={"rows": "leads"})
    bench.finish()
    ended = bench.context.operations.get(asked.id)
    assert ended.state == "failed"
    assert ended.outcome == "The migrations took rows away: leads has 1199 instead of 1200."
    assert bench.context.fleet.tenant("client-x").version == "5.2.12+double"
    assert containers(bench) == {"client-x"}
    assert live(bench)


def test_tables_that_are_too_large_to_be_counted_are_named_and_stop_nothing(bench: Bench) -> None:
    simulated_tenant.change(bench.lxd, "client-x", breaks={"count": "page_hits email_stats"})
    bench.answer("upgrade client-x", OPERATOR)
    bench.finish()
    asked = bench.ask("upgrade client-x", OPERATOR)
    assert asked.plan["remarks"]["Not compared"] == "rows of email_stats, page_hits (too large)"
    bench.approve(asked)
    bench.finish()
    ended = bench.context.operations.get(asked.id)
    assert ended.state == "succeeded", ended.outcome
    note = ended.step("upgrade").note
    assert note.endswith("; no rows lost in 26 tables, not compared (too large): email_stats, page_hits"), note


def test_the_card_says_how_long_existing_snapshots_are_kept(bench: Bench) -> None:
    bench.answer("upgrade client-x", OPERATOR)
    bench.finish()
    assert "Existing snapshots" not in bench.answer("upgrade client-x", OPERATOR).remarks
    assert bench.done("snapshot client-x", OPERATOR).state == "succeeded"
    asked = bench.ask("upgrade client-x", OPERATOR)
    until = bench.context.renderer.moment(bench.clock() + 7 * 86_400)
    told = f"1 stays in the previous container until {until}"
    assert asked.plan["remarks"]["Existing snapshots"] == told
    card = "\n".join(mrkdwn(make_desk(bench).announcer.card(asked).blocks))
    assert f"*Existing snapshots:* {told}" in card
    bench.lxd.delete_snapshot("client-x", bench.lxd.snapshots("client-x")[0].name)
    # Their number is not part of what was approved.
    assert bench.approve(asked).state == "queued"


def test_the_card_begins_with_how_long_the_client_is_offline(bench: Bench) -> None:
    bench.answer("upgrade client-x", OPERATOR)
    bench.finish()
    facts = bench.ask("upgrade client-x", OPERATOR).plan["facts"]
    label, value = next(iter(facts.items()))
    assert f"{label} {value}".startswith("Client offline for about ")
