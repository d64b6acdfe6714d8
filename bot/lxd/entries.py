"""Converts an LXD server's answers about instances into the records of `bot.lxd.protocol`; pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bot.lxd.last_known import OnlyName
from bot.lxd.protocol import FullInstance, Instance, InstanceState, Snapshot


def instance(entry: Mapping[str, Any]) -> Instance:
    """Return an instance from an entry of the list, or from a request for it alone."""
    return Instance(
        name=entry["name"],
        status=status_of(entry),
        config=entry["config"],
        devices=entry["devices"],
        profiles=tuple(entry["profiles"] or ()),
        location=location(entry),
        created=_epoch(entry["created_at"]),
        started=_epoch(entry.get("last_used_at")),
    )


def status_of(entry: Mapping[str, Any]) -> str:
    """Return the status of an instance, with LXD's `Ready` as `Running`.

    An instance is `Ready` when something inside has told the server so, as anybody who is root there can
    (`instance_ready_state`); that must not keep the bot from stopping the instance.
    """
    status = str(entry["status"])
    return "Running" if status == "Ready" else status


def location(entry: Mapping[str, Any]) -> str:
    """Return the member of the cluster that an instance is on, or "" where there is no cluster."""
    return "" if entry.get("location") in (None, "none") else str(entry["location"])


def listed(entry: Mapping[str, Any]) -> Instance | OnlyName:
    """Return an instance from an entry of the list; of a dead member's instances a cluster reports only the names."""
    if entry["config"] is None:
        return OnlyName(entry["name"], status_of(entry), location(entry))
    return instance(entry)


def full_instance(found: Instance, entry: Mapping[str, Any]) -> FullInstance:
    """Return an instance with its state and snapshots, from an entry of the list with `recursion=2`."""
    snapshots = sorted(map(snapshot, entry["snapshots"] or ()), key=lambda snapshot: snapshot.created)
    return FullInstance(found, state(entry["state"] or {"status": entry["status"]}), tuple(snapshots))


def state(entry: Mapping[str, Any]) -> InstanceState:
    """Return the state of an instance; LXD leaves out most of it for one that does not run."""
    eth0 = (entry.get("network") or {}).get("eth0") or {}
    addresses = [
        found["address"]
        for found in eth0.get("addresses") or ()
        if found["family"] == "inet" and found["scope"] == "global"
    ]
    return InstanceState(
        status=status_of(entry),
        address=addresses[0] if addresses else "",
        addresses=tuple(addresses),
        disk=((entry.get("disk") or {}).get("root") or {}).get("usage", 0),
        cpu=(entry.get("cpu") or {}).get("usage", 0),
        processes=max(0, entry.get("processes", 0)),
        memory=max(0, (entry.get("memory") or {}).get("usage", 0)),
        memory_peak=max(0, (entry.get("memory") or {}).get("usage_peak", 0)),
    )


def snapshot(entry: Mapping[str, Any]) -> Snapshot:
    """Return a snapshot; LXD reports its size only in the list of snapshots, or when asked for it alone."""
    return Snapshot(
        name=entry["name"].rsplit("/", 1)[-1],
        created=_epoch(entry["created_at"]),
        expires=_epoch(entry.get("expires_at")),
        config=entry["config"],
        size=max(0, entry.get("size", 0)),
    )


def _epoch(text: str | None) -> int:
    """Return LXD's time as epoch seconds; 0 for its zero time (year 1) or none."""
    return max(0, int(datetime.fromisoformat(text).timestamp())) if text else 0
