"""One digest per local day, whatever fails: never two, never none, and a late one is marked as late."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from bot.model.labels import as_labels
from bot.reports import chart
from bot.reports.condition import Condition
from bot.slack.messages import Renderer
from bot.slack.poster import NotPosted
from bot.store import metrics
from bot.store.metrics import DAY
from schedules.digest import LATE, MOST, digest, pages
from tests.support.bot import ROOM_FOR_MANY, Bench, FakeSlack, make_bench
from tests.support.judge import mrkdwn

BERLIN = ZoneInfo("Europe/Berlin")
SETTINGS = {"MAUTIC_OPS_SLACK__CHANNEL": "C0OPS", "MAUTIC_OPS_BOT__TIMEZONE": "Europe/Berlin"}
PNG = b"\x89PNG a picture"


class Crash(BaseException):
    """The bot dies here."""


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[chart.Chart]:
    """Return a list that collects the charts to draw; drawing itself is tested elsewhere."""
    asked: list[chart.Chart] = []
    monkeypatch.setattr(chart, "png", lambda wanted: asked.append(wanted) or PNG)
    return asked


def at(text: str) -> float:
    """Return the epoch seconds of a local time in Berlin."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


def morning(folder: Path, when: str = "2026-11-25 08:00", **environment: str) -> Bench:
    """Return a bench on a morning, with a tenant that has no snapshot and is near the limit of its plan."""
    bench = make_bench(folder, **SETTINGS | environment)
    bench.clock.at = at(when) - 2 * DAY
    bench.done("new client-x")
    measured(bench, "client-x", 29 << 30)
    bench.clock.at = at(when)
    return bench


def measured(bench: Bench, tenant: str, used: int) -> None:
    """Record the use of a tenant's disk, as a sweep does."""
    with bench.context.database.transaction() as transaction:
        full = metrics.Reading(tenant, disk=used, disk_limit=30 << 30)
        metrics.record(transaction, bench.clock(), [full], {})


def parts(slack: FakeSlack) -> Counter[str]:
    """Return how often each part was posted, by its key."""
    keys: Counter[str] = Counter()
    for one in slack.said:
        keys.update([one["metadata"]["event_payload"]["key"]] if one.get("metadata") else [])
        keys.update(file["name"] for file in one.get("files", []))
    return keys


WHOLE = {
    "digest 2026-11-25": 1,
    "digest-2026-11-25.png": 1,
    "digest 2026-11-25 details 0": 1,
    "digest 2026-11-25 details 1": 1,
}


def text(message: dict[str, Any]) -> str:
    return "\n".join([message["text"], *mrkdwn(message["blocks"])])


def test_the_digest_is_posted_once_after_its_hour_with_chart_and_details_in_its_thread(tmp_path: Path) -> None:
    bench = morning(tmp_path, "2026-11-25 07:59")
    digest(bench.context)
    assert bench.slack.said == []
    for _ in range(3):
        bench.clock.move(60)
        digest(bench.context)
    head, picture, details, checkpoint = bench.slack.said
    assert "Audit checkpoint: 14 entries" in text(checkpoint)
    assert head["text"] == "Wednesday, 25 November: 2 things to check"
    assert "client-x (none)" in text(head)
    assert "Late" not in text(head)
    assert picture["alt_txt"] == "Closest to limit: client-x, disk 97%."
    assert (picture["thread_ts"], picture["files"][0]["content"]) == (head["ts"], PNG)
    assert details["thread_ts"] == head["ts"]
    assert parts(bench.slack) == WHOLE
    bench.clock.at = at("2026-11-26 08:00")
    digest(bench.context)
    assert parts(bench.slack)["digest 2026-11-26"] == 1


def test_without_a_channel_there_is_no_digest(tmp_path: Path) -> None:
    bench = morning(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="")
    digest(bench.context)
    assert bench.slack.said == []


def test_a_late_digest_is_marked_and_covers_the_missed_days(tmp_path: Path) -> None:
    bench = morning(tmp_path, "2026-11-20 08:00")
    digest(bench.context)
    bench.clock.at = at("2026-11-25 08:31")
    digest(bench.context)
    first, second = [one for one in bench.slack.said if not one.get("thread_ts")]
    assert ":hourglass: Late" in text(second)
    assert "2026-11-20 08:00 CET" in text(second), "since the last one"
    assert "Late" not in text(first)


def test_a_clock_that_was_ahead_suppresses_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = morning(tmp_path)
    digest(bench.context)
    for ahead in ("2026-11-26 10:00", "2026-11-27 10:00"):
        bench.clock.at = at(ahead)
        digest(bench.context)
    bench.clock.at = at("2026-11-25 10:05")
    digest(bench.context)
    said = len(bench.slack.said)

    bench.clock.at = at("2026-11-26 08:00")
    dying(bench, monkeypatch, 1, after=True)
    with pytest.raises(Crash):
        digest(bench.context)
    assert "2026-11-25 08:00 CET" in text(bench.slack.said[said]), "since the last one before it"
    for moment in ("2026-11-26 08:01", "2026-11-26 10:01", "2026-11-27 08:00", "2026-11-27 10:01"):
        bench.clock.at = at(moment)
        digest(bench.context)
    heads = [one for one in bench.slack.said[said:] if not one.get("thread_ts")]
    assert [one["text"].partition(":")[0] for one in heads] == ["Thursday, 26 November", "Friday, 27 November"]
    assert "2026-11-26 08:00 CET" in text(heads[1])
    posted = parts(bench.slack)
    assert set(posted.values()) == {1}
    assert len(posted) == 5 * len(WHOLE), "each is complete"


def test_a_clock_that_is_corrected_by_minutes_makes_no_second_digest(tmp_path: Path) -> None:
    bench = morning(tmp_path, "2026-11-25 08:10")
    digest(bench.context)
    bench.clock.move(-300)
    digest(bench.context)
    assert parts(bench.slack) == WHOLE


def test_a_chart_that_cannot_be_drawn_or_shared_does_not_stop_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(wanted: chart.Chart) -> bytes:
        raise chart.CannotDraw("Drawing took more than 30 s.")

    bench = morning(tmp_path)
    bench.slack.fail("files.completeUploadExternal", "missing_scope")
    digest(bench.context)
    assert "The chart could not be posted: Slack refuses it in C0OPS: missing" in text(bench.slack.said[1])
    assert len(bench.slack.said) == 4

    monkeypatch.setattr(chart, "png", fail)
    bench.clock.move(DAY)
    digest(bench.context)
    assert "The chart is missing: Drawing took more than 30 s." in text(bench.slack.said[4])
    assert len(bench.slack.said) == 7


def test_a_chart_for_which_the_answer_is_lost_is_posted_once_without_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = morning(tmp_path)
    share = bench.slack.files_upload_v2

    def lost(**picture: Any) -> None:
        share(**picture)
        raise TimeoutError("timed out")

    monkeypatch.setattr(bench.slack, "files_upload_v2", lost)
    with pytest.raises(NotPosted):
        digest(bench.context)
    bench.clock.move(60)
    digest(bench.context)
    assert parts(bench.slack) == WHOLE
    assert "could not be posted" not in str(bench.slack.said)


def test_a_chart_that_slack_never_confirms_delays_the_rest_only_for_a_while(tmp_path: Path) -> None:
    bench = morning(tmp_path)
    bench.slack.fail("files.completeUploadExternal", OSError("<urlopen error timed out>"), times=2)
    with pytest.raises(NotPosted):
        digest(bench.context)
    bench.clock.move(LATE)
    digest(bench.context)
    _, instead, details, _ = bench.slack.said
    assert "could not be posted: Slack does not answer: &lt;urlopen error timed out&gt;." in text(instead)
    assert details["thread_ts"] == instead["thread_ts"]


def test_after_a_lost_answer_slack_is_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = morning(tmp_path)
    dying(bench, monkeypatch, 1, after=True)
    with pytest.raises(Crash):
        digest(bench.context)
    digest(bench.context)
    assert bench.slack.calls["conversations.history"] == 1
    assert bench.slack.calls["conversations.replies"] == 0
    assert parts(bench.slack) == WHOLE


def test_the_first_digest_of_a_bot_that_was_set_up_after_the_hour_is_not_late(tmp_path: Path) -> None:
    bench = morning(tmp_path, "2026-11-25 14:00")
    digest(bench.context)
    assert "Late" not in text(bench.slack.said[0])


def test_the_details_in_the_thread_are_limited(tmp_path: Path, drawn: list[chart.Chart]) -> None:
    bench = make_bench(tmp_path, **SETTINGS, **ROOM_FOR_MANY)
    for number in range(MOST + 30):
        name = f"client-{number}"
        config = as_labels(role="tenant", tenant=name, domain=f"{name}.test", plan="small", state="live", created=1)
        bench.lxd.create(name, "base", config=config, devices={})
        bench.lxd.start(name)
    measured(bench, "client-7", 31 << 30)
    bench.clock.at = at("2026-11-25 08:00")
    digest(bench.context)
    details = [one for one in bench.slack.said if "details" in str(one.get("metadata"))]
    shown = "\n".join(map(text, details))
    assert len(set(re.findall(r"\*(client-\d+)\*", shown))) == MOST
    assert "*client-7*" in text(details[0]), "the worst first"
    assert "30 more: `/mautic digest" in text(details[-1])
    assert [bar.name for bar in drawn[0].bars] == ["client-7"]


def test_details_that_are_too_long_for_a_message_continue_in_the_next() -> None:
    why = "No job has run for 40 min. " * 25
    incidents = [
        SimpleNamespace(closed=None, title=f"job {number} late", opened=1.8e9, text=why) for number in range(4)
    ]
    tenant = {
        "host": "local",
        "condition": Condition("degraded"),
        "incidents": incidents,
        "missing": False,
        "newest": None,
    }
    tenant |= {"taken": 0, "disk": None, "memory": None, "operations": [], "high": ()}
    sick: Any = [SimpleNamespace(name=f"client-{number}", **tenant) for number in range(30)]
    told = "\n".join(said for page in pages(Renderer(), sick) for said in mrkdwn(page.blocks))
    assert re.findall(r"\*(client-\d+)\*", told) == [one.name for one in sick]
    assert told.count("late since") == 30 * 4
    assert "… cut" not in told


def dying(bench: Bench, monkeypatch: pytest.MonkeyPatch, moment: int, after: bool) -> None:
    """Let the bot die at its n-th call of Slack, before or after Slack accepts it."""
    calls = 0
    real = bench.slack._say

    def say(method: str, message: dict[str, Any]) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == moment and not after:
            raise Crash
        answer = real(method, message)
        if calls == moment:
            raise Crash
        return answer

    monkeypatch.setattr(bench.slack, "_say", say)


@pytest.mark.parametrize("moment", [1, 2, 3])
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_moment_neither_doubles_nor_loses_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int, after: bool
) -> None:
    bench = morning(tmp_path)
    dying(bench, monkeypatch, moment, after)
    with pytest.raises(Crash):
        digest(bench.context)
    again = make_bench(tmp_path, bench.lxd, slack=bench.slack, **SETTINGS)
    again.clock.at = bench.clock() + 120
    digest(again.context)
    digest(again.context)
    assert parts(bench.slack) == WHOLE


@pytest.mark.parametrize(
    "moment", ["INSERT ON digests", "UPDATE ON digests", "UPDATE ON digests WHEN NEW.ended IS NOT NULL"]
)
def test_a_database_that_cannot_be_written_neither_doubles_nor_loses_the_digest(tmp_path: Path, moment: str) -> None:
    bench = morning(tmp_path)
    database = bench.context.database
    with database.transaction() as transaction:
        transaction.execute(f"CREATE TRIGGER full BEFORE {moment} BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(Exception, match="full"):
        digest(bench.context)
    with database.transaction() as transaction:
        transaction.execute("DROP TRIGGER full")
    digest(bench.context)
    assert parts(bench.slack) == WHOLE


def test_an_outage_of_slack_delays_the_digest_which_is_then_up_to_date(tmp_path: Path) -> None:
    bench = morning(tmp_path)
    bench.slack.fail("chat.postMessage", TimeoutError("timed out"))
    with pytest.raises(NotPosted):
        digest(bench.context)
    bench.clock.move(3600)
    bench.slack.fail("conversations.history", TimeoutError("timed out"))
    with pytest.raises(NotPosted):
        digest(bench.context)
    bench.lxd.snapshot("client-x", "s-1")
    bench.lxd.world.machines["client-x"].snapshots[0].created = int(bench.clock())
    digest(bench.context)
    assert parts(bench.slack) == WHOLE
    assert "Late" in text(bench.slack.said[0])
    assert "none at all" not in text(bench.slack.said[0])


class Year:
    """A year in Berlin: the job runs every few minutes, the bot is down at times and crashes, and its clock jumps."""

    def __init__(self, folder: Path, seed: int, hour: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.hour = hour
        self.environment = SETTINGS | {"MAUTIC_OPS_DIGEST__HOUR": str(hour)}
        self.bench = make_bench(folder, **self.environment)
        self.bench.done("new client-x")
        measured(self.bench, "client-x", 29 << 30)
        self.ended: set[str] = set()
        self.marked: dict[str, bool] = {}

    def restart(self) -> None:
        """End the process, and begin another."""
        clock = self.bench.clock()
        self.bench.context.database.close()
        self.bench = make_bench(self.folder, self.bench.lxd, slack=self.bench.slack, **self.environment)
        self.bench.clock.at = clock

    def look(self) -> None:
        """Run the job once; the bot may die at any call of Slack, before or after Slack accepts it."""
        local = datetime.fromtimestamp(self.bench.clock(), BERLIN)
        real, calls = self.bench.slack._say, self.chance.choice([0, 1, 2, 3, 99, 99])
        after = self.chance.random() < 0.5

        def say(method: str, message: dict[str, Any]) -> dict[str, Any]:
            nonlocal calls
            calls -= 1
            if calls == 0 and not after:
                raise Crash
            answer = real(method, message)
            if calls == 0:
                raise Crash
            return answer

        self.bench.slack._say = say  # type: ignore[method-assign]
        before = len(self.bench.slack.said)
        try:
            digest(self.bench.context)
            if local.hour >= self.hour:
                self.ended.add(local.date().isoformat())
        except Crash:
            self.restart()
        finally:
            self.bench.slack._say = real  # type: ignore[method-assign]
        for one in self.bench.slack.said[before:]:
            if not one.get("thread_ts"):
                after_the_hour = self.bench.clock() - at(f"{local.date()} {self.hour:02}:00")
                self.marked[f"{local.date()}"] = ("Late" in text(one)) == (after_the_hour > LATE)


@pytest.mark.parametrize(("seed", "hour"), [(2, 2), pytest.param(1, 8, marks=pytest.mark.long)])
def test_a_year_with_downtimes_crashes_and_clock_jumps_has_one_digest_a_day(
    tmp_path: Path, seed: int, hour: int
) -> None:
    year = Year(tmp_path, seed, hour)
    clock, chance = year.bench.clock, year.chance
    clock.at = at("2026-01-01 00:00")
    jumps: list[Callable[[], float]] = [
        lambda: chance.uniform(-3, 3) * 3600,
        lambda: chance.uniform(-2, 2) * DAY,
    ]
    while clock() < at("2027-01-01 00:00"):
        year.look()
        clock = year.bench.clock
        clock.move(chance.uniform(8, 29) * 60)
        if chance.random() < 0.002:
            clock.move(chance.choice([0.5, 5, 30, 80]) * 3600)
            year.restart()
        if chance.random() < 0.001:
            year.bench.clock.move(chance.choice(jumps)())
    posted = parts(year.bench.slack)
    heads = {key: count for key, count in posted.items() if key.startswith("digest 2") and "details" not in key}
    assert set(posted.values()) == {1}, "nothing is posted twice"
    assert year.ended <= {key.removeprefix("digest ") for key in heads}, "no day is left out"
    assert len(year.ended) > 300
    for day in year.ended:
        assert posted[f"digest-{day}.png"] == posted[f"digest {day} details 0"] == 1, "and each is complete"
    assert all(year.marked.values()), "the late ones are marked late, and no others"
    assert "digest 2026-03-29" in heads
    assert "digest 2026-10-25" in heads
    assert json.loads(year.bench.context.database.read("SELECT said FROM digests LIMIT 1")[0]["said"]) == []
