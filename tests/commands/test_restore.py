"""`/mautic snapshot` and `/mautic restore`: the old state is restored into a container beside the current one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.edge.probe import Probe
from bot.engine.snapshots import ours
from bot.guest import simulated as simulated_tenant
from bot.guest.mautic import CLOSED, MUTE
from bot.lxd.protocol import LxdError
from bot.model.labels import label_of
from bot.model.plan import Refused
from bot.store import recovery
from tests.support.bot import OPERATOR, Bench, containers, live, make_bench, make_desk, notes
from tests.support.judge import mrkdwn

SNAPSHOT = "s-20270115-080000-2"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench with a tenant that has a snapshot, and a contact that was added after it."""
    made = make_bench(tmp_path)
    made.done("new client-x")
    assert made.done("snapshot client-x --note sale --keep", OPERATOR).state == "succeeded"
    made.clock.move(3600)
    write(made, "client-x")
    return made


def write(bench: Bench, instance: str) -> None:
    writes = [*simulated_tenant.read(bench.lxd, instance).writes, ("contacts", bench.clock())]
    simulated_tenant.change(bench.lxd, instance, writes=writes)


def test_a_snapshot_records_who_took_it_why_and_how_long_writes_paused(bench: Bench) -> None:
    (taken,) = bench.lxd.snapshots("client-x")
    facts = [label_of(taken.config, name) for name in ("why", "snapshot-note", "keep", "by")]
    assert (taken.name, facts) == (SNAPSHOT, ["asked", "sale", "1", OPERATOR.id])
    assert bench.context.operations.get(2).steps[0].note == f"{SNAPSHOT}, writes paused 0.1 s"


def test_a_snapshot_while_the_database_is_down_says_that_it_is_only_crash_consistent(bench: Bench) -> None:
    simulated_tenant.change(bench.lxd, "client-x", stopped=["mariadb"])
    assert "crash-consistent only" in bench.done("snapshot client-x", OPERATOR).steps[0].note


def test_the_card_and_the_dialog_begin_with_the_data_loss(bench: Bench) -> None:
    plan = bench.answer(f"restore client-x {SNAPSHOT}", OPERATOR)
    assert plan.remarks["Data loss"] == ":warning: 1 contact, 0 form submissions, 0 unsubscribes since the snapshot"
    asked = bench.ask(f"restore client-x {SNAPSHOT}", OPERATOR)
    desk = make_desk(bench)
    card = "\n".join(mrkdwn(desk.announcer.card(asked).blocks)).splitlines()
    assert card[1].startswith("*Data loss:*"), "the data loss comes first"
    desk.click("approve", asked.id)
    assert desk.slack.views[-1]["blocks"][0]["text"]["text"].splitlines()[1].startswith("*Data loss:*")


def test_a_restore_serves_the_old_state_and_keeps_the_replaced_container(bench: Bench) -> None:
    done = bench.done(f"restore client-x {SNAPSHOT}", OPERATOR)
    assert done.state == "succeeded"
    tenant = bench.context.fleet.tenant("client-x")
    assert tenant.instance == f"client-x--{done.id}"
    assert simulated_tenant.read(bench.lxd, tenant.instance).writes == []
    assert live(bench)
    retired = bench.lxd.instance("client-x")
    assert (retired.running, label_of(retired.config, "role"), label_of(retired.config, "reason")) == (
        False,
        "former",
        f"restore {done.id}",
    )
    assert int(label_of(retired.config, "kept-until")) == int(bench.clock()) + 7 * 86_400
    assert [label_of(one.config, "why") for one in bench.lxd.snapshots("client-x")] == [
        "asked",
        f"before restore {done.id}",
    ]


def test_the_old_state_sends_no_mail_before_the_point_of_no_return(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    real = bench.context.edge.probe

    def probe(domain: str) -> Probe:
        files = bench.lxd.world.machines["client-x--3"].files
        seen.append((CLOSED in files, MUTE in files))
        return real(domain)

    monkeypatch.setattr(bench.context.edge, "probe", probe)
    assert bench.done(f"restore client-x {SNAPSHOT}", OPERATOR).state == "succeeded"
    assert seen == [(False, True)]
    assert MUTE not in bench.lxd.world.machines["client-x--3"].files


def test_a_restore_can_be_undone_by_another(bench: Bench) -> None:
    done = bench.done(f"restore client-x {SNAPSHOT}", OPERATOR)
    of_now = bench.lxd.snapshots("client-x")[-1].name
    assert f"To undo: `/mautic restore client-x {of_now}`" in notes(bench, done)[-1]
    again = bench.done(f"restore client-x {of_now}", OPERATOR)
    assert again.state == "succeeded"
    assert containers(bench) == {"client-x", f"client-x--{done.id}", f"client-x--{again.id}"}
    assert len(simulated_tenant.read(bench.lxd, f"client-x--{again.id}").writes) == 1


def test_a_restore_that_fails_leaves_the_tenant_as_it_was(bench: Bench) -> None:
    bench.lxd.fail_next("start", LxdError("LXD could not start it."))
    ended = bench.done(f"restore client-x {SNAPSHOT}", OPERATOR)
    assert (ended.state, ended.outcome) == ("failed", "LXD could not start it.")
    assert containers(bench) == {"client-x"}
    assert live(bench)
    assert bench.context.fleet.tenant("client-x").instance == "client-x"


def test_a_retry_takes_another_snapshot_of_the_current_state(bench: Bench) -> None:
    bench.lxd.fail_next("copy", LxdError("LXD could not copy it."))
    failed = bench.done(f"restore client-x {SNAPSHOT}", OPERATOR)
    bench.clock.move(3600)
    recovery.retry(bench.context.operations, failed, OPERATOR.id)
    bench.finish()
    assert bench.context.operations.get(failed.id).state == "succeeded"
    assert ours(bench.lxd.snapshots("client-x"))[-1].at == bench.clock()


def test_an_approval_does_not_cover_another_snapshot_of_the_same_name(bench: Bench) -> None:
    bench.lxd.snapshot("client-x", "by-hand")
    bench.lxd.fail_next("copy", LxdError("LXD could not copy it."))
    failed = bench.done("restore client-x by-hand", OPERATOR)
    bench.lxd.delete_snapshot("client-x", "by-hand")
    bench.lxd.clock = lambda: 2_000_000_000.0
    bench.lxd.snapshot("client-x", "by-hand")
    recovery.retry(bench.context.operations, failed, OPERATOR.id)
    bench.finish()
    assert "no longer matches what was approved" in bench.context.operations.get(failed.id).outcome


def test_an_approval_does_not_hold_after_another_restore(bench: Bench) -> None:
    bench.lxd.fail_next("copy", LxdError("LXD could not copy it."))
    failed = bench.done(f"restore client-x {SNAPSHOT}", OPERATOR)
    other = bench.done(f"restore client-x {SNAPSHOT}", OPERATOR)
    recovery.retry(bench.context.operations, failed, OPERATOR.id)
    bench.finish()
    assert f"request #{other.id} came later" in bench.context.operations.get(failed.id).outcome


def test_the_old_state_gets_the_sizes_of_the_current_plan(bench: Bench) -> None:
    bench.done("resize client-x --plan medium", OPERATOR)
    done = bench.done(f"restore client-x {SNAPSHOT}", OPERATOR)
    candidate = f"client-x--{done.id}"
    assert bench.lxd.instance(candidate).config["limits.memory"] == "8GiB"
    assert b'"innodb_buffer_pool": "3G"' in bench.lxd.pull(candidate, "/var/lib/mautic-ops/resize.json")


def test_the_card_says_that_a_stopped_tenant_runs_afterwards(bench: Bench) -> None:
    assert "Afterwards" not in bench.answer(f"restore client-x {SNAPSHOT}", OPERATOR).facts
    bench.done("stop client-x", OPERATOR)
    done = bench.done(f"restore client-x {SNAPSHOT}", OPERATOR)
    assert done.state == "succeeded", done.outcome
    assert done.plan["facts"]["Afterwards"] == "client-x runs (stopped now)"
    assert live(bench)


def test_a_stopped_tenant_whose_restore_fails_stays_stopped(bench: Bench) -> None:
    bench.done("stop client-x", OPERATOR)
    bench.lxd.fail_next("start", LxdError("LXD could not start it."))
    assert bench.done(f"restore client-x {SNAPSHOT}", OPERATOR).state == "failed"
    assert not bench.lxd.instance("client-x").running


def test_a_stopped_tenant_whose_restore_fails_at_its_page_stays_stopped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.engine.steps.DEADLINE", 0.1)
    monkeypatch.setattr(bench.context.edge, "probe", lambda _: Probe(502, False))
    bench.done("stop client-x", OPERATOR)
    assert bench.done(f"restore client-x {SNAPSHOT}", OPERATOR).state == "failed"
    tenant = bench.context.fleet.tenant("client-x")
    assert (tenant.instance, tenant.state, tenant.status, tenant.stopped) == ("client-x", "live", "Stopped", True)
    assert containers(bench) == {"client-x"}


@pytest.mark.parametrize("before", ["stop client-x", "restart client-x"])
def test_a_retry_of_the_last_step_keeps_what_clients_have_written_meanwhile(bench: Bench, before: str) -> None:
    bench.done(before, OPERATOR)
    operation = bench.approve(bench.ask(f"restore client-x {SNAPSHOT}", OPERATOR))

    def fail(moment: str) -> None:
        if moment == "before 3":
            raise LxdError("LXD could not.")

    bench.runner.fault = fail
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "needs_attention"
    write(bench, f"client-x--{operation.id}")
    bench.runner.fault = lambda moment: None
    recovery.retry(bench.context.operations, operation, OPERATOR.id)
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "succeeded"
    assert len(simulated_tenant.read(bench.lxd, bench.context.fleet.tenant("client-x").instance).writes) == 1


def test_an_unknown_snapshot_or_a_suspended_tenant_is_refused(bench: Bench) -> None:
    with pytest.raises(Refused, match=f"did you mean `{SNAPSHOT}`"):
        bench.answer("restore client-x s-20270115-080000-3", OPERATOR)
    with pytest.raises(Refused, match="`/mautic snapshots client-x` lists them"):
        bench.answer("restore client-x zzz", OPERATOR)
    bench.done("suspend client-x", OPERATOR)
    with pytest.raises(Refused, match="is suspended"):
        bench.answer(f"restore client-x {SNAPSHOT}", OPERATOR)
