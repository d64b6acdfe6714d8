"""Mail that waits when a tenant runs again is counted, then sent, dropped or kept, as was decided."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bot.engine import outbound
from bot.guest import simulated as simulated_tenant
from bot.lxd.protocol import LxdError
from bot.model.labels import as_labels, label_of
from bot.model.plan import Refused
from bot.store import recovery
from bot.store.operation import Operation
from tests.support.bot import LEAD, LEAD_2, OPERATOR, Bench, Desk, add_blueprint, make_bench, make_desk, notes
from tests.support.simulated_lxd import SimulatedLxd

SNAPSHOT = "s-20270115-080000-2"
DAY = 86_400
HOLDERS = ("resume", "start", "unarchive")


def bench_in(folder: Path, **environment: str) -> Bench:
    """Return a bench with a tenant, whose LXD uses the bench's clock."""
    benches: list[Bench] = []
    lxd = SimulatedLxd(clock=lambda: benches[0].clock() if benches else 1_800_000_000.0)
    add_blueprint(lxd)
    made = make_bench(folder, lxd, **environment)
    benches.append(made)
    made.done("new client-x")
    return made


@pytest.mark.parametrize(("waits", "said"), [(0, "none waiting"), (2, "2 waiting (2 in the queue)")])
def test_mail_that_could_not_be_counted_in_time_is_mentioned(tmp_path: Path, waits: int, said: str) -> None:
    context = make_bench(tmp_path).context
    kinds = {"queue": waits, "messages": 0, "events": 0}
    found = {"waits": waits, "oldest": 0, "kinds": kinds}
    unknown = f"{said}; mail of segment emails could not be counted in time"
    assert outbound.told(context, found) == unknown
    assert outbound.told(context, found | {"kinds": kinds | {"broadcasts": 0}}) == said
    assert "sends the waiting mail now" in outbound.to_turn_on("/mautic mail client-x", found)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return bench_in(tmp_path)


@pytest.fixture
def desk(bench: Bench) -> Desk:
    return make_desk(bench)


def state(bench: Bench) -> simulated_tenant.State:
    """Return the state inside the container that serves."""
    return simulated_tenant.read(bench.lxd, bench.context.fleet.tenant("client-x").instance)


def wait(bench: Bench, *due: float, instance: str = "client-x") -> None:
    """Let mail come due at these times."""
    simulated_tenant.change(bench.lxd, instance, mails=[*simulated_tenant.read(bench.lxd, instance).mails, *due])


def look(bench: Bench) -> dict[str, Any]:
    """Run the health check inside, as the sweep does: mail that nothing holds back has been sent by then."""
    tenant = bench.context.fleet.tenant("client-x")
    limits = bench.context.settings.health
    return bench.context.fleet.of(tenant).mautic.health(tenant.instance, limits)


def off(bench: Bench) -> bool:
    """Return whether outbound mail is off, after checking that the label and the tenant agree."""
    found = bench.context.fleet.tenant("client-x").outbound_off
    assert bool(look(bench)["facts"]["outbound_off"]) == found
    return found


def with_thirty(bench: Bench) -> None:
    """Let thirty mails wait while a snapshot is taken, and be sent after it."""
    wait(bench, *[bench.clock() + 60] * 30)
    assert bench.done("snapshot client-x", OPERATOR).state == "succeeded"
    bench.clock.move(3600)
    look(bench)
    assert len(state(bench).sent) == 30


def restored(bench: Bench, choice: str = "", words: str = "") -> Operation:
    operation = bench.ask(f"restore client-x {SNAPSHOT}{words}", OPERATOR)
    bench.context.approvals.decide(operation.id, LEAD, "approve", typed_name="client-x", choice=choice, via="test")
    bench.finish()
    done = bench.context.operations.get(operation.id)
    assert done.state == "succeeded", done.outcome
    look(bench)
    return done


def test_the_card_of_a_restore_counts_mail_that_may_be_sent_again(bench: Bench) -> None:
    with_thirty(bench)
    plan = bench.answer(f"restore client-x {SNAPSHOT}", OPERATOR)
    assert plan.remarks["Mail"] == (
        "30 e-mails sent since the snapshot may be sent again, and so may e-mails that were waiting when it was taken. "
        "Now: none waiting"
    )
    assert "outbound mail stays off" in plan.remarks["Without a choice"]


@pytest.mark.parametrize(
    ("choice", "sent", "dropped", "held", "told"),
    [
        ("send", 30, 0, False, "outbound mail is on; 30 waiting (30 in the queue)"),
        ("drop", 0, 30, False, "30 dropped (to put back: `/mautic mail client-x back`)"),
        ("off", 0, 0, True, "outbound mail is off; 30 waiting (30 in the queue)"),
        ("", 0, 0, True, "outbound mail is off; 30 waiting (30 in the queue)"),
    ],
)
def test_mail_that_waits_in_a_snapshot_is_sent_only_if_the_approver_says_so(
    bench: Bench, choice: str, sent: int, dropped: int, held: bool, told: str
) -> None:
    with_thirty(bench)
    done = restored(bench, choice)
    after = state(bench)
    assert (len(after.sent), len(after.dropped), off(bench)) == (sent, dropped, held)
    assert str(done.steps[0].note).startswith(told)
    assert told in notes(bench, done)[-1]
    (row,) = bench.context.database.read(
        "SELECT detail FROM audit WHERE event = 'operation.approved' AND operation = 3"
    )
    assert json.loads(row["detail"]).get("choice", "") == choice


def test_a_restore_without_waiting_mail_leaves_outbound_mail_on(bench: Bench) -> None:
    bench.done("snapshot client-x", OPERATOR)
    assert "mail" not in restored(bench).steps[0].note
    assert not off(bench)


def test_outbound_mail_stays_off_over_a_restore_a_restart_and_a_stop(bench: Bench) -> None:
    bench.done("snapshot client-x", OPERATOR)
    assert bench.done("mail client-x off", OPERATOR).state == "succeeded"
    restored(bench)
    assert off(bench)
    for text in ("restart client-x", "stop client-x", "start client-x"):
        assert bench.done(text, OPERATOR).state == "succeeded"
        wait(bench, bench.clock(), instance="client-x--4")
    assert (off(bench), state(bench).sent) == (True, [])


def test_the_requester_proposes_and_the_approver_has_the_last_word(bench: Bench) -> None:
    with_thirty(bench)
    assert len(state(bench).sent) == 30
    operation = bench.ask(f"restore client-x {SNAPSHOT} --mail send", OPERATOR)
    assert operation.chosen == "send"
    bench.context.approvals.decide(operation.id, LEAD, "approve", typed_name="client-x", choice="drop", via="test")
    bench.finish()
    look(bench)
    assert (len(state(bench).sent), len(state(bench).dropped)) == (0, 30)


def stand_still(bench: Bench, command: str, seconds: float, *, mails: int = 500) -> None:
    """Keep the tenant offline for so many seconds with waiting mail, in the state from which `command` starts."""
    before = {"resume": "suspend client-x", "start": "stop client-x", "unarchive": "delete client-x"}[command]
    assert bench.done(before, OPERATOR).state == "succeeded"
    instance = "client-x--archived" if command == "unarchive" else "client-x"
    wait(bench, *[bench.clock() + 1] * mails, instance=instance)
    bench.clock.move(seconds)


@pytest.mark.parametrize("command", HOLDERS)
def test_mail_from_weeks_ago_is_not_sent_without_a_decision(bench: Bench, command: str) -> None:
    stand_still(bench, command, 20 * DAY)
    done = bench.done(f"{command} client-x", OPERATOR)
    assert done.state == "succeeded", done.outcome
    assert (state(bench).sent, off(bench)) == ([], True)
    assert "outbound mail is off; 500 waiting (500 in the queue)" in notes(bench, done)[-1]
    assert "outbound mail off" in bench.answer("list").text + str(bench.answer("list").blocks)
    status = str(bench.answer("status client-x").blocks)
    assert "`/mautic mail client-x send` (sends the waiting mail now) or `/mautic mail client-x drop`" in status
    assert "500 e-mails waiting" in status


@pytest.mark.parametrize("command", HOLDERS)
def test_recent_mail_is_sent_without_a_decision(bench: Bench, command: str) -> None:
    stand_still(bench, command, 600)
    assert bench.done(f"{command} client-x", OPERATOR).state == "succeeded"
    assert (off(bench), len(state(bench).sent)) == (False, 500)


@pytest.mark.parametrize("command", HOLDERS)
@pytest.mark.parametrize(("choice", "sent", "dropped"), [("send", 500, 0), ("drop", 0, 500), ("off", 0, 0)])
def test_the_requester_may_choose_what_happens_to_waiting_mail(
    bench: Bench, command: str, choice: str, sent: int, dropped: int
) -> None:
    stand_still(bench, command, 20 * DAY)
    assert bench.done(f"{command} client-x --mail {choice}", OPERATOR).state == "succeeded"
    assert off(bench) == (choice == "off")
    assert (len(state(bench).sent), len(state(bench).dropped)) == (sent, dropped)


def test_waiting_mail_is_counted_before_a_stop(bench: Bench) -> None:
    bench.done("mail client-x off", OPERATOR)
    wait(bench, *[bench.clock()] * 7)
    bench.done("stop client-x", OPERATOR)
    told = bench.answer("start client-x", OPERATOR).remarks["Mail"]
    assert re.match(r"when stopped, <!date\^.*\|2027-01-15 08:00 UTC>: 7 waiting \(7 in the queue\)", told)


def test_a_failed_start_of_a_crashed_tenant_does_not_leave_outbound_mail_off(bench: Bench) -> None:
    bench.lxd.stop("client-x")
    operation = bench.ask("start client-x", OPERATOR)
    bench.lxd.fail_next("start", LxdError("LXD could not."))
    bench.finish()
    assert bench.context.operations.get(operation.id).state == "failed"
    bench.lxd.start("client-x")
    wait(bench, bench.clock())
    look(bench)
    assert len(state(bench).sent) == 1


def test_the_mail_command_turns_mail_off_drops_it_puts_it_back_and_sends_it(bench: Bench) -> None:
    assert bench.done("mail client-x off", OPERATOR).state == "succeeded"
    wait(bench, *[bench.clock()] * 3)
    assert off(bench)
    with pytest.raises(Refused, match="is already off"):
        bench.answer("mail client-x off", OPERATOR)
    dropped = bench.done("mail client-x drop", OPERATOR)
    assert "3 dropped" in notes(bench, dropped)[-1]
    assert (off(bench), state(bench).sent, len(state(bench).dropped)) == (False, [], 3)
    back = bench.done("mail client-x back", OPERATOR)
    assert "outbound mail is off; 3 wait" in notes(bench, back)[-1]
    assert (off(bench), len(state(bench).mails), state(bench).dropped) == (True, 3, [])
    bench.done("mail client-x send", OPERATOR)
    assert (off(bench), len(state(bench).sent)) == (False, 3)


@pytest.mark.parametrize("before", [False, True])
def test_a_failed_decision_is_rolled_back(bench: Bench, before: bool) -> None:
    bench.done("mail client-x off", OPERATOR)
    wait(bench, bench.clock())
    if not before:
        bench.done("mail client-x send", OPERATOR)
    bench.runner.fault = lambda moment: (_ for _ in ()).throw(LxdError("LXD could not.")) if moment == "ran 0" else None
    failed = bench.done("mail client-x drop", OPERATOR)
    assert failed.state == "failed"
    assert off(bench) == before
    assert state(bench).dropped == []


def test_a_stopped_tenant_is_refused_with_the_start_command_to_use(bench: Bench) -> None:
    bench.done("stop client-x", OPERATOR)
    with pytest.raises(Refused, match=r"use `/mautic start client-x --mail drop`"):
        bench.answer("mail client-x drop", OPERATOR)


# -- how the approver chooses -------------------------------------------------------------------------------------


def asked(desk: Desk) -> Operation:
    with_thirty(desk.bench)
    desk.command(f"restore client-x {SNAPSHOT}", OPERATOR)
    desk.announce()
    return desk.last()


def test_the_card_has_a_button_for_each_choice_and_the_dialog_preselects_it(desk: Desk) -> None:
    operation = asked(desk)
    card = next(one for one in reversed(desk.slack.said) if one["ts"] == operation.message_ts)
    shown = [element["action_id"] for block in card["blocks"] for element in block.get("elements", [])
             if "action_id" in element]  # fmt: skip
    assert shown == ["approve_send", "approve_drop", "approve_off", "deny"]
    desk.click("approve_drop", operation.id)
    view = desk.slack.views[-1]
    assert view["blocks"][-1]["element"]["initial_option"]["value"] == "drop"
    desk.submit("typed_name", {"operation": operation.mark}, LEAD, name="client-x", choice="off")
    assert desk.last().state == "queued"
    assert desk.last().chosen == "off"


@pytest.mark.parametrize("words", ["approve client-x drop", "Approved client-x DROP!"])
def test_a_typed_reply_can_choose(desk: Desk, words: str) -> None:
    operation = asked(desk)
    desk.reply(words, operation.id)
    assert (desk.last().state, desk.last().chosen) == ("queued", "drop")
    desk.announce()
    assert ":white_check_mark: <@U0OPSLEAD> approved: drop waiting mail. Starting now." in notes(desk.bench, operation)


def test_a_reply_needs_only_the_choice_where_no_name_is_required(desk: Desk) -> None:
    stand_still(desk.bench, "unarchive", 20 * DAY)
    desk.command("unarchive client-x", OPERATOR)
    desk.announce()
    desk.reply("approve off", desk.last().id)
    assert (desk.last().state, desk.last().chosen) == ("queued", "off")


@pytest.mark.parametrize("words", ["approve 3 client-x drop", "approve 3 client-x DROP"])
def test_the_approve_command_can_choose(desk: Desk, words: str) -> None:
    asked(desk)
    desk.command(words, LEAD)
    assert (desk.last().state, desk.last().chosen) == ("queued", "drop")


def test_a_choice_that_a_request_does_not_offer_is_refused(desk: Desk) -> None:
    desk.command("suspend client-x", OPERATOR)
    desk.announce()
    number = desk.last().id
    with pytest.raises(Refused, match=r"“drop” is not an option of request #2\. Reply `approve`"):
        desk.bench.context.approvals.decide(number, LEAD, "approve", choice="drop", via="test")
    desk.reply("approve drop", number)
    assert desk.last().state == "awaiting_approval"


def test_the_replies_that_a_refusal_offers_work(desk: Desk) -> None:
    asked(desk)
    number = desk.last().id
    with pytest.raises(Refused, match="Reply `approve client-x send` or `approve client-x drop` or "):
        desk.bench.context.approvals.decide(number, LEAD, "approve", choice="later", via="test")
    desk.announce()
    desk.reply("approve client-x drop", number)
    assert (desk.last().state, desk.last().chosen) == ("queued", "drop")


def test_a_request_from_before_choices_existed_can_be_approved_and_run(desk: Desk) -> None:
    operation = asked(desk)
    with desk.bench.context.database.transaction() as transaction:
        transaction.execute(
            "UPDATE operations SET plan = json_remove(plan, '$.choice'), arguments = json_remove(arguments, '$.mail')"
        )
    assert "approve_send" not in str(desk.announcer.card(desk.last()).blocks)
    desk.reply("approve client-x", operation.id)
    desk.bench.finish()
    assert desk.last().state == "succeeded"
    assert off(desk.bench)


def test_two_approvers_must_choose_the_same(tmp_path: Path) -> None:
    config = tmp_path / "mautic-ops.toml"
    config.write_text("[policies.restore]\napprovals = 2\n")
    bench = bench_in(tmp_path, MAUTIC_OPS_CONFIG=str(config))
    bench.done("snapshot client-x", OPERATOR)
    operation = bench.ask(f"restore client-x {SNAPSHOT}", OPERATOR)
    decide = bench.context.approvals.decide
    decide(operation.id, LEAD, "approve", typed_name="client-x", choice="drop", via="test")
    with pytest.raises(
        Refused, match=r"<@U0OPSLEAD> approved request #3 with `drop`\. Approve with the same choice, or deny"
    ):
        decide(operation.id, LEAD_2, "approve", typed_name="client-x", choice="send", via="test")
    assert decide(operation.id, LEAD_2, "approve", typed_name="client-x", via="test").state == "queued"
    assert bench.context.operations.get(operation.id).chosen == "drop"


class Killed(BaseException):
    """The process died here."""


def test_a_crash_at_any_moment_drops_each_mail_once_and_sends_none(tmp_path: Path) -> None:
    moments: list[str] = []
    for number in range(100):
        bench = bench_in(tmp_path / str(number))
        with_thirty(bench)
        operation = bench.ask(f"restore client-x {SNAPSHOT}", OPERATOR)
        bench.context.approvals.decide(operation.id, LEAD, "approve", typed_name="client-x", choice="drop", via="test")
        made: list[str] = []

        def die(method: str, _: tuple[Any, ...], made: list[str] = made, number: int = number) -> None:
            made.append(method)
            # Every fifth LXD call: the durability suite tries them all, without mail.
            if len(made) > 5 * number:
                raise Killed

        bench.lxd.on_call = die
        try:
            bench.finish()
        except Killed:
            bench.context.database.close()
            bench.lxd.on_call = None
            again = make_bench(tmp_path / str(number), bench.lxd)
            again.clock.at = bench.clock.at
            recovery.recover(again.context.operations)
            again.finish()
            bench = again
        bench.lxd.on_call = None
        look(bench)
        assert bench.context.operations.get(operation.id).state == "succeeded", number
        assert (len(state(bench).dropped), len(state(bench).sent), off(bench)) == (30, 0, False), number
        config = bench.lxd.instance(bench.context.fleet.tenant("client-x").instance).config
        assert label_of(config, "outbound") == ""
        moments = made
        bench.context.database.close()
        if len(made) <= 5 * number:
            break
    assert len(moments) > 20


@pytest.mark.parametrize("command", ["drop", "back"])
def test_a_failed_decision_sends_no_mail_that_was_dropped_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    bench.done("mail client-x off")
    wait(bench, *[bench.clock() - DAY] * 3)
    dropped = bench.done("mail client-x drop")
    bench.lxd.update("client-x", as_labels(mail_waits="as somebody counted"))
    real = bench.lxd.update

    def fails(name: str, config: dict[str, str], devices: dict[str, dict[str, str]] | None = None) -> None:
        # The update of labels that follows the work inside the tenant.
        marks = {"user.mautic-ops.outbound", "user.mautic-ops.mail-waits"}
        if marks & config.keys() and "user.mautic-ops.mail-by" not in config:
            monkeypatch.undo()
            raise LxdError("LXD could not do it.")
        real(name, config, devices)

    monkeypatch.setattr(bench.lxd, "update", fails)
    assert bench.done(f"mail client-x {command}").state == "failed"
    look(bench)
    waiting = state(bench)
    assert not waiting.sent
    assert len(waiting.mails) + len(waiting.dropped) == 3
    assert {batch for batch, _ in waiting.dropped} <= {dropped.id}


def test_a_failed_restore_of_a_crashed_tenant_sends_no_late_mail(bench: Bench) -> None:
    bench.done("snapshot client-x")
    taken = bench.lxd.snapshots("client-x")[-1].name
    bench.lxd.stop("client-x", force=True)
    wait(bench, *[bench.clock()] * 5)
    bench.clock.move(3 * DAY)

    def fault(moment: str) -> None:
        if moment == "before 2":
            raise LxdError("LXD could not do it.")

    bench.runner.fault = fault
    assert bench.done(f"restore client-x {taken}").state == "failed"
    look(bench)
    assert (len(state(bench).mails), state(bench).sent) == (5, [])
