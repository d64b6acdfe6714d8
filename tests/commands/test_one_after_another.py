"""What one command leaves for the next: labels, retired containers and autostart are right after both."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.guest import simulated_state
from bot.model.labels import Role
from bot.model.plan import Refused
from schedules.health import health
from tests.support.bot import OPERATOR, Bench, add_releases, live, make_bench

OLD, NEW = "5.2.12+double", "6.0.10+double"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("schedules.health.AGAIN", 0.0)
    made = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    made.lxd.clock = made.clock
    add_releases(made, "6.0.10")
    assert made.done("new client-x").state == "succeeded"
    # The container has this version, whatever the label says.
    simulated_state.change(made.lxd, "client-x", version=OLD, schema=OLD)
    return made


def done(bench: Bench, *texts: str) -> None:
    for text in texts:
        bench.clock.move(60)
        ended = bench.done(text, OPERATOR)
        assert ended.state == "succeeded", ended.outcome


def versions(bench: Bench) -> tuple[str, str]:
    """Return the version on the label, and the version that serves."""
    found = bench.context.fleet.tenant("client-x")
    host = bench.context.fleet.of(found)
    return found.version, host.mautic.health(found.instance, bench.context.settings.health, None)["facts"]["version"]


def test_a_restore_to_before_an_upgrade_restores_the_version_label_and_keeps_tags(bench: Bench) -> None:
    done(bench, "snapshot client-x")
    (snapshot,) = bench.lxd.snapshots("client-x")
    done(bench, "rehearse client-x", "upgrade client-x", "tag client-x canary")
    assert versions(bench) == (NEW, NEW)
    bench.clock.move(60)
    asked = bench.ask(f"restore client-x {snapshot.name}", OPERATOR)
    assert asked.plan["facts"]["Mautic"] == f"{OLD} again, not {NEW}"
    bench.approve(asked)
    bench.finish()
    assert versions(bench) == (OLD, OLD)
    assert bench.context.fleet.tenant("client-x").tags == ("canary",)


def test_undoing_a_rollback_restores_the_new_version_label(bench: Bench) -> None:
    done(bench, "rehearse client-x", "upgrade client-x", "rollback client-x")
    assert versions(bench) == (OLD, OLD)
    rollback = bench.context.operations.select("command = 'rollback'")[0]
    undo = rollback.step("keep").note.rpartition("`/mautic ")[2].rstrip("`")
    done(bench, undo)
    assert versions(bench) == (NEW, NEW)


def test_a_name_is_free_only_when_no_container_of_its_last_tenant_is_kept(bench: Bench) -> None:
    """A new client would get the old one's snapshots, and a rollback would serve the old one's data."""
    done(bench, "snapshot client-x")
    (snapshot,) = bench.lxd.snapshots("client-x")
    done(bench, f"restore client-x {snapshot.name}", "rehearse client-x", "upgrade client-x", "delete client-x")
    done(bench, "purge client-x client-x--archived", "purge client-x client-x")
    (kept,) = bench.context.fleet.inventory(Role.RETIRED).tenants
    assert kept.instance not in ("client-x", "client-x--archived")
    with pytest.raises(Refused, match=f"`/mautic purge client-x {kept.instance}`"):
        bench.ask("new client-x")
    done(bench, f"purge client-x {kept.instance}")
    assert bench.done("new client-x").state == "succeeded"


def test_an_incident_of_an_upgrade_ends_with_its_rollback(bench: Bench) -> None:
    for _ in range(30):
        # The tenant is compared with the day before.
        bench.clock.move(3600)
        health(bench.context)
    done(bench, "rehearse client-x", "upgrade client-x")

    def kinds() -> list[str]:
        present = bench.context.fleet.tenant("client-x").instance
        simulated_state.change(bench.lxd, present, log_errors=15)
        for _ in range(2):
            bench.clock.move(60)
            health(bench.context)
        return [one.kind for one in bench.context.incidents.open()]

    assert "upgraded" in kinds()
    done(bench, "rollback client-x")
    assert "upgraded" not in kinds()


def test_a_resumed_tenant_runs_after_the_next_boot_too(bench: Bench) -> None:
    done(bench, "suspend client-x", "stop client-x", "resume client-x")
    assert live(bench)
    assert not bench.context.fleet.tenant("client-x").stopped
    bench.lxd.reboot()
    assert live(bench)


def test_a_restart_that_waited_does_not_start_a_tenant_that_was_stopped_since(bench: Bench) -> None:
    """A start would send their late mail."""
    bench.done("new client-y")
    restart = bench.ask("restart client-x,client-y", OPERATOR)
    done(bench, "stop client-x")
    with pytest.raises(Refused, match="`client-x` was stopped"):
        bench.approve(restart)
    bench.finish()
    assert not bench.lxd.instance("client-x").running


def test_a_restart_starts_a_tenant_that_crashed_since_the_request(bench: Bench) -> None:
    restart = bench.ask("restart client-x", OPERATOR)
    bench.lxd.stop("client-x", force=True)
    bench.approve(restart)
    bench.finish()
    assert live(bench)
