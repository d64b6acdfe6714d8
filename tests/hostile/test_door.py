"""Tenants whose root answers anything at all, on a real server: the bot stays small, quick and right about others."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bot.store.inbox import WORKERS
from tests.support.workspace import eventually
from tests.support.world import CHANNEL, TINY_VERSION, World

MOST = 150 << 10
"""kB of memory that the bot may use at most."""
LINE = '{"ok": true, "healthy": true, "checks": {}, "facts": {}}'
SAYS = {
    "flood": "exec cat /dev/zero",
    "lines": f"exec yes '{LINE}'",
    "sparse": "exec head -c 1500000000 /dev/zero",
    "nonsense": f"echo '{LINE}'; exec sleep 99",
    "silent": "exec sleep 99",
    "drip": "while printf x; do sleep 1; done",
    "deaf": "exec <&- >&- 2>&-; exec sleep 99",
    "lies": """printf '{"ok": false, "error": "%0200000d\\\\ud800"}\\n' 7; exec sleep 99""",
}
"""The script that replaces Python in a tenant, by the tenant's name."""
PAGES = {
    "page-huge": "dd if=/dev/zero of=/srv/www/s/login bs=1 count=1 seek=2147483647 2> /dev/null",
    "page-drips": "printf 'HTTP/1.1 200 OK\\r\\n\\r\\n'; while printf x; do sleep 1; done",
    "page-heads": "printf 'HTTP/1.1 200 OK\\r\\nX: '; while printf x; do sleep 1; done",
}
"""The script behind the login page of a tenant, by the tenant's name."""
SERVES = """
for one in /proc/[0-9]*; do ! grep -qs ^httpd $one/cmdline || kill ${one#/proc/}; done
(while ! nc -ll -p 80 -e /root/page; do sleep 0.1; done) < /dev/null > /dev/null 2>&1 &
"""


@pytest.fixture
def hostile(world: World) -> Iterator[World]:
    """A bot with a tenant of each kind, and a good one."""
    tenants = ("good", *SAYS, *PAGES)
    try:
        cards = [world.ask(f"new {tenant} --version {TINY_VERSION}") for tenant in tenants]
        for card in cards:
            world.approve(card)
        for card in cards:
            world.wait_for(card, "is live")
        for tenant, script in SAYS.items():
            world.lxd.push(world.present(tenant), "/usr/bin/python3", f"#!/bin/sh\n{script}\n".encode(), mode=0o755)
        for tenant, script in PAGES.items():
            name = world.present(tenant)
            world.lxd.push(name, "/root/page", f"#!/bin/sh\n{script}\n".encode(), mode=0o755)
            serves = "/root/page" if tenant == "page-huge" else SERVES
            assert world.lxd.execute(name, ["sh", "-c", serves]).code == 0
        yield world
    finally:
        world.remove(*tenants)


def _status(world: World) -> Mapping[str, int]:
    """Return the kernel's figures of the bot's process: `VmHWM`, its peak memory in kB, and `Threads`."""
    assert world.bot.process
    lines = Path(f"/proc/{world.bot.process.pid}/status").read_text()
    return {name: int(found) for name, found in re.findall(r"(VmHWM|Threads):\s+(\d+)", lines)}


def _found(world: World) -> dict[str, set[str]]:
    """Return the kinds of the open incidents that the bot has recorded, by tenant."""
    found: dict[str, set[str]] = {}
    for row in world.bot.rows("SELECT tenant, kind FROM incidents WHERE closed IS NULL"):
        # Other tenants on the server belong to other tests.
        if row["tenant"] in {"good", *SAYS, *PAGES}:
            found.setdefault(row["tenant"], set()).add(row["kind"])
    return found


def _left_on_host(world: World) -> list[str]:
    """Return the outputs of commands that LXD keeps."""
    names = [one.name for one in world.lxd.instances()]
    logs = [log for name in names for log in world.lxd.connection.get(f"instances/{name}/logs", "list the logs")]
    return [log for log in logs if "exec_" in log]


def _kept_on_host(world: World) -> int:
    """Return the bytes that the server keeps in the logs of its instances, and in its own log."""
    folder = Path(world.lxd.endpoint).parent
    return sum(one.stat().st_size for one in (*folder.glob("logs/**/*"), folder.with_suffix(".log")) if one.is_file())


@pytest.mark.long
def test_a_tenant_harms_only_itself_whatever_it_answers(hostile: World, capsys: pytest.CaptureFixture[str]) -> None:
    figures: dict[str, float] = {}
    kept, began = _kept_on_host(hostile), time.monotonic()
    hostile.run_job("health")
    figures["sweep_s"] = time.monotonic() - began
    assert _found(hostile) == {tenant: {"inside"} for tenant in SAYS} | {tenant: {"page"} for tenant in PAGES}
    (good,) = hostile.bot.rows(
        "SELECT up, memory FROM tenant_samples WHERE tenant = 'good' AND span = 0 ORDER BY at DESC LIMIT 1"
    )
    assert (good["up"], good["memory"]) == (1, 1_000_000)
    assert _status(hostile)["VmHWM"] < MOST
    threads = _status(hostile)["Threads"]

    # People can still ask, and decide.
    for tenant in ("drip", "silent", "page-drips", "page-heads"):
        hostile.workspace.command("account-manager", CHANNEL, f"/mautic status {tenant}")
    began = time.monotonic()
    hostile.workspace.command("ops-lead", CHANNEL, "/mautic help")
    hostile.whisper("ops-lead", r"suspend")
    figures["help_s"] = time.monotonic() - began
    for what in ("logs flood", "status page-huge"):
        hostile.workspace.command("operator", CHANNEL, f"/mautic {what}")
    hostile.whisper("operator", r"`flood` answers more than")
    hostile.done("suspend good", r"is suspended")
    hostile.done("resume good", r"is online again")

    # A snapshot of a tenant that answers nonsense still works.
    for tenant in ("flood", "nonsense", "lies"):
        hostile.done(f"snapshot {tenant}", r"taken: ", approve="")

    assert _status(hostile)["VmHWM"] < MOST
    # Workers of each kind are started as needed, and stay; threads that look at a tenant end.
    eventually(lambda: _status(hostile)["Threads"] <= threads + sum(WORKERS.values()), 90)
    assert _left_on_host(hostile) == []
    assert _kept_on_host(hostile) - kept < 1 << 20
    database = Path(hostile.bot.state / "bot.db").stat().st_size
    assert database < 8 << 20
    figures |= {"peak_mb": _status(hostile)["VmHWM"] / 1024, "kept_on_host_kb": (_kept_on_host(hostile) - kept) / 1024}
    with capsys.disabled():
        print("\n" + json.dumps({name: round(figure, 2) for name, figure in figures.items()}))
