"""Tenants that run a Mautic with known holes are one incident of the fleet, which ends when none is left."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from bot.lxd.protocol import LxdUnavailable
from bot.model.findings import FLEET
from bot.model.labels import as_labels
from bot.model.plan import Refused
from bot.reports.digest import gather
from schedules.advisories import advisories
from schedules.health import health
from schedules.offers import offers
from tests.support.bot import ASKER, LEAD, OPERATOR, Bench, add_blueprint, add_releases, make_bench, make_desk
from tests.support.judge import mrkdwn
from tests.support.simulated_lxd import SimulatedLxd

CHANNEL = {"MAUTIC_OPS_SLACK__CHANNEL": "C0OPS"}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a bench with two tenants, one of which runs a version with known holes."""
    monkeypatch.setattr("schedules.health.AGAIN", 0.0)
    made = make_bench(tmp_path, **CHANNEL)
    add_blueprint(made.lxd, "5.2.9+double")
    made.done("new client-x --version 5.2.9+double")
    made.done("new client-y --version 5.2.12+double")
    return made


def told(bench: Bench) -> list[str]:
    """Run the job between two sweeps, which do not touch its incident; return the open incidents of the fleet."""
    health(bench.context)
    advisories(bench.context)
    health(bench.context)
    return [one.text for one in bench.context.incidents.open() if one.subject == FLEET]


def test_known_holes_are_one_incident_that_closes_with_the_last_tenant(bench: Bench) -> None:
    (words,) = told(bench)
    assert words.startswith("1 tenant runs a Mautic version with known security holes: 1 on 5.2.9+double (5 holes")
    bench.context.incidents.announce()
    assert "*the fleet* — known security holes" in bench.slack.said[-1]["text"]
    opened = bench.context.incidents.open()
    bench.clock.move(3600)
    bench.lxd.update("client-y", as_labels(version="5.2.11+double"))
    (words,) = told(bench)
    assert words.startswith("2 tenants run")
    assert [one.opened for one in bench.context.incidents.open()] == [one.opened for one in opened], (
        "the incident keeps its time"
    )
    for name in ("client-x", "client-y"):
        bench.lxd.update(name, as_labels(version="5.2.12+double"))
    assert told(bench) == []
    rows = bench.context.database.read("SELECT event FROM audit WHERE event LIKE 'incident.%' ORDER BY seq")
    assert [row["event"] for row in rows] == ["incident.opened", "incident.closed"]


def test_known_holes_are_in_the_digest_until_they_are_gone(bench: Bench) -> None:
    advisories(bench.context)
    assert [one.subject for one in gather(bench.context, 0).open] == [FLEET]
    bench.clock.move(30 * 86_400)
    assert [one.subject for one in gather(bench.context, bench.clock() - 86_400).open] == [FLEET]
    shown = "\n".join(mrkdwn(bench.answer("digest").blocks))
    assert ":red_circle: *the fleet:* known security holes since" in shown
    bench.lxd.update("client-x", as_labels(version="5.2.12+double"))
    advisories(bench.context)
    assert gather(bench.context, 0).open == ()


def test_known_holes_degrade_no_tenant_and_doctor_names_them(bench: Bench) -> None:
    advisories(bench.context)
    assert "degraded" not in "\n".join(mrkdwn(bench.answer("list").blocks))
    shown = "\n".join(mrkdwn(bench.answer("doctor", LEAD).blocks))
    assert ":x: *Security:* 1 tenant runs a Mautic version with known security holes" in shown
    bench.lxd.update("client-x", as_labels(version="5.2.12+double"))
    shown = "\n".join(mrkdwn(bench.answer("doctor", LEAD).blocks))
    assert ":white_check_mark: *Security:* no tenant runs" in shown


def test_a_silent_server_does_not_close_the_incident(tmp_path: Path) -> None:
    far = SimulatedLxd()
    bench = make_bench(tmp_path, others={"far": far}, **CHANNEL)
    add_blueprint(far, "5.2.9+double")
    bench.done("new client-x --version 5.2.9+double --host far")
    advisories(bench.context)
    assert len(bench.context.incidents.open()) == 1
    far.fail_next("instances", LxdUnavailable("It does not answer."))
    advisories(bench.context)
    assert len(bench.context.incidents.open()) == 1
    bench.done("delete client-x", LEAD)
    advisories(bench.context)
    assert bench.context.incidents.open() == []


def test_additional_advisories_from_the_settings_count(tmp_path: Path) -> None:
    hole = {
        "id": "OURS-1",
        "severity": "critical",
        "affected": [{"introduced": "5.2.12"}],
        "words": "Something is open",
        "link": "https://agency.example/ours-1",
    }
    file = tmp_path / "more.json"
    file.write_text(json.dumps({"advisories": [hole]}))
    named = {
        "MAUTIC_OPS_ADVISORIES__EXTRA": str(file),
        "MAUTIC_OPS_ADVISORIES__SHA256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    bench = make_bench(tmp_path / "state", **named)
    bench.done("new client-x")
    advisories(bench.context)
    (found,) = bench.context.incidents.open()
    assert "1 on 5.2.12+double (1 hole: 1 critical, no fix yet)" in found.text


def test_an_unusable_list_fails_the_job_and_the_bots_own_list_counts(tmp_path: Path) -> None:
    named = {"MAUTIC_OPS_ADVISORIES__EXTRA": "/nowhere.json", "MAUTIC_OPS_ADVISORIES__SHA256": "0" * 64}
    bench = make_bench(tmp_path, **named)
    add_blueprint(bench.lxd, "5.2.9+double")
    bench.done("new client-x --version 5.2.9+double")
    with pytest.raises(Refused, match=r"`advisories\.extra`: There is no advisory file at /nowhere"):
        advisories(bench.context)
    assert len(bench.context.incidents.open()) == 1
    bench.lxd.update("client-x", as_labels(version="5.2.12+double"))
    with pytest.raises(Refused):
        advisories(bench.context)
    assert len(bench.context.incidents.open()) == 1, "the unusable list may name that version"


def test_the_button_requests_the_rollout_of_a_fixed_release_to_the_affected_tenants(bench: Bench) -> None:
    add_releases(bench, "5.2.11", "6.0.10")
    (words,) = told(bench)
    assert words.endswith("`/mautic rollout 6.0.10+double --holes` plans the upgrade.")
    desk = make_desk(bench)
    (incident,) = bench.context.incidents.open()
    labels = [one["text"]["text"] for one in bench.context.incidents.head(incident).blocks[-2]["elements"]]
    assert labels[0] == "Plan rollout"
    desk.click("incident_rollout", incident.mark, ASKER)
    assert bench.context.operations.select("command = 'rehearse'") == [], "this person may not request it"
    desk.click("incident_rollout", incident.mark, OPERATOR)
    assert "Rehearsing" in desk.slack.to(OPERATOR.id)[-1]
    bench.finish()
    offers(bench.context)
    (rollout,) = bench.context.operations.select("command = 'rollout'")
    assert (rollout.state, rollout.arguments["tenant"]) == ("awaiting_approval", "client-x,")
    bench.approve(rollout)
    bench.finish()
    assert [one.version for one in bench.context.fleet.tenants()] == ["6.0.10+double", "5.2.12+double"]
    assert told(bench) == []


def test_the_button_says_what_to_do_if_no_release_helps(bench: Bench) -> None:
    told(bench)
    desk = make_desk(bench)
    (incident,) = bench.context.incidents.open()
    desk.click("incident_rollout", incident.mark, OPERATOR)
    assert "Add one under `[releases]` and restart the bot" in desk.slack.to(OPERATOR.id)[-1]
    assert bench.context.operations.select("command = 'rehearse'") == []
