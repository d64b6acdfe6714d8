"""`/mautic rollback`: back to the container from before an upgrade, with opt-outs and deletions since then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.edge.probe import Probe
from bot.engine.consent import FEW
from bot.guest import simulated_state as simulated_tenant
from bot.guest.consent import Consent, Withdrawn
from bot.guest.mautic import CLOSED, MUTE
from bot.lxd.protocol import LxdError
from bot.model.labels import label_of
from bot.model.plan import Refused
from tests.bot.test_durability import Death, Killed, World, kill_in_call
from tests.support.bot import LEAD, OPERATOR, Bench, add_releases, containers, live, make_bench
from tests.support.simulated_lxd import SimulatedLxd

PEOPLE = {1: "ann@x.test", 2: "ben@x.test", 3: "cy@x.test"}
OLD, NEW = "5.2.12+double", "6.0.10+double"
FINAL = b'"final": true'
PRESENT, COPY = "client-x--3", "client-x--4"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench with a tenant that was upgraded an hour ago."""
    made = make_bench(tmp_path)
    add_releases(made, "6.0.10")
    assert made.done("new client-x").state == "succeeded"
    change(made, "client-x", people=PEOPLE)
    for text in ("rehearse client-x", "upgrade client-x"):
        assert made.done(text, OPERATOR).state == "succeeded"
    made.clock.move(3600)
    return made


def change(bench: Bench, instance: str, **fields: Any) -> None:
    simulated_tenant.change(bench.lxd, instance, **fields)


def state(bench: Bench, instance: str) -> simulated_tenant.State:
    return simulated_tenant.read(bench.lxd, instance)


def opts_out(bench: Bench, contact: int, channel: str = "email") -> None:
    said = state(bench, PRESENT).opted_out
    change(bench, PRESENT, opted_out=[*said, (contact, channel, 1, bench.clock())])


def erase(bench: Bench, *contacts: int) -> None:
    now = state(bench, PRESENT)
    people = {contact: email for contact, email in now.people.items() if contact not in contacts}
    erased = [*now.erased, *((contact, bench.clock()) for contact in contacts)]
    change(bench, PRESENT, people=people, erased=erased)


def during(bench: Bench, key: str, work: Any) -> None:
    """Call `work` when the step `key` begins."""

    def fault(moment: str) -> None:
        running = bench.context.operations.select("state = 'running'")
        if running and moment == f"started {[step.key for step in running[0].steps].index(key)}":
            work()

    bench.runner.fault = fault


def test_a_copy_of_the_earlier_container_serves_and_both_originals_are_kept(bench: Bench) -> None:
    done = bench.done("rollback client-x", OPERATOR)
    assert done.state == "succeeded", done.outcome
    tenant = bench.context.fleet.tenant("client-x")
    assert (tenant.instance, tenant.version) == (COPY, OLD)
    assert live(bench)
    assert containers(bench) == {"client-x", PRESENT, COPY}
    config = bench.lxd.instance(COPY).config
    assert [label_of(config, name) for name in ("role", "kept-until", "retired", "replaced-by", "reason")] == [
        "tenant", "", "", "", "",
    ]  # fmt: skip
    for name, command in (("client-x", "upgrade 3"), (PRESENT, "rollback 4")):
        kept = bench.lxd.instance(name)
        assert (kept.running, label_of(kept.config, "role"), label_of(kept.config, "reason")) == (
            False,
            "former",
            command,
        )
    assert label_of(bench.lxd.instance(PRESENT).config, "version") == NEW
    assert [label_of(one.config, "why") for one in bench.lxd.snapshots(PRESENT)] == [f"before rollback {done.id}"]


def test_the_card_says_how_long_the_snapshots_since_the_upgrade_are_kept(bench: Bench) -> None:
    assert "Existing snapshots" not in bench.answer("rollback client-x", OPERATOR).remarks
    for _ in range(2):
        bench.clock.move(60)
        assert bench.done("snapshot client-x", OPERATOR).state == "succeeded"
    until = bench.context.renderer.moment(bench.clock() + 7 * 86_400)
    told = bench.answer("rollback client-x", OPERATOR).remarks["Existing snapshots"]
    assert told == f"2 stay in the previous container until {until}"


def test_opt_outs_and_deletions_since_the_upgrade_are_carried_back(bench: Bench) -> None:
    opts_out(bench, 1)
    erase(bench, 2)
    plan = bench.answer("rollback client-x", OPERATOR)
    assert plan.remarks["Carried back"] == "1 opt-out, 1 deleted contact (so far)"
    done = bench.done("rollback client-x", OPERATOR)
    assert "1 opt-out, 1 deleted contact carried back" in done.step("beside").note
    now = state(bench, COPY)
    assert [found[:3] for found in now.opted_out] == [(1, "email", 1)]
    assert set(now.people) == {1, 3}
    assert state(bench, "client-x").people == PEOPLE, "the retired container is unchanged"
    assert not bench.context.fleet.tenant("client-x").outbound_off


def test_opt_outs_and_deletions_until_the_cutover_are_carried_back_too(bench: Bench) -> None:
    opts_out(bench, 1)
    asked = bench.approve(bench.ask("rollback client-x", OPERATOR))

    def said_now() -> None:
        opts_out(bench, 3)
        erase(bench, 2)

    during(bench, "change", said_now)
    bench.finish()
    ended = bench.context.operations.get(asked.id)
    assert ended.step("change").note == "1 opt-out, 1 deleted contact carried back"
    assert sorted(found[0] for found in state(bench, COPY).opted_out) == [1, 3]
    assert set(state(bench, COPY).people) == {1, 3}


def test_opt_outs_are_read_a_last_time_when_both_containers_are_closed(bench: Bench) -> None:
    """Unfinished requests of visitors are ended before that."""
    seen: list[tuple[str, bool, bool]] = []
    speak = bench.lxd.speak

    def listening(lxd: SimulatedLxd, name: str, command: list[str], sent: bytes) -> Iterator[bytes]:
        closed = [
            CLOSED in bench.lxd.world.machines[one].files for one in (PRESENT, COPY) if one in bench.lxd.world.machines
        ]
        seen.append((f"{command[-1]} {name}{' final' if FINAL in sent else ''}", *closed))  # type: ignore[arg-type]
        yield from speak(lxd, name, command, sent)

    bench.lxd.speak = listening
    opts_out(bench, 1)
    during(bench, "change", lambda: opts_out(bench, 3))
    assert bench.done("rollback client-x", OPERATOR).state == "succeeded"
    asked = [what for what, *_ in seen]
    assert asked.index(f"stop_work {PRESENT}") < asked.index(f"withdrawals {PRESENT} final")
    assert (f"withdrawals {PRESENT} final", True, True) in seen
    laid = [one for one in seen if one[0] == f"withdraw {COPY}"]
    assert [closed for _, _, closed in laid] == [True, True]


def test_the_copy_sends_no_mail_before_opt_outs_are_carried_back_and_its_page_answers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool, int]] = []
    real = bench.context.edge.probe

    def probe(domain: str) -> Probe:
        files = bench.lxd.world.machines[COPY].files
        seen.append((CLOSED in files, MUTE in files, len(state(bench, COPY).opted_out)))
        return real(domain)

    opts_out(bench, 1)
    monkeypatch.setattr(bench.context.edge, "probe", probe)
    assert bench.done("rollback client-x", OPERATOR).state == "succeeded"
    assert seen == [(False, True, 1)]
    assert MUTE not in bench.lxd.world.machines[COPY].files


def test_the_card_counts_the_data_loss(bench: Bench) -> None:
    change(bench, PRESENT, writes=[("contacts", bench.clock()), ("submissions", bench.clock()), ("contacts", 1.0)])
    plan = bench.answer("rollback client-x", OPERATOR)
    assert plan.remarks["Data loss"] == (
        ":warning: 1 contact, 1 form submission since the upgrade, and all other changes"
    )
    assert (plan.facts["From"], plan.facts["To"]) == (NEW, f"{OLD}, as it was at the upgrade")


def test_mail_that_waited_at_the_upgrade_waits_for_a_decision(bench: Bench) -> None:
    change(bench, "client-x", mails=[1.0])
    bench.done("rollback client-x", OPERATOR)
    assert bench.context.fleet.tenant("client-x").outbound_off
    assert state(bench, COPY).sent == []


def test_waiting_mail_to_people_who_opted_out_is_dropped(bench: Bench) -> None:
    change(bench, "client-x", mails=[1.0, 2.0], addressed=["ann@x.test", "cy@x.test"])
    opts_out(bench, 1)
    done = bench.done("rollback client-x --mail send", OPERATOR)
    assert "1 waiting mail to them dropped" in done.step("beside").note
    assert state(bench, COPY).addressed == ["cy@x.test"]
    assert len(state(bench, COPY).sent) == 1
    assert not bench.context.fleet.tenant("client-x").outbound_off


def test_outbound_mail_that_is_off_stays_off(bench: Bench) -> None:
    bench.done("mail client-x off", OPERATOR)
    done = bench.done("rollback client-x", OPERATOR)
    assert done.state == "succeeded"
    assert bench.context.fleet.tenant("client-x").outbound_off


def test_an_implausible_number_of_deletions_is_reported_and_not_carried_back(bench: Bench) -> None:
    """The upgrade may have deleted them, or the rows are false. The opt-out is carried back, and no mail goes out."""
    people = dict(PEOPLE) | {number: f"n{number}@x.test" for number in range(10, 11 + FEW)}
    change(bench, "client-x", people=people)
    change(bench, PRESENT, people=people, contacts=len(people))
    erase(bench, *range(10, 11 + FEW))
    opts_out(bench, 1)
    plan = bench.answer("rollback client-x", OPERATOR)
    told = f"{FEW + 1} deleted contacts since the upgrade, over 20% of all contacts, not carried back"
    assert plan.remarks["Carried back"] == f":warning: {told}; outbound mail stays off"
    done = bench.done("rollback client-x --mail send", OPERATOR)
    assert told in done.step("change").note
    assert set(state(bench, COPY).people) == set(people)
    assert [found[0] for found in state(bench, COPY).opted_out] == [1]
    assert bench.context.fleet.tenant("client-x").outbound_off


def test_a_hundred_deletions_are_always_plausible(bench: Bench) -> None:
    people = {number: f"n{number}@x.test" for number in range(10, 10 + FEW)}
    change(bench, "client-x", people=people)
    change(bench, PRESENT, people=people, contacts=len(people))
    erase(bench, *people)
    bench.done("rollback client-x", OPERATOR)
    assert state(bench, COPY).people == {}
    assert not bench.context.fleet.tenant("client-x").outbound_off


@pytest.mark.parametrize("how", ["refuses", "stopped"])
def test_a_container_that_cannot_be_asked_is_rolled_back_and_no_mail_goes_out(bench: Bench, how: str) -> None:
    """An upgrade that broke the database is a reason to roll back."""
    opts_out(bench, 1)
    change(bench, PRESENT, **({"refuses": ["withdrawals"]} if how == "refuses" else {"stopped": ["mariadb"]}))
    plan = bench.answer("rollback client-x", OPERATOR)
    assert plan.remarks["Carried back"] == (
        ":warning: opt-outs and deletions (client-x cannot be asked, so they cannot be counted); where they cannot be "
        "read, outbound mail stays off"
    )
    done = bench.done("rollback client-x --mail send", OPERATOR)
    assert done.state == "succeeded", done.outcome
    assert "could not all be read" in done.step("change").note
    assert bench.context.fleet.tenant("client-x").outbound_off
    assert live(bench)


def test_opt_outs_that_can_be_read_at_last_need_no_decision(bench: Bench) -> None:
    opts_out(bench, 1)
    change(bench, PRESENT, refuses=["withdrawals"])
    during(bench, "change", lambda: change(bench, PRESENT, refuses=[]))
    done = bench.done("rollback client-x --mail send", OPERATOR)
    assert "could not all be read" in done.step("beside").note
    assert done.step("change").note == "1 opt-out, 0 deleted contacts carried back"
    assert not bench.context.fleet.tenant("client-x").outbound_off


def test_a_stopped_tenant_runs_afterwards(bench: Bench) -> None:
    bench.done("stop client-x", OPERATOR)
    asked = bench.ask("rollback client-x", OPERATOR)
    assert asked.plan["facts"]["Afterwards"] == "client-x runs (stopped now)"
    assert "stopped" in asked.plan["remarks"]["Data loss"]
    bench.approve(asked)
    bench.finish()
    assert bench.context.operations.get(asked.id).state == "succeeded"
    assert live(bench)
    assert bench.context.fleet.tenant("client-x").outbound_off


HOSTILE: tuple[dict[str, Any], ...] = (
    {},
    {"said": [{}]},
    {"now": -1},
    {"said": [{"row": 1, "contact": 1, "email": "ann@x.test", "born": 0, "channel": "email", "reason": 0}]},
    {"erased": [{"contact": "1; DROP TABLE leads", "at": 1}]},
)


@pytest.mark.parametrize("said", HOSTILE)
def test_a_tenant_that_answers_nonsense_is_not_believed_and_no_mail_goes_out(
    bench: Bench, said: dict[str, Any]
) -> None:
    answers(
        bench,
        {"now": 1, "contacts": 9, "opt_outs": 0, "erasures": 0, "said": [], "erased": []} | said if said else said,
    )
    done = bench.done("rollback client-x", OPERATOR)
    assert done.state == "succeeded", done.outcome
    assert "answers nonsense to `withdrawals`" in done.step("change").note
    assert bench.context.fleet.tenant("client-x").outbound_off


def answers(bench: Bench, said: Any) -> None:
    """Let the current container answer every `withdrawals` with this."""

    speak = bench.lxd.speak

    def hostile(lxd: SimulatedLxd, name: str, command: list[str], sent: bytes) -> Iterator[bytes]:
        if command[-1] == "withdrawals":
            told = said(json.loads(sent.partition(b"\n")[0])) if callable(said) else said
            yield json.dumps({"ok": True, **told}).encode()
        else:
            yield from speak(lxd, name, command, sent)

    bench.lxd.speak = hostile


def test_reading_from_a_tenant_whose_rows_never_end_is_given_up(bench: Bench) -> None:
    asked: list[int] = []

    def endless(request: dict[str, Any]) -> dict[str, Any]:
        after = request.get("after", (0, 0))[1]
        asked.append(after)
        assert len(asked) < 20
        rows = [{"contact": after + number, "at": 1} for number in range(1, 2001)]
        return {"now": 1, "contacts": 9, "opt_outs": 0, "erasures": 1, "said": [], "erased": rows}

    answers(bench, endless)
    done = bench.done("rollback client-x", OPERATOR)
    assert "its rows have no end" in done.step("change").note
    assert bench.context.fleet.tenant("client-x").outbound_off


def test_a_failed_rollback_leaves_the_tenant_as_it_was(bench: Bench) -> None:
    opts_out(bench, 1)
    bench.lxd.fail_next("start", LxdError("LXD could not start it."))
    ended = bench.done("rollback client-x", OPERATOR)
    assert (ended.state, ended.outcome) == ("failed", "LXD could not start it.")
    assert containers(bench) == {"client-x", PRESENT}
    assert bench.context.fleet.tenant("client-x").version == NEW
    assert live(bench)


def test_a_copy_that_does_not_accept_opt_outs_does_not_go_live(bench: Bench) -> None:
    opts_out(bench, 1)
    change(bench, "client-x", refuses=["withdraw"])
    ended = bench.done("rollback client-x", OPERATOR)
    assert (ended.state, "does not withdraw" in ended.outcome) == ("failed", True)
    assert bench.context.fleet.tenant("client-x").instance == PRESENT
    assert live(bench)


def test_without_a_container_from_before_an_upgrade_the_refusal_names_restore(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    bench.done("snapshot client-x", OPERATOR)
    bench.done("restore client-x s-20270115-080000-2", OPERATOR)
    with pytest.raises(Refused, match=r"No container from before an upgrade.*/mautic restore client-x <snapshot>"):
        bench.ask("rollback client-x", OPERATOR)


def test_a_rollback_is_not_repeated(bench: Bench) -> None:
    assert bench.done("rollback client-x", OPERATOR).state == "succeeded"
    with pytest.raises(Refused, match="No container from before an upgrade"):
        bench.ask("rollback client-x", OPERATOR)


def test_an_upgrade_after_a_rollback_can_be_rolled_back_to_where_it_began(bench: Bench) -> None:
    bench.done("rollback client-x", OPERATOR)
    for text in ("rehearse client-x", "upgrade client-x"):
        assert bench.done(text, OPERATOR).state == "succeeded"
    plan = bench.answer("rollback client-x", OPERATOR)
    assert plan.values["container"] == COPY


def test_a_request_is_void_if_the_container_is_deleted_before_the_approval(bench: Bench) -> None:
    asked = bench.ask("rollback client-x", OPERATOR)
    bench.lxd.update("client-x", {"security.protection.delete": None})
    bench.lxd.delete("client-x")
    with pytest.raises(Refused, match="No container from before an upgrade"):
        bench.approve(asked)


def test_the_approver_has_to_type_the_name(bench: Bench) -> None:
    asked = bench.ask("rollback client-x", OPERATOR)
    with pytest.raises(Refused, match="type"):
        bench.context.approvals.decide(asked.id, LEAD, "approve", typed_name="", via="test")


def test_the_copy_gets_the_sizes_of_the_current_plan(bench: Bench) -> None:
    bench.done("resize client-x --plan medium", OPERATOR)
    done = bench.done("rollback client-x", OPERATOR)
    copy = f"client-x--{done.id}"
    assert bench.lxd.instance(copy).config["limits.memory"] == "8GiB"
    assert b'"innodb_buffer_pool": "3G"' in bench.lxd.pull(copy, "/var/lib/mautic-ops/resize.json")


@pytest.mark.parametrize("how", ["record", "the call", "the answer"])
def test_a_crash_at_any_moment_loses_no_opt_out_and_no_deletion(tmp_path: Path, how: str) -> None:
    """The bot dies at each record, and in each LXD call, before and after it takes effect."""
    world = World(tmp_path, "rollback")
    whole = Death(10_000)
    bench = world.begin(whole if how == "record" else lambda moment: None)
    if how != "record":
        bench.lxd.on_call = lambda method, arguments: whole(method) and None
    bench.finish()
    for number in range(len(whole.moments)):
        bench = world.begin(Death(number) if how == "record" else lambda moment: None)
        if how != "record":
            kill_in_call(bench, number, after=how == "the answer")
        with pytest.raises(Killed):
            bench.finish()
        again = world.restart(bench)
        assert again.context.fleet.tenant("client-x").instance == COPY, number
        now = state(again, COPY)
        assert ([found[0] for found in now.opted_out], set(now.people)) == ([1], {1}), number
        assert not again.context.fleet.tenant("client-x").outbound_off, number
        again.context.database.close()


def test_a_snapshot_that_a_wrong_clock_dated_ahead_hides_no_opt_out(tmp_path: Path) -> None:
    """Such a snapshot is kept, as the cleanup trusts no single clock. It is older than the upgrade all the same."""
    bench = make_bench(tmp_path)
    add_releases(bench, "6.0.10")
    bench.done("new client-x")
    change(bench, "client-x", people=PEOPLE)
    bench.clock.set(30 * 86_400)
    assert bench.done("snapshot client-x", OPERATOR).state == "succeeded"
    bench.clock.set(-30 * 86_400)
    bench.clock.move(600)
    for text in ("rehearse client-x", "upgrade client-x"):
        assert bench.done(text, OPERATOR).state == "succeeded"
    bench.clock.move(3600)
    upgraded = bench.context.fleet.tenant("client-x").instance
    change(bench, upgraded, opted_out=[(1, "email", 1, bench.clock())])
    bench.clock.move(7200)
    asked = bench.ask("rollback client-x", OPERATOR)
    assert asked.plan["remarks"]["Carried back"].startswith("1 opt-out")
    bench.approve(asked)
    bench.finish()
    back = bench.context.fleet.tenant("client-x").instance
    assert [one[0] for one in state(bench, back).opted_out] == [1]


def test_a_contact_who_may_be_somebody_else_by_now_is_not_deleted_and_no_mail_goes_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore in between may have given the ids of deleted contacts to others."""
    erase(bench, 3)
    monkeypatch.setattr(Consent, "withdraw", lambda _, __, page: Withdrawn(left=len(page.erased)))
    done = bench.done("rollback client-x", OPERATOR)
    assert "1 deleted contact is not deleted again" in done.step("change").note
    assert bench.context.fleet.tenant("client-x").outbound_off
