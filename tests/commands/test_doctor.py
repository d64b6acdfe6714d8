"""`/mautic doctor`, over a simulated LXD: every part is checked, and one failure does not hide the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bot.edge.probe import Probe
from bot.lxd.protocol import NotFound, PoolSpace
from tests.support.bot import OPERATOR, Bench, make_bench
from tests.support.simulated_lxd import SimulatedLxd


def parts(bench: Bench) -> str:
    return json.dumps(bench.answer("doctor").blocks)


def test_a_healthy_bot_reports_every_part_as_well(tmp_path: Path) -> None:
    said = parts(make_bench(tmp_path, MAUTIC_OPS_SLACK__CHANNEL="C0OPS"))
    for part in ("Servers", "Free space", "Blueprint", "Edge", "Audit log", "Operations", "Background jobs", "Channel"):
        assert part in said
    assert ":x:" not in said


def test_every_host_that_is_short_of_free_space_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedLxd, "pool", lambda _: PoolSpace(used=95, total=100))
    said = parts(make_bench(tmp_path, others={"solo": SimulatedLxd()}))
    assert "only 5 B of 100 B free on local, 5 B of 100 B free on solo. Enlarge the pool" in said


def test_a_bridge_that_differs_from_the_settings_is_named(tmp_path: Path) -> None:
    other = SimulatedLxd()
    other.ensure_project(pool_driver="btrfs", pool_size="30GiB", subnet="10.9.0.1/24")
    said = parts(make_bench(tmp_path, others={"solo": other}))
    assert ":x: *Network:* the bridge `mopsbr0` on solo has 10.9.0.1/24, but `lxd.subnet` is 10.70.0.1/24" in said


def test_a_bridge_from_an_earlier_version_is_named_until_it_is_closed(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.lxd.unclose()
    assert ":x: *Network:* the bridge on local was made by an earlier version" in parts(bench)
    bench.lxd.ensure_project(pool_driver="btrfs", pool_size="30GiB", subnet="10.70.0.1/24")
    assert ":x: *Network:*" not in parts(bench)


def test_paused_and_failed_jobs_are_named(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.context.jobs.pause("health", OPERATOR.id)
    bench.context.jobs.begin("purge")
    bench.context.jobs.end("purge", "LXD does not answer.")
    said = parts(bench)
    assert (
        ":x: *Background jobs:* `health` is paused; `purge` failed: LXD does not answer. "
        "Details: `/mautic schedule list`" in said
    )


def test_a_bot_without_a_channel_says_what_it_cannot_post(tmp_path: Path) -> None:
    assert ":x: *Channel:* `slack.channel` is not set, so no digest" in parts(make_bench(tmp_path))


def test_a_changed_audit_log_is_found(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.done("new client-x")
    with bench.context.database.transaction() as transaction:
        transaction.execute("DROP TRIGGER audit_is_append_only_update")
        transaction.execute("UPDATE audit SET actor = 'somebody else' WHERE seq = 2")
    said = parts(bench)
    assert "entry 2 was changed" in said
    assert "Servers" in said


def test_the_local_server_and_the_edge_are_repaired_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tmp_path, MAUTIC_OPS_LXD__ENDPOINT="/run/own.socket")
    asked: list[str] = []

    def keep(_: Path, endpoint: str, __: object) -> bool:
        asked.append(endpoint)
        return True

    monkeypatch.setattr("bot.lxd.local.server.keep", keep)
    gone = [True]

    def probe(domain: str) -> Probe:
        return Probe(0 if gone else 404, False, 0.0)

    monkeypatch.setattr(bench.context.edge, "probe", probe)
    monkeypatch.setattr(bench.context.edge, "apply", lambda **_: gone.clear())
    said = parts(bench)
    assert asked == ["/run/own.socket"]
    assert "the local server had crashed and was restarted" in said
    assert ":white_check_mark: *Edge:* was not reachable, and was restarted" in said


def test_a_missing_edge_is_named_with_the_command_that_creates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tmp_path)

    def apply(**_: object) -> None:
        raise NotFound("LXD could not read `edge`: instance not found.")

    monkeypatch.setattr(bench.context.edge, "probe", lambda _: Probe(0, False, 0.0))
    monkeypatch.setattr(bench.context.edge, "apply", apply)
    assert ":x: *Edge:* the edge is missing. Run `make prepare` on the bot's machine to create one" in parts(bench)
