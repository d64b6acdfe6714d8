"""Copies instances from one LXD server to another; the bytes go from host to host, never through the bot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bot.lxd.connection import SHORT, LxdConnection, path_of
from bot.lxd.protocol import LxdError, LxdUnavailable, NotFound, PoolFull

STILL = 60
"""Seconds within which a transfer has to make progress. LXD itself gives up a dead connection after 30."""
_GRACE = 3
"""Seconds that the sender has to say why the receiver failed."""
_WHOLE = {"live": False, "instance_only": False, "container_only": False}
"""Options of a copy with the snapshots, but without the state of processes, which LXD cannot move."""


@dataclass(frozen=True)
class End:
    """One end of a transfer: its connection, its certificate, and its address for other servers ("": none)."""

    lxd: LxdConnection
    certificate: str
    address: str


def transfer(
    source: End, target: End, instance: str, body: Mapping[str, Any], doing: str, *, member: str, refresh: bool
) -> None:
    """Copy an instance with its snapshots, and wait for the end of the copy.

    `body`: the new instance; `member`: its place in the target's cluster. Raises LxdError where neither server listens
    on the network.
    """
    if source.certificate == target.certificate:
        within = {**_WHOLE, "type": "copy", "source": instance, "refresh": refresh}
        started = _ask(target, body, within, member, doing)

        def sent() -> object:
            # The operation that was started reports no progress; the one that LXD itself creates for the sender does.
            under_way = source.lxd.under_way("Migrating instance", instance, doing)
            return [operation["metadata"] for operation in under_way]

        target.lxd.finish(started, doing, STILL, moving=_last_answer_of(sent))
    elif source.address:
        # A target that fetches needs no open port in its firewall.
        sending = source.lxd.json("post", path_of(instance), doing, json={**_WHOLE, "migration": True})
        origin = {
            **_WHOLE,
            "type": "migration",
            "mode": "pull",
            "refresh": refresh,
            "operation": _operation(source, sending),
            "certificate": source.certificate,
            "secrets": sending["metadata"]["metadata"],
        }
        try:
            receiving = _ask(target, body, origin, member, doing)
        except LxdError:
            _give_up(source, sending)
            raise
        _finish(source, sending, target, receiving, doing)
    elif target.address:
        origin = {**_WHOLE, "type": "migration", "mode": "push", "refresh": refresh}
        receiving = _ask(target, body, origin, member, doing)
        goal = {
            "operation": _operation(target, receiving),
            "certificate": target.certificate,
            "secrets": receiving["metadata"]["metadata"],
        }
        asked = {**_WHOLE, "migration": True, "target": goal}
        # If this fails, the target waits in vain, for 10 seconds.
        sending = source.lxd.json("post", path_of(instance), doing, json=asked)
        _finish(source, sending, target, receiving, doing)
    else:
        raise LxdError(
            f"{source.lxd.product} could not {doing}: no server listens to the other; set `core.https_address` on one."
        )


def _ask(target: End, body: Mapping[str, Any], source: Mapping[str, Any], member: str, doing: str) -> Any:
    params = {"target": member} if member else {}
    return target.lxd.json("post", "instances", doing, json={**body, "source": source}, params=params, timeout=SHORT)


def _operation(end: End, started: Any) -> str:
    return f"{end.address}/1.0/operations/{started['metadata']['id']}"


def _finish(source: End, sending: Any, target: End, receiving: Any, doing: str) -> None:
    """Wait for both ends. The sender knows the progress, the receiver the result, and either may know the reason."""
    sent = _last_answer_of(lambda: source.lxd.look(sending, doing)["metadata"])
    try:
        target.lxd.finish(receiving, doing, STILL, moving=sent)
    except LxdError as error:
        why = [error]
        try:
            source.lxd.finish(sending, doing, _GRACE)
        except LxdError as other:
            why.append(other)
        _give_up(source, sending)
        for kind in (PoolFull, LxdUnavailable):
            for reason in why:
                if isinstance(reason, kind):
                    raise reason from error
        raise
    with suppress(NotFound):
        # A server forgets an operation seconds after its end; the receiver knows how it ended.
        source.lxd.finish(sending, doing, SHORT)


def _last_answer_of(look: Callable[[], object]) -> Callable[[], object]:
    """Return a `look` that repeats its last answer where it fails: a silent server has made no progress."""
    last: object = None

    def again() -> object:
        nonlocal last
        with suppress(LxdError):
            last = look()
        return last

    return again


def _give_up(end: End, started: Any) -> None:
    """Cancel an operation where LXD allows it; otherwise the operation ends with its connection."""
    with suppress(LxdError):
        end.lxd.request("delete", f"operations/{started['metadata']['id']}", "cancel a copy", project=False)
