"""`make bench-density N=60`: creates N tenants by one approval, leaves them idle, reboots; prints one JSON object.

On real LXD, with the bot's own process, through the local workspace and the edge; with the double's blueprint, or that
of `ARCHIVE=…` with `SHA256=…`. It writes density.json, and is not collected by `make test`. It gives up, and removes
everything, before the machine is overloaded: when less than 2 GiB of memory are available, or the load is above 40.
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bot.fleet.capacity import Demand, expected, room
from bot.lxd.gateway import LxdGateway
from bot.lxd.local import server as local_lxd
from bot.lxd.protocol import LxdError, NotFound, size_bytes
from bot.settings import load
from tests.bench.heartbeats import Heartbeats
from tests.bench.idle import held
from tests.bench.leftovers import cleared_up
from tests.bench.watch import Watch
from tests.support.real_lxd import LXD_PLACE, SHARED
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, World, settings_for

N = int(os.environ.get("N") or 60)
PEACE = 60 * float(os.environ.get("PEACE_MINUTES") or 15)
SETTLE = min(180.0, PEACE / 5)
"""Seconds from the last creation until the idle time is measured: the load is a mean of the last minute."""
EACH_PAGE = 120.0
"""Seconds in which each tenant's page is requested once."""
MORE = 200
"""Tenants that are requested in addition, to see how a full host refuses."""
PATIENCE = 30.0 * N + 600
"""Seconds for all tenants to be created, or to answer again."""
RESULT = Path(__file__).parents[2] / "density.json"
LIMITS = {
    "jobs_late": 0,
    "pages_failed": 0,
    "page_slowest_s": 0.5,
    "tenant_memory_mb": 110,
    "killed": 0,
}
"""What each figure may be at most."""


@pytest.fixture(scope="session", autouse=True)
def _ends_cleanly() -> Iterator[None]:
    """Let SIGTERM end the whole run as Ctrl-C does, and have everything removed even if the run is killed."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    with cleared_up():
        yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def crowd(host: LxdGateway, tmp_path: Path) -> Iterator[World]:
    """A bot over real parts only; the tenants that it created are deleted afterwards."""
    settings, environment = settings_for(host.endpoint, tmp_path / "state")
    policy, small, has = settings.capacity, settings.plans["small"], host.resources()
    demand = Demand("local", "", N * expected(policy, small), N * size_bytes(small.memory), N)
    if lacks := room("local", has, policy, (), ()).lacks(demand):
        pytest.fail(f"This machine does not carry {N} tenants: {lacks}.", pytrace=False)
    made = World(host, load(environment=environment), environment, tmp_path)
    try:
        yield made
    finally:
        made.kill()
        with ThreadPoolExecutor(4) as hands:
            list(hands.map(lambda name: _remove(host, name), names()))
        made.close()


def _remove(lxd: LxdGateway, name: str) -> None:
    with suppress(NotFound):
        lxd.stop(name, force=True)
        lxd.update(name, {"security.protection.delete": None})
        lxd.delete(name)


def names(first: int = 0, number: int = N) -> list[str]:
    """Return the names of `number` tenants, from the number `first` on."""
    return [f"crowd-{one}" for one in range(first, first + number)]


def ask(crowd: World, text: str) -> tuple[str, str]:
    """Request a batch; return the ts of its card and "", or "" and why it is refused."""
    before = {one["ts"] for one in crowd.workspace.messages(CHANNEL, "account-manager")}
    crowd.workspace.command("account-manager", CHANNEL, f"/mautic {text}")

    def answer() -> tuple[str, str] | None:
        for one in crowd.workspace.messages(CHANNEL, "account-manager"):
            if one["ts"] not in before and one.get("is_ephemeral"):
                return "", one["text"]
            if one["ts"] not in before and "waiting for approval" in json.dumps(one):
                return one["ts"], ""
        return None

    answered = eventually(answer, 300, pause=0.1)
    assert answered
    return answered


def create(crowd: World, watch: Watch) -> dict[str, Any]:
    """Have all tenants created by one request, approved once; return the figures of that until all answered."""
    asked = time.monotonic()
    card, refused = ask(crowd, f"new {','.join(names())}")
    if refused:
        pytest.fail(f"The bot refuses {N} tenants: {refused}", pytrace=False)
    planned_s = time.monotonic() - asked
    began = time.monotonic()
    crowd.workspace.click("ops-lead", CHANNEL, card, "approve")
    sql = "SELECT tenant, state, started, finished, outcome FROM operations WHERE command = 'new' AND parent > 0"

    def done() -> bool:
        watch.look()
        rows = crowd.bot.rows(sql)
        failed = [dict(row) for row in rows if row["state"] in ("failed", "needs_attention", "cancelled")]
        assert not failed, failed
        return len(rows) == N and all(row["state"] == "succeeded" for row in rows)

    eventually(done, PATIENCE, pause=0.5)
    answered = answer_times(crowd, watch, began)
    took = [row["finished"] - row["started"] for row in crowd.bot.rows(sql)]
    return {
        "planned_s": round(planned_s, 1),
        "created_s": round(max(answered), 1),
        "created_s_per_tenant": round(max(answered) / N, 2),
        "operation_median_s": round(statistics.median(took), 1),
        "operation_max_s": round(max(took), 1),
    }


def answer_times(crowd: World, watch: Watch, began: float) -> list[float]:
    """Request each tenant's page through the edge until all answer; return the seconds of each since `began`."""
    waiting, answered = set(names()), list[float]()

    def answers(name: str) -> bool:
        # A tenant that cannot be probed yet, because LXD itself is just coming back, does not answer.
        with suppress(LxdError):
            return crowd.edge.probe(domain(name)).login
        return False

    def look() -> bool:
        watch.look()
        asked = sorted(waiting)
        with ThreadPoolExecutor(8) as hands:
            for name, there in zip(asked, hands.map(answers, asked), strict=True):
                if there:
                    waiting.remove(name)
                    answered.append(time.monotonic() - began)
        return not waiting

    eventually(look, PATIENCE, pause=1.0)
    return answered


def domain(name: str) -> str:
    """Return the domain of a tenant."""
    return f"{name}.e2e.localhost"


@contextmanager
def visitors(crowd: World) -> Iterator[list[tuple[str, float, str]]]:
    """Meanwhile request each tenant's page in turn; yield the tenants, seconds, and what was wrong ("": nothing)."""
    over, seen = threading.Event(), list[tuple[str, float, str]]()

    def ask_in_turn() -> None:
        while True:
            for name in names():
                if over.wait(EACH_PAGE / N):
                    return
                began = time.perf_counter()
                found = crowd.edge.probe(domain(name))
                wrong = "" if found.login else found.error or f"HTTP {found.status}"
                seen.append((name, time.perf_counter() - began, wrong))

    thread = threading.Thread(target=ask_in_turn, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def peace(crowd: World, watch: Watch) -> dict[str, Any]:
    """Leave all tenants alone except for a page now and then; return what that costs, and what came late."""
    lxd = crowd.lxd
    cpu = {name: lxd.state(name).cpu for name in names()}
    began = time.time()
    with Heartbeats(lxd, names()).watching() as beats, visitors(crowd) as pages:
        while (left := began + PEACE - time.time()) > 0:
            watch.look()
            time.sleep(min(left, 1))
    ended = time.time()
    minutes = (ended - began) / 60
    spent = [(lxd.state(name).cpu - before) / 1e6 / minutes for name, before in cpu.items()]
    memory = [held(lxd, name) / (1 << 20) for name in names()]
    failed = [f"{name}: {wrong}" for name, _, wrong in pages if wrong]
    took = sorted(seconds for _, seconds, _ in pages)
    return {
        "peace_minutes": round(minutes, 1),
        "tenant_cpu_ms_per_min": round(statistics.mean(spent), 1),
        "tenant_memory_mb": round(statistics.mean(memory), 1),
        "tenant_memory_max_mb": round(max(memory), 1),
        **beats.judged(began, ended),
        "pages": len(took),
        "pages_failed": len(failed),
        "pages_failed_first": failed[:10],
        "page_median_s": round(statistics.median(took), 3),
        "page_slowest_s": round(took[-1], 3),
    }


def reboot(crowd: World, watch: Watch) -> dict[str, Any]:
    """Stop the bot and LXD with all its containers, start both again; return how long it takes until all answer."""
    crowd.bot.stop()
    began = time.monotonic()
    assert local_lxd.stop(SHARED), "it takes a daemon of the suite's own to restart"
    stopped_s = time.monotonic() - began
    began = time.monotonic()
    with ThreadPoolExecutor(1) as machine:

        def boot() -> float:
            local_lxd.up(SHARED, lambda _: None)
            took = time.monotonic() - began
            crowd.bot.start()
            return took

        # LXD answers once it has begun to start all containers, and clients may be served before.
        booted = machine.submit(boot)
        answered = answer_times(crowd, watch, began)
        lxd_s = booted.result()
    assert {one.name for one in crowd.lxd.instances() if one.running} >= set(names())
    return {
        "lxd_stopped_s": round(stopped_s, 1),
        "lxd_answers_s": round(lxd_s, 1),
        "half_answer_s": round(statistics.median(answered), 1),
        "all_answer_s": round(max(answered), 1),
    }


def test_many_tenants_stay_within_the_limits(crowd: World) -> None:
    assert not os.environ.get(LXD_PLACE.named), f"a reboot takes a daemon of the suite's own: unset {LXD_PLACE.named}"
    empty = crowd.lxd.resources()
    figures: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "tenants": N,
    }
    with Watch() as watch:
        figures |= create(crowd, watch)
        watch.phase = "settling"
        time.sleep(SETTLE)
        watch.phase = "peace"
        figures |= peace(crowd, watch)
        full = crowd.lxd.resources()
        figures["host_memory_mb_per_tenant"] = round((full.used - empty.used) / N / (1 << 20), 1)
        watch.phase = "asking for more"
        figures["refused"] = refusal(crowd)
        watch.phase = "reboot"
        figures |= reboot(crowd, watch)
        figures["killed"] = watch.killed
        figures["phases"] = watch.told()
    over = {name: figures[name] for name, most in LIMITS.items() if not figures.get(name, math.inf) <= most}
    text = json.dumps(figures | {"limits": LIMITS, "over": over, "ok": not over}, indent=2, ensure_ascii=False)
    RESULT.write_text(text + "\n")
    print(f"\n{text}")
    assert not over


def refusal(crowd: World) -> str:
    """Request more than the host carries; return the bot's refusal, "" if it would accept (the request is denied)."""
    card, refused = ask(crowd, f"new {','.join(names(N, MORE))}")
    if card:
        crowd.workspace.message("ops-lead", CHANNEL, "deny enough", thread_ts=card)
    return refused
