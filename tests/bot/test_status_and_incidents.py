"""`status` and incidents report the same problems, at the same thresholds, which are in the settings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.fleet.health import Look, Page, diagnose
from bot.guest.mautic import Mautic, disk_of
from bot.guest.simulated import SERVICES, change
from bot.lxd.protocol import InstanceState, LxdError
from bot.model.findings import FINDINGS
from bot.model.tenants import PlanSize, Tenant
from bot.settings import HealthSettings, load
from tests.support.simulated_lxd import SimulatedLxd

NOW = 1_800_000_000.0
GIB = 1 << 30
SIZE = PlanSize(2, "2GiB", "4GiB", 500, "128M", 4, 1)
TENANT = Tenant("client-x", "local", "local", "client-x", "Running", "x.test", "small", "5", "tenant", state="live")
LIMITS = load(environment={}).health


@pytest.fixture(scope="module")
def lxd(tmp_path_factory: pytest.TempPathFactory) -> SimulatedLxd:
    server = SimulatedLxd(clock=lambda: NOW, pool_bytes=100 * GIB)
    image: Path = tmp_path_factory.mktemp("image") / "image"
    image.write_bytes(b"image")
    server.import_image(str(image), "base", {})
    root = {"type": "disk", "path": "/", "pool": "pool", "size": "4GiB"}
    server.create("client-x", "base", config={"limits.memory": "2GiB"}, devices={"root": root})
    server.start("client-x")
    return server


def agree(lxd: SimulatedLxd, limits: HealthSettings) -> tuple[set[str], set[str]]:
    """Look once, compare what `status` shows with the findings, and return the red checks and the kinds of findings."""
    mautic = Mautic(lxd)
    inside = mautic.health("client-x", limits, SIZE)
    page = Page(inside["checks"]["login page"]["ok"], "HTTP 500", 0.1)
    look = Look(TENANT, NOW, InstanceState("Running"), size=SIZE, inside=inside, page=page)
    found = diagnose(replace_disk(look, inside), limits)
    red = {name for name, check in inside["checks"].items() if not check["ok"]}
    kinds = {finding.kind for finding in found.findings}
    for name in red:
        tell = {row.key for row in FINDINGS.values() if name in row.checks}
        assert tell & (kinds | found.unseen), f"`{name}` is red in status, and no incident reports it"
    told_by = {kind: {*FINDINGS[kind].checks} for kind in kinds}
    for kind, checks in told_by.items():
        assert checks & red, f"an incident reports `{kind}`, and status shows nothing red"
    return red, kinds


def replace_disk(look: Look, inside: dict[str, Any]) -> Look:
    return Look(**{**look.__dict__, "disk": disk_of(inside["facts"]["disk"])})


percent = st.integers(0, 100)


@given(
    stopped=st.sets(st.sampled_from(SERVICES), max_size=2),
    queue_age=st.integers(0, 8000),
    log_errors=st.integers(0, 50),
    memory=st.integers(0, 2 * GIB),
    disk=st.integers(0, 5 * GIB),
    limits=st.builds(
        partial(replace, LIMITS),
        memory=percent,
        disk=percent,
        pool=percent,
        queue_minutes=st.integers(0, 130),
        log_errors=st.integers(0, 50),
    ),
)
def test_status_and_incidents_agree_on_any_look(
    lxd: SimulatedLxd,
    stopped: set[str],
    queue_age: int,
    log_errors: int,
    memory: int,
    disk: int,
    limits: HealthSettings,
) -> None:
    lxd.fill("client-x", disk)
    change(lxd, "client-x", stopped=sorted(stopped), queue_age=queue_age, log_errors=log_errors, memory=memory)
    agree(lxd, limits)


@pytest.mark.parametrize(
    ("state", "disk", "check", "kind"),
    [
        ({"queue_age": LIMITS.queue_minutes * 60}, 0, "queues", "queue"),
        ({"log_errors": LIMITS.log_errors}, 0, "log", "log"),
        ({"memory": 2 * GIB * LIMITS.memory // 100}, 0, "memory", "memory"),
        ({}, 4 * GIB * LIMITS.disk // 100 - (1 << 16), "disk", "disk"),
    ],
)
def test_status_and_incidents_both_begin_at_the_threshold_of_the_settings(
    lxd: SimulatedLxd, state: dict[str, int], disk: int, check: str, kind: str
) -> None:
    more = {name: value + (1 << 17 if name == "memory" else 1) for name, value in state.items()}
    for at, full, sick in ((state, disk, False), (more, disk + (1 << 17 if disk else 0), True)):
        lxd.fill("client-x", full)
        change(lxd, "client-x", **{"stopped": [], "queue_age": 0, "log_errors": 0, "memory": 0} | at)
        red, kinds = agree(lxd, LIMITS)
        assert ((check in red), (kind in kinds)) == (sick, sick)


def test_the_tool_in_the_tenant_has_no_thresholds_of_its_own(lxd: SimulatedLxd) -> None:
    with pytest.raises((LxdError, KeyError)):
        Mautic(lxd).call("client-x", "health", {})
