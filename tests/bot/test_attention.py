"""A move or restore that failed and could not be rolled back: its card says first how the client is."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from bot.edge.probe import Probe
from bot.lxd.protocol import LxdError
from bot.model.actor import Actor
from bot.slack.announcer import failure_buttons
from bot.store import recovery
from bot.store.operation import Operation
from schedules.health import health
from tests.support.bot import ASKER, LEAD, LEAD_2, OPERATOR, Desk, live, make_bench, make_desk, notes, switch
from tests.support.half_done import broken, half_moved, starts
from tests.support.judge import mrkdwn
from tests.support.simulated_lxd import SimulatedLxd

SNAPSHOT = "s-20270115-080000-2"


pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
def desk(tmp_path: Path, other: SimulatedLxd) -> Desk:
    bench = make_bench(tmp_path, others={"solo": other})
    bench.done("new client-x --host local")
    bench.done("snapshot client-x", OPERATOR)
    return make_desk(bench)


def card(desk: Desk, operation: Operation) -> str:
    return "\n".join(mrkdwn(desk.announcer.card(desk.bench.context.operations.get(operation.id)).blocks))


def offline(desk: Desk, other: SimulatedLxd) -> Operation:
    """Return a failed move after which no container serves the client."""
    stuck = half_moved(desk.bench, other)
    assert not live(desk.bench)
    return stuck


def test_a_move_that_left_a_client_offline_says_so_and_where_the_data_is(desk: Desk, other: SimulatedLxd) -> None:
    stuck = offline(desk, other)
    shown = card(desk, stuck)
    assert shown.startswith(":rotating_light: *client-x is offline* since")
    assert "*Data:* All data is in `client-x` on local; `client-x--3` on solo is an unfinished copy" in shown
    assert "*What to do:* Undo is safe: client-x returns to `client-x` on local, and nothing is lost." in shown
    assert "*Rollback:*" not in shown
    assert "nothing is lost;" not in shown
    assert "<!subteam^S0MAUTICOPERATORS> <!subteam^S0MAUTICAPPROVERS>: " in shown
    styles = {one["action_id"]: one.get("style") for one in desk.announcer.card(stuck).blocks[-2]["elements"]}
    assert styles == {"undo": "primary", "retry": None, "give_up": None}


def test_the_thread_mentions_the_operators_once(desk: Desk, other: SimulatedLxd) -> None:
    stuck = offline(desk, other)
    desk.announce()
    said = desk.slack.said[-1]
    assert said["thread_ts"]
    assert said["text"].startswith(
        ":rotating_light: <!subteam^S0MAUTICOPERATORS> <!subteam^S0MAUTICAPPROVERS>: *client-x is offline.* All data"
    )
    assert (
        f"<@{OPERATOR.id}>, *Move tenant client-x from local to solo* failed at “Start on solo (not public yet)”"
        in said["text"]
    )
    health(desk.bench.context)
    health(desk.bench.context)
    desk.announce()
    told = [one for one in notes(desk.bench, stuck) if "offline" in one]
    assert len(told) == 1


def test_the_incident_also_says_where_the_data_is(desk: Desk, other: SimulatedLxd) -> None:
    offline(desk, other)
    desk.bench.clock.move(60)
    health(desk.bench.context)
    (incident,) = [one for one in desk.bench.context.incidents.open() if one.tenant == "client-x"]
    assert incident.text.startswith("client-x is offline. All data is in `client-x` on local;")


def test_undo_brings_the_client_back_and_the_card_says_who_did_it(desk: Desk, other: SimulatedLxd) -> None:
    stuck = offline(desk, other)
    starts(True, desk.bench.lxd, other)
    recovery.undo(desk.bench.context.operations, stuck, LEAD.id)
    desk.bench.finish()
    assert live(desk.bench)
    shown = card(desk, stuck)
    assert "— rolled back" in shown
    assert f"rolled back by <@{LEAD.id}>" in shown


def test_after_a_failed_undo_the_client_is_still_shown_as_offline(desk: Desk, other: SimulatedLxd) -> None:
    stuck = offline(desk, other)
    recovery.undo(desk.bench.context.operations, stuck, LEAD.id)
    desk.bench.finish()
    assert "client-x is offline" in card(desk, stuck)
    assert f"<@{LEAD.id}>, the rollback failed" in notes(desk.bench, stuck)[-1]
    assert "*client-x is offline.*" in notes(desk.bench, stuck)[-1]


def test_a_candidate_that_was_open_to_clients_has_the_newest_data(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore whose health check found no page, and whose old container cannot go back into service."""
    with monkeypatch.context() as patched:
        patched.setattr(desk.bench.context.edge, "probe", lambda _: Probe(502, False))
        patched.setattr("bot.engine.cutover.Cutover._go_on", lambda _: broken())
        stuck = desk.bench.done(f"restore client-x {SNAPSHOT}", OPERATOR)
    assert stuck.state == "needs_attention"
    shown = card(desk, stuck)
    assert shown.startswith(":rotating_light: *client-x is offline*")
    assert "The newest data is in `client-x--3` on local, which was open to clients" in shown
    assert "Undo returns to `client-x` on local and loses what was written to the new container. Retry fin" in shown
    assert [one["action_id"] for one in failure_buttons(stuck)] == ["retry", "undo", "give_up"]


def test_a_client_served_by_the_new_container_for_good_is_shown_as_online(desk: Desk) -> None:
    def fail(moment: str) -> None:
        if moment == "before 3":
            raise LxdError("LXD could not.")

    desk.bench.runner.fault = fail
    stuck = desk.bench.done(f"restore client-x {SNAPSHOT}", OPERATOR)
    assert stuck.state == "needs_attention"
    shown = card(desk, stuck)
    assert shown.startswith(":rotating_light: *client-x is online, served by `client-x--3` on local*\n")
    assert "Retry is safe: it finishes the restore, and nothing is lost." in shown
    assert [one["action_id"] for one in failure_buttons(stuck)] == ["retry", "give_up"]
    assert "Retry is in my Home tab." in "\n".join(mrkdwn(desk.bench.answer("digest", OPERATOR).blocks))
    desk.announce()
    assert "Retry is on its card and in my Home tab." in "\n".join(mrkdwn(desk.bench.answer("digest", OPERATOR).blocks))


def test_the_card_of_any_other_command_explains_the_buttons(desk: Desk) -> None:
    starts(False, desk.bench.lxd)
    stuck = desk.bench.done("restart client-x", OPERATOR)
    assert stuck.state == "needs_attention"
    shown = card(desk, stuck)
    assert "_Restart tenant client-x_ stopped halfway and was not rolled back." in shown
    assert "*What to do:* Retry continues the request; Undo tries the rollback again." in shown
    assert notes(desk.bench, stuck)[-1].count("Undo tries the rollback again") == 1


def test_the_card_names_a_silent_host_and_is_updated_when_it_answers(
    desk: Desk, other: SimulatedLxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = switch(desk.bench.lxd)
    with monkeypatch.context() as patched:
        patched.setattr("bot.engine.cutover.Cutover._go_on", lambda _: down.set() or broken())
        patched.setattr(desk.bench.context.edge, "probe", lambda _: Probe(502, False))
        stuck = desk.bench.done("migrate client-x solo", OPERATOR)
    assert stuck.state == "needs_attention"
    assert "The previous container is on a host that does not answer: local." in card(desk, stuck)
    before = desk.bench.context.operations.get(stuck.id).revision
    down.clear()
    health(desk.bench.context)
    after = desk.bench.context.operations.get(stuck.id)
    assert after.revision == before + 1
    assert "`client-x` on local has everything before that" in card(desk, stuck)
    health(desk.bench.context)
    assert desk.bench.context.operations.get(stuck.id).revision == after.revision, "nothing has changed"


def home_of(desk: Desk, user: str) -> str:
    desk.invocations.handle("home", uuid4().hex, {"user": user, "team": "T0OURS"})
    blocks = desk.slack.homes[user]
    return "\n".join([*(one["text"]["text"] for one in blocks if one["type"] == "header"), *mrkdwn(blocks)])


def test_an_offline_client_leads_the_home_tab_and_undo_works_there(desk: Desk, other: SimulatedLxd) -> None:
    desk.bench.ask("new client-y")
    stuck = offline(desk, other)
    for person in (OPERATOR, LEAD, LEAD_2):
        shown = home_of(desk, person.id)
        assert shown.startswith("client-x is offline"), person
        assert "Nothing needs you" not in shown
        first = desk.slack.homes[person.id][2]
        assert [one["action_id"] for one in first["elements"]][:2] == ["retry", "undo"]
    assert home_of(desk, LEAD.id).startswith("client-x is offline; 1 request to decide")
    assert "*client-x is offline* · request #4" in home_of(desk, ASKER.id)
    starts(True, desk.bench.lxd, other)
    second = Actor("U0OPERATOR2", frozenset())
    desk.slack.groups["mautic-operators"].append(second.id)
    desk.click("undo", stuck.id, second, home=True)
    desk.bench.finish()
    assert live(desk.bench)
    assert "Nothing needs you" in home_of(desk, second.id)


def test_people_who_were_not_mentioned_cannot_undo(desk: Desk, other: SimulatedLxd) -> None:
    stuck = offline(desk, other)
    desk.click("undo", stuck.id, ASKER)
    assert "can use this button" in desk.slack.to(ASKER.id)[-1]
    assert desk.bench.context.operations.get(stuck.id).state == "needs_attention"


def test_an_offline_client_leads_the_digest_and_the_list(desk: Desk, other: SimulatedLxd) -> None:
    desk.bench.done("new aaa --host local", OPERATOR)
    desk.bench.lxd.stop("aaa")
    offline(desk, other)
    desk.bench.clock.move(60)
    health(desk.bench.context)
    blocks = desk.bench.answer("digest", OPERATOR).blocks
    assert "2 clients offline" in blocks[0]["text"]["text"]
    assert blocks[1]["text"]["text"].startswith(":rotating_light: *client-x is offline* since")
    assert "Undo is safe" in blocks[1]["text"]["text"].splitlines()[0]
    assert blocks[1]["text"]["text"].count("client-x is offline") == 1, (
        "the client does not appear again as an incident"
    )
    shown = "\n".join(mrkdwn(desk.bench.answer("list").blocks))
    assert ":red_circle: *client-x* · offline: move stuck (request #4)" in shown


def test_the_next_sweep_inspects_a_failure_of_an_older_bot(desk: Desk, other: SimulatedLxd) -> None:
    """The older bot left the column `aftermath` empty."""
    stuck = offline(desk, other)
    with desk.bench.context.database.transaction() as transaction:
        transaction.execute("UPDATE operations SET aftermath = '{}'")
    assert card(desk, stuck).startswith(":rotating_light: *Move tenant client-x from local to solo* — action needed")
    assert "*Rollback:*" not in card(desk, stuck)
    assert "action needed" in home_of(desk, LEAD.id)
    assert ":red_circle: *client-x* · offline" in "\n".join(mrkdwn(desk.bench.answer("list").blocks))
    health(desk.bench.context)
    assert card(desk, stuck).startswith(":rotating_light: *client-x is offline*")


def test_a_button_that_loses_data_asks_for_confirmation(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(desk.bench.context.edge, "probe", lambda _: Probe(502, False))
        patched.setattr("bot.engine.cutover.Cutover._go_on", lambda _: broken())
        stuck = desk.bench.done(f"restore client-x {SNAPSHOT}", OPERATOR)
    ways = {one["action_id"]: one for one in failure_buttons(stuck)}
    assert "confirm" not in ways["retry"]
    assert "loses what was written to the new container" in ways["undo"]["confirm"]["text"]["text"]
