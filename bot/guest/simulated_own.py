"""Simulates the transfer of a tenant's own data into another container, as the real tool's `own` and `adopt` do it."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any

import msgspec

from bot.guest.blueprint.mautic_ctl.system import CtlError
from bot.guest.simulated_state import RELEASE, State, change
from bot.guest.simulated_upgrade import Tenant, cache_of, must_not_break, versions
from bot.lxd.protocol import NotFound

TAKEN = "/run/mautic-ops-simulated-own.json"
"""The data that was taken; a file in memory."""
WORD = "/var/lib/mautic-ops/own-taken.json"
OF_SYSTEM = ("stopped", "furnished", "staged", "before", "cache")
"""The fields of a tenant's state that belong to its container, and are not transferred."""
MUTE, OUTBOUND_OFF = "/etc/nginx/muted", "/var/lib/mautic-ops/outbound-off"


def send_own(tenant: Tenant, _request: Mapping[str, Any]) -> Generator[bytes, bytes, dict[str, Any]]:
    """Yield the lines that are sent, and return the answer."""
    must_not_break(tenant, "send_own")
    own = {name: value for name, value in msgspec.to_builtins(tenant.state).items() if name not in OF_SYSTEM}
    line = b"+" + json.dumps({**own, "version": tenant.serving()}).encode()
    yield line
    yield b"."
    return {"files": 1, "bytes": len(line), "seconds": 0.5}


def take_own(tenant: Tenant, _request: Mapping[str, Any]) -> Generator[bytes, bytes, dict[str, Any]]:
    """Take the lines that are sent, and return the answer."""
    if not tenant.closed_as():
        raise CtlError("it is open, and its code and database are not changed under its visitors")
    sent = yield b'{"ok": true, "known": ""}'
    must_not_break(tenant, "take_own")
    line, end, _ = sent.partition(b"\n.\n")
    if not end:
        raise CtlError("what is the client's own did not come to its end")
    tenant.lxd.push(tenant.name, TAKEN, line[1:])
    return {"files": 1, "bytes": len(line)}


def adopt(tenant: Tenant, request: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the container into the tenant whose data was taken, with the release of its blueprint staged."""
    if not tenant.closed_as():
        raise CtlError("it is open, and its code and database are not changed under its visitors")
    try:
        own = msgspec.json.decode(tenant.lxd.pull(tenant.name, TAKEN), type=State)
    except NotFound:
        raise CtlError("what is the client's own is not here") from None
    release = tenant.lxd.pull(tenant.name, RELEASE).decode()
    kept = {name: getattr(own, name) for name in State.__struct_fields__ if name not in OF_SYSTEM}
    kept |= {"staged": release, "schema": own.schema or own.version}
    tenant.state = change(tenant.lxd, tenant.name, **kept)
    must_not_break(tenant, "adopt")
    cached = not own.plugins
    if cached:
        tenant.state = change(tenant.lxd, tenant.name, cache=cache_of(tenant, release))
    # Cron and workers stay off until the MUTE marker below is removed.
    tenant.stop("php8.2-fpm")
    tenant.lxd.push(tenant.name, MUTE, b"", mode=0o644)
    if request["off"]:
        tenant.lxd.push(tenant.name, OUTBOUND_OFF, b"", mode=0o644)
    tenant.lxd.remove(tenant.name, TAKEN)
    return {"version": own.version, "mariadb": versions(tenant)[1], "cached": cached, "seconds": 0.8}


SPEAKS = {"send_own": send_own, "take_own": take_own}
