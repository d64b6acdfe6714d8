"""`/mautic snapshot`, `snapshots`, `prune` and `purge`: what is kept of a tenant, and what is deleted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bot.lxd.protocol import LxdError
from bot.model.labels import as_labels, label_of
from bot.model.plan import Refused
from bot.slack.messages import Message
from bot.store import recovery
from tests.support.bot import ASKER, LEAD, OPERATOR, Bench, containers, live, make_bench
from tests.support.judge import judge, mrkdwn

HOUR, DAY = 3600, 86_400


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = make_bench(tmp_path)
    assert made.done("new client-x").state == "succeeded"
    return made


def names(bench: Bench, instance: str = "client-x") -> list[str]:
    return [one.name for one in bench.lxd.snapshots(instance)]


def said(message: Message) -> str:
    """Return the text of a message, after checking that Slack accepts it."""
    judge(message, frozenset({ASKER.id, LEAD.id, OPERATOR.id}))
    return "\n".join(mrkdwn(message.blocks))


def test_a_snapshot_says_how_long_writes_paused_and_records_who_took_it_and_why(bench: Bench) -> None:
    done = bench.done("snapshot client-x --note 'before the sale' --keep", OPERATOR)
    assert done.state == "succeeded"
    assert "writes paused" in done.steps[0].note
    (taken,) = bench.lxd.snapshots("client-x")
    assert taken.name == f"s-20270115-080000-{done.id}"
    facts = {name: label_of(taken.config, name) for name in ("snapshot-note", "keep", "by", "why", "taken")}
    assert facts == {
        "snapshot-note": "before the sale",
        "keep": "1",
        "by": OPERATOR.id,
        "why": "asked",
        "taken": "1800000000",
    }


def test_a_snapshot_of_a_stopped_tenant_needs_no_backup_lock(bench: Bench) -> None:
    bench.lxd.stop("client-x")
    done = bench.done("snapshot client-x", OPERATOR)
    assert (done.state, done.steps[0].note) == ("succeeded", f"s-20270115-080000-{done.id}, of a stopped container")


def test_the_list_says_who_took_a_snapshot_and_why_its_size_and_how_long_it_is_kept(bench: Bench) -> None:
    assert "has no snapshots yet" in said(bench.answer("snapshots client-x"))
    bench.done("snapshot client-x --keep --note '<!channel> *x*'", OPERATOR)
    bench.done("snapshot client-x", OPERATOR)
    bench.done("snapshot client-x", OPERATOR)
    bench.clock.move(2 * HOUR)
    bench.lxd.snapshot("client-x", "by-hand")
    shown = said(bench.answer("snapshots client-x"))
    newest, older, kept = [line for line in shown.splitlines() if line.startswith("`s-")]
    assert f"2 h old · 1.0 MiB · by <@{OPERATOR.id}> · kept as latest hourly, daily, weekly, monthly" in newest
    assert "expires at the next cleanup" in older
    assert "kept until somebody deletes it" in kept
    assert "&lt;!channel&gt;" in kept
    assert "*3 snapshots* of `client-x` · " in shown


def test_with_a_policy_of_zeros_the_list_says_that_nothing_is_pruned(tmp_path: Path) -> None:
    nothing = {f"MAUTIC_OPS_SNAPSHOTS__{tier}": "0" for tier in ("HOURLY", "DAILY", "WEEKLY", "MONTHLY")}
    bench = make_bench(tmp_path, **nothing)
    bench.done("new client-x")
    for _ in range(2):
        bench.done("snapshot client-x", OPERATOR)
    assert said(bench.answer("snapshots client-x")).count("kept until somebody deletes it") == 2


def test_snapshots_in_the_retired_container_are_listed_too(bench: Bench) -> None:
    bench.done("snapshot client-x", OPERATOR)
    (name,) = names(bench)
    bench.clock.move(HOUR)
    assert bench.done(f"restore client-x {name}", OPERATOR).state == "succeeded"
    bench.clock.move(HOUR)
    bench.done("snapshot client-x", OPERATOR)
    own, before, older = [line for line in said(bench.answer("snapshots client-x")).splitlines() if line[:3] == "`s-"]
    assert own.endswith("kept as latest hourly, daily, weekly, monthly")
    assert "before restore" in before
    assert older.startswith(f"`{name}`")
    assert "in the previous container (replaced by restore 3), deleted <!date^" in older
    assert "|2027-01-22 09:00 UTC>" in older


def test_a_long_list_has_pages(bench: Bench) -> None:
    for number in range(20):
        config = as_labels(taken=int(bench.clock()) + number, why="schedule", by="system")
        bench.lxd.snapshot("client-x", f"s-20270115-0800{number:02}-{number}", config=config)
    assert "Page 1 of 2, next: `/mautic snapshots client-x --page 2`" in said(bench.answer("snapshots client-x"))
    assert said(bench.answer("snapshots client-x --page 2")).count("· scheduled ·") == 5
    with pytest.raises(Refused, match="Only 2 pages"):
        bench.answer("snapshots client-x --page 3")


def test_prune_removes_what_the_policy_does_not_keep_and_nothing_else(bench: Bench) -> None:
    bench.done("snapshot client-x --keep", OPERATOR)
    for _ in range(3):
        bench.done("snapshot client-x", OPERATOR)
    bench.lxd.snapshot("client-x", "by-hand")
    protected, first, second, newest, by_hand = names(bench)
    done = bench.done("prune client-x", OPERATOR)
    assert (done.state, done.plan["facts"]["Deletes"]) == ("succeeded", f"{first}, {second}")
    assert names(bench) == [protected, newest, by_hand]
    with pytest.raises(Refused, match="every snapshot of `client-x` is kept \\(24 hourly, 7 daily"):
        bench.answer("prune client-x", OPERATOR)


def test_a_protected_snapshot_is_deleted_only_by_its_name(bench: Bench) -> None:
    bench.done("snapshot client-x --keep", OPERATOR)
    (protected,) = names(bench)
    with pytest.raises(Refused, match=f"did you mean `{protected}`"):
        bench.answer(f"prune client-x {protected}0", OPERATOR)
    assert bench.done(f'prune client-x "{protected}, {protected}"', OPERATOR).state == "succeeded"
    assert names(bench) == []


def test_a_snapshot_taken_before_a_restore_is_kept_for_the_days_of_the_policy(bench: Bench) -> None:
    bench.done("snapshot client-x", OPERATOR)
    config = as_labels(taken=int(bench.clock()), why="before restore 1", by=LEAD.id)
    bench.lxd.snapshot("client-x", "s-20270115-080000-1", config=config)
    with pytest.raises(Refused, match="Nothing to delete"):
        bench.answer("prune client-x", OPERATOR)
    assert f"before restore 1, by <@{LEAD.id}> · kept for 7 days" in said(bench.answer("snapshots client-x"))
    bench.clock.move(7 * DAY)
    assert bench.answer("prune client-x", OPERATOR).facts["Deletes"] == "s-20270115-080000-1"


@pytest.mark.parametrize("ahead", [0, 30 * 86_400], ids=["the clock is right", "the clock was ahead"])
def test_a_retry_takes_a_new_snapshot_because_that_of_an_earlier_try_is_too_old(bench: Bench, ahead: float) -> None:
    def fail(moment: str) -> None:
        if moment == "ran 0":
            raise LxdError("LXD could not.")

    bench.clock.set(ahead)
    bench.runner.fault = fail
    failed = bench.done("snapshot client-x", OPERATOR)
    bench.runner.fault = lambda moment: None
    bench.clock.set(-ahead)
    bench.clock.move(60)
    recovery.retry(bench.context.operations, failed, LEAD.id)
    bench.finish()
    assert len(bench.lxd.snapshots("client-x")) == 2


def test_a_snapshot_that_cannot_be_deleted_fails_the_prune_and_is_deleted_by_the_retry(bench: Bench) -> None:
    for _ in range(3):
        bench.done("snapshot client-x", OPERATOR)
    bench.lxd.fail_next("delete_snapshot", LxdError("LXD could not delete it: busy."))
    failed = bench.done("prune client-x", OPERATOR)
    assert (failed.state, failed.outcome) == ("failed", "LXD could not delete it: busy.")
    recovery.retry(bench.context.operations, failed, LEAD.id)
    bench.finish()
    assert len(names(bench)) == 1


def test_a_purge_deletes_an_archive_for_good(bench: Bench) -> None:
    with pytest.raises(Refused, match="There is no old copy of `client-x`"):
        bench.answer("purge client-x", OPERATOR)
    bench.done("delete client-x", OPERATOR)
    done = bench.done("purge client-x", OPERATOR)
    assert done.state == "succeeded"
    assert re.match(r"the archive of <!date\^.*\|2027-01-15 08:00 UTC>", done.plan["remarks"]["It is"])
    assert containers(bench) == set()


def test_a_purge_asks_which_one_of_several_containers_is_meant(bench: Bench) -> None:
    bench.context.operations.number_after(9)
    for number in (7, 9):
        config = as_labels(role="former", tenant="client-x", reason=f"restore {number}", kept_until=1, operation=number)
        bench.lxd.create(f"client-x--{number}", "base", config=config, devices={})
    with pytest.raises(
        Refused,
        match=r"Which old copy\? \(The live `client-x` is not among them.\) Available: `client-x--7` \(replaced by",
    ):
        bench.answer("purge client-x", OPERATOR)
    with pytest.raises(Refused, match="`client-x` is the live `client-x`, which is never purged"):
        bench.answer("purge client-x client-x", OPERATOR)
    assert bench.done("purge client-x client-x--7", OPERATOR).state == "succeeded"
    assert containers(bench) == {"client-x", "client-x--9"}
    assert live(bench)


def test_the_history_leaves_out_maintenance_until_it_is_asked_for(bench: Bench) -> None:
    plan = bench.answer("snapshot client-x")
    bench.context.operations.request(
        "snapshot", plan, requester="system", channel="", request_key="k", hours=1, approved=True
    )
    bench.finish()
    assert "snapshot `client-x`" not in said(bench.answer("history"))
    assert "snapshot `client-x`" in said(bench.answer("history client-x --all"))
