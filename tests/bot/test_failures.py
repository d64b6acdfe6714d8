"""A step that fails leaves nothing half done and says why in one sentence, and the next attempt works."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.engine import runner
from bot.engine.guards import ANSWERS
from bot.engine.steps import PROBE
from bot.lxd.protocol import LxdError, LxdUnavailable, PoolFull
from bot.model.plan import Refused
from bot.store import audit, recovery
from bot.store.operation import Operation, StepRow
from tests.support.bot import (
    CASES,
    LEAD,
    Bench,
    as_it_was,
    containers,
    events,
    live,
    make_bench,
    make_desk,
    notes,
    until,
)

ERRORS: dict[str, Callable[[], Exception]] = {
    "an error of LXD": lambda: LxdError("LXD could not do it: the moon is full."),
    "a full pool": lambda: PoolFull("LXD could not do it: the storage pool is full."),
    "no LXD": lambda: LxdUnavailable("LXD does not answer."),
    "an unexpected error": lambda: RuntimeError("secret-of-the-house"),
}


READS = ("instance", "instances", "members", "pool", "pull", "snapshots", "state")
HOLDS = ("push", "execute", "instance", "pull", "remove")
"""Calls of LXD that lock writes for a snapshot, or request a page inside. A snapshot does without the lock and says so;
the page is requested again."""
COUNTS_OR_HOLDS = ("snapshot", "restore", "migrate", "stop", "delete", "rehearse", "upgrade", "patch", "rollback")
"""Operations that ask the tenant for something they can do without: `stop` and `delete` count the mail that waits, an
upgrade rebuilds the cache that a rehearsal left, and a rollback leaves mail off if it cannot learn who opted out."""
TOOL = ("push", "execute", "pull", "remove")
CONTAINED = {
    "stop": ("stop",),
    "delete": ("stop",),
    "restart": ("stop",),
    "suspend": TOOL,
    "restore": (*TOOL, "stop"),
    "migrate": ("stop",),
    "patch": ("stop",),
    "upgrade": ("stop",),
    "rollback": ("stop",),
}
"""Calls that may fail without failing the operation: if a tenant does not cooperate, the bot acts from outside."""
LONG = (
    "new",
    "delete",
    "unarchive",
    "suspend",
    "resume",
    "restore",
    "migrate",
    "patch",
    "rehearse",
    "upgrade",
    "rollback",
)
"""Operations of several steps that have something to roll back."""


def prepared(folder: Path, command: str) -> Bench:
    bench = make_bench(folder, members=CASES[command].members)
    CASES[command].prepare(bench)
    return bench


def after(command: str, operation: Operation) -> set[str]:
    """Return the containers after an operation; its number names the candidate, and it may not be the first request."""
    case = CASES[command]
    first, its = (f"client-x--{number}" for number in (len(case.before) + 1, operation.id))
    return {its if name == first else name for name in case.after}


def failing_at(bench: Bench, number: int, error: Exception, *, after: bool) -> list[str]:
    """Make the n-th call of LXD fail; return the list to which each call is added."""
    made: list[str] = []

    def on_call(method: str, arguments: tuple[Any, ...]) -> None:
        made.append(method)
        if len(made) - 1 == number:
            # A read has no answer to lose: it may itself raise an error that the step relies on.
            bench.lxd.fail_next(method, error, after=after and method not in READS)

    bench.lxd.on_call = on_call
    return made


def run(bench: Bench, command: str) -> Operation:
    operation = bench.approve(bench.ask(CASES[command].text, CASES[command].actor))
    return operation


IN_TURN = "each in turn"
"""The kind of error changes with every second call, so that not every call is tried with every kind."""


def tries() -> Iterator[Any]:
    """Yield each operation with each kind of error; for long operations that takes minutes, so it is marked `long`."""
    for command in CASES:
        if command in LONG:
            yield command, IN_TURN
        for kind in ERRORS:
            yield pytest.param(command, kind, marks=[pytest.mark.long] if command in LONG else [])


@pytest.mark.parametrize(("command", "every"), list(tries()))
def test_any_call_of_lxd_may_fail_and_the_next_try_works(
    tmp_path: Path, command: str, every: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = prepared(tmp_path, command)
    number = 0
    while True:
        kind = list(ERRORS)[number // 2 % len(ERRORS)] if every == IN_TURN else every
        operation = run(bench, command)
        made = failing_at(bench, number, ERRORS[kind](), after=bool(number % 2))
        bench.finish()
        bench.lxd.on_call = None
        ended = bench.context.operations.get(operation.id)
        if len(made) <= number:
            break
        at = (command, number, made[number], ended.outcome)
        if ended.state == "succeeded" and command in COUNTS_OR_HOLDS and made[number] in HOLDS:
            if command == "snapshot" and made[number] != "remove":
                assert "crash-consistent only" in ended.steps[0].note, at
            assert live(bench) == CASES[command].live, at
            bench = prepared(tmp_path / str(number), command)
            number += 1
            continue
        asked_beside = {"purge": "instances"}.get(command, "resources")
        looked_for_mail = command in ("upgrade", "patch") and (number, made[number]) == (0, "instances")
        if ended.state == "succeeded" and (made[number] in (asked_beside, "members") or looked_for_mail):
            # The bot could not learn whether the host is overloaded, which container is live so that a purge spares
            # it, or whether mail is going out. It went ahead, and only this one call failed.
            bench = prepared(tmp_path / str(number), command)
            number += 1
            continue
        if ended.state == "succeeded" and (command, kind, made[number]) == ("resize", "a full pool", "update"):
            # A resize is the cure for a full disk: it makes space, and repeats the call.
            bench = prepared(tmp_path / str(number), command)
            number += 1
            continue
        if ended.state == "succeeded" and made[number] in CONTAINED.get(command, ()):
            # The tenant need not cooperate: it was stopped by force, or closed from outside.
            assert containers(bench) == after(command, operation), at
            bench = prepared(tmp_path / str(number), command)
            number += 1
            continue
        if any(step.key == PROBE and step.finished for step in ended.steps):
            # The candidate serves, so only a retry is possible. Nothing waits for a silent source.
            assert ended.state == "needs_attention" or kind == "no LXD", at
            if ended.state == "needs_attention":
                recovery.retry(bench.context.operations, ended, LEAD.id)
                bench.finish()
            assert bench.context.operations.get(operation.id).state == "succeeded", at
            bench = prepared(tmp_path / str(number), command)
            number += 1
            continue
        assert ended.state == "failed", at
        if command in ("prune", "purge"):
            # What was deleted does not come back, so a retry continues.
            recovery.retry(bench.context.operations, ended, LEAD.id)
            bench.finish()
            assert bench.context.operations.get(operation.id).state == "succeeded", at
            assert containers(bench) == CASES[command].after, at
            bench = prepared(tmp_path / str(number), command)
            number += 1
            continue
        assert as_it_was(bench, CASES[command]), at
        assert events(bench, ended)[-1] == "operation.failed", at
        assert re.search(rf"<@{CASES[command].actor.id}>, \*.+\* failed", notes(bench, ended)[-1])
        if kind == "an unexpected error":
            assert re.fullmatch(r"Something unexpected happened \(error [0-9a-f]{8} in the log\)\.", ended.outcome)
            assert ended.error_id in caplog.text
            assert "secret-of-the-house" not in ended.outcome
        else:
            # LXD reports a full pool; to the tool inside it is the tenant's own disk that is full.
            inside = re.fullmatch(r"Inside `client-x(--\d+)?`: its disk is full\.", ended.outcome)
            reason = str(ERRORS[kind]())
            assert ended.outcome in (reason, f"{reason} {ANSWERS}") or (inside and kind == "a full pool"), at
            assert not ended.error_id
        bench.lxd.forgive()
        number += 1
    # `tag` makes the fewest calls: it reads, and writes the labels.
    assert number >= 2
    assert ended.state == "succeeded"
    assert containers(bench) == CASES[command].after


@pytest.mark.parametrize("command", LONG)
def test_a_retry_continues_under_the_existing_approval(tmp_path: Path, command: str) -> None:
    bench = prepared(tmp_path, command)
    operation = run(bench, command)
    if call := {"restore": "copy", "suspend": "isolate"}.get(command):
        bench.lxd.fail_next(call, LxdError("LXD could not."), after=True)
    else:
        failing_at(bench, 6, LxdError("LXD could not."), after=True)
    bench.finish()
    bench.lxd.on_call = None
    assert bench.context.operations.get(operation.id).state == "failed"
    recovery.retry(bench.context.operations, bench.context.operations.get(operation.id), LEAD.id)
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "succeeded"
    assert containers(bench) == CASES[command].after
    assert live(bench) == CASES[command].live


def goes_away_in_its_second_step(bench: Bench, operation: Operation) -> None:
    """Make LXD silent as soon as the second step of the operation has started."""

    def down(method: str, _: tuple[Any, ...]) -> None:
        if bench.context.operations.get(operation.id).steps[1].started:
            raise LxdUnavailable("LXD does not answer.")

    bench.lxd.on_call = down


@pytest.mark.parametrize("command", LONG)
@pytest.mark.parametrize("way", ["retry", "undo"])
def test_an_operation_whose_rollback_failed_needs_attention_and_can_be_retried_or_undone(
    tmp_path: Path, command: str, way: str
) -> None:
    bench = prepared(tmp_path, command)
    desk = make_desk(bench)
    operation = run(bench, command)

    goes_away_in_its_second_step(bench, operation)
    bench.finish()
    stuck = bench.context.operations.get(operation.id)
    assert stuck.state == "needs_attention"
    assert stuck.outcome == ("LXD does not answer. Rollback failed: LXD does not answer.")
    with pytest.raises(Refused, match="needs action first"):
        bench.context.operations.refuse_if_busy("client-x")
    desk.click("undo", operation.id)
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "needs_attention", "LXD is still down"
    assert notes(bench, operation)[-1].startswith(f":rotating_light: <@{LEAD.id}>, the rollback failed")
    bench.lxd.on_call = None
    desk.click(way, operation.id)
    bench.finish()
    ended = bench.context.operations.get(operation.id)
    if way == "undo":
        assert ended.state == "cancelled"
        assert as_it_was(bench, CASES[command])
        assert events(bench, ended)[-1] == "operation.undone"
    else:
        assert ended.state == "succeeded"
        assert containers(bench) == CASES[command].after


@pytest.mark.parametrize("command", LONG)
def test_a_retry_while_the_host_is_still_silent_needs_attention_again(tmp_path: Path, command: str) -> None:
    bench = prepared(tmp_path, command)
    operation = run(bench, command)

    goes_away_in_its_second_step(bench, operation)
    bench.finish()

    def still_down(*_: Any) -> None:
        raise LxdUnavailable("LXD does not answer.")

    bench.lxd.on_call = still_down
    recovery.retry(bench.context.operations, bench.context.operations.get(operation.id), LEAD.id)
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "needs_attention", "what it had begun is still there"


@pytest.mark.parametrize("command", ["snapshot", "prune"])
def test_an_operation_that_leaves_nothing_half_done_fails_if_its_host_is_silent_after_a_crash(
    tmp_path: Path, command: str
) -> None:
    bench = prepared(tmp_path, command)
    operation = run(bench, command)

    def dies(moment: str) -> None:
        if moment == "started 0":
            raise KeyboardInterrupt

    bench.runner.fault = dies
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    recovery.recover(bench.context.operations)

    def still_down(*_: Any) -> None:
        raise LxdUnavailable("LXD does not answer.")

    bench.lxd.on_call = still_down
    bench.finish()
    ended = bench.context.operations.get(operation.id)
    assert (ended.state, ended.outcome) == ("failed", "LXD does not answer.")


@pytest.mark.parametrize("command", ["restore", "migrate", "upgrade", "rollback"])
def test_once_clients_are_served_neither_retry_nor_undo_removes_the_new_container(tmp_path: Path, command: str) -> None:
    bench = prepared(tmp_path, command)
    operation = run(bench, command)
    candidate = f"client-x--{operation.id}"

    def steps() -> dict[str, StepRow]:
        return {step.key: step for step in bench.context.operations.get(operation.id).steps}

    def failing_once(now: Callable[[], bool]) -> None:
        def on_call(*_: Any) -> None:
            if now():
                bench.lxd.on_call = None
                raise LxdError("LXD could not.")

        bench.lxd.on_call = on_call
        bench.finish()

    failing_once(lambda: bool(steps()[PROBE].finished))
    bench.lxd.push(candidate, "/what-a-client-wrote", b"a contact")
    recovery.retry(bench.context.operations, bench.context.operations.get(operation.id), LEAD.id)
    failing_once(lambda: bool(next(iter(steps().values())).started))
    assert bench.context.operations.get(operation.id).state == "needs_attention"
    recovery.undo(bench.context.operations, operation, LEAD.id)
    bench.finish()
    assert bench.lxd.pull(candidate, "/what-a-client-wrote") == b"a contact"


@pytest.mark.parametrize("command", ["suspend", "migrate"])
def test_a_started_operation_ends_though_its_container_stopped_meanwhile(tmp_path: Path, command: str) -> None:
    bench = prepared(tmp_path, command)
    operation = run(bench, command)

    def cut(moment: str) -> None:
        if moment == "recorded 0":
            raise KeyboardInterrupt

    bench.runner.fault = cut
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    bench.lxd.stop("client-x", force=True)
    recovery.recover(bench.context.operations)
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "succeeded"
    assert live(bench) == CASES[command].live, "it is closed, or runs on its new host"


def test_a_crash_with_lxd_not_up_yet_leaves_no_orphan(tmp_path: Path) -> None:
    bench = prepared(tmp_path, "new")
    operation = run(bench, "new")
    failing_at(bench, 8, KeyboardInterrupt(), after=True)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    bench.lxd.on_call = None
    recovery.recover(bench.context.operations)
    bench.lxd.fail_next("instances", LxdUnavailable("LXD does not answer."))
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "needs_attention"
    recovery.undo(bench.context.operations, operation, LEAD.id)
    bench.finish()
    assert containers(bench) == set()


def test_a_retry_fails_if_somebody_else_created_the_tenant_meanwhile(tmp_path: Path) -> None:
    bench = prepared(tmp_path, "new")
    bench.lxd.fail_next("start", LxdError("LXD could not."))
    failed = bench.done("new client-x")
    waiting = bench.ask("new client-x", LEAD)
    with pytest.raises(Refused, match=f"locked by request #{waiting.id}"):
        recovery.retry(bench.context.operations, failed, LEAD.id)
    bench.context.approvals.cancel(waiting.id, LEAD)
    assert bench.done("new client-x").state == "succeeded"
    recovery.retry(bench.context.operations, failed, LEAD.id)
    bench.finish()
    again = bench.context.operations.get(failed.id)
    assert (again.state, "Tenant `client-x` already exists" in again.outcome) == ("failed", True)
    assert containers(bench) == {"client-x"}, "the other person's tenant is still there"
    assert live(bench)


def test_only_a_failed_operation_can_be_retried(tmp_path: Path) -> None:
    bench = prepared(tmp_path, "new")
    with pytest.raises(Refused, match="has not failed"):
        recovery.retry(bench.context.operations, bench.done("new client-x"), LEAD.id)


def test_a_plan_that_changed_between_approval_and_run_does_not_run(tmp_path: Path) -> None:
    bench = prepared(tmp_path, "new")
    operation = run(bench, "new")
    plans = bench.context.settings.plans
    plans["small"] = replace(plans["small"], cpu=7)  # type: ignore[index]
    bench.finish()
    ended = bench.context.operations.get(operation.id)
    assert (ended.state, "no longer matches what was approved" in ended.outcome) == ("failed", True)
    assert containers(bench) == set()


def test_a_new_version_of_the_bot_with_other_steps_does_not_continue_the_operation(tmp_path: Path) -> None:
    bench = prepared(tmp_path, "new")
    operation = run(bench, "new")
    failing_at(bench, 8, KeyboardInterrupt(), after=True)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    bench.lxd.on_call = None
    with bench.context.database.transaction() as transaction:
        transaction.execute("DELETE FROM steps WHERE operation = ? AND position >= 3", (operation.id,))
        transaction.execute("UPDATE operations SET fingerprint = 'of other steps'")
    recovery.recover(bench.context.operations)
    bench.finish()
    ended = bench.context.operations.get(operation.id)
    assert (ended.state, "no longer matches" in ended.outcome) == ("failed", True)
    assert containers(bench) == set()


def test_an_operation_waits_for_a_database_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = prepared(tmp_path, "new")
    operation = run(bench, "new")
    monkeypatch.setattr(runner, "PAUSE", 0.01)
    real, calls = audit.record, iter(range(1000))

    def often_full(*arguments: Any) -> str:
        if next(calls) % 2:
            raise sqlite3.OperationalError("database or disk is full")
        return real(*arguments)

    monkeypatch.setattr(audit, "record", often_full)
    bench.finish()
    monkeypatch.undo()
    ended = bench.context.operations.get(operation.id)
    assert ended.state == "succeeded", ended.outcome
    seen = events(bench, ended)
    assert (seen.count("step.started"), seen.count("step.finished")) == (5, 5)
    assert not audit.verify(bench.context.database).broken


def test_a_person_is_told_that_the_database_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = make_desk(prepared(tmp_path, "new"))

    def full(*_: Any) -> str:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(audit, "record", full)
    monkeypatch.setattr("bot.store.inbox.PAUSE", 0.01)
    payload = {"user": "U0ACCOUNT", "team": "T0OURS", "channel": "C0OPS", "text": "new client-x", "trigger_id": "1.2"}
    desk.inbox.put("command", "1", payload)
    until(lambda: bool(desk.slack.to("U0ACCOUNT")))
    monkeypatch.undo()
    desk.inbox.stop()
    assert desk.slack.to("U0ACCOUNT") == [
        ":hourglass: My database can't be written right now. I'll do what you sent as soon as possible within 5 min, "
        "or tell you that I did not."
    ]
    assert desk.last().tenant == "client-x"


def test_an_unexpected_error_in_a_command_shows_an_id_that_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk(prepared(tmp_path, "new"))
    desk.bench.lxd.fail_next("instances", RuntimeError("secret-of-the-house"))
    with caplog.at_level(logging.ERROR):
        desk.command("list")
    (said,) = desk.slack.to("U0ACCOUNT")
    identity = re.fullmatch(r":warning: Something unexpected happened \(error ([0-9a-f]{8}) in the log\)\.", said)
    assert identity
    assert identity[1] in caplog.text
    row = audit.recent(desk.bench.context.database, limit=1)[0]
    assert (row["event"], row["actor"], identity[1] in row["detail"]) == ("command.refused", "U0ACCOUNT", True)
