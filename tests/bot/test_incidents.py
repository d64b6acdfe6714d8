"""One incident for each kind of problem, one thread for each incident, whatever crashes or runs twice."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.model.diagnosis import Diagnosis, Finding
from bot.model.plan import Refused
from bot.slack.incidents import FIGURES, FLAP, SILENCE, Seen
from bot.store import audit
from tests.support.bot import ASKER, LEAD, OPERATOR, Bench, make_bench, make_desk

WORKER = Finding("worker", "`mautic-worker@email` is inactive, so mail waits in the queue.")
CRON = Finding("cron", "`cron` is inactive, so segments, campaigns and imports stand still.")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")


def sweep(bench: Bench, *findings: Finding, tenant: str = "client-x", unseen: tuple[str, ...] = ()) -> None:
    """Judge these findings of a tenant, and announce the incidents."""
    judge(bench, Seen({tenant: Diagnosis(findings, frozenset(unseen))}, {}))
    bench.context.incidents.announce()


def judge(bench: Bench, seen: Seen) -> None:
    with bench.context.database.transaction() as transaction:
        bench.context.incidents.judge(transaction, seen)


def posts(bench: Bench) -> list[dict[str, Any]]:
    return [one for one in bench.slack.said if one["method"] == "chat.postMessage"]


def thread(bench: Bench, head: dict[str, Any]) -> list[str]:
    return [one["text"] for one in posts(bench) if one.get("thread_ts") == head["ts"]]


def heads(bench: Bench) -> list[dict[str, Any]]:
    return [one for one in posts(bench) if not one.get("thread_ts")]


def shown(bench: Bench, head: dict[str, Any]) -> dict[str, Any]:
    """Return the current version of a head."""
    return [one for one in bench.slack.said if one["ts"] == head["ts"]][-1]


def buttons(message: dict[str, Any]) -> list[str]:
    return [
        element["action_id"]
        for block in message["blocks"]
        if block["type"] == "actions"
        for element in block["elements"]
    ]


def recorded(bench: Bench) -> list[str]:
    return [row["event"] for row in bench.context.database.read("SELECT event FROM audit ORDER BY seq")]


def test_a_lasting_problem_is_announced_once_and_its_recovery_once(bench: Bench) -> None:
    for _ in range(3):
        sweep(bench, WORKER)
        bench.clock.move(300)
    (head,) = heads(bench)
    assert "client-x" in head["text"]
    assert "e-mail not sending" in head["text"]
    assert buttons(head) == ["incident_restart", "incident_logs", "incident_silence"]
    assert thread(bench, head) == []
    for _ in range(2):
        sweep(bench)
    assert thread(bench, head) == [":large_green_circle: Resolved after 15 min."]
    assert shown(bench, head)["text"].startswith(":large_green_circle:")
    assert buttons(shown(bench, head)) == []
    assert recorded(bench) == ["incident.opened", "incident.closed"]
    assert audit.verify(bench.context.database).broken == 0


def test_each_kind_and_each_tenant_has_its_own_thread(bench: Bench) -> None:
    sweep(bench, WORKER, CRON)
    sweep(bench, WORKER, tenant="client-y")
    assert len(heads(bench)) == 3
    sweep(bench, CRON)
    assert [one.kind for one in bench.context.incidents.open()] == ["cron", "worker"]


def test_an_incident_that_could_not_be_checked_stays_open(bench: Bench) -> None:
    sweep(bench, WORKER)
    sweep(bench, Finding("stopped", "It is stopped."), unseen=("worker",))
    judge(bench, Seen({}, {}))
    assert [one.kind for one in bench.context.incidents.open()] == ["worker", "stopped"]


def full(percent: int) -> Finding:
    return Finding("disk", f"{percent}% of its plan's disk is in use.")


def test_the_figures_of_a_head_are_updated_each_half_hour(bench: Bench) -> None:
    """Slack would not accept updates of hundreds of heads per sweep."""
    sweep(bench, full(86))
    (head,) = heads(bench)
    for percent, updates in ((87, 0), (88, 0), (89, 1)):
        sweep(bench, full(percent))
        assert bench.slack.calls["chat.update"] == updates
        bench.clock.move(FIGURES / 2)
    assert "89%" in str(shown(bench, head)["blocks"])
    bench.clock.move(FIGURES)
    sweep(bench, full(89))
    assert bench.slack.calls["chat.update"] == 1, "the figure is shown already"
    sweep(bench, full(91))
    sweep(bench)
    assert "91%" in str(shown(bench, head)["blocks"]), "along with the recovery"


def test_new_incidents_come_first_then_resolved_ones_then_updates(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This also holds for incidents that change while hundreds of heads are being updated."""
    names = ("client-1", "client-2", "client-3", "client-4")
    judge(bench, Seen({name: Diagnosis((full(86),)) for name in names}, {}))
    bench.context.incidents.announce()
    judge(bench, Seen({name: Diagnosis((full(87),)) for name in names}, {}))
    bench.clock.move(FIGURES)
    update = bench.slack.chat_update

    def meanwhile(**message: Any) -> dict[str, Any]:
        monkeypatch.undo()
        judge(bench, Seen({"client-3": Diagnosis(), "client-5": Diagnosis((full(88),))}, {}))
        return update(**message)

    monkeypatch.setattr(bench.slack, "chat_update", meanwhile)
    bench.slack.said.clear()
    bench.context.incidents.announce()
    said = [next((name for name in (*names, "client-5") if name in one["text"]), "note") for one in bench.slack.said]
    assert said == ["client-1", "client-5", "client-3", "note", "client-2", "client-4"]


def test_a_problem_that_comes_back_soon_continues_in_its_thread(bench: Bench) -> None:
    sweep(bench, WORKER)
    sweep(bench)
    bench.clock.move(FLAP - 1)
    sweep(bench, WORKER)
    (head,) = heads(bench)
    assert thread(bench, head)[1].startswith(":red_circle: Reopened:")
    assert buttons(shown(bench, head))[0] == "incident_restart"
    sweep(bench)
    bench.clock.move(FLAP + 1)
    sweep(bench, WORKER)
    assert len(heads(bench)) == 2, "later it is another incident"
    events = ("opened", "closed", "reopened", "closed", "opened")
    assert recorded(bench) == [f"incident.{what}" for what in events]


def test_the_incident_of_a_deleted_tenant_is_resolved(bench: Bench) -> None:
    sweep(bench, WORKER)
    judge(bench, Seen({}, {}, gone=[("client-x", "")]))
    bench.context.incidents.announce()
    assert bench.context.incidents.open() == []
    assert thread(bench, heads(bench)[0]) == [":large_green_circle: Resolved: the tenant no longer exists."]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("worker", "The tenant was suspended, so this is no longer monitored."),
        ("disk", "Resolved after 5 min."),
        ("errand", "Resolved after 5 min."),
    ],
)
def test_a_problem_that_is_not_monitored_while_suspended_is_not_called_resolved(
    bench: Bench, kind: str, words: str
) -> None:
    sweep(bench, Finding(kind, "It is not well."))
    bench.clock.move(300)
    judge(bench, Seen({"client-x": Diagnosis(rests="suspended")}, {}))
    bench.context.incidents.announce()
    assert thread(bench, heads(bench)[0]) == [f":large_green_circle: {words}"]


def test_a_silent_server_has_its_own_incident(bench: Bench) -> None:
    silent = Diagnosis((Finding("server", "LXD does not answer."),))
    judge(bench, Seen({}, {"node1": silent}))
    bench.context.incidents.announce()
    (head,) = heads(bench)
    assert "node1" in head["text"]
    assert buttons(head) == ["incident_silence"]


def test_silence_lasts_for_four_hours_and_is_shown(bench: Bench) -> None:
    desk = make_desk(bench)
    sweep(bench, Finding("queue", "The oldest message has waited 61 min."))
    (incident,) = bench.context.incidents.open()
    desk.click("incident_silence", incident.mark, OPERATOR)
    (head,) = heads(bench)
    assert "incident_silence" not in buttons(shown(bench, head))
    assert f"silenced by <@{OPERATOR.id}> until" in str(shown(bench, head)["blocks"])
    updates = bench.slack.calls["chat.update"]
    sweep(bench, Finding("queue", "The oldest message has waited 66 min."))
    assert bench.slack.calls["chat.update"] == updates
    desk.click("incident_silence", incident.mark, LEAD)
    assert any("already silenced" in told for told in bench.slack.to(LEAD.id))
    bench.clock.move(SILENCE - 1)
    sweep(bench, Finding("queue", "The oldest message has waited 4 h."))
    assert bench.slack.calls["chat.update"] == updates
    bench.clock.move(1)
    sweep(bench, Finding("queue", "The oldest message has waited 5 h."))
    assert "incident_silence" in buttons(shown(bench, head))
    assert "5 h" in str(shown(bench, head)["blocks"])
    row = bench.context.database.read("SELECT actor, tenant FROM audit WHERE event = 'incident.silenced'")
    assert [tuple(one) for one in row] == [(OPERATOR.id, "client-x")]


def test_a_silenced_incident_ends_and_comes_back_without_a_message(bench: Bench) -> None:
    sweep(bench, WORKER)
    (incident,) = bench.context.incidents.open()
    bench.context.incidents.silence(incident.mark, LEAD.id)
    for findings in ((), (WORKER,), ()):
        sweep(bench, *findings)
    (head,) = heads(bench)
    assert thread(bench, head) == []
    assert shown(bench, head)["text"].startswith(":large_green_circle:")


def test_a_person_who_is_no_operator_cannot_silence(bench: Bench) -> None:
    desk = make_desk(bench)
    sweep(bench, WORKER)
    (incident,) = bench.context.incidents.open()
    desk.click("incident_silence", incident.mark, ASKER)
    assert "operator" in bench.slack.to(ASKER.id)[-1]
    assert bench.context.incidents.marked(incident.mark).silenced_until == 0


def test_a_button_of_a_lost_database_does_nothing_to_the_incident_with_its_number(bench: Bench) -> None:
    desk = make_desk(bench)
    sweep(bench, WORKER)
    (incident,) = bench.context.incidents.open()
    desk.click("incident_restart", replace(incident, opened=incident.opened - 86_400).mark, OPERATOR)
    assert "no longer exists" in bench.slack.to(OPERATOR.id)[-1]
    assert [one for one in bench.context.operations.select("1 = 1") if one.command == "restart"] == []


def test_a_resolved_incident_cannot_be_silenced(bench: Bench) -> None:
    sweep(bench, WORKER)
    (incident,) = bench.context.incidents.open()
    sweep(bench)
    with pytest.raises(Refused, match="Incident 1 is already resolved"):
        bench.context.incidents.silence(incident.mark, LEAD.id)


@pytest.mark.parametrize("lost", [True, False], ids=["answer lost", "not posted"])
def test_a_message_whose_post_failed_appears_once(bench: Bench, lost: bool) -> None:
    """Heads and notes alike: a post whose answer was lost is found again, and one that was not made is repeated."""
    said = bench.slack.chat_postMessage

    def cut(**message: Any) -> dict[str, Any]:
        if lost:
            said(**message)
        raise TimeoutError("timed out")

    for findings in ((WORKER,), ()):
        bench.slack.chat_postMessage = cut  # type: ignore[method-assign]
        sweep(bench, *findings)
        bench.slack.chat_postMessage = said  # type: ignore[method-assign]
        for _ in range(2):
            bench.context.incidents.announce()
    (head,) = heads(bench)
    assert len(thread(bench, head)) == 1


class Killed(BaseException):
    """Stands for `kill -9`."""


def test_a_crash_between_any_two_steps_posts_nothing_twice(tmp_path: Path) -> None:
    """Dies before each write to the database in turn, while opening, announcing and closing, and then continues."""
    moment = 0
    while True:
        moment += 1
        folder = tmp_path / str(moment)
        bench = make_bench(folder, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
        done = bench.context.incidents._done
        left = [moment]

        def dies(update: str, *values: object, done: Any = done, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise Killed
            done(update, *values)

        bench.context.incidents._done = dies  # type: ignore[method-assign]
        died = False
        for findings in ((WORKER,), (CRON, WORKER), ()):
            try:
                sweep(bench, *findings)
            except Killed:
                died = True
                bench = make_bench(folder, bench.lxd, slack=bench.slack, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
                bench.context.incidents.announce()
        bench.context.incidents.announce()
        assert len(heads(bench)) == 2
        for head in heads(bench):
            assert len(thread(bench, head)) == 1
            assert shown(bench, head)["text"].startswith(":large_green_circle:")
        if not died:
            break
    assert moment > 8, "it has died often enough"


def test_sweeps_at_the_same_time_open_one_incident_with_one_thread(bench: Bench) -> None:
    together = threading.Barrier(4)
    errors: list[Exception] = []

    def one() -> None:
        together.wait()
        try:
            sweep(bench, WORKER)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bench.context.incidents.announce()
    assert errors == []
    assert len(bench.context.incidents.open()) == len(heads(bench)) == 1


def test_a_head_that_somebody_deleted_is_posted_again(bench: Bench) -> None:
    sweep(bench, WORKER)
    (head,) = heads(bench)
    bench.slack.gone.add(head["ts"])
    bench.slack.said.remove(head)
    sweep(bench)
    (again,) = heads(bench)
    assert again["text"].startswith(":large_green_circle:")
    assert len(thread(bench, again)) == 1


def test_a_head_that_may_no_longer_be_edited_is_posted_anew(bench: Bench) -> None:
    """Administrators of Slack may limit for how long messages can be edited."""
    sweep(bench, WORKER)
    (head,) = heads(bench)
    bench.slack.uneditable.add(head["ts"])
    sweep(bench)
    bench.context.incidents.announce()
    _, again = heads(bench)
    assert again["text"].startswith(":large_green_circle:")
    assert (len(thread(bench, head)), len(thread(bench, again))) == (0, 1)


def test_a_head_posted_anew_right_before_a_crash_is_found_and_not_the_one_that_it_replaces(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(bench, WORKER)
    bench.slack.uneditable.add(heads(bench)[0]["ts"])
    done = bench.context.incidents._done

    def dies(update: str, *values: object) -> None:
        if "message_ts" in update:
            raise Killed
        done(update, *values)

    monkeypatch.setattr(bench.context.incidents, "_done", dies)
    with pytest.raises(Killed):
        sweep(bench)
    bench = make_bench(tmp_path, bench.lxd, slack=bench.slack, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.context.incidents.announce()
    assert len(heads(bench)) == 2
    assert len(thread(bench, heads(bench)[1])) == 1


def test_new_figures_alone_post_no_second_head(bench: Bench) -> None:
    sweep(bench, full(86))
    bench.slack.uneditable.add(heads(bench)[0]["ts"])
    for percent in (87, 88):
        sweep(bench, full(percent))
        bench.clock.move(FIGURES)
    sweep(bench, full(88))
    assert len(heads(bench)) == 1
    sweep(bench)
    assert "88%" in str(heads(bench)[1]["blocks"])


def test_in_a_channel_without_threads_notes_are_posted_beside_the_head(bench: Bench) -> None:
    bench.slack.restricted["C0OPS"] = "restricted_action_non_threadable_channel"
    sweep(bench, WORKER)
    bench.clock.move(600)
    sweep(bench)
    bench.context.incidents.announce()
    _, note = heads(bench)
    assert note["text"] == "*client-x* — e-mail not sending: :large_green_circle: Resolved after 10 min."


def test_an_incident_that_slack_refuses_does_not_block_others(bench: Bench) -> None:
    bench.slack.fail("chat.postMessage", "msg_blocks_too_long")
    sweep(bench, WORKER, CRON)
    assert len(heads(bench)) == 1
    bench.context.incidents.announce()
    assert len(heads(bench)) == 2


def test_without_a_channel_an_incident_is_stored_and_not_posted(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    sweep(bench, WORKER)
    assert posts(bench) == []
    assert len(bench.context.incidents.open()) == 1


def test_an_incident_opened_without_a_channel_is_posted_once_one_is_set(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    sweep(bench, WORKER)
    bench = make_bench(tmp_path, bench.lxd, slack=bench.slack, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    for _ in range(2):
        bench.context.incidents.announce()
    sweep(bench)
    (head,) = heads(bench)
    assert head["channel"] == "C0OPS"
    assert len(thread(bench, head)) == 1
    assert shown(bench, head)["text"].startswith(":large_green_circle:")


def test_after_a_change_of_channel_an_incident_continues_in_a_new_thread(bench: Bench, tmp_path: Path) -> None:
    """The bot may no longer have access to the old channel."""
    sweep(bench, WORKER, CRON)
    sweep(bench, CRON)
    bench.slack.closed.add("C0OPS")
    bench = make_bench(tmp_path, bench.lxd, slack=bench.slack, MAUTIC_OPS_SLACK__CHANNEL="C0NEW")
    bench.slack.said.clear()
    for _ in range(2):
        bench.context.incidents.announce()
    (head,) = heads(bench)
    assert (head["channel"], "cron down" in head["text"]) == ("C0NEW", True)
    sweep(bench)
    assert len(heads(bench)) == 1
    assert len(thread(bench, head)) == 1
    assert shown(bench, head)["text"].startswith(":large_green_circle:")


def test_an_incident_resolved_before_it_was_posted_is_left_to_the_digest(bench: Bench) -> None:
    judge(bench, Seen({"client-x": Diagnosis((WORKER,))}, {}))
    bench.clock.move(60)
    sweep(bench)
    assert posts(bench) == []
    (incident,) = bench.context.incidents.since(bench.clock() - 86_400)
    assert incident.closed == bench.clock()
    assert bench.context.incidents.since(bench.clock() + 1) == []
