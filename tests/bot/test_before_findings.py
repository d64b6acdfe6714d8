"""Incidents of a bot from before the table of findings continue: same incidents, same threads.

`before_findings.json.xz` has the database of commit eca71c4 and what that bot had posted in Slack: an open incident of
each kind of finding that it knew, one of them silenced, and one closed incident.
"""

from __future__ import annotations

import json
import lzma
import sqlite3
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bot.model.findings import FINDINGS
from bot.store import audit
from schedules.health import health
from schedules.incidents import incidents
from tests.support.bot import OPERATOR, Bench, make_bench, make_desk

BEFORE = Path(__file__).with_name("before_findings.json.xz")
KINDS = {
    *("stopped", "inside", "database", "web", "page", "worker", "cron", "jobs", "queue", "failed", "work", "log"),
    *("memory", "disk", "certificate", "snapshot", "snapshots", "address", "move", "errand"),
    *("server", "edge", "pool", "strain", "quotas", "audit"),
}
"""Every kind of finding that the old bot knew."""


@cache
def before() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lzma.decompress(BEFORE.read_bytes()))
    return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Today's bot on that database, with client-x and client-y on its host, both healthy."""
    monkeypatch.setattr("schedules.health.AGAIN", 0.0)
    world = make_bench(tmp_path / "world")
    for name in ("client-x", "client-y"):
        world.done(f"new {name}")
    state = tmp_path / "state"
    state.mkdir()
    for name, content in before()["keys"].items():
        (state / name).write_bytes(bytes.fromhex(content))
    connection = sqlite3.connect(state / "bot.db")
    connection.executescript(before()["sql"])
    connection.close()
    bench = make_bench(state, world.lxd, slack=world.slack, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
    bench.slack.said[:] = before()["said"]
    bench.clock.move(before()["at"] - bench.clock())
    return bench


def posted(bench: Bench) -> list[dict[str, Any]]:
    return [one for one in bench.slack.said if one["method"] == "chat.postMessage" and one["channel"] == "C0OPS"]


def test_every_open_kind_is_still_open_and_is_in_the_table_of_findings(bench: Bench) -> None:
    there = bench.context.incidents.open()
    assert {one.kind for one in there} == KINDS
    assert set(FINDINGS) >= KINDS, "databases contain these keys, so that only a migration can remove one"
    for incident in there:
        assert FINDINGS[incident.kind].title in str(bench.context.incidents.head(incident).blocks)


def test_threads_continue_and_none_is_begun_again(bench: Bench) -> None:
    heads = {one["ts"] for one in posted(bench) if not one.get("thread_ts")}
    known = {one.id: one.message_ts for one in bench.context.incidents.open()}
    assert set(known.values()) <= heads
    incidents(bench.context)
    bench.clock.move(300)
    health(bench.context)
    incidents(bench.context)
    assert {one["ts"] for one in posted(bench) if not one.get("thread_ts")} == heads
    over = {number for number, ts in known.items() if "Resolved:" in shown(bench, ts)}
    # What a sweep of a simulated host and two healthy tenants cannot judge stays open; all else has recovered.
    assert {one.kind for one in bench.context.incidents.open()} == {"audit", "certificate", "quotas"}
    assert over == known.keys() - {one.id for one in bench.context.incidents.open()}
    told = [one for one in posted(bench) if one.get("thread_ts") in known.values() and "Resolved after" in one["text"]]
    assert len(told) == len(over) - 1, "the silenced one says nothing"
    assert audit.verify(bench.context.database).broken == 0


def shown(bench: Bench, ts: str) -> str:
    """Return the current text of a message."""
    text: str = [one for one in bench.slack.said if one["ts"] == ts and not one.get("thread_ts")][-1]["text"]
    return text


@pytest.mark.parametrize(("kind", "part"), [("database", "database"), ("page", "web"), ("queue", "worker")])
def test_a_button_of_an_old_message_still_works(bench: Bench, kind: str, part: str) -> None:
    desk = make_desk(bench)
    (incident,) = [one for one in bench.context.incidents.open() if (one.kind, one.tenant) == (kind, "client-x")]
    desk.click("incident_restart", incident.mark, OPERATOR)
    operation = desk.last()
    assert (operation.command, operation.arguments["part"]) == ("restart", part)
