"""Whatever a tenant answers to any request, the bot carries on and the other tenants lose nothing."""

from __future__ import annotations

import base64
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.engine import health_checks
from bot.guest import answers
from bot.guest.answers import BODY, SHAPES, Text, decode
from bot.guest.blueprint.archive import Archive
from bot.guest.blueprint.furniture import furnish, unfurnish
from bot.guest.consent import Consent
from bot.guest.mautic import Mautic
from bot.guest.untrusted import ENTRIES, LINES, LONG, TABLES, TEXT
from bot.guest.upgrade_answers import CACHE
from bot.guest.upgrades import Upgrades
from bot.lxd.protocol import LxdError, TenantAnswerError
from bot.model.labels import as_labels
from bot.model.plan import Refused
from bot.model.words import tame
from bot.store import audit, metrics
from schedules import health as sweep
from schedules.digest import digest
from schedules.health import health
from schedules.incidents import incidents
from tests.mautic_double.build import build
from tests.support.bot import ASKER, OPERATOR, Bench, make_bench, make_desk
from tests.support.simulated_lxd import SimulatedLxd

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**53,
    2**63,
    2**1100,
    1.5,
    -(2.0**70),
    "",
    "x" * 40_000,
    "\ud800",
    "\x00\x1b[31m\u202e",
    "<!channel> *bold* `code",
    [],
    [[]],
    {},
    {"ok": True},
    {str(number): number for number in range(5000)},
)
"""Values that replace parts of an answer."""
MISSING = object()


def parts(answer: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path to each part of an answer, the whole answer first."""
    yield path
    for key, value in answer.items() if isinstance(answer, dict) else ():
        yield from parts(value, (*path, key))


def with_part(answer: Any, path: tuple[str, ...], value: Any) -> Any:
    """Return the answer with this part replaced, or removed where the value is MISSING."""
    if not path:
        return None if value is MISSING else value
    rest = {key: found for key, found in answer.items() if key != path[0]}
    if path[1:] or value is not MISSING:
        rest[path[0]] = with_part(answer[path[0]], path[1:], value)
    return rest


def text_of(answer: Any) -> bytes:
    """Encode an answer as a tenant may: JSON with lone surrogates and numbers of any length."""
    return json.dumps(answer).encode()


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The answers of a healthy tenant, by verb."""
    bench = make_bench(tmp_path_factory.mktemp("honest"))
    said: dict[str, Any] = {}
    speak = bench.lxd.speak

    def listening(lxd: SimulatedLxd, name: str, command: list[str], sent: bytes) -> Iterator[bytes]:
        for verb, line in zip((command[-1], "let go"), speak(lxd, name, command, sent), strict=False):
            said[verb] = json.loads(line)
            yield line

    bench.lxd.speak = listening
    bench.done("new client-x")
    health(bench.context)
    for text in ASKED:
        bench.answer(text, OPERATOR) if text.split()[0] in QUERIES else bench.done(text, OPERATOR)
    host = bench.context.fleet.of(bench.context.fleet.tenant("client-x"))
    host.mautic.used("client-x")
    host.mautic.sync("client-x")
    found = Consent(host.mautic).count("client-x", 0)
    host.mautic.stop_work("client-x")
    opt_out = {"contact": 1, "email": "ann@x.test", "channel": "email", "reason": 1, "at": 1}
    Consent(host.mautic).withdraw("client-x", replace(found, said=(opt_out,)))
    host.mautic.unquiesce("client-x")
    host.mautic.wait_for_page("client-x")
    host.mautic.pages("client-x", thrown_away=True)
    host.mautic.call("client-x", "version", {})
    furnish(host.lxd, "client-x", every=60)
    unfurnish(host.lxd, "client-x", 1)
    _ask_all_of_an_upgrade(host.mautic, tmp_path_factory.mktemp("archive"))
    return said


def _ask_all_of_an_upgrade(mautic: Mautic, folder: Path) -> None:
    upgrades, archive = Upgrades(mautic), folder / "double.zip"
    sha256 = build(archive, "6.0.10")
    mautic.lxd.update("client-x", as_labels(version="5.2.12+double"))
    upgrades.stage("client-x", Archive(archive, sha256, "6.0.10+double"))
    mautic.stop_work("client-x")
    upgrades.record("client-x")
    upgrades.upgrade("client-x", "6.0.10+double")
    upgrades.swap("client-x", "6.0.10+double")
    upgrades.warm("client-x")
    upgrades.migrate("client-x")
    upgrades.reload("client-x")
    upgrades.up_to_date("client-x")
    upgrades.assets("client-x")
    upgrades.evidence("client-x")
    upgrades.pack_cache("client-x")
    upgrades.discard("client-x")


QUERIES = ("status", "logs", "console")
ASKED = (
    "status client-x",
    "logs client-x",
    "console client-x mautic:import",
    "snapshot client-x",
    "stop client-x",
    "start client-x",
    "resize client-x --plan large",
    "suspend client-x",
    "status client-x",
    "resume client-x",
)


def test_every_answer_of_a_healthy_tenant_is_accepted(honest: dict[str, Any]) -> None:
    assert honest.keys() >= SHAPES.keys() - {
        "install", "generalise", "quiesce", "unquiesce", "counts", "restart", "lay_cache",
        "send_own", "taking", "take_own", "adopt",
    }  # fmt: skip
    for verb, answer in honest.items():
        told = decode("client-x", verb, text_of(answer))
        _is_part_of(told, answer)


def _is_part_of(told: dict[str, Any], answer: dict[str, Any]) -> None:
    for key, value in told.items():
        if isinstance(value, dict):
            _is_part_of(value, answer[key])
        elif isinstance(value, bytes):
            assert value == base64.b64decode(answer[key])
        else:
            assert answer.get(key, value) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def _believed(verb: str, line: bytes) -> Any:
    try:
        return decode("client-x", verb, line)
    except LxdError as error:
        said = str(error)
    assert "`client-x`" in said
    _within_bounds(said)
    assert len(said) < 2 * TEXT
    return {}


@given(st.sampled_from(sorted(SHAPES)), st.binary(max_size=400) | JSON.map(text_of))
def test_any_bytes_are_an_answer_or_an_error_that_names_the_tenant(verb: str, line: bytes) -> None:
    _believed(verb, line)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_altered_answer_is_within_bounds_or_an_error(honest: dict[str, Any], data: st.DataObject) -> None:
    verb = data.draw(st.sampled_from(sorted(honest)))
    path = data.draw(st.sampled_from(list(parts(honest[verb]))))
    value = data.draw(st.sampled_from((MISSING, *HOSTILE)) | JSON)
    _within_bounds(_believed(verb, text_of(with_part(honest[verb], path, value))))


def _within_bounds(told: Any, entries: int = ENTRIES) -> None:
    if isinstance(told, dict):
        assert len(told) <= entries
        for key, value in told.items():
            assert len(key) <= TEXT
            _within_bounds(value, TABLES if key == "counts" else ENTRIES)
    elif isinstance(told, list):
        assert len(told) <= LINES
        for value in told:
            _within_bounds(value)
    elif isinstance(told, bytes):
        assert len(told) <= CACHE
    elif isinstance(told, str):
        told.encode()
        assert len(told) <= LONG
        assert "\x00" not in told
    elif isinstance(told, bytes):
        assert len(told) <= BODY
    elif told is not None:
        assert -256 <= told < 2**53 or told >= -(2**31)


def test_a_long_text_is_cut_and_line_breaks_stay() -> None:
    assert Text("a\nb\tc").text == "a\nb\tc"
    assert len(Text("x" * 100_000).text) == LONG
    assert tame("abc", 2) == "a\N{HORIZONTAL ELLIPSIS}"


def test_characters_that_no_message_can_contain_are_replaced() -> None:
    untamed = [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)]
    for code in (*untamed, *range(0x202A, 0x202F), *range(0x2066, 0x206A)):
        assert tame(f"a{chr(code)}b", 10) == "a\N{REPLACEMENT CHARACTER}b", hex(code)


class Fleet:
    """A bot with two tenants. `says` returns what client-x answers to a verb; None: its honest answer."""

    def __init__(self, folder: Path) -> None:
        self.bench: Bench = make_bench(folder, MAUTIC_OPS_SLACK__CHANNEL="C0OPS")
        self.bench.done("new client-x")
        self.bench.done("new client-y")
        self.honest = self.bench.lxd.speak
        self.says: Callable[[str], bytes | None] = lambda _: None
        self.bench.lxd.speak = self._speak

    def _speak(self, lxd: SimulatedLxd, name: str, command: list[str], sent: bytes) -> Iterator[bytes]:
        line = self.says(command[-1]) if name == "client-x" else None
        if line is None:
            yield from self.honest(lxd, name, command, sent)
        else:
            yield from itertools.repeat(line)

    def swept(self) -> dict[str, set[str]]:
        """Run the sweep, the incidents job and the digest; return the kinds of open incidents by subject."""
        self.bench.clock.move(300)
        health(self.bench.context)
        incidents(self.bench.context)
        self.bench.clock.move(86_400)
        digest(self.bench.context)
        self.bench.answer("digest")
        self.bench.answer("list")
        found: dict[str, set[str]] = {}
        for one in self.bench.context.incidents.open():
            # The clock skipped a day on which nobody took a snapshot.
            if one.kind != "snapshot":
                found.setdefault(one.subject, set()).add(one.kind)
        return found

    def is_whole(self) -> None:
        """Check that client-y lost nothing, that the audit log is intact and that its entries are short."""
        measured = metrics.latest(self.bench.context.database, self.bench.clock())
        assert measured["client-y"].contacts == 1200
        assert audit.verify(self.bench.context.database).broken == 0
        longest = self.bench.context.database.read("SELECT max(length(detail)) AS most FROM audit")[0]["most"]
        assert longest < 10_000


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr(sweep, "AGAIN", 0.0)
    monkeypatch.setattr("bot.reports.chart.png", lambda _: b"\x89PNG")
    return Fleet(tmp_path)


def shown(line: bytes) -> str:
    return repr(line[:24])


NONSENSE = (b"", b"nonsense", b'{"ok": true}', b'{"ok": true, "facts": {}}', b"[" * 90_000, b"\xff" * 2_000_000)


@pytest.mark.parametrize("line", NONSENSE, ids=shown)
def test_a_tenant_that_answers_nonsense_harms_only_itself(fleet: Fleet, line: bytes) -> None:
    fleet.says = lambda _: line
    found = fleet.swept()
    assert found == {"client-x": {"inside"}}
    fleet.is_whole()
    (told,) = fleet.bench.context.incidents.open()
    assert "`client-x` answers" in told.text
    fleet.says = lambda _: None
    assert fleet.swept() == {}


def test_a_health_check_that_never_ends_is_reported_and_blocks_nobody(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_checks, "BUDGET", 1.0)
    ended = threading.Event()
    fleet.says = lambda _: b"" if ended.wait(60) else None
    try:
        fleet.bench.clock.move(300)
        health(fleet.bench.context)
        (found,) = fleet.bench.context.incidents.open()
        assert (found.subject, found.kind) == ("client-x", "inside")
        assert "did not answer within 1 seconds" in found.text
        fleet.is_whole()
    finally:
        ended.set()


def test_a_hostile_part_of_an_answer_harms_only_its_tenant(fleet: Fleet, honest: dict[str, Any]) -> None:
    """Replaces each part of the answer twice, by the next hostile value: nothing, a wrong type, a huge figure …"""
    places = [path for path in parts(honest["health"]) if path]
    values = itertools.cycle((MISSING, *HOSTILE))
    for path, value in [(path, next(values)) for path in places * 2]:
        line = text_of(with_part(honest["health"], path, value))
        fleet.says = lambda verb, line=line: line if verb == "health" else None  # type: ignore[misc]
        fleet.bench.clock.move(300)
        health(fleet.bench.context)
        fleet.bench.answer("status client-x")
        # The loop takes hours of the clock, in which nobody takes a snapshot.
        found = {one.subject for one in fleet.bench.context.incidents.open() if one.kind != "snapshot"}
        assert found <= {"client-x"}, (path, value)
    fleet.swept()
    fleet.is_whole()


@pytest.mark.parametrize("value", [2**53 - 1, 2**53, 2**63 - 1, 2**63, 10**400], ids=lambda value: str(value)[:20])
def test_no_figure_breaks_the_hourly_and_daily_sums(fleet: Fleet, honest: dict[str, Any], value: int) -> None:
    """Measurements are summed up by hour and day, and the sum of two of the largest integers overflows."""
    facts = dict.fromkeys(("memory", "memory_limit", "log_errors_day", "contacts", "queue_age"), value)
    disk = {"used": value, "limit": value, "free": value}
    line = text_of(honest["health"] | {"facts": honest["health"]["facts"] | facts | {"disk": disk}})
    fleet.says = lambda verb: line if verb == "health" else None
    for _ in range(3):
        fleet.swept()
    fleet.is_whole()


def test_huge_figures_in_an_old_database_are_summed_up_too(fleet: Fleet) -> None:
    """A database from before answers were checked may contain any figure."""
    for _ in range(5):
        fleet.bench.clock.move(300)
        reading = metrics.Reading("client-x", memory=2**63 - 1, disk=2**63 - 1, contacts=2**63 - 1)
        with fleet.bench.context.database.transaction() as transaction:
            metrics.record(transaction, fleet.bench.clock(), [reading], {})
    fleet.swept()
    fleet.is_whole()


@pytest.mark.parametrize(
    "error", ["\ud800", "x" * 900_000, "\x00\x1b", "<!channel> `" * 50], ids=lambda error: error[:9]
)
def test_an_error_may_contain_anything(fleet: Fleet, error: str) -> None:
    fleet.says = lambda _: text_of({"ok": False, "error": error})
    assert fleet.swept() == {"client-x": {"inside"}}
    fleet.bench.answer("status client-x")
    assert fleet.bench.done("suspend client-x", OPERATOR).state in ("succeeded", "failed", "needs_attention")
    fleet.is_whole()


WORKS = ("snapshot", "stop", "suspend", "resize --plan large", "delete", "restart")


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize(
    "line", [*NONSENSE, text_of({"ok": False, "error": "\ud800" * 999})], ids=lambda line: line[:9]
)
def test_every_operation_on_a_hostile_tenant_ends(fleet: Fleet, work: str, line: bytes) -> None:
    fleet.says = lambda _: line
    verb, _, more = work.partition(" ")
    done = fleet.bench.done(f"{verb} client-x {more}".strip(), OPERATOR)
    assert done.state in ("succeeded", "failed", "needs_attention")
    assert fleet.bench.done("snapshot client-y", OPERATOR).state == "succeeded"
    assert audit.verify(fleet.bench.context.database).broken == 0


@pytest.mark.parametrize("text", ["status client-x", "logs client-x", "console client-x mautic:import", "list"])
@pytest.mark.parametrize("line", NONSENSE, ids=shown)
def test_every_query_gets_an_answer_or_a_clear_error(fleet: Fleet, text: str, line: bytes) -> None:
    fleet.says = lambda _: line
    if text.split()[0] in ("logs", "console"):
        with pytest.raises(TenantAnswerError, match="`client-x` answers"):
            fleet.bench.answer(text, OPERATOR)
    else:
        fleet.bench.answer(text, OPERATOR)


@pytest.mark.parametrize(
    "value", [-1, 2**37, 2**37 + 1, 2**53 - 1, 2**53, "x" * 9000, None, {}], ids=lambda value: str(value)[:9]
)
def test_an_unexpected_figure_keeps_no_operation_from_ending(fleet: Fleet, honest: dict[str, Any], value: Any) -> None:
    """Neither in what the card shows before approval (the age of the oldest mail), nor in a step."""
    said = {
        verb: text_of(_everywhere(answer, value))
        for verb, answer in honest.items()
        if verb in ("mail", "release", "disk", "counts", "logs", "console", "version", "page")
    }
    fleet.bench.done("snapshot client-x", OPERATOR)
    fleet.says = said.get
    for text in (
        "stop client-x",
        "start client-x",
        "suspend client-x",
        "resume client-x",
        "resize client-x --plan large",
    ):
        try:
            done = fleet.bench.done(text, OPERATOR)
        except (Refused, LxdError):
            continue
        assert done.state in ("succeeded", "failed", "needs_attention")
        assert done.error_id == "", text
    snapshot = fleet.bench.lxd.snapshots(fleet.bench.context.fleet.tenant("client-x").instance)[0].name
    for text in (f"restore client-x {snapshot}", "delete client-x", "mail client-x drop", "status client-x"):
        with suppress(Refused, LxdError):
            fleet.bench.answer(text, OPERATOR)


def _everywhere(answer: Any, value: Any) -> Any:
    """Return the answer with this value in place of each figure and text."""
    if isinstance(answer, dict):
        return {key: found if key in ("ok", "choice") else _everywhere(found, value) for key, found in answer.items()}
    return value


def test_the_audit_log_records_any_text_within_its_limit(fleet: Fleet) -> None:
    database = fleet.bench.context.database
    with database.transaction() as transaction:
        detail = {"why": "\ud800" + "x" * 40_000_000, "more": {"\udfff": ["\x00"] * 3}, "n": 2**70}
        audit.record(transaction, audit.Event("incident.opened", ASKER.id, "client-x", 0, detail), 1.0)
        many = {str(number): "x" * 4000 for number in range(1000)}
        audit.record(transaction, audit.Event("incident.opened", ASKER.id, "client-x", 0, many), 1.0)
    assert audit.verify(database).broken == 0
    assert all(len(row["detail"]) <= audit.DETAIL for row in audit.recent(database, limit=5))


def test_nothing_reads_from_a_tenant_except_through_its_checked_answers() -> None:
    """Nothing bounds the output of `execute`, which the host stores, or of `pull`, so a tenant could flood both."""
    root = Path(answers.__file__).parents[2]
    asks = re.compile(r"(lxd|server|source|target|there)\.(execute|pull)\(")
    found = {
        str(path.relative_to(root))
        for folder in ("bot", "commands", "schedules")
        for path in (root / folder).rglob("*.py")
        if asks.search(path.read_text())
    }
    # The edge and the blueprint are the bot's own; a simulated tenant keeps its state in its files.
    simulated = {f"bot/guest/simulated{part}.py" for part in ("", "_own", "_state", "_upgrade")}
    assert found == {"bot/guest/blueprint/build.py", "bot/fleet/bases.py", "bot/edge/edge.py", *simulated}


def test_a_very_long_answer_is_shown_within_slacks_limits(fleet: Fleet, honest: dict[str, Any]) -> None:
    long = "<&>" * 200
    facts = honest["health"]["facts"] | {"services": {f"{number}{long}": long for number in range(200)}}
    checks = {f"{number}{long}": {"ok": False, "text": long} for number in range(200)}
    line = text_of(honest["health"] | {"checks": checks, "facts": facts})
    fleet.says = lambda verb: line if verb == "health" else None
    assert "client-x" in fleet.swept()
    fleet.bench.answer("status client-x")
    desk = make_desk(fleet.bench, fleet.bench.slack)
    desk.command("status client-x")
    assert "client-x" in str(fleet.bench.slack.said[-1])
    fleet.is_whole()
