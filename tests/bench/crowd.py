"""`make crowd`: tenants asked for until the host refuses, then LXD restarted with all of them; prints one JSON object.

On real LXD, with the double's blueprint and the bot's own process. `TENANTS=8` keeps so much of the memory in reserve
that it refuses at about eight. Not collected by `make test`. It gives up, and takes everything away, before the machine
suffers: where less than 2 GiB are available, or the load is above 40.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.fleet.capacity import expected, reserved
from bot.lxd.gateway import LxdGateway
from bot.lxd.local import server as local_lxd
from bot.settings import load
from tests.support.real_lxd import SHARED
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, World, settings_for

FEW = int(os.environ.get("TENANTS") or 0)
MOST = 200
"""Tenants that are asked for at most: a host that refuses none of them is too large for this, or the rule is broken."""
AT_ONCE = 4
LEAST, HIGHEST = 2 << 30, 40.0
"""Bytes of memory, and the load, at which it is given up."""
SUFFERS = 20.0
"""The load below which the host is to stay."""
PATIENCE = 1800.0
"""Seconds for all of them to answer again."""


class Watch:
    """Keeps the least memory available (bytes) and the highest load that were seen, by phase."""

    def __init__(self) -> None:
        self.phase = "asking"
        self.seen: dict[str, dict[str, float]] = {}
        self.over = threading.Event()
        self.suffers = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._kills = _kills()

    def _run(self) -> None:
        while not self.over.wait(0.5):
            memory, load = _available(), os.getloadavg()[0]
            known = self.seen.setdefault(self.phase, {"min_available_mib": memory >> 20, "max_load": load})
            known["min_available_mib"] = min(known["min_available_mib"], memory >> 20)
            known["max_load"] = max(known["max_load"], load)
            if memory < LEAST or load > HIGHEST:
                self.suffers = f"{memory >> 20} MiB are available, and the load is {load:.0f}"

    @property
    def killed(self) -> int:
        """How many processes the kernel has killed for memory since the beginning."""
        return _kills() - self._kills

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        self._thread.start()
        yield self
        self.over.set()

    def look(self) -> None:
        """End the run where the host suffers."""
        if self.suffers:
            pytest.fail(f"given up: {self.suffers}")


def _available() -> int:
    found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    assert found
    return int(found[1]) * 1024


def _kills() -> int:
    found = re.search(r"^oom_kill (\d+)", Path("/proc/vmstat").read_text(), re.M)
    return int(found[1]) if found else 0


def policy(lxd: LxdGateway) -> dict[str, str]:
    """The environment of a bot that refuses at about FEW; as shipped without."""
    if not FEW:
        return {}
    settings, has = load(environment={}), lxd.resources()
    give = FEW * expected(settings.capacity, settings.plans["small"])
    assert has.available - give > reserved(settings.capacity, has.total), "there is not so much memory"
    return {"MAUTIC_OPS_CAPACITY__RESERVE": f"{(has.available - give) >> 20}MiB"}


@pytest.fixture
def watch() -> Iterator[Watch]:
    with Watch().watching() as watch:
        yield watch


@pytest.fixture
def crowd(host: LxdGateway, tmp_path: Path) -> Iterator[World]:
    """A bot of whom everything is real; what it made is gone afterwards."""
    _, environment = settings_for(host.endpoint, tmp_path / "state")
    environment |= policy(host)
    made = World(host, load(environment=environment), environment, tmp_path)
    yield made
    made.remove(*[f"crowd-{number}" for number in range(MOST)])
    made.close()


def ask(crowd: World, name: str) -> tuple[str, str]:
    """Ask for a tenant; the ts of its card and "", or "" and why it is refused."""
    before = {one["ts"] for one in crowd.workspace.messages(CHANNEL, "account-manager")}
    crowd.workspace.command("account-manager", CHANNEL, f"/mautic new {name}")

    def answer() -> tuple[str, str] | None:
        for one in crowd.workspace.messages(CHANNEL, "account-manager"):
            if one["ts"] not in before and one.get("is_ephemeral"):
                return "", one["text"]
            if one["ts"] not in before and f"tenant {name}*" in one["text"]:
                return one["ts"], ""
        return None

    answered = eventually(answer, 120)
    assert answered
    return answered


def approve(crowd: World, name: str, card: str) -> str:
    """Have it approved; "", or why it is refused now."""
    crowd.workspace.click("ops-lead", CHANNEL, card, "approve")

    def refusal() -> str:
        whispers = [one["text"] for one in crowd.workspace.messages(CHANNEL, "ops-lead") if one.get("is_ephemeral")]
        return next((text for text in whispers if f"`{name}`" in text), "")

    def decided() -> bool:
        (row,) = crowd.bot.rows("SELECT state FROM operations WHERE tenant = ?", name)
        return row["state"] != "awaiting_approval" or bool(refusal())

    eventually(decided, 120)
    return refusal()


def test_a_crowd(crowd: World, watch: Watch) -> None:
    cards: dict[str, str] = {}
    live: set[str] = set()
    refused, load_before = "", os.getloadavg()[0]
    began = time.monotonic()

    def under_way() -> int:
        watch.look()
        rows = crowd.bot.rows("SELECT tenant, state, outcome FROM operations WHERE command = 'new'")
        live.update(row["tenant"] for row in rows if row["state"] == "succeeded")
        failed = [dict(row) for row in rows if row["state"] in ("failed", "needs_attention", "cancelled")]
        assert not failed, failed
        return len(cards) - len(live)

    for number in range(MOST):
        eventually(lambda: under_way() < AT_ONCE, 300)
        name = f"crowd-{number}"
        card, refused = ask(crowd, name)
        if refused:
            break
        refused = approve(crowd, name, card)
        if refused:
            break
        cards[name] = card
    assert refused, f"{MOST} were let in"
    eventually(lambda: not under_way(), 600)
    asked_s = time.monotonic() - began
    for name in cards:
        assert crowd.edge.probe(f"{name}.e2e.localhost").login, name
    # The order of a boot is kept by a job, which need not have come by yet.
    crowd.run_job("boot")
    config = crowd.lxd.instance("crowd-0").config

    watch.phase = "restart"
    assert local_lxd.stop(SHARED), "it takes a daemon of the suite's own to restart"
    began = time.monotonic()
    local_lxd.up(SHARED, lambda _: None)
    lxd_s = time.monotonic() - began
    waiting = set(cards)

    def all_answer() -> bool:
        watch.look()
        waiting.difference_update([name for name in waiting if crowd.edge.probe(f"{name}.e2e.localhost").login])
        return not waiting

    eventually(all_answer, PATIENCE)
    answer_s = time.monotonic() - began
    assert {one.name for one in crowd.lxd.instances() if one.running} >= set(cards)
    figures: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load_before": round(load_before, 1),
        "tenants": len(cards),
        "refused": refused,
        "asked_s": round(asked_s, 1),
        "boot": {key: value for key, value in config.items() if key.startswith("boot.")},
        "lxd_answers_s": round(lxd_s, 1),
        "all_answer_s": round(answer_s, 1),
        "killed": watch.killed,
        **watch.seen,
    }
    # Of a few the load is somebody else's.
    suffered = not FEW and any(phase["max_load"] >= SUFFERS for phase in watch.seen.values())
    figures["ok"] = not watch.killed and not suffered
    print(f"\n{json.dumps(figures, indent=2, ensure_ascii=False)}")
    assert "of memory needed" in refused or "capacity.overcommit" in refused, refused
    assert figures["ok"]
