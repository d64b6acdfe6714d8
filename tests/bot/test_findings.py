"""The table of findings: each row is complete, its remedies can be typed, and all code about kinds uses it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import commands
from bot.edge.probe import Probe
from bot.engine.registry import Registry
from bot.fleet.health import larger_plans
from bot.fleet.health.look import CHECKS, HOST_CHECKS, finds
from bot.guest.blueprint.mautic_ctl import health as tool
from bot.guest.console import allowed
from bot.guest.simulated import change
from bot.intake.home import home
from bot.lxd.protocol import LxdUnavailable, size_bytes
from bot.model import findings
from bot.model.diagnosis import Diagnosis, Finding, Found, with_remedies
from bot.model.findings import EDGE, FINDINGS, FLEET, LINES, LOG, SENT, Severity, Where
from bot.model.remedies import RETRY, Remedy
from bot.model.tenants import PlanSize
from bot.reports.digest import gather
from bot.settings import HealthSettings, load
from bot.slack.incidents import Seen
from tests.support.bot import LEAD, Bench, make_bench
from tests.support.judge import mrkdwn
from tests.support.sweep import look, look_for_an_hour

ELSEWHERE = {
    "errand": "schedules.health",
    "edge": "schedules.health",
    "quotas": "bot.engine.quotas",
    "audit": "schedules",
    "advisories": "schedules",
}
"""Findings that no single health check can make, and the module or package that makes them."""
VALUES = {
    "tenant": "client-x",
    "larger_disk": "medium",
    "larger_memory": "medium",
    "oldest": "s-20270115-080000-2",
    "host": "node2",
    "full": "yes",
    "kept": "yes",
    "nowhere": "yes",
    "rival": "copy",
    "forgotten": "yes",
    "cure": "6.0.10",
}
REGISTRY = Registry(commands)
REMEDIES = [(key, remedy) for key, row in FINDINGS.items() for remedy in row.remedies]
GIB = 1 << 30


@pytest.mark.parametrize(("key", "remedy"), [(key, one) for key, one in REMEDIES if one.command != RETRY])
def test_a_remedy_is_the_same_command_from_a_button_and_typed(key: str, remedy: Remedy) -> None:
    typed = remedy.typed(VALUES)
    assert typed, "a value that the remedy names is missing in VALUES"
    command, arguments = REGISTRY.parse(typed)
    assert command.name == remedy.command
    given = remedy.given(VALUES)
    assert given is not None
    assert {name: " ".join(one) if isinstance(one, tuple) else one for name, one in arguments.items()} == given
    if remedy.command == "console":
        assert allowed(arguments["command"])
    if remedy.button:
        found_out = {"cure": VALUES["cure"]} if key == "advisories" else {}
        assert remedy.given({"tenant": "client-x"} | found_out) is not None, "an incident keeps no values"
    if remedy.does:
        assert f"`/mautic {remedy.typed(VALUES)}` {remedy.does}" in with_remedies(key, Found("So."), VALUES).text


@pytest.mark.parametrize("check", sorted({check for row in FINDINGS.values() for check in row.checks} - {"services"}))
def test_a_red_check_is_described_by_the_title_of_its_first_finding(check: str) -> None:
    assert findings.red(check) == next(row.title for row in FINDINGS.values() if check in row.checks)


@pytest.mark.parametrize("key", FINDINGS)
def test_a_row_is_complete(key: str) -> None:
    row = FINDINGS[key]
    assert row.key == key
    assert row.title[0].islower()
    assert not row.title.endswith(".")
    assert row.meaning[0].isupper()
    assert row.meaning.endswith(".")
    assert all(effect in FINDINGS or isinstance(effect, Where) for effect in row.hides)
    assert key not in findings.hidden([key])
    assert not row.caused_by or row.caused_by in REGISTRY.commands
    assert len(row.buttons) == len([one for one in row.remedies if one.button]), "a button is found by its command"
    assert bool(row.doctor) != row.of_tenant
    assert not row.checks or row.of_tenant


def test_every_finding_is_made_in_one_place() -> None:
    assert set(CHECKS) | set(HOST_CHECKS) | set(ELSEWHERE) == set(FINDINGS)
    assert not (set(CHECKS) | set(HOST_CHECKS)) & set(ELSEWHERE)


def test_a_finding_has_one_row_and_one_function() -> None:
    assert len({row.title for row in FINDINGS.values()}) == len(FINDINGS)
    with pytest.raises(KeyError):
        finds("unheard-of")(lambda look, limits: None)
    for declare, key in ((finds("page"), "its function already"), (finds("pool"), "none of a tenant")):
        with pytest.raises(ValueError, match=key):
            declare(lambda look, limits: None)


def test_each_threshold_is_a_setting_and_each_setting_a_threshold() -> None:
    named = [row.threshold for row in FINDINGS.values() if row.threshold]
    assert sorted(named) == sorted(field.name for field in fields(HealthSettings))


def test_the_tool_inside_is_sent_exactly_the_thresholds_that_it_reads() -> None:
    asked = re.findall(r'limits\["(\w+)"\]', inspect.getsource(tool))
    assert set(SENT) == set(asked)


def checks_of_the_tool() -> set[str]:
    """Return the names of all checks that the tool inside makes, read from its code."""
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(tool))) if isinstance(node, ast.Call)]
    named = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "check"]
    return {one.value for one in named if isinstance(one, ast.Constant)}


def test_every_line_that_status_can_show_red_belongs_to_a_finding() -> None:
    """One line that can be red is the template's own; all others come from the tool inside."""
    template = (Path(__file__).parents[2] / "templates" / "commands" / "status.j2").read_text()
    own = {name.lower() for name in re.findall(r'":x:".*?\*([\w ]+):\*', template)}
    assert own == {LINES["page through the edge"].lower()}
    named = {name for row in FINDINGS.values() for name in row.checks}
    assert named == checks_of_the_tool() | {"page through the edge"}


def test_each_check_has_a_line_for_people_and_words_for_red() -> None:
    assert LINES.keys() == checks_of_the_tool() | {"page through the edge"}
    assert findings.red("queues") == "e-mail queue delayed"
    assert findings.red("services") == "services down", "nobody knows which of its findings it is"
    assert (findings.line("later"), findings.red("later")) == ("Later", "later down")


RED: Mapping[str, dict[str, Any]] = {
    "open": {},
    "services": {"stopped": ["nginx"]},
    "login page": {"stopped": ["php8.2-fpm"]},
    "database": {"stopped": ["mariadb"]},
    "work": {"overdue": "3 overdue events"},
    "queues": {"queue_age": 9000},
    "failed mail": {"failed_mails": [1_800_000_300.0]},
    "crons": {"crons_ended": 1.0},
    "log": {"log_errors": 50},
    "disk": {},
    "memory": {"memory": int(2.9 * GIB)},
    "page through the edge": {},
}


@pytest.mark.parametrize("name", sorted(checks_of_the_tool() | {"page through the edge"}))
def test_the_next_sweep_reports_what_status_shows_red(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("schedules.health.AGAIN", 0.0)
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    if name == "open":
        bench.context.fleet.hosts()[0].mautic.close("client-x", "for a test")
    if name == "disk":
        bench.lxd.fill("client-x", 27 * GIB)
    if name == "page through the edge":
        monkeypatch.setattr(bench.context.edge, "probe", lambda *_: Probe(502, False))
    look_for_an_hour(bench)
    change(bench.lxd, "client-x", **RED[name])
    shown = "\n".join(mrkdwn(bench.answer("status client-x").blocks))
    lines = re.findall(r"^:x: \*([^*]+):\*", shown, re.M)
    red = {check for check, line in LINES.items() if line in lines}
    assert len(red) == len(lines)
    assert name in red
    kinds = {kind for subject, kind in look(bench) if subject == "client-x"}
    told = kinds | findings.hidden(kinds)
    for line in red:
        assert told & {row.key for row in FINDINGS.values() if line in row.checks}, f"{line} is red, and nobody is told"


def test_a_tenant_that_cannot_be_checked_inside_is_red_in_status_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("schedules.health.AGAIN", 0.0)
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    bench.lxd.fail_next("execute", LxdUnavailable("LXD gave up after 20 s."))
    shown = "\n".join(mrkdwn(bench.answer("status client-x").blocks))
    assert ":x: LXD gave up after 20 s." in shown
    assert f"degraded: {FINDINGS['inside'].title}" in shown
    bench.lxd.fail_next("execute", LxdUnavailable("LXD gave up after 20 s."), times=2)
    assert look(bench) == [("client-x", "inside")]


def subject(key: str) -> str:
    return {Where.EDGE: EDGE, Where.LOG: LOG, Where.FLEET: FLEET}.get(FINDINGS[key].where, "local")


def opened(bench: Bench, *kinds: str) -> None:
    """Open incidents of these kinds."""
    of_tenant = tuple(Finding(key, f"It is {key}.") for key in kinds if findings.kind(key).of_tenant)
    others: dict[str, Diagnosis] = {}
    for key in kinds:
        if not findings.kind(key).of_tenant:
            had = others.get(subject(key), Diagnosis()).findings
            others[subject(key)] = Diagnosis((*had, Finding(key, f"It is {key}.")))
    with bench.context.database.transaction() as transaction:
        bench.context.incidents.judge(transaction, Seen({"client-x": Diagnosis(of_tenant)}, others))


def test_every_kind_is_shown_in_the_channel_the_digest_and_the_home_tab(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.done("new client-x")
    opened(bench, *FINDINGS)
    bench.context.incidents.announce()
    heads = [one["text"] for one in bench.slack.said if one["method"] == "chat.postMessage"]
    for row in FINDINGS.values():
        (head,) = [one for one in heads if f"_{row.meaning}_" in one and f"It is {row.key}." in one]
        assert row.title in head or row.headline
    digest = gather(bench.context, bench.clock() - 86_400)
    assert {one.kind for one in digest.open} == set(FINDINGS)
    grades = [one.row.severity for one in digest.open]
    assert grades == sorted(grades)
    shown = "\n".join(mrkdwn(home(bench.context, LEAD)))
    assert shown.index(FINDINGS["edge"].title) < shown.index(FINDINGS["worker"].title)
    assert bench.context.incidents.open()[0].row.severity is not Severity.OFFLINE, "they were not opened in that order"


def test_an_unknown_kind_of_a_later_release_is_still_shown(tmp_path: Path) -> None:
    """After a downgrade of the bot such an incident stays open, and is shown by its key."""
    bench = make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.done("new client-x")
    opened(bench, "of-a-later-release")
    bench.context.incidents.announce()
    assert "of-a-later-release" in bench.slack.said[-1]["text"]
    assert "degraded" in "\n".join(mrkdwn(bench.answer("list").blocks))
    assert [one.kind for one in gather(bench.context, 0).open] == ["of-a-later-release"]


def test_doctor_has_a_line_for_each_finding_that_is_not_about_a_tenant(tmp_path: Path) -> None:
    shown = "\n".join(mrkdwn(make_bench(tmp_path).answer("doctor").blocks))
    lines = set(re.findall(r"\*([\w ]+):\*", shown))
    assert {row.doctor for row in FINDINGS.values() if row.doctor} <= lines


sizes = st.builds(
    lambda memory, disk: PlanSize(2, f"{memory}GiB", f"{disk}GiB", 500, "128M", 4, 1),
    st.integers(1, 9),
    st.integers(1, 99),
)


@given(st.dictionaries(st.sampled_from("abcd"), sizes), st.integers(0, 99), st.integers(0, 9), st.sampled_from("abcd"))
def test_a_larger_plan_exists_gives_more_and_is_not_the_present_one(
    plans: dict[str, PlanSize], disk: int, memory: int, has: str
) -> None:
    for what, name in larger_plans(plans, disk * GIB, memory * GIB, has).items():
        assert name in plans
        assert name != has, "resize refuses the plan that it has already"
        assert size_bytes(plans[name].disk) >= disk * GIB
        assert size_bytes(plans[name].memory) >= memory * GIB
        assert size_bytes(getattr(plans[name], what)) > {"disk": disk, "memory": memory}[what] * GIB


def test_without_a_larger_plan_no_resize_is_suggested() -> None:
    plans = load(environment={}).plans
    largest = max(plans.values(), key=lambda size: size_bytes(size.disk))
    assert larger_plans(plans, size_bytes(largest.disk), size_bytes(largest.memory), "") == {}
    found = with_remedies("disk", Found("It is full."), {"tenant": "client-x"})
    assert found.text.startswith("It is full. No plan has more disk;")
    assert "/mautic" not in found.text
